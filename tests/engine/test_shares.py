"""How many bytes are how safe: they add up, and where it is not known they count as less safe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from bitdustfs.core.grace import Patience
from bitdustfs.core.report import StatusReport
from bitdustfs.engine import shares
from bitdustfs.engine.shares import Lacks, Shares, shared_out
from bitdustfs.model import BlockNo, Code, FragmentState
from bitdustfs.testing.world import World

CONTENT = bytes(range(256)) * 2000
SIZE = len(CONTENT)
sizes = st.integers(0, 1000)


@given(sizes, sizes, sizes, sizes, st.none() | sizes, st.booleans(), st.booleans())
def test_every_byte_is_in_one_share(
    total: int, local: int, degraded: int, lost: int, unsafe: int | None, much: bool, unsure: bool
) -> None:
    lacking = Lacks(degraded_bytes=degraded, lost_bytes=lost, is_too_much=much)
    found = shared_out(total, local, lacking, unsafe, is_unsure=unsure)
    parts = (found.safe, found.placed, found.degraded, found.local, found.lost)
    assert sum(parts) == total
    assert min(parts) >= 0
    assert not found.safe or not (unsafe is None or much or unsure)
    assert found.safe <= max(0, total - local - degraded - lost)


def test_bytes_that_no_safe_head_names_are_placed() -> None:
    assert shared_out(100, 10, Lacks(), 30, is_unsure=False) == Shares(safe=60, placed=30, local=10)
    assert shared_out(100, 10, Lacks(), None, is_unsure=False) == Shares(placed=90, local=10)
    assert shared_out(100, 0, Lacks(), 30, is_unsure=True) == Shares(degraded=100)


@pytest.mark.slow
async def test_bytes_that_are_lost_are_told_as_lost_however_many_others_are_degraded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(code=Code(3, 5), patience=Patience.of(1e6)).running() as world:
        for name in ("gone", "thin2", "thinner"):
            await world.write(name, CONTENT[len(name) :])
            await world.sync()
        world.node.rebuilder.complete = idle  # type: ignore[method-assign,assignment]
        for number, left in ((1, 2), (2, 3), (3, 3)):
            for row in world.catalog.fragments(BlockNo(number))[left:]:
                world.catalog.put_fragment(replace(row, state=FragmentState.LOST))
        total, gone = 3 * SIZE - len("gonethin2thinner"), SIZE - len("gone")
        for most in (10, 1):
            monkeypatch.setattr(shares, "MOST_BELOW", most)
            assert shares_of(await world.status()) == Shares(lost=gone, degraded=total - gone)
        monkeypatch.setattr(shares, "MOST_BELOW", 0)
        assert shares_of(await world.status()) == Shares(lost=total)


async def test_volume_is_safe_still_while_only_what_was_let_go_waits_for_a_head(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("kept", CONTENT)
        await world.sync()
        assert await states(world) == ("safe", "safe")
        head = world.node.replica.safe_change
        block = world.catalog.block(BlockNo(1))
        assert block is not None
        with world.node.journal.operation():
            world.catalog.put_block(replace(block, length=block.length + 1))  # as the count of what lies dead in it
        assert not world.node.replica.is_current
        assert await states(world) == ("safe", "safe")
        with world.node.journal.operation():
            world.catalog.drop_fragment(BlockNo(1), 4, world.catalog.fragments(BlockNo(1))[4].supplier)
            world.catalog.put_fragment(replace(world.catalog.fragments(BlockNo(1))[3], index=4))
        assert await states(world) == ("placed", "safe")  # no head knows that place
        assert world.node.replica.safe_change == head
        await world.sync()
        assert await states(world) == ("safe", "safe")
        with world.node.journal.operation():  # as a rebuilt one, of what a head has as lost
            world.catalog.put_fragment(replace(world.catalog.fragments(BlockNo(1))[0], index=3))
        assert await states(world) == ("placed", "safe")
        await world.sync()
        assert await states(world) == ("safe", "safe")


async def states(world: World) -> tuple[str, str]:
    """Of the volume, and of its one file."""
    return (await world.status())["state"], (await world.node.reporter.status("/kept"))["state"]


def shares_of(status: StatusReport) -> Shares:
    return Shares(
        safe=status["bytes_safe"],
        placed=status["bytes_placed"],
        degraded=status["bytes_degraded"],
        local=status["bytes_local"],
        lost=status["bytes_lost"],
    )


async def both(world: World, path: str) -> tuple[Shares, Shares]:
    """Of the volume, and of what lies at a path."""
    return shares_of(await world.status()), shares_of(await world.node.status(path))


@pytest.mark.slow
async def test_bytes_become_safe_and_degraded_and_lost_with_their_fragments(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5), patience=Patience.of(1e6)).running() as world:
        await world.write("first", CONTENT)
        assert await both(world, "/first") == (Shares(local=SIZE), Shares(local=SIZE))
        await world.sync()
        assert await both(world, "/first") == (Shares(safe=SIZE), Shares(safe=SIZE))
        await world.write("second", CONTENT[::-1])
        found = await both(world, "/second")
        assert found == (Shares(safe=SIZE, local=SIZE), Shares(local=SIZE))
        await world.sync()
        await world.node.drop_cache()
        world.node.rebuilder.complete = idle  # type: ignore[method-assign,assignment]
        rows = world.catalog.fragments(BlockNo(1))
        for row in rows[:2]:
            world.catalog.put_fragment(replace(row, state=FragmentState.LOST))
        assert await both(world, "/first") == (Shares(safe=SIZE, degraded=SIZE), Shares(degraded=SIZE))
        world.catalog.put_fragment(replace(rows[2], state=FragmentState.LOST))
        assert await both(world, "/first") == (Shares(safe=SIZE, lost=SIZE), Shares(lost=SIZE))


@pytest.mark.slow
async def test_bytes_are_placed_until_a_head_names_them(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5)).running() as world:
        await world.write("first", CONTENT)
        await world.sync()
        await world.write("second", CONTENT[::-1])
        while world.node.files.dirty_totals()[0]:
            await trio.sleep(0.05)
        seen = [await both(world, "/second")]
        while seen[-1][0].safe != 2 * SIZE:
            await trio.sleep(0.05)
            seen.append(await both(world, "/second"))
        assert seen[0] == (Shares(safe=SIZE, placed=SIZE), Shares(placed=SIZE))


@pytest.mark.slow
async def test_status_tells_how_fast_repair_goes_and_how_long_it_takes(autojump_clock: MockClock) -> None:
    async with World(code=Code(3, 5), candidates=1, patience=Patience.of(60.0)).running() as world:
        for number in range(30):
            await world.write(f"file {number}", CONTENT[number:])
        await world.sync()
        assert (await world.status())["repair_eta_s"] == 0
        world.swarm.suppliers[0].kill()
        told: list[StatusReport] = []
        while not told or told[-1]["missing_fragments"] or told[-1]["suppliers"][0]["state"] != "lost":
            await trio.sleep(0.02)
            told.append(await world.status())
        under_way = [each for each in told if each["repair_bytes_per_s"] and each["missing_bytes"]]
        assert under_way
        for each in under_way:
            left_s = each["missing_bytes"] / each["repair_bytes_per_s"]
            assert each["repair_eta_s"] == round(left_s)
        assert [each["repairing"] for each in told if each["repairing"]]
        lost = told[-1]["suppliers"][0]
        assert world.swarm.wall.now_ns() // 10**9 >= lost["since_s"] > 0


async def idle(_number: object) -> int:
    return 0
