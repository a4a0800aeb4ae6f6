"""Asking a person for the recovery phrase.

The words come from the terminal, which shows nothing of them, or from a file. Never from an argument or the
environment, which other processes of this machine may read, and which shells write into their history.
"""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bitdustfs.edges.home import translated
from bitdustfs.errors import BadFormat, BadRequest, Forbidden

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bitdustfs.core.keys import Secret

F = TypeVar("F", bound=Callable[..., Any])

_FILE_BYTES = 16 * 1024  # many times what 24 words take: more is another file
_STDIN = "-"


def with_words_file(function: F) -> F:
    """Let a verb that needs the words take them from a file."""
    return click.option(
        "--words-file",
        metavar="FILE",
        help="Read the 24 words from this file instead of asking for them; - is the standard input.",
    )(function)


def read_secret(words_file: str | None) -> Secret:
    """The secret behind the words that the person gives.

    Raises:
        BadRequest: there is no terminal to ask at, or the file holds no good phrase. NotFound, Forbidden: the file.
    """
    from pathlib import Path

    from bitdustfs.core.phrase import secret_of

    if words_file is None or (words_file == _STDIN and sys.stdin.isatty()):
        return _ask()
    try:
        if words_file == _STDIN:
            content = sys.stdin.buffer.read(_FILE_BYTES + 1)
        else:
            with open(words_file, "rb") as file:
                content = file.read(_FILE_BYTES + 1)
    except IsADirectoryError as bad:
        raise BadRequest(what=f"{words_file} is a directory, not a file with words") from bad
    except OSError as bad:
        raise translated(bad, Path(words_file)) from bad
    try:
        if len(content) > _FILE_BYTES:
            raise ValueError
        text = content.decode()
    except ValueError as bad:  # UnicodeDecodeError is one too
        where = "the standard input" if words_file == _STDIN else words_file
        raise BadFormat(what=f"{where} is no text with 24 words") from bad
    return secret_of(text)


def owner_key_for(secret: Secret, owner_public: bytes) -> Ed25519PrivateKey:
    """The owner's signing key, if the words are those of this owner.

    Raises:
        Forbidden: they are another's; says both fingerprints.
    """
    from bitdustfs.core.keys import owner_id, owner_key, public_bytes
    from bitdustfs.core.phrase import fingerprint

    key = owner_key(secret)
    found = public_bytes(key)
    if found != owner_public:
        raise Forbidden(
            what=f"these words lead to owner {fingerprint(owner_id(found))}, but this home belongs to owner "
            f"{fingerprint(owner_id(owner_public))}: compare with your sheet"
        )
    return key


def _ask() -> Secret:
    """Ask until the words are good. Ctrl-C and Ctrl-D end it."""
    from bitdustfs.core.phrase import PHRASE_WORDS, secret_of

    if not sys.stdin.isatty():
        raise BadRequest(what="the 24 words are asked for on a terminal only: run this in one, or give --words-file")
    click.echo("Type the 24 words of your recovery phrase, one or several in a line. They are not shown.", err=True)
    while True:
        words = _ask_words(PHRASE_WORDS)
        try:
            return secret_of(" ".join(words))
        except BadRequest as bad:
            click.echo(f"{bad}. Once more, from the first word:", err=True)


def _ask_words(count: int) -> list[str]:
    """So many words of the list; a line with one that is not there is taken up to that word."""
    from bitdustfs.core.phrase import read_words

    words: list[str] = []
    while len(words) < count:
        good, bad = read_words(_hidden_line(f"word {len(words) + 1} of {count}: "), first=len(words) + 1)
        words += good
        if bad is not None:
            click.echo(f"{bad}", err=True)
    return words


def _hidden_line(prompt: str) -> str:
    """One line from the terminal, without showing it. Raises BadRequest: this terminal would show it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except getpass.GetPassWarning as bad:
            raise BadRequest(what="this terminal would show the words: give them with --words-file") from bad
        except EOFError as end:
            raise click.Abort from end
