"""A newer catalog takes the place of the one in use: the old state or the new one, whatever step is the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitdustfs.edges import old_states
from bitdustfs.edges.home import Home
from bitdustfs.errors import DiskFault


class Stopped(Exception):
    """The process was killed here."""


class Killer:
    """Stops at the step number `at`, from 0."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, _name: str) -> None:
        if self._left == 0:
            raise Stopped
        self._left -= 1


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.catalog.write_bytes(b"old")
    (home.spool / "07").mkdir(parents=True)
    (home.spool / "07" / "7").write_bytes(b"old bytes")
    return home


def make_newer(home: Home, catalog: bytes = b"new") -> None:
    old_states.begin(home).write_bytes(catalog)
    old_states.write_plan(home, b"plan of " + catalog)


def states(home: Home) -> Iterator[tuple[bytes, bytes, bytes]]:
    for place in old_states.old_states(home):
        yield place.catalog.read_bytes(), (place.spool / "07" / "7").read_bytes(), place.plan()


def test_newer_catalog_comes_and_the_old_state_stays_until_it_is_let_go(home: Home) -> None:
    make_newer(home)
    old_states.take(home)
    assert home.catalog.read_bytes() == b"new"
    assert not home.spool.exists() and not home.adopting.exists()
    assert list(states(home)) == [(b"old", b"old bytes", b"plan of new")]
    for place in old_states.old_states(home):
        old_states.let_go(place)
    assert not list(home.aside.iterdir())


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_kill_before_each_step_leaves_the_old_state_or_the_new_one(home: Home, first: int, second: int) -> None:
    make_newer(home)
    with pytest.raises(Stopped):
        old_states.take(home, step=Killer(first))
    try:
        old_states.complete(home, step=Killer(second))
    except Stopped:
        old_states.complete(home)
    old_states.tidy(home)
    if first == 0:
        assert home.catalog.read_bytes() == b"old"
        assert (home.spool / "07" / "7").read_bytes() == b"old bytes"
        assert not list(states(home)) and not home.adopting.exists()
    else:
        assert home.catalog.read_bytes() == b"new"
        assert list(states(home)) == [(b"old", b"old bytes", b"plan of new")]
        assert not home.spool.exists()


def test_second_newer_catalog_leaves_the_first_old_state_alone(home: Home) -> None:
    make_newer(home)
    old_states.take(home)
    (home.spool / "07").mkdir(parents=True)
    (home.spool / "07" / "7").write_bytes(b"newer bytes")
    make_newer(home, b"newest")
    old_states.take(home)
    assert home.catalog.read_bytes() == b"newest"
    assert list(states(home)) == [
        (b"old", b"old bytes", b"plan of new"),
        (b"new", b"newer bytes", b"plan of newest"),
    ]


def test_catalog_with_a_log_beside_it_is_not_moved(home: Home) -> None:
    make_newer(home)
    home.catalog.with_name("catalog.db-wal").write_bytes(b"changes")
    with pytest.raises(DiskFault):
        old_states.take(home)
    assert home.catalog.read_bytes() == b"old" and not list(states(home))


def test_what_was_being_removed_when_the_process_ended_goes_at_the_next_start(home: Home) -> None:
    gone = home.aside / "1-00000000.gone"
    gone.mkdir(parents=True)
    (gone / "catalog.db").write_bytes(b"old")
    assert not list(states(home))
    old_states.tidy(home)
    assert not gone.exists()
