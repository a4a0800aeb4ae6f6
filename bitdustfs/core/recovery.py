"""Recovery, decided: which head a machine that knows nothing takes, and whether enough suppliers answered.

A head counts once a quorum Q of its S suppliers has it. So S − Q + 1 answers must show the newest that counts: the
silent ones alone are no quorum. With fewer, what is found is a state of the volume, but perhaps not the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.core.replica import HeadContent, quorum
from bitdustfs.model import NodeId, Supplier


@dataclass(frozen=True, slots=True)
class Answer:
    """What one supplier said when it was asked for the head."""

    head: Head | None  # that it holds and that is genuine; None: nothing, or no answer
    links: bytes = b""  # of heads before it, oldest first, as far as they are genuine
    trouble: str = ""  # why there is no answer
    content: HeadContent | None = None  # what is sealed in the head
    address: str = ""  # ADDR:PORT where it was asked, and answered


@dataclass(frozen=True, slots=True)
class Found:
    """The newest state of a volume that suppliers know of."""

    head: Head
    content: HeadContent
    answers: Mapping[NodeId, Answer]
    unfetched: tuple[Head, ...] = ()  # newer ones that were tried before, and that nobody could fetch

    @property
    def older(self) -> tuple[Found, ...]:
        """The states before this one that some supplier still shows, newest first: for when it cannot be fetched."""
        shown = {each.head.digest: (each.head, each.content) for each in self.answers.values() if each.head}
        states = [Found(head, content, self.answers) for head, content in shown.values() if content is not None]
        before = (each for each in states if rank(each.head) < rank(self.head))
        return tuple(sorted(before, key=lambda each: rank(each.head), reverse=True))

    @property
    def suppliers(self) -> tuple[Supplier, ...]:
        """The suppliers that the head lists, without contracts; where they answered, if they did."""
        rows = (entry.row() for entry in self.content.suppliers)
        there = {node: each.address for node, each in self.answers.items() if each.address and not each.trouble}
        return tuple(replace(row, address=there.get(row.node, row.address)) for row in rows)

    @property
    def answered(self) -> int:
        """How many of the listed suppliers answered."""
        return sum(not self.answers[row.node].trouble for row in self.suppliers if row.node in self.answers)

    @property
    def confirming(self) -> int:
        """How many of the listed suppliers hold this very head."""
        found = (self.answers.get(row.node) for row in self.suppliers)
        return sum(
            each is not None and each.head is not None and each.head.digest == self.head.digest for each in found
        )

    @property
    def needed(self) -> int:
        """How many of the listed suppliers must answer, so that nothing newer counts: S − Q + 1."""
        listed = len(self.content.suppliers)
        return listed - quorum(listed) + 1

    @property
    def is_certain(self) -> bool:
        """Enough answered: no newer state ever counted."""
        return self.answered >= self.needed

    @property
    def silent(self) -> Mapping[str, str]:
        """Label of each listed supplier that did not answer -> why."""
        return {
            row.label: self.answers[row.node].trouble if row.node in self.answers else "was not asked"
            for row in self.suppliers
            if row.node not in self.answers or self.answers[row.node].trouble
        }


def links_behind(found: Found) -> bytes:
    """The chain of links, oldest first, that was shown with a head, without its own: the longest on its own line.

    A supplier that held a line which was gone over shows that one's links.
    """
    chains = (each.links for each in found.answers.values() if each.head is not None and each.head == found.head)
    return max(chains, key=lambda each: (heads.count_own(found.head, each), len(each)), default=b"")


def newest(heads: Iterable[Head]) -> Head | None:
    """The head to take: of the highest epoch, and in it of the highest version.

    A higher epoch is the owner's own word, given with the recovery phrase: it goes over anything that an older
    certificate wrote.
    """
    return max(heads, key=rank, default=None)


def choose(
    seen: Sequence[Head], answers: Mapping[NodeId, Answer], contents: Mapping[bytes, HeadContent]
) -> Head | None:
    """The head to take where suppliers may show several lines: the end of the one that counts, whatever versions say.

    If none is known to count, the newest head is taken.

    Args:
        seen: all heads that were shown.
        contents: what is sealed in them, by their digests.
    """
    return counting(seen, answers, contents) or newest(seen)


def counting(
    seen: Sequence[Head], answers: Mapping[NodeId, Answer], contents: Mapping[bytes, HeadContent]
) -> Head | None:
    """The end of the line that counts, of several; None: none is known to, or there is one line only.

    A line counts if a quorum of the suppliers in its list holds heads on it that are on no other line. At most one
    does.
    """
    newest_head = newest(seen)
    if newest_head is None:
        return None
    behind = _behind([head for head in seen if head.epoch == newest_head.epoch], answers)
    ends = [
        head for head in seen if head.digest in behind and not any(head.digest in each for each in behind.values())
    ]
    for head in ends if len(ends) > 1 else ():
        others = set[bytes]().union(*(behind[each.digest] | {each.digest} for each in ends if each != head))
        own = (behind[head.digest] | {head.digest}) - others
        listed = contents[head.digest].suppliers
        found = (answers.get(NodeId(entry.node)) for entry in listed)
        holding = sum(each is not None and each.head is not None and each.head.digest in own for each in found)
        if holding >= quorum(len(listed)):
            return head
    return None


def _behind(shown: Iterable[Head], answers: Mapping[NodeId, Answer]) -> dict[bytes, set[bytes]]:
    """For each head the digests of those that it goes back to, as far as links are known."""
    found: dict[bytes, set[bytes]] = {}
    for head in shown:
        digests = found.setdefault(head.digest, {head.previous, head.also})
        for answer in answers.values():
            if answer.head is not None and answer.head.digest == head.digest:
                digests |= {heads.digest_of(link) for link in heads.split_links(answer.links)}
    return found


def rank(head: Head) -> tuple[int, int, bytes]:
    """What orders heads of one volume."""
    return head.epoch, head.version, head.digest
