"""The recovery phrase: R as 24 BIP-39 words, and what is said to a person who mistyped one.

Whoever has the words has the files, so no message repeats more of them than the one word that is not in the list.
"""

from __future__ import annotations

from itertools import takewhile
from string import ascii_lowercase

from mnemonic import Mnemonic

from bitdustfs.core.keys import Secret
from bitdustfs.errors import BadRequest
from bitdustfs.model import OwnerId

PHRASE_WORDS = 24
_BIP_39 = Mnemonic("english")
_WORDS = frozenset(_BIP_39.wordlist)
_UNIQUE_LETTERS = 4  # no two words of the list begin with the same four. Source: BIP-39, "Wordlist"
_SHOWN_LETTERS = 20  # of what may be no word at all, but a file that was taken for the words
_FINGERPRINT_DIGITS = 16  # nobody finds another owner with the same 64 bits; a person compares four groups


def phrase_of(secret: Secret) -> str:
    """Write R as 24 BIP-39 words (English list, 8 check bits)."""
    return _BIP_39.to_mnemonic(secret.content)


def secret_of(phrase: str) -> Secret:
    """Read 24 words back into R. Case and the kind of space between them do not matter.

    Raises:
        BadRequest: names the first word that is not in the list, a wrong count, or a wrong check sum.
    """
    words, bad = read_words(phrase, first=1)
    if bad is not None:
        raise bad
    if len(words) != PHRASE_WORDS:
        raise BadRequest(what=f"a recovery phrase has {PHRASE_WORDS} words, this has {len(words)}")
    if not _BIP_39.check(" ".join(words)):
        raise BadRequest(what="these words are not a recovery phrase: one is wrong, or two are swapped")
    return Secret(bytes(_BIP_39.to_entropy(list(words))))


def read_words(text: str, *, first: int) -> tuple[tuple[str, ...], BadRequest | None]:
    """Read some words of a phrase, up to the first that is not in the list.

    Args:
        first: the place in the phrase, from 1, of the first word of the text.
    Returns:
        The words of the list, and what to say of the next one; None: they are all good.
    """
    words = text.lower().split()
    good = tuple(takewhile(_WORDS.__contains__, words))
    bad = _unknown(words[len(good)], first + len(good)) if len(good) < len(words) else None
    return good, bad


def fingerprint(owner: OwnerId) -> str:
    """The front of an owner id, for a person to compare with the sheet: four groups of four hex digits."""
    digits = owner.hex()[:_FINGERPRINT_DIGITS]
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def _unknown(word: str, place: int) -> BadRequest:
    near = _near(word)
    meant = f": did you mean {near!r}?" if near else ""
    shown = word if len(word) <= _SHOWN_LETTERS else word[:_SHOWN_LETTERS] + "…"
    return BadRequest(what=f"word {place} of the recovery phrase, {shown!r}, is not in the list of words{meant}")


def _near(word: str) -> str | None:
    """The one word of the list that was meant, if it is only one."""
    slips = _WORDS & _slips(word[:_SHOWN_LETTERS])
    if len(slips) == 1:
        return next(iter(slips))
    front = word[:_UNIQUE_LETTERS]
    same = [known for known in _BIP_39.wordlist if len(front) == _UNIQUE_LETTERS and known.startswith(front)]
    return same[0] if same else None


def _slips(word: str) -> set[str]:
    """Everything that one slip of a finger makes of a word: a letter too many, too few, another, or two swapped."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    fewer = {a + b[1:] for a, b in cuts if b}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    other = {a + letter + b[1:] for a, b in cuts if b for letter in ascii_lowercase}
    more = {a + letter + b for a, b in cuts for letter in ascii_lowercase}
    return fewer | swapped | other | more
