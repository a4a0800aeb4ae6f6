"""The hardener: what makes spool bytes survive a power loss, and what happens to those that did not.

For an fsync, and for a rename over something, at once; of a long stream part by part while it is written; for
everything else that is dirty within seconds, as a local disk would. Bytes that became clean are only summed:
suppliers have them, and a sum tells after a power loss whether the disk has them too.

A power loss is told by the kernel's boot id: the last mount was in another boot. Then files with soft bytes go back
to what was hard, see `hardness`. A process that was killed loses nothing: its writes are in the page cache.

When a sync fails, the kernel may drop the bytes that it could not write, and show older ones in their place. So they
are summed before the disk is waited for, and the sums are kept although nothing became hard: what reads differently
later is an error, is not uploaded, and makes no later process believe its own sync.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import trio

from bitdustfs.core.ranges import chunk_count
from bitdustfs.core.sums import unit_floor
from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.spooled import Spooled
from bitdustfs.errors import BitdustError, DiskFault, SpoolDamaged
from bitdustfs.model import INLINE_BYTES, Extent, Hold, Ino, short
from bitdustfs.ports import Catalog, Spool

SUM_FIRST_BYTES = 4 * 1024 * 1024  # (tune) 3 ms: more is summed while the disk writes, and not before
LOOK_EVERY_S = 5.0  # (tune) how long bytes stay without a sum
HARDEN_AFTER_S = 10.0  # (tune) a change that old is made hard, even if nobody asks and no supplier takes it
EARLY_BYTES = 16 * 1024 * 1024  # (tune) of a stream, made hard while it is written: the disk takes 30 to 50 ms
_BATCH = 256  # files between two commits at the start, and between two breaths later
_BOOT = "boot"
_FOREVER = 1 << 62
_log = logging.getLogger(__name__)


class Hardener:
    """Sums and syncs the spool bytes of files."""

    def __init__(self, catalog: Catalog, journal: Journal, spool: Spool, table: FileTable, spooled: Spooled) -> None:
        self._catalog = catalog
        self._journal = journal
        self._spool = spool
        self._table = table
        self._spooled = spooled
        self._long: dict[Ino, FileLife] = {}  # with EARLY_BYTES that are soft
        self._is_long = trio.Event()
        self._failed = False  # something in this round
        self._said: set[str] = set()  # of what goes on failing

    def start(self, boot: bytes) -> int:
        """Before anything is read: see to bytes that a crash may have taken. The caller makes it durable.

        Args:
            boot: which boot of the machine this is; b"" if that cannot be told.
        Returns:
            How many files lost changes that nobody had synced.
        """
        before = self._catalog.local_value(_BOOT)
        power_lost = before is not None and (before != boot or not boot)
        reverted = 0
        for turn, row in enumerate(self._catalog.unsure_files(), start=1):
            life = self._table.life(row.ino)
            self._doubt(life, power_lost=power_lost)
            life.hard.cut_unsummed(life.extents)
            if power_lost and life.dirty and self._revert(life):
                _log.warning("inode %d is as it was synced last: a power loss took later changes", life.ino)
                reverted += 1
            self._table.save(life)
            if turn % _BATCH == 0:
                self._journal.commit()
        for life in self._table:  # what was garbage when the last process ended
            life.reclaim()
            self._take_back_laid(life)
        if before != boot:
            _log.debug("this is boot %s", short(boot))
            with self._journal.operation():
                self._catalog.put_local_value(_BOOT, boot)
        return reverted

    def _take_back_laid(self, life: FileLife) -> None:
        """At a start: of versions that were not published nobody knows which rows are right."""
        first, end = chunk_count(life.published_size), life.mapped_until
        if first < end:
            with self._journal.operation():
                for newest in self._catalog.snapshots()[-1:]:  # it may not have been left out of it yet
                    self._catalog.leave_out(newest.generation, life.ino, first, end - 1)
                self._catalog.replace_map(life.ino, (), first=first, last=end - 1)
        life.mapped_until = 0

    async def settle(self, ino: Ino) -> None:
        """Make the file's bytes survive a power loss, so that a name committed later never shows less.

        Raises:
            DiskFull, DiskFault, SpoolDamaged
        """
        life = self._table.loaded(ino)
        if life is None or not _is_soft(life):
            return
        async with _Turn(life, self._table):
            if _is_soft(life):
                await self._harden_or_forget(life)

    async def settle_all(self) -> None:
        """Make everything hard and summed, as far as the disk does it. The caller sets the deadline."""
        for life in list(self._table):
            await self._tend(life, at_once=True)

    def wrote(self, life: FileLife) -> None:
        """Take note of a file that was written: a disk that gets a stream all at once, at its fsync, idles before."""
        tried = max(life.hard.until, life.hard.summed)  # what could not be synced was summed all the same
        if life.spool_end - tried >= EARLY_BYTES and life.ino not in self._long:
            self._long[life.ino] = life
            self._is_long.set()

    async def run(self) -> None:
        """Sum what is new, and make hard what changed long ago or is much, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_streams)
            await self._run()

    # -- private ---------------------------------------------------------------------------------------------

    async def _follow_streams(self) -> None:
        while True:
            await self._is_long.wait()
            self._is_long = trio.Event()
            for ino, life in list(self._long.items()):
                try:
                    with self._told(f"inode {ino}"):
                        async with _Turn(life, self._table):
                            if _is_soft(life):
                                await self._harden_or_forget(life)
                finally:
                    del self._long[ino]  # not before: what is written meanwhile wakes us again when it is enough

    async def _run(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            for turn, life in enumerate(list(self._table), start=1):
                await self._tend(life, at_once=False)
                if turn % _BATCH == 0:
                    await trio.lowlevel.checkpoint()
            with self._told("the catalog"):
                await self._journal.durable()  # small files are in it, and what was made hard
            if not self._failed:
                self._said.clear()
            self._failed = False

    async def _tend(self, life: FileLife, *, at_once: bool) -> None:
        if life.dead or (life.hard.turn.locked() and not at_once):
            return
        old = at_once or trio.current_time() - life.soft_at >= HARDEN_AFTER_S
        harden = life.dirty and old and _is_soft(life)
        if not harden and (life.dirty or life.hard.summed >= life.spool_end):
            return  # of dirty bytes only hard ones are summed: a sum of both is of no use when soft ones are lost
        with self._told(f"inode {life.ino}"):
            async with _Turn(life, self._table):
                if not life.dead:
                    await (self._harden_or_forget(life) if harden else self._sum(life))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say once what failed, as long as it does; an fsync will say it to whoever asks."""
        try:
            yield
        except BitdustError as e:
            self._say_once(f"{what} could not be made durable: {e}")

    def _say_once(self, sentence: str) -> None:
        self._failed = True
        if sentence not in self._said:
            self._said.add(sentence)
            _log.warning("%s", sentence)

    async def _harden_or_forget(self, life: FileLife) -> None:
        """Harden; what fails and are only copies of what suppliers have is forgotten."""
        try:
            await self._harden(life)
        except (SpoolDamaged, DiskFault) as e:
            if Hold.DIRTY in life.holds(0, life.spool_end):
                raise
            self._forget_copies(life, e)

    def _forget_copies(self, life: FileLife, why: BitdustError) -> None:
        self._say_once(
            f"inode {life.ino}: its local copy is forgotten, and comes from the suppliers when it is read: {why}. "
            "If this goes on, have the disk looked at"
        )
        life.drop_clean(_FOREVER)
        self._table.save(life)

    async def _harden(self, life: FileLife) -> None:
        end, files, began = life.spool_end, life.spool_files, trio.current_time()
        life.soft_from = end  # before the wait: what is being hardened is not written again
        life.hard.begin(end, life.size, life.change)
        try:
            start, sums, failure = await self._sum_and_sync(life, end)
            # no await from here on: hard in memory is hard in the next commit
            if not life.dead and life.spool_files == files:
                self._journal.admit()
                self._spooled.note(life, start, sums, end)
                if failure is None:
                    life.drop_regions(life.hard.complete())
                    life.soft_at = began
                self._table.save(life)
            if failure is not None:
                raise failure
        finally:
            life.drop_regions(life.hard.give_up())

    async def _sum_and_sync(self, life: FileLife, end: int) -> tuple[int, bytes, BitdustError | None]:
        """Sum, then wait for the disk; of much, both at once. Returns what `note` needs, and how the sync failed."""
        if end - life.hard.summed <= SUM_FIRST_BYTES:
            start, sums = await self._spooled.sum(life, end)
            return start, sums, await self._sync(life)
        results: list[tuple[int, bytes]] = []
        errors: list[BitdustError] = []

        async def sum_it() -> None:
            try:
                results.append(await self._spooled.sum(life, end))
            except BitdustError as e:  # raised outside the nursery, which would wrap it in a group
                errors.append(e)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sum_it)
            failure = await self._sync(life)
        if errors:
            raise errors[0]
        return *results[0], failure

    async def _sync(self, life: FileLife) -> BitdustError | None:
        try:
            await self._spool.harden(life.ino)
        except BitdustError as e:
            return e
        return None

    async def _sum(self, life: FileLife) -> None:
        end, files = life.spool_end, life.spool_files
        if life.dirty or life.hard.summed >= end:
            return
        life.soft_from = end
        try:
            start, sums = await self._spooled.sum(life, end)
        except (SpoolDamaged, DiskFault) as e:
            if not life.dirty and not life.dead:
                self._forget_copies(life, e)
            return
        if life.dirty or life.dead or life.spool_files != files or not self._journal.keeps:
            return  # of dirty bytes only hard ones are summed
        self._spooled.note(life, start, sums, end)
        self._table.save(life)

    def _doubt(self, life: FileLife, *, power_lost: bool) -> None:
        """At the start: see to dirty bytes that were summed because a sync of them failed."""
        hard = life.hard
        if hard.until >= hard.summed:
            return
        if power_lost and Hold.DIRTY in life.holds(unit_floor(hard.until), hard.until):
            self._spooled.sum_again(life)
        elif not power_lost and Hold.DIRTY in life.holds(hard.until, hard.summed):
            self._spool.distrust(life.ino)

    def _revert(self, life: FileLife) -> bool:
        """Make a file what is hard of it. Says whether that is less than it was."""
        content = life.hard.inline
        soft = life.hard.revert(life.extents)
        if content is not None:
            soft += life.extents.cut(0, _FOREVER)
            if life.hard.size <= INLINE_BYTES:
                life.inline = content[: life.hard.size].ljust(life.hard.size, b"\0")
                life.hard.inline = None
            else:
                self._spool.write(life.ino, life.spool_end, content)
                life.extents.lay(Extent(0, len(content), life.spool_end, Hold.DIRTY))
                life.extents.lay(Extent(len(content), max(len(content), life.base_size), 0, Hold.ZERO))
                life.spool_end += len(content)
        if content is None and not soft:
            return False
        life.size = life.hard.size
        life.change += 1
        return True


class _Turn:
    """While inside, nobody else sums or hardens the file. It stays in memory: a second life of it would know nothing.

    A class, because each fsync does it: a generator costs three times as much.
    """

    __slots__ = ("_life", "_table")

    def __init__(self, life: FileLife, table: FileTable) -> None:
        self._life = life
        self._table = table

    async def __aenter__(self) -> None:
        self._life.opens += 1
        turn = self._life.hard.turn
        if not turn.locked():
            turn.acquire_nowait()  # without a pass of the loop
            return
        try:
            await turn.acquire()
        except BaseException:
            self._let_go()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._life.hard.turn.release()
        self._let_go()

    def _let_go(self) -> None:
        self._life.opens -= 1
        self._table.let_go(self._life)


def _is_soft(life: FileLife) -> bool:
    """Some of it lies in the spool and may not survive a power loss."""
    return not life.dead and life.inline is None and life.hard.until < life.spool_end
