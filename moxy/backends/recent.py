"""The latest committed events in memory, by queue and by task: an index, so that HISTORY need not scan a log.

Lives here: a bounded window over the end of each queue's events. Must not: hold what is not committed.
Older events are in the log on disk, if there is one; `horizon` says where the window begins.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, cast, final

from moxy.core.events import EVENT_TYPES, AnyEvent, Event, TaskEvent
from moxy.core.notes import Happened, events_of
from moxy.journal import codec

EVENTS_MAX: Final = 100_000
BYTES_MAX: Final = 64 * 1024 * 1024
_PAGE: Final = 4000
"""Most events of one page: a page is indexed in one go."""

# isinstance() on a struct's class is ten times slower than a look into a set.
_OF_A_QUEUE: Final[frozenset[type[Event]]] = frozenset(kind for kind in EVENT_TYPES if not issubclass(kind, TaskEvent))


@final
class _Window:
    """One queue's part: its events without a gap, and which of them concern each task."""

    __slots__ = ("by_task", "events", "names")

    def __init__(self) -> None:
        self.events: Final[deque[AnyEvent]] = deque()
        self.by_task: Final[dict[int, list[AnyEvent]]] = {}
        self.names: Final[dict[str, int]] = {}


@final
class Recent:
    """At least the last `events_max` events over all queues, and at most `bytes_max` bytes of them.

    Events come in pages, one or more a turn. A page is kept as bytes: so the events' own memory serves the next turn,
    while it is still in the processor's cache. It is read and indexed when somebody asks; most pages are let go of
    without that anybody did.
    """

    __slots__ = ("_bytes", "_bytes_max", "_count", "_events_max", "_indexed", "_pages", "_windows")

    def __init__(self, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._events_max: Final = events_max
        self._bytes_max: Final = bytes_max
        self._bytes = 0
        self._count = 0
        self._pages: Final[deque[tuple[int, bytes]]] = deque()
        """How many events, and they themselves."""
        self._indexed = 0
        """How many of the first pages are in the windows."""
        self._windows: Final[dict[str, _Window]] = {}

    def add(self, happened: Sequence[Happened], payload: bytes = b"") -> None:
        """Take committed events, and let go of the oldest pages beyond the limits. `payload`: they are encoded already,
        as in a record of the log."""
        count = 0
        for some in happened:
            count += len(some)
        if not count:
            return
        if count <= _PAGE:
            self._take(count, payload or codec.encode_all(happened))
        else:
            for some in _pages(happened):
                self._take(len(some), codec.encode(some))
        while self._pages:
            count, page = self._pages[0]
            if self._count - count < self._events_max and self._bytes <= self._bytes_max:
                break
            self._pages.popleft()
            self._count -= count
            self._bytes -= len(page)
            if self._indexed:
                self._indexed -= 1
                for event in codec.decode(page):
                    self._unindex(event)

    def _take(self, count: int, page: bytes) -> None:
        self._pages.append((count, page))
        self._count += count
        self._bytes += len(page)

    @property
    def behind(self) -> int:
        """How many pages are not indexed yet. What is asked below is answered from those that are."""
        return len(self._pages) - self._indexed

    def index(self, events: int) -> None:
        """Index pages, the oldest first, until all are or about so many events are."""
        windows = self._windows
        while events > 0 and self._indexed < len(self._pages):
            count, page = self._pages[self._indexed]
            self._indexed += 1
            events -= count
            for event in codec.decode(page):
                window = windows.get(event.queue)
                if window is None:
                    window = windows[event.queue] = _Window()
                window.events.append(event)
                if type(event) in _OF_A_QUEUE:
                    continue
                number = cast(TaskEvent, event).number
                known = window.by_task.get(number)
                if known is None:
                    window.by_task[number] = [event]
                    window.names[cast(TaskEvent, event).task_id] = number
                else:
                    known.append(event)

    def horizon(self, queue: str, last_seq: int) -> int:
        """The sequence number from which on the window holds every event of the queue."""
        window = self._windows.get(queue)
        return window.events[0].seq if window is not None and window.events else last_seq + 1

    def since(self, queue: str, from_seq: int, count: int) -> list[AnyEvent]:
        """Up to `count` events from `from_seq` on, which must not be below the horizon."""
        window = self._windows.get(queue)
        if window is None or not window.events:
            return []
        skip = max(from_seq - window.events[0].seq, 0)
        stop = min(skip + count, len(window.events))
        return [window.events[at] for at in range(skip, stop)]

    def of_task(self, queue: str, task_id: str) -> list[AnyEvent]:
        """What the window holds of the latest task with that id, oldest first."""
        window = self._windows.get(queue)
        if window is None:
            return []
        return list(window.by_task.get(window.names.get(task_id, 0), ()))

    def _unindex(self, event: AnyEvent) -> None:
        """The oldest event of its queue goes."""
        window = self._windows[event.queue]
        window.events.popleft()
        if type(event) not in _OF_A_QUEUE:
            number, task_id = cast(TaskEvent, event).number, cast(TaskEvent, event).task_id
            known = window.by_task[number]
            known.pop(0)
            if not known:
                del window.by_task[number]
                if window.names.get(task_id) == number:
                    del window.names[task_id]
        if not window.events:
            del self._windows[event.queue]


def _pages(happened: Sequence[Happened]) -> Iterator[list[AnyEvent]]:
    """Events in pages. More than one page's worth in one turn is rare enough to be made anew."""
    events = [event for some in happened for event in events_of(some)]
    for at in range(0, len(events), _PAGE):
        yield events[at : at + _PAGE]
