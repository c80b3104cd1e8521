"""Where the tools on a log read it from: a data directory, or the streams of a Redis.

Lives here: the argument that says which, and one way to read both. Must not: print, or change what is read.

A directory is read without its lock, so it may be live or a copy; a Redis may be live, too.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias, TypeVar, final

import click

from moxy.backends.redis.address import Address, AddressError, parse_redis_address
from moxy.backends.redis.errors import BackendDown, Unreachable
from moxy.backends.redis.link import Link
from moxy.backends.redis.registry import all_names
from moxy.backends.redis.stream import read_events
from moxy.backends.redis.verify import QueueReport, verify_queue
from moxy.config import ConfigError
from moxy.core.events import AnyEvent
from moxy.core.state import QueueState
from moxy.journal import segments, snapshots
from moxy.journal.disk import OsDisk
from moxy.journal.errors import DirectoryInUse, LogDamaged
from moxy.journal.recovery import events_of
from moxy.journal.segments import SEGMENT_SUFFIX, SNAPSHOT_SUFFIX, Walk
from moxy.journal.tail import Tail

Answer = TypeVar("Answer")
Source: TypeAlias = str | Address
"""A data directory, or a Redis."""

_LOOKS_MAX: Final = 5
_PAGE: Final = 1000


class SourceType(click.ParamType[Source]):
    """A data directory, or the URL of a Redis such as redis://127.0.0.1:6379."""

    name = "DIR|URL"

    def convert(self, value: Source, param: click.Parameter | None, ctx: click.Context | None) -> Source:
        if isinstance(value, Address):
            return value
        if "://" in value:
            try:
                return parse_redis_address(value)
            except AddressError as error:
                self.fail(str(error), param, ctx)
        return str(DIRECTORY.convert(value, param, ctx))


DIRECTORY: Final = click.Path(exists=True, file_okay=False, readable=True)
SOURCE: Final = SourceType()


class Readable(Protocol):
    """A log that can be read from its beginning."""

    def events(self, queue: str | None = None) -> Iterator[AnyEvent]:
        """Of one queue or of all, oldest first."""

    def base(self, queue: str | None = None) -> tuple[dict[str, QueueState], Iterator[AnyEvent]]:
        """States to fold onto, and every event of the queue after them."""


class Following(Protocol):
    """A log that is read on as it grows."""

    missed: list[tuple[int, int]]
    doubt: LogDamaged | None

    def look(self) -> Iterator[tuple[int | None, AnyEvent]]:
        """What is new: its number in the whole log, where it has one, and the event."""


def read(source: Source, prefix: str, look: Callable[[Readable], Answer]) -> Answer:
    """What `look` makes of a log. Raises ConfigError, Unreachable, JournalError."""
    if isinstance(source, str):
        return reread(source, lambda disk: look(Log(disk)))
    with RedisLog(source, prefix) as log:
        return look(log)


def read_once(source: Source, prefix: str, look: Callable[[Readable], Answer]) -> Answer:
    """The same for what cannot be begun again, since somebody has seen the beginning."""
    if not isinstance(source, str):
        return read(source, prefix, look)
    try:
        return look(Log(disk_of(source)))
    except FileNotFoundError:
        raise overtaken(source) from None


@contextmanager
def followed(source: Source, prefix: str) -> Iterator[Following]:
    """The log, to be read on as it grows."""
    if isinstance(source, str):
        disk = disk_of(source)
        try:
            yield Tail(disk)
        finally:
            disk.close()
    else:
        with RedisLog(source, prefix) as log:
            yield RedisTail(log)


# A directory


def disk_of(directory: str) -> OsDisk:
    """The directory of a log. Raises ConfigError when there is none in it."""
    disk = OsDisk(directory)
    if not segments.named(disk, SEGMENT_SUFFIX) and not segments.named(disk, SNAPSHOT_SUFFIX):
        disk.close()
        raise ConfigError(f"{directory} holds no event log")
    return disk


def reread(directory: str, look: Callable[[OsDisk], Answer]) -> Answer:
    """What `look` makes of a log: again, from where it begins then, when its server dropped a file meanwhile.

    Raises DirectoryInUse when that goes on.
    """
    for _ in range(_LOOKS_MAX):
        disk = disk_of(directory)
        try:
            return look(disk)
        except FileNotFoundError:
            continue
        finally:
            disk.close()
    raise overtaken(directory)


def overtaken(directory: str) -> DirectoryInUse:
    """What to say when a live log is shorter at its beginning each time one looks."""
    return DirectoryInUse(
        f"{directory}: its server drops the oldest segments while they are read: "
        "let it keep more (--retain-bytes, --retain-hours), or copy the directory and read the copy"
    )


class Log:
    """A data directory, for reading only. FileNotFoundError is raised when a file is dropped meanwhile."""

    def __init__(self, disk: OsDisk) -> None:
        self._disk: Final = disk
        self._files: Final = segments.segments_of(disk)

    def events(self, queue: str | None = None, from_sequence: int = 0) -> Iterator[AnyEvent]:
        """Oldest first, as far as they are kept. A torn end is where it ends."""
        files = [
            segment
            for segment, following in zip(self._files, [*self._files[1:], None], strict=True)
            if following is None or following.sequence > from_sequence
        ]
        for segment, record in Walk(self._disk, files, None):
            for number, event in enumerate(events_of(segment.name, record), record.sequence):
                if number >= from_sequence and (queue is None or event.queue == queue):
                    yield event

    def base(self, queue: str | None = None) -> tuple[dict[str, QueueState], Iterator[AnyEvent]]:
        """States to fold onto, and every event of the queue after them: from the very first if they are kept."""
        base: dict[str, QueueState] | None = None
        after = 0
        if not self._files or self._files[0].sequence > 1:
            for after, name in segments.named(self._disk, SNAPSHOT_SUFFIX):
                base = snapshots.load(self._disk, name, after).states
                break
            if base is None:
                raise ConfigError(
                    "the log does not reach back to its beginning, and there is no snapshot to begin with"
                )
        return base or {}, self.events(queue, after + 1)


# A Redis


@final
class RedisLog:
    """The streams of all queues under a prefix. Raises Unreachable wherever Redis is asked and does not answer."""

    def __init__(self, address: Address, prefix: str) -> None:
        self._loop: Final = asyncio.new_event_loop()
        self._prefix: Final = prefix
        self._link: Final = Link(address, [])
        try:
            self._run(self._link.connect())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RedisLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._run(self._link.close())
        self._loop.close()

    def queues(self) -> list[str]:
        """All names."""

        async def names() -> list[str]:
            return [name async for name in all_names(self._link, self._prefix)]

        return self._run(names())

    def after(self, queue: str, seq: int) -> Iterator[AnyEvent]:
        """The events of one queue after `seq`, page by page."""
        while page := self._run(read_events(self._link, self._prefix, queue, seq + 1, _PAGE)):
            yield from page
            seq = page[-1].seq

    def events(self, queue: str | None = None) -> Iterator[AnyEvent]:
        """Of one queue, or of all, in order of time, those of one queue in order."""
        queues = self.queues() if queue is None else [queue]
        return heapq.merge(*(self.after(name, 0) for name in queues), key=lambda event: event.at_ms)

    def base(self, queue: str | None = None) -> tuple[dict[str, QueueState], Iterator[AnyEvent]]:
        """Nothing, and all events. Raises ConfigError for a stream that was trimmed: its queue cannot be folded."""
        for name in self.queues() if queue is None else [queue]:
            oldest = self._run(read_events(self._link, self._prefix, name, 0, 1))
            if oldest and oldest[0].seq > 1:
                raise ConfigError(
                    f"the stream of queue {name!r} begins with event {oldest[0].seq}, so the state cannot be computed "
                    "from the queue's birth: choose other queues with --queue, or use moxy verify"
                )
        return {}, self.events(queue)

    def verify(self) -> list[QueueReport]:
        """Every queue's stream against its keys."""
        return [self._run(verify_queue(self._link, self._prefix, name)) for name in self.queues()]

    def _run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return self._loop.run_until_complete(work)
        except BackendDown as down:
            raise Unreachable(down.sentence) from None


@final
class RedisTail:
    """The streams of a Redis, read on as they grow."""

    def __init__(self, log: RedisLog) -> None:
        self._log: Final = log
        self._seen: Final[dict[str, int]] = {}
        self.missed: list[tuple[int, int]] = []
        self.doubt: LogDamaged | None = None

    def look(self) -> Iterator[tuple[int | None, AnyEvent]]:
        streams = [self._log.after(name, self._seen.get(name, 0)) for name in self._log.queues()]
        for event in heapq.merge(*streams, key=lambda event: event.at_ms):
            expected = self._seen.get(event.queue, 0) + 1
            if event.seq > expected:
                self.missed.append((expected, event.seq - 1))
            self._seen[event.queue] = event.seq
            yield None, event


def verify_redis(address: Address, prefix: str) -> list[QueueReport]:
    """Every queue's stream, folded, against its keys. Raises Unreachable."""
    with RedisLog(address, prefix) as log:
        return log.verify()
