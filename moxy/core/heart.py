"""The heart of a queue: the structures that hold its tasks, changed in place.

Lives here: where a task stands, in which structures, and how it moves from one to another. Must not: rules (decider),
what an event means (effects). Nobody outside the core sees a heart: states (state.py) own one and lend it.

Leaving and joining an order is O(1) for what a busy queue does all day, O(log n) for the rest; see order.py.
"""

from typing import Final, final

from moxy.core.lifecycle import DEAD, EXPIRED, FAILED, PROCESSING, READY, SCHEDULED
from moxy.core.order import Key, Order
from moxy.core.policy import Policy
from moxy.core.tasks import PRIORITY_MAX, Image, Task, Totals

ENQUEUED: Final = 0
MATURED: Final = 1
LEASED: Final = 2
EXTENDED: Final = 3
ACKED: Final = 4
EXPIRED_COUNT: Final = 5
FAILED_COUNT: Final = 6
RELEASED: Final = 7
REQUEUED: Final = 8
DEAD_LETTERED: Final = 9
REDRIVEN: Final = 10
DELETED: Final = 11
COUNTS: Final = 12
"""Positions in `Heart.counts`: the fields of `Totals`, in their order."""

EXPIRING: Final = "expiring"
FORGETTING: Final = "forgetting"
"""Names of the two orders that are not those of a state."""


@final
class Heart:
    """Everything about one queue after its event `seq`.

    Ready tasks stand in a lane per priority, by place. A place is the task's number until a redrive gives it another:
    `moved` tells the number of such a place. The other orders hold keys that end with the number.
    """

    __slots__ = (
        "at_ms",
        "born_ms",
        "counts",
        "dead",
        "expiring",
        "forgetting",
        "forgotten",
        "lanes",
        "last_token",
        "limbo",
        "moved",
        "name",
        "names",
        "next_number",
        "paused",
        "policy",
        "processing",
        "remembered",
        "scheduled",
        "seq",
        "tasks",
        "urgent",
    )

    def __init__(self, name: str, policy: Policy) -> None:
        self.name: Final = name
        self.policy = policy
        self.seq = 0
        self.at_ms = 0
        self.born_ms = 0
        self.paused = False
        self.next_number = 1
        self.last_token = 0
        self.counts: list[int] = [0] * COUNTS
        self.tasks: dict[int, Task] = {}
        self.names: dict[str, int] = {}
        self.lanes: list[Order[int] | None] = [None] * (PRIORITY_MAX + 1)
        self.urgent: list[Order[int]] = []
        """The lanes that were ever used, most urgent first."""
        self.moved: dict[int, int] = {}
        self.scheduled: Order[Key] = Order()
        self.processing: Order[Key] = Order()
        self.dead: Order[Key] = Order()
        self.expiring: Order[Key] = Order()
        self.limbo = 0
        """How many tasks are between two events of one batch, in `expired` or `failed`."""
        self.remembered: dict[str, tuple[int, int]] = {}
        self.forgetting: Order[Key] = Order()
        self.forgotten: dict[int, str] = {}

    def lane(self, priority: int) -> Order[int]:
        """Where ready tasks of that priority stand."""
        lane = self.lanes[priority]
        if lane is None:
            lane = self.lanes[priority] = Order()
            self.urgent = _by_urgency(self.lanes)
        return lane

    def first_ready(self) -> Task | None:
        """The task that a FETCH gets (docs/semantics.md, Order)."""
        for lane in self.urgent:
            place = lane.first()
            if place is not None:
                return self.tasks[self.moved.get(place, place) if self.moved else place]
        return None

    def ready_count(self) -> int:
        """How many tasks are ready."""
        count = 0
        for lane in self.urgent:
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
        for priority in range(PRIORITY_MAX, -1, -1):
            lane, rank = self.lanes[priority], PRIORITY_MAX - priority
            if lane is not None and (key is None or rank >= key[0]):
                after = key[1] if key is not None and rank == key[0] else None
                places = lane.following(after, count - len(found))
                found += [(rank, place, self.moved.get(place, place)) for place in places]
        return found

    def holds(self, order: str, key: Key) -> bool:
        """Whether that very key is in the order of a state, or one of the two others."""
        if order != READY:
            return key in self._order(order)
        rank, place, number = key
        lane = self.lanes[PRIORITY_MAX - rank]
        return lane is not None and place in lane and self.moved.get(place, place) == number

    def _order(self, name: str) -> Order[Key]:
        if name == SCHEDULED:
            return self.scheduled
        if name == PROCESSING:
            return self.processing
        if name == DEAD:
            return self.dead
        return self.expiring if name == EXPIRING else self.forgetting

    def oldest_ready_ms(self) -> int | None:
        """When the ready task with the earliest place got it; None when nothing is ready."""
        places = [place for lane in self.urgent if (place := lane.first()) is not None]
        if not places:
            return None
        place = min(places)
        return self.tasks[self.moved.get(place, place)].placed_ms

    def next_due_ms(self) -> int | None:
        """When time next causes an event here: a deadline, a TTL or a due time; None when nothing waits for time."""
        due_ms: int | None = None
        key = self.processing.first()
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
        number = self.names.get(task_id)
        return None if number is None else self.tasks[number]

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether enqueueing this id would create nothing (I14)."""
        if task_id in self.names:
            return True
        memory = self.remembered.get(task_id)
        return memory is not None and now_ms < memory[0]

    def swap(self, old: Task | None, new: Task | None) -> None:
        """Put `new` in the place of `old`, in every structure. None: not there before, or not any more."""
        if old is not None:
            self._leave(old)
            if old.place != old.number:
                del self.moved[old.place]
            if new is None:
                del self.tasks[old.number]
                del self.names[old.task_id]
        if new is not None:
            self.tasks[new.number] = new
            if old is None:
                self.names[new.task_id] = new.number
            if new.place != new.number:
                self.moved[new.place] = new.number
            self._join(new)

    def _leave(self, task: Task) -> None:
        state = task.state
        if state == READY:
            self.lane(task.priority).remove(task.place)
        elif state == SCHEDULED:
            self.scheduled.remove(place_of(task))
        elif state == PROCESSING:
            self.processing.remove(place_of(task))
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
            self.scheduled.add(place_of(task))
        elif state == PROCESSING:
            self.processing.add(place_of(task))
        elif state == DEAD:
            self.dead.add(place_of(task))
        else:
            self.limbo += 1
        ttl = ttl_place_of(task)
        if ttl is not None:
            self.expiring.add(ttl)

    def remember(self, task_id: str, until_ms: int, number: int) -> None:
        """Keep the id of a task that is gone."""
        self.remembered[task_id] = (until_ms, number)
        self.forgetting.add((until_ms, 0, number))
        self.forgotten[number] = task_id

    def forget(self, task_id: str) -> None:
        """Drop an id that is remembered."""
        until_ms, number = self.remembered.pop(task_id)
        self.forgetting.remove((until_ms, 0, number))
        del self.forgotten[number]

    def image(self) -> Image:
        """A copy that stays as it is. Tasks are immutable, so it copies one pointer each: 5 to 10 ms for a million."""
        return Image(
            self.name,
            self.policy,
            self.seq,
            self.at_ms,
            self.born_ms,
            self.paused,
            self.next_number,
            self.last_token,
            Totals(*self.counts),
            tuple(self.tasks.values()),
            self.remembered.copy(),
        )


def heart_of(image: Image) -> Heart:
    """The structures of a queue, made in one go from what cannot be derived.

    Raises ValueError for a task in no state that can be kept, or two of one number or name.
    """
    h = Heart(image.name, image.policy)
    h.seq, h.at_ms, h.born_ms, h.paused = image.seq, image.at_ms, image.born_ms, image.paused
    h.next_number, h.last_token = image.next_number, image.last_token
    t = image.totals
    h.counts = [
        t.enqueued,
        t.matured,
        t.leased,
        t.extended,
        t.acked,
        t.expired,
        t.failed,
        t.released,
        t.requeued,
        t.dead_lettered,
        t.redriven,
        t.deleted,
    ]
    lanes: list[list[int]] = [[] for _ in range(PRIORITY_MAX + 1)]
    places: dict[str, list[Key]] = {SCHEDULED: [], PROCESSING: [], DEAD: []}
    ttls: list[Key] = []
    for task in image.tasks:
        state, number = task.state, task.number
        if (task.lease is not None) != (state == PROCESSING) or (task.death is not None) != (state == DEAD):
            raise ValueError(f"task {task.task_id!r} is {state}, its lease {task.lease} and its death {task.death}")
        if state == READY:
            lanes[task.priority].append(task.place)
        elif state in places:
            places[state].append(place_of(task))
        elif state in (EXPIRED, FAILED):
            h.limbo += 1
        else:
            raise ValueError(f"task {task.task_id!r} is {state}")
        if task.place != number:
            h.moved[task.place] = number
        if task.expires_ms:
            ttl = ttl_place_of(task)
            if ttl is not None:
                ttls.append(ttl)
        h.tasks[number] = task
        h.names[task.task_id] = number
    if len(h.tasks) != len(image.tasks) or len(h.names) != len(image.tasks):
        raise ValueError("two tasks have one number or one name")
    for priority, lane in enumerate(lanes):
        if lane:
            h.lanes[priority] = Order(lane)
    h.urgent = _by_urgency(h.lanes)
    h.scheduled, h.processing, h.dead = Order(places[SCHEDULED]), Order(places[PROCESSING]), Order(places[DEAD])
    h.expiring = Order(ttls)
    h.remembered = image.remembered.copy()
    h.forgotten = {number: task_id for task_id, (_, number) in h.remembered.items()}
    h.forgetting = Order([(until_ms, 0, number) for until_ms, number in h.remembered.values()])
    return h


def _by_urgency(lanes: list[Order[int] | None]) -> list[Order[int]]:
    return [lane for lane in reversed(lanes) if lane is not None]


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
