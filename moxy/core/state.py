"""The state of one queue: a value. Whoever holds one can read it for ever; nothing that happens later changes it.

Lives here: versions, and read access to them. Must not: rules (decider), the effect of events (effects).

A state costs next to nothing, because all states of a queue share one heart (heart.py), which is changed in place:
the newest state owns it. When events make another state, that one gets the heart, and the old one keeps the events,
what it takes to undo them, and where the heart went. Reading an old state fetches the heart back, undoing event by
event; then the newer states are the ones that know how to get it, by the same events played again. So states form a
tree, one of them has the heart, and every other one points towards it. (Baker, Shallow binding makes functional
arrays fast, 1991, has the trick, for arrays.)

What follows from it:

- Who keeps an old state keeps what lies between it and the newest one: about 200 bytes an event. Keep states for a
  turn, not for a day; `image` is a copy that hangs on nothing.
- Reading a state moves the heart, so all states of a queue belong to one thread. A thread that reads beside it is
  given an `image`.
- Going back and forth between two states costs the way between them each time.
"""

from collections.abc import Iterator, Mapping
from typing import Final, final

from moxy.core.effects import happen
from moxy.core.events import AnyEvent, Leased
from moxy.core.heart import EXPIRING, FORGETTING, Heart
from moxy.core.lifecycle import DEAD, PROCESSING, READY, SCHEDULED
from moxy.core.notes import Notes
from moxy.core.policy import Policy
from moxy.core.reading import Memories, Names, OrderView, Tasks
from moxy.core.restoring import heart_of
from moxy.core.tasks import Image, Task, Totals
from moxy.core.undoing import Changes, Undo, undo

DEFAULT_POLICY: Final = Policy()
_AGAIN: Final[list[Undo]] = [Changes(Heart("", DEFAULT_POLICY), None)]
"""In place of what undoes events: they have to happen again."""


@final
class QueueState:
    """Everything about one queue after its event `seq`. The same object for the same version.

    Tasks that a reader is given are values, too; `tasks`, `numbers` and `remembered` are read like dicts, the orders
    like sorted collections of keys. `remembered` holds ids of tasks that are gone but inside their dedup window, as
    id -> (until_ms, number); `forgetting` is the order in which they leave. `limbo` counts tasks in `expired` and
    `failed`, between two events of one batch: 0 in every state that anybody can observe.
    """

    __slots__ = ("befores", "events", "owned", "towards", "was_at_ms", "was_token")

    owned: Heart | None
    """The heart, in one state of the queue. The others have the rest: the next state on the way to that one, the
    events that are between the two, and what undoes each; or `_AGAIN` when that one is the older of the two."""
    towards: "QueueState | None"
    events: list[AnyEvent] | Notes
    befores: list[Undo]
    was_at_ms: int
    was_token: int

    def __init__(self, name: str, policy: Policy = DEFAULT_POLICY, heart: Heart | None = None) -> None:
        """A queue that does not exist yet, and the policy it is born with. `heart` is for the core alone."""
        self.owned = heart or Heart(name, policy)

    # For the core alone: the heart and its way

    def heart(self) -> Heart:
        """The structures as they are in this version, until another version is read or made."""
        heart = self.owned
        return self._fetch() if heart is None else heart

    def give_up(self) -> Heart:
        """Take the heart away: neither this state nor any other of its queue can be read until one is given it."""
        heart = self.owned or self._fetch()
        self.owned = self.towards = None
        return heart

    def led_to(
        self, heart: Heart, events: list[AnyEvent] | Notes, befores: list[Undo], at_ms: int, token: int
    ) -> "QueueState":
        """The state that comes of this one, which gave up its heart, by events that the heart has seen meanwhile.

        `befores` undo them; `at_ms` and `token` are the latest of this state.
        """
        following = QueueState("", DEFAULT_POLICY, heart)
        self.towards, self.events, self.befores = following, events, befores
        self.was_at_ms, self.was_token = at_ms, token
        return following

    def _fetch(self) -> Heart:
        """Bring the heart here from the state that has it, over one state after the other."""
        way: list[QueueState] = []
        state = self
        while (heart := state.owned) is None:
            way.append(state)
            following = state.towards
            assert following is not None, "its heart was given up"
            state = following
        for following in reversed(way):
            noted, befores = following.events, following.befores
            events = noted.events() if isinstance(noted, Notes) else noted
            state.owned, state.towards, state.events = None, following, events
            if befores is _AGAIN:
                state.was_at_ms, state.was_token = heart.at_ms, heart.last_token
                state.befores = [happen(heart, event) for event in events]
            else:
                state.was_at_ms = state.was_token = 0
                state.befores = _AGAIN
                _undo_all(heart, events, befores, following.was_at_ms, following.was_token)
            following.owned, following.towards, following.befores = heart, None, _AGAIN
            state = following
        return heart

    # Reading

    @property
    def name(self) -> str:
        return self.heart().name

    @property
    def policy(self) -> Policy:
        return self.heart().policy

    @property
    def seq(self) -> int:
        return self.heart().seq

    @property
    def at_ms(self) -> int:
        return self.heart().at_ms

    @property
    def born_ms(self) -> int:
        return self.heart().born_ms

    @property
    def paused(self) -> bool:
        return self.heart().paused

    @property
    def next_number(self) -> int:
        return self.heart().next_number

    @property
    def last_token(self) -> int:
        return self.heart().last_token

    @property
    def limbo(self) -> int:
        return self.heart().limbo

    @property
    def totals(self) -> Totals:
        return self.heart().totals()

    @property
    def tasks(self) -> Mapping[int, Task]:
        return Tasks(self)

    @property
    def numbers(self) -> Mapping[str, int]:
        return Names(self)

    @property
    def remembered(self) -> Mapping[str, tuple[int, int]]:
        return Memories(self)

    @property
    def ready(self) -> OrderView:
        """Keys (urgency, place, number); 0 is the most urgent."""
        return OrderView(self, READY)

    @property
    def scheduled(self) -> OrderView:
        """Keys (due_ms, place, number)."""
        return OrderView(self, SCHEDULED)

    @property
    def processing(self) -> OrderView:
        """Keys (deadline_ms, token, number)."""
        return OrderView(self, PROCESSING)

    @property
    def dead(self) -> OrderView:
        """Keys (died_ms, seq of the death, number)."""
        return OrderView(self, DEAD)

    @property
    def expiring(self) -> OrderView:
        """Keys (expires_ms, place, number) of the waiting tasks that have a TTL."""
        return OrderView(self, EXPIRING)

    @property
    def forgetting(self) -> OrderView:
        """Keys (until_ms, 0, number)."""
        return OrderView(self, FORGETTING)

    def order_of(self, state: str) -> OrderView:
        """The order that the tasks of one observable state are kept in."""
        return OrderView(self, state)

    def in_state(self, state: str) -> Iterator[Task]:
        """The tasks of one observable state, in the order in which PEEK lists them."""
        for _, _, number in OrderView(self, state):
            yield self.heart().the_task(number)

    def named(self, task_id: str) -> Task | None:
        """The live or dead task with that id, or None."""
        return self.heart().named(task_id)

    def knows(self, task_id: str, now_ms: int) -> bool:
        """Whether enqueueing this id would create nothing (I14)."""
        return self.heart().knows(task_id, now_ms)

    def next_due_ms(self) -> int | None:
        """When time next causes an event here: a deadline, a TTL or a due time; None when nothing waits for time."""
        return self.heart().next_due_ms()

    @property
    def soonest_ms(self) -> int:
        """Nothing is due before: quicker than `next_due_ms`, and never later."""
        return (self.owned or self._fetch()).soonest_ms

    def oldest_ready_ms(self) -> int | None:
        """When the ready task with the earliest place got it; None when nothing is ready."""
        return self.heart().oldest_ready_ms()

    def image(self) -> Image:
        """A copy that hangs on nothing: for a thread, or to keep. A pointer a task is copied, in one go."""
        return self.heart().image()

    def frozen(self) -> Image:
        """An image without a pause, whatever waits: its tasks are read bit by bit, also by a thread, while the queue
        goes on. One at a time; `thaw` any state of the queue when it is not needed any more."""
        return self.heart().frozen()

    def thaw(self) -> None:
        """Let go of the frozen image."""
        (self.owned or self._fetch()).shadow = None


def _undo_all(heart: Heart, events: list[AnyEvent], befores: list[Undo], at_ms: int, token: int) -> None:
    """Take back events, the last one first. `at_ms` and `token` are those from before the first."""
    times, tokens = [at_ms], [token]
    for event in events:
        times.append(event.at_ms)
        tokens.append(event.token if isinstance(event, Leased) else tokens[-1])
    for at in range(len(events) - 1, -1, -1):
        undo(heart, events[at], befores[at], times[at], tokens[at])


def state_of(image: Image) -> QueueState:
    """The state that such an image was taken of. Raises ValueError when it makes none."""
    return QueueState("", DEFAULT_POLICY, heart_of(image))
