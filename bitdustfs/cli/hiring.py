"""Hiring: a contract is signed with a supplier who was named, and the catalog notes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import trio

from bitdustfs.core.report import HireReport
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.system import SystemWall
from bitdustfs.engine.suppliers import Suppliers
from bitdustfs.errors import Unavailable
from bitdustfs.model import NodeId, Rule, Standing, Supplier, Verdict, short

_HIRE_S = 30.0


@dataclass(frozen=True, slots=True)
class HireWish:
    """Which supplier the person wants, for how much."""

    node: NodeId
    address: str
    bytes: int
    label: str
    as_candidate: bool = False  # it gets nothing until a hired one is lost


async def agree(suppliers: Suppliers, catalog: SqliteCatalog, wish: HireWish) -> Supplier:
    """Sign a contract with a supplier and note it in the catalog. The caller commits."""
    with trio.move_on_after(_HIRE_S) as waiting:
        row = await suppliers.hire(wish.address, wish.node, wish.bytes, label=wish.label)
    if waiting.cancelled_caught:
        raise Unavailable(what=f"{wish.address or short(wish.node)} did not answer in {_HIRE_S:g} s")
    # no await from here on: what is known of it changes all the time, and `suppliers` knows it as it was at the start
    known = next((each for each in catalog.suppliers() if each.node == wish.node), None)
    standing = Standing.CANDIDATE if wish.as_candidate else Standing.HIRED
    if known is None:
        row = replace(row, label=wish.label or f"s{len(catalog.suppliers()) + 1}", standing=standing)
    else:
        row = replace(
            row,
            supplier=known.supplier,
            label=wish.label or known.label,
            used_bytes=known.used_bytes,
            used_fragments=known.used_fragments,
            standing=known.standing if wish.as_candidate else standing,
        )
    catalog.put_supplier(row)
    kept = next(each for each in catalog.suppliers() if each.node == wish.node)
    if kept.is_hired and not (known is not None and known.is_hired):
        catalog.note_verdict(Verdict(kept.supplier, Rule.HIRE, SystemWall().now_ns()))
    return kept


def told_of(row: Supplier) -> HireReport:
    """What is reported of a supplier that was hired."""
    return HireReport(
        label=row.label,
        node=row.node.hex(),
        owner=row.owner.hex(),
        address=row.address,
        bytes=row.capacity_bytes,
        fragments=row.capacity_fragments,
    )
