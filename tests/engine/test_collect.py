"""What nobody needs any more is let go at the suppliers, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine import collector, releases
from bitdustfs.engine.collector import is_kept_back
from bitdustfs.model import BLOCK_CHUNKS, CHUNK_BYTES, ChunkNo, Code, FragmentRow, FragmentState, SupplierNo
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import World
from tests.engine.recovered import Survivors, recover, stocks
from tests.engine.unneeded import delete, held, stored, stored_bytes, until

CODE = Code(3, 5)
DICE = random.Random(5)
CONTENT = DICE.randbytes(900_000)
LONG = DICE.randbytes(BLOCK_CHUNKS * CHUNK_BYTES + 1_800_000)  # a block, and seven chunks
SECOND = make_identity("second", owner="customer", epoch=2)
OTHER = DICE.randbytes(300_000)
A_WHILE_S = 60.0  # until a change is collected, in a safe head, and worked off


@pytest.mark.slow
async def test_bytes_of_a_deleted_file_are_freed_at_the_suppliers(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("large", CONTENT)
        await world.sync()
        before = [row.used_bytes for row in world.catalog.suppliers()]
        delete(world, "large")
        await until(lambda: not world.catalog.count_blocks() and not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)
        assert stored_bytes(world) < 200_000  # the catalog
        used = [row.used_bytes for row in world.catalog.suppliers()]
        assert all(now < then - 290_000 for now, then in zip(used, before, strict=True))
        assert await world.sync() == "safe"


@pytest.mark.slow
async def test_overwritten_and_shared_chunks_are_kept_as_long_as_a_file_has_them(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("one", CONTENT)
        await world.sync()
        await world.write("two", CONTENT)
        await world.sync()
        delete(world, "one")
        await world.write("two", OTHER, offset=300_000)
        await world.sync()
        await trio.sleep(A_WHILE_S)
        await world.node.drop_cache()
        expected = CONTENT[:300_000] + OTHER + CONTENT[600_000:]
        assert await world.read("two") == expected
        delete(world, "two")
        await until(lambda: not world.catalog.count_blocks() and not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_fragments_stay_until_a_head_without_them_is_safe(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with World(code=CODE).running() as world:
        await world.write("large", CONTENT)
        await world.sync()  # or both would lie in one block
        await world.write("small", OTHER)
        await world.sync()
        for supplier in world.swarm.suppliers[:3]:
            supplier.mute.refuses_heads = True
        named = held(world.catalog)
        delete(world, "large")
        await trio.sleep(2 * A_WHILE_S)
        assert world.catalog.count_blocks() == 1  # the chunks are forgotten
        assert world.catalog.count_releases()
        assert named <= stored(world)
        found = await Survivors(stocks(world), without=(4, 5)).recover(tmp_path / "catalog")
        assert found == {b"large": CONTENT, b"small": OTHER}


@pytest.mark.slow
async def test_supplier_that_was_away_lets_go_when_it_is_back(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("large", CONTENT)
        await world.sync()
        world.swarm.suppliers[1].kill()
        delete(world, "large")
        await trio.sleep(A_WHILE_S)
        assert set(world.catalog.count_releases()) == {SupplierNo(2)}
        world.swarm.suppliers[1].start()
        await until(lambda: not world.catalog.count_releases())
        assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_what_a_dead_process_left_half_done_is_done_by_the_next(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            await world.write("large", CONTENT)
            await world.sync()
            await world.write("small", OTHER)
            await world.sync()
            delete(world, "large")
            await trio.sleep(collector.LOOK_EVERY_S + releases.LOOK_EVERY_S)
            assert world.catalog.count_releases()
        async with world.machine(world.catalog, world.spool):
            await until(lambda: not world.catalog.count_releases())
            assert stored(world) == held(world.catalog)
            await world.node.drop_cache()
            assert await world.read("small") == OTHER


@pytest.mark.slow
async def test_chunks_that_were_placed_ahead_of_their_version_are_kept_for_it(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        ino = await world.write("stream", b"")
        world.node.tree.lives.opened(ino)
        await world.node.files.write(ino, 0, LONG)
        await trio.sleep(1)
        assert world.catalog.last_chunk_no() == BLOCK_CHUNKS
        await world.node.collector.collect()
        assert world.catalog.count_blocks() == 1
        await world.sync()
        await world.node.collector.collect()
        assert world.catalog.count_blocks() == 2
        assert world.catalog.last_chunk_no() == BLOCK_CHUNKS + 7
        await world.node.drop_cache()
        assert await world.read("stream") == LONG


@pytest.mark.slow
async def test_chunks_of_a_version_that_never_came_are_collected(autojump_clock: MockClock) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            ino = await world.write("stream", b"")
            world.node.tree.lives.opened(ino)
            await world.node.files.write(ino, 0, LONG)
            await trio.sleep(1)
            assert world.catalog.count_blocks() == 1  # ahead of the version
            delete(world, "stream")
        async with world.machine(world.catalog, world.spool):
            await until(lambda: not world.catalog.count_blocks() and not world.catalog.count_releases())
            assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_recovered_machine_collects_what_the_burnt_one_had_not_yet(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with World(code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool) as node:
            await world.write("large", CONTENT)
            await world.sync()
            await world.write("small", OTHER)
            await world.sync()
            node.collector.may_collect = lambda: False
            delete(world, "large")
            await world.sync()
        await recover(world, tmp_path / "catalog", SECOND)
        with closing(SqliteCatalog(tmp_path / "catalog")) as catalog:
            async with world.machine(catalog, MemorySpool(), identity=SECOND):
                await until(lambda: catalog.count_blocks() == 1 and not catalog.count_releases())
                assert stored(world) == held(catalog)
                assert await world.read("small") == OTHER


@pytest.mark.slow
async def test_block_that_only_seems_dead_is_kept(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("small", OTHER)
        await world.sync()
        world.catalog.connection.execute("UPDATE r_block SET live = 0")  # as a bit that the disk turned
        await trio.sleep(A_WHILE_S)
        assert world.catalog.count_blocks() == 1
        await world.node.drop_cache()
        assert await world.read("small") == OTHER


@pytest.mark.slow
async def test_supplier_that_stalls_holds_up_nobody_elses_releases(autojump_clock: MockClock) -> None:
    async with World(code=CODE).running() as world:
        await world.write("one", CONTENT)
        await world.sync()
        await world.write("two", LONG)
        await world.sync()
        delete(world, "one")
        delete_at = world.node.suppliers.delete

        async def stalled(supplier, names):  # type: ignore[no-untyped-def]
            if supplier == 1:
                await trio.sleep_forever()
            await delete_at(supplier, names)

        world.node.suppliers.delete = stalled  # type: ignore[method-assign]
        await until(lambda: set(world.catalog.count_releases()) == {1}, most_s=120)
        delete(world, "two")
        await until(lambda: world.catalog.count_blocks() == 0, most_s=120)
        began = trio.current_time()
        await until(lambda: set(world.catalog.count_releases()) == {1})
        assert trio.current_time() - began < releases.PATIENCE_S / 2


@pytest.mark.slow
async def test_damaged_index_of_maps_lets_nothing_go(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with file_that_is_kept() as world:
        lose_index(world.catalog, "r_map_by_chunk")
        world.catalog._change("INSERT OR IGNORE INTO l_loose SELECT chunk FROM r_chunk")  # one is overwritten
        await trio.sleep(2 * A_WHILE_S)
        assert any("damaged" in each for each in (await world.status())["trouble"])
        await world.node.drop_cache()
        assert await world.read("kept") == CONTENT


@pytest.mark.slow
async def test_damaged_index_of_chunks_lets_nothing_go(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with file_that_is_kept() as world:
        lose_index(world.catalog, "r_chunk_by_block")
        world.catalog._recount_live([block.block for block in world.catalog.blocks()])
        world.node.journal.commit()
        await trio.sleep(A_WHILE_S)


@asynccontextmanager
async def file_that_is_kept() -> AsyncIterator[World]:
    """A volume with one file; in the end everything of it is there, and suppliers are to keep all that they have."""
    async with World(code=CODE).running() as world:
        await world.write("kept", CONTENT)
        await world.sync()
        named = held(world.catalog)
        yield world
        assert is_kept_back(world.catalog)
        assert named <= stored(world)


def lose_index(catalog: SqliteCatalog, name: str) -> None:
    """Leave an index without a row, as a damaged page may: what SQLite asks it, it answers wrong."""
    catalog.commit()
    database = catalog._connection
    ((sql,),) = database.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
    database.execute(f"DROP INDEX {name}")
    table = str(sql).split(" ON ")[1].split(" ")[0]
    column = str(sql).split("(")[1].split(")")[0]
    database.execute(f"CREATE INDEX {name} ON {table} ({column}) WHERE {column} < 0")
    database.pragma("writable_schema", 1)
    database.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
    database.execute(f"PRAGMA schema_version = {database.pragma('schema_version') + 1}")
    database.pragma("writable_schema", 0)
    assert database.execute("PRAGMA integrity_check(1)").fetchall()[0][0] != "ok"


@pytest.mark.slow
async def test_what_is_written_again_while_the_maps_are_read_is_no_damage(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(code=CODE).running() as world:
        await world.write("first", CONTENT)
        await world.sync()
        delete(world, "first")
        chunks = world.node.collector
        read_maps = chunks._are_named_nowhere

        async def read_maps_meanwhile(doomed: set[ChunkNo]) -> bool:
            await world.write("again", CONTENT)  # its chunks are known
            await world.sync()
            return await read_maps(doomed)

        with monkeypatch.context() as patch:
            patch.setattr(chunks, "_are_named_nowhere", read_maps_meanwhile)
            await chunks.collect()
        assert not is_kept_back(world.catalog)
        await world.node.drop_cache()
        assert await world.read("again") == CONTENT
        delete(world, "again")
        await until(lambda: not world.catalog.count_blocks() and not world.catalog.count_releases())


@pytest.mark.slow
async def test_what_is_let_go_of_the_catalog_waits_for_no_change_that_never_comes(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=Code(3, 5)).running() as world:
        await world.write("letter", b"of a few bytes")
        await world.sync()
        await trio.sleep(600)
        block = next(iter(world.catalog.local_blocks()))
        last, busy = world.catalog.last_change, {row.supplier for row in world.catalog.fragments(block.block)}
        spare = next(row.supplier for row in world.catalog.suppliers() if row.supplier not in busy)
        twice = FragmentRow(block.block, 0, spare, FragmentState.HELD)
        with world.node.journal.operation():
            world.catalog.put_fragment(twice)  # of this machine alone, and pending: so may a change be
        world.node.releases.forget_fragments(block, [twice])
        await until(lambda: not world.catalog.count_releases())
        assert world.catalog.last_change == last
