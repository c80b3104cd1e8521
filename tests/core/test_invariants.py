"""A checker is only believed after it has caught a planted fault: each invariant, broken by hand."""

import re
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from moxy.core.commands import Fetch, Tick
from moxy.core.events import AnyEvent, DeadLettered, Expired, Extended, Failed, Leased, Released
from moxy.core.invariants import (
    STATE_CHECKS,
    STEP_CHECKS,
    Check,
    StepCheck,
    broken,
    broken_by,
    buried_for_a_reason,
    conservation,
    counters,
    first_eligible,
    identities,
    no_early_expiry,
    no_return,
    one_lease,
    orders,
    reasons,
    rising_tokens,
    sequence,
    tokens,
    told_attempts,
)
from moxy.core.reducer import apply, replay
from moxy.core.tasks import Death, Task
from tests.core import ordered
from tests.core.oracle import Persistent, persistent
from tests.core.ordered import Ordered
from tests.core.support import T0, Q


def life() -> Q:
    """A queue with a task in every state, one with a TTL, and an id that is remembered."""
    q = Q(max_attempts=2).add("held", "dead", "rare").add("later", delay_ms=1000)
    q.add("gone", dedup_ms=1000).add("brief", ttl_ms=900)
    q.take(500)
    q.nack(q.take(500), kind="fatal")
    q.delete("gone")
    return q


def scene() -> Persistent:
    return persistent(life().state)


def with_task(s: Persistent, name: str, **changes: object) -> Persistent:
    task = s.named(name)
    assert task is not None
    changed: Task = replace(task, **changes)
    return replace(s, tasks=s.tasks.set(task.number, changed))


def without_first(order: Ordered) -> Ordered:
    key = order.first()
    assert key is not None
    return order.remove(key)


def remembering(s: Persistent, task_id: str, until_ms: int, number: int) -> Persistent:
    return replace(
        s,
        remembered=s.remembered.set(task_id, (until_ms, number)),
        forgetting=s.forgetting.add((until_ms, 0, number)),
        forgotten_names=s.forgotten_names.set(number, task_id),
    )


def counted(s: Persistent, **totals: int) -> Persistent:
    return replace(s, totals=replace(s.totals, **totals))


Plant = Callable[[Persistent], Persistent]

STATES: dict[str, tuple[Check, str, Plant]] = {
    # fault -> the predicate that must see it, what it says, how it is planted
    "a task too many": (conservation, "I1: 5 enqueued", lambda s: counted(s, enqueued=5)),
    "an ack too many": (conservation, "I1: 6 enqueued", lambda s: counted(s, acked=1)),
    "a deletion too many": (conservation, "I1: 6 enqueued", lambda s: counted(s, deleted=2)),
    "a task that vanished": (conservation, "I1: 4 tasks are kept", lambda s: replace(s, tasks=s.tasks.delete(4))),
    "a task too few": (conservation, "I1: 9 enqueued", lambda s: counted(s, enqueued=9)),
    "a task in limbo that is not there": (conservation, "I1: 1 tasks rest", lambda s: replace(s, limbo=1)),
    "a lease on a ready task": (one_lease, "I2", lambda s: with_task(s, "rare", lease=s.tasks[1].lease)),
    "no lease on a held one": (one_lease, "I2", lambda s: with_task(s, "held", lease=None)),
    "a held task by its state alone": (one_lease, "I2", lambda s: with_task(s, "rare", state="processing")),
    "a token twice": (tokens, "I3: two", lambda s: with_task(s, "held", token=s.tasks[2].token)),
    "a token from the future": (tokens, "I3: token 99", lambda s: with_task(s, "held", token=99)),
    "a ready task in no order": (orders, "I7.*ready", lambda s: replace(s, ready=without_first(s.ready))),
    "a scheduled task in no order": (orders, "I7.*scheduled", lambda s: replace(s, scheduled=ordered.EMPTY)),
    "a held task in no order": (orders, "I7.*processing", lambda s: replace(s, processing=ordered.EMPTY)),
    "a dead task in no order": (orders, "I7.*dead", lambda s: replace(s, dead=ordered.EMPTY)),
    "a task in two orders": (orders, "I7.*ready", lambda s: replace(s, ready=s.ready.add((0, 0, 2)))),
    "a place that is not the task's": (orders, "I7.*ready", lambda s: with_task(s, "rare", place=77)),
    "a priority that is not the task's": (orders, "I7.*ready", lambda s: with_task(s, "rare", priority=3)),
    "a due time that is not the task's": (orders, "I7.*scheduled", lambda s: with_task(s, "later", due_ms=77)),
    "a TTL that nobody watches": (orders, "I7.*TTL", lambda s: with_task(s, "rare", expires_ms=5)),
    "a TTL of nobody": (orders, "I7.*TTL", lambda s: replace(s, expiring=s.expiring.add((5, 1, 1)))),
    "a death of the living": (reasons, "I9.*is ready", lambda s: with_task(s, "rare", death=Death("ttl", "x", 1, 1))),
    "a dead task without a death": (reasons, "I9.*is dead", lambda s: with_task(s, "dead", death=None)),
    "a fourth cause": (reasons, "I9.*died of", lambda s: with_task(s, "dead", death=Death("age", "x", 1, 1))),
    "no reason": (reasons, "I9.*died of", lambda s: with_task(s, "dead", death=Death("ttl", "", 1, 1))),
    "a name that leads nowhere": (identities, "I14", lambda s: replace(s, numbers=s.numbers.set("ghost", 77))),
    "a name that nobody finds": (identities, "I14", lambda s: replace(s, numbers=s.numbers.delete("rare"))),
    "a name twice": (identities, "I14", lambda s: with_task(s, "rare", task_id="dead")),
    "a number that was never given": (identities, "I5", lambda s: replace(s, next_number=3)),
    "an id both here and gone": (identities, "I14", lambda s: remembering(s, "dead", 1, 2)),
}


def test_the_scene_is_sound() -> None:
    assert broken(scene()) == []


@pytest.mark.parametrize("fault", STATES)
def test_a_broken_state_is_told(fault: str) -> None:
    check, says, plant = STATES[fault]
    state = plant(scene())
    sentence = check(state)
    assert sentence is not None
    assert re.match(says, sentence)
    assert broken(state) != []


@pytest.mark.parametrize("where", ["expired", "failed"])
def test_a_task_that_rests_between_two_events_is_told(where: str) -> None:
    """I1 has no place for it: what is enqueued is scheduled, ready, processing, dead, acked or deleted."""
    q = Q().add("a")
    lease, before = q.take(100), q.state
    if where == "expired":
        event: AnyEvent = Expired("jobs", before.seq + 1, q.now + 100, 1, "a", lease, 1)
    else:
        event = Failed("jobs", before.seq + 1, q.now, 1, "a", lease, "", 1)
    assert any(sentence.startswith("I1:") for sentence in broken_by(before, [event], apply(before, event)))


def step(name: str) -> tuple[Persistent, tuple[AnyEvent, ...], Persistent]:
    """A real step: before, its events, after."""
    q = Q(max_attempts=1).add("a", "b")
    if name == "fetch":
        before = q.state
        q.take(100)
    elif name == "ack":
        lease = q.take(100)
        before = q.state
        q.ack(lease)
    else:
        q.take(100)
        before = q.state
        q.tick(100)
    return persistent(before), q.events, persistent(q.state)


def test_real_steps_are_sound() -> None:
    for name in ("fetch", "ack", "expire"):
        assert broken_by(*step(name)) == []


def changed(events: Sequence[AnyEvent], **changes: object) -> list[AnyEvent]:
    return [replace(event, **changes) for event in events]


Step = tuple[Persistent, Sequence[AnyEvent], Persistent]


def fetch_without_a_rising_token() -> Step:
    before, events, after = step("fetch")
    return replace(before, last_token=1), events, after


def fetch_told(**changes: object) -> Callable[[], Step]:
    def plant() -> Step:
        before, events, after = step("fetch")
        return before, changed(events, **changes), after

    return plant


def events_that_are_not_told() -> Step:
    before, _, after = step("fetch")
    return before, (), after


def two_leases_with_one_token() -> Step:
    before, events, after = step("fetch")
    return before, [*events, *events], after


def an_acked_task_still_there() -> Step:
    before, events, after = step("ack")
    return before, events, replace(after, tasks=after.tasks.set(1, before.tasks[1]))


def an_old_number_back() -> Step:
    before, _, after = step("ack")
    return after, (), replace(after, tasks=after.tasks.set(1, before.tasks[1]))


def an_expiry_before_its_deadline() -> Step:
    before, events, after = step("expire")
    return before, changed(events, at_ms=events[0].at_ms - 1), after


def an_expiry_before_the_deadline_that_an_extend_gave() -> Step:
    before, events, after = step("expire")
    longer = Extended("jobs", before.seq + 1, before.at_ms, 1, "a", events[0].lease_id, T0 + 500)  # type: ignore[union-attr]
    return before, [longer, *events], after


def a_total(**totals: int) -> Callable[[], Step]:
    def plant() -> Step:
        before, events, after = step("ack")
        return before, events, counted(after, **totals)

    return plant


def attempts_told(count: int) -> Callable[[], Step]:
    def plant() -> Step:
        before, events, after = step("expire")
        return before, [replace(events[0], attempts=count), *events[1:]], after  # type: ignore[call-arg]

    return plant


def buried(*events: AnyEvent, max_attempts: int = 1) -> Callable[[], Step]:
    """Task a, under a lease, and then these events, numbered and applied."""

    def plant() -> Step:
        q = Q(max_attempts=max_attempts).add("a", "b", ttl_ms=1000)
        q.take(100)
        before = q.state
        numbered = [replace(event, seq=before.seq + 1 + n) for n, event in enumerate(events)]
        return before, numbered, replay(numbered, before)

    return plant


LEASE = f"jobs:1:1:{'0' * 16}"
FAILED = Failed("jobs", 0, T0, 1, "a", LEASE, "", 1)
FREED = Released("jobs", 0, T0, 1, "a", LEASE, "worker", 0)


def dies(cause: str, attempts: int = 0, number: int = 1) -> AnyEvent:
    return DeadLettered("jobs", 0, T0, number, "ab"[number - 1], cause, "reason", attempts)  # type: ignore[arg-type]


STEPS: dict[str, tuple[StepCheck, str, Callable[[], Step]]] = {
    "a gap in the sequence": (sequence, "I15", fetch_told(seq=9)),
    "a sequence twice": (sequence, "I15", two_leases_with_one_token),
    "time that goes back": (sequence, "I15", fetch_told(at_ms=T0 - 1)),
    "a state that is ahead of its events": (sequence, "I15", events_that_are_not_told),
    "a token that does not rise": (rising_tokens, "I3", fetch_without_a_rising_token),
    "a token twice": (rising_tokens, "I3", two_leases_with_one_token),
    "an acked task that is still there": (no_return, "I5", an_acked_task_still_there),
    "a number that comes back later": (no_return, "I5", an_old_number_back),
    "an early expiry": (no_early_expiry, "I6", an_expiry_before_its_deadline),
    "an early expiry of an extended lease": (no_early_expiry, "I6", an_expiry_before_the_deadline_that_an_extend_gave),
    "an ack counted twice": (counters, "I8", a_total(acked=2)),
    "an ack not counted": (counters, "I8", a_total(acked=0)),
    "a redrive that never was": (counters, "I8", a_total(redriven=1)),
    "too many attempts told": (told_attempts, "I8", attempts_told(5)),
    "no attempts told": (told_attempts, "I8", attempts_told(0)),
    "fatal without a NACK": (buried_for_a_reason, "I9", buried(FREED, dies("fatal"))),
    "fatal by the NACK of another task": (buried_for_a_reason, "I9", buried(FAILED, dies("fatal", number=2))),
    "a TTL that lies ahead": (buried_for_a_reason, "I9", buried(FREED, dies("ttl"))),
    "attempts without a delivery": (buried_for_a_reason, "I9", buried(dies("attempts", number=2))),
    "attempts by the delivery of another task": (buried_for_a_reason, "I9", buried(FAILED, dies("attempts", number=2))),
    "attempts by a release that is not charged": (buried_for_a_reason, "I9", buried(FREED, dies("attempts"))),
    "attempts that are not used up": (buried_for_a_reason, "I9", buried(FAILED, dies("attempts", 1), max_attempts=2)),
    "attempts that have no maximum": (buried_for_a_reason, "I9", buried(FAILED, dies("attempts", 1), max_attempts=0)),
}


@pytest.mark.parametrize("fault", STEPS)
def test_a_broken_step_is_told(fault: str) -> None:
    check, says, plant = STEPS[fault]
    sentence = check(*plant())
    assert sentence is not None
    assert sentence.startswith(f"{says}:")


@pytest.mark.parametrize("events", [(FAILED, dies("fatal", 1)), (FAILED, dies("attempts", 1))])
def test_a_death_with_its_cause_is_not_told(events: tuple[AnyEvent, ...]) -> None:
    assert broken_by(*buried(*events)()) == []


def test_a_fetch_out_of_order_is_told() -> None:
    q = Q().add("a", "b")
    before = q.state
    q.take(100)
    event = q.events[0]
    assert first_eligible(before, Fetch("jobs", 100), [event]) is None
    other = replace(event, number=2, task_id="b")  # type: ignore[call-arg]
    assert "I7" in (first_eligible(before, Fetch("jobs", 100), [other]) or "")


def leases(number: int, token: int = 1) -> Leased:
    return Leased("jobs", 9, T0, number, "abc"[number - 1], f"jobs:{number}:{token}:00", token, T0 + 9)


@pytest.mark.parametrize(
    ("events", "sound"),
    [
        ((leases(2), leases(1, 2), leases(3, 3)), True),
        ((leases(1),), False),
        ((leases(2), leases(3, 2)), False),
        ((leases(2), leases(2, 2)), False),
    ],
)
def test_the_order_of_a_fetch_is_recounted_for_each_lease(events: tuple[AnyEvent, ...], sound: bool) -> None:
    q = Q().add("a").add("b", priority=3).add("c")
    assert (first_eligible(q.state, Fetch("jobs", 100, 3), events) is None) == sound


def test_a_lease_when_nothing_is_ready_is_told() -> None:
    assert (first_eligible(Q().state, Fetch("jobs", 100), [leases(1)]) or "").startswith("I7:")


def test_a_lease_on_a_paused_queue_is_told() -> None:
    q = Q().add("a")
    q.pause()
    assert (first_eligible(q.state, Fetch("jobs", 100), [leases(1)]) or "").startswith("I7:")


def test_only_a_fetch_is_asked_for_the_order() -> None:
    assert first_eligible(Q().state, Tick("jobs"), []) is None


def test_every_check_has_been_seen_red() -> None:
    assert set(STATE_CHECKS.values()) == {check for check, _, _ in STATES.values()}
    assert set(STEP_CHECKS.values()) == {check for check, _, _ in STEPS.values()}


def test_an_order_is_made_of_its_keys() -> None:
    assert list(ordered.ordered([(2, 0, 1), (1, 0, 2)])) == [(1, 0, 2), (2, 0, 1)]
