"""`python -m tests.server.broken FAULT serve ...`: the real server with one fault planted in it.

Lives here: what the checkers of this folder must find. Must not: be imported by a test, since it changes moxy itself.
`volatile` and `sync_fails` are no faults of moxy but a disk whose cache does not survive: what was not synced is lost
with the process, so that a kill is a power cut.
"""

import errno
import itertools
import sys
from collections.abc import Callable

from msgspec.structs import replace

from moxy.cli import main
from moxy.core import decider, ids
from moxy.core.answers import Delivery
from moxy.core.commands import Ack, Fetch
from moxy.core.decision import Decision
from moxy.core.events import Acked, Released
from moxy.core.heart import Heart
from moxy.core.reducer import apply
from moxy.core.state import QueueState
from moxy.journal import frames, journal
from moxy.journal.disk import OsFile


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


def sync_fails() -> None:
    """The four hundredth, and what it was to make durable is lost with the process."""
    volatile()
    sync, numbers = OsFile.sync, itertools.count(1)

    def fail(file: OsFile) -> None:
        if next(numbers) == 400:
            raise OSError(errno.EIO, "planted")
        sync(file)

    OsFile.sync = fail  # type: ignore[method-assign]


def reply_before_fsync() -> None:
    volatile()
    journal.sync_or_fail = lambda file: None  # compiled code looks up what comes of a module that is not


def ack_ignores_its_lease() -> None:
    def ack(state: QueueState, h: Heart, c: Ack, now_ms: int, seed: int) -> Decision:
        task = h.task(c.number)
        if task is None or task.lease is None:
            return Decision((), state, None)
        event = Acked(h.name, h.seq + 1, now_ms, task.number, task.task_id, task.lease.lease_id)
        return Decision((event,), apply(state, event), None)

    decider._RULES[Ack] = ack


def resurrection() -> None:
    def ack(state: QueueState, h: Heart, c: Ack, now_ms: int, seed: int) -> Decision:
        task, _ = decider._held(h, c)
        event = Released(h.name, h.seq + 1, now_ms, task.number, task.task_id, c.lease_id)
        return Decision((event,), apply(state, event), None)

    decider._RULES[Ack] = ack


def double_lease() -> None:
    fetch = decider._RULES[Fetch]

    def fetch_twice(state: QueueState, h: Heart, c: Fetch, now_ms: int, seed: int) -> Decision:
        held = state.processing.first()
        decision = fetch(state, h, c, now_ms, seed)
        if held is None or decision.answer:
            return decision
        task = decision.state.tasks[held[2]]
        token = decision.state.last_token + 1
        lease_id, deadline_ms = (
            ids.lease_id(c.queue, task.number, token, ids.digits(ids.nonce(seed, 9))),
            now_ms + c.lease_ms,
        )
        tally = task.tally
        given = Delivery(
            lease_id,
            task.task_id,
            c.queue,
            task.payload,
            tally.attempts,
            tally.deliveries + 1,
            token,
            deadline_ms,
            task.priority,
            task.enqueued_ms,
        )
        return replace(decision, answer=[given])

    decider._RULES[Fetch] = fetch_twice


def truncation_at_a_bad_checksum() -> None:
    read = frames.read

    def forgiving(data: bytes, place: frames.Place, log_id: int, base_bytes: int = 0) -> frames.Outcome:
        outcome = read(data, place, log_id, base_bytes)
        return frames.Torn(outcome.text) if isinstance(outcome, frames.Damaged) else outcome

    frames.read = forgiving


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        volatile,
        sync_fails,
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
