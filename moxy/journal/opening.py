"""What a start changes in a data directory, once it is known what is in it.

Lives here: the steps from a recovery to a file that can be written, and the copy that is kept of whatever is cut off.
Must not: judge; recovery did.

Everything that was recovered is durable when this is done: a killed process may have left it in the kernel only, and
one that a failed fsync stopped may have left it there as clean pages, which no sync would ever write. So records that
nothing proves to be durable are written again, in their place and as they are, before the sync. A crash at any step
leaves a directory that the next start can do it all again with.
"""

from moxy.journal import segments
from moxy.journal.disk import Disk, File, sync_names_or_fail, sync_or_fail, write_all
from moxy.journal.frames import Head
from moxy.journal.recovery import Recovered
from moxy.journal.segments import ASIDE_SUFFIX, TORN_SUFFIX, UNFINISHED_SUFFIX, Segment


def make_ready(disk: Disk, recovered: Recovered, log_id: int, now_ms: int, segment_bytes: int) -> tuple[File, Segment]:
    """The file and the segment to go on in. Raises OSError, LogFailed."""
    for name in disk.names():
        if name.endswith(UNFINISHED_SUFFIX):
            disk.remove(name)
    for name in recovered.bad_snapshots:
        set_aside(disk, name)
    segment, place = recovered.segment, recovered.place
    if segment is not None and recovered.torn:
        copy_aside(disk, segment.name, 0 if segment.head is None else place.at_bytes, TORN_SUFFIX)
    if segment is None or segment.head is None:
        head = Head(recovered.log_id or log_id, place.sequence, now_ms, place.chain)
        return begin_segment(disk, head, segment_bytes)
    file = disk.open(segment.name)
    try:
        if recovered.torn:
            file.truncate(place.at_bytes)
        at_bytes = recovered.unproven_at_bytes
        write_all(file, disk.read(segment.name, at_bytes, place.at_bytes - at_bytes), at_bytes)
        sync_or_fail(file)
        sync_names_or_fail(disk)
    except BaseException:
        file.close()
        raise
    return file, segment


def begin_segment(disk: Disk, head: Head, segment_bytes: int) -> tuple[File, Segment]:
    """A new durable segment, open. Raises OSError when nothing came of it, LogFailed."""
    unfinished = segments.name_of(head.sequence, segments.SEGMENT_SUFFIX) + UNFINISHED_SUFFIX
    file = segments.prepare(disk, unfinished, segment_bytes)
    return file, segments.begin(disk, file, unfinished, head)


def set_aside(disk: Disk, name: str) -> str:
    """Give a file a name under which nobody reads it, and return that. Raises OSError."""
    aside = _free_name(disk, name, ASIDE_SUFFIX)
    disk.rename(name, aside)
    return aside


def copy_aside(disk: Disk, name: str, at_bytes: int, suffix: str) -> str:
    """Copy a file from that offset on, but for trailing zeros, to a new file beside it, durably; return its name.

    Raises OSError, LogFailed.
    """
    aside = _free_name(disk, f"{name}-at-{at_bytes}", suffix)
    unfinished = aside + UNFINISHED_SUFFIX
    file = disk.create(unfinished)
    try:
        write_all(file, disk.read(name, at_bytes).rstrip(b"\0"), 0)
        sync_or_fail(file)
        disk.rename(unfinished, aside)
    except BaseException:
        segments.discard(disk, unfinished, file)
        raise
    file.close()
    sync_names_or_fail(disk)
    return aside


def _free_name(disk: Disk, stem: str, suffix: str) -> str:
    """A name that no file has: what was set aside before stays."""
    taken = disk.names()
    number = 1
    while (name := f"{stem}-{number}{suffix}") in taken:
        number += 1
    return name
