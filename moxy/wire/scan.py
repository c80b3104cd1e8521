"""The commands that client libraries send, taken off a buffer as fast as it goes.

What lives here: the parser's fast path, twice: over lines, which the interpreter splits in one call, and over bytes,
which a compiler (mypyc) turns into a tight loop and which would be slow interpreted. `plain_commands` is the one that
suits the way in which this module runs.
What must not: judgement. Both take only what is certainly right and stop before anything else: what is incomplete,
inline, at fault or rare. The parser in `resp` goes on from there and says what it is.
"""

from typing import Final

from mypy_extensions import i64

from moxy.core.form import IS_COMPILED

_CRLF: Final = b"\r\n"
_DIGITS_MAX: Final = 9

# Nearly every header is one of these: one look-up checks its type byte and its digits.
_SHORT_ARRAYS: Final = {b"*%d" % count: count for count in range(1, 33)}
_SHORT_BULKS: Final = [b"$%d" % size for size in range(1025)]
_SHORT_BULK_BYTES_MAX: Final = len(_SHORT_BULKS) - 1
_SIZES: Final = {b"%d" % size: size for size in range(_SHORT_BULK_BYTES_MAX + 1)}


def by_lines(data: bytes, commands: list[list[bytes]], bulk_bytes_max: int, elements_max: int) -> int:
    """Append the leading commands of `data` that are whole and plain; the offset of the first byte not used.

    Plain: of few elements, with no CRLF in them. There every other line is a header, the lines between are elements.
    """
    lines = data.split(_CRLF)
    unended = len(lines) - 1  # the last one is what follows the last CRLF
    first = 0
    while first < unended:
        count = _SHORT_ARRAYS.get(lines[first], 0)
        after = first + 1 + 2 * count
        if count == 0 or after > unended or count > elements_max:
            break
        args = lines[first + 2 : after : 2]
        header = first + 1
        for arg in args:
            size = len(arg)
            told = lines[header]
            if size <= _SHORT_BULK_BYTES_MAX:
                if told != _SHORT_BULKS[size] or size > bulk_bytes_max:
                    break
            elif told != b"$%d" % size or size > bulk_bytes_max:
                break
            header += 2
        else:
            commands.append(args)
            first = after
            continue
        break
    if first == unended and not lines[first]:
        return len(data)
    return len(data) - len(_CRLF.join(lines[first:]))


def by_bytes(data: bytes, commands: list[list[bytes]], bulk_bytes_max: int, elements_max: int) -> int:
    """As `by_lines`, but of any number of elements, and with any bytes in them.

    A pipeline is mostly one command over and over, but for its last element. So a command that has the same bytes as
    the one before, up to that element, and as long an element there, has the same words, which are not read again.
    """
    end: i64 = len(data)
    first: i64 = 0
    before: list[bytes] = []
    head = b""
    size: i64 = 0
    while first < end:
        stop = first + len(head) + size + 2
        if head and stop <= end and data[first : first + len(head)] == head:
            if data[stop - 2] != 13 or data[stop - 1] != 10:
                return first
            before = before.copy()
            before[-1] = data[stop - 2 - size : stop - 2]
            commands.append(before)
            first = stop
            continue
        if data[first] != 42:  # *
            return first
        at = first + 1
        count: i64 = 0
        while at < end:
            digit: i64 = data[at] - 48
            if not 0 <= digit <= 9:
                break
            count = count * 10 + digit
            at += 1
            if at > first + 1 + _DIGITS_MAX:
                return first
        if at + 2 > end or count == 0 or count > elements_max or data[first + 1] == 48:
            return first
        if data[at] != 13 or data[at + 1] != 10:
            return first
        at += 2
        last: i64 = at
        args: list[bytes] = []
        while count > 0:
            if at >= end or data[at] != 36:  # $
                return first
            last, stop = bulk_by_bytes(data, at + 1)
            size = stop - last
            if stop < 0 or size > bulk_bytes_max:
                return first
            args.append(data[last:stop])
            at = stop + 2
            count -= 1
        commands.append(args)
        if at < end:
            before, head = args, data[first:last]
        first = at
    return first


def bulk_by_lines(data: bytes, at: i64) -> tuple[i64, i64]:
    """`find_bulk` for the interpreter."""
    end = data.find(_CRLF, at, at + _DIGITS_MAX)
    size = _SIZES.get(data[at:end], -1)
    stop = end + 2 + size
    if end < 0 or size < 0 or data[stop : stop + 2] != _CRLF:
        return -1, -1
    return end + 2, stop


def bulk_by_bytes(data: bytes, at: i64) -> tuple[i64, i64]:
    """`find_bulk` for a compiler, of any size."""
    end: i64 = len(data)
    digits = at
    size: i64 = 0
    while at < end:
        digit: i64 = data[at] - 48
        if not 0 <= digit <= 9:
            break
        size = size * 10 + digit
        at += 1
        if at > digits + _DIGITS_MAX:
            return -1, -1
    stop = at + 2 + size
    if at == digits or stop + 2 > end or (data[digits] == 48 and at > digits + 1):
        return -1, -1
    if data[at] != 13 or data[at + 1] != 10 or data[stop] != 13 or data[stop + 1] != 10:
        return -1, -1
    return at + 2, stop


def plain_commands(data: bytes, commands: list[list[bytes]], bulk_bytes_max: int, elements_max: int) -> int:
    """Append the whole and plain commands at the beginning of a buffer; the offset of the first byte not used."""
    if IS_COMPILED:
        return by_bytes(data, commands, bulk_bytes_max, elements_max)
    return by_lines(data, commands, bulk_bytes_max, elements_max)


def find_bulk(data: bytes, at: i64) -> tuple[i64, i64]:
    """Where the bulk string whose size is written at `at` begins and ends, if it is plain and all there; else -1."""
    return bulk_by_bytes(data, at) if IS_COMPILED else bulk_by_lines(data, at)
