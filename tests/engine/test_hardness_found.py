"""Defects that a hostile reading of hardness and sums found; each was seen to fail before it was mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.hardener import HARDEN_AFTER_S, LOOK_EVERY_S
from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import HOLE, Ino
from bitdustfs.testing.spool import FaultySpool
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


async def test_clean_copy_that_a_power_loss_took_does_not_spoil_what_is_written_behind_it(
    autojump_clock: MockClock,
) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await trio.sleep(2 * LOOK_EVERY_S)
    lose_power(volume)
    async with volume.running(upload=False):
        volume.files.open(ino)
        await volume.files.write(ino, 10_000, b"new" * 10_000)
        await volume.files.fsync(ino)
        assert await volume.files.read(ino, 10_000, 30_000) == b"new" * 10_000
        assert await content_of(volume, ino) == content[:10_000] + b"new" * 10_000 + content[40_000:]


async def test_clean_copy_that_a_power_loss_took_does_not_keep_its_file_in_memory(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(3_000_000)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await volume.forget()
        volume.files.open(ino)
        await volume.files.read(ino, 2_990_000, 10_000)
        await trio.sleep(2 * LOOK_EVERY_S)
        await volume.files.read(ino, 0, 10_000)
        volume.journal.commit()
    lose_power(volume)
    async with volume.running():
        volume.files.open(ino)
        await volume.files.read(ino, 600_000, 10_000)
        volume.files.close(ino)
        await trio.sleep(3 * LOOK_EVERY_S + 1)
        assert list(volume.files._table) == []


async def test_file_with_a_little_garbage_leaves_memory(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, DICE.randbytes(100_000))
        await volume.files.fsync(ino)
        await volume.files.write(ino, 0, DICE.randbytes(4096))
        await volume.files.fsync(ino)
        volume.files.close(ino)
        await volume.flush()
        await trio.sleep(4 * LOOK_EVERY_S)
        assert list(volume.files._table) == []


async def test_space_of_bytes_that_were_overwritten_across_restarts_comes_back(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(1 << 20))
    for part in range(4):
        volume.start()
        async with volume.running(upload=False):
            for at in range(part * 4096, 1 << 20, 16384):
                await volume.files.write(ino, at, DICE.randbytes(4096))
            await volume.files.fsync(ino)
            await volume.files.collect()
    assert volume.spool.used_bytes() <= 3 << 19


@pytest.mark.slow
async def test_sums_of_bytes_that_were_overwritten_piece_by_piece_go(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(1 << 20))
        for at in range(0, 1 << 20, 8192):
            await volume.files.write(ino, at, DICE.randbytes(8192))
            await volume.files.fsync(ino)
            await volume.files.collect()
        assert volume.catalog.sums(ino, 0) == b""
        assert volume.catalog.sums(ino, 1) != b""


async def test_sync_that_was_given_up_leaves_no_bytes_that_nobody_needs(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(32_768))
        for _ in range(20):
            await volume.files.write(ino, 0, DICE.randbytes(32_768))
            with trio.move_on_after(0.007):
                async with syncing(volume, ino):
                    await volume.files.write(ino, 0, DICE.randbytes(32_768))
        await volume.files.fsync(ino)
        await volume.files.collect()
        assert volume.spool.used_bytes() <= 65_536


async def test_bytes_that_a_power_loss_took_are_given_back(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(65_536))
        await volume.files.write(ino, 0, DICE.randbytes(65_536))
        await volume.spool.harden(ino)  # the disk has them, but no commit says so
        volume.journal.commit()
    lose_power(volume)
    async with volume.running(upload=False):
        await volume.files.collect()
        assert volume.spool.used_bytes() == 65_536


async def test_changes_are_hard_after_a_while_although_their_upload_fails_again_and_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, content)
        (life,) = volume.files.dirty_lives()
        for _ in range(10):
            await trio.sleep(HARDEN_AFTER_S / 2)
            life.dirty_at = trio.current_time()  # as the writer does when a version could not be placed
    lose_power(volume)
    assert await content_of(volume, ino) == content


async def test_what_was_committed_is_durable_after_a_while(autojump_clock: MockClock) -> None:
    volume, synced_at = Volume(), []
    async with volume.running(upload=False):

        async def harden() -> None:
            synced_at.append(trio.current_time())

        volume.catalog.harden = harden  # type: ignore[method-assign]
        ino = volume.create()
        await volume.files.write(ino, 0, b"small")
        changed_at = trio.current_time()
        await trio.sleep(HARDEN_AFTER_S + LOOK_EVERY_S)
        assert changed_at < synced_at[-1]


async def test_file_that_could_not_grow_is_uploaded_and_hardened_as_any_other(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(10_000)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        volume.files.open(ino)
        volume.files._spool = FaultySpool(volume.spool, ".N")
        with pytest.raises(DiskFull):
            await volume.files.write(ino, 10_000, b"x" * 20_000)
        await trio.sleep(2 * LOOK_EVERY_S)
    lose_power(volume)
    async with volume.running():
        assert await content_of(volume, ino) == content


async def test_spool_file_that_cannot_be_given_back_does_not_keep_others(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        first = await synced(volume, DICE.randbytes(LARGE))
        second = await synced(volume, DICE.randbytes(LARGE))
        await volume.files.truncate(first, LARGE // 2)
        await volume.files.truncate(second, 0)
        real = volume.spool.punch

        async def punch(ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
            await trio.lowlevel.checkpoint()
            if ino == first:
                raise DiskFault(path="spool", why="it cannot")
            await real(ino, ranges)

        volume.spool.punch = punch  # type: ignore[method-assign]
        with pytest.raises(DiskFault):
            await volume.files.collect()
        assert second not in volume.spool.inos()
        volume.spool.punch = real  # type: ignore[method-assign]
        used = volume.spool.used_bytes()
        await volume.files.collect()
        assert volume.spool.used_bytes() < used
        await volume.files.truncate(first, 0)
        await volume.files.collect()
        content = DICE.randbytes(LARGE)
        await volume.files.write(first, 0, content)
        await volume.files.collect()
        assert volume.spool.inos() == [first]
        assert await content_of(volume, first) == content


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


async def test_spool_file_that_holds_nothing_is_removed_after_a_restart(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(DICE.randbytes(LARGE))
        await volume.flush()
        await trio.sleep(2 * LOOK_EVERY_S)
        volume.files.cache._drop([volume.files._table.life(ino)], LARGE)
        volume.journal.commit()
    volume.start()
    async with volume.running():
        await trio.sleep(2 * LOOK_EVERY_S)
        assert volume.spool.inos() == []


async def test_garbage_of_a_process_that_died_is_given_back(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await synced(volume, DICE.randbytes(1 << 20))
        await volume.files.write(ino, 0, DICE.randbytes(1 << 19))
        await volume.files.fsync(ino)
    volume.start()
    async with volume.running(upload=False):
        await trio.sleep(2 * LOOK_EVERY_S)
        assert volume.spool.used_bytes() == 1 << 20


async def test_fsync_of_a_file_whose_clean_copies_a_power_loss_took_succeeds(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await trio.sleep(2 * LOOK_EVERY_S)
    lose_power(volume)
    async with volume.running():
        volume.files.open(ino)
        await volume.files.truncate(ino, LARGE // 2)
        await volume.files.fsync(ino)
        assert await content_of(volume, ino) == content[: LARGE // 2]


async def test_synced_bytes_are_read_although_a_power_loss_took_the_end_of_their_unit(
    autojump_clock: MockClock,
) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running(upload=False):
        ino = await synced(volume, content)
        await volume.files.write(ino, 0, DICE.randbytes(LARGE))
        volume.journal.commit()
    lose_power(volume)
    async with volume.running(upload=False):
        await volume.files.fsync(ino)
        assert await content_of(volume, ino) == content


async def test_copy_that_is_gone_from_the_disk_is_said_once_and_what_to_do(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume, content = Volume(), DICE.randbytes(LARGE)
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
    volume.spool.remove(ino)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(volume.files.keep_hard)  # alone, as when nothing can be given back
        await trio.sleep(20 * LOOK_EVERY_S)
        nursery.cancel_scope.cancel()
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"inode {ino}: its local copy is forgotten" in said
    assert "have the disk looked at" in said
    async with volume.running():
        assert await content_of(volume, ino) == content
