"""Cost does not grow with what waits. Counted in calls and copied keys, not in time: clocks drift, counts do not."""

import sys
from functools import cache
from typing import Any

import pytest

from moxy.core.commands import Ack, Enqueue, Fetch
from moxy.core.decider import decide
from moxy.core.ids import split_lease_id
from moxy.core.state import QueueState
from tests.core.support import T0
from tests.forms import needs_source


@cache
def filled(waiting: int) -> QueueState:
    state = QueueState("jobs")
    for number in range(waiting):
        state = decide(state, Enqueue("jobs", b"x"), T0, number).state
    return state


def calls_of_a_cycle(state: QueueState, cycles: int = 50) -> float:
    """Python and C calls that enqueue, fetch and ack make, on average."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    profiling = sys.getprofile()
    sys.setprofile(count)
    try:
        for seed in range(cycles):
            state = decide(state, Enqueue("jobs", b"x"), T0, seed).state
            decision = decide(state, Fetch("jobs", 1000), T0, seed)
            assert isinstance(decision.answer, list)
            lease_id = decision.answer[0].lease_id  # type: ignore[union-attr]
            queue, number, token = split_lease_id(lease_id or "")
            state = decide(decision.state, Ack(queue, lease_id or "", number, token), T0, 0).state
    finally:
        sys.setprofile(profiling)
    return calls / cycles


@needs_source
def test_a_cycle_makes_no_more_calls_when_a_hundred_times_as_many_tasks_wait() -> None:
    small, large = calls_of_a_cycle(filled(1_000)), calls_of_a_cycle(filled(100_000))
    # Two more levels of each order are four more calls down and up a path; a walk over the tasks would be 100 times.
    assert large <= 1.3 * small, f"{small} calls with 1,000 waiting, {large} with 100,000"


@needs_source
@pytest.mark.deep
def test_nor_with_a_million() -> None:
    small, large = calls_of_a_cycle(filled(1_000)), calls_of_a_cycle(filled(1_000_000))
    assert large <= 1.3 * small
