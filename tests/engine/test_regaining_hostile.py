"""A line of a thief, who would have chunks of ours lie in blocks that are not what they seem."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from bitdustfs.core import block as blocks
from bitdustfs.core import erasure, galois
from bitdustfs.core import fragment as fragments
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.regaining import Here, Regaining
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BadFormat
from bitdustfs.model import (
    CHUNK_BYTES,
    FIRST_BROUGHT,
    BlockId,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Code,
    FragmentState,
    Suite,
    SupplierNo,
)
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.suppliers import MemorySuppliers
from tests.edges.catalog_rows import CODE, fragment

SECRETS = VolumeSecrets(b"v" * 32)
CONTENTS = [b"one" * 4000, b"two" * 5000]
POOR = BlockNo(1)  # of ours; two suppliers have their fragments of it, and others may
SOUND = BlockNo(2)  # of ours
THEIRS = BlockNo(77)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Setting:
    """Our catalog has a block of which few fragments are sure to be there, and theirs the same chunks in another."""

    def __init__(self, path: Path) -> None:
        self.suppliers = MemorySuppliers(CODE.n)
        self.ours = SqliteCatalog(path / "ours", create=True)
        self.theirs = SqliteCatalog(path / "theirs", create=True)
        for row in self.suppliers.rows():
            self.ours.put_supplier(row)
            self.theirs.put_supplier(row)
        self.put(self.ours, POOR, b"p", CONTENTS)
        self.put(self.ours, SOUND, b"s", [bytes(len(each)) for each in CONTENTS])
        journal = Journal(self.ours)
        releases = Releases(self.ours, journal, self.suppliers, SECRETS)
        doubted = {POOR: CODE.n - CODE.k + 1}
        self.grafting = Grafting(self.ours, self.theirs, journal, releases, lambda: None, doubted=doubted)

    def put(
        self, catalog: SqliteCatalog, number: BlockNo, letter: bytes, contents: list[bytes], code: Code = CODE
    ) -> BlockRow:
        """A block with its chunks, at all suppliers."""
        block_id = BlockId(letter * 32)
        content, places = blocks.build(SECRETS.seal_of(block_id, 1, Suite.AES_256_GCM), contents, k=code.k)
        made = erasure.encode(content, code)
        length, roots = blocks.layout([len(each) for each in contents])[1], tuple(map(fragments.root, made))
        row = BlockRow(number, block_id, 1, Suite.AES_256_GCM, code, length, roots)
        catalog.put_block(row)
        for index, each in enumerate(made):
            catalog.put_fragment(fragment(number, index, index + 1))
            self.store(row, index, bytes(each))
        catalog.put_chunks(
            ChunkRow(
                ChunkNo(number * 100 + place.slot),
                SECRETS.fingerprint(each),
                number,
                place.slot,
                place.offset,
                place.length,
            )
            for each, place in zip(contents, places, strict=True)
        )
        return row

    def store(self, row: BlockRow, index: int, content: bytes) -> None:
        name = SECRETS.fragment_name(row.block_id, index, self.suppliers.rows()[index].node)
        self.suppliers.stored[SupplierNo(index + 1), name] = content

    async def regain(self) -> None:
        await self.grafting.prepare()
        crunch = InlineCrunch()
        elsewhere = Fragments(self.theirs, Journal(self.theirs), self.suppliers, crunch, SECRETS)
        regaining = Regaining(
            self.ours, self.theirs, elsewhere, self.grafting, self.grafting.operation, crunch, SECRETS
        )
        assert self.grafting.unsure() == {POOR}
        await regaining.run(self.grafting.unsure())

    async def regain_here(self) -> None:
        """The same from our own catalog."""
        here, journal, crunch = Here(self.ours, {POOR: CODE.n - CODE.k + 1}), Journal(self.ours), InlineCrunch()
        elsewhere = Fragments(self.ours, journal, self.suppliers, crunch, SECRETS)
        regaining = Regaining(self.ours, self.ours, elsewhere, here, self.grafting.operation, crunch, SECRETS)
        unsure = await here.unsure([POOR, SOUND])
        assert unsure == {POOR}
        await regaining.run(unsure)

    def brought(self, row: BlockRow) -> None:
        """Have our catalog call the chunks of a block as the poor ones, by the word of another line."""
        like, own = self.ours.chunks_of_block(POOR), self.ours.chunks_of_block(row.block)
        self.ours.drop_chunks([each.chunk for each in own])
        self.ours.put_chunks(
            replace(each, chunk=ChunkNo(FIRST_BROUGHT + each.chunk), fingerprint=poor.fingerprint)
            for poor, each in zip(like, own, strict=True)
        )

    def lie_in(self) -> set[BlockId]:
        """The blocks in which the chunks of the poor one lie now."""
        rows = [self.ours.chunk(ChunkNo(POOR * 100 + slot)) for slot in range(len(CONTENTS))]
        found = [self.ours.block(row.block) for row in rows if row is not None]
        return {row.block_id for row in found if row is not None}


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    with closing(made.ours), closing(made.theirs):
        yield made


async def test_chunks_lie_where_the_other_line_has_them(autojump_clock: MockClock, setting: Setting) -> None:
    row = setting.put(setting.theirs, THEIRS, b"t", CONTENTS)
    await setting.regain()
    assert setting.lie_in() == {row.block_id}


async def test_block_of_which_fewer_fragments_are_there_than_it_takes_regains_nothing(
    autojump_clock: MockClock, setting: Setting
) -> None:
    row = setting.put(setting.theirs, THEIRS, b"t", [CONTENTS[0], CONTENTS[1], b"x" * 200_000])
    for index in range(1, CODE.n):
        name = SECRETS.fragment_name(row.block_id, index, setting.suppliers.rows()[index].node)
        del setting.suppliers.stored[SupplierNo(index + 1), name]
    await setting.regain()
    assert setting.lie_in() == {BlockId(b"p" * 32)}


async def test_block_whose_fragments_do_not_belong_together_regains_nothing(
    autojump_clock: MockClock, setting: Setting
) -> None:
    row = setting.put(setting.theirs, THEIRS, b"t", CONTENTS)
    other = bytes(erasure.fragment_length(row.length, CODE.k))
    for index in range(CODE.k, CODE.n):
        setting.store(row, index, other)
    setting.theirs.put_block(replace(row, roots=(*row.roots[: CODE.k], *[fragments.root(other)] * (CODE.n - CODE.k))))
    await setting.regain()
    assert setting.lie_in() == {BlockId(b"p" * 32)}


async def test_block_that_is_called_as_one_of_ours_and_is_another_is_refused(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.put(setting.theirs, THEIRS, b"s", CONTENTS)  # its id is known, and suppliers let the fragments go
    with pytest.raises(BadFormat):
        await setting.regain()
    assert setting.lie_in() == {BlockId(b"p" * 32)}


async def test_fragments_beyond_those_that_we_know_do_not_keep_a_line_away(
    autojump_clock: MockClock, setting: Setting
) -> None:
    row = setting.ours.block(POOR)
    assert row is not None
    setting.theirs.put_block(replace(row, roots=(*row.roots, row.roots[0])))
    setting.theirs.put_fragment(fragment(POOR, CODE.n, 1))
    for index in range(CODE.n):
        setting.theirs.put_fragment(fragment(POOR, index, 1 + (index + 1) % CODE.n))
    await setting.grafting.prepare()
    indexes = {each.index for each in setting.ours.fragments(POOR) if each.state is FragmentState.HELD}
    assert indexes == set(range(CODE.n))


async def test_chunks_that_are_false_or_not_to_be_had_hide_no_true_one(
    autojump_clock: MockClock, setting: Setting
) -> None:
    row = setting.put(setting.theirs, THEIRS, b"t", CONTENTS)
    false = setting.put(setting.theirs, BlockNo(99), b"f", [b"neither" * 1000])
    for index in range(CODE.n):
        setting.theirs.put_fragment(fragment(99, index, CODE.n))  # who does not answer now
    setting.suppliers.gone = {CODE.n}
    setting.theirs.put_chunks(
        ChunkRow(ChunkNo(FIRST_BROUGHT + number), SECRETS.fingerprint(each), false.block, 0, 0, len(each))
        for number, each in enumerate(CONTENTS[:1] * 20)
    )
    await setting.regain()
    assert setting.lie_in() == {row.block_id}


async def test_block_that_is_said_to_have_very_many_fragments_takes_no_more_memory_than_others(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is as large as the block."""
    monkeypatch.setattr(galois, "sums_of_products", lambda _rows, _pieces: None)  # its memory is not counted
    row = setting.put(
        setting.theirs, THEIRS, b"t", [*CONTENTS, bytes(CHUNK_BYTES), bytes(CHUNK_BYTES)], Code(1, CODE.n)
    )
    setting.theirs.put_block(replace(row, roots=row.roots[:1] * 255))  # with k = 1 all are the same
    tracemalloc.start()
    try:
        await setting.regain()
        assert tracemalloc.get_traced_memory()[1] < 16 * row.length
    finally:
        tracemalloc.stop()
    assert setting.lie_in() == {row.block_id}


async def test_chunks_lie_where_our_own_catalog_has_them(autojump_clock: MockClock, setting: Setting) -> None:
    row = setting.put(setting.ours, THEIRS, b"t", CONTENTS)
    setting.brought(row)
    await setting.regain_here()
    assert setting.lie_in() == {row.block_id}


async def test_chunks_that_another_line_called_the_same_take_no_place_of_ours(
    autojump_clock: MockClock, setting: Setting
) -> None:
    row = setting.ours.block(SOUND)
    assert row is not None
    setting.brought(row)
    await setting.regain_here()
    assert setting.lie_in() == {BlockId(b"p" * 32)}
