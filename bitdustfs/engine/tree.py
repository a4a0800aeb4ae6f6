"""The tree: all policy about names. It knows no kernel, no pyfuse3 and no bytes of files.

Everything is synchronous but a rename over something, which first makes the moved file's bytes durable. What the
kernel checks for every mount with `default_permissions` (permission bits, sticky directories, loops in symlinks, the
umask) is not checked again; what would damage the catalog is.

Replacing something published by a file that was never published (`unborn`) must not lose both if this machine
burns: the name then keeps what it showed as `superseded`, until `published` is called for the new file. Of several
replacements in a row the oldest published one is kept.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bitdustfs.core.names import check_length, check_name, check_replaceable, check_target
from bitdustfs.core.past import FIRST_PAST
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.lives import Contents, Lives
from bitdustfs.engine.past_tree import TOP_NAMES
from bitdustfs.errors import FileError
from bitdustfs.model import NO_INO, ROOT_INO, Code, Cookie, Ino, Inode, Name
from bitdustfs.ports import Catalog, Wall

LINKS = 65_000  # hard links of one file, as ext4 has it: what fits here fits there when it is copied back
NOREPLACE = 1  # renameat2(2)
EXCHANGE = 2
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_MAKEABLE = frozenset({stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}) | _DEVICES
_PERMISSIONS = 0o7777
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf something is made."""

    uid: int
    gid: int


class Tree:
    """The names of a volume."""

    def __init__(self, catalog: Catalog, journal: Journal, files: Contents, wall: Wall) -> None:
        self._catalog = catalog
        self._journal = journal
        self._files = files
        self._wall = wall
        self.lives = Lives(catalog, journal, files)

    def plant(self, code: Code | None, owner: Caller, *, mode: int = 0o755) -> None:
        """Make the root of a new volume; nothing if it is there."""
        if self._catalog.inode(ROOT_INO) is not None:
            return
        now = self._wall.now_ns()
        root = Inode(
            ROOT_INO, stat.S_IFDIR | mode & _PERMISSIONS, owner.uid, owner.gid, 2, 0, now, now, now, code=code
        )
        with self._journal.operation():
            self._catalog.put_inode(root)

    # -- looking -------------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Inode | None:
        """The inode that a name shows, or None. `.` and `..` are understood."""
        check_length(name)
        if name in (b".", b".."):
            return self.attributes(parent if name == b"." else self.parent_of(parent))
        found = self._catalog.name(parent, name)
        if found is not None:
            return self.attributes(found.ino)
        self._directory(parent)
        return None

    def shows(self, parent: Ino, name: bytes) -> bool:
        """Whether a name in a directory shows anything."""
        return self._catalog.name(parent, name) is not None

    def attributes(self, ino: Ino) -> Inode:
        """An inode as it is now. Raises NotFound."""
        return self.lives.shown(self._files.attributes(ino))

    def readlink(self, ino: Ino) -> bytes:
        """The target of a symlink."""
        inode = self._row(ino)
        if not inode.is_symlink:
            raise FileError(errno=errno.EINVAL, what="not a symlink")
        return inode.target

    def newest(self) -> Cookie:
        """The cookie of the name that came last, in whatever directory."""
        return self._catalog.last_cookie()

    def listing(
        self, ino: Ino, after: Cookie, limit: int, *, until: Cookie | None = None
    ) -> list[tuple[Name, Inode]]:
        """Up to `limit` names of a directory with cookies above `after`, in their order, without `.` and `..`.

        A name that stays during a listing is listed once, whatever else comes and goes.

        Args:
            until: leave out what came after this cookie: who renames what he lists would else list it for ever.
        """
        page = self._catalog.names(ino, after, limit)
        if until is not None:
            page = [entry for entry in page if entry[0].cookie <= until]
        return [(name, self.lives.shown(self._files.as_it_lives(inode))) for name, inode in page]

    def children(self, ino: Ino) -> Iterator[Inode]:
        """What is in a directory, in the order of its listing."""
        after = Cookie(0)
        while page := self.listing(ino, after, _PAGE):
            yield from (inode for _, inode in page)
            after = page[-1][0].cookie

    def parent_of(self, ino: Ino) -> Ino:
        """The directory that a directory is in; the root is in itself, and so is a removed one."""
        if ino == ROOT_INO:
            return ino
        names = self._catalog.names_of(ino)
        return names[0].parent if names else ino

    # -- making --------------------------------------------------------------------------------------------

    def mknod(self, parent: Ino, name: bytes, mode: int, caller: Caller, *, rdev: int = 0) -> Inode:
        """Make an empty regular file, a fifo, a socket or a device.

        A device is kept, so that a tree with some in it can be copied here and back; the mount is always nodev, so
        nobody can open one. The kernel lets only who may make devices ask for one.

        Args:
            rdev: which device; ignored for anything else.
        """
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in _MAKEABLE:
            raise FileError(errno=errno.EPERM, what="mknod of a kind that has a call of its own")
        device = rdev if kind in _DEVICES else 0
        return self._make(parent, name, kind | mode & _PERMISSIONS, caller, rdev=device)

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Inode:
        """Make an empty directory."""
        return self._make(parent, name, stat.S_IFDIR | mode & _PERMISSIONS, caller)

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Inode:
        """Make a symlink. Its target is only stored."""
        check_target(target)
        return self._make(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Inode:
        """Give a file one more name."""
        inode = self._row(ino)
        if inode.is_dir:
            raise FileError(errno=errno.EPERM, what="a directory has one name")
        if self.lives.shown(inode).nlink == 0:
            raise FileError(errno=errno.ENOENT, what="the file is deleted")
        if inode.nlink >= LINKS:
            raise FileError(errno=errno.EMLINK, what=f"a file has at most {LINKS} names")
        directory = self._free_place(parent, name)
        now = self._wall.now_ns()
        with self._journal.operation():
            self._catalog.put_name(parent, name, ino)
            self._catalog.put_inode(inode.changed(nlink=inode.nlink + 1, ctime_ns=now))
            self._changed(directory, now, names=1)
        return self.attributes(ino)

    def make_nameless(self, like: Inode) -> Inode:
        """Make an empty regular file without a name, and open it, as open(2) with O_TMPFILE does.

        Until `give_name` nothing shows it, and a crash leaves nothing of it. The caller closes it (`lives.closed`).

        Args:
            like: has its mode, owner and access time.
        """
        now = self._wall.now_ns()
        with self._journal.operation():
            inode = replace(
                like,
                ino=self._catalog.new_ino(),
                nlink=0,
                size=0,
                mtime_ns=now,
                ctime_ns=now,
                code=None,
                version=0,
            )
            self._catalog.put_inode(inode)
            self._files.created(inode)
        self.lives.nameless(inode.ino)
        self.lives.opened(inode.ino)
        return inode

    def give_name(self, ino: Ino, parent: Ino, name: bytes) -> None:
        """Let a name show a file that has none. Its code becomes that of the directory."""
        directory, inode = self._free_place(parent, name), self._row(ino)
        now = self._wall.now_ns()
        with self._journal.operation():
            self._catalog.put_name(parent, name, ino)
            self._catalog.put_inode(replace(inode, nlink=1, code=directory.code, ctime_ns=now))
            self._changed(directory, now, names=1)

    # -- removing ------------------------------------------------------------------------------------------

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Take a name away, and its file if that was the last need for it."""
        entry = self._name(parent, name)
        if self._row(entry.ino).is_dir:
            raise FileError(errno=errno.EISDIR, what="unlink of a directory")
        now = self._wall.now_ns()
        with self._journal.operation():
            self._catalog.drop_name(parent, name)
            self._changed(self._row(parent), now, names=-1)
            self.lives.let_go(entry.ino, now_ns=now)
            if entry.superseded != NO_INO:
                self.lives.let_go(entry.superseded, now_ns=now)
        self.lives.kept(before=[entry])

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """Remove an empty directory."""
        entry = self._name(parent, name)
        directory = self._row(entry.ino)
        if not directory.is_dir:
            raise FileError(errno=errno.ENOTDIR, what="rmdir of something else")
        if directory.size:
            raise FileError(errno=errno.ENOTEMPTY, what="rmdir of a directory with names in it")
        now = self._wall.now_ns()
        with self._journal.operation():
            self._catalog.drop_name(parent, name)
            self._changed(self._row(parent), now, names=-1, directories=-1)
            self.lives.let_go(entry.ino, now_ns=now)

    # -- moving --------------------------------------------------------------------------------------------

    async def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0) -> None:
        """Move a name, as renameat2(2): over what is there, or only if nothing is, or exchange the two."""
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise FileError(errno=errno.EINVAL, what=f"rename flags {flags:#x}")
        check_name(new_name)
        if new_parent >= FIRST_PAST:
            _check_now(new_parent, new_name)
        source, target = self._name(parent, name), self._catalog.name(new_parent, new_name)
        if target is not None and target.ino != source.ino and flags != NOREPLACE:
            # the name must never be durable before the bytes; an exchange is the first half of a replacement
            for ino in (source.ino, target.ino) if flags == EXCHANGE else (source.ino,):
                if self._row(ino).is_file:
                    await self._files.settle(ino)
            # no await from here on: what was looked up before may have changed meanwhile
            source, target = self._name(parent, name), self._catalog.name(new_parent, new_name)
        if flags == EXCHANGE:
            self._exchange(source, self._name(new_parent, new_name))
            return
        if target is not None and flags == NOREPLACE:
            raise FileError(errno=errno.EEXIST, what="rename without replacing: the new name exists")
        if target is None or target.ino != source.ino:  # two names of one file: POSIX wants both to stay
            self._move(source, target, new_parent, new_name)

    def _move(self, source: Name, target: Name | None, new_parent: Ino, new_name: bytes) -> None:
        moved = self._row(source.ino)
        if target is None:
            _check_now(new_parent, new_name)
        self._directory(new_parent)
        if moved.is_dir:
            self._check_outside(moved.ino, new_parent)
        if target is not None:
            check_replaceable(self._row(target.ino), moved)
        now = self._wall.now_ns()
        keep = self._to_keep(source, moved, target)
        before = [entry for entry in (source, target) if entry is not None]
        with self._journal.operation():
            self._catalog.drop_name(source.parent, source.name)
            self._catalog.put_name(new_parent, new_name, moved.ino, superseded=keep)
            self._catalog.put_inode(moved.changed(ctime_ns=now))
            arrived = 1 if target is None else 0
            if source.parent == new_parent:
                same = int(moved.is_dir) * (arrived - 1)
                self._changed(self._row(new_parent), now, names=arrived - 1, directories=same)
            else:
                self._changed(self._row(source.parent), now, names=-1, directories=-int(moved.is_dir))
                came = int(moved.is_dir) * arrived
                self._changed(self._row(new_parent), now, names=arrived, directories=came)
            for ino in self._unneeded(before, shown=moved.ino, kept=keep):
                self.lives.let_go(ino, now_ns=now)
            if keep != NO_INO:
                self._touched(keep, now)
        self.lives.kept(before=before, after=keep)

    def _exchange(self, one: Name, other: Name) -> None:
        if one.ino == other.ino:
            return
        a, b = self._row(one.ino), self._row(other.ino)
        if a.is_dir:
            self._check_outside(a.ino, other.parent)
        if b.is_dir:
            self._check_outside(b.ino, one.parent)
        now = self._wall.now_ns()
        shift = int(b.is_dir) - int(a.is_dir)
        with self._journal.operation():
            # an unborn file takes with it what it supersedes: it stands for the same content
            self._catalog.put_name(one.parent, one.name, b.ino, superseded=other.superseded)
            self._catalog.put_name(other.parent, other.name, a.ino, superseded=one.superseded)
            self._touched(a.ino, now)
            self._touched(b.ino, now)
            self._changed(self._row(one.parent), now, directories=shift)
            self._changed(self._row(other.parent), now, directories=-shift)

    def _to_keep(self, source: Name, moved: Inode, target: Name | None) -> Ino:
        """What the new name must keep until `moved` is published."""
        if not _is_unborn(moved):
            return NO_INO
        if target is None:
            return source.superseded
        if target.superseded != NO_INO:
            return target.superseded
        replaced = self._row(target.ino)
        if replaced.is_dir or _is_unborn(replaced):
            return source.superseded
        return target.ino

    @staticmethod
    def _unneeded(before: Sequence[Name], *, shown: Ino, kept: Ino) -> list[Ino]:
        """The references that `before` held and one name that shows `shown` and keeps `kept` does not."""
        if len(before) == 1 and before[0].ino == shown and before[0].superseded == kept:
            return []  # it only moved
        held = Counter(ino for entry in before for ino in (entry.ino, entry.superseded) if ino != NO_INO)
        held.subtract([shown, kept])
        return [ino for ino, count in held.items() for _ in range(count) if ino != NO_INO]

    # -- publishing ----------------------------------------------------------------------------------------

    def published(self, ino: Ino) -> None:
        """A file has a published version: what its names kept until now may go. Inside or outside an operation."""
        entries = self._catalog.superseding(ino) if self.lives.keeps else ()
        if not entries:
            return
        now = self._wall.now_ns()
        with self._journal.operation():
            for entry in entries:
                self._catalog.put_name(entry.parent, entry.name, ino)
            for entry in entries:
                self.lives.let_go(entry.superseded, now_ns=now)
        self.lives.kept(before=entries)

    # -- private -------------------------------------------------------------------------------------------

    def _make(
        self, parent: Ino, name: bytes, mode: int, caller: Caller, *, target: bytes = b"", rdev: int = 0
    ) -> Inode:
        directory = self._free_place(parent, name)
        now = self._wall.now_ns()
        gid, is_dir = caller.gid, stat.S_ISDIR(mode)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if is_dir else 0
        with self._journal.operation():
            inode = Inode(
                ino=self._catalog.new_ino(),
                mode=mode,
                uid=caller.uid,
                gid=gid,
                nlink=2 if is_dir else 1,
                size=len(target),
                atime_ns=now,
                mtime_ns=now,
                ctime_ns=now,
                code=directory.code,
                rdev=rdev,
                target=target,
            )
            self._catalog.put_inode(inode)
            if inode.is_file:
                self._files.created(inode)
            self._catalog.put_name(parent, name, inode.ino)
            self._changed(directory, now, names=1, directories=int(is_dir))
        return inode

    def _free_place(self, parent: Ino, name: bytes) -> Inode:
        """The directory, if something may be made in it under this name."""
        check_name(name)
        _check_now(parent, name)
        directory = self._directory(parent)
        if self._catalog.name(parent, name) is not None:
            raise FileError(errno=errno.EEXIST, what="the name exists")
        return directory

    def _row(self, ino: Ino) -> Inode:
        inode = self._catalog.inode(ino)
        if inode is None:
            raise FileError(errno=errno.ENOENT, what=f"inode {ino} does not exist")
        return inode

    def _directory(self, ino: Ino) -> Inode:
        """A directory that names can be put into."""
        inode = self._row(ino)
        if not inode.is_dir:
            raise FileError(errno=errno.ENOTDIR, what="not a directory")
        if inode.nlink == 0:
            raise FileError(errno=errno.ENOENT, what="the directory is removed")
        return inode

    def _name(self, parent: Ino, name: bytes) -> Name:
        check_length(name)
        found = self._catalog.name(parent, name)
        if found is None:
            _check_now(parent, name)
            self._directory(parent)
            raise FileError(errno=errno.ENOENT, what="no such name")
        return found

    def _changed(self, directory: Inode, now_ns: int, *, names: int = 0, directories: int = 0) -> None:
        """Store that names came to or went from a directory."""
        self._catalog.put_inode(
            directory.changed(
                size=directory.size + names,
                nlink=directory.nlink + directories,
                mtime_ns=now_ns,
                ctime_ns=now_ns,
            )
        )

    def _touched(self, ino: Ino, now_ns: int) -> None:
        self._catalog.put_inode(self._row(ino).changed(ctime_ns=now_ns))

    def _check_outside(self, directory: Ino, place: Ino) -> None:
        """Refuse to move a directory into itself or below."""
        while True:
            if place == directory:
                raise FileError(errno=errno.EINVAL, what="a directory cannot move into itself")
            above = self.parent_of(place)
            if above == place:
                return
            place = above


def _check_now(parent: Ino, name: bytes) -> None:
    """Refuse a place in a snapshot or a fork, and the names that lead to them. Raises FileError: EROFS."""
    if parent >= FIRST_PAST or (name in TOP_NAMES and parent == ROOT_INO):
        raise FileError(errno=errno.EROFS, what="snapshots and forks are only read")


def _is_unborn(inode: Inode) -> bool:
    return inode.is_file and inode.version == 0
