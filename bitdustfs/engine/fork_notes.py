"""What the replicated catalog notes of lines beside ours, so that any machine of the owner goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from bitdustfs.core import head as heads
from bitdustfs.engine.publisher import Line
from bitdustfs.ports import Catalog

WHOLE_KEPT: Final = 16  # (tune) of the lines that were gone over: with all their links, 10 KB each
RESOLVED_KEPT: Final = 64  # (tune) lines that were gone over, whose suppliers may have been away: 300 bytes each
_KEY: Final = "forks"  # in the catalog: msgpack of a list of `Fork`
_log = logging.getLogger(__name__)


class Fork(Struct, array_like=True, frozen=True):
    """A line that ended beside ours."""

    generation: int  # that shows its tree; 0: it is a snapshot like others, or gone
    version: int  # of its newest head
    digest: bytes  # of that
    node: bytes  # that signed it
    time_s: int  # that it says
    links: bytes  # its newest, oldest first, its own among them
    is_resolved: bool = False
    is_given_up: bool = False  # nobody could read it: what it alone had is not here
    brought: list[int] = []  # generations of snapshots that came with it, and what shows its tree once it is chosen
    change: int = 0  # of our catalog, that brought the last of these


_decoder = msgspec.msgpack.Decoder(list[Fork])


def kept_forks(catalog: Catalog) -> list[Fork]:
    """The lines that are known, also those that were gone over."""
    raw = catalog.value(_KEY)
    try:
        return _decoder.decode(raw) if raw else []
    except (msgspec.MsgspecError, RecursionError) as bad:
        _log.error("what the catalog notes of forks is damaged, and is noted again when they are met: %s", bad)
        return []


def gone_over(catalog: Catalog) -> list[Line]:
    """The lines that our next head goes over, or that one of ours went over."""
    return [Line(each.digest, each.version, each.links) for each in kept_forks(catalog) if each.is_resolved]


def given_up(catalog: Catalog) -> list[Line]:
    """The lines that were gone over, and never read."""
    return [Line(each.digest, each.version, each.links) for each in kept_forks(catalog) if each.is_given_up]


def keep_forks(catalog: Catalog, forks: Iterable[Fork]) -> None:
    """Note them. Of those that were gone over long ago their last head alone, and not all. The caller commits."""
    every = list(forks)
    resolved = [each for each in every if each.is_resolved][-RESOLVED_KEPT:]
    thin = [msgspec.structs.replace(each, links=each.links[-heads.LINK_BYTES :]) for each in resolved[:-WHOLE_KEPT]]
    left = [*(each for each in every if not each.is_resolved), *thin, *resolved[-WHOLE_KEPT:]]
    catalog.put_value(_KEY, msgspec.msgpack.encode(left))
