"""The persistent sorted set, against a sorted list that is copied at every change."""

import random
from bisect import bisect_left, insort

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import ordered
from tests.core.ordered import EMPTY, Ordered

KEYS = st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3))
CHANGES = st.lists(st.tuples(st.sampled_from(["add", "add", "remove", "since"]), KEYS), max_size=300)


def key(n: int) -> tuple[int, int, int]:
    return (n >> 8, n & 255, n)


def nodes(tree: Ordered) -> dict[int, object]:
    """All nodes by identity. What two versions share is in both."""
    found, todo = {}, [tree._root]
    while todo:
        node = todo.pop()
        found[id(node)] = node
        todo += getattr(node, "kids", ())
    return found


def depth(tree: Ordered) -> int:
    def below(node):
        return 1 + max((below(kid) for kid in getattr(node, "kids", ())), default=0)

    return below(tree._root)


def same(tree: Ordered, keys: list) -> None:
    assert list(tree) == keys
    assert len(tree) == len(keys)
    assert tree.first() == (keys[0] if keys else None)


@settings(max_examples=150)
@given(CHANGES)
def test_it_is_a_sorted_list_and_old_versions_stay_as_they_were(changes):
    tree, keys = EMPTY, []
    versions = []
    for what, which in changes:
        versions.append((tree, list(keys)))
        if what == "since":
            assert list(tree.since(which)) == keys[bisect_left(keys, which) :]
        elif what == "remove" and keys:
            # The nearest key that is there: most draws would miss otherwise.
            which = keys[min(bisect_left(keys, which), len(keys) - 1)]
            tree = tree.remove(which)
            keys.remove(which)
        elif which not in keys:
            tree = tree.add(which)
            insort(keys, which)
        assert tree.first() == (keys[0] if keys else None)
        assert len(tree) == len(keys)
    same(tree, keys)
    for old, as_it_was in versions:
        same(old, as_it_was)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_a_sorted_list_when_it_is_deep(seed):
    """Hypothesis seldom makes more than two levels; this grows to three and shrinks to nothing again."""
    rng = random.Random(seed)
    tree, keys, versions = EMPTY, [], []
    for turn in range(8000):
        growing = turn < 3500
        if keys and rng.random() < (0.15 if growing else 0.9):
            which = rng.choice((keys[0], keys[-1], rng.choice(keys)))
            tree = tree.remove(which)
            del keys[bisect_left(keys, which)]
        else:
            which = key(rng.randrange(1 << 16))
            at = bisect_left(keys, which)
            if keys[at : at + 1] == [which]:
                continue
            tree = tree.add(which)
            keys.insert(at, which)
        assert tree.first() == (keys[0] if keys else None)
        if turn % 200 == 0:
            low = key(rng.randrange(1 << 16))
            assert list(tree.since(low)) == keys[bisect_left(keys, low) :]
            versions.append((tree, list(keys)))
    assert max(depth(old) for old, _ in versions) >= 3
    for which in keys:
        tree = tree.remove(which)
    same(tree, [])
    for old, as_it_was in versions:
        same(old, as_it_was)


@pytest.mark.parametrize("low", range(-1, 202))
def test_since_begins_at_the_key_or_at_the_next_one(low):
    tree = ordered.ordered((0, n, n) for n in range(0, 200, 2))
    assert list(tree.since((0, low, low))) == [(0, n, n) for n in range(0, 200, 2) if n >= low]


def test_since_skips_a_gap_that_removals_left():
    tree = ordered.ordered((0, n, n) for n in range(5000))
    for n in range(100, 4900):
        tree = tree.remove((0, n, n))
    for low in (0, 99, 100, 2500, 4899, 4900, 4999, 5000):
        assert [k[1] for k in tree.since((0, low, low))] == [n for n in (*range(100), *range(4900, 5000)) if n >= low]


def test_a_walk_goes_on_while_the_set_changes():
    tree = ordered.ordered(map(key, range(2000)))
    walk, seen = iter(tree), []
    now = tree
    for one in walk:
        seen.append(one)
        now = now.remove(one)
    assert seen == [key(n) for n in range(2000)]
    same(now, [])
    assert len(tree) == 2000


def test_first_in_first_out_with_thousands_of_keys():
    tree, put, taken = EMPTY, 0, 0
    for window in (1, 40, 3000, 0):
        for _ in range(6000):
            tree = tree.add(key(put))
            put += 1
            while len(tree) > window:
                assert tree.first() == key(taken)
                tree = tree.remove(key(taken))
                taken += 1
    assert (put, taken) == (24_000, 24_000)
    same(tree, [])


@pytest.mark.parametrize("size", [0, 1, 32, 33, 2000])
def test_removing_what_is_not_there_is_a_key_error_and_changes_nothing(size):
    keys = [key(2 * n) for n in range(size)]
    tree = ordered.ordered(keys)
    for missing in (key(1), key(size | 1), (-1, 0, 0), (99_999, 0, 0)):
        with pytest.raises(KeyError):
            tree.remove(missing)
    same(tree, keys)


def test_keys_come_in_any_order():
    keys = [key(n) for n in range(3000)]
    shuffled = random.Random(1).sample(keys, len(keys))
    same(ordered.ordered(shuffled), keys)
    same(ordered.ordered(reversed(keys)), keys)
    same(ordered.ordered([]), [])


def test_memory_follows_what_is_in_the_set():
    full = ordered.ordered(map(key, range(20_000)))
    assert len(nodes(full)) > 600
    for order in (range(20_000), reversed(range(20_000)), random.Random(2).sample(range(20_000), 20_000)):
        tree = full
        for left, n in zip(range(19_999, -1, -1), order, strict=True):
            tree = tree.remove(key(n))
            if left in (10_000, 1000, 100, 10, 1):
                # Every leaf holds a key, and so does the end of every branch: never more than depth nodes a key.
                assert len(nodes(tree)) <= left * depth(full)
        assert len(nodes(tree)) == 1, "an empty set is one empty leaf"
        assert depth(tree) == 1


def test_in_first_in_first_out_use_the_nodes_left_behind_vanish():
    tree = ordered.ordered(map(key, range(100)))
    for n in range(100, 50_000):
        tree = tree.add(key(n)).remove(key(n - 100))
        if n % 997 == 0:
            assert len(nodes(tree)) <= 10, "100 keys fill four leaves and one branch"
            assert depth(tree) <= 3


def test_a_change_copies_one_path_and_shares_the_rest():
    tree = ordered.ordered(map(key, range(0, 40_000, 2)))
    for n in (0, 777, 20_001, 39_999):
        changed = tree.remove(key(n)) if n % 2 == 0 else tree.add(key(n))
        fresh = nodes(changed).keys() - nodes(tree).keys()
        splitting = 1 if n % 2 == 0 else 2  # a removal copies one node a level; an addition may split each of them
        assert len(fresh) <= splitting * depth(changed)


def test_the_depth_is_logarithmic():
    for order in ("rising", "falling", "shuffled"):
        numbers = list(range(33_000))
        if order == "falling":
            numbers.reverse()
        elif order == "shuffled":
            random.Random(3).shuffle(numbers)
        tree = EMPTY
        for n in numbers:
            tree = tree.add(key(n))
        assert depth(tree) <= 4, order  # half full nodes of 16: 16**4 > 33,000


def test_the_depth_stays_bounded_under_churn():
    """Nodes never merge, so long use may leave them thin, yet not tall: 500 keys need three levels."""
    rng = random.Random(4)
    for span in (1000, 1 << 20):
        here = rng.sample(range(span), 500)
        tree = ordered.ordered(map(key, here))
        present = set(here)
        for _ in range(20_000):
            at = rng.randrange(len(here))
            n = rng.randrange(span)
            if n in present:
                continue
            present ^= {here[at], n}
            tree = tree.remove(key(here[at])).add(key(n))
            here[at] = n
        assert depth(tree) <= 3
        same(tree, sorted(map(key, here)))


def test_one_key_that_stays_out_of_a_thousand_does_not_make_it_tall():
    """The worst use a queue can make: nearly all go, a few stay. Then the depth follows the log of all adds."""
    tree, adds = EMPTY, 0
    for _ in range(60):
        for n in range(1000):
            tree = tree.add(key(adds + n))
        for n in range(1000):
            if n != 500:
                tree = tree.remove(key(adds + n))
        adds += 1000
    assert len(tree) == 60
    assert depth(tree) <= 4  # 16**4 > 60,000
    assert len(nodes(tree)) <= 60 * 3
