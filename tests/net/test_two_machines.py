"""A desktop and a laptop of one owner, and three suppliers, each a host of its own: the volume goes to and fro.

Read, follow, hand over, hand back, take over, with cables that are pulled and put back. Somebody writes on the
machine that is asked to let go, until it takes nothing more: all that it took is on the other one. At the end both
show the same tree, and each thing in it once.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitdustfs.edges.home import Home
from tests.mount.support import code_of
from tests.net.internet import Host, Internet, Started, wait_until

CONTENT = os.urandom(1 << 20)
_NUMBERS = itertools.count()
_NO_SNAPSHOTS = "".join(f"snapshots.{each} = 0\n" for each in ("hourly", "daily", "weekly", "monthly"))
_CONFIG = f'dht.enabled = false\npatience = "1h"\n{_NO_SNAPSHOTS}'


@dataclass
class Owner:
    desktop: Host
    laptop: Host
    places: list[str]  # of the suppliers


@pytest.fixture
def owner(internet: Internet) -> Iterator[Owner]:
    """The desktop has a volume, and mounts it."""
    desktop, laptop = internet.host("desktop"), internet.host("laptop")
    name = desktop.init()
    places = []
    for number in range(1, 4):
        supplier = internet.host(f"supplier{number}")
        supplier.init()
        configure(supplier)
        places.append(supplier.serve(name))
    configure(desktop)
    desktop.run("hire", *places, "--size", "1G")
    mounted(desktop, "--code=1/3")
    yield Owner(desktop, laptop, places)
    for host in (desktop, laptop):
        host.run("umount", str(host.path))


def configure(host: Host) -> None:
    (host.home / "config.toml").write_text(_CONFIG)


def mounted(host: Host, *options: str) -> Started:
    started = host.mount(*options)
    wait_until("the suppliers answer", lambda: len(host.online()) == 3)
    return started


def recover(owner: Owner, how: str) -> None:
    words = owner.laptop.directory / "words"
    shutil.copy(owner.desktop.directory / "words", words)
    owner.laptop.run("recover", owner.places[0], how, "--words-file", str(words))
    configure(owner.laptop)


def shows(path: Path, content: bytes) -> None:
    wait_until(f"{path} shows it", lambda: path.exists() and path.read_bytes() == content)


def is_read_only(host: Host) -> bool:
    return code_of((host.seen / f"probe {next(_NUMBERS)}").touch) == errno.EROFS


class Diary:
    """A file that is written line by line, each durably, until the machine takes no more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wishes_to_end = False
        self.taken = b""  # what was written, and is durable
        self.offered = b""  # with the last line, of which that was not said
        self.content = b""  # of it on the other machine
        self.refusal = 0  # the errno of the line that was not taken

    def write(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            while not self._wishes_to_end:
                line = b"%d\n" % len(self.taken)
                self.offered = self.taken + line
                os.write(file, line)
                os.fsync(file)
                self.taken += line
        except OSError as error:
            self.refusal = error.errno or -1
        finally:
            os.close(file)

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """Write it meanwhile."""
        thread = threading.Thread(target=self.write)
        thread.start()
        try:
            wait_until("somebody writes", lambda: bool(self.taken))
            yield
            wait_until("no more is taken", lambda: bool(self.refusal))
        finally:
            self._wishes_to_end = True
            thread.join()

    def is_whole_at(self, host: Host) -> None:
        """All that was taken on the one machine is on the other one, and at most the line that was refused."""
        assert self.refusal == errno.EROFS
        self.content = (host.seen / self._path.name).read_bytes()
        assert self.content in (self.taken, self.offered)


def tree(host: Host) -> Mapping[str, bytes]:
    """Everything that a machine shows, by path."""
    there = host.seen
    return {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_volume_is_read_followed_handed_over_handed_back_and_taken_over_between_two_hosts(owner: Owner) -> None:
    desktop, laptop = owner.desktop, owner.laptop
    (desktop.seen / "letter").write_bytes(CONTENT)
    assert desktop.sync() == "safe"

    recover(owner, "--read-only")
    mounted(laptop)
    assert (laptop.seen / "letter").read_bytes() == CONTENT
    (desktop.seen / "followed").write_bytes(b"followed")
    assert desktop.sync() == "safe"
    shows(laptop.seen / "followed", b"followed")
    laptop.unplug()
    (desktop.seen / "meanwhile").write_bytes(b"meanwhile")
    assert desktop.sync() == "safe"
    assert (laptop.seen / "letter").read_bytes() == CONTENT
    laptop.plug()
    shows(laptop.seen / "meanwhile", b"meanwhile")
    laptop.run("umount", str(laptop.path))

    recover(owner, "--beside")
    (desktop.seen / "last").write_bytes(b"last")
    there = Diary(desktop.seen / "of the desktop")
    with there.being_written():
        mounted(laptop)  # handed over
    assert (laptop.seen / "last").read_bytes() == b"last"
    there.is_whole_at(laptop)
    assert is_read_only(desktop)
    (laptop.seen / "from the laptop").write_bytes(b"laptop")
    assert laptop.sync() == "safe"
    shows(desktop.seen / "from the laptop", b"laptop")

    desktop.run("umount", str(desktop.path))
    here = Diary(laptop.seen / "of the laptop")
    with here.being_written():
        mounted(desktop)  # handed back
    here.is_whole_at(desktop)
    assert is_read_only(laptop)
    (desktop.seen / "back").write_bytes(b"back")
    assert desktop.sync() == "safe"
    shows(laptop.seen / "back", b"back")

    desktop.unplug()
    (desktop.seen / "unsent").write_bytes(b"unsent")
    laptop.run("umount", str(laptop.path))
    mounted(laptop, "--take-over")
    (laptop.seen / "taken").write_bytes(b"taken")
    assert laptop.sync() == "safe"
    assert (desktop.seen / "unsent").read_bytes() == b"unsent"  # nobody has told it
    desktop.plug()
    wait_until("the desktop hears of it", lambda: is_read_only(desktop))
    assert (desktop.seen / "unsent").read_bytes() == b"unsent"
    desktop.run("umount", str(desktop.path))
    mounted(desktop)
    assert (desktop.seen / "taken").read_bytes() == b"taken"
    wait_until("all is put aside", lambda: not list(Home(desktop.home).aside.glob("*/catalog.db")))
    (aside,) = desktop.seen.glob("Put aside */unsent")
    shows(aside, b"unsent")
    assert desktop.sync() == "safe"
    shows(laptop.seen / aside.relative_to(desktop.seen), b"unsent")  # it let go, and follows
    put_aside = {name: content for name, content in tree(desktop).items() if name.startswith("Put aside ")}
    wait_until("it shows the same", lambda: tree(laptop) == tree(desktop))
    assert tree(desktop) == put_aside | {
        "letter": CONTENT,
        "followed": b"followed",
        "meanwhile": b"meanwhile",
        "last": b"last",
        "of the desktop": there.content,
        "from the laptop": b"laptop",
        "of the laptop": here.content,
        "back": b"back",
        "taken": b"taken",
    }
    assert list(put_aside.values()).count(b"unsent") == 1
