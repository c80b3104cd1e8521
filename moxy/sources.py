"""Real time and real chance: the only place where they enter.

Lives here: the clock and the source of random bits that the product runs with. Must not: be imported by anything but
the wiring (cli) and tests of this file; everybody else is handed a `Clock` and an `IdSource`.
"""

import os
import time
from typing import Final, final

from mypy_extensions import i64

_MS_NS: Final = 1_000_000


@final
class SystemClock:
    """Milliseconds since 1970, anchored to the wall clock once and advanced by the monotonic one.

    A step of the wall clock while the server runs neither expires a lease early nor keeps one for ever.
    `not_before_ms` (the last event of a recovered log) keeps time from going back across a restart.
    """

    __slots__ = ("_anchor_ms", "_since_ns")

    def __init__(self, not_before_ms: int = 0) -> None:
        wall_ns = max(time.time_ns(), not_before_ms * _MS_NS)
        # Apart from each other, since a machine's number holds nanoseconds only until the year 2262.
        self._anchor_ms: Final[i64] = wall_ns // _MS_NS
        self._since_ns: Final[i64] = time.monotonic_ns() - wall_ns % _MS_NS

    def now_ms(self) -> int:
        monotonic_ns: i64 = time.monotonic_ns()
        return self._anchor_ms + (monotonic_ns - self._since_ns) // _MS_NS


@final
class RandomIds:
    """64 random bits at a time from the operating system, read in blocks because a call each would cost more."""

    __slots__ = ("_at", "_block")

    _BLOCK_BYTES: Final = 4096

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def seed(self) -> int:
        at = self._at
        if at == len(self._block):
            self._block = os.urandom(self._BLOCK_BYTES)
            at = 0
        self._at = at + 8
        return int.from_bytes(self._block[at : at + 8], "little")

    def digits(self, count: int) -> bytes:
        return os.urandom(count // 2).hex().encode()
