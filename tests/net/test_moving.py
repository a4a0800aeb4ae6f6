"""Five hosts, as friends have them: one takes another address, one is behind a firewall, a link is cut and healed.

Each invites some of the others, who join: Anna is friends with all, Boris with Clara and Dora too. Dora stands behind
a firewall that drops everything inbound: whom she is to be friends with invites her. Nobody loses a byte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.net.internet import PORT, Host, Internet, wait_until

CONTENT = os.urandom(1 << 20)
NAMES = ("anna", "boris", "clara", "dora", "emil")
FRIENDS = {  # who invites whom
    "anna": ("boris", "clara", "dora", "emil"),
    "boris": ("clara", "dora"),
}
SUPPLIERS = {"anna": {"boris", "clara", "dora", "emil"}, "dora": {"anna", "boris"}}  # of those who write


@dataclass
class Friends:
    internet: Internet
    anna: Host
    boris: Host
    clara: Host
    dora: Host
    emil: Host

    def of(self, name: str) -> Host:
        host: Host = getattr(self, name)
        return host


def start(host: Host) -> None:
    said = host.mount()
    wait_until("it says where it is", lambda: "reach this machine at" in said.out)


def befriend(one: Host, other: Host) -> None:
    """One invites, the other joins."""
    said = one.run("invite", "--json", "--offer", "50M", "--name", other.name).out
    other.run("join", "-", "--name", one.name, given=json.loads(said)["line"])


@pytest.fixture(scope="module")
def friends(internet: Internet) -> Iterator[Friends]:
    hosts = {name: internet.host(name) for name in NAMES}
    for host in hosts.values():
        host.init()
        for key, value in (("give.listen", f"[::]:{PORT}"), ("dht.enabled", "false")):
            host.run("config", "set", key, value)
    hosts["dora"].drop_inbound()
    for host in hosts.values():
        start(host)
    for name, others in FRIENDS.items():
        for other in others:
            befriend(hosts[name], hosts[other])
    yield Friends(internet, **hosts)


def wait_until_whole(friends: Friends) -> None:
    for name, suppliers in SUPPLIERS.items():
        wait_until(f"{name}'s friends answer", lambda: friends.of(name).online() == suppliers)  # noqa: B023


def knows_where(friends: Friends, name: str, moved: str) -> bool:
    """Whether one's mount knows where another one is now."""
    shown = {row["label"]: row["address"] for row in friends.of(name).ask("status", path="/")["suppliers"]}
    host = friends.of(moved)
    return host.address in shown[moved] or host.address6 in shown[moved]


def check_data(friends: Friends, name: str) -> None:
    """What anna and dora write is safe, and is read back from the others."""
    for host in map(friends.of, SUPPLIERS):
        (host.seen / name).write_bytes(CONTENT)
        assert host.sync() == "safe"
        host.ask("cache-drop")
        assert (host.seen / name).read_bytes() == CONTENT


def check_reads(friends: Friends, name: str) -> None:
    for host in map(friends.of, SUPPLIERS):
        host.ask("cache-drop")
        assert (host.seen / name).read_bytes() == CONTENT


@pytest.mark.slow
def test_friend_behind_a_firewall_gives_and_takes(friends: Friends) -> None:
    wait_until_whole(friends)
    check_data(friends, "first")
    told = friends.dora.ask("friends")["friends"]
    assert {each["name"] for each in told} == SUPPLIERS["dora"]
    assert all(each["gives_bytes"] == each["takes_bytes"] == 50 << 20 for each in told)


def test_who_invites_is_told_whether_friends_could_dial_him(friends: Friends) -> None:
    wait_until_whole(friends)
    assert "Nobody could dial this machine: " in friends.dora.run("invite", "--offer", "1M").out
    said = friends.anna.run("invite", "--offer", "1M").out
    assert re.search(
        rf"(\w+) dialled this machine just now at {re.escape(friends.anna.address)}:{PORT}, in your", said
    )


def test_link_that_is_cut_stops_no_read_and_is_used_again(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.internet.cut(friends.anna, friends.clara)
    check_reads(friends, "first")
    wait_until("who is behind the cut is missed", lambda: friends.anna.online() == {"boris", "dora", "emil"})
    friends.internet.heal(friends.anna, friends.clara)
    wait_until_whole(friends)
    check_reads(friends, "first")


@pytest.mark.slow
def test_friend_who_moved_while_its_process_was_away_is_found_again(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.clara.run("umount", str(friends.clara.path))
    friends.clara.move()
    start(friends.clara)
    wait_until_whole(friends)
    check_data(friends, "second")


@pytest.mark.slow
def test_supplier_with_another_address_is_found_again(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.boris.move()
    friends.anna.ask("cache-drop")
    for name in SUPPLIERS:  # until it is noticed he still counts as there
        wait_until(f"{name} knows where boris is", lambda: knows_where(friends, name, "boris"))  # noqa: B023
    wait_until_whole(friends)
    check_data(friends, "third")


@pytest.mark.long
def test_two_friends_who_move_at_once_find_each_other_by_a_third(friends: Friends) -> None:
    """By Clara. Dora has nobody but these two, and nobody can dial her: she does not find them, nor they her."""
    wait_until_whole(friends)
    check_data(friends, "fourth")
    friends.anna.move()
    friends.boris.move()
    wait_until("anna knows where boris is", lambda: knows_where(friends, "anna", "boris"))
    wait_until("all but dora answer", lambda: friends.anna.online() == {"boris", "clara", "emil"})
    friends.anna.ask("cache-drop")
    assert (friends.anna.seen / "fourth").read_bytes() == CONTENT


@pytest.mark.slow
def test_two_friends_without_any_address_find_each_other_in_one_network(friends: Friends) -> None:
    """Over IPv6, by the addresses that their interfaces gave themselves; those are in nothing that is kept."""
    wait_until("they have each other", lambda: "emil" in friends.anna.online())
    for host in (friends.anna, friends.emil):  # and they stay there
        host.enter_bare(5)
    wait_until("they have each other, and nobody else", lambda: friends.anna.online() == {"emil"})
    assert "fe80" not in json.dumps(friends.anna.ask("status", path="/")["suppliers"])
    assert "fe80" not in friends.anna.run("friends", "show", "emil").out


@pytest.mark.slow
def test_words_alone_bring_all_back_in_a_network_without_any_address(friends: Friends) -> None:
    """Over link-local IPv6, without the hash table, whoever is there is asked. The last test: it puts Anna out."""
    names = {each.name for each in friends.anna.seen.iterdir()}
    friends.anna.run("umount", str(friends.anna.path))
    for host in (friends.boris, friends.clara):
        host.enter_bare(5)
    new = friends.internet.host("new")
    new.enter_bare(5)
    shows = ("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
    wait_until("its interface has its address", lambda: "fe80" in new.exec(*shows).out)
    said = new.run("recover", "--nearby", "--words-file", str(friends.anna.directory / "words"))
    assert "Asking who is at [fe80::" in said.err
    new.mount()
    wait_until("all who are here answer", lambda: new.online() == {"boris", "clara", "emil"})
    assert {each.name for each in new.seen.iterdir()} == names
    for name in names:
        assert (new.seen / name).read_bytes() == CONTENT
