"""Intents, imperative, frozen: what clients, operators and time ask for.

Lives here: one class per intent, with arguments that are already typed and in range. Must not: decide anything.

`Command`s may change one queue, `Query`s only read one; both name it in `queue`. The last section holds intents over
several queues or in bulk, which the service splits into these. `Tick` is time passing: it is a command like any other.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from moxy.core.events import PurgeState, ReleaseCause
from moxy.core.policy import COUNT_MAX

NackKind = Literal["retry", "fatal", "release"]

UNSET: Final = -1
"""An option that was not given, where 0 would mean something."""


class Command(msgspec.Struct, frozen=True, gc=False):
    """May change the queue."""

    queue: str


class Query(msgspec.Struct, frozen=True, gc=False):
    """Only reads the queue: never an event (I12)."""

    queue: str


class Enqueue(Command, frozen=True, gc=False):
    """One new task. `task_id` "": the queue makes one. `ttl_ms` and `max_attempts` UNSET: as the policy says."""

    payload: bytes
    task_id: str = ""
    priority: int = 0
    delay_ms: int = 0
    ttl_ms: int = UNSET
    max_attempts: int = UNSET
    lease_ms: int = 0
    dedup_ms: int = 0


class EnqueueMany(Command, frozen=True, gc=False):
    """Several tasks without options, all or none."""

    payloads: tuple[bytes, ...]


class Fetch(Command, frozen=True, gc=False):
    """Lease up to `count` tasks. `lease_ms` 0: the task's own, else the policy's. `worker` is kept in the event."""

    lease_ms: int
    count: int = 1
    worker: str = ""
    bound: bool = False


class LeaseCommand(Command, frozen=True, gc=False):
    """Something about one lease; `number` is that of its task."""

    lease_id: str
    number: int
    token: int


class Ack(LeaseCommand, frozen=True, gc=False):
    """Done."""


class Nack(LeaseCommand, frozen=True, gc=False):
    """Not done. `delay_ms` UNSET: the backoff decides."""

    kind: NackKind = "retry"
    delay_ms: int = UNSET
    reason: str = ""


class Extend(LeaseCommand, frozen=True, gc=False):
    """Hold it until `lease_ms` from now."""

    lease_ms: int


class Release(LeaseCommand, frozen=True, gc=False):
    """Give it back without being asked: its connection closed, or its reply could not be written."""

    cause: ReleaseCause


class Configure(Command, frozen=True, gc=False):
    """Set fields of the policy, together."""

    changes: tuple[tuple[str, int], ...]


class Redrive(Command, frozen=True, gc=False):
    """Dead tasks become ready: the oldest `count`, or the one named."""

    count: int = COUNT_MAX
    task_id: str = ""


class Delete(Command, frozen=True, gc=False):
    """Remove one task."""

    task_id: str


class Purge(Command, frozen=True, gc=False):
    """Remove all tasks of one state."""

    state: PurgeState


class Pause(Command, frozen=True, gc=False):
    """Lease nothing new."""


class Resume(Command, frozen=True, gc=False):
    """Lease again."""


class Tick(Command, frozen=True, gc=False):
    """Time passed: do the due work, at most `COUNT_MAX` tasks of it."""


class Stats(Query, frozen=True, gc=False):
    """The five counts."""


class Peek(Query, frozen=True, gc=False):
    """Look at the first tasks of one state."""

    state: str
    count: int


class Show(Query, frozen=True, gc=False):
    """Everything about one task."""

    task_id: str


class Info(Query, frozen=True, gc=False):
    """Everything about the queue."""


class ReadPolicy(Query, frozen=True, gc=False):
    """The policy."""


# Over several queues, or in bulk: for the service.


class Bulk(msgspec.Struct, frozen=True, gc=False):
    """Not of one queue."""


class FetchAny(Bulk, frozen=True, gc=False):
    """Lease up to `count` tasks over `queues`, tried in order. `block_ms` UNSET: do not wait; 0: wait for ever."""

    queues: tuple[str, ...]
    lease_ms: int
    count: int = 1
    block_ms: int = UNSET
    worker: str = ""
    bound: bool = False


def single(fetch: FetchAny) -> FetchAny | Fetch:
    """A fetch over one queue as a command of that queue, which can go together with others."""
    if len(fetch.queues) > 1:
        return fetch
    return Fetch(fetch.queues[0], fetch.lease_ms, fetch.count, fetch.worker, fetch.bound)


class AckMany(Bulk, frozen=True, gc=False):
    """Each lease on its own: an Ack, or the refusal (code, text) of something that is no lease id."""

    acks: tuple[Ack | tuple[str, str], ...]


class ListQueues(Bulk, frozen=True, gc=False):
    """Names of queues matching a glob, after `cursor` in the order of names ("": from the start). At most `count` are
    looked at."""

    pattern: str
    count: int
    cursor: str


class ReadEvents(Bulk, frozen=True, gc=False):
    """Committed events of `queue` from `from_seq` on. `block_ms` UNSET: do not wait for one; 0: wait for ever."""

    queue: str
    from_seq: int
    count: int
    block_ms: int = UNSET


class ReadHistory(Bulk, frozen=True, gc=False):
    """The committed events of one task."""

    queue: str
    task_id: str


AnyCommand: TypeAlias = Command | Query
Intent: TypeAlias = Command | Query | Bulk
