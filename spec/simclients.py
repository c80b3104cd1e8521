"""What the simulated clients are made of: a connection that asks one thing at a time, and what they know for certain.

Lives here: RESP2 as a client reads it, and the rules that no reply may break. Must not: what clients do (`simulate`).
"""

import asyncio
from typing import Any

import msgspec

from spec.simloop import SimTransport


class Violation(AssertionError):
    """Something that must never happen did."""


class Connection(asyncio.Protocol):
    """A client's end: one command at a time; a reply, or None when the connection is gone and nobody knows."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[Any] | None = None
        self.transport: SimTransport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SimTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        parsed = _parse(self._buffer, 0)
        if parsed is not None and self._waiting is not None and not self._waiting.done():
            value, end = parsed
            self._buffer = self._buffer[end:]
            self._waiting.set_result(value)

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
        parts = [b"*%d\r\n" % len(raw), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)]
        self.transport.write(b"".join(parts))
        return await self._waiting


class Lost:
    """No reply: the command may have been carried out, or not."""


class ServerError(msgspec.Struct, frozen=True):
    """An error reply."""

    text: str


def _parse(data: bytes, at: int) -> tuple[Any, int] | None:
    """One RESP2 value from `at`, and where it ends; None when it is not all there."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, rest, at = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind == b"+":
        return rest, at
    if kind == b"-":
        return ServerError(rest.decode()), at
    if kind == b":":
        return int(rest), at
    length = int(rest)
    if length < 0:
        return None if kind not in b"$*" else (None, at)
    if kind == b"$":
        return (data[at : at + length], at + length + 2) if len(data) >= at + length + 2 else None
    items = []
    for _ in range(length):
        parsed = _parse(data, at)
        if parsed is None:
            return None
        items.append(parsed[0])
        at = parsed[1]
    return items, at


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
