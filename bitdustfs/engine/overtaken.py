"""Overtaken: what was let go while the sending of it may still have been under way.

A fragment whose sending was given up is let go at once. But its bytes may still lie in a buffer of a connection that
died, or of one that the supplier did not get to read, and be stored after it was asked to let them go: then nobody
would name them, for ever. So such fragments are let go once more, when nothing of the sending can be left: TCP itself
gives up what is not acknowledged within a quarter of an hour, and a supplier a body that does not come.

What is sent again meanwhile, or found to be there, is forgotten here: it must not be hit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import inf
from typing import Final

import msgspec
import trio

from bitdustfs.model import FragmentName, SupplierNo
from bitdustfs.ports import Catalog

AGAIN_S: Final = 1800.0  # twice as long as Linux sends what nobody acknowledges (tcp_retries2)
MOST: Final = 1024  # fragments, 36 bytes each, written whole at each change; the oldest are forgotten
_KEY: Final = "overtaken"  # in the catalog, local: msgpack [[supplier, name], …], the oldest first
_decoder = msgspec.msgpack.Decoder(tuple[tuple[int, bytes], ...])
_log = logging.getLogger(__name__)


class Overtaken:
    """The fragments that are to be let go once more. Whoever changes something has an operation."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._due_at: dict[tuple[SupplierNo, FragmentName], float] | None = None  # the oldest first

    def note(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> None:
        """The sending of these was given up, and they are let go."""
        known, at = self._known(), trio.current_time() + AGAIN_S
        for fragment in fragments:
            known.pop(fragment, None)
            known[fragment] = at
        for fragment in list(known)[: max(0, len(known) - MOST)]:
            del known[fragment]
        self._save()

    def forget(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> None:
        """These are sent again, or are there and needed, or were let go once more."""
        known = self._known()
        if [known.pop(fragment) for fragment in fragments if fragment in known]:
            self._save()

    def of(self, fragments: Iterable[tuple[SupplierNo, FragmentName]]) -> set[FragmentName]:
        """Which of these are to be let go once more: they may still arrive."""
        known = self._known()
        return {fragment[1] for fragment in fragments if fragment in known}

    def due(self) -> list[tuple[SupplierNo, FragmentName]]:
        """Those of which nothing can be under way any more."""
        now = trio.current_time()
        return [fragment for fragment, at in self._known().items() if at <= now]

    def due_in_s(self) -> float:
        """Until the first of them is due."""
        return min(self._known().values(), default=inf) - trio.current_time()

    def _known(self) -> dict[tuple[SupplierNo, FragmentName], float]:
        if self._due_at is None:
            at = trio.current_time() + AGAIN_S  # of an earlier process: how long ago it was, nobody knows
            pairs = _decoded(self._catalog.local_value(_KEY))
            self._due_at = {(SupplierNo(supplier), FragmentName(name)): at for supplier, name in pairs}
        return self._due_at

    def _save(self) -> None:
        self._catalog.put_local_value(_KEY, msgspec.msgpack.encode(list(self._known())))


def _decoded(raw: bytes | None) -> tuple[tuple[int, bytes], ...]:
    """What was noted; of a value that is damaged nothing, which leaves those fragments where they are."""
    try:
        return _decoder.decode(raw) if raw else ()
    except msgspec.DecodeError as bad:
        _log.warning("what was to be let go once more is not known any more, and stays: %s", bad)
        return ()
