"""A desktop and a laptop of one owner, and three suppliers, each a host of its own: the volume goes to and fro.

Read, follow, hand over, hand back, take over, with cables that are pulled and put back.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    mounted(laptop)  # handed over
    assert (laptop.seen / "last").read_bytes() == b"last"
    assert is_read_only(desktop)
    (laptop.seen / "from the laptop").write_bytes(b"laptop")
    assert laptop.sync() == "safe"
    shows(desktop.seen / "from the laptop", b"laptop")

    desktop.run("umount", str(desktop.path))
    mounted(desktop)  # handed back
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
    wait_until("it is put aside", lambda: len(list(desktop.seen.glob("Put aside */unsent"))) == 1)
    (aside,) = desktop.seen.glob("Put aside */unsent")
    shows(aside, b"unsent")
    assert desktop.sync() == "safe"
    shows(laptop.seen / aside.relative_to(desktop.seen), b"unsent")  # it let go, and follows
