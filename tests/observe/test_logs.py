"""The logs: one JSON object a line whatever a client sends, the notable at info, payload bytes never."""

import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from moxy.core.events import (
    EVENT_TYPES,
    Acked,
    AnyEvent,
    DeadLettered,
    Deleted,
    Enqueued,
    Expired,
    Extended,
    Failed,
    Leased,
    Matured,
    Purged,
    QueueConfigured,
    QueuePaused,
    QueueResumed,
    Redriven,
    Released,
    Requeued,
)
from moxy.core.notes import Written
from moxy.core.policy import Policy
from moxy.observe.eventlog import EventLog
from moxy.observe.logs import LEVELS, configure
from moxy.requests import Turn

LEASE = "jobs:7:3:00000000000000aa"
SECRET = b"PAYLOAD-BYTES"

EVENTS: list[AnyEvent] = [
    Enqueued("jobs", 1, 100, 7, "t7", SECRET),
    Matured("jobs", 2, 101, 7, "t7"),
    Leased("jobs", 3, 102, 7, "t7", LEASE, 3, 500, "worker-1", True),
    Extended("jobs", 4, 103, 7, "t7", LEASE, 600),
    Acked("jobs", 5, 104, 7, "t7", LEASE),
    Expired("jobs", 6, 105, 7, "t7", LEASE, 1),
    Failed("jobs", 7, 106, 7, "t7", LEASE, "boom", 2),
    Released("jobs", 8, 107, 7, "t7", LEASE, "disconnect", 3),
    Requeued("jobs", 9, 108, 7, "t7", 900),
    DeadLettered("jobs", 10, 109, 7, "t7", "attempts", "boom", 4),
    Redriven("jobs", 11, 110, 7, "t7", 12),
    Deleted("jobs", 12, 111, 7, "t7"),
    QueueConfigured("jobs", 13, 112, Policy(max_attempts=3)),
    QueuePaused("jobs", 14, 113),
    QueueResumed("jobs", 15, 114),
    Purged("jobs", 16, 115, "dead", 42),
]
NOTABLE = {"Expired", "Failed", "DeadLettered"}

NASTY = [
    "two\nlines",
    "carriage\r\nreturn",
    'a "quote" and a \\ backslash',
    '"}\n{"event":"forged","level":"info"}',
    "nul \x00 bell \x07 escape \x1b[2J\x1b]0;title\x07 delete \x7f",
    "c1 \x85 \x9b line separators \u2028 \u2029",
    b"invalid \xff\xfe UTF-8 \xc3".decode(errors="replace"),
    "emoji \U0001f600, right to left \u202e, combining e\u0301",
    "{} %s %(queue)s {queue} $HOME",
    "x" * 1024,
    "",
]


def raw(events: list[AnyEvent], level: str = "debug", log_format: Any = "json", plain: Sequence[Written] = ()) -> str:
    stream = io.StringIO()
    EventLog(configure(level, log_format, stream), LEVELS[level])(Turn([], plain, events))
    return stream.getvalue()


def lines(events: list[AnyEvent], level: str = "debug") -> list[dict[str, Any]]:
    text = raw(events, level)
    assert not text or text.endswith("\n")
    objects = [json.loads(line) for line in text.split("\n")[:-1]]
    assert all(isinstance(line, dict) for line in objects)
    return objects


def test_the_examples_are_of_every_kind_of_event() -> None:
    assert [type(event) for event in EVENTS] == list(EVENT_TYPES)


# Levels


def test_expired_dead_lettered_and_failed_are_at_info_and_all_else_at_debug() -> None:
    told = lines(EVENTS, "debug")
    assert len(told) == len(EVENTS)
    for event, line in zip(EVENTS, told, strict=True):
        kind = type(event).__name__
        assert line["event"].endswith(kind)
        assert line["level"] == ("info" if kind in NOTABLE else "debug")


def test_at_info_only_the_notable_are_told() -> None:
    assert [line["event"] for line in lines(EVENTS, "info")] == ["task.Expired", "task.Failed", "task.DeadLettered"]


def test_what_plain_commands_did_is_made_for_debug_alone() -> None:
    """It is thousands of events a turn, and none of them is notable."""
    plain = [Written("jobs", 3, b"", EVENTS[:1])]
    assert "Enqueued" in raw([], "debug", plain=plain)
    unreadable = [Written("jobs", 3, b"\xff", [])]
    assert "task.Failed" in raw(EVENTS, "info", plain=unreadable)
    with pytest.raises(msgspec.DecodeError):
        raw(EVENTS, "debug", plain=unreadable)


@pytest.mark.parametrize("level", ["warning", "error"])
def test_above_info_no_event_is_told(level: str) -> None:
    assert raw(EVENTS, level) == ""


def test_every_level_of_the_command_line_is_known() -> None:
    assert list(LEVELS) == ["debug", "info", "warning", "error"]


# Fields


def test_the_notable_say_queue_task_lease_attempts_and_time() -> None:
    expired, failed, dead = lines(EVENTS, "info")
    common = {"queue": "jobs", "task_id": "t7"}
    assert expired.items() >= {**common, "lease_id": LEASE, "attempts": 1, "at_ms": 105}.items()
    assert failed.items() >= {**common, "lease_id": LEASE, "attempts": 2, "at_ms": 106, "reason": "boom"}.items()
    assert dead.items() >= {**common, "attempts": 4, "at_ms": 109, "cause": "attempts", "reason": "boom"}.items()


def test_every_event_says_its_queue_its_time_and_its_fields() -> None:
    for event, line in zip(EVENTS, lines(EVENTS), strict=True):
        for field in event.__struct_fields__:
            if field not in ("payload", "policy"):
                assert line[field] == getattr(event, field), (event, field)


def test_a_policy_is_told_field_by_field() -> None:
    (line,) = lines([QueueConfigured("jobs", 1, 1, Policy(max_attempts=3, ttl_ms=9))])
    assert (line["max_attempts"], line["ttl_ms"], line["lease_ms"]) == (3, 9, 30_000)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_payload_bytes_are_never_told_only_how_many(log_format: str) -> None:
    text = raw(EVENTS, "debug", log_format)
    assert "PAYLOAD" not in text
    assert str(list(SECRET)) not in text
    assert "UEFZTE9BRC1CWVRFUw" not in text, "nor in base64"
    (line,) = lines([EVENTS[0]])
    assert line["payload_bytes"] == len(SECRET)


# Whatever a client sends


@pytest.mark.parametrize("text", NASTY)
def test_one_line_stays_one_object_whatever_is_in_it(text: str) -> None:
    events: list[AnyEvent] = [
        Enqueued(text, 1, 1, 7, text, text.encode()),
        Leased(text, 2, 1, 7, text, text, 1, 5, text),
        Failed(text, 3, 1, 7, text, text, text, 1),
        DeadLettered(text, 4, 1, 7, text, "fatal", text, 1),
        QueuePaused(text, 5, 1),
    ]
    told = lines(events)
    assert len(told) == len(events)
    assert raw(events).count("\n") == len(events)
    assert [line["queue"] for line in told] == [text] * 5
    assert [line["task_id"] for line in told[:4]] == [text] * 4
    assert told[1]["worker"] == told[2]["reason"] == told[3]["reason"] == text


@pytest.mark.parametrize("text", NASTY[:6])
def test_a_line_of_the_servers_own_stays_one_object_too(text: str) -> None:
    stream = io.StringIO()
    configure("info", "json", stream).info("client.refused", peer=text, clients=3)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert json.loads(line)["peer"] == text


def test_a_control_character_reaches_the_stream_only_escaped() -> None:
    text = raw([Failed("jobs", 1, 1, 7, "t", LEASE, "\x00\x07\x1b[2J\r\n", 1)])
    assert not [char for char in text[:-1] if ord(char) < 32]


@pytest.mark.parametrize("text", NASTY[:5])
def test_on_a_console_a_client_can_neither_forge_a_line_nor_move_the_cursor(text: str) -> None:
    told = raw([Failed("jobs", 1, 1, 7, text, LEASE, text, 1)], "info", "console")
    assert told.count("\n") == 1
    assert "\r" not in told
    assert "\x1b" not in told


def test_bytes_and_other_values_in_a_line_do_not_break_it() -> None:
    stream = io.StringIO()
    configure("info", "json", stream).info("server.listening", odd=object(), address=("127.0.0.1", 1))
    assert json.loads(stream.getvalue())["event"] == "server.listening"


# Forms


def test_console_on_request_is_for_people() -> None:
    text = raw(EVENTS, "info", "console")
    assert text.count("\n") == 3
    assert "task.Expired" in text
    assert LEASE in text
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        json.loads(text.split("\n")[0])


def test_no_colours_where_there_is_no_terminal() -> None:
    assert "\x1b" not in raw(EVENTS, "debug", "console")


def test_colours_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    configure("info", "console", stream).info("server.listening")
    assert "\x1b[" in stream.getvalue()


def test_logs_go_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json").info("server.listening", port=6380)
    captured = capsys.readouterr()
    assert captured.out == ""
    line = json.loads(captured.err)
    assert (line["event"], line["port"], line["level"]) == ("server.listening", 6380, "info")


def test_every_line_says_when_it_was_written() -> None:
    assert all(line["timestamp"].endswith("Z") for line in lines(EVENTS))


def test_below_the_level_nothing_is_written() -> None:
    stream = io.StringIO()
    logger = configure("warning", "json", stream)
    logger.info("server.listening")
    logger.warning("client.refused")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["client.refused"]


def test_an_exception_is_one_line_too() -> None:
    stream = io.StringIO()
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        configure("info", "json", stream).error("server.failed", exc_info=True)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert "RuntimeError: two\nlines" in json.loads(line)["exception"]
