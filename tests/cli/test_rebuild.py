"""`rebuild --dry-run` and `audit` against a stand-in for the serving process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from bitdustfs.cli.audit import EXIT_FOUND, sentence
from bitdustfs.core.report import AuditReport, RebuildReport
from bitdustfs.edges import control_server
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Handler, Report
from bitdustfs.errors import EXIT, Kind
from tests.cli.conftest import Call, Said

NOTHING = RebuildReport(
    mounted=True,
    blocks=0,
    fragments=0,
    possible=0,
    send_bytes=0,
    fetch_bytes=0,
    blocks_here=0,
    hopeless=0,
    bytes_per_s=0.0,
    eta_s=0,
    held_up=[],
    reasons=[],
    takers=[],
    worst=[],
    verdicts=[],
)


def audited(**changes: object) -> AuditReport:
    report = AuditReport(label="anna", fragments=4, wrong=0, refused=0, silent=False)
    report.update(changes)  # type: ignore[typeddict-item]
    return report


@asynccontextmanager
async def served(home: Path, verb: str, answer: Mapping[str, object], asked: list[Args]) -> AsyncIterator[None]:
    async def handle(args: Args, _report: Report) -> Mapping[str, object]:
        asked.append(args)
        return answer

    handlers: Mapping[str, Handler] = {verb: handle}
    async with trio.open_nursery() as nursery:
        await nursery.start(control_server.serve, home / "control.sock", handlers)
        yield
        nursery.cancel_scope.cancel()


async def called(call: Call, *words: str | Path) -> Said:
    return await trio.to_thread.run_sync(partial(call, *words))


async def test_rebuild_only_says_what_is_done(home: Path, call: Call) -> None:
    async with served(home, "rebuild", {**NOTHING}, []):
        said = await called(call, "--home", home, "rebuild", "--dry-run")
        as_json = await called(call, "--home", home, "rebuild", "--dry-run", "--json")
        bare = await called(call, "--home", home, "rebuild")
    assert said.code == 0
    assert said.out.startswith("Nothing is to be rebuilt")
    assert json.loads(as_json.out) == NOTHING
    assert (bare.code, bare.out) == (EXIT[Kind.USAGE], "")
    assert "happens by itself" in bare.err


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"wrong": 1}, EXIT_FOUND), ({"refused": 1}, EXIT_FOUND), ({"silent": True}, EXIT_FOUND)],
)
async def test_audit_exits_by_what_it_found(home: Path, call: Call, changes: Mapping[str, object], code: int) -> None:
    asked: list[Args] = []
    report = audited(**changes)
    async with served(home, "audit", {"suppliers": [report, audited(label="ben")]}, asked):
        said = await called(call, "--home", home, "audit", "anna")
    assert said.code == code
    assert said.out.splitlines() == [sentence(report), "ben: all of 4 fragments there."]
    assert asked[0]["label"] == "anna"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wrong": 2}, "anna: 2 of 4 fragments are wrong or gone, and are made again."),
        (
            {"wrong": 2, "refused": 1},
            "anna: 2 of 4 fragments are wrong or gone, and are made again; 1 it neither gave",
        ),
        ({"refused": 1}, "anna: 1 of 4 fragments it neither gave nor denied."),
        ({"fragments": 0}, "anna: nothing to ask for."),
        ({"fragments": 1, "silent": True}, "anna: all of 1 fragment there; then it did not answer."),
    ],
)
def test_audit_is_told_in_words(changes: Mapping[str, object], words: str) -> None:
    assert sentence(audited(**changes)).startswith(words)
