"""Two machines of one owner that write by turns, while lines are cut, clocks jump and machines die at any step.

What each of them wrote durably is, at the end, in its place, in a folder of what was put aside, or in a fork. And all
heads that a quorum of the suppliers ever had lie on one line, looked at whenever a supplier has kept one: there were
never two accepted writers.

A partition gives each machine some of the suppliers, some to both, and both go on; a race has both write and bring
what they wrote at the same time. Leases let one of them at a time. In half of the stories suppliers let everybody
hold the volume, as if all leases had failed: then both bring heads, and the rule of the heads is all there is.

A person who sees another line chooses, at any time: goes on with what is there, or copies the other one back, or
gives up what cannot be read: the machine that wrote it has it yet, and puts it aside.

What is within the budget: any number of deaths, power losses, partitions, suspends and jumps of clocks, also while a
line is brought in, taken or chosen about. Suppliers lose nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.certificate import Certificate
from bitdustfs.core.head import Head
from bitdustfs.model import Code, OwnerId
from bitdustfs.testing.network import Break
from bitdustfs.testing.shelf import MemoryContracts
from bitdustfs.testing.swarm import SupplierNode
from bitdustfs.testing.world import World
from tests.engine.bodies import Body
from tests.engine.machines import CODE, DESKTOP, LEASE_S, WHOLE, Machine, two
from tests.engine.same_schedule import Listening, run

GIVING = ("bringing", "closing", "letting go", "let go")
TAKING = ("fetching", "grafting", "keeping", "fetched", "adopted")  # another line: beside ours, or in its place
QUORUM = 3
_ANYHOW = ((0,), (1,), (), ()) * 5  # whom a supplier is cut from
_IN_HALVES = ((0,), (0,), (1,), (1,), ())  # a quorum on both sides
YEAR_S = 365 * 86_400
STEPS = {
    "mount": 8,
    "write": 4,
    "sync": 4,
    "race": 8,
    "wait": 4,
    "fork": 3,
    "choose": 8,
    "umount": 1,
    "kill": 1,
    "power loss": 1,
    "dies giving": 2,
    "dies taking": 2,
    "cut": 1,
    "cut one": 2,
    "partition": 4,
    "refuse": 3,
    "heal": 4,
    "suspend": 1,
    "jump": 2,
}


def lets_everybody(supplier: SupplierNode, while_: Callable[[], bool]) -> None:
    """Have a supplier let everybody hold the volume at any time, for a while."""
    answer = supplier.mute.answer

    async def forgetful(
        caller: Certificate, request: wire.Request, body: bytes | memoryview
    ) -> tuple[wire.Answer, tuple[bytes | memoryview, ...]]:
        if while_():
            supplier.keeper._heads._leases[caller.owner] = None
        return await answer(caller, request, body)

    supplier.mute.answer = forgetful  # type: ignore[method-assign]


class Story:
    """What happens, and what may never."""

    def __init__(self, seed: int, world: World, bodies: Sequence[Body], *, leases: bool) -> None:
        self.dice = random.Random(seed)
        self.world = world
        self.listening = Listening(world.swarm.network)
        self.bodies = bodies
        self.accepted: list[Head] = []  # that a quorum had, in turn
        self.broken: list[str] = []  # what was never to be
        self.passed: list[str] = []
        self._files = 0
        self._is_ending = False
        for supplier in world.swarm.suppliers:
            self._watch(supplier.contracts)
            if not leases:
                lets_everybody(supplier, lambda: not self._is_ending)

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
            with body.person():
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
        elif what == "power loss":
            await body.kill(power=True)
        elif what in ("dies giving", "dies taking"):
            body.dies_at = self.dice.choice(GIVING if what == "dies giving" else TAKING)
            body.loses_power = self.dice.random() < 0.5
        elif what == "choose" and body.is_mounted:
            self.passed[-1] += f" {await self._choose_and_perhaps_die(body)}"
        elif what == "cut":
            machine.cut()
        elif what == "cut one":
            supplier = self.dice.choice(self.world.swarm.suppliers)
            network.apply(self.dice.choice([Break.CUT, Break.SILENCE]), machine.identity.node, supplier.node)
        elif what == "partition":
            self._part(self.dice.choice([_ANYHOW, _IN_HALVES]))
        elif what == "refuse":
            for supplier in self.world.swarm.suppliers:
                supplier.mute.refuses_heads = self.dice.random() < 0.6
        elif what == "fork":
            await self._fork(body, self.bodies[body is self.bodies[0]], nursery)
        elif what == "heal":
            self._heal()
        elif what == "suspend":
            machine.wall.suspend_s(self.dice.randrange(3 * LEASE_S))
        elif what == "jump":
            machine.wall.move_s(self.dice.choice([-YEAR_S, -3600, 3600, YEAR_S]))

    def _part(self, sides: Sequence[Sequence[int]]) -> None:
        """Have each supplier, in any order, be cut from one of the bodies, or from none."""
        network = self.world.swarm.network
        network._breaks.clear()
        for supplier, cut in zip(self.world.swarm.suppliers, self.dice.sample(sides, k=QUORUM * 2 - 1), strict=True):
            for number in cut:
                network.apply(Break.CUT, self.bodies[number].machine.identity.node, supplier.node)

    async def _fork(self, one: Body, other: Body, nursery: trio.Nursery) -> None:
        """One brings a head to a few suppliers; the other, who does not see these, goes on without it."""
        self._heal()
        await other.umount()
        if not one.is_mounted:
            await one.mount(nursery, takes_over=True, patience_s=5)
        await self._write_and_sync(one, self.dice.randbytes(20))
        few = self.dice.sample(self.world.swarm.suppliers, k=self.dice.choice([1, 2]))
        for supplier in self.world.swarm.suppliers:
            supplier.mute.refuses_heads = supplier not in few
        await self._write_and_sync(one, self.dice.randbytes(30_000))
        ends = self.dice.choice([one.kill, one.umount, None])
        if ends is not None:
            await ends()
        self._heal()
        for supplier in few:
            self.world.swarm.network.apply(Break.CUT, other.machine.identity.node, supplier.node)
        await other.mount(nursery, takes_over=True, patience_s=5)
        await self._write_and_sync(other, self.dice.randbytes(30_000))

    def _heal(self) -> None:
        self.world.swarm.network._breaks.clear()
        for supplier in self.world.swarm.suppliers:
            supplier.mute.refuses_heads = False

    async def _choose_and_perhaps_die(self, body: Body) -> str:
        """What a person chooses; in a third of the cases the machine dies meanwhile, or soon after."""
        dies_in_s = self.dice.choice([*[None] * 10, 0.0, 0.0, 0.01, 1.0, 10.0, 40.0])
        power = self.dice.random() < 0.5

        async def die(after_s: float) -> None:
            await trio.sleep(after_s)
            await body.kill(power=power)

        self._chosen = ""
        async with trio.open_nursery() as nursery:
            if dies_in_s is not None and (body.machine.node.forks.all() or body.machine.node.forks.unreadable()):
                nursery.start_soon(die, dies_in_s)
            with body.person():
                await self._choose(body)
                self._chosen += ", done"
        return self._chosen + (", and it died" if not body.is_mounted else "")

    async def _choose(self, body: Body) -> None:
        """What `bitdustfs resolve` does, and who copies the other line back after it."""
        node = body.machine.node
        readable, unreadable = node.forks.all(), list(node.forks.unreadable())
        goes_back = self.dice.random() < 0.5
        if readable:
            snapshot, _fork = self.dice.choice(readable)
            self._chosen = f"beside {snapshot.name}"
            await node.forks.resolve(snapshot.name)
            if goes_back:
                self._chosen += ", and back to it"
                self._files += 1
                self._chosen += f": {await body.go_back(snapshot.generation, f'before going back {self._files}')}"
        elif unreadable:
            name = self.dice.choice(unreadable)
            self._chosen = f"to let {name} be"
            await node.forks.let_be(name)
        with trio.move_on_after(60):
            await node.replica.make_safe()

    async def _resolve(self, body: Body) -> None:
        """Choose what is here, for all lines beside it: they are snapshots then, or cannot be read by anybody."""
        forks = body.machine.node.forks
        quiet_until = trio.current_time() + 150  # what was seen once is asked for again within a minute
        lets_be_at, gives_up_at = trio.current_time() + 10 * LEASE_S, trio.current_time() + 20 * LEASE_S
        while trio.current_time() < quiet_until or not forks.has_everything:
            for snapshot, _fork in forks.all():
                self.passed.append(f"resolve {snapshot.name}")
                await forks.resolve(snapshot.name)
                quiet_until = trio.current_time() + 150
            if trio.current_time() > lets_be_at:
                for name in forks.unreadable():
                    self.passed.append(f"let {name} be")
                    await forks.let_be(name)
            assert trio.current_time() < gives_up_at, (forks.lines(), body.machine.node.journal.refusal)
            await trio.sleep(1)

    async def _write_and_sync(self, body: Body, content: bytes) -> None:
        self._files += 1
        await body.write(f"file {self._files}", content)
        if body.is_mounted:
            with body.person():
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
        for raw in {raw for raw, _links in shown}:
            chains = [links for other, links in shown if other == raw]
            head, last = heads.parse(raw), self.accepted[-1] if self.accepted else None
            if len(chains) < QUORUM or (last is not None and head.digest == last.digest):
                continue
            if last is not None and not any(_follows(head, links, last) for links in chains):
                self.broken.append(f"two writers were accepted: {head.version} does not follow {last.version}")
            self.accepted.append(head)

    def check(self) -> None:
        """Nothing happened that was never to be."""
        assert not self.broken, self.broken

    async def end(self, nursery: trio.Nursery) -> None:
        """Everything is well again: each machine is mounted once more, and what it has is brought."""
        for body in self.bodies:
            body.dies_at = ""
            await body.umount()
        self._heal()
        self._is_ending = True
        for body in self.bodies:
            assert await body.mount(nursery, takes_over=False, patience_s=10 * LEASE_S) == "held"
            with trio.fail_after(20 * LEASE_S):
                while body.olds:
                    await trio.sleep(1)
            await self._resolve(body)
            assert await body.machine.sync() == "safe", body.machine.node.journal.refusal
            self.check()
            last = body
            if body is not self.bodies[-1]:
                await body.umount()
        await self.check_all(last)
        await last.umount()

    async def check_all(self, last: Body) -> None:
        """Nothing is lost, as far as the last machine knows, which knows all."""
        shown = await last.shown()
        for each in self.bodies:
            for name, content in each.written.items():
                assert shown.get(name) == content, f"{name} of {each.machine.identity.node.hex()[:8]} is lost"


def _follows(head: Head, links: bytes, last: Head) -> bool:
    """By the links of a supplier that held both. One that came by the line that was gone over has others."""
    since = [each for each in heads.split_links(links) if heads.version_of(each) > last.version]
    return heads.follows(head, b"".join(since), last)


async def tell(seed: int, steps: int, directory: Path, *, leases: bool, code: Code = CODE) -> Story:
    """Have a story happen, to its good end."""
    async with two(directory, code) as (world, laptop, _desktop):
        bodies = Body(world, laptop), Body(world, Machine(world, directory / "desktop", DESKTOP, b"another seat 16b"))
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
    return story


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed,steps,schedule",
    [(1, 40, 1), *[pytest.param(seed, 60, seed, marks=pytest.mark.long) for seed in range(2, 61)]],
)
@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("code", [CODE, pytest.param(WHOLE, marks=pytest.mark.long)], ids=str)
def test_nothing_is_lost_and_never_two_are_accepted_whatever_happens_to_two_machines(
    tmp_path: Path, seed: int, steps: int, schedule: int, leases: bool, code: Code
) -> None:
    story = run(schedule, partial(tell, seed, steps, tmp_path, leases=leases, code=code))
    assert len(story.accepted) > 3, "a story in which nobody brings anything shows nothing"
