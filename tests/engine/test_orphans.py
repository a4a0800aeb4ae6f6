"""Fragments that the lost machine sent and never named are released, and no other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.attributes import CODE_XATTR
from bitdustfs.engine.claim import Claimed
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.orphans import Orphans, expect_orphans
from bitdustfs.engine.releases import Releases
from bitdustfs.model import (
    BlockId,
    BlockNo,
    BlockRow,
    Code,
    FragmentName,
    FragmentState,
    NodeId,
    Root,
    Suite,
    Supplier,
    SupplierNo,
)
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.network import Break
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.suppliers import MemorySuppliers
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World
from tests.engine.machines import LEASE_S, Asking, Machine, two, until
from tests.engine.recovered import recover
from tests.engine.setback import fetch, look

CODE = Code(3, 5)
SECOND = make_identity("second machine", owner="customer", epoch=2)
LONG = random.Random(5).randbytes(900_000)
FIRST = SupplierNo(1)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def stored(world: World) -> list[set[bytes]]:
    """The names of our fragments at each supplier, without its trash."""
    owner = world.swarm.identity.owner
    return [
        {bytes(name) for name, _ in each.memory_shelf.names(owner, b"", 10_000)} for each in world.swarm.suppliers
    ]


def wanted(world: World, catalog: SqliteCatalog) -> set[bytes]:
    """The names of all fragments of all blocks that a catalog knows."""
    return {
        bytes(SECRETS.fragment_name(block.block_id, index, supplier.node))
        for block in [*catalog.blocks(), *catalog.local_blocks()]
        for index in range(block.code.n)
        for supplier in world.swarm.suppliers
    }


def held(catalog: SqliteCatalog, supplier: int) -> set[bytes]:
    """The names of all fragments that a supplier holds by a catalog."""
    nodes = {row.supplier: row.node for row in catalog.suppliers()}
    return {
        bytes(SECRETS.fragment_name(block.block_id, row.index, nodes[row.supplier]))
        for block in [*catalog.blocks(), *catalog.local_blocks()]
        for row in catalog.fragments(block.block)
        if row.supplier == supplier and row.state is FragmentState.HELD
    }


async def lost_machine(world: World) -> None:
    """What it leaves: a file that is safe, and another that is placed and that no head names."""
    async with world.machine(world.catalog, world.spool) as node:
        await world.write("file", LONG[:300_000])
        await world.sync()
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = True
        await world.write("never named", LONG[300_000:])
        await node.writer.flush()
        await trio.sleep(20)  # the rest of its fragments


@pytest.mark.slow
async def test_what_the_lost_machine_never_named_is_released_after_a_recovery(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).hired() as world:
        await lost_machine(world)
        left = stored(world)
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = False
        await recover(world, tmp_path / "catalog", SECOND)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            assert all(names - wanted(world, catalog) for names in left)
            world.swarm.suppliers[4].kill()
            async with world.machine(catalog, MemorySpool(), identity=SECOND, wait=False):
                await trio.sleep(300)
                assert all(names - wanted(world, catalog) for names in stored(world))  # its head may name a state
                world.swarm.suppliers[4].start()
                await trio.sleep(300)
                here = stored(world)
                assert all(names <= wanted(world, catalog) for names in here)
                assert all(held(catalog, number) <= here[number - 1] for number in range(1, 6))
                assert held(catalog, 1)
                assert await world.read("file") == LONG[:300_000]
                assert await world.sync() == "safe"
                assert catalog.local_value("orphans") == b""


@pytest.mark.slow
async def test_what_another_machine_never_named_stays_where_an_old_disk_takes_its_own_head_and_goes_after_a_recovery(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", LONG[:300_000])
            assert await laptop.sync() == "safe"
        old = copyfile(laptop.path, tmp_path / "old")
        async with laptop.mounted():
            await laptop.write("later", b"later")
            assert await laptop.sync() == "safe"
        await desktop.learn()
        named = stored(world)
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = True
        async with desktop.mounted() as node:
            await desktop.write("never named", LONG[300_000:])
            await node.writer.flush()
            await trio.sleep(20)  # the rest of its fragments
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = False
        left = [after - before for before, after in zip(named, stored(world), strict=True)]
        assert all(left)

        with closing(SqliteCatalog(old)) as catalog:
            found = await look(world, catalog)
            assert found is not None
            assert found.head.signer.node == laptop.identity.node
            await fetch(world, catalog, found, tmp_path / "adopted")
        laptop = Machine(world, tmp_path / "adopted")
        async with laptop.mounted():
            await laptop.write("goes on", b"goes on")
            assert await laptop.sync() == "safe"
            await trio.sleep(600)
            assert all(names <= now for names, now in zip(left, stored(world), strict=True))
        last = Machine(world, tmp_path / "last", SECOND)
        await recover(world, last.path, SECOND)
        async with last.mounted():
            assert await last.sync() == "safe"
            await until(lambda: last.catalog.local_value("orphans") == b"")
            await until(lambda: not any(names & now for names, now in zip(left, stored(world), strict=True)))
            assert last.shows("goes on")


@pytest.mark.slow
@pytest.mark.parametrize("is_asked", [True, False], ids=["hands over", "is taken over"])
async def test_machine_that_met_another_one_looks_for_no_orphans_any_more(
    autojump_clock: MockClock, tmp_path: Path, is_asked: bool
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted() as node:
            await laptop.write("file", LONG[:300_000])
            assert await laptop.sync() == "safe"
            world.swarm.suppliers[4].kill()  # not gone through yet
            with node.journal.operation():
                expect_orphans(laptop.catalog)
            await trio.sleep(60)
            assert laptop.catalog.local_value("orphans")
            if not is_asked:
                for supplier in world.swarm.suppliers:
                    supplier.mute.refuses_heads = True
                await laptop.write("unsent", b"unsent")
            desktop.takes_over = not is_asked
            assert await Asking(desktop).run() is Claimed.HELD
            await until(lambda: node.journal.refusal is not None)
        with closing(SqliteCatalog(laptop.path)) as catalog:
            assert not catalog.local_value("orphans")


@pytest.mark.slow
async def test_machine_that_is_cut_off_takes_nothing_of_what_another_one_names_meanwhile(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Those that it reaches have not got the head yet, and it counts on a lease that somebody took over."""
    async with two(tmp_path) as (world, laptop, desktop), laptop.mounted() as node:
        await laptop.write("file", LONG[:300_000])
        assert await laptop.sync() == "safe"
        await desktop.learn()
        world.swarm.suppliers[4].kill()
        with node.journal.operation():
            expect_orphans(laptop.catalog)
        await until(lambda: laptop.catalog.local_value("orphans") == b"[1, 2, 3, 4]")
        for each in world.swarm.suppliers[:3]:
            world.swarm.network.apply(Break.CUT, laptop.identity.node, each.node)
        world.swarm.suppliers[4].start()
        world.swarm.suppliers[4].mute.refuses_heads = True
        desktop.takes_over = True
        async with desktop.mounted():
            await desktop.write("there", LONG[300_000:])
            assert await desktop.sync() == "safe"
            await trio.sleep(LEASE_S)
            assert held(desktop.catalog, 5)
            assert held(desktop.catalog, 5) <= stored(world)[4]


@pytest.mark.slow
async def test_machine_that_holds_the_volume_again_takes_nothing_of_what_another_one_never_named_in_between(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """That one came after the recovery, was cut off from taking its heads, and will go on."""
    async with two(tmp_path) as (world, laptop, desktop):
        world.swarm.suppliers[4].kill()
        async with laptop.mounted(wait=False) as node:
            await laptop.write("file", LONG[:300_000])
            assert await laptop.sync() == "safe"
        with closing(SqliteCatalog(laptop.path)) as catalog:
            expect_orphans(catalog)
            catalog.commit()
        async with laptop.mounted(wait=False) as node:
            await until(lambda: node.holding.is_held)
            await trio.sleep(60)
            assert node.orphans.are_due, "the fifth has not shown what it holds"
        await desktop.learn()
        for each in world.swarm.suppliers:
            each.mute.refuses_heads = True
        async with desktop.mounted(wait=False) as node:
            await desktop.write("never named", LONG[300_000:])
            await node.writer.flush()
            await trio.sleep(20)
            there = [held(desktop.catalog, number) for number in range(1, 5)]
        for each in world.swarm.suppliers:
            each.mute.refuses_heads = False
        world.swarm.suppliers[4].start()
        async with laptop.mounted():
            await laptop.write("goes on", b"goes on")
            assert await laptop.sync() == "safe"
            await trio.sleep(2 * LEASE_S)
            assert all(there)
            assert all(names <= now for names, now in zip(there, stored(world), strict=False))


@pytest.mark.slow
async def test_machine_that_is_mounted_again_takes_nothing_of_what_another_one_named_in_between(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It could not fetch the newer state, and goes on with its own."""
    async with two(tmp_path) as (world, laptop, desktop):
        async with laptop.mounted():
            await laptop.write("file", LONG[:300_000])
            assert await laptop.sync() == "safe"
        await desktop.learn()
        with closing(SqliteCatalog(laptop.path)) as catalog:
            expect_orphans(catalog)
            catalog.commit()
        for each in world.swarm.suppliers[3:]:
            each.mute.refuses_heads = True
        async with desktop.mounted():
            await desktop.write("there", LONG[300_000:])
            assert await desktop.sync() == "safe"
            there = [held(desktop.catalog, number) for number in range(1, 6)]
        for each in world.swarm.suppliers[3:]:
            each.mute.refuses_heads = False
        async with laptop.mounted(wait=False):
            await trio.sleep(2 * LEASE_S)
            assert all(names <= now for names, now in zip(there, stored(world), strict=True))


@pytest.mark.slow
async def test_nothing_is_looked_for_before_a_head_of_the_new_machine_is_safe(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).hired() as world:
        await lost_machine(world)
        left = stored(world)
        for supplier in world.swarm.suppliers:
            supplier.mute.refuses_heads = False
        await recover(world, tmp_path / "catalog", SECOND)
        for supplier in world.swarm.suppliers[:3]:
            supplier.mute.refuses_heads = True
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await trio.sleep(300)
                assert all(before <= after for before, after in zip(left, stored(world), strict=True))
                assert not catalog.count_releases()


class PagedShelf(MemorySuppliers):
    """One supplier that lists what it is told, a few names at a time; `meanwhile` happens before each answer."""

    def __init__(self, names: list[bytes]) -> None:
        super().__init__(1)
        self.listed = sorted(names)
        self.meanwhile: Callable[[], None] = lambda: None

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        await trio.lowlevel.checkpoint()
        self.meanwhile()
        return [(FragmentName(name), 1) for name in self.listed if name > after][:2]


def block(number: int, seed: int) -> BlockRow:
    block_id = BlockId(bytes([seed]) * 32)
    return BlockRow(BlockNo(number), block_id, 0, Suite.AES_256_GCM, Code(1, 1), 9, (Root(bytes(32)),))


def name_of(seed: int) -> FragmentName:
    return SECRETS.fragment_name(BlockId(bytes([seed]) * 32), 0, NodeId(bytes([1]) * 32))


def orphans_of(catalog: SqliteCatalog, shelf: PagedShelf) -> Orphans:
    journal = Journal(catalog)
    orphans = Orphans(
        catalog=catalog,
        journal=journal,
        shelves=shelf,
        secrets=SECRETS,
        crunch=InlineCrunch(),
        releases=Releases(catalog, journal, shelf, SECRETS),
    )
    orphans.may_look = lambda: True
    return orphans


async def test_what_is_on_its_way_or_became_a_block_meanwhile_is_no_orphan(autojump_clock: MockClock) -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        shelf = PagedShelf([name_of(seed) for seed in range(1, 7)])
        for row in shelf.rows():
            catalog.put_supplier(row)
        catalog.put_block(block(catalog.new_block_no(), 1))
        catalog.put_block(block(catalog.new_local_block_no(), 2))
        catalog.put_upload(b"u" * 32, [(FIRST, name_of(3))])
        expect_orphans(catalog)
        catalog.commit()
        orphans = orphans_of(catalog, shelf)

        def placed() -> None:
            if catalog.count_blocks() == 1:
                catalog.put_block(block(catalog.new_block_no(), 4))
                catalog.put_block(block(catalog.new_local_block_no(), 5))

        shelf.meanwhile = placed
        with trio.move_on_after(60):
            await orphans.run()
        assert catalog.releases(FIRST, 0, 9) == [name_of(6)]


async def test_what_a_supplier_tells_after_the_volume_was_held_anew_is_no_orphan(autojump_clock: MockClock) -> None:
    """It was asked before: this machine slept, and another one held the volume meanwhile."""
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        shelf = PagedShelf([name_of(6)])
        for row in shelf.rows():
            catalog.put_supplier(row)
        expect_orphans(catalog)
        catalog.commit()
        orphans = orphans_of(catalog, shelf)
        orphans.held()
        shelf.meanwhile = orphans.held
        with trio.move_on_after(60):
            await orphans.run()
        assert not catalog.count_releases()
        assert catalog.local_value("orphans") == b""


async def test_without_a_recovery_nothing_is_looked_for(autojump_clock: MockClock) -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        shelf = PagedShelf([name_of(6)])
        orphans = orphans_of(catalog, shelf)
        with trio.move_on_after(60):
            await orphans.run()
        assert not catalog.count_releases()


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False], ids=["first code of so many", "one of several"])
async def test_fragments_that_are_made_for_the_first_time_while_it_is_looked_are_no_orphans(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    async with World(code=Code(2, 4), suppliers=6).running() as world:
        orphans = world.node.orphans
        if not is_new:
            other = await world.write("other", LONG[300_000:400_000])
            world.node.attributes.set_xattr(other, CODE_XATTR, b"2/6")
            await world.sync()
        ino = await world.write("file", LONG[:300_000])
        await world.sync()
        (block,) = world.catalog.blocks_of(ino)
        know = orphans._known

        async def know_and_wait(row: Supplier, *args: Any) -> Any:
            known = await know(row, *args)
            if row.supplier not in {each.supplier for each in world.catalog.fragments(block)}:
                world.node.attributes.set_xattr(ino, CODE_XATTR, b"2/6")
                while world.catalog.held(block) < 6:
                    await trio.sleep(1)
            return known

        monkeypatch.setattr(orphans, "_known", know_and_wait)
        with world.node.journal.operation():
            expect_orphans(world.catalog)
        await trio.sleep(300)
        assert world.catalog.held(block) == 6
        for supplier in range(1, 7):
            assert held(world.catalog, supplier) <= stored(world)[supplier - 1]


@pytest.mark.slow
async def test_fragments_beyond_an_n_that_was_lowered_are_no_orphans_as_long_as_they_are_held(
    autojump_clock: MockClock,
) -> None:
    async with World(code=Code(2, 6), suppliers=6).running() as world:
        ino = await world.write("file", LONG[:300_000])
        await world.sync()
        (block,) = world.catalog.blocks_of(ino)
        world.node.attributes.set_xattr(ino, CODE_XATTR, b"2/4")
        while world.catalog.block(block).code != Code(2, 4):  # type: ignore[union-attr]
            await trio.sleep(1)
        with world.node.journal.operation():
            expect_orphans(world.catalog)
        while world.catalog.local_value("orphans") != b"":
            await trio.sleep(1)
        await trio.sleep(30)
        assert world.catalog.held(block) == 6
        for supplier in range(1, 7):
            assert held(world.catalog, supplier) <= stored(world)[supplier - 1]
