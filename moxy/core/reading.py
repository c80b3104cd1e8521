"""What readers of a state are given for its collections: they always show that state, whatever happens meanwhile.

Lives here: read access as mappings and sorted collections. Must not: change anything, or be on the way of a command.
Each access asks the state for its structures anew, since another version may have had them in between.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol, final

from moxy.core.heart import Heart
from moxy.core.order import Key
from moxy.core.tasks import Task

_PAGE: Final = 64

FIELDS: Final = (
    "name",
    "policy",
    "seq",
    "at_ms",
    "born_ms",
    "paused",
    "next_number",
    "last_token",
    "totals",
    "tasks",
    "numbers",
    "ready",
    "scheduled",
    "processing",
    "dead",
    "expiring",
    "limbo",
    "remembered",
    "forgetting",
)
"""All that can be read of a state."""


class Version(Protocol):
    """A state, as far as its collections are concerned."""

    def heart(self) -> Heart:
        """The structures as they are in this version, until another version is read or made."""


@final
class Tasks(Mapping[int, Task]):
    """Number -> task."""

    def __init__(self, version: Version) -> None:
        self._version: Final = version

    def __getitem__(self, number: int) -> Task:
        task = self._version.heart().task(number)
        if task is None:
            raise KeyError(number)
        return task

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._version.heart().tasks))

    def __len__(self) -> int:
        return len(self._version.heart().tasks)


@final
class Names(Mapping[str, int]):
    """Task id -> number."""

    def __init__(self, version: Version) -> None:
        self._version: Final = version

    def __getitem__(self, task_id: str) -> int:
        number = self._version.heart().number_of(task_id)
        if number is None:
            raise KeyError(task_id)
        return number

    def __iter__(self) -> Iterator[str]:
        return iter([task.task_id for task in self._version.heart().image().tasks])

    def __len__(self) -> int:
        return len(self._version.heart().tasks)


@final
class Memories(Mapping[str, tuple[int, int]]):
    """Task id -> (until_ms, number), of tasks that are gone and remembered."""

    def __init__(self, version: Version) -> None:
        self._version: Final = version

    def __getitem__(self, task_id: str) -> tuple[int, int]:
        return self._version.heart().remembered[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._version.heart().remembered))

    def __len__(self) -> int:
        return len(self._version.heart().remembered)


@final
class OrderView:
    """Keys in order. Read in pages, so that the first few of a million are cheap."""

    def __init__(self, version: Version, order: str) -> None:
        self._version: Final = version
        self._order: Final = order

    def __len__(self) -> int:
        return self._version.heart().count(self._order)

    def __iter__(self) -> Iterator[Key]:
        last: Key | None = None
        size = _PAGE
        while page := self._version.heart().following(self._order, last, size):
            yield from page
            if len(page) < size:
                return
            last, size = page[-1], 2 * size

    def __contains__(self, key: Key) -> bool:
        return self._version.heart().holds(self._order, key)

    def first(self) -> Key | None:
        """The smallest key, or None."""
        page = self._version.heart().following(self._order, None, 1)
        return page[0] if page else None


def different(one: object, other: object) -> list[str]:
    """The names of the fields in which two states differ. Collections are compared item by item."""
    mine = [plain(getattr(one, field)) for field in FIELDS]
    theirs = [plain(getattr(other, field)) for field in FIELDS]
    return [field for field, a, b in zip(FIELDS, mine, theirs, strict=True) if a != b]


def plain(value: object) -> object:
    """A field of a state as a value of its own: a list of keys, a dict, or what it is already."""
    if isinstance(value, OrderView):
        return list(value)
    return dict(value) if isinstance(value, Tasks | Names | Memories) else value
