"""The keeper: rights come from a contract with the caller's owner, and from nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import contract, fragment, wire
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import NO_CONTRACT, Contract, Party, Terms
from bitdustfs.core.grace import DAY_S
from bitdustfs.core.wire import Refused
from bitdustfs.engine import reception
from bitdustfs.engine.keeper import TRASH_S, Keeper
from bitdustfs.engine.no_shelf import NoShelf
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.reception import MAX_CONNECTIONS, Reception
from bitdustfs.errors import DiskFault, PeerError, PeerFull, PeerGone, PeerLacks, PeerRefused
from bitdustfs.model import OwnerId, Role
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.network import MemoryLink, MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import make_identity

T = TypeVar("T")
SUPPLIER = make_identity("supplier")
CUSTOMER = make_identity("customer")
STRANGER = make_identity("stranger")
READER = make_identity("tablet", owner="customer", role=Role.READER)
NEW_LAPTOP = make_identity("new laptop", owner="customer")
NAME = b"n" * 32
CONTENT = b"fragment" * 5000
ROOT = fragment.root(CONTENT)
PUT = wire.Put(NAME, ROOT, len(CONTENT), 1, 0)
GET = wire.Get(NAME, 0, 3, False)
DELETE = wire.Delete((NAME,), 1, 0)
LIST = wire.List(b"", 10)
MIB = 1 << 20
ALL = 100
STALE_TEXT = "this owner has certified nodes anew: the certificate is not valid any more"


class SlowCrunch(InlineCrunch):
    """Some kinds of work take until they may go on."""

    def __init__(self) -> None:
        self.gates: dict[str, trio.Event] = {}

    async def run(self, work: Callable[..., T], *args: object) -> T:
        gate = self.gates.pop(getattr(work, "__name__", ""), None)
        if gate is not None:
            await gate.wait()
        return await super().run(work, *args)


class World:
    """One supplier, and whoever connects."""

    def __init__(self, nursery: trio.Nursery, store: MemoryContracts) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork()
        self.wall = FakeWall()
        self.shelf = MemoryShelf(donated_bytes=10 * MIB)
        self.store = store
        self.allowed: dict[OwnerId, int] = {CUSTOMER.owner: MIB}
        self.crunch = SlowCrunch()
        self.start()
        nursery.start_soon(self.reception.run, self.network.listen(SUPPLIER.node, "s:1"))

    def start(self) -> None:
        self.keeper = Keeper(
            SUPPLIER, self.shelf, self.store, allowed=self.allowed, crunch=self.crunch, wall=self.wall
        )
        self.reception = Reception(SUPPLIER, self.keeper, knows=self.keeper.has_contract)

    async def link(self, identity: Identity) -> MemoryLink:
        return await self.network.dialer(identity.node).dial("s:1", SUPPLIER.node)

    async def connect(self, identity: Identity) -> Peer:
        peer = Peer(await self.link(identity), identity)
        await peer.greet()
        self.nursery.start_soon(peer.run)
        return peer

    async def customer(self) -> Peer:
        """The customer, with a contract."""
        peer = await self.connect(CUSTOMER)
        await propose(peer, terms_for())
        return peer


@asynccontextmanager
async def world(store: MemoryContracts | None = None) -> AsyncIterator[World]:
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            yield World(nursery, store or MemoryContracts())
            nursery.cancel_scope.cancel()


def terms_for(customer: Identity = CUSTOMER, gives_bytes: int = MIB, gives_fragments: int = 1000) -> Terms:
    second = Party(SUPPLIER.owner, SUPPLIER.node, gives_bytes, gives_fragments, SUPPLIER.node)
    return Terms(1, NO_CONTRACT, 1_767_225_600, 0, Party(customer.owner, customer.node), second)


async def propose(peer: Peer, terms: Terms, signer: Identity = CUSTOMER) -> Contract:
    raw = contract.propose(signer, terms).raw
    agreed, _ = await peer.request(wire.Propose(raw), wire.Agreed)
    return contract.parse(agreed.contract)


async def assert_refused(peer: Peer, request: wire.Request, code: Refused, body: bytes = b"") -> None:
    """The keeper refuses with this code."""
    with pytest.raises(PeerError) as caught:
        await peer.request(request, wire.ANSWERS[type(request)], body)
    assert caught.value.facts["code"] is code


# -- nobody without a contract ---------------------------------------------------------------------


async def test_strangers_put_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        await assert_refused(await w.connect(STRANGER), PUT, Refused.NO_CONTRACT, CONTENT)
        assert w.shelf.used(STRANGER.owner) == (0, 0)


async def test_strangers_get_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        await (await w.customer()).request(PUT, wire.Done, CONTENT)
        await assert_refused(await w.connect(STRANGER), GET, Refused.NO_CONTRACT)


async def test_strangers_delete_is_refused(autojump_clock: MockClock) -> None:
    """I14: what others stored with us is deleted only by its owner."""
    async with world() as w:
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        await assert_refused(await w.connect(STRANGER), DELETE, Refused.NO_CONTRACT)
        assert (await customer.request(GET, wire.Found))[1] == CONTENT


async def test_strangers_list_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        await assert_refused(await w.connect(STRANGER), LIST, Refused.NO_CONTRACT)


async def test_strangers_stat_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        await assert_refused(await w.connect(STRANGER), wire.Stat(), Refused.NO_CONTRACT)


async def test_customer_sees_only_his_own(autojump_clock: MockClock) -> None:
    """I8: a node acts only on its TLS peer's authority."""
    async with world() as w:
        w.allowed[STRANGER.owner] = MIB
        await (await w.customer()).request(PUT, wire.Done, CONTENT)
        friend = await w.connect(STRANGER)
        await propose(friend, terms_for(STRANGER), STRANGER)
        with pytest.raises(PeerLacks):
            await friend.request(GET, wire.Found)
        assert (await friend.request(DELETE, wire.Deleted))[0] == wire.Deleted(0)
        assert (await friend.request(LIST, wire.Listed))[0] == wire.Listed(())
        assert w.shelf.used(CUSTOMER.owner) == (len(CONTENT), 1)


# -- what a customer does --------------------------------------------------------------------------


async def test_customer_puts_gets_lists_and_deletes(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        assert await customer.request(PUT, wire.Done, CONTENT) == (wire.Done(), b"")
        found, body = await customer.request(wire.Get(NAME, 1, 1, True), wire.Found)
        assert found == wire.Found(len(CONTENT), 96)
        assert body == fragment.leaf_hashes(CONTENT) + CONTENT[16384:32768]
        assert (await customer.request(LIST, wire.Listed))[0] == wire.Listed(((NAME, len(CONTENT)),))
        assert (await customer.request(DELETE, wire.Deleted))[0] == wire.Deleted(1)
        with pytest.raises(PeerLacks):
            await customer.request(GET, wire.Found)


async def test_stat_tells_quota_use_and_contract(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        status, _ = await customer.request(wire.Stat(), wire.Status)
        assert (status.quota_bytes, status.quota_fragments) == (MIB, 1000)
        assert (status.used_bytes, status.used_fragments) == (len(CONTENT), 1)
        assert status.free_bytes == 10 * MIB - len(CONTENT)
        assert contract.parse(status.contract).terms == terms_for()


async def test_wrong_root_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        put = wire.Put(NAME, b"r" * 32, len(CONTENT), 1, 0)
        await assert_refused(customer, put, Refused.BAD_ROOT, CONTENT)
        assert w.shelf.used(CUSTOMER.owner) == (0, 0)
        await customer.request(PUT, wire.Done, CONTENT)


async def test_name_of_another_fragment_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        put = wire.Put(NAME, fragment.root(b"other"), 5, 1, 0)
        await assert_refused(customer, put, Refused.TAKEN, b"other")


async def test_shelf_that_is_away_is_unavailable_and_not_empty(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        w.shelf.is_there = False
        await assert_refused(customer, GET, Refused.UNAVAILABLE)
        await assert_refused(customer, PUT, Refused.UNAVAILABLE, CONTENT)
        await assert_refused(customer, DELETE, Refused.UNAVAILABLE)
        w.shelf.is_there = True
        assert (await customer.request(GET, wire.Found))[1] == CONTENT


# -- quota -----------------------------------------------------------------------------------------


async def test_quota_of_bytes_is_kept(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await customer.request(wire.Put(b"1" * 32, fragment.root(bytes(MIB)), MIB, 1, 0), wire.Done, bytes(MIB))
        await assert_refused(customer, wire.Put(b"2" * 32, fragment.root(b"x"), 1, 1, 0), Refused.QUOTA, b"x")


async def test_quota_of_fragments_is_kept(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.connect(CUSTOMER)
        await propose(customer, terms_for(gives_fragments=2))
        root = fragment.root(b"x")
        await customer.request(wire.Put(b"1" * 32, root, 1, 1, 0), wire.Done, b"x")
        await customer.request(wire.Put(b"2" * 32, root, 1, 1, 0), wire.Done, b"x")
        await assert_refused(customer, wire.Put(b"3" * 32, root, 1, 1, 0), Refused.QUOTA, b"x")


async def test_quota_is_reserved_before_bodies_come(autojump_clock: MockClock) -> None:
    """Many at once do not get more than one after the other."""
    body = bytes(300_000)
    root = fragment.root(body)
    outcome: list[str] = []

    async def put(customer: Peer, number: int) -> None:
        try:
            await customer.request(wire.Put(bytes([number]) * 32, root, len(body), 1, 0), wire.Done, body)
            outcome.append("stored")
        except PeerFull:
            outcome.append("full")

    async with world() as w:
        customer = await w.customer()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(put, customer, number)
        assert sorted(outcome) == ["full"] * 5 + ["stored"] * 3
        assert w.shelf.used(CUSTOMER.owner) == (900_000, 3)
        assert w.keeper._reserved == {}


async def test_reservation_of_a_body_that_never_came_is_given_back(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        link = await w.link(CUSTOMER)
        await link.send_all(wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, CUSTOMER.certificate.raw, (), "")))
        await link.send_all(wire.encode(1, wire.Put(NAME, ROOT, MIB, 1, 0), MIB) + bytes(1000))
        await trio.sleep(1)
        await assert_refused(customer, PUT, Refused.QUOTA, CONTENT)
        await link.aclose()
        await trio.sleep(1)
        await customer.request(PUT, wire.Done, CONTENT)


async def test_fragment_that_is_being_stored_when_it_is_let_go_is_let_go(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer, other = await w.customer(), await w.connect(CUSTOMER)
        w.crunch.gates["_store_fragment"] = disk = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(customer.request, PUT, wire.Done, CONTENT)
            await trio.sleep(1)
            nursery.start_soon(other.request, DELETE, wire.Deleted)
            await trio.sleep(1)
            disk.set()
        assert not w.shelf.names(CUSTOMER.owner, b"", ALL)


async def test_fragment_whose_body_is_under_way_when_it_is_let_go_is_not_stored(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        link = await w.link(CUSTOMER)
        await link.send_all(wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, CUSTOMER.certificate.raw, (), "")))
        await link.send_all(wire.encode(1, PUT, len(CONTENT)) + CONTENT[:1000])
        await trio.sleep(1)
        await customer.request(DELETE, wire.Deleted)
        await link.send_all(CONTENT[1000:])
        await trio.sleep(1)
        assert not w.shelf.names(CUSTOMER.owner, b"", ALL)
        await customer.request(PUT, wire.Done, CONTENT)  # what is sent again is kept
        assert w.shelf.names(CUSTOMER.owner, b"", ALL) == [(NAME, len(CONTENT))]
        assert not w.keeper._arrivals


async def test_what_is_sent_after_it_was_let_go_is_not_hit_by_an_earlier_request(autojump_clock: MockClock) -> None:
    """A DELETE was given no answer for long, and is asked again, which is answered."""
    async with world() as w:
        customer, other = await w.customer(), await w.connect(CUSTOMER)
        w.crunch.gates["_discard"] = disk = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(customer.request, DELETE, wire.Deleted)
            await trio.sleep(1)
            nursery.start_soon(_open_later, disk)
            await other.request(DELETE, wire.Deleted)
            await other.request(PUT, wire.Done, CONTENT)
        assert w.shelf.names(CUSTOMER.owner, b"", ALL) == [(NAME, len(CONTENT))]


async def _open_later(gate: trio.Event) -> None:
    await trio.sleep(5)
    gate.set()


async def test_trash_counts_in_the_quota(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        body = bytes(MIB)
        await customer.request(wire.Put(NAME, fragment.root(body), MIB, 1, 0), wire.Done, body)
        await customer.request(DELETE, wire.Deleted)
        await assert_refused(customer, PUT, Refused.QUOTA, CONTENT)


async def test_trash_yields_after_a_week_and_to_its_owner_only(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        body = bytes(MIB)
        await customer.request(wire.Put(NAME, fragment.root(body), MIB, 1, 0), wire.Done, body)
        await customer.request(DELETE, wire.Deleted)
        other = wire.Put(b"o" * 32, ROOT, len(CONTENT), 1, 0)
        w.wall.suspend_s(TRASH_S - 1)
        await assert_refused(customer, other, Refused.QUOTA, CONTENT)
        w.wall.suspend_s(86_401)  # days are counted, not seconds
        assert w.shelf.used(CUSTOMER.owner) == (MIB, 1), "nothing goes by itself"
        await customer.request(other, wire.Done, CONTENT)
        assert w.shelf.used(CUSTOMER.owner) == (len(CONTENT), 1)


@pytest.mark.parametrize("jump_s", [3650 * DAY_S, -3650 * DAY_S])
async def test_clock_that_jumps_makes_no_trash_yield_early(autojump_clock: MockClock, jump_s: int) -> None:
    async with world() as w:
        customer = await w.customer()
        body = bytes(MIB)
        await customer.request(wire.Put(NAME, fragment.root(body), MIB, 1, 0), wire.Done, body)
        w.wall.move_s(min(0, jump_s))  # it is behind when that is deleted, or ahead later
        await customer.request(DELETE, wire.Deleted)
        w.wall.move_s(abs(jump_s))
        other = wire.Put(b"o" * 32, ROOT, len(CONTENT), 1, 0)
        await assert_refused(customer, other, Refused.QUOTA, CONTENT)
        assert w.shelf.used(CUSTOMER.owner) == (MIB, 1)
        w.wall.suspend_s(TRASH_S + 2 * DAY_S)
        await customer.request(other, wire.Done, CONTENT)


async def test_damaged_fragment_is_said_to_be_gone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Else its owner takes it for a fault that will pass, and does not make it again."""
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            w = World(nursery, MemoryContracts())
            await (await w.customer()).request(PUT, wire.Done, CONTENT)
            w.shelf.is_damaged = True
            await assert_refused(await w.connect(CUSTOMER), GET, Refused.NOT_FOUND)
            nursery.cancel_scope.cancel()


async def test_full_disk_is_said(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        w.allowed[STRANGER.owner] = 20 * MIB
        big = bytes(5 * MIB)
        w.shelf.put(STRANGER.owner, NAME, fragment.root(big), big)  # type: ignore[arg-type]
        big = bytes(5 * MIB - 100)
        w.shelf.put(STRANGER.owner, b"m" * 32, fragment.root(big), big)  # type: ignore[arg-type]
        await assert_refused(customer, PUT, Refused.DISK_FULL, CONTENT)


# -- roles and epochs ------------------------------------------------------------------------------


async def test_reader_reads_and_changes_nothing(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        reader = await w.connect(READER)
        assert (await reader.request(GET, wire.Found))[1] == CONTENT
        await assert_refused(reader, wire.Put(b"m" * 32, ROOT, len(CONTENT), 1, 0), Refused.NOT_ALLOWED, CONTENT)
        await assert_refused(reader, DELETE, Refused.NOT_ALLOWED)


async def test_new_node_of_a_contracted_owner_has_his_rights(autojump_clock: MockClock) -> None:
    async with world() as w:
        await (await w.customer()).request(PUT, wire.Done, CONTENT)
        assert (await (await w.connect(NEW_LAPTOP)).request(GET, wire.Found))[1] == CONTENT


async def test_older_epoch_is_refused_once_a_newer_was_seen(autojump_clock: MockClock) -> None:
    newer = make_identity("new laptop", owner="customer", epoch=2)
    async with world() as w:
        old = await w.customer()
        await old.request(PUT, wire.Done, CONTENT)
        await (await w.connect(newer)).request(GET, wire.Found)
        await assert_refused(old, GET, Refused.STALE)
        await assert_refused(old, DELETE, Refused.STALE)
        await assert_refused(await w.connect(CUSTOMER), PUT, Refused.STALE, CONTENT)
        assert w.store.epochs() == {CUSTOMER.owner: (2, newer.certificate.raw)}


async def test_epoch_that_cannot_be_kept_is_not_acted_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenEpochs(MemoryContracts):
        def save_epoch(self, owner: OwnerId, epoch: int, proof: bytes) -> None:
            if epoch > 1:
                raise DiskFault(path="/contracts", why="broken")

    newer = make_identity("new laptop", owner="customer", epoch=2)
    async with world(BrokenEpochs()) as w:
        old = await w.customer()
        laptop = await w.connect(newer)
        await assert_refused(laptop, wire.Stat(), Refused.FAULT)
        await assert_refused(laptop, wire.Stat(), Refused.FAULT)
        assert (await old.request(LIST, wire.Listed))[0] == wire.Listed(())
    assert "broken" in caplog.text


async def test_newest_epoch_survives_a_restart(autojump_clock: MockClock) -> None:
    newer = make_identity("new laptop", owner="customer", epoch=2)
    async with world() as w:
        await w.customer()
        await (await w.connect(newer)).request(wire.Stat(), wire.Status)
        w.start()
        caller = CUSTOMER.certificate
        refusal = w.keeper.admit(caller, GET)
        assert refusal is not None and refusal.code is Refused.STALE


async def test_epoch_that_was_noted_without_its_certificate_is_proven_by_the_next_one(
    autojump_clock: MockClock,
) -> None:
    newer = make_identity("new laptop", owner="customer", epoch=2)
    async with world() as w:
        await w.customer()
        w.store.save_epoch(CUSTOMER.owner, 2, b"")
        w.start()
        assert w.keeper.admit(CUSTOMER.certificate, GET) == wire.Refusal(Refused.STALE, STALE_TEXT, 2, b"")
        await w.keeper.answer(newer.certificate, wire.Stat(), b"")
        assert w.keeper.admit(CUSTOMER.certificate, GET) == (
            wire.Refusal(Refused.STALE, STALE_TEXT, 2, newer.certificate.raw)
        )
        assert w.store.epochs() == {CUSTOMER.owner: (2, newer.certificate.raw)}


async def test_claimed_epoch_must_be_that_of_the_certificate(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        await assert_refused(customer, wire.Put(NAME, ROOT, len(CONTENT), 2, 0), Refused.BAD_REQUEST, CONTENT)
        await assert_refused(customer, wire.Delete((NAME,), 0, 0), Refused.BAD_REQUEST)


async def test_strangers_epochs_are_not_kept(autojump_clock: MockClock) -> None:
    async with world() as w:
        await (await w.connect(make_identity("x", epoch=9))).request(wire.Ping(), wire.Done)
        assert w.store.epochs() == {}


# -- contracts -------------------------------------------------------------------------------------


async def test_contract_is_kept_before_it_is_answered(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.connect(CUSTOMER)
        signed = await propose(customer, terms_for())
        assert signed.is_signed_by_both
        assert w.store.contracts() == {CUSTOMER.owner: signed.raw}
        w.start()
        assert w.keeper.has_contract(CUSTOMER.owner)


async def test_contract_that_cannot_be_kept_is_not_signed(autojump_clock: MockClock) -> None:
    class BrokenContracts(MemoryContracts):
        def save_contract(self, owner: OwnerId, contract: bytes) -> None:
            raise DiskFault(path="/contracts", why="broken")

    async with world(BrokenContracts()) as w:
        customer = await w.connect(CUSTOMER)
        await assert_refused(customer, wire.Propose(contract.propose(CUSTOMER, terms_for()).raw), Refused.FAULT)
        assert not w.keeper.has_contract(CUSTOMER.owner)


async def test_lost_answer_is_given_again(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.connect(CUSTOMER)
        assert await propose(customer, terms_for()) == await propose(customer, terms_for())


async def test_contract_changes_only_in_a_chain(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.connect(CUSTOMER)
        first = await propose(customer, terms_for(gives_bytes=MIB // 2))
        bigger = terms_for()
        await assert_refused(customer, wire.Propose(contract.propose(CUSTOMER, bigger).raw), Refused.BAD_REQUEST)
        second = await propose(customer, replace(bigger, serial=2, previous=first.digest))
        assert w.store.contracts() == {CUSTOMER.owner: second.raw}


@pytest.mark.parametrize(
    "terms,code",
    [
        (terms_for(gives_bytes=MIB + 1), Refused.NOT_ALLOWED),
        (terms_for(gives_fragments=1025), Refused.NOT_ALLOWED),
        (replace(terms_for(), until_s=1_767_225_601, since_s=1), Refused.BAD_REQUEST),
        (replace(terms_for(), second=replace(terms_for().second, shelf=STRANGER.node)), Refused.BAD_REQUEST),
        (replace(terms_for(), second=replace(terms_for().second, owner=STRANGER.owner)), Refused.BAD_REQUEST),
        (replace(terms_for(), second=replace(terms_for().second, node=STRANGER.node)), Refused.BAD_REQUEST),
        (replace(terms_for(), serial=2, previous=b"p" * 32), Refused.BAD_REQUEST),
    ],
    ids=["bytes", "fragments", "past", "shelf", "owner", "node", "chain"],
)
async def test_proposal_that_goes_too_far_is_refused(autojump_clock: MockClock, terms: Terms, code: Refused) -> None:
    async with world() as w:
        w.wall.move_s(10)
        customer = await w.connect(CUSTOMER)
        await assert_refused(customer, wire.Propose(contract.propose(CUSTOMER, terms).raw), code)
        assert w.store.contracts() == {}


async def test_owner_who_is_not_on_the_list_gets_no_contract(autojump_clock: MockClock) -> None:
    async with world() as w:
        stranger = await w.connect(STRANGER)
        proposal = contract.propose(STRANGER, terms_for(STRANGER, 1)).raw
        await assert_refused(stranger, wire.Propose(proposal), Refused.NOT_ALLOWED)


async def test_nobody_proposes_for_another_node(autojump_clock: MockClock) -> None:
    async with world() as w:
        laptop = await w.connect(NEW_LAPTOP)
        proposal = contract.propose(CUSTOMER, terms_for()).raw
        await assert_refused(laptop, wire.Propose(proposal), Refused.BAD_REQUEST)
        stranger = await w.connect(STRANGER)
        await assert_refused(stranger, wire.Propose(proposal), Refused.BAD_REQUEST)


@pytest.mark.parametrize("raw", [b"", b"\x01" * 483, b"\x07"])
async def test_proposal_that_is_none_is_refused(autojump_clock: MockClock, raw: bytes) -> None:
    async with world() as w:
        await assert_refused(await w.connect(CUSTOMER), wire.Propose(raw), Refused.BAD_REQUEST)


async def test_space_is_not_promised_twice(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.allowed.update({CUSTOMER.owner: 20 * MIB, STRANGER.owner: 20 * MIB})
        await propose(await w.connect(CUSTOMER), terms_for(gives_bytes=8 * MIB))
        friend = await w.connect(STRANGER)
        await assert_refused(
            friend, wire.Propose(contract.propose(STRANGER, terms_for(STRANGER, 3 * MIB)).raw), Refused.DISK_FULL
        )
        await propose(friend, terms_for(STRANGER, 2 * MIB), STRANGER)


async def test_ended_contract_takes_nothing_new_and_gives_back_what_is_there(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.connect(CUSTOMER)
        await propose(customer, replace(terms_for(), until_s=1_767_225_600 + 3600))
        await customer.request(PUT, wire.Done, CONTENT)
        w.wall.move_s(3601)
        await assert_refused(customer, wire.Put(b"m" * 32, ROOT, len(CONTENT), 1, 0), Refused.NO_CONTRACT, CONTENT)
        assert (await customer.request(GET, wire.Found))[1] == CONTENT


# -- strangers at the door -------------------------------------------------------------------------


async def test_frame_bomb_ends_the_connection_and_hurts_nobody_else(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        link = await w.link(STRANGER)
        await link.send_all(wire.encode(0, wire.Hello(wire.PROTOCOL_VERSION, STRANGER.certificate.raw, (), "")))
        await link.send_all(b"\xff" * 64)
        with pytest.raises(PeerGone):
            while await link.receive_some(1000):
                pass
            raise PeerGone(peer="it", what="closed in order")
        await customer.request(PUT, wire.Done, CONTENT)


@pytest.mark.slow
async def test_a_hundred_idle_connections_cost_nobody_else_anything(autojump_clock: MockClock) -> None:
    async with world() as w:
        idle = [await w.link(make_identity(f"idle {number}")) for number in range(100)]
        customer = await w.customer()
        await customer.request(PUT, wire.Done, CONTENT)
        await trio.sleep(reception.HELLO_S + 1)
        assert w.reception.connections == 1
        assert len(idle) == 100


@pytest.mark.slow
async def test_strangers_give_way_when_there_are_too_many(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with world() as w:
        customer = await w.customer()
        await customer.request(wire.Stat(), wire.Status)
        known = await w.connect(CUSTOMER)
        strangers = [await w.connect(STRANGER) for _ in range(MAX_CONNECTIONS + 10)]
        await trio.sleep(1)
        assert w.reception.connections == MAX_CONNECTIONS
        assert strangers[0].ended is not None
        assert strangers[-1].ended is None
        await known.request(PUT, wire.Done, CONTENT)


async def test_refused_peer_is_one_log_line(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        link = await w.link(STRANGER)
        await link.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await trio.sleep(1)
        lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert w.reception.connections == 0


async def test_supplier_role_asks_for_nothing(autojump_clock: MockClock) -> None:
    keeper_node = make_identity("nas", owner="customer", role=Role.SUPPLIER)
    async with world() as w:
        await w.customer()
        nas = await w.connect(keeper_node)
        with pytest.raises(PeerRefused):
            await nas.request(GET, wire.Found)
        await nas.request(wire.Ping(), wire.Done)


async def test_trash_that_yields_is_told_as_room(autojump_clock: MockClock) -> None:
    """Else nobody would put anything, and it would yield to nobody."""
    async with world() as w:
        customer = await w.customer()
        body = bytes(MIB)
        await customer.request(wire.Put(NAME, fragment.root(body), MIB, 1, 0), wire.Done, body)
        await customer.request(DELETE, wire.Deleted)
        status, _ = await customer.request(wire.Stat(), wire.Status)
        assert (status.used_bytes, status.used_fragments, status.free_bytes) == (MIB, 1, 9 * MIB)
        w.wall.suspend_s(TRASH_S + 86_401)
        status, _ = await customer.request(wire.Stat(), wire.Status)
        assert (status.used_bytes, status.used_fragments, status.free_bytes) == (0, 0, 10 * MIB)


async def test_old_trash_yields_where_the_disk_is_full_too(autojump_clock: MockClock) -> None:
    async with world() as w:
        customer = await w.customer()
        body = bytes(MIB // 2)
        await customer.request(wire.Put(NAME, fragment.root(body), len(body), 1, 0), wire.Done, body)
        await customer.request(DELETE, wire.Deleted)
        w.wall.suspend_s(TRASH_S + 86_401)
        w.shelf.donated_bytes = len(body)
        await customer.request(wire.Put(b"o" * 32, ROOT, len(CONTENT), 1, 0), wire.Done, CONTENT)
        assert w.shelf.used(CUSTOMER.owner) == (len(CONTENT), 1)


async def test_shelf_that_is_opened_under_a_put_takes_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.customer()
        w.keeper.use_shelf(NoShelf(), w.crunch)
        assert w.keeper.admit(CUSTOMER.certificate, PUT) is None
        w.keeper.use_shelf(w.shelf, w.crunch)  # while the body comes
        answer, _ = await w.keeper.answer(CUSTOMER.certificate, PUT, CONTENT)
        w.keeper.forget(CUSTOMER.certificate, PUT)
        assert answer == wire.Done()
        assert w.shelf.used(CUSTOMER.owner)[1] == 1
