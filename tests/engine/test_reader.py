"""Reads from suppliers that fail in every way: right bytes while k are good, a clear error when not."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitdustfs.core import erasure
from bitdustfs.engine.leaves import LEAVES_FADE_S
from bitdustfs.errors import BlockLost, TooFewFragments
from bitdustfs.model import CHUNK_BYTES, FragmentState, Ino
from tests.engine.volume import Volume

CONTENT = random.Random(1).randbytes(3 * 1024 * 1024 + 5)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@asynccontextmanager
async def published(content: bytes = CONTENT) -> AsyncIterator[tuple[Volume, Ino]]:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(content)
        await volume.flush()
        await trio.sleep(1)
        await volume.forget()
        yield volume, ino


async def read_all(volume: Volume, ino: Ino, step: int = 100_000) -> bytes:
    got = bytearray()
    while more := await volume.files.read(ino, len(got), step):
        got += more
    return bytes(got)


async def test_read_survives_n_minus_k_losses(autojump_clock: MockClock) -> None:
    async with published() as (volume, ino):
        volume.remote.gone = {1, 3}
        assert await read_all(volume, ino) == CONTENT


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["flipping", "halving", "swapping", "forgetting"])
async def test_read_survives_suppliers_that_return_wrong_bytes(
    autojump_clock: MockClock, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with published() as (volume, ino):
        getattr(volume.remote, fault).update({1, 2})
        with caplog.at_level(logging.WARNING):
            assert await read_all(volume, ino) == CONTENT
        states = {row.supplier: row.state for row in volume.catalog.fragments(volume.catalog.blocks_of(ino)[0])}
        assert {states[s] for s in states if s in (1, 2)} == {FragmentState.LOST}
        assert {states[s] for s in states if s not in (1, 2)} == {FragmentState.HELD}
        assert any("s1" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
async def test_read_asks_others_when_a_supplier_never_answers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with published() as (volume, ino):
        volume.remote.silent = {2}
        with trio.fail_after(30):
            assert await read_all(volume, ino) == CONTENT
        assert any("s2 did not answer" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
async def test_read_with_too_few_suppliers_fails_at_once_and_names_them(autojump_clock: MockClock) -> None:
    async with published() as (volume, ino):
        volume.remote.gone = {1, 3, 4}
        with trio.fail_after(1), pytest.raises(TooFewFragments, match="s1, s3, s4"):
            await volume.files.read(ino, 0, 10)
        volume.remote.gone = {1}
        assert await read_all(volume, ino) == CONTENT


async def test_block_with_too_few_good_fragments_left_is_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with published() as (volume, ino):
        volume.remote.forgetting = {1, 2, 3}
        with pytest.raises(BlockLost):
            await volume.files.read(ino, 0, 10)


async def test_small_read_fetches_only_the_leaves_it_needs(autojump_clock: MockClock) -> None:
    async with published() as (volume, ino):
        await volume.files.read(ino, 0, 65_536)
        fetched = sum(length for _, length in volume.remote.gets)
        assert fetched <= CHUNK_BYTES + 2 * 16 * 1024


async def many_small(volume: Volume) -> tuple[list[Ino], list[bytes]]:
    """Files of one block that only the suppliers have."""
    dice = random.Random(2)
    contents = [dice.randbytes(4096) for _ in range(200)]
    inos = [await volume.write_all(content) for content in contents]
    await volume.flush()
    assert volume.catalog.count_blocks() == 1
    await volume.forget()
    return inos, contents


@pytest.mark.slow
async def test_small_file_is_read_without_its_block(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        inos, contents = await many_small(volume)
        assert await volume.files.read(inos[150], 0, 4096) == contents[150]
        assert sum(length for _, length in volume.remote.gets) <= 3 * 16 * 1024


@pytest.mark.slow
async def test_small_file_whose_leaf_came_with_another_is_read_without_waiting(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        inos, contents = await many_small(volume)
        await volume.files.read(inos[0], 0, 4096)
        with trio.testing.assert_no_checkpoints():
            assert await volume.files.read(inos[1], 0, 4096) == contents[1]


@pytest.mark.slow
async def test_leaves_fade_when_nobody_wants_any_and_not_before(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        inos, contents = await many_small(volume)
        await volume.files.read(inos[0], 0, 4096)
        for number in (1, 2):
            await trio.sleep(LEAVES_FADE_S - 10)
            assert volume.fragments.leaves.kept
            assert await volume.files.read(inos[number], 0, 4096) == contents[number]

        await trio.sleep(LEAVES_FADE_S + 1)
        assert volume.fragments.leaves.kept == 0
        assert await volume.files.read(inos[0], 0, 4096) == contents[0]


@pytest.mark.slow
async def test_copies_that_reads_leave_are_stored_later(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        inos, _ = await many_small(volume)
        await volume.files.read(inos[0], 0, 4096)
        await trio.sleep(0.1)
        assert volume.catalog.inline(inos[0]) is None
        await trio.sleep(2)
        assert volume.catalog.inline(inos[0]) is not None


async def test_one_fetch_serves_all_who_wait_for_a_chunk(autojump_clock: MockClock) -> None:
    async with published() as (volume, ino):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(volume.files.read, ino, 0, 1000)
        assert len(volume.remote.gets) <= 2


async def test_reader_that_gives_up_does_not_stop_the_others(autojump_clock: MockClock) -> None:
    async with published() as (volume, ino):
        volume.remote.delay_s = 2.0
        got: list[bytes] = []

        async def patient() -> None:
            got.append(await volume.files.read(ino, 0, 1000))

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1):
                nursery.start_soon(patient)
                await volume.files.read(ino, 0, 1000)
        assert got == [CONTENT[:1000]]


@pytest.mark.parametrize("is_there", [True, False])
async def test_answer_that_comes_when_its_number_stands_for_another_block_says_nothing_of_that(
    autojump_clock: MockClock, is_there: bool
) -> None:
    other = random.Random(2).randbytes(len(CONTENT))
    async with published() as (volume, first), trio.open_nursery() as nursery:
        second = await volume.write_all(other)
        await volume.flush()
        await trio.sleep(1)
        await volume.forget()
        before, after = (volume.catalog.block(volume.catalog.blocks_of(ino)[0]) for ino in (first, second))
        assert before is not None
        assert after is not None
        holder = {row.index: row.supplier for row in volume.catalog.fragments(before.block)}[0]
        held = volume.catalog.fragments(after.block)
        if not is_there:
            volume.remote.forgetting = {holder}
        # as a reader's catalog numbered it, before it went over to the tree of another head
        numbered = replace(before, block=after.block)
        nursery.start_soon(volume.fragments.leaves.fetch, holder, numbered, 0, 0, 1)
        await trio.testing.wait_all_tasks_blocked()
        volume.reader.forget_all()
        await trio.sleep(1)
        volume.remote.forgetting = set()
        assert await read_all(volume, second) == other
        assert volume.catalog.fragments(after.block) == held


@pytest.mark.slow
async def test_small_file_is_not_kept_waiting_by_the_supplier_of_one_that_will_be_read_later(
    autojump_clock: MockClock,
) -> None:
    volume = Volume()
    async with volume.running():
        small = [await volume.write_all(random.Random(number).randbytes(4096)) for number in range(200)]
        await volume.flush()
        await trio.sleep(1)
        await volume.forget()
        (number,) = {volume.catalog.blocks_of(ino)[0] for ino in small}
        block = volume.catalog.block(number)
        assert block is not None
        first_bytes = erasure.fragment_length(block.length, block.code.k)
        rows = {ino: volume.catalog.placed(ino, 0, 0)[0][1] for ino in small}
        of_first = sorted((row.offset, ino) for ino, row in rows.items() if row.offset + 8192 < first_bytes)
        holder = {row.index: row.supplier for row in volume.catalog.fragments(number)}
        volume.remote.gone, volume.remote.silent = {holder[3], holder[4]}, {holder[1]}  # nothing can be decoded
        with trio.fail_after(2):
            for _, ino in of_first:
                assert await volume.files.read(ino, 0, 4096) == random.Random(small.index(ino)).randbytes(4096)
