"""What a command answers, before anybody thought of a protocol.

Lives here: values that say what happened, the same from every backend. Must not: RESP, states.
A struct's fields, in their order, are the keys of the reply's map.
"""

from typing import TypeAlias

import msgspec

from moxy.core.events import AnyEvent


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One task as FETCH and PEEK show it. `lease_id` and `deadline_ms` are None when no lease is on it."""

    lease_id: str | None
    task_id: str
    queue: str
    payload: bytes
    attempts: int
    deliveries: int
    token: int
    deadline_ms: int | None
    priority: int
    enqueued_ms: int


class QueueStats(msgspec.Struct, frozen=True, gc=False):
    """The five counts of MOXY.STATS. `active_leases` and `heap` (the deadlines kept) equal `processing`."""

    ready: int
    processing: int
    dead: int
    active_leases: int
    heap: int


class TaskView(msgspec.Struct, frozen=True, gc=False):
    """Every field and counter of one task. None: does not apply in this state."""

    task_id: str
    queue: str
    state: str
    payload: bytes
    priority: int
    attempts: int
    max_attempts: int
    deliveries: int
    expiries: int
    failures: int
    releases: int
    disconnects: int
    enqueued_ms: int
    due_ms: int | None
    expires_ms: int | None
    lease_id: str | None
    token: int
    deadline_ms: int | None
    leased_ms: int | None
    worker: str | None
    bound: bool
    last_reason: str | None
    dead_cause: str | None
    dead_reason: str | None
    dead_ms: int | None


Fields: TypeAlias = dict[str, str | int | None]
"""A flat description, such as a policy or the answer of MOXY.INFO."""


class AckResult(msgspec.Struct, frozen=True, gc=False):
    """One of many acks: `code` is "" when it was done, else the refusal."""

    code: str = ""
    text: str = ""


class Names(msgspec.Struct, frozen=True, gc=False):
    """A page of queue names; `cursor` is its last name, "" when no page follows."""

    cursor: str
    names: list[str]


class Past(msgspec.Struct, frozen=True, gc=False):
    """Committed events, oldest first. `cut`: there were earlier ones that are no longer kept, below `horizon`."""

    events: list[AnyEvent]
    horizon: int
    cut: bool = False


Answer: TypeAlias = (
    int | list[str] | list[Delivery] | QueueStats | TaskView | Fields | list[AckResult] | Names | Past | None
)
"""What any command can answer. None is the plain OK, or the null of a query that found nothing."""


def deliveries_of(answer: Answer) -> list[Delivery]:
    """The deliveries in an answer; none when it is not that of a FETCH or PEEK."""
    return [item for item in answer if isinstance(item, Delivery)] if isinstance(answer, list) else []
