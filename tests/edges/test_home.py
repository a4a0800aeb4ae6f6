"""The state directory: its lock, its privacy, its key file."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitdustfs.core.keyfile import NodeKeys, encode_keys
from bitdustfs.core.keys import VolumeKeys
from bitdustfs.edges.home import (
    Home,
    check_free,
    check_home,
    find_home,
    hold,
    holder,
    make_home,
    write_atomically,
    write_new,
)
from bitdustfs.edges.keys_disk import identity_of, read_keys, write_keys
from bitdustfs.errors import AlreadyThere, BadFormat, BadRequest, BitdustError, Forbidden, InUse, NotFound

KEYS = NodeKeys(
    seed=b"\x01" * 32,
    owner_public=b"\x02" * 32,
    certificate=b"\x03" * 40,
    volume=VolumeKeys(volume=b"\x04" * 32, record=b"\x05" * 32),
)
HOLDER = """
import sys
from pathlib import Path
from bitdustfs.edges.home import Home, hold
with hold(Home(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    make_home(made)
    return made


def test_a_home_is_made_for_its_owner_only(home: Home) -> None:
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_the_chosen_home_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDUSTFS_HOME", str(tmp_path / "by-environment"))
    assert find_home(tmp_path / "by-flag").path == tmp_path / "by-flag"
    assert find_home(None).path == tmp_path / "by-environment"


def test_a_home_is_named_without_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert find_home(tmp_path / "link" / "home").path == tmp_path / "real" / "home"


def test_somebody_elses_directory_is_not_taken_for_a_home(tmp_path: Path) -> None:
    directory = tmp_path / "photos"
    directory.mkdir(mode=0o755)
    (directory / "cat.jpg").touch()
    with pytest.raises(Forbidden):
        make_home(Home(directory))
    assert directory.stat().st_mode & 0o777 == 0o755


def test_a_file_is_not_taken_for_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest):
        make_home(Home(tmp_path / "file"))


def test_a_home_that_others_can_look_into_is_refused(home: Home) -> None:
    write_keys(home, KEYS)
    home.path.chmod(0o750)
    with pytest.raises(Forbidden, match="chmod 700"):
        check_home(home)


def test_a_home_without_keys_says_what_to_do(home: Home) -> None:
    with pytest.raises(NotFound, match="bitdustfs init"):
        check_home(home)
    with pytest.raises(NotFound, match="bitdustfs init"):
        check_home(Home(home.path / "missing"))


@pytest.mark.slow
def test_a_second_process_is_told_who_holds_the_home(home: Home) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert holder(home) == other.pid
        with pytest.raises(InUse, match=f"process {other.pid}"):
            with hold(home):
                pass
        other.send_signal(signal.SIGKILL)
    assert holder(home) is None
    with hold(home):
        assert holder(home) == os.getpid()


class Lock:
    """The lock of a home as process `pid` would have it, until there was a number of pauses."""

    def __init__(self, home: Home, pid: int, *, pauses: int) -> None:
        self._descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.write(self._descriptor, f"{pid}\n".encode())
        self._pauses = pauses
        self.paused = 0

    def pause(self, _seconds: float) -> None:
        self.paused += 1
        if self.paused == self._pauses:
            os.close(self._descriptor)


@pytest.fixture
def ended() -> Iterator[int]:
    """The id of a process that has ended, and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


@pytest.mark.parametrize("take", [check_free, lambda home, pause: hold(home, pause=pause).__enter__()])
def test_a_process_that_is_just_ending_is_waited_for(home: Home, ended: int, take: Callable[..., None]) -> None:
    lock = Lock(home, ended, pauses=90)
    take(home, pause=lock.pause)
    assert lock.paused == 90


def test_a_lock_that_a_dead_process_left_to_another_is_not_waited_for_for_ever(home: Home, ended: int) -> None:
    lock = Lock(home, ended, pauses=1000)
    with pytest.raises(InUse):
        check_free(home, pause=lock.pause)
    assert lock.paused < 100


def test_a_process_that_lives_is_not_waited_for(home: Home) -> None:
    lock = Lock(home, os.getppid(), pauses=1000)
    with pytest.raises(InUse):
        check_free(home, pause=lock.pause)
    assert lock.paused < 5


def test_a_home_that_nobody_holds_has_no_holder(home: Home) -> None:
    assert holder(home) is None
    with hold(home):
        pass
    assert holder(home) is None


# --- keys -------------------------------------------------------------------------------------------------


def test_keys_are_read_back_and_are_private(home: Home) -> None:
    write_keys(home, KEYS)
    assert read_keys(home) == KEYS
    assert home.keys.stat().st_mode & 0o777 == 0o600


def test_keys_are_never_overwritten(home: Home) -> None:
    write_keys(home, KEYS)
    with pytest.raises(AlreadyThere):
        write_keys(home, KEYS)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _replace_by_text(path: Path) -> None:
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")


def _replace_by_much(path: Path) -> None:
    path.write_bytes(encode_keys(KEYS) + bytes(100_000))


def _replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _show_to_group(path: Path) -> None:
    path.chmod(0o640)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_truncate, BadFormat, "cut or damaged"),
        (_replace_by_text, BadFormat, "not a key file"),
        (_replace_by_much, BadFormat, "too long"),
        (_replace_by_link, BadFormat, "symbolic link"),
        (_replace_by_directory, BadFormat, "not a file"),
        (_show_to_group, Forbidden, "others can read"),
        (Path.unlink, NotFound, "no keys"),
    ],
)
def test_a_key_file_that_cannot_be_ours_is_refused(
    home: Home, spoil: Callable[[Path], None], error: type[BitdustError], words: str
) -> None:
    write_keys(home, KEYS)
    spoil(home.keys)
    with pytest.raises(error, match=words):
        read_keys(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_file_of_another_user_is_refused(home: Home) -> None:
    write_keys(home, KEYS)
    os.chown(home.keys, 12345, -1)
    with pytest.raises(Forbidden, match="not your keys"):
        read_keys(home)


def test_keys_with_a_forged_certificate_make_no_node() -> None:
    with pytest.raises(BadFormat):
        identity_of(KEYS)


# --- files ------------------------------------------------------------------------------------------------


def test_an_atomic_write_replaces_and_leaves_nothing_beside(home: Home) -> None:
    write_atomically(home.config, b"one")
    write_atomically(home.config, b"two")
    assert home.config.read_bytes() == b"two"
    assert [path.name for path in home.path.iterdir()] == ["config.toml"]


def test_an_atomic_write_into_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_a_new_file_is_private_and_replaces_nothing(tmp_path: Path) -> None:
    write_new(tmp_path / "words", b"one")
    with pytest.raises(AlreadyThere):
        write_new(tmp_path / "words", b"two")
    assert (tmp_path / "words").read_bytes() == b"one"
    assert (tmp_path / "words").stat().st_mode & 0o777 == 0o600
