"""A supplier that reads its own shelf through, and tells whom it lost something of."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import fragment
from bitdustfs.engine.scrubber import AGAIN_S, BYTES_S, MOST_UNREAD, PASS_S, Scrubber
from bitdustfs.errors import DiskFault
from bitdustfs.model import Code, FragmentName, OwnerId, short
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.shelf import MemoryShelf
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import World
from tests.engine.truth import assert_complete

PING_S = 60.0
OWNER, OTHER = OwnerId(b"1" * 32), OwnerId(b"2" * 32)
CONTENT = bytes(20_000)


def name(number: int) -> FragmentName:
    return FragmentName(bytes([number * 11]) * 32)


def put(shelf: MemoryShelf, number: int, owner: OwnerId = OWNER) -> None:
    shelf.put(owner, name(number), fragment.root(CONTENT), CONTENT)


def names(shelf: MemoryShelf, owner: OwnerId) -> list[FragmentName]:
    return [each for each, _length in shelf.names(owner, b"", 10_000)]


def scrubber(shelf: MemoryShelf, told: list[OwnerId], seed: int = 0) -> Scrubber:
    return Scrubber(shelf, InlineCrunch(), SeededEntropy(seed), told.append)


async def test_everything_is_gone_through_wherever_it_begins(autojump_clock: MockClock) -> None:
    for seed in range(5):
        shelf, told = MemoryShelf(), list[OwnerId]()
        for number in range(20):
            put(shelf, number)
        put(shelf, 1, OTHER)
        for number in (0, 7, 19):
            shelf.damage(OWNER, name(number))
        shelf.damage(OTHER, name(1))
        assert await scrubber(shelf, told, seed).once() == 4
        assert sorted(told) == sorted([OWNER] * 3 + [OTHER])
        assert len(names(shelf, OWNER)) == 17


async def test_disk_that_is_away_is_gone_through_later_and_slowly(autojump_clock: MockClock) -> None:
    shelf, told = MemoryShelf(), list[OwnerId]()
    put(shelf, 1)
    shelf.damage(OWNER, name(1))
    shelf.is_there = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber(shelf, told).run)
        await trio.sleep(AGAIN_S)
        assert not told
        shelf.is_there = True
        await trio.sleep(AGAIN_S)
        assert told == [OWNER]
        put(shelf, 2)
        shelf.damage(OWNER, name(2))
        await trio.sleep(PASS_S * 0.9)
        assert told == [OWNER], "one pass takes its time"
        await trio.sleep(PASS_S * 0.2)
        assert told == [OWNER] * 2
        nursery.cancel_scope.cancel()
    assert BYTES_S <= 1 << 20


@pytest.mark.slow
async def test_what_a_supplier_finds_damaged_is_made_again_without_an_audit(autojump_clock: MockClock) -> None:
    async with World(suppliers=6, code=Code(3, 5), audits_a_day=1).running() as world:
        for number in range(12):
            await world.write(f"file {number}", bytes([number]) * 20_000)
            await world.sync()
        supplier: SupplierNode = world.swarm.suppliers[0]
        owner = world.swarm.identity.owner
        held = names(supplier.memory_shelf, owner)
        for each in held[:: max(1, len(held) // 3)]:
            supplier.memory_shelf.damage(owner, each)
        assert await Scrubber(supplier.shelf, InlineCrunch(), SeededEntropy(), supplier.keeper.note_lost).once() >= 3
        await trio.sleep(PING_S * 3)
        assert_complete(world)


class Failing(MemoryShelf):
    """A disk that cannot read some fragments."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: set[bytes] = set()

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        if name in self.bad:
            raise DiskFault(path=short(name), why="Input/output error")
        return super().scrub(owner, name)


async def test_fragment_that_the_disk_cannot_read_ends_no_pass(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    shelf, told = Failing(), list[OwnerId]()
    for number in range(20):
        put(shelf, number)
    shelf.bad = {bytes(name(number)) for number in range(0, 20, 2)}
    shelf.damage(OWNER, name(19))
    scrubbing = scrubber(shelf, told)
    assert await scrubbing.once() == 1
    assert scrubbing.unread == 10
    assert told == [OWNER] * 11
    assert len(names(shelf, OWNER)) == 19, "what could not be read was removed"


async def test_disk_that_reads_nothing_is_left_alone_for_a_while(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Failing()
    for number in range(20):
        put(shelf, number)
    shelf.bad = {bytes(name(number)) for number in range(20)}
    scrubbing = scrubber(shelf, [])
    with pytest.raises(DiskFault):
        await scrubbing.once()
    assert scrubbing.unread == MOST_UNREAD
