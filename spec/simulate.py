"""The real service, server and journal under virtual time, with faults: `python -m spec.simulate --seed 7`.

Lives here: producers and workers that stall, die and come back; a server that is killed, loses its power and is
started again; what must hold all the while, and that everything drains once the faults stop. Must not: any rule of a
queue, other than what a client may rely on.

Everything random is drawn from the seed. A run prints a digest of all that happened: the same seed, the same digest.
Seeds that failed once are in spec/seeds.txt and run first, for ever.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from moxy.backends.durable import DurableBackend
from moxy.backends.memory import MemoryBackend
from moxy.core import invariants
from moxy.core.events import AnyEvent
from moxy.core.lifecycle import PROCESSING
from moxy.core.reducer import apply
from moxy.core.state import QueueState, state_of
from moxy.journal.disk import Disk
from moxy.journal.journal import Journal
from moxy.server.tcp import Link, Server
from spec.simclients import Connection, History, Lost, Violation
from spec.simdisk import SimDisk
from spec.simloop import SimLoop, SimTransport, connect, run

FAULTS = ("crash", "torn", "slow", "skew", "disconnect")
QUEUES = ("jobs", "mails")
PLAIN = "plain"
"""A queue whose tasks have no options: what happens there goes through the fast lane."""
SEEDS = Path(__file__).with_name("seeds.txt")
_HOUR_MS = 3_600_000


class Clock:
    """The server's clock on virtual time: it may start an hour off, but never behind the last event."""

    def __init__(self, loop: SimLoop, base_ms: int, not_before_ms: int) -> None:
        self._loop = loop
        self._base_ms = max(base_ms, not_before_ms) - int(loop.time() * 1000)

    def now_ms(self) -> int:
        return self._base_ms + int(self._loop.time() * 1000)


class Ids:
    """Random bits from the seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def seed(self) -> int:
        return self._rng.getrandbits(64)

    def digits(self, count: int) -> bytes:
        return self._rng.randbytes(count // 2).hex().encode()


class World:
    """Clients, a server, its disk, and the hand of fate."""

    def __init__(self, loop: SimLoop, seed: int, steps: int, faults: Sequence[str]) -> None:
        self.loop = loop
        self.rng = random.Random(seed * 2 + 1)
        self.steps = steps
        self.faults = set(faults)
        self.digest = hashlib.sha256()
        self.history = History()
        self.disk = SimDisk()
        self.base_ms = 1_700_000_000_000
        self.server: Server | None = None
        self.memory: MemoryBackend | None = None
        self.running: asyncio.Task[None] | None = None
        self.states: dict[str, QueueState] = {}
        self.links: list[SimTransport] = []
        self.crashes = self.events = 0
        self.faulty = True
        self.durability: Any = self.rng.choice(("always", "always", "everysec", "no"))
        self.sync_here_events_max = self.rng.choice((0, 0, 2))
        """Mostly in a thread, where a crash can come between a write and its sync."""
        self.lossy = self.durability != "always"
        loop.executor_delay_s = self._delay_s

    def note(self, *what: object) -> None:
        """Into the digest: the virtual time and what happened."""
        self.digest.update(f"{self.loop.time():.6f} {what}\n".encode())

    def _delay_s(self) -> float:
        if self.faulty and "slow" in self.faults and self.rng.random() < 0.05:
            return self.rng.random() * 5
        return self.rng.random() * 0.004

    # The server

    def start(self) -> None:
        """Recover from the disk and serve. What is recovered must agree with what was promised."""
        disk: Disk = self.disk
        journal, recovered = Journal.open(disk, 7, self.base_ms, segment_bytes=1 << 15)
        last_ms = max((state.at_ms for state in recovered.states.values()), default=0)
        if self.faulty and "skew" in self.faults:
            self.base_ms += self.rng.choice((-_HOUR_MS, 0, 0, _HOUR_MS))
        clock = Clock(self.loop, self.base_ms + int(self.loop.time() * 1000), last_ms)
        for state in recovered.states.values():
            self._check(invariants.broken(state))
        self.memory = MemoryBackend(clock, Ids(self.rng), None, recovered.states)
        backend = DurableBackend(
            self.memory, journal, clock, self.durability, 400, None, None, self._say, self.sync_here_events_max
        )
        self.server = Server(backend, clock, self._say, [lambda turn: self._heard(turn.events)])
        # Copies: the server's own are lent to batches, also while an observer is told of the turn before.
        self.states = {queue: state_of(state.image()) for queue, state in recovered.states.items()}
        bound = [
            task.lease.lease_id
            for state in recovered.states.values()
            for task in state.in_state(PROCESSING)
            if task.lease is not None and task.lease.bound
        ]
        self.server.service.orphaned(bound)
        self.running = asyncio.create_task(self.server.run())
        self.note("started", recovered.last_sequence, len(recovered.warnings))

    async def crash(self) -> None:
        """The process is killed, or the power goes; whatever threads were doing is not done."""
        assert self.running is not None
        self.loop.crash()
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running
        for link in self.links:
            if link.peer is not None:
                link.peer.vanish()
        self.links.clear()
        power = "torn" in self.faults and self.rng.random() < 0.5
        self.disk = self.disk.crash(self.rng.getrandbits(32)) if power else self.disk.kill()
        if power and self.lossy:
            self.history.undo()
        self.crashes += 1
        self.server = None
        self.note("crash", "power" if power else "kill")

    def _say(self, event: str, **fields: str | int) -> None:
        self.note("log", event)

    def _heard(self, events: Sequence[AnyEvent]) -> None:
        """Committed events: each step must keep every invariant that can be seen in the states."""
        assert self.memory is not None
        self.events += len(events)
        for event in events:
            self.note(event)
            known = self.states.get(event.queue)
            if event.seq != (known.seq if known else 0) + 1:
                raise Violation(f"I15: {event!r} follows sequence {known.seq if known else 0}")
            self.states[event.queue] = apply(known or QueueState(event.queue), event)
        for queue in {event.queue for event in events}:
            self._check(invariants.broken(self.states[queue]))

    def _check(self, sentences: Sequence[str]) -> None:
        if sentences:
            raise Violation("; ".join(sentences))

    # The clients

    async def connect(self, name: str) -> Connection:
        """A connection, as soon as there is a server."""
        while self.server is None:
            await asyncio.sleep(0.05)
        connection = Connection()
        self.links.append(connect(self.loop, Link(self.server), connection, name))
        return connection

    async def produce(self, name: str, tasks: int) -> None:
        """Enqueue tasks with ids, repeating whatever got no reply."""
        connection = await self.connect(name)
        for number in range(tasks):
            payload = f"{name}-{number}".encode()
            self.history.offered.add(payload)
            queue = self.rng.choice(QUEUES)
            options: list[str | int] = ["ID", f"{name}-{number}", "DEDUP", 10_000_000]
            if self.rng.random() < 0.3:
                options += ["PRIORITY", self.rng.randint(0, 9)]
            if self.rng.random() < 0.3:
                options += ["DELAY", self.rng.randint(0, 2000)]
            while True:
                losses = self.history.losses
                reply = await connection.ask("MOXY.ENQUEUE", queue, payload, *options)
                if isinstance(reply, list) and losses == self.history.losses:
                    self.history.enqueued[payload] = queue.encode()
                    break
                if isinstance(reply, Lost):
                    connection = await self.connect(name)
                await asyncio.sleep(self.rng.random() * 0.5)
            await asyncio.sleep(self.rng.random() * 0.3)

    async def produce_plain(self, name: str, tasks: int) -> None:
        """Enqueue tasks without ids. What got no reply may have happened, and is not repeated."""
        connection = await self.connect(name)
        for number in range(tasks):
            payload = f"{name}-{number}".encode()
            self.history.offered.add(payload)
            losses = self.history.losses
            reply = await connection.ask("MOXY.ENQUEUE", PLAIN, payload)
            if isinstance(reply, Lost):
                connection = await self.connect(name)
            elif isinstance(reply, list) and losses == self.history.losses:
                self.history.enqueued[payload] = PLAIN.encode()
            await asyncio.sleep(self.rng.random() * 0.2)

    async def work_plain(self, name: str, done: Callable[[], bool]) -> None:
        """Fetch one at a time, without options."""
        connection = await self.connect(name)
        while not done():
            losses = self.history.losses
            reply = await connection.ask("MOXY.FETCH", PLAIN, self.rng.randint(100, 1500))
            if isinstance(reply, Lost):
                connection = await self.connect(name)
            elif isinstance(reply, list):
                entry = dict(zip(reply[::2], reply[1::2], strict=True))
                entry |= {b"queue": PLAIN.encode(), b"token": int(entry[b"lease_id"].split(b":")[2])}
                if losses == self.history.losses:
                    self.history.delivered(entry)
                await self._treat(connection, entry)
            else:
                await asyncio.sleep(self.rng.random() * 0.2)

    async def work(self, name: str, done: Callable[[], bool]) -> None:
        """Fetch, and then do well, or badly, or nothing at all."""
        connection = await self.connect(name)
        while not done():
            words: list[str | int] = ["MOXY.FETCH", QUEUES[0], self.rng.randint(100, 1500), "BLOCK", 500, "COUNT"]
            words.append(self.rng.randint(1, 3))
            if self.rng.random() < 0.3:
                words.append("BOUND")
            losses = self.history.losses
            reply = await connection.ask(*words, "WITH", QUEUES[1])
            if isinstance(reply, Lost):
                connection = await self.connect(name)
            elif isinstance(reply, list):
                entries = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply]
                for entry in entries:
                    if losses == self.history.losses:
                        self.history.delivered(entry)
                for entry in entries:
                    await self._treat(connection, entry)
            if self.faulty and "disconnect" in self.faults and self.rng.random() < 0.03 and connection.transport:
                connection.transport.lose()

    async def _treat(self, connection: Connection, entry: dict[bytes, Any]) -> None:
        lease, payload = entry[b"lease_id"], entry[b"payload"]
        fate = self.rng.random() if self.faulty else 0.9
        if fate < 0.15:
            await asyncio.sleep(self.rng.random() * 3)  # stalls, perhaps past the deadline, and acks all the same
        elif fate < 0.25:
            return  # forgets about it
        elif fate < 0.35:
            await connection.ask("MOXY.NACK", lease, "DELAY", self.rng.randint(0, 500), "REASON", "tired")
            return
        elif fate < 0.4:
            await connection.ask("MOXY.NACK", lease, "RELEASE")
            return
        elif fate < 0.45:
            await connection.ask("MOXY.EXTEND", lease, 2000)
        else:
            await asyncio.sleep(self.rng.random() * 0.05)
        self.history.maybe_acked.add(payload)
        losses = self.history.losses
        reply = await connection.ask("MOXY.ACK", lease)
        if reply == b"OK" and losses == self.history.losses:
            self.history.acked[payload] = entry[b"token"]

    # The story

    async def fate(self) -> None:
        """Crashes at moments of its own choosing, for as long as faults go on."""
        for _ in range(self.steps):
            await asyncio.sleep(self.rng.random() * 4)
            if "crash" in self.faults and self.rng.random() < 0.5:
                await self.crash()
                await asyncio.sleep(self.rng.random())
                self.start()

    async def tell(self) -> str:
        """Faults, then peace, in which everything must drain. The digest of all that happened."""
        self.start()
        assert self.server is not None
        producers = [asyncio.create_task(self.produce(f"p{n}", self.steps * 3)) for n in range(2)]
        producers.append(asyncio.create_task(self.produce_plain("p2", self.steps * 5)))
        stop = False
        workers = [asyncio.create_task(self.work(f"w{n}", lambda: stop)) for n in range(3)]
        workers += [asyncio.create_task(self.work_plain(f"w{n}", lambda: stop)) for n in (3, 4)]
        fate = asyncio.create_task(self.fate())
        try:
            await self._guarded(fate, *producers)
            self.faulty = False
            for second in itertools.count():
                if self._drained():
                    break
                if second > 600:
                    raise Violation("L3: ten minutes after the last fault there are still tasks")
                await self._guarded(asyncio.create_task(asyncio.sleep(1)))
                self._look_after(workers)
        finally:
            stop = True
            for task in (*producers, *workers, fate):
                task.cancel()
            await asyncio.gather(*producers, *workers, fate, return_exceptions=True)
        self._conclude()
        return self.digest.hexdigest()

    async def _guarded(self, *tasks: asyncio.Task[None]) -> None:
        """Wait for tasks, but not past the end of a server that ended on its own."""
        pending: set[asyncio.Task[None]] = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=1)
            for task in done:
                task.result()
            if self.running is not None and self.running.done() and not self.running.cancelled():
                self.running.result()

    def _look_after(self, workers: Sequence[asyncio.Task[None]]) -> None:
        for worker in workers:
            if worker.done():
                worker.result()

    def _drained(self) -> bool:
        assert self.memory is not None
        if self.memory.uncommitted or self.server is None or not self.server.may_reply:
            return False  # a turn is still on its way to the disk
        states = [self.memory.state_of(queue) for queue in (*QUEUES, PLAIN)]
        return not any(len(s.ready) + len(s.scheduled) + len(s.processing) for s in states)

    def _conclude(self) -> None:
        """What was promised, against what is left."""
        assert self.memory is not None
        dead = {task.payload for queue in (*QUEUES, PLAIN) for task in self.memory.state_of(queue).in_state("dead")}
        for payload in self.history.enqueued:
            if payload not in self.history.maybe_acked and payload not in dead:
                raise Violation(f"{payload!r} was enqueued, and is neither done nor dead: it is lost")
        for queue in (*QUEUES, PLAIN):
            self._check(invariants.broken(self.memory.state_of(queue)))
            if self.states.get(queue) is not None and self.states[queue].seq != self.memory.state_of(queue).seq:
                raise Violation(f"I10: the events heard end at another sequence than queue {queue!r}")


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to."""

    seed: int
    digest: str
    crashes: int
    events: int
    virtual_s: float


def simulate(seed: int, steps: int = 10, faults: Sequence[str] = FAULTS) -> Outcome:
    """One run. Raises Violation, or whatever the code under test raised."""
    worlds: list[World] = []

    async def main(loop: SimLoop) -> str:
        world = World(loop, seed, steps, faults)
        worlds.append(world)
        await asyncio.sleep(0)
        assert world.memory is None
        return await world.tell()

    digest = run(seed, main)
    world = worlds[0]
    return Outcome(seed, digest, world.crashes, world.events, world.loop.time())


def remembered_seeds() -> list[int]:
    """Seeds that failed once."""
    if not SEEDS.exists():
        return []
    lines = SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m spec.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="how long faults go on")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"some of {','.join(FAULTS)}")
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from --seed on")
    parser.add_argument("--forever", action="store_true", help="from --seed on until something fails")
    args = parser.parse_args(argv)
    faults = [fault for fault in args.faults.split(",") if fault]
    if set(faults) - set(FAULTS):
        parser.error(f"faults are some of {', '.join(FAULTS)}")
    began = time.perf_counter()
    seeds = itertools.count(args.seed) if args.forever else range(args.seed, args.seed + args.count)
    for number, seed in enumerate(seeds, 1):
        try:
            outcome = simulate(seed, args.steps, faults)
        except Exception as error:
            print(f"seed {seed} fails: {type(error).__name__}: {error}")  # noqa: T201
            print(f"run it again: python -m spec.simulate --seed {seed} --steps {args.steps}")  # noqa: T201
            print("then keep it in spec/seeds.txt")  # noqa: T201
            return 1
        if args.count == 1 and not args.forever:
            print(  # noqa: T201
                f"seed {seed}: {outcome.events} events, {outcome.crashes} crashes in {outcome.virtual_s:.0f} virtual "
                f"seconds; digest {outcome.digest}"
            )
        elif sys.stderr.isatty():
            print(f"\r{number} seeds, {number / (time.perf_counter() - began):.1f} a second", end="", file=sys.stderr)  # noqa: T201
    if args.count > 1:
        print(f"{args.count} seeds held")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
