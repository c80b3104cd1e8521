"""A Python worker, end to end: a plain redis-py client of Moxy, and the same job in RQ and arq if they are installed.

So many jobs that do nothing wait; the clock runs while one worker process works them off. RQ and arq run over the Redis
that the tests use, Moxy keeps its queue in memory. RQ's default worker forks a process for each job, and that is how it
is measured; arq runs ten jobs at a time in one loop. `pip install rq arq` brings the two.
"""

import asyncio
import importlib.util
import logging
import time
from collections.abc import Iterator

import redis

from tests.bench.harness import Row, Size, main
from tests.redis.support import serving
from tests.server.support import Process


def noop(number: int) -> int:
    """The job."""
    return number


async def noop_in_a_loop(context: object, number: int) -> int:
    """The job, as arq calls it."""
    return noop(number)


def moxy_drain(port: int, jobs: int) -> float:
    """Seconds for so many jobs, one FETCH and one ACK each."""
    client = redis.Redis(port=port, protocol=2)
    for number in range(jobs):
        client.execute_command("MOXY.ENQUEUE", "jobs", number)
    began_s = time.perf_counter()
    done = 0
    while (task := client.execute_command("MOXY.FETCH", "jobs", 30_000)) is not None:
        lease_id, payload = task[1], task[5]
        noop(int(payload))
        client.execute_command("MOXY.ACK", lease_id)
        done += 1
    assert done == jobs
    return time.perf_counter() - began_s


def rq_drain(port: int, jobs: int) -> float:
    """Seconds for so many jobs."""
    import rq

    client = redis.Redis(port=port)
    queue = rq.Queue(connection=client)
    for number in range(jobs):
        queue.enqueue("tests.bench.workers.noop", number, result_ttl=0)
    began_s = time.perf_counter()
    rq.Worker([queue], connection=client).work(burst=True, logging_level="ERROR")
    took_s = time.perf_counter() - began_s
    assert len(queue) == 0
    return took_s


def arq_drain(port: int, jobs: int) -> float:
    """Seconds for so many jobs."""
    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    async def drain() -> float:
        settings = RedisSettings(port=port)
        pool = await create_pool(settings)
        for number in range(jobs):
            await pool.enqueue_job("noop", number)
        job = func(noop_in_a_loop, name="noop", keep_result=0)
        worker = Worker([job], redis_settings=settings, burst=True, poll_delay=0.001, handle_signals=False)
        began_s = time.perf_counter()
        await worker.main()
        took_s = time.perf_counter() - began_s
        assert worker.jobs_complete == jobs
        await worker.close()
        await pool.aclose()
        return took_s

    return asyncio.run(drain())


def rate(label: str, jobs: int, took_s: list[float]) -> Row:
    rates = sorted(jobs / each for each in took_s)
    return Row(label, rates[len(rates) // 2], rates[0], rates[-1], "jobs/s")


def rows(size: Size) -> Iterator[Row]:
    logging.disable(logging.WARNING)
    jobs = size.of(3000)
    with Process() as server:
        yield rate("moxy, redis-py", jobs, [moxy_drain(server.address[1], jobs) for _ in range(size.repeat)])
    for name, drain in (("rq", rq_drain), ("arq", arq_drain)):
        if importlib.util.find_spec(name) is not None:
            with serving() as peer:
                yield rate(name, jobs, [drain(peer.port, jobs) for _ in range(size.repeat)])


if __name__ == "__main__":
    main(rows)
