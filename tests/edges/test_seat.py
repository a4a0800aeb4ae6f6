"""Seats: a home keeps its own where it is, and a copy has another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitdustfs.core.head import SEAT_BYTES
from bitdustfs.edges.seat import NAME, seat_of
from bitdustfs.errors import DiskFault
from bitdustfs.testing.entropy import SeededEntropy

DICE = SeededEntropy(3)


def seat(home: Path, *, machine: Path) -> bytes:
    return seat_of(home, DICE, machine_id=machine)


def test_home_keeps_its_seat_and_a_copy_has_another_one_on_this_machine_and_elsewhere(tmp_path: Path) -> None:
    home, copy, here, there = (tmp_path / name for name in ("home", "copy", "here", "there"))
    home.mkdir()
    here.write_text("0123\n")
    there.write_text("4567\n")
    first = seat(home, machine=here)
    assert len(first) == SEAT_BYTES
    assert seat(home, machine=here) == first
    shutil.copytree(home, copy)
    assert seat(copy, machine=here) != first
    assert seat(home, machine=here) == first
    elsewhere = seat(home, machine=there)
    assert elsewhere not in (first, seat(copy, machine=here))
    assert len(seat(home, machine=tmp_path / "no such file")) == SEAT_BYTES


def test_seat_that_is_damaged_is_drawn_anew_and_one_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"short")
    assert len(seat(tmp_path, machine=tmp_path)) == SEAT_BYTES
    with pytest.raises(DiskFault):
        seat(tmp_path / "no home", machine=tmp_path)
