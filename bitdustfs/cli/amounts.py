"""Amounts: what this machine has promised to friends, and could still promise."""

from __future__ import annotations

import shutil
import time

from bitdustfs.core import contract
from bitdustfs.core.invited import State
from bitdustfs.core.units import GIB, exact_size, format_size
from bitdustfs.edges.config import load, store
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.invitations_disk import DiskInvitations
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.errors import BadRequest

_DEFAULT_BYTES = 10 * GIB
_FLOOR_BYTES = 1 * GIB  # of the disk, that the shelf leaves free


def agreed(home: Home) -> int:
    """The bytes that we give by all contracts together."""
    own = identity_of(read_keys(home)).owner
    kept = DiskContracts(home.contracts).contracts().values() if home.contracts.exists() else ()
    return sum(contract.parse(raw).gives(own) for raw in kept)


def promised(home: Home) -> int:
    """That, and what invitations offer that are open."""
    now_s = int(time.time())
    kept = DiskInvitations(home.invitations).all()
    return agreed(home) + sum(each.wish.offers for each in kept if each.state(now_s) is State.OPEN)


def left(home: Home) -> int:
    """What to offer if the person does not say: the rest of give.size; if that is not set, 10 GiB or half of what
    the disk has."""
    given = load(home.config).give_size
    if given:
        return max(0, given - promised(home))
    return min(_DEFAULT_BYTES, _free(home) // 2)


def check_disk(home: Home, offers: int) -> None:
    """Refuse to offer what the disk does not have. Raises BadRequest."""
    if offers > _free(home):
        raise BadRequest(what=f"the disk has {format_size(_free(home))} to give, and not {format_size(offers)}")


def give_at_least(home: Home, wanted: int) -> list[str]:
    """Let give.size be no less. Returns what there is to say about that."""
    if load(home.config).give_size >= wanted:
        return []
    store(home.config, "give.size", exact_size(wanted))
    return [f"This machine gives up to {format_size(wanted)} to friends from now on (give.size)."]


def _free(home: Home) -> int:
    return max(0, shutil.disk_usage(load(home.config).give_shelf or home.path).free - _FLOOR_BYTES)
