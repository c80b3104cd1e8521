"""RESP2 and RESP3 for a server: requests in, replies out.

What lives here: the parser, from the bytes of one connection to argument vectors; the encoder, from plain values to
bytes; the limits that bound what one connection may make us hold.
What must not: sockets, asyncio, verbs, the meaning of an argument. Bytes come in as arguments and go out as results.

The rules:
- The commands and the fault depend on the bytes alone, never on how the network cut them.
- Memory grows with the bytes received, never with a length that a header promises.
- Work is linear in the bytes received: what is incomplete is looked at again only once it can be complete.
- A fault is final but loses nothing: the commands before it are returned, `Parser.fault` says what is wrong, and not
  a byte is parsed after it, because nobody knows where the next command begins.
- No reply breaks the framing, whatever bytes of a client it echoes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, final

from moxy.wire.scan import plain_commands

_CRLF: Final = b"\r\n"
_ARRAY: Final = ord("*")
_BULK: Final = ord("$")
_OTHER_TYPES: Final = b"$:+-%~_#,(=>|!"  # a line that begins with one is RESP, but no command, inline or other
_HEADER_BYTES_MAX: Final = 32  # `*` or `$` and the longest 64-bit integer take 21

_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1

# Nearly every header is one of these: one look-up checks its type byte and its digits.
_SHORT_BULKS: Final = {b"$%d" % size: size for size in range(1025)}
_UNKNOWN: Final = 1 << 60  # what any other header says until it is read with care: over every limit


def parse_int(data: bytes) -> int | None:
    """A signed 64-bit decimal in its one canonical form, or None: Redis's `string2ll`."""
    digits = data[1:] if data[:1] == b"-" else data
    if not digits.isdigit() or len(digits) > 19 or (digits[:1] == b"0" and data != b"0"):
        return None
    value = int(data)
    return value if _INT64_MIN <= value <= _INT64_MAX else None


# --- requests ---------------------------------------------------------------------------------------------------------


@final
class Parser:
    """The requests of one connection. `feed` it what arrives; when `fault` is set, answer with it and hang up."""

    __slots__ = (
        "_args",
        "_bulk_bytes_max",
        "_elements_max",
        "_held",
        "_in_line",
        "_inline_bytes_max",
        "_missing",
        "_need_bytes",
        "fault",
    )

    def __init__(
        self, bulk_bytes_max: int = 1024 * 1024, elements_max: int = 1024, inline_bytes_max: int = 64 * 1024
    ) -> None:
        self.fault: str | None = None
        self._inline_bytes_max: Final = inline_bytes_max
        self._args: list[bytes] = []  # the elements so far of a command that lacks some
        self._missing: int = 0  # how many it lacks; 0 between commands
        self._held = bytearray()  # the bytes of the first element, header or line that is incomplete
        self._need_bytes: int = 0  # when it holds this many it is worth another look ...
        self._in_line: bool = False  # ... and, if it is a line, already when a newline arrives
        self.set_limits(bulk_bytes_max, elements_max)

    def set_limits(self, bulk_bytes_max: int, elements_max: int) -> None:
        """Limits for the bytes not yet parsed: a server keeps them tight until a client has authenticated."""
        assert max(bulk_bytes_max, elements_max) < _UNKNOWN
        self._bulk_bytes_max: int = bulk_bytes_max
        self._elements_max: int = elements_max

    @property
    def is_midway(self) -> bool:
        """Whether a command has begun, and is not complete; or the client is at fault."""
        return len(self._held) > 0 or self._missing > 0 or self.fault is not None

    @property
    def buffered_bytes(self) -> int:
        """What is held for a command that is incomplete."""
        if not self._held and not self._args:
            return 0
        return len(self._held) + sum(map(len, self._args))

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The commands that `data` completes, in order."""
        commands: list[list[bytes]] = []
        if self.fault is None:
            pos = 0
            if not self._held and not self._missing:  # between commands: nearly always
                pos = plain_commands(data, commands, self._bulk_bytes_max, self._elements_max)
            if pos < len(data):
                self._take(data, pos, commands)
        return commands

    def _take(self, data: bytes, pos: int, commands: list[list[bytes]]) -> None:
        """Parse what is held and `data` from `pos` on, once that is worth it; hold what is not used.

        Apart from `feed`: mypy, and so mypyc, believes an attribute that was None to stay so in the same function.
        """
        was_midway = self._missing > 0
        if self._held:
            was_midway = True
            self._held += data
            if len(self._held) < self._need_bytes and not (self._in_line and b"\n" in data):
                return
            data = bytes(self._held)
        if self._missing:
            pos = self._elements(data, pos, commands)
        if was_midway and not self._missing:
            pos += plain_commands(data[pos:], commands, self._bulk_bytes_max, self._elements_max)
        pos = self._parse(data, pos, commands)
        if self.fault is not None:
            self._args, self._held = [], bytearray()
        elif pos < len(data):
            self._held = bytearray(data[pos:])
        elif self._held:
            self._held = bytearray()

    def _parse(self, data: bytes, pos: int, commands: list[list[bytes]]) -> int:
        """Append the commands from `pos` on that are complete; the offset of the first byte not used.

        The methods it calls take one thing each and return the offset after it. What they cannot take is at fault or
        still incomplete: then they return -1, or leave elements missing, having noted how many bytes to wait for.
        """
        while pos < len(data) and not self._missing:
            after = self._array(data, pos) if data[pos] == _ARRAY else self._inline(data, pos, commands)
            if after < 0:
                break
            pos = self._elements(data, after, commands) if self._missing else after
        return pos

    def _elements(self, data: bytes, pos: int, commands: list[list[bytes]]) -> int:
        """Elements from `pos` on, until the command that lacks them is complete."""
        args, missing = self._args, self._missing
        while missing and pos < len(data):
            eol = data.find(_CRLF, pos)
            length = _SHORT_BULKS.get(data[pos:eol], _UNKNOWN) if eol > 0 else _UNKNOWN
            if length > self._bulk_bytes_max and (length := self._bulk_length(data, pos, eol)) < 0:
                break
            start = eol + 2
            end = start + length
            if data[end : end + 2] != _CRLF:
                self._unfinished_bulk(data, pos, end)
                break
            args.append(data[start:end])
            pos = end + 2
            missing -= 1
        if not missing:
            commands.append(args)
            self._args = []
        self._missing = missing
        return pos

    def _array(self, data: bytes, pos: int) -> int:
        """The header of a command. None or fewer elements are an empty command, which Redis ignores."""
        eol = data.find(_CRLF, pos)
        if not self._is_header(data, pos, eol, "mbulk"):
            return -1
        count = parse_int(data[pos + 1 : eol])
        if count is None:
            return self._fail("invalid multibulk length")
        if count > self._elements_max:
            return self._fail(f"invalid multibulk length: {count} elements is over the limit of {self._elements_max}")
        self._missing = max(count, 0)
        return eol + 2

    def _bulk_length(self, data: bytes, pos: int, eol: int) -> int:
        """The number of bytes that the header at `pos` announces."""
        if data[pos] != _BULK:
            got = _shown(data[pos])
            return self._fail(f"expected '$', got {got}: every element of a command must be a bulk string")
        if not self._is_header(data, pos, eol, "bulk"):
            return -1
        length = parse_int(data[pos + 1 : eol])
        if length is None or length < 0:
            return self._fail("invalid bulk length")
        if length > self._bulk_bytes_max:
            return self._fail(f"invalid bulk length: {length} bytes is over the limit of {self._bulk_bytes_max}")
        return length

    def _is_header(self, data: bytes, pos: int, eol: int, name: str) -> bool:
        """Whether a header starts at `pos`, its CRLF, if there is one, being at `eol`."""
        end = eol if eol >= 0 else len(data) - 1  # the last byte may be half of a CRLF
        if end - pos > _HEADER_BYTES_MAX:
            self._fail(f"too big {name} count string")
            return False
        self._need_bytes, self._in_line = _HEADER_BYTES_MAX + 2, True
        return eol >= 0

    def _unfinished_bulk(self, data: bytes, pos: int, end: int) -> None:
        """The element at `pos` has no CRLF at `end`: it is still arriving, or its length is wrong."""
        if end + 2 <= len(data):
            self._fail("missing CRLF after bulk string")
        self._need_bytes, self._in_line = end + 2 - pos, False

    def _inline(self, data: bytes, pos: int, commands: list[list[bytes]]) -> int:
        """Take the line at `pos` as people type them in telnet; the offset of the next line."""
        if data[pos] in _OTHER_TYPES:
            return self._fail(f"expected array, got {_shown(data[pos])}")
        end = data.find(b"\n", pos, pos + self._inline_bytes_max + 1)
        if end < 0:
            if len(data) - pos > self._inline_bytes_max:
                return self._fail("too big inline request")
            self._need_bytes, self._in_line = self._inline_bytes_max + 1, True
            return -1
        args = _split_inline(data[pos:end])
        if args is None:
            return self._fail("unbalanced quotes in request")
        if args:
            if len(args) > self._elements_max or max(map(len, args)) > self._bulk_bytes_max:
                return self._fail("too big inline request")
            commands.append(args)
        return end + 1

    def _fail(self, text: str) -> int:
        self.fault = "Protocol error: " + text
        return -1


def _shown(byte: int) -> str:
    """A byte of a client, quoted, and escaped unless it is printable ASCII."""
    return repr(bytes((byte,)))[1:]


# Redis's `sdssplitargs`: a word may end in one quoted part, after which there must be a blank or the end of the line.
_WORD: Final = re.compile(
    rb"""\s* (?=\S)
    ([^ \t\r\n"']*)
    (?: "((?: \\. | [^"\\] )*)" (?=\s|\Z)
      | '((?: \\' | \\(?!') | [^'\\] )*)' (?=\s|\Z)
      | (?=[ \t\r\n]|\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def _split_inline(line: bytes) -> list[bytes] | None:
    """The words of a line, or None if its quotes are unbalanced."""
    args: list[bytes] = []
    pos, end = 0, len(line.rstrip())
    while pos < end:
        word = _WORD.match(line, pos)
        if word is None:
            return None
        bare, double, single = word.group(1, 2, 3)
        if double is not None:
            bare += _ESCAPE.sub(_unescape, double)
        elif single is not None:
            bare += single.replace(b"\\'", b"'")
        args.append(bare)
        pos = word.end()
    return args


def _unescape(escape: re.Match[bytes]) -> bytes:
    code: bytes | None = escape[1]
    if code is not None:
        return bytes([int(code, 16)])
    char: bytes = escape[2]
    return _ESCAPES.get(char, char)


# --- replies ----------------------------------------------------------------------------------------------------------

OK: Final = b"+OK\r\n"  # ready bytes for the output, not values for `encode`
PONG: Final = b"+PONG\r\n"


@final
class Simple:
    """A status such as OK."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text: Final = text


@final
class Error:
    """A refusal: a stable code word, then a sentence."""

    __slots__ = ("code", "text")

    def __init__(self, code: str, text: str) -> None:
        self.code: Final = code
        self.text: Final = text


@final
class Verbatim:
    """Text for people: RESP3 tells a client to print it as it is, RESP2 has no word for that."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text: Final = text


@final
class NullArray:
    """No array, as a timed out blocking command says it; RESP3 has one null for everything."""

    __slots__ = ()


NULL_ARRAY: Final = NullArray()

# Give lists, tuples and dicts. The wider types stand here because they are covariant: a `list[bytes]` is a Value too.
Value: TypeAlias = (
    bool
    | int
    | float
    | bytes
    | str
    | Sequence["Value"]
    | Mapping[str, "Value"]
    | Mapping[bytes, "Value"]
    | Simple
    | Error
    | Verbatim
    | NullArray
    | None
)

_SPELL_OUT: Final = "backslashreplace"  # a lone surrogate, which UTF-8 has no bytes for, must not cost us the reply
_CONTROLS_TO_SPACES: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


def encode(value: Value, resp3: bool) -> bytes:
    out: list[bytes] = []
    encode_into(out, value, resp3)
    return b"".join(out)


def encode_into(out: list[bytes], value: Value, resp3: bool) -> None:
    """Append the parts of a reply; the caller joins the parts of many. Recursive: replies are ours, and shallow."""
    if isinstance(value, bytes):
        out.append(b"$%d\r\n%b\r\n" % (len(value), value))
    elif isinstance(value, str):
        text = value.encode("utf-8", _SPELL_OUT)
        out.append(b"$%d\r\n%b\r\n" % (len(text), text))
    elif value is None:
        out.append(b"_\r\n" if resp3 else b"$-1\r\n")
    elif isinstance(value, bool):
        out.append((b"#t\r\n" if value else b"#f\r\n") if resp3 else (b":1\r\n" if value else b":0\r\n"))
    elif isinstance(value, int):
        out.append(b":%d\r\n" % value)
    elif isinstance(value, (list, tuple)):
        out.append(b"*%d\r\n" % len(value))
        for item in value:
            encode_into(out, item, resp3)
    elif isinstance(value, dict):
        out.append(b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value)))
        for key, item in value.items():
            encode_into(out, key, resp3)
            encode_into(out, item, resp3)
    else:
        out.append(_encode_rare(value, resp3))


def _encode_rare(value: Value, resp3: bool) -> bytes:
    if isinstance(value, Error):
        return b"-%b\r\n" % _one_line(f"{value.code} {value.text}")
    if isinstance(value, Simple):
        return b"+%b\r\n" % _one_line(value.text)
    if isinstance(value, NullArray):
        return b"_\r\n" if resp3 else b"*-1\r\n"
    if isinstance(value, float):
        return b",%b\r\n" % repr(value).encode() if resp3 else encode(repr(value), resp3)
    if isinstance(value, Verbatim):
        text = _utf8(value.text)
        return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if resp3 else b"$%d\r\n%b\r\n" % (len(text), text)
    raise TypeError(f"no RESP for {type(value).__name__}")


def _one_line(text: str) -> bytes:
    return _utf8(text.translate(_CONTROLS_TO_SPACES))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", _SPELL_OUT)
