"""Regaining: what the other line moved elsewhere of what is ours lies there for us too.

    suppliers list what they hold -> a fragment of ours that the other line does not count on, and that is not listed,
    is asked for -> LOST, and nobody's fault
    too few fragments of a block are sure to be there -> its chunks, found in the other catalog by what is in them
    -> fetched from there, and looked at -> from then on they lie there for us

Whoever wrote the volume after us took care of it as we do: packed what was left of several blocks into one, made
fragments elsewhere, and let the old ones go as soon as its own head made that safe. Our catalog knows nothing of it.
Where our line is to go on, what is there has to be found out before anything is taken for well held.

The same goes the other way round: what came of that line before may have been packed by us, and let go where it lay,
and a newer head of it names the old place. Then its chunks lie where ours are that have the same in them.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Final, Protocol

import trio

from bitdustfs.core import brought, erasure, fragment
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal, Operation
from bitdustfs.engine.leaves import LeafReader
from bitdustfs.engine.listed import Listing
from bitdustfs.errors import BitdustError, Kind, PeerLacks, TooFewFragments, Unavailable
from bitdustfs.model import (
    SEAL_BYTES,
    BlockId,
    BlockNo,
    BlockRow,
    ChunkRow,
    Fingerprint,
    FragmentName,
    FragmentRow,
    FragmentState,
    NodeId,
    Supplier,
    SupplierNo,
)
from bitdustfs.ports import Catalog, Crunch, Leaves

ASK_S: Final = 30.0  # for a page of names, or for leaves of one fragment
LIST_S: Final = 600.0  # (tune) for all that one supplier lists
LOOK_MOST_S: Final = 3600.0  # (tune) for asking: nobody can hold a line up for longer
LOOK_S: Final = 0.1
_PAGE: Final = 500  # blocks in one look
_AT_ONCE: Final = 16  # (tune) fragments that one supplier is asked for side by side
_PREFIX: Final = 4  # bytes of a name: of a million others one in four thousand begins with them too
_log = logging.getLogger(__name__)


class Shelves(Protocol):
    """What is needed of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    async def names(self, supplier: SupplierNo, after: bytes) -> Sequence[tuple[FragmentName, int]]: ...

    async def get(
        self, supplier: SupplierNo, name: FragmentName, first: int, count: int, *, hashes: bool
    ) -> Leaves: ...


class Doubts:
    """Finds out which fragments of ours another line may have let go, and whether they are there.

    Args:
        admit: raises why nothing may be noted any more.
    """

    def __init__(
        self,
        ours: Catalog,
        theirs: Catalog,
        shelves: Shelves,
        leaves: LeafReader,
        journal: Journal,
        admit: Callable[[], None],
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._shelves = shelves
        self._leaves = leaves
        self._journal = journal
        self._admit = admit
        self._listed: dict[SupplierNo, array[int]] = {}  # how names begin, in order; of who answers
        self._until = 0.0
        self._gone = Counter[SupplierNo]()
        self._failed: BitdustError | None = None

    async def look(self) -> Mapping[BlockNo, int]:
        """How many fragments of a block are HELD by us and may be gone. What is gone for sure is LOST.

        Raises:
            DiskFull, DiskFault, and what `admit` does.
        """
        online = self._shelves.online()
        async with trio.open_nursery() as nursery:
            for row in self._ours.suppliers():
                if row.is_listed and row.supplier in online:
                    nursery.start_soon(self._list, row)
        self._until = trio.current_time() + LOOK_MOST_S
        for block in self._ours.local_blocks():  # of the catalog: all heads since the fork may do without
            await self._unsure([(block, each) for each in _held(self._ours, block)])
        doubted, after = Counter[BlockNo](), BlockNo(0)
        while page := self._ours.blocks(after=after, limit=_PAGE):
            doubted.update(await self._unsure(await self._only_ours(page)))
            after = page[-1].block
        self._tell("the other line does without")
        return doubted

    async def ask_for(self, numbers: Sequence[BlockNo]) -> Mapping[BlockNo, int]:
        """Find out the same of blocks that came: who should have them was said, and they may be let go on our line.

        Raises:
            What `look` does, which was before.
        """
        self._until, doubted = trio.current_time() + LOOK_MOST_S, Counter[BlockNo]()
        for number in sorted(set(numbers)):
            block = self._ours.block(number)
            if block is not None:
                doubted.update(await self._unsure([(block, each) for each in _held(self._ours, block)]))
        self._tell("the other catalog says it has")
        return doubted

    # -- private ---------------------------------------------------------------------------------------------

    def _tell(self, why: str) -> None:
        for row in self._ours.suppliers():
            if count := self._gone.pop(row.supplier, 0):
                _log.warning("%s does not have %d fragments that %s: they are made again", row.label, count, why)

    async def _list(self, row: Supplier) -> None:
        names, listing = array("I"), Listing(self._shelves, row, ASK_S)
        try:
            with trio.fail_after(LIST_S):
                while page := await listing.page():
                    names.extend(_beginning(name) for name, _length in page)
        except (BitdustError, trio.TooSlowError) as error:
            _log.info("%s does not say what it holds: %s", row.label, error or "no answer in time")
        else:
            self._listed[row.supplier] = names

    async def _only_ours(self, blocks: Iterable[BlockRow]) -> list[tuple[BlockRow, FragmentRow]]:
        """The fragments that we count on, and they do not."""
        ours, theirs = _nodes(self._ours), _nodes(self._theirs)
        found = []
        for block in blocks:
            there, known = self._theirs.block(block.block), set[tuple[int, NodeId | None]]()
            if there is not None and there.block_id == block.block_id:
                known = {(each.index, theirs.get(each.supplier)) for each in _held(self._theirs, there)}
            fragments = _held(self._ours, block)
            found += [(block, each) for each in fragments if (each.index, ours.get(each.supplier)) not in known]
            await trio.lowlevel.checkpoint()
        return found

    async def _unsure(self, some: Iterable[tuple[BlockRow, FragmentRow]]) -> list[BlockNo]:
        """The blocks of those of which nobody knows whether they are there, one for each. What is gone is LOST."""
        unsure, unlisted = list[BlockNo](), dict[SupplierNo, list[tuple[BlockRow, FragmentRow]]]()
        for block, each in some:
            listed = self._listed.get(each.supplier)
            if listed is None:
                unsure.append(block.block)
            elif not _is_in(listed, self._leaves.name(block, each.index, each.supplier)):
                unlisted.setdefault(each.supplier, []).append((block, each))
        async with trio.open_nursery() as nursery:
            for those in unlisted.values():
                queue = iter(those)
                for _ in range(min(_AT_ONCE, len(those))):
                    nursery.start_soon(self._ask, queue, unsure)
        if self._failed is not None:  # raised outside the nursery, which would wrap it in a group
            raise self._failed
        return unsure

    async def _ask(self, queue: Iterator[tuple[BlockRow, FragmentRow]], unsure: list[BlockNo]) -> None:
        """Ask for what was not listed: it may have come since. Who does not answer is not asked for more."""
        for block, each in queue:
            if each.supplier not in self._listed or trio.current_time() >= self._until or self._failed is not None:
                unsure.append(block.block)
                continue
            name = self._leaves.name(block, each.index, each.supplier)
            try:
                with trio.fail_after(ASK_S):
                    await self._shelves.get(each.supplier, name, 0, 1, hashes=False)
                    if not await self._leaves.proves(each.supplier, block, each.index, is_known=False):
                        unsure.append(block.block)
            except PeerLacks:
                self._note_gone(each)
            except (BitdustError, trio.TooSlowError) as error:
                _log.info("supplier %d does not say what it holds: %s", each.supplier, error or "no answer in time")
                self._listed.pop(each.supplier, None)
                unsure.append(block.block)

    def _note_gone(self, each: FragmentRow) -> None:
        if each not in self._ours.fragments(each.block):
            return
        try:
            self._admit()
            with self._journal.operation(admitted=True):
                self._ours.put_fragment(replace(each, state=FragmentState.LOST))
        except BitdustError as error:
            self._failed = error
        else:
            self._gone[each.supplier] += 1


class Places(Protocol):
    """Where chunks may lie from now on."""

    def is_sure_there(self, block: BlockRow) -> bool:
        """Whether enough of a block is held for it to be read."""
        ...

    def block(self, chunk: ChunkRow) -> BlockNo | None:
        """The number with us of the block in which a chunk lies. None: it does not lie there any more."""
        ...


class Here:
    """Blocks of our own catalog as `Places`.

    Args:
        doubted: how many of the fragments of a block that we count on may be gone.
    """

    def __init__(self, ours: Catalog, doubted: Mapping[BlockNo, int]) -> None:
        self._ours = ours
        self._doubted = doubted

    def is_sure_there(self, block: BlockRow) -> bool:
        return self._ours.held(block.block) - self._doubted.get(block.block, 0) >= block.code.k

    async def unsure(self, some: Iterable[BlockNo]) -> set[BlockNo]:
        """Those of these of which too few fragments are sure to be there for them to be read."""
        found = set[BlockNo]()
        for each in some:
            row = self._ours.block(each)
            if row is not None and not self.is_sure_there(row):
                found.add(each)
            await trio.lowlevel.checkpoint()
        return found

    def block(self, chunk: ChunkRow) -> BlockNo | None:
        return chunk.block if self._ours.chunk(chunk.chunk) == chunk else None


class Regaining:
    """Has chunks of ours lie where the other line moved them, or where we have the same.

    Args:
        beside: the catalog that may have them elsewhere: the other one, or ours.
        fragments: of the blocks of that.
        places: the same blocks.
        operation: begins one that may add to our catalog.
    """

    def __init__(
        self,
        ours: Catalog,
        beside: Catalog,
        fragments: Fragments,
        places: Places,
        operation: Callable[[], Operation],
        crunch: Crunch,
        secrets: VolumeSecrets,
    ) -> None:
        self._ours = ours
        self._beside = beside
        self._fragments = fragments
        self._places = places
        self._operation = operation
        self._crunch = crunch
        self._secrets = secrets
        self._last: tuple[BlockId, memoryview | None] | None = None
        self._count = 0

    async def run(self, blocks: Set[BlockNo]) -> None:
        """Regain what lies in these.

        Raises:
            BadFormat: something is none of what we write (core/brought). TooFewFragments: not now.
            DiskFull, DiskFault, and what `admit` of the grafting does. Some of it is regained.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            failed: BitdustError | None = None
            try:
                for number in sorted(blocks):
                    for chunk in self._ours.chunks_of_block(number):
                        await self._regain(chunk)
            except BitdustError as error:  # raised outside the nursery, which would wrap it in a group
                failed = error
            nursery.cancel_scope.cancel()
        if self._count:
            whose = "of our own" if self._beside is self._ours else "of the other line"
            _log.warning("%d chunks lay in blocks that were let go, and lie in blocks %s now", self._count, whose)
        if failed is not None:
            raise failed

    # -- private ---------------------------------------------------------------------------------------------

    async def _regain(self, chunk: ChunkRow) -> None:
        here, late = self._ours.block(chunk.block), list[BitdustError]()
        for twin in twins(self._beside, chunk.fingerprint):
            block = self._beside.block(twin.block)
            if here is None or block is None or here.block_id == block.block_id or twin.length != chunk.length:
                continue
            if not self._places.is_sure_there(block):
                continue
            brought.check_block(block)
            brought.check_chunk(twin, block)
            try:
                if not await self._is_genuine(twin, block):
                    continue
            except TooFewFragments as error:  # another one may be had
                late.append(error)
                continue
            with self._operation():
                if self._ours.chunk(chunk.chunk) == chunk:
                    number = self._places.block(twin)
                    if number is None:
                        raise Unavailable(what="a block that has the same was packed into another one meanwhile")
                    self._ours.put_chunks([replace(chunk, block=number, slot=twin.slot, offset=twin.offset)])
                    self._count += 1
            return
        if late:
            raise late[0]

    async def _is_genuine(self, twin: ChunkRow, block: BlockRow) -> bool:
        """Whether it is what they say: nothing of ours becomes what somebody else made up."""
        if self._last is None or self._last[0] != block.block_id:
            self._last = block.block_id, await self._whole(block)
        whole = self._last[1]
        if whole is None:
            return False
        seal = self._secrets.seal_of(block.block_id, block.scope, block.suite)
        try:
            plaintext = seal.unseal(twin.slot, whole[twin.offset : twin.offset + twin.length + SEAL_BYTES])
        except BitdustError as error:
            _log.warning("a chunk that lies elsewhere cannot be read: %s", error)
            return False
        return self._secrets.fingerprint(plaintext) == twin.fingerprint

    async def _whole(self, block: BlockRow) -> memoryview | None:
        """A block, of which k fragments are there, and all the others can be made. None: it is no such block."""

        def decoded(have: Mapping[int, bytes | memoryview]) -> memoryview | None:
            primaries = erasure.decode(have, block.code.k)
            for index, root in enumerate(block.roots):  # one by one: of one byte in each, there may be 255 blocks
                (made,) = erasure.reencode(primaries, block.code.k, [index])
                if fragment.root(made) != root:
                    return None
            return memoryview(b"".join(primaries))[: block.length]

        try:
            return await self._crunch.run(decoded, await self._fragments.any_k(block))
        except BitdustError as error:
            if error.kind is not Kind.LOST:
                raise
            _log.warning("a block that has such a chunk cannot be read: %s", error)
            return None

    async def _look(self) -> None:
        """Look after whoever keeps us waiting, until cancelled."""
        while True:
            self._fragments.asks.look()
            await trio.sleep(LOOK_S)


def twins(catalog: Catalog, fingerprint: Fingerprint) -> list[ChunkRow]:
    """Chunks of a catalog that are said to have this content: its own first, which no false one hides."""
    own = catalog.chunk_by_fingerprint(fingerprint)
    others = [each for each in catalog.chunks_like(fingerprint) if each != own]
    return [own, *others] if own is not None else others


def _beginning(name: bytes) -> int:
    """Of a name, which is a keyed hash: so these are spread as evenly as whole names are, and in the same order."""
    return int.from_bytes(name[:_PREFIX])


def _is_in(listed: array[int], name: bytes) -> bool:
    at = bisect_left(listed, _beginning(name))
    return at < len(listed) and listed[at] == _beginning(name)


def _nodes(catalog: Catalog) -> Mapping[SupplierNo, NodeId]:
    return {row.supplier: row.node for row in catalog.suppliers()}


def _held(catalog: Catalog, block: BlockRow) -> list[FragmentRow]:
    return [each for each in catalog.fragments(block.block) if each.state is FragmentState.HELD]
