"""The one timer of a server.

Lives here: being woken when time next causes something. Must not: know what.
"""

import asyncio
from collections.abc import Callable
from typing import Final, final

from moxy.backends.base import Clock


@final
class Alarm:
    """Calls `ring` at a moment of `clock`, in the running loop. There is one moment at a time."""

    __slots__ = ("_at_ms", "_clock", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, ring: Callable[[], None]) -> None:
        self._loop: Final = loop
        self._clock: Final = clock
        self._ring: Final = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at_ms: int | None = None

    def set(self, at_ms: int | None) -> None:
        """Ring then, and not at the moment that was set before. None: never."""
        if at_ms == self._at_ms and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at_ms = at_ms
        if at_ms is not None:
            delay_s = max(at_ms - self._clock.now_ms(), 0) / 1000
            self._timer = self._loop.call_later(delay_s, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = self._at_ms = None
        self._ring()
