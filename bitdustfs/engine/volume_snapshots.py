"""Snapshots of the volume: made, listed, deleted, thinned. (Those of the catalog's pages are `engine.snapshots`.)

A snapshot is one row and a new generation (`catalog_snapshots`): at once, whatever there is. It shows each file as it
was published last. So who makes one by hand has what is dirty published first, as far as that can be;
one that is made by itself takes what there is. Map rows of versions to come (`core/laid`) are left out of it, in
small steps: else it would hold, for as long as it is kept, what it never shows. A deleted one is gone at once; what
only it has is taken out of the catalog in small steps, and blocks that nobody needs then go as always
(`engine.collector`).
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import trio

from bitdustfs.core import thinning
from bitdustfs.core.holding import Held, advise
from bitdustfs.core.names import check_name
from bitdustfs.core.past import GENERATIONS_MOST
from bitdustfs.core.thinning import Keeping
from bitdustfs.core.units import format_size
from bitdustfs.engine.differences import Difference, differences
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.writer import Writer
from bitdustfs.errors import AlreadyThere, BadRequest, BitdustError, FileError, NotFound, Unavailable
from bitdustfs.model import DeadKey, Ino, Snapshot, SnapshotKind
from bitdustfs.ports import Catalog, Wall

LOOK_EVERY_S = 30.0  # for an hour that has begun, and for what deleting left
INDEXES = 1000  # (tune) of a map, looked through in one step for what is left out: about as long
PAGE = 200  # (tune) rows in one step: a few milliseconds
MEASURE_SHARE = 100  # (tune) of the time at most this part goes into counting what snapshots hold
_KEEPING = "snapshots"  # in the catalog: how many are kept, as text; none: nobody chose
AUTOMATIC = "auto-"  # how names of those begin that were made by themselves
_log = logging.getLogger(__name__)


class VolumeSnapshots:
    """The snapshots of one volume.

    Args:
        keeping: how many are made and kept without being asked for.

    Attributes:
        held: what they and forks hold, as it was counted last.
    """

    def __init__(self, catalog: Catalog, journal: Journal, writer: Writer, wall: Wall, keeping: Keeping) -> None:
        self._catalog = catalog
        self._journal = journal
        self._writer = writer
        self._wall = wall
        self._keeping = keeping
        self._wake = trio.Event()
        self._measure_at = 0.0  # when it may be counted again what they hold
        self._measured_change = -1  # the catalog's change when it was counted last
        self._is_full = False  # there was no room at suppliers at the last look
        self._left_out: list[tuple[int, Ino, int, int]] = []  # generation, file, first and last index: still to be
        self.held = Held()
        self.lack_of_room: Callable[[], str] = lambda: ""  # see `Services.lack_of_room`
        self.laid: Callable[[], Sequence[tuple[Ino, int, int]]] = lambda: ()  # see `Files.laid`
        self.is_unsent: Callable[[Ino], bool] = lambda _ino: False  # as `differences` wants it

    # -- what a person asks --------------------------------------------------------------------------------

    def all(self) -> list[Snapshot]:
        """Those that are not deleted, the oldest first."""
        return [each for each in self._catalog.snapshots() if not each.is_gone and not each.is_fork]

    def find(self, name: str) -> Snapshot:
        """The snapshot with this name. Raises NotFound."""
        for each in self.all():
            if each.name == name:
                return each
        raise NotFound(what=f"there is no snapshot {name!r}; `bitdustfs snapshot list` names all")

    async def create(self, name: str | None, wait_s: float) -> tuple[Snapshot, int]:
        """Make one; durable when this returns.

        Args:
            name: None: its time.
            wait_s: for what is dirty now to be published.
        Returns:
            It, and how many files are in it as they were published last, or not at all, and not as they were now.
        Raises:
            BadRequest, AlreadyThere: by its name. DiskFull, DiskFault, ReadOnly.
        """
        self._check_new(name)
        awaited = self._writer.dirty_changes()
        if awaited and self._writer.code() is not None:
            with trio.move_on_after(wait_s):
                await self._writer.flush()
        # no await until it is made: what is counted as missing is what it lacks
        self._check_new(name)
        left = self._writer.count_waiting(awaited)
        made = self._make(name or "", SnapshotKind.BY_PERSON)
        self._wake.set()
        await self._journal.durable()
        return made, left

    async def delete(self, names: Sequence[str], to: str | None = None) -> list[Snapshot]:
        """Let some be gone, all or none; durable when this returns.

        Args:
            to: with this one all that were made from the first of `names` until then go too.
        Raises:
            NotFound, BadRequest: by the names. DiskFull, DiskFault, ReadOnly.
        """
        found = {each.generation: each for each in map(self.find, names)}
        if to is not None:
            first, last = self.find(names[0]), self.find(to)
            if first.generation > last.generation:
                raise BadRequest(what=f"{to!r} was made before {names[0]!r}: name the older one first")
            neighbours = [each for each in self.all() if first.generation <= each.generation <= last.generation]
            found |= {each.generation: each for each in neighbours}
        with self._journal.operation():
            for each in found.values():
                self._catalog.end_snapshot(each.generation)
        await self._journal.durable()
        self._wake.set()
        return list(found.values())

    def differences(self, one: str | None, two: str | None) -> AsyncIterator[Difference]:
        """What is different from one to another; None: now. Raises NotFound, also when one is deleted meanwhile."""
        both = [self.find(name) if name is not None else None for name in (one, two)]
        return self._differences(*both)

    def for_room(self, wanted_bytes: int) -> list[str]:
        """Say what to do to have so much room at suppliers, as parts of a sentence: choose, or delete which."""
        told = []
        has_forks = any(each.kind is SnapshotKind.FORK and not each.is_gone for each in self._catalog.snapshots())
        if has_forks and self.held.fork_bytes:
            much = format_size(self.held.fork_bytes)
            told.append(f"choose with `bitdustfs resolve`, and delete the snapshot made so: .forks holds {much}")
        shown = self.all()
        advice = advise(self.held, [each.generation for each in shown], wanted_bytes)
        if advice is None:
            return told
        names = {each.generation: shlex.quote(each.name) for each in shown}
        which = names[advice.first] + (f" --to {names[advice.last]}" if advice.count > 1 else "")
        much = "1 snapshot" if advice.count == 1 else f"{advice.count} snapshots"
        told.append(
            f"delete {much} (`bitdustfs snapshot delete {which}`): that would free "
            f"{format_size(advice.freed_bytes)}, "
            "which suppliers give back a week later, as all that is deleted"
        )
        return told

    async def measure(self) -> Held:
        """Count again what they, and forks, hold."""
        change, began = self._catalog.last_change, trio.current_time()
        runs: Counter[tuple[int, int]] = Counter()
        fork_bytes = 0
        after: DeadKey | None = None
        while any(not each.is_gone for each in self._catalog.snapshots()):
            page, after = self._catalog.held_chunks(after, PAGE)
            for run, length in page:
                if run is None:
                    fork_bytes += length
                else:
                    runs[run] += length
            if after is None:
                break
            await trio.lowlevel.checkpoint()
        self.held = Held(dict(runs), fork_bytes)
        self._measured_change = change
        self._measure_at = trio.current_time() + MEASURE_SHARE * (trio.current_time() - began)
        return self.held

    # -- what goes on by itself ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Make, thin and take away, until cancelled."""
        while True:
            self._wake = trio.Event()
            if self._journal.refusal is None:
                try:
                    self._make_due()
                    await self._leave_out()
                    await self._free_gone()
                except BitdustError as error:
                    _log.info("snapshots are left as they are for now: %s", error)
            self._tell_of_room()
            if trio.current_time() >= self._measure_at and self._catalog.last_change != self._measured_change:
                await self.measure()
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wake.wait()

    # -- private -------------------------------------------------------------------------------------------

    def _tell_of_room(self) -> None:
        lack = self.lack_of_room()
        if lack and not self._is_full:
            _log.info("%s", lack)
        self._is_full = bool(lack)

    async def _differences(self, one: Snapshot | None, two: Snapshot | None) -> AsyncIterator[Difference]:
        generations = [each.generation if each is not None else 0 for each in (one, two)]
        async for found in differences(self._catalog, *generations, is_unsent=self.is_unsent):
            self._check_kept(one, two)  # of a deleted one rows are taken away: all that it had would seem to be gone
            yield found
        self._check_kept(one, two)

    def _check_kept(self, *snapshots: Snapshot | None) -> None:
        kept = {each.generation for each in self.all()}
        for each in snapshots:
            if each is not None and each.generation not in kept:
                raise NotFound(what=f"the snapshot {each.name!r} was deleted meanwhile")

    def _check_new(self, name: str | None) -> None:
        self._journal.admit()
        if name is None:
            return
        try:
            check_name(name.encode())
        except (FileError, UnicodeEncodeError) as bad:
            raise BadRequest(what=f"{name!r} is no name for a snapshot: no directory can be called that") from bad
        if name == "now":
            raise BadRequest(what="'now' is no name for a snapshot: `snapshot diff` takes it for what there is now")
        if not name.isprintable():
            raise BadRequest(what=f"{name!r} is no name for a snapshot: something in it cannot be printed")
        if any(each.name == name and not each.is_gone for each in self._catalog.snapshots()):
            raise AlreadyThere(what=f"there is a snapshot {name!r} already")

    def _make(self, name: str, kind: SnapshotKind) -> Snapshot:
        """Make one; an empty name, or its beginning, is followed by the time."""
        now_ns = self._wall.now_ns()
        if not name or kind is SnapshotKind.BY_ITSELF:
            taken = {each.name for each in self._catalog.snapshots() if not each.is_gone}
            plain = name = name + thinning.name_of(now_ns)
            further = 1
            while name in taken:
                further += 1
                name = f"{plain}-{further}"
        newest = max((each.generation for each in self._catalog.snapshots()), default=0)
        if newest >= GENERATIONS_MOST - 2:
            raise Unavailable(what="this volume had four million snapshots: it takes no more")
        made = self._catalog.make_snapshot(name, now_ns, kind)
        self._left_out += [(made.generation, *each) for each in self.laid()]
        self._journal.note()
        return made

    def _end(self, snapshot: Snapshot) -> None:
        with self._journal.operation():
            self._catalog.end_snapshot(snapshot.generation)

    def _make_due(self) -> None:
        """If it is time and something changed make one; end those not kept any more. None is made of nothing.

        Where none are to be made none is ended either: who wants no more of them may want those that there are.
        """
        if self._keeping == thinning.NONE_BY_ITSELF:
            return
        own = [each for each in self.all() if each.kind is SnapshotKind.BY_ITSELF]
        now_ns = self._wall.now_ns()
        last_ns = own[-1].made_ns if own else None
        is_due = thinning.is_due(self._keeping, last_ns, now_ns) and (own or self._catalog.file_bytes()[1] > 1)
        if is_due and self._catalog.is_changed_since_snapshot():
            made = self._make(AUTOMATIC, SnapshotKind.BY_ITSELF)
            own.append(made)
            _log.debug("made the snapshot %s", made.name)
        stay = thinning.kept(self._keeping, [each.made_ns for each in own])
        for place, each in enumerate(own):
            if place not in stay:
                self._end(each)
                _log.debug("the snapshot %s is one of too many, and goes", each.name)

    async def _leave_out(self) -> None:
        while self._left_out:
            generation, ino, first, last = entry = self._left_out[-1]
            for at in range(first, last + 1, INDEXES):
                with self._journal.operation():
                    self._catalog.leave_out(generation, ino, at, min(at + INDEXES - 1, last))
                await trio.lowlevel.checkpoint()
            self._left_out.remove(entry)  # another may have come behind it

    async def _free_gone(self) -> None:
        for each in self._catalog.snapshots():
            if each.is_gone:
                await self._free(each.generation)

    async def _free(self, generation: int) -> None:
        after: DeadKey | None = None
        while True:
            with self._journal.operation():
                after = self._catalog.free_snapshot(generation, after, PAGE)
            await trio.lowlevel.checkpoint()
            if after is None:
                return


def kept_keeping(catalog: Catalog) -> Keeping:
    """How many the volume keeps of those that are made by themselves."""
    raw = catalog.value(_KEEPING)
    if raw is None:
        return thinning.USUAL
    keeping = thinning.parse_keeping(raw.decode(errors="replace"))
    if keeping is None:
        _log.error("the catalog does not say how many snapshots are kept, but %r: none is made or deleted", raw)
        return thinning.NONE_BY_ITSELF
    return keeping


def keep_keeping(catalog: Catalog, keeping: Keeping) -> None:
    """Keep others from now on. The caller commits."""
    chosen = str(keeping).encode()
    if catalog.value(_KEEPING) != chosen:
        catalog.put_value(_KEEPING, chosen)
