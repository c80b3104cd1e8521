"""docs/event-log.md tells the truth: a reader that knows only that page reads the example and the golden log."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec

from moxy.core.events import EVENT_TYPES, Enqueued
from moxy.journal import codec, frames, rows
from moxy.journal.frames import Head, Place
from tests.journal.make_golden import GOLDEN

PAGE = (Path(__file__).parents[2] / "docs" / "event-log.md").read_text()


def example() -> bytes:
    """The bytes of the hex dump in the page, lines that were left out being zero."""
    out = bytearray()
    for offset, digits in re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} )+)", PAGE, re.MULTILINE):
        out = out.ljust(int(offset, 16), b"\0")
        out += bytes.fromhex(digits)
    return bytes(out)


def read_by_the_page(data: bytes, magic: bytes = b"moxy.log") -> list[list[Any]]:
    """What docs/event-log.md says, and nothing else: the arrays in the records of a sound file."""
    found, version, log_id, sequence, _, chain = struct.unpack_from("<8sIIQQI", data)
    assert (found, version) == (magic, 1)
    assert struct.unpack_from("<I", data, 508)[0] == zlib.crc32(data[:508])
    if magic == b"moxysnap":
        sequence = 1
    at, out = 512, []
    while any(data[at:]):
        tag, length, first, count, _, _, checksum, own = struct.unpack_from("<4sIQIIQII", data, at)
        assert (tag, first) == (b"\xb5MXR", sequence)
        assert own == zlib.crc32(data[at : at + 36], log_id)
        end = at + 40 + length + 8 - length % 8
        body = data[at + 40 : end]
        assert checksum == zlib.crc32(body, chain)
        assert set(body[length:]) == {0xFF}
        payload = body[:length]
        if magic == b"moxy.log":
            assert payload[0] == 1
            payload = payload[1:]
        rows = msgspec.msgpack.decode(payload)
        assert len(rows) == count
        out += rows
        at, sequence, chain = end, sequence + count, checksum
    return out


def test_the_example_is_what_the_code_writes() -> None:
    event = Enqueued("jobs", 1, 1_700_000_000_000, 1, "1-00000000000000ab", b"hello")
    head = Head(0x1EAF1EAF, 1, 1_700_000_000_000, 0)
    record, _ = frames.encode(codec.encode([event]), 1, 0, Place(512, 1, 0), head.log_id)
    assert example() == frames.encode_head(frames.LOG_MAGIC, head) + record
    fields = [getattr(event, name) for name in event.__struct_fields__]
    assert read_by_the_page(example()) == [["Enqueued", *fields]]
    for number in re.findall(r"`0x([0-9a-f]{8})`", PAGE):
        if number != "1eaf1eaf":
            assert struct.pack("<I", int(number, 16)) in example(), number


def test_a_reader_that_knows_only_the_page_reads_the_golden_log() -> None:
    segments = sorted((GOLDEN / "v1").glob("*.log"))
    events = [event for path in segments for event in read_by_the_page(path.read_bytes())]
    expected = msgspec.json.decode((GOLDEN / "v1" / "expected.json").read_bytes())["events"]
    assert msgspec.json.decode(msgspec.json.encode(events)) == expected
    (snapshot,) = (GOLDEN / "v1").glob("*.snapshot")
    found = read_by_the_page(snapshot.read_bytes(), b"moxysnap")
    assert found[0][0] == "queue"
    assert found[-1][0] == "end"
    assert found[-1][2] == sum(row[0] == "task" for row in found)


def table(title: str) -> dict[str, list[str]]:
    """name -> fields of the first table after a title."""
    lines = PAGE.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {
        name: [field.strip() for field in rest.split(":")[0].split(",") if field.strip()] for name, rest in rows[2:]
    }


def test_the_tables_of_events_and_rows_are_those_of_the_code() -> None:
    common = ("queue", "seq", "at_ms")
    told = table("The payload of a log record")
    assert told == {kind.__name__: list(kind.__struct_fields__[len(common) :]) for kind in EVENT_TYPES}
    assert all(kind.__struct_fields__[: len(common)] == common for kind in EVENT_TYPES)
    kinds = {"queue": rows.QueueRow, "task": rows.TaskRow, "memory": rows.MemoryRow}
    assert {name: fields for name, fields in table("A snapshot").items() if name != "end"} == {
        name: list(row.__struct_fields__) for name, row in kinds.items()
    }
