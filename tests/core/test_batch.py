"""Plain commands decided in bulk, against `decide` one by one: the same events, the same states, or nothing at all.

Lives here: the promise of core/batch.py. Must not: a rule; what is right is what `decide` says.
"""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core import ids
from moxy.core.batch import Batch
from moxy.core.commands import UNSET, Ack, AnyCommand, Enqueue, Fetch, Nack
from moxy.core.decider import decide
from moxy.core.decision import Decision
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent, Enqueued
from moxy.core.ids import split_lease_id
from moxy.core.invariants import broken, broken_by
from moxy.core.policy import PAYLOAD_BYTES_MAX, Policy
from moxy.core.reducer import replay
from moxy.core.state import QueueState, state_of
from moxy.core.tasks import Held
from tests.core.support import T0, dump
from tests.core.test_properties import World

SEEDS = st.integers(0, 1 << 32)
PLAIN = Enqueue("jobs", b"x", "", 0, 0, UNSET, UNSET, 0, 0)


class Twins:
    """Two queues with one past: to one things happen in batches, to the other command by command."""

    def __init__(self, state: QueueState) -> None:
        self.batched = state
        self.truth = state_of(state.image())
        self.taken: Counter[str] = Counter()
        self.declined: Counter[str] = Counter()
        self.old: list[tuple[QueueState, object]] = []

    def run(
        self, rng: random.Random, now_ms: int, length: int, steps_ms: Sequence[int] = (0, 0, 0, 1, 3, 20, -2)
    ) -> int:
        """A batch of up to so many commands; what time it is after it. It ends where a command is declined."""
        before, was = self.batched, dump(self.truth)
        truth_before = self.truth
        batch = Batch(before)
        events: list[AnyEvent] = []
        for _ in range(length):
            now_ms += rng.choice(steps_ms)
            seed = rng.getrandbits(64)
            kind = rng.choice("EEFFAAA")
            command = self.command(kind, rng)
            if not self.agree(batch, command, now_ms, seed, events):
                self.declined[kind] += 1
                break
            self.taken[kind] += 1
        self.batched = batch.close()
        assert (self.batched is before) == (not events)
        assert dump(self.batched) == dump(self.truth)
        assert broken_by(truth_before, events, self.truth) == []
        assert broken(self.batched) == []
        self.old.append((before, was))
        return now_ms

    def command(self, kind: str, rng: random.Random) -> AnyCommand:
        if kind == "E":
            return Enqueue("jobs", bytes([rng.randrange(256)]), "", 0, 0, UNSET, UNSET, 0, 0)
        held = [task.lease.lease_id for task in self.truth.in_state("processing") if task.lease is not None]
        if kind == "F" or not held:
            return Fetch("jobs", rng.choice((0, 1, 50)), 1, "worker", False)
        lease_id = rng.choice(held) if rng.random() < 0.9 else f"jobs:{rng.randint(1, 9)}:{rng.randint(1, 9)}:{0:016x}"
        return Ack("jobs", lease_id, *split_lease_id(lease_id)[1:])

    def agree(self, batch: Batch, command: AnyCommand, now_ms: int, seed: int, events: list[AnyEvent]) -> bool:
        """Whether the batch took it; then as `decide` would have."""
        nonce = ids.nonce(seed, 0)
        count = len(batch.events)
        if isinstance(command, Enqueue):
            taken = batch.enqueue(command.payload, now_ms, nonce) is not None
        elif isinstance(command, Fetch):
            held = batch.fetch(command.lease_ms, command.worker, now_ms, nonce)
            taken = held is not None
            assert held is None or held.leased is batch.events[-1]
        else:
            assert isinstance(command, Ack)
            taken = batch.ack(command.lease_id, command.number, now_ms)
        assert len(batch.events) == count + taken
        if not taken:
            return False
        decision = decide(self.truth, command, now_ms, seed)
        assert list(decision.events) == batch.events[-1:]
        events += decision.events
        self.truth = decision.state
        return True

    def something_else(self, command: AnyCommand, now_ms: int, seed: int) -> None:
        """The same unusual thing happens to both."""
        outcomes: list[Decision | str] = []
        for state in (self.batched, self.truth):
            try:
                outcomes.append(decide(state, command, now_ms, seed))
            except Refused as refused:
                outcomes.append(refused.code)
        one, other = outcomes
        if isinstance(one, Decision) and isinstance(other, Decision):
            assert (one.events, one.answer) == (other.events, other.answer)
            self.batched, self.truth = one.state, other.state
        else:
            assert one == other


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(SEEDS)
def test_batches_are_what_decide_makes_of_their_commands(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    world.state.heart().pack_from = rng.choice((0, 2, 5000))
    for _ in range(rng.choice((1, 5, 30))):
        world.step()
    twins = Twins(world.state)
    now_ms = world.now
    for _ in range(6):
        now_ms = twins.run(rng, now_ms, rng.randrange(12))
        world.state, world.now = twins.truth, now_ms
        for _ in range(rng.randrange(3)):
            twins.something_else(world.command(), now_ms, rng.getrandbits(64))
    for state, was in rng.sample(twins.old, len(twins.old)):
        assert dump(state) == was, "a state changed with a batch that came after it"
    assert dump(twins.batched) == dump(twins.truth)


@pytest.mark.parametrize("pack_from", [0, 5000])
def test_plain_commands_are_taken(pack_from: int) -> None:
    """Else the test above could hold without a single command."""
    state = QueueState("jobs", Policy())
    state.heart().pack_from = pack_from
    twins = Twins(decide(state, PLAIN, T0, 7).state)
    rng = random.Random(1)
    for _ in range(200):
        twins.run(rng, T0, 10, (0,))
    assert min(twins.taken[kind] for kind in "EFA") > 50


def test_an_empty_batch_comes_to_the_state_that_it_began_with() -> None:
    state = decide(QueueState("jobs"), PLAIN, T0, 0).state
    batch = Batch(state)
    assert batch.close() is state
    assert list(state.tasks) == [1]


def test_all_states_of_a_batch_are_undone_together() -> None:
    """Reading the state before is what taking back a turn does."""
    first = decide(QueueState("jobs"), PLAIN, T0, 0).state
    was = dump(first)
    batch = Batch(first)
    held = batch.fetch(0, "w", T0, 1)
    assert held is not None
    assert batch.enqueue(b"y", T0, 2) is not None
    assert batch.ack(held.leased.lease_id, 1, T0)
    last = batch.close()
    now = dump(last)
    for _ in range(3):
        assert dump(first) == was
        assert dump(last) == now
    assert now == dump(replay(batch.events, state_of(first.image())))


def plain_queue(*commands: AnyCommand, policy: Policy | None = None) -> QueueState:
    state = QueueState("jobs", policy or Policy())
    for command in commands:
        state = decide(state, command, T0, 0).state
    return state


def with_id(state: QueueState) -> str:
    (task,) = state.in_state("processing")
    assert task.lease is not None
    return task.lease.lease_id


def test_what_is_not_plain_is_declined_and_nothing_happens() -> None:
    fetch = Fetch("jobs", 0, 1, "w", False)
    dedup = Enqueue("jobs", b"x", "a", 0, 0, UNSET, UNSET, 0, 1000)
    gone = plain_queue(PLAIN, dedup, fetch, fetch)
    second = next(task for task in gone.in_state("processing") if task.task_id == "a")
    assert second.lease is not None
    remembering = decide(gone, Ack("jobs", second.lease.lease_id, 2, second.token), T0, 0).state
    leased = plain_queue(PLAIN, fetch)
    nacked = decide(leased, Nack("jobs", with_id(leased), 1, 1, "retry", 0, ""), T0, 0).state
    cases: list[tuple[QueueState, str]] = [
        (QueueState("jobs"), "E"),
        (remembering, "EF"),
        (plain_queue(PLAIN, policy=Policy(max_ready=5)), "E"),
        (plain_queue(PLAIN, policy=Policy(ttl_ms=5)), "E"),
        (nacked, "F"),
        (plain_queue(Enqueue("jobs", b"x", "", 0, 0, UNSET, 3, 0, 0)), "F"),
        (leased, "F"),  # there is nothing
    ]
    for state, kinds in cases:
        was = dump(state)
        batch = Batch(state)
        if "E" in kinds:
            assert batch.enqueue(b"x", T0, 0) is None
        if "F" in kinds:
            assert batch.fetch(0, "w", T0, 0) is None
        assert batch.close() is state
        assert dump(state) == was


def test_a_payload_too_long_is_declined() -> None:
    batch = Batch(plain_queue(PLAIN))
    assert batch.enqueue(b"x" * (PAYLOAD_BYTES_MAX + 1), T0, 0) is None
    assert isinstance(batch.enqueue(b"x" * PAYLOAD_BYTES_MAX, T0, 0), Enqueued)


def test_while_work_is_due_nothing_is_fetched() -> None:
    """What is due may stand before the next task."""
    state = plain_queue(PLAIN, PLAIN, Fetch("jobs", 10, 1, "w", False))
    batch = Batch(state)
    assert batch.fetch(0, "w", T0 + 10, 0) is None
    assert isinstance(batch.fetch(0, "w", T0 + 9, 0), Held)


def test_an_ack_needs_the_very_lease() -> None:
    state = plain_queue(PLAIN, Fetch("jobs", 10, 1, "w", False))
    lease_id = with_id(state)
    batch = Batch(state)
    assert not batch.ack(lease_id[:-1] + "f", 1, T0)
    assert not batch.ack(lease_id, 2, T0)
    assert batch.ack(lease_id, 1, T0)
    assert not batch.ack(lease_id, 1, T0)
