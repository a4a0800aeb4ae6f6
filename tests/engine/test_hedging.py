"""A supplier that is much slower than the others keeps nobody waiting, and few requests are asked twice for that."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.speed import TRUST_S
from bitdustfs.engine.speeds import Asked
from bitdustfs.model import ROOT_INO, Code, SupplierNo
from bitdustfs.testing.network import Line
from bitdustfs.testing.world import World

QUICK = Line(latency_s=0.002, bytes_per_s=12.5e6)
SLOW = Line(latency_s=0.05, bytes_per_s=1.25e6)
FAR = Line(latency_s=0.03, bytes_per_s=12.5e6)
LOCAL = Line(latency_s=0.0001, bytes_per_s=300e6)
CONTENT = random.Random(12).randbytes(40 << 20)
LARGE = random.Random(13).randbytes(64 << 20)
READ_BYTES = 512 * 1024
SHARE = 0.8  # of the speed without the slow one
SPARE = 1.08  # bytes that come for what is read
HEDGED = 0.03  # of what is read may come twice
LINES = 0.85  # of what all lines carry


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def cold_read_s(world: World, content: bytes = CONTENT) -> list[float]:
    """Read it all, as the kernel reads ahead. Returns when each step began, and the end."""
    await world.node.drop_cache()
    inode = world.node.tree.lookup(ROOT_INO, b"file")
    assert inode is not None
    began = trio.current_time()
    times = []
    for at in range(0, inode.size, READ_BYTES):
        times.append(trio.current_time() - began)
        assert await world.node.files.read(inode.ino, at, READ_BYTES) == content[at : at + READ_BYTES]
    return [*times, trio.current_time() - began]


def middle_half_s(times: Sequence[float]) -> float:
    """How long the middle of a read took: in the beginning nobody knows that the file will be read to the end."""
    quarter = len(times) // 4
    return times[-quarter] - times[quarter]


def set_lines(world: World, lines: Sequence[Line]) -> None:
    for supplier, line in zip(world.swarm.suppliers, lines, strict=True):
        world.swarm.network.set_line(world.swarm.identity.node, supplier.node, line)


def sent_bytes(world: World) -> int:
    return sum(link.sent_bytes for link in world.swarm.network.links())


async def share_of_first(world: World) -> float:
    """What part of all that moves for a cold read moves between us and the first supplier."""
    first = [link for link in world.swarm.network.links() if link.joins(world.swarm.suppliers[0].node, None)]
    before, before_first = sent_bytes(world), sum(link.sent_bytes for link in first)
    await cold_read_s(world)
    return (sum(link.sent_bytes for link in first) - before_first) / (sent_bytes(world) - before)


@pytest.mark.slow
async def test_slow_supplier_costs_a_cold_read_little(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        set_lines(world, [QUICK] * 5)
        await cold_read_s(world)  # bulk connections are open
        world.swarm.cut(1)
        await trio.sleep(1)
        without_s = (await cold_read_s(world))[-1]
        world.swarm.heal(1)
        set_lines(world, [SLOW, *[QUICK] * 4])
        while len(world.suppliers.online()) < 5:
            await world.suppliers.wait_for_change()
        found_s = (await cold_read_s(world))[-1]  # here it shows how slow it is
        with_s = min((await cold_read_s(world))[-1], (await cold_read_s(world))[-1])
        assert found_s <= without_s + 1
        assert with_s * SHARE <= without_s


@pytest.mark.slow
async def test_supplier_that_was_slow_is_used_when_it_has_connected_again(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        set_lines(world, [QUICK] * 5)
        usual = await share_of_first(world)
        assert usual > 0.05
        set_lines(world, [SLOW, *[QUICK] * 4])
        await cold_read_s(world)
        await cold_read_s(world)
        assert await share_of_first(world) < usual / 3  # it is left alone while it is known to be slow
        world.swarm.cut(1)
        await trio.sleep(1)
        set_lines(world, [QUICK] * 5)
        world.swarm.heal(1)
        while len(world.suppliers.online()) < 5:
            await world.suppliers.wait_for_change()
        await cold_read_s(world)
        assert await share_of_first(world) > usual * SHARE


@pytest.mark.slow
async def test_supplier_that_was_slow_is_tried_again_before_long(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        set_lines(world, [QUICK] * 5)
        usual = await share_of_first(world)
        set_lines(world, [SLOW, *[QUICK] * 4])
        await cold_read_s(world)
        await cold_read_s(world)
        assert await share_of_first(world) < usual / 3
        set_lines(world, [QUICK] * 5)
        await trio.sleep(TRUST_S * 0.6)
        assert await share_of_first(world) > usual / 3  # one fragment shows that it is not slow any more
        assert await share_of_first(world) > usual * SHARE


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [pytest.param(LOCAL, id="local", marks=pytest.mark.long), pytest.param(SLOW, id="slow")]
)
async def test_nobody_is_hedged_while_all_lines_are_alike(autojump_clock: MockClock, line: Line) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("file", CONTENT)
        await world.sync()
        set_lines(world, [line] * 5)
        before = sent_bytes(world)
        await cold_read_s(world)
        assert world.node.fragments.asks.hedged_bytes <= len(CONTENT) * HEDGED
        assert sent_bytes(world) - before <= len(CONTENT) * SPARE


@pytest.mark.long
async def test_far_suppliers_are_used_as_fast_as_their_lines_go(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5), spool_limit=1 << 30).running() as world:
        set_lines(world, [FAR] * 5)
        before, began = sent_bytes(world), trio.current_time()
        await world.write("file", LARGE)
        await world.sync()
        up_s = trio.current_time() - began
        assert sent_bytes(world) - before >= LINES * 5 * FAR.bytes_per_s * up_s
        await cold_read_s(world, LARGE)
        middle_s = min(middle_half_s(await cold_read_s(world, LARGE)), middle_half_s(await cold_read_s(world, LARGE)))
        assert len(LARGE) / 2 / middle_s >= LINES * 5 * FAR.bytes_per_s


@pytest.mark.slow
async def test_no_read_fails_because_all_are_slower_than_anybody_knew(autojump_clock: MockClock) -> None:
    async with World(suppliers=3, code=Code(2, 3)).running() as world:
        await world.write("file", LARGE[:100_000])
        await world.sync()
        await world.node.drop_cache()
        set_lines(world, [SLOW] * 3)
        asks = world.node.fragments.asks
        async with trio.open_nursery() as nursery:

            async def hedge_whoever_may_be() -> None:
                while True:
                    for ask in [ask for some in asks._asks.values() for ask in some if ask.may_hedge]:
                        asks._hedge(ask)
                    await trio.sleep(0.001)

            nursery.start_soon(hedge_whoever_may_be)
            assert await world.read("file") == LARGE[:100_000]
            nursery.cancel_scope.cancel()
        assert asks.hedged_times > 0


async def test_who_was_hedged_is_not_asked_again_while_others_were_not_asked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("file", LARGE[:3_000_000])
        await world.sync()
        await world.node.drop_cache()
        fragments = world.node.fragments
        asks, begin = fragments.asks, fragments.asks.speeds.begin
        asked: list[SupplierNo] = []

        def note(supplier: SupplierNo, size_bytes: int) -> Asked:
            asked.append(supplier)
            return begin(supplier, size_bytes)

        monkeypatch.setattr(asks.speeds, "begin", note)
        block = next(row for row in world.catalog.blocks() if row.length > 1_000_000)
        holder = {row.index: row.supplier for row in world.catalog.fragments(block.block)}
        monkeypatch.setattr(asks, "expect_s", lambda holders, _size_bytes: 9.0 if holders[0] == holder[0] else 0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fragments.block_range, block, 0, block.length)
            while not any(ask.supplier not in (holder[1], holder[2]) for ask in asks._asks.get(block.block, [])):
                await trio.sleep(0)
            (spare,) = [ask for ask in asks._asks[block.block] if ask.supplier not in (holder[1], holder[2])]
            assert spare.supplier != holder[0]
            asks._hedge(spare)
        assert asked.count(spare.supplier) == 1
