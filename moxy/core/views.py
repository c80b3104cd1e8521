"""Answers to queries, read from a state. Pure, and never an event (I12).

Lives here: how a task and a queue are shown. Must not: change anything, or know RESP.
"""

from itertools import islice

from msgspec.structs import asdict

from moxy.core.answers import Answer, Delivery, Fields, QueueStats, TaskView
from moxy.core.commands import Info, Peek, Query, ReadPolicy, Show, Stats
from moxy.core.policy import Policy
from moxy.core.state import QueueState
from moxy.core.tasks import Task


def look(state: QueueState, query: Query, now_ms: int) -> Answer:
    """The answer to `query`. A queue that was never used is an empty state, and answers like one."""
    if isinstance(query, Stats):
        held = len(state.processing)
        return QueueStats(len(state.ready), held, len(state.dead), held, held)
    if isinstance(query, Peek):
        return [delivery(state.name, task) for task in islice(state.in_state(query.state), query.count)]
    if isinstance(query, Show):
        task = state.named(query.task_id)
        return None if task is None else show(state, task)
    if isinstance(query, ReadPolicy):
        return dict(asdict(state.policy))
    assert isinstance(query, Info), query
    return info(state, now_ms)


def delivery(queue: str, task: Task) -> Delivery:
    """A task as FETCH and PEEK show it."""
    lease, tally = task.lease, task.tally
    return Delivery(
        None if lease is None else lease.lease_id,
        task.task_id,
        queue,
        task.payload,
        tally.attempts,
        tally.deliveries,
        task.token,
        None if lease is None else lease.deadline_ms,
        task.priority,
        task.enqueued_ms,
    )


def max_attempts(policy: Policy, task: Task) -> int:
    """The task's own maximum, or the policy's as it stands; 0 is unlimited."""
    own = task.options.max_attempts
    return policy.max_attempts if own < 0 else own


def show(state: QueueState, task: Task) -> TaskView:
    """Every field and counter of one task."""
    lease, death, tally = task.lease, task.death, task.tally
    return TaskView(
        task_id=task.task_id,
        queue=state.name,
        state=task.state,
        payload=task.payload,
        priority=task.priority,
        attempts=tally.attempts,
        max_attempts=max_attempts(state.policy, task),
        deliveries=tally.deliveries,
        expiries=tally.expiries,
        failures=tally.failures,
        releases=tally.releases,
        disconnects=tally.disconnects,
        enqueued_ms=task.enqueued_ms,
        due_ms=task.due_ms or None,
        expires_ms=task.expires_ms or None,
        lease_id=None if lease is None else lease.lease_id,
        token=task.token,
        deadline_ms=None if lease is None else lease.deadline_ms,
        leased_ms=None if lease is None else lease.leased_ms,
        worker=None if lease is None else lease.worker,
        bound=lease is not None and lease.bound,
        last_reason=tally.last_reason or None,
        dead_cause=None if death is None else death.cause,
        dead_reason=None if death is None else death.reason,
        dead_ms=None if death is None else death.at_ms,
    )


def info(state: QueueState, now_ms: int) -> Fields:
    """Counts, policy, totals since birth, the age of the oldest ready task. The backend adds what it alone knows."""
    oldest_ms = state.oldest_ready_ms()
    fields: Fields = {
        "queue": state.name,
        "paused": int(state.paused),
        "scheduled": len(state.scheduled),
        "ready": len(state.ready),
        "processing": len(state.processing),
        "dead": len(state.dead),
        "oldest_ready_age_ms": None if oldest_ms is None else max(now_ms - oldest_ms, 0),
        "next_due_ms": state.next_due_ms(),
        "remembered_ids": len(state.remembered),
        "last_token": state.last_token,
        "last_seq": state.seq,
        "last_event_ms": state.at_ms or None,
        "born_ms": state.born_ms or None,
    }
    fields.update({f"policy_{field}": value for field, value in asdict(state.policy).items()})
    fields.update({f"total_{what}": count for what, count in asdict(state.totals).items()})
    return fields
