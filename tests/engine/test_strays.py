"""Fragments that suppliers hold and the catalog does not know of are found before a read fails."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import erasure
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.strays import DENIED_S
from bitdustfs.errors import BitdustError, BlockLost, ReadOnly
from bitdustfs.model import BlockNo, Code, FragmentName, FragmentState, Ino, Standing, SupplierNo
from tests.engine.volume import Volume

CONTENT = random.Random(6).randbytes(200_000)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


async def forgetful(volume: Volume, *, keep: int) -> tuple[Ino, BlockNo]:
    """A file whose block the catalog knows only `keep` fragments of, as one that came back from suppliers may."""
    ino = await volume.write_all(CONTENT)
    await volume.flush()
    (block,) = volume.catalog.blocks_of(ino)
    await trio.sleep(1)
    await volume.forget()  # what is short of fragments would be kept here
    for row in volume.catalog.fragments(block)[keep:]:
        volume.catalog.drop_fragment(block, row.index, row.supplier)
        volume.catalog.charge_supplier(row.supplier, -1, -1)
    volume.journal.commit()
    return ino, block


async def test_fragments_that_the_catalog_does_not_know_are_found(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino, block = await forgetful(volume, keep=1)
    async with volume.running(upload=False):
        volume.files.open(ino)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
        held = [row for row in volume.catalog.fragments(block) if row.state is FragmentState.HELD]
        assert len(held) == 3
        assert [row.used_fragments for row in volume.catalog.suppliers()] == [
            1 if row.supplier in {each.supplier for each in held} else 0 for row in volume.catalog.suppliers()
        ]
        await volume.forget()
        asked = len(volume.remote.gets)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
        assert len(volume.remote.gets) - asked <= 3  # it knows now


async def test_stray_of_which_only_the_first_leaf_is_genuine_does_not_count_as_held(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume()
    async with volume.running():
        ino, number = await forgetful(volume, keep=2)
    async with volume.running(upload=False):
        volume.files.open(ino)
        volume.remote.rotten = {3, 4}
        block = volume.catalog.block(number)
        assert block is not None
        third = 2 * erasure.fragment_length(block.length, block.code.k)
        assert await volume.fragments.block_range(block, third, third + 100)  # no more than its first leaf
        held = {row.supplier for row in volume.catalog.fragments(number) if row.state is FragmentState.HELD}
        assert held == {1, 2, 5}


async def test_fragments_beyond_an_n_that_was_lowered_are_found(autojump_clock: MockClock) -> None:
    volume = Volume(code=Code(3, 6), suppliers=6)
    async with volume.running():
        ino, number = await forgetful(volume, keep=1)
        block = volume.catalog.block(number)
        assert block is not None
        with volume.journal.operation():
            volume.catalog.put_block(replace(block, code=Code(3, 4)))
    async with volume.running(upload=False):
        volume.files.open(ino)
        volume.remote.gone = {2, 3}  # with two of the four that are wished
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
        held = {row.index for row in volume.catalog.fragments(number) if row.state is FragmentState.HELD}
        assert len(held) == 3 and max(held) >= 4


async def test_volume_that_takes_no_changes_finds_them_too(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino, _ = await forgetful(volume, keep=2)
    async with volume.running(upload=False):
        volume.journal.forbid(ReadOnly(what="a test"))
        volume.files.open(ino)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT


async def test_who_has_nothing_is_asked_again_only_after_a_while(autojump_clock: MockClock) -> None:
    volume = Volume()
    async with volume.running():
        ino, _ = await forgetful(volume, keep=2)
    async with volume.running(upload=False):
        volume.files.open(ino)
        volume.remote.forgetting = {3, 4, 5}
        await fails(volume, ino)
        volume.remote.forgetting = set()
        await trio.sleep(DENIED_S / 2)
        await fails(volume, ino)
        await trio.sleep(DENIED_S)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT


async def test_fragment_that_was_proven_lost_counts_again_when_nothing_else_is_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume()
    async with volume.running():
        ino, _ = await forgetful(volume, keep=5)
    async with volume.running(upload=False):
        volume.files.open(ino)
        volume.remote.flipping = {1, 2, 3}
        await fails(volume, ino)
        volume.remote.flipping = set()
        await trio.sleep(2 * DENIED_S)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT


async def fails(volume: Volume, ino: Ino) -> None:
    with pytest.raises(BitdustError) as failed:
        await volume.files.read(ino, 0, len(CONTENT))
    assert isinstance(failed.value, BlockLost)


async def test_what_a_supplier_has_that_is_away_is_not_forgotten_for_what_is_found(autojump_clock: MockClock) -> None:
    volume = Volume(suppliers=6)
    async with volume.running():
        ino, number = await forgetful(volume, keep=5)
    async with volume.running(upload=False):
        block, (first, *_) = volume.catalog.block(number), volume.catalog.fragments(number)
        assert block is not None
        nodes = {row.supplier: row.node for row in volume.catalog.suppliers()}

        def place(supplier: SupplierNo) -> tuple[SupplierNo, FragmentName]:
            return supplier, VolumeSecrets(b"v" * 32).fragment_name(block.block_id, first.index, nodes[supplier])

        volume.remote.stored[place(SupplierNo(6))] = volume.remote.stored[place(first.supplier)]
        volume.remote.gone = {1, 2, 3}
        for row in volume.catalog.fragments(number)[:3]:
            volume.catalog.put_fragment(replace(row, state=FragmentState.ABSENT))
        volume.files.open(ino)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
        rows = {row.supplier: row.state for row in volume.catalog.fragments(number) if row.index == first.index}
        assert rows == {1: FragmentState.ABSENT, 6: FragmentState.HELD}


@pytest.mark.parametrize("standing", [Standing.FIRED, Standing.CANDIDATE])
async def test_what_is_found_with_one_whom_no_head_names_is_read_and_does_not_count_as_held(
    autojump_clock: MockClock, standing: Standing
) -> None:
    volume = Volume()
    async with volume.running():
        ino, number = await forgetful(volume, keep=2)
    async with volume.running(upload=False):
        known = {row.supplier for row in volume.catalog.fragments(number)}
        for row in volume.catalog.suppliers():
            if row.supplier not in known:
                volume.catalog.put_supplier(replace(row, standing=standing))
        volume.files.open(ino)
        assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
        assert {row.supplier for row in volume.catalog.fragments(number)} == known
