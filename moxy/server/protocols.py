"""What a server and its doors ask of each other.

Lives here: protocols, in the sense of types. Must not: anything that runs.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol


class Driver(Protocol):
    """Who turns what was read into replies."""

    def hold_turn(self) -> None:
        """Reading begins: no turn until `run_turn`."""

    def run_turn(self) -> bool:
        """All that was ready has been read: run a turn if one is wanted. False: it goes on beside the loop."""


class Listener(Protocol):
    """Who is told what happens on one client's transport: an asyncio.Protocol in all but name."""

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        """It begins."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def eof_received(self) -> bool | None:
        """No more will come. Whether the other direction is to stay open."""

    def pause_writing(self) -> None:
        """The kernel did not take everything."""

    def resume_writing(self) -> None:
        """Now it has."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""


class Door(Protocol):
    """Clients come in, and their bytes."""

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Accept clients from listening sockets, which are then this object's to close."""

    def stop_accepting(self) -> None:
        """Nobody new. Who is here stays."""

    def gather(self) -> None:
        """Read what has arrived by now, if it is for this object to do."""

    def close(self) -> None:
        """Let go of everything, at once."""


class Journalist(Protocol):
    """Who is told what a server has to say about itself. One call is one line."""

    def __call__(self, event: str, **fields: str | int) -> None:
        """Say that `event` happened."""
