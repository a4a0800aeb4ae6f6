"""A home with keys, and the command line called in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitdustfs.cli.main import run


@dataclass(frozen=True, slots=True)
class Said:
    """What a call of the command line did."""

    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _no_home_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BITDUSTFS_HOME", str(tmp_path / "no-home"))


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the command line. Not for verbs that set up logging: those would take pytest's away."""

    def do(*words: str | Path) -> Said:
        capfd.readouterr()
        code = run([str(word) for word in words])
        printed = capfd.readouterr()
        return Said(code, printed.out, printed.err)

    return do


@pytest.fixture
def home(tmp_path: Path, call: Call) -> Path:
    """The state directory of somebody who ran `init`."""
    said = call("--home", tmp_path / "home", "init", "--words-file", tmp_path / "words")
    assert said.code == 0, said.err
    return tmp_path / "home"


def contents(directory: Path) -> Mapping[str, bytes | None]:
    """Every name below a directory, and what is in the files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }
