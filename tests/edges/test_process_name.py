"""What others see of a process that took another command line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from bitdustfs.edges.process_name import name_process
try:
    name_process(sys.stdin.read().split())
    print("named")
except OSError as error:
    print(error.errno)
print(open("/proc/self/cmdline").read())
"""


def seen_of(words: list[str], room: int, script: Path) -> tuple[str, list[bytes]]:
    """What a process says that takes these words for its command line, and what is seen of it afterwards.

    Args:
        room: how many bytes it has for them, at least.
    """
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "x" * room]
    done = subprocess.run(command, input=" ".join(words), capture_output=True, text=True, check=True)
    said, _, line = done.stdout.partition("\n")
    return said, os.fsencode(line.strip()).rstrip(b"\0").split(b"\0")


def test_process_is_seen_under_the_command_line_that_it_took(tmp_path: Path) -> None:
    words = ["another", "--home", "/ä", "serve"]
    assert seen_of(words, 100, tmp_path / "script") == ("named", [os.fsencode(word) for word in words])


def test_command_line_without_room_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script"
    said, seen = seen_of(["y" * 5000], 100, script)
    assert said == str(errno.E2BIG)
    assert seen == [os.fsencode(word) for word in (sys.executable, str(script), "x" * 100)]


@pytest.mark.parametrize("room", [0, 1])
def test_command_line_that_just_fits_is_taken_whole(tmp_path: Path, room: int) -> None:
    script = tmp_path / "script"
    length = len(f"{sys.executable}\0{script}\0{'x' * 100}\0") - 1
    said, seen = seen_of(["y" * (length + room)], 100, script)
    assert (said, len(seen)) == ((str(errno.E2BIG), 3) if room else ("named", 1))
