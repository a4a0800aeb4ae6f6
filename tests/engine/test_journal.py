"""The journal over a disk that takes nothing: what was answered stays, nothing more is taken on, and it recovers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.journal import CHANGES_MOST, COMMIT_AFTER_S, Journal
from bitdustfs.errors import DiskFull, ReadOnly
from bitdustfs.model import Ino
from tests.edges.catalog_rows import file
from tests.edges.full_disk import FullDisk


@pytest.fixture
def disk() -> Iterator[FullDisk]:
    made = FullDisk()
    yield made
    made.unregister()


@pytest.fixture
def catalog(tmp_path: Path, disk: FullDisk) -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(tmp_path / "catalog", create=True, vfs="bitdustfs-full")
    yield opened
    disk.error = None
    opened.close()


def make(journal: Journal, catalog: SqliteCatalog, ino: int) -> None:
    with journal.operation():
        catalog.put_inode(file(ino))


async def test_changes_are_refused_until_the_disk_takes_those_that_were_answered(
    catalog: SqliteCatalog, disk: FullDisk
) -> None:
    journal = Journal(catalog)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        disk.error = apsw.FullError("the test says so")
        make(journal, catalog, 100)  # answered, and its commit fails 20 ms later
        with trio.fail_after(60):
            while journal.refusal is None:
                await trio.sleep(0.01)
        for ino in range(101, 2000):
            with pytest.raises(DiskFull):
                make(journal, catalog, ino)
        with pytest.raises(DiskFull):
            await journal.durable()
        assert catalog.pending == 1  # memory does not grow
        assert catalog.inode(Ino(100)) == file(100)
        disk.error = None
        with trio.fail_after(60):
            while journal.refusal is not None:
                await trio.sleep(0.01)
        make(journal, catalog, 3000)
        await journal.durable()
        nursery.cancel_scope.cancel()
    reopened = SqliteCatalog(catalog.path, read_only=True)
    assert [reopened.inode(Ino(ino)) for ino in (100, 101, 3000)] == [file(100), None, file(3000)]
    reopened.close()


async def test_failing_disk_is_logged_once_and_costs_no_service(
    catalog: SqliteCatalog, disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(catalog)
    disk.error = apsw.FullError("the test says so")
    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run)
            make(journal, catalog, 100)
            with trio.fail_after(60):
                while journal.refusal is None:
                    await trio.sleep(0.01)
            await trio.sleep(0.3)
            for _ in range(3):
                with pytest.raises(DiskFull):
                    journal.commit()
                await trio.sleep(0.15)
            nursery.cancel_scope.cancel()
    assert len([record for record in caplog.records if "nothing can be stored now" in record.message]) == 1


async def test_what_was_begun_before_is_ended_whatever_the_disk_does(catalog: SqliteCatalog, disk: FullDisk) -> None:
    journal = Journal(catalog)
    make(journal, catalog, 100)
    disk.error = apsw.FullError("the test says so")
    with pytest.raises(DiskFull):
        journal.commit()
    with journal.operation(admitted=True):
        catalog.drop_inode(Ino(100))
    assert catalog.inode(Ino(100)) is None


async def test_refusing_many_times_keeps_nothing_of_each(catalog: SqliteCatalog, disk: FullDisk) -> None:
    journal = Journal(catalog)
    make(journal, catalog, 100)
    disk.error = apsw.FullError("the test says so")
    with pytest.raises(DiskFull):
        journal.commit()
    depths = set()
    for _ in range(100):
        with pytest.raises(DiskFull) as caught:
            journal.admit()
        depths.add(len(caught.traceback))
    assert len(depths) == 1


async def test_damaged_catalog_takes_on_nothing(tmp_path: Path, disk: FullDisk) -> None:
    SqliteCatalog(tmp_path / "another", create=True).close()
    catalog = SqliteCatalog(tmp_path / "another", read_only=True)
    journal = Journal(catalog)
    with pytest.raises(ReadOnly):
        make(journal, catalog, 100)
    catalog.close()


async def test_fsync_of_nothing_does_not_stop_commits(catalog: SqliteCatalog) -> None:
    journal = Journal(catalog)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        await trio.testing.wait_all_tasks_blocked()
        await journal.durable()
        make(journal, catalog, 100)
        with trio.fail_after(60):
            while catalog.pending:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_commits_go_on_once_anybody_s_commit_succeeds(
    catalog: SqliteCatalog, disk: FullDisk, autojump_clock: trio.testing.MockClock
) -> None:
    journal = Journal(catalog)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        disk.error = apsw.FullError("the test says so")
        make(journal, catalog, 100)
        await trio.sleep(0.2)  # the task of the commits has failed, and waits
        assert journal.refusal is not None
        disk.error = None
        journal.commit()
        make(journal, catalog, 101)
        await trio.sleep(2 * COMMIT_AFTER_S)
        assert catalog.pending == 0
        nursery.cancel_scope.cancel()


async def test_no_transaction_grows_while_its_commit_has_no_turn(catalog: SqliteCatalog, disk: FullDisk) -> None:
    journal = Journal(catalog)
    for ino in range(100, 100 + 3 * CHANGES_MOST):  # no task commits
        make(journal, catalog, ino)
        assert catalog.pending <= CHANGES_MOST
    disk.error = apsw.FullError("the test says so")
    taken = 0
    with pytest.raises(DiskFull):
        for taken in range(2 * CHANGES_MOST):
            make(journal, catalog, 10_000 + taken)
    assert taken <= CHANGES_MOST
