"""A catalog is compared with the spool and with the suppliers, and what they lack is made again."""

from __future__ import annotations

from dataclasses import replace

import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.engine.fsck import check_shelf, check_spool
from bitdustfs.model import BlockNo, Code, FragmentState, Ino
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import SECRETS, World

CONTENT = bytes(range(256)) * 2000


def world() -> World:
    return World(code=Code(3, 5), patience=Patience.of(1e6))


async def test_suppliers_hold_what_the_catalog_says(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        for row in at.catalog.suppliers():
            found = await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)
            assert (found.missing, found.strangers) == (0, 0)
            assert found.held >= 1


async def test_what_a_shelf_lacks_is_found_marked_and_made_again(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        row = at.catalog.suppliers()[0]
        block = at.catalog.block(BlockNo(1))
        assert block is not None
        (mine,) = [each for each in at.catalog.fragments(BlockNo(1)) if each.supplier == row.supplier]
        name = SECRETS.fragment_name(block.block_id, mine.index, row.node)
        shelf = at.swarm.suppliers[0].memory_shelf
        assert shelf.delete(at.swarm.identity.owner, name, now_s=0)
        found = await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)
        assert found.missing == 1
        assert mine in at.catalog.fragments(BlockNo(1))
        await check_shelf(at.catalog, at.node.suppliers, SECRETS, row, mark=True)
        assert replace(mine, state=FragmentState.LOST) in at.catalog.fragments(BlockNo(1))
        await trio.sleep(120)
        assert not at.catalog.wanting_blocks(1)
        assert (await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)).missing == 0


async def test_fragments_that_the_catalog_does_not_know_are_counted(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        row = at.catalog.suppliers()[0]
        (mine,) = [each for each in at.catalog.fragments(BlockNo(1)) if each.supplier == row.supplier]
        at.catalog.drop_fragment(BlockNo(1), mine.index, row.supplier)
        found = await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)
        assert (found.missing, found.strangers) == (0, 1)


async def test_spool_files_are_compared_with_the_catalog(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        ino = await at.write("large", CONTENT)
        at.node.journal.commit()
        sound = check_spool(at.catalog, at.spool)
        assert (list(sound.missing), sound.unknown) == ([], 0)
        spool = MemorySpool()
        spool.write(Ino(4711), 0, b"?")
        found = check_spool(at.catalog, spool)
        assert (list(found.missing), found.unknown) == ([ino], 1)
