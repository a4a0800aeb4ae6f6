"""Uploads: bring the fragments of one block to suppliers and know when it is placed.

A block is placed when W of its n fragments are acknowledged, or after 30 s with at least k (degraded). With fewer it
waits as long as its fragments move, on a slow line or within a limit of our own. When they do not, it is given up:
what arrived is released and its chunks are sealed again under a new block id. A row in the catalog, durable before
the first byte leaves, names what an unplaced block may leave behind, so that a restart releases it. So does one for
each fragment that is made again, or brought elsewhere (`errand`): whatever is not acknowledged is released, for it
may have arrived all the same, once no head that is needed may name it there; and once more later, for it may arrive
after that (engine/overtaken).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from bitdustfs.core import placement
from bitdustfs.core.score import FULL
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.overtaken import Overtaken
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.sending import FragmentSink, Watch
from bitdustfs.errors import BitdustError, DiskFault, DiskFull, ReadOnly, Unavailable
from bitdustfs.model import (
    NO_BLOCK,
    BlockId,
    BlockNo,
    BlockRow,
    Code,
    FragmentName,
    FragmentRow,
    FragmentState,
    Root,
    Suite,
    Supplier,
    SupplierNo,
    short,
)
from bitdustfs.ports import Catalog

PLACE_PATIENCE_S = 30.0  # (tune) then k acknowledgements are enough
OUTSTANDING = 6  # blocks with a fragment still on its way: 8 MiB · n/k each, in memory
GIVE_UP_EVERY_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Shipment:
    """One sealed and coded block on its way."""

    block_id: BlockId
    scope: int
    suite: Suite
    code: Code
    length: int
    roots: tuple[Root, ...]
    fragments: Sequence[bytes | memoryview]  # until they are sent: each is let go as soon as it is acknowledged
    local: bool = False  # it belongs to the replica: no replicated table may name it
    least: int = 0  # acknowledgements without which it is given up; k are always needed
    block: BlockNo = NO_BLOCK  # its number once it is placed
    acknowledged: dict[int, SupplierNo] = field(default_factory=dict)
    awaited: set[SupplierNo] = field(default_factory=set)  # that fragments are on their way to
    fragment_bytes: int = 0
    holders: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    sends: list[trio.CancelScope] = field(default_factory=list)

    def row(self) -> BlockRow:
        """What the catalog keeps of it."""
        return BlockRow(self.block, self.block_id, self.scope, self.suite, self.code, self.length, self.roots)

    def note(self) -> None:
        """Wake whoever waits for this shipment."""
        self.changed.set()
        self.changed = trio.Event()


@dataclass(frozen=True, slots=True)
class _Target:
    index: int
    row: Supplier
    name: FragmentName


class Uploads:
    """Send fragments; record what was acknowledged."""

    def __init__(
        self, catalog: Catalog, journal: Journal, sink: FragmentSink, releases: Releases, secrets: VolumeSecrets
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._sink = sink
        self._watch = Watch(sink)
        self._releases = releases
        self._secrets = secrets
        self.overtaken = Overtaken(catalog)
        self._looks = Looks(journal.bell, GIVE_UP_EVERY_S)
        self._nursery: trio.Nursery | None = None
        self._outstanding = trio.Semaphore(OUTSTANDING)
        self._live: set[bytes] = set()  # ids of blocks with fragments on their way
        self._sent_before: set[FragmentName] = set()  # fragments of errands that may be there, whoever takes them now
        self.on_their_way: set[BlockNo] = set()  # placed blocks with fragments still being sent
        self.sent_bytes = 0  # acknowledged fragment bytes
        self.score_of: Callable[[SupplierNo], int] = lambda _: FULL

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Late fragments go on being sent as long as this context lives."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch.run)
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    def hired(self) -> int:
        """How many suppliers are hired."""
        return sum(row.is_hired for row in self._catalog.suppliers())

    def online(self) -> Sequence[SupplierNo]:
        """Who answers now, also of those that are hired no more."""
        return self._sink.online()

    def answering(self) -> int:
        """How many suppliers could take a fragment now."""
        return len(self.candidates())

    def candidates(self) -> list[placement.Candidate]:
        """The hired suppliers that answer now, with their room."""
        online = set(self._sink.online())
        space = self._sink.space()
        return [
            placement.Candidate(
                row.supplier,
                row.owner,
                placement.failure_network(row.address),
                *space.get(row.supplier, (0, 0)),
                score=self.score_of(row.supplier),
            )
            for row in self._catalog.suppliers()
            if row.is_hired and row.supplier in online
        ]

    async def place(self, shipment: Shipment, record: Callable[[], None]) -> None:
        """Send a block and return when it is placed and recorded.

        Args:
            record: called in the operation that records the block, with `shipment.block` set.
        Raises:
            Unavailable: too few suppliers took it; nothing is recorded, and what arrived will be released.
        """
        await self._outstanding.acquire()
        try:
            targets = self._targets(shipment)  # no await until it is noted: who is given up is no target
            self._live.add(shipment.block_id)
            with self._journal.operation():
                self._catalog.put_upload(shipment.block_id, [(t.row.supplier, t.name) for t in targets])
            await self._journal.durable()
            if self._nursery is None:
                raise Unavailable(what="the volume is being unmounted")
        except BaseException:
            self._ended(shipment)
            raise
        shipment.awaited = {target.row.supplier for target in targets}
        shipment.holders = len(targets) + 1  # we too: until it is recorded, nobody may take it for given up
        for target in targets:
            self._nursery.start_soon(self._send, shipment, target, shipment.fragments[target.index])
        shipment.fragments = ()
        try:
            await self._until_placed(shipment)
            self._record(shipment, targets, record)
        except BaseException:
            for send in shipment.sends:
                send.cancel()
            raise
        finally:
            self._let_go(shipment)

    @asynccontextmanager
    async def errand(self, fragments: Sequence[tuple[SupplierNo, FragmentName]]) -> AsyncIterator[None]:
        """Send fragments of a block that is placed in this context; they are noted when it is entered.

        What of them was to be let go is taken back. For what arrived call `arrived`, or `refused`; the rest is noted
        to be let go afterwards, or again. Raises DiskFull, DiskFault, ReadOnly, or Unavailable: what is to be let go
        there may be hit by that; nothing may be sent.
        """
        names = {name for _supplier, name in fragments}
        self._live |= names
        try:
            with self._journal.operation():
                self._sent_before |= {name for name in names if self._catalog.upload(name) is not None}
                self._sent_before |= self._releases.take_back(fragments) | self.overtaken.of(fragments)
                self.overtaken.forget(fragments)
                for supplier, name in fragments:
                    self._catalog.put_upload(name, [(supplier, name)])
            await self._journal.durable()
            if any(self._catalog.is_releasing(supplier, name) for supplier, name in fragments):
                raise Unavailable(what="a fragment that was there before is still to be let go")
            yield
        finally:
            self._live -= names
            self._sent_before -= names
            self._journal.bell.ring()

    def arrived(self, supplier: SupplierNo, name: FragmentName) -> bool:
        """A fragment of an errand is there: whether it is held, and is not to be let go by what was said meanwhile.

        The caller has the operation that says so.
        """
        self._catalog.drop_upload(name)
        return not self._catalog.is_releasing(supplier, name)

    def refused(self, name: FragmentName) -> None:
        """A fragment of an errand was not taken for certain: it is not there, unless it was sent before."""
        if name not in self._sent_before:
            with self._journal.operation():
                self._catalog.drop_upload(name)

    async def run(self) -> None:
        """Have what given-up blocks, also of earlier runs, left at suppliers released; for ever."""
        while True:
            try:
                await self._give_up_all()
            except (DiskFull, DiskFault, ReadOnly) as e:
                _log.info("nothing is released now: %s", e)
            await self._looks.next(within_s=self.overtaken.due_in_s())

    # -- private ---------------------------------------------------------------------------------------------

    def _targets(self, shipment: Shipment) -> list[_Target]:
        code = shipment.code
        shipment.fragment_bytes = len(shipment.fragments[0])
        chosen = placement.choose(self.candidates(), code.n, fragment_bytes=shipment.fragment_bytes)
        if len(chosen) < code.k:
            raise Unavailable(what=f"only {len(chosen)} of {code.k} needed suppliers answer and have room")
        rows = {row.supplier: row for row in self._catalog.suppliers()}
        return [
            _Target(index, rows[number], self._secrets.fragment_name(shipment.block_id, index, rows[number].node))
            for index, number in enumerate(chosen)
        ]

    async def _send(self, shipment: Shipment, target: _Target, content: bytes | memoryview) -> None:
        try:
            with trio.CancelScope() as scope:
                shipment.sends.append(scope)
                await self._watch.send(target.row.supplier, target.name, shipment.roots[target.index], content)
                self._acknowledged(shipment, target)
        except (BitdustError, trio.TooSlowError) as e:
            _log.info(
                "%s did not take fragment %d of block %s: %s",
                target.row.label,
                target.index,
                short(shipment.block_id),
                e,
            )
        except Exception:  # noqa: BLE001 - a fault in one send costs this fragment, not the mount (I12)
            _log.exception("sending a fragment to %s failed", target.row.label)
        finally:
            shipment.awaited.discard(target.row.supplier)
            shipment.note()
            self._let_go(shipment)

    def _acknowledged(self, shipment: Shipment, target: _Target) -> None:
        shipment.acknowledged[target.index] = target.row.supplier
        self.sent_bytes += shipment.fragment_bytes
        if shipment.block:
            with self._journal.operation():
                self._hold(shipment, target.index, target.row.supplier)

    def _hold(self, shipment: Shipment, index: int, supplier: SupplierNo) -> None:
        self._catalog.put_fragment(FragmentRow(shipment.block, index, supplier, FragmentState.HELD))
        self._catalog.charge_supplier(supplier, shipment.fragment_bytes, 1)

    async def _until_placed(self, shipment: Shipment) -> None:
        began = trio.current_time()
        wanted = max(shipment.code.quorum, shipment.least)
        while len(shipment.acknowledged) < wanted and shipment.awaited:
            since = began
            if len(shipment.acknowledged) < shipment.code.k or self._sink.is_held_back():
                since = max(began, *(self._sink.pushed_at(supplier) for supplier in shipment.awaited))
            if trio.current_time() >= since + PLACE_PATIENCE_S:
                break
            with trio.move_on_at(since + PLACE_PATIENCE_S):
                await shipment.changed.wait()
        have, need = len(shipment.acknowledged), max(shipment.code.k, shipment.least)
        if have < need:
            raise Unavailable(what=f"block {short(shipment.block_id)}: {have} of {need} needed suppliers took it")
        if have < shipment.code.quorum:
            _log.warning(
                "block %s is degraded: %d of %d suppliers took it, %d are wanted",
                short(shipment.block_id),
                have,
                shipment.code.n,
                shipment.code.quorum,
            )

    def _record(self, shipment: Shipment, targets: Sequence[_Target], record: Callable[[], None]) -> None:
        # no await until the end: an acknowledgement counts either here or in `_acknowledged`, never in neither
        try:
            self._record_all(shipment, targets, record)
        except BaseException:
            shipment.block = NO_BLOCK  # nothing was recorded: what arrived is released like any interrupted upload
            raise
        if shipment.awaited:
            self.on_their_way.add(shipment.block)

    def _record_all(self, shipment: Shipment, targets: Sequence[_Target], record: Callable[[], None]) -> None:
        with self._journal.operation():
            local = shipment.local
            shipment.block = self._catalog.new_local_block_no() if local else self._catalog.new_block_no()
            self._catalog.put_block(shipment.row())
            for target in targets:
                if target.index in shipment.acknowledged:
                    self._hold(shipment, target.index, target.row.supplier)
                else:
                    row = FragmentRow(shipment.block, target.index, target.row.supplier, FragmentState.WANTED)
                    self._catalog.put_fragment(row)
            record()
            self._catalog.drop_upload(shipment.block_id)

    def _let_go(self, shipment: Shipment) -> None:
        shipment.holders -= 1
        if shipment.holders == 0:
            self._ended(shipment)

    def _ended(self, shipment: Shipment) -> None:
        self._live.discard(shipment.block_id)
        self.on_their_way.discard(shipment.block)
        self._outstanding.release()
        self._journal.bell.ring()

    async def _give_up_all(self) -> None:
        for block_id, _ in self._catalog.uploads():
            await trio.lowlevel.checkpoint()
            fragments = self._catalog.upload(block_id)  # asked anew: meanwhile it may have been placed
            if fragments is not None and block_id not in self._live:
                with self._journal.operation():
                    if any(name == block_id for _, name in fragments):  # of an errand: what a head names, perhaps
                        self._releases.give_back(fragments)
                    else:
                        self._releases.abandon(fragments)
                    self.overtaken.note(fragments)
                    self._catalog.drop_upload(block_id)
        if due := self.overtaken.due():
            with self._journal.operation():
                self._releases.abandon(due)
                self.overtaken.forget(due)
