"""The reference model: docs/semantics.md as the plainest program that says the same. See `model`.

What lives here: a door to `model` (the commands), `queues` (what they change), `words` (how they are read), `limits`.
What must not live here: anything of `moxy`.
"""

from spec.model.limits import MAX_MS, MAX_PAYLOAD_BYTES, QUEUE_EVENTS, TASK_EVENTS
from spec.model.model import Model
from spec.model.words import BLOCKED, Blocked, Refusal, Reply

__all__ = [
    "BLOCKED",
    "MAX_MS",
    "MAX_PAYLOAD_BYTES",
    "QUEUE_EVENTS",
    "TASK_EVENTS",
    "Blocked",
    "Model",
    "Refusal",
    "Reply",
]
