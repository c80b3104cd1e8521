"""Every state of a small queue: breadth first over the real `decide` and `apply`, nothing sampled.

What lives here: the scopes (which commands, how many tasks), the exploration, what is checked at every step and in
every state, the liveness of the finished graph, and how a counterexample is told. What must not live here: a second
idea of how a queue works. The shipped core is the model; this file only drives it and judges. Beside `adapters` it is
the only file in `spec` that imports `moxy`, and of that only the core.

    python -m spec.explore [--scope NAME] [--deep]

Words. A *move* is one command (a closing connection: one release for each lease bound to it) or one millisecond that
passes. Two worlds are the same *state* when `reduced` says so. An *edge* is a distinct triple (state, name of the
move, other state); a move that is refused or changes nothing is checked, but is no edge.

Time needs no bound: it is kept relative, and what is overdue stays overdue. So the graph is finite as soon as the
number of enqueues and of attempts is, and "every state" has no small print about how long the run was.
"""

import argparse
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, NamedTuple, TypedDict

import msgspec

from moxy.core import decider, reducer
from moxy.core.answers import Delivery, QueueStats
from moxy.core.commands import (
    UNSET,
    Ack,
    AnyCommand,
    Command,
    Configure,
    Delete,
    Enqueue,
    Extend,
    Fetch,
    Info,
    LeaseCommand,
    Nack,
    NackKind,
    Pause,
    Peek,
    Purge,
    Query,
    ReadPolicy,
    Redrive,
    Release,
    Resume,
    Show,
    Stats,
    Tick,
)
from moxy.core.decision import Decision
from moxy.core.errors import FULL, LEASED, MAXHOLD, NOLEASE, NOTASK, Refused
from moxy.core.events import AnyEvent, DeadLettered, Expired, Leased, Purged, Redriven, Released, Requeued, TaskEvent
from moxy.core.ids import lease_id
from moxy.core.invariants import broken_by, first_eligible
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.policy import Policy
from moxy.core.reading import different
from moxy.core.state import QueueState
from moxy.core.tasks import Task

Decide = Callable[[QueueState, AnyCommand, int, int], Decision]
Apply = Callable[[QueueState, AnyEvent], QueueState]

QUEUE: Final = "jobs"
START_MS: Final = 1000
"""Not 0, which means "none" in several fields."""

ADVANCE: Final = "Advance"
FORCED: Final = frozenset({ADVANCE, "Tick", "Fetch", "Resume"})
"""What time and workers do for ever, and operators after a pause: the fairness that liveness assumes."""
WHIMS: Final = frozenset({"Release", "Undelivered", "Extend", "Pause", "Redrive", "Configure"})
"""What can be repeated for ever without a task ever ending: liveness assumes that each stops at some time."""


# Scopes

_TWO_ATTEMPTS: Final = Policy(max_attempts=2, lease_ms=2)


@dataclass(frozen=True)
class Scope:
    """A small world: how many tasks are ever enqueued, and which commands there are. `about` is for people.

    `whole`: states are not reduced by symmetry; for the comparison with TLA+, which counts them so.
    """

    name: str
    about: str
    tasks: int
    policy: Policy = _TWO_ATTEMPTS
    enqueues: tuple[Enqueue, ...] = (Enqueue(QUEUE, b""),)
    fetches: tuple[Fetch, ...] = (Fetch(QUEUE, 0),)
    nacks: tuple[tuple[NackKind, int], ...] = ()
    extends: tuple[int, ...] = ()
    undelivers: bool = False
    deletes: bool = False
    redrives: bool = False
    operators: tuple[Command, ...] = ()
    seeds: tuple[int, ...] = (0,)
    whole: bool = False
    deep: bool = False

    def __post_init__(self) -> None:
        """What `reduced` relies on when it lets connections change places."""
        offers = [
            sorted((fetch.lease_ms, fetch.count) for fetch in self.fetches if fetch.bound and fetch.worker == worker)
            for worker in {fetch.worker for fetch in self.fetches if fetch.bound}
        ]
        assert all(offer == offers[0] for offer in offers), f"{self.name}: connections that differ"

    @property
    def every_task_ends(self) -> bool:
        """Whether L3 is promised: no attempts without end."""
        own = [enqueue.max_attempts for enqueue in self.enqueues]
        later = [value for c in self.operators if isinstance(c, Configure) for _, value in c.changes]
        return 0 not in own and 0 not in (self.policy.max_attempts, *later)


class _Shared(TypedDict):
    enqueues: tuple[Enqueue, ...]
    nacks: tuple[tuple[NackKind, int], ...]
    operators: tuple[Command, ...]
    whole: bool


_SHARED: Final[_Shared] = {
    "enqueues": tuple(Enqueue(QUEUE, b"", "", priority, delay) for priority in (0, 1) for delay in (0, 1)),
    "nacks": (("retry", UNSET), ("retry", 1), ("fatal", UNSET), ("release", UNSET)),
    "operators": (Redrive(QUEUE, 1), Purge(QUEUE, "dead")),
    "whole": True,
}

_OPERATORS: Final = (Redrive(QUEUE), Redrive(QUEUE, 1), Purge(QUEUE, "dead"))

SCOPES: Final[dict[str, Scope]] = {
    scope.name: scope
    for scope in (
        Scope(
            "plain",
            "enqueue, fetch one or two, ack, expire; leases of two lengths",
            3,
            Policy(max_attempts=3, lease_ms=3),
            fetches=(Fetch(QUEUE, 0), Fetch(QUEUE, 1, 2)),
        ),
        Scope(
            "delay and priority",
            "delays, priorities, a backoff that is drawn",
            3,
            Policy(max_attempts=2, lease_ms=1, backoff_ms=2, backoff_max_ms=3),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "", 9, 2)),
            seeds=(0, 1),
        ),
        Scope(
            "nack and dead letter",
            "every NACK, undelivered replies, redrive, delete and purge",
            3,
            nacks=(("retry", UNSET), ("retry", 2), ("fatal", UNSET), ("release", UNSET)),
            undelivers=True,
            deletes=True,
            redrives=True,
            operators=_OPERATORS,
        ),
        Scope(
            "ttl",
            "TTLs that run out while ready, scheduled, processing or dead",
            2,
            Policy(max_attempts=2, lease_ms=2, ttl_ms=3),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "", 0, 2), Enqueue(QUEUE, b"", ttl_ms=0)),
            nacks=(("retry", 1), ("release", UNSET)),
            operators=(Redrive(QUEUE, 1),),
        ),
        Scope(
            "pause",
            "pause and resume, a policy that changes under way, a bound on what waits",
            3,
            Policy(max_attempts=2, lease_ms=2, max_ready=2),
            nacks=(("retry", UNSET),),
            operators=(
                Pause(QUEUE),
                Resume(QUEUE),
                Configure(QUEUE, (("max_attempts", 1),)),
                Configure(QUEUE, (("max_attempts", 2), ("lease_ms", 1))),
                Purge(QUEUE, "ready"),
            ),
        ),
        Scope(
            "dedup",
            "two ids enqueued again and again, one with a window",
            4,
            Policy(max_attempts=2, lease_ms=1),
            enqueues=(
                Enqueue(QUEUE, b"", "a", dedup_ms=2),
                Enqueue(QUEUE, b"", "b", dedup_ms=2),
                Enqueue(QUEUE, b"", "b"),
            ),
            deletes=True,
            operators=(Purge(QUEUE, "dead"),),
        ),
        Scope(
            "bound",
            "two connections, leases bound to them, disconnects, EXTEND up to a cap",
            3,
            Policy(max_attempts=2, lease_ms=1, max_hold_ms=2),
            fetches=(Fetch(QUEUE, 0, 1, "w1", True), Fetch(QUEUE, 0, 1, "w2", True)),
            extends=(2,),
        ),
        Scope(
            "own options",
            "tasks with attempts and leases of their own, one that may fail for ever",
            3,
            enqueues=(Enqueue(QUEUE, b"", max_attempts=1, lease_ms=3), Enqueue(QUEUE, b"", max_attempts=0)),
            nacks=(("retry", UNSET),),
        ),
        Scope(
            "shared",
            "the same as Moxy.tla, not reduced by symmetry: TLC must find as many",
            2,
            Policy(max_attempts=3, lease_ms=2),
            **_SHARED,
        ),
        Scope(
            "shared, three tasks",
            "the same with one more, and less of the rest",
            3,
            Policy(max_attempts=2, lease_ms=1),
            **_SHARED,
            deep=True,
        ),
        Scope(
            "everything",
            "four tasks, most of the above together",
            4,
            Policy(max_attempts=2, lease_ms=2),
            enqueues=(Enqueue(QUEUE, b""), Enqueue(QUEUE, b"", "a", 9, 1, dedup_ms=2)),
            fetches=(Fetch(QUEUE, 0, 1, "w1", True), Fetch(QUEUE, 0, 2, "w2")),
            nacks=(("retry", UNSET), ("fatal", UNSET), ("release", UNSET)),
            operators=(Pause(QUEUE), Resume(QUEUE), Redrive(QUEUE, 1), Purge(QUEUE, "dead")),
            deep=True,
        ),
    )
}


# Worlds and moves


class World(NamedTuple):
    """A queue and what time it is."""

    state: QueueState
    now_ms: int


class Move(NamedTuple):
    """Something that may happen. No command: a millisecond passes. `refusals`: with which code it must be refused."""

    name: str
    commands: tuple[Command, ...]
    refusals: tuple[str, ...] = ()
    seed: int = 0


def moves(scope: Scope, world: World) -> list[Move]:
    """All that can happen here, in a fixed order: a path is kept as positions in these lists."""
    state = world.state
    found = [Move(ADVANCE, ()), *(Move("Tick", (Tick(QUEUE),), seed=seed) for seed in scope.seeds)]
    left = state.totals.enqueued < scope.tasks
    full = 0 < state.policy.max_ready <= len(state.ready) + len(state.scheduled)
    for enqueue in scope.enqueues:
        if left or _is_known(world, enqueue.task_id):
            payload = b"%d" % (state.totals.enqueued + 1)
            known = enqueue.task_id and _is_known(world, enqueue.task_id)
            refusals = () if known or not full else (FULL,)
            found.append(Move("Enqueue", (msgspec.structs.replace(enqueue, payload=payload),), refusals))
    found += [Move("Fetch", (fetch,)) for fetch in scope.fetches]
    dropped: dict[str, list[Command]] = {}
    for task in state.in_state(PROCESSING):
        lease = task.lease
        assert lease is not None
        held = (QUEUE, lease.lease_id, task.number, lease.token)
        found.append(Move("Ack", (Ack(*held),)))
        for kind, delay_ms in scope.nacks:
            nack = Nack(*held, kind, delay_ms)
            seeds = scope.seeds if kind == "retry" and delay_ms == UNSET else (0,)
            found += [Move("Release" if kind == "release" else "Nack", (nack,), seed=seed) for seed in seeds]
        for lease_ms in scope.extends:
            until_ms, cap_ms = world.now_ms + lease_ms, state.policy.max_hold_ms
            beyond = until_ms > lease.deadline_ms and 0 < cap_ms < until_ms - lease.leased_ms
            found.append(Move("Extend", (Extend(*held, lease_ms),), (MAXHOLD,) * beyond))
        if scope.undelivers:
            found.append(Move("Undelivered", (Release(*held, "undelivered"),)))
        if lease.bound:
            dropped.setdefault(lease.worker, []).append(Release(*held, "disconnect"))
    found += [Move("Disconnect", tuple(releases)) for _, releases in sorted(dropped.items())]
    for task in sorted(state.tasks.values(), key=_place):
        if scope.deletes:
            found.append(Move("Delete", (Delete(QUEUE, task.task_id),), (LEASED,) * (task.state == PROCESSING)))
        if scope.redrives:
            found.append(Move("Redrive", (Redrive(QUEUE, 1, task.task_id),), (NOTASK,) * (task.state != DEAD)))
    return found + [Move(type(command).__name__, (command,)) for command in scope.operators]


def _place(task: Task) -> int:
    return task.place


def _is_known(world: World, task_id: str) -> bool:
    """I14 in its own words: somebody has the id, or somebody who had it is gone inside the window."""
    state = world.state
    if any(task.task_id == task_id for task in state.tasks.values()):
        return True
    until_ms, _ = state.remembered.get(task_id, (0, 0))
    return until_ms > world.now_ms


# What makes two worlds the same


def reduced(scope: Scope, world: World) -> bytes:
    """The world without what no command can ever read again. Equal means: whatever happens next, it happens to both.

    - Times become "how long from now". What is overdue is 0: only "due or not" is asked of it, and in which order,
      which is kept where it is asked (leases, TTLs of what waits; the due times of scheduled tasks).
    - Tasks are listed by place, and named by their position in that list. Numbers, places and automatic ids are
      compared with each other and never with anything else, and a new one is above all: only their order matters.
    - Ids of clients are compared for equality alone, so they could be renamed where they come with the same options.
      They are few, and kept by name.
    - Tokens: the order of live leases has them in it, as the tie between equal deadlines. An EXTEND can make
      deadlines equal later, so with EXTEND the order of the tokens is kept too. Void leases have no effect (I4 is
      probed in every state), so no token of theirs needs to be kept.
    - The moment of leasing matters for the cap on EXTEND, and no further back than the cap.
    - The worker of a lease that is not bound is never read. Those of bound leases are compared for equality alone, and
      a scope lets each of them fetch the same (`Scope` sees to it): named in the order of their first lease.
    - `seq`, `at_ms`, `born_ms`, the totals (but how many enqueues are left), all of the tally but the attempts, cause
      and reason of a death, payloads, and ids whose window is over: written, and read by nothing that decides. The
      text of the last NACK is read inside the batch that writes it, never after. Attempts of the dead restart with a
      redrive; those of a task that may fail for ever are read by the backoff alone.

    What is left out was still checked, each step's own change of it, before it was left out.
    """
    state, now_ms = world
    policy = state.policy
    fixed = not any(isinstance(command, Configure) for command in scope.operators)

    def reads_attempts(task: Task) -> bool:
        own = task.options.max_attempts
        unlimited = own == 0 or (own < 0 and policy.max_attempts == 0 and fixed)
        return task.state != DEAD and (policy.backoff_ms > 0 or not unlimited)

    line = sorted(state.tasks.values(), key=_place)
    seat = {task.number: at for at, task in enumerate(line)}
    waiting = [
        (
            task.state,
            task.priority,
            task.tally.attempts if reads_attempts(task) else 0,
            max(task.expires_ms - now_ms, 0) if task.expires_ms else -1,
            task.options.max_attempts,
            task.options.lease_ms,
            task.options.dedup_ms,
            task.task_id if any(enqueue.task_id == task.task_id for enqueue in scope.enqueues) else "",
        )
        for task in line
    ]
    held = []
    by_token: list[int] = []
    connections: dict[str, int] = {}
    for task in state.in_state(PROCESSING):
        lease = task.lease
        assert lease is not None
        cap_ms = state.policy.max_hold_ms
        since_ms = min(now_ms - lease.leased_ms, cap_ms) if scope.extends else 0
        worker = 0 if not lease.bound else connections.setdefault(lease.worker, len(connections) + 1)
        held.append((seat[task.number], max(lease.deadline_ms - now_ms, 0), since_ms, worker))
        by_token.append(lease.token)
    return msgspec.msgpack.encode(
        (
            waiting,
            held,
            sorted(range(len(by_token)), key=by_token.__getitem__) if scope.extends else 0,
            [(seat[number], max(due_ms - now_ms, 0)) for due_ms, _, number in state.scheduled],
            [seat[number] for _, _, number in state.dead],
            [seat[number] for ttl_ms, _, number in state.expiring if ttl_ms <= now_ms],
            sorted((name, until - now_ms) for name, (until, _) in state.remembered.items() if until > now_ms),
            state.paused,
            msgspec.structs.astuple(state.policy) if state.policy != scope.policy else 0,
            scope.tasks - state.totals.enqueued,
        )
    )


def whole(scope: Scope, world: World) -> bytes:
    """The world in the terms of Moxy.tla: tasks by the order of their enqueues, also those that are gone.

    Times are relative and what is overdue is 0, as above; everything that Moxy.tla has a variable for is here.
    """
    state, now_ms = world
    nth = {task.number: int(task.payload) for task in state.tasks.values()}
    here = {int(task.payload): task for task in state.tasks.values()}
    rows: list[tuple[str, int, int, int]] = []
    for at in range(1, scope.tasks + 1):
        task = here.get(at)
        if task is None:
            rows.append(("gone" if at <= state.totals.enqueued else "new", 0, 0, 0))
        else:
            left_ms = max((task.lease.deadline_ms if task.lease else task.due_ms) - now_ms, 0)
            rows.append((task.state, task.priority, task.tally.attempts, left_ms))
    return msgspec.msgpack.encode(
        (
            rows,
            [nth[task.number] for task in sorted(state.tasks.values(), key=_place)],
            [nth[number] for _, _, number in state.processing],
            [nth[number] for _, _, number in state.scheduled],
            [nth[number] for _, _, number in state.dead],
        )
    )


# What is checked at every step


class Broken(Exception):
    """Something that must hold does not. The sentence begins with its number where it has one."""


def take(world: World, command: Command, refusals: tuple[str, ...], seed: int, decide: Decide, apply: Apply) -> World:
    """One command carried out and judged. Raises Broken."""
    before, now_ms = world
    try:
        decision = decide(before, command, now_ms, seed)
    except Refused as refused:
        if refused.code not in refusals:
            raise Broken(f"{', '.join(refusals) or 'an effect'} was due, and the answer is {refused}") from None
        return world
    except Exception as error:
        raise Broken(f"decide failed: {type(error).__name__}: {error}") from error
    if refusals:
        raise Broken(f"{', '.join(refusals)} was due, and it was carried out")
    events = decision.events
    after = before
    try:
        for event in events:
            after = apply(after, event)
    except Exception as error:
        raise Broken(f"apply failed: {type(error).__name__}: {error}") from error
    if not events and decision.state is not before:
        raise Broken("I12: the state changed, and no event says so")
    if events:
        _judge_step(world, command, decision, after)
    if isinstance(command, LeaseCommand):
        _judge_lease(world, command, decision, after)
    elif isinstance(command, Fetch | Tick):
        _judge_due_work(world, command, decision, after, apply)
    elif isinstance(command, Enqueue):
        _judge_enqueue(world, command, events)
    return World(after, now_ms) if events else world


def _judge_step(world: World, command: Command, decision: Decision, after: QueueState) -> None:
    """What holds for every step, whatever the command was."""
    before, now_ms = world
    events = decision.events
    for event in events:
        if not isinstance(event, Expired):
            continue
        task = before.tasks.get(event.number)
        if task and task.lease and task.lease.deadline_ms > now_ms:
            raise Broken(f"I6: it is {now_ms}, and a lease until {task.lease.deadline_ms} expired")
    if not _same(decision.state, after):
        raise Broken("I10: the events do not lead to the state that was decided")
    if any(event.at_ms != now_ms for event in events):
        raise Broken(f"I15: it is {now_ms}, and something else is written in {events}")
    sentences = broken_by(before, events, after)
    if sentences:
        raise Broken(sentences[0])
    _judge_tasks(world, command, events, after)


def _same(one: QueueState, other: QueueState) -> bool:
    """Equal in every field. `==` will not do: states are compared by identity there."""
    return one is other or not different(one, other)


def _judge_tasks(world: World, command: Command, events: Sequence[AnyEvent], after: QueueState) -> None:
    """What becomes of each task: only what the events say, and nothing that is not allowed to change."""
    before, now_ms = world
    named = {event.number for event in events if isinstance(event, TaskEvent)}
    purged = any(isinstance(event, Purged) for event in events)
    redriven = {event.number for event in events if isinstance(event, Redriven)}
    for number, old in before.tasks.items():
        new = after.tasks.get(number)
        if new is old:
            continue
        if number not in named and not (purged and new is None):
            raise Broken(f"I12: task {old.task_id!r} changed, and no event says so")
        if new is None:
            if old.options.dedup_ms and after.remembered.get(old.task_id) != (now_ms + old.options.dedup_ms, number):
                raise Broken(f"I14: {old.task_id!r} is gone, and not remembered for its window")
            continue
        if new.place != old.place and number not in redriven:
            raise Broken(f"I7: task {old.task_id!r} lost its place: {old.place} became {new.place}")
        if (new.task_id, new.payload, new.priority, new.options) != (
            old.task_id,
            old.payload,
            old.priority,
            old.options,
        ):
            raise Broken(f"I12: task {old.task_id!r} is another one now")
        kept = old.lease and new.lease and old.lease.lease_id == new.lease.lease_id
        if kept and new.lease != old.lease and not isinstance(command, Extend):
            raise Broken(f"I2: the lease of {old.task_id!r} changed without an EXTEND: {new.lease}")
    for task_id, (until_ms, number) in before.remembered.items():
        if until_ms > now_ms and after.remembered.get(task_id) != (until_ms, number):
            raise Broken(f"I14: {task_id!r} was forgotten inside its window")
    for event in events:
        if isinstance(event, Requeued | Released | DeadLettered):
            _judge_return(before, event, after, now_ms)


def _judge_return(
    before: QueueState, event: Requeued | Released | DeadLettered, after: QueueState, now_ms: int
) -> None:
    task = after.tasks.get(event.number)
    if task is None:
        return
    most = before.policy.max_attempts if task.options.max_attempts < 0 else task.options.max_attempts
    used_up = 0 < most <= task.tally.attempts
    if isinstance(event, DeadLettered):
        if event.cause == "attempts" and not used_up:
            raise Broken(f"I9: {event} after {task.tally.attempts} attempts of {most}")
    elif task.state in (READY, SCHEDULED):
        if used_up and (isinstance(event, Requeued) or event.cause == "disconnect"):
            raise Broken(f"I8: {task.task_id!r} is back after {task.tally.attempts} attempts of {most}")
        if 0 < task.expires_ms <= now_ms:
            raise Broken(f"I9: {task.task_id!r} is back after its TTL")


def _judge_lease(world: World, command: LeaseCommand, decision: Decision, after: QueueState) -> None:
    """I4, and what an EXTEND promises."""
    task = world.state.tasks.get(command.number)
    if task is None or task.lease is None or task.lease.lease_id != command.lease_id:
        raise Broken(f"I4: {command} had an effect, and its lease is void")
    if isinstance(command, Extend):
        lease = after.tasks[command.number].lease
        wanted_ms = max(task.lease.deadline_ms, world.now_ms + command.lease_ms)
        if lease is None or not lease.deadline_ms == decision.answer == wanted_ms:
            raise Broken(f"I6: {wanted_ms} was asked for, {decision.answer} answered, and the lease is {lease}")
        return
    left = after.tasks.get(command.number)
    if left is not None and (isinstance(command, Ack) or left.lease is not None):
        raise Broken(f"L2: {_brief(command)} did not end the lease, or the task: {left}")


def _judge_due_work(world: World, command: Fetch | Tick, decision: Decision, after: QueueState, apply: Apply) -> None:
    """That nothing due is left; for a FETCH I7, the first and as many as asked, and that the answer is the truth."""
    before, now_ms = world
    events = decision.events
    due_ms = after.next_due_ms()
    if due_ms is not None and due_ms <= now_ms:
        raise Broken(f"L2: it is {now_ms}, and what is due at {due_ms} was left undone")
    if isinstance(command, Tick):
        return
    due = list(takewhile(lambda event: not isinstance(event, Leased), events))
    middle = before
    for event in due:
        middle = apply(middle, event)
    leased = events[len(due) :]
    sentence = first_eligible(middle, command, leased)
    if sentence:
        raise Broken(sentence)
    wanted = 0 if before.paused else min(command.count, len(middle.ready))
    if len(leased) != wanted:
        raise Broken(f"I7: {wanted} tasks were to be leased, and {len(leased)} were")
    answer = decision.answer
    assert isinstance(answer, list)
    if len(answer) != len(leased):
        raise Broken(f"I12: {len(leased)} leases, and {len(answer)} in the answer")
    for delivery, event in zip(answer, leased, strict=True):
        assert isinstance(delivery, Delivery)
        assert isinstance(event, Leased)
        task = after.tasks[event.number]
        lease_ms = command.lease_ms or task.options.lease_ms or before.policy.lease_ms
        told = (delivery.task_id, delivery.payload, delivery.lease_id, delivery.token, delivery.deadline_ms)
        lease = task.lease
        if lease is None or told != (task.task_id, task.payload, lease.lease_id, lease.token, now_ms + lease_ms):
            raise Broken(f"I6: {delivery} was answered, and the lease is {lease}")
        if lease.deadline_ms != delivery.deadline_ms:
            raise Broken(f"I6: {delivery.deadline_ms} was answered, and the deadline is {lease.deadline_ms}")


def _judge_enqueue(world: World, command: Enqueue, events: Sequence[AnyEvent]) -> None:
    known = bool(command.task_id) and _is_known(world, command.task_id)
    if known and events:
        raise Broken(f"I14: {command.task_id!r} is known, and {events[-1]}")
    if not known and not events:
        raise Broken(f"I14: {command.task_id!r} is not known, and nothing was created")


_QUERIES: Final[tuple[Query, ...]] = (
    Stats(QUEUE),
    Peek(QUEUE, READY, 2),
    Peek(QUEUE, DEAD, 2),
    Show(QUEUE, "a"),
    Info(QUEUE),
    ReadPolicy(QUEUE),
)


def _probes(world: World) -> Iterator[tuple[Command, str]]:
    """Commands that must be refused here, with their code: those about void leases (I4).

    For each number, the lease that ended last, the one before it, and one that was never given. Which of several
    older leases it is makes no difference: none of their tokens is anywhere in the state.
    """
    state = world.state
    for number in range(1, state.next_number + 1):
        task = state.tasks.get(number)
        latest = task.token if task is not None else state.last_token
        for token in (latest - 1, latest, state.last_token + 1):
            if token < 1 or (task is not None and task.lease is not None and token == latest):
                continue
            lease = (QUEUE, lease_id(QUEUE, number, token, 0), number, token)
            yield Ack(*lease), NOLEASE
            if token == latest:
                yield Nack(*lease), NOLEASE
                yield Nack(*lease, "release"), NOLEASE
                yield Extend(*lease, 1), NOLEASE
                yield Release(*lease, "disconnect"), NOLEASE


def _probe(world: World, decide: Decide) -> None:
    """I4 and I12 in one state: what must have no effect has none. Raises `_Probed`."""
    state, now_ms = world
    for command, code in _probes(world):
        try:
            decision = decide(state, command, now_ms, 0)
        except Refused as refused:
            if refused.code != code:
                raise _Probed(command, f"I4: {code} was due, not {refused}") from None
            continue
        except Exception as error:
            raise _Probed(command, f"decide failed: {type(error).__name__}: {error}") from error
        raise _Probed(command, f"I4: its lease is void, and it had an effect: {_brief(decision.events)}")
    for query in _QUERIES:
        decision = decide(state, query, now_ms, 0)
        if decision.events or decision.state is not state:
            raise _Probed(query, f"I12: a query, and {decision.events}")
        if isinstance(query, Stats):
            held = len(state.processing)
            counts = QueueStats(len(state.ready), held, len(state.dead), held, held)
            if decision.answer != counts:
                raise _Probed(query, f"I8: {decision.answer}, but counted {counts}")


class _Probed(Exception):
    def __init__(self, command: AnyCommand, sentence: str) -> None:
        super().__init__(sentence)
        self.command: Final = command


# Telling


@dataclass(frozen=True)
class Violation:
    """What is broken, and the shortest way there: one line a move, one for each of its events."""

    sentence: str
    moves: int
    transcript: str

    def __str__(self) -> str:
        return f"{self.transcript}\n  => {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What an exploration found. `edges_by_move` adds up to `edges`; `finals`: states in which nothing waits."""

    scope: str
    states: int
    edges: int
    depth: int
    finals: int
    seconds: float
    edges_by_move: dict[str, int] = field(default_factory=dict)
    violation: Violation | None = None


_HIDDEN: Final = ("queue", "seq", "at_ms", "payload", "lease_id", "task_id")


def _brief(what: AnyCommand | AnyEvent | Policy | Sequence[AnyEvent]) -> str:
    """A command or an event without what is the same in all of them, and without what was left at its default."""
    if isinstance(what, Sequence):
        return ", ".join(map(_brief, what)) or "nothing"
    defaults = dict(
        zip(what.__struct_fields__[::-1], what.__struct_defaults__[::-1], strict=False)  # only the last have one
    )
    shown = [
        f"{name}={_brief(value) if isinstance(value, Policy) else repr(value)}"
        for name in what.__struct_fields__
        if (value := getattr(what, name)) != defaults.get(name)
        and (name not in _HIDDEN or (name == "task_id" and not isinstance(what, TaskEvent)))
    ]
    return f"{type(what).__name__}({', '.join(shown)})"


@dataclass
class _Explorer:
    """One exploration: the states by what they are reduced to, how each was first reached, the edges."""

    scope: Scope
    decide: Decide
    apply: Apply
    seen: dict[bytes, int] = field(default_factory=dict)
    parents: "array[int]" = field(default_factory=lambda: array("l"))
    ways: "array[int]" = field(default_factory=lambda: array("H"))
    starts: "array[int]" = field(default_factory=lambda: array("L", [0]))
    targets: "array[int]" = field(default_factory=lambda: array("L"))
    names: "array[int]" = field(default_factory=lambda: array("B"))
    name_of: list[str] = field(default_factory=list)
    finals: list[int] = field(default_factory=list)
    depth: int = 0

    def reduce(self, world: World) -> bytes:
        return whole(self.scope, world) if self.scope.whole else reduced(self.scope, world)

    def take(self, world: World, move: Move) -> World:
        if not move.commands:
            return World(world.state, world.now_ms + 1)
        for command in move.commands:
            world = take(world, command, move.refusals, move.seed, self.decide, self.apply)
        return world

    def first(self) -> World:
        return World(QueueState(QUEUE, self.scope.policy), START_MS)

    def run(self) -> Violation | None:
        """Level by level, so the first violation is one of the shortest."""
        first = self.first()
        self.seen[self.reduce(first)] = 0
        self.parents.append(-1)
        self.ways.append(0)
        codes: dict[str, int] = {}
        level, at = [first], 0
        while level:
            following: list[World] = []
            for world in level:
                if not (world.state.ready or world.state.scheduled or world.state.processing):
                    self.finals.append(at)
                try:
                    _probe(world, self.decide)
                except _Probed as probed:
                    return self.tell(str(probed), self.path(at), (probed.command,))
                edges: set[tuple[int, int]] = set()
                for way, move in enumerate(moves(self.scope, world)):
                    try:
                        after = self.take(world, move)
                    except Broken as broken:
                        return self.tell(str(broken), self.path(at), move.commands, move.seed)
                    if after is world:
                        continue
                    key = self.reduce(after)
                    to = self.seen.get(key)
                    if to is None:
                        to = self.seen[key] = len(self.parents)
                        self.parents.append(at)
                        self.ways.append(way)
                        following.append(after)
                    if to != at:
                        edges.add((to, codes.setdefault(move.name, len(codes))))
                for to, code in sorted(edges):
                    self.targets.append(to)
                    self.names.append(code)
                self.starts.append(len(self.targets))
                at += 1
            level = following
            self.depth += bool(level)
        self.name_of = sorted(codes, key=codes.__getitem__)
        return self.judge_liveness()

    # Liveness

    def judge_liveness(self) -> Violation | None:
        """EF: a final state can be reached from everywhere. L1 to L3: without whims, one is reached whatever happens.

        The second is a least set: final states are in it, and so is a state with a forced move (something that time,
        a worker that fetches, or an operator who paused will do) of which every move but the whims leads into it.
        Outside are exactly the states that have a run for ever without a task ending, or that are stuck. A wait
        between two final states is then finite, and as enqueues are finite and whims stop, so is the whole run.
        In a final state nothing is ready, so each ready task was leased or ended (L1); no lease is left (L2).
        """
        count = len(self.parents)
        back = self.reversed_edges(count)
        can = bytearray(count)
        for at in self.finals:
            can[at] = 1
        todo = list(self.finals)
        while todo:
            for from_, _ in back(todo.pop()):
                if not can[from_]:
                    can[from_] = 1
                    todo.append(from_)
        if 0 in can:
            return self.tell("no state in which nothing waits can be reached from here", self.path(can.index(0)))
        if not self.scope.every_task_ends:
            return None
        whim = [name in WHIMS for name in self.name_of]
        forced = [name in FORCED for name in self.name_of]
        open_ways, is_forced = array("L", bytes(8 * count)), bytearray(count)
        for at in range(count):
            for edge in range(self.starts[at], self.starts[at + 1]):
                open_ways[at] += not whim[self.names[edge]]
                is_forced[at] |= forced[self.names[edge]]
        must = bytearray(count)
        for at in self.finals:
            must[at] = 1
        todo = list(self.finals)
        while todo:
            for from_, name in back(todo.pop()):
                if whim[name]:
                    continue
                open_ways[from_] -= 1
                if not open_ways[from_] and is_forced[from_] and not must[from_]:
                    must[from_] = 1
                    todo.append(from_)
        return self.tell_loop(must) if 0 in must else None

    def reversed_edges(self, count: int) -> Callable[[int], Iterator[tuple[int, int]]]:
        """For a state, the edges that lead to it, as (from, name)."""
        starts = array("L", bytes(8 * (count + 1)))
        for to in self.targets:
            starts[to + 1] += 1
        for at in range(count):
            starts[at + 1] += starts[at]
        free, froms, names = array("L", starts), array("L", bytes(8 * len(self.targets))), bytearray(len(self.targets))
        for at in range(count):
            for edge in range(self.starts[at], self.starts[at + 1]):
                to = self.targets[edge]
                froms[free[to]], names[free[to]] = at, self.names[edge]
                free[to] += 1
        return lambda at: zip(froms[starts[at] : starts[at + 1]], names[starts[at] : starts[at + 1]], strict=True)

    def tell_loop(self, must: bytearray) -> Violation:
        """A run that never ends, or gets stuck: the way to its first state, then on outside the set until it closes."""
        at = must.index(0)
        path, met = self.path(at), {at: 0}
        world = self.first()
        for way in path:
            world = self.take(world, moves(self.scope, world)[way])
        came = len(path)
        while True:
            onward = self.outside(world, at, must)
            if onward is None:
                return self.tell("L3: stuck: neither time nor a worker can change anything, and a task waits", path)
            way, world, at = onward
            path.append(way)
            if at in met:
                back = came + met[at]
                return self.tell(f"L3: for ever: this is the state after move {back} again, and no task ended", path)
            met[at] = len(path) - came

    def outside(self, world: World, at: int, must: bytearray) -> tuple[int, World, int] | None:
        """A move that is no whim, does something, and leads to where nothing is bound to end."""
        for way, move in enumerate(moves(self.scope, world)):
            after = self.take(world, move)
            to = self.seen[self.reduce(after)]
            if move.name not in WHIMS and to != at and not must[to]:
                return way, after, to
        return None

    # Counterexamples

    def path(self, at: int) -> list[int]:
        """The moves that first led to a state, as positions in `moves`."""
        ways: list[int] = []
        while at:
            ways.append(self.ways[at])
            at = self.parents[at]
        return ways[::-1]

    def tell(
        self, sentence: str, path: Sequence[int], last: Sequence[AnyCommand] = (), last_seed: int = 0
    ) -> Violation:
        """The transcript of a path, and of the commands after it that broke something."""
        world, lines = self.first(), []
        for number, way in enumerate(path, 1):
            move = moves(self.scope, world)[way]
            if not move.commands:
                lines.append(f"{number:>3}. {'':>4}  1 ms passes")
                world = World(world.state, world.now_ms + 1)
            for command in move.commands:
                world = self.retake(world, command, move.seed, number, lines)
        for asked in last:
            world = self.retake(world, asked, last_seed, len(path) + 1, lines)
        return Violation(sentence, len(path) + bool(last), "\n".join(lines))

    def retake(self, world: World, command: AnyCommand, seed: int, number: int, lines: list[str]) -> World:
        """One command again, for the record and without judging it."""
        lines.append(f"{number:>3}. {world.now_ms:>4}  {_brief(command)}")
        state = world.state
        try:
            for event in self.decide(state, command, world.now_ms, seed).events:
                lines.append(f"{'':>11}-> {_brief(event)}")
                state = self.apply(state, event)
        except Exception as error:
            lines.append(f"{'':>11}-> {type(error).__name__}: {error}")
        return World(state, world.now_ms)


def graph(scope: Scope) -> set[tuple[bytes, str, bytes]]:
    """All edges of the real core's graph, with the states spelled out as `reduced` or `whole` has them."""
    explorer = _Explorer(scope, decider.decide, reducer.apply)
    assert explorer.run() is None
    keys = list(explorer.seen)
    return {
        (keys[at], explorer.name_of[explorer.names[edge]], keys[explorer.targets[edge]])
        for at in range(len(keys))
        for edge in range(explorer.starts[at], explorer.starts[at + 1])
    }


def explore(scope: Scope, decide: Decide = decider.decide, apply: Apply = reducer.apply) -> Report:
    """Every state that `scope` can reach, each step and each state checked. Stops at the first violation.

    `decide` and `apply` are the real ones, or a mutant of them. `decide` folds its events with the `apply` that its own
    module has: a mutant of `apply` is planted there too, or else the difference itself is what is found (I10).
    """
    began = time.perf_counter()
    explorer = _Explorer(scope, decide, apply)
    violation = explorer.run()
    edges_by_move = Counter(explorer.names)
    return Report(
        scope.name,
        len(explorer.parents),
        len(explorer.targets),
        explorer.depth,
        len(explorer.finals),
        time.perf_counter() - began,
        {name: edges_by_move[code] for code, name in enumerate(explorer.name_of)},
        violation,
    )


_ROW: Final = "{:<22} {:>10} {:>10} {:>6} {:>8}  {}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: a table of scopes; 1 when something is broken, after its shortest transcript."""
    parser = argparse.ArgumentParser(prog="python -m spec.explore", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scope", choices=SCOPES, action="append", help="only this one (may be repeated)")
    parser.add_argument("--deep", action="store_true", help="the deep scopes too: at least a million states")
    options = parser.parse_args(arguments)
    write = sys.stdout.write
    chosen = options.scope or [name for name, scope in SCOPES.items() if options.deep or not scope.deep]
    write(_ROW.format("scope", "states", "edges", "depth", "seconds", "what"))
    for name in chosen:
        report = explore(SCOPES[name])
        counts = (report.states, report.edges, report.depth, f"{report.seconds:.1f}")
        write(_ROW.format(name, *counts, SCOPES[name].about))
        sys.stdout.flush()
        if report.violation:
            write(f"\n{report.violation}\n")
            return 1
    write("no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
