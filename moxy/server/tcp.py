"""The loop and the one timer around a service, and a link per client between its bytes and its conversation.

Lives here: the driver that runs a turn when something arrived or time is up, and an orderly end. Must not: RESP,
queue rules, the order of replies, how bytes come in (`doors`, `epoll`).

All that arrives in one wake-up of the loop is one batch: links submit, the driver runs one turn of the service,
and each touched connection gets one write. Turns never overlap: while a commit is awaited the next batch gathers, and
its plain commands are carried out. A turn that waits for nothing is run where it is wanted, without a task or a
future; one that does goes on in a task.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, cast, final

from moxy.backends.base import Backend, Clock
from moxy.requests import Client, Turn
from moxy.server.alarm import Alarm
from moxy.server.carriers import Carried, Carrier, Driver, Receiver
from moxy.server.connection import HELD_BACK_BYTES_MAX, Connection
from moxy.server.doors import Form, keep_alive, listen, open_door
from moxy.server.greetings import Greetings
from moxy.server.lane import Lane
from moxy.server.protocols import Door, Journalist
from moxy.server.resuming import resumed
from moxy.server.session import Counts, Session
from moxy.service import Service

OUTPUT_BYTES_MAX: Final = 256 * 1024 * 1024
"""Replies that may wait for a client that does not read; beyond it the client is cut off."""

AHEAD_BYTES_MAX: Final = 1024 * 1024
"""Of commands that are looked at while a turn is on its way to the medium. The more the next turn holds, the longer is
the way that it will have, and the longer everybody waits; beyond it each client is held back as `HELD_BACK_BYTES_MAX`
says."""
_NO_BOUND: Final = 1 << 60
_GOODBYE_S: Final = 5.0


Observer = Callable[[Turn], None]


@final
class Server(Driver):
    """A service on a TCP port. `port` 0 picks a free one; `address` is where it really listens."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        say: Journalist,
        observers: Iterable[Observer] = (),
        password: str = "",
        clients_max: int = 20_000,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        form: Form = "auto",
        busy_poll_us: int = 0,
        turns_in_tasks: bool = False,
    ) -> None:
        """`turns_in_tasks`: the backend needs a task around it from the first step on, as one does whose commands go
        over a network with time-outs."""
        self.service: Final = Service(backend, clock)
        self.address = ("", 0)
        self.say: Final = say
        self.output_bytes_max: Final = output_bytes_max
        self._backend: Final = backend
        self._clock: Final = clock
        self._observers: Final = tuple(observers)
        self._password: Final = password
        self._clients_max: Final = clients_max
        self._greetings: Final = Greetings(backend, clock)
        self._counts: Final[Counts] = self._greetings.counts
        plain = backend.plain()
        self._lane: Final = None if plain is None else Lane(plain, self.service, clock)
        self._form: Final = form
        self._busy_poll_us: Final = busy_poll_us
        self._turns_in_tasks: Final = turns_in_tasks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._door: Door | None = None
        self._over: asyncio.Future[None] | None = None
        self._wanted = False
        self._coming = False
        self.may_reply = True
        """Whether no turn is under way: else some of the outcomes may not be committed."""
        self.goes_on = True
        """Whether there will be another turn: not after the last, nor after a failure."""
        self._room_bytes = _NO_BOUND
        """How much of what arrives may be looked at: nothing while a turn decides, little while it is committed."""
        self._unseen: list[Link] = []
        self._going_on: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._links: dict[Client | None, Link] = {}
        self._touched: list[Link] = []
        self._in_turn: list[Link] = []
        """Of those that were touched, the ones whose turn it is."""
        self._next_id = 0
        self._stopping = False

    # From outside

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        listeners = await listen(host, port)
        self.address = listeners[0].getsockname()[:2]
        self._greetings.port = self.address[1]
        self._door = open_door(self._form, self, lambda: Link(self), self._busy_poll_us)
        await self._door.open(listeners)

    async def run(self) -> None:
        """Run turns until `stop`, then answer what arrived, say goodbye and let go of the backend.

        Raises what the backend raises when it can promise nothing any more: then nobody is answered, and the caller
        must end the process.
        """
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._clock, self._want_turn)
        self._over = self._loop.create_future()
        beside = asyncio.create_task(self._backend.run(self._want_turn))
        beside.add_done_callback(self._ended_beside)
        self._want_turn()
        try:
            try:
                await self._over
            finally:
                await self._rest({beside})
            await self._goodbye()
        finally:
            if self._door is not None:
                for link in list(self._links.values()):
                    link.abort()
                await asyncio.sleep(0)  # they hear of it
                self._door.close()

    def stop(self) -> None:
        """Accept nothing new; `run` returns after one more turn."""
        self._stopping = True
        if self._door is not None:
            self._door.stop_accepting()
        self._want_turn()

    # From the links

    def welcome(self, peer: str) -> Connection | None:
        """A connection for a new client; None when there are too many."""
        if len(self._links) >= self._clients_max or self._stopping:
            self._counts.refused += 1
            self.say("client.refused", peer=peer, why="max clients reached", clients=len(self._links))
            return None
        self._next_id += 1
        return Connection(Session(self._next_id, peer, self._password), self._greetings, self._lane)

    def joined(self, connection: Connection, link: "Link") -> None:
        """A welcomed client's transport is ready."""
        self._links[connection] = link
        self._counts.clients = len(self._links)

    def left(self, connection: Connection) -> None:
        """A client's transport is gone, with whatever was not written."""
        connection.closed = True
        self._links.pop(connection, None)
        self._counts.clients = len(self._links)
        self.service.undelivered(connection.lost_leases())  # before the bound ones: these are not charged
        self.service.disconnected(connection)
        if self.service.has_work:
            self._want_turn()

    def must_wait(self, link: "Link", size_bytes: int) -> bool:
        """Whether what arrived from this link is not to be looked at now, but when the turn that is under way is over:
        then it will be told."""
        self._room_bytes -= size_bytes
        if self._room_bytes >= 0 or (self._lane is None and self.goes_on):
            return False
        self._unseen.append(link)
        return True

    def reply_later(self, link: "Link") -> None:
        """This link can be written to again: it has its replies when the turn that is under way is over."""
        self._in_turn.append(link)

    def touch(self, link: "Link") -> None:
        """This link has something to submit or to write: look after it in the coming turn."""
        if not link.is_touched:
            link.is_touched = True
            self._touched.append(link)
        self._wanted = True
        if not self._coming:
            self._want_turn()

    # The turn

    def hold_turn(self) -> None:
        """Whoever calls this reads what is ready, and then calls `run_turn`: nobody else need see to it."""
        self._coming = True

    def run_turn(self) -> bool:
        """Run a turn if one is wanted and none is under way. False: it is not over yet, but goes on in a task."""
        self._coming = False
        if self._going_on is not None:
            return False
        if not self._wanted or self._over is None or self._over.done():
            return True
        is_last = self._stopping
        if is_last and self._door is not None:
            self._door.gather()
        self._wanted = self.may_reply = False
        self._room_bytes = 0
        self._in_turn, self._touched = self._touched, []
        for link in self._in_turn:
            link.is_touched = False
        if self._lane is not None:
            self._lane.turn_begins()
        try:
            brief = self.service.turn_at_once()
            if brief is not None:
                self._conclude(brief, is_last)
                return True
            turn = self.service.turn()
            if self._turns_in_tasks:
                self._go_on(turn, is_last)
                return False
            waits_for = turn.send(None)
        except StopIteration as end:
            self._conclude(end.value, is_last)
            return True
        except Exception as failure:
            self._fail(failure)
            return True
        self._go_on(resumed(turn, waits_for), is_last)
        return False

    def _want_turn(self) -> None:
        """A turn is due: after everything else that this iteration of the loop has to do."""
        self._wanted = True
        if not self._coming and self._loop is not None:
            self._coming = True
            self._loop.call_soon(self.run_turn)

    def _go_on(self, turn: Coroutine[Any, Any, Turn], is_last: bool) -> None:
        async def go_on() -> None:
            try:
                ended = await turn
            except Exception as failure:
                self._fail(failure)
                return
            self._going_on = None
            self._conclude(ended, is_last)
            self.run_turn()  # over what arrived meanwhile

        assert self._loop is not None
        self._going_on = self._loop.create_task(go_on())
        if self.service.is_committing and not is_last:
            self._room_bytes = AHEAD_BYTES_MAX

    def _conclude(self, turn: Turn, is_last: bool) -> None:
        """The turn is committed: reply, tell the observers, and see when the next one is due."""
        self.may_reply = True
        self.goes_on = self.goes_on and not is_last
        self._room_bytes = _NO_BOUND if self.goes_on else 0
        try:
            if self._lane is not None:
                self._counts.commands += self._lane.turn_over(turn.refused)
            self._counts.commands += len(turn.answered)
            self._counts.blocked = self.service.blocked
            self._reply(turn)
            for observe in self._observers:
                observe(turn)
            unseen, self._unseen = self._unseen, []
            for link in unseen:
                if self.goes_on:  # else it would be carried out, and nobody told
                    link.look()
            if self.service.has_work:
                self._want_turn()  # not at once: the sockets come first
            if self._alarm is not None:
                self._alarm.set(self.service.next_wake_ms())
        except Exception as failure:
            self._fail(failure)
        if is_last and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fail(self, failure: BaseException) -> None:
        """Nothing can be promised any more: no further turn, and `run` raises it."""
        self.goes_on = False
        self._room_bytes = 0
        if self._over is not None and not self._over.done():
            self._over.set_exception(failure)

    def _ended_beside(self, beside: asyncio.Task[None]) -> None:
        failure = None if beside.cancelled() else beside.exception()
        if failure is not None:
            self._fail(failure)

    def _reply(self, turn: Turn) -> None:
        """One write to each connection that has something to say."""
        links, self._in_turn = self._in_turn, []
        last = None
        for request in turn.answered:
            client = request.client
            if client is last:
                continue
            last = client
            link = self._links.get(client)
            if link is not None:
                links.append(link)
        if last is not None:
            links = list(dict.fromkeys(links))
        for link in links:
            link.flush()

    async def _rest(self, tasks: set[asyncio.Task[None]]) -> None:
        """No more turns, and nothing beside them."""
        if self._going_on is not None:
            tasks.add(self._going_on)
        for task in tasks:
            task.cancel()
        if self._alarm is not None:
            self._alarm.set(None)
        await asyncio.wait(tasks)

    async def _goodbye(self) -> None:
        """Close every connection after what it was told has gone out, then the backend."""
        for link in list(self._links.values()):
            link.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + _GOODBYE_S
        while self._links and loop.time() < end:
            await asyncio.sleep(0.01)
        for link in list(self._links.values()):
            link.abort()
        await asyncio.sleep(0)
        await self.service.turn()  # the bound leases of those who were still here
        await self._backend.close()


@final
class Link(Receiver):
    """A connection and what carries its bytes. Whatever the kernel does not take at once stops the reading
    (back-pressure)."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        self.is_touched = False
        """Whether the server has it among those to look after."""
        self._carrier: Carrier | None = None
        self._connection: Connection | None = None
        self._unwritten = False
        self._reading = True
        self._unseen: list[bytes] = []
        self._unseen_bytes = 0
        self._ended_unseen = False

    def connection_made(self, base: Carrier | asyncio.BaseTransport) -> None:
        # uvloop's is a transport in all but name
        carrier = base if isinstance(base, Carrier) else Carried(cast(asyncio.Transport, base))
        peername = cast(Sequence[object], carrier.get_extra_info("peername"))
        peer = f"{peername[0]}:{peername[1]}" if peername else "unknown"
        self._carrier = carrier
        self._connection = self._server.welcome(peer)
        if self._connection is None:
            carrier.write(b"-ERR max number of clients reached\r\n")
            carrier.close()
            return
        # With a mark of 0 it tells exactly when all is with the kernel, and when it is not.
        carrier.set_write_buffer_limits(0)
        keep_alive(cast(Any, carrier.get_extra_info("socket")))
        self._server.joined(self._connection, self)

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._unseen or self._server.must_wait(self, len(data)):
            self._unseen.append(data)
            self._unseen_bytes += len(data)
            if self._unseen_bytes > HELD_BACK_BYTES_MAX:
                self._pause()
            return
        self._receive(connection, data)

    def eof_received(self) -> bool:
        if self._connection is None:
            return False
        if self._unseen:
            self._ended_unseen = True
            return True
        self._connection.end_of_input()
        self._server.touch(self)
        return True

    def look(self) -> None:
        """Take what arrived while a turn was under way, and had to wait for its end."""
        connection = self._connection
        if connection is None or not self._unseen:
            return
        data = b"".join(self._unseen)
        self._unseen.clear()
        self._unseen_bytes = 0
        self._receive(connection, data)
        if self._ended_unseen:
            self.eof_received()

    def _receive(self, connection: Connection, data: bytes) -> None:
        requests = connection.receive(data)
        if requests:
            self._server.service.submit_all(requests)
        self._server.touch(self)
        if connection.is_full:
            self._pause()

    def pause_writing(self) -> None:
        self._unwritten = True
        self._pause()

    def resume_writing(self) -> None:
        self._unwritten = False
        if self._connection is None:
            return
        self._connection.sent()
        if self._server.may_reply:
            self.flush()
        else:  # some of its outcomes may not be committed yet
            self._server.reply_later(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.closed = True
            if self._server.goes_on:
                self.look()
            self._server.left(self._connection)

    def flush(self) -> None:
        """Write what can be said, go on with what was held back, and end the conversation if it is over.

        A piece at a time, and none while the kernel holds some of the last: `resume_writing` goes on from there.
        """
        connection, carrier = self._connection, self._carrier
        if connection is None or carrier is None or connection.closed:
            return
        going = True
        while going and not self._unwritten and not carrier.is_closing():
            output = connection.take_output()
            if output and not self._write(connection, carrier, output):
                return
            if connection.is_at_rest and self._reading:
                return  # nearly always
            if self._server.goes_on:
                requests = connection.proceed()
                self._server.service.submit_all(requests)
                if requests or connection.awaits_turn:
                    self._server.touch(self)
            going = connection.has_output
        self._end_or_read_on(connection, carrier)

    def _write(self, connection: Connection, carrier: Carrier, output: bytes) -> bool:
        """Whether the peer is still there to write to."""
        carrier.write(output)
        if self._unwritten and carrier.get_write_buffer_size() > self._server.output_bytes_max:
            self._server.say("client.cut_off", peer=connection.session.peer, why="does not read its replies")
            carrier.abort()
            return False
        if carrier.is_closing():  # a write to a peer that is gone closes it
            return False
        if not self._unwritten:
            connection.sent()
        return True

    def _end_or_read_on(self, connection: Connection, carrier: Carrier) -> None:
        if connection.finished:
            if connection.is_http:
                self._server.say("client.refused", peer=connection.session.peer, why="speaks HTTP, not RESP")
            carrier.close()
        elif connection.closing and connection.is_blocked:
            if self._server.service.is_waiting(connection):
                carrier.close()  # nobody waits for a task who will not speak again
            else:
                self._server.touch(self)  # its fetch has not had its turn yet
        elif not self._reading and not self._unwritten and not connection.is_full and not connection.closing:
            self._reading = True
            carrier.resume_reading()

    def close(self) -> None:
        """Say goodbye once everything that can be said is written."""
        connection, carrier = self._connection, self._carrier
        if connection is None or carrier is None:
            return
        connection.end_of_input()
        self.flush()
        if not self._unwritten and not connection.has_output:
            carrier.close()

    def abort(self) -> None:
        """Do not wait any longer."""
        if self._carrier is not None:
            self._carrier.abort()

    def _pause(self) -> None:
        if self._reading and self._carrier is not None and not self._carrier.is_closing():
            self._reading = False
            self._carrier.pause_reading()
