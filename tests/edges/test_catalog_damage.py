"""A damaged catalog: refused at the door, not written to once it is met, and read as far as it goes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges.catalog_check import check_file
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import BadFormat, CatalogDamaged, Kind, LogDamaged, ReadOnly
from bitdustfs.model import Ino
from tests.edges.catalog_rows import file

INODES = range(100, 3000)
PAGE = 4096
FRAME = PAGE + 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed catalog of inodes and little else: its second half is full of them."""
    path = tmp_path_factory.mktemp("made") / "catalog"
    catalog = SqliteCatalog(":memory:")
    for ino in INODES:
        catalog.put_inode(file(ino))
    catalog.commit()
    catalog.drop_outbox(catalog.last_change)
    catalog.commit()
    catalog.connection.execute("VACUUM INTO ?", (str(path),))
    catalog.close()
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of that catalog."""
    path = tmp_path / "catalog"
    shutil.copy(made, path)
    return path


@pytest.fixture
def crashed(tmp_path: Path, path: Path) -> Path:
    """A catalog whose process was killed after five commits, with all of them in its log."""
    catalog = SqliteCatalog(path)
    for step in range(5):
        catalog.put_value("step", b"%d" % step)
        catalog.commit()
    left = tmp_path / "crashed"
    shutil.copy(path, left)
    shutil.copy(f"{path}-wal", f"{left}-wal")
    catalog.close()
    return left


def spoil(path: Path | str, at: int, count: int = 1) -> None:
    with open(path, "r+b") as spoiled:
        spoiled.seek(at)
        old = spoiled.read(count)
        spoiled.seek(at)
        spoiled.write(bytes(byte ^ 0x5A for byte in old))


def _middle(path: Path) -> None:
    spoil(path, path.stat().st_size // PAGE * 3 // 4 * PAGE, PAGE)


def _schema(path: Path) -> None:
    spoil(path, 100, 12)


def _header(path: Path) -> None:
    spoil(path, 0, 16)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // PAGE // 2 * PAGE)


def _sql(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        connection = apsw.Connection(str(path))
        connection.execute(statement)
        connection.close()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _middle,
        _schema,
        _header,
        _cut,
        _sql("DROP TABLE l_upload"),
        _sql("DROP INDEX r_name_by_name"),
        _sql("ALTER TABLE l_file DROP COLUMN spool_end"),
    ],
)
def test_damaged_catalog_is_refused_with_what_to_do_and_keeps_every_byte(
    path: Path, damage: Callable[[Path], None]
) -> None:
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CatalogDamaged, match=r"mount -o ro.*put back a copy") as caught:
        SqliteCatalog(path)
    assert caught.value.kind is Kind.LOST
    assert path.read_bytes() == before
    assert not Path(f"{path}-wal").exists() or not Path(f"{path}-wal").stat().st_size


def test_what_is_left_of_a_damaged_catalog_can_be_read(path: Path) -> None:
    _middle(path)
    before = path.read_bytes()
    catalog = SqliteCatalog(path, read_only=True)
    assert catalog.inode(Ino(INODES[0])) == file(INODES[0])
    with pytest.raises(ReadOnly):
        catalog.put_inode(file(5000))
    catalog.close()
    assert path.read_bytes() == before


def test_read_only_catalog_that_is_sound_takes_no_changes(path: Path) -> None:
    catalog = SqliteCatalog(path, read_only=True)
    assert catalog.inode(Ino(INODES[-1])) == file(INODES[-1])
    with pytest.raises(ReadOnly):
        catalog.put_value("a", b"1")
    assert isinstance(catalog.failure, ReadOnly)
    catalog.close()


async def test_damage_that_is_met_ends_all_writing(path: Path) -> None:
    catalog = SqliteCatalog(path)
    catalog.put_value("before", b"1")
    catalog.commit()
    assert catalog.failure is None
    _middle(path)
    before = path.read_bytes()
    with pytest.raises(CatalogDamaged):
        for ino in INODES:
            catalog.inode(Ino(ino))
    assert isinstance(catalog.failure, ReadOnly)
    with pytest.raises(ReadOnly):
        catalog.put_value("after", b"1")
    with pytest.raises(ReadOnly):
        catalog.commit()
    assert catalog.value("before") == b"1"
    catalog.close()
    assert path.read_bytes() == before
    assert Path(f"{path}-wal").stat().st_size  # what is good in it was not copied over the damage


@pytest.mark.slow
def test_of_a_large_catalog_both_ends_of_each_table_are_read(path: Path) -> None:
    connection = connect(str(path), None)
    check_file(connection, str(path), size_bytes=1 << 30)
    connection.close()
    _middle(path)
    connection = connect(str(path), None)
    check_file(connection, str(path), size_bytes=1 << 30)  # met when it is read
    connection.close()
    for page in range(4, path.stat().st_size // PAGE):
        spoil(path, page * PAGE, PAGE)
    connection = connect(str(path), None)
    with pytest.raises((CatalogDamaged, apsw.CorruptError)):
        check_file(connection, str(path), size_bytes=1 << 30)
    connection.close()


# --- the log --------------------------------------------------------------------------------------------------


def test_log_of_a_killed_process_is_read(crashed: Path) -> None:
    catalog = SqliteCatalog(crashed)
    assert catalog.value("step") == b"4"
    catalog.close()


def test_log_that_is_damaged_in_its_middle_is_refused_and_keeps_every_byte(crashed: Path) -> None:
    spoil(f"{crashed}-wal", 32 + 24 + 100)
    before = Path(f"{crashed}-wal").read_bytes(), crashed.read_bytes()
    for _ in range(2):
        with pytest.raises(LogDamaged, match=r"mount -o ro.*wal_checkpoint"):
            SqliteCatalog(crashed)
        assert (Path(f"{crashed}-wal").read_bytes(), crashed.read_bytes()) == before
    catalog = SqliteCatalog(crashed, read_only=True)
    assert catalog.inode(Ino(INODES[0])) == file(INODES[0])
    assert catalog.value("step") is None
    catalog.close()


def test_loss_in_the_log_can_be_accepted_as_its_error_says(crashed: Path) -> None:
    spoil(f"{crashed}-wal", Path(f"{crashed}-wal").stat().st_size // FRAME // 2 * FRAME + 32 + 24)
    with pytest.raises(LogDamaged):
        SqliteCatalog(crashed)
    _sql("PRAGMA wal_checkpoint(TRUNCATE)")(crashed)
    catalog = SqliteCatalog(crashed)
    assert catalog.value("step") in (b"0", b"1", b"2")
    catalog.close()


def test_log_whose_header_is_damaged_is_refused(crashed: Path) -> None:
    spoil(f"{crashed}-wal", 17)
    with pytest.raises(LogDamaged):
        SqliteCatalog(crashed)


def test_log_that_ends_in_a_torn_commit_is_no_damage(crashed: Path) -> None:
    spoil(f"{crashed}-wal", Path(f"{crashed}-wal").stat().st_size - 1)
    catalog = SqliteCatalog(crashed)
    assert catalog.value("step") == b"3"
    catalog.close()


def test_gap_in_a_log_from_before_the_machine_was_started_is_a_power_loss(
    crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(f"{crashed}-wal", 32 + 24 + 100)
    os.utime(f"{crashed}-wal", (1_000_000_000, 1_000_000_000))
    with caplog.at_level(logging.WARNING):
        SqliteCatalog(crashed).close()
    assert "were not synced" in caplog.text


def test_what_a_power_loss_left_behind_a_gap_is_no_damage_when_the_process_is_killed_after_it(
    tmp_path: Path, crashed: Path
) -> None:
    spoil(f"{crashed}-wal", Path(f"{crashed}-wal").stat().st_size // FRAME // 2 * FRAME + 32 + 24)
    os.utime(f"{crashed}-wal", (1_000_000_000, 1_000_000_000))
    catalog = SqliteCatalog(crashed)
    assert catalog.value("step") in (b"0", b"1", b"2")
    catalog.put_value("step", b"after")  # takes the place of the torn one, and not of those behind it
    catalog.commit()
    left = tmp_path / "left"
    shutil.copy(crashed, left)
    shutil.copy(f"{crashed}-wal", f"{left}-wal")
    catalog.close()
    reopened = SqliteCatalog(left)
    assert reopened.value("step") == b"after"
    reopened.close()


def test_old_commits_behind_a_log_that_began_anew_are_no_damage(tmp_path: Path, path: Path) -> None:
    catalog = SqliteCatalog(path)
    for step in range(20):
        catalog.put_value("step", b"%d" % step)
        catalog.commit()
    catalog.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    catalog.put_value("step", b"anew")
    catalog.commit()
    left = tmp_path / "left"
    shutil.copy(path, left)
    shutil.copy(f"{path}-wal", f"{left}-wal")
    catalog.close()
    reopened = SqliteCatalog(left)
    assert reopened.value("step") == b"anew"
    reopened.close()


def test_error_of_another_kind_is_not_taken_for_damage(path: Path) -> None:
    _sql("PRAGMA user_version = 42")(path)
    with pytest.raises(BadFormat) as caught:
        SqliteCatalog(path)
    assert caught.value.kind is Kind.FORMAT
