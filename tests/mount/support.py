"""A real mount for tests, without suppliers: started by the command line, and gone afterwards whatever happens.

`Mount` runs `bitdustfs mount -f`; `Standin` runs `tests.mount.standin` in its place, where faults can be ordered.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bitdustfs.cli.common import Asked
from bitdustfs.cli.init import init
from bitdustfs.cli.processes import MODULE
from bitdustfs.edges import mounts
from tests.children import Child, start

NOBODY = 65534
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
HANGS_S = 300  # what takes longer hangs on its mount, also on a busy machine: without a daemon it fails
STOPS_S = 60  # who does not hang needs a quarter of that, also on a busy machine
Process = Child | subprocess.Popen[bytes]


class Mount:
    """A mount at `path`, under a directory that every user may enter."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._directory = Path(tempfile.mkdtemp(prefix="bitdustfs-test-"))
        self._directory.chmod(0o755)
        self.path = self._directory / "mnt"
        self.state = self._directory / "state"
        self.log = self._directory / "log"
        self.path.mkdir()
        self._process: Process | None = None

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    @property
    def process(self) -> Process:
        """The process that serves."""
        assert self._process is not None, "it was not started"
        return self._process

    def start(self) -> None:
        """Mount, and wait until it serves."""
        with self.log.open("ab") as log:
            self._process = self._launch(log)
        self._watchdog = threading.Timer(HANGS_S, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        assert self.said(), f"the mount did not start:\n{self.log.read_text()}"

    def said(self) -> str:
        """The next line that the process prints."""
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line.decode().strip()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process. Returns its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(STOPS_S)
        self._put_away()
        return code

    def _prepare(self) -> None:
        words = ["--words-file", str(self._directory / "words")]
        with contextlib.redirect_stdout(io.StringIO()):  # in this process: it makes a key file and nothing else
            init.main(words, standalone_mode=False, obj=Asked(home=str(self.state)))

    def _take_down(self) -> None:
        """Undo what `_prepare` did outside of the directory."""

    def _launch(self, log: IO[bytes]) -> Process:
        return start(*self._command(), stdout=subprocess.PIPE, stderr=log)

    def _command(self) -> Sequence[str]:
        """The module that is run, and its words."""
        options = [f"-o{','.join(self._options)}"] if self._options else []
        return [MODULE, "--home", str(self.state), "mount", "-f", *options, str(self.path)]

    def _put_away(self) -> None:
        self._watchdog.cancel()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _clean(self) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.stop()
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._put_away()
            if mounts.mounted_at(str(self.path), mounts.read_mounts()) is not None:
                mounts.detach(str(self.path), lazy=True)
            self._take_down()
            shutil.rmtree(self._directory)


class SmallDisk(Mount):
    """A mount whose state directory lies on a disk of its own, which the test can fill."""

    def __init__(self, *options: str, mib: int) -> None:
        super().__init__(*options)
        self.disk = self._directory / "disk"
        self.state = self.disk / "state"
        self._ballast = self.disk / "ballast"
        self._size = f"size={mib}m"

    def fill(self, *, leave: int = 0) -> None:
        """Take all space of the disk but so many bytes."""
        with self._ballast.open("ab") as ballast:
            for step in (1 << 20, 4096):
                while os.statvfs(self.disk).f_bavail * os.statvfs(self.disk).f_frsize - leave >= step:
                    with suppress_no_space():  # the mount takes some of it meanwhile
                        os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), step)

    def relieve(self) -> None:
        """Give it back."""
        self._ballast.unlink()

    def _prepare(self) -> None:
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{self._size},mode=755", "tmpfs", self.disk], check=True)
        super()._prepare()

    def _take_down(self) -> None:
        subprocess.run(["umount", "-l", self.disk], check=False, stderr=subprocess.DEVNULL)


class Standin(Mount):
    """A mount by `tests.mount.standin`."""

    def reads(self) -> int:
        """How many reads arrived so far."""
        return self._counts()[0]

    def xattrs_asked(self) -> int:
        """How often the kernel asked for an extended attribute so far."""
        return self._counts()[1]

    def stats_asked(self) -> int:
        """How often the kernel asked for what `stat` tells so far."""
        return self._counts()[2]

    def _counts(self) -> list[int]:
        self.process.send_signal(signal.SIGUSR2)
        return [int(word) for word in self.said().split()]

    def _prepare(self) -> None:
        self.state.mkdir()

    def _command(self) -> Sequence[str]:
        return ["tests.mount.standin", str(self.path), str(self.state), *self._options]


@contextlib.contextmanager
def suppress_no_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def code_of(call: Callable[[], object]) -> int | None:
    """The errno that a call fails with; None if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def renameat2(old: str | Path, new: str | Path, flags: int) -> None:
    """Rename with flags, which Python does not have."""
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(old))


def child(call: Callable[[], object]) -> int:
    """Do something in a process of its own, which then ends. Returns its number."""
    number = os.fork()
    if number:
        return number
    code = 255
    try:
        call()
        code = 0
    except OSError as error:
        code = error.errno or 254
    finally:
        os._exit(code)


def child_code(call: Callable[[], object]) -> int:
    """The errno that a call fails with in a process of its own; 0 if it succeeds."""
    return os.waitstatus_to_exitcode(os.waitpid(child(call), 0)[1])


@contextlib.contextmanager
def as_user(uid: int = NOBODY, gid: int = NOBODY, groups: Sequence[int] = ()) -> Iterator[None]:
    """Do something on behalf of another user."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def make(path: Path, kind: str) -> None:
    """Make one of the kinds of things that a directory may hold."""
    match kind:
        case "file":
            path.touch()
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "symlink":
            path.symlink_to("target")
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o644)
        case "device":
            os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(7, 300))
        case _:
            raise ValueError(kind)
