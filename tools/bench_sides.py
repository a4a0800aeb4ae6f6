"""The sides of a benchmark: where the work is done, and which processes serve it.

A side is a directory with four promises: `settle` returns when everything written so far is where it belongs,
`forget` makes the next read cold, `daemons` lists who serves it, `close` leaves nothing behind. What "where it
belongs" and "cold" mean differs, so that each is the nearest thing to the other's:

    side            settle                        forget
    bitdustfs       `bitdustfs sync`              `bitdustfs cache drop`, then the kernel's names (as root)
    gocryptfs       syncfs of mount and disk      unmount, mount again
    plain           syncfs                        the kernel's pages of its files

After `forget` the ciphertext of gocryptfs and the fragments of suppliers on this machine may still be in the page
cache of the disk, on both sides alike. `--cold disk` (root) drops that too, on every side.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench_system import (
    CLOSE_S,
    COMMAND_S,
    EVERYTHING,
    NAMES,
    PAUSE_S,
    BenchError,
    Daemons,
    command,
    daemons_of,
    drop_caches,
    end,
    forget_pages,
    is_inside,
    is_mounted,
    mounts,
    peak_bytes,
    processes_of,
    reset_peak,
    unmount,
)

CHECKOUT = Path(__file__).resolve().parent.parent
_STATUS_EXITS = (0, 30, 31, 32, 33)  # of `status`: how safe it is
_READY_S = 20  # gocryptfs derives its key with scrypt first, about a second on a slow machine


class Side:
    """A plain directory, and what all sides share."""

    is_mount = False

    def __init__(self, name: str, root: Path, *, cold_disk: bool = False) -> None:
        self.name = name
        self.root = root
        self._cold_disk = cold_disk
        self._peaks: dict[str, int] = {}

    def open(self) -> None:
        """Make it ready."""

    def close(self) -> None:
        """Take away what `open` made. Works after a failed `open` too."""

    def abort(self) -> None:
        """Kill our own mount's process, so that whoever waits for it gets an error. May be called from any thread."""

    def settle(self) -> None:
        """Return when everything written so far is where it belongs."""
        command(["sync", "-f", self.root])

    def forget(self) -> None:
        """Make the next read cold. Everything is settled first: only clean pages can be dropped."""
        self.settle()
        self._forget()
        if self._cold_disk and not drop_caches(EVERYTHING):
            raise BenchError("--cold disk needs root, and a /proc/sys/vm/drop_caches that may be written")

    def remount(self) -> bool:
        """End the process that serves and start another one. False: here that is not for us to do."""
        return False

    @contextmanager
    def losing(self) -> Iterator[bool]:
        """As many suppliers are dead meanwhile as may be; False: here none can be killed."""
        yield False

    def daemons(self) -> Daemons:
        """The processes that serve it."""
        return Daemons()

    def start_peaks(self) -> None:
        """Begin the high-water marks of a run."""
        self._peaks.clear()
        for pid in self.daemons().all:
            reset_peak(pid)

    def peaks(self) -> dict[str, int]:
        """The highest resident bytes of one process of each role since `start_peaks`."""
        now = self.daemons()
        for role, pids in (("mount", now.mount), ("supplier", now.suppliers)):
            if pids:
                self._peaks[role] = max([self._peaks.get(role, 0), *map(peak_bytes, pids)])
        return dict(self._peaks)

    def longest_step(self) -> tuple[float, str]:
        """The longest step of the mount's event loop since it began: seconds of processor time, and whose it was.

        0: it tells none.
        """
        return 0.0, ""

    def _forget(self) -> None:
        for directory, _, names in os.walk(self.root):
            for name in names:
                forget_pages(Path(directory, name))


class Bitdust(Side):
    """A directory in a mount of bitdustfs that somebody else made."""

    is_mount = True

    def __init__(self, root: Path, home: Path, *, cold_disk: bool = False) -> None:
        super().__init__("bitdustfs", root, cold_disk=cold_disk)
        self.home = home
        self.program = find_program()

    def settle(self) -> None:
        command([self.program, "sync", self.root])

    def status(self) -> dict[str, Any]:
        """What `status --json` tells. Raises BenchError."""
        words = [self.program, "status", "--json", self.root]
        done = subprocess.run(words, capture_output=True, timeout=COMMAND_S, check=False)
        if done.returncode not in _STATUS_EXITS:
            raise BenchError(f"`status` ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def longest_step(self) -> tuple[float, str]:
        told = self.status()["longest_step"]
        return float(told["cpu_s"]), str(told["task"])

    def daemons(self) -> Daemons:
        return daemons_of(self.home)

    def _forget(self) -> None:
        command([self.program, "cache", "drop", self.root])
        drop_caches(NAMES)


class Practice(Bitdust):
    """A practice swarm of its own, in a temporary directory."""

    def __init__(
        self, temporary: Path, *, suppliers: int, code: str, spares: int = 0, cold_disk: bool = False
    ) -> None:
        super().__init__(temporary / "mount", temporary / "home", cold_disk=cold_disk)
        self._suppliers, self._code, self._spares = suppliers, code, spares
        self._environment = {**os.environ, "BITDUSTFS_HOME": str(self.home)}
        self._is_up = False
        self._longest_step = 0.0, ""  # of the processes before the one that serves now

    def open(self) -> None:
        self.root.mkdir()
        shape = ["--suppliers", str(self._suppliers), "--spares", str(self._spares), "--code", self._code]
        command([self.program, "demo", "up", self.root, *shape], env=self._environment, wait_s=CLOSE_S * 2)
        found = self.daemons()
        if len(found.suppliers) != self._suppliers + self._spares or not found.mount:
            raise BenchError(f"the practice swarm is up, but its processes cannot be told apart: {found}")
        self._is_up = True

    def remount(self) -> bool:
        self.peaks()  # the next process counts from nothing
        self._longest_step = self.longest_step()
        command([self.program, "umount", self.root], wait_s=CLOSE_S)
        command([self.program, "--home", self.home, "mount", f"--code={self._code}", "--", self.root], wait_s=CLOSE_S)
        return True

    def longest_step(self) -> tuple[float, str]:
        return max(self._longest_step, super().longest_step())

    def kill(self, number: int) -> None:
        """End the process of one supplier, numbered from 1, as a power loss would."""
        command([self.program, "demo", "kill", str(number)], env=self._environment)

    @contextmanager
    def losing(self) -> Iterator[bool]:
        k, n = map(int, self._code.split("/"))
        dead = range(1, n - k + 1)
        for number in dead:
            self.kill(number)
        try:
            yield bool(dead)
        finally:
            for number in dead:
                command([self.program, "demo", "revive", str(number)], env=self._environment, wait_s=CLOSE_S)
            self._until_margin(n - k)

    def _until_margin(self, margin: int) -> None:
        """Return when so many more suppliers may fail again."""
        end = time.monotonic() + CLOSE_S
        while True:
            with suppress(BenchError):
                if self.status()["margin"] >= margin:
                    return
            if time.monotonic() > end:
                raise BenchError(f"suppliers that were revived do not answer within {CLOSE_S:.0f} s")
            time.sleep(0.1)

    def close(self) -> None:
        try:
            command([self.program, "demo", "down", "--purge"], env=self._environment, wait_s=CLOSE_S)
        except BenchError:
            if self._is_up:
                raise
        finally:
            unmount(self.root)
            end(list(processes_of(self.home)))  # its home is a temporary directory: they are nobody else's

    def abort(self) -> None:
        for pid in self.daemons().mount:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Gocryptfs(Side):
    """A gocryptfs mount with plain options, in a temporary directory."""

    def __init__(self, temporary: Path, *, cold_disk: bool = False) -> None:
        super().__init__("gocryptfs", temporary / "plain", cold_disk=cold_disk)
        self._cipher = temporary / "cipher"
        self._password = temporary / "password"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        if shutil.which("gocryptfs") is None:
            raise BenchError("--against gocryptfs: it is not installed (apt-get install gocryptfs)")
        self.root.mkdir()
        self._cipher.mkdir()
        self._password.write_text("benchmark\n")
        command(["gocryptfs", "-init", "-q", "-passfile", self._password, self._cipher])
        self._mount()

    def close(self) -> None:
        unmount(self.root)
        if self._process is None:
            return
        try:
            self._process.wait(CLOSE_S / 6)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def abort(self) -> None:
        if self._process is not None:
            self._process.kill()

    def settle(self) -> None:
        command(["sync", "-f", self.root])
        command(["sync", "-f", self._cipher])

    def daemons(self) -> Daemons:
        return Daemons(mount=(self._process.pid,) if self._process else ())

    def remount(self) -> bool:
        self._forget()
        return True

    def _forget(self) -> None:
        self.peaks()  # the next process counts from nothing
        self.close()
        self._mount()

    def _mount(self) -> None:
        words = ["gocryptfs", "-fg", "-q", "-passfile", str(self._password), str(self._cipher), str(self.root)]
        # A session of its own: Ctrl-C must reach us first, who unmount.
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + _READY_S
        while not is_mounted(self.root):
            if self._process.poll() is not None or time.monotonic() > until:
                raise BenchError("gocryptfs does not mount")
            time.sleep(PAUSE_S)


def side_of(directory: Path, named: Path, *, cold_disk: bool) -> Side:
    """The side that an existing directory is: in a mount of ours, or plain, with the name that the person used."""
    inside = [found for found in mounts() if is_inside(str(directory), Path(found[0]))]
    _, kind, source = max(reversed(inside), key=lambda found: len(found[0]))
    if kind == "fuse.bitdustfs":
        return Bitdust(directory, Path(source.partition(":")[2]), cold_disk=cold_disk)
    return Side(str(named), directory, cold_disk=cold_disk)


def find_program() -> Path:
    """The bitdustfs of this checkout, else the one that is installed."""
    beside = CHECKOUT / ".venv" / "bin" / "bitdustfs"
    if beside.exists():
        return beside
    found = shutil.which("bitdustfs")
    if found is None:
        raise BenchError(f"there is no {beside}: run tools/start first, or name a directory to measure")
    return Path(found)
