"""Everybody who has no right tries every request: each is refused, nothing changes, and memory stays bounded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import contract, fragment, head, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import NO_CONTRACT, Party, Terms, fragments_for
from bitdustfs.core.receipt import RECEIPT_BYTES
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.frames import BODY_S
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.ledger import Ledger
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.receipts import Receipts, Receiving
from bitdustfs.engine.reception import HELLO_S, MAX_CONNECTIONS, NODE_CONNECTIONS, Reception
from bitdustfs.errors import PeerError, PeerGone
from bitdustfs.model import FragmentName, Role, Root
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import MemoryLink, MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import make_identity

SUPPLIER = make_identity("supplier")
VICTIM = make_identity("victim")
STRANGER = make_identity("stranger")
FRIEND = make_identity("friend")  # on our list, and without a contract
GREEDY = make_identity("greedy")  # has used up what was agreed
REVOKED, NEW_LAPTOP = make_identity("laptop", owner="robbed"), make_identity("new laptop", owner="robbed", epoch=2)
FORMER = make_identity("former friend")  # whose contract has ended; certificates have no date, they are replaced
READER = make_identity("tablet", owner="victim", role=Role.READER)
ATTACKERS = {
    "stranger": STRANGER,
    "revoked": REVOKED,
    "friend": FRIEND,
    "greedy": GREEDY,
    "reader": READER,
    "expired": FORMER,
}
MIB = 1 << 20
CONTENT = b"fragment" * 5000
ROOT = fragment.root(CONTENT)
NAME, GREEDY_NAME = b"n" * 32, b"g" * 32


def terms_for(customer: Identity, size: int, fragments: int) -> Terms:
    second = Party(SUPPLIER.owner, SUPPLIER.node, size, fragments, SUPPLIER.node)
    return Terms(1, NO_CONTRACT, 1_767_225_600, 0, Party(customer.owner, customer.node), second)


def proposal_of(customer: Identity, size: int) -> bytes:
    """Of a contract for more than there ever was."""
    signer = customer if customer.certificate.role is Role.WRITER else VICTIM
    return contract.propose(signer, terms_for(signer, size, fragments_for(size))).raw


def requests_of(caller: Identity) -> dict[type[wire.Request], tuple[wire.Request, bytes]]:
    """Each request, as bad as the caller can make it."""
    epoch = caller.certificate.epoch
    put = wire.Put(b"x" * 32, ROOT, len(CONTENT), epoch, 0)
    return {
        wire.Ping: (wire.Ping(), b""),
        wire.Put: (put, CONTENT),
        wire.Get: (wire.Get(NAME, 0, 3, True), b""),
        wire.Delete: (wire.Delete((NAME,), epoch, 0), b""),
        wire.List: (wire.List(b"", 100), b""),
        wire.Stat: (wire.Stat(), b""),
        wire.Propose: (wire.Propose(proposal_of(caller, 1 << 40)), b""),
        wire.Bulk: (wire.Bulk(b"k" * 32), b""),
        wire.PutHead: (wire.PutHead(len(HEAD), epoch), HEAD),
        wire.GetHead: (wire.GetHead(), b""),
        wire.Watch: (wire.Watch(0, 0), b""),
        wire.Knock: (wire.Knock(b"m" * 16, b"n" * 32), b""),
        wire.Join: (wire.Join(b"m" * 16, b"p" * 32, (), b""), b""),
        wire.Here: (wire.Here(b"r" * 100, "192.0.2.7:1"), b""),
        wire.Where: (wire.Where(bytes(VICTIM.node)), b""),
        wire.Reach: (wire.Reach(), b""),
        wire.Compare: (
            wire.Compare((proposal_of(caller, MIB) + bytes(contract.CONTRACT_BYTES - contract.PROPOSAL_BYTES),)),
            b"",
        ),
        wire.Receipt: (wire.Receipt(b"\x01" * RECEIPT_BYTES), b""),
        wire.Hold: (wire.Hold(bytes(16), 600, True, True, False), b""),
    }


HEAD = bytes([head.VERSION]) + bytes(head.MAX_HEAD_BYTES - 1)[:400]
# What is answered to whom, where it is no refusal: of what is his own, or of nothing
ANSWERED = {
    ("stranger", wire.Ping),
    ("stranger", wire.Compare),
    ("friend", wire.Ping),
    ("friend", wire.Compare),
    ("reader", wire.Ping),
    ("reader", wire.Get),
    ("reader", wire.List),
    ("reader", wire.Stat),
    ("reader", wire.GetHead),
    ("reader", wire.Watch),
    ("greedy", wire.Watch),
    ("expired", wire.Watch),
    *(
        (who, kind)
        for who in ("greedy", "expired")
        for kind in (wire.Ping, wire.Delete, wire.List, wire.Stat, wire.GetHead, wire.Compare, wire.Hold)
    ),
}


class World:
    """A supplier with three customers."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork()
        self.shelf = MemoryShelf(donated_bytes=10 * MIB)
        self.store = MemoryContracts()
        for customer, size in ((VICTIM, MIB), (GREEDY, len(CONTENT)), (NEW_LAPTOP, MIB)):
            proposal = contract.propose(customer, terms_for(customer, size, 1000))
            self.store.save_contract(customer.owner, contract.countersign(SUPPLIER, proposal).raw)
        ended = replace(terms_for(FORMER, MIB, 1000), since_s=1_767_225_600 - 9000, until_s=1_767_225_600 - 60)
        signed = contract.countersign(SUPPLIER, contract.propose(FORMER, ended))
        self.store.save_contract(FORMER.owner, signed.raw)
        self.store.save_epoch(NEW_LAPTOP.owner, 2, NEW_LAPTOP.certificate.raw)
        self.shelf.put(VICTIM.owner, FragmentName(NAME), Root(ROOT), CONTENT)
        self.shelf.put(GREEDY.owner, FragmentName(GREEDY_NAME), Root(ROOT), CONTENT)
        self.memory = Memory()
        allowed = {VICTIM.owner: MIB, FRIEND.owner: MIB, GREEDY.owner: MIB}
        self.keeper = Keeper(
            SUPPLIER, self.shelf, self.store, allowed=allowed, crunch=InlineCrunch(), wall=FakeWall()
        )
        ledger = Ledger(self.store, crunch=InlineCrunch(), wall=FakeWall())
        connections, revoked = Connections(SUPPLIER.node), self.keeper.refuse_revoked
        receipts = Receipts(SUPPLIER, ledger, self.keeper.clerk, connections, SeededEntropy(1), revoked=revoked)
        handler = Receiving(self.keeper, receipts)
        self.reception = Reception(SUPPLIER, handler, knows=self.keeper.has_contract, memory=self.memory)
        nursery.start_soon(self.reception.run, self.network.listen(SUPPLIER.node, "s:1"))

    async def link(self, identity: Identity) -> MemoryLink:
        return await self.network.dialer(identity.node).dial("s:1", SUPPLIER.node)

    async def connect(self, identity: Identity) -> Peer:
        peer = Peer(await self.link(identity), identity)
        await peer.greet()
        self.nursery.start_soon(peer.run)
        return peer

    def state(self) -> object:
        """All that must not change."""
        names = {
            owner: self.shelf.names(owner, b"", 100)
            for owner in (VICTIM.owner, FRIEND.owner, STRANGER.owner, FORMER.owner)
        }
        newest = self.store.epochs()[NEW_LAPTOP.owner]
        held = self.store.contracts(), self.store.heads(), self.store.gifts()
        return held, newest, names, self.shelf.used(VICTIM.owner)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            yield World(nursery)
            nursery.cancel_scope.cancel()


def test_every_request_there_is_is_tried() -> None:
    assert set(requests_of(STRANGER)) == set(wire.ANSWERS)


@pytest.mark.parametrize("kind", wire.ANSWERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("who", ATTACKERS)
async def test_who_has_no_right_is_refused_and_changes_nothing(
    autojump_clock: MockClock, who: str, kind: type[wire.Request]
) -> None:
    async with world() as w:
        before = w.state()
        peer = await w.connect(ATTACKERS[who])
        request, body = requests_of(ATTACKERS[who])[kind]
        try:
            answer, content = await peer.request(request, wire.ANSWERS[kind], body)
            refused = False
        except PeerError as error:
            assert "code" in error.facts, error
            refused, content = True, b""
        assert refused == ((who, kind) not in ANSWERED)
        if not refused and isinstance(answer, wire.Compared) and who not in ("greedy", "expired"):
            assert answer.contracts == ()
        assert w.state() == before
        if who != "reader":
            assert CONTENT not in bytes(content)
        assert w.memory.inbound.free_bytes == Memory().inbound.free_bytes


async def test_replayed_delete_takes_nothing_of_others(autojump_clock: MockClock) -> None:
    """F49. The very frame that the owner sent, from another connection: that says who asks, and not the frame."""
    async with world() as w:
        victim, thief = await w.connect(VICTIM), await w.connect(GREEDY)
        request = wire.Delete((NAME,), 1, 0)
        told, _ = await thief.request(request, wire.Deleted)
        assert told.count == 0
        assert w.shelf.content(VICTIM.owner, FragmentName(NAME)) == CONTENT
        told, _ = await victim.request(request, wire.Deleted)
        assert told.count == 1
        told, _ = await victim.request(request, wire.Deleted)  # again: it is gone already
        assert told.count == 0


@pytest.mark.slow
async def test_thousand_idle_connections_do_not_keep_a_customer_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """F50: half-open."""
    async with world() as w:
        links = [await w.link(make_identity(f"idle {number}")) for number in range(1000)]
        assert w.reception.connections <= MAX_CONNECTIONS
        victim = await w.connect(VICTIM)
        assert (await victim.request(wire.Stat(), wire.Status))[0].used_bytes == len(CONTENT)
        await trio.sleep(HELLO_S + 1)
        assert w.reception.connections == 1
        for link in links:
            await link.aclose()
    lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(lines) <= 1000  # one for each at most


@pytest.mark.parametrize(
    "bomb", [b"\xff" * 64, b"\x00\x00\x10\x01\x00\x00\x00\x00" + b"\x91" * 4097, b"\x00\x00\x00\x01\xff\xff\xff\xff"]
)
async def test_frame_bomb_ends_its_connection_with_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, bomb: bytes
) -> None:
    """F50: lengths."""
    async with world() as w:
        link = await w.link(STRANGER)
        await link.send_all(bomb)
        with pytest.raises(PeerGone):
            while await link.receive_some(1000):
                pass
            raise PeerGone(peer="it", what="ended in order")
        await trio.sleep(1)
        assert w.reception.connections == 0
        assert w.memory.inbound.free_bytes == Memory().inbound.free_bytes
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1


async def test_long_header_of_a_stranger_ends_his_connection_and_that_of_a_customer_is_answered(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        before = w.state()
        request = wire.Delete(tuple(number.to_bytes(32, "big") for number in range(wire.MAX_NAMES)), 1, 0)
        stranger = await w.connect(STRANGER)
        with pytest.raises(PeerGone):
            await stranger.request(request, wire.Deleted)
        assert [each.getMessage() for each in caplog.records if "a header of 3" in each.getMessage()]
        victim = await w.connect(VICTIM)
        assert (await victim.request(request, wire.Deleted))[0].count == 0
        assert w.state() == before


async def test_who_becomes_a_customer_may_send_long_headers_on_the_same_connection(autojump_clock: MockClock) -> None:
    async with world() as w:
        friend = await w.connect(FRIEND)
        proposal = contract.propose(FRIEND, terms_for(FRIEND, MIB, 1000))
        await friend.request(wire.Propose(proposal.raw), wire.Agreed)
        request = wire.Delete(tuple(number.to_bytes(32, "big") for number in range(wire.MAX_NAMES)), 1, 0)
        assert (await friend.request(request, wire.Deleted))[0].count == 0


async def test_slow_writers_hold_no_more_than_their_share_and_are_given_up(autojump_clock: MockClock) -> None:
    """Each begins a body of 8 MiB and sends nothing of it."""
    async with world() as w:
        victim = await w.connect(VICTIM)
        slow = [await w.link(GREEDY) for _ in range(8)]
        greeted = [Peer(link, GREEDY) for link in slow]
        for peer in greeted:
            await peer.greet()
        for link in slow:
            request = wire.Put(b"y" * 32, ROOT, len(CONTENT), 1, 0)
            await link.send_all(wire.encode(1, request, len(CONTENT)))
        await trio.sleep(1)
        body = CONTENT[:1000]
        await victim.request(wire.Put(b"z" * 32, fragment.root(body), len(body), 1, 0), wire.Done, body)
        await trio.sleep(2 * BODY_S)
        assert w.memory.inbound.free_bytes == Memory().inbound.free_bytes
        assert w.shelf.content(GREEDY.owner, FragmentName(b"y" * 32)) is None


@pytest.mark.slow
async def test_one_friend_does_not_take_all_the_room_for_connections(autojump_clock: MockClock) -> None:
    """He certifies as many nodes as he likes."""
    async with world() as w:
        for number in range(MAX_CONNECTIONS // NODE_CONNECTIONS):
            for _ in range(NODE_CONNECTIONS):
                await w.connect(make_identity(f"machine {number}", owner="greedy"))
        victim = await w.connect(VICTIM)
        assert (await victim.request(wire.Stat(), wire.Status))[0].used_bytes == len(CONTENT)
        assert w.reception.connections <= MAX_CONNECTIONS


@pytest.mark.slow
async def test_proposals_of_a_stranger_do_not_fill_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        stranger = await w.connect(STRANGER)
        requests = requests_of(STRANGER)
        for _ in range(100):
            for kind in (wire.Propose, wire.Compare):
                with contextlib.suppress(PeerError):
                    await stranger.request(requests[kind][0], wire.ANSWERS[kind])
    assert 0 < len([each for each in caplog.records if each.levelno >= logging.WARNING]) < 20
