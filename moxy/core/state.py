"""The state of one queue: immutable, structurally shared, valid for as long as somebody holds it.

Lives here: the values, the orders they are kept in, and read access to them. Must not: rules (decider) or the effect
of events (reducer), which alone makes new states.

`tasks` and `numbers` are hash tries (`immutables.Map`), the orders are persistent B+ trees: O(log n) a change,
however many tasks wait, and an old state is never touched.
"""

from collections.abc import Iterator
from typing import Final

import immutables
import msgspec

from moxy.core import ordered
from moxy.core.events import DeadCause
from moxy.core.lifecycle import DEAD, EXPIRED, FAILED, PROCESSING, READY, SCHEDULED
from moxy.core.ordered import Key, Ordered
from moxy.core.policy import Policy

PRIORITY_MAX: Final = 9


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A worker's temporary claim. `token` is the fencing token; `bound`: it ends with its connection."""

    lease_id: str
    token: int
    deadline_ms: int
    leased_ms: int
    worker: str
    bound: bool


class Options(msgspec.Struct, frozen=True, gc=False):
    """What a producer asked for this task alone. -1 and 0: the policy decides, or none."""

    max_attempts: int = -1
    lease_ms: int = 0
    dedup_ms: int = 0


class Tally(msgspec.Struct, frozen=True, gc=False):
    """What a task has been through. `attempts` restart with a redrive, the others never do.

    `ended` is how the last delivery ended ("" while none did), `reason` what its NACK said; `last_reason` is the
    last text that any NACK left.
    """

    attempts: int = 0
    deliveries: int = 0
    expiries: int = 0
    failures: int = 0
    releases: int = 0
    disconnects: int = 0
    ended: str = ""
    reason: str = ""
    last_reason: str = ""


class Death(msgspec.Struct, frozen=True, gc=False):
    """Why and when a task was set aside. `seq` is the event's: the order of deaths."""

    cause: DeadCause
    reason: str
    at_ms: int
    seq: int


NO_OPTIONS: Final = Options()
NO_TALLY: Final = Tally()


class Task(msgspec.Struct, frozen=True, gc=False):
    """One task. `place` is its rank among equals in priority; `number` its first place, and its name inside.

    `due_ms` is set while scheduled, `lease` while processing, `death` while dead; `expires_ms` 0 means no TTL;
    `token` is that of its latest lease, 0 before the first.
    """

    number: int
    task_id: str
    payload: bytes
    priority: int
    place: int
    placed_ms: int
    enqueued_ms: int
    state: str
    due_ms: int = 0
    expires_ms: int = 0
    token: int = 0
    lease: Lease | None = None
    death: Death | None = None
    options: Options = NO_OPTIONS
    tally: Tally = NO_TALLY


class Totals(msgspec.Struct, frozen=True, gc=False):
    """How often each thing happened since the queue's birth (I8). A purge counts its tasks under `deleted`."""

    enqueued: int = 0
    matured: int = 0
    leased: int = 0
    extended: int = 0
    acked: int = 0
    expired: int = 0
    failed: int = 0
    released: int = 0
    requeued: int = 0
    dead_lettered: int = 0
    redriven: int = 0
    deleted: int = 0


NO_TASKS: Final[immutables.Map[int, Task]] = immutables.Map()
NO_NUMBERS: Final[immutables.Map[str, int]] = immutables.Map()
NO_MEMORY: Final[immutables.Map[str, tuple[int, int]]] = immutables.Map()
NO_NAMES: Final[immutables.Map[int, str]] = immutables.Map()


class QueueState(msgspec.Struct, frozen=True, gc=False):
    """Everything about one queue after its event `seq`.

    `remembered` holds ids of tasks that are gone but inside their dedup window, as id -> (until_ms, number);
    `forgetting` is the order in which they leave. `limbo` counts tasks in `expired` and `failed`, between two
    events of one batch: 0 in every state that anybody can observe.
    """

    name: str
    policy: Policy = Policy()
    seq: int = 0
    at_ms: int = 0
    born_ms: int = 0
    paused: bool = False
    next_number: int = 1
    last_token: int = 0
    totals: Totals = Totals()
    tasks: immutables.Map[int, Task] = NO_TASKS
    numbers: immutables.Map[str, int] = NO_NUMBERS
    ready: Ordered = ordered.EMPTY
    scheduled: Ordered = ordered.EMPTY
    processing: Ordered = ordered.EMPTY
    dead: Ordered = ordered.EMPTY
    expiring: Ordered = ordered.EMPTY
    limbo: int = 0
    remembered: immutables.Map[str, tuple[int, int]] = NO_MEMORY
    forgetting: Ordered = ordered.EMPTY
    forgotten_names: immutables.Map[int, str] = NO_NAMES

    def named(self, task_id: str) -> Task | None:
        """The live or dead task with that id, or None."""
        number = self.numbers.get(task_id)
        return None if number is None else self.tasks[number]

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether enqueueing this id would create nothing (I14)."""
        if task_id in self.numbers:
            return True
        memory = self.remembered.get(task_id)
        return memory is not None and now_ms < memory[0]

    def next_due_ms(self) -> int | None:
        """When time next causes an event here: a deadline, a TTL or a due time; None when nothing waits for time."""
        firsts = [key[0] for key in (self.processing.first(), self.expiring.first(), self.scheduled.first()) if key]
        return min(firsts) if firsts else None

    def in_state(self, state: str) -> Iterator[Task]:
        """The tasks of one observable state, in the order in which PEEK lists them."""
        for _, _, number in self.order_of(state):
            yield self.tasks[number]

    def order_of(self, state: str) -> Ordered:
        """The order that the tasks of one observable state are kept in."""
        if state == READY:
            return self.ready
        if state == SCHEDULED:
            return self.scheduled
        if state == PROCESSING:
            return self.processing
        assert state == DEAD, state
        return self.dead


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


def in_limbo(task: Task) -> bool:
    """Whether the task is between two events of one batch."""
    return task.state == EXPIRED or task.state == FAILED
