"""A damaged catalog: the mount is refused, or goes on read-only from where the damage is met."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from bitdustfs.edges import mounts
from tests.children import bitdustfs
from tests.mount.support import Mount, code_of

pytestmark = pytest.mark.slow
PAGE = 4096
FILES = 400  # some hundred pages of names and inodes


def fill(mount: Mount) -> None:
    for number in range(FILES):
        (mount.path / f"{number:03} {'x' * 200}").write_bytes(b"%d" % number * 30)


def spoil(path: Path, table: str) -> bytes:
    """Damage half of the pages of a table or index. Returns the catalog's bytes after that."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    pages = connection.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).fetchall()
    connection.close()
    with path.open("r+b") as file:
        for (number,) in pages[1 : 1 + len(pages) // 2]:
            file.seek((int(str(number)) - 1) * PAGE)
            file.write(b"\x5a" * PAGE)
    return path.read_bytes()


def test_damaged_catalog_is_mounted_read_only_or_not_at_all() -> None:
    with Mount() as mount:
        fill(mount)
        mount.stop()
        catalog = mount.state / "catalog.db"
        before = spoil(catalog, "l_inline")
        refused = bitdustfs("--home", mount.state, "mount", str(mount.path))
        assert refused.returncode == 17
        assert "is damaged" in refused.stderr and "mount -o ro" in refused.stderr
        assert mounts.mounted_at(str(mount.path), mounts.read_mounts()) is None
        assert catalog.read_bytes() == before

        said = bitdustfs("--home", mount.state, "mount", str(mount.path), "-o", "ro")
        try:
            assert said.returncode == 0 and "The catalog is damaged" in said.stdout
            readable = [number for number in range(FILES) if _reads(mount, number)]
            assert 0 < len(readable) < FILES
            assert code_of(lambda: os.mkdir(mount.path / "new")) == errno.EROFS
            status = json.loads(bitdustfs("--home", mount.state, "status", "--json").stdout)
            assert any("nothing can be changed now" in sentence for sentence in status["trouble"])
        finally:
            assert bitdustfs("--home", mount.state, "umount", str(mount.path)).returncode == 0
        assert catalog.read_bytes() == before


def _reads(mount: Mount, number: int) -> bool:
    found: list[bytes] = []
    path = mount.path / f"{number:03} {'x' * 200}"
    code = code_of(lambda: found.append(path.read_bytes()))
    assert code in (None, errno.EIO)
    assert not found or found == [b"%d" % number * 30]
    return bool(found)


def test_damage_that_is_met_while_mounted_ends_all_changes() -> None:
    with Mount() as mount:
        fill(mount)
        mount.stop()
        mount.start()
        before = spoil(mount.state / "catalog.db", "r_name_by_name")
        codes = {code_of(partial) for partial in _looks(mount)}
        assert errno.EIO in codes
        assert code_of(lambda: os.mkdir(mount.path / "new")) == errno.EROFS
        assert code_of(lambda: (mount.path / "new").write_bytes(b"x")) == errno.EROFS
        assert any(_reads(mount, number) for number in range(FILES))
        status = json.loads(bitdustfs("--home", mount.state, "status", "--json").stdout)
        assert any("is damaged" in sentence for sentence in status["trouble"])
        mount.stop(signal.SIGTERM)
        assert (mount.state / "catalog.db").read_bytes() == before


def _looks(mount: Mount) -> list[Callable[[], object]]:
    names = [f"{number:03} {'x' * 200}" for number in range(FILES)]
    return [(mount.path / name).read_bytes for name in names]
