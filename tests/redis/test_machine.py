"""The scripts against the reference model, in lock-step, on every kind of server: with one Moxy server and with two.

Lives here: the profiles, and faults planted into the Lua that the machine must catch. Must not: rules or expectations;
those are in `spec`. The systems are in `spec.adapters.redis`.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from moxy.backends.redis import scripts
from moxy.backends.redis.node import Script
from spec.adapters import RedisSystem, TwoOnRedis
from spec.adapters import redis as adapter
from spec.machine import check
from spec.system import System
from tests.redis.support import Server
from tests.server.support import clean_environment
from tests.spec.test_edges import take_every_edge

QUICK = {RedisSystem: 40, TwoOnRedis: 25}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("system", QUICK)
def test_it_does_what_the_model_does(server: Server, system: Callable[[str], System]) -> None:
    report = check(lambda: system(server.address), QUICK[system], at_seed=11)
    assert report.failure is None, report.format()


def test_the_command_checks_a_redis_too_and_leaves_nothing_in_it(server: Server, tmp_path: Path) -> None:
    words = ("modelcheck", "--backend", "redis", "--redis-addr", server.address, "--examples", "5")
    result = subprocess.run(
        [sys.executable, "-m", "moxy", *words],
        cwd=tmp_path,
        env=clean_environment(None),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("redis: No difference from the model in ")
    host, port = server.address.rsplit(":", 1)
    with Redis(host, int(port)) as client:
        assert client.keys("moxy-check-*") == []


@pytest.mark.deep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("system", QUICK)
def test_it_does_what_the_model_does_in_thousands_of_programs(server: Server, system: Callable[[str], System]) -> None:
    report = check(lambda: system(server.address), QUICK[system] * 75, at_seed=111, steps=60)
    print(report.format())  # noqa: T201 - the report is what one runs this for: pytest -m deep -s
    assert report.failure is None, report.format()


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scope", ["plain", "pause"])
def test_every_edge_of_a_graph_is_taken(server: Server, scope: str) -> None:
    take_every_edge(lambda: RedisSystem(server.address), scope)


FAULTS = {
    "a deadline a millisecond late": (
        "local deadline_ms = now_ms + hold_ms",
        "local deadline_ms = now_ms + hold_ms + 1",
    ),
    "an ack that ignores its lease": ("if t and t.lease_id == lease_id then", "if t and t.lease_id then"),
    "an attempt that is not counted": (
        "t.state, t.attempts, t.failures = '', attempts,",
        "t.state, t.attempts, t.failures = '', t.attempts,",
    ),
    "a requeue behind the backlog": (
        "emit('Requeued', 'number', t.n, 'task_id', t.id, 'due_ms', due_ms)",
        "emit('Requeued', 'number', t.n, 'task_id', t.id, 'due_ms', due_ms) t.place = next_number",
    ),
    "a token used twice": ("  last_token = token\n", "  if t.deliveries == nil then last_token = token end\n"),
    "a dedup window that is ignored": ("return until_ms and now_ms < tonumber(until_ms)", "return nil"),
    "priorities the wrong way round": (
        "(PRIORITY_MAX - (t.priority or 0)) * PLACE_BITS",
        "(t.priority or 0) * PLACE_BITS",
    ),
    "a purge that leaves the payloads": ("call('HDEL', PAYLOADS, t.n)", ""),
    "a wake-up that is lost": ("if made_ready > 0 and not paused then wake() end", ""),
    "a bound lease of a dead server that stays": ("release(task_of(number_in(of)), 'disconnect')", "local _ = of"),
    "due work that stops early": ("if not settled then done = done + 1 end", "done = done + 1 settled = true"),
    "a redrive to the old place": (
        "t.place, t.placed_ms, t.expires_ms = next_number, now_ms,",
        "t.placed_ms, t.expires_ms = now_ms,",
    ),
    "a max_ready that counts no delayed tasks": (
        "call('ZCARD', READY) + call('ZCARD', SCHEDULED)",
        "call('ZCARD', READY)",
    ),
}
NEEDS_TWO = {"a wake-up that is lost"}


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", set(FAULTS) - NEEDS_TWO)
def test_a_fault_in_the_lua_is_caught(fault: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = FAULTS[fault]
    text = scripts.SCRIPT.text
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the script"
    monkeypatch.setattr(adapter, "SCRIPT", Script("moxy", text.replace(old, new)))
    monkeypatch.setattr("moxy.backends.redis.backend.SCRIPT", adapter.SCRIPT)
    report = check(lambda: RedisSystem(server.address), 400, at_seed=5)
    assert report.failure is not None, "nobody saw it"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_to_plant_is_a_text_that_is_there_once(fault: str) -> None:
    assert scripts.SCRIPT.text.count(FAULTS[fault][0]) == 1
