"""Friends: their names, and what follows from a contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitdustfs.core import contract, invited, reach
from bitdustfs.core.contract import Contract, Party, Terms
from bitdustfs.core.friends import check_name, free_name, refuse_taken, supplier_of
from bitdustfs.core.invitation import ticket_of
from bitdustfs.core.invited import ANY, Guest, Invitation, State, Wish, fit
from bitdustfs.core.reach import Scope
from bitdustfs.errors import AlreadyThere, BadFormat, BadRequest
from bitdustfs.model import NodeId, OwnerId, Standing, SupplierNo
from bitdustfs.testing.swarm import make_identity

ANNA, BEN = make_identity("anna"), make_identity("ben")
KEPT = Invitation(ticket_of(b"0123456789"), "ben", Wish(5, 7), made_s=100, expires_s=200)
GUEST = Guest(BEN.node, BEN.owner, 150, ("192.0.2.7:4878", "[2001:db8::7]:4878"))


def agreed(anna_gives: int, ben_gives: int) -> Contract:
    def party(who: object, gives: int) -> Party:
        owner, node = who.owner, who.node  # type: ignore[attr-defined]
        return Party(owner, node, gives, 9, node) if gives else Party(owner, node)

    terms = Terms(1, contract.NO_CONTRACT, 100, 0, party(BEN, ben_gives), party(ANNA, anna_gives))
    return contract.countersign(ANNA, contract.propose(BEN, terms))


@pytest.mark.parametrize("name", ["anna", "Jürgen 2", "o'neill", "a.b-c_d+e@f", "чай", "n" * 32])
def test_name_of_a_person_is_kept(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "...", " anna", "anna ", "n" * 33, "a\nb", "\x1b[31m", "a/b", "a\u202eb", "a\x00", "a\u200bb"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_name(name)
    assert str(refused.value).isprintable()


def test_name_of_another_owner_is_a_hard_stop() -> None:
    named = {"anna": ANNA.owner}
    refuse_taken("anna", ANNA.owner, named)
    refuse_taken("ben", BEN.owner, named)
    with pytest.raises(AlreadyThere, match="this is another one, with"):
        refuse_taken("anna", BEN.owner, named)
    with pytest.raises(AlreadyThere, match="choose another name"):
        refuse_taken("anna", None, named)


def test_free_name_is_one_that_nobody_has() -> None:
    assert free_name(()) == "friend1"
    assert free_name(("friend1", "anna", "friend3")) == "friend2"


def test_who_gives_is_a_supplier_and_who_does_not_is_none() -> None:
    row = supplier_of(agreed(0, 50), ANNA.owner, node=BEN.node, address="b:1", label="ben", known=())
    assert row is not None
    assert (row.supplier, row.node, row.owner, row.label, row.address) == (0, BEN.node, BEN.owner, "ben", "b:1")
    assert (row.capacity_bytes, row.capacity_fragments, row.standing) == (50, 9, Standing.HIRED)
    assert supplier_of(agreed(50, 0), ANNA.owner, node=BEN.node, address="", label="ben", known=()) is None


def test_supplier_that_was_given_up_is_hired_again_with_what_it_holds() -> None:
    row = supplier_of(agreed(0, 50), ANNA.owner, node=BEN.node, address="b:1", label="ben", known=())
    assert row is not None
    fired = replace(row, supplier=SupplierNo(4), used_bytes=20, standing=Standing.FIRED, label="old")
    again = supplier_of(agreed(0, 60), ANNA.owner, node=BEN.node, address="", label="", known=(fired,))
    assert again is not None
    assert (again.supplier, again.used_bytes, again.capacity_bytes, again.standing) == (4, 20, 60, Standing.HIRED)
    assert (again.label, again.address) == ("old", "b:1")


# -- kept invitations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept", [KEPT, replace(KEPT, cancelled=True), KEPT.taken(GUEST), replace(KEPT, name="чай", wish=Wish(0, ANY))]
)
def test_kept_invitation_is_read_back(kept: Invitation) -> None:
    assert invited.parse(invited.encode(kept)) == kept


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"version":1}',
        invited.encode(KEPT)[:-1],
        invited.encode(KEPT).replace(b'"offer":5', b'"offer":-5'),
        invited.encode(KEPT).replace(b'"offer":5', b'"offer":99999999999999999999'),
        invited.encode(KEPT).replace(b'"name"', b'"nome"'),
        invited.encode(KEPT)[:-1] + b',"more":1}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_kept_invitation_is_refused(raw: bytes) -> None:
    with pytest.raises(BadFormat):
        invited.parse(raw)


def test_kept_invitation_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(BadFormat, match="version 2"):
        invited.parse(invited.encode(KEPT).replace(b'"version":1', b'"version":2'))


def test_states_of_an_invitation() -> None:
    assert KEPT.state(199) is State.OPEN and KEPT.state(200) is State.EXPIRED
    assert replace(KEPT, cancelled=True).state(0) is State.CANCELLED
    used = KEPT.taken(GUEST)
    assert used.state(10_000) is State.USED
    assert used.refusal(BEN.node, 10_000) == "" and "another machine" in used.refusal(ANNA.node, 150)
    assert used.taken(replace(GUEST, since_s=999)).guest == GUEST  # since the first time


@pytest.mark.parametrize(
    ("host", "guest", "given"),
    [(Wish(9, 9), Wish(9, ANY), (9, 9)), (Wish(9, 3), Wish(5, 4), (4, 3)), (Wish(0, 3), Wish(5, ANY), (0, 3))],
)
def test_amounts_fit_both(host: Wish, guest: Wish, given: tuple[int, int]) -> None:
    assert fit(host, guest) == given


# -- who can be dialled ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.1:1", Scope.MACHINE),
        ("[::1]:1", Scope.MACHINE),
        ("10.1.2.3:1", Scope.HOME),
        ("169.254.1.1:1", Scope.HOME),
        ("100.64.1.1:1", Scope.HOME),
        ("[fe80::1]:1", Scope.HOME),
        ("[::ffff:192.168.0.1]:1", Scope.HOME),
        ("8.8.4.4:1", Scope.WORLD),
        ("[2a00:1450:4001::5]:1", Scope.WORLD),
        ("0.0.0.0:1", Scope.UNKNOWN),
        ("224.0.0.1:1", Scope.UNKNOWN),
        ("anna.example:1", Scope.UNKNOWN),
    ],
)
def test_scope_of_an_address(address: str, scope: Scope) -> None:
    assert reach.scope_of(address) is scope


@pytest.mark.parametrize(
    ("came_from", "announced", "tried"),
    [
        ("192.0.2.7:50000", ("192.0.2.7:4878",), "192.0.2.7:4878"),
        ("192.0.2.7:50000", ("10.0.0.2:4878",), "192.0.2.7:4878"),  # behind a router: its port
        ("192.0.2.7:50000", ("10.0.0.2:1", "192.0.2.7:2"), "192.0.2.7:2"),
        ("[::ffff:192.0.2.7]:50000", ("192.0.2.7:4878",), "192.0.2.7:4878"),
        ("[2001:db8::7]:50000", ("[2001:db8::7]:4878",), "[2001:db8::7]:4878"),
        ("192.0.2.7:50000", ("198.51.100.9:4878",), "192.0.2.7:4878"),  # never the third party
        ("192.0.2.7:50000", (), ""),
        ("[fe80::7]:50000", ("[2001:db8::7]:4878",), ""),  # without its zone it is nowhere: nobody has tried
        ("192.0.2.7:50000", ("x", "192.0.2.7:0", "192.0.2.7:99999", "192.0.2.7:-1"), ""),
        ("nowhere", ("192.0.2.7:4878",), ""),
    ],
)
def test_only_the_host_that_a_connection_came_from_is_dialled_back(
    came_from: str, announced: tuple[str, ...], tried: str
) -> None:
    assert reach.place_to_try(came_from, announced) == tried


def test_ids_are_bytes_of_their_kind() -> None:
    guest = invited.parse(invited.encode(KEPT.taken(GUEST))).guest
    assert guest is not None and (NodeId(guest.node), OwnerId(guest.owner)) == (BEN.node, BEN.owner)
