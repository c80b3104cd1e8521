"""What carries one client's bytes, who is told of them (a transport and its protocol, in asyncio), and who runs turns.

Lives here: what each asks of the others, and asyncio's transports in this guise. Must not: sockets, RESP, a turn.

These are base classes, and not protocols in the sense of types as in `protocols`: compiled code calls the methods of a
class at their place in a table, and those of a protocol by looking up their names, which takes ten times as long. Here
that is four times a command, and twice a turn.
"""

import asyncio
from typing import Final, final


class Driver:
    """Who turns what was read into replies."""

    __slots__ = ()

    def hold_turn(self) -> None:
        """Reading begins: no turn until `run_turn`."""
        raise NotImplementedError

    def run_turn(self) -> bool:
        """All that was ready has been read: run a turn if one is wanted. False: it goes on beside the loop."""
        raise NotImplementedError


class Carrier:
    """An asyncio.Transport, as far as a server needs it."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Give it to the kernel; if that does not take all of it, the receiver is told so."""
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        """How much the kernel has not taken yet."""
        raise NotImplementedError

    def set_write_buffer_limits(self, high: int) -> None:
        """How much of it there may be until the receiver is told so."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Tell the receiver of no more bytes."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Tell it again."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether it is over, or will be."""
        raise NotImplementedError

    def close(self) -> None:
        """Read no more, and end once everything is written."""
        raise NotImplementedError

    def abort(self) -> None:
        """End without writing what is left."""
        raise NotImplementedError

    def get_extra_info(self, name: str) -> object:
        """`peername`, or `socket`."""
        raise NotImplementedError


class Receiver:
    """An asyncio.Protocol, as far as a server is one."""

    __slots__ = ()

    def connection_made(self, base: Carrier | asyncio.BaseTransport) -> None:
        """It begins."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def eof_received(self) -> bool | None:
        """No more will come. Whether the other direction is to stay open."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """The kernel did not take everything."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """Now it has."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        raise NotImplementedError


@final
class Carried(Carrier):
    """A transport of the loop."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport: Final = transport

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        self._transport.set_write_buffer_limits(high)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def get_extra_info(self, name: str) -> object:
        return self._transport.get_extra_info(name)
