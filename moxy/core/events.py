"""Facts, in the past tense, frozen. The log of them is the database.

Lives here: one class per event and what it carries. Must not: rules (decider), effects (effects), bytes (journal).

Every event says which queue, its number there (`seq`, from 1, no gaps: I15), when (`at_ms`, never decreasing) and
whom it concerns. Whatever was drawn or read from a clock is in it, so a replay draws nothing. Adding a field means a
default, a new `SCHEMA_VERSION` and a golden log; renaming or removing one needs an upcaster beside the codec.

`msgspec` structs, because they cost a tenth of a frozen dataclass to make, encode themselves, and their `repr` is
valid Python. `gc=False`: they hold only values that cannot form a cycle.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from moxy.core.policy import Policy

SCHEMA_VERSION: Final = 1

ReleaseCause = Literal["worker", "undelivered", "disconnect", "rollback"]
DeadCause = Literal["attempts", "fatal", "ttl"]
PurgeState = Literal["ready", "scheduled", "dead"]


class Event(msgspec.Struct, frozen=True, gc=False, tag=True, array_like=True):
    """What all events carry."""

    queue: str
    seq: int
    at_ms: int


class TaskEvent(Event, frozen=True, gc=False, tag=True, array_like=True):
    """An event of one task: `number` is its number in the queue, `task_id` the name that clients know."""

    number: int
    task_id: str


class Enqueued(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """A task exists. `due_ms` 0: ready at once. `expires_ms` 0: no TTL. `max_attempts` -1 and `lease_ms` 0: as the
    policy says. The only event that carries the payload."""

    payload: bytes
    priority: int = 0
    due_ms: int = 0
    expires_ms: int = 0
    max_attempts: int = -1
    lease_ms: int = 0
    dedup_ms: int = 0


class Matured(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """A scheduled task's time came."""


class LeaseEvent(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """An event of a task under a lease."""

    lease_id: str


class Leased(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """A worker holds the task until `deadline_ms`. `worker` is its client name or address, for whoever asks later."""

    token: int
    deadline_ms: int
    worker: str = ""
    bound: bool = False


class Extended(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """The lease now lasts until `deadline_ms`."""

    deadline_ms: int


class Acked(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """Done. The task is gone for ever (I5)."""


class Expired(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """The deadline passed. The lease is void from here on, and not before.

    `attempts`, here and below, is how many are used up now: for whoever reads the log; the reducer counts itself.
    """

    attempts: int = 0


class Failed(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """The worker gave up, for `reason` (may be empty)."""

    reason: str = ""
    attempts: int = 0


class Released(LeaseEvent, frozen=True, gc=False, tag=True, array_like=True):
    """The task is back at its place. Only the cause `disconnect` charges an attempt. `rollback`: Redis lost events, and
    every lease from before is void."""

    cause: ReleaseCause = "worker"
    attempts: int = 0


class Requeued(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """Back after `Expired` or `Failed`; `due_ms` 0: ready at once."""

    due_ms: int = 0


class DeadLettered(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """Set aside, with one of three causes and always a reason (I9)."""

    cause: DeadCause
    reason: str
    attempts: int = 0


class Redriven(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """An operator gave a dead task another life, at a new `place`; `expires_ms` 0: without a TTL."""

    place: int
    expires_ms: int = 0


class Deleted(TaskEvent, frozen=True, gc=False, tag=True, array_like=True):
    """An operator removed the task."""


class QueueConfigured(Event, frozen=True, gc=False, tag=True, array_like=True):
    """The whole policy from here on."""

    policy: Policy


class QueuePaused(Event, frozen=True, gc=False, tag=True, array_like=True):
    """Nothing new is leased from here on."""


class QueueResumed(Event, frozen=True, gc=False, tag=True, array_like=True):
    """Leasing goes on."""


class Purged(Event, frozen=True, gc=False, tag=True, array_like=True):
    """An operator removed every task of one state: `count` of them."""

    state: PurgeState
    count: int


AnyEvent: TypeAlias = (
    Enqueued
    | Matured
    | Leased
    | Extended
    | Acked
    | Expired
    | Failed
    | Released
    | Requeued
    | DeadLettered
    | Redriven
    | Deleted
    | QueueConfigured
    | QueuePaused
    | QueueResumed
    | Purged
)
"""The closed set: what a log can hold."""

EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    Enqueued,
    Matured,
    Leased,
    Extended,
    Acked,
    Expired,
    Failed,
    Released,
    Requeued,
    DeadLettered,
    Redriven,
    Deleted,
    QueueConfigured,
    QueuePaused,
    QueueResumed,
    Purged,
)
