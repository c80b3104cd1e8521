"""What the tests of the service and the backends share: time and chance that a test owns, and a world to talk to.

Lives here: fakes and a driver. Nothing here starts an event loop: a turn over queues in memory never suspends, so it
is driven by hand, and one that does suspend is a failure.
"""

import copy
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Self, TypeVar

from moxy.backends.base import CommitRefused, Done, Outcome, Slow
from moxy.backends.memory import MemoryBackend
from moxy.core.answers import Delivery, Names
from moxy.core.commands import UNSET, Ack, AckMany, AnyCommand, Fetch, FetchAny, Intent, ListQueues, Nack, ReadEvents
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent
from moxy.core.ids import split_lease_id
from moxy.core.policy import Policy
from moxy.requests import Request, Turn
from moxy.service import Service
from tests.forms import parts

T0 = 1_000_000
FOR_EVER = 0
NONCE = "0" * 16

T = TypeVar("T")


class FakeClock:
    """Time as the test says."""

    def __init__(self, ms: int = T0) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


class ZeroIds:
    """No chance at all: ids are predictable."""

    def seed(self) -> int:
        return 0

    def digits(self, count: int) -> bytes:
        return b"0" * count


class CountingIds:
    """Ids that differ from each other, the same in every run."""

    def __init__(self) -> None:
        self.drawn = 0

    def seed(self) -> int:
        self.drawn += 1
        return self.drawn

    def digits(self, count: int) -> bytes:
        return b"".join(b"%016x" % self.seed() for _ in range(count // 16))


class FakeClient:
    """Somebody who sends requests."""

    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.closed = False

    def __repr__(self) -> str:
        return self.name


class Suspension:
    """Awaited, it suspends its coroutine once."""

    def __await__(self) -> Generator[str, None, None]:
        yield "suspended"


class WatchedBackend:
    """Queues in memory, and a record of what was asked of them in which order.

    `log` gets "execute", "expire", "names" and "commit". `refusing` makes commits fail and puts everything back as it
    was at the commit before. `during_execute` and `during_events` are called in the middle of the next of these, and
    `suspends` makes a commit take a moment, as one on a disk does.
    """

    def __init__(
        self, clock: FakeClock, ids: ZeroIds | CountingIds | None = None, policy: Policy | None = None
    ) -> None:
        self.memory = MemoryBackend(clock, ids or ZeroIds(), policy)
        self.log: list[str] = []
        self.refusing = ""
        self.suspends = False
        self.during_execute: Callable[[], None] | None = None
        self.during_events: Callable[[], None] | None = None
        self._kept = self._parts()

    def _parts(self) -> dict[str, Any]:
        return {name: copy.copy(part) for name, part in parts(self.memory).items() if isinstance(part, dict | list)}

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        self.log.append("execute")
        outcomes = await self.memory.execute(commands)
        hook, self.during_execute = self.during_execute, None
        if hook is not None:
            hook()
        return outcomes

    async def expire(self) -> list[AnyEvent]:
        self.log.append("expire")
        return await self.memory.expire()

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        hook, self.during_events = self.during_events, None
        if hook is not None:
            hook()
        return await self.memory.events(query)

    async def names(self, query: ListQueues) -> Names:
        self.log.append("names")
        return await self.memory.names(query)

    def next_due_ms(self) -> int | None:
        return self.memory.next_due_ms()

    def commit_at_once(self) -> bool:
        if self.suspends:
            return False
        self._commit()
        return True

    async def commit(self) -> None:
        await Suspension()
        self._commit()

    def _commit(self) -> None:
        self.log.append("commit")
        if self.refusing:
            for name, part in self._kept.items():
                setattr(self.memory, name, part)
            self._kept = self._parts()
            raise CommitRefused(self.refusing)
        self.memory.commit_at_once()
        self._kept = self._parts()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)


def drive(work: Awaitable[T]) -> T:
    """The result of something that must not suspend."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("a turn over queues in memory suspended")


class World:
    """A service with a clock, and clients that talk to it."""

    def __init__(self, policy: Policy | None = None, ids: ZeroIds | CountingIds | None = None) -> None:
        self.clock = FakeClock()
        self.backend = WatchedBackend(self.clock, ids, policy)
        self.service = Service(self.backend, self.clock)
        self.events: list[AnyEvent] = []

    def at(self, after_ms: int) -> Self:
        """The time is now so long after the beginning."""
        self.clock.ms = T0 + after_ms
        return self

    def ask(self, client: FakeClient | None, *intents: Intent) -> list[Request]:
        """Submit; nothing is carried out before the next turn. None: somebody new."""
        requests = [Request(FakeClient() if client is None else client, intent) for intent in intents]
        for request in requests:
            self.service.submit(request)
        return requests

    def turn(self) -> Turn:
        turn = drive(self.service.turn())
        self.events += turn.events
        return turn

    def say(self, *intents: Intent, by: FakeClient | None = None) -> Any:
        """Submit and run a turn: the answer of the last intent, or its refusal."""
        requests = self.ask(by, *intents)
        self.turn()
        return answer(requests[-1])

    def wait(self, *queues: str, block_ms: int = FOR_EVER, count: int = 1, name: str = "waiter") -> Request:
        """A client that is blocked on the queues from now on."""
        (request,) = self.ask(FakeClient(name), FetchAny(queues, 10_000, count, block_ms))
        self.turn()
        assert request.outcome is None, f"{name} was to wait, but got {request.outcome}"
        return request

    def leave(self, client: object) -> None:
        """The client's connection closes."""
        assert isinstance(client, FakeClient)
        client.closed = True
        self.service.disconnected(client)

    def wake_after_ms(self) -> int | None:
        """When the service wants its next turn, counted from the beginning."""
        wake_ms = self.service.next_wake_ms()
        return None if wake_ms is None else wake_ms - T0

    def count(self, state: str, queue: str = "jobs") -> int:
        return len(self.backend.memory.state_of(queue).order_of(state))

    def leftovers(self) -> dict[str, int]:
        """Everything that the service still keeps, after a turn in which nothing happened."""
        self.turn()
        kept = {**parts(self.service), **parts(self.service._waiters)}
        return {name: len(part) for name, part in kept.items() if hasattr(part, "__len__") and len(part)}


def answer(request: Request) -> Any:
    outcome = request.outcome
    assert outcome is not None, f"{request.intent} has no answer yet"
    return outcome.answer if isinstance(outcome, Done) else outcome


def is_waiting(request: Request) -> bool:
    return request.outcome is None


def payloads(request: Request) -> list[bytes] | None:
    """What a fetch brought; None when it found nothing."""
    got = answer(request)
    return None if got is None else [task.payload for task in got]


def code(refusal: object) -> str:
    assert isinstance(refusal, Refused), refusal
    return refusal.code


def fetch(*queues: str, lease_ms: int = 10_000, count: int = 1, bound: bool = False) -> FetchAny:
    """A FETCH with options that does not wait."""
    return FetchAny(queues, lease_ms, count, UNSET, bound=bound)


def blocking(*queues: str, block_ms: int = FOR_EVER, count: int = 1, bound: bool = False) -> FetchAny:
    return FetchAny(queues, 10_000, count, block_ms, bound=bound)


def plain_fetch(queue: str = "jobs", lease_ms: int = 10_000) -> Fetch:
    """A FETCH without options."""
    return Fetch(queue, lease_ms)


def ack(lease: Delivery | str | None) -> Ack:
    return Ack(*_parts_of(lease))


def nack(lease: Delivery | str | None, kind: Any = "retry", delay_ms: int = UNSET, reason: str = "") -> Nack:
    return Nack(*_parts_of(lease), kind, delay_ms, reason)


def ack_many(*leases: Delivery | str | tuple[str, str]) -> AckMany:
    return AckMany(tuple(lease if isinstance(lease, tuple) else ack(lease) for lease in leases))


def _parts_of(lease: Delivery | str | None) -> tuple[str, str, int, int]:
    lease_id = lease.lease_id if isinstance(lease, Delivery) else lease
    assert lease_id is not None
    queue, number, token = split_lease_id(lease_id)
    return queue, lease_id, number, token
