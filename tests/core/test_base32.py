"""Checked base32: every slip that it promises to find is found, and told with its group."""

from __future__ import annotations

import re
from itertools import combinations, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bitdustfs.core import base32
from bitdustfs.core.base32 import ALPHABET
from bitdustfs.errors import BadRequest

COUNTS = (52, 72)
numbers = st.sampled_from(COUNTS).flatmap(
    lambda count: st.tuples(st.integers(0, (1 << 5 * count) - 1), st.just(count))
)
SPOKEN = base32.encode(0x3141592653589793238462643383279502884197169399375105820974944592, 52)


def refusal(text: str) -> str:
    with pytest.raises(BadRequest) as refused:
        base32.decode(text, COUNTS)
    return str(refused.value)


def with_letters(text: str, letters: dict[int, str]) -> str:
    """Put other letters at places of a text, hyphens not counted, as somebody who says it in groups."""
    plain = list(text.replace("-", ""))
    for place, letter in letters.items():
        plain[place] = letter
    return "-".join("".join(plain[at : at + 4]) for at in range(0, len(plain), 4))


@given(numbers)
def test_what_is_written_is_read(number: tuple[int, int]) -> None:
    text = base32.encode(*number)
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-)*[0-9A-HJKMNP-TV-Z]{4}", text)
    assert len(text.replace("-", "")) == number[1] + 4
    assert base32.decode(text, COUNTS) == number


@given(numbers, st.randoms(use_true_random=False))
def test_what_sounds_and_looks_alike_is_the_same(number: tuple[int, int], dice: object) -> None:
    alike = {"0": "0oO", "1": "1iIlL", "V": "vVuU"}
    text = "".join(
        dice.choice(alike.get(letter, letter + letter.lower())) + dice.choice(["", " ", "-", "–", "\t"])  # type: ignore[attr-defined]
        for letter in base32.encode(*number).replace("-", "")
    )
    assert base32.decode(text, COUNTS) == number


def test_any_wrong_character_is_found_and_its_group_named() -> None:
    plain = SPOKEN.replace("-", "")
    for place, letter in product(range(56), ALPHABET):
        if plain[place] != letter:
            assert f"a character of group {place // 4 + 1}, " in refusal(with_letters(SPOKEN, {place: letter}))


def test_any_two_neighbours_that_changed_places_are_found_and_their_group_named() -> None:
    plain = SPOKEN.replace("-", "")
    for place in range(55):
        one, other = plain[place], plain[place + 1]
        if one != other:
            said = refusal(with_letters(SPOKEN, {place: other, place + 1: one}))
            assert "changed places in or after group" in said and re.search(rf"\b{place // 4 + 1}\b", said)


@given(numbers, st.data())
def test_three_wrong_characters_are_always_found(number: tuple[int, int], data: st.DataObject) -> None:
    text = base32.encode(*number)
    length = number[1] + 4
    places = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=3, unique=True))
    letters = {place: data.draw(st.sampled_from(ALPHABET)) for place in places}
    wrong = with_letters(text, letters)
    assume(wrong != text)
    refusal(wrong)


def test_no_three_points_of_the_check_matrix_lie_on_a_line() -> None:
    """What "any three" rests on: every three columns are independent over GF(32)."""
    columns = [base32._column(place, 76) for place in range(76)]
    assert len(set(columns)) == 76
    for one, other in combinations(range(1, 76), 2):  # through the first; three others are as good as any
        (x1, y1, f1), (x2, y2, f2) = (
            (a ^ columns[0][1], b ^ columns[0][2], f ^ columns[0][3]) for _, a, b, f in (columns[one], columns[other])
        )
        minors = (
            base32._times(x1, y2) ^ base32._times(x2, y1),
            base32._times(x1, f2) ^ base32._times(x2, f1),
            base32._times(y1, f2) ^ base32._times(y2, f1),
        )
        assert any(minors)


def test_two_slips_far_apart_are_not_taken_for_one() -> None:
    plain = SPOKEN.replace("-", "")
    other = {letter: ALPHABET[(ALPHABET.index(letter) + 7) % 32] for letter in ALPHABET}
    said = refusal(with_letters(SPOKEN, {3: other[plain[3]], 40: other[plain[40]]}))
    assert said == "several characters are wrong: ask for all groups again"


def test_a_group_that_lacks_a_character_is_named() -> None:
    groups = SPOKEN.split("-")
    groups[4] = groups[4][:3]
    assert "look at group 5" in refusal("-".join(groups))


def test_text_that_is_none_is_refused_with_what_is_wrong() -> None:
    assert refusal("") == "it has 0 characters, not 56 or 76"
    assert "'?' in group 2" in refusal("ABCD-E?")
    assert "U+001B" in refusal("\x1b[31m")
    assert "it has 100000 characters" in refusal("A" * 100_000)
