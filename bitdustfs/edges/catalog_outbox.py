"""What a transaction changes in the replicated tables, and which inodes it touched.

`Recorder` has SQLite's session extension note every changed row with what it was before the transaction. The change
set is worked out at the end against what the rows are then, so what a savepoint took back leaves nothing in it, and
a transaction that was rolled back whole and done again gives the same.

`Touched` knows for each inode, and for the places of fragments as a whole, which change touched it last: whether the
suppliers have the newest state of a file is a question of numbers.
"""

from __future__ import annotations

import apsw

from bitdustfs.model import Ino

PLACES = Ino(0)  # no inode: touched where a supplier comes to have a fragment, or is known to have it no more
REMEMBERED_INODES = 100_000  # (tune) about 15 MB; when more were touched, all count as touched by the last change


class Recorder:
    """Records one transaction after another of a connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'r_*'")
        self._tables = [str(name) for (name,) in found]
        self._session: apsw.Session | None = None

    def begin(self) -> None:
        """Note what is changed from now on. Right after BEGIN."""
        self.end()
        self._session = apsw.Session(self._connection, "main")
        for table in self._tables:
            self._session.attach(table)

    def changes(self) -> bytes:
        """What was changed until now, as a changeset; empty if nothing was. Raises apsw.Error."""
        try:
            if self._session is None or self._session.is_empty:
                return b""  # making an empty one takes two statements: most of what an fsync commits is local
            return self._session.changeset()
        except ValueError as e:
            raise apsw.ConnectionClosedError(str(e)) from e  # and its session with it

    def end(self) -> None:
        """Note nothing more: a session that stays open makes every change slower."""
        if self._session is not None:
            self._session.close()
        self._session = None


class Touched:
    """When each inode was touched last, by the numbers of changes.

    Args:
        last_change: what was committed before this process started: any inode may have been touched by it.
    """

    def __init__(self, last_change: int) -> None:
        self._floor = last_change  # of all inodes that `_numbers` does not have
        self._numbers: dict[Ino, int] = {}  # those touched first come first
        self._now: set[Ino] = set()  # by the open transaction
        self.add = self._now.add

    def number(self, ino: Ino, *, next_change: int) -> int:
        """The number of the change that touched an inode last; of an open transaction, `next_change`."""
        return next_change if ino in self._now else self._numbers.get(ino, self._floor)

    def since(self, change: int, most: int) -> list[Ino] | None:
        """The inodes that were touched by later changes; None: more than so many, or it is not known any more."""
        if self._floor > change:
            return None
        found = set(self._now)
        for ino, number in reversed(self._numbers.items()):
            if number <= change:
                break
            found.add(ino)
            if len(found) > most:
                return None
        return sorted(found)

    def committed(self, number: int | None) -> None:
        """The open transaction became this change; None: it changed no replicated row after all."""
        if number is not None:
            for ino in self._now:
                self._numbers.pop(ino, None)
                self._numbers[ino] = number
            if len(self._numbers) > REMEMBERED_INODES:
                self._numbers.clear()
                self._floor = number
        self._now.clear()

    def undone(self) -> None:
        """The open transaction holds nothing any more."""
        self._now.clear()

    def forget(self, until: int) -> None:
        """Changes up to this number matter no more."""
        if self._floor <= until:
            self._floor = 0
        old = []
        for ino, number in self._numbers.items():
            if number > until:
                break
            old.append(ino)
        for ino in old:
            del self._numbers[ino]
