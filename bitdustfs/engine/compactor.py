"""The compactor: write the live chunks of mostly dead and of small blocks into new ones.

    live chunks of some old blocks -> fetched, unsealed, sealed under a new block id -> placed like any block
    -> one transaction lets the chunks lie there -> nothing lies in the old blocks any more: the collector's work

Maps are not touched: they name chunks, and a chunk says where it lies. The new block has at least as many fragments
to spare as the best of the old ones before any chunk moves (invariant I9), else it is given up like any upload that
failed, and the old blocks stay as they are. One block at a time, and only while nobody else needs the machine.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from bitdustfs.core import block as blocks
from bitdustfs.core import compaction, erasure, fragment, placement
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.strays import put_bounded
from bitdustfs.engine.uploads import Shipment, Uploads
from bitdustfs.errors import BitdustError, Unavailable
from bitdustfs.model import SEAL_BYTES, BlockId, BlockNo, BlockRow, ChunkRow, Code, Root, Sparse, Suite
from bitdustfs.ports import Catalog, Crunch, Entropy

LOOK_EVERY_S = 30.0  # (tune) there is no hurry: what is deleted in one go shall be seen as a whole
PAGE = 32  # sparse blocks looked at in one go
SMALL = 256  # small blocks looked at, the smallest first
AGAIN_S = 600.0  # after a new block that could not be placed: that was traffic for nothing
REMEMBERED = 16384  # blocks that gain nothing: they are not looked into each time
BUSY_S = 1.0  # between two looks while somebody needs the machine
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Old:
    """A block and the chunks in it, one for each slot."""

    row: BlockRow
    chunks: Sequence[ChunkRow]

    @property
    def lengths(self) -> tuple[BlockNo, Sequence[int]]:
        return self.row.block, [chunk.length for chunk in self.chunks]


class Compactor:
    """Make few and full blocks of many and sparse ones.

    Args:
        is_needed_elsewhere: whether somebody reads or writes right now.

    Attributes:
        may_compact: whether nobody is known to know more than we do.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        fragments: Fragments,
        uploads: Uploads,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        suite: Suite,
        is_needed_elsewhere: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._fragments = fragments
        self._uploads = uploads
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self._suite = suite
        self._is_needed_elsewhere = is_needed_elsewhere
        self._pause_until = 0.0
        self._in_vain: OrderedDict[BlockNo, int] = OrderedDict()  # and how much was live in each
        self.may_compact: Callable[[], bool] = lambda: True

    async def run(self) -> None:
        """Compact until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if self._journal.refusal is None and self.may_compact():
                await self._compact_sparse()
                await self._merge_small()

    # -- choosing ----------------------------------------------------------------------------------------------

    async def _compact_sparse(self) -> None:
        at, left = BlockNo(0), list[Sparse]()
        while page := self._catalog.sparse_blocks(PAGE, at):
            at = page[-1].block
            left = await self._work_off([*left, *(each for each in page if self._is_new(each))], is_whole=False)
            await trio.lowlevel.checkpoint()
        await self._work_off(left, is_whole=True)

    async def _merge_small(self) -> None:
        small = [each for each in self._catalog.small_blocks(SMALL) if each.block not in self._uploads.on_their_way]
        for group in compaction.mergeable(each for each in small if self._is_new(each)):
            await self._work_off(group, is_whole=True)

    def _is_new(self, each: Sparse) -> bool:
        return self._in_vain.get(each.block) != each.live_bytes

    async def _work_off(self, sparse: Sequence[Sparse], *, is_whole: bool) -> list[Sparse]:
        """Write new blocks for these. Returns what would fill a new block only in part, unless it is the whole."""
        left: list[Sparse] = []
        for code in dict.fromkeys(each.code for each in sparse):
            some = [each for each in sparse if each.code == code]
            while some:
                old = self._old(some)
                count = compaction.fill([each.lengths for each in old])
                if count == len(old) and not is_whole:
                    left += some
                    break
                some = some[max(1, count) :]
                await self._rewrite(old[: max(1, count)])
        return left

    def _old(self, sparse: Sequence[Sparse]) -> list[_Old]:
        found = []
        for each in sparse:
            row = self._catalog.block(each.block)
            slots = {chunk.slot: chunk for chunk in self._catalog.chunks_of_block(each.block)}
            if row is not None and slots and each.block not in self._uploads.on_their_way:
                found.append(_Old(row, list(slots.values())))
        return found

    # -- writing -----------------------------------------------------------------------------------------------

    async def _rewrite(self, old: Sequence[_Old]) -> None:
        """Write one new block in place of these, if that is worth it and can be done now."""
        lengths = [chunk.length for each in old for chunk in each.chunks]
        if not old or not compaction.is_worth_it([each.row.length for each in old], lengths):
            self._note_in_vain(old)
            return
        while self._is_needed_elsewhere():
            await trio.sleep(BUSY_S)
        code = old[0].row.code
        length = erasure.fragment_length(blocks.layout(lengths)[1], code.k)
        takers = placement.choose(self._uploads.candidates(), code.n, fragment_bytes=length)
        if len(takers) < self._least(code, old) or trio.current_time() < self._pause_until or not self.may_compact():
            return
        try:
            await self._move(old, code)
        except BitdustError as error:
            _log.info("%d blocks stay as they are for now: %s", len(old), error)
            self._pause_until = trio.current_time() + AGAIN_S

    def _note_in_vain(self, old: Sequence[_Old]) -> None:
        for each in old:
            put_bounded(self._in_vain, each.row.block, sum(chunk.length for chunk in each.chunks), REMEMBERED)

    def _least(self, code: Code, old: Sequence[_Old]) -> int:
        """How many fragments of the new block must be held before chunks move there (I9)."""
        margins = [self._catalog.held(each.row.block) - each.row.code.k for each in old]
        return min(code.n, max(code.quorum, code.k + max(margins)))

    async def _move(self, old: Sequence[_Old], code: Code) -> None:
        chunks: list[ChunkRow] = []
        plaintexts: list[bytes] = []
        for each in old:
            plaintexts += await self._plaintexts(each)
            chunks += each.chunks
        block_id = BlockId(self._entropy.bytes(32))
        seal = self._secrets.seal_of(block_id, self._secrets.scope, self._suite)

        def build() -> tuple[tuple[blocks.Placed, ...], tuple[bytes | memoryview, ...], tuple[Root, ...]]:
            for chunk, plaintext in zip(chunks, plaintexts, strict=True):
                if self._secrets.fingerprint(plaintext) != chunk.fingerprint:
                    raise Unavailable(what=f"chunk {chunk.chunk} is not what its fingerprint says")
            content, places = blocks.build(seal, plaintexts, k=code.k)
            fragments = erasure.encode(content, code)
            return places, fragments, tuple(fragment.root(each) for each in fragments)

        places, fragments, roots = await self._crunch.run(build)
        length = blocks.layout([len(plaintext) for plaintext in plaintexts])[1]
        least = self._least(code, old)
        shipment = Shipment(block_id, self._secrets.scope, self._suite, code, length, roots, fragments, least=least)

        def record() -> None:
            if len(shipment.acknowledged) < self._least(code, old):
                raise Unavailable(what="the old blocks have more fragments by now")
            to = {(chunk.block, chunk.slot): place for chunk, place in zip(chunks, places, strict=True)}
            now = [chunk for each in old for chunk in self._catalog.chunks_of_block(each.row.block)]
            there = [(chunk, to[chunk.block, chunk.slot]) for chunk in now if (chunk.block, chunk.slot) in to]
            self._catalog.put_chunks(
                replace(chunk, block=shipment.block, slot=place.slot, offset=place.offset) for chunk, place in there
            )

        await self._uploads.place(shipment, record)
        _log.debug("block %d takes what was in %d others", shipment.block, len(old))

    async def _plaintexts(self, old: _Old) -> list[bytes]:
        """All live chunks of a block, with one request for those side by side."""
        seal = self._secrets.seal_of(old.row.block_id, old.row.scope, old.row.suite)
        found: list[bytes] = []
        for run in _runs(old.chunks):
            start, end = run[0].offset, run[-1].offset + run[-1].length + SEAL_BYTES
            sealed = memoryview(await self._fragments.block_range(old.row, start, end))

            def unseal(run: Sequence[ChunkRow] = run, sealed: memoryview = sealed) -> list[bytes]:
                at = [(chunk, chunk.offset - run[0].offset) for chunk in run]
                return [seal.unseal(chunk.slot, sealed[low : low + chunk.length + SEAL_BYTES]) for chunk, low in at]

            found += await self._crunch.run(unseal)
        return found


def _runs(chunks: Sequence[ChunkRow]) -> list[list[ChunkRow]]:
    """Cut chunks, by offset, wherever the next one does not lie directly behind."""
    runs: list[list[ChunkRow]] = []
    for chunk in chunks:
        if runs and runs[-1][-1].offset + runs[-1][-1].length + SEAL_BYTES == chunk.offset:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs
