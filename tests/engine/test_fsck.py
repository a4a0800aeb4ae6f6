"""A catalog is compared with the spool and with the suppliers, and what they lack is made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core import replica
from bitdustfs.core.grace import Patience
from bitdustfs.core.replica import ManifestNote
from bitdustfs.edges.catalog_repair import check, repair
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.fsck import check_shelf, check_spool
from bitdustfs.engine.snapshots import keep_note, kept_note
from bitdustfs.model import BlockNo, Code, FragmentState, Ino, Supplier
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import SECRETS, World

CONTENT = bytes(range(256)) * 2000


def world(coat: Callable[[str, Any], Any] = lambda _name, port: port) -> World:
    return World(code=Code(3, 5), patience=Patience.of(1e6), coat=coat)


@pytest.mark.slow
async def test_suppliers_hold_what_the_catalog_says(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        for row in at.catalog.suppliers():
            found = await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)
            assert (found.missing, found.strangers) == (0, 0)
            assert found.held >= 1


@pytest.mark.slow
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


@pytest.mark.slow
async def test_fragments_that_the_catalog_does_not_know_are_counted(autojump_clock: MockClock) -> None:
    async with world().running() as at:
        await at.write("letter", CONTENT)
        await at.sync()
        row = at.catalog.suppliers()[0]
        (mine,) = [each for each in at.catalog.fragments(BlockNo(1)) if each.supplier == row.supplier]
        at.catalog.drop_fragment(BlockNo(1), mine.index, row.supplier)
        found = await check_shelf(at.catalog, at.node.suppliers, SECRETS, row)
        assert (found.missing, found.strangers) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM r_supplier",
        "DELETE FROM r_supplier WHERE supplier = 2",
        "UPDATE r_supplier SET supplier = 1048578 WHERE supplier = 2",
    ],
)
async def test_suppliers_whose_rows_are_gone_come_back_from_the_head(
    autojump_clock: MockClock, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "catalog.db"
    at = world(lambda name, port: SqliteCatalog(path, create=True) if name == "catalog" else port)
    async with at.hired():
        async with at.machine(at.catalog, at.spool):
            await at.write("letter", CONTENT)
            assert await at.sync() == "safe"
        rows = at.catalog.suppliers()
        at.catalog._change(damage)
        at.catalog.commit()
        at.catalog.close()
        done = repair(path, tmp_path / "copy", 7, _listed)
        assert not done.left and not done.unknown
        at.catalog = SqliteCatalog(path)
        found = at.catalog.suppliers()
        assert [(row.supplier, row.node, row.address) for row in found] == [
            (row.supplier, row.node, row.address) for row in rows
        ]
        assert [(row.used_bytes, row.used_fragments) for row in found] == [
            (row.used_bytes, row.used_fragments) for row in rows
        ]
        async with at.machine(at.catalog, at.spool):
            await at.node.drop_cache()
            assert await at.read("letter") == CONTENT
            assert await at.sync() == "safe"
        at.catalog.close()


def _listed(head: bytes) -> list[Supplier]:
    return [entry.row() for entry in replica.unseal_head(SECRETS, heads.parse(head).sealed).suppliers]


def _cut(catalog: SqliteCatalog) -> None:
    catalog.put_local_value("manifest", (catalog.local_value("manifest") or b"")[:-1])


def _of_others(catalog: SqliteCatalog) -> None:
    note = kept_note(catalog)
    assert note is not None
    keep_note(catalog, ManifestNote(note.change, note.blocks, (BlockNo(-999),), note.image_bytes))


def _aside(catalog: SqliteCatalog) -> None:
    catalog.put_local_value("aside some state", b"\xff")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_cut, _of_others, _aside])
async def test_damaged_notes_are_found_and_what_they_told_of_is_done_again(
    autojump_clock: MockClock, tmp_path: Path, damage: Callable[[SqliteCatalog], None]
) -> None:
    path = tmp_path / "catalog.db"
    at = world(lambda name, port: SqliteCatalog(path, create=True) if name == "catalog" else port)
    async with at.hired():
        async with at.machine(at.catalog, at.spool):
            await at.write("letter", CONTENT)
            assert await at.sync() == "safe"
        damage(at.catalog)
        at.catalog.commit()
        at.catalog.close()
        assert [each.is_mendable for each in check(path).findings] == [True]
        assert not repair(path, tmp_path / "copy", 7).left
        assert check(path).is_sound
        at.catalog = SqliteCatalog(path)
        assert (at.catalog.local_value("manifest") is None) is (damage is not _aside)
        async with at.machine(at.catalog, at.spool):
            await at.write("more", CONTENT)
            assert await at.sync() == "safe"
            assert kept_note(at.catalog) is not None
            await at.node.drop_cache()
            assert await at.read("letter") == CONTENT
            with trio.fail_after(600):  # what the damaged one named is let go
                while at.node.replica.has_leftovers:
                    await trio.sleep(1)
            assert (await at.status())["trouble"] == []


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
