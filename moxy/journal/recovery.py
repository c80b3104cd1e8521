"""From files to states: the newest sound snapshot, then the tail of the log folded onto it.

Lives here: which snapshot to trust, the fold, and when to refuse. Must not: change anything on the disk; what a torn
tail asks for is done by the journal that opens here.

There is no second path: a start after a clean stop, after kill -9 and after a power cut is this. It refuses rather
than guess: never an empty start when there was a log, and never a state that skips an event.
"""

import gc
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, final

import msgspec

from moxy.core.errors import IllegalEvent
from moxy.core.events import AnyEvent
from moxy.core.folding import Folding, Unreadable
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal import codec, frames, segments, snapshots
from moxy.journal.disk import Disk
from moxy.journal.errors import LogDamaged, LogTooNew
from moxy.journal.frames import Place, Record
from moxy.journal.segments import SNAPSHOT_SUFFIX, Segment, Walk
from moxy.journal.snapshots import Snapshot

Progress: TypeAlias = Callable[[int, int, int], None]
"""Called now and then with events folded, bytes of log read and bytes of log to read."""

_PROGRESS_EVENTS: Final = 20_000


class Recovered(msgspec.Struct, frozen=True):
    """What a data directory comes to.

    `segment` and `place` are where the log goes on; None: there is no log yet. `torn` is "" or what a crash left
    there, which nobody was told is durable. From `unproven_at_bytes` of that segment on no record proves that the ones
    before it were synced. `marks` are places on the way, for readers.
    """

    states: dict[str, QueueState]
    last_sequence: int
    snapshot_sequence: int
    snapshots: tuple[int, ...]
    bad_snapshots: tuple[str, ...]
    events: int
    bytes_folded: int
    log_id: int
    segments: tuple[Segment, ...]
    segment: Segment | None
    place: Place
    torn: str
    unproven_at_bytes: int
    marks: tuple[tuple[str, Place], ...]
    warnings: tuple[str, ...]

    @property
    def queues(self) -> int:
        """How many queues there are."""
        return len(self.states)

    @property
    def tasks(self) -> int:
        """How many tasks there are, in whatever state."""
        return sum(len(state.tasks) for state in self.states.values())


def recover(disk: Disk, progress: Progress | None = None, mark_every_bytes: int = 1 << 16) -> Recovered:
    """Read a data directory and change nothing in it. Meanwhile the garbage collector rests: what is made here stays,
    and it would look at all of it again and again.

    Raises LogDamaged, LogTooNew, OSError.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return _recover(disk, progress, mark_every_bytes)
    finally:
        if collects:
            gc.enable()


def _recover(disk: Disk, progress: Progress | None, mark_every_bytes: int) -> Recovered:
    log = segments.segments_of(disk)
    snapshot, sound, bad, warnings = _newest_sound(disk)
    covered = snapshot.head.sequence if snapshot else 0
    _check_reach(log, snapshot, covered, bad)
    folding = Folding(snapshot.states if snapshot else {})
    tail = _tail(log, covered)
    meets = tail and tail[0].sequence == covered + 1
    walk = Walk(disk, tail, (snapshot.head.chain if snapshot else 0) if meets else None)
    total_bytes = sum(segment.size_bytes for segment in tail)
    trail = _Trail(mark_every_bytes)
    read_bytes = folded_bytes = events = told = 0
    for segment, record in walk:
        length_bytes = frames.record_bytes(len(record.payload))
        read_bytes += length_bytes
        trail.passed(segment, record)
        if record.sequence <= covered:
            _check_meets(record, snapshot)
            continue
        folded_bytes += length_bytes
        try:
            _fold(folding, segment.name, record)
        except IllegalEvent as e:
            raise _cannot_follow(segment.name, record, e) from None
        events += record.count
        if progress is not None and events >= told + _PROGRESS_EVENTS:
            told = events
            progress(events, read_bytes, total_bytes)
    place = walk.place
    if walk.segment is not None and place.sequence <= covered:
        text = f"the log ends here, but a snapshot covers sequence {covered}"
        raise LogDamaged(walk.segment.name, place.at_bytes, place.sequence, text)
    if walk.segment is not None and walk.torn:
        warnings.append(
            f"{walk.segment.name}, offset {place.at_bytes}: {walk.torn}. "
            f"It was not acknowledged as durable and is dropped; the log ends with sequence {place.sequence - 1}"
        )
    if progress is not None:
        progress(events, total_bytes, total_bytes)
    head = next((s.head for s in log if s.head is not None), snapshot.head if snapshot else None)
    return Recovered(
        folding.states(),
        place.sequence - 1,
        covered,
        tuple(sound),
        tuple(bad),
        events,
        folded_bytes,
        head.log_id if head is not None else 0,
        tuple(log),
        walk.segment,
        place,
        walk.torn,
        trail.unproven_from(walk.segment, place),
        tuple(trail.marks),
        tuple(warnings),
    )


def _fold(folding: Folding, file: str, record: Record) -> None:
    """Take the events of a record in. Raises LogDamaged, LogTooNew, IllegalEvent."""
    at, count = codec.body_at(record.payload)
    if count != record.count:
        folding.fold(events_of(file, record))
        return
    try:
        folding.fold_body(record.payload, at, count)
    except Unreadable as e:
        events_of(file, record)  # says what is wrong with them
        text = f"a sound record that cannot be read: {e}"
        raise LogDamaged(file, offset_of(record), record.sequence, text) from None


def fold(states: dict[str, QueueState], file: str, record: Record) -> list[AnyEvent]:
    """Apply the events of a record to `states`, and return them. Raises LogDamaged, LogTooNew."""
    events = events_of(file, record)
    try:
        for event in events:
            queue = event.queue
            state = states.get(queue)
            states[queue] = apply(QueueState(queue) if state is None else state, event)
    except IllegalEvent as e:
        raise _cannot_follow(file, record, e) from None
    return events


def _cannot_follow(file: str, record: Record, e: IllegalEvent) -> LogDamaged:
    return LogDamaged(file, offset_of(record), record.sequence, f"a sound record that cannot follow: {e}")


def events_of(file: str, record: Record) -> list[AnyEvent]:
    """The events of a sound record. Raises LogDamaged, LogTooNew."""
    try:
        events = codec.decode(record.payload)
    except codec.Undecodable as e:
        if e.too_new:
            raise LogTooNew(f"{file}, offset {offset_of(record)}: {e}") from None
        raise LogDamaged(file, offset_of(record), record.sequence, f"a sound record that cannot be read: {e}") from None
    if len(events) != record.count:
        text = f"a sound record says {record.count} events and holds {len(events)}"
        raise LogDamaged(file, offset_of(record), record.sequence, text)
    return events


def offset_of(record: Record) -> int:
    """Where a record begins in its file."""
    return record.next.at_bytes - frames.record_bytes(len(record.payload))


@final
class _Trail:
    """What a walk leaves behind for the writer: places to read from, and where records begin to be unproven.

    Each record says up to which event the log was known to be durable when it was written. What is after the last
    such word may be in the kernel's memory only, even marked clean there after a failed fsync, and has to be written
    once more before anybody builds on it.
    """

    def __init__(self, mark_every_bytes: int) -> None:
        self.marks: Final[list[tuple[str, Place]]] = []
        self._every_bytes: Final = mark_every_bytes
        self._next_bytes = 0
        self._segment: Segment | None = None
        self._unproven: deque[tuple[int, int]] = deque()

    def passed(self, segment: Segment, record: Record) -> None:
        """A record was read."""
        if segment is not self._segment:
            # A segment is begun when all before it is durable.
            self._segment, self._next_bytes = segment, 0
            self._unproven.clear()
        while self._unproven and self._unproven[0][0] <= record.synced:
            self._unproven.popleft()
        self._unproven.append((record.next.sequence - 1, offset_of(record)))
        if record.next.at_bytes >= self._next_bytes:
            self.marks.append((segment.name, record.next))
            self._next_bytes = record.next.at_bytes + self._every_bytes

    def unproven_from(self, segment: Segment | None, end: Place) -> int:
        """The offset of the first record of `segment`, the last one, that nothing proves to be durable."""
        return self._unproven[0][1] if segment is not None and segment is self._segment else end.at_bytes


def _newest_sound(disk: Disk) -> tuple[Snapshot | None, list[int], list[str], list[str]]:
    """The newest sound snapshot, the sequences of it and of older ones, the names of bad newer ones, and warnings."""
    found = segments.named(disk, SNAPSHOT_SUFFIX)
    bad: list[str] = []
    warnings: list[str] = []
    for index in range(len(found) - 1, -1, -1):
        sequence, name = found[index]
        try:
            snapshot = snapshots.load(disk, name, sequence)
        except LogDamaged as e:
            bad.append(name)
            warnings.append(f"{e}. The snapshot before it, or the log, is used instead")
            continue
        return snapshot, [sequence for sequence, _ in found[: index + 1]], bad, warnings
    return None, [], bad, warnings


def _check_reach(log: list[Segment], snapshot: Snapshot | None, covered: int, bad: list[str]) -> None:
    """Raises LogDamaged unless snapshot and log together hold everything from the first event on."""
    if not log:
        if snapshot is not None or bad:
            name = snapshot.name if snapshot is not None else bad[0]
            raise LogDamaged(name, 0, covered + 1, "there is a snapshot, but no log")
        return
    first = log[0]
    if first.sequence > covered + 1:
        what = "no sound snapshot reaches it" if bad else "nothing says what was before"
        raise LogDamaged(first.name, 0, covered + 1, f"the log begins with sequence {first.sequence} and {what}")
    if snapshot is not None and first.head is not None and first.head.log_id != snapshot.head.log_id:
        raise LogDamaged(snapshot.name, 0, covered, f"it is of another log than {first.name}")


def _tail(log: list[Segment], covered: int) -> list[Segment]:
    """The segments from the one on that holds the first event that no snapshot covers."""
    start = 0
    for index, segment in enumerate(log):
        if segment.sequence <= covered + 1:
            start = index
    return log[start:]


def _check_meets(record: Record, snapshot: Snapshot | None) -> None:
    """Raises LogDamaged when the snapshot ends inside a record, or after another one than the log has there."""
    assert snapshot is not None
    head = snapshot.head
    last = record.sequence + record.count - 1
    if last > head.sequence or (last == head.sequence and record.next.chain != head.chain):
        text = "it does not belong to this log, which has another record at its sequence"
        raise LogDamaged(snapshot.name, 0, head.sequence, text)
