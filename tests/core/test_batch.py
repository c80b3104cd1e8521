"""A batch against `decide` and `apply`: what it takes comes to the same, event for event; what it declines is nothing.

Lives here: one history told twice, and what a batch takes and declines, by example. Must not: a rule; `decide` says
what is right.
"""

import random
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core import ids
from moxy.core.batch import Batch
from moxy.core.commands import (
    UNSET,
    Ack,
    AnyCommand,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Fetch,
    Nack,
    Pause,
    Redrive,
    Resume,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import Refused
from moxy.core.events import Acked, AnyEvent, Enqueued, Leased
from moxy.core.heart import NEVER_MS
from moxy.core.ids import digits, split_lease_id
from moxy.core.invariants import broken_by
from moxy.core.packing import Held
from moxy.core.policy import PAYLOAD_BYTES_MAX, Policy
from moxy.core.reading import different
from moxy.core.reducer import replay
from moxy.core.state import QueueState, state_of
from moxy.core.vicinity import broken_near
from tests.core.support import DAY_MS, T0, Q, ack, dump
from tests.core.test_properties import World

SEEDS = st.integers(0, 2**64 - 1)
"""Chance out of the hands of Hypothesis: it draws thousands of times in one example, and to shrink all of that takes
minutes. What is left to shrink is the number of steps, and that is what a reader needs short."""
PACK_FROM = (0, 2, 5000)
"""With the first two, tasks wait packed, as those of a long queue do."""
LEASE = "jobs:{}:{}:0000000000000000"
"""Ids of leases whose nonces were drawn as zeros."""
ZERO = digits(0).encode()
TOO_LONG = bytes(PAYLOAD_BYTES_MAX + 1)


# One history, told twice


def outcome(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> tuple[QueueState, Any]:
    """The state after a command, and what there is to compare."""
    try:
        decision = decide(state, command, now_ms, seed)
    except Refused as refused:
        return state, (refused.code, refused.text)
    return decision.state, (decision.events, decision.answer)


def plainly(held: Held) -> tuple[str, str, bytes]:
    """What a FETCH tells of a lease."""
    return held.lease_id.decode(), held.task_id.decode(), held.fresh.payload


class Told(World):
    """A queue, its clock and its leases, and all that happens to it twice: `state` goes by batches where they take a
    command, `twin` by `decide` alone, and has a heart of its own.

    `kept` are pairs of states from between the steps, and how they read then. `seen` counts what was exercised.
    """

    def __init__(self, rng: random.Random, is_rich: bool) -> None:
        super().__init__(rng)
        self.is_rich = is_rich
        self.is_strict = rng.random() < 0.4
        """Now and then there is a bound, a TTL, a dedup window, a dead letter, a redrive."""
        if not is_rich:
            self.state = QueueState("jobs")
        self.twin = QueueState("jobs", self.state.policy)
        for state in (self.state, self.twin):
            state.heart().pack_from = rng.choice(PACK_FROM)
        self.kept: list[tuple[QueueState, QueueState, Any]] = []
        self.seen: Counter[str] = Counter()

    def live(self) -> set[str]:
        """Of the twin: while a batch is open, no state on its side can be read."""
        return {task.lease.lease_id for task in self.twin.in_state("processing") if task.lease is not None}

    def command(self) -> AnyCommand:
        """Rich: any. Else what leaves much that is plain, and ids that the queue would make itself, now or soon."""
        rng = self.rng
        if self.is_rich:
            return super().command()
        kind = rng.choice("EEPPLIMFFNDUZZZTTTTTT")
        live = sorted(self.live())
        if self.is_strict and rng.random() < 0.3:
            unusual: list[AnyCommand] = [
                Configure("jobs", ((rng.choice(("max_ready", "ttl_ms")), rng.choice((0, 0, 0, 2))),)),
                Enqueue("jobs", b"d", rng.choice(("a", "b")), dedup_ms=rng.choice((1, 20))),
                Redrive("jobs"),
            ]
            if live:
                _, number, token = split_lease_id(live[0])
                unusual.append(Nack("jobs", live[0], number, token, "fatal"))
            return rng.choice(unusual)
        if kind in "EPLI":
            number = self.twin.next_number + rng.randrange(3)
            task_id = ids.task_id(number, digits(rng.choice((0, 1)))) if kind == "I" else ""
            priority = rng.randrange(10) if kind == "P" else 0
            return Enqueue("jobs", b"e", task_id, priority, rng.choice((3, 20)) if kind == "L" else 0)
        if kind == "M":
            return EnqueueMany("jobs", (b"m",) * rng.randint(1, 6))
        if kind == "F":
            return Fetch("jobs", rng.choice((0, 5, 50)), rng.randint(1, 2), "worker", rng.random() < 0.3)
        if kind == "N" and live:
            lease_id = rng.choice(live)
            _, number, token = split_lease_id(lease_id)
            return Nack("jobs", lease_id, number, token, rng.choice(("retry", "release")), rng.choice((UNSET, 8)))
        if kind == "D" and self.twin.tasks:
            return Delete("jobs", rng.choice([task.task_id for task in self.twin.tasks.values()]))
        return {"U": Pause, "Z": Resume}.get(kind, Tick)("jobs")

    def pass_time(self) -> None:
        self.now += self.rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 3, 10, 40, -2))

    def draw(self) -> int:
        """A seed, which is its own first nonce; now and then one that makes an id that is taken."""
        return self.rng.choice((0, 1, self.rng.getrandbits(64), self.rng.getrandbits(64)))

    def step(self) -> None:
        """A command on the usual way: it comes to the same, whatever the two went through before."""
        self.pass_time()
        command, seed = self.command(), self.draw()
        self.state, mine = outcome(self.state, command, self.now, seed)
        self.twin, its = outcome(self.twin, command, self.now, seed)
        assert mine == its, command
        if isinstance(its[0], tuple):
            self.leases += [event.lease_id for event in its[0] if isinstance(event, Leased)]

    def run(self) -> None:
        """A batch of plain commands, sometimes while a reader goes through the frozen tasks; and what must hold."""
        rng, start, twin_start = self.rng, self.state, self.twin
        was, tasks_were = dump(start), dict(start.tasks)
        frozen = iter(start.frozen().tasks) if rng.random() < 0.3 else None
        read = list(islice(frozen or (), rng.randrange(3)))
        batch = Batch(start)
        for _ in range(rng.randrange(16)):
            self.pass_time()
            self.try_some(batch)
            read += islice(frozen or (), rng.randrange(2))
        events = list(batch.events)
        closed = batch.close()
        if frozen is not None:
            read += frozen
            assert {task.number: task for task in read} == tasks_were, "a frozen image changed"
            assert len(read) == len(tasks_were)
            closed.thaw()
        assert different(closed, self.twin) == []
        assert closed.soonest_ms <= (closed.next_due_ms() or NEVER_MS), "time would come too late"
        assert dump(start) == was, "the state before the batch stays as it was"
        assert (closed is start) == (self.twin is twin_start) == (not events)
        if not events:
            return
        assert broken_by(start, events, closed) == []
        assert broken_near(start, events, closed) == []
        assert dump(replay(events, start)) == dump(closed) == dump(self.twin), "I10"
        self.state = closed
        self.seen["batches with events"] += 1
        self.seen["longest"] = max(self.seen["longest"], len(events))

    def try_some(self, batch: Batch) -> None:
        """A run of plain commands: of those that are taken comes all that `decide` says comes of them; of the first
        that is declined nothing, and it would be declined alone."""
        rng, now, happened = self.rng, self.now, len(batch.events)
        kind, count = rng.choice("EEFFFAAA"), rng.choice((1, 1, 2, 5))
        nonces = [self.draw() for _ in range(count)]
        raw = b"".join(digits(nonce).encode() for nonce in nonces)
        commands: list[AnyCommand]
        answers: list[Any]
        if kind == "E":
            payloads = [TOO_LONG if rng.random() < 0.05 else bytes([rng.randrange(256)]) for _ in range(count)]
            commands = [Enqueue("jobs", payload) for payload in payloads]
            answers = [[task_id.decode()] for task_id in batch.enqueue(payloads, now, raw, 0)]
            rest = batch.enqueue(payloads[len(answers) :][:1], now, raw, len(answers) * ids.NONCE_DIGITS)
        elif kind == "F":
            lease_ms, worker = rng.choice((0, 5, 50, 1000, 1000, 1000)), rng.choice(("", "worker"))
            bytes_max = rng.choice((1, 2, 1000, 1000))  # a payload is one byte here
            commands = [Fetch("jobs", lease_ms, 1, worker)] * count
            answers = [plainly(held) for held in batch.fetch(count, lease_ms, worker, now, b"?" + raw, 1, bytes_max)]
            assert len(answers) <= bytes_max
            may_end = len(answers) == min(count, bytes_max)
            rest = [] if may_end else batch.fetch(1, lease_ms, worker, now, digits(5).encode(), 0, 1)
        else:
            acks = [self.plain_ack() for _ in range(count)]
            commands = list(acks)
            answers = [None] * batch.ack([ack.lease_id.encode() for ack in acks], now)
            rest = batch.ack([ack.lease_id.encode() for ack in acks[len(answers) :][:1]], now) * [b""]
        assert not rest, "it stopped before it had to"
        assert len(batch.events) == happened + len(answers)
        self.seen[f"{kind} taken"] += len(answers)
        self.seen[f"{kind} declined"] += len(answers) < count
        self.seen[f"{kind} taken in part"] += 0 < len(answers) < count
        for command, answer, nonce in zip(commands, answers, nonces, strict=False):
            event = batch.events[happened]
            happened += 1
            self.note(kind, event)
            self.twin, (made, answered) = outcome(self.twin, command, now, nonce)
            assert made == (event,), command
            if kind == "F":
                [delivery] = answered
                assert (delivery.attempts, delivery.deliveries) == (0, 1)
                answered = (delivery.lease_id, delivery.task_id, delivery.payload)
                self.leases.append(delivery.lease_id)
            assert answered == answer, command

    def note(self, kind: str, event: AnyEvent) -> None:
        """What was special about a command that was taken. The twin has not carried it out yet."""
        heart = self.twin.heart()
        self.seen["taken while the clock was behind"] += self.now < self.twin.at_ms
        self.seen["taken although a lease is overdue"] += any(key[0] <= self.now for key in self.twin.processing)
        if kind == "F":
            assert isinstance(event, Leased)
            self.seen[f"fetched {type(heart.tasks[event.number]).__name__}"] += 1
            self.seen["fetched by priority"] += self.twin.tasks[event.number].priority > 0

    def plain_ack(self) -> Ack:
        """Of a live lease most of the time, else of one that was, or never was."""
        rng, live = self.rng, sorted(self.live())
        lease_id = rng.choice(self.leases or [LEASE.format(1, 1)])
        if live and rng.random() < 0.75:
            lease_id = rng.choice(live)
            if rng.random() < 0.1:
                lease_id = lease_id[:-1] + rng.choice("0123456789abcdef")
        return ack(lease_id)

    def live_on(self, steps: int) -> None:
        """Steps and batches. Old states are read between them, and sometimes it goes on from one, as it does after a
        turn that the log refused."""
        for _ in range(steps):
            if self.rng.random() < 0.5:
                self.step()
            else:
                self.run()
            self.kept.append((self.state, self.twin, dump(self.state)))
            if self.rng.random() < 0.2:
                state, _, was = self.rng.choice(self.kept)
                assert dump(state) == was
            if self.rng.random() < 0.1:
                self.state, self.twin, _ = self.rng.choice(self.kept)
                self.seen["taken back"] += 1


@settings(max_examples=250)
@given(seed=SEEDS, steps=st.integers(1, 25), is_rich=st.booleans())
def test_a_batch_comes_to_what_decide_and_apply_come_to(seed: int, steps: int, is_rich: bool) -> None:
    rng = random.Random(seed)
    told = Told(rng, is_rich)
    told.live_on(steps)
    for state, twin, was in rng.sample(told.kept, len(told.kept)):
        assert dump(state) == was, "an old state reads as it did, however many batches came after it"
        assert dump(twin) == was


def test_in_a_long_run_much_is_taken_and_nothing_stays_unexercised() -> None:
    """Else the property above would hold of a batch that declines everything."""
    seen: Counter[str] = Counter()
    longest = 0
    for seed in range(80):
        told = Told(random.Random(seed), is_rich=seed % 4 == 0)
        told.live_on(25)
        longest = max(longest, told.seen.pop("longest", 0))
        seen += told.seen
    at_least = {
        "batches with events": 300,
        "E taken": 800,
        "F taken": 200,
        "A taken": 200,
        "E declined": 100,
        "F declined": 300,
        "A declined": 300,
        "E taken in part": 30,
        "F taken in part": 60,
        "A taken in part": 30,
        "fetched Fresh": 50,
        "fetched Task": 10,
        "fetched bytes": 80,
        "fetched by priority": 10,
        "taken while the clock was behind": 100,
        "taken although a lease is overdue": 40,
        "taken back": 60,
    }
    assert {what: seen[what] for what, count in at_least.items() if seen[what] < count} == {}
    assert longest >= 12


# What is taken


def test_a_whole_day_s_work_of_a_plain_queue_is_taken() -> None:
    q = Q().add("a")
    batch = Batch(q.state)
    leases: list[bytes] = []
    for number in range(1000):
        assert batch.enqueue([b"x"], q.now + number, digits(number).encode(), 0)
        [held] = batch.fetch(1, DAY_MS, "worker", q.now + number, digits(number).encode(), 0, 1)
        leases.append(held.lease_id)
        if number % 2:
            assert batch.ack([leases[-2]], q.now + number)
    closed = batch.close()
    assert Counter(type(event) for event in batch.events) == {Enqueued: 1000, Leased: 1000, Acked: 500}
    assert [task.number for task in closed.in_state("ready")] == [1001]
    assert broken_by(q.state, batch.events, closed) == []


def test_an_empty_batch_closes_to_the_very_state_that_it_began_with() -> None:
    q = Q().add("a")
    old, was = q.state, dump(q.state)
    assert Batch(old).close() is old
    assert dump(old) == was
    assert Batch(old).close() is old, "again and again"


def test_what_is_declined_does_not_end_the_batch() -> None:
    batch = Batch(Q().add("a").state)
    assert ack_first(batch, T0) == 0
    assert fetch(batch, T0)
    assert not fetch(batch, T0)
    assert ack_first(batch, T0) == 1
    assert [type(event) for event in batch.events] == [Leased, Acked]


def test_the_ack_of_a_bound_lease_is_declined() -> None:
    """The service has to hear of it, and hears of single events on the usual way only."""
    q = Q().add("a")
    lease_id = q.take(100, bound=True)
    batch = Batch(q.state)
    assert not batch.ack([lease_id.encode()], q.now)
    assert batch.events == []


def test_a_queue_whose_clock_stands_at_0_is_not_for_batches() -> None:
    """Its next event will say when it was born."""
    state = replay([Enqueued("jobs", 1, 0, 1, "a", b"")], QueueState("jobs"))
    batch = Batch(state)
    assert not enqueue(batch, 5)
    assert not fetch(batch, 5)
    assert batch.close() is state


def test_times_that_no_machine_word_holds_are_not_for_batches() -> None:
    batch = Batch(Q().add("a").state)
    assert not enqueue(batch, NEVER_MS)
    assert not fetch(batch, NEVER_MS)
    assert batch.events == []


def test_an_ack_that_is_late_but_ahead_of_the_expiry_is_taken() -> None:
    q = Q().add("a")
    lease_id = q.take(100)
    batch = Batch(q.state)
    assert batch.ack([lease_id.encode()], q.now + 100)
    assert len(batch.close().tasks) == 0


def test_a_task_that_was_delayed_is_taken_once_it_is_ready() -> None:
    q = Q().add("a", delay_ms=10, priority=3)
    q.tick(10)
    batch = Batch(state_of(q.state.image()))  # whose heart has not gone back to when something was still due
    assert fetch(batch, q.now)
    assert ack_first(batch, q.now)


def test_when_what_was_redriven_is_gone_the_rest_is_taken() -> None:
    q = redriven()
    for lease_id in (q.take(), q.take()):
        q.ack(lease_id)
    q.add("c")
    assert fetch(Batch(q.state), q.now)


def test_when_the_last_remembered_id_is_forgotten_the_rest_is_taken() -> None:
    q = Q().add("a", dedup_ms=5)
    q.ack(q.take())
    q.wait(5).add("b")
    assert fetch(Batch(q.state), q.now)


def test_the_clock_may_be_behind_the_queue() -> None:
    """I15."""
    q = Q().add("a")
    batch = Batch(q.state)
    assert enqueue(batch, T0 - 50)
    assert fetch(batch, T0 - 50)
    leased = batch.events[-1]
    assert ack_first(batch, T0 - 50)
    assert [event.at_ms for event in batch.events] == [T0] * 3
    assert isinstance(leased, Leased)
    assert leased.deadline_ms == T0 + 100


def test_a_fetch_without_a_timeout_has_the_policy_s() -> None:
    q = Q(lease_ms=777).add("a")
    batch = Batch(q.state)
    assert batch.fetch(1, 0, "worker", T0, ZERO, 0, 1)
    leased = batch.events[-1]
    assert isinstance(leased, Leased)
    assert (leased.deadline_ms, leased.worker, leased.bound) == (T0 + 777, "worker", False)


# What is declined


Try = Callable[[Batch, int], object]


def enqueue(batch: Batch, now_ms: int) -> object:
    return batch.enqueue([b"x"], now_ms, ZERO, 0)


def fetch(batch: Batch, now_ms: int) -> object:
    return batch.fetch(1, 100, "", now_ms, ZERO, 0, 1)


def ack_of(lease_id: str) -> Try:
    return lambda batch, now_ms: batch.ack([lease_id.encode()], now_ms)


ack_first = ack_of(LEASE.format(1, 1))
"""Of the first lease of the first task."""


def remembering() -> Q:
    """A task is gone and its id known, another is leased, a third is ready."""
    q = Q().add("b").add("a", dedup_ms=1000, priority=1).add("c")
    q.ack(q.take(10_000))
    assert q.take(10_000) == LEASE.format(1, 2)
    return q


def leased(**options: Any) -> Q:
    q = Q().add("a", **options)
    q.take()
    return q


def nacked(*, again: bool) -> Q:
    """A task that was given up once and is ready; or leased again."""
    q = Q().add("a")
    q.nack(q.take())
    if again:
        q.take()
    return q


def redriven() -> Q:
    q = Q().add("a").add("b", priority=1)
    q.nack(q.take(), kind="fatal")
    q.redrive()
    return q


def paused() -> Q:
    q = Q().add("a")
    q.pause()
    return q


def overdue() -> Q:
    """The first task's lease ends now, the second one is ready."""
    q = Q().add("a", "b")
    q.take(10)
    return q.wait(10)


def extended() -> Q:
    q = Q().add("a")
    q.extend(q.take(), 500)
    return q


def acked() -> Q:
    q = Q().add("a")
    q.ack(q.take())
    return q


DECLINED: dict[str, tuple[Callable[[], Q], Try]] = {
    "the first task of a queue": (Q, enqueue),
    "a payload that is too long": (
        lambda: Q().add("a"),
        lambda batch, now_ms: batch.enqueue([TOO_LONG], now_ms, ZERO, 0),
    ),
    "an id that a client took": (lambda: Q().add("2-0000000000000000"), enqueue),
    "an enqueue where ids are remembered": (remembering, enqueue),
    "a fetch where ids are remembered": (remembering, fetch),
    "an ack where ids are remembered": (remembering, ack_of(LEASE.format(1, 2))),
    "an enqueue where the policy bounds the queue": (lambda: Q(max_ready=5).add("a"), enqueue),
    "an enqueue where the policy has a ttl": (lambda: Q(ttl_ms=5).add("a"), enqueue),
    "a fetch where the policy has a ttl": (lambda: Q(ttl_ms=500).add("a"), fetch),
    "a fetch while paused": (paused, fetch),
    "a fetch from an empty queue": (acked, fetch),
    "a fetch where all is leased": (leased, fetch),
    "a fetch while a lease is overdue": (overdue, fetch),
    "a fetch while a task is to mature": (lambda: Q().add("a").add("b", delay_ms=10).wait(10), fetch),
    "a fetch while a ttl has run out": (lambda: Q().add("a").add("b", ttl_ms=10).wait(10), fetch),
    "a fetch of a task that was given up before": (lambda: nacked(again=False), fetch),
    "a fetch of a task with a lease of its own": (lambda: Q().add("a", lease_ms=5), fetch),
    "a fetch of a task with attempts of its own": (lambda: Q().add("a", max_attempts=5), fetch),
    "a fetch of a task with a ttl": (lambda: Q().add("a", ttl_ms=500), fetch),
    "a fetch of a task with a dedup window": (lambda: Q().add("a", dedup_ms=500), fetch),
    "a fetch where a task was redriven": (redriven, fetch),
    "an ack of a task that was given up before": (lambda: nacked(again=True), ack_of(LEASE.format(1, 2))),
    "an ack of a task with options": (lambda: leased(max_attempts=5), ack_first),
    "an ack of a task with a dedup window": (lambda: leased(dedup_ms=5), ack_first),
    "an ack of a lease that was extended": (extended, ack_first),
    "an ack of a void lease": (lambda: nacked(again=True), ack_first),
    "an ack of what was acked": (acked, ack_first),
    "an ack of a task that is ready": (lambda: Q().add("a"), ack_first),
    "an ack of what never was": (lambda: Q().add("a"), ack_of(LEASE.format(9, 9))),
    "an ack of a lease with another nonce": (leased, ack_of(LEASE.format(1, 1)[:-1] + "1")),
    "an ack that names another task": (leased, ack_of(LEASE.format(2, 1))),
    "an ack that names another queue": (leased, ack_of(LEASE.format(1, 1).replace("jobs", "mail"))),
    "an ack of no lease": (leased, ack_of("jobs:")),
}


@pytest.mark.parametrize("what", DECLINED)
def test_declined_and_nothing_has_happened(what: str) -> None:
    make, attempt = DECLINED[what]
    q = make()
    old = q.state
    was = dump(old)
    batch = Batch(old)
    assert not attempt(batch, q.now), what
    assert batch.events == []
    assert batch.close() is old
    assert dump(old) == was


@pytest.mark.parametrize(
    "what",
    ["a fetch while a lease is overdue", "a fetch while a task is to mature", "a fetch while a ttl has run out"],
)
def test_a_moment_before_anything_is_due_a_fetch_is_taken(what: str) -> None:
    q = DECLINED[what][0]()
    assert fetch(Batch(q.state), q.now - 1)


def test_a_payload_of_just_the_limit_is_taken() -> None:
    assert Batch(Q().add("a").state).enqueue([b"x" * PAYLOAD_BYTES_MAX], T0, ZERO, 0)


def test_a_queue_that_is_born_with_a_policy_of_its_own_is_born_by_decide() -> None:
    q = Q(born=Policy(lease_ms=5))
    assert not enqueue(Batch(q.state), T0)


# Versions


@pytest.mark.parametrize("pack_from", PACK_FROM)
def test_batch_after_batch_can_be_taken_back_and_gone_over_again(pack_from: int) -> None:
    """A turn that the log refuses goes back to the state before it; the next one begins there."""
    q = Q().add("a", "b", "c")
    q.state.heart().pack_from = pack_from
    states, logs = [q.state], []
    for _ in range(3):
        batch = Batch(states[-1])
        assert batch.enqueue([b"x"], T0, digits(len(states)).encode(), 0)
        [held] = batch.fetch(1, 100, "", T0, ZERO, 0, 1)
        assert batch.ack([held.lease_id], T0)
        states.append(batch.close())
        logs.append(batch.events)
    was = [dump(state) for state in states]
    for _ in range(2):
        again = Batch(states[1])
        assert again.enqueue([b"other"], T0, digits(99).encode(), 0)
        other = again.close()
        assert [dump(state) for state in reversed(states)] == was[::-1]
        assert [task.payload for task in other.in_state("ready")][-1] == b"other"
    image = state_of(states[0].image())
    assert [dump(replay(chain.from_iterable(logs[:n]), image)) for n in range(4)] == was
