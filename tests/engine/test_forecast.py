"""What would be rebuilt, and why; and why suppliers were replaced, with the numbers of that moment."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.rebuild import lines
from bitdustfs.core.grace import Patience
from bitdustfs.core.report import RebuildReport
from bitdustfs.core.verdicts import unfilled
from bitdustfs.engine.forecast import Forecast
from bitdustfs.model import Code, FragmentRow, FragmentState, Rule, Standing, Supplier, SupplierNo, Verdict
from bitdustfs.testing.suppliers import MemorySuppliers
from bitdustfs.testing.world import World
from tests.engine.unneeded import until

PATIENCE_S = 90.0
CODE = Code(3, 5)
CONTENT = random.Random(8).randbytes(600_000)


@asynccontextmanager
async def world_with_a_file(*, candidates: int = 0) -> AsyncIterator[World]:
    async with World(candidates=candidates, code=CODE, patience=Patience.of(PATIENCE_S)).running() as world:
        await world.write("letter", CONTENT)
        await world.sync()
        yield world


def written(report: RebuildReport) -> str:
    return "\n".join(lines(report))


@pytest.mark.slow
async def test_nothing_is_to_be_rebuilt_where_nothing_is_missing(autojump_clock: MockClock) -> None:
    async with world_with_a_file() as world:
        report = await world.node.forecast()
        assert (report["blocks"], report["fragments"], report["send_bytes"], report["eta_s"]) == (0, 0, 0, 0)
        assert not report["reasons"] and not report["worst"] and not report["verdicts"]
        assert "Nothing is to be rebuilt" in written(report)


@pytest.mark.slow
async def test_lost_supplier_is_told_with_the_numbers_that_decided_it(autojump_clock: MockClock) -> None:
    async with world_with_a_file() as world:
        used = world.catalog.suppliers()[4]
        world.swarm.suppliers[4].kill()
        await until(lambda: world.catalog.suppliers()[4].standing is Standing.LOST)
        await trio.sleep(5)
        report = await world.node.forecast()
        (verdict,) = report["verdicts"]
        assert (verdict["label"], verdict["rule"], verdict["wait_s"], verdict["spare"]) == ("s5", "silence", 90.0, 1)
        assert verdict["away_s"] >= 90.0 and verdict["bytes"] == used.used_bytes
        blocks = len(world.catalog.wanting_blocks(99))
        assert (report["blocks"], report["fragments"], report["possible"]) == (blocks, blocks, 0)
        (reason,) = report["reasons"]
        assert (reason["why"], reason["whose"], reason["fragments"]) == ("silence", "s5", blocks)
        assert reason["since_s"] == verdict["at_s"]
        assert any("nobody can take" in each for each in report["held_up"])
        assert "s5 is lost: silent for longer than we wait" in written(report)
        assert "with 1 fragment to spare we wait for 1m 30s" in written(report)


@pytest.mark.slow
async def test_forecast_names_who_gets_what_from_whom_and_is_what_comes_true(autojump_clock: MockClock) -> None:
    async with world_with_a_file() as world:
        block = world.catalog.blocks()[0]
        world.node.rebuilder.at_work.add(block.block)
        (row,) = (row for row in world.catalog.fragments(block.block) if row.supplier == 2)
        world.catalog.put_fragment(FragmentRow(block.block, row.index, row.supplier, FragmentState.LOST))
        await world.node.drop_cache()
        report = await world.node.forecast()
        (told,) = report["worst"]
        assert told["lacks"] == [{"index": row.index, "why": "proof", "whose": "s2", "to": "s2"}]
        assert (told["held"], told["needed"], told["wanted"]) == (4, 3, 5)
        assert told["sources"] == ["s1", "s3", "s4", "s5"] and not told["is_here"]
        assert report["takers"] == [{"label": "s2", "fragments": 1, "bytes": told["bytes"]}]
        assert (report["send_bytes"], report["fetch_bytes"]) == (told["bytes"], 3 * told["bytes"])
        world.node.rebuilder.at_work.clear()
        await until(lambda: not world.catalog.wanting_blocks(1))
        after = await world.node.forecast()
        assert after["bytes_per_s"] > 0 and not after["fragments"]


@pytest.mark.slow
async def test_who_was_hired_in_whose_place_is_told_after_all_is_made_again(autojump_clock: MockClock) -> None:
    async with world_with_a_file(candidates=2) as world:
        for supplier in world.swarm.suppliers[:2]:
            supplier.kill()
        await until(lambda: sum(row.is_lost for row in world.catalog.suppliers()) == 2)
        await until(lambda: sum(row.is_hired for row in world.catalog.suppliers()) == 5)
        await until(lambda: not world.catalog.wanting_blocks(1))
        world.swarm.suppliers[0].start()
        await until(lambda: world.catalog.suppliers()[0].is_hired)
        report = await world.node.forecast()
        told = [(each["label"], each["rule"], each["instead"]) for each in report["verdicts"]]
        assert told[-1] == ("s1", "return", "")
        assert {each for each in told if each[1] == "silence"} == {("s1", "silence", ""), ("s2", "silence", "")}
        assert {each[2] for each in told if each[1] == "replacement"} == {"s1", "s2"}
        assert "was hired in the place of s1" in written(report)
        assert "s1 came back after" in written(report)


@pytest.mark.slow
async def test_unmounted_volume_tells_what_its_catalog_knows(autojump_clock: MockClock) -> None:
    async with world_with_a_file() as world:
        world.swarm.suppliers[4].kill()
        await until(lambda: bool(world.catalog.wanting_blocks(1)))
        report = await Forecast(world.catalog).rebuild()
        assert not report["mounted"] and report["fragments"] and report["verdicts"] and not report["takers"]
        assert "is not mounted" in written(report)


def test_place_is_filled_once_and_free_again_when_the_next_one_goes() -> None:
    rows = supplier_rows(4)
    one, two, three = (row.supplier for row in rows[:3])
    gone = [verdict(one, Rule.SILENCE), verdict(two, Rule.SILENCE)]
    assert unfilled(gone, rows) == [one, two]
    hired = [*gone, verdict(three, Rule.REPLACEMENT, instead=one)]
    assert unfilled(hired, rows) == [two]
    assert unfilled([*hired, verdict(two, Rule.RETURN)], rows) == []
    assert unfilled([*hired, verdict(two, Rule.RETURN), verdict(one, Rule.FIRE)], rows) == [one]
    assert unfilled([], rows, fruitless=[three]) == [three]


def verdict(supplier: SupplierNo, rule: Rule, instead: SupplierNo = SupplierNo(0)) -> Verdict:  # noqa: B008
    return Verdict(supplier, rule, 0, instead=instead)


def supplier_rows(count: int) -> list[Supplier]:
    rows = enumerate(MemorySuppliers(count).rows(), start=1)
    return [replace(row, supplier=SupplierNo(number), standing=Standing.LOST) for number, row in rows]
