"""Turns in the wake-up in which their bytes came, busy polling, and sockets that the kernel has bad news of."""

import asyncio
import errno
import resource
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from moxy.core.commands import Peek
from moxy.requests import Request
from moxy.server.connection import HELD_BACK_BYTES_MAX
from moxy.server.doors import Form
from moxy.server.epoll import Pipe
from tests.forms import needs_source
from tests.server.support import (
    MIB,
    Client,
    House,
    Process,
    Status,
    encode,
    server_info,
    serving,
    until,
    until_blocked,
    until_connected,
)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def moxy(loop: str) -> Iterator[House]:
    with serving(loop=loop) as house:
        yield house


class Tasks:
    """Counts the tasks that a loop makes."""

    def __init__(self, house: House) -> None:
        self.count = 0
        house.call(lambda: asyncio.get_running_loop().set_task_factory(self._make))

    def _make(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        self.count += 1
        return asyncio.Task(work, loop=loop, **more)


def test_a_turn_that_waits_for_nothing_needs_no_task(moxy: House) -> None:
    with moxy.client() as client:
        assert client("PING") == Status("PONG")  # asyncio makes a task to accept it
        tasks = Tasks(moxy)
        for _ in range(20):
            client("MOXY.ENQUEUE", "jobs", "x")
        assert tasks.count == 0


def test_a_turn_that_waits_goes_on_in_a_task_and_what_comes_meanwhile_is_the_next(loop: str) -> None:
    with serving(loop=loop, slow_commits=True) as house, house.client() as first, house.client() as second:
        tasks = Tasks(house)
        replies = first.pipeline(*[("MOXY.ENQUEUE", "jobs", "x")] * 50)
        assert len(replies) == 50
        assert 0 < tasks.count < 50
        assert second.map("MOXY.STATS", "jobs")["ready"] == 50


class Gate:
    """Commits that take until they are let through, one by one. All is written when they begin to wait."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._waiting: list[asyncio.Future[None]] = []
        backend: Any = house.server._backend
        commit = backend.commit

        async def wait() -> None:
            backend.settle()
            backend.written()
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
            backend.accept()

        def restore() -> None:
            backend.commit = commit
            for future in self._waiting:
                future.done() or future.set_result(None)

        self._restore = restore
        house.call(lambda: setattr(backend, "commit", wait))

    @property
    def count(self) -> int:
        """How many commits wait."""
        return len(self._waiting)

    def until_somebody_waits(self) -> None:
        until(lambda: self._house.call(lambda: self.count), lambda count: count > 0)

    def let_through(self) -> None:
        self._house.call(lambda: self._waiting.pop().set_result(None))

    def open(self) -> None:
        self._house.call(self._restore)


def test_turns_never_overlap(loop: str) -> None:
    """A client that is gone while a turn is on its way to the disk leaves work for another turn, which has to wait."""
    with serving(loop=loop) as house, house.client() as client, house.client() as worker:
        client("MOXY.ENQUEUE", "jobs", "x")
        worker("MOXY.FETCH", "jobs", 60_000, "BOUND")
        gate = Gate(house)
        client.send("MOXY.ENQUEUE", "jobs", "y")
        gate.until_somebody_waits()
        reset(worker)
        until(lambda: house.call(lambda: house.server.service.has_work or gate.count > 1), bool)
        for _ in range(50):
            house.call(lambda: None)
        assert gate.count == 1
        gate.open()
        assert client.read()[0] == b"task_id"
        assert client.map("MOXY.STATS", "jobs")["ready"] == 2


def test_during_the_last_turn_nothing_is_carried_out_any_more(loop: str) -> None:
    """Nobody would commit it, or tell."""
    with serving(loop=loop) as house, house.client() as client, house.client() as late:
        assert client("PING") == late("PING") == Status("PONG")
        client("MOXY.ENQUEUE", "jobs", "x")
        gate = Gate(house)
        client.send("MOXY.ENQUEUE", "jobs", "y")
        gate.until_somebody_waits()
        house.call(house.server.stop)
        gate.let_through()
        gate.until_somebody_waits()  # the last turn, which is run although there is nothing for it to do
        late.send("MOXY.ENQUEUE", "jobs", "z")
        until(lambda: house.call(lambda: len(house.server._unseen)), bool)
        gate.open()
        assert client.read()[0] == b"task_id"
        assert late.is_closed_by_server()
        house.join()
        assert house.server._backend.state_of("jobs").totals.enqueued == 2  # type: ignore[attr-defined]


def test_after_the_last_turn_nothing_is_carried_out_any_more(loop: str) -> None:
    """What comes between it and the goodbye, and what was held back until it."""

    stopping: list[House] = []

    def say_more(turn: Any) -> None:
        for house in stopping:
            assert not house.server.goes_on
            for link in house.server._links.values():
                link.data_received(encode("MOXY.ENQUEUE", "jobs", "too late"))

    with serving(loop=loop, observers=[say_more]) as house, house.client() as late, house.client() as blocked:
        late("MOXY.ENQUEUE", "jobs", "x")
        blocked.send_raw(encode("MOXY.FETCH", "more", 1000, "BLOCK", 10) + encode("MOXY.ENQUEUE", "jobs", "held back"))
        until_blocked(late, 1)

        def end() -> None:
            stopping.append(house)
            house.clock.ms += 10  # type: ignore[attr-defined]  # the fetch waits no longer than the last turn
            house.server.stop()

        house.call(end)
        assert blocked.read() is None
        assert blocked.is_closed_by_server()
        assert late.is_closed_by_server()
        house.join()
        assert house.server._backend.state_of("jobs").totals.enqueued == 1  # type: ignore[attr-defined]


def test_what_was_committed_leaves_when_the_kernel_has_room_again_and_waits_for_no_later_turn(loop: str) -> None:
    """A slow reader has read the first of two replies while somebody else's turn is on its way."""
    with serving(loop=loop) as house, house.client(receive_bytes=4096) as slow, house.client() as other:
        for _ in range(60):
            other("MOXY.ENQUEUE", "jobs", "x" * 100_000)
        peek = encode("MOXY.PEEK", "jobs", "COUNT", 60)
        slow.send_raw(peek * 2)
        until(lambda: int(server_info(other)["total_commands_processed"]), lambda count: count >= 62)
        gate = Gate(house)
        other.send("MOXY.ENQUEUE", "jobs", "y")
        gate.until_somebody_waits()
        assert len(slow.read()) == 60
        until(lambda: house.call(lambda: len(house.server._in_turn)), lambda count: count == 2)
        gate.let_through()
        assert len(slow.read()) == 60
        assert other.read()[0] == b"task_id"
        gate.open()


def test_no_reply_leaves_before_its_commit_because_the_kernel_has_room_again(loop: str) -> None:
    """I13: a slow reader's old replies are drained while the turn with its newest command is not yet durable."""
    with serving(loop=loop) as house, house.client(receive_bytes=4096) as slow, house.client() as other:
        for _ in range(60):
            other("MOXY.ENQUEUE", "jobs", "x" * 100_000)
        gate = Gate(house)
        slow.send("MOXY.PEEK", "jobs", "COUNT", 60)
        gate.until_somebody_waits()
        slow.send("MOXY.ENQUEUE", "jobs", "y", "PRIORITY", 1)  # a plain one's reply is kept back in the lane anyway
        until(lambda: house.call(lambda: house.server.service.has_work), bool)  # it waits for the turn to be over
        gate.let_through()
        gate.until_somebody_waits()
        assert len(slow.read()) == 60
        for _ in range(50):
            house.call(lambda: None)
        assert slow.has_come() == b""
        gate.open()
        assert slow.read()[0] == b"task_id"


def test_a_backend_that_wants_one_has_a_task_around_it_from_the_first_step(loop: str) -> None:
    with serving(loop=loop, turns_in_tasks=True) as house, house.client() as client:
        execute = house.server._backend.execute
        seen: list[bool] = []

        async def watched(commands: Any) -> Any:
            seen.append(asyncio.current_task() is not None)
            return await execute(commands)

        house.call(lambda: setattr(house.server._backend, "execute", watched))
        client("MOXY.ENQUEUE", "jobs", "x")
        assert seen == [True]
        assert len(client("MOXY.FETCH", "jobs", 1000)) == 6


@pytest.mark.parametrize("turns_in_tasks", [False, True])
def test_what_a_turn_raises_ends_the_server_and_nobody_is_answered(loop: str, turns_in_tasks: bool) -> None:
    with serving(loop=loop, turns_in_tasks=turns_in_tasks) as house:

        async def break_down(commands: Any) -> Any:
            raise AssertionError("this can never be")

        with house.client() as client:
            house.call(lambda: setattr(house.server._backend, "execute", break_down))
            client.send("MOXY.ENQUEUE", "jobs", "x")
            with pytest.raises(AssertionError, match="this can never be"):
                house.join()


def test_what_a_waiting_turn_waits_for_may_fail(loop: str) -> None:
    """The failure comes out of what the turn awaits, inside the turn, as if it had been in a task all the time."""
    with serving(loop=loop) as house, house.client() as client:
        caught: list[str] = []

        async def fail_late() -> None:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_exception, OSError("late"))
            try:
                await future
            except OSError as error:
                caught.append(str(error))
            house.server._backend.commit_at_once()

        house.call(lambda: setattr(house.server._backend, "commit", fail_late))
        assert client("MOXY.ENQUEUE", "jobs", "x")[0] == b"task_id"
        assert caught[0] == "late"


@needs_source
def test_many_clients_are_served_by_few_turns(moxy: House, form: Form) -> None:
    """The loop is kept busy until all have spoken; the tick then has everything in one turn."""
    clients = [moxy.client() for _ in range(40)]
    try:
        assert [client("PING") for client in clients] == ["PONG"] * 40
        turns = 0
        turn = moxy.server.service.turn

        def counted() -> Any:
            nonlocal turns
            turns += 1
            return turn()

        moxy.call(lambda: setattr(moxy.server.service, "turn", counted))
        busy = moxy.keep_busy()
        for client in clients:
            client.send("MOXY.ENQUEUE", "jobs", "x")
        busy.set()
        assert [client.read()[0] for client in clients] == [b"task_id"] * 40
        assert turns == 1 if form == "epoll" else turns < 40
    finally:
        for client in clients:
            client.close()


# Busy polling


def test_a_server_that_polls_serves_as_any_other(loop: str) -> None:
    with serving(loop=loop, busy_poll_us=2000) as house, house.client() as worker, house.client() as other:
        for number in range(50):
            other("MOXY.ENQUEUE", "jobs", f"x{number}")
            assert worker.map("MOXY.FETCH", "jobs", 1000)["payload"] == f"x{number}".encode()
        worker.send("MOXY.FETCH", "more", 1000, "BLOCK", 50)
        until_blocked(other, 1)
        house.at(50)
        assert worker.read() is None


def test_a_server_that_polls_lets_the_loop_have_its_turn(loop: str) -> None:
    """Clients who never stop talking must not keep it from signals, timers and threads."""
    with serving(loop=loop, busy_poll_us=1_000_000) as house:
        over = threading.Event()

        def talk() -> None:
            with house.client() as client:
                while not over.is_set():
                    client.pipeline(*[("PING",)] * 10)

        talkers = [threading.Thread(target=talk) for _ in range(2)]
        for talker in talkers:
            talker.start()
        try:
            for _ in range(5):
                assert house.call(lambda: "done") == "done"
        finally:
            over.set()
            for talker in talkers:
                talker.join()


def test_a_server_that_polls_waits_for_a_commit_as_any_other(loop: str) -> None:
    with serving(loop=loop, busy_poll_us=1_000_000, slow_commits=True) as house, house.client() as client:
        assert client("MOXY.ENQUEUE", "jobs", "x")[0] == b"task_id"


# Bad news


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()


def test_a_reset_is_noticed_although_nothing_is_read_from_the_client(moxy: House, form: Form) -> None:
    """So much waits behind its blocked fetch that reading has stopped. asyncio finds out when it next writes."""
    if form == "asyncio":
        pytest.skip("a promise of the tick")
    with moxy.client() as other:
        worker = moxy.client()
        worker.send("MOXY.FETCH", "jobs", 1000, "BLOCK", 0)
        until_blocked(other, 1)
        for _ in range(HELD_BACK_BYTES_MAX // 100_000 + 1):
            worker.send("ECHO", "x" * 100_000)
        until(lambda: (other("PING"), [link._reading for link in moxy.server._links.values()])[1], lambda r: False in r)
        reset(worker)
        until_connected(other, 1)
        until_blocked(other, 0)


def test_a_half_closed_client_that_is_then_reset_is_let_go(moxy: House) -> None:
    with moxy.client() as other:
        other("MOXY.ENQUEUE", "jobs", "x" * MIB)
        slow = moxy.client(receive_bytes=4096)
        slow.send_raw(encode("MOXY.PEEK", "jobs") * 30)
        until_connected(other, 2)
        slow.half_close()
        assert other("PING") == Status("PONG")
        reset(slow)
        until_connected(other, 1)


def test_quit_behind_a_reply_that_the_kernel_takes_in_parts(moxy: House) -> None:
    with moxy.client() as other, moxy.client(receive_bytes=4096) as slow:
        other("MOXY.ENQUEUE", "jobs", "x" * 100_000)
        slow.send_raw(encode("MOXY.PEEK", "jobs") * 45 + encode("QUIT"))
        until(lambda: int(server_info(other)["total_commands_processed"]), lambda count: count == 46)
        assert [len(slow.read()) for _ in range(45)] == [1] * 45
        assert slow.read() == Status("OK")
        assert slow.is_closed_by_server()


def pipes_served(house: House, ask: Callable[[], object]) -> int:
    """Of how many clients' sockets the kernel had something to say during 50 questions."""
    pipes: set[int] = set()
    read, serve = Pipe.read, Pipe.serve

    def read_seen(pipe: Pipe) -> int:
        pipes.add(id(pipe))
        return read(pipe)

    def serve_seen(pipe: Pipe, happened: int) -> int:
        pipes.add(id(pipe))
        return serve(pipe, happened)

    with pytest.MonkeyPatch.context() as patch:
        house.call(lambda: (patch.setattr(Pipe, "read", read_seen), patch.setattr(Pipe, "serve", serve_seen)))
        for _ in range(50):
            ask()
    return len(pipes)


@needs_source
def test_the_kernel_is_not_asked_for_what_nobody_waits_for(moxy: House, form: Form) -> None:
    """Else the loop would never sleep again after a slow reader, or beside one that has half-closed."""
    if form == "asyncio":
        pytest.skip("there the loop sees to it")
    with moxy.client() as other, moxy.client(receive_bytes=4096) as slow:
        other("MOXY.ENQUEUE", "jobs", "x" * MIB)
        slow.send_raw(encode("MOXY.PEEK", "jobs") * 8)
        until(lambda: int(server_info(other)["total_commands_processed"]), lambda count: count == 9)
        assert [len(slow.read()) for _ in range(8)] == [1] * 8
        assert slow("PING") == Status("PONG")
        assert pipes_served(moxy, lambda: other("PING")) == 1
        slow.send_raw(encode("MOXY.PEEK", "jobs") * 8)
        until(lambda: int(server_info(other)["total_commands_processed"]), lambda count: count == 17)
        slow.half_close()
        assert other("PING") == Status("PONG")
        assert pipes_served(moxy, lambda: other("PING")) == 1


def test_without_descriptors_those_who_are_here_are_served_and_the_others_later() -> None:
    with Process() as server, server.client() as first:
        assert first("PING") == Status("PONG")
        _, hard = resource.prlimit(server.child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.child.pid, resource.RLIMIT_NOFILE, (3, hard))
        with server.client() as second:
            for _ in range(100):
                assert first("PING") == Status("PONG")
            second.send("PING")
            resource.prlimit(server.child.pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert second.read() == Status("PONG")
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


def complaints(house: House) -> list[str]:
    """What the loop is told from now on of exceptions that nobody caught."""
    said: list[str] = []
    house.call(
        lambda: asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    )
    return said


@needs_source
def test_a_bug_in_serving_one_client_costs_only_its_connection(moxy: House, form: Form) -> None:
    if form == "asyncio":
        pytest.skip("there the loop sees to it")
    with moxy.client() as other, moxy.client() as unlucky:
        assert (other("PING"), unlucky("PING")) == (Status("PONG"), Status("PONG"))
        said = complaints(moxy)
        submit_all = moxy.server.service.submit_all

        def break_down(requests: Sequence[Request]) -> None:
            if any(isinstance(request.intent, Peek) for request in requests):
                raise AssertionError("a bug")
            submit_all(requests)

        moxy.call(lambda: setattr(moxy.server.service, "submit_all", break_down))
        unlucky.send("MOXY.PEEK", "jobs")
        assert unlucky.is_closed_by_server()
        until_connected(other, 1)
        assert len(said) == 1


@needs_source
def test_a_bug_at_the_end_of_one_client_costs_only_its_connection(moxy: House, form: Form) -> None:
    if form == "asyncio":
        pytest.skip("there the loop sees to it")
    with moxy.client() as other, moxy.client() as unlucky:
        assert (other("PING"), unlucky("PING")) == (Status("PONG"), Status("PONG"))
        said = complaints(moxy)
        touch = moxy.server.touch

        def break_down(link: Any) -> None:
            if link._connection.closing:
                raise AssertionError("a bug")
            touch(link)

        moxy.call(lambda: setattr(moxy.server, "touch", break_down))
        unlucky.half_close()
        assert unlucky.is_closed_by_server()
        until_connected(other, 1)
        assert len(said) == 1


def test_what_many_clients_sent_at_once_is_all_answered(moxy: House) -> None:
    """More of it than is read before the first is looked at."""
    with ExitStack() as stack:
        clients = [stack.enter_context(moxy.client()) for _ in range(40)]
        for client in clients:
            assert client("PING") == Status("PONG")
        go_on = moxy.keep_busy()
        for number, client in enumerate(clients):
            client.send("ECHO", f"{number} " + "x" * 30_000)
        go_on.set()
        for number, client in enumerate(clients):
            assert client.read().startswith(b"%d x" % number)


class Knocked:
    """A listening socket whose next client cannot be accepted."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._fails = True

    def accept(self) -> object:
        if self._fails:
            self._fails = False
            raise OSError(errno.EPROTO, "Protocol error")
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


@needs_source
def test_a_client_that_cannot_be_accepted_costs_nobody_what_was_read(moxy: House, form: Form) -> None:
    if form == "asyncio":
        pytest.skip("there the loop sees to it")
    with moxy.client() as client, socket.socket() as newcomer:
        assert client("PING") == Status("PONG")
        listeners = moxy.server._door._listeners  # type: ignore[union-attr]
        moxy.call(lambda: listeners.update({fd: Knocked(listener) for fd, listener in listeners.items()}))
        go_on = moxy.keep_busy()
        client.send("MOXY.ENQUEUE", "jobs", "x")
        newcomer.connect(moxy.address)
        go_on.set()
        assert client.read()[0] == b"task_id"
