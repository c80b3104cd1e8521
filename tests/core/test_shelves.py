"""Tasks by number against a dict, and what they cost.

Lives here: everything that can be done to shelves. Must not: what queues do with them (test_versions, test_batch).
"""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core.shelves import NUMBER_MAX, WIDTH, Shelves
from tests.forms import needs_source

NUMBERS = st.one_of(st.integers(0, 3 * WIDTH), st.integers(0, NUMBER_MAX))
STEPS = st.lists(st.tuples(st.sampled_from("pppdg"), NUMBERS), max_size=200)


@settings(max_examples=300)
@given(STEPS)
def test_they_are_a_dict_in_rising_order(steps: list[tuple[str, int]]) -> None:
    shelves, twin = Shelves(), dict[int, bytes]()
    for at, (what, number) in enumerate(steps):
        assert shelves.read(number) == twin.get(number)
        if what == "p":
            shelves[number] = twin[number] = b"%d" % at
        elif what == "g" or number not in twin:
            assert shelves.get(number) == twin.get(number)
        else:
            del shelves[number], twin[number]
        assert len(shelves) == len(twin)
        assert (number in shelves) == (number in twin)
    assert list(shelves) == sorted(twin)
    assert {number: shelves[number] for number in shelves} == twin
    taken = {number - number % WIDTH for number in twin}
    firsts = shelves.firsts()
    assert len(firsts) == len(set(firsts))
    assert taken <= set(firsts)
    assert len(firsts) <= len(taken) + 1, "one empty shelf is kept, at most"


@pytest.mark.parametrize("beside", [2, WIDTH * 5])
def test_what_is_not_there_cannot_be_read_or_taken(beside: int) -> None:
    shelves = Shelves()
    shelves[1] = b"1"
    with pytest.raises(KeyError):
        shelves[beside]
    with pytest.raises(KeyError):
        del shelves[beside]
    assert list(shelves) == [1]
    assert len(shelves) == 1


@pytest.mark.parametrize("number", [-1, -33, NUMBER_MAX + 1, 2**64, 2**70])
def test_any_number_can_be_asked_for(number: int) -> None:
    """Clients send what they like, as part of an id."""
    shelves = Shelves()
    assert shelves.get(number) is None
    shelves[0] = shelves[NUMBER_MAX] = b"x"
    assert shelves.get(number) is None
    assert number not in shelves


def test_what_happens_while_somebody_goes_through_them_is_not_seen() -> None:
    shelves = Shelves()
    for number in range(100):
        shelves[number] = b""
    walk = iter(shelves)
    assert next(walk) == 0
    for number in range(100):
        del shelves[number]
        shelves[number + 1000] = b""
    assert list(walk) == list(range(1, 100))


@needs_source
def test_an_empty_shelf_is_not_kept() -> None:
    """Else a queue would remember, for a year, where its tasks once stood."""
    shelves = Shelves()
    for number in range(10_000):
        shelves[number] = b""
        if number >= 3:
            del shelves[number - 3]
    assert len(shelves._shelves) <= 2
    assert sys.getsizeof(shelves._shelves) < 1000
