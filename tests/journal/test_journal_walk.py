"""Reading a log in windows comes to what reading it at once comes to, whatever state its files are in."""

import random
from collections.abc import Iterator

import pytest

from moxy.core.events import AnyEvent, Enqueued
from moxy.journal.disk import Disk
from moxy.journal.errors import LogDamaged
from moxy.journal.frames import SECTOR_BYTES, Place, Record
from moxy.journal.journal import Journal
from moxy.journal.segments import Walk, segments_of
from spec.simdisk import SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS

AT_ONCE = 1 << 30
SEGMENT_BYTES = 8192
Told = tuple[list[tuple[str, Record]], Place, str]


def walked(disk: Disk, window_bytes: int) -> Told:
    """All records, where the log ends, and what is odd about its end or its midst."""
    records: list[tuple[str, Record]] = []
    walk = Walk(disk, segments_of(disk), None, window_bytes)
    try:
        for segment, record in walk:
            records.append((segment.name, record))
    except LogDamaged as damage:
        return records, walk.place, str(damage)
    return records, walk.place, walk.torn


def log() -> dict[str, bytes]:
    """Three segments: records much smaller than a window, of about its size, and of several; zeros after the last."""
    disk, rng = SimDisk(), random.Random(5)
    journal, _ = Journal.open(disk, LOG_ID, T0_MS, SEGMENT_BYTES)
    sizes = (10, 300, 420, 10, 1500, 5, 4000, 60, 2500, 900, 440, 441, 442, 443, 7, 3000, 20, 20, 1000, 30)
    for seq, size in enumerate(sizes, 1):
        event: AnyEvent = Enqueued("jobs", seq, T0_MS, seq, f"t{seq}", rng.randbytes(size))
        journal.append([event])
        journal.flush()
        if seq < 17:
            journal.sync()
    return disk.files()


def hurt(files: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """The log as it is, and as cuts, flipped bits and lost sectors leave it."""
    yield files
    names = sorted(name for name in files if name.endswith(".log"))
    assert len(names) >= 3
    last = names[-1]
    end = len(files[last].rstrip(b"\0"))
    assert len(files[last]) > end + 2 * SECTOR_BYTES, "zeros ahead"
    for at in (*range(SECTOR_BYTES, end + 40, 23), end + SECTOR_BYTES, len(files[last]) - 1):
        yield files | {last: files[last][:at]}
    for name in names:
        for at in range(SECTOR_BYTES, len(files[name].rstrip(b"\0")), 97):
            data = bytearray(files[name])
            data[at] ^= 1 << at % 8
            yield files | {name: bytes(data)}
        for at in range(SECTOR_BYTES, len(files[name]), SECTOR_BYTES):
            yield files | {name: files[name][:at] + bytes(SECTOR_BYTES) + files[name][at + SECTOR_BYTES :]}


@pytest.mark.parametrize("window_bytes", [512, 1024, 1536, 4096])
def test_a_log_read_in_windows_is_the_log_read_at_once(window_bytes: int) -> None:
    seen = {"whole": 0, "torn": 0, "damaged": 0}
    for files in hurt(log()):
        disk = SimDisk(files)
        told = walked(disk, AT_ONCE)
        assert walked(disk, window_bytes) == told
        seen["damaged" if "offset" in told[2] else "torn" if told[2] else "whole"] += 1
    assert min(seen.values()) > 5, seen
