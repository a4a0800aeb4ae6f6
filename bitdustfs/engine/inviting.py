"""Inviting: the side that made an invitation, and takes in who shows it.

    KNOCK, mark, nonce          ->   is there such an invitation? nobody is told
                                <-   CHALLENGE, nonce
    JOIN, proof                 ->   right? then who joins is told the truth
                                <-   JOINED, proof, what is offered and needed, the contract that there is
    JOIN, proof, contract       ->   noted who joined; signed and kept; the other one is hired
                                <-   JOINED, the contract, whether it could be dialled

Who does not have the token learns nothing, not even whether there is an invitation, and costs nothing that lasts:
nothing is kept of him but a count. Guessing 80 bits is hopeless; it is counted all the same, for each connection, for
each invitation, and in all for the log. Each step is durable before the next, and can be done again by the same node.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Final, Protocol

import trio

from bitdustfs.core import contract, invited, wire
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.invitation import NONCE_BYTES, guest_proof, host_proof, proves
from bitdustfs.core.invited import MAX_ADDRESS_CHARACTERS, Guest, Invitation
from bitdustfs.core.reach import is_place, place_to_try
from bitdustfs.core.wire import Refusal, Refused
from bitdustfs.engine.handler import Handler
from bitdustfs.errors import BadFormat, BitdustError, PeerError, Unavailable
from bitdustfs.model import OwnerId, Role, short
from bitdustfs.ports import Crunch, Dialer, Entropy, InvitationStore, Wall

log = logging.getLogger(__name__)

TRIES: Final = 8  # on one connection: who mistyped dials again
_JOINS: Final = 2 * TRIES  # each try takes two
WRONG_PROOFS: Final = 16  # for one invitation: somebody has its mark and not its key
LOG_S: Final = 10.0  # at most one line in so long tells of those who had no invitation
DIAL_BACK_S: Final = 4.0
_UNKNOWN = Refusal(Refused.NOT_FOUND, "such an invitation: it was mistyped, or was not made here")

OnJoined = Callable[[Invitation, Contract], Awaitable[None]]


class Book(Protocol):
    """Who signs and keeps contracts, as Keeper does."""

    @property
    def contracts(self) -> Mapping[OwnerId, Contract]: ...

    async def agree(self, caller: Certificate, raw: bytes, allowed_bytes: int | None) -> wire.Agreed | Refusal: ...

    def refuse_revoked(self, node: Certificate) -> Refusal | None: ...


class Host:
    """Everybody who may join.

    Args:
        book: opened when somebody has shown an invitation, if it is not open yet.
        on_joined: called when a contract is kept, before the other side is told; may be called again for the same.
        dialer: to see whether who joins can be dialled; None: it is not tried.
    """

    def __init__(
        self,
        identity: Identity,
        store: InvitationStore,
        *,
        book: Callable[[], Awaitable[Book]],
        crunch: Crunch,
        wall: Wall,
        entropy: Entropy,
        on_joined: OnJoined,
        dialer: Dialer | None = None,
    ) -> None:
        self._identity = identity
        self._store = store
        self._book = book
        self._crunch = crunch
        self._wall = wall
        self._entropy = entropy
        self._on_joined = on_joined
        self._dialer = dialer
        self._signing = trio.Lock()  # held while somebody is taken in: two must not use one invitation
        self._wrong: Counter[bytes] = Counter()  # wrong proofs, of invitations that there are
        self._refused = 0  # since the last line in the log
        self._logged_at = -inf

    def doorstep(self, handler: Handler, address: str) -> Doorstep:
        """A handler for one connection, from `address`, that takes in who has an invitation."""
        return Doorstep(self, handler, address)

    def nonce(self) -> bytes:
        """A new one."""
        return self._entropy.bytes(NONCE_BYTES)

    async def join(
        self, caller: Certificate, address: str, knock: wire.Knock, nonce: bytes, shown: wire.Join
    ) -> wire.Answer:
        """Answer somebody who says that he has an invitation.

        Args:
            knock, nonce: what this join goes on with, and what we answered.
        """
        kept = await self._find(shown.mark)
        if kept is None:
            return self._turn_away(caller, address)
        own, guest_nonce = self._identity.node, knock.nonce
        wanted = guest_proof(kept.ticket, host=own, guest=caller.node, host_nonce=nonce, guest_nonce=guest_nonce)
        if self._wrong[kept.ticket.mark] >= WRONG_PROOFS or not proves(shown.proof, wanted):
            self._wrong[kept.ticket.mark] += 1
            return self._turn_away(caller, address)
        # From here on it is somebody who has the line: he is told the truth.
        addresses = tuple(place for place in shown.addresses if is_place(place))
        guest = Guest(caller.node, caller.owner, self._now_s(), addresses)
        async with self._signing:
            done = await self._take_in(caller, guest, shown)
        if isinstance(done, Refusal):
            log.warning("refused node %s with invitation %s: %s", short(caller.node), kept.short, done.text)
            return done
        kept, agreed = done
        is_done = kept.guest is not None and agreed is not None
        proof = host_proof(kept.ticket, own, caller.node, host_nonce=nonce, guest_nonce=guest_nonce)
        return wire.Joined(
            proof=proof,
            offers=kept.wish.offers,
            needs=kept.wish.needs,
            contract=agreed.raw if agreed is not None else b"",
            is_done=is_done,
            seen=address[:MAX_ADDRESS_CHARACTERS],
            reached=await self._dial_back(guest, address) if is_done else "",
        )

    async def _take_in(
        self, caller: Certificate, guest: Guest, shown: wire.Join
    ) -> Refusal | tuple[Invitation, Contract | None]:
        """Note who joins, sign, keep, and hire: what of that is still to be done."""
        kept = await self._find(shown.mark)  # as it is now: another one may have been quicker
        if kept is None:
            return _UNKNOWN
        if caller.owner == self._identity.owner:
            return Refusal(Refused.NOT_ALLOWED, "this is your own invitation: it is for a friend")
        if why := kept.refusal(caller.node, guest.since_s):
            return Refusal(Refused.NOT_ALLOWED, why)
        book = await self._book()
        if (revoked := book.refuse_revoked(caller)) is not None:
            return revoked
        agreed = book.contracts.get(caller.owner)
        is_done = kept.guest is not None and agreed is not None and agreed.terms.first.node == caller.node
        if not is_done:
            if not shown.contract:
                return kept, agreed
            gave = agreed.gives(self._identity.owner) if agreed is not None else 0
            if (refusal := self._unfit(kept, agreed, shown.contract)) is not None:
                return refusal
            unused, kept = kept, await self._note(kept, guest)
            answer = await book.agree(caller, shown.contract, max(kept.wish.offers, gave))
            if isinstance(answer, Refusal):
                if agreed is not None:  # which would look like that of this invitation
                    await self._take_back(kept, unused)
                return answer
            agreed = contract.parse(answer.contract)
            log.info("owner %s, node %s joined by invitation %s", short(guest.owner), short(guest.node), kept.short)
        else:
            kept = await self._note(kept, guest)  # its addresses of now
        assert agreed is not None
        await self._on_joined(kept, agreed)  # again, if it was done: we may have been killed in between
        return kept, agreed

    def _unfit(self, kept: Invitation, before: Contract | None, raw: bytes) -> Refusal | None:
        """What speaks against what a proposal gives us. What we give is for `agree` to judge."""
        try:
            giver = contract.parse(raw).terms.first
        except BadFormat as bad:
            return Refusal(Refused.BAD_REQUEST, str(bad)[:200])
        gave = before.gives(giver.owner) if before is not None else 0
        if kept.wish.needs and not giver.gives_bytes:
            return Refusal(Refused.NOT_ALLOWED, "the invitation asks for space, and the proposal gives none")
        if giver.gives_bytes > max(kept.wish.needs, gave):
            return Refusal(Refused.BAD_REQUEST, "the proposal gives more than the invitation asks for")
        return None

    async def _find(self, mark: bytes) -> Invitation | None:
        """The invitation of that mark, as it is kept now."""
        raw = await self._crunch.run(self._store.invitation, mark)
        try:
            return invited.parse(raw) if raw is not None else None
        except BadFormat as bad:
            log.error("invitation %s: %s", mark.hex(), bad)
            return None

    async def _note(self, kept: Invitation, guest: Guest) -> Invitation:
        """Note durably who joins by an invitation."""
        after = kept.taken(guest)
        before, wanted = invited.encode(kept), invited.encode(after)
        if not await self._crunch.run(self._store.replace_invitation, kept.ticket.mark, before, wanted):
            raise Unavailable(what="the invitation was changed at this moment: try again")
        return after

    async def _take_back(self, noted: Invitation, unused: Invitation) -> None:
        """Let an invitation be as it was before a proposal that was refused."""
        now, before = invited.encode(noted), invited.encode(unused)
        await self._crunch.run(self._store.replace_invitation, noted.ticket.mark, now, before)

    def _turn_away(self, caller: Certificate, address: str) -> Refusal:
        """Refuse who has not shown an invitation, in the same words whatever is wrong."""
        self._refused += 1
        now = trio.current_time()
        if now >= self._logged_at + LOG_S:
            log.warning(
                "refused node %s at %s: it has no invitation of ours (%d since the last such line)",
                short(caller.node),
                wire.printable(address),
                self._refused,
            )
            self._logged_at, self._refused = now, 0
        return _UNKNOWN

    async def _dial_back(self, guest: Guest, came_from: str) -> str:
        """Where the guest can be dialled; "": not where we tried. Ends in DIAL_BACK_S."""
        place = place_to_try(came_from, guest.addresses)
        if self._dialer is None or not place:
            return ""
        with trio.move_on_after(DIAL_BACK_S):
            try:
                link = await self._dialer.dial(place, guest.node)
                await link.aclose()
                return place
            except PeerError as error:
                log.debug("node %s cannot be dialled at %s: %s", short(guest.node), place, error)
        return ""

    def _now_s(self) -> int:
        return self._wall.now_ns() // 1_000_000_000


class Doorstep:
    """A Handler for one connection: answers KNOCK and JOIN, and leaves everything else to another one."""

    def __init__(self, host: Host, handler: Handler, address: str) -> None:
        self._host = host
        self._handler = handler
        self._address = address
        self._tries = 0
        self._joins = 0
        self._knock: tuple[wire.Knock, bytes] | None = None  # and our nonce

    def admit(self, caller: Certificate, request: wire.Request) -> Refusal | None:
        if not isinstance(request, wire.Knock | wire.Join):
            return self._handler.admit(caller, request)
        if caller.role is not Role.WRITER:
            return Refusal(Refused.NOT_ALLOWED, f"a {caller.role.name.lower()} may not join")
        self._tries += isinstance(request, wire.Knock)
        self._joins += isinstance(request, wire.Join)
        if self._tries > TRIES or self._joins > _JOINS:
            return Refusal(Refused.UNAVAILABLE, "too many tries: connect again")
        return None

    def forget(self, caller: Certificate, request: wire.Request) -> None:
        if not isinstance(request, wire.Knock | wire.Join):
            self._handler.forget(caller, request)

    async def answer(
        self, caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        match request:
            case wire.Knock():
                self._knock = request, self._host.nonce()
                return wire.Challenge(self._knock[1]), ()
            case wire.Join():
                return await self._join(caller, request), ()
            case _:
                return await self._handler.answer(caller, request, body)

    async def _join(self, caller: Certificate, shown: wire.Join) -> wire.Answer:
        if self._knock is None or self._knock[0].mark != shown.mark:
            return Refusal(Refused.BAD_REQUEST, "knock first")
        try:
            return await self._host.join(caller, self._address, *self._knock, shown)
        except BitdustError as error:
            log.error("node %s could not be taken in: %s", short(caller.node), error)
            return Refusal(Refused.FAULT, "it could not be kept there: its log says why")
