"""What a person keeps on paper."""

from __future__ import annotations

import pytest
import segno

from bitdustfs.core.keys import Secret
from bitdustfs.core.phrase import phrase_of
from bitdustfs.core.sheet import COLUMNS, Place, qr_lines, sheet
from bitdustfs.model import OwnerId

OWNER = OwnerId(bytes(range(16, 48)))
PHRASE = phrase_of(Secret(bytes(range(32))))
LONGEST = " ".join(["adjust", "security", "diamond"] * 8)
ANNA = Place("anna", "ab" * 32, "192.0.2.7:4878")
FAR = Place("far", "cd" * 32, "[2001:db8:1111:2222:3333:4444:5555:6666]:4878")
DARK = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def modules(lines: list[str]) -> list[list[int]]:
    """The dark and light modules that block characters show, without the light ones around."""
    rows = []
    for line in lines:
        halves = [DARK[letter] for letter in line.ljust(COLUMNS)]
        rows += [[upper for upper, _ in halves], [lower for _, lower in halves]]
    used = [number for number, row in enumerate(rows) if any(row)]
    left = min(row.index(1) for row in rows if 1 in row)
    width = used[-1] - used[0] + 1
    return [row[left : left + width] for row in rows[used[0] : used[-1] + 1]]


@pytest.mark.parametrize("words", [PHRASE, LONGEST])
@pytest.mark.parametrize("places", [[], [ANNA, FAR]])
def test_sheet_fits_eighty_columns(words: str, places: list[Place]) -> None:
    assert all(len(line) <= COLUMNS for line in sheet(OWNER, places, date="2026-11-27", phrase=words).splitlines())


def test_sheet_has_everything_that_recovery_takes() -> None:
    text = sheet(OWNER, [ANNA, FAR], date="2026-11-27", phrase=PHRASE)
    numbered = {f"{place}. {word}" for place, word in enumerate(PHRASE.split(), start=1)}
    assert all(entry in text for entry in numbered)
    assert "1011 1213 1415 1617" in text
    assert "2026-11-27" in text
    joined = "".join(text.split())
    assert f"{ANNA.node}@{ANNA.address}" in joined
    assert f"{FAR.node}@{FAR.address}" in joined
    assert "bitdustfs recover" in text


def test_sheet_without_the_words_has_none_of_them() -> None:
    with_words = sheet(OWNER, [ANNA], date="2026-11-27", phrase=PHRASE)
    without = sheet(OWNER, [ANNA], date="2026-11-27")
    assert "1. abandon" in with_words
    assert not any(f" {word} " in without for word in set(PHRASE.split()))
    assert "█" not in without


def test_qr_code_of_the_sheet_is_that_of_the_words() -> None:
    expected = segno.make_qr(PHRASE, error="M", boost_error=False)
    assert modules(qr_lines(PHRASE)) == [list(row) for row in expected.matrix]


def test_qr_code_has_room_around_it() -> None:
    lines = qr_lines(PHRASE)
    assert not any(line.strip() for line in (*lines[:2], *lines[-2:]))
    assert all(line.startswith("    ") for line in lines if line.strip())
