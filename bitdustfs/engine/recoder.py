"""The recoder: code anew, on command, what is to have another k than its block.

    `bitdustfs recode` -> the files that wish another k -> the blocks that their chunks lie in are marked (durable)
    -> in the background each marked block: the chunks that wish another k are written into new blocks
    (engine/rewriter), the rest stays -> nothing in it wishes another k any more: the mark goes

The marks are this machine's, so a killed process goes on where it was; what wishes another k is seen anew at each
block. What was asked for is in the replicated tables, so that another machine, which recovers the volume meanwhile,
looks for it again and goes on too. Where the volume's code goes by the number of suppliers, it is kept from when it
was asked for: a supplier that is away meanwhile changes nothing. Old blocks are let go like all that nobody needs: by
the collector, when a safe head says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

import trio

from bitdustfs.core import compaction
from bitdustfs.core.codes import wished_code
from bitdustfs.core.placement import parse_code
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.follower import Follower
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.kept import kept
from bitdustfs.engine.rewriter import Old, Rewriter
from bitdustfs.engine.tree import Tree
from bitdustfs.errors import BitdustError
from bitdustfs.model import SEAL_BYTES, BlockNo, BlockRow, ChunkRow, Code, Ino, Inode
from bitdustfs.ports import Catalog

LOOK_EVERY_S: Final = 5.0
AGAIN_S: Final = 600.0  # after a new block that could not be placed, or an old one that could not be read
PAGE: Final = 32  # marked blocks looked at in one go
MARKS: Final = 256  # in one operation
BREATHE: Final = 16  # files looked at before others get a turn
REPORT_S: Final = 0.5
MOST_ASKED: Final = 64  # inodes that are remembered for another machine: the oldest are forgotten
_ASKED: Final = "recode"  # in the catalog: JSON [code by the number of suppliers when it was asked for, [inode, …]]
_IS_MARKED: Final = "recode_marked"  # in the catalog, local: whether all blocks of what was asked for are, or were
_log = logging.getLogger(__name__)

Report = Callable[["Recoding"], Awaitable[None]]


@dataclass(slots=True)
class Recoding:
    """What is to be coded anew."""

    files: int = 0
    blocks: int = 0
    bytes: int = 0  # of plaintext
    send_bytes: int = 0  # of fragments
    codes: dict[tuple[Code, Code], int] = field(default_factory=dict)  # bytes of plaintext, by old and new code
    looked_at: int = 0  # files


class Recoder:
    """Find, mark and code anew."""

    def __init__(
        self, catalog: Catalog, journal: Journal, tree: Tree, rewriter: Rewriter, follower: Follower
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._tree = tree
        self._rewriter = rewriter
        self._follower = follower
        self._later: dict[BlockNo, float] = {}  # blocks that could not be read, and until when they are left
        self._pause_until = 0.0
        self._looks, self._is_idle = Looks(journal.bell, LOOK_EVERY_S), False
        self.trouble = ""  # why it does not go on now; "": it does, or there is nothing to do

    # -- on command --------------------------------------------------------------------------------------------

    async def recode(self, ino: Ino, report: Report, *, is_dry: bool) -> Recoding:
        """Find what below an inode is to be coded anew, and mark it; durable when this returns.

        Args:
            report: called now and then with what was found so far.
            is_dry: do not mark it.
        Raises:
            DiskFull, DiskFault, ReadOnly: not all of it was marked.
        """
        usual = self._follower.usual().of_new
        found, blocks = await self._find(ino, usual, report)
        if not is_dry:
            is_all = not self._is_to_be_marked_again()  # else that is still to be done, whatever is marked now
            self._note(usual, ino if blocks else None)
            await self._mark(blocks, is_all=is_all)
        return found

    async def _find(self, ino: Ino, usual: Code | None, report: Report) -> tuple[Recoding, list[BlockNo]]:
        """What below an inode is to be coded anew, and the blocks that it lies in."""
        found, known, unlike = Recoding(), dict[BlockNo, int](), dict[BlockNo, bool]()
        stack: list[Inode] = [self._tree.attributes(ino)]
        told_at = trio.current_time()
        while stack:
            inode = stack.pop()
            found.looked_at += 1
            if found.looked_at % BREATHE == 0:
                await trio.lowlevel.checkpoint()
                if trio.current_time() - told_at >= REPORT_S:
                    told_at = trio.current_time()
                    await report(found)
            if inode.is_dir:
                stack.extend(self._tree.children(inode.ino))
            elif inode.is_file:
                wish = inode.code or usual
                mine = []
                for number in self._catalog.blocks_of(inode.ino):
                    if number not in known:
                        row = self._catalog.block(number)
                        known[number] = row.code.k if row is not None else 0
                    if wish is not None and known[number] not in (0, wish.k):
                        mine.append(number)
                        if number not in unlike:
                            unlike[number] = self._count(number, usual, found)
                found.files += any(unlike[number] for number in mine)
        return found, [number for number, is_unlike in unlike.items() if is_unlike]

    def _count(self, number: BlockNo, usual: Code | None, found: Recoding) -> bool:
        """Count a block if something has to be written out of it."""
        row = self._catalog.block(number)
        if row is None:
            return False
        moves = self._moves(row, usual)
        for code, chunks in moves.items():
            length = sum(chunk.length for chunk in chunks)
            found.bytes += length
            found.send_bytes += -(-(length + SEAL_BYTES * len(chunks)) // code.k) * code.n
            found.codes[row.code, code] = found.codes.get((row.code, code), 0) + length
        found.blocks += bool(moves)
        return bool(moves)

    def _note(self, usual: Code | None, ino: Ino | None) -> None:
        """Remember what is asked for; with None only the code, which holds for what was marked before too."""
        is_chosen = usual is None or self._follower.usual().chosen is not None
        before = self._what_was_asked()
        others = [each for each in before[1] if each != ino]
        inos = [*others, *([int(ino)] if ino is not None else [])][-MOST_ASKED:]
        now = "" if is_chosen else str(usual), inos
        if inos and now != before:
            with self._journal.operation():
                self._catalog.put_value(_ASKED, json.dumps(now).encode())

    def _what_was_asked(self) -> tuple[str, list[int]]:
        raw = self._catalog.value(_ASKED)
        return kept(raw, tuple[str, list[int]], "what was to be coded anew has to be asked for again") or ("", [])

    def _is_to_be_marked_again(self) -> bool:
        """Whether it was asked for on a machine that was lost, or of a process that died over it."""
        return bool(self._what_was_asked()[1]) and not self._catalog.local_value(_IS_MARKED)

    async def _mark(self, blocks: Sequence[BlockNo], *, is_all: bool) -> None:
        with self._journal.operation():
            self._catalog.put_local_value(_IS_MARKED, b"")
        for at in range(0, len(blocks), MARKS):
            with self._journal.operation():
                self._catalog.mark_blocks(blocks[at : at + MARKS])
            await trio.lowlevel.checkpoint()
        with self._journal.operation():
            self._catalog.put_local_value(_IS_MARKED, b"1" if is_all else b"")
        await self._journal.durable()
        self._later, self._pause_until = {}, 0.0
        self._looks.now()

    def _moves(self, row: BlockRow, usual: Code | None) -> dict[Code, list[ChunkRow]]:
        """The chunks of a block that are to have another k, one for each slot, by their code."""
        wishes = dict(self._catalog.wishes(row.block))
        slots: dict[int, ChunkRow] = {}
        codes: dict[int, set[Code | None]] = {}
        for chunk in self._catalog.chunks_of_block(row.block):  # several may lie in one slot
            slots.setdefault(chunk.slot, chunk)  # the oldest: no other line named it
            codes.setdefault(chunk.slot, set()).update(wishes.get(chunk.chunk, ()))
        moves: dict[Code, list[ChunkRow]] = {}
        for slot, chunk in slots.items():
            code = wished_code(codes[slot], usual)
            if code is not None and code.k != row.code.k:
                moves.setdefault(code, []).append(chunk)
        return moves

    # -- in the background -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Code marked blocks anew until cancelled."""
        while True:
            self._is_idle = False
            if self._may_go_on():
                try:
                    await self._work()
                except BitdustError as error:
                    _log.info("nothing is coded anew now: %s", error)
                    self.trouble = str(error)
            await self._looks.next(within_s=inf if self._is_idle else 0)

    def _may_go_on(self) -> bool:
        is_due = trio.current_time() >= self._pause_until
        return is_due and self._journal.refusal is None and self._rewriter.may_rewrite()

    async def _work(self) -> None:
        """Go once through all marked blocks."""
        if self._is_to_be_marked_again():
            await self._mark_again()
        usual = self._usual()
        at, groups, had_some = BlockNo(0), dict[Code, list[Old]](), False
        self.trouble = ""
        self._is_idle = not self._catalog.marked_blocks(1, at)
        while page := self._catalog.marked_blocks(PAGE, at):
            at, had_some = page[-1], True
            for code, old in self._page(page, usual):
                group = groups.setdefault(code, [])
                group.append(old)
                while (count := compaction.fill([each.lengths for each in group])) < len(group):
                    full, group[:] = group[: max(1, count)], group[max(1, count) :]
                    await self._rewrite(full, code, usual)
                    if not self._may_go_on():
                        return
            await trio.lowlevel.checkpoint()
        for code, group in groups.items():
            if self._may_go_on():
                await self._rewrite(group, code, usual)
        if (had_some or self._what_was_asked()[1]) and not self._catalog.marked_blocks(1, BlockNo(0)):
            with self._journal.operation():
                self._follower.look_again()  # what it counted is not so any more
                if self._catalog.value(_ASKED):
                    self._catalog.put_value(_ASKED, b"")

    async def _mark_again(self) -> None:
        """Mark the blocks of all that was asked for."""
        _text, inos = self._what_was_asked()
        _log.info("%d files or folders are looked at again: they were to be coded anew", len(inos))
        blocks: dict[BlockNo, None] = {}
        for ino in inos:
            if self._catalog.inode(Ino(ino)) is not None:
                blocks |= dict.fromkeys((await self._find(Ino(ino), self._usual(), _tell_nobody))[1])
        await self._mark(list(blocks), is_all=True)

    def _usual(self) -> Code | None:
        """The code of files for which none was chosen, for what was marked."""
        now, text = self._follower.usual(), self._what_was_asked()[0]
        return now.of_new if now.chosen is not None or not text else parse_code(text)

    def _page(self, page: Sequence[BlockNo], usual: Code | None) -> list[tuple[Code, Old]]:
        """What of these blocks is to be written elsewhere now. Those with nothing of the kind are marked no more."""
        found: list[tuple[Code, Old]] = []
        done: list[BlockNo] = []
        now = trio.current_time()
        for number in page:
            row = self._catalog.block(number)
            moves = self._moves(row, usual) if row is not None else {}
            if row is None or not moves:
                done.append(number)
            elif self._rewriter.is_free(number) and self._later.get(number, now) <= now:
                found += [(code, Old(row, chunks)) for code, chunks in moves.items()]
        if done:
            with self._journal.operation():
                self._catalog.unmark_blocks(done)
        return found

    async def _rewrite(self, group: Sequence[Old], code: Code, usual: Code | None) -> None:
        """Write one new block of this code with what can be read of these."""
        if not group:
            return
        await self._rewriter.turn()
        if not self._rewriter.can_be_placed(group, code):
            self.trouble = f"too few suppliers answer and have room for blocks of {code}"
            return
        old, plaintexts = list[Old](), list[list[bytes]]()
        for each in group:
            try:
                plaintexts.append(await self._rewriter.read(each))
                old.append(each)
            except BitdustError as error:
                _log.info("block %d cannot be coded anew for now: %s", each.row.block, error)
                self.trouble = str(error)
                self._later[each.row.block] = trio.current_time() + AGAIN_S
        if not old:
            return
        try:
            block = await self._rewriter.write(old, plaintexts, code)
        except BitdustError as error:
            _log.info("%d blocks keep their code for now: %s", len(old), error)
            self.trouble = str(error)
            self._pause_until = trio.current_time() + AGAIN_S
            return
        _log.debug("block %d takes what was in %d others, as %s", block, len(old), code)
        self._page([each.row.block for each in old], usual)


async def _tell_nobody(_found: Recoding) -> None:
    return
