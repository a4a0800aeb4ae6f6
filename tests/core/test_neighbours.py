"""Names in a local network: understood by who knows the node, and by nobody else."""

from __future__ import annotations

import pytest

from bitdustfs.core.neighbours import SALT_BYTES, name_of, whose
from bitdustfs.testing.swarm import make_identity

ANNA, BORIS, CLARA = (make_identity(name).node for name in ("anna", "boris", "clara"))
SALT = bytes(range(SALT_BYTES))


def test_name_is_understood_by_who_knows_the_node() -> None:
    assert whose(name_of(BORIS, SALT), [ANNA, BORIS, CLARA]) == BORIS
    assert whose(name_of(BORIS, SALT).upper(), [BORIS]) == BORIS  # as names of hosts are


def test_name_says_nothing_to_others_and_is_another_one_with_another_salt() -> None:
    assert whose(name_of(BORIS, SALT), [ANNA, CLARA]) is None
    one, other = name_of(BORIS, SALT), name_of(BORIS, bytes(SALT_BYTES))
    assert one[2 * SALT_BYTES :] != other[2 * SALT_BYTES :]
    assert BORIS.hex()[:8] not in one


def test_name_fits_a_label() -> None:
    assert len(name_of(BORIS, SALT)) == 48 <= 63


@pytest.mark.parametrize("name", ["", "printer", "00", "0" * 46, "0" * 50, "é" * 48, name_of(ANNA, SALT)[:-2] + "zz"])
def test_other_names_are_nobodys(name: str) -> None:
    assert whose(name, [ANNA, BORIS, CLARA]) is None
