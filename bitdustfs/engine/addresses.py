"""The address book: the newest signed record of each partner, and our own.

Only what the node itself signed counts, and of that the highest sequence number, whoever brought it. A record that is
over is not handed on any more, but still says where to dial: who answers there is checked by its key.

Nothing here waits: `run` stores in the background what was learnt. What a crash takes, a partner tells again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final

import trio

from bitdustfs.core import addresses, record
from bitdustfs.core.certificate import Identity
from bitdustfs.core.record import DAY_S, MAX_LIFETIME_S, Record, RecordKind
from bitdustfs.errors import BadFormat, BitdustError
from bitdustfs.model import NodeId, OwnerId, short
from bitdustfs.ports import AddressStore, Crunch, Wall

log = logging.getLogger(__name__)

MAX_NODES: Final = 1024  # kept; 1.1 MiB on disk
OWNERS_NODES: Final = 8  # of one owner
MAX_NEARBY: Final = 4  # of one node
WRONG_S: Final = 600.0  # so long an address where another node answered comes last
LIFETIME_S: Final = MAX_LIFETIME_S[RecordKind.NODE]
RENEW_S: Final = LIFETIME_S - DAY_S  # our own is signed anew every day: who was told last week still has a good one
SAVE_EVERY_S: Final = 1.0  # at most so often something is written, however often peers tell
RETRY_S: Final = 60.0  # when the disk does not take it


class AddressBook:
    """Where nodes are.

    Args:
        store: what an earlier process knew; it gets what this one learns.
        keeps: whether the addresses of a node of this owner are any business of ours.

    Attributes:
        on_learnt: called with each node of which something new was learnt.
        on_own: called when our own record is another one.
    """

    def __init__(
        self,
        identity: Identity,
        store: AddressStore,
        wall: Wall,
        crunch: Crunch,
        *,
        keeps: Callable[[NodeId, OwnerId], bool],
    ) -> None:
        self._identity = identity
        self._store = store
        self._wall = wall
        self._crunch = crunch
        self._keeps = keeps
        self._known: dict[NodeId, tuple[OwnerId, Record]] = {}
        self._nearby: dict[NodeId, dict[str, None]] = {}
        self._wrong: dict[tuple[NodeId, str], float] = {}
        self._unsaved: dict[NodeId, None] = {}
        self._waits = trio.Event()
        self.on_learnt: list[Callable[[NodeId], None]] = []
        self.on_own: list[Callable[[], None]] = []
        for owner, raw in store.load(MAX_NODES):
            try:
                found = record.parse(raw)
                addresses_of = record.addresses_of(found)
            except BadFormat as bad:
                log.warning("a stored address record of owner %s is left out: %s", short(owner), bad)
                continue
            log.debug("node %s was at %s", short(found.signer), ", ".join(addresses_of))
            self._known[found.signer] = owner, found

    # -- our own --------------------------------------------------------------------------------------------------

    @property
    def own(self) -> Record | None:
        """Our record. None: `announce` was never called."""
        _owner, found = self._known.get(self._identity.node, (None, None))
        return found

    def announce(self, places: Iterable[str]) -> bool:
        """Say where we can be dialled now; none: nowhere. Returns whether our record is another one.

        Call it every hour or so too: a record does not last.
        """
        told, now_s, before = tuple(places), self._now_s(), self.own
        if before is not None and record.addresses_of(before) == told and before.is_valid(now_s + RENEW_S):
            return False
        sequence = max(now_s, before.sequence + 1 if before is not None else 1)
        signed = record.sign_addresses(self._identity.key, told, sequence=sequence, expiry_s=now_s + LIFETIME_S)
        self._put(self._identity.owner, signed)
        level = logging.INFO if before is not None else logging.DEBUG  # the first time it is no news
        log.log(level, "this node can be dialled at %s", ", ".join(told) or "no address")
        for call in self.on_own:
            call()
        return True

    # -- others -----------------------------------------------------------------------------------------------------

    def learn(self, found: Record, owner: OwnerId, *, by_itself: bool = False) -> bool:
        """Take in a verified record of a node. Returns whether it says something new of a node that we keep.

        Args:
            owner: of the node, as its certificate says.
            by_itself: the node that signed it told it, over a connection that proves that: then it may be over, for
                clocks differ.
        """
        node = found.signer
        if found.kind is not RecordKind.NODE or node == self._identity.node or not self._keeps(node, owner):
            return False
        before = self.record(node)
        if before is not None and before.sequence >= found.sequence:
            return False
        if not by_itself and not found.is_valid(self._now_s()):
            return False
        self._make_room(node, owner)
        self._put(owner, found)
        was, is_now = record.addresses_of(before) if before is not None else None, record.addresses_of(found)
        if was != is_now:
            log.debug("node %s is at %s now", short(node), ", ".join(is_now) or "no address")
            for address in is_now:
                if address not in (was or ()):
                    self._wrong.pop((node, address), None)
            self._note_learnt(node)
        return True

    def record(self, node: NodeId) -> Record | None:
        """The newest record that we know of a node, over or not."""
        _owner, found = self._known.get(node, (None, None))
        return found

    def owner_of(self, node: NodeId) -> OwnerId | None:
        """Whose a node is of which we have a record."""
        owner, _found = self._known.get(node, (None, None))
        return owner

    def shown(self, node: NodeId) -> bytes:
        """The record of a node as it is handed on; b"": we have none that is good, or it is no partner any more."""
        owner, found = self._known.get(node, (None, None))
        if owner is None or found is None or not found.is_valid(self._now_s()):
            return b""
        return found.raw if node == self._identity.node or self._keeps(node, owner) else b""

    def others_s(self) -> int:
        """How late it is at least by the clock of somebody else, who signs his addresses anew each day; 0: unknown.

        What is signed ahead of our own clock says nothing: so two clocks have to agree on what follows from this.
        """
        us, now_s = self._identity.owner, self._now_s()
        dates = (record.signed_s(found) for owner, found in self._known.values() if owner != us)
        return max((each for each in dates if each <= now_s + record.CLOCK_SLACK_S), default=0)

    def nodes(self) -> Sequence[tuple[NodeId, OwnerId]]:
        """The other nodes of which we have a record."""
        return [(node, owner) for node, (owner, _) in self._known.items() if node != self._identity.node]

    def places(self, node: NodeId, *, last: str = "") -> tuple[str, ...]:
        """Where to dial a node, in this order.

        Args:
            last: where it answered last, as far as the caller knows.
        """
        found = self.record(node)
        recorded = record.addresses_of(found) if found is not None else ()
        now = trio.current_time()
        wrong = [address for (of, address), until in self._wrong.items() if of == node and until > now]
        return addresses.to_dial(last, self._nearby.get(node, ()), recorded, wrong=wrong)

    def note_wrong(self, node: NodeId, address: str) -> None:
        """Somebody else answered there."""
        log.info("another node than %s answers at %s: it is tried last", short(node), address)
        self._wrong.pop((node, address), None)
        self._wrong[node, address] = trio.current_time() + WRONG_S
        while len(self._wrong) > MAX_NODES:
            del self._wrong[next(iter(self._wrong))]

    def note_nearby(self, node: NodeId, address: str) -> None:
        """It was seen there in our own network, just now; nobody signed that."""
        seen = self._nearby.setdefault(node, {})
        seen.pop(address, None)
        self._nearby[node] = {address: None, **dict(list(seen.items())[: MAX_NEARBY - 1])}  # the newest first
        while len(self._nearby) > MAX_NODES:
            del self._nearby[next(iter(self._nearby))]
        self._note_learnt(node)

    def forget_nearby(self) -> None:
        """We are in another network now: at those addresses are others."""
        self._nearby.clear()

    # -- the store ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store what is learnt, until cancelled."""
        while True:
            await self._waits.wait()
            self._waits = trio.Event()
            pause_s = SAVE_EVERY_S
            while self._unsaved:
                node = next(iter(self._unsaved))
                del self._unsaved[node]
                try:
                    await self._crunch.run(self._write, node)
                except BitdustError as error:
                    log.warning("the addresses of node %s are not stored: %s", short(node), error)
                    self._unsaved[node] = None
                    self._waits.set()
                    pause_s = RETRY_S
                    break
            await trio.sleep(pause_s)

    def _write(self, node: NodeId) -> None:
        """In a worker."""
        known = self._known.get(node)
        if known is None:
            self._store.drop(node)
        else:
            owner, found = known
            self._store.save(node, owner, found.raw)

    def _put(self, owner: OwnerId, found: Record) -> None:
        self._known[found.signer] = owner, found
        self._note_unsaved(found.signer)

    def _make_room(self, node: NodeId, owner: OwnerId) -> None:
        """Forget the records that end first, where there are too many."""
        if node in self._known:
            return
        of_owner = [each for each, (its, _) in self._known.items() if its == owner]
        others = [each for each in self._known if each != self._identity.node]
        for group, limit in ((of_owner, OWNERS_NODES), (others, MAX_NODES)):
            for each in sorted(group, key=self._expiry_s)[: max(0, len(group) + 1 - limit)]:
                if each in self._known and each != self._identity.node:
                    del self._known[each]
                    self._nearby.pop(each, None)
                    self._note_unsaved(each)

    def _expiry_s(self, node: NodeId) -> float:
        found = self.record(node)
        return found.expiry_s if found is not None else inf

    def _note_unsaved(self, node: NodeId) -> None:
        self._unsaved[node] = None
        self._waits.set()

    def _note_learnt(self, node: NodeId) -> None:
        for call in self.on_learnt:
            call(node)

    def _now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000
