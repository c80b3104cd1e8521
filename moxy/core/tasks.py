"""The values that a queue is made of: tasks, leases, tallies. Immutable, so a state can hand them out.

Lives here: what is stored, as structs, which stay plain Python when the rest of the core is compiled. Must not: the
structures that hold them (heart), rules, effects.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from moxy.core.events import DeadCause
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


class Image(msgspec.Struct, frozen=True, gc=False):
    """A queue as plain values that nobody changes, and only what cannot be derived: for a snapshot, or a thread.

    `remembered`: see `QueueState`. Tasks come in no particular order.
    """

    name: str
    policy: Policy
    seq: int
    at_ms: int
    born_ms: int
    paused: bool
    next_number: int
    last_token: int
    totals: Totals
    tasks: Iterable[Task]
    remembered: dict[str, tuple[int, int]]
