"""Timing, and the flags and the table that all scripts share.

Lives here: how a cost is measured and shown. Must not: know a room.

A cost is the median of some repetitions, each on input of its own that was made outside the clock, with the garbage
collector off. The clock is this process' own processor time, which a busy machine disturbs least; `wall` is for what
waits for a disk. Low and high are shown because a machine is never quiet.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

Made = TypeVar("Made")
wall = time.perf_counter_ns


class Row(NamedTuple):
    """One figure: what, how much of which unit, and between which bounds."""

    label: str
    value: float
    low: float
    high: float
    unit: str


class Size(NamedTuple):
    """How much to do: `scale` shrinks or grows every count, `repeat` is how often a thing is timed."""

    scale: float
    repeat: int

    def of(self, count: int) -> int:
        """A count at this scale, at least 1."""
        return max(1, int(count * self.scale))

    def steps(self, first: int, last: int) -> list[int]:
        """Counts from first to last, each ten times the one before, at this scale and each once."""
        counts = []
        while first <= last:
            counts.append(self.of(first))
            first *= 10
        return sorted(set(counts))


def cost(
    label: str,
    size: Size,
    ops: int,
    make: Callable[[], Made],
    work: Callable[[Made], object],
    clock: Callable[[], int] = time.process_time_ns,
) -> Row:
    """Nanoseconds per operation of `work`, which does `ops` of them on what `make` made."""
    costs = []
    for _ in range(size.repeat):
        made = make()
        costs.append(_timed(partial(work, made), clock) / ops)
        del made
    return Row(label, median(costs), min(costs), max(costs), "ns")


def rounds(size: Size, ops: int, steps: Mapping[str, Callable[[], object]]) -> Iterator[Row]:
    """As `cost`, of steps that take turns on one thing and together leave it as it was.

    One more round comes first and does not count: in it the process gets memory that it never had, which on a virtual
    machine can take longer than all that is done with it.
    """
    costs: dict[str, list[float]] = {label: [] for label in steps}
    for round_ in range(size.repeat + 1):
        for label, step in steps.items():
            took = _timed(step, time.process_time_ns) / ops
            if round_:
                costs[label].append(took)
    for label, seen in costs.items():
        yield Row(label, median(seen), min(seen), max(seen), "ns")


def _timed(work: Callable[[], object], clock: Callable[[], int]) -> int:
    gc.collect()
    gc.disable()
    before = clock()
    work()
    took = clock() - before
    gc.enable()
    return took


def as_rate(row: Row) -> Row:
    """A cost in nanoseconds as millions a second."""
    return Row(row.label, 1e3 / row.value, 1e3 / row.high, 1e3 / row.low, "M/s")


def main(rows: Callable[[Size], Iterator[Row]]) -> None:
    """Run a script: `--scale F`, `--repeat N`, `--json`."""
    parser = argparse.ArgumentParser(description=sys.modules[rows.__module__].__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="shrink (below 1) or grow every count")
    parser.add_argument("--repeat", type=int, default=5, help="how often each thing is timed")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for row in rows(Size(arguments.scale, arguments.repeat)):
        if arguments.json:
            line = json.dumps(row._asdict())
        else:
            figures = f"{row.value:>12,.2f} {row.unit:<5} ({row.low:,.2f} - {row.high:,.2f})"
            line = f"{row.label:<52} {figures}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
