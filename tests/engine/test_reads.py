"""Reads that wait for suppliers which stopped answering: few of them, and never for ever (I12)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitdustfs.core import erasure
from bitdustfs.core.patience import CROWDED_S, ELSEWHERE_S, KERNEL_SLOTS, SILENT_S, STALLED_MOST
from bitdustfs.engine.reader import FAILED_S
from bitdustfs.engine.reads import LOOK_EVERY_S, SELDOM_S
from bitdustfs.engine.relation import SILENCE_S
from bitdustfs.errors import BitdustError, Kind
from bitdustfs.model import ROOT_INO, Code, Ino
from bitdustfs.testing.network import Line
from bitdustfs.testing.world import World

CODE = Code(3, 5)
FILES = 40
FILE_BYTES = 100_000
DEADLINE_S = 30.0
SOON_S = 1.0
SEEDS = (
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1)),
    *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 50)),
)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@asynccontextmanager
async def cold_world(*, line: Line | None = None, bytes_each: int = FILE_BYTES) -> AsyncIterator[World]:
    """FILES files at five suppliers, nothing of them here."""
    dice = random.Random(3)
    async with World(code=CODE).running() as world:
        for number in range(FILES):
            await world.write(f"f{number}", dice.randbytes(bytes_each))
        await world.sync()
        await world.node.drop_cache()
        if line is not None:
            for supplier in world.swarm.suppliers:
                world.swarm.network.set_line(world.swarm.identity.node, supplier.node, line)
                world.swarm.network.break_links(supplier.node)
            await trio.sleep(60)  # connected again
        yield world


def ino_of(world: World, number: int) -> Ino:
    inode = world.node.tree.lookup(ROOT_INO, f"f{number}".encode())
    assert inode is not None
    return inode.ino


class Readers:
    """Reads the beginning of many files at once, as the kernel would."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self._began = trio.current_time()
        self.ended: dict[int, float] = {}  # file -> after how long it failed
        self.served: set[int] = set()

    async def start(self, count: int) -> None:
        for number in range(count):
            self._nursery.start_soon(self.read, number)
            await trio.testing.wait_all_tasks_blocked()

    async def read(self, number: int) -> None:
        began = trio.current_time()
        try:
            with trio.fail_after(DEADLINE_S):
                await self._world.node.files.read(ino_of(self._world, number), 0, 4096)
            self.served.add(number)
        except trio.TooSlowError:
            self.ended[number] = trio.current_time() - began
        except BitdustError as error:
            assert error.kind is Kind.UNAVAILABLE
            self.ended[number] = trio.current_time() - began


def silence(world: World, *numbers: int) -> None:
    for number in numbers or range(1, 6):
        world.swarm.silence(number)


@pytest.mark.slow
async def test_of_many_stalled_reads_six_stay_and_all_end_within_the_deadline(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world)
        readers = Readers(world, nursery)
        await readers.start(FILES)
        await trio.sleep(SOON_S)
        assert len(world.node.reads) == STALLED_MOST
        assert sorted(readers.ended) == list(range(FILES - STALLED_MOST))  # those that waited longest
        await trio.sleep(DEADLINE_S)
        assert len(readers.ended) == FILES
        assert max(readers.ended.values()) <= DEADLINE_S


@pytest.mark.slow
async def test_further_read_makes_the_longest_stalled_end_at_once(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world)
        world.node.reads.allow(1)  # always crowded
        readers = Readers(world, nursery)
        await readers.start(STALLED_MOST)
        await trio.sleep(SOON_S)
        assert readers.ended == {}
        nursery.start_soon(readers.read, STALLED_MOST)
        nursery.start_soon(readers.read, STALLED_MOST + 1)
        await trio.sleep(2 * LOOK_EVERY_S)
        assert sorted(readers.ended) == [0, 1]
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_few_reads_wait_until_suppliers_that_were_busy_answer(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        readers = Readers(world, nursery)
        for supplier in world.swarm.suppliers:
            supplier.mute.delay_s = 2 * SILENT_S
        await readers.start(STALLED_MOST)
        await trio.sleep(DEADLINE_S)
        assert readers.served == set(range(STALLED_MOST))


@pytest.mark.slow
async def test_many_reads_of_slow_suppliers_are_all_served(autojump_clock: MockClock) -> None:
    line = Line(latency_s=0.4, bytes_per_s=100_000)
    async with cold_world(line=line, bytes_each=60_000) as world, trio.open_nursery() as nursery:
        readers = Readers(world, nursery)
        await readers.start(FILES)
        await trio.sleep(DEADLINE_S)
        assert readers.ended == {}
        assert len(readers.served) == FILES


@pytest.mark.slow
async def test_one_silent_supplier_costs_reads_a_moment_and_later_ones_nothing(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world, 1, 2)
        readers = Readers(world, nursery)
        await readers.start(FILES // 2)
        await trio.sleep(2 * SOON_S)
        assert readers.served == set(range(FILES // 2))
        with trio.fail_after(CROWDED_S / 2):
            for number in range(FILES // 2, FILES):
                await world.node.files.read(ino_of(world, number), 0, 4096)


@pytest.mark.slow
async def test_read_that_comes_while_only_an_audit_waits_is_looked_after_at_once(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        ((_, chunk),) = world.catalog.placed(ino_of(world, 0), 0, 0)
        block = world.catalog.block(chunk.block)
        assert block is not None
        index = chunk.offset // erasure.fragment_length(block.length, CODE.k)
        first = next(row.supplier for row in world.catalog.fragments(block.block) if row.index == index)
        other = world.catalog.suppliers()[first % 5]
        silence(world, other.supplier)
        nursery.start_soon(world.node.audit, other.label, quiet)
        await trio.sleep(0.01)  # the next look is far
        silence(world, first)
        began = trio.current_time()
        await world.node.files.read(ino_of(world, 0), 0, 4096)
        assert trio.current_time() - began < ELSEWHERE_S + 3 * LOOK_EVERY_S < SELDOM_S
        nursery.cancel_scope.cancel()


async def quiet(_step: object) -> None:
    return


@pytest.mark.slow
async def test_reads_fail_at_once_while_too_few_suppliers_are_reachable(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world, 1, 2, 3)
        readers = Readers(world, nursery)
        await readers.start(2)
        await trio.sleep(SILENT_S + SOON_S)
        later = Readers(world, nursery)
        await later.start(FILES)
        await trio.sleep(SOON_S)
        assert len(later.ended) + len(later.served) == FILES
        assert later.ended
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_silent_suppliers_are_found_offline_soon_after_somebody_asked_them(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world)
        await Readers(world, nursery).start(FILES)
        await trio.sleep(SILENT_S + SILENCE_S + SOON_S)
        assert len(world.node.suppliers.online()) < CODE.k  # the others hold no primary fragment
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_status_says_who_is_silent(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world)
        await Readers(world, nursery).start(FILES)
        await trio.sleep(SILENT_S + SOON_S)
        report = await world.status()
        assert report["margin"] == -1
        assert "no answer from s1, s2, s3" in report["trouble"]
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_failed_range_is_remembered_for_a_moment(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        silence(world)
        first, second, third = (Readers(world, nursery) for _ in range(3))
        await first.start(KERNEL_SLOTS)
        await trio.sleep(SOON_S)
        assert 0 in first.ended
        await second.start(1)
        assert second.ended == {0: 0.0}
        await trio.sleep(FAILED_S)
        await third.start(1)
        assert third.ended == {}
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_failed_range_is_tried_again_at_once_when_another_supplier_is_back(autojump_clock: MockClock) -> None:
    async with cold_world() as world, trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            world.swarm.cut(number)
        await trio.sleep(120)
        readers = Readers(world, nursery)
        await readers.start(1)
        assert readers.ended
        world.swarm.heal(1)
        world.node.suppliers.nudge()
        await trio.sleep(FAILED_S / 4)
        await readers.start(1)
        await trio.sleep(FAILED_S / 4)
        assert readers.served == {0}


@pytest.mark.slow
async def test_deadline_of_a_read_is_remembered_too(autojump_clock: MockClock) -> None:
    async with cold_world() as world:
        silence(world)
        with trio.move_on_after(1):
            await world.node.files.read(ino_of(world, 0), 0, 4096)
        with trio.fail_after(0.01), pytest.raises(BitdustError):
            await world.node.files.read(ino_of(world, 0), 0, 4096)


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_read_fails_whatever_n_minus_k_suppliers_do(autojump_clock: MockClock, seed: int) -> None:
    dice = random.Random(seed)
    async with cold_world() as world, trio.open_nursery() as nursery:
        for _ in range(4):
            for number in dice.sample(range(1, 6), CODE.n - CODE.k):
                nursery.start_soon(
                    _misbehave, world, number, dice.random() * 2, dice.choice(["silence", "cut", "mute"])
                )
            for _ in range(3):
                readers = Readers(world, nursery)
                await readers.start(FILES)
                await trio.sleep(dice.random() * DEADLINE_S)
                assert readers.ended == {}
                await world.node.drop_cache()
            await trio.sleep(10 * DEADLINE_S)  # everybody is connected again
        nursery.cancel_scope.cancel()


async def _misbehave(world: World, number: int, after_s: float, how: str) -> None:
    await trio.sleep(after_s)
    supplier = world.swarm.suppliers[number - 1]
    if how == "mute":
        supplier.mute.is_mute = True
    else:
        getattr(world.swarm, how)(number)
    await trio.sleep(DEADLINE_S * 4)
    supplier.mute.is_mute = False
    world.swarm.heal(number)
