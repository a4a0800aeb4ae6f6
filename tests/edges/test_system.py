"""What the machine offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bitdustfs.edges.system import SystemWall, best_suite, suite_for
from bitdustfs.model import Suite


@pytest.mark.parametrize(
    ("cpuinfo", "suite"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n", Suite.AES_256_GCM),
        ("processor\t: 0\nflags\t\t: fpu sse2\n", Suite.CHACHA20_POLY1305),
        ("processor : 0\nFeatures : fp asimd aes pmull\n", Suite.AES_256_GCM),
        ("processor : 0\nFeatures : half thumb neon\n", Suite.CHACHA20_POLY1305),
        ("", Suite.AES_256_GCM),
    ],
)
def test_cipher_goes_by_what_the_processor_has(cpuinfo: str, suite: Suite) -> None:
    assert suite_for(cpuinfo) is suite


def test_this_machine_has_a_cipher() -> None:
    assert best_suite() in Suite


DAY_S = 86_400
SLEPT = ["unshare", "--user", "--map-root-user", "--time", "--boottime", str(DAY_S)]


def test_clock_of_leases_goes_on_in_suspend() -> None:
    """To a process in a time namespace it is as if this machine had slept for a day: CLOCK_MONOTONIC stood still."""
    asks = "from bitdustfs.edges.system import SystemWall; print(SystemWall().awake_s())"
    before_s = SystemWall().awake_s()
    slept = subprocess.run([*SLEPT, sys.executable, "-c", asks], check=True, stdout=subprocess.PIPE, text=True)
    assert float(slept.stdout) >= before_s + DAY_S
