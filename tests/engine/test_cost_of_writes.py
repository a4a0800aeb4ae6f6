"""Work that can be counted: what a small write, and its fsync, ask of the catalog and of the disk."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apsw
import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.filestate import FileLife, Frozen
from bitdustfs.engine.writer import BREATHE
from bitdustfs.model import BLOCK_BYTES, CHUNK_BYTES, FileState, Ino
from tests.engine.names import Names
from tests.engine.volume import Volume

PAGE = 4096
PAGES = 512
WRITES = 100
FILES = 200
A_WRITE = 4  # SQL statements, where ten share a commit: rows of its extent, of what it cut in two, and of check sums
A_VERSION = 10  # its chunk, looked for, put, and where it lies; its map; its inode; its own row; change set of three
A_PUBLISH = 8  # and for a version: its inode, and what there was before
CHUNKS = 40
A_SYNC = 8  # with its write: rows of the extent, of the file, of its check sums, and the transaction


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every SQL statement that is run on a connection opened from now on, once for each row."""
    found: list[str] = []

    def watch(connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: found.append(event["sql"]))

    apsw.connection_hooks.append(watch)
    yield found
    apsw.connection_hooks.remove(watch)


async def test_random_writes_cost_few_statements(statements: list[str], autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, random.Random(1).randbytes(PAGES * PAGE))
        await volume.files.fsync(ino)
        statements.clear()
        for turn, page in enumerate(random.Random(2).sample(range(PAGES), WRITES)):
            await volume.files.write(ino, page * PAGE, b"x" * PAGE)
            if turn % 10 == 9:
                volume.journal.commit()
        await volume.files.fsync(ino)
        assert len(statements) <= A_WRITE * WRITES, Counter(statements).most_common(8)


async def test_write_and_fsync_cost_few_statements_and_one_sync_of_each_file(
    statements: list[str], autojump_clock: MockClock
) -> None:
    catalog, spools = Counted(SqliteCatalog(":memory:")), []

    def coat(spool: Any) -> Any:
        spools.append(Counted(spool))
        return spools[-1]

    volume = Volume(catalog=catalog, coat=coat)  # type: ignore[arg-type]
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, random.Random(1).randbytes(PAGES * PAGE))
        await volume.files.fsync(ino)
        for counted in (statements, catalog.calls, spools[-1].calls):
            counted.clear()
        for page in random.Random(2).sample(range(PAGES), WRITES):
            await volume.files.write(ino, page * PAGE, b"x" * PAGE)
            await volume.files.fsync(ino)
        assert catalog.calls["harden"] == catalog.calls["commit"] == spools[-1].calls["harden"] == WRITES
        assert len(statements) <= A_SYNC * WRITES, Counter(statements).most_common(12)


async def test_small_files_are_published_by_few_statements(statements: list[str], autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        for number in range(FILES):
            await volume.write_all(random.Random(number).randbytes(PAGE))
        volume.journal.commit()
    statements.clear()
    async with volume.running():
        await volume.flush()
        volume.journal.commit()
    assert len(statements) <= A_VERSION * FILES, Counter(statements).most_common(16)


async def test_many_files_that_are_due_at_once_are_frozen_a_few_in_each_step(autojump_clock: MockClock) -> None:
    volume, frozen = Volume(), list[Ino]()
    freeze, most = volume.files.freeze, MostInAStep(frozen)

    def noted(life: FileLife) -> Frozen:
        frozen.append(life.ino)
        return freeze(life)

    volume.files.freeze = noted  # type: ignore[method-assign]
    async with volume.running(upload=False):
        for number in range(FILES):
            await volume.write_all(random.Random(number).randbytes(PAGE))
    async with volume.running():
        trio.lowlevel.add_instrument(most)
        await volume.flush()
        trio.lowlevel.remove_instrument(most)
    assert len(frozen) == FILES
    assert most.count <= BREATHE


async def test_version_that_writes_over_many_chunks_is_published_by_two_statements_for_each(
    statements: list[str], autojump_clock: MockClock
) -> None:
    volume, published = Volume(), []
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, random.Random(1).randbytes(CHUNKS * CHUNK_BYTES))
        await volume.flush()
        real = volume.writer._finish

        def finish(version: Any) -> None:
            before = len(statements)
            real(version)
            published.append((len(version.refs), Counter(statements[before:])))

        volume.writer._finish = finish  # type: ignore[method-assign]
        for index in range(CHUNKS):
            await volume.files.write(ino, index * CHUNK_BYTES + index * 100, b"x" * PAGE)
        await volume.flush()
        ((chunks, found),) = published
        assert chunks == CHUNKS
        assert found.total() <= 2 * CHUNKS + A_PUBLISH, found


async def test_state_of_a_file_is_one_question_however_many_blocks_it_has(
    statements: list[str], autojump_clock: MockClock
) -> None:
    volume = Volume()
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, random.Random(1).randbytes(3 * BLOCK_BYTES))
        await volume.flush()
        assert len(volume.catalog.blocks_of(ino)) > 2
        statements.clear()
        assert volume.files.state(ino) is FileState.PLACED
        assert len(statements) == 1


async def test_without_superseded_files_nobody_asks_whether_one_is(statements: list[str]) -> None:
    names = Names()
    file = names.file(b"f")
    statements.clear()
    names.tree.published(file)
    assert statements == []


class MostInAStep(trio.abc.Instrument):
    """How much a list grew at most between two waits of a task."""

    def __init__(self, done: list[Any]) -> None:
        self._done = done
        self._before = self.count = 0

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._before = len(self._done)

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.count = max(self.count, len(self._done) - self._before)


class Counted:
    """Another port, whose calls are counted by name."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._port, name)
