"""The link to a Cluster whose slots move, and to a master that Sentinels replace."""

import asyncio
import functools
import gc

import pytest

from moxy.backends.redis.address import parse_redis_address
from moxy.backends.redis.dial import first
from moxy.backends.redis.errors import Missed, Unreachable
from moxy.backends.redis.link import Call
from moxy.backends.redis.node import Node
from moxy.backends.redis.routes import Cluster as ClusterRoute
from moxy.core.errors import Refused
from tests.redis.links import (
    NOTHING,
    PUSH,
    SCRIPTS,
    linked,
    new_queue,
    push,
    read,
    run,
    served,
    text_of,
    until_kept_back,
)
from tests.redis.support import Cluster, Server, Watched, until, watching

# Cluster


def spread(cluster: Cluster) -> list[str]:
    """Queues on every node of the Cluster."""
    queues = [new_queue() for _ in range(40)]
    owners = {cluster.owner(f"{{{queue}}}:list").port for queue in queues}
    assert len(owners) == len(cluster.nodes)
    return queues


def test_a_batch_is_split_over_the_nodes_and_answered_in_order(cluster: Cluster) -> None:
    async def story() -> None:
        queues = spread(cluster)
        async with linked(cluster.address) as link:
            calls = [call for queue in queues for call in (push(queue, "a"), push(queue, "b"), read(queue))]
            assert await link.run(calls) == [1, 2, [b"a", b"b"]] * len(queues)
            assert link.reconnects == 0

    run(story())


def test_one_node_of_the_cluster_is_enough_to_find_the_others(cluster: Cluster) -> None:
    async def story() -> None:
        async with linked(f"cluster://127.0.0.1:{cluster.nodes[1].port},127.0.0.1:1") as link:
            assert await link.run([push(queue, "a") for queue in spread(cluster)]) == [1] * 40

    run(story())


def test_a_plain_command_goes_where_its_key_is(cluster: Cluster) -> None:
    async def story() -> None:
        async with linked(cluster.address) as link:
            for queue in spread(cluster):
                assert await link.command("ZADD", queue, 1, "a") == 1
                assert cluster.owner(queue).ask("ZCARD", queue) == 1

    run(story())


def test_nobody_notices_lost_scripts_on_one_node(cluster: Cluster) -> None:
    async def story() -> None:
        queues = spread(cluster)
        async with linked(cluster.address) as link:
            cluster.nodes[0].ask("SCRIPT", "FLUSH")
            assert await link.run([push(queue, "a") for queue in queues]) == [1] * len(queues)

    run(story())


def test_a_slot_that_moved_is_followed(cluster: Cluster) -> None:
    async def story() -> None:
        queue, stays = new_queue(), new_queue()
        async with linked(cluster.address) as link:
            assert await link.run([push(queue, "a"), push(stays, "a")]) == [1, 1]
            cluster.move(f"{{{queue}}}:list")
            calls = [push(queue, "b"), push(queue, "c"), push(stays, "b"), read(queue)]
            assert await link.run(calls) == [2, 3, 2, [b"a", b"b", b"c"]]
            assert await link.run([push(queue, "d")]) == [4]
            assert await link.command("LLEN", f"{{{queue}}}:list") == 4

    run(story())


def test_a_queue_that_is_on_the_move_waits_or_is_refused(cluster: Cluster) -> None:
    async def story() -> None:
        queue = new_queue()
        key, more = f"{{{queue}}}:list", f"{{{queue}}}:more"
        source, target = cluster.owner(key), cluster.other(key)
        async with linked(cluster.address, retry_s=0.05) as impatient, linked(cluster.address, retry_s=20) as patient:
            assert await patient.run([push(queue, "a", more="more")]) == [1]
            source.ask("SET", more, "x")
            cluster.begin_move(key, target)
            assert await impatient.run([push(queue, "b", more="more")]) == [2], "all keys are still here"
            cluster.move_keys(source, target, more)
            [refused] = await impatient.run([push(queue, "c", more="more")])
            assert text_of(refused) == f"Redis Cluster is moving this queue to another node: {NOTHING}"
            assert impatient.in_trouble
            batch = asyncio.ensure_future(patient.run([push(queue, "d", more="more"), push(queue, "e", more="more")]))
            await until_kept_back(patient, batch)
            cluster.move_keys(source, target, key)
            assert await batch == [3, 4], "all keys are there: the redirection for this once is followed"
            assert await impatient.run([read(queue)]) == [[b"a", b"b", b"d", b"e"]]
            cluster.end_move(key, source, target)
            assert await impatient.run([push(queue, "f", more="more")]) == [5]
            assert not impatient.in_trouble

    run(story())


def test_a_call_is_not_sent_again_once_a_later_one_of_its_queue_has_run(cluster: Cluster) -> None:
    async def story() -> None:
        queue, other = new_queue(), new_queue()
        key, more = f"{{{queue}}}:list", f"{{{queue}}}:more"
        source, target = cluster.owner(key), cluster.other(key)
        async with linked(cluster.address, retry_s=1000) as link:
            await link.run([push(queue, "a")])
            source.ask("SET", more, "x")
            cluster.begin_move(key, target)
            cluster.move_keys(source, target, more)
            try:
                # The first needs a key that is gone from here, the second does not.
                refused, ran, elsewhere = await link.run(
                    [push(queue, "b", more="more"), push(queue, "c"), push(other, "d")]
                )
            finally:
                cluster.end_move(key, source, target)
            assert text_of(refused) == f"Redis Cluster is moving this queue to another node: {NOTHING}"
            assert (ran, elsewhere) == (2, 1)
            assert await link.run([read(queue)]) == [[b"a", b"c"]]

    run(story())


def test_queues_of_one_slot_do_not_wait_for_each_other_when_the_slot_moves(cluster: Cluster) -> None:
    async def story() -> None:
        # The hash tag of one in the key of the other puts both into one slot.
        queue = new_queue()
        key = f"{{{queue}}}:list"
        neighbour = Call(PUSH, new_queue(), [f"{{{queue}}}:neighbour"], ["x"], False)
        source, target = cluster.owner(key), cluster.other(key)
        async with linked(cluster.address) as link:
            assert await link.run([push(queue, "a"), neighbour]) == [1, 1]
            cluster.begin_move(key, target)
            cluster.move_keys(source, target, key)
            try:
                calls = [push(queue, "b"), push(queue, "c"), read(queue), neighbour]
                assert await link.run(calls) == [2, 3, [b"a", b"b", b"c"], 2], "the last has run when the others go on"
            finally:
                cluster.end_move(key, source, target)

    run(story())


def test_a_cluster_that_loses_a_node_serves_the_rest_and_takes_it_back(cluster: Cluster) -> None:
    async def story() -> None:
        queues = spread(cluster)
        lost = cluster.nodes[2]
        theirs = [queue for queue in queues if cluster.owner(f"{{{queue}}}:list") is lost]
        async with linked(cluster.address, retry_s=0.05) as link:
            assert await link.run([push(queue, "a") for queue in queues]) == [1] * len(queues)
            followed = theirs.pop()
            queues.remove(followed)
            cluster.move(f"{{{followed}}}:list")  # away from the node that will be lost, and nobody is told
            lost.kill()
            assert await served(link, push(followed, "b")) == [2]
            for queue, reply in zip(queues, await link.run([push(queue, "b") for queue in queues]), strict=True):
                if queue in theirs:
                    assert text_of(reply).endswith(NOTHING)
                else:
                    assert reply == 2
            await asyncio.to_thread(lost.start)
            assert await served(link, push(theirs[0], "c")) == [2]
            assert link.reconnects > 0
        await asyncio.to_thread(cluster.wait_until_whole)

    run(story())


def test_a_node_that_has_no_part_any_more_is_let_go(cluster: Cluster, server: Server) -> None:
    async def story() -> None:
        address = parse_redis_address(cluster.address)
        route = ClusterRoute(address, lambda dial: Node(dial, SCRIPTS, 5.0, lambda: None))
        await route.refresh()
        stray = route.at("127.0.0.1", server.port, route.nodes()[0])
        assert await stray.ask("PING") == b"PONG"
        assert " name=moxy " in server.ask("CLIENT", "LIST")
        await route.refresh()
        clients = functools.partial(server.ask, "CLIENT", "LIST")
        await asyncio.to_thread(until, clients, lambda found: " name=moxy " not in found)
        route.close()

    run(story())


# Sentinel


def test_of_those_asked_at_once_the_others_are_forgotten_without_a_word() -> None:
    async def story() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        async def fails() -> int:
            raise Missed("away", sent=False)

        async def answers() -> int:
            return 7

        assert await first([fails(), answers(), fails(), asyncio.sleep(3600, 8)]) == 7
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody goes on asking"
        with pytest.raises(Missed, match="away"):
            await first([fails(), fails()])
        gc.collect()
        assert complaints == []

    run(story())


def test_whom_sentinel_calls_master_must_say_so_itself(watched: Watched) -> None:
    async def story() -> None:
        async with linked(watched.address):
            pass

    master = watched.master
    master.ask("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(Unreachable, match="which Sentinel calls the master, is none yet"):
            run(story())
    finally:
        master.ask("REPLICAOF", "NO", "ONE")
        [replica] = [server for server in watched.servers if server is not master]
        until(lambda: replica.ask("ROLE"), lambda role: role[3] == "connected")


def test_a_fail_over_is_followed(watched: Watched) -> None:
    async def story() -> None:
        queue = new_queue()
        async with linked(watched.address) as link:
            assert await link.run([push(queue, "a")]) == [1]
            old = watched.master
            until(lambda: old.ask("WAIT", 1, 1000))
            await asyncio.to_thread(watched.fail_over)
            assert await served(link, push(queue, "b"), read(queue)) == [2, [b"a", b"b"]]
            assert link.reconnects > 0
            assert watched.master is not old
            assert watched.master.ask("LLEN", f"{{{queue}}}:list") == 2

    run(story())


def test_a_master_that_is_replaced_while_it_lives_is_left_before_it_is_turned_around(watched: Watched) -> None:
    async def story() -> None:
        queue = new_queue()
        async with linked(watched.address) as link:
            old, new = await asyncio.to_thread(watched.promote)
            try:
                while not new.ask("LLEN", f"{{{queue}}}:list"):
                    assert old.ask("ROLE")[0] == "master", "Sentinel was quicker"
                    await link.run([push(queue, "a")])
            finally:
                watched.turn_around(old, new)

    run(story())


def test_sentinels_with_a_password_of_their_own() -> None:
    async def story(watched: Watched) -> None:
        async with linked(f"{watched.address}?sentinel_password=guard") as link:
            assert await link.run([push(new_queue(), "a")]) == [1]
        with pytest.raises(Unreachable, match="wants sentinel_password"):
            async with linked(watched.address):
                pass

    with watching() as watched:
        watched.sentinels[0].ask("ACL", "SETUSER", "default", "resetpass", ">guard")
        run(story(watched))


def test_a_master_that_dies_is_replaced_without_a_restart_here() -> None:
    async def story(watched: Watched) -> None:
        queue = new_queue()
        async with linked(watched.address, retry_s=0.05) as link:
            assert await link.run([push(queue, "a")]) == [1]
            old = watched.master
            old.kill()
            refused = (await link.run([push(queue, "b")]))[0]
            assert isinstance(refused, Refused)
            assert text_of(refused).endswith(NOTHING)
            new: Server = next(server for server in watched.servers if server is not old)
            await asyncio.to_thread(watched.wait_for_master, new)
            await served(link, push(queue, "c"))
            assert new.ask("LRANGE", f"{{{queue}}}:list", 0, -1)[-1] == "c"

    with watching() as watched:
        run(story(watched))


def test_a_dead_sentinel_is_passed_over(watched: Watched) -> None:
    async def story() -> None:
        address = watched.address.replace("sentinel://", "sentinel://127.0.0.1:1,")
        async with linked(address) as link:
            assert await link.run([push(new_queue(), "a")]) == [1]

    run(story())
