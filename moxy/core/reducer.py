"""`apply(state, event) -> state`: from one version of a queue to the next.

Lives here: versions, one after the other. Must not: what an event does (effects), policy (decider).
"""

from collections.abc import Iterable

from moxy.core.effects import happen
from moxy.core.events import AnyEvent
from moxy.core.state import QueueState


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
