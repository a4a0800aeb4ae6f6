"""Placement: which code a volume uses, and which suppliers get a block's fragments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitdustfs.core.score import FULL, POOR
from bitdustfs.errors import BadRequest
from bitdustfs.model import Code, OwnerId, SupplierNo

_LARGE = Code(8, 24)
_MIDDLE = Code(4, 12)
_SCORE_STEPS = 5  # (tune) as coarse as the space
_K_BY_SUPPLIERS = (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4)  # for 1 … 11 suppliers, n = all of them


@dataclass(frozen=True, slots=True)
class Candidate:
    """A supplier that could take a fragment now."""

    supplier: SupplierNo
    owner: OwnerId
    network: str  # failure group by address, see `failure_network`
    free_bytes: int
    free_fragments: int
    score: int = FULL  # see core/score


def default_code(suppliers: int) -> Code:
    """The code of new blocks for this many hired suppliers.

    Raises:
        ValueError: there is no supplier.
    """
    if suppliers < 1:
        raise ValueError("a code needs at least one supplier")
    if suppliers >= _LARGE.n:
        return _LARGE
    if suppliers >= _MIDDLE.n:
        return _MIDDLE
    return Code(_K_BY_SUPPLIERS[suppliers - 1], suppliers)


def parse_code(text: str) -> Code:
    """Read an erasure code K/N.

    Raises:
        BadRequest: says which rule it breaks.
    """
    k, slash, n = text.strip().partition("/")
    if not (slash and k.isascii() and k.isdigit() and n.isascii() and n.isdigit()):
        raise BadRequest(what=f"{text!r} is not a code: write K/N, like 3/5: any 3 of 5 fragments restore a block")
    try:
        return Code(int(k), int(n))
    except ValueError as bad:
        raise BadRequest(what=f"{bad}: any K of the N fragments restore a block") from bad


def failure_network(address: str) -> str:
    """The /24 or /48 that an ADDR:PORT lies in: machines in one are likely to fail together.

    Every loopback address is one machine.
    """
    host = address.rpartition(":")[0].strip("[]")
    if ":" in host:
        return ":".join(host.split(":")[:3])
    if host.startswith("127."):
        return "127"
    return ".".join(host.split(".")[:3])


def choose(
    candidates: Iterable[Candidate], count: int, *, fragment_bytes: int, taken: Iterable[Candidate] = ()
) -> tuple[SupplierNo, ...]:
    """Choose up to `count` suppliers for fragments of one block, at most one fragment each.

    One of which little good is known comes last. Failure groups (owner, network) are spread while there is a choice;
    inside equal choices the one with most free space and the best score comes first: a fifth of the score is worth
    twice the space. Both count in coarse steps: the order is stable, and a volume keeps to one set of suppliers.

    Args:
        taken: suppliers that hold other fragments of this block already.
    Returns:
        `count` suppliers, or fewer when there are not enough with room.
    """
    already = list(taken)
    used = {c.supplier for c in already}
    left = [
        c for c in candidates if c.supplier not in used and c.free_bytes >= fragment_bytes and c.free_fragments >= 1
    ]
    chosen: list[SupplierNo] = []
    while left and len(chosen) < count:
        best = min(left, key=lambda c: (c.score < POOR, crowding(c, already), -_weight(c), c.supplier))
        left.remove(best)
        already.append(best)
        chosen.append(best.supplier)
    return tuple(chosen)


def crowding(candidate: Candidate, already: Sequence[Candidate]) -> tuple[int, int]:
    """How many of the others are of the same owner, and in the same network: what fails together."""
    return (
        sum(c.owner == candidate.owner for c in already),
        sum(c.network == candidate.network for c in already),
    )


def usable_bytes(free_bytes: Sequence[int], code: Code) -> int:
    """What a volume can still take: k·x with the largest x for which Σ min(free_i, x) ≥ n·x.

    n fragments of a block go to n different suppliers, so one with very much space helps only so far.
    """
    free = sorted(f for f in free_bytes if f > 0)
    if len(free) < code.n:
        return usable_bytes(free, Code(code.k, len(free))) if len(free) >= code.k else 0
    # with the m largest suppliers saturated at x, the others give all they have: x = rest / (n − m)
    best = 0
    rest = sum(free)
    for saturated in range(code.n):
        x = rest // (code.n - saturated)
        largest = free[len(free) - 1 - saturated]
        if largest <= x:
            best = x
            break
        rest -= largest
    return code.k * best


def _weight(candidate: Candidate) -> int:
    # powers of two, so that a few megabytes more or less do not move a volume to other suppliers
    return candidate.free_bytes.bit_length() + candidate.score * _SCORE_STEPS // FULL
