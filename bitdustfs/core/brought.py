"""Rows of a catalog that another machine signed, before they become ours: each is one that we could have made.

A machine that was stolen has the volume key, so what it seals is authentic, and may be anything. What a row says of
contents is its word, and stays with its line (engine/grafting); that it has a shape with which everything here can
go on is looked at in this module, row by row as they come. One row that could not be ours is enough to take none.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from bitdustfs.core.block import MAX_SLOTS
from bitdustfs.core.names import check_name, check_target
from bitdustfs.core.ranges import chunk_count
from bitdustfs.errors import BadFormat, FileError
from bitdustfs.model import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    HOLE,
    MAX_FILE_BYTES,
    SEAL_BYTES,
    XATTR_NAME_BYTES,
    XATTR_TOTAL_BYTES,
    XATTR_VALUE_BYTES,
    BlockRow,
    ChunkRow,
    FragmentRow,
    FragmentState,
    Inode,
    MapRow,
    Snapshot,
    Supplier,
)

SNAPSHOTS_MOST: Final = 4096  # (tune) that come with one line: each costs a walk through a whole tree
VALUE_BYTES: Final = 4 * 1024 * 1024  # of one column that is read; the largest that we write are roots, with 8 KiB
_TYPES: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_U32: Final = (1 << 32) - 1
_U31: Final = (1 << 31) - 1
_U62: Final = (1 << 62) - 1
_ID_BYTES: Final = 32
_ROOTS_MOST: Final = 255
_LABEL_CHARS: Final = 255
_CHUNKS_MOST: Final = chunk_count(MAX_FILE_BYTES)
_USER, _OURS = b"user.", b"user.bitdustfs."


def check_entry(name: bytes) -> None:
    """Refuse what cannot be a name in a directory. Raises BadFormat, as everything here does."""
    try:
        check_name(name)
    except FileError as bad:
        raise BadFormat(what=f"its catalog has {_shown(name)} as a name, and that is none") from bad


def check_inode(inode: Inode) -> None:
    """Refuse what cannot be an inode."""
    size_most = MAX_FILE_BYTES if inode.is_file else _U62
    kind = stat.S_IFMT(inode.mode) if 0 <= inode.mode <= 0o177777 else 0
    if kind not in _TYPES:
        _refuse(f"an inode with the mode {inode.mode:o}")
    if not (0 <= inode.uid <= _U32 and 0 <= inode.gid <= _U32 and 0 <= inode.nlink <= _U31):
        _refuse("an inode with an owner, a group or a number of links that there is not")
    if not (0 <= inode.size <= size_most and 0 <= inode.version <= _U62 and 0 <= inode.rdev <= _U32):
        _refuse(f"an inode of {inode.size} bytes, or with a version or device that there is not")
    if inode.is_symlink:
        try:
            check_target(inode.target)
        except FileError as bad:
            raise BadFormat(what="its catalog has a symlink whose target is none") from bad
    if len(inode.target) != (inode.size if inode.is_symlink else 0):
        _refuse("a target of another length than its inode says")


def check_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what cannot be the extended attributes of one inode."""
    total_bytes = 0
    for name, value in xattrs:
        total_bytes += len(name) + len(value)
        is_name = name.startswith(_USER) and not name.startswith(_OURS) and b"\0" not in name
        if not is_name or len(name) > XATTR_NAME_BYTES or len(value) > XATTR_VALUE_BYTES:
            _refuse(f"an extended attribute {_shown(name)} of {len(value)} bytes")
    if total_bytes > XATTR_TOTAL_BYTES:
        _refuse(f"extended attributes of {total_bytes} bytes at one inode")


def check_map(rows: Sequence[MapRow], end: int) -> int:
    """Refuse rows that cannot follow one another in the map of a file. Returns where the last one ends.

    Args:
        rows: in the order of their indexes.
        end: where the one before them ends.
    """
    for row in rows:
        is_one = row.count == 1 if row.chunk != HOLE else row.count >= 1
        if row.index < end or not is_one or row.chunk < 0 or row.index + row.count > _CHUNKS_MOST:
            _refuse(f"a map that says twice, or of nothing, what is at index {row.index} of a file")
        end = row.index + row.count
    return end


def check_chunk(row: ChunkRow, block: BlockRow) -> None:
    """Refuse what cannot be a chunk in this block."""
    is_place = 0 <= row.slot < MAX_SLOTS and row.offset >= 0 and row.offset + row.length + SEAL_BYTES <= block.length
    if not is_place or not 1 <= row.length <= CHUNK_BYTES or len(row.fingerprint) != _ID_BYTES:
        _refuse(f"a chunk of {row.length} bytes at {row.offset} in a block of {block.length}")


def check_block(row: BlockRow) -> None:
    """Refuse what cannot be a block of files."""
    is_whole = all(len(each) == _ID_BYTES for each in (row.block_id, *row.roots))
    if not is_whole or not row.code.k <= len(row.roots) <= _ROOTS_MOST:
        _refuse("a block whose id or roots are none")
    if not 1 <= row.length <= BLOCK_BYTES or not 0 <= row.scope <= _U32:
        _refuse(f"a block of {row.length} bytes in scope {row.scope}")


def check_fragment(row: FragmentRow, block: BlockRow) -> None:
    """Refuse what cannot be a fragment of this block: one that is there can be checked by its root."""
    most = _ROOTS_MOST if row.state is FragmentState.WANTED else len(block.roots)
    if not 0 <= row.index < most:
        _refuse(f"a fragment {row.index} of a block that has {len(block.roots)}")


def check_supplier(row: Supplier) -> None:
    """Refuse what cannot be a supplier."""
    is_node = len(row.node) == _ID_BYTES and len(row.owner) == _ID_BYTES
    if not is_node or not (0 <= row.capacity_bytes <= _U62 and 0 <= row.capacity_fragments <= _U62):
        _refuse("a supplier with an id or a capacity that there is not")
    if row.address and not _is_line(row.address, _LABEL_CHARS):
        _refuse("a supplier with an address that cannot be printed")


def label(theirs: str) -> str:
    """What one of their suppliers is called here: in one line, and no name that nobody could have given."""
    line = "".join(each if each.isprintable() else " " for each in theirs)[:_LABEL_CHARS]
    return " ".join(line.split()) or "supplier"


def check_snapshot(snapshot: Snapshot) -> None:
    """Refuse what cannot be a snapshot that a person made."""
    check_entry(snapshot.name.encode(errors="surrogateescape"))
    if not _is_line(snapshot.name, _LABEL_CHARS) or snapshot.name == "now":
        _refuse(f"a snapshot called {snapshot.name!r}")


def _is_line(text: str, most: int) -> bool:
    return bool(text) and text.isprintable() and len(text) <= most


def _shown(name: bytes) -> str:
    return repr(name[:40])[1:] + ("…" if len(name) > 40 else "")


def _refuse(what: str) -> NoReturn:
    raise BadFormat(what=f"its catalog has {what}")
