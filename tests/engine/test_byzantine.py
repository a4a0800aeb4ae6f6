"""Suppliers that cheat in every way of testing.byzantine: reads are right, what can be found is found and mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.refusals import ENOUGH_S, ENOUGH_TIMES
from bitdustfs.engine.budget import INBOUND_BYTES, OUTBOUND_BYTES
from bitdustfs.model import Code
from bitdustfs.testing.byzantine import PROVABLE, Trick
from bitdustfs.testing.world import World
from tests.engine.truth import assert_complete

CODE = Code(3, 5)
DICE = random.Random(26)
FILES: Mapping[str, bytes] = {
    "large": DICE.randbytes(300_000),
    "small": DICE.randbytes(4_000),
    "tiny": b"x",
}
READ_S = 60.0  # the deadline of a read


@asynccontextmanager
async def world_with_files(suppliers: int = 7) -> AsyncIterator[World]:
    async with World(suppliers=suppliers, code=CODE).running() as world:
        for name, content in FILES.items():
            await world.write(name, content)
            await world.sync()
        yield world


async def assert_readable(world: World) -> None:
    await world.node.drop_cache()
    for name, content in FILES.items():
        with trio.fail_after(READ_S):
            assert await world.read(name) == content


async def heal(world: World, *labels: str) -> None:
    """Go through suppliers until they are found to have all that counts as held, and nothing is missing."""
    with trio.fail_after(READ_S * 10):
        while True:
            found = [report for label in labels for report in await world.node.audit(label, quiet)]
            if not any(each["wrong"] for each in found) and not world.catalog.wanting_blocks(1):
                return
            await trio.sleep(3)


async def quiet(_step: object) -> None:
    return


@pytest.mark.slow
@pytest.mark.parametrize("trick", Trick)
async def test_reads_are_right_while_n_minus_k_suppliers_cheat(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, trick: Trick
) -> None:
    async with world_with_files(suppliers=5) as world:
        for supplier in world.swarm.suppliers[:2]:
            supplier.conduct.tricks = {trick}
            if trick is Trick.DROP:
                supplier.wipe()
        await assert_readable(world)
        await assert_readable(world)
        memory = world.swarm.memory
        with trio.fail_after(READ_S * 2):  # nothing that was given up is waited for much longer
            while (memory.inbound.free_bytes, memory.outbound.free_bytes) != (INBOUND_BYTES, OUTBOUND_BYTES):
                await trio.sleep(1)


@pytest.mark.slow
@pytest.mark.parametrize("trick", [trick for trick in Trick if trick in PROVABLE])
async def test_what_audits_can_prove_is_made_again_with_honest_suppliers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, trick: Trick
) -> None:
    async with world_with_files() as world:
        for supplier in world.swarm.suppliers[:2]:
            supplier.conduct.tricks = {trick}
            if trick is Trick.DROP:
                supplier.wipe()
        await heal(world, "s1", "s2")
        assert_complete(world)
        await assert_readable(world)


@pytest.mark.slow
async def test_fragments_that_a_failing_disk_never_gives_are_made_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_with_files() as world:
        supplier = world.swarm.suppliers[0]
        supplier.conduct.tricks = {Trick.FAULT}
        supplier.conduct.touches = lambda name: name[0] < 0x80
        for _ in range(ENOUGH_TIMES - 1):
            (found,) = await world.node.audit("s1", quiet)
            assert found["refused"] and not found["wrong"] and not found["silent"]
            autojump_clock.jump(ENOUGH_S / (ENOUGH_TIMES - 1))
            await trio.sleep(5)
        (found,) = await world.node.audit("s1", quiet)
        assert found["wrong"]
        await heal(world, "s1")
        assert_complete(world)
