"""A supplier whose contract ends is left in time, by itself; what is only there counts until it may erase it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import agreement, contract
from bitdustfs.core.agreement import Wish
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.grace import DAY_S, GRACE_S, NOTICE_S, Patience
from bitdustfs.errors import BadRequest, ReadOnly
from bitdustfs.model import Code, FragmentState, Standing, Supplier, SupplierNo
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import World
from tests.engine.unneeded import Watch, held, stored, until

pytestmark = pytest.mark.slow

CODE = Code(3, 5)
CONTENT = random.Random(5).randbytes(400_000)
ENDING = SupplierNo(1)
SETTLE_S = 200.0


@asynccontextmanager
async def world_with_file(*, suppliers: int = 6, code: Code = CODE) -> AsyncIterator[World]:
    async with World(suppliers=suppliers, code=code).running() as world:
        world.node.register.settling.settle_s = SETTLE_S
        await world.write("letter", CONTENT)
        assert await world.sync() == "safe"
        yield world


@asynccontextmanager
async def started(world: World, *, wait: bool = True) -> AsyncIterator[None]:
    """The customer's machine; a clock that jumped settles soon."""
    async with world.machine(world.catalog, world.spool, wait=False):
        world.node.register.settling.settle_s = SETTLE_S
        while wait and len(world.suppliers.online()) < len(world.swarm.suppliers):
            await world.suppliers.wait_for_change()
        yield


def row(world: World, supplier: SupplierNo = ENDING) -> Supplier:
    return world.catalog.suppliers()[supplier - 1]


def counted(world: World, state: FragmentState = FragmentState.HELD) -> int:
    return len(world.catalog.fragments_at(ENDING, state, 1000))


def signed(world: World, wish: Wish, *, by: Identity, with_: Identity) -> Contract:
    """The next contract with the first supplier."""
    kept = world.node.suppliers.clerk.newest(row(world).owner) or contract.parse(row(world).contract)
    now_s = world.node.register.now_s()
    sides = (by.owner, by.node), (with_.owner, with_.node)
    terms = agreement.next_terms(kept, *sides, wish, now_s=now_s, used=(0, 0), in_force=kept)
    return contract.countersign(with_, contract.propose(by, terms))


async def agree(world: World, wish: Wish, *, by_supplier: bool = True) -> None:
    """The first supplier and the customer agree on a change, and both keep it."""
    friend, customer = world.swarm.suppliers[0], world.swarm.identity
    by, with_ = (friend.identity, customer) if by_supplier else (customer, friend.identity)
    agreed = signed(world, wish, by=by, with_=with_)
    await friend.keeper.keep(agreed)
    await world.node.suppliers.clerk.keep(friend.identity.owner, agreed)


async def end_in(world: World, seconds: float) -> int:
    ends_s = int(world.node.register.now_s() + seconds)
    await agree(world, Wish(until_s=ends_s))
    return ends_s


async def pass_time(world: World, seconds: float) -> None:
    """Let wall time pass, and be sure that it did."""
    world.swarm.wall.move_s(seconds)
    await trio.sleep(SETTLE_S + 2 * 60)


def fill(others: list[SupplierNode], donated_bytes: int) -> None:
    for each in others:
        each.memory_shelf.donated_bytes = donated_bytes


def is_gone(world: World) -> bool:
    return row(world).standing is Standing.FIRED and not world.catalog.count_releases()


async def trouble(world: World) -> str:
    return "\n".join((await world.status())["trouble"])


@pytest.mark.parametrize("by_supplier", [True, False])
async def test_supplier_whose_contract_ends_is_left_by_itself_with_no_moment_of_fewer(
    autojump_clock: MockClock, by_supplier: bool
) -> None:
    async with world_with_file() as world:
        watch = Watch(world)
        assert counted(world)
        await agree(world, Wish(until_s=world.node.register.now_s() + NOTICE_S), by_supplier=by_supplier)
        await until(lambda: row(world).standing is not Standing.HIRED, most_s=120)
        await until(lambda: is_gone(world))
        assert counted(world) == 0
        assert not watch.lowered
        assert stored(world) == held(world.catalog)
        assert await world.sync() == "safe"
        assert "leave, as its contract ends" in str((await world.node.forecast())["verdicts"])


async def test_our_own_notice_that_the_friend_has_not_signed_is_an_end_too(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        kept = contract.parse(row(world).contract)
        clerk = world.node.suppliers.clerk
        await clerk.keep(row(world).owner, kept)
        us, them = world.swarm.identity, world.swarm.suppliers[0].identity
        wish = Wish(until_s=clerk.now_s() + NOTICE_S)
        sides = (us.owner, us.node), (them.owner, them.node)
        terms = agreement.next_terms(kept, *sides, wish, now_s=clerk.now_s(), used=(0, 0), in_force=kept)
        await clerk.intend(them.owner, contract.propose(us, terms))
        await until(lambda: is_gone(world))


async def test_term_that_is_long_to_come_moves_nothing_and_is_left_a_month_before_its_end(
    autojump_clock: MockClock,
) -> None:
    async with world_with_file() as world:
        await end_in(world, 200 * DAY_S)
        await pass_time(world, 100 * DAY_S)
        assert row(world).standing is Standing.HIRED
        assert "ends" not in await trouble(world)
        await pass_time(world, 71 * DAY_S)
        await until(lambda: is_gone(world))


async def test_contract_that_goes_on_stops_the_leaving(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        fill(world.swarm.suppliers[1:], 0)
        await end_in(world, NOTICE_S)
        await until(lambda: row(world).standing is Standing.LEAVING, most_s=120)
        with pytest.raises(BadRequest, match="renew"):
            await world.node.stay("s1")
        await agree(world, Wish(until_s=0))
        await until(lambda: row(world).standing is Standing.HIRED, most_s=120)
        await world.write("more", CONTENT[:100])
        fill(world.swarm.suppliers[1:], 1 << 40)
        await pass_time(world, NOTICE_S + GRACE_S)
        assert row(world).standing is Standing.HIRED
        assert await world.sync() == "safe"


async def test_who_was_left_as_the_contract_ended_is_hired_again_when_it_goes_on(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        await end_in(world, NOTICE_S)
        await until(lambda: is_gone(world))
        await agree(world, Wish(until_s=0))
        await until(lambda: row(world).standing is Standing.HIRED, most_s=120)


async def test_person_who_says_leave_means_it_also_when_the_contract_goes_on(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        fill(world.swarm.suppliers[1:], 0)
        await end_in(world, NOTICE_S)
        await until(lambda: row(world).standing is Standing.LEAVING, most_s=120)
        await world.node.leave("s1")
        await agree(world, Wish(until_s=0))
        await trio.sleep(200)
        assert row(world).standing is Standing.LEAVING


async def test_without_anybody_to_take_it_status_says_what_is_lost_when_and_counts_it_until_then(
    autojump_clock: MockClock,
) -> None:
    async with world_with_file(suppliers=1, code=Code(1, 1)) as world:
        await end_in(world, NOTICE_S)
        await trio.sleep(200)
        assert row(world).standing is Standing.HIRED  # it takes what is written meanwhile
        await world.write("more", CONTENT[:100])
        assert await world.sync() == "safe"
        told = await trouble(world)
        assert "ends on 2026-01-31, and the others cannot take the" in told
        assert "counts as held until 2026-03-02" in told
        assert "hire another supplier" in told and "status --without s1" in told
        await pass_time(world, NOTICE_S)
        assert row(world).standing is Standing.LEAVING
        assert counted(world) > 0
        assert (await world.status())["state"] == "safe"  # the newest head has every file: only that it leaves waits
        assert "nobody takes" in await trouble(world)
        await world.node.drop_cache()
        await pass_time(world, GRACE_S)
        await until(lambda: counted(world) == 0, most_s=60)
        assert row(world).standing is Standing.MISSING
        status = await world.status()
        assert status["state"] == "lost" and status["margin"] < 0
        assert "may be erased" in await trouble(world)
        assert await world.read("letter") == CONTENT  # it is there all the same
        await trio.sleep(60)
        assert counted(world) == 0 and row(world).standing is Standing.MISSING
        await agree(world, Wish(until_s=0))
        await until(lambda: not counted(world, FragmentState.ABSENT) and counted(world) > 0)
        assert await world.sync() == "safe"


async def test_who_is_away_as_the_contract_ends_is_not_given_up_while_it_may_have_what_nobody_else_has(
    autojump_clock: MockClock,
) -> None:
    async with World(suppliers=3, code=Code(3, 3), patience=Patience.of(300)).running() as world:
        world.node.register.settling.settle_s = SETTLE_S
        await world.write("letter", CONTENT)
        assert await world.sync() == "safe"
        await world.node.drop_cache()
        await end_in(world, 100 * DAY_S)
        world.swarm.cut(1)
        await until(lambda: row(world).standing is Standing.LOST, most_s=2000)
        await pass_time(world, 100 * DAY_S + GRACE_S)
        await trio.sleep(1200)
        assert row(world).standing is Standing.LOST
        world.swarm.heal(1)
        await trio.sleep(600)
        assert counted(world) == 0
        assert await world.read("letter") == CONTENT  # it is there all the same
        await agree(world, Wish(until_s=0))
        await until(lambda: not counted(world, FragmentState.ABSENT) and counted(world) > 0)
        assert await world.sync() == "safe"


async def test_what_may_be_erased_makes_nothing_safe_for_a_machine_that_was_off_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with World(suppliers=1, code=Code(1, 1)).hired() as world:
        async with started(world):
            await world.write("letter", CONTENT)
            assert await world.sync() == "safe"
            await end_in(world, NOTICE_S)
            await until(lambda: bool(world.node.register.ends))
        world.swarm.wall.move_s(NOTICE_S + GRACE_S)
        async with started(world):
            # what was agreed last is at the friend's, and in the row by now
            assert world.node.register.ends
            assert (await world.status())["state"] != "safe"
            await until(lambda: row(world).standing is Standing.MISSING, most_s=2 * SETTLE_S)


async def test_what_does_not_count_as_the_contract_ended_does_not_while_the_clock_settles(
    autojump_clock: MockClock,
) -> None:
    async with World(suppliers=1, code=Code(1, 1)).hired() as world:
        async with started(world):
            await world.write("letter", CONTENT)
            assert await world.sync() == "safe"
            await end_in(world, NOTICE_S)
            await pass_time(world, NOTICE_S + GRACE_S)
            await until(lambda: row(world).standing is Standing.MISSING)
        world.swarm.wall.move_s(30 * DAY_S)
        async with started(world):
            await trio.sleep(SETTLE_S / 2)
            assert row(world).standing is Standing.MISSING and not counted(world)


async def test_ends_of_contracts_are_known_before_anything_else_is_done_after_a_start(
    autojump_clock: MockClock,
) -> None:
    async with World(suppliers=1, code=Code(1, 1)).hired() as world:
        async with started(world):
            await world.write("letter", CONTENT)
            assert await world.sync() == "safe"
            await end_in(world, NOTICE_S)
            await until(lambda: bool(world.node.register.ends))
        world.swarm.wall.move_s(NOTICE_S + GRACE_S)
        async with started(world, wait=False):
            assert world.node.register.is_unsure
            assert not world.node.register.is_new_worth(ENDING)


async def test_clock_that_is_far_ahead_at_a_start_moves_nothing_while_it_settles(autojump_clock: MockClock) -> None:
    async with World(suppliers=1, code=Code(1, 1)).hired() as world:
        async with started(world):
            await world.write("letter", CONTENT)
            assert await world.sync() == "safe"
            await end_in(world, 200 * DAY_S)
            await trio.sleep(120)
        world.swarm.wall.move_s(3650 * DAY_S)
        async with started(world):
            await trio.sleep(SETTLE_S / 2)
            assert row(world).standing is Standing.HIRED and counted(world)
            assert (await world.status())["state"] != "safe"
        world.swarm.wall.move_s(-3650 * DAY_S)
        async with started(world):
            await trio.sleep(2 * SETTLE_S)
            assert row(world).standing is Standing.HIRED and counted(world)
            assert (await world.status())["state"] == "safe"


async def test_clock_that_jumps_and_comes_back_moves_nothing(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        await end_in(world, 200 * DAY_S)
        await trio.sleep(120)
        world.swarm.wall.move_s(3650 * DAY_S)
        await trio.sleep(SETTLE_S / 2)
        assert row(world).standing is Standing.HIRED
        assert counted(world)
        assert (await world.status())["state"] == "degraded"  # nothing is promised by a clock that may be right
        world.swarm.wall.move_s(-3650 * DAY_S)
        await trio.sleep(2 * SETTLE_S)
        assert row(world).standing is Standing.HIRED
        assert counted(world) and (await world.status())["state"] == "safe"


async def test_rows_wait_while_nothing_may_be_changed(autojump_clock: MockClock) -> None:
    async with world_with_file() as world:
        before = row(world)
        change = world.catalog.last_change
        world.node.journal.forbid(ReadOnly(what="recovered to be read"))
        await agree(world, Wish(until_s=world.node.register.now_s() + NOTICE_S))
        world.node.suppliers.on_address(ENDING, "elsewhere:1")
        await trio.sleep(200)
        assert row(world) == before
        assert world.catalog.last_change == change
        world.node.journal._forbidden = None  # what a full disk does when it has room again
        await until(lambda: row(world).standing is not Standing.HIRED, most_s=120)
        assert row(world).address == "elsewhere:1"
        assert contract.parse(row(world).contract).terms.until_s
