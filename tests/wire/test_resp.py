"""RESP: requests are read the same however they were cut, faults are named, and no reply breaks the framing."""

import math
import random
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moxy.wire import resp, scan
from moxy.wire.resp import NULL_ARRAY, OK, PONG, Error, Parser, Simple, Value, Verbatim, encode, encode_into, parse_int

Scan = Callable[[bytes, list[list[bytes]], int, int], int]
SCANS: dict[str, Scan] = {"by lines": scan.by_lines, "by bytes": scan.by_bytes}


@pytest.fixture(params=SCANS, autouse=True, scope="module")
def fast_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds over both forms of the fast path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resp, "plain_commands", SCANS[request.param])
        yield


Command = list[bytes]
Outcome = tuple[list[Command], str | None]

INT64_MAX = 2**63 - 1


def request(*args: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


def feed_all(parser: Parser, chunks: list[bytes]) -> Outcome:
    """What came out of the chunks, having checked after each that no more is held than was fed."""
    commands: list[Command] = []
    fed_bytes = 0
    for chunk in chunks:
        commands += parser.feed(chunk)
        fed_bytes += len(chunk)
        assert parser.buffered_bytes <= fed_bytes
    return commands, parser.fault


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at every place."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]


def outcome_however_cut(data: bytes, **limits: int) -> Outcome:
    whole, *others = [feed_all(Parser(**limits), chunks) for chunks in chunkings(data)]
    assert all(other == whole for other in others)
    return whole


ENQUEUE = request(b"MOXY.ENQUEUE", b"jobs", b"x" * 40)
VALID: list[tuple[bytes, list[Command]]] = [
    (ENQUEUE, [[b"MOXY.ENQUEUE", b"jobs", b"x" * 40]]),
    (request(b"PING") * 3, [[b"PING"]] * 3),
    (request(b"ECHO", b"") + request(b"", b"\x00\xff"), [[b"ECHO", b""], [b"", b"\x00\xff"]]),
    (request(b"ECHO", b"a\r\nb") + request(b"PING"), [[b"ECHO", b"a\r\nb"], [b"PING"]]),
    (request(b"ECHO", b"\r\n$4\r\n", b"*1\r\n"), [[b"ECHO", b"\r\n$4\r\n", b"*1\r\n"]]),
    (request(b"ECHO", b"\r", b"\n") * 2, [[b"ECHO", b"\r", b"\n"]] * 2),
    (request(*[b"%d" % n for n in range(40)]), [[b"%d" % n for n in range(40)]]),
    (request(b"ECHO", b"y" * 1100), [[b"ECHO", b"y" * 1100]]),
    (b"*0\r\n*-1\r\n*-10\r\n" + request(b"PING") + b"*0\r\n", [[b"PING"]]),
    (b"PING\r\n", [[b"PING"]]),
    (b"\r\n\n  \r\nPING\n PING \t\r\r\n", [[b"PING"]] * 2),
    (b"PING\n" + ENQUEUE + b"ECHO a\r\n", [[b"PING"], [b"MOXY.ENQUEUE", b"jobs", b"x" * 40], [b"ECHO", b"a"]]),
    (b"ECHO 'it\\'s' \"\\x41\\n\\\"\"\r\n", [[b"ECHO", b"it's", b'A\n"']]),
]

HUGE = b"9" * 18
FAULTS: list[tuple[bytes, str]] = [
    *[(b"%c4\r\nPING\r\n" % byte, f"expected array, got '{chr(byte)}'") for byte in b"$:+-%~_#,(=>|!"],
    (b"*1\r\nX", "expected '$', got 'X': every element of a command must be a bulk string"),
    (b"*1\r\n:1\r\n", "expected '$', got ':': every element of a command must be a bulk string"),
    (b"*1\r\n\r\n", r"expected '$', got '\r': every element of a command must be a bulk string"),
    (b"*1\r\n\xff", r"expected '$', got '\xff': every element of a command must be a bulk string"),
    (b"*2\r\n$1\r\na\r\n*1\r\n", "expected '$', got '*': every element of a command must be a bulk string"),
    *[(b"*%b\r\n" % bad, "invalid multibulk length") for bad in (b"", b"x", b"+1", b"01", b" 1", b"1 ", b"1_0", b"-0")],
    (b"*1\n$4\r\nPING\r\n", "invalid multibulk length"),
    (b"*1\rx\r\n", "invalid multibulk length"),
    (b"*1025\r\n", "invalid multibulk length: 1025 elements is over the limit of 1024"),
    (b"*%d\r\n" % INT64_MAX, f"invalid multibulk length: {INT64_MAX} elements is over the limit of 1024"),
    (b"*%d\r\n" % (INT64_MAX + 1), "invalid multibulk length"),
    (b"*" + b"1" * 33, "too big mbulk count string"),
    (b"*" + b"1" * 32 + b"\r\n", "too big mbulk count string"),
    *[
        (b"*1\r\n$%b\r\n" % bad, "invalid bulk length")
        for bad in (b"", b"x", b"+4", b"04", b" 4", b"1_0", b"-1", b"-0")
    ],
    (b"*1\r\n$4\nPING\r\n", "invalid bulk length"),
    (b"*1\r\n$2097152\r\n", "invalid bulk length: 2097152 bytes is over the limit of 1048576"),
    (b"*1\r\n$" + b"1" * 33, "too big bulk count string"),
    (b"*1\r\n$3\r\nPING\r\n", "missing CRLF after bulk string"),
    (b"*1\r\n$4\r\nPING\n\r", "missing CRLF after bulk string"),
    (b"*2\r\n$4\r\nECHO\r\n$1\r\nab\r\n", "missing CRLF after bulk string"),
    *[(b"ECHO %b\r\n" % bad, "unbalanced quotes in request") for bad in (b'"a', b"'a", b'"a"b', b"'a'b", b"'a\\'")],
]


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "commands"), VALID)
def test_commands_are_the_same_however_they_are_cut(data: bytes, commands: list[Command]) -> None:
    assert outcome_however_cut(data) == (commands, None)


@pytest.mark.parametrize(("data", "commands"), VALID)
def test_the_start_of_a_next_command_is_held_and_waits(data: bytes, commands: list[Command]) -> None:
    for size in range(1, len(ENQUEUE)):
        parser = Parser()
        assert feed_all(parser, [data + ENQUEUE[:size]]) == (commands, None)
        assert feed_all(parser, [ENQUEUE[size:]]) == ([[b"MOXY.ENQUEUE", b"jobs", b"x" * 40]], None)
        assert parser.buffered_bytes == 0
    assert outcome_however_cut(data + b"*2\r\n$4\r\nECHO\r\n$3\r\nab") == (commands, None)
    assert outcome_however_cut(data + b"PING") == (commands, None)


@given(
    commands=st.lists(st.lists(st.binary(max_size=12) | st.just(b"a\r\nb"), min_size=1, max_size=5), max_size=6),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_any_commands_come_back_from_any_cuts(commands: list[Command], cuts: list[int]) -> None:
    data = b"".join(request(*command) for command in commands)
    chunks = [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data) + 200])]
    assert feed_all(Parser(), chunks) == (commands, None)


@pytest.mark.parametrize(
    ("line", "command"),
    [  # each answer is that of Redis 7.0
        (b"a b\tc", [b"a", b"b", b"c"]),
        (b'foo"bar" x', [b"foobar", b"x"]),
        (b"\"\" ''", [b"", b""]),
        (rb'"\n\r\t\b\a\\\q\""', [b'\n\r\t\b\a\\q"']),
        (rb'"\x41\xfF\x4\xzz"', [b"A\xffx4xzz"]),
        (rb"'\n\x41'", [rb"\n\x41"]),
        (rb"'a\'b'", [b"a'b"]),
        (rb"\x41\n", [rb"\x41\n"]),
        (b"\x0b\x0ca\x0bb\x0c", [b"a\x0bb\x0c"]),
        (b"'\xe9\x00'", [b"\xe9\x00"]),
    ],
)
def test_inline_quoting_is_that_of_redis(line: bytes, command: Command) -> None:
    assert outcome_however_cut(line + b"\r\n") == ([command], None)
    assert outcome_however_cut(line + b" \n") == ([command], None)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("line", [b' a  "b', b"\t\t'", b'a "b" "', b" " * 60_000 + b'"', b'"' + b"\\a" * 30_000])
def test_an_unclosed_quote_is_refused_and_not_searched_for_ever(line: bytes) -> None:
    assert feed_all(Parser(), [line + b"\n"]) == ([], "Protocol error: unbalanced quotes in request")


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "text"), FAULTS)
def test_a_fault_is_named_and_the_commands_before_it_are_kept(data: bytes, text: str) -> None:
    assert outcome_however_cut(data) == ([], "Protocol error: " + text)
    assert outcome_however_cut(request(b"PING") + b"PING\n" + data) == ([[b"PING"]] * 2, "Protocol error: " + text)


def test_every_fault_text_is_printable_on_one_line() -> None:
    for byte in range(256):
        for data in (b"*1\r\n%c\r\n" % byte, b"%c\r\n" % byte):
            fault = feed_all(Parser(), [data])[1]
            assert fault is None or (fault.isprintable() and fault.isascii())


def test_after_a_fault_nothing_is_parsed_and_nothing_is_held() -> None:
    parser = Parser()
    assert parser.feed(request(b"PING") + b"*2\r\n$1\r\na\r\nX" + request(b"PING")) == [[b"PING"]]
    fault = parser.fault
    assert fault is not None
    assert parser.buffered_bytes == 0
    assert parser.feed(request(b"PING")) == []
    assert parser.feed(b"$") == []
    assert (parser.fault, parser.buffered_bytes) == (fault, 0)


def test_limits_are_inclusive() -> None:
    limits = {"bulk_bytes_max": 8, "elements_max": 3, "inline_bytes_max": 16}
    at_limit = request(b"a" * 8, b"", b"") + b"b c d" + b" " * 11 + b"\n"
    assert outcome_however_cut(at_limit, **limits) == ([[b"a" * 8, b"", b""], [b"b", b"c", b"d"]], None)
    for data, text in [
        (request(b"a" * 9), "invalid bulk length: 9 bytes is over the limit of 8"),
        (request(b"", b"", b"", b""), "invalid multibulk length: 4 elements is over the limit of 3"),
        (b" " * 17, "too big inline request"),
        (b" " * 17 + b"\n", "too big inline request"),
        (b"a b c d\n", "too big inline request"),
        (b"a" * 9 + b"\n", "too big inline request"),
    ]:
        assert outcome_however_cut(data, **limits) == ([], "Protocol error: " + text)


@pytest.mark.parametrize("limit", [1024, 1025, 2000])
def test_the_limit_of_a_bulk_is_inclusive_also_where_lengths_are_not_looked_up(limit: int) -> None:
    """Lengths up to 1,024 come out of a table; above, and in pieces, the header is read by another method."""
    at_limit = request(b"ECHO", b"a" * limit)
    assert outcome_however_cut(at_limit, bulk_bytes_max=limit) == ([[b"ECHO", b"a" * limit]], None)
    over = f"Protocol error: invalid bulk length: {limit + 1} bytes is over the limit of {limit}"
    assert outcome_however_cut(request(b"ECHO", b"a" * (limit + 1)), bulk_bytes_max=limit) == ([], over)


def test_limits_can_be_tightened_and_widened_between_commands() -> None:
    parser = Parser()
    parser.set_limits(bulk_bytes_max=16 * 1024, elements_max=10)
    assert parser.feed(request(*[b"AUTH"] * 10)) == [[b"AUTH"] * 10]
    parser.set_limits(bulk_bytes_max=1024 * 1024, elements_max=1024)
    assert parser.feed(request(b"ECHO", b"x" * 20_000)) == [[b"ECHO", b"x" * 20_000]]
    parser.set_limits(bulk_bytes_max=16 * 1024, elements_max=10)
    assert parser.feed(request(*[b"a"] * 11)) == []
    assert parser.fault == "Protocol error: invalid multibulk length: 11 elements is over the limit of 10"


# --- bounds -----------------------------------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three flips, cuts, insertions or swaps."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, to = sorted((rng.randrange(len(mutant) + 1), rng.randrange(len(mutant) + 1)))
        match rng.randrange(4):
            case 0 if at < len(mutant):
                mutant[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutant[at : min(to, at + 8)]
            case 2:
                mutant[at:at] = rng.choice(
                    [b"\r\n", b"\n", b"\r", b"$", b"*", b'"', b"'", b"\\", b"-", b"9", b"0", b" "]
                )
            case _:
                mutant[at:to] = mutant[at:to][::-1] if to - at < 8 else mutant[at:to][-4:] + mutant[at:to][:-4]
    return bytes(mutant)


@pytest.mark.parametrize("seed", range(10))
def test_mutated_requests_end_the_same_way_however_they_are_cut(seed: int) -> None:
    limits = {"bulk_bytes_max": 64, "elements_max": 8, "inline_bytes_max": 96}
    held_bytes_max = 8 * 64 + 96 + 2
    rng = random.Random(seed)
    requests = [data for data, _ in VALID if len(data) < 200] + [data for data, _ in FAULTS]
    faults: set[str | None] = set()
    for _ in range(2_000):
        data = mutated(b"".join(rng.choices(requests, k=rng.randint(1, 3))), rng)
        whole, bytewise, pieces = Parser(**limits), Parser(**limits), Parser(**limits)
        outcome = feed_all(whole, [data])
        assert feed_all(pieces, re.findall(rb"(?s).{1,%d}" % rng.randint(2, 40), data)) == outcome
        commands: list[Command] = []
        for byte in data:
            commands += bytewise.feed(bytes([byte]))
            assert bytewise.buffered_bytes <= held_bytes_max
        assert (commands, bytewise.fault) == outcome
        assert whole.buffered_bytes == bytewise.buffered_bytes == pieces.buffered_bytes
        faults.add(outcome[1])
    assert len(faults) > 20  # the mutants went everywhere


@pytest.mark.parametrize("header", [b"*%b\r\n" % HUGE, b"*1\r\n$%b\r\n" % HUGE])
def test_a_promise_of_a_gigantic_length_allocates_nothing(header: bytes) -> None:
    parser = Parser(bulk_bytes_max=10**18, elements_max=10**18)
    tracemalloc.start()
    try:
        parser.feed(header)
        parser.feed(b"$1\r\nx")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parser.fault is None
    assert peak_bytes < 8 * 1024


def looked_at_bytes(chunks: list[bytes]) -> int:
    """The work of a parser: how many bytes it looked at, as often as it did."""
    looked_at = 0

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        nonlocal looked_at
        if event == "call" and frame.f_code.co_name == "_parse":
            looked_at += len(frame.f_locals["data"])

    parser = Parser(bulk_bytes_max=4 * 1024 * 1024)
    sys.setprofile(on_event)
    try:
        for chunk in chunks:
            parser.feed(chunk)
    finally:
        sys.setprofile(None)
    assert (parser.fault, parser.buffered_bytes) == (None, 0)
    return looked_at


@pytest.mark.skipif(not resp.__file__.endswith(".py"), reason="compiled code has no frames to count in")
@pytest.mark.parametrize(
    ("data", "chunk_bytes", "times_max"),
    [
        (request(b"ECHO", b"x" * 2**20), 1, 2),
        (request(b"ECHO", b"x" * 2**20), 2**16, 2),
        (request(b"ECHO", b"x" * 2**21), 2**16, 2),
        (request(b"ECHO", b"\r\n" * 2**16), 1, 2),
        (request(*[b"x" * 20] * 1000), 1, 8),  # every byte of a short header is a reason to look
        (request(b"PING") * 5000, 1, 8),
        (b"a " * 500 + b"x" * 60_000 + b"\n", 1, 2),
        ((b"a" * 50 + b"\n") * 1000, 1, 2),
    ],
)
def test_work_is_linear_in_the_bytes_received(data: bytes, chunk_bytes: int, times_max: int) -> None:
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    assert 0 < looked_at_bytes(chunks) <= times_max * len(data) + 100


# --- integers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -1, 9, 10, -10, 1000, INT64_MAX, -(2**63)])
def test_canonical_integers_are_read(value: int) -> None:
    assert parse_int(b"%d" % value) == value


@pytest.mark.parametrize(
    "text",
    [
        *["", "-", "+4", "04", "00", "-0", "-04", " 4", "4 ", "4\n", "1_0", "1.0", "1e3", "0x1", "--1", "1-", "x"],
        *["\u0664", "\xb2", "\0", "9223372036854775808", "-9223372036854775809", "9" * 19, "9" * 5000],
    ],
)
def test_anything_else_is_no_integer(text: str) -> None:
    assert parse_int(text.encode()) is None


@given(
    st.binary(max_size=24) | st.text("0123456789-+ _", max_size=24).map(str.encode) | st.integers().map(b"%d".__mod__)
)
def test_an_integer_is_what_prints_as_it_was_read(data: bytes) -> None:
    canonical = re.fullmatch(rb"0|-?[1-9][0-9]*", data) and -(2**63) <= int(data) <= INT64_MAX
    assert parse_int(data) == (int(data) if canonical else None)


# --- replies ----------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> Any:
    value, rest = decode_first(data)
    assert rest == b""
    return value


def decode_first(data: bytes) -> tuple[Any, bytes]:
    """A client's reader, written from the protocol's description: the first value and the bytes after it."""
    line, ended, rest = data.partition(b"\r\n")
    assert ended
    assert b"\r" not in line
    assert b"\n" not in line
    kind, text = line[:1], line[1:]
    match kind:
        case b"+" | b"-":
            return (kind, text.decode()), rest
        case b":":
            return int(text), rest
        case b",":
            return float(text), rest
        case b"#":
            return {b"t": True, b"f": False}[text], rest
        case b"_":
            assert text == b""
            return None, rest
        case b"$" | b"=" if text != b"-1":
            body, rest = rest[: int(text)], rest[int(text) :]
            assert len(body) == int(text)
            assert rest[:2] == b"\r\n"
            return body if kind == b"$" else (kind, body), rest[2:]
        case b"$":
            return None, rest
        case b"*" if text == b"-1":
            return "null array", rest
        case b"*" | b"%":
            items = []
            for _ in range(int(text) * (2 if kind == b"%" else 1)):
                item, rest = decode_first(rest)
                items.append(item)
            return items if kind == b"*" else dict(zip(items[::2], items[1::2], strict=True)), rest
    raise AssertionError(f"no RESP: {line!r}")


def as_seen(value: Any, resp3: bool) -> Any:
    """What a client is to understand of a value."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace")
        case bool():
            return value if resp3 else int(value)
        case float():
            return value if resp3 else repr(value).encode()
        case list() | tuple():
            return [as_seen(item, resp3) for item in value]
        case dict():
            pairs = [(as_seen(key, resp3), as_seen(item, resp3)) for key, item in value.items()]
            return dict(pairs) if resp3 else [word for pair in pairs for word in pair]
        case Simple():
            return (b"+", value.text)
        case Error():
            return (b"-", f"{value.code} {value.text}")
        case Verbatim():
            return (b"=", b"txt:" + value.text.encode()) if resp3 else value.text.encode()
    if value is NULL_ARRAY:
        return None if resp3 else "null array"
    return value


plain = st.text("abc \u00e9\U0001f600", max_size=8)
words = st.binary(max_size=8) | st.text(max_size=8) | st.just("\ud800")
leaves = (st.none() | st.booleans() | st.integers(-(2**63), INT64_MAX) | st.floats(allow_nan=False) | words) | (
    plain.map(Simple) | plain.map(Verbatim) | plain.map(lambda text: Error("ERR", text)) | st.just(NULL_ARRAY)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.binary(max_size=4), inner, max_size=3)
        | st.dictionaries(plain, inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("resp3", [False, True])
@given(value=values)
@example(value=["lease_id", b"l1", {"payload": b"a\r\nb", "attempts": 0}, NULL_ARRAY, None, [], (), {}, math.inf])
def test_a_client_reads_back_what_was_said(resp3: bool, value: Any) -> None:
    data = encode(value, resp3)
    assert decode(data) == as_seen(value, resp3)
    out = [OK]
    encode_into(out, value, resp3)
    assert b"".join(out) == OK + data


@pytest.mark.parametrize(
    ("value", "resp2", "resp3"),
    [
        (None, b"$-1\r\n", b"_\r\n"),
        (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        (-5, b":-5\r\n", b":-5\r\n"),
        (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
        (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
        (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
        (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        ("\u00e9", b"$2\r\n\xc3\xa9\r\n", b"$2\r\n\xc3\xa9\r\n"),
        (["a", (1,)], b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n"),
        ({"a": True}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n#t\r\n"),
        (Simple("OK"), OK, OK),
        (Simple("PONG"), PONG, PONG),
        (Error("NOLEASE", "expired"), b"-NOLEASE expired\r\n", b"-NOLEASE expired\r\n"),
        (Verbatim("a\u00e9"), b"$3\r\na\xc3\xa9\r\n", b"=7\r\ntxt:a\xc3\xa9\r\n"),
    ],
)
def test_each_kind_of_reply_byte_by_byte(value: Value, resp2: bytes, resp3: bytes) -> None:
    assert encode(value, resp3=False) == resp2
    assert encode(value, resp3=True) == resp3


def test_what_has_no_resp_is_a_bug() -> None:
    with pytest.raises(TypeError, match="no RESP for set"):
        encode({1}, resp3=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("resp3", [False, True])
@given(
    said=st.binary() | st.sampled_from([b"x\r\n:1\r\n", b"\n+OK", b"\r", b"\x00\x1b[2J\x7f", b"\xc2\x9b", b"\xc2\x85"])
)
def test_bytes_of_a_client_in_an_error_never_break_the_framing(resp3: bool, said: bytes) -> None:
    for errors in ("replace", "surrogateescape", "backslashreplace"):
        text = said.decode("utf-8", errors)
        for value in (Error("ERR", f"unknown command '{text}'"), Error(text, "x"), Simple(text)):
            kind, line = decode(encode(value, resp3))
            assert kind in (b"-", b"+")
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)


def test_control_characters_in_an_error_become_spaces() -> None:
    assert encode(Error("ERR", "a\r\n+OK\tb\x1b"), resp3=False) == b"-ERR a  +OK b \r\n"
