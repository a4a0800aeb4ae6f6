"""Amounts: what this machine has promised to friends, and could still promise."""

from __future__ import annotations

import shutil
import time

from bitdustfs.core import agreement
from bitdustfs.core.invited import State
from bitdustfs.core.units import GIB, exact_size, format_size
from bitdustfs.edges.config import load, store
from bitdustfs.edges.contracts_disk import DiskContracts
from bitdustfs.edges.home import Home
from bitdustfs.edges.invitations_disk import DiskInvitations
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.errors import BadRequest
from bitdustfs.model import OwnerId

_DEFAULT_BYTES = 10 * GIB
_FLOOR_BYTES = 1 * GIB  # of the disk, that the shelf leaves free


def agreed(home: Home, *, but: OwnerId | None = None) -> int:
    """The bytes that we give by all contracts together, but that with one owner."""
    own = identity_of(read_keys(home)).owner
    kept = DiskContracts(home.contracts).contracts() if home.contracts.exists() else {}
    others = [raw for owner, raw in kept.items() if owner != but]
    return sum(max(each.gives(own) for each in agreement.parse(agreement.split(raw)).contracts) for raw in others)


def promised(home: Home) -> int:
    """That, and what invitations offer that are open."""
    now_s = int(time.time())
    kept = DiskInvitations(home.invitations).all()
    return agreed(home) + sum(each.wish.offers for each in kept if each.state(now_s) is State.OPEN)


def left(home: Home) -> int:
    """What to offer if the person does not say: the rest of give.size, or of the default."""
    return max(0, (load(home.config).give_size or default(home)) - promised(home))


def default(home: Home) -> int:
    """What a machine gives to all friends together if the person never said."""
    return min(_DEFAULT_BYTES, _free(home) // 2)


def check_disk(home: Home, offers: int) -> None:
    """Refuse to offer what the disk does not have. Raises BadRequest."""
    if offers > _free(home):
        raise BadRequest(what=f"the disk has {format_size(_free(home))} to give, and not {format_size(offers)}")


def give_at_least(home: Home, wanted: int) -> list[str]:
    """Let give.size be no less, and the default if it was not set. Returns what there is to say about that."""
    given = load(home.config).give_size
    if given >= wanted:
        return []
    size = wanted if given else max(wanted, default(home))
    store(home.config, "give.size", exact_size(size))
    return [f"This machine gives up to {format_size(size)} from now on, to all friends together (give.size)."]


def _free(home: Home) -> int:
    return max(0, shutil.disk_usage(load(home.config).give_shelf or home.path).free - _FLOOR_BYTES)
