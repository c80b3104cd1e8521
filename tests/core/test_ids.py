"""Names and ids: what is legal (docs/semantics.md, Names and ids), and how they are put together and taken apart."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moxy.core import ids
from moxy.core.errors import Refused
from moxy.core.ids import client_task_id, digits, lease_id, nonce, queue_name, split_lease_id, task_id

INT64 = st.integers(1, 2**63 - 1)
BLANK_OR_CONTROL = [" ", "a b", "\t", "a\n", "\0", "\x1f", "\x7f", "\x85", "\x9f", "\xa0", "\u2003", "\u2028", "\u3000"]


def refused(check, raw: bytes) -> str:
    with pytest.raises(Refused) as caught:
        check(raw)
    assert caught.value.text
    return caught.value.code


@pytest.mark.parametrize("name", ["a", "jobs", "a:b:1", "mail-2.x_y/z", "größe", "任务", "😀", "x" * 255, "é" * 127])
def test_queue_names_that_are_fine(name):
    assert queue_name(name.encode()) == name


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * 256,
        "é".encode() * 128,
        b"\xff",
        b"a\xc3",
        b"{",
        b"a}b",
        *(name.encode() for name in BLANK_OR_CONTROL),
    ],
)
def test_queue_names_that_are_not(raw):
    assert refused(queue_name, raw) == "BADQUEUE"


@pytest.mark.parametrize("name", ["a", "order:17", "{x}", "größe", "x" * 128, "é" * 64])
def test_task_ids_that_are_fine(name):
    assert client_task_id(name.encode()) == name


@pytest.mark.parametrize("raw", [b"", b"\xff", *(name.encode() for name in BLANK_OR_CONTROL)])
def test_task_ids_that_are_not(raw):
    assert refused(client_task_id, raw) == "ERR"


@pytest.mark.parametrize("raw", [b"x" * 129, "é".encode() * 65])
def test_a_task_id_is_128_bytes_not_characters(raw):
    assert refused(client_task_id, raw) == "TOOBIG"


def test_an_automatic_id_is_the_number_and_64_bits_as_16_digits():
    assert task_id(17, digits(0xAB)) == "17-00000000000000ab"
    assert task_id(1, digits(2**64 - 1)) == "1-ffffffffffffffff"


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=20), INT64, INT64, st.integers(0, 2**64 - 1))
def test_a_lease_id_finds_its_queue_and_its_task(queue, number, token, random_bits):
    made = lease_id(queue, number, token, digits(random_bits))
    assert made == f"{queue}:{number}:{token}:{random_bits:016x}"
    assert split_lease_id(made) == (queue, number, token)


@pytest.mark.parametrize("junk", ["", "x", "jobs:1:1", "jobs:a:1:0", "jobs:1:-1:0", "jobs:1::0", "jobs:1.5:1:0"])
def test_what_is_no_lease_id_is_nolease(junk):
    with pytest.raises(Refused) as caught:
        split_lease_id(junk)
    assert caught.value.code == "NOLEASE"


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 100_000])
def test_a_lease_id_with_endless_numbers_is_refused_without_reading_them(digits):
    for junk in (f"jobs:{digits}:1:0", f"jobs:1:{digits}:0"):
        with pytest.raises(Refused) as caught:
            split_lease_id(junk)
        assert caught.value.code == "NOLEASE"


@settings(max_examples=100)
@given(st.integers(0, 2**63 - 1))
def test_the_draws_of_an_odd_seed_are_64_bits_and_all_differ(half):
    drawn = [nonce(2 * half + 1, draw) for draw in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(0 <= one < 2**64 for one in drawn)


# As bytes, in the form for the interpreter and in the one for a compiler

PIECES = st.sampled_from(
    [b"jobs", b"a:b", b"1", b"12", b"0", b"9" * 18, b":", b"", b"x", b"\xd9\xa1", b"0123456789abcdef"]
)


@pytest.fixture(params=[False, True], ids=["interpreter", "compiler"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "IS_COMPILED", request.param)  # no effect on compiled code


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("queue", ["jobs", "a:b:1", "größe"])
@pytest.mark.parametrize("number", [1, 170, 10**18 - 1])
def test_queue_and_number_are_found_in_a_lease_id(queue: str, number: int) -> None:
    raw = lease_id(queue, number, 3, digits(7)).encode()
    assert ids.raw_queue(raw).decode() == queue
    assert ids.raw_number(raw, len(queue.encode()) + 1) == number


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("raw", [b"", b":", b"jobs", b"jobs:1", b"1:3:0123456789abcdef"])
def test_no_queue_is_found_in_what_has_too_few_parts(raw: bytes) -> None:
    assert ids.raw_queue(raw) == b""


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("number", [b"", b"1", b":3:x", b"x:3:x", b"9" * 5000 + b":3:x"])
def test_what_is_no_lease_id_tells_no_number(number: bytes) -> None:
    """Or one that does not count, as the lease under that number is another: a test of batches says so."""
    assert ids.raw_number(b"jobs:" + number, 5) in (-1, 1)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=6))
@example([b"jobs", b":", b"17", b":", b"3", b":", b"0123456789abcdef"])
def test_both_forms_find_the_same_queue(pieces: list[bytes]) -> None:
    for raw in (b"".join(pieces), b":".join(pieces)):
        found = []
        for compiled in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ids, "IS_COMPILED", compiled)
                found.append(ids.raw_queue(raw))
        assert found[0] == found[1] == (raw.rsplit(b":", 3)[0] if raw.count(b":") >= 3 else b"")
