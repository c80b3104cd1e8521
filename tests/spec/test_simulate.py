"""The simulation: it repeats itself, it holds over hundreds of seeds, and it finds what is planted."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from moxy.backends.durable import DurableBackend
from moxy.core import decider
from moxy.core.commands import Ack
from moxy.core.decision import Decision
from moxy.journal.errors import JournalError
from moxy.journal.journal import Journal
from spec.simloop import SimLoop, run
from spec.simulate import FAULTS, Violation, remembered_seeds, simulate

QUICK = range(1, 121)


@pytest.mark.parametrize("seed", [7, *remembered_seeds()])
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    """7 never failed: it is there so that the list is not empty."""
    assert simulate(seed).events > 0


def test_the_same_seed_gives_the_same_run_byte_for_byte() -> None:
    """In processes of their own, with other hash seeds."""
    digests = {
        subprocess.run(
            [sys.executable, "-m", "spec.simulate", "--seed", "7"],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_another_seed_gives_another_run() -> None:
    assert simulate(7).digest != simulate(8).digest


@pytest.mark.parametrize("first", QUICK[::10])
def test_hundreds_of_crashes_lose_nothing(first: int) -> None:
    outcomes = [simulate(seed) for seed in range(first, first + 10)]
    assert sum(outcome.crashes for outcome in outcomes) > 25
    assert sum(outcome.events for outcome in outcomes) > 800


def test_a_callback_that_fails_ends_the_run() -> None:
    """asyncio would only write a line, and a fault of the server's own would pass for a slow moment."""

    async def main(loop: SimLoop) -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError):
        run(1, main)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_survived(fault: str) -> None:
    faults = (fault, "crash") if fault in ("torn", "skew") else (fault,)
    for seed in range(500, 508):
        assert simulate(seed, steps=6, faults=faults).events > 0


async def _commit_nothing(self: DurableBackend) -> None:
    self._memory.commit_at_once()


async def _reply_before_fsync(self: DurableBackend) -> None:
    if self._memory.uncommitted:
        for happened in self._memory.uncommitted:
            self._journal.append(happened)
        self._journal.flush()
        self._memory.commit_at_once()


def _sync_nothing(self: Journal) -> int:
    self._synced = self.last_sequence
    return self._synced


def _ack_nothing(state: Any, heart: Any, command: Any, now_ms: int, seed: int) -> Decision:
    """Says OK, and leaves the task where it is."""
    return Decision((), state, None)


PLANTED: dict[str, tuple[Any, Any, Callable[..., Any]]] = {
    "replies without a log": (DurableBackend, "commit", _commit_nothing),
    "replies before the fsync": (DurableBackend, "commit", _reply_before_fsync),
    "an fsync that does nothing": (Journal, "sync", _sync_nothing),
    "acks that do nothing": (decider._RULES, Ack, _ack_nothing),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker is only believed after it has caught one."""
    owner, name, broken = PLANTED[fault]
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, name, broken)
    else:
        monkeypatch.setattr(owner, name, broken)
    found: BaseException | None = None
    for seed in range(1, 60):
        try:
            simulate(seed)
        except (Violation, JournalError) as violation:
            found = violation
            break
    assert found is not None, f"{fault}: 60 seeds saw nothing"


@pytest.mark.deep
def test_thousands_of_seeds() -> None:
    for seed in range(1000, 6000):
        assert simulate(seed).events > 0
