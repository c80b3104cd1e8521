"""Queues in memory with their log on disk: the memory backend, and a promise about what survives.

Lives here: when a turn is written, when it is synced, what a failure of the disk comes to, and the work beside turns
(a sync a second, snapshots). Must not: rules of queues, formats on disk.

| durability | a reply leaves after | a power cut loses |
| --- | --- | --- |
| always | the turn's events are on the medium: one fdatasync for all of them | nothing |
| everysec | they are with the kernel; it is told to sync once a second | at most 1 s; 2 s while a sync stalls, after that changes are refused |
| no | they are with the kernel | what the kernel had not written |

A process that is killed loses nothing in any of them.
"""  # noqa: E501

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Literal, final

from moxy.backends.base import Clock, CommitRefused, Done, Outcome, Plain, Slow
from moxy.backends.memory import CatchUp, MemoryBackend
from moxy.core.answers import Names, Past
from moxy.core.commands import AnyCommand, ListQueues, ReadEvents, ReadHistory
from moxy.core.errors import ERR, Refused
from moxy.core.events import AnyEvent, Enqueued, TaskEvent
from moxy.core.notes import Happened, Written
from moxy.core.tasks import Image
from moxy.journal.errors import HorizonPassed, LogRefused
from moxy.journal.journal import Journal

Durability = Literal["always", "everysec", "no"]

STALL_MS_MAX: Final = 2000
SYNC_HERE_EVENTS_MAX: Final = 128
"""A turn of so many events waits for its sync where it is; one of more lets commands of the next turn be carried out
meanwhile.

The way through a thread and back costs 90 microseconds of processor time, more than the commands of a small turn: one
client alone was answered after 180 microseconds instead of 320, fifty got 1.4 times as much done."""
SYNC_HERE_MS_MAX: Final = 2
"""After a sync that took longer than this the next one is waited for in the thread in any case: while one is waited
for here the loop stands still, and a disk that is slow or stalls is to cost that once."""
_SLICE_EVENTS: Final = 2000
_BREATH_S: Final = 0.0001


@final
class DurableBackend:
    """A memory backend whose turns are in a journal before their answers leave (I13)."""

    def __init__(
        self,
        memory: MemoryBackend,
        journal: Journal,
        clock: Clock,
        durability: Durability,
        snapshot_every: int,
        retain_bytes: int | None,
        retain_ms: int | None,
        say: Callable[..., None],
        sync_here_events_max: int = SYNC_HERE_EVENTS_MAX,
    ) -> None:
        self._memory: Final = memory
        self._journal: Final = journal
        self._clock: Final = clock
        self._durability: Final = durability
        self._snapshot_every: Final = snapshot_every
        self._retain_bytes: Final = retain_bytes
        self._retain_ms: Final = retain_ms
        self._say: Final = say
        self._syncer: Final = ThreadPoolExecutor(1, "moxy-sync")
        self._keeper: Final = ThreadPoolExecutor(1, "moxy-snapshot")
        self._sync_began_ms: int | None = None
        self._sync_here_events_max: Final = sync_here_events_max
        self._sync_took_ms = 0
        self._writing: asyncio.Future[str] | None = None

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        return await self._memory.execute(commands)

    def plain(self) -> Plain:
        return self._memory

    def settled(self) -> Sequence[Written]:
        return self._memory.settled()

    async def expire(self) -> list[AnyEvent]:
        return await self._memory.expire()

    async def names(self, query: ListQueues) -> Names:
        return await self._memory.names(query)

    def next_due_ms(self) -> int | None:
        return self._memory.next_due_ms()

    def commit_at_once(self) -> bool:
        """False: the sync is to be waited for beside the loop. Raises CommitRefused, the queues being as before the
        turn, or LogFailed, after which nothing is promised."""
        self._memory.settle()
        happened = self._memory.uncommitted
        if not happened:
            self._journal.check()
            return True
        syncs = self._durability == "always"
        if syncs and not self._may_sync_here(happened):
            return False
        self._write(happened)
        if syncs:
            self._sync_turn()
        self._memory.accept(self._journal.latest_payload)
        return True

    async def commit(self) -> None:
        if self.commit_at_once():
            return
        self._write(self._memory.uncommitted)
        await asyncio.get_running_loop().run_in_executor(self._syncer, self._sync_turn)
        self._memory.accept(self._journal.latest_payload)

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        """Nobody else changes these queues."""

    def news(self) -> Iterable[str]:
        return ()

    async def run(self, wake: Callable[[], None]) -> None:
        """The work beside turns, once a second, until cancelled. Raises LogFailed."""
        while True:
            await asyncio.sleep(1)
            await self._sync()
            is_snapshot_due = self._journal.events_since_snapshot >= self._snapshot_every
            if is_snapshot_due or self._journal.is_filling:  # while a snapshot is written nobody looks
                await asyncio.get_running_loop().run_in_executor(self._keeper, self._journal.prepare)
            if is_snapshot_due:
                await self._snapshot()

    async def close(self) -> None:
        """A last snapshot, so that the next start has nothing to fold, and let the directory go."""
        try:
            await self._snapshot()
        finally:
            self._syncer.shutdown()
            self._keeper.shutdown()
            self._journal.close()

    def describe(self) -> dict[str, str | int]:
        return {
            **self._memory.describe(),
            "durability": self._durability,
            "log_last_sequence": self._journal.last_sequence,
            "log_synced_sequence": self._journal.synced_sequence,
            "log_horizon": self._journal.horizon,
            "snapshot_sequence": self._journal.snapshot_sequence,
        }

    # Reading the log

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        memory = self._memory
        if memory.is_behind():
            return CatchUp(memory.recent, partial(self.events, query))
        seq = memory.committed_seq(query.queue)
        if query.from_seq >= memory.recent.horizon(query.queue, seq) or seq == 0:
            return memory.recent_events(query)
        return _EventSearch(self._journal.read(self._journal.horizon), query)

    async def history(self, query: ReadHistory) -> Outcome | Slow:
        if self._memory.is_behind():
            return CatchUp(self._memory.recent, partial(self.history, query))
        recent = self._memory.recent_history(query)
        if isinstance(recent, Done) and isinstance(recent.answer, Past) and not recent.answer.cut:
            return recent
        return _HistorySearch(self._journal.read(self._journal.horizon), query, recent)

    # The disk

    def _may_sync_here(self, happened: Sequence[Happened]) -> bool:
        """Whether the loop may stand still for this sync."""
        if self._sync_took_ms > SYNC_HERE_MS_MAX:
            return False
        events = 0
        for some in happened:
            events += len(some)
        return events <= self._sync_here_events_max

    def _sync_turn(self) -> None:
        """Here or in the thread. Raises LogFailed."""
        began_ms = self._clock.now_ms()
        self._journal.sync()
        self._sync_took_ms = self._clock.now_ms() - began_ms

    def _write(self, happened: Sequence[Happened]) -> None:
        """Hand the turn to the kernel. Raises CommitRefused, then nothing of it happened, or LogFailed."""
        memory = self._memory
        stalled_ms = 0 if self._sync_began_ms is None else self._clock.now_ms() - self._sync_began_ms
        if self._durability == "everysec" and stalled_ms > STALL_MS_MAX:
            memory.take_back()
            raise CommitRefused(f"the disk has been syncing the log for {stalled_ms} ms: nothing happened, try again")
        try:
            for some in happened:
                self._journal.append(some)
            self._journal.flush()
        except LogRefused as refused:
            memory.take_back()
            self._say("log.refused", text=str(refused))
            raise CommitRefused(f"{refused}: nothing happened, try again when there is space") from None
        memory.written()

    async def _sync(self) -> None:
        if self._durability == "no" or self._journal.synced_sequence >= self._journal.last_sequence:
            return
        self._sync_began_ms = self._clock.now_ms()
        await asyncio.get_running_loop().run_in_executor(self._syncer, self._journal.sync)
        self._sync_began_ms = None

    async def _snapshot(self) -> None:
        """From images of the queues, in a thread: commands go on meanwhile."""
        if not self._journal.events_since_snapshot:
            return
        await self._snapshot_written()  # one that was being written when whoever waited for it was cancelled
        began_ms = self._clock.now_ms()
        mark, images = self._journal.mark(), list[Image]()
        try:
            for some in self._memory.freeze():
                images += some
                await asyncio.sleep(0)
        except BaseException:
            self._memory.thaw()
            raise
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(
            self._keeper, self._journal.write_snapshot, images, mark, began_ms, _breathe
        )
        try:
            name = await self._snapshot_written()
            gone = await loop.run_in_executor(
                self._keeper, self._journal.retain, began_ms, self._retain_bytes, self._retain_ms
            )
        except LogRefused as refused:
            self._say("snapshot.refused", text=str(refused))
            return
        took_ms = self._clock.now_ms() - began_ms
        self._say("snapshot.written", file=name, sequence=mark.sequence, took_ms=took_ms, dropped=len(gone))

    async def _snapshot_written(self) -> str:
        """Wait until the thread has read the frozen queues to their end, and thaw them: never before."""
        writing = self._writing
        if writing is None:
            return ""
        try:
            return await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None
                self._memory.thaw()


def _breathe() -> None:
    """Hand the interpreter to the loop: a snapshot's thread would else keep it for a whole switch interval."""
    time.sleep(_BREATH_S)


@final
class _EventSearch:
    """A queue's events from a sequence on, found by reading the log from its beginning, a slice a turn."""

    def __init__(self, log: Iterator[tuple[int, AnyEvent]], query: ReadEvents) -> None:
        self._log: Final = log
        self._query: Final = query
        self._found: list[AnyEvent] = []
        self._first_seq = 0

    async def advance(self) -> Outcome | None:
        query = self._query
        try:
            for _ in range(_SLICE_EVENTS):
                _, event = next(self._log)
                if event.queue != query.queue:
                    continue
                self._first_seq = self._first_seq or event.seq
                if self._first_seq > query.from_seq:
                    return _too_old(self._first_seq)
                if event.seq >= query.from_seq:
                    self._found.append(event)
                    if len(self._found) == query.count:
                        return Done(Past(self._found, self._first_seq))
        except StopIteration:
            return Done(Past(self._found, self._first_seq))
        except HorizonPassed:
            return _too_old(self._first_seq + 1)
        return None


@final
class _HistorySearch:
    """The events of one task, found by reading the whole log, a slice a turn."""

    def __init__(self, log: Iterator[tuple[int, AnyEvent]], query: ReadHistory, recent: Outcome) -> None:
        self._log: Final = log
        self._query: Final = query
        self._recent: Final = recent
        self._found: list[AnyEvent] = []
        self._first_seq = 0

    async def advance(self) -> Outcome | None:
        try:
            for _ in range(_SLICE_EVENTS):
                _, event = next(self._log)
                if event.queue != self._query.queue:
                    continue
                self._first_seq = self._first_seq or event.seq
                if isinstance(event, TaskEvent) and event.task_id == self._query.task_id:
                    if isinstance(event, Enqueued):
                        self._found.clear()
                    self._found.append(event)
        except StopIteration:
            return self._finish()
        except HorizonPassed:
            return self._recent
        return None

    def _finish(self) -> Outcome:
        if not self._found:
            return self._recent
        return Done(Past(self._found, self._first_seq, cut=not isinstance(self._found[0], Enqueued)))


def _too_old(horizon: int) -> Refused:
    return Refused(ERR, f"events below sequence {horizon} are no longer kept: read on from there")
