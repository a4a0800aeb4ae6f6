"""A catalog with something in every table, seeded damages to it, and what can be read of it all the same."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.errors import BitdustError
from bitdustfs.model import (
    CHUNK_BYTES,
    HOLE,
    ROOT_INO,
    BlockNo,
    BlockRow,
    ChunkNo,
    ChunkRow,
    Code,
    Cookie,
    Fingerprint,
    FragmentRow,
    FragmentState,
    Ino,
    Inode,
    MapRow,
    Root,
    SupplierNo,
)
from tests.edges.catalog_rows import SUPPLIER, block

CODE: Final = Code(2, 4)
DIRECTORIES = 4
FILES = 25  # in each
BLOCK_CHUNKS = 16
Path_ = tuple[bytes, ...]
_UNREADABLE = (BitdustError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError)


def build(path: Path) -> list[Path_]:
    """Make a catalog of a small volume. Returns the paths of all files."""
    dice = random.Random(5)
    paths: list[Path_] = []
    with closing(SqliteCatalog(path, create=True)) as catalog:
        for number in range(1, 5):
            catalog.put_supplier(SUPPLIER.__class__(SupplierNo(0), *_supplier(number)))
        catalog.put_inode(_inode(ROOT_INO, stat.S_IFDIR | 0o755, nlink=2 + DIRECTORIES, size=DIRECTORIES))
        chunks: list[ChunkNo] = []
        for d in range(DIRECTORIES):
            directory = catalog.new_ino()
            catalog.put_inode(_inode(directory, stat.S_IFDIR | 0o755, nlink=2, size=FILES))
            catalog.put_name(ROOT_INO, b"d%d" % d, directory)
            for f in range(FILES):
                name = b"file-%d-%s" % (f, b"x" * dice.randrange(60))
                paths.append((b"d%d" % d, name))
                _file(catalog, directory, name, f, chunks, dice)
        _blocks(catalog, chunks, dice)
        catalog.commit()
    return paths


def found_by_name(path: Path, paths: list[Path_]) -> set[object]:
    """What lookups find of the files at these paths, each down to its fragments."""

    def inos(catalog: SqliteCatalog) -> Iterator[Callable[[], Ino]]:
        for each in paths:
            yield partial(_by_name, catalog, each)

    return _contents(path, inos)


def found_by_listing(path: Path) -> set[object]:
    """What listing every directory finds of all files, whatever they are called now."""

    def inos(catalog: SqliteCatalog) -> Iterator[Callable[[], Ino]]:
        directories = [ROOT_INO]
        while directories:
            for name, inode in catalog.names(directories.pop(), Cookie(0), 10_000):
                if inode.is_dir:
                    directories.append(inode.ino)
                yield partial(_as_it_is, name.ino)

    return _contents(path, inos)


def damage(path: Path, seed: int) -> str:
    """Do one seeded damage to a closed catalog. Says which."""
    dice = random.Random(seed)
    if seed % 2:
        return _damage_rows(path, dice)
    return _damage_bytes(path, dice)


# -- private -------------------------------------------------------------------------------------------------


def _supplier(number: int) -> tuple[Any, ...]:
    row = SUPPLIER
    return (bytes([number]) * 32, row.owner, f"s{number}", row.address, row.contract, 10**9, 10**5, 0, 0)


def _inode(ino: Ino, mode: int, **more: int) -> Inode:
    numbers = {"nlink": 1, "size": 0, "version": 0} | more
    nlink, size, version = numbers["nlink"], numbers["size"], numbers["version"]
    return Inode(ino, mode, 1000, 100, nlink, size, 11, 12, 13, None, version)


def _file(
    catalog: SqliteCatalog, directory: Ino, name: bytes, kind: int, chunks: list[ChunkNo], dice: random.Random
) -> None:
    ino = catalog.new_ino()
    rows = []
    size = 0
    if kind % 10 == 9:  # only here
        catalog.put_inline(ino, name * 3, b"12345678")
    else:
        for index in range(1 + kind % 3):
            hole = index == 1 and kind % 2
            rows.append(MapRow(index, 1, HOLE if hole else catalog.new_chunk_no()))
            if not hole:
                chunks.append(rows[-1].chunk)
        size = (len(rows) - 1) * CHUNK_BYTES + 1000
    catalog.put_inode(_inode(ino, stat.S_IFREG | 0o644, size=size, version=int(bool(rows))))
    catalog.put_name(directory, name, ino)
    if rows:
        catalog.replace_map(ino, rows, first=0, last=rows[-1].index)
    if dice.random() < 0.2:
        catalog.put_xattr(ino, b"user.colour", b"blue")


def _blocks(catalog: SqliteCatalog, chunks: list[ChunkNo], dice: random.Random) -> None:
    for at in range(0, len(chunks), BLOCK_CHUNKS):
        number = catalog.new_block_no()
        length = BLOCK_CHUNKS * 1016
        row = block(number)
        roots = tuple(Root(dice.randbytes(32)) for _ in range(CODE.n))
        made = BlockRow(number, row.block_id.__class__(dice.randbytes(32)), row.scope, row.suite, CODE, length, roots)
        catalog.put_block(made)
        catalog.put_chunks(
            ChunkRow(chunk, Fingerprint(dice.randbytes(32)), number, slot, slot * 1016, 1000)
            for slot, chunk in enumerate(chunks[at : at + BLOCK_CHUNKS])
        )
        for index in range(CODE.n):
            catalog.put_fragment(FragmentRow(number, index, SupplierNo(index + 1), FragmentState.HELD))


def _contents(path: Path, inos: Callable[[SqliteCatalog], Iterator[Callable[[], Ino]]]) -> set[object]:
    found = set()
    try:
        with closing(SqliteCatalog(path, read_only=True)) as catalog:
            for find in inos(catalog):
                with suppress(*_UNREADABLE):
                    found.add(_content(catalog, find()))
    except _UNREADABLE:
        pass  # all that could be found
    return found


def _as_it_is(ino: Ino) -> Ino:
    return ino


def _by_name(catalog: SqliteCatalog, path: Path_) -> Ino:
    ino = ROOT_INO
    for part in path:
        inode = catalog.inode(ino)
        found = catalog.name(ino, part)
        if found is None or inode is None or not inode.is_dir:
            raise LookupError(part)
        ino = found.ino
    return ino


def _content(catalog: SqliteCatalog, ino: Ino) -> object:
    inode = catalog.inode(ino)
    if inode is None or not inode.is_file:
        raise LookupError(ino)
    inline = catalog.inline(ino)
    if inline is not None:
        return inline
    parts: list[object] = [inode.size]
    count = -(-inode.size // CHUNK_BYTES)
    rows = catalog.map_rows(ino, 0, count - 1)
    if sum(row.count for row in rows) < count:
        raise LookupError("a gap")
    for row in rows:
        if row.chunk == HOLE:
            parts.append((row.index, row.count))
            continue
        chunk = catalog.chunk(row.chunk)
        if chunk is None:
            raise LookupError(row.chunk)
        parts.append((row.index, chunk.slot, chunk.offset, chunk.length, _stored(catalog, chunk.block)))
    return tuple(parts)


def _stored(catalog: SqliteCatalog, number: BlockNo) -> object:
    row = catalog.block(number)
    if row is None:
        raise LookupError(number)
    known = {supplier.supplier for supplier in catalog.suppliers()}
    held = {
        each.index
        for each in catalog.fragments(number)
        if each.state is FragmentState.HELD and each.supplier in known and each.index == each.supplier - 1
    }
    if len(held) < row.code.k:
        raise LookupError("too few fragments")
    return row.block_id, row.length, row.code, row.roots


def _damage_rows(path: Path, dice: random.Random) -> str:
    done = []
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = delete")
        tables = [
            str(name)
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchall()
        ]
        for _ in range(dice.choice((1, 1, 3, 10))):
            table = dice.choice(tables)
            columns = [str(c[1]) for c in connection.execute(f"PRAGMA table_info({table})").fetchall()]
            keys = [str(c[1]) for c in connection.execute(f"PRAGMA table_info({table})").fetchall() if c[5]]
            rows = connection.execute(f"SELECT {', '.join(keys)} FROM {table}").fetchall()
            if not rows:
                continue
            where = " AND ".join(f"{key} = ?" for key in keys)
            key = dice.choice(rows)
            if dice.random() < 0.3:
                connection.execute(f"DELETE FROM {table} WHERE {where}", key)
                done.append(f"a row of {table} gone")
                continue
            column = dice.choice(columns)
            (old,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}", key).fetchall()[0]
            try:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (_other(old, dice), *key))
                done.append(f"{table}.{column} changed")
            except apsw.ConstraintError:
                continue
        connection.execute("PRAGMA journal_mode = wal")
    return ", ".join(done)


def _other(old: Any, dice: random.Random) -> Any:
    if isinstance(old, int):
        return old ^ (1 << dice.randrange(40)) if dice.random() < 0.8 else dice.randrange(-5, 300)
    if isinstance(old, str):
        return old[:-1] + "?"
    changed = bytearray(old or b"?")
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _damage_bytes(path: Path, dice: random.Random) -> str:
    content = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(content[16:18], "big")
    done = []
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(100, len(content))
        match dice.randrange(3):
            case 0:
                content[at] ^= 1 << dice.randrange(8)
                done.append(f"bit at {at}")
            case 1:
                content[at : at + 64] = dice.randbytes(len(content[at : at + 64]))
                done.append(f"64 bytes at {at}")
            case _:
                start = max(page_bytes, at // page_bytes * page_bytes)
                content[start : start + page_bytes] = bytes(len(content[start : start + page_bytes]))
                done.append(f"page {start // page_bytes}")
    path.write_bytes(content)
    return ", ".join(done)
