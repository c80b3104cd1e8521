"""Reading a log that somebody else is writing: each event once, from where the last look ended.

Lives here: `Tail`, which remembers its place between looks and survives that old segments are dropped under it. Must
not: write, lock, or wait for anything; the caller decides when to look again.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, final

from moxy.core.events import AnyEvent
from moxy.journal import frames, recovery, segments
from moxy.journal.disk import Disk
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Damaged, End, Place, Record
from moxy.journal.segments import SEGMENT_SUFFIX, Segment

PEEK_BYTES: Final = 1 << 12
"""What a look reads to find that there is nothing new."""

_WINDOW_BYTES: Final = 1 << 17


@final
class Tail:
    """A place in a log, and what is found from there on.

    `doubt` is the damage that the last look met, or None. What a write has half done can look like damage for a
    moment: who follows a live log believes it when the next look finds the same.
    """

    def __init__(self, disk: Disk, from_sequence: int = 1) -> None:
        self._disk: Final = disk
        self._segment: Segment | None = None
        self._from: Final = from_sequence
        self._place = Place(0, from_sequence, 0)
        self.missed: list[tuple[int, int]] = []
        """First and last sequence of each stretch that was dropped before it was read. The caller may clear it."""
        self.doubt: LogDamaged | None = None

    def look(self) -> Iterator[tuple[int, AnyEvent]]:
        """(global sequence, event) of all that is new. Raises LogDamaged, LogTooNew, OSError."""
        self.doubt = None
        while self._segment is not None or self._find():
            segment = self._segment
            assert segment is not None
            try:
                for record in self._records(segment):
                    for number, event in enumerate(recovery.events_of(segment.name, record), record.sequence):
                        if number >= self._from:
                            yield number, event
                if not self._move_on(segment):
                    return
            except FileNotFoundError:
                self._segment = None  # dropped under us: find where the log begins now

    def _find(self) -> bool:
        """Begin at the segment that holds the wanted sequence, or at the horizon if that has passed it."""
        wanted = self._place.sequence
        found = segments.named(self._disk, SEGMENT_SUFFIX)
        if not found:
            return False
        sequence, name = next((pair for pair in reversed(found) if pair[0] <= wanted), found[0])
        with suppress(FileNotFoundError):
            if not self._open(sequence, name):
                return False
            if sequence > wanted:
                self.missed.append((wanted, sequence - 1))
        return True

    def _open(self, sequence: int, name: str) -> bool:
        """Stand at the beginning of a segment; False when a crash left less than a head of it."""
        size_bytes = self._disk.size_bytes(name)
        if size_bytes < frames.HEAD_BYTES:
            return False
        head = segments.read_head(self._disk, name, frames.LOG_MAGIC, sequence)
        self._segment = Segment(name, sequence, size_bytes, head)
        self._place = self._segment.begin()
        return True

    def _move_on(self, segment: Segment) -> bool:
        """To the next segment, if this one was read to its end and there is one."""
        place = self._place
        name = segments.name_of(place.sequence, SEGMENT_SUFFIX)
        if self.doubt is not None or name == segment.name or name not in self._disk.names():
            return False
        if not self._open(place.sequence, name):
            return False
        following = self._segment
        assert following is not None
        assert following.head is not None
        assert segment.head is not None
        if (following.head.log_id, following.head.chain) != (segment.head.log_id, place.chain):
            raise LogDamaged(name, 0, place.sequence, "it does not go on from the segment before")
        return True

    def _records(self, segment: Segment) -> Iterator[Record]:
        """What is written of a segment by now, read a window at a time."""
        assert segment.head is not None
        window_bytes = PEEK_BYTES
        looked_again = False
        while True:
            start = self._place
            base = start.at_bytes - start.at_bytes % frames.SECTOR_BYTES
            data = self._disk.read(segment.name, base, window_bytes)
            while True:
                place = self._place
                outcome = frames.read(
                    data, Place(place.at_bytes - base, place.sequence, place.chain), segment.head.log_id
                )
                if not isinstance(outcome, Record):
                    break
                after = outcome.next
                self._place = Place(after.at_bytes + base, after.sequence, after.chain)
                yield outcome
            if self._place is not start:
                window_bytes = _WINDOW_BYTES
            elif isinstance(outcome, End):
                return
            elif len(data) == window_bytes:
                window_bytes *= 2  # too small for one record
            elif not looked_again:
                looked_again = True  # it may have been in the middle of being written
            else:
                last = segments.named(self._disk, SEGMENT_SUFFIX)[-1][1] == segment.name
                if isinstance(outcome, Damaged) or not last:
                    self.doubt = LogDamaged(segment.name, start.at_bytes, start.sequence, outcome.text)
                return
