"""Queues in memory: many of them, each cheap, and none made by looking."""

from collections.abc import Callable
from typing import Any

import pytest

from moxy.backends.base import Done, Outcome
from moxy.backends.memory import MemoryBackend
from moxy.core.answers import Past
from moxy.core.commands import (
    AnyCommand,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    Info,
    ListQueues,
    Pause,
    Peek,
    Purge,
    ReadEvents,
    ReadPolicy,
    Redrive,
    Resume,
    Show,
    Stats,
    Tick,
)
from moxy.core.events import AnyEvent, Enqueued, QueueConfigured, QueuePaused
from moxy.core.policy import Policy
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from tests.forms import parts
from tests.service.support import NONCE, T0, CountingIds, FakeClock, ZeroIds, ack, drive, nack

FIRST = f"1-{NONCE}"
ALL = ListQueues("*", 1000, "")


class Queues:
    """A backend in memory with a clock."""

    def __init__(self, policy: Policy | None = None, ids: ZeroIds | CountingIds | None = None) -> None:
        self.clock = FakeClock()
        self.backend = MemoryBackend(self.clock, ids or ZeroIds(), policy)

    def outcomes(self, *commands: AnyCommand) -> list[Outcome]:
        return drive(self.backend.execute(commands))

    def do(self, *commands: AnyCommand) -> Any:
        """Carry out; the answer of the last one."""
        outcome = self.outcomes(*commands)[-1]
        return outcome.answer if isinstance(outcome, Done) else outcome

    def expire(self, after_ms: int) -> list[AnyEvent]:
        self.clock.ms = T0 + after_ms
        return drive(self.backend.expire())

    def names(self) -> list[str]:
        return drive(self.backend.names(ALL)).names

    def bookkeeping(self) -> dict[str, int]:
        """How much the backend keeps beside the queues' own states."""
        return {name: len(part) for name, part in parts(self.backend).items() if isinstance(part, dict | list | set)}


def test_commands_are_carried_out_in_order_each_seeing_those_before() -> None:
    q = Queues()
    first, stats, fetched, second = q.outcomes(
        Enqueue("jobs", b"a"), Stats("jobs"), Fetch("jobs", 100), Enqueue("jobs", b"b")
    )
    assert isinstance(stats, Done)
    assert stats.answer.ready == 1  # type: ignore[union-attr]
    events = [event for done in (first, fetched, second) for event in done.events]  # type: ignore[union-attr]
    assert [(type(event).__name__, event.seq) for event in events] == [("Enqueued", 1), ("Leased", 2), ("Enqueued", 3)]


def test_the_events_folded_give_the_state() -> None:
    """I10."""
    q = Queues(Policy(max_attempts=2), CountingIds())
    events: list[AnyEvent] = []
    commands: list[AnyCommand] = [EnqueueMany("jobs", (b"a", b"b", b"c")), Fetch("jobs", 50, 2), Pause("jobs")]
    for outcome in q.outcomes(*commands):
        assert isinstance(outcome, Done)
        events += outcome.events
    events += q.expire(50)
    state = QueueState("jobs")
    for event in events:
        state = apply(state, event)
    live = q.backend.state_of("jobs")
    assert (state.seq, state.at_ms, state.totals, state.policy) == (live.seq, live.at_ms, live.totals, live.policy)
    assert dict(state.tasks.items()) == dict(live.tasks.items())
    for order in ("ready", "scheduled", "processing", "dead"):
        assert list(state.order_of(order)) == list(live.order_of(order))
    assert state.totals.expired == 2


def test_numbers_tokens_and_sequences_are_each_queues_own() -> None:
    q = Queues()
    for queue in ("a", "b"):
        assert q.do(Enqueue(queue, b"x")) == [FIRST]
        assert q.do(Fetch(queue, 100))[0].lease_id == f"{queue}:1:1:{NONCE}"
        assert q.backend.state_of(queue).seq == 2


# Looking makes nothing


READS: list[AnyCommand] = [
    Stats("nowhere"),
    Info("nowhere"),
    Peek("nowhere", "ready", 10),
    Show("nowhere", "x"),
    ReadPolicy("nowhere"),
]
NOTHING_TO_DO: list[AnyCommand] = [
    Fetch("nowhere", 100),
    Tick("nowhere"),
    ack(f"nowhere:1:1:{NONCE}"),
    nack(f"nowhere:1:1:{NONCE}"),
    Extend("nowhere", f"nowhere:1:1:{NONCE}", 1, 1, 100),
    Redrive("nowhere"),
    Delete("nowhere", "x"),
    Purge("nowhere", "ready"),
    Resume("nowhere"),
    Configure("nowhere", ()),
    Configure("nowhere", (("max_attempts", 25),)),
]


@pytest.mark.parametrize("command", READS + NOTHING_TO_DO, ids=lambda command: type(command).__name__)
def test_an_unknown_queue_is_not_made_by(command: AnyCommand) -> None:
    q = Queues()
    before = q.bookkeeping()
    (outcome,) = q.outcomes(command)
    assert not isinstance(outcome, Done) or outcome.events == ()
    assert q.names() == []
    assert q.backend.next_due_ms() is None
    assert q.bookkeeping() == before


def test_reads_of_an_unknown_queue_are_zeros_nulls_and_empty_lists() -> None:
    q = Queues()
    stats = q.do(Stats("nowhere"))
    assert [getattr(stats, field) for field in stats.__struct_fields__] == [0, 0, 0, 0, 0]
    assert q.do(Peek("nowhere", "ready", 10)) == []
    assert q.do(Show("nowhere", "x")) is None
    assert q.do(ReadPolicy("nowhere"))["max_attempts"] == 25


@pytest.mark.parametrize("command", [Enqueue("jobs", b""), Pause("jobs"), Configure("jobs", (("lease_ms", 5),))])
def test_a_queue_exists_from_its_first_event_on(command: AnyCommand) -> None:
    q = Queues()
    q.do(command)
    assert q.names() == ["jobs"]


def test_a_refused_enqueue_makes_no_queue() -> None:
    q = Queues()
    q.do(Enqueue("jobs", b"x" * (1024 * 1024 + 1)))
    assert q.names() == []


# Born with a policy


@pytest.mark.parametrize(
    ("command", "then"), [(Enqueue("jobs", b"x"), Enqueued), (EnqueueMany("jobs", (b"x",)), Enqueued)]
)
def test_a_new_queue_writes_down_the_policy_it_is_born_with(command: AnyCommand, then: type) -> None:
    q = Queues(Policy(max_attempts=3))
    (done,) = q.outcomes(command)
    assert isinstance(done, Done)
    assert [type(event) for event in done.events] == [QueueConfigured, then]
    assert done.events[0].policy == Policy(max_attempts=3)  # type: ignore[union-attr]
    (again,) = q.outcomes(command)
    assert isinstance(again, Done)
    assert [type(event) for event in again.events] == [then]


def test_a_pause_as_the_first_thing_writes_it_down_too() -> None:
    q = Queues(Policy(max_attempts=3))
    (done,) = q.outcomes(Pause("jobs"))
    assert isinstance(done, Done)
    assert [type(event) for event in done.events] == [QueueConfigured, QueuePaused]


def test_a_configure_as_the_first_thing_builds_on_it_and_is_one_event() -> None:
    q = Queues(Policy(max_attempts=3))
    (done,) = q.outcomes(Configure("jobs", (("lease_ms", 7),)))
    assert isinstance(done, Done)
    (event,) = done.events
    assert isinstance(event, QueueConfigured)
    assert event.policy == Policy(max_attempts=3, lease_ms=7)


def test_the_usual_policy_needs_no_event() -> None:
    (done,) = Queues().outcomes(Enqueue("jobs", b"x"))
    assert isinstance(done, Done)
    assert [type(event) for event in done.events] == [Enqueued]


def test_the_policy_of_birth_counts() -> None:
    q = Queues(Policy(max_attempts=1))
    q.do(Enqueue("jobs", b"x"), Fetch("jobs", 50))
    assert [type(event).__name__ for event in q.expire(50)] == ["Expired", "DeadLettered"]


def test_an_unknown_queue_shows_the_policy_it_would_be_born_with() -> None:
    assert Queues(Policy(max_attempts=3)).do(ReadPolicy("nowhere"))["max_attempts"] == 3


# Time


def test_expire_touches_only_queues_where_something_is_due() -> None:
    ids = CountingIds()
    q = Queues(ids=ids)
    for i in range(10):
        q.do(Enqueue(f"q{i}", b"x", delay_ms=10 * (i + 1)))
    before = {f"q{i}": q.backend.state_of(f"q{i}") for i in range(10)}
    drawn = ids.drawn
    assert [event.queue for event in q.expire(35)] == ["q0", "q1", "q2"]
    assert ids.drawn - drawn <= 3, "a queue where nothing is due is not even asked"
    assert all(q.backend.state_of(f"q{i}") is before[f"q{i}"] for i in range(3, 10))
    assert q.backend.next_due_ms() == T0 + 40


def test_the_next_due_time_is_never_later_than_the_truth_and_ends_at_none() -> None:
    q = Queues()
    q.do(EnqueueMany("jobs", (b"a", b"b")), Enqueue("more", b"c", delay_ms=500))
    a, b = q.do(Fetch("jobs", 100, 2))
    assert q.backend.next_due_ms() == T0 + 100
    q.do(ack(a), Extend("jobs", b.lease_id, 2, 2, 300))
    assert q.expire(100) == []
    assert q.backend.next_due_ms() == T0 + 300
    q.do(ack(b))
    assert q.expire(300) == []
    assert q.backend.next_due_ms() == T0 + 500
    assert len(q.expire(500)) == 1
    assert q.backend.next_due_ms() is None
    assert q.bookkeeping()["_queues"] == 2


def test_a_nearer_time_is_noted_when_it_comes_later() -> None:
    q = Queues()
    for after_ms in (900, 500, 700, 300):
        q.do(Enqueue("jobs", b"x", delay_ms=after_ms))
    seen: list[tuple[int, int]] = []
    while (due_ms := q.backend.next_due_ms()) is not None and len(seen) < 20:
        seen += [(due_ms - T0, len(q.expire(due_ms - T0)))]
    assert [entry for entry in seen if entry[1]] == [(300, 1), (500, 1), (700, 1), (900, 1)]


def test_expire_before_anything_is_due_does_nothing() -> None:
    q = Queues()
    q.do(Enqueue("jobs", b"x", delay_ms=100))
    assert q.expire(99) == []
    assert q.backend.next_due_ms() == T0 + 100


def test_expire_takes_a_bounded_slice_of_each_queue_and_says_that_more_is_due() -> None:
    q = Queues()
    for queue in ("a", "b"):
        q.do(*[Enqueue(queue, b"", delay_ms=10) for _ in range(1200)])
    assert len(q.expire(10)) == 2000
    assert q.backend.next_due_ms() == T0 + 10
    assert len(q.expire(10)) == 400
    assert q.backend.next_due_ms() is None


# What it costs


def test_ten_thousand_queues_have_bounded_bookkeeping() -> None:
    q = Queues()
    for i in range(10_000):
        q.do(Enqueue(f"q{i}", b"", delay_ms=1 + i % 50), Stats(f"unknown{i}"))
    commit(q)
    assert max(q.bookkeeping().values()) <= 10_000
    assert len(q.expire(50)) == 10_000
    commit(q)
    assert q.backend.next_due_ms() is None
    assert q.bookkeeping()["_queues"] == 10_000
    assert sum(q.bookkeeping().values()) <= 2 * 10_000, "nothing is to be kept for queues where nothing is due"


def commit(q: Queues) -> None:
    drive(q.backend.commit())


def constant(i: int) -> int:
    return 30_000


def rising(i: int) -> int:
    return 1_000 + i


def falling(i: int) -> int:
    return 30_000 - i


def scattered(i: int) -> int:
    return 1_000 + i * 7919 % 20_000


@pytest.mark.parametrize("lease_ms", [constant, rising, falling, scattered])
@pytest.mark.parametrize("time_passes", [False, True], ids=["at once", "over time"])
def test_ten_thousand_leases_that_were_acked_leave_next_to_nothing(
    lease_ms: Callable[[int], int], time_passes: bool
) -> None:
    """The heap of due times follows the queues, not the leases that they had."""
    q = Queues()
    for i in range(10_000):
        q.do(Enqueue("jobs", b""))
        (task,) = q.do(Fetch("jobs", lease_ms(i)))
        q.do(ack(task))
        if i % 100 == 0:
            commit(q)
        if time_passes:
            q.expire(i)
    commit(q)
    assert max(q.bookkeeping().values()) < 200


def test_a_lease_that_is_extended_ten_thousand_times_leaves_next_to_nothing() -> None:
    q = Queues()
    q.do(Enqueue("jobs", b""))
    (task,) = q.do(Fetch("jobs", 1000))
    for i in range(10_000):
        q.expire(i)
        assert q.do(Extend("jobs", task.lease_id, 1, 1, 1000)) == T0 + i + 1000
    commit(q)
    assert max(q.bookkeeping().values()) < 200
    assert q.backend.state_of("jobs").totals.expired == 0


def test_an_old_state_stays_what_it_was() -> None:
    q = Queues()
    q.do(Enqueue("jobs", b"a"))
    old = q.backend.state_of("jobs")
    q.do(Fetch("jobs", 100))
    assert (len(old.ready), len(old.processing), old.seq) == (1, 0, 1)


# What it says of itself


def test_it_says_that_it_promises_nothing_across_a_restart() -> None:
    q = Queues()
    q.do(Enqueue("jobs", b"a"))
    described = q.backend.describe()
    assert (described["backend"], described["durability"], described["queues"]) == ("memory", "none", 1)


def test_a_page_of_names_is_in_order_and_after_its_cursor() -> None:
    q = Queues()
    for name in ("b", "ä", "a", "c:1", "Z"):
        q.do(Enqueue(name, b""))
    assert q.names() == ["Z", "a", "b", "c:1", "ä"]
    page = drive(q.backend.names(ListQueues("*", 2, "a")))
    assert (page.names, page.cursor) == (["b", "c:1"], "c:1")
    assert drive(q.backend.names(ListQueues("*", 2, "no such name"))).names == ["ä"]
    assert drive(q.backend.names(ListQueues("*", 2, "zzz\u0101"))).names == ["ä"]


def test_events_of_the_turn_under_way_are_not_read_and_are_no_horizon() -> None:
    q = Queues()
    read = ReadEvents("jobs", 1, 10)

    def seen() -> tuple[int, int]:
        outcome = drive(q.backend.events(read))
        assert isinstance(outcome, Done), outcome
        past = outcome.answer
        assert isinstance(past, Past)
        return len(past.events), past.horizon

    q.do(Enqueue("jobs", b"x"))
    assert seen() == (0, 1), "nothing is committed of a queue that begins in this turn"
    drive(q.backend.commit())
    assert seen() == (1, 1)
    batch = q.backend.batch("jobs")
    assert batch is not None
    assert batch.enqueue([b"y"], T0, b"0" * 16, 0)
    assert seen() == (1, 1), "and what a batch did is of this turn, too"
    drive(q.backend.commit())
    assert seen() == (2, 1)
