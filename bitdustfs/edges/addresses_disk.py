"""Addresses on disk: HOME/addresses/<node>, one small file for each node.

    offset  bytes
    0       1     format version, 1
    1       32    owner of the node
    33            its record as signed (core/record)

What is here is help and no proof, and a partner tells it again: a damaged file is left out, and replaced by the next
record of that node.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bitdustfs.core.record import MAX_RECORD_BYTES
from bitdustfs.edges.folder import make_folder, put_file, remove_file
from bitdustfs.model import NodeId, OwnerId

log = logging.getLogger(__name__)

_VERSION = 1
_OWNER_BYTES = 32
_HEADER_BYTES = 1 + _OWNER_BYTES


class DiskAddresses:
    """A ports.AddressStore in a directory, which is made if it is not there. Raises DiskFull, DiskFault."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_folder(directory)

    def load(self, limit: int) -> Sequence[tuple[OwnerId, bytes]]:
        found: list[tuple[OwnerId, bytes]] = []
        try:
            for path in sorted(self._directory.iterdir())[:limit]:
                with path.open("rb") as file:
                    content = file.read(_HEADER_BYTES + MAX_RECORD_BYTES + 1)
                if len(content) > _HEADER_BYTES and content[0] == _VERSION:
                    found.append((OwnerId(content[1:_HEADER_BYTES]), content[_HEADER_BYTES:]))
                else:
                    log.warning("%s is damaged, and left out", path)
        except OSError as error:
            log.error("%s cannot be read: %s", self._directory, error.strerror)
        return found

    def save(self, node: NodeId, owner: OwnerId, record: bytes) -> None:
        put_file(self._directory / node.hex(), bytes([_VERSION]) + owner + record)

    def drop(self, node: NodeId) -> None:
        remove_file(self._directory / node.hex())
