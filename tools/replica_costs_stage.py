"""One customer for `replica_costs.py`: fills a volume, ships its catalog, and prints what that cost as JSON.

Run as `replica_costs_stage.py HOME FILES`, in a process of its own, so that its peak memory is its own; or, for
`tools/bench large`, as `replica_costs_stage.py HOME FILES CROWD`: then so many of the files are in one directory, the
first one, and nothing is shipped.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import trio

from bitdustfs.core import block as blocks
from bitdustfs.core import erasure, fragment
from bitdustfs.core.keyfile import NodeKeys
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home, hold
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.spool_disk import DiskSpool
from bitdustfs.edges.system import SystemEntropy, SystemWall, ThreadCrunch, best_suite, boot_id, tune_process
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.node import Node
from bitdustfs.engine.services import NodeOptions
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.engine.tree import Caller
from bitdustfs.engine.uploads import Shipment
from bitdustfs.model import ROOT_INO, BlockId, ChunkRow, Code, Cookie, Ino, Inode, MapRow

CODE = Code(3, 5)
FILES_EACH = 1000  # in a directory, and in a block
SMALL_CHANGES = 5
CALLER = Caller(uid=os.geteuid(), gid=os.getegid())
Cost = tuple[float, float, float]  # bytes that were sent, seconds, the longest step of the loop in seconds
_FILE = 0o100644


class LongestStep(trio.abc.Instrument):
    """The longest time that one step of a task kept the loop's thread busy: its CPU time, whatever else runs."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began_s = 0.0

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._began_s = time.thread_time()

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.longest_s = max(self.longest_s, time.thread_time() - self._began_s)


class Customer:
    """A node, and what it has sent."""

    def __init__(self, node: Node, catalog: SqliteCatalog, secrets: VolumeSecrets) -> None:
        self.node = node
        self.catalog = catalog
        self.secrets = secrets
        self._entropy = SystemEntropy()
        self._suite = best_suite()
        self._directories = len(catalog.names(ROOT_INO, Cookie(0), 1 << 20))
        self._steps = LongestStep()
        trio.lowlevel.add_instrument(self._steps)

    async def add_files(self, into: Ino | None = None) -> None:
        """FILES_EACH small files in a new directory, or in this one, safe but for the catalog that names them."""
        names = [f"file-{self._directories:05}-{number:04}.txt".encode() for number in range(FILES_EACH)]
        contents = [name + b" " + self._entropy.bytes(40).hex().encode() for name in names]
        block_id = BlockId(self._entropy.bytes(32))
        seal = self.secrets.seal_of(block_id, self.secrets.scope, self._suite)
        content, places = blocks.build(seal, contents, k=CODE.k)
        length = blocks.layout([len(each) for each in contents])[1]
        fragments = erasure.encode(content, CODE)
        roots = tuple(fragment.root(each) for each in fragments)
        shipment = Shipment(block_id, self.secrets.scope, self._suite, CODE, length, roots, fragments)
        made = self.node.tree.mkdir(ROOT_INO, f"directory-{self._directories:05}".encode(), 0o755, CALLER)
        directory = made if into is None else self.catalog.inode(into)
        assert directory is not None
        self._directories += 1

        def record() -> None:
            now = directory.mtime_ns
            chunks = [self.catalog.new_chunk_no() for _ in places]
            self.catalog.put_chunks(
                ChunkRow(
                    chunk, self.secrets.fingerprint(content), shipment.block, place.slot, place.offset, place.length
                )
                for chunk, content, place in zip(chunks, contents, places, strict=True)
            )
            for name, content, chunk in zip(names, contents, chunks, strict=True):
                ino = self.catalog.new_ino()
                inode = Inode(ino, _FILE, CALLER.uid, CALLER.gid, 1, len(content), now, now, now, version=1)
                self.catalog.put_inode(inode)
                self.catalog.replace_map(ino, [MapRow(0, 1, chunk)], first=0, last=0)
                self.catalog.put_name(directory.ino, name, ino)

        await self.node.uploads.place(shipment, record)
        while len(shipment.acknowledged) < CODE.n:
            await trio.sleep(0.01)
        self.node.journal.commit()
        await trio.sleep(0.01)  # what it took to make them is no part of the next step

    def make_directory(self, number: int) -> Ino:
        return self.node.tree.mkdir(ROOT_INO, b"small-%d" % number, 0o755, CALLER).ino

    async def cost(self, work: Callable[[], Awaitable[object]]) -> Cost:
        """Bytes that were sent until a piece of work was done, heads too; seconds; the longest step."""
        self._steps.longest_s = 0.0
        version, sent, started = self.node.publisher.version, self.node.uploads.sent_bytes, time.monotonic()
        await work()
        took_s = time.monotonic() - started
        head = self.node.publisher.head
        heads = (self.node.publisher.version - version) * len(self.catalog.suppliers())
        head_bytes = heads * len(head.raw) if head is not None else 0
        return float(self.node.uploads.sent_bytes - sent + head_bytes), took_s, self._steps.longest_s


async def fill(customer: Customer, files: int, crowd: int = 0) -> None:
    """Put the files into the volume while nothing ships its catalog: the first snapshot is to find all of them."""
    node = customer.node
    async with node.uploads.running(), trio.open_nursery() as nursery:
        for service in ("journal", "suppliers"):
            nursery.start_soon(node.services[service])
        while len(node.suppliers.online()) < CODE.n:
            await node.suppliers.wait_for_change()
        first = node.tree.mkdir(ROOT_INO, b"crowd", 0o755, CALLER).ino if crowd else None
        for number in range(files // FILES_EACH):
            await customer.add_files(first if number < crowd // FILES_EACH else None)
            drop_outbox(customer.catalog)
        await node.journal.durable()
        nursery.cancel_scope.cancel()


def drop_outbox(catalog: SqliteCatalog) -> None:
    """Let a snapshot take the place of all changes so far, as the replica does when nobody takes them for long."""
    change = catalog.last_change
    catalog.put_local_value("gap", change.to_bytes(8, "big"))
    catalog.drop_outbox(change)


async def measure(customer: Customer, found: dict[str, float]) -> None:
    """All that is asked of one volume."""
    node = customer.node

    def note(name: str, cost: Cost) -> None:
        found[f"{name}_bytes"], found[f"{name}_s"], found[f"{name}_step"] = cost

    while not node.publisher.confirmed or len(node.suppliers.online()) < CODE.n:
        await trio.sleep(0.05)
    note("first", await customer.cost(node.replica.make_safe))
    found["first_image"] = float(sum(row.length for row in customer.catalog.local_blocks()))
    small = []
    for number in range(SMALL_CHANGES):
        customer.make_directory(number)
        small.append(await customer.cost(node.replica.make_safe))
    note("small", sorted(small)[SMALL_CHANGES // 2])
    await customer.add_files()
    note("thousand", await customer.cost(node.replica.make_safe))
    note("again", await customer.cost(node.replica._snapshots.take))  # no verb asks for one


async def ship(home: Home, files: int, crowd: int = 0) -> dict[str, float]:
    """Fill a volume, bring its catalog to suppliers unless there is a crowd, and say what it cost."""
    tune_process()
    keys = read_keys(home)
    secrets = VolumeSecrets(keys.volume.volume)
    found: dict[str, float] = {}
    with closing(SqliteCatalog(home.catalog)) as catalog, closing(DiskSpool(home.spool)) as spool:

        def customer() -> Customer:
            node = make_node(home, keys, catalog, spool)
            node.tree.plant(None, CALLER)
            return Customer(node, catalog, secrets)

        await fill(customer(), files, crowd)
        if not crowd:
            shipping = customer()
            async with shipping.node.running():
                await measure(shipping, found)
    found["catalog"] = float(home.catalog.stat().st_size)
    found["per_file"] = found["catalog"] / files
    found["ship_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return found


def make_node(home: Home, keys: NodeKeys, catalog: SqliteCatalog, spool: DiskSpool) -> Node:
    """As a mount makes it."""
    identity, entropy, wall = identity_of(keys), SystemEntropy(), SystemWall()
    return Node(
        identity=identity,
        catalog=catalog,
        changes=SqliteChanges(),
        image=lambda: catalog.image(home.image),
        spool=spool,
        suppliers=Suppliers(identity, TcpDialer(identity.key), catalog.suppliers(), entropy=entropy, wall=wall),
        crunch=ThreadCrunch(),
        entropy=entropy,
        wall=wall,
        secrets=VolumeSecrets(keys.volume.volume),
        options=NodeOptions(spool_limit=1 << 30, code=CODE, suite=best_suite(), boot=boot_id()),
    )


def main(home_path: str, files: str, crowd: str = "0") -> int:
    home = Home(Path(home_path))
    with hold(home):
        print(json.dumps(trio.run(ship, home, int(files), int(crowd))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
