"""The reference model: docs/semantics.md as the plainest program that says the same. See `model`.

What lives here: a door to `model` (the commands), `queues` (what they change), `words` (how they are read) and
`limits`. What must not live here: anything of `moxy`.
"""

from spec.model.limits import EVENT_KEYS, MAX_COUNT, MAX_MS, MAX_PAYLOAD_BYTES, QUEUE_EVENTS, TASK_EVENTS
from spec.model.model import Model
from spec.model.words import BLOCKED, Blocked, Refusal, Reply

__all__ = [
    "BLOCKED",
    "EVENT_KEYS",
    "MAX_COUNT",
    "MAX_MS",
    "MAX_PAYLOAD_BYTES",
    "QUEUE_EVENTS",
    "TASK_EVENTS",
    "Blocked",
    "Model",
    "Refusal",
    "Reply",
]
