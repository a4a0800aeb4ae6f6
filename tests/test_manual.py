"""The manual is true where a program can tell: it renders, and names every verb, option, key, exit code and test."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import click
import pytest

from bitdustfs.cli.audit import EXIT_FOUND
from bitdustfs.cli.fsck import EXIT_WRONG
from bitdustfs.cli.main import EXIT_INTERRUPTED, EXIT_UNHEARD, group
from bitdustfs.cli.mount_options import parse_options
from bitdustfs.cli.status import STATE_EXIT
from bitdustfs.cli.sync import EXIT_INCOMPLETE
from bitdustfs.core.report import BalanceReport, StatusReport
from bitdustfs.edges.config import KEYS
from bitdustfs.errors import EXIT, BadRequest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "man").iterdir() if path.suffix in {".1", ".5", ".7"})
NOTES = sorted((ROOT / "man" / "decisions").glob("*.md"))
INVARIANTS = [f"I{number}" for number in range(1, 15)]
TEST_NAME = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def page(name: str) -> str:
    """The source of a page, with what groff needs escaped as a reader sees it."""
    return (ROOT / "man" / name).read_text().replace("\\-", "-")


def without_fonts(text: str) -> str:
    return re.sub(r"\\f[A-Z]", "", text)


def verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that lead to it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from verbs(below, (*path, name))


@functools.cache
def functions_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def invariants() -> dict[str, str]:
    """What the architecture page says of each invariant."""
    section = page("bitdustfs-architecture.7").partition(".SH INVARIANTS")[2].partition(".SH ")[0]
    parts = re.split(r"^\.B (I\d+)\n", section, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_all_pages_of_the_manual_are_there() -> None:
    assert [path.name for path in PAGES] == [
        "bitdustfs-architecture.7",
        "bitdustfs-formats.5",
        "bitdustfs-glossary.7",
        "bitdustfs-security.7",
        "bitdustfs-suppliers.7",
        "bitdustfs.1",
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_renders_without_a_warning(path: Path) -> None:
    for command in (
        ["groff", "-man", "-ww", "-Tutf8", str(path)],
        ["man", "--warnings", "--local-file", str(path)],
    ):
        surroundings = os.environ | {"MANWIDTH": "80", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"}
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings)
        assert shown.stderr == ""
        assert "SEE ALSO" in re.sub(".\b|\x1b\\[[0-9;]*m", "", shown.stdout)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_source_of_a_page_is_ascii(path: Path) -> None:
    assert path.read_bytes().isascii()


def test_every_verb_and_option_is_in_the_manual() -> None:
    said = without_fonts(page("bitdustfs.1"))
    for words, command in verbs(group):
        assert all(re.search(rf"\b{word}\b", said) for word in words)
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        missing = [name for option in options for name in option.opts if not re.search(rf"(?<!\w){name}\b", said)]
        assert not missing, f"{' '.join(words)} has {missing}, which bitdustfs(1) does not name"


def test_every_verb_has_its_own_section() -> None:
    sections = re.findall(r"^\.SS (.+)$", page("bitdustfs.1"), flags=re.MULTILINE)
    assert all(any(name in section.split() for section in sections) for name in group.commands)


def test_every_mount_option_is_in_the_manual() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_options(["zzzzzz"])
    options = str(refused.value).partition("there are ")[2].split(", ")
    assert "ro" in options
    assert all(name in page("bitdustfs.1") for name in options)


def test_every_key_of_the_configuration_is_in_the_manual() -> None:
    section = page("bitdustfs.1").partition(".SH CONFIGURATION")[2].partition(".SH ")[0]
    assert all(re.search(rf"^\.BI?R? {key}\b", section, flags=re.MULTILINE) for key in KEYS)


def test_every_exit_code_is_in_the_manual() -> None:
    section = page("bitdustfs.1").partition(".SH EXIT STATUS")[2].partition(".SH ")[0]
    said = {int(number) for number in re.findall(r"^ *(\d+)  ", section, flags=re.MULTILINE)}
    assert said == {
        0,
        *EXIT.values(),
        *STATE_EXIT.values(),
        EXIT_INCOMPLETE,
        EXIT_FOUND,
        EXIT_WRONG,
        EXIT_INTERRUPTED,
        EXIT_UNHEARD,
    }


def status_fields() -> list[str]:
    """The fields of `status --json` that the manual explains with unit and meaning, those of an object as "a.b"."""
    table = page("bitdustfs.1").partition("\nFIELD ")[2].partition("\n.fi")[0]
    rows = re.findall(r"^(  )?([a-z_]+) {2,}(?:\S+ )+ *\S", table, flags=re.MULTILINE)
    found, above = list[str](), ""
    for indent, name, *_ in rows:
        above = above if indent else name
        found.append(f"{above}.{name}" if indent else name)
    return found


def fields_of(value: object, above: str = "") -> set[str]:
    """The same of a value as JSON has it, or of the type of one. A map's keys are no fields, but data."""
    if is_typeddict(value):
        value = get_type_hints(value)
    if get_origin(value) is NotRequired or get_origin(value) is list:
        return fields_of(get_args(value)[0], above)
    if isinstance(value, list):
        return set().union(*(fields_of(each, above) for each in value))
    if not isinstance(value, Mapping) or above in ("codes.", "fairness.balance."):
        return set()
    below = [fields_of(each, f"{above}{name}.") for name, each in value.items()]
    return {f"{above}{name}" for name in value}.union(*below)


def test_fields_of_a_status_report_are_in_the_manual_and_no_others() -> None:
    said = status_fields()
    assert len(said) == len(set(said))
    assert set(said) == fields_of(StatusReport) | {"home", "mountpoint"}
    contracts = page("bitdustfs.1").partition("\n.SS contracts")[2].partition("\n.SS ")[0]
    assert all(re.search(rf"\b{field}\b", contracts) for field in BalanceReport.__annotations__)


def test_every_invariant_names_its_test_or_says_that_there_is_none() -> None:
    said = invariants()
    assert list(said) == INVARIANTS
    assert all(TEST_NAME.search(text) or "no test yet: comes with" in text for text in said.values())


def test_every_test_that_the_manual_names_exists() -> None:
    named = [match for path in PAGES for match in TEST_NAME.findall(page(path.name))]
    missing = [f"{path}::{name}" for path, name in named if name not in functions_in(ROOT / path)]
    assert named and not missing


def test_every_module_that_the_architecture_names_exists() -> None:
    said = page("bitdustfs-architecture.7")
    named = set(re.findall(r"(?<![/\w])(?:core|engine|edges|cli|testing)/[a-z_]+", said))
    assert named and not [name for name in named if not (ROOT / "bitdustfs" / f"{name}.py").exists()]


def test_decision_notes_are_short_and_complete() -> None:
    assert NOTES
    for note in NOTES:
        text = note.read_text()
        assert len(text.splitlines()) < 40
        assert all(
            part in text for part in ("## Context", "## Decision", "## What we give up", "## How we would know")
        )


def test_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]
