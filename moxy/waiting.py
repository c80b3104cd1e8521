"""Who waits: blocked fetches and blocked readers of events, first come first served.

Lives here: the lines that they stand in, a queue each, and when their time is up. Must not: find anything for them, or
answer (service). None of it survives the process.
"""

from typing import Final, final

from moxy.core.commands import FetchAny, ReadEvents
from moxy.core.order import Key, Order
from moxy.requests import Client, Request


@final
class Waiter:
    """A blocked fetch, or a blocked reader of events. `key` orders time-outs; None waits for ever."""

    __slots__ = ("intent", "key", "request")

    def __init__(self, request: Request, intent: FetchAny | ReadEvents, key: Key | None) -> None:
        self.request: Final = request
        self.intent: Final = intent
        self.key: Final = key


Lines = dict[str, dict[int, Waiter]]
"""By queue, and there by arrival: dicts keep the order."""


@final
class Waiters:
    """All who wait. An `arrival` is a number that grows, and names one of them."""

    __slots__ = ("_all", "_arrivals", "_by_client", "_timeouts", "fetching", "reading")

    def __init__(self) -> None:
        self.fetching: Final[Lines] = {}
        """Those who wait for a task. There is a line where somebody stands in it, and nowhere else."""
        self.reading: Final[Lines] = {}
        """Those who wait for an event."""
        self._all: Final[dict[int, Waiter]] = {}
        self._by_client: Final[dict[Client, int]] = {}
        self._timeouts: Final[Order[Key]] = Order()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, arrival: int) -> bool:
        return arrival in self._all

    def __getitem__(self, arrival: int) -> Waiter:
        return self._all[arrival]

    def arrival_of(self, client: Client) -> int | None:
        """This client's; None: it does not wait."""
        return self._by_client.get(client)

    def admit(self, client: Client, request: Request, intent: FetchAny | ReadEvents, now_ms: int) -> int:
        """Somebody begins to wait, in every line that the intent names; the arrival."""
        self._arrivals += 1
        arrival = self._arrivals
        key = (now_ms + intent.block_ms, 0, arrival) if intent.block_ms else None
        waiter = Waiter(request, intent, key)
        self._all[arrival] = waiter
        self._by_client[client] = arrival
        lines, queues = self._lines_of(intent)
        for queue in queues:
            lines.setdefault(queue, {})[arrival] = waiter
        if key is not None:
            self._timeouts.add(key)
        return arrival

    def dismiss(self, arrival: int) -> Waiter:
        """Somebody does not wait any longer."""
        waiter = self._all.pop(arrival)
        lines, queues = self._lines_of(waiter.intent)
        for queue in queues:
            line = lines[queue]
            del line[arrival]
            if not line:
                del lines[queue]
        if waiter.key is not None:
            self._timeouts.remove(waiter.key)
        assert waiter.request.client is not None
        del self._by_client[waiter.request.client]
        return waiter

    def next_timeout_ms(self) -> int | None:
        """When somebody's time is up next; None: nobody's will be."""
        first = self._timeouts.first()
        return None if first is None else first[0]

    def dismiss_late(self, now_ms: int) -> list[Waiter]:
        """Those whose time is up, who do not wait any longer; the one whose was up first comes first."""
        late: list[Waiter] = []
        while (first := self._timeouts.first()) is not None and first[0] <= now_ms:
            late.append(self.dismiss(first[2]))
        return late

    def _lines_of(self, intent: FetchAny | ReadEvents) -> tuple[Lines, tuple[str, ...]]:
        """Where such a waiter stands."""
        return (self.fetching, intent.queues) if isinstance(intent, FetchAny) else (self.reading, (intent.queue,))
