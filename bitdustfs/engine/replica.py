"""The replica: the catalog at suppliers, so that this machine may burn.

    commit -> outbox -> deltas (sealed blocks) -> head -> quorum -> safe
                  \\-> once in a while a snapshot, which takes the place of the deltas before it

Work begins a few seconds after a change, or at once when somebody waits; while changes go on there is a head at most
every half minute. Nothing here holds the mount up: changes are merged, compressed and sealed in workers.

**Cuts.** Changes have numbers. A delta holds a run of them, the base (manifest) everything up to one, and a head says
up to which it brings everything back: base and deltas are without gap up to there. When the outbox has grown too
long because nobody took it, it is dropped, and a new snapshot closes the gap.

**Safe** is what a head names that a quorum has, and enough suppliers for every loss that a file survives; with its
manifest and deltas as well held. `safe_change` only grows.

**Never thinner.** A head takes the place of the one before wherever it is taken, and what is safe by that one must
not become less so. So a head waits until the blocks that it names and that are cut into pieces are well held; and
while there are too few copies of one that is copied, the head goes only to suppliers that have their copy. Then,
whichever suppliers a file survives the loss of, one is left with a head that it can be recovered by. What is in
pieces that those who answer cannot complete, or have not for long, is sent again as copies, or the head would wait
for ever: a delta by itself, and of a snapshot a new one takes the place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf

import trio

from bitdustfs.core import replica
from bitdustfs.core.block import Placed
from bitdustfs.core.replica import DeltaRef, HeadContent, SupplierEntry
from bitdustfs.core.seal import Kind
from bitdustfs.engine import snapshots
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.needed import Needed
from bitdustfs.engine.objects import Objects
from bitdustfs.engine.publisher import Foreign, Publisher
from bitdustfs.engine.snapshots import Snapshots
from bitdustfs.errors import BitdustError, ReadOnly, Unavailable
from bitdustfs.model import BlockNo, DeltaRow, Ino
from bitdustfs.ports import Catalog, Changes, Crunch, Wall

SHIP_AFTER_S = 3.0  # (tune) after the first change: what is done in one go goes in one delta
HEAD_EVERY_S = 30.0  # (tune) at most, while changes go on and nobody waits
LOOK_S = 0.5
AGAIN_S = 5.0  # after a failure
LATE_S = 5.0  # (tune) for the last fragments of what was placed, before a head waits for more than these
THIN_S = 120.0  # (tune) that a head waits for what is in pieces, before they are sent as copies
OUTBOX_MOST_BYTES = 16 * 1024 * 1024  # (tune) of changes that nobody takes, or a quarter of the base
_LATE_LOOK_S = 0.1
_COVERED = "covered"  # in the catalog: the last change that base and deltas hold
_GAP = "gap"  # in the catalog: the last change that was dropped without being sent
_SAFE = "safe"  # in the catalog: the last change that was known to be safe
_log = logging.getLogger(__name__)


class Replica:
    """Ship what changed, publish heads, and know what is safe."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        publisher: Publisher,
        snapshots: Snapshots,
        objects: Objects,
        changes: Changes,
        crunch: Crunch,
        wall: Wall,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._publisher = publisher
        self._snapshots = snapshots
        self._objects = objects
        self._changes = changes
        self._crunch = crunch
        self._wall = wall
        self._needed = Needed(catalog, journal, publisher, snapshots, objects)
        self._hurry = 0
        self._looks, self._watches = Looks(journal.bell, LOOK_S), Looks(journal.bell, LOOK_S)
        self._advanced = trio.Event()
        self._headed_at = -HEAD_EVERY_S  # trio time of the last head
        self._pending_since: float | None = None
        self._thin_since: float | None = None  # trio time; since when a head waits
        self._copied_at = -inf  # trio time; when a snapshot was taken for that
        self._merged_until = 0  # the last change of deltas that together are no delta
        self._start_change = catalog.last_change  # what of it was shipped, only a head can tell
        self.safe_change = 0
        self.stopped: ReadOnly | None = None  # why nothing is changed here, if suppliers hold another line
        self.trouble = ""  # why nothing is shipped now; "" if nothing is wrong
        publisher.on_foreign = self.stop
        publisher.on_change = self._watches.now

    # -- what others ask -------------------------------------------------------------------------------------

    def is_safe(self, ino: Ino) -> bool:
        """Whether the newest version and attributes of a placed inode are in a safe head."""
        return self.safe_change >= (self._catalog.changed(ino) or self._start_change)

    @property
    def is_current(self) -> bool:
        """Whether everything committed is in a safe head."""
        if self._catalog.pending and self._journal.refusal is None:
            with suppress(BitdustError):
                self._journal.commit()  # most of what is pending is of this machine alone, and is no change
        return self.safe_change >= self._catalog.last_change and not self._catalog.pending

    @property
    def is_counted(self) -> bool:
        """Whether everything committed is in a head that counts: the state that whoever writes next goes on from."""
        return self._is_in_counted(self._catalog.last_change) and not self._catalog.pending

    @property
    def is_all_safe(self) -> bool:
        """Whether a safe head has every file, name and place of a fragment; what is only let go may wait for one."""
        return self.is_current or self._catalog.changed_since(self.safe_change, 0) == []

    def is_head_safe(self) -> bool:
        """Enough suppliers have the newest head, and what it names is as well held as any file."""
        return self._needed.is_head_safe()

    @property
    def base_change(self) -> int:
        """The last change that the newest snapshot holds; 0: there is none."""
        return self._snapshots.newest.change if self._snapshots.newest is not None else 0

    @property
    def has_leftovers(self) -> bool:
        """Whether blocks of the replica may still be at suppliers that no head needs."""
        return self._needed.has_leftovers

    async def make_safe(self, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Return when everything that is committed now is safe. The caller sets the deadline.

        Args:
            unless: says when it is not to be waited for any longer.
        Raises:
            ReadOnly: it never will be: the suppliers hold a head that is not ours. DiskFull, DiskFault: not now.
        """
        await self._until(lambda change: self.safe_change >= change or unless())

    async def make_counted(self) -> None:
        """Return when everything that is committed now is in a head that counts. Waits and raises as `make_safe`."""
        await self._until(self._is_in_counted)

    def _is_in_counted(self, change: int) -> bool:
        content = self._publisher.content
        is_named = content is not None and content.change >= change and self._publisher.foreign is None
        return is_named and self._publisher.holders().is_quorate and self._needed.is_head_readable()

    async def _until(self, is_reached: Callable[[int], bool]) -> None:
        """Return when the last change of now is there."""
        self._journal.commit()
        target = self._catalog.last_change
        self._hurry += 1
        self._looks.now()
        try:
            while not is_reached(target):
                if self._journal.refusal is not None:
                    raise self._journal.refusal.with_traceback(None)
                with trio.move_on_after(LOOK_S):
                    await self._advanced.wait()
        finally:
            self._hurry -= 1

    def stop(self, found: Foreign) -> None:
        """Change nothing any more: somebody else does."""
        self.stopped = _foreign_error(found)
        self._journal.forbid(self.stopped)

    # -- services --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ship until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                await self._until_due()
                try:
                    await self._round(nursery)
                    self.trouble = ""
                except BitdustError as error:
                    self.trouble = str(error)
                    _log.info("the catalog could not be brought to the suppliers now: %s", error)
                    await trio.sleep(AGAIN_S)

    # -- shipping ----------------------------------------------------------------------------------------------

    async def _until_due(self) -> None:
        """Wait until there is something to ship, and it is time, and the suppliers are known to be behind us."""
        while True:
            now, within_s = trio.current_time(), inf
            if self._catalog.last_change > self._headed_change() or self._catalog.pending or self._needs_head():
                self._pending_since = now if self._pending_since is None else self._pending_since
            else:
                self._pending_since = None
            self._bound_outbox()
            if self._pending_since is not None and self._may_ship() and self._journal.refusal is None:
                waited = now - self._pending_since >= SHIP_AFTER_S and now - self._headed_at >= HEAD_EVERY_S
                if self._hurry or waited:
                    return
                within_s = max(self._pending_since + SHIP_AFTER_S, self._headed_at + HEAD_EVERY_S) - now
            await self._looks.next(within_s=within_s)

    def _may_ship(self) -> bool:
        return self._publisher.confirmed and self._publisher.may_publish()

    async def _round(self, nursery: trio.Nursery) -> None:
        """Bring what is committed now to suppliers, and a head that names it."""
        self._publisher.note_ancestors()
        self._journal.commit()
        until = self._catalog.last_change
        while self._lacks_base() and self._snapshots.cut is not None:
            await trio.sleep(LOOK_S)  # one at a time: two cuts could not both be kept
        if self._lacks_base():
            await self._snapshots.take()
        elif self._snapshots.cut is None and self._wants_snapshot():
            nursery.start_soon(self._take_snapshot)
            await trio.lowlevel.checkpoint()  # it has made its cut now: no delta below goes across it
        await self._ship(until)
        await self._merge()
        if self.covered > self._headed_change() or self._needs_head():
            await self._publish()

    @property
    def covered(self) -> int:
        """The last change that base and deltas hold."""
        raw = self._catalog.local_value(_COVERED)
        noted = int.from_bytes(raw, "big") if raw else 0
        newest = self._snapshots.newest
        return max(noted, newest.change if newest is not None else 0)

    async def _ship(self, until: int) -> None:
        """Bring changes up to `until` to suppliers, in deltas."""
        while (covered := self.covered) < until:
            cut = self._snapshots.cut
            end = min(until, cut) if cut is not None and covered < cut else until
            rows = [row for row in self._catalog.outbox(covered, replica.DELTA_BYTES) if row[0] <= end]
            if not rows:
                self._note_covered(end)  # the numbers up to there changed nothing that is replicated
                continue
            first, last = rows[0][0], rows[-1][0]
            parts = await self._crunch.run(self._squeezed, [changes for _, changes in rows])
            if not parts:
                self._note_covered(last)
            for number, part in enumerate(parts):
                await self._place_delta(first, last, number, part, is_last=number == len(parts) - 1)

    def _squeezed(self, changes: Sequence[bytes]) -> list[bytes]:
        """One run of changes, merged, cut and compressed. In a worker."""
        merged = self._changes.merge(changes)
        return [replica.compress(part) for part in self._changes.split(merged, replica.DELTA_BYTES)]

    async def _place_delta(
        self,
        first: int,
        last: int,
        part: int,
        content: bytes,
        *,
        is_last: bool,
        instead: Iterable[DeltaRow] = (),
        copied: bool = False,
    ) -> None:
        def record(block: BlockNo, _places: tuple[Placed, ...]) -> None:
            if last <= self.base_change:
                return  # a snapshot that holds it was done meanwhile: named after it, it would set rows back
            for row in instead:
                self._catalog.drop_delta(row.first)
            self._catalog.put_delta(DeltaRow(first, part, last, block, len(content)), content)
            if is_last:
                self._note_covered(max(last, self.covered))

        await self._objects.place(Kind.DELTA, replica.cut(content), record, copied=copied)

    def _note_covered(self, change: int) -> None:
        with self._journal.operation():
            keep_covered(self._catalog, change)
            self._catalog.drop_outbox(change)

    async def _merge(self) -> None:
        """Make few deltas of many."""
        cut = self._snapshots.cut
        rows = [row for row in self._catalog.deltas() if row.first > max(cut or 0, self._merged_until)]
        start = replica.merge_from([row.content_bytes for row in rows])
        while start is not None and start < len(rows) and rows[start].part:
            start += 1  # parts of one change stay together
        if start is None or len(rows) - start < 2:
            return
        old = rows[start:]
        contents = [self._catalog.delta_content(row) for row in old]

        def merged() -> list[bytes]:
            return self._squeezed([replica.expand_delta(content) for content in contents])

        parts = await self._crunch.run(merged)
        if len(parts) != 1:
            self._merged_until = old[-1].last  # too much for one delta: to try it in each round would cost a core
            return
        await self._place_delta(old[0].first, old[-1].last, 0, parts[0], is_last=True, instead=old)

    # -- snapshots ---------------------------------------------------------------------------------------------

    def _lacks_base(self) -> bool:
        raw = self._catalog.local_value(_GAP)
        newest = self._snapshots.newest
        is_short = newest is None or newest.change < (int.from_bytes(raw, "big") if raw else 0)
        return is_short or self._needed.is_any_lost()

    def _wants_snapshot(self) -> bool:
        newest = self._snapshots.newest
        assert newest is not None
        sizes = [row.content_bytes for row in self._catalog.deltas()]
        return replica.wants_snapshot(newest.image_bytes, sum(sizes), len(sizes))

    async def _take_snapshot(self) -> None:
        try:
            await self._snapshots.take()
        except BitdustError as error:
            _log.info("a snapshot could not be brought to the suppliers now: %s", error)
        except Exception:  # noqa: BLE001 - deltas go on without it
            _log.exception("a snapshot failed")
        self._looks.now()
        self._journal.bell.ring()  # there is no cut any more

    def _bound_outbox(self) -> None:
        """Drop changes that nobody takes once a snapshot would be shorter."""
        newest = self._snapshots.newest
        most = max(OUTBOX_MOST_BYTES, newest.image_bytes // replica.SNAPSHOT_SHARE if newest is not None else 0)
        is_shipping = self._publisher.confirmed and not self.trouble
        if is_shipping or self._snapshots.cut is not None or self._journal.refusal is not None:
            return
        if self._catalog.outbox_bytes() <= most:
            return
        change = self._catalog.last_change
        _log.info("changes up to %d wait for suppliers in vain: a snapshot will take their place", change)
        with self._journal.operation():
            self._catalog.put_local_value(_GAP, change.to_bytes(8, "big"))
            self._catalog.drop_outbox(change)

    # -- heads -------------------------------------------------------------------------------------------------

    def _headed_change(self) -> int:
        content = self._publisher.content
        return content.change if content is not None else 0

    def _needs_head(self) -> bool:
        """A new head is due although nothing changed."""
        return (
            self._needed.is_base_new()
            or self._needed.is_any_lost()
            or self._publisher.is_outdated
            or self._publisher.has_lines_left
        )

    async def _publish(self) -> None:
        newest = self._snapshots.newest
        if newest is None or self._lacks_base() or not self._may_ship():
            return
        with trio.move_on_after(LATE_S):
            while self._needed.thin():
                await trio.sleep(_LATE_LOOK_S)
        await self._send_again()
        if thin := self._needed.thin():  # no await from here until the content is made
            raise Unavailable(
                what=f"{len(thin)} parts of the catalog are not at enough suppliers yet; "
                "until they are, the state before stays the newest there"
            )
        self._thin_since = None
        if not self._may_ship():
            raise Unavailable(what="too few suppliers say now that this machine writes the volume")
        content = HeadContent(
            version=replica.VERSION,
            time_s=self._wall.now_ns() // 1_000_000_000,
            change=self.covered,
            manifest=tuple(self._objects.reference(number, size) for number, size in newest.blocks),
            deltas=tuple(
                DeltaRef(row.first, row.last, self._objects.reference(row.block, row.content_bytes))
                for row in self._catalog.deltas()
            ),
            suppliers=tuple(
                SupplierEntry(row.supplier, row.node, row.owner, row.label, row.address)
                for row in self._catalog.suppliers()
                if row.is_listed
            ),
        )
        await self._publisher.publish(content)
        self._headed_at = trio.current_time()

    async def _send_again(self) -> None:
        """Copy what was cut into pieces to those who answer, where these do not complete it.

        Who was to have the others may never be back, or may never take them, and no head would be made any more.
        """
        thin, now = self._needed.thin(), trio.current_time()
        if not thin:
            return
        self._thin_since = now if self._thin_since is None else self._thin_since
        stuck = set(thin if now - self._thin_since > THIN_S else self._objects.stuck(thin))
        deltas = [row for row in self._catalog.deltas() if row.block in stuck]
        if len(deltas) < len(stuck) and self._snapshots.cut is None and now - self._copied_at > THIN_S:
            self._copied_at = now  # it costs much, and may fail again
            await self._snapshots.take(copied=True)  # it holds what these deltas do
            return
        for row in deltas:
            content = self._catalog.delta_content(row)
            await self._place_delta(row.first, row.last, row.part, content, is_last=False, copied=True)

    # -- what the head has reached -------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Note what becomes safe, and release what no head needs any more."""
        while True:
            self._note_safe()
            if self._publisher.is_disowned:
                self._journal.forbid(_disowned())
            if self._publisher.confirmed and self.has_leftovers and self._needed.is_head_safe():
                await self._needed.sweep()
            await self._watches.next()

    def _note_safe(self) -> None:
        content = self._publisher.content
        if content is not None and content.change > self.safe_change and self.is_head_safe():
            self.safe_change = content.change
            self._catalog.forget_changed(content.change)
            if self._journal.refusal is None:
                with self._journal.operation():  # a copy of this catalog that is mounted later goes by it
                    keep_safe(self._catalog, content.change)
            self._advanced.set()
            self._advanced = trio.Event()


def _disowned() -> ReadOnly:
    return ReadOnly(
        what="the owner has certified his machines anew, and this one is not among them: the volume goes on where "
        "`bitdustfs recover` or `revoke` was run, and nothing is changed here any more. Copy what is only here to "
        "another place; to write on this machine, run `bitdustfs recover` into a new --home"
    )


def keep_safe(catalog: Catalog, change: int) -> None:
    """Note that no change up to this one is only here."""
    catalog.put_local_value(_SAFE, change.to_bytes(8, "big"))


def kept_safe(catalog: Catalog) -> int | None:
    """The last change that was ever known to be safe; None: none was."""
    raw = catalog.local_value(_SAFE)
    return int.from_bytes(raw, "big") if raw else None


def changes_since(catalog: Catalog, change: int) -> list[bytes] | None:
    """All change sets above a number, oldest first; None: not all of them are kept.

    A delta that begins before that number comes whole.
    """
    gap, note = catalog.local_value(_GAP), snapshots.kept_note(catalog)
    if max(int.from_bytes(gap or b"", "big"), note.change if note is not None else 0) > change:
        return None
    found = [replica.expand_delta(catalog.delta_content(row)) for row in catalog.deltas() if row.last > change]
    while rows := catalog.outbox(change, replica.DELTA_BYTES):
        found += [changes for _, changes in rows]
        change = rows[-1][0]
    return found


def keep_covered(catalog: Catalog, change: int) -> None:
    """Note the last change that base and deltas hold."""
    catalog.put_local_value(_COVERED, change.to_bytes(8, "big"))


def _foreign_error(found: Foreign) -> ReadOnly:
    which = "a newer state" if found.is_newer else "another state, which counts,"
    return ReadOnly(
        what=f"the suppliers hold {which} of this volume (version {found.head.version}), written by {found.by}: "
        "nothing is changed here now. Unmount it and mount it again: the next mount takes that state, and "
        "puts what only this machine has into a folder 'Put aside …' in it"
    )
