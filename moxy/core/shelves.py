"""Tasks by number, on shelves.

Lives here: where a number is found. Must not: anything that knows what a task is made of.

Numbers are given one after the other, so what waits has neighbours. In a dict each task would pay for a slot and for
its number as an object, 84 bytes; a shelf pays for both once, 14 bytes a task when it is full. Alone on its shelf, as
a dead letter among tasks that are done may be, a task pays 450.
"""

from collections.abc import Iterator
from typing import Final, final

from mypy_extensions import i64

from moxy.core.packing import Entry

WIDTH: Final = 32
NUMBER_MAX: Final = (1 << 62) - 1
_BITS: Final = 5
_MASK: Final = WIDTH - 1
_NOWHERE: Final = -1 << 61


@final
class _Shelf:
    """A place for each of `WIDTH` numbers, and how many were taken when it was left."""

    __slots__ = ("count", "entries")

    def __init__(self) -> None:
        self.count: i64 = 0
        self.entries: Final[list[Entry | None]] = [None] * WIDTH


_NO_SHELF: Final = _Shelf()


@final
class Shelves:
    """What a dict of number -> entry would be, always in rising order. Numbers are 0 to `NUMBER_MAX`; others can be
    asked for, and are not there."""

    __slots__ = ("_far_count", "_near", "_near_count", "_near_entries", "_near_key", "_shelves")

    def __init__(self) -> None:
        self._near_key: i64 = _NOWHERE
        self._near_entries = _NO_SHELF.entries
        self._near_count: i64 = 0
        """The shelf that was used last. The next number is mostly on the same, and what it takes to find it is here."""
        self._far_count: i64 = 0
        """How many are on all others."""
        self._near = _NO_SHELF
        self._shelves: Final[dict[int, _Shelf]] = {}
        """By the number over `WIDTH`. None is empty, except for the nearest perhaps."""

    def __len__(self) -> int:
        return self._far_count + self._near_count

    def __iter__(self) -> Iterator[int]:
        """Numbers, rising. What happens meanwhile is not seen."""
        numbers: list[int] = []
        for first in sorted(self.firsts()):
            entries = self._shelves[first >> _BITS].entries
            numbers += [first + at for at in range(WIDTH) if entries[at] is not None]
        return iter(numbers)

    def __contains__(self, number: int) -> bool:
        return self.get(number) is not None

    def __getitem__(self, number: int) -> Entry:
        entry = self.get(number)
        if entry is None:
            raise KeyError(number)
        return entry

    def get(self, number: int) -> Entry | None:
        """What is there, or None."""
        if not 0 <= number <= NUMBER_MAX:
            return None
        at: i64 = number
        key = at >> _BITS
        return self._near_entries[at & _MASK] if key == self._near_key or self._turns_to(key) else None

    def read(self, number: int) -> Entry | None:
        """`get` for another thread: it notes nothing."""
        shelf = self._shelves.get(number >> _BITS)
        return None if shelf is None else shelf.entries[number & _MASK]

    def __setitem__(self, number: int, entry: Entry) -> None:
        at: i64 = number
        key = at >> _BITS
        if key != self._near_key and not self._turns_to(key):
            shelf = self._shelves[key] = _Shelf()
            self._turn_to(key, shelf)
        entries, place = self._near_entries, at & _MASK
        if entries[place] is None:
            self._near_count += 1
        entries[place] = entry

    def __delitem__(self, number: int) -> None:
        at: i64 = number
        key = at >> _BITS
        if (key != self._near_key and not self._turns_to(key)) or self._near_entries[at & _MASK] is None:
            raise KeyError(number)
        self._near_count -= 1
        self._near_entries[at & _MASK] = None

    def _turns_to(self, key: i64) -> bool:
        """Let one that is not the nearest be it. False: there is none."""
        shelf = self._shelves.get(key)
        if shelf is None:
            return False
        self._turn_to(key, shelf)
        return True

    def _turn_to(self, key: i64, shelf: _Shelf) -> None:
        """This one is the nearest now. Only here is an empty one let go of: in a queue whose workers keep up, each task
        leaves its shelf empty, and the next one is on the same."""
        if self._near_count:
            self._near.count = self._near_count
            self._far_count += self._near_count
        elif self._near_key != _NOWHERE:
            del self._shelves[self._near_key]
        self._near_key, self._near, self._near_entries, self._near_count = key, shelf, shelf.entries, shelf.count
        self._far_count -= shelf.count

    def firsts(self) -> list[int]:
        """The first number of each shelf, in no order: whether it is taken or not, any that is there is less than
        `WIDTH` above one of these."""
        return [shelf << _BITS for shelf in self._shelves]
