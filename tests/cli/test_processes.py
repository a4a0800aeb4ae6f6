"""Daemons that are started together: each is a process of its own, as if it had been started alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdustfs.cli.common import Asked
from bitdustfs.cli.init import init
from bitdustfs.cli.processes import Answer, Order, daemon, is_verb_of, start_daemons, wait_until_free
from bitdustfs.edges.home import Home, holder
from bitdustfs.errors import EXIT, BitdustError, Kind

SERVE = ("serve", "--listen", "127.0.0.1:0", "--donate", "1G")
ENDS_S = 60.0
MOTHER = """
import sys
from bitdustfs.cli.mother import bear
from bitdustfs.cli.processes import Order
bear([Order.decoded(sys.stdin.read())])
"""


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Home]]:
    """Three homes with keys. Who serves them in the end is killed."""
    made = [Home(tmp_path / name) for name in ("one", "two", "three")]
    for home in made:
        words = ["--words-file", str(tmp_path / f"{home.path.name}.words")]
        init.main(words, standalone_mode=False, obj=Asked(home=str(home)))
    yield made
    for home in made:
        pid = holder(home)
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_until_free(home, wait_s=ENDS_S)


def ordered(home: Home) -> Order:
    return daemon(home, home.path / "stderr", *SERVE)


def command_line(pid: int) -> list[str]:
    return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_daemons_started_together_are_each_seen_as_started_alone(homes: list[Home]) -> None:
    said = start_daemons([ordered(home) for home in homes])
    assert len({str(line).partition("@")[0] for line in said}) == len(homes), "a node of its own"
    pids = [holder(home) or 0 for home in homes]
    for home, pid in zip(homes, pids, strict=True):
        assert command_line(pid) == ordered(home).command
        assert is_verb_of(pid, home, "serve")
        assert not any(is_verb_of(pid, other, "serve") for other in homes if other is not home)
        assert os.getsid(pid) == pid
        assert parent_of(pid) not in (*pids, os.getpid())


@pytest.mark.slow
def test_daemon_that_is_killed_or_ended_takes_none_of_the_others_with_it(homes: list[Home]) -> None:
    start_daemons([ordered(home) for home in homes])
    pids = [holder(home) or 0 for home in homes]
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGTERM)
    for home in homes[:2]:
        wait_until_free(home, wait_s=ENDS_S)
    assert holder(homes[2]) == pids[2]
    assert "ending: SIGTERM" in homes[1].log.read_text()
    assert not homes[0].log.exists() and not homes[2].log.exists()


@pytest.mark.slow
def test_daemon_that_cannot_serve_says_why_and_the_others_serve(homes: list[Home], tmp_path: Path) -> None:
    nowhere, nonsense = Home(tmp_path / "nowhere"), daemon(homes[1], tmp_path / "nonsense", "serve", "--listen", "x")
    said = start_daemons([ordered(homes[0]), daemon(nowhere, tmp_path / "complaints", *SERVE), nonsense])
    assert isinstance(said[0], str) and said[0].partition("@")[2]
    assert isinstance(said[1], BitdustError) and said[1].kind is Kind.MISSING
    assert isinstance(said[2], BitdustError) and said[2].kind is Kind.USAGE
    assert "there is no state directory" in str(said[1])


@pytest.mark.slow
def test_daemon_that_is_started_alone_and_cannot_serve_says_why(tmp_path: Path) -> None:
    nowhere = Home(tmp_path / "nowhere")
    (said,) = start_daemons([daemon(nowhere, tmp_path / "complaints", *SERVE)])
    assert isinstance(said, BitdustError) and said.kind is Kind.MISSING
    assert f"there is no state directory {nowhere}" in str(said)
    (said,) = start_daemons([daemon(nowhere, tmp_path / "no" / "complaints", *SERVE)])
    assert "No such file" in str(said)


@pytest.mark.slow
def test_daemon_whose_complaints_cannot_be_kept_says_so(tmp_path: Path) -> None:
    orders = [Order(["--home", str(tmp_path), "serve"], str(tmp_path / name / "stderr")) for name in ("a", "b")]
    said = start_daemons(orders)
    assert ["No such file" in str(error) for error in said] == [True, True]


@pytest.mark.slow
def test_daemon_that_cannot_take_its_command_line_is_started_anew(homes: list[Home], tmp_path: Path) -> None:
    script, order = tmp_path / "m", ordered(homes[0])
    script.write_text(MOTHER)
    done = subprocess.run([sys.executable, "m"], input=order.encoded(), capture_output=True, text=True, cwd=tmp_path)
    answer = Answer.decoded(done.stdout)
    assert answer.returncode == 0 and "@127.0.0.1:" in answer.line
    assert command_line(holder(homes[0]) or 0) == order.command


def test_order_is_one_word_longer_than_its_words_and_keeps_odd_ones() -> None:
    order = Order(["--home", "/h \udcff'\"ö", "serve"], "/h \udcff/stderr")
    assert Order.decoded(order.encoded()) == order
    assert len(order.encoded()) > len(b"\0".join(os.fsencode(word) for word in order.words))


def test_answer_keeps_what_was_said_and_the_code() -> None:
    for answer in (Answer("node@host:1", 0), Answer("", EXIT[Kind.BUSY]), Answer("", -9)):
        assert Answer.decoded(answer.encoded()) == answer
