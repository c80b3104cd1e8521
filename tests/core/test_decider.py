"""The rules of docs/semantics.md, each told as a short story. `support.Q` checks the invariants after every step.

Tasks bear the ids that the test gives them; `said` has the events of the last command as sentences.
"""

import pytest

from moxy.core.commands import (
    Delete,
    Enqueue,
    EnqueueMany,
    Fetch,
    Info,
    Peek,
    ReadPolicy,
    Redrive,
    Show,
    Stats,
    Tick,
)
from moxy.core.decider import decide
from moxy.core.errors import Refused
from moxy.core.events import Enqueued, Expired, Failed, Leased, QueueConfigured, Redriven, Released, Requeued
from moxy.core.policy import Policy
from moxy.core.reducer import replay
from moxy.core.state import QueueState
from tests.core.support import DAY_MS, T0, Q, ack, dump, extend, nack, release, void_uses

NONCE = "0" * 16  # seed 0 draws only zeros
MIB = 1024 * 1024


# Enqueue


def test_a_task_without_an_id_gets_its_number_and_a_nonce():
    q = Q(seed=0xABC)
    assert q.do(Enqueue("jobs", b"x")) == ["1-0000000000000abc"]
    assert q.add_many(b"y") == ["2-0000000000000abc"]
    assert q.said == ["Enqueued 2-0000000000000abc"]


def test_the_ids_of_one_batch_have_nonces_of_their_own():
    ids = Q(seed=0x123456789ABCDEF1).add_many(*[b""] * 50)
    assert [id.split("-")[0] for id in ids] == [str(n) for n in range(1, 51)]
    assert len({id.split("-")[1] for id in ids}) == 50


def test_numbers_are_never_reused():
    q = Q()
    q.add("a", "b")
    q.delete("b")
    q.ack(q.take())
    assert q.do(Enqueue("jobs", b"")) == [f"3-{NONCE}"]


def test_an_id_that_a_client_took_is_not_made_again():
    q = Q(seed=5)
    q.add("1-0000000000000005", "2-0000000000000005", "3-0000000000000005")
    [made] = q.do(Enqueue("jobs", b""))
    assert made.startswith("4-")
    q = Q(seed=5)
    q.add("2-0000000000000005")
    [made] = q.do(Enqueue("jobs", b""))
    assert made.startswith("2-")
    assert made != "2-0000000000000005"


@pytest.mark.parametrize("payload", [b"", b"\0", bytes(range(256)), b"x" * MIB])
def test_a_payload_is_any_bytes(payload):
    q = Q().add("a", payload=payload)
    assert q.fetch()[0].payload == payload


@pytest.mark.parametrize("state", ["scheduled", "ready", "processing", "dead"])
def test_an_id_that_is_here_is_the_reply_and_nothing_is_created(state):
    q = Q(max_attempts=1)
    q.add("a", delay_ms=10 if state == "scheduled" else 0)
    if state in ("processing", "dead"):
        lease = q.take()
        if state == "dead":
            q.nack(lease)
    assert q.show("a").state == state
    q.add("a", payload=b"other", priority=9, delay_ms=5, dedup_ms=7)
    assert q.said == []
    assert q.show("a").payload == b"a"


def test_a_known_id_is_answered_even_when_the_queue_is_full():
    q = Q(max_ready=1).add("a")
    assert q.refuses(Enqueue("jobs", b"", "b")).startswith("FULL ")
    q.add("a")
    assert q.said == []


@pytest.mark.parametrize("way", ["acked", "deleted", "purged"])
def test_an_id_is_remembered_for_its_dedup_window(way):
    q = Q().add("a", dedup_ms=50)
    q.wait(1000)
    if way == "acked":
        q.ack(q.take())
    elif way == "deleted":
        q.delete("a")
    else:
        q.purge("ready")
    q.wait(49).add("a")
    assert q.said == []
    q.wait(1).add("a")
    assert q.said == ["Enqueued a"], "forgotten when now >= gone_ms + dedup_ms"


def test_without_dedup_the_id_is_forgotten_at_once():
    q = Q().add("a")
    q.ack(q.take())
    q.add("a")
    assert q.said == ["Enqueued a"]


def test_the_window_that_counts_is_the_one_of_the_task_that_went():
    q = Q().add("a", dedup_ms=50)
    q.delete("a")
    q.wait(50).add("a")
    q.delete("a")
    q.add("a")
    assert q.said == ["Enqueued a"]


def test_the_memory_of_ids_does_not_grow_for_ever():
    q = Q()
    for n in range(300):
        q.wait(10).add(f"t{n}", dedup_ms=25)
        q.delete(f"t{n}")
    assert q.do(Info("jobs"))["remembered_ids"] <= 4


def test_delay_schedules_and_delay_zero_does_not():
    q = Q().add("now", delay_ms=0).add("then", delay_ms=10)
    assert (q.show("now").state, q.show("now").due_ms) == ("ready", None)
    assert (q.show("then").state, q.show("then").due_ms) == ("scheduled", T0 + 10)


def test_a_ttl_counts_from_the_enqueue():
    q = Q().add("a", ttl_ms=50, delay_ms=20)
    assert q.show("a").expires_ms == T0 + 50


def test_the_default_ttl_is_the_policys_and_zero_is_none():
    q = Q().add("before")
    q.config(ttl_ms=70)
    q.add("after").add("own", ttl_ms=5)
    q.config(ttl_ms=0)
    q.add("none")
    assert [q.show(id).expires_ms for id in ("before", "after", "own", "none")] == [None, T0 + 70, T0 + 5, None]


def test_the_policy_counts_as_it_stands_when_it_is_needed():
    q = Q(max_attempts=3, lease_ms=40).add("policy").add("own", max_attempts=5, lease_ms=60)
    q.config(max_attempts=1, lease_ms=50)
    assert (q.show("policy").max_attempts, q.show("own").max_attempts) == (1, 5)
    assert [d.deadline_ms for d in q.fetch(0, 2)] == [T0 + 50, T0 + 60]


def test_max_ready_bounds_ready_and_scheduled_together():
    q = Q(max_ready=2).add("a").add("b", delay_ms=10)
    assert q.refuses(Enqueue("jobs", b"")).startswith("FULL ")
    assert q.refuses(Enqueue("jobs", b"", delay_ms=10)).startswith("FULL ")
    q.take()
    q.add("c")  # a task under a lease does not wait
    assert q.peek("ready") == ["c"]


def test_a_batch_that_would_pass_max_ready_is_refused_whole():
    q = Q(max_ready=3).add("a")
    assert q.refuses(EnqueueMany("jobs", (b"1", b"2", b"3"))).startswith("FULL ")
    assert len(q.add_many(b"1", b"2")) == 2


def test_tasks_that_come_back_may_pass_max_ready():
    q = Q(max_ready=1).add("a")
    lease = q.take()
    q.add("b")
    assert q.nack(lease) == ["Failed a", "Requeued a"]
    assert q.peek("ready") == ["a", "b"]


def test_max_ready_zero_is_no_bound():
    assert len(Q(max_ready=0).add_many(*[b""] * 500)) == 500


def test_a_batch_is_atomic_and_in_order():
    q = Q()
    ids = q.add_many(b"1", b"2", b"3")
    assert [type(event) for event in q.events] == [Enqueued] * 3
    assert q.peek("ready") == ids == q.take_ids()


def test_the_options_of_a_task_are_in_its_event():
    q = Q().add("a", payload=b"p", priority=3, delay_ms=5, ttl_ms=9, max_attempts=2, lease_ms=11, dedup_ms=13)
    assert q.events == (Enqueued("jobs", 1, T0, 1, "a", b"p", 3, T0 + 5, T0 + 9, 2, 11, 13),)


# Lease


def test_fetch_leases_for_the_visibility_timeout():
    q = Q().add("a")
    [d] = q.fetch(70, worker="w1", bound=True)
    assert (d.lease_id, d.token, d.deadline_ms, d.deliveries) == (f"jobs:1:1:{NONCE}", 1, T0 + 70, 1)
    assert q.events == (Leased("jobs", 2, T0, 1, "a", f"jobs:1:1:{NONCE}", 1, T0 + 70, "w1", True),)
    view = q.show("a")
    assert (view.state, view.worker, view.bound, view.leased_ms) == ("processing", "w1", True, T0)


def test_default_is_the_tasks_own_lease_else_the_policys():
    q = Q().add("own", lease_ms=7).add("policy")
    assert [d.deadline_ms for d in q.fetch(0, 2)] == [T0 + 7, T0 + 30_000]


def test_a_fetch_with_a_time_ignores_the_tasks_own_lease():
    assert Q().add("own", lease_ms=7).fetch(9)[0].deadline_ms == T0 + 9


def test_count_leases_up_to_that_many():
    q = Q().add("a", "b", "c")
    assert q.take_ids(2) == ["a", "b"]
    assert q.take_ids(2) == ["c"]
    assert q.take_ids(2) == []
    assert q.said == []


def test_the_leases_of_one_fetch_have_nonces_of_their_own():
    q = Q(seed=0x123456789ABCDEF1)
    q.add_many(b"", b"", b"")
    assert len({d.lease_id.rsplit(":", 1)[1] for d in q.fetch(count=3)}) == 3


def test_tokens_go_on_by_one():
    q = Q().add("a", "b")
    leases = [q.take(), q.take()]
    q.nack(leases[0], kind="release")
    q.take()
    assert [event.token for event in q.log if isinstance(event, Leased)] == [1, 2, 3]
    assert (q.show("a").token, q.show("b").token) == (3, 2)


def test_a_paused_queue_leases_nothing():
    q = Q().add("a")
    q.pause()
    assert q.take_ids() == []
    q.resume()
    assert q.take_ids() == ["a"]


def test_a_lease_id_finds_its_queue_whatever_the_name():
    q = Q("a:b:7").add("a")
    lease = q.take()
    assert lease == f"a:b:7:1:1:{NONCE}"
    assert q.ack(lease) is None


def test_an_ack_is_the_end():
    q = Q().add("a")
    assert q.ack(q.take()) is None
    assert q.said == ["Acked a"]
    assert q.do(Show("jobs", "a")) is None


def test_extend_counts_from_now():
    q = Q().add("a")
    lease = q.take(100)
    assert q.wait(60).extend(lease, 100) == T0 + 160
    assert q.said == ["Extended a"]
    assert (q.show("a").deadline_ms, q.show("a").attempts) == (T0 + 160, 0)
    assert q.tick(99) == 0
    assert q.tick(1) == 1


def test_extend_never_moves_a_deadline_earlier():
    q = Q().add("a")
    lease = q.take(100)
    assert q.wait(10).extend(lease, 20) == T0 + 100
    assert q.extend(lease, 90) == T0 + 100, "not later is not enough"
    assert q.said == []
    assert q.extend(lease, 91) == T0 + 101


def test_extend_is_capped_from_the_moment_of_leasing():
    q = Q(max_hold_ms=200).add("a")
    lease = q.take(100)
    q.wait(50)
    assert q.extend(lease, 150) == T0 + 200
    assert q.refuses(extend(lease, 151)).startswith("MAXHOLD ")
    q.wait(150)
    assert q.refuses(extend(lease, 1)).startswith("MAXHOLD ")
    assert q.show("a").deadline_ms == T0 + 200


def test_the_cap_is_on_extend_alone():
    q = Q(max_hold_ms=10).add("a")
    lease = q.take(5000)
    assert q.extend(lease, 100) == T0 + 5000, "what changes nothing is not refused"
    assert q.refuses(extend(lease, 5001)).startswith("MAXHOLD ")


def test_a_late_ack_wins_if_the_lease_has_not_expired_yet():
    q = Q().add("a")
    lease = q.take(100)
    q.wait(5000).ack(lease)
    assert q.said == ["Acked a"]


def test_so_do_a_late_extend_and_a_late_nack():
    q = Q(max_attempts=0).add("a", "b")
    one, two = q.take(100), q.take(100)
    assert q.wait(5000).extend(one, 10) == T0 + 5010
    assert q.nack(two, reason="late") == ["Failed b", "Requeued b"]
    assert q.tick() == 0


ENDS = {
    "ack": lambda q, lease: q.ack(lease),
    "nack": lambda q, lease: q.nack(lease),
    "nack with a delay": lambda q, lease: q.nack(lease, delay_ms=10),
    "fatal": lambda q, lease: q.nack(lease, kind="fatal"),
    "nack release": lambda q, lease: q.nack(lease, kind="release"),
    "undelivered": lambda q, lease: q.release(lease, "undelivered"),
    "disconnect": lambda q, lease: q.release(lease, "disconnect"),
    "expiry": lambda q, lease: q.tick(1000),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("then", ["nothing", "leased again", "gone"])
def test_a_void_lease_has_no_effect(end, then):
    q = Q(max_attempts=0, seed=77).add("a")
    lease = q.take()
    ENDS[end](q, lease)
    if then == "leased again" and end != "ack":
        if end == "fatal":
            q.redrive("a")
        q.tick(10)
        assert q.take() != lease
    elif then == "gone" and end != "ack":
        q.delete("a")
    for command in void_uses(lease):
        assert q.refuses(command).startswith("NOLEASE ")


# NOLEASE says what became of the lease, as far as the state knows


def said_of(q, lease):
    text = q.refuses(ack(lease))
    assert text == q.refuses(nack(lease)) == q.refuses(extend(lease, 10))
    assert text.startswith("NOLEASE ")
    return text


def test_nolease_says_that_it_expired():
    q = Q().add("a")
    lease = q.take(100)
    q.tick(100)
    assert "expired" in said_of(q, lease)


def test_nolease_says_that_it_was_completed():
    q = Q().add("a")
    lease = q.take()
    q.ack(lease)
    assert "completed" in said_of(q, lease)


def test_nolease_says_that_it_was_given_up():
    q = Q().add("a")
    lease = q.take()
    q.nack(lease)
    assert "NACK" in said_of(q, lease)


def test_nolease_says_that_it_was_released_or_disconnected():
    q = Q().add("a")
    lease = q.take()
    q.nack(lease, kind="release")
    assert "released" in said_of(q, lease)
    lease = q.take()
    q.release(lease, "disconnect")
    assert "connection closed" in said_of(q, lease)


def test_nolease_says_that_the_task_was_leased_again():
    q = Q().add("a")
    lease = q.take(100)
    q.tick(100)
    again = q.take(100)
    assert "leased again" in said_of(q, lease)
    q.tick(100)
    assert "leased again" in said_of(q, lease)
    assert "expired" in said_of(q, again)


@pytest.mark.parametrize(
    "lease",
    [
        f"jobs:1:3:{NONCE}",  # a token from the future
        f"jobs:9:1:{NONCE}",  # a number from the future
        "jobs:1:2:00000000000000ff",  # another random part: from before a data loss
        "jobs:01:2:" + NONCE,  # not as it came
    ],
)
def test_nolease_says_that_it_was_never_seen(lease):
    q = Q().add("a", "b")
    q.nack(q.take(), kind="release")
    q.take()  # a, under token 2
    assert "never seen" in said_of(q, lease)


def test_nolease_of_a_lease_that_another_task_has_is_never_seen():
    """The token was given, but not to this task: as after a data loss. It must not be told that it ended somehow."""
    q = Q().add("a", "b")
    q.take(100)
    q.take(200)
    q.tick(100)
    assert "never seen" in said_of(q, f"jobs:1:2:{NONCE}")


def test_nolease_of_a_task_that_was_never_leased_is_never_seen():
    q = Q().add("a", "b")
    q.take(100)
    assert "never seen" in said_of(q, f"jobs:2:1:{NONCE}")


def test_nolease_of_a_later_token_than_that_of_the_live_lease_is_never_seen():
    q = Q().add("a", "b")
    q.take(100)
    q.take(100)
    assert "never seen" in said_of(q, f"jobs:1:2:{NONCE}")


# Coming back


def test_a_deadline_that_passed_is_an_expiry_and_a_requeue():
    q = Q().add("a")
    q.take(100)
    assert q.tick(100) == 1
    assert q.said == ["Expired a", "Requeued a"]
    view = q.show("a")
    assert (view.state, view.attempts, view.expiries, view.failures) == ("ready", 1, 1, 0)


def test_a_nack_is_a_failure_and_a_requeue():
    q = Q().add("a")
    assert q.nack(q.take(), reason="no disk") == ["Failed a", "Requeued a"]
    failed = q.events[0]
    assert isinstance(failed, Failed)
    assert failed.reason == "no disk"
    view = q.show("a")
    assert (view.state, view.attempts, view.failures, view.last_reason) == ("ready", 1, 1, "no disk")


def test_a_fatal_nack_buries_whatever_attempts_are_left():
    q = Q(max_attempts=0).add("a")
    assert q.nack(q.take(), kind="fatal", reason="cannot parse") == ["Failed a", "DeadLettered a fatal: cannot parse"]
    assert (q.show("a").attempts, q.show("a").dead_ms) == (1, T0)


def test_a_release_goes_back_to_its_place_and_is_not_charged():
    q = Q(max_attempts=1, backoff_ms=1000).add("a", "b")
    for back in (lambda lease: q.nack(lease, kind="release"), lambda lease: q.release(lease, "undelivered")):
        said = back(q.take())
        assert said in (["Released a worker"], ["Released a undelivered"])
        assert q.peek("ready") == ["a", "b"]
    view = q.show("a")
    assert (view.attempts, view.releases, view.disconnects, view.deliveries) == (0, 2, 0, 2)


def test_a_disconnect_goes_back_to_its_place_and_is_charged():
    q = Q(backoff_ms=1000).add("a", "b")
    assert q.release(q.take(bound=True), "disconnect") == ["Released a disconnect"]
    assert q.peek("ready") == ["a", "b"], "no backoff"
    view = q.show("a")
    assert (view.attempts, view.releases, view.disconnects) == (1, 0, 1)


def test_a_disconnect_that_uses_up_the_attempts_buries():
    q = Q(max_attempts=1).add("a", ttl_ms=100)
    lease = q.take(1000, bound=True)
    q.wait(100)
    assert q.release(lease, "disconnect") == ["Released a disconnect", "DeadLettered a attempts: disconnect"]


@pytest.mark.parametrize("cause", ["worker", "undelivered", "disconnect"])
@pytest.mark.parametrize("late_ms", [-1, 0, 1])
def test_a_released_task_past_its_ttl_is_buried(cause, late_ms):
    q = Q().add("a", ttl_ms=50)
    lease = q.take(1000)
    q.wait(50 + late_ms)
    buried = ["DeadLettered a ttl: ttl"] if late_ms >= 0 else []
    assert q.release(lease, cause) == [f"Released a {cause}", *buried]


def test_an_uncharged_release_never_buries_for_attempts():
    q = Q(max_attempts=0).add("a")
    q.nack(q.take())
    lease = q.take()
    q.config(max_attempts=1)
    assert q.release(lease, "worker") == ["Released a worker"]


def test_attempts_come_before_the_ttl():
    q = Q(max_attempts=1).add("a", "b", ttl_ms=50)
    one = q.take(60)
    q.take(60)
    q.wait(55)
    assert q.nack(one) == ["Failed a", "DeadLettered a attempts: nack"]
    q.tick(5)
    assert q.said == ["Expired b", "DeadLettered b attempts: lease expired"]


def test_a_charged_task_past_its_ttl_is_buried_for_it():
    q = Q(backoff_ms=10).add("a", "b", ttl_ms=50)
    one = q.take(60)
    q.take(60)
    assert q.wait(50).nack(one, delay_ms=0) == ["Failed a", "DeadLettered a ttl: ttl"]
    q.tick(10)
    assert q.said == ["Expired b", "DeadLettered b ttl: ttl"]


def test_a_live_lease_is_never_cut_short_by_a_ttl():
    q = Q().add("a", ttl_ms=50)
    lease = q.take(1000)
    assert q.tick(100) == 0
    assert q.ack(lease) is None


def test_max_attempts_zero_is_unlimited():
    for q in (Q(max_attempts=0).add("a"), Q(max_attempts=1).add("a", max_attempts=0)):
        for _ in range(60):
            assert q.nack(q.take()) == ["Failed a", "Requeued a"]
        assert q.show("a").attempts == 60


def test_the_default_is_25_attempts():
    q = Q().add("a")
    for _ in range(24):
        assert q.nack(q.take()) == ["Failed a", "Requeued a"]
    assert q.nack(q.take()) == ["Failed a", "DeadLettered a attempts: nack"]


def test_the_maximum_counts_as_it_stands_when_the_task_comes_back():
    q = Q(max_attempts=5).add("a")
    q.nack(q.take())
    q.nack(q.take())
    lease = q.take()
    q.config(max_attempts=2)
    assert q.nack(lease) == ["Failed a", "DeadLettered a attempts: nack"]


def test_a_nacks_delay_overrides_the_backoff():
    q = Q(backoff_ms=1000).add("a")
    assert q.nack(q.take(), delay_ms=7) == ["Failed a", "Requeued a +7"]
    assert (q.show("a").state, q.show("a").due_ms) == ("scheduled", T0 + 7)
    q.tick(7)
    assert q.nack(q.take(), delay_ms=0) == ["Failed a", "Requeued a"]
    assert q.show("a").state == "ready"


@pytest.mark.parametrize("how", ["nack", "expiry"])
def test_the_backoff_doubles_until_its_cap(how):
    q = Q(max_attempts=0, backoff_ms=100, backoff_max_ms=1000).add("a")
    delays = []
    for _ in range(70):
        lease = q.take(5)
        if how == "nack":
            q.nack(lease)
        else:
            q.tick(5)
        requeued = q.events[-1]
        assert isinstance(requeued, Requeued)
        delays.append(requeued.due_ms - q.now)
        q.tick(delays[-1])
    assert delays == [100, 200, 400, 800, *[1000] * 66], "seed 0 takes nothing off"


def test_without_a_cap_it_is_30_days():
    q = Q(max_attempts=0, backoff_ms=DAY_MS).add("a")
    days = []
    for _ in range(40):
        q.nack(q.take())
        days.append((q.show("a").due_ms - q.now) / DAY_MS)
        q.tick(30 * DAY_MS)
    assert days == [1, 2, 4, 8, 16, *[30] * 35]


def test_a_cap_below_the_base_holds_from_the_first_time():
    q = Q(backoff_ms=500, backoff_max_ms=30).add("a")
    assert q.nack(q.take()) == ["Failed a", "Requeued a +30"]


def test_a_redrive_restarts_the_backoff_too():
    q = Q(max_attempts=3, backoff_ms=100).add("a")
    for _ in range(3):
        q.nack(q.take())
        q.tick(1000)
    q.redrive("a")
    assert q.nack(q.take()) == ["Failed a", "Requeued a +100"]


def test_backoff_zero_is_no_backoff():
    q = Q(backoff_ms=0, backoff_max_ms=1000).add("a")
    assert q.nack(q.take()) == ["Failed a", "Requeued a"]


@pytest.mark.parametrize("base_ms", [1, 2, 9, 10])
def test_the_jitter_is_drawn_evenly_from_the_upper_half(base_ms):
    drawn = []
    width = base_ms // 2 + 1
    for nonce in range(10 * width):
        q = Q(seed=nonce, backoff_ms=base_ms).add("a")
        lease = q.take()
        q.nack(lease)
        drawn.append(q.show("a").due_ms - q.now)
        assert drawn[-1] == base_ms - nonce % width
    assert {drawn.count(ms) for ms in range(base_ms - base_ms // 2, base_ms + 1)} == {10}
    assert set(drawn) == set(range(base_ms - base_ms // 2, base_ms + 1))


def test_a_herd_spreads_out():
    q = Q(seed=0x9E3779B97F4A7C15, backoff_ms=1000)
    q.add_many(*[b""] * 200)
    q.fetch(10, 200)
    q.tick(10)
    delays = [event.due_ms - event.at_ms for event in q.events if isinstance(event, Requeued)]
    assert len(delays) == 200
    assert all(500 <= delay <= 1000 for delay in delays)
    assert len(set(delays)) > 100
    assert min(delays) < 600
    assert max(delays) > 900


# Reasons


def test_the_reason_of_attempts_is_the_text_of_the_nack_that_ended_it():
    q = Q(max_attempts=2).add("a")
    q.nack(q.take(), reason="first")
    q.nack(q.take(), reason="second")
    assert q.dead("a") == ("attempts", "second")


def test_the_text_of_an_earlier_nack_does_not_count():
    q = Q(max_attempts=2).add("a", "b", "c")
    for id in ("a", "b", "c"):
        q.nack(q.take(), reason="earlier")
        if id == "a":
            q.nack(q.take())
        elif id == "b":
            q.take(10)
            q.tick(10)
        else:
            q.release(q.take(), "disconnect")
    assert [q.dead(id) for id in ("a", "b", "c")] == [
        ("attempts", "nack"),
        ("attempts", "lease expired"),
        ("attempts", "disconnect"),
    ]
    assert q.show("a").last_reason == "earlier"


def test_the_reason_of_fatal_is_the_text_or_fatal():
    q = Q().add("a", "b")
    q.nack(q.take(), kind="fatal")
    q.nack(q.take(), kind="fatal", reason="bad")
    assert (q.dead("a"), q.dead("b")) == (("fatal", "fatal"), ("fatal", "bad"))


def test_a_fatal_nack_without_a_text_does_not_take_an_earlier_one():
    q = Q().add("a")
    q.nack(q.take(), reason="earlier")
    q.nack(q.take(), kind="fatal")
    assert q.dead("a") == ("fatal", "fatal")


def test_the_reason_of_ttl_is_ttl():
    q = Q().add("a", ttl_ms=20)
    q.nack(q.take(), reason="earlier")
    q.tick(20)
    assert q.dead("a") == ("ttl", "ttl")


# Operators


def test_redrive_takes_the_oldest_deaths_first_to_new_places():
    q = Q(max_attempts=1).add("a", "b", "c")
    leases = {id: q.take() for id in ("a", "b", "c")}
    for id in ("c", "a", "b"):
        q.nack(leases[id])
    q.add("fresh")
    assert q.redrive(count=2) == 2
    assert q.said == ["Redriven c", "Redriven a"]
    assert q.peek("ready") == ["fresh", "c", "a"]
    assert q.redrive() == 1
    assert q.peek("ready") == ["fresh", "c", "a", "b"]
    assert q.redrive() == 0
    assert q.said == []


def test_a_redriven_task_keeps_its_priority():
    q = Q(max_attempts=1).add("a", priority=5)
    q.nack(q.take())
    q.add("b").add("c", priority=5)
    q.redrive()
    assert q.peek("ready") == ["c", "a", "b"]


def test_a_redriven_task_keeps_its_new_place_when_it_comes_back():
    q = Q(max_attempts=1).add("a")
    q.nack(q.take())
    q.add("b")
    q.redrive()
    q.nack(q.take(), kind="release")
    q.take()
    q.nack(q.take(), kind="release")
    q.add("c")
    assert q.peek("ready") == ["a", "c"]


def test_places_and_numbers_never_collide():
    q = Q(max_attempts=1).add("a")
    q.nack(q.take())
    q.redrive()
    assert q.add_many(b"") == [f"3-{NONCE}"]


def test_redrive_restarts_the_attempts_and_nothing_else():
    q = Q(max_attempts=2).add("a")
    q.nack(q.take(), reason="no")
    q.take(10)
    q.tick(10)
    q.redrive("a")
    view = q.show("a")
    assert (view.state, view.attempts, view.dead_cause, view.dead_reason) == ("ready", 0, None, None)
    assert (view.deliveries, view.failures, view.expiries, view.last_reason) == (2, 1, 1, "no")
    assert q.nack(q.take()) == ["Failed a", "Requeued a"]


def test_redrive_of_one():
    q = Q(max_attempts=1).add("a", "b")
    q.nack(q.take())
    q.nack(q.take())
    assert q.redrive("b") == 1
    assert (q.peek("ready"), q.peek("dead")) == (["b"], ["a"])


@pytest.mark.parametrize("state", ["unknown", "scheduled", "ready", "processing"])
def test_redrive_of_a_task_that_is_not_dead_is_notask(state):
    q = Q().add("other")
    q.delete("other")
    if state != "unknown":
        q.add("a", delay_ms=10 if state == "scheduled" else 0)
    if state == "processing":
        q.take()
    assert q.refuses(Redrive("jobs", task_id="a")).startswith("NOTASK ")


@pytest.mark.parametrize(("wait_ms", "kept"), [(48, T0 + 50), (49, T0 + 50), (50, None), (51, None)])
def test_redrive_keeps_a_ttl_that_lies_ahead_and_drops_one_that_ran_out(wait_ms, kept):
    q = Q(max_attempts=1).add("a", ttl_ms=50)
    q.nack(q.take())
    q.wait(wait_ms).redrive("a")
    assert q.show("a").expires_ms == kept
    assert q.tick() == 0


def test_a_task_that_died_of_its_ttl_lives_again_without_one():
    q = Q().add("a", ttl_ms=10)
    q.tick(10)
    q.redrive()
    q.tick(10_000)
    assert q.show("a").state == "ready"


def test_redrive_is_a_thousand_at_most():
    q = Q(ttl_ms=1)
    q.add_many(*[b""] * 1001)
    assert (q.tick(1), q.tick()) == (1000, 1)
    assert q.redrive() == 1000
    assert q.redrive() == 1


@pytest.mark.parametrize("state", ["scheduled", "ready", "dead"])
def test_delete_removes_one(state):
    q = Q(max_attempts=1).add("a", delay_ms=10 if state == "scheduled" else 0)
    if state == "dead":
        q.nack(q.take())
    assert q.delete("a") == 1
    assert q.said == ["Deleted a"]
    assert q.do(Show("jobs", "a")) is None
    assert q.delete("a") == 0
    assert q.said == []


def test_a_task_under_a_lease_cannot_be_deleted():
    q = Q().add("a")
    q.take()
    assert q.refuses(Delete("jobs", "a")).startswith("LEASED ")


def test_a_remembered_id_is_no_task_to_delete():
    q = Q().add("a", dedup_ms=1000)
    q.ack(q.take())
    assert q.delete("a") == 0


@pytest.mark.parametrize("state", ["scheduled", "ready", "dead"])
def test_purge_removes_every_task_of_a_state_in_one_event(state):
    q = Q(max_attempts=1).add("dead", "dead2")
    q.nack(q.take())
    q.nack(q.take())
    q.add("held", "ready", "ready2").add("scheduled", "scheduled2", delay_ms=10)
    q.take()
    assert q.purge(state) == 2
    assert q.said == [f"Purged 2 {state}"]
    left = {s: q.peek(s) for s in ("scheduled", "ready", "processing", "dead")}
    assert left.pop(state) == []
    assert left.pop("processing") == ["held"]
    assert all(len(ids) == 2 for ids in left.values())
    assert q.do(Info("jobs"))["total_deleted"] == 2, "a purge counts each of its tasks"
    assert q.purge(state) == 0
    assert q.said == []


def test_pause_leaves_everything_else_going():
    q = Q(max_attempts=0).add("a", "b", "c").add("d", delay_ms=10).add("e", ttl_ms=10)
    one, two = q.take(10), q.take(1000)
    q.pause()
    assert q.said == ["QueuePaused"]
    q.add("f")
    assert q.fetch(count=10, ms=1) == []
    assert q.extend(two, 2000) == T0 + 2000
    q.wait(10)
    assert q.fetch(count=10) == []
    assert q.said == ["Expired a", "Requeued a", "DeadLettered e ttl: ttl", "Matured d"], "due work goes on"
    assert q.refuses(ack(one)).startswith("NOLEASE ")
    q.ack(two)
    q.resume()
    assert q.said == ["QueueResumed"]
    assert q.take_ids() == ["a", "c", "d", "f"]


def test_pausing_twice_and_resuming_what_runs_is_no_event():
    q = Q()
    assert q.resume() is None
    assert q.said == []
    q.pause()
    assert q.pause() is None
    assert q.said == []
    q.resume()
    assert q.resume() is None
    assert q.said == []


def test_config_sets_fields_together():
    q = Q()
    assert q.config(max_attempts=3, lease_ms=50) is None
    assert q.events == (QueueConfigured("jobs", 1, T0, Policy(max_attempts=3, lease_ms=50)),)
    q.config(backoff_ms=7)
    assert q.do(ReadPolicy("jobs")) == {
        "max_attempts": 3,
        "backoff_ms": 7,
        "backoff_max_ms": 0,
        "lease_ms": 50,
        "max_hold_ms": 0,
        "max_ready": 0,
        "ttl_ms": 0,
    }


def test_config_of_what_holds_already_is_no_event():
    q = Q(max_attempts=3)
    q.config(max_attempts=3)
    assert q.said == []
    q.config(max_attempts=3, lease_ms=30_000)
    assert q.said == []
    assert Q().config(max_attempts=25) is None


def test_a_lower_max_ready_removes_nothing():
    q = Q().add("a", "b")
    q.config(max_ready=1)
    assert q.peek("ready") == ["a", "b"]
    assert q.refuses(Enqueue("jobs", b"")).startswith("FULL ")


BORN = Policy(max_attempts=3)

FIRST_COMMANDS = {
    "enqueue": lambda q: q.add("a"),
    "enqueue many": lambda q: q.add_many(b"1", b"2"),
    "pause": lambda q: q.pause(),
}


@pytest.mark.parametrize("first", FIRST_COMMANDS)
def test_a_queue_born_with_another_policy_writes_it_down_first(first):
    q = Q(born=BORN)
    FIRST_COMMANDS[first](q)
    assert q.events[0] == QueueConfigured("jobs", 1, T0, BORN)
    assert len(q.events) > 1
    # Whoever replays the log knows nothing of this server's options (I10).
    assert dump(replay(q.log, QueueState("jobs"))) == dump(q.state)
    q.add("later")
    assert q.said == ["Enqueued later"]


def test_a_queue_born_with_another_policy_and_configured_first_writes_one_event():
    q = Q(born=BORN)
    q.config(lease_ms=50)
    assert q.events == (QueueConfigured("jobs", 1, T0, Policy(max_attempts=3, lease_ms=50)),)
    q.add("a")
    assert q.said == ["Enqueued a"]
    q = Q(born=BORN)
    q.config(max_attempts=25)
    assert q.events == (QueueConfigured("jobs", 1, T0, Policy()),)


def test_a_queue_born_with_the_usual_policy_needs_no_such_event():
    assert Q().add("a").said == ["Enqueued a"]


def test_what_changes_nothing_does_not_give_birth():
    q = Q(born=BORN)
    q.fetch()
    q.tick(100)
    q.resume()
    assert (q.redrive(), q.delete("a"), q.purge("ready")) == (0, 0, 0)
    q.config(max_attempts=3)
    for command in void_uses(f"jobs:1:1:{NONCE}"):
        assert q.refuses(command).startswith("NOLEASE ")
    assert q.refuses(Redrive("jobs", task_id="a")).startswith("NOTASK ")
    assert q.refuses(EnqueueMany("jobs", (b"", b"x" * (MIB + 1)))).startswith("TOOBIG ")
    assert q.log == []
    assert q.state is q.unborn


# Time


@pytest.mark.parametrize("ms", [1, 100, 30 * DAY_MS])
def test_a_lease_expires_at_its_deadline_and_not_before(ms):
    q = Q().add("a")
    q.take(ms)
    assert q.tick(ms - 1) == 0
    assert q.said == []
    assert q.tick(1) == 1
    assert isinstance(q.events[0], Expired)


def test_a_delay_ends_at_its_time_and_not_before():
    q = Q().add("a", delay_ms=10)
    assert q.tick(9) == 0
    assert q.take_ids() == []
    assert q.tick(1) == 1
    assert q.said == ["Matured a"]


@pytest.mark.parametrize("delay_ms", [0, 10, 1000])
def test_a_ttl_runs_out_at_its_time_and_not_before(delay_ms):
    q = Q().add("a", ttl_ms=50, delay_ms=delay_ms)
    q.tick(49)
    assert q.show("a").state in ("ready", "scheduled")
    q.tick(1)
    assert q.said == ["DeadLettered a ttl: ttl"]


def test_due_work_comes_as_leases_then_ttls_then_maturing_each_in_its_order():
    q = Q(max_attempts=0)
    q.add("lease30", "lease20", "lease10", "lease20b")
    for ms in (30, 20, 10, 20):
        q.take(ms)
    q.add("due30", delay_ms=30).add("due5", delay_ms=5).add("due30b", delay_ms=30)
    q.add("ttl40", ttl_ms=40).add("ttl1", ttl_ms=1, delay_ms=1).add("ttl40b", ttl_ms=40, delay_ms=90)
    assert q.tick(50) == 10
    assert [line for line in q.said if not line.startswith("Requeued")] == [
        "Expired lease10",
        "Expired lease20",
        "Expired lease20b",
        "Expired lease30",
        "DeadLettered ttl1 ttl: ttl",
        "DeadLettered ttl40 ttl: ttl",
        "DeadLettered ttl40b ttl: ttl",
        "Matured due5",
        "Matured due30",
        "Matured due30b",
    ]


def test_leases_of_one_deadline_expire_by_token_not_by_place():
    q = Q(max_attempts=0).add("a", "b")
    one = q.take(100)
    q.take(100)
    q.nack(one, kind="release")
    q.take(100)  # a again, with token 3
    q.tick(100)
    assert q.said == ["Expired b", "Requeued b", "Expired a", "Requeued a"]


def test_ttls_and_dues_of_one_time_go_by_place_not_by_priority():
    q = Q().add("a", ttl_ms=10).add("b", ttl_ms=10, priority=9)
    q.add("c", delay_ms=10).add("d", delay_ms=10, priority=9)
    q.tick(10)
    assert q.said == ["DeadLettered a ttl: ttl", "DeadLettered b ttl: ttl", "Matured c", "Matured d"]


def test_due_work_is_done_before_every_fetch():
    q = Q(max_attempts=0).add("a").add("b", ttl_ms=20).add("c", delay_ms=20)
    q.take(20)
    q.wait(20)
    assert q.take_ids() == ["a", "c"]
    assert q.said[:4] == ["Expired a", "Requeued a", "DeadLettered b ttl: ttl", "Matured c"]


def test_nothing_but_the_timer_and_a_fetch_does_due_work():
    q = Q(max_attempts=0).add("a", "b").add("c", ttl_ms=20).add("d", delay_ms=20).add("e", "f", delay_ms=500)
    q.take(20)
    lease = q.take(20)
    q.wait(100)
    q.add("g")
    q.add_many(b"x")
    q.extend(lease, 1)
    q.nack(lease, kind="release")
    q.config(lease_ms=50)
    q.redrive()
    q.delete("f")
    q.pause()
    q.resume()
    for query in (Stats("jobs"), Peek("jobs", "ready", 10), Show("jobs", "a"), Info("jobs"), ReadPolicy("jobs")):
        q.do(query)
    due = {"Expired", "Requeued", "DeadLettered", "Matured"}
    assert not due & {type(event).__name__ for event in q.log}
    assert q.tick() == 3


def test_due_work_comes_in_slices_of_a_thousand():
    q = Q(max_attempts=0)
    q.add_many(*[b""] * 2001)
    for _ in range(3):
        q.fetch(10, 1000)
    assert [q.tick(wait) for wait in (10, 0, 0, 0)] == [1000, 1000, 1, 0]


def test_a_slice_counts_tasks_not_events_and_runs_across_the_kinds_of_work():
    q = Q(max_attempts=0, ttl_ms=0)
    q.add_many(*[b""] * 600)
    q.fetch(10, 1000)
    for n in range(300):
        q.add(f"ttl{n}", ttl_ms=10)
        q.add(f"due{n}", delay_ms=10)
    assert q.tick(10) == 1000
    kinds = [line.split()[0] for line in q.said]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Expired": 600,
        "Requeued": 600,
        "DeadLettered": 300,
        "Matured": 100,
    }
    assert q.tick() == 200


def test_a_fetch_does_one_slice_too():
    q = Q(max_attempts=0)
    q.add_many(*[b""] * 1500)
    q.fetch(10, 1000)
    q.fetch(10, 500)
    q.wait(10)
    assert len(q.fetch(10, 1)) == 1
    kinds = [line.split()[0] for line in q.said]
    assert (kinds.count("Expired"), kinds.count("Leased")) == (1000, 1)


def test_time_that_goes_back_is_raised_to_the_last_event():
    q = Q().add("a", ttl_ms=10_000)
    lease = q.wait(100).take(50)
    q.now = T0 - 1_000_000
    q.add("b", delay_ms=5)
    assert q.events[0].at_ms == T0 + 100
    assert q.show("b").due_ms == T0 + 105
    assert q.extend(lease, 60) == T0 + 160
    assert q.tick() == 0


def test_next_due_is_the_first_thing_that_time_causes():
    q = Q()
    assert q.state.next_due_ms() is None
    q.add("a")
    assert q.state.next_due_ms() is None
    q.add("b", delay_ms=300)
    assert q.state.next_due_ms() == T0 + 300
    q.add("c", ttl_ms=200)
    assert q.state.next_due_ms() == T0 + 200
    q.take(100)
    assert q.state.next_due_ms() == T0 + 100


# Order


def test_higher_priority_first_then_place():
    q = Q().add("a0", "b0").add("c9", priority=9).add("d4", priority=4).add("e9", priority=9).add("f0")
    assert q.peek("ready") == ["c9", "e9", "d4", "a0", "b0", "f0"] == q.take_ids()


BACK = {
    "released": lambda q, lease: q.nack(lease, kind="release"),
    "disconnected": lambda q, lease: q.release(lease, "disconnect"),
    "failed": lambda q, lease: q.nack(lease),
    "failed with a delay": lambda q, lease: (q.nack(lease, delay_ms=20), q.tick(20)),
    "expired": lambda q, lease: q.tick(100),
}


@pytest.mark.parametrize("how", BACK)
def test_a_task_that_comes_back_returns_to_its_place(how):
    q = Q(max_attempts=0).add("a", "b")
    lease = q.take(100)
    q.add("c")
    BACK[how](q, lease)
    assert q.peek("ready") == ["a", "b", "c"]


def test_a_delayed_task_has_the_place_of_its_enqueue():
    q = Q().add("a", delay_ms=10).add("b")
    q.tick(10)
    assert q.peek("ready") == ["a", "b"]


def test_peek_lists_each_state_in_its_order():
    q = Q(max_attempts=1).add("a", "b", "c", "d", "e", "f", "g")
    for ms in (300, 100, 200, 100):
        q.take(ms)
    assert q.peek("processing") == ["b", "d", "c", "a"], "by deadline, then token"
    q.tick(100)
    q.tick(100)
    q.tick(100)
    assert q.peek("dead") == ["b", "d", "c", "a"], "oldest death first"
    q.add("late", delay_ms=20).add("soon", delay_ms=10).add("late2", delay_ms=20, priority=9)
    assert q.peek("scheduled") == ["soon", "late", "late2"], "by due time, then place"
    assert q.peek("ready", 2) == ["e", "f"]


# Limits


def test_a_payload_of_more_than_a_mebibyte_is_too_big():
    q = Q()
    assert q.refuses(Enqueue("jobs", b"x" * (MIB + 1))).startswith("TOOBIG ")
    assert q.refuses(EnqueueMany("jobs", (b"", b"x" * (MIB + 1), b""))).startswith("TOOBIG ")
    q.add_many(b"x" * MIB, b"")


def test_an_argument_is_checked_before_the_state_of_the_queue():
    """Too big is a matter of the argument, FULL and the known id are matters of the queue (Limits, last paragraph)."""
    q = Q(max_ready=1).add("a")
    huge = b"x" * (MIB + 1)
    assert q.refuses(Enqueue("jobs", huge)).startswith("TOOBIG ")
    assert q.refuses(EnqueueMany("jobs", (b"", huge))).startswith("TOOBIG ")


def test_a_payload_too_big_is_refused_even_if_the_id_is_known():
    q = Q().add("a")
    assert q.refuses(Enqueue("jobs", b"x" * (MIB + 1), "a")).startswith("TOOBIG ")


def test_the_longest_times_and_counts():
    q = Q().add("a", delay_ms=30 * DAY_MS, ttl_ms=30 * DAY_MS, dedup_ms=30 * DAY_MS, lease_ms=30 * DAY_MS)
    q.add("b", max_attempts=1_000_000_000)
    assert q.fetch(30 * DAY_MS, 1000)[0].deadline_ms == T0 + 30 * DAY_MS


# Refusals and looks change nothing (I12); the same arguments make the same decision


def refusals():
    full, held, capped, none = Q(max_ready=1).add("a"), Q().add("a"), Q(max_hold_ms=10).add("a"), Q()
    held.take()
    lease = capped.take(5)
    return [
        ("FULL", full, Enqueue("jobs", b"")),
        ("FULL", full, EnqueueMany("jobs", (b"",))),
        ("LEASED", held, Delete("jobs", "a")),
        ("MAXHOLD", capped, extend(lease, 11)),
        ("NOTASK", none, Redrive("jobs", task_id="a")),
        ("TOOBIG", none, Enqueue("jobs", b"x" * (MIB + 1))),
        ("NOLEASE", none, ack(f"jobs:1:1:{NONCE}")),
        ("NOLEASE", none, nack(f"jobs:1:1:{NONCE}")),
        ("NOLEASE", none, extend(f"jobs:1:1:{NONCE}", 5)),
        ("NOLEASE", none, release(f"jobs:1:1:{NONCE}", "disconnect")),
    ]


@pytest.mark.parametrize(("code", "q", "command"), refusals())
def test_each_refusal_has_its_code_and_a_sentence(code, q, command):
    said = q.refuses(command)
    assert said.split(" ", 1)[0] == code
    assert len(said) > 20
    assert "\n" not in said


def test_looking_changes_nothing():
    q = Q().add("a", "b").add("c", delay_ms=5)
    q.take()
    q.wait(1000)
    states = ("ready", "scheduled", "processing", "dead")
    looks = [Peek("jobs", state, 10) for state in states]
    for query in (*looks, Stats("jobs"), Show("jobs", "a"), Show("jobs", "nobody"), Info("jobs"), ReadPolicy("jobs")):
        before = q.state
        q.do(query)
        assert q.events == ()
        assert q.state is before


def test_what_has_no_event_leaves_the_identical_state():
    q = Q().add("a")
    lease = q.take(1000)
    before = q.state
    q.extend(lease, 5)
    q.add("a")
    assert (q.fetch(), q.tick(10), q.redrive(), q.delete("x"), q.purge("dead")) == ([], 0, 0, 0, 0)
    q.resume()
    q.config(lease_ms=30_000)
    assert q.state is before


def test_the_same_arguments_make_the_same_decision():
    def life(seed):
        q = Q(seed=seed, backoff_ms=1000, max_attempts=0)
        q.add_many(b"1", b"2", b"3")
        leases = [d.lease_id for d in q.fetch(10, 2)]
        q.nack(leases[0])
        q.tick(10)
        return q

    assert life(0xFEED).log == life(0xFEED).log
    assert dump(life(0xFEED).state) == dump(life(0xFEED).state)
    assert life(0xFEED).log != life(0xBEEF).log


def test_a_seed_only_changes_what_is_drawn():
    q = Q().add("a")
    one, two = (decide(q.state, Fetch("jobs", 10), T0, seed) for seed in (1, 2))
    assert one.events[0].lease_id == "jobs:1:1:0000000000000001"
    assert two.events[0].lease_id == "jobs:1:1:0000000000000002"
    for seed in (1, 2):
        assert decide(q.state, Tick("jobs"), T0, seed).events == ()


def test_a_decision_leaves_its_input_alone():
    q = Q(max_attempts=1, ttl_ms=500).add("a", "b", "c", dedup_ms=40)
    lease = q.take(50)
    before, was = q.state, dump(q.state)
    for command in (Enqueue("jobs", b""), ack(lease), nack(lease), Fetch("jobs", 5, 9), Delete("jobs", "b")):
        decide(before, command, T0 + 600, 3)
    with pytest.raises(Refused):
        decide(before, Delete("jobs", "a"), T0, 3)
    assert dump(before) == was


def test_each_event_tells_the_attempts_so_far():
    q = Q(max_attempts=3).add("a")
    q.nack(q.take())
    q.nack(q.take(), kind="release")
    q.release(q.take(), "disconnect")
    q.take(10)
    q.tick(10)
    told = [event.attempts for event in q.log if isinstance(event, Failed | Released | Expired)]
    assert told == [1, 1, 2, 3]
    assert q.events[-1].attempts == 3
    q.redrive()
    assert isinstance(q.events[0], Redriven)
    q.nack(q.take())
    assert q.events[0].attempts == 1


def test_an_automatic_id_goes_round_one_that_a_client_took():
    """With the seed 0 all draws are alike, and it must not look for a free one for ever."""
    q = Q().add(f"2-{NONCE}", f"3-{NONCE}")
    assert q.add_many(b"x") == [f"3-{1:016x}"]
