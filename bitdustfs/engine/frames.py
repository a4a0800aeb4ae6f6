"""Frames over a link, at a least speed: what a peer sends and receives, whatever it means.

A body that comes, or a frame that is read, slower than SLOWEST_BYTES_S on the whole is given up. A body is received
into its place, so it is copied no more often than the link needs to.
"""

from __future__ import annotations

from typing import Final

import trio

from bitdustfs.core import wire
from bitdustfs.errors import PeerGone
from bitdustfs.model import short
from bitdustfs.ports import Link

RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 256 * 1024  # a body is sent in slices: each is encrypted in one go, on the loop
SLOWEST_BYTES_S: Final = 16 * 1024  # the least average speed of a frame, at every moment after a time of grace
BODY_S: Final = 30  # the grace for a body that comes
SEND_S: Final = (
    60  # and for a frame that we send: the kernel says that it has room only when much of its queue is gone
)
QUEUE_BYTES: Final = 4 * 1024 * 1024  # what the kernel may hold of what we sent


class Frames:
    """The frames of one connection. One task may send and one receive at a time."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._parser = wire.Parser(self.label)
        self.last_activity = trio.current_time()  # when bytes last moved, in either direction
        self.last_heard = self.last_activity  # when bytes last came
        self.last_progress = self.last_activity  # when bytes last came, or a slice of a body left
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

    def open_up(self) -> None:
        """Allow long headers and bodies: the peer is known now."""
        self._parser.open_up()

    async def send(self, head: bytes, body: tuple[bytes | memoryview, ...]) -> None:
        """Send one whole frame. If it raises, or is cancelled, the stream is of no use any more.

        Raises:
            PeerGone: the link ended, or it takes too long.
        """
        # Plus what is sent at the slowest speed: the deadline of a slice.
        grace_ends = trio.current_time() + SEND_S - self.sent_bytes / SLOWEST_BYTES_S
        if sum(map(len, body)) < SEND_BYTES:
            await self._send_slice(b"".join((head, *body)), grace_ends)
            return
        await self._send_slice(head, grace_ends)
        for part in body:
            view = memoryview(part)
            for at in range(0, len(view), SEND_BYTES):
                await self._send_slice(view[at : at + SEND_BYTES], grace_ends)

    async def receive(self) -> wire.Arriving | wire.Frame:
        """The next frame, or the header of one with a body: then `body` or `skip` must follow.

        Raises:
            PeerGone: the link ended. ProtocolViolation: what came makes no sense.
        """
        while (event := self._parser.next()) is None:
            await self._feed()
        return event

    async def body(self) -> bytes | memoryview:
        """Take in the body that was announced. Raises like `receive`, and PeerGone if it is too slow."""
        with trio.move_on_after(BODY_S) as scope:
            while (event := self._parser.next()) is None:
                scope.deadline += await self._feed() / SLOWEST_BYTES_S
            assert isinstance(event, wire.Frame)
            return event.body
        raise self._gone("a message did not come to its end")

    async def skip(self) -> None:
        """Let the body that was announced pass by. Raises like `body`."""
        self._parser.skip()
        await self.body()

    async def _send_slice(self, content: bytes | memoryview, grace_ends: float) -> None:
        with trio.move_on_at(grace_ends + (self.sent_bytes + len(content)) / SLOWEST_BYTES_S) as scope:
            await self.link.send_all(content)
            self.last_activity = trio.current_time()
            if len(content) >= SEND_BYTES:  # while bodies leave, answers may have to wait behind them
                self.last_progress = self.last_activity
            self.sent_bytes += len(content)
        if scope.cancelled_caught:
            raise self._gone("it does not take what we send")

    async def _feed(self) -> int:
        room = self._parser.room()
        if room is None:
            content = await self.link.receive_some(RECEIVE_BYTES)
            count = len(content)
            self._parser.feed(content)
        else:
            count = await self.link.receive_into(room)
            self._parser.filled(count)
        if not count:
            raise self._gone("it closed the connection")
        self.last_activity = self.last_heard = self.last_progress = trio.current_time()
        return count

    def _gone(self, what: str) -> PeerGone:
        return PeerGone(peer=self.label, what=what)
