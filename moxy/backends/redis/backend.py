"""The backend over Redis: what a turn asks of the queues, as one round trip.

Lives here: calls out, replies in, what this server has seen of each queue, and a new epoch when Redis turns out to
have lost something. Must not: rules of a queue (the scripts), other servers and waiting (`fellows`), connections
(`link`).

A reply promises what the Redis in question promises: `commit` has nothing to add. What its settings can lose is said
at start, and by `describe`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, final

from msgspec.structs import asdict

from moxy.backends.base import Clock, Done, IdSource, Outcome, Slow
from moxy.backends.due import DueTimes
from moxy.backends.redis.calls import CREATING, VERBS, Asker, info
from moxy.backends.redis.errors import BackendDown
from moxy.backends.redis.fellows import Fellows, Taken
from moxy.backends.redis.link import Call, Link
from moxy.backends.redis.node import Word
from moxy.backends.redis.records import event_of
from moxy.backends.redis.scripts import SCRIPTS, keys_of
from moxy.backends.redis.stream import Stream
from moxy.core.answers import Answer, Names
from moxy.core.commands import AnyCommand, Info, ListQueues, ReadEvents, ReadHistory, ReadPolicy, Show, Stats, Tick
from moxy.core.errors import BACKEND, Refused
from moxy.core.events import AnyEvent
from moxy.core.globs import matches
from moxy.core.policy import Policy

RETAIN_EVENTS: Final = 100_000
_TICKS_PER_TURN: Final = 200
_PAUSE_MS: Final = 100
"""How long a queue's due work rests when Redis could not be asked to do it."""
_REFUSED, _LOST = 0, 2


@final
class Seen:
    """The newest that this server saw of a queue: what Redis must not fall behind."""

    __slots__ = ("epoch", "seq", "token")

    def __init__(self) -> None:
        self.epoch = 0
        self.seq = 0
        self.token = 0


@final
class RedisBackend:
    """Queues in Redis. `inject_clock`: the scripts take `clock`'s time instead of Redis's own; for tests alone."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        ids: IdSource,
        server_id: str,
        policy: Policy | None = None,
        prefix: str = "moxy",
        retain_events: int = RETAIN_EVENTS,
        say: Callable[..., None] = lambda event, **fields: None,
        facts: Mapping[str, str | int] | None = None,
        inject_clock: bool = False,
    ) -> None:
        self._link: Final = link
        self._clock: Final = clock
        self._ids: Final = ids
        self._asker: Final = Asker(server_id, policy or Policy())
        self._prefix: Final = prefix
        self._retain: Final = retain_events
        self._say: Final = say
        self._facts: Final = dict(facts or {})
        self._inject_clock: Final = inject_clock
        usual = self._asker.policy == Policy()
        self._born: Final = "" if usual else _as_json(self._asker.policy)
        self._keys: Final[dict[str, list[str]]] = {}
        self._seen: Final[dict[str, Seen]] = {}
        self._registered: Final[set[str]] = set()
        self._due: Final = DueTimes()
        self.rollbacks = 0
        """How often Redis was found to have lost events of a queue."""
        self.fellows: Final = Fellows(self, link, clock, server_id, prefix, say)
        self._stream: Final = Stream(link, prefix, self._knows)
        self._aside: list[AnyEvent] = []

    # Turns

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(commands)
        calls: list[Call] = []
        places: list[int] = []
        for at, command in enumerate(commands):
            try:
                calls.append(self.call(command))
                places.append(at)
            except Refused as refused:
                outcomes[at] = refused
        refusal = await self._register(commands)
        replies = [refusal] * len(calls) if refusal else await self.run_calls(calls)
        for at, reply in zip(places, replies, strict=True):
            outcomes[at] = self._outcome(commands[at], reply)
        return [outcome for outcome in outcomes if outcome is not None]

    async def expire(self) -> list[AnyEvent]:
        events, self._aside = self._aside, []
        events += await self.fellows.release_orphans()
        queues = self._due.take(self._clock.now_ms(), _TICKS_PER_TURN)
        if queues:
            for queue, outcome in zip(queues, await self.execute([Tick(queue) for queue in queues]), strict=True):
                if isinstance(outcome, Done):
                    events.extend(outcome.events)
                else:
                    self._due.set(queue, self._clock.now_ms() + _PAUSE_MS)
        return events

    def next_due_ms(self) -> int | None:
        return 0 if self.fellows.has_orphans or self._aside else self._due.first_ms()

    def look_at(self, queue: str, in_ms: int) -> None:
        """Somebody said that the queue needs time so soon: ask it no later."""
        self._due.no_later(queue, self._clock.now_ms() + in_ms)

    async def commit(self) -> None:
        """What a script did is done: how well Redis keeps it is Redis's affair."""

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        self.fellows.watch(waiting, reading)

    def news(self) -> Iterable[str]:
        return self.fellows.news()

    async def run(self, wake: Callable[[], None]) -> None:
        await self.fellows.run(wake)

    async def close(self) -> None:
        await self.fellows.leave()
        await self._link.close()

    def describe(self) -> dict[str, str | int]:
        return {
            "backend": "redis",
            "redis_prefix": self._prefix,
            "redis_retain_events": self._retain,
            "redis_server_id": self._asker.server_id,
            "redis_servers": self.fellows.alive,
            "redis_rollbacks": self.rollbacks,
            "redis_reconnects": self._link.reconnects,
            "queues": len(self._seen),
            **self._facts,
        }

    # Reading

    async def names(self, query: ListQueues) -> Names:
        start = f"({query.cursor}" if query.cursor else "-"
        page = query.count + 1
        reply = await self._link.command("ZRANGEBYLEX", f"{self._prefix}:queues", start, "+", "LIMIT", 0, page)
        assert isinstance(reply, list), reply
        names = [name.decode() for name in reply[: query.count]]
        # A name is registered before its queue's first event, which may then have been refused.
        known = await self.run_calls([self.call(Stats(name)) for name in names])
        exist = [name for name, seen in zip(names, known, strict=True) if isinstance(seen, list) and int(seen[4])]
        cursor = names[-1] if len(reply) > query.count else ""
        return Names(cursor, [name for name in exist if matches(query.pattern, name)])

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        return await self._stream.events(query)

    async def history(self, query: ReadHistory) -> Outcome | Slow:
        return await self._stream.history(query)

    async def _knows(self, queue: str, task_id: str) -> bool:
        (outcome,) = await self.execute([Show(queue, task_id)])
        return isinstance(outcome, Done) and outcome.answer is not None

    # Calls

    def call(self, command: AnyCommand) -> Call:
        """A command as a call. Raises Refused for what need not be asked."""
        verb = VERBS[type(command)]
        arguments = verb.arguments(command, self._ids.seed(), self._asker)
        return self.script_call(verb.script, command.queue, arguments, verb.again(command))

    def script_call(self, script: str, queue: str, arguments: Sequence[Word], again: bool) -> Call:
        """A call of any script on a queue."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = keys_of(self._prefix, queue)
        return Call(SCRIPTS[script], queue, keys, [*self._head(queue), *arguments], again)

    def _head(self, queue: str) -> list[Word]:
        now: Word = self._clock.now_ms() if self._inject_clock else ""
        head: list[Word] = [queue, self._prefix, now, self._retain, self._born]
        seen = self._seen.get(queue)
        return head + ([0, 0, 0] if seen is None else [seen.epoch, seen.seq, seen.token])

    async def run_calls(self, calls: Sequence[Call]) -> list[object]:
        """Replies in order: what a script answered, or a Refused. A queue that Redis has lost something of gets its
        new epoch first, and the call then runs in that."""
        replies: list[object] = list(await self._link.run(calls))
        lost = [at for at, reply in enumerate(replies) if isinstance(reply, list) and reply[0] == _LOST]
        if not lost:
            return replies
        for queue in dict.fromkeys(calls[at].queue for at in lost):
            await self.begin_epoch(queue)
        again = [self._with_new_head(calls[at]) for at in lost]
        for at, reply in zip(lost, await self._link.run(again), strict=True):
            still_lost = isinstance(reply, list) and reply[0] == _LOST
            replies[at] = Refused(BACKEND, "Redis keeps losing events: nothing happened") if still_lost else reply
        return replies

    def _with_new_head(self, call: Call) -> Call:
        head = self._head(call.queue)
        return Call(call.script, call.queue, call.keys, [*head, *call.args[len(head) :]], call.idempotent)

    async def begin_epoch(self, queue: str) -> None:
        """If Redis knows less of the queue than was seen, go on in a new epoch, in which old leases are void."""
        seen = self._seen.get(queue)
        if seen is None:
            return
        was = (seen.epoch, seen.seq, seen.token)
        more = True
        while more:
            call = self.script_call("rollback", queue, was, True)
            call.args[5:8] = [0, 0, 0]  # the one script that must run although something is lost
            (reply,) = await self._link.run([call])
            if not isinstance(reply, list) or reply[0] == _REFUSED:
                return
            self._aside += _events(queue, reply)
            epoch, seq, token = int(reply[3]), int(reply[4]), int(reply[5])
            if epoch > was[0]:
                if (seen.epoch, seen.seq) == was[:2]:
                    self.rollbacks += 1
                    self._registered.discard(queue)
                    self._say(
                        "redis.rollback", queue=queue, epoch=epoch, seq_seen=was[1], seq_found=seq, token_seen=was[2]
                    )
                seen.epoch, seen.seq = epoch, seq
                seen.token = max(seen.token, token)
            more = int(reply[1]) == 1

    async def begin_epochs(self) -> None:
        """After a reconnect: look at every queue that was seen."""
        for queue in list(self._seen):
            await self.begin_epoch(queue)

    @property
    def seen_queues(self) -> list[str]:
        """The queues that this server has had to do with."""
        return list(self._seen)

    def seq_of(self, queue: str) -> int:
        """The newest sequence number seen of a queue; 0 when none was."""
        seen = self._seen.get(queue)
        return 0 if seen is None else seen.seq

    def take(self, queue: str, reply: object) -> Taken | None:
        """What a reply to a script that is no command comes to; None when it was refused."""
        if isinstance(reply, Refused):
            return None
        assert isinstance(reply, list), reply
        if reply[0] == _REFUSED:
            return None
        self._note(queue, int(reply[3]), int(reply[4]), int(reply[5]))
        self._note_due(queue, int(reply[6]), int(reply[7]))
        return Taken(int(reply[1]) if isinstance(reply[1], bytes) else 0, _events(queue, reply))

    def _outcome(self, command: AnyCommand, reply: object) -> Outcome:
        if isinstance(reply, Refused):
            return reply
        assert isinstance(reply, list), reply
        if reply[0] == _REFUSED:
            return Refused(reply[1].decode(), reply[2].decode())
        queue, seq, token, clock_ms = command.queue, int(reply[4]), int(reply[5]), int(reply[6])
        self._note(queue, int(reply[3]), seq, token)
        self._note_due(queue, clock_ms, int(reply[7]))
        return Done(self._answer(command, reply[1], seq, token, clock_ms), _events(queue, reply))

    def _answer(self, command: AnyCommand, value: object, seq: int, token: int, clock_ms: int) -> Answer:
        if isinstance(command, Info):
            assert isinstance(value, list)
            fields = info(command.queue, value, seq, token, clock_ms)
            if not seq:
                fields.update({f"policy_{name}": n for name, n in asdict(self._asker.policy).items()})
            return fields
        if isinstance(command, ReadPolicy) and not seq:
            return dict(asdict(self._asker.policy))
        return VERBS[type(command)].shape(command, value, self._asker)

    def _note(self, queue: str, epoch: int, seq: int, token: int) -> None:
        seen = self._seen.get(queue)
        if seen is None:
            if not seq:
                return
            seen = self._seen[queue] = Seen()
        if (epoch, seq) > (seen.epoch, seen.seq):
            seen.epoch, seen.seq = epoch, seq
        seen.token = max(seen.token, token)

    def _note_due(self, queue: str, clock_ms: int, told_ms: int) -> None:
        """`told_ms` is by Redis's clock: what it is from now there, it is from now here."""
        if not told_ms:
            self._due.set(queue, None)
        elif self._inject_clock:
            self._due.set(queue, told_ms)
        else:
            self._due.set(queue, self._clock.now_ms() + told_ms - clock_ms)

    async def _register(self, commands: Sequence[AnyCommand]) -> Refused | None:
        """Before a queue's first event: every server shall find it. Redis's own scripts cannot do that in a Cluster."""
        new = {c.queue for c in commands if type(c) in CREATING and c.queue not in self._registered}
        if not new:
            return None
        members = [word for queue in sorted(new) for word in (0, queue)]
        try:
            await self._link.command("ZADD", f"{self._prefix}:queues", *members)
        except BackendDown as down:
            return down.refused()
        self._registered.update(new)
        return None


def _events(queue: str, reply: Sequence[Any]) -> tuple[AnyEvent, ...]:
    """The events of a reply; the last of them has the sequence number that the reply names."""
    fields = reply[2]
    if not fields:
        return ()
    first_seq = int(reply[4]) - len(fields) + 1
    return tuple([event_of(queue, first_seq + at, pairs) for at, pairs in enumerate(fields)])


def _as_json(policy: Policy) -> str:
    return "[" + ",".join(str(value) for value in asdict(policy).values()) + "]"
