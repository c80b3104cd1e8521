"""What readers of a state are given for its collections: they always show that state, whatever happens meanwhile.

Lives here: read access as mappings and sorted collections, and all of a state read at once. Must not: change anything,
or be on the way of a command. Each access to a view asks the state for its structures anew, since another version may
have had them in between; a `Reading` is a copy.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol, final

import msgspec

from moxy.core.heart import EXPIRING, FORGETTING, Heart
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.order import Key
from moxy.core.policy import Policy
from moxy.core.tasks import Task, Totals

_PAGE: Final = 64


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


class Keys(Protocol):
    """Keys in order: an `OrderView`, or a list of them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Key]: ...


class Readable(Protocol):
    """All that can be read of a state: of the state itself, or of a `Reading` of it."""

    @property
    def name(self) -> str: ...

    @property
    def policy(self) -> Policy: ...

    @property
    def seq(self) -> int: ...

    @property
    def at_ms(self) -> int: ...

    @property
    def born_ms(self) -> int: ...

    @property
    def paused(self) -> bool: ...

    @property
    def next_number(self) -> int: ...

    @property
    def last_token(self) -> int: ...

    @property
    def totals(self) -> Totals: ...

    @property
    def limbo(self) -> int: ...

    @property
    def tasks(self) -> Mapping[int, Task]: ...

    @property
    def numbers(self) -> Mapping[str, int]: ...

    @property
    def remembered(self) -> Mapping[str, tuple[int, int]]: ...

    @property
    def ready(self) -> Keys: ...

    @property
    def scheduled(self) -> Keys: ...

    @property
    def processing(self) -> Keys: ...

    @property
    def dead(self) -> Keys: ...

    @property
    def expiring(self) -> Keys: ...

    @property
    def forgetting(self) -> Keys: ...


class Reading(msgspec.Struct, frozen=True):
    """A state read at once: plain lists and dicts, for whoever looks many times at all of it. Compares by value."""

    name: str
    policy: Policy
    seq: int
    at_ms: int
    born_ms: int
    paused: bool
    next_number: int
    last_token: int
    totals: Totals
    limbo: int
    tasks: dict[int, Task]
    numbers: dict[str, int]
    remembered: dict[str, tuple[int, int]]
    ready: list[Key]
    scheduled: list[Key]
    processing: list[Key]
    dead: list[Key]
    expiring: list[Key]
    forgetting: list[Key]


FIELDS: Final = Reading.__struct_fields__
"""All that can be read of a state."""


def reading_of(version: Version) -> Reading:
    """All of a state, copied: linear in what it holds."""
    heart = version.heart()
    image = heart.image()
    tasks = {task.number: task for task in image.tasks}
    found = {task.task_id: heart.number_of(task.task_id) for task in tasks.values()}
    return Reading(
        image.name,
        image.policy,
        image.seq,
        image.at_ms,
        image.born_ms,
        image.paused,
        image.next_number,
        image.last_token,
        image.totals,
        heart.limbo,
        tasks,
        {task_id: number for task_id, number in found.items() if number is not None},
        image.remembered,
        heart.following(READY, None, heart.count(READY)),
        heart.following(SCHEDULED, None, heart.count(SCHEDULED)),
        heart.following(PROCESSING, None, heart.count(PROCESSING)),
        heart.following(DEAD, None, heart.count(DEAD)),
        heart.following(EXPIRING, None, heart.count(EXPIRING)),
        heart.following(FORGETTING, None, heart.count(FORGETTING)),
    )


def different(one: Version, other: Version) -> list[str]:
    """The names of the fields in which two states differ. Collections are compared item by item."""
    return differing(reading_of(one), reading_of(other))


def differing(one: Reading, other: Reading) -> list[str]:
    """The names of the fields in which two readings differ."""
    return [field for field in FIELDS if getattr(one, field) != getattr(other, field)]
