"""`fsck` with the real parts: catalog, spool and connections. Called under the lock of the home."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from bitdustfs.cli.assemble_supplier import unlock
from bitdustfs.core import contract, replica
from bitdustfs.core import head as heads
from bitdustfs.core.contract import CONTRACT_BYTES
from bitdustfs.core.units import count
from bitdustfs.edges import catalog_repair
from bitdustfs.edges.catalog_fsck import Finding
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.edges.system import SystemEntropy, SystemWall
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.collector import is_kept_back
from bitdustfs.engine.fsck import ShelfCheck, check_shelf, check_spool
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import BitdustError, NotFound
from bitdustfs.model import OwnerId, Supplier

CONNECT_S = 15.0  # for suppliers to answer at all
_ADVICE = (
    "the newest state of the suppliers comes back whole with `bitdustfs recover` in an empty home; what is only here "
    "can be copied out of a mount with -o ro. `fsck --repair --salvage` makes the catalog anew from what can be read,"
    " and that takes the place of the suppliers' copy"
)
_KEPT_BACK = (
    "suppliers keep all that they have, because something of the catalog was missing when it was repaired, and a "
    "copy of it, or the suppliers' state, may still say what for. `fsck --repair --trust` gives that up: what the "
    "catalog does not name is let go then, for ever"
)
Say = Callable[[str], None]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What was found, in sentences that were said already."""

    wrong: list[str] = field(default_factory=list)  # and is so still
    mended: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # nothing is wrong
    copy: Path | None = None  # of the catalog as it was


def run_fsck(
    home: Home, *, repair: bool, offline: bool, salvage: bool = False, trust: bool = False, say: Say
) -> Outcome:
    """Check a home that nobody uses, and with `repair` put right what can be.

    Args:
        salvage: make a catalog whose file is damaged anew, and have it take the place of the suppliers' copy.
    Raises:
        NotFound: there is no catalog. BadFormat: of an unknown version. CatalogDamaged: not even its beginning can
        be read. DiskFull, DiskFault.
    """
    if not home.catalog.exists():
        raise NotFound(what=f"there is no catalog in {home}: the volume was never mounted here, or it is elsewhere")
    outcome = Outcome()
    say("Checking the catalog.")
    checked = catalog_repair.check(home.catalog)
    if checked.is_sound:
        outcome.notes.append("catalog: sound")
        if trust:
            catalog_repair.trust(home.catalog)
    elif repair and (salvage or not checked.damage):
        _repair(home, checked, outcome)
    else:
        if checked.damage:
            outcome.wrong.append(f"catalog: {checked.damage}")
            outcome.notes.append(_ADVICE)
        outcome.wrong += map(_told, checked.findings)
    if checked.damage and not (repair and salvage):
        outcome.notes.append("spool and suppliers: not looked at, because the catalog cannot be read whole")
        return outcome
    with closing(SqliteCatalog(home.catalog, read_only=not repair)) as catalog:
        if is_kept_back(catalog):
            outcome.notes.append(_KEPT_BACK)
        _spool(home, catalog, outcome)
        if not offline:
            say("Asking the suppliers for what they hold.")
            trio.run(_ask, home, catalog, repair, outcome)
        if repair:
            catalog.commit()
    return outcome


# -- private -------------------------------------------------------------------------------------------------


def _repair(home: Home, checked: catalog_repair.Checked, outcome: Outcome) -> None:
    now = datetime.now(UTC)
    copy = home.path / now.astimezone().strftime("before fsck %Y-%m-%d %H.%M.%S")
    done = catalog_repair.repair(home.catalog, copy, int(now.timestamp()) * 10**9, partial(_listed, home))
    outcome.copy = done.copy
    if done.salvaged is not None:
        outcome.mended.append(f"catalog: {checked.damage}; made anew from what could be read")
        for table in done.salvaged.damaged:
            outcome.mended.append(f"catalog: rows of {table} may be gone; {done.salvaged.rows[table]} are left")
    outcome.mended += [_told(finding) for finding in checked.findings if finding.is_mendable]
    outcome.wrong += map(_told, done.left)
    if done.unknown:
        outcome.wrong.append(
            f"catalog: nothing is known any more of {count(done.unknown, 'supplier')} with fragments: hire them "
            "again, and what they hold is found there by its names"
        )


def _listed(home: Home, head: bytes) -> Sequence[Supplier]:
    """The suppliers that a head of ours names, with the contracts that are kept beside the catalog."""
    try:
        identity, secrets = unlock(home)
        entries = replica.unseal_head(secrets, heads.parse(head).sealed).suppliers
        kept = DiskContracts(home.contracts).contracts()
        return [_with_contract(entry.row(), kept.get(OwnerId(entry.owner), b""), identity.owner) for entry in entries]
    except BitdustError as error:
        _log.error("the suppliers that are gone from the catalog cannot be read from its head: %s", error)
        return ()


def _with_contract(row: Supplier, kept: bytes, own: OwnerId) -> Supplier:
    for at in range(len(kept) - CONTRACT_BYTES, -1, -CONTRACT_BYTES):  # the newest last
        raw = kept[at : at + CONTRACT_BYTES]
        allowance = contract.parse(raw).allowance(own, row.node)
        if allowance is not None:
            return replace(row, contract=raw, capacity_bytes=allowance.bytes, capacity_fragments=allowance.fragments)
    return row


def _told(finding: Finding) -> str:
    examples = ", ".join(finding.examples) + (", …" if finding.count > len(finding.examples) else "")
    return f"catalog: {finding.count} {finding.says} ({examples})"


def _spool(home: Home, catalog: SqliteCatalog, outcome: Outcome) -> None:
    if not home.spool.exists():
        outcome.notes.append("spool: there is none")
        return
    with closing(DiskSpool(home.spool)) as spool:
        found = check_spool(catalog, spool)
    if found.missing:
        inodes = ", ".join(str(ino) for ino in found.missing[:5])
        outcome.wrong.append(
            f"spool: {count(len(found.missing), 'file')} gone (inodes {inodes}): what was only there is lost"
        )
    if found.unknown:
        outcome.notes.append(f"spool: {count(found.unknown, 'file')} that nothing needs; the next mount removes them")
    if not found.missing and not found.unknown:
        outcome.notes.append("spool: all that the catalog needs is there")


async def _ask(home: Home, catalog: SqliteCatalog, repair: bool, outcome: Outcome) -> None:
    rows = [row for row in catalog.suppliers() if row.is_listed]
    if not rows:
        outcome.notes.append("suppliers: none is hired")
        return
    identity, secrets = unlock(home)
    dialer = TcpDialer(identity.key)
    suppliers = Suppliers(identity, dialer, rows, entropy=SystemEntropy(), wall=SystemWall())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(suppliers.run)
        with trio.move_on_after(CONNECT_S):
            while len(suppliers.online()) < len(rows):
                await suppliers.wait_for_change()
        for row in rows:
            try:
                _tell(row, await check_shelf(catalog, suppliers, secrets, row, mark=repair), repair, outcome)
            except (BitdustError, trio.TooSlowError) as error:
                outcome.notes.append(f"{row.label}: not looked at: {error or 'no answer in time'}")
        nursery.cancel_scope.cancel()


def _tell(row: Supplier, found: ShelfCheck, repair: bool, outcome: Outcome) -> None:
    others = f"; {found.strangers} others that are on their way or not needed any more" if found.strangers else ""
    if not found.missing:
        outcome.notes.append(f"{row.label}: has all of {count(found.held, 'fragment')}{others}")
        return
    said = f"{row.label}: lacks {found.missing} of {count(found.held, 'fragment')}"
    if repair:
        outcome.mended.append(f"{said}: they are made again when the volume is mounted")
    else:
        outcome.wrong.append(said)
