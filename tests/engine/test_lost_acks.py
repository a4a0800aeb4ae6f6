"""A fragment whose acknowledgement was lost: somebody names it, or it is let go; and it never counts twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.overtaken import AGAIN_S, MOST, Overtaken
from bitdustfs.engine.sending import SEND_PATIENCE_S
from bitdustfs.errors import PeerGone
from bitdustfs.model import BlockNo, FragmentName, FragmentState, Ino, Root, SupplierNo
from bitdustfs.testing.suppliers import MemorySuppliers
from bitdustfs.testing.world import SECRETS
from tests.engine.volume import Volume

CONTENT = random.Random(12).randbytes(700_000)


class Deaf(MemorySuppliers):
    """What some are sent arrives, and the connection breaks before they say so."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.deaf: set[int] = set()

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        await super().put(supplier, name, root, body)
        if supplier in self.deaf:
            raise PeerGone(peer=f"s{supplier}", what="the connection was closed")


class Late(MemorySuppliers):
    """What some are sent lies in a buffer, and arrives when the test has it arrive."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.late: set[int] = set()
        self.buffered: dict[tuple[SupplierNo, FragmentName], bytes] = {}

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        if supplier in self.late:
            self.buffered[supplier, name] = bytes(body)
            await trio.sleep_forever()
        await super().put(supplier, name, root, body)

    def arrive(self) -> None:
        """All that is under way is stored."""
        self.stored.update(self.buffered)
        self.buffered.clear()


def volume_over(remote: MemorySuppliers) -> Volume:
    volume = Volume(suppliers=remote.count)
    volume.remote = remote
    volume.start()
    volume.releases.safe_change = lambda: 1 << 60
    return volume


@asynccontextmanager
async def one_file(remote: Deaf, *, gone: Set[int]) -> AsyncIterator[tuple[Volume, Ino, BlockNo]]:
    """A volume with one file in one block, written while these suppliers are away; nothing of it is here any more."""
    volume = volume_over(remote)
    async with volume.running():
        remote.gone = set(gone)
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        await volume.forget()
        (block,) = volume.catalog.blocks_of(ino)
        yield volume, ino, block


def named(volume: Volume) -> set[tuple[int, bytes]]:
    """(supplier, name) of all that the catalog counts as held."""
    nodes = {row.supplier: row.node for row in volume.catalog.suppliers()}
    return {
        (row.supplier, bytes(SECRETS.fragment_name(block.block_id, row.index, nodes[row.supplier])))
        for block in volume.catalog.blocks()
        for row in volume.catalog.fragments(block.block)
        if row.state is FragmentState.HELD
    }


def stored(remote: MemorySuppliers) -> set[tuple[int, bytes]]:
    return {(supplier, bytes(name)) for supplier, name in remote.stored}


def used(volume: Volume) -> list[int]:
    return [row.used_fragments for row in volume.catalog.suppliers()]


@pytest.mark.slow
async def test_what_a_supplier_took_without_saying_so_is_let_go_when_another_one_has_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Deaf(7)
    async with one_file(remote, gone={6, 7}) as (volume, ino, block):
        remote.forgetting, remote.full, remote.deaf, remote.gone = {1}, {1}, {6}, {7}
        await volume.files.read(ino, 0, len(CONTENT))
        await trio.sleep(20)
        assert remote.puts > 5, "nothing was sent to the deaf one"
        remote.gone, remote.deaf = {6}, set()
        await trio.sleep(60)
        assert volume.catalog.held(block) == 5
        remote.gone = set()
        await trio.sleep(60)
        assert {each for each in stored(remote) if each[0] != 1} == named(volume)
        assert used(volume) == [0, 1, 1, 1, 1, 0, 1]
        assert not volume.catalog.uploads()


@pytest.mark.slow
async def test_fragment_that_arrives_after_it_was_let_go_is_let_go_once_more(autojump_clock: MockClock) -> None:
    remote = Late(7)
    volume = volume_over(remote)
    async with volume.running():
        ino = await _with_a_late_one(volume, remote)
        (block,) = volume.catalog.blocks_of(ino)
        assert volume.catalog.held(block) == 5, "it went to another one"
        assert not volume.catalog.uploads() and not volume.catalog.count_releases(), "it was let go"
        remote.arrive()
        assert [each for each in stored(remote) if each[0] == 6]
        await trio.sleep(AGAIN_S + 60)
        assert {each for each in stored(remote) if each[0] != 1} == named(volume)


@pytest.mark.slow
async def test_fragment_that_is_sent_again_meanwhile_is_not_let_go(autojump_clock: MockClock) -> None:
    remote = Late(6)
    volume = volume_over(remote)
    async with volume.running():
        ino = await _with_a_late_one(volume, remote)
        remote.late = set()
        await trio.sleep(SEND_PATIENCE_S + 120)
        (block,) = volume.catalog.blocks_of(ino)
        assert volume.catalog.held(block) == 5
        remote.arrive()  # the same bytes
        await trio.sleep(AGAIN_S + 60)
        assert {each for each in stored(remote) if each[0] != 1} == named(volume)
        assert [each for each in stored(remote) if each[0] == 6]


async def _with_a_late_one(volume: Volume, remote: Late) -> Ino:
    """A file of which supplier 1 lost a fragment; 6 is sent it, says nothing, and was asked to let it go."""
    remote.gone = {6, 7}
    ino = await volume.write_all(CONTENT)
    await volume.flush()
    await volume.forget()
    remote.forgetting, remote.full, remote.late, remote.gone = {1}, {1}, {6}, {7}
    await volume.files.read(ino, 0, len(CONTENT))
    while not remote.buffered:
        await trio.sleep(1)
    remote.gone = set()
    await trio.sleep(SEND_PATIENCE_S + 120)
    return ino


async def test_what_was_let_go_is_remembered_over_a_restart_and_within_bounds(autojump_clock: MockClock) -> None:
    catalog = SqliteCatalog(":memory:")
    fragments = [(SupplierNo(1 + at % 5), FragmentName(at.to_bytes(32, "big"))) for at in range(MOST + 3)]
    Overtaken(catalog).note(fragments)
    overtaken = Overtaken(catalog)
    assert not overtaken.due()
    overtaken.forget(fragments[3:5])
    await trio.sleep(AGAIN_S)
    assert overtaken.due() == fragments[5:]
    overtaken.forget(fragments)
    again = Overtaken(catalog)
    assert not again.due()
    await trio.sleep(AGAIN_S)
    assert not again.due() and not overtaken.due()


@pytest.mark.slow
async def test_what_was_on_its_way_when_the_process_died_is_let_go_or_named_by_the_next(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Deaf(6)
    async with one_file(remote, gone={6}) as (volume, ino, block):
        remote.forgetting, remote.gone = {1}, set()
        puts = remote.puts
        await volume.files.read(ino, 0, len(CONTENT))
        while remote.puts == puts:
            await trio.sleep(0.001)
    # the fragment is there, and what would have noted it died before
    volume.journal.commit()
    (supplier, name) = next(each for each in stored(remote) if each[0] == 6)
    volume.catalog.put_upload(name, [(SupplierNo(supplier), FragmentName(name))])
    for row in volume.catalog.fragments(block):
        if row.supplier == 6:
            volume.catalog.drop_fragment(block, row.index, row.supplier)
            volume.catalog.put_fragment(type(row)(block, row.index, SupplierNo(1), FragmentState.LOST))
    volume.catalog.put_supplier(volume.catalog.suppliers()[5])
    volume.catalog.commit()
    volume.start()
    volume.releases.safe_change = lambda: 1 << 60
    async with volume.running():
        await trio.sleep(120)
        assert volume.catalog.held(block) == 5
        assert {each for each in stored(remote) if each[0] != 1} == named(volume)


async def test_stray_that_was_sent_without_an_acknowledgement_and_found_stays(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Deaf(6)
    async with one_file(remote, gone={6}) as (volume, ino, number):
        block = volume.catalog.block(number)
        assert block is not None
        remote.gone = {1, 2, 3}
        name = SECRETS.fragment_name(block.block_id, 0, volume.catalog.suppliers()[5].node)
        remote.stored[SupplierNo(6), name] = next(
            content
            for (s, n), content in remote.stored.items()
            if s == 1 and n == SECRETS.fragment_name(block.block_id, 0, volume.catalog.suppliers()[0].node)
        )
        async with volume.uploads.errand([(SupplierNo(6), name)]):
            assert await volume.files.read(ino, 0, len(CONTENT)) == CONTENT
            assert any(row.supplier == 6 for row in volume.catalog.fragments(number)), "it was not found"
        await trio.sleep(60)
        assert (SupplierNo(6), name) in remote.stored
        assert (6, bytes(name)) in named(volume)


@pytest.mark.slow
async def test_fragment_that_was_meant_for_one_and_went_to_another_is_let_go_at_the_first(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Deaf(7)
    volume = volume_over(remote)
    async with volume.running():
        remote.gone, remote.deaf = {6, 7}, {1}
        ino = await volume.write_all(CONTENT)
        await volume.flush()
        (block,) = volume.catalog.blocks_of(ino)
        remote.gone = {1, 7}  # the first one has it, and could not say so
        await trio.sleep(60)
        assert volume.catalog.held(block) == 5
        assert any(each[0] == 1 for each in stored(remote))
        remote.gone, remote.deaf = set(), set()
        await trio.sleep(60)
        assert stored(remote) == named(volume)
        assert used(volume) == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before it is sent", "while it is sent"])
async def test_what_is_to_be_let_go_does_not_count_when_it_is_sent_once_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    remote = Deaf(6)
    async with one_file(remote, gone={6}) as (volume, ino, block):
        name = volume.releases.name(volume.catalog.block(block), 0, SupplierNo(6))  # type: ignore[arg-type]
        assert name is not None
        began: list[bool] = []

        def give_up() -> None:
            """What an earlier send, without an acknowledgement, comes to; or a read finds the fragment elsewhere."""
            if not began:
                began.append(True)
                with volume.journal.operation():
                    volume.releases.abandon([(SupplierNo(6), name)])

        make, put = volume.rebuilder._make, remote.put

        async def make_meanwhile(*args: Any) -> Any:
            made = await make(*args)
            if moment == "before it is sent":
                give_up()
            return made

        async def put_meanwhile(*args: Any) -> None:
            await put(*args)
            if args[0] == 6 and moment == "while it is sent":
                give_up()

        monkeypatch.setattr(volume.rebuilder, "_make", make_meanwhile)
        monkeypatch.setattr(remote, "put", put_meanwhile)
        remote.forgetting, remote.full, remote.gone = {1}, {1}, set()
        await volume.files.read(ino, 0, len(CONTENT))
        await trio.sleep(120)
        assert began
        assert volume.catalog.held(block) == 5
        assert named(volume) <= stored(remote)
        assert used(volume)[5] == 1


async def test_damaged_note_of_what_is_to_be_let_go_once_more_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        catalog.put_local_value("overtaken", b"\xc1 no msgpack")
        overtaken = Overtaken(catalog)
        assert not overtaken.due()
        overtaken.note([(SupplierNo(1), FragmentName(bytes(32)))])
        assert not overtaken.due()
    assert "is not known any more" in caplog.text
    caplog.clear()
