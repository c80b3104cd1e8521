"""Transcripts of the reference model: they read as sentences; expected values are worked out by hand.

What lives here: one small case per rule of docs/semantics.md, and a random walk that checks the invariants on the model
itself. What must not live here: anything of `moxy`; comparing the model with real systems is done elsewhere.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from spec.model import BLOCKED, Model, Refusal

DAY_MS = 24 * 60 * 60 * 1000
NONCE = "0" * 16


class Talk:
    """A conversation with a model: `talk("FETCH jobs 100")` says a command at the time `talk.ms`."""

    def __init__(self, default_max_attempts: int = 25) -> None:
        self.model = Model(default_max_attempts)
        self.ms = 1_000

    def __call__(self, words: str, *more: str | bytes, client: str = "c1") -> Any:
        first, *rest = words.split()
        return self.model.execute([f"MOXY.{first}", *rest, *more], self.ms, client)

    def at(self, ms: int) -> "Talk":
        self.ms = ms
        return self

    def tick(self, ms: int) -> None:
        self.ms = ms
        self.model.tick(ms)

    def lease(self, queue: str = "jobs", timeout: int | str = 100, options: str = "COUNT 1", client: str = "c1") -> str:
        """Fetch one task that must be there; its lease id."""
        return str(self(f"FETCH {queue} {timeout} {options}", client=client)[0]["lease_id"])

    def state(self, task_id: str, queue: str = "jobs") -> Any:
        shown = self(f"SHOW {queue} {task_id}")
        return shown and shown["state"]

    def show(self, task_id: str, *fields: str) -> list[Any]:
        shown = self(f"SHOW jobs {task_id}")
        return [shown[name] for name in fields]

    def listed(self, state: str, queue: str = "jobs") -> list[str]:
        return [entry["task_id"] for entry in self(f"PEEK {queue} STATE {state}")]

    def counters(self, queue: str = "jobs") -> Any:
        return self.canonical(queue)["counters"]

    def canonical(self, queue: str = "jobs") -> Any:
        return self.model.canonical(self.ms)[queue]

    def answers(self) -> list[tuple[str, list[str] | None]]:
        """Who was answered with which tasks."""
        found: list[tuple[str, list[str] | None]] = []
        for client, reply in self.model.take_answers():
            assert reply is None or isinstance(reply, list)
            found.append((client, reply and [entry["task_id"] for entry in reply]))
        return found


@pytest.fixture
def talk() -> Talk:
    return Talk()


def refused(code: str) -> Refusal:
    return Refusal(code)


# A task: names, ids, tokens


def test_an_enqueued_task_is_ready_and_its_made_id_is_number_and_nonce(talk: Talk) -> None:
    assert talk("ENQUEUE jobs hello") == {"task_id": f"1-{NONCE}"}
    assert talk("ENQUEUE jobs hello") == {"task_id": f"2-{NONCE}"}
    assert talk.state(f"1-{NONCE}") == "ready"


def test_a_plain_fetch_replies_with_three_keys_and_then_null(talk: Talk) -> None:
    talk("ENQUEUE jobs", b"\x00\xff", "ID", "a")
    assert talk("FETCH jobs 100") == {"lease_id": f"jobs:1:1:{NONCE}", "task_id": "a", "payload": b"\x00\xff"}
    assert talk("FETCH jobs 100") is None


def test_a_fetch_with_options_replies_with_entries_of_ten_keys_in_order(talk: Talk) -> None:
    talk("ENQUEUE jobs hello ID a PRIORITY 3")
    (entry,) = talk.at(1_200)("FETCH jobs 100 COUNT 5")
    assert list(entry.items()) == [
        ("lease_id", f"jobs:1:1:{NONCE}"),
        ("task_id", "a"),
        ("queue", "jobs"),
        ("payload", b"hello"),
        ("attempts", 0),
        ("deliveries", 1),
        ("token", 1),
        ("deadline_ms", 1_300),
        ("priority", 3),
        ("enqueued_ms", 1_000),
    ]
    assert talk("FETCH jobs 100 COUNT 5") is None


def test_an_empty_payload_is_a_payload(talk: Talk) -> None:
    talk("ENQUEUE jobs", b"")
    assert talk("FETCH jobs 100")["payload"] == b""


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\x00", "a\u00a0b", "\x85", "{a", "a}", b"\xff", "x" * 256])
def test_a_bad_queue_name_is_badqueue_everywhere(talk: Talk, name: str | bytes) -> None:
    for said in (["ENQUEUE", name, "p"], ["FETCH", name, "1"], ["STATS", name], ["FETCH", "q", "1", "WITH", name]):
        assert talk.model.execute([f"MOXY.{said[0]!s}", *said[1:]], 0) == refused("BADQUEUE")


def test_a_queue_name_of_255_bytes_or_beyond_ascii_is_fine(talk: Talk) -> None:
    assert talk("PAUSE", "x" * 255) == talk("PAUSE", "schlange:größe") == "OK"


@pytest.mark.parametrize(("task_id", "code"), [("", "ERR"), ("a b", "ERR"), (b"\xff", "ERR"), ("x" * 129, "TOOBIG")])
def test_a_bad_task_id_is_refused(talk: Talk, task_id: str | bytes, code: str) -> None:
    assert talk("ENQUEUE jobs p ID", task_id) == refused(code)
    assert talk.model.canonical(0) == {}


def test_a_task_id_of_128_bytes_is_fine(talk: Talk) -> None:
    assert talk("ENQUEUE jobs p ID", "x" * 128) == {"task_id": "x" * 128}


def test_command_and_option_names_are_case_insensitive(talk: Talk) -> None:
    assert talk.model.execute(["moxy.enqueue", "jobs", "p", "id", "A"], 0) == {"task_id": "A"}
    assert talk("fetch jobs default")["task_id"] == "A"


def test_an_unknown_command_or_option_is_err(talk: Talk) -> None:
    assert talk("FROB jobs") == refused("ERR")
    assert talk("ENQUEUE jobs p FROB 1") == talk("ENQUEUE jobs p ID") == talk("FETCH jobs 1 COUNT") == refused("ERR")
    assert talk("FETCH jobs 1 WITH") == talk("PEEK jobs STATE acked") == refused("ERR")


def test_reading_a_queue_that_does_not_exist_gives_nothing_and_creates_nothing(talk: Talk) -> None:
    assert talk("STATS jobs") == {"ready": 0, "processing": 0, "dead": 0, "active_leases": 0, "heap": 0}
    assert talk("PEEK jobs") == []
    assert talk("SHOW jobs a") is None
    assert talk("FETCH jobs 100") is None
    assert talk("DELETE jobs a") == talk("REDRIVE jobs") == talk("PURGE jobs ready") == 0
    assert talk("RESUME jobs") == "OK"
    assert talk("QUEUES") == ["0", []]
    assert talk.model.canonical(0) == {}


def test_the_token_goes_up_by_one_with_each_lease_of_the_queue(talk: Talk) -> None:
    talk("MENQUEUE jobs p p")
    talk("ENQUEUE other p")
    assert [entry["token"] for entry in talk("FETCH jobs 100 COUNT 2")] == [1, 2]
    assert talk("FETCH other 100 COUNT 1")[0]["token"] == 1
    talk.tick(1_100)
    assert talk.lease() == f"jobs:1:3:{NONCE}"


# Order


def test_higher_priority_goes_first_then_the_older_place(talk: Talk) -> None:
    for task_id, priority in (("low", 0), ("high", 9), ("mid1", 5), ("mid2", 5)):
        talk(f"ENQUEUE jobs p ID {task_id} PRIORITY {priority}")
    assert talk.listed("ready") == ["high", "mid1", "mid2", "low"]
    assert [entry["task_id"] for entry in talk("FETCH jobs 100 COUNT 10")] == ["high", "mid1", "mid2", "low"]


def test_priority_is_0_to_9(talk: Talk) -> None:
    assert talk("ENQUEUE jobs p PRIORITY 10") == talk("ENQUEUE jobs p PRIORITY -1") == refused("ERR")


def test_a_task_that_comes_back_keeps_its_place(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID first")
    lease_id = talk.lease()
    talk("ENQUEUE jobs p ID second")
    talk(f"NACK {lease_id}")
    assert talk.listed("ready") == ["first", "second"]


def test_a_delayed_task_matures_at_the_place_of_its_enqueue(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID late DELAY 500")
    talk("ENQUEUE jobs p ID now")
    talk.tick(1_499)
    assert (talk.state("late"), talk.show("late", "due_ms")) == ("scheduled", [1_500])
    talk.tick(1_500)
    assert talk.listed("ready") == ["late", "now"]
    assert talk.show("late", "due_ms") == [None]


def test_a_redriven_task_gets_a_new_place_at_the_end(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk(f"NACK {talk.lease()} FATAL")
    talk("ENQUEUE jobs p ID b")
    assert talk("REDRIVE jobs") == 1
    assert talk.listed("ready") == ["b", "a"]
    (a, b) = talk.canonical()["tasks"]
    assert (a["number"], a["place"], b["number"], b["place"]) == (1, 3, 2, 2)
    assert talk("ENQUEUE jobs p") == {"task_id": f"4-{NONCE}"}


def test_peek_lists_scheduled_by_due_time_and_processing_by_deadline(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID s1 DELAY 900")
    talk("ENQUEUE jobs p ID s2 DELAY 300")
    talk("ENQUEUE jobs p ID s3 DELAY 300")
    assert talk.listed("scheduled") == ["s2", "s3", "s1"]
    talk("MENQUEUE jobs p p p")
    for timeout in (300, 100, 100):
        talk(f"FETCH jobs {timeout}")
    assert [entry["token"] for entry in talk("PEEK jobs STATE processing")] == [2, 3, 1]


def test_peek_lists_dead_ones_oldest_death_first_even_within_a_millisecond(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk("ENQUEUE jobs p ID b")
    first, second = talk.lease(), talk.lease()
    talk(f"NACK {second} FATAL")
    talk(f"NACK {first} FATAL")
    assert talk.listed("dead") == ["b", "a"]


def test_a_peek_is_no_delivery_and_shows_a_lease_only_while_processing(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    (entry,) = talk("PEEK jobs")
    assert (entry["lease_id"], entry["deadline_ms"], entry["token"], entry["deliveries"]) == (None, None, 0, 0)
    lease_id = talk.lease()
    (entry,) = talk("PEEK jobs STATE processing")
    assert (entry["lease_id"], entry["deadline_ms"], entry["token"], entry["deliveries"]) == (lease_id, 1_100, 1, 1)
    talk(f"NACK {lease_id}")
    (entry,) = talk("PEEK jobs STATE ready")
    assert (entry["lease_id"], entry["deadline_ms"], entry["token"], entry["deliveries"]) == (None, None, 1, 1)


def test_peek_count_takes_the_first(talk: Talk) -> None:
    talk("MENQUEUE jobs p p p")
    assert len(talk("PEEK jobs COUNT 2")) == 2
    assert talk("PEEK jobs COUNT 0") == talk("PEEK jobs COUNT 1001") == refused("ERR")


# Time


def test_a_lease_expires_at_its_deadline_and_not_before(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk.lease(timeout=100)
    talk.tick(1_099)
    assert talk.state("a") == "processing"
    talk.tick(1_100)
    assert talk.show("a", "state", "attempts", "expiries") == ["ready", 1, 1]


def test_a_late_ack_ahead_of_the_expiry_wins(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=100)
    assert talk.at(5_000)(f"ACK {lease_id}") == "OK"
    assert talk.state("a") is None


def test_a_late_ack_behind_the_expiry_is_nolease(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=100)
    talk.tick(1_100)
    assert talk(f"ACK {lease_id}") == refused("NOLEASE")
    assert talk.state("a") == "ready"


def test_a_fetch_does_the_due_work_of_its_queues_first_and_nothing_else_does(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk.lease(timeout=100)
    talk.at(1_500)("ENQUEUE jobs p ID b")
    talk("STATS jobs")
    talk("FETCH other 100")
    assert talk.state("a") == "processing"
    assert talk("FETCH jobs 100")["task_id"] == "a"


def test_a_ready_task_whose_ttl_ran_out_is_dead_before_a_fetch_can_lease_it(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a TTL 100")
    assert talk.at(1_100).state("a") == "ready"
    assert talk("FETCH jobs 100") is None
    assert talk.show("a", "state", "dead_cause", "dead_reason", "dead_ms") == ["dead", "ttl", "ttl", 1_100]


def test_ttl_goes_before_maturing_when_both_are_due(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a DELAY 200 TTL 100")
    talk.tick(1_300)
    assert talk.state("a") == "dead"
    assert talk.counters()["matured"] == 0


def test_due_ttls_are_done_by_time_then_place(talk: Talk) -> None:
    for task_id, ttl in (("a", 200), ("b", 100), ("c", 100)):
        talk(f"ENQUEUE jobs p ID {task_id} TTL {ttl}")
    talk.tick(2_000)
    assert talk.listed("dead") == ["b", "c", "a"]


def test_due_leases_are_done_by_deadline_then_token(talk: Talk) -> None:
    for task_id in "abc":
        talk(f"ENQUEUE jobs p ID {task_id} MAXATTEMPTS 1")
    for timeout in (200, 100, 100):
        talk(f"FETCH jobs {timeout}")
    talk.tick(2_000)
    assert talk.listed("dead") == ["b", "c", "a"]


def test_a_live_lease_is_never_cut_short_by_the_ttl(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a TTL 50")
    lease_id = talk.lease(timeout=100)
    talk.tick(1_099)
    assert talk.state("a") == "processing"
    assert talk(f"ACK {lease_id}") == "OK"


def test_one_go_before_a_fetch_handles_a_thousand_tasks_and_a_tick_handles_all(talk: Talk) -> None:
    for _ in range(1_001):
        talk("ENQUEUE jobs p DELAY 10")
    talk.at(1_010)("FETCH jobs 100")
    assert talk.counters()["matured"] == 1_000
    talk.tick(1_010)
    assert talk.counters()["matured"] == 1_001


def test_time_never_runs_backwards_within_a_queue(talk: Talk) -> None:
    talk.at(5_000)("ENQUEUE jobs p ID a")
    talk.at(4_000)("ENQUEUE jobs p ID b")
    assert talk.show("b", "enqueued_ms") == [5_000]
    assert talk("FETCH jobs 100 COUNT 1")[0]["deadline_ms"] == 5_100
    talk.at(4_000)("ENQUEUE other p ID c")
    assert talk("SHOW other c")["enqueued_ms"] == 4_000


def test_next_due_is_the_earliest_deadline_ttl_maturing_or_end_of_waiting(talk: Talk) -> None:
    assert talk.model.next_due_ms() is None
    talk("FETCH empty 1 BLOCK 0", client="for ever")
    assert talk.model.next_due_ms() is None
    talk("FETCH empty 1 BLOCK 900")
    assert talk.model.next_due_ms() == 1_900
    talk("ENQUEUE jobs p DELAY 800")
    assert talk.model.next_due_ms() == 1_800
    talk("ENQUEUE jobs p TTL 700")
    assert talk.model.next_due_ms() == 1_700
    lease_id = talk.lease(timeout=600)
    assert talk.model.next_due_ms() == 1_600
    talk(f"ACK {lease_id}")
    assert talk.model.next_due_ms() == 1_800


# Enqueue


def test_an_id_enqueued_twice_exists_once_whatever_its_state(talk: Talk) -> None:
    for options in ("DELAY 5", ""):
        talk(f"ENQUEUE jobs one ID a {options}")
        assert talk("ENQUEUE jobs two ID a PRIORITY 9") == {"task_id": "a"}
        talk.tick(1_005)
    lease_id = talk.lease()
    assert talk("ENQUEUE jobs two ID a") == {"task_id": "a"}
    talk(f"NACK {lease_id} FATAL")
    assert talk("ENQUEUE jobs two ID a") == {"task_id": "a"}
    assert talk.counters()["enqueued"] == 1
    assert talk.show("a", "payload", "priority") == [b"one", 0]


def test_without_dedup_the_id_is_forgotten_at_once(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk(f"ACK {talk.lease()}")
    talk("ENQUEUE jobs p ID a")
    assert talk.counters()["enqueued"] == 2


@pytest.mark.parametrize("end", ["ACK", "DELETE", "PURGE"])
def test_with_dedup_the_id_stays_known_for_its_window_after_it_is_gone(talk: Talk, end: str) -> None:
    talk("ENQUEUE jobs p ID a DEDUP 500")
    talk.at(2_000)
    if end == "ACK":
        talk(f"ACK {talk.lease()}")
    else:
        talk({"DELETE": "DELETE jobs a", "PURGE": "PURGE jobs ready"}[end])
    assert talk.canonical()["remembered"] == [("a", 2_500)]
    assert talk.at(2_499)("ENQUEUE jobs p ID a") == {"task_id": "a"}
    assert (talk.counters()["enqueued"], talk.state("a")) == (1, None)
    assert talk.at(2_500)("ENQUEUE jobs p ID a") == {"task_id": "a"}
    assert (talk.counters()["enqueued"], talk.state("a")) == (2, "ready")
    assert talk.canonical()["remembered"] == []


def test_dedup_without_id_is_a_syntax_error(talk: Talk) -> None:
    assert talk("ENQUEUE jobs p DEDUP 500") == refused("ERR")


def test_delay_0_is_no_delay(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a DELAY 0")
    assert talk.state("a") == "ready"


def test_the_ttl_default_is_the_policys_at_the_enqueue(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID none")
    talk("CONFIG jobs ttl_ms 300")
    talk("ENQUEUE jobs p ID default")
    talk("ENQUEUE jobs p ID own TTL 50")
    talk("CONFIG jobs ttl_ms 0")
    assert [talk.show(i, "expires_ms") for i in ("none", "default", "own")] == [[None], [1_300], [1_050]]


def test_the_ttl_counts_from_the_enqueue_also_under_a_delay(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a DELAY 200 TTL 300")
    assert talk.show("a", "expires_ms") == [1_300]


def test_max_attempts_is_the_tasks_own_else_the_policys_as_it_stands_when_needed(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID own MAXATTEMPTS 7")
    talk("ENQUEUE jobs p ID policy")
    assert [talk.show(i, "max_attempts") for i in ("own", "policy")] == [[7], [25]]
    talk("CONFIG jobs max_attempts 3")
    assert [talk.show(i, "max_attempts") for i in ("own", "policy")] == [[7], [3]]


def test_max_ready_bounds_ready_and_scheduled_together(talk: Talk) -> None:
    talk("CONFIG jobs max_ready 2")
    talk("ENQUEUE jobs p ID a")
    talk("ENQUEUE jobs p ID b DELAY 100")
    assert talk("ENQUEUE jobs p ID c") == refused("FULL")
    assert talk("ENQUEUE jobs p ID a") == {"task_id": "a"}, "a repeat is never refused"
    talk.lease()
    assert talk("ENQUEUE jobs p ID c") == {"task_id": "c"}, "what is processing does not wait"


def test_a_menqueue_that_would_pass_the_bound_is_refused_whole(talk: Talk) -> None:
    talk("CONFIG jobs max_ready 2")
    assert talk("MENQUEUE jobs p p p") == refused("FULL")
    assert talk.counters()["enqueued"] == 0
    assert talk("MENQUEUE jobs p p") == [f"1-{NONCE}", f"2-{NONCE}"]


def test_a_task_that_comes_back_is_not_held_up_by_the_bound(talk: Talk) -> None:
    talk("CONFIG jobs max_ready 1")
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease()
    talk("ENQUEUE jobs p ID b")
    talk(f"NACK {lease_id}")
    assert talk.listed("ready") == ["a", "b"]


# Lease


def test_default_takes_the_tasks_lease_else_the_policys(talk: Talk) -> None:
    talk("ENQUEUE jobs p LEASE 70")
    talk("MENQUEUE jobs p p")
    assert talk("FETCH jobs DEFAULT COUNT 1")[0]["deadline_ms"] == 1_070
    assert talk("FETCH jobs DEFAULT COUNT 1")[0]["deadline_ms"] == 31_000
    talk("CONFIG jobs lease_ms 400")
    assert talk("FETCH jobs DEFAULT COUNT 1")[0]["deadline_ms"] == 1_400


def test_a_number_in_the_fetch_overrides_the_tasks_lease(talk: Talk) -> None:
    talk("ENQUEUE jobs p LEASE 70")
    assert talk("FETCH jobs 200 COUNT 1")[0]["deadline_ms"] == 1_200


@pytest.mark.parametrize("timeout", ["0", "-1", "x", "", "1.5", "007", "+5", str(30 * DAY_MS + 1), "9" * 5_000])
def test_a_bad_lease_time_is_badtimeout(talk: Talk, timeout: str) -> None:
    assert talk("FETCH jobs", timeout) == refused("BADTIMEOUT")
    assert talk("ENQUEUE jobs p LEASE", timeout) == refused("BADTIMEOUT")
    assert talk("EXTEND jobs:1:1:0", timeout) == refused("BADTIMEOUT")


def test_thirty_days_are_allowed(talk: Talk) -> None:
    talk(f"ENQUEUE jobs p DELAY {30 * DAY_MS} TTL {30 * DAY_MS}")
    talk(f"ENQUEUE jobs p LEASE {30 * DAY_MS}")
    assert talk("FETCH jobs DEFAULT COUNT 1")[0]["deadline_ms"] == 1_000 + 30 * DAY_MS


def test_with_fills_the_count_across_the_queues_in_their_order(talk: Talk) -> None:
    talk("MENQUEUE b p p")
    talk("MENQUEUE c p p")
    entries = talk("FETCH a 100 COUNT 3 WITH b c")
    assert [(entry["queue"], entry["token"]) for entry in entries] == [("b", 1), ("b", 2), ("c", 1)]


def test_ack_ends_a_lease_for_ever(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease()
    assert talk(f"ACK {lease_id}") == "OK"
    for said in ("ACK {}", "NACK {}", "EXTEND {} 100"):
        assert talk(said.format(lease_id)) == refused("NOLEASE")
    assert talk.listed("ready") == []


@pytest.mark.parametrize("end", ["NACK {}", "NACK {} FATAL", "NACK {} RELEASE"])
def test_a_lease_ended_by_a_nack_is_void_also_when_the_task_is_leased_again(talk: Talk, end: str) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease()
    assert talk(end.format(lease_id)) == "OK"
    talk("REDRIVE jobs")
    second = talk.lease()
    assert talk(f"ACK {lease_id}") == talk(f"NACK {lease_id}") == talk(f"EXTEND {lease_id} 9999") == refused("NOLEASE")
    assert talk(f"ACK {second}") == "OK"


@pytest.mark.parametrize("lease_id", ["", "x", "jobs:1:1", b"\xff", f"jobs:1:2:{NONCE}", f"other:1:1:{NONCE}"])
def test_a_lease_id_that_was_never_given_out_is_nolease(talk: Talk, lease_id: str | bytes) -> None:
    talk("ENQUEUE jobs p")
    talk.lease()
    assert talk("ACK", lease_id) == talk("NACK", lease_id) == talk("EXTEND", lease_id, "5") == refused("NOLEASE")


def test_mack_is_not_all_or_nothing(talk: Talk) -> None:
    talk("MENQUEUE jobs p p")
    first, second = talk.lease(), talk.lease()
    assert talk(f"MACK {first} nonsense {first} {second}") == ["OK", refused("NOLEASE"), refused("NOLEASE"), "OK"]


def test_extend_counts_from_now(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=100)
    assert talk.at(1_050)(f"EXTEND {lease_id} 100") == 1_150
    talk.tick(1_149)
    assert talk.show("a", "state", "deadline_ms", "leased_ms") == ["processing", 1_150, 1_000]
    talk.tick(1_150)
    assert talk.state("a") == "ready"


def test_extend_never_moves_a_deadline_earlier(talk: Talk) -> None:
    talk("ENQUEUE jobs p")
    lease_id = talk.lease(timeout=100)
    assert talk(f"EXTEND {lease_id} 60") == 1_100
    assert talk(f"EXTEND {lease_id} 100") == 1_100
    assert talk.counters()["extended"] == 0, "nothing changed, so no event"


def test_extend_past_max_hold_is_refused_and_not_clamped(talk: Talk) -> None:
    talk("CONFIG jobs max_hold_ms 300")
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=100)
    assert talk.at(1_090)(f"EXTEND {lease_id} 210") == 1_300, "exactly max_hold_ms after the leasing"
    assert talk(f"EXTEND {lease_id} 211") == refused("MAXHOLD")
    assert talk.show("a", "deadline_ms") == [1_300]


def test_the_cap_is_on_extend_alone(talk: Talk) -> None:
    talk("CONFIG jobs max_hold_ms 300")
    talk("ENQUEUE jobs p")
    lease_id = talk.lease(timeout=1_000)
    assert talk(f"EXTEND {lease_id} 500") == 2_000, "not later than the present deadline: no change, no refusal"
    assert talk(f"EXTEND {lease_id} 1001") == refused("MAXHOLD")


def test_an_overdue_lease_that_nobody_expired_can_still_be_extended(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=100)
    assert talk.at(1_200)(f"EXTEND {lease_id} 50") == 1_250
    talk.tick(1_249)
    assert talk.state("a") == "processing"


# Blocked fetches


def test_a_fetch_that_blocks_is_answered_by_the_next_enqueue(talk: Talk) -> None:
    assert talk("FETCH jobs 100 BLOCK 500", client="w") is BLOCKED
    assert talk.answers() == []
    talk.at(1_200)("ENQUEUE jobs p ID a")
    ((client, reply),) = talk.model.take_answers()
    assert client == "w"
    assert isinstance(reply, list)
    assert (reply[0]["task_id"], reply[0]["deadline_ms"]) == ("a", 1_300), "the lease counts from the serving"
    assert talk.model.take_answers() == []


def test_a_fetch_that_finds_something_does_not_block(talk: Talk) -> None:
    talk("ENQUEUE jobs p")
    assert len(talk("FETCH jobs 100 COUNT 5 BLOCK 500")) == 1


def test_a_blocked_fetch_is_answered_null_when_its_time_is_up(talk: Talk) -> None:
    talk("FETCH jobs 100 BLOCK 500", client="w")
    talk("FETCH jobs 100 BLOCK 0", client="for ever")
    talk.tick(1_499)
    assert talk.answers() == []
    talk.tick(1_500)
    talk.tick(1_000 + 31 * DAY_MS)
    assert talk.answers() == [("w", None)]


def test_whose_time_was_up_first_is_answered_null_first(talk: Talk) -> None:
    for client, block in (("w1", 300), ("w2", 200), ("w3", 300)):
        talk(f"FETCH jobs 100 BLOCK {block}", client=client)
    talk.tick(1_300)
    assert talk.answers() == [("w2", None), ("w1", None), ("w3", None)]


def test_a_tick_serves_first_and_then_times_out(talk: Talk) -> None:
    talk("FETCH jobs 100 BLOCK 500", client="w")
    talk("ENQUEUE other p")
    talk("ENQUEUE jobs p ID a DELAY 500")
    talk.tick(1_500)
    assert talk.answers() == [("w", ["a"])]


def test_waiters_are_served_first_come_first_served(talk: Talk) -> None:
    for client in ("w1", "w2", "w3"):
        talk("FETCH jobs 100 BLOCK 0", client=client)
    talk("MENQUEUE jobs p p")
    assert talk.answers() == [("w1", [f"1-{NONCE}"]), ("w2", [f"2-{NONCE}"])]
    talk("ENQUEUE jobs p")
    assert talk.answers() == [("w3", [f"3-{NONCE}"])]


def test_a_waiter_for_several_queues_is_served_from_them_in_its_order(talk: Talk) -> None:
    talk("PAUSE a")
    talk("FETCH a 100 COUNT 2 BLOCK 0 WITH b", client="w")
    talk("ENQUEUE a p ID in-a")
    assert talk.answers() == []
    talk("ENQUEUE b p ID in-b")
    assert talk.answers() == [("w", ["in-b"])]
    talk("FETCH b 100 COUNT 2 BLOCK 0 WITH a", client="w")
    talk("RESUME a")
    assert talk.answers() == [("w", ["in-a"])]


def test_serving_does_the_due_work_of_the_queue_first(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID old")
    talk.lease(timeout=100)
    talk("FETCH jobs 100 BLOCK 0", client="w")
    talk.at(1_200)("ENQUEUE jobs p ID new")
    assert talk.answers() == [("w", ["old"])]
    assert talk.listed("ready") == ["new"]


def test_a_waiter_alone_does_not_expire_a_lease_between_ticks(talk: Talk) -> None:
    talk("MENQUEUE jobs p p")
    first, second = talk.lease(timeout=100), talk.lease(timeout=100)
    talk("FETCH jobs 100 BLOCK 0", client="w")
    talk.at(1_200)(f"ACK {first}")
    assert talk.answers() == []
    assert talk(f"ACK {second}") == "OK"


def test_nack_expiry_maturing_redrive_and_resume_all_wake_a_waiter(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")

    def nack_and_mature(lease_id: str) -> None:
        talk(f"NACK {lease_id} DELAY 10")
        talk.tick(talk.ms + 10)

    wakers: list[Callable[[str], object]] = [
        lambda lease_id: talk(f"NACK {lease_id}"),
        lambda lease_id: talk(f"NACK {lease_id} RELEASE"),
        lambda lease_id: talk.model.undeliver(lease_id, talk.ms),
        lambda lease_id: talk.tick(talk.ms + 100),
        nack_and_mature,
        lambda lease_id: (talk(f"NACK {lease_id} FATAL"), talk("REDRIVE jobs ID a")),
        lambda lease_id: (talk("PAUSE jobs"), talk(f"NACK {lease_id}"), talk("RESUME jobs")),
    ]
    lease_id = talk.lease()
    for wake in wakers:
        assert talk("FETCH jobs 100 BLOCK 0", client="w") is BLOCKED
        wake(lease_id)
        ((client, reply),) = talk.model.take_answers()
        assert client == "w"
        assert isinstance(reply, list)
        lease_id = reply[0]["lease_id"]


def test_a_waiter_whose_client_is_gone_gets_nothing_leased(talk: Talk) -> None:
    talk("FETCH jobs 100 BLOCK 0", client="gone")
    talk("FETCH jobs 100 BLOCK 0", client="here")
    talk.model.disconnect("gone", talk.ms)
    talk("MENQUEUE jobs p p")
    assert talk.answers() == [("here", [f"1-{NONCE}"])]
    assert len(talk.listed("ready")) == 1


def test_blocked_fetches_stay_blocked_while_paused_and_are_not_lost(talk: Talk) -> None:
    talk("PAUSE jobs")
    talk("ENQUEUE jobs p ID a")
    assert talk("FETCH jobs 100 BLOCK 0", client="w") is BLOCKED
    talk.tick(2_000)
    assert talk.answers() == []
    talk("RESUME jobs")
    assert talk.answers() == [("w", ["a"])]


@pytest.mark.parametrize("option", ["COUNT 0", "COUNT 1001", "COUNT x", "BLOCK -1", f"BLOCK {30 * DAY_MS + 1}"])
def test_bad_fetch_options_are_err(talk: Talk, option: str) -> None:
    assert talk(f"FETCH jobs 100 {option}") == refused("ERR")


# Connections


def test_bound_leases_are_released_charged_when_the_connection_closes(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID bound")
    talk("ENQUEUE jobs p ID free")
    lease_id = talk.lease(options="BOUND", client="w")
    talk.lease(options="COUNT 1", client="w")
    talk.model.disconnect("w", talk.ms)
    assert talk.show("bound", "state", "attempts", "disconnects", "releases") == ["ready", 1, 1, 0]
    assert talk.state("free") == "processing"
    assert talk(f"ACK {lease_id}") == refused("NOLEASE")


def test_another_clients_bound_lease_stays(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk.lease(options="BOUND", client="w1")
    talk.model.disconnect("w2", talk.ms)
    assert talk.state("a") == "processing"


def test_a_disconnect_releases_in_order_of_token_and_then_serves(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 1")
    talk("ENQUEUE jobs p ID b MAXATTEMPTS 1")
    talk("ENQUEUE jobs p ID c")
    talk.lease(timeout=900, options="BOUND", client="w")
    talk("FETCH jobs 100 COUNT 2 BOUND", client="w")
    talk("FETCH jobs 100 BLOCK 0", client="next")
    talk.model.disconnect("w", talk.ms)
    assert talk.listed("dead") == ["a", "b"]
    assert talk.answers() == [("next", ["c"])]


def test_a_disconnect_that_uses_the_attempts_up_is_a_dead_letter(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 1 TTL 10")
    talk.lease(options="BOUND", client="w")
    talk.model.disconnect("w", 2_000)
    assert talk.show("a", "state", "dead_cause", "dead_reason") == ["dead", "attempts", "disconnect"]
    assert (talk.counters()["released"], talk.counters()["requeued"]) == (1, 0)


def test_what_a_disconnect_released_goes_to_a_waiter(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk.lease(options="BOUND", client="w")
    talk("FETCH jobs 100 BLOCK 0", client="next")
    talk.model.disconnect("w", talk.ms)
    assert talk.model.take_answers() != []
    assert talk.show("a", "state", "disconnects", "deliveries") == ["processing", 1, 2]


def test_a_reply_that_cannot_be_written_is_released_uncharged(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 1")
    lease_id = talk.lease()
    talk.model.undeliver(lease_id, talk.ms)
    assert talk.show("a", "state", "attempts", "releases", "deliveries") == ["ready", 0, 1, 1]
    talk.model.undeliver(lease_id, talk.ms)
    assert talk.counters()["released"] == 1, "a void lease has no effect"


# Coming back


def test_a_nack_is_charged_and_comes_back_at_once_without_backoff(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    assert talk(f"NACK {talk.lease()} REASON", "disk full") == "OK"
    assert talk.show("a", "state", "attempts", "failures", "last_reason") == ["ready", 1, 1, "disk full"]


def test_the_last_reason_is_of_the_last_nack_that_had_one(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    assert talk.show("a", "last_reason") == [None]
    talk(f"NACK {talk.lease()} REASON first")
    talk(f"NACK {talk.lease()}")
    assert talk.show("a", "last_reason", "failures") == ["first", 2]


def test_a_fatal_nack_is_charged_and_dead(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    talk(f"NACK {talk.lease()} FATAL")
    assert talk.show("a", "state", "attempts", "dead_cause", "dead_reason") == ["dead", 1, "fatal", "fatal"]
    talk("ENQUEUE jobs p ID b")
    talk(f"NACK {talk.lease()} FATAL REASON", "no such user")
    assert talk.show("b", "dead_reason", "last_reason") == ["no such user", "no such user"]


def test_a_release_is_uncharged_and_immediate(talk: Talk) -> None:
    talk("CONFIG jobs backoff_ms 100")
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 1")
    talk(f"NACK {talk.lease()} RELEASE")
    assert talk.show("a", "state", "attempts", "releases", "failures") == ["ready", 0, 1, 0]


def test_a_release_past_the_ttl_is_a_dead_letter(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a TTL 50")
    lease_id = talk.lease(timeout=100)
    talk.at(1_050)(f"NACK {lease_id} RELEASE")
    assert talk.show("a", "state", "dead_cause", "dead_reason", "attempts") == ["dead", "ttl", "ttl", 0]


def test_a_requeue_past_the_ttl_is_a_dead_letter_and_no_requeue(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a TTL 50")
    talk.lease(timeout=100)
    talk.tick(1_100)
    assert talk.show("a", "state", "dead_cause", "attempts") == ["dead", "ttl", 1]
    assert (talk.counters()["expired"], talk.counters()["requeued"]) == (1, 0)


def test_attempts_come_before_the_ttl(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a TTL 50 MAXATTEMPTS 1")
    talk.lease(timeout=100)
    talk.tick(1_100)
    assert talk.show("a", "dead_cause", "dead_reason") == ["attempts", "lease expired"]


def test_the_reason_of_used_up_attempts_is_how_the_last_delivery_ended(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 2")
    talk("ENQUEUE jobs p ID b MAXATTEMPTS 1")
    talk("ENQUEUE jobs p ID c MAXATTEMPTS 1")
    talk(f"NACK {talk.lease()} REASON text")
    talk(f"NACK {talk.lease()}")
    talk(f"NACK {talk.lease()} REASON text")
    talk.lease(timeout=100)
    talk.tick(1_100)
    assert [talk.show(i, "dead_cause", "dead_reason") for i in "abc"] == [
        ["attempts", "nack"],
        ["attempts", "text"],
        ["attempts", "lease expired"],
    ]


def test_max_attempts_0_is_unlimited(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a MAXATTEMPTS 0")
    for _ in range(60):
        talk(f"NACK {talk.lease()}")
    assert talk.show("a", "state", "attempts") == ["ready", 60]


def test_the_default_is_25_attempts(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    for _ in range(24):
        talk(f"NACK {talk.lease()}")
    assert talk.state("a") == "ready"
    talk(f"NACK {talk.lease()}")
    assert talk.show("a", "state", "attempts") == ["dead", 25]


def test_the_backoff_doubles_up_to_its_cap(talk: Talk) -> None:
    talk("CONFIG jobs backoff_ms 100 backoff_max_ms 350")
    talk("ENQUEUE jobs p ID a")
    waits = []
    for _ in range(4):
        talk(f"NACK {talk.lease()}")
        due_ms = talk.show("a", "due_ms")[0]
        waits.append(due_ms - talk.ms)
        talk.tick(due_ms)
    assert waits == [100, 200, 350, 350]


def test_the_backoff_without_a_cap_stops_at_thirty_days(talk: Talk) -> None:
    talk(f"CONFIG jobs backoff_ms {20 * DAY_MS}")
    talk("ENQUEUE jobs p ID a")
    talk(f"NACK {talk.lease()}")
    assert talk.show("a", "due_ms") == [1_000 + 20 * DAY_MS]
    talk.tick(1_000 + 20 * DAY_MS)
    talk(f"NACK {talk.lease()}")
    assert talk.show("a", "due_ms") == [1_000 + 50 * DAY_MS]


def test_an_expiry_backs_off_too(talk: Talk) -> None:
    talk("CONFIG jobs backoff_ms 40")
    talk("ENQUEUE jobs p ID a")
    talk.lease(timeout=100)
    talk.tick(1_100)
    assert talk.show("a", "state", "due_ms") == ["scheduled", 1_140]


def test_the_nacks_own_delay_overrides_the_backoff_and_0_is_none(talk: Talk) -> None:
    talk("CONFIG jobs backoff_ms 100")
    talk("ENQUEUE jobs p ID a")
    talk(f"NACK {talk.lease()} DELAY 0")
    assert talk.state("a") == "ready"
    talk(f"NACK {talk.lease()} DELAY 7")
    assert talk.show("a", "state", "due_ms") == ["scheduled", 1_007]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["DELAY", "0", "FATAL"], "ERR"),
        (["DELAY", "5", "RELEASE"], "ERR"),
        (["REASON", "x", "RELEASE"], "ERR"),
        (["FATAL", "RELEASE"], "ERR"),
        (["DELAY", str(30 * DAY_MS + 1)], "ERR"),
        (["REASON", b"\xff"], "ERR"),
        (["REASON", "x" * 1_025], "TOOBIG"),
    ],
)
def test_a_nack_that_makes_no_sense_is_refused_and_changes_nothing(
    talk: Talk, options: Sequence[str | bytes], code: str
) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease()
    before = talk.canonical()
    assert talk(f"NACK {lease_id}", *options) == refused(code)
    assert talk.canonical() == before
    assert talk(f"ACK {lease_id}") == "OK"


def test_a_reason_of_1024_bytes_is_fine(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    assert talk(f"NACK {talk.lease()} REASON", "é" * 512) == "OK"


# Operators


def test_redrive_takes_the_oldest_deaths_first_and_restarts_the_attempts(talk: Talk) -> None:
    for task_id in "abc":
        talk(f"ENQUEUE jobs p ID {task_id}")
    first, second, third = talk.lease(), talk.lease(), talk.lease()
    for lease_id in (third, first, second):
        talk(f"NACK {lease_id} FATAL REASON broken")
    assert talk("REDRIVE jobs COUNT 2") == 2
    assert (talk.listed("ready"), talk.listed("dead")) == (["c", "a"], ["b"])
    assert talk.show("c", "attempts", "failures", "deliveries", "last_reason") == [0, 1, 1, "broken"]
    assert talk.show("c", "dead_cause", "dead_reason", "dead_ms") == [None, None, None]


def test_redrive_by_id_wants_a_dead_task(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    assert talk("REDRIVE jobs ID a") == talk("REDRIVE jobs ID b") == talk("REDRIVE none ID b") == refused("NOTASK")
    talk(f"NACK {talk.lease()} FATAL")
    assert talk("REDRIVE jobs ID a COUNT 1") == refused("ERR")
    assert talk("REDRIVE jobs ID a") == 1
    assert talk.state("a") == "ready"


def test_redrive_drops_a_ttl_that_ran_out_and_keeps_one_that_lies_ahead(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID out TTL 100")
    talk("ENQUEUE jobs p ID ahead TTL 5000")
    talk.tick(1_100)
    talk(f"NACK {talk.lease()} FATAL")
    assert talk("REDRIVE jobs") == 2
    assert [talk.show(i, "expires_ms") for i in ("out", "ahead")] == [[None], [6_000]]


def test_a_redrive_takes_a_thousand_at_most(talk: Talk) -> None:
    for _ in range(1_001):
        talk("ENQUEUE jobs p TTL 10")
    talk.tick(1_010)
    assert talk("REDRIVE jobs") == 1_000
    assert talk("REDRIVE jobs COUNT 1001") == refused("ERR")
    assert talk("REDRIVE jobs") == 1


def test_delete_takes_scheduled_ready_and_dead_but_not_processing(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID dead")
    talk(f"NACK {talk.lease()} FATAL")
    talk("ENQUEUE jobs p ID held")
    lease_id = talk.lease()
    talk("ENQUEUE jobs p ID ready")
    talk("ENQUEUE jobs p ID later DELAY 100")
    assert talk("DELETE jobs held") == refused("LEASED")
    assert [talk(f"DELETE jobs {i}") for i in ("dead", "ready", "later", "ready", "unknown")] == [1, 1, 1, 0, 0]
    assert talk(f"ACK {lease_id}") == "OK"
    assert talk.counters()["deleted"] == 3


def test_purge_removes_every_task_of_one_state_in_one_event(talk: Talk) -> None:
    talk("MENQUEUE jobs p p p")
    talk("ENQUEUE jobs p ID later DELAY 100")
    assert talk("PURGE jobs ready") == 3
    assert talk("PURGE jobs ready") == 0
    assert talk("PURGE jobs processing") == refused("LEASED")
    assert talk("PURGE jobs acked") == refused("ERR")
    events = talk.model.events_count("jobs")
    assert (events["Purged"], events["Deleted"], talk.counters()["deleted"]) == (1, 0, 3)
    assert talk.listed("scheduled") == ["later"]


def test_a_paused_queue_leases_nothing_but_due_work_goes_on(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a")
    lease_id = talk.lease(timeout=900)
    talk("ENQUEUE jobs p ID b TTL 50")
    assert talk("PAUSE jobs") == "OK"
    assert talk.at(1_050)("FETCH jobs 100") is None
    assert talk.state("b") == "dead"
    assert talk(f"ACK {lease_id}") == "OK"


def test_pausing_twice_or_resuming_what_runs_is_ok_and_no_event(talk: Talk) -> None:
    for said in ("PAUSE", "PAUSE", "RESUME", "RESUME"):
        assert talk(f"{said} jobs") == "OK"
    events = talk.model.events_count("jobs")
    assert (events["QueuePaused"], events["QueueResumed"]) == (1, 1)


def test_config_reads_the_policy_in_the_order_of_the_contract(talk: Talk) -> None:
    assert list(talk("CONFIG jobs").items()) == [
        ("max_attempts", 25),
        ("backoff_ms", 0),
        ("backoff_max_ms", 0),
        ("lease_ms", 30_000),
        ("max_hold_ms", 0),
        ("max_ready", 0),
        ("ttl_ms", 0),
    ]


@pytest.mark.parametrize(
    "pair",
    [
        "max_attempts 1000000001",
        "max_ready -1",
        "lease_ms 0",
        f"lease_ms {30 * DAY_MS + 1}",
        f"ttl_ms {30 * DAY_MS + 1}",
        "frob 1",
        "max_ready",
        "lease_ms 7",
    ],
)
def test_config_sets_fields_together_or_not_at_all(talk: Talk, pair: str) -> None:
    assert talk(f"CONFIG jobs lease_ms 5 {pair}") == refused("ERR")
    assert talk.model.canonical(0) == {}
    assert talk("CONFIG jobs lease_ms 5 ttl_ms 9") == "OK"
    assert (talk("CONFIG jobs")["lease_ms"], talk("CONFIG jobs")["ttl_ms"]) == (5, 9)


def test_setting_what_already_holds_is_no_event(talk: Talk) -> None:
    assert talk("CONFIG jobs lease_ms 30000 max_attempts 25") == "OK"
    assert talk.model.canonical(0) == {}
    talk("CONFIG jobs lease_ms 5")
    talk("CONFIG jobs lease_ms 5")
    assert talk.model.events_count("jobs")["QueueConfigured"] == 1


def test_new_queues_are_born_with_the_servers_default_as_their_first_event() -> None:
    talk = Talk(default_max_attempts=3)
    assert talk("CONFIG jobs")["max_attempts"] == 3
    talk("ENQUEUE jobs p ID a")
    assert talk.show("a", "max_attempts") == [3]
    assert talk.model.events_count("jobs")["QueueConfigured"] == 1
    assert Talk().model.events_count("jobs")["QueueConfigured"] == 0


def test_queues_lists_names_by_glob(talk: Talk) -> None:
    for name in ("mail:b", "mail:a", "jobs"):
        talk(f"ENQUEUE {name} p")
    assert talk("QUEUES") == ["0", ["jobs", "mail:a", "mail:b"]]
    assert talk("QUEUES MATCH mail:*") == ["0", ["mail:a", "mail:b"]]
    assert talk("QUEUES MATCH ?obs COUNT 5 CURSOR 0") == ["0", ["jobs"]]
    assert talk("QUEUES MATCH mail:[a]") == ["0", ["mail:a"]]


def test_stats_counts_ready_processing_and_dead(talk: Talk) -> None:
    talk("MENQUEUE jobs p p p p p p")
    talk("ENQUEUE jobs p DELAY 100")
    talk(f"NACK {talk.lease()} FATAL")
    talk("FETCH jobs 100 COUNT 2")
    assert talk("STATS jobs") == {"ready": 3, "processing": 2, "dead": 1, "active_leases": 2, "heap": 2}


def test_show_has_every_field_in_its_order(talk: Talk) -> None:
    talk("ENQUEUE jobs hello ID a PRIORITY 4 TTL 500")
    lease_id = talk.at(1_010).lease(timeout=100)
    assert list(talk("SHOW jobs a").items()) == [
        ("task_id", "a"),
        ("queue", "jobs"),
        ("state", "processing"),
        ("payload", b"hello"),
        ("priority", 4),
        ("attempts", 0),
        ("max_attempts", 25),
        ("deliveries", 1),
        ("expiries", 0),
        ("failures", 0),
        ("releases", 0),
        ("disconnects", 0),
        ("enqueued_ms", 1_000),
        ("due_ms", None),
        ("expires_ms", 1_500),
        ("lease_id", lease_id),
        ("token", 1),
        ("deadline_ms", 1_110),
        ("leased_ms", 1_010),
        ("worker", "c1"),
        ("bound", False),
        ("last_reason", None),
        ("dead_cause", None),
        ("dead_reason", None),
        ("dead_ms", None),
    ]
    assert talk("SHOW jobs unknown") is None


# Limits


def test_a_payload_of_one_mebibyte_is_the_largest(talk: Talk) -> None:
    assert talk("ENQUEUE jobs", b"x" * 1_048_577) == refused("TOOBIG")
    assert talk("MENQUEUE jobs ok", b"x" * 1_048_577) == refused("TOOBIG")
    assert talk.model.canonical(0) == {}
    assert talk("ENQUEUE jobs", b"x" * 1_048_576) == {"task_id": f"1-{NONCE}"}


@pytest.mark.parametrize("option", ["DELAY -1", f"DELAY {30 * DAY_MS + 1}", "TTL 0", f"TTL {30 * DAY_MS + 1}"])
def test_a_delay_or_ttl_out_of_range_is_err(talk: Talk, option: str) -> None:
    assert talk(f"ENQUEUE jobs p {option}") == refused("ERR")


@pytest.mark.parametrize("option", ["DEDUP 0", f"DEDUP {30 * DAY_MS + 1}", "MAXATTEMPTS x", "DELAY 1 DELAY 1"])
def test_other_enqueue_options_out_of_range_are_err(talk: Talk, option: str) -> None:
    assert talk(f"ENQUEUE jobs p ID a {option}") == refused("ERR")


# The state, and the invariants on a random walk


def test_the_canonical_state_of_a_small_queue(talk: Talk) -> None:
    talk("ENQUEUE jobs p ID a DEDUP 100")
    state = talk.canonical()
    assert sorted(state) == ["counters", "last_token", "next_number", "paused", "policy", "remembered", "seq", "tasks"]
    assert (state["next_number"], state["last_token"], state["paused"], state["remembered"]) == (2, 0, False, [])
    assert state["policy"] == talk("CONFIG jobs")
    expected = {**talk("SHOW jobs a"), "number": 1, "place": 1, "dedup_ms": 100}
    assert state["tasks"] == [expected]
    assert state["counters"] == {
        **dict.fromkeys(["acked", "deleted", "dead_lettered", "leased", "extended", "expired", "failed"], 0),
        **dict.fromkeys(["released", "requeued", "redriven", "matured"], 0),
        "enqueued": 1,
    }


def check_invariants(talk: Talk, queue: str) -> None:
    state, stats = talk.canonical(queue), talk(f"STATS {queue}")
    tasks, counters = state["tasks"], state["counters"]
    assert counters["enqueued"] == len(tasks) + counters["acked"] + counters["deleted"], "I1"
    assert stats["processing"] == len({task["lease_id"] for task in tasks if task["state"] == "processing"}), "I2"
    assert counters["leased"] == state["last_token"], "I3"
    ended = counters["acked"] + counters["expired"] + counters["failed"] + counters["released"]
    assert counters["leased"] == ended + stats["processing"], "L2"
    for task in tasks:
        assert (task["state"] == "dead") == (task["dead_cause"] in ("attempts", "ttl", "fatal")), "I9"
        assert (task["state"] == "dead") == bool(task["dead_reason"]), "I9"
        assert (task["state"] == "processing") == (task["deadline_ms"] is not None)
        assert (task["state"] == "scheduled") == (task["due_ms"] is not None)
    assert len({task["task_id"] for task in tasks}) == len(tasks), "I14"


def test_a_random_walk_keeps_the_invariants() -> None:
    happened: set[str] = set()
    for seed in range(20):
        draw, talk, leases = random.Random(seed), Talk(3 if seed % 2 else 25), [f"jobs:1:1:{NONCE}"]
        said = [
            *("ENQUEUE {q} p", "ENQUEUE {q} p ID {i} DEDUP 40 TTL 60", "ENQUEUE {q} p ID {i} DELAY 20 PRIORITY 5"),
            *("FETCH {q} 30 COUNT 2 BOUND", "FETCH {q} 30 COUNT 1", "FETCH jobs 30 BLOCK 25 WITH other"),
            *("ACK {l}", "NACK {l}", "NACK {l} DELAY 5 REASON r", "NACK {l} FATAL", "NACK {l} RELEASE"),
            *("EXTEND {l} 50", "PAUSE {q}", "RESUME {q}", "CONFIG {q} backoff_ms 10", "REDRIVE {q}"),
            *("DELETE {q} {i}", "PURGE {q} dead", "PURGE {q} ready", "MENQUEUE {q} p p", "CONFIG {q} max_ready 9"),
            *("FETCH {q} 30 COUNT 1", "RESUME {q}", "RESUME {q}"),
        ]
        for _ in range(300):
            talk.ms += draw.randrange(8)
            words = {"q": draw.choice(["jobs", "other"]), "i": draw.choice("abc"), "l": draw.choice(leases[-6:])}
            reply = talk(draw.choice(said).format(**words), client=draw.choice(["c1", "c2"]))
            if draw.random() < 0.3:
                talk.tick(talk.ms)
                due_ms = talk.model.next_due_ms()
                assert due_ms is None or due_ms > talk.ms, "a tick leaves nothing due"
            if draw.random() < 0.05:
                talk.model.disconnect("c1", talk.ms)
            for fetched in (reply, *(answer for _, answer in talk.model.take_answers())):
                if isinstance(fetched, list):
                    leases += [entry["lease_id"] for entry in fetched if isinstance(entry, dict)]
            for name in talk("QUEUES")[1]:
                check_invariants(talk, name)
                happened |= {event for event, count in talk.model.events_count(name).items() if count}
    assert len(happened) == 16, "the walks went everywhere"
