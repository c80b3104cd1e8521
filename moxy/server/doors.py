"""How clients come in: listening sockets, and the two ways in which their bytes reach the receivers.

Lives here: binding an address, the choice between the tick (`epoll`) and asyncio's own transports, and the latter.
Must not: RESP, requests, turns.
"""

import asyncio
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final, Literal, cast, final

from moxy.server.carriers import Driver, Receiver
from moxy.server.protocols import Door

Form = Literal["auto", "epoll", "asyncio"]
"""Who looks after the sockets: the tick, or a transport of the loop for each. auto: the tick where there is epoll."""

_BACKLOG: Final = 1024
_KEEPALIVE_S: Final = 60


@final
class LoopDoor:
    """A transport of the loop for each client: for systems without epoll."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make_receiver: Callable[[], Receiver]) -> None:
        self._loop: Final = loop
        self._make_receiver: Final = make_receiver
        self._servers: list[asyncio.Server] = []

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            make_receiver = cast(Callable[[], asyncio.Protocol], self._make_receiver)
            self._servers.append(await self._loop.create_server(make_receiver, sock=listener, backlog=_BACKLOG))

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    def gather(self) -> None:
        """The loop has given what it had to the receivers before anybody else could ask."""

    def close(self) -> None:
        self.stop_accepting()


def open_door(form: Form, driver: Driver, make_receiver: Callable[[], Receiver], busy_poll_us: int) -> Door:
    """The door of that form, in the running loop."""
    loop = asyncio.get_running_loop()
    if form == "epoll" or (form == "auto" and hasattr(select, "epoll")):
        from moxy.server.epoll import Tick  # not before: elsewhere there is nothing to import in it

        return Tick(loop, driver, make_receiver, busy_poll_us)
    return LoopDoor(loop, make_receiver)


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address that the host has. Raises OSError when one cannot be had."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def keep_alive(sock: socket.socket | None) -> None:
    """Have the kernel notice a peer that is gone without a word, within about two minutes."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _KEEPALIVE_S), ("TCP_KEEPINTVL", _KEEPALIVE_S // 4), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
