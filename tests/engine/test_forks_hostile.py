"""Catalogs that nobody but a thief writes, brought in: each is refused, and says why, or does no harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import apsw
import pytest
from pyfuse3 import EntryAttributes
from trio.testing import MockClock

from bitdustfs.core.names import check_name
from bitdustfs.core.past import FORKS_INO, SNAPSHOTS_INO
from bitdustfs.edges.catalog_beside import Beside, DiskWorkshop
from bitdustfs.edges.catalog_format import connect
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.errors import BitdustError
from bitdustfs.model import CHUNK_BYTES, Cookie, Ino
from bitdustfs.testing.world import World, read_whole
from tests.engine.machines import Machine, until
from tests.engine.test_forks import broken, forked, versions


@pytest.fixture
def autojump_clock() -> Iterator[MockClock]:
    yield MockClock(autojump_threshold=0)


class ForgedBeside(Beside):
    forges: str

    def catalog(self, change: int) -> SqliteCatalog:
        made = super().catalog(change)
        most = made.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 1 << 30)
        made.connection.execute(self.forges)
        made.connection.limit(apsw.SQLITE_LIMIT_LENGTH, most)
        return made


class ForgedWorkshop(DiskWorkshop):
    """Catalogs of others are not what they wrote: what suppliers have comes with more."""

    forges: str

    def beside(self) -> Beside:
        made = ForgedBeside(self._catalog, self._beside)
        made.forges = self.forges
        return made


class Meeting(Machine):
    """A machine that meets a forged catalog."""

    forges = ""

    def workshop(self) -> DiskWorkshop:
        made = ForgedWorkshop(self.path, self.path.with_name(self.path.name + ".beside"))
        made.forges = self.forges
        return made


_ONE = "(SELECT ino FROM r_name WHERE name = CAST('the laptop''s' AS BLOB))"
_NEW = "(SELECT max(chunk) FROM r_chunk)"
_OF_NEW = "(SELECT block FROM r_chunk ORDER BY chunk DESC LIMIT 1)"


def named(name: str) -> str:
    return f"UPDATE r_name SET name = {name} WHERE ino = {_ONE}"


def inode(change: str) -> str:
    return f"UPDATE r_inode SET {change} WHERE ino = {_ONE}"


def chunk(change: str) -> str:
    return f"UPDATE r_chunk SET {change} WHERE chunk = {_NEW}"


def block(change: str) -> str:
    return f"UPDATE r_block SET {change} WHERE block = {_OF_NEW}"


def fragments(change: str) -> str:
    return f"UPDATE r_fragment SET {change} WHERE block = {_OF_NEW} AND idx = 4"


def mapped(change: str) -> str:
    return f"UPDATE r_map SET {change} WHERE ino = {_ONE}"


def xattr(name: str, value: str) -> str:
    return f"INSERT INTO r_xattr VALUES ({_ONE}, {name}, 1, 9223372036854775807, {value})"


def snapshot(name: str, made_ns: str = "5") -> str:
    return (
        f"INSERT INTO r_snapshot VALUES (1, {name}, {made_ns}, 1, 0);"
        "UPDATE r_counter SET value = 2 WHERE name = 'generation'"
    )


def snapshots(count: int, name: str = "'s' || i") -> str:
    return (
        f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        f"INSERT INTO r_snapshot SELECT i, {name}, 5 + i, 1, 0 FROM n;"
        f"UPDATE r_counter SET value = {count + 1} WHERE name = 'generation'"
    )


def supplier(change: str) -> str:
    return (
        "INSERT INTO r_supplier SELECT 77, randomblob(32), owner, label, address, contract, capacity_bytes, "
        "capacity_fragments, standing FROM r_supplier LIMIT 1;"
        f"UPDATE r_supplier SET {change} WHERE supplier = 77;"
        f"INSERT INTO r_fragment VALUES ({_OF_NEW}, 4, 77, 1)"
    )


def entry(parent: int, name: str, ino: int) -> str:
    return (
        f"INSERT INTO r_name SELECT {parent}, 1000 + (SELECT max(cookie) FROM r_name), 1, 9223372036854775807, "
        f"CAST('{name}' AS BLOB), {ino}, 0"
    )


XATTRS = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
    f"INSERT INTO r_xattr SELECT {_ONE}, CAST('user.' || i AS BLOB), 1, 9223372036854775807, x'' FROM n"
)
DIRECTORY = (
    "INSERT INTO r_inode SELECT 5000, born, died, mode, uid, gid, 2, 0, atime_ns, mtime_ns, ctime_ns, k, n, version,"
    " rdev, target FROM r_inode WHERE ino = 1 LIMIT 1;" + f"{entry(1, 'd', 5000)};"
)
REFUSED: Final = {
    "as a name, and that is none": {
        "slash": named("CAST('a/b' AS BLOB)"),
        "dotdot": named("CAST('..' AS BLOB)"),
        "dot": named("CAST('.' AS BLOB)"),
        "nul": named("x'610062'"),
        "empty": named("x''"),
        "long": named("CAST(printf('%.300c', 'a') AS BLOB)"),
        "snapshot with a slash": snapshot("'a/b'"),
        "snapshot dotdot": snapshot("'..'"),
        "snapshot of nothing": snapshot("''"),
        "snapshot with NUL": snapshot("'a' || char(0) || 'b'"),
        "snapshot long": snapshot("printf('%.300c', 'a')"),
    },
    "a value that is larger": {
        "huge name": named("CAST(printf('%.9000000c', 'a') AS BLOB)"),
        "huge xattr": xattr("CAST('user.a' AS BLOB)", "zeroblob(90000000)"),
    },
    "at two places": {
        "loop": entry(1, "l", 1),
        "loop below": DIRECTORY + entry(5000, "e", 5000),
        "linked directory": DIRECTORY + entry(1, "e", 5000),
    },
    "no root directory": {
        "no root": "DELETE FROM r_inode WHERE ino = 1",
        "root is a file": "UPDATE r_inode SET mode = 33188 WHERE ino = 1",
    },
    "with the mode": {
        "no type": inode("mode = 420"),
    },
    "none that can be gone through": {
        "large mode": inode("mode = 33188 + (1 << 40)"),
        "negative mode": inode("mode = -1"),
        "code": inode("k = 9, n = 3"),
        "half a code": inode("k = 3, n = 0"),
        "k": block("k = 0"),
        "n": block("n = 1"),
        "large n": block("n = 4000"),
        "suite": block("suite = 9"),
        "state": fragments("state = 9"),
        "snapshot no text": snapshot("CAST(x'ff9f' AS TEXT)"),
        "snapshot kind": "INSERT INTO r_snapshot VALUES (1, 'a', 5, 9, 0)",
        "supplier standing": supplier("standing = 9"),
    },
    "or with a version or device": {
        "device": inode("mode = 8630, rdev = 1 << 50"),
        "large size": inode("size = 1 << 62"),
        "negative size": inode("size = -5"),
        "version": inode("version = -4"),
    },
    "an owner, a group": {
        "negative owner": inode("uid = -1"),
        "large group": inode("gid = 1 << 40"),
        "links": inode("nlink = 1 << 40"),
        "negative links": inode("nlink = -1"),
    },
    "a symlink whose target is none": {
        "symlink to nothing": inode("mode = 41471, size = 0, target = x''"),
        "symlink with NUL": inode("mode = 41471, size = 3, target = x'610062'"),
        "large symlink": inode("mode = 41471, size = 9000, target = CAST(printf('%.9000c', 'a') AS BLOB)"),
    },
    "a target of another length": {
        "symlink of another size": inode("mode = 41471, size = 99, target = x'6161'"),
    },
    "an extended attribute": {
        "xattr of security": xattr("CAST('security.capability' AS BLOB)", "x'01'"),
        "xattr of ours": xattr("CAST('user.bitdustfs.state' AS BLOB)", "CAST('safe' AS BLOB)"),
        "xattr name": xattr("CAST('user.' || printf('%.300c', 'a') AS BLOB)", "x'01'"),
        "xattr with NUL": xattr("x'757365722e610061'", "x'01'"),
        "large xattr": xattr("CAST('user.a' AS BLOB)", "zeroblob(70000)"),
    },
    "extended attributes of": {
        "many xattrs": XATTRS,
    },
    "a map that says twice": {
        "map of a run": mapped("count = 500"),
        "map of all": mapped("chunk = 0, count = 9223372036854775807"),
        "negative chunk": mapped("chunk = -1"),
    },
    "a map that names a chunk": {
        "no chunk": mapped("chunk = 4711"),
    },
    "a chunk of": {
        "long chunk": chunk("length = 1 << 40"),
        "no length": chunk("length = 0"),
        "negative length": chunk("length = -1"),
        "before the block": chunk("at = -100"),
        "behind the block": chunk("at = 1 << 40"),
        "slot": chunk("slot = -1"),
        "large slot": chunk("slot = 1 << 40"),
        "fingerprint": chunk("fingerprint = x'00'"),
    },
    "a chunk in a block which": {
        "no block": chunk("block = 4711"),
        "local block": chunk("block = -1"),
    },
    "bytes in scope": {
        "scope": block("scope = -1"),
        "block length": block("length = 1 << 60"),
        "negative block": block("length = -1"),
    },
    "whose id or roots are none": {
        "block id": block("block_id = x'00'"),
        "roots": block("roots = x'00'"),
        "no roots": block("roots = x''"),
        "half the roots": block("roots = substr(roots, 1, 64)"),
    },
    "of a block that has 5": {
        "fragment before": fragments("idx = -1"),
        "fragment behind": fragments("idx = 200"),
        "large fragment": fragments("idx = 1 << 40"),
    },
    "a snapshot called": {
        "snapshot line": snapshot("'a' || char(10) || 'b'"),
        "snapshot escape": snapshot("char(27) || '[31m'"),
        "snapshot now": snapshot("'now'"),
    },
    "delete some on the machine that wrote it": {
        "too many snapshots": snapshots(5000),
    },
    "two snapshots of one name": {
        "snapshots of one name": snapshots(2, "'s'"),
    },
    "has no number of its own": {
        "snapshot generation": "INSERT INTO r_snapshot VALUES (1 << 60, 'a', 5, 1, 0)",
    },
    "cannot be printed": {
        "supplier line": supplier("address = 'a' || char(10) || '192.0.2.1:4878'"),
    },
    "an id or a capacity": {
        "supplier node": supplier("node = x'00'"),
        "supplier room": supplier("capacity_bytes = -1"),
    },
}
HARMLESS: Final = {
    "line end": named("x'610a62'"),
    "no text": named("x'ff9f8f'"),
    "twice": "INSERT INTO r_name SELECT parent, cookie + 1000, born, died, name, ino, 0 FROM r_name",
    "shadow": named("CAST('.snapshots' AS BLOB)"),
    "name of nothing": "UPDATE r_name SET ino = 4711",
    "name of the past": "UPDATE r_name SET ino = ino + (1 << 40)",
    "times": inode("atime_ns = -9223372036854775808, mtime_ns = 9223372036854775807, ctime_ns = -1"),
    "map before": mapped("idx = -1"),
    "map of nothing": mapped("count = 0"),
    "negative map": mapped("count = -1"),
    "overlap": f"INSERT INTO r_map SELECT ino, idx - 5, born, died, 9, 0 FROM r_map WHERE ino = {_ONE}",
    "another scope": block("scope = 3"),
    "no supplier": fragments("supplier = 4711"),
    "snapshot time": snapshot("'old'", "-9223372036854775808"),
    "snapshot of ours": snapshot("'mine'"),
    "many snapshots": snapshots(1100),
    "supplier": supplier("label = label"),
    "supplier label": supplier("label = 'a' || char(10) || char(27) || '[31m'"),
    "supplier joined": supplier("label = 'a' || char(8205) || 'b' || char(160) || printf('%.*c', 300, 'x')"),
    "supplier unnamed": supplier("label = ''"),
    "supplier address": supplier("address = 'nowhere'"),
    "supplier contract": supplier("contract = x'00'"),
}


def walk(node: Node, top: Ino) -> Iterator[tuple[bytes, EntryAttributes]]:
    """Everything below a directory of the past as the kernel gets it."""
    pending, seen = [top], set[Ino]()
    while pending:
        at = pending.pop()
        assert at not in seen
        seen.add(at)
        for name, found in node.past.listing(at, Cookie(0), 1000):
            entry = EntryAttributes()
            entry.st_ino, entry.st_mode, entry.st_nlink = found.ino, found.mode, found.nlink
            entry.st_uid, entry.st_gid, entry.st_rdev, entry.st_size = found.uid, found.gid, found.rdev, found.size
            entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = found.atime_ns, found.mtime_ns, found.ctime_ns
            yield name.name, entry
            for xattr_name, value in node.past.xattrs(found.ino):
                assert xattr_name.startswith(b"user.") and b"\0" not in xattr_name and len(value) <= 65536
            if found.is_dir:
                pending.append(found.ino)


async def go_on(world: World, machine: Machine) -> None:
    """Whatever came, this machine writes, shows all of it, and lets go in the end, when a person has chosen."""
    node = machine.node
    for top in (FORKS_INO, SNAPSHOTS_INO):
        for name, _entry in walk(node, top):
            check_name(name)
    assert all(each.name.isprintable() for each in machine.catalog.snapshots())
    labels = [row.label for row in machine.catalog.suppliers()]
    assert all(label.isprintable() for label in labels)
    assert len(set(labels)) == len(labels)
    assert not broken(machine.catalog)
    await machine.write("later", b"later")
    assert await machine.sync() == "safe"
    await node.status()
    for unread in node.forks.unreadable():
        await node.forks.let_be(unread)
    for each, _fork in node.forks.all():
        await node.forks.resolve(each.name)
    await until(lambda: set(versions(world)) == {node.publisher.version})
    assert await machine.sync() == "safe"
    await until(node.releases.may_release)
    assert await read_whole(node, "both") == b"of the desktop"
    assert await read_whole(node, "later") == b"later"


@asynccontextmanager
async def meeting(directory: Path, forges: str) -> AsyncIterator[tuple[World, Machine]]:
    """A machine that looked at a forged catalog."""
    async with forked(directory) as (world, _laptop, before):
        desktop = Meeting(world, before.path, before.identity)
        desktop.forges = forges
        with closing(connect(str(before.path), None)) as catalog:  # a world's suppliers took no numbers
            catalog.execute("UPDATE r_counter SET value = 6 WHERE name = 'supplier'")
        async with desktop.mounted() as node:
            await node.snapshots.create("mine", 60)
            await until(lambda: node.forks.all() or node.forks.unreadable())
            yield world, desktop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("says", "forges"),
    [pytest.param(says, forges, id=what) for says, some in REFUSED.items() for what, forges in some.items()],
)
async def test_forged_catalog_is_refused_and_said_why(
    autojump_clock: MockClock, tmp_path: Path, says: str, forges: str
) -> None:
    async with meeting(tmp_path, forges) as (world, desktop):
        ((_name, unread),) = desktop.node.forks.unreadable().items()
        assert says in unread.why
        await go_on(world, desktop)


@pytest.mark.slow
@pytest.mark.parametrize("forges", HARMLESS.values(), ids=HARMLESS)
async def test_forged_catalog_that_comes_does_no_harm(autojump_clock: MockClock, tmp_path: Path, forges: str) -> None:
    """What cannot be read of it ends with an error that is ours."""
    async with meeting(tmp_path, forges) as (world, desktop):
        node = desktop.node
        ((snapshot, _fork),) = node.forks.all()
        assert [found async for found in node.forks.differences(snapshot)]
        for _name, entry in walk(node, FORKS_INO):
            with suppress(BitdustError):
                await node.past.read(Ino(entry.st_ino), 0, CHUNK_BYTES)
        await go_on(world, desktop)
