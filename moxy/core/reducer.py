"""`apply(state, event) -> state`: from one version of a queue to the next, and folds over many events.

Lives here: versions and folds. Must not: what an event does (effects), policy (decider).
"""

from collections.abc import Iterable, Mapping
from typing import Final, final

from msgspec.structs import astuple

from moxy.core.effects import happen, happen_with
from moxy.core.events import AnyEvent
from moxy.core.heart import Heart
from moxy.core.state import DEFAULT_POLICY, QueueState

_astuple: Final = astuple


def apply(state: QueueState, event: AnyEvent) -> QueueState:
    """The state after `event`. `state` stays valid. Raises IllegalEvent when the event cannot follow it."""
    heart = state.owned or state.heart()
    at_ms, last_token = heart.at_ms, heart.last_token
    before = happen(heart, event)
    state.owned = None
    return state.led_to(heart, [event], [before], at_ms, last_token)


def replay(events: Iterable[AnyEvent], state: QueueState) -> QueueState:
    """Fold events onto `state` (I10), which stays valid."""
    for event in events:
        state = apply(state, event)
    return state


@final
class Folding:
    """Many queues folded in place: no state exists until `states` hands them all over, and then the folding is over.

    For a start, which folds millions of events and wants none of the states in between.
    """

    __slots__ = ("_hearts",)

    def __init__(self, states: Mapping[str, QueueState]) -> None:
        """From `states` on, which are used up: nobody can read them any more."""
        self._hearts: dict[str, Heart] = {queue: state.give_up() for queue, state in states.items()}

    def fold(self, events: Iterable[AnyEvent]) -> None:
        """Take events in. Raises IllegalEvent."""
        heart: Heart | None = None
        for event in events:
            fields = _astuple(event)
            queue: str = fields[0]
            if heart is None or queue != heart.name:
                heart = self._heart(queue)
            happen_with(heart, event, fields)

    def _heart(self, queue: str) -> Heart:
        heart = self._hearts.get(queue)
        if heart is None:
            heart = self._hearts[queue] = Heart(queue, DEFAULT_POLICY)
        return heart

    def states(self) -> dict[str, QueueState]:
        """What it comes to."""
        hearts, self._hearts = self._hearts, {}
        return {queue: QueueState("", DEFAULT_POLICY, heart) for queue, heart in hearts.items()}
