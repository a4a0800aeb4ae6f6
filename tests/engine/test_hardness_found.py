"""Defects that a hostile reading of hardness and sums found; each was seen to fail before it was mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.model import Ino
from tests.engine.test_power_loss import synced
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
