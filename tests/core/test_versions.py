"""States that share one heart, against states that share nothing but what never changes (oracle.py).

Lives here: that every state, old, new or on another branch, reads as if it were the only one. Must not: a rule.
"""

import random
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core.commands import Ack, AnyCommand, Enqueue, EnqueueMany, Nack
from moxy.core.decider import decide
from moxy.core.errors import IllegalEvent, Refused
from moxy.core.events import AnyEvent, Enqueued, Leased
from moxy.core.packing import Fresh
from moxy.core.reading import FIELDS, different, reading_of
from moxy.core.reducer import apply
from moxy.core.state import QueueState, state_of
from tests.core import oracle
from tests.core.oracle import Persistent, persistent
from tests.core.support import T0, Q, dump
from tests.core.test_properties import World

SEEDS = st.integers(0, 1 << 32)


class Pair:
    """A version and what the oracle makes of the same events."""

    def __init__(self, state: QueueState, truth: Persistent) -> None:
        self.state = state
        self.truth = truth

    def then(self, event: AnyEvent) -> "Pair":
        return Pair(apply(self.state, event), oracle.apply(self.truth, event))

    def check(self) -> None:
        assert dump(self.state) == dump(self.truth)


def futures(pair: Pair, seed: int, steps: int) -> Sequence[AnyEvent]:
    """What some commands on it come to, as a client with that seed gives them."""
    world = World(random.Random(seed))
    world.state = pair.state
    world.now = max(world.now, pair.state.at_ms)
    events: list[AnyEvent] = []
    for _ in range(steps):
        world.now += world.rng.choice((0, 0, 1, 3, 40))
        command: AnyCommand = world.command()
        held = list(world.state.in_state("processing"))
        if held and world.rng.random() < 0.4:  # the world knows the leases of its own fetches only
            task = world.rng.choice(held)
            assert task.lease is not None
            kind = world.rng.choice((Ack, Ack, Nack))
            command = kind("jobs", task.lease.lease_id, task.number, task.token)
        try:
            decision = decide(world.state, command, world.now, world.rng.getrandbits(64))
        except Refused:
            continue
        world.state = decision.state
        events += decision.events
    return events


@settings(max_examples=60)
@given(SEEDS)
def test_every_version_of_a_tree_reads_as_the_oracle_says(seed: int) -> None:
    """A tree of futures, grown from versions in any order; then all of them are read in any order, twice."""
    rng = random.Random(seed)
    world = World(rng)
    world.state.heart().pack_from = rng.choice((0, 2, 5000))
    tree = [Pair(world.state, persistent(world.state))]
    for _ in range(8):
        start = rng.choice([pair for pair in tree if not pair.state.limbo])
        for event in futures(start, rng.getrandbits(32), rng.randrange(1, 12)):
            start = start.then(event)
            tree.append(start)
    for _ in range(2):
        for pair in rng.sample(tree, len(tree)):
            pair.check()


@settings(max_examples=40)
@given(SEEDS)
def test_a_decision_on_an_old_version_is_that_of_a_fresh_one(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    old = []
    for _ in range(30):
        old.append((world.state, world.state.image()))
        world.step()
    for state, image in rng.sample(old, len(old)):
        command, draw = world.command(), rng.getrandbits(64)
        outcomes = []
        for version in (state, state_of(image)):
            try:
                decision = decide(version, command, world.now, draw)
                outcomes.append((decision.events, decision.answer, dump(decision.state)))
            except Refused as refused:
                outcomes.append((refused.code, refused.text, None))
        assert outcomes[0] == outcomes[1]


@settings(max_examples=40)
@given(SEEDS)
def test_a_state_made_of_an_image_is_the_state(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(60):
        world.step()
    image = world.state.image()
    was = dump(world.state)
    copy = state_of(image)
    assert dump(copy) == was
    assert different(copy, world.state) == []
    assert {field: dump(getattr(reading_of(copy), field)) for field in FIELDS} == was
    for event in futures(Pair(copy, persistent(copy)), seed, 20):
        copy = apply(copy, event)
    assert dump(state_of(image)) == was, "an image changed with the state that was made of it"


@settings(max_examples=40)
@given(SEEDS)
def test_frozen_tasks_are_those_of_that_moment_whatever_happens_while_they_are_read(seed: int) -> None:
    """Read a few, go on, read a few more; sometimes back to an older version, and on from there."""
    rng = random.Random(seed)
    state = QueueState("jobs")
    state.heart().pack_from = rng.choice((0, 3, 5000))
    old = [state]
    for round in range(6):
        was = {task.number: task for task in state.tasks.values()}
        image, read = state.frozen(), []
        tasks = iter(image.tasks)
        while True:
            some = list(islice(tasks, rng.randrange(4)))
            read += some
            for event in futures(Pair(state, persistent(state)), rng.getrandbits(32), 3):
                state = apply(state, event)
            old.append(state)
            if rng.random() < 0.2:
                state = rng.choice([version for version in old if not version.limbo])
            if not some and rng.random() < 0.5:
                break
        read += tasks
        assert {task.number: task for task in read} == was, round
        assert len(read) == len(was)
        state.thaw()
        # As when the log refused a turn, the numbers do not rise any more.
        state = rng.choice([version for version in old if not version.limbo])


def test_a_long_backlog_is_packed_and_every_way_in_finds_it() -> None:
    q = Q()
    q.state.heart().pack_from = 1
    q.add("first", "5-chosen", "chosen")
    q.do(EnqueueMany("jobs", (b"x", b"y", b"z")))
    heart = q.state.heart()
    assert [type(heart.tasks[number]) for number in heart.tasks] == [Fresh, *[bytes] * 5], "reading unpacks nothing"
    assert sorted(heart.names) == ["5-chosen", "chosen", "first"]
    automatic = f"5-{0:016x}"
    assert (q.state.numbers["5-chosen"], q.state.numbers[automatic], q.state.numbers["chosen"]) == (2, 5, 3)
    assert q.state.named("5-") is q.state.named("99-x") is q.state.named("6-chosen") is q.state.named("x") is None
    assert q.do(Enqueue("jobs", b"", automatic)) == [automatic]
    assert q.events == ()
    assert (q.show(automatic).payload, q.show("chosen").state) == (b"y", "ready")
    copy = state_of(q.state.image())
    assert dump(copy) == dump(q.state)
    assert q.delete("chosen") == 1
    assert [q.take().rsplit(":", 3)[1] for _ in range(5)] == ["1", "2", "4", "5", "6"]


def test_an_event_that_is_refused_changes_nothing() -> None:
    q = Q().add("a", "b", dedup_ms=5)
    q.ack(q.take())
    was = dump(q.state)
    seq = q.state.seq + 1
    for event in (
        Enqueued("jobs", seq, q.now, 3, "b", b""),
        Enqueued("jobs", seq, q.now, 3, "a", b""),
        Enqueued("jobs", seq, q.now, 9, "c", b""),
        Leased("jobs", seq, q.now, 2, "b", "x", 1, q.now),
        Leased("jobs", seq, q.now, 1, "a", "x", 9, q.now),
        Enqueued("jobs", seq + 1, q.now, 3, "c", b""),
        Enqueued("jobs", seq, T0 - 1, 3, "c", b""),
        Enqueued("mail", seq, q.now, 3, "c", b""),
    ):
        with pytest.raises(IllegalEvent):
            apply(q.state, event)
        assert dump(q.state) == was


def test_what_a_reader_was_given_goes_on_showing_its_version() -> None:
    q = Q().add("a", "b", "c")
    old = q.state
    tasks, ready, walk = old.tasks, old.ready, iter(old.in_state("ready"))
    assert next(walk).task_id == "a"
    for _ in range(3):
        q.ack(q.take())
    assert [task.task_id for task in walk] == ["b", "c"]
    assert sorted(task.task_id for task in tasks.values()) == ["a", "b", "c"]
    assert (len(ready), ready.first(), len(q.state.ready)) == (3, (9, 1, 1), 0)


@pytest.mark.parametrize("tasks", [Q().add("a"), Q().add("a").add("b", priority=8)], ids=["plain", "urgent"])
def test_only_keys_that_are_listed_are_there(tasks: Q) -> None:
    ready = tasks.state.ready
    keys = [(rank, place, place) for rank in range(-11, 21) for place in (0, 1, 2, 3)]
    assert [key for key in keys if key in ready] == list(ready)


def test_going_back_and_forth_over_a_purge_a_policy_and_a_pause() -> None:
    q = Q().add("a", "b", dedup_ms=100).add("c", priority=4)
    states = [q.state]
    for step in (lambda: q.config(max_attempts=2), q.pause, lambda: q.purge("ready"), q.resume, lambda: q.add("z")):
        step()
        states.append(q.state)
    was = [dump(state) for state in reversed(states)]
    assert [dump(state) for state in states] == was[::-1]
    assert [dump(state) for state in reversed(states)] == was


def test_a_long_chain_of_versions_can_be_let_go() -> None:
    """Each old state holds the next: letting the first one go must not need a stack as deep as the chain."""
    first = state = QueueState("jobs")
    for number in range(1, 200_001):
        state = apply(state, Enqueued("jobs", number, T0, number, str(number), b""))
    assert first.seq == 0
    assert state.seq == 200_000
    del first, state
