"""Frames over a link, at a least speed: what a peer sends and receives, whatever it means.

A body that comes, or a frame that is read, slower than SLOWEST_BYTES_S on the whole is given up, and so is a body of
which nothing has come for STALL_S: what was reserved for it is free then. A body is received into its place, so it is
copied no more often than the link needs to.

This is where bytes leave and come, so it is here that limits hold (engine/pacer). What our own limit makes a message
wait is no fault of the peer's: it counts in no deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from typing import Final

import trio

from bitdustfs.core.framing import Arriving, Frame, Parser
from bitdustfs.engine.pacer import Pacer
from bitdustfs.errors import PeerGone
from bitdustfs.model import short
from bitdustfs.ports import Link

SEND_BYTES: Final = 256 * 1024  # a body is sent in slices: each is encrypted in one go, on the loop
SLOWEST_BYTES_S: Final = 16 * 1024  # the least average speed of a frame, at every moment after a time of grace
BODY_S: Final = 30  # the grace for a body that comes
STALL_S: Final = 60  # and for each part of it, however fast it came before
SEND_S: Final = (
    60  # and for a frame that we send: the kernel says that it has room only when much of its queue is gone
)
QUEUE_BYTES: Final = 4 * 1024 * 1024  # what the kernel may hold of what we sent


class Frames:
    """The frames of one connection. One task may send and one receive at a time."""

    def __init__(self, link: Link, pacer: Pacer) -> None:
        self.link = link
        self._pacer = pacer
        self._owed_bytes = 0  # came, and are not paid for yet
        self._grace_ends = inf  # of the frame that is being sent: the deadline of a slice, but for what was sent
        self.is_held_back = False  # our own limit keeps it from receiving
        self._parser = Parser(self.label)
        self.last_activity = trio.current_time()  # when bytes last moved, in either direction
        self.last_heard = self.last_activity  # when bytes last came
        self.last_progress = self.last_activity  # when bytes last came, or a slice of a body left
        self._pushed_at = -inf  # when a part of a body last left
        self._waiting_bodies = 0  # for our own limit
        self.sent_bytes = 0
        self.arrived_bytes = 0  # of what we sent, at least

    @property
    def label(self) -> str:
        """How logs and errors name the other side."""
        return f"{short(self.link.peer)} at {self.link.address}"

    @property
    def backlog_s(self) -> float:
        """How long what we sent may still be under way on the slowest line that we put up with."""
        return min(self.sent_bytes - self.arrived_bytes, QUEUE_BYTES) / SLOWEST_BYTES_S

    @property
    def pushed_at(self) -> float:
        """When a part of a body last left, or waited for our own limit; -inf: never."""
        return trio.current_time() if self._waiting_bodies else self._pushed_at

    def open_up(self, is_stranger: Callable[[], bool] = lambda: False) -> None:
        """Allow longer headers, and bodies: HELLO has come. See `Parser.open_up`."""
        self._parser.open_up(is_stranger)

    @asynccontextmanager
    async def turn(self, body: tuple[bytes | memoryview, ...]) -> AsyncIterator[None]:
        """Wait until a frame with such a body may be sent; keep the context while it is."""
        gate = self._pacer.up
        if gate.is_open or sum(map(len, body)) < SEND_BYTES:
            yield
            return
        with self._waits_to_push():
            await gate.enter()
        try:
            yield
        finally:
            gate.leave()

    async def send(self, head: bytes, body: tuple[bytes | memoryview, ...]) -> None:
        """Send one whole frame. If it raises, or is cancelled, the stream is of no use any more.

        Raises:
            PeerGone: the link ended, or it takes too long.
        """
        self._grace_ends = trio.current_time() + SEND_S - self.sent_bytes / SLOWEST_BYTES_S
        with trio.CancelScope() as scope:  # one for all slices: its deadline moves, which costs less than another
            if sum(map(len, body)) < SEND_BYTES:
                await self._send_part(scope, b"".join((head, *body)), is_body=any(map(len, body)))
            else:
                await self._send_part(scope, head, is_body=False)
                for part in body:
                    await self._send_part(scope, part, is_body=True)
        if scope.cancelled_caught:
            raise self._gone("it does not take what we send")

    async def receive(self) -> Arriving | Frame:
        """The next frame, or the header of one with a body: then `body` or `skip` must follow.

        Raises:
            PeerGone: the link ended. ProtocolViolation: what came makes no sense.
        """
        while (event := self._parser.next()) is None:
            await self._feed()
        return event

    async def body(self) -> bytes | memoryview:
        """Take in the body that was announced. Raises like `receive`, and PeerGone if it is too slow."""
        deadline = trio.current_time() + BODY_S
        while (event := self._parser.next()) is None:
            deadline += await self._pay()
            with trio.move_on_at(min(deadline, trio.current_time() + STALL_S)) as scope:
                deadline += await self._take() / SLOWEST_BYTES_S
            if scope.cancelled_caught:
                raise self._gone("a message did not come to its end")
        assert isinstance(event, Frame)
        return event.body

    async def skip(self) -> None:
        """Let the body that was announced pass by. Raises like `body`."""
        self._parser.skip()
        await self.body()

    @contextmanager
    def _waits_to_push(self) -> Iterator[None]:
        self._waiting_bodies += 1
        try:
            yield
        finally:
            self._waiting_bodies -= 1

    async def _send_part(self, scope: trio.CancelScope, content: bytes | memoryview, *, is_body: bool) -> None:
        gate, view, at = self._pacer.up, memoryview(content), 0
        while at < len(view):
            piece = view[at : at + gate.piece(SEND_BYTES)]
            if not gate.is_open:
                scope.deadline = inf
                with self._waits_to_push():
                    self._grace_ends += await gate.pay(len(piece))
            scope.deadline = self._grace_ends + (self.sent_bytes + len(piece)) / SLOWEST_BYTES_S
            await self.link.send_all(piece)
            self._note_sent(len(piece), is_body=is_body)
            at += len(piece)

    def _note_sent(self, count: int, *, is_body: bool) -> None:
        self.last_activity = trio.current_time()
        if is_body:
            self._pushed_at = self.last_activity
            if count >= SEND_BYTES or not self._pacer.up.is_open:
                self.last_progress = self.last_activity  # while bodies leave, answers may wait behind them
        self.sent_bytes += count

    async def _feed(self) -> None:
        await self._pay()
        await self._take()

    async def _pay(self) -> float:
        """Wait until what came last is within the limit. Returns how many seconds that took."""
        owed, self._owed_bytes = self._owed_bytes, 0
        if not owed:
            return 0.0
        self.is_held_back = True
        try:
            return await self._pacer.down.pay(owed)
        finally:
            self.is_held_back = False
            self.last_progress = trio.current_time()

    async def _take(self) -> int:
        gate, room = self._pacer.down, self._parser.room()
        if room is None:
            content = await self.link.receive_some(gate.piece(self._parser.most_at_once))
            count = len(content)
            self._parser.feed(content)
        else:
            count = await self.link.receive_into(room if gate.is_open else room[: gate.piece(len(room))])
            self._parser.filled(count)
        if not count:
            raise self._gone("it closed the connection")
        self.last_activity = self.last_heard = self.last_progress = trio.current_time()
        self._owed_bytes = 0 if gate.is_open else count
        return count

    def _gone(self, what: str) -> PeerGone:
        return PeerGone(peer=self.label, what=what)
