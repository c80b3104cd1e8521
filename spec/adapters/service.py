"""A backend behind the service as a system: turn by turn, with intents, or with bytes through a connection.

What lives here: `Deployment` (how a backend is built and looked into), `ServiceSystem`, `ConnectionSystem`. What must
not live here: a socket, a rule of a queue.
"""

import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

from moxy.backends.base import Backend, Done, Outcome
from moxy.backends.memory import MemoryBackend
from moxy.core.commands import Intent
from moxy.core.errors import Refused
from moxy.core.state import QueueState
from moxy.requests import Request, Turn
from moxy.server.connection import Connection
from moxy.server.greetings import Greetings
from moxy.server.lane import Lane
from moxy.server.session import Session
from moxy.service import Service
from moxy.wire.table import Row, find
from spec import system
from spec.adapters.values import Decoder, canonical, cut, encode_command, in_resp3_shape, plain_value
from spec.model import BLOCKED, Refusal
from spec.system import Durable, Pipelining, Plain

T = TypeVar("T")

_TURNS_MAX: Final = 100
"""Turns that one step may take. A turn does 1,000 tasks a queue, more than any program here has."""


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

    def digits(self, count: int) -> bytes:
        return b"0" * count


# (b) A backend through the service


class Deployment(Protocol):
    """How to build a backend, and how to look into it."""

    def backend(self, clock: SettableClock, ids: ZeroIds) -> Backend:
        """One with the queues that there are: at first, none."""

    def drive(self, work: Awaitable[T]) -> T:
        """The result of what was asked of that backend, or of a service over it."""

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

    def drive(self, work: Awaitable[T]) -> T:
        """Without a loop: it must not suspend."""
        assert isinstance(work, Coroutine)
        try:
            work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        work.close()
        raise AssertionError("a turn over queues in memory suspended")

    def states(self) -> Mapping[str, QueueState]:
        return self._backend.states()

    def close(self) -> None:
        """Nothing is left."""


class Person:
    """A client of the service without a connection: where its request is, while it waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.row: Row | None = None


P = TypeVar("P", Person, "_Talker")


class OverService(Generic[P]):
    """What the service and the connection adapters share: clients by name, turns until nothing is left to do."""

    can_block = True
    durable: Durable | None = None
    pipelining: Pipelining | None = None

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
        self.deployment.drive(self.backend.close())
        self.deployment.close()

    def settle(self) -> None:
        """Turns, for as long as something arrived or is due."""
        for _ in range(_TURNS_MAX):
            if not self.has_work() and not self.is_late():
                return
            self.begin()
            self.heard(self.deployment.drive(self.service.turn()))
        raise AssertionError("due work is not done: turn after turn, the service says that there is some")

    def has_work(self) -> bool:
        return self.service.has_work

    def begin(self) -> None:
        """A turn is about to."""

    def is_late(self) -> bool:
        wake_ms = self.service.next_wake_ms()
        return wake_ms is not None and wake_ms <= self.clock.ms

    def heard(self, turn: Turn) -> None:
        raise NotImplementedError


class ServiceSystem(OverService[Person]):
    """Words to an intent, the intent through the service, its outcome to a reply."""

    takes_megabytes = True

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        self.clock.ms = now_ms
        person = self.clients.setdefault(client, Person(client))
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

    def heard(self, turn: Turn) -> None:
        for request in turn.answered:
            person = request.client
            assert isinstance(person, Person)
            assert person.row is not None
            assert request.outcome is not None
            self.answers.append((person.name, _reply_of(person.row, request.intent, request.outcome)))


def _reply_of(row: Row, intent: Intent, outcome: Outcome) -> Plain:
    return plain_value(row.reply(outcome.answer, intent)) if isinstance(outcome, Done) else Refusal(outcome.code)


# (c) Bytes through a connection


class _Talker:
    """The client's end of a connection without a socket: what it said last, and what it has read so far."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.decoder = Decoder()
        self.argv: Sequence[bytes] = ()


class ConnectionSystem(OverService[_Talker]):
    """The sans-I/O connection over the service. Here stands what `tcp.Link` does, with bytes cut anywhere."""

    takes_megabytes = False

    def __init__(self, protocol: int, deployment: Callable[[], Deployment] = InMemory) -> None:
        super().__init__(deployment)
        self.pipelining = self
        self._protocol = protocol
        self._greetings = Greetings(self.backend, self.clock)
        plain = self.backend.plain()
        self._lane = None if plain is None else Lane(plain, self.service, self.clock)
        self._chance = random.Random(0)

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        talker = self._talker(client)
        self.clock.ms = now_ms
        reply = self._say(talker, argv)
        return BLOCKED if reply is None else in_resp3_shape(argv, reply[0])

    def execute_all(self, client: str, argvs: Sequence[Sequence[bytes]], now_ms: int) -> list[Plain]:
        talker = self._talker(client)
        self.clock.ms = now_ms
        assert not talker.argv, "a client that waits was made to speak"
        self._hear(talker, b"".join(map(encode_command, argvs)))
        self.settle()
        self._read(talker)
        replies: list[Plain] = []
        for argv in argvs:
            reply = talker.decoder.next()
            assert reply is not None, f"no reply to {argv}"
            replies.append(in_resp3_shape(argv, reply[0]))
        return replies

    def _talker(self, client: str) -> _Talker:
        if client not in self.clients:
            session = Session(len(self.clients) + 1, f"peer of {client}")
            talker = self.clients[client] = _Talker(Connection(session, self._greetings, self._lane))
            hello = self._say(talker, [b"HELLO", b"%d" % self._protocol, b"SETNAME", client.encode()])
            assert hello is not None, "HELLO has no reply"
        return self.clients[client]

    def disconnect(self, client: str, now_ms: int) -> None:
        self.clock.ms = now_ms
        if talker := self.clients.pop(client, None):
            talker.connection.closed = True
            self.service.disconnected(talker.connection)
        self.settle()

    def has_work(self) -> bool:
        return self.service.has_work or bool(self._lane and self._lane.commands)

    def begin(self) -> None:
        if self._lane is not None:
            self._lane.turn_begins()

    def heard(self, turn: Turn) -> None:
        if self._lane is not None:
            self._lane.turn_over(turn.refused)
        for name, talker in self.clients.items():
            self._read(talker)
            if talker.argv and (reply := talker.decoder.next()):
                self.answers.append((name, in_resp3_shape(talker.argv, reply[0])))
                talker.argv = ()

    def _say(self, talker: _Talker, argv: Sequence[bytes]) -> tuple[Plain] | None:
        assert not talker.argv, "a client that waits was made to speak"
        self._hear(talker, encode_command(argv))
        if not self.has_work():
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

    def _hear(self, talker: _Talker, data: bytes) -> None:
        for part in cut(data, self._chance):
            self.service.submit_all(talker.connection.receive(part))

    def _read(self, talker: _Talker) -> None:
        for part in cut(talker.connection.take_output(), self._chance):
            talker.decoder.feed(part)
        talker.connection.sent()
        assert not talker.connection.proceed(), "something was held back that nobody sent"
