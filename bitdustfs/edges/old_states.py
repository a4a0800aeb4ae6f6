"""Old states of a home: how a newer catalog takes the place of the one in use, and where that one goes.

    HOME/adopting/   the newer catalog in the making, and the plan of what to put aside; worth nothing until it
                     is renamed to
    HOME/aside/N-X/  N counts, X was chosen at random: what is noted of one is never taken for another's.
                     `catalog.new` lies there until it has become HOME/catalog.db, last; before that the old
                     catalog and the old spool come here. They stay until all that only they have is in the volume

That one rename decides. Before it the home is what it was; after it the rest is only finished (`complete`), at the
next start if need be. Each name is moved at most once, and a step that was done is seen by the names that are there.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitdustfs.edges.durable import replace_file, sync_directory, translated
from bitdustfs.edges.home import Home
from bitdustfs.errors import DiskFault

_NEW = "catalog.new"
_PLAN = "plan"
_GONE = ".gone"
_NAME = re.compile(r"(\d+)-[0-9a-f]{8}")
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OldPlace:
    """Where one old state lies."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.db"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    def plan(self) -> bytes:
        """What is to be put aside of it, as it was written. Raises DiskFault."""
        try:
            return (self.path / _PLAN).read_bytes()
        except OSError as e:
            raise translated(e, self.path) from e


def begin(home: Home) -> Path:
    """Make room for a newer catalog, where there is none left of one that was given up. Returns its path."""
    try:
        shutil.rmtree(home.adopting, ignore_errors=True)
        home.adopting.mkdir(mode=0o700)
    except OSError as e:
        raise translated(e, home.adopting) from e
    return home.adopting / _NEW


def write_plan(home: Home, plan: bytes) -> None:
    """Keep the plan beside the newer catalog. Raises DiskFull, DiskFault."""
    try:
        replace_file(home.adopting / _PLAN, plan)
    except OSError as e:
        raise translated(e, home.adopting) from e


def give_up(home: Home) -> None:
    """Remove what `begin` made."""
    shutil.rmtree(home.adopting, ignore_errors=True)


def take(home: Home, *, step: Step = lambda _name: None) -> None:
    """Put the newer catalog, whole and durable, in the place of the one that nobody has open.

    Args:
        step: called before each change on the disk; for tests.
    Raises:
        DiskFault, DiskFull: if `complete` does not succeed later, the home cannot be used.
    """
    for path in (home.adopting / _NEW, home.catalog):
        if path.with_name(path.name + "-wal").exists():
            raise DiskFault(path=path, why="its write-ahead log could not be copied into it")
    try:
        home.aside.mkdir(mode=0o700, exist_ok=True)
        sync_directory(home.path)
        sync_directory(home.adopting)
        number = max((_number(place.path) for place in _places(home)), default=0) + 1
        step("decide")
        os.rename(home.adopting, home.aside / f"{number}-{secrets.token_hex(4)}")
        sync_directory(home.aside)
    except OSError as e:
        raise translated(e, home.aside) from e
    complete(home, step=step)


def complete(home: Home, *, step: Step = lambda _name: None) -> None:
    """Finish what was decided. Before anything opens the catalog of a home; mostly there is nothing to do."""
    try:
        for place in _places(home):
            if (place.path / _NEW).exists():
                _complete(home, place, step)
    except OSError as e:
        raise translated(e, home.aside) from e


def old_states(home: Home) -> list[OldPlace]:
    """The old states that are still needed, the oldest first."""
    return [place for place in _places(home) if place.catalog.exists()]


def let_go(place: OldPlace) -> None:
    """Remove an old state. Blocking, for a worker. Raises DiskFault."""
    try:
        gone = place.path.with_name(place.path.name + _GONE)
        _remove(gone)
        os.rename(place.path, gone)
        sync_directory(place.path.parent)
        _remove(gone)
    except OSError as e:
        raise translated(e, place.path) from e


def tidy(home: Home) -> None:
    """At a start, remove what was being made or removed when the last process ended."""
    give_up(home)
    for path in home.aside.glob(f"*{_GONE}"):
        shutil.rmtree(path, ignore_errors=True)


def _complete(home: Home, place: OldPlace, step: Step) -> None:
    if not place.catalog.exists():
        step("old catalog")
        _move(home.catalog, place.catalog)
    if not place.spool.exists() and home.spool.exists():
        step("old spool")
        _move(home.spool, place.spool)
    step("new catalog")
    _move(place.path / _NEW, home.catalog)


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def _places(home: Home) -> list[OldPlace]:
    if not home.aside.is_dir():
        return []
    found = [path for path in home.aside.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return [OldPlace(path) for path in sorted(found, key=_number)]


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
