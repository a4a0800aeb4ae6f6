"""Room in the spool: what is dropped and in which order, who waits, and what a full disk does."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.recency import Recency
from bitdustfs.engine.room import PATIENCE_S
from bitdustfs.engine.writer import FREEZE_AFTER_S
from bitdustfs.errors import ContractsFull, DiskFull, ReadOnly, SpoolFull
from bitdustfs.model import CHUNK_BYTES, Ino
from tests.engine.volume import Volume

DICE = random.Random(11)
MIB = 1 << 20
FILE = 200_000


async def is_here(volume: Volume, ino: Ino) -> bool:
    """Whether a file can be read without any supplier."""
    before = len(volume.remote.gets)
    volume.reader.forget()
    inode = volume.files.attributes(ino)
    await volume.files.read(ino, 0, inode.size)
    return len(volume.remote.gets) == before


async def published(volume: Volume, count: int, size: int = FILE) -> list[Ino]:
    """Files that are at the suppliers and here, the first one used least recently."""
    files = [await volume.write_all(DICE.randbytes(size)) for _ in range(count)]
    await volume.flush()
    await volume.files.collect()
    for ino in files:
        await volume.files.read(ino, 0, 1)
    return files


async def test_drop_of_a_large_file_gives_others_their_turn_in_between(autojump_clock: MockClock) -> None:
    volume, chunks = Volume(), 6
    async with volume.running(), trio.open_nursery() as nursery:
        await published(volume, 3)
        (ino,) = await published(volume, 1, chunks * CHUNK_BYTES)
        await published(volume, 3)
        here = [chunks]

        async def look() -> None:
            while True:
                now = sum(volume.files.cache.has_chunk(ino, index, CHUNK_BYTES) for index in range(chunks))
                here.extend([now] if now != here[-1] else [])
                await trio.lowlevel.checkpoint()

        nursery.start_soon(look)
        dropped = await volume.files.cache.drop_all(2 * CHUNK_BYTES)
        assert dropped == chunks * CHUNK_BYTES + 6 * FILE
        await trio.lowlevel.checkpoint()
        assert here[-1] == 0 and all(before - now <= 2 for before, now in pairwise(here))
        nursery.cancel_scope.cancel()


# -- which bytes go -------------------------------------------------------------------------------------------


async def test_least_recently_used_files_leave_the_spool_first(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 * MIB)
    async with volume.running():
        files = await published(volume, 8)
        await volume.files.read(files[0], 0, 1)
        await volume.write_all(DICE.randbytes(MIB // 2))
        here = [await is_here(volume, ino) for ino in files]
        assert here[0]
        assert not here[1]
        assert here[1:] == sorted(here[1:])  # from one file on, all are here


async def test_files_of_an_earlier_process_leave_the_spool_before_those_used_since(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 * MIB)
    async with volume.running():
        files = await published(volume, 8)
        await volume.files.settle_all()
        await volume.journal.durable()
    volume.start()
    async with volume.running():
        await volume.files.read(files[0], 0, 1)
        await volume.files.read(files[1], 0, 1)
        await volume.write_all(DICE.randbytes(MIB // 2))
        here = [await is_here(volume, ino) for ino in files]
        assert here[:2] == [True, True]
        assert not here[2]


async def test_of_one_file_those_bytes_go_first_that_came_first(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        (ino,) = await published(volume, 1, 4 * CHUNK_BYTES)
        life = volume.files._table.life(ino)
        assert life.drop_clean(CHUNK_BYTES) == CHUNK_BYTES
        await volume.files.read(ino, 0, CHUNK_BYTES)  # the first chunk comes back, behind the others
        assert life.drop_clean(1) == CHUNK_BYTES
        assert [piece.extent is None for piece in life.extents.pieces(0, 2 * CHUNK_BYTES)] == [False, True]


def test_order_of_use_is_exact_up_to_its_size() -> None:
    recency = Recency(3)
    for number in (1, 2, 3, 1):
        recency.used(Ino(number))
    assert (recency.oldest(9), recency.overflowed) == ([2, 3, 1], False)
    recency.used(Ino(4))
    assert (recency.oldest(2), recency.overflowed, Ino(2) in recency) == ([3, 1], True, False)
    recency.forget(Ino(3))
    assert recency.oldest(9) == [1, 4]


# -- who waits ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("full", "error"), [(False, SpoolFull), (True, ContractsFull)])
async def test_dirty_bytes_are_never_dropped_and_a_write_gives_up_after_its_patience(
    autojump_clock: MockClock, full: bool, error: type[Exception]
) -> None:
    volume = Volume(spool_limit=MIB)
    (volume.remote.full if full else volume.remote.gone).update(range(1, 6))
    async with volume.running():
        content = DICE.randbytes(900_000)
        ino = await volume.write_all(content)
        started = trio.current_time()
        with pytest.raises(error):
            await volume.write_all(bytes(200_000))
        assert PATIENCE_S <= trio.current_time() - started < 2 * PATIENCE_S
        assert await volume.files.read(ino, 0, len(content)) == content
        volume.remote.full.clear()
        volume.remote.gone.clear()
        await volume.write_all(bytes(200_000))


@pytest.mark.slow
async def test_full_spool_sends_at_once_what_is_dirty(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 * MIB)
    async with volume.running():
        ino = volume.create()
        started = trio.current_time()
        for at in range(0, 20 * MIB, 128 * 1024):
            await volume.files.write(ino, at, DICE.randbytes(128 * 1024))
            assert volume.spool.used_bytes() <= 2 * MIB
        assert trio.current_time() - started < FREEZE_AFTER_S


@pytest.mark.slow
async def test_write_waits_no_longer_for_many_files_that_hold_nothing_to_drop(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=3 * MIB)
    async with volume.running(upload=False):
        for _ in range(1000):
            await volume.write_all(DICE.randbytes(1000))
    async with volume.running():
        await volume.flush()
        for _ in range(1000):
            await volume.write_all(DICE.randbytes(1000))
        volume.remote.gone.update(range(1, 6))
        for _ in range(1000):
            await volume.write_all(DICE.randbytes(1000))
        started = trio.current_time()
        for _ in range(500):
            await volume.write_all(DICE.randbytes(1000))  # the first thousand give way
        assert trio.current_time() - started < 5


@pytest.mark.slow
async def test_many_times_the_limit_in_small_files_goes_through(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=MIB // 8)
    contents = [DICE.randbytes(1024) for _ in range(650)]
    async with volume.running():
        files = []
        for content in contents:
            files.append(await volume.write_all(content))
            await trio.sleep(0.001)
            assert volume.catalog.inline_bytes() <= MIB // 8 + 32 * 1024  # and what one commit brings
        await volume.flush()
        for ino, content in zip(files, contents, strict=True):
            volume.files.open(ino)
            assert await volume.files.read(ino, 0, 2000) == content
            volume.files.close(ino)
        await volume.files.collect()
        assert len(list(volume.files._table)) < 300  # and not one for each file
        assert volume.catalog.inline_bytes() <= MIB // 8 + 32 * 1024


# -- a full disk ----------------------------------------------------------------------------------------------


async def test_full_disk_refuses_a_write_at_once_and_takes_it_when_there_is_room(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote.gone.update(range(1, 6))
    async with volume.running():
        content = DICE.randbytes(FILE)
        ino = await volume.write_all(content)
        volume.spool.disk_bytes = volume.spool.used_bytes()
        for small in (10, FILE):
            with pytest.raises(DiskFull):
                await volume.write_all(bytes(small))
        assert await volume.files.read(ino, 0, FILE) == content
        volume.spool.disk_bytes = None
        await volume.files.write(ino, FILE, content)
        assert await volume.files.read(ino, FILE, FILE) == content


async def test_full_disk_drops_what_suppliers_have_too(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        files = await published(volume, 6)
        volume.spool.disk_bytes = volume.spool.used_bytes()
        await volume.write_all(DICE.randbytes(FILE))
        here = [await is_here(volume, ino) for ino in files]
        assert not here[0]
        assert all(left <= right for left, right in pairwise(here))


# -- a damaged catalog ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_nothing_is_sent_or_kept_of_a_volume_whose_catalog_is_damaged(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        (old,) = await published(volume, 1)
        await volume.forget()
        await volume.write_all(DICE.randbytes(FILE))
        volume.catalog._damage = ReadOnly(what="the catalog is damaged")  # as if it had just been met
        puts, used = volume.remote.puts, volume.spool.used_bytes()
        await trio.sleep(60)
        assert len(await volume.files.read(old, 0, FILE)) == FILE
        for change in (volume.write_all(b"x"), volume.files.write(old, 0, b"x"), volume.files.truncate(old, 0)):
            with pytest.raises(ReadOnly):
                await change
        assert (volume.remote.puts, volume.spool.used_bytes()) == (puts, used)
