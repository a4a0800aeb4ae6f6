"""Forks: heads on another line than ours are brought in, shown and, when a person has chosen, gone over.

    a supplier shows a head that is not on our line (engine/publisher) -> its catalog, fetched beside ours
    -> its tree, a generation of our catalog (engine/grafting) -> shown in .forks, read-only
    `bitdustfs resolve` -> that generation is a snapshot like any other -> the next head goes over both lines
    -> who held the other one takes ours again

What a fork had is in our catalog then, and as safe as everything else in it; from the moment in which another head is
seen until that is done, nothing is let go anywhere (`has_everything`). A head that goes back to our newest is no fork
yet: another machine goes on from here, or could not go far. Killed on the way, it begins again: a half of a tree is
shown by nobody, and goes as a deleted snapshot does.

A line that goes on is brought in again, and takes the place of what there was of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

import msgspec
import trio
from msgspec import Struct

from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.core.recovery import Found
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.engine.bell import Looks
from bitdustfs.engine.differences import Difference, differences
from bitdustfs.engine.grafting import Grafting
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.leaves import LeafReader
from bitdustfs.engine.publisher import Foreign, Line, Publisher
from bitdustfs.engine.recovery import Recovery
from bitdustfs.engine.releases import Releases
from bitdustfs.engine.view import Following
from bitdustfs.errors import BitdustError, NotFound, Unavailable
from bitdustfs.model import BlockNo, FragmentState, NodeId, Snapshot, SnapshotKind, SupplierNo, short
from bitdustfs.ports import Catalog, Crunch, Entropy

AGAIN_S: Final = 60.0  # (tune) after one could not be brought in
LOOK_S: Final = 30.0
ASK_S: Final = 15.0  # for one supplier to show its head, or a leaf
LINKS_KEPT: Final = 64  # (tune) of each line: a supplier that is further behind is another fork
RESOLVED_KEPT: Final = 16  # (tune) lines that were gone over, whose suppliers may have been away
_KEY: Final = "forks"  # in the catalog: msgpack of a list of `Fork`
_log = logging.getLogger(__name__)


class Fork(Struct, array_like=True, frozen=True):
    """A line that ended beside ours."""

    generation: int  # that shows its tree; 0: it is a snapshot like others, or gone
    version: int  # of its newest head
    digest: bytes  # of that
    node: bytes  # that signed it
    time_s: int  # that it says
    links: bytes  # its newest, oldest first, its own among them
    is_resolved: bool = False


_decoder = msgspec.msgpack.Decoder(list[Fork])


class Forks:
    """The forks of one volume.

    Args:
        following: whom to ask, and where a catalog is made beside ours; None: nowhere, and forks are not brought in.

    Attributes:
        trouble: why one cannot be brought in; "" if nothing is wrong.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        journal: Journal,
        publisher: Publisher,
        leaves: LeafReader,
        releases: Releases,
        following: Following | None,
        crunch: Crunch,
        entropy: Entropy,
        secrets: VolumeSecrets,
        own_node: NodeId,
    ) -> None:
        self._catalog = catalog
        self._journal = journal
        self._publisher = publisher
        self._leaves = leaves
        self._releases = releases
        self._following = following
        self._crunch = crunch
        self._entropy = entropy
        self._secrets = secrets
        self.own_node = own_node
        self._looks = Looks(journal.bell, LOOK_S)
        self._failed_at: dict[bytes, float] = {}  # by digest
        self.trouble = ""
        self.stopped: Callable[[], BitdustError | None] = lambda: (
            None
        )  # why a writer that a fork stopped does nothing
        publisher.lines = lambda: gone_over(catalog)
        self.on_step: Callable[[str], None] = lambda _step: None  # is told where it is

    @property
    def has_everything(self) -> bool:
        """All heads beside ours that suppliers show are kept here too."""
        known = {each.digest for each in kept_forks(self._catalog)}
        return all(each.head.digest in known for each in self._publisher.others.values())

    def all(self) -> list[tuple[Snapshot, Fork]]:
        """Those that nobody has chosen about, and what shows them."""
        shown = {each.generation: each for each in self._catalog.snapshots() if each.kind is SnapshotKind.FORK}
        return [
            (shown[fork.generation], fork)
            for fork in kept_forks(self._catalog)
            if fork.generation in shown and not shown[fork.generation].is_gone
        ]

    def find(self, name: str) -> tuple[Snapshot, Fork]:
        """The one of this name. Raises NotFound."""
        for snapshot, fork in self.all():
            if snapshot.name == name:
                return snapshot, fork
        raise NotFound(what=f"there is no fork {name!r}; `bitdustfs resolve` shows all")

    def lines(self) -> list[str]:
        """What to say of them to a person."""
        told = [
            f"another state of this volume, version {fork.version} by node {short(NodeId(fork.node))}, lies beside "
            f"this one, in .forks/{snapshot.name}: compare and choose with `bitdustfs resolve`"
            for snapshot, fork in self.all()
        ]
        if not self.has_everything:
            why = self.trouble or "a supplier holds a state of this volume that is not known here, and it is fetched"
            told.append(f"{why}; nothing is let go at suppliers meanwhile")
        return told

    async def differences(self, snapshot: Snapshot) -> AsyncIterator[Difference]:
        """What is different there from what is here. Raises NotFound: somebody has chosen meanwhile."""
        async for found in differences(self._catalog, 0, snapshot.generation):
            if all(each.generation != snapshot.generation for each, _fork in self.all()):
                raise NotFound(what=f"the fork {snapshot.name!r} is not there any more")
            yield found

    async def resolve(self, name: str) -> Snapshot:
        """Go on with what is here: the fork becomes a snapshot, and the next head goes over both lines.

        Durable when this returns; suppliers have it later.

        Raises:
            NotFound, DiskFull, DiskFault. ReadOnly: another machine writes, and has to choose.
        """
        snapshot, fork = self.find(name)
        refusal = self._journal.refusal
        if refusal is not None and refusal is not self.stopped():
            raise refusal.with_traceback(None)
        with self._journal.operation(admitted=True):
            others = [each for each in kept_forks(self._catalog) if each.digest != fork.digest]
            keep_forks(self._catalog, [*others, msgspec.structs.replace(fork, generation=0, is_resolved=True)])
            self._catalog.change_snapshot(snapshot.generation, snapshot.name, SnapshotKind.BY_PERSON)
        await self._journal.durable()
        if refusal is not None:
            self._journal.permit(refusal)  # where another line still holds a quorum it is forbidden again
        self._publisher.look_again()
        self._journal.bell.ring()
        return snapshot

    async def run(self) -> None:
        """Bring in what suppliers show, until cancelled."""
        self._forget_halves()
        while True:
            for supplier, found in list(self._publisher.others.items()):
                if self._is_due(found.head):
                    try:
                        await self._bring_in(supplier, found)
                        self.trouble = ""
                    except (BitdustError, trio.TooSlowError) as error:
                        self._failed_at[found.head.digest] = trio.current_time()
                        self.trouble = f"version {found.head.version} of another line cannot be shown yet: {error}"
                        _log.warning("%s", self.trouble)
                    finally:
                        self._forget_halves()
            await self._looks.next(within_s=AGAIN_S if self._failed_at else LOOK_S)

    # -- private ---------------------------------------------------------------------------------------------

    def _is_due(self, head: Head) -> bool:
        failed_at = self._failed_at.get(head.digest)
        if self._following is None or head.digest in {each.digest for each in kept_forks(self._catalog)}:
            return False
        return self._journal.keeps and (failed_at is None or trio.current_time() - failed_at >= AGAIN_S)

    def _forget_halves(self) -> None:
        """Let what came half be gone."""
        halves = [each for each in self._catalog.snapshots() if each.kind is SnapshotKind.COMING and not each.is_gone]
        if halves and self._journal.keeps:
            with self._journal.operation(admitted=True):
                for each in halves:
                    self._catalog.end_snapshot(each.generation)

    async def _bring_in(self, supplier: SupplierNo, found: Foreign) -> None:
        assert self._following is not None
        suppliers, workshop = self._following.suppliers, self._following.workshop
        with trio.fail_after(ASK_S):
            raw, behind = await suppliers.head_with_links(supplier)
        if raw != found.head.raw:
            raise Unavailable(what="the supplier shows another head meanwhile")
        links = heads.genuine_links(found.head, behind) + found.head.link
        if self._is_ahead(found.head, links):
            self._failed_at[found.head.digest] = (
                trio.current_time()
            )  # it is looked at again: ours may go on beside it
            return
        recovery = Recovery(
            Found(found.head, found.content, {}),
            suppliers,
            self._secrets,
            self._crunch,
            self._entropy,
            workshop.scratch(),
        )
        self.on_step("fetching")
        beside = await self._crunch.run(workshop.beside)
        try:
            await recovery.fetch(beside.restore, _say_nothing, is_connected=True)
            with closing(await self._crunch.run(beside.catalog, found.content.change)) as theirs:
                self.on_step("grafting")
                generation = self._begin(found)
                grafting = Grafting(self._catalog, theirs, self._journal, self._releases, generation)
                await grafting.run()
        finally:
            await self._crunch.run(beside.close)
        self.on_step("keeping")
        self._keep(found, generation, links)
        await self._journal.durable()
        _log.warning(
            "version %d of node %s lies beside ours: it is shown in .forks",
            found.head.version,
            short(found.head.signer.node),
        )
        await self._prove(grafting.adopted)

    def _is_ahead(self, head: Head, links: bytes) -> bool:
        """Whether a head goes back to our newest: somebody else goes on from here, and there is one line."""
        own = self._publisher.head
        passed = {head.previous, head.also, *(heads.digest_of(link) for link in heads.split_links(links))}
        return own is not None and own.digest in passed

    def _begin(self, found: Foreign) -> int:
        """A generation for it that shows what is here now."""
        made = self._catalog.make_snapshot(
            f"coming {found.head.digest.hex()[:16]}", found.content.time_s * 1_000_000_000, SnapshotKind.COMING
        )
        self._journal.note()
        return made.generation

    def _keep(self, found: Foreign, generation: int, links: bytes) -> None:
        """Show it, in the place of what was shown of its line."""
        head = found.head
        before = kept_forks(self._catalog)
        line = {heads.digest_of(link) for link in heads.split_links(links)}
        with self._journal.operation(admitted=True):
            for each in before:
                if each.digest in line and each.generation:
                    self._catalog.end_snapshot(each.generation)
            made = Fork(
                generation,
                head.version,
                head.digest,
                bytes(head.signer.node),
                found.content.time_s,
                links[-LINKS_KEPT * heads.LINK_BYTES :],
            )
            keep_forks(self._catalog, [*(each for each in before if each.digest not in line), made])
            self._catalog.change_snapshot(generation, self._name(found), SnapshotKind.FORK)

    def _name(self, found: Foreign) -> str:
        """A name for it that none has."""
        date = datetime.fromtimestamp(found.content.time_s, UTC).astimezone()
        plain = name = date.strftime(f"%Y-%m-%d %H.%M of {short(found.head.signer.node)}")
        taken = {each.name for each in self._catalog.snapshots() if not each.is_gone}
        number = 1
        while name in taken:
            number += 1
            name = f"{plain} ({number})"
        return name

    async def _prove(self, blocks: Iterable[BlockNo]) -> None:
        """Ask who should have the fragments of what came: before it came, it may have been let go on our line."""
        assert self._following is not None
        suppliers = self._following.suppliers
        for number in blocks:
            row = self._catalog.block(number)
            for each in self._catalog.fragments(number) if row is not None else ():
                if row is not None and each.state is FragmentState.HELD and each.supplier in suppliers.online():
                    with trio.move_on_after(ASK_S):
                        await self._leaves.proves(each.supplier, row, each.index)


def kept_forks(catalog: Catalog) -> list[Fork]:
    """The lines that are known, also those that were gone over."""
    raw = catalog.value(_KEY)
    try:
        return _decoder.decode(raw) if raw else []
    except (msgspec.MsgspecError, RecursionError) as bad:
        _log.error("what the catalog notes of forks is damaged, and is noted again when they are met: %s", bad)
        return []


def gone_over(catalog: Catalog) -> list[Line]:
    """The lines that our next head goes over, or that one of ours went over."""
    return [Line(each.digest, each.version, each.links) for each in kept_forks(catalog) if each.is_resolved]


def keep_forks(catalog: Catalog, forks: Iterable[Fork]) -> None:
    """Note them. The caller commits."""
    every = list(forks)
    resolved = [each for each in every if each.is_resolved][-RESOLVED_KEPT:]
    left = [each for each in every if not each.is_resolved or each in resolved]
    catalog.put_value(_KEY, msgspec.msgpack.encode(left))


async def _say_nothing(_done: int, _total: int) -> None:
    return
