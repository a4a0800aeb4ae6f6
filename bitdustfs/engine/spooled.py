"""Spool bytes with their check sums: what is read is what was written, or an error.

Sums are made when bytes become hard, and of the rest a few seconds after they were written, of what the page cache
holds then. From there on each read is checked, in whole units: a flipped bit is met before anybody sees it or it is
sealed and sent.
"""

from __future__ import annotations

from bitdustfs.core.ranges import Region
from bitdustfs.core.sums import ROW_SUMS, SUM_BYTES, sums_of, unit_ceil, unit_floor
from bitdustfs.engine.filestate import FileLife
from bitdustfs.errors import SpoolDamaged
from bitdustfs.model import SUM_UNIT_BYTES
from bitdustfs.ports import Catalog, Spool

_ROW_BYTES = ROW_SUMS * SUM_UNIT_BYTES


class Spooled:
    """The spool bytes of all files, by the sums in the catalog."""

    def __init__(self, catalog: Catalog, spool: Spool) -> None:
        self._catalog = catalog
        self._spool = spool

    def read(self, life: FileLife, at: int, length: int) -> bytes:
        """Exactly `length` bytes, checked as far as they were summed. Raises SpoolDamaged, DiskFault."""
        summed = life.hard.summed
        if at >= summed:
            return self._spool.read(life.ino, at, length)
        start, end = unit_floor(at), at + length
        checked = min(unit_ceil(end), summed)
        content = self._spool.read(life.ino, start, max(end, checked) - start)
        if sums_of(memoryview(content)[: checked - start]) != self._known(life, start, checked):
            raise SpoolDamaged(ino=life.ino)
        if start == at and len(content) == length:
            return content
        return content[at - start : end - start]

    async def sum(self, life: FileLife, end: int) -> tuple[int, bytes]:
        """Sum spool bytes from where sums end to `end`, for `note`. Nobody may write below `end` meanwhile.

        Returns:
            The position of the first unit, and the sums.
        Raises:
            SpoolDamaged: the unit that is only now whole is not what it was. DiskFault
        """
        start = unit_floor(life.hard.summed)
        if start < life.hard.summed:
            known = self._known(life, start, life.hard.summed)
            now = await self._spool.sums(life.ino, start, life.hard.summed)
            if now != known and life.refers(start, life.hard.summed):
                raise SpoolDamaged(ino=life.ino)
        return start, await self._spool.sums(life.ino, start, end)

    def note(self, life: FileLife, start: int, sums: bytes, end: int) -> None:
        """Keep what `sum` made. Called where the file's row is saved as well."""
        unit, done = start // SUM_UNIT_BYTES, 0
        while done < len(sums):
            row, place = divmod(unit, ROW_SUMS)
            count = min(ROW_SUMS - place, (len(sums) - done) // SUM_BYTES)
            before = self._catalog.sums(life.ino, row)[: place * SUM_BYTES].ljust(place * SUM_BYTES, b"\0")
            self._catalog.put_sums(life.ino, row, before + sums[done : done + count * SUM_BYTES])
            unit, done = unit + count, done + count * SUM_BYTES
        life.hard.summed = end

    def forget(self, life: FileLife, region: Region) -> None:
        """Drop the sums of bytes that were given back, as far as they fill rows."""
        first, end = -(-region.at // _ROW_BYTES), (region.at + region.length) // _ROW_BYTES
        if first < end:
            self._catalog.drop_sums(life.ino, first, end)

    def forget_all(self, life: FileLife) -> None:
        """Drop all sums of a file: its positions begin anew."""
        self._catalog.drop_sums(life.ino, 0, life.spool_end // _ROW_BYTES + 1)

    def _known(self, life: FileLife, start: int, end: int) -> bytes:
        """The noted sums of the units of [start, end)."""
        first, last = start // SUM_UNIT_BYTES, (end - 1) // SUM_UNIT_BYTES
        parts = []
        for row in range(first // ROW_SUMS, last // ROW_SUMS + 1):
            low, high = max(first - row * ROW_SUMS, 0), min(last - row * ROW_SUMS + 1, ROW_SUMS)
            parts.append(self._catalog.sums(life.ino, row)[low * SUM_BYTES : high * SUM_BYTES])
        return b"".join(parts)
