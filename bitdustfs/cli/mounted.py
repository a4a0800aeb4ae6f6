"""A node behind a mount, with the verbs that can be asked of it through the control socket."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import trio

from bitdustfs.cli.assemble_supplier import Ready, cancel_on_signal
from bitdustfs.cli.befriending import Friends, JoinWish
from bitdustfs.cli.common import only_here, only_read
from bitdustfs.cli.contracting import contract_verbs
from bitdustfs.cli.fork_verbs import fork_verbs
from bitdustfs.cli.giving import Giving, nothing_more
from bitdustfs.cli.hiring import HireWish, agree, told_of
from bitdustfs.cli.home_catalog import hired_count
from bitdustfs.cli.limits import follow_limits
from bitdustfs.cli.mount_options import MountWish
from bitdustfs.cli.reaching import reach_verbs
from bitdustfs.cli.snapshot_verbs import snapshot_verbs
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.invited import Wish
from bitdustfs.core.report import PRACTICE_BANNER, FairnessReport, StepReport
from bitdustfs.edges import control_server, fuse, mounts
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.control import Args
from bitdustfs.edges.fuse_tuning import MAX_BACKGROUND, MountOptions
from bitdustfs.edges.home import Home
from bitdustfs.edges.loop_steps import LoopSteps
from bitdustfs.engine.node import Node
from bitdustfs.engine.reporter import note_checked
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import ReadOnly, Unavailable
from bitdustfs.model import NodeId, OwnerId, Role

_FLUSH_S = 10.0  # for the kernel's dirty pages at umount

log = logging.getLogger(__name__)


class Mounted:
    """A node behind a mount, with the verbs that can be asked of it."""

    def __init__(
        self,
        home: Home,
        wish: MountWish,
        node: Node,
        suppliers: Suppliers,
        catalog: SqliteCatalog,
        identity: Identity,
        news: Sequence[str],
        given: Giving,
    ) -> None:
        self._home = home
        self._wish = wish
        self._node = node
        self._suppliers = suppliers
        self._catalog = catalog
        self._identity = identity
        self._role = identity.certificate.role
        self._news = news
        self.copy_writes = False  # a copy of this home does: nothing is to be changed here at any moment
        self._given = given
        self._friends = Friends(
            home,
            identity,
            catalog,
            commit=self._durable,
            clerk=lambda: given.clerk,
            keep=self._keep_contract,
            on_row=suppliers.add,
            ledger=given.ledger,
        )
        node.reporter.fairness = self._fairness
        self._operations = fuse.Operations(
            tree=node.tree,
            attributes=node.attributes,
            files=node.files,
            journal=node.journal,
            space=node.space,
            deadlines=fuse.Deadlines(read_s=wish.read_timeout_s, sync_s=wish.fsync_deadline_s),
            note_slots=node.reads.allow,
            make_safe=node.make_safe if wish.fsync_safe else None,
            past=node.past,
            view=node.view_tree,
        )
        node.files.is_asked = self._operations.rush.is_on
        if node.view is not None:
            node.view.settle.append(self._operations.forget_stale)
        node.on_follow.append(self._follow)
        self._scope = trio.CancelScope()
        self._steps = LoopSteps()
        node.handover.flush = lambda: trio.to_thread.run_sync(_flush_kernel, wish.place)

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
            **contract_verbs(self._given, self._home.contracts, self._node.register.look),
            **reach_verbs(self._given, self._home.contracts),
            "stay": self._stay,
            "recode": self._recode,
            "recovery-checked": self._recovery_checked,
            **snapshot_verbs(self._node),
            **fork_verbs(self._node),
        }
        async with self._node.running():
            if self._role is Role.READER:
                content = self._node.publisher.content
                self._node.journal.forbid(ReadOnly(what=only_read(content.time_s if content is not None else None)))
            if not self._wish.read_only:
                await self._friends.make_up()
                self._given.on_joined = self._friends.joined
            if self.copy_writes:
                self._node.holding.on_lost(self._identity.node)
            with self._scope, self._steps.watching():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_on_signal, self._scope)
                    nursery.start_soon(follow_limits, self._home, self._wish.settings, self._suppliers.pacer)
                    await nursery.start(control_server.serve, self._home.control, handlers)
                    await nursery.start(self._serve_kernel, options)
                    ready(self._greeting())
            told = only_here(self._node.stop_report())
        log.info("unmounted %s. %s", self._wish.place, told)

    def _follow(self) -> None:
        """This machine, which wrote, only reads from now on."""
        assert self._node.view is not None and self._node.view_tree is not None
        self._operations.show(self._node.view_tree)
        self._node.view.settle.append(self._operations.forget_stale)
        self._node.forget_pages = self._operations.invalidate_pages
        self._given.on_joined = nothing_more

    async def _serve_kernel(
        self, options: MountOptions, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await fuse.serve(self._operations, self._wish.place, options, task_status=task_status)
        self._scope.cancel()  # somebody unmounted it

    def _greeting(self) -> list[str]:
        lines = [f"Mounted {self._wish.place}.", *self._news]
        hired = hired_count(self._catalog)
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
        elif self._node.journal.refusal is not None and not self.copy_writes:  # which the news say
            lines.append(f"Read-only: {self._node.journal.refusal}.")
        return lines

    async def _status(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        steps = self._steps
        longest = StepReport(cpu_s=steps.longest_s, task=steps.longest_task, long=steps.long)
        return {**await self._node.status(args.get("path")), "longest_step": longest}

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
        self._node.journal.admit()
        wish = HireWish(
            node=NodeId(bytes.fromhex(args["node"])),
            address=str(args["address"]),
            bytes=int(args["bytes"]),
            label=str(args["label"]),
            as_candidate=bool(args["candidate"]),
        )
        row = await agree(self._suppliers, self._catalog, wish)
        self._suppliers.add(row)
        await self._durable()
        return {**told_of(row)}

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

    def _fairness(self) -> Sequence[FairnessReport]:
        """Of those with whom anything was counted, by name."""
        names = {owner: name for name, owner in self._friends.named().items()}
        told = [
            FairnessReport(
                name=names.get(owner, owner.hex()[:8]), owner=owner.hex(), balance=self._given.ledger.balance(owner)
            )
            for owner in self._given.ledger.owners() - {self._given.identity.owner}
        ]
        return sorted(told, key=lambda each: each["name"])

    async def _rename(self, args: Args, _report: control_server.Report) -> Mapping[str, object]:
        self._node.journal.admit()
        await self._friends.rename(OwnerId(bytes.fromhex(args["owner"])), str(args["name"]))
        return {}

    async def _durable(self) -> None:
        self._node.journal.commit()
        await self._node.journal.durable()

    async def _keep_contract(self, agreed: Contract) -> None:
        if agreed.gives(self._given.identity.owner):
            self._given.heed()  # what is given to all may just have become more
            await self._given.opened_keeper()
        await self._given.keeper.keep(agreed)

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


def _flush_kernel(place: str) -> None:
    mounts.sync_filesystem(place, wait_s=_FLUSH_S)
