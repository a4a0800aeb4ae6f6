"""Assembly: the one file that builds the real thing, for a mount and for hiring; `assemble_supplier` is its twin.

Each `run_…` is called by its verb under the home's lock and gets what the person asked for as a plain value.
`ready` is called once, with lines for that person, when it serves.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from bitdustfs.cli.adopting import fetch_newer, put_aside
from bitdustfs.cli.assemble_supplier import Ready, cancel_on_signal, unlock
from bitdustfs.cli.befriending import Friends, JoinWish, keep_on_disk
from bitdustfs.cli.common import only_here, only_read
from bitdustfs.cli.contracting import contract_verbs
from bitdustfs.cli.giving import Giving, GivingWish, giving
from bitdustfs.cli.limits import follow_limits, pacer_of
from bitdustfs.cli.mount_options import MountWish, default_spool_bytes, wanted_code
from bitdustfs.core import agreement
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.grace import Patience
from bitdustfs.core.invited import Wish
from bitdustfs.core.owner_record import Keeper, OwnerRecord
from bitdustfs.core.report import PRACTICE_BANNER, HireReport, JoinReport
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges import control_server, fuse, mounts, old_states
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.control import Args
from bitdustfs.edges.durable import move_durably, translated
from bitdustfs.edges.fuse_tuning import MAX_BACKGROUND, MountOptions
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import read_keys
from bitdustfs.edges.own_address import dialable
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
from bitdustfs.edges.tcp import TcpDialer, join_address, listening, split_address
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.codes import keep_code, kept_code
from bitdustfs.engine.handler import RefuseAll
from bitdustfs.engine.node import Node
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.reporter import note_checked
from bitdustfs.engine.services import NodeOptions
from bitdustfs.engine.suppliers import PING_S, Suppliers
from bitdustfs.engine.tree import Caller
from bitdustfs.errors import (
    BadFormat,
    BadRequest,
    BitdustError,
    CatalogDamaged,
    DiskFault,
    LogDamaged,
    ReadOnly,
    Unavailable,
)
from bitdustfs.model import Code, NodeId, OwnerId, Role, Rule, Standing, Supplier, Verdict, short

_VOLUME_ID = "volume_id"  # in the catalog: which volume it describes
_HIRE_S = 30.0
_FLUSH_S = 10.0  # for the kernel's dirty pages at umount

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HireWish:
    """Which supplier the person wants, for how much."""

    node: NodeId
    address: str
    bytes: int
    label: str
    as_candidate: bool = False  # it gets nothing until a hired one is lost


# --- mount ------------------------------------------------------------------------------------------------


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
    async with giving(home, _giving_wish(home, wish, identity), identity, pacer) as given:
        await _mount(home, wish, identity, secrets, given, open_files, ready)


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
) -> None:
    with ExitStack() as stack:
        catalog, asked, news = await _newest_catalog(home, wish, identity, secrets, stack)
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
            ping_s=min(PING_S, patience_s / 3) if patience_s else PING_S,
        )
        given.known_at = lambda: [(row.node, row.address) for row in catalog.suppliers()]
        stack.callback(setattr, given, "known_at", tuple)  # the catalog is closed before friends are left
        given.on_peer, given.is_dialled, given.is_friend = suppliers.adopt, suppliers.dials, suppliers.knows
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
                    suite=best_suite(),
                    boot=boot_id(),
                    patience=Patience.of(patience_s) if patience_s else Patience(),
                ),
            )
            node.tree.plant(None, Caller(uid=os.geteuid(), gid=os.getegid()))
            if wish.read_only:
                node.orphans.may_look = lambda: False  # older states may need them
            else:
                stack.enter_context(put_aside(home, identity, secrets, catalog, node))
                if given.directing is not None:
                    record_key = read_keys(home).volume.record
                    speak_for = given.directing.discovery.speak_for
                    speak_for(record_key, partial(_keepers_of, catalog, node))
                    stack.callback(speak_for, b"", lambda: None)
            news = [*news, *given.greeting()]
            await _Mounted(home, wish, node, catalog, identity, news, given).run(ready)


def _keepers_of(catalog: SqliteCatalog, node: Node) -> OwnerRecord | None:
    """What the owner's record is to say: those who answer now come first, for not all may fit."""
    online = set(node.suppliers.online())
    rows = sorted((row for row in catalog.suppliers() if row.is_listed), key=lambda row: row.supplier not in online)
    if not rows or node.publisher.foreign is not None:
        return None
    return OwnerRecord(node.publisher.version, tuple(Keeper(row.node, row.address) for row in rows))


async def _newest_catalog(
    home: Home, wish: MountWish, identity: Identity, secrets: VolumeSecrets, stack: ExitStack
) -> tuple[SqliteCatalog, Code | None, Sequence[str]]:
    """Open the catalog of a home, or the newer one that suppliers hold in its place; with what to say of that."""
    choose = partial(wanted_code, wish)
    catalog, code = stack.enter_context(_catalog(home, secrets, choose, read_only=wish.read_only))
    if wish.read_only:
        return catalog, code, ()
    old_states.tidy(home)
    adopted = await fetch_newer(home, identity, secrets, catalog)
    if adopted is None:
        return catalog, code, ()
    stack.close()
    old_states.take(home)
    catalog, code = stack.enter_context(_catalog(home, secrets, choose))
    return catalog, code, adopted.lines()


def _volume_code(catalog: SqliteCatalog, wish: MountWish, asked: Code | None) -> Code | None:
    """The code of the volume from now on; what is asked for is kept, for later mounts and other machines."""
    if not wish.read_only and (asked is not None or wish.by_number):
        keep_code(catalog, asked)
        catalog.commit()
    return asked if asked is not None or wish.by_number else kept_code(catalog)


def _refuse_more_than_hired(catalog: SqliteCatalog, wish: MountWish) -> None:
    """Refuse a new code with more fragments than suppliers are hired: each goes to another one. Raises BadRequest."""
    hired = _hired(catalog)
    if wish.code is not None and wish.code.n > hired and wish.code != kept_code(catalog):
        raise BadRequest(  # who chose it before may have lost some since
            what=f"--code {wish.code} makes {wish.code.n} fragments of each block, each for another supplier, and "
            f"{hired} are hired: hire more, or choose a smaller N"
        )


class _Mounted:
    """A node behind a mount, with the verbs that can be asked of it."""

    def __init__(
        self,
        home: Home,
        wish: MountWish,
        node: Node,
        catalog: SqliteCatalog,
        identity: Identity,
        news: Sequence[str],
        given: Giving,
    ) -> None:
        self._home = home
        self._wish = wish
        self._node = node
        self._catalog = catalog
        self._role = identity.certificate.role
        self._news = news
        self._given = given
        self._friends = Friends(
            home,
            identity,
            catalog,
            commit=self._durable,
            keep=self._keep_contract,
            on_row=node.suppliers.add,
        )
        self._operations = fuse.Operations(
            tree=node.tree,
            attributes=node.attributes,
            files=node.files,
            journal=node.journal,
            space=node.space,
            deadlines=fuse.Deadlines(read_s=wish.read_timeout_s, sync_s=wish.fsync_deadline_s),
            note_slots=node.reads.allow,
            make_safe=node.make_safe if wish.fsync_safe else None,
        )
        self._scope = trio.CancelScope()

    async def run(self, ready: Ready) -> None:
        """Serve until the end, and commit what is left."""
        practice = self._wish.settings.practice
        options = MountOptions(
            fsname=mounts.fsname(str(self._home), practice=practice),
            allow_other=self._wish.allow_other,
            read_only=self._wish.read_only,
            max_background=self._wish.max_background or MAX_BACKGROUND,
        )
        handlers: Mapping[str, control_server.Handler] = {
            "status": self._status,
            "without": self._without,
            "rebuild": self._rebuild,
            "sync": self._sync,
            "audit": self._audit,
            "cache-drop": self._drop_cache,
            "stop": self._stop,
            "hire": self._hire,
            "join": self._join,
            "friends": self._told_friends,
            "rename": self._rename,
            "leave": self._leave,
            **contract_verbs(self._given, self._home.contracts, self._note_contract),
            "stay": self._stay,
            "recode": self._recode,
            "recovery-checked": self._recovery_checked,
        }
        async with self._node.running():
            if self._role is Role.READER:
                content = self._node.publisher.content
                self._node.journal.forbid(ReadOnly(what=only_read(content.time_s if content is not None else None)))
            if not self._wish.read_only:
                await self._friends.make_up()
                self._given.on_joined = self._friends.joined
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_on_signal, self._scope)
                    nursery.start_soon(follow_limits, self._home, self._wish.settings, self._node.suppliers.pacer)
                    await nursery.start(control_server.serve, self._home.control, handlers)
                    await nursery.start(self._serve_kernel, options)
                    ready(self._greeting())
            told = only_here(self._node.stop_report())
        log.info("unmounted %s. %s", self._wish.place, told)

    async def _serve_kernel(
        self, options: MountOptions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await fuse.serve(self._operations, self._wish.place, options, task_status=task_status)
        self._scope.cancel()  # somebody unmounted it

    def _greeting(self) -> list[str]:
        lines = [f"Mounted {self._wish.place}.", *self._news]
        hired = _hired(self._catalog)
        if self._wish.settings.practice:
            lines.append(PRACTICE_BANNER)
        if not hired:
            lines.append(
                "No supplier is hired: everything exists only on this machine. See `bitdustfs invite --help`."
            )
        elif hired == 1:
            lines.append("One supplier is hired: if it goes, and this machine goes, everything is gone.")
        if self._catalog.failure is not None:
            lines.append("The catalog is damaged: what can be read can be copied out; nothing is sent or repaired.")
        elif self._node.journal.refusal is not None:
            lines.append(f"Read-only: {self._node.journal.refusal}.")
        return lines

    async def _status(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.status(args.get("path"))}

    async def _without(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.without(str(args["label"]))}

    async def _rebuild(self, _args: Args, _report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.forecast()}

    async def _sync(self, args: Args, report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.sync(report, args.get("timeout"))}

    async def _audit(self, args: Args, report: control_server.Report) -> Mapping[str, object]:
        return {"suppliers": await self._node.audit(str(args.get("label", "")), report)}

    async def _drop_cache(self, _args: Args, _report: control_server.Report) -> Mapping[str, object]:
        dropped = await self._node.drop_cache()
        await self._operations.invalidate_pages()
        return {**dropped}

    async def _stop(self, _args: Args, _report: control_server.Report) -> Mapping[str, object]:
        try:
            await trio.to_thread.run_sync(_flush_kernel, self._wish.place)
        except Unavailable as error:
            log.warning("%s", error)
        if self._catalog.failure is None:
            self._node.journal.commit()  # if it cannot be stored now, ending would lose it: go on instead
        told = self._node.stop_report()
        self._scope.cancel()
        return {**told}

    async def _hire(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        wish = HireWish(
            node=NodeId(bytes.fromhex(args["node"])),
            address=str(args["address"]),
            bytes=int(args["bytes"]),
            label=str(args["label"]),
            as_candidate=bool(args["candidate"]),
        )
        row = await _agree(self._node.suppliers, self._catalog, wish)
        self._node.suppliers.add(row)
        await self._durable()
        return {**_told(row)}

    async def _join(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        if self._node.journal.refusal is not None:
            raise ReadOnly(what=f"nobody can be hired now: {self._node.journal.refusal}")
        self._given.heed()
        wish = JoinWish(str(args["line"]), Wish(int(args["offer"]), int(args["need"])), str(args["name"]))
        return {**await self._friends.join(self._given.caller.dialer, wish, self._given.address)}

    async def _told_friends(self, _args: Args, _report: control_server.Report) -> Mapping[str, object]:
        report = await self._node.status("/")
        states = {NodeId(bytes.fromhex(each["node"])): each["state"] for each in report["suppliers"]}
        return {"friends": self._friends.told(states)}

    async def _rename(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        await self._friends.rename(OwnerId(bytes.fromhex(args["owner"])), str(args["name"]))
        return {}

    async def _durable(self) -> None:
        self._node.journal.commit()
        await self._node.journal.durable()

    async def _keep_contract(self, agreed: Contract) -> None:
        if agreed.gives(self._given.identity.owner):
            await self._given.opened_keeper()
        await self._given.keeper.keep(agreed)

    def _note_contract(self, owner: OwnerId, signed: Contract) -> None:
        """Let the rows of a friend's suppliers say what is agreed now."""
        gives = agreement.party_of(signed, owner)
        for row in self._catalog.suppliers():
            if row.owner == owner and row.node == gives.shelf:
                row = replace(
                    row,
                    contract=signed.raw,
                    capacity_bytes=gives.gives_bytes,
                    capacity_fragments=gives.gives_fragments,
                )
                self._catalog.put_supplier(row)
                self._node.suppliers.add(row)
        self._node.journal.commit()

    async def _leave(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.leave(str(args["label"]))}

    async def _stay(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.stay(str(args["label"]))}

    async def _recode(self, args: Args, report: control_server.Report) -> Mapping[str, object]:
        return {**await self._node.recode(args.get("path"), report, is_dry=bool(args["dry"]))}

    async def _recovery_checked(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        note_checked(self._catalog, int(args["at_s"]))
        self._node.journal.commit()
        return {}


# --- hire -------------------------------------------------------------------------------------------------


async def hire_unmounted(home: Home, wishes: Sequence[HireWish]) -> list[HireReport]:
    """Hire suppliers for a home that no process serves. One after another: the code goes by their number."""
    identity, secrets = unlock(home)
    with _catalog(home, secrets, lambda _hired: None) as (catalog, _code):
        wall, entropy = SystemWall(), SystemEntropy()
        clerk = Clerk(identity, DiskContracts(home.contracts), crunch=ThreadCrunch(1), wall=wall)
        suppliers = Suppliers(
            identity, TcpDialer(identity.key), catalog.suppliers(), entropy=entropy, wall=wall, clerk=clerk
        )
        told = []
        for wish in wishes:
            row = await _agree(suppliers, catalog, wish)
            catalog.commit()
            await catalog.harden()
            told.append(_told(row))
        return told


@contextmanager
def unmounted_friends(home: Home) -> Iterator[Friends]:
    """The friends of a home that no process serves."""
    identity, secrets = unlock(home)
    with _catalog(home, secrets, lambda _hired: None) as (catalog, *_):

        async def commit() -> None:
            catalog.commit()
            await catalog.harden()

        yield Friends(home, identity, catalog, commit=commit, keep=partial(keep_on_disk, home, identity.owner))


async def join_unmounted(home: Home, asked: JoinWish, listen: str) -> JoinReport:
    """Join by an invitation, for a home that no process serves.

    Args:
        listen: ADDR:PORT; waited at meanwhile, so that the friend's machine can try to dial this one. "": nowhere.
    """
    identity, _secrets = unlock(home)
    with unmounted_friends(home) as friends:
        async with AsyncExitStack() as stack:
            address = ""
            if listen:
                listener = await stack.enter_async_context(listening(listen, identity.key))
                host, port = split_address(listener.address)
                address = join_address(dialable(host), port)
                nursery = await stack.enter_async_context(trio.open_nursery())
                stack.callback(nursery.cancel_scope.cancel)
                reception = Reception(identity, RefuseAll(), knows=lambda _owner: False)
                nursery.start_soon(reception.run, listener)
            failed: BitdustError | None = None
            try:
                return await friends.join(TcpDialer(identity.key), asked, address)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
        assert failed is not None
        raise failed


def hired_suppliers(home: Home) -> Sequence[Supplier]:
    """The suppliers of a home that no process serves, as far as its catalog can be read."""
    if not home.catalog.exists():
        return ()
    with closing(_open_catalog(home, read_only=True)) as catalog:
        return [row for row in catalog.suppliers() if row.is_hired]


async def _agree(suppliers: Suppliers, catalog: SqliteCatalog, wish: HireWish) -> Supplier:
    """Sign a contract with a supplier and note it in the catalog. The caller commits."""
    with trio.move_on_after(_HIRE_S) as waiting:
        row = await suppliers.hire(wish.address, wish.node, wish.bytes, label=wish.label)
    if waiting.cancelled_caught:
        raise Unavailable(what=f"{wish.address or short(wish.node)} did not answer in {_HIRE_S:g} s")
    # no await from here on: what is known of it changes all the time, and `suppliers` knows it as it was at the start
    known = next((each for each in catalog.suppliers() if each.node == wish.node), None)
    standing = Standing.CANDIDATE if wish.as_candidate else Standing.HIRED
    if known is None:
        row = replace(row, label=wish.label or f"s{len(catalog.suppliers()) + 1}", standing=standing)
    else:
        row = replace(
            row,
            supplier=known.supplier,
            label=wish.label or known.label,
            used_bytes=known.used_bytes,
            used_fragments=known.used_fragments,
            standing=known.standing if wish.as_candidate else standing,
        )
    catalog.put_supplier(row)
    kept = next(each for each in catalog.suppliers() if each.node == wish.node)
    if kept.is_hired and not (known is not None and known.is_hired):
        catalog.note_verdict(Verdict(kept.supplier, Rule.HIRE, SystemWall().now_ns()))
    return kept


def _told(row: Supplier) -> HireReport:
    return HireReport(
        label=row.label,
        node=row.node.hex(),
        owner=row.owner.hex(),
        address=row.address,
        bytes=row.capacity_bytes,
        fragments=row.capacity_fragments,
    )


# --- parts ------------------------------------------------------------------------------------------------


@contextmanager
def _catalog(
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
    with closing(_open_catalog(home, read_only=read_only)) as catalog:
        if catalog.value(_VOLUME_ID) != secrets.volume_id:
            raise BadFormat(what=f"{home.catalog} does not belong to the keys beside it: put the right keys back")
        yield catalog, choose(_hired(catalog))


def _hired(catalog: SqliteCatalog) -> int:
    return sum(row.is_hired for row in catalog.suppliers())


def _open_catalog(home: Home, *, read_only: bool) -> SqliteCatalog:
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


def _flush_kernel(place: str) -> None:
    mounts.sync_filesystem(place, wait_s=_FLUSH_S)
