"""Whether a queue's keys are what its events say: the proof, on a live Redis, that the scripts and the reducer agree.

Lives here: folding a stream, and comparing the fold with what is stored. Must not: write anything, print, or know a
rule; the reducer has those.

A busy queue changes while it is read. What is compared then is every task that no event touched between the first key
that was read and the last. A stream that was trimmed (`--retain-events`) cannot be folded from the queue's birth: then
its events are followed task by task, and the stored state must hold every invariant by itself.
"""

from collections.abc import Sequence
from typing import Final, final

import msgspec

from moxy.backends.redis.dump import Dump, read_dump, stored_seq
from moxy.backends.redis.link import Link
from moxy.backends.redis.stream import read_events
from moxy.core.errors import IllegalEvent
from moxy.core.events import (
    Acked,
    AnyEvent,
    DeadLettered,
    Deleted,
    Enqueued,
    Expired,
    Failed,
    Leased,
    Purged,
    Requeued,
    TaskEvent,
)
from moxy.core.invariants import broken
from moxy.core.lifecycle import DEAD, EXPIRED, FAILED, PROCESSING, READY, SCHEDULED
from moxy.core.reading import FIELDS, different
from moxy.core.reducer import apply
from moxy.core.state import QueueState, state_of
from moxy.core.tasks import Image, Task

_PAGE_EVENTS: Final = 1000
_LOOKS: Final = 5
_NOT_KEPT: Final = {"remembered", "forgetting"}
"""Fields that Redis keeps in another form: ids alone, without the numbers that they had."""


class QueueReport(msgspec.Struct, frozen=True):
    """What was found about one queue."""

    queue: str
    last_seq: int
    events: int
    horizon: int
    tasks: int
    compared: int
    epoch: int
    findings: list[str]

    @property
    def sentence(self) -> str:
        """The report in a line."""
        where = f"queue {self.queue}: {self.events} events up to #{self.last_seq}"
        if self.horizon > 1:
            how = f"followed from #{self.horizon} on, where the stream begins"
        else:
            how = "folded from its birth"
        equal = "equal" if not self.findings else "NOT equal"
        return f"{where} {how}; {self.compared} of {self.tasks} tasks compared, {equal}"


async def verify_queue(link: Link, prefix: str, queue: str) -> QueueReport:
    """Fold the queue's stream and compare it with its keys. Raises BackendDown."""
    for look in range(_LOOKS):
        dump = await read_dump(link, prefix, queue)
        last_seq = await stored_seq(link, prefix, queue)
        if last_seq == dump.image.seq or look == _LOOKS - 1:
            break
    comparison = _Comparison(dump, last_seq)
    next_seq = 0
    while page := await read_events(link, prefix, queue, next_seq, _PAGE_EVENTS):
        for event in page:
            comparison.take(event)
        next_seq = page[-1].seq + 1
        if comparison.is_over:
            break
    return comparison.report()


@final
class _Comparison:
    """A dump, and the events up to the moment when its last key was read."""

    def __init__(self, dump: Dump, last_seq: int) -> None:
        self._dump: Final = dump
        self._last_seq: Final = last_seq
        self._was_quiet: Final = last_seq == dump.image.seq
        self._state: QueueState | None = QueueState(dump.image.name)
        self._followed: Final[dict[int, AnyEvent]] = {}
        self._touched: Final[set[int]] = set()
        self._purged: Final[set[str]] = set()
        self._horizon = 0
        self._seq = 0
        self._at_ms = 0
        self._events = 0
        self.findings: Final[list[str]] = list(dump.contradictions) if self._was_quiet else []
        self.is_over = False

    def take(self, event: AnyEvent) -> None:
        """The next event of the stream."""
        if event.seq > self._last_seq or self.is_over:
            self.is_over = True
            return
        if not self._horizon:
            self._horizon = event.seq
            if event.seq > 1:
                self._state = None
        elif event.seq != self._seq + 1:
            self.findings.append(f"I15: event {event.seq} follows {self._seq} in the stream")
        if event.at_ms < self._at_ms:
            self.findings.append(f"I15: time goes back at event {event.seq}")
        self._seq, self._at_ms = event.seq, event.at_ms
        if event.seq > self._dump.image.seq:  # something that happened while the keys were read
            if isinstance(event, TaskEvent):
                self._touched.add(event.number)
            elif isinstance(event, Purged):
                self._purged.add(event.state)
            return
        self._events += 1
        if isinstance(event, TaskEvent):
            self._followed[event.number] = event
        elif isinstance(event, Purged):
            for number in [n for n, last in self._followed.items() if _state_after(last) == event.state]:
                self._followed[number] = Deleted(event.queue, event.seq, event.at_ms, number, "")
        if self._state is not None:
            try:
                self._state = apply(self._state, event)
            except IllegalEvent as error:
                self.findings.append(f"the reducer refuses event {event.seq}: {error}")
                self.is_over = True

    def report(self) -> QueueReport:
        """What it comes to."""
        image = self._dump.image
        compared = len(self._dump.tasks)
        if not self.is_over and self._seq < image.seq:
            self.findings.append(f"I10: the stream ends with event {self._seq}, the keys know {image.seq}")
        elif self._state is not None and self._was_quiet:
            self._compare_whole(self._state, image)
        elif self._state is not None:
            compared = self._compare_untouched(self._state)
        else:
            compared = self._compare_followed(image)
        return QueueReport(
            image.name,
            image.seq,
            self._events,
            self._horizon or 1,
            len(self._dump.tasks),
            compared,
            self._dump.epoch,
            self.findings,
        )

    def _compare_whole(self, folded: QueueState, image: Image) -> None:
        stored = state_of(image)
        self.findings.extend(broken(stored))
        for field in different(folded, stored):
            if field not in _NOT_KEPT:
                self.findings.append(f"I10: the fold and the keys differ in {field}")
        mine = {name: until for name, (until, _) in folded.remembered.items() if until > image.at_ms}
        kept = {name: until for name, (until, _) in image.remembered.items() if until > image.at_ms}
        if mine != kept:
            self.findings.append("I14: the fold and the keys remember different ids")

    def _compare_untouched(self, folded: QueueState) -> int:
        """Task by task, those that nothing happened to while the keys were read."""
        stored = self._dump.tasks
        quiet = [n for n in {*stored, *folded.tasks} if self._is_quiet(n, stored.get(n) or folded.tasks[n])]
        for number in quiet:
            if stored.get(number) != folded.tasks.get(number):
                self.findings.append(f"I10: the fold and the keys differ in task {number}")
        return len(quiet)

    def _compare_followed(self, image: Image) -> int:
        """The last thing that happened to each task must be where it is now."""
        if self._was_quiet:
            self.findings.extend(broken(state_of(image)))
        stored = self._dump.tasks
        compared = 0
        for number, event in self._followed.items():
            task = stored.get(number)
            if number in self._touched or (task is not None and task.state in self._purged):
                continue
            compared += 1
            now, then = "gone" if task is None else task.state, _state_after(event)
            if now != then:
                self.findings.append(f"I10: task {number} is {now}, its last event leaves it {then}: {event!r}")
            elif isinstance(event, Leased) and task is not None and (task.lease is None or task.token != event.token):
                self.findings.append(f"I3: task {number} has token {task.token}, its last lease {event.token}")
        return compared

    def _is_quiet(self, number: int, task: Task) -> bool:
        return number not in self._touched and task.state not in self._purged


def _state_after(event: AnyEvent) -> str:
    """Where an event leaves its task."""
    if isinstance(event, Enqueued | Requeued):
        return SCHEDULED if event.due_ms else READY
    if isinstance(event, Acked | Deleted):
        return "gone"
    if isinstance(event, Expired):
        return EXPIRED
    if isinstance(event, Failed):
        return FAILED
    if isinstance(event, DeadLettered):
        return DEAD
    return PROCESSING if type(event).__name__ in ("Leased", "Extended") else READY


def summary(reports: Sequence[QueueReport]) -> str:
    """What held, in a sentence."""
    events = sum(report.events for report in reports)
    tasks = sum(report.compared for report in reports)
    wrong = sum(len(report.findings) for report in reports)
    if wrong:
        return f"not sound: {wrong} findings in {len(reports)} queues"
    return (
        f"sound: {len(reports)} queues, {events} events, {tasks} tasks; every event legal by the reducer and in "
        f"sequence (I5, I15), every key equal to the fold of its stream ({len(FIELDS) - len(_NOT_KEPT)} fields, I10)"
    )
