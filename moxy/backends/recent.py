"""The latest committed events in memory, by queue and by task: an index, so that HISTORY need not scan a log.

Lives here: a bounded window over the end of each queue's events. Must not: hold what is not committed.
Older events are in the log on disk, if there is one; `horizon` says where the window begins.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, cast, final

from moxy.core.events import EVENT_TYPES, AnyEvent, Enqueued, Event, TaskEvent

EVENTS_MAX: Final = 100_000
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024

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
    """At most `events_max` events over all queues, and at most `payload_bytes_max` of payload in them."""

    __slots__ = ("_bytes", "_bytes_max", "_events_max", "_order", "_windows")

    def __init__(self, events_max: int = EVENTS_MAX, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        self._events_max: Final = events_max
        self._bytes_max: Final = payload_bytes_max
        self._bytes = 0
        self._order: Final[deque[str]] = deque()
        self._windows: Final[dict[str, _Window]] = {}

    def add(self, events: Iterable[AnyEvent]) -> None:
        """Take committed events, and let go of the oldest beyond the limits."""
        order, windows = self._order, self._windows
        for event in events:
            window = windows.get(event.queue)
            if window is None:
                window = windows[event.queue] = _Window()
            window.events.append(event)
            order.append(event.queue)
            if type(event) in _OF_A_QUEUE:
                continue
            if type(event) is Enqueued:
                self._bytes += len(event.payload)
            number = cast(TaskEvent, event).number
            known = window.by_task.get(number)
            if known is None:
                window.by_task[number] = [event]
                window.names[cast(TaskEvent, event).task_id] = number
            else:
                known.append(event)
        while len(order) > self._events_max or (self._bytes > self._bytes_max and order):
            self._drop(order.popleft())

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

    def _drop(self, queue: str) -> None:
        """Forget the queue's oldest event."""
        window = self._windows[queue]
        event = window.events.popleft()
        if type(event) not in _OF_A_QUEUE:
            if type(event) is Enqueued:
                self._bytes -= len(event.payload)
            number, task_id = cast(TaskEvent, event).number, cast(TaskEvent, event).task_id
            known = window.by_task[number]
            known.pop(0)
            if not known:
                del window.by_task[number]
                if window.names.get(task_id) == number:
                    del window.names[task_id]
        if not window.events:
            del self._windows[queue]
