"""The journal: append, sync, replay and recovery of the job of which every task is enqueued, leased and acked."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moxy.core.events import Acked, AnyEvent, Enqueued, Leased
from moxy.core.reducer import replay
from moxy.core.state import QueueState
from moxy.journal import codec
from moxy.journal.disk import OsDisk
from moxy.journal.journal import Journal
from moxy.journal.recovery import recover
from moxy.journal.verify import verify
from tests.bench.harness import Row, Size, as_rate, cost, main, wall

NOW = 1_700_000_000_000
PAYLOAD = b"x" * 100
SEGMENT_BYTES = 64 << 20


def job(tasks: int) -> list[AnyEvent]:
    """The events of so many tasks, sixteen at a time through each verb, as a pipelining client makes them."""
    events: list[AnyEvent] = []
    for first in range(1, tasks + 1, 16):
        numbers = range(first, min(first + 16, tasks + 1))
        for verb in range(3):
            for n in numbers:
                seq, task, lease = len(events) + 1, f"{n}-0123456789abcdef", f"jobs:{n}:{n}:0123456789abcdef"
                if verb == 0:
                    events.append(Enqueued("jobs", seq, NOW, n, task, PAYLOAD))
                elif verb == 1:
                    events.append(Leased("jobs", seq, NOW, n, task, lease, n, NOW + 30_000, "10.0.0.7:51234"))
                else:
                    events.append(Acked("jobs", seq, NOW, n, task, lease))
    return events


def open_in(directory: Path) -> Journal:
    shutil.rmtree(directory, ignore_errors=True)
    return Journal.open(OsDisk(str(directory)), 7, NOW, SEGMENT_BYTES)[0]


def append(journal: Journal, batches: list[list[AnyEvent]], sync: bool) -> None:
    for batch in batches:
        journal.append(batch)
        journal.flush()
        if sync:
            journal.sync()
    journal.close()


def rows(size: Size) -> Iterator[Row]:
    events = job(size.of(40_000))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "log")
        for batch in (1, 48, 800):
            cut = [events[at : at + batch] for at in range(0, len(events), batch)]
            label = f"append, {batch} events a record"
            yield cost(
                label,
                size,
                len(events),
                lambda: open_in(directory),
                lambda journal, cut=cut: append(journal, cut, False),
            )
        some = [events[at : at + 800] for at in range(0, len(events), 800)][: size.of(50)]
        yield cost(
            "append and sync, 800 events a record, a record",
            size,
            len(some),
            lambda: open_in(directory),
            lambda journal: append(journal, some, True),
            wall,
        )
        append(open_in(directory), [events[at : at + 48] for at in range(0, len(events), 48)], False)
        payload = codec.encode(events)
        yield as_rate(cost("decode, events", size, len(events), lambda: payload, codec.decode))
        yield as_rate(
            cost("replay, events", size, len(events), lambda: QueueState("jobs"), lambda s: replay(events, s))
        )
        yield as_rate(cost("recovery from disk, events", size, len(events), lambda: OsDisk(str(directory)), recover))
        yield as_rate(cost("moxy verify, events", size, len(events), lambda: OsDisk(str(directory)), verify))


if __name__ == "__main__":
    main(rows)
