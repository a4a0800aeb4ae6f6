"""From dirty files to placed blocks: what is sent, when it counts, and what is left when it fails."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.writer import BREATHE_BYTES, HOT_MOST_S, WINDOW, YIELD_S, _Job
from bitdustfs.model import (
    BLOCK_BYTES,
    BLOCK_CHUNKS,
    CHUNK_BYTES,
    HOLE,
    Code,
    FileState,
    FragmentName,
    FragmentState,
    Ino,
    Root,
    SupplierNo,
)
from bitdustfs.ports import Spool
from tests.engine.volume import Volume

DICE = random.Random(3)
CONTENT = DICE.randbytes(1_000_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_file_is_local_until_its_blocks_are_placed(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {1, 2, 3}
        ino = await volume.write_all(CONTENT)
        await trio.sleep(60)
        assert volume.files.state(ino) is FileState.LOCAL
        assert volume.remote.puts == 0
        volume.remote.gone = set()
        await volume.flush()
        assert volume.files.state(ino) is FileState.PLACED


@pytest.mark.slow
async def test_dirty_files_are_not_looked_through_while_no_supplier_answers(autojump_clock: MockClock) -> None:
    volume, looks = Volume(), 0
    look = volume.files.dirty_lives

    def counted() -> Sequence[FileLife]:
        nonlocal looks
        looks += 1
        return look()

    async with volume.running():
        volume.remote.gone = {1, 2, 3, 4, 5}
        volume.files.dirty_lives = counted  # type: ignore[method-assign]
        for _ in range(100):
            await volume.write_all(b"tens of thousands may wait, and a look takes as long as there are")
            await trio.sleep(0.1)
        assert looks == 0
        volume.remote.gone = set()
        await volume.flush()


@pytest.mark.slow
async def test_nothing_is_looked_for_while_nothing_is_dirty(autojump_clock: MockClock) -> None:
    volume, looks = Volume(), 0
    look = volume.writer._find_due

    def counted() -> list[tuple[FileLife, bool]]:
        nonlocal looks
        looks += 1
        return look()

    async with volume.running():
        await volume.write_all(b"x")
        await volume.flush()
        await trio.sleep(10)
        volume.writer._find_due = counted  # type: ignore[method-assign]
        await trio.sleep(120)
        assert looks == 0
        ino = await volume.write_all(b"after a quiet time")
        await trio.sleep(10)
        assert volume.files.state(ino) is FileState.PLACED


async def test_change_is_uploaded_by_itself_within_seconds(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(b"a small file")
        await trio.sleep(8)
        assert volume.files.state(ino) is FileState.PLACED


@pytest.mark.slow
async def test_file_that_changes_all_the_time_is_sent_seldom_and_soon_again_when_it_is_calm(
    autojump_clock: MockClock,
) -> None:
    volume = Volume()
    volume.remote.delay_s = 6.0  # it is changed again before it is placed
    async with volume.running():
        ino = volume.create()
        sent_at: list[float] = []

        async def change(every_s: int, times: int) -> None:
            for number in range(times):
                known = len(sent_at)
                await volume.files.write(ino, 0, number.to_bytes(4, "big") * 5000)
                for _ in range(every_s // 5):
                    await trio.sleep(5)
                    inode = volume.catalog.inode(ino)
                    assert inode is not None
                    if inode.version > known:
                        sent_at.extend([trio.current_time()] * (inode.version - known))
                        known = inode.version

        await change(5, 230)
        waits = [after - before for before, after in pairwise(sent_at)]
        assert len(sent_at) <= 12  # and not one each eleven seconds
        assert HOT_MOST_S <= max(waits) <= HOT_MOST_S + 15
        assert all(after >= before - 5 for before, after in pairwise(waits)), waits
        await change(320, 5)
        seen = len(sent_at)
        await change(30, 5)
        assert len(sent_at) >= seen + 5


@pytest.mark.slow
async def test_replicated_tables_never_name_a_block_with_fewer_than_k_fragments(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.full = {3, 4, 5}
        volume.remote.space = lambda: dict.fromkeys(volume.remote.online(), (1 << 40, 1 << 30))  # type: ignore[method-assign]
        ino = await volume.write_all(CONTENT)
        await trio.sleep(120)
        assert volume.catalog.count_blocks() == 0
        assert volume.files.state(ino) is FileState.LOCAL
        volume.remote.full = set()
        await volume.flush()
        await trio.sleep(30)
        assert volume.files.state(ino) is FileState.PLACED
        assert volume.catalog.uploads() == []
        assert not volume.catalog.count_releases()


@pytest.mark.slow
async def test_block_with_k_but_fewer_than_w_is_degraded_and_completed_later(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.silent = {4, 5}
        ino = await volume.write_all(CONTENT)
        with trio.fail_after(60):
            await volume.writer.flush()
        assert volume.files.state(ino) is FileState.DEGRADED
        volume.remote.silent = set()
        await trio.sleep(120)
        assert volume.files.state(ino) is FileState.PLACED
        assert {held for _, held, _ in volume.catalog.held_histogram()} == {5}


async def test_fragment_that_was_never_taken_goes_to_its_supplier_when_it_is_back(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        block = volume.catalog.blocks_of(ino)[0]
        assert volume.catalog.held(block) == 4
        volume.remote.gone = set()
        await trio.sleep(20)
        assert volume.catalog.held(block) == 5
        assert all(row.state is FragmentState.HELD for row in volume.catalog.fragments(block))
        assert len({row.supplier for row in volume.catalog.fragments(block)}) == 5


async def test_same_content_is_stored_once(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        await volume.write_all(CONTENT)
        await volume.flush()
        puts = volume.remote.puts
        twin = await volume.write_all(CONTENT)
        await volume.flush()
        assert volume.remote.puts == puts
        await volume.forget()
        assert await volume.files.read(twin, 500_000, 100_000) == CONTENT[500_000:600_000]


async def test_known_chunk_is_stored_anew_when_its_block_is_degraded(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        first = await volume.write_all(CONTENT)
        await volume.flush()
        old = volume.catalog.blocks_of(first)[0]
        for row in volume.catalog.fragments(old)[:2]:
            volume.catalog.drop_fragment(old, row.index, row.supplier)
        second = await volume.write_all(CONTENT)
        with trio.fail_after(60):
            await volume.writer.flush()
        assert volume.catalog.blocks_of(second) != [old]
        assert volume.catalog.blocks_of(first) == volume.catalog.blocks_of(second)


async def test_zeros_are_holes_and_cost_nothing(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(bytes(3 * CHUNK_BYTES))
        await volume.files.truncate(ino, 1 << 40)
        await volume.flush()
        assert volume.remote.puts == 0
        assert {row.chunk for row in volume.catalog.map_rows(ino, 0, 1 << 40)} == {HOLE}
        assert len(volume.catalog.map_rows(ino, 0, 1 << 40)) <= 2
        await volume.forget()
        assert await volume.files.read(ino, (1 << 40) - 5, 10) == bytes(5)


@pytest.mark.slow
async def test_small_files_share_a_block(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        for _ in range(100):
            await volume.write_all(DICE.randbytes(3000))
        await volume.flush()
        assert volume.catalog.count_blocks() == 1
        assert volume.remote.puts == 5


@pytest.mark.slow
async def test_long_stream_is_uploaded_while_it_is_written(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = volume.create()
        for step in range(64):
            await volume.files.write(ino, step * CHUNK_BYTES, DICE.randbytes(CHUNK_BYTES))
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert volume.remote.puts >= 5
        assert volume.files.state(ino) is FileState.LOCAL
        await volume.flush()
        assert volume.files.state(ino) is FileState.PLACED
        assert volume.catalog.count_blocks() <= 6


@pytest.mark.slow
async def test_blocks_leave_one_by_one_while_somebody_waits_for_one_answer_after_another(
    autojump_clock: MockClock,
) -> None:
    volume, blocks = Volume(spool_limit=16 * BLOCK_BYTES), 3
    async with volume.running(upload=False):
        for _ in range(blocks):
            await volume.write_all(DICE.randbytes(BLOCK_BYTES))
        await trio.sleep(1)
    volume.files.is_asked = lambda: True
    async with volume.running():
        began = trio.current_time()
        while volume.files.dirty_totals()[0]:
            await trio.sleep(0.01)
        assert trio.current_time() - began >= YIELD_S * blocks


@pytest.mark.slow
async def test_full_spool_is_emptied_though_somebody_waits_for_one_answer_after_another(
    autojump_clock: MockClock,
) -> None:
    volume = Volume(spool_limit=BLOCK_BYTES)
    volume.files.is_asked = lambda: True
    await volume.write_all(DICE.randbytes(BLOCK_BYTES * 3 // 4))
    assert not volume.files.is_busy()


@pytest.mark.slow
async def test_end_of_a_stream_does_not_wait_for_what_went_ahead(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote.delay_s = 10.0
    content = DICE.randbytes((BLOCK_CHUNKS + 3) * CHUNK_BYTES)
    async with volume.running():
        ino = await going_ahead(volume, content)
        began = trio.current_time()
        await volume.flush()
        assert trio.current_time() < began + 1.5 * volume.remote.delay_s
        assert volume.remote.puts == 2 * 5  # nothing twice
        assert volume.files.state(ino) is FileState.PLACED
        await volume.forget()
        assert await volume.files.read(ino, 0, len(content)) == content


@pytest.mark.slow
async def test_what_went_ahead_and_was_written_again_is_not_in_the_version(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote.delay_s = 10.0
    content = DICE.randbytes((BLOCK_CHUNKS + 3) * CHUNK_BYTES)
    async with volume.running():
        ino = await going_ahead(volume, content)
        await volume.files.write(ino, 5 * CHUNK_BYTES + 7, b"again")
        await volume.flush()
        await volume.forget()
        at = 5 * CHUNK_BYTES + 7
        assert await volume.files.read(ino, 0, len(content)) == content[:at] + b"again" + content[at + 5 :]


@pytest.mark.slow
async def test_version_whose_chunks_went_ahead_in_vain_is_sent_anew(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote.delay_s = 10.0
    content = DICE.randbytes((BLOCK_CHUNKS + 3) * CHUNK_BYTES)
    async with volume.running():
        ino = await going_ahead(volume, content)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.flush)
            await trio.sleep(1)
            volume.remote.full = {1, 2, 3}
            await trio.sleep(12)
            assert volume.files.state(ino) is FileState.LOCAL
            volume.remote.full = set()
        assert volume.files.state(ino) is FileState.PLACED
        await volume.forget()
        assert await volume.files.read(ino, 0, len(content)) == content


@pytest.mark.slow
async def test_large_version_is_not_in_memory_as_jobs_before_their_turn(autojump_clock: MockClock) -> None:
    volume = Volume()
    chunks = 10 * (WINDOW + 2) * BLOCK_CHUNKS
    async with volume.running():
        ino = volume.create()
        for index in range(chunks):
            await volume.files.write(ino, index * CHUNK_BYTES, b"a byte makes a chunk")
        volume.remote.silent = {1, 2, 3, 4, 5}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.writer.flush)
            await trio.sleep(5)
            assert len(volume.catalog.uploads()) == WINDOW
            jobs = [each for each in gc.get_objects() if isinstance(each, _Job)]
            assert WINDOW * BLOCK_CHUNKS <= len(jobs) <= (WINDOW + 2) * BLOCK_CHUNKS
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_fragment_is_let_go_when_it_is_acknowledged_though_others_are_on_their_way(
    autojump_clock: MockClock,
) -> None:
    volume, sent = Volume(), {}
    put = volume.remote.put

    async def noted(supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        sent[int(supplier)] = weakref.ref(body)
        await put(supplier, name, root, body)

    volume.remote.put = noted  # type: ignore[method-assign]
    volume.remote.silent = {2, 4}
    async with volume.running():
        await volume.write_all(DICE.randbytes(CHUNK_BYTES))
        await trio.sleep(20)
        assert len(sent) == 5 and len(volume.catalog.uploads()) == 1
        assert [number for number, body in sorted(sent.items()) if body() is not None] == [2, 4]


async def going_ahead(volume: Volume, content: bytes) -> Ino:
    """An open file, written in one go, of which a block is on its way ahead of its version."""
    ino = volume.create()
    for at in range(0, len(content), CHUNK_BYTES):
        await volume.files.write(ino, at, content[at : at + CHUNK_BYTES])
    while not volume.catalog.uploads():
        await trio.sleep(0.01)
    return ino


@pytest.mark.slow
async def test_interrupted_block_is_released_after_a_restart_and_sealed_under_a_new_id(
    autojump_clock: MockClock,
) -> None:
    volume = Volume()
    volume.remote.delay_s = 0.5
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        volume.files.changed.set()
        while not volume.catalog.uploads():
            await trio.sleep(0.1)
        left = volume.catalog.uploads()[0][0]
        await trio.sleep(0.2)
    volume.start()
    async with volume.running():
        await volume.flush()
        await trio.sleep(60)
        assert volume.catalog.uploads() == []
        assert not volume.catalog.count_releases()
        block = volume.catalog.block(volume.catalog.blocks_of(ino)[0])
        assert block is not None and block.block_id != left
        assert len(volume.remote.stored) == 5


async def test_version_on_its_way_does_not_contain_later_writes(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote.delay_s = 1.0
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, b"a" * 100_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.flush)
            while not volume.catalog.uploads():
                await trio.sleep(0.05)
            await volume.files.write(ino, 50_000, b"b" * 100_000)
        inode = volume.catalog.inode(ino)
        assert inode is not None and inode.size == 100_000
        assert volume.files.attributes(ino).size == 150_000
        assert volume.files.state(ino) is FileState.LOCAL
        await volume.flush()
        await volume.forget()
        expected = b"a" * 50_000 + b"b" * 100_000
        assert await volume.files.read(ino, 0, 200_000) == expected


@pytest.mark.slow
async def test_full_spool_makes_a_write_wait_for_uploads(autojump_clock: MockClock) -> None:
    volume = Volume(spool_limit=2 << 20)
    async with volume.running():
        ino = volume.create()
        content = DICE.randbytes(8 << 20)
        for at in range(0, len(content), 128 * 1024):
            with trio.fail_after(60):
                await volume.files.write(ino, at, content[at : at + 128 * 1024])
            assert volume.spool.used_bytes() <= 3 << 20
        await volume.flush()
        await volume.forget()
        got = b"".join([await volume.files.read(ino, at, 1 << 20) for at in range(0, 8 << 20, 1 << 20)])
        assert got == content


async def test_code_of_new_blocks_is_the_inodes_or_the_volumes(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=7, code=Code(2, 4))
    async with volume.running():
        plain, special = volume.create(), volume.create()
        inode = volume.catalog.inode(special)
        assert inode is not None
        volume.catalog.put_inode(replace(inode, code=Code(3, 6)))
        for ino in (plain, special):
            await volume.files.write(ino, 0, DICE.randbytes(100_000))
            volume.files.close(ino)
        await volume.flush()
        codes = [volume.catalog.block(volume.catalog.blocks_of(ino)[0]) for ino in (plain, special)]
        assert [block.code for block in codes if block] == [Code(2, 4), Code(3, 6)]


async def test_code_of_new_blocks_goes_by_the_number_of_suppliers_if_nobody_chose_one(
    autojump_clock: MockClock,
) -> None:
    volume = Volume(suppliers=6, code=None)
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        block = volume.catalog.block(volume.catalog.blocks_of(ino)[0])
        assert block is not None and block.code == Code(2, 6)


@pytest.mark.slow
async def test_files_that_are_deleted_before_their_turn_are_no_damage(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume()
    volume.remote.delay_s = 1
    async with volume.running():
        inos = [await volume.write_all(random.Random(number).randbytes(BLOCK_BYTES // 2)) for number in range(16)]
        for ino in inos:
            await volume.files.fsync(ino)
        await trio.sleep(0.8)
        assert 0 < volume.remote.puts + len(volume.catalog.uploads()) < 16
        for ino in inos:
            with volume.journal.operation():
                volume.files.dropped(ino)
                volume.catalog.drop_inode(ino)
        await volume.flush()
        await trio.sleep(60)
    assert caplog.text == ""


@pytest.mark.slow
async def test_block_is_read_from_the_spool_in_several_steps(autojump_clock: MockClock) -> None:
    reads = Reads()
    volume = Volume(coat=reads.over)
    async with volume.running(upload=False):
        await volume.write_all(DICE.randbytes(BLOCK_CHUNKS * CHUNK_BYTES))
        await volume.files.settle_all()
    async with volume.running():
        trio.lowlevel.add_instrument(reads)
        await volume.flush()
        trio.lowlevel.remove_instrument(reads)
    assert CHUNK_BYTES <= reads.most_bytes <= 2 * BREATHE_BYTES


@pytest.mark.slow
async def test_plaintexts_in_memory_are_of_as_many_blocks_as_are_worked_on(autojump_clock: MockClock) -> None:
    reads = Reads()
    volume = Volume(coat=reads.over)
    async with volume.running(upload=False):
        await volume.write_all(DICE.randbytes(WINDOW * BLOCK_CHUNKS * CHUNK_BYTES))
    async with volume.running():
        with reads.counting_plaintexts():
            await volume.flush()
    assert BLOCK_CHUNKS * CHUNK_BYTES // 2 <= reads.most_plaintext <= BLOCK_CHUNKS * CHUNK_BYTES


@pytest.mark.slow
async def test_file_that_is_emptied_while_a_block_of_it_is_read_is_no_damage(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    reads, begun = Reads(), trio.Event()
    reads.at_read = begun.set
    volume = Volume(coat=reads.over)
    async with volume.running():
        ino = volume.create()
        await volume.files.write(ino, 0, DICE.randbytes(2 * BLOCK_CHUNKS * CHUNK_BYTES))
        await begun.wait()  # of what is placed ahead of its version nothing is pinned
        await volume.files.truncate(ino, 0)
        await volume.files.collect()
        assert volume.spool.inos() == []
        await volume.files.write(ino, 0, b"anew" * CHUNK_BYTES)
        await volume.flush()
        await volume.forget()
        assert await volume.files.read(ino, 0, 5 * CHUNK_BYTES) == b"anew" * CHUNK_BYTES
    assert caplog.text == ""


class Reads(trio.abc.Instrument):
    """A spool, and a count of the bytes that are read from it on the loop in each step."""

    def __init__(self) -> None:
        self.spool: Any = None
        self.bytes = self.most_bytes = self.most_plaintext = 0
        self.at_read: Callable[[], None] = lambda: None

    @contextmanager
    def counting_plaintexts(self) -> Iterator[None]:
        """Count those of the writer, at each eighth read."""
        turn = count(1)

        def look() -> None:
            if next(turn) % 8 == 0:
                jobs = [each for each in gc.get_objects() if isinstance(each, _Job)]
                self.most_plaintext = max(self.most_plaintext, sum(len(job.plaintext) for job in jobs))

        self.at_read = look
        yield

    def over(self, spool: Spool) -> Spool:
        self.spool = spool
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.spool, name)

    def read(self, ino: Ino, at: int, length: int, *, extra: int = 0) -> bytes:
        self.bytes += length
        self.at_read()
        found: bytes = self.spool.read(ino, at, length, extra=extra)
        return found

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.bytes = 0

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.most_bytes = max(self.most_bytes, self.bytes)
