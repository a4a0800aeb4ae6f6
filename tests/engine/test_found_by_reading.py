"""Defects that a hostile reading of the data path found; each was seen to fail before it was mended."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.errors import DiskFault, DiskFull
from bitdustfs.model import FileState, FragmentName, Ino, Inode, SupplierNo
from bitdustfs.testing.spool import FaultySpool
from tests.engine.volume import Volume

DICE = random.Random(11)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def slowly(real: Callable[[], Awaitable[None]], delay_s: float) -> Callable[[], Awaitable[None]]:
    async def slow() -> None:
        await trio.sleep(delay_s)
        await real()

    return slow


async def test_write_while_the_collector_waits_is_not_collected(autojump_clock: MockClock) -> None:
    volume, new = Volume(), b"N" * 100_000
    async with volume.running():
        ino = await volume.write_all(DICE.randbytes(300_000))
        await volume.flush()
        volume.catalog.harden = slowly(volume.catalog.harden, 0.05)  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.cache.drop_all)
            await trio.sleep(0.01)
            volume.files.open(ino)
            await volume.files.write(ino, 0, new)
        assert await volume.files.read(ino, 0, 100_000) == new


async def test_fsync_hardens_what_a_version_on_its_way_froze(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(300_000)
    volume.remote.silent = {1, 2, 3, 4, 5}
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, content)
        await trio.sleep(8)
        await volume.files.fsync(ino)
    volume.spool.lose_power()
    volume.start()
    assert await volume.files.read(ino, 0, 300_000) == content


async def test_fsync_hardens_what_was_written_before_a_crash(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(300_000)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, content)
        await trio.sleep(1)
    volume.start()
    async with volume.running(upload=False):
        await volume.files.fsync(ino)
    volume.spool.lose_power()
    volume.start()
    assert await volume.files.read(ino, 0, 300_000) == content


async def test_bytes_that_are_being_hardened_are_not_written_again(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, b"A" * 100_000)
        real = volume.spool.harden

        async def harden(which: Ino) -> None:
            await real(which)
            await trio.sleep(0.01)

        volume.spool.harden = harden  # type: ignore[method-assign, assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.fsync, ino)
            await trio.sleep(0.005)
            await volume.files.write(ino, 0, b"B" * 4096)
        await volume.files.fsync(ino)
    volume.spool.lose_power()
    volume.start()
    assert await volume.files.read(ino, 0, 4096) == b"B" * 4096


async def test_version_that_cannot_be_recorded_stays_dirty(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(b"old" * 40_000)
        await volume.flush()
        volume.files.open(ino)
        await volume.files.write(ino, 0, b"NEW" * 40_000)
        real = volume.catalog.put_inode
        failed: list[Inode] = []

        def put_inode(inode: Inode) -> None:
            if not failed:
                failed.append(inode)
                raise DiskFault(path="catalog", why="once")
            real(inode)

        volume.catalog.put_inode = put_inode  # type: ignore[method-assign]
        await volume.flush()
        assert failed
        await volume.forget()
        assert await volume.files.read(ino, 0, 120_000) == b"NEW" * 40_000


async def test_block_that_is_placed_meanwhile_is_not_released(autojump_clock: MockClock) -> None:
    volume, content = Volume(), DICE.randbytes(300_000)
    volume.remote.delay_s = 0.3
    left = [(SupplierNo(n), FragmentName(bytes([n]) * 32)) for n in range(1, 6)]
    async with volume.running():
        ino = await volume.write_all(content)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.flush)
            while not volume.catalog.uploads():
                await trio.sleep(0.01)
            volume.catalog.put_upload(bytes(32), left)
            await trio.sleep(0.02)
            with trio.move_on_after(20):
                await volume.uploads.run()
        assert volume.catalog.uploads() == []
        await volume.forget()
        assert await volume.files.read(ino, 0, 300_000) == content


async def test_small_file_that_cannot_grow_keeps_its_content(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, b"precious")
        await volume.files.fsync(ino)
        volume.files._spool = FaultySpool(volume.spool, "N")
        with pytest.raises(DiskFull):
            await volume.files.write(ino, 8, b"x" * 20_000)
        assert await volume.files.read(ino, 0, 8) == b"precious"


async def test_flush_after_a_restart_waits_for_what_was_dirty_before(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        await volume.write_all(DICE.randbytes(300_000))
        await trio.sleep(1)
    volume.start()
    async with volume.running():
        await volume.flush()
        assert volume.files.dirty_totals() == (0, 0)


@pytest.mark.slow
async def test_file_that_cannot_be_read_does_not_keep_others_here(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume()
    async with volume.running():
        broken = await volume.write_all(DICE.randbytes(300_000))
        await volume.flush()
        await volume.forget()
        volume.remote.stored.clear()
        volume.files.open(broken)
        await volume.files.write(broken, 10, b"patch")
        volume.files.close(broken)
        innocent = await volume.write_all(DICE.randbytes(300_000))
        await trio.sleep(60)
        assert volume.files.state(innocent) is FileState.PLACED


@pytest.mark.slow
async def test_files_that_nobody_uses_are_not_kept_in_memory(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        for _ in range(600):
            await volume.write_all(DICE.randbytes(3000))
        await volume.flush()
        await trio.sleep(1)
        await volume.forget()
        assert len(list(volume.files._table)) == 0


async def test_operation_that_fails_changes_nothing_in_memory(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await volume.write_all(b"still here" * 3000)
        with pytest.raises(DiskFault), volume.journal.operation():
            volume.files.dropped(ino)
            raise DiskFault(path="catalog", why="once")
        await volume.files.collect()
        assert await volume.files.read(ino, 0, 10) == b"still here"
