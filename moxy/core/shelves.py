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
    """A place for each of `WIDTH` numbers, and how many are taken."""

    __slots__ = ("count", "entries")

    def __init__(self) -> None:
        self.count: i64 = 0
        self.entries: Final[list[Entry | None]] = [None] * WIDTH


_NO_SHELF: Final = _Shelf()


@final
class Shelves:
    """What a dict of number -> entry would be, always in rising order. Numbers are 0 to `NUMBER_MAX`; others can be
    asked for, and are not there."""

    __slots__ = ("_count", "_near", "_near_key", "_shelves")

    def __init__(self) -> None:
        self._count = 0
        self._shelves: Final[dict[int, _Shelf]] = {}
        """By the number over `WIDTH`. None is empty, except for the nearest perhaps."""
        self._near_key: i64 = _NOWHERE
        self._near = _NO_SHELF
        """The one that was used last. The next number is mostly on the same."""

    def __len__(self) -> int:
        return self._count

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
        shelf = self._near if key == self._near_key else self._farther(key)
        return None if shelf is None else shelf.entries[at & _MASK]

    def read(self, number: int) -> Entry | None:
        """`get` for another thread: it notes nothing."""
        shelf = self._shelves.get(number >> _BITS)
        return None if shelf is None else shelf.entries[number & _MASK]

    def __setitem__(self, number: int, entry: Entry) -> None:
        at: i64 = number
        key = at >> _BITS
        shelf = self._near if key == self._near_key else self._farther(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf()
            self._turn_to(key, shelf)
        entries, place = shelf.entries, at & _MASK
        if entries[place] is None:
            shelf.count += 1
            self._count += 1
        entries[place] = entry

    def __delitem__(self, number: int) -> None:
        at: i64 = number
        key = at >> _BITS
        shelf = self._near if key == self._near_key else self._farther(key)
        if shelf is None or shelf.entries[at & _MASK] is None:
            raise KeyError(number)
        self._count -= 1
        shelf.count -= 1
        shelf.entries[at & _MASK] = None

    def _farther(self, key: i64) -> _Shelf | None:
        """One that is not the nearest, and is it now; None: there is none."""
        shelf = self._shelves.get(key)
        if shelf is not None:
            self._turn_to(key, shelf)
        return shelf

    def _turn_to(self, key: i64, shelf: _Shelf) -> None:
        """This one is the nearest now. Only here is an empty one let go of: in a queue whose workers keep up, each task
        leaves its shelf empty, and the next one is on the same."""
        if not self._near.count and self._near_key != _NOWHERE:
            del self._shelves[self._near_key]
        self._near_key, self._near = key, shelf

    def firsts(self) -> list[int]:
        """The first number of each shelf, in no order: whether it is taken or not, any that is there is less than
        `WIDTH` above one of these."""
        return [shelf << _BITS for shelf in self._shelves]
