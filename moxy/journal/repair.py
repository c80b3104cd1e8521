"""`repair`: makes a log that a start refuses one that it takes, and says what that costs.

Lives here: the one place that gives up sound bytes, only ever called by a person. Must not: run by itself.

Nothing is deleted: what is cut off or set aside stays in the directory under another name. In this order:

- a snapshot that does not belong to the log is set aside, when the log can do without it;
- damage in history that a later snapshot makes unnecessary: the segments up to it are set aside, no state is lost;
- *cut*: the log ends before the damage. What came after is lost from the state, though not from the disk;
- *begin after a snapshot*, when it covers more than the log before the damage: the whole log is set aside, and a new
  one begins after the snapshot.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from moxy.journal import frames, opening, recovery, segments, snapshots
from moxy.journal.disk import Disk, sync_names_or_fail, sync_or_fail
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import Head, Place
from moxy.journal.segments import ASIDE_SUFFIX, SEGMENT_SUFFIX, SNAPSHOT_SUFFIX
from moxy.journal.snapshots import Snapshot

_ROUNDS_MAX: Final = 1000
"""Each round sets at least one file aside or cuts one, so a directory needs no more than a few."""


class Repair(msgspec.Struct, frozen=True):
    """What was done, in sentences, and with which event the log ends now. Nothing done: it was not damaged."""

    done: tuple[str, ...]
    last_sequence: int


def repair(disk: Disk) -> Repair:
    """Repair a data directory that no server uses. On an error `disk` is closed.

    Raises DirectoryInUse, LogDamaged when no state can be had at all, LogTooNew, LogFailed, OSError.
    """
    done: list[str] = []
    try:
        disk.lock()
        for _ in range(_ROUNDS_MAX):
            try:
                return Repair(tuple(done), recovery.recover(disk).last_sequence)
            except LogDamaged as damage:
                before = len(done)
                _mend(disk, damage, done)
                if len(done) == before:
                    raise
        raise AssertionError("repair comes to no end")
    except BaseException:
        disk.close()
        raise


def _mend(disk: Disk, damage: LogDamaged, done: list[str]) -> None:
    """One round. Does nothing when there is no state to keep: an empty start is not a repair."""
    log = segments.named(disk, SEGMENT_SUFFIX)
    snapshot = _newest_sound(disk)
    covered = snapshot.head.sequence if snapshot is not None else 0
    if damage.file.endswith(SNAPSHOT_SUFFIX) and log and log[0][0] == 1:
        done.append(
            f"{damage}. It was set aside as {opening.set_aside(disk, damage.file)}: the log is whole without it"
        )
        return
    index = next((i for i, (_, name) in enumerate(log) if name == damage.file), -1)
    foldable = bool(log) and log[0][0] <= covered + 1
    if 0 <= index < len(log) - 1 and log[index + 1][0] <= covered + 1:
        done.append(f"{damage}. No state is lost: a snapshot covers sequence {covered}. History begins later now")
        _set_aside(disk, log[: index + 1], done)
    elif index >= 0 and foldable and damage.sequence > max(covered, 1):
        _cut(disk, damage, log[index:], done)
    elif snapshot is not None:
        _begin_after(disk, snapshot, damage, log, done)


def _cut(disk: Disk, damage: LogDamaged, rest: Sequence[tuple[int, str]], done: list[str]) -> None:
    """End the log before the damage, keeping a copy of what is cut off."""
    name, at_bytes = damage.file, damage.at_bytes
    lost = _lost(disk, damage)
    if at_bytes > frames.HEAD_BYTES:
        aside = opening.copy_aside(disk, name, 0, ASIDE_SUFFIX)
        file = disk.open(name)
        try:
            file.truncate(at_bytes)
            sync_or_fail(file)
        finally:
            file.close()
        done.append(f"{damage}. {name} was cut there, a copy of the whole is {aside}. {lost}")
        rest = rest[1:]
    else:
        done.append(f"{damage}. {lost}")
    _set_aside(disk, rest, done)


def _begin_after(
    disk: Disk, snapshot: Snapshot, damage: LogDamaged, log: Sequence[tuple[int, str]], done: list[str]
) -> None:
    """Set the whole log aside and begin a new one after the newest sound snapshot."""
    head = snapshot.head
    done.append(f"{damage}. The state is that of {snapshot.name}, and a new log begins after it. {_lost(disk, damage)}")
    _set_aside(disk, [pair for pair in segments.named(disk, SNAPSHOT_SUFFIX) if pair[0] > head.sequence], done)
    _set_aside(disk, log, done)
    file, _ = opening.begin_segment(disk, Head(head.log_id, head.sequence + 1, head.created_ms, head.chain), 0)
    file.close()


def _set_aside(disk: Disk, files: Sequence[tuple[int, str]], done: list[str]) -> None:
    for _, name in files:
        done.append(f"{name} was set aside as {opening.set_aside(disk, name)}")
    sync_names_or_fail(disk)


def _lost(disk: Disk, damage: LogDamaged) -> str:
    """What is known of the events from the damage on, for people."""
    text = f"Events from sequence {damage.sequence} on of that file are not in the log any more"
    if not damage.file.endswith(SEGMENT_SUFFIX):
        return text
    data = disk.read(damage.file)
    head = frames.decode_head(frames.LOG_MAGIC, data)
    if not isinstance(head, Head):
        return text
    later = frames.later_records(data, Place(damage.at_bytes, damage.sequence, 0), head.log_id)
    sound = sum(count for _, _, count in later)
    return (
        f"{text}; {sound} of them are in records that look sound, the last from sequence {later[-1][1]} on"
        if later
        else text
    )


def _newest_sound(disk: Disk) -> Snapshot | None:
    for sequence, name in reversed(segments.named(disk, SNAPSHOT_SUFFIX)):
        try:
            return snapshots.load(disk, name, sequence)
        except LogDamaged:
            continue
    return None
