"""Friends find each other with one line, each with real processes and mounts, and nobody loses a byte."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bitdustfs.cli.processes import MODULE
from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home, holder
from tests.children import bitdustfs, start
from tests.mount.practice import bytes_in, done_here, wait_until
from tests.mount.support import HANGS_S

pytestmark = pytest.mark.slow


class Person:
    """Somebody with a home, a mount at `path`, and 24 words. Verbs run in this process, but those that go on."""

    def __init__(self, directory: Path, name: str, seed: int) -> None:
        self.name = name
        self.home = directory / name
        self.path = directory / f"{name}-mnt"
        self.words = directory / f"{name}-words"
        self.content = random.Random(seed).randbytes(700_000)
        self.host = "127.0.0.1"
        self.path.mkdir()

    def run(self, *words: str, ok: tuple[int, ...] = (0,), stdin: str = "") -> str:
        """What a verb prints, on either stream."""
        command = ["--home", str(self.home), *words]
        done = bitdustfs(*command, input=stdin) if stdin or words[0] == "mount" else done_here(command, {})
        assert done.returncode in ok, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def init(self) -> None:
        self.run("init", "--words-file", str(self.words))
        self.run("config", "set", "give.listen", f"{self.host}:0")

    def move_out(self) -> None:
        """Listen at an address of one's own, where nobody takes the port while its owner is away."""
        numbers = (64 + os.getpid() % 64, os.getpid() // 64 % 256, ord(self.name[0]))
        self.host = "127." + ".".join(map(str, numbers))
        self.run("config", "set", "give.listen", f"{self.host}:0")

    def mount(self) -> None:
        said = self.run("mount", str(self.path))
        place = re.search(rf"at ([0-9a-f]{{64}}@{self.host}:\d+)", said)
        assert place is not None, said
        self.place = place[1]
        self.run("config", "set", "give.listen", self.place.partition("@")[2])  # the same from now on

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Only listen and keep, without a mount."""
        words = ["--home", str(self.home), "serve", "-f"]
        with (self.home / "stderr").open("w") as stderr:
            process = start(MODULE, *words, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            self.place = process.stdout.readline().strip()
            assert self.place, (self.home / "stderr").read_text()
            self.run("config", "set", "give.listen", self.place.partition("@")[2])  # the same from now on
            yield
        finally:
            process.terminate()
            process.wait(HANGS_S)
            if process.stdout is not None:
                process.stdout.close()

    def invite(self, friend: str, *words: str) -> str:
        said = self.run("invite", "--offer", "50M", "--name", friend, *words)
        line = re.search(r"bitdustfs join ([0-9A-Z-]+)$", said, flags=re.MULTILINE)
        assert line is not None, said
        return line[1]

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run("status", "--json", ok=(0, 30, 31, 32)))
        return report

    def answering(self) -> set[str]:
        """The names of the suppliers that answer."""
        return {each["label"] for each in self.status()["suppliers"] if each["answers"]}

    def kill(self) -> None:
        """The machine is off."""
        pid = holder(Home(self.home))
        if pid:
            os.kill(pid, signal.SIGKILL)
        wait_until("the process is dead", lambda: holder(Home(self.home)) is None)
        if mounts.mounted_at(str(self.path), mounts.read_mounts()) is not None:
            mounts.detach(str(self.path), lazy=True)

    def burn(self) -> None:
        """The machine is gone, with its disk."""
        self.kill()
        shutil.rmtree(self.home)


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Person, Person, Person]]:
    with ExitStack() as stack:
        made = [Person(tmp_path, name, seed) for seed, name in enumerate(("anna", "boris", "clara"))]
        for each in made:
            stack.callback(each.kill)
            each.init()
        yield made[0], made[1], made[2]


def test_two_friends_join_with_one_line_and_each_has_the_others_data(
    people: tuple[Person, Person, Person],
) -> None:
    anna, boris, clara = people
    anna.mount()
    line = anna.invite("boris")
    assert "joined" not in boris.run("join", line[:-1] + ("0" if line[-1] != "0" else "1"), ok=(2,))
    said = boris.run("join", "-", "--name", "anna", stdin=line.lower().replace("-", " "))  # not mounted
    assert re.search(rf"Joined: anna, fingerprint ([0-9a-f]{{4}} ?){{4}}, at {anna.host}:\d+\.", said)
    assert "anna gives you 50.0 MiB; you give 50.0 MiB. Both signed the contract." in said
    assert "anna can dial this machine at 127.0.0.1:" in said and "list of processes" not in said
    boris.mount()
    wait_until("both are connected", lambda: (anna.answering(), boris.answering()) == ({"boris"}, {"anna"}))
    assert re.search(
        r"boris  ([0-9a-f]{4} ){4} online     gives 50.0 MiB \(you use [^)]+\), takes 50.0 MiB", anna.run("friends")
    )
    boris.run("friends", "rename", "anna", "anna's")
    assert "anna's" in boris.run("friends") and boris.answering() == {"anna's"}
    boris.run("friends", "rename", "anna's", "anna")
    assert "suppliers leave anna" in boris.run("friends", "remove", "anna", ok=(2,))
    assert "open-ended" in boris.run("friends", "show", "anna")
    for one in (anna, boris):
        (one.path / "letter").write_bytes(one.content)
        one.run("sync", str(one.path))
    for one, other in ((anna, boris), (boris, anna)):
        assert bytes_in(other.home / "shelf") > len(one.content)
        one.run("cache", "drop", str(one.path))
        assert (one.path / "letter").read_bytes() == one.content
        (told,) = json.loads(one.run("contracts", "--json"))["contracts"]
        assert told["used_there_bytes"] > len(one.content) < told["used_here_bytes"]
    assert "You were friends already: anna" in boris.run("join", line)  # mounted now
    assert "used by another machine already" in clara.run("join", line, ok=(13,))
    assert "list of processes" in clara.run("join", line, ok=(13,))
    assert "Until then all goes on" in (said := anna.run("contracts", "end", "boris", "--yes"))
    assert "Both have signed it." in said and "open-ended" not in boris.run("contracts")
    for one, name in ((anna, "boris"), (boris, "anna")):  # who ended it says so first
        one.run("contracts", "renew", name, ok=(0, 14))
    for one in (anna, boris):
        wait_until("it goes on as if it had not ended", lambda one=one: "open-ended" in one.run("contracts"))
    said = anna.run("contracts", "change", "boris", "--offer", "60M", "--yes")
    assert "boris may store up to 60.0 MiB here at once" in said and "Both have signed it." in said
    cancelled = anna.invite("clara")
    anna.run("invite", "cancel", "clara")
    assert "was taken back" in clara.run("join", cancelled, ok=(13,))
    anna.kill()
    assert "hired" in anna.run("friends") and "boris" in anna.run("friends")  # not mounted
    assert "No friend yet" in clara.run("friends")
    assert "cannot be reached" in clara.run("join", cancelled, ok=(14,))
    assert line not in (anna.home / "log").read_text() + (boris.home / "log").read_text()


def test_three_friends_lose_a_disk_and_a_friend_and_not_a_byte(people: tuple[Person, Person, Person]) -> None:
    anna, boris, clara = people
    for one in people:
        one.move_out()
    with anna.serving():  # without a mount yet: then they are hired with the first one
        boris.run("join", anna.invite("boris"), "--name", "anna")
        clara.run("join", anna.invite("clara"), "--name", "anna")
    with boris.serving():
        clara.run("join", boris.invite("clara"), "--name", "boris")
    for one in people:
        one.mount()
    others = {one.name: {each.name for each in people} - {one.name} for one in people}
    wait_until("all are connected", lambda: all(one.answering() == others[one.name] for one in people))
    for one in people:
        (one.path / "diary").write_bytes(one.content)
        one.run("sync", str(one.path))
        report = one.status()
        assert (report["state"], report["code"]) == ("safe", "1/2")
    clara.kill()  # she is away
    boris.burn()  # and his disk is gone: his words are left, and one friend's address
    boris.run("recover", anna.place, "--words-file", str(boris.words), "--accept")
    boris.run("config", "set", "give.listen", f"{boris.host}:0")
    boris.mount()
    assert (boris.path / "diary").read_bytes() == boris.content
    wait_until("anna answers", lambda: "anna" in boris.answering())
    anna.run("cache", "drop", str(anna.path))  # what she has now is at nobody who is there
    clara.mount()
    wait_until("clara is back", lambda: "clara" in anna.answering())
    assert (anna.path / "diary").read_bytes() == anna.content
    clara.run("cache", "drop", str(clara.path))
    wait_until("anna answers clara", lambda: "anna" in clara.answering())
    assert (clara.path / "diary").read_bytes() == clara.content
    for one in people:
        assert (one.path / "diary").read_bytes() == one.content
    # the contracts outlive his burnt machine: they hire the new one without a hand
    wait_until("they use his new machine", lambda: all("boris" in one.answering() for one in (anna, clara)))
    # and what he kept for anna is made again there; for clara, who was started since, that takes minutes
    wait_until(
        "his new machine keeps it",
        lambda: bytes_in(boris.home / "shelf") > len(anna.content),
    )
