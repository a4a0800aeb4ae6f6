"""Few bytes that an fsync made hard in the catalog's log: they come back, and never over others."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitdustfs.engine.hardener import HARDEN_AFTER_S, LOOK_EVERY_S
from bitdustfs.engine.logged import FILE_BYTES, FILES_MOST, ONE_BYTES
from bitdustfs.errors import DiskFault
from bitdustfs.model import SUM_UNIT_BYTES, Ino
from bitdustfs.testing.spool import MemorySpool
from tests.engine.test_power_loss import content_of, lose_power, synced
from tests.engine.volume import Volume

DICE = random.Random(12)
PAGE = 4096
OLD = DICE.randbytes(20 * PAGE)
LATER_S = HARDEN_AFTER_S + 2 * LOOK_EVERY_S


class CountingSpool(MemorySpool):
    """How often it was synced; its disk may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.broken = False

    async def harden(self, ino: Ino) -> None:
        """Count, and fail for good if the disk does."""
        self.syncs += 1
        if self.broken:
            self.distrust(ino)
        await super().harden(ino)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.fixture
def spool() -> CountingSpool:
    return CountingSpool()


@pytest.fixture
async def volume(spool: CountingSpool) -> Volume:
    return Volume(spool=spool)


async def over(volume: Volume, ino: Ino, page: int) -> bytes:
    """Write a page over and sync it. Returns what the file has then, if it was OLD."""
    new = DICE.randbytes(PAGE)
    await volume.files.write(ino, page * PAGE, new)
    await volume.files.fsync(ino)
    return OLD[: page * PAGE] + new + OLD[(page + 1) * PAGE :]


async def test_few_bytes_are_synced_without_their_spool_file_and_survive_a_power_loss(
    autojump_clock: MockClock, volume: Volume, spool: CountingSpool
) -> None:
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        before = spool.syncs
        expected = await over(volume, ino, 3)
        assert spool.syncs == before
        await volume.files.write(ino, 0, b"lost")
        volume.journal.commit()
    lose_power(volume)
    assert await content_of(volume, ino) == expected


async def test_they_survive_one_power_loss_after_the_other(autojump_clock: MockClock, volume: Volume) -> None:
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        expected = await over(volume, ino, 3)
    for boot in (b"second", b"third"):
        lose_power(volume, boot)
        volume.journal.commit()
    assert await content_of(volume, ino) == expected


async def test_a_file_of_which_nothing_was_ever_synced_in_the_spool_comes_back(
    autojump_clock: MockClock, volume: Volume, spool: CountingSpool
) -> None:
    content = DICE.randbytes(ONE_BYTES)
    async with volume.running(upload=False):
        ino = await synced(volume, content)
        assert spool.syncs == 0
    lose_power(volume)
    assert await content_of(volume, ino) == content


async def test_they_are_synced_in_the_spool_within_seconds(
    autojump_clock: MockClock, volume: Volume, spool: CountingSpool
) -> None:
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        before = spool.syncs
        expected = await over(volume, ino, 3)
        await trio.sleep(LATER_S)
        assert spool.syncs == before + 1
        assert volume.catalog.logged() == []
    lose_power(volume)
    assert await content_of(volume, ino) == expected


async def test_of_a_file_and_of_files_only_so_much_is_logged(
    autojump_clock: MockClock, volume: Volume, spool: CountingSpool
) -> None:
    async with volume.running(upload=False):
        for _ in range(FILES_MOST + 2):
            await synced(volume, DICE.randbytes(ONE_BYTES))
        assert spool.syncs == 2
        assert sum(len(content) for _, _, content in volume.catalog.logged()) == FILES_MOST * ONE_BYTES
    one = Volume(spool=CountingSpool())
    async with one.running(upload=False):
        ino = await synced(one, OLD)
        for turn in range(3 * FILE_BYTES // PAGE):
            await over(one, ino, turn % 20)
            assert sum(len(content) for _, _, content in one.catalog.logged()) <= FILE_BYTES


async def test_a_file_that_was_published_and_closed_is_not_forgotten_with_rows(
    autojump_clock: MockClock, volume: Volume
) -> None:
    async with volume.running():
        ino = await synced(volume, OLD[:ONE_BYTES])
        assert volume.catalog.logged()
        volume.files.close(ino)
        await volume.flush()
        await trio.sleep(LATER_S)
        assert volume.catalog.logged() == []


async def test_a_spool_file_is_not_removed_where_the_rows_cannot_go(
    autojump_clock: MockClock, volume: Volume
) -> None:
    async with volume.running(upload=False), trio.open_nursery() as nursery:
        ino = await synced(volume, OLD)
        await over(volume, ino, 3)
        await volume.files.truncate(ino, 0)
        with volume.journal.holding():
            nursery.start_soon(volume.files.collect)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert volume.spool.inos() == [ino]
        await volume.files.collect()
        assert volume.spool.inos() == []


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_they_never_come_over_bytes_of_a_spool_file_that_began_anew(
    autojump_clock: MockClock, volume: Volume, *, is_deleted: bool
) -> None:
    new = DICE.randbytes(2 * ONE_BYTES)
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        await over(volume, ino, 3)
        if is_deleted:
            with volume.journal.operation():
                volume.catalog.drop_inode(ino)
                volume.catalog.drop_local_rows(ino)
                volume.files.dropped(ino)
        else:
            await volume.files.truncate(ino, 0)
        await volume.files.collect()
        assert volume.spool.inos() == []
        assert volume.catalog.logged() == []
        if not is_deleted:
            await volume.files.write(ino, 0, new)
            await volume.files.fsync(ino)
            await trio.sleep(LATER_S)
    lose_power(volume)
    assert is_deleted or await content_of(volume, ino) == new


async def test_space_that_was_given_back_stays_so_after_a_start(autojump_clock: MockClock, volume: Volume) -> None:
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        await volume.files.write(ino, 0, DICE.randbytes(ONE_BYTES))
        await volume.files.fsync(ino)
        await volume.files.truncate(ino, SUM_UNIT_BYTES // 2)
        await volume.files.collect()
        before = volume.spool.used_bytes()
    volume.start()
    async with volume.running(upload=False):
        await volume.files.collect()
        assert volume.spool.used_bytes() == before


async def test_after_a_sync_of_the_spool_file_failed_nothing_more_is_logged_and_nothing_that_was_is_lost(
    autojump_clock: MockClock, volume: Volume, spool: CountingSpool, caplog: pytest.LogCaptureFixture
) -> None:
    async with volume.running(upload=False):
        ino = await synced(volume, OLD)
        expected = await over(volume, ino, 3)
        spool.broken = True
        await trio.sleep(LATER_S)
        await volume.files.write(ino, 0, b"not taken")
        with pytest.raises(DiskFault):
            await volume.files.fsync(ino)
        volume.journal.commit()
    spool.broken = False
    lose_power(volume)
    assert await content_of(volume, ino) == expected
    caplog.clear()
