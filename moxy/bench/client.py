"""One process that loads a server: connections in a closed loop, one epoll, as few steps per batch as Python allows.

Lives here: the loop and its books. Must not: know one kind of server from another (drivers), or other processes (run).

Each connection writes a batch of enqueues, waits for all their replies, then as many leases, then the acks of what it
got, and so on until the process has done its share. Latency is from the write of a batch to the moment when each of
its replies was read. The garbage collector is off: nothing here forms a cycle.
"""

import gc
import os
import select
import socket
import sys
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Final, final

import msgspec

from moxy.bench.drivers import DRIVERS, KEY_BYTES, Driver

_SILENCE_S: Final = 20.0
_RAW_BYTES_MAX: Final = 1 << 26
_RECEIVE_BYTES: Final = 1 << 15
ENQUEUE, LEASE, ACK = range(3)
READY: Final = b"ready\n"
_LINE_FEED: Final = ord("\n")
KINDS: Final = ("enqueue", "lease", "ack")


class Failed(Exception):
    """The server did not do what it should: one sentence."""


class Share(msgspec.Struct, frozen=True):
    """What one process has to do. Batches `first` to `first + warm_up + batches - 1` are its own.

    `connections` are the queues of its connections, one each. `core`: where to run, -1 for anywhere.
    """

    driver: str
    host: str
    port: int
    connections: tuple[bytes, ...]
    nonce: bytes
    pipeline: int
    payload_bytes: int
    first: int
    warm_up: int
    batches: int
    core: int


class Books(msgspec.Struct, frozen=True):
    """What one process saw. Times in nanoseconds of the monotonic clock, which all processes share.

    `cpu_ns` it ran; `waited_ns` it could have run, but another process had its core.
    `latencies_us`: for enqueue, lease and ack, how many replies took so many microseconds. `numbers`: the tasks that
    it got, warm-up included, as 64-bit integers in the order in which they came.
    """

    began_ns: int
    ended_ns: int
    cpu_ns: int
    waited_ns: int
    tasks: int
    latencies_us: tuple[dict[int, int], dict[int, int], dict[int, int]]
    numbers: bytes
    foreign: int
    failure: str


@final
class _Link:
    """One connection and where it stands."""

    __slots__ = (
        "chunks",
        "done",
        "driver",
        "latencies_us",
        "lines",
        "phase",
        "receive",
        "rest",
        "send",
        "sent_ns",
        "socket",
        "want",
    )

    def __init__(self, driver: Driver, connection: socket.socket) -> None:
        self.driver: Final = driver
        self.socket: Final = connection
        self.send: Final = connection.send
        self.receive: Final = connection.recv
        self.phase = ACK
        self.latencies_us: Counter[int] = Counter()
        self.chunks: list[bytes] = []
        self.lines = self.want = self.done = 0
        self.sent_ns = 0
        self.rest = b""


def converse(connection: socket.socket, talk: list[tuple[bytes, bytes]]) -> None:
    """Say each thing and check how its one-line (or short) answer begins. Raises Failed, OSError."""
    for said, expected in talk:
        connection.sendall(said)
        answer = connection.recv(1 << 16)
        if not answer.startswith(expected):
            raise Failed(f"{said[:60]!r} was answered {answer[:120]!r}")


def dial(host: str, port: int) -> socket.socket:
    """A connection that sends at once. Raises OSError."""
    connection = socket.create_connection((host, port), timeout=_SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@final
class Client:
    """The connections of one process."""

    def __init__(self, share: Share) -> None:
        """Connects. Raises Failed, OSError."""
        kind = DRIVERS[share.driver]
        drivers = {
            queue: kind(queue, share.nonce, share.pipeline, share.payload_bytes) for queue in set(share.connections)
        }
        self._share: Final = share
        self._epoll: Final = select.epoll()
        self._links: Final[dict[int, _Link]] = {}
        for queue in share.connections:
            link = _Link(drivers[queue], dial(share.host, share.port))
            converse(link.socket, link.driver.greet())
            link.socket.setblocking(False)
            self._links[link.socket.fileno()] = link
            self._epoll.register(link.socket, select.EPOLLIN)
        self._next = share.first
        self._raw: list[tuple[Driver, bytes]] = []
        self._raw_bytes = 0
        self.numbers: Final = array("Q")
        self.foreign = 0
        self.latencies_us: tuple[Counter[int], Counter[int], Counter[int]] = (Counter(), Counter(), Counter())

    def close(self) -> None:
        self._epoll.close()
        for link in self._links.values():
            link.socket.close()

    def drive(self, batches: int) -> None:
        """Take so many batches through enqueue, lease and ack. Raises Failed, OSError."""
        self.latencies_us = (Counter(), Counter(), Counter())
        end = self._next + batches
        live = 0
        for link in self._links.values():
            live += self._begin(link, end)
        links, poll, clock = self._links, self._epoll.poll, time.perf_counter_ns
        while live:
            ready = poll(_SILENCE_S)
            if not ready:
                raise Failed(f"no reply for {_SILENCE_S:.0f} s")
            for fd, mask in ready:
                link = links[fd]
                if mask & select.EPOLLOUT:
                    self._send(link, link.rest)
                    if mask == select.EPOLLOUT:
                        continue
                replies = link.receive(_RECEIVE_BYTES)
                now_ns = clock()
                # Nearly always all replies of a batch come at once.
                if link.chunks or replies.count(b"\n") != link.want:
                    whole = self._gather(link, replies, now_ns)
                    if whole is None:
                        continue
                    replies = whole
                else:
                    link.latencies_us[(now_ns - link.sent_ns) // 1000] += link.driver.pipeline
                if not self._go_on(link, replies, end):
                    live -= 1

    def _gather(self, link: _Link, data: bytes, now_ns: int) -> bytes | None:
        """Note a part of a batch of replies, and return the batch when that was the last of it."""
        if not data:
            raise Failed("the server closed a connection")
        driver, phase = link.driver, link.phase
        link.chunks.append(data)
        link.lines += data.count(b"\n")
        done = link.lines // driver.lines[phase]
        if done > link.done:
            link.latencies_us[(now_ns - link.sent_ns) // 1000] += done - link.done
            link.done = done
        if link.lines == link.want:
            whole = b"".join(link.chunks)
            link.chunks.clear()
            return whole
        if link.lines > link.want or driver.refused(b"".join(link.chunks[-2:])):
            raise Failed(f"a reply to {KINDS[phase]} is wrong: {_told(link.chunks)}")
        return None

    def _go_on(self, link: _Link, replies: bytes, end: int) -> bool:
        """Check a whole batch of replies and send what comes next; False when there is nothing left to do."""
        driver, phase = link.driver, link.phase
        if replies[-1] != _LINE_FEED:
            raise Failed(f"something follows the last {KINDS[phase]} reply: {replies[-80:]!r}")
        out: bytes | None = None
        if phase == ENQUEUE:
            if driver.enqueued(replies):
                out = driver.leases
        elif phase == LEASE:
            out = driver.acks(replies)
            self._raw.append((driver, replies))
            self._raw_bytes += len(replies)
            if self._raw_bytes > _RAW_BYTES_MAX:
                self.read_keys()
        elif driver.acked(replies):
            return self._begin(link, end)
        if out is None:
            raise Failed(f"a reply to {KINDS[phase]} is wrong: {_told([replies])}")
        self._say(link, phase + 1, out)
        return True

    def _begin(self, link: _Link, end: int) -> bool:
        if self._next >= end:
            return False
        batch = self._next
        self._next = batch + 1
        self._say(link, ENQUEUE, link.driver.enqueues(batch))
        return True

    def _say(self, link: _Link, phase: int, out: bytes) -> None:
        link.phase = phase
        link.latencies_us = self.latencies_us[phase]
        link.want = link.driver.lines[phase] * link.driver.pipeline
        link.lines = link.done = 0
        link.sent_ns = time.perf_counter_ns()
        self._send(link, out)

    def _send(self, link: _Link, out: bytes) -> None:
        try:
            sent = link.send(out)
        except BlockingIOError:
            sent = 0
        if sent == len(out) and not link.rest:
            return
        waited = bool(link.rest)
        link.rest = out[sent:]
        if bool(link.rest) != waited:
            self._epoll.modify(link.socket, select.EPOLLIN | (select.EPOLLOUT if link.rest else 0))

    def read_keys(self) -> None:
        """Whose payloads came: into `numbers`, or counted as foreign."""
        share = self._share
        for driver, replies in self._raw:
            keys = driver.keys(replies)
            self.foreign += driver.pipeline - len(keys)
            for key in keys:
                if key[:8] == share.nonce and len(key) == KEY_BYTES:
                    self.numbers.append(int(key[8:20], 16) * share.pipeline + int(key[20:], 16))
                else:
                    self.foreign += 1
        self._raw.clear()
        self._raw_bytes = 0


def waited_for_cpu_ns(pid: int | str = "self") -> int:
    """How long a process was ready to run and did not, since its start; 0 where the kernel does not say.

    Of its first thread only, which is the one that matters here.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except OSError:
        return 0


def _told(chunks: list[bytes]) -> str:
    """The first line that looks like an error, or else the beginning."""
    data = b"".join(chunks)
    at = 0 if data[:1] in (b"-", b"_") else data.find(b"\r\n-") + 2
    return repr(data[at if at > 1 else 0 :][:120])


def work(share: Share, ask: BinaryIO, tell: BinaryIO) -> None:
    """The life of the process: connect, warm up, say so in a line, wait for one, do the share, hand over the books."""
    began_ns = ended_ns = cpu_ns = waited_ns = 0
    client: Client | None = None
    failure = ""
    try:
        if share.core >= 0:
            os.sched_setaffinity(0, {share.core})
        gc.disable()
        client = Client(share)
        client.drive(share.warm_up)
        tell.write(READY)
        tell.flush()
        if not ask.readline():
            return  # whoever started this is gone
        cpu_ns, waited_ns, began_ns = time.process_time_ns(), waited_for_cpu_ns(), time.perf_counter_ns()
        client.drive(share.batches)
        ended_ns = time.perf_counter_ns()
        cpu_ns, waited_ns = time.process_time_ns() - cpu_ns, waited_for_cpu_ns() - waited_ns
        client.read_keys()
    except (Failed, OSError) as error:
        failure = str(error) or type(error).__name__
    if client is None:
        books = Books(0, 0, 0, 0, 0, ({}, {}, {}), b"", 0, failure)
    else:
        enqueue, lease, ack = (dict(counter) for counter in client.latencies_us)
        numbers, foreign = client.numbers.tobytes(), client.foreign
        tasks = share.batches * share.pipeline
        books = Books(began_ns, ended_ns, cpu_ns, waited_ns, tasks, (enqueue, lease, ack), numbers, foreign, failure)
        client.close()
    tell.write(msgspec.msgpack.encode(books))
    tell.flush()


if __name__ == "__main__":
    work(msgspec.json.decode(sys.stdin.buffer.readline(), type=Share), sys.stdin.buffer, sys.stdout.buffer)
