"""Processes of ours for tests, forked by one that has loaded everything.

    test:   asks its mother for a module and words -> gets a number, later an exit code
    mother: one for each process that runs tests; loads, then forks what she is asked for; ends when the tests do,
            however that is, and takes down what they have left
    child:  the module as `python -m` runs it, with a command line, an environment and streams of its own

To start Python and load what a mount needs takes most of a second of a processor, and tests want hundreds of mounts.
Where the start itself is tested, or a child must be like no other (in a namespace, as another user), tests start it
by themselves. `tests.mother` is the other end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bitdustfs.cli.processes import MODULE, Order, Starter, said_by
from bitdustfs.errors import BitdustError
from tests.traces import MARK

PATIENCE_S = 300.0  # also on a busy machine
_ROOT = Path(__file__).resolve().parents[1]
_ROOM = "x" * 4096  # for the children's command lines
_MOST_BYTES = 1 << 16

Stream = int | IO[Any] | None  # as Popen takes them: PIPE, DEVNULL, STDOUT, a file; None: ours


class Child:
    """A process that was forked for a test: what `subprocess.Popen` is, as far as tests use it."""

    def __init__(self, told: socket.socket, stdin: IO[Any] | None, stdout: IO[Any] | None) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._told = told
        said, (self._handle,), _, _ = socket.recv_fds(told, _MOST_BYTES, 1)
        self.pid = int(said)

    def poll(self) -> int | None:
        """The exit code, as Popen has it; None: it goes on."""
        return self.returncode if self.returncode is not None else self._heard(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        code = self.returncode if self.returncode is not None else self._heard(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal; to one that has ended it is none. Any thread may."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def leave(self) -> None:
        """It goes on until the tests end, and nobody waits for it."""
        self._end(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    def __del__(self) -> None:
        if self.returncode is None and hasattr(self, "_handle"):
            self._end(0)

    def _heard(self, timeout: float | None) -> int | None:
        if not select.select([self._told], [], [], timeout)[0]:
            return None
        said = self._told.recv(_MOST_BYTES)
        assert said, "the mother of the tests' processes is gone"
        return self._end(int(said))

    def _end(self, code: int) -> int:
        self.returncode = code
        self._told.close()
        os.close(self._handle)
        return code


def start(
    module: str,
    *words: str | os.PathLike[str],
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    text: bool = False,
    environment: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] = _ROOT,
    new_session: bool = False,
) -> Child:
    """Start a module as `python -m` does. `environment` is all of it; None: ours."""
    order = {
        "words": [sys.executable, "-m", module, *(os.fspath(word) for word in words)],
        "environment": dict(os.environ if environment is None else environment),
        "cwd": os.fspath(cwd),
        "new_session": new_session,
    }
    with contextlib.ExitStack() as stack:
        theirs: list[int] = []
        ours: list[IO[Any] | None] = []
        for number, stream in enumerate((stdin, stdout, stderr)):
            mine = None
            if stream == subprocess.PIPE:
                ends = os.pipe()
                end, mine = ends[number > 0], ends[number == 0]
                stack.callback(os.close, end)
            elif stream == subprocess.DEVNULL:
                end = os.open(os.devnull, os.O_RDWR)
                stack.callback(os.close, end)
            elif stream == subprocess.STDOUT:
                end = theirs[1]
            elif isinstance(stream, int):
                end = stream
            else:
                end = number if stream is None else stream.fileno()
            theirs.append(end)
            mode = ("w" if number == 0 else "r") + ("" if text else "b")
            ours.append(None if mine is None else os.fdopen(mine, mode, buffering=-1 if text or number else 0))
        told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(telling)
        socket.send_fds(_mother(), [json.dumps(order).encode()], [telling.fileno(), *theirs])
    return Child(told, ours[0], ours[1])


def run(
    module: str,
    *words: str | os.PathLike[str],
    input: str = "",
    timeout: float = PATIENCE_S,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end, as `subprocess.run` does. Returns what it printed, too."""
    with contextlib.ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        given.write(input)
        given.seek(0)
        child = start(module, *words, stdin=given, stdout=out, stderr=err, environment=environment)
        try:
            code = child.wait(timeout)
        except BaseException:
            child.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), err.read())


def bitdustfs(*words: str | os.PathLike[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; see `run`."""
    return run(MODULE, *words, **how)


def starter(environment: Mapping[str, str]) -> Starter:
    """How verbs of a test start daemons: as `start_daemons` does, with this environment."""

    def start_daemons(orders: Sequence[Order]) -> list[str | BitdustError]:
        born = []
        for order in orders:
            with open(order.complaints, "w") as stderr:
                how: dict[str, Any] = {"environment": environment, "new_session": True, "cwd": "/", "text": True}
                born.append(start(MODULE, *order.words, stdout=subprocess.PIPE, stderr=stderr, **how))
        return [_became(order, child) for order, child in zip(orders, born, strict=True)]

    return start_daemons


def _became(order: Order, child: Child) -> str | BitdustError:
    assert child.stdout is not None
    with child.stdout as said:
        line: str = said.readline().strip()
    if line:
        child.leave()
        return line
    code = child.wait()
    return said_by(Path(order.complaints).read_text(errors="replace"), code)


@functools.cache
def _mother() -> socket.socket:
    """The socket to the mother of this process's children: she is started by the first one, and ends with it."""
    ours, hers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with hers:
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        mother = subprocess.Popen(
            [sys.executable, "-m", "tests.mother", str(hers.fileno()), _ROOM],
            stdin=subprocess.DEVNULL,
            pass_fds=(hers.fileno(),),
            cwd=_ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the tests
        )
    mother.returncode = 0  # nobody waits for her
    return ours
