"""The sorted set that changes in place, against a sorted list."""

import random
from bisect import bisect_left, bisect_right, insort

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxy.core.order import Key, Order

STEPS = st.lists(st.tuples(st.sampled_from("aaarrfbm"), st.integers(0, 60)), max_size=400)


def held(order: Order[int]) -> int:
    """How many keys it holds, those included that left from the middle and the room before the head."""
    return len(order._run) + len(order._late.keys if order._late else ()) + len(order._gone or ())


def same(order: Order[int], keys: list[int]) -> None:
    assert len(order) == len(keys)
    assert order.first() == (keys[0] if keys else None)
    assert order.following(None, len(keys) + 1) == keys


@settings(max_examples=200)
@given(STEPS)
def test_it_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    """Adds anywhere, removals anywhere, at the front, at the end; and a key that left comes back."""
    order: Order[int] = Order()
    keys: list[int] = []
    left: list[int] = []
    for what, n in steps:
        if what == "a" and n not in keys:
            order.add(n)
            insort(keys, n)
        elif what == "b" and left and left[-1] not in keys:
            order.add(left[-1])
            insort(keys, left.pop())
        elif keys and what in "rfm":
            at = {"r": n % len(keys), "f": 0, "m": len(keys) - 1}[what]
            left.append(keys.pop(at))
            order.remove(left[-1])
        assert order.first() == (keys[0] if keys else None)
        assert len(order) == len(keys)
        assert order.following(n, 3) == keys[bisect_right(keys, n) :][:3]
        assert (n in order) == (n in keys)
    same(order, keys)
    assert [probe for probe in range(-1, 62) if probe in order] == keys


@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_sorted_list_when_it_is_long(seed: int) -> None:
    """Long enough to be trimmed and swept many times over."""
    rng = random.Random(seed)
    order: Order[int] = Order()
    keys: list[int] = []
    for turn in range(20_000):
        growing = turn % 8000 < 4500
        if keys and rng.random() < (0.3 if growing else 0.8):
            at = rng.choice((0, 0, len(keys) - 1, rng.randrange(len(keys))))
            order.remove(keys.pop(at))
        else:
            n = turn + 1_000_000 if rng.random() < 0.7 else rng.randrange(1_000_000)
            if keys[(at := bisect_left(keys, n)) : at + 1] == [n]:
                continue
            order.add(n)
            keys.insert(at, n)
        assert order.first() == (keys[0] if keys else None)
        if turn % 500 == 0:
            same(order, keys)
            assert held(order) <= 4 * len(keys) + 1024
    same(order, keys)


def test_keys_may_be_tuples_and_come_in_any_order() -> None:
    keys: list[Key] = [(n % 7, n, n) for n in range(100)]
    order = Order(keys)
    assert order.following(None, 100) == sorted(keys)
    order.add((3, 5, 1))
    order.remove((0, 0, 0))
    assert (order.first(), len(order)) == ((0, 7, 7), 100)


@pytest.mark.parametrize("stuck", [0, 1, 50])
def test_the_size_follows_the_keys_not_the_traffic(stuck: int) -> None:
    """As deadlines do: some leases stay for ever at the front, all others come and go in any order behind them."""
    order: Order[int] = Order(range(stuck))
    rng, live = random.Random(1), list[int]()
    most = 0
    for n in range(stuck, 60_000):
        order.add(n)
        live.append(n)
        if len(live) > 100:
            order.remove(live.pop(rng.randrange(100)))
        most = max(most, held(order))
    assert len(order) == stuck + 100
    assert most < 4 * (stuck + 100) + 1024


def test_what_comes_back_to_the_front_costs_no_heap() -> None:
    order: Order[int] = Order(range(10))
    for n in range(5):
        order.remove(n)
    for n in reversed(range(5)):
        order.add(n)
    assert order._late is None
    same(order, list(range(10)))


def test_what_comes_back_before_the_head_does_not_hide_what_follows() -> None:
    """1 to 5 have left, and their places before the head still hold them when 3 comes back."""
    order = Order(range(1, 8))
    for key in range(1, 6):
        order.remove(key)
    for key in (3, 4, 5):
        order.add(key)
    keys = [3, 4, 5, 6, 7]
    same(order, keys)
    for probe in range(9):
        assert (probe in order) == (probe in keys)
        assert order.following(probe, 2) == [key for key in keys if key > probe][:2]
