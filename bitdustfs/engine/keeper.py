"""The keeper: our supplier side. It answers the requests of peers, each with the authority of its owner only.

    request -> admit: role, epoch, contract, quota reserved -> body -> shelf, in a worker -> answer
               (nothing of a body is taken in before `admit` agreed)

Rights come from one place: the contract with the owner whose certificate the peer showed. No field of a message is
ever a claim to rights. What an owner stored is deleted by nobody but that owner (invariant I14), and even then it
only moves to the shelf's trash, which counts in his quota. What has been there for TRASH_S yields, oldest first, to
what he himself puts there when his quota is full, and to nobody else. A wall clock that jumps while we run makes
nothing there older (core/age).

A DELETE takes effect on what came before it, whichever connection that took: a fragment under way is refused when its
body is there, one that is being stored is waited for. And of one owner's, each waits for the one before: what he is
told to be gone he may send again, and nothing that he said earlier hits it.

What becomes of what was stored when a contract ends, `endings` knows; who is out of date, `epochs`; which head is the
newest, `heads`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import trio

from bitdustfs.core import wire
from bitdustfs.core.age import Age
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import LAST_S, Allowance, Contract
from bitdustfs.core.grace import DAY_S
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.endings import Endings
from bitdustfs.engine.epochs import Epochs
from bitdustfs.engine.heads import Heads
from bitdustfs.errors import (
    AlreadyThere,
    BadFormat,
    BadLeaf,
    BitdustError,
    DiskFault,
    DiskFull,
    NotFound,
    Unavailable,
)
from bitdustfs.model import FragmentName, OwnerId, Role, Root, short
from bitdustfs.ports import ContractStore, Crunch, Leaves, Shelf, Wall

log = logging.getLogger(__name__)

TRASH_S: Final = 7 * DAY_S  # (tune) a week to notice that somebody deleted too much

_MAY_CHANGE = frozenset({Role.WRITER})
_MAY_READ = frozenset({Role.WRITER, Role.READER})
_ROLES: Mapping[type[wire.Request], frozenset[Role]] = {
    wire.Ping: frozenset(Role),
    wire.Put: _MAY_CHANGE,
    wire.Delete: _MAY_CHANGE,
    wire.Propose: _MAY_CHANGE,
    wire.PutHead: _MAY_CHANGE,
    wire.Hold: _MAY_CHANGE,
    wire.Get: _MAY_READ,
    wire.List: _MAY_READ,
    wire.Stat: _MAY_READ,
    wire.GetHead: _MAY_READ,
    wire.Watch: _MAY_READ,
    wire.Bulk: _MAY_READ,
    wire.Compare: _MAY_CHANGE,
}
# What the shelf raises, as what the peer is told. The text of the error stays here: it may name our paths.
_REFUSALS: tuple[tuple[type[BitdustError], Refused, str], ...] = (
    (NotFound, Refused.NOT_FOUND, "that fragment"),
    (BadLeaf, Refused.BAD_ROOT, "the bytes that came do not have the root that was said"),
    (AlreadyThere, Refused.TAKEN, "another fragment has that name"),
    (DiskFull, Refused.DISK_FULL, "its disk is full"),
    (Unavailable, Refused.UNAVAILABLE, "its shelf is not there now"),
    (DiskFault, Refused.FAULT, "its disk failed"),
    (BadFormat, Refused.FAULT, "what it stored cannot be read"),
)
_NOTHING = Allowance(0, 0, 0)
_SHELF_ERRORS = tuple(kind for kind, _code, _text in _REFUSALS)


class _Arrival:
    """A PUT that was admitted and is not worked off."""

    __slots__ = ("is_taken_back", "name", "owner", "stored")

    def __init__(self, owner: OwnerId, name: bytes) -> None:
        self.owner = owner
        self.name = name
        self.is_taken_back = False  # a DELETE has come meanwhile
        self.stored: trio.Event | None = None  # from when it is being stored on; set when that has ended


class Keeper:
    """A `Handler` over a shelf.

    Args:
        allowed: how many bytes we would keep for which owner; may change while we run.
        clerk: of the process, if it has one; then over the same `store`.
    Raises:
        DiskFault, BadFormat: the contracts cannot be read. A damaged head is no reason (engine/heads).
    """

    def __init__(
        self,
        identity: Identity,
        shelf: Shelf,
        store: ContractStore,
        *,
        allowed: Mapping[OwnerId, int],
        crunch: Crunch,
        wall: Wall,
        clerk: Clerk | None = None,
    ) -> None:
        self._identity = identity
        self._shelf, self._crunch = shelf, crunch
        self._allowed = allowed
        self._wall = wall
        self.clerk = clerk or Clerk(identity, store, crunch=crunch, wall=wall)
        self.clerk.used_here = shelf.used
        self.clerk.lacks_room = self._lacks_room
        self.endings = Endings(self.clerk, shelf, store, crunch, wall)
        self._epochs = Epochs(store, crunch)
        self._heads = Heads(store, crunch, wall)
        self._reserved: dict[OwnerId, tuple[int, int]] = {}  # (bytes, fragments) admitted and not stored yet
        self._arrivals: dict[int, _Arrival] = {}  # by `id` of the request, which lives as long
        self._deleting: dict[OwnerId, trio.Lock] = {}  # held while somebody's DELETE is worked off
        self._trash_age = Age(TRASH_S)
        self._old_s()  # a jump from here on is one
        self._lost: Counter[OwnerId] = Counter()  # fragments found damaged since we started

    def use_shelf(self, shelf: Shelf, crunch: Crunch) -> None:
        """Keep things there from now on. What is under way goes on: what was reserved for it stays reserved."""
        self._shelf, self._crunch = shelf, crunch
        self.clerk.used_here = shelf.used
        self.endings.use_shelf(shelf, crunch)

    @property
    def contracts(self) -> Mapping[OwnerId, Contract]:
        """The newest contract with each owner."""
        return self.clerk.contracts

    def head_version(self, owner: OwnerId) -> int:
        """The version of the head that we keep for an owner; 0: none."""
        return self._heads.version(owner)

    def note_lost(self, owner: OwnerId) -> None:
        """A fragment of an owner was found damaged: he is told when he asks for his room next."""
        self._lost[owner] += 1

    def has_contract(self, owner: OwnerId) -> bool:
        """Say whether anything was agreed with this owner."""
        return owner in self.clerk.agreements

    def kept_bytes(self, owner: OwnerId) -> int:
        """What we keep for an owner that he has not let go; 0 too while the shelf is not there."""
        try:
            return max(0, self._shelf.used(owner)[0] - self._shelf.trash(owner, LAST_S)[0])
        except _SHELF_ERRORS:
            return 0

    def is_partner(self, owner: OwnerId) -> bool:
        """Say whether a contract with this owner holds or will, either way, or something of his is here."""
        kept, now_s = self.clerk.agreements.get(owner), self._now_s()
        if kept is None:
            return False
        for terms in (each.terms for each in kept.contracts):
            gives = terms.first.gives_bytes or terms.second.gives_bytes
            if gives and not (terms.until_s and terms.until_s <= now_s):
                return True
        try:
            return self._shelf.used(owner)[1] > 0
        except _SHELF_ERRORS:
            return True  # it may be

    def is_revoked(self, node: Certificate) -> bool:
        """Say whether its owner has certified nodes anew since, as far as we know."""
        return self.refuse_revoked(node) is not None

    # -- before the body ------------------------------------------------------------------------------------

    def admit(self, caller: Certificate, request: wire.Request) -> Refusal | None:
        """Decide before the body comes; for PUT reserve its room."""
        if isinstance(request, wire.Knock | wire.Join):
            return Refusal(Refused.NOT_ALLOWED, "nobody is taken in here")
        if type(request) not in _ROLES:
            return Refusal(Refused.NOT_ALLOWED, "nobody answers that here")
        if caller.role not in _ROLES[type(request)]:
            return Refusal(Refused.NOT_ALLOWED, f"a {caller.role.name.lower()} may not do that")
        if (refusal := self._outdates(caller, request)) is not None:
            return refusal
        match request:
            case wire.Ping() | wire.Propose() | wire.Compare():
                return None
            case wire.Put() | wire.Delete() | wire.PutHead() if request.epoch != caller.epoch:
                return Refusal(Refused.BAD_REQUEST, "the epoch is not that of the certificate")
        allowance = self._allowance(caller.owner)
        try:
            if allowance is None and not (self.has_contract(caller.owner) and self._shelf.used(caller.owner)[1]):
                return Refusal(Refused.NO_CONTRACT, "there is no contract with this owner")
            if not isinstance(request, wire.Put):
                return None
            refusal = self._reserve(caller.owner, allowance or _NOTHING, request.length)
        except _SHELF_ERRORS as error:
            return _refusal(caller, request, error)
        if refusal is None:
            self._arrivals[id(request)] = _Arrival(caller.owner, request.name)
        return refusal

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        """Give up what `admit` reserved: it is stored, or will not be."""
        if isinstance(request, wire.Put):
            self._arrivals.pop(id(request), None)
            held_bytes, held_fragments = self._reserved[caller.owner]
            if held_fragments == 1:
                del self._reserved[caller.owner]
            else:
                self._reserved[caller.owner] = held_bytes - request.length, held_fragments - 1

    # -- after the body -------------------------------------------------------------------------------------

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        """Do what was asked."""
        try:
            await self._note_epoch(caller)
            if (refusal := self._outdates(caller, request)) is not None:
                return refusal, ()  # the body took its time
            match request:
                case wire.Get():
                    return await self._get(caller.owner, request)
                case wire.GetHead():
                    return await self._get_head(caller.owner)
                case _:
                    return await self._act(caller, request, body), ()
        except _SHELF_ERRORS as error:
            return _refusal(caller, request, error), ()

    async def _act(self, caller: Certificate, request: wire.Request, body: bytes | memoryview) -> wire.Answer:
        match request:
            case wire.Put():
                return await self._put(caller.owner, request, body)
            case wire.PutHead():
                return await self._put_head(caller, request, body)
            case wire.Delete():
                return await self._delete(caller.owner, request)
            case wire.List():
                names = await self._crunch.run(self._shelf.names, caller.owner, request.after, request.limit)
                return wire.Listed(tuple((bytes(name), length) for name, length in names))
            case wire.Watch():
                return await self._heads.watch(caller.owner, request)
            case wire.Hold():
                return await self._heads.hold(caller, request)
            case wire.Stat():
                return await self._status(caller.owner)
            case wire.Propose():
                return await self.agree(caller, request.contract, self._allowed.get(caller.owner) or None)
            case wire.Compare():
                return await self.clerk.compare(caller, request)
            case wire.Bulk():
                return Refusal(Refused.UNAVAILABLE, "there are no bulk connections here")
            case _:
                return wire.Done()  # to a ping

    async def _put(self, owner: OwnerId, request: wire.Put, body: bytes | memoryview) -> wire.Answer:
        arrival = self._arrivals.get(id(request)) or _Arrival(owner, request.name)
        if arrival.is_taken_back:
            return Refusal(Refused.UNAVAILABLE, "it was asked to let this fragment go while it was under way")
        arrival.stored = trio.Event()  # no await since it was looked: a DELETE waits for it from here on
        try:
            await self._keep(owner, request, body)
        finally:
            arrival.stored.set()
        return wire.Done()

    async def _keep(self, owner: OwnerId, request: wire.Put, body: bytes | memoryview) -> None:
        agreed, used = self._agreed(owner), self._shelf.used(owner)
        held_bytes, held_fragments = self._reserved.get(owner, (0, 0))  # what is coming, this one too
        over = used[0] + held_bytes - agreed.bytes, used[1] + held_fragments - agreed.fragments
        await self._crunch.run(
            self._store_fragment, owner, request, body, over, self._old_s(), self.endings.yielding()
        )

    async def _get(self, owner: OwnerId, request: wire.Get) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        leaves = await self._crunch.run(self._read, owner, request)
        parts = (leaves.hashes, leaves.content) if leaves.hashes else (leaves.content,)
        return wire.Found(leaves.length, len(leaves.hashes)), parts

    async def _delete(self, owner: OwnerId, request: wire.Delete) -> wire.Deleted:
        names = frozenset(request.names)
        late = [each for each in self._arrivals.values() if each.owner == owner and each.name in names]
        for arrival in late:
            arrival.is_taken_back = True
        async with self._deleting.setdefault(owner, trio.Lock()):
            for arrival in late:
                if arrival.stored is not None:  # else it will not be
                    await arrival.stored.wait()
            self._old_s()  # what goes into the trash is dated by a clock that was seen
            return wire.Deleted(await self._crunch.run(self._discard, owner, request.names, self._now_s()))

    async def _status(self, owner: OwnerId) -> wire.Status:
        free_bytes = await self._crunch.run(self._free_bytes, self.endings.yielding())
        agreed = self._agreed(owner)
        used_bytes, used_fragments = self._shelf.used(owner)
        old_bytes, old_fragments = self._shelf.trash(owner, self._old_s())  # it yields: that is room
        return wire.Status(
            quota_bytes=agreed.bytes,
            quota_fragments=agreed.fragments,
            used_bytes=used_bytes - old_bytes,
            used_fragments=used_fragments - old_fragments,
            free_bytes=max(0, free_bytes + old_bytes),
            lost=self._lost[owner],
            contract=self.clerk.agreements[owner].newest.raw,
        )

    async def _put_head(self, caller: Certificate, request: wire.PutHead, body: bytes | memoryview) -> wire.Answer:
        """Keep a head if a valid node of the caller's owner signed it, whoever of them brings it."""
        try:
            head = await self._heads.read(request, body)
        except BadFormat as bad:
            log.warning("refused a head of owner %s: %s", short(caller.owner), bad)
            return Refusal(Refused.BAD_REQUEST, str(bad))
        if head.signer.owner != caller.owner:
            return Refusal(Refused.NOT_ALLOWED, "the head is signed by a node of another owner")
        await self._note_epoch(head.signer)
        async with self._heads.lock(caller.owner):  # two heads must not both follow one
            if (refusal := self._outdates(caller, request)) is not None:
                return refusal
            if self.is_revoked(head.signer) and not self._heads.holds(head):
                return Refusal(Refused.NOT_ALLOWED, "the head is signed by a node that was revoked since")
            return await self._heads.put(head, memoryview(body)[request.head_bytes :], caller.node)

    async def _get_head(self, owner: OwnerId) -> tuple[wire.Answer, tuple[bytes, ...]]:
        """Tell the head. Once a node of a new epoch was told one, no revoked node changes it any more."""
        async with self._heads.lock(owner):  # one of a node that is revoked by now may be on its way to the disk
            return self._heads.get(owner)

    # -- contracts ------------------------------------------------------------------------------------------

    async def agree(self, caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | Refusal:
        """Countersign a proposal that asks for no more than that, and answer only when it is kept durably.

        Args:
            allowed_bytes: None: nothing is agreed on with this owner.
        """
        return await self.clerk.sign(caller, raw, allowed_bytes)

    async def keep(self, signed: Contract) -> None:
        """Keep a contract that we proposed and both signed; a newer one stays. Raises DiskFull, DiskFault."""
        own = self._identity.owner
        owner = next(p.owner for p in (signed.terms.first, signed.terms.second) if p.owner != own)
        await self.clerk.keep(owner, signed)

    async def _lacks_room(self, owner: OwnerId, gives_bytes: int) -> Refusal | None:
        """Refuse to promise what the disk does not have, counting what is promised to others."""
        free_bytes = await self._crunch.run(self._free_bytes, self.endings.yielding())
        promised = sum(
            max(0, self.clerk.promised(other) - self._shelf.used(other)[0])
            for other in self.clerk.agreements
            if other != owner and not self.endings.has_ended(other)
        )
        room = free_bytes - promised + self._shelf.used(owner)[0]
        if gives_bytes > room:
            return Refusal(Refused.DISK_FULL, f"only {max(0, room)} bytes are not promised to others")
        return None

    # -- who is out of date -----------------------------------------------------------------------------------

    def refuse_revoked(self, node: Certificate) -> Refusal | None:
        """Refuse a node whose owner has certified others since."""
        return self._epochs.refuse_revoked(node)

    async def _note_epoch(self, seen: Certificate) -> None:
        """Remember the newest epoch of an owner with a contract, durably, before acting on it."""
        if seen.owner in self.clerk.agreements:
            await self._epochs.note(seen)

    def _outdates(self, caller: Certificate, request: wire.Request) -> Refusal | None:
        """Refuse everything of a revoked node, and changes by one that does not know the newest head."""
        return self.refuse_revoked(caller) or self._heads.outdates(caller, request)

    # -- quota ------------------------------------------------------------------------------------------------

    def _allowance(self, owner: OwnerId) -> Allowance | None:
        return self.clerk.allowance(owner)

    def _agreed(self, owner: OwnerId) -> Allowance:
        return self._allowance(owner) or _NOTHING

    def _reserve(self, owner: OwnerId, agreed: Allowance, length: int) -> Refusal | None:
        if agreed.until_s and agreed.until_s <= self._now_s():
            return Refusal(Refused.NO_CONTRACT, "the contract has ended: what is here can still be read")
        used_bytes, used_fragments = self._shelf.used(owner)
        old_bytes, old_fragments = self._shelf.trash(owner, self._old_s())
        held_bytes, held_fragments = self._reserved.get(owner, (0, 0))
        if used_bytes - old_bytes + held_bytes + length > agreed.bytes:
            return Refusal(Refused.QUOTA, f"{used_bytes} of {agreed.bytes} bytes agreed are used")
        if used_fragments - old_fragments + held_fragments + 1 > agreed.fragments:
            return Refusal(Refused.QUOTA, f"{used_fragments} of {agreed.fragments} fragments agreed are used")
        self._reserved[owner] = held_bytes + length, held_fragments + 1
        return None

    # -- in a worker ------------------------------------------------------------------------------------------

    def _read(self, owner: OwnerId, request: wire.Get) -> Leaves:
        return self._shelf.get(owner, FragmentName(request.name), request.first, request.count, hashes=request.hashes)

    def _store_fragment(
        self,
        owner: OwnerId,
        request: wire.Put,
        body: bytes | memoryview,
        over: tuple[int, int],
        old_s: int,
        yielding: Sequence[OwnerId],
    ) -> None:
        """Put a fragment; old trash yields to it where the quota is exceeded by so much, or the disk is full.

        A full disk is what those yield to as well whose contract ended long ago.
        """
        wanted = max(over[0], len(body) - self._shelf.free_bytes())
        if wanted > 0 or over[1] > 0:
            self._shelf.empty_trash(owner, wanted, over[1], old_s)
        for ended in yielding:
            missing = len(body) - self._shelf.free_bytes()
            if missing <= 0:
                break
            dropped = self._shelf.drop(ended, missing)
            log.warning("%d bytes of owner %s, whose contract has ended, yield to others", dropped, short(ended))
        self._shelf.put(owner, FragmentName(request.name), Root(request.root), body)

    def _free_bytes(self, yielding: Sequence[OwnerId]) -> int:
        return self._shelf.free_bytes() + sum(self._shelf.used(owner)[0] for owner in yielding)

    def _discard(self, owner: OwnerId, names: Iterable[bytes], now_s: int) -> int:
        return sum(self._shelf.delete(owner, FragmentName(name), now_s=now_s) for name in names)

    def _old_s(self) -> int:
        """What was deleted before this date yields."""
        return self._trash_age.before_s(self._now_s(), self._wall.awake_s())

    def _now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000


def _refusal(caller: Certificate, request: wire.Request, error: BitdustError) -> Refusal:
    """What the caller is told of an error of the shelf; what only we may know is logged."""
    code, text = next((code, text) for kind, code, text in _REFUSALS if isinstance(error, kind))
    if isinstance(error, BadFormat) and isinstance(request, wire.Get):
        code, text = Refused.NOT_FOUND, "that fragment any more: it is damaged"  # it will not get better
    if not isinstance(error, NotFound):
        log.warning("refused a %s of owner %s: %s", type(request).__name__, short(caller.owner), error)
    return Refusal(code, text)
