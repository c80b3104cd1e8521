"""Due work and the one timer: when the service wants to be woken, and what it does then."""

import pytest

from moxy.core.commands import Configure, Enqueue, EnqueueMany, Extend, Show, Stats
from moxy.core.events import Acked, DeadLettered, Expired, Matured, Requeued
from tests.service.support import (
    NONCE,
    T0,
    FakeClient,
    World,
    ack,
    answer,
    blocking,
    code,
    fetch,
    is_waiting,
    nack,
    payloads,
    plain_fetch,
)

FIRST = f"1-{NONCE}"


# When to wake


def test_nothing_waits_for_time_on_a_quiet_server() -> None:
    w = World()
    assert w.wake_after_ms() is None
    w.say(Enqueue("jobs", b"ready"))
    assert w.wake_after_ms() is None


def test_the_next_wake_is_the_earliest_of_all_there_is_to_wait_for() -> None:
    w = World()
    w.wait("nowhere", block_ms=900)
    assert w.wake_after_ms() == 900
    w.say(Enqueue("delayed", b"x", delay_ms=800))
    assert w.wake_after_ms() == 800
    w.say(Enqueue("leased", b"x"), plain_fetch("leased", lease_ms=700))
    assert w.wake_after_ms() == 700
    w.say(Enqueue("mortal", b"x", ttl_ms=600))
    assert w.wake_after_ms() == 600
    w.say(Enqueue("mortal", b"x", delay_ms=550, ttl_ms=500))
    assert w.wake_after_ms() == 500
    w.wait("nowhere", block_ms=400)
    assert w.wake_after_ms() == 400
    w.say(Enqueue("delayed", b"x", delay_ms=300))
    assert w.wake_after_ms() == 300


def test_the_next_wake_moves_on_as_each_is_done() -> None:
    w = World()
    w.say(Enqueue("a", b"x", delay_ms=100), Enqueue("b", b"x", ttl_ms=200), Enqueue("c", b"x"))
    w.say(plain_fetch("c", lease_ms=300))
    w.wait("nowhere", block_ms=400)
    wakes: list[int] = []
    while (wake_ms := w.wake_after_ms()) is not None and len(wakes) < 9:
        wakes.append(wake_ms)
        w.at(wake_ms).turn()
    assert wakes == [100, 200, 300, 400]


def test_a_backoff_and_a_nack_delay_are_waited_for() -> None:
    w = World()
    w.say(Configure("jobs", (("backoff_ms", 80),)), Enqueue("jobs", b"a"))
    (task,) = w.say(plain_fetch())
    w.say(nack(task))
    assert w.wake_after_ms() == 80, "with zero for a nonce the jitter takes nothing off"
    (task,) = w.at(80).say(plain_fetch())
    w.say(nack(task, delay_ms=20))
    assert w.wake_after_ms() == 100


def test_a_wake_that_nothing_is_due_at_any_more_does_no_harm_and_re_arms() -> None:
    w = World()
    a, b = w.say(EnqueueMany("jobs", (b"a", b"b")), fetch("jobs", lease_ms=100, count=2))
    w.say(ack(a), Extend("jobs", b.lease_id, 2, 2, 250))
    wake_ms = w.wake_after_ms()
    assert wake_ms is not None
    assert wake_ms <= 250, "earlier than need be is allowed, later is not"
    while wake_ms < 250:
        assert w.at(wake_ms).turn().events == []
        earlier_ms, wake_ms = wake_ms, w.wake_after_ms()
        assert wake_ms is not None
        assert wake_ms > earlier_ms, "a timer that is not moved on spins"
    assert wake_ms == 250
    assert [type(event) for event in w.at(250).turn().events] == [Expired, Requeued]
    assert w.wake_after_ms() is None


def test_a_wake_for_a_queue_where_all_is_done_is_the_last() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=100))
    w.say(ack(task))
    assert w.at(100).turn().events == []
    assert w.wake_after_ms() is None


def test_a_turn_before_the_time_does_no_due_work() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a", delay_ms=100), Enqueue("jobs", b"b"))
    w.say(plain_fetch(lease_ms=100))
    w.backend.log.clear()
    assert w.at(99).turn().events == []
    assert "expire" not in w.backend.log
    assert len(w.at(100).turn().events) == 3


def test_a_late_wake_does_everything_that_became_due_meanwhile_in_order() -> None:
    """Leases by deadline, then TTLs, then maturing (semantics, Time)."""
    w = World()
    for payload, lease_ms in ((b"1", 90), (b"2", 80)):
        w.say(Enqueue("jobs", payload), plain_fetch(lease_ms=lease_ms))
    w.say(Enqueue("jobs", b"3", delay_ms=70), Enqueue("jobs", b"4", delay_ms=60), Enqueue("jobs", b"5", ttl_ms=50))
    events = w.at(5000).turn().events
    assert [(type(event).__name__, event.number) for event in events] == [  # type: ignore[union-attr]
        ("Expired", 2),
        ("Requeued", 2),
        ("Expired", 1),
        ("Requeued", 1),
        ("DeadLettered", 5),
        ("Matured", 4),
        ("Matured", 3),
    ]
    assert {event.at_ms for event in events} == {T0 + 5000}


# Late, but in time


def test_an_ack_in_the_turn_of_its_expiry_wins() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    (late,) = w.at(10_000).ask(None, ack(task))
    turn = w.turn()
    assert answer(late) is None
    assert [type(event) for event in turn.events] == [Acked]


@pytest.mark.parametrize("kind", ["nack", "extend"])
def test_a_nack_or_an_extend_in_the_turn_of_the_expiry_wins_too(kind: str) -> None:
    """Nothing but the timer and a FETCH expires a lease."""
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    (late,) = w.at(60).ask(None, nack(task) if kind == "nack" else Extend("jobs", task.lease_id, 1, 1, 500))
    turn = w.turn()
    assert answer(late) == (None if kind == "nack" else T0 + 560)
    assert not any(isinstance(event, Expired) for event in turn.events)


def test_an_ack_after_a_fetch_of_the_same_turn_is_too_late() -> None:
    """The FETCH expires what is overdue in its queue before it leases."""
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    again, late = w.at(50).ask(None, plain_fetch(), ack(task))
    w.turn()
    assert payloads(again) == [b"a"]
    assert code(answer(late)) == "NOLEASE"


def test_an_ack_one_turn_after_the_expiry_is_void() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    w.at(50).turn()
    assert code(w.say(ack(task))) == "NOLEASE"


def test_reading_an_overdue_queue_before_the_timer_changes_nothing() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    stats, shown = w.at(50).ask(None, Stats("jobs"), Show("jobs", FIRST))
    w.turn()
    assert answer(stats).processing == 1
    assert answer(shown).state == "processing"
    assert w.say(Stats("jobs")).processing == 0


def test_a_lease_is_live_until_the_millisecond_of_its_deadline() -> None:
    """I6."""
    w = World()
    w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    assert w.at(49).say(plain_fetch()) == []
    (again,) = w.at(50).say(plain_fetch())
    assert (again.attempts, again.deliveries, again.token) == (1, 2, 2)


# More than one go


def test_more_than_a_thousand_due_tasks_are_done_over_several_turns() -> None:
    w = World()
    w.say(*[Enqueue("jobs", b"", delay_ms=10) for _ in range(2500)])
    w.at(10)
    done = []
    for _ in range(3):
        wake_ms = w.wake_after_ms()
        assert wake_ms is not None
        assert wake_ms <= 10, "the rest is to follow at once"
        done.append(len(w.turn().events))
    assert done == [1000, 1000, 500]
    assert w.wake_after_ms() is None
    assert w.count("ready") == 2500


def test_one_queue_with_much_to_do_does_not_keep_the_others_from_theirs() -> None:
    w = World()
    w.say(*[Enqueue("big", b"", delay_ms=10) for _ in range(2500)])
    w.say(*[Enqueue(f"small{i}", b"", delay_ms=20) for i in range(5)])
    events = w.at(20).turn().events
    assert {event.queue for event in events} == {"big", *(f"small{i}" for i in range(5))}


def test_overdue_leases_beyond_a_thousand_follow_and_serve_who_waits() -> None:
    w = World()
    w.say(Configure("jobs", (("max_attempts", 1),)), *[Enqueue("jobs", b"") for _ in range(1500)])
    for _ in range(2):
        w.say(fetch("jobs", lease_ms=50, count=1000))
    w.say(Enqueue("jobs", b"matured", delay_ms=60))
    waiter = w.wait("jobs", block_ms=1000)
    w.at(60).turn()
    assert is_waiting(waiter)
    w.turn()
    assert payloads(waiter) == [b"matured"]
    assert w.count("dead") == 1500


def test_requests_are_served_between_the_goes() -> None:
    w = World()
    w.say(*[Enqueue("jobs", b"", delay_ms=10) for _ in range(1500)])
    assert w.at(10).say(Stats("jobs")).ready == 0
    assert w.say(Stats("jobs")).ready == 1000
    assert w.say(Stats("jobs")).ready == 1500


def test_a_ttl_that_runs_out_while_ready_dead_letters_at_its_time() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a", ttl_ms=100))
    assert w.at(99).turn().events == []
    (event,) = w.at(100).turn().events
    assert isinstance(event, DeadLettered)
    assert (event.cause, event.reason) == ("ttl", "ttl")


def test_a_live_lease_is_not_cut_short_by_a_ttl() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a", ttl_ms=100), plain_fetch(lease_ms=500))
    assert w.at(100).turn().events == []
    assert w.wake_after_ms() == 500
    assert w.say(ack(task)) is None


def test_a_task_that_matures_at_its_time_is_ready_in_that_turn() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a", delay_ms=100))
    (early,) = w.at(99).ask(FakeClient(), blocking("jobs", block_ms=1))
    w.turn()
    assert is_waiting(early)
    assert isinstance(w.at(100).turn().events[0], Matured)
    assert payloads(early) == [b"a"]
