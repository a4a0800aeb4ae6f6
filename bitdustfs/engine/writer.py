"""The writer: from dirty files to placed blocks and published versions.

A dirty file is *frozen* when its oldest change is 5 s old, when 4 MiB are dirty and nobody has it open, or when
somebody waits for it, or for room in the spool. The changed chunks of frozen files are packed into blocks, sealed,
coded, and sent to n suppliers at once. When W have acknowledged, the block is placed; when all changed chunks of a
version are placed, one transaction publishes it. A file that is written in one long stream does not wait for that:
chunks behind its write front are placed ahead of their version.

No lock is held while sending. What an unplaced block may leave at suppliers is noted durably before the first byte
leaves, and released if the block is given up or the process dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf

import trio

from bitdustfs.core import block as blocks
from bitdustfs.core import erasure, fragment, placement
from bitdustfs.core.pace import READERS_SHARE, pause_s
from bitdustfs.core.ranges import Piece
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.fileread import Fetch
from bitdustfs.engine.files import Files
from bitdustfs.engine.filestate import FileLife, Frozen, FrozenChunk, chunk_ahead
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.spooled import Unchecked
from bitdustfs.engine.uploads import Shipment, Uploads
from bitdustfs.errors import BitdustError, DiskFault, SpoolDamaged
from bitdustfs.model import (
    BLOCK_BYTES,
    BLOCK_CHUNKS,
    CHUNK_BYTES,
    HOLE,
    BlockId,
    ChunkNo,
    ChunkRow,
    Code,
    Fingerprint,
    Hold,
    Ino,
    Root,
    Suite,
)
from bitdustfs.ports import Catalog, Crunch, Entropy

FREEZE_AFTER_S = 5.0  # (tune) age of the oldest change
FREEZE_BYTES = 4 * 1024 * 1024  # (tune) half a block's worth
BUSY_FREEZE_BYTES = 4 * FREEZE_BYTES
QUIET_S = 0.2  # a file just closed is often renamed or stamped next; no use in being faster
HOT_MOST_S = 300.0  # a file that changes all the time is uploaded at least this often
WINDOW = 4  # (tune) blocks on their way to W: enough to hide latency, few enough for memory
STREAM_CHUNKS = 8 * BLOCK_CHUNKS  # of one file on their way ahead of its version, or waiting for the window
LAY_LEAST = BLOCK_CHUNKS // 2  # (tune) chunks of a file in one block: of fewer, rows are put when it is published
YIELD_S = 0.2  # (tune) 40 MB/s leave this machine even while somebody writes as fast as he can
YIELD_MOST_S = 10.0  # (tune) between two blocks while somebody reads
_BUSY_LOOK_S = 0.02
BREATHE = 16  # files published in one turn of the loop: a few milliseconds
BREATHE_BYTES = 1024 * 1024  # (tune) read from the spool in one turn of the loop: up to 3 ms where memory is fresh
STREAM_EVERY_S = 0.1  # looking through the extents of a file takes time if there are many
FULL_PAUSE_S = 20.0  # (tune) after suppliers took nothing, as long as they say that they have no room
_TICK_S = 0.25  # while something is dirty: it becomes due with time, and suppliers come and go
_LOOK_S = 0.02  # between two looks for work
_LOOK_SHARE = 4  # a look takes as long as there are dirty files: at most a fifth of the time goes into looking
_ZEROS = bytes(CHUNK_BYTES)
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Version:
    """A frozen version and what is still missing of it."""

    frozen: Frozen
    refs: dict[int, ChunkNo]
    waiting: int = 0
    failed: bool = False
    known: set[ChunkNo] = field(default_factory=set)  # refs that were not sent, because they were placed before


@dataclass(slots=True, eq=False)
class _Job:
    """One chunk that has to be placed, for a version or ahead of one."""

    life: FileLife
    chunk: FrozenChunk
    code: Code
    version: _Version | None
    plaintext: bytes = b""
    unchecked: list[Unchecked] = field(default_factory=list)  # what the plaintext was made of
    print: Fingerprint = field(default=Fingerprint(b""))


class Writer:
    """Upload what is dirty, in the background, for as long as `run` runs."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        files: Files,
        journal: Journal,
        fetch: Fetch,
        uploads: Uploads,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        suite: Suite,
        code: Code | None,
        deduplicate: bool = True,
        is_reading: Callable[[], bool] = lambda: False,
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._journal = journal
        self._fetch = fetch
        self._uploads = uploads
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self._suite = suite
        self._code = code
        self._deduplicate = deduplicate
        self._is_reading = is_reading
        self._took_s = 0.0  # from the start of the block that was placed last until it was
        self._placed_at = -inf
        self._refused_at = -inf  # when a block was refused last
        self._window = trio.Semaphore(WINDOW)
        self._plaintexts = trio.Semaphore(min(WINDOW, crunch.threads))  # more blocks of them would only lie in memory
        self._versions: set[_Version] = set()  # on their way
        self._fresh: set[ChunkNo] = set()  # placed a moment ago, and in no version yet
        self._idle = False  # nothing was dirty when we looked last: `changed` tells when something is
        self._hurry = 0

    def code(self) -> Code | None:
        """The code of new blocks: the volume's, or the one for the number of hired suppliers."""
        if self._code is not None:
            return self._code
        hired = self._uploads.hired()
        return placement.default_code(hired) if hired else None

    def out_of_room(self) -> bool:
        """Enough suppliers answer, but fewer than k of them have room for a fragment of a full block."""
        code = self.code()
        if code is None:
            return False
        least = erasure.fragment_length(BLOCK_BYTES, code.k)
        candidates = self._uploads.candidates()
        roomy = [c for c in candidates if c.free_bytes >= least and c.free_fragments > 0]
        return len(candidates) >= code.k > len(roomy)

    async def flush(self, only: Ino | None = None) -> None:
        """Return when everything that is dirty now, or in one file, is published. The caller sets the deadline."""
        awaited = self.dirty_changes(only)
        self._hurry += 1
        self._files.changed.set()
        try:
            while self.is_waiting_for(awaited):
                await trio.sleep(0.05)
        finally:
            self._hurry -= 1

    def dirty_changes(self, only: Ino | None = None) -> Mapping[FileLife, int]:
        """What is dirty now, for `is_waiting_for`."""
        return {life: life.change for life in self._files.dirty_lives() if only in (None, life.ino)}

    def is_waiting_for(self, awaited: Mapping[FileLife, int]) -> bool:
        """Whether some of it is not published yet."""
        return any(_still_dirty(life, change) for life, change in awaited.items())

    def count_waiting(self, awaited: Mapping[FileLife, int]) -> int:
        """How many of them are not published yet."""
        return sum(_still_dirty(life, change) for life, change in awaited.items())

    def chunks_in_use(self) -> set[ChunkNo]:
        """The chunks that versions on their way, or to come, refer to: no map names them yet."""
        in_use = set(self._fresh)
        for version in self._versions:
            in_use.update(version.refs.values())
        for life in self._files.dirty_lives():
            in_use.update(life.placed_ahead.values())
        return in_use

    async def run(self) -> None:
        """Find work and start uploads until cancelled."""
        try:
            await self._run()
        finally:
            self._versions.clear()
            for life in self._files.dirty_lives():  # nobody will finish what was begun
                life.frozen = None
                life.going_ahead.clear()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(inf if self._idle else _TICK_S):
                    await self._files.changed.wait()
                self._files.changed = trio.Event()
                await self._yield()
                looked_at = trio.current_time()
                due = self._find_due()
                took_s = trio.current_time() - looked_at
                for batch in _batches(self._jobs_of_all(due)):
                    if not batch:
                        await trio.lowlevel.checkpoint()
                        continue
                    await self._window.acquire()
                    nursery.start_soon(self._place, batch)
                    await self._yield()
                # a stream of tiny writes wakes us at each of them
                await trio.sleep(max(_LOOK_S, took_s * _LOOK_SHARE))

    async def _yield(self) -> None:
        """Leave the machine to whoever writes now: then a block starts only every YIELD_S, as long as there is room.

        Sealing, coding and sending take more of the processor than writing does, and can wait; the writer cannot.
        Whoever reads what is not here cannot wait either: for him the line is kept free most of the time.
        """
        began = trio.current_time()
        while not self._hurry and trio.current_time() < self._yields_until(began):
            await trio.sleep(_BUSY_LOOK_S)

    def _yields_until(self, began: float) -> float:
        """Until when, as things are now, whoever began to yield then has to."""
        if self._is_reading() and not self._files.is_pressed():
            if self._window.value < WINDOW:  # one block at a time
                return began + YIELD_MOST_S
            pause = min(pause_s(self._took_s, READERS_SHARE), YIELD_MOST_S)
            return max(began + YIELD_S, self._placed_at + pause)
        return began + YIELD_S if self._files.is_busy() else began

    # -- finding work --------------------------------------------------------------------------------------

    def _find_due(self) -> list[tuple[FileLife, bool]]:
        """Files of which something is to be sent, the oldest change first; each with whether all of it is."""
        answering, self._idle = self._uploads.answering(), False
        if not answering or self._journal.refusal is not None:  # a block leaves only after it was noted durably
            return []
        lives = self._files.dirty_lives()
        self._idle = not lives
        now = trio.current_time()
        if now < self._refused_at + FULL_PAUSE_S and self.out_of_room():
            return []  # to seal and code a block for nobody takes a tenth of a second each time
        # small blocks are dear, and so is publishing many files: while somebody writes more of them, wait for more
        least = BUSY_FREEZE_BYTES if self._files.is_busy() else FREEZE_BYTES
        enough = sum(life.dirty_bytes for life in lives) >= least
        due: list[tuple[FileLife, bool]] = []
        for life in sorted(lives, key=lambda each: each.dirty_at):
            if life.frozen is not None or life.damaged:
                continue
            age = now - life.dirty_at
            quiet = enough and life.opens <= 0 and age >= QUIET_S
            if self._hurry or self._files.is_pressed() or quiet or age >= max(FREEZE_AFTER_S, life.patience_s):
                due.append((life, True))
            elif life.inline is None and life.extents.dirty_bytes() >= FREEZE_BYTES and now >= life.stream_at:
                due.append((life, False))
        return due

    def _jobs_of_all(self, due: Iterable[tuple[FileLife, bool]]) -> Iterator[_Job | None]:
        """The jobs of these files as they are when it is their turn. None: others are to get theirs."""
        for turn, (life, is_whole) in enumerate(due):
            if turn % BREATHE == 0:
                yield None
                answering, usual = self._uploads.answering(), self.code()
            inode = self._catalog.inode(life.ino)
            code = (inode.code if inode else None) or usual
            if code is None or answering < code.k:
                continue
            if life.dead or not life.dirty or life.frozen is not None or life.damaged:
                continue  # by now
            if is_whole:
                yield from self._freeze(life, code)
            else:
                life.stream_at = trio.current_time() + STREAM_EVERY_S
                yield from self._stream(life, code)

    def _freeze(self, life: FileLife, code: Code) -> Iterable[_Job]:
        going, life.going_ahead = life.going_ahead, {}
        frozen = self._files.freeze(life)
        version = _Version(frozen, dict(frozen.placed))
        left = []
        for index in frozen.changed:
            if index in frozen.placed:
                continue
            version.waiting += 1
            under_way = going.get(index)
            if isinstance(under_way, _Job):  # the same bytes: nobody wrote there since
                under_way.version = version
            else:
                left.append(index)
        self._versions.add(version)
        if not version.waiting:
            self._finish(version)
        return self._jobs_of(version, left, code)

    def _jobs_of(self, version: _Version, indexes: Iterable[int], code: Code) -> Iterator[_Job]:
        """Jobs of a version, made when it is their turn: of a large file all at once take a KiB for each chunk."""
        frozen = version.frozen
        for index in indexes:
            job = _Job(frozen.life, frozen.chunk(index), code, version)
            if job.chunk.is_zero:
                self._done(job, HOLE)
            else:
                yield job

    def _stream(self, life: FileLife, code: Code) -> list[_Job]:
        """Chunks of an open file that are whole and behind its write front, as many as fill blocks."""
        ready: list[int] = []
        room = STREAM_CHUNKS - len(life.going_ahead)
        for extent in life.extents:
            if extent.end - extent.start < CHUNK_BYTES or extent.hold is not Hold.DIRTY:
                continue  # after random writes there are thousands of small ones
            whole = life.laid.gaps(-(-extent.start // CHUNK_BYTES), extent.end // CHUNK_BYTES)
            for index in chain.from_iterable(range(*gap) for gap in whole):
                if index == life.last_chunk or index in life.placed_ahead or index in life.going_ahead:
                    continue
                if len(ready) >= room:
                    break
                ready.append(index)
        jobs = []
        for index in ready[: len(ready) // BLOCK_CHUNKS * BLOCK_CHUNKS]:
            life.going_ahead[index] = job = _Job(life, chunk_ahead(life, index), code, None)
            jobs.append(job)
        return jobs

    # -- placing -------------------------------------------------------------------------------------------

    async def _place(self, batch: list[_Job]) -> None:
        """Bring a batch of chunks to suppliers, or tell their versions that it failed."""
        began = trio.current_time()
        rows: dict[Fingerprint, ChunkNo] = {}
        try:
            async with self._plaintexts if all(_is_here(job) for job in batch) else nullcontext():
                await self._read(batch)
                new, old, answered = await self._known([job for job in batch if job.plaintext])
                for job in set(batch).difference(new):
                    job.plaintext = b""
                built = await self._build(new) if new else None
            rows = await self._send(new, old, *built) if built else {}
            for turn, job in enumerate(batch):
                if not job.print:
                    self._done(job, HOLE)
                elif job not in answered:
                    self._done(job, rows[job.print])
                await _breathe(turn)
            self._lay(batch)
            self._placed_at = trio.current_time()
            self._took_s = self._placed_at - began
        except BitdustError as e:
            _log.warning("%d chunks could not be placed now: %s", len(batch), e)
            self._refused_at = trio.current_time()
            self._failed(batch)
        except Exception:  # noqa: BLE001 - one batch must not end the writer; its files stay dirty
            _log.exception("placing %d chunks failed", len(batch))
            self._failed(batch)
        except BaseException:
            self._failed(batch)
            raise
        finally:
            self._fresh.difference_update(rows.values())
            for job in batch:
                job.plaintext, job.unchecked = b"", []  # a large version has more jobs than fit into memory
            self._window.release()

    async def _read(self, batch: list[_Job]) -> None:
        """Collect and fingerprint the plaintexts; chunks of zeros stay empty, unreadable ones leave the batch.

        They are checked in the same worker that fingerprints them: on the loop that took more time than all else.
        """
        await self._collect(batch, list(batch), self._files.spooled_unchecked)
        wrong = await self._crunch.run(self._examine, batch)
        if wrong:  # read again, one by one: now they tell what is wrong, or suppliers have them
            await self._collect(batch, wrong, lambda life, piece: _checked(self._files.spooled(life, piece)))
            await self._crunch.run(self._examine, [job for job in batch if job in wrong])

    async def _collect(
        self, batch: list[_Job], jobs: Sequence[_Job], spooled: Callable[[FileLife, Piece], Unchecked]
    ) -> None:
        read_bytes = 0
        for job in jobs:
            if read_bytes >= BREATHE_BYTES:
                await trio.lowlevel.checkpoint()
                read_bytes = 0
            if not _is_wanted(job):  # nothing keeps its bytes in the spool
                batch.remove(job)
                continue
            try:
                job.plaintext = await self._plaintext(job, spooled)
                read_bytes += len(job.plaintext)
            except BitdustError as e:
                _log.warning("chunk %d of inode %d cannot be read: %s", job.chunk.index, job.life.ino, e)
                batch.remove(job)
                self._failed([job])

    def _examine(self, jobs: Sequence[_Job]) -> list[_Job]:
        """In a worker: check and fingerprint. Returns the jobs whose bytes are not what was written."""
        wrong = []
        for job in jobs:
            right = all(each.is_right() for each in job.unchecked)
            job.unchecked = []
            if not right:
                wrong.append(job)
            elif job.plaintext == _ZEROS[: len(job.plaintext)]:
                job.plaintext = b""
            else:
                job.print = self._secrets.fingerprint(job.plaintext)
        return wrong

    async def _plaintext(self, job: _Job, spooled: Callable[[FileLife, Piece], Unchecked]) -> bytes:
        chunk = job.chunk
        if job.life.dead:  # its spool file and sums are gone: that is no damage
            return b""
        if chunk.inline is not None:
            return chunk.inline
        start = chunk.index * CHUNK_BYTES
        parts: list[bytes | None] = []
        for piece in chunk.pieces:
            length = piece.end - piece.start
            if piece.extent is None:
                parts.append(None if piece.start < job.life.published_size else bytes(length))
            elif piece.extent.hold is Hold.ZERO:
                parts.append(bytes(length))
            else:
                found = _or_published(spooled, job.life, piece)
                parts.append(found.asked() if found else None)
                job.unchecked += [found] if found else []
        if None in parts:
            base = await self._fetch.chunk(job.life.ino, chunk.index)
            base = base[: max(0, job.life.published_size - start)]
            for turn, piece in enumerate(chunk.pieces):
                if parts[turn] is None:
                    published = base[piece.start - start : piece.end - start]
                    parts[turn] = published.ljust(piece.end - piece.start, b"\0")
        if job.life.dead:
            return b""
        whole = [part for part in parts if part is not None]
        return whole[0] if len(whole) == 1 else b"".join(whole)

    async def _known(self, jobs: Sequence[_Job]) -> tuple[list[_Job], dict[Fingerprint, ChunkRow], set[_Job]]:
        """Answer jobs whose chunk is well placed already.

        Returns:
            One job for each other content; copies of it that are not well placed; the answered jobs.
        """
        answered: set[_Job] = set()
        new: dict[Fingerprint, _Job] = {}
        old: dict[Fingerprint, ChunkRow] = {}
        for turn, job in enumerate(jobs):
            await _breathe(turn)
            row = self._catalog.chunk_by_fingerprint(job.print) if self._deduplicate else None
            if row is not None and row.length == len(job.plaintext):
                if self._is_well_placed(row, job.code):
                    if job.version is not None:
                        job.version.known.add(row.chunk)
                    self._done(job, row.chunk)
                    answered.add(job)
                    continue
                old[job.print] = row
            new.setdefault(job.print, job)
        return list(new.values()), old, answered

    def _is_well_placed(self, row: ChunkRow, code: Code) -> bool:
        block = self._catalog.block(row.block)
        if block is None:
            return False
        redundant = block.code.n * code.k >= code.n * block.code.k
        survives = block.code.n - block.code.k >= code.n - code.k
        return redundant and survives and self._catalog.held(row.block) >= block.code.quorum

    async def _build(self, jobs: Sequence[_Job]) -> tuple[Shipment, tuple[blocks.Placed, ...]]:
        """Seal and code one block. The plaintexts of its jobs are gone then."""
        code, scope = jobs[0].code, self._secrets.scope
        block_id = BlockId(self._entropy.bytes(32))
        seal = self._secrets.seal_of(block_id, scope, self._suite)

        def build() -> tuple[int, tuple[blocks.Placed, ...], tuple[bytes | memoryview, ...], tuple[Root, ...]]:
            plaintexts = [job.plaintext for job in jobs]
            content, places = blocks.build(seal, plaintexts, k=code.k)
            length = blocks.layout([len(p) for p in plaintexts])[1]
            plaintexts.clear()
            for job in jobs:
                job.plaintext = b""  # what is sent is as much again, and takes longer
            fragments = erasure.encode(content, code)
            return length, places, fragments, tuple(fragment.root(f) for f in fragments)

        length, places, fragments, roots = await self._crunch.run(build)
        return Shipment(block_id, scope, self._suite, code, length, roots, fragments), places

    async def _send(
        self,
        jobs: Sequence[_Job],
        old: dict[Fingerprint, ChunkRow],
        shipment: Shipment,
        places: Sequence[blocks.Placed],
    ) -> dict[Fingerprint, ChunkNo]:
        """Send one block; record it when it is placed."""
        prints = [job.print for job in jobs]
        rows: dict[Fingerprint, ChunkNo] = {}

        def record() -> None:
            placed: list[ChunkRow] = []
            for print_, place in zip(prints, places, strict=True):
                chunk = self._catalog.new_chunk_no()
                row = ChunkRow(chunk, print_, shipment.block, place.slot, place.offset, place.length)
                placed.append(row)
                if print_ in old and self._is_no_worse(shipment, old[print_].chunk):
                    placed.append(replace(row, chunk=old[print_].chunk))  # older references move to the better copy
                rows[print_] = chunk
            self._catalog.put_chunks(placed)
            self._fresh.update(rows.values())

        await self._uploads.place(shipment, record)
        return rows

    def _is_no_worse(self, shipment: Shipment, chunk: ChunkNo) -> bool:
        """Whether a new block survives at least what the one survives in which a chunk lies now (I9)."""
        row = self._catalog.chunk(chunk)
        block = self._catalog.block(row.block) if row is not None else None
        if block is None:
            return row is not None
        return len(shipment.acknowledged) - shipment.code.k >= self._catalog.held(block.block) - block.code.k

    # -- versions ------------------------------------------------------------------------------------------

    def _done(self, job: _Job, chunk: ChunkNo) -> None:
        if job.version is None:
            life = job.life
            if life.going_ahead.get(job.chunk.index) is job:
                del life.going_ahead[job.chunk.index]
                life.placed_ahead[job.chunk.index] = chunk
            return
        job.version.refs[job.chunk.index] = chunk
        job.version.waiting -= 1
        if job.version.waiting == 0:
            self._finish(job.version)

    def _lay(self, batch: Iterable[_Job]) -> None:
        """Put map rows of large files now: when a version of 10 GiB is published, all would take 0.3 s at once."""
        found: dict[tuple[FileLife, _Version | None], dict[int, ChunkNo]] = {}
        for job in batch:
            chunk = _refs(job.life, job.version).get(job.chunk.index, HOLE)
            if chunk != HOLE:
                found.setdefault((job.life, job.version), {})[job.chunk.index] = chunk
        for (life, version), refs in found.items():
            if len(refs) < LAY_LEAST or (version is not None and version not in self._versions):
                continue
            laid = life.laid if version is None else version.frozen.laid
            try:
                for index in self._files.lay(life, laid, refs, version.known if version is not None else ()):
                    del _refs(life, version)[index]
            except BitdustError as e:
                _log.debug("rows of inode %d are put when it is published: %s", life.ino, e)

    def _failed(self, batch: Iterable[_Job]) -> None:
        for job in batch:
            if job.version is None:
                if job.life.going_ahead.get(job.chunk.index) is job:
                    del job.life.going_ahead[job.chunk.index]
            elif job.chunk.index not in job.version.refs:
                job.version.failed = True
                job.version.waiting -= 1
                if job.version.waiting == 0:
                    self._finish(job.version)

    def _finish(self, version: _Version) -> None:
        self._versions.discard(version)
        if not version.failed and self._still_placed(version):
            self._publish(version)
            return
        self._files.thaw(version.frozen)
        version.frozen.life.dirty_at = trio.current_time()

    def _still_placed(self, version: _Version) -> bool:
        """Every chunk can be read, and those that were found placed still are: no await until it is published."""
        if not self._catalog.are_held(version.frozen.laid.blocks):
            return False
        refs = set(version.refs.values()) - {HOLE}
        found = self._catalog.held_of_chunks(refs - version.known)
        known = self._catalog.held_of_chunks(refs & version.known)
        return all(each is not None and each[1] >= each[0].k for each in found) and all(
            each is not None and each[1] >= each[0].quorum for each in known
        )

    def _publish(self, version: _Version) -> None:
        life = version.frozen.life
        try:
            self._files.publish(version.frozen, version.refs)
        except Exception as e:  # noqa: BLE001 - the disk, most often: the file stays dirty and is tried again
            _log.warning(
                "inode %d could not be published now: %s", life.ino, e, exc_info=not isinstance(e, BitdustError)
            )
            self._files.thaw(version.frozen)
            life.dirty_at = trio.current_time()
            return
        if life.dirty:  # changed again before its upload was done: wait longer next time
            changed, laid = set(version.frozen.changed), version.frozen.laid
            overlaps = any(i in changed or i in laid for i in life.extents.dirty_chunks())
            if overlaps or life.inline is not None:
                life.patience_s = min(HOT_MOST_S, 2 * max(FREEZE_AFTER_S, life.patience_s))
            life.dirty_at = trio.current_time()
        else:  # it cools down: a file that stays open may be changed seldom from now on
            life.patience_s /= 2


def _refs(life: FileLife, version: _Version | None) -> dict[int, ChunkNo]:
    """The chunks that are placed, of a version or ahead of one, and not laid."""
    return life.placed_ahead if version is None else version.refs


def _is_wanted(job: _Job) -> bool:
    """Nobody wrote there since, or a version keeps what was there."""
    return job.version is not None or job.life.going_ahead.get(job.chunk.index) is job


def _is_here(job: _Job) -> bool:
    """The spool has all of its chunk that is not zeros; else suppliers are asked, and may be slow."""
    return all(p.extent is not None or p.start >= job.life.published_size for p in job.chunk.pieces)


def _or_published(spooled: Callable[[FileLife, Piece], Unchecked], life: FileLife, piece: Piece) -> Unchecked | None:
    """Bytes of a piece; None if they are a damaged copy of what suppliers have."""
    try:
        return spooled(life, piece)
    except (SpoolDamaged, DiskFault):
        if piece.extent is not None and piece.extent.hold is Hold.CLEAN:
            return None
        raise


def _checked(content: bytes) -> Unchecked:
    return Unchecked(content, 0, b"", 0, len(content))


def _still_dirty(life: FileLife, change: int) -> bool:
    if life.dead or not life.dirty:
        return False
    return life.published_change < change


async def _breathe(turn: int) -> None:
    """Give kernel requests a turn between many small steps."""
    if turn % BREATHE == BREATHE - 1:
        await trio.lowlevel.checkpoint()


def _batches(jobs: Iterable[_Job | None]) -> Iterator[list[_Job]]:
    """Pack chunks into blocks: same code, in order, full when nothing more fits. Empty where there is a None."""
    by_code: dict[Code, list[_Job]] = {}
    lengths: dict[Code, list[int]] = {}
    for job in jobs:
        if job is None:
            yield []
            continue
        batch = by_code.setdefault(job.code, [])
        if not blocks.fits(lengths.setdefault(job.code, []), job.chunk.length):
            yield batch
            batch = by_code[job.code] = []
            lengths[job.code] = []
        batch.append(job)
        lengths[job.code].append(job.chunk.length)
    yield from (batch for batch in by_code.values() if batch)
