"""One turn: everything that arrived, in order, in one batch with one commit, and answers only after it (I13)."""

import pytest

from moxy.backends.base import Done
from moxy.core.answers import AckResult, Names, QueueStats
from moxy.core.commands import (
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Info,
    ListQueues,
    Pause,
    ReadPolicy,
    Show,
    Stats,
)
from moxy.core.events import Acked, Enqueued, Leased
from tests.service.support import (
    NONCE,
    T0,
    FakeClient,
    World,
    ack,
    ack_many,
    answer,
    blocking,
    code,
    fetch,
    payloads,
    plain_fetch,
)


def test_a_task_goes_in_comes_out_and_is_acked() -> None:
    w = World()
    assert w.say(Enqueue("jobs", b"hello")) == [f"1-{NONCE}"]
    (task,) = w.say(plain_fetch(lease_ms=30_000))
    assert (task.lease_id, task.task_id, task.payload) == (f"jobs:1:1:{NONCE}", f"1-{NONCE}", b"hello")
    assert task.deadline_ms == T0 + 30_000
    assert w.say(Stats("jobs")) == QueueStats(ready=0, processing=1, dead=0, active_leases=1, heap=1)
    assert w.say(ack(task)) is None
    assert w.say(Stats("jobs")) == QueueStats(0, 0, 0, 0, 0)
    assert [type(event) for event in w.events] == [Enqueued, Leased, Acked]


def test_requests_are_answered_in_the_order_in_which_they_came() -> None:
    w = World()
    ann, bob = FakeClient("ann"), FakeClient("bob")
    asked = [
        *w.ask(ann, Enqueue("jobs", b"a"), plain_fetch()),
        *w.ask(bob, Stats("jobs"), fetch("jobs", "more"), ListQueues("*", 10, "")),
        *w.ask(ann, EnqueueMany("more", (b"b", b"c")), ack_many(f"jobs:1:1:{NONCE}")),
        *w.ask(bob, fetch("jobs", "more", count=5), Stats("jobs")),
    ]
    turn = w.turn()
    assert turn.answered == asked
    assert payloads(asked[1]) == [b"a"]
    assert answer(asked[2]) == QueueStats(0, 1, 0, 1, 1)
    assert answer(asked[3]) is None
    assert answer(asked[4]) == Names("", ["jobs"])
    assert answer(asked[6]) == [AckResult()]
    assert payloads(asked[7]) == [b"b", b"c"]
    assert answer(asked[8]) == QueueStats(0, 0, 0, 0, 0)


def test_each_request_sees_what_those_before_it_in_the_batch_did() -> None:
    w = World()
    requests = w.ask(None, Stats("jobs"), Enqueue("jobs", b"a"), Stats("jobs"), Delete("jobs", f"1-{NONCE}"))
    requests += w.ask(None, Stats("jobs"))
    w.turn()
    assert [answer(requests[i]).ready for i in (0, 2, 4)] == [0, 1, 0]


def test_a_batch_has_one_commit_and_it_is_the_last_thing() -> None:
    w = World()
    w.say(Enqueue("jobs", b"due", delay_ms=5))
    w.backend.log.clear()
    w.at(5).ask(None, *[Enqueue("jobs", b"%d" % i) for i in range(50)], fetch("jobs"), ListQueues("*", 10, ""))
    w.ask(None, ack_many(f"jobs:1:1:{NONCE}"))
    w.turn()
    assert w.backend.log.count("commit") == 1
    assert w.backend.log[-1] == "commit"


def test_due_work_is_committed_in_the_turn_that_did_it() -> None:
    w = World()
    w.say(Enqueue("jobs", b"due", delay_ms=5))
    w.backend.log.clear()
    assert [type(event).__name__ for event in w.at(5).turn().events] == ["Matured"]
    assert w.backend.log == ["expire", "commit"]


def test_no_answer_and_no_event_leaves_before_the_commit_returned() -> None:
    """I13, reads included: a turn that awaits its commit has handed out nothing."""
    w = World()
    w.backend.suspends = True
    w.ask(None, Enqueue("jobs", b"a"), Stats("jobs"), plain_fetch())
    turn = w.service.turn()
    assert turn.send(None) == "suspended"  # in the commit, which has not returned
    assert "commit" not in w.backend.log
    with pytest.raises(StopIteration) as end:
        turn.send(None)
    assert w.backend.log[-1] == "commit"
    assert len(end.value.value.answered) == 3
    assert len(end.value.value.events) == 2


def test_what_arrives_during_a_commit_belongs_to_the_next_turn() -> None:
    w = World()
    w.backend.suspends = True
    (first,) = w.ask(None, Enqueue("jobs", b"a"))
    turn = w.service.turn()
    turn.send(None)
    assert not w.service.has_work
    (second,) = w.ask(None, plain_fetch())
    assert w.service.has_work
    with pytest.raises(StopIteration) as end:
        turn.send(None)
    assert end.value.value.answered == [first]
    assert second.outcome is None
    w.backend.suspends = False
    assert w.turn().answered == [second]
    assert payloads(second) == [b"a"]


def test_a_client_that_goes_during_the_commit_gives_its_lease_back_uncharged() -> None:
    w = World()
    w.say(Enqueue("jobs", b"a"))
    w.backend.suspends = True
    worker = FakeClient("worker")
    w.ask(worker, fetch("jobs", bound=True))
    turn = w.service.turn()
    turn.send(None)
    w.leave(worker)
    with pytest.raises(StopIteration):
        turn.send(None)
    w.backend.suspends = False
    w.turn()
    shown = w.say(Show("jobs", f"1-{NONCE}"))
    assert (shown.state, shown.attempts, shown.releases, shown.disconnects) == ("ready", 0, 1, 0)
    assert w.leftovers() == {}


def test_a_turn_with_nothing_to_do_answers_nothing() -> None:
    w = World()
    turn = w.turn()
    assert (turn.answered, turn.events) == ([], [])


def test_a_turn_hands_out_its_own_events_only() -> None:
    w = World()
    w.ask(None, Enqueue("jobs", b"a"))
    assert [event.seq for event in w.turn().events] == [1]
    w.ask(None, Enqueue("jobs", b"b"), Enqueue("more", b"c"))
    assert [(event.queue, event.seq) for event in w.turn().events] == [("jobs", 2), ("more", 1)]
    assert w.turn().events == []


def test_refused_and_reading_requests_have_no_events() -> None:
    """I12."""
    w = World()
    w.say(Enqueue("jobs", b"a"))
    before = w.backend.memory.state_of("jobs")
    w.ask(None, Stats("jobs"), Info("jobs"), ReadPolicy("jobs"), Show("jobs", "x"), ack(f"jobs:1:7:{NONCE}"))
    w.ask(None, ListQueues("*", 10, ""), ack_many(f"jobs:1:7:{NONCE}"), fetch("nowhere"), plain_fetch("nowhere"))
    turn = w.turn()
    assert turn.events == []
    assert len(turn.answered) == 9
    assert w.backend.memory.state_of("jobs") is before


def test_a_refusal_does_not_disturb_its_neighbours() -> None:
    w = World()
    requests = w.ask(None, Enqueue("jobs", b"a"), ack(f"jobs:9:9:{NONCE}"), Enqueue("jobs", b"b"))
    w.turn()
    assert code(answer(requests[1])) == "NOLEASE"
    assert w.count("ready") == 2


# A client that is gone before its turn


@pytest.mark.parametrize("intent", [plain_fetch(), fetch("jobs"), blocking("jobs")], ids=["plain", "count", "block"])
def test_who_is_gone_before_the_turn_leases_nothing_but_its_enqueue_happens(intent: object) -> None:
    w = World()
    w.say(Enqueue("jobs", b"there"))
    gone = FakeClient("gone")
    w.ask(gone, Enqueue("jobs", b"mine"), intent)  # type: ignore[arg-type]
    w.leave(gone)
    turn = w.turn()
    assert [type(event) for event in turn.events] == [Enqueued]
    assert (w.count("ready"), w.count("processing")) == (2, 0)
    assert w.service.blocked == 0
    assert w.leftovers() == {}


def test_the_ack_of_who_is_gone_before_the_turn_counts() -> None:
    w = World()
    worker = FakeClient("worker")
    (task,) = w.say(Enqueue("jobs", b"a"), fetch("jobs", bound=True), by=worker)
    w.ask(worker, ack(task))
    w.leave(worker)
    assert [type(event) for event in w.turn().events] == [Acked]
    assert w.leftovers() == {}


# Over several queues


def test_a_fetch_fills_its_count_over_the_queues_in_their_order() -> None:
    w = World()
    w.ask(None, EnqueueMany("b", (b"b1", b"b2")), EnqueueMany("c", (b"c1", b"c2")), Enqueue("a", b"a1"))
    (request,) = w.ask(None, fetch("c", "nothing", "a", "b", count=4))
    w.turn()
    assert payloads(request) == [b"c1", b"c2", b"a1", b"b1"]


def test_a_fetch_goes_round_a_paused_queue() -> None:
    w = World()
    w.ask(None, Enqueue("a", b"a1"), Enqueue("b", b"b1"), Pause("a"))
    (request,) = w.ask(None, fetch("a", "b", count=2))
    w.turn()
    assert payloads(request) == [b"b1"]


# MACK


def test_mack_answers_for_each_lease_by_itself() -> None:
    w = World()
    a, b = w.say(EnqueueMany("jobs", (b"a", b"b")), fetch("jobs", count=2))
    (c,) = w.say(Enqueue("more", b"c"), fetch("more"))
    results = w.say(ack_many(a, ("NOLEASE", "that is not a lease id"), f"jobs:1:9:{NONCE}", c, b, a))
    assert [result.code for result in results] == ["", "NOLEASE", "NOLEASE", "", "", "NOLEASE"]
    assert all(result.text for result in results if result.code)
    assert [type(event) for event in w.events[-3:]] == [Acked] * 3
    assert (w.count("processing"), w.count("processing", "more")) == (0, 0)


# QUEUES


def test_queues_pages_through_every_queue_once_while_others_are_created() -> None:
    w = World()
    there = {f"q{i:03}" for i in range(0, 100, 2)}
    w.ask(None, *[Enqueue(name, b"") for name in there])
    w.turn()
    seen: list[str] = []
    cursor, created = "", 0
    for _ in range(50):
        page = w.say(ListQueues("*", 7, cursor))
        assert len(page.names) <= 7
        seen += page.names
        cursor = page.cursor
        if not cursor:
            break
        w.ask(None, *[Enqueue(f"q{i:03}", b"") for i in range(created, 100, 20)], Enqueue(f"a{created}", b""))
        created += 3
    assert len(seen) == len(set(seen)), "a queue was listed twice"
    assert there <= set(seen), "a queue was left out"
    assert len(seen) > len(there), "the test was to create queues between pages"


def test_queues_on_a_server_without_any_is_one_empty_page() -> None:
    assert World().say(ListQueues("*", 10, "")) == Names("", [])


def test_the_last_page_has_no_cursor_even_when_it_is_full() -> None:
    w = World()
    w.ask(None, Enqueue("a", b""), Enqueue("b", b""))
    w.turn()
    assert w.say(ListQueues("*", 2, "")) == Names("", ["a", "b"])
    assert w.say(ListQueues("*", 1, "")) == Names("a", ["a"])
    assert w.say(ListQueues("*", 1, "a")) == Names("", ["b"])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a*b", "h^llo", "hallo", "hello", "jobs:1", "jobs:2"]),
        ("hello", ["hello"]),
        ("hell", []),
        ("ello", []),
        ("jobs:*", ["jobs:1", "jobs:2"]),
        ("h?llo", ["h^llo", "hallo", "hello"]),
        ("h[ae]llo", ["hallo", "hello"]),
        ("jobs:[2-9]", ["jobs:2"]),
        ("JOBS:*", []),
        ("", []),
    ],
)
def test_queues_match_a_glob(pattern: str, expected: list[str]) -> None:
    w = World()
    w.ask(None, *[Enqueue(name, b"") for name in ("hello", "hallo", "h^llo", "jobs:1", "jobs:2", "a*b")])
    w.turn()
    assert w.say(ListQueues(pattern, 100, "")).names == expected


@pytest.mark.parametrize(
    ("pattern", "expected"), [("h[^e]llo", ["h^llo", "hallo"]), (r"a\*b", ["a*b"]), (r"h\?llo", [])]
)
def test_a_glob_means_what_it_means_to_a_user_of_redis(pattern: str, expected: list[str]) -> None:
    """KEYS and SCAN: `[^e]` is anything but e, and a backslash takes the meaning from what follows it."""
    w = World()
    w.ask(None, *[Enqueue(name, b"") for name in ("hello", "hallo", "h^llo", "a*b", "axb")])
    w.turn()
    assert w.say(ListQueues(pattern, 100, "")).names == expected


def test_match_looks_at_count_names_and_the_cursor_goes_on_over_misses() -> None:
    w = World()
    w.ask(None, *[Enqueue(f"q{i}", b"") for i in range(9)])
    w.turn()
    pages: list[list[str]] = []
    cursor = ""
    while (not pages or cursor) and len(pages) < 9:
        page = w.say(ListQueues("q8", 3, cursor))
        pages.append(page.names)
        cursor = page.cursor
    assert pages == [[], [], ["q8"]]


# INFO


def test_info_tells_totals_since_birth_and_since_start() -> None:
    w = World()
    (task,) = w.say(EnqueueMany("jobs", (b"a", b"b")), plain_fetch())
    info = w.say(ack(task), Info("jobs"))
    for what, n in {"enqueued": 2, "leased": 1, "acked": 1, "expired": 0, "dead_lettered": 0}.items():
        assert info[f"total_{what}"] == n
        assert info[f"since_start_{what}"] == n
    totals = {key.removeprefix("total_") for key in info if key.startswith("total_")}
    assert {key.removeprefix("since_start_") for key in info if key.startswith("since_start_")} == totals
    assert (info["ready"], info["processing"], info["last_seq"]) == (1, 0, 4)


def test_info_of_an_unknown_queue_is_zeros_and_creates_nothing() -> None:
    w = World()
    info = w.say(Info("nowhere"))
    assert {info[key] for key in info if key.startswith(("total_", "since_start_"))} == {0}
    assert info["last_seq"] == 0
    assert w.say(ListQueues("*", 10, "")).names == []


def test_a_policy_is_read_back_as_it_was_set() -> None:
    w = World()
    w.say(Configure("jobs", (("max_attempts", 3), ("ttl_ms", 500))))
    policy = w.say(ReadPolicy("jobs"))
    assert (policy["max_attempts"], policy["ttl_ms"], policy["lease_ms"]) == (3, 500, 30_000)


def test_the_answer_of_a_request_is_a_done_with_the_events_it_made() -> None:
    w = World()
    (request,) = w.ask(None, Enqueue("jobs", b"a"))
    turn = w.turn()
    assert isinstance(request.outcome, Done)
    assert list(request.outcome.events) == turn.events
