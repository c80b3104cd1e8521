"""A queue's daily business in one go: plain ENQUEUE, FETCH and ACK, many of them between two states.

Lives here: a short cut through `decide` and `apply` for the three commands that nearly all of the work consists of.
Must not: a rule of its own. What it makes of a command is, event for event, what `decide` makes of it
(tests/core/test_batch.py holds the two against each other); what is not quite plain it declines, and nothing has
happened.

What it saves: a state per event (there is one per batch), the structs of command, decision and answer, and looking
up who decides. What an event does to the heart has one home, in effects.
"""

from typing import Final, final

from moxy.core import ids
from moxy.core.effects import drop_held, lease_first, put_fresh
from moxy.core.events import Acked, AnyEvent, Enqueued, Leased
from moxy.core.heart import Heart
from moxy.core.packing import unpack
from moxy.core.policy import PAYLOAD_BYTES_MAX
from moxy.core.state import QueueState
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Held, Task
from moxy.core.undoing import Undo

# As constants of this module they are at hand; names of another one compiled code looks up each time.
_ENQUEUED: Final[type[Enqueued]] = Enqueued
_LEASED: Final[type[Leased]] = Leased
_ACKED: Final[type[Acked]] = Acked
_HELD: Final[type[Held]] = Held
_TASK: Final[type[Task]] = Task


@final
class Batch:
    """What happens to a queue between `state` and the state that `close` gives. Meanwhile none of its states can be
    read. For a queue that exists."""

    __slots__ = ("_at_ms", "_befores", "_start", "_token", "events", "heart", "lease_id", "task_id")

    def __init__(self, state: QueueState) -> None:
        self.heart: Final[Heart] = state.give_up()
        self.events: Final[list[AnyEvent]] = []
        """What has happened in this batch."""
        self._start: Final = state
        self._befores: Final[list[Undo]] = []
        self._at_ms: Final[int] = self.heart.at_ms
        self._token: Final[int] = self.heart.last_token
        self.task_id = ""
        self.lease_id = ""
        """The lease, and its task, that `fetch` gave last."""

    def close(self) -> QueueState:
        """The state that it comes to; the batch is over. The one that it began with stays valid."""
        if self.events:
            return self._start.led_to(self.heart, self.events, self._befores, self._at_ms, self._token)
        self._start.owned = self.heart
        return self._start

    def enqueue(self, payload: bytes, now_ms: int, nonce: str) -> str | None:
        """A new task without options; its id. None: declined."""
        h = self.heart
        policy = h.policy
        if h.remembered or policy.max_ready or policy.ttl_ms or not h.seq or len(payload) > PAYLOAD_BYTES_MAX:
            return None
        number = h.next_number
        task_id = ids.task_id(number, nonce)
        if h.names and task_id in h.names:
            return None
        seq, at_ms = h.seq + 1, max(now_ms, h.at_ms)
        event = _ENQUEUED(h.name, seq, at_ms, number, task_id, payload)
        put_fresh(h, event, number, task_id, payload, 0, at_ms)
        h.seq, h.at_ms = seq, at_ms
        self.events.append(event)
        self._befores.append(None)
        return task_id

    def fetch(self, lease_ms: int, worker: str, now_ms: int, nonce: str) -> bytes | None:
        """The next task under a lease of `lease_ms`; 0: of the policy's length. Its payload, the rest is in `task_id`
        and `lease_id`. None: declined, or there is none."""
        h = self.heart
        at_ms = max(now_ms, h.at_ms)
        if h.remembered or h.paused or h.moved or h.soonest_ms <= at_ms:
            return None
        for lane in h.urgent:
            number = lane.first()
            if number is not None:
                break
        else:
            return None
        fresh = h.tasks[number]
        if type(fresh) is bytes:
            fresh = unpack(number, fresh)
        if type(fresh) is _TASK:
            if fresh.tally is not NO_TALLY or fresh.options is not NO_OPTIONS or fresh.expires_ms:
                return None
        elif type(fresh) is not _ENQUEUED:
            return None
        seq, token, task_id = h.seq + 1, h.last_token + 1, fresh.task_id
        lease_id = ids.lease_id(h.name, number, token, nonce)
        deadline_ms = at_ms + (lease_ms or h.policy.lease_ms)
        event = _LEASED(h.name, seq, at_ms, number, task_id, lease_id, token, deadline_ms, worker)
        lease_first(h, lane, number, number, fresh, _HELD(fresh, event), token, deadline_ms)
        h.seq, h.at_ms = seq, at_ms
        self.events.append(event)
        self._befores.append(fresh)
        self.task_id, self.lease_id = task_id, lease_id
        return fresh.payload

    def ack(self, lease_id: bytes, number: int, now_ms: int) -> bool:
        """The task under this lease, the first that was ever on it, is done. False: declined."""
        h = self.heart
        held = h.tasks.get(number)
        if type(held) is not _HELD or h.remembered:
            return False
        leased = held.leased
        its_lease = leased.lease_id
        if its_lease.encode() != lease_id:
            return False
        seq, at_ms, task_id = h.seq + 1, max(now_ms, h.at_ms), leased.task_id
        event = _ACKED(h.name, seq, at_ms, number, task_id, its_lease)
        drop_held(h, number, held, task_id)
        h.seq, h.at_ms = seq, at_ms
        self.events.append(event)
        self._befores.append(held)
        return True
