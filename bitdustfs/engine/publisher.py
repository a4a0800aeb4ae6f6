"""The publisher: the newest head, and who has it.

    publish -> signed, durable here -> one task for each supplier: ask what it holds -> judge -> bring the newest

A head is durable byte for byte before it leaves, with the link that the next one chains to; a restart sends the same
bytes. Each supplier that comes online is asked first what it holds. That is how we learn whether the suppliers know
more than we do: until a quorum has answered that they do not, `confirmed` is false, and nothing is published,
released or collected. A head that we did not write is never overwritten. Where so many suppliers show such heads that
ours cannot count any more, `foreign` tells of one of them, and from then on this machine changes nothing. Fewer are
no reason to stop: heads that count are at a quorum, and whoever brought one to less than that was cut off, or has
lied. They are `others`: nothing is let go that they may need, until what they hold is kept here too (engine/forks).
Who shows one is asked again as soon as he lets us hold the volume: until then he may have taken another one.

A head of an epoch before ours is another line too, if ours is not known to go back to it: whoever signed it may have
told one supplier only, which was away when this machine was recovered. It never counts against us, for the owner's
word goes over it. Our head goes over it without a chain, but only one that names what is kept here of that line.

The chain of links is kept for so many versions and no more. A supplier that is further behind cannot be shown that
the newest head descends from the one it has, and takes it from nobody: else it would take a fork. It keeps the old
one, which no quorum counts, and goes on with fragments, until the owner certifies anew: a head of a new epoch needs
no chain. Marks, which last longer than links, tell whether such a head is ours at all (engine/ancestors). One without
is another line, however old it is: nothing shows that ours goes back to it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Protocol

import trio

from bitdustfs.core import head as heads
from bitdustfs.core import replica
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.core.lease import Holder, called
from bitdustfs.core.replica import HeadContent, Holders
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine import ancestors, sightings
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.kept import kept
from bitdustfs.errors import BadFormat, BitdustError, HeadForked, PeerError, PeerFault, SealBroken
from bitdustfs.model import BlockId, Suite, SupplierNo, short
from bitdustfs.ports import Catalog, Entropy

PATIENCE_S = 30.0  # for one supplier to take a head
AGAIN_S = 5.0  # after a supplier did not
OTHERS_S = 60.0  # (tune) until a supplier with a head that is not ours is asked again what it holds
_LOOK_EVERY_S = 0.5
_HEAD = "head"  # in the catalog: the newest head, whole
_GIVEN_UP = "given up"  # in the catalog: digests of heads that a recovery could not fetch
_BEFORE = "listed before"  # in the catalog: lists of suppliers, by number; of each the newest head needs a quorum too
_log = logging.getLogger(__name__)


class HeadKeepers(Protocol):
    """What is needed of the suppliers."""

    head_version: int  # said with whatever changes something there
    goes_over: dict[SupplierNo, int]  # … and with what is put where our next head goes over one of this version
    on_connected: list[Callable[[SupplierNo], None]]  # requests take another connection with it now

    def online(self) -> Sequence[SupplierNo]: ...

    def revoked_in(self) -> Mapping[SupplierNo, int]:
        """Who has shown that our certificate is not valid any more, and since which epoch."""
        ...

    async def head(self, supplier: SupplierNo) -> bytes: ...

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Line:
    """A line beside ours that our next head goes over: a person has chosen ours, and what it had is kept here."""

    digest: bytes  # of its newest head
    version: int  # of that
    links: bytes  # its newest, oldest first, that of its newest head among them


@dataclass(frozen=True, slots=True)
class Foreign:
    """A head at a supplier that does not come from what we know."""

    head: Head
    content: HeadContent
    is_newer: bool  # than ours; else it is another one beside ours
    by: str  # who wrote it, in words


class Publisher:
    """Make heads, bring them to suppliers, and notice heads that are not ours."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        keepers: HeadKeepers,
        identity: Identity,
        entropy: Entropy,
        secrets: VolumeSecrets,
        suite: Suite,
        links_kept: int = heads.RUN_LINKS,  # at least a page (engine/ancestors)
        seat: bytes = heads.NO_SEAT,
        lease_s: int = 0,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._keepers = keepers
        self._identity = identity
        self._entropy = entropy
        self._secrets = secrets
        self._suite = suite
        self._links_kept = links_kept
        self._seat = seat
        self.lease_s = lease_s  # of the next head; 0: it lets the volume go
        self.takes_over = False  # the next head does
        self.may_publish: Callable[[], bool] = lambda: True  # whether we hold the volume (engine/holding)
        self._next_page = 0  # of marks: those before are noted, as far as links are kept
        self._far_behind: set[SupplierNo] = set()  # was said of them
        self._held: dict[SupplierNo, int] = {}  # version that a supplier showed on this connection; 0: none
        self._answered: set[SupplierNo] = set()  # have shown what they hold since we started
        self._have: set[SupplierNo] = set()  # took the newest head, and have not shown an older one since
        self._disowning: Set[SupplierNo] = frozenset()
        self._failed_at: dict[SupplierNo, float] = {}
        self._outdated: dict[SupplierNo, int] = {}  # how often what it showed until then was to be asked anew
        keepers.on_connected.append(self._connected)
        self._busy: set[SupplierNo] = set()
        self._before = _lists_before(catalog)
        self._let_be = _let_be(catalog)
        self._looks = Looks(journal.bell, _LOOK_EVERY_S)
        self.on_change: Callable[[], None] = lambda: None  # there is another head, or somebody has another one
        self._others: dict[SupplierNo, Foreign] = {}  # heads that are not ours, and where
        self._others_at: dict[SupplierNo, float] = {}  # trio time when it was shown
        self._on_line: dict[SupplierNo, bytes] = {}  # who holds a head of a line that we go over, and its link
        self._merged: dict[bytes, int] = {}  # the version of ours that went over a line, by its digest
        self._looked: dict[bytes, int] = {}  # up to which version of ours none went over a line, by its digest
        self.lines: Callable[[], Sequence[Line]] = tuple  # that we go over, or went
        self.keeps: Callable[[Head], bool] = lambda _head: False  # our newest head names what this one does
        self.foreign: Foreign | None = None  # the newest of them, once ours cannot count any more
        self.on_foreign: Callable[[Foreign], None] = lambda _found: None
        self.on_other: Callable[[], None] = lambda: None  # somebody shows another one that is not ours
        # those of some suppliers that are not to get the newest head in place of an older one
        self.withheld_from: Callable[[Iterable[SupplierNo]], Set[SupplierNo]] = lambda _suppliers: frozenset()
        self.content: HeadContent | None = None
        self.head: Head | None = None
        raw = kept_head(catalog)
        if raw is not None:
            self.head = heads.parse(raw)
            self.content = replica.unseal_head(secrets, self.head.sealed)
            keepers.head_version = self.head.version

    @property
    def version(self) -> int:
        """Of the newest head that we know; 0: there is none."""
        return self.head.version if self.head is not None else 0

    @property
    def is_outdated(self) -> bool:
        """The newest head is of an older epoch than our certificate: who lacks it does not take it any more."""
        return self.head is not None and self.head.epoch < self._identity.certificate.epoch

    @property
    def others(self) -> Mapping[SupplierNo, Foreign]:
        """The heads that are not ours and that suppliers show now. Of who was given up none counts."""
        counted = self._hired() if self._others else ()
        return {supplier: found for supplier, found in self._others.items() if supplier in counted}

    @property
    def others_uncounted(self) -> Mapping[SupplierNo, Foreign]:
        """Those that are shown by who was given up, or is not hired yet: they are looked at, and hold nothing up."""
        counted = self._hired() if self._others else ()
        return {supplier: found for supplier, found in self._others.items() if supplier not in counted}

    @property
    def confirmed(self) -> bool:
        """A quorum of the suppliers has answered since we started, and none of these knows more than we do.

        Of every list that a head was made by, for each may be somebody's whole knowledge.
        """
        return self.foreign is None and self.is_quorum(self._answered)

    def outranks(self, head: Head) -> bool:
        """Say whether a head is of before the owner certified us: nobody goes on from it any more."""
        return head.epoch < self._identity.certificate.epoch

    def is_refused_for(self, head: Head) -> bool:
        """Say whether who holds this head takes no fragment from us: another node has gone further (engine/heads)."""
        is_rival = head.signer.node != self._identity.node and not self.outranks(head)
        return is_rival and head.version > self.version

    def have_shown(self, suppliers: Set[SupplierNo]) -> bool:
        """Say whether these have all shown what they hold since we started."""
        return suppliers <= self._answered

    def is_quorum(self, some: Set[SupplierNo]) -> bool:
        """Say whether these are a quorum of every list that a head was made by."""
        hired = self._hired()
        return bool(hired) and replica.has_quorums(some, (hired, self._listed, *self._before), self._given_up(hired))

    def is_quorum_without(self, some: Set[SupplierNo]) -> bool:
        """Say whether the others alone, wherever they are now, would be such a quorum."""
        everybody = self._hired().union(self._listed, *self._before)
        return self.is_quorum({SupplierNo(each) for each in everybody} - some)

    @property
    def can_reach_quorum(self) -> bool:
        """So many suppliers are online that a head could count now."""
        hired = {row.supplier for row in self._catalog.suppliers() if row.is_listed}
        return bool(hired) and len(hired & set(self._keepers.online())) >= replica.quorum(len(hired))

    @property
    def is_disowned(self) -> bool:
        """The owner has certified his machines anew, and not this one. One supplier that can prove it is enough."""
        return bool(self._disowning)

    @property
    def has_lines_left(self) -> bool:
        """There is a line that no head goes over yet: the next one is to, although nothing changed."""
        return self._to_go_over() is not None

    def holders(self) -> Holders:
        """Who has the newest head."""
        return Holders(self._listed, self._before, frozenset(self._have), self._given_up(self._hired()))

    def take_over(self, head: Head, content: HeadContent) -> None:
        """Go by another head from now on: a reader's, which it notes in the catalog itself."""
        self.head, self.content = head, content
        self._keepers.head_version = head.version

    async def publish(self, content: HeadContent) -> None:
        """Make the next head and have it brought to all suppliers. It is durable here when this returns.

        Raises:
            DiskFull, DiskFault: nothing has left.
        """
        assert self.confirmed, "a head is made only when the suppliers are known to have no newer one"
        before, over = self.head, self._to_go_over()
        sealed = replica.seal_head(self._secrets, content, BlockId(self._entropy.bytes(32)), self._suite)
        made = heads.sign(
            self._identity,
            handle=self._secrets.handle,
            version=max(self.version, over.version if over is not None else 0) + 1,
            previous=before.digest if before is not None else heads.NO_HEAD,
            sealed=sealed,
            seat=self._seat,
            lease_s=self.lease_s,
            takes_over=self.takes_over or over is not None,
            also=over.digest if over is not None else heads.NO_HEAD,
        )
        listed_before = self.holders().listed_before
        with self._journal.operation():
            keep_head(self._catalog, made.raw)
            self._catalog.put_local_value(_BEFORE, json.dumps([sorted(each) for each in listed_before]).encode())
            self._catalog.put_link(made.version, made.link)
            self._catalog.drop_links(min(made.version - self._links_kept, self._next_page * ancestors.PAGE))
        await self._journal.durable()
        self.head, self.content, self._before = made, content, listed_before
        self.takes_over = False
        self._have.clear()
        self._keepers.head_version = made.version
        self._note_change()

    def note_ancestors(self) -> None:
        """Note marks of our heads, if some are due: a change, which the next head is to name. The caller commits.

        Raises:
            DiskFull, DiskFault, ReadOnly.
        """
        start = max(self._next_page, (self.version - self._links_kept) // ancestors.PAGE)
        if start < (self.version + 1) // ancestors.PAGE:
            with self._journal.operation():
                self._next_page = ancestors.note(self._catalog, start, self.version + 1)

    async def run(self) -> None:
        """Ask and bring until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                online, disowning = set(self._keepers.online()), frozenset(self._keepers.revoked_in())
                if disowning != self._disowning:
                    self._disowning = disowning
                    self.on_change()
                for gone in (self._held.keys() | self._others_at.keys()) - online:
                    self._connected(gone)
                if self.foreign is None:
                    for supplier in self._lacking(filter(self._is_due, online - self._busy)):
                        self._busy.add(supplier)
                        nursery.start_soon(self._bring, supplier)
                failed_at = min((at for who, at in self._failed_at.items() if who in online), default=inf)
                again_at = min((at + OTHERS_S for at in self._others_at.values()), default=inf)
                await self._looks.next(within_s=min(failed_at + AGAIN_S, again_at) - trio.current_time())

    def recall(self, is_kept: Callable[[Head], bool]) -> None:
        """Know again what heads beside ours suppliers showed before the start, until they show what they hold now."""
        for supplier, theirs in sightings.seen(self._catalog).items():
            if not self._is_known(theirs) and not is_kept(theirs):
                with suppress(SealBroken):
                    self._others[supplier] = self._beside(theirs)

    def forget_settled(self, is_kept: Callable[[Head], bool]) -> None:
        """Note no longer what heads suppliers showed, where those are kept here by now, or these were given up."""
        done = sightings.settled(self._catalog, is_kept)
        if done:
            with self._journal.operation(admitted=True):
                for supplier in done:
                    sightings.note(self._catalog, supplier, None)

    def ask_anew(self, supplier: SupplierNo) -> None:
        """Ask a supplier again what it holds, if it showed a head that is not ours: it may hold another one now."""
        self._outdate(supplier)
        self._looks.now()

    def look_again(self) -> None:
        """Ask those who hold a head that is not ours what they hold: it may be known now what that is."""
        self.foreign = None
        self._others_at.clear()
        self._looks.now()

    # -- private ---------------------------------------------------------------------------------------------

    def _to_go_over(self) -> Line | None:
        """A line that no head of ours goes over yet; one head goes over one."""
        return next(
            (each for each in self.lines() if self._merged_at(each) is None and self._is_in_reach(each)), None
        )

    def _line_of(self, link: bytes) -> Line | None:
        """The line that we go over with a head on it; None: none, or it goes on and nobody has chosen about that yet.

        Asked whenever it matters: a line that goes on is another one by its digest, and ours goes over that one then.
        """
        return next((each for each in self.lines() if link in heads.split_links(each.links)), None)

    def _is_in_reach(self, line: Line) -> bool:
        """A head of ours can go over it. One with a version that nobody came to by writing would end all versions."""
        return line.version < self.version + heads.SKIPPED_MOST

    def _merged_at(self, line: Line) -> int | None:
        """The version of ours that goes over a line; None: there is none yet."""
        if line.digest not in self._merged:
            looked = max(line.version, self._looked.get(line.digest, 0))
            for link in heads.split_links(self._catalog.links(looked, self.version + 1)):
                if heads.also_of(link) == line.digest:
                    self._merged[line.digest] = heads.version_of(link)
            self._looked[line.digest] = self.version
        return self._merged.get(line.digest)

    def _links_from(self, supplier: SupplierNo) -> bytes:
        """The links between the head that a supplier holds and our newest one."""
        assert self.head is not None
        held = self._held[supplier]
        if supplier not in self._on_line:
            return self._catalog.links(held, self.head.version) if held else b""
        line = self._line_of(self._on_line[supplier])
        merged = self._merged_at(line) if line is not None else None
        assert line is not None and merged is not None, "nothing is brought there before"
        behind = [link for link in heads.split_links(line.links) if heads.version_of(link) > held]
        return b"".join(behind) + self._catalog.links(merged - 1, self.head.version)

    def _connected(self, supplier: SupplierNo) -> None:
        """What a supplier holds is asked anew: it has a new connection, and may have another disk."""
        self._held.pop(supplier, None)
        self._outdate(supplier)

    def _outdate(self, supplier: SupplierNo) -> None:
        """A head that is not ours is asked for anew, also if it is just shown."""
        self._others_at.pop(supplier, None)
        self._outdated[supplier] = self._outdated.get(supplier, 0) + 1

    def _hired(self) -> frozenset[int]:
        return frozenset(int(row.supplier) for row in self._catalog.suppliers() if row.is_listed)

    def _given_up(self, hired: frozenset[int]) -> frozenset[int]:
        """Those of the lists that are not hired any more."""
        return self._listed.union(*self._before) - hired

    @property
    def _listed(self) -> frozenset[int]:
        return frozenset(entry.number for entry in self.content.suppliers) if self.content else frozenset()

    def _lacking(self, suppliers: Iterable[SupplierNo]) -> set[SupplierNo]:
        """Those that were not asked yet, or have an older head and would take ours."""
        lacking = {each for each in suppliers if self._lacks(each)}
        if not self.may_publish():
            return {each for each in lacking if each not in self._held}
        older = {each for each in lacking if self._held.get(each)}
        return lacking - self.withheld_from(older) if older else lacking

    def _lacks(self, supplier: SupplierNo) -> bool:
        if trio.current_time() - self._others_at.get(supplier, -inf) < OTHERS_S:
            return False
        held = self._held.get(supplier)
        if held is not None and supplier in self._on_line:
            line = self._line_of(self._on_line[supplier])
            return line is not None and self._merged_at(line) is not None and not self.is_outdated
        return held is None or not (held == self.version or self.is_outdated or self._is_far_behind(held))

    def _is_far_behind(self, version: int) -> bool:
        """No links lead from that version of our line to our head any more."""
        return version > 0 and not self._catalog.links(version - 1, version + 1)

    def _is_due(self, supplier: SupplierNo) -> bool:
        failed_at = self._failed_at.get(supplier)
        return failed_at is None or trio.current_time() - failed_at >= AGAIN_S

    async def _bring(self, supplier: SupplierNo) -> None:
        """Ask one supplier what it holds, and bring it what it lacks."""
        outdated = self._outdated.get(supplier)
        try:
            with trio.fail_after(PATIENCE_S):
                if supplier not in self._held:
                    await self._ask(supplier)
                while self.foreign is None and supplier in self._held and self._lacking([supplier]):
                    assert self.head is not None
                    newest = self.head
                    await self._keepers.put_head(supplier, newest.raw, self._links_from(supplier))
                    self._note_held(supplier, newest.version)
            self._failed_at.pop(supplier, None)
        except (BitdustError, trio.TooSlowError) as error:
            self._held.pop(supplier, None)  # whatever it said before: it is asked anew
            self._failed_at[supplier] = trio.current_time()
            level = logging.DEBUG if isinstance(error, PeerError) else logging.WARNING
            _log.log(level, "supplier %d did not take the newest head: %s", supplier, error or "no answer in time")
        except Exception:  # noqa: BLE001 - a fault with one supplier must not keep the head from the others
            self._held.pop(supplier, None)
            self._failed_at[supplier] = trio.current_time()
            _log.exception("bringing the newest head to supplier %d failed", supplier)
        finally:
            self._busy.discard(supplier)
            if self._outdated.get(supplier) != outdated:  # who said so may not be who is there now
                self._held.pop(supplier, None)
                self._others_at.pop(supplier, None)
            self._journal.bell.ring()

    async def _ask(self, supplier: SupplierNo) -> None:
        try:
            raw = await self._keepers.head(supplier)
        except PeerFault:
            if not self.confirmed or self.head is None or self.is_outdated or self.withheld_from([supplier]):
                raise
            await self._heal(supplier, self.head)
        else:
            self._judge(supplier, raw)
        await self._note_seen(supplier)

    async def _heal(self, supplier: SupplierNo, newest: Head) -> None:
        """Bring the newest head to a supplier whose own is damaged. The others have shown nothing newer."""
        try:
            await self._keepers.put_head(supplier, newest.raw, b"")
        except HeadForked as forked:  # it can still tell which version it held
            await self._keepers.put_head(supplier, newest.raw, self._catalog.links(forked.detail, newest.version))
        _log.info("supplier %d had lost its head, and has the newest again", supplier)
        self._note_held(supplier, newest.version)

    def _judge(self, supplier: SupplierNo, raw: bytes) -> None:
        """Note what a supplier holds, or that it is not ours. Raises BadFormat, SealBroken: it is garbage."""
        if not raw:
            self._note_held(supplier, 0)
            return
        theirs = heads.parse(raw)
        if theirs.signer.owner != self._identity.owner or theirs.handle != self._secrets.handle:
            raise BadFormat(what=f"supplier {supplier} shows the head of another volume")
        try:
            found = self._beside(theirs)
        except SealBroken as bad:
            raise BadFormat(what=f"supplier {supplier} shows a head that cannot be opened") from bad
        if self._is_known(theirs):
            self._note_ours(supplier, theirs)
            return
        line = self._line_of(theirs.link)
        if line is not None and (self._is_in_reach(line) or not self.outranks(theirs)):
            self._note_held(supplier, theirs.version)
            self._have.discard(supplier)
            self._on_line[supplier] = theirs.link
            self._keepers.goes_over[supplier] = theirs.version
            return
        if self.outranks(theirs) and self._may_go_over(theirs):
            self._note_held(supplier, 0)  # without a chain
            return
        self._note_other(supplier, found)

    def _beside(self, theirs: Head) -> Foreign:
        """A head as one that does not come from what we know. Raises SealBroken."""
        content = replica.unseal_head(self._secrets, theirs.sealed)
        by = called(Holder(theirs.signer.node, theirs.seat), Holder(self._identity.node, self._seat))
        return Foreign(theirs, content, is_newer=theirs.version > self.version, by=by)

    async def _note_seen(self, supplier: SupplierNo) -> None:
        """Have a restart know what a supplier showed, if that is no head of ours, before anything is let go again."""
        found = self._others.get(supplier)
        shown = found.head if found is not None and not self.keeps(found.head) else None
        if not self._journal.keeps or sightings.is_noted(self._catalog, supplier, shown):
            return
        with self._journal.operation(admitted=True):
            sightings.note(self._catalog, supplier, shown)
        await self._journal.durable()

    def _note_ours(self, supplier: SupplierNo, theirs: Head) -> None:
        """Note a head that ours goes back to; perhaps from further back than can be shown to its supplier."""
        if not self._is_far_behind(theirs.version):
            self._note_held(supplier, theirs.version)
            return
        if self.outranks(theirs):
            self._note_held(supplier, 0)  # without a chain
            return
        self._note_held(supplier, theirs.version)
        if supplier not in self._far_behind:
            self._far_behind.add(supplier)
            _log.warning(
                "supplier %d holds head %d, and links are kept for %d versions only: "
                "it gets no newer one until `bitdustfs revoke` or `recover` begins a new epoch",
                supplier,
                theirs.version,
                self._links_kept,
            )

    def _note_other(self, supplier: SupplierNo, found: Foreign) -> None:
        """Note a head that is not ours. Where it is with so many that ours cannot count, we are not the writer."""
        before = self._others.get(supplier)
        self._others[supplier], self._others_at[supplier] = found, trio.current_time()
        self._held.pop(supplier, None)
        self._have.discard(supplier)
        if self.outranks(found.head):
            self._answered.add(supplier)
        else:
            self._answered.discard(supplier)
        if before is None or before.head.digest != found.head.digest:
            _log.error(
                "supplier %d holds head %d by node %s, which this machine does not know (ours is %d)",
                supplier,
                found.head.version,
                short(found.head.signer.node),
                self.version,
            )
            self.on_other()
        against = {who: each for who, each in self._others.items() if not self.outranks(each.head)}
        if self.foreign is None and against and not self.is_quorum_without(against.keys()):
            self.foreign = max(against.values(), key=lambda each: each.head.version)
            self.on_foreign(self.foreign)
        self._note_change()

    def _may_go_over(self, theirs: Head) -> bool:
        """What a head of an older epoch names is kept here, or was given up."""
        return theirs.digest.hex() in self._let_be or self.keeps(theirs)

    def _is_known(self, theirs: Head) -> bool:
        """It is ours, or one that ours goes back to."""
        if self.head is None or theirs.version > self.head.version:
            return False
        if theirs.version == self.head.version:
            return theirs.digest == self.head.digest
        link = self._catalog.links(theirs.version - 1, theirs.version + 1)
        return link == theirs.link or (not link and ancestors.is_ancestor(self._catalog, theirs))

    def _note_held(self, supplier: SupplierNo, version: int) -> None:
        self._held[supplier] = version
        self._others.pop(supplier, None)
        self._on_line.pop(supplier, None)
        self._answered.add(supplier)
        if version == self.version:
            self._have.add(supplier)
        else:
            self._have.discard(supplier)
        self._note_change()

    def _note_change(self) -> None:
        self._looks.now()
        self.on_change()
        self._journal.bell.ring()  # what waits for a quorum may go on


def _lists_before(catalog: Catalog) -> tuple[frozenset[int], ...]:
    """Whose quorum the newest head needs beside that of its own list."""
    raw = catalog.local_value(_BEFORE)
    lists = kept(raw, list[list[int]], "the newest head needs a quorum of all suppliers that are hired")
    if lists is None and raw:
        return (frozenset(int(row.supplier) for row in catalog.suppliers() if row.is_listed),)
    return tuple(frozenset(each) for each in lists or ())


def _let_be(catalog: Catalog) -> frozenset[str]:
    """The digests of heads that the owner gave up, because nobody could fetch what they name."""
    raw = catalog.local_value(_GIVEN_UP)
    found = kept(raw, list[str], "heads of before the recovery that cannot be fetched keep what they may need")
    return frozenset(found or ())


def give_up(catalog: Catalog, heads_of_before: Iterable[Head]) -> None:
    """Note heads that the next one of ours goes over, once it is of a higher epoch. The caller commits."""
    digests = sorted(each.digest.hex() for each in heads_of_before)
    catalog.put_local_value(_GIVEN_UP, json.dumps(digests).encode() if digests else b"")


def keep_head(catalog: Catalog, raw: bytes) -> None:
    """Note the newest head that we know."""
    catalog.put_local_value(_HEAD, raw)


def kept_head(catalog: Catalog) -> bytes | None:
    """The newest head that we know; None: there is none."""
    return catalog.local_value(_HEAD)
