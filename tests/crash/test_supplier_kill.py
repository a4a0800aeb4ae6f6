"""`kill -9` of a supplier's process at named points of storing a fragment, in a real swarm on a simulated disk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

import pytest

from bitdustfs.edges.home import Home, holder
from tests.crash.disk import Case
from tests.crash.harness import Yard
from tests.mount.practice import Practice, wait_until

SHELF = "home/demo/supplier1/shelf"
POINTS = (
    (f"mkdir {SHELF}/*/*", "before"),  # first: later there may be the directory already
    *(
        (point, when)
        for point in (
            f"make {SHELF}/incoming/*",
            f"write {SHELF}/incoming/*",
            f"sync {SHELF}/incoming/*",
            f"rename {SHELF}/*/*/*",
            f"syncdir {SHELF}/*/*",
        )
        for when in ("before", "after")
    ),
)


@pytest.mark.slow
def test_supplier_killed_while_it_stores_loses_nothing_and_counts_nothing_twice(yard: Yard) -> None:
    _kill_at_each(yard, [(f"rename {SHELF}/*/*/*", "after")])


@pytest.mark.long
def test_supplier_killed_at_any_point_loses_nothing_and_counts_nothing_twice(yard: Yard) -> None:
    _kill_at_each(yard, POINTS)


def _kill_at_each(yard: Yard, points: Sequence[tuple[str, str]]) -> None:
    case = yard.disk.case()
    dice = random.Random(6)
    contents = {f"file{turn}": dice.randbytes(200_000) for turn in range(len(points))}
    swarm = Practice(case.path, suppliers=3, code="2/3")
    swarm.path = yard.fresh("mnt")
    with swarm as practice:
        for (name, content), (point, when) in zip(contents.items(), points, strict=True):
            before = case.killed()
            case.kill_at(point, when=when)
            (practice.path / name).write_bytes(content)
            wait_until(f"supplier 1 is killed {when} {point}", lambda before=before: case.killed() != before)
            wait_until("supplier 1 is dead", lambda: holder(Home(practice.supplier_home(1))) is None)
            practice.run("demo", "revive", "1")
            practice.sync()
            wait_until(  # what old states of the catalog need no more is being let go meanwhile
                f"the customer counts what supplier 1 has, after its death {when} {point}",
                lambda: _stored(case) == practice.status()["suppliers"][0]["used_bytes"],
            )
        practice.forget()
        practice.kill_supplier(2)
        for name, content in contents.items():
            assert (practice.path / name).read_bytes() == content


def _stored(case: Case) -> int:
    """The bytes of all fragments on the shelf of supplier 1, by their headers, without those in its trash."""
    total = 0
    for path in (case.path / SHELF).glob("*/??/*"):
        with suppress(FileNotFoundError):  # it is being let go
            total += int.from_bytes(path.read_bytes()[16:24])
    return total
