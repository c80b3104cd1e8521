"""`moxy replay` and `moxy whatif`: the state at any point, what differs between two, and what a policy would have done.

Lives here: the folds against a second fold made here, and numbers worked out on paper (tests/logs.py has the log).
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from moxy.core.events import AnyEvent
from moxy.core.explain import clock
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal.disk import OsDisk
from moxy.journal.journal import Journal
from moxy.replay import WhatIf, diff, fold, of_task, states_at, what_if
from tests.logs import T0, Author, Ran, author, run, write


@pytest.fixture(scope="module")
def story() -> Author:
    return author()


@pytest.fixture(scope="module")
def events(story: Author) -> list[AnyEvent]:
    return [event for batch in story.batches for event in batch]


@pytest.fixture(scope="module")
def log(story: Author, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("log") / "data", story.batches)


def states_of(events: list[AnyEvent]) -> dict[str, QueueState]:
    states: dict[str, QueueState] = {}
    for event in events:
        states[event.queue] = apply(states.get(event.queue) or QueueState(event.queue), event)
    return states


def heading(state: QueueState) -> str:
    return (
        f"queue {state.name} at #{state.seq}, {clock(state.at_ms)}: {len(state.ready)} ready, "
        f"{len(state.scheduled)} scheduled, {len(state.processing)} processing, {len(state.dead)} dead, "
        f"{state.totals.acked} acked, {state.totals.deleted} deleted"
    )


def headings(ran: Ran) -> list[str]:
    assert ran.code == 0, ran
    return [line for line in ran.lines if line.startswith("queue ")]


# The state at a point


def test_without_a_point_it_is_the_state_at_the_end(log: Path, events: list[AnyEvent]) -> None:
    states = states_of(events)
    ran = run("replay", log)
    assert headings(ran) == [heading(states["jobs"]), heading(states["mail"])]
    assert "attempts: boom" in ran.out
    assert "1 dead, 2 acked" in ran.out


@pytest.mark.parametrize("seq", range(1, 17))
def test_at_a_sequence_number(log: Path, events: list[AnyEvent], seq: int) -> None:
    jobs = states_of([event for event in events if event.queue == "jobs" and event.seq <= seq])["jobs"]
    assert headings(run("replay", log, "--queue", "jobs", "--at", seq)) == [heading(jobs)]


@pytest.mark.parametrize("after_ms", [0, 99, 100, 101, 1099, 1100, 3700, 4250, 5000])
def test_at_a_time_all_queues_are_as_they_were_then(log: Path, events: list[AnyEvent], after_ms: int) -> None:
    states = states_of([event for event in events if event.at_ms <= T0 + after_ms])
    moment = clock(T0 + after_ms).replace(" ", "T")
    assert headings(run("replay", log, "--at", moment)) == [heading(states[name]) for name in sorted(states)]


def test_before_the_beginning_there_is_nothing(log: Path) -> None:
    assert run("replay", log, "--at", "2026-11-24T02:59:59").out == ""
    assert run("replay", log, "--queue", "jobs", "--at", "0").out == ""


def test_the_tasks_are_listed_in_their_order(log: Path) -> None:
    _, _, *rows = run("replay", log, "--queue", "jobs", "--at", 4).lines
    assert [row.split()[:2] for row in rows] == [["processing", "slow"], ["processing", "quick"]]
    rows = run("replay", log, "--queue", "mail").lines
    assert [row.split()[1] for row in rows if row.startswith("ready")] == ["text", "long", "odd", "bytes"]


def test_a_log_that_begins_in_the_middle_goes_on_from_a_snapshot(story: Author, tmp_path: Path) -> None:
    """The oldest segments are gone: the state is still the same, and history begins later."""
    whole = write(tmp_path / "whole", story.batches)
    directory = tmp_path / "data"
    journal, recovered = Journal.open(OsDisk(str(directory)), 7, T0, segment_bytes=1024)
    states = dict(recovered.states)
    for number, batch in enumerate(story.batches):
        journal.append(batch)
        journal.flush()
        for event in batch:
            states[event.queue] = apply(states.get(event.queue) or QueueState(event.queue), event)
        if number in (9, 12):
            journal.write_snapshot([state.image() for state in states.values()], journal.mark(), T0)
    assert journal.retain(T0 + 10**9, 0, None)
    assert journal.horizon > 1
    journal.close()
    assert run("replay", directory).out == run("replay", whole).out


# Steps


def test_step_tells_every_event_with_what_it_changed(log: Path) -> None:
    ran = run("replay", log, "--queue", "jobs", "--step")
    events = [line for line in ran.lines if not line.startswith(" ")]
    assert [int(re.search(r"#(\d+)", line)[1]) for line in events] == list(range(1, 17))  # type: ignore[index]
    changed = changes_of(ran)
    assert "jobs quick state: - -> ready" in changed[2]
    assert "jobs slow state: ready -> processing" in changed[3]
    assert "jobs quick state: processing -> -" in changed[5]
    assert "jobs slow tally.expiries: 0 -> 1" in changed[6]
    assert "jobs last_token: 2 -> 3" in changed[8]
    assert "jobs poison state: failed -> dead" in changed[16]
    assert all(changed.values())


def changes_of(ran: Ran) -> dict[int, list[str]]:
    changed: dict[int, list[str]] = {}
    for line in ran.lines:
        if line.startswith(" "):
            changed[max(changed)].append(line.strip())
        else:
            changed[int(re.search(r"#(\d+)", line)[1])] = []  # type: ignore[index]
    return changed


def test_the_steps_together_are_the_whole(events: list[AnyEvent]) -> None:
    states: dict[str, QueueState] = {}
    for event, state in fold({}, events):
        states[event.queue] = state
    expected = states_of(events)
    assert all(diff(states[name], expected[name]) == [] for name in expected)


def test_steps_up_to_a_point(log: Path) -> None:
    assert list(changes_of(run("replay", log, "--queue", "jobs", "--step", "--at", 7))) == [1, 2, 3, 4, 5, 6, 7]
    moment = "2026-11-24T03:00:00.500"
    assert list(changes_of(run("replay", log, "--queue", "jobs", "--step", "--at", moment))) == [1, 2, 3, 4, 5]


def test_steps_up_to_a_number_are_each_queues_own(log: Path) -> None:
    ran = run("replay", log, "--step", "--at", 2)
    told = [line.split()[2:4] for line in ran.lines if not line.startswith(" ")]
    assert told == [["jobs", "#1"], ["jobs", "#2"], ["mail", "#1"], ["mail", "#2"]]


# Differences


def test_what_differs_between_two_points(log: Path) -> None:
    told = [line.strip() for line in run("replay", log, "--queue", "jobs", "--diff", 3, 8).lines]
    assert "jobs quick state: ready -> -" in told
    assert "jobs slow token: 1 -> 3" in told
    assert "jobs slow tally.deliveries: 1 -> 2" in told
    assert "jobs slow lease.worker: worker-1 -> worker-3" in told
    assert "jobs totals.expired: 0 -> 1" in told
    assert not any("slow state" in line for line in told), "it was processing, and is"


def test_nothing_differs_between_a_point_and_itself(log: Path) -> None:
    assert run("replay", log, "--diff", 9, 9) == Ran(0, "", "")


def test_from_nothing_everything_differs(log: Path) -> None:
    told = [line.strip() for line in run("replay", log, "--queue", "jobs", "--diff", 0, 2).lines]
    assert "jobs slow state: - -> ready" in told
    assert "jobs totals.enqueued: 0 -> 2" in told


def test_differences_run_both_ways(events: list[AnyEvent]) -> None:
    points = [states_at({}, events, seq).get("jobs") for seq in range(1, 17)]
    for before, after in pairwise(points):
        assert before is not None
        assert after is not None
        there, back = diff(before, after), diff(after, before)
        assert there
        assert {(c.task_id, c.field, str(c.before), str(c.after)) for c in there} == {
            (c.task_id, c.field, str(c.after), str(c.before)) for c in back
        }


def test_the_story_of_an_id_that_was_used_again_is_that_of_the_latest(events: list[AnyEvent]) -> None:
    one = author()
    from moxy.core.commands import Enqueue

    one.do(6000, Enqueue("jobs", b"again", "slow"))
    again = [event for batch in one.batches for event in batch]
    assert [event.seq for event in of_task(events, "jobs", "slow")] == [1, 3, 6, 7, 8, 9]
    assert [event.seq for event in of_task(again, "jobs", "slow")] == [17]


# What if: five deliveries; the second of `slow` took 2500 ms, that of `quick` 300; `slow` and `poison` expired once
# each, and of `poison` nobody knows how long it would have taken.


@pytest.mark.parametrize(
    ("lease_ms", "avoided", "added"),
    [(299, 0, 2), (300, 0, 1), (2499, 0, 1), (2500, 1, 0), (60_000, 1, 0)],
)
def test_another_lease(events: list[AnyEvent], lease_ms: int, avoided: int, added: int) -> None:
    assert what_if(events, "jobs", lease_ms) == WhatIf(5, 2, avoided, added, 1, 0, 1, 0)


@pytest.mark.parametrize(("attempts", "avoided"), [(0, 1), (1, 0), (2, 0), (3, 1)])
def test_another_maximum_of_attempts(events: list[AnyEvent], attempts: int, avoided: int) -> None:
    assert what_if(events, "jobs", 1000, attempts).dead_letters_avoided == avoided


@pytest.mark.parametrize(("backoff_ms", "put_off"), [(0, 0), (100, 0), (101, 2)])
def test_another_backoff(events: list[AnyEvent], backoff_ms: int, put_off: int) -> None:
    """Both came back 100 ms after their leases expired, in time for a backoff of 100 and too early for more."""
    assert what_if(events, "jobs", 1000, None, backoff_ms).put_off == put_off


def test_whatif_says_its_numbers_and_that_they_are_an_estimate(log: Path) -> None:
    ran = run("whatif", log, "--queue", "jobs", "--lease-ms", 2500, "--max-attempts", 3, "--backoff-ms", 101)
    *rows, last = ran.lines
    assert [(row.rsplit(None, 1)[0].strip(), int(row.rsplit(None, 1)[1])) for row in rows] == [
        ("deliveries in the log", 5),
        ("leases that expired", 2),
        ("would not have, with 2500 ms", 1),
        ("cannot be told: the work was never finished, or its worker died", 1),
        ("leases that were acked, but would have expired with 2500 ms", 0),
        ("dead letters", 1),
        ("would not have been, yet, with 3 attempts", 1),
        ("redeliveries that a backoff of 101 ms would have put off", 2),
    ]
    assert "estimate" in last


def test_another_queue_is_not_counted(events: list[AnyEvent]) -> None:
    assert what_if(events, "mail", 1000) == WhatIf(0, 0, 0, 0, 0, 0, 0, 0)
