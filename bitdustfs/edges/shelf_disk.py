"""The shelf on disk: other people's fragments, one file each.

    SHELF/bitdustfs-shelf                      the marker: version and id of the shelf, as text
    SHELF/<owner>/<aa>/<name>                  a fragment: owner and name in hex, aa the first two digits of the name
    SHELF/<owner>/trash/<name>                 a deleted one; its mtime is when that was
    SHELF/incoming/<number>                    a fragment that is being written; removed at start

What a fragment's file looks like, `fragment_file` knows; what the marker is, `shelf_marker`.

Names come from peers as 32 raw bytes and are only ever written in hex, so no name leads out of the shelf. A put
checks the root, writes a temporary file, fsyncs it, renames it and fsyncs the directory, and only then returns. What
an owner uses is counted once, when the marker is first seen, and then kept in memory.

A directory without the marker is not a shelf: its disk is unplugged. So that an empty mountpoint never becomes one, a
home makes a shelf once and remembers its id; from then on nothing else will do, and what is asked is *unavailable*.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bitdustfs.core import fragment
from bitdustfs.core.grace import DAY_S
from bitdustfs.edges import fragment_file
from bitdustfs.edges.durable import sync_directory, translated
from bitdustfs.edges.fragment_file import OtherVersion, length_of
from bitdustfs.edges.shelf_marker import MARKER, create_shelf, read_marker, recall, remember
from bitdustfs.errors import AlreadyThere, BadFormat, BadLeaf, DiskFault, DiskFull, NotFound, Unavailable
from bitdustfs.model import LEAF_BYTES, FragmentName, OwnerId, Root, short
from bitdustfs.ports import Leaves

log = logging.getLogger(__name__)

FLOOR_BYTES: Final = 1 << 30  # of the disk, left to its owner whatever was donated
NO_LIMIT: Final = 1 << 62
_HEX = re.compile("[0-9a-f]{64}")
_INCOMING = "incoming"
_TRASH = "trash"


class DiskShelf:
    """A ports.Shelf in a directory made by `create`. Safe to call from several threads.

    Args:
        only: the id of the shelf that must be there; another is as good as none. None: any.
        donated_bytes: the most that all owners together may store.
        floor_bytes: stays free on the disk.
    """

    def __init__(
        self,
        root: Path,
        *,
        only: bytes | None = None,
        donated_bytes: int = NO_LIMIT,
        floor_bytes: int = FLOOR_BYTES,
    ) -> None:
        self._root = root
        self._only = only
        self.donated_bytes = donated_bytes  # may be set while it is used
        self._floor = floor_bytes
        self._lock = threading.RLock()  # over what is below; held for renames, never for writing or fsync
        self._counted: tuple[int, int, int] | None = None  # device, inode, mtime of the marker that was counted
        self._durable: set[Path] = set()  # directories whose own names survive a power loss
        self._used: dict[OwnerId, tuple[int, int]] = {}
        self._trashed: dict[OwnerId, dict[int, tuple[int, int]]] = {}  # of the trash: day -> (bytes, fragments)
        self._coming_bytes = 0
        self._numbers = itertools.count()

    @classmethod
    def open_or_create(
        cls, root: Path, remembered: Path, *, donated_bytes: int = NO_LIMIT, floor_bytes: int = FLOOR_BYTES
    ) -> DiskShelf:
        """Open the shelf of a home and count it; make it if the home never had one.

        If that shelf is not at `root` now, an error is logged and what is returned waits for it: *unavailable*.

        Args:
            remembered: the file that says which shelf it is, written when the shelf is first seen.
        Raises:
            AlreadyThere: the home has no shelf, and something else is at `root`. BadFormat, DiskFull, DiskFault.
        """
        only = recall(remembered)
        if only is None:
            only = create_shelf(root)
            remember(remembered, only)
        shelf = cls(root, only=only, donated_bytes=donated_bytes, floor_bytes=floor_bytes)
        try:
            shelf.free_bytes()  # counts: a shelf of many fragments takes a while, and now nobody waits
        except (Unavailable, DiskFault) as error:
            log.error(
                "nothing can be stored or read: %s To begin a new shelf, and give up the old one, take away %s.",
                error,
                remembered,
            )
        return shelf

    # -- ports.Shelf ------------------------------------------------------------------------------------------

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        hashes = fragment.leaf_hashes(content)
        if fragment.root_of(hashes, len(content)) != root:
            raise BadLeaf(peer="what arrived", fragment=short(name))
        with self._disk():
            final = self._path(owner, name)
            if self._has(final, root):
                sync_directory(final.parent)  # the put that made it may not have come so far
                return
            with self._room(len(content)):
                temporary = self._root / _INCOMING / f"{os.getpid()}-{next(self._numbers)}"
                try:
                    fragment_file.write(temporary, root, hashes, content)
                    self._make_directory(final.parent)
                    self._commit(owner, temporary, final, root, len(content))
                finally:
                    temporary.unlink(missing_ok=True)
                sync_directory(final.parent)

    def get(self, owner: OwnerId, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        with self._disk():
            descriptor = self._open(self._path(owner, name))
            try:
                length, _root = fragment_file.read_header(descriptor)
                start = min(first * LEAF_BYTES, length)
                end = min(start + count * LEAF_BYTES, length)
                hash_list = fragment_file.read_hashes(descriptor, length) if hashes else b""
                return Leaves(length, hash_list, fragment_file.read_content(descriptor, length, start, end))
            finally:
                os.close(descriptor)

    def delete(self, owner: OwnerId, name: FragmentName, *, now_s: int) -> bool:
        with self._disk():
            path = self._path(owner, name)
            trashed = self._root / owner.hex() / _TRASH / name.hex()
            if not path.exists():
                return False
            self._make_directory(trashed.parent)
            with self._lock:
                if not path.exists():  # somebody else was quicker
                    return False
                replaced = trashed.stat() if trashed.exists() else None
                os.utime(path, (now_s, now_s))
                os.rename(path, trashed)
                self._count_trash(owner, now_s, length_of(trashed.stat().st_size), 1)
                if replaced is not None:
                    length = length_of(replaced.st_size)
                    self._count_trash(owner, int(replaced.st_mtime), -length, -1)
                    self._count(owner, -length, -1)
            sync_directory(trashed.parent)
            sync_directory(path.parent)
            return True

    def names(self, owner: OwnerId, after: bytes, limit: int) -> Sequence[tuple[FragmentName, int]]:
        with self._disk():
            found: list[tuple[FragmentName, int]] = []
            for folder in sorted(_folders(self._root / owner.hex())):
                if folder.name == _TRASH or folder.name < after[:1].hex():
                    continue
                for name, size in sorted(_files(folder)):
                    if name > after and length_of(size):  # without content it is damaged, and no fragment
                        found.append((FragmentName(name), length_of(size)))
                if len(found) >= limit:
                    break
            return found[:limit]

    def trash(self, owner: OwnerId, before_s: int) -> tuple[int, int]:
        with self._lock:
            days = self._trashed.get(owner, {})
            old = [counts for day, counts in days.items() if day < before_s // DAY_S]
            return sum(each[0] for each in old), sum(each[1] for each in old)

    def empty_trash(self, owner: OwnerId, bytes_wanted: int, fragments_wanted: int, before_s: int) -> None:
        with self._disk():
            folder = self._root / owner.hex() / _TRASH
            found = sorted((at, name, size) for name, size, at in _dated(folder) if at // DAY_S < before_s // DAY_S)
            for at, name, size in found:
                if bytes_wanted <= 0 and fragments_wanted <= 0:
                    break
                with self._lock:
                    (folder / name.hex()).unlink(missing_ok=True)
                    self._count_trash(owner, at, -length_of(size), -1)
                    self._count(owner, -length_of(size), -1)
                bytes_wanted -= length_of(size)
                fragments_wanted -= 1
            if found:
                sync_directory(folder)

    def drop(self, owner: OwnerId, bytes_wanted: int) -> int:
        gone = 0
        with self._disk():
            trash = self._root / owner.hex() / _TRASH
            for name, size, at in _dated(trash):
                if gone >= bytes_wanted:
                    break
                with self._lock:
                    (trash / name.hex()).unlink(missing_ok=True)
                    self._count_trash(owner, at, -length_of(size), -1)
                    self._count(owner, -length_of(size), -1)
                gone += length_of(size)
            for folder in _folders(self._root / owner.hex()):
                for name, size in _files(folder) if folder.name != _TRASH and gone < bytes_wanted else ():
                    if gone >= bytes_wanted:
                        break
                    with self._lock:
                        (folder / name.hex()).unlink(missing_ok=True)
                        self._count(owner, -length_of(size), -1)
                    gone += length_of(size)
        return gone

    def owners(self) -> Sequence[OwnerId]:
        with self._disk():
            return sorted(OwnerId(o) for p in _folders(self._root) if (o := _from_hex(p.name)) is not None)

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        with self._disk():
            path = self._path(owner, name)
            if self._is_whole(path) or self._is_whole(path):  # read twice: memory may fail, too
                return True
            with self._lock:
                if not path.exists():  # its owner deleted it meanwhile
                    raise NotFound(what=f"fragment {path.name[:8]} is not on the shelf")
                if self._is_whole(path):  # it was put anew meanwhile
                    return True
                length = length_of(path.stat().st_size)
                path.unlink()
                self._count(owner, -length, -1)
            sync_directory(path.parent)
            return False

    def used(self, owner: OwnerId) -> tuple[int, int]:
        with self._disk(), self._lock:
            return self._used.get(owner, (0, 0))

    def free_bytes(self) -> int:
        with self._disk(), self._lock:
            return self._free_bytes()

    # -- the disk -------------------------------------------------------------------------------------------

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Refuse to touch a directory that is not our shelf, and translate what a disk raises."""
        try:
            self._check_marker()
            yield
        except FileNotFoundError as error:
            # Gone between marker and file: the disk was unplugged under us.
            raise Unavailable(what=f"{self._root} went away: is its disk plugged in?") from error
        except OSError as error:
            raise translated(error, self._root) from error

    def _check_marker(self) -> None:
        try:
            seen = os.stat(self._root / MARKER)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unavailable(
                what=f"{self._root} is not there or has lost its marker: is its disk plugged in?"
            ) from error
        now = seen.st_dev, seen.st_ino, seen.st_mtime_ns
        if self._counted == now:
            return
        with self._lock:
            if self._counted == now:
                return
            shelf_id = read_marker(self._root)
            if self._only not in (None, shelf_id):
                raise Unavailable(what=f"{self._root} is another shelf than ours: is the right disk plugged in?")
            self._clean_incoming()
            self._durable.clear()
            self._used = {
                OwnerId(owner): _usage(p) for p in _folders(self._root) if (owner := _from_hex(p.name)) is not None
            }
            self._trashed = {}
            for owner in self._used:
                for _name, size, at in _dated(self._root / owner.hex() / _TRASH):
                    self._count_trash(owner, at, length_of(size), 1)
            self._counted = now

    def _clean_incoming(self) -> None:
        incoming = self._root / _INCOMING
        incoming.mkdir(mode=0o700, exist_ok=True)
        for left in incoming.iterdir():
            left.unlink()

    def _path(self, owner: OwnerId, name: FragmentName) -> Path:
        if len(owner) != 32 or len(name) != 32:
            raise ValueError("owners and names have 32 bytes")
        digits = name.hex()
        return self._root / owner.hex() / digits[:2] / digits

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            self._check_marker()
            raise NotFound(what=f"fragment {path.name[:8]} is not on the shelf") from error

    def _is_whole(self, path: Path) -> bool:
        """Say whether a file holds what its header says. Raises NotFound."""
        descriptor = self._open(path)
        try:
            _length, root = fragment_file.read_header(descriptor)
        except OtherVersion:
            return True  # a newer bitdustfs wrote it, and can read it
        except BadFormat:
            return False
        finally:
            os.close(descriptor)
        return self._has(path, root)

    def _has(self, path: Path, root: Root) -> bool:
        """Say whether this very fragment lies there, whole. One that rotted is no fragment: it is replaced."""
        try:
            descriptor = self._open(path)
        except NotFound:
            return False
        try:
            length, stored = fragment_file.read_header(descriptor)
            if stored != root:
                raise AlreadyThere(what=f"another fragment is called {path.name[:8]}")
            return fragment_file.is_genuine(descriptor, length, root)
        except BadFormat:
            return False
        finally:
            os.close(descriptor)

    def _commit(self, owner: OwnerId, temporary: Path, final: Path, root: Root, length: int) -> None:
        with self._lock:  # two puts of one name: the second finds the first
            if not self._has(final, root):
                rotten = length_of(final.stat().st_size) if final.exists() else None
                os.rename(temporary, final)
                self._count(owner, length - (rotten or 0), 1 if rotten is None else 0)

    def _make_directory(self, path: Path) -> None:
        """Make a directory of an owner, durably, also if another put has just made it and not come so far."""
        for folder in (path.parent, path):
            if folder in self._durable and folder.is_dir():
                continue
            made = _like(folder) if folder is path else (folder,)  # one fsync for some of them
            for each in made:
                each.mkdir(mode=0o700, exist_ok=True)
            sync_directory(folder.parent)
            self._durable.update(made)  # at most 258 for an owner

    # -- room -----------------------------------------------------------------------------------------------

    @contextmanager
    def _room(self, length: int) -> Iterator[None]:
        """Hold room for a fragment that is being written."""
        with self._lock:
            if self._free_bytes() < length:
                raise DiskFull(path=self._root)
            self._coming_bytes += length
        try:
            yield
        finally:
            with self._lock:
                self._coming_bytes -= length

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._root)
        of_disk = disk.f_bavail * disk.f_frsize - self._floor
        of_donation = self.donated_bytes - sum(used for used, _fragments in self._used.values())
        return min(of_disk, of_donation) - self._coming_bytes

    def _count_trash(self, owner: OwnerId, at_s: int, bytes_more: int, fragments_more: int) -> None:
        days, day = self._trashed.setdefault(owner, {}), at_s // DAY_S
        length, count = days.get(day, (0, 0))
        days[day] = length + bytes_more, count + fragments_more
        if days[day] == (0, 0):
            del days[day]

    def _count(self, owner: OwnerId, bytes_more: int, fragments_more: int) -> None:
        used_bytes, used_fragments = self._used.get(owner, (0, 0))
        self._used[owner] = used_bytes + bytes_more, used_fragments + fragments_more


def _like(folder: Path) -> Sequence[Path]:
    """A folder of an owner, and those that begin with the same digit: soon there will be fragments for them."""
    if len(folder.name) != len("aa"):
        return (folder,)
    return [folder.with_name(f"{folder.name[0]}{digit:x}") for digit in range(16)]


def _from_hex(text: str) -> bytes | None:
    """The 32 bytes that a name stands for; what has another name is not ours."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _files(folder: Path) -> Iterator[tuple[bytes, int]]:
    """(name, size) of the fragment files in a folder; what has no name of a fragment is not ours."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _from_hex(entry.name)
            if name is not None and entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False).st_size


def _dated(trash: Path) -> Iterator[tuple[bytes, int, int]]:
    """(name, size, when it was deleted in wall seconds) of what is in a trash."""
    try:
        for name, size in _files(trash):
            yield name, size, int((trash / name.hex()).stat().st_mtime)
    except FileNotFoundError:
        return


def _usage(owner_folder: Path) -> tuple[int, int]:
    """(bytes, fragments) in a folder; a damaged file counts as one, until its owner puts or deletes it."""
    lengths = [length_of(size) for folder in _folders(owner_folder) for _name, size in _files(folder)]
    damaged = lengths.count(0)
    if damaged:
        log.warning("%d damaged fragments without content in %s", damaged, owner_folder)
    return sum(lengths), len(lengths)
