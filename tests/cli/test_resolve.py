"""`resolve` against a stand-in for the serving process: what is done with a state that cannot be read any more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bitdustfs.cli.common import legible
from bitdustfs.core.report import ForkReport, ForksReport
from bitdustfs.edges import control_server
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Report
from bitdustfs.errors import EXIT, Kind
from tests.cli.conftest import Call
from tests.cli.test_rebuild import called

LOST = ForkReport(
    name="2026-01-03 10.00 of 9be01c22",
    version=6,
    node="9b" * 32,
    time_s=0,
    came=0,
    went=0,
    changed=0,
    shown_by=["anna"],
    answers=True,
    unreadable="block 5d1f0a77 is lost (3 of the 5 suppliers that it names answer)",
)
WHOLE = ForkReport(**{**LOST, "name": "another", "unreadable": "", "came": 1})
BOTH = ForksReport(version=7, node="5d" * 32, time_s=0, forks=[WHOLE, LOST])

ODD = ["+ two\nlines", "- a\x1b[31mred", "M back\\slash", "A über"]


@asynccontextmanager
async def mounted(home: Path, asked: list[tuple[str, str]]) -> AsyncIterator[None]:
    """A mount with both of them."""

    async def forks(_args: Args, _report: Report) -> Mapping[str, object]:
        return {**BOTH}

    async def resolve(args: Args, _report: Report) -> Mapping[str, object]:
        asked.append(("resolve", str(args["name"])))
        return {"name": args["name"], "is_safe": True}

    async def let_be(args: Args, _report: Report) -> Mapping[str, object]:
        asked.append(("let-fork-be", str(args["name"])))
        return {"name": "", "is_safe": True}

    async def diff(_args: Args, report: Report) -> Mapping[str, object]:
        await report({"lines": ODD})
        return {"count": len(ODD)}

    handlers = {
        "forks": forks,
        "resolve": resolve,
        "let-fork-be": let_be,
        "fork-diff": diff,
        "snapshot-diff": diff,
    }
    async with trio.open_nursery() as nursery:
        await nursery.start(control_server.serve, home / "control.sock", handlers)
        yield
        nursery.cancel_scope.cancel()


async def test_state_that_cannot_be_read_is_told_and_given_up_only_with_plain_words(home: Path, call: Call) -> None:
    asked: list[tuple[str, str]] = []
    async with mounted(home, asked):
        shown = await called(call, "--home", home, "resolve")
        difference = await called(call, "--home", home, "resolve", LOST["name"], "--diff")
        silent = await called(call, "--home", home, "resolve", LOST["name"], "--json")
        assert asked == []
        said = await called(call, "--home", home, "resolve", LOST["name"], "--yes")
    assert LOST["unreadable"] in shown.out
    assert "0 fewer" not in shown.out.splitlines()[-1]
    assert (difference.code, silent.code) == (EXIT[Kind.UNAVAILABLE], EXIT[Kind.USAGE])
    assert asked == [("let-fork-be", LOST["name"])]
    assert said.code == 0
    assert LOST["unreadable"] in said.err
    assert "is given up for good" in said.err
    assert said.out == "The mounted state goes on. The other one was given up.\n"


async def test_state_that_can_be_read_is_kept_beside_one_that_cannot(home: Path, call: Call) -> None:
    asked: list[tuple[str, str]] = []
    async with mounted(home, asked):
        said = await called(call, "--home", home, "resolve", WHOLE["name"], "--yes")
        as_json = await called(call, "--home", home, "resolve", WHOLE["name"], "--json")
    assert asked == [("resolve", WHOLE["name"])] * 2
    assert said.out == "The mounted state goes on. The other one is the snapshot .snapshots/another.\n"
    assert json.loads(as_json.out) == {"snapshot": "another", "is_safe": True}


async def test_state_of_a_copy_of_this_home_is_told_as_such(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WHOLE, "node", BOTH["node"])
    async with mounted(home, []):
        said = await called(call, "--home", home, "resolve")
    (line,) = (each for each in said.out.splitlines() if each.startswith("another:"))
    assert "written by a copy of this home, or here before an old copy of this disk was put back" in line


async def test_each_name_that_is_different_is_one_line_and_moves_no_cursor(home: Path, call: Call) -> None:
    assert legible("\udcff") == "\udcff"  # a byte that is no UTF-8 goes out as it came
    async with mounted(home, []):
        for words in (["resolve", WHOLE["name"], "--diff"], ["snapshot", "diff", "a", "b"]):
            told = await called(call, "--home", home, *words)
            as_json = await called(call, "--home", home, *words, "--json")
            *lines, _last = told.out.split("\n")
            assert lines == ["+ two\\nlines", "- a\\x1b[31mred", "M back\\\\slash", "A über"]
            assert [f"{each['change']} {each['path']}" for each in json.loads(as_json.out)["changes"]] == ODD


async def test_state_that_a_silent_supplier_alone_showed_is_given_up_only_after_its_name_was_told(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setitem(LOST, "answers", False)
    async with mounted(home, asked):
        said = await called(call, "--home", home, "resolve", LOST["name"], "--yes")
    assert "It is known from anna alone, which does not answer now" in said.err
    assert "is given up for good" in said.err
    assert asked == [("let-fork-be", LOST["name"])]
