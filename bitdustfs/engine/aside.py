"""Aside: what an old state of a volume had and nobody else has, put into a visible folder of the newer one.

    plan -> for each entry: the old files, read -> a nameless file of the volume -> durable
         -> its name and a note that it is done, in one operation -> at the end a letter -> the old state is let go

Old and new files are ordinary ones: what is put aside is uploaded like anything that is written, waits for room in
the spool, and what the old state had at suppliers is fetched from there. A crash leaves entries that are done, with
their names, and others that are not. The old state stays until all of it is durable in the new one.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from bitdustfs.core import adoption
from bitdustfs.core.adoption import LETTER, Entry, Plan, Progress
from bitdustfs.core.past import at, split
from bitdustfs.core.ranges import chunk_count, chunk_parts
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.copies import Copies
from bitdustfs.engine.files import Files
from bitdustfs.engine.fragments import Fragments
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.node import Node
from bitdustfs.engine.past_tree import PastTree
from bitdustfs.engine.reader import Reader
from bitdustfs.engine.regaining import twins
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.tree import Caller
from bitdustfs.engine.unsent import find, prints
from bitdustfs.errors import BitdustError, Kind, Unavailable
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, ChunkRow, Hold, Ino, Inode, Layer
from bitdustfs.ports import Catalog, Crunch, Spool, Wall

AGAIN_S = 10.0  # (tune) until what could not be read or stored is tried again
LOOK_S = 0.1
_log = logging.getLogger(__name__)


class _GoneForGood(Exception):
    """An old file cannot be read, and never will be."""


@dataclass(frozen=True, slots=True)
class OldState:
    """The catalog and the spool that were used before the newer catalog took their place.

    Args:
        key: tells it from all others of this home.
        place: where it lies, for people.
        boot: which boot of the machine this is, as for `Files.start`.
        let_go: removes it; nothing here uses it any more.
    """

    key: str
    place: str
    plan: Plan
    catalog: Catalog
    spool: Spool
    suppliers: Suppliers  # by the numbers of the old catalog
    boot: bytes
    let_go: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An old state that cannot be opened: a `Leftover` that stays."""

    trouble: str
    left: int = 1
    is_gone: bool = False


class Aside:
    """Follows the plan of one old state."""

    def __init__(
        self, old: OldState, node: Node, catalog: Catalog, secrets: VolumeSecrets, crunch: Crunch, wall: Wall
    ) -> None:
        self._old = old
        self._tree, self._files, self._journal = node.tree, node.files, node.journal
        self._attributes, self._newer = node.attributes, node.reader
        self._catalog = catalog
        self._secrets = secrets
        self._key = f"aside {old.key}"
        self._progress = adoption.decode_progress(catalog.local_value(self._key))
        self._snapshots = {generation: name.encode() for generation, name in old.plan.snapshots}
        journal = Journal(old.catalog)
        self._old_journal = journal
        self._fragments = Fragments(old.catalog, journal, old.suppliers, crunch, secrets)
        self._reader = Reader(old.catalog, self._fragments, crunch, secrets)
        self._reader.elsewhere = self._in_newer
        self._old_files = Files(old.catalog, old.spool, journal, wall, self._reader, spool_limit=0)
        copies = Copies(old.catalog, self._old_files, crunch, secrets)
        self._past = PastTree(old.catalog, self._reader, copies.plaintext)
        self.trouble = ""  # why something waits; "" if nothing is wrong
        self.is_gone = False  # the old state, and with it all that it needs at suppliers

    @property
    def left(self) -> int:
        """How many files, directories and others are still to be put aside."""
        return self._progress.left(self._old.plan)

    async def run(self) -> None:
        """Put everything aside, then let the old state go."""
        if not self._progress.finished:
            self._old_files.start(self._old.boot)
            self._old_journal.commit()
            async with self._reading():
                while not await self._is_ended():
                    await trio.sleep(AGAIN_S)
        await self._journal.durable()
        if not self._stays():
            await self._old.let_go()
            self.is_gone = True
            self._journal.bell.ring()  # what it needed may be released

    def _stays(self) -> bool:
        """Whether the old state is kept, because only it may have something that could not be read."""
        return any(not self._old.plan.entries[index].was_sent for index, _why in self._progress.failed)

    async def _is_ended(self) -> bool:
        """Do what can be done now. Says whether that was all."""
        try:
            if await self._round():
                await self._end()
        except BitdustError as error:
            self.trouble = str(error)
        return self._progress.finished

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Let old files be fetched as long as this context lives."""
        async with trio.open_nursery() as nursery, self._reader.running():
            nursery.start_soon(self._old.suppliers.run)
            nursery.start_soon(self._look)
            yield
            nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        while True:
            await self._fragments.asks.wait_until_asking()
            self._fragments.asks.look()
            await trio.sleep(LOOK_S)

    async def _round(self) -> bool:
        """Try each entry that is left. Says whether none is."""
        trouble = ""
        for index, entry in enumerate(self._old.plan.entries):
            if not self._progress.is_left(index):
                continue
            try:
                await self._put(index, entry)
            except _GoneForGood as gone:
                _log.error("inode %d of the older state cannot be read any more: %s", entry.ino, gone)
                self._note_alone(self._progress.tried(index, why=str(gone)))
            except BitdustError as error:
                _log.info("inode %d of the older state is put aside later: %s", entry.ino, error)
                trouble = self.trouble = str(error)
                self._journal.admit()  # if it takes nothing now, nothing else could be done either
                self._progress = self._progress.tried(index, waits=True)  # stored with the next that is done
            self._old_journal.commit()
            await trio.lowlevel.checkpoint()
        self.trouble = trouble
        return not self.left

    # -- one entry -------------------------------------------------------------------------------------------

    async def _put(self, index: int, entry: Entry) -> None:
        inode = self._inode(Ino(entry.ino))
        if inode.is_file:
            await self._put_file(index, entry, inode)
            return
        with self._journal.operation():
            for path in entry.paths:
                self._make(path, inode)
            self._note(self._progress.tried(index))

    async def _put_file(self, index: int, entry: Entry, inode: Inode) -> None:
        if await self._is_there(inode, entry.paths[0]):
            self._note_alone(self._progress.tried(index))
            return
        made = self._tree.make_nameless(inode)
        try:
            await self._copy(inode, made.ino)
            await self._files.settle(made.ino)  # the bytes are durable before the name
            with self._journal.operation():
                first, *others = [self._place(path, inode.ino) for path in entry.paths]
                self._tree.give_name(made.ino, *first)
                for parent, name in others:
                    self._tree.link(made.ino, parent, name)
                self._copy_xattrs(inode.ino, made.ino)
                self._files.touch(made.ino, mtime_ns=inode.mtime_ns, ctime_ns=inode.mtime_ns)
                self._note(self._progress.tried(index))
        finally:
            self._tree.lives.closed(made.ino)

    async def _copy(self, inode: Inode, ino: Ino) -> None:
        for index in range(chunk_count(inode.size)):
            content = await self._read(inode, index)
            if content.strip(b"\0"):
                await self._files.write(ino, index * CHUNK_BYTES, content)
        if self._tree.attributes(ino).size != inode.size:
            await self._files.truncate(ino, inode.size)

    async def _read(self, inode: Inode, index: int) -> bytes:
        try:
            files = self._past if _generation(inode.ino) else self._old_files
            return await files.read(inode.ino, index * CHUNK_BYTES, CHUNK_BYTES)
        except BitdustError as error:
            if error.kind is Kind.LOST:
                raise _GoneForGood(str(error)) from error
            raise

    async def _in_newer(self, chunk: ChunkRow) -> bytes | None:
        """What the newer state has of a chunk whose block it let go, because it packed it into another one."""
        late: BitdustError | None = None
        for twin in twins(self._catalog, chunk.fingerprint):
            try:
                content = await self._newer.of_row(twin)
            except BitdustError as error:  # another one may be had
                if error.kind is not Kind.LOST:
                    late = error
                elif self._catalog.chunk(twin.chunk) != twin:
                    late = Unavailable(what="what it needs is just being moved")
                continue
            if self._secrets.fingerprint(content) == chunk.fingerprint:
                return content
        if late is not None:
            raise late
        return None

    async def _is_there(self, inode: Inode, path: bytes) -> bool:
        """Whether the newer state shows these bytes at the same path: they were sent in the life that made it."""
        other = find(self._catalog, path)
        if other is None or not other.is_file or other.size != inode.size or not other.version:
            return False
        theirs, ours = prints(self._catalog, other), prints(self._old.catalog, inode)
        dirty = self._dirty_chunks(inode)
        if any(
            theirs.get(index) != ours.get(index) for index in range(chunk_count(inode.size)) if index not in dirty
        ):
            return False
        for index in dirty:
            content = await self._read(inode, index)
            is_zero = not content.strip(b"\0")
            if theirs.get(index) != (None if is_zero else self._secrets.fingerprint(content)):
                return False
        return True

    def _dirty_chunks(self, inode: Inode) -> Set[int]:
        """The chunks of an old file that no published version has; in a snapshot there are none."""
        if _generation(inode.ino):
            return set()
        if self._old.catalog.inline(inode.ino) is not None:
            return {0}
        extents = self._old.catalog.extents(inode.ino, Layer.LIVE)
        parts = (chunk_parts(each.start, each.end - each.start) for each in extents if each.hold is not Hold.CLEAN)
        return {part.index for some in parts for part in some if part.index < chunk_count(inode.size)}

    def _make(self, path: bytes, inode: Inode) -> None:
        """Something that is no regular file."""
        parts = path.split(b"/")
        if inode.is_dir:
            self._directory(parts, _generation(inode.ino))
            return
        parent, name = self._place(path, inode.ino)
        caller = Caller(inode.uid, inode.gid)
        if inode.is_symlink:
            made = self._tree.symlink(parent, name, inode.target, caller)
        else:
            made = self._tree.mknod(parent, name, inode.mode, caller, rdev=inode.rdev)
        self._copy_xattrs(inode.ino, made.ino)

    def _inode(self, ino: Ino) -> Inode:
        """An inode of the old state, or of a snapshot in it."""
        return self._past.attributes(ino) if _generation(ino) else self._old_files.attributes(ino)

    # -- where it goes -----------------------------------------------------------------------------------------

    def _place(self, path: bytes, ino: Ino) -> tuple[Ino, bytes]:
        """The directory and the free name for a path of an inode of the old state. In an operation."""
        *above, name = path.split(b"/")
        parent = self._directory(above, _generation(ino))
        return parent, self._free_name(parent, name)

    def _directory(self, parts: list[bytes], generation: int) -> Ino:
        """The directory in the folder that stands for one of the old state, or of a snapshot, made like that one."""
        here, there = self._folder(), ROOT_INO
        if generation:
            there = at(generation, ROOT_INO)
            here = self._made_like(there, here, self._snapshots[generation])
        for part in parts:
            shown = self._old.catalog.name(there, part)
            there = shown.ino if shown is not None else there
            here = self._made_like(there, here, part)
        return here

    def _made_like(self, there: Ino, parent: Ino, wanted: bytes) -> Ino:
        """The directory of a name, or with a number if something else has it; made like one of the old state."""
        name = self._free_name(parent, wanted, directory=True)
        found = self._tree.lookup(parent, name)
        if found is None:
            like = self._old.catalog.inode(there)
            assert like is not None, "it was found by its name"
            found = self._tree.mkdir(parent, name, like.mode, Caller(like.uid, like.gid))
            self._copy_xattrs(there, found.ino)
        return found.ino

    def _folder(self) -> Ino:
        """The folder, made at first, and again if somebody removed it meanwhile."""
        known = self._catalog.inode(Ino(self._progress.folder))
        if known is not None and known.is_dir and known.nlink:
            return known.ino
        root = self._tree.attributes(ROOT_INO)
        name = self._free_name(ROOT_INO, self._old.plan.folder.encode())
        made = self._tree.mkdir(ROOT_INO, name, root.mode, Caller(root.uid, root.gid))
        self._progress = self._progress.into(made.ino)
        return made.ino

    def _free_name(self, parent: Ino, name: bytes, *, directory: bool = False) -> bytes:
        """This name, or one with a number. With `directory`, that of a directory that is there will do."""
        number = 1
        while True:
            tried = adoption.numbered(name, number)
            found = self._tree.lookup(parent, tried)
            if found is None or (directory and found.is_dir):
                return tried
            number += 1

    def _copy_xattrs(self, old: Ino, new: Ino) -> None:
        for name, value in self._old.catalog.xattrs(old):
            self._attributes.set_xattr(new, name, value)

    def _note(self, progress: Progress) -> None:
        """Note how far it is, in the operation that brings it there."""
        progress = progress.into(self._progress.folder)  # which this operation may have made
        self._catalog.put_local_value(self._key, adoption.encode(progress))
        self._journal.afterwards(lambda: self._take_over(progress))

    def _note_alone(self, progress: Progress) -> None:
        if progress != self._progress:
            with self._journal.operation():
                self._note(progress)

    def _take_over(self, progress: Progress) -> None:
        self._progress = progress

    # -- the letter --------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Say in the folder what lies there and what does not. Without anything to say there is no folder."""
        plan, failed = self._old.plan, dict(self._progress.failed)
        put = await self._paths_put()
        unreadable = [
            (self._below(plan.entries[index]) + plan.entries[index].paths[0], why) for index, why in failed.items()
        ]
        if not (put or unreadable or plan.notes or plan.lacks):
            self._note_alone(self._progress.ended())
            return
        made = self._tree.make_nameless(replace(self._tree.attributes(ROOT_INO), mode=stat.S_IFREG | 0o644))
        try:
            kept_in = self._old.place if self._stays() else ""
            await self._files.write(made.ino, 0, adoption.letter(plan, put, unreadable, kept_in))
            await self._files.settle(made.ino)
            with self._journal.operation():
                folder = self._folder()
                self._tree.give_name(made.ino, folder, self._free_name(folder, LETTER))
                self._note(self._progress.ended())
        finally:
            self._tree.lives.closed(made.ino)

    async def _paths_put(self) -> list[bytes]:
        """What lies in the folder now of what was put there."""
        put, failed = list[bytes](), {index for index, _why in self._progress.failed}
        for index, entry in enumerate(self._old.plan.entries if self._progress.folder else ()):
            below = self._below(entry)
            if index not in failed:
                put += [below + path for path in entry.paths if self._shows(below + path)]
            await trio.lowlevel.checkpoint()
        return put

    def _below(self, entry: Entry) -> bytes:
        """What comes before the paths of an entry in the folder."""
        generation = _generation(Ino(entry.ino))
        return self._snapshots[generation] + b"/" if generation else b""

    def _shows(self, path: bytes) -> bool:
        """Whether something lies at this path below the folder."""
        ino = Ino(self._progress.folder)
        for part in path.split(b"/"):
            name = self._catalog.name(ino, part)
            if name is None:
                return False
            ino = name.ino
        return True


def _generation(ino: Ino) -> int:
    return split(ino)[0]
