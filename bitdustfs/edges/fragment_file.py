"""The file of a fragment on a shelf, written once and whole.

    offset  bytes
    0       8     magic `bdfrag\\n\\0`
    8       1     format version, 1
    9       7     zeros
    16      8     length of the fragment, big-endian
    24      32    root
    56      8     first bytes of BLAKE3 over bytes 0 … 55
    64      32·l  leaf hash list, l = ceil(length / 16 KiB)
    …       length

Its size tells the length of the fragment, so what an owner uses is counted without opening a file.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from blake3 import blake3

from bitdustfs.core import fragment
from bitdustfs.core.fragment import HASH_BYTES, leaf_count
from bitdustfs.edges.durable import write_all
from bitdustfs.errors import BadFormat
from bitdustfs.model import LEAF_BYTES, Root

_MAGIC = b"bdfrag\n\0"
_VERSION = 1
_HEADER = struct.Struct(">8sB7xQ32s")
_CHECK_BYTES = 8
HEADER_BYTES: Final = _HEADER.size + _CHECK_BYTES


class OtherVersion(BadFormat):
    """Of a fragment: sound as far as can be told, and not for us to read."""


def write(path: Path, root: Root, hashes: bytes, content: bytes | memoryview) -> None:
    """Write a fragment to a new file, and sync it. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        for part in (_header(len(content), root), hashes, content):
            write_all(descriptor, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_header(descriptor: int) -> tuple[int, Root]:
    """Length and root of the fragment. Raises BadFormat, OtherVersion."""
    content = _read(descriptor, 0, HEADER_BYTES)
    magic, version, length, root = _HEADER.unpack_from(content)
    if magic != _MAGIC or blake3(content[: _HEADER.size]).digest(_CHECK_BYTES) != content[_HEADER.size :]:
        raise BadFormat(what="a file on the shelf is damaged, or is no fragment")
    if version != _VERSION:
        raise OtherVersion(what=f"a fragment has format version {version}; this bitdustfs reads version {_VERSION}")
    return length, Root(root)


def read_hashes(descriptor: int, length: int) -> bytes:
    """The leaf hash list of a fragment of that length. Raises BadFormat: the file is too short."""
    return _read(descriptor, HEADER_BYTES, HASH_BYTES * leaf_count(length))


def read_content(descriptor: int, length: int, start: int, end: int) -> bytes:
    """Bytes [start, end) of a fragment of that length. Raises BadFormat: the file is too short."""
    return _read(descriptor, HEADER_BYTES + HASH_BYTES * leaf_count(length) + start, end - start)


def is_genuine(descriptor: int, length: int, root: Root) -> bool:
    """Say whether hash list and content are those of that root. Raises BadFormat: the file is too short."""
    content, listed = read_content(descriptor, length, 0, length), read_hashes(descriptor, length)
    return listed == fragment.leaf_hashes(content) and fragment.root_of(listed, length) == root


def length_of(file_size: int) -> int:
    """The length of the fragment in a file of this size."""
    leaves = -(-(file_size - HEADER_BYTES) // (LEAF_BYTES + HASH_BYTES))
    return max(0, file_size - HEADER_BYTES - HASH_BYTES * leaves)


def _header(length: int, root: Root) -> bytes:
    fields = _HEADER.pack(_MAGIC, _VERSION, length, root)
    return fields + blake3(fields).digest(_CHECK_BYTES)


def _read(descriptor: int, at: int, count: int) -> bytes:
    content = os.pread(descriptor, count, at)
    if len(content) != count:
        raise BadFormat(what="a fragment on the shelf is shorter than it says")
    return content
