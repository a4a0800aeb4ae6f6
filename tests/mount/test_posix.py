"""Names and bytes through the kernel: one rule, one test. All share a mount; each works in a directory of its own."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import threading
from pathlib import Path

import pytest

from tests.mount.support import Mount, code_of, libc, renameat2

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2

libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.readdir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = libc.closedir.argtypes = (ctypes.c_void_p,)
libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)


# -- content -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 16384, 16385, 262144, 1_000_003])
def test_written_bytes_are_read_back(place: Path, size: int) -> None:
    content = os.urandom(size)
    (place / "f").write_bytes(content)
    assert (place / "f").read_bytes() == content
    assert (place / "f").stat().st_size == size


def test_write_at_any_offset_leaves_zeros_before_it(place: Path) -> None:
    with (place / "f").open("wb", buffering=0) as f:
        f.seek(1_000_000)
        f.write(b"end")
        f.seek(10)
        f.write(b"start")
    assert (place / "f").read_bytes() == bytes(10) + b"start" + bytes(1_000_000 - 15) + b"end"


def test_append_goes_to_the_end_whoever_wrote_last(place: Path) -> None:
    one = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    other = os.open(place / "f", os.O_WRONLY | os.O_APPEND)
    for descriptor, text in ((one, b"a"), (other, b"bb"), (one, b"c")):
        os.write(descriptor, text)
    os.close(one)
    os.close(other)
    assert (place / "f").read_bytes() == b"abbc"


def test_appends_of_several_writers_all_arrive(place: Path) -> None:
    def append(letter: bytes) -> None:
        descriptor = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for _ in range(50):
            os.write(descriptor, letter * 100)
        os.close(descriptor)

    writers = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = (place / "f").read_bytes()
    assert len(content) == 15_000
    assert {content[i : i + 100] for i in range(0, 15_000, 100)} == {b"a" * 100, b"b" * 100, b"c" * 100}


@pytest.mark.parametrize("size", [0, 5, 16384, 262143, 262145, 700_000])
def test_truncate_cuts_and_extends_with_zeros(place: Path, size: int) -> None:
    content = os.urandom(600_000)
    (place / "f").write_bytes(content)
    os.truncate(place / "f", size)
    os.truncate(place / "f", 800_000)
    assert (place / "f").read_bytes() == content[:size] + bytes(800_000 - min(size, 600_000))


def test_open_with_truncation_empties(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 100_000)
    os.close(os.open(place / "f", os.O_WRONLY | os.O_TRUNC))
    assert (place / "f").stat().st_size == 0
    assert (place / "f").read_bytes() == b""


def test_huge_sparse_file_costs_nothing(place: Path) -> None:
    with (place / "f").open("wb") as f:
        f.seek(1 << 40)
        f.write(b"x")
    assert (place / "f").stat().st_size == (1 << 40) + 1
    with (place / "f").open("rb") as f:
        f.seek(1 << 39)
        assert f.read(10) == bytes(10)


def test_file_beyond_the_limit_is_efbig(place: Path) -> None:
    (place / "f").touch()
    assert code_of(lambda: os.truncate(place / "f", 1 << 60)) == errno.EFBIG


def test_shared_memory_map_reads_and_writes(place: Path) -> None:
    (place / "f").write_bytes(bytes(300_000))
    with (place / "f").open("r+b") as f:
        with mmap.mmap(f.fileno(), 0) as mapped:
            mapped[262_140:262_148] = b"boundary"
            mapped.flush()
            assert (place / "f").read_bytes()[262_140:262_148] == b"boundary"
            f.seek(5)
            f.write(b"by write")
            f.flush()
            assert mapped[5:13] == b"by write"


def test_unflushed_memory_map_is_written_when_it_closes(place: Path) -> None:
    (place / "f").write_bytes(bytes(10_000))
    with (place / "f").open("r+b") as f:
        mapped = mmap.mmap(f.fileno(), 0)
        mapped[9_000:9_004] = b"late"
        mapped.close()
    assert (place / "f").read_bytes()[9_000:9_004] == b"late"


def test_fsync_of_file_and_directory_succeeds(place: Path) -> None:
    with (place / "f").open("wb") as f:
        f.write(b"x" * 100_000)
        f.flush()
        os.fsync(f.fileno())
        os.fdatasync(f.fileno())
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


# -- names ---------------------------------------------------------------------------------------------------


def test_exclusive_creation_happens_once(place: Path) -> None:
    os.close(os.open(place / "f", os.O_CREAT | os.O_EXCL))
    assert code_of(lambda: os.open(place / "f", os.O_CREAT | os.O_EXCL)) == errno.EEXIST


def test_missing_name_appears_once_it_is_made(place: Path) -> None:
    assert not (place / "f").exists()
    (place / "f").touch()
    assert (place / "f").exists()
    (place / "f").unlink()
    assert not (place / "f").exists()


def test_name_of_255_bytes_works_and_of_256_does_not(place: Path) -> None:
    (place / ("n" * 255)).touch()
    assert os.listdir(place) == ["n" * 255]
    for call in (
        lambda: (place / ("n" * 256)).touch(),
        lambda: os.stat(place / ("n" * 256)),
        lambda: os.rename(place / ("n" * 255), place / ("m" * 256)),
        lambda: os.mkdir(place / ("n" * 256)),
        lambda: os.symlink("x", place / ("n" * 256)),
        lambda: os.unlink(place / ("n" * 256)),
    ):
        assert code_of(call) == errno.ENAMETOOLONG


def test_name_of_any_bytes_works(place: Path) -> None:
    name = bytes(b for b in range(1, 256) if b != ord("/"))
    os.close(os.open(os.fsencode(place) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert os.listdir(os.fsencode(place)) == [name]


def test_open_file_lives_on_after_unlink(place: Path) -> None:
    with (place / "f").open("w+b", buffering=0) as f:
        f.write(b"before")
        (place / "f").unlink()
        assert os.listdir(place) == []
        f.write(b" after")
        f.seek(0)
        assert f.read() == b"before after"
        assert os.fstat(f.fileno()).st_nlink == 0


def test_hard_links_share_everything(place: Path) -> None:
    (place / "f").write_bytes(b"one")
    os.link(place / "f", place / "g")
    (place / "g").write_bytes(b"other")
    assert (place / "f").read_bytes() == b"other"
    assert (place / "f").stat().st_ino == (place / "g").stat().st_ino
    assert (place / "f").stat().st_nlink == 2
    (place / "f").unlink()
    assert (place / "g").stat().st_nlink == 1


def test_link_to_a_directory_is_eperm(place: Path) -> None:
    (place / "d").mkdir()
    assert code_of(lambda: os.link(place / "d", place / "e")) == errno.EPERM


def test_symlinks_are_followed_and_read(place: Path) -> None:
    (place / "f").write_bytes(b"here")
    (place / "s").symlink_to("f")
    assert (place / "s").read_bytes() == b"here"
    assert os.readlink(place / "s") == "f"
    assert stat.S_ISLNK(os.lstat(place / "s").st_mode)
    (place / "loop").symlink_to("loop")
    assert code_of(lambda: (place / "loop").read_bytes()) == errno.ELOOP


def test_fifo_carries_bytes(place: Path) -> None:
    os.mkfifo(place / "p")
    assert stat.S_ISFIFO((place / "p").stat().st_mode)
    reader = os.open(place / "p", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "p", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    os.close(reader)


def test_regular_file_by_mknod(place: Path) -> None:
    os.mknod(place / "f", stat.S_IFREG | 0o600)
    assert (place / "f").read_bytes() == b""


def test_rename_replaces_at_once(place: Path) -> None:
    (place / "old").write_bytes(b"old")
    (place / "new").write_bytes(b"new")
    with (place / "old").open("rb") as still_open:
        os.rename(place / "new", place / "old")
        assert still_open.read() == b"old"
    assert (place / "old").read_bytes() == b"new"
    assert os.listdir(place) == ["old"]


def test_rename_without_replacing_is_eexist(place: Path) -> None:
    (place / "f").write_bytes(b"f")
    (place / "g").write_bytes(b"g")
    assert code_of(lambda: renameat2(place / "f", place / "g", RENAME_NOREPLACE)) == errno.EEXIST
    renameat2(place / "f", place / "h", RENAME_NOREPLACE)
    assert sorted(os.listdir(place)) == ["g", "h"]


def test_exchange_swaps_a_file_and_a_directory(place: Path) -> None:
    (place / "f").write_bytes(b"f")
    (place / "d").mkdir()
    renameat2(place / "f", place / "d", RENAME_EXCHANGE)
    assert (place / "d").read_bytes() == b"f"
    assert (place / "f").is_dir()


def test_rename_into_itself_is_einval(place: Path) -> None:
    (place / "d/e").mkdir(parents=True)
    assert code_of(lambda: os.rename(place / "d", place / "d/e/f")) == errno.EINVAL


def test_rename_obeys_the_kinds(place: Path) -> None:
    (place / "d").mkdir()
    (place / "full").mkdir()
    (place / "full/f").touch()
    (place / "f").touch()
    assert code_of(lambda: os.rename(place / "d", place / "f")) == errno.ENOTDIR
    assert code_of(lambda: os.rename(place / "f", place / "d")) == errno.EISDIR
    assert code_of(lambda: os.rename(place / "d", place / "full")) == errno.ENOTEMPTY
    assert code_of(lambda: os.rename(place / "x", place / "y")) == errno.ENOENT


def test_removing_obeys_the_kinds(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").touch()
    assert code_of(lambda: os.rmdir(place / "d")) == errno.ENOTEMPTY
    assert code_of(lambda: os.rmdir(place / "d/f")) == errno.ENOTDIR
    assert code_of(lambda: os.unlink(place / "d")) == errno.EISDIR
    assert code_of(lambda: os.stat(place / "d/f/x")) == errno.ENOTDIR


def test_removed_working_directory_is_empty_and_closed(place: Path) -> None:
    (place / "d").mkdir()
    directory = os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY)
    (place / "d").rmdir()
    assert os.listdir(directory) == []
    assert code_of(lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=directory)) == errno.ENOENT
    os.close(directory)


def test_temporary_file_without_a_name_is_refused_as_tools_expect(place: Path) -> None:
    assert code_of(lambda: os.open(place, os.O_TMPFILE | os.O_RDWR)) == errno.EOPNOTSUPP


# -- directories ---------------------------------------------------------------------------------------------


def test_directory_counts_its_subdirectories(place: Path) -> None:
    for number in range(3):
        (place / f"d{number}").mkdir()
    (place / "f").touch()
    assert place.stat().st_nlink == 5
    (place / "d0").rmdir()
    os.rename(place / "d1", place / "d2/d1")
    assert (place.stat().st_nlink, (place / "d2").stat().st_nlink) == (3, 3)


def test_directory_times_change_with_its_names_only(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    before = place.stat().st_mtime_ns
    (place / "f").write_bytes(b"y")
    assert place.stat().st_mtime_ns == before
    (place / "g").touch()
    after = place.stat()
    assert after.st_mtime_ns == after.st_ctime_ns > before


def test_listing_has_the_dots(place: Path) -> None:
    (place / "d").mkdir()
    descriptor = os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(4096)
    length = libc.syscall(217, descriptor, buffer, len(buffer))  # getdents64, which Python hides the dots of
    os.close(descriptor)
    records, entries = buffer.raw[:length], {}
    while records:
        size = int.from_bytes(records[16:18], "little")
        entries[records[19:size].split(b"\0")[0]] = int.from_bytes(records[:8], "little")
        records = records[size:]
    assert entries == {b".": (place / "d").stat().st_ino, b"..": place.stat().st_ino}


@pytest.mark.slow
def test_large_directory_is_listed_whole_while_it_changes(place: Path) -> None:
    list_while_it_changes(place, names=1_000, changes=1_000)


@pytest.mark.long
def test_directory_of_100_000_names_is_listed_whole_while_it_changes() -> None:
    with Mount() as mount:
        list_while_it_changes(mount.path, names=50_000, changes=5_000)


def list_while_it_changes(directory: Path, *, names: int, changes: int) -> None:
    for number in range(names):
        (directory / f"stay{number}").touch()
        (directory / f"go{number}").touch()
    seen = []
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count < changes:
                (directory / f"go{count}").unlink()
                (directory / f"come{count}").touch()
    assert sorted(name for name in seen if name.startswith("stay")) == sorted(f"stay{n}" for n in range(names))
    assert len(seen) == len(set(seen))


@pytest.mark.slow
def test_listing_ends_though_every_name_is_renamed_as_it_is_listed(place: Path) -> None:
    for number in range(300):
        (place / f"f{number}").touch()
    seen = 0
    with os.scandir(place) as entries:
        for entry in entries:
            seen += 1
            os.rename(entry, place / "temporary")
            os.rename(place / "temporary", entry)
            assert seen <= 300
    assert len(os.listdir(place)) == seen == 300


def test_position_in_a_directory_can_be_returned_to(place: Path) -> None:
    for number in range(100):
        (place / f"f{number}").touch()
    stream = libc.opendir(os.fsencode(place))
    seen: list[tuple[int, bytes]] = []
    while True:
        position = libc.telldir(stream)
        entry = libc.readdir(stream)
        if not entry:
            break
        seen.append((position, ctypes.string_at(entry + 19)))
    assert len(dict(seen)) == 102
    for position, name in (seen[70], seen[2], seen[101], seen[0], seen[1]):
        libc.seekdir(stream, position)
        assert ctypes.string_at(libc.readdir(stream) + 19) == name
    (place / "new").touch()
    libc.rewinddir(stream)
    names = []
    while entry := libc.readdir(stream):
        names.append(ctypes.string_at(entry + 19))
    assert b"new" in names
    libc.closedir(stream)


@pytest.mark.slow
def test_deep_tree_works(place: Path) -> None:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(300):
        os.mkdir("a-directory-name-of-some-length", dir_fd=directory)
        inner = os.open("a-directory-name-of-some-length", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(os.open("f", os.O_CREAT, dir_fd=directory))
    assert os.listdir(directory) == ["f"]
    os.close(directory)
