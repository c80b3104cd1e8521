"""The other servers on the same Redis: who lives, who waits, who is told.

Lives here: heartbeats, leases bound to servers that are gone, standing in line for tasks that others may enqueue,
notices of due times, finding queues. Must not: answer clients, or know a rule of a queue.

What is in Redis beside the queues, `PREFIX` being `moxy`:

- `PREFIX:queues`, a sorted set, all of score 0: the names of queues, so that nobody needs KEYS or SCAN.
- `PREFIX:servers`, a sorted set: server id -> its latest heartbeat, by Redis's clock.
- the channel `PREFIX:wake:SERVER_ID`: "QUEUE", something is ready there for you.
- the channel `PREFIX:due`: "MS QUEUE", look at that queue in so many milliseconds. No clocks are compared.

Waiting. A server whose fetches found nothing stands in the line `PREFIX:{QUEUE}:waiting`, and the script that checks
that nothing is ready puts it there, so no wake-up is lost in between. Whoever makes n tasks ready tells the first n of
the line, by a channel of their own: nobody else wakes. A place in the line lapses unless renewed, which is also the
slow poll that makes up for a message that Redis lost.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol, final

from moxy.backends.base import Clock
from moxy.backends.redis.calls import Job, Taken
from moxy.backends.redis.errors import BackendDown
from moxy.backends.redis.link import Link
from moxy.backends.redis.listener import Listener
from moxy.backends.redis.registry import all_names
from moxy.core.events import AnyEvent
from moxy.core.policy import COUNT_MAX

BEAT_S: Final = 1.0
DEAD_MS: Final = 5_000
"""A server that has not beaten for so long is taken for dead: its bound leases are released."""
STAND_MS: Final = 3_000
"""How long a place in the line stands; it is renewed every second."""
_RENEW_MS: Final = 1_000
_READ_POLL_S: Final = 0.05
_DISCOVER_MS: Final = 15_000
_ORPHANS_PER_TURN: Final = 100
_PAUSE_MS: Final = 100
"""How long the search for orphans rests when Redis could not be asked."""


class Queues(Protocol):
    """What is needed of the queues themselves."""

    async def run_jobs(self, jobs: Sequence[Job]) -> list[object]:
        """For each job, in order, a Refused or a Taken."""

    def look_at(self, queue: str, in_ms: int) -> None:
        """The queue needs time no later than in so many milliseconds."""

    def seq_of(self, queue: str) -> int:
        """The newest sequence number seen of a queue."""

    async def begin_epochs(self) -> None:
        """Redis may have lost something: look."""


@final
class Fellows:
    """This server among those on one Redis."""

    def __init__(
        self,
        queues: Queues,
        link: Link,
        clock: Clock,
        server_id: str,
        prefix: str,
        say: Callable[..., None],
    ) -> None:
        self._queues: Final = queues
        self._link: Final = link
        self._clock: Final = clock
        self._id: Final = server_id
        self._prefix: Final = prefix
        self._say: Final = say
        self.alive = 1
        """Servers that beat."""
        self._news: dict[str, None] = {}
        self._waiting: Collection[str] = ()
        self._reading: Collection[str] = ()
        self._standing: Final[dict[str, int]] = {}
        self._read_seq: Final[dict[str, int]] = {}
        self._changed: Final = asyncio.Event()
        self._orphans: Final[list[tuple[str, str]]] = []
        self._orphans_from_ms = 0
        self._burying: Final[set[str]] = set()
        self._beaten_ms = 0
        self._steady_since_ms = 0
        self._reconnects = 0
        self._discovered_ms = 0

    # What the service asks

    def watch(self, waiting: Collection[str], reading: Collection[str]) -> None:
        """In these queues somebody waits for a task, or for an event."""
        self._waiting, self._reading = waiting, reading
        if reading or any(queue not in self._standing for queue in waiting):
            self._changed.set()

    def news(self) -> Iterable[str]:
        news, self._news = self._news, {}
        return news

    @property
    def orphans_due_ms(self) -> int | None:
        """When to search queues for leases of a dead server; None: there are none to search."""
        return self._orphans_from_ms if self._orphans else None

    async def release_orphans(self) -> list[AnyEvent]:
        """Release bound leases of servers that are gone, in some of the queues."""
        if self._clock.now_ms() < self._orphans_from_ms:
            return []
        todo, self._orphans[:_ORPHANS_PER_TURN] = self._orphans[:_ORPHANS_PER_TURN], []
        jobs = [Job(queue, "orphans", [holder], True) for queue, holder in todo]
        events: list[AnyEvent] = []
        for orphans, result in zip(todo, await self._queues.run_jobs(jobs), strict=True):
            if isinstance(result, Taken):
                events.extend(result.events)
            else:
                self._orphans_from_ms = self._clock.now_ms() + _PAUSE_MS
            if not isinstance(result, Taken) or result.number == COUNT_MAX:
                self._orphans.append(orphans)
        return events

    # Beside turns

    async def run(self, wake: Callable[[], None]) -> None:
        """Beat, listen, stand in line, until cancelled. Redis being away is waited out."""

        def heard(channel: str, data: bytes) -> None:
            self._heard(channel, data)
            wake()

        def listening_again() -> None:
            # Messages may have been missed: stand in line anew, and ask every queue when it is due.
            self._standing.clear()
            self._discovered_ms = 0
            self._changed.set()

        channels = [f"{self._prefix}:due", f"{self._prefix}:wake:{self._id}"]
        listener = Listener(self._link.address, channels, heard, listening_again, self._trouble)
        listener.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat_on(wake))
                group.create_task(self._stand_on(wake))
        finally:
            await listener.close()

    async def _beat_on(self, wake: Callable[[], None]) -> None:
        while True:
            try:
                await self.beat()
                wake()
            except BackendDown as down:
                self._say("redis.away", text=down.sentence)
            await asyncio.sleep(BEAT_S)

    async def _stand_on(self, wake: Callable[[], None]) -> None:
        while True:
            pause_s = _READ_POLL_S if self._reading else _RENEW_MS / 1000
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self.attend()
            if self._news:
                wake()
            if self._reading:
                await asyncio.sleep(_READ_POLL_S)

    async def beat(self) -> None:
        """Say that this server lives, see who does not, and find queues. Raises BackendDown."""
        seconds, micros = _numbers(await self._link.command("TIME"))
        now_ms = seconds * 1000 + micros // 1000
        await self._link.command("ZADD", f"{self._prefix}:servers", now_ms, self._id)
        if self._link.reconnects != self._reconnects:
            self._reconnects = self._link.reconnects
            self._steady_since_ms, self._discovered_ms = 0, 0
            await self._queues.begin_epochs()
        if not self._steady_since_ms or now_ms - self._beaten_ms > DEAD_MS // 2:
            self._steady_since_ms = now_ms
        self._beaten_ms = now_ms
        # While Redis was away nobody could beat: who has just come back judges nobody before all had the time to.
        if now_ms - self._steady_since_ms > DEAD_MS:
            await self._bury_the_dead(now_ms)
        if now_ms - self._discovered_ms > _DISCOVER_MS:
            self._discovered_ms = now_ms
            await self.look_around()

    async def _bury_the_dead(self, now_ms: int) -> None:
        servers = f"{self._prefix}:servers"
        dead = _texts(await self._link.command("ZRANGEBYSCORE", servers, "-inf", now_ms - DEAD_MS))
        for holder in dead:
            if holder not in self._burying:
                self._say("redis.server_gone", server_id=holder)
                await self.take_over(holder)
                self._burying.add(holder)
        searched_for = {holder for _, holder in self._orphans}
        for holder in list(self._burying):
            if holder in searched_for:
                # Whoever searches beats for the dead, so that others begin only if it dies before it has finished.
                await self._link.command("ZADD", servers, now_ms, holder)
            else:
                await self._link.command("ZREM", servers, holder)
                self._burying.discard(holder)
        (beating,) = _numbers([await self._link.command("ZCARD", servers)])
        self.alive = beating - len(self._burying)

    @property
    def has_news(self) -> bool:
        """Whether `news` has something to say."""
        return bool(self._news)

    async def take_over(self, server_id: str) -> None:
        """That server is gone: look for its bound leases in all queues, and what is due there. Raises BackendDown."""
        async for queue in all_names(self._link, self._prefix):
            self._orphans.append((queue, server_id))
            self._queues.look_at(queue, 0)

    async def look_around(self) -> None:
        """Miss nothing: look at all queues, and stand in line anew. Raises BackendDown."""
        async for queue in all_names(self._link, self._prefix):
            self._queues.look_at(queue, 0)
        self._standing.clear()
        await self.attend()

    async def attend(self) -> None:
        """Stand in line where fetches wait; see whether there is something new where readers wait."""
        now_ms = self._clock.now_ms()
        lapsed = [queue for queue in self._waiting if self._standing.get(queue, 0) <= now_ms]
        for queue in [queue for queue in self._standing if queue not in self._waiting]:
            del self._standing[queue]
        stand = [Job(queue, "watch", [self._id, STAND_MS], True) for queue in lapsed]
        reading = list(self._reading)
        look = [Job(queue, "stats", [], True) for queue in reading]
        results = await self._queues.run_jobs([*stand, *look])
        for queue, result in zip(lapsed, results, strict=False):
            if isinstance(result, Taken) and result.number:
                self._standing.pop(queue, None)
                self._news[queue] = None
            elif isinstance(result, Taken):
                self._standing[queue] = now_ms + _RENEW_MS
        for queue, result in zip(reading, results[len(stand) :], strict=True):
            if isinstance(result, Taken):
                seq = self._queues.seq_of(queue)
                if self._read_seq.get(queue, -1) != seq:
                    self._read_seq[queue] = seq
                    self._news[queue] = None

    async def leave(self) -> None:
        """This server goes on purpose: what it held has been released."""
        with suppress(BackendDown):  # then the others will notice
            await self._link.command("ZREM", f"{self._prefix}:servers", self._id)

    # Small change

    def _trouble(self, sentence: str) -> None:
        self._say("redis.away", text=sentence)

    def _heard(self, channel: str, data: bytes) -> None:
        if channel.endswith(":due"):
            in_ms, _, queue = data.decode().partition(" ")
            self._queues.look_at(queue, int(in_ms))
        else:
            queue = data.decode()
            self._standing.pop(queue, None)
            self._news[queue] = None


def _texts(reply: object) -> list[str]:
    assert isinstance(reply, list), reply
    return [item.decode() for item in reply]


def _numbers(reply: object) -> list[int]:
    assert isinstance(reply, list), reply
    return [int(item) for item in reply]
