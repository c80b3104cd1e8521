"""The rows of a snapshot: what of a state is stored.

Lives here: plain values, and only what cannot be derived from others. Must not: how they become states (snapshots).

To change a row: a field with a default at its end; for anything else a new `FORMAT_VERSION` in frames, and the page
docs/event-log.md. Old snapshots must stay readable, or a start would have to fold a log that may be gone.
"""

from typing import TypeAlias

import msgspec

from moxy.core.policy import Policy
from moxy.core.tasks import Death, Lease, Options, Tally, Totals


class QueueRow(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="queue"):
    """A queue; the rows up to the next one are its tasks and memories."""

    name: str
    policy: Policy
    seq: int
    at_ms: int
    born_ms: int
    paused: bool
    next_number: int
    last_token: int
    totals: Totals


class TaskRow(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="task"):
    """A task of the queue above. What is empty is None, to keep the row short."""

    number: int
    task_id: str
    payload: bytes
    priority: int
    place: int
    placed_ms: int
    enqueued_ms: int
    state: str
    due_ms: int
    expires_ms: int
    token: int
    lease: Lease | None
    death: Death | None
    options: Options | None
    tally: Tally | None


class MemoryRow(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="memory"):
    """An id of the queue above that is gone but still inside its dedup window."""

    task_id: str
    until_ms: int
    number: int


class EndRow(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="end"):
    """The last row."""

    queues: int
    tasks: int


Row: TypeAlias = QueueRow | TaskRow | MemoryRow | EndRow
