"""What `edges.fuse` does around the handlers, without a kernel."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any, cast

import pyfuse3
import pytest
import trio
import trio.testing
from pyfuse3 import EntryAttributes as Entry

from bitdustfs.edges.fuse import Operations, _entry
from bitdustfs.edges.fuse_answer import Deadlines, errno_of
from bitdustfs.edges.fuse_pages import BATCH, Pages
from bitdustfs.edges.fuse_tuning import MountOptions
from bitdustfs.engine.files import Files
from bitdustfs.errors import BlockLost, FileError, NotFound, ReadOnly, TooFewFragments
from bitdustfs.model import CHUNK_BYTES, ROOT_INO, Cookie, Ino, Space
from tests.engine.names import Names

UNWRAPPED = {"forget", "flush"}  # forget may raise nothing at all; flush is ENOSYS by design


class _Context:
    uid = gid = pid = umask = 0


@pytest.fixture
def names() -> Names:
    return Names()


def operations(
    names: Names, *, files: Files | None = None, space: Callable[[], Space] = lambda: Space(0, 0, 0)
) -> Operations:
    return Operations(
        tree=names.tree,
        attributes=names.attributes,
        files=files or names.files,
        journal=names.journal,
        space=space,
        deadlines=Deadlines(read_s=7.0),
    )


# -- answers -------------------------------------------------------------------------------------------------


def test_every_handler_is_wrapped() -> None:
    handlers = {n: f for n, f in vars(Operations).items() if n in vars(pyfuse3.Operations) and not n.startswith("_")}
    assert len(handlers) > 25
    unwrapped = {n for n, f in handlers.items() if inspect.iscoroutinefunction(f) and not hasattr(f, "__wrapped__")}
    assert unwrapped == UNWRAPPED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileError(errno=errno.ENOTEMPTY, what="full"), errno.ENOTEMPTY),
        (NotFound(what="gone"), errno.ENOENT),
        (ReadOnly(what="ro"), errno.EROFS),
        (TooFewFragments(block="1f", have=1, need=3, missing="s2"), errno.ETIMEDOUT),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (BlockLost(block="1f", have=1, need=3), errno.EIO),
        (ValueError("a bug"), errno.EIO),
        (MemoryError(), errno.EIO),
        (ExceptionGroup("", [NotFound(what="gone")]), errno.ENOENT),
        (ExceptionGroup("", [ExceptionGroup("", [trio.TooSlowError()])]), errno.ETIMEDOUT),
    ],
)
def test_every_error_has_an_errno(error: BaseException, code: int) -> None:
    assert errno_of(error, "read") == code


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_end_of_the_process_is_no_answer(error: BaseException) -> None:
    assert errno_of(error, "read") is None


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (FileError(errno=errno.EEXIST, what="there"), logging.DEBUG),
        (trio.TooSlowError(), logging.WARNING),
        (BlockLost(block="1f", have=1, need=3), logging.WARNING),
        (ValueError("a bug"), logging.ERROR),
    ],
)
def test_what_should_not_happen_is_logged_louder(
    caplog: pytest.LogCaptureFixture, error: Exception, level: int
) -> None:
    with caplog.at_level(logging.DEBUG, logger="bitdustfs"):
        errno_of(error, "read")
    assert [record.levelno for record in caplog.records] == [level]


async def test_request_that_is_cancelled_is_answered_and_the_task_still_ends(names: Names) -> None:
    file, ops = names.file(b"f"), operations(names)
    await names.files.write(file, 0, b"x")
    answers = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await ops.setattr(file, _entry(names.at(file)), _AllSizes(), None, _Context())  # type: ignore[arg-type]
        except pyfuse3.FUSEError as refusal:
            answers.append(refusal.errno)
        await trio.sleep_forever()
    assert answers == [errno.ENOTCONN]
    assert scope.cancelled_caught


async def test_volume_that_is_being_handed_over_takes_no_change_and_is_read_on(names: Names) -> None:
    file, ops = names.file(b"f"), operations(names)
    await names.files.write(file, 0, b"x")
    names.journal.close(ReadOnly(what="another machine goes on with it"))
    context: Any = _Context()
    for refused in (
        lambda: ops.mkdir(ROOT_INO, b"d", 0o755, context),
        lambda: ops.write(file, 0, b"y"),
        lambda: ops.unlink(ROOT_INO, b"f", context),
        lambda: ops.setxattr(file, b"user.a", b"b", context),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await refused()
        assert caught.value.errno == errno.EROFS
    assert await ops.read(file, 0, 10) == b"x"
    names.journal.reopen()
    await ops.unlink(ROOT_INO, b"f", context)


async def test_read_ends_with_its_deadline(names: Names, autojump_clock: trio.testing.MockClock) -> None:
    ops = operations(names, files=_Stuck())  # type: ignore[arg-type]
    start = trio.current_time()
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.read(ROOT_INO, 0, 10)
    assert caught.value.errno == errno.ETIMEDOUT
    assert trio.current_time() - start == 7.0


class _Stuck:
    def read_here(self, ino: Ino, offset: int, length: int) -> None:
        return None

    async def read(self, ino: Ino, offset: int, length: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


class _AllSizes:
    update_mode = update_uid = update_gid = update_atime = update_mtime = update_ctime = False
    update_size = True


# -- entries -------------------------------------------------------------------------------------------------


async def test_missing_name_is_an_answer_that_the_kernel_may_keep(names: Names) -> None:
    entry = await operations(names).lookup(ROOT_INO, b"nothing", _Context())  # type: ignore[arg-type]
    assert entry.st_ino == 0 and entry.entry_timeout > 0


async def test_entry_counts_blocks_of_512_bytes(names: Names) -> None:
    file = names.file(b"f")
    await names.files.write(file, 0, b"x" * 513)
    entry = _entry(names.at(file))
    assert (entry.st_size, entry.st_blocks) == (513, 2)


async def test_readers_are_offered_less_than_a_chunk_and_writers_more(names: Names) -> None:
    file = names.file(b"f")
    empty = _entry(names.at(file)).st_blksize
    await names.files.write(file, 0, b"x")
    assert _entry(names.at(file)).st_blksize <= CHUNK_BYTES // 2 < empty


async def test_root_is_never_counted(names: Names) -> None:
    await operations(names).lookup(ROOT_INO, b".", _Context())  # type: ignore[arg-type]
    assert list(names.tree.lives.known()) == []


async def test_statfs_shows_what_it_is_told(names: Names) -> None:
    told = Space(total_bytes=10 * 4096 + 1, free_bytes=3 * 4096, files=5)
    answer = await operations(names, space=lambda: told).statfs(_Context())  # type: ignore[arg-type]
    assert (answer.f_frsize, answer.f_blocks, answer.f_bfree, answer.f_bavail) == (4096, 10, 3, 3)
    assert answer.f_files - answer.f_ffree == 5


# -- pages ---------------------------------------------------------------------------------------------------


async def test_all_pages_are_dropped_off_the_loop() -> None:
    dropped: list[int] = []
    threads: set[int] = set()

    def invalidate(ino: int) -> None:
        dropped.append(ino)
        threads.add(threading.get_ident())

    inodes = [Ino(number) for number in range(2 * BATCH + 3)]
    assert await Pages(invalidate).drop(iter(inodes)) == len(inodes)
    assert dropped == inodes
    assert threading.get_ident() not in threads


async def test_forgotten_inode_is_no_error() -> None:
    def invalidate(ino: int) -> None:
        raise OSError(errno.ENOENT, "forgotten")

    assert await Pages(invalidate).drop(iter([Ino(2)])) == 1


async def test_nothing_is_told_to_the_kernel_after_leaving() -> None:
    dropped: list[int] = []
    pages = Pages(dropped.append)
    await pages.leave()
    assert await pages.drop(iter([Ino(2)])) == 0
    assert dropped == []


async def test_leaving_waits_for_the_thread_and_stops_it_early() -> None:
    started, go_on = trio.Event(), threading.Event()
    dropped: list[int] = []

    def invalidate(ino: int) -> None:
        dropped.append(ino)
        trio.from_thread.run_sync(started.set)
        go_on.wait()

    pages = Pages(invalidate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.drop, iter([Ino(2), Ino(3)]))
        await started.wait()
        nursery.start_soon(pages.leave)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert dropped == [2]


# -- options -------------------------------------------------------------------------------------------------


def test_mount_is_always_safe_and_named() -> None:
    words = MountOptions(fsname="a,b").words()
    assert {"default_permissions", "nosuid", "nodev", "noatime", "subtype=bitdustfs"} < words
    assert "fsname=a\\,b" in words
    assert "allow_other" not in words and "ro" not in words


def test_mount_options_become_words() -> None:
    assert {"allow_other", "ro"} < MountOptions(allow_other=True, read_only=True).words()


def test_name_that_libfuse_cannot_take_is_written_with_question_marks() -> None:
    assert "fsname=h?me" in MountOptions(fsname="höme").words()


# -- every handler (I12) -------------------------------------------------------------------------------------


class _Broken:
    """A part with a bug in everything that it does."""

    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError(name)


class _Waiting:
    """A part that never ends what may wait: each coroutine of `real`.

    There is no room in its spool, no byte, and no name is free.
    """

    def __init__(self, real: object) -> None:
        self._real = real

    def has_room(self, _length: int) -> bool:
        return False

    def read_here(self, _ino: Ino, _offset: int, _length: int) -> None:
        return None

    def shows(self, _parent: Ino, _name: bytes) -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        found = getattr(self._real, name)
        return _forever if inspect.iscoroutinefunction(found) else found


async def _forever(*_args: object, **_kwargs: object) -> None:
    await trio.sleep_forever()


# handler -> arguments; an inode or handle is that of a file, `None` stands for a context
REQUESTS: dict[str, tuple[object, ...]] = {
    "lookup": (ROOT_INO, b"f", None),
    "mknod": (ROOT_INO, b"new", 0o100644, 0, None),
    "mkdir": (ROOT_INO, b"new", 0o755, None),
    "symlink": (ROOT_INO, b"new", b"target", None),
    "link": (2, ROOT_INO, b"new", None),
    "readlink": (2, None),
    "unlink": (ROOT_INO, b"f", None),
    "rmdir": (ROOT_INO, b"f", None),
    "rename": (ROOT_INO, b"f", ROOT_INO, b"new", 0, None),
    "opendir": (ROOT_INO, None),
    "readdir": (ROOT_INO, 2, None),
    "releasedir": (ROOT_INO,),
    "fsyncdir": (ROOT_INO, False),
    "getattr": (2, None),
    "setattr": (2, Entry(), _AllSizes(), 2, None),
    "getxattr": (2, b"user.a", None),
    "setxattr": (2, b"user.a", b"1", None),
    "listxattr": (2, None),
    "removexattr": (2, b"user.a", None),
    "statfs": (None,),
    "open": (2, os.O_RDONLY, None),
    "create": (ROOT_INO, b"new", 0o644, 0, None),
    "read": (2, 0, 10),
    "write": (2, 0, b"x"),
    "fsync": (2, False),
    "release": (2,),
}
TRUNCATING = ("open", (2, os.O_WRONLY | os.O_TRUNC, None))
WITHOUT_PARTS = {"releasedir"}  # it asks nobody
MAY_WAIT = {"rename", "fsyncdir", "setattr", "read", "write", "fsync"}


def request(ops: Operations, handler: str, args: tuple[object, ...]) -> Coroutine[object, object, object]:
    filled = tuple(_Context() if each is None else each for each in args)
    ops._listings[ROOT_INO] = ROOT_INO, Cookie(1 << 62)  # as if it were opened
    made: Coroutine[object, object, object] = getattr(ops, handler)(*filled)
    return made


def test_table_of_requests_is_complete() -> None:
    handlers = {n for n, f in vars(Operations).items() if hasattr(f, "__wrapped__")}
    assert handlers == set(REQUESTS)


@pytest.mark.parametrize("handler", sorted(set(REQUESTS) - WITHOUT_PARTS))
async def test_bug_in_any_handler_is_an_error_of_its_request(
    names: Names, handler: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Any = _Broken()
    ops = operations(names)
    ops._tree = ops._lives = ops._attributes = ops._files = ops._journal = ops._space = broken
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await request(ops, handler, REQUESTS[handler])
    assert caught.value.errno == errno.EIO
    assert "a request failed by a bug" in caplog.text


async def test_bug_in_forget_is_nobodys_error(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    ops = operations(names)
    ops._lives = cast(Any, _Broken())
    await ops.forget([(2, 1)])
    assert "could not be forgotten" in caplog.text


@pytest.mark.parametrize(
    ("handler", "args"),
    [*((name, REQUESTS[name]) for name in sorted(MAY_WAIT)), TRUNCATING],
    ids=[*sorted(MAY_WAIT), "truncating"],
)
async def test_what_may_wait_has_a_deadline(
    names: Names, autojump_clock: trio.testing.MockClock, handler: str, args: tuple[object, ...]
) -> None:
    assert names.file(b"f") == 2
    ops = operations(names)
    for part in ("_tree", "_attributes", "_files", "_journal"):
        setattr(ops, part, _Waiting(getattr(ops, part)))
    with pytest.raises(pyfuse3.FUSEError) as caught, trio.fail_after(1000):
        await request(ops, handler, args)
    assert caught.value.errno == errno.ETIMEDOUT
    assert Ino(2) not in ops._lives._opens


@pytest.mark.parametrize("handler", [*sorted(set(REQUESTS) - MAY_WAIT), "write", "read", "rename"])
async def test_what_has_no_deadline_never_waits(names: Names, handler: str) -> None:
    assert names.file(b"f") == 2
    asked = request(operations(names), handler, REQUESTS[handler])
    with closing(asked), pytest.raises((StopIteration, pyfuse3.FUSEError)):
        asked.send(None)  # one step, and nobody would take it up again
