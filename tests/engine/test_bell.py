"""Looks for work are left out where nothing has changed, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.bell import Bell, Looks
from bitdustfs.engine.replica import SHIP_AFTER_S
from bitdustfs.errors import PeerGone
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.world import World

EVERY_S, SELDOM_S = 2.0, 60.0
IDLE_S = 300


async def ring_at(bell: Bell, at_s: float) -> None:
    await trio.sleep_until(at_s)
    bell.ring()


async def looks_until(bell: Bell, until_s: float, *, within_s: float = SELDOM_S, takes_s: float = 0.0) -> list[float]:
    """When a service looked, from 0 s on."""
    looks, at = Looks(bell, EVERY_S), [trio.current_time()]
    while at[-1] < until_s:
        await trio.sleep(takes_s)
        await looks.next(within_s=within_s)
        at.append(round(trio.current_time(), 6))
    return at


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_first_look_is_followed_by_another(autojump_clock: MockClock) -> None:
    assert await looks_until(Bell(SELDOM_S), 1) == [0, 2]  # what rang before it listened may concern it


async def test_look_before_which_nothing_rang_is_left_out(autojump_clock: MockClock) -> None:
    assert await looks_until(Bell(SELDOM_S), 100) == [0, 2, 62, 122]


async def test_ring_is_answered_when_a_look_would_have_come_without_a_bell(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bell = Bell(SELDOM_S)
    nursery.start_soon(ring_at, bell, 8.5)
    assert await looks_until(bell, 60) == [0, 2, 10, 70]


async def test_ring_during_a_look_is_answered_by_the_next_one(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bell = Bell(SELDOM_S)
    nursery.start_soon(ring_at, bell, 3.5)  # a look of a second begins at 3
    assert await looks_until(bell, 60, takes_s=1) == [0, 3, 6, 67]


async def test_who_goes_by_the_time_looks_then_and_not_more_often_than_without_a_bell(
    autojump_clock: MockClock,
) -> None:
    assert await looks_until(Bell(SELDOM_S), 10, within_s=5) == [0, 2, 7, 12]
    assert await looks_until(Bell(SELDOM_S), 14, within_s=0) == [12, 14]


async def test_bell_that_not_everybody_rings_leaves_no_look_out(autojump_clock: MockClock) -> None:
    assert await looks_until(Bell(), 8) == [0, 2, 4, 6, 8]


async def test_who_is_called_looks_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    looks = Looks(Bell(SELDOM_S), EVERY_S)
    looks.now()  # also while it does not wait
    await looks.next()
    assert trio.current_time() == 0
    await looks.next(within_s=0)

    async def call() -> None:
        await trio.sleep(7.3)
        looks.now()

    nursery.start_soon(call)
    began = trio.current_time()
    await looks.next()
    assert trio.current_time() - began == pytest.approx(7.3)


class Turns(trio.abc.Instrument):
    """Count how often something woke up."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@pytest.mark.slow
async def test_volume_that_nobody_uses_rarely_wakes_up(autojump_clock: MockClock) -> None:
    async with World().running() as world:
        await world.write("file", b"content" * 10_000)
        assert await world.sync() == "safe"
        await trio.sleep(120)
        turns, rung = Turns(), world.node.bell.rung
        trio.lowlevel.add_instrument(turns)
        await trio.sleep(IDLE_S)
        trio.lowlevel.remove_instrument(turns)
        assert world.node.bell.rung - rung <= IDLE_S / SELDOM_S  # whose own look rings would look for ever
    assert turns.count < 4 * IDLE_S


async def test_failure_of_what_is_not_to_be_done_any_more_keeps_nobody_awake(autojump_clock: MockClock) -> None:
    async with World().running() as world:
        assert await world.sync() == "safe"
        supplier, name = world.catalog.suppliers()[0].supplier, FragmentName(bytes(32))
        looked = 0

        def look() -> bool:
            nonlocal looked
            looked += 1
            return True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.suppliers, "delete", gone)
            with world.node.journal.operation():
                world.node.releases.abandon([(supplier, name)])
            await trio.sleep(8)
        with world.node.journal.operation():  # as of one who owes us nothing any more
            world.catalog.drop_releases(supplier, [name])
        await trio.sleep(60)
        world.node.releases.may_release = look
        await trio.sleep(IDLE_S)
    assert looked <= 2 * IDLE_S / SELDOM_S


async def gone(supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
    raise PeerGone(peer=f"supplier {supplier}", what="the test says so")


async def test_who_is_renamed_by_hand_is_told_to_the_suppliers_soon(autojump_clock: MockClock) -> None:
    async with World().running() as world:
        assert await world.sync() == "safe"
        await trio.sleep(100)  # all rest
        row = world.catalog.suppliers()[0]
        world.catalog.put_supplier(replace(row, label="another"))  # as the control server does: without an operation
        world.node.journal.commit()
        with trio.fail_after(SHIP_AFTER_S + 5):
            while not world.node.replica.is_current:
                await trio.sleep(0.1)
