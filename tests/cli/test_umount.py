"""What `umount` says of what exists only on this machine."""

from __future__ import annotations

import pytest

from bitdustfs.cli.common import only_here
from bitdustfs.cli.umount import told
from bitdustfs.core.report import StopReport
from bitdustfs.model import Unsent

SENT = "sent after the next mount, or put aside if another machine of yours has taken the volume over by then"
WRITER = "another machine of yours (node 75df773c)"


@pytest.mark.parametrize(
    ("becomes", "words"),
    [
        (Unsent.SENT, f"; they are {SENT}."),
        (
            Unsent.ASIDE,
            f". The volume was written by {WRITER}: the next mount that writes takes that state, and puts",
        ),
        (Unsent.KEPT, ". They are never sent, because the owner has certified his machines anew without this one"),
    ],
)
def test_what_becomes_of_what_is_only_here_is_said(becomes: Unsent, words: str) -> None:
    report = StopReport(files_local=2, bytes_local=1024, becomes=becomes.value, writer=WRITER)
    assert only_here(report).startswith(f"Only on this machine: 2 files (1.00 KiB){words}")
    report["files_local"] = 0
    assert only_here(report) == "Nothing exists only here."


def test_what_becomes_of_it_is_said_too_where_nobody_is_left_to_ask() -> None:
    assert told("mnt", None) == f"Unmounted mnt. Its process was gone; what is only here is {SENT}."
