"""Resident memory of a task that waits, and of one that is held: 100 bytes of payload, each payload its own object.

Measured in this process, which is new: the growth of its resident set, by the number of tasks.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

from moxy.core.commands import Enqueue
from moxy.core.decider import decide
from moxy.core.state import QueueState
from tests.bench.core import NOW, held
from tests.bench.harness import Row, Size, main

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def waiting(count: int) -> QueueState:
    """One by one, as clients enqueue: what an old state shared with the new one is given back on the way."""
    state = QueueState("jobs")
    for number in range(count):
        state = decide(state, Enqueue("jobs", b"%0100d" % number), NOW, number).state
    return state


def rows(size: Size) -> Iterator[Row]:
    count = size.of(200_000)
    waiting(10)
    before = resident_bytes()
    state = waiting(count)
    after = resident_bytes()
    each = (after - before) / count
    yield Row(f"{count:,} waiting, a task", each, each, each, "bytes")
    state = held(state, count)
    each = (resident_bytes() - before) / count
    yield Row(f"{count:,} held, a task", each, each, each, "bytes")
    assert len(state.processing) == count


if __name__ == "__main__":
    main(rows)
