"""The catalog of a home: made whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bitdustfs.cli.assemble import _keeping, _newest_catalog, _refuse_more_than_hired, _volume_code
from bitdustfs.cli.claiming import Claim
from bitdustfs.cli.hiring import HireWish, agree
from bitdustfs.cli.home_catalog import open_catalog
from bitdustfs.cli.mount_options import mount_options, wanted_code
from bitdustfs.core.thinning import NONE_BY_ITSELF, USUAL
from bitdustfs.core.volume import VolumeSecrets
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.edges.config import Settings
from bitdustfs.edges.home import Home
from bitdustfs.engine.codes import keep_code
from bitdustfs.engine.orphans import expect_orphans
from bitdustfs.errors import BadFormat, BadRequest
from bitdustfs.model import Code, Standing
from bitdustfs.ports import Catalog
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import World

SECRETS = VolumeSecrets(b"v" * 32)
TAILS = ("", "-wal", "-shm", "-journal")


def opened(home: Path, secrets: VolumeSecrets = SECRETS) -> int:
    """Open or make the catalog. Returns how many suppliers it has."""
    with open_catalog(Home(home), secrets, lambda _hired: None) as (catalog, _code):
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


class Told(Claim):
    """A claim of which it is known what suppliers tell."""

    def __init__(self, news: Sequence[str]) -> None:
        super().__init__(make_identity("customer"), VolumeSecrets(b"v" * 32), b"")
        self.news = news

    async def make(self, catalog: Catalog, *, takes_over: bool) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return self.news


@pytest.mark.parametrize(("news", "orphans"), [(["Another machine has let it go."], b""), ([], b"[]")])
async def test_orphans_are_looked_for_no_more_once_a_mount_heard_of_another_machine(
    tmp_path: Path, news: list[str], orphans: bytes
) -> None:
    opened(tmp_path)
    with closing(SqliteCatalog(tmp_path / "catalog.db")) as catalog:
        expect_orphans(catalog)
        catalog.commit()
    wish, who = mount_options("/m", None, (), Settings()), make_identity("customer")
    with ExitStack() as stack:
        await _newest_catalog(Home(tmp_path), wish, who, SECRETS, stack, Told(news))
    with closing(SqliteCatalog(tmp_path / "catalog.db")) as catalog:
        assert catalog.local_value("orphans") == orphans


def mounted_code(catalog: SqliteCatalog, code: str | None, *words: str, config: str = "") -> Code | None:
    """The code of a mount that is asked for this."""
    wish = mount_options("/m", code, words, Settings(code=config))
    return _volume_code(catalog, wish, wanted_code(wish, 5))


def test_code_that_was_asked_for_once_is_the_volumes_until_another_one_is() -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        assert mounted_code(catalog, None) is None
        assert mounted_code(catalog, "3/5") == Code(3, 5)
        assert mounted_code(catalog, None) == Code(3, 5)
        assert mounted_code(catalog, None, config="2/4") == Code(2, 4)
        assert mounted_code(catalog, None) == Code(2, 4)
        assert mounted_code(catalog, "auto") is None
        assert mounted_code(catalog, None) is None


def test_snapshots_that_are_kept_are_the_volumes_and_those_that_were_asked_for_once() -> None:
    catalog = SqliteCatalog(":memory:", create=True)
    nothing = mount_options("/mnt", None, [], Settings())
    assert _keeping(catalog, nothing) == USUAL
    assert catalog.value("snapshots") is None  # nobody chose
    fewer = mount_options("/mnt", None, [], Settings(snapshots_hourly=3, snapshots_monthly=0))
    assert _keeping(catalog, replace(fewer, read_only=True)) == replace(USUAL, hourly=3, monthly=0)
    assert catalog.value("snapshots") is None
    assert _keeping(catalog, fewer) == replace(USUAL, hourly=3, monthly=0)
    assert _keeping(catalog, nothing) == replace(USUAL, hourly=3, monthly=0)  # as on a machine that was recovered to
    change = catalog.last_change
    _keeping(catalog, fewer)
    assert catalog.last_change == change
    catalog.put_value("snapshots", b"all of them")
    assert _keeping(catalog, nothing) == NONE_BY_ITSELF  # whoever cannot read it deletes none


def test_new_code_with_more_fragments_than_suppliers_is_refused() -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        wish = mount_options("/m", "3/5", [], Settings())
        with pytest.raises(BadRequest, match="makes 5 fragments of each block, each for another supplier, and 0 are"):
            _refuse_more_than_hired(catalog, wish)
        keep_code(catalog, Code(3, 5))
        _refuse_more_than_hired(catalog, wish)  # they were lost since


def test_code_is_kept_in_what_goes_to_the_suppliers_and_only_if_it_changes() -> None:
    with closing(SqliteCatalog(":memory:", create=True)) as catalog:
        for _ in range(2):
            mounted_code(catalog, "3/5")
            mounted_code(catalog, "2/4", "ro")
        assert mounted_code(catalog, None) == Code(3, 5)
        assert catalog.last_change == 1


@pytest.mark.slow
async def test_supplier_that_is_hired_again_keeps_its_number_and_what_it_holds(autojump_clock: MockClock) -> None:
    async with World(suppliers=3).running() as world:
        await world.write("letter", bytes(100_000))
        await world.write("picture", bytes(range(256)) * 1000)
        await world.sync()
        before = world.catalog.suppliers()
        world.catalog.put_supplier(replace(before[2], standing=Standing.FIRED))
        forgetful = world.swarm.customer_side(list(before[:1]))  # fired ones are not among those that are called
        for row in before:
            wish = HireWish(node=row.node, address=row.address, bytes=2 << 30, label="")
            world.catalog.charge_supplier(row.supplier, 1000, 1)
            await agree(forgetful, world.catalog, wish)
        after = world.catalog.suppliers()
        assert [(row.supplier, row.label, row.standing) for row in after] == [
            (row.supplier, row.label, Standing.HIRED) for row in before
        ]
        assert [row.used_fragments for row in after] == [row.used_fragments + 1 for row in before]
