"""Forks: heads on another line than ours are brought in, shown and, when a person has chosen, gone over.

    a supplier shows a head that is not on our line (engine/publisher) -> its catalog, fetched beside ours
    -> its tree, a generation of our catalog (engine/grafting) -> shown in .forks, read-only
    `bitdustfs resolve` -> that generation is a snapshot like any other -> the next head goes over both lines
    -> who held the other one takes ours again

What a fork had is in our catalog then, and as safe as everything else in it; from the moment in which another head is
seen until that is done, nothing is let go anywhere (`has_everything`). A head that goes back to our newest is no fork
yet: another machine, or a copy of this home, goes on from here, or could not go far. What only a supplier shows that
was given up is tried before anything is let go, for it may be all that is left of what somebody wrote, and waited for
no longer. Killed on the way, it begins again: a half of a tree is shown by nobody, and goes as a deleted snapshot
does, once each hired supplier has shown its head: what another machine had begun with may be all that keeps the line
of who is away.

A line that goes on is brought in again, and takes the place of what there was of it; also of what a person has chosen
about already, as long as no head that goes over it is safe, for who writes it may have let go by now what was shown
(`_may_be_gone`). Of one that several suppliers hold, each up to another head, the newest is shown. What it moved of
ours is looked for before anything else (engine/regaining).

What cannot be read, because its catalog is lost, or because who showed it went away, holds up all that is to be let
go. It is shown as such, and a person may let it be: the next head goes over it too, and what only it had is given up.
That is noted: the home that wrote it may still have all of it, and puts it aside when it takes our line
(engine/adoption).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import trio

from bitdustfs.core import brought
from bitdustfs.core import head as heads
from bitdustfs.core.adoption import numbered
from bitdustfs.core.head import Head
from bitdustfs.core.recovery import Found
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.differences import Difference, differences
from bitdustfs.engine.fork_notes import Fork, gone_over, keep_forks, kept_forks
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.publisher import Foreign, Publisher
from bitdustfs.engine.recovery import Recovery
from bitdustfs.engine.regaining import Doubts, Here, Regaining
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.renumbered import Renumbered
from bitdustfs.engine.replica import kept_safe
from bitdustfs.engine.view import Following
from bitdustfs.errors import BadFormat, BitdustError, NotFound, ReadOnly, Unavailable
from bitdustfs.model import BlockNo, Ino, NodeId, Snapshot, SnapshotKind, Supplier, SupplierNo, short
from bitdustfs.ports import Catalog, Crunch, Entropy

AGAIN_S: Final = 60.0  # (tune) after one could not be brought in …
AGAIN_SHARE: Final = 10  # (tune) … or so many times as long as that took …
AGAIN_MOST_S: Final = 3600.0  # (tune) … but no longer: who keeps it from coming may be back
LOOK_S: Final = 30.0
ASK_S: Final = 15.0  # for one supplier to show its head
LINKS_KEPT: Final = 64  # (tune) of each line: a supplier that is further behind is another fork
FORKS_MOST: Final = 16  # (tune) that nobody has chosen about; more hold up what is to be let go, and are told
_COMING: Final = "a state of this volume that lies beside this one is fetched"
_NO_CHANGE: Final = 1 << 63  # no head names so much
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unread:
    """A head beside ours that was not brought in when it was tried last."""

    found: Foreign
    links: bytes  # as `Fork` has them; its own alone: the supplier did not show others
    why: str  # ""; nothing is wrong with it
    again_at: float  # trio time; each try may fetch a whole catalog


class Forks:
    """The forks of one volume.

    Args:
        following: whom to ask, and where a catalog is made beside ours; None: nowhere, and forks are not brought in.

    Attributes:
        is_writer: whether this machine writes the volume. Who follows changes nothing of it, this neither.
        waits_for: the change that a safe head has to hold before anything is let go: until then the heads of other
            lines alone name what came, and the catalogs that lead there must stay.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        publisher: Publisher,
        fragments: Fragments,
        releases: Releases,
        following: Following | None,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        own_node: NodeId,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._publisher = publisher
        self._fragments = fragments
        self._releases = releases
        self._following = following
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self.own_node = own_node
        self._looks = Looks(journal.bell, LOOK_S)
        self._unread: dict[bytes, Unread] = {}  # by digest
        self._is_coming = False  # one is being brought in
        self._begun = set[int]()  # generations of that one
        self.is_writer: Callable[[], bool] = lambda: True
        self.is_unsent: Callable[[Ino], bool] = lambda _ino: False  # as `differences` wants it
        self.stopped: Callable[[], BitdustError | None] = lambda: (
            None
        )  # why a writer that a fork stopped does nothing
        self._kept_change = catalog.last_change  # of the newest that is kept; from before the start: perhaps this
        is_open = any(not each.is_resolved for each in kept_forks(catalog))
        self.waits_for = self._kept_change if is_open else 0  # see above
        publisher.lines = lambda: gone_over(catalog)
        publisher.keeps = self._is_in_our_head
        publisher.on_other = self._looks.now
        publisher.recall(self._is_kept)
        self.on_step: Callable[[str], None] = lambda _step: None  # is told where it is

    @property
    def has_everything(self) -> bool:
        """All heads beside ours that suppliers show are kept here too, and none is on its way.

        Of those that only suppliers show who do not count, each was tried at least.
        """
        return not self._is_coming and not self.missing

    @property
    def missing(self) -> Mapping[SupplierNo, Foreign]:
        """Who shows, or showed last, a head beside ours that is to be kept here before anything is let go."""
        counted = ((who, each) for who, each in self._publisher.others.items() if not self._is_kept(each.head))
        others = self._publisher.others_uncounted.items()
        return dict([*counted, *((who, each) for who, each in others if self._is_untried(each.head))])

    @property
    def trouble(self) -> str:
        """Why one cannot be brought in that holds up what is to be let go; "" if nothing is wrong."""
        uncounted = self._only_uncounted()
        return next((told_of(each) for each in self._unread.values() if each.why and each not in uncounted), "")

    def all(self) -> list[tuple[Snapshot, Fork]]:
        """Those that nobody has chosen about, and what shows them."""
        shown = {each.generation: each for each in self._catalog.snapshots() if each.kind is SnapshotKind.FORK}
        return [
            (shown[fork.generation], fork)
            for fork in kept_forks(self._catalog)
            if fork.generation in shown and not shown[fork.generation].is_gone
        ]

    def find(self, name: str) -> tuple[Snapshot, Fork]:
        """The one of this name. Raises NotFound."""
        for snapshot, fork in self.all():
            if snapshot.name == name:
                return snapshot, fork
        raise NotFound(what=f"there is no fork {name!r}; `bitdustfs resolve` shows all")

    def unreadable(self) -> dict[str, Unread]:
        """What cannot be shown now, and may be for ever, by the names that it would have."""
        named, taken = dict[str, Unread](), self._taken() if self._unread else set[str]()
        for each in self._unread.values():
            if each.why and not self._is_kept(each.found.head):
                named[self._name(each.found, taken | named.keys())] = each
        return named

    def name_of(self, head: Head) -> str:
        """What is to be chosen about for a head beside ours; "": nothing."""
        unread = [name for name, each in self.unreadable().items() if each.found.head.digest == head.digest]
        shown = [snapshot.name for snapshot, fork in self.all() if head.link in heads.split_links(fork.links)]
        return next(iter(unread + shown), "")

    def shown_by(self, links: bytes) -> list[Supplier]:
        """Whose newest head, as far as is known, is one of these."""
        every = {**self._publisher.others_uncounted, **self._publisher.others}
        known = set(heads.split_links(links))
        return [
            row
            for row in self._catalog.suppliers()
            if row.supplier in every and every[row.supplier].head.link in known
        ]

    def refusing(self) -> list[Supplier]:
        """Who answers, and takes no fragment from here before a person has chosen about the head that is there."""
        others = self._publisher.others if self.is_writer() else {}
        over = {link for line in gone_over(self._catalog) for link in heads.split_links(line.links)} if others else ()
        refused = {
            who
            for who, each in others.items()
            if self._publisher.is_refused_for(each.head) and each.head.link not in over
        }
        return [row for row in self._catalog.suppliers() if row.supplier in refused and self.is_answering([row])]

    def halves_wait_for(self) -> list[Supplier]:
        """Who is to show a head before what came of a line in part, and is not coming now, goes."""
        begun = self._begun if self._is_coming else set[int]()
        is_any = any(each.generation not in begun for each in self._halves())
        return self._not_shown() if is_any and self.is_writer() else []

    def is_answering(self, some: Iterable[Supplier]) -> bool:
        """Whether one of these answers now."""
        online = self._following.suppliers.online() if self._following is not None else ()
        return any(row.supplier in online for row in some)

    def answering(self, unread: Unread) -> tuple[int, int]:
        """How many of the suppliers that it names answer now, and how many it names."""
        online = self._following.suppliers.online() if self._following is not None else ()
        nodes = {bytes(row.node) for row in self._catalog.suppliers() if row.supplier in online}
        named = [bytes(each.node) for each in unread.found.content.suppliers]
        return sum(node in nodes for node in named), len(named)

    def lines(self) -> list[str]:
        """What to say of them to a person."""
        writes = self.is_writer()
        where = "" if writes else ", on the machine that writes"
        told = [
            f"another state of this volume, version {fork.version} by node {short(NodeId(fork.node))}, lies beside "
            f"this one, in .forks/{snapshot.name}: compare and choose with `bitdustfs resolve`{where}"
            for snapshot, fork in self.all()
        ]
        if refusing := self.refusing():
            told.append(told_of_refusing(refusing))
        if writes and not self.has_everything:
            missing = {each.head.digest: each.head for each in self.missing.values()}
            why = [self._told_of_missing(each) for each in missing.values()]
            told += [f"{each}; nothing is let go at suppliers meanwhile" for each in why or [_COMING]]
        if writes:
            told += [
                f"{told_of(each)}; only a supplier shows it that was given up or is not hired: nothing waits for it"
                for each in self._only_uncounted()
            ]
        return told

    async def differences(self, snapshot: Snapshot) -> AsyncIterator[Difference]:
        """What is different there from what is here. Raises NotFound: somebody has chosen meanwhile."""
        async for found in differences(
            self._catalog, 0, snapshot.generation, is_unsent=self.is_unsent, trusts_ctime=False
        ):
            if all(each.generation != snapshot.generation for each, _fork in self.all()):
                raise NotFound(what=f"the fork {snapshot.name!r} is not there any more")
            yield found

    async def resolve(self, name: str) -> Snapshot:
        """Go on with what is here: the fork becomes a snapshot, and the next head goes over both lines.

        Durable when this returns; suppliers have it later.

        Raises:
            NotFound, DiskFull, DiskFault. ReadOnly: another machine writes, and has to choose.
        """
        snapshot, fork = self.find(name)
        refusal = self._may_choose()
        with self._journal.operation(admitted=True):
            others = [each for each in kept_forks(self._catalog) if each.digest != fork.digest]
            chosen = msgspec.structs.replace(
                fork,
                generation=0,
                is_resolved=True,
                brought=[*self._may_be_gone(fork), snapshot.generation],
                change=self._catalog.last_change + 1,
            )
            keep_forks(self._catalog, [*others, chosen])
            self._catalog.change_snapshot(snapshot.generation, snapshot.name, SnapshotKind.BY_PERSON)
        await self._go_on(refusal)
        return snapshot

    def has_gone_on(self, snapshot: Snapshot) -> bool:
        """The line that was chosen about, and became this snapshot, is shown anew: it went on."""
        return all(snapshot.generation not in each.brought for each in kept_forks(self._catalog) if each.is_resolved)

    async def let_be(self, name: str) -> None:
        """Give up what cannot be read: the next head goes over that line too. What only it had is lost.

        Durable when this returns; suppliers have it later.

        Raises:
            NotFound: or it can be read by now. DiskFull, DiskFault, ReadOnly: as `resolve`.
        """
        unread = self.unreadable().get(name)
        if unread is None:
            raise NotFound(what=f"there is nothing unreadable called {name!r}; `bitdustfs resolve` shows all")
        refusal = self._may_choose()
        with self._journal.operation(admitted=True):
            made = _fork(unread.found, 0, unread.links)
            gone = msgspec.structs.replace(made, is_resolved=True, is_given_up=True)
            keep_forks(self._catalog, [*kept_forks(self._catalog), gone])
        self._unread.pop(gone.digest, None)
        _log.warning("version %d of another line is given up: %s", gone.version, unread.why)
        await self._go_on(refusal)

    async def run(self) -> None:
        """Bring in what suppliers show, until cancelled."""
        while True:
            if not self._not_shown():  # else another machine may have begun with what one shows who is away now
                self._forget_halves()
            every = {**self._publisher.others_uncounted, **self._publisher.others}
            shown = sorted(every.items(), key=lambda each: _rank(each[1]), reverse=True)
            digests = {found.head.digest for _supplier, found in shown}
            self._unread = {digest: each for digest, each in self._unread.items() if digest in digests}
            for supplier, found in shown:
                if self._is_due(found.head):
                    await self._try(supplier, found)
            if self._journal.keeps:
                self._publisher.forget_settled(self._is_kept)
            await self._looks.next(within_s=AGAIN_S if self._unread else LOOK_S)

    # -- private ---------------------------------------------------------------------------------------------

    def _is_kept(self, head: Head) -> bool:
        """What it names is kept here: it is the head of a fork, or one that such a head goes back to."""
        return any(head.link in heads.split_links(fork.links) for fork in kept_forks(self._catalog))

    def _may_choose(self) -> BitdustError | None:
        """Why nothing is changed here, if that ends when a person has chosen. Raises why nothing can be chosen."""
        refusal = self._journal.refusal
        if refusal is not None and refusal is not self.stopped():
            raise refusal.with_traceback(None)
        self._admit()
        return refusal

    async def _go_on(self, refusal: BitdustError | None) -> None:
        """A person has chosen ours."""
        await self._journal.durable()
        if refusal is not None:
            self._journal.permit(refusal)  # where another line still holds a quorum it is forbidden again
        self._publisher.look_again()
        self._journal.bell.ring()

    def _told_of_missing(self, head: Head) -> str:
        """What keeps one from being kept here, for a person."""
        unread = self._unread.get(head.digest)
        who = self.shown_by(head.link)
        labels = ", ".join(row.label for row in who)
        which = f"version {head.version} of another line, by node {short(head.signer.node)}"
        if unread is not None and unread.why and not self.is_answering(who):
            return (
                f"{which}, is known from {labels}, which does not answer: it is fetched when that answers again, and "
                f"if that never comes back, `bitdustfs resolve '{self.name_of(head)}'` gives the line up"
            )
        if unread is not None and unread.why:
            return f"{labels} holds {which}, and it cannot be shown yet: {unread.why}"
        return f"{labels} holds {which}, and it is fetched"

    def _admit(self) -> None:
        """Raise why nothing may be added to the catalog, which may be also where people may change nothing."""
        if not self.is_writer():
            raise ReadOnly(what="another machine of yours, or a copy of this home, writes this volume: choose there")
        if not self._journal.keeps:
            self._journal.admit()

    def _is_due(self, head: Head) -> bool:
        if self._following is None or not self._journal.keeps or not self.is_writer() or self._is_kept(head):
            return False
        unread = self._unread.get(head.digest)
        return unread is None or trio.current_time() >= unread.again_at

    def _is_untried(self, head: Head) -> bool:
        unread = self._unread.get(head.digest)
        if unread is None:
            return self._is_due(head)
        return not unread.why and not self._is_ahead(head, unread.links)  # ours has gone on beside it since

    def _only_uncounted(self) -> list[Unread]:
        """What could not be brought in, and is shown by no supplier that counts."""
        counted = {each.head.digest for each in self._publisher.others.values()}
        return [each for digest, each in self._unread.items() if each.why and digest not in counted]

    def _forget_halves(self, some: Set[int] | None = None) -> None:
        """Let what came half be gone: of these generations, or of all."""
        halves = [each for each in self._halves() if some is None or each.generation in some]
        if halves and self._journal.keeps and self.is_writer():
            with self._journal.operation(admitted=True):
                for each in halves:
                    self._catalog.end_snapshot(each.generation)

    def _halves(self) -> list[Snapshot]:
        coming = (each for each in self._catalog.snapshots() if each.kind is SnapshotKind.COMING)
        return [each for each in coming if not each.is_gone]

    def _not_shown(self) -> list[Supplier]:
        """The hired suppliers that have shown no head since the mount, and are not known for one of another line."""
        listed = [row for row in self._catalog.suppliers() if row.is_listed]
        others = self._publisher.others
        return [
            row for row in listed if row.supplier not in others and not self._publisher.have_shown({row.supplier})
        ]

    async def _try(self, supplier: SupplierNo, found: Foreign) -> None:
        """Bring one in, or note why not."""
        known, began = self._unread.get(found.head.digest), trio.current_time()
        links, why = known.links if known is not None else found.head.link, ""
        self._is_coming, self._begun = True, set()
        try:
            if not self._is_ahead(found.head, links):  # that stays so, also if nobody shows it now
                links = await self._links(supplier, found)
            if not self._is_ahead(found.head, links):
                await self._bring_in(found, links)
        except (BitdustError, trio.TooSlowError) as error:
            why = str(error) or "no answer in time"
        except Exception as error:  # noqa: BLE001 - a catalog that somebody made up costs its line, and no other one
            _log.exception("version %d of another line could not be brought in", found.head.version)
            why = f"its catalog is none that can be gone through ({type(error).__name__}; the log says where)"
        finally:
            self._is_coming = False
            self._forget_halves(self._begun)
        if self._is_kept(found.head):
            self._unread.pop(found.head.digest, None)
        elif self.is_writer():  # one that is ahead is looked at again too: ours may go on beside it
            now = trio.current_time()
            again_at = now + max(AGAIN_S, min(AGAIN_SHARE * (now - began), AGAIN_MOST_S))
            unread = self._unread[found.head.digest] = Unread(found, links, why, again_at)
            _log.log(logging.WARNING if why else logging.DEBUG, "%s", told_of(unread))

    async def _links(self, supplier: SupplierNo, found: Foreign) -> bytes:
        """The newest links of the line that a supplier shows, its own the last."""
        assert self._following is not None
        with trio.fail_after(ASK_S):
            raw, behind = await self._following.suppliers.head_with_links(supplier)
        if raw != found.head.raw:
            raise Unavailable(what="the supplier shows another head meanwhile")
        return heads.genuine_links(found.head, behind) + found.head.link

    async def _bring_in(self, found: Foreign, links: bytes) -> None:
        """Have it shown."""
        assert self._following is not None
        self._admit_one(links)
        suppliers, workshop = self._following.suppliers, self._following.workshop
        there = Found(found.head, found.content, {})
        source = Renumbered(suppliers, self._catalog.suppliers(), there.suppliers)
        recovery = Recovery(there, source, self._secrets, self._crunch, self._entropy, workshop.scratch())
        self.on_step("fetching")
        beside = await self._crunch.run(workshop.beside)
        try:
            await recovery.fetch(beside.restore, _say_nothing, is_connected=True)
            with closing(await self._crunch.run(beside.catalog, found.content.change)) as theirs:
                await self._releases.at_rest()
                self.on_step("grafting")
                doubts = Doubts(self._catalog, theirs, suppliers, self._fragments.leaves, self._journal, self._admit)
                doubted = await doubts.look()
                is_ours = not self._publisher.outranks(found.head)
                grafting = Grafting(
                    self._catalog,
                    theirs,
                    self._journal,
                    self._releases,
                    self._admit,
                    hires=is_ours,
                    doubted=doubted,
                )
                await grafting.prepare()
                elsewhere = Fragments(theirs, Journal(theirs), source, self._crunch, self._secrets)
                regaining = Regaining(
                    self._catalog,
                    theirs,
                    elsewhere,
                    grafting,
                    grafting.operation,
                    self._crunch,
                    self._secrets,
                )
                passed = self._passed_by(links)
                only_there = self._only_there(theirs, passed)
                snapshots = {}
                try:
                    await regaining.run(grafting.unsure())
                    generation = self._begin(found, found.content.time_s * 1_000_000_000, 0)
                    await grafting.run(generation)
                    for number, each in enumerate(only_there, start=1):
                        made = self._begin(found, each.made_ns, number)
                        await grafting.run(made, each.generation)
                        snapshots[made] = each
                finally:  # what is ours now stays, also if not all came
                    unsure = await doubts.ask_for(grafting.adopted)
                await self._regain_here(grafting, {**doubted, **unsure})
        finally:
            beside.close()
        self.on_step("keeping")
        self._kept_change = self.waits_for = (
            _NO_CHANGE  # our newest head is not brought over it before one names what came
        )
        try:
            self._keep(found, generation, links, snapshots, passed)
            await self._journal.durable()
        finally:
            self._kept_change = self.waits_for = self._catalog.last_change
        _log.warning(
            "version %d of node %s lies beside ours: it is shown in .forks",
            found.head.version,
            short(found.head.signer.node),
        )

    async def _regain_here(self, grafting: Grafting, doubted: Mapping[BlockNo, int]) -> None:
        """Have what came, and was let go where that line says, lie where we have it: we may have packed it since.

        Before anything of it that is here already goes, for that may be all that is left.
        """
        here = Here(self._catalog, doubted)
        regaining = Regaining(
            self._catalog,
            self._catalog,
            self._fragments,
            here,
            grafting.operation,
            self._crunch,
            self._secrets,
        )
        await regaining.run(await here.unsure(grafting.named()))

    def _is_ahead(self, head: Head, links: bytes) -> bool:
        """Whether a head goes back to our newest: somebody else goes on from here, and there is one line."""
        own = self._publisher.head
        passed = {head.previous, head.also, *(heads.digest_of(link) for link in heads.split_links(links))}
        return own is not None and own.digest in passed

    def _is_in_our_head(self, head: Head) -> bool:
        """Whether a recovery from our newest head has what this one names: it was kept here before."""
        content = self._publisher.content
        if content is None or content.change < self._kept_change:
            return False
        return self._is_kept(head)

    def _only_there(self, theirs: Catalog, passed: Set[int]) -> list[Snapshot]:
        """The snapshots that a person made on the other line; one that was deleted here before may be among them.

        Args:
            passed: generations of ours that go once this line is here.
        """
        ours = (each for each in self._catalog.snapshots() if each.generation not in passed)
        known = {each.made_ns for each in ours if not each.is_fork}
        made = [each for each in theirs.snapshots() if each.kind is SnapshotKind.BY_PERSON and not each.is_gone]
        new = [each for each in made if each.made_ns not in known]
        for each in new:
            brought.check_snapshot(each)
        if len({each.name for each in new}) < len(new):
            raise BadFormat(what="its catalog has two snapshots of one name")
        if len(new) > brought.SNAPSHOTS_MOST:
            raise BadFormat(
                what=f"its catalog has {len(new)} snapshots that a person made and ours has not, and no more than "
                f"{brought.SNAPSHOTS_MOST} can come: delete some on the machine that wrote it"
            )
        return new

    def _admit_one(self, links: bytes) -> None:
        """Raise Unavailable: there are as many already, all of other lines."""
        line = {heads.digest_of(link) for link in heads.split_links(links)}
        others = sum(fork.digest not in line for _snapshot, fork in self.all())
        if others >= FORKS_MOST:
            raise Unavailable(what=f"{others} others wait to be chosen about, with `bitdustfs resolve`")

    def _begin(self, found: Foreign, made_ns: int, number: int) -> int:
        """A generation for a tree of it that shows what is here now. No other one begun since has this number."""
        self._admit()
        name = f"coming {found.head.digest.hex()[:16]} {self._catalog.last_change} {number}"  # a half may be left
        made = self._catalog.make_snapshot(name, made_ns, SnapshotKind.COMING)
        self._begun.add(made.generation)
        self._journal.note()
        return made.generation

    def _keep(
        self,
        found: Foreign,
        generation: int,
        links: bytes,
        snapshots: Mapping[int, Snapshot],
        passed: Set[int],
    ) -> None:
        """Show it, in the place of what was shown of its line.

        Args:
            snapshots: that were made on it, by our generations.
            passed: generations of ours that were in the way when it began to come.
        """
        self._admit()
        passed &= self._passed_by(links)  # what a person has chosen about meanwhile may be safe by now, and stays
        before = kept_forks(self._catalog)
        line = {heads.digest_of(link) for link in heads.split_links(links)}
        with self._journal.operation(admitted=True):
            for number in sorted(passed):
                self._catalog.end_snapshot(number)
            made = msgspec.structs.replace(
                _fork(found, generation, links), brought=list(snapshots), change=self._catalog.last_change + 1
            )
            keep_forks(self._catalog, [*(each for each in before if each.digest not in line), made])
            taken = self._taken()  # once: they may be thousands
            name = self._name(found, taken)
            self._catalog.change_snapshot(generation, name, SnapshotKind.FORK)
            taken.add(name)
            for number, snapshot in snapshots.items():
                name = _free(snapshot.name, taken)
                self._catalog.change_snapshot(number, name, SnapshotKind.BY_PERSON)
                taken.add(name)

    def _passed_by(self, links: bytes) -> Set[int]:
        """The generations of ours that show what there was of a line before."""
        line = {heads.digest_of(link) for link in heads.split_links(links)}
        before = [each for each in kept_forks(self._catalog) if each.digest in line]
        return {number for each in before for number in (each.generation, *self._may_be_gone(each)) if number}

    def _may_be_gone(self, fork: Fork) -> list[int]:
        """What came with a line, as long as whoever writes it may have let go what that names, by a newer head.

        No head of that line counts any more from the moment in which one of ours is safe. A catalog that was
        recovered does not know whether one was: then what a person relies on stays, and is regained where it can be.
        """
        safe = kept_safe(self._catalog)
        return [] if safe is None or safe >= fork.change else fork.brought

    def _name(self, found: Foreign, taken: Collection[str]) -> str:
        """A name for it that is not taken."""
        date = datetime.fromtimestamp(found.content.time_s, UTC).astimezone()
        return _free(date.strftime(f"%Y-%m-%d %H.%M of {short(found.head.signer.node)}"), taken)

    def _taken(self) -> set[str]:
        """The names of all snapshots."""
        return {each.name for each in self._catalog.snapshots() if not each.is_gone}


def told_of(unread: Unread) -> str:
    """Why a head beside ours is not shown, for a person."""
    return f"version {unread.found.head.version} of another line cannot be shown yet: {unread.why}"


def told_of_refusing(some: Sequence[Supplier]) -> str:
    """What becomes of fragments that these do not take, for a person."""
    takes, holds = ("takes", "it holds") if len(some) == 1 else ("take", "they hold")
    return (
        f"{', '.join(row.label for row in some)} {takes} no fragments from this machine before you have chosen with "
        f"`bitdustfs resolve`: {holds} the other state, which has a higher version"
    )


def _free(name: str, taken: Collection[str]) -> str:
    """This name, or with the first number that makes it one that is not taken."""
    number = 1
    while (free := numbered(name.encode(), number).decode(errors="ignore")) in taken:
        number += 1
    return free


def _fork(found: Foreign, generation: int, links: bytes) -> Fork:
    head = found.head
    newest = links[-LINKS_KEPT * heads.LINK_BYTES :]
    return Fork(generation, head.version, head.digest, bytes(head.signer.node), found.content.time_s, newest)


def _rank(found: Foreign) -> tuple[int, int]:
    return found.head.epoch, found.head.version


async def _say_nothing(_done: int, _total: int) -> None:
    return
