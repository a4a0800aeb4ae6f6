"""Suppliers: the customer's side of the network. One kept connection for each hired supplier.

Each supplier has one task that dials, greets, asks for room (STAT), and then keeps the connection until it ends; it
waits longer after each failure, with jitter, so that a supplier who comes back is not met by everybody at once.
`nudge` makes all of them try at once. A connection that the supplier dialled serves as well (`adopt`): only one of
two friends must be reachable. While both sides have dialled, requests take the one that stays (engine/connections).

A supplier is *online* while it has a connection on which STAT was answered. Requests to one that is not end at once
with PeerGone: nothing here ever waits for a connection but `wait_for_expected`, for who reads right after the start.
What goes wrong in one supplier's task stays there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final

import trio

from bitdustfs.core import contract, wire
from bitdustfs.core.addresses import has_zone
from bitdustfs.core.agreement import Wish
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.fragment import HASH_BYTES, leaf_count
from bitdustfs.core.head import LINK_BYTES
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.bulk import Carrier
from bitdustfs.engine.caller import DIAL_S, Caller
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.connections import settle
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.hiring import agree, hire
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.relation import (
    BACKOFF_CAP_S,
    BACKOFF_S,
    STEADY_S,
    Relation,
    end_when_silent,
    jittered_s,
    until_doubtful,
)
from bitdustfs.errors import NodeRevoked, PeerError, PeerFull, PeerGone, ProtocolViolation
from bitdustfs.model import LEAF_BYTES, FragmentName, NodeId, OwnerId, Root, Supplier, SupplierNo, short
from bitdustfs.ports import Dialer, Entropy, Leaves, Wall

log = logging.getLogger(__name__)

FIRST_DIALS_S: Final = 10.0  # (tune) from the start on; who was not reached by then is away, as at any other time
PING_S: Final = 30  # (tune) how often a supplier is asked for its room, which shows too that it lives
FULL_S: Final = 1.0  # (tune) then who had no room is asked again; doubles: he may be making room for us just now
_NEW = SupplierNo(0)


class Suppliers:
    """The hired suppliers of one volume.

    Args:
        handler: who answers what suppliers ask of us on these connections; None: everything is refused.
        clerk: keeps the contracts; None: they are forgotten with the process.
        caller: dials, with its own handler, memory and pacer, for a process that does more than this.
        head_version: of the newest head that we know; set `head_version` when there is a newer one. Suppliers that
            know a newer one refuse to let fragments go, and to take any if another node signed it.
        ping_s: how often each is asked for its room; less than the patience with it, or it is given up unasked.

    Attributes:
        goes_over: who knows which newer head that our next one goes over. They take what that will name. To let
            things go we say our own version all the same: until they have it, whoever writes on there may need them.
    """

    def __init__(
        self,
        identity: Identity,
        dialer: Dialer,
        suppliers: Iterable[Supplier],
        *,
        entropy: Entropy,
        wall: Wall,
        handler: Handler | None = None,
        memory: Memory | None = None,
        pacer: Pacer | None = None,
        caller: Caller | None = None,
        clerk: Clerk | None = None,
        head_version: int = 0,
        ping_s: float = PING_S,
    ) -> None:
        self._ping_s = ping_s
        self._identity = identity
        self._dialer = dialer
        self._entropy = entropy
        self.clerk = clerk or Clerk(identity, None, crunch=None, wall=wall)
        self._caller = caller or Caller(identity, dialer, handler=handler, memory=memory, pacer=pacer)
        self._caller.acquaintances.add(self.owner_of)
        self._connections = self._caller.connections
        self.pacer = self._caller.pacer
        self.head_version = head_version
        self.goes_over: dict[SupplierNo, int] = {}
        self._relations = {row.supplier: Relation(row) for row in suppliers}
        self.on_lost: Callable[[SupplierNo], None] = lambda _supplier: None  # it found some of ours damaged
        self.on_address: Callable[[SupplierNo, str], None] = lambda _supplier, _address: None  # it answers there now
        self.on_connected: list[Callable[[SupplierNo], None]] = []  # requests take another connection
        self.on_change: Callable[[], None] = lambda: None  # a supplier came, went, or tells of something else
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._starts_until = inf  # trio time, once it runs

    # -- which there are --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection to each supplier until cancelled."""
        self._starts_until = trio.current_time() + FIRST_DIALS_S
        self._note_change()
        try:
            async with trio.open_nursery() as self._nursery:
                for relation in self._relations.values():
                    self._nursery.start_soon(self._keep, relation)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def add(self, row: Supplier) -> None:
        """Take on a supplier, or take over a changed row of one."""
        known = self._relations.get(row.supplier)
        if known is not None:
            if row.address != known.row.address:
                known.dialling.cancel()  # whoever is there now may never answer
            known.row = row
            self._wake(known)
            return
        relation = self._relations[row.supplier] = Relation(row)
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, relation)
        self._note_change()

    def remove(self, supplier: SupplierNo) -> None:
        """Give up a supplier and its connection. What it holds stays there."""
        relation = self._relations.pop(supplier, None)
        if relation is not None:
            relation.removed.set()
            peer, relation.carrier = relation.peer, None
            if peer is not None and self._connections.is_dialled(peer):
                peer.end(PeerGone(peer=relation, what="it is no supplier of ours any more"))
            self._wake(relation)
            self._note_change()

    def used(self, owner: OwnerId) -> tuple[int, int]:
        """Bytes and fragments that we store with an owner, as they were told last."""
        held = [relation.used for relation in self._relations.values() if relation.row.owner == owner]
        return sum(each[0] for each in held), sum(each[1] for each in held)

    def binding(self, owner: OwnerId) -> Sequence[Contract]:
        """The contracts with an owner; see `Clerk.binding`."""
        return self.clerk.binding(owner)

    def dials(self, node: NodeId) -> bool:
        """Say whether a node is a supplier that is dialled here."""
        is_known = self._caller.whereabouts is not None and bool(self._caller.whereabouts.book.places(node))
        return any(r.row.node == node and (r.row.address or is_known) for r in self._relations.values())

    def knows(self, owner: OwnerId) -> bool:
        """Say whether a supplier belongs to this owner."""
        return any(r.row.owner == owner for r in self._relations.values())

    def online(self) -> tuple[SupplierNo, ...]:
        """The suppliers that answer now, by number."""
        return tuple(sorted(no for no, r in self._relations.items() if r.peer is not None and not r.peer.ended))

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]:
        """(free bytes, free fragments) at each supplier as last known, online or not."""
        return {no: relation.free for no, relation in self._relations.items()}

    def take_speeds(self) -> Mapping[SupplierNo, float]:
        """Bytes a second, the best since this was asked last, of suppliers that moved something."""
        speeds = {no: relation.bytes_per_s for no, relation in self._relations.items() if relation.bytes_per_s}
        for relation in self._relations.values():
            relation.bytes_per_s = 0.0
        return speeds

    def quiet_s(self, supplier: SupplierNo) -> float:
        """How long not a byte has come from a supplier that owes an answer; 0 without a connection."""
        relation = self._relations.get(supplier)
        return relation.carrier.quiet_s if relation is not None and relation.carrier is not None else 0.0

    def way_s(self, supplier: SupplierNo) -> float:
        """The shortest time there and back that was seen on a supplier's connection; 0: none was."""
        relation = self._relations.get(supplier)
        shortest = relation.peer.round_trip_s if relation is not None and relation.peer is not None else inf
        return shortest if shortest < inf else 0.0

    def pushed_at(self, supplier: SupplierNo) -> float:
        """When a part of what is put there last left for a supplier, or had to wait for our own limit."""
        relation = self._relations.get(supplier)
        return relation.carrier.pushed_at if relation is not None and relation.carrier is not None else -inf

    def says(self, supplier: SupplierNo) -> int:
        """The version of the head that goes with what is put there."""
        return max(self.head_version, self.goes_over.get(supplier, 0))

    def is_held_back(self) -> bool:
        """Whether what has come, or what we ask, waits for our own limit."""
        return self.pacer.down.is_crowded or self.pacer.up.is_crowded

    def revoked_in(self) -> Mapping[SupplierNo, int]:
        """The suppliers that have proven that this node was revoked, and in which epoch."""
        return {no: relation.revoked_in for no, relation in self._relations.items() if relation.revoked_in}

    def doubt(self, supplier: SupplierNo) -> None:
        """Ping a supplier now, and end the connection if it does not answer."""
        relation = self._relations.get(supplier)
        if relation is not None:
            relation.patience.cancel()

    def nudge(self) -> None:
        """Try every supplier that is not connected at once, and ask those for room that had none."""
        for relation in self._relations.values():
            self._wake(relation)

    def learnt(self, node: NodeId) -> None:
        """Take in that a node says where it can be dialled now."""
        for relation in self._relations.values():
            if relation.row.node != node:
                continue
            peer = relation.peer
            if peer is None:
                relation.dialling.cancel()  # where it was, it is perhaps not any more
                self._wake(relation)
            else:
                self._check_address(relation, peer)

    def owner_of(self, node: NodeId) -> OwnerId | None:
        """Whose a supplier is."""
        return next((r.row.owner for r in self._relations.values() if r.row.node == node), None)

    async def wait_for_change(self) -> None:
        """Wait until a supplier comes, goes, or tells of other room."""
        await self._changed.wait()

    def expected(self) -> frozenset[SupplierNo]:
        """The suppliers that are, a moment after the start or before it, being dialled for the first time."""
        if trio.current_time() >= self._starts_until:
            return frozenset()
        return frozenset(no for no, relation in self._relations.items() if not relation.looked_for)

    async def wait_for_expected(self) -> None:
        """Wait for a change, and no longer than some are `expected`."""
        with trio.move_on_at(self._starts_until):
            await self.wait_for_change()

    def adopt(self, peer: Peer) -> bool:
        """Use a greeted connection with a supplier that is not dialled here. False: it is none of ours, or surplus.

        The caller runs the peer.
        """
        relation = next((r for r in self._relations.values() if r.is_with(peer)), None)
        if relation is None or self._nursery is None:
            return False
        if not self._may_use(relation, peer):
            relation.patience.cancel()  # why does it dial? The connection that is used may be dead
            return False
        if not self._connections.prefers_own(peer.node):
            relation.dialling.cancel()
        self._nursery.start_soon(self._use_adopted, relation, peer)
        return True

    # -- requests -----------------------------------------------------------------------------------------------

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        """Store a fragment; returns when it is durable there. The caller sets the deadline, here and below.

        Raises:
            PeerGone, PeerFull, PeerRefused, PeerError, ProtocolViolation. HeadBehind: see `head_version`.
        """
        relation, carrier = self._connected(supplier)
        epoch, began = self._identity.certificate.epoch, trio.current_time()
        try:
            await carrier.put(wire.Put(name, root, len(body), epoch, self.says(supplier)), body)
        except PeerFull:
            relation.free = (0, 0)  # until the next STAT says better
            self._note_change()
            raise
        free_bytes, free_fragments = relation.free
        relation.free = max(0, free_bytes - len(body)), max(0, free_fragments - 1)
        relation.moved(len(body), trio.current_time() - began)

    async def get(self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        """Read leaves first … first+count−1 of a fragment. Lengths fit the request; the bytes are not checked.

        Raises:
            PeerLacks: it says that it does not have it. PeerGone, PeerRefused, PeerError, ProtocolViolation.
        """
        relation, carrier = self._connected(supplier)
        began = trio.current_time()
        found, body = await carrier.get(wire.Get(name, first, count, hashes))
        relation.moved(len(body), trio.current_time() - began)
        list_bytes = HASH_BYTES * leaf_count(found.length) if hashes else 0
        start = min(first * LEAF_BYTES, found.length)
        end = min(start + count * LEAF_BYTES, found.length)
        if found.hash_bytes != list_bytes or len(body) != list_bytes + end - start:
            violation = ProtocolViolation(
                peer=carrier.peer.label, what="an answer that does not have the length it says"
            )
            carrier.peer.end(violation)
            raise violation
        view = memoryview(body)
        return Leaves(found.length, bytes(view[:list_bytes]), view[list_bytes:])

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        """Let fragments go; ones that are not there are no error. Raises like `put`."""
        _relation, carrier = self._connected(supplier)
        for at in range(0, len(names), wire.MAX_NAMES):
            some = tuple(names[at : at + wire.MAX_NAMES])
            request = wire.Delete(some, self._identity.certificate.epoch, self.head_version)
            await carrier.peer.request(request, wire.Deleted)

    async def names(
        self, supplier: SupplierNo, after: bytes, limit: int = wire.MAX_NAMES
    ) -> Sequence[tuple[FragmentName, int]]:
        """(name, length) of our fragments there above `after`, in order of name."""
        _relation, carrier = self._connected(supplier)
        listed, _ = await carrier.peer.request(wire.List(after, limit), wire.Listed)
        return tuple((FragmentName(name), length) for name, length in listed.entries)

    async def head(self, supplier: SupplierNo) -> bytes:
        """The head that a supplier holds for us, not checked; b"": it holds none.

        Raises:
            PeerGone, PeerRefused, PeerError, ProtocolViolation.
        """
        _relation, carrier = self._connected(supplier)
        held, body = await carrier.peer.request(wire.GetHead(), wire.HeadIs)
        return bytes(body[: held.head_bytes])

    async def head_with_links(self, supplier: SupplierNo) -> tuple[bytes, bytes]:
        """The same, and the links of heads before it that the supplier keeps."""
        _relation, carrier = self._connected(supplier)
        held, body = await carrier.peer.request(wire.GetHead(), wire.HeadIs)
        return bytes(body[: held.head_bytes]), bytes(body[held.head_bytes :])

    async def watch(self, supplier: SupplierNo, epoch: int, version: int) -> tuple[int, int]:
        """Wait until a supplier holds a newer head than this one, or has said for a while that it does not.

        Returns:
            (epoch, version) of the head that it holds; zeros: none.
        Raises:
            PeerGone, PeerRefused, PeerError, ProtocolViolation.
        """
        _relation, carrier = self._connected(supplier)
        newest, _ = await carrier.peer.request(wire.Watch(epoch, version), wire.Newest)
        return newest.epoch, newest.version

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None:
        """Store a head; returns when it is durable there, also if it was there already.

        Args:
            links: of the versions between the one that the supplier holds and this one, oldest first.
        Raises:
            HeadBehind: it holds `detail`, as new or newer. HeadForked: it holds `detail`, from which these links do
                not lead here. NodeRevoked, PeerGone, PeerRefused, PeerError, ProtocolViolation.
        """
        _relation, carrier = self._connected(supplier)
        body = head + links
        if len(body) > wire.MAX_BODY_BYTES:
            what = f"it is {len(links) // LINK_BYTES} versions behind: more than one message can make up for"
            raise PeerError(peer=carrier.peer.label, what=what)
        request = wire.PutHead(len(head), self._identity.certificate.epoch)
        await carrier.peer.request(request, wire.Done, body)

    async def hold(self, supplier: SupplierNo, request: wire.Hold) -> wire.Holds:
        """Ask a supplier to let us hold the volume, or to say who does. Raises PeerError."""
        _relation, carrier = self._connected(supplier)
        held, _ = await carrier.peer.request(request, wire.Holds)
        return held

    async def stat(self, supplier: SupplierNo) -> wire.Status:
        """Ask a supplier for quota, use and room."""
        relation, carrier = self._connected(supplier)
        return await self._refresh(relation, carrier.peer)

    # -- hiring -------------------------------------------------------------------------------------------------

    async def hire(
        self, address: str, expected: NodeId, bytes_wanted: int, fragments_wanted: int = 0, *, label: str = ""
    ) -> Supplier:
        """Agree with a node on a contract that it keeps so much for us. Works with or without `run`.

        If we have one that grants exactly this, it stays. The caller sets the deadline and stores the row.

        Args:
            address: where to dial it if it is not connected; "": nowhere.
            fragments_wanted: 0: as many as fit the bytes.
        Returns:
            The supplier, numbered as the one that we had hired under this node id, else 0.
        Raises:
            PeerRefused: we are not on its list, or it gives less. PeerFull: it has no room.
            PeerGone, WrongPeer, OwnerChanged, ProtocolViolation.
        """
        fragments_wanted = fragments_wanted or contract.fragments_for(bytes_wanted)
        wish = Wish(needs_bytes=bytes_wanted, needs_fragments=fragments_wanted, until_s=0)
        connected = next(iter(self._connections.of(expected)), None)
        if connected is not None:
            peer, signed = connected, await agree(connected, self.clerk, wish)
        else:
            peer = await self._caller.dial(address, expected)
            signed = await hire(peer, self.clerk, wish)
        known = next((r.row for r in self._relations.values() if r.row.node == expected), None)
        return Supplier(
            supplier=known.supplier if known else _NEW,
            node=expected,
            owner=peer.owner,
            label=label or (known.label if known else short(expected)),
            address=address or (known.address if known else ""),
            contract=signed.raw,
            capacity_bytes=bytes_wanted,
            capacity_fragments=fragments_wanted,
            used_bytes=known.used_bytes if known else 0,
            used_fragments=known.used_fragments if known else 0,
        )

    # -- one supplier's task --------------------------------------------------------------------------------------

    async def _keep(self, relation: Relation) -> None:
        while not relation.removed.is_set():
            try:
                if relation.peer is None:
                    await self._connect_and_use(relation)
            except PeerError as error:
                log.debug("supplier %r: %s", relation, error)
            except Exception:  # a fault in one supplier's task must not end the others
                log.exception("the connection to supplier %r failed", relation)
            self._note_looked_for(relation)
            await self._pause(relation)

    async def _connect_and_use(self, relation: Relation) -> None:
        there = next(filter(relation.is_with, self._connections.of(relation.row.node)), None)
        if there is not None:  # since before it was a supplier, or dialled by it while nobody used it
            await self._use_adopted(relation, there)
            return
        with trio.move_on_after(DIAL_S) as relation.dialling:
            peer = await self._caller.reach(relation.row.node, last=relation.row.address)
        if relation.dialling.cancelled_caught:
            raise PeerGone(peer=relation, what=f"no answer in {DIAL_S} s, or it moved, or it dials us")
        self._note_address(relation, peer.address)
        async with self._caller.serving(peer):
            async with trio.open_nursery() as nursery:
                carrier = self._carrier(relation, peer)
                nursery.start_soon(carrier.run)
                await self._use(relation, carrier)
                nursery.cancel_scope.cancel()
            await settle(peer)  # if it gave way to another one

    async def _use_adopted(self, relation: Relation, peer: Peer) -> None:
        """Use a connection that is run elsewhere, and try again at once after it, but not after a short one:

        it would be answered in kind, by who is refused here, dials and hangs up, and both would do nothing else.
        """
        since = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                carrier = self._carrier(relation, peer)
                nursery.start_soon(carrier.run)
                await self._use(relation, carrier)
                nursery.cancel_scope.cancel()
        except Exception:  # as in `_keep`
            log.exception("the connection from supplier %r failed", relation)
        if trio.current_time() - since > STEADY_S:
            relation.wake.set()

    def _note_address(self, relation: Relation, address: str) -> None:
        if address and address != relation.row.address:
            relation.row = replace(relation.row, address=address)
            log.info("supplier %r is at %s now", relation, address)
            if not has_zone(address):  # it is good for this network now, and for nothing that is kept
                self.on_address(relation.row.supplier, address)

    def _check_address(self, relation: Relation, peer: Peer) -> None:
        """If it dialled us, what it says of itself is all that we know of where it is."""
        if self._caller.whereabouts is None or self._connections.is_dialled(peer):
            return
        places = self._caller.whereabouts.book.places(relation.row.node)
        if places and relation.row.address not in places:
            self._note_address(relation, places[0])

    def _carrier(self, relation: Relation, peer: Peer) -> Carrier:
        return Carrier(peer, self._identity, self._dialer, self._entropy, address=relation.row.address)

    async def _use(self, relation: Relation, carrier: Carrier) -> None:
        """Let requests use a running connection until it ends, or a better one is there.

        One on which the supplier refuses us stays open, and is tried again: it may be our customer.
        """
        peer = carrier.peer
        if peer in relation.tried:
            return
        relation.tried.add(peer)
        try:
            while peer.ended is None and not relation.removed.is_set():
                if await self._is_alive(relation, carrier):
                    if not self._may_use(relation, peer) or await self._use_while_alive(relation, carrier):
                        return
                elif peer.ended is None:
                    self._note_looked_for(relation)
                    with trio.move_on_after(jittered_s(relation.backoff_s, self._entropy)) as relation.patience:
                        await peer.closed.wait()
                    relation.backoff_s = min(relation.backoff_s * 2, BACKOFF_CAP_S)
        finally:
            relation.tried.discard(peer)

    async def _use_while_alive(self, relation: Relation, carrier: Carrier) -> bool:
        """Say whether another connection took over."""
        peer, was_online = carrier.peer, relation.peer is not None
        relation.carrier, relation.looked_for = carrier, True
        for tell in self.on_connected:
            tell(relation.row.supplier)
        self._check_address(relation, peer)
        relation.patience.cancel()  # of the one that was used so far
        since, is_alive, full_s = trio.current_time(), True, FULL_S
        try:
            if not was_online:
                log.info("supplier %r is online", relation)
            self._note_change()
            while is_alive and relation.carrier is carrier and not peer.closed.is_set():
                pause_s = self._ping_s
                if 0 in relation.free:
                    pause_s, full_s = min(pause_s, full_s), 2 * full_s
                with trio.move_on_after(pause_s) as relation.patience:
                    await until_doubtful(carrier)
                if relation.carrier is carrier:
                    is_alive = await self._is_alive(relation, carrier)
            if trio.current_time() - since > STEADY_S:
                relation.backoff_s = BACKOFF_S
            return relation.carrier is not carrier
        finally:
            if relation.carrier is carrier:
                relation.carrier = None
                log.info("supplier %r is offline: %s", relation, peer.ended or "it refuses us")
                self._note_change()

    def _may_use(self, relation: Relation, peer: Peer) -> bool:
        """Say whether requests should take this connection, and not the one that they take now."""
        used = relation.peer
        if used is None or used.ended is not None:
            return True
        is_own, used_is_own = self._connections.is_dialled(peer), self._connections.is_dialled(used)
        if is_own == used_is_own:
            return not is_own and used is not peer  # who dials again has lost the one before
        return is_own == self._connections.prefers_own(peer.node)

    async def _is_alive(self, relation: Relation, carrier: Carrier) -> bool:
        """Ask for the room, and end the connection when nothing moves meanwhile, there or beside it."""
        alive = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_when_silent, carrier)
            try:
                await self._refresh(relation, carrier.peer)
                alive = True
                if relation.revoked_in:
                    relation.revoked_in = 0
                    self._note_change()
            except NodeRevoked as error:
                if not relation.revoked_in:
                    log.warning("supplier %r: %s", relation, error)
                relation.revoked_in = error.detail
                carrier.peer.end(error)
                self._note_change()
            except PeerError as error:
                log.debug("supplier %r: %s", relation, error)
                if "code" not in error.facts:  # no refusal: it is gone, or talks nonsense
                    carrier.peer.end(error)
            nursery.cancel_scope.cancel()
        return alive

    async def _refresh(self, relation: Relation, peer: Peer) -> wire.Status:
        status, _ = await peer.request(wire.Stat(), wire.Status)
        free = (
            max(0, min(status.quota_bytes - status.used_bytes, status.free_bytes)),
            max(0, status.quota_fragments - status.used_fragments),
        )
        relation.used = status.used_bytes, status.used_fragments
        if free != relation.free:
            relation.free = free
            self._note_change()
        if status.lost > relation.lost:
            log.info("supplier %r has found %d fragments damaged", relation, status.lost - relation.lost)
            self.on_lost(relation.row.supplier)
        relation.lost = status.lost  # less: it was started again
        return status

    async def _pause(self, relation: Relation) -> None:
        """Wait before the next try, unless somebody nudges."""
        relation.wake = trio.Event()
        with trio.move_on_after(jittered_s(relation.backoff_s, self._entropy)):
            await relation.wake.wait()
        relation.backoff_s = min(relation.backoff_s * 2, BACKOFF_CAP_S)

    def _connected(self, supplier: SupplierNo) -> tuple[Relation, Carrier]:
        relation = self._relations.get(supplier)
        if relation is None:
            raise PeerGone(peer=f"supplier {supplier}", what="it is not hired")
        if relation.carrier is None:
            raise PeerGone(peer=relation, what="there is no connection now")
        return relation, relation.carrier

    def _wake(self, relation: Relation) -> None:
        relation.backoff_s = BACKOFF_S
        if relation.peer is None or 0 in relation.free:
            relation.patience.cancel()
        relation.wake.set()

    def _note_looked_for(self, relation: Relation) -> None:
        if not relation.looked_for:
            relation.looked_for = True
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.on_change()
