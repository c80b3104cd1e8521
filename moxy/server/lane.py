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

from librt.strings import BytesWriter
from mypy_extensions import i64

from moxy.backends.base import Clock, Plain
from moxy.core import ids
from moxy.core.batch import Batch
from moxy.core.errors import Refused
from moxy.core.packing import Held
from moxy.wire import replies
from moxy.wire.arguments import fetch_timeout, queue_name
from moxy.wire.habit import ENQUEUE, FETCH, RUN_MAX, Habit
from moxy.wire.resp import OK, Error, encode

_ENQUEUE: Final = b"MOXY.ENQUEUE"
_FETCH: Final = b"MOXY.FETCH"
_ACK: Final = b"MOXY.ACK"
_NONCES: Final = RUN_MAX
"""Drawn at a time: what the longest run needs."""
_NO_LEASES: Final[list[Held]] = []
"""Of a run that fetches nothing. A list costs more than what it would hold."""
_PIECE_BYTES: Final = 1024 * 1024
"""Of what is told at a time, about: a slow reader is written to in pieces."""


class Waiting(Protocol):
    """Who knows where a fetch waits."""

    def awaits(self, queue: str) -> bool:
        """Whether a fetch waits for a task of that queue."""


@final
class Told:
    """The replies of plain commands in a row of one client, and the leases that they carry, with their tasks. They may
    leave when they are `ready`: when the turn that they belong to is over."""

    __slots__ = ("count", "leases", "output", "ready")

    def __init__(self, output: bytes, count: int, leases: list[Held]) -> None:
        self.output = output
        self.count: Final = count
        self.leases: Final = leases
        self.ready = False


@final
class Lane:
    """Carries out plain commands while no turn decides. `commands` counts those that belong to no turn yet."""

    __slots__ = (
        "_batch",
        "_batches",
        "_clock",
        "_drawn",
        "_in_turn",
        "_is_turn_under_way",
        "_nonces",
        "_now_ms",
        "_output",
        "_plain",
        "_told",
        "_told_in_turn",
        "_waiting",
        "commands",
        "lease_ms",
        "queue",
        "timeout",
        "used_bytes",
    )

    def __init__(self, plain: Plain, waiting: Waiting, clock: Clock) -> None:
        self._plain: Final = plain
        self._waiting: Final = waiting
        self._clock: Final = clock
        self._batches: dict[bytes, Batch] = {}
        """By queue, as clients write its name. All of them end together."""
        self.queue = b""
        self._batch: Batch | None = None
        """The one that was used last, and its queue. The next command is nearly always on the same."""
        self.timeout = b"DEFAULT"
        self.lease_ms = 0
        """The timeout of the FETCH before, as its client wrote it, and read."""
        self.used_bytes: i64 = 0
        """How much the latest `take_habitual` took."""
        self._output: Final = BytesWriter()
        """For one run after the other: it need not grow again."""
        self._nonces = b""
        self._drawn: i64 = 0
        self._now_ms = 0
        """One time for all commands of a turn, that of the first; while another turn is on its way to the medium, which
        may take seconds, each run has its own."""
        self._told: list[Told] = []
        self.commands = 0
        self._told_in_turn: list[Told] = []
        self._in_turn = 0
        """Those of the turn under way."""
        self._is_turn_under_way = False

    def take(self, commands: list[list[bytes]], at: int, worker: str, resp3: bool) -> Told | None:
        """Carry out the plain commands that begin at that index, up to the first that is not. None: there is none."""
        self._begin_run()
        output = self._output
        leases = _NO_LEASES
        end = len(commands)
        first = at
        while at < end and len(output) < _PIECE_BYTES:
            argv = commands[at]
            verb = argv[0]
            words = len(argv)
            if verb == _ENQUEUE and words == 3:
                batch = self._batch_of(argv[1])
                if batch is None or not self._enqueue(batch, [argv[2]], output, resp3):
                    break
            elif verb == _FETCH and words == 3:
                batch = self._batch_of(argv[1])
                if batch is None or not (argv[2] == self.timeout or self._reads(argv[2])):
                    break
                leased = self._fetch(batch, 1, self.lease_ms, worker, output, resp3)
                if not leased:
                    break
                leases = _joined(leases, leased)
            elif verb == _ACK and words == 2:
                batch = self._batch_of(ids.raw_queue(argv[1]))
                if batch is None or not batch.ack([argv[1]], self._now_ms):
                    break
                output.write(OK)
            else:
                break
            at += 1
        return self._told_of(output, at - first, leases)

    def take_habitual(self, habit: Habit, data: bytes, worker: str, resp3: bool) -> Told | None:
        """`take`, of what a client sent and is as it always says it: `used_bytes` of `data` were that."""
        kind, found, stop, words = habit.find(data, 0)
        if not found:
            return None
        self._begin_run()
        batch = self._batch_of(habit.queue)
        if batch is None:
            return None
        output = self._output
        leases = _NO_LEASES
        used: i64 = 0
        end: i64 = len(data)
        count: i64 = 0
        while found:
            if kind == ENQUEUE:
                taken: i64 = self._enqueue(batch, words, output, resp3)
            elif kind == FETCH:
                leased = self._fetch(batch, found, habit.lease_ms, worker, output, resp3)
                taken = len(leased)
                leases = _joined(leases, leased)
            else:
                taken = batch.ack(words, self._now_ms)
                output.write(OK * taken)
            count += taken
            if taken < found:
                used = habit.find(data, used, taken)[2]
                break
            used = stop
            if used == end or len(output) >= _PIECE_BYTES:
                break
            kind, found, stop, words = habit.find(data, used)
        self.used_bytes = used
        return self._told_of(output, count, leases)

    def _begin_run(self) -> None:
        self._output.truncate(0)
        if self._batch is not None and self._batch.is_over:
            self._let_go()
        if self._is_turn_under_way or not self.commands:
            self._now_ms = self._clock.now_ms()

    def _told_of(self, output: BytesWriter, count: i64, leases: list[Held]) -> Told | None:
        if not count:
            return None
        told = Told(output.getvalue(), count, leases)
        self._told.append(told)
        self.commands += count
        return told

    def _enqueue(self, batch: Batch, payloads: list[bytes], output: BytesWriter, resp3: bool) -> int:
        """How many of them could be carried out here."""
        drawn = self._draw(len(payloads))
        task_ids = batch.enqueue(payloads, self._now_ms, self._nonces, drawn)
        for task_id in task_ids:
            replies.put_enqueued(output, task_id, resp3)
        return len(task_ids)

    def _fetch(
        self, batch: Batch, count: i64, lease_ms: int, worker: str, output: BytesWriter, resp3: bool
    ) -> list[Held]:
        """The leases of as many of them as could be carried out here."""
        drawn = self._draw(count)
        leased = batch.fetch(count, lease_ms, worker, self._now_ms, self._nonces, drawn, _PIECE_BYTES - len(output))
        for held in leased:
            replies.put_fetched(output, held.lease_id, held.task_id, held.fresh.payload, resp3)
        return leased

    def turn_begins(self) -> None:
        """What was carried out so far belongs to a turn now; what comes from here on will belong to the next."""
        self._told_in_turn, self._told = self._told, []
        self._in_turn, self.commands = self.commands, 0
        self._is_turn_under_way = True
        self._let_go()

    def turn_over(self, refused: Refused | None) -> int:
        """The turn is committed, or refused: then none of it happened. How many commands it had from here."""
        for told in self._told_in_turn:
            told.ready = True
            if refused is not None:
                told.output = encode(Error(refused.code, refused.text), False) * told.count
                told.leases.clear()
        self._told_in_turn.clear()
        commands, self._in_turn = self._in_turn, 0
        self._is_turn_under_way = False
        return commands

    def _let_go(self) -> None:
        """Of batches, which keep what happened in them; they are over."""
        self._batches.clear()
        self.queue, self._batch = b"", None

    def _batch_of(self, raw: bytes) -> Batch | None:
        """That of this queue; None: it is not for the lane."""
        return self._batch if raw == self.queue else self._another(raw)

    def _another(self, raw: bytes) -> Batch | None:
        batch = self._batches.get(raw)
        if batch is None:
            try:
                queue = queue_name(raw)
            except Refused:
                return None
            # Nobody begins to wait while the batch is open: waiting begins in turns, and a turn ends it.
            if self._waiting.awaits(queue):
                return None
            batch = self._plain.batch(queue)
            if batch is None:
                return None
            self._batches[raw] = batch
        self.queue, self._batch = raw, batch
        return batch

    def _reads(self, timeout: bytes) -> bool:
        """Note what this timeout says, if it is one."""
        try:
            self.lease_ms = fetch_timeout(timeout)
        except Refused:
            return False
        self.timeout = timeout
        return True

    def _draw(self, count: i64) -> i64:
        """Where in `_nonces` so many begin that nobody has had. Those that are not needed in the end are lost."""
        drawn = self._drawn
        end = drawn + count * ids.NONCE_DIGITS
        if end > len(self._nonces):
            self._nonces = self._plain.digits(_NONCES * ids.NONCE_DIGITS)
            drawn, end = 0, count * ids.NONCE_DIGITS
        self._drawn = end
        return drawn


def _joined(leases: list[Held], more: list[Held]) -> list[Held]:
    """Both, in a list that is already there: a run has mostly one list of them, or none."""
    if leases is _NO_LEASES:
        return more
    leases += more
    return leases
