"""A persistent sorted set: every version stays valid and shares what it can with its neighbours.

Lives here: one structure for every order that a queue keeps (ready tasks, deadlines, due times, deaths). Must not:
anything that knows what a task is.

It is a B+ tree of tuples. A change copies one leaf and the branches above it, O(log n); slices of small tuples are
copied in C, which makes this about as fast as a pure Python persistent order gets. Nodes split but never merge: an
empty node vanishes and a lone child replaces its parent, so memory follows what is in the set, and the depth never
exceeds what its largest size needed. See docs/adr/0002-persistent-state.md for what else was tried.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, final

Key: TypeAlias = tuple[int, int, int]
"""What is ordered: two sort fields, then the task's number, which makes a key unique and finds its task."""

_WIDTH: Final = 32


@final
class _Branch:
    """Inner node. `lows[i]` bounds the keys of `kids[i]` from below; a removal may leave it lower than need be."""

    __slots__ = ("kids", "lows")

    def __init__(self, lows: tuple[Key, ...], kids: "tuple[_Node, ...]") -> None:
        self.lows: Final = lows
        self.kids: Final = kids


_Leaf: TypeAlias = tuple[Key, ...]
_Node: TypeAlias = _Leaf | _Branch


@final
class Ordered:
    """An immutable sorted set of keys. `add` and `remove` return another set."""

    __slots__ = ("_root", "_size")

    def __init__(self, root: _Node = (), size: int = 0) -> None:
        self._root: Final = root
        self._size: Final = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Key]:
        return _walk(self._root, None)

    def __repr__(self) -> str:
        return f"Ordered of {self._size}"

    def first(self) -> Key | None:
        """The smallest key, or None when empty."""
        if not self._size:
            return None
        node = self._root
        while isinstance(node, _Branch):
            node = node.kids[0]
        return node[0]

    def since(self, low: Key) -> Iterator[Key]:
        """The keys not below `low`, in order."""
        return _walk(self._root, low)

    def add(self, key: Key) -> "Ordered":
        """With `key`, which must not be in the set."""
        left, right = _add(self._root, key)
        if right is None:
            return Ordered(left, self._size + 1)
        return Ordered(_Branch((_low(left), _low(right)), (left, right)), self._size + 1)

    def remove(self, key: Key) -> "Ordered":
        """Without `key`. Raises KeyError if it is not in the set."""
        root = _remove(self._root, key)
        while isinstance(root, _Branch) and len(root.kids) == 1:
            root = root.kids[0]
        return Ordered(root, self._size - 1)


EMPTY: Final = Ordered()


def ordered(keys: Iterable[Key]) -> Ordered:
    """A set of `keys`, which may come in any order but not twice."""
    result = EMPTY
    for key in sorted(keys):
        result = result.add(key)
    return result


def _low(node: _Node) -> Key:
    return node.lows[0] if isinstance(node, _Branch) else node[0]


def _add(node: _Node, key: Key) -> tuple[_Node, _Node | None]:
    """The node with the key in it, and the right half that was split off if it had become too wide."""
    if not isinstance(node, _Branch):
        at = len(node) if not node or node[-1] < key else bisect_left(node, key)
        grown = (*node[:at], key, *node[at:])
        if len(grown) <= _WIDTH:
            return grown, None
        # Keys mostly come in rising order: a leaf that grew at its end is left full, not half empty.
        cut = _WIDTH if at == _WIDTH else _WIDTH // 2
        return grown[:cut], grown[cut:]
    at = max(bisect_right(node.lows, key) - 1, 0)
    left, right = _add(node.kids[at], key)
    kids, lows = node.kids, node.lows
    if right is None:
        return _Branch(lows, (*kids[:at], left, *kids[at + 1 :])), None
    kids = (*kids[:at], left, right, *kids[at + 1 :])
    lows = (*lows[: at + 1], _low(right), *lows[at + 1 :])
    if len(kids) <= _WIDTH:
        return _Branch(lows, kids), None
    cut = _WIDTH if at == _WIDTH - 1 else _WIDTH // 2
    return _Branch(lows[:cut], kids[:cut]), _Branch(lows[cut:], kids[cut:])


def _remove(node: _Node, key: Key) -> _Node:
    """The node without the key; the empty leaf when that was all it held."""
    if not isinstance(node, _Branch):
        at = bisect_left(node, key)
        if at == len(node) or node[at] != key:
            raise KeyError(key)
        return (*node[:at], *node[at + 1 :])
    at = max(bisect_right(node.lows, key) - 1, 0)
    kids = node.kids
    kid = _remove(kids[at], key)
    if kid:  # a branch is always true: it has no length
        return _Branch(node.lows, (*kids[:at], kid, *kids[at + 1 :]))
    if len(kids) == 1:
        return ()
    lows = node.lows
    return _Branch((*lows[:at], *lows[at + 1 :]), (*kids[:at], *kids[at + 1 :]))


def _walk(root: _Node, low: Key | None) -> Iterator[Key]:
    """All keys from `low` on. The stack holds what is left to visit, nearest last."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, _Branch):
            at = 0 if low is None else max(bisect_right(node.lows, low) - 1, 0)
            stack.extend(reversed(node.kids[at:]))
        else:
            yield from node if low is None else node[bisect_left(node, low) :]
            if node and low is not None and node[-1] >= low:
                low = None
