"""The kernel's requests, by pyfuse3: translated, given a deadline, and answered whatever happens.

pyfuse3 ends the whole mount when a handler raises anything but FUSEError, so `_answered` wraps each handler once and
turns every failure into an errno: one request, never the mount (I12). A file handle is the inode's number: nothing
is kept for an open file here that `Lives` does not count. Of an open directory is kept up to where it is listed.

**What the kernel may keep.** This kernel is the only writer of the volume, and it takes back what it caches itself
when a request of its own changes it: names (also missing ones), attributes, pages. What changes without a request it
does not see anyway: publishing leaves size and times alone, and the state of a file is an xattr, which is never
cached. So the time-outs are long and pages survive `open`. They are not endless, so that an error of ours heals.
After `cache drop` pages go by `invalidate_pages`.

**flush** is answered with ENOSYS once, after which the kernel no longer asks at `close`: there is nothing to say.
Every `write` was answered only when its bytes were taken, and what the kernel writes late itself (mmap) fails in its
own `close` and `fsync` with what `write` answered.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes as Entry
from pyfuse3 import RequestContext as Context

from bitdustfs.core.names import NAME_BYTES
from bitdustfs.core.past import FIRST_PAST
from bitdustfs.edges.fuse_answer import Deadlines as Deadlines
from bitdustfs.edges.fuse_answer import errno_of
from bitdustfs.edges.fuse_greeting import Greeting
from bitdustfs.edges.fuse_pages import Pages
from bitdustfs.edges.fuse_past import PastOperations
from bitdustfs.edges.fuse_tuning import MAX_BACKGROUND, MountOptions, prove
from bitdustfs.edges.fuse_turn import Rush, taking_turns
from bitdustfs.edges.fuse_view import ViewOperations
from bitdustfs.engine.attributes import Attributes, Changes
from bitdustfs.engine.files import Files
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.past_tree import PastTree
from bitdustfs.engine.tree import Caller, Tree
from bitdustfs.engine.view_tree import ViewTree
from bitdustfs.errors import BitdustError, FileError, SetupMissing
from bitdustfs.model import ROOT_INO, Cookie, Ino, Inode, Space

KERNEL_CACHE_S = 300  # how long the kernel may keep names and attributes; see above why it could be for ever
BLOCK_BYTES = 4096  # unit of statfs
READ_BYTES = 128 * 1024  # (tune) st_blksize, the buffer of many readers: with read-ahead still within one chunk
WRITE_BYTES = 512 * 1024  # (tune) st_blksize of an empty file, the buffer of who fills it: cp takes half the time
FREE_NAMES = 1 << 30  # statfs: there is no limit, but 0 would read as full
LISTING_PAGE = 24  # entries of one directory reply of 4 KiB; larger replies take several pages
IDLE_TASKS = 8  # (tune) kept waiting for requests: starting one for each costs more than the answer
MOST_TASKS = MAX_BACKGROUND + 100  # background requests alone cannot take all
STOP_PATIENCE_S = 5.0  # for requests on their way
_STAT_BLOCK_BYTES = 512  # unit of st_blocks
_DOTS = 2  # offsets of a listing before the first cookie: "." and ".."
_HANDLES = FIRST_PAST // 2  # of open directories are above: no directory of now has such a number
_log = logging.getLogger(__name__)

_CHANGING = frozenset(  # handlers; the kernel opens for writing what `write` then gets
    {"mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "create", "write"}
    | {"setattr", "setxattr", "removexattr"}
)

P = ParamSpec("P")
R = TypeVar("R")

Limit = Literal["read_s", "write_s", "sync_s"]
Handler = Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]


def _answered(limit: Limit | None = None) -> Callable[[Handler[P, R]], Handler[P, R]]:
    """Wrap a handler: any failure becomes a FUSEError, and what waits gets the deadline named `limit`.

    One without a limit must have none to need: it may not wait at all, or must set its own deadline.
    What is in a snapshot is answered by `edges.fuse_past`, and what is asked of a reader by `edges.fuse_view`.
    """

    def wrap(handler: Handler[P, R]) -> Handler[P, R]:
        name = handler.__name__
        is_viewed, is_changing = name != "statfs", name in _CHANGING

        @wraps(handler)
        async def wrapped(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                if args and args[0].__class__ is int and args[0] >= FIRST_PAST:
                    with trio.fail_after(self.deadlines.read_s):
                        return cast(R, await self._past_handler(name)(*args, **kwargs))
                if self.view is not None and is_viewed:
                    with trio.fail_after(self.deadlines.read_s):
                        return cast(R, await self.view.handler(name)(*args, **kwargs))
                if is_changing:
                    self._journal.admit_request()
                if limit is None:
                    return await handler(self, *args, **kwargs)
                with trio.fail_after(getattr(self.deadlines, limit)):
                    return await handler(self, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - a kernel request must get an errno
                raise _refusal(error, name) from None

        return cast(Handler[P, R], wrapped)

    return wrap


def _refusal(error: BaseException, handler: str) -> BaseException:
    code = None if isinstance(error, pyfuse3.FUSEError) else errno_of(error, handler)
    return error if code is None else pyfuse3.FUSEError(code)


class Operations(pyfuse3.Operations):
    """The handlers of one mount.

    Args:
        space: true numbers for statfs, at once and without the network.
        note_slots: is told once how many reads the kernel hands over at a time.
        past: what snapshots show; None: no name leads to any.
        view: the tree of who only reads; None: everything is asked of `tree` and `files`.
        make_safe: after an fsync, waits until a file survives this machine; None: fsync ends when it is durable here.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        attributes: Attributes,
        files: Files,
        journal: Journal,
        space: Callable[[], Space],
        deadlines: Deadlines | None = None,
        note_slots: Callable[[int], None] = lambda slots: None,
        make_safe: Callable[[Ino | None], Awaitable[None]] | None = None,
        past: PastTree | None = None,
        view: ViewTree | None = None,
    ) -> None:
        super().__init__()
        self._tree = tree
        self._lives = tree.lives
        self._attributes = attributes
        self._files = files
        self._journal = journal
        self._space = space
        self._listings: dict[int, tuple[Ino, Cookie]] = {}  # open directories, and up to where each is listed
        self._handles = itertools.count(_HANDLES)
        self.deadlines = deadlines or Deadlines()
        self.note_slots = note_slots
        self._make_safe = make_safe
        self._past = (
            PastOperations(past, _entry, reply=pyfuse3.readdir_reply, opened=_opened) if past is not None else None
        )
        self.view = self._viewed(view) if view is not None else None
        self.rush = Rush()
        self.pages = Pages(pyfuse3.invalidate_inode, pyfuse3.invalidate_entry)

    # -- names -----------------------------------------------------------------------------------------------

    @_answered()
    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> Entry:
        inode = self._tree.lookup(Ino(parent_inode), name)
        if inode is None:
            if parent_inode == ROOT_INO and self._past is not None and (top := self._past.top(name)) is not None:
                return cast(Entry, top)
            missing = Entry()  # st_ino 0: the kernel keeps that it is missing
            missing.entry_timeout = KERNEL_CACHE_S
            return missing
        return self._told(inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            if ino >= FIRST_PAST:
                continue
            if self.view is not None:
                self.view.tree.forget(Ino(ino), count)
                continue
            try:
                self._lives.forget(Ino(ino), count)
            except BitdustError as error:
                _log.debug("inode %d stays until the next start: %s", ino, error)
            except Exception:  # noqa: BLE001 - there is no request to answer; the next start drops it
                _log.exception("inode %d could not be forgotten", ino)

    @_answered()
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context) -> Entry:
        return self._told(self._tree.mknod(Ino(parent_inode), name, mode, _caller(ctx), rdev=rdev))

    @_answered()
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Context) -> Entry:
        return self._told(self._tree.mkdir(Ino(parent_inode), name, mode, _caller(ctx)))

    @_answered()
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Context) -> Entry:
        return self._told(self._tree.symlink(Ino(parent_inode), name, target, _caller(ctx)))

    @_answered()
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context) -> Entry:
        return self._told(self._tree.link(Ino(inode), Ino(new_parent_inode), new_name))

    @_answered()
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return self._tree.readlink(Ino(inode))

    @_answered()
    async def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        self._tree.unlink(Ino(parent_inode), name)

    @_answered()
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        self._tree.rmdir(Ino(parent_inode), name)

    @_answered()
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        old, new = Ino(parent_inode_old), Ino(parent_inode_new)
        if not self._tree.shows(new, name_new):  # it does not wait, and a deadline costs as much as the rename
            await self._tree.rename(old, name_old, new, name_new, flags)
            return
        with trio.fail_after(self.deadlines.sync_s):
            await self._tree.rename(old, name_old, new, name_new, flags)

    @_answered()
    async def opendir(self, inode: int, ctx: Context) -> int:
        handle = next(self._handles)
        self._listings[handle] = Ino(inode), self._tree.newest()
        return handle

    @_answered()
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory, until = self._listings[fh]
        if start_id == 0:  # also after rewinddir, which wants to see what came meanwhile
            until = self._tree.newest()
            self._listings[fh] = directory, until
        if start_id < _DOTS:
            for offset, name, ino in ((1, b".", directory), (2, b"..", self._tree.parent_of(directory))):
                # the kernel does not count these two as looked up
                entry = _entry(self._tree.attributes(ino))
                if offset > start_id and not pyfuse3.readdir_reply(token, name, entry, offset):
                    return
        after = Cookie(max(0, start_id - _DOTS))
        while page := self._tree.listing(directory, after, LISTING_PAGE, until=until):
            for shown, inode in page:
                if not pyfuse3.readdir_reply(token, shown.name, _entry(inode), shown.cookie + _DOTS):
                    return
                self._lives.remember(inode.ino)
                after = shown.cookie

    @_answered()
    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    @_answered("sync_s")
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._journal.durable()
        if self._make_safe is not None:
            await self._make_safe(None)

    # -- attributes ------------------------------------------------------------------------------------------

    @_answered()
    async def getattr(self, inode: int, ctx: Context) -> Entry:
        return _entry(self._tree.attributes(Ino(inode)))

    @_answered()
    async def setattr(
        self,
        inode: int,
        attr: Entry,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: Context,
    ) -> Entry:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if changes.size is None:  # nothing else waits, and a deadline costs as much as the rest
            await self._attributes.set(Ino(inode), changes, by_root=ctx.uid == 0)
        else:
            with trio.fail_after(self.deadlines.write_s):
                await self._attributes.set(Ino(inode), changes, by_root=ctx.uid == 0)
        return _entry(self._tree.attributes(Ino(inode)))

    @_answered()
    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return self._attributes.xattr(Ino(inode), name)

    @_answered()
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Context) -> None:
        self._attributes.set_xattr(Ino(inode), name, value)

    @_answered()
    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return self._attributes.xattr_names(Ino(inode))

    @_answered()
    async def removexattr(self, inode: int, name: bytes, ctx: Context) -> None:
        self._attributes.drop_xattr(Ino(inode), name)

    @_answered()
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        space = self._space()
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = BLOCK_BYTES
        answer.f_blocks = space.total_bytes // BLOCK_BYTES
        answer.f_bfree = answer.f_bavail = space.free_bytes // BLOCK_BYTES
        answer.f_files = space.files + FREE_NAMES
        answer.f_ffree = answer.f_favail = FREE_NAMES
        answer.f_namemax = NAME_BYTES
        return answer

    # -- content ---------------------------------------------------------------------------------------------

    @_answered()
    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        ino = Ino(inode)
        self._lives.opened(ino)
        if flags & os.O_TRUNC:
            try:
                with trio.fail_after(self.deadlines.write_s):
                    await self._attributes.set(ino, Changes(size=0), by_root=ctx.uid == 0)
            except BaseException:
                self._lives.closed(ino)
                raise
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    @_answered()
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, Entry]:
        inode = self._tree.mknod(Ino(parent_inode), name, mode, _caller(ctx))
        self._lives.opened(inode.ino)
        return pyfuse3.FileInfo(fh=inode.ino, keep_cache=True), self._told(inode)

    @_answered()
    async def read(self, fh: int, off: int, size: int) -> bytes:
        content = self._files.read_here(Ino(fh), off, size)
        if content is not None:  # it did not wait, and a deadline costs as much as the read
            return content
        with trio.fail_after(self.deadlines.read_s):
            return await self._files.read(Ino(fh), off, size)

    @_answered()
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        if self._files.has_room(len(buf)):  # it does not wait, and a deadline costs as much as the write
            return await self._files.write(Ino(fh), off, buf)
        with trio.fail_after(self.deadlines.write_s):
            return await self._files.write(Ino(fh), off, buf)

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @_answered("sync_s")
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._files.fsync(Ino(fh))
        if self._make_safe is not None:
            await self._make_safe(Ino(fh))

    @_answered()
    async def release(self, fh: int) -> None:
        self._lives.closed(Ino(fh))

    # -- towards the kernel ----------------------------------------------------------------------------------

    def show(self, view: ViewTree) -> None:
        """Answer from the tree of who only reads from now on, and refuse every change.

        What the kernel has open stays open. Pages that it keeps may hold what was refused: see `invalidate_pages`.
        """
        self.view = self._viewed(view)

    async def invalidate_pages(self) -> int:
        """Make the kernel forget all pages of files that it knows. Returns how many inodes it knew.

        Never call it from a handler: on its way the kernel waits for reads and writes, which need this loop.
        """
        return await self.pages.drop(self.view.tree.known() if self.view is not None else self._lives.known())

    async def forget_stale(self) -> None:
        """Make the kernel forget what another view of a reader shows otherwise. Never call it from a handler."""
        if self.view is None:
            return
        names, numbers = self.view.tree.take_stale()
        await self.pages.drop_names(iter(names))
        await self.pages.drop(iter(numbers))
        self.view.tree.settled(numbers)

    def left(self) -> None:
        """The kernel is gone: drop what only it needed."""
        try:
            self._lives.forget_all()
        except BitdustError as error:
            _log.warning("deleted files that were open are dropped at the next start: %s", error)

    # -- private ---------------------------------------------------------------------------------------------

    def _past_handler(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if self._past is None:
            raise FileError(errno=errno.ESTALE, what="no snapshot is shown")
        return self._past.handler(name)

    def _viewed(self, tree: ViewTree) -> ViewOperations:
        return ViewOperations(
            tree,
            self._attributes,
            _entry,
            missing=Entry,
            reply=pyfuse3.readdir_reply,
            opened=_opened,
            top=self._past.top if self._past is not None else None,
            open_before={handle: directory for handle, (directory, _) in self._listings.items()},
            handles=self._handles,
        )

    def _told(self, inode: Inode) -> Entry:
        """The entry of a reply that makes the kernel know the inode once more."""
        entry = _entry(inode)
        if inode.ino != ROOT_INO:
            self._lives.remember(inode.ino)
        return entry


def _entry(inode: Inode) -> Entry:
    entry = Entry()
    entry.st_ino = inode.ino
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blocks = -(-inode.size // _STAT_BLOCK_BYTES) if stat.S_ISREG(inode.mode) else 0
    entry.st_blksize = READ_BYTES if inode.size else WRITE_BYTES
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    entry.entry_timeout = KERNEL_CACHE_S
    entry.attr_timeout = KERNEL_CACHE_S
    return entry


def _opened(handle: int, keep_cache: bool = True) -> pyfuse3.FileInfo:
    return pyfuse3.FileInfo(fh=handle, keep_cache=keep_cache)


def _caller(ctx: Context) -> Caller:
    return Caller(uid=ctx.uid, gid=ctx.gid)


async def serve(
    ops: Operations,
    mountpoint: str,
    options: MountOptions,
    *,
    stop_patience_s: float = STOP_PATIENCE_S,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, answer until somebody unmounts it or we are cancelled, and leave no mount behind.

    pyfuse3 keeps its session in global variables: one mount for each process. `task_status` is started once a
    request through the kernel was answered. When cancelled, requests on their way may end, for up to
    `stop_patience_s`; who still waits then is answered with ENOTCONN.

    Raises:
        SetupMissing: the kernel or fusermount3 refused; what they say goes to stderr.
        Unavailable: the mount did not answer.
    """
    try:
        pyfuse3.init(ops, mountpoint, set(options.words()))
    except RuntimeError as error:
        raise SetupMissing(what=f"{mountpoint} cannot be mounted ({error}); is it allowed?") from error
    ended = trio.Event()
    loop = trio.CancelScope(shield=True)  # cancelled by us alone, last

    async def answer() -> None:
        with loop:
            try:
                greet = partial(Greeting, max_background=options.max_background)
                with taking_turns(pyfuse3, greet=greet, rush=ops.rush):
                    await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=MOST_TASKS)
            finally:
                ended.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            try:
                ops.note_slots(await prove(mountpoint, options))
                task_status.started()
                await ended.wait()
            finally:
                with trio.CancelScope(deadline=trio.current_time() + stop_patience_s, shield=True):
                    await ops.pages.leave()
                    pyfuse3.terminate()
                    await ended.wait()
                loop.cancel()
    finally:
        with trio.CancelScope(deadline=trio.current_time() + stop_patience_s, shield=True):
            await ops.pages.leave()
        pyfuse3.close(unmount=True)
        ops.left()
