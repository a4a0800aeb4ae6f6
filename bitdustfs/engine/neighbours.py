"""Neighbours: small files that were written together lie side by side in one block, and who reads some reads on.

One small chunk costs a leaf or two of one fragment, and a round trip. When a second one is read that lies shortly
behind it in its block, leaves behind that are fetched and remembered: a few, and each time twice as many, as long as
they are read on in order. Chunks of large files have no such neighbours: to look into many of those must not bring
them here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass

import trio

from bitdustfs.core import erasure
from bitdustfs.core.patience import ELSEWHERE_S
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.strays import put_bounded
from bitdustfs.model import LEAF_BYTES, SEAL_BYTES, BlockNo, BlockRow, ChunkRow

SMALL_BYTES = (
    LEAF_BYTES  # chunks up to this length have neighbours: of two leaves they are remembered (engine/leaves)
)
NEAR_SLOTS = 4  # (tune) who reads in the order of writing skips no more: files that are not small, or not wanted
FIRST_LEAVES = 4  # (tune) fetched ahead for the second small chunk in order
MOST_LEAVES = 64  # (tune) 1 MiB: a quarter of the leaves that are remembered
STREAMS = 64  # blocks of which it is remembered what was read
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stream:
    """Small chunks of one block that are read in order."""

    slot: int  # read last
    until: int = 0  # bytes from the start of the block up to which leaves are here, or coming
    leaves: int = FIRST_LEAVES  # to be fetched next
    coming: trio.Event | None = None  # the leaves below `until`


class Neighbours:
    """Fetches what lies behind small chunks that are read in order."""

    def __init__(self, fragments: Fragments) -> None:
        self._fragments = fragments
        self._streams: OrderedDict[BlockNo, _Stream] = OrderedDict()

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
        own_end = (start // (own := erasure.fragment_length(block.length, block.code.k)) + 1) * own
        # of one supplier only: who waits for what one has shall not wait for another
        stream.until = min(start + stream.leaves * LEAF_BYTES, own_end, block.length)
        stream.leaves = min(2 * stream.leaves, MOST_LEAVES)
        stream.coming = trio.Event()
        nursery.start_soon(self._fetch, block, stream, start)

    async def wait(self, row: ChunkRow) -> None:
        """Wait until what is fetched for a chunk is here."""
        stream = self._streams.get(row.block)
        if stream is not None and stream.coming is not None and row.offset < stream.until:
            await stream.coming.wait()

    def forget(self) -> None:
        """What was fetched is not remembered any more."""
        self._streams.clear()

    async def _fetch(self, block: BlockRow, stream: _Stream, start: int) -> None:
        coming, stream_end = stream.coming, stream.until
        assert coming is not None
        try:
            await self._fragments.warm(block, start, stream_end)
        except Exception:  # noqa: BLE001 - who needs one of them asks for it, and gets the error
            _log.exception("fetching ahead failed")
        finally:
            stream.coming = None
            coming.set()
