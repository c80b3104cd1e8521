"""What is checked near a step sees what a recount sees, of the tasks that the step touched.

Faults are planted in the oracle's states, whose fields can be replaced one by one, and then given hearts (`real`).
So what is checked are states as the product has them.
"""

import re

import pytest
from msgspec.structs import replace

from moxy.core.events import Acked, Leased, Purged
from moxy.core.invariants import broken, broken_by
from moxy.core.reducer import replay
from moxy.core.vicinity import broken_near, touched
from tests.core.oracle import persistent
from tests.core.support import Q, altered, and_then, real
from tests.core.test_invariants import STATES, STEPS, Step, life, scene, step, with_task
from tests.forms import needs_source

ONLY_A_RECOUNT_SEES = {"a TTL of nobody", "a name that leads nowhere"}
"""No event names the task that it is about (journal/verify recounts now and then for that)."""

SEEN_AS_ANOTHER = {"a token twice", "a task in two orders", "a name twice", "a number that comes back later"}
"""Told under another number, since there is less to look at."""


def found_in(planted: Step) -> list[str]:
    before, events, after = planted
    return broken_near(real(before), events, real(after))


@pytest.mark.parametrize("fault", STATES)
def test_a_broken_state_is_told_by_the_step_that_made_it(fault: str) -> None:
    """The whole life of the scene as one step, so that every task in it is touched."""
    q = life()
    assert broken_near(q.unborn, q.log, q.state) == []
    _, says, plant = STATES[fault]
    found = broken_near(q.unborn, q.log, real(plant(persistent(q.state))))
    assert bool(found) == (fault not in ONLY_A_RECOUNT_SEES)
    invariant = says.split(":")[0].split(".")[0]
    assert not found or fault in SEEN_AS_ANOTHER or any(sentence.startswith(f"{invariant}:") for sentence in found), (
        found
    )


@pytest.mark.parametrize("fault", STEPS)
def test_a_broken_step_is_told(fault: str) -> None:
    _, says, plant = STEPS[fault]
    found = found_in(plant())
    assert found
    assert fault in SEEN_AS_ANOTHER or any(sentence.startswith(f"{says}:") for sentence in found), found


@pytest.mark.parametrize("name", ["fetch", "ack", "expire"])
def test_what_a_task_leaves_behind_is_told(name: str) -> None:
    """It is gone from where it was, or stands elsewhere, but an order or an id still leads to it."""
    before, events, after = step(name)
    for order in ("ready", "processing", "dead", "expiring"):
        key = getattr(before, order).first()
        if key is not None and key[2] == 1:
            spoilt = replace(after, **{order: getattr(after, order).add(key)})
            assert any(re.match(r"I7:.*still stands", sentence) for sentence in found_in((before, events, spoilt)))
    if 1 not in after.tasks:
        spoilt = replace(after, numbers=after.numbers.set("a", 1))
        assert any("leads to a task that is gone" in sentence for sentence in found_in((before, events, spoilt)))


def test_a_ttl_that_is_left_behind_is_told() -> None:
    q = Q().add("a", ttl_ms=900)
    before = q.state
    q.take(100)
    assert broken_near(before, q.events, q.state) == []
    key = before.expiring.first()
    assert key is not None
    truth = persistent(q.state)
    spoilt = real(replace(truth, expiring=truth.expiring.add(key)))
    assert broken_near(before, q.events, spoilt) == ["I7: the TTL of task 'a' still stands in the order of TTLs"]


def test_a_last_token_that_did_not_move_and_a_number_given_twice_are_told() -> None:
    before, events, after = step("fetch")
    assert any(
        s.startswith("I3: task 'a' has token 1") for s in found_in((before, events, replace(after, last_token=0)))
    )
    q = Q().add("a")
    again = altered(q.unborn, next_number=2, seq=q.state.seq - 1)
    assert "I5: task 'a' came back" in broken_near(again, q.events, altered(q.state, next_number=9))


def test_a_purge_touches_all_that_it_removes_and_nothing_else() -> None:
    q = Q().add("a", "b", "c").add("later", delay_ms=1000)
    q.take(100)
    before = q.state
    q.purge("ready")
    assert isinstance(q.events[0], Purged)
    assert touched(before, q.events) == {2, 3}
    assert broken_near(before, q.events, q.state) == []
    truth = persistent(q.state)
    half = replace(truth, tasks=truth.tasks.set(2, before.tasks[2]))
    assert broken_near(before, q.events, real(half))


def test_a_task_that_no_event_names_is_not_looked_at() -> None:
    """The limit of this module, and why nobody may believe it alone."""
    before, events, after = step("fetch")
    was, spoilt = real(before), real(with_task(after, "b", priority=3))
    assert broken_near(was, events, spoilt) == []
    assert broken(spoilt)
    assert broken_by(was, events, spoilt)


def test_a_broken_state_before_the_step_is_no_crash() -> None:
    q = life()
    for fault, (_, _, plant) in STATES.items():
        spoilt = real(plant(scene()))
        assert isinstance(broken_near(spoilt, q.log, q.state), list), fault


@needs_source
@pytest.mark.parametrize("kind", [Leased, Acked])
def test_an_effect_that_leaves_a_task_in_its_order_is_told_by_versions_of_one_heart(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states before and after are read through the same structures, which the fault is in."""
    q = Q().add("a", "b")
    before = q.state
    q.ack(q.take(100))
    events = q.log[2:]
    assert broken_near(before, events, replay(events, before)) == []
    if kind is Leased:
        and_then(monkeypatch, kind, lambda heart, event: heart.lane(0).add(1))
    else:
        and_then(monkeypatch, kind, lambda heart, event: heart.names.update(a=1))
    found = broken_near(before, events, replay(events, before))
    says = {Leased: "I7: task 'a' still stands in the order of ready tasks", Acked: "I14: the id 'a' leads to a task"}
    assert any(sentence.startswith(says[kind]) for sentence in found), found
