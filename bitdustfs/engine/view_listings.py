"""Open directories of a view: a listing goes on as it began, whatever head is shown meanwhile.

    opendir -> a handle -> the listing begins -> pages of it … -> it begins anew (rewinddir), or is closed
    a step changes names of the directory meanwhile -> how they were before is kept with the handle

So each listing shows the names of one head: of a file that was renamed neither both names nor none. What is kept is
what steps have changed, not what is listed, and nothing once it came to its end: programs keep directories open for
long. Of more than KEPT_NAMES a listing cannot go on, and begins anew (ESTALE).

Names are those of then; attributes are those of now, for the kernel knows them by inode: what it has of one must be
the newest, whatever name led to it.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from bitdustfs.errors import FileError
from bitdustfs.model import Cookie, Ino, Inode, Name, Touches
from bitdustfs.ports import Catalog

KEPT_NAMES: Final = 100_000  # (tune) of all open directories: in about 60 MB

Entry = tuple[Name, Inode]


class NowTree(Protocol):
    """What is needed of the tree as it is shown now."""

    def listing(self, directory: Ino, after: Cookie, limit: int) -> Sequence[Entry]: ...

    def attributes(self, number: Ino) -> Inode: ...

    def number_of(self, ino: Ino) -> Ino: ...

    def at(self, directory: Ino, cookie: Cookie) -> Entry | None: ...


@dataclass(slots=True)
class _Listing:
    directory: Ino
    is_begun: bool = False
    is_stale: bool = False
    asked: Cookie | None = None  # up to there whoever lists has all
    end: Cookie | None = None  # it came to its end there
    then: dict[Cookie, Entry | None] = field(default_factory=dict)  # with the catalog's inode; None: there was none
    order: list[Cookie] = field(default_factory=list)  # of these, rising


class Listings:
    """Open directories, by handles that the caller chooses.

    Attributes:
        most_kept: names, of all of them.
    """

    def __init__(self, catalog: Catalog, tree: NowTree) -> None:
        self._catalog = catalog
        self._tree = tree
        self._open: dict[int, _Listing] = {}
        self.most_kept = KEPT_NAMES

    def opened(self, handle: int, directory: Ino, *, is_begun: bool = False) -> None:
        """A directory was opened; `is_begun`: its listing may have begun, and goes on from what is shown now."""
        self._open[handle] = _Listing(directory, is_begun)

    def closed(self, handle: int) -> None:
        """A directory was closed."""
        self._open.pop(handle, None)

    def directory(self, handle: int) -> Ino:
        """The directory that was opened."""
        return self._open[handle].directory

    def begin(self, handle: int) -> None:
        """From here on it is listed as it is shown now."""
        self._open[handle] = _Listing(self._open[handle].directory, is_begun=True)

    def asked(self, handle: int, after: Cookie) -> None:
        """Names above `after` are asked for: all others were taken, and not only told."""
        self._open[handle].asked = after

    def is_behind(self, handle: int) -> bool:
        """Whether there are other names in the directory by now."""
        return bool(self._open[handle].then)

    def page(self, handle: int, after: Cookie, limit: int) -> Sequence[Entry]:
        """Names with cookies above `after`, in their order, about `limit` of them; none: there are no more.

        Where all before was taken that is the end of the listing.

        Raises:
            FileError: ESTALE, too much was changed since the listing began.
        """
        listing = self._open[handle]
        if listing.end is not None and after >= listing.end:
            return ()
        if listing.is_stale:
            raise FileError(errno=errno.ESTALE, what="most of this directory has changed: list it from its start")
        last: Cookie | None = after
        while last is not None:
            now, first = self._tree.listing(listing.directory, last, limit), last
            last = now[-1][0].cookie if now else None
            page = [entry for entry in now if entry[0].cookie not in listing.then]
            page += self._then(listing, first, last)
            if page:
                return sorted(page, key=lambda entry: entry[0].cookie)
        if after == listing.asked:  # else some that were told may be asked for again: the kernel has little room
            self._open[handle] = _Listing(listing.directory, end=after)
        return ()

    def before(self, touches: Touches) -> None:
        """Just before a step: keep how names are that it may change."""
        begun = [each for each in self._open.values() if each.is_begun and not each.is_stale]
        if not begun:
            return
        touched: dict[Ino, set[Cookie]] = {}
        for directory, cookie in touches.names:
            touched.setdefault(directory, set()).add(cookie)
        for name in self._names_of(touches.inodes | touches.contents.keys()):
            touched.setdefault(name.parent, set()).add(name.cookie)
        for listing in begun:
            self._keep(listing, touched.get(listing.directory, set()) - listing.then.keys())

    # -- private -----------------------------------------------------------------------------------------------

    def _names_of(self, inodes: Iterable[Ino]) -> Iterator[Name]:
        """Where files are that may be shown for the first time."""
        for ino in inodes:
            inode = self._catalog.inode(ino)
            if inode is not None and inode.is_file and inode.version == 0:
                yield from self._catalog.names_of(ino)

    def _keep(self, listing: _Listing, cookies: set[Cookie]) -> None:
        if not cookies:
            return
        if len(cookies) + sum(len(each.then) for each in self._open.values()) > self.most_kept:
            listing.then, listing.order, listing.is_stale = {}, [], True
            return
        for cookie in cookies:
            listing.then[cookie] = self._tree.at(listing.directory, cookie)
        listing.order = sorted(listing.then)

    def _then(self, listing: _Listing, after: Cookie, end: Cookie | None) -> Iterator[Entry]:
        """Names of then with cookies above `after`, up to `end`."""
        first = bisect_right(listing.order, after)
        last = len(listing.order) if end is None else bisect_right(listing.order, end)
        for cookie in listing.order[first:last]:
            entry = listing.then[cookie]
            if entry is not None:
                yield entry[0], self._of_now(entry[1])

    def _of_now(self, inode: Inode) -> Inode:
        number = self._tree.number_of(inode.ino)
        try:
            return self._tree.attributes(number)
        except FileError:  # it is gone
            return replace(inode, ino=number, nlink=0)
