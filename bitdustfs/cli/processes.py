"""Running our own verbs as processes: daemons that tell when they serve. `mother` is how they come to be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bitdustfs.edges.control import told_error
from bitdustfs.edges.home import Home, holder
from bitdustfs.errors import EXIT, BitdustError, Kind, Unavailable

MODULE = "bitdustfs.cli.main"
_MOTHER = "bitdustfs.cli.mother"
_PAUSE_S = 0.02
_KINDS = {code: kind for kind, code in EXIT.items()}


def said_by(complaint: str, returncode: int) -> BitdustError:
    """The error that a verb ended with."""
    lines = complaint.strip().splitlines()
    text = lines[-1].removeprefix("bitdustfs: ") if lines else f"it ended with {returncode} and said nothing"
    return told_error(_KINDS.get(returncode, Kind.BUG).value, text)


@dataclass(frozen=True, slots=True)
class Order:
    """A verb that is to go on when we end, in a session of its own."""

    words: list[str]  # from --home on
    complaints: str  # a file for what it says on stderr

    @property
    def command(self) -> list[str]:
        """The command line that it has."""
        return [sys.executable, "-P", "-m", MODULE, *self.words]

    def encoded(self) -> str:
        """The order as one word, longer than all words of it."""
        return json.dumps([self.words, self.complaints])

    @staticmethod
    def decoded(text: str) -> Order:
        """The order in such a word."""
        words, complaints = json.loads(text)
        return Order(words, complaints)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order."""

    line: str  # that it printed when it served; empty: it ended before
    returncode: int  # 0: it goes on

    def encoded(self) -> str:
        """The answer as one line."""
        return json.dumps([self.line, self.returncode])

    @staticmethod
    def decoded(text: str) -> Answer:
        """The answer in such a line."""
        line, returncode = json.loads(text)
        return Answer(line, returncode)


Starter = Callable[[Sequence[Order]], list[str | BitdustError]]  # as start_daemons is


def daemon(home: Home, complaints: Path, *words: str) -> Order:
    """The order for a verb of this home."""
    return Order(["--home", str(home), *words], str(complaints))


def start_daemons(orders: Sequence[Order]) -> list[str | BitdustError]:
    """Start verbs that go on when we end, all at once, and wait until each serves.

    Returns:
        For each the line that it printed when it served, or why it ended instead.
    """
    return [_alone(orders[0])] if len(orders) == 1 else _together(orders)


def _alone(order: Order) -> str | BitdustError:
    """Start a daemon as it would be started by hand: a mother for it would only take time."""
    try:
        complaints = os.open(order.complaints, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        return said_by(str(error), 1)
    with os.fdopen(complaints, "wb") as stderr:
        process = subprocess.Popen(
            order.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd="/",
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        with _told_to_end(), process.stdout as said:
            line = said.readline().strip()
    except KeyboardInterrupt:  # who waits for it gives up: it must not serve later
        process.terminate()
        process.wait()
        raise
    if line:
        process.returncode = 0  # it is not ours to wait for: no warning when this object goes
        return line
    return said_by(_complaint(order, ""), process.wait())


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: who sends it does not want either what we wait for."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _together(orders: Sequence[Order]) -> list[str | BitdustError]:
    """Let a mother bear them."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", _MOTHER, *(order.encoded() for order in orders)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        start_new_session=True,
        check=False,
    )
    answers = [Answer.decoded(line) for line in done.stdout.splitlines()]
    became: list[str | BitdustError] = []
    for order, answer in zip(orders, answers, strict=False):
        became.append(answer.line or said_by(_complaint(order, done.stderr), answer.returncode))
    return became + [said_by(done.stderr, done.returncode)] * (len(orders) - len(answers))


def _complaint(order: Order, otherwise: str) -> str:
    """What a daemon said on stderr before it ended."""
    try:
        return Path(order.complaints).read_text(errors="replace")
    except OSError:  # it could not even make the file
        return otherwise


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
