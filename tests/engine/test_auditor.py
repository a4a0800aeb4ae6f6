"""Suppliers that lost or changed what they hold, and are found out without a read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core.grace import DAY_S
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.auditor import PAGE, Auditor
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.tracks import Tracks
from bitdustfs.model import LEAF_BYTES, BlockNo, BlockRow, Code, FragmentRow, FragmentState, SupplierNo
from bitdustfs.ports import Leaves
from bitdustfs.testing.clock import FakeWall
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.shelf import flipped
from bitdustfs.testing.world import World
from tests.edges.catalog_rows import SUPPLIER, block, fragment

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


class Mute:
    """A Proving whose one supplier is reachable, and does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[BlockNo, int]] = []
        self.answers = False

    def reachable(self) -> frozenset[SupplierNo]:
        return frozenset({FIRST})

    def refusals(self, _held: FragmentRow) -> int:
        return 0

    async def shows(self, _supplier: SupplierNo, block: BlockRow, _index: int, first: int, _count: int) -> bool:
        self.asked.append((block.block, first))
        if not self.answers:
            await trio.sleep_forever()
        return True


@pytest.mark.slow
async def test_each_of_several_fragments_of_a_block_is_gone_through(autojump_clock: MockClock) -> None:
    catalog, leaves = SqliteCatalog(":memory:", create=True), Mute()
    leaves.answers = True
    catalog.put_supplier(SUPPLIER)
    for number in range(1, PAGE + 1):
        catalog.put_block(block(number))
        catalog.put_fragment(fragment(number, 0))
    catalog.put_fragment(fragment(PAGE, 1))  # a page ends between it and the other one
    journal = Journal(catalog)
    tracks = Tracks(catalog, journal)
    auditor = Auditor(catalog, journal, leaves, SeededEntropy(1), FakeWall(), Courtesy(lambda: False), tracks)
    assert (await auditor.scan(catalog.suppliers()[0])).fragments == PAGE + 1
    assert [each[0] for each in leaves.asked] == [*range(1, PAGE + 1), PAGE]


@pytest.mark.slow
async def test_leaf_that_was_not_answered_is_asked_for_again_until_it_is(autojump_clock: MockClock) -> None:
    catalog, leaves = SqliteCatalog(":memory:", create=True), Mute()
    catalog.put_supplier(SUPPLIER)
    for number in range(1, 40):
        catalog.put_block(replace(block(number), length=40 * LEAF_BYTES))
        catalog.put_fragment(fragment(number, 0))
    journal, courtesy = Journal(catalog), Courtesy(lambda: False)
    tracks = Tracks(catalog, journal)
    auditor = Auditor(catalog, journal, leaves, SeededEntropy(1), FakeWall(), courtesy, tracks, audits_a_day=48)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auditor.run)
        await trio.sleep(DAY_S)
        assert len(leaves.asked) > 20
        assert len(set(leaves.asked)) == 1
        assert FIRST not in catalog.audits()
        leaves.answers = True
        await trio.sleep(DAY_S)
        assert len(set(leaves.asked)) > 20
        assert catalog.audits()[FIRST].wrong == 0
        nursery.cancel_scope.cancel()
