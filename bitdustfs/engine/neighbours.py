"""Neighbours: small files that were written together lie side by side in one block, and who reads some reads on.

One small chunk costs a leaf or two of one fragment, and a round trip. When a second one is read that lies shortly
behind it in its block, leaves behind that are fetched and remembered: a few, and each time twice as many, as long as
they are read on in order.

Who reads them in another order needs what lies around, too: a directory is often read by name and was written in
whatever order it was listed. So after each small chunk that had to be asked for alone, leaves around it are fetched:
two more each time, as long as it goes on. After m of them that are about m² leaves, which cost no more than m further
round trips would.

Chunks of large files have no such neighbours: to look into many of those must not bring them here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from math import inf

import trio

from bitdustfs.core import erasure, fragment
from bitdustfs.core.patience import ELSEWHERE_S
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.strays import put_bounded
from bitdustfs.model import LEAF_BYTES, SEAL_BYTES, BlockNo, BlockRow, ChunkRow

SMALL_BYTES = (
    LEAF_BYTES  # chunks up to this length have neighbours: of two leaves they are remembered (engine/leaves)
)
NEAR_SLOTS = 4  # (tune) who reads in the order of writing skips no more: files that are not small, or not wanted
FIRST_LEAVES = 4  # (tune) fetched ahead for the second small chunk in order
MOST_LEAVES = 64  # (tune) 1 MiB: a small part of the leaves that are remembered
AROUND_LEAVES = 2  # (tune) fetched around a small chunk, for each one of its block that had to be asked for alone
FADE_S = 10.0  # (tune) since the last one of them: then it begins anew
STREAMS = 64  # blocks of which it is remembered what was read
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stream:
    """Small chunks of one block that are read in order."""

    slot: int  # read last
    until: int = 0  # bytes from the start of the block up to which leaves are here, or coming
    leaves: int = FIRST_LEAVES  # to be fetched next
    coming: trio.Event | None = None  # the leaves below `until`


@dataclass(slots=True)
class _Misses:
    """Small chunks of one block that had to be asked for alone."""

    times: int = 0
    last_at: float = -inf
    fetching: tuple[int, int] = (0, 0)  # bytes of the block that are fetched around one of them
    coming: trio.Event | None = None


class Neighbours:
    """Fetches what lies beside small chunks that are read."""

    def __init__(self, fragments: Fragments) -> None:
        self._fragments = fragments
        self._streams: OrderedDict[BlockNo, _Stream] = OrderedDict()
        self._misses: OrderedDict[BlockNo, _Misses] = OrderedDict()

    def follow(self, block: BlockRow, row: ChunkRow, nursery: trio.Nursery) -> None:
        """Note that a chunk is read, and fetch what will probably be read after it."""
        stream = self._streams.get(row.block)
        if stream is None or not 0 <= row.slot - stream.slot <= NEAR_SLOTS:
            put_bounded(self._streams, row.block, _Stream(row.slot), STREAMS)
            return
        if row.slot == stream.slot:
            return
        stream.slot = row.slot
        end = row.offset + row.length + SEAL_BYTES
        if end + stream.leaves * LEAF_BYTES // 2 <= stream.until or stream.until >= block.length:
            return  # enough is here
        if stream.coming is not None or self._fragments.asks.quiet_s(row.block) >= ELSEWHERE_S:
            return
        start = max(row.offset, stream.until)
        own = erasure.fragment_length(block.length, block.code.k)
        while start < block.length and self._fragments.leaves.remembers(
            block, start // own, start % own // LEAF_BYTES
        ):
            start = min((start % own // LEAF_BYTES + 1) * LEAF_BYTES, own) + start // own * own
        stream.until = start
        if end + stream.leaves * LEAF_BYTES // 2 <= start or start >= block.length:
            return
        own_end = (start // own + 1) * own
        # of one supplier only: who waits for what one has shall not wait for another
        stream.until = min(start + stream.leaves * LEAF_BYTES, own_end, block.length)
        stream.leaves = min(2 * stream.leaves, MOST_LEAVES)
        stream.coming = trio.Event()
        nursery.start_soon(self._fetch, block, stream, start, stream.until)

    def missed(self, block: BlockRow, row: ChunkRow, nursery: trio.Nursery) -> None:
        """Note that a chunk had to be asked for alone and has come, and fetch what lies around it."""
        misses = self._misses.get(row.block)
        now = trio.current_time()
        if misses is None or now - misses.last_at > FADE_S:
            misses = _Misses()
            put_bounded(self._misses, row.block, misses, STREAMS)
        misses.times, misses.last_at = misses.times + 1, now
        if misses.coming is not None or self._fragments.asks.quiet_s(row.block) >= ELSEWHERE_S:
            return
        around = self._around(block, row, min(AROUND_LEAVES * (misses.times - 1), MOST_LEAVES))
        if around is not None:
            misses.fetching, misses.coming = around, trio.Event()
            nursery.start_soon(self._fetch, block, misses, *around)

    async def wait(self, row: ChunkRow) -> None:
        """Wait until what is fetched for a chunk is here."""
        stream = self._streams.get(row.block)
        if stream is not None and stream.coming is not None and row.offset < stream.until:
            await stream.coming.wait()
        misses = self._misses.get(row.block)
        if misses is not None and misses.coming is not None:
            start, end = misses.fetching
            if start <= row.offset < end:
                await misses.coming.wait()

    def forget(self) -> None:
        """What was fetched is not remembered any more."""
        self._streams.clear()
        self._misses.clear()

    def _around(self, block: BlockRow, row: ChunkRow, most: int) -> tuple[int, int] | None:
        """The bytes of a chunk's leaves and those beside them that are not remembered, in its fragment.

        Args:
            most: so many leaves beside its own.
        Returns:
            Start and end in the block; None: there are none beside them.
        """
        own = erasure.fragment_length(block.length, block.code.k)
        index, at = divmod(row.offset, own)
        first = low = at // LEAF_BYTES
        last = min(at + row.length + SEAL_BYTES, own) - 1
        high = own_high = last // LEAF_BYTES + 1
        count = fragment.leaf_count(min(own, block.length - index * own))
        is_here = partial(self._fragments.leaves.remembers, block, index)
        while (first - low) + (high - own_high) < most:
            before = low, high
            if high < count and not is_here(high):
                high += 1
            if low > 0 and not is_here(low - 1):
                low -= 1
            if (low, high) == before:
                break
        if (low, high) == (first, own_high):
            return None
        start = index * own
        return start + low * LEAF_BYTES, min(start + high * LEAF_BYTES, start + own, block.length)

    async def _fetch(self, block: BlockRow, why: _Stream | _Misses, start: int, end: int) -> None:
        coming = why.coming
        assert coming is not None
        try:
            await self._fragments.warm(block, start, end)
        except Exception:  # noqa: BLE001 - who needs one of them asks for it, and gets the error
            _log.exception("fetching ahead failed")
        finally:
            why.coming = None
            coming.set()
