"""What is checked at every step and in every state of an exploration.

What lives here: one command carried out by the real `decide` and `apply`, and what must hold of it. What must not live
here: the search, liveness (`search`), a second idea of how a queue works.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from moxy.core.answers import Delivery, QueueStats
from moxy.core.commands import (
    Ack,
    AnyCommand,
    Command,
    Enqueue,
    Extend,
    Fetch,
    Info,
    LeaseCommand,
    Nack,
    Peek,
    Query,
    ReadPolicy,
    Release,
    Show,
    Stats,
    Tick,
)
from moxy.core.decision import Decision
from moxy.core.errors import NOLEASE, Refused
from moxy.core.events import (
    AnyEvent,
    DeadLettered,
    Expired,
    Failed,
    Leased,
    Purged,
    Redriven,
    Released,
    Requeued,
    TaskEvent,
)
from moxy.core.ids import digits, lease_id
from moxy.core.invariants import broken_by, first_eligible
from moxy.core.lifecycle import DEAD, READY, SCHEDULED
from moxy.core.reading import Reading, differing, reading_of
from moxy.core.state import QueueState, state_of
from spec.explore.scopes import QUEUE
from spec.explore.telling import brief
from spec.explore.worlds import World, is_known

Decide = Callable[[QueueState, AnyCommand, int, int], Decision]
Apply = Callable[[QueueState, AnyEvent], QueueState]


class Broken(Exception):
    """Something that must hold does not. The sentence begins with its number where it has one."""


def take(world: World, command: Command, refusals: tuple[str, ...], seed: int, decide: Decide, apply: Apply) -> World:
    """One command carried out and judged. Raises Broken."""
    before, now_ms = world.state, world.now_ms
    try:
        decision = decide(before, command, now_ms, seed)
    except Refused as refused:
        if refused.code not in refusals:
            raise Broken(f"{', '.join(refusals) or 'an effect'} was due, and the answer is {refused}") from None
        return world
    except Exception as error:
        raise Broken(f"decide failed: {type(error).__name__}: {error}") from error
    if refusals:
        raise Broken(f"{', '.join(refusals)} was due, and it was carried out")
    events = decision.events
    after = before
    try:
        for event in events:
            after = apply(after, event)
    except Exception as error:
        raise Broken(f"apply failed: {type(error).__name__}: {error}") from error
    if not events and decision.state is not before:
        raise Broken("I12: the state changed, and no event says so")
    reached = World(after, now_ms) if events else world
    if events:
        _judge_step(world, command, decision, reached.read)
    if isinstance(command, LeaseCommand):
        _judge_lease(world, command, decision, reached.read)
    elif isinstance(command, Fetch | Tick):
        _judge_due_work(world, command, decision, reached, apply)
    elif isinstance(command, Enqueue):
        _judge_enqueue(world, command, events)
    return reached


def _judge_step(world: World, command: Command, decision: Decision, after: Reading) -> None:
    """What holds for every step, whatever the command was."""
    before, now_ms = world.read, world.now_ms
    events = decision.events
    for event in events:
        if not isinstance(event, Expired):
            continue
        task = before.tasks.get(event.number)
        if task and task.lease and task.lease.deadline_ms > now_ms:
            raise Broken(f"I6: it is {now_ms}, and a lease until {task.lease.deadline_ms} expired")
    if reading_of(decision.state) != after:
        raise Broken("I10: the events do not lead to the state that was decided")
    if any(event.at_ms != now_ms for event in events):
        raise Broken(f"I15: it is {now_ms}, and something else is written in {events}")
    sentences = broken_by(before, events, after)
    if sentences:
        raise Broken(sentences[0])
    _judge_tasks(world, command, events, after)


def _judge_tasks(world: World, command: Command, events: Sequence[AnyEvent], after: Reading) -> None:
    """What becomes of each task: only what the events say, and nothing that is not allowed to change."""
    before, now_ms = world.read, world.now_ms
    named = {event.number for event in events if isinstance(event, TaskEvent)}
    purged = any(isinstance(event, Purged) for event in events)
    redriven = {event.number for event in events if isinstance(event, Redriven)}
    charged = _charged(events)
    for number, old in before.tasks.items():
        new = after.tasks.get(number)
        if new == old:
            continue
        if number not in named and not (purged and new is None):
            raise Broken(f"I12: task {old.task_id!r} changed, and no event says so")
        if new is None:
            if old.options.dedup_ms and after.remembered.get(old.task_id) != (now_ms + old.options.dedup_ms, number):
                raise Broken(f"I14: {old.task_id!r} is gone, and not remembered for its window")
            continue
        if new.place != old.place and number not in redriven:
            raise Broken(f"I7: task {old.task_id!r} lost its place: {old.place} became {new.place}")
        if number in redriven and new.place < before.next_number:
            raise Broken(f"I7: task {old.task_id!r} was redriven to place {new.place}, and not behind the others")
        attempts = (0 if number in redriven else old.tally.attempts) + charged[number]
        if new.tally.attempts != attempts:
            raise Broken(f"I8: task {old.task_id!r} has {new.tally.attempts} attempts, and {attempts} were charged")
        if (new.task_id, new.payload, new.priority, new.options) != (
            old.task_id,
            old.payload,
            old.priority,
            old.options,
        ):
            raise Broken(f"I12: task {old.task_id!r} is another one now")
        kept = old.lease and new.lease and old.lease.lease_id == new.lease.lease_id
        if kept and new.lease != old.lease and not isinstance(command, Extend):
            raise Broken(f"I2: the lease of {old.task_id!r} changed without an EXTEND: {new.lease}")
    for task_id, (until_ms, number) in before.remembered.items():
        if until_ms > now_ms and after.remembered.get(task_id) != (until_ms, number):
            raise Broken(f"I14: {task_id!r} was forgotten inside its window")
    for event in events:
        if isinstance(event, Requeued | Released | DeadLettered):
            _judge_return(before, event, after, now_ms)


def _charged(events: Sequence[AnyEvent]) -> Counter[int]:
    """How many attempts each task used up: by an expiry, a NACK that is no release, a disconnect."""
    return Counter(
        event.number
        for event in events
        if isinstance(event, Expired | Failed) or (isinstance(event, Released) and event.cause == "disconnect")
    )


def _judge_return(before: Reading, event: Requeued | Released | DeadLettered, after: Reading, now_ms: int) -> None:
    task = after.tasks.get(event.number)
    if task is None:
        return
    most = before.policy.max_attempts if task.options.max_attempts < 0 else task.options.max_attempts
    used_up = 0 < most <= task.tally.attempts
    if isinstance(event, DeadLettered):
        if event.cause == "attempts" and not used_up:
            raise Broken(f"I9: {event} after {task.tally.attempts} attempts of {most}")
    elif task.state in (READY, SCHEDULED):
        if used_up and (isinstance(event, Requeued) or event.cause == "disconnect"):
            raise Broken(f"I8: {task.task_id!r} is back after {task.tally.attempts} attempts of {most}")
        if 0 < task.expires_ms <= now_ms:
            raise Broken(f"I9: {task.task_id!r} is back after its TTL")


def _judge_lease(world: World, command: LeaseCommand, decision: Decision, after: Reading) -> None:
    """I4, and what an EXTEND promises."""
    task = world.read.tasks.get(command.number)
    if task is None or task.lease is None or task.lease.lease_id != command.lease_id:
        raise Broken(f"I4: {command} had an effect, and its lease is void")
    if isinstance(command, Extend):
        lease = after.tasks[command.number].lease
        wanted_ms = max(task.lease.deadline_ms, world.now_ms + command.lease_ms)
        if lease is None or not lease.deadline_ms == decision.answer == wanted_ms:
            raise Broken(f"I6: {wanted_ms} was asked for, {decision.answer} answered, and the lease is {lease}")
        return
    left = after.tasks.get(command.number)
    if left is not None and (isinstance(command, Ack) or left.lease is not None):
        raise Broken(f"L2: {brief(command)} did not end the lease, or the task: {left}")


def _judge_due_work(world: World, command: Fetch | Tick, decision: Decision, reached: World, apply: Apply) -> None:
    """That nothing due is left; for a FETCH I7, the first and as many as asked, and that the answer is the truth."""
    before, after, now_ms = world.read, reached.read, world.now_ms
    events = decision.events
    due_ms = reached.state.next_due_ms()
    if due_ms is not None and due_ms <= now_ms:
        raise Broken(f"L2: it is {now_ms}, and what is due at {due_ms} was left undone")
    if isinstance(command, Tick):
        return
    due = list(takewhile(lambda event: not isinstance(event, Leased), events))
    state = world.state
    for event in due:
        state = apply(state, event)
    middle = reading_of(state) if due else before
    leased = events[len(due) :]
    sentence = first_eligible(middle, command, leased)
    if sentence:
        raise Broken(sentence)
    wanted = 0 if before.paused else min(command.count, len(middle.ready))
    if len(leased) != wanted:
        raise Broken(f"I7: {wanted} tasks were to be leased, and {len(leased)} were")
    answer = decision.answer
    assert isinstance(answer, list)
    if len(answer) != len(leased):
        raise Broken(f"I12: {len(leased)} leases, and {len(answer)} in the answer")
    for delivery, event in zip(answer, leased, strict=True):
        assert isinstance(delivery, Delivery)
        assert isinstance(event, Leased)
        task = after.tasks[event.number]
        lease_ms = command.lease_ms or task.options.lease_ms or before.policy.lease_ms
        told = (delivery.task_id, delivery.payload, delivery.lease_id, delivery.token, delivery.deadline_ms)
        lease = task.lease
        if lease is None or told != (task.task_id, task.payload, lease.lease_id, lease.token, now_ms + lease_ms):
            raise Broken(f"I6: {delivery} was answered, and the lease is {lease}")
        if lease.deadline_ms != delivery.deadline_ms:
            raise Broken(f"I6: {delivery.deadline_ms} was answered, and the deadline is {lease.deadline_ms}")


def _judge_enqueue(world: World, command: Enqueue, events: Sequence[AnyEvent]) -> None:
    known = bool(command.task_id) and is_known(world, command.task_id)
    if known and events:
        raise Broken(f"I14: {command.task_id!r} is known, and {events[-1]}")
    if not known and not events:
        raise Broken(f"I14: {command.task_id!r} is not known, and nothing was created")


_QUERIES: Final[tuple[Query, ...]] = (
    Stats(QUEUE),
    Peek(QUEUE, READY, 2),
    Peek(QUEUE, DEAD, 2),
    Show(QUEUE, "a"),
    Info(QUEUE),
    ReadPolicy(QUEUE),
)


def _probes(world: World) -> Iterator[tuple[Command, str]]:
    """Commands that must be refused here, with their code: those about void leases (I4).

    For each number, the lease that ended last, the one before it, and one that was never given. Which of several
    older leases it is makes no difference: none of their tokens is anywhere in the state.
    """
    state = world.state
    for number in range(1, state.next_number + 1):
        task = state.tasks.get(number)
        latest = task.token if task is not None else state.last_token
        for token in (latest - 1, latest, state.last_token + 1):
            if token < 1 or (task is not None and task.lease is not None and token == latest):
                continue
            lease = (QUEUE, lease_id(QUEUE, number, token, digits(0)), number, token)
            yield Ack(*lease), NOLEASE
            if token == latest:
                yield Nack(*lease), NOLEASE
                yield Nack(*lease, "release"), NOLEASE
                yield Extend(*lease, 1), NOLEASE
                yield Release(*lease, "disconnect"), NOLEASE


def judge_image(world: World) -> None:
    """I10: what a snapshot keeps of a state makes the same state. Raises Broken."""
    try:
        again = reading_of(state_of(world.state.image()))
    except ValueError as error:
        raise Broken(f"I10: no state can be made of what a snapshot keeps: {error}") from error
    fields = differing(world.read, again)
    if fields:
        raise Broken(f"I10: what a snapshot keeps makes another state: {', '.join(fields)} differ")


def probe(world: World, decide: Decide) -> None:
    """I4 and I12 in one state: what must have no effect has none. Raises `Probed`."""
    state, now_ms = world.state, world.now_ms
    for command, code in _probes(world):
        try:
            decision = decide(state, command, now_ms, 0)
        except Refused as refused:
            if refused.code != code:
                raise Probed(command, f"I4: {code} was due, not {refused}") from None
            continue
        except Exception as error:
            raise Probed(command, f"decide failed: {type(error).__name__}: {error}") from error
        raise Probed(command, f"I4: its lease is void, and it had an effect: {brief(decision.events)}")
    for query in _QUERIES:
        decision = decide(state, query, now_ms, 0)
        if decision.events or decision.state is not state:
            raise Probed(query, f"I12: a query, and {decision.events}")
        if isinstance(query, Stats):
            held = len(state.processing)
            counts = QueueStats(len(state.ready), held, len(state.dead), held, held)
            if decision.answer != counts:
                raise Probed(query, f"I8: {decision.answer}, but counted {counts}")


class Probed(Exception):
    def __init__(self, command: AnyCommand, sentence: str) -> None:
        super().__init__(sentence)
        self.command: Final = command
