"""A checker is only believed after it has caught a planted fault: each invariant, broken by hand."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from moxy.core import ordered
from moxy.core.commands import Fetch
from moxy.core.events import AnyEvent
from moxy.core.invariants import STATE_CHECKS, STEP_CHECKS, broken, broken_by, first_eligible
from moxy.core.state import QueueState, Task
from tests.core.support import Q


def scene() -> QueueState:
    """A queue with a task in every state, one of them dead, and ids that are remembered."""
    q = Q(max_attempts=2).add("ready", "held", "dead", "late")
    q.add("later", delay_ms=1000)
    q.take(500)
    q.take(500)
    return q.state


def with_task(s: QueueState, name: str, **changes: object) -> QueueState:
    task = s.named(name)
    assert task is not None
    changed: Task = replace(task, **changes)
    return replace(s, tasks=s.tasks.set(task.number, changed))


STATES: dict[str, tuple[str, Callable[[QueueState], QueueState]]] = {
    "a task too many": ("I1", lambda s: replace(s, totals=replace(s.totals, enqueued=s.totals.enqueued - 1))),
    "a task that vanished": ("I1", lambda s: replace(s, tasks=s.tasks.delete(4))),
    "a lease on a ready task": ("I2", lambda s: with_task(s, "dead", lease=s.tasks[1].lease)),
    "no lease on a held one": ("I2", lambda s: with_task(s, "ready", lease=None)),
    "a token twice": ("I3", lambda s: with_task(s, "held", token=1)),
    "a token from the future": ("I3", lambda s: with_task(s, "held", token=99)),
    "a task in no order": ("I7", lambda s: replace(s, ready=s.ready.remove(next(iter(s.ready))))),
    "a place in the order that is not the task's": ("I7", lambda s: with_task(s, "dead", place=77)),
    "a TTL that nobody watches": ("I7", lambda s: with_task(s, "dead", expires_ms=5)),
    "a death of the living": ("I9", lambda s: with_task(s, "dead", state="dead")),
    "a name that leads nowhere": ("I14", lambda s: replace(s, numbers=s.numbers.set("ghost", 77))),
    "a number that was never given": ("I5", lambda s: replace(s, next_number=3)),
    "an id both here and remembered": ("I14", lambda s: replace(s, remembered=s.remembered.set("held", (1, 2)))),
}


def test_the_scene_is_sound() -> None:
    assert broken(scene()) == []


@pytest.mark.parametrize("fault", STATES)
def test_a_broken_state_is_told(fault: str) -> None:
    number, plant = STATES[fault]
    assert any(sentence.startswith(number) for sentence in broken(plant(scene())))


def step(name: str) -> tuple[QueueState, tuple[AnyEvent, ...], QueueState]:
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
    return before, q.events, q.state


def test_real_steps_are_sound() -> None:
    for name in ("fetch", "ack", "expire"):
        assert broken_by(*step(name)) == []


def test_a_gap_in_the_sequence_is_told() -> None:
    before, events, after = step("fetch")
    assert any(s.startswith("I15") for s in broken_by(before, [replace(events[0], seq=9)], after))


def test_a_token_that_does_not_rise_is_told() -> None:
    before, events, after = step("fetch")
    assert any(s.startswith("I3") for s in broken_by(replace(before, last_token=5), events, after))


def test_an_acked_task_that_is_still_there_is_told() -> None:
    before, events, after = step("ack")
    back = replace(after, tasks=after.tasks.set(1, before.tasks[1]))
    assert any(s.startswith("I5") for s in broken_by(before, events, back))


def test_an_expiry_before_its_deadline_is_told() -> None:
    before, events, after = step("expire")
    early = [replace(event, at_ms=event.at_ms - 1) for event in events]
    assert any(s.startswith("I6") for s in broken_by(before, early, after))


def test_a_count_that_is_off_is_told() -> None:
    before, events, after = step("ack")
    off = replace(after, totals=replace(after.totals, acked=7))
    assert any(s.startswith("I8") for s in broken_by(before, events, off))


def test_attempts_that_are_told_wrong_are_told() -> None:
    before, events, after = step("expire")
    wrong = [replace(events[0], attempts=5), *events[1:]]  # type: ignore[call-arg]
    assert any(s.startswith("I8") for s in broken_by(before, wrong, after))


def test_a_death_without_a_cause_is_told() -> None:
    before, events, after = step("expire")
    assert any(s.startswith("I9") for s in broken_by(before, [events[1]], after))


def test_a_fetch_out_of_order_is_told() -> None:
    q = Q().add("a", "b")
    before = q.state
    q.take(100)
    event = q.events[0]
    assert first_eligible(before, Fetch("jobs", 100), [event]) is None
    other = replace(event, number=2, task_id="b")  # type: ignore[call-arg]
    assert "I7" in (first_eligible(before, Fetch("jobs", 100), [other]) or "")


def test_every_check_has_been_seen_red() -> None:
    """Told by number: what is not in this file's faults is checked elsewhere, and that is nothing."""
    planted = {number for number, _ in STATES.values()}
    assert set(STATE_CHECKS) <= planted
    assert {key.split(",")[0] for key in STEP_CHECKS} <= {"I3", "I5", "I6", "I8", "I9", "I15"}


def test_an_order_is_made_of_its_keys() -> None:
    assert list(ordered.ordered([(2, 0, 1), (1, 0, 2)])) == [(1, 0, 2), (2, 0, 1)]
