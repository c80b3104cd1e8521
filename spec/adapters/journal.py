"""Queues with their log on a simulated disk, as a system that can crash.

What lives here: `JournalSystem`: the service over the durable backend in mode `always`, ended and started again in
every way that the machine asks for. What must not live here: what a crash may lose; that is in `spec.lockstep`, and
what a disk may do to it in `spec.simdisk`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, TypeVar, final

from moxy.backends.base import Backend
from moxy.backends.durable import DurableBackend
from moxy.backends.memory import MemoryBackend
from moxy.core.lifecycle import PROCESSING
from moxy.core.state import QueueState
from moxy.journal.errors import LogFailed
from moxy.journal.journal import Journal
from moxy.service import Service
from spec.adapters.service import ServiceSystem, SettableClock, ZeroIds
from spec.simdisk import FaultyDisk, SimDisk
from spec.system import Durable, Ending

T = TypeVar("T")

_SEGMENT_BYTES: Final = 1 << 12
"""So small that a program of fifty steps begins several segments."""
_EVENTS_KEPT: Final = 5
"""So few of the latest events are in memory after a start: all others must come from the log."""


class _InlineLoop(asyncio.SelectorEventLoop):
    """A loop that does at once what others give to a thread: a sync is over before the turn goes on."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@final
class OnDisk:
    """The durable backend, on a disk that is kept from one process to the next."""

    def __init__(self) -> None:
        self._disk = SimDisk()
        self._loop: Final = _InlineLoop()

    def backend(self, clock: SettableClock, ids: ZeroIds) -> Backend:
        """What `moxy serve --data-dir --durability always` builds, on what the disk holds."""
        self._faults = FaultyDisk(self._disk, only=("sync",))
        self.journal, recovered = Journal.open(self._faults, 7, clock.now_ms(), _SEGMENT_BYTES)
        self.memory = MemoryBackend(clock, ids, None, recovered.states)
        since = max(self.journal.horizon, recovered.last_sequence - _EVENTS_KEPT + 1)
        self.memory.recent.add([[event for _, event in self.journal.read(since)]])
        self.bound = [
            task.lease.lease_id
            for state in recovered.states.values()
            for task in state.in_state(PROCESSING)
            if task.lease is not None and task.lease.bound
        ]
        return DurableBackend(self.memory, self.journal, clock, "always", 1_000_000, None, None, _silence)

    def drive(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        return self._loop.run_until_complete(whole())

    def states(self) -> Mapping[str, QueueState]:
        return self.memory.states()

    def snapshot(self, now_ms: int) -> None:
        """What the backend does now and then beside turns."""
        images = [image for some in self.memory.freeze() for image in some]
        self.journal.write_snapshot(images, self.journal.mark(), now_ms)
        self.memory.thaw()
        self.journal.retain(now_ms, None, None)

    def fail_the_next_sync(self) -> None:
        """It raises, and what was written may be on the medium or not, sector by sector."""
        self._faults.fail_at = self._faults.count + 1

    def end(self, how: Ending, chance: int) -> None:
        """The process is no more; what a new one finds. A process that was stopped has closed its backend before."""
        self._disk = self._disk.crash(chance) if how == "power" else self._disk.kill()

    def close(self) -> None:
        self._loop.close()


@final
class JournalSystem(ServiceSystem):
    """The service over the durable backend. Its clients and their waits end with the process."""

    def __init__(self) -> None:
        self._on_disk = OnDisk()
        super().__init__(lambda: self._on_disk)
        self.durable: Durable | None = self

    def restart(self, how: Ending, chance: int, now_ms: int) -> None:
        if how == "stop":
            self.deployment.drive(self.backend.close())
        for person in self.clients.values():
            person.closed = True
        self.clients.clear()
        self.answers.clear()
        self._on_disk.end(how, chance)
        self.clock.ms = now_ms
        self.backend = self._on_disk.backend(self.clock, ZeroIds())
        self.service = Service(self.backend, self.clock)
        self.service.orphaned(self._on_disk.bound)
        self.settle()

    def tear(self, client: str, argv: Sequence[bytes], chance: int, now_ms: int) -> None:
        self._on_disk.fail_the_next_sync()
        with suppress(LogFailed):  # which a command without an event does not raise: it syncs nothing
            self.execute(client, argv, now_ms)
        self.restart("power", chance, now_ms)

    def close(self) -> None:
        """Without a last word: it would be to the disk, and whoever lets go may have found it broken."""
        self.deployment.close()

    def snapshot(self, now_ms: int) -> None:
        self.clock.ms = now_ms
        self._on_disk.snapshot(now_ms)


def _silence(event: str, **fields: str | int) -> None:
    """The backend's journalist: nobody listens."""
