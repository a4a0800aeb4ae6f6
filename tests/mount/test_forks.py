"""Two states of a volume, with real processes: both are shown, and a person chooses."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from bitdustfs.core import head as heads
from bitdustfs.core import wire
from bitdustfs.core.head import Head
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.errand import ask_once
from bitdustfs.model import NodeId
from tests.mount.practice import Practice, wait_until
from tests.mount.published import change_in, held_by, last_change, newest
from tests.mount.support import code_of

pytestmark = pytest.mark.slow
README = Path(__file__).resolve().parents[2] / "README.md"
MANUAL = README.parent / "man" / "bitdustfs.1"
LETTER = bytes(i * i % 251 for i in range(300_000))


def put_beside(swarm: Practice, number: int, before: Head) -> None:
    """Have a supplier hold a head that a copy of the home made of the state that `before` names."""
    identity = identity_of(read_keys(Home(swarm.home)))
    made = heads.sign(
        identity,
        handle=before.handle,
        version=before.version + 1,
        previous=before.digest,
        sealed=before.sealed,
        seat=b"of a copied home",
        takes_over=True,
    )
    node, _, address = swarm.places()[number - 1].partition("@")
    request = wire.PutHead(len(made.raw), identity.certificate.epoch)

    async def put() -> None:
        with trio.fail_after(60):
            await ask_once(
                TcpDialer(identity.key), identity, NodeId(bytes.fromhex(node)), address, request, wire.Done, made.raw
            )

    trio.run(put)


def write_two_states(swarm: Practice) -> None:
    """Have a supplier of three hold another state than the home and the other two. It is not mounted afterwards."""
    (swarm.path / "letter").write_bytes(LETTER)
    (swarm.path / "both").write_bytes(b"as it was")
    swarm.run("snapshot", "create", "of before")  # what README has a person type is meant for the other one
    swarm.sync()
    swarm.umount()
    before = newest(swarm.home)
    swarm.kill_supplier(1)
    swarm.mount()
    (swarm.path / "both").write_bytes(b"of this machine")
    (swarm.path / "later").write_bytes(b"later")
    (swarm.path / "letter").unlink()
    wanted = last_change(swarm.home, swarm.path)

    def is_held() -> bool:
        synced(swarm)
        held = held_by(map(swarm.supplier_home, (2, 3)))
        return all(change_in(swarm.home, each) >= wanted for each in held)

    wait_until("two suppliers hold it", is_held)
    swarm.umount()
    assert newest(swarm.home).version > before.version
    swarm.run("demo", "revive", "1")
    put_beside(swarm, 1, before)


def synced(swarm: Practice) -> dict[str, Any]:
    """What `sync` says when suppliers are missing: it would wait for them longer."""
    report: dict[str, Any] = json.loads(
        swarm.run("sync", str(swarm.path), "--timeout", "3", "--json", ok=(0, 34)).stdout
    )
    return report


def readme_steps(name: str) -> list[tuple[str, str]]:
    """What README has a person type, for this fork, and what is printed then."""
    section = README.read_text().partition("\n## When two of them wrote at once\n")[2].partition("\n## ")[0]
    steps = [step.partition("\n") for step in section.split("```\n")[1].removeprefix("$ ").split("\n$ ")]
    known = re.search(r"resolve '(.*)' --yes", section)
    assert known is not None and len(steps) == 5
    return [(command.replace(known[1], name), printed.strip("\n")) for command, _, printed in steps]


def session_step(swarm: Practice, command: str) -> str:
    if command.startswith("bitdustfs"):
        return swarm.run(*shlex.split(command)[1:]).stdout.strip("\n")
    command = command.replace("~/BitDust", str(swarm.path))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
    return done.stdout.strip("\n")


def ways_back(swarm: Practice, name: str) -> list[list[str]]:
    """What the manual has a person type, after `resolve`, to go on with the other state."""
    section = MANUAL.read_text().partition("\n.SS resolve\n")[2].partition("\n.EE\n")[0].partition("\n.EX\n")[2]
    commands = section.replace("\\-", "-").replace("NAME", name).replace("~/BitDust", str(swarm.path)).splitlines()
    assert len(commands) == 3 and commands[0] == f"bitdustfs resolve {name}"
    return [shlex.split(command) for command in commands[1:]]


def write_twins(directory: Path) -> None:
    directory.mkdir()
    for name in ("one", "same size", "only there"):
        (directory / name).write_bytes(name.encode())
        os.utime(directory / name, ns=(10**18, 10**18))
    os.link(directory / "one", directory / "other name of one")
    os.setxattr(directory / "one", "user.colour", b"red")
    (directory / "link").symlink_to("one")
    os.utime(directory / "link", ns=(10**18, 10**18), follow_symlinks=False)


def change_twins(directory: Path) -> None:
    (directory / "same size").write_bytes(b"SAME SIZE")
    os.utime(directory / "same size", ns=(10**18, 10**18))
    (directory / "only there").unlink()
    (directory / "only here").write_bytes(b"here")
    (directory / "link").unlink()
    (directory / "other name of one").unlink()
    (directory / "other name of one").write_bytes(b"one")
    os.utime(directory / "other name of one", ns=(10**18, 10**18))
    os.setxattr(directory / "one", "user.colour", b"blue")


def looks(directory: Path) -> dict[str, tuple[object, ...]]:
    """What is in a directory, name by name; hard links of one file have the same first name."""
    first: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for name in sorted(os.listdir(directory)):
        path = directory / name
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes()
        colours = [] if path.is_symlink() else [os.getxattr(path, each) for each in os.listxattr(path)]
        found[name] = (first.setdefault(status.st_ino, name), status.st_mode, status.st_mtime_ns, content, colours)
    return found


def plain(text: str) -> str:
    """Without node ids, dates and versions, which are never the same."""
    text = re.sub(r"\b[0-9a-f]{8}\b", "NODE", text)
    return re.sub(r"version \d+", "version N", re.sub(r"\d{4}-\d\d-\d\d \d\d[.:]\d\d", "DATE", text))


def test_state_of_a_cloned_home_is_shown_beside_ours_and_kept_as_a_snapshot_when_ours_goes_on(tmp_path: Path) -> None:
    """F37."""
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        write_two_states(swarm)

        swarm.mount()
        forks = swarm.path / ".forks"
        wait_until("the other state is shown", lambda: os.listdir(forks))
        (name,) = os.listdir(forks)
        assert ".forks" not in os.listdir(swarm.path)
        assert sorted(os.listdir(forks / name)) == ["both", "letter"]
        assert (forks / name / "letter").read_bytes() == LETTER
        assert (forks / name / "both").read_bytes() == b"as it was"
        assert code_of((forks / name / "new").touch) == errno.EROFS
        assert (swarm.path / "both").read_bytes() == b"of this machine"
        (swarm.path / "both").write_bytes(b"one supplier stops nobody")

        shown = json.loads(swarm.run("resolve", "--json").stdout)["forks"]
        assert [(each["name"], each["came"], each["went"], each["changed"]) for each in shown] == [(name, 1, 1, 1)]
        for command, printed in readme_steps(name):
            said = session_step(swarm, command)
            other = said.replace(
                "written by a copy of this home, or here before an old copy of this disk was put back", "node NODE"
            )
            assert plain(other) == plain(printed), f"$ {command}\n{said}"
        assert (swarm.path / "letter").read_bytes() == LETTER
        assert os.listdir(forks) == []
        assert (swarm.path / ".snapshots" / name / "letter").read_bytes() == LETTER
        assert "nothing is to be chosen" in swarm.run("resolve").stdout
        swarm.run("resolve", name, ok=(10,))
        swarm.sync()  # at all three: who held the other one takes ours again
        swarm.remount()
        assert os.listdir(forks) == []
        assert (swarm.path / ".snapshots" / name / "both").read_bytes() == b"as it was"
        wait_until("it is safe", lambda: swarm.status()["state"] == "safe")  # work in the background goes on


def test_way_back_of_the_manual_makes_the_volume_as_a_kept_state_was(tmp_path: Path) -> None:
    with Practice(tmp_path, suppliers=1, code="1/1") as swarm:
        twins = swarm.path / "twins"
        write_twins(twins)
        before = looks(twins)
        swarm.run("snapshot", "create", "other")
        change_twins(twins)
        (swarm.path / "new").write_bytes(b"new")
        changed = looks(twins)
        for command in ways_back(swarm, "other"):
            if command[0] == "bitdustfs":
                swarm.run(*command[1:])
            else:
                subprocess.run(command, check=True, capture_output=True)
        assert os.listdir(swarm.path) == ["twins"]
        assert looks(twins) == before == looks(swarm.path / ".snapshots" / "other" / "twins")
        assert looks(swarm.path / ".snapshots" / "before-going-back" / "twins") == changed


def copied(swarm: Practice, directory: Path) -> Path:
    """A copy of the home, as somebody makes one who wants it on another machine too."""
    target = directory / "copy"
    target.mkdir(mode=0o700)
    for each in swarm.home.iterdir():
        if each.name != "demo":  # the suppliers are not in it but for a practice swarm
            subprocess.run(["cp", "-a", str(each), str(target)], check=True)
    return target


def test_copied_home_and_its_original_write_while_cut_from_each_other_and_nothing_of_both_is_lost(
    tmp_path: Path,
) -> None:
    """F37: a head needs more than half of the suppliers, so what fewer let one of the two write is never sent."""
    with Practice(tmp_path, suppliers=5, code="1/3") as swarm:
        (swarm.path / "letter").write_bytes(LETTER)
        swarm.sync()
        swarm.umount()
        there, path = copied(swarm, tmp_path), tmp_path / "there"
        path.mkdir()
        swarm.mount()
        for number in (3, 4, 5):
            swarm.kill_supplier(number)
        (swarm.path / "of the first").write_bytes(LETTER[:100_000])
        wait_until(
            "two suppliers have its content, and no majority its name", lambda: synced(swarm)["state"] == "placed"
        )
        swarm.kill_mount()

        for number in (1, 2):
            swarm.kill_supplier(number)
        for number in (3, 4, 5):
            swarm.run("demo", "revive", str(number))
        swarm.run("mount", "--take-over", str(path), home=there)
        assert os.listdir(path) == ["letter"]
        (path / "of the second").write_bytes(LETTER[:50_000])
        swarm.run("sync", str(path), home=there)
        for number in (1, 2):
            swarm.run("demo", "revive", str(number))
        swarm.wait_for_suppliers(there)
        swarm.run("sync", str(path), home=there)
        assert os.listdir(path / ".forks") == []

        assert "A copy of this home" in swarm.run("mount", str(swarm.path)).stdout
        assert code_of((swarm.path / "never").touch) == errno.EROFS  # from the first moment on
        swarm.umount()
        swarm.run("umount", str(path), home=there)
        swarm.mount()
        wait_until("it is put aside", lambda: list(swarm.path.glob("Put aside */of the first")))  # suppliers have it
        (aside,) = swarm.path.glob("Put aside *")
        assert sorted(os.listdir(swarm.path)) == [aside.name, "letter", "of the second"]
        assert (aside / "of the first").read_bytes() == LETTER[:100_000]
        assert (swarm.path / "of the second").read_bytes() == LETTER[:50_000]
        assert (swarm.path / "letter").read_bytes() == LETTER
        swarm.sync()
