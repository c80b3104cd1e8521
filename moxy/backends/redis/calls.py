"""Commands as calls of scripts, and replies of scripts as answers.

Lives here: a verb on its way and what it came to, the arguments of each, the shape of its reply. Must not: a
connection, a rule of a queue.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from moxy.backends.redis.node import Word
from moxy.backends.redis.records import policy_of, task_of
from moxy.core.answers import Answer, Delivery, Fields, QueueStats
from moxy.core.commands import (
    Ack,
    AnyCommand,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    Info,
    Nack,
    Pause,
    Peek,
    Purge,
    ReadPolicy,
    Redrive,
    Release,
    Resume,
    Show,
    Stats,
    Tick,
)
from moxy.core.errors import TOOBIG, Refused
from moxy.core.events import AnyEvent, Enqueued, Leased
from moxy.core.ids import digits, nonce
from moxy.core.policy import PAYLOAD_BYTES_MAX, Policy
from moxy.core.state import QueueState
from moxy.core.views import delivery, show

_CHANCE_MASK: Final = (1 << 42) - 1
"""Jitter is drawn in a script from so many bits: its numbers are exact below 2^53, and one script draws up to 2^10."""

CREATING: Final = (Enqueue, EnqueueMany, Configure, Pause)
"""What can be a queue's first event."""


class Asker(msgspec.Struct, frozen=True):
    """Who calls: the server's id, which holds bound leases; and the policy that it gives to new queues."""

    server_id: str
    policy: Policy


class Job(msgspec.Struct, frozen=True, gc=False):
    """One verb for one queue. `again`: it may be run a second time when nobody knows whether it ran. `payloads`: of the
    tasks that it makes, which the events that come back are without. `unnamed`: how many tasks it may touch besides
    those that it has words for."""

    queue: str
    verb: str
    words: list[Word]
    again: bool
    payloads: Sequence[bytes] = ()
    unnamed: int = 0

    @property
    def weight(self) -> int:
        """About how many tasks it touches, for a bound on what goes together."""
        return 1 + max(len(self.words) - 9, 0) + self.unnamed


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What a verb did: its value, its events, and when by Redis's clock."""

    value: Any
    events: list[AnyEvent]
    clock_ms: int

    @property
    def number(self) -> int:
        """The value of a verb that answers with a number."""
        assert isinstance(self.value, int), self.value
        return self.value


class Verb(msgspec.Struct, frozen=True):
    """How one command is called. `again`: it may be sent again when nobody knows whether it ran."""

    script: str
    arguments: Callable[..., list[Word]]
    shape: Callable[..., Answer]
    again: Callable[..., bool]


def _yes(command: AnyCommand) -> bool:
    return True


def _no(command: AnyCommand) -> bool:
    return False


# Arguments: command, seed of chance, asker


def _nonce(seed: int, draw: int) -> str:
    return digits(nonce(seed, draw))


def _enqueue(c: Enqueue, seed: int, asker: Asker) -> list[Word]:
    _check_size(c.payload)
    return [
        c.task_id,
        c.priority,
        c.delay_ms,
        c.ttl_ms,
        c.max_attempts,
        c.lease_ms,
        c.dedup_ms,
        _nonce(seed, 0),
        c.payload,
    ]


def _enqueue_many(c: EnqueueMany, seed: int, asker: Asker) -> list[Word]:
    words: list[Word] = ["", 0, 0, -1, -1, 0, 0]
    for draw, payload in enumerate(c.payloads):
        _check_size(payload)
        words += (_nonce(seed, draw), payload)
    return words


def _check_size(payload: bytes) -> None:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refused(TOOBIG, f"a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {len(payload)}")


def _fetch(c: Fetch, seed: int, asker: Asker) -> list[Word]:
    holder = asker.server_id if c.bound else ""
    head: list[Word] = [c.lease_ms, c.worker, holder, seed & _CHANCE_MASK]
    return head + [_nonce(seed, draw) for draw in range(c.count)]


def _lease(c: Ack, seed: int, asker: Asker) -> list[Word]:
    return [c.number, c.token, c.lease_id]


def _nack(c: Nack, seed: int, asker: Asker) -> list[Word]:
    return [c.number, c.token, c.lease_id, c.kind, c.delay_ms, c.reason, seed & _CHANCE_MASK]


def _release(c: Release, seed: int, asker: Asker) -> list[Word]:
    return [c.number, c.token, c.lease_id, c.cause]


def _extend(c: Extend, seed: int, asker: Asker) -> list[Word]:
    return [c.number, c.token, c.lease_id, c.lease_ms]


def _configure(c: Configure, seed: int, asker: Asker) -> list[Word]:
    return [word for pair in c.changes for word in pair]


def _redrive(c: Redrive, seed: int, asker: Asker) -> list[Word]:
    return [c.count, c.task_id]


def _task_id(c: Delete | Show, seed: int, asker: Asker) -> list[Word]:
    return [c.task_id]


def _state(c: Purge, seed: int, asker: Asker) -> list[Word]:
    return [c.state]


def _peek(c: Peek, seed: int, asker: Asker) -> list[Word]:
    return [c.state, c.count]


def _chance(c: Tick, seed: int, asker: Asker) -> list[Word]:
    return [seed & _CHANCE_MASK]


def _nothing(c: AnyCommand, seed: int, asker: Asker) -> list[Word]:
    return []


# Answers: command, what came back


def _done(c: AnyCommand, taken: Taken) -> Answer:
    return None


def _number(c: AnyCommand, taken: Taken) -> Answer:
    return taken.number


def _ids(c: AnyCommand, taken: Taken) -> Answer:
    known: Sequence[bytes] = taken.value
    return [task_id.decode() for task_id in known] or [e.task_id for e in taken.events if type(e) is Enqueued]


def _deliveries(c: Fetch, taken: Taken) -> Answer:
    leases = [event for event in taken.events if type(event) is Leased]
    return [
        Delivery(
            e.lease_id, e.task_id, e.queue, payload, attempts, deliveries, e.token, e.deadline_ms, priority, since_ms
        )
        for e, (payload, attempts, deliveries, priority, since_ms) in zip(leases, taken.value, strict=True)
    ]


def _entries(c: Peek, taken: Taken) -> Answer:
    return [delivery(c.queue, task_of(int(number), record, payload)) for number, record, payload in taken.value]


def _task(c: Show, taken: Taken) -> Answer:
    if not taken.value:
        return None
    number, record, payload, max_attempts = taken.value
    state = QueueState(c.queue, Policy(max_attempts=max_attempts))
    return show(state, task_of(int(number), record, payload))


def _stats(c: Stats, taken: Taken) -> Answer:
    ready, held, dead = taken.value
    return QueueStats(ready, held, dead, held, held)


def _policy(c: ReadPolicy, taken: Taken) -> Answer:
    return dict(msgspec.structs.asdict(policy_of(taken.value)))


TOTALS: Final = (
    "enqueued",
    "matured",
    "leased",
    "extended",
    "acked",
    "expired",
    "failed",
    "released",
    "requeued",
    "dead_lettered",
    "redriven",
    "deleted",
)


class InfoReply(msgspec.Struct, frozen=True):
    """What info.lua answers."""

    paused: int
    scheduled: int
    ready: int
    processing: int
    dead: int
    oldest_ms: int
    next_due_ms: int
    remembered: int
    at_ms: int
    born_ms: int
    policy: list[int]
    totals: list[int]
    seq: int
    last_token: int
    epoch: int


def _info(c: Info, taken: Taken) -> Answer:
    """Field by field as `views.info` has it; the epoch comes on top."""
    reply = InfoReply(*taken.value)
    fields: Fields = {
        "queue": c.queue,
        "paused": reply.paused,
        "scheduled": reply.scheduled,
        "ready": reply.ready,
        "processing": reply.processing,
        "dead": reply.dead,
        "oldest_ready_age_ms": max(taken.clock_ms - reply.oldest_ms, 0) if reply.oldest_ms else None,
        "next_due_ms": reply.next_due_ms or None,
        "remembered_ids": reply.remembered,
        "last_token": reply.last_token,
        "last_seq": reply.seq,
        "last_event_ms": reply.at_ms or None,
        "born_ms": reply.born_ms or None,
    }
    policy = msgspec.structs.asdict(policy_of(reply.policy))
    fields.update({f"policy_{field}": value for field, value in policy.items()})
    fields.update({f"total_{what}": n for what, n in zip(TOTALS, reply.totals, strict=True)})
    fields["epoch"] = reply.epoch
    return fields


def _has_own_id(c: Enqueue) -> bool:
    """An ENQUEUE with an ID of its own creates nothing the second time (I14)."""
    return bool(c.task_id)


VERBS: Final[dict[type[AnyCommand], Verb]] = {
    Enqueue: Verb("enqueue", _enqueue, _ids, _has_own_id),
    EnqueueMany: Verb("enqueue", _enqueue_many, _ids, _no),
    Fetch: Verb("fetch", _fetch, _deliveries, _no),
    Ack: Verb("ack", _lease, _done, _no),
    Nack: Verb("nack", _nack, _done, _no),
    Release: Verb("release", _release, _done, _yes),
    Extend: Verb("extend", _extend, _number, _yes),
    Configure: Verb("configure", _configure, _done, _yes),
    Redrive: Verb("redrive", _redrive, _number, _no),
    Delete: Verb("delete", _task_id, _number, _no),
    Purge: Verb("purge", _state, _number, _no),
    Pause: Verb("pause", _nothing, _done, _yes),
    Resume: Verb("resume", _nothing, _done, _yes),
    Tick: Verb("tick", _chance, _number, _yes),
    Stats: Verb("stats", _nothing, _stats, _yes),
    Peek: Verb("peek", _peek, _entries, _yes),
    Show: Verb("show", _task_id, _task, _yes),
    Info: Verb("info", _nothing, _info, _yes),
    ReadPolicy: Verb("policy", _nothing, _policy, _yes),
}
"""Release may be repeated because the second time finds the lease void, which whoever gave it back does not mind."""
