"""A real practice swarm for tests: supplier processes, a customer and a mount, made by the verbs of the program.

Everything lives under one temporary directory. Leaving the context takes it all down, whatever happened: the
processes that have this directory in their environment are killed, and the mount is detached.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bitdustfs.cli.main import run as run_verb
from bitdustfs.cli.sync import exit_code, sentence, wait_until_placed
from bitdustfs.edges import mounts
from bitdustfs.edges.control import Args, ask
from bitdustfs.edges.home import Home, holder
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.engine.relation import BACKOFF_CAP_S
from tests import traces
from tests.children import Child, start, starter
from tests.mount.support import HANGS_S
from tests.traces import MARK

PROGRAM = [sys.executable, "-m", "bitdustfs.cli.main"]
_PATIENCE_S = HANGS_S
_LATEST_S = 2 * BACKOFF_CAP_S + 60  # who was away for long is dialled again so late, on a busy machine later
_NONE_BY_ITSELF = "".join(f"snapshots.{each} = 0\n" for each in ("hourly", "daily", "weekly", "monthly"))


class Practice:
    """A mounted practice swarm. `path` is the mount, `home` the customer's state directory.

    Args:
        patience: with suppliers that stay away. The default is that tests of other things replace nobody.
        snapshots: whether they are made by themselves, as for a person. Else what is deleted goes at any hour.
        apart: each verb is a process of its own, as for a person. Else it is called here, which spares what starting
            one takes; those that go on (a supplier, a mount) are processes in any case.
    """

    def __init__(
        self,
        directory: Path,
        *,
        suppliers: int = 5,
        spares: int = 0,
        code: str = "3/5",
        patience: str = "1h",
        snapshots: bool = False,
        apart: bool = False,
    ) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.path = directory / "mnt"
        self.code = code
        self.words = self.home / "demo" / "recovery-words"  # the customer's
        self._config = f'patience = "{patience}"\n' + ("" if snapshots else _NONE_BY_ITSELF)
        self._call = self._start if apart else self._do_here
        self._up = ["--suppliers", str(suppliers), "--spares", str(spares), "--code", code]

    def __enter__(self) -> Practice:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.up()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def up(self) -> str:
        """`demo up`: start what does not run."""
        if not self.home.exists():
            self.home.mkdir(mode=0o700)
            (self.home / "config.toml").write_text(self._config)
        return self.run("demo", "up", str(self.path), *self._up).stdout

    def run(
        self, *words: str, ok: tuple[int, ...] = (0,), home: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb for this home, or another. Fails the test unless it ends with one of these exit codes."""
        done = self._call(["--home", str(home or self.home), *words])
        assert done.returncode in ok, f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def status(self) -> Args:
        """What `status --json` says, without a process of its own."""
        return self.ask("status", path="/")

    def sync(self) -> None:
        """Everything at all suppliers, without a process of its own."""
        mount = mounts.mounted_at(str(self.path), mounts.read_mounts())
        report = wait_until_placed(Home(self.home), mount, "/", _PATIENCE_S)
        assert exit_code(report) == 0, sentence(report)

    def forget(self) -> None:
        """The next read comes from suppliers."""
        self.ask("cache-drop")

    def log(self) -> str:
        """What the mounting process logged so far."""
        return (self.home / "log").read_text()

    def remount(self, *options: str) -> None:
        """Mount with other options: words for `-o`."""
        self.run("umount", str(self.path), ok=(0, 10))  # 10: it is not mounted
        self.mount(*options)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """All suppliers are there and do nothing."""
        pids = [pid for pid, words in traces.processes([self.directory]) if "serve" in words]
        assert pids
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def supplier_home(self, number: int) -> Path:
        return self.home / "demo" / f"supplier{number}"

    def places(self) -> list[str]:
        """NODE@HOST:PORT of each supplier."""
        plan = json.loads((self.home / "demo" / "swarm.json").read_bytes())
        return [str(member["place"]) for member in plan["members"]]

    def ask(self, verb: str, *, of: Path | None = None, **args: object) -> Args:
        """Ask the process that mounts this home, or another, without a process of its own."""
        return ask(Home(of or self.home).control, verb, args, silence_s=_PATIENCE_S)

    def kill_mount(self) -> None:
        """End the mounting process by SIGKILL. The dead mount stays."""
        os.kill(self.mount_pid(), signal.SIGKILL)
        wait_until("the mount is dead", lambda: mounts.is_dead(str(self.path)))
        wait_until("the home is free", lambda: holder(Home(self.home)) is None)  # files are closed one after another

    def mount(self, *options: str, wait: bool = True) -> None:
        """Mount, also over a dead mount, with words for `-o`, and wait for all suppliers that run."""
        words = [f"-o{option}" for option in options]
        self.run("mount", f"--code={self.code}", *words, "--", str(self.path))
        if wait:
            self.wait_for_suppliers()

    @contextmanager
    def doomed(self, order: Path) -> Iterator[Child]:
        """It is mounted by a process that dies where the file `order` says: see `tests.mount.doomed`.

        It has ended afterwards.
        """
        words = ["--home", str(self.home), "mount", "-f", f"--code={self.code}", "--", str(self.path)]
        said = order.with_name(f"{order.name}.log")
        with said.open("ab") as log:
            process = start(
                "tests.mount.doomed",
                order,
                *words,
                stdout=subprocess.PIPE,
                stderr=log,
                environment=self.environment(),
            )
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), f"it did not mount:\n{said.read_text()}"
            yield process
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()

    def umount(self) -> None:
        self.run("umount", str(self.path))

    def kill_supplier(self, number: int) -> None:
        """End a hired supplier by SIGKILL."""
        pid = holder(Home(self.supplier_home(number)))
        assert pid is not None, f"supplier {number} does not run"
        os.kill(pid, signal.SIGKILL)
        wait_until("the supplier is dead", lambda: holder(Home(self.supplier_home(number))) is None)

    def lie(self, number: int, how: str) -> None:
        """Let a supplier that is hired go on as a liar: `how` is "old" or "garbage", see `tests.mount.liar`."""
        owner = identity_of(read_keys(Home(self.home))).owner.hex()
        self.kill_supplier(number)
        serve = ["serve", "--listen", self.places()[number - 1].partition("@")[2], "--donate", "1G"]
        home = self.supplier_home(number)
        with (home / "stderr").open("w") as stderr:
            process = start(
                "tests.mount.liar",
                how,
                "--home",
                str(home),
                *serve,
                "--allow",
                f"{owner}:1G",
                stdout=subprocess.PIPE,
                stderr=stderr,
                environment=self.environment(),
            )
        assert process.stdout is not None
        with process.stdout as said:
            assert said.readline(), f"supplier {number} does not serve: {(home / 'stderr').read_text()}"
        process.leave()  # it ends with all others

    def burn(self) -> None:
        """The customer's machine is gone: his home, but for the suppliers that live in it, and the words."""
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        for entry in self.home.iterdir():
            if entry.name == "demo":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def recover(self, number: int, *options: str) -> str:
        """Recover the volume into the empty home, from the words and the address of one supplier."""
        place = self.places()[number - 1]
        said = self.run("recover", place, "--words-file", str(self.words), *options).stdout
        (self.home / "config.toml").write_text(f"practice = true\n{self._config}")
        return said

    def revive(self, *numbers: int) -> None:
        """Start suppliers again, and wait until they are connected."""
        for number in numbers:
            self.run("demo", "revive", str(number))
        self.wait_for_suppliers()

    def wait_for_suppliers(self, of: Path | None = None) -> None:
        """Until exactly those hired suppliers are connected that run; to this home's mount, or to another's."""

        def all_answer() -> bool:
            rows = self.ask("status", of=of, path="/")["suppliers"]
            running = {f"supplier{n}" for n in range(1, len(rows) + 1) if holder(Home(self.supplier_home(n)))}
            return {row["label"] for row in rows if row["answers"]} == running

        wait_until("the running suppliers answer", all_answer)

    def mount_pid(self) -> int:
        """The process that serves the mount."""
        for pid, words in traces.processes([self.directory]):
            if "mount" in words and str(self.path) in words:
                return pid
        raise AssertionError("no process serves the mount")

    def supplier_pids(self) -> list[int]:
        """The processes of the suppliers."""
        return [pid for pid, words in traces.processes([self.directory]) if "serve" in words]

    def _start(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, env=self.environment(), check=False
        )

    def _do_here(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        watchdog = threading.Timer(_PATIENCE_S, self._kill_all)  # then what waits for them fails
        watchdog.start()
        try:
            return done_here(words, self.environment())
        finally:
            watchdog.cancel()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "BITDUSTFS_HOME": str(self.home), MARK: str(self.directory)}

    def _kill_all(self) -> None:
        traces.kill([self.directory])

    def _clean(self) -> None:
        traces.take_down([self.directory])


def done_here(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Do what the command line says in this process."""
    with (
        _as_in_a_process(environment),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        code = run_verb(words, starter({**os.environ}))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@contextmanager
def _as_in_a_process(environment: Mapping[str, str]) -> Iterator[None]:
    """Let a verb change what it would have for itself in a process of its own."""
    root, before, umask = logging.getLogger(), dict(os.environ), os.umask(0o022)
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(before)
        os.umask(umask)


def bytes_in(directory: Path) -> int:
    """How long the files below a directory are together, while some of them come and go."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size * path.is_file()
    return total


def wait_until(what: str, condition: Any, patience_s: float = _LATEST_S) -> None:
    """Poll until `condition()` holds; fail the test with `what` if it does not in time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"after {patience_s} s still not: {what}"
        time.sleep(0.05)
