"""What a home does for others, and how it is connected: the same behind `serve` and beside a mount.

    listener -> reception ┐                        ┌ keeper -> shelf
    caller   -> partners  ┴ connections -> handler ┼ clerk -> contracts
                                                   └ receipts -> ledger

A home without a listener gives too, over the connections that it dialled; one that gives nothing may listen, so that
a friend behind a firewall can dial it, and has contracts all the same. A fault in any of this costs a second, never
the mount beside it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from bitdustfs.cli.amounts import agreed, give_at_least
from bitdustfs.cli.directing import Directing, is_loopback
from bitdustfs.cli.lan import run_nearby
from bitdustfs.cli.limits import follow_settings
from bitdustfs.core.certificate import Certificate, Identity
from bitdustfs.core.contract import Contract
from bitdustfs.core.invited import Invitation
from bitdustfs.core.record import addresses_of
from bitdustfs.core.units import exact_size, format_size
from bitdustfs.edges.addresses_disk import DiskAddresses
from bitdustfs.edges.config import Settings, addresses_in, load, store
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home, write_atomically
from bitdustfs.edges.interfaces import Interfaces
from bitdustfs.edges.invitations_disk import DiskInvitations
from bitdustfs.edges.shelf_disk import DiskShelf
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch
from bitdustfs.edges.tcp import TcpDialer, TcpListener, listening
from bitdustfs.engine.accords import Accords
from bitdustfs.engine.acquaintances import Acquaintances
from bitdustfs.engine.addresses import AddressBook
from bitdustfs.engine.budget import Memory
from bitdustfs.engine.caller import Caller
from bitdustfs.engine.clerk import Clerk
from bitdustfs.engine.connections import Connections
from bitdustfs.engine.handler import RefuseAll, Standby
from bitdustfs.engine.inviting import Host, OnJoined
from bitdustfs.engine.keeper import Keeper
from bitdustfs.engine.ledger import Ledger
from bitdustfs.engine.nearby import Nearby
from bitdustfs.engine.no_shelf import NoShelf
from bitdustfs.engine.pacer import Pacer
from bitdustfs.engine.partners import Partners
from bitdustfs.engine.peer import Peer
from bitdustfs.engine.presence import Presence
from bitdustfs.engine.reaching import Reaching
from bitdustfs.engine.receipts import Receipts, Receiving
from bitdustfs.engine.reception import Reception
from bitdustfs.engine.scrubber import Scrubber
from bitdustfs.engine.whereabouts import Informed, Whereabouts
from bitdustfs.errors import BitdustError
from bitdustfs.model import NodeId, OwnerId
from bitdustfs.ports import Lan

_SHELF_THREADS = 8  # they wait for the disk more than they compute
_RESTART_S = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GivingWish:
    """What the person wants to keep for others, and where he is to be reached."""

    listen: str  # "": nowhere
    shelf: Path
    size_bytes: int  # 0: nothing new is kept
    settings: Settings  # as the file said when we began
    flags: Mapping[OwnerId, int]  # of `--allow`, over the file


class Giving:
    """The connections of a process, and who answers on them. Made by `giving`.

    Attributes:
        on_peer: called with each connection that others dialled, and that partners are dialled for.
        is_dialled: says whether a node is dialled by somebody else in this process.
        is_friend: says whether connections of an owner's nodes matter to somebody else in this process.
        on_joined: called when somebody has joined by an invitation, and the contract with him is kept.
        on_moved: called when this machine has other addresses than before.
        known_at: gives nodes that somebody else in this process knows, and where each was last seen.
        directing: the hash table; None: it is not used.
        book: where partners are; `book.on_learnt` says when that changes, `book.on_own` when we are elsewhere.
        whereabouts: who tells and asks.
        reaching: who lets partners try whether we can be dialled; once it is open.
    """

    def __init__(self, home: Home, wish: GivingWish, identity: Identity, pacer: Pacer) -> None:
        self._home = home
        self._wish = wish
        self.identity = identity
        self.pacer = pacer
        self.memory = Memory()
        self.connections = Connections(identity.node)
        self.on_peer: Callable[[Peer], object] = lambda _peer: None
        self.is_dialled: Callable[[NodeId], bool] = lambda _node: False
        self.is_friend: Callable[[OwnerId], bool] = lambda _owner: False
        self.on_joined: OnJoined = nothing_more
        self.on_moved: Callable[[], None] = lambda: None
        self.known_at: Callable[[], Iterable[tuple[NodeId, str]]] = tuple
        self.directing: Directing | None = None
        self.reaching: Reaching
        self.clerk: Clerk
        self.accords: Accords
        self.ledger: Ledger
        self.receipts: Receipts
        self.keeper: Keeper  # these five once it is open
        self._handler = Standby(RefuseAll())
        self._opening = trio.Lock()
        self.caller: Caller  # once it is known who answers
        self.book = AddressBook(
            identity,
            DiskAddresses(home.addresses),
            SystemWall(),
            ThreadCrunch(1),
            keeps=lambda _node, owner: self.is_partner(owner),
        )
        self.whereabouts = Whereabouts(self.book, self.connections, is_partner=self._is_valid_partner)
        self._announce: Sequence[str] = ()
        self._presence: Presence | None = None
        self._nearby: Nearby | None = None
        self._shelf: DiskShelf | None = None
        self._allowed: dict[OwnerId, int] = {}
        self._dial: Mapping[NodeId, Sequence[str]] = {}
        self._bootstrap: Sequence[str] = ()
        self._listener: TcpListener | None = None
        self._nursery: trio.Nursery | None = None
        self._services: dict[str, Callable[[], Awaitable[None]]] = {}
        self._heed(wish.settings)

    @property
    def address(self) -> str:
        """ADDR:PORT where others dial us; "": nowhere."""
        if self._listener is None:
            return ""
        own = self.book.own
        told = addresses_of(own) if own is not None else ()
        return next(iter(told), self._listener.address)

    @property
    def place(self) -> str:
        """NODEID@ADDR:PORT where others dial us; "": nowhere."""
        return f"{self.identity.node.hex()}@{self.address}" if self._listener is not None else ""

    def greeting(self) -> Sequence[str]:
        """What there is to say to the person when it serves."""
        lines = []
        if self._shelf is not None:
            lines.append(f"Keeps up to {format_size(self._wish.size_bytes)} for friends.")
        if self.place:
            lines.append(f"Friends reach this machine at {self.place}.")
        return lines

    async def open(self, listener: TcpListener | None, interfaces: Interfaces) -> None:
        """Open the shelf, and decide who answers. Raises AlreadyThere, BadFormat, DiskFull, DiskFault."""
        self._listener = listener
        crunch, contracts = ThreadCrunch(_SHELF_THREADS), DiskContracts(self._home.contracts)
        self.clerk = Clerk(self.identity, contracts, crunch=crunch, wall=SystemWall())
        self.accords = Accords(self.clerk, self.connections, is_revoked=lambda node: self.keeper.is_revoked(node))
        self.accords.make_room = self._make_room
        self._services["contracts"] = self.accords.run
        self.ledger = Ledger(contracts, crunch=crunch, wall=SystemWall())
        self.ledger.keeps = lambda owner: self.keeper.kept_bytes(owner)
        self.receipts = Receipts(
            self.identity,
            self.ledger,
            self.clerk,
            self.connections,
            SystemEntropy(),
            revoked=lambda node: self.keeper.refuse_revoked(node),
        )
        self._services["ledger"], self._services["receipts"] = self.ledger.run, self.receipts.run
        self.keeper = self._handler.handler = Keeper(
            self.identity,
            NoShelf(),
            contracts,
            allowed=self._allowed,
            crunch=crunch,
            wall=SystemWall(),
            clerk=self.clerk,
        )
        self.keeper.endings.others_s = self.book.others_s
        if self._wish.size_bytes or self._home.shelf_id.exists():
            await self.opened_keeper()
        handler = self.reaching = Reaching(
            Informed(Receiving(self._handler, self.receipts), self.whereabouts),
            TcpDialer(self.identity.key),
            self.connections,
            self.book,
            is_partner=self._is_valid_partner,
        )
        acquaintances = Acquaintances(self.clerk.owner_of, self.book.owner_of)
        door = None
        if listener is not None:
            host = Host(
                self.identity,
                DiskInvitations(self._home.invitations),
                book=self._book,
                crunch=ThreadCrunch(1),
                wall=SystemWall(),
                entropy=SystemEntropy(),
                on_joined=lambda kept, agreed: self.on_joined(kept, agreed),
                dialer=TcpDialer(self.identity.key),
            )
            reception = Reception(
                self.identity,
                handler,
                knows=self.is_partner,
                is_stranger=lambda owner: not (self.is_partner(owner) or self.keeper.has_contract(owner)),
                on_peer=lambda peer: self.on_peer(peer),
                memory=self.memory,
                entropy=SystemEntropy(),
                pacer=self.pacer,
                connections=self.connections,
                host=host,
                acquaintances=acquaintances,
            )
            door = partial(reception.door, listener)
            self._services["reception"] = partial(reception.run, listener)
        self.caller = Caller(
            self.identity,
            TcpDialer(self.identity.key),
            handler=handler,
            memory=self.memory,
            pacer=self.pacer,
            connections=self.connections,
            door=door,
            acquaintances=acquaintances,
        )
        partners = Partners(self.caller, SystemEntropy(), self._wanted, on_peer=lambda peer: self.on_peer(peer))
        self.caller.whereabouts = self.whereabouts
        self._services["partners"] = partners.run
        self._services["addresses"] = self.book.run
        self._services["whereabouts"] = self.whereabouts.run
        self._presence = Presence(
            self.book,
            self.whereabouts,
            self.connections,
            interfaces,
            listening=listener.addresses if listener is not None else (),
            configured=lambda: self._announce,
            on_moved=lambda: self._moved(partners),
        )
        self._presence.look()
        self._services["presence"] = self._presence.run
        if self._wish.settings.lan_enabled and not self._wish.settings.practice:
            self._services["lan"] = partial(
                run_nearby,
                lambda lan: self._nearby_over(lan, interfaces, partners),
                is_of_use=self._is_for_others,
                pacer=self.pacer,
            )
        if self._wish.settings.dht_enabled and not self._wish.settings.practice:
            self.directing = self._direct(listener.addresses if listener is not None else ())
            self.whereabouts.lookup = self.directing.discovery.lookup
            self.book.on_own.append(self.directing.discovery.moved)
            self._services["directory"] = self.directing.run
        self._services["settings"] = partial(follow_settings, self._home, self._wish.settings, self._heed)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for name, service in self._services.items():
                self._nursery.start_soon(_keep_running, name, service, name=f"service {name}")

    def _serve(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        """Run a service as long as this runs."""
        self._services[name] = service
        if self._nursery is not None:
            self._nursery.start_soon(_keep_running, name, service, name=f"service {name}")

    def heed(self) -> None:
        """Take from the settings now what will be taken from them within a second anyway. Raises BadFormat …"""
        self._heed(load(self._home.config))

    def _nearby_over(self, lan: Lan, interfaces: Interfaces, partners: Partners) -> Nearby:
        def sought() -> set[NodeId]:
            return {node for node, _address in self._all_known()} - {self.identity.node}

        self._nearby = Nearby(
            lan,
            self.book,
            interfaces,
            SystemEntropy(),
            self.identity.node,
            listening=self._listener.addresses if self._listener is not None else (),
            sought=sought,
            is_missing=lambda: not sought() <= set(self.connections.nodes()),
            on_here=partners.nudge,
        )
        return self._nearby

    def _is_for_others(self) -> bool:
        """Somebody on another machine can dial us, or is to be dialled."""
        listening = self._listener.addresses if self._listener is not None else ()
        known = (address for _node, address in self._all_known() if address)
        return not all(map(is_loopback, (*listening, *known)))

    def _direct(self, listening: Sequence[str]) -> Directing:
        return Directing(
            next(iter(sorted(listening, key=lambda address: address.startswith("["))), ""),  # IPv4 if we can
            self._home.dht,
            bootstrap=lambda: self._bootstrap,
            friends=lambda: (address for _node, address in self._all_known() if address),
            pacer=self.pacer,
            own=self._own_record,
            partners=lambda: {node: self.book.shown(node) for node, _address in self._all_known()}.items(),
        )

    def _own_record(self) -> bytes:
        """Where others can dial us, signed; b"": nowhere."""
        own = self.book.own
        if own is None or all(map(is_loopback, addresses_of(own))):
            return b""
        return own.raw

    def _all_known(self) -> Iterable[tuple[NodeId, str]]:
        yield from self.known_at()
        for node, addresses in self._dial.items():
            yield from ((node, address) for address in addresses)
        for node, owner in self.book.nodes():
            if self.is_partner(owner):
                yield from ((node, address) for address in self.book.places(node))

    def is_partner(self, owner: OwnerId) -> bool:
        """Say whether there is a contract with an owner, on either side, or one of us still has what is the other's.

        Our own other nodes are partners too.
        """
        return owner == self.identity.owner or self.is_friend(owner) or self.keeper.is_partner(owner)

    def _is_valid_partner(self, node: Certificate) -> bool:
        return self.is_partner(node.owner) and not self.keeper.is_revoked(node)

    def _moved(self, partners: Partners) -> None:
        self.on_moved()
        partners.nudge()
        if self._nearby is not None:
            self._nearby.moved()

    async def opened_keeper(self) -> Keeper:
        """Who keeps what others store: opened when it is first needed, perhaps long after the start.

        Raises:
            AlreadyThere, BadFormat, DiskFull, DiskFault.
        """
        async with self._opening:
            if self._shelf is None:
                self._shelf = await self._open_shelf()
                crunch = ThreadCrunch(_SHELF_THREADS)
                self.keeper.use_shelf(self._shelf, crunch)
                self._serve("endings", self.keeper.endings.run)
                self._serve("scrubber", Scrubber(self._shelf, crunch, SystemEntropy(), self.keeper.note_lost).run)
                self.heed()  # what is given may be another size since the start
            return self.keeper

    async def _make_room(self, owner: OwnerId, wanted_bytes: int) -> None:
        """Open a shelf for what a machine of ours kept that is gone, as the contract promised."""
        give_at_least(self._home, agreed(self._home))
        if not self._allowed.get(owner):
            store(self._home.config, f"allow.{owner.hex()}", exact_size(wanted_bytes))
        await self._book()

    async def _book(self) -> Keeper:
        """Who signs with somebody who joins, by the settings of now: an invitation may just have changed them."""
        try:
            self.heed()
        except BitdustError as bad:
            log.warning("the settings stay as they were: %s", bad)
        return await self.opened_keeper()

    async def _open_shelf(self) -> DiskShelf:
        wish, home = self._wish, self._home
        return await trio.to_thread.run_sync(
            partial(DiskShelf.open_or_create, wish.shelf, home.shelf_id, donated_bytes=wish.size_bytes)
        )

    def _heed(self, settings: Settings) -> None:
        """Take from the settings what may change while we run."""
        self._allowed.clear()  # and filled again without an await: the keeper looks at it
        self._allowed.update({OwnerId(bytes.fromhex(owner)): size for owner, size in settings.allow.items()})
        self._allowed.update(self._wish.flags)
        self._bootstrap = addresses_in(settings.dht_bootstrap)
        self._announce = addresses_in(settings.give_announce)
        if self._presence is not None:
            self._presence.look()
        self._dial = {NodeId(bytes.fromhex(node)): (address,) for node, address in settings.dial.items()}
        is_flag = self._wish.size_bytes != self._wish.settings.give_size  # which wins over the file
        if self._shelf is not None and not is_flag and settings.give_size != self._shelf.donated_bytes:
            self._shelf.donated_bytes = settings.give_size
            log.info("up to %s for friends from now on", format_size(settings.give_size))

    def _wanted(self) -> Mapping[NodeId, Sequence[str]]:
        own = self.identity.node
        known: dict[NodeId, Sequence[str]] = {
            node: () for node, owner in self.book.nodes() if self.is_partner(owner) and self.book.places(node)
        }
        return {
            node: places
            for node, places in {**known, **self._dial}.items()
            if node != own and not self.is_dialled(node)
        }


@asynccontextmanager
async def giving(home: Home, wish: GivingWish, identity: Identity, pacer: Pacer) -> AsyncIterator[Giving]:
    """Serve friends as long as the block runs. The caller holds the home.

    Raises:
        InUse: the port is taken. AlreadyThere: the shelf's directory holds something else. BadFormat, DiskFault …
    """
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening(wish.listen, identity.key)) if wish.listen else None
        made = Giving(home, wish, identity, pacer)
        interfaces = stack.enter_context(Interfaces())
        await made.open(listener, interfaces)  # makes directories: not before the port is ours
        if listener is not None:
            write_atomically(home.listening, made.address.encode() + b"\n")
            stack.callback(partial(home.listening.unlink, missing_ok=True))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(made.run)
        yield made


async def nothing_more(_kept: Invitation, _agreed: Contract) -> None:
    """Without a catalog nobody is hired; the next mount makes up for it."""


async def _keep_running(name: str, service: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await service()
            return
        except Exception:  # a fault in one service costs this one a second, and not the friends' data that is given
            log.exception("the service %s failed and is started again", name)
        await trio.sleep(_RESTART_S)
