"""The files of the log: their names, how one comes to be, which may go, and how to read a stretch of them.

Lives here: the list of segments and everything about one of them but its records. Must not: decide when to write.

A segment is named by its first event's global sequence. It is made under another name, zeroed ahead and synced, and
only then gets its own: so a segment that has its name has a whole head, and a bad one is damage. The next segment is
begun only when all of this one is durable: so a torn tail is found in the last segment or nowhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final, final

import msgspec

from moxy.journal import frames
from moxy.journal.disk import Disk, File, sync_names_or_fail, sync_or_fail, write_all
from moxy.journal.errors import LogDamaged, LogFailed, LogTooNew
from moxy.journal.frames import Damaged, End, Head, Place, Record, Torn

SEGMENT_SUFFIX: Final = ".log"
SNAPSHOT_SUFFIX: Final = ".snapshot"
UNFINISHED_SUFFIX: Final = ".tmp"
ASIDE_SUFFIX: Final = ".damaged"
TORN_SUFFIX: Final = ".torn"
_DIGITS: Final = 20
_WINDOW_BYTES: Final = 1 << 17
_WALK_BYTES: Final = 1 << 20
"""Read at a time: so much stays in the processor's cache until it is decoded, and its memory is used again."""


class Segment(msgspec.Struct, frozen=True, gc=False):
    """One file of the log. `head` is None when a crash or a cut left less than a head: it holds nothing then."""

    name: str
    sequence: int
    size_bytes: int
    head: Head | None

    def begin(self) -> Place:
        """The place of its first record."""
        assert self.head is not None, self.name
        return Place(frames.HEAD_BYTES, self.sequence, self.head.chain)


def name_of(sequence: int, suffix: str) -> str:
    """The name of the segment that begins with, or of the snapshot that ends with, an event."""
    return f"{sequence:0{_DIGITS}d}{suffix}"


def named(disk: Disk, suffix: str) -> list[tuple[int, str]]:
    """(sequence, name) of all segments, or all snapshots, oldest first. Raises OSError."""
    found = [(name.removesuffix(suffix), name) for name in disk.names() if name.endswith(suffix)]
    return [(int(stem), name) for stem, name in found if len(stem) == _DIGITS and stem.isdecimal()]


def segments_of(disk: Disk) -> list[Segment]:
    """All segments, oldest first. Raises LogDamaged for a head that is wrong, LogTooNew, OSError."""
    found = named(disk, SEGMENT_SUFFIX)
    segments: list[Segment] = []
    for sequence, name in found:
        size_bytes = disk.size_bytes(name)
        if size_bytes < frames.HEAD_BYTES and name == found[-1][1]:
            segments.append(Segment(name, sequence, size_bytes, None))
            continue
        head = read_head(disk, name, frames.LOG_MAGIC, sequence)
        if segments and segments[0].head is not None and segments[0].head.log_id != head.log_id:
            raise LogDamaged(name, 0, sequence, f"it is of another log than {segments[0].name}")
        segments.append(Segment(name, sequence, size_bytes, head))
    return segments


def read_head(disk: Disk, name: str, magic: bytes, sequence: int) -> Head:
    """The head of the file of that name and sequence. Raises LogDamaged, LogTooNew, OSError."""
    head = frames.decode_head(magic, disk.read(name, 0, frames.HEAD_BYTES))
    if isinstance(head, int):
        raise LogTooNew(f"{name} has format {head}, this program knows {frames.FORMAT_VERSION}")
    if isinstance(head, Damaged):
        raise LogDamaged(name, 0, sequence, head.text)
    if head.sequence != sequence:
        raise LogDamaged(name, 0, sequence, f"its head says sequence {head.sequence}: it was renamed")
    return head


def prepare(disk: Disk, name: str, size_bytes: int) -> File:
    """An unfinished segment: zeroed ahead as far as there is space, and synced. On an error it leaves nothing.

    Raises OSError, and LogFailed when a sync failed.
    """
    file = disk.create(name)
    try:
        try:
            file.allocate(size_bytes)
        except OSError:
            # Small disks work too: without zeros ahead a segment grows as it is written, and what does not fit then
            # is refused then.
            file.truncate(0)
        sync_or_fail(file)
    except BaseException:
        discard(disk, name, file)
        raise
    return file


def begin(disk: Disk, file: File, unfinished: str, head: Head) -> Segment:
    """Turn what `prepare` made into the segment of `head`.

    Raises OSError when nothing came of it, and LogFailed when a sync failed or nobody can say what came of it.
    """
    name = name_of(head.sequence, SEGMENT_SUFFIX)
    try:
        write_all(file, frames.encode_head(frames.LOG_MAGIC, head), 0)
        sync_or_fail(file)
        size_bytes = disk.size_bytes(unfinished)
        disk.rename(unfinished, name)
    except BaseException:
        discard(disk, unfinished, file)
        if _may_exist(disk, name):
            raise LogFailed(f"a failed rename may have made {name}") from None
        raise
    sync_names_or_fail(disk)
    return Segment(name, head.sequence, size_bytes, head)


def discard(disk: Disk, name: str, file: File) -> None:
    """Drop an unfinished file, as far as the disk lets us: a start sweeps up what is left."""
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        disk.remove(name)


def droppable(
    segments: Sequence[Segment], needed_from: int, now_ms: int, retain_bytes: int | None, retain_ms: int | None
) -> list[Segment]:
    """The oldest segments that retention no longer wants: pure.

    One goes when the segments from it on hold more than `retain_bytes`, or when its last event is more than
    `retain_ms` old. Never one with the event `needed_from` or a later one in it, which the snapshots need, and never
    the last. None: no such bound.
    """
    total_bytes = sum(segment.size_bytes for segment in segments)
    gone: list[Segment] = []
    for segment, following in pairwise(segments):
        if following.head is None or following.sequence > needed_from:
            break
        too_big = retain_bytes is not None and total_bytes > retain_bytes
        too_old = retain_ms is not None and now_ms - following.head.created_ms > retain_ms
        if not too_big and not too_old:
            break
        gone.append(segment)
        total_bytes -= segment.size_bytes
    return gone


def _may_exist(disk: Disk, name: str) -> bool:
    try:
        return name in disk.names()
    except OSError:
        return True


@final
class Walk:
    """The records of a list of segments, in order: `for segment, record in Walk(...)`.

    Raises LogDamaged where the log is not what was written, OSError. After the last record `place` is where the log
    goes on, in `segment`; `torn` says what was found there instead of an end, if a crash left something.
    """

    def __init__(
        self, disk: Disk, segments: Sequence[Segment], chain: int | None, window_bytes: int = _WALK_BYTES
    ) -> None:
        """`chain` is what the first segment must go on from; None: not known. `window_bytes` are read at a time."""
        self._window_bytes: Final = window_bytes
        self._disk: Final = disk
        self._segments: Final = segments
        self.segment: Segment | None = None
        self.place = Place(frames.HEAD_BYTES, segments[0].sequence if segments else 1, chain or 0)
        self._known: bool = chain is not None
        self.torn = ""

    def __iter__(self) -> Iterator[tuple[Segment, Record]]:
        for segment in self._segments:
            self._check_joint(segment)
            self.segment = segment
            if segment.head is None:
                self.torn = "its last segment is shorter than a head"
                self.place = Place(frames.HEAD_BYTES, segment.sequence, self.place.chain)
                return
            self.place = segment.begin()
            self._known = True
            yield from self._records(segment, segment.head.log_id)

    def _check_joint(self, segment: Segment) -> None:
        place = self.place
        if segment.sequence != place.sequence:
            text = f"sequence {place.sequence} should follow the segment before"
            raise LogDamaged(segment.name, 0, min(place.sequence, segment.sequence), text)
        if self._known and segment.head is not None and segment.head.chain != place.chain:
            raise LogDamaged(segment.name, 0, place.sequence, "it does not go on from the segment before")

    def _records(self, segment: Segment, log_id: int) -> Iterator[tuple[Segment, Record]]:
        window_bytes = self._window_bytes
        while True:
            start = self.place
            base_bytes = start.at_bytes - start.at_bytes % frames.SECTOR_BYTES
            data = self._disk.read(segment.name, base_bytes, window_bytes)
            while isinstance(outcome := frames.read(data, self.place, log_id, base_bytes), Record):
                self.place = outcome.next
                yield segment, outcome
            if window_bytes < 0 or len(data) < window_bytes:
                break
            # A window that began with no whole record has to go on to the end of the file, so that one can judge.
            window_bytes = -1 if self.place is start else self._window_bytes
        if isinstance(outcome, Damaged):
            raise LogDamaged(segment.name, self.place.at_bytes, self.place.sequence, outcome.text)
        if isinstance(outcome, Torn):
            if segment is not self._segments[-1]:
                text = f"{outcome.text}, but this is not the last segment"
                raise LogDamaged(segment.name, self.place.at_bytes, self.place.sequence, text)
            self.torn = outcome.text


def stretch(disk: Disk, segment: Segment, place: Place, until_sequence: int) -> Iterator[Record]:
    """The records of one segment from `place` up to the event before `until_sequence`, read a window at a time.

    For readers of what is known to be there: raises LogDamaged for anything else, OSError.
    """
    assert segment.head is not None, segment.name
    window_bytes = _WINDOW_BYTES
    while place.sequence < until_sequence:
        base_bytes = place.at_bytes - place.at_bytes % frames.SECTOR_BYTES
        data = disk.read(segment.name, base_bytes, window_bytes)
        start = place
        while place.sequence < until_sequence:
            outcome = frames.read(data, place, segment.head.log_id, base_bytes)
            if isinstance(outcome, Record):
                place = outcome.next
                yield outcome
            elif isinstance(outcome, Damaged) or len(data) < window_bytes:
                text = "the log ends too early" if isinstance(outcome, End) else outcome.text
                raise LogDamaged(segment.name, place.at_bytes, place.sequence, text)
            else:
                break
        # A window that held no whole record was too small for it.
        window_bytes = window_bytes * 2 if place is start else _WINDOW_BYTES
