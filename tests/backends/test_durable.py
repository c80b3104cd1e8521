"""The memory backend with its log: what a commit promises, what a failing disk comes to, reading what is old."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from moxy.backends.base import CommitRefused, Done
from moxy.backends.durable import STALL_MS_MAX, SYNC_HERE_EVENTS_MAX, SYNC_HERE_MS_MAX, Durability, DurableBackend
from moxy.backends.memory import MemoryBackend
from moxy.backends.recent import Recent
from moxy.core.answers import Past
from moxy.core.commands import (
    UNSET,
    Ack,
    Command,
    Delete,
    Enqueue,
    Fetch,
    FetchAny,
    Intent,
    Peek,
    ReadEvents,
    ReadHistory,
)
from moxy.core.errors import IOERR, Refused
from moxy.core.events import Acked, Enqueued, Leased
from moxy.core.ids import split_lease_id
from moxy.core.tasks import Image
from moxy.journal import segments, snapshots
from moxy.journal.errors import LogFailed
from moxy.journal.frames import Mark
from moxy.journal.journal import Journal
from moxy.requests import Request
from moxy.service import Service
from spec.simdisk import FaultyDisk, SimDisk
from tests.forms import needs_source

T0 = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def now_ms(self) -> int:
        return self.now


class Zero:
    def seed(self) -> int:
        return 0

    def digits(self, count: int) -> bytes:
        return b"0" * count


class Client:
    closed = False


class World:
    """A service over a durable backend over a disk of the test's own, with a clock of its own."""

    sync_here_events_max = SYNC_HERE_EVENTS_MAX

    def __init__(
        self, disk: Any, durability: Durability = "always", recent: int = 100_000, segment_bytes: int = 1 << 14
    ) -> None:
        self.clock = Clock()
        self.disk = disk
        self.news: list[str] = []
        self.journal, recovered = Journal.open(disk, 7, T0, segment_bytes=segment_bytes)
        self.memory = MemoryBackend(self.clock, Zero(), None, recovered.states)
        self.memory.recent.__init__(recent)  # type: ignore[misc]
        self.backend = DurableBackend(
            self.memory,
            self.journal,
            self.clock,
            durability,
            50,
            None,
            None,
            lambda event, **_: self.news.append(event),
            World.sync_here_events_max,
        )
        self.service = Service(self.backend, self.clock)
        self.client = Client()

    def say(self, event: str, **fields: str | int) -> None:
        self.news.append(event)

    def turn(self, *intents: Intent) -> list[Any]:
        """One turn with these requests; their answers, or refusals."""
        return asyncio.run(self.turn_async(*intents))

    async def turn_async(self, *intents: Intent) -> list[Any]:
        requests = [Request(self.client, intent) for intent in intents]
        for request in requests:
            self.service.submit(request)
        await self.service.turn()
        while self.service.has_work:
            await self.service.turn()
        return [o.answer if isinstance(o := request.outcome, Done) else o for request in requests]


@pytest.fixture(params=[0, SYNC_HERE_EVENTS_MAX], ids=["in a thread", "here"], autouse=True)
def where_syncs_are_waited_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sync_here_events_max", request.param)


def syncs(disk: FaultyDisk) -> int:
    return sum(call == "sync" for call, _ in disk.calls)


def enqueues(count: int, size: int = 10) -> Sequence[Command]:
    return [Enqueue("jobs", b"x" * size, task_id=f"t{number}") for number in range(count)]


def test_always_syncs_once_for_everything_of_a_turn() -> None:
    disk = FaultyDisk(SimDisk())
    world = World(disk)
    before = syncs(disk)
    world.turn(*enqueues(100))
    assert syncs(disk) == before + 1


class _Watched(FaultyDisk):
    """A disk whose syncs are seen: in which thread each ran. On its clock, if it has one, they take `takes_ms`."""

    def __init__(self) -> None:
        super().__init__(SimDisk())
        self.threads: list[threading.Thread] = []
        self.takes_ms = 0
        self.clock: Clock | None = None

    def fails(self, call: str, name: str) -> bool:
        if call == "sync" and self.clock is not None:
            self.threads.append(threading.current_thread())
            self.clock.now += self.takes_ms
        return super().fails(call, name)

    def were_here(self) -> list[bool]:
        return [thread is threading.current_thread() for thread in self.threads]


def test_little_is_synced_where_it_is_and_much_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sync_here_events_max", 3)
    disk = _Watched()
    world = World(disk)
    disk.clock = world.clock
    world.turn(*[Enqueue("jobs", b"x")] * 3)
    world.turn(*[Enqueue("jobs", b"x")] * 4)
    assert disk.were_here() == [True, False]


def test_after_a_slow_sync_the_next_one_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sync_here_events_max", 3)
    disk = _Watched()
    world = World(disk)
    disk.clock = world.clock
    for takes_ms in (SYNC_HERE_MS_MAX, SYNC_HERE_MS_MAX + 1, 0, 0):
        disk.takes_ms = takes_ms
        world.turn(Enqueue("jobs", b"x"))
    assert disk.were_here() == [True, True, False, True]


def test_only_the_sync_itself_is_timed_not_what_the_loop_does_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "sync_here_events_max", 1)
    disk = _Watched()
    world = World(disk)
    disk.clock = world.clock

    async def turn_beside_work() -> None:
        loop = asyncio.get_running_loop()
        run = loop.run_in_executor

        async def work(future: Any) -> Any:
            done = await future
            world.clock.now += SYNC_HERE_MS_MAX + 1
            return done

        monkeypatch.setattr(loop, "run_in_executor", lambda *call: work(run(*call)))
        await world.turn_async(*enqueues(2))

    asyncio.run(turn_beside_work())
    world.turn(Enqueue("jobs", b"x"))
    assert disk.were_here() == [False, True]


def test_what_is_decided_while_a_turn_is_on_its_way_is_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither read, nor written, nor committed with it, and can be taken back without it."""
    monkeypatch.setattr(World, "sync_here_events_max", 0)
    disk = SimDisk()
    world = World(disk)
    world.turn(Enqueue("jobs", b"a"))

    async def two_turns() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        run = loop.run_in_executor

        async def decide_first(future: Any) -> Any:
            batch = world.backend.plain().batch("jobs")
            assert batch is not None
            assert batch.enqueue([b"c"], T0, b"0" * 16, 0)
            world.memory.settle()
            return await future

        monkeypatch.setattr(loop, "run_in_executor", lambda *call: decide_first(run(*call)))
        await world.turn_async(Enqueue("jobs", b"b"))
        written = world.journal.last_sequence, world.memory.committed_seq("jobs"), world.memory.state_of("jobs").seq
        disk.space_bytes = 0
        (refused,) = await world.turn_async(Enqueue("jobs", b"y" * 100_000))
        return written, refused

    written, refused = asyncio.run(two_turns())
    assert written == (2, 2, 3)
    assert refused.code == IOERR
    assert world.memory.state_of("jobs").seq == 2
    (past,) = world.turn(ReadEvents("jobs", 1, 10))
    assert [event.payload for event in past.events] == [b"a", b"b"]


def test_the_next_segment_is_prepared_beside_when_this_one_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk()
    world = World(disk)
    moments: list[bool] = []

    async def a_second(_: float) -> None:
        """What a second comes to: the first two times nothing, then much work."""
        if len(moments) == 2:
            await world.turn_async(Enqueue("jobs", b"x" * 5_000))
        moments.append("spare.tmp" in disk.names())
        if len(moments) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", a_second)
    with suppress(asyncio.CancelledError):
        asyncio.run(world.backend.run(lambda: None))
    assert moments == [False, False, False, True]


def test_the_next_segment_is_there_before_a_snapshot_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is written nobody looks whether the segment fills."""
    disk = FaultyDisk(SimDisk())
    world = World(disk, segment_bytes=1 << 20)
    seconds: list[float] = []

    async def a_second(length: float) -> None:
        if not length:
            return
        seconds.append(length)
        if len(seconds) == 2:
            raise asyncio.CancelledError
        await world.turn_async(*enqueues(60))
        assert not world.journal.is_filling

    monkeypatch.setattr(asyncio, "sleep", a_second)
    with suppress(asyncio.CancelledError):
        asyncio.run(world.backend.run(lambda: None))
    *_, before, last = [name for call, name in disk.calls if call == "create"]
    assert (before, "snapshot" in last) == ("spare.tmp", True)


def test_always_answers_only_what_survives_a_power_cut() -> None:
    disk = SimDisk()
    world = World(disk)
    for number in range(20):
        world.turn(Enqueue("jobs", b"x" * 700, task_id=f"t{number}"))
        for seed in range(5):
            assert f"t{number}" in World(disk.crash(seed)).memory.state_of("jobs").numbers


def test_a_turn_of_reads_writes_and_syncs_nothing() -> None:
    disk = FaultyDisk(SimDisk())
    world = World(disk)
    world.turn(*enqueues(3))
    before = len(disk.calls)
    world.turn(Peek("jobs", "ready", 10))
    assert disk.calls[before:] == []


def test_everysec_writes_before_the_reply_and_syncs_beside() -> None:
    disk = FaultyDisk(SimDisk())
    world = World(disk, "everysec")
    before = syncs(disk)
    world.turn(*enqueues(3))
    assert syncs(disk) == before
    assert len(World(disk.disk.kill()).memory.state_of("jobs").tasks) == 3
    asyncio.run(world.backend._sync())
    assert syncs(disk) == before + 1
    assert world.journal.synced_sequence == 3


def test_without_space_every_command_of_the_turn_is_refused_and_nothing_happened() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*enqueues(2))
    before, files = world.memory.state_of("jobs"), disk.files()
    disk.space_bytes = sum(len(content) for content in files.values()) - 1
    refused = world.turn(Enqueue("jobs", b"y" * 100_000), Fetch("jobs", 1000), Peek("jobs", "ready", 10))
    assert [outcome.code for outcome in refused] == [IOERR] * 3
    assert world.memory.state_of("jobs") is before, "the old state is still there, since it is immutable"
    assert "log.refused" in world.news


def test_reads_go_on_while_there_is_no_space_and_writes_again_afterwards() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*enqueues(2))
    disk.space_bytes = sum(len(content) for content in disk.files().values()) - 1
    (refused,) = world.turn(Enqueue("jobs", b"y" * 100_000))
    assert isinstance(refused, Refused)
    (tasks,) = world.turn(Peek("jobs", "ready", 10))
    assert [task.task_id for task in tasks] == ["t0", "t1"]
    disk.space_bytes = None
    world.turn(Enqueue("jobs", b"z", task_id="again"))
    assert set(World(disk.crash(1)).memory.state_of("jobs").numbers) == {"t0", "t1", "again"}


def test_a_waiter_is_not_served_by_a_turn_that_is_refused() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(FetchAny(("jobs",), 1000, block_ms=0))
    disk.space_bytes = 1
    world.turn(Enqueue("jobs", b"y" * 100_000))
    assert world.memory.state_of("jobs").seq == 0


def test_a_failed_sync_is_final() -> None:
    disk = FaultyDisk(SimDisk(), only=("sync",))
    world = World(disk)
    disk.fail_at = disk.count + 1
    with pytest.raises(LogFailed):
        world.turn(*enqueues(1))
    with pytest.raises(LogFailed):
        world.turn(*enqueues(1))


def test_a_failed_sync_beside_turns_stops_the_server() -> None:
    disk = FaultyDisk(SimDisk(), only=("sync",))
    world = World(disk, "everysec")
    world.turn(*enqueues(1))
    disk.fail_at = disk.count + 1
    with pytest.raises(LogFailed):
        asyncio.run(world.backend._sync())


def test_everysec_refuses_changes_while_a_sync_stalls() -> None:
    disk = SimDisk()
    world = World(disk, "everysec")
    world.turn(*enqueues(1))
    held, began = threading.Event(), threading.Event()
    real = world.journal._file.sync

    def stalled() -> None:
        began.set()
        held.wait(10)
        real()

    world.journal._file.sync = stalled  # type: ignore[method-assign]

    async def story() -> None:
        syncing = asyncio.create_task(world.backend._sync())
        await asyncio.to_thread(began.wait, 10)
        world.clock.now += STALL_MS_MAX
        (answer,) = await world.turn_async(Enqueue("jobs", b"", task_id="in time"))
        assert answer == ["in time"]
        world.clock.now += 1
        (refused,) = await world.turn_async(Enqueue("jobs", b"", task_id="late"))
        assert refused.code == IOERR
        held.set()
        await syncing
        (answer,) = await world.turn_async(Enqueue("jobs", b"", task_id="again"))
        assert answer == ["again"]

    asyncio.run(story())
    assert set(world.memory.state_of("jobs").numbers) == {"t0", "in time", "again"}


def test_a_restart_keeps_leases_order_and_counters() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*enqueues(5))
    world.turn(Fetch("jobs", 1000), Fetch("jobs", 2000))
    before = world.memory.state_of("jobs")
    after = World(disk.crash(3)).memory.state_of("jobs")
    for order in ("ready", "processing"):
        assert list(after.order_of(order)) == list(before.order_of(order))
    assert dict(after.tasks.items()) == dict(before.tasks.items())
    assert (after.totals, after.last_token, after.seq) == (before.totals, before.last_token, before.seq)


@needs_source  # compiled, a journal's methods cannot be replaced
def test_a_snapshot_whose_waiter_was_cancelled_is_still_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread cannot be cancelled: until it has read the last frozen task, changes must leave it what was there."""
    world, gate, taken = World(SimDisk()), threading.Event(), list[set[str]]()

    def slowly(images: Sequence[Image], mark: Mark, created_ms: int, breathe: object) -> str:
        assert gate.wait(30)
        taken.append({task.task_id for image in images for task in image.tasks})
        return "a snapshot"

    async def main() -> None:
        await world.turn_async(*(Enqueue("jobs", b"", f"t{n}") for n in range(9)))
        monkeypatch.setattr(world.journal, "write_snapshot", slowly)
        snapshot = asyncio.create_task(world.backend._snapshot())
        while world.backend._writing is None:
            await asyncio.sleep(0)
        snapshot.cancel()
        with suppress(asyncio.CancelledError):
            await snapshot
        await world.turn_async(Delete("jobs", "t3"), Enqueue("jobs", b"", "new"), Fetch("jobs", 1000))
        gate.set()
        await world.backend._snapshot()

    asyncio.run(main())
    before = {f"t{n}" for n in range(9)}
    assert taken == [before, before - {"t3"} | {"new"}]
    assert world.memory.state_of("jobs").heart().shadow is None, "and then nothing is kept for it any more"


def test_thousands_of_queues_are_frozen_over_many_turns_as_they_were_at_the_first() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*(Enqueue(f"q{n}", b"", "old") for n in range(450)))

    assert [len(images) for images in world.memory.freeze()] == [0, 100, 100, 100, 100, 50]
    world.memory.thaw()

    async def main() -> None:
        snapshot = asyncio.create_task(world.backend._snapshot())
        for n in range(450):
            await asyncio.sleep(0)
            await world.turn_async(Delete(f"q{449 - n}", "old"), Enqueue(f"q{n}", b"", "new"), Enqueue(f"r{n}", b""))
        await snapshot

    asyncio.run(main())
    loaded = snapshots.load(disk, segments.name_of(450, segments.SNAPSHOT_SUFFIX), 450)
    assert {name: list(state.numbers) for name, state in loaded.states.items()} == {
        f"q{n}": ["old"] for n in range(450)
    }
    states = world.memory.states()
    assert [state.heart().shadow for state in states.values()] == [None] * 900
    assert {name: list(state.numbers) for name, state in states.items() if name in loaded.states} == {
        f"q{n}": ["new"] for n in range(450)
    }


def test_a_snapshot_is_taken_when_the_log_has_grown_and_shortens_the_next_start() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*enqueues(60))
    asyncio.run(world.backend._snapshot())
    assert "snapshot.written" in world.news
    world.turn(Fetch("jobs", 1000))
    _, recovered = Journal.open(disk.crash(0), 7, T0, segment_bytes=1 << 14)
    assert (recovered.snapshot_sequence, recovered.events) == (60, 1)
    assert list(recovered.states["jobs"].ready) == list(world.memory.state_of("jobs").ready)


def test_the_thread_of_a_snapshot_lets_the_loop_run_after_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(SimDisk())
    for start in range(0, 3000, 500):
        world.turn(*[Enqueue("jobs", b"x", task_id=f"t{start + n}") for n in range(500)])
    sleeps: list[tuple[float, str]] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: sleeps.append((seconds, threading.current_thread().name)))
    asyncio.run(world.backend._snapshot())
    assert "snapshot.written" in world.news
    assert len(sleeps) >= 3000 // 256, "a chunk holds 256 rows"
    assert all(0 < seconds < 0.001 and "moxy-snapshot" in thread for seconds, thread in sleeps), sleeps[0]


def test_a_clean_close_leaves_nothing_to_fold() -> None:
    disk = SimDisk()
    world = World(disk)
    world.turn(*enqueues(5))
    asyncio.run(world.backend.close())
    _, recovered = Journal.open(disk.crash(0), 7, T0, segment_bytes=1 << 14)
    assert recovered.events == 0
    assert len(recovered.states["jobs"].tasks) == 5


def cycle(world: World, task_id: str) -> None:
    world.turn(Enqueue("jobs", b"x", task_id=task_id))
    ((delivery,),) = world.turn(Fetch("jobs", 1000))
    queue, number, token = split_lease_id(delivery.lease_id)
    world.turn(Ack(queue, delivery.lease_id, number, token))


def test_history_reads_the_log_where_memory_no_longer_reaches_back() -> None:
    world = World(SimDisk(), recent=10)
    for number in range(40):
        cycle(world, f"t{number}")
    (past,) = world.turn(ReadHistory("jobs", "t3"))
    assert isinstance(past, Past)
    assert [type(event) for event in past.events] == [Enqueued, Leased, Acked]
    assert not past.cut


def test_events_reads_the_log_where_memory_no_longer_reaches_back() -> None:
    world = World(SimDisk(), recent=10)
    for number in range(40):
        cycle(world, f"t{number}")
    (past,) = world.turn(ReadEvents("jobs", 5, 100))
    assert [event.seq for event in past.events] == list(range(5, 105))


def test_a_long_read_lets_others_go_first() -> None:
    """It is advanced a slice a turn; a request of the same moment is answered in the first."""
    world = World(SimDisk(), recent=1)
    for start in range(0, 5000, 500):
        world.turn(*[Enqueue("jobs", b"x", task_id=f"t{start + n}") for n in range(500)])

    async def story() -> None:
        slow = Request(world.client, ReadHistory("jobs", "nobody"))
        quick = Request(world.client, Peek("jobs", "ready", 1))
        world.service.submit(slow)
        world.service.submit(quick)
        await world.service.turn()
        assert quick.outcome is not None
        assert slow.outcome is None
        while world.service.has_work:
            await world.service.turn()
        assert isinstance(slow.outcome, Refused)

    asyncio.run(story())


def test_a_reader_of_events_hears_of_them_when_they_are_committed_not_before() -> None:
    disk = SimDisk()
    world = World(disk)
    reader = Request(Client(), ReadEvents("jobs", 1, 10, 0))

    async def story() -> None:
        world.service.submit(reader)
        await world.service.turn()
        assert reader.outcome is None
        disk.space_bytes = 1
        await world.turn_async(Enqueue("jobs", b"y" * 100_000))
        assert reader.outcome is None, "the turn was refused: there is no event"
        disk.space_bytes = None
        await world.turn_async(Enqueue("jobs", b"y"))

    asyncio.run(story())
    assert isinstance(reader.outcome, Done)
    assert isinstance(reader.outcome.answer, Past)
    assert [event.seq for event in reader.outcome.answer.events] == [1]


def test_recent_events_are_bounded_and_their_index_with_them() -> None:
    recent = Recent(events_max=10, bytes_max=1000)
    for seq in range(1, 101):
        recent.add([[Enqueued("jobs", seq, T0, seq, f"t{seq}", b"x" * 10)]])
        if seq % 7 == 0:
            recent.index(1_000)
    assert recent.behind == 2
    recent.index(1_000)
    assert recent.horizon("jobs", 100) == 91
    assert [event.seq for event in recent.since("jobs", 95, 3)] == [95, 96, 97]
    assert recent.of_task("jobs", "t5") == []
    assert len(recent.of_task("jobs", "t100")) == 1
    recent.add([[Enqueued("big", 1, T0, 1, "t", b"x" * 2000)]])
    recent.index(1_000)
    assert recent.horizon("big", 1) == 2, "more payload than is kept at all"
    assert recent.of_task("jobs", "t100") == []


def test_reading_nothing_waits_only_if_asked() -> None:
    world = World(SimDisk())
    (past,) = world.turn(ReadEvents("jobs", 1, 10, UNSET))
    assert past.events == []


def test_commit_refused_is_not_raised_for_nothing() -> None:
    disk = SimDisk()
    world = World(disk)
    disk.space_bytes = 0
    asyncio.run(world.backend.commit())
    with pytest.raises(CommitRefused):
        asyncio.run(refuse(world))


async def refuse(world: World) -> None:
    await world.backend.execute([Enqueue("jobs", b"y" * 100_000)])
    await world.backend.commit()
