"""A request always ends, and its trouble stays its own (I12): faults ordered in a mount that serves real files."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdustfs.edges import mounts
from bitdustfs.edges.fuse_tuning import MAX_BACKGROUND, READ_AHEAD_KIB, connections
from tests.mount.support import HANGS_S, Standin, code_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared() -> Iterator[Standin]:
    with Standin() as running:
        yield running


@pytest.fixture
def own() -> Iterator[Standin]:
    with Standin() as running:
        yield running


def read_code(mount: Standin, fault: str) -> int | None:
    """The errno of a read that fails in this way."""
    path = mount.path / f"fault-{fault}"
    path.write_bytes(f"fault: {fault}\n".encode())
    return code_of(path.read_bytes)


def inodes(mount: Standin) -> int:
    """How many inodes there are, with the root."""
    space = os.statvfs(mount.path)
    return space.f_files - space.f_ffree


def assert_serves(mount: Standin) -> None:
    (mount.path / "good").write_bytes(b"good")
    assert (mount.path / "good").read_bytes() == b"good"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("bug", errno.EIO),
        ("lost", errno.EIO),
        ("unavailable", errno.ETIMEDOUT),
        ("group", errno.ETIMEDOUT),
        ("never", errno.ETIMEDOUT),
    ],
)
def test_fault_in_a_handler_costs_one_request(shared: Standin, fault: str, code: int) -> None:
    assert read_code(shared, fault) == code
    assert_serves(shared)


def test_bug_is_logged_with_its_place(shared: Standin) -> None:
    read_code(shared, "bug")
    assert "ZeroDivisionError: a handler with a bug" in shared.log.read_text()


def test_waiting_reads_do_not_stop_others(shared: Standin) -> None:
    paths = [shared.path / f"waits{number}" for number in range(50)]
    for path in paths:
        path.write_bytes(b"fault: never\n")
    codes: list[int | None] = []
    readers = [threading.Thread(target=lambda path=path: codes.append(code_of(path.read_bytes))) for path in paths]
    for reader in readers:
        reader.start()
    assert_serves(shared)
    for reader in readers:
        reader.join()
    assert codes == [errno.ETIMEDOUT] * 50


def test_pages_survive_open_and_go_when_invalidated(own: Standin) -> None:
    path = own.path / "f"
    path.write_bytes(b"good" + bytes(9_000))
    path.stat()
    assert path.read_bytes()[:4] == b"good"
    served = own.reads()
    assert path.read_bytes()[:4] == b"good"
    assert own.reads() == served
    own.process.send_signal(signal.SIGUSR1)
    assert own.said() == "invalidated 1"
    assert path.read_bytes()[:4] == b"good"
    assert own.reads() > served


def test_only_the_first_write_to_a_file_asks_for_an_attribute(own: Standin) -> None:
    with (own.path / "file").open("wb", buffering=0) as file:
        file.write(b"first")
        before = own.xattrs_asked()
        for _ in range(20):
            file.write(b"again")
    assert own.xattrs_asked() == before


def test_who_looks_at_a_tree_again_is_answered_by_the_kernel(own: Standin) -> None:
    paths = [own.path / f"file{number}" for number in range(20)]
    for path in paths:  # as rsync makes them
        made = path.with_suffix(".made")
        made.write_bytes(b"x")
        os.utime(made, (1, 1))
        made.rename(path)
    before = own.stats_asked()
    for path in paths:
        path.stat()
    once = own.stats_asked()
    assert 0 < once - before <= len(paths) + 1  # after a rename it asks for each file and for the directory
    for path in paths:
        path.stat()
    assert own.stats_asked() == once


def test_each_change_of_mode_is_looked_at_by_the_next_write(own: Standin) -> None:
    path = own.path / "file"
    path.write_bytes(b"first")
    for _ in range(2):
        path.chmod(0o4755)
        before = own.xattrs_asked()
        path.write_bytes(b"again")
        assert own.xattrs_asked() > before


def test_small_write_into_bytes_that_cannot_be_fetched_does_not_wait(own: Standin) -> None:
    path = own.path / "f"
    path.write_bytes(b"fault: never\n")
    own.process.send_signal(signal.SIGUSR1)
    assert own.said() == "invalidated 1"
    with path.open("r+b", buffering=0) as f:
        f.seek(3)
        assert f.write(b"x") == 1  # with the write-back cache of the kernel it would read the page first
        f.seek(0, os.SEEK_END)
        assert f.write(b"y") == 1
    assert own.reads() == 0
    assert path.read_bytes() == b"fauxt: never\ny"


def test_dirty_mapped_pages_survive_an_invalidation(own: Standin) -> None:
    path = own.path / "f"
    path.write_bytes(bytes(20_000))
    with path.open("r+b") as f, mmap.mmap(f.fileno(), 0) as mapped:
        mapped[10_000:10_004] = b"late"
        own.process.send_signal(signal.SIGUSR1)
        assert own.said() == "invalidated 1"
        assert mapped[10_000:10_004] == b"late"
    assert path.read_bytes()[10_000:10_004] == b"late"


def test_request_that_waits_when_the_mount_ends_is_answered() -> None:
    with Standin("patient") as mount:
        path = mount.path / "f"
        path.write_bytes(b"fault: never\n")
        codes: list[int | None] = []
        reader = threading.Thread(target=lambda: codes.append(code_of(path.read_bytes)))
        reader.start()
        while not mount.reads():
            pass
        assert mount.stop() == 0
        reader.join()
        assert codes in ([errno.ENOTCONN], [errno.ECONNABORTED])  # the kernel may have asked once more


def test_end_of_the_process_leaves_no_mount(own: Standin) -> None:
    assert own.stop() == 0
    assert mounts.mounted_at(str(own.path), mounts.read_mounts()) is None


def test_unmounting_ends_the_process(own: Standin) -> None:
    mounts.detach(str(own.path), lazy=False)
    assert own.process.wait(HANGS_S) == 0


def test_deleted_file_is_dropped_when_it_is_closed(own: Standin) -> None:
    descriptor = os.open(own.path / "f", os.O_CREAT | os.O_WRONLY)
    assert inodes(own) == 2
    (own.path / "f").unlink()
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)
    while inodes(own) > 1:  # the kernel tells us later
        pass


def test_file_known_only_from_a_listing_stays_while_the_kernel_needs_it(own: Standin) -> None:
    (own.path / "f").write_bytes(b"x")
    assert own.stop() == 0
    own.start()
    assert os.listdir(own.path) == ["f"]
    descriptor = os.open(own.path / "f", os.O_PATH)
    (own.path / "f").unlink()
    assert os.fstat(descriptor).st_size == 1
    os.close(descriptor)
    while inodes(own) > 1:  # the kernel tells us later
        pass


def test_deleted_open_file_is_dropped_when_the_mount_ends(own: Standin) -> None:
    descriptor = os.open(own.path / "f", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"x" * 50_000)
    (own.path / "f").unlink()
    assert own.stop() == 0
    with contextlib.suppress(OSError):  # nobody answers its flush any more
        os.close(descriptor)
    own.start()
    assert os.listdir(own.path) == []
    assert inodes(own) == 1


def test_names_and_bytes_are_there_after_a_restart(own: Standin) -> None:
    (own.path / "d").mkdir()
    (own.path / "d/f").write_bytes(b"x" * 50_000)
    os.link(own.path / "d/f", own.path / "g")
    os.setxattr(own.path / "g", "user.a", b"1")
    assert own.stop() == 0
    own.start()
    assert (own.path / "g").read_bytes() == b"x" * 50_000
    assert (own.path / "g").stat().st_nlink == 2
    assert os.getxattr(own.path / "d/f", "user.a") == b"1"


def test_read_only_mount_refuses_changes() -> None:
    with Standin("ro") as mount:
        assert code_of((mount.path / "f").touch) == errno.EROFS


def test_root_raises_the_limits_of_the_mount(shared: Standin) -> None:
    number = shared.path.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    assert int(Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text()) == READ_AHEAD_KIB
    with connections() as directory:
        assert int((directory / str(os.minor(number)) / "max_background").read_text()) == MAX_BACKGROUND
