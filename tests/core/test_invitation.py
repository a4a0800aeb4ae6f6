"""Invitations: what the line says, and what proves it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdustfs.core import base32, invitation
from bitdustfs.core.invitation import Line, Ticket
from bitdustfs.errors import BadRequest
from bitdustfs.model import NodeId

lines = st.builds(
    Line,
    front=st.binary(min_size=16, max_size=16),
    token=st.binary(min_size=10, max_size=10),
    host=st.ip_addresses().map(str),
    port=st.integers(1, 65535),
)
LINE = Line(bytes(range(16)), bytes(range(10)), "192.0.2.7", 4878)
HOST, GUEST = NodeId(b"h" * 32), NodeId(b"g" * 32)
HOST_NONCE, GUEST_NONCE = b"n" * 32, b"m" * 32


@given(lines)
def test_line_is_read_as_it_was_written(line: Line) -> None:
    text = invitation.write_line(line)
    assert invitation.read_line(text.lower().replace("-", " ")) == line
    characters = len(text.replace("-", ""))
    assert characters == (56 if ipaddress.ip_address(line.host).version == 4 else 76)


def test_line_with_ipv4_has_at_most_64_characters() -> None:
    assert invitation.write_line(LINE) == "2001-081G-8186-0W40-J2GB-1G6G-W3R0-0410-6105-0R3G-G2E0-0010-E4RE-A7A4"
    assert LINE.address == "192.0.2.7:4878"


def test_ipv6_address_stands_in_brackets() -> None:
    assert Line(LINE.front, LINE.token, "2001:db8::7", 4878).address == "[2001:db8::7]:4878"


def test_line_of_another_version_is_refused_by_name() -> None:
    number, count = base32.decode(invitation.write_line(LINE), [52])
    for kind in (0, 2, 3, 15):
        with pytest.raises(BadRequest, match="another version"):
            invitation.read_line(base32.encode(number & (1 << 256) - 1 | kind << 256, count))


def test_line_without_a_port_is_refused() -> None:
    number, count = base32.decode(invitation.write_line(LINE), [52])
    with pytest.raises(BadRequest, match="no port"):
        invitation.read_line(base32.encode(number >> 16 << 16, count))


def test_mistyped_line_is_refused_without_its_token_in_the_error() -> None:
    with pytest.raises(BadRequest, match="group 2") as refused:
        invitation.read_line("2001-081H-8186-0W40-J2GB-1G6G-W3R0-0410-6105-0R3G-G2E0-0010-E4RE-A7A4")
    assert "W3R0" not in str(refused.value)


def test_name_is_no_address_for_an_invitation() -> None:
    with pytest.raises(BadRequest, match=r"'anna\.example' is none"):
        invitation.write_line(Line(LINE.front, LINE.token, "anna.example", 4878))
    with pytest.raises(BadRequest, match="port 0"):
        invitation.write_line(Line(LINE.front, LINE.token, "192.0.2.7", 0))


def test_token_is_shown_by_nothing_that_is_printed() -> None:
    assert repr(LINE) == "Line(…)"
    assert repr(LINE.ticket) == "Ticket(…)"


def proofs(ticket: Ticket, host: NodeId, guest: NodeId, host_nonce: bytes, guest_nonce: bytes) -> set[bytes]:
    nonces = {"host_nonce": host_nonce, "guest_nonce": guest_nonce}
    return {
        invitation.host_proof(ticket, host, guest, **nonces),
        invitation.guest_proof(ticket, host, guest, **nonces),
    }


def test_proof_is_another_one_for_each_token_node_nonce_and_direction() -> None:
    ticket, other = LINE.ticket, invitation.ticket_of(b"x" * 10)
    seen: set[bytes] = set()
    for variant in (
        proofs(ticket, HOST, GUEST, HOST_NONCE, GUEST_NONCE),
        proofs(ticket, GUEST, HOST, HOST_NONCE, GUEST_NONCE),
        proofs(ticket, HOST, GUEST, GUEST_NONCE, HOST_NONCE),
        proofs(ticket, HOST, NodeId(b"t" * 32), HOST_NONCE, GUEST_NONCE),
        proofs(ticket, HOST, GUEST, HOST_NONCE, bytes(32)),
        proofs(ticket, HOST, GUEST, bytes(32), GUEST_NONCE),
        proofs(other, HOST, GUEST, HOST_NONCE, GUEST_NONCE),
    ):
        assert len(variant) == 2 and not variant & seen
        seen |= variant


def test_mark_does_not_tell_the_key() -> None:
    assert LINE.ticket.mark != LINE.ticket.key[:16]
    assert invitation.ticket_of(b"x" * 10).mark != LINE.ticket.mark
