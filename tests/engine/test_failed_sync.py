"""A sync of a spool file fails, and the kernel drops what it could not write: it is never shown in its place."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.hardener import HARDEN_AFTER_S, LOOK_EVERY_S, SUM_FIRST_BYTES
from bitdustfs.errors import DiskFault, SpoolDamaged
from bitdustfs.model import SUM_UNIT_BYTES, Ino
from bitdustfs.testing.spool import MemorySpool
from tests.engine.volume import Volume

DICE = random.Random(11)
OLD, NEW = DICE.randbytes(50_000), DICE.randbytes(60_000)
LATER_S = 2 * (HARDEN_AFTER_S + LOOK_EVERY_S)


class DroppingSpool(MemorySpool):
    """While its disk is broken, a sync fails and what was not synced is gone; each later one fails as well."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    async def harden(self, ino: Ino) -> None:
        """Sync, or drop and fail."""
        if self.broken:
            self.distrust(ino)
            self.drop_soft(ino)
        await super().harden(ino)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.fixture
def spool() -> DroppingSpool:
    return DroppingSpool()


async def half_synced(volume: Volume, spool: DroppingSpool) -> Ino:
    """A file of which OLD was synced, and a sync of NEW behind it failed."""
    ino = volume.create()
    await volume.files.write(ino, 0, OLD)
    await volume.files.fsync(ino)
    await volume.files.write(ino, len(OLD), NEW)
    spool.broken = True
    with pytest.raises(DiskFault):
        await volume.files.fsync(ino)
    spool.broken = False
    return ino


async def expect_new_is_damaged(volume: Volume, ino: Ino) -> None:
    for at in range(len(OLD), len(OLD) + len(NEW), 4096):
        with pytest.raises(SpoolDamaged):
            await volume.files.read(ino, at, 4096)


async def test_bytes_that_a_failed_sync_dropped_are_an_error_and_never_zeros(
    autojump_clock: MockClock, spool: DroppingSpool
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = await half_synced(volume, spool)
        await expect_new_is_damaged(volume, ino)
        whole_units = len(OLD) // SUM_UNIT_BYTES * SUM_UNIT_BYTES
        assert await volume.files.read(ino, 0, whole_units) == OLD[:whole_units]


async def test_bytes_that_a_failed_sync_dropped_are_never_uploaded(
    autojump_clock: MockClock, spool: DroppingSpool, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = await half_synced(volume, spool)
    async with volume.running():
        await trio.sleep(LATER_S)
        inode = volume.catalog.inode(ino)
        assert inode is not None and inode.version == 0
        await expect_new_is_damaged(volume, ino)


async def test_bytes_that_outlive_a_failed_sync_are_read_and_uploaded(
    autojump_clock: MockClock, spool: DroppingSpool, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(spool=spool)
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, OLD)
        spool.distrust(ino)
        with pytest.raises(DiskFault):
            await volume.files.fsync(ino)
        assert await volume.files.read(ino, 0, len(OLD)) == OLD
        await volume.flush()
        await volume.forget()
        assert await volume.files.read(ino, 0, len(OLD)) == OLD


async def test_what_is_written_after_a_failed_sync_gets_sums_too(
    autojump_clock: MockClock, spool: DroppingSpool, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = await half_synced(volume, spool)
        await volume.files.write(ino, 200_000, NEW)
        await trio.sleep(LATER_S)
        assert await volume.files.read(ino, 200_000, len(NEW)) == NEW
        spool.drop_soft(ino)
        with pytest.raises(SpoolDamaged):
            await volume.files.read(ino, 200_000, 4096)


async def test_what_was_written_behind_a_good_sync_is_trusted_when_the_process_is_killed(
    autojump_clock: MockClock, spool: DroppingSpool
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = volume.create()
        await volume.files.write(ino, 0, OLD)
        await volume.files.fsync(ino)
        await volume.files.write(ino, len(OLD), NEW)
        volume.journal.commit()
    volume.start()
    volume.files.open(ino)
    await volume.files.fsync(ino)
    assert await volume.files.read(ino, len(OLD), 4096) == NEW[:4096]


async def test_failed_sync_is_not_forgotten_when_the_process_is_killed(
    autojump_clock: MockClock, spool: DroppingSpool
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = await half_synced(volume, spool)
        volume.journal.commit()
    spool._distrusted.clear()  # as a new process begins
    volume.start()
    volume.files.open(ino)
    await expect_new_is_damaged(volume, ino)
    with pytest.raises(DiskFault):
        await volume.files.fsync(ino)


async def test_power_loss_after_a_failed_sync_leaves_all_that_was_synced_before(
    autojump_clock: MockClock, spool: DroppingSpool
) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = await half_synced(volume, spool)
        volume.journal.commit()
    spool.lose_power()
    volume.start(b"second boot")
    volume.files.open(ino)
    assert volume.files.attributes(ino).size == len(OLD)
    assert await volume.files.read(ino, 0, len(OLD)) == OLD
    spool.flip(ino, len(OLD) - 1)
    with pytest.raises(SpoolDamaged):
        await volume.files.read(ino, len(OLD) - 1, 1)
    spool.flip(ino, len(OLD) - 1)
    await volume.files.write(ino, len(OLD), NEW)
    await volume.files.fsync(ino)
    assert await volume.files.read(ino, 0, 200_000) == OLD + NEW


async def test_long_range_is_summed_too_when_its_sync_fails(autojump_clock: MockClock, spool: DroppingSpool) -> None:
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino = volume.create()
        content = DICE.randbytes(SUM_FIRST_BYTES + 1)
        await volume.files.write(ino, 0, content)
        spool.distrust(ino)
        with pytest.raises(DiskFault):
            await volume.files.fsync(ino)
        spool.flip(ino, 1_000_000)
        with pytest.raises(SpoolDamaged):
            await volume.files.read(ino, 1_000_000, 1)
