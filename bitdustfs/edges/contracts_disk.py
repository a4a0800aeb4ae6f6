"""What is agreed with other owners, on disk, in HOME/contracts:

    <owner>.contract    the contracts that hold or will, as both signed them, one behind the other
    <owner>.proposal    what we have proposed and he has not signed
    <owner>.floor       the least serial of ours that may still come into force: a version byte, 1, and 8 bytes
    <owner>.ended       when it was first seen that the contract had ended, and for how long we have run since
    <owner>.epoch       the newest epoch of his certificates
    <owner>.head        his head, with links behind it, and who holds the volume
    <owner>.taken       the page of the ledger for what he keeps for us (core/ledger)
    <owner>.given       the same for what we keep for him

An epoch is a version byte, 2, the epoch in 8 big-endian bytes, and a certificate of that epoch. Version 1 had none.
An ending is a version byte, 2, wall seconds and seconds in 8 big-endian bytes each. Version 1 had not the latter.

A damaged one stops us: without them we would not know who has which rights. But a head gives no rights, so a damaged
one is handed on as it is, and costs its owner only (engine/heads). Nor does a page of the ledger (engine/ledger).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bitdustfs.core.agreement import MAX_HELD
from bitdustfs.core.certificate import CERTIFICATE_BYTES
from bitdustfs.core.contract import CONTRACT_BYTES, PROPOSAL_BYTES
from bitdustfs.core.lease import MAX_STORED_BYTES
from bitdustfs.core.ledger import MAX_PAGE_BYTES
from bitdustfs.edges.durable import NO_DESCRIPTORS, translated
from bitdustfs.edges.folder import make_folder, put_file, remove_file
from bitdustfs.errors import BadFormat
from bitdustfs.model import OwnerId

log = logging.getLogger(__name__)

_EPOCH = struct.Struct(">BQ")
_EPOCH_VERSION = 2
_FLOOR = struct.Struct(">BQ")
_FLOOR_VERSION = 1
_ENDING = struct.Struct(">BQQ")
_ENDING_1 = struct.Struct(">BQ")
_ENDING_VERSION = 2


class DiskContracts:
    """A ports.ContractStore and a ports.LedgerStore in a directory, which is made if it is not there.

    Raises DiskFull, DiskFault.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_folder(directory)

    def contracts(self) -> Mapping[OwnerId, bytes]:
        return dict(self._whole(".contract", [count * CONTRACT_BYTES for count in range(1, MAX_HELD + 1)]))

    def save_contract(self, owner: OwnerId, contract: bytes) -> None:
        self._save(owner, ".contract", contract)

    def proposals(self) -> Mapping[OwnerId, bytes]:
        return dict(self._whole(".proposal", (PROPOSAL_BYTES,)))

    def save_proposal(self, owner: OwnerId, proposal: bytes) -> None:
        self._replace_or_remove(owner, ".proposal", proposal)

    def floors(self) -> Mapping[OwnerId, int]:
        found = {}
        for owner, content in self._whole(".floor", (_FLOOR.size,)):
            version, found[owner] = _FLOOR.unpack(content)
            if version != _FLOOR_VERSION:
                raise BadFormat(what=f"{self._directory}: a floor is of another version of bitdustfs")
        return found

    def save_floor(self, owner: OwnerId, serial: int) -> None:
        self._replace_or_remove(owner, ".floor", _FLOOR.pack(_FLOOR_VERSION, serial) if serial else b"")

    def endings(self) -> Mapping[OwnerId, tuple[int, int]]:
        found = {}
        for owner, content in self._whole(".ended", (_ENDING_1.size, _ENDING.size)):
            version, at_s, run_s = _ENDING.unpack(content.ljust(_ENDING.size, b"\0"))
            if version != (_ENDING_VERSION if len(content) == _ENDING.size else 1):
                raise BadFormat(what=f"{self._directory}: an ending is of another version of bitdustfs")
            found[owner] = at_s, run_s
        return found

    def save_ending(self, owner: OwnerId, at_s: int, run_s: int) -> None:
        self._replace_or_remove(owner, ".ended", _ENDING.pack(_ENDING_VERSION, at_s, run_s) if at_s else b"")

    def epochs(self) -> Mapping[OwnerId, tuple[int, bytes]]:
        found = {}
        for owner, content in self._whole(".epoch", (_EPOCH.size, _EPOCH.size + CERTIFICATE_BYTES)):
            version, epoch = _EPOCH.unpack_from(content)
            proof = content[_EPOCH.size :]
            if version != (_EPOCH_VERSION if proof else 1):
                raise BadFormat(what=f"{self._directory}: an epoch is of another version of bitdustfs")
            found[owner] = epoch, proof
        return found

    def save_epoch(self, owner: OwnerId, epoch: int, proof: bytes) -> None:
        self._save(owner, ".epoch", _EPOCH.pack(_EPOCH_VERSION, epoch) + proof)

    def heads(self) -> Mapping[OwnerId, bytes]:
        return {owner: self._as_it_is(path, MAX_STORED_BYTES) for owner, path in self._files(".head")}

    def save_head(self, owner: OwnerId, head: bytes) -> None:
        self._save(owner, ".head", head)

    def accounts(self) -> Mapping[OwnerId, bytes]:
        return {owner: self._as_it_is(path, MAX_PAGE_BYTES) for owner, path in self._files(".taken")}

    def save_account(self, owner: OwnerId, account: bytes) -> None:
        self._save(owner, ".taken", account)

    def gifts(self) -> Mapping[OwnerId, bytes]:
        return {owner: self._as_it_is(path, MAX_PAGE_BYTES) for owner, path in self._files(".given")}

    def save_gift(self, owner: OwnerId, gift: bytes) -> None:
        self._save(owner, ".given", gift)

    def _as_it_is(self, path: Path, most_bytes: int) -> bytes:
        """What is in a file, damaged or not, and one byte more than it may have at most; b"" if it cannot be read."""
        try:
            with path.open("rb") as file:
                return file.read(most_bytes + 1)
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
                raise translated(error, path) from error  # it is whole: the next start will tell
            log.error("%s cannot be read: %s", path, error.strerror)
            return b""

    def _whole(self, suffix: str, lengths: Collection[int]) -> Iterator[tuple[OwnerId, bytes]]:
        for owner, path in self._files(suffix):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise translated(error, path) from error
            if len(content) not in lengths:
                raise BadFormat(what=f"{path} is damaged: put a copy of it back, or take it away")
            yield owner, content

    def _files(self, suffix: str) -> Iterator[tuple[OwnerId, Path]]:
        try:
            paths = sorted(self._directory.glob("*" + suffix))
        except OSError as error:
            raise translated(error, self._directory) from error
        for path in paths:
            try:
                owner = OwnerId(bytes.fromhex(path.stem))
            except ValueError as error:
                raise BadFormat(
                    what=f"{self._directory} holds a file that is not of bitdustfs: take it away"
                ) from error
            if len(owner) != 32:
                raise BadFormat(what=f"{path} is damaged: put a copy of it back, or take it away")
            yield owner, path

    def _save(self, owner: OwnerId, suffix: str, content: bytes) -> None:
        put_file(self._directory / (owner.hex() + suffix), content)

    def _replace_or_remove(self, owner: OwnerId, suffix: str, content: bytes) -> None:
        """The same, durably too; with no content it is taken away."""
        if content:
            self._save(owner, suffix, content)
        else:
            remove_file(self._directory / (owner.hex() + suffix), durably=True)
