"""The outlook: what would be left if one supplier went.

Worked out from the catalog alone. The supplier's fragments are gone through page by page, so a volume of any size
costs memory for the blocks that would be lost and no others, and nobody waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from bitdustfs.core import health
from bitdustfs.core.report import WithoutReport
from bitdustfs.engine.files import Files
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.holder_pages import holder_pages
from bitdustfs.engine.margins import least_margin
from bitdustfs.engine.tree import Tree
from bitdustfs.errors import NotFound
from bitdustfs.model import (
    ROOT_INO,
    BlockNo,
    Code,
    Cookie,
    FileState,
    FragmentRow,
    FragmentState,
    Ino,
    Inode,
    Standing,
    Supplier,
)
from bitdustfs.ports import Catalog

PAGE = 50  # fragments looked at before others get a turn: some milliseconds
EXAMPLES = 10  # paths told of what would be lost


@dataclass(slots=True)
class _Fall:
    """What the blocks come down to."""

    counts: Counter[tuple[Code, int]]  # (code, held fragments): blocks
    lost: set[BlockNo] = field(default_factory=set)
    fragments: int = 0
    degraded: int = 0


class Outlook:
    """Answers `status --without`."""

    def __init__(self, catalog: Catalog, files: Files, tree: Tree, fragments: Fragments) -> None:
        self._catalog = catalog
        self._files = files
        self._tree = tree
        self._fragments = fragments
        self.only_reads: Callable[[], bool] = lambda: False  # see `Reporter.only_reads`

    async def without(self, label: str) -> WithoutReport:
        """What would be if the supplier with that label, or with a node id that begins so, went now.

        Raises:
            NotFound: no supplier, or more than one, is meant.
        """
        row = self._meant(label)
        fall = await self._fall(row)
        files, size, examples = await self._lost_files(fall.lost) if fall.lost else (0, 0, [])
        worst = min(fall.counts, key=lambda each: (each[1] - each[0].k, each[1] - each[0].n), default=None)
        others = [
            each
            for each in self._catalog.suppliers()
            if each.supplier != row.supplier and each.standing in (Standing.HIRED, Standing.CANDIDATE)
        ]
        online = self._fragments.asks.reachable() - {row.supplier}
        states = [health.block_state(code, held, local_copy=False) for code, held in fall.counts]
        return WithoutReport(
            label=row.label,
            fragments=fall.fragments,
            used_bytes=row.used_bytes,
            state=health.worst(states).value,
            blocks_lost=len(fall.lost),
            blocks_degraded=fall.degraded,
            files_lost=files,
            bytes_lost=size,
            examples=examples,
            held=worst[1] if worst else 0,
            wanted=worst[0].n if worst else 0,
            needed=worst[0].k if worst else 0,
            margin=await least_margin(self._catalog, online, of_files=self.only_reads()) or 0,
            others=len(others),
            most_wanted=max((code.n for code, _ in fall.counts), default=0),
        )

    # -- private ---------------------------------------------------------------------------------------------

    def _meant(self, label: str) -> Supplier:
        rows = [row for row in self._catalog.suppliers() if row.standing is not Standing.FIRED]
        meant = [row for row in rows if row.label == label] or [
            row for row in rows if label and row.node.hex().startswith(label)
        ]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise NotFound(what=f"{len(meant)} suppliers are called {label!r}: give the beginning of the node id")
        known = ", ".join(row.label for row in rows) or "nobody"
        raise NotFound(what=f"no supplier is called {label!r}; there are: {known}")

    async def _fall(self, row: Supplier) -> _Fall:
        of_files = self.only_reads()
        histogram = self._catalog.held_histogram(of_files=of_files)
        fall = _Fall(Counter({(code, held): count for code, held, count in histogram}))
        for page in self._pages(row):
            for each in page:
                block = self._catalog.block(each.block)
                if block is None:
                    continue
                fall.fragments += 1
                if of_files and each.block < 0:
                    continue
                rows = [r for r in self._catalog.fragments(each.block) if r.state is FragmentState.HELD]
                before = len({r.index for r in rows})
                after = len({r.index for r in rows if r.supplier != row.supplier})
                fall.counts[block.code, before] -= 1
                fall.counts[block.code, after] += 1
                state = health.block_state(block.code, after, local_copy=False)
                fall.degraded += state is FileState.DEGRADED
                if state is FileState.LOST:
                    fall.lost.add(each.block)
            await trio.lowlevel.checkpoint()
        fall.counts = +fall.counts
        return fall

    def _pages(self, row: Supplier) -> Iterator[list[FragmentRow]]:
        """The fragments that it holds, one of each block."""
        for page in holder_pages(self._catalog, row.supplier, FragmentState.HELD, PAGE):
            yield list({each.block: each for each in page}.values())

    async def _lost_files(self, lost: set[BlockNo]) -> tuple[int, int, list[str]]:
        """How many files could not be read whole any more, their bytes, and the paths of some."""
        files = size = seen = 0
        examples: list[str] = []
        walks = [self._entries("", ROOT_INO)]
        while walks:
            entry = next(walks[-1], None)
            if entry is None:
                walks.pop()
                continue
            path, inode = entry
            if inode.is_dir:
                walks.append(self._entries(path, inode.ino))
            elif inode.is_file and self._needs(inode, lost):
                files += 1
                size += inode.size
                if len(examples) < EXAMPLES:
                    examples.append(path)
            seen += 1
            if seen % PAGE == 0:
                await trio.lowlevel.checkpoint()
        return files, size, examples

    def _entries(self, path: str, directory: Ino) -> Iterator[tuple[str, Inode]]:
        after = Cookie(0)
        while page := self._tree.listing(directory, after, PAGE):
            for name, inode in page:
                yield f"{path}/{name.name.decode('utf-8', 'surrogateescape')}", inode
            after = page[-1][0].cookie

    def _needs(self, inode: Inode, lost: set[BlockNo]) -> bool:
        return not lost.isdisjoint(self._catalog.blocks_of(inode.ino)) and not self._files.is_whole_here(inode.ino)
