"""The services of one mounted volume: which there are, and which asks which.

They are made in the order of the data: what the kernel reads and writes, what keeps it well held, what brings the
catalog to suppliers, what tells of it. What a service needs of one that is made later is set when both are there.
`Node` runs them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from bitdustfs.core.certificate import Identity
from bitdustfs.core.grace import Patience
from bitdustfs.core.head import NO_SEAT
from bitdustfs.core.lease import LEASE_S
from bitdustfs.core.thinning import NONE_BY_ITSELF, Keeping
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.attributes import Attributes
from bitdustfs.engine.auditor import AUDITS_A_DAY, Auditor
from bitdustfs.engine.bell import SELDOM_S, Bell
from bitdustfs.engine.collector import Collector, is_kept_back
from bitdustfs.engine.compactor import Compactor
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.customer_side import CustomerSide
from bitdustfs.engine.drainer import Drainer
from bitdustfs.engine.files import Files
from bitdustfs.engine.follower import Follower
from bitdustfs.engine.forecast import Forecast
from bitdustfs.engine.forks import Forks, told_of_refusing
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.handover import Handover
from bitdustfs.engine.holding import Holding
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.kept import VERBATIM
from bitdustfs.engine.monitor import TICK_S, Monitor
from bitdustfs.engine.objects import Objects
from bitdustfs.engine.orphans import Orphans, leave_orphans
from bitdustfs.engine.outlook import Outlook
from bitdustfs.engine.past_tree import PastTree
from bitdustfs.engine.publisher import Foreign, Publisher
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.reads import Reads
from bitdustfs.engine.rebuilder import LOOK_EVERY_S, Rebuilder
from bitdustfs.engine.recoder import Recoder
from bitdustfs.engine.register import LOOK_EVERY_S as REGISTER_S
from bitdustfs.engine.register import Register
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.replica import Replica
from bitdustfs.engine.reporter import Reporter
from bitdustfs.engine.returns import Returns
from bitdustfs.engine.rewriter import Rewriter
from bitdustfs.engine.snapshots import Snapshots
from bitdustfs.engine.sync import Sync
from bitdustfs.engine.tracks import Tracks
from bitdustfs.engine.tree import Tree
from bitdustfs.engine.trimmer import Trimmer
from bitdustfs.engine.uploads import Uploads
from bitdustfs.engine.view import Following, View
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.engine.volume_snapshots import VolumeSnapshots
from bitdustfs.engine.waiting import Waiting
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import BitdustError, ReadOnly
from bitdustfs.model import Code, NodeId, Role, Suite, short
from bitdustfs.ports import Catalog, Changes, Crunch, Entropy, Image, Spool, Wall

_log = logging.getLogger(__name__)

OF_READERS = ("journal", "suppliers", "files", "hardener", "reads")  # services of a machine that only reads
Service = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How one mount behaves."""

    spool_limit: int  # bytes
    code: Code | None = None  # of new blocks; None: by the number of suppliers
    snapshots: Keeping = NONE_BY_ITSELF  # how many are made and kept without being asked for
    deduplicate: bool = True
    practice: bool = False  # all suppliers are on this machine
    suite: Suite = Suite.AES_256_GCM
    seat: bytes = NO_SEAT  # of the home (core/lease)
    lease_s: int = LEASE_S  # for which nobody else writes the volume when nothing is heard of this machine
    takes_over: bool = False  # from who writes the volume, whoever that is
    only_reads: bool = False  # although its certificate says that it may write
    boot: bytes = b""  # which boot of this machine it is; b"": nobody can tell
    audits_a_day: int = AUDITS_A_DAY  # leaves of each supplier
    patience: Patience = field(default_factory=Patience)  # with suppliers that do not answer
    watch_every_s: float = TICK_S  # how often it is looked who is there, at least
    repair_every_s: float = LOOK_EVERY_S  # how often it is looked for something to rebuild


class Services:
    """The services of one mounted volume; nothing runs yet.

    Args:
        image: makes an image of the catalog as it was committed last, at once.
        following: for who only reads, now or later, to show the newest head; None: it shows the one that it has.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        catalog: Catalog,
        changes: Changes,
        image: Callable[[], Image],
        spool: Spool,
        suppliers: CustomerSide,
        crunch: Crunch,
        entropy: Entropy,
        wall: Wall,
        secrets: VolumeSecrets,
        options: NodeOptions,
        following: Following | None = None,
    ) -> None:
        self._identity = identity
        self._following = following
        self.is_reader = identity.certificate.role is Role.READER or options.only_reads
        self.written_by = ""  # who writes the volume instead of this machine, in words; "": nobody that is known
        self.on_follow: list[Callable[[], None]] = []  # called once this machine, which wrote, only reads
        self.writing = trio.CancelScope()  # around the services that only a writer has
        self.forget_pages: Callable[[], Awaitable[object]] = (
            trio.lowlevel.checkpoint
        )  # that may hold what was refused
        self._catalog = catalog
        self._changes = changes
        self._image = image
        self._spool = spool
        self.suppliers = suppliers
        self._crunch = crunch
        self._entropy = entropy
        self._wall = wall
        self._secrets = secrets
        self._options = options
        self._make_content()
        self._make_upkeep()
        self._make_past()
        self._make_replica()
        self._make_view()
        self._make_reports()
        self._set_permissions()
        self.services: dict[str, Service] = {  # each is started again when it fails
            "journal": self.journal.run,
            "suppliers": self.suppliers.run,
            "files": self.files.run,
            "hardener": self.files.keep_hard,
            "uploads": self.uploads.run,
            "releases": self.releases.run,
            "collector": self.collector.run,
            "compactor": self.compactor.run,
            "follower": self.follower.run,
            "recoder": self.recoder.run,
            "reads": self.reads.run,
            "writer": self.writer.run,
            "monitor": self.monitor.run,
            "auditor": self.auditor.run,
            "returns": self.returns.run,
            "rebuilder": self.rebuilder.run,
            "trimmer": self.trimmer.run,
            "drainer": self.drainer.run,
            "register": self.register.run,
            "holding": self._hold,
            "publisher": self.publisher.run,
            "replica": self.replica.run,
            "orphans": self.orphans.run,
            "volume snapshots": self.snapshots.run,
            "forks": self.forks.run,
        }
        if self.is_reader:
            self.services = {name: self.services[name] for name in OF_READERS}

    def _make_content(self) -> None:
        """Make what the kernel reads and writes, and what brings that to suppliers."""
        self.bell = Bell(SELDOM_S)
        self.suppliers.on_change = self.bell.ring
        self.journal = Journal(self._catalog, self.bell)
        self.fragments = Fragments(
            self._catalog,
            self.journal,
            self.suppliers,
            self._crunch,
            self._secrets,
            None if self.is_reader else self._entropy,  # what a reader finds is not his to note
        )
        self.fragments.newcomers = self.suppliers
        self.suppliers.on_connected.append(self.fragments.asks.reconnected)
        self.reader = Reader(self._catalog, self.fragments, self._crunch, self._secrets)
        self.reads = Reads(self.reader, self.fragments)
        self.files = Files(
            self._catalog, self._spool, self.journal, self._wall, self.reads, spool_limit=self._options.spool_limit
        )
        self.tree = Tree(self._catalog, self.journal, self.files, self._wall)
        self.attributes = Attributes(self._catalog, self.journal, self.files, self._wall)
        self.files.on_published = self.tree.published
        self.releases = Releases(self._catalog, self.journal, self.suppliers, self._secrets)
        self.uploads = Uploads(self._catalog, self.journal, self.suppliers, self.releases, self._secrets)
        self.fragments.strays.on_found = lambda supplier, name: self.uploads.overtaken.forget([(supplier, name)])
        self.releases.on_kept = self.fragments.strays.on_found
        self.writer = Writer(
            catalog=self._catalog,
            files=self.files,
            journal=self.journal,
            fetch=self.reader,
            uploads=self.uploads,
            crunch=self._crunch,
            entropy=self._entropy,
            secrets=self._secrets,
            suite=self._options.suite,
            code=self._options.code,
            deduplicate=self._options.deduplicate,
            is_reading=self.reads.is_busy,
        )
        self.files.out_of_quota = self.room_to_make

    def _make_upkeep(self) -> None:
        """Make what keeps blocks well held."""
        self._courtesy = Courtesy(self.reads.is_busy)
        self.collector = Collector(
            self._catalog,
            self.journal,
            self.releases,
            in_use=self.writer.chunks_in_use,
            on_their_way=self.uploads.on_their_way,
        )
        self._copies = Copies(self._catalog, self.files, self._crunch, self._secrets)
        self.rewriter = Rewriter(
            catalog=self._catalog,
            fragments=self.fragments,
            uploads=self.uploads,
            copies=self._copies,
            crunch=self._crunch,
            entropy=self._entropy,
            secrets=self._secrets,
            suite=self._options.suite,
            is_needed_elsewhere=lambda: (
                self.files.is_written() or bool(self.files.dirty_totals()[0]) or self.reads.is_busy()
            ),
        )
        self.compactor = Compactor(self._catalog, self.journal, self.rewriter)
        self.tracks = Tracks(self._catalog, self.journal)
        self.uploads.score_of = self.tracks.score
        self.monitor = Monitor(
            self._catalog,
            self.journal,
            self.suppliers,
            self._wall,
            self._options.patience,
            self.tracks,
            tick_s=self._options.watch_every_s,
        )
        self.files.is_unsure = lambda: self.reporter.is_unsure
        self.auditor = Auditor(
            self._catalog,
            self.journal,
            self.fragments.leaves,
            self._entropy,
            self._wall,
            self._courtesy,
            self.tracks,
            audits_a_day=self._options.audits_a_day,
        )
        self.suppliers.on_lost = self.auditor.look_through
        self.returns = Returns(
            catalog=self._catalog,
            journal=self.journal,
            leaves=self.fragments.leaves,
            shelves=self.suppliers,
            secrets=self._secrets,
            entropy=self._entropy,
            look_s=self._options.watch_every_s,
        )
        self.returns.on_wrong = self.auditor.look_through
        self.monitor.on_absent = self.returns.lost
        self.rebuilder = Rebuilder(
            self._catalog,
            self.journal,
            self.fragments,
            self.suppliers,
            self.uploads,
            self.releases,
            self._crunch,
            self._secrets,
            self._courtesy,
            self._copies,
            look_s=self._options.repair_every_s,
        )
        self.trimmer = Trimmer(
            self._catalog,
            self.journal,
            self.uploads,
            self.releases,
            self.fragments,
            steady_s=self._options.patience.at_none_s,
        )
        self.drainer = Drainer(
            catalog=self._catalog,
            journal=self.journal,
            fragments=self.fragments,
            sink=self.suppliers,
            uploads=self.uploads,
            releases=self.releases,
            rebuilder=self.rebuilder,
            monitor=self.monitor,
            crunch=self._crunch,
        )
        self.register = Register(
            catalog=self._catalog,
            journal=self.journal,
            suppliers=self.suppliers,
            monitor=self.monitor,
            drainer=self.drainer,
            wall=self._wall,
            look_s=max(REGISTER_S, self._options.watch_every_s),
        )
        self.suppliers.on_address = self.register.answers_at
        self.suppliers.clerk.on_kept.append(self.register.nudge)
        self.monitor.may_count = self.fragments.may_count = self.register.counts
        self.monitor.may_hire = self.register.is_new_worth
        self.drainer.may_erase = self.register.may_erase
        self.follower = Follower(
            self._catalog,
            self.journal,
            self.releases,
            chosen=self._options.code,
            on_their_way=self.uploads.on_their_way,
            at_work=self.rebuilder.at_work,
            in_use=self.writer.chunks_in_use,
        )
        self.drainer.n_with_one_less = self.follower.n_with_one_less
        self.attributes.usual = self.writer.code
        self.attributes.on_code = self.follower.code_set
        self.recoder = Recoder(self._catalog, self.journal, self.tree, self.rewriter, self.follower)

    def _make_past(self) -> None:
        """Make what keeps and shows snapshots of the volume."""
        self.past = PastTree(self._catalog, self.reads, self._copies.plaintext)
        self.snapshots = VolumeSnapshots(
            self._catalog, self.journal, self.writer, self._wall, self._options.snapshots
        )
        self.snapshots.lack_of_room = self.lack_of_room
        self.snapshots.is_unsent = self.files.is_dirty
        self.snapshots.laid = self.files.laid

    def _make_replica(self) -> None:
        """Make what brings the catalog to suppliers."""
        self.publisher = Publisher(
            catalog=self._catalog,
            journal=self.journal,
            keepers=self.suppliers,
            identity=self._identity,
            entropy=self._entropy,
            secrets=self._secrets,
            suite=self._options.suite,
            seat=self._options.seat,
            lease_s=self._options.lease_s,
        )
        self.holding = Holding(
            self.journal,
            self.suppliers,
            self._wall,
            is_quorum=self.publisher.is_quorum,
            is_quorum_without=self.publisher.is_quorum_without,
            node=self._identity.node,
            seat=self._options.seat,
            lease_s=self._options.lease_s,
            takes_over=self._options.takes_over,
        )
        self.holding.on_held = self._note_held
        self.holding.on_let = self.publisher.ask_anew
        self.holding.on_lost = self._stop_writing
        self.publisher.takes_over = self._options.takes_over
        self.publisher.may_publish = lambda: self.holding.is_held
        objects = Objects(
            catalog=self._catalog,
            journal=self.journal,
            uploads=self.uploads,
            releases=self.releases,
            crunch=self._crunch,
            entropy=self._entropy,
            secrets=self._secrets,
            suite=self._options.suite,
            code=self.writer.code,
        )
        self.replica = Replica(
            catalog=self._catalog,
            journal=self.journal,
            publisher=self.publisher,
            snapshots=Snapshots(self._catalog, self.journal, objects, self._crunch, self._image),
            objects=objects,
            changes=self._changes,
            crunch=self._crunch,
            wall=self._wall,
        )
        self.handover = Handover(self.journal, self.files, self.writer, self.replica, self.holding)
        self.publisher.on_foreign = self._stop_for
        self.handover.on_brought = self._only_read
        self.handover.on_let_go = self._end_writing
        self.files.is_safe = self.replica.is_safe
        self.forks = Forks(
            catalog=self._catalog,
            journal=self.journal,
            publisher=self.publisher,
            fragments=self.fragments,
            releases=self.releases,
            following=self._following,
            own_node=self._identity.node,
            crunch=self._crunch,
            entropy=self._entropy,
            secrets=self._secrets,
        )
        self.forks.is_unsent = self.files.is_dirty
        self.forks.stopped = lambda: self.replica.stopped
        self.forks.is_writer = lambda: not self.is_reader and not self.holding.has_let_go
        self.orphans = Orphans(
            catalog=self._catalog,
            journal=self.journal,
            shelves=self.suppliers,
            secrets=self._secrets,
            crunch=self._crunch,
            releases=self.releases,
        )

    def _make_view(self) -> None:
        """Make what shows who only reads the tree of the newest head, and nothing else."""
        self.view: View | None = None
        self.view_tree: ViewTree | None = None
        if self.is_reader and self._following is not None:
            self._show(self._following)

    def _show(self, following: Following) -> None:
        self.view = View(
            catalog=self._catalog,
            changes=self._changes,
            journal=self.journal,
            files=self.files,
            reader=self.reader,
            publisher=self.publisher,
            following=following,
            crunch=self._crunch,
            entropy=self._entropy,
            secrets=self._secrets,
            identity=self._identity,
        )
        self.view_tree = ViewTree(self._catalog, self.tree, self.files, self.reader, self.view)

    def _make_reports(self) -> None:
        """Make what tells of it all."""
        self.reporter = Reporter(
            catalog=self._catalog,
            spool=self._spool,
            files=self.files,
            journal=self.journal,
            tree=self.tree,
            writer=self.writer,
            fragments=self.fragments,
            replica=self.replica,
            monitor=self.monitor,
            tracks=self.tracks,
            register=self.register,
            rebuilder=self.rebuilder,
            spool_limit=self._options.spool_limit,
            practice=self._options.practice,
        )
        self._forecast = Forecast(
            self._catalog,
            self.rebuilder,
            reachable=self.fragments.asks.reachable,
            is_here=self._copies.is_here,
            limit_bytes_s=lambda: self.suppliers.pacer.up.bytes_per_s,
            speed_of=lambda supplier: self.tracks.of(supplier).bytes_per_s,
            held_up=self._held_up,
            refusing=self.forks.refusing,
        )
        self.reporter.lack_of_room = self.lack_of_room
        self.reporter.forks = self.forks.lines
        self.reporter.refusing = self.forks.refusing
        waiting = Waiting(self._catalog, self.publisher, self.forks, self.orphans)
        self.reporter.waits_for = waiting.reports
        self.reporter.trouble_waiting = waiting.lines
        self.reporter.snapshots = lambda: (len(self.snapshots.all()), self.snapshots.held.total)
        self.reporter.kept_forks = lambda: (len(self.forks.all()), self.snapshots.held.fork_bytes)
        self.reporter.view = lambda answering: self.view.report(answering) if self.view is not None else None
        self.reporter.view_trouble = lambda: self.view.trouble if self.view is not None else ""
        self.reporter.is_unlike = self.follower.is_unlike
        self.reporter.count_unlike = lambda: self.follower.unlike
        self.reporter.trouble_recoding = lambda: self.recoder.trouble
        self.reporter.waiting_to_leave = lambda: self.drainer.waiting
        self._outlook = Outlook(self._catalog, self.files, self.tree, self.fragments)
        self._outlook.only_reads = lambda: self.reporter.only_reads
        self._sync = Sync(
            catalog=self._catalog,
            journal=self.journal,
            files=self.files,
            writer=self.writer,
            uploads=self.uploads,
            suppliers=self.suppliers,
            monitor=self.monitor,
            replica=self.replica,
            reporter=self.reporter,
        )

    def _set_permissions(self) -> None:
        """Let each ask whether it may do what cannot be undone."""
        self.orphans.may_look = self._may_look_for_orphans
        self.releases.may_release = self._may_release
        self.releases.safe_change = self._released_until
        self.collector.may_collect = lambda: self._may_release() and not is_kept_back(self._catalog)
        self.collector.on_damage = lambda what: self.reporter.note_trouble(
            f"the catalog is damaged ({what}): suppliers keep all that they have; unmount, and run `bitdustfs fsck`"
        )
        self.rewriter.may_rewrite = self._may_release
        self.trimmer.may_trim = self._may_release
        self.drainer.may_drain = self._may_release

    def room_to_make(self) -> str:
        """What to do if suppliers take nothing more; "": they do."""
        if not self.writer.out_of_room():
            return ""
        return ", or ".join(["hire more space", *self.snapshots.for_room(self.files.dirty_totals()[1])])

    def lack_of_room(self) -> str:
        """The sentence about it for a person; "": there is room."""
        do = self.room_to_make()
        return f"the contracts are full: nothing new can leave this machine; {do}" if do else ""

    async def _hold(self) -> None:
        """Hold the volume, and let it go when another machine wishes it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.holding.run)
            nursery.start_soon(self.handover.run)

    def _note_held(self) -> None:
        with suppress(BitdustError):  # the disk takes nothing: then nothing is looked for either
            self.orphans.held()

    def _only_read(self) -> None:
        """Show the newest head from now on. Everything from here is in a head that counts. No await inside."""
        if self._following is None or self.is_reader:
            return
        self.is_reader = True
        self.replica.trouble = ""
        self.fragments.note_no_strays()
        self._catalog.put_local_value(VERBATIM, b"1")
        leave_orphans(self._catalog)
        with suppress(BitdustError):  # the next mount finds out by itself
            self.journal.commit()
        self._show(self._following)
        for tell in self.on_follow:
            tell()

    def _end_writing(self) -> None:
        """End what only a writer needs: the volume is let go, or lost to others."""
        if self.is_reader:
            self.writing.cancel()

    def _is_nothing_only_here(self) -> bool:
        """Everything from here is in a head that counts: whoever writes goes on from there."""
        with suppress(BitdustError):
            self.journal.commit()  # most of what is pending is of this machine alone, and is no change
        return not self.files.dirty_lives() and self.replica.is_current

    def _stop_writing(self, holder: NodeId) -> None:
        """Others hold the volume: nothing is changed here any more, until the next mount."""
        self.holding.has_let_go = True
        with suppress(BitdustError):  # the disk takes nothing: then nothing is looked for either
            leave_orphans(self._catalog)
        is_all_there = self._is_nothing_only_here()
        if holder == self._identity.node:
            self.written_by, how = "a copy of this home", ", which has the same node key,"
            again = "To write here, unmount it there, and mount this one again, or mount this one with --take-over"
        else:
            self.written_by, how = f"another machine of yours (node {short(holder)})", ""
            again = "To ask that machine to let go, unmount this one and mount it again"
        self.journal.forbid(
            ReadOnly(
                what=f"{self.written_by}{how} writes this volume. {again}; what was never sent from here is then "
                "put into a folder 'Put aside …'"
            )
        )
        if is_all_there:
            self._only_read()
            self._end_writing()

    def _stop_for(self, found: Foreign) -> None:
        """So many suppliers have another head that ours cannot count: nothing is changed here any more."""
        self.written_by = self.written_by or found.by
        is_all_there = self._is_nothing_only_here() and found.is_newer
        self.replica.stop(found)
        if is_all_there:
            self._only_read()
            self._end_writing()

    def _may_release(self) -> bool:
        """Nobody knows more than we do, and nothing needs more than what is known here."""
        has_all = self.forks.has_everything and self.replica.safe_change >= self.forks.waits_for
        return self.publisher.confirmed and has_all and self.journal.refusal is None

    def _released_until(self) -> int:
        """The last change by which what it made unneeded may go; 0: none."""
        if not all(each.is_gone for each in self.reporter.aside):
            return 0  # an older state may need what ours does not
        safe = self.replica.safe_change
        # what was noted for a change that came to be none, of this machine alone, waits for no other one
        return safe + (safe >= self._catalog.last_change and not self._catalog.pending)

    def _may_look_for_orphans(self) -> bool:
        """All that is needed is known here, and nobody else can publish: no older state waits to be put aside.

        A head that one supplier alone holds may be all that names a state, so each of them must have shown its own.
        Who is cut off from a quorum hears of no head that another machine puts there, and counts on a lease still.
        """
        hired = {row.supplier for row in self._catalog.suppliers() if row.is_listed}
        is_cut_off = not self.publisher.is_quorum(set(self.suppliers.online()))
        if is_cut_off or not self.holding.is_held or not self.publisher.have_shown(hired):
            return False
        is_ours = self._may_release() and not self.publisher.is_outdated and not is_kept_back(self._catalog)
        return is_ours and self.replica.is_head_safe() and all(each.is_gone for each in self.reporter.aside)

    def _held_up(self) -> list[str]:
        """What keeps the rebuilder from its work."""
        told = []
        if self.journal.refusal is not None:
            told.append(f"nothing is rebuilt now, because nothing can be changed: {self.journal.refusal}")
        if refusing := self.forks.refusing():
            told.append(told_of_refusing(refusing))
        if self.monitor.is_doubtful:
            told.append("most suppliers do not answer: none is given up meanwhile, for it may be us who are cut off")
        if self.reads.is_busy():
            told.append("somebody reads: repair leaves most of the line to that")
        return told
