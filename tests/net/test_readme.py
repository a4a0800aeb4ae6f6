"""The session "with a friend" of README, between two hosts in one network; then both are in another one at once.

Each command is run as it is printed, and what it says is compared with what is printed. Only this may differ: ids,
fingerprints and dates, sizes in KiB and MiB, and lines that README leaves out with `...`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.net.internet import PORT, Host, Internet, wait_until

README = Path(__file__).resolve().parents[2] / "README.md"
INVITATION = re.compile(r"\b[0-9A-Z]{4}(-[0-9A-Z]{4}){13}\b")
MAY_DIFFER = (
    (INVITATION, "INVITATION"),
    (re.compile(r"\b[0-9a-f]{4}( [0-9a-f]{4}){3}\b"), "FINGERPRINT"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "DATE"),
    (re.compile(r"\b\d+(\.\d+)? [KM]iB"), "SIZE"),
)
LEFT_OUT = "  ..."


@dataclass(frozen=True)
class Step:
    who: str
    command: str
    printed: Sequence[str]


def steps() -> list[Step]:
    section = README.read_text().partition("\n## With a friend\n")[2].partition("\n## ")[0]
    found: list[Step] = []
    for line in section.split("```")[1].strip("\n").splitlines():
        prompt = re.fullmatch(r"(\w+)\$ (.+)", line)
        if prompt:
            found.append(Step(prompt[1], prompt[2], []))
        else:
            found[-1] = Step(found[-1].who, found[-1].command, [*found[-1].printed, line])
    return found


def same(text: str) -> str:
    for pattern, name in MAY_DIFFER:
        text = pattern.sub(name, text)
    return text


def matches(printed: Sequence[str], said: str) -> bool:
    wanted = "".join(
        r"(?:.*\n)*?" if line == LEFT_OUT else re.escape(same(line)) + r"\n" for line in printed if line.strip()
    )
    return re.fullmatch(wanted, "".join(line + "\n" for line in same(said).splitlines() if line.strip())) is not None


def run(host: Host, command: str) -> str:
    """What a command says, to a person who sees both streams. A verb of ours costs no start of Python."""
    words = shlex.split(command.replace("~", str(host.directory)))
    if words[0] == "bitdustfs":
        done = host.run(*words[1:])
    else:
        done = host.exec("sh", "-c", command.replace("~", str(host.directory)))
    return done.err + done.out


@dataclass
class Pair:
    internet: Internet
    anna: Host
    boris: Host

    def are_together(self) -> bool:
        return (self.anna.online(), self.boris.online()) == ({"boris"}, {"anna"})

    def places(self) -> tuple[str, str]:
        """Where Anna's supplier and Boris's are."""
        return f"{self.boris.address}:{PORT}", f"{self.anna.address}:{PORT}"

    def known(self) -> tuple[str, str]:
        """Where each takes his supplier to be."""
        (of_anna,), (of_boris,) = (host.ask("status", path="/")["suppliers"] for host in (self.anna, self.boris))
        return of_anna["address"], of_boris["address"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Internet(tmp_path_factory.mktemp("home")) as internet:
        made = Pair(internet, internet.host("anna"), internet.host("boris"))
        for host in (made.anna, made.boris):
            host.enter(7)
            host.init()
            for key, value in (("give.listen", f"0.0.0.0:{PORT}"), ("dht.enabled", "false")):
                host.run("config", "set", key, value)
            host.mount()
        yield made


def test_session_with_a_friend_is_as_readme_prints_it(pair: Pair) -> None:
    hosts, invitation = {"anna": pair.anna, "boris": pair.boris}, ""
    assert len(steps()) > 6
    for step in steps():
        said = run(hosts[step.who], INVITATION.sub(invitation, step.command))
        found = INVITATION.search(said)
        invitation = found[0] if found is not None else invitation
        assert matches(step.printed, said), f"{step.who}$ {step.command}\n{said}"


def test_two_friends_who_move_at_once_find_each_other_in_one_network(pair: Pair) -> None:
    """Nobody else is there, and there is no hash table."""
    wait_until("they are together", pair.are_together)
    for host in (pair.anna, pair.boris):
        host.enter(8)
    wait_until("each has found the other there", lambda: pair.are_together() and pair.known() == pair.places())
    (pair.anna.seen / "letter").write_bytes(b"from the other network")
    assert pair.anna.sync() == "safe"


@pytest.mark.long
def test_words_alone_bring_all_back_where_a_supplier_is_in_the_same_network(pair: Pair) -> None:
    """By the hash table, which begins with whoever is heard there."""
    for host in (pair.boris, pair.anna):
        host.run("umount", str(host.path))
        host.run("config", "set", "dht.enabled", "true")
        mounted = host.mount()
    wait_until("her record is in the hash table", lambda: "the owner's record is in the hash table" in mounted.err)
    pair.anna.run("umount", str(pair.anna.path))
    new = pair.internet.host("new")
    new.enter(8)
    said = new.run("recover", "--nearby", "--words-file", str(pair.anna.directory / "words"))
    assert f"Looking for your suppliers through {pair.boris.address}:{PORT}." in said.err
    new.mount()
    wait_until("the supplier is there", lambda: new.online() == {"boris"})
    assert (new.seen / "letter").read_bytes() == b"from the other network"


def test_nobody_nearby_is_told_as_such(pair: Pair) -> None:
    alone = pair.internet.host("alone")
    alone.enter(9)
    said = alone.run("recover", "--nearby", "--words-file", str(pair.anna.directory / "words"), ok=(10,))
    assert "nobody in this network says that bitdustfs runs there" in said.err
