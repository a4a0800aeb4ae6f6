"""Receipts: exchanged once a day with each supplier that is connected (core/receipt).

    customer                                                supplier
    RECEIPT, what he signed for all so far      -->         is it his, for us, newer, and no less? keeps it durably
                                               <--          RECEIPTED, the newest that it keeps, and its own count

A receipt is kept here before it leaves, so no two have one serial. If the supplier keeps one of ours that is newer
than what we know, this machine is new, or its disk an old one: we take it up, and go on from there. So a recovered
customer has his ledger back with the first answer.

A stolen machine may sign for the highest serial or count that there is. Nobody takes that up, and the supplier lets
the next receipt begin anew that is signed under a newer certificate, once the owner has revoked the machine.

The two counts may differ. Both sides show that, and nothing else comes of it: nobody is punished by a program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from bitdustfs.core import ledger, receipt, wire
from bitdustfs.core.agreement import SKEW_S
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.grace import DAY_S
from bitdustfs.core.ledger import Account
from bitdustfs.core.receipt import Receipt, Told
from bitdustfs.core.sources import Budget, SourceBudgets
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import Handler
from bitdustfs.engine.ledger import Ledger
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.relation import jittered_s
from bitdustfs.errors import BadFormat, DiskFault, DiskFull, PeerError, ProtocolViolation, Unavailable
from bitdustfs.model import OwnerId, Role, short
from bitdustfs.ports import Entropy

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0  # (tune) how soon it is noticed that a receipt is due
RETRY_S: Final = 3600.0  # (tune) after a failure; half of it at the least
ANSWER_S: Final = 30.0
TRIES: Final = 3  # in one exchange: asked, taken up, signed anew
JITTER_S: Final = 3600.0  # a day less up to so much: not all at once, and not at the same hour each day
BURST: Final = 8  # receipts of one owner that are looked at at once …
PER_S: Final = 1 / 600  # … and later on: an honest one sends one a day
_LINES: Final = 10  # in the log at once, of what peers may cause
_LINES_PER_S: Final = 1e-4  # and later on: nine a day
_DISK_ERRORS = (DiskFull, DiskFault, Unavailable)

Revoked = Callable[[Certificate], Refusal | None]


class Receipts:
    """Both sides of the exchange, for one process.

    Args:
        revoked: refuses a node that acts for its owner no more.
    Attributes:
        stores: whether this process stores at suppliers, and counts that; else it signs nothing.
    """

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        clerk: Clerk,
        connections: Connections,
        entropy: Entropy,
        *,
        revoked: Revoked,
        look_s: float = LOOK_S,
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._clerk = clerk
        self._connections = connections
        self._entropy = entropy
        self._look_s = look_s
        self.revoked = revoked
        self.stores = False
        self._due: dict[OwnerId, float] = {}  # trio time of the next exchange
        self._busy: set[OwnerId] = set()  # owners whose receipt is being kept
        self._looks = SourceBudgets(PER_S, BURST)
        self._lines = Budget(_LINES_PER_S, _LINES)

    # -- the supplier's side ------------------------------------------------------------------------------------

    def admit(self, caller: Certificate) -> Refusal | None:
        """Say what speaks against looking at a receipt of this node at all."""
        if caller.role is not Role.WRITER:
            return Refusal(Refused.NOT_ALLOWED, f"a {caller.role.name.lower()} may not do that")
        if (refusal := self.revoked(caller)) is not None:
            return refusal
        if caller.owner not in self._clerk.agreements:
            return Refusal(Refused.NO_CONTRACT, "there is no contract with this owner")
        return None

    async def take(self, caller: Certificate, raw: bytes) -> wire.Answer:
        """Keep a receipt if it may be kept, and show what is kept then."""
        owner = caller.owner
        if (refusal := self.revoked(caller)) is not None:
            return refusal  # since it was admitted
        if owner in self._busy:
            return Refusal(Refused.UNAVAILABLE, "another receipt of this owner is being kept")
        if not self._looks.take(owner.hex(), trio.current_time()):
            return self._refuse(owner, Refused.UNAVAILABLE, "so many receipts are not looked at: one a day is enough")
        if not raw or raw == self._ledger.gift(owner).receipt:
            return self._shown(owner)
        try:
            told = receipt.parse(raw)
        except BadFormat as bad:
            return self._refuse(owner, Refused.BAD_REQUEST, str(bad)[:200])
        if (why := self._objection(caller, told)) != "":
            return self._refuse(owner, Refused.BAD_REQUEST, why)
        held = self._kept(owner)
        if held is not None and held.is_absurd and held.signer.epoch < caller.epoch:
            held = None
        if held is not None and told.serial <= held.serial:
            return self._shown(owner)  # an old one, or he has forgotten: he sees what we have
        if held is not None and told.byte_hours < held.byte_hours:
            return self._refuse(owner, Refused.BAD_REQUEST, "it takes back what an earlier receipt says")
        self._busy.add(owner)
        try:
            await self._ledger.take_receipt(owner, raw)
        except _DISK_ERRORS as error:
            log.warning("a receipt of owner %s is not kept: %s", short(owner), error)
            return Refusal(Refused.FAULT, "the disk failed")
        finally:
            self._busy.discard(owner)
        log.debug("receipt %d of owner %s: %d byte-hours", told.serial, short(owner), told.byte_hours)
        return self._shown(owner)

    def heard(self, caller: Certificate) -> None:
        """A node has asked for its room, and may: who stores here is there."""
        if caller.role is Role.WRITER:
            self._ledger.heard(caller.owner)

    def _objection(self, caller: Certificate, shown: Receipt) -> str:
        """What speaks against a genuine receipt; "": nothing."""
        told, now_s = shown.told, self._ledger.now_s()
        if shown.signer.raw != caller.raw:
            return "it is signed by another node than the one that sends it"
        if told.supplier != self._identity.owner:
            return "it is for another supplier"
        if told.contract not in {each.digest for each in self._clerk.agreements[caller.owner].contracts}:
            return "it is for a contract that is not ours"
        if told.to_s > now_s + SKEW_S:
            return "it is about the future"
        return ""

    def _kept(self, owner: OwnerId) -> Receipt | None:
        raw = self._ledger.gift(owner).receipt
        return receipt.parse(raw) if raw else None

    def _shown(self, owner: OwnerId) -> wire.Receipted:
        held = self._kept(owner)
        if held is None:
            return wire.Receipted(b"", b"")
        counted, now_s = self._ledger.gift(owner).byte_hours, self._ledger.now_s()
        return wire.Receipted(held.raw, receipt.sign_view(self._identity, held, counted, now_s).raw)

    def _refuse(self, owner: OwnerId, code: Refused, why: str) -> Refusal:
        level = logging.WARNING if self._lines.take(trio.current_time()) else logging.DEBUG
        log.log(level, "refused a receipt of owner %s: %s", short(owner), why)
        return Refusal(code, why)

    # -- the customer's side ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send each supplier that is connected what is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for peer in self._suppliers() if self.stores else ():
                    if trio.current_time() >= self._due_at(peer.owner):
                        self._due[peer.owner] = trio.current_time() + jittered_s(RETRY_S, self._entropy)
                        nursery.start_soon(self._send, peer)
                with trio.move_on_after(self._look_s):
                    await self._connections.wait_for_change()

    def _suppliers(self) -> list[Peer]:
        """One connection with each owner who keeps something for us, or is to."""
        found: dict[OwnerId, Peer] = {}
        for node in self._connections.nodes():
            peer = self._connections.of(node)[0]
            if peer.owner == self._identity.owner or self.revoked(peer.certificate) is not None:
                continue
            kept = self._clerk.newest(peer.owner)
            if kept is not None and kept.gives(peer.owner):
                found.setdefault(peer.owner, peer)
        return list(found.values())

    def _due_at(self, owner: OwnerId) -> float:
        """When, in trio's time. The date of the last one says it for the first one of a process."""
        if owner not in self._due:
            raw, waits_s = self._ledger.account(owner).receipt, 0.0
            if raw:
                gone_s = self._ledger.now_s() - receipt.parse(raw).told.to_s
                waits_s = DAY_S - gone_s if 0 <= gone_s < DAY_S else 0.0  # else a clock was wrong
            self._due[owner] = trio.current_time() + waits_s
        return self._due[owner]

    async def _send(self, peer: Peer) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                await self._exchange(peer)
            jitter_s = JITTER_S - jittered_s(JITTER_S, self._entropy)
            self._due[peer.owner] = trio.current_time() + DAY_S - jitter_s
        except (PeerError, trio.TooSlowError, *_DISK_ERRORS) as error:
            level = logging.WARNING if self._lines.take(trio.current_time()) else logging.DEBUG
            log.log(level, "no receipt for %s now: %s", peer.label, error or "no answer in time")
        except Exception:  # a fault with one supplier costs no other
            log.exception("a receipt for %s could not be made", peer.label)

    async def _exchange(self, peer: Peer) -> None:
        """Bring our account with a supplier and what he keeps of it together."""
        if not self._ledger.account(peer.owner).receipt:
            shown, _ = await peer.request(wire.Receipt(b""), wire.Receipted)
            await self._take_up(peer, shown)
        for _ in range(TRIES):
            due = self._signed(peer.owner)
            if due is None:
                return
            await self._ledger.note_receipt(peer.owner, due)
            shown, _ = await peer.request(wire.Receipt(due.receipt), wire.Receipted)
            if shown.receipt == due.receipt:
                await self._take_view(peer, shown.view, due.receipt)
                return
            if not await self._take_up(peer, shown):
                raise ProtocolViolation(peer=peer.label, what="it keeps neither our receipt nor a newer one")

    def _signed(self, owner: OwnerId) -> Account | None:
        """The account with a receipt for all of it; None: there is nothing to sign."""
        account, kept, now_s = self._ledger.account(owner), self._clerk.newest(owner), self._ledger.now_s()
        if kept is None:
            return None
        before = receipt.parse(account.receipt) if account.receipt else None
        base = before.byte_hours if before is not None else 0
        if account.byte_hours <= base:
            return account if before is not None else None  # shown again: he may have lost it
        from_s = min(before.told.to_s if before is not None else account.since_s, now_s)
        told = Told(
            serial=before.serial + 1 if before is not None else 1,
            contract=kept.digest,
            customer=self._identity.owner,
            supplier=owner,
            since_s=min(account.since_s, from_s),
            from_s=from_s,
            to_s=now_s,
            byte_hours=account.byte_hours,
            new_byte_hours=account.byte_hours - base,
            held_bytes=account.held_bytes,
        )
        return replace(account, receipt=receipt.sign(self._identity, told).raw, view=b"")

    async def _take_up(self, peer: Peer, shown: wire.Receipted) -> bool:
        """Go on from a receipt of ours that is newer than what we know. Says whether it is."""
        if not shown.receipt:
            return False
        try:
            theirs = receipt.parse(shown.receipt)
        except BadFormat as bad:
            raise ProtocolViolation(peer=peer.label, what=str(bad)) from bad
        if (theirs.told.customer, theirs.told.supplier) != (self._identity.owner, peer.owner):
            raise ProtocolViolation(peer=peer.label, what="a receipt that is not ours")
        if theirs.is_absurd:
            log.debug("%s shows a receipt of ours from which nobody can go on: it is let be", peer.label)
            return False
        account = self._ledger.account(peer.owner)
        if account.receipt and theirs.serial <= receipt.parse(account.receipt).serial:
            return False
        await self._ledger.note_receipt(peer.owner, ledger.adopted(account, theirs))
        log.info("%s has shown a newer receipt of ours: the ledger goes on from there", peer.label)
        return True

    async def _take_view(self, peer: Peer, raw: bytes, sent: bytes) -> None:
        try:
            view = receipt.parse_view(raw)
        except BadFormat as bad:
            raise ProtocolViolation(peer=peer.label, what=str(bad)) from bad
        if view.signer.raw != peer.certificate.raw or view.receipt != receipt.digest_of(sent):
            raise ProtocolViolation(peer=peer.label, what="an answer to another receipt, or not by itself")
        account = self._ledger.account(peer.owner)
        if account.receipt == sent:
            await self._ledger.note_receipt(peer.owner, replace(account, view=raw))


class Receiving:
    """A handler that answers RECEIPT; all else is the inner one's. It notes who asks for his room, and may."""

    def __init__(self, inner: Handler, receipts: Receipts) -> None:
        self._inner = inner
        self._receipts = receipts

    def admit(self, caller: Certificate, request: wire.Request) -> wire.Refusal | None:
        if isinstance(request, wire.Receipt):
            return self._receipts.admit(caller)
        refusal = self._inner.admit(caller, request)
        if refusal is None and isinstance(request, wire.Stat):
            self._receipts.heard(caller)
        return refusal

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        if not isinstance(request, wire.Receipt):
            self._inner.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if isinstance(request, wire.Receipt):
            return await self._receipts.take(caller, request.receipt), ()
        return await self._inner.answer(caller, request, body)
