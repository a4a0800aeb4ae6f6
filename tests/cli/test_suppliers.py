"""`suppliers` against a stand-in for the serving process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bitdustfs.core.report import LeaveReport
from bitdustfs.edges.control import Args
from bitdustfs.edges.control_server import Report
from bitdustfs.errors import EXIT, BadRequest
from bitdustfs.model import FileState
from tests.cli.conftest import Call
from tests.cli.test_reports import called, served, status_report


async def status(_args: Args, _report: Report) -> Mapping[str, object]:
    return {**status_report(FileState.SAFE)}


async def leave(args: Args, _report: Report) -> Mapping[str, object]:
    if args["label"] == "ben":
        raise BadRequest(what="hire another supplier first")
    state = "fired" if args["label"] == "candidate" else "leaving"
    return {**LeaveReport(label=args["label"], state=state, bytes=2048, fragments=3)}


async def test_suppliers_are_listed(home: Path, call: Call) -> None:
    async with served(home, {"status": status}):
        said = await called(call, "--home", home, "suppliers")
        as_json = await called(call, "--home", home, "suppliers", "--json")
    assert said.out == "supplier   offline    anna  192.0.2.7:1  0 B of 1.00 KiB  score 97\n"
    assert json.loads(as_json.out)["suppliers"][0]["label"] == "anna"


async def test_leaving_says_what_happens_next(home: Path, call: Call) -> None:
    async with served(home, {"leave": leave, "stay": leave}):
        said = await called(call, "--home", home, "suppliers", "leave", "anna")
        refused = await called(call, "--home", home, "suppliers", "leave", "ben")
        gone = await called(call, "--home", home, "suppliers", "leave", "candidate")
        stays = await called(call, "--home", home, "suppliers", "stay", "anna", "--json")
    assert "anna is leaving: 3 fragments, 2.00 KiB are brought to others" in said.out
    assert refused.code == EXIT[BadRequest.kind]
    assert "hire another supplier first" in refused.err
    assert gone.out == "candidate is given up.\n"
    assert json.loads(stays.out)["fragments"] == 3
