"""Contracts on disk: HOME/contracts/<owner>.contract as signed, and <owner>.epoch.

The latter is a version byte, 1, and the epoch in 8 big-endian bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from bitdustfs.core.contract import CONTRACT_BYTES
from bitdustfs.edges.durable import replace_file, sync_directory, translated
from bitdustfs.errors import BadFormat
from bitdustfs.model import OwnerId

_EPOCH = struct.Struct(">BQ")
_EPOCH_VERSION = 1


class DiskContracts:
    """A ports.ContractStore in a directory, which is made if it is not there. Raises DiskFull, DiskFault."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
        except OSError as error:
            raise translated(error, directory) from error

    def contracts(self) -> Mapping[OwnerId, bytes]:
        return dict(self._all(".contract", CONTRACT_BYTES))

    def save_contract(self, owner: OwnerId, contract: bytes) -> None:
        self._save(owner, ".contract", contract)

    def epochs(self) -> Mapping[OwnerId, int]:
        found = {}
        for owner, content in self._all(".epoch", _EPOCH.size):
            version, found[owner] = _EPOCH.unpack(content)
            if version != _EPOCH_VERSION:
                raise BadFormat(what=f"{self._directory}: an epoch is of another version of bitdustfs")
        return found

    def save_epoch(self, owner: OwnerId, epoch: int) -> None:
        self._save(owner, ".epoch", _EPOCH.pack(_EPOCH_VERSION, epoch))

    def _all(self, suffix: str, length: int) -> Iterator[tuple[OwnerId, bytes]]:
        try:
            for path in sorted(self._directory.glob("*" + suffix)):
                content = path.read_bytes()
                if len(content) != length or len(path.stem) != 64:
                    raise BadFormat(what=f"{path} is damaged: put a copy of it back, or take it away")
                yield OwnerId(bytes.fromhex(path.stem)), content
        except OSError as error:
            raise translated(error, self._directory) from error
        except ValueError as error:
            raise BadFormat(what=f"{self._directory} holds a file that is not of bitdustfs: take it away") from error

    def _save(self, owner: OwnerId, suffix: str, content: bytes) -> None:
        try:
            replace_file(self._directory / (owner.hex() + suffix), content)
        except OSError as error:
            raise translated(error, self._directory) from error
