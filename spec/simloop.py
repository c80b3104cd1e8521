"""A deterministic asyncio loop and the network on it: virtual time, an order of callbacks drawn from a seed.

Lives here: the loop, its executor, and in-memory transports that cut bytes anywhere and lose what was not delivered.
Must not: know Moxy; the protocols on the transports are anybody's.

After FoundationDB's simulation: everything that is random in a real run is drawn from one seed here, so that the same
seed gives the same run, byte for byte, and a failing one can be run again.
"""

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")


class _NoWaiting(selectors.DefaultSelector):
    """A selector that lets virtual time pass in place of waiting."""

    loop: "SimLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: everything waits, and nothing will come")
        if timeout > 0:
            self.loop.now_s += timeout
        return super().select(0)


class SimLoop(asyncio.SelectorEventLoop):
    """Callbacks that are ready at the same time run in an order drawn from the seed."""

    def __init__(self, rng: random.Random) -> None:
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self.now_s = 0.0
        self.rng = rng
        self.executor_delay_s: Callable[[], float] = lambda: 0.0
        self.generation = 0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            shuffled = list(ready)
            self.rng.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(  # type: ignore[override]  # the loop's own takes a variadic type, for no gain here
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """A thread's work, done at once at a virtual time. What a crashed process had begun is never done."""
        future: asyncio.Future[T] = self.create_future()
        generation = self.generation

        def work() -> None:
            if generation != self.generation or future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self.executor_delay_s(), work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback that fails ends the run. asyncio would write a line and go on, past a fault of what is simulated
        as well as past whoever wants to interrupt it."""
        if "handle" in context and "exception" in context:
            raise context["exception"]
        super().call_exception_handler(context)

    def crash(self) -> None:
        """Whatever threads were about to do will not be done."""
        self.generation += 1


class Listener(Protocol):
    """Who is told what happens on a transport: an asyncio.Protocol, or what is one in all but name."""

    def connection_made(self, transport: asyncio.BaseTransport, /) -> None:
        """It begins."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def eof_received(self) -> bool | None:
        """No more will come."""

    def pause_writing(self) -> None:
        """What was written is not taken at once."""

    def resume_writing(self) -> None:
        """Now it is."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""


class SimTransport(asyncio.Transport):
    """One end of a connection. Bytes arrive at the other end late, cut anywhere, in order, or never."""

    def __init__(self, loop: SimLoop, protocol: Listener, name: str) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._name = name
        self.peer: SimTransport | None = None
        self._unsent: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._closing = False
        self._lost = False
        self._paused = False
        self._reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._name, 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0, "the only limit that this transport simulates"

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._unsent))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost or self._closing:
            return
        rest = bytes(data)
        while rest:
            cut = self._loop.rng.choice((len(rest), self._loop.rng.randint(1, len(rest))))
            self._unsent.append(rest[:cut])
            rest = rest[cut:]
        if self._loop.rng.random() < 0.7:
            self._send(len(self._unsent))
        else:  # the kernel does not take it all at once
            self._paused = True
            self._protocol.pause_writing()
            self._loop.call_later(self._loop.rng.random() * 0.05, self._send_rest)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_later(0.001, self._finish)

    def abort(self) -> None:
        self.lose()

    def lose(self) -> None:
        """The connection breaks: what is under way is gone, and both ends hear of it, this one first."""
        for end in (self, self.peer):
            if end is not None and not end._lost:
                end._lost = end._closing = True
                end._unsent.clear()
                end._arrived.clear()
                end._loop.call_soon(end._protocol.connection_lost, None)

    def vanish(self) -> None:
        """This end's process is dead: only the other one hears of it."""
        self._lost = self._closing = True
        self.lose()

    def _finish(self) -> None:
        """Closed in good order: what was written arrives, then the end."""
        self._send(len(self._unsent))
        if self.peer is not None and not self._lost:
            self._loop.call_later(0.06, self.lose)

    def _send(self, pieces: int) -> None:
        for _ in range(min(pieces, len(self._unsent))):
            if self.peer is not None:
                self.peer._arrived.append(self._unsent.popleft())
                self._loop.call_later(self._loop.rng.random() * 0.01, self.peer._deliver)

    def _send_rest(self) -> None:
        if self._lost:
            return
        self._send(len(self._unsent))
        if self._paused:
            self._paused = False
            self._protocol.resume_writing()

    def _deliver(self) -> None:
        if self._reading and self._arrived and not self._lost:
            self._protocol.data_received(self._arrived.popleft())
            if self._arrived:
                self._loop.call_soon(self._deliver)


def connect(loop: SimLoop, server: Listener, client: Listener, name: str) -> SimTransport:
    """A connection between two protocols; the client's end."""
    near, far = SimTransport(loop, client, name), SimTransport(loop, server, name)
    near.peer, far.peer = far, near
    server.connection_made(far)
    client.connection_made(near)
    return near


def run(seed: int, main: Callable[[SimLoop], Any]) -> Any:
    """Run a coroutine function on a loop of its own."""
    loop = SimLoop(random.Random(seed))
    try:
        return loop.run_until_complete(cast(Any, main(loop)))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(_settle())
        loop.close()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
