"""The collector: forget chunks that no file needs, and blocks that no chunk lies in.

    a map loses a row -> its chunk is loose -> no map of any generation names it, nor any version on its way
    -> the chunk is forgotten -> nothing lies in its block any more -> the block is forgotten, its fragments released

An index may be damaged where nothing notices, and would say that nobody needs what somebody needs. So before anything
is forgotten, the maps, and the chunks, are read row by row: what they name stays, and the collector with it stops.

All in small steps, each one transaction that leaves the catalog whole, so that it may stop anywhere. Chunks that
were placed for a version that was never published were never in a map: each new chunk is looked at once, later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Set

import trio

from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BitdustError
from bitdustfs.model import BlockNo, ChunkNo
from bitdustfs.ports import Catalog

LOOK_EVERY_S = 10.0  # (tune) what is deleted and written again meanwhile is not sent again
PAGE = 128  # (tune) chunks, or a quarter as many blocks, in one step: a few milliseconds
ROWS = 2000  # (tune) of maps, or of chunks, read in one step: a few milliseconds
MOST = 100_000  # chunks, or blocks, forgotten in one go: some megabytes of memory
REST = 50.0  # (tune) times as long as it took: reading every row of a large catalog takes a second
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
        on_damage: told what was found where the catalog contradicts itself.
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
        self._looks = Looks(journal.bell, LOOK_EVERY_S)
        self.may_collect: Callable[[], bool] = lambda: not is_kept_back(catalog)
        self.on_damage: Callable[[str], None] = lambda _what: None

    async def run(self) -> None:
        """Collect until cancelled."""
        took_s = 0.0
        while True:
            await trio.sleep(max(0.0, REST * took_s - LOOK_EVERY_S))
            await self._looks.next()
            began = trio.current_time()
            try:
                await self.collect()
            except BitdustError as error:
                _log.info("nothing is collected now: %s", error)
            took_s = trio.current_time() - began

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
        """Forget loose chunks that no map names: neither by the index, nor by the maps read row by row."""
        doomed: set[ChunkNo] = set()
        at = ChunkNo(0)
        while self.may_collect() and len(doomed) < MOST and (page := self._catalog.loose_chunks(at, PAGE)):
            at = page[-1][0]
            in_use = self._in_use()
            doomed |= {chunk for chunk, is_needed in page if not is_needed and chunk not in in_use}
            needed = [chunk for chunk, is_needed in page if is_needed]
            if needed:
                with self._journal.operation():
                    self._catalog.settle_chunks(needed)
            await trio.lowlevel.checkpoint()
        if not doomed or not await self._are_named_nowhere(doomed):
            return
        at = ChunkNo(0)
        while self.may_collect() and (page := self._catalog.loose_chunks(at, PAGE)):
            at = page[-1][0]
            in_use = self._in_use()  # no await until they are dropped: what was named meanwhile is in the index
            unneeded = [chunk for chunk, needed in page if chunk in doomed and not needed and chunk not in in_use]
            if unneeded:
                with self._journal.operation():
                    self._catalog.drop_chunks(unneeded)
            await trio.lowlevel.checkpoint()

    async def _forget_dead(self) -> None:
        """Forget blocks in which nothing lies: neither by their count, nor by the chunks read row by row."""
        doomed: set[BlockNo] = set()
        at = _FIRST
        while self.may_collect() and len(doomed) < MOST and (page := self._catalog.dead_blocks(PAGE, at)):
            at = page[-1]
            doomed.update(page)
            await trio.lowlevel.checkpoint()
        doomed -= self._on_their_way
        if not doomed or not await self._are_empty(doomed):
            return
        for some in _parts(sorted(doomed), PAGE // 4):
            if not self.may_collect():
                return
            with self._journal.operation():  # no await: what was put there meanwhile is in the index
                for block in some:
                    if block not in self._on_their_way and not self._catalog.chunks_of_block(block):
                        self._releases.forget_block(block)
            await trio.lowlevel.checkpoint()

    async def _are_named_nowhere(self, chunks: Set[ChunkNo]) -> bool:
        """Whether no row of a map names one of these, which the index says too. Else the catalog is damaged."""
        at: tuple[int, int, int] | None = None
        while True:
            found, at = self._catalog.mapped_chunks(at, ROWS)
            if at is None:
                return True
            for chunk in chunks & found:
                if (chunk, False) in self._catalog.loose_chunks(ChunkNo(chunk - 1), 1):  # not named since we began
                    self._stop(f"chunk {chunk} is in a map, and not in the index of maps")
                    return False
            await trio.lowlevel.checkpoint()

    async def _are_empty(self, blocks: Set[BlockNo]) -> bool:
        """Whether no chunk lies in one of these, which their count says too. Else the catalog is damaged."""
        at: ChunkNo | None = ChunkNo(0)
        while at is not None:
            found, at = self._catalog.filled_blocks(at, ROWS)
            if not blocks.isdisjoint(found):
                self._stop(f"a chunk lies in block {min(blocks & found)}, which is counted as empty")
                return False
            await trio.lowlevel.checkpoint()
        return True

    def _stop(self, what: str) -> None:
        """Collect nothing any more until somebody has looked."""
        _log.error("the catalog is damaged: %s; nothing is let go any more", what)
        with self._journal.operation():
            keep_back(self._catalog, is_missing=True)
        self.on_damage(what)


def _parts(blocks: Sequence[BlockNo], most: int) -> Iterator[Sequence[BlockNo]]:
    return (blocks[at : at + most] for at in range(0, len(blocks), most))


def keep_back(catalog: Catalog, *, is_missing: bool) -> None:
    """Note whether something of a catalog is missing: a block in which nothing seems to lie may be needed then.

    A copy of the catalog, or the head that suppliers had, may still say what for. The caller commits.
    """
    catalog.put_local_value(_KEPT_BACK, b"1" if is_missing else b"")


def is_kept_back(catalog: Catalog) -> bool:
    """Whether nothing may be called unneeded, because something of the catalog is missing."""
    return bool(catalog.local_value(_KEPT_BACK))
