"""A local disk that returns other bytes than it was given, under a real mount."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from tests.mount.practice import Practice
from tests.mount.support import Mount, code_of

pytestmark = pytest.mark.slow


def flip_a_bit_in_each_spool_file(spool: Path) -> int:
    flipped = 0
    for path in spool.rglob("*"):
        if path.is_file() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 4]))
            flipped += 1
    return flipped


def test_damaged_bytes_that_only_this_machine_has_are_eio_until_they_are_written_anew() -> None:
    content = random.Random(1).randbytes(300_000)
    with Mount() as mount:
        file = mount.path / "file"
        file.write_bytes(content)
        mount.stop()
        assert flip_a_bit_in_each_spool_file(mount.state / "spool") == 1
        mount.start()
        assert code_of(file.read_bytes) == errno.EIO
        with file.open("rb") as opened:
            assert opened.read(50_000) == content[:50_000]
        assert "check sum" in mount.log.read_text()
        file.write_bytes(content)
        mount.stop()
        mount.start()
        assert file.read_bytes() == content


def test_damaged_copies_of_what_suppliers_have_are_fetched_again(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(1_000_000)
    with Practice(tmp_path) as swarm:
        file = swarm.path / "file"
        file.write_bytes(content)
        swarm.sync()
        swarm.run("umount", str(swarm.path))
        assert flip_a_bit_in_each_spool_file(swarm.home / "spool") == 1
        swarm.up()
        assert file.read_bytes() == content
        assert "a local copy is damaged" in swarm.log()
