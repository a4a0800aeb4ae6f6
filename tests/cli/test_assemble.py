"""The catalog of a home: made whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitdustfs.cli.assemble import _catalog
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.home import Home
from bitdustfs.errors import BadFormat

SECRETS = VolumeSecrets(b"v" * 32)
TAILS = ("", "-wal", "-shm", "-journal")


def opened(home: Path, secrets: VolumeSecrets = SECRETS) -> int:
    """Open or make the catalog. Returns how many suppliers it has."""
    with _catalog(Home(home), secrets, lambda _hired: None) as (catalog, _code):
        assert catalog.value("volume_id") == secrets.volume_id
        return len(catalog.suppliers())


def test_a_first_catalog_is_put_in_its_place_whole(tmp_path: Path) -> None:
    assert opened(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.db"]


def test_a_catalog_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    for name in ("catalog.db", "catalog.db.new"):
        for tail in TAILS:
            (tmp_path / (name + tail)).write_bytes(b"half" if name.endswith("new") or tail else b"")
    assert opened(tmp_path) == 0
    assert opened(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.db"]


def test_a_catalog_of_another_volume_is_refused_and_kept(tmp_path: Path) -> None:
    opened(tmp_path)
    before = (tmp_path / "catalog.db").read_bytes()
    with pytest.raises(BadFormat, match="does not belong to the keys"):
        opened(tmp_path, VolumeSecrets(b"w" * 32))
    assert (tmp_path / "catalog.db").read_bytes() == before
