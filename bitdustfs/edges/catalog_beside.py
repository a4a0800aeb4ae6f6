"""A whole newer catalog, made beside one that is in use, of which only what differs is taken over (`catalog_step`).

For a reader that cannot go on by change sets: those that lead from its state to the newest are not kept any more.
Both files are read row by row in the order of their keys, so this takes as long as the catalog is large.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from bitdustfs.core.brought import VALUE_BYTES
from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_file import MEMORY
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_restore import Restore
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.ports import Catalog

_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'r_*'"


class Beside:
    """`ports.Beside` for the catalog at a path.

    Args:
        path: of the one in the making.
    """

    def __init__(self, catalog: Path, path: Path) -> None:
        self._catalog = catalog
        self.path = path
        self.restore = Restore(path)

    def finish(self, change: int, note: Callable[[Catalog], None]) -> bytes:
        """End it, have its local rows noted, and say what differs. Blocking, for a worker.

        Args:
            change: the number of the last change that it holds.
        Returns:
            The change set that makes the catalog in use what this one is.
        Raises:
            BadFormat, CatalogDamaged, DiskFull, DiskFault
        """
        self.restore.finish(last_change=change, verbatim=True)
        with closing(SqliteCatalog(self.path)) as catalog:
            note(catalog)
            catalog.commit()
        try:
            return self._differences()
        except apsw.Error as e:
            raise from_sqlite(e, str(self.path), system_errno=0) from e

    def catalog(self, change: int) -> SqliteCatalog:
        """End it, and open it. Blocking, for a worker. Raises what `finish` does. The caller closes it."""
        self.restore.finish(last_change=change)
        catalog = SqliteCatalog(self.path)
        catalog.connection.limit(apsw.SQLITE_LIMIT_LENGTH, VALUE_BYTES)  # whoever wrote it may be no friend
        return catalog

    def close(self) -> None:
        """Remove it."""
        self.restore.close()
        for tail in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + tail).unlink(missing_ok=True)

    def _differences(self) -> bytes:
        with closing(connect(str(self.path), None)) as new:
            new.execute("ATTACH ? AS old", (str(self._catalog),))
            with closing(apsw.Session(new, "main")) as session:
                for (table,) in new.execute(_TABLES).fetchall():
                    session.attach(str(table))
                    session.diff("old", str(table))
                return session.changeset()


class DiskWorkshop:
    """`ports.Workshop` for the catalog at a path.

    Args:
        beside: where a newer one is made.
    """

    def __init__(self, catalog: Path, beside: Path) -> None:
        self._catalog = catalog
        self._beside = beside

    def scratch(self) -> SqliteCatalog:
        """An empty catalog in memory."""
        return SqliteCatalog(MEMORY, create=True)

    def beside(self) -> Beside:
        """A whole newer catalog in the making. Raises DiskFull, DiskFault. Blocking."""
        return Beside(self._catalog, self._beside)
