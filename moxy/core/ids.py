"""The shapes of names and ids: what is legal, and how ids are put together and taken apart.

Lives here: text in, text out. Must not: draw a random number; nonces come in as arguments.
"""

from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

from moxy.core.errors import BADQUEUE, ERR, NOLEASE, TOOBIG, Refused
from moxy.core.form import IS_COMPILED
from moxy.core.policy import QUEUE_BYTES_MAX, TASK_ID_BYTES_MAX

_NONCE_MASK: Final = (1 << 64) - 1
NUMBER_MAX: Final = (1 << 63) - 1
NONCE_DIGITS: Final = 16
_DIGITS_MAX: Final = 18
_SHORT: Final = [b"%d" % n for n in range(1000)]
_FULL: Final = [b"%03d" % n for n in range(1000)]
"""Three digits at a time, first ones and others."""
_scratch: Final = BytesWriter()
"""For one id after the other."""


def nonce(seed: int, draw: int) -> int:
    """The `draw`-th 64-bit nonce (from 0) of a command that was given the random `seed`.

    A product with an odd number permutes the 64-bit numbers, so each draw is as random as the seed. The seed 0 gives
    only zeros, by which tests have predictable ids.
    """
    return (seed * (2 * draw + 1) if draw else seed) & _NONCE_MASK


def digits(nonce: int) -> str:
    """A nonce as it stands in ids."""
    return nonce.to_bytes(8).hex()


def task_id(number: int, nonce: str) -> str:
    """An automatic task id: `NUMBER-NONCE`."""
    return f"{number}-{nonce}"


def tells_number(task_id: str, number: int) -> bool:
    """Whether an id begins with that number, as automatic ones do: then the task needs no entry in an index of ids."""
    return task_id.startswith(f"{number}-")


def raw_tells_number(task_id: bytes, number: i64) -> bool:
    """`tells_number` of an id as bytes, if it is as long as automatic ones are; of any other it is not told."""
    at: i64 = len(task_id) - NONCE_DIGITS - 1
    return at > 0 and task_id[at] == 45 and task_id[0] != 48 and decimal(task_id, 0, at) == number


def decimal(raw: bytes, start: i64, end: i64) -> i64:
    """What the digits from `start` to `end` say; -1: they are none, or more than surely fit a number of the machine."""
    if not start < end <= start + _DIGITS_MAX:
        return -1
    number: i64 = 0
    while start < end:
        digit: i64 = raw[start] - 48
        if not 0 <= digit <= 9:
            return -1
        number = number * 10 + digit
        start += 1
    return number


def lease_id(queue: str, number: int, token: int, nonce: str) -> str:
    """`QUEUE:NUMBER:TOKEN:NONCE`: finds queue and task without a search, and never matches after a data loss."""
    return f"{queue}:{number}:{token}:{nonce}"


def raw_task_id(number: int, nonce: bytes) -> bytes:
    """`task_id` as bytes."""
    if not IS_COMPILED:
        return b"%d-%b" % (number, nonce)
    w = _scratch
    w.truncate(0)
    _put_decimal(w, number)
    w.append(45)
    w.write(nonce)
    return w.getvalue()


def raw_lease_id(queue: bytes, number: int, token: int, nonce: bytes) -> bytes:
    """`lease_id` as bytes."""
    if not IS_COMPILED:
        return b"%b:%d:%d:%b" % (queue, number, token, nonce)
    w = _scratch
    w.truncate(0)
    w.write(queue)
    w.append(58)
    _put_decimal(w, number)
    w.append(58)
    _put_decimal(w, token)
    w.append(58)
    w.write(nonce)
    return w.getvalue()


def raw_queue(lease_id: bytes) -> bytes:
    """The queue's name in a lease id; b"": it is none. That it is one is not said."""
    if not IS_COMPILED:
        parts = lease_id.rsplit(b":", 3)
        return parts[0] if len(parts) == 4 else b""
    at: i64 = len(lease_id)
    colons: i64 = 0
    while at > 0 and colons < 3:
        at -= 1
        if lease_id[at] == 58:  # :
            colons += 1
    return lease_id[:at] if colons == 3 else b""


def raw_number(lease_id: bytes, start: i64) -> int:
    """The task's number in a lease id of a queue whose name and colon end at `start`. Of what is no lease id it is any
    number, and not the same in both forms: the lease that is found by it has to be compared."""
    if not IS_COMPILED:
        try:
            return int(lease_id[start : lease_id.index(b":", start)])
        except ValueError:
            return -1
    end: i64 = len(lease_id)
    at = start
    while at < end and lease_id[at] != 58:
        at += 1
    return decimal(lease_id, start, at)


def _put_decimal(w: BytesWriter, n: i64) -> None:
    if n < 1000:
        w.write(_SHORT[n])
    else:
        above = n // 1000
        _put_decimal(w, above)
        w.write(_FULL[n - above * 1000])


def split_lease_id(lease_id: str) -> tuple[str, int, int]:
    """Queue, task number and token of a lease id. Raises Refused NOLEASE for what cannot be one."""
    parts = lease_id.rsplit(":", 3)
    if len(parts) == 4:
        queue, number, token, _ = parts
        # isdecimal lets other scripts' digits in, and int() reads them: a lease id is compared whole later on.
        if number.isdecimal() and token.isdecimal() and len(number) < 20 and len(token) < 20:
            return queue, int(number), int(token)
    raise Refused(NOLEASE, "that is not a lease id: use the lease_id of a MOXY.FETCH reply as it came")


def queue_name(raw: bytes) -> str:
    """A legal queue name. Raises Refused BADQUEUE saying what is wrong with it."""
    if not raw:
        raise Refused(BADQUEUE, "a queue name cannot be empty")
    if len(raw) > QUEUE_BYTES_MAX:
        raise Refused(BADQUEUE, f"a queue name has at most {QUEUE_BYTES_MAX} bytes, this one has {len(raw)}")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Refused(BADQUEUE, "a queue name must be UTF-8") from None
    if not _plain(name) or "{" in name or "}" in name:
        raise Refused(BADQUEUE, "a queue name has no white space, control characters, { or }")
    return name


def client_task_id(raw: bytes) -> str:
    """A legal task id chosen by a client. Raises Refused ERR or TOOBIG."""
    if not raw:
        raise Refused(ERR, "an ID cannot be empty")
    if len(raw) > TASK_ID_BYTES_MAX:
        raise Refused(TOOBIG, f"an ID has at most {TASK_ID_BYTES_MAX} bytes, this one has {len(raw)}")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise Refused(ERR, "an ID must be UTF-8") from None
    if not _plain(name):
        raise Refused(ERR, "an ID has no white space and no control characters")
    return name


def _plain(name: str) -> bool:
    """No white space and no control characters. The quick test is right for nearly every name in use."""
    if name.isascii() and name.isprintable():
        return " " not in name
    return not any(c.isspace() or ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
