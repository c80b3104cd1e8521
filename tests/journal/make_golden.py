"""Writes the golden log of today's format: `python -m tests.journal.make_golden`, then commit what it made.

Run it after raising `SCHEMA_VERSION` or `FORMAT_VERSION`, never to replace a log that is there: an old log is what
proves that old logs can still be read.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from moxy.core.events import EVENT_TYPES, SCHEMA_VERSION, AnyEvent
from moxy.core.state import QueueState
from moxy.journal.disk import OsDisk
from moxy.journal.journal import Journal
from moxy.journal.segments import segments_of
from spec.simdisk import SimDisk
from tests.journal.storekeeper import LOG_ID, T0_MS, Store, Workload

GOLDEN = Path(__file__).parent / "golden"


def summary(state: QueueState) -> dict[str, Any]:
    """What of a state is written beside a golden log: enough to know that it was understood, and nothing that a later
    version may rightly change."""
    return {
        "seq": state.seq,
        "at_ms": state.at_ms,
        "next_number": state.next_number,
        "last_token": state.last_token,
        "totals": msgspec.to_builtins(state.totals),
        "ready": [task.task_id for task in state.in_state("ready")],
        "scheduled": [[task.task_id, task.due_ms] for task in state.in_state("scheduled")],
        "leases": [[t.task_id, t.lease.lease_id, t.lease.deadline_ms] for t in state.in_state("processing") if t.lease],
        "dead": [[task.task_id, task.death.reason] for task in state.in_state("dead") if task.death],
        "remembered": sorted(state.remembered),
        "payloads": sum(len(task.payload) for task in state.tasks.values()),
    }


def main() -> None:
    directory = GOLDEN / f"v{SCHEMA_VERSION}"
    if directory.exists():
        sys.exit(f"{directory} is there already: a golden log is never replaced")
    for seed in range(1000):
        work, disk = Workload(seed), SimDisk()
        store = Store(disk, segment_bytes=6000)
        for turn in range(110):
            store.do(work.command(), work.now_ms, work.rng.getrandbits(64), work.deliveries)
            store.commit()
            if turn == 60:
                store.snapshot(work.now_ms)
        kinds = Counter(type(event) for event in store.history)
        leased = all(len(state.processing) for state in store.states.values())
        if kinds.keys() >= set(EVENT_TYPES) and leased and len(segments_of(disk)) == 3:
            break
    store.journal.close()
    for name, content in disk.files().items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    journal, recovered = Journal.open(OsDisk(str(directory)), LOG_ID, T0_MS, 4096)
    events: list[AnyEvent] = [event for _, event in journal.read(1)]
    journal.close()
    (directory / "lock").unlink()
    expected = {
        "events": events,
        "states": {name: summary(state) for name, state in sorted(recovered.states.items())},
    }
    (directory / "expected.json").write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=1) + b"\n")
    print(f"{directory}: {len(events)} events, seed {seed}")  # noqa: T201


if __name__ == "__main__":
    main()
