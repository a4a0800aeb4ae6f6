"""What is the same on both lines of a fork, and held worse with us than with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.past import at
from bitdustfs.engine.overtaken import AGAIN_S
from bitdustfs.model import ROOT_INO, BlockNo, FragmentState, Inode, MapRow
from bitdustfs.testing.world import read_whole
from tests.engine.machines import CODE, CONTENT, Machine, two, until
from tests.engine.test_forks import LAPTOPS, broken, brought_in, fork, fragments


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


FIRST = BlockNo(1)  # is older than the fork
LEFT = 2  # suppliers, too few to read it


def lose(machine: Machine) -> None:
    """The first block is lost but for what the first suppliers hold, and this machine knows it."""
    row = machine.catalog.block(FIRST)
    assert row is not None
    with machine.node.journal.operation():
        for each in machine.catalog.fragments(FIRST):
            if each.supplier > LEFT:
                name = machine.node.releases.name(row, each.index, each.supplier)
                assert name is not None
                conduct = machine.world.swarm.suppliers[each.supplier - 1].conduct
                conduct.dropped |= {(bytes(machine.identity.owner), bytes(name))}
                machine.catalog.put_fragment(replace(each, state=FragmentState.LOST))


def least_held(machine: Machine, inode: Inode) -> int:
    """Of the blocks in which the chunks of a file lie."""
    return min(machine.catalog.held(chunk.block) for _index, chunk in machine.catalog.placed(inode.ino, 0, 100))


class Mending(Machine):
    """A machine that lost what it had stored, and writes a file of that anew, before it writes last."""

    async def write(self, name: str, content: bytes) -> None:
        if name == "the laptop's":
            await self.node.drop_cache()
            lose(self)
            await super().write("file again", CONTENT)
            await until(lambda: not self.node.files.dirty_lives())
        await super().write(name, content)


@pytest.mark.slow
async def test_what_both_have_and_only_the_other_line_holds_well_comes_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, Mending(world, laptop.path), desktop, 1)
        async with desktop.mounted() as node:
            node.forks.on_step = lambda step: lose(desktop) if step == "grafting" else None
            there = at(await brought_in(desktop), ROOT_INO)
            await node.drop_cache()
            for name in (b"file", b"file again"):
                inode = node.past.lookup(there, name)
                assert least_held(desktop, inode) >= CODE.quorum
                assert await node.past.read(inode.ino, 0, inode.size) == CONTENT
            ours = node.tree.lookup(ROOT_INO, b"file")
            assert ours is not None
            assert least_held(desktop, ours) >= CODE.quorum
            assert await read_whole(node, "file") == CONTENT
            assert not broken(desktop.catalog)


def forget(machine: Machine) -> None:
    """This machine does not know of what others made again: of the first block it knows two fragments."""
    with machine.node.journal.operation():
        for each in machine.catalog.fragments(FIRST):
            if each.supplier > LEFT:
                machine.catalog.drop_fragment(FIRST, each.index, each.supplier)


@pytest.mark.slow
async def test_fragments_that_the_other_line_made_of_a_block_that_few_hold_count(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, laptop, desktop, 1)
        async with desktop.mounted() as node:
            node.forks.on_step = lambda step: forget(desktop) if step == "grafting" else None
            await brought_in(desktop)
            assert desktop.catalog.held(FIRST) == CODE.n
            await node.drop_cache()
            assert await read_whole(node, "file") == CONTENT
            assert not broken(desktop.catalog)


@pytest.mark.slow
async def test_fragments_that_the_other_line_made_are_not_let_go_because_ours_gave_up_to_send_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    names = set[tuple[int, bytes, bytes]]()

    def give_up(machine: Machine) -> None:
        row, node = machine.catalog.block(FIRST), machine.node
        assert row is not None
        for each in machine.catalog.fragments(FIRST):
            name = node.releases.name(row, each.index, each.supplier)
            if each.supplier > LEFT and name is not None:
                names.add((int(each.supplier), bytes(machine.identity.owner), bytes(name)))
                with node.journal.operation():
                    node.uploads.overtaken.note([(each.supplier, name)])
        forget(machine)

    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, laptop, desktop, 1)
        async with desktop.mounted() as node:
            node.forks.on_step = lambda step: give_up(desktop) if step == "grafting" else None
            await brought_in(desktop)
            await trio.sleep(2 * AGAIN_S)
            assert desktop.catalog.held(FIRST) == CODE.n
            assert len(names) == CODE.n - LEFT
            assert names <= fragments(world)


class Laying(Machine):
    """A machine that has rows of the next version of a file in its map (core/laid)."""

    async def write(self, name: str, content: bytes) -> None:
        await super().write(name, content)
        if name == "the laptop's":
            await until(lambda: not self.node.files.dirty_lives())
            inode = self.node.tree.lookup(ROOT_INO, b"the laptop's")
            assert inode is not None
            chunk = self.catalog.placed(inode.ino, 0, 0)[0][1].chunk
            with self.node.journal.operation():
                self.catalog.replace_map(inode.ino, [MapRow(40, 1, chunk)], first=40, last=40)


@pytest.mark.slow
async def test_rows_of_a_version_to_come_do_not_come_with_the_other_line(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, Laying(world, laptop.path), desktop, 1)
        async with desktop.mounted() as node:
            there = at(await brought_in(desktop), ROOT_INO)
            inode = node.past.lookup(there, b"the laptop's")
            assert await node.past.read(inode.ino, 0, inode.size) == LAPTOPS
            assert [row.index for row in desktop.catalog.map_rows(inode.ino, 0, 99)] == [0]
            assert not broken(desktop.catalog)
