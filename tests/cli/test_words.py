"""Asking for the recovery phrase: on a terminal that shows nothing of it, or from a file."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitdustfs.cli.words import owner_key_for, read_secret
from bitdustfs.core.keys import Secret, owner_key, public_bytes
from bitdustfs.core.phrase import phrase_of
from bitdustfs.errors import BadFormat, BadRequest, Forbidden, NotFound

SECRET = Secret(bytes(range(32)))
WORDS = phrase_of(SECRET).split()
ASK = "from bitdustfs.cli.words import read_secret; print('got', read_secret(None).content.hex())"


class Terminal:
    """A child that asks for the words at a terminal of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""  # and not waited for yet
        self.everything = ""

    def wait_for(self, text: str) -> None:
        """Read what is shown until it has this; what came after it stays for the next time."""
        while text not in self.shown:
            assert select.select([self._descriptor], [], [], 60)[0], f"it does not say {text!r} after {self.shown!r}"
            came = os.read(self._descriptor, 4096).decode()
            self.shown += came
            self.everything += came
        self.shown = self.shown.partition(text)[2]

    def answer(self, prompt: str, line: str) -> None:
        self.wait_for(prompt)
        os.write(self._descriptor, line.encode())


@contextmanager
def asked() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(ours)
        child.wait(60)
    finally:
        child.kill()
        child.wait()
        os.close(ours)


@pytest.mark.slow
def test_words_typed_at_a_terminal_are_not_shown() -> None:
    with asked() as terminal:
        terminal.answer("word 1 of 24: ", " ".join(WORDS[:10]) + "\n")
        terminal.answer("word 11 of 24: ", " ".join(WORDS[10:]) + "\n")
        terminal.wait_for(f"got {SECRET.content.hex()}")
    assert WORDS[0] not in terminal.everything
    assert WORDS[-1] not in terminal.everything


@pytest.mark.slow
def test_mistyped_word_is_asked_again_and_those_before_it_are_kept() -> None:
    with asked() as terminal:
        terminal.answer("word 1 of 24: ", " ".join([*WORDS[:5], "adjjust", *WORDS[6:]]) + "\n")
        terminal.wait_for("word 6 of the recovery phrase, 'adjjust', is not in the list of words")
        terminal.wait_for("did you mean 'adjust'?")
        terminal.answer("word 6 of 24: ", " ".join(WORDS[5:]) + "\n")
        terminal.wait_for(f"got {SECRET.content.hex()}")


@pytest.mark.slow
def test_wrong_check_sum_is_said_and_all_words_are_asked_again() -> None:
    with asked() as terminal:
        terminal.answer("word 1 of 24: ", " ".join([WORDS[2], WORDS[1], WORDS[0], *WORDS[3:]]) + "\n")
        terminal.wait_for("one is wrong, or two are swapped")
        terminal.answer("word 1 of 24: ", " ".join(WORDS) + "\n")
        terminal.wait_for(f"got {SECRET.content.hex()}")


@pytest.mark.slow
def test_without_a_terminal_nothing_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=" ".join(WORDS), capture_output=True, text=True, check=False
    )
    assert "--words-file" in done.stderr
    assert "got" not in done.stdout


def test_words_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("\n".join(WORDS).upper())
    assert read_secret(str(tmp_path / "words")) == SECRET


def test_words_are_read_from_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(" ".join(WORDS).encode())))
    assert read_secret("-") == SECRET


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"\xff\xfe", BadFormat), (b"zoo " * 10_000, BadFormat), (b"zoo zoo", BadRequest), (b"", BadRequest)],
)
def test_file_without_a_phrase_is_refused(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    (tmp_path / "words").write_bytes(content)
    with pytest.raises(error):
        read_secret(str(tmp_path / "words"))


@pytest.mark.parametrize(("name", "error"), [("missing", NotFound), (".", BadRequest)])
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_secret(str(tmp_path / name))


def test_words_of_another_owner_are_refused_with_both_fingerprints() -> None:
    own = public_bytes(owner_key(SECRET))
    assert public_bytes(owner_key_for(SECRET, own)) == own
    with pytest.raises(Forbidden, match=r"these words lead to owner 5b88 8e79 be70 5524, but .* belongs to owner "):
        owner_key_for(SECRET, public_bytes(owner_key(Secret(bytes(32)))))
