"""The collector: forget chunks that no file needs, and blocks that no chunk lies in.

    a map loses a row -> its chunk is loose -> no map of any generation names it, nor any version on its way
    -> the chunk is forgotten -> nothing lies in its block any more -> the block is forgotten, its fragments released

All in small steps, each one transaction that leaves the catalog whole, so that it may stop anywhere. Chunks that
were placed for a version that was never published were never in a map: each new chunk is looked at once, later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set

import trio

from bitdustfs.engine.journal import Journal
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, ChunkNo
from bitdustfs.ports import Catalog

LOOK_EVERY_S = 10.0  # (tune) what is deleted and written again meanwhile is not sent again
PAGE = 128  # (tune) chunks, or a quarter as many blocks, in one step: a few milliseconds
_KEPT_BACK = "kept back"  # in the catalog: b"" or nothing, or that something of it is missing
_SEEN = "chunks_seen"  # in the catalog: 8 bytes, the last chunk that was looked at once
_FIRST = BlockNo(0)
_log = logging.getLogger(__name__)


class Collector:
    """Forget what nobody needs.

    Args:
        in_use: the chunks that versions on their way refer to.

    Attributes:
        may_collect: whether nobody is known to know more than we do.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        releases: Releases,
        *,
        in_use: Callable[[], Set[ChunkNo]],
        on_their_way: Set[BlockNo],
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._releases = releases
        self._in_use = in_use
        self._on_their_way = on_their_way
        self.may_collect: Callable[[], bool] = lambda: not is_kept_back(catalog)

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                await self.collect()
            except BitdustError as error:
                _log.info("nothing is collected now: %s", error)

    async def collect(self) -> None:
        """Forget what nobody needs now, as far as it may be. Raises DiskFull, DiskFault, ReadOnly."""
        await self._look_at_new()
        await self._drop_loose()
        await self._forget_dead()

    # -- private -----------------------------------------------------------------------------------------------

    async def _look_at_new(self) -> None:
        """Find the chunks that no map names among those that were not looked at yet."""
        last = self._catalog.last_chunk_no()
        seen = ChunkNo(int.from_bytes(self._catalog.local_value(_SEEN) or b"", "big"))
        while seen < last and self.may_collect():
            until = ChunkNo(min(last, seen + PAGE))
            with self._journal.operation():
                self._catalog.note_loose_chunks(seen, until)
                self._catalog.put_local_value(_SEEN, until.to_bytes(8, "big"))
            seen = until
            await trio.lowlevel.checkpoint()

    async def _drop_loose(self) -> None:
        at = ChunkNo(0)
        while self.may_collect() and (page := self._catalog.loose_chunks(at, PAGE)):
            at = page[-1][0]
            in_use = self._in_use()  # no await until they are dropped
            unneeded = [chunk for chunk, is_needed in page if not is_needed and chunk not in in_use]
            needed = [chunk for chunk, is_needed in page if is_needed]
            if needed or unneeded:
                with self._journal.operation():
                    self._catalog.settle_chunks(needed)
                    self._catalog.drop_chunks(unneeded)
            await trio.lowlevel.checkpoint()

    async def _forget_dead(self) -> None:
        at = _FIRST
        while self.may_collect() and (page := self._catalog.dead_blocks(PAGE // 4, at)):
            at = page[-1]
            with self._journal.operation():
                for block in page:
                    if block not in self._on_their_way and not self._catalog.chunks_of_block(block):
                        self._releases.forget_block(block)
            await trio.lowlevel.checkpoint()


def keep_back(catalog: Catalog, *, is_missing: bool) -> None:
    """Note whether something of a catalog is missing: a block in which nothing seems to lie may be needed then.

    A copy of the catalog, or the head that suppliers had, may still say what for. The caller commits.
    """
    catalog.put_local_value(_KEPT_BACK, b"1" if is_missing else b"")


def is_kept_back(catalog: Catalog) -> bool:
    """Whether nothing may be called unneeded, because something of the catalog is missing."""
    return bool(catalog.local_value(_KEPT_BACK))
