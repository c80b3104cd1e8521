"""All queues at one point of the log, in one file.

Lives here: states as rows and back, the file of them, and the order of steps that makes it safe. Must not: choose a
moment, or drop segments.

Images stay as they are, so a thread may write them while commands go on: a few hundred tasks at a time, one record
of frames.py per chunk. A temporary file is written, synced, renamed, and the directory synced: a snapshot that has its
name is whole. The last row says how many queues and tasks there were; without it the file is not a snapshot.

Only what cannot be derived is stored. The orders are made anew from the tasks, the rows being in any order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, final

import msgspec

from moxy.core.state import QueueState, state_of
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Image, Task
from moxy.journal import frames, segments
from moxy.journal.disk import Disk, File, sync_names_or_fail, sync_or_fail, write_all
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Damaged, Head, Place, Record, Torn
from moxy.journal.rows import EndRow, MemoryRow, QueueRow, Row, TaskRow

Breathe: TypeAlias = Callable[[], None]
"""A sleep of a tenth of a millisecond: without it a thread keeps the interpreter for its switch interval of 5 ms."""

_CHUNK_ROWS: Final = 256
_CHUNK_PAYLOAD_BYTES: Final = 1 << 18


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Row])


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """What a snapshot file holds: the states after event `head.sequence`."""

    name: str
    head: Head
    states: dict[str, QueueState]
    tasks: int


def write(disk: Disk, images: Sequence[Image], head: Head, breathe: Breathe | None = None) -> str:
    """Make the snapshot durable and return its name. Blocking; may run in a thread.

    The log must be durable up to `head.sequence` before. `breathe` is called after every chunk. Raises OSError when
    nothing came of it, and LogFailed when a sync failed.
    """
    name = segments.name_of(head.sequence, segments.SNAPSHOT_SUFFIX)
    unfinished = name + segments.UNFINISHED_SUFFIX
    file = disk.create(unfinished)
    try:
        _write_rows(file, images, head, breathe)
        sync_or_fail(file)
        disk.rename(unfinished, name)
    except BaseException:
        segments.discard(disk, unfinished, file)
        raise
    file.close()
    sync_names_or_fail(disk)
    return name


def load(disk: Disk, name: str, sequence: int) -> Snapshot:
    """Read a snapshot whole. Raises LogDamaged when anything about it is wrong, LogTooNew, OSError."""
    head = segments.read_head(disk, name, frames.SNAPSHOT_MAGIC, sequence)
    builder: _Builder | None = None
    states: dict[str, QueueState] = {}
    tasks = 0
    end: EndRow | None = None
    try:
        for row in _read_rows(disk, name, head):
            if end is not None:
                raise _Bad("something follows its last row")
            if isinstance(row, QueueRow):
                _finish(builder, states)
                builder = _Builder(row)
            elif isinstance(row, EndRow):
                _finish(builder, states)
                end = row
            elif builder is None:
                raise _Bad("a task comes before the first queue")
            elif isinstance(row, TaskRow):
                builder.add_task(row)
                tasks += 1
            else:
                builder.add_memory(row)
    except (_Bad, msgspec.DecodeError, msgspec.ValidationError) as e:
        raise LogDamaged(name, 0, sequence, f"not a sound snapshot: {e}") from None
    if end is None:
        raise LogDamaged(name, 0, sequence, "not a sound snapshot: its last row is missing")
    if (end.queues, end.tasks) != (len(states), tasks):
        raise LogDamaged(name, 0, sequence, f"not a sound snapshot: it should hold {end}")
    return Snapshot(name, head, states, tasks)


def rows_of(images: Sequence[Image]) -> Iterator[Row]:
    """The queues as rows."""
    tasks = 0
    for s in images:
        yield QueueRow(s.name, s.policy, s.seq, s.at_ms, s.born_ms, s.paused, s.next_number, s.last_token, s.totals)
        for task in s.tasks:
            yield _task_row(task)
            tasks += 1
        for task_id, (until_ms, number) in s.remembered.items():
            yield MemoryRow(task_id, until_ms, number)
    yield EndRow(len(images), tasks)


class _Bad(Exception):
    """The rows make no states."""


@final
class _Builder:
    """A queue state in the making, from its rows."""

    def __init__(self, row: QueueRow) -> None:
        self.row: Final = row
        self._tasks: Final[list[Task]] = []
        self._memories: Final[dict[str, tuple[int, int]]] = {}

    def add_task(self, row: TaskRow) -> None:
        self._tasks.append(
            Task(
                row.number,
                row.task_id,
                row.payload,
                row.priority,
                row.place,
                row.placed_ms,
                row.enqueued_ms,
                row.state,
                row.due_ms,
                row.expires_ms,
                row.token,
                row.lease,
                row.death,
                row.options or NO_OPTIONS,
                row.tally or NO_TALLY,
            )
        )

    def add_memory(self, row: MemoryRow) -> None:
        self._memories[row.task_id] = (row.until_ms, row.number)

    def state(self) -> QueueState:
        """Raises _Bad for rows that make none."""
        row = self.row
        image = Image(
            row.name,
            row.policy,
            row.seq,
            row.at_ms,
            row.born_ms,
            row.paused,
            row.next_number,
            row.last_token,
            row.totals,
            tuple(self._tasks),
            self._memories,
        )
        try:
            return state_of(image)
        except ValueError as e:
            raise _Bad(f"queue {row.name!r}: {e}") from None


def _finish(builder: _Builder | None, states: dict[str, QueueState]) -> None:
    if builder is not None:
        if builder.row.name in states:
            raise _Bad(f"queue {builder.row.name!r} is there twice")
        states[builder.row.name] = builder.state()


def _task_row(task: Task) -> TaskRow:
    return TaskRow(
        task.number,
        task.task_id,
        task.payload,
        task.priority,
        task.place,
        task.placed_ms,
        task.enqueued_ms,
        task.state,
        task.due_ms,
        task.expires_ms,
        task.token,
        task.lease,
        task.death,
        None if task.options == NO_OPTIONS else task.options,
        None if task.tally == NO_TALLY else task.tally,
    )


def _write_rows(file: File, images: Sequence[Image], head: Head, breathe: Breathe | None) -> None:
    write_all(file, frames.encode_head(frames.SNAPSHOT_MAGIC, head), 0)
    place = Place(frames.HEAD_BYTES, 1, head.chain)
    chunk: list[Row] = []
    payload_bytes = 0
    for row in rows_of(images):
        chunk.append(row)
        if isinstance(row, TaskRow):
            payload_bytes += len(row.payload)
        if len(chunk) == _CHUNK_ROWS or payload_bytes >= _CHUNK_PAYLOAD_BYTES or isinstance(row, EndRow):
            record, following = frames.encode(_encoder.encode(chunk), len(chunk), 0, place, head.log_id)
            write_all(file, record, place.at_bytes)
            place = following
            chunk.clear()
            payload_bytes = 0
            if breathe is not None:
                breathe()


def _read_rows(disk: Disk, name: str, head: Head) -> Iterator[Row]:
    data = disk.read(name)
    place = Place(frames.HEAD_BYTES, 1, head.chain)
    while place.at_bytes < len(data):
        outcome = frames.read(data, place, head.log_id)
        if isinstance(outcome, Record):
            place = outcome.next
            yield from _decoder.decode(outcome.payload)
        elif isinstance(outcome, Damaged | Torn):
            raise _Bad(f"{outcome.text} (offset {place.at_bytes})")
        else:
            raise _Bad(f"zeros follow from offset {place.at_bytes} on")
