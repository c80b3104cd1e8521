"""The event streams of queues, as the answers of EVENTS and HISTORY.

Lives here: reading `moxy:{queue}:events`, whose entry `SEQ-0` is event SEQ. Must not: write.
"""

from collections.abc import Awaitable, Callable
from typing import Final, final

from moxy.backends.base import Done, Outcome, Slow
from moxy.backends.redis.errors import BackendDown
from moxy.backends.redis.link import Link
from moxy.backends.redis.records import event_of
from moxy.backends.redis.scripts import key_of
from moxy.core.answers import Past
from moxy.core.commands import ReadEvents, ReadHistory
from moxy.core.errors import ERR, NOTASK, Refused
from moxy.core.events import AnyEvent, Enqueued, TaskEvent

_SLICE_EVENTS: Final = 1000


async def read_events(link: Link, prefix: str, queue: str, from_seq: int, count: int) -> list[AnyEvent]:
    """Up to `count` events from `from_seq` on, oldest first. Raises BackendDown."""
    reply = await link.command("XRANGE", key_of(prefix, queue, "events"), f"{from_seq}-0", "+", "COUNT", count)
    assert isinstance(reply, list), reply
    try:
        return [event_of(queue, int(entry.partition(b"-")[0]), fields) for entry, fields in reply]
    except (ValueError, LookupError, TypeError):
        sentence = f"the events of queue {queue!r} in Redis hold an entry that is not Moxy's"
        raise BackendDown(sentence, unknown=False) from None


@final
class Stream:
    """Reads of one Redis's streams, under one prefix of keys."""

    def __init__(self, link: Link, prefix: str, knows: Callable[[str, str], Awaitable[bool | Refused]]) -> None:
        self._link: Final = link
        self._prefix: Final = prefix
        self.knows: Final = knows

    async def read(self, queue: str, from_seq: int, count: int) -> list[AnyEvent]:
        """Up to `count` events from `from_seq` on, oldest first. Raises BackendDown."""
        return await read_events(self._link, self._prefix, queue, from_seq, count)

    async def horizon(self, queue: str) -> int:
        """The oldest sequence number that is kept; 1 for a queue without events. Raises BackendDown."""
        oldest = await self.read(queue, 0, 1)
        return oldest[0].seq if oldest else 1

    async def events(self, query: ReadEvents) -> Outcome:
        """A page of the change feed; refused below the horizon, naming it."""
        try:
            events = await self.read(query.queue, query.from_seq, query.count)
            # Without a gap at the front nothing was missed; else the horizon has passed the reader by.
            if events and events[0].seq == query.from_seq:
                return Done(Past(events, query.from_seq))
            horizon = await self.horizon(query.queue)
        except BackendDown as down:
            return down.refused()
        if query.from_seq < horizon:
            return Refused(ERR, f"events below sequence {horizon} are no longer kept: read on from there")
        return Done(Past(events, horizon))

    async def history(self, query: ReadHistory) -> Slow:
        """A search for one task's events, a slice a turn."""
        return _Search(self, query)


@final
class _Search:
    """The events of the latest task with an id, found by reading its queue's stream from the beginning."""

    def __init__(self, stream: Stream, query: ReadHistory) -> None:
        self._stream: Final = stream
        self._query: Final = query
        self._found: list[AnyEvent] = []
        self._horizon = 0
        self._next_seq = 0

    async def advance(self) -> Outcome | None:
        query = self._query
        try:
            events = await self._stream.read(query.queue, self._next_seq, _SLICE_EVENTS)
        except BackendDown as down:
            return down.refused()
        for event in events:
            self._horizon = self._horizon or event.seq
            if isinstance(event, TaskEvent) and event.task_id == query.task_id:
                if isinstance(event, Enqueued):
                    self._found.clear()
                self._found.append(event)
        if len(events) == _SLICE_EVENTS:
            self._next_seq = events[-1].seq + 1
            return None
        known = bool(self._found) or await self._stream.knows(query.queue, query.task_id)
        if isinstance(known, Refused):
            return known
        if not known:
            return Refused(NOTASK, "the queue does not know that task, and no event that is still kept concerns it")
        cut = not self._found or not isinstance(self._found[0], Enqueued)
        return Done(Past(self._found, self._horizon, cut))
