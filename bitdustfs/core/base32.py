"""Checked base32: what is read over a telephone, and how a slip of the tongue is found.

32 characters that sound and look different (Crockford's: digits, and letters without I, L, O and U), 5 bits each,
in groups of four. The last group checks all others: any three wrong characters, and any two that changed places, are
found with certainty; of more, one in a million is not. Where one character is wrong, or two neighbours changed
places, the group is named: it is told, never mended, for what looks like one slip may be many.

Theory: over GF(32) a check matrix whose columns are the points (1, x, y, x² + xy + y²) makes a code of distance 4,
for the form has no zero but (0, 0), and so no three of the points lie on a line (an elliptic quadric). Character i of
the content is at (i mod 32, 2 + i div 32); the check characters are at (0, 0), (1, 0), (0, 1), (1, 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

from bitdustfs.errors import BadRequest

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
GROUP: Final = 4
CHECKS: Final = 4  # check characters
MOST: Final = 30 * 32  # characters of content: as many points are left
_BITS = 5
_VALUES = {letter: value for value, letter in enumerate(ALPHABET)} | {
    "O": 0,
    "I": 1,
    "L": 1,
    "U": ALPHABET.index("V"),
}
_IGNORED = frozenset(" \t\r\n-‐‑–—")  # hyphens become dashes where programs think that they know better
_CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))
_FIELD = 0b100101  # x^5 + x^2 + 1
_SHOWN = 20  # of what may be no line at all


def encode(number: int, count: int) -> str:
    """Write a number in `count` characters, whole groups of four, and then the check group; hyphens between."""
    assert count % GROUP == 0 and 0 < count <= MOST and 0 <= number < 1 << (_BITS * count)
    digits = [number >> (_BITS * place) & 31 for place in reversed(range(count))]
    whole = digits + _check(digits)
    text = "".join(ALPHABET[digit] for digit in whole)
    return "-".join(text[at : at + GROUP] for at in range(0, len(text), GROUP))


def decode(text: str, counts: Sequence[int]) -> tuple[int, int]:
    """Read it back. Case, spaces and hyphens do not matter; I and L are read as 1, O as 0, U as V.

    Args:
        counts: of characters, without the check group, that it may have.
    Returns:
        The number, and in how many characters it was written.
    Raises:
        BadRequest: says what is wrong, and in which group if that can be told.
    """
    letters = [letter for letter in text.upper() if letter not in _IGNORED]
    for place, letter in enumerate(letters):
        if letter not in _VALUES:
            raise BadRequest(what=f"{_named(letter)} in group {place // GROUP + 1} is none of the characters used")
    count = len(letters) - CHECKS
    if count not in counts:
        raise BadRequest(what=_of_wrong_length(text, letters, counts))
    digits = [_VALUES[letter] for letter in letters]
    if any(_sums(digits)):
        raise BadRequest(what=_where_wrong(digits))
    number = 0
    for digit in digits[:count]:
        number = number << _BITS | digit
    return number, count


# --- finding slips ------------------------------------------------------------------------------------------


def _where_wrong(digits: Sequence[int]) -> str:
    """Say which group is likely wrong."""
    sums = _sums(digits)
    for place in range(len(digits)):
        if sums == [_times(sums[0], part) for part in _column(place, len(digits))]:
            group = place // GROUP
            shown = "".join(ALPHABET[digit] for digit in digits[group * GROUP :][:GROUP])
            return f"a character of group {group + 1}, {shown}, seems to be wrong: ask for that group again"
    swaps = [place for place in range(len(digits) - 1) if not any(_sums(_swapped(digits, place)))]
    if swaps:
        where = " or ".join(str(group) for group in sorted({place // GROUP + 1 for place in swaps}))
        return f"two characters seem to have changed places in or after group {where}: ask for that again"
    return "several characters are wrong: ask for all groups again"


def _swapped(digits: Sequence[int], place: int) -> list[int]:
    one, other = digits[place : place + 2]
    return [*digits[:place], other, one, *digits[place + 2 :]]


def _of_wrong_length(text: str, letters: Sequence[str], counts: Sequence[int]) -> str:
    wanted = [count + CHECKS for count in counts]
    much = f"it has {len(letters)} characters, not {' or '.join(str(count) for count in wanted)}"
    groups = "".join(" " if letter in _IGNORED else letter for letter in text).split()
    odd = [number for number, group in enumerate(groups, start=1) if len(group) != GROUP]
    if len(odd) == 1 and len(groups) * GROUP in wanted:
        return f"{much}: look at group {odd[0]}, {groups[odd[0] - 1][:_SHOWN]}, which should have {GROUP}"
    return much


def _named(letter: str) -> str:
    return repr(letter) if letter.isprintable() else f"the character U+{ord(letter):04X}"


# --- arithmetic ---------------------------------------------------------------------------------------------


@cache
def _times(one: int, other: int) -> int:
    """Multiply in GF(32)."""
    product = 0
    for bit in range(_BITS):
        if other >> bit & 1:
            product ^= one << bit
    for bit in reversed(range(_BITS, 2 * _BITS - 1)):
        if product >> bit & 1:
            product ^= _FIELD << (bit - _BITS)
    return product


def _point(x: int, y: int) -> tuple[int, int, int, int]:
    return 1, x, y, _times(x, x) ^ _times(x, y) ^ _times(y, y)


@cache
def _column(place: int, count: int) -> tuple[int, int, int, int]:
    """Of a character among `count`, the check characters with them."""
    content = count - CHECKS
    if place >= content:
        return _point(*_CORNERS[place - content])
    return _point(place % 32, 2 + place // 32)


def _sums(digits: Sequence[int]) -> list[int]:
    """Four sums over content and check characters, all zero if nothing is wrong."""
    return _add(((digit, _column(place, len(digits))) for place, digit in enumerate(digits)))


def _add(terms: Iterable[tuple[int, tuple[int, int, int, int]]]) -> list[int]:
    sums = [0, 0, 0, 0]
    for digit, column in terms:
        for row, part in enumerate(column):
            sums[row] ^= _times(digit, part)
    return sums


def _check(digits: Sequence[int]) -> list[int]:
    """The check characters of a content: what makes all four sums zero."""
    one, x, y, form = _add((digit, _column(place, len(digits) + CHECKS)) for place, digit in enumerate(digits))
    return [one ^ form, y ^ form, x ^ form, x ^ y ^ form]
