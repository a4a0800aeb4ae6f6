"""Running our own verbs as processes: daemons that tell when they serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bitdustfs.edges.control import told_error
from bitdustfs.edges.home import Home, holder
from bitdustfs.errors import EXIT, BitdustError, Kind, Unavailable

MODULE = "bitdustfs.cli.main"
_PAUSE_S = 0.02
_KINDS = {code: kind for kind, code in EXIT.items()}


def command(home: Home, *words: str) -> list[str]:
    """The command line of a verb. -P, so that no module is taken from the directory it starts in."""
    return [sys.executable, "-P", "-m", MODULE, "--home", str(home), *words]


def said_by(complaint: str, returncode: int) -> BitdustError:
    """The error that a verb ended with."""
    lines = complaint.strip().splitlines()
    text = lines[-1].removeprefix("bitdustfs: ") if lines else f"it ended with {returncode} and said nothing"
    return told_error(_KINDS.get(returncode, Kind.BUG).value, text)


@dataclass(frozen=True, slots=True)
class Starting:
    """A daemon that was started and has not said yet that it serves."""

    process: subprocess.Popen[str]
    complaints: Path

    def first_line(self) -> str:
        """Wait for the line that it prints when it serves; it goes on without us.

        Raises:
            BitdustError: why it ended instead.
        """
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            line = printed.readline().strip()
        if not line:
            returncode = self.process.wait()
            raise said_by(self.complaints.read_text(errors="replace"), returncode)
        self.process.returncode = 0  # it is not our child to wait for: no warning when this object goes
        return line


def start_daemon(home: Home, complaints: Path, *words: str) -> Starting:
    """Start a verb that goes on when we end, with a session of its own."""
    with complaints.open("w") as stderr:
        process = subprocess.Popen(
            command(home, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd="/",
            start_new_session=True,
        )
    return Starting(process, complaints)


def is_verb_of(pid: int, home: Home, verb: str) -> bool:
    """Say whether this process is our `verb` for that home, and not another that got its number."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return MODULE.encode() in words and os.fsencode(home.path) in words and verb.encode() in words


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_until_free(home: Home, *, wait_s: float) -> None:
    """Wait until no process holds the home. Raises Unavailable."""
    end = time.monotonic() + wait_s
    while (pid := holder(home)) is not None:
        if time.monotonic() > end:
            raise Unavailable(what=f"process {pid} of {home} does not end: end it with `kill -9 {pid}`")
        time.sleep(_PAUSE_S)
