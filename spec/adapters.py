"""The systems that are checked against the model: Moxy's parts and wholes, each behind `spec.system.System`.

What lives here: the adapters, the wire decoder they share, the table of adapters by name. This is the only file in
`spec` that imports `moxy`. What must not live here: a rule of a queue, an expectation, anything of Hypothesis.

- `CoreSystem`: `decide` folded over a dict of states; words parsed and replies shaped by the verb table.
- `ServiceSystem`: a `Backend` through `Service`, turn by turn.
- `ConnectionSystem`: the same with bytes in and out, cut anywhere, in RESP2 or RESP3.
- `SocketSystem`: the real `Server` and real sockets on a loop whose time is the machine's.

Another backend needs no class of its own: give `ServiceSystem`, `ConnectionSystem` or `SocketSystem` a `Deployment`
that builds it on the clock and ids it is handed, and reads its states (memory with a journal, Redis).
"""

import asyncio
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, Generic, Protocol, TypeVar, final

from msgspec.structs import asdict

from moxy.backends.base import Backend, Done, Outcome
from moxy.backends.memory import MemoryBackend
from moxy.core import invariants
from moxy.core.answers import AckResult, Answer, Delivery, Names
from moxy.core.commands import (
    Ack,
    AckMany,
    AnyCommand,
    Fetch,
    FetchAny,
    Intent,
    ListQueues,
    Release,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import Refused
from moxy.core.events import Leased, ReleaseCause
from moxy.core.ids import split_lease_id
from moxy.core.reducer import replay
from moxy.core.state import QueueState
from moxy.core.tasks import Task
from moxy.core.views import show
from moxy.server.connection import Connection
from moxy.server.greetings import Greetings
from moxy.server.session import Session
from moxy.server.tcp import Server
from moxy.service import Request, Service
from moxy.wire.resp import Error, NullArray, Simple, Value
from moxy.wire.table import Row, find
from spec import system
from spec.model import BLOCKED, Refusal
from spec.system import Plain, SystemFactory, plain

T = TypeVar("T")

_PATIENCE_S: Final = 10.0
"""How long a socket may take to bring what must come. Nothing waits that long unless something is wrong."""
_TURNS_MAX: Final = 100
"""Turns that one step may take. A turn does 1,000 tasks a queue, more than any program here has."""
_ROUNDS_TO_REST: Final = 6
"""Rounds of the loop after which a server that was sent nothing new has no turn left to run."""
_PARTS_MAX: Final = 4


class SettableClock:
    """The machine's time."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms


class ZeroIds:
    """No chance: all nonces are 0, as the model's are."""

    def seed(self) -> int:
        return 0


# States


def canonical(states: Mapping[str, QueueState], now_ms: int) -> dict[str, object]:
    """The states in the form of `Model.canonical`; a state that breaks an invariant of its own is an error."""
    return {name: _canonical_queue(state, max(now_ms, state.at_ms)) for name, state in states.items() if state.seq}


def _canonical_queue(state: QueueState, at_ms: int) -> dict[str, object]:
    broken = invariants.broken(state)
    assert not broken, broken
    return {
        "paused": state.paused,
        "policy": asdict(state.policy),
        "next_number": state.next_number,
        "last_token": state.last_token,
        "counters": asdict(state.totals),
        "tasks": [_canonical_task(state, state.tasks[number]) for number in sorted(state.tasks)],
        "remembered": sorted((task_id, until) for task_id, (until, _) in state.remembered.items() if at_ms < until),
    }


def _canonical_task(state: QueueState, task: Task) -> dict[str, object]:
    more = {"number": task.number, "place": task.place, "dedup_ms": task.options.dedup_ms or None}
    return {**asdict(show(state, task)), **more}


# Replies


def _plain_value(value: Value) -> Plain:
    """What `encode` would write and a client would read back, without the bytes in between."""
    if isinstance(value, Error):
        return Refusal(value.code)
    if isinstance(value, Simple):
        return value.text.encode()
    if isinstance(value, NullArray):
        return None
    if isinstance(value, Mapping):
        return {str(key).encode(): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    return plain(value)


class _Decoder:
    """Replies off a wire, RESP2 and RESP3, as they come in. Not the server's own code, on purpose."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    @property
    def is_empty(self) -> bool:
        return not self._data

    def next(self) -> tuple[Plain] | None:
        """The next whole reply, or None."""
        try:
            value, end = _decode(self._data, 0)
        except EOFError:
            return None
        self._data = self._data[end:]
        return (value,)


def _decode(data: bytes, at: int) -> tuple[Plain, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise EOFError
    kind, head, at = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"+":
        return head, at
    if kind == b"-":
        return Refusal(head.split(b" ", 1)[0].decode()), at
    if kind == b":":
        return int(head), at
    if kind == b"#":
        return int(head == b"t"), at
    if kind == b"_" or head == b"-1":
        return None, at
    if kind in b"$=":
        end = at + int(head)
        if len(data) < end + 2:
            raise EOFError
        assert data[end : end + 2] == b"\r\n", data
        return data[at:end], end + 2
    assert kind in b"*%", data
    items: list[Plain] = []
    for _ in range(int(head) * (2 if kind == b"%" else 1)):
        item, at = _decode(data, at)
        items.append(item)
    return (_pairs(items) if kind == b"%" else items), at


def _pairs(items: list[Plain]) -> dict[bytes, Plain]:
    pairs: dict[bytes, Plain] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        assert isinstance(key, bytes)
        assert key not in pairs, f"{key!r} comes twice"
        pairs[key] = value
    return pairs


_MAPS: Final = (b"MOXY.ENQUEUE", b"MOXY.SHOW", b"MOXY.STATS", b"MOXY.CONFIG")
"""What RESP3 answers with a map, and RESP2 with a flat array."""


def _in_resp3_shape(argv: Sequence[bytes], reply: Plain) -> Plain:
    """A reply of RESP2 with its flat arrays made maps again."""
    if not isinstance(reply, list):
        return reply
    verb = argv[0].upper()
    if verb in _MAPS or (verb == b"MOXY.FETCH" and len(argv) == 3):
        return _pairs(reply)
    if verb in (b"MOXY.PEEK", b"MOXY.FETCH"):
        return [_pairs(entry) if isinstance(entry, list) else entry for entry in reply]
    return reply


def encode_command(argv: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


def cut(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """The same bytes in pieces: mostly whole, sometimes in a few, sometimes one by one."""
    if not data:
        return
    how = chance.randrange(4)
    if how == 3 and len(data) < 200:
        places = list(range(1, len(data)))
    else:
        places = sorted({chance.randrange(len(data)) for _ in range(how and chance.randrange(_PARTS_MAX))} - {0})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]


# (a) The core


class CoreSystem:
    """`decide`, folded over a dict. Nobody can wait here: there is nobody to wait with."""

    can_block = False
    takes_megabytes = True

    def __init__(self) -> None:
        self.states: dict[str, QueueState] = {}
        self._bound: list[tuple[str, str]] = []

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        try:
            row = find(argv)
            assert row.parse is not None
            intent = row.parse(argv, client)
            reply = _plain_value(row.reply(self._carry_out(intent, client, now_ms), intent))
        except Refused as refused:
            reply = Refusal(refused.code)
        self.tick(now_ms)
        return reply

    def tick(self, now_ms: int) -> None:
        for name in list(self.states):
            while self._decide(Tick(name), now_ms):
                pass

    def disconnect(self, client: str, now_ms: int) -> None:
        for holder, lease_id in self._bound:
            if holder == client:
                self._release(lease_id, "disconnect", now_ms)
        self._bound = [(holder, lease_id) for holder, lease_id in self._bound if holder != client]
        self.tick(now_ms)

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        self._release(lease_id, "undelivered", now_ms)
        self.tick(now_ms)

    def take_answers(self) -> list[system.Answer]:
        return []

    def canonical(self, now_ms: int) -> dict[str, object]:
        return canonical(self.states, now_ms)

    def close(self) -> None:
        """Nothing is held."""

    def _release(self, lease_id: str, cause: ReleaseCause, now_ms: int) -> None:
        queue, number, token = split_lease_id(lease_id)
        try:
            self._decide(Release(queue, lease_id, number, token, cause), now_ms)
        except Refused as refused:
            if refused.code != "NOLEASE":
                raise

    def _carry_out(self, intent: Intent, client: str, now_ms: int) -> Answer:
        if isinstance(intent, AnyCommand):
            answer = self._decide(intent, now_ms)
        elif isinstance(intent, FetchAny):
            answer = self._fetch(intent, now_ms)
        elif isinstance(intent, AckMany):
            return [self._ack(ack, now_ms) for ack in intent.acks]
        else:
            assert isinstance(intent, ListQueues), intent
            wanted = re.compile(_glob(intent.pattern))
            names = sorted(name for name in self.states if name > intent.cursor)
            page = names[: intent.count]
            return Names(page[-1] if len(page) < len(names) else "", [name for name in page if wanted.fullmatch(name)])
        if isinstance(intent, FetchAny) and intent.bound and isinstance(answer, list):
            self._bound += [(client, str(d.lease_id)) for d in answer if isinstance(d, Delivery)]
        return answer

    def _decide(self, command: AnyCommand, now_ms: int) -> Answer:
        before = self.states.get(command.queue) or QueueState(command.queue)
        decision = decide(before, command, now_ms, 0)
        broken = invariants.broken_by(before, decision.events, decision.state)
        if isinstance(command, Fetch):  # due work comes first in it, and I7 is about what it leaves
            due = list(takewhile(lambda event: not isinstance(event, Leased), decision.events))
            misled = invariants.first_eligible(replay(due, before), command, decision.events[len(due) :])
            broken += [misled] if misled else []
        assert not broken, broken
        if decision.events:
            self.states[command.queue] = decision.state
        return decision.answer

    def _fetch(self, fetch: FetchAny, now_ms: int) -> Answer:
        deliveries: list[Delivery] = []
        for queue in fetch.queues:
            count = fetch.count - len(deliveries)
            if count:
                answer = self._decide(Fetch(queue, fetch.lease_ms, count, fetch.worker, fetch.bound), now_ms)
                assert isinstance(answer, list)
                deliveries += [delivery for delivery in answer if isinstance(delivery, Delivery)]
        return deliveries or None

    def _ack(self, ack: Ack | tuple[str, str], now_ms: int) -> AckResult:
        if not isinstance(ack, Ack):
            return AckResult(*ack)
        try:
            self._decide(ack, now_ms)
        except Refused as refused:
            return AckResult(refused.code, refused.text)
        return AckResult()


def _glob(pattern: str) -> str:
    """A glob of stars and question marks; the machine uses no others."""
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


# (b) A backend through the service


class Deployment(Protocol):
    """How to build a backend, and how to look into it."""

    def backend(self, clock: SettableClock, ids: ZeroIds) -> Backend:
        """A new, empty one."""

    def states(self) -> Mapping[str, QueueState]:
        """All queues of that backend as they are now."""

    def close(self) -> None:
        """After the backend itself is closed."""


@final
class InMemory:
    """The memory backend, which forgets."""

    def backend(self, clock: SettableClock, ids: ZeroIds) -> Backend:
        self._backend = MemoryBackend(clock, ids)
        return self._backend

    def states(self) -> Mapping[str, QueueState]:
        return self._backend.states()

    def close(self) -> None:
        """Nothing is left."""


def _drive(work: Awaitable[T]) -> T:
    """The result of something that must not suspend."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("a turn over queues in memory suspended")


class _Person:
    """A client of the service without a connection: where its request is, while it waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.row: Row | None = None


P = TypeVar("P", _Person, "_Talker")


class _OverService(Generic[P]):
    """What the service and the connection adapters share: clients by name, turns until nothing is left to do."""

    can_block = True

    def __init__(self, deployment: Callable[[], Deployment] = InMemory) -> None:
        self.clock = SettableClock()
        self.deployment = deployment()
        self.backend = self.deployment.backend(self.clock, ZeroIds())
        self.service = Service(self.backend, self.clock)
        self.clients: dict[str, P] = {}
        self.answers: list[system.Answer] = []

    def tick(self, now_ms: int) -> None:
        self.clock.ms = now_ms
        self.settle()

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        self.clock.ms = now_ms
        self.service.undelivered([lease_id])
        self.settle()

    def take_answers(self) -> list[system.Answer]:
        answers, self.answers = self.answers, []
        return answers

    def canonical(self, now_ms: int) -> dict[str, object]:
        return canonical(self.deployment.states(), now_ms)

    def close(self) -> None:
        _drive(self.backend.close())
        self.deployment.close()

    def settle(self) -> None:
        """Turns, for as long as something arrived or is due."""
        for _ in range(_TURNS_MAX):
            if not self.service.has_work and not self.is_late():
                return
            self.heard(_drive(self.service.turn()).answered)
        raise AssertionError("due work is not done: turn after turn, the service says that there is some")

    def is_late(self) -> bool:
        wake_ms = self.service.next_wake_ms()
        return wake_ms is not None and wake_ms <= self.clock.ms

    def heard(self, answered: Sequence[Request]) -> None:
        raise NotImplementedError


class ServiceSystem(_OverService[_Person]):
    """Words to an intent, the intent through the service, its outcome to a reply."""

    takes_megabytes = True

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        self.clock.ms = now_ms
        person = self.clients.setdefault(client, _Person(client))
        try:
            row = find(argv)
            assert row.parse is not None
            request = Request(person, row.parse(argv, client))
        except Refused as refused:
            self.settle()
            return Refusal(refused.code)
        person.row = row
        self.service.submit(request)
        self.settle()
        if request.outcome is None:
            return BLOCKED
        own = [answer for answer in self.answers if answer[0] == client]
        self.answers = [answer for answer in self.answers if answer[0] != client]
        ((_, reply),) = own
        return reply

    def disconnect(self, client: str, now_ms: int) -> None:
        self.clock.ms = now_ms
        if person := self.clients.pop(client, None):
            person.closed = True
            self.service.disconnected(person)
        self.settle()

    def heard(self, answered: Sequence[Request]) -> None:
        for request in answered:
            person = request.client
            assert isinstance(person, _Person)
            assert person.row is not None
            assert request.outcome is not None
            self.answers.append((person.name, _reply_of(person.row, request.intent, request.outcome)))


def _reply_of(row: Row, intent: Intent, outcome: Outcome) -> Plain:
    return _plain_value(row.reply(outcome.answer, intent)) if isinstance(outcome, Done) else Refusal(outcome.code)


# (c) Bytes through a connection


class _Talker:
    """The client's end of a connection without a socket: what it said last, and what it has read so far."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.decoder = _Decoder()
        self.argv: Sequence[bytes] = ()


class ConnectionSystem(_OverService[_Talker]):
    """The sans-I/O connection over the service. Here stands what `tcp.Link` does, with bytes cut anywhere."""

    takes_megabytes = False

    def __init__(self, protocol: int, deployment: Callable[[], Deployment] = InMemory) -> None:
        super().__init__(deployment)
        self._protocol = protocol
        self._greetings = Greetings(self.backend, self.clock)
        self._chance = random.Random(0)

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        if client not in self.clients:
            talker = _Talker(Connection(Session(len(self.clients) + 1, f"peer of {client}"), self._greetings))
            self.clients[client] = talker
            hello = self._say(talker, [b"HELLO", b"%d" % self._protocol, b"SETNAME", client.encode()])
            assert hello is not None, "HELLO has no reply"
        self.clock.ms = now_ms
        reply = self._say(self.clients[client], argv)
        return BLOCKED if reply is None else _in_resp3_shape(argv, reply[0])

    def disconnect(self, client: str, now_ms: int) -> None:
        self.clock.ms = now_ms
        if talker := self.clients.pop(client, None):
            talker.connection.closed = True
            self.service.disconnected(talker.connection)
        self.settle()

    def heard(self, answered: Sequence[Request]) -> None:
        for name, talker in self.clients.items():
            if any(request.client is talker.connection for request in answered):
                self._read(talker)
                if talker.argv and (reply := talker.decoder.next()):
                    self.answers.append((name, _in_resp3_shape(talker.argv, reply[0])))
                    talker.argv = ()

    def _say(self, talker: _Talker, argv: Sequence[bytes]) -> tuple[Plain] | None:
        assert not talker.argv, "a client that waits was made to speak"
        for part in cut(encode_command(argv), self._chance):
            for request in talker.connection.receive(part):
                self.service.submit(request)
        if not self.service.has_work:
            self._read(talker)
        own = len(self.answers)
        talker.argv = argv
        self.settle()
        mine = [answer for answer in self.answers[own:] if self.clients[answer[0]] is talker]
        if mine:
            self.answers.remove(mine[0])
            return (mine[0][1],)
        self._read(talker)
        reply = talker.decoder.next()
        if reply is not None:
            talker.argv = ()
        return reply

    def _read(self, talker: _Talker) -> None:
        for part in cut(talker.connection.take_output(), self._chance):
            talker.decoder.feed(part)
        talker.connection.unsent_leases.clear()
        assert not talker.connection.proceed(), "something was held back that nobody sent"


# (d) The server on a socket


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose time is the machine's, so that the server's own timer fires when the machine says so."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.is_closing = False
        super().__init__()

    def time(self) -> float:
        if self.is_closing:
            self.ms += 5
        return self.ms / 1000


class _Caller:
    """A client with a real socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = _Decoder()
        self.waits_with: Sequence[bytes] = ()


class SocketSystem:
    """The real server on 127.0.0.1, and sockets of our own, on one loop that runs only while a call is under way.

    The server's clock and the loop's time are the machine's. For a command the clock moves first and the loop's time
    after it, as on a loop that was busy: so a command arrives ahead of the timer that is due by then, never after it.
    """

    can_block = True
    takes_megabytes = False

    def __init__(self, protocol: int, deployment: Callable[[], Deployment] = InMemory) -> None:
        self._protocol = protocol
        self._chance = random.Random(0)
        self._clock = SettableClock()
        self._loop = _Loop()
        self._deployment = deployment()
        self._server = Server(self._deployment.backend(self._clock, ZeroIds()), self._clock, _silence)
        self._callers: dict[str, _Caller] = {}
        self._answers: list[system.Answer] = []
        self._running = self._loop.run_until_complete(self._start())
        self._control = self._loop.run_until_complete(self._connect("control"))

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        return self._loop.run_until_complete(self._execute(client, argv, now_ms))

    def tick(self, now_ms: int) -> None:
        self._loop.run_until_complete(self._tick(now_ms))

    def disconnect(self, client: str, now_ms: int) -> None:
        self._loop.run_until_complete(self._disconnect(client, now_ms))

    def undeliver(self, lease_id: str, now_ms: int) -> None:
        # A socket that takes a reply and loses it cannot be had; so this says what `Server.left` says then.
        self._clock.ms = now_ms
        self._server.service.undelivered([lease_id])
        self._loop.run_until_complete(self._ping(now_ms))

    def take_answers(self) -> list[system.Answer]:
        answers, self._answers = self._answers, []
        return answers

    def canonical(self, now_ms: int) -> dict[str, object]:
        return canonical(self._deployment.states(), now_ms)

    def close(self) -> None:
        try:
            for caller in [*self._callers.values(), self._control]:
                caller.sock.close()
            self._loop.is_closing = True
            self._server.stop()
            self._loop.run_until_complete(self._running)
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop.close()
            self._deployment.close()

    async def _start(self) -> "asyncio.Task[None]":
        await self._server.start("127.0.0.1", 0)
        return asyncio.create_task(self._server.run())

    async def _connect(self, name: str) -> _Caller:
        sock = socket.socket()
        sock.setblocking(False)
        await self._loop.sock_connect(sock, self._server.address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(sock)
        await self._ask(caller, [b"HELLO", b"%d" % self._protocol, b"SETNAME", name.encode()])
        return caller

    async def _execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        if client not in self._callers:
            self._callers[client] = await self._connect(client)
        caller = self._callers[client]
        assert not caller.waits_with, "a client that waits was made to speak"
        await self._send(caller, argv, now_ms)
        may_block = b"BLOCK" in [word.upper() for word in argv]
        patience = _Patience(f"a reply to {argv[:3]}")
        while (reply := self._read(caller)) is None:
            if may_block and self._server.service.blocked == self._still_waiting() + 1:
                caller.waits_with = argv
                break
            await patience.wait()
        await self._settle(now_ms)
        if reply is None and not caller.waits_with:  # it blocked, and within the same call was answered
            (reply,) = [(answer,) for name, answer in self._answers if name == client]
            self._answers = [answer for answer in self._answers if answer[0] != client]
        return BLOCKED if reply is None else _in_resp3_shape(argv, reply[0])

    async def _tick(self, now_ms: int) -> None:
        self._clock.ms = now_ms
        await self._settle(now_ms)

    async def _ping(self, now_ms: int) -> None:
        await self._ask(self._control, [b"PING"])
        await self._settle(now_ms)

    async def _disconnect(self, client: str, now_ms: int) -> None:
        self._clock.ms = now_ms
        if caller := self._callers.pop(client, None):
            caller.sock.close()
            patience = _Patience(f"the server to notice that {client} is gone")
            while await self._connected() > len(self._callers) + 1:
                await patience.wait()
        await self._settle(now_ms)

    async def _connected(self) -> int:
        told = await self._ask(self._control, [b"INFO", b"clients"])
        assert isinstance(told, bytes)
        found = re.search(rb"connected_clients:(\d+)", told)
        assert found is not None, told
        return int(found[1])

    async def _settle(self, now_ms: int) -> None:
        """Let the loop's time come, and the server rest; then hear what it said to those who waited."""
        self._loop.ms = now_ms
        service = self._server.service
        patience = _Patience("the server to do what is due: its timer does not fire, or it was not woken")
        while True:
            wake_ms = service.next_wake_ms()
            if not service.has_work and (wake_ms is None or wake_ms > now_ms):
                break
            await patience.wait()
        patience = _Patience("the replies to clients that do not wait any more")
        while self._still_waiting() != service.blocked:
            await patience.wait()

    def _still_waiting(self) -> int:
        """How many clients wait, after hearing what has come for them."""
        for name, caller in self._callers.items():
            if caller.waits_with and (reply := self._read(caller)) is not None:
                self._answers.append((name, _in_resp3_shape(caller.waits_with, reply[0])))
                caller.waits_with = ()
        return sum(1 for caller in self._callers.values() if caller.waits_with)

    async def _ask(self, caller: _Caller, argv: Sequence[bytes]) -> Plain:
        await self._send(caller, argv)
        patience = _Patience(f"a reply to {argv}")
        while (reply := self._read(caller)) is None:
            await patience.wait()
        return reply[0]

    async def _send(self, caller: _Caller, argv: Sequence[bytes], now_ms: int | None = None) -> None:
        """In pieces. A late command comes whole, right after the clock has moved, and finds the server at rest.

        A turn that is still to come, or one for a piece, would do what is due before the command is there.
        """
        is_late = now_ms is not None and now_ms != self._clock.ms
        if is_late:
            for _ in range(_ROUNDS_TO_REST):
                await asyncio.sleep(0)
            assert now_ms is not None
            self._clock.ms = now_ms
        for part in [encode_command(argv)] if is_late else cut(encode_command(argv), self._chance):
            await self._loop.sock_sendall(caller.sock, part)
            if self._chance.randrange(4) == 0:
                await asyncio.sleep(0)

    def _read(self, caller: _Caller) -> tuple[Plain] | None:
        try:
            data = caller.sock.recv(1 << 16)
        except BlockingIOError:
            pass
        else:
            assert data, "the server closed a connection"
            caller.decoder.feed(data)
        return caller.decoder.next()


class _Patience:
    """Waits by letting the loop run, and gives up in the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until_s = time.monotonic() + _PATIENCE_S

    async def wait(self) -> None:
        assert time.monotonic() < self._until_s, f"waited in vain for {self._what}"
        await asyncio.sleep(0)


def _silence(event: str, **fields: str | int) -> None:
    """The server's journalist: nobody listens."""


SYSTEMS: Final[dict[str, SystemFactory]] = {
    "core": CoreSystem,
    "memory": ServiceSystem,
    "connection-resp2": lambda: ConnectionSystem(2),
    "connection-resp3": lambda: ConnectionSystem(3),
    "socket-resp2": lambda: SocketSystem(2),
    "socket-resp3": lambda: SocketSystem(3),
}
"""Every system by its name."""
