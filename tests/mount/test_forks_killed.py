"""`kill -9` of the mounting process while another state of the volume comes in, and while a person chooses."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import trio

from bitdustfs.core import wire
from bitdustfs.core.head import Head
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.home import Home, holder
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.errand import ask_once
from bitdustfs.engine.fork_notes import gone_over
from bitdustfs.model import NodeId
from tests.mount.practice import Practice, wait_until
from tests.mount.published import is_all_held_by, newest
from tests.mount.test_forks import LETTER, write_two_states

pytestmark = pytest.mark.slow
THIS = {"both": b"of this machine", "later": b"later"}
OTHER = {"both": b"as it was", "letter": LETTER}
ANY = tuple(range(256))

COMING = ("after commit fork coming", "before commit forks", "after commit forks")
CHOOSING = (
    "before commit forks",
    "after commit forks",
    "before put delta",
    "after put delta",
    "before put_head",
    "after put_head",
)
FEW = {"after put_head"}  # one supplier has the head over both lines, and the others have none of it


def shown(directory: Path) -> Mapping[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def is_chosen(swarm: Practice) -> bool:
    """The disk says that our next head goes over the other line."""
    with closing(SqliteCatalog(Home(swarm.home).catalog, read_only=True)) as catalog:
        return bool(gone_over(catalog))


def heads_at(swarm: Practice) -> list[bytes]:
    """The head that each supplier holds."""
    identity = identity_of(read_keys(Home(swarm.home)))
    dialer = TcpDialer(identity.key)

    async def ask() -> list[bytes]:
        found = []
        for place in swarm.places():
            name, _, address = place.partition("@")
            node = NodeId(bytes.fromhex(name))
            with trio.fail_after(60):
                told, body = await ask_once(dialer, identity, node, address, wire.GetHead(), wire.HeadIs)
            found.append(bytes(body[: told.head_bytes]))
        return found

    return trio.run(ask)


def forks_of(swarm: Practice) -> list[str]:
    return os.listdir(swarm.path / ".forks")


def wait_for_death(swarm: Practice, code: int) -> None:
    assert code == -signal.SIGKILL
    wait_until("the home is free", lambda: holder(Home(swarm.home)) is None)


def check_one_line(swarm: Practice, name: str) -> None:
    """Ours goes on at all suppliers, the other one is a snapshot, and neither is anywhere else."""
    assert forks_of(swarm) == []
    assert shown(swarm.path) == THIS
    assert sorted(os.listdir(swarm.path / ".snapshots")) == sorted(["of before", name])
    assert shown(swarm.path / ".snapshots" / name) == OTHER
    swarm.sync()
    wait_until("nothing is to be done", lambda: swarm.status()["state"] == "safe")
    swarm.forget()
    assert shown(swarm.path / ".snapshots" / name) == OTHER  # from suppliers
    suppliers = [swarm.supplier_home(number) for number in (1, 2, 3)]
    wait_until("it is at rest", lambda: is_all_held_by(suppliers, swarm.home))
    swarm.umount()
    head: Head = newest(swarm.home)
    assert heads_at(swarm) == [head.raw] * 3
    swarm.run("fsck")


@pytest.mark.parametrize(
    "point", [point if point in FEW else pytest.param(point, marks=pytest.mark.long) for point in CHOOSING]
)
def test_choice_that_is_killed_anywhere_is_made_wholly_or_not_at_all(tmp_path: Path, point: str) -> None:
    order = tmp_path / "order"
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        write_two_states(swarm)
        with swarm.doomed(order) as process:
            wait_until("the other state is shown", lambda: forks_of(swarm))
            (name,) = forks_of(swarm)
            order.write_text(point)
            swarm.run("resolve", name, "--yes", ok=ANY)
            wait_for_death(swarm, process.wait(60))
        is_made = point != "before commit forks"
        assert is_chosen(swarm) == is_made

        swarm.mount()
        if not is_made:
            wait_until("it is shown again", lambda: forks_of(swarm) == [name])
        swarm.run("resolve", name, "--yes", ok=(10,) if is_made else (0,))
        check_one_line(swarm, name)


@pytest.mark.long
@pytest.mark.parametrize("point", COMING)
def test_state_that_was_killed_on_its_way_comes_whole_and_once(tmp_path: Path, point: str) -> None:
    order = tmp_path / "order"
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        write_two_states(swarm)
        order.write_text(point)
        with swarm.doomed(order) as process:
            wait_for_death(swarm, process.wait(60))
        swarm.mount()
        wait_until("the other state is shown", lambda: forks_of(swarm))
        (name,) = forks_of(swarm)
        assert shown(swarm.path / ".forks" / name) == OTHER
        assert shown(swarm.path) == THIS
        swarm.run("resolve", name, "--yes")
        check_one_line(swarm, name)
