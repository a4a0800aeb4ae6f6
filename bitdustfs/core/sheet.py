"""The sheet: what a person keeps on paper to get everything back when this machine is gone.

Plain text of at most 80 columns, for any printer. The words stand on it too as a QR code of block characters, two
rows of the code in one line of text: dark is what the printer blackens.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import segno

from bitdustfs.core.phrase import fingerprint
from bitdustfs.model import OwnerId

COLUMNS = 80
WORD_COLUMNS = 4
_QUIET = 4  # light modules around a QR code, so that it is found. Source: ISO/IEC 18004
_RECOVERY = "M"  # a sixth of the code may be dirt or a fold
_HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}  # upper and lower module, 1 is dark
_TITLE = "bitdustfs: how to get the files back"
_RULE = "-" * COLUMNS


@dataclass(frozen=True, slots=True)
class Place:
    """One supplier, as the sheet tells it."""

    label: str
    node: str  # 64 hex digits
    address: str  # ADDR:PORT


def sheet(owner: OwnerId, suppliers: Sequence[Place], *, date: str, phrase: str | None = None) -> str:
    """Write a sheet.

    Args:
        date: of today, as a person reads it.
        phrase: the 24 words; None: they are on another sheet.
    """
    lines = [f"{_TITLE}{date:>{COLUMNS - len(_TITLE)}}", _RULE]
    lines += ["", f"Owner fingerprint:  {fingerprint(owner)}", ""]
    if phrase is not None:
        lines += _paragraph("The recovery phrase. Whoever has these words has the files; without them nobody does.")
        lines += ["", *word_rows(phrase), "", *qr_lines(phrase)]
    else:
        lines += _paragraph("The 24 words of the recovery phrase are on another sheet: keep that one too.")
    return "\n".join([*lines, "", _RULE, "", *_steps(), "", _RULE, "", *_suppliers(suppliers)]) + "\n"


def word_rows(phrase: str) -> list[str]:
    """The words with their numbers, to be read down the columns."""
    words = phrase.split()
    rows = len(words) // WORD_COLUMNS
    return [
        "  " + "".join(f"{place + 1:>4}. {words[place]:<10}" for place in range(row, len(words), rows)).rstrip()
        for row in range(rows)
    ]


def qr_lines(content: str) -> list[str]:
    """A QR code in block characters. What is outside of it is light."""
    code = segno.make_qr(content, error=_RECOVERY, boost_error=False)
    modules = [list(row) for row in code.matrix_iter(border=_QUIET)]
    if len(modules) % 2:
        modules.append([0] * len(modules[0]))
    return [
        "".join(_HALVES[int(upper > 0), int(lower > 0)] for upper, lower in zip(*pair, strict=True)).rstrip()
        for pair in zip(modules[::2], modules[1::2], strict=True)
    ]


def _steps() -> list[str]:
    steps = (
        "On any computer with Linux install bitdustfs.",
        "Run this with one supplier of the list below, any that can be reached. It asks for the words. If it says "
        "that they lead to an owner with another fingerprint than above, some of them are wrong.",
        "Mount, and everything is there. From then on the old computer cannot change it any more.",
    )
    lines = []
    for number, step in enumerate(steps, start=1):
        lines += _paragraph(step, first=f"{number}. ", then="   ")
        if number == 2:
            lines.append("       bitdustfs recover NODEID@ADDRESS:PORT")
        if number == 3:
            lines.append("       bitdustfs mount DIRECTORY")
    return lines


def _suppliers(suppliers: Sequence[Place]) -> Iterator[str]:
    if not suppliers:
        yield from _paragraph(
            "No supplier is hired yet, so nothing is anywhere but on the one computer. When some are, "
            "print `bitdustfs sheet`, and keep it with this one."
        )
        return
    yield from _paragraph(
        "The suppliers on that date. Each is one word NODEID@ADDRESS:PORT, here on two lines or more, without space "
        "between. When they change, print `bitdustfs sheet` again."
    )
    for place in suppliers:
        yield ""
        yield f"  {place.label[: COLUMNS - 2]}"
        yield f"    {place.node}@"
        yield from textwrap.wrap(place.address, COLUMNS, initial_indent="    ", subsequent_indent="    ")


def _paragraph(text: str, *, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=then)
