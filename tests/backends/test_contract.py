"""One contract, every backend: the same programs, and the answers of all to be those of the memory backend.

Lives here: programs that use every verb and meet every refusal, and where each backend keeps its queues. Must not:
wait. Time is the program's own, chance is none, so that answers can be compared word for word, texts of refusals
included. What only a live server can show is in tests/redis and tests/server.
"""

import asyncio
import secrets
import shlex
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from moxy.backends.base import Backend, Done
from moxy.backends.durable import DurableBackend
from moxy.backends.memory import MemoryBackend
from moxy.backends.recent import Recent
from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.backend import RedisBackend
from moxy.backends.redis.dump import read_dump
from moxy.backends.redis.link import Link
from moxy.backends.redis.scripts import SCRIPT, keys_of
from moxy.core.commands import Ack, AnyCommand, Enqueue, Fetch, Info
from moxy.core.errors import CODES, Refused
from moxy.core.policy import Policy
from moxy.core.state import QueueState, state_of
from moxy.journal.disk import OsDisk
from moxy.journal.journal import Journal
from moxy.service import Request, Service
from moxy.wire.table import ROWS, find
from spec.adapters.values import canonical, plain_value
from tests.redis.support import any_address, clustering, kinds
from tests.service.support import FakeClient, FakeClock, ZeroIds

T = TypeVar("T")

NONCE = "0" * 16
SILENT: Callable[..., None] = lambda event, **fields: None  # noqa: E731
RETAIN = 100
"""Events that are kept for EVENTS and HISTORY in the programs about the horizon; Redis drops them by the hundred."""


# Where the queues are


class Home(Protocol):
    """A backend with nothing in it, and how to look into it."""

    backend: Backend

    def drive(self, work: Awaitable[T]) -> T: ...

    def states(self, queues: Sequence[str]) -> dict[str, QueueState]: ...

    def close(self) -> None: ...


class Looped:
    """What suspends is driven by a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def drive(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        return self._loop.run_until_complete(whole())

    def close(self) -> None:
        self._loop.close()


class Memory(Looped):
    def __init__(self, clock: FakeClock, policy: Policy | None, retain: int | None) -> None:
        super().__init__()
        recent = None if retain is None else Recent(retain)
        self.backend = self._memory = MemoryBackend(clock, ZeroIds(), policy, recent=recent)

    def states(self, queues: Sequence[str]) -> dict[str, QueueState]:
        return _some(self._memory.states(), queues)


def _some(states: Mapping[str, QueueState], queues: Sequence[str]) -> dict[str, QueueState]:
    return {queue: state for queue, state in states.items() if queue in queues}


class OnDisk(Looped):
    def __init__(self, directory: Path, clock: FakeClock, policy: Policy | None, retain: int | None) -> None:
        super().__init__()
        journal, recovered = Journal.open(OsDisk(str(directory)), 7, clock.now_ms(), 1 << 20)
        recent = None if retain is None else Recent(retain)
        self._memory = MemoryBackend(clock, ZeroIds(), policy, recovered.states, recent)
        self.backend = DurableBackend(self._memory, journal, clock, "always", 1_000_000, None, None, SILENT)

    def states(self, queues: Sequence[str]) -> dict[str, QueueState]:
        return _some(self._memory.states(), queues)

    def close(self) -> None:
        self.drive(self.backend.close())
        super().close()


class OnRedis(Looped):
    """Under a prefix of its own, of which nothing is left when it closes."""

    def __init__(self, address: str, clock: FakeClock, policy: Policy | None, retain: int | None) -> None:
        super().__init__()
        self._prefix = f"moxy-contract-{secrets.token_hex(8)}"
        self._link = Link(parse_redis_address(address), [SCRIPT])
        self.drive(self._link.connect())
        more = {} if retain is None else {"retain_events": retain}
        self.backend = RedisBackend(
            self._link, clock, ZeroIds(), "contract", policy, self._prefix, inject_clock=True, **more
        )

    def states(self, queues: Sequence[str]) -> dict[str, QueueState]:
        return {queue: state for queue in queues if (state := self.drive(self._state(queue))).seq}

    async def _state(self, queue: str) -> QueueState:
        dump = await read_dump(self._link, self._prefix, queue)
        assert dump.contradictions == []
        return state_of(dump.image)

    def close(self) -> None:
        self.drive(self._forget())
        super().close()

    async def _forget(self) -> None:
        names = await self._link.command("ZRANGE", f"{self._prefix}:queues", 0, -1)
        assert isinstance(names, list)
        keys = [key for name in names for key in keys_of(self._prefix, name.decode())]
        for key in (*keys, f"{self._prefix}:queues", f"{self._prefix}:servers"):
            await self._link.command("DEL", key)
        await self._link.close()


MakeHome = Callable[[FakeClock, Policy | None, int | None], Home]


@pytest.fixture(scope="module", params=["durable", "cluster", *kinds()])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeHome]:
    """A backend after the other; those on Redis each on a server of its own, started for this module."""
    with ExitStack() as stack:
        if request.param == "durable":
            yield lambda *how: OnDisk(tmp_path_factory.mktemp("contract"), *how)
        else:
            if request.param == "cluster":
                address = stack.enter_context(clustering()).address
            else:
                address = stack.enter_context(any_address(request.param))
            yield lambda *how: OnRedis(address, *how)


# Programs: a line is a command, or `+1000` (so many ms go by), `NAME: command` (another client says it), `NAME hangs
# up`, or `LEASE undelivered`. L is the lease id `jobs:NUMBER:TOKEN:0...`, written jobs/NUMBER/TOKEN.

QUEUE_VIEWS = (
    "MOXY.STATS {0}",
    "MOXY.INFO {0}",
    "MOXY.CONFIG {0}",
    "MOXY.PEEK {0} STATE ready COUNT 1000",
    "MOXY.PEEK {0} STATE scheduled COUNT 1000",
    "MOXY.PEEK {0} STATE processing COUNT 1000",
    "MOXY.PEEK {0} STATE dead COUNT 1000",
    "MOXY.EVENTS {0} 1 COUNT 1000",
)

PROGRAMS = {
    "the life of a task": """
        MOXY.ENQUEUE jobs hello
        MOXY.FETCH jobs 1000
        MOXY.FETCH jobs 1000
        MOXY.SHOW jobs 1-0000000000000000
        MOXY.EXTEND jobs/1/1 500
        MOXY.EXTEND jobs/1/1 5000
        +1500
        MOXY.ACK jobs/1/1
        MOXY.ACK jobs/1/1
        MOXY.SHOW jobs 1-0000000000000000
        MOXY.HISTORY jobs 1-0000000000000000
        MOXY.WHY jobs 1-0000000000000000
    """,
    "every option of an enqueue": """
        MOXY.ENQUEUE jobs a ID a PRIORITY 9 DELAY 100 TTL 5000 MAXATTEMPTS 2 LEASE 700 DEDUP 2000
        MOXY.ENQUEUE jobs other ID a PRIORITY 1
        MOXY.ENQUEUE jobs b ID b PRIORITY 3
        MOXY.ENQUEUE jobs c DELAY 0
        MOXY.MENQUEUE jobs d e f
        MOXY.MENQUEUE jobs ""
        MOXY.SHOW jobs a
        +100
        MOXY.PEEK jobs
        MOXY.FETCH jobs DEFAULT COUNT 3
        MOXY.SHOW jobs a
        MOXY.ACK jobs/1/1
        +1999
        MOXY.ENQUEUE jobs again ID a
        MOXY.SHOW jobs a
        +1
        MOXY.ENQUEUE jobs again ID a
        MOXY.SHOW jobs a
        MOXY.ENQUEUE jobs imposter ID 9-0000000000000000
        MOXY.ENQUEUE jobs genuine
        MOXY.ENQUEUE jobs genuine
        MOXY.DELETE jobs 9-0000000000000000
    """,
    "order": """
        MOXY.ENQUEUE jobs plain1
        MOXY.ENQUEUE jobs urgent1 PRIORITY 9
        MOXY.ENQUEUE jobs plain2
        MOXY.ENQUEUE jobs urgent2 PRIORITY 9
        MOXY.ENQUEUE jobs later DELAY 50 PRIORITY 9
        MOXY.PEEK jobs COUNT 100
        MOXY.FETCH jobs 1000 COUNT 2
        MOXY.NACK jobs/2/1
        MOXY.NACK jobs/4/2 RELEASE
        +50
        MOXY.FETCH jobs 1000 COUNT 1000
    """,
    "coming back": """
        MOXY.CONFIG jobs backoff_ms 1000 backoff_max_ms 3000 max_attempts 3
        MOXY.ENQUEUE jobs poison ID p
        MOXY.FETCH jobs 100
        +100
        MOXY.SHOW jobs p
        MOXY.FETCH jobs 100
        +1000
        MOXY.FETCH jobs 100
        MOXY.NACK jobs/1/2 REASON "it broke"
        MOXY.SHOW jobs p
        +2000
        MOXY.FETCH jobs 100
        MOXY.NACK jobs/1/3 REASON "it broke again"
        MOXY.SHOW jobs p
        MOXY.WHY jobs p
        MOXY.ENQUEUE jobs fatal ID f
        MOXY.FETCH jobs 100
        MOXY.NACK jobs/2/4 FATAL REASON "cannot be done"
        MOXY.ENQUEUE jobs delayed ID d
        MOXY.FETCH jobs 100
        MOXY.NACK jobs/3/5 DELAY 0
        MOXY.FETCH jobs 100
        MOXY.NACK jobs/3/6 DELAY 777
        MOXY.SHOW jobs d
        MOXY.REDRIVE jobs COUNT 1
        MOXY.REDRIVE jobs ID f
        MOXY.REDRIVE jobs ID f
        MOXY.REDRIVE jobs ID nobody
        MOXY.REDRIVE jobs
        MOXY.FETCH jobs 100 COUNT 10
    """,
    "times to live": """
        MOXY.CONFIG jobs ttl_ms 1000
        MOXY.ENQUEUE jobs a ID a
        MOXY.ENQUEUE jobs b ID b TTL 5000
        MOXY.ENQUEUE jobs c ID c DELAY 2000
        MOXY.ENQUEUE jobs d ID d PRIORITY 5
        MOXY.FETCH jobs 3000
        +1000
        MOXY.SHOW jobs a
        MOXY.SHOW jobs c
        +2000
        MOXY.SHOW jobs d
        MOXY.REDRIVE jobs
        +2000
        MOXY.PEEK jobs STATE dead
    """,
    "operators": """
        MOXY.MENQUEUE jobs a b c d
        MOXY.PAUSE jobs
        MOXY.PAUSE jobs
        MOXY.FETCH jobs 1000
        MOXY.RESUME jobs
        MOXY.RESUME jobs
        MOXY.FETCH jobs 1000
        MOXY.DELETE jobs 1-0000000000000000
        MOXY.DELETE jobs 2-0000000000000000
        MOXY.DELETE jobs 2-0000000000000000
        MOXY.DELETE nowhere x
        MOXY.ENQUEUE jobs later DELAY 10000 ID l DEDUP 5000
        MOXY.PURGE jobs scheduled
        MOXY.ENQUEUE jobs later ID l
        MOXY.PURGE jobs ready
        MOXY.PURGE jobs ready
        MOXY.NACK jobs/1/1 FATAL
        MOXY.PURGE jobs dead
        MOXY.PURGE nowhere dead
        MOXY.RESUME nowhere
        MOXY.REDRIVE nowhere
        MOXY.CONFIG jobs lease_ms 30000
        MOXY.CONFIG jobs lease_ms 5 max_ready 3 max_hold_ms 10
        MOXY.CONFIG new max_attempts 7
        MOXY.PAUSE halted
    """,
    "a bound on what waits": """
        MOXY.CONFIG jobs max_ready 2
        MOXY.ENQUEUE jobs later DELAY 50
        MOXY.ENQUEUE jobs now
        MOXY.ENQUEUE jobs over
        MOXY.MENQUEUE jobs over
        MOXY.FETCH jobs 900
        MOXY.ENQUEUE jobs fits
    """,
    "refusals": """
        MOXY.CONFIG jobs max_ready 2 max_hold_ms 1000
        MOXY.MENQUEUE jobs a b c
        MOXY.MENQUEUE jobs a b
        MOXY.ENQUEUE jobs c
        MOXY.FETCH jobs 900
        MOXY.EXTEND jobs/1/1 1001
        MOXY.ENQUEUE jobs c ID c
        MOXY.ENQUEUE jobs d ID d
        MOXY.PURGE jobs processing
        MOXY.DELETE jobs 1-0000000000000000
        MOXY.ACK jobs/1/2
        MOXY.ACK jobs/2/1
        MOXY.ACK jobs/7/1
        MOXY.ACK jobs:1:1:ffffffffffffffff
        MOXY.ACK nowhere/1/1
        MOXY.ACK nonsense
        MOXY.NACK jobs/1/2 RELEASE
        MOXY.EXTEND jobs/1/2 100
        MOXY.MACK jobs/1/2 nonsense jobs/1/1 jobs/1/1 nowhere/1/1
        MOXY.FETCH jobs 0
        MOXY.FETCH jobs 900 COUNT 0
        MOXY.ENQUEUE "bad queue" x
        MOXY.ENQUEUE jobs x PRIORITY 10
        MOXY.ENQUEUE jobs x DEDUP 5
        MOXY.ENQUEUE jobs x ID {LONG_ID}
        MOXY.HISTORY jobs nobody
        MOXY.WHY nowhere nobody
        MOXY.NACK jobs/2/2 REASON {LONG_REASON}
        MOXY.NOTHING
        MOXY.ENQUEUE jobs
        MOXY.EVENTS jobs 1 COUNT 3
        MOXY.EVENTS jobs 3 COUNT 2
        MOXY.EVENTS jobs 1000
        MOXY.EVENTS nowhere 1
    """,
    "void leases say what became of them": """
        MOXY.MENQUEUE jobs a b c d e
        MOXY.FETCH jobs 100 COUNT 4
        w: MOXY.FETCH jobs 5000 BOUND COUNT 1
        MOXY.NACK jobs/2/2
        MOXY.NACK jobs/3/3 RELEASE
        MOXY.ACK jobs/4/4
        w hangs up
        +100
        MOXY.ACK jobs/1/1
        MOXY.ACK jobs/2/2
        MOXY.ACK jobs/3/3
        MOXY.ACK jobs/4/4
        MOXY.ACK jobs/5/5
        MOXY.FETCH jobs 100 COUNT 9
        MOXY.ACK jobs/1/1
    """,
    "whoever waits": """
        w1: MOXY.FETCH jobs 1000 BLOCK 0
        w2: MOXY.FETCH jobs 1000 BLOCK 500 WITH more
        r: MOXY.EVENTS jobs 1 BLOCK 0
        MOXY.ENQUEUE jobs a
        MOXY.ENQUEUE more b
        w1: MOXY.FETCH jobs 1000 BLOCK 500
        +500
        w2: MOXY.FETCH jobs 1000 BLOCK 0
        r: MOXY.EVENTS jobs 3 BLOCK 100
        +100
        MOXY.ENQUEUE jobs late DELAY 100
        +100
        w1: MOXY.FETCH jobs 1000 BLOCK 0
        +1000
        MOXY.PAUSE jobs
        w2: MOXY.FETCH jobs 1000 BLOCK 0
        MOXY.ENQUEUE jobs held
        MOXY.RESUME jobs
    """,
    "bound leases and replies that were not delivered": """
        MOXY.CONFIG jobs max_attempts 2
        MOXY.MENQUEUE jobs a b c
        w: MOXY.FETCH jobs 60000 BOUND COUNT 2
        MOXY.FETCH jobs 60000
        jobs/3/3 undelivered
        w: MOXY.ACK jobs/1/1
        w hangs up
        w: MOXY.FETCH jobs 60000 BOUND COUNT 2
        w hangs up
        MOXY.SHOW jobs 2-0000000000000000
        MOXY.SHOW jobs 3-0000000000000000
    """,
    "several queues": """
        MOXY.MENQUEUE a 1 2
        MOXY.MENQUEUE b 3
        MOXY.FETCH c 1000 COUNT 5 WITH b a
        MOXY.QUEUES
    """,
    "names page by page": """
        MOXY.QUEUES
        MOXY.MENQUEUE b x
        MOXY.MENQUEUE a x
        MOXY.MENQUEUE B x
        MOXY.MENQUEUE änderung x
        MOXY.MENQUEUE a:b x
        MOXY.MENQUEUE 漢字 x
        MOXY.FETCH asked 1000
        MOXY.STATS asked
        MOXY.QUEUES COUNT 2
        MOXY.QUEUES COUNT 2 CURSOR >a
        MOXY.QUEUES COUNT 2 CURSOR >b
        MOXY.QUEUES COUNT 6
        MOXY.QUEUES COUNT 5
        MOXY.QUEUES MATCH a*
        MOXY.QUEUES MATCH ? COUNT 3
        MOXY.QUEUES CURSOR 0
        MOXY.QUEUES CURSOR >zzz
    """,
}

BORN = """
    MOXY.INFO jobs
    MOXY.CONFIG jobs
    MOXY.ENQUEUE jobs poison ID p
    MOXY.CONFIG jobs
    MOXY.FETCH jobs 100
    MOXY.NACK jobs/1/1
    MOXY.SHOW jobs p
    MOXY.PAUSE halted
    MOXY.CONFIG own max_attempts 9
    MOXY.CONFIG other max_attempts 1
    MOXY.MENQUEUE jobs a b
    MOXY.CONFIG unborn max_attempts 1 ttl_ms 0
"""


class World:
    """A service over a backend, its clients, its time; what they heard."""

    def __init__(self, make: MakeHome, policy: Policy | None = None, retain: int | None = None) -> None:
        self.clock = FakeClock()
        self.home = make(self.clock, policy, retain)
        self.service = Service(self.home.backend, self.clock)
        self.clients: dict[str, FakeClient] = {}
        self.rows: dict[Request, Any] = {}
        self.told: list[tuple[str, Any]] = []

    def run(self, program: str) -> list[tuple[str, Any]]:
        """Everything that was answered, each with the line that it answers."""
        for line in program.strip().splitlines():
            self._step(line.strip())
        return self.told

    def look(self, *queues: str) -> list[tuple[str, Any]]:
        """All that can be asked of these queues, and their states."""
        self.told = []
        for queue in queues:
            self.run("\n".join(view.format(queue) for view in QUEUE_VIEWS))
        self.told.append(("states", canonical(self.home.states(queues), self.clock.ms)))
        return self.told

    def _step(self, line: str) -> None:
        words = [_lease(word) for word in shlex.split(line)]
        if line.startswith("+"):
            self.clock.ms += int(line)
        elif line.endswith(" hangs up"):
            client = self.clients.pop(words[0])
            client.closed = True
            self.service.disconnected(client)
        elif line.endswith(" undelivered"):
            self.service.undelivered([words[0]])
        else:
            name = words.pop(0)[:-1] if words[0].endswith(":") else "one"
            self._ask(name, [word.encode() for word in words], line)
        self._settle()

    def _ask(self, name: str, argv: Sequence[bytes], line: str) -> None:
        client = self.clients.setdefault(name, FakeClient(name))
        try:
            row = find(argv)
            assert row.parse is not None
            request = Request(client, row.parse(argv, name))
        except Refused as refused:
            self.told.append((line, str(refused)))
            return
        self.rows[request] = (row, line)
        self.service.submit(request)

    def _settle(self) -> None:
        for _ in range(100):
            wake_ms = self.service.next_wake_ms()
            if not self.service.has_work and (wake_ms is None or wake_ms > self.clock.ms):
                return
            for request in self.home.drive(self.service.turn()).answered:
                row, line = self.rows.pop(request)
                outcome = request.outcome
                if isinstance(outcome, Done):
                    self.told.append((line, _shown(line, plain_value(row.reply(outcome.answer, request.intent)))))
                else:
                    self.told.append((line, str(outcome)))
        raise AssertionError("turn after turn there is more to do")


def _lease(word: str) -> str:
    """jobs/3/4 for jobs:3:4:0000000000000000."""
    parts = word.split("/")
    return f"{parts[0]}:{parts[1]}:{parts[2]}:{NONCE}" if len(parts) == 3 and parts[1].isdigit() else word


def _shown(line: str, reply: Any) -> Any:
    """Left out is how often a *Redis* forgot something. MACK's errors have codes only."""
    if line.startswith("MOXY.INFO"):
        return {name: value for name, value in reply.items() if name != b"epoch"}
    return reply


@contextmanager
def world(make: MakeHome, *how: Any) -> Iterator[World]:
    one = World(make, *how)
    try:
        yield one
    finally:
        one.home.close()


def told(make: MakeHome, program: str, *how: Any) -> list[tuple[str, Any]]:
    """What a program hears, and what it leaves behind."""
    program = program.replace("{LONG_ID}", "i" * 129).replace("{LONG_REASON}", "r" * 1025)
    with world(make, *how) as one:
        heard = list(one.run(program))
        queues = ("jobs", "a", "b", "more", "new", "halted", "own", "other", "unborn", "nowhere")
        return heard + one.look(*queues)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_backend_answers_as_the_memory_backend_does(place: MakeHome, name: str) -> None:
    for ours, theirs in zip(told(place, PROGRAMS[name]), told(Memory, PROGRAMS[name]), strict=True):
        assert ours == theirs


@pytest.mark.parametrize("policy", [Policy(), Policy(max_attempts=1)], ids=["usual", "one attempt"])
def test_new_queues_are_born_with_the_policy_of_their_server(place: MakeHome, policy: Policy) -> None:
    heard = told(place, BORN, policy)
    assert heard == told(Memory, BORN, policy)
    first = dict(heard)["MOXY.EVENTS jobs 1 COUNT 1000"][0]
    assert first[b"event"] == (b"QueueConfigured" if policy != Policy() else b"Enqueued")


def test_an_id_that_a_client_chose_in_the_same_turn_is_not_made_again(place: MakeHome) -> None:
    chosen = f"3-{NONCE}"
    turn = [Enqueue("jobs", b"a"), Enqueue("jobs", b"imposter", task_id=chosen), Enqueue("jobs", b"genuine")]
    for make in (place, Memory):
        with world(make) as one:
            outcomes = one.home.drive(one.home.backend.execute(turn))
            assert [outcome.answer for outcome in outcomes] == [[f"1-{NONCE}"], [chosen], ["3-0000000000000001"]]


def test_info_counts_what_came_before_it_in_the_same_turn(place: MakeHome) -> None:
    turn = [Enqueue("jobs", b"a"), Info("jobs"), Enqueue("jobs", b"b"), Fetch("jobs", 1000), Info("jobs")]
    for make in (place, Memory):
        with world(make) as one:
            answers = [outcome.answer for outcome in one.home.drive(one.home.backend.execute(turn))]
            told = [(answers[at]["total_enqueued"], answers[at]["total_leased"]) for at in (1, 4)]
            assert told == [(1, 0), (2, 1)]


def test_an_id_that_is_remembered_is_not_made_again(place: MakeHome) -> None:
    chosen = f"3-{NONCE}"
    for make in (place, Memory):
        with world(make) as one:

            def answers(*commands: AnyCommand, one: World = one) -> list[Any]:
                return [outcome.answer for outcome in one.home.drive(one.home.backend.execute(commands))]

            answers(Enqueue("jobs", b"a", task_id=chosen, dedup_ms=1000))
            ((task,),) = answers(Fetch("jobs", 1000))
            answers(Ack("jobs", task.lease_id, 1, task.token))
            made = answers(Enqueue("jobs", b"b"), Enqueue("jobs", b"c"))
            assert made == [[f"2-{NONCE}"], ["3-0000000000000001"]]


def test_the_memory_of_ids_does_not_grow_for_ever(place: MakeHome) -> None:
    """A few more than those whose window is open: what came at the same time as an ENQUEUE may still be there."""
    with world(place) as one:
        one.run("\n".join(f"MOXY.ENQUEUE jobs x ID t{n} DEDUP 25\nMOXY.DELETE jobs t{n}\n+10" for n in range(40)))
        (outcome,) = one.home.drive(one.home.backend.execute([Info("jobs")]))
        assert isinstance(outcome, Done)
        assert 3 <= outcome.answer["remembered_ids"] <= 4


def test_the_programs_use_every_verb_and_meet_every_code() -> None:
    """A contract with a gap would pass. IOERR is the log's; BACKEND, Redis's; the rest is said by the server."""
    heard = [pair for program in PROGRAMS.values() for pair in told(Memory, program)]
    used = {word for line, _ in heard for word in line.split() if word.startswith("MOXY.")}
    assert used - {"MOXY.NOTHING"} == {row.name for row in ROWS if row.parse is not None}
    replies = [reply for _, reply in heard if isinstance(reply, str)]
    met = {reply.split()[0] for reply in replies}
    assert met == CODES.keys() - {"IOERR", "READONLY", "BACKEND", "NOAUTH", "WRONGPASS", "NOPERM"}


def test_the_list_of_fields_of_info_is_the_same(place: MakeHome) -> None:
    """But for what happened since this server's start, which only a server that is alone can tell, and the epoch."""

    def fields(make: MakeHome) -> list[bytes]:
        with world(make) as one:
            one.run("MOXY.ENQUEUE jobs a")
            row, queue = find([b"MOXY.INFO", b"jobs"]), [b"MOXY.INFO", b"jobs"]
            assert row.parse is not None
            request = Request(FakeClient(), row.parse(queue, "one"))
            one.service.submit(request)
            one.home.drive(one.service.turn())
            assert isinstance(request.outcome, Done)
            reply = plain_value(row.reply(request.outcome.answer, request.intent))
            assert isinstance(reply, dict)
            return list(reply)

    ours, theirs = fields(place), fields(Memory)
    assert [name for name in ours if name != b"epoch"] == theirs


def test_beyond_the_horizon_the_past_is_cut_and_says_so(place: MakeHome, request: pytest.FixtureRequest) -> None:
    with world(place, None, RETAIN) as one:
        one.run("MOXY.ENQUEUE jobs old ID old")
        one.run("\n".join(["MOXY.MENQUEUE jobs " + "x " * 50] * 8))
        one.run("MOXY.FETCH jobs 1000\nMOXY.NACK jobs/1/1 REASON late")
        last = int(dict(one.run("MOXY.INFO jobs"))["MOXY.INFO jobs"][b"last_seq"])
        heard = dict(one.run("MOXY.EVENTS jobs 1\nMOXY.HISTORY jobs old\nMOXY.WHY jobs old"))
        if "durable" in request.node.callspec.id:  # its log has what its memory let go
            assert [event[b"seq"] for event in heard["MOXY.EVENTS jobs 1"]] == list(range(1, 101))
            assert heard["MOXY.HISTORY jobs old"][0][b"event"] == b"Enqueued"
            return
        refused = heard["MOXY.EVENTS jobs 1"]
        horizon = int(refused.removeprefix("ERR events below sequence ").split()[0])
        assert refused == f"ERR events below sequence {horizon} are no longer kept: read on from there"
        assert last - RETAIN - 100 < horizon <= last - RETAIN + 1, "kept: what was promised, and not much more"
        history = heard["MOXY.HISTORY jobs old"]
        assert history[0] == {b"event": b"Horizon", b"seq": horizon, b"text": b"earlier events are no longer kept"}
        assert [event[b"event"] for event in history[1:]] == [b"Leased", b"Failed", b"Requeued"]
        assert any(b"no longer" in sentence for sentence in heard["MOXY.WHY jobs old"])
        (below, at) = one.run(f"MOXY.EVENTS jobs {horizon - 1}\nMOXY.EVENTS jobs {horizon} COUNT 1")[-2:]
        assert below[1] == refused
        assert at[1][0][b"seq"] == horizon
        # A task whose every event is gone, but which is still there: its past is cut. One that never was: NOTASK.
        gone = f"2-{NONCE}"
        only = dict(one.run(f"MOXY.HISTORY jobs {gone}\nMOXY.HISTORY jobs nobody"))
        assert [event[b"event"] for event in only[f"MOXY.HISTORY jobs {gone}"]] == [b"Horizon"]
        assert only["MOXY.HISTORY jobs nobody"].startswith("NOTASK ")


def test_the_horizon_of_the_memory_backend_is_told_in_the_same_words() -> None:
    with world(Memory, None, RETAIN) as one:
        one.run("\n".join(["MOXY.MENQUEUE jobs " + "x " * 50] * 8))
        (heard,) = one.run("MOXY.EVENTS jobs 1")[-1:]
        assert heard[1] == "ERR events below sequence 301 are no longer kept: read on from there"
