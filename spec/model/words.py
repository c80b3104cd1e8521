"""Words of a command: read from left to right, or refused.

What lives here: the shapes of names, numbers, options, and the refusals and other replies that are no data. What must
not live here: what depends on the state of a queue.
"""

import enum
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from spec.model.limits import MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_QUEUE_BYTES, MAX_REASON_BYTES


@dataclass(frozen=True)
class Refusal:
    """A coded refusal: the first word of an error reply. A refused command changes nothing [I12]."""

    code: str


class Blocked(enum.Enum):
    """The type of `BLOCKED`, so that a type checker can tell it from other replies."""

    BLOCKED = "BLOCKED"


BLOCKED: Final = Blocked.BLOCKED
"""What `execute` returns for a FETCH that now waits; its reply comes later, from `take_answers`."""

Reply = dict[str, object] | Sequence[object] | int | Refusal | Blocked | None


class RefusedError(Exception):
    """Carries a code from wherever a check fails to `execute`; raised before anything has changed."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def refuse(code: str) -> NoReturn:
    raise RefusedError(code)


Check = Callable[[bytes], object]
"""Refuses a value of an option that is not right."""


def utf8(raw: bytes) -> str:
    """UTF-8, or a syntax error."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        refuse("ERR")


def lookup(raw: bytes) -> str:
    """An id to look something up by: what is not UTF-8 is the id of nothing, hence unknown, not refused."""
    return raw.decode(errors="surrogateescape")


def has_control_or_space(text: str) -> bool:
    return any(unicodedata.category(char) == "Cc" or char.isspace() for char in text)


def queue_name(raw: bytes) -> str:
    """1 to 255 bytes of UTF-8 without control characters, white space and braces [Names and ids]."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        refuse("BADQUEUE")
    if not 1 <= len(raw) <= MAX_QUEUE_BYTES or has_control_or_space(name) or "{" in name or "}" in name:
        refuse("BADQUEUE")
    return name


def task_id_of(raw: bytes) -> str:
    """An id given with ID: 1 to 128 bytes of UTF-8 without control characters and white space [Names and ids]."""
    if len(raw) > MAX_ID_BYTES:
        refuse("TOOBIG")
    if not raw or has_control_or_space(utf8(raw)):
        refuse("ERR")
    return utf8(raw)


def payload_of(raw: bytes) -> bytes:
    if len(raw) > MAX_PAYLOAD_BYTES:
        refuse("TOOBIG")
    return raw


def integer(raw: bytes, low: int, high: int, code: str = "ERR") -> int:
    """A decimal integer as Redis writes one (no sign, no leading zero) within the range, or the refusal."""
    if not re.fullmatch(rb"0|[1-9][0-9]{0,18}", raw) or not low <= int(raw) <= high:
        refuse(code)
    return int(raw)


def within(low: int, high: int, code: str = "ERR") -> Check:
    return lambda raw: integer(raw, low, high, code)


def reason_of(raw: bytes) -> str:
    """The text of a NACK: at most 1,024 bytes of UTF-8 [Limits]."""
    if len(raw) > MAX_REASON_BYTES:
        refuse("TOOBIG")
    return utf8(raw)


def lease_id_of(raw: bytes) -> str:
    """QUEUE:NUMBER:TOKEN:NONCE; what is not of that shape was never a lease, and is refused before what follows it."""
    lease_id = lookup(raw)
    if not re.fullmatch(r".*:[0-9]{1,19}:[0-9]{1,19}:[^:]*", lease_id, re.DOTALL):
        refuse("NOLEASE")
    return lease_id


def state_name(raw: bytes) -> str:
    """One of the four states that a task can rest in, in any case."""
    state = lookup(raw.lower())
    if state not in ("ready", "scheduled", "processing", "dead"):
        refuse("ERR")
    return state


def check_cursor(raw: bytes) -> None:
    """Opaque: `0`, or one from an earlier reply, which begins with `>`."""
    if raw != b"0" and not raw.startswith(b">"):
        refuse("ERR")


def options_of(args: list[bytes], valued: dict[str, Check], flags: str = "", either: str = "") -> dict[str, bytes]:
    """Option words, case-insensitive, in any order, each at most once: word -> value (b"" for a flag).

    Checked from left to right, so what is wrong first is what is refused. Of the words in `either` only one may come.
    """
    given: dict[str, bytes] = {}
    rest = list(args)
    while rest:
        word = lookup(rest.pop(0).upper())
        if word in given or (word in either.split() and any(other in given for other in either.split())):
            refuse("ERR")
        if word in flags.split():
            given[word] = b""
        elif word in valued and rest:
            given[word] = rest.pop(0)
            valued[word](given[word])
        else:
            refuse("ERR")
    return given


def optional(given: dict[str, bytes], word: str) -> int | None:
    """The number that came with an option; it is checked already."""
    return int(given[word]) if word in given else None
