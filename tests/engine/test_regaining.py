"""A line that was chosen over one that had taken care of the volume meanwhile: packed its blocks, let old ones go."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.compaction import MERGE_RUN
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import Unavailable
from bitdustfs.model import ROOT_INO, BlockId, Cookie, FragmentState, Inode
from bitdustfs.testing.world import World, read_whole_of
from tests.engine.bodies import Body
from tests.engine.machines import DESKTOP, LEASE_S, Machine, two, until
from tests.engine.test_forks import (
    LAPTOPS_TREE,
    LAST_TREE,
    broken,
    brought_in,
    forked,
    fragments,
    learn_beside,
    tree_of,
    versions,
)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def block_ids(catalog: SqliteCatalog) -> set[BlockId]:
    return {row.block_id for row in catalog.blocks()}


async def fill_blocks(machine: Machine) -> None:
    """Write so much, in small and in large blocks, that blocks of before are packed with these."""
    for number, size in enumerate([13, 150_000] * MERGE_RUN):
        await machine.write(f"more {number}", bytes([number]) * size)
        assert await machine.sync() == "safe"


async def packed(world: World, laptop: Machine, desktop: Machine) -> None:
    """The desktop shows the laptop's line, and packs all that is in it into other blocks."""
    with closing(SqliteCatalog(laptop.path)) as catalog:
        laptops = block_ids(catalog)
    desktop.takes_over = True
    async with desktop.mounted(wait=False) as node:
        generation = await brought_in(desktop)
        await fill_blocks(desktop)
        await until(lambda: laptops.isdisjoint(block_ids(desktop.catalog)))
        await trio.sleep(LEASE_S)
        assert await tree_of(node, generation) == LAPTOPS_TREE


def listed(machine: Machine, directory: str = "") -> list[tuple[str, Inode]]:
    """Names and inodes in the root directory, or one in it."""
    tree = machine.node.tree
    found = tree.lookup(ROOT_INO, directory.encode()) if directory else tree.attributes(ROOT_INO)
    assert found is not None
    return [(name.name.decode(), inode) for name, inode in tree.listing(found.ino, Cookie(0), 1000)]


async def tree_recovered(world: World, path: Path) -> dict[str, bytes]:
    """The files that a machine shows which has nothing but what suppliers hold."""
    other = Machine(world, path, DESKTOP)
    await learn_beside(world, other)
    async with other.mounted() as node:
        return {name: await read_whole_of(node, inode.ino) for name, inode in listed(other)}


@pytest.mark.slow
async def test_chosen_line_has_all_that_it_had_though_the_other_packed_it_elsewhere(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, laptop, desktop):
        await packed(world, laptop, desktop)
        async with laptop.mounted(wait=False) as node:
            await brought_in(laptop)
            ((snapshot, _fork),) = node.forks.all()
            await node.forks.resolve(snapshot.name)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            assert await laptop.sync() == "safe"
            assert not broken(laptop.catalog)
        assert await tree_recovered(world, tmp_path / "other") == LAPTOPS_TREE


@pytest.mark.slow
async def test_file_that_is_put_aside_is_whole_though_what_was_sent_of_it_was_packed_elsewhere(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    content = random.Random(5).randbytes(150_000)
    async with two(tmp_path) as (world, laptop, _desktop), trio.open_nursery() as nursery:
        one = Body(world, laptop)
        other = Body(world, Machine(world, tmp_path / "desktop", DESKTOP, b"another seat 16b"))
        one.world_nursery = other.world_nursery = nursery
        await one.mount(nursery, takes_over=False, patience_s=5)
        await laptop.write("file", content)
        await laptop.write("beside it", bytes(range(256)) * 1000)
        assert await laptop.sync() == "safe"
        await other.machine.learn()
        before = block_ids(laptop.catalog)
        laptop.cut()
        inode = laptop.node.tree.lookup(ROOT_INO, b"file")
        assert inode is not None
        await laptop.node.files.write(inode.ino, 0, b"changed")
        await laptop.node.files.fsync(inode.ino)
        await laptop.node.drop_cache()
        await one.umount()
        laptop.heal()

        assert await other.mount(nursery, takes_over=True, patience_s=5) == "held"
        other.machine.node.tree.unlink(ROOT_INO, b"beside it")
        await until(lambda: before.isdisjoint(block_ids(other.machine.catalog)))
        await trio.sleep(LEASE_S)
        await other.umount()

        assert await one.mount(nursery, takes_over=False, patience_s=5) == "held"
        await until(lambda: not one.olds)
        (folder,) = (name for name, found in listed(laptop) if found.is_dir)
        files = [await read_whole_of(laptop.node, found.ino) for _name, found in listed(laptop, folder)]
        assert b"changed" + content[len(b"changed") :] in files
        await one.umount()


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
async def test_fragment_that_only_the_other_catalog_has_counts_no_more_once_a_line_came_or_failed_to(
    autojump_clock: MockClock, tmp_path: Path, fails: bool
) -> None:
    async with forked(tmp_path) as (world, laptop, desktop):
        await packed(world, laptop, desktop)
        async with laptop.mounted(wait=False) as node:
            before = block_ids(laptop.catalog)

            def lose(step: str) -> None:
                if step == "grafting":
                    owner, shelf = world.swarm.identity.owner, world.swarm.suppliers[4].memory_shelf
                    for name, _length in shelf.names(owner, b"", 10_000):
                        shelf.delete(owner, name, now_s=0)
                if step == "keeping" and fails:
                    raise Unavailable(what="it is tried again")

            node.forks.on_step = lose
            await until(node.forks.unreadable if fails else node.forks.all)
            came = [row.block for row in laptop.catalog.blocks() if row.block_id not in before]
            at_5 = [each for number in came for each in laptop.catalog.fragments(number) if each.supplier == 5]
            assert {each.state for each in at_5} == {FragmentState.LOST}


@pytest.mark.slow
async def test_line_that_went_on_is_whole_though_what_came_of_it_before_was_packed_and_let_go_here(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The newest head names the blocks in which the chunks lay, and the tree that shows them elsewhere goes."""
    async with forked(tmp_path, strays=2, goes_on=True) as (world, laptop, desktop):
        world.swarm.suppliers[1].mute.refuses_heads = True
        held = fragments(world)
        await packed(world, laptop, desktop)
        assert held - fragments(world)
        world.swarm.suppliers[1].mute.refuses_heads = False
        async with desktop.mounted(wait=False) as node:
            before = await brought_in(desktop)
            await until(lambda: node.forks.all()[0][0].generation != before)
            await until(lambda: node.forks.has_everything)
            await trio.sleep(LEASE_S)
            assert await desktop.sync() == "safe"
            await node.drop_cache()
            assert await tree_of(node, node.forks.all()[0][0].generation) == LAST_TREE
            assert not broken(desktop.catalog)
