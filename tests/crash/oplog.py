"""What happened to a simulated disk, in order: one entry for each change and each sync.

The disk (`recorder`) appends to a file of these; `loss` makes from any prefix what a power loss there may leave.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<BQQQqHHI")


class Did(enum.IntEnum):
    """What an entry says. Places are (directory, name); contents and sizes belong to nodes, not to names."""

    MKDIR = 1
    MAKE = 2  # an empty file
    RENAME = 3  # also over another
    UNLINK = 4
    RMDIR = 5
    WRITE = 6
    RESIZE = 7
    SYNC = 8  # fsync or fdatasync of a file succeeded
    SYNC_DIRECTORY = 9
    BAD_SYNC = 10  # it failed: what was not on the disk yet never gets there, whatever a later sync says


NAMES = frozenset({Did.MKDIR, Did.MAKE, Did.RENAME, Did.UNLINK, Did.RMDIR})


@dataclass(frozen=True, slots=True)
class Entry:
    """One change or sync of the node `node`."""

    did: Did
    node: int
    parent: int = 0
    name: bytes = b""
    new_parent: int = 0
    new_name: bytes = b""
    at: int = 0  # of a write; the new size of RESIZE
    content: bytes = b""

    def packed(self) -> bytes:
        """The entry as it stands in the file."""
        header = _HEADER.pack(
            self.did,
            self.node,
            self.parent,
            self.new_parent,
            self.at,
            len(self.name),
            len(self.new_name),
            len(self.content),
        )
        return b"".join((header, self.name, self.new_name, self.content))


def unpack(log: bytes) -> Iterator[Entry]:
    """The entries of a log file, without a last one that is not whole."""
    at = 0
    while at + _HEADER.size <= len(log):
        did, node, parent, new_parent, place, name, new_name, content = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        end = at + name + new_name + content
        if end > len(log):
            return
        yield Entry(
            Did(did),
            node,
            parent,
            log[at : at + name],
            new_parent,
            log[at + name : at + name + new_name],
            place,
            log[at + name + new_name : end],
        )
        at = end
