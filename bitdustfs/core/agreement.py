"""Agreements: the contracts of two owners that hold now or will, and what speaks against a new one. Pure.

Each contract follows the one before, and holds from its `since` on, until a later one begins or its own `until`. So a
change for the worse is a contract with a `since` to come: until then the one before holds. Either side may propose
the next; what one may not take from the other at once comes with notice:

* to give less than what the other stores, and to end: NOTICE_S after it is said, at the earliest;
* to give more, to need less: at once; to need more: as far as the other allows it.

Who is not answered can still end: a notice of our own, which the other side has not signed, binds us from its date on
(`with_notice`). After the end what was stored stays, can be read, and yields after a grace, to space needed only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from bitdustfs.core import contract
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.contract import NO_CONTRACT, NO_NODE, Allowance, Contract, Party, Terms
from bitdustfs.core.grace import DAY_S, NOTICE_S
from bitdustfs.errors import BadFormat
from bitdustfs.model import NodeId, OwnerId

SKEW_S: Final = 3600  # two clocks may differ by so much
LATEST_S: Final = 400 * DAY_S  # no contract begins later than this
MAX_SKIPPED: Final = 1 << 40  # serials, from one contract to the next: a thief has to have 2^23 contracts signed
MAX_COMING: Final = 3  # contracts that do not hold yet
MAX_HELD: Final = 1 + MAX_COMING


@dataclass(frozen=True, slots=True)
class Wish:
    """What one side wants the next contract to say. None: what the newest one says."""

    gives_bytes: int | None = None  # by us, to the other
    needs_bytes: int | None = None  # from the other
    needs_fragments: int | None = None  # None: as many as fit the bytes, where they change
    until_s: int | None = None  # 0: open-ended
    since_s: int | None = None  # None: as soon as the rules allow


@dataclass(frozen=True, slots=True)
class Agreement:
    """Contracts signed by both, by serial; the last is the newest, and one at most holds already."""

    contracts: tuple[Contract, ...]

    @property
    def newest(self) -> Contract:
        return self.contracts[-1]

    @property
    def raws(self) -> tuple[bytes, ...]:
        """As they are shown to the other side and kept."""
        return tuple(each.raw for each in self.contracts)

    def in_force(self, now_s: int) -> Contract | None:
        """The one that holds now, also if it has ended."""
        begun = [each for each in self.contracts if each.terms.since_s <= now_s + SKEW_S]
        return begun[-1] if begun else None

    def coming(self, now_s: int) -> Contract | None:
        """The next one that will hold."""
        return next((each for each in self.contracts if each.terms.since_s > now_s + SKEW_S), None)

    def allowance(self, owner: OwnerId, shelf: NodeId, now_s: int) -> Allowance | None:
        """What `owner` may store on the node `shelf` now, or could until it ended."""
        held = self.in_force(now_s)
        return held.allowance(owner, shelf) if held is not None else None

    def followed_by(self, signed: Contract, now_s: int) -> Agreement:
        """The same with a newer contract, and without those that it or another one has put out of force."""
        held = self.in_force(now_s)
        kept = [each for each in self.contracts if held is None or each.terms.serial >= held.terms.serial]
        if signed.terms.since_s <= now_s + SKEW_S:
            kept = []
        digests = [each.digest for each in kept]
        if signed.terms.previous in digests:
            kept = kept[: digests.index(signed.terms.previous) + 1]
        return Agreement((*kept[-MAX_COMING:], signed))


def parse(raws: Sequence[bytes]) -> Agreement:
    """Read what is kept or was shown. Raises BadFormat."""
    contracts = tuple(contract.parse(raw) for raw in raws)
    serials = [each.terms.serial for each in contracts]
    if not contracts or len(contracts) > MAX_HELD or serials != sorted(set(serials)):
        raise BadFormat(what="contracts do not follow each other")
    if not all(each.is_signed_by_both for each in contracts):
        raise BadFormat(what="a contract is not signed by both")
    return Agreement(contracts)


def split(raw: bytes) -> tuple[bytes, ...]:
    """Cut contracts that lie behind one another."""
    size = contract.CONTRACT_BYTES
    return tuple(raw[at : at + size] for at in range(0, len(raw), size))


def is_chain(shown: Agreement) -> bool:
    """Say whether each contract follows the one before: none that was put out of force comes before one to come."""
    return all(after.terms.previous == before.digest for before, after in pairwise(shown.contracts))


def is_newer(shown: Agreement, held: Agreement | None) -> bool:
    """Say whether to take what the other side shows in the place of what is held.

    Two contracts with one serial are both signed by both: each side had proposed one, and a crash forgot that. Then
    the one with the smaller digest counts, on both sides. What a node of an older epoch has signed than the one that
    signed what is held is never taken: it may be stolen, and his friend a thief's.
    """
    if held is None:
        return True
    ours, theirs = held.newest, shown.newest
    before, after = _epochs(ours), _epochs(theirs)
    if any(after.get(owner, 0) < epoch for owner, epoch in before.items()):
        return (
            False  # a node signed it that was revoked before it did, or others of its epoch have put it out of force
        )
    if ours.terms.serial == theirs.terms.serial:
        return theirs.digest < ours.digest
    return theirs.terms.serial > ours.terms.serial


def party_of(held: Contract, owner: OwnerId) -> Party:
    """The side of an owner."""
    return held.terms.first if held.terms.first.owner == owner else held.terms.second


def is_orphaned(held: Contract, own: Certificate) -> bool:
    """Say whether what our owner gives by a contract is on a node that was revoked: this one is to take its place."""
    we = party_of(held, own.owner)
    return we.gives_bytes > 0 and we.shelf != own.node and _epochs(held).get(own.owner, 0) < own.epoch


def is_heir(held: Contract, caller: Certificate, shelf: NodeId) -> bool:
    """Say whether a node may put its own shelf in the place of that which a contract names: its owner has revoked
    the nodes that signed it. Nobody loses by that what is not lost."""
    return shelf == caller.node and _epochs(held).get(caller.owner, 0) < caller.epoch


def next_terms(
    held: Contract | None,
    us: tuple[OwnerId, NodeId],
    them: tuple[OwnerId, NodeId],
    wish: Wish,
    *,
    now_s: int,
    used: tuple[int, int],
    in_force: Contract | None = None,
    serial: int = 0,
    is_heir: bool = False,
) -> Terms:
    """What we propose: the newest contract with a wish put over it.

    Args:
        serial: at least this one.
        is_heir: what we give is on our node from now on, and not where it was (`is_orphaned`).
        in_force: the contract that holds now, if the newest does not yet. What is given less from a date on is not
            given less before it.
        used: bytes and fragments that they store here: what we may not go below without notice.
    """
    we_were = party_of(held, us[0]) if held else Party(*us)
    they_were = party_of(held, them[0]) if held else Party(*them)
    we = _giving(Party(*us), we_were, us[1], wish.gives_bytes, None)
    they = _giving(Party(*them), they_were, them[1], wish.needs_bytes, wish.needs_fragments)
    if is_heir and we.gives_bytes:
        we = replace(we, shelf=us[1])
    until_s = held.terms.until_s if held and wish.until_s is None else wish.until_s or 0
    terms = Terms(
        serial=max(serial, held.terms.serial + 1 if held else 1),
        previous=held.digest if held else NO_CONTRACT,
        since_s=now_s,
        until_s=until_s,
        first=we,
        second=they,
    )
    if wish.since_s is not None:
        terms = replace(terms, since_s=max(now_s, wish.since_s))
    elif held and _is_less(we, we_were) and (used[0] > we.gives_bytes or used[1] > we.gives_fragments):
        terms = replace(terms, since_s=now_s + NOTICE_S)
    if held and in_force and any(_is_less(party, party_of(in_force, party.owner)) for party in (we, they)):
        terms = replace(terms, since_s=max(terms.since_s, held.terms.since_s))
    return terms


def is_granted(held: Contract | None, terms: Terms) -> bool:
    """Say whether the newest contract says already what is wished."""
    if held is None:
        return False
    old = held.terms
    same = {_gift(old.first), _gift(old.second)} == {_gift(terms.first), _gift(terms.second)}
    return same and old.until_s == terms.until_s


def takes_away(held: Contract, terms: Terms, owner: OwnerId) -> bool:
    """Say whether terms give `owner` less than the newest contract: less room, or an earlier end."""
    before, after = held.terms, terms
    giver_before = before.second if before.first.owner == owner else before.first
    giver_after = after.second if after.first.owner == owner else after.first
    return _is_less(giver_after, giver_before) or ends_earlier(after.until_s, before.until_s)


def breaks_notice(
    held: Contract,
    terms: Terms,
    owner: OwnerId,
    *,
    used: tuple[int, int],
    now_s: int,
    in_force: Contract | None = None,
    is_heir: bool = False,
) -> str:
    """What is taken from `owner` too early; "": nothing.

    Args:
        in_force: the contract that holds now, if the newest does not yet.
        used: what he stores there: below that nobody goes without notice.
        is_heir: the other node than before may take its place (`is_heir`).
    """
    soonest_s = now_s + NOTICE_S - SKEW_S
    before, after = held.terms, terms
    was = before.second if before.first.owner == owner else before.first
    will = after.second if after.first.owner == owner else after.first
    too_small = used[0] > will.gives_bytes or used[1] > will.gives_fragments
    moved = will.gives_bytes > 0 and was.gives_bytes > 0 and will.shelf != was.shelf and not is_heir
    cut_short = (
        in_force is not None
        and too_small
        and terms.since_s < before.since_s
        and _is_less(will, party_of(in_force, will.owner))
    )
    if ((_is_less(will, was) and too_small) or moved or cut_short) and terms.since_s < soonest_s:
        return f"less than is stored needs a notice of {NOTICE_S // DAY_S} days"
    if ends_earlier(after.until_s, before.until_s) and after.until_s < soonest_s:
        return f"the end needs a notice of {NOTICE_S // DAY_S} days"
    return ""


def ends_earlier(after_s: int, before_s: int) -> bool:
    """Say whether one end is before another; 0 is never."""
    return bool(after_s) and (not before_s or after_s < before_s)


def with_notice(held: Allowance, notice: Contract, owner: OwnerId, shelf: NodeId, now_s: int) -> Allowance:
    """What an owner may store when we have given a notice that he has not signed."""
    given = next(
        (p for p in (notice.terms.first, notice.terms.second) if p.owner != owner and p.shelf == shelf), None
    )
    less = held
    if notice.terms.since_s <= now_s:
        gives = (given.gives_bytes, given.gives_fragments) if given is not None else (0, 0)
        less = replace(held, bytes=min(held.bytes, gives[0]), fragments=min(held.fragments, gives[1]))
    if ends_earlier(notice.terms.until_s, held.until_s):
        less = replace(less, until_s=notice.terms.until_s)
    return less


def _giving(party: Party, before: Party, node: NodeId, wanted: int | None, fragments: int | None) -> Party:
    """What a side gives: as before, or so many bytes on its node."""
    if wanted is None or (wanted == before.gives_bytes and fragments in (None, before.gives_fragments)):
        shelf = before.shelf
        return replace(party, gives_bytes=before.gives_bytes, gives_fragments=before.gives_fragments, shelf=shelf)
    if not wanted:
        return replace(party, gives_bytes=0, gives_fragments=0, shelf=NO_NODE)
    count = fragments or contract.fragments_for(wanted)
    return replace(party, gives_bytes=wanted, gives_fragments=count, shelf=node)


def _gift(party: Party) -> tuple[OwnerId, int, int, NodeId]:
    return party.owner, party.gives_bytes, party.gives_fragments, party.shelf


def _epochs(signed: Contract) -> Mapping[OwnerId, int]:
    return {signer.owner: signer.epoch for signer in signed.signers}


def _is_less(after: Party, before: Party) -> bool:
    return after.gives_bytes < before.gives_bytes or after.gives_fragments < before.gives_fragments
