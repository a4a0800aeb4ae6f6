"""The node: everything that runs behind one mount, in one nursery.

`Node.running` starts the services (engine/services); each is restarted when it fails, so that a fault in one costs
that one a second and never the mount. The verbs of the command line (`status`, `sync`, …) are methods here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

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
    SyncReport,
    WithoutReport,
)
from bitdustfs.engine.collector import is_kept_back
from bitdustfs.engine.recoder import Recoding
from bitdustfs.engine.services import OF_READERS, Service, Services
from bitdustfs.engine.sync import Report
from bitdustfs.errors import BadRequest, BitdustError, NotFound, ReadOnly
from bitdustfs.model import Ino, OwnerId, Space, Supplier, Unsent

SETTLE_S = 10.0  # (tune) for what nobody synced to become hard at umount
DURABLE_S = 8.0  # (tune) then for the last commit, which is what was acknowledged; all together is below 30 s
LAST_HEAD_S = 5.0  # (tune) for the catalog to reach the suppliers at umount
_RESTART_S = 1.0
_READING = frozenset({"suppliers", "reads"})  # services of a volume that takes no changes
_log = logging.getLogger(__name__)


class Node(Services):
    """A mounted volume: its services at work, and what the verbs of the command line ask of them."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Run all services; at the end commit what they left."""
        readable_only = self._catalog.failure is not None
        if self.is_reader and not readable_only:
            await self._clean_up_reader()
        elif not readable_only:
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
                if name in (_READING if readable_only else OF_READERS):
                    nursery.start_soon(self._keep_running, name, service, name=f"service {name}")
            if not readable_only:
                nursery.start_soon(self._write_then_follow)
            try:
                yield self
            finally:
                if not readable_only:
                    if not self.is_reader:
                        await self._last_head()
                        await self.holding.let_go()
                    with trio.CancelScope(deadline=trio.current_time() + SETTLE_S, shield=True):
                        await self.files.settle_all()
                    with trio.CancelScope(deadline=trio.current_time() + DURABLE_S, shield=True):
                        await self.journal.durable()

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
        used += self.snapshots.held.total + self.snapshots.held.fork_bytes
        return Space(total_bytes=used + waiting + available, free_bytes=available, files=inodes)

    def stored_with(self, owner: OwnerId) -> tuple[int, int]:
        """Bytes and fragments that are stored with an owner, as we count them: he may say what he likes."""
        rows = [row for row in self._catalog.suppliers() if row.owner == owner]
        return sum(row.used_bytes for row in rows), sum(row.used_fragments for row in rows)

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
        """Bring everything to suppliers, all n fragments of each block; return what was reached."""
        return await self._sync.bring_all(report, timeout_s)

    async def make_safe(self, ino: Ino | None) -> None:
        """Return when a file, or with None the names, survive this machine. See `Sync.make_safe`."""
        await self._sync.make_safe(ino)

    async def drop_cache(self) -> DropReport:
        """Forget every clean chunk, so that the next read comes from suppliers."""
        dropped = await self.files.cache.drop_all()
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
        self.register.by_person(row.supplier)
        await self.journal.durable()
        return _left(row)

    async def stay(self, label: str) -> LeaveReport:
        """Keep a supplier that was to leave; durable when this returns. Raises what `Drainer.stay` does."""
        ends = next((each for each in self._catalog.suppliers() if each.label == label), None)
        if ends is not None and not self.register.is_new_worth(ends.supplier):
            raise BadRequest(what=f"the contract with {label} ends: `bitdustfs contracts renew` first")
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
        is_taken = (
            self.journal.is_forbidden and self.written_by != ""
        )  # else a person has chosen this state meanwhile
        becomes = Unsent.KEPT if self.publisher.is_disowned else Unsent.ASIDE if is_taken else Unsent.SENT
        return StopReport(
            files_local=files_local + self.reporter.files_aside(),
            bytes_local=bytes_local,
            becomes=becomes.value,
            writer=self.written_by if is_taken else "",
        )

    # -- private ---------------------------------------------------------------------------------------------

    async def _last_head(self) -> None:
        """Give what was committed a few seconds to reach the suppliers."""
        if not self.publisher.confirmed or not self.publisher.can_reach_quorum or self.journal.refusal is not None:
            return
        with trio.CancelScope(deadline=trio.current_time() + LAST_HEAD_S, shield=True):
            try:
                await self.replica.make_safe()
            except BitdustError as error:
                _log.info("the newest changes are not at the suppliers: %s", error)

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

    async def _clean_up_reader(self) -> None:
        """See to what is kept of files here; nothing else of the volume is changed by who only reads."""
        self.files.start(self._options.boot)
        await self.journal.durable()
        self.files.sweep()
        if self.journal.refusal is None:
            self.journal.forbid(
                ReadOnly(what="this machine only reads the volume: another one writes it; see `bitdustfs status`")
            )

    async def _write_then_follow(self) -> None:
        """Run what only a writer has, until this machine writes no more; then follow who does."""
        with self.writing:
            async with trio.open_nursery() as nursery:
                for name, service in self.services.items():
                    if name not in OF_READERS:
                        nursery.start_soon(self._keep_running, name, service, name=f"service {name}")
        if self.view is not None:
            await self.forget_pages()
            await self._keep_running("view", self.view.run)

    async def _keep_running(self, name: str, service: Service) -> None:
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
