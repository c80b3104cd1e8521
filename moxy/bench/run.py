"""One run against one server: who does which share, on which core, and what their books come to.

Lives here: processes of clients, the sum of their books, the checks over all of them. Must not: print.
"""

import os
import secrets
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from moxy.bench import client
from moxy.bench.client import KINDS, READY, Books, Failed, Share, converse, dial, waited_for_cpu_ns
from moxy.bench.drivers import DRIVERS
from moxy.bench.servers import Target

CLIENTS_MAX: Final = 8
BUSY: Final = 0.9
"""The share of a core from which on a process is taken to be saturated."""

PERCENTILES: Final = (50.0, 99.0, 99.9)


class Plan(msgspec.Struct, frozen=True):
    """What every run does."""

    connections: int
    pipeline: int
    payload_bytes: int
    tasks: int
    queues: int


class Latency(msgspec.Struct, frozen=True):
    """Microseconds from the write of a batch to the reading of a reply."""

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


class Result(msgspec.Struct, frozen=True):
    """What one run came to. `findings` are checks that failed: sentences; the figures mean nothing then.

    `client_cpu` is that of the busiest client process, `server_cpu` that of the server, 1.0 being one core; the latter
    is None when the server is somebody else's. `stolen` is the share of the time in which the client or the server,
    whichever had it worse, could have run but other processes had its core: on a quiet machine next to nothing.
    """

    target: str
    tasks: int
    seconds: float
    tasks_per_s: float
    latency: dict[str, Latency]
    client_cpu: float
    server_cpu: float | None
    stolen: float
    client_is_the_limit: bool
    findings: tuple[str, ...]


def cores() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0))


def server_core() -> int:
    """Where a server that we start is kept: the first core, if there is another for the clients; else -1."""
    return cores()[0] if len(cores()) > 1 else -1


def client_cores(connections: int) -> list[int]:
    """Where each client process is kept: all cores but the first, one process each; [-1] when there is one core."""
    rest = cores()[1:]
    return rest[: min(CLIENTS_MAX, connections)] or [-1]


def run(target: Target, plan: Plan) -> Result:
    """Load the server once. Never raises for what the server does: that is a finding."""
    nonce = secrets.token_hex(4).encode()
    queues = [b"bench:%b:%d" % (nonce, number) for number in range(plan.queues)]
    try:
        _aside(target, plan, nonce, queues, "prepare")
        shares = _shares(target, plan, nonce, queues)
        spent, books = _load(target, shares)
        result = _sum(target, plan, shares, spent, books)
        _aside(target, plan, nonce, queues, "clean_up")
    except (Failed, OSError) as error:
        return Result(target.name, 0, 0.0, 0.0, {}, 0.0, None, 0.0, False, (str(error) or type(error).__name__,))
    return result


def _aside(target: Target, plan: Plan, nonce: bytes, queues: Sequence[bytes], what: str) -> None:
    """What is said on a connection of its own, before and after. Raises Failed, OSError."""
    with dial(target.host, target.port) as connection:
        for queue in queues:
            driver = DRIVERS[target.driver](queue, nonce, 1, plan.payload_bytes)
            converse(connection, driver.prepare() if what == "prepare" else driver.clean_up())


def _shares(target: Target, plan: Plan, nonce: bytes, queues: Sequence[bytes]) -> list[Share]:
    """The work split evenly: whole batches, at least one for each connection."""
    places = client_cores(plan.connections)
    shares: list[Share] = []
    first = 0
    for index, core in enumerate(places):
        own = range(index, plan.connections, len(places))
        batches = max(-(-plan.tasks // (plan.pipeline * len(places))), len(own))
        warm_up = max(batches // 20, len(own))
        connections = tuple(queues[number % len(queues)] for number in own)
        shares.append(
            Share(
                target.driver,
                target.host,
                target.port,
                connections,
                nonce,
                plan.pipeline,
                plan.payload_bytes,
                first,
                warm_up,
                batches,
                core,
            )
        )
        first += warm_up + batches
    return shares


class _Spent(msgspec.Struct, frozen=True):
    """Seconds that the server ran, and that it waited for its core."""

    cpu_s: float
    waited_s: float


def _spent(target: Target) -> _Spent:
    return _Spent(target.cpu_s(), waited_for_cpu_ns(target.pid) / 1e9 if target.pid else 0.0)


def _load(target: Target, shares: Sequence[Share]) -> tuple[_Spent, list[Books]]:
    """Let all processes do their shares at the same time; what the server spent meanwhile. Raises Failed."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for share in shares:
            # In a session of its own: Ctrl-C is for this process, which ends the others.
            child = subprocess.Popen(
                [sys.executable, "-m", client.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            children.append(child)
            _write(child, msgspec.json.encode(share) + b"\n")
        for child in children:
            assert child.stdout is not None
            line = child.stdout.readline()
            if line != READY:
                raise Failed(_books(line + child.stdout.read()).failure)
        before = _spent(target)
        for child in children:
            _write(child, b"go\n")
        books = [_books(child.stdout.read()) for child in children if child.stdout is not None]
        after = _spent(target)
        return _Spent(after.cpu_s - before.cpu_s, after.waited_s - before.waited_s), books
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _write(child: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # what it died of is in its books, or in that there are none
        child.stdin.write(data)
        child.stdin.flush()


def _books(data: bytes) -> Books:
    """Raises Failed when the process ended without any."""
    if not data:
        raise Failed("a client process ended early")
    return msgspec.msgpack.decode(data, type=Books)


def _sum(target: Target, plan: Plan, shares: Sequence[Share], spent: _Spent, books: Sequence[Books]) -> Result:
    findings = [book.failure for book in books if book.failure]
    if not findings:
        findings = check(plan, shares, books)
    seconds = (max(book.ended_ns for book in books) - min(book.began_ns for book in books)) / 1e9
    if seconds <= 0:
        return Result(target.name, 0, 0.0, 0.0, {}, 0.0, None, 0.0, False, tuple(findings))
    tasks = sum(book.tasks for book in books)
    client_cpu = max(book.cpu_ns for book in books) / 1e9 / seconds
    waited = max(book.waited_ns for book in books) / 1e9 / seconds
    server_cpu = spent.cpu_s / seconds if target.pid else None
    counters = [_merged(book.latencies_us[kind] for book in books) for kind in range(len(KINDS))]
    latency = {kind: percentiles(counter) for kind, counter in zip(KINDS, counters, strict=True)}
    latency["all"] = percentiles(_merged(counters))
    server_busy = spent.cpu_s / seconds + spent.waited_s / seconds >= BUSY
    limit = client_cpu + waited >= BUSY and not server_busy
    return Result(
        target.name,
        tasks,
        seconds,
        tasks / seconds,
        latency,
        client_cpu,
        server_cpu,
        max(waited, spent.waited_s / seconds),
        limit,
        tuple(findings),
    )


def check(plan: Plan, shares: Sequence[Share], books: Sequence[Books]) -> list[str]:
    """Every task that was enqueued came exactly once, none that was not, and to one connection in order."""
    findings: list[str] = []
    wanted = sum(share.warm_up + share.batches for share in shares) * plan.pipeline
    seen = array("Q")
    for book in books:
        seen.frombytes(book.numbers)
    foreign = sum(book.foreign for book in books) + sum(number >= wanted for number in seen)
    different = set(seen)
    if foreign:
        findings.append(f"{foreign} payloads came that were never enqueued")
    if len(seen) > len(different):
        findings.append(f"{len(seen) - len(different)} tasks came twice")
    if not foreign and len(different) < wanted:
        findings.append(f"{wanted - len(different)} tasks never came")
    if plan.connections == 1 and not findings and list(seen) != sorted(seen):
        findings.append("one connection did not get its tasks in the order in which it gave them")
    return findings


def _merged(counters: Iterable[Mapping[int, int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def percentiles(counter: Counter[int]) -> Latency:
    """Of how many replies took so many microseconds."""
    count = counter.total()
    if not count:
        return Latency(0.0, 0.0, 0.0, 0.0)
    ordered = sorted(counter)
    wanted = [(count - 1) * share / 100 for share in PERCENTILES]
    found: list[float] = []
    below = 0
    for us in ordered:
        below += counter[us]
        while len(found) < len(wanted) and below > wanted[len(found)]:
            found.append(float(us))
    return Latency(found[0], found[1], found[2], float(ordered[-1]))
