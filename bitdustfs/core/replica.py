"""The replica: what suppliers keep of the catalog, so that the phrase and one of them bring everything back.

    head (signed, small) ─ sealed inside ─┬─ suppliers with addresses
                                          ├─ manifest ── blocks of image chunks: the whole catalog at one change
                                          └─ deltas: the changes after it, in order

Deltas, manifests and image chunks are sealed into blocks of their own kinds and coded like any block; a small one is
coded 1/n, so that each supplier has all of it. A reader needs no catalog for them: a reference tells block id, code
and roots, from which names follow; where the fragments went is told too, as a hint that may be old.

Everything here is msgpack inside what is sealed: read only after it was authenticated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from bitdustfs.core import block as blocks
from bitdustfs.core.block import Placed
from bitdustfs.core.seal import BlockSeal, Kind
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.errors import BadFormat
from bitdustfs.model import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    SEAL_BYTES,
    BlockId,
    BlockNo,
    BlockRow,
    Code,
    FragmentRow,
    FragmentState,
    NodeId,
    OwnerId,
    Root,
    Suite,
    Supplier,
    SupplierNo,
)

VERSION: Final = 1
DELTA_BYTES: Final = 3 * 1024 * 1024  # (tune) of changes in one delta: compressed or not, it fits into a block
COPY_BYTES: Final = 64 * 1024  # (tune) up to this size an object is copied to every supplier instead of coded
SNAPSHOT_SHARE: Final = 4  # (tune) a new snapshot when deltas exceed this part of the last one …
SNAPSHOT_LEAST_BYTES: Final = 1024 * 1024  # (tune) … and this, so that a young volume does not make one all the time
MERGE_RUN: Final = 8  # (tune) so many deltas of about one size become one
MOST_DELTAS: Final = 48  # that a head names; more need a new snapshot. With 24 roots each they fill half a head
HEAD_MOST_BYTES: Final = (
    1024 * 1024
)  # (tune) expanded: of the 64 KiB that it may have most is ids, which never shrink
MANIFEST_MOST_BYTES: Final = 8 * 1024 * 1024  # (tune) expanded: of a catalog of 10 GB …
MANIFEST_SHRINKS: Final = (
    32  # (tune) … or so many times what it takes: places in blocks shrink to a third, or a tenth
)
MANIFEST_PARTS_BYTES: Final = 64 * 1024 * 1024  # (tune) of all parts
DELTA_MOST_BYTES: Final = 16 * 1024 * 1024  # expanded: it was cut at DELTA_BYTES, and one change has far less
_HEAD_ID_BYTES = 32
_LEAST_LEVEL_BYTES = 1024
_COMPRESSION = 6
_IMAGE_COMPRESSION = 1  # 100 MB/s and more; the gain above is small

U8: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
U63: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=((1 << 63) - 1) // 1_000_000_000)]  # nanoseconds fit the catalog
Bytes32: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Text: TypeAlias = Annotated[str, Meta(max_length=1024)]


class _Part(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    pass


class ObjectRef(_Part, frozen=True):
    """How to find and check one block of the replica."""

    block_id: Bytes32
    suite: U8
    k: U8
    n: U8
    length: U32  # bytes of the block with padding, before coding
    content_bytes: U32  # of what is sealed in it; of image blocks what is needed of it
    roots: bytes  # 32 bytes for each fragment, or once if all are equal
    at: tuple[U32, ...]  # by index: the number of the supplier that had it when this was written; 0: nobody

    def row(self, number: BlockNo) -> BlockRow:
        """The block that it speaks of."""
        joined = self.roots * self.n if len(self.roots) == _HEAD_ID_BYTES else self.roots
        roots = tuple(Root(joined[at : at + 32]) for at in range(0, len(joined), 32))
        if not 1 <= self.k <= self.n or len(roots) != self.n or not 1 <= self.length <= BLOCK_BYTES:
            raise BadFormat(what="the replica names a block that cannot be one")
        return BlockRow(
            number, BlockId(self.block_id), 0, Suite(self.suite), Code(self.k, self.n), self.length, roots
        )


class DeltaRef(_Part, frozen=True):
    """One delta: the changes `first` … `last` of the catalog, or one part of them."""

    first: U63
    last: U63
    object: ObjectRef


class SupplierEntry(_Part, frozen=True):
    """One supplier, as the head tells it to a machine that knows nothing."""

    number: U32
    node: Bytes32
    owner: Bytes32
    label: Text
    address: Text

    def row(self) -> Supplier:
        """A row without contract: enough to dial it and to read."""
        return Supplier(
            supplier=SupplierNo(self.number),
            node=NodeId(self.node),
            owner=OwnerId(self.owner),
            label=self.label,
            address=self.address,
            contract=b"",
            capacity_bytes=0,
            capacity_fragments=0,
            used_bytes=0,
            used_fragments=0,
        )


class HeadContent(_Part, frozen=True):
    """What is sealed inside a head."""

    version: U8
    time_s: Seconds  # wall time, for people only
    change: U63  # the last change of the catalog that it brings back
    manifest: tuple[ObjectRef, ...]  # the parts of the manifest, in order
    deltas: tuple[DeltaRef, ...]  # in order
    suppliers: tuple[SupplierEntry, ...]


class Manifest(_Part, frozen=True):
    """A whole catalog file."""

    version: U8
    change: U63  # the last change that the image holds
    # for each chunk of the file: which of `blocks`, the slot there, bytes from the start of the block, and its length
    order: tuple[tuple[U32, U32, U32, U32], ...]
    blocks: tuple[ObjectRef, ...]


class ManifestNote(_Part, frozen=True):
    """What this machine notes of the newest manifest that it placed."""

    change: U63  # the last change that the image holds
    blocks: tuple[tuple[BlockNo, U32], ...]  # the parts of the manifest: block number and bytes of content
    image_blocks: tuple[BlockNo, ...]  # numbers of the blocks that its chunks lie in
    image_bytes: U63  # of all chunks as they are stored


_note_decoder = msgspec.msgpack.Decoder(ManifestNote)
_head_decoder = msgspec.msgpack.Decoder(HeadContent)
_manifest_decoder = msgspec.msgpack.Decoder(Manifest)
_encoder = msgspec.msgpack.Encoder()


# --- objects ----------------------------------------------------------------------------------------------


def pieces(content_bytes: int) -> list[int]:
    """The lengths of the sealed pieces that an object's content is cut into."""
    whole, rest = divmod(content_bytes, CHUNK_BYTES)
    return [CHUNK_BYTES] * whole + ([rest] if rest else [])


def cut(content: bytes) -> list[bytes]:
    """An object's content in its pieces. Raises ValueError: it is empty."""
    if not content:
        raise ValueError("an object is never empty")
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]


def join(seals: VolumeSecrets, row: BlockRow, kind: Kind, content_bytes: int, block: bytes) -> bytes:
    """Open an object of `content_bytes` bytes. Raises SealBroken, BadFormat."""
    try:
        places, length = blocks.layout(pieces(content_bytes))
    except ValueError as bad:
        raise BadFormat(what=f"the replica names a block that cannot be one: {bad}") from bad
    if length != row.length:
        raise BadFormat(what="the replica names a block of another length")
    seal = seals.seal_of(row.block_id, row.scope, row.suite, kind)
    return b"".join(unseal(seal, place, block) for place in places)


def unseal(seal: BlockSeal, place: Placed, block: bytes) -> bytes:
    """Open one piece of a block of the replica. Raises SealBroken."""
    return seal.unseal(place.slot, memoryview(block)[place.offset : place.offset + place.length + SEAL_BYTES])


def reference(row: BlockRow, content_bytes: int, fragments: Iterable[FragmentRow]) -> ObjectRef:
    """Refer to a block of the replica, and to all its fragments that were ever made: n may be less by now."""
    n = len(row.roots)
    at = [0] * n
    for each in fragments:
        if each.state is FragmentState.HELD and each.index < n:
            at[each.index] = each.supplier
    roots = b"".join(row.roots[:1] if len(set(row.roots)) == 1 else row.roots)
    return ObjectRef(bytes(row.block_id), int(row.suite), row.code.k, n, row.length, content_bytes, roots, tuple(at))


def code_for(content_bytes: int, suppliers: int, fragments: int, losses: int) -> Code:
    """The code of an object: one supplier has all of a small one; a larger one survives as many losses as any file.

    Args:
        suppliers: how many there are, at least 1.
        fragments: the largest n of any code in use.
        losses: the largest n − k of any code in use.
    """
    n = min(suppliers, max(fragments, copies_needed(suppliers, losses)))
    return Code(1 if content_bytes <= COPY_BYTES else max(1, n - losses), n)


def kept_n(code: Code, suppliers: int, losses: int) -> int:
    """How many fragments an object keeps when there are fewer suppliers: it goes on surviving what any file does.

    Args:
        suppliers: how many there are and are to come.
    """
    n = min(code.n, suppliers)
    return n if n - code.k >= losses else code.n


def compress(content: bytes) -> bytes:
    """Make an object's content small."""
    return zlib.compress(content, _COMPRESSION)


def compress_chunk(content: bytes) -> bytes:
    """Make one image chunk small."""
    return zlib.compress(content, _IMAGE_COMPRESSION)


def expand(content: bytes, most_bytes: int) -> bytes:
    """Undo `compress` or `compress_chunk`. Raises BadFormat: it is damaged or would be longer than `most_bytes`."""
    inflater = zlib.decompressobj()
    try:
        expanded = inflater.decompress(content, most_bytes + 1)
    except zlib.error as bad:
        raise BadFormat(what=f"an object of the replica cannot be expanded: {bad}") from bad
    if len(expanded) > most_bytes or not inflater.eof or inflater.unused_data:
        raise BadFormat(what="an object of the replica is longer or shorter than it says")
    return expanded


def expand_delta(content: bytes) -> bytes:
    """Undo `compress` of a delta. Raises BadFormat."""
    return expand(content, DELTA_MOST_BYTES)


# --- heads and manifests ------------------------------------------------------------------------------------


def seal_head(secrets: VolumeSecrets, content: HeadContent, block_id: BlockId, suite: Suite) -> bytes:
    """The sealed part of a head: a fresh id of 32 bytes, the suite, and the padded content.

    Padding hides how many deltas there are, and how many suppliers.
    """
    body = zlib.compress(_encoder.encode(content), _COMPRESSION)
    plain = len(body).to_bytes(4, "big") + body
    plain += bytes(blocks.padded_length(len(plain)) - len(plain))
    sealed = secrets.seal_of(block_id, 0, suite, Kind.HEAD).seal(0, plain)
    return bytes(block_id) + bytes([suite]) + sealed


def unseal_head(secrets: VolumeSecrets, sealed: bytes) -> HeadContent:
    """Open the sealed part of a head.

    Raises:
        SealBroken: it is of another volume, or damaged. BadFormat: of an unknown version, or makes no sense.
    """
    if len(sealed) < _HEAD_ID_BYTES + 1 + 4:
        raise BadFormat(what="a head is too short")
    suite = sealed[_HEAD_ID_BYTES]
    if suite not in Suite.__members__.values():
        raise BadFormat(what=f"a head is sealed with a cipher that is not known here: {suite}")
    seal = secrets.seal_of(BlockId(sealed[:_HEAD_ID_BYTES]), 0, Suite(suite), Kind.HEAD)
    plain = seal.unseal(0, sealed[_HEAD_ID_BYTES + 1 :])
    body = plain[4 : 4 + int.from_bytes(plain[:4], "big")]
    raw = expand(body, HEAD_MOST_BYTES)
    try:
        content = _head_decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as bad:
        raise BadFormat(what=f"a head of another version of bitdustfs: {bad}") from bad
    if content.version != VERSION:
        raise BadFormat(what=f"a head has version {content.version}; this bitdustfs reads version {VERSION}")
    if sum(ref.content_bytes for ref in content.manifest) > MANIFEST_PARTS_BYTES:
        raise BadFormat(what="a head names a manifest that is larger than any can be")
    return content


def encode_manifest(manifest: Manifest) -> bytes:
    """Write a manifest, compressed."""
    return compress(_encoder.encode(manifest))


def decode_manifest(content: bytes) -> Manifest:
    """Read a manifest. Raises BadFormat."""
    raw = expand(content, max(MANIFEST_MOST_BYTES, MANIFEST_SHRINKS * len(content)))
    try:
        manifest = _manifest_decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as bad:
        raise BadFormat(what=f"a manifest of another version of bitdustfs: {bad}") from bad
    if manifest.version != VERSION:
        raise BadFormat(what=f"a manifest has version {manifest.version}; this bitdustfs reads version {VERSION}")
    for block, _slot, offset, length in manifest.order:
        if block >= len(manifest.blocks) or offset + length + SEAL_BYTES > manifest.blocks[block].length:
            raise BadFormat(what="a manifest names a chunk that is in no block of it")
    return manifest


def encode_note(note: ManifestNote) -> bytes:
    """Write a note."""
    return _encoder.encode(note)


def decode_note(content: bytes) -> ManifestNote:
    """Read a note. It is our own. Raises BadFormat: it is damaged."""
    try:
        return _note_decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadFormat(what=f"what the catalog notes of its newest snapshot is damaged: {bad}") from bad


# --- decisions ----------------------------------------------------------------------------------------------


def quorum(suppliers: int) -> int:
    """Q: how many of so many suppliers must have a head before it counts."""
    return suppliers // 2 + 1


def has_quorums(some: Set[int], lists: Iterable[frozenset[int]], gone: Set[int] = frozenset()) -> bool:
    """Say whether these are a quorum of every list, or all that are left of it where those are too few for one."""
    return all(len(some & these) >= min(quorum(len(these)), len(these - gone)) for these in lists)


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has the newest head, by supplier number, and who should."""

    listed: frozenset[int]  # in this head's list
    before: tuple[frozenset[int], ...]  # lists of heads before it that somebody may still go by: each by itself
    have: frozenset[int]
    gone: frozenset[int] = frozenset()  # were given up: of lists before, the others are enough, or it would never end

    @property
    def is_quorate(self) -> bool:
        """More than half of each list have the head: whoever goes by one of them asks somebody who has it."""
        return has_quorums(self.have, (self.listed,)) and has_quorums(self.have, self.before, self.gone)

    def is_safe(self, losses: int) -> bool:
        """So many of each list have it that after `losses` of them it is still there, and a quorum has it."""
        lists = ((self.listed, frozenset[int]()), *((each, self.gone) for each in self.before))
        return self.is_quorate and all(
            len(self.have & these) >= min(copies_needed(len(these), losses), len(these - gone))
            for these, gone in lists
        )

    @property
    def listed_before(self) -> tuple[frozenset[int], ...]:
        """What the next head has as `before`. A head without its quorum may have been taken all the same."""
        return tuple(
            dict.fromkeys((() if self.is_quorate else self.before) + ((self.listed,) if self.listed else ()))
        )


def copies_needed(suppliers: int, losses: int) -> int:
    """How many suppliers must have something of which each has all, so that it is as safe as any file."""
    return min(suppliers, max(quorum(suppliers), losses + 1)) if suppliers else 1


def merge_from(sizes: Sequence[int]) -> int | None:
    """Which deltas at the end to merge into one: the index of the first of them; None: leave them.

    A run of MERGE_RUN deltas of at most one size class becomes one of the next: so few are left, and each change is
    sent again only a few times.

    Args:
        sizes: bytes of the deltas, in order.
    """
    best: int | None = None
    level = 0
    start = len(sizes)
    while True:
        while start > 0 and _level(sizes[start - 1]) <= level:
            start -= 1
        if len(sizes) - start >= MERGE_RUN and sum(sizes[start:]) <= DELTA_BYTES:
            best = start
        if start == 0 or sum(sizes[start:]) > DELTA_BYTES:
            return best
        level = max(level + 1, _level(sizes[start - 1]))


def _level(size: int) -> int:
    level = 0
    while size > _LEAST_LEVEL_BYTES:
        size //= MERGE_RUN
        level += 1
    return level


def wants_snapshot(image_bytes: int, delta_bytes: int, deltas: int) -> bool:
    """Say whether the deltas have grown so much that a new snapshot should replace them."""
    return deltas > MOST_DELTAS or delta_bytes > max(SNAPSHOT_LEAST_BYTES, image_bytes // SNAPSHOT_SHARE)
