"""A mount beside a hash table of which nothing good comes: nothing that a person does waits for it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.practice import wait_until
from tests.mount.test_recover_through import LETTER, Machine

pytestmark = pytest.mark.slow


class Babbler:
    """Somebody at a UDP port who answers all questions with what means nothing, or with the question."""

    def __init__(self, out: socket.socket) -> None:
        self._out = out
        self.address = "{}:{}".format(*out.getsockname())
        self.asked = 0

    def run(self) -> None:
        while True:
            content, whom = self._out.recvfrom(2000)
            if not content:  # said by us: enough
                return
            self.asked += 1
            for each in (os.urandom(1000), content, b"\x00" + bytes(20) + b"\x91" * 1000, b"", content[:30]):
                self._out.sendto(each, whom)


@contextmanager
def babbling() -> Iterator[Babbler]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end,
    ):
        out.bind(("127.3.9.2", 0))
        babbler = Babbler(out)
        thread = threading.Thread(target=babbler.run)
        thread.start()
        try:
            yield babbler
        finally:
            end.sendto(b"", out.getsockname())
            thread.join()


def test_mount_works_where_those_of_the_hash_table_talk_nonsense_or_are_silent(tmp_path: Path) -> None:
    """F53."""
    supplier, customer = machines = [Machine(tmp_path, number) for number in (4, 5)]
    place = tmp_path / "mnt"
    place.mkdir()
    with babbling() as babbler:
        try:
            customer.set("dht.bootstrap", f"127.3.9.3:9, {babbler.address}")
            customer.set("give.listen", f"127.3.{customer.number}.1:0")
            customer.do("hire", supplier.serve(customer.owner), "--size", "1G")
            customer.do("mount", "--code", "1/1", str(place))
            wait_until("the table was begun", lambda: babbler.asked)
            (place / "letter").write_bytes(LETTER)
            customer.do("sync", str(place))
            customer.do("cache", "drop", str(place))
            assert (place / "letter").read_bytes() == LETTER
            customer.do("umount", str(place))
            assert "Traceback" not in customer.log()
        finally:
            for machine in machines:
                machine.kill()
            if os.path.ismount(place):
                subprocess.run(["umount", "-l", str(place)], check=False)
