"""What the files of the log are made of: one head, then records. Bytes in, values out.

Lives here: layout, checksums, and the judgement of what is found: a sound record, the end, a torn tail, or damage.
Must not: open a file, or know what a payload means.

A record is a header with a checksum of its own, the payload, and 1 to 8 bytes 0xFF up to a multiple of 8. The payload's
checksum starts from that of the record before, so that a sound record in another's place is found out; the header's
starts from the log's id, a random number, so that nothing a client sends can look like a record.

Torn or damaged? A crash leaves of an append: all of it, a part of it in a file that ends there or is zero from there
on, or all but some sectors of 512 bytes that are still zero, since files are zeroed ahead. So a record that fails its
checksum is torn when it is short, when nothing but zeros follows before its last byte (which is never zero), or when
more of its sectors are zero than were zero when it was written (the header has that count); anything else is damage.
Many records may be in flight when the power fails, and the disk may have written a later one first: each header says
up to which sequence the log was known to be durable when it was written, and only a record that no later one proves to
have been durable may be called torn.
See Alagappan et al., Protocol-Aware Recovery, FAST'18, and the isTornEntry of etcd's wal for where this comes from.
"""

import struct
from typing import Final, TypeAlias
from zlib import crc32

import msgspec

SECTOR_BYTES: Final = 512
HEAD_BYTES: Final = SECTOR_BYTES
FORMAT_VERSION: Final = 1
LOG_MAGIC: Final = b"moxy.log"
SNAPSHOT_MAGIC: Final = b"moxysnap"
RECORD_MAGIC: Final = b"\xb5MXR"
RECORD_BYTES_MAX: Final = 1 << 30
"""Most that one record may hold: a batch is all or nothing, so it is never split."""

_HEAD: Final = struct.Struct("<8sIIQQI")
_HEADER: Final = struct.Struct("<4sIQIIQI")
_CHECKSUM: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
_ALIGN: Final = 8
_PADDING: Final = b"\xff" * _ALIGN
_ZEROS: Final = bytes(1 << 16)


class Head(msgspec.Struct, frozen=True, gc=False):
    """The first sector of a file. `sequence`: a log file's first event, or the last that a snapshot covers.

    `chain` is the payload checksum of the last record before the file's first event, or of the one that the snapshot
    ends with. `log_id` is the same in all files of a directory.
    """

    log_id: int
    sequence: int
    created_ms: int
    chain: int


class Place(msgspec.Struct, frozen=True, gc=False):
    """A point between two records: the offset, the sequence that comes next, and the checksum to go on from."""

    at_bytes: int
    sequence: int
    chain: int


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A point of the log that a snapshot can be taken at: after event `sequence`."""

    sequence: int
    chain: int
    logged_bytes: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """A sound record: events `sequence` to `sequence + count - 1`; `next` is the place after it."""

    sequence: int
    count: int
    synced: int
    payload: bytes
    next: Place


class End(msgspec.Struct, frozen=True, gc=False):
    """Nothing more: the file ends here, or is zero from here on."""


class Torn(msgspec.Struct, frozen=True, gc=False):
    """What a crash leaves of a write that was never acknowledged as durable. Legal at the end of the log only."""

    text: str


class Damaged(msgspec.Struct, frozen=True, gc=False):
    """Something that no crash leaves."""

    text: str


Outcome: TypeAlias = Record | End | Torn | Damaged


class _Header(msgspec.Struct, frozen=True, gc=False):
    length_bytes: int
    sequence: int
    count: int
    zero_sectors: int
    synced: int
    checksum: int


def encode_head(magic: bytes, head: Head) -> bytes:
    """The first sector of a file."""
    body = _HEAD.pack(magic, FORMAT_VERSION, head.log_id, head.sequence, head.created_ms, head.chain)
    body = body.ljust(HEAD_BYTES - _CHECKSUM.size, b"\0")
    return body + _CHECKSUM.pack(crc32(body))


def decode_head(magic: bytes, data: bytes) -> Head | Damaged | int:
    """The head of a file; what is wrong with it; or its format version, sound, but not known here."""
    if len(data) < HEAD_BYTES:
        return Damaged(f"the file has {len(data)} bytes, its head alone {HEAD_BYTES}")
    body = data[: HEAD_BYTES - _CHECKSUM.size]
    found, version, log_id, sequence, created_ms, chain = _HEAD.unpack_from(data)
    if _CHECKSUM.unpack_from(data, len(body))[0] != crc32(body):
        return Damaged("the checksum of the file's head is wrong")
    if found != magic:
        return Damaged(f"the file begins with {found!r}, not with {magic!r}")
    if version != FORMAT_VERSION:
        return int(version)
    return Head(log_id, sequence, created_ms, chain)


def record_bytes(payload_bytes: int) -> int:
    """How long the record of such a payload is."""
    return HEADER_BYTES + (payload_bytes // _ALIGN + 1) * _ALIGN


def encode(payload: bytes, count: int, synced: int, place: Place, log_id: int) -> tuple[bytes, Place]:
    """A record to be written at `place`, and the place after it."""
    body = payload + _PADDING[len(payload) % _ALIGN :]
    checksum = crc32(body, place.chain)
    at = place.at_bytes % SECTOR_BYTES
    # The first and the last piece are never zero: the magic and the padding see to it. So only the body counts.
    start, end = at + HEADER_BYTES, at + HEADER_BYTES + len(body)
    zero = _zero_sectors(body, start, end) if end - start >= SECTOR_BYTES else 0
    header = _HEADER.pack(RECORD_MAGIC, len(payload), place.sequence, count, zero, synced, checksum)
    record = b"".join((header, _CHECKSUM.pack(crc32(header, log_id)), body))
    return record, Place(place.at_bytes + len(record), place.sequence + count, checksum)


def read(data: bytes, place: Place, log_id: int, base_bytes: int = 0) -> Outcome:
    """What is at `place` of a file, of which `data` is what is from `base_bytes` on, the beginning of a sector.

    A sound record is one whatever comes after it. Any other outcome is to be believed only if `data` goes to the end of
    the file. Torn is a judgement about the last file of a log: in any other it means damage, and the caller says so.
    """
    at = place.at_bytes - base_bytes
    header = _header(data, at, log_id)
    if header is None:
        return _no_header(data, place, log_id, base_bytes)
    if header.sequence != place.sequence:
        return Damaged(f"a sound record of sequence {header.sequence} is in the place of {place.sequence}")
    end = at + record_bytes(header.length_bytes)
    if end > len(data):
        return _unless_proven_durable(data, place, log_id, base_bytes, "its last record is cut short")
    body = data[at + HEADER_BYTES : end]
    if crc32(body, place.chain) == header.checksum:
        after = Place(base_bytes + end, place.sequence + header.count, header.checksum)
        return Record(header.sequence, header.count, header.synced, body[: header.length_bytes], after)
    if is_zero(data, end - 1):
        return Torn("its last record was not written to its end")
    if _zero_pieces(data, at, end) > header.zero_sectors:
        text = "its last record is torn: sectors of it were never written"
        return _unless_proven_durable(data, place, log_id, base_bytes, text)
    return Damaged("the checksum of a complete record is wrong")


def is_zero(data: bytes, at_bytes: int) -> bool:
    """Whether nothing but zeros is left."""
    for at in range(at_bytes, len(data), len(_ZEROS)):
        piece = data[at : at + len(_ZEROS)]
        if piece != _ZEROS[: len(piece)]:
            return False
    return True


def later_records(data: bytes, place: Place, log_id: int) -> list[tuple[int, int, int]]:
    """Sound headers after `place`, as (offset, first sequence, events): what a flaw there would cost."""
    return [(at, h.sequence, h.count) for at, h in _later_headers(data, place, log_id, 0)]


def _header(data: bytes, at: int, log_id: int) -> _Header | None:
    """The header at that offset, if there is a sound one."""
    if len(data) - at < HEADER_BYTES or data[at : at + len(RECORD_MAGIC)] != RECORD_MAGIC:
        return None
    if _CHECKSUM.unpack_from(data, at + _HEADER.size)[0] != crc32(data[at : at + _HEADER.size], log_id):
        return None
    _, length_bytes, sequence, count, zero, synced, checksum = _HEADER.unpack_from(data, at)
    return _Header(length_bytes, sequence, count, zero, synced, checksum)


def _no_header(data: bytes, place: Place, log_id: int, base_bytes: int) -> Outcome:
    """No sound header: the end, a header that was torn or cut, or damage."""
    at = place.at_bytes - base_bytes
    if is_zero(data, at):
        return End()
    if not RECORD_MAGIC.startswith(data[at : at + len(RECORD_MAGIC)].rstrip(b"\0")):
        return Damaged("this is not the beginning of a record")
    if len(data) - at < HEADER_BYTES:
        return _unless_proven_durable(data, place, log_id, base_bytes, "its last record is cut short")
    if is_zero(data, at + HEADER_BYTES - 1):
        return Torn("its last record was not written to its end")
    if _zero_pieces(data, at, at + HEADER_BYTES):
        text = "its last record is torn: its header was never written"
        return _unless_proven_durable(data, place, log_id, base_bytes, text)
    return Damaged("the checksum of a record's header is wrong")


def _unless_proven_durable(data: bytes, place: Place, log_id: int, base_bytes: int, text: str) -> Torn | Damaged:
    """Torn, unless a later record was written when this one was already known to be durable."""
    for at, header in _later_headers(data, place, log_id, base_bytes):
        if header.synced >= place.sequence:
            offset = base_bytes + at
            return Damaged(
                f"{text.removeprefix('its last ')}, but a sound one at offset {offset} followed when it was whole"
            )
    return Torn(text)


def _later_headers(data: bytes, place: Place, log_id: int, base_bytes: int) -> list[tuple[int, _Header]]:
    found: list[tuple[int, _Header]] = []
    at = data.find(RECORD_MAGIC, place.at_bytes - base_bytes + 1)
    while at >= 0:
        header = _header(data, at, log_id) if at % _ALIGN == 0 else None
        if header is not None and header.sequence > place.sequence:
            found.append((at, header))
        at = data.find(RECORD_MAGIC, at + 1)
    return found


def _zero_sectors(body: bytes, start: int, end: int) -> int:
    """How many whole sectors of a body, which will lie at `start` to `end`, are zero."""
    zero = _ZEROS[:SECTOR_BYTES]
    if zero not in body:  # nearly always; one search is quicker than a look at each sector
        return 0
    first = -start % SECTOR_BYTES
    return sum(
        body[at : at + SECTOR_BYTES] == zero for at in range(first, end - start - SECTOR_BYTES + 1, SECTOR_BYTES)
    )


def _zero_pieces(data: bytes, start: int, end: int) -> int:
    """How many sectors that a record from `start` to `end` lies in are zero, the first from the record on."""
    zero = 0
    at = start
    while at < end:
        stop = at - at % SECTOR_BYTES + SECTOR_BYTES
        piece = data[at:stop]
        zero += piece == _ZEROS[: len(piece)]
        at = stop
    return zero
