"""Blocks that lack fragments are completed from verified ones, and only with what their recorded roots name."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import erasure, galois
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.rebuilder import Rebuilder
from bitdustfs.engine.releases import PATIENCE_S
from bitdustfs.errors import PeerRefused
from bitdustfs.model import BlockNo, BlockRow, Code, FragmentName, FragmentRow, FragmentState, Root, SupplierNo
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.suppliers import MemorySuppliers
from tests.engine.volume import Volume

CONTENT = random.Random(12).randbytes(700_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


@pytest.mark.slow
async def test_rebuild_never_sends_a_fragment_with_a_wrong_root(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        block = volume.catalog.block(volume.catalog.blocks_of(ino)[0])
        assert block is not None
        held = {r.index for r in volume.catalog.fragments(block.block) if r.state is FragmentState.HELD}
        (missing,) = set(range(5)) - held
        wrong = tuple(Root(bytes(32)) if i == missing else root for i, root in enumerate(block.roots))
        volume.catalog.put_block(replace(block, roots=wrong))
        puts = volume.remote.puts
        volume.remote.gone = set()
        await trio.sleep(60)
        assert volume.remote.puts == puts
        assert volume.catalog.held(block.block) == 4
        volume.catalog.put_block(block)
        await trio.sleep(60)
        assert volume.catalog.held(block.block) == 5


async def test_lost_fragment_goes_to_a_supplier_without_any_if_there_is_one(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(suppliers=6)
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        volume.remote.forgetting = {1}
        await volume.files.read(ino, 0, len(CONTENT))
        await trio.sleep(30)
        block = volume.catalog.blocks_of(ino)[0]
        held = {r.supplier for r in volume.catalog.fragments(block) if r.state is FragmentState.HELD}
        assert held == {2, 3, 4, 5, 6}


@pytest.mark.slow
async def test_rebuild_needs_no_more_than_k_suppliers(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        ino = await volume.write_all(CONTENT)
        with trio.fail_after(120):
            await volume.writer.flush()
        await volume.forget()  # with one fragment less, a copy would be kept, and used
        volume.remote.gone = {1, 2}
        await trio.sleep(60)
        block = volume.catalog.blocks_of(ino)[0]
        assert volume.catalog.held(block) == 4
        volume.remote.gone = {2}
        await trio.sleep(60)
        assert volume.catalog.held(block) == 5


async def test_block_that_others_took_up_while_the_rebuilder_pauses_stays_theirs(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        (block,) = volume.catalog.blocks_of(ino)
        paused = list[bool]()

        async def pause(_courtesy: Courtesy, _busy_s: float, _spare: int) -> None:
            paused.append(block in volume.rebuilder.at_work)
            volume.rebuilder.at_work.add(block)  # as the drainer does

        monkeypatch.setattr(Courtesy, "pause", pause)
        volume.remote.gone = set()
        await trio.sleep(60)
        assert volume.catalog.held(block) == 5
        assert paused == [False]
        assert block in volume.rebuilder.at_work


@pytest.mark.slow
async def test_two_that_lose_everything_do_not_hand_a_fragment_to_and_fro(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=7)
    async with volume.running():
        volume.remote.gone = {6, 7}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        volume.remote.gone = set()
        volume.remote.swapping = {1, 6}
        for _ in range(4):
            await volume.forget()
            await volume.files.read(ino, 0, len(CONTENT))
            await trio.sleep(30)
        block = volume.catalog.blocks_of(ino)[0]
        held = {r.supplier for r in volume.catalog.fragments(block) if r.state is FragmentState.HELD}
        assert held == {2, 3, 4, 5, 7}


class Refusing(MemorySuppliers):
    """Some have much room, as they say, and take nothing: their disk was pulled out, or they lie."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.refusing: set[int] = set()
        self.refused = 0

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        if supplier in self.refusing:
            await trio.sleep(self.delay_s)
            self.refused += 1
            raise PeerRefused(peer=f"s{supplier}", what="not now")
        await super().put(supplier, name, root, body)


@pytest.mark.slow
async def test_supplier_that_takes_nothing_keeps_no_block_from_the_others(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=7)
    volume.remote = remote = Refusing(7)
    volume.start()
    async with volume.running():
        remote.gone = {6, 7}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        remote.gone, remote.refusing, remote.forgetting = set(), {6}, {1}
        await volume.files.read(ino, 0, len(CONTENT))
        await trio.sleep(60)
        block = volume.catalog.blocks_of(ino)[0]
        held = {r.supplier for r in volume.catalog.fragments(block) if r.state is FragmentState.HELD}
        assert held == {2, 3, 4, 5, 7}


@pytest.mark.slow
async def test_fragment_is_given_back_as_often_as_it_is_not_taken(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.remote = remote = Refusing(5)
    volume.start()
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        remote.forgetting, remote.refusing = {1}, {1}
        await volume.files.read(ino, 0, len(CONTENT))
        await trio.sleep(60)
        block = volume.catalog.blocks_of(ino)[0]
        assert volume.catalog.held(block) == 4
        remote.forgetting, remote.refusing = set(), set()
        await trio.sleep(120)
        assert volume.catalog.held(block) == 5


def used(volume: Volume) -> list[int]:
    return [row.used_fragments for row in volume.catalog.suppliers()]


@pytest.mark.slow
async def test_fragment_of_a_supplier_that_comes_back_meanwhile_stays(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=6)
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await trio.sleep(1)
        (block,) = volume.catalog.blocks_of(ino)
        first = volume.catalog.fragments(block)[0]
        assert first.supplier == 1
        volume.remote.delay_s = 10
        with volume.journal.operation():
            volume.catalog.put_fragment(replace(first, state=FragmentState.ABSENT))
        await trio.sleep(25)  # it is on its way to somebody else
        with volume.journal.operation():
            volume.catalog.put_fragment(first)
        await trio.sleep(60)
        held = [r.supplier for r in volume.catalog.fragments(block) if r.state is FragmentState.HELD and r.index == 0]
        assert held == [1, 6]
        assert used(volume) == [1] * 6


async def test_lost_fragment_is_not_counted_twice(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        volume.remote.forgetting = {1}
        await volume.files.read(ino, 0, len(CONTENT))
        volume.remote.forgetting = set()
        await trio.sleep(60)
        assert volume.catalog.held(volume.catalog.blocks_of(ino)[0]) == 5
        assert used(volume) == [1] * 5


async def test_fragment_that_is_wanted_again_is_sent_although_nothing_may_be_let_go_now(
    autojump_clock: MockClock,
) -> None:
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        await volume.write_all(CONTENT)
        await volume.flush()
        block, name = missing_at_the_fifth(volume)
        volume.releases.may_release = lambda: False  # until a head is safe, which may need this fragment
        volume.catalog.put_releases([(SupplierNo(5), name)], 0)  # a send of before was given up
        volume.remote.gone = set()
        await trio.sleep(PATIENCE_S)
        assert volume.catalog.held(block.block) == 5
        volume.releases.may_release = lambda: True
        await trio.sleep(2000)
        assert (SupplierNo(5), name) in volume.remote.stored


async def test_fragment_that_an_earlier_process_may_have_asked_to_be_let_go_is_not_sent_at_once(
    autojump_clock: MockClock,
) -> None:
    """That DELETE may still be under way, and would hit it."""
    volume = Volume()
    async with volume.running():
        volume.remote.gone = {5}
        await volume.write_all(CONTENT)
        await volume.flush()
        block, name = missing_at_the_fifth(volume)
        volume.catalog.put_releases([(SupplierNo(5), name)], 0)
    volume.start()
    volume.releases.may_release = lambda: False  # as after each start
    volume.remote.gone = set()
    async with volume.running():
        await trio.sleep(PATIENCE_S - 1)
        assert volume.catalog.held(block.block) == 4
        await trio.sleep(PATIENCE_S)
        assert volume.catalog.held(block.block) == 5


async def test_fragment_that_is_wanted_again_and_refused_is_still_let_go_where_it_was(
    autojump_clock: MockClock,
) -> None:
    volume = Volume(suppliers=6)
    volume.remote = remote = Refusing(6)
    volume.start()
    async with volume.running():
        remote.gone = {5, 6}
        await volume.write_all(CONTENT)
        await volume.flush()
        block, name = missing_at_the_fifth(volume)
        remote.stored[SupplierNo(5), name] = b"of before"
        volume.releases.may_release = lambda: False
        volume.releases.safe_change = lambda: volume.catalog.last_change
        volume.catalog.put_releases([(SupplierNo(5), name)], 0)
        await trio.sleep(PATIENCE_S)
        remote.refusing, remote.gone = {5}, {6}
        await trio.sleep(PATIENCE_S)
        assert remote.refused
        remote.gone = set()
        await trio.sleep(PATIENCE_S)
        assert volume.catalog.held(block.block) == 5
        volume.releases.may_release = lambda: True
        await trio.sleep(PATIENCE_S)
        assert (SupplierNo(5), name) not in remote.stored


async def test_block_that_is_to_have_very_many_fragments_takes_no_more_memory_than_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came with the line of a thief; the last of them is meant for somebody, and each is as large as the block."""
    monkeypatch.setattr(galois, "sums_of_products", lambda _rows, _pieces: None)  # its memory is not counted
    volume = Volume(code=Code(1, 5))
    async with volume.running():
        volume.remote.gone = {5}
        await volume.write_all(CONTENT)
        await volume.flush()
        block, _name = missing_at_the_fifth(volume)
        with volume.journal.operation():
            for row in volume.catalog.fragments(block.block):
                if row.supplier != 1:
                    volume.catalog.drop_fragment(block.block, row.index, row.supplier)
            volume.catalog.put_block(replace(block, code=Code(1, 255), roots=block.roots[:1]))
            for supplier in range(2, 6):
                meant = FragmentRow(block.block, 250 + supplier - 1, SupplierNo(supplier), FragmentState.WANTED)
                volume.catalog.put_fragment(meant)
        volume.remote.gone = set()
        tracemalloc.start()
        try:
            await trio.sleep(PATIENCE_S)
            assert tracemalloc.get_traced_memory()[1] < 16 * block.length
        finally:
            tracemalloc.stop()
        assert volume.catalog.held(block.block) == 5


def missing_at_the_fifth(volume: Volume) -> tuple[BlockRow, FragmentName]:
    """The only block, and what the fifth supplier would know the fragment by that it lacks."""
    (wanting,) = volume.catalog.wanting_blocks(9)
    block = volume.catalog.block(wanting.block)
    assert block is not None
    (missing,) = set(range(5)) - {row.index for row in volume.catalog.fragments(block.block)}
    name = volume.releases.name(block, missing, SupplierNo(5))
    assert name is not None
    return block, name


class Counting(Rebuilder):
    """Notes which blocks it takes up."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(
            volume.catalog,
            volume.journal,
            volume.fragments,
            volume.remote,
            volume.uploads,
            volume.releases,
            InlineCrunch(),
            VolumeSecrets(b"v" * 32),
            Courtesy(lambda: False),
            Copies(volume.catalog, volume.files, InlineCrunch(), VolumeSecrets(b"v" * 32)),
        )
        self.taken_up: list[BlockNo] = []
        self.on_first: Callable[[], None] = lambda: None

    @property
    def looks(self) -> int:
        return len(self.taken_up)

    async def complete(self, number: BlockNo) -> int:
        self.taken_up.append(number)
        if len(self.taken_up) == 1:
            self.on_first()
        return await super().complete(number)


@pytest.mark.slow
async def test_block_that_becomes_more_urgent_than_all_others_is_made_next(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.rebuilder = rebuilder = Counting(volume)
    async with volume.running():
        volume.remote.gone = {5}
        for start in range(9):
            await volume.write_all(CONTENT[start : start + 200_000])
            await volume.flush()
        blocks = [wanting.block for wanting in volume.catalog.wanting_blocks(100)]
        assert len(blocks) == 9

        def endanger() -> None:
            row = next(r for r in volume.catalog.fragments(blocks[-1]) if r.state is FragmentState.HELD)
            with volume.journal.operation():
                volume.catalog.put_fragment(replace(row, state=FragmentState.LOST))

        rebuilder.on_first = endanger
        volume.remote.gone = set()
        await trio.sleep(120)
        assert not volume.catalog.wanting_blocks(1)
        assert blocks[-1] in rebuilder.taken_up[:3]


@pytest.mark.slow
async def test_blocks_that_nobody_could_take_anything_of_are_not_looked_at(autojump_clock: MockClock) -> None:
    volume = Volume()
    volume.rebuilder = rebuilder = Counting(volume)
    async with volume.running():
        volume.remote.gone = {5}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await trio.sleep(60)
        assert rebuilder.looks == 0
        volume.remote.gone = set()
        await trio.sleep(60)
        assert volume.catalog.held(volume.catalog.blocks_of(ino)[0]) == 5


@pytest.mark.slow
async def test_rebuild_fetches_k_fragments_and_no_more_wherever_the_block_ends(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=6)
    async with volume.running():
        volume.remote.gone = {6}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        (number,) = volume.catalog.blocks_of(ino)
        block = volume.catalog.block(number)
        assert block is not None and block.length % block.code.k, "the last primary fragment is as long as the others"
        volume.remote.gets.clear()
        volume.remote.gone = {3}
        (row,) = (row for row in volume.catalog.fragments(number) if row.supplier == 3)
        volume.catalog.put_fragment(replace(row, state=FragmentState.ABSENT))
        await trio.sleep(60)
        assert volume.catalog.held(number) == 5
        length = erasure.fragment_length(block.length, block.code.k)
        assert sum(count for _supplier, count in volume.remote.gets) == block.code.k * length
