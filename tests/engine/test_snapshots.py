"""A snapshot of a large catalog, and what it asks of the loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.snapshots import PAGE, Snapshots
from bitdustfs.model import IMAGE_CHUNK_BYTES
from bitdustfs.testing.clock import InlineCrunch
from tests.engine.test_replica_found import Rig

T = TypeVar("T")
CHUNKS = 5 * PAGE
A_BLOCK_ROWS = 100  # of the block itself, its fragments and notes


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Worker(InlineCrunch):
    """Knows whether it is at work."""

    def __init__(self) -> None:
        self.is_busy = False

    async def run(self, work: Callable[..., T], *args: object) -> T:
        await trio.lowlevel.checkpoint()
        self.is_busy = True
        try:
            return work(*args)
        finally:
            self.is_busy = False


class LargeImage:
    """An image that nobody but the worker may touch."""

    def __init__(self, worker: Worker, chunks: int) -> None:
        self.chunks = chunks
        self.is_open = False
        self._worker = worker

    def copy(self) -> None:
        assert self._worker.is_busy
        self.is_open = True

    def chunk(self, index: int) -> bytes:
        assert self._worker.is_busy
        return random.Random(index).randbytes(100).ljust(IMAGE_CHUNK_BYTES, b"\0")

    def close(self) -> None:
        assert self._worker.is_busy, "to unlink a large file takes long"
        self.is_open = False


class ChangesPerStep(trio.abc.Instrument):
    """The most rows of the catalog that one step of a task changed."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.most = 0
        self._count = count
        self._before = count()

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._before = self._count()

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._count() - self._before)


@contextmanager
def changes_per_step(count: Callable[[], int]) -> Iterator[ChangesPerStep]:
    steps = ChangesPerStep(count)
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)


@pytest.mark.slow
async def test_large_image_is_the_workers_and_its_chunks_are_noted_in_pages(autojump_clock: MockClock) -> None:
    rig, worker = Rig(), Worker()
    image = LargeImage(worker, CHUNKS)
    snapshots = Snapshots(rig.catalog, rig.journal, rig.objects, worker, lambda: image)
    async with rig.running():
        with changes_per_step(rig.catalog.connection.total_changes) as steps:
            first = await snapshots.take()
            assert PAGE <= steps.most <= PAGE + A_BLOCK_ROWS
        assert not image.is_open
        assert len(rig.catalog.image_chunks()) == CHUNKS
        image.chunks -= 1
        assert (await snapshots.take()).image_blocks == first.image_blocks, "all that was needed was there"
        image.chunks = 1  # less than is worth keeping a block for
        with changes_per_step(rig.catalog.connection.total_changes) as steps:
            assert (await snapshots.take()).image_blocks != first.image_blocks
            assert steps.most <= PAGE + A_BLOCK_ROWS
        assert len(rig.catalog.image_chunks()) == 1


async def test_copy_of_an_image_is_removed_when_the_snapshot_fails_or_is_given_up(autojump_clock: MockClock) -> None:
    rig, worker = Rig(), Worker()
    image = LargeImage(worker, 10)
    snapshots = Snapshots(rig.catalog, rig.journal, rig.objects, worker, lambda: image)
    async with rig.running():
        rig.remote.silent |= set(range(1, rig.remote.count + 1))
        with trio.move_on_after(10):
            await snapshots.take()
        assert not image.is_open
        assert snapshots.cut is None
