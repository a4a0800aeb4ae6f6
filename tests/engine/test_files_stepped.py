"""The files of a reader from one view to the next: copies of what was there before are never read as what is now."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from trio.testing import MockClock

from bitdustfs.model import CHUNK_BYTES, Ino, Inode, MapRow
from tests.engine.volume import Volume

CONTENT = Random(1).randbytes(3 * CHUNK_BYTES)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def goes(volume: Volume, ino: Ino) -> tuple[Inode, list[MapRow]]:
    """Have another view come that does not have a file. Returns what `comes_back` needs."""
    inode, rows = volume.catalog.inode(ino), list(volume.catalog.map_rows(ino, 0, 99))
    assert inode is not None
    volume.files.let_go_of({}, [ino])
    with volume.journal.operation():
        volume.catalog.drop_inode(ino)
        volume.catalog.drop_local_rows(ino)
    volume.journal.commit()
    volume.files.stepped([ino])
    return inode, rows


def comes_back(volume: Volume, inode: Inode, rows: list[MapRow]) -> None:
    """Have a view of another line come that has it."""
    volume.files.let_go_of({inode.ino: [(0, len(rows))]}, [])
    with volume.journal.operation():
        volume.catalog.put_inode(inode)
        volume.catalog.replace_map(inode.ino, rows, first=0, last=len(rows))
    volume.journal.commit()
    volume.files.stepped([inode.ino])


async def test_file_that_comes_back_before_its_spool_was_given_back_reads_as_it_is(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        was = goes(volume, ino)
        comes_back(volume, *was)
        assert await volume.files.read(ino, 0, CHUNK_BYTES) == CONTENT[:CHUNK_BYTES]
        await volume.files.collect()
        assert await volume.files.read(ino, CHUNK_BYTES, CHUNK_BYTES) == CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES]
        assert await volume.files.read(ino, 0, CHUNK_BYTES) == CONTENT[:CHUNK_BYTES]
        await volume.files.collect()
        volume.remote.gone = {1, 2, 3, 4, 5}
        assert await volume.files.read(ino, 0, CHUNK_BYTES) == CONTENT[:CHUNK_BYTES]
