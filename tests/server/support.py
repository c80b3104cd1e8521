"""What the tests of the wire table, the server and the command line share: a server to talk to, and its client.

Lives here: a server in a thread with a clock of the test's own, a server in a process of its own, and a socket client
with a RESP reader that owes nothing to moxy's. Everybody waits by reading a socket with a timeout.
"""

import asyncio
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import uvloop

from moxy.backends.base import Clock, IdSource
from moxy.backends.memory import MemoryBackend
from moxy.core.policy import Policy
from moxy.server.doors import Form
from moxy.server.tcp import Server
from moxy.sources import SystemClock
from moxy.wire.table import Row

T0 = 1_000_000
WAIT_S = 10.0
NONCE = "0" * 16
MIB = 1024 * 1024
DAYS_30_MS = 30 * 24 * 60 * 60 * 1000
NOT_INTEGERS = ("+4", "04", " 4", "4 ", "1_0", "", "-0", "4.0", "0x4", "four", "٤", "9223372036854775808", "1e1")
NOT_QUEUES = (b"", b"q" * 256, b"\xff\xfe", b"a b", b"a\tb", b"a\nb", b"a{b", b"a}b", b"a\x00b", "a\u00a0b".encode())
ENTRY = (
    *("lease_id", "task_id", "queue", "payload", "attempts"),
    *("deliveries", "token", "deadline_ms", "priority", "enqueued_ms"),
)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

FORM: Form = "auto"
"""How the servers of these tests look after their sockets. conftest.py goes through the forms."""

T = TypeVar("T")
Word = str | bytes | int


class FakeClock:
    """Time as the test says."""

    def __init__(self, ms: int = T0) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


class ZeroIds:
    """No chance at all: ids are predictable."""

    def seed(self) -> int:
        return 0

    def digits(self, count: int) -> bytes:
        return b"0" * count


# The client


class Status(str):
    """`+OK`"""


class Failure(str):
    """`-ERR ...`"""

    @property
    def code(self) -> str:
        return self.split(" ", 1)[0]


class Gone(Exception):
    """The server closed the connection."""


def encode(*words: Word) -> bytes:
    """A command as every client library sends it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Client:
    """A socket, and replies decoded by hand. `client(...)` sends one command and reads its reply."""

    def __init__(self, address: tuple[str, int], protocol: int = 2, receive_bytes: int = 0) -> None:
        self.protocol = protocol
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(address)
        self.name = "{}:{}".format(*self.socket.getsockname())
        self._file = self.socket.makefile("rb")
        self._seen: list[bytes] | None = None
        if protocol == 3:
            assert isinstance(self("HELLO", 3), dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, *words: Word) -> Self:
        return self.send_raw(encode(*words))

    def send_raw(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def __call__(self, *words: Word) -> Any:
        return self.send(*words).read()

    def raw(self, *words: Word) -> bytes:
        """The reply byte for byte."""
        return self.send(*words).read_raw()

    def map(self, *words: Word) -> dict[str, Any]:
        """A key/value reply: flat in RESP2, a map in RESP3."""
        return self.as_map(self(*words))

    def as_map(self, reply: Any) -> dict[str, Any]:
        if self.protocol == 3:
            assert isinstance(reply, dict), reply
            return {key.decode(): value for key, value in reply.items()}
        assert isinstance(reply, list), reply
        return {key.decode(): value for key, value in zip(reply[::2], reply[1::2], strict=True)}

    def read_raw(self) -> bytes:
        self._seen = seen = []
        self.read()
        self._seen = None
        return b"".join(seen)

    def pipeline(self, *commands: Sequence[Word]) -> list[Any]:
        """Many commands in one send, and all their replies."""
        self.send_raw(b"".join(encode(*words) for words in commands))
        return [self.read() for _ in commands]

    def read(self) -> Any:
        """The next reply: bytes, int, bool, None, list, dict, Status or Failure."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return Status(rest.decode())
        if kind == b"-":
            return Failure(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"#":
            return rest == b"t"
        if kind == b"_":
            return None
        if kind == b"$":
            return None if rest == b"-1" else self._bytes(int(rest))
        if kind == b"=":
            return self._bytes(int(rest)).removeprefix(b"txt:")
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        if kind == b"%":
            return {self.read(): self.read() for _ in range(int(rest))}
        raise AssertionError(f"no RESP: {line!r}")

    def read_bytes(self, size: int) -> None:
        """Take so many bytes off the socket, whatever they are."""
        while size > 0:
            got = self._file.read1(min(size, 4 * MIB))
            if not got:
                raise Gone
            size -= len(got)

    def has_come(self) -> bytes:
        """Some of what is here and not yet read; nothing is waited for."""
        self.socket.settimeout(0.0)
        try:
            return self._file.peek(1)
        finally:
            self.socket.settimeout(WAIT_S)

    def is_closed_by_server(self) -> bool:
        """Whether the connection ends here, with nothing more said."""
        try:
            got = self._file.read1(1024)
        except ConnectionResetError:
            return True
        assert not got, f"the server goes on: {got!r}"
        return True

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise Gone(f"with {line!r} left over")
        if self._seen is not None:
            self._seen.append(line)
        return line[:-2]

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size + 2)
        if len(data) < size + 2:
            raise Gone
        assert data.endswith(b"\r\n")
        if self._seen is not None:
            self._seen.append(data)
        return data[:-2]


# The server, in a thread


class House:
    """A server on a free port, in a thread of its own; `said` is its log, `at` sets its time."""

    def __init__(self, server: Server, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.clock = clock
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._loop = loop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self.server.address

    def client(self, protocol: int = 2, receive_bytes: int = 0) -> Client:
        return Client(self.address, protocol, receive_bytes)

    def at(self, after_ms: int) -> None:
        """It is so long after the beginning now, and the server has done what was due by then."""
        assert isinstance(self.clock, FakeClock)
        self.clock.ms = T0 + after_ms
        with self.client() as client:
            client("PING")
            client("PING")  # the turn of the first one is over

    def call(self, what: Callable[[], T]) -> T:
        """The result of something that is done in the server's loop."""
        done: queue.Queue[T] = queue.Queue()
        self._loop.call_soon_threadsafe(lambda: done.put(what()))
        return done.get(timeout=WAIT_S)

    def call_soon(self, what: Callable[[], object]) -> None:
        """Have something done in the server's loop, and do not wait for it."""
        self._loop.call_soon_threadsafe(what)

    def keep_busy(self) -> threading.Event:
        """The server's loop does nothing from now on until the event is set."""
        begun, over = threading.Event(), threading.Event()

        def stand_still() -> None:
            begun.set()
            over.wait(WAIT_S)

        self.call_soon(stand_still)
        assert begun.wait(WAIT_S)
        return over

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.server.stop)
        self.join()

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the server does not stop"
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def say(self, event: str, **fields: str | int) -> None:
        self.said.append((event, fields))

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        await self.server.start("127.0.0.1", 0)
        self._ready.set()
        await self.server.run()


class Tapped:
    """The backend that it is given, with methods that a test may put others in the place of: compiled ones stay."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    def commit_at_once(self) -> bool:
        return "commit" not in vars(self) and self._backend.commit_at_once()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class SlowCommits(Tapped):
    """Its commit takes its time, as a sync does: all is written when it begins to wait."""

    def commit_at_once(self) -> bool:
        return False

    async def commit(self) -> None:
        self._backend.settle()
        self._backend.written()
        for _ in range(50):
            await asyncio.sleep(0)
        self._backend.accept()


@contextmanager
def serving(
    clock: Clock | None = None,
    ids: IdSource | None = None,
    policy: Policy | None = None,
    loop: str = "uvloop",
    slow_commits: bool = False,
    **options: Any,
) -> Iterator[House]:
    """A server with time and chance of the test's own, and the options of `Server`.

    `slow_commits`: a commit lets the loop go round a few times, as one on a disk does.
    """
    clock = clock or FakeClock()
    said: list[House] = []
    tap = SlowCommits if slow_commits else Tapped
    backend: Any = tap(MemoryBackend(clock, ids or ZeroIds(), policy))
    server = Server(backend, clock, lambda event, **fields: said[0].say(event, **fields), form=FORM, **options)
    house = House(server, clock, LOOPS[loop]())
    said.append(house)
    house.start()
    try:
        yield house
    finally:
        house.stop()


def serving_in_real_time(**options: Any) -> Any:
    return serving(clock=SystemClock(), **options)


# The server, in a process


class Process:
    """`python -m moxy serve` on a free port. `logs` are the lines of its stderr so far."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None, addr: bool = True) -> None:
        command = [sys.executable, "-m", "moxy", "serve", *(("--addr", "127.0.0.1:0") if addr else ()), *flags]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(environment)
        )
        self.logs: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        listening = self.wait_for("server.listening")
        self.address: tuple[str, int] = (listening["host"], listening["port"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        self.child.stdout.close()
        self.child.stderr.close()

    def client(self, protocol: int = 2) -> Client:
        return Client(self.address, protocol)

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next log line of that event."""
        while True:
            line = self._lines.get(timeout=WAIT_S)
            assert line, f"the server ended without {event}: {self.logs}"
            entry: dict[str, Any] = json.loads(line)
            if entry["event"] == event:
                return entry

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def end(self) -> tuple[int, bytes]:
        """Wait for its end: the exit code, and all that stdout had."""
        code = self.child.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.child.stdout is not None
        return code, self.child.stdout.read()

    def memory_mib(self, what: str = "VmRSS") -> float:
        with open(f"/proc/{self.child.pid}/status") as status:
            (line,) = [line for line in status if line.startswith(f"{what}:")]
        return int(line.split()[1]) / 1024

    def _read(self) -> None:
        assert self.child.stderr is not None
        for raw in self.child.stderr:
            line = raw.decode().rstrip("\n")
            self.logs.append(line)
            self._lines.put(line)
        self._lines.put("")


def clean_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """This environment without settings for moxy, but that of the form, and with those given."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("MOXY_")}
    return {**rest, "MOXY_EVENT_LOOP": FORM, **(more or {})}


# Waiting


def until(ask: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """Ask over a socket until the answer is right; each question is a round trip, and there are at most so many."""
    answer = ask()
    for _ in range(20_000):
        if wanted(answer):
            return answer
        answer = ask()
    raise AssertionError(f"never came: the last answer was {answer!r}")


def until_still(ask: Callable[[], T]) -> T:
    """Ask over a socket until the answer has been the same for many round trips."""
    answer, same = ask(), 0
    for _ in range(20_000):
        last, answer = answer, ask()
        same = same + 1 if answer == last else 0
        if same == 300:
            return answer
    raise AssertionError(f"never came to rest: the last answer was {answer!r}")


def until_blocked(client: Client, count: int) -> None:
    """Until so many clients of the server wait."""
    until(lambda: server_info(client)["blocked_clients"], lambda blocked: blocked == str(count))


def until_connected(client: Client, count: int) -> None:
    until(lambda: server_info(client)["connected_clients"], lambda clients: clients == str(count))


def server_info(client: Client) -> dict[str, str]:
    lines = client("INFO").decode().split("\r\n")
    return dict(line.split(":", 1) for line in lines if ":" in line)


# Commands made from a row of the table

_ARGUMENTS: dict[str, Word] = {
    "queue": "jobs",
    "payload": "x",
    "timeout_ms": "1000",
    "ms": "1000",
    "task_id": "ready",
    "lease_id": "jobs:1:1:" + NONCE,
    "from_seq": "1",
    "ready|scheduled|dead": "scheduled",
    "message": "hello",
    "index": "0",
    "password": "secret",
    "subcommand": "GET",
}
_OPTION_VALUES: dict[str, Word] = {
    "ID": "an-id",
    "STATE": "ready",
    "MATCH": "*",
    "CURSOR": "0",
    "WITH": "more",
    "REASON": "because",
}
_INTEGER_OPTION = "1"


def _groups(syntax: str) -> list[str]:
    """The words and the bracketed groups of a syntax line."""
    groups, depth, word = [], 0, ""
    for char in syntax + " ":
        depth += (char == "[") - (char == "]")
        if char == " " and depth == 0:
            groups += [word] if word else []
            word = ""
        else:
            word += char
    return groups


def required(row: Row) -> list[Word]:
    """The shortest right command of a row."""
    words = [word for word in _groups(row.syntax) if not word.startswith("[")]
    return [row.name, *(_ARGUMENTS[word] for word in words)]


def options(row: Row) -> dict[str, Word | None]:
    """Each option of a queue command, with a right value; None where it takes none."""
    found: dict[str, Word | None] = {}
    for group in _groups(row.syntax):
        if not group.startswith("["):
            continue
        for choice in group[1:-1].split(" | "):
            name, _, value = choice.partition(" ")
            if re.fullmatch("[A-Z]+", name):
                found[name] = _OPTION_VALUES.get(name, _INTEGER_OPTION) if value else None
    return found


def integer_options(row: Row) -> list[str]:
    return [name for name, value in options(row).items() if value == _INTEGER_OPTION]
