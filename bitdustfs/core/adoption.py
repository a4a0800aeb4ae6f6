"""Adoption, decided: what a machine does that others wrote past, and what of it only its own disk has.

The suppliers then hold a newer head than ours, written in our own epoch: by another machine of the owner, by a copy
of this home, or by this very machine, in a life that its disk, which was set back, does not know of. That head is
taken, and what was never sent from here is put aside.

**What was sent.** Changes have numbers, and a head says up to which it brings everything back. If the newer head goes
back to ours, it contains what ours did. Suppliers keep the links of a few hundred heads only; beyond them we go by
the last head of ours that was known to be safe: every later head that counts goes back to that one. What is not known
to be sent is put aside, rather once too often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec
from msgspec import Struct

from bitdustfs.core import head as heads
from bitdustfs.core.head import Head
from bitdustfs.core.names import shown
from bitdustfs.core.past import split
from bitdustfs.core.recovery import Found
from bitdustfs.core.replica import quorum
from bitdustfs.errors import BadFormat
from bitdustfs.model import Ino

_PLAN_VERSION: Final = 4  # 1: without snapshots; 2: without who wrote the newer state; 3: without what that lacks
LETTER: Final = b"What was put aside.txt"


class Verdict(Enum):
    """What to do about the newest head that suppliers show."""

    CURRENT = "current"  # nothing: it is ours, or older
    ADOPT = "adopt"
    UNSURE = "unsure"  # too few suppliers answer to know that it is the newest
    REVOKED = "revoked"  # the owner has certified his machines anew, without this one


class Descent(Enum):
    """How a head relates to an older one."""

    PROVEN = "proven"  # it goes back to it
    UNKNOWN = "unknown"  # the links that are left do not reach so far back
    FORKED = "forked"


def judge(own: Head | None, found: Found, *, epoch: int, is_known: bool = False) -> Verdict:
    """Say what a machine does that finds this at its suppliers when it starts.

    Args:
        own: the newest head that it knows; None: there was none yet.
        epoch: of its certificate.
        is_known: its own newest head goes back to what was found, or is to go over it.
    """
    theirs = found.head
    if theirs.epoch > epoch:
        return Verdict.REVOKED
    if theirs.epoch < epoch:
        return Verdict.CURRENT  # of before the owner certified us
    if is_known or (own is not None and theirs.digest == own.digest):
        return Verdict.CURRENT
    if descent(own, found) is Descent.FORKED and found.confirming < quorum(len(found.content.suppliers)):
        return Verdict.CURRENT  # it does not count, and ours may: two machines write, and a person must choose
    return Verdict.ADOPT if found.is_certain else Verdict.UNSURE


def descent(own: Head | None, found: Found) -> Descent:
    """Say whether the head that was found goes back to ours. Everything goes back to none."""
    theirs = found.head
    if own is None or theirs.digest == own.digest:
        return Descent.PROVEN
    if theirs.version <= own.version:
        return Descent.FORKED
    if own.digest in (theirs.previous, theirs.also):
        return Descent.PROVEN
    chains = (each.links for each in found.answers.values() if each.head is not None and each.head == theirs)
    links = [link for chain in chains for link in heads.split_links(chain)]
    if own.link in links:
        return Descent.PROVEN
    if theirs.version == own.version + 1 or any(heads.version_of(link) == own.version for link in links):
        return Descent.FORKED
    return Descent.UNKNOWN


def contained(own_change: int, safe_change: int | None, how: Descent) -> int | None:
    """Up to which of our changes a newer head that counts contains all.

    Args:
        own_change: what our newest head says of itself; 0: there is none.
        safe_change: what the last head of ours said that was known to be safe; None: none was.
    Returns:
        None: that cannot be told.
    """
    return own_change if how is Descent.PROVEN else safe_change


# --- the plan ---------------------------------------------------------------------------------------------


class Entry(Struct, array_like=True, frozen=True):
    """Something to put aside."""

    ino: int  # in the old state; of what a snapshot has a number of the past (core/past)
    paths: tuple[bytes, ...]  # all its names there, from the root of the volume
    was_sent: bool = False  # so the newer state may have let it go: nothing is kept if it cannot be read


class Plan(Struct, array_like=True, frozen=True):
    """What to put aside of an old state, and what to say of the rest."""

    version: int
    folder: str  # how the folder is called if there is none of that name
    notes: tuple[str, ...]  # lines on what was done here and is not done again
    entries: tuple[Entry, ...]
    # where in the folder that goes which snapshots have: generation, and name of a directory
    snapshots: tuple[tuple[int, str], ...] = ()
    by: str = ""  # who wrote the newer state, in words
    lacks: tuple[str, ...] = ()  # lines on what the newer state itself has not, or not as it was


class Progress(Struct, array_like=True, frozen=True):
    """How far a plan was followed. Stored in the same transaction as what was put aside."""

    folder: int = 0  # its inode; 0: there is none yet
    following: int = 0  # entries before this one were tried
    waiting: tuple[int, ...] = ()  # entries before that are to be tried again
    failed: tuple[tuple[int, str], ...] = ()  # entries that never can be read, and why
    finished: bool = False

    def is_left(self, index: int) -> bool:
        """Say whether an entry is still to be put aside."""
        return not self.finished and (index >= self.following or index in self.waiting)

    def left(self, plan: Plan) -> int:
        """How many entries are."""
        return 0 if self.finished else len(plan.entries) - self.following + len(self.waiting)

    def tried(self, index: int, *, waits: bool = False, why: str = "") -> Progress:
        """The same after an entry was tried.

        Args:
            waits: it is to be tried again. why: it is not, although it could not be put aside.
        """
        waiting = (set(self.waiting) - {index}) | ({index} if waits else set())
        return msgspec.structs.replace(
            self,
            following=max(self.following, index + 1),
            waiting=tuple(sorted(waiting)),
            failed=(*self.failed, (index, why)) if why else self.failed,
        )

    def into(self, folder: int) -> Progress:
        """The same with this folder."""
        return msgspec.structs.replace(self, folder=folder)

    def ended(self) -> Progress:
        """The same with nothing left to do."""
        return msgspec.structs.replace(self, finished=True)


_plans = msgspec.msgpack.Decoder(Plan)
_progresses = msgspec.msgpack.Decoder(Progress)
_encoder = msgspec.msgpack.Encoder()


def make_plan(
    folder: str,
    notes: Sequence[str],
    entries: Sequence[Entry],
    snapshots: Mapping[int, str] | None = None,
    *,
    by: str = "",
    lacks: Sequence[str] = (),
) -> Plan:
    """A plan of this version of bitdustfs.

    Args:
        by: who wrote the newer state, in words.
        lacks: lines on what the newer state itself has not, or not as it was.
        snapshots: for the generation of each entry of the past the directory in the folder where it goes.
    """
    folders = tuple((snapshots or {}).items())
    return Plan(_PLAN_VERSION, folder, tuple(notes), tuple(entries), folders, by, tuple(lacks))


def encode(value: Plan | Progress) -> bytes:
    """Write it."""
    return _encoder.encode(value)


def decode_plan(content: bytes) -> Plan:
    """Read a plan. Raises BadFormat."""
    try:
        plan = _plans.decode(content)
    except (msgspec.MsgspecError, RecursionError) as bad:
        raise BadFormat(what=f"the list of what is to be put aside cannot be read: {bad}") from bad
    if not 1 <= plan.version <= _PLAN_VERSION:
        raise BadFormat(what=f"a list of what is to be put aside has version {plan.version}")
    if {split(Ino(entry.ino))[0] for entry in plan.entries} - {0, *dict(plan.snapshots)}:
        raise BadFormat(what="a list of what is to be put aside names a snapshot that it does not have")
    return plan


def decode_progress(content: bytes | None) -> Progress:
    """Read what was noted; nothing was if there is none. It is our own. Raises BadFormat: it is damaged."""
    try:
        return _progresses.decode(content) if content else Progress()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadFormat(what=f"what the catalog notes of an older state's progress is damaged: {bad}") from bad


def numbered(name: bytes, number: int) -> bytes:
    """The `number`th name to try where one is taken, from 1: as it is, then `name (2)`, as file managers count."""
    if number == 1:
        return name
    tail = b" (%d)" % number
    return name[: 255 - len(tail)] + tail


def letter(plan: Plan, put: Sequence[bytes], failed: Sequence[tuple[bytes, str]], kept_in: str) -> bytes:
    """What the text file in the folder says.

    Args:
        put: paths below the folder.
        failed: paths in the old state, and why each cannot be read.
        kept_in: where the old state is, if it stays there because anything failed; "": it does not.
    """
    lines = [
        f"The suppliers held another state of this volume{f', written by {plan.by}' if plan.by else ''}.",
        "It was taken. What was changed on this machine and is not in that state lies in this folder.",
    ]
    if plan.snapshots:
        lines += [
            "What only snapshots made here still had lies in folders of their names, each version of a file once."
        ]
    if put:
        lines += ["", "In this folder:", *(f"  {shown(path)}" for path in put)]
    if failed:
        gone = "it had been sent, and suppliers have let it go since, for that state does not have it either"
        kept = f"what is left of it is kept in {kept_in}" if kept_in else gone
        lines += ["", f"Not in this folder, because it cannot be read; {kept}:"]
        lines += [f"  {shown(path)}: {why}" for path, why in failed]
    if plan.notes:
        lines += ["", "Done on this machine, and not done again in that state:"]
        lines += [f"  {note}" for note in plan.notes]
    if plan.lacks:
        lines += ["", "What that state itself lacks, because whoever wrote it had not sent it:"]
        lines += [f"  {each}" for each in plan.lacks]
    return ("\n".join(lines) + "\n").encode()
