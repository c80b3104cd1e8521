"""The scripts against the reference model, in lock-step, on every kind of server: with one Moxy server and with two.

Lives here: the profiles. Must not: rules or expectations; those are in `spec`, as are faults planted into the Lua
(`spec.mutants.lua`). The systems are in `spec.adapters.redis`.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from spec.adapters import RedisSystem, TwoOnRedis
from spec.machine import check
from spec.system import System
from tests.redis.support import Server
from tests.server.support import clean_environment
from tests.spec.test_edges import SCOPES, take_every_edge

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


def test_every_edge_of_the_smallest_graph_is_taken(server: Server) -> None:
    take_every_edge(lambda: RedisSystem(server.address), "one life")


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "one life"])
def test_every_edge_of_the_other_graphs_is_taken(server: Server, scope: str) -> None:
    take_every_edge(lambda: RedisSystem(server.address), scope)
