"""Sending under one watch: who takes nothing is given up, who takes little is not, and nobody is overlooked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.sending import SEND_PATIENCE_S, Watch
from bitdustfs.errors import PeerGone
from bitdustfs.model import FragmentName, Root, SupplierNo

SLOW, DEAD = SupplierNo(1), SupplierNo(2)
NAME, ROOT = FragmentName(b"n" * 32), Root(b"r" * 32)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Line:
    """A sink where a fragment for SLOW takes as long as it is told, and moves every 50 s; DEAD takes nothing."""

    def __init__(self) -> None:
        self.pushed: dict[SupplierNo, float] = {}
        self.put_s = 500.0

    def online(self) -> Sequence[SupplierNo]:
        return (SLOW, DEAD)

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]:
        return {}

    def pushed_at(self, supplier: SupplierNo) -> float:
        return self.pushed.get(supplier, -inf)

    def says(self, supplier: SupplierNo) -> int:
        return 0

    def is_held_back(self) -> bool:
        return False

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        until = trio.current_time() + (self.put_s if supplier == SLOW else inf)
        while trio.current_time() < until:
            await trio.sleep(50)
            if supplier == SLOW:
                self.pushed[supplier] = trio.current_time()

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        raise NotImplementedError


@asynccontextmanager
async def watched(line: Line) -> AsyncIterator[Watch]:
    watch = Watch(line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        yield watch
        nursery.cancel_scope.cancel()


async def seconds_until_given_up(watch: Watch) -> float:
    began = trio.current_time()
    with pytest.raises(PeerGone, match="no answer within 60 s"):
        await watch.send(DEAD, NAME, ROOT, b"content")
    return trio.current_time() - began


async def test_supplier_that_takes_nothing_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async with watched(Line()) as watch:
        assert await seconds_until_given_up(watch) == pytest.approx(SEND_PATIENCE_S)


async def test_fragment_that_moves_is_waited_for(autojump_clock: MockClock) -> None:
    async with watched(Line()) as watch:
        began = trio.current_time()
        await watch.send(SLOW, NAME, ROOT, b"content")
        assert trio.current_time() - began >= 500


async def test_one_that_is_stuck_costs_no_other_and_each_gets_its_own_time(autojump_clock: MockClock) -> None:
    took: list[float] = []
    async with watched(Line()) as watch, trio.open_nursery() as nursery:
        nursery.start_soon(watch.send, SLOW, NAME, ROOT, b"content")
        for _ in range(3):

            async def give_up() -> None:
                took.append(await seconds_until_given_up(watch))

            nursery.start_soon(give_up)
            await trio.sleep(25)
    assert took == pytest.approx([SEND_PATIENCE_S] * 3)


async def test_watch_goes_on_after_everything_was_sent_or_given_up(autojump_clock: MockClock) -> None:
    line = Line()
    line.put_s = 10
    async with watched(line) as watch:
        for _ in range(2):
            await watch.send(SLOW, NAME, ROOT, b"content")
            await trio.sleep(1000)
            assert await seconds_until_given_up(watch) == pytest.approx(SEND_PATIENCE_S)
