"""A queue's daily business in one go: plain ENQUEUE, FETCH and ACK, many of them between two states.

Lives here: a short cut through `decide` and `apply` for the three commands that nearly all of the work consists of.
Must not: a rule of its own. What it makes of a command is, event for event, what `decide` makes of it
(tests/core/test_batch.py holds the two against each other); what is not quite plain it declines, and nothing has
happened.

What it saves: a state per event (there is one per batch), the structs of command, decision, event and answer, and
looking up who decides. What an event does to the heart has one home, in effects. Ids are bytes here, as clients send
them and get them.
"""

from typing import Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64

from moxy.core import ids
from moxy.core.effects import drop_held, lease_first, put_fresh
from moxy.core.events import AnyEvent
from moxy.core.heart import NEVER_MS, Heart
from moxy.core.notes import Notes
from moxy.core.packing import Fresh, Held, unpack
from moxy.core.policy import PAYLOAD_BYTES_MAX
from moxy.core.state import QueueState
from moxy.core.tasks import NO_OPTIONS, NO_TALLY, Task
from moxy.core.undoing import Undo


@final
class Batch:
    """What happens to a queue between `state` and the state that `close` gives. Meanwhile none of its states can be
    read. For a queue that exists."""

    __slots__ = (
        "_at_ms",
        "_befores",
        "_takes_all",
        "_token",
        "heart",
        "is_over",
        "notes",
        "start",
    )

    def __init__(self, state: QueueState, writer: BytesWriter | None = None) -> None:
        """`writer`: for the notes, as they say."""
        self.heart: Final[Heart] = state.give_up()
        self.notes: Final = Notes(self.heart.name, writer)
        """What has happened in this batch."""
        self.start: Final = state
        """The state that it begins with."""
        self._befores: Final[list[Undo]] = []
        self._at_ms: Final[int] = self.heart.at_ms
        self._token: Final[int] = self.heart.last_token
        self.is_over = False
        """Whether it was closed: then nothing more may happen in it."""
        self._takes_all: bool | None = None
        """Whether the policy lets everything in, and for ever; None: nobody has asked yet."""

    @property
    def events(self) -> list[AnyEvent]:
        """What has happened in this batch, as events."""
        return self.notes.events()

    def close(self) -> QueueState:
        """The state that it comes to; the batch is over. The one that it began with stays valid."""
        self.is_over = True
        if self.notes.count:
            return self.start.led_to(self.heart, self.notes, self._befores, self._at_ms, self._token)
        self.start.owned = self.heart
        return self.start

    def enqueue(self, payloads: list[bytes], now_ms: int, nonces: bytes, drawn: i64) -> list[bytes]:
        """New tasks without options; their ids. Fewer than payloads: the next one is declined.

        `nonces`: digits, those of one task after those of the other; from `drawn` on nobody has had them.
        """
        h = self.heart
        at_ms = max(now_ms, h.at_ms)
        task_ids: list[bytes] = []
        if self._takes_all is None:
            self._takes_all = not (h.policy.max_ready or h.policy.ttl_ms)
        if not self._takes_all or h.dedup is not None or not h.born_ms or at_ms >= NEVER_MS:
            return task_ids
        notes, befores, names = self.notes, self._befores, h.names
        for payload in payloads:
            number = h.next_number
            task_id = ids.raw_task_id(number, nonces[drawn : drawn + ids.NONCE_DIGITS])
            if len(payload) > PAYLOAD_BYTES_MAX or (names is not None and task_id.decode() in names):
                break
            seq = h.seq + 1
            put_fresh(h, number, task_id, payload, 0, at_ms)
            h.seq, h.at_ms = seq, at_ms
            notes.enqueued(seq, at_ms, number, task_id, payload)
            befores.append(None)
            task_ids.append(task_id)
            drawn += ids.NONCE_DIGITS
        return task_ids

    def fetch(
        self, count: i64, lease_ms: int, worker: str, now_ms: int, nonces: bytes, drawn: i64, bytes_max: i64
    ) -> list[Held]:
        """The next tasks, each under a lease of `lease_ms`; 0: of the policy's length. Fewer than `count`: there are no
        more, or the next one is declined, or the payloads have come to `bytes_max`.

        `nonces`: digits, those of one task after those of the other; from `drawn` on nobody has had them.
        """
        h = self.heart
        at_ms = max(now_ms, h.at_ms)
        leased: list[Held] = []
        if (
            h.dedup is not None
            or h.paused
            or h.moved is not None
            or h.soonest_ms <= at_ms
            or at_ms >= NEVER_MS
            or not h.born_ms
        ):
            return leased
        notes, befores, tasks = self.notes, self._befores, h.tasks
        deadline_ms = at_ms + (lease_ms or h.policy.lease_ms)
        while count > 0 and bytes_max > 0:
            lane = h.first_lane()
            number = lane.first()
            if number is None:
                break
            fresh = tasks[number]
            if isinstance(fresh, bytes):
                fresh = unpack(fresh)
            if isinstance(fresh, Fresh):
                task_id, payload = fresh.task_id, fresh.payload
            elif isinstance(fresh, Task):
                if fresh.tally is not NO_TALLY or fresh.options is not NO_OPTIONS or fresh.expires_ms:
                    return leased
                task_id, payload = fresh.task_id.encode(), fresh.payload
            else:
                return leased
            seq, token = h.seq + 1, h.last_token + 1
            nonce = nonces[drawn : drawn + ids.NONCE_DIGITS]
            lease_id = ids.raw_lease_id(notes.raw_queue, number, token, nonce)
            held = Held(fresh, task_id, lease_id, token, deadline_ms, at_ms, worker, False)
            lease_first(h, lane, number, number, fresh, held, token, deadline_ms)
            h.seq, h.at_ms = seq, at_ms
            notes.leased(seq, at_ms, number, task_id, lease_id, token, deadline_ms, worker)
            befores.append(fresh)
            leased.append(held)
            drawn += ids.NONCE_DIGITS
            count -= 1
            bytes_max -= len(payload)
        return leased

    def ack(self, lease_ids: list[bytes], now_ms: int) -> int:
        """The tasks under these leases are done, each under the first lease that ever was on it; how many. Fewer than
        leases: the next one is declined."""
        h = self.heart
        at_ms = max(now_ms, h.at_ms)
        if h.dedup is not None or not h.born_ms or at_ms >= NEVER_MS:
            return 0
        notes, befores, tasks, names = self.notes, self._befores, h.tasks, h.names
        start = len(notes.raw_queue) + 1
        count = 0
        for lease_id in lease_ids:
            # Of which queue it is need not be asked: no lease of another one is equal to one of this.
            number = ids.raw_number(lease_id, start)
            held = tasks.get(number)
            if not isinstance(held, Held) or held.bound or held.lease_id != lease_id:
                break
            task_id = held.task_id
            if names is not None:
                names.pop(task_id.decode(), None)
            seq = h.seq + 1
            drop_held(h, number, held)
            h.seq, h.at_ms = seq, at_ms
            notes.acked(seq, at_ms, number, task_id, lease_id)
            befores.append(held)
            count += 1
        return count
