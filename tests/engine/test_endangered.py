"""The local copy of a block that too few suppliers hold is kept until enough of them do, and never stops a write."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import CHUNK_BYTES, BlockNo, Ino
from tests.engine.test_room import is_here, published
from tests.engine.volume import Volume

DICE = random.Random(12)
MIB = 1 << 20
FILE = 200_000
TOO_MANY = {4, 5}  # of 5 suppliers: with code 3/5, three fragments are held, and W is 4


async def degraded(volume: Volume, content: bytes) -> Ino:
    """A file whose block is held by three suppliers only, because the others are gone."""
    volume.remote.gone = set(TOO_MANY)
    ino = await volume.write_all(content)
    await volume.flush()
    await volume.files.collect()
    return ino


async def test_dropped_cache_keeps_what_too_few_suppliers_hold_and_nothing_else(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        whole = await volume.write_all(DICE.randbytes(FILE))
        await volume.flush()
        ino = await degraded(volume, DICE.randbytes(FILE))
        small = await degraded(volume, DICE.randbytes(5000))  # kept in the catalog
        await volume.forget()
        assert await is_here(volume, ino)
        assert await is_here(volume, small)
        assert not await is_here(volume, whole)


async def test_copy_goes_when_enough_suppliers_hold_it_again(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await degraded(volume, DICE.randbytes(FILE))
        volume.remote.gone = set()
        await trio.sleep(60)
        await volume.forget()
        assert not await is_here(volume, ino)


async def test_only_the_endangered_chunks_of_a_file_are_kept(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(DICE.randbytes(4 * CHUNK_BYTES))
        await volume.flush()
        volume.remote.gone = set(TOO_MANY)
        await volume.files.write(ino, CHUNK_BYTES, DICE.randbytes(CHUNK_BYTES))
        await volume.flush()
        await volume.files.cache.drop_all()
        life = volume.files._table.life(ino)
        assert [(e.start, e.end) for e in life.extents] == [(CHUNK_BYTES, 2 * CHUNK_BYTES)]


async def test_others_leave_the_spool_before_what_too_few_suppliers_hold(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 * MIB)
    async with volume.running():
        ino = await degraded(volume, DICE.randbytes(FILE))
        volume.rebuilder.complete = _nothing  # type: ignore[method-assign,assignment]
        volume.remote.gone = set()
        files = await published(volume, 12)  # more than fits
        assert await is_here(volume, ino)
        assert not await is_here(volume, files[0])


@pytest.mark.slow
async def test_writes_go_on_when_everything_here_is_endangered(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 * MIB)
    async with volume.running():
        volume.remote.gone = set(TOO_MANY)
        began = trio.current_time()
        for _ in range(20):
            await volume.write_all(DICE.randbytes(FILE))
            assert volume.spool.used_bytes() <= 2 * MIB
        assert trio.current_time() - began < 600


async def _nothing(_number: BlockNo) -> int:
    return 0
