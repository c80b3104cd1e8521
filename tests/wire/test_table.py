"""The verb table: its rows agree with themselves, and each parses its words as strictly as it says."""

import re

import pytest

from moxy.core.answers import Answer, Delivery
from moxy.core.commands import (
    UNSET,
    Ack,
    AckMany,
    Command,
    Configure,
    Delete,
    Enqueue,
    EnqueueMany,
    Extend,
    Fetch,
    FetchAny,
    Info,
    Intent,
    ListQueues,
    Nack,
    Pause,
    Peek,
    Purge,
    ReadPolicy,
    Redrive,
    Resume,
    Show,
    Stats,
)
from moxy.core.errors import CODES, Refused
from moxy.wire.describe import command_doc, command_info, parse_syntax, protocol_tables
from moxy.wire.resp import Simple, encode
from moxy.wire.table import ROWS, TABLE, Row, find
from tests.server.support import DAYS_30_MS, NONCE, NOT_INTEGERS, NOT_QUEUES, Word, integer_options, options, required

LEASE = f"jobs:1:1:{NONCE}"
PARTS = ("jobs", LEASE, 1, 1)
QUEUE_ROWS = [row for row in ROWS if row.parse is not None]
LEASE_OPTIONS = {"LEASE"}  # of all options, only this one is a lease, and refused as one

COMMANDS = {
    *("ENQUEUE", "FETCH", "ACK", "STATS", "MENQUEUE", "MACK", "NACK", "EXTEND", "PEEK", "SHOW", "HISTORY", "WHY"),
    *("EVENTS", "INFO", "QUEUES", "CONFIG", "REDRIVE", "DELETE", "PURGE", "PAUSE", "RESUME"),
}
CONNECTION = {
    *("PING", "ECHO", "HELLO", "AUTH", "QUIT", "RESET"),
    *("SELECT", "CLIENT", "COMMAND", "INFO", "TIME", "CONFIG"),
}


def named(row: Row) -> str:
    return row.name


def raw(words: list[Word]) -> list[bytes]:
    return [word if isinstance(word, bytes) else str(word).encode() for word in words]


def parse(*words: Word) -> Intent:
    argv = raw(list(words))
    row = find(argv)
    assert row.parse is not None
    return row.parse(argv, "worker")


def refusal(*words: Word) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(*words)
    return caught.value


# The rows


def test_the_contract_names_every_command_of_the_table() -> None:
    assert {f"MOXY.{name}" for name in COMMANDS} | CONNECTION == {row.name for row in ROWS}


def test_every_name_is_there_once() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) == len(TABLE)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_arity_is_what_the_syntax_says(row: Row) -> None:
    fixed = len(required(row))
    assert row.arity == (-fixed if "[" in row.syntax or row.name == "QUIT" else fixed)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_every_row_says_what_it_does_and_what_it_replies(row: Row) -> None:
    assert re.fullmatch(r"[A-Z].*[.?]", row.summary, re.DOTALL)
    assert row.reply_doc
    assert row.flags


@pytest.mark.parametrize("row", QUEUE_ROWS, ids=named)
def test_only_what_is_flagged_write_can_change_a_queue(row: Row) -> None:
    intent = parse(*required(row))
    writes = isinstance(intent, Command | AckMany | FetchAny) or row.name == "MOXY.CONFIG"
    assert ("write" in row.flags) == writes
    assert ("readonly" in row.flags) != writes


def test_only_four_commands_are_open_to_a_stranger() -> None:
    assert {row.name for row in ROWS if "no_auth" in row.flags} == {"AUTH", "HELLO", "QUIT", "RESET"}


# Dispatch


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_names_are_found_in_any_case(row: Row) -> None:
    words = raw(required(row))
    for name in (row.name.lower(), row.name.title(), row.name):
        assert find([name.encode(), *words[1:]]) is row


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_wrong_number_of_words_is_refused_as_redis_words_it(row: Row) -> None:
    words = raw(required(row))
    for wrong in (words[:-1], [*words, b"more"]) if row.arity > 0 else (words[:-1],):
        if not wrong:
            continue
        with pytest.raises(Refused) as caught:
            find(wrong)
        assert str(caught.value) == f"ERR wrong number of arguments for '{row.name.lower()}' command"


def test_an_unknown_command_is_shown_short_and_harmless() -> None:
    with pytest.raises(Refused) as caught:
        find([b"NO\r\nPE" + b"x" * 1000, b"\xff\x00", b"b", b"c", b"d"])
    text = str(caught.value)
    assert text.startswith("ERR unknown command 'NO")
    assert text.isprintable()
    assert len(text) < 400
    assert "'d'" not in text


# Words become intents


@pytest.mark.parametrize(
    ("words", "intent"),
    [
        ("MOXY.ENQUEUE jobs x", Enqueue("jobs", b"x")),
        (
            "moxy.enqueue jobs x id a priority 9 delay 1 ttl 2 maxattempts 3 lease 4 dedup 5",
            Enqueue("jobs", b"x", "a", 9, 1, 2, 3, 4, 5),
        ),
        ("MOXY.ENQUEUE jobs x DELAY 0 MAXATTEMPTS 0", Enqueue("jobs", b"x", "", 0, 0, UNSET, 0)),
        ("MOXY.MENQUEUE jobs a ID b", EnqueueMany("jobs", (b"a", b"ID", b"b"))),
        ("MOXY.FETCH jobs 1", Fetch("jobs", 1, 1, "worker")),
        (f"MOXY.FETCH jobs {DAYS_30_MS}", Fetch("jobs", DAYS_30_MS, 1, "worker")),
        ("MOXY.FETCH jobs default", Fetch("jobs", 0, 1, "worker")),
        ("MOXY.FETCH jobs 9 COUNT 1", FetchAny(("jobs",), 9, 1, UNSET, "worker")),
        (
            "MOXY.FETCH jobs 9 bound block 0 count 1000 with b a jobs b",
            FetchAny(("jobs", "b", "a"), 9, 1000, 0, "worker", True),
        ),
        (f"MOXY.ACK {LEASE}", Ack(*PARTS)),
        (f"MOXY.NACK {LEASE}", Nack(*PARTS)),
        (f"MOXY.NACK {LEASE} REASON no DELAY 0", Nack(*PARTS, "retry", 0, "no")),
        (f"MOXY.NACK {LEASE} fatal REASON no", Nack(*PARTS, "fatal", UNSET, "no")),
        (f"MOXY.NACK {LEASE} RELEASE", Nack(*PARTS, "release")),
        (f"MOXY.EXTEND {LEASE} 5", Extend(*PARTS, 5)),
        (f"MOXY.MACK {LEASE} {LEASE}", AckMany((Ack(*PARTS), Ack(*PARTS)))),
        ("MOXY.PEEK jobs", Peek("jobs", "ready", 10)),
        ("MOXY.PEEK jobs COUNT 3 STATE DEAD", Peek("jobs", "dead", 3)),
        ("MOXY.SHOW jobs a", Show("jobs", "a")),
        ("MOXY.STATS jobs", Stats("jobs")),
        ("MOXY.INFO jobs", Info("jobs")),
        ("MOXY.QUEUES", ListQueues("*", 100, "")),
        ("MOXY.QUEUES CURSOR 0 MATCH a* COUNT 2", ListQueues("a*", 2, "")),
        ("MOXY.CONFIG jobs", ReadPolicy("jobs")),
        ("MOXY.CONFIG jobs LEASE_MS 1 ttl_ms 0", Configure("jobs", (("lease_ms", 1), ("ttl_ms", 0)))),
        ("MOXY.REDRIVE jobs", Redrive("jobs", 1000, "")),
        ("MOXY.REDRIVE jobs COUNT 2", Redrive("jobs", 2, "")),
        ("MOXY.DELETE jobs a", Delete("jobs", "a")),
        ("MOXY.PURGE jobs READY", Purge("jobs", "ready")),
        ("MOXY.PAUSE jobs", Pause("jobs")),
        ("MOXY.RESUME jobs", Resume("jobs")),
    ],
)
def test_words_become_an_intent(words: str, intent: Intent) -> None:
    assert parse(*words.split()) == intent


def test_a_lease_id_may_have_any_queue_in_front() -> None:
    assert parse("MOXY.ACK", f"a:b:c:7:9:{NONCE}") == Ack("a:b:c", f"a:b:c:7:9:{NONCE}", 7, 9)


# Every option of every row

WITH_OPTIONS = [(row, name) for row in QUEUE_ROWS for name in options(row)]


@pytest.mark.parametrize(("row", "name"), WITH_OPTIONS)
def test_an_option_without_its_value_is_a_syntax_error(row: Row, name: str) -> None:
    if options(row)[name] is None:
        return
    assert str(refusal(*required(row), name)).startswith("ERR syntax error: ")


@pytest.mark.parametrize(("row", "name"), WITH_OPTIONS)
def test_an_option_given_twice_is_a_syntax_error(row: Row, name: str) -> None:
    if name == "WITH":
        return  # it takes all the words that are left, so a second one is the name of a queue
    value = options(row)[name]
    once: list[Word] = [name.lower()] if value is None else [name.lower(), value]
    assert str(refusal(*required(row), *once, name, *once[1:])).startswith("ERR syntax error: ")


@pytest.mark.parametrize("row", [row for row in QUEUE_ROWS if options(row)], ids=named)
@pytest.mark.parametrize("word", [b"BOGUS", b"", b"\xff", b"COUNTS", b"1"])
def test_an_unknown_option_is_a_syntax_error(row: Row, word: bytes) -> None:
    assert str(refusal(*required(row), word, "1")).startswith("ERR syntax error: ")


@pytest.mark.parametrize("word", NOT_INTEGERS)
@pytest.mark.parametrize(("row", "name"), [(row, name) for row in QUEUE_ROWS for name in integer_options(row)])
def test_integers_are_as_strict_as_redis(row: Row, name: str, word: str) -> None:
    refused = refusal(*required(row), name, word)
    assert refused.code == ("BADTIMEOUT" if name in LEASE_OPTIONS else "ERR")


@pytest.mark.parametrize("word", [*NOT_INTEGERS, "0", "-1", str(DAYS_30_MS + 1), "DEFAULTS"])
def test_a_lease_is_one_millisecond_to_thirty_days(word: str) -> None:
    for words in (
        ("MOXY.FETCH", "jobs", word),
        ("MOXY.FETCH", "jobs", word, "BLOCK", 1),
        ("MOXY.EXTEND", LEASE, word),
        ("MOXY.ENQUEUE", "jobs", "x", "LEASE", word),
    ):
        assert refusal(*words).code == "BADTIMEOUT"


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        ("MOXY.ENQUEUE jobs x PRIORITY", 0, 9),
        ("MOXY.ENQUEUE jobs x DELAY", 0, DAYS_30_MS),
        ("MOXY.ENQUEUE jobs x TTL", 1, DAYS_30_MS),
        ("MOXY.ENQUEUE jobs x ID a DEDUP", 1, DAYS_30_MS),
        ("MOXY.ENQUEUE jobs x LEASE", 1, DAYS_30_MS),
        ("MOXY.FETCH jobs 1 COUNT", 1, 1000),
        ("MOXY.FETCH jobs 1 BLOCK", 0, DAYS_30_MS),
        ("MOXY.PEEK jobs COUNT", 1, 1000),
        ("MOXY.REDRIVE jobs COUNT", 1, 1000),
        ("MOXY.QUEUES COUNT", 1, 1000),
        (f"MOXY.NACK {LEASE} DELAY", 0, DAYS_30_MS),
        (f"MOXY.EXTEND {LEASE}", 1, DAYS_30_MS),
        ("MOXY.CONFIG jobs max_attempts", 0, 1_000_000_000),
        ("MOXY.CONFIG jobs max_ready", 0, 1_000_000_000),
        ("MOXY.CONFIG jobs lease_ms", 1, DAYS_30_MS),
        ("MOXY.CONFIG jobs backoff_ms", 0, DAYS_30_MS),
        ("MOXY.CONFIG jobs backoff_max_ms", 0, DAYS_30_MS),
        ("MOXY.CONFIG jobs max_hold_ms", 0, DAYS_30_MS),
        ("MOXY.CONFIG jobs ttl_ms", 0, DAYS_30_MS),
    ],
)
def test_ranges_end_where_the_contract_says(words: str, low: int, high: int) -> None:
    assert parse(*words.split(), low)
    assert parse(*words.split(), high)
    code = "BADTIMEOUT" if "LEASE" in words or "EXTEND" in words else "ERR"
    assert refusal(*words.split(), low - 1).code == code
    assert refusal(*words.split(), high + 1).code == code


@pytest.mark.parametrize("name", NOT_QUEUES)
@pytest.mark.parametrize("row", [row for row in QUEUE_ROWS if row.syntax.startswith("queue")], ids=named)
def test_a_bad_queue_name_is_refused_everywhere(row: Row, name: bytes) -> None:
    assert refusal(row.name, name, *required(row)[2:]).code == "BADQUEUE"


@pytest.mark.parametrize("name", [b"q", b"q" * 255, "é世界".encode(), b"a:b:1:2", b"..", b"[x]*?'\""])
def test_other_queue_names_are_fine(name: bytes) -> None:
    assert parse("MOXY.STATS", name) == Stats(name.decode())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("MOXY.ENQUEUE jobs x DEDUP 5", "ERR syntax error"),
        ("MOXY.FETCH jobs 1 WITH a {", "BADQUEUE"),
        (f"MOXY.NACK {LEASE} FATAL RELEASE", "ERR syntax error"),
        (f"MOXY.NACK {LEASE} RELEASE FATAL", "ERR syntax error"),
        (f"MOXY.NACK {LEASE} DELAY 1 FATAL", "ERR syntax error"),
        (f"MOXY.NACK {LEASE} RELEASE DELAY 1", "ERR syntax error"),
        (f"MOXY.NACK {LEASE} REASON x RELEASE", "ERR syntax error"),
        ("MOXY.REDRIVE jobs COUNT 1 ID a", "ERR syntax error"),
        ("MOXY.PEEK jobs STATE acked", "ERR"),
        ("MOXY.PURGE jobs acked", "ERR"),
        ("MOXY.PURGE jobs processing", "LEASED"),
        ("MOXY.CONFIG jobs lease_ms", "ERR syntax error"),
        ("MOXY.CONFIG jobs color 1", "ERR syntax error"),
        ("MOXY.CONFIG jobs ttl_ms 1 TTL_MS 1", "ERR syntax error"),
        ("MOXY.QUEUES CURSOR x", "ERR"),
        ("MOXY.ACK jobs", "NOLEASE"),
        ("MOXY.ACK jobs:1:x:0", "NOLEASE"),
        ("MOXY.ACK :", "NOLEASE"),
    ],
)
def test_other_refusals(words: str, code: str) -> None:
    assert str(refusal(*words.split())).startswith(code)


def test_limits_of_ids_and_reasons() -> None:
    assert parse("MOXY.ENQUEUE", "jobs", "x", "ID", "i" * 128)
    assert refusal("MOXY.ENQUEUE", "jobs", "x", "ID", "i" * 129).code == "TOOBIG"
    assert parse("MOXY.NACK", LEASE, "REASON", "é" * 512)
    assert refusal("MOXY.NACK", LEASE, "REASON", "é" * 513).code == "TOOBIG"
    for bad in (b"", b"\xff", b"a b", b"a\x1fb"):
        assert refusal("MOXY.ENQUEUE", "jobs", "x", "ID", bad).code == "ERR"
    assert refusal("MOXY.NACK", LEASE, "REASON", b"\xff").code == "ERR"


def test_one_bad_lease_does_not_spoil_a_mack() -> None:
    many = parse("MOXY.MACK", "nonsense", LEASE)
    assert isinstance(many, AckMany)
    assert [many.acks[0][0] if isinstance(many.acks[0], tuple) else "", many.acks[1]] == ["NOLEASE", Ack(*PARTS)]


# What the table says about itself


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_command_info_has_the_ten_fields_of_redis_7(row: Row) -> None:
    info = command_info(row)
    assert isinstance(info, list)
    name, arity, flags, first, last, step, categories, tips, keys, subcommands = info
    keyed = int(row.syntax.startswith("queue"))
    assert (name, arity, flags) == (row.name.lower(), row.arity, [*row.flags])
    assert (first, last, step) == (keyed, keyed, keyed)
    assert all(str(category).startswith("@") for category in categories)
    assert (tips, keys, subcommands) == ([], [], [])


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_command_doc_tells_every_argument(row: Row) -> None:
    doc = command_doc(row)
    assert doc["summary"] == row.summary
    told = str(doc.get("arguments", ""))
    for word in re.findall(r"[A-Za-z_]+", row.syntax):
        assert word in told


# Ready replies


@pytest.mark.parametrize("resp3", [False, True])
@pytest.mark.parametrize("name", ["1-00ff", "é", "\udcff", ""])
def test_a_ready_reply_is_the_same_bytes(name: str, resp3: bool) -> None:
    """And is there for the common case, else it would be of no use."""
    task = Delivery(f"jobs:1:1:{name}", name, "jobs", b"\r\n\x00x", 0, 1, 1, 5, 0, 1)
    large = Delivery("jobs:1:1:ff", "1-00ff", "jobs", b"x" * 5000, 0, 1, 1, 5, 0, 1)
    unleased = Delivery(None, name, "jobs", b"x", 0, 1, 1, 5, 0, 1)
    some = FetchAny(("jobs",), 1000)
    cases: list[tuple[str, Answer, Intent]] = [
        ("MOXY.ENQUEUE", [name], Enqueue("jobs", b"x")),
        ("MOXY.ACK", None, Ack(*PARTS)),
        *(("MOXY.FETCH", found, Fetch("jobs", 1000)) for found in (None, [], [task], [unleased], [large])),
        *(("MOXY.FETCH", found, some) for found in (None, [], [task], [task, task])),
    ]
    for verb, answer, intent in cases:
        row = TABLE[verb.encode()]
        assert row.quick(answer, intent, resp3) in (b"", encode(row.reply(answer, intent), resp3))
    ready = [TABLE[verb.encode()].quick(answer, intent, resp3) != b"" for verb, answer, intent in cases]
    assert ready == [True, True, True, True, True, False, True, *[False] * 4]


def plain(value: object) -> object:
    """The same with statuses as their text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.text if isinstance(value, Simple) else value


def test_a_syntax_line_as_arguments() -> None:
    assert plain(parse_syntax("queue [COUNT n] [BOUND] [WITH queue [queue ...]] [FATAL | RELEASE]")) == [
        {"name": "queue", "type": "string", "display_text": "queue"},
        {"name": "n", "type": "string", "token": "COUNT", "display_text": "n", "flags": ["optional"]},
        {"name": "bound", "type": "pure-token", "token": "BOUND", "flags": ["optional"]},
        {
            "name": "queue",
            "type": "string",
            "token": "WITH",
            "display_text": "queue",
            "flags": ["optional", "multiple"],
        },
        {
            "name": "fatal-or-release",
            "type": "oneof",
            "arguments": [
                {"name": "fatal", "type": "pure-token", "token": "FATAL"},
                {"name": "release", "type": "pure-token", "token": "RELEASE"},
            ],
            "flags": ["optional"],
        },
    ]
    assert plain(parse_syntax("lease_id [lease_id ...]")) == [
        {"name": "lease_id", "type": "string", "display_text": "lease_id", "flags": ["multiple"]}
    ]


def test_the_protocol_page_has_a_line_for_every_verb_and_every_code() -> None:
    tables = protocol_tables()
    for row in ROWS:
        assert sum(line.startswith((f"| `{row.name} ", f"| `{row.name}`")) for line in tables.splitlines()) == 1
    for code in CODES:
        assert f"| `{code}` |" in tables
    for line in tables.splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) in (0, 3, 4)
