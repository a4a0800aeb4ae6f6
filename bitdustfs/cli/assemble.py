"""Assembly: the one file that builds the real thing behind a mount; `assemble_supplier` is its twin.

`run_mount` is called by its verb under the home's lock and gets what the person asked for as a plain value. `ready`
is called once, with lines for that person, when it serves.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from bitdustfs.cli.adopting import fetch_newer, put_aside
from bitdustfs.cli.assemble_supplier import Ready, unlock
from bitdustfs.cli.claiming import Claim, until_told_to_end
from bitdustfs.cli.giving import Giving, GivingWish, giving
from bitdustfs.cli.home_catalog import hired_count, make_own, open_catalog
from bitdustfs.cli.limits import pacer_of
from bitdustfs.cli.mount_options import MountWish, default_spool_bytes, wanted_code
from bitdustfs.cli.mounted import Mounted
from bitdustfs.core.addresses import has_zone
from bitdustfs.core.certificate import Identity
from bitdustfs.core.grace import Patience
from bitdustfs.core.owner_record import Keeper, OwnerRecord
from bitdustfs.core.thinning import Keeping
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges import mounts, old_states
from bitdustfs.edges.catalog_beside import DiskWorkshop
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import read_keys
from bitdustfs.edges.seat import seat_of
from bitdustfs.edges.spool_disk import OPEN_FILES, DiskSpool
from bitdustfs.edges.system import (
    SystemEntropy,
    SystemWall,
    ThreadCrunch,
    allow_open_files,
    best_suite,
    boot_id,
    tune_process,
)
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.codes import keep_code, kept_code
from bitdustfs.engine.holdings import keep_ledger
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.engine.ledger import holds_nothing
from bitdustfs.engine.node import Node
from bitdustfs.engine.orphans import leave_orphans
from bitdustfs.engine.services import NodeOptions
from bitdustfs.engine.suppliers import PING_S, Suppliers
from bitdustfs.engine.tree import Caller
from bitdustfs.engine.view import Following
from bitdustfs.engine.volume_snapshots import keep_keeping, kept_keeping
from bitdustfs.errors import BadRequest
from bitdustfs.model import Code, Role, Standing

log = logging.getLogger(__name__)


async def run_mount(home: Home, wish: MountWish, ready: Ready) -> None:
    """Serve a mount until it is unmounted, stopped through the control socket, or told by a signal.

    Raises:
        BadFormat, BadRequest, InUse, SetupMissing …: before anything was changed.
    """
    tune_process()
    identity, secrets = unlock(home)
    if identity.certificate.role is Role.READER:
        wish = replace(wish, read_only=True)
    open_files, pacer = min(OPEN_FILES, allow_open_files() // 4), pacer_of(wish.settings)
    claim = Claim(identity, secrets, seat_of(home.path, SystemEntropy()))
    async with giving(home, _giving_wish(home, wish, identity), identity, pacer) as given:
        try:
            await until_told_to_end(lambda: _mount(home, wish, identity, secrets, given, open_files, ready, claim))
        finally:
            await claim.end()


def _giving_wish(home: Home, wish: MountWish, identity: Identity) -> GivingWish:
    settings = wish.settings
    return GivingWish(
        listen=settings.give_listen,
        shelf=Path(settings.give_shelf or home.shelf),
        size_bytes=settings.give_size if identity.certificate.role is not Role.READER else 0,  # he agrees to nothing
        settings=settings,
        flags={},
    )


async def _mount(
    home: Home,
    wish: MountWish,
    identity: Identity,
    secrets: VolumeSecrets,
    given: Giving,
    open_files: int,
    ready: Ready,
    claim: Claim,
) -> None:
    with ExitStack() as stack:
        catalog, asked, news = await _newest_catalog(home, wish, identity, secrets, stack, claim)
        _refuse_more_than_hired(catalog, wish)
        code = _volume_code(catalog, wish, asked)
        if mounts.check_mountpoint(wish.place, str(home), mounts.read_mounts()):
            log.warning("the process that served %s before was killed: its mount is taken away", wish.place)
            mounts.detach(wish.place, lazy=True)
        letting_go = catalog.count_releases()  # also those that were given up, until they have let go
        known = [
            row for row in catalog.suppliers() if row.standing is not Standing.FIRED or row.supplier in letting_go
        ]
        patience_s = wish.settings.patience
        entropy, wall = SystemEntropy(), SystemWall()
        suppliers = Suppliers(
            identity,
            given.caller.dialer,
            known,
            entropy=entropy,
            wall=wall,
            caller=given.caller,
            clerk=given.clerk,
            ping_s=min(PING_S, patience_s / 3) if patience_s else PING_S,
        )
        given.known_at = lambda: [(row.node, row.address) for row in catalog.suppliers()]
        stack.callback(setattr, given, "known_at", tuple)  # the catalog is closed before friends are left
        given.on_peer, given.is_dialled, given.is_friend = suppliers.adopt, suppliers.dials, suppliers.knows
        await _learn_contracts(given.clerk, catalog)
        given.on_moved, given.whereabouts.owner_of = suppliers.nudge, suppliers.owner_of
        given.book.on_learnt.append(suppliers.learnt)
        with closing(DiskSpool(home.spool, open_files=open_files)) as spool:
            node = Node(
                identity=identity,
                catalog=catalog,
                changes=SqliteChanges(),
                image=lambda: catalog.image(home.image),
                spool=spool,
                suppliers=suppliers,
                crunch=ThreadCrunch(),
                entropy=entropy,
                wall=wall,
                secrets=secrets,
                options=NodeOptions(
                    spool_limit=wish.spool_bytes or default_spool_bytes(shutil.disk_usage(home.path).free),
                    code=code,
                    practice=wish.settings.practice,
                    snapshots=_keeping(catalog, wish),
                    suite=best_suite(),
                    seat=seat_of(home.path, entropy),
                    takes_over=wish.takes_over,
                    only_reads=wish.read_only and bool(catalog.local_value(VERBATIM)),
                    boot=boot_id(),
                    patience=Patience.of(patience_s) if patience_s else Patience(),
                ),
                following=Following(suppliers, DiskWorkshop(home.catalog, home.newer)),
            )
            claim.is_over = lambda: node.holding.has_held
            given.clerk.used_there = node.stored_with
            stack.callback(setattr, given.clerk, "used_there", None)
            node.register.address_of = lambda each: next(
                (place for place in given.book.places(each) if not has_zone(place)), ""
            )
            node.tree.plant(None, Caller(uid=os.geteuid(), gid=os.getegid()))
            if wish.read_only:
                node.orphans.may_look = lambda: False  # older states may need them
            else:
                writing = stack.enter_context(ExitStack())
                node.on_follow.append(writing.close)
                keep_ledger(given.ledger, catalog, node.fragments.leaves, node.auditor)
                given.receipts.stores = True
                writing.callback(setattr, given.receipts, "stores", False)
                writing.callback(setattr, given.ledger, "holdings", holds_nothing)  # the catalog is closed before
                stack.enter_context(put_aside(home, identity, secrets, catalog, node))
                if given.directing is not None:
                    record_key = read_keys(home).volume.record
                    speak_for = given.directing.discovery.speak_for
                    speak_for(record_key, partial(_keepers_of, catalog, node))
                    writing.callback(speak_for, b"", lambda: None)
            news = [*news, *given.greeting()]
            mounted = Mounted(home, wish, node, suppliers, catalog, identity, news, given)
            mounted.copy_writes = claim.copy_writes
            await mounted.run(ready)


async def _learn_contracts(clerk: Clerk, catalog: SqliteCatalog) -> None:
    """On a new machine the catalog is all that is known of what was agreed; friends show what is newer."""
    for row in catalog.suppliers():
        if row.standing is not Standing.FIRED and row.owner not in clerk.agreements:
            await clerk.learn(row.contract)


def _keepers_of(catalog: SqliteCatalog, node: Node) -> OwnerRecord | None:
    """What the owner's record is to say: those who answer now come first, for not all may fit."""
    online = set(node.suppliers.online())
    rows = sorted((row for row in catalog.suppliers() if row.is_listed), key=lambda row: row.supplier not in online)
    if not rows or node.publisher.foreign is not None:
        return None
    return OwnerRecord(node.publisher.version, tuple(Keeper(row.node, row.address) for row in rows))


async def _newest_catalog(
    home: Home, wish: MountWish, identity: Identity, secrets: VolumeSecrets, stack: ExitStack, claim: Claim
) -> tuple[SqliteCatalog, Code | None, Sequence[str]]:
    """Open the catalog of a home, or the newer one that suppliers hold in its place; with what to say of that."""
    choose = partial(wanted_code, wish)
    catalog, code = stack.enter_context(open_catalog(home, secrets, choose, read_only=wish.read_only))
    if wish.read_only:
        return catalog, code, ()
    old_states.tidy(home)
    news = await claim.make(catalog, takes_over=wish.takes_over)
    if news:  # another machine writes, or did
        leave_orphans(catalog)
        catalog.commit()
    adopted = await fetch_newer(home, identity, secrets, catalog)
    if adopted is None:
        make_own(catalog)
        return catalog, code, news
    stack.close()
    old_states.take(home)
    catalog, code = stack.enter_context(open_catalog(home, secrets, choose))
    return catalog, code, [*news, *adopted.lines()]


def _volume_code(catalog: SqliteCatalog, wish: MountWish, asked: Code | None) -> Code | None:
    """The code of the volume from now on; what is asked for is kept, for later mounts and other machines."""
    if not wish.read_only and (asked is not None or wish.by_number):
        keep_code(catalog, asked)
        catalog.commit()
    return asked if asked is not None or wish.by_number else kept_code(catalog)


def _keeping(catalog: SqliteCatalog, wish: MountWish) -> Keeping:
    """How many snapshots are made and kept from now on; what is asked for is kept, as the code is."""
    settings = wish.settings
    asked = {
        "hourly": settings.snapshots_hourly,
        "daily": settings.snapshots_daily,
        "weekly": settings.snapshots_weekly,
        "monthly": settings.snapshots_monthly,
    }
    said = {period: most for period, most in asked.items() if most is not None}
    keeping = replace(kept_keeping(catalog), **said)
    if said and not wish.read_only:
        keep_keeping(catalog, keeping)
        catalog.commit()
    return keeping


def _refuse_more_than_hired(catalog: SqliteCatalog, wish: MountWish) -> None:
    """Refuse a new code with more fragments than suppliers are hired: each goes to another one. Raises BadRequest."""
    hired = hired_count(catalog)
    if wish.code is not None and wish.code.n > hired and wish.code != kept_code(catalog):
        raise BadRequest(  # who chose it before may have lost some since
            what=f"--code {wish.code} makes {wish.code.n} fragments of each block, each for another supplier, and "
            f"{hired} are hired: hire more, or choose a smaller N"
        )
