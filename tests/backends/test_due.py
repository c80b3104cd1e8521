"""When each of many queues next needs time."""

import random

from moxy.backends.due import DueTimes


def test_the_soonest_comes_first_and_a_queue_has_one_time() -> None:
    due = DueTimes()
    assert due.first_ms() is None
    due.set("a", 30)
    due.set("b", 20)
    due.set("a", 10)
    assert due.first_ms() == 10
    due.set("a", 40)
    assert due.first_ms() == 20
    assert due.take(39, 10) == ["b"]
    assert due.take(39, 10) == []
    assert due.first_ms() == 40
    due.set("a", None)
    assert due.first_ms() is None


def test_no_later_only_brings_forward() -> None:
    due = DueTimes()
    due.no_later("a", 30)
    due.no_later("a", 50)
    assert due.first_ms() == 30
    due.no_later("a", 20)
    assert due.first_ms() == 20


def test_what_is_taken_is_bounded_and_has_no_time_any_more() -> None:
    due = DueTimes()
    for n in range(5):
        due.set(f"q{n}", n)
    assert due.take(10, 3) == ["q0", "q1", "q2"]
    assert due.take(10, 3) == ["q3", "q4"]
    assert due.first_ms() is None


def test_it_is_a_dict_of_times_and_its_size_follows_the_queues() -> None:
    due, times, rng = DueTimes(), dict[str, int](), random.Random(1)
    for _ in range(20_000):
        queue, at_ms = f"q{rng.randrange(20)}", rng.randrange(1000)
        due.set(queue, at_ms)
        times[queue] = at_ms
        assert due.first_ms() == min(times.values())
        assert len(due._order) <= 2 * len(times) + 65
