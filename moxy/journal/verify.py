"""Doubt: the whole log folded again, every invariant checked at every step, every snapshot against the fold.

Lives here: `verify`, which only reads, and the digest that two copies of a log can be compared by. Must not: repair
anything, or be needed by a server to run.

A step is what one command did to one queue. A record may hold many, and does not say where they end; they end where no
task is between two events of one batch, and a `DeadLettered` always belongs to what is before it.
The invariants recount all tasks at every step, which is quadratic: `every_step=False` leaves them to the end of the
log and the snapshots, while checksums, sequences and the reducer's own guards are always checked event by event.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from moxy.core import invariants
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

_FINDINGS_MAX: Final = 100
_encoder: Final = msgspec.msgpack.Encoder()


class Report(msgspec.Struct, frozen=True):
    """What came of it. `findings` are sentences about what is wrong; `notes` about what is not, but worth knowing.

    `horizon` is the oldest event in the log, `folded_from` the first one that was folded: later than the horizon when
    the log begins in the middle, since a state to fold onto is only had from a snapshot. `digest` is that of
    the states after `last_sequence`.
    """

    last_sequence: int
    horizon: int
    folded_from: int
    records: int
    events: int
    steps: int
    snapshots_checked: int
    digest: str
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when all held, 3 when not."""
        return 3 if self.findings else 0


def verify(disk: Disk, every_step: bool = True) -> Report:
    """Read a whole data directory and change nothing in it; it may be a copy, or live and idle.

    Damage is a finding, not an error. Raises LogTooNew, OSError.
    """
    findings: list[str] = []
    notes: list[str] = []
    try:
        log = segments.segments_of(disk)
    except LogDamaged as e:
        return Report(0, 0, 0, 0, 0, 0, 0, "", (str(e),), ())
    horizon = log[0].sequence if log else 1
    kept = segments.named(disk, SNAPSHOT_SUFFIX)
    states: dict[str, QueueState] = {}
    covered = horizon - 1
    checked = records = events = steps = 0
    chain: int | None = 0
    if horizon > 1:
        chain = None
        base = _first_sound(disk, [pair for pair in kept if pair[0] >= horizon - 1])
        if base is None:
            findings.append(f"the log begins with sequence {horizon} and no sound snapshot reaches it")
            kept, log = [], []
        else:
            states, covered = dict(base.states), base.head.sequence
            notes.append(f"the log begins with sequence {horizon}: folded from {base.name} on")
            chain = base.head.chain if covered == horizon - 1 else None
            kept = [pair for pair in kept if pair[0] >= horizon]
    walk = Walk(disk, log, chain)
    try:
        for segment, record in walk:
            if record.sequence <= covered:
                recovery.events_of(segment.name, record)
            else:
                batch = recovery.events_of(segment.name, record)
                steps += _fold(states, batch, segment.name, record, findings, every_step)
                events += record.count
            records += 1
            last = record.sequence + record.count - 1
            while kept and kept[0][0] <= last:
                sequence, name = kept.pop(0)
                checked += 1
                _check_snapshot(disk, name, sequence, record, states, covered, findings)
            if len(findings) > _FINDINGS_MAX:
                findings.append("and so on")
                break
    except LogDamaged as e:
        findings.append(str(e))
    for _, name in kept:
        findings.append(f"{name} covers more than the sound part of the log, which ends at {walk.place.sequence - 1}")
    for state in states.values():
        findings.extend(f"queue {state.name!r}: {sentence}" for sentence in invariants.broken(state))
    if walk.torn and walk.segment is not None:
        notes.append(f"{walk.segment.name}, offset {walk.place.at_bytes}: {walk.torn}: the next start drops it")
    return Report(
        walk.place.sequence - 1,
        horizon,
        covered + 1,
        records,
        events,
        steps,
        checked,
        digest(states),
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


def _fold(
    states: dict[str, QueueState],
    batch: Sequence[AnyEvent],
    file: str,
    record: Record,
    findings: list[str],
    every_step: bool,
) -> int:
    """Fold one record and check every step of it; return how many there were. Raises LogDamaged."""
    if not every_step:
        recovery.fold(states, file, record)
        return 0
    by_queue: dict[str, list[AnyEvent]] = {}
    for event in batch:
        by_queue.setdefault(event.queue, []).append(event)
    count = 0
    for queue, events in by_queue.items():
        try:
            steps = steps_of(states.get(queue) or QueueState(queue), events)
        except IllegalEvent as e:
            raise LogDamaged(file, recovery.offset_of(record), record.sequence, f"it cannot follow: {e}") from None
        for before, step, after in steps:
            where = f"{file}, offset {recovery.offset_of(record)}, queue {queue!r}, seq {step[0].seq}"
            findings.extend(f"{where}: {sentence}" for sentence in invariants.broken_by(before, step, after))
        after = steps[-1][2]
        if after.limbo:
            findings.append(f"{file}: queue {queue!r} ends record {record.sequence} with {after.limbo} tasks in limbo")
        states[queue] = after
        count += len(steps)
    return count


def _first_sound(disk: Disk, kept: Sequence[tuple[int, str]]) -> snapshots.Snapshot | None:
    for sequence, name in kept:
        try:
            return snapshots.load(disk, name, sequence)
        except LogDamaged:
            continue
    return None


def _check_snapshot(
    disk: Disk,
    name: str,
    sequence: int,
    record: Record,
    states: Mapping[str, QueueState],
    covered: int,
    findings: list[str],
) -> None:
    """I10: a snapshot equals the fold of the log up to the record that it was taken after."""
    try:
        snapshot = snapshots.load(disk, name, sequence)
    except LogDamaged as e:
        findings.append(str(e))
        return
    if record.sequence + record.count - 1 != sequence or record.next.chain != snapshot.head.chain:
        findings.append(f"I10: {name} was not taken after the record that the log has at its sequence")
    elif sequence >= covered:
        queues = states.keys() | snapshot.states.keys()
        for queue in sorted(queues):
            one, other = states.get(queue), snapshot.states.get(queue)
            if one is None or other is None:
                findings.append(f"I10: {name} and the log disagree on whether there is a queue {queue!r}")
            elif fields := different(one, other):
                findings.append(f"I10: {name} differs from the log in {', '.join(fields)} of queue {queue!r}")
