"""Structured logs: one JSON object a line on stderr, for machines first.

Lives here: how a line is rendered. Must not: what is told (`eventlog`, the server).

What a client sends stays inside a JSON string, so one line is always one object.
"""

import logging
import sys
from typing import Final, Literal, TextIO

import msgspec
import structlog

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

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
