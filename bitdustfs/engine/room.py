"""Room in the spool: who may write, and when unneeded bytes are given back.

A spool is full when it has reached its limit, or when the disk under it has only left what the catalog needs: then
there is still room to delete files, and for the commits that give their bytes back.

Bytes that nothing refers to any more are destroyed only after the commit that made them unneeded is durable, and
not while a frozen version still needs them. Positions in a spool file start anew only after the file was removed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from bitdustfs.core.ranges import Region
from bitdustfs.engine.filestate import FileLife, Garbage
from bitdustfs.engine.filetable import FileTable
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.spooled import Spooled
from bitdustfs.errors import BitdustError, ContractsFull, DiskFull, SpoolFull
from bitdustfs.model import Ino
from bitdustfs.ports import Spool

PATIENCE_S = 30.0  # (tune) how long a write waits for a full spool when nothing becomes free
_LOOK_AGAIN_S = 1.0  # clean bytes are looked for a few files at a time
_KEPT = 2  # (tune) a half
_TAKE = 1024  # (tune) regions looked at in one go: a few milliseconds of the loop
_REMOVE = 32  # (tune) files removed in one go: a millisecond or two
_GIVE = 256  # (tune) regions given back in one go
_GIVE_BYTES = 64 * 1024 * 1024  # (tune) and bytes: sums of 64 rows go with them
_STEP = 16  # a sixteenth of the spool is made free at a time, so that not every write has to


class Room:
    """The space of one spool."""

    def __init__(self, spool: Spool, spooled: Spooled, journal: Journal, table: FileTable, limit: int) -> None:
        self._spool = spool
        self._spooled = spooled
        self._journal = journal
        self._table = table
        self._limit = limit
        self.step = limit // _STEP  # so many clean bytes are dropped at a time
        self.kept_most = limit // _KEPT  # so many of them may be kept because too few suppliers hold them
        self._doomed: set[Ino] = set()
        self._freed = trio.Event()
        self._collecting = trio.Lock()
        self.waiting = 0  # writes that only uploads can make room for

    def has(self, length: int) -> bool:
        """Say whether `length` more bytes fit."""
        return self._used() + length <= self._limit and self._spool.fits(length)

    def is_ample(self) -> bool:
        """More than half of the spool is free."""
        return 2 * self._used() < self._limit

    def doom(self, ino: Ino) -> None:
        """Have the spool file of a dropped inode removed after the next durable commit."""
        self._doomed.add(ino)

    def is_doomed(self, ino: Ino) -> bool:
        """Whether that is still to be done: whoever has its number now, in another view, can keep nothing there."""
        return ino in self._doomed

    def freed(self) -> None:
        """Say that bytes may have become clean or free."""
        self._freed.set()
        self._freed = trio.Event()

    async def wait_for(
        self, length: int, *, drop: Callable[[int], Awaitable[int]], out_of_quota: Callable[[], str]
    ) -> None:
        """Return when `length` more bytes fit: drop clean bytes, then wait for uploads to make more clean.

        Args:
            drop: lets go of at least so many clean bytes, if there are; returns how many.
            out_of_quota: says what to do if nothing becomes clean because the contracts are full; else "".
        Raises:
            SpoolFull: nothing became free for PATIENCE_S. ContractsFull: the same, and that is why.
            DiskFull: the disk is, and there is nothing to drop: what others took is not waited for.
        """
        if self.has(length):
            return
        with trio.move_on_after(PATIENCE_S) as patience:
            while not self.has(length):
                freed = self._freed
                dropped = await drop(max(length, self.step))
                self._journal.commit()  # inline bytes count until they are out of the catalog
                try:
                    await self.collect()
                except BitdustError:
                    if not self.has(length):
                        raise
                if dropped:
                    patience.deadline = trio.current_time() + PATIENCE_S
                elif not self._spool.fits(length):
                    raise DiskFull(path="the state directory")
                elif not self.has(length):
                    self.waiting += 1
                    try:
                        with trio.move_on_after(_LOOK_AGAIN_S):
                            await freed.wait()
                    finally:
                        self.waiting -= 1
        if patience.cancelled_caught and not self.has(length):  # it may have waited for who was giving back
            if do := out_of_quota():
                raise ContractsFull(used=self._used(), do=do)
            raise SpoolFull(used=self._used(), limit=self._limit)

    async def collect(self) -> None:
        """Give back what no durable commit and no frozen version needs."""
        async with self._collecting:  # a second collector could punch positions that have started anew
            garbage: list[tuple[FileLife, list[Garbage]]] = [
                (life, []) for life in self._table if life.garbage or life.is_spent
            ]
            for life, _ in garbage:
                life.opens += 1  # a second life of one of them would know nothing of what happens here
            try:
                for life, entries in garbage:
                    await self._take(life, entries)
                doomed = list(self._doomed)
                spent = [(life, life.spool_end) for life, _ in garbage if life.is_spent]
                if not doomed and not spent and not any(entries for _, entries in garbage):
                    await self._spool.settle()  # what a start removed
                    return
                await self._journal.durable()
                await self._destroy(doomed, garbage, spent)
            finally:
                for life, entries in garbage:
                    life.garbage.extend(entries)
                    life.opens -= 1
                    self._table.let_go(life)
            self.freed()

    async def _take(self, life: FileLife, entries: list[Garbage]) -> None:
        """Take the garbage of one file that fills units, and give others their turn if there is much."""
        is_all = False
        while not is_all:
            some, is_all = life.take_garbage(_TAKE)
            entries += some
            if not is_all:
                await trio.lowlevel.checkpoint()

    async def _destroy(
        self, doomed: list[Ino], garbage: list[tuple[FileLife, list[Garbage]]], spent: list[tuple[FileLife, int]]
    ) -> None:
        """Take from each list, and from what is doomed, what is done with.

        Raises:
            DiskFull, DiskFault: the first failure, after everything else was done.
        """
        errors: list[BitdustError] = []
        entries_of = {life.ino: entries for life, entries in garbage}
        removals = (
            *(partial(self._remove_doomed, ino) for ino in doomed),
            *(partial(self._remove_spent, life, end, entries_of[life.ino]) for life, end in spent),
        )
        for turn, work in enumerate(removals, start=1):
            if turn % _REMOVE == 0:
                await self._spool.settle()  # it keeps only so many: the space of more would be given back on the loop
            try:
                work()
            except BitdustError as e:  # one file that cannot be given back must not keep all others
                errors.append(e)
        for life, entries in garbage:
            try:
                await self._punch(life, entries)
            except BitdustError as e:
                errors.append(e)
        await self._spool.settle()
        if errors:
            raise errors[0]

    def _remove_doomed(self, ino: Ino) -> None:
        self._spool.remove(ino)
        self._doomed.discard(ino)

    async def _punch(self, life: FileLife, entries: list[Garbage]) -> None:
        """No file is removed meanwhile, so no position begins anew: garbage stays what it is while we wait."""
        entries.sort(key=lambda each: each.region.at, reverse=True)
        while entries and not life.dead:
            some = _taken(entries)
            try:
                await self._spool.punch(life.ino, _joined(some))
            except BaseException:
                entries += some
                raise
            if life.dead:  # its rows are gone, and its number may be given out anew
                break
            try:
                while some:
                    self._spooled.forget(life, some[-1].region)
                    some.pop()
                    self._journal.note()
            finally:
                entries += some  # what failed is tried again
        entries.clear()

    def _remove_spent(self, life: FileLife, end: int, entries: list[Garbage]) -> None:
        # no await: nothing may be written between check and removal;
        # one that was written meanwhile, and emptied again by a change that is not durable, keeps its file
        if life.is_spent and not life.dead and life.spool_end == end:
            self._spool.remove(life.ino)
            self._spooled.forget_all(life)
            life.spool_end = life.soft_from = 0
            life.hard.restart()
            life.spool_files += 1
            entries.clear()  # what could not be punched is gone as well
            life.garbage.clear()
            life.dead_bytes.clear()
            life.dead_units.clear()
            self._table.save(life)

    def _used(self) -> int:
        return self._spool.used_bytes() + self._table.inline_bytes + self._table.coming_bytes


def _taken(entries: list[Garbage]) -> list[Garbage]:
    """Take as much from the end as is given back in one go."""
    taken: list[Garbage] = []
    room = _GIVE_BYTES
    while entries and room > 0 and len(taken) < _GIVE:
        each = entries.pop()
        at, length = each.region.at, each.region.length
        if length > room:
            entries.append(Garbage(Region(at + room, length - room), each.freeze))
            each = Garbage(Region(at, room), each.freeze)
        taken.append(each)
        room -= length
    return taken


def _joined(entries: list[Garbage]) -> list[tuple[int, int]]:
    """Their ranges (position, length), those that follow one another as one. They are in order."""
    ranges: list[tuple[int, int]] = []
    for each in entries:
        at, length = each.region.at, each.region.length
        if ranges and sum(ranges[-1]) == at:
            ranges[-1] = ranges[-1][0], ranges[-1][1] + length
        else:
            ranges.append((at, length))
    return ranges
