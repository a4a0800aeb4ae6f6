"""Two machines of one owner that write by turns, while lines are cut, clocks jump and machines die at any step.

What each of them wrote durably is, at the end, in its place, in a folder of what was put aside, or in a fork. And all
heads that a quorum of the suppliers ever had lie on one line, looked at whenever a supplier has kept one: there were
never two accepted writers.

A partition gives each machine some of the suppliers, some to both, and both go on; a race has both write and bring
what they wrote at the same time. Leases let one of them at a time. In half of the stories suppliers let everybody
hold the volume, as if all leases had failed: then both bring heads, and the rule of the heads is all there is.

What is within the budget: any number of deaths, partitions, suspends and jumps of clocks. Suppliers lose nothing.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.home_catalog import make_own
from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.adoption import Plan
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.head import Head
from bitdustfs.core.past import at, split
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.aside import Aside, OldState
from bitdustfs.engine.claim import Claimed
from bitdustfs.engine.node import Node
from bitdustfs.errors import BitdustError
from bitdustfs.model import ROOT_INO, Cookie, Ino, OwnerId
from bitdustfs.testing.clock import InlineCrunch
from bitdustfs.testing.network import Break
from bitdustfs.testing.shelf import MemoryContracts
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import SECRETS, World, read_whole_of
from tests.engine.machines import DESKTOP, LEASE_S, Asking, Machine, two
from tests.engine.setback import fetch, look

GIVING = ("bringing", "closing", "letting go", "let go")
QUORUM = 3
YEAR_S = 365 * 86_400
STEPS = {
    "mount": 8,
    "write": 4,
    "sync": 4,
    "race": 8,
    "wait": 4,
    "umount": 1,
    "kill": 1,
    "kill giving": 2,
    "cut": 1,
    "cut one": 2,
    "partition": 4,
    "heal": 4,
    "suspend": 1,
    "jump": 2,
}


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class Body:
    """A machine with all that its disk has, and the process on it, if one runs."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.written: dict[str, bytes] = {}
        self.olds: list[tuple[Path, MemorySpool, Plan]] = []
        self.dies_at = ""
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._lives = 0

    @property
    def is_mounted(self) -> bool:
        return self._scope is not None

    async def mount(self, nursery: trio.Nursery, *, takes_over: bool, patience_s: float) -> str:
        """What `bitdustfs mount` does. Says how its claim ended."""
        machine = self.machine
        machine.takes_over = takes_over
        claimed = await Asking(machine, for_s=patience_s).run()
        if claimed is Claimed.OTHERS:
            return str(claimed.value)
        with closing(SqliteCatalog(machine.path)) as catalog:
            found = await look(self.world, catalog, machine.identity)
            if found is None:
                make_own(catalog)
            else:
                self._lives += 1
                new = machine.path.with_name(f"{machine.identity.node.hex()[:4]}-{self._lives}")
                with suppress(BitdustError):
                    plan = await fetch(self.world, catalog, found, new)
                    self.olds.append((machine.path, machine.spool, plan))
                    machine.path, machine.spool = new, MemorySpool()
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        await nursery.start(self._run, self._scope)
        return str(claimed.value)

    async def _run(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with ExitStack() as stack:
            async with self.machine.mounted(wait=False) as node:
                node.handover.on_step = self._step
                for number, (path, spool, plan) in enumerate(list(self.olds)):
                    job = self._job(number, path, spool, plan, stack)
                    node.services[f"aside {number}"] = job.run
                    node.reporter.aside.append(job)
                with scope:
                    async with trio.open_nursery() as nursery:
                        for service in list(node.services):
                            if service.startswith("aside"):
                                nursery.start_soon(node._keep_running, service, node.services[service])
                        task_status.started()
                        await trio.sleep_forever()
        self._scope = None
        self._ended.set()

    def _job(self, number: int, path: Path, spool: MemorySpool, plan: Plan, stack: ExitStack) -> Aside:
        catalog = stack.enter_context(closing(SqliteCatalog(path)))
        side = self.world.swarm.customer_side(list(catalog.suppliers()), self.machine.identity)

        async def let_go() -> None:
            await trio.lowlevel.checkpoint()
            self.olds = [each for each in self.olds if each[0] != path]

        state = OldState(f"{number}-{path.name}", path.name, plan, catalog, spool, side, b"boot", let_go)
        return Aside(state, self.machine.node, self.machine.catalog, SECRETS, InlineCrunch(), self.world.swarm.wall)

    async def _step(self, at: str) -> None:
        if at == self.dies_at:
            self.dies_at = ""
            self.world_nursery.start_soon(self.kill)
            await trio.sleep_forever()

    world_nursery: trio.Nursery

    async def umount(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def kill(self) -> None:
        """Nothing that it does from here on reaches its disk or a supplier."""
        if self._scope is None:
            return
        machine, cut = self.machine, dict(self.world.swarm.network._breaks)
        machine.cut()
        machine.node.holding.has_let_go = True
        kept, olds = copy.deepcopy(machine.spool), list(self.olds)
        aside = machine.path.with_name("dead")
        for tail in ("", "-wal"):
            if machine.path.with_name(machine.path.name + tail).exists():
                shutil.copy(machine.path.with_name(machine.path.name + tail), str(aside) + tail)
        await self.umount()
        for tail in ("", "-wal", "-shm"):
            machine.path.with_name(machine.path.name + tail).unlink(missing_ok=True)
            if Path(str(aside) + tail).exists():
                shutil.move(str(aside) + tail, machine.path.with_name(machine.path.name + tail))
        machine.spool, self.olds = kept, olds
        self.world.swarm.network._breaks = cut

    async def write(self, name: str, content: bytes) -> None:
        """Write a file, durably, if changes are taken here."""
        if self._scope is None:
            return
        node = self.machine.node
        try:
            node.journal.admit_request()
            await self.machine.write(name, content)
            inode = node.tree.lookup(ROOT_INO, name.encode())
            assert inode is not None
            await node.files.fsync(inode.ino)
        except BitdustError:
            return
        self.written[name] = content

    async def shown(self) -> dict[str, bytes]:
        """All files that its tree shows, wherever they are, by name."""
        node, found = self.machine.node, dict[str, bytes]()

        async def walk(directory: Ino) -> None:
            then = split(directory)[0] > 0
            for name, inode in (node.past if then else node.tree).listing(directory, Cookie(0), 10_000):
                if inode.is_dir:
                    await walk(inode.ino)
                elif then:
                    found[name.name.decode()] = await node.past.read(inode.ino, 0, inode.size)
                else:
                    found[name.name.decode()] = await read_whole_of(node, inode.ino)

        for snapshot in node.snapshots.all():
            await walk(at(snapshot.generation, ROOT_INO))
        await walk(ROOT_INO)
        return found


def lets_everybody(supplier: SupplierNode) -> None:
    """Have a supplier let everybody hold the volume at any time."""
    answer = supplier.mute.answer

    async def forgetful(
        caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        supplier.keeper._heads._leases[caller.owner] = None
        return await answer(caller, request, body)

    supplier.mute.answer = forgetful  # type: ignore[method-assign]


class Story:
    """What happens, and what may never."""

    def __init__(self, seed: int, world: World, bodies: tuple[Body, Body], *, leases: bool) -> None:
        self.dice = random.Random(seed)
        self.world = world
        self.bodies = bodies
        self.accepted: list[Head] = []  # that a quorum had, in turn
        self.broken: list[str] = []  # what was never to be
        self.passed: list[str] = []
        self._files = 0
        for supplier in world.swarm.suppliers:
            self._watch(supplier.contracts)
            if not leases:
                lets_everybody(supplier)

    async def step(self, nursery: trio.Nursery) -> None:
        body = self.dice.choice(self.bodies)
        (what,) = self.dice.choices(list(STEPS), weights=list(STEPS.values()))
        self.passed.append(f"{body.machine.path.name} {what}")
        network, machine = self.world.swarm.network, body.machine
        if what == "mount" and not body.is_mounted:
            takes_over, patience_s = self.dice.random() < 0.4, self.dice.choice([5, 60, 2 * LEASE_S])
            self.passed[-1] += f" {await body.mount(nursery, takes_over=takes_over, patience_s=patience_s)}"
        elif what == "write":
            self._files += 1
            await body.write(f"file {self._files}", self.dice.randbytes(self.dice.choice([20, 30_000])))
        elif what == "sync" and body.is_mounted:
            with suppress(BitdustError):
                self.passed[-1] += f" {await machine.sync()}"
        elif what == "race":
            async with trio.open_nursery() as racing:
                for each in self.bodies:
                    racing.start_soon(self._write_and_sync, each, self.dice.randbytes(30_000))
        elif what == "wait":
            await trio.sleep(self.dice.choice([1, 30, LEASE_S]))
        elif what == "umount":
            await body.umount()
        elif what == "kill":
            await body.kill()
        elif what == "kill giving":
            body.dies_at = self.dice.choice(GIVING)
        elif what == "cut":
            machine.cut()
        elif what == "cut one":
            supplier = self.dice.choice(self.world.swarm.suppliers)
            network.apply(self.dice.choice([Break.CUT, Break.SILENCE]), machine.identity.node, supplier.node)
        elif what == "partition":
            network._breaks.clear()
            for supplier in self.world.swarm.suppliers:
                for cut in self.dice.choice([self.bodies[:1], self.bodies[1:], (), ()]):
                    network.apply(Break.CUT, cut.machine.identity.node, supplier.node)
        elif what == "heal":
            network._breaks.clear()
        elif what == "suspend":
            machine.wall.suspend_s(self.dice.randrange(3 * LEASE_S))
        elif what == "jump":
            machine.wall.move_s(self.dice.choice([-YEAR_S, -3600, 3600, YEAR_S]))

    async def _resolve(self, node: Node) -> None:
        """Choose what is here, for all forks: they are snapshots then."""
        quiet_until = trio.current_time() + 150  # what was seen once is asked for again within a minute
        while trio.current_time() < quiet_until or not node.forks.has_everything:
            for snapshot, _fork in node.forks.all():
                self.passed.append(f"resolve {snapshot.name}")
                await node.forks.resolve(snapshot.name)
                quiet_until = trio.current_time() + 150
            await trio.sleep(1)

    async def _write_and_sync(self, body: Body, content: bytes) -> None:
        self._files += 1
        await body.write(f"file {self._files}", content)
        if body.is_mounted:
            with suppress(BitdustError):
                await body.machine.sync()

    def _watch(self, contracts: MemoryContracts) -> None:
        """Look whenever a supplier has kept a head."""
        save = contracts.save_head

        def save_head(owner: OwnerId, head: bytes) -> None:
            save(owner, head)
            self._look()

        contracts.save_head = save_head  # type: ignore[method-assign]

    def _look(self) -> None:
        """All heads that a quorum has lie on one line."""
        kept = [each.contracts.heads().get(self.world.swarm.identity.owner) for each in self.world.swarm.suppliers]
        shown = [heads.split(each) for each in kept if each]
        for raw, links in shown:
            if sum(other == raw for other, _ in shown) < QUORUM:
                continue
            head, last = heads.parse(raw), self.accepted[-1] if self.accepted else None
            if last is not None and head.digest == last.digest:
                return
            if last is not None:
                since = [each for each in heads.split_links(links) if heads.version_of(each) > last.version]
                if not heads.follows(head, b"".join(since), last):
                    self.broken.append(f"two writers were accepted: {head.version} does not follow {last.version}")
            self.accepted.append(head)
            return

    def check(self) -> None:
        """Nothing happened that was never to be."""
        assert not self.broken

    async def end(self, nursery: trio.Nursery) -> None:
        """Everything is well again: each machine is mounted once more, and what it has is brought."""
        self.world.swarm.network._breaks.clear()
        for body in self.bodies:
            body.dies_at = ""
            await body.umount()
        for body in self.bodies:
            assert await body.mount(nursery, takes_over=False, patience_s=10 * LEASE_S) == "held"
            with trio.fail_after(20 * LEASE_S):
                while body.olds:
                    await trio.sleep(1)
            await self._resolve(body.machine.node)
            assert await body.machine.sync() == "safe", body.machine.node.journal.refusal
            self.check()
            last = body
            if body is not self.bodies[-1]:
                await body.umount()
        shown = await last.shown()
        for each in self.bodies:
            for name, content in each.written.items():
                assert shown.get(name) == content, f"{name} of {each.machine.identity.node.hex()[:8]} is lost"
        await last.umount()


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed,steps", [(1, 25), *[pytest.param(seed, 100, marks=pytest.mark.long) for seed in range(2, 41)]]
)
@pytest.mark.parametrize("leases", [True, False])
async def test_nothing_is_lost_and_never_two_are_accepted_whatever_happens_to_two_machines(
    autojump_clock: MockClock, tmp_path: Path, seed: int, steps: int, leases: bool
) -> None:
    async with two(tmp_path) as (world, laptop, _desktop):
        bodies = Body(world, laptop), Body(world, Machine(world, tmp_path / "desktop", DESKTOP, b"another seat 16b"))
        async with trio.open_nursery() as nursery:
            for body in bodies:
                body.world_nursery = nursery
            story = Story(seed, world, bodies, leases=leases)
            await bodies[0].mount(nursery, takes_over=False, patience_s=5)
            await bodies[0].write("first", b"first")
            assert await laptop.sync() == "safe"
            await bodies[1].machine.learn()
            try:
                for _ in range(steps):
                    await story.step(nursery)
                    story.check()
                await story.end(nursery)
            except BaseException:
                print("\n".join(story.passed))
                raise
            assert len(story.accepted) > 3, "a story in which nobody brings anything shows nothing"
