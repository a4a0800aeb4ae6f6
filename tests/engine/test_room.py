"""Room in the spool: what is dropped and in which order, who waits, and what a full disk does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.ranges import Region
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.cache import DROP_EXTENTS
from bitdustfs.engine.filestate import Garbage
from bitdustfs.engine.hardener import LOOK_EVERY_S
from bitdustfs.engine.recency import Recency
from bitdustfs.engine.room import PATIENCE_S
from bitdustfs.engine.writer import FREEZE_AFTER_S
from bitdustfs.errors import ContractsFull, DiskFull, ReadOnly, SpoolFull
from bitdustfs.model import CHUNK_BYTES, INLINE_BYTES, Ino, Layer
from bitdustfs.ports import Spool
from bitdustfs.testing.spool import MemorySpool
from tests.engine.test_cost_of_writes import Counted, MostInAStep
from tests.engine.volume import Volume

DICE = random.Random(11)
MIB = 1 << 20
FILE = 200_000
PAGE = 4096


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
        here, turns = [chunks], [0]

        def note() -> None:
            now = sum(volume.files.cache.has_chunk(ino, index, CHUNK_BYTES) for index in range(chunks))
            here.extend([now] if now != here[-1] else [])

        async def look() -> None:
            while True:
                turns.extend([here[-1]] if here[-1] != turns[-1] else [])
                await trio.lowlevel.checkpoint()

        volume.journal.before_commit(note)  # at the end of each turn
        nursery.start_soon(look)
        dropped = await volume.files.cache.drop_all(2 * CHUNK_BYTES)
        assert dropped == chunks * CHUNK_BYTES + 6 * FILE
        await trio.lowlevel.checkpoint()
        assert here[-1] == 0 and all(before - now <= 2 for before, now in pairwise(here))
        assert len(turns) > chunks // 4
        nursery.cancel_scope.cancel()


async def test_drop_of_a_file_in_many_pieces_loads_it_once_and_takes_few_of_them_in_a_turn(
    autojump_clock: MockClock,
) -> None:
    catalog = Counted(SqliteCatalog(":memory:"))
    volume, pieces = Volume(catalog=catalog), 4 * DROP_EXTENTS  # type: ignore[arg-type]
    async with volume.running():
        ino = await in_pieces(volume, pieces)
        seen = [len(volume.catalog.extents(ino, Layer.LIVE))]
        assert seen[0] > 3 * DROP_EXTENTS

        def note() -> None:
            life = volume.files._table.loaded(ino)
            seen.extend([len(life.extents)] if life else [])

        catalog.calls.clear()
        volume.journal.before_commit(note)  # at the end of each turn
        assert await volume.files.cache.drop_all() == pieces * PAGE
        assert seen[-1] == 0 and all(before - now <= DROP_EXTENTS for before, now in pairwise(seen))
        assert catalog.calls["extents"] == 2  # of one file, both layers
    assert volume.spool.used_bytes() == 0


async def test_file_that_is_written_and_one_that_is_removed_while_space_is_given_back(
    autojump_clock: MockClock,
) -> None:
    spool = SlowlyPunched()
    volume = Volume(spool=spool)
    async with volume.running(upload=False):
        ino, other = [await volume.write_all(DICE.randbytes(MIB)) for _ in range(2)]
        volume.files.open(ino)
        for each in (ino, other):
            await volume.files.fsync(each)
            await volume.files.write(each, 0, bytes(MIB // 2))
            await volume.files.fsync(each)
        content, used = DICE.randbytes(MIB), volume.spool.used_bytes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.collect)
            await spool.punching.wait()
            await volume.files.write(ino, MIB // 4, content)
            await volume.files.fsync(ino)
            with volume.journal.operation():
                volume.files.dropped(other)
                volume.catalog.drop_inode(other)
        assert await volume.files.read(ino, MIB // 4, MIB) == content
        await volume.files.collect()
        assert volume.spool.inos() == [ino]
        assert volume.spool.used_bytes() < used
    volume.start()
    assert await volume.files.read(ino, MIB // 4, MIB) == content


async def test_many_removed_files_leave_the_spool_a_few_in_each_step(autojump_clock: MockClock) -> None:
    removed: list[Ino] = []
    volume, most = Volume(spool=Removing(removed)), MostInAStep(removed)
    async with volume.running(upload=False):
        files = [await volume.write_all(bytes(INLINE_BYTES + 1)) for _ in range(200)]
        for ino in files:
            with volume.journal.operation():
                volume.files.dropped(ino)
                volume.catalog.drop_inode(ino)
        trio.lowlevel.add_instrument(most)
        await volume.files.collect()
        trio.lowlevel.remove_instrument(most)
    assert sorted(removed) == files
    assert most.count <= 64


class Removing(MemorySpool):
    """Tells which files are removed."""

    def __init__(self, removed: list[Ino]) -> None:
        super().__init__()
        self._removed = removed

    def remove(self, ino: Ino) -> None:
        self._removed.append(ino)
        super().remove(ino)


async def test_space_of_what_a_start_removes_is_given_back(autojump_clock: MockClock) -> None:
    spools: list[Counted] = []

    def coat(spool: Spool) -> Spool:
        spools.append(Counted(spool))
        return spools[-1]

    volume = Volume(coat=coat)
    volume.spool.write(Ino(99), 0, bytes(MIB))
    assert volume.files.sweep() == 1
    await volume.files.collect()
    assert spools[-1].calls["settle"] == 1


class SlowlyPunched(MemorySpool):
    """Takes a while to give space back."""

    def __init__(self) -> None:
        super().__init__()
        self.punching = trio.Event()

    async def punch(self, ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
        """After a second."""
        self.punching.set()
        await trio.sleep(1)
        await super().punch(ino, ranges)


async def in_pieces(volume: Volume, pieces: int) -> Ino:
    """A published file of so many pages, closed, that lie in the spool in another order than in the file."""
    ino = volume.create()
    for page in random.Random(1).sample(range(pieces), pieces):
        await volume.files.write(ino, page * PAGE, DICE.randbytes(PAGE))
    volume.files.close(ino)
    await volume.flush()
    await trio.sleep(4 * LOOK_EVERY_S)
    await volume.files.collect()
    assert volume.files._table.loaded(ino) is None
    return ino


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
async def test_who_waits_for_another_one_to_give_space_back_gets_it(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=MIB)
    volume.remote.gone.update(range(1, 6))
    async with volume.running(), trio.open_nursery() as nursery:
        room = volume.files._room
        await volume.write_all(DICE.randbytes(900_000))
        is_held = trio.Event()

        async def give_back() -> None:
            async with room._collecting:
                is_held.set()
                await trio.sleep(PATIENCE_S / 2)
                room._limit = 4 * MIB  # as if it were free now
                await trio.sleep(PATIENCE_S)

        nursery.start_soon(give_back)
        await is_held.wait()
        await volume.write_all(bytes(200_000))


async def test_space_that_was_given_back_and_could_not_be_noted_is_tried_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume()
    async with volume.running(upload=False):
        ino = await volume.write_all(DICE.randbytes(10 * CHUNK_BYTES))
        await volume.files.collect()
        noted: list[Region] = []

        def forget(_life: object, region: Region) -> None:
            if len(noted) == 2:
                raise DiskFull(path="the state directory")
            noted.append(region)

        monkeypatch.setattr(volume.files._room._spooled, "forget", forget)
        regions = [Region(index * CHUNK_BYTES, 65536) for index in range(10)]
        entries = [Garbage(region, 0) for region in regions]
        with pytest.raises(DiskFull):
            await volume.files._room._punch(volume.files._table.life(ino), entries)
        left = [*(each.region for each in entries), *noted]
        assert sorted(each.at for each in left) == [each.at for each in regions]


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
