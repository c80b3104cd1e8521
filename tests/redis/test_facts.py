"""What is read from a server at start, and what is said about it."""

import pytest

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.errors import Unreachable
from moxy.backends.redis.facts import Facts, facts_of
from moxy.backends.redis.link import Link
from tests.redis.links import SCRIPTS, linked, run
from tests.redis.support import MASTER, VALKEY, Cluster, Watched, serving


def facts_at(address: str) -> Facts:
    async def story() -> Facts:
        link = Link(parse_redis_address(address), SCRIPTS)
        try:
            return await link.connect()
        finally:
            await link.close()

    return run(story())


DURABILITY = [
    ({}, "keeps nothing on disk"),
    ({"save": "3600 1"}, "only takes snapshots"),
    ({"appendonly": "yes", "appendfsync": "everysec"}, "syncs once a second"),
    ({"appendonly": "yes", "appendfsync": "no"}, "leaves syncing to its system"),
    ({"appendonly": "yes", "appendfsync": "always"}, ""),
]


@pytest.mark.parametrize(("options", "sentence"), DURABILITY, ids=["none", "snapshots", "everysec", "no", "always"])
def test_what_a_crash_can_lose_is_said(options: dict[str, str], sentence: str, kind: str) -> None:
    with serving(kind, **options) as server:
        facts = facts_at(server.address)
        assert facts.refusal == ""
        assert [sentence in warning for warning in facts.warnings] == ([True] if sentence else [])
        told = facts.describe()
        assert told["redis_product"] == ("Valkey" if kind == VALKEY else "Redis")
        assert (
            told["redis_version"]
            == server.ask("INFO", "server")["valkey_version" if kind == VALKEY else "redis_version"]
        )
        assert told["redis_run_id"] == server.ask("INFO", "server")["run_id"]
        assert told["redis_mode"] == "standalone"
        assert told["redis_role"] == "master"
        assert told["redis_appendonly"] == options.get("appendonly", "no")
        assert told["redis_appendfsync"] == options.get("appendfsync", "everysec")
        assert told["redis_save"] == options.get("save", "")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "noeviction"])
def test_a_server_that_evicts_is_refused_or_warned_about(policy: str, kind: str) -> None:
    with serving(kind, appendonly="yes", appendfsync="always", maxmemory="50mb", maxmemory_policy=policy) as server:
        facts = facts_at(server.address)
        assert ("tasks would vanish" in facts.refusal) is policy.startswith("allkeys")
        assert [policy in warning for warning in facts.warnings] == ([True] if policy.startswith("volatile") else [])
        assert facts.describe()["redis_maxmemory_policy"] == policy
        assert facts.describe()["redis_maxmemory_bytes"] == 50 * 1024 * 1024
        if facts.refusal:
            assert int(server.ask("INFO", "memory")["number_of_cached_scripts"]) == 0, "it is left as it was found"


def test_a_service_that_forbids_config_leaves_things_unknown(kind: str) -> None:
    with serving(kind, appendonly="yes") as server:
        server.ask("ACL", "SETUSER", "moxy", "on", ">p", "~*", "+@all", "-config")
        facts = facts_at(f"redis://moxy:p@127.0.0.1:{server.port}")
        assert facts.describe()["redis_appendfsync"] == "unknown"
        assert facts.describe()["redis_save"] == "unknown"
        [warning] = facts.warnings
        assert "how often Redis syncs is unknown" in warning
        server.ask("CONFIG", "SET", "appendonly", "no")
        assert "if it takes snapshots at all" in facts_at(f"redis://moxy:p@127.0.0.1:{server.port}").warnings[0]


def test_a_replica_is_refused_and_its_master_warned_about(watched: Watched) -> None:
    master = watched.master
    [replica] = [server for server in watched.servers if server is not master]
    assert "read-only replica" in facts_at(replica.address).refusal
    for address in (master.address, watched.address):
        facts = facts_at(address)
        assert facts.refusal == ""
        assert "a fail-over can lose" in facts.warnings[-1]
        assert facts.replicas == 1
    assert facts_at(watched.address).describe()["redis_mode"] == "sentinel"


def test_the_wrong_form_of_address_is_told_the_right_one(watched: Watched, cluster: Cluster, kind: str) -> None:
    assert "write sentinel://" in facts_at(watched.sentinels[0].address).refusal
    assert "write cluster://" in facts_at(cluster.nodes[0].address).refusal
    with serving(kind) as server:
        with pytest.raises(Unreachable, match="cluster support disabled"):
            facts_at(f"cluster://{server.address}")
        with pytest.raises(Unreachable, match="is no Sentinel that can be asked"):
            facts_at(f"sentinel://{server.address}/{MASTER}")
    with pytest.raises(Unreachable, match="knows no master 'nobody'"):
        facts_at(watched.address.replace(f"/{MASTER}", "/nobody"))


def test_the_worst_node_speaks_for_a_cluster(cluster: Cluster) -> None:
    assert facts_at(cluster.address).refusal == ""
    assert facts_at(cluster.address).describe()["redis_mode"] == "cluster"
    cluster.nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    try:
        assert "allkeys-lfu" in facts_at(cluster.address).refusal
    finally:
        cluster.nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_facts_can_be_read_again_to_see_that_redis_started_anew(kind: str) -> None:
    async def story() -> None:
        with serving(kind) as server:
            async with linked(server.address) as link:
                before = await link.facts()
                server.kill()
                server.start()
                after = await link.facts()
                assert before.run_id != after.run_id
                assert link.reconnects == 1

    run(story())


@pytest.mark.parametrize(
    ("version", "refused"),
    [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("7.0.15", False), ("10.1", False), ("next", False)],
)
def test_servers_before_6_2_are_refused(version: str, refused: bool) -> None:
    info = f"# Server\r\nredis_version:{version}\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n".encode()
    assert ("too old" in facts_of("redis", info, {}).refusal) is refused
