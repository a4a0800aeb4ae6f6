"""The follower: n of stored blocks follows what their files wish, and the code of a folder what is in it.

    a code is set, suppliers come or go, a block is new -> each block: what do its files wish? (core/codes)
    -> another n: noted in its row -> the rebuilder makes what is missing, the trimmer lets go what is too much
    -> another k: counted, for `status`; that is coded anew on command only (engine/recoder)

The blocks of the catalog's own replica follow too, when a supplier goes and nobody is to come in its place.

Only the wish is changed here, so nothing is sent or let go by it, and it costs a walk over the catalog: once after a
code was set or the number of suppliers changed what is usual, and once a day, for what was deleted may have wished
more. New blocks are looked at as they come. A block that is being worked on is looked at again, and so is one with
chunks that a version on its way refers to: what that one wishes is seen only once it is published.

A folder hands its code to what is made in it. When the folder gets another one, that goes to everything in it that
had the former one too: page by page, and where it is, is in the replicated tables, in the same change. So a killed
process goes on, and so does a machine that recovers the volume meanwhile.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import trio

from bitdustfs.core import replica
from bitdustfs.core.codes import Usual, wished_code, wished_n
from bitdustfs.core.placement import default_code, parse_code
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.kept import kept
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BitdustError
from bitdustfs.model import NO_BLOCK, BlockNo, BlockRow, ChunkNo, Code, Cookie, FragmentState, Ino, Inode, Standing
from bitdustfs.ports import Catalog

LOOK_EVERY_S: Final = 5.0
FIRST_S: Final = 3600.0  # (tune) until the first walk over all blocks if nothing was set …
ANEW_S: Final = 24 * 3600.0  # (tune) … and between two of them
PAGE: Final = 16  # (tune) blocks looked at in one go: 3 ms if they hold few chunks …
GO_S: Final = 0.004  # (tune) … and no further block after so long: one of a thousand small files takes 10 ms
NAMES: Final = 64  # (tune) of a folder, in one go: 3 ms
SHARE: Final = 3  # a walk takes a quarter of the loop at most
_WALK: Final = "codes_followed"  # in the catalog, local: JSON [what was usual, last block, blocks of another k]
_SPREAD: Final = "codes_spread"  # in the catalog: JSON [[former, new, [[directory, last cookie], …]], …]
_Spread = tuple[str, str, list[tuple[int, int]]]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Walk:
    """How far it was looked at what files wish."""

    usual: str = ""
    last: BlockNo = NO_BLOCK
    unlike: int = 0  # blocks until there with chunks that wish another k


class Follower:
    """Have blocks follow their files, and files follow their folder.

    Args:
        chosen: the volume's code; None: by the number of suppliers.
        on_their_way: blocks with fragments still being sent; at_work: those that are being completed.
        in_use: the chunks that versions on their way refer to.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        releases: Releases,
        *,
        chosen: Code | None,
        on_their_way: Set[BlockNo],
        at_work: Set[BlockNo],
        in_use: Callable[[], Set[ChunkNo]],
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._releases = releases
        self._chosen = chosen
        self._on_their_way = on_their_way
        self._at_work = at_work
        self._in_use = in_use
        self._passed: set[BlockNo] = set()  # blocks that were being worked on, or referred to
        self._unlike: int | None = None  # of the last whole walk of this process
        self._looks = Looks(journal.bell, LOOK_EVERY_S)

    @property
    def unlike(self) -> int:
        """Blocks with chunks that wish another k, as the last walk counted them."""
        return self._unlike if self._unlike is not None else self._known().unlike

    def usual(self) -> Usual:
        """The code of files for which none was chosen."""
        standings = [row.standing for row in self._catalog.suppliers()]
        expected = (Standing.HIRED, Standing.CANDIDATE, Standing.LOST)
        return Usual(self._chosen, standings.count(Standing.HIRED), sum(each in expected for each in standings))

    def n_with_one_less(self) -> int:
        """How many suppliers the blocks there are, and the next one, want if one less is hired, and nobody comes."""
        usual, codes = self.usual(), self._catalog.codes()
        if usual.chosen is not None:
            return max(code.n for code in (*codes, usual.chosen))
        fewer = replace(usual, hired=usual.hired - 1, expected=usual.expected - 1)
        return max((wished_n(code, [None], fewer) for code in codes), default=0)

    def is_unlike(self, row: BlockRow) -> bool:
        """Whether something in a block wishes another k."""
        return _is_unlike(row, [codes for _chunk, codes in self._catalog.wishes(row.block)], self.usual())

    def look_again(self) -> None:
        """What files wish may have changed. The caller has an operation."""
        self._catalog.put_local_value(_WALK, b"")

    def code_set(self, inode: Inode, new: Code | None) -> None:
        """An inode that was like this gets another code: what is in a directory is to get it too, if it had the same.

        The caller has an operation.
        """
        self.look_again()
        if inode.is_dir and inode.code != new:
            spreads = [*self._spreads(), (_text(inode.code), _text(new), [(int(inode.ino), 0)])]
            self._catalog.put_value(_SPREAD, json.dumps(spreads).encode())

    async def run(self) -> None:
        """Follow until cancelled."""
        anew_at = trio.current_time() + FIRST_S
        while True:
            if self._journal.refusal is None:
                try:
                    while self._step_into():
                        await trio.lowlevel.checkpoint()
                    if trio.current_time() >= anew_at:
                        anew_at = trio.current_time() + ANEW_S
                        with self._journal.operation():
                            self.look_again()
                    await self.walk()
                    self._look_at_passed()
                    self._follow_replica()
                except BitdustError as error:
                    _log.info("codes are not followed now: %s", error)
            await self._looks.next(within_s=0 if self._passed else anew_at - trio.current_time())

    # -- blocks ------------------------------------------------------------------------------------------------

    async def walk(self) -> None:
        """Look at the blocks that were not looked at since their wish may have changed. Raises what a change does."""
        while self._journal.refusal is None:
            began = trio.current_time()
            if not self._look():
                return
            await trio.sleep(SHARE * (trio.current_time() - began))

    def _look(self) -> bool:
        """Look at a page of blocks. False: there was none."""
        usual, walk = self.usual(), self._known()
        if walk.usual != _key(usual):
            walk = _Walk(_key(usual))
        page = self._catalog.blocks(after=walk.last, limit=PAGE)
        if not page:
            self._unlike = walk.unlike
            return False
        began, in_use = trio.current_time(), cache(self._in_use)
        with self._journal.operation():
            for row in page:
                walk.unlike += self._follow(row, usual, in_use)
                walk.last = row.block
                if trio.current_time() - began > GO_S:
                    break
            told = [walk.usual, int(walk.last), walk.unlike]
            self._catalog.put_local_value(_WALK, json.dumps(told).encode())
        return True

    def _look_at_passed(self) -> None:
        """Look once more at blocks that were being worked on."""
        rows = [self._catalog.block(block) for block in self._passed]
        if rows:
            self._passed = set()
            usual, in_use = self.usual(), cache(self._in_use)
            with self._journal.operation():
                for row in rows:
                    if row is not None:
                        self._follow(row, usual, in_use)

    def _follow_replica(self) -> None:
        usual = self.usual()
        codes = [*self._catalog.codes(), *([usual.of_new] if usual.of_new is not None else [])]
        losses = max((code.n - code.k for code in codes), default=0)
        for row in self._catalog.local_blocks():
            n = replica.kept_n(row.code, usual.expected, losses) if usual.expected else row.code.n
            if n < row.code.n and row.block not in self._on_their_way and row.block not in self._at_work:
                with self._journal.operation():
                    self._wish(row, n)

    def _known(self) -> _Walk:
        raw = self._catalog.local_value(_WALK)
        noted = kept(raw, tuple[str, int, int], "all blocks are gone through for their codes again")
        return _Walk(noted[0], BlockNo(noted[1]), noted[2]) if noted is not None else _Walk()

    def _follow(self, row: BlockRow, usual: Usual, in_use: Callable[[], Set[ChunkNo]]) -> bool:
        """Note the n that a block is to have now. Returns whether something in it wishes another k."""
        chunks = self._catalog.wishes(row.block)
        wishes = [codes for _chunk, codes in chunks]
        is_unlike = _is_unlike(row, wishes, usual)
        n = wished_n(row.code, frozenset[Code | None]().union(*wishes), usual)
        if n == row.code.n:
            return is_unlike
        if row.block in self._on_their_way or row.block in self._at_work:
            self._passed.add(row.block)  # what is sent of it may be what is forgotten here
            return is_unlike
        if n < row.code.n and not in_use().isdisjoint(chunk for chunk, _codes in chunks):
            self._passed.add(row.block)  # the version that refers to it may wish more
            return is_unlike
        self._wish(row, n)
        return is_unlike

    def _wish(self, row: BlockRow, n: int) -> None:
        """Note that a block is to have n fragments.

        What was to be made again, and needs not be any more, keeps no place with its supplier.
        """
        _log.debug("block %d is to have %d fragments, not %d", row.block, n, row.code.n)
        wished = replace(row, code=Code(row.code.k, n))
        self._catalog.put_block(wished)
        is_full = self._catalog.held(row.block) >= n
        missing = [
            each
            for each in self._catalog.fragments(row.block)
            if each.state in (FragmentState.WANTED, FragmentState.LOST) and (is_full or each.index >= n)
        ]
        if n < row.code.n and missing:
            self._releases.forget_fragments(wished, missing)

    def _spreads(self) -> list[_Spread]:
        """What codes are still to be handed on to what is in folders; of damaged ones none."""
        told = "a folder whose code was just set may have to be given it once more"
        found = kept(self._catalog.value(_SPREAD), list[_Spread], told) or []
        if all(stack and _is_code(former) and _is_code(new) for former, new, stack in found):
            return found
        _log.warning("a note in the catalog is damaged, so %s", told)
        return []

    # -- folders -----------------------------------------------------------------------------------------------

    def _step_into(self) -> bool:
        """Give a page of a folder's names its code. False: there is nothing to do."""
        if not self._catalog.value(_SPREAD):
            return False
        spreads = self._spreads()
        if not spreads:  # damaged
            with self._journal.operation():
                self._catalog.put_value(_SPREAD, b"")
            return False
        (former, new, stack), *others = spreads
        directory, cookie = stack.pop()
        page = self._catalog.names(Ino(directory), Cookie(cookie), NAMES)
        with self._journal.operation():
            if len(page) == NAMES:
                stack.append((directory, int(page[-1][0].cookie)))
            for _name, inode in page:
                if _text(inode.code) == former and (inode.is_dir or inode.is_file):
                    self._catalog.put_inode(replace(inode, code=parse_code(new) if new else None))
                    stack += [(int(inode.ino), 0)] if inode.is_dir else []
            left = [(former, new, stack), *others] if stack else others
            self._catalog.put_value(_SPREAD, json.dumps(left).encode() if left else b"")
            self.look_again()
        return True


def _is_unlike(row: BlockRow, wishes: Iterable[frozenset[Code | None]], usual: Usual) -> bool:
    told = (wished_code(codes, usual.of_new) for codes in set(wishes))
    return any(code is not None and code.k != row.code.k for code in told)


def _key(usual: Usual) -> str:
    """What tells one usual code from another, for blocks of any code."""
    if usual.chosen is not None:
        return str(usual.chosen)
    return "/".join(str(default_code(count)) if count else "none" for count in (usual.hired, usual.expected))


def _is_code(text: str) -> bool:
    try:
        return not text or bool(parse_code(text))
    except BitdustError:
        return False


def _text(code: Code | None) -> str:
    return str(code) if code is not None else ""
