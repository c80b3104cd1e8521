"""One client's conversation, without I/O: bytes in, requests out; outcomes in, bytes out.

Lives here: the order of replies, what a blocked fetch holds back, authentication's limits, what ends a conversation.
Must not: sockets, the loop, queue rules. Another transport (TLS, a test, a simulation) carries it the same way.

Replies leave in the order of their commands. Each command takes a slot: bytes when it was answered on the spot, or
a call that is still with the service; commands that the fast lane took share one. While a fetch blocks, the commands
behind it wait unsubmitted, as in Redis.
"""

from collections import deque
from typing import Final, final

from moxy.backends.base import Done
from moxy.core.answers import deliveries_of
from moxy.core.commands import UNSET, FetchAny, Intent, ReadEvents
from moxy.core.errors import ERR, NOAUTH, Refused
from moxy.requests import Request
from moxy.server.greetings import Greetings
from moxy.server.lane import Lane, Told
from moxy.server.session import Session
from moxy.wire.habit import Habit
from moxy.wire.resp import Error, Parser, Value, encode
from moxy.wire.table import TABLE, Row, find

PRE_AUTH_BULK_BYTES_MAX: Final = 16 * 1024
PRE_AUTH_ELEMENTS_MAX: Final = 10
BULK_BYTES_MAX: Final = 1024 * 1024
ELEMENTS_MAX: Final = 1024
HELD_BACK_BYTES_MAX: Final = 2 * BULK_BYTES_MAX
"""What may wait behind a blocked fetch before reading stops. While nothing is read nobody notices that a client left,
so it is much more than a sane client sends; the lease it then gets goes back uncharged."""
OUTPUT_PIECE_BYTES: Final = 1024 * 1024
"""About how much of the replies is made at a time: few bytes of requests can ask for very many of replies."""


_MAY_BLOCK: Final = (FetchAny, ReadEvents)
_NO_REQUESTS: Final[list[Request]] = []
"""What nearly all that arrives comes to. A list costs more than what it would hold."""


@final
class Call(Request):
    """A request, and the place of its reply: the command's row, and how to encode."""

    __slots__ = ("resp3", "row")

    def __init__(self, client: "Connection", intent: Intent, row: Row, resp3: bool) -> None:
        self.client = client  # what `Request` does: calling it would cost as much as all of this
        self.intent = intent
        self.outcome = None
        self.row: Final = row
        self.resp3: Final = resp3

    def leases(self) -> list[str]:
        """The leases that the reply carries: none if it is not that of a fetch that got something."""
        outcome = self.outcome
        if not self.row.leases or not isinstance(outcome, Done):
            return []
        return [task.lease_id for task in deliveries_of(outcome.answer) if task.lease_id]


def _size(argv: list[bytes]) -> int:
    """About what a command takes in memory, its objects included."""
    return sum(map(len, argv)) + 64 * len(argv)


@final
class Connection:
    """A `service.Client`. `closed` is set by whoever owns the transport, when nobody will read replies any more."""

    __slots__ = (
        "_blocked",
        "_habit",
        "_held_back",
        "_held_back_bytes",
        "_lane",
        "_last",
        "_only",
        "_parser",
        "_queue_before",
        "_slots",
        "_timeout_before",
        "_unsent",
        "_unsent_only",
        "closed",
        "closing",
        "greetings",
        "is_http",
        "session",
    )

    def __init__(self, session: Session, greetings: Greetings, lane: Lane | None = None) -> None:
        self.session: Final = session
        self.greetings: Final = greetings
        self._lane: Final = lane
        self._parser: Final = Parser()
        self._only: Told | None = None
        """What the fast lane has answered, if that is all that is to be said: nearly always. A list that holds one, and
        then none, would get and give back its memory each time."""
        self._slots: list[bytes | Told | Call] = []
        """Else it is in here, too."""
        self._last: Call | None = None
        """The latest call. While it has no outcome what comes behind it cannot take the lane: it would come before."""
        self._habit: Habit | None = None
        """What this client says over and over."""
        self._queue_before = b""
        self._timeout_before = b"DEFAULT"
        """Of its latest plain command, and of its latest plain FETCH."""
        self._held_back: deque[list[bytes]] = deque()
        self._held_back_bytes = 0
        self._blocked: Call | None = None
        self.closed = False
        self.closing = False
        self.is_http = False
        self._unsent_only: Told | None = None
        self._unsent: list[Call | Told] = []
        """What has replies that carry leases and was taken to be written: one run of plain commands, or more."""
        self._set_limits()

    # What the transport calls

    def receive(self, data: bytes) -> list[Request]:
        """Take bytes from the client; give what is to be submitted to the service, in order.

        From a stranger they are taken line by line, since a command ends with a line: so the limits after an AUTH are
        those of a known client, however the network cut the bytes.
        """
        at = self._take_habitual(data)
        if at == len(data):
            return _NO_REQUESTS
        requests: list[Request] = []
        while at < len(data) and not self.closing:
            if self.session.authenticated:
                commands, at = self._parser.feed(data[at:] if at else data), len(data)
            else:
                end = data.find(b"\n", at) + 1 or len(data)
                commands, at = self._parser.feed(data[at:end]), end
            if self._held_back or self.is_blocked:
                self._hold_back(commands)
            else:
                self._begin_all(commands, requests)
            if self._parser.fault is not None:
                self._end_at_fault()
        return requests

    def proceed(self) -> list[Request]:
        """Go on with the commands that were held back, as far as nothing blocks."""
        requests: list[Request] = []
        if self._held_back and not self.is_blocked:
            commands = list(self._held_back)
            self._held_back.clear()
            self._held_back_bytes = 0
            self._begin_all(commands, requests)
            if self._parser.fault is not None:
                self._end_at_fault()
        return requests

    def take_output(self) -> bytes:
        """What can be written now: a piece of the replies, up to the first that is still open. b"": nothing.

        Leases in it can be lost until the transport calls `sent`.
        """
        told = self._only
        if told is not None:
            if not told.ready:
                return b""
            self._only = None
            if told.leases:
                if self._unsent_only is None:
                    self._unsent_only = told
                else:
                    self._unsent.append(told)
            return told.output
        slots = self._slots
        out: list[bytes] = []
        size = 0
        for slot in slots:
            if size >= OUTPUT_PIECE_BYTES:
                break
            if isinstance(slot, bytes):
                part = slot
            elif isinstance(slot, Told):
                if not slot.ready:
                    break
                part = slot.output
                if slot.leases:
                    self._unsent.append(slot)
            else:
                outcome = slot.outcome
                if outcome is None:
                    break
                if isinstance(outcome, Done):
                    row = slot.row
                    answer, intent, resp3 = outcome.answer, slot.intent, slot.resp3
                    part = row.quick(answer, intent, resp3) or encode(row.reply(answer, intent), resp3)
                    if row.leases:
                        self._unsent.append(slot)
                else:
                    part = encode(Error(outcome.code, outcome.text), slot.resp3)
            out.append(part)
            size += len(part)
        del slots[: len(out)]
        return b"".join(out)

    def sent(self) -> None:
        """The output so far is out."""
        self._unsent_only = None
        if self._unsent:
            self._unsent.clear()

    def lost_leases(self) -> list[str]:
        """The leases in replies that did not get out, written or not."""
        told = self._unsent + [slot for slot in self._slots if not isinstance(slot, bytes)]
        told += [only for only in (self._unsent_only, self._only) if only is not None]
        leases: list[str] = []
        for some in told:
            leases += [held.lease_id.decode() for held in some.leases] if isinstance(some, Told) else some.leases()
        return leases

    @property
    def finished(self) -> bool:
        """Whether the conversation is over once the output so far has been written."""
        return self.closing and self._is_silent

    @property
    def awaits_turn(self) -> bool:
        """Whether the fast lane has carried out what belongs to no turn yet."""
        return self._lane is not None and self._lane.commands > 0

    @property
    def is_at_rest(self) -> bool:
        """Whether everything that was said is answered, and the conversation goes on."""
        return self._is_silent and not self._held_back and not self.closing

    @property
    def _is_silent(self) -> bool:
        """Whether there is nothing to be said, now or after a turn."""
        return self._only is None and not self._slots

    @property
    def has_output(self) -> bool:
        """Whether there is a reply that can be written."""
        if self._only is not None:
            return self._only.ready
        if not self._slots:
            return False
        slot = self._slots[0]
        if isinstance(slot, Told):
            return slot.ready
        return isinstance(slot, bytes) or slot.outcome is not None

    @property
    def is_blocked(self) -> bool:
        """Whether a fetch of this client waits."""
        return self._blocked is not None and self._blocked.outcome is None

    @property
    def is_full(self) -> bool:
        """Whether reading should stop: enough waits behind a blocked fetch."""
        return self._held_back_bytes + self._parser.buffered_bytes > HELD_BACK_BYTES_MAX

    def end_of_input(self) -> None:
        """The client will send no more: answer what it asked, but do not wait with it for tasks."""
        self.closing = True
        self._held_back.clear()
        self._held_back_bytes = 0

    # One command

    def _take_habitual(self, data: bytes) -> int:
        """Have the fast lane take what this client says over and over; how many bytes that was."""
        lane, habit = self._lane, self._habit
        if lane is None or habit is None or self._held_back or self.closing:
            return 0
        if self._parser.is_midway or not self._may_overtake():
            return 0
        told = lane.take_habitual(habit, data, self.session.worker, self.session.resp3)
        if told is None:
            return 0
        self._queue_before, self._timeout_before = habit.queue, habit.timeout
        if self._is_silent:
            self._only = told
        else:
            self._to_say(told)
        return lane.used_bytes

    def _learn(self, lane: Lane, told: Told) -> None:
        """What is said twice in a row, of one queue and with one timeout, becomes the habit: of what changes each time
        one is of no use."""
        queue = lane.queue
        timeout = lane.timeout if told.leases else self._timeout_before
        again = queue == self._queue_before and timeout == self._timeout_before
        self._queue_before, self._timeout_before = queue, timeout
        habit = self._habit
        if again and (habit is None or habit.queue != queue or habit.timeout != timeout):
            self._habit = Habit(queue, timeout)

    def _hold_back(self, commands: list[list[bytes]]) -> None:
        self._held_back.extend(commands)
        self._held_back_bytes += sum(map(_size, commands))

    def _to_say(self, slot: bytes | Told | Call) -> None:
        """It is to be said after everything else so far."""
        if self._only is not None:
            self._slots.append(self._only)
            self._only = None
        self._slots.append(slot)

    def _say(self, value: Value) -> None:
        """Put a reply in its slot."""
        self._to_say(encode(value, self.session.resp3))

    def _set_limits(self) -> None:
        """Limits are tight until a client has shown who it is: a stranger gets no megabyte to fill."""
        if self.session.authenticated:
            self._parser.set_limits(BULK_BYTES_MAX, ELEMENTS_MAX)
        else:
            self._parser.set_limits(PRE_AUTH_BULK_BYTES_MAX, PRE_AUTH_ELEMENTS_MAX)

    def _greet(self, row: Row, argv: list[bytes]) -> None:
        was_authenticated = self.session.authenticated
        try:
            self._say(self.greetings.answer(self.session, row, argv))
        finally:
            self.closing = self.closing or self.session.leaving
            if self.session.authenticated != was_authenticated:
                self._set_limits()

    def _begin_all(self, commands: list[list[bytes]], requests: list[Request]) -> None:
        """Begin commands in order. What comes behind a fetch that blocks is held back, behind the end forgotten."""
        self._blocked = None
        at, end = 0, len(commands)
        while at < end:
            lane = self._lane
            if lane is not None and self._may_overtake():
                told = lane.take(commands, at, self.session.worker, self.session.resp3)
                if told is not None:
                    self._to_say(told)
                    self._learn(lane, told)
                    at += told.count
                    if at == end:
                        return
            self._begin(commands[at], requests)
            at += 1
            if self.closing:
                return
            if self.is_blocked:  # not the attribute: a compiler believes it to be None still
                self._hold_back(commands[at:])
                return

    def _may_overtake(self) -> bool:
        """Whether the next command can be carried out at once: nothing of this client is before it."""
        last = self._last
        return (last is None or last.outcome is not None) and self.session.authenticated and not self.closed

    def _begin(self, argv: list[bytes], requests: list[Request]) -> None:
        session = self.session
        try:
            row = TABLE.get(argv[0])
            if row is None or not row.words_min <= len(argv) <= row.words_max:
                if argv[0].upper() in (b"POST", b"HOST:"):
                    # A browser was made to speak to this port (cross-protocol scripting, as Redis calls it).
                    self.is_http = self.closing = True
                    return
                row = find(argv)
            if not session.authenticated and "no_auth" not in row.flags:
                raise Refused(NOAUTH, "Authentication required.")
            if row.parse is None:
                self._greet(row, argv)
                return
            call = Call(self, row.parse(argv, session.worker), row, session.resp3)
        except Refused as refused:
            self._say(Error(refused.code, refused.text))
            return
        self._to_say(call)
        self._last = call
        requests.append(call)
        if row.may_block:
            intent = call.intent
            if isinstance(intent, _MAY_BLOCK) and intent.block_ms != UNSET:
                self._blocked = call

    def _end_at_fault(self) -> None:
        """After the commands before it, once these are begun, say what is wrong, and nothing more."""
        if not self.closing and not self._held_back:
            self.closing = True
            self._say(Error(ERR, self._parser.fault or ""))
