"""The tick: all clients' sockets in one epoll, whose descriptor the event loop watches.

Lives here: reading, writing, accepting and letting go of sockets, with carriers that do for their receivers what
asyncio's transports do for their protocols. Must not: RESP, requests, turns; it is told what to call when everything
that was ready has been read.

A wake-up of the loop reads every ready socket, then has one turn run over all that arrived, which writes once to each
socket. asyncio would go through a handle, a callback and a transport of its own for each of them, and the turn would
come another iteration of the loop later.
"""

import asyncio
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, final

from moxy.server.carriers import Carrier, Driver, Receiver

# As constants of this module they are at hand; names of another one compiled code looks up each time.
_read: Final = os.read
_write: Final = os.write
_EVENTS_MAX: Final = 1024
_ACCEPTS_MAX: Final = 256
_ACCEPT_AGAIN_S: Final = 1.0
_READ_BYTES_MIN: Final = 448
"""With the header of a bytes object this is just what the interpreter's own allocator serves."""
_READ_BYTES_MAX: Final = 64 * 1024
_ARRIVED_BYTES_MAX: Final = 256 * 1024
"""About how much is read before it is looked at: what the caches hold."""
_CAN_READ: Final = select.EPOLLIN
"""All that is to be said of most sockets."""
_LOOP_WAITS_S_MAX: Final = 0.005
"""How long busy polling keeps timers, signals and threads' results waiting."""
_GATHER_PASSES_MAX: Final = 64
_FULL: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@final
class Tick:
    """Sockets in one epoll. `make_receiver` makes the receiver of each client."""

    __slots__ = ("_busy_poll_s", "_driver", "_epoll", "_listeners", "_loop", "_make_receiver", "_pipes", "_poll")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        driver: Driver,
        make_receiver: Callable[[], Receiver],
        busy_poll_us: int,
    ) -> None:
        self._loop: Final = loop
        self._driver: Final = driver
        self._make_receiver: Final = make_receiver
        self._busy_poll_s: Final = busy_poll_us / 1_000_000
        self._epoll: Final = select.epoll()
        self._poll: Final = self._epoll.poll
        self._listeners: dict[int, socket.socket] = {}
        self._pipes: list[Pipe | None] = []
        """By descriptor: these are small numbers."""

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Accept clients from listening sockets, which are this object's to close."""
        for listener in listeners:
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._loop.add_reader(self._epoll.fileno(), self._wake_up)

    def stop_accepting(self) -> None:
        """Nobody new. Who is here stays."""
        for listener in self._listeners.values():
            listener.close()  # closing takes it off the epoll
        self._listeners.clear()

    def gather(self) -> None:
        """Read what has arrived by now, without running a turn."""
        for _ in range(_GATHER_PASSES_MAX):
            events = self._poll(0, _EVENTS_MAX)
            if not events:
                return
            self._serve(events)

    def close(self) -> None:
        """Let go of everything, at once."""
        self.stop_accepting()
        self._loop.remove_reader(self._epoll.fileno())
        for pipe in self._pipes:
            if pipe is not None:
                pipe.lose(None)
        self._epoll.close()

    def _wake_up(self) -> None:
        """Something is ready: a tick; with busy polling, more of them until nothing has come for a while."""
        goes_on = self._tick(self._poll(0, _EVENTS_MAX))
        if not self._busy_poll_s:
            return
        now = time.monotonic()
        until, give_way = now + self._busy_poll_s, now + _LOOP_WAITS_S_MAX
        while goes_on and now < until and not self._epoll.closed:
            if now > give_way:
                self._loop.call_soon(self._wake_up)
                return
            events = self._poll(0, _EVENTS_MAX)
            now = time.monotonic()
            if events:
                goes_on = self._tick(events)
                until = now + self._busy_poll_s

    def _tick(self, events: list[tuple[int, int]]) -> bool:
        """Read all, decide all, write all. False: a turn goes on beside the loop."""
        self._driver.hold_turn()
        try:
            self._serve(events)
        finally:
            goes_on = self._driver.run_turn()
        return goes_on

    def _serve(self, events: list[tuple[int, int]]) -> None:
        """Read from many, and only then have it looked at: what comes back from the kernel finds the processor's caches
        full of other things, so it takes less time to look at everything in one go."""
        pipes = self._pipes
        arrived: list[Pipe] = []
        size = 0
        knocked: list[socket.socket] = []
        for fd, happened in events:
            pipe = pipes[fd] if fd < len(pipes) else None
            if pipe is not None:
                try:
                    got = pipe.read() if happened == _CAN_READ else pipe.serve(happened)
                except Exception as error:
                    self._blame(pipe, error)
                    continue
                if got:
                    arrived.append(pipe)
                    size += got
                    if size > _ARRIVED_BYTES_MAX:
                        self._deliver(arrived)
                        arrived, size = [], 0
            elif fd in self._listeners:
                knocked.append(self._listeners[fd])
        self._deliver(arrived)
        for listener in knocked:  # last, since it may fail: what has been read is looked at in any case
            self._accept(listener)

    def _deliver(self, arrived: list["Pipe"]) -> None:
        for pipe in arrived:
            try:
                pipe.deliver()
            except Exception as error:
                self._blame(pipe, error)

    def _blame(self, pipe: "Pipe", error: Exception) -> None:
        """A bug: it costs this client its connection, as asyncio does it."""
        self._loop.call_exception_handler({"message": "a client could not be served", "exception": error})
        pipe.abort()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                client, peername = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._rest(listener, error)
                return
            client.setblocking(False)
            if client.family in (socket.AF_INET, socket.AF_INET6):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pipe = Pipe(self._loop, self._epoll, self._pipes, client, peername, self._make_receiver())
            pipe.open()

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """There are no descriptors or no memory left: try again when some client may have gone."""
        self._loop.call_exception_handler({"message": "no client can be accepted at the moment", "exception": error})
        self._epoll.unregister(listener.fileno())
        self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() in self._listeners:
            self._epoll.register(listener.fileno(), select.EPOLLIN)


@final
class Pipe(Carrier):
    """One client's socket. Its receiver is told as soon as the kernel does not take everything."""

    __slots__ = (
        *("_arrived", "_closing", "_epoll", "_fd", "_loop", "_lost", "_peername", "_pipes", "_receiver", "_read_bytes"),
        *("_reading", "_socket", "_unwritten", "_watched"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        epoll: select.epoll,
        pipes: "list[Pipe | None]",
        client: socket.socket,
        peername: object,
        receiver: Receiver,
    ) -> None:
        self._loop: Final = loop
        self._epoll: Final = epoll
        self._pipes: Final = pipes
        self._socket: Final = client
        self._fd: Final = client.fileno()
        self._peername: Final = peername
        self._receiver: Final = receiver
        self._read_bytes = _READ_BYTES_MIN
        self._arrived = b""
        self._unwritten: memoryview | None = None
        self._watched = select.EPOLLIN
        self._reading = True
        self._closing = False
        self._lost = False

    def open(self) -> None:
        """Begin: the receiver is told, and may write and close at once."""
        while len(self._pipes) <= self._fd:
            self._pipes.append(None)
        self._pipes[self._fd] = self
        self._epoll.register(self._fd, self._watched)
        self._receiver.connection_made(self)

    # What the tick calls

    def serve(self, happened: int) -> int:
        """Read, write or end, as the kernel says one can. How many bytes there are to `deliver`."""
        if happened & select.EPOLLOUT and self._unwritten is not None:
            self._write_on()
        if self._lost:
            return 0
        if self._reading:
            if happened & ~select.EPOLLOUT:
                return self.read()
        elif happened & (select.EPOLLERR | select.EPOLLHUP):
            self.lose(ConnectionResetError(errno.ECONNRESET, "the client is gone"))
        return 0

    def read(self) -> int:
        """Take what has arrived; not all at once, so that nobody keeps the others waiting. How many bytes there are to
        `deliver`."""
        size = self._read_bytes
        try:
            data = _read(self._fd, size)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.lose(error)
            return 0
        got = len(data)
        if got == size:
            self._read_bytes = min(size * 4, _READ_BYTES_MAX)
        elif got * 16 < size:
            self._read_bytes = _READ_BYTES_MIN
        self._arrived = data
        if not got:
            if self._receiver.eof_received():
                self._reading = False  # the other direction stays open
                self._watch()
            else:
                self.close()
        return got

    def deliver(self) -> None:
        """Hand it to the receiver."""
        data, self._arrived = self._arrived, b""
        self._receiver.data_received(data)

    def lose(self, error: Exception | None) -> None:
        """It is over: nothing more is read or written."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._reading = False
        self._unwritten = None
        self._epoll.unregister(self._fd)
        self._pipes[self._fd] = None
        try:
            self._receiver.connection_lost(error)
        finally:
            self._socket.close()

    def _write_on(self) -> None:
        """Write more of what the kernel did not take before."""
        assert self._unwritten is not None
        rest = self._send(self._unwritten)
        if rest is None:
            return
        if rest:
            self._unwritten = rest
            return
        self._unwritten = None
        if self._closing:
            self.lose(None)
            return
        self._watch()
        self._receiver.resume_writing()

    def _send(self, data: memoryview) -> memoryview | None:
        """What the kernel did not take; None: the client is gone."""
        try:
            sent = _write(self._fd, data)  # by itself: mypyc evaluates the bounds of a slice twice
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            self._end(error)
            return None
        return data[sent:]

    def _watch(self) -> None:
        """Have the kernel tell what matters now; that the client is gone it tells in any case."""
        wanted = (select.EPOLLIN if self._reading else 0) | (select.EPOLLOUT if self._unwritten is not None else 0)
        if wanted != self._watched and not self._lost:
            self._watched = wanted
            self._epoll.modify(self._fd, wanted)

    def _end(self, error: Exception | None) -> None:
        """Over as soon as the caller, who may be in the midst of something, is done."""
        self._closing = True
        self._reading = False
        self._unwritten = None
        self._watch()
        self._loop.call_soon(self.lose, error)

    # What the receiver calls

    def write(self, data: bytes) -> None:
        """Give it to the kernel; what it does not take waits, and the receiver is told so."""
        if self._closing:
            return
        if self._unwritten is not None:
            self._unwritten = memoryview(bytes(self._unwritten) + data)
            return
        try:
            sent = _write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(error)
            return
        if sent < len(data):
            self._unwritten = memoryview(data)[sent:]
            self._watch()
            self._receiver.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 0 if self._unwritten is None else len(self._unwritten)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0, "there is no other limit here"

    def pause_reading(self) -> None:
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True
            self._watch()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Read no more, and end once everything is written."""
        if not self._closing:
            self._closing = True
            self._reading = False
            self._watch()
            if self._unwritten is None:
                self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        """End without writing what is left."""
        if not self._lost:
            self._end(None)

    def get_extra_info(self, name: str) -> object:
        return self._peername if name == "peername" else self._socket
