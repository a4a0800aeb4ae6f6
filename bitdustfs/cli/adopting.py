"""Adoption with the real parts: connections and disk. Called by `mount` under the lock of the home.

find and fetch, while the catalog is open -> `Adopted`; the caller closes the catalog -> `old_states.take`
-> opens the newer one -> `put_aside` beside the mount
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from bitdustfs.cli.recovering import fetched_catalog
from bitdustfs.core import adoption
from bitdustfs.core.certificate import Identity
from bitdustfs.core.lease import Holder
from bitdustfs.core.recovery import Found
from bitdustfs.core.units import count
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges import old_states
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home
from bitdustfs.edges.seat import seat_of
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch, boot_id
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.adoption import find_newer, make_plan
from bitdustfs.engine.aside import Aside, OldState, Unreadable
from bitdustfs.engine.node import Node
from bitdustfs.engine.sightings import carry_over
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BitdustError
from bitdustfs.model import Standing

_OPEN_FILES = 16  # of an old spool: it is read file by file
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A newer state that waits in the home to take the place of the one in use."""

    version: int
    time_s: int
    put_aside: int  # files and others that only the old state has
    by: str  # who wrote the newer state, in words

    def lines(self) -> list[str]:
        """What to say to the person."""
        date = datetime.fromtimestamp(self.time_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        said = [f"Suppliers hold version {self.version} of {date}, written by {self.by}: it is taken."]
        if self.put_aside:
            files = count(self.put_aside, "file")
            said.append(f"Not in it: {files} of this machine, put into a folder 'Put aside …'.")
        return said


async def fetch_newer(
    home: Home, identity: Identity, secrets: VolumeSecrets, catalog: SqliteCatalog
) -> Adopted | None:
    """See whether suppliers hold a newer state of this volume, and fetch it. Nothing that is in use is changed.

    Returns:
        None: there is none, or it cannot be had now; then the mount will notice and change nothing.
    """
    found = await find_newer(TcpDialer(identity.key), identity, secrets, catalog)
    if found is None:
        return None
    _log.warning("suppliers hold version %d of this volume, which is newer than what is here", found.head.version)
    try:
        return await _fetch(home, identity, secrets, catalog, found)
    except BitdustError as error:
        _log.error("the newer state cannot be fetched now: %s", error)
        old_states.give_up(home)
        return None


async def _fetch(
    home: Home, identity: Identity, secrets: VolumeSecrets, catalog: SqliteCatalog, found: Found
) -> Adopted:
    us = Holder(identity.node, seat_of(home.path, SystemEntropy()))
    new = old_states.begin(home)
    async with fetched_catalog(identity, secrets, found, new, lambda _done, _total: None) as (newer, report):
        carry_over(catalog, newer)
        newer.commit()
        await newer.harden()
        folder = datetime.now(UTC).astimezone().strftime(f"Put aside {_machine()} %Y-%m-%d %H.%M")
        plan = await make_plan(catalog, newer, found, secrets, SqliteChanges(), report, folder=folder, us=us)
    old_states.write_plan(home, adoption.encode(plan))
    return Adopted(found.head.version, found.content.time_s, len(plan.entries), plan.by)


def _machine() -> str:
    """What this machine calls itself, as a part of a name of a file."""
    return "".join(each for each in platform.node() if each.isalnum() or each in "-_.")[:64] or "a machine"


@contextmanager
def put_aside(
    home: Home, identity: Identity, secrets: VolumeSecrets, catalog: SqliteCatalog, node: Node
) -> Iterator[None]:
    """Have the node put aside what only old states of this home have. Around the time that it runs."""
    with ExitStack() as stack:
        for place in old_states.old_states(home):
            try:
                old = _open(place, identity, stack)
            except BitdustError as error:
                _log.error("the older state in %s cannot be read: %s", place.path, error)
                node.reporter.aside.append(Unreadable(f"the older state in {place.path} cannot be read: {error}"))
                continue
            aside = Aside(old, node, catalog, secrets, ThreadCrunch(), SystemWall())
            node.services[f"aside {place.key}"] = aside.run
            node.reporter.aside.append(aside)
        yield


def _open(place: old_states.OldPlace, identity: Identity, outer: ExitStack) -> OldState:
    plan = adoption.decode_plan(place.plan())
    stack = outer.enter_context(ExitStack())
    catalog = stack.enter_context(closing(SqliteCatalog(place.catalog)))
    spool = stack.enter_context(closing(DiskSpool(place.spool, open_files=_OPEN_FILES)))
    known = [row for row in catalog.suppliers() if row.standing is not Standing.FIRED]
    suppliers = Suppliers(identity, TcpDialer(identity.key), known, entropy=SystemEntropy(), wall=SystemWall())

    async def let_go() -> None:
        stack.close()
        await trio.to_thread.run_sync(old_states.let_go, place)

    return OldState(
        key=place.key,
        place=str(place.path),
        plan=plan,
        catalog=catalog,
        spool=spool,
        suppliers=suppliers,
        boot=boot_id(),
        let_go=let_go,
    )
