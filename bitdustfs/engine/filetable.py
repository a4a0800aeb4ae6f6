"""The table of files in memory: which there are, and how they are stored.

A file is in memory while it is dirty, open, or was just used; everything else is read from the catalog when it is
needed. What changes in memory is written into the open transaction right before each commit, once for many writes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bitdustfs.core.ranges import Extents
from bitdustfs.core.sums import sums_of
from bitdustfs.engine.filestate import FileLife
from bitdustfs.engine.hardness import Hardness
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.recency import Recency
from bitdustfs.errors import NotFound
from bitdustfs.model import NO_INO, Ino, Layer, LocalFile
from bitdustfs.ports import Catalog

LOAD_EXTENTS = 1024  # (tune) after so many no further file is loaded in one go: 3 ms
_log = logging.getLogger(__name__)


class FileTable:
    """The `FileLife` of each regular file that needs one. At most one for an inode at a time."""

    def __init__(self, catalog: Catalog, journal: Journal) -> None:
        self._catalog = catalog
        self._journal = journal
        self._lives: dict[Ino, FileLife] = {}
        self._unsaved: dict[Ino, FileLife] = {}
        self._recency = Recency()
        self.has_strangers = True  # there may be files with clean bytes that it does not remember
        self._strangers_after = NO_INO  # they were looked at up to here
        journal.before_commit(self._flush)
        self._rescue = catalog.failure is not None  # of a damaged catalog, what is not asked for is not looked at
        self.inline_bytes = 0 if self._rescue else catalog.inline_bytes()  # kept in the catalog, dirty and clean
        self.coming_bytes = 0  # and will be with the next commit, at most
        if self._rescue:
            return
        for row in catalog.local_files():
            if row.dirty_since_ns:
                self._lives[row.ino] = self._load(row.ino, row)

    def __iter__(self) -> Iterator[FileLife]:
        return iter(self._lives.values())

    def loaded(self, ino: Ino) -> FileLife | None:
        """The file, if it is in memory. A dirty one always is."""
        life = self._lives.get(ino)
        if life is None and self._rescue and self._catalog.local_file(ino) is not None:
            return self.life(ino)
        return life

    def life(self, ino: Ino, *, is_use: bool = True) -> FileLife:
        """The file, loaded if need be. Raises NotFound.

        Args:
            is_use: its clean bytes stay longer for that.
        """
        life = self._lives.get(ino)
        if life is None:
            life = self._lives[ino] = self._load(ino, self._catalog.local_file(ino))
        if is_use:
            self._recency.used(ino)
        return life

    def used(self, life: FileLife) -> None:
        """Let a file be the last of which clean bytes go."""
        self._recency.used(life.ino)

    @property
    def recent(self) -> int:
        """How many files are remembered in the order of their last use."""
        return len(self._recency)

    def least_used(self, count: int) -> list[FileLife]:
        """Load up to `count` files with clean bytes, those that nobody used lately first.

        None does not mean that there are none: it looks at `count` files at a time, and at others the next time. All
        were looked at when `has_strangers` is False and as many as `recent` were.
        """
        if self.has_strangers:
            lives, after = self.load_some(self._strangers_after, count)
            found = [life for life in lives if life.ino not in self._recency and life.has_clean]
            if not found:
                self._strangers_after = after
                if after == NO_INO:
                    self.has_strangers, self._recency.overflowed = self._recency.overflowed, False
        else:
            found = [life for ino in self._recency.oldest(count) if (life := self._recent_with_clean(ino))]
            lives = []
        for life in lives:
            if life not in found:
                self.let_go(life)
        return found

    def _recent_with_clean(self, ino: Ino) -> FileLife | None:
        life = self._lives.get(ino)
        if life is None:
            row = self._catalog.local_file(ino)
            if row is None:
                self._recency.forget(ino)
                return None
            life = self._lives[ino] = self._load(ino, row)
        if life.has_clean:
            return life
        self._recency.used(ino)  # all that is here of it is needed: as good as used now
        self.let_go(life)
        return None

    def load_some(self, after: Ino, count: int) -> tuple[list[FileLife], Ino]:
        """Load up to `count` files of which the spool holds something, with numbers above `after`.

        They are fewer where some are in many pieces.

        Returns:
            The files, and the number to go on after; NO_INO at the end.
        """
        rows = self._catalog.local_files(after=after, limit=count)
        lives: list[FileLife] = []
        extents = 0
        for row in rows:
            if extents >= LOAD_EXTENTS:
                return lives, lives[-1].ino
            life = self._lives.get(row.ino)
            if life is None:
                life = self._lives[row.ino] = self._load(row.ino, row)
                extents += len(life.extents)
            lives.append(life)
        return lives, rows[-1].ino if len(rows) == count else NO_INO

    def add(self, life: FileLife) -> None:
        """Take on a new file."""
        self._lives[life.ino] = life

    def stored_inline(self, ino: Ino) -> int:
        """How many bytes of a file are kept in the catalog."""
        life = self._lives.get(ino)
        if life is not None:
            return len(life.stored_inline or b"")
        stored = self._catalog.inline(ino)
        return len(stored[0]) if stored else 0

    def drop(self, ino: Ino, stored_inline: int) -> None:
        """Forget a file whose inode is gone, and what of it was kept in the catalog."""
        life = self._lives.pop(ino, None)
        self._recency.forget(ino)
        self.inline_bytes -= stored_inline
        if life is not None:
            life.dead = True
        self._unsaved.pop(ino, None)

    def save(self, life: FileLife) -> None:
        """Have the file's rows written by the next commit."""
        if not life.dead:
            self._unsaved[life.ino] = life
        self._journal.note()

    def save_later(self, life: FileLife) -> None:
        """The same where only clean bytes came: no hurry."""
        if not life.dead:
            self._unsaved[life.ino] = life
            self.coming_bytes += len(life.inline or b"")
        self._journal.note_later()

    def let_go(self, life: FileLife) -> None:
        """Keep no closed, clean, stored file in memory."""
        if life.idle and life.ino not in self._unsaved:
            self._lives.pop(life.ino, None)

    def _load(self, ino: Ino, row: LocalFile | None) -> FileLife:
        inode = self._catalog.inode(ino)
        if inode is None:
            raise NotFound(what=f"inode {ino} does not exist")
        dirty = row is not None and bool(row.dirty_since_ns)
        newest = row if row is not None and dirty else inode
        life = FileLife(
            ino,
            newest.size,
            newest.mtime_ns,
            newest.ctime_ns,
            version=inode.version,
            published_size=inode.size if inode.version else 0,
            dirty=dirty,
            change=int(dirty),
        )
        life.hard.size = life.published_size
        if dirty or not inode.version:
            life.mapped_until = self._catalog.map_end(ino)
        if row is not None:
            life.spool_end = life.soft_from = row.spool_end
            life.dirty_since_ns = row.dirty_since_ns
            life.hard = Hardness(
                until=row.hard_until, summed=row.summed_until, size=row.hard_size, change=life.change
            )
            life.extents, life.hard.beneath = (
                Extents(self._catalog.extents(ino, layer)) for layer in (Layer.LIVE, Layer.BENEATH)
            )
            life.count_dead()
            self._load_inline(life)
        return life

    def _load_inline(self, life: FileLife) -> None:
        stored = self._catalog.inline(life.ino)
        if stored is None:
            return
        content, known = stored
        life.stored_inline = content
        good = sums_of(content) == known
        if not good:
            _log.warning("inode %d: its small content in the catalog is damaged", life.ino)
        if len(life.extents):
            life.hard.inline = content if good else None  # only a power loss would need it
        elif good:
            life.inline = content
        elif life.dirty:
            life.inline, life.damaged = content, True
        else:
            self.save(life)  # suppliers have it

    def _flush(self) -> None:
        """Put what changed in memory into the open transaction. Nothing is forgotten if that fails."""
        for ino, life in self._unsaved.items():
            if life.is_bare:
                self._catalog.drop_local_file(ino)
            else:
                since = life.dirty_since_ns if life.dirty else 0
                hard = (life.hard.until, life.hard.summed, life.hard.size)
                row = LocalFile(ino, life.size, life.mtime_ns, life.ctime_ns, life.spool_end, since, *hard)
                self._catalog.put_local_file(row)
            for layer, extents in life.layers:
                rows, gone = extents.changes()
                if rows or gone:
                    self._catalog.put_extents(ino, layer, rows, gone=gone)
                    extents.clean_slate()
            inline = life.kept_inline
            if inline is not life.stored_inline:
                self.inline_bytes += len(inline or b"") - len(life.stored_inline or b"")
                if inline is None:
                    self._catalog.drop_inline(ino)
                else:
                    self._catalog.put_inline(ino, inline, sums_of(inline))
                life.stored_inline = inline
        done = list(self._unsaved.values())
        self._unsaved.clear()
        self.coming_bytes = 0
        for life in done:
            self.let_go(life)
