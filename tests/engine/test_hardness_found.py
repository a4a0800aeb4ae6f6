"""Defects that a hostile reading of hardness and sums found; each was seen to fail before it was mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import HOLE, Ino
from tests.engine.test_power_loss import LARGE, content_of, lose_power, synced
from tests.engine.volume import Volume

DICE = random.Random(23)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@asynccontextmanager
async def syncing(volume: Volume, ino: Ino) -> AsyncIterator[None]:
    """Run the body while an fsync of the file waits for the disk; leave when it was answered."""
    real = volume.spool.harden

    async def slowly(which: Ino) -> None:
        await real(which)
        await trio.sleep(0.01)

    volume.spool.harden = slowly  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(volume.files.fsync, ino)
        await trio.sleep(0.005)
        yield
    volume.spool.harden = real  # type: ignore[method-assign]


async def test_file_that_grew_and_was_cut_during_its_sync_does_not_go_back_to_its_small_content(
    autojump_clock: MockClock,
) -> None:
    volume, content = Volume(), DICE.randbytes(100_000)
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(10_000))
        await volume.files.write(ino, 0, content)
        async with syncing(volume, ino):
            await volume.files.truncate(ino, 50_000)
        await volume.files.write(ino, 0, b"soft")
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == content[:50_000]


async def test_small_content_that_was_cut_beneath_soft_bytes_stays_cut(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(10_000)
    async with volume.running(upload=False):
        ino = await synced(volume, old)
        await volume.files.write(ino, 0, b"soft" * 10_000)
        await volume.files.truncate(ino, 5_000)
        await volume.files.truncate(ino, 8_000)
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == old[:5_000].ljust(8_000, b"\0")


async def test_zeros_that_were_synced_outlive_the_publishing_of_an_older_version(autojump_clock: MockClock) -> None:
    volume, old = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, old)
        await volume.flush()
    volume.start()
    async with volume.running(upload=False):
        await volume.files.write(ino, 0, old[:10])
        (life,) = volume.files.dirty_lives()
        frozen = volume.files.freeze(life)
        await volume.files.fsync(ino)
        await volume.files.truncate(ino, 50_000)
        await volume.files.truncate(ino, 250_000)
        await volume.files.fsync(ino)
        await volume.files.write(ino, 100_000, b"soft" * 10_000)
        chunk = volume.catalog.map_rows(ino, 0, 0)[0].chunk
        assert volume.files.publish(frozen, {0: chunk})
        volume.journal.commit()
    lose_power(volume)
    async with volume.running(upload=False):
        assert await content_of(volume, ino) == old[:50_000].ljust(250_000, b"\0")


async def test_version_published_during_a_sync_is_not_replaced_by_what_was_synced(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, DICE.randbytes(100_000))
        async with syncing(volume, ino):
            await volume.files.write(ino, 0, bytes(LARGE))
            (life,) = volume.files.dirty_lives()
            frozen = volume.files.freeze(life)
            assert volume.files.publish(frozen, dict.fromkeys(frozen.changed, HOLE))
        await volume.files.write(ino, 50_000, b"soft" * 10_000)
        volume.journal.commit()
    lose_power(volume)
    async with volume.running(upload=False):
        assert await content_of(volume, ino) == bytes(LARGE)


async def test_changes_are_committed_soon_also_after_a_sync_that_had_nothing_to_do(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, b"old")
        await trio.sleep(1)
        await volume.files.fsync(ino)
        await volume.files.write(ino, 0, b"new")
        await trio.sleep(1)
        stored = volume.catalog.inline(ino)
        assert stored is not None and stored[0] == b"new"
