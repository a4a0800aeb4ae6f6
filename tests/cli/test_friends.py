"""`friends`: what is told of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import trio

from bitdustfs.cli.assemble_supplier import unlock
from bitdustfs.cli.befriending import Friends
from bitdustfs.cli.home_catalog import open_catalog
from bitdustfs.cli.unmounted import unmounted_friends
from bitdustfs.core import contract
from bitdustfs.core.contract import Party, Terms, fragments_for
from bitdustfs.core.invitation import ticket_of
from bitdustfs.core.invited import Guest, Invitation, Wish
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.engine.clerk import Clerk
from bitdustfs.model import Standing, Supplier, SupplierNo
from bitdustfs.ports import Catalog
from bitdustfs.testing.swarm import make_identity
from tests.cli.conftest import Call, contents

MIB = 1 << 20
ANNA, BURNT, HEIR = make_identity("anna"), make_identity("boris"), make_identity("new", owner="boris", epoch=2)


def row(number: int, node: bytes, label: str, standing: Standing) -> Supplier:
    return cast(
        Supplier,
        SimpleNamespace(
            supplier=SupplierNo(number),
            node=node,
            owner=HEIR.owner,
            label=label,
            address=f"192.0.2.{number}:4878",
            standing=standing,
            is_hired=standing is Standing.HIRED,
            capacity_bytes=1000 * number,
            used_bytes=number,
        ),
    )


def friends_of(home: Path, *rows: Supplier) -> Friends:
    async def nothing(*_: object) -> None:
        return

    def nobody() -> Clerk:
        raise AssertionError

    catalog = cast(Catalog, SimpleNamespace(suppliers=lambda: list(rows)))
    return Friends(Home(home), ANNA, catalog, commit=nothing, clerk=nobody, keep=nothing)


def test_machine_that_took_the_place_of_a_burnt_one_is_listed_as_the_same_friend(tmp_path: Path) -> None:
    old = row(1, BURNT.node, "boris-old", Standing.LEAVING)
    friends = friends_of(tmp_path, old, row(2, HEIR.node, "boris", Standing.HIRED))
    (told,) = friends.told({BURNT.node: "offline", HEIR.node: "online"})
    assert (told["name"], told["state"]) == ("boris", "online")
    assert told["nodes"] == [HEIR.node.hex(), BURNT.node.hex()]
    assert told["addresses"] == ["192.0.2.2:4878", "192.0.2.1:4878"]


def test_machine_that_was_given_up_is_not_listed_beside_its_heir(tmp_path: Path) -> None:
    old = row(1, BURNT.node, "boris-old", Standing.FIRED)
    (told,) = friends_of(tmp_path, old, row(2, HEIR.node, "boris", Standing.HIRED)).told({})
    assert (told["name"], told["nodes"], told["state"]) == ("boris", [HEIR.node.hex()], "hired")


class Rows:
    """As much of a catalog as has suppliers."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Supplier] = {}

    def suppliers(self) -> list[Supplier]:
        return list(self.rows.values())

    def put_supplier(self, row: Supplier) -> None:
        self.rows[row.node] = row


async def test_next_machine_of_a_friend_who_burnt_and_is_joined_again_has_his_name_and_the_burnt_one_another(
    tmp_path: Path,
) -> None:
    async def nothing(*_: object) -> None:
        return

    def nobody() -> Clerk:
        raise AssertionError

    catalog, told = Rows(), list[Supplier]()
    (tmp_path / "contracts").mkdir()
    friends = Friends(
        Home(tmp_path), ANNA, cast(Catalog, catalog), commit=nothing, clerk=nobody, keep=nothing, on_row=told.append
    )
    for who in (BURNT, HEIR):
        gives = Party(who.owner, who.node, MIB, fragments_for(MIB), who.node), Party(ANNA.owner, ANNA.node)
        signed = contract.countersign(ANNA, contract.propose(who, Terms(1, contract.NO_CONTRACT, 1, 0, *gives)))
        guest = Guest(who.node, who.owner, 1, ("192.0.2.7:4878",))
        made = Invitation(ticket_of(who.node[:10]), "boris", Wish(0, MIB), made_s=1, expires_s=9, guest=guest)
        await friends.joined(made, signed)
        await friends.joined(made, signed)  # again: changes nothing
    assert {row.node: row.label for row in catalog.suppliers()} == {BURNT.node: "boris-old", HEIR.node: "boris"}
    assert [row.label for row in told] == ["boris", "boris-old", "boris"]


# -- remove ------------------------------------------------------------------------------------------------


def befriended(home: Path, *, gives: int, takes: int) -> None:
    """Boris has joined: he keeps `gives` bytes for the person of that home, and stores `takes` bytes there."""
    with unmounted_friends(Home(home)) as known:
        us = identity_of(read_keys(Home(home)))
        his = (gives, fragments_for(gives), BURNT.node) if gives else ()
        ours = (takes, fragments_for(takes), us.node) if takes else ()
        sides = Party(BURNT.owner, BURNT.node, *his), Party(us.owner, us.node, *ours)
        signed = contract.countersign(us, contract.propose(BURNT, Terms(1, contract.NO_CONTRACT, 1, 0, *sides)))
        guest = Guest(BURNT.node, BURNT.owner, 1, ("192.0.2.7:4878",))
        made = Invitation(ticket_of(BURNT.node[:10]), "boris", Wish(takes, gives), made_s=1, expires_s=9, guest=guest)
        DiskContracts(Home(home).contracts).save_contract(BURNT.owner, signed.raw)
        trio.run(known.joined, made, signed)


def given_up(home: Path) -> None:
    """Everything of ours was brought from boris to others."""
    _identity, secrets = unlock(Home(home))
    with open_catalog(Home(home), secrets, lambda _hired: None) as (catalog, _code):
        (his,) = catalog.suppliers()
        catalog.put_supplier(replace(his, standing=Standing.FIRED))
        catalog.commit()


def test_friend_who_keeps_something_of_ours_is_not_removed(home: Path, call: Call) -> None:
    befriended(home, gives=MIB, takes=0)
    said = call("--home", home, "friends", "remove", "boris")
    assert said.code == 2
    assert "`bitdustfs suppliers leave boris`" in said.err
    assert "boris" in call("--home", home, "friends").out


def test_friend_who_was_promised_space_is_not_removed_and_what_he_stored_stays(home: Path, call: Call) -> None:
    befriended(home, gives=0, takes=MIB)
    said = call("--home", home, "friends", "remove", "boris")
    assert said.code == 2
    assert "`bitdustfs contracts end boris`" in said.err
    assert "boris" in call("--home", home, "friends").out


def test_friend_with_whom_nothing_is_left_is_removed_and_nothing_that_he_stored_here(home: Path, call: Call) -> None:
    """I14: the name is forgotten; what was agreed, and each byte of his, wait for the contract's end."""
    befriended(home, gives=MIB, takes=0)
    given_up(home)
    shelf = Home(home).path / "shelf" / BURNT.owner.hex() / "00"
    shelf.mkdir(parents=True)
    (shelf / "fragment").write_bytes(b"his")
    kept = contents(home / "shelf"), contents(home / "contracts")
    said = call("--home", home, "friends", "remove", "boris")
    assert (said.code, said.out) == (0, "boris is forgotten.\n")
    name = f"{BURNT.owner.hex()}.name"
    assert (contents(home / "shelf"), {**contents(home / "contracts"), name: b"boris\n"}) == kept
    assert call("--home", home, "friends").out.startswith("No friend yet.")
    assert call("--home", home, "friends", "remove", "boris").code != 0
