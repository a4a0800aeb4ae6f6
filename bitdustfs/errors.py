"""Every error of bitdustfs: few kinds, full facts.

An error says what happened, to what, and what to do now. A `Kind` says what a caller can do about it;
two total tables give each kind the errno that a kernel request gets and the exit code that a process gets.
Facts are keywords: `TooFewFragments(block="1f…", have=2, need=3, missing="s2")`; `text` is their template.
A peer's fault (`PeerError` and below) and our own are different classes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import ClassVar


class Kind(Enum):
    """What a caller can do about an error. The list is closed."""

    USAGE = "usage"  # the request makes no sense: change it
    MISSING = "missing"  # what was named does not exist
    EXISTS = "exists"  # what should be made is there already
    BUSY = "busy"  # somebody else has it: stop them, or wait
    REFUSED = "refused"  # a person or a peer does not allow it
    UNAVAILABLE = "unavailable"  # not now; a retry may help
    FULL = "full"  # our own disk or spool is full
    QUOTA = "quota"  # what was agreed with suppliers is used up
    LOST = "lost"  # proven wrong or gone for good
    READONLY = "readonly"  # this volume takes no writes now
    FORMAT = "format"  # bytes that this version cannot read
    HOSTILE = "hostile"  # a peer broke the protocol or a proof
    SETUP = "setup"  # this machine lacks something we need
    BUG = "bug"  # our own fault


ERRNO: Mapping[Kind, int] = MappingProxyType(
    {
        Kind.USAGE: errno.EINVAL,
        Kind.MISSING: errno.ENOENT,
        Kind.EXISTS: errno.EEXIST,
        Kind.BUSY: errno.EBUSY,
        Kind.REFUSED: errno.EACCES,
        Kind.UNAVAILABLE: errno.ETIMEDOUT,
        Kind.FULL: errno.ENOSPC,
        Kind.QUOTA: errno.EDQUOT,
        Kind.LOST: errno.EIO,
        Kind.READONLY: errno.EROFS,
        Kind.FORMAT: errno.EIO,
        Kind.HOSTILE: errno.EIO,
        Kind.SETUP: errno.ENOTSUP,
        Kind.BUG: errno.EIO,
    }
)

# 0 is success, 1 Python's own, 2 usage as everywhere; 10 and up so that they can be told from other tools'.
EXIT: Mapping[Kind, int] = MappingProxyType(
    {
        Kind.USAGE: 2,
        Kind.MISSING: 10,
        Kind.EXISTS: 11,
        Kind.BUSY: 12,
        Kind.REFUSED: 13,
        Kind.UNAVAILABLE: 14,
        Kind.FULL: 15,
        Kind.QUOTA: 16,
        Kind.LOST: 17,
        Kind.READONLY: 18,
        Kind.FORMAT: 19,
        Kind.HOSTILE: 20,
        Kind.SETUP: 21,
        Kind.BUG: 70,
    }
)


class BitdustError(Exception):
    """Base of all errors that bitdustfs raises on purpose.

    Facts are given as keywords, are kept in `facts`, and fill the class's `text`.
    """

    kind: ClassVar[Kind] = Kind.BUG
    text: ClassVar[str] = "{what}"

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(self.text.format(**facts))

    @property
    def errno(self) -> int:
        """The errno that a kernel request gets for this error."""
        return ERRNO[self.kind]

    @property
    def exit_code(self) -> int:
        """The exit code that a process ends with for this error."""
        return EXIT[self.kind]


# --- the person's request, and this machine -----------------------------------------------------------


class BadRequest(BitdustError):
    """The person asked for something that makes no sense."""

    kind = Kind.USAGE
    text = "{what}"


class NotFound(BitdustError):
    """What the person named does not exist."""

    kind = Kind.MISSING
    text = "{what}"


class AlreadyThere(BitdustError):
    """What should be made exists."""

    kind = Kind.EXISTS
    text = "{what}"


class InUse(BitdustError):
    """Another process holds it."""

    kind = Kind.BUSY
    text = "{what}"


class Forbidden(BitdustError):
    """A file or a socket does not let us."""

    kind = Kind.REFUSED
    text = "{what}"


class SetupMissing(BitdustError):
    """This machine lacks something that bitdustfs needs."""

    kind = Kind.SETUP
    text = "{what}"


class BadFormat(BitdustError):
    """Stored bytes that this version cannot read, or that are damaged."""

    kind = Kind.FORMAT
    text = "{what}"


class CatalogDamaged(BadFormat):
    """The catalog's file, or its write-ahead log, does not hold what was written there."""

    kind = Kind.LOST
    text = (
        "the catalog {path} is damaged ({why}): with `mount -o ro` copy out what can still be read; "
        "to write again, put back a copy of the catalog from before"
    )


class LogDamaged(BitdustError):
    """Committed changes in the catalog's write-ahead log cannot be read."""

    kind = Kind.LOST
    text = (
        "the log {path}-wal of the catalog is damaged: changes in it that were stored later cannot be read. With "
        "`mount -o ro` look at what is left. To go on without them: sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'"
    )


class ReadOnly(BitdustError):
    """The volume takes no writes now."""

    kind = Kind.READONLY
    text = "{what}"


class FileError(BitdustError):
    """A file operation that POSIX answers with an errno of its own, finer than the kinds."""

    kind = Kind.USAGE
    text = "{what}"

    def __init__(self, *, errno: int, what: str) -> None:
        super().__init__(what=what)
        self._errno = errno

    @property
    def errno(self) -> int:
        return self._errno


class Unavailable(BitdustError):
    """Not reachable, or not ready, now."""

    kind = Kind.UNAVAILABLE
    text = "{what}"


# --- local storage --------------------------------------------------------------------------------------


class SpoolFull(BitdustError):
    """The spool has no room and nothing was freed in time."""

    kind = Kind.FULL
    text = "the spool is full: {used} of {limit} bytes hold data that is not at the suppliers yet"


class ContractsFull(BitdustError):
    """The spool has no room, because the suppliers that answer take nothing more."""

    kind = Kind.QUOTA
    text = "the contracts with the suppliers are full, and {used} bytes wait here for room: {do}"


class DiskFull(BitdustError):
    """The disk under the state directory is full."""

    kind = Kind.FULL
    text = "no space left on the disk under {path}: free some, then try again"


class DiskTooSmall(DiskFull):
    """What is to be brought here does not fit on the disk under the state directory."""

    text = (
        "{what} takes {needed}, and the disk under {path} has {left} left: "
        "free some, or use another one, then try again"
    )


class DiskFault(BitdustError):
    """The disk under the state directory failed."""

    kind = Kind.LOST
    text = "the disk under {path} failed: {why}"


class SpoolDamaged(BitdustError):
    """The local disk returns other bytes than were stored on it, and nobody else has them."""

    kind = Kind.LOST
    text = (
        "inode {ino}: bytes that exist only here do not match their check sum any more: the local disk damaged them; "
        "write the file anew, and have the disk looked at"
    )


# --- blocks and fragments -------------------------------------------------------------------------------


class TooFewFragments(BitdustError):
    """A block cannot be read now."""

    kind = Kind.UNAVAILABLE
    text = "block {block}: {have} of {need} fragments could be read; waiting for {missing}"


class BlockLost(BitdustError):
    """Fewer than k fragments are left anywhere."""

    kind = Kind.LOST
    text = "block {block} is lost: {have} of {need} fragments are left"


class ChunkMissing(BitdustError):
    """The catalog has no entry for a part of a file: never a hole."""

    kind = Kind.LOST
    text = "inode {ino}: no chunk is recorded at index {index}"


class SealBroken(BitdustError):
    """A sealed chunk did not authenticate."""

    kind = Kind.LOST
    text = "a sealed chunk of block {block} does not authenticate at slot {slot}"


class RootDiffers(BitdustError):
    """A fragment that was made again is not the one that its block had."""

    kind = Kind.LOST
    text = "block {block}: fragment {index}, made again, has another root than is recorded, and goes to nobody"


# --- peers ------------------------------------------------------------------------------------------------


class PeerError(BitdustError):
    """A peer did not do what was asked. `kind` says whether it could not, would not, or lied."""

    kind = Kind.UNAVAILABLE
    text = "{peer}: {what}"


class PeerGone(PeerError):
    """No connection, or the connection ended before the answer."""

    kind = Kind.UNAVAILABLE
    text = "{peer} cannot be reached: {what}"


class PeerRefused(PeerError):
    """The peer answered with a refusal."""

    kind = Kind.REFUSED
    text = "{peer} refused: {what}"

    @property
    def code(self) -> object:
        """Why, as a core.wire.Refused; None: it is our own reading of what the peer said."""
        return self.facts.get("code")

    @property
    def detail(self) -> int:
        """The number that belongs to the code; 0 if none does."""
        detail = self.facts.get("detail", 0)
        return detail if isinstance(detail, int) else 0


class NodeRevoked(PeerRefused):
    """The peer has shown a certificate of a newer epoch of our owner: `detail`."""

    text = (
        "{peer} refused: this machine was revoked, a newer certificate of its owner is known there (epoch {detail}); "
        "to use the volume here again, run `bitdustfs recover`"
    )


class HeadBehind(PeerRefused):
    """The peer holds a head as new as ours or newer: version `detail`."""

    text = (
        "{peer} refused: it knows version {detail} of this volume, which is as new as what is here or newer; "
        "another machine or a copy of this home wrote it, or this one was set back to an older state"
    )


class HeadForked(PeerRefused):
    """The peer holds a head, version `detail`, that ours does not come from, or no links that showed it were sent."""

    text = "{peer} refused: it knows version {detail} of this volume, and what is here does not come from that"


class HeadLeased(PeerRefused):
    """Another machine of the owner, or a copy of this home, holds the volume there: for `detail` seconds more."""

    text = "{peer} refused: another machine, or a copy of this home, writes this volume now"


class PeerFull(PeerError):
    """The peer has no room for us: its disk, or our contract, is full."""

    kind = Kind.QUOTA
    text = "{peer} has no room: {what}"


class PeerFault(PeerError):
    """A fault of the peer's own: its disk failed, or what it stored is damaged."""

    kind = Kind.UNAVAILABLE


class PeerLacks(PeerError):
    """The peer says that it does not have what we asked for."""

    kind = Kind.MISSING
    text = "{peer} does not have {what}"


class ProtocolViolation(PeerError):
    """The peer broke the protocol or failed a proof: its connection is ended."""

    kind = Kind.HOSTILE
    text = "{peer} broke the protocol: {what}"


class BadLeaf(PeerError):
    """Bytes from a supplier that do not match the fragment's root: proof that this fragment is lost."""

    kind = Kind.HOSTILE
    text = "{peer} returned wrong bytes for fragment {fragment}"


class WrongPeer(PeerError):
    """The node that answered is not the one that was dialled."""

    kind = Kind.HOSTILE
    text = "{peer} answered, but {expected} was expected; no data was exchanged"


class OwnerChanged(PeerError):
    """A node that is known came with the certificate of another owner than before."""

    kind = Kind.HOSTILE
    text = (
        "{peer} shows the certificate of another owner, {shown}, and was known as one of {known}: its key is in "
        "other hands. Nothing was exchanged, and nothing will be. Ask your friend: he can revoke it and recover "
        "elsewhere, and whoever has it now is a new friend only with a new key"
    )
