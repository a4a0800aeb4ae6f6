"""Bulk links on real sockets: who is let in, what is noticed, and that TLS goes on on the same port."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from bitdustfs.core import bulk
from bitdustfs.core.bulk import MAGIC, Sealer
from bitdustfs.edges import tcp
from bitdustfs.edges.bulk_link import BulkLink
from bitdustfs.errors import PeerError, PeerGone, ProtocolViolation
from bitdustfs.model import BulkPass
from bitdustfs.ports import Link
from bitdustfs.testing.swarm import make_identity

SUPPLIER = make_identity("supplier")
CUSTOMER = make_identity("customer")
THEIRS = BulkPass(b"t" * 16, key_out=b"s" * 32, key_in=b"c" * 32)  # as the supplier sees it
OURS = BulkPass(b"t" * 16, key_out=b"c" * 32, key_in=b"s" * 32)
PATIENCE_S = 60  # only so that a test that hangs ends


class Waiting:
    """The supplier's side of one ticket: a link, or why there is none."""

    def __init__(self, listener: tcp.TcpListener) -> None:
        self._listener = listener
        self.link: BulkLink | None = None
        self.error: PeerError | None = None
        self.done = trio.Event()

    async def run(self) -> None:
        try:
            self.link = await self._listener.accept_bulk(CUSTOMER.node, THEIRS)
        except PeerError as error:
            self.error = error
        self.done.set()

    async def accepted(self) -> BulkLink:
        await self.done.wait()
        assert self.link is not None
        return self.link


@asynccontextmanager
async def supplier(*, handshake_s: float = PATIENCE_S) -> AsyncIterator[tuple[tcp.TcpListener, Waiting]]:
    """A listener, and who waits for the ticket."""
    with trio.fail_after(PATIENCE_S):
        async with tcp.listening("127.0.0.1:0", SUPPLIER.key, handshake_s=handshake_s) as listener:
            async with trio.open_nursery() as nursery:
                waiting = Waiting(listener)
                nursery.start_soon(waiting.run)
                await trio.testing.wait_all_tasks_blocked()
                yield listener, waiting
                if waiting.link is not None:
                    waiting.link.abort()
                nursery.cancel_scope.cancel()


async def dial(listener: tcp.TcpListener, given: BulkPass = OURS) -> BulkLink:
    return await tcp.TcpDialer(CUSTOMER.key).dial_bulk(listener.address, SUPPLIER.node, given)


async def dial_raw(listener: tcp.TcpListener) -> trio.SocketStream:
    return await trio.open_tcp_stream(*tcp.split_address(listener.address))


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[BulkLink, BulkLink]]:
    """Both ends of a bulk link: the customer's and the supplier's."""
    async with supplier() as (listener, waiting):
        link = await dial(listener)
        accepted = await waiting.accepted()
        yield link, accepted
        await link.aclose()
        await accepted.aclose()


@asynccontextmanager
async def bent() -> AsyncIterator[tuple[trio.SocketStream, Sealer, BulkLink]]:
    """A customer who has the keys, and sends what he likes."""
    async with supplier() as (listener, waiting):
        stream, sealer = await dial_raw(listener), Sealer(OURS.key_out, "a test")
        await stream.send_all(bulk.opening(OURS) + sealer.seal())
        accepted = await waiting.accepted()
        await stream.receive_some()  # OPEN
        yield stream, sealer, accepted
        await trio.aclose_forcefully(stream)
        await accepted.aclose()


async def assert_tls_serves(listener: tcp.TcpListener) -> None:
    """A friend gets through after whatever happened."""
    link = await tcp.TcpDialer(CUSTOMER.key).dial(listener.address, SUPPLIER.node)
    accepted = await listener.accept()
    await accepted.send_all(b"hello")
    assert await link.receive_some(100) == b"hello"
    await link.aclose()
    await accepted.aclose()


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == tcp.log.name and r.levelno == logging.WARNING]


async def exchange(one: Link, other: Link, content: bytes, *, into_place: bool) -> bytes:
    """Send content one way and return what came out."""
    received = memoryview(bytearray(len(content)))

    async def receive() -> None:
        at = 0
        while at < len(content):
            if into_place:
                at += await other.receive_into(received[at:])
            else:
                some = await other.receive_some(100_000)
                received[at : at + len(some)] = some
                at += len(some)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await one.send_all(content)
    return bytes(received)


@pytest.mark.parametrize("into_place", [True, False])
async def test_bulk_links_carry_bytes_both_ways(into_place: bool) -> None:
    content = os.urandom(3_000_001)
    async with linked() as (link, accepted):
        assert (link.peer, accepted.peer) == (SUPPLIER.node, CUSTOMER.node)
        assert await exchange(link, accepted, content, into_place=into_place) == content
        assert await exchange(accepted, link, content, into_place=into_place) == content
        assert await exchange(link, accepted, b"a few bytes", into_place=into_place) == b"a few bytes"


async def test_what_is_longer_than_its_place_waits_for_the_next() -> None:
    async with linked() as (link, accepted):
        await link.send_all(b"hello world")
        place = memoryview(bytearray(5))
        assert await accepted.receive_into(place) == 5
        assert bytes(place) == b"hello"
        assert await accepted.receive_some(100) == b" world"


async def test_frames_that_have_come_are_taken_in_one_go() -> None:
    async with linked() as (link, accepted):
        for number in range(5):
            await link.send_all(bytes([number]) * 1000)
        place = memoryview(bytearray(4500))
        assert await accepted.receive_into(place) == 4000  # the fifth does not fit
        assert await accepted.receive_into(place[4000:]) == 500
        assert bytes(place) == b"".join(bytes([n]) * 1000 for n in range(5))[:4500]
        assert await accepted.receive_some(1000) == b"\4" * 500


async def test_line_that_was_fast_and_is_slow_now_keeps_nobody_waiting() -> None:
    async with linked() as (link, accepted):
        await exchange(link, accepted, os.urandom(4_000_000), into_place=True)
        place = memoryview(bytearray(2_000_000))  # of which only a little comes

        async def receive() -> None:
            assert await accepted.receive_into(place) == 1000

        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await link.send_all(b"x" * 1000)


async def test_closed_link_ends_in_order_and_a_cut_one_does_not() -> None:
    async with linked() as (link, accepted):
        await link.send_all(b"bye")
        await link.aclose()
        assert await accepted.receive_some(10) == b"bye"
        assert await accepted.receive_some(10) == b""
        assert await accepted.receive_into(memoryview(bytearray(1))) == 0
        accepted.abort()
        with pytest.raises(PeerGone):
            await link.receive_some(10)
    async with bent() as (stream, sealer, accepted):
        await stream.send_all(sealer.seal(b"whole") + sealer.seal(b"half a frame")[:-3])
        await stream.aclose()
        assert await accepted.receive_some(10) == b"whole"
        with pytest.raises(PeerGone, match="cut off"):
            await accepted.receive_some(10)


@pytest.mark.parametrize("spoil", ["flipped", "repeated", "left out", "too long", "empty", "other key"])
async def test_frame_that_is_not_the_next_one_is_a_violation(spoil: str) -> None:
    async with bent() as (stream, sealer, accepted):
        first, second = sealer.seal(b"first"), sealer.seal(b"second")
        sent = {
            "flipped": first[:-1] + bytes([first[-1] ^ 1]),
            "repeated": first + first,
            "left out": second,
            "too long": struct.pack(">BBI", bulk.Kind.CONTENT, 0, bulk.MAX_FRAME_BYTES + 1),
            "empty": struct.pack(">BBI", bulk.Kind.CONTENT, 0, 0),
            "other key": Sealer(OURS.key_in, "a test").seal(b"")[:6] + first[6:],
        }
        await stream.send_all(sent[spoil])
        with pytest.raises(ProtocolViolation):
            while await accepted.receive_some(100) == b"first":
                pass


# -- who is let in -----------------------------------------------------------------------------------------


async def test_one_port_serves_both(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, waiting):
        await assert_tls_serves(listener)
        link = await dial(listener)
        await assert_tls_serves(listener)
        assert await exchange(link, await waiting.accepted(), b"hello", into_place=True) == b"hello"
        await link.aclose()
    assert refusals(caplog) == []


async def test_ticket_is_taken_once(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, waiting):
        link = await dial(listener)
        await waiting.accepted()
        with pytest.raises(PeerGone):
            await dial(listener)
        await link.send_all(b"the first one lives")
        assert await (await waiting.accepted()).receive_some(100) == b"the first one lives"
        await link.aclose()
        await assert_tls_serves(listener)
    assert len(refusals(caplog)) == 1


async def test_wrong_ticket_is_refused_and_the_right_one_still_good(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, waiting):
        with pytest.raises(PeerGone):
            await dial(listener, BulkPass(b"x" * 16, key_out=OURS.key_out, key_in=OURS.key_in))
        await (await dial(listener)).aclose()
        await waiting.accepted()
    assert len(refusals(caplog)) == 1


async def test_ticket_that_nobody_waits_for_any_more_is_refused() -> None:
    async with supplier() as (listener, _waiting):
        with trio.move_on_after(0.01):
            await listener.accept_bulk(CUSTOMER.node, BulkPass(b"e" * 16, THEIRS.key_out, THEIRS.key_in))
        with pytest.raises(PeerGone):
            await dial(listener, BulkPass(b"e" * 16, OURS.key_out, OURS.key_in))
        await assert_tls_serves(listener)


async def test_ticket_without_the_keys_is_used_up(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, waiting):
        with pytest.raises(PeerError):
            await dial(listener, BulkPass(OURS.ticket, key_out=b"w" * 32, key_in=OURS.key_in))
        await waiting.done.wait()
        assert isinstance(waiting.error, PeerGone)
        with pytest.raises(PeerGone):
            await dial(listener)
        await assert_tls_serves(listener)
    assert len(refusals(caplog)) == 2


async def test_dialer_refuses_who_does_not_have_the_keys() -> None:
    async with supplier() as (listener, _waiting):
        with pytest.raises(PeerError):
            await dial(listener, BulkPass(OURS.ticket, key_out=OURS.key_out, key_in=b"w" * 32))


@pytest.mark.parametrize(
    "said",
    [b"", MAGIC[:1], MAGIC + b"t" * 15, MAGIC + b"t" * 16, MAGIC + b"t" * 16 + b"\1\0"],
    ids=["nothing", "one byte", "most of a ticket", "no frame", "half a frame"],
)
async def test_who_does_not_prove_himself_in_time_is_dropped(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with supplier(handshake_s=0.2) as (listener, _waiting):
        stream = await dial_raw(listener)
        if said:
            await stream.send_all(said)
        try:
            assert not await stream.receive_some()
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
        while not refusals(caplog):
            await trio.sleep(0.01)
    assert "in time" in refusals(caplog)[0]


@pytest.mark.parametrize(
    "said",
    [
        b"b" * 70_000,
        MAGIC + b"t" * 16 + struct.pack(">BBI", bulk.Kind.OPEN, 0, 2**32 - 1) + bytes(70_000),
        MAGIC + b"t" * 16 + struct.pack(">BBI", bulk.Kind.CONTENT, 0, 100_000) + bytes(70_000),
        MAGIC + b"t" * 16 + bytes(22),
    ],
    ids=["garbage", "bomb", "content first", "no OPEN"],
)
async def test_nothing_but_a_ticket_and_its_proof_is_read(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, _waiting):
        stream = await dial_raw(listener)
        try:
            await stream.send_all(said)
            assert not await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # it hung up on us first
        await stream.aclose()
        await assert_tls_serves(listener)
    assert len(refusals(caplog)) == 1
    assert refusals(caplog)[0].isprintable()


@pytest.mark.slow
async def test_idle_connections_do_not_keep_a_ticket_out(caplog: pytest.LogCaptureFixture) -> None:
    async with supplier() as (listener, waiting):
        idle = [await dial_raw(listener) for _ in range(tcp.MAX_UNPROVEN + 20)]
        for stream in idle:
            try:
                await stream.send_all(MAGIC)
            except trio.BrokenResourceError:
                pass  # dropped already
        link = await dial(listener)
        await waiting.accepted()
        await link.aclose()
        for stream in idle:
            await trio.aclose_forcefully(stream)
    assert len(refusals(caplog)) >= 20


async def test_peer_that_does_not_read_holds_up_only_his_own_sender() -> None:
    async with linked() as (link, accepted):
        with trio.move_on_after(0.2) as stuck:
            await link.send_all(bytes(64_000_000))
        assert stuck.cancelled_caught
        with trio.fail_after(PATIENCE_S / 2):
            await link.aclose()  # half a frame is sent, so no last one follows
        received = 0
        with pytest.raises(PeerGone):
            while some := await accepted.receive_some(1 << 20):
                received += len(some)
        assert received < 64_000_000


async def test_dialer_says_that_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with trio.fail_after(PATIENCE_S), pytest.raises(PeerGone):
            await tcp.TcpDialer(CUSTOMER.key).dial_bulk(address, SUPPLIER.node, OURS)


async def test_flood_of_short_frames_lets_others_run() -> None:
    async with bent() as (stream, sealer, accepted):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        await stream.send_all(b"".join(sealer.seal(b"x") for _ in range(1000)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(1000):
                assert await accepted.receive_some(1) == b"x"
            nursery.cancel_scope.cancel()
        assert turns > 50
