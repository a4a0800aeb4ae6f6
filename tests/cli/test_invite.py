"""`invite` and `join` by themselves: what they print, keep and refuse before anybody is dialled."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from bitdustfs.cli.amounts import default
from bitdustfs.core import invited
from bitdustfs.core.invitation import read_line
from bitdustfs.core.sheet import qr_lines
from bitdustfs.edges.config import load, store
from bitdustfs.edges.home import Home
from bitdustfs.edges.invitations_disk import KEPT_S, DiskInvitations
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.names_disk import save_name
from bitdustfs.testing.swarm import make_identity
from tests.cli.conftest import Call, Said

MIB = 1 << 20
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@pytest.fixture
def listening(home: Path) -> Path:
    """The home, which says where it is to be reached."""
    store(home / "config.toml", "give.listen", "192.0.2.7:4999")
    return home


def line_in(said: Said) -> str:
    found = re.search(r"bitdustfs join ([0-9A-Z-]+)$", said.out, flags=re.MULTILINE)
    assert found is not None, said
    return found[1]


def test_invitation_is_a_line_that_names_this_machine_and_a_qr_code(listening: Path, call: Call) -> None:
    said = call("--home", listening, "invite", "--offer", "50M", "--need", "20M", "--name", "anna")
    assert said.code == 0, said.err
    line = read_line(line_in(said))
    assert identity_of(read_keys(Home(listening))).node.startswith(line.front)
    assert line.address == "192.0.2.7:4999"
    assert "Tell this to anna" in said.out and "You give up to 50.0 MiB, and take up to 20.0 MiB." in said.out
    assert all(row.rstrip() in said.out for row in qr_lines(line_in(said).replace("-", "")))
    assert "\x1b" not in said.out  # no colours where there is no terminal
    spoken = re.search(r"^    ((?:[0-9A-Z]{4} ){6}[0-9A-Z]{4})\n    (.*)$", said.out, flags=re.MULTILINE)
    assert spoken is not None and read_line(spoken[1] + spoken[2]) == line
    assert "Nobody can join yet: start `bitdustfs mount DIRECTORY`" in said.out


def test_invitation_is_kept_privately_without_its_token(listening: Path, call: Call) -> None:
    said = call("--home", listening, "invite", "--offer", "50M")
    line = read_line(line_in(said))
    (kept,) = (listening / "invitations").iterdir()
    assert kept.name == f"{line.ticket.mark.hex()}.json"
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    assert invited.parse(kept.read_bytes()).ticket.key == line.ticket.key
    for file in listening.rglob("*"):
        if file.is_file():
            assert line.token not in file.read_bytes() and line.token.hex() not in file.read_text(errors="replace")
    listed = call("--home", listening, "invite", "list", "--json").out
    assert line.ticket.key.hex() not in listed and line_in(said) not in listed


def test_invitations_are_listed_and_taken_back(listening: Path, call: Call) -> None:
    assert "No invitation was made here" in call("--home", listening, "invite", "list").out
    call("--home", listening, "invite", "--offer", "50M", "--name", "anna")
    call("--home", listening, "invite", "--offer", "1M", "--expires", "2h")
    kept = json.loads(call("--home", listening, "invite", "list", "--json").out)["invitations"]
    second, first = sorted(kept, key=lambda each: str(each["name"]))
    assert (first["state"], first["name"], first["offer_bytes"], first["need_bytes"]) == (
        "open",
        "anna",
        50 * MIB,
        50 * MIB,
    )
    assert second["expires_s"] - second["made_s"] == 7200
    assert call("--home", listening, "invite", "cancel", "anna").code == 0
    assert call("--home", listening, "invite", "cancel", second["invitation"]).code == 0
    said = call("--home", listening, "invite", "list").out
    assert said.count("cancelled") == 2 and "open" not in said
    assert call("--home", listening, "invite", "cancel", "boris").code == 10


def test_two_for_one_name_are_told_apart_by_their_digits(listening: Path, call: Call) -> None:
    for _ in range(2):
        call("--home", listening, "invite", "--offer", "1M", "--name", "anna")
    said = call("--home", listening, "invite", "cancel", "anna")
    assert said.code == 2 and "several invitations are for anna" in said.err


def test_invitations_long_past_are_forgotten_with_the_next_one(listening: Path, call: Call) -> None:
    call("--home", listening, "invite", "--offer", "1M", "--expires", "1h")
    DiskInvitations(Home(listening).invitations).tidy(int(time.time()) + KEPT_S)
    assert len(list((listening / "invitations").iterdir())) == 1
    DiskInvitations(Home(listening).invitations).tidy(int(time.time()) + KEPT_S + 3601)
    assert not list((listening / "invitations").iterdir())


def test_what_is_offered_is_given_from_then_on(home: Path, call: Call) -> None:
    store(home / "config.toml", "give.size", "50M")
    assert "from now on" not in call("--home", home, "invite", "--offer", "50M").out
    assert load(home / "config.toml").give_listen == "0.0.0.0:4878"
    said = call("--home", home, "invite", "--offer", "20M")
    assert "gives up to 70.0 MiB from now on, to all friends together (give.size)" in said.out
    assert load(home / "config.toml").give_size == 70 * MIB
    call("--home", home, "invite", "--offer", "0", "--need", "20M")
    assert load(home / "config.toml").give_size == 70 * MIB


def test_first_offer_leaves_something_for_the_next_friend(home: Path, call: Call) -> None:
    call("--home", home, "invite", "--offer", "50M")
    assert load(home / "config.toml").give_size == default(Home(home)) > 50 * MIB
    assert call("--home", home, "invite").code == 0


def test_without_an_offer_the_rest_of_what_is_given_is_offered(listening: Path, call: Call) -> None:
    store(listening / "config.toml", "give.size", "70M")
    call("--home", listening, "invite", "--offer", "50M")
    assert "You give up to 20.0 MiB, and take up to 20.0 MiB." in call("--home", listening, "invite").out
    said = call("--home", listening, "invite")
    assert said.code == 2 and "nothing offered and nothing needed" in said.err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:4999", "from this machine only"),
        ("192.168.1.5:4999", "your router forwards TCP"),
        ("100.64.0.9:4999", "your router forwards TCP"),
        ("[fd00::9]:4999", "your router forwards TCP"),
        ("8.8.4.4:4999", "from everywhere, unless a firewall keeps port 4999 shut"),
        ("[2a00:1450:4001::5]:4999", "from everywhere"),
    ],
)
def test_invitation_says_from_where_its_address_can_be_dialled(
    address: str, said: str, home: Path, call: Call
) -> None:
    done = call("--home", home, "invite", "--offer", "1M", "--address", address)
    assert done.code == 0 and said in done.out
    assert read_line(line_in(done)).address == address


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--offer", "0"), "nothing offered"),
        (("--offer", "8000T"), "the disk has"),
        (("--offer", "1M", "--expires", "0"), "more than no time"),
        (("--offer", "1M", "--expires", "400d"), "a year at most"),
        (("--offer", "1M", "--address", "anna.example:4878"), "'anna.example' is none"),
        (("--offer", "1M", "--address", "192.0.2.7:0"), "port 0"),
        (("--offer", "1M", "--name", "\x1b[31mred"), "U+001B"),
        (("--offer", "1M", "--name", "a\u202eb"), "U+202E"),
        (("--offer", "1M", "--name", "a/b"), "'/'"),
        (("--offer", "1M", "--name", " "), "cannot be a name"),
        (("--offer", "1M", "--name", "n" * 33), "cannot be a name"),
    ],
)
def test_invitation_that_makes_no_sense_is_refused_and_none_is_kept(
    words: tuple[str, ...], said: str, home: Path, call: Call
) -> None:
    done = call("--home", home, "invite", *words)
    assert done.code == 2 and said in done.err
    assert not (home / "invitations").exists()


def test_name_of_another_friend_is_refused(home: Path, call: Call) -> None:
    save_name(home / "contracts", make_identity("anna").owner, "anna")
    done = call("--home", home, "invite", "--offer", "1M", "--name", "anna")
    assert done.code == 11 and "anna is somebody already, with the fingerprint" in done.err


def test_both_verbs_need_keys_first(tmp_path: Path, call: Call) -> None:
    for words in (("invite",), ("join", "31T6-SGMG")):
        done = call("--home", tmp_path / "none", *words)
        assert done.code == 10 and "run `bitdustfs init` first" in done.err


def test_mistyped_line_is_refused_before_anybody_is_dialled(listening: Path, call: Call) -> None:
    plain = line_in(call("--home", listening, "invite", "--offer", "1M")).replace("-", "")
    wrong = ALPHABET[(ALPHABET.index(plain[9]) + 1) % 32]
    done = call("--home", listening, "join", plain[:9] + wrong + plain[10:])
    assert done.code == 2 and "group 3" in done.err and "ask for that group again" in done.err
    assert call("--home", listening, "join", "not", "a", "line").code == 2
