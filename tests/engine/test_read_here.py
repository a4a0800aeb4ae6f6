"""Reads that need nobody: what this machine holds is answered at once, without a deadline."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from bitdustfs.model import Ino
from tests.engine.volume import Volume

CONTENT = random.Random(5).randbytes(300_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def placed(volume: Volume) -> Ino:
    ino = await volume.write_all(CONTENT)
    await volume.flush()
    await volume.files.settle_all()  # summed
    return ino


async def test_what_is_in_the_spool_is_read_at_once(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        small, large = await volume.write_all(CONTENT[:100]), await volume.write_all(CONTENT)
        for ino, end in ((small, 100), (large, len(CONTENT))):
            assert volume.files.read_here(ino, 50, 1 << 20) == CONTENT[50:end]
            assert volume.files.read_here(ino, end, 1) == b""


async def test_what_is_to_be_fetched_is_left_to_who_waits(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await placed(volume)
        await volume.forget()
        assert volume.files.read_here(ino, 1000, 4096) is None
        assert volume.files.read_here(ino, len(CONTENT), 1) == b""
        assert await volume.files.read(ino, 1000, 4096) == CONTENT[1000:5096]
        assert volume.files.read_here(ino, 1000, 4096) == CONTENT[1000:5096]


async def test_what_lies_behind_the_published_end_is_zeros_that_nobody_has(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await placed(volume)
        await volume.files.truncate(ino, len(CONTENT) + 5000)
        assert volume.files.read_here(ino, len(CONTENT), 5000) == bytes(5000)


async def test_damaged_copy_is_fetched_and_not_shown(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await placed(volume)
        volume.spool.flip(ino, 2000)
        assert volume.files.read_here(ino, 1000, 4096) is None
        assert await volume.files.read(ino, 1000, 4096) == CONTENT[1000:5096]
