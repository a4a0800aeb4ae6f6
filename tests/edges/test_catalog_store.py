"""The catalog's file: transactions, savepoints, generations, format, crashes and broken disks."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import trio

from bitdustfs.edges import (
    catalog_blocks,
    catalog_local,
    catalog_log,
    catalog_maps,
    catalog_replica,
    catalog_sqlite,
    catalog_store,
    catalog_tree,
)
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.errors import AlreadyThere, BadFormat, DiskFault, DiskFull, NotFound, ReadOnly
from bitdustfs.model import HOLE, ROOT_INO, BlockNo, ChunkNo, Code, Cookie, Extent, Hold, Ino, Layer, MapRow
from tests.edges.catalog_rows import (
    DIRECTORY,
    FILE,
    SUPPLIER,
    block,
    chunk,
    file,
    fragment,
    keep_generation,
    replicated_tables,
    rows_of,
)
from tests.edges.full_disk import FullDisk


class Stop(Exception):
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog"


@pytest.fixture
def catalog(path: Path) -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(path, create=True)
    yield opened
    opened.close()


# --- transactions and savepoints ------------------------------------------------------------------------------


def test_committed_rows_survive_closing_and_opening(path: Path) -> None:
    catalog = SqliteCatalog(path, create=True)
    catalog.put_inode(file(catalog.new_ino()))
    catalog.commit()
    catalog.close()
    reopened = SqliteCatalog(path)
    assert reopened.inode(Ino(2)) == file(2)
    assert reopened.new_ino() == 3
    assert reopened.file_bytes() == (4096, 1)
    reopened.close()


def test_commit_of_nothing_opens_no_transaction(catalog: SqliteCatalog) -> None:
    catalog.inode(FILE.ino)
    with catalog.savepoint():
        catalog.inode(FILE.ino)
    catalog.commit()
    assert catalog.pending == 0
    assert not catalog.connection.in_transaction


def test_noted_changes_are_all_noted_and_none_is_made(catalog: SqliteCatalog) -> None:
    extents = [Extent(at, at + 5, at, Hold.CLEAN) for at in (0, 10, 20)]
    with catalog.noted() as noted:
        catalog.put_extents(FILE.ino, Layer.LIVE, extents)
    assert [row[2] for _, row in noted] == [0, 10, 20]
    assert catalog.extents(FILE.ino, Layer.LIVE) == []


def test_pending_counts_outer_savepoints_and_single_changes(catalog: SqliteCatalog) -> None:
    catalog.put_value("a", b"1")
    with catalog.savepoint():
        catalog.put_value("b", b"2")
        with catalog.savepoint():
            catalog.put_value("c", b"3")
    assert catalog.pending == 2
    catalog.commit()
    assert catalog.pending == 0


def test_failed_savepoint_undoes_its_changes_only(catalog: SqliteCatalog) -> None:
    catalog.put_value("a", b"1")
    with pytest.raises(Stop), catalog.savepoint():
        catalog.put_value("a", b"2")
        catalog.put_value("b", b"2")
        raise Stop
    catalog.commit()
    assert (catalog.value("a"), catalog.value("b")) == (b"1", None)


def test_failed_inner_savepoint_leaves_the_outer_one(catalog: SqliteCatalog) -> None:
    with catalog.savepoint():
        catalog.put_value("outer", b"1")
        with pytest.raises(Stop), catalog.savepoint():
            catalog.put_value("inner", b"2")
            raise Stop
        catalog.put_value("after", b"3")
    catalog.commit()
    assert [catalog.value(key) for key in ("outer", "inner", "after")] == [b"1", None, b"3"]


def test_failed_outer_savepoint_undoes_the_inner_one(catalog: SqliteCatalog) -> None:
    with pytest.raises(Stop), catalog.savepoint():
        with catalog.savepoint():
            catalog.put_value("inner", b"2")
        raise Stop
    assert catalog.value("inner") is None


def test_rollback_takes_inodes_and_sums_back(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    with pytest.raises(Stop), catalog.savepoint():
        catalog.put_inode(replace(FILE, size=1, nlink=9))
        catalog.put_inode(file(8))
        catalog.inode(Ino(8))
        raise Stop
    assert catalog.inode(FILE.ino) == FILE
    assert catalog.inode(Ino(8)) is None
    assert catalog.file_bytes() == (4096, 1)


def test_rollback_brings_a_dropped_inode_back(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    with pytest.raises(Stop), catalog.savepoint():
        catalog.drop_inode(FILE.ino)
        assert catalog.inode(FILE.ino) is None
        raise Stop
    assert catalog.inode(FILE.ino) == FILE
    assert catalog.file_bytes() == (4096, 1)


def test_commit_inside_a_savepoint_is_refused(catalog: SqliteCatalog) -> None:
    with pytest.raises(RuntimeError), catalog.savepoint():
        catalog.commit()


@pytest.mark.slow
def test_inode_that_leaves_the_cache_is_read_again(catalog: SqliteCatalog) -> None:
    for ino in range(100, 100 + catalog_tree.CACHED_INODES + 10):
        catalog.put_inode(file(ino))
    assert catalog.inode(Ino(100)) == file(100)


# --- generations ----------------------------------------------------------------------------------------------


def test_row_born_in_the_current_generation_is_changed_in_place(catalog: SqliteCatalog) -> None:
    keep_generation(catalog)
    catalog.put_inode(FILE)
    catalog.put_inode(replace(FILE, size=1))
    assert len(rows_of(catalog, "r_inode")) == 1
    catalog.drop_inode(FILE.ino)
    assert len(rows_of(catalog, "r_inode")) == 0


def test_changed_inode_of_an_older_generation_is_closed_and_inserted_anew(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    ended = keep_generation(catalog)
    catalog.put_inode(replace(FILE, size=1))
    catalog.put_inode(replace(FILE, size=2))
    assert [(row[1], row[2], row[7]) for row in rows_of(catalog, "r_inode")] == [
        (ended, ended + 1, 4096),
        (ended + 1, LIVE, 2),
    ]
    assert catalog.inode(FILE.ino) == replace(FILE, size=2)
    assert catalog.file_bytes() == (2, 1)


def test_dropped_inode_of_an_older_generation_stays_closed_with_all_it_had(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    catalog.put_xattr(FILE.ino, b"user.a", b"1")
    catalog.replace_map(FILE.ino, [MapRow(0, 1, ChunkNo(1))], first=0, last=0)
    keep_generation(catalog)
    catalog.drop_inode(FILE.ino)
    assert (catalog.inode(FILE.ino), catalog.xattrs(FILE.ino), catalog.map_rows(FILE.ino, 0, 9)) == (None, [], [])
    assert [len(rows_of(catalog, table)) for table in ("r_inode", "r_xattr", "r_map")] == [1, 1, 1]


def test_name_of_an_older_generation_keeps_its_cookie_when_it_goes_on(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    first = catalog.put_name(ROOT_INO, b"a", Ino(6))
    keep_generation(catalog)
    second = catalog.put_name(ROOT_INO, b"a", FILE.ino)
    assert second.cookie == first.cookie
    assert catalog.names(ROOT_INO, Cookie(0), 9) == [(second, FILE)]
    assert catalog.names_of(Ino(6)) == []
    catalog.drop_name(ROOT_INO, b"a")
    assert catalog.name(ROOT_INO, b"a") is None
    assert [row[5] for row in rows_of(catalog, "r_name")] == [6]


def test_hole_run_of_an_older_generation_is_closed_whole_and_its_parts_are_born(catalog: SqliteCatalog) -> None:
    catalog.replace_map(FILE.ino, [MapRow(0, 10, HOLE)], first=0, last=9)
    ended = keep_generation(catalog)
    catalog.replace_map(FILE.ino, [MapRow(4, 1, ChunkNo(1))], first=4, last=4)
    assert catalog.map_rows(FILE.ino, 0, 9) == [MapRow(0, 4, HOLE), MapRow(4, 1, ChunkNo(1)), MapRow(5, 5, HOLE)]
    assert (7, 0, ended, ended + 1, 10, 0) in rows_of(catalog, "r_map")


def test_every_old_generation_stays_readable_row_by_row(catalog: SqliteCatalog) -> None:
    seen: dict[int, Sequence[tuple[object, ...]]] = {}
    for step in range(5):
        _change_everything(catalog, step)
        generation = keep_generation(catalog)
        seen[generation] = _rows_of_generation(catalog, generation)
    _change_everything(catalog, 5)
    assert {generation: _rows_of_generation(catalog, generation) for generation in seen} == seen


def _change_everything(catalog: SqliteCatalog, step: int) -> None:
    for ino in range(step, step + 3):
        catalog.put_inode(file(100 + ino, size=step))
        catalog.put_name(ROOT_INO, b"name%d" % ino, Ino(100 + step))
        catalog.put_xattr(Ino(100), b"user.%d" % ino, b"%d" % step)
    catalog.replace_map(Ino(100), [MapRow(step, 2, HOLE)], first=step, last=step + 1)
    if step % 2:
        catalog.drop_inode(Ino(100 + step))
        catalog.drop_name(ROOT_INO, b"name%d" % step)
        catalog.drop_xattr(Ino(100), b"user.%d" % step)


def _rows_of_generation(catalog: SqliteCatalog, generation: int) -> Sequence[tuple[object, ...]]:
    values = {
        "r_inode": "ino, size",
        "r_name": "parent, cookie, name, ino",
        "r_xattr": "ino, name, value",
        "r_map": "ino, idx, count, chunk",
    }
    return [
        row
        for table, columns in values.items()
        for row in catalog.connection.execute(
            f"SELECT {columns} FROM {table} WHERE born <= ?1 AND ?1 < died ORDER BY 1, 2", (generation,)
        ).fetchall()
    ]


def test_generation_survives_reopening(path: Path) -> None:
    catalog = SqliteCatalog(path, create=True)
    keep_generation(catalog)
    catalog.close()
    reopened = SqliteCatalog(path)
    assert reopened.generation == 2
    reopened.close()


def test_generation_inside_a_savepoint_is_refused(catalog: SqliteCatalog) -> None:
    with pytest.raises(RuntimeError), catalog.savepoint():
        keep_generation(catalog)


# --- replication ----------------------------------------------------------------------------------------------


def test_changesets_of_all_replicated_tables_rebuild_equal_rows() -> None:
    original, copy = SqliteCatalog(":memory:"), SqliteCatalog(":memory:")
    for step in (_fill, _change_half, _next_generation, _drop_half):
        session = apsw.Session(original.connection, "main")
        for table in replicated_tables(original):
            session.attach(table)
        step(original)
        original.commit()
        apsw.Changeset.apply(session.changeset(), copy.connection)
        session.close()
        for table in replicated_tables(original):
            assert rows_of(copy, table) == rows_of(original, table), table


def _fill(catalog: SqliteCatalog) -> None:
    catalog.put_inode(DIRECTORY)
    catalog.put_supplier(SUPPLIER)
    catalog.put_value("scope", b"1")
    for number in range(1, 5):
        ino = catalog.new_ino()
        catalog.put_inode(file(ino))
        catalog.put_name(ROOT_INO, b"name%d" % number, ino)
        catalog.put_xattr(ino, b"user.a", b"1")
        catalog.put_chunks([chunk(catalog.new_chunk_no(), block=number)])
        catalog.replace_map(ino, [MapRow(0, 1, ChunkNo(number)), MapRow(1, 5, HOLE)], first=0, last=5)
        catalog.put_block(block(catalog.new_block_no()))
        catalog.put_fragment(fragment(number, 0))


def _change_half(catalog: SqliteCatalog) -> None:
    for ino in (Ino(2), Ino(3)):
        catalog.put_inode(file(ino, size=1))
        catalog.replace_map(ino, [MapRow(3, 1, ChunkNo(9))], first=3, last=3)
        catalog.put_xattr(ino, b"user.a", b"2")
    # an exchange of two names
    catalog.put_name(ROOT_INO, b"name1", Ino(3))
    catalog.put_name(ROOT_INO, b"name2", Ino(2))
    catalog.put_chunks([replace(chunk(2, block=2), chunk=ChunkNo(1))])
    catalog.charge_supplier(catalog.suppliers()[0].supplier, 5, 5)


def _next_generation(catalog: SqliteCatalog) -> None:
    keep_generation(catalog)
    _change_half(catalog)


def _drop_half(catalog: SqliteCatalog) -> None:
    catalog.drop_name(ROOT_INO, b"name1")
    catalog.drop_inode(Ino(3))
    catalog.drop_fragment(BlockNo(1), 0, catalog.suppliers()[0].supplier)
    catalog.put_block(block(2, Code(1, 1)))


def test_replicated_tables_have_neither_triggers_nor_foreign_keys_nor_nullable_keys(catalog: SqliteCatalog) -> None:
    for table in replicated_tables(catalog):
        columns = catalog.connection.execute(f"PRAGMA table_info({table})").fetchall()
        assert any(column[5] for column in columns), table
        assert all(column[3] for column in columns), table
        assert not catalog.connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
    assert not catalog.connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'trigger'").fetchall()


# --- plans ----------------------------------------------------------------------------------------------------

MAY_READ_A_WHOLE_TABLE = {
    "_ORPHANS",
    "_UNBORN",
    "_OVERHANGS",
    "REPLICATED.histogram",
    "REPLICATED.missing",
    "REPLICATED.takeable",  # of a list that is given
    "REPLICATED.shortfall",  # the same
    "REPLICATED.holding",  # the same
    "LOCAL.shortfall",
    "LOCAL.holding",
    "_ENOUGH_HELD",  # the same
    "_HELD_OF",  # the blocks of a file
    "_HELD_OF_CHUNKS",  # of a list that is given
    "_FILE_BYTES_IN",  # the same
    "_BLOCKS_OF_CHUNKS",  # the same
    "REPLICATED.least_margin",
    "LOCAL.histogram",
    "LOCAL.wanting_less",
    "LOCAL.missing",
    "LOCAL.takeable",
    "LOCAL.least_margin",
    "_LOCAL_BLOCKS",
    "_DELTAS",
    "_IMAGE_BLOCKS",
    "_INLINE_BYTES",
    "_SUPPLIERS",
    "_UPLOADS",
    "_UNSURE_FILES",
    "_OUTBOX_BYTES",
}


def _reads_a_whole_table(step: str) -> bool:
    """A subquery is read whole too, but how its own rows are found is another step."""
    return step.startswith("SCAN") and "CONSTANT" not in step and not step.startswith("SCAN (subquery")


def test_only_the_named_statements_read_a_whole_table(catalog: SqliteCatalog) -> None:
    modules = (
        catalog_tree,
        catalog_maps,
        catalog_blocks,
        catalog_local,
        catalog_replica,
        catalog_sqlite,
        catalog_store,
    )
    statements = {
        name: sql
        for module in modules
        for name, sql in vars(module).items()
        if isinstance(sql, str) and sql.split()[:1] and sql.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")
    }
    for name, pair in (("REPLICATED", catalog_blocks.REPLICATED), ("LOCAL", catalog_blocks.LOCAL)):
        statements |= {f"{name}.{attribute}": sql for attribute, sql in vars(pair).items()}
    assert len(statements) > 30
    greedy = {
        name for name, sql in statements.items() if any(_reads_a_whole_table(step) for step in _plan(catalog, sql))
    }
    assert greedy == MAY_READ_A_WHOLE_TABLE


@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        (catalog_tree._INODE, "r_inode USING PRIMARY KEY (ino=?)"),
        (catalog_tree._NAME, "r_name USING INDEX r_name_by_name (parent=? AND name=?)"),
        (catalog_tree._NAMES, "n USING PRIMARY KEY (parent=? AND cookie>?)"),
        (catalog_tree._NAMES_OF, "r_name USING INDEX r_name_by_ino (ino=?)"),
        (catalog_tree._XATTR, "r_xattr USING PRIMARY KEY (ino=? AND name=?)"),
        (catalog_tree.NAMES.close[2], "r_name USING PRIMARY KEY (parent=? AND cookie=? AND born<?)"),
        (catalog_tree.NAMES.drop[2], "r_name USING PRIMARY KEY (parent=? AND cookie=?)"),
        (catalog_tree.INODES.drop_span, "r_inode USING PRIMARY KEY (ino>? AND ino<?)"),
        (catalog_maps.MAP.close_span, "r_map USING PRIMARY KEY (ino>? AND ino<?)"),
        (catalog_maps._PLACE, "c USING INTEGER PRIMARY KEY (rowid=?)"),
        (catalog_maps._MAP_ROW_BEFORE, "r_map USING PRIMARY KEY (ino=? AND idx<?)"),
        (catalog_maps._MAP_ROWS_AFTER, "r_map USING PRIMARY KEY (ino=? AND idx>? AND idx<?)"),
        (
            catalog_maps._CHUNK_BY_FINGERPRINT,
            "r_chunk USING INDEX r_chunk_by_fingerprint (fingerprint=? AND rowid<?)",
        ),
        (catalog_maps._CHUNKS_LIKE, "r_chunk USING INDEX r_chunk_by_fingerprint (fingerprint=?)"),
        (catalog_maps._CHUNKS_OF_BLOCK, "r_chunk USING INDEX r_chunk_by_block (block=?)"),
        (catalog_blocks.REPLICATED.wanting_alike, "r_block USING INDEX r_block_wanting (<expr>=? AND rowid>?)"),
        (catalog_blocks.REPLICATED.wanting_less, "r_block USING INDEX r_block_wanting (<expr>>?)"),
        (
            catalog_blocks.REPLICATED.fragments_at,
            "r_fragment USING COVERING INDEX r_fragment_by_supplier (supplier=? AND state=? AND block>?)",
        ),
        (catalog_local._DROP_EXTENTS, "l_extent USING PRIMARY KEY (ino=? AND layer=? AND start>? AND start<?)"),
    ],
)
def test_frequent_statement_finds_its_rows_by_a_key(catalog: SqliteCatalog, sql: str, plan: str) -> None:
    assert _plan(catalog, sql)[0].removeprefix("SEARCH ") == plan


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        (catalog_maps._PLACED, 3),
        (catalog_maps._MAP_ROW_BEFORE, 2),
        (catalog_maps._MAP_ROWS_AFTER, 3),
        (catalog_tree._INODE, 1),
        (catalog_tree._NAME, 2),
        (catalog_tree._NAMES_OF, 1),
        (catalog_local._DROP_EXTENTS, 4),
    ],
)
def test_frequent_statement_is_compiled_once_whatever_it_is_asked(
    catalog: SqliteCatalog, sql: str, values: int
) -> None:
    looked_at: list[tuple[object, ...]] = []  # by the compiler

    def allow(*what: object) -> int:
        looked_at.append(what)
        return apsw.SQLITE_OK

    catalog.connection.authorizer = allow
    for number in range(3):
        looked_at.clear()
        catalog.connection.execute(sql, tuple(number * 10 + place for place in range(values))).fetchall()
        assert bool(looked_at) is (number == 0)


def test_no_frequent_statement_sorts(catalog: SqliteCatalog) -> None:
    for sql in (catalog_tree._NAMES, catalog_maps._MAP_ROWS_AFTER, catalog_maps._CHUNK_BY_FINGERPRINT):
        assert "TEMP B-TREE" not in " ".join(_plan(catalog, sql)), sql


def _plan(catalog: SqliteCatalog, sql: str) -> Sequence[str]:
    numbers = [int(number) for number in re.findall(r"\?(\d)", sql)]
    bindings = (None,) * (max(numbers) if numbers else sql.count("?"))
    return [str(row[3]) for row in catalog.connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings).fetchall()]


# --- format ---------------------------------------------------------------------------------------------------


def test_missing_catalog_is_not_made_by_opening_it(path: Path) -> None:
    with pytest.raises(NotFound):
        SqliteCatalog(path)
    assert not path.exists()


def test_existing_catalog_is_not_made_anew(catalog: SqliteCatalog, path: Path) -> None:
    with pytest.raises(AlreadyThere):
        SqliteCatalog(path, create=True)


def test_unknown_version_is_named_and_the_file_keeps_every_byte(path: Path) -> None:
    SqliteCatalog(path, create=True).close()
    foreign = apsw.Connection(str(path))
    foreign.pragma("user_version", 42)
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(BadFormat, match=r"format version 42.*nothing was changed"):
        SqliteCatalog(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["catalog"]


def test_database_of_another_program_is_refused(path: Path) -> None:
    foreign = apsw.Connection(str(path))
    foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    with pytest.raises(BadFormat, match="another program"):
        SqliteCatalog(path)
    assert os.listdir(path.parent) == ["catalog"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_database_is_refused_and_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BadFormat):
        SqliteCatalog(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["catalog"]


def test_catalog_cut_short_is_refused(path: Path) -> None:
    SqliteCatalog(path, create=True).close()
    os.truncate(path, 4096)
    with pytest.raises(BadFormat):
        SqliteCatalog(path)


def test_catalog_whose_checkpoint_was_torn_is_whole_with_its_log(path: Path, tmp_path: Path) -> None:
    with closing(SqliteCatalog(path, create=True)) as catalog:
        for number in range(2000):
            catalog.put_value(f"key {number}", bytes(100))
        catalog.commit()
        whole, log = path.read_bytes(), path.with_name("catalog-wal").read_bytes()
    torn = tmp_path / "torn" / "catalog"
    torn.parent.mkdir()
    grown = (1000).to_bytes(4)  # pages that the first one tells of, and that are not there yet: the log has them all
    torn.write_bytes(whole[:28] + grown + whole[32:512] + bytes(4096 - 512) + whole[4096:])
    torn.with_name("catalog-wal").write_bytes(log)
    with closing(SqliteCatalog(torn)) as catalog:
        assert catalog.value("key 1999") == bytes(100)


# --- crashes and disks ----------------------------------------------------------------------------------------

CHILD = """
import sys, time
from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
catalog = SqliteCatalog(sys.argv[1], create=True)
catalog.put_value("committed", b"1")
catalog.commit()
catalog.put_value("open", b"1")
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_kill_9_keeps_what_was_committed_and_nothing_else(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    catalog = SqliteCatalog(path)
    assert (catalog.value("committed"), catalog.value("open")) == (b"1", None)
    catalog.close()


@pytest.fixture
def disk() -> Iterator[FullDisk]:
    made = FullDisk()
    yield made
    made.unregister()


@pytest.mark.parametrize(("error", "expected"), [(apsw.FullError, DiskFull), (apsw.IOError, DiskFault)])
def test_failed_commit_keeps_the_transaction_for_a_later_one(
    path: Path, disk: FullDisk, error: type[apsw.Error], expected: type[Exception]
) -> None:
    catalog = SqliteCatalog(path, create=True, vfs="bitdustfs-full")
    catalog.put_inode(FILE)
    catalog.commit()
    catalog.put_inode(replace(FILE, size=1))
    with catalog.savepoint():
        catalog.put_name(ROOT_INO, b"a", FILE.ino)
        with pytest.raises(Stop), catalog.savepoint():
            catalog.put_value("undone", b"1")
            raise Stop
    disk.error = error("the test says so")
    with pytest.raises(expected):
        catalog.commit()
    assert catalog.pending == 2
    assert catalog.inode(FILE.ino) == replace(FILE, size=1)
    assert catalog.name(ROOT_INO, b"a") is not None
    disk.error = None
    catalog.put_value("later", b"1")
    catalog.close()
    reopened = SqliteCatalog(path)
    assert reopened.inode(FILE.ino) == replace(FILE, size=1)
    assert reopened.name(ROOT_INO, b"a") is not None
    assert (reopened.value("undone"), reopened.value("later")) == (None, b"1")
    assert reopened.file_bytes() == (1, 1)
    reopened.close()


class CountingSync:
    """An fdatasync that waits for the test, counts, and fails when told."""

    def __init__(self) -> None:
        self.calls = 0
        self.failure: OSError | None = None
        self.hold: Callable[[], None] = lambda: None

    def __call__(self, descriptor: int) -> None:
        os.fdatasync(descriptor)
        self.calls += 1
        self.hold()
        if self.failure is not None:
            raise self.failure


async def test_hardening_nothing_new_syncs_nothing(path: Path) -> None:
    sync = CountingSync()
    catalog = SqliteCatalog(path, create=True, sync=sync)
    catalog.put_value("a", b"1")
    catalog.commit()
    await catalog.harden()
    await catalog.harden()
    assert sync.calls == 1
    catalog.close()


async def test_callers_that_arrive_during_a_sync_share_the_next_one(path: Path) -> None:
    sync = CountingSync()
    running = trio.Event()
    goes_on = trio.Event()
    catalog = SqliteCatalog(path, create=True, sync=sync)
    sync.hold = lambda: trio.from_thread.run(_meet, running, goes_on)
    done: list[str] = []

    async def change_and_harden(key: str) -> None:
        catalog.put_value(key, b"1")
        catalog.commit()
        await catalog.harden()
        done.append(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change_and_harden, "first")
        await running.wait()
        for key in ("second", "third", "fourth"):
            nursery.start_soon(change_and_harden, key)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        goes_on.set()
    assert done[0] == "first"
    assert sync.calls == 2
    catalog.close()


async def _meet(running: trio.Event, goes_on: trio.Event) -> None:
    running.set()
    await goes_on.wait()


@pytest.mark.parametrize(("number", "expected"), [(errno.EIO, DiskFault), (errno.ENOSPC, DiskFull)])
async def test_failed_sync_is_final(path: Path, number: int, expected: type[Exception]) -> None:
    sync = CountingSync()
    catalog = SqliteCatalog(path, create=True, sync=sync)
    catalog.put_value("a", b"1")
    catalog.commit()
    sync.failure = OSError(number, "the test says so")
    for _ in range(2):
        with pytest.raises(expected):
            await catalog.harden()
    sync.failure = None
    with pytest.raises(expected):
        await catalog.harden()
    assert sync.calls == 1
    assert isinstance(catalog.failure, ReadOnly)
    catalog.close()
    assert Path(f"{path}-wal").stat().st_size  # not copied over good pages
    reopened = SqliteCatalog(path)
    assert (reopened.value("a"), reopened.failure) == (b"1", None)
    reopened.close()


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_checkpoint_is_no_damage(path: Path) -> None:
    catalog = SqliteCatalog(path, create=True)
    whole = path.stat().st_size
    for ino in range(100, 3000):
        catalog.put_inode(file(ino))
    catalog.commit()
    catalog.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    left = path.with_name("left")
    shutil.copy(path, left)
    shutil.copy(f"{path}-wal", f"{left}-wal")
    catalog.close()
    os.truncate(left, whole + 8192)  # its first page says more
    reopened = SqliteCatalog(left)
    assert [reopened.inode(Ino(ino)) for ino in (100, 2999)] == [file(100), file(2999)]
    reopened.close()


async def test_log_of_a_killed_process_is_synced_before_it_counts_as_durable(path: Path) -> None:
    catalog = SqliteCatalog(path, create=True)
    catalog.put_value("a", b"1")
    catalog.commit()
    left = path.with_name("left")
    shutil.copy(path, left)
    shutil.copy(f"{path}-wal", f"{left}-wal")
    catalog.close()
    sync = CountingSync()
    reopened = SqliteCatalog(left, sync=sync)
    await reopened.harden()
    assert sync.calls == 1
    reopened.close()


async def test_checkpoint_leaves_a_small_log_alone(catalog: SqliteCatalog, path: Path) -> None:
    catalog.put_value("a", b"1")
    catalog.commit()
    before = path.read_bytes()
    await catalog.checkpoint()
    assert path.read_bytes() == before


@pytest.mark.slow
async def test_log_stays_bounded_while_writing_goes_on(catalog: SqliteCatalog, path: Path) -> None:
    largest = 0

    async def checkpoint_forever() -> None:
        while True:
            await catalog.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(checkpoint_forever)
        for step in range(300):
            for ino in range(64):
                catalog.put_inline(Ino(ino), step.to_bytes(2, "big") * 8192, b"")
            catalog.commit()
            catalog.put_value("open", b"%d" % step)  # there is always an open transaction
            largest = max(largest, (path.parent / "catalog-wal").stat().st_size)
            await trio.sleep(0)
        nursery.cancel_scope.cancel()
    assert 4 * catalog_log.WAL_LIMIT_BYTES < 300 * 64 * 16384
    assert largest < 3 * catalog_log.WAL_LIMIT_BYTES
    assert catalog.inline(Ino(63)) == ((299).to_bytes(2, "big") * 8192, b"")


async def test_memory_catalog_hardens_and_checkpoints_without_a_disk() -> None:
    catalog = SqliteCatalog(":memory:")
    catalog.put_value("a", b"1")
    catalog.commit()
    await catalog.harden()
    await catalog.checkpoint()
    assert catalog.value("a") == b"1"
    catalog.close()
