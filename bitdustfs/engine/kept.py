"""Kept: small values of our own in the catalog, as JSON, and what becomes of one that is damaged.

What a disk made of a few bytes must not keep the volume from being mounted, nor a service from running. Each of these
values says only how far something was that can be begun again: who finds it damaged does that, which puts another one
in its place. What can neither be found again nor done again is not kept like this.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import msgspec

VERBATIM = "verbatim"  # in the catalog, local: it is as another machine published it, and that one may go on
T = TypeVar("T")
_log = logging.getLogger(__name__)


def kept(raw: bytes | None, shape: type[T], instead: str) -> T | None:
    """Read a value that was kept with `json.dumps`.

    Args:
        raw: None or b"": there is none.
        instead: what follows if it is damaged, for the log: a clause.
    Returns:
        None: there is none, or it is damaged.
    """
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        _log.warning("a note in the catalog is damaged, so %s: %s", instead, bad)
        return None
