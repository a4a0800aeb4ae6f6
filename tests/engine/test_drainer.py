"""A supplier that is to leave is emptied with no moment of fewer held fragments, and only then given up."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.errors import BadRequest, NotFound
from bitdustfs.model import BlockNo, Code, FragmentState, Standing, SupplierNo, Wanting
from bitdustfs.testing.world import World
from tests.engine.recovered import Survivors, stocks
from tests.engine.unneeded import Watch, held, stored, until

CODE = Code(3, 5)
CONTENTS = {f"file {number}": random.Random(number).randbytes(400_000) for number in range(4)}
LEAVING = SupplierNo(1)


@asynccontextmanager
async def world_with_files(*, suppliers: int = 6, candidates: int = 0, code: Code = CODE) -> AsyncIterator[World]:
    async with World(suppliers=suppliers, candidates=candidates, code=code).running() as world:
        for name, content in CONTENTS.items():
            await world.write(name, content)
            await world.sync()
        watch = Watch(world)
        yield world
        assert not watch.lowered


def standing(world: World, supplier: SupplierNo = LEAVING) -> Standing:
    return world.catalog.suppliers()[supplier - 1].standing


def held_by(world: World, supplier: SupplierNo = LEAVING) -> int:
    return len(world.catalog.fragments_at(supplier, FragmentState.HELD, 1000))


def is_lost(world: World, supplier: SupplierNo) -> bool:
    return standing(world, supplier) is Standing.LOST


def is_gone(world: World) -> bool:
    return standing(world) is Standing.FIRED and not world.catalog.count_releases()


@pytest.mark.slow
async def test_leaving_supplier_is_emptied_and_then_given_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world_with_files() as world:
        assert held_by(world)
        assert world.node.drainer.leave("s1").standing is Standing.LEAVING
        await until(lambda: is_gone(world))
        assert held_by(world) == 0
        content = world.node.publisher.content
        assert content is not None and LEAVING not in {entry.number for entry in content.suppliers}
        assert stored(world) == held(world.catalog)
        assert world.swarm.suppliers[0].shelf.names(world.swarm.identity.owner, b"", 99) == []
        assert world.catalog.suppliers()[0].used_fragments == 0
        found = await Survivors(stocks(world), without=(1, 4, 5)).recover(tmp_path / "catalog")
        assert found == {name.encode(): content for name, content in CONTENTS.items()}
        assert await world.sync() == "safe"


@pytest.mark.slow
async def test_supplier_that_is_silent_may_leave_too(autojump_clock: MockClock) -> None:
    async with world_with_files() as world:
        world.swarm.cut(1)
        world.node.drainer.leave("s1")
        await until(lambda: standing(world) is Standing.FIRED)
        assert held_by(world) == 0
        assert world.catalog.count_releases().keys() == {LEAVING}
        world.swarm.heal(1)
        await until(lambda: is_gone(world))
        assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_who_leaves_need_not_wait_until_others_have_let_go_the_same(autojump_clock: MockClock) -> None:
    """An older state that was put aside may keep them from that for as long as a person likes."""
    async with world_with_files() as world:
        releases = world.node.releases
        with world.node.journal.operation():
            for row in world.catalog.fragments_at(LEAVING, FragmentState.HELD, 1000):
                block = world.catalog.block(row.block)
                assert block is not None
                others = {each.supplier for each in world.catalog.suppliers()}
                for free in others - {each.supplier for each in world.catalog.fragments(row.block)}:
                    name = releases.name(block, row.index, free)
                    assert name is not None
                    world.catalog.put_releases([(free, name)], 1 << 40)
        assert world.catalog.count_releases()
        world.node.drainer.leave("s1")
        await until(lambda: standing(world) is Standing.FIRED)
        assert not held_by(world)


@pytest.mark.slow
async def test_killed_process_goes_on_to_drain(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=CODE).hired() as world:
        async with world.machine(world.catalog, world.spool):
            for name, content in CONTENTS.items():
                await world.write(name, content)
                await world.sync()
            world.node.drainer.leave("s1")
            count = held_by(world)
            await until(lambda: held_by(world) < count)
        assert standing(world) is Standing.LEAVING or not held_by(world)
        async with world.machine(world.catalog, world.spool):
            await until(lambda: is_gone(world))
            assert stored(world) == held(world.catalog)


@pytest.mark.slow
async def test_candidate_takes_the_place_of_who_leaves(autojump_clock: MockClock) -> None:
    async with world_with_files(suppliers=5, candidates=1) as world:
        world.node.drainer.leave("s1")
        await until(lambda: is_gone(world))
        assert standing(world, SupplierNo(6)) is Standing.HIRED
        assert not world.catalog.wanting_blocks(1)


@pytest.mark.slow
async def test_leaving_is_refused_where_the_others_are_too_few_or_too_full(autojump_clock: MockClock) -> None:
    async with world_with_files(suppliers=5) as world:
        with pytest.raises(BadRequest, match="hire another supplier first"):
            world.node.drainer.leave("s1")
        assert standing(world) is Standing.HIRED
        with pytest.raises(NotFound):
            world.node.drainer.leave("nobody")
    async with world_with_files() as world:
        for supplier in world.swarm.suppliers:
            supplier.memory_shelf.donated_bytes = 0
        for number in range(1, 7):
            await world.suppliers.stat(SupplierNo(number))
        with pytest.raises(BadRequest, match="hire more space first"):
            world.node.drainer.leave("s1")


@pytest.mark.slow
async def test_leaving_an_empty_volume_is_refused_where_too_few_stay_for_its_code(autojump_clock: MockClock) -> None:
    async with World(suppliers=5, code=CODE).running() as world:
        with pytest.raises(BadRequest, match="4 where each block needs 5"):
            world.node.drainer.leave("s1")
    async with World(suppliers=5).running() as world:
        world.node.drainer.leave("s1")  # nobody chose a code: that of four suppliers is as good
        await until(lambda: is_gone(world))


@pytest.mark.slow
async def test_lost_supplier_is_kept_while_something_can_be_read_only_with_it(autojump_clock: MockClock) -> None:
    async with World(suppliers=5, code=CODE, patience=Patience.of(60)).running() as world:
        await world.write("a", b"a" * 100_000)
        assert await world.sync() == "safe"
        for number in (1, 2, 3):
            world.swarm.cut(number)
            await until(partial(is_lost, world, SupplierNo(number)))  # one after another, or it would be us
        with pytest.raises(BadRequest, match="only if it comes back"):
            world.node.drainer.leave("s1")
        world.swarm.heal(2)
        await until(lambda: (world.catalog.wanting_blocks(1) or [Wanting(9, BlockNo(0))])[0].spare >= 0)
        assert world.node.drainer.leave("s1").standing is Standing.FIRED


@pytest.mark.slow
async def test_leaving_waits_while_nobody_has_room_and_status_says_so(autojump_clock: MockClock) -> None:
    async with world_with_files() as world:
        for supplier in world.swarm.suppliers:
            if supplier is not world.swarm.suppliers[0]:
                supplier.memory_shelf.donated_bytes = 0
        world.node.drainer.leave("s1")
        await trio.sleep(20)
        assert standing(world) is Standing.LEAVING
        trouble = (await world.status())["trouble"]
        assert any("s1 is leaving" in sentence for sentence in trouble)
        assert any("hire another supplier" in sentence for sentence in trouble)
        assert (await world.status())["suppliers"][0]["state"] == "leaving"
        for supplier in world.swarm.suppliers:
            supplier.memory_shelf.donated_bytes = 1 << 40
        await until(lambda: is_gone(world))


@pytest.mark.slow
async def test_who_was_to_leave_may_stay(autojump_clock: MockClock) -> None:
    async with world_with_files() as world:
        world.node.drainer.leave("s1")
        assert world.node.drainer.stay("s1").standing is Standing.HIRED
        with pytest.raises(BadRequest):
            world.node.drainer.stay("s1")
        await trio.sleep(60)
        assert standing(world) is Standing.HIRED
        await world.write("more", CONTENTS["file 0"])
        assert await world.sync() == "safe"
        assert not world.catalog.wanting_blocks(1)


@pytest.mark.slow
async def test_who_came_back_empty_is_no_reason_to_let_go(autojump_clock: MockClock) -> None:
    world = World(suppliers=5, candidates=2, code=CODE, patience=Patience.of(10.0), audits_a_day=1)
    async with world.running():
        await world.write("letter", CONTENTS["file 0"])
        await world.sync()
        world.swarm.suppliers[0].kill()
        await until(lambda: standing(world) is Standing.LOST and not world.catalog.wanting_blocks(1))
        world.swarm.suppliers[0].wipe()
        world.node.trimmer.may_trim = lambda: False
        world.swarm.suppliers[0].start()
        await until(lambda: held_by(world) > 0)
        lost = {row.index for row in world.catalog.fragments(BlockNo(1)) if row.supplier == LEAVING}
        (other,) = (
            row.supplier
            for row in world.catalog.fragments(BlockNo(1))
            if row.index in lost and row.supplier != LEAVING
        )
        world.node.drainer.leave(f"s{other}")
        await trio.sleep(120)
        there = [row for row in world.catalog.fragments(BlockNo(1)) if row.state is FragmentState.HELD]
        assert {row.index for row in there if row.supplier != LEAVING} == set(range(CODE.n))


@pytest.mark.slow
async def test_rows_of_who_was_lost_and_then_given_up_go_when_others_have_enough(autojump_clock: MockClock) -> None:
    world = World(suppliers=5, candidates=1, code=CODE, patience=Patience.of(10.0), audits_a_day=1)
    async with world.running():
        await world.write("letter", CONTENTS["file 0"])
        await world.sync()
        world.swarm.suppliers[0].kill()
        await until(lambda: standing(world) is Standing.LOST and not world.catalog.wanting_blocks(1))
        world.node.drainer.leave("s1")
        assert world.catalog.fragments_at(LEAVING, FragmentState.ABSENT, 1)
        await until(lambda: not world.catalog.fragments_at(LEAVING, FragmentState.ABSENT, 1), most_s=1300)
        assert await world.read("letter") == CONTENTS["file 0"]
