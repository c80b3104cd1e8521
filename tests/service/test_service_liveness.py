"""L1 to L5 on random histories: virtual time, workers that fetch, ack, nack, extend, vanish or die."""

import random

import pytest

from moxy.core.commands import UNSET, Configure, Delete, Enqueue, Extend, FetchAny, Pause, Redrive, Resume
from moxy.core.events import (
    Acked,
    DeadLettered,
    Deleted,
    Expired,
    Extended,
    Failed,
    Leased,
    Matured,
    Released,
    Requeued,
    TaskEvent,
)
from moxy.core.invariants import broken
from moxy.core.policy import Policy
from moxy.requests import Request
from tests.service.support import T0, CountingIds, FakeClient, World, ack, nack

QUEUES = ("a", "b", "c")
TASKS = 120


def is_there(request: Request) -> bool:
    return request.client is not None and not request.client.closed


class Story:
    """One random history. Each step is one turn."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.w = World(Policy(max_attempts=4), CountingIds())
        self.asked: list[tuple[Request, int]] = []
        self.idle: list[FakeClient] = []
        self.made = 0

    def run(self) -> None:
        w = self.w
        w.say(Configure("b", (("backoff_ms", 40), ("backoff_max_ms", 200))), Configure("c", (("max_attempts", 2),)))
        while self.made < TASKS or self.unfinished():
            assert w.clock.ms < T0 + 60_000, f"never ends: {self.unfinished()}"
            self.step()
            w.turn()
            self.check()
            self.pass_time()

    def unfinished(self) -> list[tuple[str, str]]:
        states = [(queue, self.w.backend.memory.state_of(queue)) for queue in QUEUES]
        return [(queue, task.state) for queue, s in states for task in s.tasks.values() if task.state != "dead"]

    def step(self) -> None:
        w, chance = self.w, self.chance
        for _ in range(chance.randrange(3)):
            if self.made < TASKS:
                self.made += 1
                queue, urgency = chance.choice(QUEUES), chance.choice((0, 0, 5))
                delay_ms, ttl_ms = chance.choice((0, 0, 30)), chance.choice((UNSET, UNSET, 400))
                w.ask(None, Enqueue(queue, b"%d" % self.made, "", urgency, delay_ms, ttl_ms))
        for _ in range(chance.randrange(1, 3)):
            queues = tuple(chance.sample(QUEUES, chance.randrange(1, 4)))
            block_ms = chance.choice((UNSET, 5, 60, 0))
            worker = FakeClient(f"worker {len(self.asked)}")
            intent = FetchAny(
                queues, chance.randrange(1, 80), chance.randrange(1, 4), block_ms, "", chance.random() < 0.4
            )
            (request,) = w.ask(worker, intent)
            until = w.clock.ms + block_ms if block_ms > 0 else 0
            self.asked.append((request, until))
        self.work()
        if chance.random() < 0.1:
            queue = chance.choice(QUEUES)
            w.ask(None, chance.choice((Pause(queue), Resume(queue), Resume(queue), Redrive(queue, 1))))
            tasks = list(w.backend.memory.state_of(queue).tasks.values())
            if tasks and chance.random() < 0.3:
                w.ask(None, Delete(queue, chance.choice(tasks).task_id))
        if self.made >= TASKS:
            for queue in QUEUES:
                w.ask(None, Resume(queue))

    def work(self) -> None:
        """Those who hold leases do something with them: now, later, or never."""
        for request, _ in self.asked:
            client = request.client
            assert isinstance(client, FakeClient)
            if client.closed:
                continue
            if self.chance.random() < 0.05:
                self.w.leave(client)
                continue
            tasks = getattr(request.outcome, "answer", None) or []
            for task in tasks:
                what = self.chance.random()
                if what < 0.15:
                    self.w.ask(client, ack(task))
                elif what < 0.25:
                    self.w.ask(client, nack(task, self.chance.choice(("retry", "retry", "release", "fatal"))))
                elif what < 0.3:
                    number, token = int(task.lease_id.split(":")[1]), task.token
                    self.w.ask(client, Extend(task.queue, task.lease_id, number, token, 50))

    def check(self) -> None:
        w = self.w
        for queue in QUEUES:
            assert broken(w.backend.memory.state_of(queue)) == []
        for request, until in self.asked:
            intent = request.intent
            assert isinstance(intent, FetchAny)
            if request.outcome is not None or not is_there(request):
                continue
            assert not until or w.clock.ms < until, "L4: its time is up"
            for queue in intent.queues:
                state = w.backend.memory.state_of(queue)
                assert state.paused or not len(state.ready), f"L4: waits for {queue}, where a task is ready"
        due_ms = self.earliest()
        wake_ms = w.service.next_wake_ms()
        assert due_ms is None or (wake_ms is not None and wake_ms <= due_ms), "the timer would come too late"

    def earliest(self) -> int | None:
        """What time is to be waited for, found the slow way."""
        times = [until for request, until in self.asked if until and request.outcome is None and is_there(request)]
        for queue in QUEUES:
            for task in self.w.backend.memory.state_of(queue).tasks.values():
                if task.lease is not None:
                    times.append(task.lease.deadline_ms)
                if task.state == "scheduled":
                    times.append(task.due_ms)
                if task.expires_ms and task.state in ("ready", "scheduled"):
                    times.append(task.expires_ms)
        return min(times, default=None)

    def pass_time(self) -> None:
        """To the next wake, or to some moment before it."""
        w = self.w
        wake_ms = w.service.next_wake_ms()
        to_ms = w.clock.ms + self.chance.randrange(1, 20)
        w.clock.ms = to_ms if wake_ms is None else max(min(to_ms, wake_ms), w.clock.ms)
        kept: list[tuple[Request, int]] = []
        for request, until in self.asked:
            client = request.client
            assert isinstance(client, FakeClient)
            if client.closed:
                continue
            if request.outcome is None or self.chance.random() < 0.95:
                kept.append((request, until))
            else:
                self.idle.append(client)  # it stays connected, and does nothing about what it holds
        self.asked = kept


@pytest.mark.parametrize("seed", range(12))
def test_everything_ends(seed: int) -> None:
    story = Story(seed)
    story.run()
    w = story.w
    ended, left = set(), set()
    deadlines: dict[str, int] = {}
    for event in w.events:
        if not isinstance(event, TaskEvent):
            continue
        whose = (event.queue, event.number)
        if isinstance(event, Acked | DeadLettered | Deleted):
            ended.add(whose)
        if isinstance(event, Leased | Extended):
            deadlines[event.lease_id] = event.deadline_ms
        if isinstance(event, Acked | Expired | Failed | Released):
            left.add(event.lease_id)
        if isinstance(event, Expired):
            assert event.at_ms >= deadlines[event.lease_id], "I6"
    assert len(ended) == TASKS, "L3: every task ends acked, dead or deleted"
    assert deadlines.keys() == left, "L2: every lease ends"
    kinds = {type(event) for event in w.events}
    assert {Acked, Expired, Failed, Released, DeadLettered, Extended, Matured, Requeued} <= kinds, "a poor history"
    for queue in QUEUES:
        seqs = [event.seq for event in w.events if event.queue == queue]
        assert seqs == list(range(1, len(seqs) + 1)), "I15"
    for client in [*story.idle, *(request.client for request, _ in story.asked)]:
        w.leave(client)
    assert w.leftovers() == {}


def test_every_ready_task_is_leased_in_the_end_though_others_come_first() -> None:
    """L1: urgent work goes first, but the first of the unimportant ones gets its turn as soon as workers keep up."""
    w = World()
    w.say(*[Enqueue("jobs", b"low") for _ in range(20)])
    got = []
    for i in range(60):
        if i < 20:
            w.say(Enqueue("jobs", b"urgent", priority=9))
        (task,) = w.say(FetchAny(("jobs",), 1000, 1)) or (None,)
        if task is not None:
            got.append(task.payload)
            w.say(ack(task))
    assert got == [b"urgent"] * 20 + [b"low"] * 20
