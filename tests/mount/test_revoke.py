"""A lost machine, revoked from another one, with real supplier processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from bitdustfs.core import wire
from bitdustfs.core.certificate import Identity
from bitdustfs.edges.home import Home
from bitdustfs.edges.keys_disk import identity_of, read_keys
from bitdustfs.edges.tcp import TcpDialer
from bitdustfs.engine.errand import ask_once
from bitdustfs.errors import PeerRefused
from bitdustfs.model import NodeId
from tests.mount.practice import Practice
from tests.mount.support import code_of

pytestmark = pytest.mark.slow
LETTER = bytes(i * i % 251 for i in range(300_000))
_ANSWER_S = 60


def identity(home: Path) -> Identity:
    return identity_of(read_keys(Home(home)))


def answer(of: Identity, place: str, request: wire.Request, body: bytes = b"") -> wire.Answer:
    """Ask a supplier with the rights of a node. Raises PeerRefused."""

    async def ask() -> wire.Answer:
        node, _, address = place.partition("@")
        with trio.fail_after(_ANSWER_S):
            dialer = TcpDialer(of.key)
            kind = wire.ANSWERS[type(request)]
            return (await ask_once(dialer, of, NodeId(bytes.fromhex(node)), address, request, kind, body))[0]

    return trio.run(ask)


def every_request(name: bytes, epoch: int) -> list[tuple[wire.Request, bytes]]:
    """One of each kind, of a node that knows this fragment."""
    return [
        (wire.Ping(), b""),
        (wire.Put(b"n" * 32, b"r" * 32, 5, epoch, wire.MAX_NUMBER), b"bytes"),
        (wire.Get(name, 0, 1, False), b""),
        (wire.Delete((name,), epoch, wire.MAX_NUMBER), b""),
        (wire.List(b"", 1), b""),
        (wire.Stat(), b""),
        (wire.Propose(b"contract"), b""),
        (wire.Bulk(b"k" * 32), b""),
        (wire.PutHead(4, epoch), b"head"),
        (wire.GetHead(), b""),
        (wire.Compare(()), b""),
        (wire.Here(b"r" * 100, "192.0.2.7:1"), b""),
        (wire.Where(b"w" * 32), b""),
        (wire.Reach(), b""),
        (wire.Receipt(b"receipt"), b""),
        (wire.Watch(epoch, wire.MAX_NUMBER), b""),
        (wire.Hold(b"s" * 16, 600, True, False, False), b""),
    ]


OF_PARTNERS = {wire.Here, wire.Where, wire.Reach}  # a revoked node is no partner
OF_ANYBODY = {wire.Knock, wire.Join}  # who has an invitation; see tests/engine/test_joining


@contextmanager
def mounted(practice: Practice, home: Path, place: Path) -> Iterator[Path]:
    place.mkdir()
    practice.run("mount", "--", str(place), home=home)
    try:
        yield place
    finally:
        practice.run("umount", str(place), home=home)


def test_revoked_machine_with_its_whole_home_can_do_nothing_at_suppliers_that_were_told(tmp_path: Path) -> None:
    with Practice(tmp_path, suppliers=2, code="1/2") as swarm:
        (swarm.path / "letter").write_bytes(LETTER)
        swarm.sync()
        swarm.forget()
        refused_while_mounted = swarm.run("revoke", "00" * 32, "--words-file", str(swarm.words), ok=(12,))
        assert f"run `bitdustfs umount {swarm.path}` first" in refused_while_mounted.stderr
        swarm.umount()
        stolen = tmp_path / "stolen"
        swarm.run("recover", *swarm.places()[:1], "--words-file", str(swarm.words), home=stolen)
        thief = identity(stolen)
        listed = answer(thief, swarm.places()[0], wire.List(b"", 1))
        assert isinstance(listed, wire.Listed)
        swarm.kill_supplier(2)

        said = swarm.run("revoke", thief.node.hex()[:8], "--words-file", str(swarm.words), ok=(14,)).stdout

        assert "Told: supplier1.\nNot told yet: supplier2 (" in said
        assert identity(swarm.home).certificate.epoch == thief.certificate.epoch + 1
        requests = every_request(listed.entries[0][0], thief.certificate.epoch)
        assert {type(request) for request, _ in requests} == set(wire.ANSWERS) - OF_ANYBODY
        for request, body in requests:
            with pytest.raises(PeerRefused) as refused:
                answer(thief, swarm.places()[0], request, body)
            expected = wire.Refused.NO_CONTRACT if type(request) in OF_PARTNERS else wire.Refused.STALE
            assert refused.value.code is expected, request
        with mounted(swarm, stolen, tmp_path / "thief") as place:
            assert code_of((place / "letter").read_bytes) == errno.ETIMEDOUT
            (place / "letter").unlink()
            swarm.run("sync", "--timeout", "1", ok=(34,), home=stolen)

        swarm.run("demo", "revive", "2")
        swarm.mount()
        assert (swarm.path / "letter").read_bytes() == LETTER
        (swarm.path / "more").write_bytes(LETTER)
        swarm.sync()
        with pytest.raises(PeerRefused) as refused:  # who was away has learnt it from the mount
            answer(thief, swarm.places()[1], wire.Stat())
        assert refused.value.detail == thief.certificate.epoch + 1
