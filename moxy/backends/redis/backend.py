"""The backend over Redis: what a turn asks of the queues, as one round trip.

Lives here: calls out, replies in, what this server has seen of each queue, and a new epoch when Redis turns out to
have lost something. Must not: rules of a queue (the scripts), other servers and waiting (`fellows`), connections
(`link`).

All commands of a turn on one queue are one run of the script, a batch; the queues of a turn go out together. A reply
promises what the Redis in question promises: `commit` has nothing to add. What its settings can lose is said at start,
and by `describe`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, final

from msgspec import DecodeError
from msgspec.structs import asdict

from moxy.backends.base import Clock, Done, IdSource, Outcome, Slow
from moxy.backends.due import DueTimes
from moxy.backends.redis import RETAIN_EVENTS
from moxy.backends.redis.calls import CREATING, TOTALS, VERBS, Asker, Job, Taken, Verb
from moxy.backends.redis.errors import BackendDown
from moxy.backends.redis.fellows import Fellows
from moxy.backends.redis.link import Call, Link
from moxy.backends.redis.node import Word
from moxy.backends.redis.records import events_of
from moxy.backends.redis.registry import page_of_names
from moxy.backends.redis.scripts import SCRIPT, keys_of
from moxy.backends.redis.stream import Stream
from moxy.core.answers import Answer, Names
from moxy.core.commands import (
    AnyCommand,
    Enqueue,
    EnqueueMany,
    Info,
    ListQueues,
    Peek,
    ReadEvents,
    ReadHistory,
    ReadPolicy,
    Redrive,
    Show,
    Stats,
    Tick,
)
from moxy.core.errors import BACKEND, Refused
from moxy.core.events import AnyEvent
from moxy.core.globs import matches
from moxy.core.invariants import count as count_events
from moxy.core.notes import Written
from moxy.core.policy import Policy

_TICKS_PER_TURN: Final = 200
_WEIGHT_MAX: Final = 500
"""About how many tasks one run of the script touches at most: Redis does nothing else meanwhile."""
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
        self._aside: list[AnyEvent] = []
        self._counted: Final[dict[str, dict[str, int]]] = {}
        """What went through this server since it started, queue by queue, under the names of the totals."""
        self._full: Final[set[str]] = set()
        """Queues that Redis had no memory for a task of: what makes room there next shortens their history."""
        self.rollbacks = 0
        """How often Redis was found to have lost events of a queue."""
        self.fellows: Final = Fellows(self, link, clock, server_id, prefix, say)
        self._stream: Final = Stream(link, prefix, self._knows)

    # Turns

    def plain(self) -> None:
        """Nothing is decided here: every command is Redis' to carry out."""

    def settled(self) -> Sequence[Written]:
        return ()

    async def execute(self, commands: Sequence[AnyCommand]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(commands)
        jobs: list[Job] = []
        places: list[int] = []
        for at, command in enumerate(commands):
            try:
                jobs.append(self._job(command))
                places.append(at)
            except Refused as refused:
                outcomes[at] = refused
        refusal = await self._register(commands)
        results = [refusal] * len(jobs) if refusal else await self.run_jobs(jobs)
        for at, result in zip(places, results, strict=True):
            outcomes[at] = self._outcome(commands[at], result)
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
        times_ms = (0 if self._aside else None, self.fellows.orphans_due_ms, self._due.first_ms())
        return min((ms for ms in times_ms if ms is not None), default=None)

    def look_at(self, queue: str, in_ms: int) -> None:
        """Somebody said that the queue needs time so soon: ask it no later."""
        self._due.no_later(queue, self._clock.now_ms() + in_ms)

    def commit_at_once(self) -> bool:
        """What a script did is done: how well Redis keeps it is Redis's affair."""
        return True

    async def commit(self) -> None:
        """There is nothing to wait for."""

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        self.fellows.watch(waiting, reading)

    def news(self) -> Iterable[str]:
        return self.fellows.news()

    async def run(self, wake: Callable[[], None]) -> None:
        await self.fellows.run(wake)

    async def close(self) -> None:
        await self.fellows.leave()
        await self._link.close()

    @property
    def server_id(self) -> str:
        """Who this server is among those on the same Redis."""
        return self._asker.server_id

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

    async def names(self, query: ListQueues) -> Names | Refused:
        try:
            found = await page_of_names(self._link, self._prefix, query.cursor, query.count + 1)
        except BackendDown as down:
            return down.refused()
        names = found[: query.count]
        # A name is registered before its queue's first event, which may then have been refused.
        looks = zip(names, await self.execute([Stats(name) for name in names]), strict=True)
        exist = [name for name, look in looks if isinstance(look, Refused) or self.seq_of(name)]
        cursor = names[-1] if len(found) > query.count else ""
        return Names(cursor, [name for name in exist if matches(query.pattern, name)])

    async def events(self, query: ReadEvents) -> Outcome | Slow:
        return await self._stream.events(query)

    async def history(self, query: ReadHistory) -> Outcome | Slow:
        return await self._stream.history(query)

    async def _knows(self, queue: str, task_id: str) -> bool | Refused:
        (outcome,) = await self.execute([Show(queue, task_id)])
        return outcome if isinstance(outcome, Refused) else outcome.answer is not None

    # Batches

    def _job(self, command: AnyCommand) -> Job:
        """A command as work for the script. Raises Refused for what need not be asked."""
        verb: Verb = VERBS[type(command)]
        words = verb.arguments(command, self._ids.seed(), self._asker)
        return Job(command.queue, verb.script, words, verb.again(command), _payloads(command), _unnamed(command))

    async def run_jobs(self, jobs: Sequence[Job]) -> list[object]:
        """One round trip. For each job, in order, a Refused or the Taken of what it did."""
        results: list[object] = [None] * len(jobs)
        batches = list(_batches(jobs))
        calls = [self._call([jobs[at] for at in batch]) for batch in batches]
        replies = list(await self._link.run(calls))
        lost = [at for at, reply in enumerate(replies) if isinstance(reply, list) and reply[0] == _LOST]
        if lost:
            for queue in dict.fromkeys(calls[at].queue for at in lost):
                await self._begin_epoch(queue)
            again = [self._call([jobs[at] for at in batches[number]]) for number in lost]
            for number, reply in zip(lost, await self._link.run(again), strict=True):
                replies[number] = reply
        for batch, call, reply in zip(batches, calls, replies, strict=True):
            done = self._results(call.queue, [jobs[at] for at in batch], reply)
            for at, result in zip(batch, done, strict=True):
                results[at] = result
        return results

    def _call(self, jobs: Sequence[Job]) -> Call:
        """A batch for one queue as a call of the script."""
        queue = jobs[0].queue
        words = self._head(queue)
        for job in jobs:
            words += (job.verb, len(job.words))
            words += job.words
        return self._call_of(queue, words, all(job.again for job in jobs))

    def _call_of(self, queue: str, words: list[Word], again: bool) -> Call:
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = keys_of(self._prefix, queue)
        return Call(SCRIPT, queue, keys, words, again)

    def _head(self, queue: str) -> list[Word]:
        now: Word = self._clock.now_ms() if self._inject_clock else ""
        seen = self._seen.get(queue)
        head: list[Word] = [queue, self._prefix, now, self._retain, self._born, 0, 0, 0, int(queue in self._full)]
        if seen is not None:
            head[5:8] = [seen.epoch, seen.seq, seen.token]
        return head

    def _results(self, queue: str, jobs: Sequence[Job], reply: Any) -> list[Taken | Refused]:
        """What a batch's reply comes to, job by job; and note what it says of the queue."""
        if isinstance(reply, Refused):
            return [reply] * len(jobs)
        if reply[0] == _REFUSED:
            return [Refused(reply[1].decode(), reply[2].decode())] * len(jobs)
        if reply[0] == _LOST:
            return [Refused(BACKEND, "Redis keeps losing events: nothing happened, try again")] * len(jobs)
        _, epoch, seq, last_seq, token, clock_ms, told_ms, results = reply
        self._note(queue, epoch, last_seq, token)
        self._note_due(queue, clock_ms, told_ms)
        if last_seq >= seq:
            self._full.discard(queue)
        taken: list[Taken | Refused] = []
        counted = self._counted.get(queue)
        if counted is None:
            counted = self._counted[queue] = dict.fromkeys(TOTALS, 0)
        for job, result in zip(jobs, results, strict=True):
            if result[0] == _REFUSED:
                taken.append(Refused(result[1].decode(), result[2].decode()))
                if result[1] == b"BACKEND":
                    self._full.add(queue)
            else:
                try:
                    events = events_of(result[2], job.payloads)
                except (DecodeError, ValueError):  # somebody wrote into a record, and the script told what is there
                    taken.append(_not_ours(queue))
                    continue
                count_events(counted, events)
                taken.append(Taken(result[1], events, clock_ms))
        return taken

    def _outcome(self, command: AnyCommand, result: object) -> Outcome:
        if isinstance(result, Refused):
            return result
        assert isinstance(result, Taken), result
        try:
            return Done(self._answer(command, result), tuple(result.events))
        except (DecodeError, ValueError):
            return _not_ours(command.queue)

    def _answer(self, command: AnyCommand, taken: Taken) -> Answer:
        answer = VERBS[type(command)].shape(command, taken)
        if isinstance(command, Info | ReadPolicy) and isinstance(answer, dict) and not self.seq_of(command.queue):
            mark = "policy_" if isinstance(command, Info) else ""
            answer.update({f"{mark}{field}": value for field, value in asdict(self._asker.policy).items()})
        if isinstance(command, Info) and isinstance(answer, dict):
            counted = self._counted.get(command.queue, dict.fromkeys(TOTALS, 0))
            answer.update({f"since_start_{what}": n for what, n in counted.items()})
        return answer

    # What was seen

    @property
    def seen_queues(self) -> list[str]:
        """The queues that this server has had to do with."""
        return list(self._seen)

    def seq_of(self, queue: str) -> int:
        """The newest sequence number seen of a queue; 0 when none was."""
        seen = self._seen.get(queue)
        return 0 if seen is None else seen.seq

    async def begin_epochs(self) -> None:
        """After a reconnect: look at every queue that was seen, and have it found by its name. Raises BackendDown."""
        for queue in self.seen_queues:
            await self._begin_epoch(queue)
        # In a Cluster the names are on one node, which may have lost them when no queue of its own has lost anything.
        await self._write_names({queue for queue in self.seen_queues if self.seq_of(queue)})

    async def _begin_epoch(self, queue: str) -> None:
        """If Redis knows less of the queue than was seen, go on in a new epoch, in which old leases are void."""
        seen = self._seen.get(queue)
        if seen is None:
            return
        was = (seen.epoch, seen.seq, seen.token)
        more = True
        while more:
            head = self._head(queue)
            head[5:8] = [0, 0, 0]  # the one verb that must run although something is lost
            job = Job(queue, "rollback", [*was], True)
            (reply,) = await self._link.run([self._call_of(queue, [*head, job.verb, 3, *was], True)])
            if isinstance(reply, list) and reply[0] == 1 and reply[1] > was[0] and seen.epoch == was[0]:
                # Before anything is waited for: a turn and the look after a reconnect may notice at the same time.
                seen.epoch, seen.seq = reply[1], reply[3]
                self.rollbacks += 1
                self._say("redis.rollback", queue=queue, epoch=reply[1], seq_seen=was[1], seq_found=reply[2] - 1)
                await self._write_name_again(queue)
            (result,) = self._results(queue, [job], reply)
            if isinstance(result, Refused):
                return
            self._aside += result.events
            more = result.number == 1

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
        """`told_ms` is by Redis's clock: what it is from now there, it is from now here.

        Never later than is known: another server may have told of something sooner while this reply was on its way.
        A time that was too soon costs one look, which takes it away.
        """
        if told_ms:
            self._due.no_later(queue, told_ms if self._inject_clock else self._clock.now_ms() + told_ms - clock_ms)

    async def _register(self, commands: Sequence[AnyCommand]) -> Refused | None:
        """Before a queue's first event: every server shall find it. In a Cluster the script cannot reach that key."""
        new = {c.queue for c in commands if type(c) in CREATING and c.queue not in self._registered}
        if not new:
            return None
        try:
            await self._write_names(new)
        except BackendDown as down:
            return down.refused()
        return None

    async def _write_name_again(self, queue: str) -> None:
        """Redis has lost events of the queue, so perhaps its name too. If it cannot be written now: later."""
        self._registered.discard(queue)
        with suppress(BackendDown):
            await self._write_names({queue})

    async def _write_names(self, queues: Collection[str]) -> None:
        """Raises BackendDown."""
        if queues:
            members = [word for queue in sorted(queues) for word in (0, queue)]
            await self._link.command("ZADD", f"{self._prefix}:queues", *members)
            self._registered.update(queues)


def _batches(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Places of jobs that go together: one queue's, in order, with a bound on the work of one run of the script."""
    of_queue: dict[str, list[int]] = {}
    weight: dict[str, int] = {}
    for at, job in enumerate(jobs):
        batch = of_queue.get(job.queue)
        if batch is not None and weight[job.queue] + job.weight > _WEIGHT_MAX:
            yield of_queue.pop(job.queue)
            batch = None
        if batch is None:
            batch = of_queue[job.queue] = []
            weight[job.queue] = 0
        batch.append(at)
        weight[job.queue] += job.weight
    yield from of_queue.values()


def _payloads(command: AnyCommand) -> Sequence[bytes]:
    if isinstance(command, Enqueue):
        return (command.payload,)
    return command.payloads if isinstance(command, EnqueueMany) else ()


def _unnamed(command: AnyCommand) -> int:
    """How many tasks it may touch without naming them, where that is bounded: of a PURGE it is not, and due work has a
    run of its own."""
    if isinstance(command, Redrive):
        return 0 if command.task_id else command.count
    return command.count if isinstance(command, Peek) else 0


def _not_ours(queue: str) -> Refused:
    return Refused(BACKEND, f"Redis holds a task of queue {queue!r} that is not Moxy's: remove it")


def _as_json(policy: Policy) -> str:
    return "[" + ",".join(str(value) for value in asdict(policy).values()) + "]"
