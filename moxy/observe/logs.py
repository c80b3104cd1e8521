"""Structured logs: what happened, one JSON object a line on stderr, for machines first.

Lives here: how events and the server's own news become log lines. Must not: payload bytes in a line, ever; or a line
per command on the hot path, which only `debug` makes.

What a client sends stays inside a JSON string, so one line is always one object.
"""

import logging
import sys
from typing import Final, Literal, TextIO, final

import msgspec
import structlog

from moxy.core.events import AnyEvent, DeadLettered, Expired, Failed
from moxy.requests import Turn

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_NOTABLE: Final = frozenset((Expired, DeadLettered, Failed))
"""By class: a look-up is quicker than `isinstance`. Nothing that a plain command does is among them."""

Format = Literal["json", "console"]


def configure(level: str, format: Format, stream: TextIO | None = None) -> structlog.typing.FilteringBoundLogger:
    """A logger that drops what is below `level`, and renders for machines or for a terminal."""
    out = sys.stderr if stream is None else stream
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


def _to_json(line: object, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=repr).decode()


@final
class EventLog:
    """An observer: every Expired, DeadLettered and Failed at info, all else at debug."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger, level: str) -> None:
        self._logger: Final = logger
        self._all: Final = LEVELS[level] <= logging.DEBUG
        self._notable: Final = LEVELS[level] <= logging.INFO

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
