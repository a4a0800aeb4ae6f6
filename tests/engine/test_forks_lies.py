"""Heads beside ours as no honest machine makes them, and several of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from bitdustfs.core import head as heads
from bitdustfs.core import replica
from bitdustfs.core.certificate import Identity
from bitdustfs.core.head import Head
from bitdustfs.engine.fork_notes import RESOLVED_KEPT, WHOLE_KEPT, Fork, gone_over, keep_forks, kept_forks
from bitdustfs.engine.forks import FORKS_MOST
from bitdustfs.engine.node import Node
from bitdustfs.model import BlockId, Suite
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import SECRETS, World
from tests.engine.machines import LAPTOP, LEASE_S, Machine, two, until
from tests.engine.recovered import recover, stocks
from tests.engine.test_forks import LAPTOPS_TREE, brought_in, fork, forked, tree_of, versions
from tests.engine.test_forks_and_epochs import NEXT

THIRD = make_identity("third", owner="customer")
LAST = (1 << 62) - 1  # no version is higher


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


def beside(world: World, who: Identity, *, version: int = 0, time_s: int = 0) -> Head:
    """What the first supplier holds, as another machine may have signed it; 0: as it is there."""
    before = heads.parse(heads.split(stocks(world)[1].head)[0])
    content = replica.unseal_head(SECRETS, before.sealed)
    told = msgspec.structs.replace(content, time_s=time_s or content.time_s)
    return heads.sign(
        who,
        handle=SECRETS.handle,
        version=version or before.version,
        previous=before.previous,
        sealed=replica.seal_head(SECRETS, told, BlockId(who.node), Suite.AES_256_GCM),
    )


def hold(world: World, number: int, head: Head) -> None:
    """Have a supplier hold a head, whoever would take it."""
    supplier = world.swarm.suppliers[number - 1]
    supplier.kill()
    supplier.contracts.save_head(world.swarm.identity.owner, head.raw)
    supplier.start()


@pytest.mark.slow
async def test_lines_that_are_chosen_about_at_once_are_all_gone_over(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        hold(world, 2, beside(world, THIRD))
        async with desktop.mounted() as node:
            await until(lambda: len(node.forks.all()) == 2)
            for snapshot, _fork in node.forks.all():
                await node.forks.resolve(snapshot.name)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            last = node.publisher.version
            await trio.sleep(LEASE_S)
            assert node.publisher.version == last
            assert node.releases.may_release()


def chosen_about(number: int) -> Fork:
    """A line that was gone over, somewhere."""
    digest = number.to_bytes(32)
    return Fork(0, LAST, digest, bytes(THIRD.node), 0, digest * heads.LINK_BYTES, is_resolved=True)


@pytest.mark.slow
async def test_supplier_that_was_away_while_many_lines_were_gone_over_is_no_fork_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop), desktop.mounted() as node:
        await brought_in(desktop)
        world.swarm.cut(1)
        await node.forks.resolve(node.forks.all()[0][0].name)
        await until(lambda: not node.publisher.has_lines_left)
        for number in range(1, RESOLVED_KEPT):
            with node.journal.operation():
                keep_forks(desktop.catalog, [*kept_forks(desktop.catalog), chosen_about(number)])
        assert await desktop.sync() == "safe"
        world.swarm.heal(1)
        await until(lambda: versions(world)[0] == node.publisher.version)
        assert node.forks.all() == []
        assert len(desktop.catalog.snapshots()) == 1


@pytest.mark.slow
async def test_lines_that_were_gone_over_fill_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (_world, _laptop, desktop), desktop.mounted():
        await brought_in(desktop)
        (open_one,) = kept_forks(desktop.catalog)
        keep_forks(desktop.catalog, [open_one, *(chosen_about(number) for number in range(RESOLVED_KEPT + 1))])
        lines = gone_over(desktop.catalog)
        assert open_one in kept_forks(desktop.catalog)
        assert [each.digest for each in lines] == [number.to_bytes(32) for number in range(1, RESOLVED_KEPT + 1)]
        assert {len(each.links) for each in lines[:-WHOLE_KEPT]} == {heads.LINK_BYTES}
        assert {len(each.links) for each in lines[-WHOLE_KEPT:]} == {32 * heads.LINK_BYTES}


@pytest.mark.slow
@pytest.mark.parametrize("is_revoked", [False, True])
async def test_line_with_the_last_version_ends_no_volume_when_it_is_gone_over(
    autojump_clock: MockClock, tmp_path: Path, is_revoked: bool
) -> None:
    """A machine that was stolen signed it, and a supplier shows it: a person chooses against it, and goes on."""
    async with forked(tmp_path) as (world, _laptop, machine):
        if is_revoked:
            world.swarm.cut(1)
            machine = Machine(world, tmp_path / "next", NEXT)
            await recover(world, machine.path, NEXT, friend=5)
            world.swarm.heal(1)
        hold(world, 1, beside(world, LAPTOP, version=LAST))
        async with machine.mounted() as node:
            generation = await brought_in(machine)
            ((snapshot, _fork),) = node.forks.all()
            await node.forks.resolve(snapshot.name)
            await machine.write("later", b"later")
            assert await machine.sync() == "safe"
            assert await tree_of(node, generation) == LAPTOPS_TREE
            assert node.publisher.version < heads.SKIPPED_MOST
            await until(node.releases.may_release)
            if is_revoked:
                await until(lambda: set(versions(world)) == {node.publisher.version})


@pytest.mark.slow
async def test_head_of_a_time_that_has_no_date_is_no_head(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop):
        hold(world, 1, beside(world, LAPTOP, time_s=(1 << 63) - 1))
        async with desktop.mounted() as node:
            await desktop.write("later", b"later")
            assert await desktop.sync() == "safe"
            await trio.sleep(LEASE_S)
            assert not node.publisher.others
            assert node.releases.may_release()


@pytest.mark.slow
async def test_supplier_that_shows_ever_more_lines_fills_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with forked(tmp_path) as (world, _laptop, desktop), desktop.mounted() as node:
        await brought_in(desktop)
        for number in range(FORKS_MOST):
            hold(world, 1, made := beside(world, make_identity(f"machine {number}", owner="customer")))
            await until(lambda made=made: made.digest in shown(node))  # type: ignore[misc]
            await until(lambda: node.forks.has_everything or node.forks.trouble)
        assert len(node.forks.all()) == FORKS_MOST
        assert not node.releases.may_release()
        assert "wait to be chosen about" in node.forks.lines()[-1]
        await node.forks.resolve(node.forks.all()[0][0].name)
        await until(lambda: node.forks.has_everything)
        assert len(node.forks.all()) == FORKS_MOST


def shown(node: Node) -> set[bytes]:
    """The digests of the heads beside ours that suppliers show."""
    return {each.head.digest for each in node.publisher.others.values()}


class Forging(Machine):
    """A machine that puts something into its catalog that no catalog has, before it writes last."""

    forges = ""

    async def write(self, name: str, content: bytes) -> None:
        if content == b"of the laptop":
            await until(lambda: not self.node.files.dirty_lives())
            with self.node.journal.operation():
                self.catalog._change(self.forges)
                self.node.journal.note()
        await super().write(name, content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "forges",
    [
        "INSERT INTO r_name SELECT parent, cookie + 1000, born, died, CAST('loop' AS BLOB), 1, 0 FROM r_name LIMIT 1",
        "DELETE FROM r_chunk WHERE chunk = (SELECT max(chunk) FROM r_chunk)",
    ],
)
async def test_catalog_that_somebody_made_up_can_be_let_be_and_holds_up_no_other_line(
    autojump_clock: MockClock, tmp_path: Path, forges: str
) -> None:
    async with two(tmp_path) as (world, laptop, desktop):
        forging = Forging(world, laptop.path)
        forging.forges = forges
        await fork(world, forging, desktop, 1)
        async with desktop.mounted() as node:
            await until(node.forks.unreadable)
            ((name, _unread),) = node.forks.unreadable().items()
            await node.forks.let_be(name)
            await until(lambda: set(versions(world)) == {node.publisher.version})
            assert await desktop.sync() == "safe"
            await until(node.releases.may_release)
