"""The view of a reader: which head's tree a machine shows that does not write, and how it comes to the next one.

    a supplier: there is another head -> its head, judged -> is it on the line that counts? (core/recovery)
    -> the way there (core/way): deltas, or a whole catalog
    -> fetched, joined to one change set -> copies of what becomes another content are let go of
    -> the change set is made beside everybody who reads (a worker) -> one commit, on the loop: the next view

So a view is always the tree of one head, whole: after a crash as well, for the rows that say which head it is are in
the same transaction. A step costs what has changed. Each supplier that answers is asked to tell of another head, and
keeps the question until there is one: at rest nothing happens but that, once a minute. A head that goes back to the
one that is shown is followed whoever tells of it. One beside it, whatever its version, is followed only if its line
is the one that a quorum is seen on, or if it is of a higher epoch.

A reader sends nothing to suppliers but questions; they would refuse it otherwise, by the role in its certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import recovery, replica
from bitdustfs.core.adoption import Descent, descent
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.core.recovery import Answer, Found
from bitdustfs.core.replica import HeadContent, Manifest, ManifestNote
from bitdustfs.core.report import ViewReport
from bitdustfs.core.seal import Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.core.way import Way, has_same_base, way
from bitdustfs.engine import snapshots
from bitdustfs.engine.fetching import Fetcher
from bitdustfs.engine.files import Files
from bitdustfs.engine.heads import WATCH_S
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.publisher import Publisher, keep_head
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.recovery import Connected, Recovery
from bitdustfs.engine.renumbered import Renumbered
from bitdustfs.engine.replica import keep_covered, keep_safe
from bitdustfs.errors import BadFormat, BitdustError, SealBroken
from bitdustfs.model import (
    BlockNo,
    BlockRow,
    DeltaRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Ino,
    NodeId,
    Supplier,
    SupplierNo,
    Touches,
    short,
)
from bitdustfs.ports import Beside, Catalog, Changes, Crunch, Entropy, Workshop

ASK_S = 15.0  # for one supplier to tell its head
SPARE_S = 30.0  # that an answer to a question that was kept may be late
AGAIN_S = 5.0  # after something failed
_log = logging.getLogger(__name__)


class Tellers(Connected, Protocol):
    """What is needed of the suppliers."""

    def add(self, row: Supplier) -> None: ...

    def remove(self, supplier: SupplierNo) -> None: ...

    async def head_with_links(self, supplier: SupplierNo) -> tuple[bytes, bytes]: ...

    async def watch(self, supplier: SupplierNo, epoch: int, version: int) -> tuple[int, int]: ...

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]: ...


@dataclass(frozen=True, slots=True)
class Following:
    """What a node needs to follow heads, beside what every node has."""

    suppliers: Tellers
    workshop: Workshop


@dataclass(frozen=True, slots=True)
class _Next:
    """The next view, fetched, and how to come there."""

    head: Head
    content: HeadContent
    changes: bytes
    way: Way | None  # None: by a whole catalog
    blocks: Sequence[tuple[BlockRow, HeadRef]]
    deltas: Sequence[bytes]  # packed, of those of the way that are done
    manifest: Manifest | None = None  # if it is another one
    beside: Beside | None = None


HeadRef = replica.ObjectRef


class View:
    """Show the tree of the newest head that is known, and follow.

    Attributes:
        prepare: called with what a step touches, and what becomes another content, before copies of it are let go of.
        before: called with the first of these just before the commit; nobody has seen the next view yet.
        after: called with the same right after it, in the same moment of the loop.
        settle: called then: the kernel forgets what it keeps.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        changes: Changes,
        journal: Journal,
        files: Files,
        reader: Reader,
        publisher: Publisher,
        following: Following,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        identity: Identity,
    ) -> None:
        self._catalog = catalog
        self._changes = changes
        self._journal = journal
        self._files = files
        self._reader = reader
        self._publisher = publisher
        self._suppliers = following.suppliers
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self._identity = identity
        self._workshop = following.workshop
        self._stepping = trio.Lock()  # held from when a head is looked at until it is shown
        self._shown = trio.Event()
        self._rows = {row.supplier: row for row in catalog.suppliers()}
        self._answers: dict[NodeId, Answer] = {}  # what each supplier has shown last
        self.trouble = ""  # why the newest head that is known cannot be shown; "" if nothing is wrong
        self.steps = 0  # since the start
        self.prepare: list[Callable[[Touches, Mapping[Ino, Sequence[tuple[int, int]]]], None]] = []
        self.before: list[Callable[[Touches], None]] = []
        self.after: list[Callable[[Touches], None]] = []
        self.settle: list[Callable[[], Awaitable[None]]] = []

    @property
    def head(self) -> Head | None:
        """The one whose tree is shown; None: there was none yet."""
        return self._publisher.head

    @property
    def content(self) -> HeadContent | None:
        """What is sealed in it."""
        return self._publisher.content

    def report(self, answering: int) -> ViewReport | None:
        """What is shown, for `status`; None: nothing yet."""
        if self.head is None or self.content is None:
            return None
        listed = len(self.content.suppliers)
        return ViewReport(
            version=self.head.version,
            time_s=self.content.time_s,
            writer=self.head.signer.node.hex(),
            answering=answering,
            needed=listed - replica.quorum(listed) + 1,
        )

    async def wait_until(self, version: int) -> None:
        """Return when a head of this version, or a newer one, is shown. The caller sets the deadline."""
        while self._publisher.version < version:
            await self._shown.wait()

    async def run(self) -> None:
        """Follow until cancelled."""
        watched: set[SupplierNo] = set()

        async def watch(supplier: SupplierNo) -> None:
            try:
                await self._watch(supplier)
            finally:
                watched.discard(supplier)

        async with trio.open_nursery() as nursery:
            while True:
                for supplier in set(self._suppliers.online()) - watched:
                    watched.add(supplier)
                    nursery.start_soon(watch, supplier)
                with trio.move_on_after(AGAIN_S if len(watched) < len(self._rows) else WATCH_S):
                    await self._suppliers.wait_for_change()

    # -- what suppliers tell -----------------------------------------------------------------------------------

    async def _watch(self, supplier: SupplierNo) -> None:
        """Let one supplier tell of other heads, for as long as it answers."""
        known = 0, 0
        while supplier in self._suppliers.online():
            try:
                soonest = trio.current_time() + AGAIN_S  # for who answers at once, and tells nothing new
                with trio.fail_after(WATCH_S + SPARE_S):
                    told = await self._suppliers.watch(supplier, *known)
                if told > known:
                    await self._look(supplier, told)
                else:
                    await trio.sleep_until(soonest)
                known = told
            except (BitdustError, trio.TooSlowError) as error:
                _log.debug("supplier %d tells nothing of heads now: %s", supplier, error or "no answer in time")
                await trio.sleep(AGAIN_S)

    async def _look(self, supplier: SupplierNo, told: tuple[int, int]) -> None:
        """Ask a supplier for what it has told of, and show what is to be shown by all that is known then."""
        with trio.fail_after(ASK_S):
            raw, links = await self._suppliers.head_with_links(supplier)
        async with self._stepping:
            if supplier not in self._rows:
                return
            try:
                head, content = self._judged(supplier, raw)
                if (head.epoch, head.version) < told:
                    raise BadFormat(what=f"supplier {supplier} told of a head that it does not show")
                answer = Answer(head, heads.genuine_links(head, links), content=content)
                self._answers[self._rows[supplier].node] = answer
                found = self._next()
                if found is not None:
                    await self._show(found.head, found.content, recovery.links_behind(found))
                self.trouble = ""
            except BitdustError as error:
                self.trouble = str(error)
                _log.warning("version %d cannot be shown yet: %s", told[1], error)
                raise

    def _next(self) -> Found | None:
        """The head to show instead of the one that is shown; None: that one, by all that suppliers have shown."""
        answers = dict(self._answers)
        if self.head is not None:
            behind = self._catalog.links(max(0, self.head.version - heads.KEPT_LINKS - 1), self.head.version)
            answers[self._identity.node] = Answer(
                self.head, heads.genuine_links(self.head, behind), content=self.content
            )
        shown = {each.head.digest: (each.head, each.content) for each in answers.values() if each.head is not None}
        seen = [head for head, _content in shown.values()]
        contents = {digest: content for digest, (_head, content) in shown.items() if content is not None}
        best = recovery.choose(seen, answers, contents)
        if best is None or (self.head is not None and best.digest == self.head.digest):
            return None
        found = Found(best, contents[best.digest], answers)
        is_beside = (
            self.head is not None
            and best.epoch == self.head.epoch
            and descent(self.head, found) is Descent.FORKED
            and best != recovery.counting(seen, answers, contents)
        )
        return None if is_beside else found

    def _judged(self, supplier: SupplierNo, raw: bytes) -> tuple[Head, HeadContent]:
        """Check what a supplier shows before anything of it is used. Raises BadFormat."""
        head = heads.parse(raw)
        if head.signer.owner != self._identity.owner or head.handle != self._secrets.handle:
            raise BadFormat(what=f"supplier {supplier} shows the head of another volume")
        try:
            return head, replica.unseal_head(self._secrets, head.sealed)
        except SealBroken as bad:
            raise BadFormat(what=f"supplier {supplier} shows a head that cannot be opened") from bad

    # -- from one view to the next -----------------------------------------------------------------------------

    async def _show(self, head: Head, content: HeadContent, links: bytes) -> None:
        following = await self._fetched(head, content, links)
        try:
            await self._take(following, links)
        except BadFormat as error:
            if following.beside is not None:
                raise
            _log.error("what is here is not what the deltas were made from: %s", error)
            await self._take(await self._fetch_all(head, content), links)
        self.steps += 1
        self._shown.set()
        self._shown = trio.Event()
        _log.info("version %d of node %s is shown", head.version, short(head.signer.node))

    async def _take(self, following: _Next, links: bytes) -> None:
        try:
            touches = await self._crunch.run(self._changes.touches, following.changes)
            await self._step(following, touches, links)
        finally:
            if following.beside is not None:
                await self._crunch.run(following.beside.close)

    async def _fetched(self, head: Head, content: HeadContent, links: bytes) -> _Next:
        rows = [entry.row() for entry in content.suppliers]
        suppliers = Renumbered(self._suppliers, self._rows.values(), rows)
        fetcher = Fetcher(self._workshop.scratch(), rows, suppliers, self._crunch, self._secrets)
        failed: BitdustError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.look)
            try:
                found = await self._fetch(fetcher, head, content, links)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return found

    async def _fetch(self, fetcher: Fetcher, head: Head, content: HeadContent, links: bytes) -> _Next:
        here, manifest = self.content, None
        found: Way | None = None
        if here is not None and has_same_base(here, content):
            found = way(here, content)
        elif here is not None and self.head is not None and self._descends(head, links):
            manifest = await self._manifest(fetcher, content)
            found = way(here, content, base=manifest.change)
        if found is None or here is None:
            return await self._fetch_all(head, content)
        rows = self._catalog.deltas()
        undone = [self._catalog.delta_content(rows[place]) for place in found.undone]
        done = [(await fetcher.object(content.deltas[place].object, Kind.DELTA))[1] for place in found.done]

        def joined() -> bytes:
            back = [replica.expand_delta(packed) for packed in undone]
            return self._changes.between(back, [replica.expand_delta(packed) for packed in done])

        if manifest is not None:
            for ref in manifest.blocks:
                fetcher.take(ref)
        changes = await self._crunch.run(joined)
        return _Next(head, content, changes, found, fetcher.taken, done, manifest)

    def _descends(self, head: Head, links: bytes) -> bool:
        """Whether a head is known to come after the one that is shown."""
        assert self.head is not None
        steps = head.version - self.head.version - 1
        between = links[len(links) - steps * heads.LINK_BYTES :] if steps else b""
        return 0 <= steps <= len(links) // heads.LINK_BYTES and heads.follows(head, between, self.head)

    async def _manifest(self, fetcher: Fetcher, content: HeadContent) -> Manifest:
        parts = [(await fetcher.object(ref, Kind.MANIFEST))[1] for ref in content.manifest]
        return await self._crunch.run(replica.decode_manifest, b"".join(parts))

    async def _fetch_all(self, head: Head, content: HeadContent) -> _Next:
        """The whole catalog that a head names."""
        _log.info("version %d is fetched whole: no deltas lead there", head.version)
        found = Found(head, content, {})
        suppliers = Renumbered(self._suppliers, self._rows.values(), found.suppliers)
        recovery = Recovery(found, suppliers, self._secrets, self._crunch, self._entropy, self._workshop.scratch())
        beside = await self._crunch.run(self._workshop.beside)
        try:
            await recovery.fetch(beside.restore, _say_nothing, is_connected=True)
            changes = await self._crunch.run(beside.finish, content.change, recovery.note)
        except BaseException:
            beside.close()
            raise
        return _Next(head, content, changes, None, (), (), beside=beside)

    async def _step(self, following: _Next, touches: Touches, links: bytes) -> None:
        """Make the next view, and show it. Raises what `Step.apply` and `commit` do: this one is still shown."""
        with self._journal.holding():
            contents = self._spans(touches)
            for make_ready in self.prepare:
                make_ready(touches, contents)
            self._files.let_go_of(contents, touches.gone)
            self._journal.commit_now()
            statements = self._noted(following, touches, links)
            step = self._catalog.step()
            try:
                path = following.beside.path if following.beside is not None else None
                await self._crunch.run(step.apply, following.changes, statements, path)
                for tell in self.before:  # no await from here: everybody sees the one or the other
                    tell(touches)
                step.commit()
                self._publisher.take_over(following.head, following.content)
                self._reader.forget_all()
                self._files.stepped(touches.inodes | contents.keys())
                for tell in self.after:
                    tell(touches)
            finally:
                step.close()
        if touches.suppliers:
            self._take_on_suppliers()
        for wait in self.settle:
            await wait()

    def _spans(self, touches: Touches) -> dict[Ino, list[tuple[int, int]]]:
        """What becomes another content: (first chunk, how many) by file."""
        spans: dict[Ino, list[tuple[int, int]]] = {}
        for ino, rows in touches.contents.items():
            found = spans.setdefault(ino, [])
            for first, count in rows:
                if not count:
                    before = self._catalog.map_rows(ino, first, first)
                    count = before[0].count if before else 1
                found.append((first, count))
        for chunk in touches.refilled:
            for ino, index in self._catalog.all_places_of(chunk):
                spans.setdefault(ino, []).append((index, 1))
        return spans

    # -- what is noted of it -----------------------------------------------------------------------------------

    def _noted(self, following: _Next, touches: Touches, links: bytes) -> list[tuple[str, Sequence[object]]]:
        """Which head it is, and where its parts lie: rows of this machine, as a recovery notes them too."""
        catalog, content = self._catalog, following.content
        with catalog.noted() as statements:
            for ino in touches.gone:
                catalog.drop_local_rows(ino)
            if following.way is not None:
                self._note_way(following, following.way)
            keep_covered(catalog, content.change)
            keep_safe(catalog, content.change)  # nothing in it is of this machine, or waits to be sent from it
            keep_head(catalog, following.head.raw)
            for at in range(0, len(links), heads.LINK_BYTES):
                link = links[at : at + heads.LINK_BYTES]
                catalog.put_link(heads.version_of(link), link)
            catalog.put_link(following.head.version, following.head.link)
            catalog.drop_links(following.head.version - heads.RUN_LINKS)
            catalog.note_last_change(content.change)
        return statements

    def _note_way(self, following: _Next, taken: Way) -> None:
        catalog, rows = self._catalog, self._catalog.deltas()
        gone = [*rows[: taken.dropped], *(rows[place] for place in taken.undone)]
        for row in gone:
            catalog.drop_delta_part(row.first, row.part)
        note = snapshots.kept_note(catalog)
        unneeded = {row.block for row in gone}
        if following.manifest is not None and note is not None:
            unneeded |= {number for number, _ in note.blocks} | set(note.image_blocks)
            catalog.drop_image_chunks()
        for block in unneeded:
            catalog.drop_block(block)
        numbers = {bytes(ref.block_id): self._put_block(row, ref) for row, ref in following.blocks}
        for place, packed in zip(taken.done, following.deltas, strict=True):
            ref = following.content.deltas[place]
            part = sum(each.first == ref.first for each in following.content.deltas[:place])
            number = numbers[bytes(ref.object.block_id)]
            catalog.put_delta(DeltaRow(ref.first, part, ref.last, number, len(packed)), packed)
        if following.manifest is not None:
            image_bytes = sum(ref.content_bytes for ref in following.manifest.blocks)
            snapshots.keep_note(
                catalog,
                ManifestNote(
                    following.manifest.change,
                    tuple((numbers[bytes(ref.block_id)], ref.content_bytes) for ref in following.content.manifest),
                    tuple(numbers[bytes(ref.block_id)] for ref in following.manifest.blocks),
                    image_bytes,
                ),
            )

    def _put_block(self, row: BlockRow, ref: HeadRef) -> BlockNo:
        number = self._catalog.new_local_block_no()
        self._catalog.put_block(BlockRow(number, row.block_id, row.scope, row.suite, row.code, row.length, row.roots))
        for index, supplier in enumerate(ref.at):
            if supplier:
                self._catalog.put_fragment(FragmentRow(number, index, SupplierNo(supplier), FragmentState.HELD))
        return number

    def _take_on_suppliers(self) -> None:
        """Dial who is new, and nobody who was given up."""
        rows = {row.supplier: row for row in self._catalog.suppliers() if row.is_listed}
        for supplier in self._rows.keys() - rows.keys():
            self._suppliers.remove(supplier)
        for supplier, row in rows.items():
            known = self._rows.get(supplier)
            if known is None or (known.node, known.address) != (row.node, row.address):
                self._suppliers.add(row)
        self._rows = rows


async def _say_nothing(_done: int, _total: int) -> None:
    return
