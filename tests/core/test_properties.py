"""Any commands in any order, at any times: every invariant at every step, and the log folds to the state.

Small ranges on purpose, so that ids collide, windows lapse, leases go stale and attempts run out all the time.
"""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core.commands import (
    UNSET,
    Ack,
    AnyCommand,
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
    Redrive,
    Release,
    Resume,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import Refused
from moxy.core.events import EVENT_TYPES, AnyEvent, DeadLettered, Leased, Purged, Released
from moxy.core.ids import split_lease_id
from moxy.core.invariants import broken
from moxy.core.lifecycle import TABLE
from moxy.core.policy import Policy
from moxy.core.reducer import apply, replay
from moxy.core.state import QueueState
from tests.core.support import T0, check_step, dump

RANDOMS = st.randoms(note_method_calls=False, use_true_random=False)
"""Chance in the hands of Hypothesis, so that it can shrink what it finds."""

POLICIES = {
    "max_attempts": (0, 1, 2, 3),
    "backoff_ms": (0, 1, 5),
    "backoff_max_ms": (0, 7),
    "lease_ms": (1, 10),
    "max_hold_ms": (0, 12),
    "max_ready": (0, 4),
    "ttl_ms": (0, 15),
}


class World:
    """One queue, its clock, and every lease id that was ever given, void ones included."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = T0
        self.state = QueueState("jobs", Policy(max_attempts=rng.choice((3, 25)), max_hold_ms=rng.choice((0, 12))))
        self.log: list[AnyEvent] = []
        self.leases: list[str] = []
        self.commands: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.known_until: dict[str, int] = {}
        """Ids of tasks that are gone, and when each is forgotten: kept here by hand, for I14."""

    def command(self) -> AnyCommand:
        rng = self.rng
        kind = rng.choice("EEEEEMFFFFFFAAANNXRCVDPUZZTTTTT")
        if kind == "E":
            return Enqueue(
                "jobs",
                bytes([rng.randrange(256)]),
                rng.choice(("", "", "a", "b", "c")),
                rng.randrange(10) if rng.random() < 0.3 else 0,
                rng.choice((0, 0, 3, 20)),
                rng.choice((-1, 0, 5, 30)),
                rng.choice((-1, -1, 0, 1, 2)),
                rng.choice((0, 4)),
                rng.choice((0, 10)),
            )
        if kind == "M":
            return EnqueueMany("jobs", tuple(b"m" for _ in range(rng.randint(1, 3))))
        if kind == "F":
            return Fetch("jobs", rng.choice((0, 1, 5, 50)), rng.randint(1, 3), "worker", rng.random() < 0.3)
        if kind in "ANXR" and self.leases:
            return self.about_a_lease(kind)
        if kind == "C":
            field = rng.choice(sorted(POLICIES))
            return Configure("jobs", ((field, rng.choice(POLICIES[field])),))
        if kind == "V":
            return Redrive("jobs", rng.randint(1, 3), rng.choice(("", "", "a", "b")))
        if kind == "D":
            return Delete("jobs", rng.choice(("a", "b", "c")))
        if kind == "P":
            return Purge("jobs", rng.choice(("ready", "scheduled", "dead")))
        if kind == "U":
            return Pause("jobs")
        if kind == "Z":
            return Resume("jobs")
        return Tick("jobs")

    def about_a_lease(self, kind: str) -> LeaseCommand:
        rng = self.rng
        live = sorted(self.live())  # half of the time, or nearly all would be void
        lease_id = rng.choice(live if live and rng.random() < 0.5 else self.leases[-6:])
        queue, number, token = split_lease_id(lease_id)
        if kind == "A":
            return Ack(queue, lease_id, number, token)
        if kind == "N":
            how, delay_ms, reason = rng.choice(
                (
                    ("retry", UNSET, ""),
                    ("retry", UNSET, "why"),
                    ("retry", 0, ""),
                    ("retry", 8, "why"),
                    ("fatal", UNSET, ""),
                    ("fatal", UNSET, "why"),
                    ("release", UNSET, ""),
                )
            )
            return Nack(queue, lease_id, number, token, how, delay_ms, reason)
        if kind == "X":
            return Extend(queue, lease_id, number, token, rng.choice((1, 8, 60)))
        return Release(queue, lease_id, number, token, rng.choice(("undelivered", "disconnect")))

    def live(self) -> set[str]:
        return {task.lease.lease_id for task in self.state.in_state("processing") if task.lease is not None}

    def knows(self, task_id: str) -> bool:
        here = any(task.task_id == task_id for task in self.state.tasks.values())
        return here or max(self.now, self.state.at_ms) < self.known_until.get(task_id, 0)

    def step(self) -> None:
        self.now += self.rng.choice((0, 0, 1, 1, 3, 10, 40, -2))
        command, before, was_live = self.command(), self.state, self.live()
        self.commands[type(command).__name__] += 1
        was = dump(before)
        try:
            decision = decide(before, command, self.now, self.rng.getrandbits(64))
        except Refused as refused:
            code = refused.code
            self.refusals[code] += 1
            assert code == "MAXHOLD" or getattr(command, "lease_id", "") not in was_live, "a live lease has its effect"
            assert dump(before) == was, "I12"
            return
        assert dump(before) == was, "an old state stays as it was"
        if isinstance(command, LeaseCommand):
            assert command.lease_id in was_live, "I4: a void lease had an effect"
        if isinstance(command, Enqueue) and command.task_id:
            assert (decision.events == ()) == self.knows(command.task_id), "I14"
        check_step(before, command, decision)
        for number, task in before.tasks.items():
            if number not in decision.state.tasks:
                self.known_until[task.task_id] = decision.state.at_ms + task.options.dedup_ms
        self.state = decision.state
        self.log += decision.events
        self.leases += [event.lease_id for event in decision.events if isinstance(event, Leased)]


@settings(max_examples=150)
@given(rng=RANDOMS, steps=st.integers(1, 60), cut=st.floats(0, 1))
def test_any_commands_keep_every_invariant(rng: random.Random, steps: int, cut: float) -> None:
    world = World(rng)
    for _ in range(steps):
        world.step()
    at = int(len(world.log) * cut)
    middle = replay(world.log[:at], QueueState("jobs"))
    whole = dump(world.state if world.log else QueueState("jobs"))
    assert dump(replay(world.log[at:], middle)) == whole, "I10"
    assert dump(replay(world.log, QueueState("jobs"))) == whole, "I10"
    assert [event.seq for event in world.log] == list(range(1, len(world.log) + 1)), "I15"
    times = [event.at_ms for event in world.log]
    assert times == sorted(times), "I15"


@settings(max_examples=60)
@given(rng=RANDOMS)
def test_every_prefix_of_a_log_is_legal(rng: random.Random) -> None:
    """I11. In the middle of a batch a task may be between two events, and then has a way on."""
    world = World(rng)
    for _ in range(40):
        world.step()
    state = QueueState("jobs")
    for event in world.log:
        state = apply(state, event)
        if not state.limbo:
            assert broken(state) == []
        for task in state.tasks.values():
            assert any(source == task.state for source, _ in TABLE)


@settings(max_examples=60)
@given(rng=RANDOMS)
def test_workers_that_go_on_empty_any_queue(rng: random.Random) -> None:
    """L1 to L3: whatever happened before, with time and workers every task that is not dead gets leased and acked."""
    world = World(rng)
    for _ in range(40):
        world.step()
    state, now = decide(world.state, Resume("jobs"), world.now, 0).state, world.now
    rounds = 0
    while state.tasks and len(state.dead) < len(state.tasks):
        rounds += 1
        assert rounds < 50, "a task never comes to an end"
        decision = decide(state, Fetch("jobs", 10, 1000), now, rounds)
        state = decision.state
        for task in list(state.in_state("processing")):
            assert task.lease is not None
            if task.number % 2 or task.tally.deliveries > 3:
                ack = Ack("jobs", task.lease.lease_id, task.number, task.lease.token)
                state = decide(state, ack, now, 0).state
        now = max(now, state.next_due_ms() or 0)
    assert broken(state) == []


def test_same_arguments_same_decision() -> None:
    world = World(random.Random(5))
    for _ in range(200):
        world.step()
        command, seed = world.command(), world.rng.getrandbits(64)
        outcomes = []
        for _ in range(2):
            try:
                outcomes.append(decide(world.state, command, world.now, seed).events)
            except Refused as refused:
                outcomes.append((refused.code, refused.text))
        assert outcomes[0] == outcomes[1]


def test_a_long_run_leaves_nothing_unexercised() -> None:
    """Every kind of event and of command, every move of the lifecycle table, every refusal that this can make."""
    happened: Counter[type] = Counter()
    moved: set[tuple[str, str]] = set()
    commands: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    causes: set[tuple[type, str]] = set()
    for seed in range(40):
        world = World(random.Random(seed))
        for _ in range(80):
            world.step()
        happened.update(type(event) for event in world.log)
        commands.update(world.commands)
        refusals.update(world.refusals)
        moved |= moves_of(world.log)
        causes |= {(type(event), event.cause) for event in world.log if isinstance(event, DeadLettered | Released)}
        causes |= {(Purged, event.state) for event in world.log if isinstance(event, Purged)}
    assert set(EVENT_TYPES) - set(happened) == set()
    assert set(TABLE) - moved == set()
    assert {"NOLEASE", "NOTASK", "FULL", "MAXHOLD", "LEASED"} - set(refusals) == set()
    assert len(commands) == 14
    assert causes == {
        *((DeadLettered, cause) for cause in ("attempts", "fatal", "ttl")),
        *((Released, cause) for cause in ("worker", "undelivered", "disconnect")),
        *((Purged, state) for state in ("ready", "scheduled", "dead")),
    }


MOVES_BY_EVENT = {
    "Enqueued": ("enqueue", "enqueue_later"),
    "Matured": ("mature",),
    "Leased": ("lease",),
    "Extended": ("extend",),
    "Acked": ("ack",),
    "Expired": ("expire",),
    "Failed": ("fail",),
    "Released": ("release",),
    "Requeued": ("requeue", "requeue_later"),
    "DeadLettered": ("bury",),
    "Redriven": ("redrive",),
    "Deleted": ("delete",),
}


def moves_of(log: list[AnyEvent]) -> set[tuple[str, str]]:
    """The (state, move) pairs that a log went through."""
    moved: set[tuple[str, str]] = set()
    state = QueueState("jobs")
    for event in log:
        after = apply(state, event)
        number = getattr(event, "number", None)
        if number is not None:
            old = state.tasks.get(number)
            source = old.state if old else "new"
            later = bool(getattr(event, "due_ms", 0))
            moves = MOVES_BY_EVENT[type(event).__name__]
            moved.add((source, moves[-1] if later else moves[0]))
        state = after
    return moved
