"""Ways to recover: only tried, with too few suppliers, mounted at once, and interrupted."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw
import pytest

from tests.mount.practice import Practice
from tests.mount.support import code_of

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))
REMINDER = "bitdustfs recover --check"


def test_recovery_is_tried_on_a_living_machine_and_too_few_suppliers_are_accepted_read_only(tmp_path: Path) -> None:
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
        place = swarm.places()[2]
        refused = swarm.run("recover", place, *words, home=new, ok=(14,))
        assert "confirmed by 1 of 3 suppliers" in refused.stdout
        assert "--accept" in refused.stderr
        said = swarm.run("recover", place, *words, "--accept", "--mount", str(swarm.path), "--all", home=new).stdout
        try:
            assert "Read-only" in said
            assert "Read 586 KiB; 0 files could not be read now." in said
            assert (swarm.path / "letter").read_bytes() == LETTER
            assert code_of((swarm.path / "new").touch) == errno.EROFS
        finally:
            swarm.run("umount", str(swarm.path), home=new)
