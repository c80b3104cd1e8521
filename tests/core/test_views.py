"""What SHOW, PEEK, STATS, INFO and CONFIG answer, also for a queue that does not exist."""

import msgspec
import pytest

from moxy.core.commands import Info, Peek, ReadPolicy, Show, Stats
from moxy.core.policy import RANGES, Policy
from tests.core.support import T0, Q


def test_a_queue_that_does_not_exist_answers_zeros_nulls_and_empty_lists():
    q = Q("nowhere")
    assert q.counts() == {"ready": 0, "processing": 0, "dead": 0, "active_leases": 0, "heap": 0}
    for state in ("ready", "scheduled", "processing", "dead"):
        assert q.do(Peek("nowhere", state, 10)) == []
    assert q.do(Show("nowhere", "a")) is None
    info = q.do(Info("nowhere"))
    assert all(not value for key, value in info.items() if key != "queue" and not key.startswith("policy_"))
    assert info["oldest_ready_age_ms"] is info["next_due_ms"] is info["last_event_ms"] is info["born_ms"] is None
    assert q.log == []
    assert q.state is q.unborn


def test_it_would_be_born_with_this_policy():
    usual = dict.fromkeys(RANGES, 0) | {"max_attempts": 25, "lease_ms": 30_000}
    assert q_policy(Q()) == usual
    assert q_policy(Q(born=Policy(max_attempts=3))) == usual | {"max_attempts": 3}


def q_policy(q):
    return q.do(ReadPolicy("jobs"))


def test_stats_are_five_counts_and_leases_and_heap_are_those_of_processing():
    q = Q().add("a", "b", "c", "d", "e").add("later", delay_ms=5)
    q.nack(q.take(), kind="fatal")
    q.take()
    q.take()
    assert list(q.counts().items()) == [
        ("ready", 2),
        ("processing", 2),
        ("dead", 1),
        ("active_leases", 2),
        ("heap", 2),
    ]
    assert type(q.do(Stats("jobs"))).__struct_fields__ == ("ready", "processing", "dead", "active_leases", "heap")


def test_a_peek_is_an_entry_with_its_payload_and_no_delivery():
    q = Q().add("a", payload=b"\0p", priority=4)
    [entry] = q.do(Peek("jobs", "ready", 10))
    assert msgspec.structs.asdict(entry) == {
        "lease_id": None,
        "task_id": "a",
        "queue": "jobs",
        "payload": b"\0p",
        "attempts": 0,
        "deliveries": 0,
        "token": 0,
        "deadline_ms": None,
        "priority": 4,
        "enqueued_ms": T0,
    }
    [taken] = q.fetch(70)
    assert q.do(Peek("jobs", "processing", 10)) == [taken]


def test_show_tells_all_of_a_tasks_life():
    q = Q(max_attempts=2).add("a", ttl_ms=900, lease_ms=50, priority=2)
    q.nack(q.take(), reason="first", delay_ms=30)
    view = q.show("a")
    assert (view.state, view.due_ms, view.expires_ms, view.last_reason) == ("scheduled", T0 + 30, T0 + 900, "first")
    q.tick(30)
    lease = q.take(50, worker="w", bound=True)
    view = q.show("a")
    assert (view.lease_id, view.deadline_ms, view.leased_ms) == (lease, T0 + 80, T0 + 30)
    assert (view.worker, view.bound, view.due_ms) == ("w", True, None)
    q.tick(50)
    view = q.show("a")
    assert (view.dead_cause, view.dead_reason, view.dead_ms) == ("attempts", "lease expired", T0 + 80)
    assert (view.lease_id, view.deadline_ms, view.leased_ms, view.worker, view.bound) == (None, None, None, None, False)
    assert (view.attempts, view.deliveries, view.failures, view.expiries, view.token) == (2, 2, 1, 1, 2)
    assert (view.payload, view.priority, view.enqueued_ms, view.max_attempts) == (b"a", 2, T0, 2)


@pytest.mark.parametrize("priority", [0, 9])
def test_the_oldest_ready_age_is_that_of_the_earliest_place_whatever_its_priority(priority):
    q = Q().add("old", priority=priority)
    q.wait(100).add("young", priority=9 - priority)
    q.wait(50)
    assert q.do(Info("jobs"))["oldest_ready_age_ms"] == 150
    q.delete("old")
    assert q.do(Info("jobs"))["oldest_ready_age_ms"] == 50


def test_info_counts_totals_and_the_last_event():
    q = Q().add("a", "b", "c", dedup_ms=500)
    q.wait(10).ack(q.take())
    q.wait(10).purge("ready")
    q.wait(10)
    info = q.do(Info("jobs"))
    assert (info["total_enqueued"], info["total_acked"], info["total_deleted"]) == (3, 1, 2)
    assert (info["last_seq"], info["last_event_ms"], info["born_ms"]) == (6, T0 + 20, T0)
    assert (info["remembered_ids"], info["last_token"], info["paused"]) == (3, 1, 0)
    q.pause()
    assert q.do(Info("jobs"))["paused"] == 1
