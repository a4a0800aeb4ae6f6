"""A machine that dies at a chosen moment of its work, and what it leaves behind.

Moments are all that the machine makes durable and all that it sends: before and after each commit of the catalog,
each fragment, each head and each release. Nobody lists them: a first run, with nothing chosen, notes their names in
order, and a second one, with the same dice, dies at one of them. From then on nothing that it does reaches its disk
or a supplier.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import trio

from bitdustfs.core import replica
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.model import (
    BlockNo,
    BlockRow,
    DeltaRow,
    FragmentName,
    ImageChunk,
    Root,
    Snapshot,
    SnapshotKind,
    SupplierNo,
)
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.world import SECRETS

# what a machine that ships its catalog passes at least once
POINTS = {
    f"{word} {point}"
    for word in ("before", "after")
    for point in (
        "commit upload row",  # durable before anything leaves
        "commit block row",  # it is placed
        "commit delta",
        "commit delta dropped",  # merged, or in the base now
        "commit outbox trimmed",
        "commit head row",
        "commit image",
        "commit base switched",
        "commit stale chunks dropped",
        "commit block released",
        "commit upload row dropped",
        "commit release rows",
        "commit release rows dropped",
        "put file",
        "put delta",
        "put image",
        "put manifest",
        "put_head",
        "delete delta",
        "delete image",
        "delete manifest",
    )
}
_NOTED = {"head": "head row", "manifest": "base switched", "covered": "covered"}
_FRAGMENTS = "SELECT b.block_id, f.idx, f.supplier FROM {0}_fragment AS f JOIN {0}_block AS b USING (block)"


class Doom:
    """When a machine dies: at moment number `at`, or never.

    Attributes:
        passed: what happened so far, as (word, what): "before" or "after" a commit, put, put_head, delete.
        image: the catalog as it was committed last when it died; `hard` the same as it survives a power loss.
        looks: called at each moment, before anything else; `last_look` only when it dies.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.passed: list[tuple[str, str]] = []
        self.kinds: dict[bytes, str] = {}  # fragment name -> what its block is
        self.dead = False
        self.struck = trio.Event()
        self.image = self.hard = b""
        self.spool = MemorySpool()
        self.looks: Callable[[], None] = lambda: None
        self.last_look: Callable[[], None] = lambda: None
        self._catalog: DoomedCatalog | None = None
        self._spool = self.spool

    def binds(self, catalog: DoomedCatalog, spool: MemorySpool) -> None:
        """These are the disk of the machine."""
        self._catalog, self._spool = catalog, spool

    def moment(self, word: str, what: str) -> None:
        """Something is about to happen, or has happened."""
        if self.dead:
            return
        self.passed.append((word, what))
        self.looks()
        if self.at == len(self.passed) - 1:
            self.strike()

    def strike(self) -> None:
        """Die now."""
        assert self._catalog is not None
        self.last_look()
        self.dead = True
        self.image, self.hard = self._catalog.committed, self._catalog.hard
        self.spool = copy.deepcopy(self._spool)
        self.struck.set()

    def named(self) -> list[list[str]]:
        """What each moment is called: all that a commit holds, and the kind of block that a fragment is of."""
        return [[f"{word} {name}" for name in self._names(what)] for word, what in self.passed]

    def _names(self, what: str) -> list[str]:
        verb, _, rest = what.partition(" ")
        if verb == "commit":
            return [f"commit {note}" for note in rest.split(" + ")]
        kinds = {self.kinds.get(bytes.fromhex(name), "file") for name in rest.split()}
        return [f"{verb} {kind}" for kind in sorted(kinds)] if rest else [verb]


class NotingCatalog(SqliteCatalog):
    """A catalog that knows what each commit holds, and of what kind of block each fragment is."""

    def __init__(self, path: Path | str, *, create: bool = False, read_only: bool = False) -> None:
        self._notes: set[str] = set()
        self._uploads: dict[bytes, list[bytes]] = {}
        self._ids: dict[BlockNo, bytes] = {}
        super().__init__(path, create=create, read_only=read_only)

    @abstractmethod
    def moment(self, word: str, what: str) -> None:
        """A commit is made next (`before`), or was made (`after`)."""

    @abstractmethod
    def is_of(self, name: bytes, kind: str) -> None:
        """A fragment is of a block of that kind."""

    def keep_committed(self) -> None:
        """Everything is committed now."""

    def commit(self) -> None:
        """A moment, named by what is in it."""
        if not self.pending:
            super().commit()
            return
        what = "commit " + (" + ".join(sorted(self._notes)) or "tree")
        self.moment("before", what)
        super().commit()
        self._notes.clear()
        self.keep_committed()
        self.moment("after", what)

    def put_upload(self, block_id: bytes, fragments: Sequence[tuple[SupplierNo, FragmentName]]) -> None:
        super().put_upload(block_id, fragments)
        self._uploads[bytes(block_id)] = [bytes(name) for _, name in fragments]
        self._notes.add("upload row")

    def put_block(self, row: BlockRow) -> None:
        super().put_block(row)
        self._ids[row.block] = bytes(row.block_id)
        self._notes.add("block row")

    def put_releases(self, fragments: Iterable[tuple[SupplierNo, FragmentName]], change: int) -> None:
        super().put_releases(fragments, change)
        self._notes.add("release rows")

    def drop_releases(self, supplier: SupplierNo, names: Iterable[FragmentName]) -> None:
        super().drop_releases(supplier, names)
        self._notes.add("release rows dropped")

    def put_delta(self, row: DeltaRow, content: bytes) -> None:
        super().put_delta(row, content)
        self._is("delta", row.block)

    def put_image_chunks(self, rows: Iterable[ImageChunk]) -> None:
        rows = list(rows)
        super().put_image_chunks(rows)
        for block in {row.block for row in rows}:
            self._is("image", block)

    def put_local_value(self, key: str, value: bytes) -> None:
        super().put_local_value(key, value)
        if key in _NOTED:
            self._notes.add(_NOTED[key])
        if key == "manifest":
            for block, _ in replica.decode_note(value).blocks:
                self._is("manifest", block)

    def put_value(self, key: str, value: bytes) -> None:
        super().put_value(key, value)
        if key == "forks":
            self._notes.add("forks")

    def make_snapshot(self, name: str, made_ns: int, kind: SnapshotKind) -> Snapshot:
        if kind is SnapshotKind.COMING:
            self._notes.add("fork coming")
        return super().make_snapshot(name, made_ns, kind)

    def drop_outbox(self, until: int) -> None:
        super().drop_outbox(until)
        self._notes.add("outbox trimmed")

    def drop_delta(self, first: int) -> None:
        super().drop_delta(first)
        self._notes.add("delta dropped")

    def drop_block(self, block: BlockNo) -> None:
        super().drop_block(block)
        self._notes.add("block released")

    def drop_upload(self, block_id: bytes) -> None:
        super().drop_upload(block_id)
        self._notes.add("upload row dropped")

    def drop_image_chunks(self, prints: Iterable[bytes] | None = None) -> None:
        super().drop_image_chunks(prints)
        self._notes.add("stale chunks dropped")

    def _is(self, kind: str, block: BlockNo) -> None:
        self._notes.add(kind)
        for name in self._uploads.get(self._ids.get(block, b""), ()):
            self.is_of(name, kind)


class DoomedCatalog(NotingCatalog):
    """The catalog of a doomed machine, in memory.

    Args:
        image: what it holds to begin with; empty: a new volume.
    """

    def __init__(self, doom: Doom, image: bytes = b"") -> None:
        self._image = image
        self._doom = doom
        super().__init__(":memory:", create=True)
        self.committed = self.hard = image or self.connection.serialize("main")

    def _open_file(self, *, create: bool) -> None:
        super()._open_file(create=create)
        if self._image:
            self.connection.deserialize("main", self._image)

    def moment(self, word: str, what: str) -> None:
        self._doom.moment(word, what)

    def is_of(self, name: bytes, kind: str) -> None:
        self._doom.kinds[name] = kind

    def keep_committed(self) -> None:
        if not self._doom.dead:
            self.committed = self.connection.serialize("main")

    async def harden(self) -> None:
        """What is committed now survives a power loss. The dead never hear that it does."""
        now = self.committed
        await super().harden()
        if self._doom.dead:
            await trio.sleep_forever()
        self.hard = now

    def fragment_names(self) -> set[bytes]:
        """Of all fragments that it knows to be at a supplier, or wants there."""
        nodes = {row.supplier: row.node for row in self.suppliers()}
        rows = self.connection.execute(" UNION ALL ".join(_FRAGMENTS.format(which) for which in "lr"))
        return {bytes(SECRETS.fragment_name(block_id, index, nodes[number])) for block_id, index, number in rows}


class DoomedSuppliers:
    """The suppliers, as a doomed machine reaches them: a coat around `Suppliers`."""

    def __init__(self, real: Suppliers, doom: Doom) -> None:
        self._real = real
        self._doom = doom

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def head_version(self) -> int:
        return self._real.head_version

    @head_version.setter
    def head_version(self, version: int) -> None:
        self._real.head_version = version

    async def put(self, supplier: SupplierNo, name: FragmentName, root: Root, body: bytes | memoryview) -> None:
        await self._before(f"put {name.hex()}")
        await self._real.put(supplier, name, root, body)
        await self._after(f"put {name.hex()}")

    async def put_head(self, supplier: SupplierNo, head: bytes, links: bytes) -> None:
        await self._before("put_head")
        await self._real.put_head(supplier, head, links)
        await self._after("put_head")

    async def delete(self, supplier: SupplierNo, names: Sequence[FragmentName]) -> None:
        await self._before(f"delete {' '.join(name.hex() for name in names)}")
        await self._real.delete(supplier, names)
        await self._after(f"delete {' '.join(name.hex() for name in names)}")

    async def _before(self, what: str) -> None:
        self._doom.moment("before", what)
        if self._doom.dead:
            await trio.sleep_forever()

    async def _after(self, what: str) -> None:
        if not self._doom.dead:
            self._doom.moment("after", what)
        if self._doom.dead:
            await trio.sleep_forever()
