"""`moxy bench`: what it says of a sound server, that it sees an unsound one, and how it counts.

Lives here: the tool itself. Must not: any figure that a machine may change. The measurements of rooms are tests/bench.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from moxy.bench import report as reports
from moxy.bench.client import Books, Share
from moxy.bench.drivers import DRIVERS, KEY_BYTES, Driver
from moxy.bench.run import Plan, Result, check, percentiles, run
from moxy.bench.servers import Target
from moxy.wire.resp import NullArray, Parser, Simple, encode
from tests.logs import run as moxy
from tests.server.launch import MOXY, clean_environment

NONCE = b"0123abcd"
SMALL = ("--connections", 4, "--pipeline", 4, "--tasks", 200)


def driver(name: str, pipeline: int = 3, payload_bytes: int = 30) -> Driver:
    return DRIVERS[name](b"bench:q", NONCE, pipeline, payload_bytes)


def payloads(made: Driver, batch: int) -> list[bytes]:
    return [(NONCE + b"%012x%04x" % (batch, n)).ljust(made.payload_bytes, b"x") for n in range(made.pipeline)]


def replies(name: str, made: Driver, batch: int = 7) -> tuple[bytes, bytes, bytes, list[bytes]]:
    """What such a server answers to a batch of each kind, and the words that the acks must name."""
    bodies = payloads(made, batch)
    numbers = range(len(bodies))
    if name == "moxy":
        ids = [f"bench:q:{n}:{n * 999}:aa{n}".encode() for n in numbers]
        enqueued = b"".join(encode({"task_id": f"{n}-ab".encode()}, False) for n in numbers)
        leased = b"".join(
            encode({"lease_id": ids[n], "task_id": b"t%d" % (10**n), "payload": bodies[n]}, False) for n in numbers
        )
        return enqueued, leased, b"+OK\r\n" * len(bodies), ids
    if name == "beanstalkd":
        ids = [b"%d" % 10**n for n in numbers]
        leased = b"".join(b"RESERVED %b %d\r\n%b\r\n" % (ids[n], len(bodies[n]), bodies[n]) for n in numbers)
        return b"INSERTED 7\r\n" * len(bodies), leased, b"DELETED\r\n" * len(bodies), ids
    if name == "redis-streams":
        ids = [b"17-%d" % 10**n for n in numbers]
        leased = b"".join(encode([[b"bench:q", [[ids[n], [b"p", bodies[n]]]]]], False) for n in numbers)
        return b"".join(encode(word, False) for word in ids), leased, b":1\r\n" * len(bodies), ids
    if name == "redis-lua":
        jobs = [b'{"id":"%b","payload":"%b","attempts":0}' % (body[:KEY_BYTES], body) for body in bodies]
        leased = b"".join(encode(job, False) for job in jobs)
        return b":9\r\n:10\r\n:11\r\n", leased, b":1\r\n" * len(bodies), [body[:KEY_BYTES] for body in bodies]
    return b":9\r\n:10\r\n:11\r\n", b"".join(encode(body, False) for body in bodies), b":1\r\n" * len(bodies), bodies


# What is sent, and what is made of the answers


@pytest.mark.parametrize("name", DRIVERS)
def test_every_reply_has_the_lines_that_its_driver_waits_for(name: str) -> None:
    made = driver(name)
    for text, lines in zip(replies(name, made), made.lines, strict=False):
        assert text.count(b"\r\n") == lines * made.pipeline


@pytest.mark.parametrize("name", DRIVERS)
def test_sound_replies_are_taken_and_the_acks_name_what_came(name: str) -> None:
    made = driver(name)
    enqueued, leased, acked, ids = replies(name, made)
    assert made.enqueued(enqueued)
    assert made.acked(acked)
    acks = made.acks(leased)
    assert acks is not None
    if name == "beanstalkd":
        assert acks == b"".join(b"delete %b\r\n" % word for word in ids)
    else:
        assert [words[-1] for words in Parser().feed(acks)] == ids
    assert made.keys(leased) == [payload[:KEY_BYTES] for payload in payloads(made, 7)]
    assert not made.refused(leased[: len(leased) // 2])


@pytest.mark.parametrize("name", [name for name in DRIVERS if name != "beanstalkd"])
def test_a_batch_is_whole_commands_with_their_own_payloads(name: str) -> None:
    made = driver(name)
    commands = Parser().feed(made.enqueues(7))
    assert len(commands) == made.pipeline
    assert all(payload in command[-1] for command, payload in zip(commands, payloads(made, 7), strict=True))
    assert made.enqueues(7) != made.enqueues(8)
    assert len(Parser().feed(made.leases)) == made.pipeline


@pytest.mark.parametrize("name", DRIVERS)
def test_replies_that_are_one_short_are_not_taken(name: str) -> None:
    enqueued, leased, acked, _ = replies(name, driver(name))
    more = driver(name, pipeline=4)
    assert not more.enqueued(enqueued)
    assert more.acks(leased) is None
    assert not more.acked(acked)


@pytest.mark.parametrize(
    ("name", "word", "other"), [("moxy", b"task_id", b"task_ix"), ("moxy", b"lease_id", b"lease_ix")]
)
def test_replies_of_another_shape_are_not_taken(name: str, word: bytes, other: bytes) -> None:
    made = driver(name)
    enqueued, leased, _, _ = replies(name, made)
    assert made.acks(leased.replace(word, other)) is None
    assert made.enqueued(enqueued.replace(b"task_id", b"task_ix")) is False


REFUSALS = {
    "beanstalkd": [b"TIMED_OUT\r\n", b"NOT_FOUND\r\n", b"OUT_OF_MEMORY\r\n"],
    "moxy": [b"-ERR no\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n"],
}


@pytest.mark.parametrize("name", DRIVERS)
def test_errors_and_nulls_are_seen_first_or_last(name: str) -> None:
    made = driver(name)
    _, leased, _, _ = replies(name, made)
    for refusal in REFUSALS.get(name, REFUSALS["moxy"]):
        assert made.refused(refusal)
        assert made.refused(leased + refusal)


# A server that does what it should not


class Faulty:
    """A queue that speaks Moxy and has one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.tasks: deque[bytes] = deque()
        self.count = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = Target("moxy", "moxy", *self.listener.getsockname())
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        parser = Parser()
        with connection:
            while data := connection.recv(65536):
                out = b""
                for command in parser.feed(data):
                    with self.lock:
                        said = self.answer(command)
                    if said is None:
                        return
                    out += said
                connection.sendall(out + (b"+" if self.fault == "half a reply too many" and self.count > 60 else b""))

    def answer(self, command: list[bytes]) -> bytes | None:
        verb = command[0]
        self.count += 1
        late = self.count > 60
        if verb == b"MOXY.ENQUEUE":
            self.tasks.append(command[2])
            word = "task_ix" if late and self.fault == "another word" else "task_id"
            return encode({word: b"1-ab"}, False)
        if verb == b"MOXY.ACK":
            return encode(Simple("NO" if late and self.fault == "an ack that is not OK" else "OK"), False)
        if late and self.fault == "an error":
            return b"-ERR it broke\r\n"
        if late and self.fault == "a null":
            return encode(NullArray(), False)
        if late and self.fault == "it hangs up":
            return None
        payload = self.tasks.pop() if self.fault == "the newest first" else self.tasks.popleft()
        if self.count == 70 or (self.count in (68, 69, 71, 72) and self.fault == "a task twice"):
            if self.fault == "a task twice":
                self.tasks.appendleft(payload)
            if self.fault == "a payload of its own":
                payload = b"99999999" + payload[8:]
            if self.fault == "a payload of another size":
                payload += b"x"
        reply = encode({"lease_id": b"l:1:1:0", "task_id": b"1-ab", "payload": payload}, False)
        return reply * 2 if late and self.fault == "one reply too many" else reply


@contextmanager
def faulty(fault: str) -> Iterator[Faulty]:
    server = Faulty(fault)
    try:
        yield server
    finally:
        server.listener.close()


FAULTS = {
    "an error": "ERR it broke",
    "a null": "a reply to lease is wrong",
    "it hangs up": "closed a connection",
    "another word": "a reply to enqueue is wrong",
    "an ack that is not OK": "a reply to ack is wrong",
    "a task twice": "tasks? came twice",
    "a payload of its own": "1 payloads came that were never enqueued",
    "a payload of another size": "1 payloads came that were never enqueued",
    "one reply too many": "wrong|follows",
    "half a reply too many": "something follows the last",
    "the newest first": "not get its tasks in the order",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_server_is_a_finding(fault: str) -> None:
    with faulty(fault) as server:
        result = run(server.target, Plan(1, 5, 30, 100, 1))
    assert result.findings
    assert any(re.search(FAULTS[fault], finding) for finding in result.findings), result.findings


def test_without_a_fault_the_same_server_is_sound() -> None:
    with faulty("none") as server:
        result = run(server.target, Plan(3, 5, 30, 100, 1))
    assert result.findings == ()
    assert result.tasks == 100
    assert result.server_cpu is None


def test_a_failed_check_is_told_and_is_exit_code_1() -> None:
    with faulty("a payload of its own") as server:
        address = f"127.0.0.1:{server.target.port}"
        ran = moxy("bench", "--addr", address, "--connections", 1, "--pipeline", 5, "--tasks", 100, "--runs", 1)
    assert ran.code == 1
    assert "moxy: wrong: 1 payloads came that were never enqueued" in ran.lines


# The books


def books(numbers: list[int], foreign: int = 0) -> Books:
    from array import array

    return Books(0, 1, 1, 0, len(numbers), ({}, {}, {}), array("Q", numbers).tobytes(), foreign, "")


def share(batches: int) -> Share:
    return Share("moxy", "", 0, (b"q",), NONCE, 2, 30, 0, 0, batches, -1)


@pytest.mark.parametrize(
    ("seen", "foreign", "connections", "told"),
    [
        ([[0, 1, 2], [5, 4, 3]], 0, 2, []),
        ([[0, 1, 2], [3, 4]], 0, 2, ["1 tasks never came"]),
        ([[0, 1, 2], [3, 4, 5, 0]], 0, 2, ["1 tasks came twice"]),
        ([[0, 1, 2], [3, 4, 6]], 0, 2, ["1 payloads came that were never enqueued"]),
        ([[0, 1, 2], [3, 4, 5]], 2, 2, ["2 payloads came that were never enqueued"]),
        ([[0, 1, 2, 3, 5, 4]], 0, 1, ["one connection did not get its tasks in the order in which it gave them"]),
        ([[0, 1, 2, 3, 4, 5]], 0, 1, []),
    ],
)
def test_the_books_of_all_processes_are_checked_together(
    seen: list[list[int]], foreign: int, connections: int, told: list[str]
) -> None:
    plan = Plan(connections, 2, 30, 6, 1)
    first, *rest = seen
    assert check(plan, [share(3)], [books(first, foreign), *map(books, rest)]) == told


def test_percentiles_are_of_replies_not_of_different_times() -> None:
    latency = percentiles(Counter({10: 990, 500: 9, 7000: 1}))
    assert (latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us) == (10, 10, 500, 7000)
    assert percentiles(Counter({3: 1})).p999_us == 3
    assert percentiles(Counter()).max_us == 0


def result(
    target: str, rate: float, findings: tuple[str, ...] = (), limit: bool = False, stolen: float = 0.0
) -> Result:
    latency = {kind: percentiles(Counter({int(1e6 / rate): 1})) for kind in ("enqueue", "lease", "ack", "all")}
    return Result(target, 100, 1.0, rate, {} if findings else latency, 0.5, 0.9, stolen, limit, findings)


def test_ratios_are_of_medians_and_their_spread_of_runs_side_by_side() -> None:
    runs = [
        result(name, rate)
        for round_ in ((100.0, 200.0), (50.0, 50.0), (80.0, 240.0))
        for name, rate in zip(("redis-lua", "moxy"), round_, strict=True)
    ]
    theirs, ours = reports.report(Plan(1, 1, 30, 1, 1), "none", {}, runs).summaries
    assert (theirs.tasks_per_s, theirs.tasks_per_s_low, theirs.tasks_per_s_high) == (80, 50, 100)
    assert (theirs.ratio, theirs.ratio_low, theirs.ratio_high) == (2.5, 1, 3)
    assert theirs.tasks_per_cpu_s == pytest.approx(80 / 0.9)
    assert theirs.cpu_ratio == pytest.approx(2.5)
    assert ours.ratio is None


def test_a_run_with_a_finding_counts_in_no_figure() -> None:
    runs = [
        result("redis-lua", 100.0),
        result("moxy", 300.0),
        result("redis-lua", 9.0, ("bad",)),
        result("moxy", 500.0),
    ]
    found = reports.report(Plan(1, 1, 30, 1, 1), "none", {}, runs)
    assert not found.valid
    assert found.summaries[0].tasks_per_s == 100
    assert (found.summaries[0].ratio_low, found.summaries[0].ratio_high) == (3, 3)
    assert found.summaries[0].findings == ("bad",)


def test_people_are_told_when_the_client_or_the_machine_was_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    runs = [result("redis-lua", 100.0, limit=True), result("moxy", 300.0, stolen=0.4)]
    reports.show(reports.report(Plan(1, 1, 30, 1, 1), "none", {}, runs), Console(width=200))
    out = capsys.readouterr().out
    assert "redis-lua: the client was the bottleneck" in out
    assert "moxy: the client was the bottleneck" not in out
    assert "moxy: other processes had its core or the client's for 40% of the time" in out


def test_no_figure_is_cut_however_large(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    slow = Result("redis-streams", 1, 1.0, 1_234_567.0, {}, 1.0, 1.0, 0.0, False, ())
    latency = percentiles(Counter({12_345_678: 1}))
    slow = msgspec.structs.replace(slow, latency=dict.fromkeys(("enqueue", "lease", "ack", "all"), latency))
    ours = msgspec.structs.replace(slow, target="moxy", tasks_per_s=123_456_700.0)
    reports.show(reports.report(Plan(1, 1, 30, 1, 1), "none", {}, [slow, ours]), Console(width=reports.WIDTH_MIN))
    out = capsys.readouterr().out
    assert "…" not in out
    assert "123,456,700" in out
    assert "x100.00 (100.00-100.00)" in out


# The command


def test_in_a_pipe_there_is_json_on_stdout_and_nothing_on_stderr() -> None:
    # So many tasks that the server's processor time, which is told in hundredths of a second, is not 0.
    small = ("--connections", "4", "--pipeline", "4", "--tasks", "5000")
    words = [*MOXY, "bench", *small, "--queues", "2", "--runs", "2", "--json"]
    ran = subprocess.run(words, capture_output=True, env=clean_environment())
    assert (ran.returncode, ran.stderr) == (0, b"")
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["valid"]
    (ours,) = told["summaries"]
    assert (ours["server"], ours["runs"], ours["findings"], ours["ratio"]) == ("moxy", 2, [], None)
    assert 0 < ours["tasks_per_s_low"] <= ours["tasks_per_s"] <= ours["tasks_per_s_high"]
    assert 0 < ours["p50_us"] <= ours["p99_us"] <= ours["p999_us"] <= ours["max_us"]
    assert ours["server_cpu"] > 0


def test_people_get_a_table_with_each_peer_and_a_ratio() -> None:
    peers = ["redis-lua", "redis-list", "redis-streams"]
    ran = moxy("bench", *SMALL, "--runs", 1, *(word for peer in peers for word in ("--against", peer)))
    assert (ran.code, ran.err) == (0, "")
    for peer in peers:
        (row,) = [line for line in ran.lines if line.startswith(peer + " ")]
        assert re.search(r" x\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)$", row.rstrip())
    assert any(line.startswith("moxy ") for line in ran.lines)
    assert any(re.match(r"Versions: (redis|valkey) [\d.]+, moxy [\d.]+\.", line) for line in ran.lines)


@pytest.mark.parametrize("durability", ["everysec", "always"])
def test_servers_that_keep_what_they_are_told(durability: str) -> None:
    ran = moxy("bench", *SMALL, "--runs", 1, "--against", "redis-list", "--durability", durability)
    assert (ran.code, ran.err) == (0, "")
    assert f"durability {durability}" in ran.out


def test_payloads_that_need_many_writes_and_reads_arrive_whole() -> None:
    ran = moxy(
        "bench", "--connections", 2, "--pipeline", 12, "--tasks", 24, "--payload", 1 << 20, "--runs", 1, "--json"
    )
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["valid"]


def test_where_there_is_no_redis_server_valkey_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ran = moxy("bench", *SMALL, "--runs", 1, "--against", "redis-list")
    assert (ran.code, ran.err) == (0, "")
    assert any(line.startswith("Versions: valkey ") for line in ran.lines)


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="SIGINT is ignored here")
def test_ctrl_c_ends_everything_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = [*MOXY, "bench", *map(str, SMALL), "--addr", f"127.0.0.1:{silent.getsockname()[1]}"]
        child = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            start_new_session=True,
        )
        with child:
            loaded = b""
            while not loaded:  # a look whether anybody is there, what is said before the run, and then the load itself
                connection, _ = silent.accept()
                with connection:
                    loaded = connection.recv(4096)
                    if loaded:
                        os.killpg(child.pid, signal.SIGINT)  # as a terminal does, to all of the command
                        out, err = child.communicate(timeout=30)
                        while connection.recv(65536):
                            pass  # until the client process is gone
        assert (child.returncode, out) == (130, b"")
        assert b"Traceback" not in err


@pytest.mark.skipif(shutil.which("beanstalkd") is None, reason="there is no beanstalkd here")
def test_beanstalkd_is_a_peer_where_there_is_one() -> None:
    ran = moxy("bench", *SMALL, "--runs", 1, "--against", "beanstalkd")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ("--against", "kafka"),
        ("--against", "moxy"),
        ("--against", "redis-lua@nowhere"),
        ("--against", "redis-lua", "--against", "redis-lua@127.0.0.1:1"),
        ("--payload", "23"),
        ("--connections", "0"),
        ("--durability", "often"),
        ("--addr", "127.0.0.1:1", "--durability", "always"),
        ("--addr", "nowhere"),
        ("extra",),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence_and_code_2(words: tuple[str, ...]) -> None:
    ran = moxy("bench", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("moxy: ")
    assert ran.err.count("\n") == 1


def test_nobody_at_the_address_is_one_sentence_and_code_5() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody answers, and nobody else takes the port
        bound.bind(("127.0.0.1", 0))
        ran = moxy("bench", "--addr", f"127.0.0.1:{bound.getsockname()[1]}", "--runs", 1)
    assert (ran.code, ran.out) == (5, "")
    assert "moxy does not answer" in ran.err
    assert ran.err.count("\n") == 1


def test_a_server_that_does_not_start_says_why() -> None:
    ran = moxy("bench", *SMALL, "--serve-flags", "--max-attempts -7")
    assert (ran.code, ran.out) == (5, "")
    assert "moxy ended with code 2" in ran.err
    assert "max-attempts" in ran.err
