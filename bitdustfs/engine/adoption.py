"""Adoption: a machine that others wrote past, or whose disk was set back, takes the newer state at its suppliers.

    start -> ask suppliers for heads -> a newer one? -> the newest -> its catalog, beside ours
          -> what only ours has: a plan -> the newer catalog in the place of ours -> mount; `aside` follows the plan

Asked is before each mount, and not for long: as soon as a quorum shows nothing newer the mount goes on. What is
learned later, while mounted, makes it read-only until the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from bitdustfs.core import adoption, replica
from bitdustfs.core import head as heads
from bitdustfs.core.adoption import Plan, Verdict
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.core.lease import Holder, called
from bitdustfs.core.recovery import Found
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine import ancestors
from bitdustfs.engine.fork_notes import given_up, gone_over
from bitdustfs.engine.only_kept import find_only_kept
from bitdustfs.engine.publisher import kept_head
from bitdustfs.engine.recovery import Seeker, fetch_head
from bitdustfs.engine.replica import changes_since, kept_safe
from bitdustfs.engine.unsent import find_entries, find_notes, restore_notes
from bitdustfs.errors import BadFormat, BitdustError, SealBroken
from bitdustfs.model import RestoreReport, Supplier
from bitdustfs.ports import Catalog, Changes, Dialer

LOOK_S = 3.0  # (tune) how long a mount waits for suppliers that say nothing: a mobile line needs half of it
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Poll:
    """What was heard so far."""

    asked: int
    same: int = 0  # show our head or an older one
    failed: int = 0
    newer: Head | None = None

    @property
    def is_decided(self) -> bool:
        enough = replica.quorum(self.asked)
        return self.newer is not None or self.same >= enough or self.failed > self.asked - enough


async def find_newer(dialer: Dialer, identity: Identity, secrets: VolumeSecrets, catalog: Catalog) -> Found | None:
    """Ask the hired suppliers whether they hold a state to adopt; None: none is known now."""
    own, suppliers = _own_head(catalog), _hired(catalog)
    if await _newer_shown(dialer, identity, secrets, catalog, suppliers) is None:
        return None
    seeker = Seeker(dialer, lambda _epoch: identity, secrets, identity.owner)
    try:
        found = await seeker.find([(row.node, row.address) for row in suppliers])
    except BitdustError as error:
        _log.warning("the newer state that a supplier showed is not there any more: %s", error)
        return None
    is_known = own is not None and _is_known(found.head, own, catalog)
    verdict = adoption.judge(own, found, epoch=identity.certificate.epoch, is_known=is_known)
    if verdict is not Verdict.ADOPT:
        _log.warning("suppliers show version %d of this volume: %s", found.head.version, verdict.value)
        return None
    return found


async def find_listed(
    dialer: Dialer, identity: Identity, secrets: VolumeSecrets, catalog: Catalog
) -> Sequence[Supplier]:
    """Say whom the newest head lists that the hired suppliers show: who writes may have hired others since."""
    suppliers = _hired(catalog)
    head = await _newer_shown(dialer, identity, secrets, catalog, suppliers)
    if head is None:
        return suppliers
    try:
        return [entry.row() for entry in replica.unseal_head(secrets, head.sealed).suppliers]
    except (BadFormat, SealBroken) as bad:
        _log.warning("version %d of this volume cannot be opened: %s", head.version, bad)
        return suppliers


async def make_plan(
    old: Catalog,
    new: Catalog,
    found: Found,
    secrets: VolumeSecrets,
    changes: Changes,
    report: RestoreReport,
    *,
    folder: str,
    us: Holder,
) -> Plan:
    """Say what of an old state is put aside. Nothing is changed, and meanwhile nothing may be.

    Args:
        report: of the restore that made the new catalog.
        folder: how the folder is to be called.
        us: this node in the seat of its home: tells who wrote the newer state.
    Raises:
        BadFormat, CatalogDamaged
    """
    own, by = _own_head(old), called(Holder(found.head.signer.node, found.head.seat), us)
    own_change = replica.unseal_head(secrets, own.sealed).change if own is not None else 0
    sent = adoption.contained(own_change, kept_safe(old), adoption.descent(own, found))
    if own is not None and _is_given_up(own, old, new):
        sent = None  # nothing of it was taken on, also not of what was safe on its line
    sets = changes_since(old, sent) if sent is not None else None
    deeds = changes.deeds(sets) if sets is not None else None
    entries = find_entries(old, new, deeds)
    kept = await find_only_kept(old, new, deeds, entries)
    notes = [*find_notes(old, new, deeds, entries), *kept.notes]
    lacks = restore_notes(report)
    return adoption.make_plan(folder, notes, [*entries, *kept.entries], kept.folders, by=by, lacks=lacks)


def _own_head(catalog: Catalog) -> Head | None:
    raw = kept_head(catalog)
    return heads.parse(raw) if raw is not None else None


def _is_given_up(own: Head, old: Catalog, new: Catalog) -> bool:
    """Whether our newest head is on a line that was gone over and never read, or goes on from one."""
    for line in given_up(new):
        links = heads.split_links(line.links)
        if own.link in links or old.links(line.version - 1, line.version + 1) in links:
            return True
    return False


def _hired(catalog: Catalog) -> list[Supplier]:
    return [row for row in catalog.suppliers() if row.is_listed]


async def _newer_shown(
    dialer: Dialer, identity: Identity, secrets: VolumeSecrets, catalog: Catalog, suppliers: Sequence[Supplier]
) -> Head | None:
    """The first head that one of the suppliers shows and ours does not go back to; None: there is none now."""
    if not suppliers:
        return None
    own = _own_head(catalog)
    poll, heard = _Poll(len(suppliers)), trio.Event()

    async def ask(row: Supplier) -> None:
        try:
            raw, _links = await fetch_head(dialer, identity, row.node, row.address)
            head = heads.parse(raw) if raw else None
            if _is_newer(head, own, catalog, identity, secrets):
                poll.newer = head
            else:
                poll.same += 1
        except BitdustError as error:
            _log.debug("%s did not say what it holds: %s", row.label, error)
            poll.failed += 1
        if poll.is_decided:
            heard.set()

    with trio.move_on_after(LOOK_S):
        async with trio.open_nursery() as nursery:
            for row in suppliers:
                nursery.start_soon(ask, row)
            await heard.wait()
            nursery.cancel_scope.cancel()
    return poll.newer


def _is_newer(
    theirs: Head | None, own: Head | None, catalog: Catalog, identity: Identity, secrets: VolumeSecrets
) -> bool:
    if theirs is None or theirs.signer.owner != identity.owner or theirs.handle != secrets.handle:
        return False
    if own is None or theirs.epoch != own.epoch:
        return theirs.epoch == identity.certificate.epoch
    return not _is_known(theirs, own, catalog)


def _is_known(theirs: Head, own: Head, catalog: Catalog) -> bool:
    """Whether ours goes back to a head, or is to go over it, as far as links and marks are kept."""
    if theirs.digest == own.digest or ancestors.is_ancestor(catalog, theirs):
        return True
    lines = (heads.split_links(line.links) for line in gone_over(catalog))
    return catalog.links(theirs.version - 1, theirs.version + 1) == theirs.link or any(
        theirs.link in line for line in lines
    )
