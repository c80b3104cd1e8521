"""One run against one server: who does which share, on which core, and what their books come to.

Lives here: processes of clients, the sum of their books, the checks over all of them. Must not: print.
"""

import os
import secrets
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import get_context
from typing import Final

import msgspec

from moxy.bench.client import KINDS, Books, Failed, Share, converse, dial, work
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
    is None when the server is somebody else's.
    """

    target: str
    tasks: int
    seconds: float
    tasks_per_s: float
    latency: dict[str, Latency]
    client_cpu: float
    server_cpu: float | None
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
        cpu_s, books = _load(target, shares)
        result = _sum(target, plan, shares, cpu_s, books)
        _aside(target, plan, nonce, queues, "clean_up")
    except (Failed, OSError, EOFError) as error:
        return Result(target.name, 0, 0.0, 0.0, {}, 0.0, None, False, (str(error) or type(error).__name__,))
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


def _load(target: Target, shares: Sequence[Share]) -> tuple[float, list[Books]]:
    """Let all processes do their shares at the same time; the server's processor time meanwhile. Raises EOFError."""
    context = get_context("spawn")
    pairs = [context.Pipe() for _ in shares]
    children = [
        context.Process(target=work, args=(share, theirs), daemon=True)
        for share, (_, theirs) in zip(shares, pairs, strict=True)
    ]
    try:
        for child, (_, theirs) in zip(children, pairs, strict=True):
            child.start()
            theirs.close()
        early = [ours.recv() for ours, _ in pairs]
        failed = [msgspec.msgpack.decode(data, type=Books) for data in early if data]
        if failed:
            raise Failed(failed[0].failure)
        before_s = target.cpu_s()
        for ours, _ in pairs:
            ours.send(b"")
        books = [msgspec.msgpack.decode(ours.recv(), type=Books) for ours, _ in pairs]
        return target.cpu_s() - before_s, books
    finally:
        for child, (ours, _) in zip(children, pairs, strict=True):
            ours.close()
            if child.pid is not None:
                child.terminate()
                child.join()


def _sum(target: Target, plan: Plan, shares: Sequence[Share], cpu_s: float, books: Sequence[Books]) -> Result:
    findings = [book.failure for book in books if book.failure]
    if not findings:
        findings = check(plan, shares, books)
    seconds = (max(book.ended_ns for book in books) - min(book.began_ns for book in books)) / 1e9
    if seconds <= 0:
        return Result(target.name, 0, 0.0, 0.0, {}, 0.0, None, False, tuple(findings))
    tasks = sum(book.tasks for book in books)
    client_cpu = max(book.cpu_ns / (book.ended_ns - book.began_ns) for book in books if book.ended_ns > book.began_ns)
    server_cpu = cpu_s / seconds if target.pid else None
    counters = [_merged(book.latencies_us[kind] for book in books) for kind in range(len(KINDS))]
    latency = {kind: percentiles(counter) for kind, counter in zip(KINDS, counters, strict=True)}
    latency["all"] = percentiles(_merged(counters))
    limit = client_cpu >= BUSY and (server_cpu is None or server_cpu < BUSY)
    return Result(
        target.name,
        tasks,
        seconds,
        tasks / seconds,
        latency,
        client_cpu,
        server_cpu,
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
