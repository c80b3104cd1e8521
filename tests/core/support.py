"""A queue to talk to: every step that a test takes is checked against the invariants and against a replay.

Lives here: `Q`, the transcripts' one helper, the canonical dump of a state, and the steps that every test of the core
shares. Must not: an expectation about a single rule.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from moxy.core import effects
from moxy.core.answers import Delivery, TaskView
from moxy.core.commands import (
    Ack,
    AnyCommand,
    Command,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    Nack,
    Pause,
    Peek,
    Purge,
    Redrive,
    Release,
    Resume,
    Show,
    Stats,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.decision import Decision
from moxy.core.dedup import Dedup
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent, DeadLettered, Event, Leased, Purged, Released, Requeued, TaskEvent
from moxy.core.heart import Heart
from moxy.core.ids import split_lease_id
from moxy.core.invariants import broken_by, first_eligible
from moxy.core.order import Order
from moxy.core.policy import Policy
from moxy.core.reading import FIELDS, OrderView
from moxy.core.reducer import apply, replay
from moxy.core.state import QueueState, state_of
from moxy.core.tasks import PRIORITY_MAX, Task
from moxy.core.vicinity import broken_near
from tests.core.oracle import Persistent
from tests.core.ordered import Ordered

T0 = 1_000_000
DAY_MS = 24 * 60 * 60 * 1000


def dump(value: Any) -> Any:
    """A state, or anything in it, as plain lists, dicts and tuples: two are equal if and only if the values are.

    States compare by identity, so `==` on two of them says too little. The oracle's give the same as the real ones.
    """
    if isinstance(value, QueueState | Persistent):
        return {field: dump(getattr(value, field)) for field in FIELDS}
    if isinstance(value, Ordered | OrderView):
        return list(value)
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        return {name: dump(getattr(value, name)) for name in value.__struct_fields__}
    return value


def altered(state: QueueState, *tasks: Task, **fields: Any) -> QueueState:
    """Another state: with these tasks in the places of those with their numbers, and these fields of its image."""
    image = state.image()
    kept = {task.number: task for task in (*image.tasks, *tasks)}
    return state_of(msgspec.structs.replace(image, tasks=tuple(kept.values()), **fields))


def heart_like(truth: Persistent) -> Heart:
    """A heart that holds field by field what the oracle's state holds, sound or not; `heart_of` would derive most."""
    h = Heart(truth.name, truth.policy)
    for field in ("seq", "at_ms", "born_ms", "paused", "next_number", "last_token", "limbo"):
        setattr(h, field, getattr(truth, field))
    h.enqueued, matured, h.leased, extended, h.acked, *rest = msgspec.structs.astuple(truth.totals)
    h.counts = [matured, extended, *rest]
    for number, task in truth.tasks.items():
        h.tasks[number] = task
    h.names = dict(truth.numbers)
    h.dedup = Dedup(dict(truth.remembered)) if truth.remembered else None
    for rank, place, number in truth.ready:
        h.lane(PRIORITY_MAX - rank).add(place)
        if place != number:
            h.move(place, number)
    for field in ("scheduled", "processing", "dead", "expiring"):
        setattr(h, field, Order(getattr(truth, field)))
    return h


def real(truth: Persistent | QueueState) -> QueueState:
    """The oracle's state as one that reads its own heart, sound or not.

    Its `numbers` are looked up one by one, and listed from the tasks, so a list of them is never wrong by itself.
    """
    if isinstance(truth, QueueState):
        return truth
    state = QueueState(truth.name, truth.policy, heart_like(truth))
    for field in FIELDS:
        if field != "numbers":
            assert dump(getattr(state, field)) == dump(getattr(truth, field)), field
    assert all(state.numbers.get(task_id) == number for task_id, number in truth.numbers.items())
    return state


def and_then(patch: pytest.MonkeyPatch, kind: type[Event], change: Callable[[Heart, Any], None]) -> None:
    """Plant a fault: the effect of such events does this, too."""
    name = f"_{kind.__name__.lower()}"
    effect = effects._EFFECTS.get(kind) or getattr(effects, name)

    def faulty(heart: Heart, event: AnyEvent, *fields: Any) -> object:
        before = effect(heart, event, *fields)
        change(heart, event)
        return before

    if kind in effects._EFFECTS:
        patch.setitem(effects._EFFECTS, kind, faulty)
    else:
        patch.setattr(effects, name, faulty)


def check_step(before: QueueState, command: AnyCommand, decision: Decision) -> None:
    """What holds for every step, whatever the command was."""
    events, after = decision.events, decision.state
    if not events:
        assert after is before, f"I12: {command} has no event, yet it made another state"
        return
    assert broken_by(before, events, after) == []
    assert broken_near(before, events, after) == []
    assert after.limbo == 0, "a task rests in expired or failed"
    assert dump(replay(events, before)) == dump(after), "I10"
    if isinstance(command, Fetch):
        assert first_eligible(state_before_first_lease(before, events), command, events) is None


def state_before_first_lease(state: QueueState, events: Iterable[AnyEvent]) -> QueueState:
    """A FETCH does due work first; I7 is about what it finds then."""
    for event in events:
        if isinstance(event, Leased):
            break
        state = apply(state, event)
    return state


def sentence(event: AnyEvent) -> str:
    """One event, short: its name, whom it concerns, and what tells it from others of its kind."""
    words: list[object] = [type(event).__name__]
    if isinstance(event, TaskEvent):
        words.append(event.task_id)
    if isinstance(event, Requeued) and event.due_ms:
        words.append(f"+{event.due_ms - event.at_ms}")
    elif isinstance(event, Released):
        words.append(event.cause)
    elif isinstance(event, DeadLettered):
        words += [f"{event.cause}:", event.reason]
    elif isinstance(event, Purged):
        words += [event.count, event.state]
    return " ".join(map(str, words))


class Q:
    """One queue and its clock. Tasks get the ids that the test gives them; leases are named by their ids.

    `said` has what the last command did, as sentences; `events` has the events themselves, `log` all of them so far.
    """

    def __init__(self, name: str = "jobs", born: Policy | None = None, seed: int = 0, **policy: int) -> None:
        """`born` is the policy that the queue is born with; `policy` sets fields by a CONFIG right away."""
        self.state = self.unborn = QueueState(name, born or Policy())
        self.name = name
        self.now = T0
        self.seed = seed
        self.events: tuple[AnyEvent, ...] = ()
        self.log: list[AnyEvent] = []
        if policy:
            self.config(**policy)

    def do(self, command: AnyCommand) -> Any:
        """Carry the command out, check the step, and return the answer."""
        before = self.state
        decision = decide(before, command, self.now, self.seed)
        # The checks recount everything: while a test only fills a queue, they would cost the square of its tasks.
        if len(before.tasks) < 200 or not isinstance(command, Enqueue):
            check_step(before, command, decision)
        self.state, self.events = decision.state, decision.events
        self.log += decision.events
        return decision.answer

    def refuses(self, command: Command) -> str:
        """The command is refused and nothing has changed (I12); what it says, beginning with the code."""
        before, was = self.state, dump(self.state)
        with pytest.raises(Refused) as caught:
            decide(before, command, self.now, self.seed)
        assert dump(before) == was, "I12: a refusal changed the state"
        assert str(caught.value) == f"{caught.value.code} {caught.value.text}"
        return str(caught.value)

    @property
    def said(self) -> list[str]:
        return [sentence(event) for event in self.events]

    # Time

    def wait(self, ms: int) -> "Q":
        """Time passes, and nobody does anything about it."""
        self.now += ms
        return self

    def tick(self, wait_ms: int = 0) -> Any:
        """The timer fires, `wait_ms` from now."""
        return self.wait(wait_ms).do(Tick(self.name))

    # Producers and workers

    def add(self, *task_ids: str, **options: Any) -> "Q":
        """Enqueue tasks with these ids, and their ids as payload."""
        for task_id in task_ids:
            command = Enqueue(self.name, **{"payload": task_id.encode(), "task_id": task_id, **options})
            assert self.do(command) == [task_id]
        return self

    def add_many(self, *payloads: bytes) -> list[str]:
        ids: list[str] = self.do(EnqueueMany(self.name, payloads))
        return ids

    def fetch(self, ms: int = 100, count: int = 1, **options: Any) -> list[Delivery]:
        deliveries: list[Delivery] = self.do(Fetch(self.name, ms, count, **options))
        return deliveries

    def take(self, ms: int = 100, **options: Any) -> str:
        """The lease id of the one task that must be there."""
        [delivery] = self.fetch(ms, **options)
        assert delivery.lease_id is not None
        return delivery.lease_id

    def take_ids(self, count: int = 1000, ms: int = 100) -> list[str]:
        """The task ids that a FETCH of up to `count` brings, in order."""
        return [delivery.task_id for delivery in self.fetch(ms, count)]

    def ack(self, lease_id: str) -> Any:
        return self.do(ack(lease_id))

    def nack(self, lease_id: str, **options: Any) -> list[str]:
        assert self.do(nack(lease_id, **options)) is None
        return self.said

    def extend(self, lease_id: str, ms: int) -> Any:
        return self.do(extend(lease_id, ms))

    def release(self, lease_id: str, cause: Any) -> list[str]:
        assert self.do(release(lease_id, cause)) is None
        return self.said

    # Operators

    def config(self, **policy: int) -> Any:
        return self.do(Configure(self.name, tuple(policy.items())))

    def pause(self) -> Any:
        return self.do(Pause(self.name))

    def resume(self) -> Any:
        return self.do(Resume(self.name))

    def redrive(self, *task_id: str, **options: Any) -> Any:
        return self.do(Redrive(self.name, task_id=task_id[0] if task_id else "", **options))

    def delete(self, task_id: str) -> Any:
        return self.do(Delete(self.name, task_id))

    def purge(self, state: Any) -> Any:
        return self.do(Purge(self.name, state))

    # Looks

    def show(self, task_id: str) -> TaskView:
        view = self.do(Show(self.name, task_id))
        assert isinstance(view, TaskView), f"{task_id} is not known"
        return view

    def peek(self, state: str, count: int = 1000) -> list[str]:
        return [delivery.task_id for delivery in self.do(Peek(self.name, state, count))]

    def counts(self) -> dict[str, int]:
        """The five counts of STATS."""
        counts: dict[str, int] = msgspec.structs.asdict(self.do(Stats(self.name)))
        return counts

    def dead(self, task_id: str) -> tuple[str | None, str | None]:
        """Cause and reason of a dead letter."""
        view = self.show(task_id)
        assert view.state == "dead"
        return view.dead_cause, view.dead_reason


# Commands about a lease, from its id as a client has it


def ack(lease_id: str) -> Ack:
    queue, number, token = split_lease_id(lease_id)
    return Ack(queue, lease_id, number, token)


def nack(lease_id: str, **options: Any) -> Nack:
    queue, number, token = split_lease_id(lease_id)
    return Nack(queue, lease_id, number, token, **options)


def extend(lease_id: str, ms: int) -> Extend:
    queue, number, token = split_lease_id(lease_id)
    return Extend(queue, lease_id, number, token, ms)


def release(lease_id: str, cause: Any) -> Release:
    queue, number, token = split_lease_id(lease_id)
    return Release(queue, lease_id, number, token, cause)


def void_uses(lease_id: str) -> Sequence[Command]:
    """Everything that a client can try with a lease."""
    return (
        ack(lease_id),
        nack(lease_id),
        nack(lease_id, kind="fatal"),
        nack(lease_id, kind="release"),
        extend(lease_id, 1_000_000),
        extend(lease_id, 1),
        release(lease_id, "disconnect"),
        release(lease_id, "undelivered"),
    )
