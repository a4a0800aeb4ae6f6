"""Two machines of one owner, and the death of one of them at each moment at which the volume changes hands.

However it ends, one of them writes and the other does not, and everything that was written durably is there: in its
place, or in a folder of what was put aside.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitdustfs.edges import mounts
from bitdustfs.edges.home import Home, holder
from tests.children import Child, start
from tests.mount.practice import Practice, wait_until
from tests.mount.support import HANGS_S, code_of
from tests.mount.test_two_writers import LETTER, Second, shows, two, write_durably
from tests.mount.yielding import GIVING, TAKING

KILLED, ENDED = "SIGKILL", "SIGTERM"


@contextmanager
def mounting(swarm: Practice, home: Path, place: Path, end: str, moment: str) -> Iterator[Child]:
    """A mount whose process gets a signal at a moment of a hand-over."""
    words = ["--home", str(home), "mount", "-f", "--", str(place)]
    with (swarm.directory / "yielding").open("ab") as log:
        child = start(
            "tests.mount.yielding",
            end,
            moment,
            *words,
            stdout=subprocess.PIPE,
            stderr=log,
            environment=swarm.environment(),
        )
    assert child.stdout is not None
    with child.stdout:
        yield child


def ends(child: Child, swarm: Practice, home: Path, code: int) -> None:
    said = child.wait(HANGS_S)
    wait_until("the home is free", lambda: holder(Home(home)) is None)
    assert said == code, f"it ended with {said}\n{(swarm.directory / 'yielding').read_text()}"


def dies_giving(swarm: Practice, second: Second, moment: str) -> None:
    """The machine that writes dies while the other one mounts; then it is mounted again."""
    swarm.umount()
    with mounting(swarm, swarm.home, swarm.path, KILLED, moment) as child:
        assert child.stdout is not None and child.stdout.readline()
        swarm.wait_for_suppliers()
        write_durably(swarm.path / "last", b"last")
        command = ["--home", str(second.home), "mount", "-f", "--", str(second.path)]
        other = start("bitdustfs.cli.main", *command, stderr=subprocess.DEVNULL, environment=swarm.environment())
        if moment == "shown there":
            wait_until("it is mounted there", lambda: is_mounted(second.path))
            write_durably(second.path / "there", b"there")
            second.sync()
        ends(child, swarm, swarm.home, -signal.SIGKILL)
    swarm.mount()
    wait_until("it is mounted there", lambda: is_mounted(second.path))
    other.leave()


def dies_taking(swarm: Practice, second: Second, moment: str) -> None:
    """The machine that is to write dies before it does; then it is mounted again."""
    write_durably(swarm.path / "last", b"last")
    with mounting(swarm, second.home, second.path, KILLED, moment) as child:
        ends(child, swarm, second.home, -signal.SIGKILL)
    second.mount()


def is_mounted(place: Path) -> bool:
    return mounts.mounted_at(str(place), mounts.read_mounts()) is not None


def check(swarm: Practice, second: Second) -> None:
    """One of the two writes, the other one shows it, and nothing is lost."""
    homes = {swarm.path: swarm.home, second.path: second.home}
    writers: list[Path] = []

    def one_writes() -> bool:
        codes = {place: code_of((place / "written").touch) for place in homes}
        writers[:] = [place for place, code in codes.items() if code is None]
        assert len(writers) < 2, "two of them write"
        return len(writers) == 1 and set(codes.values()) == {None, errno.EROFS}

    wait_until("one of them writes, and the other does not", one_writes)
    (writer,) = writers
    (reader,) = homes.keys() - {writer}
    (writer / "written").write_bytes(os.fsencode(writer))
    swarm.run("sync", str(writer), home=homes[writer])
    shows(reader / "written", os.fsencode(writer))
    for place in homes:
        assert (place / "letter").read_bytes() == LETTER
        assert [path.read_bytes() for path in place.rglob("last")] == [b"last"]
        assert not list(place.glob("Put aside *")), "it was sent, or came back"


@pytest.mark.slow
def test_machine_that_is_ended_before_it_serves_lets_the_volume_go_and_one_that_dies_letting_go_writes_on(
    tmp_path: Path,
) -> None:
    with two(tmp_path) as (swarm, second):
        with mounting(swarm, second.home, second.path, ENDED, "claimed") as child:
            ends(child, swarm, second.home, 130)
        assert code_of((swarm.path / "never").touch) == errno.EROFS
        swarm.umount()
        assert swarm.run("mount", str(swarm.path)).stderr == ""  # nobody is waited for
        dies_giving(swarm, second, "letting go")
        check(swarm, second)


@pytest.mark.long
@pytest.mark.parametrize("moment", GIVING)
def test_machine_that_dies_while_it_lets_go_loses_nothing_and_one_of_the_two_writes(
    tmp_path: Path, moment: str
) -> None:
    with two(tmp_path) as (swarm, second):
        dies_giving(swarm, second, moment)
        check(swarm, second)


@pytest.mark.long
@pytest.mark.parametrize("moment", TAKING)
def test_machine_that_dies_before_it_serves_loses_nothing_and_one_of_the_two_writes(
    tmp_path: Path, moment: str
) -> None:
    with two(tmp_path) as (swarm, second):
        dies_taking(swarm, second, moment)
        check(swarm, second)


@pytest.mark.long
@pytest.mark.parametrize("moment", TAKING)
def test_machine_that_is_ended_before_it_serves_keeps_nobody_from_writing(tmp_path: Path, moment: str) -> None:
    with two(tmp_path) as (swarm, second):
        write_durably(swarm.path / "last", b"last")
        with mounting(swarm, second.home, second.path, ENDED, moment) as child:
            ends(child, swarm, second.home, 130)
        swarm.umount()
        assert swarm.run("mount", str(swarm.path)).stderr == ""  # nobody is waited for
        second.mount()
        check(swarm, second)
