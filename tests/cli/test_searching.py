"""Finding suppliers through anybody who takes part in the hash table, on a machine that lacks what that needs."""

from __future__ import annotations

import pytest

from bitdustfs.cli.searching import find_friends
from bitdustfs.core.keys import Secret
from bitdustfs.errors import BadRequest, NotFound, SetupMissing

SECRET = Secret(bytes(range(32)))
NOWHERE = "[2001:db8::9]:0"  # an address that no machine has: as good as none of its kind


async def test_ipv6_address_without_ipv6_is_refused_with_the_reason() -> None:
    with pytest.raises(SetupMissing, match=r"no IPv6, which \[2001:db8::7\]:4878 needs: name somebody"):
        await find_friends(SECRET, ["[2001:db8::7]:4878"], ipv6=NOWHERE)


@pytest.mark.slow
async def test_both_kinds_that_fail_are_both_told() -> None:
    with pytest.raises(NotFound, match=r"at 127\.0\.0\.1:9; this machine has no IPv6"):
        await find_friends(SECRET, ["127.0.0.1:9", "[2001:db8::7]:4878"], ipv6=NOWHERE)


async def test_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest):
        await find_friends(SECRET, ["nowhere"])
