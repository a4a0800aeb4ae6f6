"""What the person asks of a mount."""

from __future__ import annotations

import pytest

from bitdustfs.cli.mount_options import (
    SPOOL_MOST_BYTES,
    SPOOL_USUAL_BYTES,
    default_spool_bytes,
    mount_options,
    parse_options,
    wanted_code,
)
from bitdustfs.core.units import GIB
from bitdustfs.edges.config import Settings
from bitdustfs.errors import BadRequest
from bitdustfs.model import Code


def test_options_are_read_from_several_words() -> None:
    assert parse_options(["allow_other,spool=10G", "ro,rw", ""]) == {
        "allow_other": True,
        "ro": True,
        "spool": 10 * GIB,
    }


@pytest.mark.parametrize("word", ["noexec", "Ro", "ro=1", "spool", "spool=", "read_timeout=later", "=3"])
def test_an_option_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(BadRequest):
        parse_options([word])


def test_flags_win_over_the_settings() -> None:
    settings = Settings(spool=2 * GIB, read_timeout=7.0, code="2/3")
    from_file = mount_options("/m", None, [], settings)
    from_flags = mount_options("/m", "3/5", ["spool=1G,read_timeout=9"], settings)
    assert (from_file.spool_bytes, from_file.read_timeout_s) == (2 * GIB, 7.0)
    assert (from_flags.spool_bytes, from_flags.read_timeout_s) == (GIB, 9.0)
    assert wanted_code(from_file, 0) == Code(2, 3)
    assert wanted_code(from_flags, 5) == Code(3, 5)


def test_without_a_wish_the_code_goes_by_the_number_of_suppliers() -> None:
    assert wanted_code(mount_options("/m", None, [], Settings()), 0) is None


def test_a_code_that_needs_more_suppliers_than_are_hired_is_refused() -> None:
    with pytest.raises(BadRequest, match="needs 3 suppliers at least, and 2 are hired"):
        wanted_code(mount_options("/m", "3/5", [], Settings()), 2)


@pytest.mark.parametrize(
    ("free", "spool"),
    [(0, SPOOL_USUAL_BYTES), (50 * GIB, 10 * GIB), (1000 * GIB, SPOOL_MOST_BYTES)],
)
def test_the_spool_takes_a_fifth_of_what_is_free_but_no_more_than_20_gib(free: int, spool: int) -> None:
    assert default_spool_bytes(free) == spool
