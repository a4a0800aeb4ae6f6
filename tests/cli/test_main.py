"""One place makes a sentence and an exit code out of every way that a verb can end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from bitdustfs.cli.main import group
from bitdustfs.cli.processes import said_by
from bitdustfs.errors import EXIT, BadRequest, InUse, Kind, SpoolFull
from tests.cli.conftest import Call

Ending = Callable[[BaseException | int], None]


@pytest.fixture
def ending() -> Iterator[Ending]:
    """Let the verb `boom` end with this error or value."""
    how: list[BaseException | int] = []

    def boom() -> int:
        if isinstance(how[0], BaseException):
            raise how[0]
        return how[0]

    group.add_command(click.Command("boom", callback=boom))
    yield how.append
    del group.commands["boom"]


def groups(command: click.Group, path: str) -> Iterator[tuple[str, click.Group]]:
    """Every command with verbs below it, and what is typed for it."""
    yield path, command
    for name, below in command.commands.items():
        if isinstance(below, click.Group):
            yield from groups(below, f"{path} {name}")


@pytest.mark.slow
def test_what_a_verb_does_is_said_whole_where_verbs_are_listed() -> None:
    for path, command in groups(group, "bitdustfs"):
        for name in command.commands:
            shown = command.get_help(click.Context(command, info_name=path, terminal_width=80))
            line = next(each for each in shown.partition("Commands:")[2].splitlines() if each.split()[:1] == [name])
            assert line.endswith("."), line
            assert not line.endswith(".."), line


def test_every_kind_of_error_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT) == set(Kind)
    assert len(set(EXIT.values())) == len(EXIT)


def test_an_error_is_one_sentence_and_its_exit_code(call: Call, ending: Ending) -> None:
    ending(SpoolFull(used=1, limit=2))
    said = call("boom")
    assert (said.code, said.out) == (EXIT[Kind.FULL], "")
    assert said.err == "bitdustfs: the spool is full: 1 of 2 bytes hold data that is not at the suppliers yet\n"


def test_an_error_out_of_a_nursery_is_said_the_same_way(call: Call, ending: Ending) -> None:
    ending(ExceptionGroup("tasks", [ExceptionGroup("more", [InUse(what="the port is taken")])]))
    said = call("boom")
    assert (said.code, said.err) == (EXIT[Kind.BUSY], "bitdustfs: the port is taken\n")


def test_an_interrupt_is_silent(call: Call, ending: Ending) -> None:
    ending(KeyboardInterrupt())
    said = call("boom")
    assert (said.code, said.err.strip()) == (130, "")


def test_an_interrupt_among_other_errors_is_an_interrupt(call: Call, ending: Ending) -> None:
    ending(BaseExceptionGroup("tasks", [BadRequest(what="x"), KeyboardInterrupt()]))
    assert call("boom").code == 130


def test_a_verb_may_end_with_a_code_of_its_own(call: Call, ending: Ending) -> None:
    ending(34)
    assert call("boom").code == 34


def test_a_fault_of_ours_points_to_the_log(home: Path, call: Call, ending: Ending) -> None:
    ending(ZeroDivisionError("by nothing"))
    said = call("--home", home, "boom")
    assert said.code == 70
    assert said.err == f"bitdustfs: a fault of our own, ZeroDivisionError: the log, {home}/log, says where\n"
    assert "by nothing" in (home / "log").read_text()


def test_a_fault_without_a_home_shows_its_trace(tmp_path: Path, call: Call, ending: Ending) -> None:
    ending(ExceptionGroup("tasks", [ZeroDivisionError("by nothing")]))
    said = call("--home", tmp_path / "nowhere", "boom")
    assert said.code == 70
    assert "by nothing" in said.err


@pytest.mark.parametrize("verb", sorted(group.commands))
def test_every_verb_explains_itself(call: Call, verb: str) -> None:
    said = call(verb, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: bitdustfs {verb}")


def test_the_help_lists_every_verb(call: Call) -> None:
    said = call("--help")
    assert all(f"\n  {verb} " in said.out for verb in group.commands)


def test_the_version_is_told(call: Call) -> None:
    assert call("--version").out.startswith("bitdustfs 0.")


@pytest.mark.slow
def test_help_and_status_load_no_heavy_modules() -> None:
    script = "import sys; from bitdustfs.cli.main import group; list(group.commands.values()); "
    script += "print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"trio", "pyfuse3", "apsw", "zfec", "cryptography", "mnemonic", "rich", "msgspec"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.slow
def test_who_reads_our_output_may_leave() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "bitdustfs.cli.main", "--help"], stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_error_of_a_verb_run_as_a_process_keeps_its_kind() -> None:
    error = said_by("a warning\nbitdustfs: the port is taken\n", EXIT[Kind.BUSY])
    assert (error.kind, str(error)) == (Kind.BUSY, "the port is taken")
    assert said_by("", -9).kind is Kind.BUG
