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

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
COMMAND_S = 1800  # no single command of a benchmark takes half an hour; one that does hangs
_CLOSE_S = 60  # a daemon that is asked to stop has this long, then it is killed
_READY_S = 20  # gocryptfs derives its key with scrypt first, about a second on a slow machine
_PAUSE_S = 0.02
_NAMES = 2  # drop_caches: dentries and inodes
_ALL = 3  # drop_caches: and the page cache


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


class WrongBytes(BenchError):
    """Something came back that is not what was written."""


# --- processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Daemons:
    """Process ids by role."""

    mount: tuple[int, ...] = ()
    suppliers: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        return self.mount + self.suppliers


def cpu_seconds(pids: Sequence[int]) -> dict[int, float]:
    """User and system time of each process that lives, all its threads included."""
    tick = os.sysconf("SC_CLK_TCK")
    spent = {}
    for pid in pids:
        try:
            # The name in brackets may hold anything, also brackets; the numbers follow the last one.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        spent[pid] = (int(fields[11]) + int(fields[12])) / tick
    return spent


def peak_bytes(pid: int) -> int:
    """The largest resident size since start, or since `reset_peak`. 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def reset_peak(pid: int) -> None:
    """Start a new high-water mark, so that each run has its own. Source: proc_pid_clear_refs(5), value 5."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        pass  # of another user: the mark since its start will do


def daemons_of(home: Path) -> Daemons:
    """The bitdustfs processes whose home is `home` or lies below it, as a practice swarm's suppliers do."""
    mount, suppliers = [], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(_is_program(argument) for argument in arguments[:4]):
                continue
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # ended meanwhile, or not ours to look at
        chosen = [word.removeprefix("--home=") for word in arguments]
        chosen += [word.partition("=")[2] for word in environment if word.startswith("BITDUSTFS_HOME=")]
        if not any(_is_inside(path, home) for path in chosen):
            continue
        if "serve" in arguments:
            suppliers.append(int(entry.name))
        elif "mount" in arguments:
            mount.append(int(entry.name))
    return Daemons(tuple(mount), tuple(suppliers))


def end(pids: Sequence[int]) -> None:
    """End processes that this benchmark started: ask, wait, kill."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        until = time.monotonic() + _CLOSE_S / 6
        while any(_lives(pid) for pid in pids):
            if time.monotonic() > until:
                break
            time.sleep(_PAUSE_S)
        else:
            return


def command(words: Sequence[str | Path], *, env: Mapping[str, str] | None = None, wait_s: float = COMMAND_S) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        BenchError: it failed, hangs, or is not there; with what it said.
    """
    line = " ".join(map(str, words))
    try:
        done = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=wait_s, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise BenchError(f"`{line}` did not end in {wait_s:.0f} s") from late
    except OSError as bad:
        raise BenchError(f"`{line}` cannot be run: {bad.strerror}") from bad
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BenchError(f"`{line}` ended with {done.returncode}: {said[-2000:]}")
    return done.stdout.decode(errors="replace")


# --- mounts ---------------------------------------------------------------------------------------------


def mounts() -> list[tuple[str, str, str]]:
    """Mountpoint, type and source of each mount, in the kernel's order."""
    listed = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        place, kind, source = fields.split(b" ")[4], *tail.split(b" ")[:2]
        listed.append((_plain(place), _plain(kind), _plain(source)))
    return listed


def is_mounted(place: Path) -> bool:
    """True if something is mounted at exactly this place. Does not touch it: its daemon may hang."""
    return any(mountpoint == str(place) for mountpoint, _, _ in mounts())


def unmount(place: Path) -> None:
    """Take a FUSE mount away: politely while it is busy for a moment, then lazily."""
    until = time.monotonic() + 5
    while is_mounted(place):
        last = time.monotonic() > until
        words = ["fusermount3", "-uz" if last else "-u", str(place)]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CLOSE_S, check=False)
        if last:
            return
        time.sleep(_PAUSE_S)


def remove_tree(place: Path) -> None:
    """Remove a temporary directory, unless something is still mounted in it."""
    for mountpoint, _, _ in mounts():
        if _is_inside(mountpoint, place):
            raise BenchError(f"{place} is left: {mountpoint} is still mounted")
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        raise BenchError(f"{place} could not be removed altogether")


def drop_caches(what: int) -> bool:
    """Let the kernel forget clean pages or names of the whole machine. False if we may not."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text(str(what))
    except OSError:
        return False
    return True


# --- the sides ------------------------------------------------------------------------------------------


class Side:
    """A plain directory, and what all sides share."""

    def __init__(self, name: str, root: Path, *, cold_disk: bool = False) -> None:
        self.name = name
        self.root = root
        self._cold_disk = cold_disk
        self._peaks: dict[str, int] = {}

    def open(self) -> None:
        """Make it ready."""

    def close(self) -> None:
        """Take away what `open` made. Works after a failed `open` too."""

    def settle(self) -> None:
        """Return when everything written so far is where it belongs."""
        command(["sync", "-f", self.root])

    def forget(self) -> None:
        """Make the next read cold. Everything is settled first: only clean pages can be dropped."""
        self.settle()
        self._forget()
        if self._cold_disk and not drop_caches(_ALL):
            raise BenchError("--cold disk needs root, and a /proc/sys/vm/drop_caches that may be written")

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

    def _forget(self) -> None:
        for directory, _, names in os.walk(self.root):
            for name in names:
                forget_pages(Path(directory, name))


class Bitdust(Side):
    """A directory in a mount of bitdustfs that somebody else made."""

    def __init__(self, root: Path, home: Path, *, cold_disk: bool = False) -> None:
        super().__init__("bitdustfs", root, cold_disk=cold_disk)
        self.home = home
        self.program = find_program()

    def settle(self) -> None:
        command([self.program, "sync", self.root])

    def daemons(self) -> Daemons:
        return daemons_of(self.home)

    def _forget(self) -> None:
        command([self.program, "cache", "drop", self.root])
        drop_caches(_NAMES)


class Practice(Bitdust):
    """A practice swarm of its own, in a temporary directory."""

    def __init__(self, temporary: Path, *, suppliers: int, code: str, cold_disk: bool = False) -> None:
        super().__init__(temporary / "mount", temporary / "home", cold_disk=cold_disk)
        self._suppliers, self._code = suppliers, code
        self._environment = {**os.environ, "BITDUSTFS_HOME": str(self.home)}

    def open(self) -> None:
        self.root.mkdir()
        shape = ["--suppliers", str(self._suppliers), "--spares", "0", "--code", self._code]
        command([self.program, "demo", "up", self.root, *shape], env=self._environment, wait_s=_CLOSE_S * 2)
        found = self.daemons()
        if len(found.suppliers) != self._suppliers or not found.mount:
            raise BenchError(f"the practice swarm is up, but its processes cannot be told apart: {found}")

    def close(self) -> None:
        try:
            command([self.program, "demo", "down", "--purge"], env=self._environment, wait_s=_CLOSE_S)
        finally:
            unmount(self.root)
            end(self.daemons().all)  # by its temporary home: nobody else's


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
            self._process.wait(_CLOSE_S / 6)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def settle(self) -> None:
        command(["sync", "-f", self.root])
        command(["sync", "-f", self._cipher])

    def daemons(self) -> Daemons:
        return Daemons(mount=(self._process.pid,) if self._process else ())

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
            time.sleep(_PAUSE_S)


def side_of(directory: Path, *, cold_disk: bool) -> Side:
    """The side that an existing directory is: in a mount of ours, or plain."""
    inside = [found for found in mounts() if _is_inside(str(directory), Path(found[0]))]
    _, kind, source = max(reversed(inside), key=lambda found: len(found[0]))
    if kind == "fuse.bitdustfs":
        return Bitdust(directory, Path(source.partition(":")[2]), cold_disk=cold_disk)
    return Side(str(directory), directory, cold_disk=cold_disk)


def find_program() -> Path:
    """The bitdustfs of this checkout, else the one that is installed."""
    beside = CHECKOUT / ".venv" / "bin" / "bitdustfs"
    if beside.exists():
        return beside
    found = shutil.which("bitdustfs")
    if found is None:
        raise BenchError(f"there is no {beside}: run tools/start first, or name a directory to measure")
    return Path(found)


def forget_pages(file: Path) -> None:
    """Let the kernel forget a file's clean pages; what lies beneath a mount keeps its own."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # a symlink, or unreadable: it has no pages that we read
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _is_program(argument: str) -> bool:
    name = os.path.basename(argument)
    return name == "bitdustfs" or name.startswith("bitdustfs.cli")


def _is_inside(path: str, directory: Path) -> bool:
    above = str(directory).rstrip("/")
    return path == above or path.startswith(above + "/")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _plain(field: bytes) -> str:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash)."""
    for escaped, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(escaped, byte)
    return os.fsdecode(field)
