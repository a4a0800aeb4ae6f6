"""Spool bytes with their check sums: what is read is what was written, or an error.

Sums are made when bytes become hard, and of the rest a few seconds after they were written, of what the page cache
holds then. From there on each read is checked, in whole units: a flipped bit is met before anybody sees it or it is
sealed and sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from bitdustfs.core.ranges import Region
from bitdustfs.core.sums import ROW_BYTES, ROW_SUMS, SUM_BYTES, sums_of, unit_ceil, unit_floor
from bitdustfs.engine.filestate import FileLife
from bitdustfs.errors import DiskFault, SpoolDamaged
from bitdustfs.model import SUM_UNIT_BYTES, Ino
from bitdustfs.ports import Catalog, Spool

ON_LOOP_BYTES = 4 * SUM_UNIT_BYTES  # (tune) summed on the loop, in 40 µs: less than a hop into a worker
KEPT_ROWS = 4096  # (tune) rows of sums kept in memory, 3 MiB of it: of 4 GiB of spool


@dataclass(frozen=True, slots=True)
class Unchecked:
    """Bytes that were read and not compared with their sums yet. Hashing is all that is missing: for a worker."""

    content: bytes  # whole units, as far as they were summed
    summed_bytes: int  # of them, from the front; 0: nothing was
    known: bytes  # their sums
    before: int  # bytes that come before what was asked for
    length: int  # of what was asked for

    def is_right(self) -> bool:
        """Say whether it is what was written, as far as that can be told."""
        if not self.summed_bytes:
            return True
        whole = len(self.content) == self.summed_bytes
        return sums_of(self.content if whole else memoryview(self.content)[: self.summed_bytes]) == self.known

    def asked(self) -> bytes:
        """What was asked for, right or not."""
        if not self.before and len(self.content) == self.length:
            return self.content
        return self.content[self.before : self.before + self.length]


class Spooled:
    """The spool bytes of all files, by the sums in the catalog."""

    def __init__(self, catalog: Catalog, spool: Spool) -> None:
        self._catalog = catalog
        self._spool = spool
        self._kept: OrderedDict[tuple[Ino, int], bytes] = OrderedDict()  # as stored; used last at the end

    def read(self, life: FileLife, at: int, length: int) -> bytes:
        """Exactly `length` bytes, checked as far as they were summed. Raises SpoolDamaged, DiskFault."""
        found = self.unchecked(life, at, length)
        if not found.is_right():
            raise SpoolDamaged(ino=life.ino)
        return found.asked()

    def unchecked(self, life: FileLife, at: int, length: int) -> Unchecked:
        """The same, for who checks it elsewhere. Raises DiskFault."""
        summed = life.hard.summed
        if at >= summed:
            return Unchecked(self._spool.read(life.ino, at, length), 0, b"", 0, length)
        start, end = unit_floor(at), at + length
        checked = min(unit_ceil(end), summed)
        content = self._spool.read(life.ino, start, end - start, extra=max(0, checked - end))
        size = checked - start
        # a power loss may have taken the file's end, of which nothing was needed: it was summed as zeros
        content = content.ljust(size, b"\0")
        return Unchecked(content, size, self._known(life, start, checked), at - start, length)

    async def sum(self, life: FileLife, end: int) -> tuple[int, bytes]:
        """Sum spool bytes from where sums end to `end`, for `note`. Nobody may write below `end` meanwhile.

        Returns:
            The position of the first unit, and the sums.
        Raises:
            SpoolDamaged: the unit that is only now whole is not what it was. DiskFault
        """
        summed = life.hard.summed
        start, spoilt = unit_floor(summed), b""
        before, sums = await self._sums(life, start, summed, end)
        if start < summed:
            known = self._known(life, start, summed)
            if before != known and life.holds(start, summed):
                if life.hard.until >= summed:
                    raise SpoolDamaged(ino=life.ino)
                spoilt = known  # a power loss took them, or a sync failed: whoever reads the unit shall notice
        return start, spoilt + sums[len(spoilt) :]

    def note(self, life: FileLife, start: int, sums: bytes, end: int) -> None:
        """Keep what `sum` made, all or nothing. Called where the file's row is saved as well."""
        rows = list(self._rows_with(life, start, sums))
        for row, _ in rows:
            self._kept.pop((life.ino, row), None)
        if len(rows) == 1:  # a savepoint costs as much as putting it
            row, whole = rows[0]
            self._catalog.put_sums(life.ino, row, whole)
            self._keep((life.ino, row), whole)  # the next note goes on there
        else:
            with self._catalog.savepoint():
                for row, whole in rows:
                    self._catalog.put_sums(life.ino, row, whole)
        life.hard.summed = end

    def sum_again(self, life: FileLife) -> None:
        """After a power loss: sum the last hard unit up to where it is hard, instead of with soft bytes behind."""
        start, until = unit_floor(life.hard.until), life.hard.until
        try:
            content = self._spool.read(life.ino, start, until - start)
        except DiskFault:
            return  # whoever reads it shall notice
        self.note(life, start, sums_of(content), until)

    def forget(self, life: FileLife, region: Region) -> None:
        """Drop the sums of whole units that were given back, once all units of a row were."""
        first, end = -(-region.at // ROW_BYTES), (region.at + region.length) // ROW_BYTES
        if first < end:
            self._drop(life.ino, first, end)
        dead = {}
        for at, stop in _ends(region):
            row = at // ROW_BYTES
            dead[row] = life.dead_units.get(row, 0) + (stop - at) // SUM_UNIT_BYTES
            if dead[row] == ROW_SUMS:
                self._drop(life.ino, row, row + 1)
        for row, units in dead.items():  # not before: a failure is tried again
            life.dead_units[row] = units
            if units == ROW_SUMS:
                del life.dead_units[row]

    def forget_all(self, life: FileLife) -> None:
        """Drop all sums of a file: its positions begin anew."""
        self._drop(life.ino, 0, life.spool_end // ROW_BYTES + 1)

    async def _sums(self, life: FileLife, start: int, summed: int, end: int) -> tuple[bytes, bytes]:
        """The sums that [start, summed) and [start, end) have now."""
        if end - start > ON_LOOP_BYTES:
            before = await self._spool.sums(life.ino, start, summed) if start < summed else b""
            return before, await self._spool.sums(life.ino, start, end)
        content = self._spool.read(life.ino, start, 0, extra=end - start).ljust(end - start, b"\0")
        return sums_of(content[: summed - start]), sums_of(content)

    def _rows_with(self, life: FileLife, start: int, sums: bytes) -> Iterator[tuple[int, bytes]]:
        unit, done = start // SUM_UNIT_BYTES, 0
        while done < len(sums):
            row, place = divmod(unit, ROW_SUMS)
            count = min(ROW_SUMS - place, (len(sums) - done) // SUM_BYTES)
            before = self._row(life.ino, row)[: place * SUM_BYTES].ljust(place * SUM_BYTES, b"\0") if place else b""
            yield row, before + sums[done : done + count * SUM_BYTES]
            unit, done = unit + count, done + count * SUM_BYTES

    def _known(self, life: FileLife, start: int, end: int) -> bytes:
        """The noted sums of the units of [start, end)."""
        first, last = start // SUM_UNIT_BYTES, (end - 1) // SUM_UNIT_BYTES
        row, low = divmod(first, ROW_SUMS)
        left = last - first + 1
        known = self._row(life.ino, row)[low * SUM_BYTES : (low + left) * SUM_BYTES]
        while (left := left - (ROW_SUMS - low)) > 0:
            row, low = row + 1, 0
            known += self._row(life.ino, row)[: left * SUM_BYTES]
        return known

    def _row(self, ino: Ino, row: int) -> bytes:
        key = ino, row
        sums = self._kept.get(key)
        if sums is not None:
            self._kept.move_to_end(key)
            return sums
        return self._keep(key, self._catalog.sums(ino, row))

    def _keep(self, key: tuple[Ino, int], sums: bytes) -> bytes:
        self._kept[key] = sums
        if len(self._kept) > KEPT_ROWS:
            self._kept.popitem(last=False)
        return sums

    def _drop(self, ino: Ino, first: int, end: int) -> None:
        if end - first > len(self._kept):
            self._kept.clear()
        for row in range(first, end) if self._kept else ():
            self._kept.pop((ino, row), None)
        self._catalog.drop_sums(ino, first, end)


def _ends(region: Region) -> Iterator[tuple[int, int]]:
    """The parts of a region that lie in rows it does not fill."""
    at, end = region.at, region.at + region.length
    first, last = -(-at // ROW_BYTES) * ROW_BYTES, end // ROW_BYTES * ROW_BYTES
    if first > last:
        yield at, end
        return
    if at < first:
        yield at, first
    if last < end:
        yield last, end
