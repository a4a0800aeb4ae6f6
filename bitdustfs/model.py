"""The words of bitdustfs as types: ids, values and rows, all immutable.

Read this file once and you know what the system speaks of. Ids are NewTypes, so that a node id cannot be
passed for an owner id. Units are in the names. Rows are what the catalog stores and the engine reads.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, NamedTuple, NewType

OwnerId = NewType("OwnerId", bytes)  # 32 bytes: hash of the owner's public key
NodeId = NewType("NodeId", bytes)  # 32 bytes: SHA-256 of the node key's SPKI
BlockId = NewType("BlockId", bytes)  # 32 random bytes, new for every block
FragmentName = NewType("FragmentName", bytes)  # 32 bytes: what a supplier knows a fragment by
Root = NewType("Root", bytes)  # 32 bytes: BLAKE3 hash list root of a fragment
Fingerprint = NewType("Fingerprint", bytes)  # 32 bytes: keyed BLAKE3 of a plaintext chunk
RecordId = NewType("RecordId", bytes)  # 20 bytes: where a record lies in the DHT; hash of the key that signs it

Ino = NewType("Ino", int)  # inode number; 1 is the root of the volume
ChunkNo = NewType("ChunkNo", int)  # a chunk in the catalog; HOLE stands for zeros
BlockNo = NewType("BlockNo", int)  # a block in the catalog; negative: a local one
SupplierNo = NewType("SupplierNo", int)  # a supplier in the catalog
Cookie = NewType("Cookie", int)  # position of a name in its directory; grows, never reused

NO_INO = Ino(0)
ROOT_INO = Ino(1)
HOLE = ChunkNo(0)
FIRST_BROUGHT = ChunkNo(1 << 62)  # from here on they came with another line: what they are is its word
NO_BLOCK = BlockNo(0)

CHUNK_BYTES = 256 * 1024  # (tune) unit of deduplication and sealing; a power of two
SEAL_BYTES = 16  # AES-GCM and ChaCha20-Poly1305 tag
BLOCK_CHUNKS = 31  # (tune) sealed chunks in a full block: with 32 it would not fit one fragment of code 1/n
BLOCK_BYTES = BLOCK_CHUNKS * (CHUNK_BYTES + SEAL_BYTES)  # also the cap of padding
LEAF_BYTES = 16 * 1024  # (tune) unit of proof inside a fragment
IMAGE_CHUNK_BYTES = 16 * 1024  # (tune) unit in which a catalog snapshot is sent, and compared with the last one
MAX_FILE_BYTES = 1 << 44  # 16 TiB: keeps chunk indexes and offsets far from every integer limit
XATTR_NAME_BYTES = 255  # XATTR_NAME_MAX of Linux
XATTR_VALUE_BYTES = 64 * 1024  # XATTR_SIZE_MAX of Linux
XATTR_TOTAL_BYTES = 128 * 1024  # names and values of one inode; every catalog snapshot carries them
INLINE_BYTES = 16 * 1024  # a file up to this size is kept in the catalog file, not in a spool file
SUM_UNIT_BYTES = 16 * 1024  # (tune) unit of check sums of spool bytes; a read is checked in units


@dataclass(frozen=True, slots=True)
class Code:
    """The erasure code of a block: any k of n fragments restore it."""

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n <= 255:
            raise ValueError(f"code {self.k}/{self.n}: 1 <= K <= N <= 255 must hold")

    @property
    def quorum(self) -> int:
        """W: how many acknowledged fragments make a block *placed*."""
        if self.n == self.k:
            return self.n
        return min(self.n, self.k + max(1, -(-(self.n - self.k) // 2)))

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"


class Suite(IntEnum):
    """The cipher of a block; recorded in the catalog, never negotiated."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Role(IntEnum):
    """What an owner's certificate lets a node do."""

    WRITER = 1
    READER = 2
    SUPPLIER = 3


class FileState(Enum):
    """How safe a file is, worst first."""

    LOST = "lost"
    LOCAL = "local"
    DEGRADED = "degraded"
    PLACED = "placed"
    SAFE = "safe"


class Unsent(Enum):
    """What becomes of what exists only on this machine when it is mounted again."""

    SENT = "sent"
    ASIDE = "aside"  # in a visible folder of what another machine wrote
    KEPT = "kept"  # here, and never sent: the machine was revoked


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode as the catalog publishes it. Size and mtime of a regular file are those of its version."""

    ino: Ino
    mode: int  # type and permission bits, as in st_mode
    uid: int
    gid: int
    nlink: int
    size: int  # bytes; of a directory: its number of names; of a symlink: the length of its target
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    code: Code | None = None  # of new blocks; a directory hands it to what is made in it. None: the volume's
    version: int = 0  # how often a regular file was published; 0 = unborn
    rdev: int = 0
    target: bytes = b""  # of a symlink

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    def changed(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        nlink: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        version: int | None = None,
    ) -> Inode:
        """The same with other values; None leaves one: `replace`, in half the time."""
        return Inode(
            self.ino,
            self.mode if mode is None else mode,
            self.uid if uid is None else uid,
            self.gid if gid is None else gid,
            self.nlink if nlink is None else nlink,
            self.size if size is None else size,
            self.atime_ns if atime_ns is None else atime_ns,
            self.mtime_ns if mtime_ns is None else mtime_ns,
            self.ctime_ns if ctime_ns is None else ctime_ns,
            self.code,
            self.version if version is None else version,
            self.rdev,
            self.target,
        )


@dataclass(frozen=True, slots=True)
class Name:
    """One name in a directory."""

    parent: Ino
    name: bytes
    ino: Ino
    cookie: Cookie
    superseded: Ino = NO_INO  # the published inode that this name showed before, kept until `ino` is published


class Hold(IntEnum):
    """What the spool holds for a range of a file."""

    DIRTY = 1  # bytes in the spool that no published version has
    ZERO = 2  # dirty zeros, without bytes in the spool
    CLEAN = 3  # a copy of published bytes; may be dropped


class Layer(IntEnum):
    """Which of two maps of a file an extent belongs to."""

    LIVE = 0  # what is read
    BENEATH = 1  # hard bytes beneath soft ones: what a power loss would bring back


class Extent(NamedTuple):
    """A range of a file that the spool answers for: file bytes [start, end) lie at spool position `at`.

    A tuple: a write at random makes four, each in half the time.
    """

    start: int
    end: int
    at: int  # of the inode's spool file; 0 and meaningless for ZERO
    hold: Hold


@dataclass(frozen=True, slots=True)
class LocalFile:
    """What only this machine knows of a regular file: its live size and time, and what of its spool is hard."""

    ino: Ino
    size: int
    mtime_ns: int
    ctime_ns: int
    spool_end: int  # bytes; positions at and above it are free. 0: no spool file
    dirty_since_ns: int  # wall time of the oldest unpublished change; 0: nothing unpublished
    hard_until: int = 0  # spool bytes below survive a power loss
    summed_until: int = 0  # spool bytes below have check sums; at least hard_until
    hard_size: int = 0  # bytes: the size of the file if a power loss takes what is not hard


@dataclass(frozen=True, slots=True)
class MapRow:
    """`count` chunks of a file from `index` on: one chunk, or a run of holes (chunk HOLE, count >= 1)."""

    index: int
    count: int
    chunk: ChunkNo


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Where a chunk lies. Bytes of its span beyond `length` are zeros."""

    chunk: ChunkNo
    fingerprint: Fingerprint
    block: BlockNo
    slot: int
    offset: int  # bytes from the start of the block to the sealed chunk
    length: int  # bytes of plaintext; sealed it is SEAL_BYTES longer


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """The block in which a chunk lies."""

    block: BlockNo
    code: Code
    held: int  # how many different fragments of it are


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One placed block, or a local one."""

    block: BlockNo  # negative: a local block, which is not replicated
    block_id: BlockId
    scope: int
    suite: Suite
    code: Code  # k is fixed for life; n is the wish
    length: int  # bytes with padding, before coding
    roots: tuple[Root, ...]  # of every fragment that was ever made, 0 … at least k−1; n may be more, or less


class FragmentState(IntEnum):
    """What we know of a fragment."""

    HELD = 1  # acknowledged, not proven lost
    LOST = 2  # proven wrong or denied by its supplier
    WANTED = 3  # not acknowledged yet: work for the repair queue
    ABSENT = 4  # acknowledged, and its supplier is lost: held again when it comes back


@dataclass(frozen=True, slots=True)
class FragmentRow:
    """One fragment of a block at one supplier."""

    block: BlockNo
    index: int
    supplier: SupplierNo
    state: FragmentState


@dataclass(frozen=True, slots=True)
class Wanting:
    """A block that lacks fragments, and its place in the repair queue."""

    spare: int  # held fragments minus k
    block: BlockNo


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A block that lacks fragments, and how long it is."""

    block: BlockNo
    code: Code
    held: int
    length: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """A block that holds little, and how much of it is chunks."""

    block: BlockNo
    code: Code
    live_bytes: int  # of plaintext
    length: int  # bytes with padding, before coding


@dataclass(frozen=True, slots=True)
class Observation:
    """What this machine saw of a supplier since it last came or went."""

    supplier: SupplierNo
    away_s: float  # for how long it has not answered, as far as we were there to see it; 0: it answers
    since_ns: int  # wall time since when: for people


@dataclass(frozen=True, slots=True)
class Absence:
    """A supplier was away, and came back."""

    ended_ns: int  # wall time
    length_s: float  # as far as we were there to see it


@dataclass(frozen=True, slots=True)
class AuditTally:
    """How the audits of a supplier ended."""

    proven: int = 0  # fragments of which what was asked for was right
    wrong: int = 0  # fragments that it denied, or had wrong
    last_ns: int = 0  # wall time of the last answer; 0: none yet


@dataclass(frozen=True, slots=True)
class Track:
    """What was seen of a supplier, the older the less it counts (core/score)."""

    supplier: SupplierNo
    present_s: float = 0.0  # for how long it answered, as far as we were there to see it
    absent_s: float = 0.0  # and did not
    proven: float = 0.0  # fragments of which an audit saw what was right
    wrong: float = 0.0  # that it denied, or had wrong
    bytes_per_s: float = 0.0  # the fastest that a fragment moved; 0: none did


class Standing(IntEnum):
    """What a supplier is to us, as far as it outlives a restart (see core/standing)."""

    CANDIDATE = 1  # agreed to keep something for us; gets nothing until it is hired
    HIRED = 2
    LOST = 3  # stayed away too long
    FIRED = 4  # given up
    LEAVING = 5  # to be given up: what it holds is brought to others first
    MISSING = 6  # was leaving, and stayed away too long


@dataclass(frozen=True, slots=True)
class Supplier:
    """A supplier, as the catalog keeps it."""

    supplier: SupplierNo
    node: NodeId
    owner: OwnerId
    label: str  # what the person sees
    address: str  # ADDR:PORT that answered last
    contract: bytes  # the contract, signed for both
    capacity_bytes: int
    capacity_fragments: int
    used_bytes: int  # by our own count of acknowledged fragments
    used_fragments: int
    standing: Standing = Standing.HIRED

    @property
    def is_hired(self) -> bool:
        """It gets new fragments."""
        return self.standing is Standing.HIRED

    @property
    def is_listed(self) -> bool:
        """Heads count on it, and what it holds is needed."""
        return self.standing in (Standing.HIRED, Standing.LEAVING)

    @property
    def is_lost(self) -> bool:
        """It stayed away too long: what it holds does not count."""
        return self.standing in (Standing.LOST, Standing.MISSING)


class Rule(IntEnum):
    """By what something was decided about a supplier."""

    SILENCE = 1  # it was away for longer than we wait: lost
    RETURN = 2  # it was lost, and answers again
    REPLACEMENT = 3  # hired by itself: suppliers were missing
    HIRE = 4  # taken on by the person
    LEAVE = 5  # the person began to give it up
    EMPTY = 6  # what it held is with others: given up
    FIRE = 7  # given up by the person, whatever it held
    END = 8  # began to leave, as the contract ends
    YIELD = 9  # it may erase what it has: the contract ended, or its owner replaced it
    RENEWAL = 10  # was leaving, and the contract goes on


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a supplier, with the numbers that decided it; 0 where one had no say."""

    supplier: SupplierNo
    rule: Rule
    at_ns: int  # wall time
    away_s: float = 0.0  # for how long it had not answered, as far as we were there to see it
    wait_s: float = 0.0  # how long it was waited for
    longest_s: float = 0.0  # its longest absence of the last 30 days
    spare: int = 0  # held fragments minus k of the worst block, without those who did not answer
    missing: int = 0  # how many suppliers were missing
    instead: SupplierNo = SupplierNo(0)  # in whose place it was hired; 0: nobody's
    fragments: int = 0  # that it held, by our count
    bytes: int = 0  # of them


@dataclass(frozen=True, slots=True)
class DeltaRow:
    """A run of catalog changes that has a local block of its own, or a part of a change that is too long for one."""

    first: int  # number of its first change
    part: int  # from 0
    last: int
    block: BlockNo  # a local one
    content_bytes: int  # of what is sealed in the block


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Where a piece of a catalog snapshot lies, by its content."""

    print: bytes  # 32 bytes: hash of the piece
    block: BlockNo  # a local one
    slot: int
    offset: int  # bytes from the start of the block to the sealed piece
    length: int  # bytes of plaintext


DeadKey = tuple[int, tuple[Any, ...]]  # a closed row of the catalog: its table, and its place there


class SnapshotKind(IntEnum):
    """Why there is a snapshot of the volume."""

    BY_PERSON = 1  # stays until it is deleted
    BY_ITSELF = 2  # thinned by age
    FORK = 3  # the tree of a head on another line; stays until a person chooses
    COMING = 4  # the same, and not all of it is here yet: nothing shows it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of the volume: a generation that is kept. (Page images of the catalog are called so too.)"""

    generation: int
    name: str
    made_ns: int  # wall time
    kind: SnapshotKind
    is_gone: bool = False  # deleted, and what only it needs is being taken away

    @property
    def is_fork(self) -> bool:
        """It is of another line, and nobody has chosen yet."""
        return self.kind in (SnapshotKind.FORK, SnapshotKind.COMING)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restored catalog lacks: files whose newest content was only on the old machine. Paths in the volume."""

    removed: tuple[bytes, ...]  # names of files that were never published
    reverted: tuple[bytes, ...]  # names that show what they showed before such a file was moved there


@dataclass(frozen=True, slots=True)
class Deeds:
    """What change sets did to the tree, in terms of inodes. What they undid again is not in it."""

    created: frozenset[Ino]
    rewritten: frozenset[Ino]  # files with another published version
    altered: frozenset[Ino]  # mode, owner
    named: frozenset[Ino]  # got a name
    unnamed: tuple[tuple[Ino, bytes, Ino], ...]  # names that went: directory, name, what they showed
    hired: tuple[str, ...]  # labels of new suppliers
    # What a snapshot has is closed, and its row tells nothing but its place: numbers of the past (core/past).
    inodes_then: frozenset[Ino] = frozenset()  # inodes as they were before the first change to them
    unnamed_then: tuple[tuple[Ino, Cookie], ...] = ()  # names that went: directory, cookie
    named_then: tuple[tuple[Ino, Cookie, Ino], ...] = ()  # names that are there anew, and what they show now
    kept: tuple[str, ...] = ()  # names of snapshots that were made, by a person or by themselves
    # mode, owner and group before, of those of `inodes_then` of which the snapshot has another one; None: it has it
    before: Mapping[Ino, tuple[int | None, int | None, int | None]] = field(default_factory=dict)
    # inode and name of each extended attribute that was touched: what it was (None: not set), or the inode of the
    # past that has it
    xattrs: Mapping[tuple[Ino, bytes], bytes | Ino | None] = field(default_factory=dict)
    first_block: BlockNo | None = None  # of the blocks of files that were made; None: none was


@dataclass(frozen=True, slots=True)
class Touches:
    """What a change set touches of the tree of now; it may say too much."""

    names: frozenset[tuple[Ino, Cookie]]  # directory, and place in it
    inodes: frozenset[Ino]  # their rows or extended attributes
    gone: frozenset[Ino]  # those of them that are not there any more
    # files whose content is another: (first chunk index, how many) of each row of the map; 0: as many as it had
    contents: Mapping[Ino, tuple[tuple[int, int], ...]]
    refilled: frozenset[ChunkNo]  # numbers of chunks that stand for another content from now on
    suppliers: bool  # one of them


@dataclass(frozen=True, slots=True, repr=False)
class BulkPass:
    """What opens one bulk connection, as one side of it sees it. Agreed inside a TLS session."""

    ticket: bytes  # 16 bytes, for one use within seconds
    key_out: bytes  # 32 bytes, chosen at random by us
    key_in: bytes  # 32 bytes, chosen at random by the peer

    def __repr__(self) -> str:
        return "BulkPass(…)"


@dataclass(frozen=True, slots=True)
class Space:
    """What a volume could hold and holds, in bytes of user data, and in names."""

    total_bytes: int
    free_bytes: int
    files: int


def short(identifier: bytes) -> str:
    """Return the first 8 hex digits of an id: how logs and messages name it."""
    return identifier[:4].hex()
