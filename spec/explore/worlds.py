"""Worlds: what can happen in one, and when two are the same.

What lives here: `moves`, and what is left out of a state (`reduced`, `whole`). What must not live here: a judgement.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Final, NamedTuple

import msgspec

from moxy.core.commands import UNSET, Ack, Command, Configure, Delete, Extend, Nack, Redrive, Release, Tick
from moxy.core.errors import FULL, LEASED, MAXHOLD, NOTASK
from moxy.core.lifecycle import DEAD, PROCESSING
from moxy.core.reading import Reading, reading_of
from moxy.core.state import QueueState
from moxy.core.tasks import Task
from spec.explore.scopes import QUEUE, Scope

START_MS: Final = 1000
"""Not 0, which means "none" in several fields."""

ADVANCE: Final = "Advance"


class World:
    """A queue and what time it is."""

    def __init__(self, state: QueueState, now_ms: int) -> None:
        self.state: Final = state
        self.now_ms: Final = now_ms

    def later(self) -> "World":
        """A millisecond passed."""
        world = World(self.state, self.now_ms + 1)
        world.read = self.read
        return world

    @cached_property
    def read(self) -> Reading:
        """All of the state. A step is judged by reading what was before and what is after in turns, and two versions of
        one queue would hand their heart to and fro each time (`moxy.core.state`)."""
        return reading_of(self.state)

    def held(self) -> Iterator[Task]:
        """The tasks under a lease, in the order of their deadlines."""
        return (self.read.tasks[number] for _, _, number in self.read.processing)


class Move(NamedTuple):
    """Something that may happen. No command: a millisecond passes. `refusals`: with which code it must be refused."""

    name: str
    commands: tuple[Command, ...]
    refusals: tuple[str, ...] = ()
    seed: int = 0


def moves(scope: Scope, world: World) -> list[Move]:
    """All that can happen here, in a fixed order: a path is kept as positions in these lists."""
    state = world.read
    found = [Move(ADVANCE, ()), *(Move("Tick", (Tick(QUEUE),), seed=seed) for seed in scope.seeds)]
    left = state.totals.enqueued < scope.tasks
    full = 0 < state.policy.max_ready <= len(state.ready) + len(state.scheduled)
    for enqueue in scope.enqueues:
        if left or is_known(world, enqueue.task_id):
            payload = b"%d" % (state.totals.enqueued + 1)
            known = enqueue.task_id and is_known(world, enqueue.task_id)
            refusals = () if known or not full else (FULL,)
            found.append(Move("Enqueue", (msgspec.structs.replace(enqueue, payload=payload),), refusals))
    found += [Move("Fetch", (fetch,)) for fetch in scope.fetches]
    dropped: dict[str, list[Command]] = {}
    for task in world.held():
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
    for task in sorted(state.tasks.values(), key=place_in_line):
        if scope.deletes:
            found.append(Move("Delete", (Delete(QUEUE, task.task_id),), (LEASED,) * (task.state == PROCESSING)))
        if scope.redrives:
            found.append(Move("Redrive", (Redrive(QUEUE, 1, task.task_id),), (NOTASK,) * (task.state != DEAD)))
    return found + [Move(type(command).__name__, (command,)) for command in scope.operators]


def place_in_line(task: Task) -> int:
    return task.place


def is_known(world: World, task_id: str) -> bool:
    """I14 in its own words: somebody has the id, or somebody who had it is gone inside the window."""
    state = world.read
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
    state, now_ms = world.read, world.now_ms
    policy = state.policy
    fixed = not any(isinstance(command, Configure) for command in scope.operators)

    def reads_attempts(task: Task) -> bool:
        own = task.options.max_attempts
        unlimited = own == 0 or (own < 0 and policy.max_attempts == 0 and fixed)
        return task.state != DEAD and (policy.backoff_ms > 0 or not unlimited)

    line = sorted(state.tasks.values(), key=place_in_line)
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
    for task in world.held():
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
    state, now_ms = world.read, world.now_ms
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
            [nth[task.number] for task in sorted(state.tasks.values(), key=place_in_line)],
            [nth[number] for _, _, number in state.processing],
            [nth[number] for _, _, number in state.scheduled],
            [nth[number] for _, _, number in state.dead],
        )
    )
