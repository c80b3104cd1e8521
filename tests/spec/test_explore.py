"""The quick scopes hold, their graphs have the size they always had, and planted faults are found.

What lives here: the pinned counts, the soundness of the reduction, faults and the shortest transcript of each. What
must not live here: a rule of a queue; those are judged in `spec.explore` and `moxy.core.invariants`.
"""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from moxy.core import decider, effects
from moxy.core.commands import UNSET, Ack, AnyCommand, Enqueue, Fetch, Nack, Tick
from moxy.core.decider import decide
from moxy.core.decision import Decision
from moxy.core.errors import NOLEASE, Refused
from moxy.core.events import AnyEvent, Expired, Failed, Redriven, Released, Requeued, TaskEvent
from moxy.core.heart import Heart
from moxy.core.policy import Policy
from moxy.core.reducer import apply
from moxy.core.state import QueueState, state_of
from moxy.core.tasks import Image
from spec import explore
from spec.explore import QUEUE, SCOPES, Scope, World, judging, search
from spec.explore.__main__ import main
from spec.explore.judging import take
from spec.explore.telling import brief
from tests.core.support import altered, and_then
from tests.forms import needs_source

COUNTS = {
    # scope: states, edges, depth. A change of the rules changes them: look at what changed, then pin it anew.
    "plain": (2796, 12604, 19),
    "delay and priority": (3745, 10755, 18),
    "nack and dead letter": (2202, 24279, 14),
    "ttl": (1717, 8059, 18),
    "pause": (5976, 46824, 16),
    "full": (5341, 27838, 26),
    "dedup": (507, 1708, 13),
    "bound": (4013, 26101, 18),
    "own options": (864, 4701, 13),
    "shared": (3473, 20710, 18),
}
DEEP_COUNTS = {
    "shared, three tasks": (70_916, 482_068, 20),
    "everything": (1_125_194, 17_759_236, 18),
}


def test_every_scope_is_pinned() -> None:
    assert set(COUNTS) == {name for name, scope in SCOPES.items() if not scope.deep}
    assert set(DEEP_COUNTS) == {name for name, scope in SCOPES.items() if scope.deep}


@pytest.mark.parametrize("name", COUNTS)
def test_a_quick_scope_holds(name: str) -> None:
    report = explore.explore(SCOPES[name])
    assert report.violation is None, str(report.violation)
    assert (report.states, report.edges, report.depth) == COUNTS[name]
    assert sum(report.edges_by_move.values()) == report.edges


@pytest.mark.deep
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("name", DEEP_COUNTS)
def test_a_deep_scope_holds(name: str) -> None:
    report = explore.explore(SCOPES[name])
    assert report.violation is None, str(report.violation)
    assert (report.states, report.edges, report.depth) == DEEP_COUNTS[name]


# What is left out of a state is left out rightly


def onward(scope: Scope, world: World) -> set[tuple[str, bytes]]:
    """Where every move leads, as the explorer sees it."""
    reached = set()
    for move in explore.moves(scope, world):
        after = world if move.commands else World(world.state, world.now_ms + 1)
        for command in move.commands:
            after = take(after, command, move.refusals, move.seed, decide, apply)
        reached.add((move.name, explore.reduced(scope, after)))
    return reached


def worlds(scope: Scope, most: int) -> Iterator[tuple[World, World]]:
    """Pairs of different worlds that are reduced to the same state: the first that was met, and another."""
    first = World(QueueState(QUEUE, scope.policy), explore.START_MS)
    seen, queue, pairs = {explore.reduced(scope, first): first}, [first], 0
    for world in queue:
        for move in explore.moves(scope, world):
            after = world if move.commands else World(world.state, world.now_ms + 1)
            for command in move.commands:
                after = take(after, command, move.refusals, move.seed, decide, apply)
            twin = seen.setdefault(explore.reduced(scope, after), after)
            if twin is after:
                queue.append(after)
            elif twin != after and pairs < most:
                pairs += 1
                yield twin, after
        if pairs >= most:
            return


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "shared"])
def test_worlds_that_count_as_the_same_have_the_same_future(name: str) -> None:
    """The reduction itself, tried: whatever happens to one of two twins happens to the other."""
    scope = SCOPES[name]
    pairs = list(worlds(scope, 1200))
    assert len(pairs) > 100
    for one, other in pairs[::3]:
        assert onward(scope, one) == onward(scope, other)


def test_what_is_left_out_wrongly_is_found() -> None:
    """The test above can fail: without the order of tokens, an EXTEND tells two twins apart."""
    scope = SCOPES["bound"]
    blind = Scope("blind", "", scope.tasks, scope.policy, fetches=scope.fetches)  # reduces as if nothing were extended
    seen: dict[bytes, set[tuple[str, bytes]]] = {}
    told_apart = False
    for pair in worlds(scope, 3000):
        for world in pair:
            future = onward(scope, world)
            told_apart = told_apart or seen.setdefault(explore.reduced(blind, world), future) != future
        if told_apart:
            break
    assert told_apart


# Planted faults


def early(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
    """Due work is done one ms early."""
    return decide(state, command, now_ms + isinstance(command, Tick | Fetch), seed)


def test_an_expiry_one_ms_early_is_found() -> None:
    violation = explore.explore(SCOPES["shared"], decide=early).violation
    assert violation is not None
    assert violation.sentence.startswith("I15: it is 1000")  # dated 1001: no lease is needed to see that
    assert violation.moves == 2


def test_an_expiry_one_ms_early_that_hides_its_date_is_found() -> None:
    def hidden(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
        decision = early(state, command, now_ms, seed)
        expired = any(isinstance(event, Expired) for event in decision.events)
        return decision if expired else decide(state, command, now_ms, seed)

    violation = explore.explore(SCOPES["plain"], decide=hidden).violation
    assert violation is not None
    assert violation.sentence == "I6: it is 1000, and a lease until 1001 expired"
    assert (
        violation.transcript
        == """\
  1. 1000  Enqueue()
           -> QueueConfigured(policy=Policy(max_attempts=3, lease_ms=3))
           -> Enqueued(number=1)
  2. 1000  Fetch(lease_ms=1, count=2)
           -> Leased(number=1, token=1, deadline_ms=1001)
  3. 1000  Tick()
           -> Expired(number=1, attempts=1)
           -> Requeued(number=1)"""
    )


def test_an_ack_that_ignores_its_lease_is_found() -> None:
    def trusting(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
        task = state.tasks.get(command.number) if isinstance(command, Ack) else None
        if task is not None and task.lease is not None:
            command = Ack(QUEUE, task.lease.lease_id, task.number, task.token)
        return decide(state, command, now_ms, seed)

    violation = explore.explore(SCOPES["plain"], decide=trusting).violation
    assert violation is not None
    assert violation.sentence == "I4: its lease is void, and it had an effect: Acked(number=1)"
    assert violation.moves == 3  # enqueue, fetch, ack with a lease that was never given
    assert violation.transcript.splitlines()[-2:] == [
        "  3. 1000  Ack(number=1, token=2)",
        "           -> Acked(number=1)",
    ]


def test_a_void_lease_that_crashes_the_decider_is_found() -> None:
    def fragile(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
        try:
            return decide(state, command, now_ms, seed)
        except Refused as refused:
            if refused.code == NOLEASE and state.tasks:
                raise KeyError(command) from None
            raise

    violation = explore.explore(SCOPES["plain"], decide=fragile).violation
    assert violation is not None
    assert violation.sentence.startswith("decide failed: KeyError")


def test_attempts_that_are_not_counted_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgiving(heart: Heart, event: TaskEvent) -> None:
        task = heart.tasks[event.number]
        tally = replace(task.tally, attempts=task.tally.attempts - 1)
        heart.swap(task, replace(task, tally=tally))

    and_then(monkeypatch, Failed, forgiving)
    violation = explore.explore(SCOPES["nack and dead letter"]).violation
    assert violation is not None
    assert violation.sentence.startswith("I8")
    assert violation.moves == 3


def test_a_requeue_behind_the_backlog_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def backlogged(heart: Heart, event: TaskEvent) -> None:
        task = heart.tasks[event.number]
        heart.swap(task, replace(task, place=heart.next_number))

    and_then(monkeypatch, Requeued, backlogged)
    violation = explore.explore(SCOPES["plain"]).violation
    assert violation is not None
    assert violation.sentence == "I7: task '1-0000000000000000' lost its place: 1 became 2"
    assert violation.moves == 4  # enqueue, fetch for 1 ms, 1 ms passes, tick


def charged_for_nothing(heart: Heart, event: Released) -> None:
    """An undelivered reply costs an attempt, and no number of them is too many."""
    if event.cause == "undelivered":
        task = heart.tasks[event.number]
        heart.swap(task, replace(task, tally=replace(task.tally, attempts=task.tally.attempts + 1)))


@needs_source
def test_an_attempt_charged_for_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    and_then(monkeypatch, Released, charged_for_nothing)
    violation = explore.explore(SCOPES["nack and dead letter"]).violation
    assert violation is not None
    assert violation.sentence == "I8: task '1-0000000000000000' has 1 attempts, and 0 were charged"
    assert violation.moves == 3  # enqueue, fetch, the reply is lost


@needs_source
def test_what_grows_for_ever_ends_the_exploration_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fault, with nobody who counts the attempts: there is always one more state."""
    and_then(monkeypatch, Released, charged_for_nothing)
    monkeypatch.setattr(judging, "_judge_tasks", lambda *arguments: None)
    scope = Scope("endless", "", 1, Policy(max_attempts=0, lease_ms=1, backoff_ms=1), undelivers=True, states_max=500)
    violation = explore.explore(scope).violation
    assert violation is not None
    assert violation.sentence == "501 states, and no end of them: something grows"
    assert "cause='undelivered'" in violation.transcript


@needs_source
def test_a_redrive_to_an_old_place_or_with_old_attempts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_its_old_place(heart: Heart, event: TaskEvent) -> None:
        task = heart.tasks[event.number]
        heart.swap(task, replace(task, place=task.number))

    def with_its_old_attempts(heart: Heart, event: TaskEvent) -> None:
        task = heart.tasks[event.number]
        heart.swap(task, replace(task, tally=replace(task.tally, attempts=task.tally.failures)))

    for fault, sentence in ((at_its_old_place, "I7: task"), (with_its_old_attempts, "I8: task")):
        with monkeypatch.context() as patch:
            and_then(patch, Redriven, fault)
            violation = explore.explore(SCOPES["nack and dead letter"]).violation
        assert violation is not None
        assert violation.sentence.startswith(sentence)
        assert violation.transcript.splitlines()[-1].lstrip().startswith("-> Redriven(")


def test_a_bound_that_does_not_count_delayed_tasks_is_found() -> None:
    def blind(state: QueueState, command: AnyCommand, now_ms: int, seed: int) -> Decision:
        if isinstance(command, Enqueue) and len(state.scheduled) and len(state.ready) < state.policy.max_ready:
            opened = altered(state, policy=replace(state.policy, max_ready=0))
            decision = decide(opened, command, now_ms, seed)
            return replace(decision, state=altered(decision.state, policy=state.policy))
        return decide(state, command, now_ms, seed)

    violation = explore.explore(SCOPES["full"], decide=blind).violation
    assert violation is not None
    assert violation.sentence == "FULL was due, and it was carried out"
    assert violation.moves == 3


@needs_source
def test_a_dedup_window_that_is_ignored_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heart, "knows", lambda self, task_id, now_ms: self.number_of(task_id) is not None)
    violation = explore.explore(SCOPES["dedup"]).violation
    assert violation is not None
    assert violation.sentence == "I14: 'a' was forgotten inside its window"
    assert violation.moves == 3  # enqueue, delete, enqueue


@needs_source
def test_a_memory_that_is_too_short_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "_remember", lambda heart, task, at_ms: task)
    violation = explore.explore(SCOPES["dedup"]).violation
    assert violation is not None
    assert violation.sentence == "I14: 'a' is gone, and not remembered for its window"
    assert violation.moves == 2


@needs_source
def test_a_disconnect_that_is_never_fatal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = decider._attempts_used_up

    def lenient(heart: Heart, number: int) -> bool:
        return honest(heart, number) and heart.tasks[number].tally.ended != "disconnected"

    monkeypatch.setattr(decider, "_attempts_used_up", lenient)
    violation = explore.explore(SCOPES["bound"]).violation
    assert violation is not None
    assert violation.sentence.startswith("I8")
    assert "cause='disconnect', attempts=2" in violation.transcript


def test_events_that_do_not_lead_where_it_was_decided_are_found() -> None:
    def forgetful(state: QueueState, event: AnyEvent) -> QueueState:
        return altered(apply(state, event), paused=False)

    violation = explore.explore(SCOPES["pause"], apply=forgetful).violation
    assert violation is not None
    assert violation.sentence.startswith("I10")


# Liveness can be red


def test_a_task_that_is_released_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no whims excused, giving back and fetching again is a run without an end."""
    monkeypatch.setattr(search, "WHIMS", frozenset())
    violation = explore.explore(SCOPES["ttl"]).violation
    assert violation is not None
    assert violation.sentence.startswith("L3: for ever")


def test_a_queue_that_time_does_not_move_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FORCED", frozenset({"Fetch"}))
    violation = explore.explore(SCOPES["plain"]).violation
    assert violation is not None
    assert violation.sentence.startswith("L3: stuck")


def test_a_queue_that_cannot_be_emptied_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = explore.moves
    monkeypatch.setattr(search, "moves", lambda scope, world: [m for m in honest(scope, world) if m.name != "Ack"])
    scope = Scope("no end", "", 1, Policy(max_attempts=0, lease_ms=1), nacks=(("retry", UNSET),))
    violation = explore.explore(scope).violation
    assert violation is not None
    assert violation.sentence.startswith("no state in which nothing waits")
    assert violation.moves == 1


def test_a_snapshot_that_forgets_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "state_of", lambda image: state_of(replace(image, last_token=0)))
    violation = explore.explore(SCOPES["plain"]).violation
    assert violation is not None
    assert violation.sentence == "I10: what a snapshot keeps makes another state: last_token differ"
    assert violation.moves == 2


def test_a_state_that_a_snapshot_cannot_keep_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(image: Image) -> QueueState:
        return state_of(replace(image, tasks=(*image.tasks, *image.tasks)))

    monkeypatch.setattr(judging, "state_of", twice)
    violation = explore.explore(SCOPES["plain"]).violation
    assert violation is not None
    assert violation.sentence.startswith("I10: no state can be made of what a snapshot keeps: task ")


# The command line


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scope", "dedup"]) == 0
    out = capsys.readouterr().out
    assert "507       1708     13" in out
    assert out.endswith("no violation\n")


def test_all_scopes_beside_each_other_are_told_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scope", "own options", "--scope", "dedup", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.index("own options") < out.index("dedup ")
    assert out.endswith("no violation\n")


def test_no_jobs_are_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--jobs", "0"])
    assert ended.value.code == 2
    assert "--jobs is 1 or more" in capsys.readouterr().err


@needs_source
def test_a_violation_is_printed_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(effects, "_remember", lambda heart, task, at_ms: task)
    assert main(["--scope", "dedup"]) == 1
    assert "=> I14: 'a' is gone" in capsys.readouterr().out


def test_connections_must_be_alike_to_change_places() -> None:
    bound = (Fetch(QUEUE, 1, 1, "w1", True), Fetch(QUEUE, 2, 1, "w2", True))
    with pytest.raises(AssertionError, match="connections that differ"):
        Scope("lopsided", "", 1, fetches=bound)


def test_a_command_is_told_briefly() -> None:
    assert brief(Enqueue(QUEUE, b"x", "a", delay_ms=2)) == "Enqueue(task_id='a', delay_ms=2)"
    assert brief(Nack(QUEUE, "id", 3, 4, "fatal")) == "Nack(number=3, token=4, kind='fatal')"
