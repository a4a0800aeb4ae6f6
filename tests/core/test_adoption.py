"""Which head a machine adopts that was set back, what that head contains, and what the letter says."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bitdustfs.core import adoption
from bitdustfs.core import head as heads
from bitdustfs.core.adoption import Descent, Entry, Progress, Verdict, contained, descent, judge
from bitdustfs.core.certificate import Identity, certify
from bitdustfs.core.head import Head
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.lease import Holder, called
from bitdustfs.core.past import at
from bitdustfs.core.recovery import Answer, Found, choose
from bitdustfs.core.replica import HeadContent, SupplierEntry
from bitdustfs.errors import BadFormat
from bitdustfs.model import Ino, NodeId, Role
from tests.core.test_head import HANDLE, NODE, OWNER, WRITER, chain, links

EPOCH = WRITER.certificate.epoch
NODES = [NodeId(bytes([number]) * 32) for number in range(5)]
CONTENT = HeadContent(
    version=1,
    time_s=0,
    change=0,
    manifest=(),
    deltas=(),
    suppliers=tuple(SupplierEntry(number + 1, node, node, "s", "a:1") for number, node in enumerate(NODES)),
)
LIFE = chain(6)
MERGED = heads.sign(WRITER, handle=HANDLE, version=9, previous=LIFE[5].digest, sealed=b"", also=LIFE[3].digest)
US = Holder(NodeId(b"u" * 32), b"u" * 16)
COPY, DESKTOP = Holder(US.node, b"c" * 16), Holder(NodeId(b"d" * 32), b"d" * 16)
FORK = chain(2, after=LIFE[2], sealed=b"of another life")


def found(head: Head, before: Sequence[Head] = (), *, holding: int = 5, answering: int = 5) -> Found:
    """What five suppliers say, of which so many hold this head and so many answer."""
    holders = [Answer(head, links(list(before))) for _ in range(holding)]
    others = [Answer(None) for _ in range(answering - holding)]
    silent = [Answer(None, trouble="no answer") for _ in range(5 - answering)]
    return Found(head, CONTENT, dict(zip(NODES, [*holders, *others, *silent], strict=True)))


def of_epoch(epoch: int) -> Head:
    writer = Identity(NODE, certify(OWNER, public_bytes(NODE), Role.WRITER, epoch=epoch))
    return heads.sign(writer, handle=HANDLE, version=9, previous=LIFE[0].digest, sealed=b"")


@pytest.mark.parametrize(
    ("own", "seen", "verdict"),
    [
        (LIFE[2], found(LIFE[5], LIFE[:5]), Verdict.ADOPT),
        (None, found(LIFE[5], LIFE[:5]), Verdict.ADOPT),
        (LIFE[2], found(LIFE[5]), Verdict.ADOPT),  # the links do not reach back so far
        (LIFE[2], found(LIFE[5], LIFE[:5], holding=1), Verdict.ADOPT),  # whoever holds it takes no other
        (LIFE[2], found(LIFE[5], LIFE[:5], holding=1, answering=2), Verdict.UNSURE),
        (LIFE[5], found(LIFE[5], LIFE[:5]), Verdict.CURRENT),
        (LIFE[5], found(LIFE[4], LIFE[:4]), Verdict.CURRENT),
        (LIFE[3], found(FORK[0], LIFE[:3], holding=2), Verdict.CURRENT),
        (LIFE[3], found(FORK[1], [*LIFE[:3], FORK[0]], holding=2), Verdict.CURRENT),
        (LIFE[3], found(FORK[1], [*LIFE[:3], FORK[0]], holding=3), Verdict.ADOPT),
        (LIFE[5], found(FORK[1], [*LIFE[:3], FORK[0]], holding=3), Verdict.ADOPT),  # whatever versions say
        (LIFE[5], found(FORK[1], [*LIFE[:3], FORK[0]], holding=2), Verdict.CURRENT),
        (LIFE[2], found(of_epoch(EPOCH + 1)), Verdict.REVOKED),
        (LIFE[2], found(of_epoch(EPOCH - 1)), Verdict.CURRENT),
    ],
)
def test_newest_head_of_the_same_epoch_is_adopted_and_no_fork_that_does_not_count(
    own: Head | None, seen: Found, verdict: Verdict
) -> None:
    is_known = own in LIFE and seen.head in LIFE[: LIFE.index(own)]
    assert judge(own, seen, epoch=EPOCH, is_known=is_known) is verdict


@pytest.mark.parametrize(
    ("own", "seen", "how"),
    [
        (LIFE[2], found(LIFE[5], LIFE[2:5]), Descent.PROVEN),
        (LIFE[2], found(LIFE[3]), Descent.PROVEN),
        (LIFE[3], found(LIFE[3]), Descent.PROVEN),
        (None, found(LIFE[3]), Descent.PROVEN),
        (LIFE[2], found(LIFE[5], LIFE[3:5]), Descent.UNKNOWN),
        (LIFE[3], found(FORK[1], [*LIFE[:3], FORK[0]]), Descent.FORKED),
        (LIFE[3], found(FORK[0], LIFE[:3]), Descent.FORKED),
        (FORK[0], found(LIFE[4]), Descent.FORKED),
        (LIFE[3], found(MERGED), Descent.PROVEN),  # it goes over that line too
        (LIFE[5], found(MERGED), Descent.PROVEN),
        (LIFE[4], found(MERGED), Descent.UNKNOWN),
    ],
)
def test_links_tell_whether_a_head_goes_back_to_ours(own: Head | None, seen: Found, how: Descent) -> None:
    assert descent(own, seen) is how


def test_what_was_sent_is_what_our_head_says_if_the_newer_one_goes_back_to_it_and_else_what_was_safe() -> None:
    assert contained(7, 5, Descent.PROVEN) == 7
    assert contained(7, 5, Descent.UNKNOWN) == contained(7, 5, Descent.FORKED) == 5
    assert contained(7, None, Descent.UNKNOWN) is None


def test_plan_is_read_as_it_was_written_and_nothing_else_is_one() -> None:
    plan = adoption.make_plan("folder", ["note"], [Entry(3, (b"a/\xff", b"b"))], by="a friend", lacks=["it"])
    assert adoption.decode_plan(adoption.encode(plan)) == plan
    of_past = adoption.make_plan("folder", [], [Entry(at(2, Ino(3)), (b"a",), True)], {2: "Snapshot s"})
    assert adoption.decode_plan(adoption.encode(of_past)) == of_past
    third = adoption.encode(msgspec.structs.replace(plan, version=3, lacks=()))[:-1]  # of before it had that
    assert adoption.decode_plan(b"\x96" + third[1:]).by == "a friend"
    first = adoption.encode(msgspec.structs.replace(plan, version=1, by="", lacks=()))[:-3]  # … and snapshots
    assert adoption.decode_plan(b"\x94" + first[1:]).entries == plan.entries
    homeless = adoption.encode(msgspec.structs.replace(of_past, snapshots=()))
    for bad in (homeless, b"", b"\x80", adoption.encode(plan)[:-1], adoption.encode(plan) + b"x"):
        with pytest.raises(BadFormat):
            adoption.decode_plan(bad)


def test_progress_counts_what_is_left() -> None:
    plan = adoption.make_plan("folder", [], [Entry(number, (b"%d" % number,)) for number in range(4)])
    progress = Progress().tried(0).tried(1, waits=True).tried(2, why="damaged").into(9)
    assert [progress.is_left(index) for index in range(4)] == [False, True, False, True]
    assert progress.left(plan) == 2
    progress = progress.tried(3).tried(1)
    assert (progress.left(plan), progress.folder, progress.failed) == (0, 9, ((2, "damaged"),))
    assert adoption.decode_progress(adoption.encode(progress)) == progress
    assert adoption.decode_progress(None) == Progress()


def test_taken_name_gets_a_number_and_stays_short_enough() -> None:
    assert adoption.numbered(b"a", 1) == b"a"
    assert adoption.numbered(b"a", 2) == b"a (2)"
    assert adoption.numbered(b"x" * 255, 12) == b"x" * 250 + b" (12)"


def test_letter_says_what_lies_there_what_does_not_and_why() -> None:
    plan = adoption.make_plan("folder", ["removed: x"], [])
    said = adoption.letter(plan, [b"a/\xff"], [(b"bad", "damaged")], "/home/aside/1").decode().splitlines()
    assert "  a/\\xff" in said and "  bad: damaged" in said and "  removed: x" in said
    assert any("/home/aside/1" in line for line in said)
    assert not any("folders of their names" in line for line in said)
    plan = adoption.make_plan("folder", [], [], {2: "Snapshot s"})
    said = adoption.letter(plan, [], [(b"bad", "gone")], "").decode().splitlines()
    assert "  bad: gone" in said and any("have let it go since" in line for line in said)
    assert any("folders of their names" in line for line in said)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (DESKTOP, f"another machine of yours (node {DESKTOP.node.hex()[:8]})."),
        (COPY, "a copy of this home, or this home in another place."),
        (US, "this machine before its disk was set back, or by a copy of all of it."),
    ],
)
def test_letter_says_who_wrote_the_newer_state_and_that_a_disk_was_set_back_only_then(
    seen: Holder, words: str
) -> None:
    by = called(seen, US)
    said = adoption.letter(adoption.make_plan("folder", [], [], by=by), [b"a"], [], "").decode()
    assert said.startswith(f"The suppliers held another state of this volume, written by {words}\n")
    assert ("set back" in said) == (seen == US)


def test_letter_has_one_line_for_each_name_and_nothing_in_it_that_moves_a_cursor() -> None:
    odd = b"two\nlines \x1b[31mred back\\slash \xff \xc3\xbc"
    plan = adoption.make_plan("folder", [], [])
    said = adoption.letter(plan, [odd], [(odd, "damaged")], "/home/aside/1").decode().split("\n")
    shown = r"two\nlines \x1b[31mred back\\slash \xff ü"
    assert f"  {shown}" in said
    assert f"  {shown}: damaged" in said


@pytest.mark.parametrize(("at_fork", "taken"), [(3, FORK[1]), (2, LIFE[5])])
def test_line_that_counts_is_taken_whatever_versions_say(at_fork: int, taken: Head) -> None:
    """One supplier holds a head of more changes, which no quorum took: what was safe lies on the other line."""
    stray = Answer(LIFE[5], links(LIFE[:5]))
    fork = Answer(FORK[1], links([*LIFE[:3], FORK[0]]))
    before = Answer(LIFE[2], links(LIFE[:2]))
    said = [stray, *[fork] * at_fork, *[before] * (4 - at_fork)]
    seen = [LIFE[5], FORK[1], LIFE[2]]
    found = choose(seen, dict(zip(NODES, said, strict=True)), {head.digest: CONTENT for head in seen})
    assert found is taken
