"""Two machines of one owner that write at once, each at suppliers that the other one does not reach.

The desktop holds the volume and still reaches one supplier of three; the laptop takes it over at the other two. When
all reach all again the laptop's state counts, and the session "when two of them wrote at once" of README is run there
as it is printed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.mount.published import change_in, last_change, newest
from tests.mount.test_forks import plain, readme_steps
from tests.net.internet import Host, Internet, wait_until
from tests.net.test_readme import run

LETTER = b"Dear Anna"
REFUSED = "nothing can be changed now"
_CONFIG = "dht.enabled = false\n"


@dataclass
class Owner:
    internet: Internet
    desktop: Host
    laptop: Host
    suppliers: list[Host]

    def apart(self) -> list[tuple[Host, Host]]:
        """Who does not reach whom while both write."""
        first, *others = self.suppliers
        return [(self.desktop, self.laptop), (self.laptop, first), *((self.desktop, each) for each in others)]


@pytest.fixture
def owner(internet: Internet) -> Iterator[Owner]:
    """The desktop writes, and the laptop may."""
    desktop, laptop = internet.host("desktop"), internet.host("laptop")
    suppliers = [internet.host(f"supplier{number}") for number in range(1, 4)]
    name = desktop.init()
    for host in suppliers:
        host.init()
    for host in (desktop, *suppliers):
        (host.home / "config.toml").write_text(_CONFIG)
    places = [each.serve(name) for each in suppliers]
    desktop.run("hire", *places, "--size", "1G")
    desktop.mount("--code=1/3")
    (desktop.seen / "both").write_bytes(b"as it was")
    wait_until("it is safe", lambda: desktop.sync() == "safe")
    words = shutil.copy(desktop.directory / "words", laptop.directory / "words")
    laptop.run("recover", places[1], "--beside", "--words-file", str(words))
    (laptop.home / "config.toml").write_text(_CONFIG)
    yield Owner(internet, desktop, laptop, suppliers)
    for host in (desktop, laptop):
        host.run("umount", str(host.path))


def published(host: Host) -> None:
    """Have everything that is there now in a head, at whoever takes it."""
    wanted = last_change(host.home, host.seen)
    host.begin("sync", str(host.path), "--timeout", "60")
    wait_until("a head names it", lambda: change_in(host.home, newest(host.home)) >= wanted)


def trouble(host: Host) -> list[str]:
    return list(host.ask("status", path="/")["trouble"])


@contextmanager
def telling(*hosts: Host) -> Iterator[None]:
    """Have a failure tell what these know."""
    try:
        yield
    except AssertionError as failed:
        for host in hosts:
            failed.add_note(f"{host.name}: {host.ask('forks')} {trouble(host)}")
        raise


def write_at_once(owner: Owner) -> None:
    """See above. The desktop is told first, so that it goes on with nothing while a person chooses."""
    desktop, laptop = owner.desktop, owner.laptop
    for pair in owner.apart():
        owner.internet.wall(*pair)
    (desktop.seen / "both").write_bytes(b"of the desktop")
    (desktop.seen / "letter").write_bytes(LETTER)
    published(desktop)
    laptop.mount("--take-over")
    (laptop.seen / "both").write_bytes(b"of the laptop")
    (laptop.seen / "later").write_bytes(b"later")
    published(laptop)
    last = (laptop, owner.suppliers[0])
    for pair in owner.apart():
        if pair != last:
            owner.internet.unwall(*pair)
    wait_until("the desktop brings nothing more", lambda: any(REFUSED in line for line in trouble(desktop)))
    owner.internet.unwall(*last)


@pytest.mark.slow
def test_session_of_two_that_wrote_at_once_is_as_readme_prints_it(owner: Owner) -> None:
    """F37. In the end the desktop is mounted again, and takes that state."""
    write_at_once(owner)
    desktop, laptop = owner.desktop, owner.laptop
    wait_until("the other state is shown", lambda: bool(laptop.ask("forks")["forks"]))
    (name,) = os.listdir(laptop.seen / ".forks")
    for command, printed in readme_steps(name):
        with telling(desktop, laptop):
            said = run(laptop, command).strip("\n")
        assert plain(said) == plain(printed), f"$ {command}\n{said}"
    assert (laptop.seen / "letter").read_bytes() == LETTER
    assert laptop.sync() == "safe"

    desktop.run("umount", str(desktop.path))
    desktop.mount()
    assert desktop.sync() == "safe"  # nothing of it was to be put aside
    assert {path.name: path.read_bytes() for path in desktop.seen.iterdir()} == {
        "both": b"of the laptop",
        "later": b"later",
        "letter": LETTER,
    }
    assert (desktop.seen / ".snapshots" / name / "both").read_bytes() == b"of the desktop"
