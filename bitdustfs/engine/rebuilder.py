"""The rebuilder: complete blocks that lack fragments.

A supplier that was away when a block was sent, or a send that broke off, leaves fragments WANTED; wrong bytes leave
one LOST. They are made again from k verified fragments, without any key, or from the block's chunks if all are here,
checked against the root that was recorded when the block was made (invariant I10), and sent to a supplier that holds
no other fragment of that block. A fragment that its supplier lost goes back to it, once, if there is nobody else; and
who lost a fragment of a block gets another of that block only if there is nobody else, or two that cheat would hand
it to and fro for ever. Where a fragment is held twice, as when one that was given up is back, and all who answer hold
some of the block, one of the two gets another fragment in its place: once the other one has shown the same, in one
transaction with what it got. A supplier that does not take what it is sent, whatever room it says it has, is passed
over for a while: others may take it.

Where n grew, the new fragments were never made before. Then what they are made from is checked against the roots of
the block itself, and their own roots are recorded before they are sent.

It leaves most of the line to reads that somebody waits for, and half of it to everybody while no block is in danger
(engine/courtesy).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import trio

from bitdustfs.core import erasure, fragment, placement
from bitdustfs.core.placement import Candidate
from bitdustfs.core.surplus import Place, spread
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.courtesy import Courtesy
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.passed_over import PassedOver
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.sending import FragmentSink, send
from bitdustfs.engine.strays import put_bounded
from bitdustfs.engine.uploads import Uploads
from bitdustfs.errors import BitdustError, PeerError, PeerFull, PeerRefused, RootDiffers
from bitdustfs.model import (
    BlockNo,
    BlockRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Root,
    Supplier,
    SupplierNo,
    Wanting,
    short,
)
from bitdustfs.ports import Catalog, Crunch

LOOK_EVERY_S = 2.0
LOOK_SELDOM_S = (
    30.0  # (tune) at most, if a look takes long and there is nothing to do: it shall cost a tenth of a core
)
BATCH = 256  # (tune) blocks looked at before others get a turn: 2 ms
REMEMBERED = 4096  # blocks of which suppliers lost something, and fragments that were given back
AT_ONCE = 3  # (tune) blocks being rebuilt: each takes up to twice 8 MiB of memory
QUICK_S = 1.0  # (tune) where a block takes longer, one at a time fills the line, and can be stopped sooner
_log = logging.getLogger(__name__)


class Rebuilder:
    """Send what is still wanted, fewest held fragments first."""

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        fragments: Fragments,
        sink: FragmentSink,
        uploads: Uploads,
        releases: Releases,
        crunch: Crunch,
        secrets: VolumeSecrets,
        courtesy: Courtesy,
        copies: Copies,
        *,
        look_s: float = LOOK_EVERY_S,
    ) -> None:
        self._look_s = look_s
        self._catalog = catalog
        self._journal = journal
        self._fragments = fragments
        self._sink = sink
        self._uploads = uploads
        self._releases = releases
        self._crunch = crunch
        self._secrets = secrets
        self._courtesy = courtesy
        self._copies = copies
        self._took_s = QUICK_S  # for the block that was made last
        self._took_bytes = 1  # and its length
        self._sent_bytes = 0  # that were taken
        self._walked_s = 0.0  # in walks in which something was taken
        self._walk: tuple[float, int] | None = None  # the one that goes on: since when, and bytes taken before it
        self.at_work: set[BlockNo] = set()  # blocks of which a fragment is on its way, also by others
        self._given_back: OrderedDict[tuple[BlockNo, int], None] = OrderedDict()  # once more to who lost them
        self._losers: OrderedDict[BlockNo, set[SupplierNo]] = OrderedDict()  # whose rows made room for others
        self._passed_over = PassedOver(sink)
        self._looks = Looks(journal.bell, look_s)
        self._has_failed = False  # something that was tried in the last walk
        self._rung = 0  # how often the bell had rung when it was looked what is most urgent

    async def run(self) -> None:
        """Look for work until cancelled."""
        while True:
            taken, began = 0, trio.current_time()
            if self._journal.refusal is None:
                self._walk = began, self._sent_bytes
                taken = await self._walk_queue()
                self._walked_s += trio.current_time() - began if taken else 0.0
                self._walk = None
            if not taken:
                took_s = trio.current_time() - began
                await trio.sleep(min(max(0.0, 10 * took_s - self._look_s), LOOK_SELDOM_S))
                await self._looks.next(within_s=self._due_in_s())

    def _due_in_s(self) -> float:
        """When to look again although nothing rang: what was tried failed, or somebody was passed over until then."""
        return 0.0 if self._has_failed else self._passed_over.ends_in_s()

    @property
    def bytes_per_s(self) -> float:
        """How fast it went so far, pauses and all; 0: nothing was sent yet."""
        walked_s = self._walked_s
        if self._walk is not None and self._sent_bytes > self._walk[1]:
            walked_s += trio.current_time() - self._walk[0]
        return self._sent_bytes / walked_s if walked_s else 0.0

    async def _walk_queue(self) -> int:
        """Try every block that lacks fragments, most urgent first. Returns how many fragments were taken."""
        taken = busy = 0
        self._has_failed = False
        left = trio.Event()
        self._took_s = QUICK_S  # the line may be another one by now

        async def rebuild(wanting: Wanting, length: int) -> None:
            nonlocal taken, busy
            began = trio.current_time()
            try:
                try:
                    sent = await self.complete(wanting.block)
                finally:
                    self.at_work.discard(wanting.block)  # not after the pause: others may be at work on it by then
                    self._journal.bell.ring()
                if sent:
                    taken += sent
                    self._took_s, self._took_bytes = trio.current_time() - began, length
                    await self._courtesy.pause(self._took_s, wanting.spare)
            except (BitdustError, trio.TooSlowError) as e:
                self._has_failed = True
                _log.info("block %d stays incomplete for now: %s", wanting.block, e)
            finally:
                busy -= 1
                left.set()

        at: Wanting | None = None
        self._rung = self._journal.bell.rung
        least_spare = min((wanting.spare for wanting in self._catalog.wanting_blocks(1)), default=0)
        while (takers := self.takers()) and (page := self._catalog.wanting_blocks(BATCH, at)):
            at = page[-1]
            if self._is_outdated(least_spare):
                break
            # nearly all of the queue may wait for somebody new: they are not even looked at one by one
            possible = self._catalog.blocks_for(takers, [wanting.block for wanting in page])
            async with trio.open_nursery() as nursery:
                for wanting in page:
                    block = self._catalog.block(wanting.block) if wanting.block in possible else None
                    while block is not None and busy >= self._at_once(wanting.spare, block.length):
                        left = trio.Event()
                        await left.wait()
                    if block is None:
                        continue
                    if self._is_outdated(least_spare):
                        break
                    others = self._uploads.on_their_way, self.at_work
                    if not any(wanting.block in each for each in others):
                        busy += 1
                        self.at_work.add(wanting.block)
                        nursery.start_soon(rebuild, wanting, block.length)
            await trio.lowlevel.checkpoint()
        return taken

    def _at_once(self, spare: int, length: int) -> int:
        """How many blocks may be rebuilt at a time, if one of them is one of so many bytes."""
        takes_s = self._took_s * max(1.0, length / self._took_bytes)
        return AT_ONCE if self._courtesy.is_free(spare) and takes_s < QUICK_S else 1

    def _is_outdated(self, least_spare: int) -> bool:
        """There is something more urgent than all there was when the walk began."""
        if self._rung == self._journal.bell.rung:
            return False  # nothing has changed since it was looked
        self._rung = self._journal.bell.rung
        return any(wanting.spare < least_spare for wanting in self._catalog.wanting_blocks(1))

    async def complete(self, number: BlockNo) -> int:
        """Send the missing fragments of a block to suppliers that can take them. Returns how many were taken."""
        block = self._catalog.block(number)
        if block is None:
            return 0
        plan = [(index, to) for index, to in self.plan(block) if await self._may_change(block, index, to)]
        if not plan:
            return 0
        made, block = await self._make(block, [index for index, _ in plan])
        named = [
            (supplier.supplier, self._secrets.fragment_name(block.block_id, index, supplier.node))
            for index, supplier in plan
        ]
        taken = 0
        async with self._uploads.errand(named):
            for (index, supplier), (_, name), each in zip(plan, named, made, strict=True):
                if await self._send(block, index, supplier, name, each):
                    self._held(block, index, supplier, name, len(each))
                    self._sent_bytes += len(each)
                    taken += 1
        return taken

    async def _make(self, block: BlockRow, indexes: Sequence[int]) -> tuple[Sequence[bytes | memoryview], BlockRow]:
        """Fragments of a block, from what is here if all of it is, else from suppliers. Raises what reading does.

        Returns also the block, with their roots.
        """
        known = len(block.roots)
        unmade = range(known, max(indexes) + 1)  # never made before: their roots are recorded without a gap
        again = range(block.code.k) if unmade else ()  # then no root of theirs tells whether the content is right

        def make(first_k: Sequence[bytes | memoryview]) -> tuple[Sequence[bytes | memoryview], tuple[Root, ...]]:
            made, roots = dict[int, bytes | memoryview](), dict[int, Root]()
            for index in sorted({*indexes, *again, *unmade}):  # one by one: 255 may be as large as the block
                (each,) = erasure.reencode(first_k, block.code.k, [index])
                roots[index] = fragment.root(each)
                if index < known and roots[index] != block.roots[index]:
                    raise RootDiffers(block=short(block.block_id), index=index)
                if index in indexes:
                    made[index] = each
            return [made[index] for index in indexes], tuple(roots[index] for index in unmade)

        copy = await self._copies.block(block) if block.block > 0 else None
        if copy is not None:
            try:
                made, roots = await self._crunch.run(make, erasure.primaries(copy, block.code.k))
                return made, self._with_roots(block, roots)
            except RootDiffers:
                if await self._copies.is_genuine(block):
                    _log.debug("block %d may have more chunks than are known: suppliers are asked", block.block)
                else:
                    _log.warning(
                        "what this disk has of block %d is not what was sealed: suppliers are asked", block.block
                    )
        have = await self._fragments.any_k(block)
        made, roots = await self._crunch.run(lambda: make(erasure.decode(have, block.code.k)))
        return made, self._with_roots(block, roots)

    def _with_roots(self, block: BlockRow, new: tuple[Root, ...]) -> BlockRow:
        """Record the roots of fragments that were never made before, which nothing can be checked by until then."""
        now = self._catalog.block(block.block)
        if new and now is not None and len(now.roots) == len(block.roots):
            with self._journal.operation():
                self._catalog.put_block(replace(now, roots=(*now.roots, *new)))
        return replace(block, roots=(*block.roots, *new))

    async def _send(
        self, block: BlockRow, index: int, supplier: Supplier, name: FragmentName, content: bytes | memoryview
    ) -> bool:
        """Whether the supplier took a fragment."""
        began, said = trio.current_time(), self._sink.says(supplier.supplier)
        try:
            await send(self._sink, supplier.supplier, name, block.roots[index], content)
        except (PeerError, trio.TooSlowError) as e:
            if isinstance(e, (PeerFull, PeerRefused)):  # it says so: nothing is there that would have to be let go
                self._uploads.refused(name)
            self._passed_over.note(supplier.supplier, e, said=said, took_s=trio.current_time() - began)
            _log.info("%s did not take fragment %d of block %s: %s", supplier.label, index, short(block.block_id), e)
            return False
        return True

    def takers(self) -> Mapping[SupplierNo, Candidate]:
        """Who may take something now."""
        return {
            c.supplier: c
            for c in self._uploads.candidates()
            if c.free_bytes > 0 and c.free_fragments > 0 and c.supplier not in self._passed_over
        }

    def is_anybody_there(self) -> bool:
        """Whether some supplier may take something now."""
        return bool(self.takers())

    def plan(
        self, block: BlockRow, takers: Mapping[SupplierNo, Candidate] | None = None
    ) -> list[tuple[int, Supplier]]:
        """Which fragment could go to whom, at most one to each supplier.

        Args:
            takers: who may take something; None: now.
        """
        rows = self._catalog.fragments(block.block)
        held = {row.index for row in rows if row.state is FragmentState.HELD}
        meant = {row.index: row.supplier for row in rows if row.state is FragmentState.WANTED}
        lost = {row.index: row.supplier for row in rows if row.state is FragmentState.LOST and row.index not in held}
        gone = [row for row in rows if row.state is FragmentState.LOST and row.index in held]  # others have those
        busy = {row.supplier for row in rows if row.state is not FragmentState.WANTED and row not in gone}
        losers = self._losers.get(block.block, set()) | {row.supplier for row in gone}
        length = erasure.fragment_length(block.length, block.code.k)
        may_take = self.takers() if takers is None else takers
        room = {s: c for s, c in may_take.items() if c.free_bytes >= length and c.free_fragments > 0}
        free = {supplier: c for supplier, c in room.items() if supplier not in busy}
        suppliers = {row.supplier: row for row in self._catalog.suppliers()}
        plan: list[tuple[int, Supplier]] = []
        for index in (i for i in range(block.code.n) if i not in held):
            if len(plan) + len(held) >= block.code.n:
                break  # fragments from n on, of when n was greater, are as good as others
            sendable = self._without_releasing(block, index, room, suppliers)
            others = {supplier: c for supplier, c in free.items() if supplier in sendable}
            target = self._target(block, index, meant, lost, others, sendable, losers)
            if target is None:
                planned = [FragmentRow(block.block, i, s.supplier, FragmentState.HELD) for i, s in plan]
                target = self._with_spare(index, [*rows, *planned], sendable)
            if target is not None:
                free.pop(target, None)
                plan.append((index, suppliers[target]))
        return plan

    def _with_spare(
        self, index: int, rows: Sequence[FragmentRow], room: Mapping[SupplierNo, Candidate]
    ) -> SupplierNo | None:
        """Who holds only what others hold too, and could hold what is needed in its place."""
        held = _places(rows)
        if len(held) == len({each for each, _ in held}):
            return None
        absent = {row.supplier for row in rows if row.state is FragmentState.ABSENT}
        least = spread(held)
        some = [
            candidate
            for supplier, candidate in room.items()
            if supplier not in absent and _is_elsewhere(supplier, held) and spread({*held, (index, supplier)}) > least
        ]
        chosen = placement.choose(some, 1, fragment_bytes=0)
        return chosen[0] if chosen else None

    async def _may_change(self, block: BlockRow, index: int, supplier: Supplier) -> bool:
        """Whether others show what a supplier is to let go for a fragment, if it is: they may be back with less."""
        rows = self._catalog.fragments(block.block)
        for own in _making_room(rows, index, supplier.supplier):
            for row in (row for row in rows if row.index == own.index and row.state is FragmentState.HELD):
                if row.supplier != own.supplier and await self._fragments.leaves.proves(
                    row.supplier, block, row.index
                ):
                    break
            else:
                self._has_failed = True
                return False
        return True

    def _without_releasing(
        self,
        block: BlockRow,
        index: int,
        room: Mapping[SupplierNo, Candidate],
        suppliers: Mapping[SupplierNo, Supplier],
    ) -> Mapping[SupplierNo, Candidate]:
        """Those who are not just being told to let go the same fragment, which would hit the new one."""
        names = {s: self._secrets.fragment_name(block.block_id, index, suppliers[s].node) for s in room}
        return {s: room[s] for s, name in names.items() if not self._releases.is_going(s, name)}

    def _target(
        self,
        block: BlockRow,
        index: int,
        meant: Mapping[int, SupplierNo],
        lost: Mapping[int, SupplierNo],
        free: Mapping[SupplierNo, Candidate],
        room: Mapping[SupplierNo, Candidate],
        losers: Set[SupplierNo],
    ) -> SupplierNo | None:
        """Who gets a fragment: the one it was meant for, else one without any, else, once, the one that lost it."""
        if meant.get(index) in free:
            return meant[index]
        reserved = {supplier for i, supplier in meant.items() if i != index}
        others = [c for s, c in free.items() if s not in reserved]
        for some in ([c for c in others if c.supplier not in losers], others):
            if chosen := placement.choose(some, 1, fragment_bytes=0):
                return chosen[0]
        if lost.get(index) in room and (block.block, index) not in self._given_back:
            return lost[index]
        return None

    def _held(self, block: BlockRow, index: int, supplier: Supplier, name: FragmentName, length: int) -> None:
        with self._journal.operation():
            if not self._uploads.arrived(supplier.supplier, name):
                return
            gone = self._catalog.block(block.block) is None  # it was released meanwhile
            if gone or self._releases.is_given_up(supplier.supplier):
                self._releases.give_back([(supplier.supplier, name)])
                return
            was_counted = False
            rows = self._catalog.fragments(block.block)
            if own := _making_room(rows, index, supplier.supplier):
                if not _is_elsewhere(supplier.supplier, _places(rows)):  # who had it too was lost meanwhile
                    self._releases.give_back([(supplier.supplier, name)])
                    return
                self._releases.forget_fragments(block, own)
            there = {row.index for row in rows if row.state is FragmentState.HELD}
            lost = [row for row in rows if row.supplier == supplier.supplier and row.state is FragmentState.LOST]
            self._releases.forget_fragments(block, [row for row in lost if row.index in there])  # others have those
            for row in rows:
                if row.index != index:
                    continue
                is_lost = row.state is FragmentState.LOST
                if row.supplier == supplier.supplier:
                    was_counted = row.state is not FragmentState.WANTED
                    if is_lost:
                        put_bounded(self._given_back, (block.block, index), None, REMEMBERED)
                elif is_lost or row.state is FragmentState.WANTED:  # what others have, they have, also while away
                    self._releases.forget_fragments(block, [row])  # a send of before may have arrived there
                    if is_lost:
                        losers = self._losers.get(block.block, set()) | {row.supplier}
                        put_bounded(self._losers, block.block, losers, REMEMBERED)
            self._catalog.put_fragment(FragmentRow(block.block, index, supplier.supplier, FragmentState.HELD))
            if not was_counted:
                self._catalog.charge_supplier(supplier.supplier, length, 1)


def _places(rows: Sequence[FragmentRow]) -> Set[Place]:
    return {(row.index, row.supplier) for row in rows if row.state is FragmentState.HELD}


def _is_elsewhere(supplier: SupplierNo, held: Set[Place]) -> bool:
    """Whether others hold all that a supplier holds, and it holds some."""
    own = {index for index, holder in held if holder == supplier}
    return bool(own) and own <= {index for index, holder in held if holder != supplier}


def _making_room(rows: Sequence[FragmentRow], index: int, supplier: SupplierNo) -> list[FragmentRow]:
    """What a supplier holds of a block, and holds no more once it has a fragment that it did not have before."""
    own = [row for row in rows if row.supplier == supplier]
    if any(row.index == index and row.state is not FragmentState.WANTED for row in own):
        return []  # it goes back to where it was
    return [row for row in own if row.state is FragmentState.HELD]
