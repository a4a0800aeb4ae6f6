"""Heads: only what a writer signed is one, and only a whole chain leads from one to the next."""

from __future__ import annotations

import struct

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import head as heads
from bitdustfs.core import keys
from bitdustfs.core.certificate import Identity, certify
from bitdustfs.core.head import LINK_BYTES, MAX_HEAD_BYTES, MAX_SEALED_BYTES, NO_HEAD, NO_SEAT, Head, Verdict
from bitdustfs.core.keys import public_bytes
from bitdustfs.errors import BadFormat
from bitdustfs.model import Role

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NODE = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
WRITER = Identity(NODE, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=3))
HANDLE = bytes(range(16))
SEALED = b"sealed for the owner only"

# A vector that must never change: the link of version 1 over SEALED, its digest, and the hash of the whole head.
VECTOR_LINK = bytes.fromhex(
    "02000102030405060708090a0b0c0d0e0f000000000000000100000000000000030000000000000000000000000000000000"
    "000000000000000000000000000000c6ef7f9814ed2373b8a0f1a1e86d012f949cf3e2cfd0b8f47ff74a72340b49e2000000"
    "1900000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "00000000"
)
VECTOR_DIGEST = "127775290364873b9be4bb07f588ff2befef4727f47457315efd112d0386414d"
VECTOR_BLAKE3 = "129291762d16ce3e861948a938b9fb693b11826d8d8fb2af1292ff18a9e78c44"


def chain(count: int, after: Head | None = None, *, handle: bytes = HANDLE, sealed: bytes = SEALED) -> list[Head]:
    """So many versions, each after the one before."""
    made: list[Head] = []
    version, previous = (after.version, after.digest) if after else (0, NO_HEAD)
    for step in range(1, count + 1):
        made.append(heads.sign(WRITER, handle=handle, version=version + step, previous=previous, sealed=sealed))
        previous = made[-1].digest
    return made


def links(some: list[Head]) -> bytes:
    return b"".join(each.link for each in some)


def signed_link(link: bytes, sealed: bytes = SEALED, identity: Identity = WRITER) -> bytes:
    """A head around a link that `sign` would not make, with a genuine signature."""
    return link + identity.certificate.raw + identity.sign("head", link) + sealed


def link_of(
    *,
    form: int = 2,
    version: int = 2,
    epoch: int = 3,
    previous: bytes = b"p" * 32,
    sealed: bytes = SEALED,
    sealed_bytes: int = len(SEALED),
    lease_s: int = 0,
    taking: int = 0,
    also: bytes = NO_HEAD,
) -> bytes:
    about = epoch, previous, blake3(sealed).digest(), sealed_bytes
    return struct.pack(">B16sQQ32s32sI16sIB32s", form, HANDLE, version, *about, NO_SEAT, lease_s, taking, also)


CHAIN = chain(6)
FORK = chain(6, sealed=b"another history")
MIXED = [*CHAIN[:3], *chain(3, CHAIN[2], sealed=b"another future")]


def test_head_has_the_bytes_it_always_had() -> None:
    first = CHAIN[0]
    assert first.link.hex() == VECTOR_LINK.hex()
    assert first.digest.hex() == VECTOR_DIGEST
    assert blake3(first.raw).hexdigest() == VECTOR_BLAKE3


def test_handle_of_a_volume_says_nothing_of_its_id() -> None:
    handle = keys.volume_handle(bytes(32))
    assert handle.hex() == "fef0ff4fd674df8726c199615eea4e3e"
    assert handle != keys.volume_id(bytes(32))


def test_parsing_gives_back_what_was_signed() -> None:
    made = heads.sign(WRITER, handle=HANDLE, version=2**62 - 1, previous=b"p" * 32, sealed=SEALED)
    read = heads.parse(memoryview(made.raw))
    assert read == made
    assert (read.handle, read.version, read.epoch, read.previous) == (HANDLE, 2**62 - 1, 3, b"p" * 32)
    assert (read.signer, read.sealed, read.link) == (WRITER.certificate, SEALED, made.raw[:LINK_BYTES])


@pytest.mark.parametrize("length", [0, 1, MAX_SEALED_BYTES])
def test_sealed_part_of_any_allowed_length_is_carried(length: int) -> None:
    made = heads.sign(WRITER, handle=HANDLE, version=1, previous=NO_HEAD, sealed=bytes(length))
    assert heads.parse(made.raw).sealed == bytes(length)


def test_sealed_part_that_is_too_long_is_not_signed() -> None:
    with pytest.raises(BadFormat, match=str(MAX_HEAD_BYTES)):
        heads.sign(WRITER, handle=HANDLE, version=1, previous=NO_HEAD, sealed=bytes(MAX_SEALED_BYTES + 1))


@pytest.mark.parametrize("role", [Role.READER, Role.SUPPLIER])
def test_only_a_writer_signs_heads(role: Role) -> None:
    other = Identity(NODE, certify(OWNER, public_bytes(NODE), role, epoch=3))
    with pytest.raises(BadFormat, match=role.name.lower()):
        heads.sign(other, handle=HANDLE, version=1, previous=NO_HEAD, sealed=SEALED)


@pytest.mark.parametrize(
    "version,handle,previous",
    [
        (0, HANDLE, NO_HEAD),
        (-1, HANDLE, NO_HEAD),
        (2**62, HANDLE, b"p" * 32),
        (2**64, HANDLE, b"p" * 32),
        (1, HANDLE, b"p" * 32),
        (2, HANDLE, NO_HEAD),
        (2, HANDLE, b"p" * 31),
        (2, HANDLE[:-1], b"p" * 32),
    ],
)
def test_head_that_makes_no_sense_is_not_signed(version: int, handle: bytes, previous: bytes) -> None:
    with pytest.raises(BadFormat):
        heads.sign(WRITER, handle=handle, version=version, previous=previous, sealed=SEALED)


@pytest.mark.parametrize(
    "link",
    [
        link_of(form=1),
        link_of(version=0),
        link_of(version=2**62),
        link_of(version=2**64 - 1),
        link_of(version=1),
        link_of(previous=NO_HEAD),
        link_of(epoch=2),
        link_of(epoch=4),
        link_of(sealed=b"other bytes"),
        link_of(sealed_bytes=len(SEALED) - 1),
        link_of(sealed_bytes=2**32 - 1),
        link_of(lease_s=3601),
        link_of(lease_s=2**32 - 1),
        link_of(taking=2),
        link_of(also=b"p" * 32),
    ],
)
def test_genuine_signature_does_not_make_nonsense_a_head(link: bytes) -> None:
    heads.parse(signed_link(link_of()))
    with pytest.raises(BadFormat):
        heads.parse(signed_link(link))


def test_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(BadFormat, match="version 1"):
        heads.parse(b"\x01" + CHAIN[0].raw[1:])


@pytest.mark.parametrize("at", range(0, len(CHAIN[0].raw), 3))
def test_any_changed_byte_spoils_a_head(at: int) -> None:
    raw = bytearray(CHAIN[0].raw)
    raw[at] ^= 0x10
    with pytest.raises(BadFormat):
        heads.parse(bytes(raw))


def test_cut_or_longer_head_is_refused() -> None:
    for raw in (CHAIN[0].raw[:-1], CHAIN[0].raw + b"\0", CHAIN[0].raw[:LINK_BYTES], bytes([1]) * 10_000_000):
        with pytest.raises(BadFormat):
            heads.parse(raw)


def test_signature_for_another_purpose_is_refused() -> None:
    link = link_of()
    with pytest.raises(BadFormat, match="genuine"):
        heads.parse(link + WRITER.certificate.raw + WRITER.sign("contract", link) + SEALED)


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_crash_the_parser(raw: bytes, is_begun: bool) -> None:
    with pytest.raises(BadFormat):
        heads.parse(b"\x02" + raw if is_begun else raw)


# -- chains ----------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.integers(0, 5))
def test_chain_leads_from_each_version_to_each_later_one_only(older: int, newer: int) -> None:
    between = links(CHAIN[older + 1 : newer])
    is_later = newer > older
    assert heads.descends(CHAIN[newer], between, CHAIN[older].digest) is is_later
    assert heads.follows(CHAIN[newer], between, CHAIN[older]) is is_later


@given(st.integers(0, 5), st.lists(st.sampled_from([*CHAIN, *FORK]), max_size=6), st.sampled_from([*CHAIN, *FORK]))
def test_any_other_links_lead_nowhere(newer: int, some: list[Head], ancestor: Head) -> None:
    path = [ancestor, *some, CHAIN[newer]]
    is_whole = path == CHAIN[ancestor.version - 1 : newer + 1]
    assert heads.descends(CHAIN[newer], links(some), ancestor.digest) is is_whole
    assert heads.follows(CHAIN[newer], links(some), ancestor) is is_whole


@given(st.integers(0, 4 * LINK_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_breaks_a_chain(at: int, change: int) -> None:
    between = bytearray(links(CHAIN[1:5]))
    assert heads.descends(CHAIN[5], bytes(between), CHAIN[0].digest)
    between[at] ^= change
    assert not heads.descends(CHAIN[5], bytes(between), CHAIN[0].digest)


@given(st.binary(max_size=3 * LINK_BYTES))
def test_no_bytes_crash_the_check_of_a_chain(between: bytes) -> None:
    assert not heads.descends(CHAIN[5], between, CHAIN[0].digest)


def test_chain_of_another_volume_leads_nowhere() -> None:
    other = chain(3, handle=b"another volume!!")
    last = heads.sign(WRITER, handle=HANDLE, version=4, previous=other[2].digest, sealed=SEALED)
    assert not heads.descends(last, links(other[1:3]), other[0].digest)
    assert not heads.follows(last, b"", other[2])


def test_version_that_skips_some_follows_nothing() -> None:
    jump = heads.sign(WRITER, handle=HANDLE, version=9, previous=CHAIN[5].digest, sealed=SEALED)
    assert not heads.follows(jump, b"", CHAIN[5])


@pytest.mark.parametrize("odd", [link_of(form=1, version=7), link_of(version=8), link_of(version=6)])
def test_signer_cannot_vouch_for_a_link_that_is_none(odd: bytes) -> None:
    digest = blake3(odd, key=blake3(b"bitdustfs 1 head digest").digest()).digest()
    last = heads.sign(WRITER, handle=HANDLE, version=8, previous=digest, sealed=SEALED)
    assert heads.descends(last, b"", digest)
    assert not heads.descends(last, odd, b"p" * 32)


def test_links_that_end_within_one_lead_nowhere() -> None:
    assert heads.descends(CHAIN[2], links(CHAIN[1:2]), CHAIN[0].digest)
    assert not heads.descends(CHAIN[2], links(CHAIN[1:2]) + b"\x01", CHAIN[0].digest)


def joined(older: list[Head], other: list[Head], *, version: int) -> Head:
    """A head that ends the fork of two lines."""
    return heads.sign(
        WRITER,
        handle=HANDLE,
        version=version,
        previous=older[-1].digest,
        sealed=b"joined",
        also=other[-1].digest,
    )


def test_head_that_ends_a_fork_follows_both_lines() -> None:
    other = MIXED[:4]
    join = joined(CHAIN, other, version=7)
    after = chain(1, join)[0]
    for line in (CHAIN, other):
        assert heads.follows(join, b"", line[-1])
        assert heads.follows(after, join.link, line[-1])
        assert heads.judge(after, join.link, line[-1]) is Verdict.NEWER
    assert heads.follows(join, links(CHAIN[4:]), CHAIN[3])
    assert heads.genuine_links(after, links(CHAIN) + join.link) == links(CHAIN) + join.link
    assert heads.genuine_links(after, links(other) + join.link) == links(other) + join.link


def test_head_that_ends_a_fork_is_newer_than_both_lines_and_follows_no_third() -> None:
    assert not heads.follows(joined(CHAIN, MIXED[:4], version=6), b"", CHAIN[-1])
    assert not heads.follows(joined(MIXED[:4], CHAIN, version=6), b"", CHAIN[-1])
    assert heads.judge(joined(CHAIN, MIXED[:4], version=7), b"", FORK[3]) is Verdict.FORKED


def test_head_that_ends_a_fork_brings_versions_to_no_end() -> None:
    last = CHAIN[-1].version + heads.SKIPPED_MOST
    far, too_far = joined(CHAIN, MIXED[:4], version=last), joined(CHAIN, MIXED[:4], version=last + 1)
    assert heads.follows(far, b"", CHAIN[-1])
    assert heads.judge(too_far, b"", CHAIN[-1]) is Verdict.FORKED
    assert heads.judge(chain(1, too_far)[0], too_far.link, CHAIN[-1]) is Verdict.FORKED
    assert heads.descends(chain(1, far)[0], links(CHAIN[1:]) + far.link, CHAIN[0].digest)
    assert not heads.descends(chain(1, too_far)[0], links(CHAIN[1:]) + too_far.link, CHAIN[0].digest)


@given(st.lists(st.sampled_from([*CHAIN, *MIXED]), max_size=4), st.sampled_from([*CHAIN, *MIXED, *FORK]))
def test_no_other_way_leads_to_a_head_that_ends_a_fork(some: list[Head], ancestor: Head) -> None:
    join = joined(CHAIN, MIXED[:4], version=7)
    ways = [line[at:] for line in (CHAIN, MIXED[:4]) for at in range(len(line))]
    assert heads.follows(join, links(some), ancestor) is ([ancestor, *some] in ways)


def test_chain_tells_where_it_was_handed_on() -> None:
    kept = heads.sign(WRITER, handle=HANDLE, version=1, previous=NO_HEAD, sealed=SEALED, lease_s=60)
    taken = heads.sign(
        WRITER, handle=HANDLE, version=2, previous=kept.digest, sealed=SEALED, lease_s=60, takes_over=True
    )
    assert [heads.is_handed_on(some) for some in (b"", kept.link, taken.link, CHAIN[0].link)] == [
        False,
        False,
        True,
        True,
    ]
    assert heads.is_handed_on(kept.link + taken.link)


# -- what a supplier thinks of a head --------------------------------------------------------------


def test_first_head_may_have_any_version() -> None:
    assert heads.judge(CHAIN[4], b"", None) is Verdict.NEWER


def test_head_of_another_volume_is_a_fork_whatever_its_version() -> None:
    other = chain(6, handle=b"another volume!!")
    assert [heads.judge(each, b"", CHAIN[2]) for each in other] == [Verdict.FORKED] * 6


def test_owners_new_epoch_goes_over_any_chain_and_is_never_left_again() -> None:
    laptop = Identity(NODE, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=4))
    newer = heads.sign(laptop, handle=HANDLE, version=3, previous=FORK[1].digest, sealed=SEALED)
    elsewhere = heads.sign(laptop, handle=b"another volume!!", version=3, previous=FORK[1].digest, sealed=SEALED)
    assert heads.judge(newer, b"", CHAIN[5]) is Verdict.NEWER
    assert heads.judge(elsewhere, b"", CHAIN[5]) is Verdict.FORKED
    back = heads.sign(WRITER, handle=HANDLE, version=4, previous=newer.digest, sealed=SEALED)
    assert [heads.judge(each, b"", newer) for each in (back, CHAIN[5])] == [Verdict.BEHIND] * 2


def test_head_whose_links_are_missing_is_no_newer_one_yet() -> None:
    assert heads.judge(CHAIN[5], links(CHAIN[2:4]), CHAIN[1]) is Verdict.FORKED
    assert heads.judge(CHAIN[5], links(CHAIN[2:5]), CHAIN[1]) is Verdict.NEWER


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from([CHAIN, FORK, MIXED]), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
        max_size=12,
    )
)
def test_held_head_only_ever_goes_forward_on_its_own_line(offers: list[tuple[list[Head], int, int, int]]) -> None:
    """I11, whatever heads and links come in whatever order."""
    held: Head | None = None
    for line, newest, first, last in offers:
        verdict = heads.judge(line[newest], links(line[first:last]), held)
        if verdict is not Verdict.NEWER:
            continue
        came_from = held
        held = line[newest]
        assert came_from is None or (came_from in line[:newest] and came_from.version < held.version)


@pytest.mark.slow
@given(st.integers(2, 9), st.integers(0, 9), st.binary(max_size=LINK_BYTES))
def test_genuine_links_are_those_that_the_head_goes_back_to(newest: int, missing: int, garbage: bytes) -> None:
    made = chain(newest)
    told = links(made[min(missing, newest - 1) : -1])
    assert heads.genuine_links(made[-1], garbage + told) == told or len(garbage) % LINK_BYTES
    assert heads.genuine_links(made[-1], told) == told
    other = chain(newest, sealed=b"other")
    assert heads.genuine_links(made[-1], links(other[:-1])) == b""
    assert [heads.version_of(each.link) for each in made] == list(range(1, newest + 1))


@given(st.integers(0, len(CHAIN[1].raw) - 1), st.integers(1, 255), st.integers(0, len(CHAIN[1].raw)))
def test_what_is_salvaged_of_a_damaged_head_is_what_was_signed(at: int, bits: int, end: int) -> None:
    raw = bytearray(CHAIN[1].raw)
    raw[at] ^= bits
    found = heads.salvage(bytes(raw[:end]))
    is_signed_part_whole = at >= len(raw) - len(SEALED) and end >= len(raw) - len(SEALED)
    assert (found is not None) is (is_signed_part_whole or at >= end >= len(raw) - len(SEALED))
    assert found is None or (found.link, found.digest, found.raw) == (CHAIN[1].link, CHAIN[1].digest, b"")
