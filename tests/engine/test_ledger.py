"""The ledger over a real catalog and a real auditor: which hours count, and which do not."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import DAY_S, HOUR_S, Patience
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.holdings import keep_ledger
from bitdustfs.engine.ledger import Ledger
from bitdustfs.engine.node import Node
from bitdustfs.engine.services import NodeOptions
from bitdustfs.errors import DiskFull
from bitdustfs.model import ROOT_INO, Code, OwnerId, Standing, Supplier
from bitdustfs.testing.called import CalledNode, CalledSuppliers, Reach
from bitdustfs.testing.clock import FakeWall, InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.images import image_of
from bitdustfs.testing.shelf import MemoryContracts
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, SECRETS

pytestmark = pytest.mark.slow

CONTENT = random.Random(1).randbytes(300_000)
PENDING_H = 8  # audits come at random, 16 a day: what is not proven yet is seldom more
DAY_H = 24
STEP_S = 3600.0  # between two looks of everybody, so that days are cheap
WATCHING = frozenset({"journal", "suppliers", "monitor", "auditor"})  # the others look about several times a second


class Customer:
    """A customer of three suppliers that hold something of his; any may stay away for `patience`."""

    def __init__(self, *, audits_a_day: int = 16, patience: Patience | None = None) -> None:
        self.wall = FakeWall()
        self.store: MemoryContracts = MemoryContracts()
        self.identity = make_identity("customer")
        self.nodes = [CalledNode(number, self.wall) for number in (1, 2, 3)]
        self.catalog = SqliteCatalog(":memory:", create=True)
        self._spool = MemorySpool()
        self._entropy = SeededEntropy(7)
        self._options = NodeOptions(
            spool_limit=64 << 20,
            code=Code(1, 3),
            audits_a_day=audits_a_day,
            patience=patience or Patience.of(60 * DAY_S),
            watch_every_s=STEP_S,
        )
        self.node: Node

    async def fill(self) -> None:
        """Hire all, and store something."""
        side = CalledSuppliers(self.identity, (), self.nodes, Reach(), ping_s=STEP_S)
        for number, node in enumerate(self.nodes, start=1):
            node.allowed[self.identity.owner] = 64 << 20
            self.catalog.put_supplier(await side.hire(node, 64 << 20, number, Standing.HIRED))
        self.catalog.commit()
        async with self._machine():
            for name in (b"letter", b"answer"):  # a block each
                inode = self.node.tree.mknod(ROOT_INO, name, stat.S_IFREG | 0o644, CALLER)
                await self.node.files.write(inode.ino, 0, name + CONTENT)
                await self.node.sync(_say_nothing, None)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Ledger]:
        """Watch, audit and count."""
        async with self._machine(WATCHING):
            ledger = Ledger(self.store, crunch=InlineCrunch(), wall=self.wall, tick_s=STEP_S / 2)
            keep_ledger(ledger, self.catalog, self.node.fragments.leaves, self.node.auditor)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ledger.run)
                yield ledger
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _machine(self, only: Iterable[str] | None = None) -> AsyncIterator[None]:
        side = CalledSuppliers(self.identity, self.catalog.suppliers(), self.nodes, Reach(), ping_s=STEP_S)
        self.node = node = Node(
            identity=self.identity,
            catalog=self.catalog,
            changes=SqliteChanges(),
            image=lambda: image_of(self.catalog),
            spool=self._spool,
            suppliers=side,
            crunch=InlineCrunch(),
            entropy=self._entropy,
            wall=self.wall,
            secrets=SECRETS,
            options=self._options,
        )
        if only is None:
            node.tree.plant(None, CALLER)
        for name in set(node.services) - set(only if only is not None else node.services):
            del node.services[name]
        async with node.running():
            yield

    def row(self, number: int) -> Supplier:
        return next(each for each in self.catalog.suppliers() if each.supplier == number)

    def hours(self, ledger: Ledger, number: int) -> float:
        """For how many hours what a supplier holds now was counted."""
        return ledger.account(self.row(number).owner).byte_hours / self.row(number).used_bytes


async def _say_nothing(_step: object) -> None:
    return


@asynccontextmanager
async def filled(**options: object) -> AsyncIterator[Customer]:
    with trio.fail_after(500 * DAY_S):
        customer = Customer(**options)  # type: ignore[arg-type]
        await customer.fill()
        yield customer


async def test_what_suppliers_hold_counts_as_far_as_audits_have_shown_it(autojump_clock: MockClock) -> None:
    async with filled() as c, c.counting() as ledger:
        await trio.sleep(3 * DAY_S)
        for number in (1, 2, 3):
            assert 3 * DAY_H - PENDING_H < c.hours(ledger, number) <= 3 * DAY_H
        account = ledger.account(c.row(1).owner)
        assert account.held_bytes == c.row(1).used_bytes
        assert account.since_s == ledger.now_s()  # the wall stands still here: no length comes from it


async def test_nothing_counts_without_audits(autojump_clock: MockClock) -> None:
    async with filled() as c, c.counting() as ledger:
        c.node.auditor.on_proven = lambda _supplier: None
        await trio.sleep(2 * DAY_S)
        assert [c.hours(ledger, number) for number in (1, 2, 3)] == [0, 0, 0]


async def test_supplier_that_is_away_is_counted_for_the_hours_before_and_after(autojump_clock: MockClock) -> None:
    async with filled() as c, c.counting() as ledger:
        await trio.sleep(2 * DAY_S)
        c.nodes[0].is_up = False
        await trio.sleep(3 * DAY_S)
        c.nodes[0].is_up = True
        await trio.sleep(2 * DAY_S)
        assert 4 * DAY_H - PENDING_H < c.hours(ledger, 1) <= 4 * DAY_H
        assert 7 * DAY_H - PENDING_H < c.hours(ledger, 2) <= 7 * DAY_H


async def test_supplier_that_has_thrown_all_away_is_counted_until_its_last_right_answer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with filled() as c, c.counting() as ledger:
        await trio.sleep(2 * DAY_S)
        kept, before = c.row(1).used_bytes, ledger.account(c.row(1).owner).byte_hours
        c.nodes[0].wipe()
        await trio.sleep(2 * DAY_S)
        assert ledger.account(c.row(1).owner).byte_hours == before <= 2 * DAY_H * kept
        assert c.hours(ledger, 2) > 4 * DAY_H - PENDING_H
    assert "is lost" in caplog.text


async def test_one_lost_fragment_does_not_count_and_the_others_do(autojump_clock: MockClock) -> None:
    async with filled() as c, c.counting() as ledger:
        prove, c.node.auditor.on_proven = c.node.auditor.on_proven, lambda _supplier: None
        await trio.sleep(12 * HOUR_S)
        c.node.auditor.on_proven = prove
        names = c.nodes[0].shelf.names(c.identity.owner, b"", 100)
        lost, length = max(names, key=lambda each: each[1])
        c.nodes[0].conduct.dropped.add((bytes(c.identity.owner), bytes(lost)))
        c.node.auditor.look_through(c.row(1).supplier)
        await trio.sleep(60)
        kept = c.row(1).used_bytes - length
        assert length > 0 < kept
        assert 11 * kept < ledger.account(c.row(1).owner).byte_hours <= 12.1 * kept


async def test_supplier_that_was_given_up_takes_what_was_not_shown_with_it(autojump_clock: MockClock) -> None:
    async with filled(patience=Patience.of(6 * HOUR_S)) as c, c.counting() as ledger:
        c.node.auditor.on_proven = lambda _supplier: None
        await trio.sleep(DAY_S)
        owner = c.row(1).owner
        assert ledger.account(owner).windows
        c.nodes[0].is_up = False
        await trio.sleep(DAY_S)
        assert c.row(1).is_lost
        assert not ledger.account(owner).windows


async def test_time_between_two_processes_is_not_counted_and_nothing_else_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with filled() as c:
        async with c.counting() as first:
            await trio.sleep(2 * DAY_S)
        seen = {owner: first.account(owner) for owner in first.owners()}
        await trio.sleep(10 * DAY_S)
        c.wall.move_s(10 * DAY_S)
        async with c.counting() as second:
            assert {owner: second.account(owner) for owner in second.owners()} == seen
            await trio.sleep(2 * DAY_S)
            for number in (1, 2, 3):
                assert 4 * DAY_H - PENDING_H < c.hours(second, number) <= 4 * DAY_H


async def test_fragments_that_are_lost_are_not_held(autojump_clock: MockClock) -> None:
    async with filled() as c, c.counting() as ledger:
        await trio.sleep(2 * HOUR_S)
        assert ledger.account(c.row(1).owner).held_bytes == c.row(1).used_bytes
        c.nodes[0].wipe()
        c.node.auditor.look_through(c.row(1).supplier)
        await trio.sleep(2 * HOUR_S)
        assert ledger.account(c.row(1).owner).held_bytes == 0 < c.row(1).used_bytes


# -- the ledger alone ------------------------------------------------------------------------------


class FullStore(MemoryContracts):
    """A disk that is full for a while."""

    is_full = False

    def save_account(self, owner: OwnerId, account: bytes) -> None:
        if self.is_full:
            raise DiskFull(path="contracts")
        super().save_account(owner, account)


async def test_full_disk_costs_no_count(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with filled() as c:
        c.store = store = FullStore()
        async with c.counting() as ledger:
            store.is_full = True
            await trio.sleep(DAY_S)
            assert not store.accounts() and "the ledger is kept later" in caplog.text
            store.is_full = False
            await trio.sleep(HOUR_S)
            again = Ledger(store, crunch=InlineCrunch(), wall=FakeWall())
            assert again.account(c.row(1).owner).byte_hours > (DAY_H - PENDING_H) * c.row(1).used_bytes
            assert ledger.owners() == again.owners()


async def test_damaged_page_costs_what_is_on_it(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryContracts()
    one, other = OwnerId(b"1" * 32), OwnerId(b"2" * 32)
    store.save_account(one, b"\x01rubbish")
    store.save_gift(other, b"")
    ledger = Ledger(store, crunch=InlineCrunch(), wall=FakeWall())
    assert ledger.balance(one)["taken_byte_hours"] == ledger.balance(other)["given_counted"] == 0
    assert caplog.text.count("damaged, and begins anew") == 2
