"""Queues in this process's memory: the reducer, driven directly.

Lives here: the map of queues, when each next needs time, and what a turn changed, so that it can be taken back. Must
not: rules, disks. By itself it forgets everything with the process; `durable` keeps a log beside it.
"""

import heapq
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, final

from librt.strings import BytesWriter
from msgspec.structs import asdict

from moxy.backends.base import Clock, Done, IdSource, Outcome, Plain, Slow
from moxy.backends.recent import Recent
from moxy.core.answers import Names, Past
from moxy.core.batch import Batch
from moxy.core.commands import AnyCommand, Info, ListQueues, ReadEvents, ReadHistory, Tick
from moxy.core.decider import decide
from moxy.core.errors import ERR, NOTASK, Refused
from moxy.core.events import AnyEvent, Enqueued
from moxy.core.globs import matches
from moxy.core.heart import NEVER_MS
from moxy.core.notes import Happened, Written
from moxy.core.policy import Policy
from moxy.core.state import QueueState
from moxy.core.tasks import Image, Totals

_DUE_SLACK: Final = 64
"""Entries of the order of due times that may be out of date before it is made anew."""


_LONG: Final = 1000
"""Tasks from which on a queue is frozen before all others."""
_INDEXED_AT_ONCE: Final = 4_000
"""Recent events that one turn indexes: about a millisecond."""
_SLICE: Final = 100
"""Short queues frozen in one step: less than a millisecond."""


@final
class MemoryBackend:
    """Many named queues, each created by its first event. `policy` is what new ones are born with."""

    def __init__(
        self,
        clock: Clock,
        ids: IdSource,
        policy: Policy | None = None,
        states: Mapping[str, QueueState] | None = None,
        recent: Recent | None = None,
    ) -> None:
        self._clock: Final = clock
        self._ids: Final = ids
        self._policy: Final = policy or Policy()
        self._queues: dict[str, QueueState] = {}
        self._totals_at_start: dict[str, Totals] = {}
        self.recent: Final = recent or Recent()
        self.uncommitted: list[Happened] = []
        """The events of this turn so far, in the order in which they were decided."""
        self._written: list[Happened] = []
        """Those of the turn before, while they are on their way to the medium."""
        self._before: dict[str, QueueState | None] = {}
        self._batches: dict[str, Batch] = {}
        self._writer: BytesWriter | None = None
        """What the notes of a batch before were written with, for those of the next."""
        self._settled: list[Written] = []
        # When each queue next needs time, at the earliest. Only a nearer time is written down; one that has moved
        # away meanwhile (an ACK, an EXTEND) is found out when it comes. So there is about one entry per queue.
        self._due_ms: dict[str, int] = {}
        self._due_order: list[tuple[int, str]] = []
        for queue, state in (states or {}).items():
            self._totals_at_start[queue] = state.totals
            self._set(queue, state)

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        now_ms = self._clock.now_ms()
        self.settle()
        return [self._execute_one(command, now_ms) for command in commands]

    def plain(self) -> Plain:
        return self

    def batch(self, queue: str) -> Batch | None:
        batch = self._batches.get(queue)
        if batch is None:
            state = self._queues.get(queue)
            if state is not None:
                writer, self._writer = self._writer, None
                batch = self._batches[queue] = Batch(state, writer)
        return batch

    def digits(self, count: int) -> bytes:
        return self._ids.digits(count)

    def settled(self) -> Sequence[Written]:
        self.settle()
        settled, self._settled = self._settled, []
        return settled

    async def expire(self) -> list[AnyEvent]:
        now_ms = self._clock.now_ms()
        self.settle()
        events: list[AnyEvent] = []
        due = self._due_order
        late: list[str] = []
        while due and due[0][0] <= now_ms:
            at_ms, queue = heapq.heappop(due)
            if self._due_ms.get(queue) == at_ms:
                del self._due_ms[queue]
                late.append(queue)
        for queue in late:
            state = self._queues.get(queue)
            if state is None:
                continue  # its first turn was taken back
            decision = decide(state, Tick(queue), now_ms, self._ids.seed())
            if decision.events:
                self._keep(queue, state, (decision.events,), decision.state)
                events += decision.events
            else:
                self._set(queue, state)
        return events

    async def names(self, query: ListQueues) -> Names:
        names = sorted(name for name in self._queues if name > query.cursor)
        page = names[: query.count]
        return Names(
            page[-1] if len(page) < len(names) else "", [name for name in page if matches(query.pattern, name)]
        )

    def next_due_ms(self) -> int | None:
        return self._due_order[0][0] if self._due_order else None

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        if self.is_behind():
            return CatchUp(self.recent, partial(self.events, query))
        return self.recent_events(query)

    async def history(self, query: ReadHistory) -> Outcome | Slow:
        if self.is_behind():
            return CatchUp(self.recent, partial(self.history, query))
        return self.recent_history(query)

    def is_behind(self) -> bool:
        """Whether the index of recent events lags so far that one turn is not to make up for it all."""
        self.recent.index(_INDEXED_AT_ONCE)
        return bool(self.recent.behind)

    def recent_events(self, query: ReadEvents) -> Outcome:
        """What memory knows."""
        horizon = self.recent.horizon(query.queue, self.committed_seq(query.queue))
        if query.from_seq < horizon and horizon > 1:
            return Refused(ERR, f"events below sequence {horizon} are no longer kept: read on from there")
        return Done(Past(self.recent.since(query.queue, query.from_seq, query.count), horizon))

    def committed_seq(self, queue: str) -> int:
        """The last event of the queue that is written: none of `uncommitted`."""
        self.settle()
        state = self._queues.get(queue)
        if state is None:
            return 0
        # The state before those knows it, too, but would first have to undo them.
        return state.seq - sum(len(some) for some in self.uncommitted if _queue_of(some) == queue)

    def recent_history(self, query: ReadHistory) -> Outcome:
        """What memory knows."""
        events = self.recent.of_task(query.queue, query.task_id)
        state = self.state_of(query.queue)
        if not events and state.named(query.task_id) is None:
            return Refused(NOTASK, "the queue does not know that task, and no event that is still kept concerns it")
        cut = not events or not isinstance(events[0], Enqueued)
        return Done(Past(events, self.recent.horizon(query.queue, self.committed_seq(query.queue)), cut))

    def commit_at_once(self) -> bool:
        """No promise is made about what is only in memory."""
        self.settle()
        self.written()
        self.accept()
        return True

    async def commit(self) -> None:
        self.commit_at_once()

    def written(self) -> None:
        """The log has the turn: it cannot be taken back any more. What is decided from here on is of the next."""
        if self.uncommitted:
            self._written, self.uncommitted = self.uncommitted, []
            self._before.clear()

    def accept(self, payload: bytes = b"") -> None:
        """What was written is committed: its events can be read. `payload`: as the log has them."""
        if self._written:
            self.recent.add(self._written, payload)
            self._written = []

    def take_back(self) -> None:
        """The turn is refused: every queue is again as it was before it. Old states are still there to go back to."""
        for queue, state in self._before.items():
            if state is None:
                del self._queues[queue]
            else:
                self._set(queue, state)
        self.uncommitted = []
        self._before.clear()

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        """Nobody else changes these queues."""

    def news(self) -> Iterable[str]:
        return ()

    async def run(self, wake: Callable[[], None]) -> None:
        """Nothing to do beside turns."""

    async def close(self) -> None:
        """Nothing is held."""

    def describe(self) -> dict[str, str | int]:
        return {"backend": "memory", "durability": "none", "queues": len(self._queues)}

    def states(self) -> dict[str, QueueState]:
        """All queues as they are now: values that stay valid. For this thread, and not to keep: see core/state."""
        self.settle()
        return dict(self._queues)

    def freeze(self) -> Iterator[list[Image]]:
        """All queues as they are at the first step, for a thread to read while they go on; `thaw` when it has. Of a
        turn that is not written yet they show nothing.

        A slice a step, so that thousands of queues can be frozen over as many turns: their states of the first step
        are still there to be frozen later. Long queues come first, before they have moved on.
        """
        self.settle()
        states = [state for queue, now in self._queues.items() if (state := self._before.get(queue, now)) is not None]
        short = [state for state in states if len(state.heart().tasks) < _LONG]
        yield [state.frozen() for state in states if len(state.heart().tasks) >= _LONG]
        for start in range(0, len(short), _SLICE):
            self.settle()  # meanwhile somebody may have begun a batch
            yield [state.frozen() for state in short[start : start + _SLICE]]

    def thaw(self) -> None:
        """The frozen images are not needed any more."""
        self.settle()
        for state in self._queues.values():
            state.thaw()

    def state_of(self, queue: str) -> QueueState:
        """The queue as it is; one that does not exist yet is an empty one with the policy it would be born with."""
        self.settle()
        state = self._queues.get(queue)
        return QueueState(queue, self._policy) if state is None else state

    def settle(self) -> None:
        """Make states of the batches, so that the queues can be read."""
        if not self._batches:
            return
        batches, self._batches = self._batches, {}
        for queue, batch in batches.items():
            state = batch.close()
            if batch.notes.count:
                written = batch.notes.parts()
                self._settled += written
                self._keep(queue, batch.start, written, state)
            self._writer = batch.notes.writer

    def _execute_one(self, command: AnyCommand, now_ms: int) -> Outcome:
        queue = command.queue
        state = self._queues.get(queue)
        try:
            decision = decide(state or QueueState(queue, self._policy), command, now_ms, self._ids.seed())
        except Refused as refused:
            return refused
        events = decision.events
        if events:
            self._keep(queue, state, (events,), decision.state)
        elif type(command) is Info and isinstance(decision.answer, dict):
            before = asdict(self._totals_at_start.get(queue, Totals()))
            since = {f"since_start_{k}": n - before[k] for k, n in asdict(decision.state.totals).items()}
            return Done({**decision.answer, **since})
        return Done(decision.answer, events)

    def _keep(self, queue: str, before: QueueState | None, happened: Sequence[Happened], state: QueueState) -> None:
        """Take events that change the queue into the turn."""
        self._before.setdefault(queue, before)
        self.uncommitted += happened
        self._set(queue, state)

    def _set(self, queue: str, state: QueueState) -> None:
        """The queue is now in that state; note when it next needs time, if that is sooner than known."""
        self._queues[queue] = state
        due_ms = state.soonest_ms
        if due_ms < NEVER_MS and due_ms < self._due_ms.get(queue, NEVER_MS):
            self._due_ms[queue] = due_ms
            heapq.heappush(self._due_order, (due_ms, queue))
            if len(self._due_order) > 2 * len(self._due_ms) + _DUE_SLACK:
                self._due_order = [(ms, name) for name, ms in self._due_ms.items()]
                heapq.heapify(self._due_order)


def _queue_of(happened: Happened) -> str:
    """The queue of events in a row. There is at least one."""
    return happened.queue if isinstance(happened, Written) else happened[0].queue


@final
class CatchUp:
    """A read that has to wait until the recent events are indexed, a slice a turn."""

    def __init__(self, recent: Recent, read: Callable[[], Awaitable[Outcome | Slow]]) -> None:
        self._recent: Final = recent
        self._read: Final = read
        self._rest: Slow | None = None

    async def advance(self) -> Outcome | None:
        if self._rest is not None:
            return await self._rest.advance()
        self._recent.index(_INDEXED_AT_ONCE)
        if self._recent.behind:
            return None
        read = await self._read()
        if isinstance(read, Done | Refused):
            return read
        self._rest = read
        return None
