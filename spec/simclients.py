"""What the simulated clients are made of: a connection that asks one thing at a time, and what they know for certain.

Lives here: a client's end of a connection, and the rules that no reply may break. Must not: what clients do, which is
in `simulate`.
"""

import asyncio
from typing import Any

from spec.adapters.values import Decoder, encode_command
from spec.simloop import SimTransport


class Violation(AssertionError):
    """Something that must never happen did."""


class Connection(asyncio.Protocol):
    """A client's end: one command at a time; a reply, or None when the connection is gone and nobody knows."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._waiting: asyncio.Future[Any] | None = None
        self.transport: SimTransport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SimTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        if self._waiting is not None and not self._waiting.done() and (reply := self._decoder.next()) is not None:
            self._waiting.set_result(reply[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Lost())

    async def ask(self, *words: str | bytes | int) -> Any:
        """Send a command and wait for its reply; `Lost` when the outcome is unknown."""
        if self.lost or self.transport is None:
            return Lost()
        raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(encode_command(raw))
        return await self._waiting


class Lost:
    """No reply: the command may have been carried out, or not."""


class History:
    """What clients know for certain, and what must never contradict it."""

    def __init__(self) -> None:
        self.enqueued: dict[bytes, bytes] = {}
        self.offered: set[bytes] = set()
        self.acked: dict[bytes, int] = {}
        self.maybe_acked: set[bytes] = set()
        self.tokens: set[tuple[bytes, int]] = set()
        self.losses = 0
        """How often a power cut has undone what was acknowledged: what was asked before counts for nothing then."""

    def undo(self) -> None:
        """A power cut in a lossy mode: tasks that were acknowledged may be gone, or come again."""
        self.losses += 1
        self.maybe_acked |= self.acked.keys()
        self.acked.clear()
        self.enqueued.clear()
        self.tokens.clear()

    def delivered(self, entry: dict[bytes, Any]) -> None:
        task, queue, token = entry[b"payload"], entry[b"queue"], entry[b"token"]
        if task not in self.offered:
            raise Violation(f"{task!r} was delivered, and nobody enqueued it")
        # A reply may be slow, and arrive after a later delivery was acked: what counts is the order of the tokens.
        if token > self.acked.get(task, token):
            raise Violation(f"I5: {task!r} was acked under token {self.acked[task]}, and leased again as {token}")
        if (queue, token) in self.tokens:
            raise Violation(f"I3: token {token} of queue {queue!r} was given twice")
        self.tokens.add((queue, token))
