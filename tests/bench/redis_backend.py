"""A task's whole life in Redis: through a Moxy server, by the same scripts without one, and by two bare scripts.

The scripts are driven as a client without Moxy would have to: one verb a run, arguments and replies by hand. The two
bare scripts are those of `moxy bench --against redis-lua`: no deadline, no events, no attempts. Redis and Moxy share
one core, the client has another; everywhere each connection sends a batch, waits for all its replies, and so on.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

import hiredis

from moxy.backends.redis import RETAIN_EVENTS
from moxy.backends.redis.calls import VERBS, Asker
from moxy.backends.redis.node import pack
from moxy.backends.redis.records import events_of
from moxy.backends.redis.scripts import SCRIPT, keys_of
from moxy.bench.drivers import Driver, Moxy, RedisLua
from moxy.core.commands import Ack, AnyCommand, Enqueue, Fetch
from moxy.core.events import Leased
from moxy.core.ids import split_lease_id
from moxy.core.policy import Policy
from tests.bench.harness import Row, Size, main
from tests.redis.support import REDIS, VALKEY, binaries, serving
from tests.server.support import Process

CONNECTIONS: Final = 50
LEASE_MS: Final = 30_000
QUEUE: Final = "jobs"
Batch = Callable[[list[Any]], bytes]
"""The next batch of a connection, after the replies to its last one."""


class Connection:
    """A socket, what it says, and the replies that it has so far."""

    def __init__(self, port: int, *batches: Batch) -> None:
        self._socket: Final = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader: Final = hiredis.Reader()
        self._batches: Final = batches
        self._replies: list[Any] = []

    def say(self, packed: bytes) -> None:
        """One command aside, and its reply."""
        self._socket.sendall(packed)
        self.receive(1)

    def send(self, which: int) -> None:
        self._socket.sendall(self._batches[which](self._replies))

    def receive(self, count: int) -> None:
        self._replies = []
        while len(self._replies) < count:
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 16))
            else:
                assert not isinstance(reply, Exception), reply
                self._replies.append(reply)

    def close(self) -> None:
        self._socket.close()


def drive(connections: Sequence[Connection], pipeline: int, tasks: int) -> float:
    """Tasks a second: rounds of enqueues, fetches and acks on all connections at a time."""
    rounds = -(-tasks // (len(connections) * pipeline))
    began_s = time.perf_counter()
    for _ in range(rounds):
        for which in range(3):
            for connection in connections:
                connection.send(which)
            for connection in connections:
                connection.receive(pipeline)
    return rounds * pipeline * len(connections) / (time.perf_counter() - began_s)


def directly(port: int, pipeline: int) -> Connection:
    """The scripts without a server."""
    head = ("EVALSHA", SCRIPT.sha1, str(len(keys_of("moxy", QUEUE))), *keys_of("moxy", QUEUE))
    asked = (QUEUE, "moxy", "", RETAIN_EVENTS, "", 0, 0, 0, 0)
    asker = Asker("bench", Policy())

    def run(command: AnyCommand) -> tuple[str | bytes | int, ...]:
        verb = VERBS[type(command)]
        words = verb.arguments(command, secrets.randbits(64), asker)
        return (*head, *asked, verb.script, len(words), *words)

    def lease_of(reply: Any) -> str:
        (leased,) = events_of(reply[7][0][2], ())
        assert isinstance(leased, Leased), leased
        return leased.lease_id

    def ack(lease_id: str) -> Ack:
        queue, number, token = split_lease_id(lease_id)
        return Ack(queue, lease_id, number, token)

    return Connection(
        port,
        lambda _: pack([run(Enqueue(QUEUE, b"x" * 100))] * pipeline),
        lambda _: pack([run(Fetch(QUEUE, LEASE_MS))] * pipeline),
        lambda replies: pack([run(ack(lease_of(reply))) for reply in replies]),
    )


def by_driver(port: int, driver: Driver, acks: Callable[[list[Any]], bytes]) -> Connection:
    """What a driver of `moxy bench` says."""
    return Connection(port, lambda _: driver.enqueues(0), lambda _: driver.leases, acks)


def through_moxy(port: int, pipeline: int) -> Connection:
    """MOXY.ENQUEUE, MOXY.FETCH, MOXY.ACK."""
    driver = Moxy(QUEUE.encode(), b"00000000", pipeline, 100)
    return by_driver(port, driver, lambda tasks: pack([("MOXY.ACK", task[1]) for task in tasks]))


def two_scripts(port: int, pipeline: int) -> Connection:
    """A reliable queue as many have it."""
    driver = RedisLua(b"bare", b"00000000", pipeline, 100)

    def acks(jobs: list[Any]) -> bytes:
        made = driver.acks(b"".join(b"$%d\r\n%b\r\n" % (len(job), job) for job in jobs))
        assert made is not None
        return made

    connection = by_driver(port, driver, acks)
    for words, _ in driver.prepare():
        connection.say(words)
    return connection


def split_cores(*servers: int) -> None:
    """These processes on the first core, this one on the others, if there are any."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for pid in servers:
            os.sched_setaffinity(pid, cores[:1])
        os.sched_setaffinity(0, cores[1:])


def rows(size: Size) -> Iterator[Row]:
    tasks = size.of(20_000)
    with serving(REDIS if REDIS in binaries() else VALKEY) as redis:
        redis.ask("SCRIPT", "LOAD", SCRIPT.text)
        with Process("--backend", "redis", "--redis-addr", redis.address, "--log-level", "info") as moxy:
            split_cores(redis.ask("INFO", "server")["process_id"], moxy.child.pid)
            ways: dict[str, Callable[[int], Connection]] = {
                "through Moxy": lambda pipeline: through_moxy(moxy.address[1], pipeline),
                "the same scripts, driven directly": lambda pipeline: directly(redis.port, pipeline),
                "two bare scripts": lambda pipeline: two_scripts(redis.port, pipeline),
            }
            for pipeline in (1, 16):
                rates: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(size.repeat):
                    for way, connect in ways.items():
                        rates[way].append(run(connect, pipeline, tasks))
                for way, seen in rates.items():
                    label = f"{way}, {CONNECTIONS} x {pipeline}"
                    yield Row(label, median(seen), min(seen), max(seen), "tasks/s")


def run(connect: Callable[[int], Connection], pipeline: int, tasks: int) -> float:
    """One run, on connections of its own: tasks a second."""
    with ExitStack() as opened:
        connections = []
        for _ in range(CONNECTIONS):
            connections.append(connect(pipeline))
            opened.callback(connections[-1].close)
        return drive(connections, pipeline, tasks)


if __name__ == "__main__":
    main(rows)
