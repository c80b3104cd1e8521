"""Writing and loading a snapshot of tasks that wait: the time of one task, and its bytes in the file."""

import tempfile
from collections.abc import Iterator

from moxy.journal import snapshots
from moxy.journal.disk import OsDisk
from moxy.journal.frames import Head
from tests.bench.core import NOW, filled
from tests.bench.harness import Row, Size, cost, main


def of(count: int, size: Size, disk: OsDisk) -> Iterator[Row]:
    state = filled("jobs", count)
    head = Head(7, state.seq, NOW, 0)
    images = [state.image()]
    label = f"{count:,} tasks, a task"
    yield cost(f"write, {label}", size, count, lambda: images, lambda images: snapshots.write(disk, images, head))
    (name,) = disk.names()
    yield cost(f"load, {label}", size, count, lambda: name, lambda name: snapshots.load(disk, name, head.sequence))
    each = disk.size_bytes(name) / count
    yield Row(f"file, {label}", each, each, each, "bytes")


def rows(size: Size) -> Iterator[Row]:
    for count in size.steps(10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as directory:
            yield from of(count, size, OsDisk(directory))


if __name__ == "__main__":
    main(rows)
