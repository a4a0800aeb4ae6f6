"""Sightings: the heads beside ours that suppliers showed last, kept over a restart.

Such a head may be all that names what somebody wrote: nothing is let go until that is kept here too (engine/forks).
Where one was seen and not brought in yet, a restart must not make it unseen: who showed it may be away then.

One row for each supplier, of this machine alone, with the whole head, so that a person can be told of it. No more is
kept than there are suppliers. A row goes when its supplier shows a head that is ours, or none, or is given up, and
when what the head names is kept here, or was given up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.errors import BadFormat
from bitdustfs.model import Standing, Supplier, SupplierNo
from bitdustfs.ports import Catalog

_KEY = "other head"  # in the catalog, local, with the number of a supplier: his node id, and the head; b"": none
_NODE_BYTES = 32
_log = logging.getLogger(__name__)


def seen(catalog: Catalog) -> dict[SupplierNo, Head]:
    """What was noted of suppliers that were not given up."""
    found = {row.supplier: _seen_at(catalog, row) for row in catalog.suppliers()}
    return {supplier: head for supplier, head in found.items() if head is not None}


def is_noted(catalog: Catalog, supplier: SupplierNo, head: Head | None) -> bool:
    """Whether this is what is noted of a supplier; None: nothing."""
    return (catalog.local_value(_key(supplier)) or b"") == _value(catalog, supplier, head)


def note(catalog: Catalog, supplier: SupplierNo, head: Head | None) -> None:
    """Note the head that a supplier shows; None: none that is not ours. The caller commits."""
    catalog.put_local_value(_key(supplier), _value(catalog, supplier, head))


def settled(catalog: Catalog, is_kept: Callable[[Head], bool]) -> list[SupplierNo]:
    """Those of whom nothing need be known any more: they were given up, or what their heads name is kept here."""
    given_up = [row.supplier for row in catalog.suppliers() if row.standing is Standing.FIRED]
    noted = [each for each in given_up if catalog.local_value(_key(each))]
    return noted + [supplier for supplier, head in seen(catalog).items() if is_kept(head)]


def carry_over(old: Catalog, new: Catalog) -> None:
    """Note in a catalog that takes the place of another one what was seen by that one. The caller commits."""
    numbers = {row.node: row.supplier for row in new.suppliers()}
    nodes = {row.supplier: row.node for row in old.suppliers()}
    for supplier, head in seen(old).items():
        if nodes[supplier] in numbers:
            note(new, numbers[nodes[supplier]], head)


def _value(catalog: Catalog, supplier: SupplierNo, head: Head | None) -> bytes:
    nodes = {row.supplier: row.node for row in catalog.suppliers() if row.standing is not Standing.FIRED}
    return bytes(nodes[supplier]) + head.raw if head is not None and supplier in nodes else b""


def _seen_at(catalog: Catalog, row: Supplier) -> Head | None:
    """None: nothing, of another supplier, or damaged; then it is noted again when it is shown."""
    raw = catalog.local_value(_key(row.supplier)) or b""
    if raw[:_NODE_BYTES] != row.node or row.standing is Standing.FIRED:
        return None
    try:
        return heads.parse(raw[_NODE_BYTES:])
    except BadFormat as bad:
        _log.warning("what %s showed is noted in a damaged row, and is asked for again: %s", row.label, bad)
        return None


def _key(supplier: SupplierNo) -> str:
    return f"{_KEY} {supplier}"
