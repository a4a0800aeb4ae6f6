"""What `status --without` foretells is what comes when the supplier goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.errors import NotFound
from bitdustfs.model import ROOT_INO, BlockNo, Code, FragmentState
from bitdustfs.testing.world import World

CONTENT = bytes(range(256)) * 2000  # two chunks
PATIENCE = Patience.of(1e6)


def world(*, candidates: int = 0) -> World:
    return World(candidates=candidates, code=Code(3, 5), patience=PATIENCE)


def lose(world: World, count: int, *, block: int = 1) -> None:
    """Let the first `count` held fragments of a block be lost, none of them the one at supplier 5."""
    rows = [row for row in world.catalog.fragments(BlockNo(block)) if row.supplier != 5]
    for row in rows[:count]:
        world.catalog.put_fragment(replace(row, state=FragmentState.LOST))


@pytest.mark.slow
async def test_outlook_counts_what_one_supplier_less_leaves(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        label = at.catalog.suppliers()[4].label
        seen = await at.node.without(label)
        assert (seen["held"], seen["needed"], seen["wanted"]) == (4, 3, 5)
        assert (seen["state"], seen["blocks_lost"], seen["files_lost"]) == ("placed", 0, 0)
        assert seen["margin"] == 1
        assert seen["fragments"] >= 1
        assert seen["others"] == 4 < seen["most_wanted"]


@pytest.mark.slow
async def test_outlook_names_the_files_that_would_be_lost(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.write("other", CONTENT[::-1])
        await at.sync()
        await at.node.drop_cache()
        entry = at.node.tree.lookup(ROOT_INO, b"letter")
        assert entry is not None
        (block,) = at.catalog.blocks_of(entry.ino)
        at.node.rebuilder.complete = idle  # type: ignore[method-assign,assignment]
        lose(at, 2, block=block)
        sharing = [name for name in (b"letter", b"other") if shares(at, name, block)]
        seen = await at.node.without(at.catalog.suppliers()[4].label)
        assert seen["state"] == "lost"
        assert seen["blocks_lost"] == 1
        assert sorted(seen["examples"]) == [f"/{name.decode()}" for name in sharing]
        assert seen["files_lost"] == len(sharing)
        assert seen["bytes_lost"] == len(CONTENT) * len(sharing)
        assert seen["held"] == 2


@pytest.mark.slow
async def test_file_that_is_whole_here_would_not_be_lost(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        at.node.rebuilder.complete = idle  # type: ignore[method-assign,assignment]
        lose(at, 2)
        seen = await at.node.without(at.catalog.suppliers()[4].label)
        assert seen["blocks_lost"] == 1
        assert (seen["files_lost"], seen["examples"]) == (0, [])


@pytest.mark.slow
async def test_candidates_could_take_what_a_supplier_holds(autojump_clock: MockClock) -> None:
    async with world(candidates=1).running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        seen = await at.node.without(at.catalog.suppliers()[0].label)
        assert seen["others"] >= seen["most_wanted"]


@pytest.mark.slow
async def test_unknown_supplier_is_refused_with_the_names_that_there_are(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        with pytest.raises(NotFound, match=at.catalog.suppliers()[0].label):
            await at.node.without("nobody")


async def idle(_block: BlockNo) -> int:
    return 0


def shares(at: World, name: bytes, block: int) -> bool:
    entry = at.node.tree.lookup(ROOT_INO, name)
    return entry is not None and block in at.catalog.blocks_of(entry.ino)
