"""Doubt: the whole log folded again, the invariants checked at every step, every snapshot against the fold.

Lives here: `verify`, which only reads, and the digest that two copies of a log can be compared by. Must not: repair
anything, or be needed by a server to run.

A step is what one command did to one queue. A record may hold many, and does not say where they end; they end where no
task is between two events of one batch, and a `DeadLettered` always belongs to what is before it.

At every step the invariants are checked in what its events touched, which costs the same however many tasks wait. A
*recount* looks at all tasks of a queue: at the states that a log in the middle begins with, at every snapshot, at the
end, and after as many events of the queue as it had tasks at the last recount, but at least `RECOUNT_EVENTS_MIN`. So
a recount looks at no more than twice the tasks that events came since, and the whole is linear in the log.
`every_step` recounts at every step: quadratic, and for logs that are short or under suspicion.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, final

import msgspec

from moxy.core import invariants, vicinity
from moxy.core.errors import IllegalEvent
from moxy.core.events import AnyEvent, DeadLettered
from moxy.core.reading import different
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal import recovery, segments, snapshots
from moxy.journal.disk import Disk
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Record
from moxy.journal.segments import SNAPSHOT_SUFFIX, Walk

RECOUNT_EVENTS_MIN: Final = 1000
_FINDINGS_MAX: Final = 100
_encoder: Final = msgspec.msgpack.Encoder()


class Report(msgspec.Struct, frozen=True):
    """What came of it. `findings` are sentences about what is wrong; `notes` about what is not, but worth knowing.

    `horizon` is the oldest event in the log, `folded_from` the first one that was folded: later than the horizon when
    the log begins in the middle, since a state to fold onto is only had from a snapshot. `digest` is that of
    the states after `last_sequence`. `steps` were checked, one by one, in the `touched` tasks that their events are
    about; `recounts` of a whole queue looked at `recounted` tasks and remembered ids.
    """

    last_sequence: int
    horizon: int
    folded_from: int
    records: int
    events: int
    steps: int
    touched: int
    recounts: int
    recounted: int
    snapshots_checked: int
    digest: str
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when all held, 3 when not."""
        return 3 if self.findings else 0


def verify(disk: Disk, every_step: bool = False) -> Report:
    """Read a whole data directory and change nothing in it; it may be a copy, or live.

    Damage is a finding, not an error. Raises LogTooNew, OSError: FileNotFoundError when the directory is live and its
    server dropped a segment that was still to be read.
    """
    # Snapshots first: the log that is listed after them reaches at least as far as they do.
    kept = segments.named(disk, SNAPSHOT_SUFFIX)
    try:
        log = segments.segments_of(disk)
    except LogDamaged as e:
        return Report(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "", (str(e),), ())
    audit = _Audit(every_step)
    findings, notes = audit.findings, audit.notes
    horizon = log[0].sequence if log else 1
    covered = horizon - 1
    checked = records = events = 0
    chain: int | None = 0
    if horizon > 1:
        chain = None
        base = _first_sound(disk, [pair for pair in kept if pair[0] >= horizon - 1])
        if base is None:
            findings.append(f"the log begins with sequence {horizon} and no sound snapshot reaches it")
            kept, log = [], []
        else:
            covered = base.head.sequence
            audit.begin(base.states)
            notes.append(f"the log begins with sequence {horizon}: folded from {base.name} on")
            chain = base.head.chain if covered == horizon - 1 else None
            kept = [pair for pair in kept if pair[0] >= horizon]
    walk = Walk(disk, log, chain)
    try:
        for segment, record in walk:
            batch = recovery.events_of(segment.name, record)
            if record.sequence > covered:
                audit.fold(batch, segment.name, record)
                events += record.count
            records += 1
            last = record.sequence + record.count - 1
            while kept and kept[0][0] <= last:
                sequence, name = kept.pop(0)
                checked += audit.compare(disk, name, sequence, record, covered)
            if len(findings) > _FINDINGS_MAX:
                findings.append("and so on")
                break
    except LogDamaged as e:
        findings.append(str(e))
    for _, name in kept:
        findings.append(f"{name} covers more than the sound part of the log, which ends at {walk.place.sequence - 1}")
    audit.recount_all("at the end")
    if walk.torn and walk.segment is not None:
        notes.append(f"{walk.segment.name}, offset {walk.place.at_bytes}: {walk.torn}: the next start drops it")
    return Report(
        walk.place.sequence - 1,
        horizon,
        covered + 1,
        records,
        events,
        audit.steps,
        audit.touched,
        audit.recounts,
        audit.recounted,
        checked,
        digest(audit.states),
        tuple(findings),
        tuple(notes),
    )


def digest(states: Mapping[str, QueueState]) -> str:
    """SHA-256 over all states, the same wherever and in whatever order they were made."""
    total = hashlib.sha256()
    for name in sorted(states):
        rows = [_encoder.encode(row) for row in snapshots.rows_of([states[name].image()])]
        for row in sorted(rows):
            total.update(row)
    return total.hexdigest()


def steps_of(state: QueueState, events: Sequence[AnyEvent]) -> list[tuple[QueueState, list[AnyEvent], QueueState]]:
    """The steps of one queue's events: (state before, events, state after). Raises IllegalEvent."""
    steps: list[tuple[QueueState, list[AnyEvent], QueueState]] = []
    before, step = state, list[AnyEvent]()
    for event in events:
        if step and not state.limbo and not isinstance(event, DeadLettered):
            steps.append((before, step, state))
            before, step = state, []
        state = apply(state, event)
        step.append(event)
    steps.append((before, step, state))
    return steps


@final
class _Audit:
    """The states while a log is folded, what was found wrong with them, and how much was looked at."""

    def __init__(self, every_step: bool) -> None:
        self._every_step: Final = every_step
        self.states: Final[dict[str, QueueState]] = {}
        self.findings: Final[list[str]] = []
        self.notes: Final[list[str]] = []
        self.steps = self.touched = self.recounts = self.recounted = 0
        self._recount_at: Final[dict[str, int]] = {}

    def begin(self, states: Mapping[str, QueueState]) -> None:
        """The states that a log in the middle goes on from."""
        self.states.update(states)
        self.recount_all("at the beginning")

    def fold(self, batch: Sequence[AnyEvent], file: str, record: Record) -> None:
        """Apply one record and check every step of it. Raises LogDamaged."""
        by_queue: dict[str, list[AnyEvent]] = {}
        for event in batch:
            by_queue.setdefault(event.queue, []).append(event)
        for queue, events in by_queue.items():
            try:
                steps = steps_of(self.states.get(queue) or QueueState(queue), events)
            except IllegalEvent as e:
                raise LogDamaged(file, recovery.offset_of(record), record.sequence, f"it cannot follow: {e}") from None
            for before, step, after in steps:
                self._check(before, step, after, file, record)
            after = steps[-1][2]
            if after.limbo:
                self.findings.append(
                    f"{file}: queue {queue!r} ends record {record.sequence} with {after.limbo} tasks in limbo"
                )
            self.states[queue] = after
            if not self._every_step and after.seq >= self._recount_at.setdefault(queue, RECOUNT_EVENTS_MIN):
                self._recount(after, f"{file}, offset {recovery.offset_of(record)}, seq {after.seq}")

    def _check(
        self, before: QueueState, step: Sequence[AnyEvent], after: QueueState, file: str, record: Record
    ) -> None:
        self.steps += 1
        self.touched += len(vicinity.touched(before, step))
        if self._every_step:
            self.recounts += 1
            self.recounted += _size(after)
            sentences = invariants.broken_by(before, step, after)
        else:
            sentences = vicinity.broken_near(before, step, after)
        if sentences:
            where = f"{file}, offset {recovery.offset_of(record)}, queue {before.name!r}, seq {step[0].seq}"
            self.findings.extend(f"{where}: {sentence}" for sentence in sentences)

    def recount_all(self, where: str) -> None:
        """Look at every task of every queue."""
        for state in self.states.values():
            self._recount(state, where)

    def _recount(self, state: QueueState, where: str) -> None:
        size = _size(state)
        self.recounts += 1
        self.recounted += size
        self._recount_at[state.name] = state.seq + max(RECOUNT_EVENTS_MIN, size)
        self.findings.extend(f"{where}, queue {state.name!r}: {sentence}" for sentence in invariants.broken(state))

    def compare(self, disk: Disk, name: str, sequence: int, record: Record, covered: int) -> bool:
        """I10: a snapshot equals the fold of the log up to the record that it was taken after.

        False when there is nothing to compare, because its server dropped it in the meantime.
        """
        self.recount_all(f"at {name}")
        try:
            snapshot = snapshots.load(disk, name, sequence)
        except LogDamaged as e:
            self.findings.append(str(e))
            return True
        except FileNotFoundError:
            self.notes.append(f"{name} was dropped by its server in the meantime, and is not checked")
            return False
        if record.sequence + record.count - 1 != sequence or record.next.chain != snapshot.head.chain:
            self.findings.append(f"I10: {name} was not taken after the record that the log has at its sequence")
        elif sequence >= covered:
            for queue in sorted(self.states.keys() | snapshot.states.keys()):
                one, other = self.states.get(queue), snapshot.states.get(queue)
                if one is None or other is None:
                    self.findings.append(f"I10: {name} and the log disagree on whether there is a queue {queue!r}")
                elif fields := different(one, other):
                    self.findings.append(f"I10: {name} differs from the log in {', '.join(fields)} of queue {queue!r}")
        return True


def _size(state: QueueState) -> int:
    """What a recount looks at."""
    return len(state.tasks) + len(state.remembered)


def _first_sound(disk: Disk, kept: Sequence[tuple[int, str]]) -> snapshots.Snapshot | None:
    for sequence, name in kept:
        try:
            return snapshots.load(disk, name, sequence)
        except LogDamaged:
            continue
    return None
