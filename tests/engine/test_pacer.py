"""Limits: what all connections move together, who waits for whom, and that nothing breaks because of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment
from bitdustfs.engine.pacer import SHORT_MOST, Gate
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.testing.swarm import Swarm
from bitdustfs.testing.world import World

MIB = 1 << 20
LIMIT = 512 * 1024  # bytes a second
BODY = bytes(range(256)) * 4096  # 1 MiB


def gate_of(bytes_per_s: float) -> Gate:
    gate = Gate()
    gate.limit(bytes_per_s)
    return gate


@asynccontextmanager
async def swarm(count: int = 3) -> AsyncIterator[Suppliers]:
    """Some hired suppliers; the customer's limits are those of `side.pacer`."""
    async with trio.open_nursery() as nursery:
        world = Swarm(nursery, count)
        side = world.customer_side(await world.hire_all(1 << 30))
        nursery.start_soon(side.run)
        while len(side.online()) < count:
            await side.wait_for_change()
        with trio.fail_after(10_000):
            yield side
        nursery.cancel_scope.cancel()


def name_of(number: int) -> FragmentName:
    return FragmentName(number.to_bytes(32, "big"))


async def put(side: Suppliers, supplier: int, number: int = 1) -> None:
    await side.put(SupplierNo(supplier), name_of(number), fragment.root(BODY), BODY)


async def get(side: Suppliers, supplier: int, number: int = 1) -> None:
    got = await side.get(SupplierNo(supplier), name_of(number), 0, len(BODY) // (16 * 1024), hashes=True)
    assert bytes(got.content) == BODY


async def at_once(side: Suppliers, suppliers: Sequence[int], work: object) -> float:
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for supplier in suppliers:
            nursery.start_soon(work, side, supplier)  # type: ignore[arg-type]
    return trio.current_time() - began


@pytest.mark.slow
async def test_uploads_to_all_together_keep_to_the_limit(autojump_clock: MockClock) -> None:
    async with swarm() as side:
        side.pacer.limit(up=LIMIT, down=1 << 40)
        took_s = await at_once(side, (1, 2, 3), put)
        assert 3 * MIB / LIMIT * 0.9 < took_s < 3 * MIB / LIMIT * 1.2


@pytest.mark.slow
async def test_downloads_from_all_together_keep_to_the_limit(autojump_clock: MockClock) -> None:
    async with swarm() as side:
        await at_once(side, (1, 2, 3), put)
        side.pacer.limit(up=1 << 40, down=LIMIT)
        took_s = await at_once(side, (1, 2, 3), get)
        assert 3 * MIB / LIMIT * 0.85 < took_s < 3 * MIB / LIMIT * 1.2


async def test_bulk_connections_keep_to_the_limit_too(autojump_clock: MockClock) -> None:
    async with swarm(1) as side:
        await put(side, 1)
        await trio.sleep(1)  # now there is one for each direction
        await get(side, 1)
        await trio.sleep(1)
        side.pacer.limit(up=LIMIT, down=LIMIT)
        for work, number in ((put, 2), (get, 1)):
            began = trio.current_time()
            await work(side, 1, number)
            assert trio.current_time() - began > MIB / LIMIT * 0.8


async def test_a_limit_that_changes_holds_at_once(autojump_clock: MockClock) -> None:
    async with swarm(1) as side:
        side.pacer.limit(up=64 * 1024, down=64 * 1024)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, side, 1)
            await trio.sleep(2)  # 14 s are left
            began = trio.current_time()
            side.pacer.limit(up=1 << 40, down=1 << 40)
        assert trio.current_time() - began < 1


@pytest.mark.slow
async def test_a_ping_does_not_wait_behind_bodies(autojump_clock: MockClock) -> None:
    async with swarm(12) as side:
        await at_once(side, range(1, 13), put)
        await trio.sleep(1)
        side.pacer.limit(up=MIB, down=MIB)
        async with trio.open_nursery() as nursery:
            for supplier in range(1, 13):
                nursery.start_soon(put, side, supplier, 2)
            await trio.sleep(3)
            began = trio.current_time()
            await side.stat(SupplierNo(1))
            assert trio.current_time() - began < 0.25
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_many_suppliers_behind_a_low_limit_are_all_served(autojump_clock: MockClock) -> None:
    async with swarm(12) as side:
        side.pacer.limit(up=96 * 1024, down=1 << 40)  # 8 KiB a second for each: they would give up such a line
        took_s = await at_once(side, range(1, 13), put)
        assert took_s < 12 * MIB / (96 * 1024) * 1.2
        assert len(side.online()) == 12


@pytest.mark.slow
async def test_connections_get_equal_shares(autojump_clock: MockClock) -> None:
    gate, moved = gate_of(MIB), [0, 0, 0]

    async def send(number: int, piece: int) -> None:
        while True:
            await gate.pay(piece)
            moved[number] += piece

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(send, number, gate.piece(1 << 18))
    assert max(moved) - min(moved) <= 2 * gate.piece(1 << 18)
    assert sum(moved) == pytest.approx(60 * MIB, rel=0.02)


@pytest.mark.slow
async def test_short_messages_without_end_do_not_starve_long_ones(autojump_clock: MockClock) -> None:
    gate, pieces = gate_of(64 * 1024), 0

    async def chatter() -> None:
        while True:
            await gate.pay(4096)

    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            for _ in range(SHORT_MOST + 5):
                nursery.start_soon(chatter)
            while True:
                await gate.pay(8192)
                pieces += 1
    assert pieces > 60


async def test_who_gives_up_leaves_the_gate_to_the_others(autojump_clock: MockClock) -> None:
    gate = gate_of(64 * 1024)
    await gate.pay(256 * 1024)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await gate.pay(64 * 1024)
        nursery.start_soon(gate.pay, 64 * 1024)
        with trio.fail_after(10):
            await gate.pay(64 * 1024)
    assert not gate.is_crowded


@pytest.mark.parametrize("every_s", [0.01, 0.1, 1.0])
async def test_datagrams_take_from_the_same_limit_and_never_wait(autojump_clock: MockClock, every_s: float) -> None:
    gate, moved, length = gate_of(LIMIT), 0, int(LIMIT * every_s / 4)
    await gate.pay(1)  # nothing is saved up
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                while True:
                    gate.owe(length)
                    await trio.sleep(every_s)

            nursery.start_soon(say)
            while True:
                await gate.pay(piece := gate.piece(MIB))
                moved += piece
    assert 0.7 < moved / (20 * LIMIT) < 0.8


async def test_flood_of_datagrams_leaves_half_of_the_limit_to_the_rest(autojump_clock: MockClock) -> None:
    gate, moved = gate_of(LIMIT), 0
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    gate.owe(1400)
                    await trio.sleep(0.0003)

            nursery.start_soon(flood)
            while True:
                await gate.pay(piece := gate.piece(MIB))
                moved += piece
    assert 0.45 < moved / (20 * LIMIT) < 0.55


async def test_without_limits_nothing_is_counted(autojump_clock: MockClock) -> None:
    async with swarm(1) as side:
        await put(side, 1)
        assert side.pacer.up.is_open and side.pacer.down.is_open
        assert not side.is_held_back()


@pytest.mark.slow
async def test_a_volume_behind_a_low_limit_becomes_safe_without_a_block_given_up(autojump_clock: MockClock) -> None:
    content = random.Random(1).randbytes(3 * MIB)  # one block
    sent_bytes = len(content) * 5 // 2
    limit = 24 * 1024
    async with World(suppliers=5).running() as world:
        world.node.suppliers.pacer.limit(up=limit, down=1 << 40)
        await world.write("big", content)
        began = trio.current_time()
        assert await world.sync() == "safe"
        assert sent_bytes / limit * 0.9 < trio.current_time() - began < sent_bytes / limit * 1.3


@pytest.mark.slow
async def test_reads_behind_a_low_limit_come_whole_and_once(autojump_clock: MockClock) -> None:
    content = random.Random(2).randbytes(2 * MIB)
    async with World(suppliers=6).running() as world:
        await world.write("big", content)
        await world.sync()
        await world.node.drop_cache()
        world.node.suppliers.pacer.limit(up=1 << 40, down=100 * 1024)
        before = world.node.fragments.leaves.fetched_bytes
        assert await world.read("big") == content
        assert world.node.fragments.leaves.fetched_bytes - before < 1.2 * len(content)
