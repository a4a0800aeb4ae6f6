"""Five hosts, as friends have them: one takes another address, one is behind a firewall, a link is cut and healed.

Anna stores with Boris, Clara and Dora, who stands behind a firewall that drops everything inbound. Dora stores with
the other three, and Boris with Clara. Nobody loses a byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.net.internet import PORT, Host, Internet, Started, wait_until

CONTENT = os.urandom(1 << 20)


@dataclass
class Friends:
    internet: Internet
    anna: Host
    boris: Host
    clara: Host
    dora: Host


def friend(internet: Internet, name: str) -> tuple[Host, str]:
    host = internet.host(name)
    owner = host.init()
    for key, value in (("give.size", "1G"), ("give.listen", f"[::]:{PORT}"), ("dht.enabled", "false")):
        host.run("config", "set", key, value)
    return host, owner


def mounted(host: Host) -> str:
    """Mount; where friends reach this host."""
    said: Started = host.mount()
    wait_until("it says where it is", lambda: "reach this machine at" in said.out)
    return said.out.partition("reach this machine at ")[2].split()[0].rstrip(".")


@pytest.fixture(scope="module")
def friends(internet: Internet) -> Iterator[Friends]:
    made = {name: friend(internet, name) for name in ("anna", "boris", "clara", "dora")}
    hosts = {name: host for name, (host, _) in made.items()}
    for name, host in hosts.items():
        for other, (_, owner) in made.items():
            if other != name:
                host.run("config", "set", f"allow.{owner}", "100M")
    hosts["dora"].drop_inbound()
    places = {name: mounted(host) for name, host in hosts.items()}
    hosts["dora"].run("hire", "--size", "50M", "--label", "anna", places["anna"])
    wait_until("dora uses anna", lambda: hosts["dora"].online() == {"anna"})
    for name in ("boris", "clara"):
        hosts["anna"].run("hire", "--size", "50M", "--label", name, places[name])
        hosts["dora"].run("hire", "--size", "50M", "--label", name, places[name])
    hosts["boris"].run("hire", "--size", "50M", "--label", "clara", places["clara"])
    hosts["anna"].run("hire", "--size", "50M", "--label", "dora", places["dora"])  # over the connection that dora has
    yield Friends(internet, **hosts)


def wait_until_whole(friends: Friends) -> None:
    wait_until("anna's suppliers answer", lambda: friends.anna.online() == {"boris", "clara", "dora"})
    wait_until("dora's suppliers answer", lambda: friends.dora.online() == {"anna", "boris", "clara"})


def check_data(friends: Friends, name: str) -> None:
    """What anna and dora write is safe, and is read back from the others."""
    for host in (friends.anna, friends.dora):
        (host.seen / name).write_bytes(CONTENT)
        assert host.sync() == "safe"
        host.ask("cache-drop")
        assert (host.seen / name).read_bytes() == CONTENT


def test_friend_behind_a_firewall_gives_and_takes(friends: Friends) -> None:
    wait_until_whole(friends)
    check_data(friends, "first")


@pytest.mark.slow
def test_supplier_with_another_address_is_found_again(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.boris.move()
    friends.anna.ask("cache-drop")
    wait_until_whole(friends)
    check_data(friends, "second")
    shown = {row["label"]: row["address"] for row in friends.anna.ask("status", path="/")["suppliers"]}
    assert friends.boris.address in shown["boris"] or friends.boris.address6 in shown["boris"]


@pytest.mark.long
def test_two_friends_who_move_at_once_find_each_other_by_a_third(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.anna.move()
    friends.boris.move()
    wait_until_whole(friends)
    check_data(friends, "third")


def test_link_that_was_cut_is_used_again_and_all_is_there(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.internet.cut(friends.anna, friends.clara)
    friends.anna.ask("cache-drop")
    assert (friends.anna.seen / "first").read_bytes() == CONTENT
    friends.internet.heal(friends.anna, friends.clara)
    wait_until_whole(friends)
    for host in (friends.anna, friends.dora):
        host.ask("cache-drop")
        assert (host.seen / "first").read_bytes() == CONTENT


def test_friend_who_moved_while_its_process_was_away_is_found_again(friends: Friends) -> None:
    wait_until_whole(friends)
    friends.clara.run("umount", str(friends.clara.path))
    friends.clara.move()
    mounted(friends.clara)
    wait_until_whole(friends)
    check_data(friends, "fourth")
