"""The manual page with the states of a supplier is the table in the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_page_is_what_the_tool_draws() -> None:
    drawn = subprocess.run(
        [sys.executable, str(CHECKOUT / "tools" / "draw_states.py")], capture_output=True, text=True, check=True
    )
    assert (CHECKOUT / "man" / "bitdustfs-suppliers.7").read_text() == drawn.stdout, (
        "run tools/draw_states.py --write"
    )
