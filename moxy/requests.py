"""What passes between whoever serves clients and the service.

Lives here: requests, the clients they come from, and what a turn came to. Must not: decide, wait or answer.
"""

from collections.abc import Sequence
from typing import Final, Protocol, final

from moxy.backends.base import Outcome
from moxy.core.commands import Intent
from moxy.core.errors import Refused
from moxy.core.events import AnyEvent
from moxy.core.notes import Written


class Client(Protocol):
    """Whoever sent a request. `closed`: nobody is there to read an answer any more."""

    closed: bool


class Request:
    """One intent of one client, and its outcome once it has one. Without a client it is the service's own.

    A server makes a class of its own of it, so that what it needs to reply is in the same object.
    """

    __slots__ = ("client", "intent", "outcome")

    def __init__(self, client: Client | None, intent: Intent) -> None:
        self.client = client
        self.intent = intent
        self.outcome: Outcome | None = None


@final
class Turn:
    """What a turn came to: the requests that have their outcome now, and what happened, committed; or why the log
    refused it, and nothing of it happened."""

    __slots__ = ("answered", "decided", "refused", "settled")

    def __init__(
        self,
        answered: list[Request],
        settled: Sequence[Written],
        decided: list[AnyEvent],
        refused: Refused | None = None,
    ) -> None:
        self.answered: Final = answered
        self.settled: Final = settled
        """What plain commands did before the turn: Enqueued, Leased and Acked, nothing else."""
        self.decided: Final = decided
        """What happened after that, on the usual way."""
        self.refused: Final = refused

    @property
    def events(self) -> list[AnyEvent]:
        """All events of the turn, in their order. They are made for whoever asks: a busy server has nobody who does."""
        return [*(event for written in self.settled for event in written.events()), *self.decided]
