"""Friends: the owners with whom there is a contract, what they are called here, and what follows from a contract.

A name is for people. It is unique here, of characters that a terminal shows and does not obey, and says nothing of
who it is: that is the fingerprint of the owner. A name that stands for one owner never comes to stand for another
one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from bitdustfs.core.contract import Contract
from bitdustfs.core.phrase import fingerprint
from bitdustfs.errors import AlreadyThere, BadRequest
from bitdustfs.model import NodeId, OwnerId, Standing, Supplier, SupplierNo

NAME_CHARACTERS: Final = 32
_MARKS: Final = frozenset(" .-_+@'")
_SHOWN: Final = 40  # of what is no name


def check_name(text: str) -> str:
    """A name as it is kept.

    Raises:
        BadRequest: too long, or a character that does not belong into one.
    """
    name = unicodedata.normalize("NFC", text)
    wrong = next((letter for letter in name if not (letter.isalnum() or letter in _MARKS)), None)
    if wrong is not None:
        shown = repr(wrong) if wrong.isprintable() else f"the character U+{ord(wrong):04X}"
        raise BadRequest(what=f"a name cannot have {shown} in it: letters, digits, spaces and .-_+@' can be in one")
    if not 0 < len(name) <= NAME_CHARACTERS or name != name.strip() or not any(map(str.isalnum, name)):
        raise BadRequest(
            what=f"{name[:_SHOWN]!r} cannot be a name: 1 to {NAME_CHARACTERS} characters, not only marks"
        )
    return name


def refuse_taken(name: str, owner: OwnerId | None, named: Mapping[str, OwnerId]) -> None:
    """Refuse a name that somebody else has here: a friend whose key changed is not that friend.

    Args:
        owner: who is to be called so; None: nobody knows yet.
        named: who is called what.
    Raises:
        AlreadyThere: says whose it is, and what to do.
    """
    has_it = named.get(name)
    if has_it is None or has_it == owner:
        return
    whose = f"{name} is somebody already, with the fingerprint {fingerprint(has_it)}"
    if owner is None:
        raise AlreadyThere(what=f"{whose}: choose another name")
    raise AlreadyThere(
        what=f"{whose}, and this is another one, with {fingerprint(owner)}. If they say they are the same person, "
        "compare with what `bitdustfs id` says there; who has new words is a new friend: choose another name"
    )


def free_name(taken: Collection[str]) -> str:
    """A name that nobody has: friend1, friend2 …"""
    return next(name for number in range(1, len(taken) + 2) if (name := f"friend{number}") not in taken)


def supplier_of(
    agreed: Contract,
    own: OwnerId,
    *,
    node: NodeId,
    address: str,
    label: str,
    known: Iterable[Supplier],
) -> Supplier | None:
    """The row of a friend's node as our supplier by a contract; None: by it he keeps nothing for us.

    Args:
        address: ADDR:PORT where it can be dialled; "": nowhere that we know.
        known: the rows that there are; one of this node is changed, and hired again if it was given up.
    """
    granted = agreed.allowance(own, node)
    if granted is None:
        return None
    party = next(each for each in (agreed.terms.first, agreed.terms.second) if each.owner != own)
    row = next((each for each in known if each.node == node), None)
    if row is None:
        row = Supplier(SupplierNo(0), node, party.owner, label, address, agreed.raw, 0, 0, 0, 0)
    return replace(
        row,
        label=label or row.label,
        address=address or row.address,
        contract=agreed.raw,
        capacity_bytes=granted.bytes,
        capacity_fragments=granted.fragments,
        standing=Standing.HIRED,
    )
