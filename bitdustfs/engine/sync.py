"""Sync: everything that there is now is brought to suppliers, and what was reached is told.

Two things are waited for, one after the other: that a head names all that was dirty, and that each block that there
was by then has all its n fragments. As long as something moves it goes on. Fragments whose suppliers do not
answer are waited for only a grace time: then it ends with what was reached.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from bitdustfs.core.report import SyncProgress, SyncReport
from bitdustfs.engine.customer_side import CustomerSide
from bitdustfs.engine.files import Files
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.monitor import Monitor
from bitdustfs.engine.replica import Replica
from bitdustfs.engine.reporter import Reporter
from bitdustfs.engine.uploads import Uploads
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import BitdustError
from bitdustfs.model import BLOCK_BYTES, FileState, Ino
from bitdustfs.ports import Catalog

SYNC_GRACE_S = 30.0  # how long `sync` waits for fragments when nothing more is acknowledged
_LOOK_S = 0.05
_log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, object]], Awaitable[None]]


@dataclass(slots=True)
class _Wanted:
    """What a `sync` waits for."""

    change: int | None = None  # the last change of the catalog that must become safe, once that is known
    is_full: bool = False  # all blocks are that there were when no new one was needed


class Sync:
    """Bring one volume to its suppliers."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        files: Files,
        writer: Writer,
        uploads: Uploads,
        suppliers: CustomerSide,
        monitor: Monitor,
        replica: Replica,
        reporter: Reporter,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._files = files
        self._writer = writer
        self._uploads = uploads
        self._suppliers = suppliers
        self._monitor = monitor
        self._replica = replica
        self._reporter = reporter

    async def bring_all(self, report: Report, timeout_s: float | None) -> SyncReport:
        """Bring everything to suppliers, all n fragments of each block; return what was reached.

        Everything is what there is now: what comes meanwhile is not waited for, and not counted if all else is done.
        """
        self._suppliers.nudge()
        wanted = _Wanted()
        with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show_progress, report)
                await self._until_full(wanted)
                nursery.cancel_scope.cancel()
        is_sure = not self._reporter.is_unsure
        if is_sure and wanted.is_full and wanted.change is not None and self._replica.safe_change >= wanted.change:
            return SyncReport(
                state=FileState.SAFE.value, missing=[], missing_fragments=0, files_local=0, bytes_local=0, why=[]
            )
        files_local, bytes_local = self._files.dirty_totals()
        state = self._reporter.state()
        if state is FileState.PLACED and wanted.change is not None and self._replica.safe_change >= wanted.change:
            state = FileState.SAFE
        return SyncReport(
            state=state.value,
            missing=self._waited_for(),
            missing_fragments=self._reporter.missing_fragments(),
            files_local=files_local,
            bytes_local=bytes_local,
            why=self._reporter.stuck(),
        )

    async def make_safe(self, ino: Ino | None) -> None:
        """Return when a file, or with None the names, as they are now survive this machine. For fsync=safe.

        The caller has made it durable here, and sets the deadline.

        Raises:
            ReadOnly: it never will be.
        """
        self._suppliers.nudge()
        while True:
            if ino is not None:
                await self._writer.flush(ino)
            await self._replica.make_safe()
            if ino is None or self._files.state(ino) is FileState.SAFE:
                return
            await trio.sleep(_LOOK_S)

    # -- private ---------------------------------------------------------------------------------------------

    async def _until_full(self, wanted: _Wanted) -> None:
        """Wait, and find out what for."""
        last: tuple[int, ...] = ()
        quiet_since = trio.current_time()
        dirty = self._writer.dirty_changes()
        blocks: tuple[int, int] | None = None  # until which each must be full, when no new one is needed any more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writer.flush)
            nursery.start_soon(self._until_safe, wanted)
            while True:
                await trio.sleep(_LOOK_S)
                files, _ = self._files.dirty_totals()
                is_done = not files and not self._is_putting_aside() and self._is_current()
                if blocks is None and (not nursery.child_tasks or is_done):
                    blocks = self._catalog.newest_blocks()
                if blocks is not None:
                    now: tuple[int, ...] = (self._catalog.missing_fragments(blocks),)
                    if not now[0]:
                        wanted.is_full = True
                        if not self._uploads.hired():
                            nursery.cancel_scope.cancel()  # nothing ever becomes safe
                        break
                else:
                    now = (self._writer.count_waiting(dirty), self._uploads.sent_bytes, self._replica.safe_change)
                if now != last or (blocks is None and self._is_sending()):
                    last, quiet_since = now, trio.current_time()
                if self._journal.is_forbidden or trio.current_time() - quiet_since > self._grace_s():
                    nursery.cancel_scope.cancel()
                    return
        if not self._is_current():  # the last fragments were noted after the head that we waited for
            with trio.move_on_after(SYNC_GRACE_S):
                await self._make_safe()

    def _is_sending(self) -> bool:
        """Fragments leave, or wait for our own limit: on a slow line, one takes longer than any grace."""
        since = trio.current_time() - SYNC_GRACE_S
        return any(self._suppliers.pushed_at(supplier) > since for supplier in self._suppliers.online())

    def _grace_s(self) -> float:
        """How long `sync` waits when nothing is acknowledged: also for two blocks to leave within our own limit."""
        return SYNC_GRACE_S + 2 * BLOCK_BYTES / self._suppliers.pacer.up.bytes_per_s

    async def _until_safe(self, wanted: _Wanted) -> None:
        """Bring the catalog to suppliers, also what changes meanwhile, until all that was dirty is named there."""
        while self._is_putting_aside():
            await trio.sleep(_LOOK_S)
        awaited = self._writer.dirty_changes()
        while self._writer.is_waiting_for(awaited):
            await trio.sleep(_LOOK_S)
        self._journal.commit()
        wanted.change = self._catalog.last_change
        await self._make_safe()

    def _is_putting_aside(self) -> bool:
        """An older state of this machine still gives files, and nothing keeps it from that."""
        return any(each.left and not each.trouble for each in self._reporter.aside)

    async def _make_safe(self) -> None:
        try:
            await self._replica.make_safe()
        except BitdustError as error:
            _log.warning("the catalog stays as it is at the suppliers: %s", error)

    def _is_current(self) -> bool:
        """Nothing of the catalog waits for suppliers, or there are none."""
        return self._replica.is_current or not self._uploads.hired()

    async def _show_progress(self, report: Report) -> None:
        start, total = self._uploads.sent_bytes, 0
        while True:
            _, waiting = self._files.dirty_totals()
            code = self._writer.code()
            sent = (self._uploads.sent_bytes - start) * code.k // code.n if code else 0
            total = max(total, sent + waiting)
            blocks = sum(count for code, held, count in self._catalog.held_histogram() if held < code.n)
            missing = self._waited_for()
            await report(SyncProgress(placed_bytes=sent, total_bytes=total, blocks=blocks, missing=missing))
            await trio.sleep(0.5)

    def _waited_for(self) -> list[str]:
        """Labels of suppliers that do not answer, if something waits for them."""
        files_local, _ = self._files.dirty_totals()
        if self._journal.is_forbidden:
            return []  # nothing is sent from here, whoever answers
        if not files_local and not self._catalog.wanting_blocks(1):
            return []
        online = set(self._suppliers.online())
        rows = self._catalog.suppliers()
        return [row.label for row in rows if (row.is_hired or row.is_lost) and row.supplier not in online]
