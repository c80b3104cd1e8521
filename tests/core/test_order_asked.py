"""The sorted set that is changed in place, asked for any key and for what follows it, against a sorted list."""

import random
from bisect import bisect_left, bisect_right, insort

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core.order import Order

CHANGES = st.lists(st.tuples(st.sampled_from(["add", "first", "any", "ask"]), st.integers(0, 30)), max_size=200)


def same(order: Order[int], keys: list[int], probes: range) -> None:
    """All that can be asked of it, with keys that are there and keys that are not."""
    assert len(order) == len(keys)
    assert order.first() == (keys[0] if keys else None)
    assert order.following(None, 1000) == keys
    for probe in probes:
        assert (probe in order) == (probe in keys)
        assert order.following(probe, 2) == keys[bisect_right(keys, probe) :][:2]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(CHANGES)
def test_it_is_a_sorted_list(changes: list[tuple[str, int]]) -> None:
    order, keys = Order[int](), list[int]()
    for what, key in changes:
        if what == "add" and key not in keys:
            order.add(key)
            insort(keys, key)
        elif what in ("first", "any") and keys:
            gone = keys[0] if what == "first" else keys[min(bisect_left(keys, key), len(keys) - 1)]
            order.remove(gone)
            keys.remove(gone)
        elif what == "ask":
            same(order, keys, range(-1, 32))
    same(order, keys, range(-1, 32))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_a_sorted_list_when_thousands_come_and_go(seed: int) -> None:
    """Past the sizes at which it sweeps."""
    rng = random.Random(seed)
    order, keys, last = Order[int](), list[int](), 0
    for turn in range(6000):
        if keys and rng.random() < (0.3 if turn < 3000 else 0.7):
            gone = keys[0] if rng.random() < 0.5 else rng.choice(keys)
            order.remove(gone)
            del keys[bisect_left(keys, gone)]
        else:
            last += 2
            key = last if rng.random() < 0.6 else rng.randrange(last) | 1
            if key in keys:
                continue
            order.add(key)
            insort(keys, key)
        if turn % 50 == 0:
            at = rng.randrange(last)
            assert (len(order), order.first()) == (len(keys), keys[0] if keys else None)
            assert order.following(at, 5) == keys[bisect_right(keys, at) :][:5]
            assert all((probe in order) == (probe in keys) for probe in range(at, at + 20))
    assert order.following(None, 10_000) == keys


def test_what_comes_back_before_the_head_does_not_hide_what_follows() -> None:
    """1 to 5 have left, and their places before the head still hold them when 3 comes back."""
    order = Order(range(1, 8))
    for key in range(1, 6):
        order.remove(key)
    for key in (3, 4, 5):
        order.add(key)
    same(order, [3, 4, 5, 6, 7], range(9))
