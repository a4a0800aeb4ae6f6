"""What is seen of suppliers becomes their score, is kept over a restart, and decides who gets new fragments."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.score import POOR
from bitdustfs.engine.tracks import NOTE_S
from bitdustfs.model import Code, FragmentState, SupplierNo
from bitdustfs.testing.shelf import flipped
from bitdustfs.testing.world import World

CONTENT = random.Random(5).randbytes(600_000)
FIRST, SECOND = SupplierNo(1), SupplierNo(2)


async def no_report(_step: object) -> None:
    return


@pytest.mark.slow
async def test_score_shows_who_was_away_who_moved_something_and_who_lied(autojump_clock: MockClock) -> None:
    async with World(suppliers=5, code=Code(2, 4)).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        world.swarm.cut(1)
        world.swarm.suppliers[1].shelf.bend = flipped
        await world.node.audit("s2", no_report)
        await trio.sleep(1.05 * NOTE_S)
        away, liar, *good = [each["score"] for each in (await world.status())["suppliers"]]
        assert liar < POOR < away < min(good)


@pytest.mark.slow
async def test_tracks_are_kept_over_a_restart(autojump_clock: MockClock) -> None:
    world = World(suppliers=5, code=Code(3, 5))
    async with world.hired():
        async with world.machine(world.catalog, world.spool):
            await world.write("letter", CONTENT)
            await world.sync()
            await trio.sleep(1.05 * NOTE_S)
        async with world.machine(world.catalog, world.spool):
            await trio.sleep(10)
            track = world.node.tracks.of(FIRST)
            assert NOTE_S <= track.present_s < 2 * NOTE_S
            assert track.bytes_per_s > 0


@pytest.mark.slow
async def test_who_lied_gets_new_fragments_only_where_nobody_else_is(autojump_clock: MockClock) -> None:
    async with World(suppliers=5, code=Code(2, 4)).running() as world:
        world.node.tracks.audited(SECOND, proven=10, wrong=2)
        await world.write("letter", CONTENT)
        await world.sync()
        rows = world.catalog.fragments(world.catalog.blocks()[-1].block)
        assert {row.supplier for row in rows if row.state is FragmentState.HELD} == {1, 3, 4, 5}
