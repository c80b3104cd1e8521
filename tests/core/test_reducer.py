"""`apply`: what it refuses, and that it never touches what it was given."""

import msgspec
import pytest

from moxy.core import events as vocabulary
from moxy.core.errors import IllegalEvent
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
from moxy.core.policy import Policy
from moxy.core.reducer import apply, replay
from moxy.core.state import QueueState
from tests.core.support import T0, Q, dump

ENQUEUED = Enqueued("jobs", 1, T0, 1, "a", b"\x00\xff payload")
LEASED = Leased("jobs", 2, T0, 1, "a", "jobs:1:1:00", 1, T0 + 100, "worker", False)

ONE_OF_EACH: tuple[AnyEvent, ...] = (
    ENQUEUED,
    Matured("jobs", 2, T0, 1, "a"),
    LEASED,
    Extended("jobs", 3, T0, 1, "a", "jobs:1:1:00", T0 + 500),
    Acked("jobs", 3, T0, 1, "a", "jobs:1:1:00"),
    Expired("jobs", 3, T0 + 100, 1, "a", "jobs:1:1:00", 1),
    Failed("jobs", 3, T0, 1, "a", "jobs:1:1:00", "disk full", 1),
    Released("jobs", 3, T0, 1, "a", "jobs:1:1:00", "disconnect", 1),
    Requeued("jobs", 4, T0, 1, "a", T0 + 7),
    DeadLettered("jobs", 4, T0, 1, "a", "fatal", "no such user", 1),
    Redriven("jobs", 5, T0, 1, "a", 2),
    Deleted("jobs", 2, T0, 1, "a"),
    QueueConfigured("jobs", 2, T0, Policy(max_attempts=3)),
    QueuePaused("jobs", 2, T0),
    QueueResumed("jobs", 2, T0),
    Purged("jobs", 2, T0, "ready", 1),
)


def test_there_is_one_of_each() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(EVENT_TYPES)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_an_event_is_a_value(event: AnyEvent) -> None:
    assert eval(repr(event), {**vars(vocabulary), "Policy": Policy}) == event
    with pytest.raises(AttributeError):
        event.seq = 9  # type: ignore[misc]
    decoder = msgspec.msgpack.Decoder(AnyEvent)
    assert decoder.decode(msgspec.msgpack.encode(event)) == event


def held() -> QueueState:
    return replay([ENQUEUED, LEASED], QueueState("jobs"))


def ready() -> QueueState:
    return apply(QueueState("jobs"), ENQUEUED)


ILLEGAL: dict[str, tuple[QueueState, AnyEvent, str]] = {
    "a gap in the sequence": (ready(), Deleted("jobs", 3, T0, 1, "a"), "I15"),
    "a sequence that was": (ready(), Deleted("jobs", 1, T0, 1, "a"), "I15"),
    "time that goes back": (ready(), Deleted("jobs", 2, T0 - 1, 1, "a"), "I15"),
    "another queue": (ready(), Deleted("mails", 2, T0, 1, "a"), "another queue"),
    "a task that is not there": (ready(), Deleted("jobs", 2, T0, 7, "a"), "I5"),
    "a task under another name": (ready(), Deleted("jobs", 2, T0, 1, "b"), "I5"),
    "an id that is known": (ready(), Enqueued("jobs", 2, T0, 2, "a", b""), "I14"),
    "a number out of turn": (ready(), Enqueued("jobs", 2, T0, 3, "b", b""), "number 2 is next"),
    "a void lease acked": (held(), Acked("jobs", 3, T0, 1, "a", "jobs:1:9:00"), "I4"),
    "a void lease extended": (held(), Extended("jobs", 3, T0, 1, "a", "other", T0 + 500), "I4"),
    "a lease where there is none": (ready(), Acked("jobs", 2, T0, 1, "a", "jobs:1:1:00"), "I4"),
    "an expiry before its deadline": (held(), Expired("jobs", 3, T0 + 99, 1, "a", "jobs:1:1:00", 1), "I6"),
    "a lease on what is held": (held(), Leased("jobs", 3, T0, 1, "a", "x", 2, T0 + 1), "lifecycle"),
    "a delete under a lease": (held(), Deleted("jobs", 3, T0, 1, "a"), "lifecycle"),
    "a redrive of what lives": (ready(), Redriven("jobs", 2, T0, 1, "a", 2), "lifecycle"),
    "a requeue of what was not away": (ready(), Requeued("jobs", 2, T0, 1, "a"), "lifecycle"),
    "a death without a reason": (ready(), DeadLettered("jobs", 2, T0, 1, "a", "ttl", ""), "I9"),
    "a purge that miscounts": (ready(), Purged("jobs", 2, T0, "ready", 2), "I1"),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_breaks_a_rule_is_refused_naming_rule_event_and_state(what: str) -> None:
    state, event, rule = ILLEGAL[what]
    before = dump(state)
    with pytest.raises(IllegalEvent) as caught:
        apply(state, event)
    assert rule in caught.value.rule
    assert repr(event) in str(caught.value)
    assert dump(state) == before


# Every event on a task in every state, each event right in all but the state

ID = "jobs:1:1:00"
LATE = T0 + 200
WALKS: dict[str, tuple[AnyEvent, ...]] = {
    "new": (),
    "scheduled": (Enqueued("jobs", 1, T0, 1, "a", b"", 0, T0 + 9),),
    "ready": (ENQUEUED,),
    "processing": (ENQUEUED, LEASED),
    "expired": (ENQUEUED, LEASED, Expired("jobs", 3, LATE, 1, "a", ID, 1)),
    "failed": (ENQUEUED, LEASED, Failed("jobs", 3, T0, 1, "a", ID, "", 1)),
    "dead": (ENQUEUED, DeadLettered("jobs", 2, T0, 1, "a", "ttl", "ttl")),
    "acked": (ENQUEUED, LEASED, Acked("jobs", 3, T0, 1, "a", ID)),
    "deleted": (ENQUEUED, Deleted("jobs", 2, T0, 1, "a")),
}
"""How a task gets into each state of section 1 of the contract."""

LEADS_TO: dict[str, dict[str, str]] = {
    "Enqueued": {"new": "ready"},
    "Enqueued later": {"new": "scheduled"},
    "Matured": {"scheduled": "ready"},
    "Leased": {"ready": "processing"},
    "Extended": {"processing": "processing"},
    "Acked": {"processing": "gone"},
    "Expired": {"processing": "expired"},
    "Failed": {"processing": "failed"},
    "Released": {"processing": "ready"},
    "Requeued": {"expired": "ready", "failed": "ready"},
    "Requeued later": {"expired": "scheduled", "failed": "scheduled"},
    "DeadLettered": {"expired": "dead", "failed": "dead", "ready": "dead", "scheduled": "dead"},
    "Redriven": {"dead": "ready"},
    "Deleted": {"scheduled": "gone", "ready": "gone", "dead": "gone"},
}
"""The same table as in the contract, by event."""


def next_event(state: QueueState, what: str) -> AnyEvent:
    start = ("jobs", state.seq + 1, LATE, 1, "a")
    events: dict[str, AnyEvent] = {
        "Enqueued": Enqueued(*start, b""),
        "Enqueued later": Enqueued(*start, b"", 0, LATE + 9),
        "Matured": Matured(*start),
        "Leased": Leased(*start, "jobs:1:2:00", state.last_token + 1, LATE + 9),
        "Extended": Extended(*start, ID, LATE + 9),
        "Acked": Acked(*start, ID),
        "Expired": Expired(*start, ID, 1),
        "Failed": Failed(*start, ID, "", 1),
        "Released": Released(*start, ID),
        "Requeued": Requeued(*start),
        "Requeued later": Requeued(*start, LATE + 9),
        "DeadLettered": DeadLettered(*start, "ttl", "ttl"),
        "Redriven": Redriven(*start, state.next_number),
        "Deleted": Deleted(*start),
    }
    return events[what]


@pytest.mark.parametrize("what", LEADS_TO)
@pytest.mark.parametrize("where", WALKS)
def test_every_event_on_a_task_in_every_state(where: str, what: str) -> None:
    state = replay(WALKS[where], QueueState("jobs"))
    event, before = next_event(state, what), dump(state)
    if where not in LEADS_TO[what]:
        with pytest.raises(IllegalEvent) as caught:
            apply(state, event)
        rule = caught.value.rule
        if what.startswith("Enqueued"):
            assert rule.startswith("task number"), "a number is never given again"
        elif where in ("new", "acked", "deleted"):
            assert rule.startswith("I5:")
        elif what in ("Extended", "Acked", "Expired", "Failed", "Released"):
            assert rule.startswith("I4:")
        else:
            assert rule.startswith("lifecycle:")
            assert where in rule
    else:
        after = apply(state, event)
        task = after.tasks.get(1)
        assert (task.state if task else "gone") == LEADS_TO[what][where]
        assert after.limbo == (where != "new" and LEADS_TO[what][where] in ("expired", "failed"))
    assert dump(state) == before


@pytest.mark.parametrize("where", ["scheduled", "ready", "dead"])
def test_a_purge_removes_exactly_the_tasks_of_its_state(where: str) -> None:
    state = replay(WALKS[where], QueueState("jobs"))
    for purged in ("scheduled", "ready", "dead"):
        for count in (0, 1, 2):
            event = Purged("jobs", state.seq + 1, LATE, purged, count)  # type: ignore[arg-type]
            if count == (purged == where):
                after = apply(state, event)
                assert (len(after.tasks), after.totals.deleted) == (1 - count, count)
            else:
                with pytest.raises(IllegalEvent, match="I1"):
                    apply(state, event)


def test_a_place_out_of_turn_is_refused() -> None:
    dead = replay(WALKS["dead"], QueueState("jobs"))
    for place in (0, 1, 3):
        with pytest.raises(IllegalEvent, match="place 2 is next"):
            apply(dead, Redriven("jobs", 3, LATE, 1, "a", place))


def test_an_id_is_known_until_its_window_has_passed() -> None:
    """I14 by the event's own time, so that a replay needs no clock."""
    first = Enqueued("jobs", 1, T0, 1, "a", b"", dedup_ms=50)
    state = replay([first, Deleted("jobs", 2, T0, 1, "a")], QueueState("jobs"))
    with pytest.raises(IllegalEvent, match="I14"):
        apply(state, Enqueued("jobs", 3, T0 + 49, 2, "a", b""))
    assert apply(state, Enqueued("jobs", 3, T0 + 50, 2, "a", b"")).named("a") is not None


def test_only_an_enqueue_carries_the_payload() -> None:
    assert [type(event) for event in ONE_OF_EACH if "payload" in event.__struct_fields__] == [Enqueued]


def test_a_token_is_not_given_twice() -> None:
    q = Q().add("a", "b")
    q.take()
    with pytest.raises(IllegalEvent, match="I3"):
        apply(q.state, Leased("jobs", q.state.seq + 1, q.now, 2, "b", "jobs:2:1:00", 1, q.now + 1))


def test_an_old_state_stays_valid_after_a_thousand_events() -> None:
    q = Q(max_attempts=3, backoff_ms=5).add("a", "b", "c")
    q.take()
    old, was = q.state, dump(q.state)
    for number in range(350):
        q.add(f"t{number}", priority=number % 10, delay_ms=number % 3, ttl_ms=50 + number % 7)
        q.take(5)
        q.tick(3)
        if number % 10 == 0:
            q.purge("dead")  # the checks recount every task
    assert q.state.seq > old.seq + 1000
    assert dump(old) == was
    again = replay(q.log[: old.seq], QueueState("jobs"))
    assert dump(again) == was


def test_two_futures_of_one_state_do_not_disturb_each_other() -> None:
    base = held()
    acked = apply(base, Acked("jobs", 3, T0, 1, "a", "jobs:1:1:00"))
    failed = apply(base, Failed("jobs", 3, T0, 1, "a", "jobs:1:1:00", "", 1))
    assert (len(acked.tasks), len(failed.tasks), len(base.processing)) == (0, 1, 1)
