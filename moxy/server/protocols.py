"""What a server and its doors ask of each other.

Lives here: protocols, in the sense of types. Must not: anything that runs.
"""

import socket
from collections.abc import Sequence
from typing import Protocol


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
