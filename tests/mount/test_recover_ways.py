"""Ways to recover: only tried, with too few suppliers, mounted at once, and interrupted."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.model import Role
from tests.mount.practice import Practice
from tests.mount.support import code_of

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))
REMINDER = "bitdustfs recover --check"


def test_recovery_is_tried_on_a_living_machine_and_with_too_few_suppliers_it_is_read_only_until_accepted(
    tmp_path: Path,
) -> None:
    with Practice(tmp_path, suppliers=3, code="1/3") as swarm:
        (swarm.path / "letter").write_bytes(LETTER)
        words = ("--words-file", str(swarm.words))
        assert REMINDER in swarm.run("status", ok=(0, 30, 31, 32)).stdout
        said = swarm.run("recover", "--check", *words).stdout
        assert "confirmed by 3 of 3 suppliers" in said
        assert "bring everything back: 1 files and folders" in said
        assert REMINDER not in swarm.run("status").stdout
        (swarm.path / "more").write_bytes(LETTER)  # nobody was revoked
        swarm.sync()
        swarm.umount()

        swarm.run("recover", "--check", *words)
        database = apsw.Connection(str(swarm.home / "catalog.db"))
        database.execute("UPDATE r_inode SET mtime_ns = mtime_ns + 1 WHERE ino = 1")  # past the outbox
        database.close()
        assert "table r_inode differs" in swarm.run("recover", "--check", *words, ok=(70,)).stderr

        swarm.kill_supplier(1)
        swarm.kill_supplier(2)
        assert "2 suppliers must answer, and 1 do" in swarm.run("recover", "--check", *words, ok=(14,)).stderr
        assert not [path for path in swarm.home.iterdir() if path.name.startswith("catalog.trial")]
        new = tmp_path / "new"
        said = swarm.run("recover", swarm.places()[2], *words, "--mount", str(swarm.path), home=new, ok=(14,)).stdout
        try:
            assert "confirmed by 1 of 3 suppliers" in said
            as_of = re.search(r"as of (\S+ \S+), and only to be read\.$", said, re.MULTILINE)
            assert as_of is not None
            assert f"Read-only: this is the state of {as_of[1]}, and a newer one may exist" in said
            reader, writer = (identity_of(read_keys(Home(home))).certificate for home in (new, swarm.home))
            assert (reader.role, reader.epoch) == (Role.READER, writer.epoch)  # it revokes nobody
            assert (swarm.path / "letter").read_bytes() == LETTER
            assert code_of((swarm.path / "new").touch) == errno.EROFS
            told = swarm.run("status", home=new, ok=(30,)).stdout  # of the blocks of files all that the head says
            assert "a newer one may exist" in told
            assert "margin     0: " in told
            again = swarm.run("recover", *words, "--accept", home=new, ok=(12,))
            assert f"run `bitdustfs umount {swarm.path}` first" in again.stderr
        finally:
            swarm.run("umount", str(swarm.path), home=new)
        for verb in (("revoke", "00" * 32, *words), ("hire", swarm.places()[2], "--size", "1G")):
            assert "can only read the volume" in swarm.run(*verb, home=new, ok=(13,)).stderr

        accepted = ("recover", *words, "--accept", "--mount", str(swarm.path), "--all")
        said = swarm.run(*accepted, home=new).stdout
        try:
            assert "Read 586 KiB; 0 files could not be read now." in said
            (swarm.path / "new").write_bytes(b"it goes on")
        finally:
            swarm.run("umount", str(swarm.path), home=new)
        assert "holds a volume already" in swarm.run(*accepted, home=new, ok=(11,)).stderr
