"""One client's conversation, without I/O: bytes in, requests out; outcomes in, bytes out.

Lives here: the order of replies, what a blocked fetch holds back, authentication's limits, what ends a conversation.
Must not: sockets, the loop, queue rules. Another transport (TLS, a test, a simulation) carries it the same way.

Replies leave in the order of their commands. Each command takes a slot: bytes when it was answered on the spot, or
a request that is still with the service. While a fetch blocks, the commands behind it wait unsubmitted, as in Redis.
"""

from collections import deque
from typing import Final, final

from moxy.backends.base import Done
from moxy.core.answers import deliveries_of
from moxy.core.commands import UNSET, FetchAny, ReadEvents
from moxy.core.errors import ERR, NOAUTH, Refused
from moxy.server.greetings import Greetings
from moxy.server.session import Session
from moxy.service import Request
from moxy.wire.resp import Error, Parser, Value, encode_into
from moxy.wire.table import Row, find

PRE_AUTH_BULK_BYTES_MAX: Final = 16 * 1024
PRE_AUTH_ELEMENTS_MAX: Final = 10
BULK_BYTES_MAX: Final = 1024 * 1024
ELEMENTS_MAX: Final = 1024
HELD_BACK_BYTES_MAX: Final = 2 * BULK_BYTES_MAX
"""What may wait behind a blocked fetch before reading stops. While nothing is read nobody notices that a client left,
so it is much more than a sane client sends; the lease it then gets goes back uncharged."""
OUTPUT_PIECE_BYTES: Final = 1024 * 1024
"""About how much of the replies is made at a time: few bytes of requests can ask for very many of replies."""


@final
class _Slot:
    """The place of a reply: the command's row, how to encode, and the request that will bring the outcome."""

    __slots__ = ("request", "resp3", "row")

    def __init__(self, row: Row, request: Request, resp3: bool) -> None:
        self.row: Final = row
        self.request: Final = request
        self.resp3: Final = resp3

    def leases(self) -> list[str]:
        """The leases that the reply carries: none if it is not that of a fetch that got something."""
        outcome = self.request.outcome
        if self.row.name != "MOXY.FETCH" or not isinstance(outcome, Done):
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
        "_held_back",
        "_held_back_bytes",
        "_parser",
        "_slots",
        "closed",
        "closing",
        "greetings",
        "is_http",
        "session",
        "unsent_leases",
    )

    def __init__(self, session: Session, greetings: Greetings) -> None:
        self.session: Final = session
        self.greetings: Final = greetings
        self._parser: Final = Parser()
        self._slots: deque[bytes | _Slot] = deque()
        self._held_back: deque[list[bytes]] = deque()
        self._held_back_bytes = 0
        self._blocked: Request | None = None
        self.closed = False
        self.closing = False
        self.is_http = False
        self.unsent_leases: list[str] = []
        self._set_limits()

    # What the transport calls

    def receive(self, data: bytes) -> list[Request]:
        """Take bytes from the client; give what is to be submitted to the service, in order.

        From a stranger they are taken line by line, since a command ends with a line: so the limits after an AUTH are
        those of a known client, however the network cut the bytes.
        """
        requests: list[Request] = []
        at = 0
        while at < len(data) and not self.closing:
            end = len(data) if self.session.authenticated else data.find(b"\n", at) + 1 or len(data)
            self._hold_back(self._parser.feed(data[at:end]))
            requests += self.proceed()
            at = end
        return requests

    def proceed(self) -> list[Request]:
        """Go on with the commands that were held back, as far as nothing blocks."""
        requests: list[Request] = []
        while self._held_back and not self.closing:
            if self._blocked is not None:
                if self._blocked.outcome is None:
                    return requests
                self._blocked = None
            argv = self._held_back.popleft()
            self._held_back_bytes -= _size(argv)
            self._begin(argv, requests)
        fault = self._parser.fault
        if fault is not None and not self.closing:
            self.closing = True
            self._say(Error(ERR, fault))
        return requests

    def take_output(self) -> bytes:
        """What can be written now: a piece of the replies, up to the first that is still open. b"": nothing.

        The leases in it are added to `unsent_leases`; the transport clears that once the bytes are out.
        """
        out: list[bytes] = []
        size = counted = 0
        slots = self._slots
        while slots and size < OUTPUT_PIECE_BYTES:
            slot = slots[0]
            if isinstance(slot, bytes):
                out.append(slot)
            else:
                outcome = slot.request.outcome
                if outcome is None:
                    break
                if isinstance(outcome, Done):
                    encode_into(out, slot.row.reply(outcome.answer, slot.request.intent), slot.resp3)
                    self.unsent_leases += slot.leases()
                else:
                    encode_into(out, Error(outcome.code, outcome.text), slot.resp3)
            slots.popleft()
            size += sum(map(len, out[counted:]))
            counted = len(out)
        return b"".join(out)

    def lost_leases(self) -> list[str]:
        """The leases in replies that did not get out, written or not."""
        return self.unsent_leases + [
            lease for slot in self._slots if isinstance(slot, _Slot) for lease in slot.leases()
        ]

    @property
    def finished(self) -> bool:
        """Whether the conversation is over once the output so far has been written."""
        return self.closing and not self._slots

    @property
    def has_output(self) -> bool:
        """Whether there is a reply that can be written."""
        if not self._slots:
            return False
        slot = self._slots[0]
        return isinstance(slot, bytes) or slot.request.outcome is not None

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

    def _hold_back(self, commands: list[list[bytes]]) -> None:
        self._held_back.extend(commands)
        self._held_back_bytes += sum(map(_size, commands))

    def _say(self, value: Value) -> None:
        """Put a reply in its slot."""
        out: list[bytes] = []
        encode_into(out, value, self.session.resp3)
        self._slots.append(b"".join(out))

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

    def _begin(self, argv: list[bytes], requests: list[Request]) -> None:
        if argv[0].upper() in (b"POST", b"HOST:"):
            # A browser was made to speak to this port (cross-protocol scripting, as Redis calls it).
            self.is_http = self.closing = True
            return
        try:
            row = find(argv)
            if not self.session.authenticated and "no_auth" not in row.flags:
                raise Refused(NOAUTH, "Authentication required.")
            if row.parse is None:
                self._greet(row, argv)
                return
            request = Request(self, row.parse(argv, self.session.worker))
        except Refused as refused:
            self._say(Error(refused.code, refused.text))
            return
        self._slots.append(_Slot(row, request, self.session.resp3))
        requests.append(request)
        if isinstance(request.intent, FetchAny | ReadEvents) and request.intent.block_ms != UNSET:
            self._blocked = request
