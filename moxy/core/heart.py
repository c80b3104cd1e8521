"""The heart of a queue: the structures that hold its tasks, changed in place.

Lives here: where a task stands, in which structures, and how it moves from one to another. Must not: rules (decider),
what an event means (effects). Nobody outside the core sees a heart: states (state.py) own one and lend it.

Leaving and joining an order is O(1) for what a busy queue does all day, O(log n) for the rest; see order.py.
"""

from collections.abc import Iterable, Iterator
from typing import Final, final

from moxy.core.dedup import Dedup
from moxy.core.ids import tells_number
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.order import Key, Order
from moxy.core.packing import Entry, Held, unfold, unpack
from moxy.core.policy import Policy
from moxy.core.shelves import WIDTH, Shelves
from moxy.core.tasks import PRIORITY_MAX, Image, Task, Totals

MATURED: Final = 0
EXTENDED: Final = 1
EXPIRED_COUNT: Final = 2
FAILED_COUNT: Final = 3
RELEASED: Final = 4
REQUEUED: Final = 5
DEAD_LETTERED: Final = 6
REDRIVEN: Final = 7
DELETED: Final = 8
COUNTS: Final = 9
"""Positions in `Heart.counts`: the fields of `Totals`, in their order, but for the three that have attributes."""

PACK_FROM: Final = 4096
"""Number of tasks from which on new ones are packed: short queues stay as fast as they can be."""

NEVER_MS: Final = (1 << 62) - 1
"""The largest number that compiled code compares without making an object of it."""

EXPIRING: Final = "expiring"
FORGETTING: Final = "forgetting"
"""Names of the two orders that are not those of a state."""


@final
class Heart:
    """Everything about one queue after its event `seq`.

    Ready tasks stand in a lane per priority, by place. A place is the task's number until a redrive gives it another:
    `moved` tells the number of such a place. The other orders hold keys that end with the number.

    With ten thousand queues, none is in the processor's cache when its turn comes, and a command costs as many waits
    for memory as there are lines of 64 bytes that it reads. So what every command reads stands first, side by side
    (mypyc keeps attributes in the order of `__init__`), and what most queues never need is None until it is needed.
    """

    __slots__ = (
        "acked",
        "at_ms",
        "born_ms",
        "counts",
        "dead",
        "dedup",
        "enqueued",
        "expiring",
        "last_token",
        "leased",
        "limbo",
        "moved",
        "name",
        "names",
        "next_number",
        "pack_from",
        "paused",
        "plain",
        "policy",
        "processing",
        "scheduled",
        "seq",
        "shadow",
        "soonest_ms",
        "tasks",
        "urgent",
        "young",
    )

    def __init__(self, name: str, policy: Policy) -> None:
        self.seq = 0
        self.at_ms = 0
        self.born_ms = 0
        self.name: Final = name
        self.policy = policy
        self.tasks: Final = Shelves()
        """By number, in full or in short. Read single ones by `task`."""
        self.plain: Order[int] = Order()
        """The lane of the tasks of priority 0, which nearly all have."""
        self.urgent: list[Order[int]] | None = None
        """The lanes of the priorities above, the least urgent first; None while there was none of them."""
        self.next_number = 1
        self.last_token = 0
        self.enqueued = 0
        self.leased = 0
        self.acked = 0
        self.dedup: Dedup | None = None
        """Ids of tasks that are gone; None when there are none."""
        self.names: dict[str, int] | None = None
        """By id, except those that tell the number themselves (`ids.tells_number`); None until there is one."""
        self.moved: dict[int, int] | None = None
        """By place, where it is not the number; None while there is none."""
        self.shadow: dict[int, Entry | None] | None = None
        """While the tasks are frozen: what was there of those that changed since."""
        self.soonest_ms = NEVER_MS
        """Nothing is due before: a bound, made exact when its time has come."""
        self.young: Final[set[int]] = set()
        """Numbers of leased tasks that are not in `processing` yet. Most leases end before anybody asks for the order
        of deadlines, and never stand in it."""
        self.pack_from = PACK_FROM
        self.paused = False
        # From here on what is seldom looked at.
        self.counts: list[int] = [0] * COUNTS
        """How often the rest happened. The three above happen all day, and an item of a list costs compiled code ten
        times an attribute."""
        self.scheduled: Order[Key] = Order()
        self.processing: Order[Key] = Order()
        """Read it by `by_deadline`."""
        self.dead: Order[Key] = Order()
        self.expiring: Order[Key] = Order()
        self.limbo = 0
        """How many tasks are between two events of one batch, in `expired` or `failed`."""

    def lane(self, priority: int) -> Order[int]:
        """Where ready tasks of that priority stand."""
        if not priority:
            return self.plain
        if self.urgent is None:
            self.urgent = [Order() for _ in range(PRIORITY_MAX)]
        return self.urgent[priority - 1]

    def lanes(self) -> list[Order[int]]:
        """All lanes, most urgent first."""
        return [self.plain] if self.urgent is None else [*reversed(self.urgent), self.plain]

    def first_lane(self) -> Order[int]:
        """The lane that a FETCH takes from (docs/semantics.md, Order). It is empty if no task is ready."""
        if self.urgent is not None:
            for lane in reversed(self.urgent):
                if lane.first() is not None:
                    return lane
        return self.plain

    def first_ready(self) -> Task | None:
        """The task that a FETCH gets."""
        place = self.first_lane().first()
        if place is None:
            return None
        number = self.number_at(place)
        entry = self.tasks[number]
        if isinstance(entry, bytes):
            # It is about to be used: by the FETCH, and by the event that follows.
            entry = self.tasks[number] = unpack(entry)
        return unfold(number, entry)

    def number_at(self, place: int) -> int:
        """The number of the task that has that place."""
        return place if self.moved is None else self.moved.get(place, place)

    def task(self, number: int) -> Task | None:
        """The task with that number, or None."""
        entry = self.tasks.get(number)
        return None if entry is None else unfold(number, entry)

    def the_task(self, number: int) -> Task:
        """The task with that number, which is there."""
        task = self.task(number)
        assert task is not None, number
        return task

    def number_of(self, task_id: str) -> int | None:
        """The number of the live or dead task with that id, or None."""
        number = None if self.names is None else self.names.get(task_id)
        if number is None:
            digits, dash, _ = task_id.partition("-")
            if dash and digits.isdecimal() and len(digits) < 20:
                task = self.task(int(digits))
                if task is not None and task.task_id == task_id:
                    return task.number
        return number

    def ready_count(self) -> int:
        """How many tasks are ready."""
        count = 0
        for lane in self.lanes():
            count += len(lane)
        return count

    def count(self, order: str) -> int:
        """How many keys there are in the order of a state, or one of the two others."""
        return self.ready_count() if order == READY else len(self._order(order))

    def following(self, order: str, key: Key | None, count: int) -> list[Key]:
        """The first `count` keys above `key` (None: from the first on), as `place_of` and `ttl_place_of` make them."""
        if order != READY:
            return self._order(order).following(key, count)
        found: list[Key] = []
        lanes = self.lanes()
        for at, lane in enumerate(lanes):
            rank = at + PRIORITY_MAX + 1 - len(lanes)
            if key is None or rank >= key[0]:
                after = key[1] if key is not None and rank == key[0] else None
                places = lane.following(after, count - len(found))
                found += [(rank, place, self.number_at(place)) for place in places]
        return found

    def holds(self, order: str, key: Key) -> bool:
        """Whether that very key is in the order of a state, or one of the two others."""
        if order != READY:
            return key in self._order(order)
        rank, place, number = key
        lanes = self.lanes()
        at = rank - (PRIORITY_MAX + 1 - len(lanes))
        return 0 <= at < len(lanes) and place in lanes[at] and self.number_at(place) == number

    def _order(self, name: str) -> Order[Key]:
        if name == SCHEDULED:
            return self.scheduled
        if name == PROCESSING:
            return self.by_deadline()
        if name == DEAD:
            return self.dead
        if name == EXPIRING:
            return self.expiring
        return Order() if self.dedup is None else self.dedup.order

    def by_deadline(self) -> Order[Key]:
        """Where the tasks under a lease stand: each lease is put in its place once at most, when somebody asks."""
        if self.young:
            keys = [_deadline_of(number, self.tasks[number]) for number in self.young]
            self.young.clear()
            if self.processing:
                for key in sorted(keys):
                    self.processing.add(key)
            else:
                self.processing = Order(keys)
        return self.processing

    def end_lease(self, number: int, entry: Entry) -> None:
        """A task that was `entry` is under no lease any more."""
        count = len(self.young)
        self.young.discard(number)
        if len(self.young) == count:
            self.processing.remove(_deadline_of(number, entry))

    def oldest_ready_ms(self) -> int | None:
        """When the ready task with the earliest place got it; None when nothing is ready."""
        places = [place for lane in self.lanes() if (place := lane.first()) is not None]
        return self.the_task(self.number_at(min(places))).placed_ms if places else None

    def next_due_ms(self) -> int | None:
        """When time next causes an event here: a deadline, a TTL or a due time; None when nothing waits for time."""
        due_ms: int | None = None
        key = self.by_deadline().first()
        if key is not None:
            due_ms = key[0]
        key = self.expiring.first()
        if key is not None and (due_ms is None or key[0] < due_ms):
            due_ms = key[0]
        key = self.scheduled.first()
        if key is not None and (due_ms is None or key[0] < due_ms):
            due_ms = key[0]
        return due_ms

    def named(self, task_id: str) -> Task | None:
        """The live or dead task with that id, or None."""
        number = self.number_of(task_id)
        return None if number is None else self.task(number)

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether enqueueing this id would create nothing (I14)."""
        if self.number_of(task_id) is not None:
            return True
        return self.dedup is not None and self.dedup.knows(task_id, now_ms)

    def swap(self, old: Task | None, new: Task | None) -> None:
        """Put `new` in the place of `old`, in every structure. None: not there before, or not any more."""
        if old is not None:
            self._leave(old)
            if old.place != old.number:
                self._move_back(old.place)
            if new is None:
                self.shade(old.number, old)
                del self.tasks[old.number]
                self.unname(old.task_id)
        if new is not None:
            self.shade(new.number, old)
            self.tasks[new.number] = new
            if old is None:
                self.name_it(new.task_id, new.number)
            if new.place != new.number:
                self.move(new.place, new.number)
            self._join(new)

    def name_it(self, task_id: str, number: int) -> None:
        """Let `number_of` find a new task."""
        if not tells_number(task_id, number):
            if self.names is None:
                self.names = {}
            self.names[task_id] = number

    def unname(self, task_id: str) -> None:
        """A task is gone, or will be at once."""
        if self.names is not None:
            self.names.pop(task_id, None)

    def move(self, place: int, number: int) -> None:
        """Let `number_at` find a task at a place that is not its number."""
        if self.moved is None:
            self.moved = {}
        self.moved[place] = number

    def _move_back(self, place: int) -> None:
        if self.moved is not None:
            del self.moved[place]
            if not self.moved:
                self.moved = None

    def shade(self, number: int, old: Entry | None) -> None:
        """Before a task changes, comes or goes: let who reads the frozen tasks find what was there."""
        if self.shadow is not None:
            self.shadow.setdefault(number, old)

    def _leave(self, task: Task) -> None:
        state = task.state
        if state == READY:
            self.lane(task.priority).remove(task.place)
        elif state == SCHEDULED:
            self.scheduled.remove(place_of(task))
        elif state == PROCESSING:
            self.end_lease(task.number, task)
        elif state == DEAD:
            self.dead.remove(place_of(task))
        else:
            self.limbo -= 1
        ttl = ttl_place_of(task)
        if ttl is not None:
            self.expiring.remove(ttl)

    def _join(self, task: Task) -> None:
        state = task.state
        if state == READY:
            self.lane(task.priority).add(task.place)
        elif state == SCHEDULED:
            self._add_timed(self.scheduled, place_of(task))
        elif state == PROCESSING:
            self.young.add(task.number)
            assert task.lease is not None, task
            if task.lease.deadline_ms < self.soonest_ms:
                self.soonest_ms = task.lease.deadline_ms
        elif state == DEAD:
            self.dead.add(place_of(task))
        else:
            self.limbo += 1
        ttl = ttl_place_of(task)
        if ttl is not None:
            self._add_timed(self.expiring, ttl)

    def _add_timed(self, order: Order[Key], key: Key) -> None:
        order.add(key)
        if key[0] < self.soonest_ms:
            self.soonest_ms = key[0]

    def remember(self, task_id: str, until_ms: int, number: int) -> None:
        """Keep the id of a task that is gone."""
        if self.dedup is None:
            self.dedup = Dedup({})
        self.dedup.remember(task_id, until_ms, number)

    def forget(self, task_id: str) -> None:
        """Drop an id that is remembered."""
        if self.dedup is not None:
            self.dedup.forget(task_id)
            if not self.dedup.ids:
                self.dedup = None

    @property
    def remembered(self) -> dict[str, tuple[int, int]]:
        """Ids of tasks that are gone but inside their dedup window, as id -> (until_ms, number): to be read."""
        return {} if self.dedup is None else self.dedup.ids

    def totals(self) -> Totals:
        """How often each thing happened."""
        matured, extended, *rest = self.counts
        return Totals(self.enqueued, matured, self.leased, extended, self.acked, *rest)

    def image(self) -> Image:
        """A copy that stays as it is. It copies a pointer a task, at once: see `frozen` for a long backlog."""
        return self._image(tuple([unfold(number, self.tasks[number]) for number in self.tasks]))

    def frozen(self) -> Image:
        """An image without a copy, valid until `shadow` is dropped: a thread can read its tasks bit by bit while the
        heart goes on changing. One at a time. (Remembered ids are copied, and a number for each shelf.) Nobody may go
        back to before the state that was frozen, and enqueue there: of new tasks nothing is noted."""
        assert self.shadow is None, "it is frozen already"
        self.shadow = {}
        return self._image(_FrozenTasks(self.tasks, self.shadow, self.next_number))

    def _image(self, tasks: Iterable[Task]) -> Image:
        return Image(
            self.name,
            self.policy,
            self.seq,
            self.at_ms,
            self.born_ms,
            self.paused,
            self.next_number,
            self.last_token,
            self.totals(),
            tasks,
            self.remembered.copy(),
        )


@final
class _FrozenTasks:
    """The tasks of a heart as they were when it was frozen.

    A thread may read them while the heart changes: whoever changes a task notes first what was there, so what is read
    from the heart counts only if nothing is noted afterwards.
    """

    __slots__ = ("_end", "_firsts", "_shadow", "_tasks")

    def __init__(self, tasks: Shelves, shadow: dict[int, Entry | None], end: int) -> None:
        """`end` is the number of the next task: of those that come later nothing is noted."""
        self._tasks: Final = tasks
        self._shadow: Final = shadow
        self._firsts: Final = tasks.firsts()
        self._end: Final = end

    def __iter__(self) -> Iterator[Task]:
        for first in sorted(self._firsts):
            for number in range(first, min(first + WIDTH, self._end)):
                entry = self._tasks.read(number)
                entry = self._shadow.get(number, entry)
                if entry is not None:
                    yield unfold(number, entry)


def _deadline_of(number: int, entry: Entry) -> Key:
    """Where a task under a lease stands by deadline."""
    if isinstance(entry, Held):
        return (entry.deadline_ms, entry.token, number)
    return place_of(unfold(number, entry))


def place_of(task: Task) -> Key:
    """Where the task stands in the order of its state (docs/semantics.md, Order)."""
    if task.state == READY:
        return (PRIORITY_MAX - task.priority, task.place, task.number)
    if task.state == SCHEDULED:
        return (task.due_ms, task.place, task.number)
    if task.lease is not None:
        return (task.lease.deadline_ms, task.lease.token, task.number)
    assert task.death is not None, task
    return (task.death.at_ms, task.death.seq, task.number)


def ttl_place_of(task: Task) -> Key | None:
    """Where the task stands in the order in which TTLs run out; None when it has none, or is not waiting."""
    if task.expires_ms and (task.state == READY or task.state == SCHEDULED):
        return (task.expires_ms, task.place, task.number)
    return None
