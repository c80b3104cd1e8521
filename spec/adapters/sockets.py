"""The real server as a system: on a socket, with a loop whose time is the machine's.

What lives here: `SocketSystem`. What must not live here: anything that a system without a socket needs too.
"""

import asyncio
import random
import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from moxy.server.tcp import Server
from spec import system
from spec.adapters.service import Deployment, InMemory, SettableClock, ZeroIds
from spec.adapters.values import Decoder, canonical, cut, encode_command, in_resp3_shape
from spec.model import BLOCKED
from spec.system import Durable, Pipelining, Plain

_PATIENCE_S: Final = 10.0
"""How long a socket may take to bring what must come. Nothing waits that long unless something is wrong."""
_ROUNDS_TO_REST: Final = 6
"""Rounds of the loop after which a server that was sent nothing new has no turn left to run."""


_MOMENT_S: Final = 1e-6
"""What a timer may be early by. After months of the machine's time a sum of seconds is not exact to a nanosecond, which
is what the loop asks for by itself; and here time does not go on by itself."""


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is the machine's, so that the server's own timer fires when the machine says so."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.is_closing = False
        super().__init__()
        self._clock_resolution = _MOMENT_S

    def time(self) -> float:
        if self.is_closing:
            self.ms += 5
        return self.ms / 1000


class _Caller:
    """A client with a real socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder()
        self.waits_with: Sequence[bytes] = ()


class SocketSystem:
    """The real server on 127.0.0.1, and sockets of our own, on one loop that runs only while a call is under way.

    The server's clock and the loop's time are the machine's. For a command the clock moves first and the loop's time
    after it, as on a loop that was busy: so a command arrives ahead of the timer that is due by then, never after it.
    """

    can_block = True
    takes_megabytes = False
    durable: Durable | None = None
    pipelining: Pipelining | None

    def __init__(self, protocol: int, deployment: Callable[[], Deployment] = InMemory) -> None:
        self.pipelining = self
        self._protocol = protocol
        self._chance = random.Random(0)
        self._clock = SettableClock()
        self._loop = _Loop()
        self._deployment = deployment()
        self._server = Server(self._deployment.backend(self._clock, ZeroIds()), self._clock, _silence)
        self._callers: dict[str, _Caller] = {}
        self._answers: list[system.Answer] = []
        self._running = self._loop.run_until_complete(self._start())
        self._control = self._loop.run_until_complete(self._connect("control"))

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        return self._loop.run_until_complete(self._execute(client, argv, now_ms))

    def execute_all(self, client: str, argvs: Sequence[Sequence[bytes]], now_ms: int) -> list[Plain]:
        return self._loop.run_until_complete(self._execute_all(client, argvs, now_ms))

    def tick(self, now_ms: int) -> None:
        self._loop.run_until_complete(self._tick(now_ms))

    def disconnect(self, client: str, now_ms: int) -> None:
        self._loop.run_until_complete(self._disconnect(client, now_ms))

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        # A socket that takes a reply and loses it cannot be had; so this says what `Server.left` says then.
        self._clock.ms = now_ms
        self._server.service.undelivered([lease_id])
        self._loop.run_until_complete(self._ping(now_ms))

    def take_answers(self) -> list[system.Answer]:
        answers, self._answers = self._answers, []
        return answers

    def canonical(self, now_ms: int) -> dict[str, object]:
        return canonical(self._deployment.states(), now_ms)

    def close(self) -> None:
        try:
            for caller in [*self._callers.values(), self._control]:
                caller.sock.close()
            self._loop.is_closing = True
            self._server.stop()
            self._loop.run_until_complete(self._running)
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop.close()
            self._deployment.close()

    async def _start(self) -> "asyncio.Task[None]":
        await self._server.start("127.0.0.1", 0)
        return asyncio.create_task(self._server.run())

    async def _connect(self, name: str) -> _Caller:
        sock = socket.socket()
        sock.setblocking(False)
        await self._loop.sock_connect(sock, self._server.address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(sock)
        await self._ask(caller, [b"HELLO", b"%d" % self._protocol, b"SETNAME", name.encode()])
        return caller

    async def _caller(self, client: str) -> _Caller:
        if client not in self._callers:
            self._callers[client] = await self._connect(client)
        caller = self._callers[client]
        assert not caller.waits_with, "a client that waits was made to speak"
        return caller

    async def _execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        caller = await self._caller(client)
        await self._send(caller, argv, now_ms)
        may_block = b"BLOCK" in [word.upper() for word in argv]
        patience = _Patience(f"a reply to {argv[:3]}")
        while (reply := self._read(caller)) is None:
            if may_block and self._server.service.blocked == self._still_waiting() + 1:
                caller.waits_with = argv
                break
            await patience.wait()
        await self._settle(now_ms)
        if reply is None and not caller.waits_with:  # it blocked, and within the same call was answered
            (reply,) = [(answer,) for name, answer in self._answers if name == client]
            self._answers = [answer for answer in self._answers if answer[0] != client]
        return BLOCKED if reply is None else in_resp3_shape(argv, reply[0])

    async def _execute_all(self, client: str, argvs: Sequence[Sequence[bytes]], now_ms: int) -> list[Plain]:
        caller = await self._caller(client)
        await self._loop.sock_sendall(caller.sock, b"".join(map(encode_command, argvs)))
        replies: list[Plain] = []
        patience = _Patience(f"the replies to {argvs[:3]}")
        while len(replies) < len(argvs):
            if (reply := self._read(caller)) is None:
                await patience.wait()
            else:
                replies.append(in_resp3_shape(argvs[len(replies)], reply[0]))
        await self._settle(now_ms)
        return replies

    async def _tick(self, now_ms: int) -> None:
        self._clock.ms = now_ms
        await self._settle(now_ms)

    async def _ping(self, now_ms: int) -> None:
        await self._ask(self._control, [b"PING"])
        await self._settle(now_ms)

    async def _disconnect(self, client: str, now_ms: int) -> None:
        self._clock.ms = now_ms
        if caller := self._callers.pop(client, None):
            caller.sock.close()
            patience = _Patience(f"the server to notice that {client} is gone")
            while await self._connected() > len(self._callers) + 1:
                await patience.wait()
        await self._settle(now_ms)

    async def _connected(self) -> int:
        told = await self._ask(self._control, [b"INFO", b"clients"])
        assert isinstance(told, bytes)
        found = re.search(rb"connected_clients:(\d+)", told)
        assert found is not None, told
        return int(found[1])

    async def _settle(self, now_ms: int) -> None:
        """Let the loop's time come, and the server rest; then hear what it said to those who waited."""
        self._loop.ms = now_ms
        service = self._server.service
        patience = _Patience("the server to do what is due: its timer does not fire, or it was not woken")
        while True:
            wake_ms = service.next_wake_ms()
            if not service.has_work and (wake_ms is None or wake_ms > now_ms):
                break
            await patience.wait()
        patience = _Patience("the replies to clients that do not wait any more")
        while self._still_waiting() != service.blocked:
            await patience.wait()

    def _still_waiting(self) -> int:
        """How many clients wait, after hearing what has come for them."""
        for name, caller in self._callers.items():
            if caller.waits_with and (reply := self._read(caller)) is not None:
                self._answers.append((name, in_resp3_shape(caller.waits_with, reply[0])))
                caller.waits_with = ()
        return sum(1 for caller in self._callers.values() if caller.waits_with)

    async def _ask(self, caller: _Caller, argv: Sequence[bytes]) -> Plain:
        await self._send(caller, argv)
        patience = _Patience(f"a reply to {argv}")
        while (reply := self._read(caller)) is None:
            await patience.wait()
        return reply[0]

    async def _send(self, caller: _Caller, argv: Sequence[bytes], now_ms: int | None = None) -> None:
        """In pieces. A late command comes whole, right after the clock has moved, and finds the server at rest.

        A turn that is still to come, or one for a piece, would do what is due before the command is there.
        """
        is_late = now_ms is not None and now_ms != self._clock.ms
        if is_late:
            for _ in range(_ROUNDS_TO_REST):
                await asyncio.sleep(0)
            assert now_ms is not None
            self._clock.ms = now_ms
        for part in [encode_command(argv)] if is_late else cut(encode_command(argv), self._chance):
            await self._loop.sock_sendall(caller.sock, part)
            if self._chance.randrange(4) == 0:
                await asyncio.sleep(0)

    def _read(self, caller: _Caller) -> tuple[Plain] | None:
        try:
            data = caller.sock.recv(1 << 16)
        except BlockingIOError:
            pass
        else:
            assert data, "the server closed a connection"
            caller.decoder.feed(data)
        return caller.decoder.next()


class _Patience:
    """Waits by letting the loop run, and gives up in the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until_s = time.monotonic() + _PATIENCE_S

    async def wait(self) -> None:
        assert time.monotonic() < self._until_s, f"waited in vain for {self._what}"
        await asyncio.sleep(0)


def _silence(event: str, **fields: str | int) -> None:
    """The server's journalist: nobody listens."""
