"""When each of many queues next needs time: one number a queue, and the soonest of all at hand.

Lives here: the order of due times. Must not: do what is due.
"""

import heapq
from typing import Final, final

_SLACK: Final = 64
"""Entries of the order that may be out of date before it is made anew: its size follows the queues, not the changes."""


@final
class DueTimes:
    """Queue -> milliseconds since 1970. Setting and taking cost O(log n)."""

    __slots__ = ("_at_ms", "_order")

    def __init__(self) -> None:
        self._at_ms: Final[dict[str, int]] = {}
        self._order: list[tuple[int, str]] = []

    def set(self, queue: str, at_ms: int | None) -> None:
        """The queue needs time at `at_ms`, or (None) not at all."""
        if at_ms is None:
            self._at_ms.pop(queue, None)
        elif self._at_ms.get(queue) != at_ms:
            self._at_ms[queue] = at_ms
            heapq.heappush(self._order, (at_ms, queue))
            if len(self._order) > 2 * len(self._at_ms) + _SLACK:
                self._order = [(ms, name) for name, ms in self._at_ms.items()]
                heapq.heapify(self._order)

    def no_later(self, queue: str, at_ms: int) -> None:
        """The queue needs time at `at_ms`, unless it does sooner."""
        known_ms = self._at_ms.get(queue)
        if known_ms is None or at_ms < known_ms:
            self.set(queue, at_ms)

    def first_ms(self) -> int | None:
        """The soonest time; None when no queue waits for any."""
        order = self._order
        while order and self._at_ms.get(order[0][1]) != order[0][0]:
            heapq.heappop(order)
        return order[0][0] if order else None

    def take(self, now_ms: int, most: int) -> list[str]:
        """Up to `most` queues whose time has come, soonest first; they no longer have one."""
        taken: list[str] = []
        while len(taken) < most and (first_ms := self.first_ms()) is not None and first_ms <= now_ms:
            queue = heapq.heappop(self._order)[1]
            del self._at_ms[queue]
            taken.append(queue)
        return taken
