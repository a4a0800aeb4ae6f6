"""Receipts: two friends tell each other once a day what was kept, and whoever lies, lies to himself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import contract, fragment, receipt, wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import NO_CONTRACT, Contract, Party, Terms, fragments_for
from bitdustfs.core.grace import DAY_S, HOUR_S
from bitdustfs.core.receipt import RECEIPT_BYTES, Told
from bitdustfs.core.wire import Refused
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import error_of
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.ledger import Holding, Ledger
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.receipts import BURST, Receipts, Receiving
from bitdustfs.errors import PeerError, PeerGone, PeerRefused
from bitdustfs.model import FragmentName, NodeId, OwnerId, SupplierNo
from bitdustfs.testing.clock import InlineCrunch, RunningWall
from bitdustfs.testing.daemon import Daemon
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.network import MemoryNetwork
from bitdustfs.testing.shelf import MemoryContracts, MemoryShelf
from bitdustfs.testing.swarm import connect, make_identity

pytestmark = pytest.mark.slow

CONTENT = bytes(i % 251 for i in range(100_000))
MIB = 1 << 20
NOW_S = 1_767_225_600
STEP_S = 1800.0  # between two looks of everybody, so that days are cheap
DAY_H = 24


class Line:
    """The connection of a home, as `engine.connections.Connections` tells of it."""

    def __init__(self) -> None:
        self.peer: Called | None = None

    def nodes(self) -> Sequence[NodeId]:
        return [self.peer.node] if self.peer is not None else []

    def of(self, _node: NodeId) -> Sequence[Called]:
        return [self.peer] if self.peer is not None else []

    async def wait_for_change(self) -> None:
        await trio.sleep_forever()


class Called:
    """The other side, as `engine.peer.Peer` asks it; called directly, so that a month is cheap."""

    def __init__(self, caller: Identity, there: Home) -> None:
        self._caller = caller.certificate
        self._there = there
        self.certificate = there.identity.certificate
        self.node, self.owner, self.label = there.identity.node, there.identity.owner, "the other"

    async def request(self, request: wire.Request, answer: type[wire.Answer]) -> tuple[wire.Answer, bytes]:
        await trio.lowlevel.checkpoint()
        handler = self._there.handler
        if (refusal := handler.admit(self._caller, request)) is not None:
            raise error_of(refusal, self.label, self._caller)
        told, _ = await handler.answer(self._caller, request, b"")
        if isinstance(told, wire.Refusal):
            raise error_of(told, self.label, self._caller)
        assert isinstance(told, answer)
        return told, b""


class Home:
    """One side: keeper, ledger and receipts. Shelf and contracts stay over a restart."""

    def __init__(self, nursery: trio.Nursery, wall: RunningWall, identity: Identity) -> None:
        self._nursery = nursery
        self._wall = wall
        self.identity = identity
        self.shelf, self.contracts, self.line = MemoryShelf(), MemoryContracts(), Line()
        self.stores: Home | None = None  # with whom; audited every two hours
        self.signs = True
        self._scope = trio.CancelScope()

    @property
    def owner(self) -> OwnerId:
        return self.identity.owner

    def start(self) -> None:
        self._scope = trio.CancelScope()
        self.keeper = Keeper(
            self.identity, self.shelf, self.contracts, allowed={}, crunch=InlineCrunch(), wall=self._wall
        )
        self.ledger = Ledger(
            self.contracts, crunch=InlineCrunch(), wall=self._wall, tick_s=STEP_S, present_s=2 * STEP_S
        )
        self.ledger.keeps, self.ledger.holdings = self.keeper.kept_bytes, self._holdings
        self.receipts = Receipts(
            self.identity,
            self.ledger,
            self.keeper.clerk,
            cast(Connections, self.line),
            SeededEntropy(1),
            revoked=self.keeper.refuse_revoked,
            look_s=STEP_S,
        )
        self.receipts.stores = self.signs
        self.handler = Receiving(self.keeper, self.receipts)
        self._nursery.start_soon(self._run, self._scope)

    def kill(self) -> None:
        """End it as `kill -9` does: nobody has a last word."""
        contracts = self.contracts
        self.contracts = copy_of(contracts, contracts.accounts(), contracts.gifts())
        self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for service in (self.ledger.run, self.receipts.run, self._audit):
                    nursery.start_soon(service)

    async def _holdings(self) -> Sequence[Holding]:
        there = self.stores
        if there is None:
            return ()
        peer = self.line.peer
        if peer is not None:
            await peer.request(wire.Stat(), wire.Status)  # as the connection's ping does
        return [Holding(there.owner, there.identity.node, len(CONTENT), answers=peer is not None)]

    async def _audit(self) -> None:
        while True:
            await trio.sleep(2 * HOUR_S)
            if self.stores is not None and self.line.peer is not None:
                self.ledger.proven(self.stores.owner, self.stores.identity.node)


class Couple:
    """Anna and Boris, who give each other 8 MiB."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.wall = RunningWall()
        self._nursery = nursery
        self.anna, self.boris = (Home(nursery, self.wall, make_identity(name)) for name in ("anna", "boris"))
        self.agree(8 * MIB)
        for one, other in ((self.anna, self.boris), (self.boris, self.anna)):
            other.shelf.put(one.owner, FragmentName(b"n" * 32), fragment.root(CONTENT), CONTENT)
            one.stores = other
            one.start()
        self.meet()

    def agree(self, size: int, held: Contract | None = None) -> None:
        """Let both have signed another contract."""
        parties = [
            Party(each.owner, each.identity.node, size, fragments_for(size), each.identity.node)
            for each in (self.anna, self.boris)
        ]
        before = (held.terms.serial + 1, held.digest) if held is not None else (1, NO_CONTRACT)
        terms = Terms(*before, self.wall.now_ns() // 10**9, 0, *parties)
        self.signed = contract.countersign(self.boris.identity, contract.propose(self.anna.identity, terms))
        for one, other in ((self.anna, self.boris), (self.boris, self.anna)):
            one.contracts.save_contract(other.owner, self.signed.raw)

    def meet(self) -> None:
        self.anna.line.peer = Called(self.anna.identity, self.boris)
        self.boris.line.peer = Called(self.boris.identity, self.anna)

    def part(self) -> None:
        self.anna.line.peer = self.boris.line.peer = None

    def replace_anna(self) -> Home:
        """Another machine of the same owner, that has nothing."""
        self.anna.kill()
        self.boris.stores = None  # his contract is for the shelf of the machine that burnt
        new = Home(self._nursery, self.wall, make_identity("new", owner="anna", epoch=2))
        new.contracts.save_contract(self.boris.owner, self.signed.raw)
        new.stores, self.anna = self.boris, new
        new.start()
        self.meet()
        return new


@asynccontextmanager
async def couple() -> AsyncIterator[Couple]:
    with trio.fail_after(500 * DAY_S):
        async with trio.open_nursery() as nursery:
            yield Couple(nursery)
            nursery.cancel_scope.cancel()


class Friends:
    """The same two with real connections; Anna has hired Boris, who keeps something of hers."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork()
        self.wall = RunningWall()
        self.anna, self.boris = (
            Daemon(name, self.network, nursery, self.wall, seed=seed) for seed, name in enumerate(("anna", "boris"))
        )

    async def store(self) -> None:
        self.boris.allowed[self.anna.owner] = 8 * MIB
        await self.anna.hire(self.boris, 2 * MIB)
        await self.anna.until(lambda: bool(self.anna.suppliers.online()))
        await self.anna.suppliers.put(SupplierNo(1), FragmentName(b"n" * 32), fragment.root(CONTENT), CONTENT)

    def told(self, **changes: object) -> Told:
        """What Anna would sign for Boris now."""
        kept, now_s = self.anna.clerk.newest(self.boris.owner), self.anna.clerk.now_s()
        assert kept is not None
        told = Told(
            1, kept.digest, self.anna.owner, self.boris.owner, now_s, now_s, now_s, 10**9, 10**9, len(CONTENT)
        )
        return replace(told, **changes)  # type: ignore[arg-type]

    def to_boris(self) -> Peer:
        return self.anna.connections.of(self.boris.node)[0]

    async def sends(self, **changes: object) -> wire.Receipted:
        """Let Anna sign and send something. Raises PeerRefused."""
        raw = receipt.sign(self.anna.identity, self.told(**changes)).raw
        return (await self.to_boris().request(wire.Receipt(raw), wire.Receipted))[0]


@asynccontextmanager
async def friends() -> AsyncIterator[Friends]:
    with trio.fail_after(5 * DAY_S):
        async with trio.open_nursery() as nursery:
            yield Friends(nursery)
            nursery.cancel_scope.cancel()


def taken(customer: Home, supplier: Home) -> float:
    """The hours that a customer has counted of what he stores."""
    return customer.ledger.balance(supplier.owner)["taken_byte_hours"] / len(CONTENT)


def given(supplier: Home, customer: Home) -> float:
    """The hours that the customer has signed for."""
    return supplier.ledger.balance(customer.owner)["given_byte_hours"] / len(CONTENT)


def is_disputed(one: Home, other: Home) -> tuple[bool, bool]:
    told = one.ledger.balance(other.owner)
    return told["given_differs"], told["taken_differs"]


async def test_thirty_days_both_ways(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(30 * DAY_S)
        for one, other in ((c.anna, c.boris), (c.boris, c.anna)):
            assert 30 * DAY_H - 4 < taken(one, other) <= 30 * DAY_H
            assert 29 * DAY_H - 6 < given(other, one) <= taken(one, other)
            held = receipt.parse(other.ledger.gift(one.owner).receipt)
            assert 28 <= held.serial <= 34  # once a day
            assert held.raw == one.ledger.account(other.owner).receipt
            assert held.told.held_bytes == len(CONTENT)
            told = one.ledger.balance(other.owner)
            assert told["taken_until_s"] == held.told.to_s
            assert told["taken_counted"] / len(CONTENT) == pytest.approx(given(other, one), abs=8)
            assert is_disputed(one, other) == (False, False)


async def test_who_only_gives_signs_nothing_and_who_only_takes_is_given_nothing(autojump_clock: MockClock) -> None:
    async with couple() as c:
        c.boris.stores = None  # he has a volume, and stores nothing with Anna
        await trio.sleep(10 * DAY_S)
        assert 9 * DAY_H - 6 < given(c.boris, c.anna) <= taken(c.anna, c.boris) <= 10 * DAY_H
        assert given(c.anna, c.boris) == taken(c.boris, c.anna) == 0
        assert c.anna.ledger.gift(c.boris.owner).receipt == b""
        assert is_disputed(c.anna, c.boris) == is_disputed(c.boris, c.anna) == (False, False)


async def test_time_apart_counts_on_neither_side(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(3 * DAY_S)
        c.part()
        await trio.sleep(20 * DAY_S)
        c.meet()
        await trio.sleep(3 * DAY_S)
        assert 6 * DAY_H - 6 < taken(c.anna, c.boris) <= 6 * DAY_H
        counted = c.boris.ledger.balance(c.anna.owner)["given_counted"] / len(CONTENT)
        assert 6 * DAY_H - 6 < counted < 6 * DAY_H + 6
        assert is_disputed(c.boris, c.anna) == (False, False)


async def test_kill_forgets_a_look_or_two_and_no_receipt(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(5 * DAY_S)
        before = taken(c.anna, c.boris), given(c.boris, c.anna)
        for one in (c.anna, c.boris):
            one.kill()
            await trio.sleep(1)
            one.start()
        assert before[0] - 3 <= taken(c.anna, c.boris) <= before[0]
        assert given(c.boris, c.anna) == before[1]
        await trio.sleep(2 * DAY_S)
        assert given(c.boris, c.anna) > before[1] + DAY_H - 8
        assert is_disputed(c.boris, c.anna) == (False, False)


async def test_who_starts_often_signs_once_a_day_all_the_same(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(2 * DAY_S)
        before = receipt.parse(c.boris.ledger.gift(c.anna.owner).receipt).serial
        for _ in range(8):
            c.anna.kill()
            await trio.sleep(1)
            c.anna.start()
            await trio.sleep(3 * HOUR_S)
        assert receipt.parse(c.boris.ledger.gift(c.anna.owner).receipt).serial <= before + 2


def copy_of(
    store: MemoryContracts,
    accounts: Mapping[OwnerId, bytes] | None = None,
    gifts: Mapping[OwnerId, bytes] | None = None,
) -> MemoryContracts:
    """The contracts of a store, and other pages."""
    made = MemoryContracts()
    for owner, raw in store.contracts().items():
        made.save_contract(owner, raw)
    for owner, raw in (accounts or {}).items():
        made.save_account(owner, raw)
    for owner, raw in (gifts or {}).items():
        made.save_gift(owner, raw)
    return made


async def test_customer_who_recovers_has_his_ledger_back_with_the_first_answer(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(10 * DAY_S)
        signed, serial = given(c.boris, c.anna), receipt.parse(c.boris.ledger.gift(c.anna.owner).receipt).serial
        new = c.replace_anna()
        await trio.sleep(3 * HOUR_S)
        assert signed <= taken(new, c.boris) < signed + 4
        await trio.sleep(3 * DAY_S)
        assert signed + 2 * DAY_H - 8 < given(c.boris, new) <= taken(new, c.boris)
        newest = receipt.parse(c.boris.ledger.gift(new.owner).receipt)
        assert newest.serial > serial and newest.signer.node == new.identity.node


@pytest.mark.parametrize("absurd", [{"serial": (1 << 63) - 1}, {"byte_hours": (1 << 63) - 1}])
async def test_receipt_of_a_stolen_machine_ends_no_ledger(autojump_clock: MockClock, absurd: dict[str, int]) -> None:
    async with couple() as c:
        await trio.sleep(3 * DAY_S)
        stolen, owner = c.anna.identity, c.anna.owner
        told = receipt.parse(c.boris.ledger.gift(owner).receipt).told
        raw = receipt.sign(stolen, replace(told, **{"serial": told.serial + 1} | absurd)).raw  # type: ignore[arg-type]
        answer = await c.boris.receipts.take(stolen.certificate, raw)
        assert isinstance(answer, wire.Receipted) and answer.receipt == raw
        new = c.replace_anna()
        await trio.sleep(5 * DAY_S)
        kept = receipt.parse(c.boris.ledger.gift(owner).receipt)
        assert kept.signer == new.identity.certificate
        assert kept.serial < 10 and 3 * 24 < given(c.boris, new) <= taken(new, c.boris) <= 5 * 24


async def test_absurd_receipt_stays_as_long_as_its_machine_is_not_revoked(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        newest = await f.sends(serial=(1 << 63) - 1)
        assert (await f.sends(serial=9)).receipt == newest.receipt


async def test_old_disk_goes_on_from_what_was_signed_since(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(5 * DAY_S)
        old = c.anna.contracts.accounts()
        await trio.sleep(5 * DAY_S)
        signed = given(c.boris, c.anna)
        c.anna.kill()
        c.anna.contracts = copy_of(c.anna.contracts, old)
        c.anna.start()
        assert taken(c.anna, c.boris) < signed
        await trio.sleep(2 * DAY_S)
        assert signed < given(c.boris, c.anna) <= taken(c.anna, c.boris) <= 12 * DAY_H


async def test_supplier_that_lost_its_ledger_is_shown_the_newest_receipt(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(5 * DAY_S)
        signed = given(c.boris, c.anna)
        c.boris.kill()
        c.boris.contracts = copy_of(c.boris.contracts)
        c.boris.start()
        assert given(c.boris, c.anna) == 0
        await trio.sleep(2 * DAY_S)
        assert given(c.boris, c.anna) > signed
        assert is_disputed(c.anna, c.boris) == is_disputed(c.boris, c.anna) == (False, False)


async def test_jumps_of_the_wall_add_nothing(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(3 * DAY_S)
        for jump_s in (400 * DAY_S, -800 * DAY_S, 400 * DAY_S):
            c.wall.move_s(jump_s)
            await trio.sleep(2 * DAY_S)
        assert 9 * DAY_H - 4 < taken(c.anna, c.boris) <= 9 * DAY_H
        assert 8 * DAY_H - 8 < given(c.boris, c.anna) <= taken(c.anna, c.boris)
        assert is_disputed(c.boris, c.anna) == (False, False)


async def test_contract_that_changes_keeps_its_ledger(autojump_clock: MockClock) -> None:
    async with couple() as c:
        await trio.sleep(3 * DAY_S)
        c.agree(9 * MIB, c.signed)
        for one in (c.anna, c.boris):
            one.kill()
            one.start()
        await trio.sleep(3 * DAY_S)
        assert given(c.boris, c.anna) > 5 * DAY_H - 10
        assert receipt.parse(c.boris.ledger.gift(c.anna.owner).receipt).told.contract == c.signed.digest


async def test_customer_who_signs_too_little_is_shown_and_nothing_else_happens(autojump_clock: MockClock) -> None:
    async with couple() as c:
        c.anna.receipts.stores = False
        await trio.sleep(4 * DAY_S)
        assert is_disputed(c.boris, c.anna) == (True, False)
        assert c.boris.ledger.balance(c.anna.owner)["given_counted"] > 3 * DAY_H * len(CONTENT)
        assert c.boris.keeper.admit(c.anna.identity.certificate, wire.Stat()) is None


async def test_supplier_who_counts_too_much_is_shown_at_the_customer(autojump_clock: MockClock) -> None:
    async with couple() as c:
        c.boris.ledger.keeps = lambda _owner: 10 * len(CONTENT)
        await trio.sleep(6 * DAY_S)
        assert is_disputed(c.anna, c.boris) == (False, True)
        assert taken(c.anna, c.boris) <= 6 * DAY_H


# -- what a customer may send ----------------------------------------------------------------------


@asynccontextmanager
async def agreed() -> AsyncIterator[Friends]:
    """With one genuine receipt, of serial 5."""
    async with friends() as f:
        await f.store()
        await f.sends(serial=5)
        yield f


async def refuses(
    f: Friends, code: Refused, why: str | None, request: wire.Receipt, peer: Peer | None = None
) -> None:
    before = f.boris.contracts.gifts()
    with pytest.raises(PeerRefused, match=why) as refused:
        await (peer or f.to_boris()).request(request, wire.Receipted)
    assert refused.value.facts["code"] is code
    assert f.boris.contracts.gifts() == before


async def test_receipt_is_kept_durably_and_answered_with_the_suppliers_own_count(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        answer = await f.sends(serial=6, byte_hours=2 * 10**9)
        kept = receipt.parse(answer.receipt)
        assert (kept.serial, kept.byte_hours) == (6, 2 * 10**9)
        view = receipt.parse_view(answer.view)
        assert (view.receipt, view.signer) == (kept.digest, f.boris.identity.certificate)
        assert kept.raw in f.boris.contracts.gifts()[f.anna.owner]


async def test_what_was_let_go_is_not_kept_for_anybody(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        assert f.boris.keeper.kept_bytes(f.anna.owner) == len(CONTENT)
        await f.anna.suppliers.delete(SupplierNo(1), [FragmentName(b"n" * 32)])
        assert f.boris.keeper.kept_bytes(f.anna.owner) == 0 < f.boris.shelf.used(f.anna.owner)[0]


@pytest.mark.parametrize("at", [5, 100, 130, 200, RECEIPT_BYTES - 1])
async def test_forged_receipt_is_refused(autojump_clock: MockClock, at: int) -> None:
    async with agreed() as f:
        bent = bytearray(receipt.sign(f.anna.identity, f.told(serial=6)).raw)
        bent[at] ^= 1
        await refuses(f, Refused.BAD_REQUEST, None, wire.Receipt(bytes(bent)))


async def test_receipts_that_are_not_for_this_contract_now_are_refused(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        soon_s = f.anna.clerk.now_s() + 2 * HOUR_S
        for changes, why in (
            ({"contract": b"c" * 32}, "not ours"),
            ({"supplier": make_identity("carla").owner}, "another supplier"),
            ({"to_s": soon_s}, "future"),
            ({"byte_hours": 10**8, "new_byte_hours": 0}, "takes back"),
        ):
            raw = receipt.sign(f.anna.identity, f.told(serial=6, **changes)).raw
            await refuses(f, Refused.BAD_REQUEST, why, wire.Receipt(raw))


async def test_receipt_that_another_node_or_owner_signed_is_refused(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        twin = make_identity("twin", owner="anna")
        raw = receipt.sign(twin, f.told(serial=6)).raw
        await refuses(f, Refused.BAD_REQUEST, "another node", wire.Receipt(raw))
        carla = make_identity("carla")
        raw = receipt.sign(carla, f.told(serial=6, customer=carla.owner)).raw
        await refuses(f, Refused.BAD_REQUEST, "another node", wire.Receipt(raw))


async def test_replayed_receipt_changes_nothing_and_shows_the_newest(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        newest = await f.sends(serial=9)
        for serial in (9, 8, 5, 1):
            assert (await f.sends(serial=serial)).receipt == newest.receipt


async def test_stranger_and_revoked_node_are_refused(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        carla = make_identity("carla")
        peer = await connect(f.nursery, f.network, carla, f.boris.address, f.boris.node)
        raw = receipt.sign(carla, f.told(customer=carla.owner)).raw
        await refuses(f, Refused.NO_CONTRACT, "no contract", wire.Receipt(raw), peer)
        stolen, request = f.to_boris(), wire.Receipt(receipt.sign(f.anna.identity, f.told(serial=6)).raw)
        new = make_identity("new", owner="anna", epoch=2)
        await f.boris.keeper.answer(new.certificate, wire.Ping(), b"")
        with pytest.raises(PeerError) as refused:
            await stolen.request(request, wire.Receipted)
        assert refused.value.facts["code"] is Refused.STALE


async def test_oversized_receipt_ends_the_connection(autojump_clock: MockClock) -> None:
    async with agreed() as f:
        with pytest.raises(PeerGone):
            await f.to_boris().request(wire.Receipt(bytes(RECEIPT_BYTES + 1)), wire.Receipted)


async def test_endless_receipts_take_neither_memory_nor_disk_nor_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with agreed() as f:
        caplog.set_level(logging.WARNING)
        saved = 0
        for serial in range(6, 120):
            try:
                await f.sends(serial=serial, byte_hours=10**9 + serial)
                saved += 1
            except PeerError as refused:
                assert refused.facts["code"] is Refused.UNAVAILABLE
        assert saved <= BURST
        assert len(f.boris.contracts.gifts()) == 1
        assert f.boris.ledger.owners() == {f.anna.owner}
        lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert 0 < len(lines) <= 12
        await trio.sleep(700)
        assert receipt.parse((await f.sends(serial=300, byte_hours=2 * 10**9)).receipt).serial == 300


# -- what a supplier may answer --------------------------------------------------------------------


class Liar:
    """A supplier that answers receipts with what it is told to."""

    def __init__(self) -> None:
        self.identity = make_identity("mallory")
        self.handler = self
        self.answers: list[bytes] = []
        self.view: bytes | None = None  # answers what it gets with this view
        self.asked: list[bytes] = []

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        return None

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes
    ) -> tuple[wire.Answer, tuple[bytes, ...]]:
        assert isinstance(request, wire.Receipt)
        self.asked.append(request.receipt)
        if self.view is not None and request.receipt:
            return wire.Receipted(request.receipt, self.view), ()
        return wire.Receipted(self.answers.pop(0) if self.answers else b"", b""), ()


@asynccontextmanager
async def with_liar() -> AsyncIterator[tuple[Home, Liar, Told]]:
    """Anna, who has a contract with a liar, and what she would sign for him."""
    with trio.fail_after(500 * DAY_S):
        async with trio.open_nursery() as nursery:
            liar, anna = Liar(), Home(nursery, RunningWall(), make_identity("anna"))
            there = liar.identity
            giver = Party(there.owner, there.node, MIB, fragments_for(MIB), there.node)
            terms = Terms(1, NO_CONTRACT, NOW_S, 0, Party(anna.owner, anna.identity.node), giver)
            signed = contract.countersign(there, contract.propose(anna.identity, terms))
            anna.contracts.save_contract(there.owner, signed.raw)
            anna.start()
            anna.line.peer = Called(anna.identity, cast(Home, liar))

            async def holdings() -> Sequence[Holding]:
                return [Holding(there.owner, there.node, MIB, answers=True)]

            anna.ledger.holdings = holdings
            yield anna, liar, Told(1, signed.digest, anna.owner, there.owner, NOW_S, NOW_S, NOW_S, 10**9, 10**9, MIB)
            nursery.cancel_scope.cancel()


async def test_receipts_that_are_not_ours_are_not_taken_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_liar() as (anna, liar, told):
        swapped = replace(told, customer=told.supplier, supplier=anna.owner)
        liar.answers = [
            b"\x01" * RECEIPT_BYTES,
            receipt.sign(liar.identity, swapped).raw,
            receipt.sign(anna.identity, replace(told, supplier=OwnerId(b"o" * 32))).raw,
        ]
        await trio.sleep(DAY_S)
        assert liar.asked[:3] == [b"", b"", b""] and not liar.answers
        assert anna.ledger.account(told.supplier).receipt == b""
        assert caplog.text.count("no receipt for") == 3


async def test_answers_that_are_not_by_the_supplier_or_not_to_our_receipt_are_not_kept(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_liar() as (anna, liar, told):
        other = receipt.sign(anna.identity, told)
        for view in (b"", b"\x01" * 251, receipt.sign_view(liar.identity, other, 1, 1).raw):
            liar.view = view
            await trio.sleep(DAY_S)
            anna.ledger.proven(told.supplier, liar.identity.node)
            await trio.sleep(DAY_S)
        account = anna.ledger.account(told.supplier)
        assert account.receipt in liar.asked and account.byte_hours > 4 * DAY_H * MIB
        assert account.view == b"" and anna.ledger.balance(told.supplier)["taken_until_s"] == 0
        assert "an answer to another receipt" in caplog.text


async def test_supplier_that_takes_no_receipts_is_asked_again_and_costs_nothing(autojump_clock: MockClock) -> None:
    async with with_liar() as (anna, liar, told):
        await trio.sleep(DAY_S)
        anna.ledger.proven(told.supplier, liar.identity.node)
        await trio.sleep(DAY_S)  # it says that it keeps nothing, whatever it is sent
        assert 2 < len(liar.asked) < 60
        assert anna.ledger.account(told.supplier).byte_hours > DAY_H * MIB - MIB
