"""Repairing a catalog's file: a copy of it first, then rows that are wrong, or a new file with all that can be read.

Nobody else may use the catalog meanwhile; the caller holds the home.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from bitdustfs.edges.catalog_check import check_file
from bitdustfs.edges.catalog_errors import from_sqlite
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_fsck import CheckedCatalog, Finding
from bitdustfs.edges.catalog_salvage import Salvaged, salvage
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.durable import sync_directory, translated
from bitdustfs.engine.collector import is_kept_back, keep_back
from bitdustfs.engine.publisher import kept_head
from bitdustfs.errors import CatalogDamaged, LogDamaged
from bitdustfs.model import Supplier

_TAILS = ("", "-wal")  # of the files that make up a catalog; the -shm is made anew
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong with a catalog."""

    damage: str  # of its file: why rows cannot all be read; "" if they can
    findings: Sequence[Finding]  # in the rows; empty if they cannot all be read

    @property
    def is_sound(self) -> bool:
        return not self.damage and not self.findings


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done."""

    copy: Path  # directory with the catalog as it was
    salvaged: Salvaged | None  # what came into a new file; None: the old one was sound
    left: Sequence[Finding]  # what could not be put right
    unknown: int  # suppliers that hold something, and of which nothing is known any more


def check(path: Path) -> Checked:
    """Go through a whole catalog, and change nothing. Blocking.

    Raises:
        NotFound, BadFormat: there is no catalog of this version. InUse, DiskFault.
    """
    try:
        with closing(CheckedCatalog(path, read_only=True)) as catalog:
            check_file(catalog.connection, str(path), size_bytes=0)  # whole, whatever its size
            damage = _damage_of(catalog)
            return Checked(damage, () if damage else catalog.findings())
    except (CatalogDamaged, LogDamaged) as e:
        return Checked(str(e), ())
    except apsw.Error as e:
        return Checked(str(from_sqlite(e, str(path), system_errno=0)), ())


def repair(
    path: Path, copy: Path, now_ns: int, listed: Callable[[bytes], Sequence[Supplier]] = lambda _head: ()
) -> Repaired:
    """Copy a catalog, and put right what can be. Blocking. Interrupted, it can be run again.

    Args:
        copy: directory to make for the copy; must not exist.
        now_ns: wall time.
        listed: the suppliers that a head of ours names: they take the place of those whose rows are gone.
    Raises:
        NotFound, BadFormat: there is no catalog of this version. CatalogDamaged: not even its beginning can be
        read; it is as it was. InUse, DiskFull, DiskFault.
    """
    found = check(path)
    _copy(path, copy)
    salvaged = None
    if found.damage:
        new = path.with_name(path.name + ".new")
        _remove(new)
        salvaged = salvage(copy / path.name, new)
        _log.warning("the catalog was made anew: %s", salvaged.rows)
        unknown = _mend(new, now_ns, listed, is_new=True)
        _replace(path, new)
        _remove(new)
    else:
        unknown = _mend(path, now_ns, listed, is_new=False)
    left = check(path).findings
    if not left and not unknown and (salvaged is None or not any(name.startswith("r_") for name in salvaged.damaged)):
        trust(path)
    return Repaired(copy, salvaged, left, unknown)


def trust(path: Path) -> None:
    """Note that nothing of a catalog is missing, or that it was given up. Blocking. Raises DiskFull, DiskFault."""
    with closing(SqliteCatalog(path)) as catalog:
        if is_kept_back(catalog):
            keep_back(catalog, is_missing=False)
            catalog.commit()


# -- private -------------------------------------------------------------------------------------------------


def _damage_of(catalog: CheckedCatalog) -> str:
    try:
        told = catalog.connection.execute("PRAGMA integrity_check(1)").fetchall()[0][0]
    except apsw.Error as e:
        return str(e)
    return "" if told == "ok" else " ".join(str(told).split())


def _mend(path: Path, now_ns: int, listed: Callable[[bytes], Sequence[Supplier]], *, is_new: bool) -> int:
    with closing(CheckedCatalog(path)) as catalog:
        head = kept_head(catalog) if catalog.suppliers_not_known() else None
        if head is not None:
            catalog.bring_back_suppliers(listed(head))
        unknown = len(catalog.suppliers_not_known())
        catalog.mend(now_ns)
        keep_back(catalog, is_missing=True)  # until it is known whether all came over
        if is_new:
            catalog.forget_the_replica()
        catalog.commit()
    return unknown


def _copy(path: Path, copy: Path) -> None:
    try:
        copy.mkdir(mode=0o700)
        for tail in _TAILS:
            source = path.with_name(path.name + tail)
            if source.exists():
                shutil.copy2(source, copy / source.name)
                with open(copy / source.name, "rb") as made:
                    os.fsync(made.fileno())
        sync_directory(copy)
        sync_directory(copy.parent)
    except OSError as e:
        raise translated(e, copy) from e


def _replace(path: Path, new: Path) -> None:
    """Write the new catalog over the old one, in one transaction of SQLite's: a crash leaves one or the other."""
    try:
        with closing(connect(str(path), None)) as old, closing(connect(str(new), None, read_only=True)) as source:
            with old.backup("main", source, "main") as copying:
                copying.step()
            old.pragma("wal_checkpoint(TRUNCATE)")
    except apsw.Error as e:
        raise from_sqlite(e, str(path), system_errno=0) from e
    try:
        with open(path, "rb") as written:
            os.fsync(written.fileno())
    except OSError as e:
        raise translated(e, path) from e


def _remove(new: Path) -> None:
    for tail in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            new.with_name(new.name + tail).unlink()
