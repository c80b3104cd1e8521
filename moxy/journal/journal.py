"""The one writer of the log.

Lives here: gathering, writing, syncing, rolling, and what each failure comes to. Must not: know a mode of durability,
start a thread, or read a clock.

The way of a batch: `append` gathers the events of one turn of the loop, `flush` writes them as one record, `sync`
returns when every record flushed before its call is on the medium. A caller in mode `always` replies after `sync`, in
`everysec` and `no` after `flush`. `everysec` calls `sync` once a second from its thread; while one takes longer than
2 s the caller refuses changes, since by then more than the promised second could be lost.

One thread (the loop's) calls `append`, `flush`, `mark` and `read`; any thread may call `sync`, `write_snapshot`,
`retain` and `prepare`. A lock lets one sync run at a time, also those inside `flush`: the kernel reports a failed
write-back to one caller of fsync only, and no other may take its own success for an answer.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final, NoReturn, final

from msgspec.structs import replace

from moxy.core.events import AnyEvent
from moxy.core.notes import Happened, events_of
from moxy.core.tasks import Image
from moxy.journal import codec, frames, opening, recovery, segments, snapshots
from moxy.journal.disk import Disk, File, sync_names_or_fail, sync_or_fail, write_all
from moxy.journal.errors import HorizonPassed, LogFailed, LogRefused
from moxy.journal.frames import Head, Mark, Place
from moxy.journal.recovery import Progress, Recovered
from moxy.journal.segments import SNAPSHOT_SUFFIX, UNFINISHED_SUFFIX, Segment
from moxy.journal.snapshots import Breathe

SEGMENT_BYTES: Final = 64 << 20
MARK_EVERY_BYTES: Final = 1 << 16
_PREPARE_AT: Final = 16
"""The next segment is prepared when one part in so many of this one is used: a server that has just begun, and one that
has little to do, is spared a disk that is busy with zeros, and their space. A small part, since who fills the rest
before the next look at it waits for zeros."""
_SPARE_NAME: Final = "spare" + UNFINISHED_SUFFIX
_SNAPSHOTS_KEPT: Final = 2
"""The newest one, and the one that a start falls back to when it is bad."""


@final
class Journal:
    """The log of one data directory, open for writing. Made by `Journal.open`."""

    def __init__(self, disk: Disk, file: File, segment_bytes: int, segment: Segment, recovered: Recovered) -> None:
        assert segment.head is not None
        self._disk: Final = disk
        self._segment_bytes: Final = segment_bytes
        self._log_id: Final = segment.head.log_id
        self._lock: Final = Lock()
        self._file = file
        self._spare: File | None = None
        self._place = Place(frames.HEAD_BYTES, segment.sequence, segment.head.chain)
        if segment == recovered.segment:
            self._place = recovered.place
        self._segments = (*(s for s in recovered.segments if s.name != segment.name), segment)
        self._snapshots = recovered.snapshots
        self._marks: Final[dict[str, list[Place]]] = {}
        for name, place in recovered.marks:
            self._marks.setdefault(name, []).append(place)
        self._gathered: list[Happened] = []
        self.gathered = 0
        """How many events wait for the next flush."""
        self.latest_payload = b""
        """Of the record that was written last: its events, encoded (codec)."""
        self._synced = self.last_sequence
        self._logged_bytes = recovered.bytes_folded
        self._snapshot = Mark(recovered.snapshot_sequence, 0, 0)
        self._failure = ""
        self._closed = False

    @staticmethod
    def open(
        disk: Disk,
        log_id: int,
        now_ms: int,
        segment_bytes: int = SEGMENT_BYTES,
        progress: Progress | None = None,
    ) -> "tuple[Journal, Recovered]":
        """Take the directory, recover what is in it, and be ready to write. On an error `disk` is closed.

        `log_id`: 32 random bits, used when the directory holds no log yet. A torn tail is copied to a file beside and
        then cut off, and a bad snapshot renamed: nothing is deleted because it is damaged.
        Raises DirectoryInUse, LogDamaged, LogTooNew, and LogFailed when the disk cannot be used.
        """
        try:
            disk.lock()
            recovered = recovery.recover(disk, progress, MARK_EVERY_BYTES)
            file, segment = opening.make_ready(disk, recovered, log_id, now_ms, segment_bytes)
        except OSError as e:
            disk.close()
            raise LogFailed(f"the data directory cannot be used: {e}") from e
        except BaseException:
            disk.close()
            raise
        return Journal(disk, file, segment_bytes, segment, recovered), recovered

    # What is known

    @property
    def last_sequence(self) -> int:
        """The last event that was flushed; 0: none yet."""
        return self._place.sequence - 1

    @property
    def synced_sequence(self) -> int:
        """The last event that survives a power cut."""
        return self._synced

    @property
    def horizon(self) -> int:
        """The oldest event that the log still holds."""
        return self._segments[0].sequence

    @property
    def snapshot_sequence(self) -> int:
        """The last event that the newest snapshot covers; 0: there is none."""
        return self._snapshot.sequence

    @property
    def events_since_snapshot(self) -> int:
        """How many events a start would have to fold."""
        return self.last_sequence - self._snapshot.sequence

    @property
    def bytes_since_snapshot(self) -> int:
        """How many bytes of records those are."""
        return self._logged_bytes - self._snapshot.logged_bytes

    @property
    def is_filling(self) -> bool:
        """Whether so much of the segment is used that it is time to `prepare` the next."""
        return self._place.at_bytes * _PREPARE_AT >= self._segment_bytes

    # Writing

    def check(self) -> None:
        """Raises LogFailed when something failed for good: then nothing of what was not synced is to be believed."""
        if self._failure:
            raise LogFailed(self._failure)

    def append(self, happened: Happened) -> None:
        """Gather events for the next record. Raises LogFailed."""
        self.check()
        if len(happened):
            self._gathered.append(happened)
            self.gathered += len(happened)

    def flush(self) -> int:
        """Write all that was gathered as one record, and return `last_sequence`. Waits for no medium, but when a
        segment is full.

        Raises LogRefused when it could not be written: the gathered events are dropped, the file is as it was before,
        durably, and the next flush may succeed. Raises LogFailed when not even that is sure.
        """
        self.check()
        happened, count = self._gathered, self.gathered
        if not happened:
            return self.last_sequence
        self._gathered, self.gathered = [], 0
        payload = codec.encode_all(happened)
        length_bytes = frames.record_bytes(len(payload))
        if length_bytes > frames.RECORD_BYTES_MAX:
            raise LogRefused(f"a batch of {length_bytes} bytes is more than a record may hold")
        if self._place.at_bytes + length_bytes > self._segment_bytes and self._place.at_bytes > frames.HEAD_BYTES:
            self._roll(events_of(happened[0])[0].at_ms)
        record, following = frames.encode(payload, count, self._synced, self._place, self._log_id)
        try:
            write_all(self._file, record, self._place.at_bytes)
        except OSError as e:
            self._cut_back(str(e))
        self._place = following
        self._logged_bytes += length_bytes
        self.latest_payload = payload
        self._remember(following)
        return self.last_sequence

    def sync(self) -> int:
        """Make durable what was flushed before the call, and return `synced_sequence`. Blocking; one at a time.

        Raises LogFailed, for good, when the disk did not do it.
        """
        with self._lock:
            self.check()
            sequence = self.last_sequence
            if sequence > self._synced:
                self._sync_locked()
                self._synced = sequence
            return self._synced

    def prepare(self) -> None:
        """Zero the next segment ahead, so that no flush has to. Blocking; one at a time. Raises LogFailed."""
        self.check()
        if self._spare is not None:
            return
        with suppress(OSError):
            try:
                self._spare = segments.prepare(self._disk, _SPARE_NAME, self._segment_bytes)
            except LogFailed as e:
                self._fail(str(e))

    def close(self) -> None:
        """Flush, sync and let the directory go, in any case. Raises LogRefused or LogFailed for the first two."""
        if self._closed:
            return
        try:
            if not self._failure:
                self.flush()
                self.sync()
        finally:
            self._closed = True
            self._failure = self._failure or "the log is closed"
            if self._spare is not None:
                segments.discard(self._disk, _SPARE_NAME, self._spare)
            with suppress(OSError):
                self._file.close()
            self._disk.close()

    # Snapshots and history

    def mark(self) -> Mark:
        """The point after the last flushed event. Taken together with the states, which must be those after it."""
        assert not self._gathered, "flush first: the states hold events that the log does not"
        return Mark(self.last_sequence, self._place.chain, self._logged_bytes)

    def write_snapshot(
        self, images: Sequence[Image], mark: Mark, created_ms: int, breathe: Breathe | None = None
    ) -> str:
        """Make a snapshot of `images` of all queues durable, and return its name; "" when there is one already.

        Blocking, for a thread, which may `breathe` between two chunks. Raises LogRefused when it could not be written
        (the log goes on without), LogFailed.
        """
        self.check()
        if mark.sequence <= self._snapshot.sequence:
            return ""
        if self._synced < mark.sequence:
            self.sync()
        try:
            head = Head(self._log_id, mark.sequence, created_ms, mark.chain)
            name = snapshots.write(self._disk, images, head, breathe)
        except OSError as e:
            raise LogRefused(f"the snapshot could not be written: {e}") from e
        except LogFailed as e:
            self._fail(str(e))
        self._snapshots = (*self._snapshots, mark.sequence)
        self._snapshot = mark
        return name

    def retain(self, now_ms: int, retain_bytes: int | None, retain_ms: int | None) -> list[str]:
        """Drop snapshots older than the newest two, and old segments past a bound that neither of the two needs.

        Returns the names. Blocking, for a thread. Raises LogRefused when a file could not be removed, LogFailed.
        """
        self.check()
        known = self._snapshots
        kept = known[-_SNAPSHOTS_KEPT:]
        needed_from = kept[0] + 1 if len(kept) == _SNAPSHOTS_KEPT else 1
        old = [segments.name_of(sequence, SNAPSHOT_SUFFIX) for sequence in known[: len(known) - len(kept)]]
        gone = segments.droppable(self._segments, needed_from, now_ms, retain_bytes, retain_ms)
        names = old + [segment.name for segment in gone]
        with self._lock:
            self._segments = tuple(segment for segment in self._segments if segment not in gone)
            self._snapshots = (*kept, *self._snapshots[len(known) :])
        for name in names:
            self._marks.pop(name, None)
            try:
                self._disk.remove(name)
                # One by one, so that a crash cannot bring an older one back and leave a gap.
                sync_names_or_fail(self._disk)
            except OSError as e:
                raise LogRefused(f"{name} could not be removed: {e}") from e
            except LogFailed as e:
                self._fail(str(e))
        return names

    def read(self, from_sequence: int) -> Iterator[tuple[int, AnyEvent]]:
        """(global sequence, event) from that one up to the last flushed at the time of the call.

        Raises HorizonPassed when the log no longer reaches back that far, also in the midst when a reader is so slow
        that `retain` overtakes it; LogDamaged, OSError.
        """
        if from_sequence < self.horizon:
            raise HorizonPassed(from_sequence, self.horizon)
        return self._read(from_sequence, self._segments, self._place.sequence)

    def _read(self, sequence: int, log: tuple[Segment, ...], until: int) -> Iterator[tuple[int, AnyEvent]]:
        ends = [*(segment.sequence for segment in log[1:]), until]
        for segment, end in zip(log, ends, strict=True):
            if end <= sequence:
                continue
            place = segment.begin()
            marks = self._marks.get(segment.name, [])
            index = bisect_right(marks, sequence, key=_sequence_of)
            if index:
                place = marks[index - 1]
            try:
                for record in segments.stretch(self._disk, segment, place, end):
                    if record.sequence + record.count <= sequence:
                        continue
                    for number, event in enumerate(recovery.events_of(segment.name, record), record.sequence):
                        if number >= sequence:
                            yield number, event
            except FileNotFoundError:
                raise HorizonPassed(sequence, self.horizon) from None
            sequence = end

    # Inside

    def _fail(self, text: str) -> NoReturn:
        self._failure = self._failure or text
        raise LogFailed(text)

    def _sync_locked(self) -> None:
        try:
            sync_or_fail(self._file)
        except LogFailed as e:
            self._fail(str(e))

    def _cut_back(self, reason: str) -> NoReturn:
        """After a failed write: the file as it was before, durably. Raises LogRefused, or LogFailed."""
        with self._lock:
            self.check()
            try:
                self._file.truncate(self._place.at_bytes)
            except OSError as e:
                self._fail(f"a write failed ({reason}) and so did cutting it off: {e}")
            self._sync_locked()
            self._synced = self.last_sequence
        raise LogRefused(f"the log could not be written: {reason}")

    def _roll(self, created_ms: int) -> None:
        """Begin the next segment, once all of this one is durable. Raises LogRefused, LogFailed."""
        with self._lock:
            self.check()
            self._sync_locked()
            self._synced = self.last_sequence
            head = Head(self._log_id, self._place.sequence, created_ms, self._place.chain)
            name = segments.name_of(head.sequence, segments.SEGMENT_SUFFIX) + UNFINISHED_SUFFIX
            file = self._spare
            try:
                if file is not None:
                    name = _SPARE_NAME
                else:
                    file = segments.prepare(self._disk, name, self._segment_bytes)
                segment = segments.begin(self._disk, file, name, head)
            except OSError as e:
                raise LogRefused(f"a new segment could not be begun: {e}") from e
            except LogFailed as e:
                self._fail(str(e))
            finally:
                if name == _SPARE_NAME:  # not before: `prepare` in its thread would make another of that name meanwhile
                    self._spare = None
            with suppress(OSError):
                self._file.close()
            full = replace(self._segments[-1], size_bytes=self._place.at_bytes)
            self._file = file
            self._segments = (*self._segments[:-1], full, segment)
            self._place = segment.begin()

    def _remember(self, place: Place) -> None:
        """Keep a place to begin reading at, every so many bytes."""
        marks = self._marks.setdefault(self._segments[-1].name, [])
        if not marks or place.at_bytes >= marks[-1].at_bytes + MARK_EVERY_BYTES:
            marks.append(place)


def _sequence_of(place: Place) -> int:
    return place.sequence
