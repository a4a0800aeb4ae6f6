"""Fragments: parts of blocks from suppliers, checked.

Healthy, a range of a block is fetched as leaves of one or a few primary fragments, each leaf checked against the
fragment's root before anything else looks at it. Whatever fails (no connection, no answer, wrong bytes) is replaced
by the same columns of any k fragments and a decode. Wrong bytes are proof: that fragment is lost. A supplier that
is there, and for days gives something else than an answer each time (its disk fails, or it talks nonsense), has lost
it too (`core.refusals`).

If too few fragments are known to be anywhere, others are looked for (`strays`) before a read fails.

Right after the start nobody is connected yet: who needs more than answer then waits for those who are being dialled
for the first time, if they may be enough.

`look` goes over everything that suppliers are asked for now, as `core.patience` says: others are asked instead of
one that is quiet, if they are enough to do without it; else there is nothing better than to wait for it.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Protocol

import trio

from bitdustfs.core import erasure, fragment
from bitdustfs.core.patience import ELSEWHERE_S, SILENT_S
from bitdustfs.core.refusals import Refusals
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.strays import PROOF_LEAVES, Strays, put_bounded, some_of
from bitdustfs.errors import (
    BadLeaf,
    BitdustError,
    BlockLost,
    PeerError,
    PeerFault,
    PeerGone,
    PeerLacks,
    ProtocolViolation,
    TooFewFragments,
)
from bitdustfs.model import (
    LEAF_BYTES,
    BlockNo,
    BlockRow,
    FragmentName,
    FragmentRow,
    FragmentState,
    Supplier,
    SupplierNo,
    short,
)
from bitdustfs.ports import Catalog, Crunch, Entropy, Leaves

LATE_S = 5.0  # (tune) an answer that takes longer is left to come, if others are enough
SLOW_FOR_S = 30.0  # who was late is asked last for this long
ASK_MOST_S = 60.0  # twice the deadline of a read: then nobody waits for it any more
TRIES = 3  # for one fragment of a block, in one fetch
LOOK_PAUSE_S = 0.01  # the least time between two looks
SMALL_LEAVES = 2  # reads up to this many leaves keep them: the next small file of the block lies there too
LEAF_MEMORY = 256  # leaves kept, 4 MiB
HASH_MEMORY = 1024  # hash lists kept, about 3 KiB each for a full block
THREAD_BYTES = 128 * 1024  # below this a hop into a worker costs more than the work
_log = logging.getLogger(__name__)


class FragmentSource(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    def quiet_s(self, supplier: SupplierNo) -> float:
        """How long not a byte has come from a supplier that owes an answer; see core.patience."""
        ...

    def is_held_back(self) -> bool:
        """Whether a limit of our own keeps answers waiting."""
        ...

    def doubt(self, supplier: SupplierNo) -> None:
        """Find out whether the connection is alive."""
        ...

    async def get(
        self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool
    ) -> Leaves: ...


class Newcomers(Protocol):
    """Suppliers that were not reached yet since the start."""

    def expected(self) -> frozenset[SupplierNo]: ...

    async def wait_for_expected(self) -> None:
        """Wait until one of them may have come, and no longer than some are expected."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns [start, end) of one fragment."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """A request to a supplier that is not answered yet."""

    supplier: SupplierNo
    block: BlockRow
    since: float
    scope: trio.CancelScope


class Fragments:
    """Fetch, check and decode ranges of blocks.

    Args:
        entropy: chooses what must be shown of a stray; None: strays are read, and never noted as held.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        source: FragmentSource,
        crunch: Crunch,
        secrets: VolumeSecrets,
        entropy: Entropy | None = None,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._source = source
        self._crunch = crunch
        self._secrets = secrets
        self._entropy = entropy
        self._strays = Strays(catalog, journal, self._name)
        self._refusals: Refusals[tuple[BlockNo, int, SupplierNo]] = Refusals()
        self._hashes: OrderedDict[tuple[BlockNo, int], bytes] = OrderedDict()
        self._leaves: OrderedDict[tuple[BlockNo, int, int], bytes] = OrderedDict()
        self._asks: dict[BlockNo, list[_Ask]] = {}
        self._hoping: dict[BlockNo, float] = {}  # since when a fetch waits for newcomers
        self.newcomers: Newcomers = _Nobody()
        self._asking = trio.Event()  # or hoping
        self._looked_at = -inf
        self._late: set[SupplierNo] = set()  # owed an answer for long when we last looked
        self._slow_until: dict[SupplierNo, float] = {}
        self._given_up: set[SupplierNo] = set()  # said so in the log, until they answer again
        self._rows: dict[SupplierNo, Supplier] = {}
        self.fetched_bytes = 0  # that came from suppliers

    async def block_range(self, block: BlockRow, start: int, end: int) -> bytes:
        """Bytes [start, end) of a block as it was coded, checked leaf by leaf."""
        length = erasure.fragment_length(block.length, block.code.k)
        parts = [
            _Part(index, max(start, index * length) - index * length, min(end, (index + 1) * length) - index * length)
            for index in range(start // length, (end - 1) // length + 1)
        ]
        got = await self._parts(block, parts, only_best=True)
        failed: dict[tuple[int, int], None] = {(p.start, p.end): None for p in parts if p not in got}
        for low, high in failed:
            at_hand = {p.index: got[p] for p in parts if p in got and (p.start, p.end) == (low, high)}
            avoid = {p.index for p in parts if p not in got}
            primaries = await self._decoded(block, low, high, at_hand, avoid)
            for part in parts:
                if (part.start, part.end) == (low, high):
                    got[part] = primaries[part.index]
        return b"".join(got[part] for part in parts)

    async def any_k(self, block: BlockRow) -> Mapping[int, bytes | memoryview]:
        """k whole fragments of a block by index, each checked against its root: those that are easiest to have."""
        return await self._gathered(block, 0, erasure.fragment_length(block.length, block.code.k), {}, set())

    def at_hand(self, block: BlockRow, start: int, end: int) -> bytes | None:
        """The same of a short range whose leaves are remembered; they were checked when they came. Does not wait."""
        length = erasure.fragment_length(block.length, block.code.k)
        index, low = divmod(start, length)
        high, first = low + end - start, low // LEAF_BYTES
        if high > length:
            return None
        leaves = self._known_leaves(block.block, index, first, (high - 1) // LEAF_BYTES + 1 - first)
        return None if leaves is None else leaves[low - first * LEAF_BYTES : high - first * LEAF_BYTES]

    def reachable(self) -> frozenset[SupplierNo]:
        """The suppliers that are connected and not silent."""
        return frozenset(s for s in self._source.online() if self._source.quiet_s(s) < SILENT_S)

    def quiet_s(self, block: BlockNo) -> float:
        """How long nothing has come for a block that suppliers are asked for; 0 while nobody is asked for it."""
        asks = self._asks.get(block)
        return min(self._source.quiet_s(ask.supplier) for ask in asks) if asks else 0.0

    def quiet(self) -> Mapping[BlockNo, float]:
        """`quiet_s` of every block that suppliers are asked or waited for; each of them is looked at once."""
        now = trio.current_time()
        suppliers = {ask.supplier for asks in self._asks.values() for ask in asks}
        quiet = {supplier: self._source.quiet_s(supplier) for supplier in suppliers}
        hoping = {block: now - since for block, since in self._hoping.items()}
        return hoping | {block: min(quiet[ask.supplier] for ask in asks) for block, asks in self._asks.items()}

    def too_few(self, block: BlockRow) -> BitdustError | None:
        """Why a block cannot be decoded now, if fewer than k suppliers that may have some of it are reachable."""
        have = len(self._holders(block.block))
        if have >= block.code.k or have + self._strays.chances(block, self.reachable()) >= block.code.k:
            return None
        return self._error(block, have)

    def forget(self) -> None:
        """Drop every remembered leaf."""
        self._leaves.clear()

    # -- patience ------------------------------------------------------------------------------------------

    async def wait_until_asking(self) -> None:
        """Wait until a supplier is asked for something, or waited for."""
        await self._asking.wait()

    def look(self) -> None:
        """Give up asking those who keep us waiting while others would do."""
        now = trio.current_time()
        if now - self._looked_at < LOOK_PAUSE_S:
            return
        self._looked_at = now
        online = self._source.online()
        asks = [ask for asks in self._asks.values() for ask in asks]
        late_s = inf if self._source.is_held_back() else LATE_S  # then it is not they who are slow
        self._late = {ask.supplier for ask in asks if now - ask.since > late_s}
        answering: set[SupplierNo] | None = None  # counted when it matters, which is seldom
        for ask in asks:
            quiet_s = self._source.quiet_s(ask.supplier) if ask.supplier in online else 0.0
            late = now - ask.since > late_s
            if quiet_s >= SILENT_S:
                self._source.doubt(ask.supplier)
            if answering is None and (quiet_s >= ELSEWHERE_S or late):
                answering = {supplier for supplier in online if self._answers(supplier)}
            if now - ask.since > ASK_MOST_S or (
                answering is not None
                and (quiet_s >= ELSEWHERE_S or late)
                and len(answering - {ask.supplier}) >= ask.block.code.k
                and self._others_do(ask.supplier, ask.block)
            ):
                if late:
                    self._slow_until[ask.supplier] = now + SLOW_FOR_S
                ask.scope.cancel()
                self._forget_ask(ask)
        if not self._asks and not self._hoping:
            self._asking = trio.Event()

    def _forget_ask(self, ask: _Ask) -> None:
        asks = self._asks.get(ask.block.block, [])
        if ask in asks:
            asks.remove(ask)
            if not asks:
                del self._asks[ask.block.block]

    def _others_do(self, supplier: SupplierNo, block: BlockRow) -> bool:
        """Say whether enough fragments of the block are with others who answer."""
        others = {
            index
            for index, holders in self._holders(block.block).items()
            if any(each != supplier and self._answers(each) for each in holders)
        }
        return len(others) >= block.code.k

    def _is_best(self, supplier: SupplierNo) -> bool:
        return self._answers(supplier) and not self._is_slow(supplier)

    def _answers(self, supplier: SupplierNo) -> bool:
        return self._source.quiet_s(supplier) < ELSEWHERE_S and supplier not in self._late

    def _is_slow(self, supplier: SupplierNo) -> bool:
        return self._slow_until.get(supplier, 0.0) > trio.current_time()

    # -- parts ---------------------------------------------------------------------------------------------

    async def _parts(
        self, block: BlockRow, parts: Sequence[_Part], *, only_best: bool = False
    ) -> dict[_Part, bytes | memoryview]:
        """Fetch parts of fragments at once; what fails is left out.

        Args:
            only_best: nobody is asked who may keep us waiting, if others can do without him.
        """
        held = self._holders(block.block)
        got: dict[_Part, bytes | memoryview] = {}

        async def fetch(part: _Part) -> None:
            holders = held.get(part.index, [])
            if only_best:
                holders = [each for each in holders if self._is_best(each) or not self._others_do(each, block)]
            content = await self._part(block, part, holders)
            if content is not None:
                got[part] = content

        if len(parts) == 1:
            await fetch(parts[0])
            return got
        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(fetch, part)
        return got

    async def _decoded(
        self, block: BlockRow, start: int, end: int, at_hand: Mapping[int, bytes | memoryview], avoid: set[int]
    ) -> tuple[bytes | memoryview, ...]:
        """Columns [start, end) of all primary fragments, from any k fragments."""
        have = await self._gathered(block, start, end, at_hand, avoid)
        if end - start >= THREAD_BYTES:
            return await self._crunch.run(erasure.decode, have, block.code.k)
        return erasure.decode(have, block.code.k)

    async def _gathered(
        self, block: BlockRow, start: int, end: int, at_hand: Mapping[int, bytes | memoryview], avoid: set[int]
    ) -> dict[int, bytes | memoryview]:
        """Columns [start, end) of k fragments."""
        have = dict(at_hand)
        failed = Counter(avoid)
        while (need := block.code.k - len(have)) > 0:
            asked = self._next_to_ask(block, have, failed)[:need]
            if len(asked) < need:
                if await self._hope(block) or await self._find_stray(block):
                    continue
                raise self._error(block, len(have))
            got = await self._parts(block, [_Part(index, start, end) for index in asked])
            have.update({part.index: content for part, content in got.items()})
            failed.update(index for index in asked if index not in have)
        return have

    async def _hope(self, block: BlockRow) -> bool:
        """Wait for another supplier, if enough may come. Whoever waits for the block is not kept from giving up."""
        expected = self.newcomers.expected()
        if not expected:
            return False
        hoped = {
            row.index
            for row in self._catalog.fragments(block.block)
            if row.state is FragmentState.HELD and row.supplier in expected | self.reachable()
        }
        if len(hoped) < block.code.k:
            return False
        self._hoping.setdefault(block.block, trio.current_time())
        self._asking.set()
        try:
            await self.newcomers.wait_for_expected()
            return True
        finally:
            self._hoping.pop(block.block, None)

    async def _find_stray(self, block: BlockRow) -> bool:
        """Look for one more fragment where none is known to be. False: it is nowhere."""
        for index, supplier in self._strays.places(block, self.reachable()):
            name = self._name(block, index, supplier)
            is_going = self._catalog.is_releasing(supplier, name)  # asked first: it may be gone before the answer
            if not await self._is_shown(supplier, block, index):
                self._strays.note_denied(block, index, supplier)
                continue
            if self._entropy is None or is_going:
                self._strays.remember(block, index, supplier)
            else:
                length = erasure.fragment_length(block.length, block.code.k)
                self._strays.note_found(block, index, supplier, length)
            return True
        return False

    async def _is_shown(self, supplier: SupplierNo, block: BlockRow, index: int) -> bool:
        """Whether a supplier shows some leaves of a stray, or all of a short one, and its hash list."""
        leaves = fragment.leaf_count(erasure.fragment_length(block.length, block.code.k))
        chosen = {0} if self._entropy is None else some_of(leaves, PROOF_LEAVES, self._entropy)
        for first in chosen:
            if await self._leaves_from(supplier, block, index, first, 1, is_known=False) is None:
                return False
        return True

    def _next_to_ask(
        self, block: BlockRow, have: Mapping[int, bytes | memoryview], failed: Mapping[int, int]
    ) -> list[int]:
        """The other fragments that can be had now, best first. Anew each time: suppliers come and go."""
        held = self._holders(block.block)
        return sorted(
            (index for index in held if index not in have and failed.get(index, 0) < TRIES),
            key=lambda index: (failed.get(index, 0), self._reluctance(held[index])),
        )

    def _error(self, block: BlockRow, have: int) -> BitdustError:
        left = {f.index for f in self._catalog.fragments(block.block) if f.state is FragmentState.HELD}
        if len(left) < block.code.k:
            return BlockLost(block=short(block.block_id), have=len(left), need=block.code.k)
        reachable = self.reachable()
        waiting = [
            self._supplier(f.supplier).label
            for f in self._catalog.fragments(block.block)
            if f.state is FragmentState.HELD and f.supplier not in reachable
        ]
        missing = ", ".join(waiting) or "suppliers that do not answer"
        return TooFewFragments(block=short(block.block_id), have=have, need=block.code.k, missing=missing)

    def _holders(self, block: BlockNo) -> dict[int, list[SupplierNo]]:
        """Fragment index -> reachable suppliers that hold it."""
        reachable = self.reachable()
        holders: dict[int, list[SupplierNo]] = {}
        for row in self._catalog.fragments(block):
            if row.state is FragmentState.HELD and row.supplier in reachable:
                holders.setdefault(row.index, []).append(row.supplier)
        for index, supplier in self._strays.holders(block).items():
            if index not in holders and supplier in reachable:
                holders[index] = [supplier]
        return holders

    def _reluctance(self, holders: Sequence[SupplierNo]) -> int:
        """How late to ask for a fragment: first those who answer, last those who do not."""
        return min(2 * (not self._answers(each)) + self._is_slow(each) for each in holders)

    async def _part(self, block: BlockRow, part: _Part, holders: Sequence[SupplierNo]) -> bytes | memoryview | None:
        """Columns of one fragment from whoever holds it; None if nobody gave them."""
        first = part.start // LEAF_BYTES
        count = (part.end - 1) // LEAF_BYTES + 1 - first
        leaves: bytes | memoryview | None = self._known_leaves(block.block, part.index, first, count)
        for supplier in holders:
            if leaves is not None:
                break
            leaves = await self._leaves_from(supplier, block, part.index, first, count)
        if leaves is None:
            return None
        return leaves[part.start - first * LEAF_BYTES : part.end - first * LEAF_BYTES]

    async def is_at(self, supplier: SupplierNo, block: BlockRow, index: int) -> bool:
        """Whether a supplier shows that it has a fragment: one leaf of it, and the hash list."""
        return await self._leaves_from(supplier, block, index, 0, 1) is not None

    async def whole(self, block: BlockRow, index: int, supplier: SupplierNo) -> bytes | memoryview | None:
        """A whole fragment from who holds it, checked against its root; None: it was not to be had there."""
        length = erasure.fragment_length(block.length, block.code.k)
        if supplier not in self.reachable():
            return None
        return await self._leaves_from(supplier, block, index, 0, fragment.leaf_count(length))

    async def shows(self, supplier: SupplierNo, block: BlockRow, index: int, first: int, count: int) -> bool:
        """Whether a supplier shows these leaves of a fragment. If it denies them, or they are wrong, it is LOST."""
        return await self._leaves_from(supplier, block, index, first, count) is not None

    async def proves(self, supplier: SupplierNo, block: BlockRow, index: int) -> bool:
        """Whether a supplier shows leaves that it could not foresee. If it denies them or is wrong, it is LOST."""
        leaves = fragment.leaf_count(erasure.fragment_length(block.length, block.code.k))
        chosen = {0} if self._entropy is None else some_of(leaves, PROOF_LEAVES, self._entropy)
        for first in chosen:
            if not await self.shows(supplier, block, index, first, 1):
                return False
        return True

    def refusals(self, held: FragmentRow) -> int:
        """How often in a row its supplier has neither shown nor denied it."""
        return self._refusals.times((held.block, held.index, held.supplier))

    def _known_leaves(self, block: BlockNo, index: int, first: int, count: int) -> bytes | None:
        if count > SMALL_LEAVES:
            return None
        known = [self._leaves.get((block, index, first + i)) for i in range(count)]
        return b"".join(leaf for leaf in known if leaf is not None) if None not in known else None

    async def _leaves_from(
        self, supplier: SupplierNo, block: BlockRow, index: int, first: int, count: int, *, is_known: bool = True
    ) -> bytes | memoryview | None:
        """Ask one supplier and check what it says. Its faults are noted here, once, if it is known to hold it."""
        row = self._supplier(supplier)
        name = self._secrets.fragment_name(block.block_id, index, row.node)
        hashes = self._hashes.get((block.block, index))
        leaves: Leaves | None = None
        try:
            with self._asked(supplier, block):
                leaves = await self._source.get(supplier, name, first, count, hashes=hashes is None)
        except PeerLacks as e:
            if not is_known:
                return None
            _log.warning("%s: fragment %d of block %s is lost: %s", row.label, index, short(block.block_id), e)
            self._lost(block, index, supplier)
            return None
        except (PeerFault, ProtocolViolation) as e:
            _log.warning("%s: fragment %d of block %s: %s", row.label, index, short(block.block_id), e)
            if is_known and self._refusals.note((block.block, index, supplier), trio.current_time()):
                self._lost(block, index, supplier)
            return None
        except PeerError as e:
            level = logging.DEBUG if isinstance(e, PeerGone) else logging.WARNING
            _log.log(level, "%s: fragment %d of block %s: %s", row.label, index, short(block.block_id), e)
            return None
        if leaves is None:
            if supplier not in self._given_up:
                _log.warning("%s did not answer in time; others are asked", row.label)
            self._given_up.add(supplier)
            return None
        self._given_up.discard(supplier)
        self._slow_until.pop(supplier, None)
        checked = hashes or leaves.hashes
        if not await self._genuine(block, index, first, count, leaves, checked):
            _log.warning("%s", BadLeaf(peer=row.label, fragment=f"{index} of block {short(block.block_id)}"))
            if is_known:
                self._lost(block, index, supplier)
            return None
        self.fetched_bytes += len(leaves.content)
        self._refusals.clear((block.block, index, supplier))
        put_bounded(self._hashes, (block.block, index), checked, HASH_MEMORY)
        if count <= SMALL_LEAVES:
            for i in range(count):
                leaf = bytes(leaves.content[i * LEAF_BYTES : (i + 1) * LEAF_BYTES])
                put_bounded(self._leaves, (block.block, index, first + i), leaf, LEAF_MEMORY)
        return leaves.content

    @contextmanager
    def _asked(self, supplier: SupplierNo, block: BlockRow) -> Iterator[None]:
        """Let `look` end what is asked here."""
        with trio.CancelScope() as scope:
            ask = _Ask(supplier, block, trio.current_time(), scope)
            self._asks.setdefault(block.block, []).append(ask)
            self._asking.set()
            try:
                yield
            finally:
                self._forget_ask(ask)

    async def _genuine(
        self, block: BlockRow, index: int, first: int, count: int, leaves: Leaves, hashes: bytes
    ) -> bool:
        length = erasure.fragment_length(block.length, block.code.k)
        expected = min(count * LEAF_BYTES, length - first * LEAF_BYTES)
        if len(leaves.content) != expected or len(hashes) != fragment.leaf_count(length) * fragment.HASH_BYTES:
            return False
        if fragment.root_of(hashes, length) != block.roots[index]:
            return False
        if expected < THREAD_BYTES:
            return fragment.leaves_are_genuine(hashes, first, leaves.content)
        return await self._crunch.run(fragment.leaves_are_genuine, hashes, first, leaves.content)

    def _lost(self, block: BlockRow, index: int, supplier: SupplierNo) -> None:
        self._strays.note_denied(block, index, supplier)
        known = {(row.index, row.supplier) for row in self._catalog.fragments(block.block)}
        if (index, supplier) not in known:
            return  # it was released meanwhile
        try:
            with self._journal.operation():
                self._catalog.put_fragment(FragmentRow(block.block, index, supplier, FragmentState.LOST))
        except BitdustError as e:  # it will be found lost again
            _log.warning("a lost fragment could not be noted: %s", e)

    def _name(self, block: BlockRow, index: int, supplier: SupplierNo) -> FragmentName:
        return self._secrets.fragment_name(block.block_id, index, self._supplier(supplier).node)

    def _supplier(self, number: SupplierNo) -> Supplier:
        if number not in self._rows:
            self._rows = {row.supplier: row for row in self._catalog.suppliers()}
        return self._rows[number]


class _Nobody:
    """No newcomers."""

    def expected(self) -> frozenset[SupplierNo]:
        return frozenset()

    async def wait_for_expected(self) -> None:
        await trio.lowlevel.checkpoint()
