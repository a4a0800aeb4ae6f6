"""Rows of a version that lie in the map before it is published: never seen, and never too many in one step."""

from __future__ import annotations

import random
from collections.abc import Iterator

import apsw
import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.unsent import prints
from bitdustfs.model import (
    BLOCK_CHUNKS,
    CHUNK_BYTES,
    ChunkNo,
    FileState,
    FragmentRow,
    FragmentState,
    Ino,
    SnapshotKind,
)
from tests.engine.volume import Volume

BLOCKS = 12
CHUNK = random.Random(5).randbytes(CHUNK_BYTES)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Steps(trio.abc.Instrument):
    """Counts the rows of maps that are put in each step of the loop."""

    def __init__(self) -> None:
        self.rows = self.most = 0

    def watch(self, connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, self._ran)

    def _ran(self, event: dict[str, str]) -> None:
        self.rows += event["sql"].startswith("INSERT INTO r_map")

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.rows = 0

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self.rows)


@pytest.fixture
def steps() -> Iterator[Steps]:
    found = Steps()
    apsw.connection_hooks.append(found.watch)
    yield found
    apsw.connection_hooks.remove(found.watch)


@pytest.mark.slow
@pytest.mark.parametrize("is_ahead", [True, False])
async def test_no_step_of_a_long_stream_puts_more_rows_than_two_blocks_have(
    steps: Steps, is_ahead: bool, autojump_clock: MockClock
) -> None:
    volume = Volume(spool_limit=1 << 30)
    volume.remote.gone = set() if is_ahead else {1, 2, 3, 4, 5}
    async with volume.running():
        trio.lowlevel.add_instrument(steps)
        ino = await stream(volume, BLOCKS * BLOCK_CHUNKS)
        await trio.sleep(1)
        assert (volume.catalog.map_end(ino) > 0) is is_ahead
        volume.remote.gone = set()
        await volume.flush()
        trio.lowlevel.remove_instrument(steps)
        assert volume.files.state(ino) is FileState.PLACED
        assert len(volume.catalog.map_rows(ino, 0, 1 << 40)) == BLOCKS * BLOCK_CHUNKS
        assert 0 < steps.most <= 2 * BLOCK_CHUNKS


@pytest.mark.slow
async def test_laid_rows_are_no_part_of_the_file_before_it_is_published(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await stream(volume, 2 * BLOCK_CHUNKS)
        await laid(volume, ino)
        inode = volume.catalog.inode(ino)
        assert inode is not None and (inode.size, inode.version) == (0, 0)
        assert prints(volume.catalog, inode) == {}
        await volume.files.truncate(ino, 5 * CHUNK_BYTES + 1)
        await volume.flush()
        assert volume.catalog.map_end(ino) == 6
        await volume.files.truncate(ino, 8 * CHUNK_BYTES)
        await volume.flush()
        await volume.forget()
        expected = (5 * CHUNK + CHUNK[:1]).ljust(8 * CHUNK_BYTES, b"\0")
        assert await volume.files.read(ino, 0, 9 * CHUNK_BYTES) == expected


@pytest.mark.slow
async def test_what_was_laid_and_written_again_is_published_as_written_last(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await stream(volume, 2 * BLOCK_CHUNKS)
        await laid(volume, ino)
        await volume.files.write(ino, 3 * CHUNK_BYTES + 7, b"again")
        await volume.flush()
        assert volume.catalog.loose_chunks(ChunkNo(0), 9), "what was written over can be given back"
        await volume.forget()
        found = await volume.files.read(ino, 0, 2 * BLOCK_CHUNKS * CHUNK_BYTES)
        at = 3 * CHUNK_BYTES + 7
        content = 2 * BLOCK_CHUNKS * CHUNK
        assert found == content[:at] + b"again" + content[at + 5 :]


@pytest.mark.slow
async def test_version_whose_laid_chunks_were_lost_is_sent_anew(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.writer.run)
            ino = await stream(volume, 2 * BLOCK_CHUNKS, are_alike=False)
            await laid(volume, ino)
            (block,) = volume.catalog.blocks_of(ino)
            with volume.journal.operation():
                for row in volume.catalog.fragments(block)[:3]:
                    volume.catalog.put_fragment(FragmentRow(block, row.index, row.supplier, FragmentState.LOST))
            await volume.flush()
            nursery.cancel_scope.cancel()
        assert volume.files.state(ino) is FileState.PLACED
        assert block not in volume.catalog.blocks_of(ino)


@pytest.mark.slow
async def test_start_takes_back_what_a_crash_left_laid(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await stream(volume, 2 * BLOCK_CHUNKS)
        await laid(volume, ino)
        volume.journal.commit()
    assert volume.catalog.map_end(ino)
    volume.start()
    assert volume.catalog.map_end(ino) == 0
    async with volume.running():
        await volume.flush()
        await volume.forget()
        content = await volume.files.read(ino, 0, 2 * BLOCK_CHUNKS * CHUNK_BYTES)
        assert content == 2 * BLOCK_CHUNKS * CHUNK


@pytest.mark.slow
async def test_snapshot_holds_nothing_of_what_a_crash_left_laid(autojump_clock: MockClock) -> None:
    """It was made, and the process died before these rows were left out of it."""
    volume = Volume()
    async with volume.running():
        ino = await stream(volume, 2 * BLOCK_CHUNKS, are_alike=False)
        await laid(volume, ino)
        volume.catalog.make_snapshot("s", 1, SnapshotKind.BY_PERSON)
        volume.journal.commit()
    volume.start()
    await volume.files.truncate(ino, 0)
    async with volume.running():
        await volume.flush()
    assert volume.catalog.held_chunks(None, 1000)[0] == []


async def stream(volume: Volume, chunks: int, *, are_alike: bool = True) -> Ino:
    """An open file, written in one go."""
    ino = volume.create()
    for index in range(chunks):
        content = CHUNK if are_alike else index.to_bytes(4, "big") + CHUNK[4:]
        await volume.files.write(ino, index * CHUNK_BYTES, content)
    return ino


async def laid(volume: Volume, ino: Ino) -> None:
    """Wait until some of its rows are laid."""
    while not volume.catalog.map_end(ino):
        await trio.sleep(0.01)
