"""`friends`: what is told of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from bitdustfs.cli.befriending import Friends
from bitdustfs.core import contract
from bitdustfs.core.contract import Party, Terms, fragments_for
from bitdustfs.core.invitation import ticket_of
from bitdustfs.core.invited import Guest, Invitation, Wish
from bitdustfs.edges.home import Home
from bitdustfs.engine.clerk import Clerk
from bitdustfs.model import Standing, Supplier, SupplierNo
from bitdustfs.ports import Catalog
from bitdustfs.testing.swarm import make_identity

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
