"""A log made by hand, with answers that can be worked out on paper, and the command line run on it.

Lives here: what test_logtools.py and test_replay.py share. Must not: a server; its tests are in tests/server.

| seq of jobs | at | what |
| --- | --- | --- |
| 1, 2 | 0 s | `slow` and `quick` are enqueued |
| 3, 4 | 0.1 s, 0.2 s | worker-1 leases `slow`, worker-2 `quick`, for a second each |
| 5 | 0.5 s | worker-2 acks `quick`, after 300 ms |
| 6, 7 | 1.1 s | the lease on `slow` expires, it is requeued |
| 8, 9 | 1.2 s, 3.7 s | worker-3 leases `slow` and acks it after 2500 ms |
| 10, 11 | 4.0 s | `poison`, with two attempts, is enqueued and leased for 100 ms |
| 12, 13 | 4.1 s | that lease expires, it is requeued |
| 14, 15, 16 | 4.2 s, 4.25 s | worker-5 leases it and gives up: `boom`, a dead letter |

After them, 5 s: `mail` gets four tasks, `text`, `long`, `odd` and `bytes`, whose payloads are hard to show.
"""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from moxy import cli
from moxy.core.answers import Delivery
from moxy.core.commands import Ack, Command, Enqueue, Fetch, Nack, Tick
from moxy.core.decider import decide
from moxy.core.events import AnyEvent
from moxy.core.state import QueueState
from moxy.journal.disk import OsDisk
from moxy.journal.journal import Journal

T0 = int(datetime(2026, 11, 24, 3, tzinfo=UTC).timestamp() * 1000)
LAST = 20
PAYLOADS = {"text": "grüße".encode(), "long": b"x" * 300, "odd": b"x" + "ü".encode() * 200, "bytes": b"\xff\x00" * 200}


class Author:
    """Writes events into states and batches, by the rules."""

    def __init__(self) -> None:
        self.states: dict[str, QueueState] = {}
        self.batches: list[tuple[AnyEvent, ...]] = []

    def do(self, after_ms: int, command: Command) -> object:
        state = self.states.get(command.queue) or QueueState(command.queue)
        decision = decide(state, command, T0 + after_ms, len(self.batches))
        self.states[command.queue] = decision.state
        self.batches.append(decision.events)
        return decision.answer

    def fetch(self, after_ms: int, lease_ms: int, worker: str) -> Delivery:
        answer = self.do(after_ms, Fetch("jobs", lease_ms, 1, worker))
        assert isinstance(answer, list)
        assert isinstance(answer[0], Delivery)
        return answer[0]

    def ack(self, after_ms: int, held: Delivery) -> None:
        assert held.lease_id
        _, number, token, _ = held.lease_id.split(":")
        self.do(after_ms, Ack("jobs", held.lease_id, int(number), int(token)))


def author() -> Author:
    one = Author()
    one.do(0, Enqueue("jobs", b"resize cat.jpg", "slow"))
    one.do(0, Enqueue("jobs", b"tell a joke", "quick"))
    one.fetch(100, 1000, "worker-1")
    quick = one.fetch(200, 1000, "worker-2")
    one.ack(500, quick)
    one.do(1100, Tick("jobs"))
    one.ack(3700, one.fetch(1200, 5000, "worker-3"))
    one.do(4000, Enqueue("jobs", b"divide by zero", "poison", max_attempts=2))
    one.fetch(4000, 100, "worker-4")
    one.do(4100, Tick("jobs"))
    held = one.fetch(4200, 100, "worker-5")
    assert held.lease_id
    _, number, token, _ = held.lease_id.split(":")
    one.do(4250, Nack("jobs", held.lease_id, int(number), int(token), reason="boom"))
    for task_id, payload in PAYLOADS.items():
        one.do(5000, Enqueue("mail", payload, task_id))
    return one


def write(directory: Path, batches: Sequence[Sequence[AnyEvent]], segment_bytes: int = 1 << 16) -> Path:
    journal, _ = Journal.open(OsDisk(str(directory)), 7, T0, segment_bytes=segment_bytes)
    for batch in batches:
        journal.append(batch)
        journal.flush()
    journal.close()
    return directory


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int | str | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(*words: object) -> Ran:
    """`moxy WORDS`, in this process and in a pipe, as it were."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["moxy", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return Ran(end.value.code, out.getvalue(), err.getvalue())


def seqs(ran: Ran) -> list[int]:
    """The sequence numbers of JSON lines."""
    import json

    assert ran.code == 0, ran
    return [json.loads(line)["seq"] for line in ran.lines]
