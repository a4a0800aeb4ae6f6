"""The outbox: every commit leaves what it changed in the replicated tables, in the same transaction."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges.catalog_outbox import REMEMBERED_INODES, Touched
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import HOLE, NO_INO, ROOT_INO, Extent, Hold, Ino, Layer, LocalFile, MapRow, SupplierNo
from tests.edges.catalog_rows import FILE, SUPPLIER, file, replicated_rows
from tests.edges.full_disk import FullDisk

ALL = 1 << 40


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


def replayed(catalog: SqliteCatalog) -> object:
    """The replicated rows that all change sets of the outbox make of an empty catalog."""
    with closing(SqliteCatalog(":memory:")) as copy:
        for _, changes in catalog.outbox(0, ALL):
            apsw.Changeset.apply(changes, copy.connection)
        return replicated_rows(copy)


def numbers(catalog: SqliteCatalog) -> list[int]:
    return [no for no, _ in catalog.outbox(0, ALL)]


# --- what commits leave ---------------------------------------------------------------------------------------


def test_each_commit_leaves_one_change_set_and_together_they_are_all_rows(catalog: SqliteCatalog) -> None:
    for step in range(3):
        catalog.put_inode(file(catalog.new_ino(), size=step))
        catalog.put_name(ROOT_INO, b"name%d" % step, Ino(2))
        catalog.commit()
    assert numbers(catalog) == [1, 2, 3]
    assert catalog.last_change == 3
    assert replayed(catalog) == replicated_rows(catalog)


def test_commit_of_local_rows_leaves_none(catalog: SqliteCatalog) -> None:
    catalog.put_supplier(replace(SUPPLIER, supplier=SupplierNo(1)))
    catalog.commit()
    catalog.put_local_file(LocalFile(FILE.ino, 1, 2, 3, 4, 5))
    catalog.put_extents(FILE.ino, Layer.LIVE, [Extent(0, 9, 0, Hold.DIRTY)], gone=[(0, ALL)])
    catalog.put_inline(FILE.ino, b"content", b"sum")
    catalog.charge_supplier(SupplierNo(1), 1000, 1)
    catalog.commit()
    assert catalog.last_change == 1
    assert numbers(catalog) == [1]


def test_changes_that_undo_each_other_leave_none(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    catalog.commit()
    catalog.put_inode(replace(FILE, uid=9))
    catalog.put_xattr(FILE.ino, b"user.a", b"1")
    catalog.put_inode(FILE)
    catalog.drop_xattr(FILE.ino, b"user.a")
    catalog.commit()
    assert numbers(catalog) == [1]


def test_change_set_has_nothing_of_a_savepoint_that_was_undone(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    with pytest.raises(Stop), catalog.savepoint():
        catalog.put_inode(replace(FILE, size=9))
        catalog.drop_inode(FILE.ino)
        catalog.put_value("undone", b"1")
        raise Stop
    catalog.commit()
    assert replayed(catalog) == replicated_rows(catalog)
    assert not any(b"undone" in changes for _, changes in catalog.outbox(0, ALL))


def test_numbers_given_out_by_a_commit_are_in_its_change_set(catalog: SqliteCatalog) -> None:
    assert [catalog.new_ino(), catalog.new_block_no()] == [2, 1]
    catalog.commit()
    assert numbers(catalog) == [1]
    assert replayed(catalog) == replicated_rows(catalog)


def test_outbox_comes_in_portions_of_at_least_one(catalog: SqliteCatalog) -> None:
    for step, size in enumerate((10, 5000, 10, 10)):
        catalog.put_value("a", bytes([step]) * size)
        catalog.commit()
    assert [no for no, _ in catalog.outbox(0, 1)] == [1]
    assert [no for no, _ in catalog.outbox(1, 1)] == [2]
    assert [no for no, _ in catalog.outbox(0, 5000)] == [1]
    assert [no for no, _ in catalog.outbox(2, 10_000)] == [3, 4]
    assert catalog.outbox(4, ALL) == []
    assert catalog.outbox_bytes() == sum(len(changes) for _, changes in catalog.outbox(0, ALL)) > 5000


def test_numbers_go_on_after_the_outbox_was_emptied_and_the_catalog_opened_again(path: Path) -> None:
    with closing(SqliteCatalog(path, create=True)) as catalog:
        for step in range(3):
            catalog.put_value("a", b"%d" % step)
            catalog.commit()
        catalog.drop_outbox(2)
        assert numbers(catalog) == [3]
        catalog.drop_outbox(99)
        assert (numbers(catalog), catalog.outbox_bytes(), catalog.last_change) == ([], 0, 3)
        catalog.drop_outbox(1)
    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.last_change == 3
        catalog.put_value("a", b"new")
        catalog.commit()
        assert numbers(catalog) == [4]


def test_dropping_in_the_transaction_that_changes_leaves_its_own_change_set(catalog: SqliteCatalog) -> None:
    catalog.put_value("a", b"1")
    catalog.commit()
    catalog.put_value("a", b"2")
    catalog.drop_outbox(99)
    catalog.commit()
    assert numbers(catalog) == [2]


# --- crashes and disks ----------------------------------------------------------------------------------------

CHILD = """
import sys
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.model import ROOT_INO
from tests.edges.catalog_rows import file
catalog = SqliteCatalog(sys.argv[1], create=True)
for step in range(100_000):
    ino = catalog.new_ino()
    catalog.put_inode(file(ino))
    catalog.put_name(ROOT_INO, b"%d" % step, ino)
    catalog.commit()
    if step == 20:
        print("ready", flush=True)
"""


@pytest.mark.slow
def test_after_kill_9_the_outbox_has_every_committed_change_and_no_other(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.last_change == catalog.count_inodes() > 20
        assert replayed(catalog) == replicated_rows(catalog)


@pytest.fixture
def disk() -> Iterator[FullDisk]:
    made = FullDisk()
    yield made
    made.unregister()


@pytest.mark.parametrize(("error", "expected"), [(apsw.FullError, DiskFull), (apsw.IOError, DiskFault)])
def test_change_set_of_a_commit_that_failed_is_neither_lost_nor_doubled_nor_stale(
    path: Path, disk: FullDisk, error: type[apsw.Error], expected: type[Exception]
) -> None:
    catalog = SqliteCatalog(path, create=True, vfs="bitdustfs-full")
    catalog.put_inode(FILE)
    catalog.commit()
    for step in range(3):
        catalog.put_inode(file(20 + step))
        disk.error = error("the test says so")
        with pytest.raises(expected):
            catalog.commit()
        assert (numbers(catalog), catalog.last_change) == ([1], 1)
        disk.error = None
    with pytest.raises(Stop), catalog.savepoint():
        catalog.drop_inode(FILE.ino)
        raise Stop
    catalog.put_inode(replace(FILE, size=9))
    catalog.commit()
    assert numbers(catalog) == [1, 2]
    assert replayed(catalog) == replicated_rows(catalog)
    left = path.with_name("left")
    shutil.copy(path, left)
    shutil.copy(f"{path}-wal", f"{left}-wal")
    catalog.close()
    with closing(SqliteCatalog(left)) as reopened:
        assert (numbers(reopened), reopened.last_change) == ([1, 2], 2)
        assert replayed(reopened) == replicated_rows(reopened)


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
def test_commit_that_failed_and_has_nothing_left_to_change_leaves_no_change_set(
    path: Path, disk: FullDisk, error: type[apsw.Error]
) -> None:
    catalog = SqliteCatalog(path, create=True, vfs="bitdustfs-full")
    catalog.put_inode(FILE)
    catalog.commit()
    catalog.put_inode(replace(FILE, uid=5))
    disk.error = error("the test says so")
    with pytest.raises((DiskFull, DiskFault)):
        catalog.commit()
    disk.error = None
    catalog.put_inode(FILE)
    catalog.commit()
    assert (numbers(catalog), catalog.last_change) == ([1], 1)
    catalog.close()
    with closing(SqliteCatalog(path)) as reopened:
        assert (numbers(reopened), reopened.last_change) == ([1], 1)


def test_commit_that_succeeds_at_the_second_try_leaves_its_whole_change_set(path: Path, disk: FullDisk) -> None:
    catalog = SqliteCatalog(path, create=True, vfs="bitdustfs-full")
    catalog.put_inode(FILE)
    disk.error, disk.once = apsw.FullError("the test says so"), True
    catalog.commit()
    assert disk.error is None
    assert numbers(catalog) == [1]
    assert replayed(catalog) == replicated_rows(catalog)
    catalog.close()


def test_commits_that_fail_again_and_again_keep_no_change_sets_in_memory(path: Path, disk: FullDisk) -> None:
    catalog = SqliteCatalog(path, create=True, vfs="bitdustfs-full")
    catalog.put_value("a", bytes(1000))
    disk.error = apsw.FullError("the test says so")
    for _ in range(3):
        with pytest.raises(DiskFull):
            catalog.commit()
    assert len(catalog._redo) == 1
    disk.error = None
    catalog.close()


def test_catalog_whose_connection_had_to_be_closed_says_that_the_disk_failed(path: Path) -> None:
    catalog = SqliteCatalog(path, create=True)
    catalog.put_value("a", b"1")
    catalog.connection.close()  # as `_failed` does when the transaction cannot be done again
    uses: list[Callable[[], object]] = [catalog.commit, catalog.commit, catalog.orphans, catalog.close]
    for use in uses:
        with pytest.raises(DiskFault):
            use()


# --- which inodes were touched --------------------------------------------------------------------------------


def test_touch_of_row_name_xattr_or_map_has_the_number_of_its_commit(catalog: SqliteCatalog) -> None:
    for ino in range(7, 13):
        catalog.put_inode(file(ino))
    catalog.put_name(ROOT_INO, b"gone", Ino(11))
    catalog.put_name(ROOT_INO, b"replaced", Ino(12))
    catalog.commit()
    catalog.put_inode(file(7, uid=3))
    catalog.put_inode(file(13))
    catalog.put_name(ROOT_INO, b"replaced", Ino(8))
    catalog.put_xattr(Ino(9), b"user.a", b"1")
    catalog.replace_map(Ino(10), [MapRow(0, 1, HOLE)], first=0, last=0)
    catalog.drop_name(ROOT_INO, b"gone")
    assert [catalog.changed(Ino(ino)) for ino in range(6, 14)] == [0, 2, 2, 2, 2, 2, 2, 2]
    catalog.commit()
    catalog.put_inode(file(7, uid=3))  # as it was
    catalog.put_inode(file(8, uid=4))
    assert [catalog.changed(Ino(ino)) for ino in range(6, 14)] == [0, 2, 3, 2, 2, 2, 2, 2]
    catalog.commit()
    catalog.drop_xattr(Ino(9), b"user.a")
    catalog.drop_inode(Ino(13))
    catalog.commit()
    assert [catalog.changed(Ino(ino)) for ino in (7, 8, 9, 13)] == [2, 3, 4, 4]


def test_touch_that_was_undone_is_forgotten_with_a_commit_that_changes_nothing(catalog: SqliteCatalog) -> None:
    catalog.put_inode(FILE)
    catalog.commit()
    with pytest.raises(Stop), catalog.savepoint():
        catalog.put_inode(replace(FILE, size=9))
        assert catalog.changed(FILE.ino) == 2
        raise Stop
    assert catalog.changed(FILE.ino) == 1
    catalog.put_value("a", b"1")
    catalog.commit()
    catalog.put_local_value("a", b"1")
    with pytest.raises(Stop), catalog.savepoint():
        catalog.put_inode(replace(FILE, size=9))
        raise Stop
    catalog.commit()
    assert (catalog.changed(FILE.ino), catalog.last_change) == (1, 2)


def test_after_a_start_every_inode_may_be_of_the_last_change(path: Path) -> None:
    with closing(SqliteCatalog(path, create=True)) as catalog:
        catalog.put_inode(FILE)
        catalog.commit()
    with closing(SqliteCatalog(path)) as catalog:
        assert catalog.changed(FILE.ino) == 1
        catalog.put_inode(file(8))
        catalog.commit()
        catalog.forget_changed(1)
        assert [catalog.changed(Ino(ino)) for ino in (7, 8)] == [0, 2]
        catalog.forget_changed(2)
        assert catalog.changed(Ino(8)) == 0


def test_inode_touched_again_does_not_hide_older_ones_from_being_forgotten() -> None:
    touched = Touched(0)
    for number, ino in ((1, 7), (2, 8), (3, 7)):
        touched.add(Ino(ino))
        touched.committed(number)
    touched.forget(2)
    assert [touched.number(Ino(ino), next_change=4) for ino in (7, 8)] == [3, 0]


def test_memory_of_touched_inodes_is_bounded() -> None:
    touched = Touched(0)
    touched.add(NO_INO)
    touched.committed(1)
    for ino in range(1, REMEMBERED_INODES + 1):
        touched.add(Ino(ino))
    touched.committed(2)
    assert len(touched._numbers) == 0
    assert [touched.number(Ino(ino), next_change=3) for ino in (0, 1, REMEMBERED_INODES + 9)] == [2, 2, 2]
    touched.add(Ino(1))
    touched.committed(3)
    touched.forget(2)
    assert [touched.number(Ino(ino), next_change=4) for ino in (0, 1)] == [0, 3]
