"""Bulk connections: fragments take them while they are there, and nothing is lost or hangs when they are not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.bulk import IDLE_S, OWNERS_SEATS, TICKET_S, Seats
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import PeerError, PeerGone, PeerRefused, ProtocolViolation
from bitdustfs.model import LEAF_BYTES, BulkPass, FragmentName, OwnerId, SupplierNo
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import Break, Line, MemoryLink, MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import make_identity

BOB = make_identity("bob")
ALICE = make_identity("alice")
MALLORY = make_identity("mallory")
S1 = SupplierNo(1)
CONTENT = (bytes(range(253)) * 4000)[:1_000_000]
ROOT = fragment.root(CONTENT)
LEAVES = fragment.leaf_count(len(CONTENT))
SHORT = b"short"
KEY = b"k" * 32
SLOW = Line(latency_s=0.01, bytes_per_s=100_000)  # CONTENT takes 10 s


def name(number: int) -> FragmentName:
    return FragmentName(number.to_bytes(32, "big"))


class Bob:
    """A supplier, and who talks to him."""

    def __init__(self, nursery: trio.Nursery, line: Line | None, *, offers_bulk: bool, memory: Memory | None) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork(line)
        self.memory = memory or Memory()
        self.shelf = MemoryShelf()
        allowed = {ALICE.owner: 1 << 30, MALLORY.owner: 1 << 30}
        crunch, wall = InlineCrunch(), FakeWall()
        keeper = Keeper(BOB, self.shelf, MemoryContracts(), allowed=allowed, crunch=crunch, wall=wall)
        reception = Reception(
            BOB,
            keeper,
            knows=keeper.has_contract,
            memory=self.memory,
            entropy=SeededEntropy(1) if offers_bulk else None,
        )
        nursery.start_soon(reception.run, self.network.listen(BOB.node, "bob:1"))

    async def customer(self, identity: Identity = ALICE) -> Suppliers:
        """Somebody who has hired Bob, and is connected."""
        dialer = self.network.dialer(identity.node)
        side = Suppliers(identity, dialer, (), entropy=SeededEntropy(2), wall=FakeWall())
        row = await side.hire("bob:1", BOB.node, 1 << 28)
        side.add(row.__class__(**{**{f: getattr(row, f) for f in row.__slots__}, "supplier": S1}))
        self.nursery.start_soon(side.run)
        await online(side)
        return side

    async def bulk_customer(self, identity: Identity = ALICE) -> Suppliers:
        """The same, with both bulk connections open."""
        side = await self.customer(identity)
        await side.put(S1, name(0), ROOT, CONTENT)
        await side.get(S1, name(0), 0, LEAVES, hashes=True)
        await trio.sleep(10)
        assert len(self.lines(identity)) == 2
        return side

    async def peer(self, identity: Identity = ALICE) -> Peer:
        """A connection of somebody who has a contract."""
        await Suppliers(
            identity, self.network.dialer(identity.node), (), entropy=SeededEntropy(3), wall=FakeWall()
        ).hire("bob:1", BOB.node, 1 << 28)
        return await self.stranger(identity)

    async def stranger(self, identity: Identity) -> Peer:
        peer = Peer(await self.network.dialer(identity.node).dial("bob:1", BOB.node), identity)
        await peer.greet()
        self.nursery.start_soon(peer.run)
        return peer

    def lines(self, identity: Identity = ALICE) -> list[MemoryLink]:
        """The ends of the bulk connections that are not Bob's."""
        return [
            end for end in self.network.bulk_links() if end.joins(identity.node, BOB.node) and end.peer == BOB.node
        ]

    async def ticket(self, control: Peer) -> BulkPass:
        told, _ = await control.request(wire.Bulk(KEY), wire.Ticket)
        return BulkPass(told.ticket, key_out=KEY, key_in=told.key)

    async def dial(self, identity: Identity, given: BulkPass) -> MemoryLink:
        return await self.network.dialer(identity.node).dial_bulk("bob:1", BOB.node, given)


@asynccontextmanager
async def bob(
    line: Line | None = None, *, offers_bulk: bool = True, memory: Memory | None = None
) -> AsyncIterator[Bob]:
    with trio.fail_after(1_000_000):
        async with trio.open_nursery() as nursery:
            yield Bob(nursery, line, offers_bulk=offers_bulk, memory=memory)
            nursery.cancel_scope.cancel()


async def online(side: Suppliers) -> None:
    while not side.online():
        await side.wait_for_change()


async def read(side: Suppliers, number: int = 0) -> bytes:
    return bytes((await side.get(S1, name(number), 0, LEAVES, hashes=False)).content)


async def sent_in(line: Callable[[], list[MemoryLink]], least: int) -> None:
    """Wait until so many bytes are on their way."""
    while sum(end.sent_bytes for end in line()) < least:
        await trio.sleep(0.01)


# -- where fragments go ------------------------------------------------------------------------------------


async def test_long_bodies_take_bulk_connections_and_short_ones_do_not(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        before = sorted(end.sent_bytes for end in b.lines())
        await side.put(S1, name(1), fragment.root(SHORT), SHORT)
        assert (await side.get(S1, name(0), 0, 1, hashes=False)).content == CONTENT[:LEAF_BYTES]
        assert sorted(end.sent_bytes for end in b.lines()) == before
        await side.put(S1, name(2), ROOT, CONTENT)
        assert await read(side, 2) == CONTENT
        gets, puts = sorted(end.sent_bytes for end in b.lines())
        assert puts > len(CONTENT) > gets > 0


async def test_read_does_not_queue_up_behind_what_is_uploaded(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        b.network.set_line(ALICE.node, BOB.node, SLOW)
        async with trio.open_nursery() as nursery:
            for number in range(1, 10):
                nursery.start_soon(side.put, S1, name(number), ROOT, CONTENT)
            await trio.sleep(1)
            with trio.fail_after(15):
                assert await read(side) == CONTENT


async def test_everything_goes_over_tls_to_who_offers_nothing_else(autojump_clock: MockClock) -> None:
    async with bob(offers_bulk=False) as b:
        side = await b.customer()
        for number in range(3):
            await side.put(S1, name(number), ROOT, CONTENT)
            assert await read(side, number) == CONTENT
        await trio.sleep(100)
        assert b.lines() == []
        with pytest.raises(PeerError, match="no bulk"):
            await (await b.peer()).request(wire.Bulk(KEY), wire.Ticket)


@pytest.mark.slow
async def test_bulk_connections_that_do_not_get_through_are_tried_ever_less(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.customer()
        b.network.apply_to_bulk(Break.CUT)
        tried: set[bytes] = set()
        for number in range(60):
            await side.put(S1, name(number), ROOT, CONTENT)
            assert await read(side, number) == CONTENT
            await trio.sleep(1)
            tried |= b.network.tickets("bob:1")
            await trio.sleep(14)
        assert 0 < len(tried) < 30
        b.network.apply_to_bulk(Break.HEAL)
        await trio.sleep(300)
        await side.put(S1, name(0), ROOT, CONTENT)
        await trio.sleep(1)
        assert b.lines()


async def test_idle_bulk_connections_are_let_go_and_come_back(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        await trio.sleep(2 * IDLE_S + 1)
        assert b.network.bulk_links() == []
        await side.put(S1, name(1), ROOT, CONTENT)
        await trio.sleep(1)
        assert len(b.lines()) == 1
        assert side.online()


# -- when they fail ----------------------------------------------------------------------------------------


async def test_put_that_is_cut_in_the_middle_is_asked_again(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        before = sum(end.sent_bytes for end in b.lines())
        b.network.set_line(ALICE.node, BOB.node, SLOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side.put, S1, name(1), ROOT, CONTENT)
            await sent_in(b.lines, before + 100_000)
            b.network.apply_to_bulk(Break.CUT)
        assert await read(side, 1) == CONTENT
        assert b.shelf.used(ALICE.owner) == (2 * len(CONTENT), 2)
        assert b.memory.inbound.free_bytes == Memory().inbound.free_bytes
        assert side.online()


async def test_get_that_is_cut_in_the_middle_is_asked_again(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        b.network.set_line(ALICE.node, BOB.node, SLOW)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await read(side) == CONTENT

            nursery.start_soon(ask)
            await trio.sleep(5)
            b.network.apply_to_bulk(Break.CUT)
        assert b.memory.outbound.free_bytes == Memory().outbound.free_bytes
        assert side.online()


async def test_silent_bulk_connection_costs_one_request_and_not_the_next(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        b.network.apply_to_bulk(Break.SILENCE)
        with trio.move_on_after(5) as reading:
            await read(side)
        with trio.move_on_after(60) as writing:
            await side.put(S1, name(1), ROOT, CONTENT)
        assert reading.cancelled_caught and writing.cancelled_caught
        with trio.fail_after(1):
            await side.put(S1, name(1), ROOT, CONTENT)
            assert await read(side, 1) == CONTENT


async def test_who_is_silent_while_fragments_move_is_not_given_up(autojump_clock: MockClock) -> None:
    """A full line may hold up the little that goes over TLS for long."""
    async with bob() as b:
        side = await b.bulk_customer()
        b.network.set_line(ALICE.node, BOB.node, Line(bytes_per_s=40_000))
        b.network.bulk = Break.HEAL
        b.network.apply(Break.SILENCE, ALICE.node)
        start = trio.current_time()
        while trio.current_time() < start + 200:  # STAT is asked each minute
            assert await read(side) == CONTENT
        assert side.online()
        await trio.sleep(200)
        assert not side.online()


async def test_request_given_up_soon_leaves_the_bulk_connection_alone(autojump_clock: MockClock) -> None:
    async with bob(Line(latency_s=0.5)) as b:
        side = await b.bulk_customer()
        lines = b.lines()
        with trio.move_on_after(0.7):
            await read(side)
        await trio.sleep(10)
        assert await read(side) == CONTENT
        assert b.lines() == lines


async def test_bulk_connections_end_with_their_tls_session(autojump_clock: MockClock) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        old = b.lines()
        b.network.break_links(ALICE.node, but_bulk=True)
        await trio.sleep(0.001)
        assert b.network.bulk_links() == []
        await trio.sleep(10)
        await online(side)
        await side.put(S1, name(1), ROOT, CONTENT)
        await trio.sleep(1)
        assert len(b.lines()) == 1 and b.lines()[0] not in old


async def test_fault_under_way_in_a_bulk_connection_costs_that_connection_only(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        bent = b.lines() + b.lines()
        b.network.tamper = lambda one, other, content: b"\xff" * len(content) if bent and bent.pop() else content
        with trio.fail_after(100):
            await side.put(S1, name(1), ROOT, CONTENT)
        assert side.online()
        assert await read(side, 1) == CONTENT
    assert "connection ended" in caplog.text


# -- tickets -----------------------------------------------------------------------------------------------


async def test_ticket_opens_one_connection_that_carries_fragments(autojump_clock: MockClock) -> None:
    async with bob() as b:
        given = await b.ticket(await b.peer())
        peer = Peer(await b.dial(ALICE, given), ALICE)
        peer.trust(BOB.certificate)
        b.nursery.start_soon(peer.run)
        await peer.request(wire.Put(name(1), ROOT, len(CONTENT), 1, 0), wire.Done, CONTENT)
        assert (await peer.request(wire.Get(name(1), 0, LEAVES, False), wire.Found))[1] == CONTENT
        for control in (wire.Stat(), wire.Ping(), wire.Bulk(KEY), wire.Delete((name(1),), 1, 0), wire.List(b"", 9)):
            with pytest.raises(PeerRefused, match="fragments only"):
                await peer.request(control, wire.ANSWERS[type(control)])
        assert b.shelf.used(ALICE.owner) == (len(CONTENT), 1)
        with pytest.raises(PeerGone):
            await b.dial(ALICE, given)


async def test_ticket_is_good_for_seconds(autojump_clock: MockClock) -> None:
    async with bob() as b:
        control = await b.peer()
        given = await b.ticket(control)
        await trio.sleep(TICKET_S + 1)
        with pytest.raises(PeerGone):
            await b.dial(ALICE, given)
        await b.dial(ALICE, await b.ticket(control))


async def test_ticket_does_not_outlive_its_session(autojump_clock: MockClock) -> None:
    async with bob() as b:
        control = await b.peer()
        given = await b.ticket(control)
        await control.aclose()
        await trio.sleep(1)
        with pytest.raises(PeerGone):
            await b.dial(ALICE, given)


async def test_somebody_elses_ticket_without_the_keys_is_worth_nothing(autojump_clock: MockClock) -> None:
    async with bob() as b:
        given = await b.ticket(await b.peer())
        with pytest.raises(ProtocolViolation):
            await b.dial(MALLORY, BulkPass(given.ticket, key_out=KEY, key_in=KEY))
        with pytest.raises(PeerGone):
            await b.dial(MALLORY, BulkPass(b"t" * 16, key_out=KEY, key_in=KEY))


async def test_strangers_get_no_ticket(autojump_clock: MockClock) -> None:
    async with bob() as b:
        with pytest.raises(PeerRefused):
            await (await b.stranger(MALLORY)).request(wire.Bulk(KEY), wire.Ticket)


async def test_owner_has_so_many_seats_and_gets_them_back(autojump_clock: MockClock) -> None:
    async with bob() as b:
        control = await b.peer()
        links = [await b.dial(ALICE, await b.ticket(control)) for _ in range(OWNERS_SEATS - 1)]
        await b.ticket(control)  # not shown to anybody
        with pytest.raises(PeerError, match="too many"):
            await b.ticket(control)
        await b.ticket(await b.peer(MALLORY))
        await links[0].aclose()
        await trio.sleep(1)
        await b.ticket(control)
        with pytest.raises(PeerError, match="too many"):
            await b.ticket(control)
        await trio.sleep(TICKET_S)
        await b.ticket(control)


def test_seats_are_shared_by_all_owners() -> None:
    seats = Seats(total=2, of_owner=2)
    one, other = OwnerId(b"1" * 32), OwnerId(b"2" * 32)
    assert seats.take(one) and seats.take(other)
    assert not seats.take(one)
    seats.give(other)
    assert seats.take(one)
    assert not seats.take(OwnerId(b"3" * 32))


# -- peers that mean harm ----------------------------------------------------------------------------------


async def mean_link(b: Bob) -> MemoryLink:
    return await b.dial(MALLORY, await b.ticket(await b.peer(MALLORY)))


async def assert_serves(b: Bob, side: Suppliers) -> None:
    with trio.fail_after(1):
        await side.put(S1, name(7), ROOT, CONTENT)
        assert await read(side, 7) == CONTENT


@pytest.mark.parametrize(
    "message",
    [
        b"\0\0\0\x0a\xff\xff\xff\xff",
        b"\xff" * 8,
        wire.encode(5, wire.Done()),
        wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, MALLORY.certificate.raw, (), "")),
        wire.encode(1, wire.Put(name(1), ROOT, 1000, 1, 0), 1000) + b"some",
        wire.encode(1, wire.Put(name(1), ROOT, 8_000_000, 1, 0), 8_000_000) + bytes(100_000),
    ],
    ids=["body bomb", "header bomb", "answer to nothing", "HELLO", "half a body", "body that stops"],
)
async def test_whoever_breaks_the_protocol_is_cut_off_alone(
    autojump_clock: MockClock, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with bob() as b:
        side = await b.bulk_customer()
        mean = await mean_link(b)
        await mean.send_all(message)
        await assert_serves(b, side)
        with trio.fail_after(100):
            while mean in b.network.bulk_links() and await ended(mean) is False:
                await trio.sleep(1)
        assert b.memory.inbound.free_bytes == Memory().inbound.free_bytes
        await assert_serves(b, side)


async def ended(link: MemoryLink) -> bool:
    try:
        return await link.receive_some(100_000) == b""
    except PeerGone:
        return True


@pytest.mark.slow
async def test_bulk_peer_that_does_not_read_keeps_nobody_waiting_and_holds_his_share(
    autojump_clock: MockClock,
) -> None:
    memory = Memory(outbound_bytes=16_000_000)
    async with bob(memory=memory) as b:
        side = await b.bulk_customer()
        mallory = await b.customer(MALLORY)
        await mallory.put(S1, name(1), ROOT, CONTENT)
        mean = await mean_link(b)
        for number in range(20):
            await mean.send_all(wire.encode(number, wire.Get(name(1), 0, LEAVES, False)))
        await trio.sleep(5)
        assert 12_000_000 <= memory.outbound.free_bytes < 16_000_000
        await assert_serves(b, side)
        await trio.sleep(200)
        assert memory.outbound.free_bytes == 16_000_000


async def test_bulk_peer_that_crawls_keeps_nobody_waiting_and_is_given_up(autojump_clock: MockClock) -> None:
    memory = Memory(inbound_bytes=16_000_000)
    async with bob(memory=memory) as b:
        side = await b.bulk_customer()
        mean = await mean_link(b)
        await mean.send_all(wire.encode(1, wire.Put(name(1), ROOT, 4_000_000, 1, 0), 4_000_000))
        await trio.sleep(0.1)
        assert memory.inbound.free_bytes == 12_000_000
        await assert_serves(b, side)
        with trio.fail_after(40):
            while memory.inbound.free_bytes < 16_000_000:
                await mean.send_all(b"x" * 1000)
                await trio.sleep(1)
        await assert_serves(b, side)
