"""`decide(state, command, now_ms, seed) -> Decision`: all the policy of a queue.

Lives here: what happens, and what is refused. Must not: how an event changes a state (effects), what time it is, or
any chance: `now_ms` and `seed` come in, so the same arguments always give the same decision.

A decision may take several events, each seen by the next one: a draft applies them as they are made, and hands
over the state that it ends with, so that nobody folds them twice. `replay(decision.events, state)` gives the same.

The rules are those of docs/semantics.md; sections are named where they are carried out.
"""

from collections.abc import Callable
from typing import Final, NoReturn, final

import msgspec

from moxy.core import ids, lifecycle
from moxy.core.answers import Answer, Delivery
from moxy.core.commands import (
    UNSET,
    Ack,
    AnyCommand,
    Command,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    LeaseCommand,
    Nack,
    Pause,
    Purge,
    Query,
    Redrive,
    Release,
    Resume,
    Tick,
)
from moxy.core.decision import Decision
from moxy.core.errors import FULL, LEASED, MAXHOLD, NOLEASE, NOTASK, TOOBIG, Refused
from moxy.core.events import (
    Acked,
    AnyEvent,
    DeadCause,
    DeadLettered,
    Deleted,
    Enqueued,
    Expired,
    Extended,
    Failed,
    Leased,
    Matured,
    Purged,
    QueueConfigured,
    QueuePaused,
    QueueResumed,
    Redriven,
    ReleaseCause,
    Released,
    Requeued,
)
from moxy.core.heart import NEVER_MS, Heart
from moxy.core.policy import COUNT_MAX, DURATION_MS_MAX, PAYLOAD_BYTES_MAX
from moxy.core.reducer import apply
from moxy.core.state import DEFAULT_POLICY, QueueState
from moxy.core.tasks import Lease, Task
from moxy.core.views import look, max_attempts


def decide(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
    """Decide one command on one queue.

    `now_ms` below the queue's last event is raised to it (I15). `seed` holds the 64 random bits that ids and jitter
    are drawn from. A `state` with seq 0 is a queue that does not exist yet; its policy is the one it is born with.
    Raises Refused, and then nothing has changed (I12).
    """
    h = state.owned or state.heart()
    if now_ms < h.at_ms:
        now_ms = h.at_ms
    rule = _RULES.get(type(command))
    if rule is not None:
        return rule(state, h, command, now_ms, seed)
    assert isinstance(command, Query), command
    return Decision((), state, look(state, command, now_ms))


@final
class _Draft:
    """A decision in the making. The rules read `heart`, that of `state`, which nobody else has meanwhile."""

    __slots__ = ("draws", "events", "heart", "now_ms", "queue", "seed", "state")

    def __init__(self, state: QueueState, heart: Heart, now_ms: int, seed: int) -> None:
        self.state = state
        self.heart: Final = heart
        self.events: list[AnyEvent] = []
        self.queue: Final[str] = heart.name
        self.now_ms: Final = now_ms
        self.seed: Final = seed
        self.draws = 0

    def nonce(self) -> int:
        self.draws += 1
        return ids.nonce(self.seed, self.draws - 1)

    @property
    def seq(self) -> int:
        """The sequence number of the next event."""
        return self.heart.seq + 1

    def happened(self, event: AnyEvent) -> None:
        self.state = apply(self.state, event)
        self.events.append(event)

    def decided(self, answer: Answer) -> Decision:
        """The decision, made."""
        return Decision(tuple(self.events), self.state, answer)

    def be_born(self) -> None:
        """Before the first event of a queue: write down the policy that it is born with, unless it is the usual."""
        if self.heart.seq == 0 and self.heart.policy != DEFAULT_POLICY:
            self.happened(QueueConfigured(self.queue, 1, self.now_ms, self.heart.policy))


# Enqueue


def _enqueue(state: QueueState, h: Heart, c: Enqueue, now_ms: int, seed: int) -> Decision:
    if len(c.payload) > PAYLOAD_BYTES_MAX:
        _refuse_size(c.payload)
    if c.task_id and h.knows(c.task_id, now_ms):
        return Decision((), state, [c.task_id])
    if h.policy.max_ready:
        _check_room(h, 1)
    if not h.seq and h.policy != DEFAULT_POLICY:
        return _enqueue_many(state, h, c, now_ms, seed)
    event = _enqueued(h, c, c.payload, now_ms, seed, 0)
    return Decision((event,), apply(state, event), [event.task_id])


def _enqueue_many(state: QueueState, h: Heart, c: Enqueue | EnqueueMany, now_ms: int, seed: int) -> Decision:
    """Several tasks, or the first one of a queue that is born with a policy of its own."""
    payloads: tuple[bytes, ...]
    if isinstance(c, Enqueue):
        payloads, options = (c.payload,), c
    else:
        payloads, options = c.payloads, Enqueue(c.queue, b"")
        for payload in payloads:
            if len(payload) > PAYLOAD_BYTES_MAX:
                _refuse_size(payload)
        if h.policy.max_ready:
            _check_room(h, len(payloads))
    d = _Draft(state, h, now_ms, seed)
    d.be_born()
    task_ids: list[str] = []
    for draw, payload in enumerate(payloads):
        event = _enqueued(h, options, payload, now_ms, seed, draw)
        d.happened(event)
        task_ids.append(event.task_id)
    return d.decided(task_ids)


def _enqueued(h: Heart, c: Enqueue, payload: bytes, now_ms: int, seed: int, draw: int) -> Enqueued:
    number = h.next_number
    task_id = c.task_id or ids.task_id(number, ids.digits(ids.nonce(seed, draw)))
    if not c.task_id and (h.dedup is not None or (h.names is not None and task_id in h.names)):
        task_id = _free_id(h, number, now_ms, ids.nonce(seed, draw))
    delay_ms, ttl_ms = c.delay_ms, c.ttl_ms
    if ttl_ms == UNSET:
        ttl_ms = h.policy.ttl_ms
    return Enqueued(
        h.name,
        h.seq + 1,
        now_ms,
        number,
        task_id,
        payload,
        c.priority,
        now_ms + delay_ms if delay_ms else 0,
        now_ms + ttl_ms if ttl_ms else 0,
        c.max_attempts,
        c.lease_ms,
        c.dedup_ms,
    )


def _free_id(h: Heart, number: int, now_ms: int, nonce: int) -> str:
    """An automatic id that the queue does not know: a client may have chosen one of that shape. The draws of one seed
    can be all alike (0 in tests), so from the second on they are counted through."""
    while h.knows(task_id := ids.task_id(number, ids.digits(nonce)), now_ms):
        nonce = (nonce + 1) % (1 << 64)
    return task_id


def _refuse_size(payload: bytes) -> NoReturn:
    raise Refused(TOOBIG, f"a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {len(payload)}")


def _check_room(h: Heart, tasks: int) -> None:
    bound = h.policy.max_ready
    waiting = h.ready_count() + len(h.scheduled)
    if bound and waiting + tasks > bound:
        raise Refused(FULL, f"{waiting} tasks wait and max_ready is {bound}: try again when workers have caught up")


# Lease


def _fetch(state: QueueState, h: Heart, c: Fetch, now_ms: int, seed: int) -> Decision:
    """First what is due, then up to `count` leases."""
    events: list[AnyEvent] = []
    draw = 0
    if h.soonest_ms <= now_ms:
        d = _Draft(state, h, now_ms, seed)
        _do_due_work(d)
        state, events, draw = d.state, d.events, d.draws
    given: list[Delivery] = []
    while len(given) < c.count and not h.paused:
        task = h.first_ready()
        if task is None:
            break
        lease_ms = c.lease_ms or task.options.lease_ms or h.policy.lease_ms
        queue, number, task_id, token = h.name, task.number, task.task_id, h.last_token + 1
        lease_id = ids.lease_id(queue, number, token, ids.digits(ids.nonce(seed, draw)))
        deadline_ms = now_ms + lease_ms
        event = Leased(queue, h.seq + 1, now_ms, number, task_id, lease_id, token, deadline_ms, c.worker, c.bound)
        state = apply(state, event)
        events.append(event)
        attempts, deliveries = task.tally.attempts, task.tally.deliveries + 1
        given.append(
            Delivery(
                lease_id,
                task_id,
                queue,
                task.payload,
                attempts,
                deliveries,
                token,
                deadline_ms,
                task.priority,
                task.enqueued_ms,
            )
        )
        draw += 1
    return Decision(tuple(events), state, given)


def _ack(state: QueueState, h: Heart, c: Ack, now_ms: int, seed: int) -> Decision:
    task, _ = _held(h, c)
    event = Acked(h.name, h.seq + 1, now_ms, task.number, task.task_id, c.lease_id)
    return Decision((event,), apply(state, event), None)


def _nack(d: _Draft, c: Nack) -> Answer:
    task, _ = _held(d.heart, c)
    if c.kind == "release":
        _release_one(d, task, c.lease_id, "worker")
        return None
    attempts = task.tally.attempts + 1
    d.happened(Failed(d.queue, d.seq, d.now_ms, task.number, task.task_id, c.lease_id, c.reason, attempts))
    if c.kind == "fatal":
        _bury(d, task.number, "fatal", c.reason or "fatal")
    else:
        _requeue(d, task.number, c.delay_ms)
    return None


def _release(d: _Draft, c: Release) -> Answer:
    task, _ = _held(d.heart, c)
    _release_one(d, task, c.lease_id, c.cause)
    return None


def _extend(d: _Draft, c: Extend) -> Answer:
    task, lease = _held(d.heart, c)
    deadline_ms = d.now_ms + c.lease_ms
    if deadline_ms <= lease.deadline_ms:
        return lease.deadline_ms
    cap_ms = d.heart.policy.max_hold_ms
    if cap_ms and deadline_ms - lease.leased_ms > cap_ms:
        left_ms = max(lease.leased_ms + cap_ms - d.now_ms, 0)
        raise Refused(MAXHOLD, f"a lease is held at most {cap_ms} ms here: at most {left_ms} more can be asked for")
    d.happened(Extended(d.queue, d.seq, d.now_ms, task.number, task.task_id, c.lease_id, deadline_ms))
    return deadline_ms


def _held(h: Heart, c: LeaseCommand) -> tuple[Task, Lease]:
    """The task under this very lease. Raises NOLEASE, saying what became of it as far as the queue knows (I4)."""
    task = h.task(c.number)
    if task is not None and task.lease is not None and task.lease.lease_id == c.lease_id:
        return task, task.lease
    _refuse_void(h, task, c)


def _refuse_void(h: Heart, task: Task | None, c: LeaseCommand) -> NoReturn:
    if c.token > h.last_token or c.number >= h.next_number:
        raise Refused(NOLEASE, "that lease was never seen here: it is not of this queue, or from before a data loss")
    if task is None:
        raise Refused(NOLEASE, "that lease is void: its task is completed or deleted")
    if c.token > task.token or (c.token == task.token and task.lease is not None):
        raise Refused(NOLEASE, "that lease was never seen here: it is not a lease of that task")
    if c.token < task.token:
        raise Refused(NOLEASE, "that lease is void: the task has been leased again since")
    how = {"expired": "it expired", "failed": "it was given up by a NACK", "disconnected": "its connection closed"}
    ended = how.get(task.tally.ended, "it was released")
    raise Refused(NOLEASE, f"that lease is void: {ended}, and the task is {task.state}")


# Coming back


def _release_one(d: _Draft, task: Task, lease_id: str, cause: ReleaseCause) -> None:
    number, attempts = task.number, task.tally.attempts + (cause == "disconnect")
    d.happened(Released(d.queue, d.seq, d.now_ms, number, task.task_id, lease_id, cause, attempts))
    if cause == "disconnect" and _attempts_used_up(d.heart, number):
        _bury(d, number, "attempts", "disconnect")
    elif 0 < task.expires_ms <= d.now_ms:
        _bury(d, number, "ttl", "ttl")


def _requeue(d: _Draft, number: int, delay_ms: int) -> None:
    """What follows `Expired` and `Failed`. `delay_ms` UNSET: the backoff decides."""
    task = d.heart.the_task(number)
    if _attempts_used_up(d.heart, number):
        tally = task.tally
        _bury(d, number, "attempts", tally.reason or ("nack" if tally.ended == "failed" else "lease expired"))
    elif 0 < task.expires_ms <= d.now_ms:
        _bury(d, number, "ttl", "ttl")
    else:
        if delay_ms == UNSET:
            delay_ms = _backoff_ms(d, task.tally.attempts)
        due_ms = d.now_ms + delay_ms if delay_ms else 0
        d.happened(Requeued(d.queue, d.seq, d.now_ms, number, task.task_id, due_ms))


def _attempts_used_up(h: Heart, number: int) -> bool:
    task = h.the_task(number)
    most = max_attempts(h.policy, task)
    return 0 < most <= task.tally.attempts


def _backoff_ms(d: _Draft, attempts: int) -> int:
    """Exponential, capped, with a jitter that takes off up to half, so that a herd spreads out."""
    policy = d.heart.policy
    if not policy.backoff_ms:
        return 0
    cap_ms = policy.backoff_max_ms or DURATION_MS_MAX
    # 2**32 ms is past every cap: no need to make a number with thousands of digits first.
    full_ms = min(policy.backoff_ms << min(attempts - 1, 32), cap_ms)
    return full_ms - d.nonce() % (full_ms // 2 + 1)


def _bury(d: _Draft, number: int, cause: DeadCause, reason: str) -> None:
    task = d.heart.the_task(number)
    d.happened(DeadLettered(d.queue, d.seq, d.now_ms, number, task.task_id, cause, reason, task.tally.attempts))


# Time


def _tick(d: _Draft, c: Tick) -> Answer:
    return _do_due_work(d)


def _do_due_work(d: _Draft) -> int:
    """Leases whose deadline came, then TTLs that ran out, then tasks that mature: at most COUNT_MAX tasks."""
    h, done = d.heart, 0
    while done < COUNT_MAX:
        if (key := h.by_deadline().first()) and key[0] <= d.now_ms:
            task = h.the_task(key[2])
            assert task.lease is not None
            lease_id, attempts = task.lease.lease_id, task.tally.attempts + 1
            d.happened(Expired(d.queue, d.seq, d.now_ms, task.number, task.task_id, lease_id, attempts))
            _requeue(d, task.number, UNSET)
        elif (key := h.expiring.first()) and key[0] <= d.now_ms:
            _bury(d, key[2], "ttl", "ttl")
        elif (key := h.scheduled.first()) and key[0] <= d.now_ms:
            d.happened(Matured(d.queue, d.seq, d.now_ms, key[2], h.the_task(key[2]).task_id))
        else:
            break
        done += 1
    h.soonest_ms = h.next_due_ms() or NEVER_MS
    return done


# Operators


def _redrive(d: _Draft, c: Redrive) -> Answer:
    if c.task_id:
        task = d.heart.named(c.task_id)
        if task is None or task.state != lifecycle.DEAD:
            what = "the queue does not know it" if task is None else f"it is {task.state}"
            raise Refused(NOTASK, f"no dead task has that id: {what}")
        chosen = [task]
    else:
        chosen = [d.heart.the_task(key[2]) for key in d.heart.dead.following(None, c.count)]
    for task in chosen:
        expires_ms = task.expires_ms if task.expires_ms > d.now_ms else 0
        place = d.heart.next_number
        d.happened(Redriven(d.queue, d.seq, d.now_ms, task.number, task.task_id, place, expires_ms))
    return len(chosen)


def _delete(d: _Draft, c: Delete) -> Answer:
    task = d.heart.named(c.task_id)
    if task is None:
        return 0
    if task.state == lifecycle.PROCESSING:
        raise Refused(LEASED, "the task is under a live lease: wait until it ends, or ACK it")
    d.happened(Deleted(d.queue, d.seq, d.now_ms, task.number, task.task_id))
    return 1


def _purge(d: _Draft, c: Purge) -> Answer:
    count = d.heart.count(c.state)
    if count:
        d.happened(Purged(d.queue, d.seq, d.now_ms, c.state, count))
    return count


def _configure(d: _Draft, c: Configure) -> Answer:
    policy = msgspec.structs.replace(d.heart.policy, **dict(c.changes))
    if policy != d.heart.policy:
        d.happened(QueueConfigured(d.queue, d.seq, d.now_ms, policy))
    return None


def _pause(d: _Draft, c: Pause) -> Answer:
    if not d.heart.paused:
        d.be_born()
        d.happened(QueuePaused(d.queue, d.seq, d.now_ms))
    return None


def _resume(d: _Draft, c: Resume) -> Answer:
    if d.heart.paused:
        d.happened(QueueResumed(d.queue, d.seq, d.now_ms))
    return None


def _drafted(rule: Callable[..., Answer]) -> Callable[..., Decision]:
    """A rule that may take several events, or none."""

    def decided(state: QueueState, h: Heart, c: Command, now_ms: int, seed: int) -> Decision:
        draft = _Draft(state, h, now_ms, seed)
        return draft.decided(rule(draft, c))

    return decided


_RULES: Final[dict[type[AnyCommand], Callable[..., Decision]]] = {
    Enqueue: _enqueue,
    EnqueueMany: _enqueue_many,
    Fetch: _fetch,
    Ack: _ack,
    Nack: _drafted(_nack),
    Release: _drafted(_release),
    Extend: _drafted(_extend),
    Configure: _drafted(_configure),
    Redrive: _drafted(_redrive),
    Delete: _drafted(_delete),
    Purge: _drafted(_purge),
    Pause: _drafted(_pause),
    Resume: _drafted(_resume),
    Tick: _drafted(_tick),
}
