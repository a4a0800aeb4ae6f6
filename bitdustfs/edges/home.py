"""The state directory (HOME): where it is, what lies where in it, and who holds it.

A home belongs to one running process at a time, which holds a lock on `HOME/lock` for as long as it lives; the lock
goes with the process, however it dies. Everything in a home is private: mode 0700, files 0600.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from bitdustfs.edges import durable
from bitdustfs.errors import AlreadyThere, BadRequest, BitdustError, Forbidden, InUse, NotFound

ENV_HOME = "BITDUSTFS_HOME"
_LOCK_TRIES = 5  # somebody who only asks "is it held?" holds the lock for microseconds
_ENDING_TRIES = 100  # 2 s: a process that was killed has the lock until its last thread is back from the disk
_LOCK_PAUSE_S = 0.02
_PROCESSES = Path("/proc")
_FLAGS = 6  # of the fields of stat behind the name; with the bit of one that is on its way out
_EXITING = 0x4


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of a state directory. `path` is absolute, without symlinks."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.db"

    @property
    def image(self) -> Path:
        return self.path / "catalog.image"

    @property
    def recovering(self) -> Path:
        """There while a recovery has not ended: what is here may be made anew."""
        return self.path / "recovering"

    @property
    def newer(self) -> Path:
        """A whole newer catalog that a reader takes over what differs from."""
        return self.path / "catalog.newer"

    @property
    def trial(self) -> Path:
        return self.path / "catalog.trial"

    @property
    def adopting(self) -> Path:
        """A newer catalog in the making; see `old_states`."""
        return self.path / "adopting"

    @property
    def aside(self) -> Path:
        """Older states of this home that have something that nobody else has."""
        return self.path / "aside"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def shelf(self) -> Path:
        return self.path / "shelf"

    @property
    def shelf_id(self) -> Path:
        return self.path / "shelf-id"

    @property
    def contracts(self) -> Path:
        return self.path / "contracts"

    @property
    def invitations(self) -> Path:
        return self.path / "invitations"

    @property
    def listening(self) -> Path:
        """ADDR:PORT where the process that holds the home can be dialled; there while it listens."""
        return self.path / "listening"

    @property
    def dht(self) -> Path:
        """What the hash table remembers; see core/dht_state."""
        return self.path / "dht"

    @property
    def addresses(self) -> Path:
        return self.path / "addresses"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def demo(self) -> Path:
        return self.path / "demo"

    def __str__(self) -> str:
        return str(self.path)


def find_home(chosen: str | os.PathLike[str] | None, *, environment: bool = True) -> Home:
    """Choose the state directory: what was asked for, else $BITDUSTFS_HOME, else the platform's place."""
    text = os.fspath(chosen) if chosen else environment and os.environ.get(ENV_HOME)
    text = text or platformdirs.user_data_dir("bitdustfs")
    return Home(Path(os.path.realpath(os.path.expanduser(text))))


def make_home(home: Home) -> None:
    """Make the directory, or take an existing one that is private or empty.

    Raises:
        BadRequest: there is something else at that path. Forbidden: we may not, or it is used for something else.
    """
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.path.stat().st_mode & 0o077:
            if any(home.path.iterdir()):
                raise Forbidden(
                    what=f"{home} is not empty and others can look into it: choose a directory of its own"
                )
            home.path.chmod(0o700)
    except (FileExistsError, NotADirectoryError) as bad:
        raise BadRequest(what=f"{home} cannot be a state directory: {bad.strerror}") from bad
    except OSError as bad:
        raise translated(bad, home.path) from bad


def check_home(home: Home) -> None:
    """Refuse a home that does not exist, has no keys, or that others can look into. Changes nothing.

    Raises:
        NotFound, Forbidden, BadRequest
    """
    try:
        seen = home.path.stat()
    except FileNotFoundError as bad:
        raise NotFound(what=f"there is no state directory {home}: run `bitdustfs init` first") from bad
    except OSError as bad:
        raise translated(bad, home.path) from bad
    if not stat.S_ISDIR(seen.st_mode):
        raise BadRequest(what=f"{home} is not a directory: choose another --home")
    if seen.st_mode & 0o077:
        raise Forbidden(what=f"others can look into {home}: run `chmod 700` on it")
    if not os.path.lexists(home.keys):
        raise NotFound(what=f"{home} holds no keys: run `bitdustfs init` first")


# --- who holds it ---------------------------------------------------------------------------------------


@contextmanager
def hold(home: Home, *, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold the home for this process. The lock ends with the `with`, or with the process.

    Raises:
        InUse: names the process that has it.
    """
    descriptor = _open_lock(home)
    try:
        for tries in itertools.count(1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _wait_for_it(home, _pid_in(descriptor), tries, pause)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


def holder(home: Home) -> int | None:
    """The id of the process that holds the home, 0 if that is not known, None if nobody does."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _pid_in(descriptor)
    finally:
        os.close(descriptor)


def check_free(home: Home, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Refuse a home that a process holds, unless that is just ending. Raises InUse."""
    for tries in itertools.count(1):
        pid = holder(home)
        if pid is None:
            return
        _wait_for_it(home, pid, tries, pause)


def _wait_for_it(home: Home, pid: int, tries: int, pause: Callable[[float], None]) -> None:
    """Pause after a try that found the home held. Raises InUse when that were enough."""
    if tries >= (_ENDING_TRIES if pid and _is_ending(pid) else _LOCK_TRIES):
        raise _in_use(home, pid)
    pause(_LOCK_PAUSE_S)


def _is_ending(pid: int) -> bool:
    """The process is dead or was killed, whatever its threads still wait for. Source: proc_pid_stat(5)."""
    try:
        fields = (_PROCESSES / f"{pid}" / "stat").read_text(errors="replace").rpartition(")")[2].split()
        status = (_PROCESSES / f"{pid}" / "status").read_text(errors="replace")
    except OSError:
        return True
    pending = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:")))
    is_killed = any(signals >> (signal.SIGKILL - 1) & 1 for signals in pending)
    return is_killed or fields[0] in "ZX" or bool(int(fields[_FLAGS]) & _EXITING)


def _open_lock(home: Home) -> int:
    try:
        return os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError as bad:
        raise NotFound(what=f"there is no state directory {home}: run `bitdustfs init` first") from bad
    except OSError as bad:
        raise translated(bad, home.lock) from bad


def _in_use(home: Home, pid: int) -> InUse:
    who = f"process {pid}" if pid else "another process"
    return InUse(what=f"{home} is in use by {who}: stop it, or choose another --home")


def _pid_in(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


# --- files ------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, mode 0600, durably and all at once: a reader sees the old or the new.

    Raises:
        DiskFull, DiskFault, Forbidden, NotFound
    """
    try:
        durable.replace_file(path, content)
    except OSError as bad:
        raise translated(bad, path) from bad


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist, mode 0600, durably.

    Raises:
        AlreadyThere, DiskFull, DiskFault, Forbidden, NotFound
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            durable.write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        durable.sync_directory(path.parent)
    except FileExistsError as bad:
        raise AlreadyThere(what=f"{path} exists and is not overwritten: name a new file") from bad
    except OSError as bad:
        raise translated(bad, path) from bad


def translated(bad: OSError, path: Path) -> BitdustError:
    """Say an error of the operating system in our words: the person may be able to do something about it."""
    if bad.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Forbidden(what=f"{path}: {bad.strerror}")
    if bad.errno == errno.ENOENT:
        return NotFound(what=f"{path} does not exist")
    return durable.translated(bad, path)
