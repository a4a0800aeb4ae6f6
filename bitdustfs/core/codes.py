"""Codes of stored blocks: what the files in a block wish, and what follows for the block.

A block keeps its k for life, because its fragments are cut by it; n is a wish that may change, because fragment i is
the same for every n. So where a file wishes another n, its blocks gain or lose fragments, without being sent again.
Where it wishes another k, its chunks have to be written into other blocks, and that is done on command only.

Who chose no code, for the volume or a folder, has the one for the number of suppliers (`placement.default_code`).
Then n grows as soon as suppliers are hired. It falls only when nobody is to come in place of who went: a supplier
that was lost may be back, or a candidate is hired, and until then its fragments are missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitdustfs.core.placement import default_code
from bitdustfs.model import Code


@dataclass(frozen=True, slots=True)
class Usual:
    """The code of files for which none was chosen: the volume's, or one by the number of suppliers."""

    chosen: Code | None
    hired: int  # suppliers
    expected: int  # hired ones, candidates, and lost ones that may be back

    @property
    def of_new(self) -> Code | None:
        """The code of new blocks; None: no supplier is hired."""
        if self.chosen is not None:
            return self.chosen
        return default_code(self.hired) if self.hired else None

    def of_old(self, code: Code) -> Code:
        """The code wished for a block that has this one, as far as its k goes: another k leaves n alone."""
        if self.chosen is not None:
            return self.chosen
        more = default_code(self.hired) if self.hired else code
        if more.k == code.k and more.n > code.n:
            return more
        least = default_code(self.expected) if self.expected else code
        return least if least.k == code.k and least.n < code.n else code


def strongest(codes: Iterable[Code]) -> Code | None:
    """The code among several wishes that survives most losses, and of such ones stores most; None: there is none."""
    return max(codes, key=lambda code: (code.n - code.k, code.n / code.k), default=None)


def wished_n(code: Code, wishes: Iterable[Code | None], usual: Usual) -> int:
    """How many fragments a block is to have.

    Args:
        code: what it has.
        wishes: the codes of the files in it; None: the usual one.
    Returns:
        The greatest n of those that wish its k, and at least what it has if somebody wishes another: that one waits
        for its chunks to be coded anew.
    """
    told = [usual.of_old(code) if wish is None else wish for wish in wishes]
    return max((each.n if each.k == code.k else code.n for each in told), default=code.n)


def wished_code(wishes: Iterable[Code | None], usual: Code | None) -> Code | None:
    """The code that a chunk is to have, by those of the files it is in (None: the usual one); None: nobody says."""
    return strongest(code for code in (usual if wish is None else wish for wish in wishes) if code is not None)
