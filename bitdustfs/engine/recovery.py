"""Recovery: from the volume key and a supplier or two to the whole catalog.

    a friend -> its head -> the suppliers that it lists -> their heads -> all once more, in a new epoch -> the newest
    manifest -> image chunks, deltas (each fetched, checked and decoded like any block) -> catalog

The second question, under a certificate of a higher epoch than anybody has seen, takes the volume over: a supplier
that has heard it takes nothing from the old machine any more. So no head comes between that answer and the fetching.

Nothing here needs a catalog of this volume: references in the head tell block ids, codes and roots, from which
names follow. Where the fragments went is told as a hint; whoever denies it is passed over, and then every supplier is
asked for every index. At the end each one is asked for leaves of what it should have, which it could not foresee:
only what it shows counts as held, and is counted; the rest is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import trio
from blake3 import blake3

from bitdustfs.core import erasure, recovery, replica, wire
from bitdustfs.core import head as heads
from bitdustfs.core.addresses import has_zone
from bitdustfs.core.block import Placed
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.core.recovery import Answer, Found
from bitdustfs.core.replica import HeadContent, Manifest, ManifestNote, ObjectRef
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine import publisher, snapshots
from bitdustfs.engine.asks import FragmentSource
from bitdustfs.engine.errand import ask_once
from bitdustfs.engine.fetching import Fetcher
from bitdustfs.engine.replica import keep_covered
from bitdustfs.engine.settling import note_clock
from bitdustfs.errors import BitdustError, DiskFault, DiskFull, NodeRevoked, NotFound, Unavailable
from bitdustfs.model import (
    IMAGE_CHUNK_BYTES,
    BlockNo,
    BlockRow,
    DeltaRow,
    FragmentRow,
    FragmentState,
    ImageChunk,
    NodeId,
    OwnerId,
    SupplierNo,
)
from bitdustfs.ports import Catalog, Crunch, Dialer, Entropy, Restore

ASK_S = 15.0  # for one supplier to tell its head
CONNECT_S = 15.0  # for enough suppliers to come online, once their heads are known
AT_ONCE = 3  # blocks on their way: 8 MiB each
CONFIRM_AT_ONCE = 16  # questions whether a fragment is there: a leaf at a time
_log = logging.getLogger(__name__)

Fetched = TypeVar("Fetched")
Certify = Callable[[int], Identity]
Progress = Callable[[int, int], Awaitable[None]]


class Seeker:
    """Ask suppliers for heads, and find the newest.

    Args:
        certify: makes the identity to ask with, in the epoch given. A supplier that can prove a higher one is asked
            again with that.
    """

    def __init__(self, dialer: Dialer, certify: Certify, secrets: VolumeSecrets, owner: OwnerId) -> None:
        self._dialer = dialer
        self._certify = certify
        self._secrets = secrets
        self._owner = owner
        self._contents: dict[bytes, HeadContent] = {}  # by digest
        self._seen: dict[bytes, Head] = {}  # by digest: whoever showed one may be silent later
        self._addresses: dict[NodeId, str] = {}  # of everybody who was asked
        self.epoch = 1  # the highest that anybody knows, or that we have taken

    async def find(self, friends: Iterable[tuple[NodeId, str]]) -> Found:
        """Ask these, and all that the newest head lists, until nobody names a newer one.

        Args:
            friends: node id and ADDR:PORT of some suppliers.
        Raises:
            NotFound: nobody holds a head of this volume; says who said what.
        """
        return await self._find(dict(friends), None)

    async def take_over(self) -> tuple[Found, Identity]:
        """Ask everybody again in a new epoch, which ends the rights of every other node where it is heard.

        Returns:
            What there is, as `find` does, and who to be from now on. Only answers to this question count: a supplier
            that gave the first one and not this one may still take a head of the old machine.
        Raises:
            NotFound: as for `find`.
        """
        while True:
            mine = self.epoch + 1
            found = await self._find(dict(self._addresses), mine)
            if self.epoch < mine:
                self.epoch = mine
                return found, self._certify(mine)

    # -- private ---------------------------------------------------------------------------------------------

    async def _find(self, waiting: dict[NodeId, str], epoch: int | None) -> Found:
        """Ask in this epoch; None: in the highest that anybody knows, as it gets known."""
        answers: dict[NodeId, Answer] = {}
        best: Head | None = None
        while waiting:
            async with trio.open_nursery() as nursery:
                for node, address in waiting.items():
                    nursery.start_soon(self._ask, answers, node, address, epoch)
            best = recovery.choose(list(self._seen.values()), answers, self._contents)
            listed = self._contents[best.digest].suppliers if best is not None else ()
            waiting = {NodeId(each.node): each.address for each in listed if NodeId(each.node) not in answers}
        if best is None:
            said = "; ".join(answer.trouble or "it holds nothing of this volume" for answer in answers.values())
            raise NotFound(what=f"no supplier has shown a state of this volume: {said}")
        return Found(best, self._contents[best.digest], answers)

    async def _ask(self, answers: dict[NodeId, Answer], node: NodeId, address: str, epoch: int | None) -> None:
        self._addresses[node] = address
        try:
            with trio.fail_after(ASK_S):
                raw, links = await self._ask_in_epoch(node, address, epoch)
            answers[node] = replace(self._judged(raw, links), address=address)
        except trio.TooSlowError:
            answers[node] = Answer(None, trouble=f"{address} did not answer in {ASK_S:g} s")
        except BitdustError as error:
            answers[node] = Answer(None, trouble=str(error))

    async def _ask_in_epoch(self, node: NodeId, address: str, epoch: int | None) -> tuple[bytes, bytes]:
        while True:
            try:
                return await fetch_head(self._dialer, self._certify(epoch or self.epoch), node, address)
            except NodeRevoked as revoked:  # the owner has signed that
                self.epoch = max(self.epoch, revoked.detail)
                if epoch is not None:
                    raise

    def _judged(self, raw: bytes, links: bytes) -> Answer:
        """Check what a supplier shows before anything of it is used. Raises BadFormat, SealBroken."""
        if not raw:
            return Answer(None)
        head = heads.parse(raw)
        if head.signer.owner != self._owner or head.handle != self._secrets.handle:
            return Answer(None, trouble="it shows the state of another volume")
        content = self._contents[head.digest] = replica.unseal_head(self._secrets, head.sealed)
        self._seen[head.digest] = head
        self.epoch = max(self.epoch, head.epoch)
        return Answer(head, heads.genuine_links(head, links), content=content)


async def fetch_head(dialer: Dialer, identity: Identity, node: NodeId, address: str) -> tuple[bytes, bytes]:
    """Ask one supplier for the head that it holds; b"" if none. The caller sets the deadline.

    Returns:
        The head, and links of heads before it; nothing is checked.
    Raises:
        PeerGone, WrongPeer, PeerRefused, ProtocolViolation
    """
    answer, body = await ask_once(dialer, identity, node, address, wire.GetHead(), wire.HeadIs)
    return bytes(body[: answer.head_bytes]), bytes(body[answer.head_bytes :])


async def fetch_newest(found: Found, fetch: Callable[[Found], Awaitable[Fetched]]) -> tuple[Found, Fetched]:
    """Fetch a state; if that cannot be done, the newest older one that a supplier still shows.

    Whoever gets an older one must not write over what is newer, unless the owner gives that up: a supplier can always
    show an old state.

    Args:
        fetch: brings one state here. What it left is worth nothing when it fails.
    Raises:
        Unavailable: none can be fetched. DiskFull, DiskFault
    """
    older, unfetched = found.older, tuple[Head, ...]()
    for each in (found, *older):
        state = replace(each, unfetched=unfetched)
        try:
            return state, await fetch(state)
        except (DiskFull, DiskFault):
            raise
        except BitdustError as error:
            _log.error("version %d cannot be fetched: %s", state.head.version, error)
            if not older:
                raise
            unfetched += (state.head,)
    raise Unavailable(what="no version that the suppliers show can be fetched now: the log says why; try again later")


class Connected(FragmentSource, Protocol):
    """What a recovery needs of the suppliers."""

    async def run(self) -> None: ...

    async def wait_for_change(self) -> None: ...


@dataclass(slots=True)
class _Known:
    """What was fetched, to be noted in the new catalog."""

    note: ManifestNote | None = None
    chunks: list[ImageChunk] = field(default_factory=list)
    image_blocks: list[BlockNo] = field(default_factory=list)
    deltas: list[tuple[DeltaRow, bytes]] = field(default_factory=list)
    held: set[tuple[BlockNo, int, SupplierNo]] = field(default_factory=set)  # fragments that were shown


class Recovery:
    """Fetch the catalog that a head names.

    Args:
        found: what to fetch, and who may have it.
        scratch: an empty catalog that ends with the process.
    """

    def __init__(
        self,
        found: Found,
        suppliers: Connected,
        secrets: VolumeSecrets,
        crunch: Crunch,
        entropy: Entropy,
        scratch: Catalog,
    ) -> None:
        self._found = found
        self._suppliers = suppliers
        self._secrets = secrets
        self._crunch = crunch
        self._fetcher = Fetcher(scratch, found.suppliers, suppliers, crunch, secrets, entropy)
        self._known = _Known()

    async def fetch(self, restore: Restore, progress: Progress, *, is_connected: bool = False) -> None:
        """Fill `restore` with everything that the head names; the caller finishes it.

        Args:
            is_connected: somebody else keeps the connections.
            progress: is told bytes fetched and bytes in all.
        Raises:
            Unavailable: too few suppliers answer. BadFormat, SealBroken: what they have is damaged.
            DiskFull, DiskFault
        """
        async with trio.open_nursery() as nursery:
            if not is_connected:
                nursery.start_soon(self._suppliers.run)
            nursery.start_soon(self._fetcher.look)
            try:
                await self._until_online()
                await self._fetch(restore, progress)
                await self._confirm()
                failed: BitdustError | None = None
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    def note(self, catalog: Catalog) -> None:
        """Note in the new catalog what the suppliers have of it, so that its next head goes on from there.

        The caller commits.
        """
        known, head = self._known, self._found.head
        assert known.note is not None
        with catalog.savepoint():
            numbers = {row.block: catalog.new_local_block_no() for row, _ in self._fetcher.taken}
            for row, ref in self._fetcher.taken:
                catalog.put_block(replace(row, block=numbers[row.block]))
                self._note_fragments(catalog, row, ref, numbers[row.block])
            catalog.put_image_chunks([replace(chunk, block=numbers[chunk.block]) for chunk in known.chunks])
            for delta, packed in known.deltas:
                catalog.put_delta(replace(delta, block=numbers[delta.block]), packed)
            note = ManifestNote(
                known.note.change,
                tuple((numbers[block], size) for block, size in known.note.blocks),
                tuple(numbers[block] for block in known.note.image_blocks),
                known.note.image_bytes,
            )
            snapshots.keep_note(catalog, note)
            keep_covered(catalog, self._found.content.change)
            publisher.keep_head(catalog, head.raw)
            publisher.give_up(catalog, self._found.unfetched)
            note_clock(catalog, self._found.content.time_s)
            self._note_addresses(catalog)
            for link in self._links():
                catalog.put_link(heads.version_of(link), link)

    # -- private ---------------------------------------------------------------------------------------------

    def _note_addresses(self, catalog: Catalog) -> None:
        """Where suppliers answered that have moved since: nothing else here knows."""
        there = {row.node: row.address for row in self._found.suppliers if not has_zone(row.address)}
        for row in catalog.suppliers():
            if (address := there.get(row.node, row.address)) != row.address:
                catalog.put_supplier(replace(row, address=address))

    def _note_fragments(self, catalog: Catalog, row: BlockRow, ref: ObjectRef, number: BlockNo) -> None:
        """Those that were shown are held; those that should be there are meant to be."""
        length = erasure.fragment_length(row.length, row.code.k)
        shown = {index: supplier for block, index, supplier in self._known.held if block == row.block}
        for index, hint in enumerate(ref.at):
            if index in shown:
                catalog.put_fragment(FragmentRow(number, index, shown[index], FragmentState.HELD))
                catalog.charge_supplier(shown[index], length, 1)
            elif hint:
                catalog.put_fragment(FragmentRow(number, index, SupplierNo(hint), FragmentState.WANTED))

    async def _confirm(self) -> None:
        """Ask for leaves of every fragment that somebody should have, and then everybody for the others.

        A head is signed when enough fragments of its blocks are acknowledged: the last ones arrive after it.
        """
        silent: set[SupplierNo] = set()  # asked once in vain: never again
        slots = trio.Semaphore(CONFIRM_AT_ONCE)

        async def ask(row: BlockRow, index: int, holders: Sequence[SupplierNo], is_known: bool) -> None:
            async with slots:
                for supplier in holders:
                    if supplier in silent or supplier not in self._suppliers.online():
                        continue
                    with trio.move_on_after(ASK_S) as scope:
                        if await self._fetcher.fragments.leaves.proves(supplier, row, index, is_known=is_known):
                            self._known.held.add((row.block, index, supplier))
                            return
                    if scope.cancelled_caught:
                        silent.add(supplier)

        async with trio.open_nursery() as nursery:
            for row, _ref in self._fetcher.taken:
                for index, those in self._meant(row.block).items():
                    nursery.start_soon(ask, row, index, those, True)
        async with trio.open_nursery() as nursery:
            for row, _ref in self._fetcher.taken:
                for index, those in self._elsewhere(row).items():
                    nursery.start_soon(ask, row, index, those, False)

    def _meant(self, block: BlockNo) -> dict[int, list[SupplierNo]]:
        """Who should have the fragments of a block, by index."""
        holders: dict[int, list[SupplierNo]] = {}
        for each in self._fetcher.scratch.fragments(block):
            if each.state is FragmentState.HELD:
                holders.setdefault(each.index, []).append(each.supplier)
        return holders

    def _elsewhere(self, row: BlockRow) -> dict[int, list[SupplierNo]]:
        """Who may have the fragments of a block that nobody has shown, by index: who has shown nothing of it."""
        shown = {index: supplier for block, index, supplier in self._known.held if block == row.block}
        others = [each for each in self._suppliers.online() if each not in shown.values()]
        return {index: others for index in range(row.code.n) if others and index not in shown}

    def _links(self) -> list[bytes]:
        return heads.split_links(recovery.links_behind(self._found) + self._found.head.link)

    async def _until_online(self) -> None:
        """Wait until all suppliers that told a head are connected, or for a while."""
        expected = sum(not each.trouble for each in self._found.answers.values())
        with trio.move_on_after(CONNECT_S):
            while len(self._suppliers.online()) < expected:
                await self._suppliers.wait_for_change()

    async def _fetch(self, restore: Restore, progress: Progress) -> None:
        content = self._found.content
        parts = [await self._fetcher.object(ref, Kind.MANIFEST) for ref in content.manifest]
        manifest = await self._crunch.run(replica.decode_manifest, b"".join(part for _, part in parts))
        deltas_bytes = sum(ref.object.content_bytes for ref in content.deltas)
        total = sum(ref.content_bytes for ref in manifest.blocks) + deltas_bytes
        await self._crunch.run(restore.expect, len(manifest.order))
        done = await self._fetch_image(manifest, restore, progress, total)
        for ref in content.deltas:
            row, packed = await self._fetcher.object(ref.object, Kind.DELTA)
            changes = await self._crunch.run(replica.expand_delta, packed)
            await self._crunch.run(restore.apply, changes)
            part = sum(delta.first == ref.first for delta, _ in self._known.deltas)
            self._known.deltas.append((DeltaRow(ref.first, part, ref.last, row.block, len(packed)), packed))
            done += ref.object.content_bytes
            await progress(done, total)
        self._known.note = ManifestNote(
            manifest.change,
            tuple((row.block, len(part)) for row, part in parts),
            tuple(self._known.image_blocks),
            total - deltas_bytes,
        )

    async def _fetch_image(self, manifest: Manifest, restore: Restore, progress: Progress, total: int) -> int:
        """All image chunks, some blocks at once. Returns how many bytes they were."""
        wanted: dict[int, list[tuple[int, Placed]]] = {}
        for chunk, (block, slot, offset, length) in enumerate(manifest.order):
            wanted.setdefault(block, []).append((chunk, Placed(slot, offset, length)))
        done, slots = 0, trio.Semaphore(AT_ONCE)
        errors: list[BitdustError] = []

        async def fetch(ref: ObjectRef, chunks: Sequence[tuple[int, Placed]]) -> None:
            nonlocal done
            try:
                row = self._fetcher.take(ref)
                content = await self._fetcher.block(row)
                self._known.chunks += await self._crunch.run(self._write, row, content, chunks, restore)
                self._known.image_blocks.append(row.block)
                done += ref.content_bytes
                await progress(done, total)
            except BitdustError as error:
                errors.append(error)
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            for number, ref in enumerate(manifest.blocks):
                await slots.acquire()
                if errors:
                    slots.release()
                    break
                nursery.start_soon(fetch, ref, wanted.get(number, ()))
        if errors:
            raise errors[0]
        return done

    def _write(
        self, row: BlockRow, block: bytes, chunks: Sequence[tuple[int, Placed]], restore: Restore
    ) -> list[ImageChunk]:
        """Write the chunks of one block to their places. In a worker."""
        seal = self._secrets.seal_of(row.block_id, row.scope, row.suite, Kind.IMAGE)
        indexes: dict[Placed, list[int]] = {}
        for chunk, place in chunks:
            indexes.setdefault(place, []).append(chunk)
        found: list[ImageChunk] = []
        for place, places in indexes.items():  # one by one: small ones may expand to far more than a block
            content = replica.expand(replica.unseal(seal, place, block), IMAGE_CHUNK_BYTES)
            for chunk in places:
                restore.write(chunk, content)
            print_ = blake3(content).digest()
            found.append(ImageChunk(print_, row.block, place.slot, place.offset, place.length))
        return found
