"""A stolen machine has the volume key, and its line may say what is not so: that counts for this line alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.engine.differences import Change
from bitdustfs.model import ROOT_INO, FragmentState
from bitdustfs.testing.world import SECRETS, read_whole
from tests.engine.machines import Machine, two, until
from tests.engine.test_forks import LAPTOPS, brought_in, fork

WANTED = random.Random(5).randbytes(len(LAPTOPS))  # the thief knows what will be written


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Lying(Machine):
    """A machine that says of a chunk of its own that it is another content, before it writes last."""

    async def write(self, name: str, content: bytes) -> None:
        if content == b"of the laptop":
            await until(lambda: not self.node.files.dirty_lives())
            with self.node.journal.operation():
                self.catalog._change(
                    "UPDATE r_chunk SET fingerprint = ? WHERE fingerprint = ?",
                    (SECRETS.fingerprint(WANTED), SECRETS.fingerprint(LAPTOPS)),
                )
                self.node.journal.note()
        await super().write(name, content)


class Marking(Machine):
    """A machine that gives a file other extended attributes behind everybody's back, before it writes last."""

    async def write(self, name: str, content: bytes) -> None:
        if content == b"of the laptop":
            inode = self.node.tree.lookup(ROOT_INO, b"old")
            assert inode is not None
            with self.node.journal.operation():
                self.catalog.put_xattr(inode.ino, b"user.origin", b"somewhere else")
                self.node.journal.note()
        await super().write(name, content)


@pytest.mark.slow
async def test_other_attributes_are_told_though_no_time_shows_them(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, Marking(world, laptop.path), desktop, 1)
        async with desktop.mounted() as node:
            await brought_in(desktop)
            ((snapshot, _),) = node.forks.all()
            told = {found.path: found.change async for found in node.forks.differences(snapshot)}
            assert told[b"old"] is Change.ATTRIBUTES


@pytest.mark.slow
async def test_what_is_written_here_never_lies_in_a_chunk_that_another_line_called_the_same(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, Lying(world, laptop.path), desktop, 1)
        async with desktop.mounted() as node:
            await brought_in(desktop)
            await desktop.write("wanted", WANTED)
            assert await desktop.sync() == "safe"
            await node.drop_cache()
            assert await read_whole(node, "wanted") == WANTED


@pytest.mark.slow
async def test_lost_content_is_not_regained_from_a_chunk_that_another_line_called_the_same(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        await fork(world, Lying(world, laptop.path), desktop, 1)
        world.swarm.cut(1)
        async with desktop.mounted(wait=False) as node:
            await desktop.write("wanted", WANTED)
            assert await desktop.sync() == "safe"
            await node.drop_cache()
            node.forks.on_step = lambda step: lose(desktop, b"wanted") if step == "grafting" else None
            world.swarm.heal(1)
            await brought_in(desktop)
            assert await read_whole(node, "wanted") == WANTED  # for they are where they were


def lose(machine: Machine, name: bytes) -> None:
    """All fragments of what a file has are lost, as far as we know."""
    inode = machine.node.tree.lookup(ROOT_INO, name)
    assert inode is not None
    with machine.node.journal.operation():
        for block in machine.catalog.blocks_of(inode.ino):
            for each in machine.catalog.fragments(block):
                machine.catalog.put_fragment(replace(each, state=FragmentState.LOST))
