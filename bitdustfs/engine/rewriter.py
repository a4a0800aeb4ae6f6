"""The rewriter: write live chunks of stored blocks into a new one.

    live chunks of some old blocks -> from here, or fetched and unsealed -> sealed under a new block id -> placed like
    any block -> one transaction lets the chunks lie there -> the collector forgets old blocks in which nothing lies

Maps are not touched: they name chunks, and a chunk says where it lies. The new block has at least as many fragments
to spare as the best of the old ones, or all of its own, before any chunk moves (invariant I9), else it is given up
like any upload that failed, and the old blocks stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from bitdustfs.core import block as blocks
from bitdustfs.core import erasure, fragment, placement
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.uploads import Shipment, Uploads
from bitdustfs.errors import Unavailable
from bitdustfs.model import SEAL_BYTES, BlockId, BlockNo, BlockRow, ChunkRow, Code, Root, Suite
from bitdustfs.ports import Catalog, Crunch, Entropy

BUSY_S = 1.0  # between two looks while somebody needs the machine


@dataclass(frozen=True, slots=True)
class Old:
    """A block and chunks in it that are to lie elsewhere, one for each slot, in their order."""

    row: BlockRow
    chunks: Sequence[ChunkRow]

    @property
    def lengths(self) -> tuple[BlockNo, Sequence[int]]:
        """What `core.compaction.fill` asks for."""
        return self.row.block, [chunk.length for chunk in self.chunks]


class Rewriter:
    """Write new blocks in place of old ones, one at a time for each caller, while nobody else needs the machine.

    Args:
        is_needed_elsewhere: whether somebody reads or writes right now.

    Attributes:
        may_rewrite: whether nobody is known to know more than we do.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        fragments: Fragments,
        uploads: Uploads,
        copies: Copies,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        suite: Suite,
        is_needed_elsewhere: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._fragments = fragments
        self._uploads = uploads
        self._copies = copies
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self._suite = suite
        self._is_needed_elsewhere = is_needed_elsewhere
        self.may_rewrite: Callable[[], bool] = lambda: True

    def is_free(self, block: BlockNo) -> bool:
        """Whether nothing of a block is on its way any more."""
        return block not in self._uploads.on_their_way

    async def turn(self) -> None:
        """Return when nobody else needs the machine."""
        while self._is_needed_elsewhere():
            await trio.sleep(BUSY_S)

    def can_be_placed(self, old: Sequence[Old], code: Code) -> bool:
        """Whether enough suppliers could take a new block now."""
        length = erasure.fragment_length(blocks.layout([n for each in old for n in each.lengths[1]])[1], code.k)
        takers = placement.choose(self._uploads.candidates(), code.n, fragment_bytes=length)
        return len(takers) >= self._least(code, old) and self.may_rewrite()

    async def read(self, old: Old) -> list[bytes]:
        """The plaintexts of the chunks of a block: those that are here, and one request for others side by side.

        Raises what reading does. Unavailable: one is not what the catalog says.
        """
        here = {chunk.slot: self._copies.plaintext(chunk) for chunk in old.chunks}
        missing = [chunk for chunk in old.chunks if not self._is_genuine(chunk, here[chunk.slot])]
        seal = self._secrets.seal_of(old.row.block_id, old.row.scope, old.row.suite)
        for run in _runs(missing):
            start, end = run[0].offset, run[-1].offset + run[-1].length + SEAL_BYTES
            sealed = memoryview(await self._fragments.block_range(old.row, start, end))

            def unseal(run: Sequence[ChunkRow] = run, sealed: memoryview = sealed) -> list[bytes]:
                at = [(chunk, chunk.offset - run[0].offset) for chunk in run]
                return [
                    self._checked(chunk, seal.unseal(chunk.slot, sealed[low : low + chunk.length + SEAL_BYTES]))
                    for chunk, low in at
                ]

            for chunk, plaintext in zip(run, await self._crunch.run(unseal), strict=True):
                here[chunk.slot] = plaintext
        return [found for chunk in old.chunks if (found := here[chunk.slot]) is not None]

    async def write(
        self,
        old: Sequence[Old],
        plaintexts: Sequence[Sequence[bytes]],
        code: Code,
        *,
        also: Callable[[], None] = lambda: None,
    ) -> BlockNo:
        """Place a new block of this code, and have the chunks lie there. Returns its number.

        Args:
            plaintexts: of the chunks of each old block, as `read` gave them.
            also: called in the operation in which they move; if it raises, they do not.
        Raises:
            Unavailable: it was given up. DiskFull, DiskFault, ReadOnly.
        """
        chunks = [chunk for each in old for chunk in each.chunks]
        content = [plaintext for each in plaintexts for plaintext in each]
        block_id = BlockId(self._entropy.bytes(32))
        seal = self._secrets.seal_of(block_id, self._secrets.scope, self._suite)

        def build() -> tuple[tuple[blocks.Placed, ...], tuple[bytes | memoryview, ...], tuple[Root, ...]]:
            sealed, places = blocks.build(seal, content, k=code.k)
            fragments = erasure.encode(sealed, code)
            return places, fragments, tuple(fragment.root(each) for each in fragments)

        places, fragments, roots = await self._crunch.run(build)
        length = blocks.layout([len(plaintext) for plaintext in content])[1]
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
            also()

        await self._uploads.place(shipment, record)
        return shipment.block

    def _least(self, code: Code, old: Sequence[Old]) -> int:
        """How many fragments of the new block must be held before chunks move there (I9)."""
        margins = [self._catalog.held(each.row.block) - each.row.code.k for each in old]
        return min(code.n, max(code.quorum, code.k + max(margins)))

    def _checked(self, chunk: ChunkRow, plaintext: bytes) -> bytes:
        if not self._is_genuine(chunk, plaintext):
            raise Unavailable(what=f"chunk {chunk.chunk} is not what its fingerprint says")
        return plaintext

    def _is_genuine(self, chunk: ChunkRow, plaintext: bytes | None) -> bool:
        return plaintext is not None and self._secrets.fingerprint(plaintext) == chunk.fingerprint


def _runs(chunks: Sequence[ChunkRow]) -> list[list[ChunkRow]]:
    """Cut chunks, by offset, wherever the next one does not lie directly behind."""
    runs: list[list[ChunkRow]] = []
    for chunk in chunks:
        if runs and runs[-1][-1].offset + runs[-1][-1].length + SEAL_BYTES == chunk.offset:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs
