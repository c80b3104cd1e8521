"""Real time and real chance, with the operating system's part played by the test."""

from types import SimpleNamespace

import pytest

from moxy import sources
from moxy.core.ids import digits
from moxy.sources import RandomIds, SystemClock

MS = 1_000_000
WALL_MS = 1_700_000_000_000


class Watch:
    """The machine's two clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = WALL_MS * MS
        self.monotonic_ns = 5_000 * MS
        monkeypatch.setattr(
            sources, "time", SimpleNamespace(time_ns=lambda: self.wall_ns, monotonic_ns=lambda: self.monotonic_ns)
        )

    def pass_ms(self, ms: float) -> None:
        self.wall_ns += int(ms * MS)
        self.monotonic_ns += int(ms * MS)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_the_clock_starts_at_the_wall_clock(watch: Watch) -> None:
    assert SystemClock().now_ms() == WALL_MS


def test_the_clock_goes_on_with_time(watch: Watch) -> None:
    clock = SystemClock()
    watch.pass_ms(1234)
    assert clock.now_ms() == WALL_MS + 1234


def test_milliseconds_are_whole_and_rounded_down(watch: Watch) -> None:
    clock = SystemClock()
    watch.pass_ms(0.999)
    assert clock.now_ms() == WALL_MS
    watch.pass_ms(0.001)
    assert clock.now_ms() == WALL_MS + 1
    assert isinstance(clock.now_ms(), int)


@pytest.mark.parametrize("step_ms", [-86_400_000, -1, 1, 86_400_000, -WALL_MS])
def test_a_step_of_the_wall_clock_has_no_effect(watch: Watch, step_ms: int) -> None:
    clock = SystemClock()
    watch.pass_ms(100)
    watch.wall_ns += step_ms * MS
    assert clock.now_ms() == WALL_MS + 100
    watch.pass_ms(100)
    assert clock.now_ms() == WALL_MS + 200


def test_the_clock_never_decreases(watch: Watch) -> None:
    clock = SystemClock()
    seen = []
    for i in range(1000):
        watch.monotonic_ns += i % 7 * 100_000
        watch.wall_ns -= i * MS
        seen.append(clock.now_ms())
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_the_clock_is_not_before_the_last_event_of_a_recovered_log(watch: Watch) -> None:
    clock = SystemClock(not_before_ms=WALL_MS + 60_000)
    assert clock.now_ms() == WALL_MS + 60_000
    watch.pass_ms(10)
    assert clock.now_ms() == WALL_MS + 60_010, "and it runs on from there, it does not wait for the wall clock"


def test_a_last_event_in_the_past_does_not_hold_the_clock_back(watch: Watch) -> None:
    assert SystemClock(not_before_ms=WALL_MS - 60_000).now_ms() == WALL_MS


def test_a_later_clock_is_anchored_anew(watch: Watch) -> None:
    first = SystemClock()
    watch.wall_ns += 5_000 * MS
    assert SystemClock().now_ms() - first.now_ms() == 5_000


def test_the_real_clocks_will_do() -> None:
    clock = SystemClock()
    first = clock.now_ms()
    assert first > WALL_MS
    assert clock.now_ms() >= first


# Chance


class Dice:
    """The operating system's random bytes: counted, and each eight bytes another number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.given = 0
        monkeypatch.setattr(sources, "os", SimpleNamespace(urandom=self.urandom))

    def urandom(self, size: int) -> bytes:
        assert size % 8 == 0
        self.calls += 1
        numbers = range(self.given + 1, self.given + 1 + size // 8)
        self.given = numbers[-1]
        return b"".join(number.to_bytes(8, "little") for number in numbers)


def test_no_random_bit_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = Dice(monkeypatch)
    ids = RandomIds()
    seeds = [ids.seed() for _ in range(5000)]
    assert seeds == list(range(1, 5001))
    assert dice.calls <= 50, "the bits are read in blocks"


def test_nothing_is_drawn_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = Dice(monkeypatch)
    RandomIds()
    assert dice.calls == 0


def test_seeds_are_64_bits_wide() -> None:
    ids = RandomIds()
    seeds = [ids.seed() for _ in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    assert any(seed >> 63 for seed in seeds)
    assert any(not seed >> 63 for seed in seeds)


def test_two_sources_differ() -> None:
    assert [RandomIds().seed() for _ in range(4)] != [RandomIds().seed() for _ in range(4)]


def test_many_digits_are_nonces_that_all_differ() -> None:
    text = RandomIds().digits(16_000).decode()
    drawn = [text[at : at + 16] for at in range(0, len(text), 16)]
    assert (len(text), len(set(drawn))) == (16_000, 1000)
    assert all(digits(int(one, 16)) == one for one in drawn)
    assert {one[0] for one in drawn} == set("0123456789abcdef")


def test_a_log_from_far_ahead_does_not_stop_the_clock() -> None:
    far_ms = 1 << 50
    assert far_ms <= SystemClock(far_ms).now_ms() < far_ms + 3_600_000
