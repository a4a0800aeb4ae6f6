"""What the engine needs of the world, as Protocols.

Every port has one real implementation in `edges` and one fake in `testing`, and both pass the same contract
tests. A method is `async` if and only if it may wait. The catalog is synchronous on purpose: between two
`await`s the world stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bitdustfs.errors import BitdustError
from bitdustfs.model import (
    NO_BLOCK,
    NO_INO,
    Absence,
    AuditTally,
    BlockNo,
    BlockRow,
    BulkPass,
    ChunkNo,
    ChunkPlace,
    ChunkRow,
    Code,
    Cookie,
    DeadKey,
    Deeds,
    DeltaRow,
    Extent,
    Fingerprint,
    FragmentName,
    FragmentRow,
    FragmentState,
    ImageChunk,
    Ino,
    Inode,
    Layer,
    LocalFile,
    MapRow,
    Name,
    NodeId,
    Observation,
    OwnerId,
    RecordId,
    RestoreReport,
    Root,
    Shortfall,
    Snapshot,
    SnapshotKind,
    Sparse,
    Supplier,
    SupplierNo,
    Touches,
    Track,
    Verdict,
    Wanting,
)

T = TypeVar("T")


class Catalog(Protocol):
    """The customer's database. Changes go into one open transaction until `commit`.

    `savepoint` makes a group of changes all or nothing inside it. Reads see uncommitted changes.
    Replicated: inode, name, xattr, map, chunk, block, fragment, supplier, counter. Local: local_file, extent, inline,
    upload, loose chunk, release, what suppliers hold, outbox, local block, delta, image chunk, link. Ids and cookies
    come from replicated counters and are never used twice.

    *Local blocks* have negative numbers. Everything that takes a block number takes theirs, and whatever speaks of
    all blocks speaks of them too, unless it says otherwise.
    """

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo everything inside the `with` if it raises."""
        ...

    @property
    def failure(self) -> BitdustError | None:
        """Why it takes no changes until it was closed and repaired. None: it does."""
        ...

    @property
    def pending(self) -> int:
        """How many savepoints and single changes the open transaction holds."""
        ...

    def commit(self) -> None:
        """End the open transaction. Survives `kill -9`, not yet a power loss.

        Raises:
            DiskFull, DiskFault: the transaction stays open and may be committed later.
        """
        ...

    async def harden(self) -> None:
        """Make everything committed so far survive a power loss. Concurrent calls share one fdatasync."""
        ...

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file, in a worker, if it has grown."""
        ...

    # -- inodes ------------------------------------------------------------------------------------------
    def new_ino(self) -> Ino: ...

    def inode(self, ino: Ino) -> Inode | None: ...

    def put_inode(self, inode: Inode) -> None:
        """Insert or replace."""
        ...

    def drop_inode(self, ino: Ino) -> None:
        """Forget an inode with its map, xattrs and all local rows."""
        ...

    def orphans(self) -> Sequence[Ino]:
        """Inodes without a name that no name supersedes: open and unlinked when the process died."""
        ...

    def count_inodes(self) -> int: ...

    # -- names -------------------------------------------------------------------------------------------
    def name(self, parent: Ino, name: bytes) -> Name | None: ...

    def put_name(self, parent: Ino, name: bytes, ino: Ino, *, superseded: Ino = NO_INO) -> Name:
        """Insert with a new cookie, or replace in place and keep the cookie."""
        ...

    def drop_name(self, parent: Ino, name: bytes) -> None: ...

    def names(self, parent: Ino, after: Cookie, limit: int) -> Sequence[tuple[Name, Inode]]:
        """The names of a directory with cookies above `after`, in cookie order, with their inodes."""
        ...

    def name_at(self, parent: Ino, cookie: Cookie) -> bytes | None:
        """What the name at this place of a directory is called; None: there is none."""
        ...

    def last_cookie(self) -> Cookie:
        """The cookie that was given out last."""
        ...

    def names_of(self, ino: Ino) -> Sequence[Name]:
        """All names that show this inode. May scan an index; for status and `superseded`, not for reads."""
        ...

    def superseding(self, ino: Ino) -> Sequence[Name]:
        """The names that show `ino` (unborn) and keep a superseded inode."""
        ...

    # -- xattrs ------------------------------------------------------------------------------------------
    def xattr(self, ino: Ino, name: bytes) -> bytes | None: ...

    def put_xattr(self, ino: Ino, name: bytes, value: bytes) -> None: ...

    def drop_xattr(self, ino: Ino, name: bytes) -> bool: ...

    def xattrs(self, ino: Ino) -> Sequence[tuple[bytes, bytes]]: ...

    # -- maps, chunks, blocks, fragments -----------------------------------------------------------------
    def map_rows(self, ino: Ino, first: int, last: int) -> Sequence[MapRow]:
        """The rows that touch chunk indexes first … last, in order. Hole runs come whole."""
        ...

    def map_end(self, ino: Ino) -> int:
        """The index behind the last row of now; 0: there is none."""
        ...

    def replace_map(self, ino: Ino, rows: Iterable[MapRow], *, first: int, last: int, is_empty: bool = False) -> None:
        """Put `rows` in place of everything at indexes first … last; hole runs that stick out are cut.

        Args:
            is_empty: nothing is there, and it need not be looked for.
        """
        ...

    def new_chunk_no(self, *, is_brought: bool = False) -> ChunkNo:
        """Take a chunk number that was never given out; from FIRST_BROUGHT on for one that another line wrote."""
        ...

    def new_block_no(self) -> BlockNo: ...

    def new_local_block_no(self) -> BlockNo:
        """A negative number, never given out before."""
        ...

    def chunk(self, chunk: ChunkNo) -> ChunkRow | None: ...

    def place_of(self, chunk: ChunkNo) -> ChunkPlace | None:
        """The block of files in which a chunk lies; None: there is no such chunk, or no such block."""
        ...

    def placed(self, ino: Ino, first: int, last: int) -> Sequence[tuple[int, ChunkRow]]:
        """The chunks at indexes first … last, each with its index, in order; without holes and what is missing."""
        ...

    def chunk_by_fingerprint(self, fingerprint: Fingerprint) -> ChunkRow | None:
        """The newest chunk with this content."""
        ...

    def chunks_like(self, fingerprint: Fingerprint, limit: int = 16) -> Sequence[ChunkRow]:
        """Chunks with this content, also those that another line brought, the last ones first."""
        ...

    def put_chunks(self, chunks: Iterable[ChunkRow]) -> None:
        """Insert or replace: a chunk that is there already lies elsewhere from now on."""
        ...

    def block(self, block: BlockNo) -> BlockRow | None: ...

    def put_block(self, row: BlockRow) -> None: ...

    def drop_block(self, block: BlockNo) -> None:
        """Forget a block, its fragments and the chunks in it; of a local one, the image chunks."""
        ...

    def local_blocks(self) -> Sequence[BlockRow]:
        """All local blocks, the one made first first."""
        ...

    def blocks(self, *, after: BlockNo = NO_BLOCK, limit: int = -1) -> Sequence[BlockRow]:
        """Blocks of files with numbers above `after`, in order; at most `limit`, or all."""
        ...

    def blocks_of(self, ino: Ino) -> Sequence[BlockNo]:
        """The blocks that a published file's chunks lie in, each once."""
        ...

    def held_of(self, ino: Ino) -> Sequence[tuple[Code, int] | None]:
        """Each code with each count of held fragments among the same blocks, once; None: one is not there."""
        ...

    def held_of_chunks(self, chunks: Collection[ChunkNo]) -> Sequence[tuple[Code, int] | None]:
        """The same of the blocks of files that these chunks lie in; None: a chunk, or its block, is not there."""
        ...

    def places_of(self, chunk: ChunkNo) -> Sequence[tuple[Ino, int]]:
        """Some of the places (inode, chunk index) in published files where a chunk is."""
        ...

    def all_places_of(self, chunk: ChunkNo) -> Sequence[tuple[Ino, int]]:
        """All places (inode, chunk index) of now where a chunk is."""
        ...

    def chunks_of_block(self, block: BlockNo) -> Sequence[ChunkRow]: ...

    # -- what nobody needs any more ------------------------------------------------------------------------
    def last_chunk_no(self) -> ChunkNo:
        """The chunk number that was given out last."""
        ...

    def note_loose_chunks(self, after: ChunkNo, until: ChunkNo) -> None:
        """Note those of the chunks with numbers after … until that no map names.

        Chunks that lose a row of a map are noted by the change that takes it away.
        """
        ...

    def loose_chunks(self, after: ChunkNo, limit: int) -> Sequence[tuple[ChunkNo, bool]]:
        """The noted chunks above `after`, in order, each with whether a map names it all the same."""
        ...

    def settle_chunks(self, chunks: Iterable[ChunkNo]) -> None:
        """Note no more that these may be loose."""
        ...

    def drop_chunks(self, chunks: Iterable[ChunkNo]) -> None:
        """Forget chunks, also that they were loose. No map may name them."""
        ...

    def mapped_chunks(
        self, after: tuple[int, int, int] | None, limit: int
    ) -> tuple[Set[ChunkNo], tuple[int, int, int] | None]:
        """The chunks that the next `limit` rows of maps name, of any generation, found without an index.

        Returns:
            They, and the key of the last row, for the next call; None: there was no row.
        """
        ...

    def filled_blocks(self, after: ChunkNo, limit: int) -> tuple[Set[BlockNo], ChunkNo | None]:
        """The blocks that the next `limit` chunks above `after` lie in, found without an index; the last chunk."""
        ...

    def dead_blocks(self, limit: int, after: BlockNo) -> Sequence[BlockNo]:
        """At most `limit` blocks of files above `after` in which no chunk lies."""
        ...

    def sparse_blocks(self, limit: int, after: BlockNo) -> Sequence[Sparse]:
        """At most `limit` blocks of files above `after`, less than half of which is chunks."""
        ...

    def small_blocks(self, limit: int) -> Sequence[Sparse]:
        """At most `limit` blocks of files with less than 1 MiB of chunks, the smallest first."""
        ...

    # -- snapshots of the volume -----------------------------------------------------------------------------
    # Numbers of the past (core/past) are understood by inode, name, names, names_of, xattr, xattrs, map_rows, placed.
    def snapshots(self) -> Sequence[Snapshot]:
        """All of them, the oldest first, also those that are gone and still hold something."""
        ...

    def make_snapshot(self, name: str, made_ns: int, kind: SnapshotKind) -> Snapshot:
        """Keep what there is now under a name that no other has. Raises RuntimeError: inside a savepoint."""
        ...

    def change_snapshot(self, generation: int, name: str, kind: SnapshotKind) -> None:
        """Give a snapshot another kind and name."""
        ...

    def put_then(self, generation: int, inode: Inode) -> None:
        """Have a kept generation show this inode, by its number of now, and no extended attributes of it.

        This and the next four leave all other generations as they are.
        """
        ...

    def put_xattr_then(self, generation: int, ino: Ino, name: bytes, value: bytes) -> None:
        """Have it show an extended attribute."""
        ...

    def put_map_then(self, generation: int, ino: Ino, rows: Iterable[MapRow]) -> None:
        """Have it show chunks of a file that has no other map."""
        ...

    def put_name_then(self, generation: int, parent: Ino, name: bytes, ino: Ino) -> None:
        """Have it show a name that it does not show yet; both inodes by their numbers of now."""
        ...

    def drop_name_then(self, generation: int, parent: Ino, cookie: Cookie) -> None:
        """Have it not show the name at this place of a directory."""
        ...

    def leave_out(self, generation: int, ino: Ino, first: int, last: int) -> None:
        """Have map rows of now at indexes first … last that a snapshot has, and no snapshot shows, be of after it."""
        ...

    def end_snapshot(self, generation: int) -> None:
        """Let a snapshot be gone: nothing is kept for it any more."""
        ...

    def free_snapshot(self, generation: int, after: DeadKey | None, limit: int) -> DeadKey | None:
        """Look at `limit` rows that are not of now behind `after`; take away those that only a gone snapshot has.

        Returns:
            The last row that was looked at, for the next call; None: that was all, and the snapshot is forgotten.
        """
        ...

    def held_chunks(
        self, after: DeadKey | None, limit: int
    ) -> tuple[Sequence[tuple[tuple[int, int] | None, int]], DeadKey | None]:
        """What snapshots or forks have and nothing of now, in the next `limit` rows not of now.

        Returns:
            For each chunk, once: the oldest and the newest snapshot that has it, or None if a fork does; and its
            bytes. And the last row that was looked at; None: there was none.
        """
        ...

    def only_then(
        self, generation: int, after: DeadKey | None, limit: int
    ) -> tuple[Sequence[tuple[Ino, int]], DeadKey | None]:
        """What a snapshot shows and now nothing does, among the next `limit` inodes that were changed since.

        Where newer bytes are dirty, or a newer file is not published, what was published is taken as shown.

        Returns:
            Inodes by their numbers of now, each with its version then. And the last row that was looked at, for the
            next call; None: that was all.
        """
        ...

    def is_changed_since_snapshot(self) -> bool:
        """Whether anything of the tree may be different from the newest snapshot."""
        ...

    # -- codes ---------------------------------------------------------------------------------------------
    def wishes(self, block: BlockNo) -> Sequence[tuple[ChunkNo, frozenset[Code | None]]]:
        """The chunks in a block of files, each with the codes of the files that it is in; None: the volume's.

        Of a chunk in very many files not all are asked; then the block's own code is among them.
        """
        ...

    def mark_blocks(self, blocks: Iterable[BlockNo]) -> None:
        """Note that these blocks of files are to be coded anew."""
        ...

    def unmark_blocks(self, blocks: Iterable[BlockNo]) -> None:
        """Note no more that they are."""
        ...

    def marked_blocks(self, limit: int, after: BlockNo) -> Sequence[BlockNo]:
        """At most `limit` of the blocks above `after` that are to be coded anew."""
        ...

    def is_marked(self, block: BlockNo) -> bool:
        """Whether a block is to be coded anew."""
        ...

    def count_marked(self) -> tuple[int, int]:
        """(blocks that are to be coded anew, bytes of plaintext in them)."""
        ...

    # -- what is to be let go ------------------------------------------------------------------------------
    def put_releases(self, fragments: Iterable[tuple[SupplierNo, FragmentName]], change: int) -> None:
        """Note fragments that are to be let go once a change is safe; 0: at once. The later change counts."""
        ...

    def releases(self, supplier: SupplierNo, change: int, limit: int) -> Sequence[FragmentName]:
        """At most `limit` of the fragments that may go at a supplier when this change is safe."""
        ...

    def drop_releases(self, supplier: SupplierNo, names: Iterable[FragmentName]) -> None:
        """They are let go."""
        ...

    def is_releasing(self, supplier: SupplierNo, name: FragmentName) -> bool:
        """Whether a fragment is noted to be let go there: until it is, it must not be sent there again."""
        ...

    def count_releases(self) -> Mapping[SupplierNo, int]:
        """How many fragments are to be let go, for each supplier that has any."""
        ...

    # -- fragments -----------------------------------------------------------------------------------------
    def fragments(self, block: BlockNo) -> Sequence[FragmentRow]:
        """All fragments of a block, by index."""
        ...

    def put_fragment(self, row: FragmentRow) -> None:
        """Insert or replace the fragment `index` of a block at that supplier."""
        ...

    def drop_fragment(self, block: BlockNo, index: int, supplier: SupplierNo) -> None: ...

    def held(self, block: BlockNo) -> int:
        """How many different fragments of the block are HELD."""
        ...

    def are_held(self, least: Mapping[BlockNo, int]) -> bool:
        """Whether there are all these blocks of files, each with at least so many different fragments HELD."""
        ...

    def wanting_blocks(self, limit: int, after: Wanting | None = None) -> Sequence[Wanting]:
        """Blocks with fewer held fragments than their code's n, fewest above k first, local ones before others.

        Args:
            after: only those behind this one in that order.
        """
        ...

    def blocks_for(self, takers: Iterable[SupplierNo], blocks: Iterable[BlockNo]) -> set[BlockNo]:
        """Those of the blocks of which one of these suppliers has nothing, as far as is known.

        If there is any supplier, also those of which a fragment is HELD twice: one of the two may get another one.
        """
        ...

    def holding(self, suppliers: Iterable[SupplierNo]) -> Sequence[SupplierNo]:
        """Those of some suppliers of which some fragment is HELD, in order of number."""
        ...

    def fragments_at(
        self, supplier: SupplierNo, state: FragmentState, limit: int, start: BlockNo | None = None
    ) -> Sequence[FragmentRow]:
        """At most `limit` of the fragments at a supplier that are in that state, by block, from block `start` on."""
        ...

    def block_numbers(self) -> tuple[BlockNo, BlockNo]:
        """The least and the greatest number of a block, local or not; (0, 0) without one."""
        ...

    def audits(self) -> Mapping[SupplierNo, AuditTally]:
        """How audits ended, for each supplier that was audited."""
        ...

    def put_audits(self, supplier: SupplierNo, tally: AuditTally) -> None:
        """Insert or replace."""
        ...

    def crowded_blocks(self, after: BlockNo | None, limit: int) -> tuple[Sequence[BlockNo], BlockNo | None]:
        """Look at `limit` blocks with numbers above `after`; None: from the first one.

        Returns:
            Those with more held fragments than their code's n, and the last one that was looked at; None: there was
            no more.
        """
        ...

    def tracks(self) -> Sequence[Track]:
        """What was seen of suppliers, by number."""
        ...

    def put_track(self, track: Track) -> None:
        """Insert or replace."""
        ...

    def verdicts(self) -> Sequence[Verdict]:
        """What was decided about suppliers, the oldest first; the very old ones are forgotten."""
        ...

    def note_verdict(self, verdict: Verdict) -> None:
        """Add one."""
        ...

    def newest_blocks(self) -> tuple[int, int]:
        """What tells the blocks that there are now, for `missing_fragments`."""
        ...

    def missing_fragments(self, until: tuple[int, int]) -> int:
        """How many fragments are not held of the blocks that there were when `newest_blocks` was asked."""
        ...

    def count_blocks(self) -> int:
        """How many there are, without local ones."""
        ...

    def codes(self) -> Sequence[Code]:
        """Every code that a block has, local blocks apart."""
        ...

    def count_codes(self) -> Mapping[Code, int]:
        """How many blocks have each code, local blocks apart."""
        ...

    def held_histogram(self, *, of_files: bool = False) -> Sequence[tuple[Code, int, int]]:
        """(code, held, how many blocks) over all blocks, or over those of files only, worst first."""
        ...

    def shortfalls(self, blocks: Iterable[BlockNo]) -> Sequence[Shortfall]:
        """Which of some blocks lack fragments, and how many."""
        ...

    def file_bytes_in(self, blocks: Iterable[BlockNo]) -> int:
        """Bytes of user data of files as they are now that lie in some blocks; what two files share counts twice."""
        ...

    def least_margin(
        self, answering: Iterable[SupplierNo], after: BlockNo | None = None, limit: int = -1
    ) -> tuple[int | None, BlockNo | None]:
        """Look at `limit` blocks with numbers above `after`; None: from the first one. Below 0: at all.

        Returns:
            The least, over these, of held fragments at these suppliers minus k, and the last block that was looked
            at; None: there was none. For all blocks of a volume use `engine.margins`.
        """
        ...

    def suppliers(self) -> Sequence[Supplier]: ...

    def put_supplier(self, supplier: Supplier) -> None:
        """Insert or replace by number; a number of 0 takes a new one."""
        ...

    def charge_supplier(self, supplier: SupplierNo, bytes_more: int, fragments_more: int) -> None:
        """Count what a supplier holds for us."""
        ...

    def observations(self) -> Sequence[Observation]:
        """What was seen of suppliers; those that were never seen to come or go are left out."""
        ...

    def put_observation(self, seen: Observation) -> None:
        """Insert or replace."""
        ...

    def absences(self, supplier: SupplierNo) -> Sequence[Absence]:
        """The absences of a supplier that ended, oldest first."""
        ...

    def note_absence(self, supplier: SupplierNo, absence: Absence, forget_before_ns: int) -> None:
        """Add one; forget those that ended before a wall time, or days after this one: the clock was wrong."""
        ...

    # -- local: files, extents, inline bytes, uploads -----------------------------------------------------
    def local_file(self, ino: Ino) -> LocalFile | None: ...

    def put_local_file(self, row: LocalFile) -> None: ...

    def drop_local_file(self, ino: Ino) -> None: ...

    def local_files(self, *, after: Ino = NO_INO, limit: int = -1) -> Sequence[LocalFile]:
        """Those with numbers above `after`, in order; at most `limit`, or all."""
        ...

    def unsure_files(self) -> Sequence[LocalFile]:
        """Those with spool bytes that have no sums, with dirty ones that are not hard, or with none that are needed.

        Scans; for the start.
        """
        ...

    def extents(self, ino: Ino, layer: Layer) -> Sequence[Extent]: ...

    def put_extents(
        self, ino: Ino, layer: Layer, extents: Sequence[Extent], *, gone: Iterable[tuple[int, int]] = ()
    ) -> None:
        """Drop the rows whose start lies in one of the ranges `gone`, then insert or replace `extents`."""
        ...

    def sums(self, ino: Ino, row: int) -> bytes:
        """The sums (core.sums) of units 64·row … 64·row+63 of a spool file, as far as they were noted."""
        ...

    def put_sums(self, ino: Ino, row: int, sums: bytes) -> None: ...

    def drop_sums(self, ino: Ino, first: int, end: int) -> None:
        """Forget rows [first, end)."""
        ...

    def inline(self, ino: Ino) -> tuple[bytes, bytes] | None:
        """The whole content of a small file and its sum, if it is kept in the catalog."""
        ...

    def put_inline(self, ino: Ino, content: bytes, sum: bytes) -> None: ...

    def drop_inline(self, ino: Ino) -> None: ...

    def inline_bytes(self) -> int:
        """The sum of all inline contents."""
        ...

    def put_upload(self, block_id: bytes, fragments: Sequence[tuple[SupplierNo, FragmentName]]) -> None:
        """Note, before the first byte leaves, what an unplaced block may leave at suppliers."""
        ...

    def drop_upload(self, block_id: bytes) -> None: ...

    def upload(self, block_id: bytes) -> Sequence[tuple[SupplierNo, FragmentName]] | None:
        """The fragments of one noted block; None: it is not noted."""
        ...

    def uploads(self) -> Sequence[tuple[bytes, Sequence[tuple[SupplierNo, FragmentName]]]]: ...

    # -- local: the outbox --------------------------------------------------------------------------------
    @property
    def last_change(self) -> int:
        """The number of the newest committed change of replicated rows, also when the outbox has it no more.

        Each commit that changed any takes the next number, from 1; 0: there was none.
        """
        ...

    def outbox(self, after: int, most_bytes: int) -> Sequence[tuple[int, bytes]]:
        """(number, change set) of committed changes above `after`, oldest first: at least one, if there is any."""
        ...

    def outbox_bytes(self) -> int:
        """The sum of all change sets in the outbox."""
        ...

    def drop_outbox(self, until: int) -> None:
        """Forget the change sets up to this number. Numbers go on."""
        ...

    def drop_local_rows(self, ino: Ino) -> None:
        """Forget all that only this machine knows of a file."""
        ...

    def note_last_change(self, change: int) -> None:
        """Let this be the number of the newest change: of one that was made elsewhere, and came by a step."""
        ...

    def changed(self, ino: Ino) -> int:
        """The number of the change that last touched an inode's row, names, xattrs or map, or a later one.

        Returns:
            `last_change` + 1 for what is not committed yet; what it was at the start for what was not touched since;
            0 when all that was touched is forgotten.
        """
        ...

    def changed_since(self, change: int, most: int) -> Sequence[Ino] | None:
        """The inodes that were touched by later changes, or by the open transaction; None: more than so many, or
        it is not known any more. Inode 0: a fragment of a file is elsewhere now."""
        ...

    def forget_changed(self, until: int) -> None:
        """Let `changed` be 0 for what was touched by no change above this number."""
        ...

    # -- local: deltas, image chunks, links ----------------------------------------------------------------
    def put_delta(self, row: DeltaRow, content: bytes) -> None:
        """Insert or replace by first change and part.

        Args:
            content: what is sealed in its block.
        """
        ...

    def deltas(self) -> Sequence[DeltaRow]:
        """All of them, oldest first."""
        ...

    def delta_content(self, row: DeltaRow) -> bytes:
        """What is sealed in its block."""
        ...

    def drop_delta_part(self, first: int, part: int) -> None:
        """The same of one part of it."""
        ...

    def drop_delta(self, first: int) -> None:
        """Forget the delta that begins with this change, all its parts. Their blocks are rows of their own."""
        ...

    def put_image_chunks(self, rows: Iterable[ImageChunk]) -> None:
        """Insert or replace, by content."""
        ...

    def image_chunks(self, *, after: bytes = b"", limit: int = -1) -> Sequence[ImageChunk]:
        """Those with prints above `after`, in order; at most `limit`, or all."""
        ...

    def image_blocks(self) -> Sequence[BlockNo]:
        """The local blocks that they lie in, the one made first first."""
        ...

    def drop_image_chunks(self, prints: Iterable[bytes] | None = None) -> None:
        """Forget those with these prints, or all."""
        ...

    def put_link(self, version: int, link: bytes) -> None:
        """Keep the link of a head."""
        ...

    def links(self, after: int, until: int) -> bytes:
        """The links of the versions between `after` and `until`, without these two, one behind the other."""
        ...

    def drop_links(self, below: int) -> None:
        """Forget the links of versions below this one."""
        ...

    # -- steps of who only reads ----------------------------------------------------------------------------

    def noted(self) -> AbstractContextManager[list[tuple[str, Sequence[Any]]]]:
        """Have what is changed inside, local rows only, noted for a step and not made."""
        ...

    def step(self) -> Step:
        """Prepare the way to the state of another head. Nothing may be changed here until it was closed.

        Raises:
            RuntimeError: a transaction is open.
        """
        ...

    def image(self, path: Path) -> Image:
        """Choose this instant for a page image of everything committed, to be copied to `path` in a worker.

        Change sets above `last_change` continue it; one that was merged across this instant does not.

        Raises:
            RuntimeError: a transaction is open. DiskFull, DiskFault, ReadOnly, CatalogDamaged.
        """
        ...

    # -- values -------------------------------------------------------------------------------------------
    def value(self, key: str) -> bytes | None:
        """A named value of the volume: its id, scope, suite, code."""
        ...

    def put_value(self, key: str, value: bytes) -> None: ...

    def local_value(self, key: str) -> bytes | None:
        """A named value of this machine, never replicated: the boot in which it was mounted last."""
        ...

    def put_local_value(self, key: str, value: bytes) -> None: ...

    def file_bytes(self) -> tuple[int, int]:
        """(sum of published sizes of regular files, number of live inodes)."""
        ...

    def close(self) -> None: ...


class Image(Protocol):
    """The page image of a catalog at one instant, without its local tables. All but `chunks` is blocking."""

    @property
    def chunks(self) -> int:
        """How many chunks it has; 0 before it was copied."""
        ...

    def copy(self) -> None:
        """Copy the state of that instant to a file, once. Until then the catalog's log grows.

        Raises:
            DiskFull, DiskFault, CatalogDamaged. `close` must be called after all of them.
        """
        ...

    def chunk(self, index: int) -> bytes:
        """IMAGE_CHUNK_BYTES of the copy; the last one is filled up with zeros."""
        ...

    def close(self) -> None:
        """Remove the copy. Not while a worker is busy with it."""
        ...


class Changes(Protocol):
    """What joins the change sets that `Catalog.outbox` gives. Blocking, and pure: for a worker."""

    def merge(self, change_sets: Sequence[bytes]) -> bytes:
        """Join change sets, oldest first, to one that does the same. Empty if they undo each other.

        Raises:
            BadFormat: one of them is none.
        """
        ...

    def split(self, changes: bytes, most_bytes: int) -> list[bytes]:
        """Cut a change set into ones that do the same one after another.

        Returns:
            Change sets of about `most_bytes` at most, each with one change at least; none of an empty one.
        """
        ...

    def between(self, undone: Sequence[bytes], done: Sequence[bytes]) -> bytes:
        """Join what takes change sets back and then makes others, both oldest first. Raises BadFormat."""
        ...

    def touches(self, changes: bytes) -> Touches:
        """Say what a change set touches of the tree as it is now. Raises BadFormat: it is none."""
        ...

    def deeds(self, change_sets: Sequence[bytes]) -> Deeds:
        """Say what change sets, oldest first, did to the tree. Raises BadFormat: one of them is none."""
        ...


class Step(Protocol):
    """One step of a reader's catalog from the state of one head to that of another."""

    def apply(
        self, changes: bytes, statements: Sequence[tuple[str, Sequence[Any]]], beside: Path | None = None
    ) -> None:
        """Make the changes of a change set, and noted ones of local rows, not visible yet. Blocking, for a worker.

        Args:
            statements: from `Catalog.noted`.
            beside: a whole newer catalog (`Beside.path`), whose rows about its own way are taken over first.
        Raises:
            BadFormat: the change set does not fit what is here. DiskFull, DiskFault, CatalogDamaged.
        """
        ...

    def commit(self) -> None:
        """Let everybody see the new state from now on. Raises DiskFull, DiskFault: nothing was changed."""
        ...

    def close(self) -> None:
        """Undo what was not committed."""
        ...


class Restore(Protocol):
    """A catalog in the making, from what suppliers have: an image and change sets. All of it is blocking.

    Every method may raise DiskFull and DiskFault.
    """

    def expect(self, chunks: int) -> None:
        """Refuse an image of so many chunks if the disk has no room for it. Raises DiskTooSmall."""
        ...

    def write(self, index: int, content: bytes) -> None:
        """Put one chunk of the image in its place. All come before the first change set, in any order.

        Raises:
            BadFormat: it is not IMAGE_CHUNK_BYTES long.
        """
        ...

    def apply(self, changes: bytes) -> None:
        """Make the changes of one change set, oldest first. Without an image, they are made to an empty catalog.

        Raises:
            BadFormat: it is none, or speaks of other tables than the replicated ones; nothing was changed.
            CatalogDamaged: the image is not a catalog.
        """
        ...

    def finish(self, *, last_change: int = 0, verbatim: bool = False) -> RestoreReport:
        """Make it a catalog to go on with, and durable. It can be opened then.

        Names that show a file that was never published show what it superseded, or go; these changes are in the
        outbox of the new catalog.

        Args:
            last_change: the number of the last change that it holds; its own go on from there.
            verbatim: change nothing in it, so that further change sets fit: for who only reads.
        Raises:
            CatalogDamaged: the result is not sound.
        """
        ...

    def close(self) -> None:
        """Let go of the file; remove it if it was not finished."""
        ...


class Beside(Protocol):
    """A whole newer catalog in the making beside one that is open."""

    @property
    def path(self) -> Path: ...

    @property
    def restore(self) -> Restore:
        """What fills it."""
        ...

    def finish(self, change: int, note: Callable[[Catalog], None]) -> bytes:
        """End it, have its local rows noted, and give the change set that makes the open one what it is. Blocking.

        Args:
            change: the number of the last change that it holds.
        Raises:
            BadFormat, CatalogDamaged, DiskFull, DiskFault
        """
        ...

    def catalog(self, change: int) -> Catalog:
        """End it instead, and open it; the caller closes it. Blocking. Raises what `finish` does."""
        ...

    def close(self) -> None:
        """Remove it."""
        ...


class Workshop(Protocol):
    """Where catalogs are made that are thrown away."""

    def scratch(self) -> Catalog:
        """An empty one in memory."""
        ...

    def beside(self) -> Beside:
        """A whole newer one beside the one that is open. Raises DiskFull, DiskFault. Blocking."""
        ...


class Spool(Protocol):
    """Local files with our own chunks, one sparse file per inode, written only at its end.

    Positions are chosen by the caller, who never writes twice at one position that was hardened or frozen.
    """

    def write(self, ino: Ino, at: int, content: bytes | memoryview) -> None:
        """Write at a position. Raises DiskFull, DiskFault."""
        ...

    def read(self, ino: Ino, at: int, length: int, *, extra: int = 0) -> bytes:
        """Exactly `length` bytes, and up to `extra` more if there are. Raises DiskFault where the file is shorter."""
        ...

    async def harden(self, ino: Ino) -> None:
        """Make what was written survive a power loss. Raises DiskFull, DiskFault."""
        ...

    def distrust(self, ino: Ino) -> None:
        """A sync of the inode's file failed in an earlier process: fail each `harden`, until it was removed."""
        ...

    async def sums(self, ino: Ino, start: int, end: int) -> bytes:
        """The check sums (core.sums) of [start, end), where `start` begins a unit; given-back bytes are zeros.

        Raises:
            DiskFault
        """
        ...

    async def punch(self, ino: Ino, ranges: Sequence[tuple[int, int]]) -> None:
        """Give the space of ranges (position, length) back, which nobody writes or needs meanwhile.

        Raises:
            DiskFull, DiskFault: any of them may have been given back.
        """
        ...

    def remove(self, ino: Ino) -> None:
        """Forget the inode's file; not an error if there is none. Its space may come only with `settle`."""
        ...

    async def settle(self) -> None:
        """Give the space of removed files back."""
        ...

    def used_bytes(self) -> int:
        """Disk space that the spool takes, by its own count."""
        ...

    def fits(self, length: int) -> bool:
        """Say whether the disk under it takes so many bytes more, and keeps what the catalog needs."""
        ...

    def inos(self) -> Sequence[Ino]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Leaves:
    """A run of leaves of a stored fragment."""

    length: int  # bytes of the whole fragment
    hashes: bytes  # the fragment's whole leaf hash list; b"" if not asked for
    content: bytes | memoryview  # the leaves first … first+count−1


class Shelf(Protocol):
    """Other people's fragments on our disk. Blocking; the keeper calls it in a worker through Crunch."""

    def put(self, owner: OwnerId, name: FragmentName, root: Root, content: bytes | memoryview) -> None:
        """Store durably: returns only after content and name survive a power loss. Same name and root: no-op.

        Raises:
            BadLeaf: the content does not have that root. AlreadyThere: the name is taken by another root.
            DiskFull, DiskFault, Unavailable: nothing is stored.
        """
        ...

    def get(self, owner: OwnerId, name: FragmentName, first: int, count: int, *, hashes: bool) -> Leaves:
        """Read `count` leaves from leaf `first` on (fewer at the end). Raises NotFound, DiskFault."""
        ...

    def delete(self, owner: OwnerId, name: FragmentName, *, now_s: int) -> bool:
        """Move a fragment into the owner's trash, which still counts as used. False if it was not there."""
        ...

    def names(self, owner: OwnerId, after: bytes, limit: int) -> Sequence[tuple[FragmentName, int]]:
        """(name, length) above `after`, in order of name."""
        ...

    def trash(self, owner: OwnerId, before_s: int) -> tuple[int, int]:
        """(bytes, fragments) of an owner's trash that came before the day of a wall time. Needs no disk."""
        ...

    def empty_trash(self, owner: OwnerId, bytes_wanted: int, fragments_wanted: int, before_s: int) -> None:
        """Erase what `trash` counts, oldest first, until so much and so many are gone, or nothing is left.

        Raises:
            DiskFault, Unavailable.
        """
        ...

    def drop(self, owner: OwnerId, bytes_wanted: int) -> int:
        """Erase of what an owner stored, trash first, until so many bytes are gone or nothing is left.

        Only for one whose contract has ended, and whose grace is over (invariant I14).

        Returns:
            How many bytes are gone.
        Raises:
            Unavailable, DiskFault.
        """
        ...

    def owners(self) -> Sequence[OwnerId]:
        """Everybody who has something here. Raises Unavailable, DiskFault."""
        ...

    def scrub(self, owner: OwnerId, name: FragmentName) -> bool:
        """Read a fragment through. False: its bytes are damaged, so it was removed, and is not found from now on.

        Raises:
            NotFound, DiskFault, Unavailable: nothing is known, and nothing was done.
        """
        ...

    def used(self, owner: OwnerId) -> tuple[int, int]:
        """(bytes, fragments) of an owner."""
        ...

    def free_bytes(self) -> int:
        """Bytes that may still be taken, by the donation and by the disk's floor."""
        ...


class ContractStore(Protocol):
    """What must not be forgotten of other owners: contracts, and the head and newest epoch of each. Blocking."""

    def contracts(self) -> Mapping[OwnerId, bytes]:
        """The contracts with each owner that hold or will, as signed, in one. Raises DiskFault, BadFormat."""
        ...

    def save_contract(self, owner: OwnerId, contract: bytes) -> None:
        """Replace, durably: returns only after it survives a power loss. Raises DiskFull, DiskFault."""
        ...

    def proposals(self) -> Mapping[OwnerId, bytes]:
        """What we have proposed to each owner and he has not signed. Raises DiskFault, BadFormat."""
        ...

    def save_proposal(self, owner: OwnerId, proposal: bytes) -> None:
        """Replace, durably; b"": there is none any more. Raises DiskFull, DiskFault."""
        ...

    def floors(self) -> Mapping[OwnerId, int]:
        """The least serial of a proposal of ours that may still come into force, where some may not."""
        ...

    def save_floor(self, owner: OwnerId, serial: int) -> None:
        """Replace, durably; 0: none. Raises DiskFull, DiskFault."""
        ...

    def endings(self) -> Mapping[OwnerId, tuple[int, int]]:
        """When it was first seen that the contract with an owner had ended, in wall seconds, and for how many seconds
        we have run since."""
        ...

    def save_ending(self, owner: OwnerId, at_s: int, run_s: int) -> None:
        """Replace, durably; 0: it has not ended. Raises DiskFull, DiskFault."""
        ...

    def epochs(self) -> Mapping[OwnerId, tuple[int, bytes]]:
        """The highest certificate epoch seen of each owner, and a certificate of it as signed; b"": none was kept."""
        ...

    def save_epoch(self, owner: OwnerId, epoch: int, proof: bytes) -> None:
        """Replace, durably. Raises DiskFull, DiskFault."""
        ...

    def heads(self) -> Mapping[OwnerId, bytes]:
        """The head of each owner that has one, as it came; damaged ones too: b"" if a file of one cannot be read."""
        ...

    def save_head(self, owner: OwnerId, head: bytes) -> None:
        """Replace, durably. Raises DiskFull, DiskFault."""
        ...


class LedgerStore(Protocol):
    """The ledger, a page for each owner and direction, as core/ledger writes it. Blocking."""

    def accounts(self) -> Mapping[OwnerId, bytes]:
        """What each owner keeps for us. One that cannot be read is b"". Raises DiskFault, BadFormat."""
        ...

    def save_account(self, owner: OwnerId, account: bytes) -> None:
        """Replace, durably. Raises DiskFull, DiskFault."""
        ...

    def gifts(self) -> Mapping[OwnerId, bytes]:
        """What we keep for each owner. One that cannot be read is b"". Raises DiskFault, BadFormat."""
        ...

    def save_gift(self, owner: OwnerId, gift: bytes) -> None:
        """Replace, durably. Raises DiskFull, DiskFault."""
        ...


class InvitationStore(Protocol):
    """The invitations that we made, as core/invited writes them, by their marks. Blocking."""

    def invitation(self, mark: bytes) -> bytes | None:
        """As it is kept now; None: there is none. Raises DiskFault, Unavailable."""
        ...

    def replace_invitation(self, mark: bytes, before: bytes, after: bytes) -> bool:
        """Replace, durably. False: it is not as `before` any more, and was left alone. Raises DiskFull, DiskFault."""
        ...


class Link(Protocol):
    """An authenticated, encrypted byte stream to one node. TLS in reality, memory in tests."""

    @property
    def peer(self) -> NodeId:
        """The node at the other end, proven by its key."""
        ...

    @property
    def address(self) -> str:
        """ADDR:PORT of the other end, for people."""
        ...

    @property
    def own_address(self) -> str:
        """ADDR:PORT of this end; "": nobody knows."""
        ...

    async def send_all(self, content: bytes | memoryview) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes:
        """At least one byte, or b"" at an orderly end. Raises PeerGone."""
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """The same into the front of `buffer`; how many bytes came, 0 at an orderly end. Raises PeerGone."""
        ...

    async def aclose(self) -> None: ...


class AddressStore(Protocol):
    """The newest record of each node that a process knew, as signed. Blocking."""

    def load(self, limit: int) -> Sequence[tuple[OwnerId, bytes]]:
        """At most `limit` of them, each with the owner of its node, not checked. What cannot be read is left out."""
        ...

    def save(self, node: NodeId, owner: OwnerId, record: bytes) -> None:
        """Replace, durably. Raises DiskFull, DiskFault."""
        ...

    def drop(self, node: NodeId) -> None:
        """Forget one that may not be there. Raises DiskFault."""
        ...


class Dialer(Protocol):
    async def dial(self, address: str, expected: NodeId) -> Link:
        """Connect and check who answers. The caller sets the deadline. Raises PeerGone, WrongPeer."""
        ...

    async def dial_front(self, address: str, front: bytes) -> Link:
        """Connect and check that the id of who answers begins with these FRONT_BYTES or more. Else as `dial`."""
        ...

    async def dial_bulk(self, address: str, peer: NodeId, bulk: BulkPass) -> Link:
        """Open the bulk connection agreed with `peer`. The caller sets the deadline.

        Raises:
            PeerGone, ProtocolViolation: nobody there takes the ticket, or has the keys.
        """
        ...


class Interfaces(Protocol):
    """The addresses of this machine."""

    def numbers(self) -> Mapping[str, bool]:
        """Each number that it has now, and whether it is one to tell others: not one that is soon given up.

        A link-local one of IPv6 is followed by % and the number of its interface.
        """
        ...

    async def wait_for_change(self) -> None:
        """Return when one may have come or gone since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What somebody in a local network said: how he is called and where he listens; nothing: he asks who is there."""

    name: str = ""
    address: str = ""  # ADDR:PORT, where it came from; a link-local one with the zone that it has here


class Lan(Protocol):
    """The local networks of this machine: what is said there reaches everybody in them, and nobody else.

    It promises nothing: what is said may be lost, and anybody may say anything.
    """

    def join(self, numbers: Collection[str]) -> None:
        """Be in the networks where this machine has these numbers, and in no others.

        Args:
            numbers: of IPv4, and link-local ones of IPv6 with their zones.
        """
        ...

    async def ask(self) -> None:
        """Ask in all of them who is there."""
        ...

    async def announce(self, name: str, place: str) -> None:
        """Say in the network of its number who listens at ADDR:PORT."""
        ...

    async def hear(self) -> Heard:
        """Wait for somebody to say something."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> str: ...

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, each family on its own."""
        ...

    async def accept(self) -> Link:
        """The next authenticated link; refused handshakes are logged and not returned. Raises Unavailable."""
        ...

    async def accept_bulk(self, peer: NodeId, bulk: BulkPass) -> Link:
        """Wait for the one connection that shows the ticket; given up, the ticket is void. Raises PeerGone."""
        ...

    async def aclose(self) -> None: ...


class Directory(Protocol):
    """Where anybody may look up records (see core/record). It promises nothing: at worst it is silent.

    Nothing that a person waits for may wait for it without a deadline of its own.
    """

    async def publish(self, record: bytes, also: Sequence[str] = ()) -> int:
        """Give a record to those who keep its id. The caller sets the deadline.

        Args:
            also: ADDR:PORT of some who get it too, wherever its id lies.
        Returns:
            how many others keep it, or a newer one.
        Raises:
            BadFormat: it is no record.
        """
        ...

    async def find(self, record_id: RecordId) -> bytes | None:
        """The newest valid record under this id that anybody shows. The caller sets the deadline."""
        ...

    async def join(self, addresses: Sequence[str]) -> int:
        """Get to know who is at these addresses, ADDR:PORT. The caller sets the deadline.

        Returns:
            how many answered.
        """
        ...

    def pin(self, ids: Iterable[RecordId]) -> None:
        """Say which records are kept here whoever brings others, and are handed on first."""
        ...


class Wall(Protocol):
    def now_ns(self) -> int:
        """Wall time: for dates and file times only, never for deadlines."""
        ...

    def awake_s(self) -> float:
        """Seconds that nobody sets and that go on in suspend (CLOCK_BOOTTIME): for leases and ages."""
        ...


class Entropy(Protocol):
    def bytes(self, count: int) -> bytes: ...


class Crunch(Protocol):
    @property
    def threads(self) -> int:
        """How many pieces of work run at once, at least 1."""
        ...

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Do blocking or CPU-heavy work off the loop: a worker thread, or inline in tests."""
        ...
