"""Many queues over one backend: turns, blocked fetches, bound leases, and when time is next needed.

Lives here: everything about *who waits* and *in which order*, none of which survives the process. Must not: rules of
a queue (core), bytes (wire), sockets or an event loop (server). Nothing here calls back up: the server hands in
requests, runs `turn`, and is given the answers, so a test does the same with a clock of its own.

A turn executes everything that arrived since the last one, lets waiters have what became ready, does due work, and
commits once. Answers come out only after the commit (I13), in the order in which they were decided.
"""

from collections.abc import Iterable, Sequence
from typing import Final, final

from moxy.backends.base import Backend, Clock, CommitRefused, Done, Outcome, Slow
from moxy.core.answers import AckResult, Answer, Delivery, Past, deliveries_of
from moxy.core.commands import (
    UNSET,
    Ack,
    AckMany,
    AnyCommand,
    Bulk,
    Fetch,
    FetchAny,
    ListQueues,
    ReadEvents,
    ReadHistory,
    Release,
    Tick,
    single,
)
from moxy.core.errors import BACKEND, IOERR, Refused
from moxy.core.events import Acked, AnyEvent, Expired, Failed, ReleaseCause, Released
from moxy.core.ids import split_lease_id
from moxy.core.notes import Written
from moxy.core.policy import COUNT_MAX
from moxy.core.readiness import makes_ready
from moxy.requests import Client, Request, Turn
from moxy.waiting import Lines, Waiters

_QUIET_MS: Final = 100
"""How long due work and releases rest after a turn that the log refused."""

# In the way of every command a tuple of classes: isinstance takes several times as long over a union.
_FETCHES: Final = (Fetch, FetchAny)
_END_LEASES: Final = (Acked, Expired, Failed, Released)


@final
class Service:
    """The queues as the server sees them. One turn at a time."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend: Final = backend
        self._clock: Final = clock
        self._inbox: list[Request] = []
        self._answered: list[Request] = []
        self._settled: Sequence[Written] = ()
        self._events: list[AnyEvent] = []
        self._waiters: Final = Waiters()
        self._waiting: Final[Lines] = self._waiters.fetching
        self._reading: Final[Lines] = self._waiters.reading
        self._newcomers: list[int] = []
        """Who began to wait in this turn."""
        self._woken: dict[str, None] = {}
        self._retries: list[Request] = []
        self._quiet_until_ms = 0
        self.is_committing = False
        """Whether the turn under way waits for its commit: everything in it is decided."""
        self._slow: list[tuple[Request, Slow]] = []
        # Bound leases, both ways.
        self._bound: dict[str, Client] = {}
        self._holds: dict[Client, dict[str, None]] = {}

    @property
    def has_work(self) -> bool:
        """Whether there is something to do in a turn at once: something arrived, or a long read goes on."""
        return bool(self._inbox or self._slow)

    @property
    def blocked(self) -> int:
        """How many clients are waiting."""
        return len(self._waiters)

    def awaits(self, queue: str) -> bool:
        """Whether a fetch waits for a task of that queue."""
        return queue in self._waiting

    def is_waiting(self, client: Client) -> bool:
        """Whether a fetch, or a read of events, of this client found nothing and waits."""
        return self._waiters.arrival_of(client) is not None

    def submit(self, request: Request) -> None:
        """Take a request into the next turn."""
        self._inbox.append(request)

    def submit_all(self, requests: Sequence[Request]) -> None:
        """Take requests into the next turn, in their order."""
        self._inbox += requests

    def disconnected(self, client: Client) -> None:
        """A client is gone (`client.closed` is set): drop its waiter, and release its bound leases in the next turn."""
        arrival = self._waiters.arrival_of(client)
        if arrival is not None:
            self._waiters.dismiss(arrival)
        self._release(self._holds.pop(client, ()), "disconnect")

    def orphaned(self, lease_ids: Iterable[str]) -> None:
        """Bound leases of connections of a server that is no more: release them, charged, in the next turn."""
        self._release(lease_ids, "disconnect")

    def undelivered(self, lease_ids: Iterable[str]) -> None:
        """The replies that carried these leases were never written: release them, uncharged, in the next turn."""
        self._release(lease_ids, "undelivered")

    def next_wake_ms(self) -> int | None:
        """When the next turn is due although nothing may have arrived; None: not before something arrives."""
        due_ms = self._backend.next_due_ms()
        wake_ms = None if due_ms is None else max(due_ms, self._quiet_until_ms)
        if self._retries and (wake_ms is None or wake_ms > self._quiet_until_ms):
            wake_ms = self._quiet_until_ms
        timeout_ms = self._waiters.next_timeout_ms()
        if timeout_ms is not None and (wake_ms is None or wake_ms > timeout_ms):
            wake_ms = timeout_ms
        return wake_ms

    def turn_at_once(self) -> Turn | None:
        """The turn, if it has nothing to do but to commit what plain commands did, and that takes no waiting. None: it
        takes `turn`, and nothing has happened.

        Most turns of a busy server are so, and to a single client a coroutine would be a third of the turn.
        """
        if self._inbox or self._waiters or self._slow or self._retries or self._woken or self._is_due():
            return None
        backend = self._backend
        self._answered, self._events, self._newcomers = [], [], []
        try:
            if not backend.commit_at_once():
                return None
            self._settled = backend.settled()
        except CommitRefused as refusal:
            backend.settled()  # none of it happened
            refused = Refused(IOERR, str(refusal))
            self._refuse((), refused)
            return Turn(self._answered, (), self._events, refused)
        return Turn(self._answered, self._settled, self._events)

    async def turn(self) -> Turn:
        """Work off what arrived and what is due, commit, and give the answers.

        Requests come before due work, so an ACK that is late but here wins over the expiry of its lease.
        """
        brief = self.turn_at_once()
        if brief is not None:
            return brief
        batch, self._inbox = self._inbox, []
        self._answered, self._events, self._newcomers = [], [], []
        self._settled = self._backend.settled()
        if self._retries and self._clock.now_ms() >= self._quiet_until_ms:
            batch, self._retries = [*self._retries, *batch], []
        # A coroutine is only made where there is work for it.
        news = self._hear_news()
        if self._woken:
            await self._serve_woken()
        if batch:
            await self._work_off(batch)
        if self._slow:
            await self._read_on()
        if self._is_due():
            self._hear(await self._backend.expire())
            await self._serve_woken()
        self._time_out()
        refused: Refused | None = None
        try:
            if not self._backend.commit_at_once():
                self.is_committing = True
                await self._backend.commit()
        except CommitRefused as refusal:
            refused = Refused(IOERR, str(refusal))
            self._refuse(batch, refused)
        self.is_committing = False
        if self._reading:
            await self._feed(news)
        self._hand_over(self._answered)
        self._let_go(self._events)
        self._backend.watch(self._waiting, self._reading)
        return Turn(self._answered, self._settled, self._events, refused)

    # The turn, in order

    async def _work_off(self, batch: Sequence[Request]) -> None:
        """Execute in order of arrival, as many at a time as can go together.

        A run ends where somebody waits for the queue, so that a waiter has what became ready before the next
        request can take it.
        """
        run: list[Request] = []
        commands: list[AnyCommand] = []
        may_wait: set[str] = set()
        for request in batch:
            intent = request.intent
            command = single(intent) if type(intent) is FetchAny else intent
            if isinstance(command, Bulk):
                await self._execute(run, commands)
                run, commands = [], []
                await self._execute_bulk(request, command)
                continue
            queue = command.queue
            if isinstance(command, Fetch):
                if request.client is not None and request.client.closed:
                    continue
                if queue in self._waiting or queue in may_wait:
                    await self._execute(run, commands)
                    run, commands, may_wait = [], [], set()
                    await self._let_waiters_first((queue,))
                if isinstance(intent, FetchAny) and intent.block_ms != UNSET:
                    may_wait.add(queue)
            run.append(request)
            commands.append(command)
            if self._waiting and queue in self._waiting:
                await self._execute(run, commands)
                run, commands = [], []
        await self._execute(run, commands)

    async def _execute(self, run: list[Request], commands: list[AnyCommand]) -> None:
        """Have the backend carry out the commands, which are those of the requests."""
        if not run:
            return
        answered, events = self._answered, self._events
        outcomes = await self._backend.execute(commands)
        for request, outcome in zip(run, outcomes, strict=True):
            if type(request.intent) is FetchAny:
                self._answer_fetch(request, request.intent, outcome)
            elif request.client is None:
                self._answer(request, outcome)
            else:
                request.outcome = outcome
                answered.append(request)
            if isinstance(outcome, Done) and outcome.events:
                events += outcome.events
                if self._waiting:
                    self._wake(outcome.events)
        if self._woken:
            await self._serve_woken()

    async def _execute_bulk(self, request: Request, intent: Bulk) -> None:
        if isinstance(intent, FetchAny):
            if request.client is not None and request.client.closed:
                return
            await self._let_waiters_first(intent.queues)
            deliveries = await self._fetch(intent)
            self._answer_fetch(request, intent, deliveries if isinstance(deliveries, Refused) else Done(deliveries))
        elif isinstance(intent, AckMany):
            self._answer(request, Done(await self._ack_each(intent)))
        elif isinstance(intent, ReadHistory):
            self._take_read(request, await self._backend.history(intent))
        elif isinstance(intent, ReadEvents):
            self._take_read(request, await self._backend.events(intent))
        else:
            assert isinstance(intent, ListQueues), intent
            names = await self._backend.names(intent)
            self._answer(request, names if isinstance(names, Refused) else Done(names))
        await self._serve_woken()

    def _answer_fetch(self, request: Request, fetch: FetchAny, outcome: Outcome) -> None:
        """With what was found, or with nothing; or let it wait."""
        if isinstance(outcome, Refused) or outcome.answer:
            self._answer(request, outcome)
        elif fetch.block_ms == UNSET:
            self._answer(request, Done(None))
        else:
            self._wait(request, fetch)

    async def _fetch(self, fetch: FetchAny) -> list[Delivery] | Refused:
        """Fill the count over the queues, in their order."""
        deliveries: list[Delivery] = []
        for queue in fetch.queues:
            count = fetch.count - len(deliveries)
            if not count:
                break
            (outcome,) = await self._backend.execute([Fetch(queue, fetch.lease_ms, count, fetch.worker, fetch.bound)])
            if isinstance(outcome, Refused):
                if deliveries:
                    break
                return outcome
            self._hear(outcome.events)
            deliveries.extend(deliveries_of(outcome.answer))
        return deliveries

    async def _ack_each(self, many: AckMany) -> Answer:
        """Each on its own, but all in one go of the backend."""
        outcomes = iter(await self._backend.execute([ack for ack in many.acks if isinstance(ack, Ack)]))
        results: list[AckResult] = []
        for ack in many.acks:
            outcome = next(outcomes) if isinstance(ack, Ack) else Refused(*ack)
            if isinstance(outcome, Refused):
                results.append(AckResult(outcome.code, outcome.text))
            else:
                self._hear(outcome.events)
                results.append(AckResult())
        return results

    def _take_read(self, request: Request, read: Outcome | Slow) -> None:
        """Answer a read of the log, or wait for the rest of it, or for an event that it can answer with."""
        if not isinstance(read, Done | Refused):
            self._slow.append((request, read))
        elif isinstance(read, Done) and isinstance(request.intent, ReadEvents) and not _has_events(read):
            if request.intent.block_ms == UNSET:
                self._answer(request, read)
            else:
                self._wait(request, request.intent)
        else:
            self._answer(request, read)

    def _hear_news(self) -> list[str]:
        """What others did to the queues of a shared backend: their waiters look again, their readers read on."""
        news = list(self._backend.news())
        for queue in news:
            if queue in self._waiting:
                self._woken[queue] = None
        return news

    async def _read_on(self) -> None:
        """Advance the long reads by a slice each; those of clients that are gone end."""
        going, self._slow = self._slow, []
        for request, slow in going:
            if request.client is None or request.client.closed:
                continue
            outcome = await slow.advance()
            self._take_read(request, slow if outcome is None else outcome)

    def _is_due(self) -> bool:
        """Whether there is due work, and it does not rest."""
        due_ms = self._backend.next_due_ms()
        return due_ms is not None and max(due_ms, self._quiet_until_ms) <= self._clock.now_ms()

    def _time_out(self) -> None:
        """Answer the waiters whose time is up, after everything that could still serve them."""
        if not self._waiters:
            return
        for waiter in self._waiters.dismiss_late(self._clock.now_ms()):
            self._answer(waiter.request, Done(None))

    def _refuse(self, batch: Sequence[Request], why: Refused) -> None:
        """The turn did not happen. Who began to wait in it is answered too, since what made it wait is undone.

        The service's own releases are tried again, as is due work, but not before a moment has passed: a disk that is
        full stays so for longer than a turn.
        """
        for arrival in self._newcomers:
            if arrival in self._waiters:
                self._answer(self._waiters.dismiss(arrival).request, Done(None))
        for request in self._answered:
            request.outcome = why
        self._settled, self._events = (), []
        self._woken.clear()
        self._retries += [request for request in batch if request.client is None]
        self._quiet_until_ms = self._clock.now_ms() + _QUIET_MS

    async def _feed(self, news: list[str]) -> None:
        """After the commit: let the blocked readers of events have what is new. Any of them may go meanwhile."""
        changed = dict.fromkeys([*news, *(some.queue for some in (*self._settled, *self._events))])
        for queue in changed:
            for arrival, waiter in list(self._reading.get(queue, {}).items()):
                assert isinstance(waiter.intent, ReadEvents)
                if arrival not in self._waiters:
                    continue
                read = await self._backend.events(waiter.intent)
                if arrival in self._waiters and not (isinstance(read, Done) and not _has_events(read)):
                    self._waiters.dismiss(arrival)
                    self._take_read(waiter.request, read)

    def _hand_over(self, answered: Sequence[Request]) -> None:
        """After the commit: note who holds bound leases, and take back what nobody is there to receive."""
        for request in answered:
            intent = request.intent
            if not isinstance(intent, _FETCHES):
                continue
            client, outcome = request.client, request.outcome
            if client is None or not isinstance(outcome, Done) or not (intent.bound or client.closed):
                continue
            leases = [delivery.lease_id for delivery in deliveries_of(outcome.answer) if delivery.lease_id]
            if client.closed:
                self.undelivered(leases)
            else:
                for lease_id in leases:
                    self._bound[lease_id] = client
                    self._holds.setdefault(client, {})[lease_id] = None

    def _let_go(self, events: Sequence[AnyEvent]) -> None:
        """After the commit: forget the bound leases that ended. None ended in a batch: those are not for it."""
        if not self._bound:
            return
        for event in events:
            if isinstance(event, _END_LEASES):
                client = self._bound.pop(event.lease_id, None)
                if client is not None and client in self._holds:
                    self._holds[client].pop(event.lease_id, None)

    # Waiting

    def _wait(self, request: Request, intent: FetchAny | ReadEvents) -> None:
        assert request.client is not None, "only clients wait"
        if request.client.closed:
            return
        self._newcomers.append(self._waiters.admit(request.client, request, intent, self._clock.now_ms()))

    async def _serve_woken(self) -> None:
        """Let the waiters of the woken queues fetch, first come first served, until nobody finds anything.

        Due work of a waiter's queues is done before it fetches: it may make something ready that somebody who came
        earlier waits for, and then that one is next.
        """
        while (first := self._first_in_line()) is not None:
            queue, arrival = first
            waiter = self._waiters[arrival]
            client = waiter.request.client
            if client is not None and client.closed:
                self._waiters.dismiss(arrival)
                continue
            assert isinstance(waiter.intent, FetchAny)
            await self._do_due_work(waiter.intent.queues)
            if self._first_in_line() != first:
                continue
            deliveries = await self._fetch(waiter.intent)
            if not deliveries:
                self._woken.pop(queue, None)
                continue
            if arrival in self._waiters:  # else its client went, and the leases go back at the end of the turn
                self._waiters.dismiss(arrival)
            self._answer(waiter.request, deliveries if isinstance(deliveries, Refused) else Done(deliveries))

    def _first_in_line(self) -> tuple[str, int] | None:
        """The woken queue whose first waiter came before those of the others, and that waiter's arrival."""
        first: tuple[str, int] | None = None
        for queue in list(self._woken):
            line = self._waiting.get(queue)
            if not line:
                del self._woken[queue]
                continue
            arrival = next(iter(line))
            if first is None or arrival < first[1]:
                first = (queue, arrival)
        return first

    async def _let_waiters_first(self, queues: Iterable[str]) -> None:
        """Before a newcomer fetches: whoever waits for one of its queues has what is due there."""
        waited_for = [queue for queue in queues if queue in self._waiting]
        if waited_for:
            await self._do_due_work(waited_for)
            await self._serve_woken()

    async def _do_due_work(self, queues: Iterable[str]) -> None:
        """All of it, slice by slice, for queues where somebody waits, unless the backend cannot be asked."""
        due_ms = self._backend.next_due_ms()
        if due_ms is None or due_ms > self._clock.now_ms():
            return
        for queue in queues:
            done = COUNT_MAX
            while queue in self._waiting and done == COUNT_MAX:
                (outcome,) = await self._backend.execute([Tick(queue)])
                if isinstance(outcome, Refused):
                    return
                assert isinstance(outcome.answer, int)
                done = outcome.answer
                self._hear(outcome.events)

    def _hear(self, events: Sequence[AnyEvent]) -> None:
        """Take note of what happened: for the turn, and for the waiters of queues where something became ready."""
        self._events.extend(events)
        if self._waiting:
            self._wake(events)

    def _wake(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            if event.queue in self._waiting and makes_ready(event):
                self._woken[event.queue] = None

    # Small change

    def _answer(self, request: Request, outcome: Outcome) -> None:
        request.outcome = outcome
        if request.client is not None:
            self._answered.append(request)
        elif isinstance(outcome, Refused) and outcome.code == BACKEND:
            self._retries.append(request)  # a release that found nobody to tell; giving back twice does no harm
            self._quiet_until_ms = self._clock.now_ms() + _QUIET_MS

    def _release(self, lease_ids: Iterable[str], cause: ReleaseCause) -> None:
        for lease_id in lease_ids:
            self._bound.pop(lease_id, None)
            queue, number, token = split_lease_id(lease_id)
            self.submit(Request(None, Release(queue, lease_id, number, token, cause)))


def _has_events(outcome: Done) -> bool:
    return isinstance(outcome.answer, Past) and bool(outcome.answer.events)
