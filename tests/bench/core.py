"""Decide and apply, a command: against the length of a queue, the leases held, and the number of queues."""

from collections.abc import Callable, Iterator

from moxy.core.answers import Delivery
from moxy.core.commands import Ack, Command, Enqueue, EnqueueMany, Fetch
from moxy.core.decider import decide
from moxy.core.ids import split_lease_id
from moxy.core.state import QueueState
from tests.bench.harness import Row, Size, main, rounds

NOW = 1_700_000_000_000
PAYLOAD = b"x" * 100
LEASE_MS = 30_000


def filled(name: str, count: int) -> QueueState:
    """A queue in which so many tasks wait."""
    state = QueueState(name)
    while count:
        some = min(count, 1000)
        state = decide(state, EnqueueMany(name, (PAYLOAD,) * some), NOW, count).state
        count -= some
    return state


def held(state: QueueState, count: int) -> QueueState:
    """The same with so many of its tasks leased."""
    while count:
        some = min(count, 1000)
        state = decide(state, Fetch(state.name, LEASE_MS, some), NOW, count).state
        count -= some
    return state


class Queues:
    """States by name, the newest of each and no other, as a server keeps them."""

    def __init__(self, states: list[QueueState]) -> None:
        self.states = {state.name: state for state in states}
        self.names = list(self.states)
        self.leases: list[tuple[str, str]] = []

    def do(self, command: Command, seed: int) -> object:
        decision = decide(self.states[command.queue], command, NOW, seed)
        self.states[command.queue] = decision.state
        return decision.answer

    def enqueue(self, count: int) -> None:
        names = self.names
        for number in range(count):
            self.do(Enqueue(names[number % len(names)], PAYLOAD), number)

    def fetch(self, count: int) -> None:
        names = self.names
        for number in range(count):
            name = names[number % len(names)]
            answer = self.do(Fetch(name, LEASE_MS), number)
            assert isinstance(answer, list)
            assert isinstance(answer[0], Delivery)
            self.leases.append((name, answer[0].lease_id or ""))

    def ack(self) -> None:
        leases, self.leases = self.leases, []
        for name, lease_id in leases:
            _, number, token = split_lease_id(lease_id)
            self.do(Ack(name, lease_id, number, token), 0)


def cycles(label: str, size: Size, states: list[QueueState]) -> Iterator[Row]:
    """Enqueue, fetch and ack in turns, each timed by itself, on queues that go on as they would in a server: what is
    fetched has waited as long as the queue is."""
    count = size.of(20_000)
    queues = Queues(states)
    del states  # who keeps an old state keeps all that happened since
    steps: dict[str, Callable[[], None]] = {
        f"enqueue, {label}": lambda: queues.enqueue(count),
        f"fetch, {label}": lambda: queues.fetch(count),
        f"ack, {label}": queues.ack,
    }
    yield from rounds(size, count, steps)


def rows(size: Size) -> Iterator[Row]:
    for waiting in size.steps(1_000, 1_000_000):
        yield from cycles(f"{waiting:,} waiting", size, [filled("jobs", waiting)])
    leases = size.of(100_000)
    yield from cycles(f"{leases:,} leases held", size, [held(filled("jobs", leases), leases)])
    for queues in size.steps(1, 10_000):
        yield from cycles(f"{queues:,} queues of 10", size, [filled(f"jobs:{n}", 10) for n in range(queues)])


if __name__ == "__main__":
    main(rows)
