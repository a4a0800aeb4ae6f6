"""24 words for a secret, and what is said to somebody who mistyped them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import phrase
from bitdustfs.core.keys import Secret
from bitdustfs.errors import BadRequest
from bitdustfs.model import OwnerId

SECRET = Secret(bytes(range(32)))
PHRASE = (
    "abandon amount liar amount expire adjust cage candy arch gather drum bullet "
    "absurd math era live bid rhythm alien crouch range attend journey unaware"
)
secrets = st.binary(min_size=32, max_size=32).map(Secret)


def test_phrase_is_that_of_bip_39() -> None:
    # Source: the BIP-39 test vectors of Trezor, 256 bits of zeros and of ones
    assert phrase.phrase_of(Secret(bytes(32))) == "abandon " * 23 + "art"
    assert phrase.phrase_of(Secret(b"\xff" * 32)) == "zoo " * 23 + "vote"
    assert phrase.phrase_of(SECRET) == PHRASE


@pytest.mark.slow
@given(secrets)
def test_phrase_leads_back_to_its_secret(secret: Secret) -> None:
    words = phrase.phrase_of(secret)
    assert len(words.split()) == phrase.PHRASE_WORDS
    assert phrase.secret_of(f"  {words.upper()}\n") == secret


def test_mistyped_word_is_named_with_its_place() -> None:
    with pytest.raises(BadRequest, match="word 3 of the recovery phrase, 'lair'"):
        phrase.secret_of(PHRASE.replace("liar", "lair"))


def test_wrong_count_of_words_is_told() -> None:
    with pytest.raises(BadRequest, match="has 24 words, this has 12"):
        phrase.secret_of("abandon " * 11 + "about")


def test_two_swapped_words_are_refused() -> None:
    words = PHRASE.split()
    words[0], words[2] = words[2], words[0]
    with pytest.raises(BadRequest, match="swapped"):
        phrase.secret_of(" ".join(words))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("abandn", "abandon"), ("abbandon", "abandon"), ("gardne", "garden"), ("zoologist", None), ("qqqq", None)],
)
def test_one_word_that_is_near_a_mistyped_one_is_suggested(typed: str, meant: str | None) -> None:
    _, bad = phrase.read_words(f"art {typed} art", first=5)
    hint = f": did you mean '{meant}'?" if meant else ""
    assert str(bad) == f"word 6 of the recovery phrase, '{typed}', is not in the list of words{hint}"


def test_word_that_has_the_first_four_letters_of_another_is_taken_for_it() -> None:
    _, bad = phrase.read_words("accidentally", first=1)
    assert "did you mean 'accident'?" in str(bad)


def test_word_that_is_near_several_gets_no_guess() -> None:
    _, bad = phrase.read_words("lair", first=3)
    assert str(bad) == "word 3 of the recovery phrase, 'lair', is not in the list of words"


def test_words_before_a_mistyped_one_are_kept() -> None:
    good, bad = phrase.read_words("Zoo  zoo\tzooo zoo", first=1)
    assert good == ("zoo", "zoo")
    assert "word 3 " in str(bad)


def test_fingerprint_is_the_front_of_the_owner_id_in_groups() -> None:
    assert phrase.fingerprint(OwnerId(bytes(range(16, 48)))) == "1011 1213 1415 1617"
