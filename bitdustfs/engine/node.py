"""The node: everything that runs behind one mount, in one nursery.

`Node.running` starts the services; each is restarted when it fails, so that a fault in one costs that one a second
and never the mount. The verbs of the command line (`status`, `sync`, …) are methods here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.core.grace import Patience
from bitdustfs.core.placement import usable_bytes
from bitdustfs.core.report import (
    AuditReport,
    DropReport,
    LeaveReport,
    RebuildReport,
    RecodeChange,
    RecodeReport,
    StatusReport,
    StopReport,
    SyncProgress,
    SyncReport,
    WithoutReport,
)
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.auditor import AUDITS_A_DAY, Auditor
from bitdustfs.engine.collector import Collector, is_kept_back
from bitdustfs.engine.compactor import Compactor
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.drainer import Drainer
from bitdustfs.engine.files import Files
from bitdustfs.engine.follower import Follower
from bitdustfs.engine.forecast import Forecast
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.monitor import TICK_S, Monitor
from bitdustfs.engine.objects import Objects
from bitdustfs.engine.orphans import Orphans
from bitdustfs.engine.outlook import Outlook
from bitdustfs.engine.publisher import Publisher
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.reads import Reads
from bitdustfs.engine.rebuilder import LOOK_EVERY_S, Rebuilder
from bitdustfs.engine.recoder import Recoder, Recoding
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.replica import Replica
from bitdustfs.engine.reporter import Reporter
from bitdustfs.engine.returns import Returns
from bitdustfs.engine.rewriter import Rewriter
from bitdustfs.engine.snapshots import Snapshots
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.tracks import Tracks
from bitdustfs.engine.tree import Tree
from bitdustfs.engine.trimmer import Trimmer
from bitdustfs.engine.uploads import Uploads
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import BitdustError, NotFound
from bitdustfs.model import BLOCK_BYTES, Code, FileState, Ino, Space, Suite, Supplier, SupplierNo
from bitdustfs.ports import Catalog, Changes, Crunch, Entropy, Image, Spool, Wall

SYNC_GRACE_S = 30.0  # how long `sync` waits for fragments when nothing more is acknowledged
SETTLE_S = 10.0  # (tune) for what nobody synced to become hard at umount
DURABLE_S = 8.0  # (tune) then for the last commit, which is what was acknowledged; all together is below 30 s
LAST_HEAD_S = 5.0  # (tune) for the catalog to reach the suppliers at umount
_RESTART_S = 1.0
_LOOK_S = 0.05
_READING = frozenset({"suppliers", "reads"})  # services of a volume that takes no changes
_log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, object]], Awaitable[None]]


@dataclass(slots=True)
class _Wanted:
    """What a `sync` waits for."""

    change: int | None = None  # the last change of the catalog that must become safe, once that is known
    is_full: bool = False  # all blocks are that there were when no new one was needed


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How one mount behaves."""

    spool_limit: int  # bytes
    code: Code | None = None  # of new blocks; None: by the number of suppliers
    deduplicate: bool = True
    practice: bool = False  # all suppliers are on this machine
    suite: Suite = Suite.AES_256_GCM
    boot: bytes = b""  # which boot of this machine it is; b"": nobody can tell
    audits_a_day: int = AUDITS_A_DAY  # leaves of each supplier
    patience: Patience = field(default_factory=Patience)  # with suppliers that do not answer
    watch_every_s: float = TICK_S  # how often it is looked who is there, at least
    repair_every_s: float = LOOK_EVERY_S  # how often it is looked for something to rebuild


class Node:
    """The services of one mounted volume.

    Args:
        image: makes an image of the catalog as it was committed last, at once.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        catalog: Catalog,
        changes: Changes,
        image: Callable[[], Image],
        spool: Spool,
        suppliers: Suppliers,
        crunch: Crunch,
        entropy: Entropy,
        wall: Wall,
        secrets: VolumeSecrets,
        options: NodeOptions,
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._options = options
        self.suppliers = suppliers
        self.journal = Journal(catalog)
        self.fragments = Fragments(catalog, self.journal, suppliers, crunch, secrets, entropy)
        self.fragments.newcomers = suppliers
        self.reader = Reader(catalog, self.fragments, crunch, secrets)
        self.reads = Reads(self.reader, self.fragments)
        self.files = Files(catalog, spool, self.journal, wall, self.reads, spool_limit=options.spool_limit)
        self.tree = Tree(catalog, self.journal, self.files, wall)
        self.attributes = Attributes(catalog, self.journal, self.files, wall)
        self.files.on_published = self.tree.published
        self.releases = Releases(catalog, self.journal, suppliers, secrets)
        self.uploads = Uploads(catalog, self.journal, suppliers, self.releases, secrets)
        self.writer = Writer(
            catalog=catalog,
            files=self.files,
            journal=self.journal,
            fetch=self.reader,
            uploads=self.uploads,
            crunch=crunch,
            entropy=entropy,
            secrets=secrets,
            suite=options.suite,
            code=options.code,
            deduplicate=options.deduplicate,
            is_reading=self.reads.is_busy,
        )
        courtesy = Courtesy(self.reads.is_busy)
        self.collector = Collector(
            catalog,
            self.journal,
            self.releases,
            in_use=self.writer.chunks_in_use,
            on_their_way=self.uploads.on_their_way,
        )
        copies = Copies(catalog, self.files, crunch, secrets)
        self.rewriter = Rewriter(
            catalog=catalog,
            fragments=self.fragments,
            uploads=self.uploads,
            copies=copies,
            crunch=crunch,
            entropy=entropy,
            secrets=secrets,
            suite=options.suite,
            is_needed_elsewhere=lambda: (
                self.files.is_busy() or bool(self.files.dirty_totals()[0]) or self.reads.is_busy()
            ),
        )
        self.compactor = Compactor(catalog, self.journal, self.rewriter)
        self.tracks = Tracks(catalog, self.journal)
        self.uploads.score_of = self.tracks.score
        self.monitor = Monitor(
            catalog, self.journal, suppliers, wall, options.patience, self.tracks, tick_s=options.watch_every_s
        )
        self.auditor = Auditor(
            catalog,
            self.journal,
            self.fragments,
            entropy,
            wall,
            courtesy,
            self.tracks,
            audits_a_day=options.audits_a_day,
        )
        suppliers.on_lost = self.auditor.look_through
        self.returns = Returns(
            catalog=catalog,
            journal=self.journal,
            fragments=self.fragments,
            shelves=suppliers,
            secrets=secrets,
            entropy=entropy,
            look_s=options.watch_every_s,
        )
        self.returns.on_wrong = self.auditor.look_through
        self.monitor.on_absent = self.returns.lost
        suppliers.on_address = self._note_address
        self.rebuilder = Rebuilder(
            catalog,
            self.journal,
            self.fragments,
            suppliers,
            self.uploads,
            self.releases,
            crunch,
            secrets,
            courtesy,
            copies,
            look_s=options.repair_every_s,
        )
        self.trimmer = Trimmer(
            catalog, self.journal, self.uploads, self.releases, self.fragments, steady_s=options.patience.at_none_s
        )
        self.drainer = Drainer(
            catalog=catalog,
            journal=self.journal,
            fragments=self.fragments,
            sink=suppliers,
            uploads=self.uploads,
            releases=self.releases,
            rebuilder=self.rebuilder,
            monitor=self.monitor,
            crunch=crunch,
        )
        self.follower = Follower(
            catalog,
            self.journal,
            self.releases,
            chosen=options.code,
            on_their_way=self.uploads.on_their_way,
            at_work=self.rebuilder.at_work,
        )
        self.drainer.n_with_one_less = self.follower.n_with_one_less
        self.attributes.usual = self.writer.code
        self.attributes.on_code = self.follower.code_set
        self.recoder = Recoder(catalog, self.journal, self.tree, self.rewriter, self.follower)
        self.publisher = Publisher(
            catalog=catalog,
            journal=self.journal,
            keepers=suppliers,
            identity=identity,
            entropy=entropy,
            secrets=secrets,
            suite=options.suite,
        )
        objects = Objects(
            catalog=catalog,
            journal=self.journal,
            uploads=self.uploads,
            releases=self.releases,
            crunch=crunch,
            entropy=entropy,
            secrets=secrets,
            suite=options.suite,
            code=self.writer.code,
        )
        self.replica = Replica(
            catalog=catalog,
            journal=self.journal,
            publisher=self.publisher,
            snapshots=Snapshots(catalog, self.journal, objects, crunch, image),
            objects=objects,
            changes=changes,
            crunch=crunch,
            wall=wall,
        )
        self.orphans = Orphans(
            catalog=catalog,
            journal=self.journal,
            shelves=suppliers,
            secrets=secrets,
            crunch=crunch,
            releases=self.releases,
        )
        self.orphans.may_look = self._may_look_for_orphans
        self.releases.may_release = self._may_release
        self.releases.safe_change = self._released_until
        self.collector.may_collect = lambda: self._may_release() and not is_kept_back(catalog)
        self.collector.on_damage = lambda what: self.reporter.note_trouble(
            f"the catalog is damaged ({what}): suppliers keep all that they have; unmount, and run `bitdustfs fsck`"
        )
        self.rewriter.may_rewrite = self._may_release
        self.trimmer.may_trim = self._may_release
        self.drainer.may_drain = self._may_release
        self.files.is_safe = self.replica.is_safe
        self.files.is_unsure = lambda: self.monitor.is_unsure
        self.reporter = Reporter(
            catalog=catalog,
            spool=spool,
            files=self.files,
            journal=self.journal,
            tree=self.tree,
            writer=self.writer,
            fragments=self.fragments,
            replica=self.replica,
            monitor=self.monitor,
            tracks=self.tracks,
            spool_limit=options.spool_limit,
            practice=options.practice,
        )
        self._forecast = Forecast(
            catalog,
            self.rebuilder,
            reachable=self.fragments.reachable,
            is_here=copies.is_here,
            limit_bytes_s=lambda: suppliers.pacer.up.bytes_per_s,
            speed_of=lambda supplier: self.tracks.of(supplier).bytes_per_s,
            held_up=self._held_up,
        )
        self.reporter.is_unlike = self.follower.is_unlike
        self.reporter.count_unlike = lambda: self.follower.unlike
        self.reporter.trouble_recoding = lambda: self.recoder.trouble
        self._outlook = Outlook(catalog, self.files, self.tree, self.fragments)
        self.reporter.waiting_to_leave = lambda: self.drainer.waiting
        self.files.out_of_quota = self.writer.out_of_room
        self.services: dict[str, Callable[[], Awaitable[None]]] = {  # each is started again when it fails
            "journal": self.journal.run,
            "suppliers": self.suppliers.run,
            "files": self.files.run,
            "hardener": self.files.keep_hard,
            "uploads": self.uploads.run,
            "releases": self.releases.run,
            "collector": self.collector.run,
            "compactor": self.compactor.run,
            "follower": self.follower.run,
            "recoder": self.recoder.run,
            "reads": self.reads.run,
            "writer": self.writer.run,
            "monitor": self.monitor.run,
            "auditor": self.auditor.run,
            "returns": self.returns.run,
            "rebuilder": self.rebuilder.run,
            "trimmer": self.trimmer.run,
            "drainer": self.drainer.run,
            "publisher": self.publisher.run,
            "replica": self.replica.run,
            "orphans": self.orphans.run,
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Run all services; at the end commit what they left."""
        readable_only = self._catalog.failure is not None
        if not readable_only:
            await self._clean_up()
            if is_kept_back(self._catalog):
                self.reporter.note_trouble(
                    "something of the catalog was missing when it was repaired: suppliers keep all that they have "
                    "until `bitdustfs fsck --repair --trust` says that what is missing is given up"
                )
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            await stack.enter_async_context(self.uploads.running())
            await stack.enter_async_context(self.reader.running())
            for name, service in self.services.items():
                if readable_only and name not in _READING:
                    continue
                nursery.start_soon(self._keep_running, name, service)
            try:
                yield self
            finally:
                if not readable_only:
                    await self._last_head()
                    with trio.CancelScope(deadline=trio.current_time() + SETTLE_S, shield=True):
                        await self.files.settle_all()
                    with trio.CancelScope(deadline=trio.current_time() + DURABLE_S, shield=True):
                        await self.journal.durable()

    async def _last_head(self) -> None:
        """Give what was committed a few seconds to reach the suppliers."""
        if not self.publisher.confirmed or not self.publisher.can_reach_quorum or self.journal.refusal is not None:
            return
        with trio.CancelScope(deadline=trio.current_time() + LAST_HEAD_S, shield=True):
            try:
                await self.replica.make_safe()
            except BitdustError as error:
                _log.info("the newest changes are not at the suppliers: %s", error)

    def _note_address(self, supplier: SupplierNo, address: str) -> None:
        """A supplier answers there now: whoever recovers this volume must find it."""
        row = next((row for row in self._catalog.suppliers() if row.supplier == supplier), None)
        if row is None or self._catalog.failure is not None:
            return
        try:
            with self.journal.operation(admitted=True):
                self._catalog.put_supplier(replace(row, address=address))
        except BitdustError as error:
            _log.info("that supplier %s is at %s now is not noted: %s", row.label, address, error)

    def _is_busy(self) -> bool:
        """Somebody reads or writes, or waits for what was written to be safe."""
        return self.files.is_busy() or bool(self.files.dirty_totals()[0]) or len(self.reads) > 0

    def _may_release(self) -> bool:
        return self.publisher.confirmed and self.journal.refusal is None

    def _released_until(self) -> int:
        """The last change by which what it made unneeded may go; 0: none."""
        is_whole = all(each.is_gone for each in self.reporter.aside)  # an older state may need what ours does not
        return self.replica.safe_change if is_whole else 0

    def _may_look_for_orphans(self) -> bool:
        """All that is needed is known here, and nobody else can publish: no older state waits to be put aside."""
        is_ours = self._may_release() and not self.publisher.is_outdated and not is_kept_back(self._catalog)
        return is_ours and self.replica.is_head_safe() and all(each.is_gone for each in self.reporter.aside)

    async def _clean_up(self) -> None:
        """Drop what a process that died left behind."""
        dropped = self.tree.lives.start()
        reverted = self.files.start(self._options.boot)
        await self.journal.durable()  # what the sweep removes must not be needed by an older commit
        swept = self.files.sweep()
        if reverted:
            self.reporter.note_trouble(
                f"after a power loss {reverted} files are as they were synced last; the log names them"
            )
        if dropped or swept:
            _log.info("dropped %d deleted files and %d spool files of a process that died", dropped, swept)

    async def _keep_running(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await service()
                return
            except Exception:  # noqa: BLE001 - a fault in one service costs this one a second, not the mount (I12)
                _log.exception("the service %s failed and is started again", name)
                self.reporter.note_trouble(
                    f"the background service '{name}' failed and was started again; see the log"
                )
            await trio.sleep(_RESTART_S)

    # -- what the kernel's statfs gets -----------------------------------------------------------------------

    def space(self) -> Space:
        """True numbers from what is known here; never asks the network."""
        used, inodes = self._catalog.file_bytes()
        rows = [row for row in self._catalog.suppliers() if row.is_hired]
        code = self.writer.code()
        known = self.suppliers.space()
        free = [
            min(row.capacity_bytes - row.used_bytes, known.get(row.supplier, (row.capacity_bytes, 0))[0])
            for row in rows
        ]
        _, waiting = self.files.dirty_totals()
        available = max(0, usable_bytes(free, code) - waiting) if code else 0
        return Space(total_bytes=used + waiting + available, free_bytes=available, files=inodes)

    # -- the verbs -------------------------------------------------------------------------------------------

    async def status(self, path: str | None = None) -> StatusReport:
        """How safe the volume is, or what lies at `path` (from the root of the volume, "/" first)."""
        return await self.reporter.status(path)

    async def without(self, label: str) -> WithoutReport:
        """What would be if the supplier with this label went now. Raises NotFound: none is meant, or several."""
        return await self._outlook.without(label)

    async def forecast(self) -> RebuildReport:
        """What would be rebuilt now, and why; what was decided about suppliers."""
        return await self._forecast.rebuild()

    async def sync(self, report: Report, timeout_s: float | None) -> SyncReport:
        """Bring everything to suppliers, all n fragments of each block; return what was reached.

        Everything is what there is now: what comes meanwhile is not waited for, and not counted if all else is done.
        Waits as long as something moves. Fragments whose suppliers do not answer are waited for only a grace time.
        """
        self.suppliers.nudge()
        wanted = _Wanted()
        with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show_progress, report)
                await self._until_full(wanted)
                nursery.cancel_scope.cancel()
        is_sure = not self.monitor.is_unsure
        if is_sure and wanted.is_full and wanted.change is not None and self.replica.safe_change >= wanted.change:
            return SyncReport(
                state=FileState.SAFE.value, missing=[], missing_fragments=0, files_local=0, bytes_local=0
            )
        files_local, bytes_local = self.files.dirty_totals()
        state = self.reporter.state()
        if state is FileState.PLACED and wanted.change is not None and self.replica.safe_change >= wanted.change:
            state = FileState.SAFE
        return SyncReport(
            state=state.value,
            missing=self._waited_for(),
            missing_fragments=self.reporter.missing_fragments(),
            files_local=files_local,
            bytes_local=bytes_local,
        )

    async def make_safe(self, ino: Ino | None) -> None:
        """Return when a file, or with None the names, as they are now survive this machine. For fsync=safe.

        The caller has made it durable here, and sets the deadline.

        Raises:
            ReadOnly: it never will be.
        """
        self.suppliers.nudge()
        while True:
            if ino is not None:
                await self.writer.flush(ino)
            await self.replica.make_safe()
            if ino is None or self.files.state(ino) is FileState.SAFE:
                return
            await trio.sleep(_LOOK_S)

    async def drop_cache(self) -> DropReport:
        """Forget every clean chunk, so that the next read comes from suppliers."""
        dropped = await self.files.drop_clean()
        self.reader.forget()
        return DropReport(dropped_bytes=dropped)

    async def audit(self, label: str, report: Report) -> Sequence[AuditReport]:
        """Ask the hired suppliers with that label, or all for an empty one, for everything that they should hold.

        Raises:
            NotFound: nobody has that label.
        """
        rows = [row for row in self._catalog.suppliers() if row.is_listed and label in ("", row.label)]
        if not rows:
            raise NotFound(what=f"no hired supplier is called {label!r}" if label else "no supplier is hired")
        told = []
        for row in rows:

            async def progress(fragments: int, wrong: int, name: str = row.label) -> None:
                await report(AuditReport(label=name, fragments=fragments, wrong=wrong, refused=0, silent=False))

            found = await self.auditor.scan(row, progress)
            told.append(
                AuditReport(
                    label=row.label,
                    fragments=found.fragments,
                    wrong=found.wrong,
                    refused=found.refused,
                    silent=found.is_silent,
                )
            )
        return told

    async def leave(self, label: str) -> LeaveReport:
        """Begin to give a supplier up; durable when this returns. Raises what `Drainer.leave` does."""
        row = self.drainer.leave(label)
        await self.journal.durable()
        return _left(row)

    async def stay(self, label: str) -> LeaveReport:
        """Keep a supplier that was to leave; durable when this returns. Raises what `Drainer.stay` does."""
        row = self.drainer.stay(label)
        await self.journal.durable()
        return _left(row)

    async def recode(self, path: str | None, report: Report, *, is_dry: bool) -> RecodeReport:
        """Have what lies at a path, and has another k than it should, coded anew; noted durably when this returns.

        Raises:
            NotFound: nothing is at the path. DiskFull, DiskFault, ReadOnly: not all of it was noted.
        """

        async def progress(found: Recoding) -> None:
            await report(_recoding(found))

        return _recoding(await self.recoder.recode(self.reporter.find(path or "/"), progress, is_dry=is_dry))

    def stop_report(self) -> StopReport:
        """What exists only here."""
        files_local, bytes_local = self.files.dirty_totals()
        return StopReport(files_local=files_local + self.reporter.files_aside(), bytes_local=bytes_local)

    # -- private ---------------------------------------------------------------------------------------------

    def _held_up(self) -> list[str]:
        """What keeps the rebuilder from its work."""
        told = []
        if self.journal.refusal is not None:
            told.append(f"nothing is rebuilt now, because nothing can be changed: {self.journal.refusal}")
        if self.monitor.is_doubtful:
            told.append("most suppliers do not answer: none is given up meanwhile, for it may be us who are cut off")
        if self.reads.is_busy():
            told.append("somebody reads: repair leaves most of the line to that")
        return told

    async def _until_full(self, wanted: _Wanted) -> None:
        """Wait, and find out what for."""
        last: tuple[int, ...] = ()
        quiet_since = trio.current_time()
        dirty = self.writer.dirty_changes()
        blocks: tuple[int, int] | None = None  # until which each must be full, when no new one is needed any more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.flush)
            nursery.start_soon(self._until_safe, wanted)
            while True:
                await trio.sleep(_LOOK_S)
                files, _ = self.files.dirty_totals()
                is_done = not files and not self._is_putting_aside() and self._is_current()
                if blocks is None and (not nursery.child_tasks or is_done):
                    blocks = self._catalog.newest_blocks()
                if blocks is not None:
                    now: tuple[int, ...] = (self._catalog.missing_fragments(blocks),)
                    if not now[0]:
                        wanted.is_full = True
                        break
                else:
                    now = (self.writer.count_waiting(dirty), self.uploads.sent_bytes, self.replica.safe_change)
                if now != last or (blocks is None and self._is_sending()):
                    last, quiet_since = now, trio.current_time()
                if trio.current_time() - quiet_since > self._grace_s():
                    nursery.cancel_scope.cancel()
                    return
        if not self._is_current():  # the last fragments were noted after the head that we waited for
            with trio.move_on_after(SYNC_GRACE_S):
                await self._make_safe()

    def _is_sending(self) -> bool:
        """Fragments leave, or wait for our own limit: on a slow line, one takes longer than any grace."""
        since = trio.current_time() - SYNC_GRACE_S
        return any(self.suppliers.pushed_at(supplier) > since for supplier in self.suppliers.online())

    def _grace_s(self) -> float:
        """How long `sync` waits when nothing is acknowledged: also for two blocks to leave within our own limit."""
        return SYNC_GRACE_S + 2 * BLOCK_BYTES / self.suppliers.pacer.up.bytes_per_s

    async def _until_safe(self, wanted: _Wanted) -> None:
        """Bring the catalog to suppliers, also what changes meanwhile, until all that was dirty is named there."""
        while self._is_putting_aside():
            await trio.sleep(_LOOK_S)
        awaited = self.writer.dirty_changes()
        while self.writer.is_waiting_for(awaited):
            await trio.sleep(_LOOK_S)
        self.journal.commit()
        wanted.change = self._catalog.last_change
        await self._make_safe()

    def _is_putting_aside(self) -> bool:
        """An older state of this machine still gives files, and nothing keeps it from that."""
        return any(each.left and not each.trouble for each in self.reporter.aside)

    async def _make_safe(self) -> None:
        try:
            await self.replica.make_safe()
        except BitdustError as error:
            _log.warning("the catalog stays as it is at the suppliers: %s", error)

    def _is_current(self) -> bool:
        """Nothing of the catalog waits for suppliers, or there are none."""
        return self.replica.is_current or not self.uploads.hired()

    async def _show_progress(self, report: Report) -> None:
        start, total = self.uploads.sent_bytes, 0
        while True:
            _, waiting = self.files.dirty_totals()
            code = self.writer.code()
            sent = (self.uploads.sent_bytes - start) * code.k // code.n if code else 0
            total = max(total, sent + waiting)
            blocks = sum(count for code, held, count in self._catalog.held_histogram() if held < code.n)
            missing = self._waited_for()
            await report(SyncProgress(placed_bytes=sent, total_bytes=total, blocks=blocks, missing=missing))
            await trio.sleep(0.5)

    def _waited_for(self) -> list[str]:
        """Labels of suppliers that do not answer, if something waits for them."""
        files_local, _ = self.files.dirty_totals()
        if not files_local and not self._catalog.wanting_blocks(1):
            return []
        online = set(self.suppliers.online())
        rows = self._catalog.suppliers()
        return [row.label for row in rows if (row.is_hired or row.is_lost) and row.supplier not in online]


def _recoding(found: Recoding) -> RecodeReport:
    return RecodeReport(
        looked_at=found.looked_at,
        files=found.files,
        blocks=found.blocks,
        bytes=found.bytes,
        send_bytes=found.send_bytes,
        changes=[
            RecodeChange(old=str(old), new=str(new), bytes=length) for (old, new), length in found.codes.items()
        ],
    )


def _left(row: Supplier) -> LeaveReport:
    state = row.standing.name.lower()
    return LeaveReport(label=row.label, state=state, bytes=row.used_bytes, fragments=row.used_fragments)
