"""Events as bytes: what goes in comes out, old versions too, and the golden log can be read for ever."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from moxy.core.events import EVENT_TYPES, SCHEMA_VERSION
from moxy.journal import codec, recovery
from moxy.journal.codec import Undecodable
from moxy.journal.journal import Journal
from moxy.journal.verify import verify
from spec.simdisk import SimDisk
from tests.journal.make_golden import GOLDEN, summary
from tests.journal.storekeeper import LOG_ID, T0_MS, random_batches


def test_events_come_back_as_they_were() -> None:
    kinds: Counter[type] = Counter()
    for seed in range(40):
        for batch in random_batches(seed, 40):
            assert codec.decode(codec.encode(batch)) == batch
            kinds.update(type(event) for event in batch)
    assert kinds.keys() == set(EVENT_TYPES), "the workload makes every kind of event"


def test_what_is_no_batch_of_events_is_refused_with_a_reason() -> None:
    batch = random_batches(1, 1)[0]
    good = codec.encode(batch)
    for bad in (b"", good[:1], good[:-1], good + b"\0", good[:1] + b"\x91\x91\xa4Nope", bytes([0]) + good[1:]):
        with pytest.raises(Undecodable):
            codec.decode(bad)
    with pytest.raises(Undecodable) as caught:
        codec.decode(bytes([SCHEMA_VERSION + 1]) + good[1:])
    assert caught.value.too_new


def test_an_old_event_goes_through_every_upcaster_in_turn() -> None:
    def two(event: list[Any]) -> list[Any]:
        return ["Finished" if event[0] == "Done" else event[0], *event[1:]]

    def three(event: list[Any]) -> list[Any]:
        return [*event, "new field"]

    upcasters = {1: two, 2: three}
    assert codec.upcast([["Done", "jobs", 1]], 1, upcasters, 3) == [["Finished", "jobs", 1, "new field"]]
    assert codec.upcast([["Done", "jobs", 1]], 2, upcasters, 3) == [["Done", "jobs", 1, "new field"]]
    assert codec.upcast([["Done"]], 3, upcasters, 3) == [["Done"]]
    with pytest.raises(Undecodable):
        codec.upcast([], 0, upcasters, 3)


def test_every_step_from_the_first_version_to_todays_is_known() -> None:
    assert sorted(codec.UPCASTERS) == list(range(1, SCHEMA_VERSION))


def test_there_is_a_golden_log_of_every_version() -> None:
    assert [path.name for path in golden()] == [f"v{version}" for version in range(1, SCHEMA_VERSION + 1)]


def golden() -> list[Path]:
    return sorted(path for path in GOLDEN.iterdir() if path.is_dir())


@pytest.mark.parametrize("directory", golden(), ids=lambda path: path.name)
def test_a_golden_log_is_still_understood(directory: Path) -> None:
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    expected = json.loads(files.pop("expected.json"))
    report = verify(SimDisk(files))
    assert (report.findings, report.notes) == ((), ())
    assert report.snapshots_checked == 1
    for without in ("", ".snapshot"):
        kept = {name: data for name, data in files.items() if not without or not name.endswith(without)}
        recovered = recovery.recover(SimDisk(kept))
        assert {name: summary(state) for name, state in recovered.states.items()} == expected["states"]
        assert (recovered.snapshot_sequence == 0) == bool(without)
    events = [event for _, event in Journal.open(SimDisk(files), LOG_ID, T0_MS, 4096)[0].read(1)]
    assert len(events) == len(expected["events"])
    if directory.name == f"v{SCHEMA_VERSION}":
        assert {type(event) for event in events} == set(EVENT_TYPES)
        told = json.loads(msgspec.json.encode(events))
        assert [event[: len(old)] for event, old in zip(told, expected["events"], strict=True)] == expected["events"]
