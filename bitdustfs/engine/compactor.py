"""The compactor: write the live chunks of mostly dead and of small blocks into new ones (engine/rewriter).

One block at a time, and only while nobody else needs the machine. Blocks keep their code: what is to get another one
is the recoder's, and left to it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import trio

from bitdustfs.core import compaction
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.rewriter import Old, Rewriter
from bitdustfs.engine.strays import put_bounded
from bitdustfs.errors import BitdustError, Unavailable
from bitdustfs.model import BlockNo, Sparse
from bitdustfs.ports import Catalog

LOOK_EVERY_S = 30.0  # (tune) there is no hurry: what is deleted in one go shall be seen as a whole
PAGE = 32  # sparse blocks looked at in one go
SMALL = 256  # small blocks looked at, the smallest first
AGAIN_S = 600.0  # after a new block that could not be placed: that was traffic for nothing
UNREADABLE_S = 3600.0  # (tune) a block that could not be read: it keeps no other one waiting
REMEMBERED = 16384  # blocks that gain nothing: they are not looked into each time
_log = logging.getLogger(__name__)


class Compactor:
    """Make few and full blocks of many and sparse ones."""

    def __init__(self, catalog: Catalog, journal: Journal, rewriter: Rewriter) -> None:
        self._catalog = catalog
        self._journal = journal
        self._rewriter = rewriter
        self._pause_until = 0.0
        self._in_vain: OrderedDict[BlockNo, int] = OrderedDict()  # and how much was live in each
        self._unreadable: OrderedDict[BlockNo, float] = OrderedDict()  # until when they are passed over

    async def run(self) -> None:
        """Compact until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if self._journal.refusal is None and self._rewriter.may_rewrite():
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
        small = [each for each in self._catalog.small_blocks(SMALL) if self._rewriter.is_free(each.block)]
        for group in compaction.mergeable(each for each in small if self._is_new(each)):
            await self._work_off(group, is_whole=True)

    def _is_new(self, each: Sparse) -> bool:
        if self._unreadable.get(each.block, 0.0) > trio.current_time():
            return False
        return self._in_vain.get(each.block) != each.live_bytes and not self._catalog.is_marked(each.block)

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

    def _old(self, sparse: Sequence[Sparse]) -> list[Old]:
        found = []
        for each in sparse:
            row = self._catalog.block(each.block)
            chunks = self._catalog.chunks_of_block(each.block)
            slots = {chunk.slot: chunk for chunk in reversed(chunks)}  # of a slot the oldest: no other line named it
            if row is not None and slots and self._rewriter.is_free(each.block):
                found.append(Old(row, list(reversed(slots.values()))))
        return found

    # -- writing -----------------------------------------------------------------------------------------------

    async def _rewrite(self, old: Sequence[Old]) -> None:
        """Write one new block in place of these, if that is worth it and can be done now."""
        lengths = [chunk.length for each in old for chunk in each.chunks]
        if not old or not compaction.is_worth_it([each.row.length for each in old], lengths):
            self._note_in_vain(old)
            return
        await self._rewriter.turn()
        code = old[0].row.code
        if trio.current_time() < self._pause_until or not self._rewriter.can_be_placed(old, code):
            return
        plaintexts = []
        for each in old:
            try:
                plaintexts.append(await self._rewriter.read(each))
            except BitdustError as error:
                _log.info("block %d stays as it is for now: %s", each.row.block, error)
                put_bounded(self._unreadable, each.row.block, trio.current_time() + UNREADABLE_S, REMEMBERED)
                return  # the next look takes up the others without it
        try:
            block = await self._rewriter.write(old, plaintexts, code, also=lambda: self._refuse_marked(old))
            _log.debug("block %d takes what was in %d others", block, len(old))
        except BitdustError as error:
            _log.info("%d blocks stay as they are for now: %s", len(old), error)
            self._pause_until = trio.current_time() + AGAIN_S

    def _refuse_marked(self, old: Sequence[Old]) -> None:
        if any(self._catalog.is_marked(each.row.block) for each in old):
            raise Unavailable(what="they are to be coded anew")

    def _note_in_vain(self, old: Sequence[Old]) -> None:
        for each in old:
            put_bounded(self._in_vain, each.row.block, sum(chunk.length for chunk in each.chunks), REMEMBERED)
