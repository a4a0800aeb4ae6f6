"""Suppliers that lost or changed what they hold, and are found out without a read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import DAY_S
from bitdustfs.model import Code, FragmentState, SupplierNo
from bitdustfs.ports import Leaves
from bitdustfs.testing.shelf import flipped
from bitdustfs.testing.world import World

FIRST = SupplierNo(1)
A_MINUTE_S = 60.0
A_LEAF_A_SECOND = DAY_S // 5  # audits a day, with five suppliers: one of them is asked each 0.2 s
CONTENT = bytes(range(256)) * 1200


@asynccontextmanager
async def audited_world(*, audits_a_day: int, files: int = 8) -> AsyncIterator[World]:
    async with World(code=Code(3, 5), audits_a_day=audits_a_day).running() as world:
        for number in range(files):
            await world.write(f"file {number}", bytes([number]) + CONTENT)
            await world.sync()
        yield world


def at_first(world: World, state: FragmentState) -> int:
    return len(world.catalog.fragments_at(FIRST, state, 1000))


def wrong_in_every_second(world: World) -> None:
    """Let the first supplier give back wrong bytes for half of what it holds."""
    names = [name for name, _ in world.swarm.suppliers[0].memory_shelf.names(world.swarm.identity.owner, b"", 1000)]
    bad, shelf = set(names[::2]), world.swarm.suppliers[0].shelf
    honest = shelf.get

    def get(owner: object, name: object, *args: object, **kwargs: object) -> Leaves:
        leaves = honest(owner, name, *args, **kwargs)  # type: ignore[arg-type]
        return flipped(leaves) if name in bad else leaves

    shelf.get = get  # type: ignore[method-assign]


@pytest.mark.slow
async def test_supplier_with_wrong_bytes_is_found_and_all_of_it_gone_through(autojump_clock: MockClock) -> None:
    async with audited_world(audits_a_day=A_LEAF_A_SECOND) as world:
        held = at_first(world, FragmentState.HELD)
        wrong_in_every_second(world)
        with trio.fail_after(A_MINUTE_S):
            while world.catalog.audits().get(FIRST) is None or not world.catalog.audits()[FIRST].wrong:
                await trio.sleep(1)
        await trio.sleep(5)
        found = world.catalog.audits()[FIRST]
        assert found.wrong >= held // 2 - 1
        told = (await world.status())["suppliers"][0]
        assert told["audits_wrong"] == found.wrong
        assert told["audited_s"]


@pytest.mark.slow
async def test_what_an_audit_found_lost_is_made_again(autojump_clock: MockClock) -> None:
    async with audited_world(audits_a_day=1, files=3) as world:
        shelf = world.swarm.suppliers[0].memory_shelf
        owner = world.swarm.identity.owner
        gone = [name for name, _ in shelf.names(owner, b"", 1000)][:2]
        for name in gone:
            shelf.delete(owner, name, now_s=0)
        found = (await world.node.audit("s1", quiet))[0]
        assert (found["label"], found["wrong"], found["silent"]) == ("s1", 2, False)
        await trio.sleep(A_MINUTE_S)
        assert not world.catalog.wanting_blocks(1)
        assert (await world.node.audit("s1", quiet))[0]["wrong"] == 0


@pytest.mark.slow
async def test_silence_proves_nothing(autojump_clock: MockClock) -> None:
    async with audited_world(audits_a_day=1, files=2) as world:
        held = at_first(world, FragmentState.HELD)
        world.swarm.silence(1)
        with trio.fail_after(10 * A_MINUTE_S):
            found = (await world.node.audit("s1", quiet))[0]
        assert found["silent"]
        assert found["wrong"] == 0
        assert at_first(world, FragmentState.HELD) == held
        assert FIRST not in world.catalog.audits()


@pytest.mark.slow
async def test_honest_suppliers_pass_audits(autojump_clock: MockClock) -> None:
    async with audited_world(audits_a_day=A_LEAF_A_SECOND, files=2) as world:
        await trio.sleep(A_MINUTE_S)
        audits = world.catalog.audits()
        assert set(audits) == {1, 2, 3, 4, 5}
        assert all(tally.wrong == 0 and tally.proven > 10 for tally in audits.values())


async def quiet(_step: object) -> None:
    return
