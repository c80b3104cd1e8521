"""Leases that belong to a connection, and leases whose reply never arrived."""

import pytest

from moxy.core.commands import Configure, Enqueue, EnqueueMany, Show
from moxy.core.events import Acked, DeadLettered, Released
from tests.forms import parts
from tests.service.support import (
    NONCE,
    FakeClient,
    World,
    ack,
    ack_many,
    blocking,
    code,
    fetch,
    nack,
    payloads,
    plain_fetch,
)

FIRST = f"1-{NONCE}"


def holding(w: World, *queues: str, count: int = 1) -> FakeClient:
    """A worker with bound leases."""
    worker = FakeClient("worker")
    leases = w.say(fetch(*queues, count=count, bound=True), by=worker)
    assert len(leases) == count
    return worker


def causes(w: World) -> list[str]:
    return [event.cause for event in w.events if isinstance(event, Released)]


def test_bound_leases_are_released_in_the_turn_after_the_disconnect_and_charged() -> None:
    w = World()
    w.say(EnqueueMany("jobs", (b"a", b"b")), Enqueue("more", b"c"))
    worker = holding(w, "jobs", "more", count=3)
    w.leave(worker)
    assert w.service.has_work
    turn = w.turn()
    assert [event.queue for event in turn.events] == ["jobs", "jobs", "more"]
    assert causes(w) == ["disconnect"] * 3
    assert turn.answered == []
    shown = w.say(Show("jobs", FIRST))
    assert (shown.state, shown.attempts, shown.disconnects) == ("ready", 1, 1)
    assert w.leftovers() == {}


def test_a_bound_lease_got_by_waiting_is_released_too() -> None:
    w = World()
    worker = FakeClient("worker")
    (waiter,) = w.ask(worker, blocking("jobs", bound=True))
    w.turn()
    w.say(Enqueue("jobs", b"a"))
    assert payloads(waiter) == [b"a"]
    w.leave(worker)
    w.turn()
    assert causes(w) == ["disconnect"]
    assert w.leftovers() == {}


def test_a_lease_that_is_not_bound_outlives_its_connection() -> None:
    w = World()
    worker = FakeClient("worker")
    w.say(Enqueue("jobs", b"a"), fetch("jobs"), by=worker)
    w.leave(worker)
    w.turn()
    assert causes(w) == []
    assert w.count("processing") == 1


def test_only_the_leases_of_the_one_who_went_are_released() -> None:
    w = World()
    w.say(EnqueueMany("jobs", (b"a", b"b")))
    gone, there = holding(w, "jobs"), holding(w, "jobs")
    w.leave(gone)
    w.turn()
    assert (w.count("ready"), w.count("processing")) == (1, 1)
    w.leave(there)
    w.turn()
    assert (w.count("ready"), w.count("processing")) == (2, 0)
    assert w.leftovers() == {}


def test_a_disconnect_that_uses_up_the_attempts_dead_letters() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a", max_attempts=2))
    for _ in range(2):
        assert w.count("ready") == 1
        w.leave(holding(w, "jobs"))
        w.turn()
    shown = w.say(Show("jobs", FIRST))
    assert (shown.state, shown.attempts, shown.dead_cause, shown.dead_reason) == ("dead", 2, "attempts", "disconnect")
    assert [type(event) for event in w.events[-2:]] == [Released, DeadLettered]
    assert w.leftovers() == {}


def test_a_disconnect_after_the_ttl_dead_letters() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a", ttl_ms=50))
    worker = holding(w, "jobs")
    w.at(50).leave(worker)
    w.turn()
    shown = w.say(Show("jobs", FIRST))
    assert (shown.state, shown.dead_cause, shown.dead_reason) == ("dead", "ttl", "ttl")


@pytest.mark.parametrize("end", ["ack", "mack", "nack", "nack release", "nack fatal", "expiry"])
def test_a_bound_lease_that_ended_is_not_released_again(end: str) -> None:
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", lease_ms=50, bound=True), by=worker)
    if end == "expiry":
        w.at(50).turn()
    else:
        how = {"nack": "retry", "nack release": "release", "nack fatal": "fatal"}
        w.say(ack(task) if end == "ack" else ack_many(task) if end == "mack" else nack(task, how[end]), by=worker)
    before = len(w.events)
    w.leave(worker)
    assert not w.service.has_work, "there is nothing to release"
    w.turn()
    assert w.events[before:] == []
    assert w.leftovers() == {}


def test_somebody_else_may_ack_a_bound_lease() -> None:
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=True), by=worker)
    assert w.say(ack(task), by=FakeClient("friend")) is None
    w.leave(worker)
    assert not w.service.has_work
    assert w.leftovers() == {}


def test_the_release_of_an_old_lease_does_not_touch_the_next_lease_of_its_task() -> None:
    w = World()
    worker = FakeClient("worker")
    w.say(Enqueue("jobs", b"a"), fetch("jobs", lease_ms=50, bound=True), by=worker)
    (again,) = w.at(50).say(fetch("jobs"))
    w.leave(worker)
    w.turn()
    assert causes(w) == []
    assert w.say(ack(again)) is None


def test_an_ack_sent_just_before_the_disconnect_wins() -> None:
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=True), by=worker)
    w.ask(worker, ack(task))
    w.leave(worker)
    w.turn()
    assert isinstance(w.events[-1], Acked)
    assert causes(w) == []


def test_a_released_lease_is_void() -> None:
    """I4."""
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=True), by=worker)
    w.leave(worker)
    w.turn()
    assert code(w.say(ack(task))) == "NOLEASE"
    assert w.count("ready") == 1


def test_a_worker_that_stays_and_acks_keeps_nothing_in_the_service() -> None:
    w = World()
    worker = FakeClient("worker")
    for i in range(300):
        (task,) = w.say(Enqueue("jobs", b"%d" % i), fetch("jobs", bound=True), by=worker)
        w.say(ack(task), by=worker)
    w.turn()
    assert sum(deep_size(part) for part in parts(w.service).values()) <= 1
    w.leave(worker)
    assert w.leftovers() == {}


def deep_size(part: object) -> int:
    return sum(1 + deep_size(inner) for inner in part.values()) if isinstance(part, dict) else 0


# Replies that could not be written


def test_an_undelivered_lease_goes_back_uncharged() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a", max_attempts=1), plain_fetch())
    w.service.undelivered([task.lease_id])
    assert w.service.has_work
    w.turn()
    assert causes(w) == ["undelivered"]
    shown = w.say(Show("jobs", FIRST))
    assert (shown.state, shown.attempts, shown.releases, shown.disconnects) == ("ready", 0, 1, 0)


def test_an_undelivered_task_is_back_at_its_place() -> None:
    w = World()
    w.say(EnqueueMany("jobs", (b"a", b"b")))
    (task,) = w.say(plain_fetch())
    w.service.undelivered([task.lease_id])
    w.turn()
    (request,) = w.ask(None, fetch("jobs", count=2))
    w.turn()
    assert payloads(request) == [b"a", b"b"]


def test_an_undelivered_lease_that_ended_meanwhile_is_let_be() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch())
    w.say(ack(task))
    w.service.undelivered([task.lease_id])
    assert w.turn().events == []


def test_a_bound_lease_that_was_undelivered_is_not_charged_by_the_disconnect_that_follows() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"))
    worker = FakeClient("worker")
    (task,) = w.say(fetch("jobs", bound=True), by=worker)
    w.service.undelivered([task.lease_id])
    w.leave(worker)
    w.turn()
    assert causes(w) == ["undelivered"]
    assert w.leftovers() == {}


def test_the_policy_at_the_time_of_the_disconnect_decides() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"))
    worker = holding(w, "jobs")
    w.say(Configure("jobs", (("max_attempts", 1),)))
    w.leave(worker)
    w.turn()
    assert w.count("dead") == 1
