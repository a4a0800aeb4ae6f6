"""What may be gone, for another line let it go: suppliers that keep us waiting, lie, or hold more than we know."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import erasure
from bitdustfs.core import fragment as fragments
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.regaining import Doubts
from bitdustfs.errors import BitdustError, PeerGone, ReadOnly
from bitdustfs.model import BlockNo, FragmentName, FragmentState, SupplierNo
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.suppliers import MemorySuppliers
from tests.edges.catalog_rows import CODE, block, fragment

SECRETS = VolumeSecrets(b"v" * 32)
BLOCKS = 40
HERE = SupplierNo(1)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Shelves(MemorySuppliers):
    """Suppliers that list what they hold, and what others sent; or nothing, or for ever."""

    def __init__(self) -> None:
        super().__init__(CODE.n)
        self.others: list[FragmentName] = []
        self.hides: set[SupplierNo] = set()  # list nothing
        self.is_endless = False

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]:
        if self.is_endless and supplier == HERE:
            await trio.sleep(29)
            return [(FragmentName((int.from_bytes(after or bytes(32)) + 1).to_bytes(32)), 1)]
        stored = [name for who, name in self.stored if who == supplier] if supplier not in self.hides else []
        return [(name, 1) for name in sorted([*stored, *self.others]) if name > after][:1000]


class Setting:
    """A catalog that counts on fragments of blocks that the other line does not have."""

    def __init__(self, path: Path) -> None:
        self.shelves = Shelves()
        self.ours = SqliteCatalog(path / "ours", create=True)
        self.theirs = SqliteCatalog(path / "theirs", create=True)
        self.journal = Journal(self.ours)
        self.refusal: BitdustError | None = None
        made = erasure.encode(b"c" * 12288, CODE)
        roots = tuple(fragments.root(each) for each in made)
        for each in self.shelves.rows():
            self.ours.put_supplier(each)
            self.theirs.put_supplier(each)
        for number in range(1, BLOCKS + 1):
            row = replace(block(number), roots=roots)
            self.ours.put_block(row)
            for index, content in enumerate(made):
                supplier = SupplierNo(index + 1)
                self.ours.put_fragment(fragment(number, index, supplier))
                node = self.shelves.rows()[index].node
                self.shelves.stored[supplier, SECRETS.fragment_name(row.block_id, index, node)] = bytes(content)
        source = Fragments(self.ours, self.journal, self.shelves, InlineCrunch(), SECRETS)
        self.doubts = Doubts(self.ours, self.theirs, self.shelves, source.leaves, self.journal, self.admit)

    def admit(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def lost(self) -> int:
        return sum(
            each.state is FragmentState.LOST
            for number in range(1, BLOCKS + 1)
            for each in self.ours.fragments(BlockNo(number))
        )

    def drop(self, supplier: SupplierNo) -> None:
        for who, name in list(self.shelves.stored):
            if who == supplier:
                del self.shelves.stored[who, name]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    with closing(made.ours), closing(made.theirs):
        yield made


async def test_what_is_gone_is_lost_and_what_is_there_is_sure(autojump_clock: MockClock, setting: Setting) -> None:
    setting.drop(HERE)
    assert not await setting.doubts.look()
    assert setting.lost() == BLOCKS


async def test_what_is_not_listed_and_can_be_shown_is_there(autojump_clock: MockClock, setting: Setting) -> None:
    setting.shelves.hides = {HERE}
    assert not await setting.doubts.look()
    assert setting.lost() == 0


async def test_supplier_that_goes_after_it_listed_has_lost_nothing(
    autojump_clock: MockClock, setting: Setting
) -> None:
    async def get(*_arguments: object, **_options: object) -> None:
        raise PeerGone(peer="s1", what="no connection")

    setting.shelves.hides = {HERE}
    setting.shelves.get = get  # type: ignore[assignment]
    assert await setting.doubts.look() == dict.fromkeys(range(1, BLOCKS + 1), 1)
    assert setting.lost() == 0


async def test_supplier_that_answers_nothing_any_more_has_lost_nothing_and_is_not_waited_for_each_time(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.shelves.hides, setting.shelves.silent = {HERE}, {HERE}
    began = trio.current_time()
    assert await setting.doubts.look() == dict.fromkeys(range(1, BLOCKS + 1), 1)
    assert setting.lost() == 0
    assert trio.current_time() - began < 120


async def test_many_are_asked_for_side_by_side(autojump_clock: MockClock, setting: Setting) -> None:
    setting.shelves.hides, setting.shelves.delay_s = set(map(SupplierNo, range(1, CODE.n + 1))), 1
    began = trio.current_time()
    assert not await setting.doubts.look()
    assert trio.current_time() - began < BLOCKS


async def test_list_that_never_ends_is_not_waited_for(autojump_clock: MockClock, setting: Setting) -> None:
    setting.shelves.is_endless = True
    began = trio.current_time()
    assert await setting.doubts.look() == dict.fromkeys(range(1, BLOCKS + 1), 1)
    assert trio.current_time() - began < 3600


async def test_what_is_gone_is_found_out_where_much_else_is_held(autojump_clock: MockClock, setting: Setting) -> None:
    dice = random.Random(7)
    setting.shelves.others = [FragmentName(dice.randbytes(32)) for _ in range(5000)]
    setting.drop(HERE)
    await setting.doubts.look()
    assert setting.lost() == BLOCKS


async def test_machine_that_let_the_volume_go_meanwhile_notes_nothing(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.drop(HERE)
    setting.refusal = ReadOnly(what="another machine writes")
    with pytest.raises(ReadOnly):
        await setting.doubts.look()
    assert setting.lost() == 0
