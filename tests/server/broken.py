"""`python -m tests.server.broken FAULT serve ...`: the real server with one fault planted in it.

Lives here: what the checkers of this folder must find. Must not: be imported by a test, since it changes moxy itself.
`volatile` is no fault but a disk whose cache does not survive: what was not synced is lost with the process, so that a
kill is a power cut.
"""

import sys
from collections.abc import Callable
from typing import Any

from moxy.cli import main
from moxy.core import decider, ids
from moxy.core.answers import Answer, Delivery
from moxy.core.commands import Ack, Fetch
from moxy.core.events import Acked, Released
from moxy.journal import frames
from moxy.journal.disk import OsFile
from moxy.journal.journal import Journal


def volatile() -> None:
    write, sync, close = OsFile.write, OsFile.sync, OsFile.close
    cache: dict[OsFile, list[tuple[bytes, int]]] = {}

    def keep(file: OsFile, data: bytes, at_bytes: int) -> int:
        cache.setdefault(file, []).append((data, at_bytes))
        return len(data)

    def through(file: OsFile) -> None:
        for data, at_bytes in cache.pop(file, []):
            write(file, data, at_bytes)
        sync(file)

    def forget(file: OsFile) -> None:
        cache.pop(file, None)
        close(file)

    OsFile.write, OsFile.sync, OsFile.close = keep, through, forget  # type: ignore[method-assign]


def reply_before_fsync() -> None:
    volatile()
    Journal.sync = lambda self: self.last_sequence  # type: ignore[method-assign]


def ack_ignores_its_lease() -> None:
    def ack(d: Any, c: Ack) -> Answer:
        task = d.state.tasks.get(c.number)
        if task is not None and task.lease is not None:
            d.happened(Acked(d.queue, d.seq, d.now_ms, task.number, task.task_id, task.lease.lease_id))
        return None

    decider._RULES[Ack] = ack


def resurrection() -> None:
    def ack(d: Any, c: Ack) -> Answer:
        task, _ = decider._held(d.state, c)
        d.happened(Released(d.queue, d.seq, d.now_ms, task.number, task.task_id, c.lease_id))
        return None

    decider._RULES[Ack] = ack


def double_lease() -> None:
    fetch = decider._RULES[Fetch]

    def fetch_twice(d: Any, c: Fetch) -> Answer:
        held = d.state.processing.first()
        deliveries = fetch(d, c)
        if held is None or deliveries:
            return deliveries
        task = d.state.tasks[held[2]]
        token = d.state.last_token + 1
        lease_id, deadline_ms = ids.lease_id(d.queue, task.number, token, d.nonce()), d.now_ms + c.lease_ms
        tally = task.tally
        return [
            Delivery(
                lease_id,
                task.task_id,
                d.queue,
                task.payload,
                tally.attempts,
                tally.deliveries + 1,
                token,
                deadline_ms,
                task.priority,
                task.enqueued_ms,
            )
        ]

    decider._RULES[Fetch] = fetch_twice


def truncation_at_a_bad_checksum() -> None:
    read = frames.read

    def forgiving(data: bytes, place: frames.Place, log_id: int) -> frames.Outcome:
        outcome = read(data, place, log_id)
        return frames.Torn(outcome.text) if isinstance(outcome, frames.Damaged) else outcome

    frames.read = forgiving


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        volatile,
        reply_before_fsync,
        ack_ignores_its_lease,
        resurrection,
        double_lease,
        truncation_at_a_bad_checksum,
    )
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
