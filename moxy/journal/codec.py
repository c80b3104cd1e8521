"""A batch of events as bytes, and back.

Lives here: msgpack, the schema version, the upcasters. Must not: checksums or files; who calls `decode` has checked
the bytes already.

A payload is one byte, the schema version of every event in it, and then a msgpack array of events. An event is an
array too: its class name, then its fields in the order of the class. One decode a record, whatever its batch held.

How to change an event (each step has a test that fails without it):

1. A new field goes at the end of its class, with a default. A new class goes at the end of `AnyEvent`.
   Then old bytes still decode as they are: there is nothing to upcast. Renaming, removing, reordering or giving a
   field another meaning does need an upcaster.
2. Raise `SCHEMA_VERSION` in core/events by one, from N to N + 1.
3. Write an entry `N: function` in `UPCASTERS`, also when it returns its argument as it is. It gets one event of
   version N as plain lists, numbers, strings and bytes, and returns the same for version N + 1.
4. Keep every golden log in tests/journal/golden as it is, and add one of the new version
   (`python tests/journal/make_golden.py`). The old ones must still fold to the states written beside them.
5. Say it in docs/event-log.md. A version is never reused, an upcaster never removed: logs are kept for years.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, final

import msgspec

from moxy.core.events import SCHEMA_VERSION, AnyEvent
from moxy.core.notes import Happened, Written, array_head, body_of

Raw: TypeAlias = list[Any]
"""One event as msgpack knows it: its class name and then its fields."""

UPCASTERS: Final[dict[int, Callable[[Raw], Raw]]] = {}
"""Version -> what turns an event of that version into one of the next."""

_VERSION_BYTE: Final = bytes([SCHEMA_VERSION])
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[AnyEvent])


@final
class Undecodable(Exception):
    """The bytes are no batch of events of any version known here. `too_new`: of a later one."""

    def __init__(self, text: str, too_new: bool = False) -> None:
        super().__init__(text)
        self.too_new: Final = too_new


def encode(events: Sequence[AnyEvent]) -> bytes:
    """The payload of a record."""
    return _VERSION_BYTE + _encoder.encode(events)


def encode_all(happened: Sequence[Happened]) -> bytes:
    """The payload of a record, of events in whatever form they came."""
    if len(happened) == 1:  # nearly always
        only = happened[0]
        return _VERSION_BYTE + array_head(len(only)) + only.body() if isinstance(only, Written) else encode(only)
    parts = [_VERSION_BYTE, array_head(sum(len(some) for some in happened))]
    parts += [body_of(some) for some in happened]
    return b"".join(parts)


def body_at(payload: bytes) -> tuple[int, int]:
    """Where the events of a payload of today's schema begin, and how many there are; (0, 0): it is another one."""
    if len(payload) < 6 or payload[:1] != _VERSION_BYTE:
        return 0, 0
    head = payload[1]
    if 0x90 <= head < 0xA0:
        return 2, head - 0x90
    if head == 0xDC:
        return 4, int.from_bytes(payload[2:4])
    return (6, int.from_bytes(payload[2:6])) if head == 0xDD else (0, 0)


def decode(payload: bytes) -> list[AnyEvent]:
    """The events of a payload, old versions brought up to today's. Raises Undecodable."""
    try:
        if payload[:1] == _VERSION_BYTE:
            return _decoder.decode(memoryview(payload)[1:])
        return _decode_old(payload)
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise Undecodable(f"it holds no events of version {payload[0]}: {e}") from None


def upcast(events: list[Raw], version: int, upcasters: Mapping[int, Callable[[Raw], Raw]], newest: int) -> list[Raw]:
    """`events` brought from `version` to `newest`, step by step. Raises Undecodable when a step is missing."""
    for step in range(version, newest):
        if step not in upcasters:
            raise Undecodable(f"version {step} is not known here")
        events = [upcasters[step](event) for event in events]
    return events


def _decode_old(payload: bytes) -> list[AnyEvent]:
    if not payload:
        raise Undecodable("it is empty")
    version = payload[0]
    if version > SCHEMA_VERSION:
        raise Undecodable(f"its events have version {version}, this program knows {SCHEMA_VERSION}", too_new=True)
    raw = msgspec.msgpack.decode(memoryview(payload)[1:], type=list[list[Any]])
    return msgspec.convert(upcast(raw, version, UPCASTERS, SCHEMA_VERSION), list[AnyEvent])
