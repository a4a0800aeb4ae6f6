"""What the machine offers."""

from __future__ import annotations

import pytest

from bitdustfs.edges.system import best_suite, suite_for
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
