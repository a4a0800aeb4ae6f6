"""Recovery from the words and the address of anybody: the suppliers are found in the hash table."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bitdustfs.cli.processes import MODULE
from bitdustfs.core import datagram
from bitdustfs.edges.config import store
from bitdustfs.edges.home import Home, holder
from bitdustfs.edges.keys_disk import identity_of, read_keys
from tests.children import Child, start
from tests.mount.practice import done_here, wait_until

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))


class Machine:
    """One home and the process that serves it. All are on this machine, each at an address of its own."""

    def __init__(self, directory: Path, number: int) -> None:
        self.home = directory / f"home{number}"
        self.words = directory / f"words{number}"
        self.number = number
        self._process: Child | None = None
        self.do("init", "--words-file", str(self.words))

    @property
    def owner(self) -> str:
        return identity_of(read_keys(Home(self.home))).owner.hex()

    def set(self, key: str, value: str) -> None:
        store(Home(self.home).config, key, value)

    def do(self, *words: str, ok: int = 0) -> str:
        done = done_here(["--home", str(self.home), *words], {})
        assert done.returncode == ok, done.stderr
        return done.stdout + done.stderr

    def start(self, *words: str) -> str:
        """Start a process and return the first line that it says."""
        self._process = start(MODULE, "--home", str(self.home), *words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline().strip()
        assert line
        return line

    def serve(self, customer: str) -> str:
        return self.start("serve", "--listen", f"127.3.{self.number}.1:0", "--allow", f"{customer}:1G")

    def log(self) -> str:
        return (self.home / "log").read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
        kill_holder(self.home)


def kill_holder(home: Path) -> None:
    """End whatever process serves a home, and wait until it is gone."""
    pid = holder(Home(home))
    if pid:
        os.kill(pid, signal.SIGKILL)
        wait_until("the home is free", lambda: holder(Home(home)) is None)


def flood(address: str, count: int) -> None:
    """Send what a hash table should not choke on."""
    host, _, port = address.rpartition(":")
    kinds = [b"\x00" + bytes(20) + b"\x91" * 2000, b"bdh\x01\x01" + bytes(43), os.urandom(1000), b""]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for number in range(count):
            out.sendto(kinds[number % len(kinds)], (host, int(port)))


def takes_part(address: str) -> bool:
    """Whether somebody of the hash table answers there."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("127.3.8.1", 0))
        asker.settimeout(1)
        asker.sendto(datagram.ask(bytes(16), datagram.Ping()), (host, int(port)))
        try:
            return isinstance(datagram.parse_answer(asker.recv(2000)).said, datagram.Pong)
        except TimeoutError:
            return False


def test_volume_comes_back_from_the_words_and_the_address_of_a_stranger(tmp_path: Path) -> None:
    machines = stranger, supplier, customer = [Machine(tmp_path, number) for number in (1, 2, 3)]
    place = tmp_path / "mnt"
    place.mkdir()
    try:
        stranger.set("dht.bootstrap", "127.3.9.1:9")  # nobody: it is there for others to begin from
        through = stranger.serve(stranger.owner).partition("@")[2]
        supplier.set("dht.bootstrap", through)
        customer.do("hire", supplier.serve(customer.owner), "--size", "1G")
        customer.set("dht.bootstrap", through)
        customer.set("give.listen", f"127.3.{customer.number}.1:0")
        customer.do("mount", "--code", "1/1", str(place))
        (place / "letter").write_bytes(LETTER)
        customer.do("sync", str(place))
        wait_until(
            "the record is published", lambda: "the owner's record is in the hash table" in customer.log(), 300
        )
        with ThreadPoolExecutor(1) as aside:  # the mount does not notice
            address = (customer.home / "listening").read_text().strip()
            flooding = aside.submit(flood, address, 5000)
            while not flooding.done():
                (place / "beside").write_bytes(LETTER)
                assert (place / "beside").read_bytes() == LETTER
        wait_until("the table answers", lambda: takes_part(address))
        customer.do("sync", str(place))
        assert "failed" not in customer.log()
        customer.kill()
        subprocess.run(["umount", "-l", str(place)], check=True)

        new = tmp_path / "new"
        words = ["--home", str(new), "recover", "--via", through, "--words-file", str(customer.words)]
        done = done_here([*words, "--mount", str(place)], {})
        assert done.returncode == 0, done.stderr
        assert "confirmed by 1 of 1 supplier" in done.stdout
        assert (place / "letter").read_bytes() == LETTER
        done_here(["--home", str(new), "umount", str(place)], {})

        nobody = ["--home", str(tmp_path / "other"), "recover", "--via", through, "--words-file", str(stranger.words)]
        done = done_here(nobody, {})
        assert done.returncode == 10
        assert "nobody who was asked knows of this owner's suppliers" in done.stderr
    finally:
        for machine in machines:
            machine.kill()
        kill_holder(tmp_path / "new")
        if os.path.ismount(place):
            subprocess.run(["umount", "-l", str(place)], check=False)
