"""A sorted set that is changed in place: the one structure for every order that a queue keeps.

Lives here: where keys stand. Must not: anything that knows what a task is.

Made for what queues do: keys come mostly in rising order and leave mostly from the front. So it is a sorted list with
a head that moves, O(1) for both. What comes back into the middle (a task returning to its place) goes to a heap
beside it, O(log n). What leaves from the middle (an ACK, a DELETE) is noted in a set and skipped; when half of what
is held is such, it is swept out. So the size follows the keys that are there, never rate times duration.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeAlias, TypeVar, final

Key: TypeAlias = tuple[int, int, int]
"""What tasks are sorted by, most significant first. The last part is a number that tells equals apart."""

K = TypeVar("K", int, Key)

_TRIM: Final = 256
"""Least number of places before the head, or of keys that left from the middle, that is worth a sweep."""


@final
class _Heap(Generic[K]):
    """Keys of which the first is at hand."""

    __slots__ = ("_known", "keys")

    def __init__(self, keys: list[K]) -> None:
        """`keys` are kept, not copied."""
        heapify(keys)
        self.keys: Final[list[K]] = keys
        """To be read."""
        self._known: set[K] | None = None
        """The same keys, for whoever asks if one is there; None while nobody has asked."""

    def __contains__(self, key: K) -> bool:
        """O(1), except for the first question ever: O(n)."""
        if self._known is None:
            self._known = set(self.keys)
        return key in self._known

    def push(self, key: K) -> None:
        heappush(self.keys, key)
        if self._known is not None:
            self._known.add(key)

    def pop(self) -> K:
        key = heappop(self.keys)
        if self._known is not None:
            self._known.discard(key)
        return key


@final
class Order(Generic[K]):
    """Keys in rising order, each at most once."""

    __slots__ = ("_gone", "_head", "_late", "_run")

    def __init__(self, keys: Iterable[K] = ()) -> None:
        """`keys` may come in any order."""
        self._run: list[K] = sorted(keys)
        self._head = 0
        """Where in the run the keys begin that are still there. The one there is never in `_gone`."""
        self._late: _Heap[K] | None = None
        """What came back into the middle; None while there is nothing. Its first is never in `_gone`."""
        self._gone: set[K] | None = None
        """Keys of run and heap that were removed; None while there are none."""

    def __len__(self) -> int:
        return len(self._run) - self._head + self._late_count() - (0 if self._gone is None else len(self._gone))

    def __contains__(self, key: K) -> bool:
        """O(log n), except for the first question ever: O(n)."""
        if self._gone is not None and key in self._gone:
            return False
        at = bisect_left(self._run, key, self._head)
        if at < len(self._run) and self._run[at] == key:
            return True
        return self._late is not None and key in self._late

    def first(self) -> K | None:
        """The smallest key, or None."""
        run, head, late = self._run, self._head, self._late
        if head == len(run):
            return None if late is None else late.keys[0]
        key = run[head]
        return late.keys[0] if late is not None and late.keys[0] < key else key

    def add(self, key: K) -> None:
        """Put in `key`, which must not be there."""
        run, gone = self._run, self._gone
        if gone is not None and key in gone:
            gone.discard(key)
            if not gone:
                self._gone = None
        elif not run or run[-1] < key:
            run.append(key)
        elif self._head == len(run):
            self._run, self._head = [key], 0
        elif self._head and key < run[self._head]:
            self._head -= 1
            run[self._head] = key
        elif self._late is None:
            self._late = _Heap([key])
        else:
            self._late.push(key)

    def remove(self, key: K) -> None:
        """Take out `key`, which must be there."""
        run, head, late = self._run, self._head, self._late
        if head < len(run) and run[head] == key:
            self._head = head = head + 1
            if self._gone is not None:
                self._settle()
            elif head >= _TRIM and head * 2 >= len(run):
                del run[:head]
                self._head = 0
        elif late is not None and late.keys[0] == key:
            late.pop()
            self._settle()
        else:
            if self._gone is None:
                self._gone = set()
            self._gone.add(key)
            if len(self._gone) >= _TRIM and len(self._gone) * 2 >= len(run) - head + self._late_count():
                self._sweep()

    def following(self, key: K | None, count: int) -> list[K]:
        """The first `count` keys above `key`, in order; None: from the first on."""
        run, gone = self._run, self._gone
        late: list[K] = [] if self._late is None else sorted(self._late.keys)
        # What lies before the head is not sorted any more once a key has come back there.
        at = self._head if key is None else bisect_right(run, key, self._head)
        behind = 0 if key is None else bisect_right(late, key)
        if gone is None and behind == len(late):
            return run[at : at + count]
        found: list[K] = []
        while len(found) < count:
            if behind < len(late) and (at == len(run) or late[behind] < run[at]):
                following = late[behind]
                behind += 1
            elif at < len(run):
                following = run[at]
                at += 1
            else:
                break
            if gone is None or following not in gone:
                found.append(following)
        return found

    def _late_count(self) -> int:
        return 0 if self._late is None else len(self._late.keys)

    def _settle(self) -> None:
        """Something left the front: let a key that is there stand first again, in run and heap."""
        run, late, gone = self._run, self._late, self._gone
        if gone is not None:
            head = self._head
            while gone and head < len(run) and run[head] in gone:
                gone.discard(run[head])
                head += 1
            self._head = head
            while gone and late is not None and late.keys and late.keys[0] in gone:
                gone.discard(late.pop())
            if not gone:
                self._gone = None
        if late is not None and not late.keys:
            self._late = None
        if self._head >= _TRIM and self._head * 2 >= len(run):
            del run[: self._head]
            self._head = 0

    def _sweep(self) -> None:
        """Let go of all keys that left from the middle."""
        gone = self._gone
        if gone is not None:
            self._run = [key for key in self._run[self._head :] if key not in gone]
            self._head = 0
            self._gone = None
            late = [] if self._late is None else [key for key in self._late.keys if key not in gone]
            self._late = _Heap(late) if late else None
