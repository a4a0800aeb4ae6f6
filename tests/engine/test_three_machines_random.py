"""Three machines of one owner that write by turns, and what people do besides: they delete, keep files open, make
snapshots and delete them, lose a machine and recover, and mount again at once.

As in test_two_machines_random, of which this is more. What is written under a name is written there once, so each
file that any machine shows at any time, in its tree, a snapshot, a fork or through an open file, has these bytes, or
none yet, or cannot be read.

A machine is lost only when all that it has is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from bitdustfs.engine.node import Node
from bitdustfs.model import ROOT_INO, Code, Cookie, Ino
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import World, read_whole_of
from tests.engine.bodies import Body
from tests.engine.machines import CODE, DESKTOP, WHOLE, Machine, two
from tests.engine.recovered import recover
from tests.engine.same_schedule import run
from tests.engine.test_two_machines_random import Story

TABLET = make_identity("tablet", owner="customer")
STEPS = {"story": 60, "delete": 5, "open": 4, "look": 6, "keep": 4, "forget": 3, "recover": 2, "mount again": 4}


class LongerStory(Story):
    """See above."""

    def __init__(self, seed: int, world: World, bodies: Sequence[Body], *, leases: bool) -> None:
        super().__init__(seed, world, bodies, leases=leases)
        self._contents: dict[str, bytes] = {}  # that ever were, by name
        self._open: list[tuple[Node, Ino, str]] = []
        self._kept = 0

    async def step(self, nursery: trio.Nursery) -> None:
        (what,) = self.dice.choices(list(STEPS), weights=list(STEPS.values()))
        body = self.dice.choice(self.bodies)
        if what == "story":
            await super().step(nursery)
        else:
            self.passed.append(f"{body.machine.path.name} {what}")
            if what == "mount again":
                await body.umount()
                self.passed[-1] += f" {await body.mount(nursery, takes_over=False, patience_s=5)}"
            elif body.is_mounted:
                with body.person():
                    await self._do(what, body)
                    self.passed[-1] += ", done"
        for each in self.bodies:
            self._contents |= each.written

    async def _do(self, what: str, body: Body) -> None:
        node, here = body.machine.node, self._listed(body)
        if what == "look":
            await self._look_around(body)
        elif what == "open" and here:
            name = self.dice.choice(sorted(here))
            node.tree.lives.remember(here[name])
            node.tree.lives.opened(here[name])
            self._open.append((node, here[name], name))
        elif what == "delete" and here:
            node.journal.admit_request()
            name = self.dice.choice(sorted(here))
            node.tree.unlink(ROOT_INO, name.encode())
            for each in self.bodies:
                each.written.pop(name, None)
        elif what == "keep":
            self._kept += 1
            await node.snapshots.create(f"kept {self._kept}", 60)
        elif what == "forget" and (kept := [each.name for each in node.snapshots.all() if each.name[:4] == "kept"]):
            await node.snapshots.delete([self.dice.choice(kept)])  # no line that was let be: that would be to lose it
        elif what == "recover" and not body.olds and await body.machine.sync() == "safe":
            await self._recover(body)

    async def _recover(self, body: Body) -> None:
        """Its disk is gone, and an empty one in its place, if what is to be on it comes."""
        machine = body.machine
        await body.umount()
        self._kept += 1
        path = machine.path.with_name(f"{machine.identity.node.hex()[:4]}-empty-{self._kept}")
        await recover(self.world, path, machine.identity, beside=True)
        machine.path, machine.spool, machine.seat = path, MemorySpool(), self.dice.randbytes(16)

    async def _look_around(self, body: Body) -> None:
        """Read all that it shows, and what is open there."""
        node = body.machine.node
        for name, inode, is_then in list(body._files()):
            read = node.past.read(inode.ino, 0, inode.size) if is_then else read_whole_of(node, inode.ino)
            self._compare(name, await read)
        for where, ino, name in self._open:
            if where is node:
                tree = node.view_tree
                got = await (tree if tree is not None else node.files).read(ino, 0, len(self._contents[name]) + 1)
                self._compare(name, got)

    def _compare(self, name: str, content: bytes) -> None:
        if content and self._contents.get(name, content) != content:  # a name may come before its content
            self.broken.append(f"{name} has other bytes than were written")

    def _listed(self, body: Body) -> dict[str, Ino]:
        names = body.machine.node.tree.listing(ROOT_INO, Cookie(0), 10_000)
        return {name.name.decode(): inode.ino for name, inode in names if inode.is_file}

    async def check_all(self, last: Body) -> None:
        """Each snapshot, too, can be read as a whole."""
        await super().check_all(last)
        await self._look_around(last)
        self.check()


async def tell(seed: int, steps: int, directory: Path, *, leases: bool, code: Code = CODE) -> Story:
    """Have a story happen, to its good end."""
    async with two(directory, code) as (world, laptop, _desktop):
        desktop = Machine(world, directory / "desktop", DESKTOP, b"another seat 16b")
        tablet = Machine(world, directory / "tablet", TABLET, b"a third seat 16b")
        bodies = [Body(world, each) for each in (laptop, desktop, tablet)]
        async with trio.open_nursery() as nursery:
            for body in bodies:
                body.world_nursery = nursery
            story = LongerStory(seed, world, bodies, leases=leases)
            await bodies[0].mount(nursery, takes_over=False, patience_s=5)
            await bodies[0].write("first", b"first")
            assert await laptop.sync() == "safe"
            for body in bodies[1:]:
                await body.machine.learn()
            try:
                for _ in range(steps):
                    await story.step(nursery)
                    story.check()
                await story.end(nursery)
            except BaseException:
                print("\n".join(story.passed))
                raise
    return story


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed,steps,schedule",
    [(1, 40, 1), *[pytest.param(seed, 80, seed, marks=pytest.mark.long) for seed in range(2, 41)]],
)
@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("code", [CODE, pytest.param(WHOLE, marks=pytest.mark.long)], ids=str)
def test_nothing_is_lost_whatever_happens_to_three_machines_and_whatever_people_do_there(
    tmp_path: Path, seed: int, steps: int, schedule: int, leases: bool, code: Code
) -> None:
    run(schedule, partial(tell, seed, steps, tmp_path, leases=leases, code=code))
