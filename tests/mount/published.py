"""Heads as they lie on disks: what of a volume is published, and where. It can be looked at while it is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from bitdustfs.cli.assemble_supplier import unlock
from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.core.replica import unseal_head
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.engine.publisher import kept_head


def newest(home: Path) -> Head:
    """The newest head of a home."""
    with closing(SqliteCatalog(Home(home).catalog, read_only=True)) as catalog:
        raw = kept_head(catalog)
    assert raw is not None
    return heads.parse(raw)


def last_change(home: Path, place: Path) -> int:
    """The last change of what is there now, where the home is mounted."""
    directory = os.open(place, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    with closing(SqliteCatalog(Home(home).catalog, read_only=True)) as catalog:
        return catalog.last_change


def change_in(home: Path, head: Head) -> int:
    """The last change that a head of the volume of a home names."""
    _, secrets = unlock(Home(home))
    return unseal_head(secrets, head.sealed).change


def held_by(supplier_homes: Iterable[Path]) -> list[Head]:
    """The heads that suppliers of one customer hold."""
    kept = [DiskContracts(Home(home).contracts).heads() for home in supplier_homes]
    return [heads.parse(heads.split(raw)[0]) for of_owners in kept for raw in of_owners.values()]


def is_all_held_by(supplier_homes: Iterable[Path], home: Path) -> bool:
    """Whether each of them has the newest head, and that names all that was committed: it is at rest."""
    head = newest(home)
    with closing(SqliteCatalog(Home(home).catalog, read_only=True)) as catalog:
        is_current = change_in(home, head) >= catalog.last_change
    return is_current and all(each.raw == head.raw for each in held_by(supplier_homes))
