"""What deciding a command comes to.

Lives here: the one struct, apart from the decider so that that can be compiled. Must not: anything that decides.
"""

import msgspec

from moxy.core.answers import Answer
from moxy.core.events import AnyEvent
from moxy.core.state import QueueState


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What a command comes to: the events, the state after them, and what to answer."""

    events: tuple[AnyEvent, ...]
    state: QueueState
    answer: Answer
