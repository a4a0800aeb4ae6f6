"""What is to be let go and is sent again: a head that is safe may name it, and the next one may need it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.engine.overtaken import AGAIN_S as OVERTAKEN_S
from bitdustfs.engine.releases import PATIENCE_S
from bitdustfs.engine.sending import SEND_PATIENCE_S
from bitdustfs.errors import PeerRefused
from bitdustfs.model import BlockRow, FragmentName, FragmentRow, FragmentState, Root, SupplierNo
from bitdustfs.testing.suppliers import MemorySuppliers
from tests.engine.volume import Volume

CONTENT = random.Random(12).randbytes(700_000)
FIFTH = SupplierNo(5)


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Moody(MemorySuppliers):
    """Five, the last of which does with what it is sent as the test says, and notes what it is told to let go."""

    def __init__(self) -> None:
        super().__init__(5)
        self.is_refusing = self.is_late = False
        self.tried = 0
        self.buffered: dict[tuple[SupplierNo, FragmentName], bytes] = {}
        self.told: list[FragmentName] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        if supplier == FIFTH:
            self.tried += 1
            if self.is_refusing:
                raise PeerRefused(peer="s5", what="not now")
            if self.is_late:
                self.buffered[supplier, name] = bytes(body)
                await trio.sleep_forever()
        await super().put(supplier, name, root, body)
        if supplier == FIFTH:
            self.meanwhile()

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        if supplier == FIFTH:
            self.told += names
        await super().delete(supplier, names)


class Noted(Volume):
    """One block, of which four suppliers hold a fragment, and the fifth what a head that is safe names there.

    It was to be let go there when the next head is safe, which this one is not before the fifth counts again.
    """

    remote: Moody
    block: BlockRow
    index: int
    name: FragmentName

    def __init__(self) -> None:
        super().__init__()
        self.remote = Moody()
        self.start()

    def start(self, boot: bytes = b"first boot") -> None:
        super().start(boot)
        self.releases.safe_change = self._safe_change

    def _safe_change(self) -> int:
        return self.catalog.last_change if self.is_whole() else 0

    def is_whole(self) -> bool:
        return all(self.catalog.held(block.block) == 5 for block in self.catalog.blocks())

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        async with self.running():
            self.remote.gone = {5}
            await self.write_all(CONTENT)
            await self.flush()
            await trio.sleep(2 * PATIENCE_S)
            (self.block,) = self.catalog.blocks()
            (self.index,) = set(range(5)) - {row.index for row in self.catalog.fragments(self.block.block)}
            name = self.releases.name(self.block, self.index, FIFTH)
            assert name is not None
            self.name = name
            self.remote.stored[FIFTH, name] = b"of before"
            with self.journal.operation():
                self.catalog.put_releases([(FIFTH, name)], self.catalog.last_change + 1)
            await trio.sleep(1)
            yield


async def test_what_waits_for_a_safe_head_is_sent_where_that_head_needs_it(autojump_clock: MockClock) -> None:
    volume = Noted()
    async with volume.begun():
        volume.remote.gone = set()
        await trio.sleep(PATIENCE_S)
        assert volume.is_whole()
        await trio.sleep(PATIENCE_S)
        assert not volume.remote.told


async def test_what_was_taken_back_and_refused_is_taken_back_once_more(autojump_clock: MockClock) -> None:
    volume = Noted()
    async with volume.begun():
        volume.releases.may_release = lambda: False
        volume.remote.is_refusing, volume.remote.gone = True, set()
        await trio.sleep(PATIENCE_S)
        assert volume.remote.tried
        volume.releases.may_release = lambda: True
        volume.remote.is_refusing = False
        await trio.sleep(10 * PATIENCE_S)
        assert volume.is_whole()
        assert not volume.remote.told


async def test_what_was_taken_back_when_the_machine_died_stays_until_a_head_without_it_is_safe(
    autojump_clock: MockClock,
) -> None:
    volume = Noted()
    async with volume.begun():
        volume.releases.may_release = lambda: False
        volume.remote.is_late, volume.remote.gone = True, set()
        await trio.sleep(SEND_PATIENCE_S / 2)
        assert volume.remote.tried
        assert not volume.catalog.is_releasing(FIFTH, volume.name)
    volume.start(b"second boot")
    volume.remote.is_refusing = True
    async with volume.running():
        await trio.sleep(PATIENCE_S)
        assert not volume.remote.told
        volume.remote.is_refusing = volume.remote.is_late = False
        await trio.sleep(10 * PATIENCE_S)
        assert volume.is_whole()
        assert not volume.remote.told
    assert (FIFTH, volume.name) in volume.remote.stored


async def test_what_is_sent_again_of_a_block_that_goes_meanwhile_stays_until_that_is_safe(
    autojump_clock: MockClock,
) -> None:
    volume = Noted()
    async with volume.begun():
        volume.releases.may_release = lambda: False
        safe = 0
        volume.releases.safe_change = lambda: safe

        volume.remote.meanwhile = lambda: volume.releases.forget_block(volume.block.block)
        volume.remote.gone = set()
        await trio.sleep(PATIENCE_S)
        assert volume.remote.tried
        assert not volume.catalog.count_blocks()
        volume.releases.may_release = lambda: True
        await trio.sleep(PATIENCE_S)
        assert not volume.remote.told
        safe = volume.catalog.last_change + 1
        await trio.sleep(PATIENCE_S)
        assert not volume.remote.stored


async def test_what_comes_late_of_a_send_before_one_that_was_refused_is_let_go(autojump_clock: MockClock) -> None:
    volume = Noted()
    async with volume.begun():
        volume.remote.is_late, volume.remote.gone = True, set()
        volume.catalog.drop_releases(FIFTH, [volume.name])
        await trio.sleep(SEND_PATIENCE_S + PATIENCE_S)
        assert volume.remote.buffered
        volume.remote.is_late, volume.remote.is_refusing = False, True
        tried = volume.remote.tried
        await trio.sleep(OVERTAKEN_S / 2)
        assert volume.remote.tried > tried
        with volume.journal.operation():
            volume.releases.forget_block(volume.block.block)
        volume.releases.safe_change = lambda: volume.catalog.last_change + 1
        await trio.sleep(PATIENCE_S)
        volume.remote.stored.update(volume.remote.buffered)
        await trio.sleep(2 * OVERTAKEN_S)
        assert not volume.remote.stored


async def test_what_another_line_says_is_there_stays_though_the_sending_of_it_comes_to_nothing(
    autojump_clock: MockClock,
) -> None:
    volume = Noted()
    async with volume.begun():
        volume.catalog.drop_releases(FIFTH, [volume.name])
        volume.remote.is_late, volume.remote.gone = True, set()
        await trio.sleep(SEND_PATIENCE_S / 2)
        assert volume.remote.tried
        with volume.journal.operation():
            row = FragmentRow(volume.block.block, volume.index, FIFTH, FragmentState.HELD)
            volume.catalog.put_fragment(row)
            volume.releases.keep(FIFTH, volume.name)
        await trio.sleep(10 * PATIENCE_S)
        assert not volume.catalog.uploads()
        assert not volume.remote.told
