"""The judge of crash tests: what it lets pass and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash.model import EXCHANGE, Found, fault_of, story
from tests.crash.trace import Remark

FILE, OTHER = 5, 6
KEPT, LATER = b"a" * 20, b"b" * 20


def asked(number: int, what: str, content: bytes = b"", answer: int = 0, **facts: object) -> list[Remark]:
    """Something that was asked and answered."""
    told = {"node": answer} if answer else {}
    return [Remark("begin", what, number, facts, content), Remark("end", what, number, told, b"")]


def made(number: int, name: bytes, node: int) -> list[Remark]:
    return asked(number, "make", answer=node, parent=1, name=name.hex(), mode=0o644)


def written(number: int, content: bytes, at: int = 0, node: int = FILE) -> list[Remark]:
    return asked(number, "write", content, node=node, at=at)


def moved(number: int, old: bytes, new: bytes, flags: int = 0) -> list[Remark]:
    return asked(number, "rename", parent=1, name=old.hex(), new_parent=1, new_name=new.hex(), flags=flags)


SYNCED = [*made(1, b"f", FILE), *written(2, KEPT), *asked(3, "fsync", node=FILE)]
COMMITTED = [*made(1, b"f", FILE), *written(2, KEPT), *asked(3, "commit")]
REPLACED = [*SYNCED, *made(4, b"t", OTHER), *written(5, LATER, node=OTHER), *moved(6, b"t", b"f")]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (SYNCED, {"f": KEPT}),
        (SYNCED[:-1], {"f": KEPT}),
        (SYNCED[:-1], {"f": b"aaa"}),
        (SYNCED[:-1], {}),
        (COMMITTED, {}),
        ([*SYNCED, *written(4, LATER)], {"f": b"aaaaabbbbbaaaaabbbbb"}),
        ([*SYNCED, *asked(4, "resize", node=FILE, size=3)], {"f": KEPT[:7]}),
        ([*SYNCED, *asked(4, "unlink", parent=1, name=b"f".hex())], {}),
        (REPLACED, {"f": LATER}),
        (REPLACED, {"f": KEPT}),
        (REPLACED, {"f": KEPT, "t": b"bb"}),
    ],
)
def test_these_may_be_there_after_a_power_loss(told: Sequence[Remark], found: Found) -> None:
    assert fault_of(found, story(told), power_loss=True) is None


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (SYNCED, {}),
        (SYNCED, {"f": b""}),
        (SYNCED, {"f": KEPT[:19]}),
        (SYNCED, {"f": KEPT + b"\0"}),
        (SYNCED, {"f": KEPT[:19] + b"\0"}),
        (SYNCED, {"f": None}),
        (SYNCED, {"f": "cannot be read: it is damaged"}),
        (SYNCED, {"f": KEPT, "g": b""}),
        (SYNCED[:-1], {"f": b"aa\0"}),
        ([*SYNCED, *written(4, LATER)], {"f": b"c" * 20}),
        ([*SYNCED, *asked(4, "resize", node=FILE, size=3)], {"f": b""}),
        (REPLACED, {"f": b""}),
        (REPLACED, {"f": LATER[:10]}),
        (REPLACED, {"f": LATER[:10] + KEPT[10:]}),
        (REPLACED, {"t": LATER}),
        (REPLACED, {}),
        ([*made(1, b"f", FILE), *made(2, b"g", OTHER)], {"g": b""}),
    ],
)
def test_these_may_not(told: Sequence[Remark], found: Found) -> None:
    assert fault_of(found, story(told), power_loss=True) is not None


@pytest.mark.parametrize(
    ("found", "right"),
    [({"f": KEPT}, True), ({}, False), ({"f": b"aaa"}, False), ({"f": LATER}, False), ({"f": KEPT + b"b"}, False)],
)
def test_what_was_committed_survives_the_death_of_the_process(found: Found, right: bool) -> None:
    assert (fault_of(found, story(COMMITTED), power_loss=False) is None) is right


def test_bytes_may_be_newer_than_the_names_when_the_process_dies() -> None:
    told = story([*COMMITTED, *written(4, LATER[:5])])
    assert fault_of({"f": LATER[:5] + KEPT[5:]}, told, power_loss=False) is None
    assert fault_of({"f": KEPT}, told, power_loss=False) is None


def test_what_failed_or_did_not_end_promises_nothing() -> None:
    failed = [*SYNCED[:-1], Remark("end", "fsync", 3, {"errno": 5}, b"")]
    assert fault_of({}, story(failed), power_loss=True) is None
    assert fault_of({}, story(SYNCED[:-1]), power_loss=True) is None


def test_exchange_promises_the_bytes_of_both() -> None:
    told = [*SYNCED, *made(4, b"t", OTHER), *written(5, LATER, node=OTHER), *moved(6, b"t", b"f", EXCHANGE)]
    assert fault_of({"f": LATER, "t": KEPT}, story(told), power_loss=True) is None
    assert fault_of({"f": LATER[:3], "t": KEPT}, story(told), power_loss=True) is not None
