"""The simulated disk itself: what it keeps, what it may lose, and that it can be trusted to lose it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.harness import Yard
from tests.crash.loss import SECTOR, Image, Manner, power_loss
from tests.crash.oplog import Did, Entry, unpack

ROOT, FOLDER, FILE, OTHER = 10, 11, 12, 13
SEEDS = range(60)
OLD, NEW = b"o" * 4 * SECTOR, b"n" * 4 * SECTOR
MADE: tuple[Entry, ...] = (
    Entry(Did.MKDIR, ROOT),
    Entry(Did.MAKE, FILE, ROOT, b"f"),
    Entry(Did.WRITE, FILE, content=OLD),
    Entry(Did.SYNC, FILE),
    Entry(Did.SYNC_DIRECTORY, ROOT),
)


def images(entries: Sequence[Entry], manner: Manner) -> list[Image]:
    return [power_loss(entries, manner, seed) for seed in SEEDS]


@pytest.mark.parametrize("manner", Manner)
def test_what_was_synced_is_there(manner: Manner) -> None:
    assert all(image.files == {"f": OLD} for image in images(MADE, manner))


def test_nothing_is_lost_when_only_a_process_dies() -> None:
    entries = (*MADE, Entry(Did.WRITE, FILE, content=b"new"), Entry(Did.MAKE, OTHER, ROOT, b"g"))
    assert power_loss(entries, Manner.KILL, 0).files == {"f": b"new" + OLD[3:], "g": b""}


def test_sectors_are_lost_one_by_one_and_whole() -> None:
    found = [image.files["f"] for image in images((*MADE, Entry(Did.WRITE, FILE, content=NEW)), Manner.STRICT)]
    sectors = [[content[at : at + SECTOR] for at in range(0, len(content), SECTOR)] for content in found]
    assert all(sector in (OLD[:SECTOR], NEW[:SECTOR]) for content in sectors for sector in content)
    assert any(content[0] == OLD[:SECTOR] and content[3] == NEW[:SECTOR] for content in sectors), "reordered"
    assert any(content[1] != content[2] for content in sectors), "torn"


def test_each_sector_may_be_of_any_write_since_the_last_sync() -> None:
    entries = (*MADE, *(Entry(Did.WRITE, FILE, content=bytes([letter]) * SECTOR) for letter in b"123"))
    assert {image.files["f"][:1] for image in images(entries, Manner.STRICT)} == {b"o", b"1", b"2", b"3"}


def test_file_that_grew_may_be_short_or_end_in_other_bytes() -> None:
    entries = (*MADE, Entry(Did.WRITE, FILE, at=len(OLD), content=NEW))
    found = [image.files["f"] for image in images(entries, Manner.STRICT)]
    assert {len(content) for content in found} == {len(OLD), len(OLD + NEW)}
    assert any(content[len(OLD) :] not in (b"", NEW) for content in found)
    assert {image.files["f"] for image in images(entries, Manner.ORDERED)} == {OLD, OLD + NEW}


def test_names_are_safe_only_by_a_sync_of_their_directory_or_in_order() -> None:
    entries: tuple[Entry, ...] = (*MADE, Entry(Did.RENAME, FILE, ROOT, b"f", ROOT, b"g"), Entry(Did.SYNC, FILE))
    assert {tuple(image.files) for image in images(entries, Manner.STRICT)} == {("f",), ("g",)}
    assert {tuple(image.files) for image in images(entries, Manner.ORDERED)} == {("g",)}
    entries = (*entries, Entry(Did.SYNC_DIRECTORY, ROOT))
    assert {tuple(image.files) for image in images(entries, Manner.STRICT)} == {("g",)}


def test_safe_name_brings_what_it_rests_on() -> None:
    entries = (
        *MADE,
        Entry(Did.MKDIR, FOLDER, ROOT, b"d"),
        Entry(Did.MAKE, OTHER, FOLDER, b"temporary"),
        Entry(Did.RENAME, OTHER, FOLDER, b"temporary", FOLDER, b"final"),
        Entry(Did.SYNC_DIRECTORY, FOLDER),
    )
    assert all("d/final" in image.files for image in images(entries, Manner.STRICT))


@pytest.mark.parametrize("manner", [Manner.ORDERED, Manner.STRICT])
def test_sync_after_a_failed_one_proves_nothing(manner: Manner) -> None:
    entries: tuple[Entry, ...] = (
        *MADE,
        Entry(Did.WRITE, FILE, content=NEW),
        Entry(Did.BAD_SYNC, FILE),
        Entry(Did.SYNC, FILE),
    )
    assert all(image.files == {"f": OLD} for image in images(entries, manner))
    entries = (*entries, Entry(Did.WRITE, FILE, content=NEW), Entry(Did.SYNC, FILE))
    assert all(image.files == {"f": NEW} for image in images(entries, manner))


def test_log_is_read_up_to_a_half_written_entry() -> None:
    whole = b"".join(entry.packed() for entry in MADE)
    assert tuple(unpack(whole)) == MADE
    assert tuple(unpack(whole[:-3])) == MADE[:-1]


# -- the recorder ----------------------------------------------------------------------------------------------


def test_disk_writes_down_what_is_done_to_it(yard: Yard) -> None:
    case = yard.disk.case()
    (case.path / "top/2f").mkdir(parents=True)
    with (case.path / "top/2f/file").open("wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
    os.rename(case.path / "top/2f/file", case.path / "other")
    assert [entry.did.name for entry in case.entries()[1:]] == ["MKDIR", "MKDIR", "MAKE", "WRITE", "SYNC", "RENAME"]
    assert case.image() == Image({"other": b"content"}, ("top", "top/2f"))
    expected = ("mkdir top", "mkdir top/*", "make top/*/file", "write top/*/file", "sync top/*/file", "rename other")
    assert case.points() == dict.fromkeys(expected, 1)


def test_memory_maps_and_sqlite_work_on_the_disk(yard: Yard) -> None:
    case = yard.disk.case()
    (case.path / "m").write_bytes(bytes(8192))
    with (case.path / "m").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[4096:4100] = b"late"
        mapped.flush()
    assert case.image().files["m"][4096:4100] == b"late"
    database = sqlite3.connect(case.path / "s")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE t (x)")
    with database:
        database.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(1000)])
    assert database.execute("SELECT sum(x) FROM t").fetchone() == (sum(range(1000)),)
    database.close()


@pytest.mark.parametrize(("when", "left"), [("before", {"0": b"", "1": b""}), ("after", dict.fromkeys("012", b""))])
def test_process_dies_at_the_point_and_does_nothing_more(yard: Yard, when: str, left: dict[str, bytes]) -> None:
    case = yard.disk.case()
    case.kill_at("make *", 3, when=when)
    script = "import sys, pathlib\nfor n in range(9): pathlib.Path(sys.argv[1], str(n)).touch()"
    ended = subprocess.run([sys.executable, "-c", script, str(case.path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert case.image().files == left


def test_failing_sync_is_told_and_the_next_one_stores_nothing(yard: Yard) -> None:
    case = yard.disk.case()
    case.fail_at("sync file", 1, errno.EIO)
    with (case.path / "file").open("wb", buffering=0) as file:
        file.write(OLD)
        with pytest.raises(OSError) as failed:
            os.fsync(file.fileno())
        os.fsync(file.fileno())
    assert failed.value.errno == errno.EIO
    sync_directory(case.path)
    assert OLD not in {image.files["file"] for image in images(case.entries(), Manner.STRICT)}


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)
