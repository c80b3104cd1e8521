"""What happened, told to a log.

Lives here: which events of a turn become lines, and what is in them. Must not: payload bytes in a line, ever; or a line
per command on the hot path, which only `debug` makes. How a line is rendered is for `logs`.
"""

import logging
from typing import Final, Protocol, final

import msgspec

from moxy.core.events import AnyEvent, DeadLettered, Expired, Failed
from moxy.requests import Turn

_NOTABLE: Final = frozenset((Expired, DeadLettered, Failed))
"""By class: a look-up is quicker than `isinstance`. Nothing that a plain command does is among them."""


class Logger(Protocol):
    """structlog's, as far as it is needed here: a build that compiles this module need not have it."""

    def info(self, event: str, **fields: object) -> object:
        """A line for everybody."""

    def debug(self, event: str, **fields: object) -> object:
        """A line for who wants them all."""


@final
class EventLog:
    """An observer: every Expired, DeadLettered and Failed at info, all else at debug."""

    def __init__(self, logger: Logger, level: int) -> None:
        """`level`: below it the logger drops lines, one of `logging`'s numbers."""
        self._logger: Final = logger
        self._all: Final = level <= logging.DEBUG
        self._notable: Final = level <= logging.INFO

    def __call__(self, turn: Turn) -> None:
        """Of what plain commands did nothing is notable: at info those events are not even made."""
        if not self._notable:
            return
        for event in turn.events if self._all else turn.decided:
            if type(event) in _NOTABLE:
                self._logger.info(_name(event), **_fields(event))
            elif self._all:
                self._logger.debug(_name(event), **_fields(event))


def _name(event: AnyEvent) -> str:
    return f"task.{type(event).__name__}" if hasattr(event, "task_id") else f"queue.{type(event).__name__}"


def _fields(event: AnyEvent) -> dict[str, object]:
    """The event's own fields; of a payload only its size."""
    fields: dict[str, object] = {
        name: getattr(event, name) for name in event.__struct_fields__ if name not in ("payload", "policy")
    }
    payload = getattr(event, "payload", None)
    if isinstance(payload, bytes):
        fields["payload_bytes"] = len(payload)
    policy = getattr(event, "policy", None)
    if policy is not None:
        fields.update(msgspec.structs.asdict(policy))
    return fields
