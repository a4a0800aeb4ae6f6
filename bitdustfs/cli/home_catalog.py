"""The catalog of a home: opened, or made whole the first time, and never that of another volume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges import old_states
from bitdustfs.edges.catalog_restore import only_published
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.durable import move_durably, translated
from bitdustfs.edges.home import Home
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.errors import BadFormat, CatalogDamaged, DiskFault, LogDamaged
from bitdustfs.model import Code, Supplier

_VOLUME_ID = "volume_id"  # in the catalog: which volume it describes

log = logging.getLogger(__name__)


@contextmanager
def open_catalog(
    home: Home, secrets: VolumeSecrets, choose: Callable[[int], Code | None], *, read_only: bool = False
) -> Iterator[tuple[SqliteCatalog, Code | None]]:
    """Open the catalog of a home, or make it.

    Args:
        read_only: a damaged one is opened too, to read what is left of it.
        choose: the code that is asked for, with so many hired suppliers; it raises before a catalog is made.
    Raises:
        BadFormat: the catalog is of an unknown version, or describes another volume than the keys.
        CatalogDamaged, LogDamaged: nothing was changed.
    """
    old_states.complete(home)
    if not home.catalog.exists() or not home.catalog.stat().st_size:
        choose(0)
        _make_catalog(home, secrets)
    with closing(_opened(home, read_only=read_only)) as catalog:
        if catalog.value(_VOLUME_ID) != secrets.volume_id:
            raise BadFormat(what=f"{home.catalog} does not belong to the keys beside it: put the right keys back")
        yield catalog, choose(hired_count(catalog))


def make_own(catalog: SqliteCatalog) -> None:
    """Make what another machine published a catalog to write: what it had not sent yet is not in it.

    Before that nothing in it is of this machine, so that a newer state takes its place and nothing is put aside.
    """
    if catalog.local_value(VERBATIM):
        only_published(catalog)
        catalog.put_local_value(VERBATIM, b"")
        catalog.commit()


def hired_suppliers(home: Home) -> Sequence[Supplier]:
    """The suppliers of a home that no process serves, as far as its catalog can be read."""
    if not home.catalog.exists():
        return ()
    with closing(_opened(home, read_only=True)) as catalog:
        return [row for row in catalog.suppliers() if row.is_hired]


def hired_count(catalog: SqliteCatalog) -> int:
    """How many suppliers are hired."""
    return sum(row.is_hired for row in catalog.suppliers())


def _opened(home: Home, *, read_only: bool) -> SqliteCatalog:
    try:
        return SqliteCatalog(home.catalog)
    except (CatalogDamaged, LogDamaged) as error:
        if not read_only:
            raise
        log.error("%s", error)
        return SqliteCatalog(home.catalog, read_only=True)


def _make_catalog(home: Home, secrets: VolumeSecrets) -> None:
    """Make the catalog beside its place and put it there whole: a first mount that is killed leaves no half of one.

    Raises:
        DiskFull, DiskFault
    """
    new = home.catalog.with_name(home.catalog.name + ".new")
    try:
        for path in (new, home.catalog):  # what was left over: a journal beside a catalog of its name changes it
            for tail in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + tail).unlink(missing_ok=True)
        with closing(SqliteCatalog(new, create=True)) as catalog:
            catalog.put_value(_VOLUME_ID, secrets.volume_id)
            catalog.commit()
        if new.with_name(new.name + "-wal").exists():
            raise DiskFault(path=new, why="its write-ahead log could not be copied into it")
        move_durably(new, home.catalog)
    except OSError as error:
        raise translated(error, new) from error
