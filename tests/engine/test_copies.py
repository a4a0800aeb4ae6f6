"""Blocks made again from the chunks that are here: byte for byte, or not at all."""

from __future__ import annotations

import random
from logging import INFO

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import erasure, fragment
from bitdustfs.engine.copies import Copies
from bitdustfs.model import CHUNK_BYTES, BlockRow, Ino
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.world import SECRETS
from tests.engine.volume import Volume

DICE = random.Random(13)
SIZE = 5 * CHUNK_BYTES + 777


async def placed(volume: Volume, *sizes: int) -> list[Ino]:
    files = [await volume.write_all(DICE.randbytes(size)) for size in sizes]
    await volume.flush()
    await volume.files.collect()
    return files


def only_block(volume: Volume) -> BlockRow:
    (block,) = volume.catalog.blocks()
    return block


def copies_of(volume: Volume) -> Copies:
    return Copies(volume.catalog, volume.files, InlineCrunch(), SECRETS)


async def test_copy_has_every_root_of_the_block(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        await placed(volume, SIZE, 3000, 60_000)  # one of them is kept in the catalog
        block = only_block(volume)
        copy = await copies_of(volume).block(block)
        assert copy is not None
        made = erasure.remake(copy, block.code.k, range(block.code.n))
        assert tuple(map(fragment.root, made)) == block.roots


async def test_block_of_which_something_is_not_here_has_no_copy(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        large, _ = await placed(volume, SIZE, 3000)
        copies, block = copies_of(volume), only_block(volume)
        await volume.files.write(large, 2 * CHUNK_BYTES, b"changed")
        assert await copies.block(block) is None
        await volume.files.truncate(large, 0)
        assert await copies.block(block) is None


async def test_block_whose_chunks_no_file_has_any_more_has_no_copy(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        (ino,) = await placed(volume, SIZE)
        block = only_block(volume)
        await volume.files.write(ino, 0, DICE.randbytes(SIZE))
        await volume.flush()
        assert await copies_of(volume).block(block) is None


@pytest.mark.slow
async def test_rebuild_downloads_nothing_of_what_is_here_and_everything_of_what_is_not(
    autojump_clock: MockClock,
) -> None:
    for is_here in (True, False):
        volume = Volume()
        async with volume.running():
            volume.remote.gone = {5}
            await placed(volume, SIZE)
            block = only_block(volume).block
            if not is_here:
                await volume.forget()
            before = len(volume.remote.gets)
            volume.remote.gone = set()
            await trio.sleep(60)
            assert volume.catalog.held(block) == 5
            assert (len(volume.remote.gets) == before) is is_here


@pytest.mark.slow
async def test_spoilt_copy_is_not_used(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        (ino,) = await placed(volume, SIZE)
        block = only_block(volume).block
        volume.spool.flip(ino, 100)
        volume.remote.gone = set()
        await trio.sleep(60)
        assert volume.catalog.held(block) == 5
        assert volume.remote.gets
    assert f"what this disk has of block {block} is not what was sealed: suppliers are asked" in caplog.messages


@pytest.mark.slow
async def test_block_whose_last_chunk_is_dead_is_made_from_suppliers_and_no_disk_is_blamed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With the chunk that nothing needs any more the block was as long as without: the padding hides it."""
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        _, last = await placed(volume, SIZE, 700)
        block = only_block(volume)
        (*_, dead) = volume.catalog.chunks_of_block(block.block)
        await volume.files.truncate(last, 0)
        await volume.flush()
        volume.catalog.drop_chunks([dead.chunk])  # as the collector does
        assert copies_of(volume).is_here(block)
        volume.remote.gone = set()
        await trio.sleep(60)
        assert volume.catalog.held(block.block) == 5
        assert volume.remote.gets
    assert not [each for each in caplog.records if each.name.endswith("rebuilder") and each.levelno > INFO]
