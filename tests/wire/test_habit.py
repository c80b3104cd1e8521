"""What a client says over and over: found where it is said word for word, and nowhere else; in both forms."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from moxy.wire import scan
from moxy.wire.habit import ACK, ENQUEUE, FETCH, RUN_MAX, Habit
from moxy.wire.resp import Parser
from tests.wire.test_scan import command

LEASE = b"jobs:1:1:0123456789abcdef"
VERBS = {ENQUEUE: b"MOXY.ENQUEUE", FETCH: b"MOXY.FETCH", ACK: b"MOXY.ACK"}


@pytest.fixture(params=[False, True], ids=["interpreter", "compiler"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "IS_COMPILED", request.param)


@pytest.fixture
def habit() -> Habit:
    return Habit(b"jobs", b"30000")


def says(kind: int, last: bytes) -> bytes:
    return command(VERBS[kind], last) if kind == ACK else command(VERBS[kind], b"jobs", last)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("before", [b"", b"*1\r\n$4\r\nPING\r\n"])
@pytest.mark.parametrize("after", [b"", b"*1\r\n", b"*3\r\n$10\r\nMOXY.FETCH\r\n$4\r\nmail\r\n$5\r\n30000\r\n"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("kind", "last"),
    [(ENQUEUE, b""), (ENQUEUE, b"x\r\n$1"), (ENQUEUE, b"y" * 1024), (FETCH, b"30000"), (ACK, LEASE), (ACK, b"")],
)
def test_what_is_said_again_is_found(
    habit: Habit, before: bytes, after: bytes, count: int, kind: int, last: bytes
) -> None:
    said = says(kind, last)
    for _ in range(2):  # when it is as long as the one before, and when it is not
        found = habit.find(before + said * count + after, len(before))
        assert found == (kind, count, len(before + said * count), [] if kind == FETCH else [last] * count)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kind", [ENQUEUE, ACK])
def test_last_words_may_be_of_any_length(habit: Habit, kind: int) -> None:
    lasts = [b"a", b"b", b"cc", b"", b"d" * 1024, b"e"]
    data = b"".join(says(kind, last) for last in lasts)
    assert habit.find(data + b"*", 0) == (kind, 6, len(data), lasts)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kind", [ENQUEUE, FETCH, ACK])
@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_are_found_than_are_asked_for(habit: Habit, kind: int, most: int) -> None:
    said = says(kind, b"30000")
    assert habit.find(said * 3, 0, most) == (kind, most, most * len(said), [] if kind == FETCH else [b"30000"] * most)
    assert habit.find(said * (RUN_MAX + 1), 0)[1] == RUN_MAX


OTHERS = {
    "nothing": b"",
    "another verb": command(b"MOXY.STATUS1", b"jobs", b"x"),
    "a verb in small letters": command(b"moxy.ack", LEASE),
    "another queue": command(b"MOXY.ENQUEUE", b"mail", b"x"),
    "a queue of another length": command(b"MOXY.ENQUEUE", b"job", b"x"),
    "another timeout": command(b"MOXY.FETCH", b"jobs", b"30001"),
    "an option": command(b"MOXY.ENQUEUE", b"jobs", b"x", b"ID", b"y"),
    "an inline command": b"MOXY.ACK " + LEASE + b"\r\n",
    "a size with a leading zero": command(b"MOXY.ACK", LEASE).replace(b"$25", b"$025"),
    "a size below zero": command(b"MOXY.ACK", b"").replace(b"$0", b"$-1"),
    "a size with a sign": command(b"MOXY.ACK", LEASE).replace(b"$25", b"$+25"),
    "no size": command(b"MOXY.ACK", b"").replace(b"$0", b"$"),
    "a size that is too small": command(b"MOXY.ACK", LEASE).replace(b"$25", b"$24"),
    "a size that is too large": command(b"MOXY.ACK", LEASE).replace(b"$25", b"$26"),
    "a size of very many digits": command(b"MOXY.ACK", LEASE).replace(b"$25", b"$25" + b"0" * 40),
    "a header without its newline": command(b"MOXY.ACK", LEASE).replace(b"$25\r\n", b"$25\rx"),
    "another end": command(b"MOXY.ACK", LEASE)[:-1] + b"x",
}


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_quite_so_is_left_to_the_parser(habit: Habit, name: str) -> None:
    for kind in (None, ENQUEUE, ACK):  # what was said before
        if kind is not None:
            assert habit.find(says(kind, LEASE), 0)[1] == 1
        assert habit.find(OTHERS[name], 0)[1] == 0


@pytest.mark.usefixtures("form")
def test_what_is_not_all_there_is_left_to_the_parser(habit: Habit) -> None:
    for said in (says(ENQUEUE, b"x"), says(FETCH, b"30000"), says(ACK, LEASE)):
        for count in (0, 2):
            for size in range(len(said)):
                assert habit.find(said * count + said[:size], 0)[1] == count


PIECES = st.sampled_from(
    [
        *(b"*3\r\n$12\r\nMOXY.ENQUEUE\r\n$4\r\njobs\r\n$", b"*2\r\n$8\r\nMOXY.ACK\r\n$"),
        *(command(b"MOXY.FETCH", b"jobs", b"30000"), command(b"MOXY.FETCH", b"jobs", b"1")),
        *(b"0", b"1", b"4", b"04", b"1024", b"\r\n", b"\r", b"\n", b"x", b"abcd", b"y" * 1024, b"$", b"-"),
    ]
)


@pytest.mark.usefixtures("form")
@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=8), st.integers(0, 3))
@example([b"*2\r\n$8\r\nMOXY.ACK\r\n$", b"4", b"\r\n", b"abcd", b"\r\n"], 0)
def test_the_parser_would_have_found_the_same(pieces: list[bytes], at: int) -> None:
    habit = Habit(b"jobs", b"30000")
    data = b"".join(pieces)
    for start in (at, 0, at):  # it remembers what it found
        kind, count, stop, words = habit.find(data, start)
        if count:
            lasts = [b"30000"] * count if kind == FETCH else words
            said = [[VERBS[kind], last] if kind == ACK else [VERBS[kind], b"jobs", last] for last in lasts]
            assert Parser().feed(data[start:stop]) == said
