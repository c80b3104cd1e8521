"""The log refuses a turn: every answer of it is IOERR, nothing happened, and nothing is forgotten."""

import pytest

from moxy.core.commands import Enqueue, ListQueues, Pause, Resume, Stats
from tests.service.support import (
    NONCE,
    FakeClient,
    World,
    ack,
    ack_many,
    answer,
    blocking,
    code,
    fetch,
    is_waiting,
    payloads,
    plain_fetch,
)


def refused_turn(w: World) -> list[str]:
    """A turn whose commit fails; the codes of its answers."""
    w.backend.refusing = "no space left on device"
    turn = w.turn()
    w.backend.refusing = ""
    assert turn.events == [], "what did not happen must not be told"
    return [code(request.outcome) for request in turn.answered]


def test_every_answer_of_a_refused_turn_is_ioerr_reads_and_refusals_included() -> None:
    w = World()
    (task,) = w.say(Enqueue("jobs", b"a"), plain_fetch())
    w.ask(None, Enqueue("jobs", b"b"), Stats("jobs"), ack(task), ack(f"jobs:9:9:{NONCE}"), fetch("jobs"))
    w.ask(None, ack_many(task), ListQueues("*", 10, ""), plain_fetch())
    assert refused_turn(w) == ["IOERR"] * 8


def test_the_reason_of_the_log_is_in_the_answer() -> None:
    w = World()
    (request,) = w.ask(None, Enqueue("jobs", b"a"))
    refused_turn(w)
    assert "no space left on device" in answer(request).text


def test_nothing_happened_and_the_next_turn_goes_on() -> None:
    w = World()
    w.ask(None, Enqueue("jobs", b"a"), Enqueue("new", b"b"))
    refused_turn(w)
    assert w.say(ListQueues("*", 10, "")).names == []
    assert w.say(Enqueue("jobs", b"again")) == [f"1-{NONCE}"]
    assert [event.seq for event in w.events] == [1]


def test_a_waiter_that_was_served_in_a_refused_turn_gets_ioerr_and_waits_no_more() -> None:
    w = World()
    waiter = w.wait("jobs", block_ms=100)
    w.ask(None, Enqueue("jobs", b"a"))
    assert refused_turn(w) == ["IOERR", "IOERR"]
    assert code(waiter.outcome) == "IOERR"
    assert w.service.blocked == 0
    assert w.wake_after_ms() is None
    assert w.leftovers() == {}


def test_a_waiter_whom_the_refused_turn_did_not_concern_goes_on_waiting() -> None:
    w = World()
    waiter = w.wait("jobs", block_ms=100)
    w.ask(None, Enqueue("other", b"a"))
    refused_turn(w)
    assert is_waiting(waiter)
    w.say(Enqueue("jobs", b"b"))
    assert payloads(waiter) == [b"b"]


def test_due_work_of_a_refused_turn_is_done_again() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"), plain_fetch(lease_ms=50))
    w.at(50)
    assert refused_turn(w) == []
    assert w.count("processing") == 1
    assert w.turn().events == [], "a full disk is not asked again at once"
    assert w.service.next_wake_ms() == w.clock.now_ms() + 100
    w.at(150)
    assert [type(event).__name__ for event in w.turn().events] == ["Expired", "Requeued"]


def test_a_bound_fetch_that_was_refused_binds_nothing() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"))
    worker = FakeClient("worker")
    w.ask(worker, fetch("jobs", bound=True))
    refused_turn(w)
    w.leave(worker)
    assert not w.service.has_work
    assert w.leftovers() == {}


def test_a_bound_lease_stays_bound_when_its_ack_was_refused() -> None:
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=True), by=worker)
    w.ask(worker, ack(task))
    refused_turn(w)
    w.leave(worker)
    w.turn()
    assert w.count("ready") == 1


@pytest.mark.parametrize("how", ["disconnect", "undelivered"])
def test_a_release_that_was_refused_is_made_up_for_when_the_log_takes_writes_again(how: str) -> None:
    """A BOUND lease ends with its connection, and an undelivered one at once: a full disk only puts it off."""
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=how == "disconnect"), by=worker)
    w.leave(worker)
    if how == "undelivered":
        w.service.undelivered([task.lease_id])
    refused_turn(w)
    assert w.count("processing") == 1
    w.at(100)
    w.turn()
    assert (w.count("ready"), w.count("processing")) == (1, 0)
    assert [getattr(event, "cause", None) for event in w.events[2:]] == [how]


def test_who_began_to_wait_in_a_refused_turn_does_not_sleep_beside_a_ready_task() -> None:
    """L4. Ann took the only task, so Bob began to wait; then nothing of it had happened, and the task is ready."""
    w = World()
    w.say(Enqueue("jobs", b"only"))
    (ann,) = w.ask(FakeClient("ann"), fetch("jobs"))
    (bob,) = w.ask(FakeClient("bob"), blocking("jobs"))
    refused_turn(w)
    assert code(ann.outcome) == "IOERR"
    w.turn()
    assert not is_waiting(bob)
    assert code(bob.outcome) == "IOERR" if w.count("ready") else payloads(bob) == [b"only"]


def test_who_began_to_wait_in_a_refused_turn_behind_a_refused_pause_is_not_forgotten() -> None:
    w = World()
    w.say(Enqueue("jobs", b"only"))
    w.ask(None, Pause("jobs"))
    (bob,) = w.ask(FakeClient("bob"), blocking("jobs"))
    refused_turn(w)
    w.turn()
    assert not is_waiting(bob)


def test_a_refused_resume_leaves_the_queue_paused_and_a_later_one_serves() -> None:
    w = World()
    w.say(Pause("jobs"), Enqueue("jobs", b"a"))
    first, second = w.wait("jobs", name="first"), w.wait("jobs", name="second")
    w.ask(None, Resume("jobs"))
    assert refused_turn(w) == ["IOERR", "IOERR"]
    assert code(first.outcome) == "IOERR"
    assert is_waiting(second)
    w.say(Resume("jobs"))
    assert payloads(second) == [b"a"]
