"""The clerk: keeps the contracts of this node's owner with others, for both roles, and judges what others propose.

Every home has one, also if it keeps nothing for others: who lets others keep something for him signs too. Both sides
hold the same history. Each shows the other what it holds when they connect (engine/accords), so what one of them lost
with an answer comes back; nothing is ever taken from a contract because somebody was not heard.

When both sides propose at the same moment, the one with the lower owner id goes first, on both sides: he refuses the
other's proposal (CROSSED), who signs his, and then proposes his own anew.

A proposal that was refused, or taken back, is void for good, whatever the other side does with it later: its serial
is burnt (`abandon`), durably, and no contract that we proposed below that floor is taken. One that was not answered
may have been signed: it is void when the other side, asked what it holds, does not show it (`resolve`). The floor is
ours alone and of what we propose: he is not told of it, and what he proposes may have a lower serial.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from bitdustfs.core import agreement, contract, wire
from bitdustfs.core.agreement import Agreement, Wish
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import NO_CONTRACT, Allowance, Contract
from bitdustfs.core.sources import Budget, SourceBudgets
from bitdustfs.core.wire import MAX_NUMBER, Refusal, Refused
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, OwnerId, short
from bitdustfs.ports import ContractStore, Crunch, Wall

SIGN_BURST: Final = 16  # contracts with one owner that are signed in a row; each costs a write to the disk …
SIGN_PER_S: Final = 1 / 60  # … and later on
_LINES: Final = 10  # in the log at once, of what strangers may cause
_LINES_PER_S: Final = 0.1  # and later on
log = logging.getLogger(__name__)

Used = Callable[[OwnerId], tuple[int, int]]
LacksRoom = Callable[[OwnerId, int], Awaitable[Refusal | None]]


class Clerk:
    """The contracts of one process.

    Args:
        store, crunch: None: they are forgotten with the process.
    Attributes:
        used_here: bytes and fragments that an owner stores with us.
        used_there: bytes and fragments that we store with an owner; None: nobody here knows, so it may be all that
            he gives.
        lacks_room: refuses to promise an owner so many bytes, where there is no room for them.
        on_kept: each is called when another contract is kept, or another notice.
    Raises:
        DiskFault, BadFormat: the contracts cannot be read.
    """

    def __init__(
        self,
        identity: Identity,
        store: ContractStore | None,
        *,
        crunch: Crunch | None,
        wall: Wall,
    ) -> None:
        self.identity = identity
        self._store = store
        self._crunch = crunch
        self._wall = wall
        kept = store.contracts() if store is not None else {}
        meant = store.proposals() if store is not None else {}
        self._agreements = {owner: agreement.parse(agreement.split(raw)) for owner, raw in kept.items()}
        self._newest = {owner: kept.newest for owner, kept in self._agreements.items()}
        self._proposals = {owner: contract.parse(raw) for owner, raw in meant.items()}  # of ours, not signed by them
        self._nodes: dict[NodeId, OwnerId] = {}  # whose each node is that has signed one of these
        for each in self._agreements.values():
            self._note_signers(each)
        self._floors = dict(store.floors()) if store is not None else {}
        self._unanswered: set[OwnerId] = set()  # whose answer to our proposal was lost
        self._agreeing: set[OwnerId] = set()  # owners whose contract is being saved
        self._agreed = trio.Event()  # one of them less
        self._lines = Budget(_LINES_PER_S, _LINES)
        self._signs = SourceBudgets(SIGN_PER_S, SIGN_BURST)
        self.used_here: Used = lambda _owner: (0, 0)
        self.used_there: Used | None = None
        self.lacks_room: LacksRoom = _has_room
        self.on_kept: list[Callable[[], None]] = []

    @property
    def agreements(self) -> Mapping[OwnerId, Agreement]:
        """With each owner with whom anything was ever agreed."""
        return self._agreements

    @property
    def contracts(self) -> Mapping[OwnerId, Contract]:
        """The newest contract with each owner; always as it is now."""
        return self._newest

    def newest(self, owner: OwnerId) -> Contract | None:
        """The contract that the next one follows."""
        return self._newest.get(owner)

    def owner_of(self, node: NodeId) -> OwnerId | None:
        """Whose a node is that has signed a contract which we hold."""
        return self._nodes.get(node)

    def in_force(self, owner: OwnerId) -> Contract | None:
        """The contract that holds now."""
        kept = self._agreements.get(owner)
        return kept.in_force(self.now_s()) if kept is not None else None

    def proposal(self, owner: OwnerId) -> Contract | None:
        """What we have proposed, and he has not signed."""
        return self._proposals.get(owner)

    def notice(self, owner: OwnerId) -> Contract | None:
        """A proposal of ours that binds us without his signature, as it keeps to the notice."""
        if (meant := self._proposals.get(owner)) is None:
            return None
        kept = self.newest(owner)
        if kept is None or not agreement.takes_away(kept, meant.terms, owner):
            return None
        return meant

    def binding(self, owner: OwnerId) -> Sequence[Contract]:
        """The contracts that hold or will, by serial, and behind them a notice of ours that he has not signed."""
        agreed, notice = self._agreements.get(owner), self.notice(owner)
        if agreed is None:
            return ()
        return (*agreed.contracts, notice) if notice is not None else agreed.contracts

    def allowance(self, owner: OwnerId) -> Allowance | None:
        """What an owner may store on this node now; None: nothing was ever agreed."""
        kept = self._agreements.get(owner)
        held = kept.allowance(owner, self.identity.node, self.now_s()) if kept is not None else None
        notice = self.notice(owner)
        if held is None or notice is None:
            return held
        return agreement.with_notice(held, notice, owner, self.identity.node, self.now_s())

    def promised(self, owner: OwnerId) -> int:
        """The most bytes that we owe an owner by any contract that holds or will."""
        kept = self._agreements.get(owner)
        if kept is None:
            return 0
        given = (each.allowance(owner, self.identity.node) for each in kept.contracts)
        return max((each.bytes for each in given if each is not None), default=0)

    def now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000

    # -- what others ask --------------------------------------------------------------------------------------

    async def sign(self, caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | Refusal:
        """Countersign a proposal if nothing speaks against it, and answer only when it is kept durably.

        Args:
            allowed_bytes: what we would give the caller's owner at most; None: nothing but what we gave so far.
        """
        try:
            proposal = contract.parse(raw)
        except BadFormat as bad:
            return Refusal(Refused.BAD_REQUEST, str(bad)[:200])
        owner = caller.owner
        if owner in self._agreeing:
            return Refusal(Refused.UNAVAILABLE, "another contract with this owner is being signed")
        self._agreeing.add(owner)  # held across the saving: two changes must not both follow one contract
        try:
            kept = self.newest(owner)
            if kept is not None and kept.digest == proposal.digest:
                return wire.Agreed(kept.raw)  # our first answer was lost
            refusal = self._judge(caller, proposal, kept, allowed_bytes) or await self._room_for(
                owner, proposal, kept
            )
            if refusal is not None:
                self._complain("refused a contract with owner %s: %s", short(owner), refusal.text)
                return refusal
            if not self._signs.take(owner.hex(), trio.current_time()):
                return self._refuse_often(owner)
            signed = contract.countersign(self.identity, proposal)
            with trio.CancelScope(shield=True):  # who asked is perhaps gone: what is on the disk must be known here
                await self._save(owner, signed)
        finally:
            self._let_agree(owner)
        log.info("contract with owner %s: %d bytes", short(owner), signed.terms.second.gives_bytes)
        return wire.Agreed(signed.raw)

    async def compare(self, caller: Certificate, request: wire.Compare) -> wire.Answer:
        """Take what he has newer than we, and show what we have then."""
        await self.settle(caller.owner)
        await self.take(caller.owner, request.contracts)
        await self.resolve(caller.owner)
        return wire.Compared(self.shown(caller.owner))

    # -- what we do ourselves -----------------------------------------------------------------------------------

    def shown(self, owner: OwnerId) -> tuple[bytes, ...]:
        """What we hold, as it is shown to that owner."""
        kept = self._agreements.get(owner)
        return kept.raws if kept is not None else ()

    async def take(self, owner: OwnerId, shown: Sequence[bytes]) -> None:
        """Take contracts that the other side shows, if both signed them and they are newer. Else nothing happens."""
        if not shown or owner in self._agreeing:
            return
        try:
            theirs = agreement.parse(shown)
        except BadFormat as bad:
            self._complain("contracts that owner %s shows are not taken: %s", short(owner), bad)
            return
        sides = {self.identity.owner, owner}
        if any({each.terms.first.owner, each.terms.second.owner} != sides for each in theirs.contracts):
            self._complain("contracts that owner %s shows are not ours: not taken", short(owner))
            return
        if not agreement.is_chain(theirs):
            self._complain("contracts that owner %s shows do not follow each other: not taken", short(owner))
            return
        if not agreement.is_newer(theirs, self._agreements.get(owner)):
            return
        if any(self.is_void(each, owner) for each in theirs.contracts):
            self._complain("a contract that owner %s shows was signed after it was refused: not taken", short(owner))
            return
        self._agreeing.add(owner)
        try:
            await self._keep(owner, theirs)
        finally:
            self._let_agree(owner)
        log.info("owner %s has shown a newer contract, of serial %d", short(owner), theirs.newest.terms.serial)

    def next_terms(self, owner: OwnerId, node: NodeId, wish: Wish) -> contract.Terms:
        """What to propose to an owner, whose node signs for him, as the next contract."""
        held = self.newest(owner)
        return agreement.next_terms(
            held,
            (self.identity.owner, self.identity.node),
            (owner, node),
            wish,
            now_s=self.now_s(),
            used=self.used_here(owner),
            in_force=self.in_force(owner),
            serial=self.next_serial(owner),
            is_heir=held is not None and agreement.is_orphaned(held, self.identity.certificate),
        )

    async def learn(self, raw: bytes) -> None:
        """Keep a contract that a catalog tells of, if nothing is known of that owner: this machine is a new one.

        What is newer, the other side shows when it connects (engine/accords). Raises DiskFull, DiskFault.
        """
        try:
            told = contract.parse(raw)
        except BadFormat as bad:
            log.warning("a contract in the catalog cannot be read: %s", bad)
            return
        others = [p.owner for p in (told.terms.first, told.terms.second) if p.owner != self.identity.owner]
        if len(others) == 1 and told.is_signed_by_both and others[0] not in self._agreements:
            await self._save(others[0], told)

    def next_serial(self, owner: OwnerId) -> int:
        """The least serial of our next proposal to an owner."""
        held, meant = self.newest(owner), self._proposals.get(owner)
        base = held.terms.serial + 1 if held is not None else 1
        return max(base, self._floors.get(owner, 0), meant.terms.serial + 1 if meant is not None else 0)

    def is_void(self, shown: Contract, owner: OwnerId) -> bool:
        """Whether we proposed a contract that is not in force, and that was refused."""
        held = self.newest(owner)
        is_new = held is None or (shown.terms.serial >= held.terms.serial and shown.digest != held.digest)
        is_ours = shown.terms.first.owner == self.identity.owner
        return is_new and is_ours and shown.terms.serial < self._floors.get(owner, 0)

    async def intend(self, owner: OwnerId, proposal: Contract) -> None:
        """Keep a proposal of ours durably before it is sent."""
        if self._store is not None and self._crunch is not None:
            await self._crunch.run(self._store.save_proposal, owner, proposal.raw)
        self._proposals[owner] = proposal
        self._tell()

    async def abandon(self, owner: OwnerId) -> None:
        """Forget the proposal, and make it void: it was refused, or is not meant any more."""
        self._unanswered.discard(owner)
        meant = self._proposals.get(owner)
        if meant is None:
            return
        held = self.newest(owner)
        if meant.terms.serial > (held.terms.serial if held is not None else 0):
            await self._save_floor(owner, max(self._floors.get(owner, 0), meant.terms.serial + 1))
        self._proposals.pop(owner, None)
        if self._store is not None and self._crunch is not None:
            await self._crunch.run(self._store.save_proposal, owner, b"")
        self._tell()

    def unanswered(self, owner: OwnerId) -> None:
        """Whether he has signed what we proposed is not known."""
        self._unanswered.add(owner)

    async def resolve(self, owner: OwnerId) -> None:
        """He has shown what he holds: what he was proposed, did not answer, and does not show, is void."""
        if owner in self._unanswered and self.notice(owner) is None:
            await self.abandon(owner)
        self._unanswered.discard(owner)

    async def settle(self, owner: OwnerId) -> None:
        """Wait until nothing is being signed with an owner: what is shown to him must not be out of date."""
        while owner in self._agreeing:
            await self._agreed.wait()

    async def keep(self, owner: OwnerId, signed: Contract) -> None:
        """Keep a contract that both signed, durably. One that does not follow ours any more is let be."""
        kept = self.newest(owner)
        if kept is not None and kept.terms.serial >= signed.terms.serial:
            return
        await self._save(owner, signed)

    async def _save(self, owner: OwnerId, signed: Contract) -> None:
        kept = self._agreements.get(owner)
        await self._keep(owner, kept.followed_by(signed, self.now_s()) if kept else Agreement((signed,)))

    async def _keep(self, owner: OwnerId, kept: Agreement) -> None:
        if self._store is not None and self._crunch is not None:
            await self._crunch.run(self._store.save_contract, owner, b"".join(kept.raws))
        self._agreements[owner], self._newest[owner] = kept, kept.newest
        self._note_signers(kept)
        if 0 < self._floors.get(owner, 0) <= kept.newest.terms.serial:  # two of one serial may both be shown
            await self._save_floor(owner, 0)
        meant = self._proposals.get(owner)
        if meant is not None and meant.digest == kept.newest.digest:
            await self.abandon(owner)
        self._tell()

    async def _save_floor(self, owner: OwnerId, serial: int) -> None:
        if self._store is not None and self._crunch is not None:
            await self._crunch.run(self._store.save_floor, owner, serial)
        self._floors[owner] = serial

    def _note_signers(self, kept: Agreement) -> None:
        self._nodes |= {signer.node: signer.owner for each in kept.contracts for signer in each.signers}

    def _let_agree(self, owner: OwnerId) -> None:
        self._agreeing.discard(owner)
        self._agreed.set()
        self._agreed = trio.Event()

    def _tell(self) -> None:
        for each in self.on_kept:
            each()

    def _complain(self, what: str, *facts: object) -> None:
        """Log what somebody did who may be anybody: he must not fill the log."""
        log.log(logging.WARNING if self._lines.take(trio.current_time()) else logging.DEBUG, what, *facts)

    def _refuse_often(self, owner: OwnerId) -> Refusal:
        self._complain("owner %s has so many contracts signed that it waits", short(owner))
        return Refusal(Refused.NOT_ALLOWED, "so many contracts in a row are not signed: try again in some minutes")

    def _judge(
        self, caller: Certificate, proposal: Contract, kept: Contract | None, allowed_bytes: int | None
    ) -> Refusal | None:
        """Say what speaks against a proposal."""
        terms = proposal.terms
        we, they = terms.second, terms.first
        if proposal.is_signed_by_both or (they.owner, they.node) != (caller.owner, caller.node):
            return Refusal(Refused.BAD_REQUEST, "a proposal is signed by the node that sends it, and by no other")
        if (we.owner, we.node) != (self.identity.owner, self.identity.node):
            return Refusal(Refused.BAD_REQUEST, "the proposal is for another node")
        if kept is not None and agreement.is_orphaned(kept, self.identity.certificate):
            return Refusal(Refused.UNAVAILABLE, "this machine is to take the place of one that is gone first")
        was = agreement.party_of(kept, we.owner) if kept is not None else None
        if we.gives_bytes and we.shelf != self.identity.node and (was is None or was.shelf != we.shelf):
            return Refusal(Refused.BAD_REQUEST, "the proposal is for a shelf on another node")
        gave = agreement.party_of(kept, they.owner) if kept is not None else None
        if they.gives_bytes and they.shelf != caller.node and (gave is None or gave.shelf != they.shelf):
            return Refusal(Refused.BAD_REQUEST, "the proposal offers a shelf on another node")  # whose?
        least, previous = (kept.terms.serial + 1, kept.digest) if kept else (1, NO_CONTRACT)
        follows = {previous}
        if kept is not None and kept.terms.first.owner == caller.owner:
            follows.add(kept.terms.previous)  # he does not know that we signed that, and has made it void
        if terms.previous not in follows or not least <= terms.serial < least + agreement.MAX_SKIPPED:
            return Refusal(Refused.BAD_REQUEST, "the proposal does not follow our newest contract")
        meant = self._proposals.get(caller.owner)
        if meant is not None and meant.terms.previous == previous and self._goes_first(caller):
            return Refusal(Refused.CROSSED, "a proposal of our own goes first")
        return self._judge_dates(terms, kept, caller) or self._judge_size(terms, kept, allowed_bytes)

    def _judge_dates(self, terms: contract.Terms, kept: Contract | None, caller: Certificate) -> Refusal | None:
        now_s, owner = self.now_s(), caller.owner
        if terms.until_s and terms.until_s <= now_s:
            return Refusal(Refused.BAD_REQUEST, "the proposal ends in the past")
        if terms.since_s > now_s + agreement.LATEST_S:
            return Refusal(Refused.BAD_REQUEST, "the proposal begins too late")
        mine = self._agreements.get(owner)
        if mine is not None and sum(c.terms.since_s > now_s for c in mine.contracts) >= agreement.MAX_COMING:
            return Refusal(Refused.BAD_REQUEST, "too many changes are agreed that do not hold yet")
        if kept is None:
            return None
        broken = agreement.breaks_notice(
            kept,
            terms,
            self.identity.owner,
            used=self.used_there(owner) if self.used_there is not None else (MAX_NUMBER, MAX_NUMBER),
            now_s=now_s,
            in_force=self.in_force(owner),
            is_heir=agreement.is_heir(kept, caller, terms.first.shelf),
        )
        return Refusal(Refused.NOT_ALLOWED, broken) if broken else None

    def _judge_size(self, terms: contract.Terms, kept: Contract | None, allowed_bytes: int | None) -> Refusal | None:
        """What we give: no more than we gave, or than is allowed."""
        we = terms.second
        was = agreement.party_of(kept, we.owner) if kept is not None else None
        is_longer = kept is not None and agreement.ends_earlier(kept.terms.until_s, terms.until_s)
        if was is None or is_longer or we.gives_bytes > was.gives_bytes or we.gives_fragments > was.gives_fragments:
            if allowed_bytes is None:
                return Refusal(Refused.NOT_ALLOWED, "this owner is not on our list of customers")
            if we.gives_bytes > allowed_bytes:
                return Refusal(Refused.NOT_ALLOWED, f"at most {allowed_bytes} bytes are for this owner")
        if we.gives_fragments > contract.fragments_for(we.gives_bytes):
            return Refusal(Refused.NOT_ALLOWED, "that many fragments would be too small ones")
        return None

    async def _room_for(self, owner: OwnerId, proposal: Contract, kept: Contract | None) -> Refusal | None:
        gives = proposal.terms.second.gives_bytes
        if kept is not None and gives <= agreement.party_of(kept, self.identity.owner).gives_bytes:
            return None
        return await self.lacks_room(owner, gives)

    def _goes_first(self, caller: Certificate) -> bool:
        return (self.identity.owner, self.identity.node) < (caller.owner, caller.node)


async def _has_room(_owner: OwnerId, _gives_bytes: int) -> Refusal | None:
    return None
