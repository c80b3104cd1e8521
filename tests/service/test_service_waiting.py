"""Blocked fetches: who is served, in which order, by what, and when they give up (L4, L5)."""

from collections.abc import Callable

import pytest

from moxy.core.commands import (
    UNSET,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    FetchAny,
    Intent,
    Pause,
    Purge,
    ReadEvents,
    Redrive,
    Resume,
    Show,
)
from moxy.core.events import Leased
from moxy.requests import Request
from tests.service.support import (
    NONCE,
    FakeClient,
    World,
    ack,
    answer,
    blocking,
    fetch,
    is_waiting,
    nack,
    payloads,
    plain_fetch,
)

FIRST = f"1-{NONCE}"


# First come, first served


def test_waiters_are_served_in_the_order_in_which_they_came() -> None:
    w = World()
    ann, bob, cid = (w.wait("jobs", name=name) for name in ("ann", "bob", "cid"))
    w.say(EnqueueMany("jobs", (b"1", b"2")))
    assert (payloads(ann), payloads(bob), is_waiting(cid)) == ([b"1"], [b"2"], True)
    dan = w.wait("jobs", name="dan")
    w.say(Enqueue("jobs", b"3"))
    assert (payloads(cid), is_waiting(dan)) == ([b"3"], True)
    w.say(Enqueue("jobs", b"4"))
    assert payloads(dan) == [b"4"]
    assert w.service.blocked == 0
    assert w.leftovers() == {}


def test_waiters_of_one_batch_stand_in_the_order_of_the_batch() -> None:
    w = World()
    requests = [w.ask(FakeClient(), blocking("jobs"))[0] for _ in range(5)]
    w.ask(None, *[Enqueue("jobs", b"%d" % i) for i in range(5)])
    turn = w.turn()
    assert [payloads(request) for request in requests] == [[b"%d" % i] for i in range(5)]
    assert [request for request in turn.answered if request in requests] == requests


def test_a_fetch_of_the_same_turn_does_not_overtake_one_that_waits() -> None:
    w = World()
    (ann,) = w.ask(FakeClient("ann"), blocking("jobs"))
    w.ask(None, Enqueue("jobs", b"a"))
    (bob,) = w.ask(FakeClient("bob"), plain_fetch("jobs"))
    (cid,) = w.ask(FakeClient("cid"), blocking("jobs"))
    w.turn()
    assert (payloads(ann), payloads(bob), is_waiting(cid)) == ([b"a"], [], True)


def test_fetches_with_options_and_other_commands_are_one_question_to_the_backend() -> None:
    w = World()
    for name in ("ann", "bob", "cid"):
        w.ask(FakeClient(name), Enqueue("jobs", b"x"), fetch("jobs"))
    w.ask(FakeClient("dan"), blocking("other"))
    w.turn()
    assert w.backend.log.count("execute") == 1


def test_a_fetch_that_finds_something_does_not_wait() -> None:
    w = World()
    w.say(Enqueue("b", b"b1"))
    (request,) = w.ask(None, blocking("a", "b", count=9))
    w.turn()
    assert payloads(request) == [b"b1"]
    assert w.service.blocked == 0


def test_a_waiter_is_answered_before_the_requests_that_follow_what_woke_it() -> None:
    w = World()
    waiter = w.wait("jobs")
    enqueue, stats = w.ask(None, Enqueue("jobs", b"a"), Show("jobs", FIRST))
    assert w.turn().answered == [enqueue, waiter, stats]
    assert answer(stats).state == "processing"


NEWCOMERS = {
    "FETCH": plain_fetch(),
    "FETCH COUNT 1": fetch("jobs"),
    "FETCH BLOCK 0": blocking("jobs"),
    "FETCH WITH": fetch("other", "jobs", count=5),
}
newcomers = pytest.mark.parametrize("newcomer", NEWCOMERS.values(), ids=NEWCOMERS.keys())


def has_nothing(request: Request) -> bool:
    return is_waiting(request) or not payloads(request)


@newcomers
def test_an_earlier_waiter_comes_before_a_later_fetch_of_the_batch_that_enqueues(newcomer: Intent) -> None:
    w = World()
    waiter = w.wait("jobs")
    late = w.ask(FakeClient("late"), Enqueue("jobs", b"only"), newcomer)[1]
    w.turn()
    assert payloads(waiter) == [b"only"]
    assert has_nothing(late)


@newcomers
def test_a_waiter_of_the_same_batch_comes_before_a_later_fetch(newcomer: Intent) -> None:
    w = World()
    (waiter,) = w.ask(FakeClient("waiter"), blocking("jobs"))
    late = w.ask(FakeClient("late"), Enqueue("jobs", b"only"), newcomer)[1]
    w.turn()
    assert payloads(waiter) == [b"only"]
    assert has_nothing(late)


@newcomers
def test_an_earlier_waiter_comes_before_a_later_fetch_when_a_task_matures(newcomer: Intent) -> None:
    """The FETCH does the due work of its queue first: what that makes ready belongs to who waited longest."""
    w = World()
    w.say(Enqueue("jobs", b"only", delay_ms=50))
    waiter = w.wait("jobs")
    (late,) = w.at(50).ask(FakeClient("late"), newcomer)
    w.turn()
    assert payloads(waiter) == [b"only"]
    assert has_nothing(late)


@newcomers
def test_an_earlier_waiter_comes_before_a_later_fetch_when_a_lease_expires(newcomer: Intent) -> None:
    w = World()
    w.say(Enqueue("jobs", b"only"), plain_fetch(lease_ms=50))
    waiter = w.wait("jobs")
    (late,) = w.at(50).ask(FakeClient("late"), newcomer)
    w.turn()
    assert payloads(waiter) == [b"only"]
    assert has_nothing(late)


@newcomers
def test_an_earlier_waiter_comes_first_however_much_due_work_comes_before_its_task(newcomer: Intent) -> None:
    """1,000 tasks whose TTL is over fill one go of due work; the task that matures is in the next."""
    w = World()
    w.say(*[Enqueue("jobs", b"", delay_ms=100, ttl_ms=50) for _ in range(1000)], Enqueue("jobs", b"only", delay_ms=50))
    waiter = w.wait("jobs")
    (late,) = w.at(50).ask(FakeClient("late"), newcomer)
    w.turn()
    w.turn()
    assert payloads(waiter) == [b"only"]
    assert has_nothing(late)


def test_a_waiter_over_two_queues_does_not_overtake_in_the_other_one() -> None:
    """Bob is woken by his second queue; what becomes due in the first one belongs to Ann, who came before him."""
    w = World()
    w.say(Enqueue("a", b"a1", delay_ms=50))
    ann, bob = w.wait("a", name="ann"), w.wait("a", "b", name="bob")
    w.at(50).say(Enqueue("b", b"b1"))
    assert (payloads(ann), payloads(bob)) == ([b"a1"], [b"b1"])


# Several queues, and counts


def test_a_waiter_over_several_queues_is_woken_by_any_and_leaves_all() -> None:
    w = World()
    for queue in ("a", "b", "c"):
        waiter = w.wait("a", "b", "c")
        w.say(Enqueue(queue, queue.encode()))
        assert payloads(waiter) == [queue.encode()]
        assert w.leftovers() == {}


def test_a_woken_waiter_tries_its_queues_in_their_order() -> None:
    w = World()
    w.ask(None, Pause("first"), Enqueue("first", b"f"))
    waiter = w.wait("first", "second", count=2)
    w.say(Resume("first"))
    assert payloads(waiter) == [b"f"]
    w.ask(None, Pause("first"), Enqueue("first", b"f2"))
    w.turn()
    waiter = w.wait("first", "second", count=2)
    w.say(EnqueueMany("second", (b"s1", b"s2", b"s3")))
    assert payloads(waiter) == [b"s1", b"s2"]


def test_a_woken_waiter_fills_its_count_over_queues_that_became_ready_together() -> None:
    w = World()
    w.say(Enqueue("a", b"a1", delay_ms=50), Enqueue("b", b"b1", delay_ms=50))
    waiter = w.wait("b", "a", count=2)
    w.at(50).turn()
    assert payloads(waiter) == [b"b1", b"a1"]


def test_a_woken_waiter_takes_up_to_its_count_and_the_next_takes_the_rest() -> None:
    w = World()
    ann, bob, cid = (w.wait("jobs", count=3, name=name) for name in ("ann", "bob", "cid"))
    w.say(EnqueueMany("jobs", (b"1", b"2", b"3", b"4")))
    assert (payloads(ann), payloads(bob), is_waiting(cid)) == ([b"1", b"2", b"3"], [b"4"], True)


def test_each_of_two_lines_keeps_its_own_order() -> None:
    w = World()
    ann, bob, cid = w.wait("a", name="ann"), w.wait("b", "a", name="bob"), w.wait("b", name="cid")
    w.say(Enqueue("b", b"1"))
    assert (is_waiting(ann), payloads(bob), is_waiting(cid)) == (True, [b"1"], True)
    w.say(Enqueue("b", b"2"), Enqueue("a", b"3"))
    assert (payloads(ann), payloads(cid)) == ([b"3"], [b"2"])
    assert w.leftovers() == {}


def test_what_a_waiter_gets_is_a_lease_like_any_other() -> None:
    w = World()
    (waiter,) = w.ask(None, FetchAny(("jobs",), 700, 1, 0, worker="me"))
    w.turn()
    w.at(300).say(Enqueue("jobs", b"a"))
    (task,) = answer(waiter)
    assert task.deadline_ms == w.clock.ms + 700, "the timeout counts from the leasing, not from the asking"
    assert [event.worker for event in w.events if isinstance(event, Leased)] == ["me"]
    assert w.say(ack(task)) is None


# What wakes


def enqueue(w: World) -> Callable[[], object]:
    return lambda: w.say(Enqueue("jobs", b"x"))


def enqueue_many(w: World) -> Callable[[], object]:
    return lambda: w.say(EnqueueMany("jobs", (b"x",)))


def mature(w: World) -> Callable[[], object]:
    w.say(Enqueue("jobs", b"x", delay_ms=50))
    return lambda: w.at(50).turn()


def release(w: World) -> Callable[[], object]:
    (task,) = w.say(Enqueue("jobs", b"x"), plain_fetch())
    return lambda: w.say(nack(task, "release"))


def disconnect(w: World) -> Callable[[], object]:
    worker = FakeClient("worker")
    w.say(Enqueue("jobs", b"x"), fetch("jobs", bound=True), by=worker)

    def act() -> None:
        w.leave(worker)
        w.turn()

    return act


def undelivered(w: World) -> Callable[[], object]:
    (task,) = w.say(Enqueue("jobs", b"x"), plain_fetch())

    def act() -> None:
        w.service.undelivered([task.lease_id])
        w.turn()

    return act


def requeue(w: World) -> Callable[[], object]:
    (task,) = w.say(Enqueue("jobs", b"x"), plain_fetch())
    return lambda: w.say(nack(task))


def redrive(w: World) -> Callable[[], object]:
    (task,) = w.say(Enqueue("jobs", b"x"), plain_fetch())
    w.say(nack(task, "fatal"))
    return lambda: w.say(Redrive("jobs"))


def resume(w: World) -> Callable[[], object]:
    w.say(Pause("jobs"), Enqueue("jobs", b"x"))
    return lambda: w.say(Resume("jobs"))


def expiry(w: World) -> Callable[[], object]:
    w.say(Enqueue("jobs", b"x"), plain_fetch(lease_ms=50))
    return lambda: w.at(50).turn()


@pytest.mark.parametrize(
    "prepare", [enqueue, enqueue_many, mature, release, disconnect, undelivered, requeue, redrive, resume, expiry]
)
def test_a_waiter_is_woken_by(prepare: Callable[[World], Callable[[], object]]) -> None:
    w = World()
    act = prepare(w)
    waiter = w.wait("jobs", block_ms=1000)
    w.turn()
    assert is_waiting(waiter)
    act()
    assert payloads(waiter) == [b"x"]
    assert w.service.blocked == 0


def test_a_waiter_is_not_answered_by_what_makes_nothing_ready() -> None:
    w = World()
    a, b = w.say(EnqueueMany("jobs", (b"a", b"b")), fetch("jobs", count=2))
    waiter = w.wait("jobs")
    w.ask(None, Enqueue("jobs", b"later", delay_ms=50), Enqueue("other", b"elsewhere"), Configure("jobs", ()))
    w.ask(None, nack(a, "fatal"), nack(b, delay_ms=60), Pause("jobs"), Resume("jobs"), Purge("jobs", "dead"))
    w.ask(None, Delete("jobs", "unknown"), Enqueue("jobs", b"gone", task_id="it", delay_ms=5), Delete("jobs", "it"))
    w.turn()
    w.at(49).turn()
    assert is_waiting(waiter)
    w.at(50).turn()
    assert payloads(waiter) == [b"later"]


def test_a_waiter_is_not_answered_by_a_task_whose_ttl_is_over_when_it_would_mature() -> None:
    w = World()
    w.say(Enqueue("jobs", b"x", delay_ms=50, ttl_ms=50))
    waiter = w.wait("jobs")
    w.at(50).turn()
    assert is_waiting(waiter)
    assert w.count("dead") == 1


# Giving up


def test_a_waiter_gives_up_exactly_when_its_time_is_up() -> None:
    w = World()
    waiter = w.wait("jobs", block_ms=100)
    assert w.wake_after_ms() == 100
    w.at(99).turn()
    assert is_waiting(waiter)
    assert w.at(100).turn().answered == [waiter]
    assert answer(waiter) is None
    assert w.wake_after_ms() is None
    assert w.leftovers() == {}


def test_waiters_give_up_in_the_order_of_their_times() -> None:
    w = World()
    ann, bob, cid = (w.wait("jobs", block_ms=ms, name=name) for ms, name in ((300, "ann"), (100, "bob"), (200, "cid")))
    assert w.wake_after_ms() == 100
    assert w.at(250).turn().answered == [bob, cid]
    assert is_waiting(ann)
    assert w.wake_after_ms() == 300


def test_the_time_of_a_waiter_counts_from_its_own_turn() -> None:
    w = World()
    w.at(70).wait("jobs", block_ms=100)
    assert w.wake_after_ms() == 170


def test_block_0_waits_for_ever() -> None:
    w = World()
    waiter = w.wait("jobs", block_ms=0)
    assert w.wake_after_ms() is None
    w.at(400 * 24 * 60 * 60 * 1000).turn()
    assert is_waiting(waiter)
    w.say(Enqueue("jobs", b"at last"))
    assert payloads(waiter) == [b"at last"]


def test_a_fetch_without_block_never_waits() -> None:
    w = World()
    assert w.say(FetchAny(("jobs",), 100, 5, UNSET)) is None
    assert w.service.blocked == 0


def test_a_task_that_comes_at_the_last_moment_is_still_delivered() -> None:
    w = World()
    w.say(Enqueue("jobs", b"matured", delay_ms=100))
    ann, bob = w.wait("jobs", block_ms=100), w.wait("jobs", block_ms=100)
    w.at(100).say(Enqueue("jobs", b"enqueued"))
    assert {answer(request)[0].payload for request in (ann, bob)} == {b"matured", b"enqueued"}


def test_who_gave_up_gets_nothing_afterwards() -> None:
    w = World()
    w.wait("jobs", block_ms=100)
    w.at(100).turn()
    w.say(Enqueue("jobs", b"x"))
    assert (w.count("ready"), w.count("processing")) == (1, 0)


def test_a_client_can_wait_again_after_giving_up() -> None:
    w = World()
    client = FakeClient("again")
    w.ask(client, blocking("jobs", block_ms=100))
    w.turn()
    w.at(100).turn()
    (second,) = w.ask(client, blocking("jobs", block_ms=100))
    w.turn()
    assert w.wake_after_ms() == 200
    w.say(Enqueue("jobs", b"x"))
    assert payloads(second) == [b"x"]
    assert w.leftovers() == {}


# Pauses (L5)


def test_a_paused_queue_keeps_its_waiters_and_serves_them_in_order_when_resumed() -> None:
    w = World()
    ann = w.wait("jobs", name="ann")
    w.say(Pause("jobs"))
    bob, cid = w.wait("jobs", name="bob"), w.wait("jobs", block_ms=500, name="cid")
    w.say(EnqueueMany("jobs", (b"1", b"2")))
    w.at(400).turn()
    assert all(is_waiting(request) for request in (ann, bob, cid))
    w.say(Resume("jobs"))
    assert (payloads(ann), payloads(bob), is_waiting(cid)) == ([b"1"], [b"2"], True)
    w.at(500).turn()
    assert answer(cid) is None


def test_a_waiter_of_a_paused_queue_gives_up_in_time_although_tasks_are_ready() -> None:
    w = World()
    w.say(Pause("jobs"), Enqueue("jobs", b"x"))
    waiter = w.wait("jobs", block_ms=100)
    w.at(100).turn()
    assert answer(waiter) is None


def test_due_work_goes_on_while_paused_and_its_result_is_there_at_resume() -> None:
    w = World()
    w.say(Enqueue("jobs", b"leased"), plain_fetch(lease_ms=50))
    w.say(Enqueue("jobs", b"delayed", delay_ms=60), Pause("jobs"))
    waiter = w.wait("jobs", count=5)
    w.at(60).turn()
    assert is_waiting(waiter)
    assert w.count("ready") == 2
    w.say(Resume("jobs"))
    assert payloads(waiter) == [b"leased", b"delayed"]


# Clients that are gone


def test_a_waiter_whose_client_is_gone_is_dropped_before_anything_is_leased() -> None:
    w = World()
    gone, there = w.wait("jobs", name="gone"), w.wait("jobs", name="there")
    w.leave(gone.client)
    assert w.service.blocked == 1
    w.say(Enqueue("jobs", b"x"))
    assert is_waiting(gone)
    assert payloads(there) == [b"x"]
    assert [event.token for event in w.events if isinstance(event, Leased)] == [1]
    assert w.leftovers() == {}


def test_a_client_known_to_be_closed_gets_no_lease_even_before_the_service_was_told() -> None:
    w = World()
    gone = w.wait("jobs", "more", name="gone")
    assert isinstance(gone.client, FakeClient)
    gone.client.closed = True
    w.say(Enqueue("jobs", b"x"))
    assert (w.count("ready"), w.count("processing")) == (1, 0)
    w.service.disconnected(gone.client)
    assert w.leftovers() == {}


def test_the_time_of_a_gone_waiter_is_not_kept() -> None:
    w = World()
    gone = w.wait("jobs", "more", block_ms=100)
    w.leave(gone.client)
    assert w.wake_after_ms() is None
    assert w.at(100).turn().answered == []
    assert w.leftovers() == {}


def test_who_leaves_in_the_turn_in_which_the_task_comes_leaves_it_ready() -> None:
    w = World()
    gone = w.wait("jobs")
    w.ask(None, Enqueue("jobs", b"x"))
    w.leave(gone.client)
    w.turn()
    assert (w.count("ready"), w.count("processing")) == (1, 0)


def test_a_client_may_go_while_a_task_is_being_leased_for_its_waiter() -> None:
    """A backend far away takes its time to execute: a client can close in the middle of it."""
    w = World()
    w.say(Enqueue("jobs", b"x", delay_ms=50))
    gone = w.wait("jobs")
    w.backend.during_execute = lambda: w.leave(gone.client)
    w.at(50).turn()
    w.turn()
    shown = w.say(Show("jobs", FIRST))
    assert (shown.state, shown.attempts, shown.releases) == ("ready", 0, 1)
    assert w.leftovers() == {}


def test_a_client_may_go_while_its_blocking_fetch_is_being_tried() -> None:
    w = World()
    gone = FakeClient("gone")
    w.ask(gone, blocking("jobs"))
    w.backend.during_execute = lambda: w.leave(gone)
    w.turn()
    assert w.service.blocked == 0
    assert w.leftovers() == {}


# Nothing is left behind


def test_a_thousand_waiters_come_and_go_and_leave_nothing_behind() -> None:
    w = World()
    queues = [f"q{i}" for i in range(10)]
    served = [w.ask(None, blocking(queues[i % 10], queues[(i * 3 + 1) % 10]))[0] for i in range(0, 500, 2)]
    timed = [w.ask(None, blocking(queues[i % 10], block_ms=10 + i))[0] for i in range(250)]
    gone = [w.ask(FakeClient(), blocking(queues[i % 10], block_ms=i))[0] for i in range(500)]
    w.turn()
    assert w.service.blocked == 1000
    for request in gone:
        w.leave(request.client)
    w.at(1000).turn()
    assert all(answer(request) is None for request in timed)
    for queue in queues:
        w.say(EnqueueMany(queue, (b"x",) * 100))
    assert all(len(answer(request)) == 1 for request in served)
    assert w.service.blocked == 0
    assert w.leftovers() == {}


def reader_of(w: World, queue: str, name: str) -> Request:
    """A client that waits for the next event of a queue."""
    (reader,) = w.ask(FakeClient(name), ReadEvents(queue, 1, 10, 0))
    w.turn()
    assert is_waiting(reader)
    return reader


@pytest.mark.parametrize("queue", ["jobs", "mail"])
@pytest.mark.parametrize("goes", [0, 1])
def test_a_reader_may_go_while_events_are_being_read_for_one(queue: str, goes: int) -> None:
    """From a backend far away they take their time: a client can close in the middle of it, the one that they are read
    for, or one that is next, of the same queue or of another."""
    w = World()
    readers = [reader_of(w, "jobs", "ann"), reader_of(w, queue, "bob")]
    w.backend.during_events = lambda: w.leave(readers[goes].client)
    w.say(Enqueue("jobs", b"x"), Enqueue("mail", b"y"))
    assert w.backend.during_events is None, "nobody left"
    assert is_waiting(readers[goes])
    assert len(answer(readers[1 - goes]).events) == 1
    assert w.service.blocked == 0
    assert w.leftovers() == {}
