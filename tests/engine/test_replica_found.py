"""Ways to lose what was safe that a reader found in the replica, each held fast."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core import replica as objects_of
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine import ancestors
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.objects import Objects, Record
from bitdustfs.engine.publisher import Publisher
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.replica import THIN_S, Replica
from bitdustfs.engine.snapshots import Snapshots, kept_note
from bitdustfs.engine.uploads import Uploads
from bitdustfs.model import ROOT_INO, BlockId, BlockNo, Code, FragmentName, FragmentState, Suite, SupplierNo
from bitdustfs.ports import Image
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.images import image_of
from bitdustfs.testing.suppliers import MemorySuppliers
from bitdustfs.testing.swarm import make_identity
from tests.engine.volume import Volume

CODE = Code(3, 5)
DICE = random.Random(8)
LINKS_KEPT = ancestors.PAGE


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class SlowObjects(Objects):
    """Objects whose deltas leave only while `open` is set."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.open = trio.Event()
        self.open.set()
        self.held = 0

    async def place(self, kind: Kind, pieces: Sequence[bytes], record: Record, *, copied: bool = False) -> BlockNo:
        if kind is Kind.DELTA:
            self.held += 1
            await self.open.wait()
        return await super().place(kind, pieces, record, copied=copied)


class CountingChanges(SqliteChanges):
    """Notes how many change sets were joined each time."""

    def __init__(self) -> None:
        self.merged: list[int] = []

    def merge(self, change_sets: Sequence[bytes]) -> bytes:
        self.merged.append(len(change_sets))
        return super().merge(change_sets)


class Rig:
    """A volume without files, and the replica of its catalog."""

    def __init__(self, code: Code = CODE) -> None:
        self.volume = Volume(suppliers=code.n, code=code)
        volume, secrets = self.volume, VolumeSecrets(b"v" * 32)
        self.catalog, self.journal, self.remote = volume.catalog, volume.journal, volume.remote
        self.publisher = self.another_publisher()
        self.objects = SlowObjects(
            catalog=volume.catalog,
            journal=volume.journal,
            uploads=volume.uploads,
            releases=volume.releases,
            crunch=InlineCrunch(),
            entropy=volume.entropy,
            secrets=secrets,
            suite=Suite.AES_256_GCM,
            code=lambda: code,
        )
        self.changes = CountingChanges()
        self.replica = Replica(
            catalog=volume.catalog,
            journal=volume.journal,
            publisher=self.publisher,
            snapshots=Snapshots(volume.catalog, volume.journal, self.objects, InlineCrunch(), self._image),
            objects=self.objects,
            changes=self.changes,
            crunch=InlineCrunch(),
            wall=volume.wall,
        )
        volume.releases.may_release = lambda: self.publisher.confirmed

    def held_version(self, supplier: int) -> int:
        """Of the head that a supplier holds."""
        return heads.parse(self.remote.heads[SupplierNo(supplier)]).version

    def another_publisher(self) -> Publisher:
        """One that knows what the catalog says."""
        return Publisher(
            catalog=self.volume.catalog,
            journal=self.volume.journal,
            keepers=self.volume.remote,
            identity=make_identity("customer"),
            entropy=self.volume.entropy,
            secrets=VolumeSecrets(b"v" * 32),
            suite=Suite.AES_256_GCM,
            links_kept=LINKS_KEPT,
        )

    def _image(self) -> Image:
        return image_of(self.catalog)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        async with self.volume.uploads.running(), trio.open_nursery() as nursery:
            volume = self.volume
            for service in (self.publisher.run, self.replica.run, volume.uploads.run, volume.rebuilder.run):
                nursery.start_soon(service)
            nursery.start_soon(volume.releases.run)  # what was sent without an answer goes before it is sent again
            yield self
            nursery.cancel_scope.cancel()

    def change(self, length: int, *, times: int = 1, is_random: bool = True) -> None:
        """One change of the catalog, of about `length` bytes `times` over; random ones cannot be compressed."""
        with self.journal.operation():
            for number in range(times):
                name = f"user.{self.catalog.last_change}.{number}".encode()
                self.catalog.put_xattr(ROOT_INO, name, DICE.randbytes(length) if is_random else bytes(length))
        self.journal.commit()


@pytest.mark.slow
async def test_no_delta_is_named_after_a_base_that_holds_it_already(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        for _ in range(20):
            rig.change(60_000)
        await rig.replica.make_safe()  # so much that a snapshot is due
        base = rig.replica.base_change
        rig.objects.open = trio.Event()
        rig.change(60_000)
        await trio.sleep(100)  # the delta waits at slow suppliers, the snapshot that holds it does not
        assert rig.objects.held and rig.replica.base_change > base
        rig.objects.open.set()
        await rig.replica.make_safe()
        assert all(delta.first > rig.replica.base_change for delta in rig.catalog.deltas())
        assert rig.publisher.content is not None
        assert all(delta.first > rig.replica.base_change for delta in rig.publisher.content.deltas)


@pytest.mark.slow
async def test_merging_never_drops_a_part_of_a_change(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(60_000, times=500)  # a base that is large enough for many deltas
        await rig.replica.make_safe()
        rig.change(60_000, times=60)  # longer than one delta: a full part, and a small one that others are like
        await rig.replica.make_safe()
        parts = [(row.first, row.part) for row in rig.catalog.deltas()]
        assert len(parts) == 2
        for _ in range(3 * objects_of.MERGE_RUN):
            rig.change(100)
            await rig.replica.make_safe()
        rows = rig.catalog.deltas()
        assert [(row.first, row.part) for row in rows][:2] == parts
        assert len(rows) < 2 + 3 * objects_of.MERGE_RUN  # others were merged


@pytest.mark.slow
async def test_deltas_that_are_too_much_for_one_are_merged_once_and_not_in_each_round(
    autojump_clock: MockClock,
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        for _ in range(objects_of.MERGE_RUN + 4):
            rig.change(60_000, times=8, is_random=False)  # small when it is compressed
            await rig.replica.make_safe()
        assert len(rig.catalog.deltas()) == objects_of.MERGE_RUN + 4
        assert [count for count in rig.changes.merged if count > 1] == [objects_of.MERGE_RUN]


@pytest.mark.slow
async def test_what_the_safe_head_needs_stays_until_the_next_one_is_safe_too(autojump_clock: MockClock) -> None:
    code = Code(1, 3)  # its quorum of 2 is less than the 3 that survive every loss of 2
    async with Rig(code).running() as rig:
        for _ in range(objects_of.MERGE_RUN):  # the first goes into the base
            rig.change(100)
            await rig.replica.make_safe()
        needed = {row.block for row in rig.catalog.deltas()}
        rig.remote.silent = {3}
        rig.change(100)
        await trio.sleep(200)
        assert len(rig.catalog.deltas()) == 1 < len(needed)  # they were merged
        assert rig.publisher.holders().is_quorate and not rig.publisher.holders().is_safe(2)
        assert needed <= {row.block for row in rig.catalog.local_blocks()}
        rig.remote.reconnect()
        rig.change(100)
        await trio.sleep(200)
        assert not needed & {row.block for row in rig.catalog.local_blocks()}


@pytest.mark.slow
async def test_new_suppliers_alone_never_make_a_head_count(autojump_clock: MockClock) -> None:
    async with Rig(Code(1, 3)).running() as rig:
        await rig.replica.make_safe()
        rig.remote.headless = {1, 2}
        rig.remote.count = 5
        for row in rig.remote.rows()[3:]:
            rig.catalog.put_supplier(row)
        for _ in range(3):  # one without its quorum, and others after it
            rig.change(100)
            await trio.sleep(100)
        assert rig.publisher.holders().have == {3, 4, 5}
        assert not rig.publisher.holders().is_quorate  # who asks 1 and 2 by the list of three sees none of it
        restarted = rig.another_publisher()
        assert restarted.holders().before == rig.publisher.holders().before
        rig.remote.headless = set()
        await rig.replica.make_safe()
        assert len(rig.publisher.holders().have) >= 4


@pytest.mark.slow
async def test_head_names_nothing_that_one_more_loss_would_take(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        safe = rig.publisher.version
        rig.remote.silent = {4, 5}  # they seem to answer until something is sent to them
        rig.change(60_000, times=3)  # more than is copied to everybody: coded, and 3 of 5 take it
        await trio.sleep(THIN_S)  # it is sent for a part of that
        assert [rig.catalog.held(row.block) for row in rig.catalog.deltas()] == [3]
        assert {rig.held_version(number) for number in (1, 2, 3)} == {safe}
        assert "not at enough suppliers" in rig.replica.trouble
        rig.remote.reconnect()
        await rig.replica.make_safe()
        assert rig.publisher.version == safe + 1
        assert not rig.replica.trouble


async def test_catalog_is_copied_where_too_few_suppliers_answer_for_its_pieces(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        rig.remote.gone = {4, 5}
        rig.change(60_000, times=3)
        await rig.replica.make_safe()  # 3 copies are what the loss of 2 suppliers leaves one of
        rows = [rig.catalog.block(row.block) for row in rig.catalog.deltas()]
        assert [row.code for row in rows if row] == [Code(1, 5)]


@pytest.mark.slow
async def test_head_goes_to_nobody_without_his_copy_while_copies_are_few(autojump_clock: MockClock) -> None:
    async with Rig(Code(1, 3)).running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        safe = rig.publisher.version
        rig.remote.full = {3}
        rig.change(10)
        await trio.sleep(200)
        assert [rig.held_version(number) for number in (1, 2, 3)] == [safe + 1, safe + 1, safe]
        rig.remote.full = set()
        await rig.replica.make_safe()
        assert [rig.held_version(number) for number in (1, 2, 3)] == [safe + 1] * 3


@pytest.mark.slow
@pytest.mark.parametrize("part", ["deltas", "manifest", "image"])
async def test_part_of_the_catalog_that_suppliers_cannot_give_back_is_sent_anew(
    autojump_clock: MockClock, part: str
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        rig.change(10)
        await rig.replica.make_safe()
        newest = kept_note(rig.catalog)
        assert newest is not None
        lost = {
            "deltas": [row.block for row in rig.catalog.deltas()],
            "manifest": [number for number, _size in newest.blocks],
            "image": newest.image_blocks,
        }[part]
        assert lost
        rig.remote.stored.clear()
        for row in [row for number in lost for row in rig.catalog.fragments(number)]:
            rig.catalog.put_fragment(replace(row, state=FragmentState.LOST))
        assert not rig.replica.is_head_safe()
        await trio.sleep(100)
        assert rig.replica.is_head_safe()
        assert rig.replica.is_current
        assert not any(rig.catalog.block(number) for number in lost)


@pytest.mark.slow
@pytest.mark.parametrize("missed", [LINKS_KEPT - 2, LINKS_KEPT + 1])
async def test_supplier_gets_the_newest_head_as_long_as_links_lead_to_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, missed: int
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        first = rig.publisher.version
        rig.remote.gone = {5}
        content = rig.publisher.content
        assert content is not None
        while rig.publisher.version < first + missed:
            rig.publisher.note_ancestors()
            await rig.publisher.publish(content)
        assert len(rig.catalog.links(0, 10**6)) == heads.LINK_BYTES * min(rig.publisher.version, LINKS_KEPT + 1)
        rig.remote.gone = set()
        await trio.sleep(60)
        assert rig.publisher.foreign is None
        is_near = missed <= LINKS_KEPT
        assert rig.held_version(5) == (rig.publisher.version if is_near else first)
        assert rig.publisher.confirmed
        assert not rig.publisher.others
        assert [record.levelname for record in caplog.records] == ([] if is_near else ["WARNING"])
        rig.change(10)
        await rig.replica.make_safe()  # the others are enough


@pytest.mark.slow
async def test_marks_of_heads_go_with_the_next_head_and_want_none_of_their_own(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        content = rig.publisher.content
        assert content is not None
        while rig.publisher.version < ancestors.PAGE - 1:
            await rig.publisher.publish(content)
        rig.change(10)
        await rig.replica.make_safe()
        assert rig.replica.is_current
        first = heads.parse(rig.remote.heads[SupplierNo(1)])
        assert rig.catalog.value("heads 0") is not None
        await trio.sleep(120)
        assert rig.publisher.version == first.version == ancestors.PAGE


@pytest.mark.slow
async def test_head_of_another_line_is_not_taken_for_ours_because_it_is_old(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        content = rig.publisher.content
        assert content is not None
        rig.remote.gone = {5}
        while rig.publisher.version < 2 * LINKS_KEPT:
            rig.publisher.note_ancestors()
            await rig.publisher.publish(content)
        secrets = VolumeSecrets(b"v" * 32)
        stray = heads.sign(
            make_identity("customer"),
            handle=secrets.handle,
            version=1,
            previous=heads.NO_HEAD,
            sealed=objects_of.seal_head(secrets, content, BlockId(b"another line".ljust(32)), Suite.AES_256_GCM),
        )
        rig.remote.heads[SupplierNo(5)] = stray.raw
        rig.remote.gone = set()
        await trio.sleep(60)
        assert rig.publisher.others[SupplierNo(5)].head == stray
        assert rig.publisher.foreign is None
        assert [record.levelname for record in caplog.records] == ["ERROR"]


class WatchedJournal(Journal):
    """Remembers that it was made durable."""

    is_durable = False

    async def durable(self) -> None:
        await super().durable()
        self.is_durable = True


class WatchedSuppliers(MemorySuppliers):
    """Suppliers that note whether a journal was durable when a DELETE came."""

    def __init__(self, journal: WatchedJournal) -> None:
        super().__init__(3)
        self._journal = journal
        self.deletes: list[bool] = []

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        self.deletes.append(self._journal.is_durable)
        await super().delete(supplier, names)


async def test_nothing_is_let_go_before_that_is_durable(autojump_clock: MockClock) -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        journal = WatchedJournal(catalog)
        remote = WatchedSuppliers(journal)
        for row in remote.rows():
            catalog.put_supplier(row)
        catalog.put_upload(b"u" * 32, [(SupplierNo(1), FragmentName(b"n" * 32))])
        catalog.put_upload(b"w" * 32, [])
        releases = Releases(catalog, journal, remote, VolumeSecrets(b"v" * 32))
        uploads = Uploads(catalog, journal, remote, releases, VolumeSecrets(b"v" * 32))
        with trio.move_on_after(1):
            await uploads.run()
        assert not catalog.uploads()
        with trio.move_on_after(1):
            await releases.run()
        assert remote.deletes == [True]
        assert not catalog.count_releases()


async def test_what_suppliers_hold_is_counted_off_when_it_is_let_go_while_they_are_away(
    autojump_clock: MockClock,
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        await trio.sleep(1)
        before = [row.used_fragments for row in rig.catalog.suppliers()]
        block = rig.catalog.local_blocks()[0].block
        first = next(iter(rig.catalog.fragments(block)))
        rig.catalog.put_fragment(replace(first, state=FragmentState.ABSENT))
        rig.objects.release(block)
        assert [row.used_fragments for row in rig.catalog.suppliers()] == [count - 1 for count in before]


@pytest.mark.slow
async def test_delta_in_pieces_that_nobody_completes_does_not_end_all_heads(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        rig.remote.silent = {4, 5}
        rig.change(200_000)
        await trio.sleep(50)  # placed with three pieces, for want of more
        rig.remote.silent, rig.remote.gone = set(), {4, 5}
        with trio.fail_after(300):
            await rig.replica.make_safe()
        assert rig.publisher.content is not None
        assert [ref.object.k for ref in rig.publisher.content.deltas] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["gone", "full"])
async def test_snapshot_in_pieces_that_nobody_completes_does_not_end_all_heads(
    autojump_clock: MockClock, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        before = rig.replica.base_change
        rig.remote.silent = {4, 5}
        rig.change(60_000, times=30)
        rig.change(10)
        while rig.replica.base_change == before:
            await trio.sleep(1)
        of_image = rig.catalog.image_blocks()
        (large,) = [row for row in rig.catalog.local_blocks() if row.code.k > 1 and row.block in of_image]
        assert rig.catalog.held(large.block) == 3, "too few for a head"
        rig.remote.silent = set()
        setattr(rig.remote, fault, {4, 5})
        rig.change(10)
        with trio.fail_after(600):
            await rig.replica.make_safe()
        assert large.block not in rig.catalog.image_blocks()


async def test_block_that_was_on_its_way_is_released_without_another_head(autojump_clock: MockClock) -> None:
    async with Rig().running() as rig:
        rig.change(10)
        await rig.replica.make_safe()
        rig.change(10)
        await rig.replica.make_safe()
        (block,) = {row.block for row in rig.catalog.deltas()}
        rig.volume.uploads.on_their_way.add(block)
        rig.catalog.drop_delta(rig.catalog.deltas()[0].first)
        rig.change(10)
        await rig.replica.make_safe()
        await trio.sleep(10)
        version = rig.publisher.version
        assert rig.catalog.block(block) is not None
        rig.volume.uploads.on_their_way.discard(block)
        await trio.sleep(10)
        assert rig.catalog.block(block) is None
        assert rig.publisher.version == version
