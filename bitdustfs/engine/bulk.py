"""Bulk connections: where fragments travel, beside the connection that everything else takes.

    asker                             TLS                            answerer
    BULK, key of the asker  ------------------------------>  Door: a seat? a ticket
                            <------------------------------  TICKET, ticket, key of the answerer
    dial, show the ticket   ---------- another TCP connection ----------->  accept_bulk
    PUT, GET                ---------------------------------------------->  the handler, as over TLS

A bulk connection is a link like any other (core/bulk has the frames), so a `Peer` runs on it: limits, budgets and
deadlines hold there too. It speaks for the node that proved itself in the TLS session, with that certificate, and is
a task of that session: it ends with it.

The asker has one for each direction, so that a read does not queue up behind what is being uploaded. It is opened
when it is first wanted and let go when nobody wants it. Until then, and whenever anything about it fails, requests
take the TLS session; PUT and GET may be asked twice, so one that was under way is simply asked again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.handler import Handler, RefuseAll
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.peer import Peer
from bitdustfs.errors import PeerError, PeerGone
from bitdustfs.model import LEAF_BYTES, BulkPass, OwnerId
from bitdustfs.ports import Dialer, Entropy, Listener

log = logging.getLogger(__name__)

TICKET_S: Final = 10  # how long a ticket is good
TICKET_BYTES: Final = 16
KEY_BYTES: Final = 32
OPEN_S: Final = 15  # dial, and prove both sides
FROM_BYTES: Final = 64 * 1024  # (tune) shorter bodies take the TLS session, where they overtake long ones
IDLE_S: Final = 60.0  # then it is let go: a connection that nobody uses may have died without a sign
SILENT_S: Final = 4.0  # a request that was given up, and nothing came for so long: the line is no good
DEAD_S: Final = 10.0  # as above, if the other connection brings something meanwhile: not the peer is silent
RETRY_S: Final = 1.0  # after the first failure; doubles
RETRY_CAP_S: Final = 300.0  # where bulk connections do not get through, TLS does the work
STEADY_S: Final = 10.0  # one that lived so long was good: the next failure is a first one
SEATS: Final = 32  # (tune) bulk connections of a process that others opened: each holds up to a frame of 1 MiB
OWNERS_SEATS: Final = 8  # of them for one owner

A = TypeVar("A", bound=wire.Answer)


class Carrier:
    """Asks one peer for what has long bodies: over bulk connections while there are, else over the peer itself.

    Args:
        peer: greeted and running. Without `run`, or if it offers no bulk connections, it carries everything.
        address: where to dial the node, whoever dialled the peer; "": nowhere.
    """

    def __init__(self, peer: Peer, identity: Identity, dialer: Dialer, entropy: Entropy, *, address: str) -> None:
        self.peer = peer
        self._puts = _Lane(peer, identity, dialer, entropy, address)
        self._gets = _Lane(peer, identity, dialer, entropy, address)

    @property
    def last_activity(self) -> float:
        """When bytes last moved between the two, in either direction, on any connection."""
        return max(each.last_activity for each in self._connections())

    @property
    def backlog_s(self) -> float:
        """How long what we sent may still be under way on the slowest line that we put up with."""
        return max(each.backlog_s for each in self._connections())

    @property
    def quiet_s(self) -> float:
        """How long nothing has come from the peer on any connection where a quick answer is due; 0 if none is."""
        connections = self._connections()
        heard = max(each.last_heard for each in connections)
        return min((quiet for each in connections if (quiet := each.quiet_s(heard)) is not None), default=0.0)

    @property
    def pushed_at(self) -> float:
        """When a part of a body last left for the peer, or had to wait for our own limit."""
        return max(each.pushed_at for each in self._connections())

    def _connections(self) -> list[Peer]:
        return [self.peer, *(lane.bulk for lane in (self._puts, self._gets) if lane.bulk is not None)]

    async def run(self) -> None:
        """Keep bulk connections while they are wanted, until cancelled."""
        if not self._puts.may_be:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._puts.run)
            nursery.start_soon(self._gets.run)

    async def put(self, request: wire.Put, body: bytes | memoryview) -> None:
        """Raises like Peer.request. The caller sets the deadline."""
        if len(body) >= FROM_BYTES and not self.peer.pacer.up.is_open:
            await self._puts.until_open()  # a long body would keep pings and heads waiting for as long as it takes
        if len(body) < FROM_BYTES or not await self._puts.put(request, body):
            await self.peer.request(request, wire.Done, body)

    async def get(self, request: wire.Get) -> tuple[wire.Found, bytes | memoryview]:
        """Raises like Peer.request. The caller sets the deadline."""
        got = await self._gets.get(request) if request.count * LEAF_BYTES >= FROM_BYTES else None
        return got or await self.peer.request(request, wire.Found)


class _Lane:
    """One bulk connection that comes and goes."""

    def __init__(self, control: Peer, identity: Identity, dialer: Dialer, entropy: Entropy, address: str) -> None:
        self._control = control
        self._address = address
        self.may_be = bool(address) and wire.FEATURE_BULK in control.offers
        self._identity = identity
        self._dialer = dialer
        self._entropy = entropy
        self._wanted = trio.Event()
        self.bulk: Peer | None = None  # while it is open
        self._may_come = self.may_be  # nothing speaks against it
        self._tried = trio.Event()  # it is open, or failed

    async def run(self) -> None:
        """Open it when it is wanted, and use it until it ends; for ever."""
        pause_s = RETRY_S
        while True:
            await self._wanted.wait()
            since = trio.current_time()
            try:
                await self._keep(await self._open())
                if trio.current_time() - since > STEADY_S:
                    pause_s = RETRY_S
            except (PeerError, trio.TooSlowError) as error:
                log.debug("no bulk connection to %s: %s", self._control.label, error)
            except Exception:  # a fault of ours costs speed, not the connection
                log.exception("the bulk connection to %s failed", self._control.label)
            self._may_come = trio.current_time() - since > STEADY_S
            self._tried.set()
            self._tried = trio.Event()
            self._wanted = trio.Event()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_CAP_S)

    async def until_open(self) -> None:
        """Wait until it is open, or has failed."""
        self._wanted.set()
        with trio.move_on_after(OPEN_S):
            while self.bulk is None and self._may_come:
                await self._tried.wait()

    async def put(self, request: wire.Put, body: bytes | memoryview) -> bool:
        """Ask there. False: it was not answered there, ask elsewhere."""
        bulk, asked = self._lane(), trio.current_time()
        if bulk is None:
            return False
        try:
            await bulk.request(request, wire.Done, body)
        except PeerGone as gone:
            log.debug("asking again over TLS: %s", gone)
            return False
        except trio.Cancelled:
            self._given_up(bulk, max(asked, bulk.last_activity))
            raise
        return True

    async def get(self, request: wire.Get) -> tuple[wire.Found, bytes | memoryview] | None:
        """Ask there. None: it was not answered there, ask elsewhere."""
        bulk, asked = self._lane(), trio.current_time()
        if bulk is None:
            return None
        try:
            return await bulk.request(request, wire.Found)
        except PeerGone as gone:
            log.debug("asking again over TLS: %s", gone)
            return None
        except trio.Cancelled:
            self._given_up(bulk, max(asked, bulk.last_heard))
            raise

    def _lane(self) -> Peer | None:
        self._wanted.set()
        return self.bulk

    def _given_up(self, bulk: Peer, silent_since: float) -> None:
        if trio.current_time() - silent_since >= SILENT_S:
            bulk.end(PeerGone(peer=bulk.label, what="no answer came in time"))

    async def _open(self) -> Peer:
        key = self._entropy.bytes(KEY_BYTES)
        # Without a deadline: a request given up while it is sent would end the connection. It ends with that one.
        told, _ = await self._control.request(wire.Bulk(key), wire.Ticket)
        bulk = BulkPass(told.ticket, key_out=key, key_in=told.key)
        with trio.fail_after(OPEN_S):
            link = await self._dialer.dial_bulk(self._address, self._control.node, bulk)
        peer = Peer(link, self._identity, RefuseAll(), self._control.memory, pacer=self._control.pacer)
        peer.trust(self._control.certificate)
        peer.round_trip_s = self._control.round_trip_s  # the same line, for a start
        return peer

    async def _keep(self, bulk: Peer) -> None:
        """Let requests use it until it ends, or nobody has used it for a while."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bulk.run)
            self.bulk = bulk
            self._tried.set()
            try:
                while not bulk.closed.is_set():
                    with trio.move_on_after(SILENT_S):
                        await bulk.closed.wait()
                    if not bulk.is_asking and trio.current_time() - bulk.last_activity >= IDLE_S:
                        break
                    if self._is_dead(bulk):
                        bulk.end(PeerGone(peer=bulk.label, what="nothing comes here, but elsewhere"))
            finally:
                self.bulk = None
            nursery.cancel_scope.cancel()
        log.debug("bulk connection ended: %s", bulk.ended)

    def _is_dead(self, bulk: Peer) -> bool:
        quiet_s = bulk.quiet_s(bulk.last_heard) or 0.0
        return quiet_s >= DEAD_S and trio.current_time() - self._control.last_heard < quiet_s


class Seats:
    """How many bulk connections others may open to this process."""

    def __init__(self, total: int = SEATS, of_owner: int = OWNERS_SEATS) -> None:
        self._free = total
        self._of_owner = of_owner
        self._taken: Counter[OwnerId] = Counter()

    def take(self, owner: OwnerId) -> bool:
        """Take one for an owner, if there is one."""
        if not self._free or self._taken[owner] >= self._of_owner:
            return False
        self._free -= 1
        self._taken[owner] += 1
        return True

    def give(self, owner: OwnerId) -> None:
        """Give one back."""
        self._free += 1
        self._taken[owner] -= 1
        self._taken += Counter()  # drops what is zero


class Door:
    """A Handler that answers BULK too, for one connection, while it is `open`.

    Args:
        handler: answers everything else; admits BULK only from whom it would serve.
        entropy: for tickets and keys; None: it stays closed.
    """

    def __init__(
        self,
        handler: Handler,
        listener: Listener,
        seats: Seats,
        identity: Identity,
        memory: Memory,
        entropy: Entropy | None,
        pacer: Pacer,
    ) -> None:
        self._handler = handler
        self._listener = listener
        self._seats = seats
        self._identity = identity
        self._entropy = entropy
        self._memory = memory
        self._pacer = pacer
        self._nursery: trio.Nursery | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What to say in HELLO."""
        return (wire.FEATURE_BULK,) if self._entropy is not None else ()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The bulk connections live as long as this context."""
        async with trio.open_nursery() as self._nursery:
            try:
                yield
            finally:
                self._nursery.cancel_scope.cancel()
                self._nursery = None

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        return self._handler.admit(caller, request)

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self._handler.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if not isinstance(request, wire.Bulk):
            return await self._handler.answer(caller, request, body)
        if self._entropy is None or self._nursery is None:
            return wire.Refusal(wire.Refused.UNAVAILABLE, "there are no bulk connections here"), ()
        if not self._seats.take(caller.owner):
            return wire.Refusal(wire.Refused.UNAVAILABLE, "too many bulk connections are open"), ()
        bulk = BulkPass(self._entropy.bytes(TICKET_BYTES), self._entropy.bytes(KEY_BYTES), request.key)
        # Who waits for the ticket runs before the peer can have read of it.
        self._nursery.start_soon(self._serve, caller, bulk)
        return wire.Ticket(bulk.ticket, bulk.key_out), ()

    async def _serve(self, caller: Certificate, bulk: BulkPass) -> None:
        link = None
        try:
            with trio.move_on_after(TICKET_S):
                link = await self._listener.accept_bulk(caller.node, bulk)
            if link is not None:
                peer = Peer(link, self._identity, _FragmentsOnly(self._handler), self._memory, pacer=self._pacer)
                peer.trust(caller)
                await peer.run()
        except PeerError as error:
            log.debug("no bulk connection: %s", error)
        except Exception:  # a fault in one costs no other
            log.exception("a bulk connection failed")
        finally:
            self._seats.give(caller.owner)


class _FragmentsOnly:
    """The handler of a bulk connection: control stays in the TLS session."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if not isinstance(request, wire.Put | wire.Get):
            return wire.Refusal(wire.Refused.BAD_REQUEST, "a bulk connection carries fragments only")
        return self._handler.admit(caller, request)

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        self._handler.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        return await self._handler.answer(caller, request, body)
