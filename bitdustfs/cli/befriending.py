"""Befriending: what follows when two have joined, on either side: the contract, a name, and a hired supplier.

    the side that invited                            the side that joins
    contract kept (engine/inviting)                  conversation (engine/joining)
    `joined`: name, row of a supplier                name, row of a supplier, contract kept
                    └── what a crash left out ──┐                └── joining again with the same line
    at the next mount: `make_up` ───────────────┘

A process without a catalog (`serve`) keeps contract and name; the rows come with the next mount of that home.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from bitdustfs.cli.amounts import agreed, give_at_least
from bitdustfs.core import agreement
from bitdustfs.core.certificate import Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.friends import free_name, refuse_taken, supplier_of
from bitdustfs.core.grace import GRACE_S
from bitdustfs.core.invitation import read_line
from bitdustfs.core.invited import Invitation, Wish
from bitdustfs.core.phrase import fingerprint
from bitdustfs.core.report import FriendReport, JoinReport
from bitdustfs.edges.config import store
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.invitations_disk import DiskInvitations
from bitdustfs.edges.names_disk import names, save_name
from bitdustfs.edges.system import SystemEntropy, SystemWall
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.joining import JOIN_S, Friendship, join
from bitdustfs.engine.ledger import Ledger
from bitdustfs.errors import BitdustError, Unavailable
from bitdustfs.model import NodeId, OwnerId, Standing, Supplier, short
from bitdustfs.ports import Catalog, Dialer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JoinWish:
    """What the person wants who got an invitation."""

    line: str
    wish: Wish
    name: str  # "": any

    def __repr__(self) -> str:
        return "JoinWish(…)"


class Friends:
    """The friends of a home with a catalog.

    Args:
        commit: makes what the catalog was told durable.
        on_row: called with each row that is new or changed.
        clerk: of the process; called when somebody joins.
        keep: keeps a contract that was signed for both.
        ledger: of the process, if it has one; else it is read from the disk.
    """

    def __init__(
        self,
        home: Home,
        identity: Identity,
        catalog: Catalog,
        *,
        commit: Callable[[], Awaitable[None]],
        clerk: Callable[[], Clerk],
        keep: Callable[[Contract], Awaitable[None]],
        on_row: Callable[[Supplier], None] = lambda _row: None,
        ledger: Ledger | None = None,
    ) -> None:
        self._home = home
        self._identity = identity
        self._catalog = catalog
        self._commit = commit
        self._clerk = clerk
        self._keep = keep
        self._on_row = on_row
        self._ledger = ledger

    # -- the side that invited ------------------------------------------------------------------------------

    async def joined(self, kept: Invitation, signed: Contract) -> None:
        """Hire who has joined by an invitation of ours, and call him as it says. Again: changes nothing."""
        guest = kept.guest
        assert guest is not None
        address = guest.addresses[0] if guest.addresses else ""
        await self._note(guest.owner, guest.node, address, signed, kept.name)

    async def make_up(self) -> None:
        """Do for all who have joined what was not done, because we were killed or had no catalog."""
        signed = DiskContracts(self._home.contracts).contracts() if self._home.contracts.exists() else {}
        rows = {row.node for row in self._catalog.suppliers()}
        for kept in DiskInvitations(self._home.invitations).all():
            if kept.guest is None or kept.guest.node in rows or kept.guest.owner not in signed:
                continue
            try:
                await self.joined(kept, agreement.parse(agreement.split(signed[kept.guest.owner])).newest)
                log.info("node %s joined while there was no catalog: it is hired now", short(kept.guest.node))
            except BitdustError as error:  # one of them must not stop the mount
                log.error("node %s joined and could not be hired: %s", short(kept.guest.node), error)

    # -- the side that joins ----------------------------------------------------------------------------------

    async def join(self, dialer: Dialer, asked: JoinWish, listens: str) -> JoinReport:
        """Join by an invitation that we got.

        Args:
            listens: ADDR:PORT where others can dial us; "": nowhere.
        Raises:
            as engine.joining.join. AlreadyThere: the name is another friend's. Unavailable: no answer in time.
        """
        line = read_line(asked.line)
        if asked.name:
            refuse_taken(asked.name, self._owner_of_node(line.front), self.named())
        with trio.move_on_after(JOIN_S) as waiting:
            clerk = self._clerk()
            made = await join(
                dialer,
                self._identity,
                line,
                asked.wish,
                clerk=clerk,
                addresses=[listens] if listens else [],
                entropy=SystemEntropy(),
                wall=SystemWall(),
                acquaintances=Acquaintances(clerk.owner_of, self._owner_of_node),
            )
        if waiting.cancelled_caught:
            raise Unavailable(what=f"{line.address} did not answer in {JOIN_S:g} s: try again with the same line")
        name = await self._note(made.owner, made.node, made.address, made.contract, asked.name)
        # before the contract: the friend dials at once, and must not find the promise without the room for it
        give_at_least(self._home, agreed(self._home, but=made.owner) + made.contract.gives(self._identity.owner))
        await self._keep(made.contract)
        self._dial_if_nobody_else_does(made)
        return JoinReport(
            name=name,
            owner=made.owner.hex(),
            node=made.node.hex(),
            address=made.address,
            gives_bytes=made.contract.gives(made.owner),
            takes_bytes=made.contract.gives(self._identity.owner),
            was_done=made.was_done,
            listens=listens,
            seen=made.seen,
            reached=made.reached,
        )

    def told(self, states: Mapping[NodeId, str]) -> list[FriendReport]:
        """Each friend, by name.

        Args:
            states: of our suppliers, as far as they are watched; else their standing is told.
        """
        kept = DiskContracts(self._home.contracts).contracts() if self._home.contracts.exists() else {}
        signed = {owner: agreement.parse(agreement.split(raw)).newest for owner, raw in kept.items()}
        given = names(self._home.contracts)
        rows = [row for row in self._catalog.suppliers() if row.standing is not Standing.FIRED]
        ledger = self._ledger or self._read_ledger()
        told, now_s = [], SystemWall().now_ns() // 1_000_000_000
        for owner in {*signed, *(row.owner for row in rows)}:
            his = sorted((row for row in rows if row.owner == owner), key=lambda row: not row.is_hired)
            newest = signed.get(owner)
            if newest is not None and newest.terms.until_s and newest.terms.until_s + GRACE_S <= now_s:
                newest = None  # nobody owes anybody anything any more
            takes_bytes = newest.gives(self._identity.owner) if newest is not None else 0
            if not takes_bytes and not his and owner not in given:
                continue  # he was removed, whatever he still promises us
            told.append(
                FriendReport(
                    name=his[0].label if his else given.get(owner, fingerprint(owner)),
                    owner=owner.hex(),
                    nodes=[row.node.hex() for row in his],
                    addresses=[row.address for row in his],
                    state=states.get(his[0].node, his[0].standing.name.lower()) if his else "",
                    gives_bytes=sum(row.capacity_bytes for row in his),
                    used_bytes=sum(row.used_bytes for row in his),
                    takes_bytes=takes_bytes,
                    since_s=newest.terms.since_s if newest is not None else 0,
                    until_s=newest.terms.until_s if newest is not None else 0,
                    balance=ledger.balance(owner),
                )
            )
        return sorted(told, key=lambda each: each["name"])

    async def rename(self, owner: OwnerId, name: str) -> None:
        """Call a friend otherwise. Raises AlreadyThere: somebody else is called so."""
        refuse_taken(name, owner, self.named())
        save_name(self._home.contracts, owner, name)
        rows = [row for row in self._catalog.suppliers() if row.owner == owner and row.label != name]
        for number, row in enumerate(rows):
            changed = replace(row, label=name if not number else f"{name} {number + 1}")
            self._catalog.put_supplier(changed)
            self._on_row(changed)
        if rows:
            await self._commit()

    def named(self) -> Mapping[str, OwnerId]:
        """Who is called what: by the catalog, else by the file beside the contract."""
        kept = {name: owner for owner, name in names(self._home.contracts).items()}
        return kept | {row.label: row.owner for row in self._catalog.suppliers()}

    def _read_ledger(self) -> Ledger:
        store = DiskContracts(self._home.contracts) if self._home.contracts.exists() else None
        return Ledger(store, crunch=None, wall=SystemWall())

    async def _note(self, owner: OwnerId, node: NodeId, address: str, signed: Contract, name: str) -> str:
        """Name a friend, and hire him if he keeps something for us. Returns the name that he has now."""
        named = self.named()
        has = next((each for each, whose in named.items() if whose == owner), "")
        if not name or named.get(name, owner) != owner:
            name = has or free_name(named)
        rows = self._catalog.suppliers()
        row = supplier_of(signed, self._identity.owner, node=node, address=address, label=name, known=rows)
        save_name(self._home.contracts, owner, name)
        if row is not None and row not in rows:
            self._make_old([each for each in rows if each.label == name and each.node != node])
            self._catalog.put_supplier(row)
            await self._commit()
            self._on_row(next(each for each in self._catalog.suppliers() if each.node == node))
        return name

    def _make_old(self, rows: Sequence[Supplier]) -> None:
        """Call otherwise what a friend had before this machine, as where it takes the other one's place by itself."""
        for row in rows:
            taken = {each.label for each in self._catalog.suppliers()}
            tails = ("", *map(str, range(1, len(taken) + 1)))
            old = replace(row, label=next(name for tail in tails if (name := f"{row.label}-old{tail}") not in taken))
            self._catalog.put_supplier(old)
            self._on_row(old)

    def _dial_if_nobody_else_does(self, made: Friendship) -> None:
        """Who only gives has no supplier to dial there; he keeps a connection all the same, for he may be the one
        who cannot be dialled."""
        if not made.contract.gives(made.owner):
            store(self._home.config, f"dial.{made.node.hex()}", made.address)

    def _owner_of_node(self, front: bytes) -> OwnerId | None:
        """Whose machine it is whose id begins so, if we have it as a supplier."""
        return next((row.owner for row in self._catalog.suppliers() if row.node.startswith(front)), None)
