"""The reporter: how safe a volume, or what lies at one path, is, in the words of `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import trio

from bitdustfs.core import health, standing
from bitdustfs.core.report import FairnessReport, StatusReport, SupplierReport, ViewReport, WaitReport
from bitdustfs.core.units import count, format_day, format_eta, format_size
from bitdustfs.engine.files import Files
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.margins import least_margin
from bitdustfs.engine.monitor import Monitor
from bitdustfs.engine.past_tree import SNAPSHOTS_NAME
from bitdustfs.engine.rebuilder import Rebuilder
from bitdustfs.engine.register import Register
from bitdustfs.engine.replica import Replica
from bitdustfs.engine.shares import Lacks, Shares, eta_s, lacks, shared_out, unsafe_bytes
from bitdustfs.engine.tracks import Tracks
from bitdustfs.engine.tree import Tree
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import NotFound
from bitdustfs.model import (
    ROOT_INO,
    AuditTally,
    BlockNo,
    BlockRow,
    Code,
    FileState,
    FragmentState,
    Ino,
    Inode,
    Standing,
    Supplier,
    SupplierNo,
)
from bitdustfs.ports import Catalog, Spool

_TROUBLE = 20  # sentences kept
_BREATHE = 200  # inodes looked at before others get a turn
_CHECKED = "recovery_checked"  # in the catalog, local: 8 bytes, wall time in seconds


class Leftover(Protocol):
    """What an older state of this machine has and the tree not yet. `engine.aside.Aside` is one."""

    @property
    def left(self) -> int:
        """How many files."""
        ...

    @property
    def trouble(self) -> str:
        """Why they wait; "" if nothing is wrong."""
        ...

    @property
    def is_gone(self) -> bool:
        """Nothing of the older state is needed any more, here or at suppliers."""
        ...


@dataclass(slots=True)
class _Found:
    """Numbers of a volume or of a part of it."""

    state: FileState
    files: int = 0
    bytes: int = 0
    shares: Shares = field(default_factory=Shares)
    files_local: int = 0
    blocks: int = 0
    held: int = 0
    needed: int = 0
    wanted: int = 0
    margin: int | None = None
    missing: int = 0
    unlike: int = 0
    codes: Counter[Code] = field(default_factory=Counter)
    states: list[FileState] = field(default_factory=list)


class Reporter:
    """Answers `status`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        spool: Spool,
        files: Files,
        journal: Journal,
        tree: Tree,
        writer: Writer,
        fragments: Fragments,
        replica: Replica,
        monitor: Monitor,
        tracks: Tracks,
        register: Register,
        rebuilder: Rebuilder,
        spool_limit: int,
        practice: bool,
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._files = files
        self._journal = journal
        self._tree = tree
        self._writer = writer
        self._fragments = fragments
        self._replica = replica
        self._monitor = monitor
        self._tracks = tracks
        self._register = register
        self._rebuilder = rebuilder
        self._spool_limit = spool_limit
        self._practice = practice
        self._trouble: list[str] = []
        self.waiting_to_leave: Callable[[], Mapping[SupplierNo, int]] = dict  # see `Drainer.waiting`
        self.forks: Callable[[], list[str]] = list  # what to say of states beside this one
        self.refusing: Callable[[], Sequence[Supplier]] = tuple  # see `Forks`
        self.waits_for: Callable[[], Sequence[WaitReport]] = tuple  # see `Waiting`
        self.trouble_waiting: Callable[[], Sequence[str]] = tuple
        self.lack_of_room: Callable[[], str] = str  # see `Services.lack_of_room`
        self.snapshots: Callable[[], tuple[int, int]] = lambda: (0, 0)  # how many, and bytes that only they have
        self.kept_forks: Callable[[], tuple[int, int]] = lambda: (0, 0)  # how many, and bytes that are not of now
        self.is_unlike: Callable[[BlockRow], bool] = lambda _row: False  # see `Follower`
        self.count_unlike: Callable[[], int] = lambda: 0
        self.trouble_recoding: Callable[[], str] = lambda: ""  # see `Recoder.trouble`
        self.view: Callable[[int], ViewReport | None] = lambda _answering: (
            None
        )  # of who only reads: see `View.report`
        self.view_trouble: Callable[[], str] = lambda: ""
        self.fairness: Callable[[], Sequence[FairnessReport]] = tuple  # see `engine.ledger`
        self.aside: list[Leftover] = []  # what of older states of this machine is still to be put into the tree

    def note_trouble(self, sentence: str) -> None:
        """Keep a sentence for `status`, newest first, each once."""
        self._trouble = [sentence, *(s for s in self._trouble if s != sentence)][:_TROUBLE]

    def missing_fragments(self) -> int:
        """Fragments that no supplier holds, over all blocks."""
        return sum((code.n - held) * count for code, held, count in self._held() if held < code.n)

    def stuck(self) -> list[str]:
        """Why something does not come to suppliers, however long it is waited for: a person is to do something."""
        refusal, shown = self._journal.refusal, self.view(0)
        if shown is not None:
            who = f"node {shown['writer'][:8]}"
            only = f"this machine only reads the volume: {who} brings what is missing, and knows what is safe"
            return [only, *self.forks()]
        told = [f"nothing can be changed now: {refusal}"] if refusal is not None else []
        return [*filter(None, [self._without_hired()]), *told, *self.forks()]

    def files_aside(self) -> int:
        """How many files are only in older states of this machine."""
        return sum(each.left for each in self.aside)

    def state(self) -> FileState:
        """The state of the worst file."""
        if self._files.dirty_totals()[0] or self.files_aside():
            return FileState.LOCAL
        found = health.worst([health.block_state(code, held, local_copy=False) for code, held, _ in self._held()])
        if found is FileState.PLACED and self.is_unsure:
            return FileState.DEGRADED  # nobody knows whether they are held
        return self._at_best() if found is FileState.PLACED else found

    async def status(self, path: str | None) -> StatusReport:
        """How safe the volume is, or what lies at `path` (from the root of the volume, "/" first).

        Raises:
            NotFound: nothing is at the path.
        """
        whole = path in (None, "", "/")
        ino = ROOT_INO if whole else self.find(path or "")
        lacking = await lacks(self._catalog, of_files=self.only_reads)
        online = self._fragments.asks.reachable()
        found = await self._volume(online, lacking) if whole else await self._below(ino, online)
        code = self._writer.code() if whole else self._tree.attributes(ino).code or self._writer.code()
        recode_blocks, recode_bytes = self._catalog.count_marked()
        snapshots, snapshot_bytes = self.snapshots()
        forks, fork_bytes = self.kept_forks()
        refusing = [row.label for row in self.refusing()]
        report = StatusReport(
            state=found.state.value,
            path=path or "/",
            practice=self._practice,
            code=str(code) if code else "",
            codes={str(each): count for each, count in sorted(found.codes.items(), key=lambda each: str(each[0]))},
            unlike_blocks=found.unlike,
            recode_blocks=recode_blocks,
            recode_bytes=recode_bytes,
            files=found.files,
            bytes=found.bytes,
            bytes_safe=found.shares.safe,
            bytes_placed=found.shares.placed,
            bytes_degraded=found.shares.degraded,
            bytes_lost=found.shares.lost,
            bytes_local=found.shares.local,
            files_local=found.files_local,
            blocks=found.blocks,
            held=found.held,
            needed=found.needed,
            wanted=found.wanted,
            margin=found.margin if found.margin is not None else 0,
            missing_fragments=found.missing,
            missing_bytes=lacking.missing_bytes,
            repairing=len(self._rebuilder.at_work),
            repair_bytes_per_s=self._rebuilder.bytes_per_s,
            repair_eta_s=-1 if refusing and lacking.missing_bytes else eta_s(lacking.missing_bytes, self._rebuilder),
            refusing=refusing,
            snapshots=snapshots,
            snapshot_bytes=snapshot_bytes,
            forks=forks,
            fork_bytes=fork_bytes,
            spool_bytes=self._spool.used_bytes(),
            spool_limit_bytes=self._spool_limit,
            fetched_bytes=self._fragments.leaves.fetched_bytes,
            recovery_checked_s=checked_s(self._catalog),
            suppliers=self._supplier_reports(online),
            fairness=list(self.fairness()),
            waits_for=list(self.waits_for()),
            trouble=self._troubles(online),
        )
        shown = self.view(len(online))
        if shown is not None:
            report["view"] = shown
        return report

    async def _volume(self, online: Set[SupplierNo], lacking: Lacks) -> _Found:
        unsafe = await unsafe_bytes(self._catalog, self._replica.safe_change)
        margin = await least_margin(self._catalog, online, of_files=self.only_reads)
        files_local, bytes_local = self._files.dirty_totals()
        published, inodes = self._catalog.file_bytes()
        total = published + self._files.unpublished_growth()
        histogram = self._held()
        code, held = histogram[0][:2] if histogram else (None, 0)
        if code is not None and margin is not None:
            margin = min(margin, health.margin(code, held))  # less may be held than when it was counted
        return _Found(
            state=self.state(),
            files=max(0, inodes - 1),
            bytes=total,
            shares=shared_out(total, bytes_local, lacking, unsafe, is_unsure=self.is_unsure),
            files_local=files_local,
            blocks=self._catalog.count_blocks(),
            held=held,
            needed=code.k if code else 0,
            wanted=code.n if code else 0,
            margin=margin,
            missing=self.missing_fragments(),
            unlike=self.count_unlike(),
            codes=Counter(self._catalog.count_codes()),
        )

    async def _below(self, ino: Ino, online: Set[SupplierNo]) -> _Found:
        found = _Found(FileState.PLACED)
        blocks: set[BlockNo] = set()
        stack: list[Inode] = [self._tree.attributes(ino)]
        seen = 0
        while stack:
            inode = stack.pop()
            seen += 1
            if seen % _BREATHE == 0:
                await trio.lowlevel.checkpoint()
            found.files += inode.ino != ino or not inode.is_dir
            if inode.is_dir:
                stack.extend(self._tree.children(inode.ino))
            elif inode.is_file:
                self._count_file(found, inode, blocks)
        for number in blocks:
            self._count_block(found, number, online)
        found.state = health.worst(found.states or [self._at_best()])
        return found

    def _at_best(self) -> FileState:
        """The state of what lacks nothing at suppliers: names are only here as long as nobody keeps anything."""
        is_anybody = any(row.is_hired or row.used_fragments for row in self._catalog.suppliers())
        if not is_anybody and not self.only_reads:
            return FileState.LOCAL
        return FileState.SAFE if self._replica.is_all_safe and not self.is_unsure else FileState.PLACED

    def _count_file(self, found: _Found, inode: Inode, blocks: set[BlockNo]) -> None:
        state = self._files.state(inode.ino)
        found.states.append(state)
        found.bytes += inode.size
        if state is FileState.LOCAL:
            local = min(self._files.dirty_bytes(inode.ino), inode.size)
            found.files_local += 1
            found.shares.add(FileState.LOCAL, local)
            found.shares.add(self._files.published_state(inode.ino), inode.size - local)
        else:
            found.shares.add(state, inode.size)
        blocks.update(self._catalog.blocks_of(inode.ino))

    def _count_block(self, found: _Found, number: BlockNo, online: Set[SupplierNo]) -> None:
        block = self._catalog.block(number)
        if block is None:
            return
        rows = [row for row in self._catalog.fragments(number) if row.state is FragmentState.HELD]
        held = len({row.index for row in rows})
        margin = health.margin(block.code, len({row.index for row in rows if row.supplier in online}))
        if not found.blocks or held - block.code.n < found.held - found.wanted:
            found.held, found.needed, found.wanted = held, block.code.k, block.code.n
        found.margin = margin if found.margin is None else min(margin, found.margin)
        found.missing += max(0, block.code.n - held)
        found.blocks += 1
        found.codes[block.code] += 1
        found.unlike += self.is_unlike(block)

    def find(self, path: str) -> Ino:
        """What lies at a path, from the root of the volume. Raises NotFound."""
        ino = ROOT_INO
        for part in filter(None, path.split("/")):
            name = self._catalog.name(ino, part.encode("utf-8", "surrogateescape"))
            if name is None:
                raise NotFound(what=f"{path} is not in this volume")
            ino = name.ino
        return ino

    def _without_hired(self) -> str:
        """What it means that no supplier is hired; "": one is."""
        rows = self._catalog.suppliers()
        if any(row.is_hired for row in rows):
            return ""
        is_some_there = any(row.used_fragments for row in rows)  # with who is leaving, or may be back
        what = "nothing new can leave" if is_some_there else "everything exists only on"
        return f"no supplier is hired: {what} this machine; see `bitdustfs invite --help` and `bitdustfs hire --help`"

    @property
    def only_reads(self) -> bool:
        """Another machine writes. Of the catalog's own blocks only that one knows who holds them now: a head says
        who did when it was made, and a manifest the same of its own time. What is shown here needs none of them."""
        return self.view(0) is not None

    def _held(self) -> Sequence[tuple[Code, int, int]]:
        """(code, held, how many blocks) over all blocks that count here, worst first."""
        return self._catalog.held_histogram(of_files=self.only_reads)

    @property
    def is_unsure(self) -> bool:
        """What counts as held may be gone."""
        return self._monitor.is_unsure or self._register.is_unsure

    def _supplier_reports(self, online: Set[SupplierNo]) -> list[SupplierReport]:
        audits, none = self._catalog.audits(), AuditTally()
        ends, is_watched = self._register.ends, not self.only_reads  # who only reads knows what heads say
        return [
            SupplierReport(
                label=row.label,
                node=row.node.hex(),
                address=row.address,
                answers=row.supplier in online,
                state=(self._monitor.state(row) if is_watched else standing.at_start(row.standing)).value,
                since_s=self._monitor.since_ns(row.supplier) // 1_000_000_000 if is_watched else 0,
                audited_s=audits.get(row.supplier, none).last_ns // 1_000_000_000,
                score=0 if row.is_lost else self._tracks.score(row.supplier),
                audits_wrong=audits.get(row.supplier, none).wrong,
                used_bytes=row.used_bytes,
                capacity_bytes=row.capacity_bytes,
                ends_s=ends[row.supplier].at_s if row.supplier in ends else 0,
                counts_until_s=ends[row.supplier].yields_s if row.supplier in ends else 0,
            )
            for row in self._catalog.suppliers()
        ]

    def _troubles(self, online: Set[SupplierNo]) -> list[str]:
        found = list(self._trouble)
        rows = self._catalog.suppliers()
        silent = [row.label for row in rows if row.is_hired and row.supplier not in online]
        lost = [row.label for row in rows if row.is_lost]
        code = self._writer.code()
        if alone := self._without_hired():
            found.insert(0, alone)
        elif self.only_reads:
            if not online:
                found.insert(
                    0, "no supplier answers: what was read before can be read, and nothing newer is heard of"
                )
        elif code is not None and len(online) < code.k:
            found.insert(0, f"{len(online)} of {code.k} needed suppliers answer: nothing new can leave this machine")
        elif lack := self.lack_of_room():
            found.insert(0, lack)
        if self._replica.trouble:
            found.insert(0, f"the catalog could not be brought to the suppliers: {self._replica.trouble}")
        for each in self.aside:
            if each.left:
                why = f" ({each.trouble})" if each.trouble else ""
                files = f"{count(each.left, 'file')} of this machine's older state"
                found.insert(0, f"{files} {'is' if each.left == 1 else 'are'} not put aside yet{why}")
        if why := self.view_trouble():
            found.insert(0, f"a newer state is known, and cannot be shown yet: {why}")
        refusal = self._journal.refusal
        if refusal is not None and not self.only_reads:
            found.insert(0, f"nothing can be changed now: {refusal}")
        if silent:
            found.append(f"no answer from {', '.join(silent)}")
        if lost and self.missing_fragments():
            found.append(f"lost, so what they held is made again elsewhere: {', '.join(lost)}")
        found += self._leaving(rows)
        found += self._ending(rows)
        if self.snapshots()[0] and self._catalog.name(ROOT_INO, SNAPSHOTS_NAME) is not None:
            found.append("something of yours at the top is called .snapshots and hides the snapshots: rename it")
        found += self.forks()
        found += self.trouble_waiting()
        if (why := self.trouble_recoding()) and self._catalog.count_marked()[0]:
            found.append(f"coding anew waits: {why}")
        if self._monitor.is_unsure:
            since = format_eta(self._monitor.doubted_s)
            found.insert(
                0,
                f"most suppliers have not answered for {since}: if it is not this machine that is cut off, what they "
                "hold is lost, so nothing is called safe until they answer; hire others to have it made again",
            )
        elif self._monitor.is_doubtful:
            found.append(
                "most suppliers do not answer: rather this machine is cut off, so none is given up meanwhile"
            )
        return found

    def _leaving(self, rows: Sequence[Supplier]) -> list[str]:
        """How far those who are leaving are."""
        told = []
        for row in rows:
            if row.standing is Standing.LEAVING and row.used_fragments:
                left = f"{count(row.used_fragments, 'fragment')} ({format_size(row.used_bytes)})"
                stuck = self.waiting_to_leave().get(row.supplier, 0)
                are = "is" if row.used_fragments == 1 else "are"
                told.append(f"{row.label} is leaving: {left} {are} still to be brought to others")
                if stuck:
                    told.append(f"{stuck} of these nobody takes now: if that stays so, hire another supplier")
        return told

    def _ending(self, rows: Sequence[Supplier]) -> list[str]:
        """What becomes of what is with those whose contracts end: until when it counts, and what to do."""
        told = []
        for row in rows:
            end = self._register.ends.get(row.supplier)
            if end is None or not row.used_fragments or row.standing is Standing.FIRED:
                continue
            now_s = self._register.now_s()
            if not end.is_near(now_s):
                continue
            much = f"{row.used_fragments} fragments ({format_size(row.used_bytes)})"
            do = (
                "hire another supplier, or agree with your friend to go on (`bitdustfs contracts renew`); "
                f"`bitdustfs status --without {row.label}` names what would be lost"
            )
            until = f"counts as held until {format_day(end.yields_s)}, when {row.label} may erase it"
            if end.may_yield(now_s):
                told.append(
                    f"the contract with {row.label} ended on {format_day(end.at_s)}: {much} there may be erased at "
                    f"any time, and do not count as held; they can be read as long as they are there: {do}"
                )
            elif row.is_hired:
                told.append(
                    f"the contract with {row.label} ends on {format_day(end.at_s)}, and the others cannot take the "
                    f"{much} that it keeps; what is there {until}: {do}"
                )
            elif stuck := self.waiting_to_leave().get(row.supplier, 0):
                told.append(
                    f"the contract with {row.label} ends on {format_day(end.at_s)}, and nobody takes {stuck} of the "
                    f"{much} that it keeps; what is left there {until}: {do}"
                )
            else:
                told.append(
                    f"the contract with {row.label} ends on {format_day(end.at_s)}: what it keeps is brought to "
                    f"others, and {until}"
                )
        return told


def note_checked(catalog: Catalog, at_s: int) -> None:
    """Remember that a recovery was tried, and brought everything back. The caller commits."""
    catalog.put_local_value(_CHECKED, at_s.to_bytes(8, "big"))


def checked_s(catalog: Catalog) -> int:
    """When it was tried last on this machine; 0: never."""
    return int.from_bytes(catalog.local_value(_CHECKED) or b"", "big")
