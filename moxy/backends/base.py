"""What the service asks of a backend, whatever keeps the queues.

Lives here: the protocol, its values and its errors. Must not: any implementation.

`execute` decides; `commit` makes durable. A turn of the loop executes everything that arrived and commits once, and
no reply leaves before that commit has returned (I13).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeAlias, final

import msgspec

from moxy.core.answers import Answer, Names
from moxy.core.batch import Batch
from moxy.core.commands import AnyCommand, ListQueues, ReadEvents, ReadHistory
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent
from moxy.core.notes import Written


class Clock(Protocol):
    """Whose time it is. Injected, so that tests and simulations own it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970; never decreases."""


class IdSource(Protocol):
    """Where chance comes from."""

    def seed(self) -> int:
        """64 random bits; 0 for ever in tests that want predictable ids."""

    def digits(self, count: int) -> bytes:
        """So many random hexadecimal digits, an even number, for whoever needs many nonces."""


class Done(msgspec.Struct, frozen=True, gc=False):
    """A command that was carried out: what to answer, and the events it made."""

    answer: Answer
    events: tuple[AnyEvent, ...] = ()


Outcome: TypeAlias = Done | Refused


class Slow(Protocol):
    """A read that takes long. The service advances it a slice a turn, so that nobody waits for it but who asked."""

    async def advance(self) -> Outcome | None:
        """Read on a little; the outcome when it is done."""


@final
class CommitRefused(Exception):
    """The log could not take the turn's events. The backend is as it was before them: nothing happened."""


class Plain(Protocol):
    """Where plain commands can be carried out at once, before the turn that commits them."""

    def batch(self, queue: str) -> Batch | None:
        """The queue's batch, which ends with those of all other queues; None: there is no such queue."""

    def digits(self, count: int) -> bytes:
        """As `IdSource` gives them."""


class Backend(Protocol):
    """A keeper of queues. Not re-entrant: one turn at a time."""

    def plain(self) -> Plain | None:
        """For a server that would carry out plain commands while no turn decides; None: they cannot be. Of a backend
        where they can, `commit` is all that ever waits."""

    def settled(self) -> Sequence[Written]:
        """A turn begins: what happened in batches since the last one is part of it. Those are over."""

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        """Carry out commands in order, each seeing what those before it did."""

    async def expire(self) -> list[AnyEvent]:
        """Do due work, a bounded slice per queue, and give its events."""

    async def names(self, query: ListQueues) -> Names | Refused:
        """A page of queue names; refused when it cannot be had at the moment."""

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        """Committed events of one queue, a `Past`; refused when they are no longer kept."""

    async def history(self, query: ReadHistory) -> Outcome | Slow:
        """The committed events of one task, a `Past`; refused with NOTASK when there are none."""

    def next_due_ms(self) -> int | None:
        """When `expire` next has something to do, at the earliest; None: nothing waits for time."""

    def commit_at_once(self) -> bool:
        """What `commit` does, where that takes no waiting. False: it does, and nothing has happened. Raises
        CommitRefused."""

    async def commit(self) -> None:
        """Return when all that was executed is as durable as promised. Raises CommitRefused, before it waits.

        While it waits, plain commands can be carried out already: they are of the next turn.
        """

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        """After each turn: in which queues a fetch waits for a task, and in which a reader waits for an event."""

    def news(self) -> Iterable[str]:
        """Queues where others may have done something that a client here waits for, since last asked."""

    async def run(self, wake: Callable[[], None]) -> None:
        """Work beside turns, for as long as the server runs. `wake` asks for a turn. Raises what must stop it."""

    async def close(self) -> None:
        """Let go of whatever is held."""

    def describe(self) -> dict[str, str | int]:
        """Facts for INFO, section by section name: what this backend is and promises."""
