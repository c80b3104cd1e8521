"""The fast lane: plain ENQUEUE, FETCH and ACK from words to reply in one go, as they are read.

Lives here: which commands are plain, and the replies of a run of them. Must not: rules (core/batch), who waits
(service), sockets.

Nearly all that a busy server does is these three commands in their plain form. On the usual way each of them becomes
an intent, a request, a command, a decision and an answer, and passes through five rooms; here it is decided at once
and is a few bytes in a reply. Nothing else differs: the events belong to the coming turn and are committed with it,
and the replies wait for that (I13). What the lane does not take goes the usual way: another verb, any option, a queue
where somebody waits, a first command on a queue, a task with a past, a refusal.
"""

from typing import Final, Protocol, final

from moxy.backends.base import Clock, Plain
from moxy.core import ids
from moxy.core.batch import Batch
from moxy.core.errors import Refused
from moxy.wire import replies
from moxy.wire.arguments import fetch_timeout, queue_name
from moxy.wire.resp import OK, Error, encode

_ENQUEUE: Final = b"MOXY.ENQUEUE"
_FETCH: Final = b"MOXY.FETCH"
_ACK: Final = b"MOXY.ACK"
_NUMBER_DIGITS_MAX: Final = 18
_PIECE_BYTES: Final = 1024 * 1024
"""Payload in one run of replies, about: a slow reader is written to in pieces."""


class Waiting(Protocol):
    """Who knows where a fetch waits."""

    def awaits(self, queue: str) -> bool:
        """Whether a fetch waits for a task of that queue."""


@final
class Told:
    """The replies of one run of plain commands of one client, and the leases that they carry. They may leave when they
    are `ready`: when the turn that they belong to is over."""

    __slots__ = ("count", "leases", "output", "ready")

    def __init__(self, output: bytes, count: int, leases: list[str]) -> None:
        self.output = output
        self.count: Final = count
        self.leases: Final = leases
        self.ready = False


@final
class Lane:
    """Carries out plain commands between turns. `commands` counts those that no turn has committed yet."""

    __slots__ = ("_batches", "_clock", "_draw", "_epoch", "_plain", "_seed", "_told", "_waiting", "commands")

    def __init__(self, plain: Plain, waiting: Waiting, clock: Clock) -> None:
        self._plain: Final = plain
        self._waiting: Final = waiting
        self._clock: Final = clock
        self._epoch = -1
        self._batches: dict[bytes, Batch] = {}
        """Those of this epoch, by queue, as clients write its name."""
        self._seed = 0
        self._draw = 0
        self._told: list[Told] = []
        self.commands = 0

    def take(self, commands: list[list[bytes]], at: int, worker: str, resp3: bool) -> Told | None:
        """Carry out the plain commands that begin at that index, up to the first that is not. None: there is none."""
        if self._plain.epoch != self._epoch:
            self._begin_epoch()
        now_ms = self._clock.now_ms()
        parts: list[bytes] = []
        leases: list[str] = []
        end = len(commands)
        first = at
        size = 0
        while at < end and size < _PIECE_BYTES:
            argv = commands[at]
            verb = argv[0]
            words = len(argv)
            if verb == _ENQUEUE and words == 3:
                batch = self._batch(argv[1])
                if batch is None:
                    break
                event = batch.enqueue(argv[2], now_ms, self._nonce())
                if event is None:
                    break
                parts.append(replies.enqueued(event.task_id, resp3))
            elif verb == _FETCH and words == 3:
                batch = self._batch(argv[1])
                if batch is None:
                    break
                try:
                    lease_ms = fetch_timeout(argv[2])
                except Refused:
                    break
                held = batch.fetch(lease_ms, worker, now_ms, self._nonce())
                if held is None:
                    break
                fresh = held.fresh
                lease_id, payload = held.leased.lease_id, fresh.payload
                parts.append(replies.fetched_head(lease_id, fresh.task_id, len(payload), resp3))
                parts.append(payload)
                size += len(payload)
                parts.append(replies.CRLF)
                leases.append(lease_id)
            elif verb == _ACK and words == 2:
                lease = argv[1]
                split = lease.rsplit(b":", 3)
                if len(split) != 4 or not split[1].isdigit() or len(split[1]) > _NUMBER_DIGITS_MAX:
                    break
                batch = self._batch(split[0])
                if batch is None or not batch.ack(lease.decode(errors="replace"), int(split[1]), now_ms):
                    break
                parts.append(OK)
            else:
                break
            at += 1
        if at == first:
            return None
        told = Told(b"".join(parts), at - first, leases)
        self._told.append(told)
        self.commands += at - first
        return told

    def turn_over(self, refused: Refused | None) -> int:
        """The turn that the replies so far belong to is committed, or refused: then none of it happened. How many
        commands it had from here."""
        reply = b"" if refused is None else encode(Error(refused.code, refused.text), False)
        for told in self._told:
            told.ready = True
            if reply:
                told.output = reply * told.count
                told.leases.clear()
        self._told.clear()
        commands, self.commands = self.commands, 0
        return commands

    def _begin_epoch(self) -> None:
        self._epoch = self._plain.epoch
        self._batches.clear()
        self._seed = self._plain.seed()
        self._draw = 0

    def _batch(self, raw: bytes) -> Batch | None:
        """The queue's batch; None: this queue is not for the lane."""
        batch = self._batches.get(raw)
        if batch is None:
            try:
                queue = queue_name(raw)
            except Refused:
                return None
            # Nobody begins to wait while the batch is open: waiting begins in turns, and a turn ends it.
            if not self._waiting.awaits(queue):
                batch = self._plain.batch(queue)
                if batch is not None:
                    self._batches[raw] = batch
        return batch

    def _nonce(self) -> int:
        self._draw += 1
        return ids.nonce(self._seed, self._draw - 1)
