"""Bulk links: the frames of core/bulk over a TCP connection, beside a TLS session.

Frames are sealed into one buffer and unsealed out of another, both made when they are first needed and no longer
than a frame. A frame of 256 KiB takes some 50 µs on a processor with AES, so this is done on the loop: a hop into
a worker would take longer. The socket is read and written without trio's methods, which let the loop turn for each
call, and the kernel is asked to wake us for whole frames, and on a fast line for several at once.
"""

from __future__ import annotations

import os
import socket
from math import inf
from typing import Final

import trio

from bitdustfs.core import bulk as frames
from bitdustfs.core.bulk import FRAME_BYTES, OPENING_BYTES, OVERHEAD_BYTES, Sealer, Unsealer
from bitdustfs.edges.tls import own_address, why
from bitdustfs.errors import PeerError, PeerGone, ProtocolViolation
from bitdustfs.model import BulkPass, NodeId, short

CLOSE_S: Final = 1
TURN_BYTES: Final = 1024 * 1024  # (tune) of frames that leave in one go: some 800 µs with the kernel's work
TURN_IN_BYTES: Final = 2 * TURN_BYTES  # (tune) of frames that came, of which the kernel's work is done
TURN_FRAMES: Final = 16  # of the shortest frames that a peer may send, in one go
# (tune) waited for at once on a fast line: a whole fragment, for each turn of the loop costs time. The kernel
# waits for half of what a connection may hold (tcp_rmem) if that is less.
WISH_BYTES: Final = 3 * 1024 * 1024
PATIENCE_S: Final = 0.25  # (tune) then take what is there: whoever watches the line must see it move


class _Turn:
    """Says when other tasks must run. Not at every frame: with trio's own calls each costs a turn of the loop."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._frame_bytes = most_bytes // TURN_FRAMES  # as much work is in any frame
        self._bytes = 0

    def is_over(self, count: int) -> bool:
        """Note that a frame of so many bytes moved; say whether that is enough for now."""
        self._bytes += self._frame_bytes + count
        if self._bytes < self._most_bytes:
            return False
        self._bytes = 0
        return True


class BulkLink:
    """A ports.Link over a TCP connection. Call `open` or `answer` first."""

    def __init__(self, stream: trio.SocketStream, peer: NodeId, address: str, bulk: BulkPass) -> None:
        self._stream = stream
        self._peer = peer
        self._address = f"{address} (bulk)"
        self._bulk = bulk
        self._label = f"{short(peer)} at {self._address}"
        self._sealer = Sealer(bulk.key_out, self._label)
        self._unsealer = Unsealer(bulk.key_in, self._label)
        self._sealed = memoryview(bytearray())
        self._rest = memoryview(b"")  # of a frame that was longer than what was asked for
        self._woken_at = 1
        self._wish = 0  # how many bytes to wait for, if so many are sure to come
        self._out, self._in = _Turn(TURN_BYTES), _Turn(TURN_IN_BYTES)
        self._may_send = True  # no frame is half sent, and the last one is not

    @property
    def peer(self) -> NodeId:
        return self._peer

    @property
    def address(self) -> str:
        return self._address

    @property
    def own_address(self) -> str:
        return own_address(self._stream)

    async def open(self) -> None:
        """Show the ticket, and prove that both sides have the keys. On any trouble the connection is closed.

        Raises:
            PeerGone: the ticket was not taken. ProtocolViolation: the other side does not have the keys.
        """
        try:
            await self._send(frames.opening(self._bulk) + self._sealer.seal())
            await self._expect_open()
        except BaseException:
            await trio.aclose_forcefully(self._stream)
            raise

    async def answer(self) -> None:
        """The same for the side that was dialled, after `read_ticket`; here the caller closes."""
        await self._expect_open()
        await self._send(self._sealer.seal())

    async def send_all(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        for at in range(0, len(view), FRAME_BYTES):
            await self._send_frame(view[at : at + FRAME_BYTES])

    async def receive_some(self, max_bytes: int) -> bytes:
        if not self._rest:
            if await self._next_frame(0) is None:
                return b""
            self._rest = memoryview(self._unsealer.unseal())
        some, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return bytes(some)

    async def receive_into(self, buffer: memoryview) -> int:
        """Take in all frames that have come, as far as there is place for them: a turn of the loop costs as much."""
        done = 0
        while done < len(buffer) and not self._rest and (not done or self._has_frame()):
            length = await self._next_frame(len(buffer) - done)
            if length is None:
                break
            if length > len(buffer) - done:
                self._rest = memoryview(self._unsealer.unseal())
            else:
                done += self._unsealer.unseal_into(buffer[done:])
        if not done and self._rest:
            some = await self.receive_some(len(buffer))
            done = len(some)
            buffer[:done] = some
        return done

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_S):
            try:
                if self._may_send:
                    await self._send_frame(b"", last=True)
            except PeerError:
                pass  # it is closed all the same
        self._may_send = False
        await trio.aclose_forcefully(self._stream)

    def abort(self) -> None:
        """Close it at once, without a last frame."""
        self._may_send = False
        self._stream.socket.close()

    async def _send_frame(self, content: bytes | memoryview, *, last: bool = False) -> None:
        if len(self._sealed) < OVERHEAD_BYTES + len(content):
            self._sealed = memoryview(bytearray(OVERHEAD_BYTES + len(content)))
        length = self._sealer.seal_into(self._sealed, content, last=last)
        self._may_send = False
        await self._send(self._sealed[:length])
        self._may_send = not last

    async def _send(self, sealed: bytes | memoryview) -> None:
        left = memoryview(sealed)
        try:
            while left:
                try:
                    left = left[os.write(self._stream.socket.fileno(), left) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._stream.socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise self._gone(why(error)) from error
        if self._out.is_over(len(sealed)):
            await trio.lowlevel.cancel_shielded_checkpoint()  # it is sent: too late to take it back

    async def _next_frame(self, content_bytes: int) -> int | None:
        """Wait until a frame is whole; returns the length of its content, or None after the last one.

        Args:
            content_bytes: so much is sure to come, of this frame and those behind it.
        """
        unsealer = self._unsealer
        if unsealer.has_ended:
            return None
        while not self._has_frame():
            await self._until_readable(unsealer.missing, unsealer.missing_for(content_bytes))
        length = unsealer.ready()
        assert length is not None
        if self._in.is_over(length):
            await trio.lowlevel.checkpoint()
        return length

    def _has_frame(self) -> bool:
        """Take in what has come of the next frame, and say whether it is whole; or that there is none any more."""
        unsealer = self._unsealer
        while not unsealer.has_ended and unsealer.ready() is None:
            try:
                count = os.readv(self._stream.socket.fileno(), (unsealer.room(),))
            except BlockingIOError:
                return False
            except (OSError, trio.ClosedResourceError) as error:
                raise self._gone(why(error)) from error
            if not count:
                raise self._gone("the connection was cut off")
            unsealer.filled(count)
        return True

    async def _until_readable(self, least: int, sure: int) -> None:
        """Wait until some bytes have come, or the stream ended: more and more of them as long as the line is fast.

        Args:
            least: fewer are of no use.
            sure: so many will come.
        """
        count = max(least, min(self._wish, sure))
        try:
            if count != self._woken_at:
                self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
                self._woken_at = count
            with trio.move_on_after(PATIENCE_S if count > least else inf) as patience:  # a frame may take its time
                await trio.lowlevel.wait_readable(self._stream.socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise self._gone(why(error)) from error
        if patience.cancelled_caught:
            self._wish = 0
        elif count > 1:
            self._wish = max(self._wish, min(2 * count, WISH_BYTES))

    async def _expect_open(self) -> None:
        await self._next_frame(0)
        self._unsealer.unseal()

    def _gone(self, what: str) -> PeerGone:
        return PeerGone(peer=self._label, what=what)


async def read_ticket(stream: trio.SocketStream, address: str) -> bytes:
    """Read the opening of a bulk connection, and not a byte more. The caller sets the deadline.

    Raises:
        PeerGone: it ended. ProtocolViolation: it is no opening.
    """
    said = bytearray()
    while len(said) < OPENING_BYTES:
        try:
            some = await stream.receive_some(OPENING_BYTES - len(said))
        except trio.BrokenResourceError as error:
            raise PeerGone(peer=address, what=why(error)) from error
        if not some:
            raise PeerGone(peer=address, what="it closed the connection")
        said += some
    ticket = frames.ticket_of(bytes(said))
    if ticket is None:
        raise ProtocolViolation(peer=address, what="it speaks neither TLS nor our bulk frames")
    return ticket
