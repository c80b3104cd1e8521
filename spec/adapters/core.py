"""The core as a system: `decide` folded over a dict of states, with no service around it.

What lives here: `CoreSystem`, which also checks every invariant of every step. What must not live here: a second idea
of a rule.
"""

import re
from collections.abc import Sequence
from itertools import takewhile

from moxy.core import invariants
from moxy.core.answers import AckResult, Answer, Delivery, Names, Past
from moxy.core.commands import (
    Ack,
    AckMany,
    AnyCommand,
    Fetch,
    FetchAny,
    Intent,
    ListQueues,
    ReadEvents,
    ReadHistory,
    Release,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import NOTASK, Refused
from moxy.core.events import AnyEvent, Leased, ReleaseCause, TaskEvent
from moxy.core.ids import split_lease_id
from moxy.core.reducer import replay
from moxy.core.state import QueueState
from moxy.wire.table import find
from spec import system
from spec.adapters.values import canonical, plain_value
from spec.model import Refusal
from spec.system import Durable, Pipelining, Plain


class CoreSystem:
    """`decide`, folded over a dict. Nobody can wait here: there is nobody to wait with."""

    can_block = False
    takes_megabytes = True
    durable: Durable | None = None
    pipelining: Pipelining | None = None

    def __init__(self) -> None:
        self.states: dict[str, QueueState] = {}
        self._bound: list[tuple[str, str]] = []
        self._events: dict[str, list[AnyEvent]] = {}

    def execute(self, client: str, argv: Sequence[bytes], now_ms: int) -> Plain:
        try:
            row = find(argv)
            assert row.parse is not None
            intent = row.parse(argv, client)
            reply = plain_value(row.reply(self._carry_out(intent, client, now_ms), intent))
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
        elif isinstance(intent, ReadEvents):
            return Past(self._events.get(intent.queue, [])[intent.from_seq - 1 :][: intent.count], 1)
        elif isinstance(intent, ReadHistory):
            return self._history(intent)
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
            self._events.setdefault(command.queue, []).extend(decision.events)
        return decision.answer

    def _history(self, query: ReadHistory) -> Past:
        """Here nobody keeps a log beside the core, so this is the adapter's own."""
        events = [event for event in self._events.get(query.queue, []) if isinstance(event, TaskEvent)]
        numbers = [event.number for event in events if event.task_id == query.task_id]
        if not numbers:
            raise Refused(NOTASK, "no event concerns it")
        return Past([event for event in events if event.number == numbers[-1]], 1)

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
