"""Grafting: a tree of another catalog of this volume becomes a generation of ours, which was never current here.

Both trees are gone through by name, directory by directory. What is the same in both is shared, and costs nothing.
Other files get numbers of their own. Of their chunks those that are in our catalog are referred to; the others come
with the blocks that they lie in, for both lines have one volume key: no byte is moved. From then on these blocks are
ours: they are repaired, and let go only when nothing here names them. No block is ours twice: an earlier head of that
line may have brought it, and to forget the one would let go what the other needs.

What is the same in both may be held by too few with us, and well with them, who wrote it anew: then it is not shared,
and comes as what is different does. Our own tree is left as it is: nobody's word but ours says where its chunks lie
(engine/regaining looks before it takes theirs). If it is the same block, and they made fragments of it that we do not
know, these are noted, and count.

What a chunk is said to be is the word of whoever signed that line, perhaps on a machine that was stolen. So chunks
that came are marked by their numbers, and nothing that is written here is ever taken to be there already in them.

Each name is one operation, so this takes its time and holds nobody up. Nothing shows the generation meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import trio

from bitdustfs.core import brought, erasure
from bitdustfs.core.past import at, split
from bitdustfs.core.ranges import chunk_count
from bitdustfs.engine.journal import Journal, Operation
from bitdustfs.engine.releases import Releases
from bitdustfs.errors import BadFormat
from bitdustfs.model import (
    FIRST_BROUGHT,
    HOLE,
    ROOT_INO,
    BlockId,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Cookie,
    FragmentRow,
    FragmentState,
    Ino,
    Inode,
    Name,
    NodeId,
    Standing,
    SupplierNo,
)
from bitdustfs.ports import Catalog

_PAGE: Final = 500  # names, or blocks, in one look
_ROWS: Final = 256  # (tune) rows of a map in one operation


class Grafting:
    """Make generations of ours show trees of theirs. Worth nothing any more once `run` has failed.

    Args:
        admit: raises why nothing more may be added to our catalog.
        hires: a supplier that only they have hired is hired here too. Who signed their head may be a machine that
            the owner has put out: it has no say in whom our heads count on, and what only such suppliers hold does
            not count.
        doubted: how many of the fragments of a block of ours that we count on may be gone (engine/regaining).
    """

    def __init__(
        self,
        ours: Catalog,
        theirs: Catalog,
        journal: Journal,
        releases: Releases,
        admit: Callable[[], None],
        *,
        hires: bool = True,
        doubted: Mapping[BlockNo, int] | None = None,
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._journal = journal
        self._releases = releases
        self._generation = 0
        self._admit = admit
        self._hires = hires
        self._doubted = doubted or {}
        self._numbers: dict[Ino, Ino] = {}  # of their inodes, with us
        self._taken: set[Ino] = set()  # those of ours
        self._chunks: dict[ChunkNo, ChunkNo] = {}
        self._blocks: dict[BlockNo, BlockNo] = {}
        self._only_ours: dict[BlockId, BlockNo] = {}
        self._poor: set[BlockNo] = set()  # blocks of ours that too few hold
        self._suppliers: dict[SupplierNo, SupplierNo | None] = {}
        self.adopted: list[BlockNo] = []  # blocks that our catalog did not have

    async def prepare(self) -> None:
        """Look through both catalogs, once, before anything else."""
        self._only_ours = await self._blocks_only_ours()
        self._poor = await self._poor_blocks()
        await self._learn()

    def unsure(self) -> set[BlockNo]:
        """The blocks of ours of which too few fragments are sure to be there for them to be read."""
        rows = ((each, self._ours.block(each)) for each in self._poor)
        return {each for each, row in rows if row is not None and self._held(each) < row.code.k}

    def named(self) -> list[BlockNo]:
        """The blocks, with us, in which what was brought lies, so far."""
        return sorted(set(self._blocks.values()))

    def is_sure_there(self, block: BlockRow) -> bool:
        """Whether enough of one of their blocks is held for it to be read, by suppliers that count with us."""
        return self._held_there(block.block) >= block.code.k

    async def run(self, generation: int, of: int = 0) -> None:
        """Bring everything of one tree in.

        Args:
            generation: of ours; it is kept, and shown by nobody yet.
            of: theirs; 0: what is there now.
        Raises:
            BadFormat: a directory of theirs is at two places, or something is none of what we write (core/brought).
            DiskFull, DiskFault, and what `admit` does. Some of it is in.
        """
        self._generation, self._numbers, self._taken = generation, {}, set()
        root = self._theirs.inode(at(of, ROOT_INO) if of else ROOT_INO)
        if root is None or not root.is_dir:
            raise BadFormat(what="its catalog has no root directory")
        await self._number(root, self._ours.inode(at(self._generation, ROOT_INO)))
        pending, directories = [(root.ino, ROOT_INO)], {root.ino}
        while pending:
            there, here = pending.pop()
            before = await self._names(self._ours, at(self._generation, here))
            after = await self._names(self._theirs, there)
            for text in after:
                brought.check_entry(text)
            for text in sorted(before.keys() | after.keys()):
                was, to_be = before.get(text), after.get(text)
                number = await self._number(to_be[1], was[1] if was is not None else None) if to_be else None
                if was is not None and number == split(was[1].ino)[1]:
                    was = None  # the name may stay
                elif number is not None:
                    with self.operation():
                        if was is not None:
                            self._ours.drop_name_then(self._generation, here, was[0].cookie)
                        self._ours.put_name_then(self._generation, here, text, number)
                elif was is not None:
                    with self.operation():
                        self._ours.drop_name_then(self._generation, here, was[0].cookie)
                if to_be is not None and number is not None and to_be[1].is_dir:
                    if to_be[1].ino in directories:  # perhaps in itself: that would have no end
                        raise BadFormat(what="its catalog has one directory at two places")
                    directories.add(to_be[1].ino)
                    pending.append((to_be[1].ino, number))
                await trio.lowlevel.checkpoint()

    # -- inodes ------------------------------------------------------------------------------------------------

    async def _number(self, theirs: Inode, was: Inode | None) -> Ino:
        """Have the generation show one of their inodes, and say by which number.

        Args:
            was: what it shows by the same name so far.
        """
        known = self._numbers.get(theirs.ino)
        if known is not None:
            return known
        brought.check_inode(theirs)
        xattrs = self._theirs.xattrs(theirs.ino)
        brought.check_xattrs(xattrs)
        same = was is not None and await self._is_same(theirs, was)
        number = split(was.ino)[1] if was is not None and same else None
        if number is None or number in self._taken:
            number = self._ours.new_ino()
            if theirs.is_file:
                await self._bring_content(theirs, number)
            was = None
        wanted = replace(theirs, ino=number, version=was.version if was is not None else theirs.version)
        if was is None or not self._looks_same(wanted, theirs, was):
            with self.operation():
                self._ours.put_then(self._generation, wanted)
                for name, value in xattrs:
                    self._ours.put_xattr_then(self._generation, number, name, value)
        self._numbers[theirs.ino] = number
        self._taken.add(number)
        return number

    async def _is_same(self, theirs: Inode, was: Inode) -> bool:
        """Whether both are one thing with the same content; of a directory that is another matter."""
        if theirs.mode >> 12 != was.mode >> 12:
            return False
        if theirs.is_file:
            return theirs.size == was.size and await self._is_as_good_here(theirs, was)
        return theirs.is_dir or (theirs.target, theirs.rdev) == (was.target, was.rdev)

    def _looks_same(self, wanted: Inode, theirs: Inode, was: Inode) -> bool:
        """Whether all is the same that is no content; when something was read last does not matter."""
        if wanted != replace(was, ino=wanted.ino, atime_ns=wanted.atime_ns):
            return False
        return list(self._theirs.xattrs(theirs.ino)) == list(self._ours.xattrs(was.ino))

    async def _is_as_good_here(self, theirs: Inode, was: Inode) -> bool:
        """Whether a file has the same content in both, and none of it is better held with them, in another block."""
        looked_at = set[tuple[BlockNo, BlockNo]]()
        count = chunk_count(theirs.size)  # rows behind the end are of a version that is not published
        for first in range(0, count, _ROWS):
            last = min(first + _ROWS, count) - 1
            here = dict(self._ours.placed(was.ino, first, last))
            there = dict(self._theirs.placed(theirs.ino, first, last))
            if here.keys() != there.keys():
                return False
            if any(chunk.fingerprint != here[index].fingerprint for index, chunk in there.items()):
                return False
            pairs = {(chunk.block, here[index].block) for index, chunk in there.items()} - looked_at
            if any(block in self._poor and self._lies_better(other, block) for other, block in pairs):
                return False
            looked_at |= pairs
            await trio.lowlevel.checkpoint()
        return True

    # -- content -----------------------------------------------------------------------------------------------

    async def _bring_content(self, theirs: Inode, number: Ino) -> None:
        """Give a file of the generation the chunks that it has with them."""
        start = end = 0
        while start < chunk_count(theirs.size):
            rows = self._theirs.map_rows(theirs.ino, start, start + _ROWS - 1)
            end = brought.check_map(rows, end)
            start = max(start + _ROWS, end)  # no run of holes is met again
            if rows:
                with self.operation():
                    part = [row if row.chunk == HOLE else replace(row, chunk=self._chunk(row.chunk)) for row in rows]
                    self._ours.put_map_then(self._generation, number, part)
            await trio.lowlevel.checkpoint()

    def _chunk(self, number: ChunkNo) -> ChunkNo:
        """The number that one of their chunks has with us."""
        known = self._chunks.get(number)
        if known is None:
            theirs = self._theirs.chunk(number)
            if theirs is None:
                raise BadFormat(what="its catalog has a map that names a chunk which there is not")
            found = self._found(theirs)
            known = self._chunks[number] = found.chunk if found is not None else self._bring_chunk(theirs)
        return known

    def _bring_chunk(self, theirs: ChunkRow) -> ChunkNo:
        """The number with us of a chunk that is theirs alone. Whether it is what they say, nobody has looked."""
        block = self.block(theirs)
        for each in self._ours.chunks_of_block(block):  # with another head of that line
            if each.chunk >= FIRST_BROUGHT and each == replace(theirs, chunk=each.chunk, block=block):
                return each.chunk
        made = replace(theirs, chunk=self._ours.new_chunk_no(is_brought=True), block=block)
        self._ours.put_chunks([made])
        return made.chunk

    def _found(self, theirs: ChunkRow) -> ChunkRow | None:
        """A chunk of ours with this content that is as well held as it should be, or lies in the same block."""
        same = self._ours.chunk(theirs.chunk)
        if same is not None and same.fingerprint == theirs.fingerprint:  # it is older than the fork
            return None if self._lies_better(theirs.block, same.block) else same
        other = self._ours.chunk_by_fingerprint(theirs.fingerprint)
        if other is None or other.length != theirs.length:
            return None
        block = self._ours.block(other.block)
        return other if block is not None and self._held(other.block) >= block.code.quorum else None

    def _lies_better(self, there: BlockNo, here: BlockNo) -> bool:
        """Whether one of our blocks is held by too few, and another one of theirs by more."""
        ours, theirs = self._ours.block(here), self._theirs.block(there)
        if ours is None or theirs is None or ours.block_id == theirs.block_id:
            return False
        held = self._held(here)
        return held < ours.code.quorum and held < self._held_there(there)

    def _held(self, number: BlockNo) -> int:
        """How many fragments of one of our blocks are sure to be held."""
        return self._ours.held(number) - self._doubted.get(number, 0)

    def _held_there(self, number: BlockNo) -> int:
        """How many fragments of one of their blocks would be held with us."""
        rows = (each for each in self._theirs.fragments(number) if each.state is FragmentState.HELD)
        return len({each.index for each in rows if self._counts(each.supplier)})

    def block(self, chunk: ChunkRow) -> BlockNo:
        """The number with us of the block in which one of their chunks lies; it is ours from now on."""
        theirs = self._theirs.block(chunk.block)
        if theirs is None or chunk.block <= 0:
            raise BadFormat(what="its catalog has a chunk in a block which there is not")
        brought.check_block(theirs)
        brought.check_chunk(chunk, theirs)
        known = self._blocks.get(chunk.block)
        if known is not None:
            return known
        came = self._only_ours.get(theirs.block_id)  # with another head of that line
        for same in (chunk.block, came):  # the first: it is older than the fork
            row = self._ours.block(same) if same is not None else None
            if row is not None and row.block_id == theirs.block_id:
                if not _is_one(row, theirs):
                    raise BadFormat(what="its catalog has a block of another length or content than it has")
                self._blocks[chunk.block] = row.block
                return row.block
        made = replace(theirs, block=self._ours.new_block_no())
        self._ours.put_block(made)
        self._bring_fragments(made, self._theirs.fragments(chunk.block))
        self._blocks[chunk.block] = made.block
        self.adopted.append(made.block)
        return made.block

    def _bring_fragments(self, block: BlockRow, rows: Iterable[FragmentRow]) -> bool:
        """Note of a block of ours what they know of its fragments. Returns whether any counts with us."""
        length, counts = erasure.fragment_length(block.length, block.code.k), False
        for each in rows:
            supplier = self._supplier(each.supplier)
            if supplier is None:
                continue
            brought.check_fragment(each, block)
            counts = True
            self._ours.put_fragment(replace(each, block=block.block, supplier=supplier))
            if each.state is FragmentState.HELD:
                self._ours.charge_supplier(supplier, length, 1)
            name = self._releases.name(block, each.index, supplier)
            if name is not None:
                self._releases.keep(supplier, name)
        return counts

    async def _learn(self) -> None:
        """Note fragments that they made of blocks of ours which too few hold. Who was put out has no say in it."""
        for number in sorted(self._poor) if self._hires else ():
            ours, theirs = self._ours.block(number), self._theirs.block(number)
            if ours is None or theirs is None or ours.block_id != theirs.block_id:
                continue
            known = {(each.index, self._node_of(self._ours, each.supplier)) for each in self._ours.fragments(number)}
            new = [
                each
                for each in self._theirs.fragments(number)
                if each.state is FragmentState.HELD
                and each.index < len(ours.roots)  # what they made beyond cannot be checked here
                and (each.index, self._node_of(self._theirs, each.supplier)) not in known
            ]
            if new:
                with self.operation():
                    if self._bring_fragments(ours, new):
                        self.adopted.append(number)
            await trio.lowlevel.checkpoint()

    async def _blocks_only_ours(self) -> dict[BlockId, BlockNo]:
        """The blocks that the other line does not know by their numbers."""
        last, found = BlockNo(0), dict[BlockId, BlockNo]()
        while page := self._ours.blocks(after=last, limit=_PAGE):
            for row in page:
                theirs = self._theirs.block(row.block)
                if theirs is None or theirs.block_id != row.block_id:
                    found[row.block_id] = row.block
            last = page[-1].block
            await trio.lowlevel.checkpoint()
        return found

    async def _poor_blocks(self) -> set[BlockNo]:
        """Those of our blocks that fewer hold than make a block placed."""
        found, after = set[BlockNo](), None
        while page := self._ours.wanting_blocks(_PAGE, after):
            for each in page:
                row = self._ours.block(each.block)
                if row is not None and row.code.k + each.spare < row.code.quorum:
                    found.add(each.block)
            after = page[-1]
            await trio.lowlevel.checkpoint()
        for number in self._doubted:
            row = self._ours.block(number)
            if row is not None and self._held(number) < row.code.quorum:
                found.add(number)
        return found

    @staticmethod
    def _node_of(catalog: Catalog, number: SupplierNo) -> NodeId | None:
        return next((row.node for row in catalog.suppliers() if row.supplier == number), None)

    def _counts(self, number: SupplierNo) -> bool:
        """Whether what one of their suppliers holds would count with us."""
        theirs = next((row for row in self._theirs.suppliers() if row.supplier == number), None)
        if theirs is None:
            return False
        is_ours = any(row.node == theirs.node for row in self._ours.suppliers())
        return is_ours or (self._hires and theirs.standing is not Standing.FIRED)

    def _supplier(self, number: SupplierNo) -> SupplierNo | None:
        """The number that one of their suppliers has with us. One that only they have may be hired here too."""
        if number not in self._suppliers:
            if not self._counts(number):
                return None
            theirs = next(row for row in self._theirs.suppliers() if row.supplier == number)
            ours = next((row for row in self._ours.suppliers() if row.node == theirs.node), None)
            if ours is None:
                brought.check_supplier(theirs)
                label = self._free_label(brought.label(theirs.label))
                self._ours.put_supplier(
                    replace(theirs, supplier=SupplierNo(0), label=label, used_bytes=0, used_fragments=0)
                )
                ours = next(row for row in self._ours.suppliers() if row.node == theirs.node)
            self._suppliers[number] = ours.supplier
        return self._suppliers[number]

    def _free_label(self, label: str) -> str:
        """This one, or with the first number that makes it one that no supplier of ours has: they are told by it."""
        taken, number = {row.label for row in self._ours.suppliers()}, 1
        while (free := label if number == 1 else f"{label} {number}") in taken:
            number += 1
        return free

    async def _names(self, catalog: Catalog, directory: Ino) -> dict[bytes, tuple[Name, Inode]]:
        found: dict[bytes, tuple[Name, Inode]] = {}
        after = Cookie(0)
        while page := catalog.names(directory, after, _PAGE):
            found.update((name.name, (name, inode)) for name, inode in page)
            after = page[-1][0].cookie
            await trio.lowlevel.checkpoint()
        return found

    def operation(self) -> Operation:
        """Also where people may change nothing, for another line holds a quorum: this adds to what is kept."""
        self._admit()
        return self._journal.operation(admitted=True)


def _is_one(ours: BlockRow, theirs: BlockRow) -> bool:
    """Whether two rows of one id are of the same block, apart from how many fragments were made of it so far."""
    is_alike = (ours.length, ours.code.k, ours.scope, ours.suite) == (
        theirs.length,
        theirs.code.k,
        theirs.scope,
        theirs.suite,
    )
    return is_alike and all(one == other for one, other in zip(ours.roots, theirs.roots, strict=False))
