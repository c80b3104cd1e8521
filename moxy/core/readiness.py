"""After which events there is something to lease that was not there before.

Lives here: that one question, asked by whoever lets waiting fetches try again. Must not: know who waits.
"""

from moxy.core.events import AnyEvent, Enqueued, Matured, QueueResumed, Redriven, Released, Requeued


def makes_ready(event: AnyEvent) -> bool:
    """Whether a FETCH that found nothing before the event may find something after it (L4, L5)."""
    if isinstance(event, Enqueued | Requeued):
        return event.due_ms == 0
    return isinstance(event, Matured | Released | Redriven | QueueResumed)
