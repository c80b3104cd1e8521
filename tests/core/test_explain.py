"""Events told to people: transcripts of whole stories, each event's fields, and the calendar that needs no clock.

What lives here: wording as people read it. What must not live here: where events come from; `Q` makes them, as the core
does.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moxy.core.commands import Enqueue
from moxy.core.events import (
    EVENT_TYPES,
    Acked,
    AnyEvent,
    DeadLettered,
    Deleted,
    Enqueued,
    Expired,
    Extended,
    Failed,
    Leased,
    Matured,
    Purged,
    QueueConfigured,
    QueuePaused,
    QueueResumed,
    Redriven,
    Released,
    Requeued,
)
from moxy.core.explain import clock, concerns, fields, why
from moxy.core.policy import Policy
from tests.core.support import T0, Q

T = 1_700_000_000_000
"""2023-11-14 22:13:20.000 UTC."""
WHO = ("jobs", 1, T, 1, "t")


def at(ms: int, seq: int) -> tuple[str, int, int, int, str]:
    return ("jobs", seq, T + ms, 1, "t")


STORY: list[AnyEvent] = [
    Enqueued(*at(0, 1), b"hello", 3, due_ms=T + 1000),
    Matured(*at(1000, 2)),
    Leased(*at(1001, 3), "l1", 1, T + 2001, "anna", True),
    Extended(*at(1500, 4), "l1", T + 3000),
    Expired(*at(3004, 5), "l1", 1),
    Requeued(*at(3004, 6), T + 4000),
    Matured(*at(4000, 7)),
    Leased(*at(4100, 8), "l2", 2, T + 5000, "ben"),
    Failed(*at(4200, 9), "l2", "no disk", 2),
    Requeued(*at(4200, 10)),
    Leased(*at(4300, 11), "l3", 3, T + 5300, "carl", True),
    Released(*at(4400, 12), "l3", "disconnect", 3),
    Leased(*at(4500, 13), "l4", 4, T + 5500),
    Released(*at(4600, 14), "l4", "worker", 3),
    Leased(*at(4700, 15), "l5", 5, T + 5700),
    Released(*at(4701, 16), "l5", "undelivered", 3),
    Leased(*at(4800, 17), "l6", 6, T + 5800, "dora"),
    Failed(*at(4900, 18), "l6", "", 4),
    DeadLettered(*at(4900, 19), "fatal", "fatal", 4),
    Redriven(*at(6000, 20), 2),
    Leased(*at(6100, 21), "l7", 7, T + 9999, "emil"),
    Acked(*at(6250, 22), "l7"),
]
TOLD = """\
Task t was delivered 7 times. It came back once because a lease expired and once because a worker gave up (no disk) \
and once because a worker's connection closed and once because a worker released it and once because the reply could \
not be delivered and once because a worker gave up; it is done.
22:13:20.000 #1 It was enqueued with 5 bytes and priority 3, not before 22:13:21.000.
22:13:21.000 #2 Its time came: it was ready.
22:13:21.001 #3 Delivery 1: anna leased it until 22:13:22.001 with token 1.
22:13:21.500 #4 The worker extended its lease from 22:13:22.001 to 22:13:23.000.
22:13:23.004 #5 The lease expired, 4 ms after its deadline: anna had not acknowledged, given up or extended it. \
That is attempt 1. An ACK with that lease is refused from here on.
22:13:23.004 #6 It waits until 22:13:24.000 (backoff).
22:13:24.000 #7 Its time came: it was ready.
22:13:24.100 #8 Delivery 2: ben leased it until 22:13:25.000 with token 2.
22:13:24.200 #9 ben gave up, saying 'no disk', 100 ms after leasing it. That is attempt 2.
22:13:24.200 #10 It was ready again.
22:13:24.300 #11 Delivery 3: carl leased it until 22:13:25.300 with token 3.
22:13:24.400 #12 It went back to its place because carl's connection closed. That is attempt 3.
22:13:24.500 #13 Delivery 4: a worker without a name leased it until 22:13:25.500 with token 4.
22:13:24.600 #14 It went back to its place because the worker released it. No attempt was charged.
22:13:24.700 #15 Delivery 5: a worker without a name leased it until 22:13:25.700 with token 5.
22:13:24.701 #16 It went back to its place because the reply could not be delivered. No attempt was charged.
22:13:24.800 #17 Delivery 6: dora leased it until 22:13:25.800 with token 6.
22:13:24.900 #18 dora gave up, 100 ms after leasing it. That is attempt 4.
22:13:24.900 #19 It was set aside after 4 attempts: fatal, fatal.
22:13:26.000 #20 An operator redrove it: ready at the end of the queue, attempts at 0.
22:13:26.100 #21 Delivery 7: emil leased it until 22:13:29.999 with token 7.
22:13:26.250 #22 emil acknowledged it, 150 ms after leasing it. It is done."""


def test_a_life_with_everything_in_it() -> None:
    assert "\n".join(why("t", STORY, cut=False)).replace("2023-11-14 ", "") == TOLD


ENDS: list[tuple[list[AnyEvent], str]] = [
    ([], "Task t was never delivered, and is not known."),
    ([Enqueued(*WHO, b"")], "Task t was never delivered, and is ready."),
    (
        [Enqueued(*WHO, b"", due_ms=T + 1)],
        "Task t was never delivered, and waits until 2023-11-14 22:13:20.001.",
    ),
    ([Enqueued(*WHO, b""), Deleted(*WHO)], "Task t was never delivered, and was deleted."),
    (
        [Enqueued(*WHO, b""), DeadLettered(*WHO, "ttl", "ttl")],
        "Task t was never delivered, and is a dead letter (ttl: ttl).",
    ),
    ([Leased(*WHO, "l", 1, T + 1)], "Task t was delivered once, and is being worked on."),
    ([Leased(*WHO, "l", 1, T + 1), Extended(*WHO, "l", T + 2)], "Task t was delivered once, and is being worked on."),
    ([Leased(*WHO, "l", 1, T + 1), Acked(*WHO, "l")], "Task t was delivered once, and is done."),
    (
        [Leased(*WHO, "l", 1, T + 1), Expired(*WHO, "l"), Requeued(*WHO)],
        "Task t was delivered once. It came back once because a lease expired; it is ready.",
    ),
    (
        [*[Leased(*WHO, "l", 1, T), Expired(*WHO, "l")] * 2, DeadLettered(*WHO, "attempts", "lease expired")],
        "Task t was delivered 2 times. It came back 2 of them because a lease expired; it is a dead letter "
        "(attempts: lease expired).",
    ),
    (
        [Leased(*WHO, "l", 1, T), Failed(*WHO, "l", "oops"), Requeued(*WHO, T + 5)],
        "Task t was delivered once. It came back once because a worker gave up (oops); it waits until "
        "2023-11-14 22:13:20.005.",
    ),
]


@pytest.mark.parametrize(("events", "summary"), ENDS, ids=[summary for _, summary in ENDS])
def test_the_summary_says_how_often_why_and_what_it_is_now(events: list[AnyEvent], summary: str) -> None:
    assert why("t", events, cut=False)[0] == summary


def test_a_story_without_its_beginning_says_so_and_names_no_holder_it_does_not_know() -> None:
    told = why("t", [Acked(*at(5, 9), "l1")], cut=True)
    assert told[1] == "The log no longer reaches back to the beginning of this task: what came before is not told."
    assert told[2].endswith("#9 the worker acknowledged it, under its lease. It is done.")


def test_the_events_of_the_core_are_told_as_they_happened() -> None:
    """Not made up by hand: a queue says it itself."""
    q = Q()
    q.do(Enqueue("jobs", b"p", "t"))
    told = why("t", [event for event in q.events if concerns(event, 1)], cut=False)
    assert told == [
        "Task t was never delivered, and is ready.",
        f"{clock(T0)} #{q.events[-1].seq} It was enqueued with 1 bytes and priority 0.",
    ]


QUEUE_EVENTS = (QueueConfigured, QueuePaused, QueueResumed, Purged)


def test_every_kind_of_event_of_a_task_has_a_sentence_of_its_own() -> None:
    told = {type(event).__name__: why("t", [event], cut=False)[1] for event in [*STORY, Deleted(*WHO)]}
    assert set(told) == {kind.__name__ for kind in EVENT_TYPES} - {kind.__name__ for kind in QUEUE_EVENTS}
    assert [kind for kind, sentence in told.items() if sentence.endswith(f" {kind}.")] == [], "that is its bare name"


def test_an_event_as_fields_is_its_kind_and_all_that_it_carries() -> None:
    event = Released(*WHO, "l1", "disconnect", 3)
    assert fields(event) == {
        **{"event": "Released", "queue": "jobs", "seq": 1, "at_ms": T, "number": 1, "task_id": "t"},
        **{"lease_id": "l1", "cause": "disconnect", "attempts": 3},
    }
    assert next(iter(fields(event))) == "event"


def test_a_policy_is_spread_out() -> None:
    told = fields(QueueConfigured("jobs", 1, T, Policy(max_attempts=7)))
    assert told["max_attempts"] == 7
    assert "policy" not in told


def test_a_purge_and_another_task_do_not_concern_a_task() -> None:
    assert concerns(Acked(*WHO, "l"), 1)
    assert not concerns(Acked(*WHO, "l"), 2)
    assert not concerns(Purged("jobs", 1, T, "ready", 1), 1)


@given(st.integers(0, 253_402_300_799_999))
@example(0)
@example(951_782_399_999)  # the last millisecond of 28 February 2000, before a 29th
@example(951_868_799_999)  # that 29th, the last day of its four centuries
@example(951_868_800_000)
@example(4_107_542_399_999)  # the last millisecond of February 2100, which has no 29th
@example(4_107_542_400_000)
@example(253_402_300_799_999)  # the end of 9999
def test_the_calendar_is_that_of_the_library(at_ms: int) -> None:
    seconds, ms = divmod(at_ms, 1000)
    expected = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    assert clock(at_ms) == f"{expected}.{ms:03}"
