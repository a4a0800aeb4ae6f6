"""What may be wrong in a catalog whose file is sound: invariants of `schema.sql`, as questions.

SQLite keeps no check sums of rows: a bit that a disk turned, or a fault of ours, leaves a file that opens and tells
nonsense. Each `Rule` is one invariant, as the question for the rows that break it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from bitdustfs.edges.catalog_versioned import LIVE
from bitdustfs.model import CHUNK_BYTES, FIRST_BROUGHT, ROOT_INO, FragmentState, Standing

STATES = ", ".join(str(int(state)) for state in FragmentState)
STANDINGS = ", ".join(str(int(standing)) for standing in Standing)
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
NO_TYPE = f"mode & {0o170000} NOT IN ({', '.join(map(str, _TYPES))})"
_NO_MODE = f"(mode NOT BETWEEN 0 AND {0o177777} OR {NO_TYPE})"
IS_DIR = f"mode & {0o170000} = {stat.S_IFDIR}"
_IS_FILE = f"mode & {0o170000} = {stat.S_IFREG}"
LIVE_DIRS = f"SELECT ino FROM r_inode WHERE died = {LIVE} AND {IS_DIR}"
LIVE_INOS = f"SELECT ino FROM r_inode WHERE died = {LIVE}"
REACHED = f"""
    WITH RECURSIVE reached (ino) AS (
        SELECT {ROOT_INO}
        UNION
        SELECT n.ino FROM reached JOIN r_name n ON n.parent = reached.ino AND n.died = {LIVE}
        JOIN r_inode i ON i.ino = n.ino AND i.died = {LIVE} AND i.{IS_DIR}
    )
"""
LINKS = f"""
    CASE WHEN i.{IS_DIR} THEN 2 + (
        SELECT count(*) FROM r_name n JOIN r_inode c ON c.ino = n.ino AND c.died = {LIVE}
        WHERE n.parent = i.ino AND n.died = {LIVE} AND c.{IS_DIR}
    ) ELSE (
        SELECT count(*) FROM r_name n WHERE n.ino = i.ino AND n.died = {LIVE}
    ) + (
        SELECT count(*) FROM r_name n WHERE n.superseded = i.ino AND n.superseded <> 0 AND n.died = {LIVE}
    ) END
"""
IS_NAMED = f"""(i.ino = {ROOT_INO} OR EXISTS (SELECT 1 FROM r_name n WHERE n.died = {LIVE} AND n.ino = i.ino)
    OR EXISTS (SELECT 1 FROM r_name n WHERE n.died = {LIVE} AND n.superseded = i.ino AND n.superseded <> 0))"""
BYTES_OF = "SELECT ino FROM l_file UNION SELECT ino FROM l_inline UNION SELECT ino FROM l_extent"
MAPPED = f"SELECT ino FROM r_map WHERE died = {LIVE}"
COUNTERS = {
    "ino": "SELECT coalesce(max(ino), 0) + 1 FROM r_inode",
    "cookie": "SELECT max(16, coalesce(max(cookie), 0) + 1) FROM r_name",
    "chunk": f"""SELECT max(coalesce((SELECT max(chunk) FROM r_chunk WHERE chunk < {FIRST_BROUGHT}), 0),
        coalesce((SELECT max(chunk) - {FIRST_BROUGHT} FROM r_chunk WHERE chunk >= {FIRST_BROUGHT}), 0)) + 1""",
    "block": "SELECT coalesce(max(block), 0) + 1 FROM r_block",
    "supplier": "SELECT coalesce(max(supplier), 0) + 1 FROM r_supplier",
    "generation": "SELECT coalesce(max(generation), 0) + 1 FROM r_snapshot",
}
SUMS = {
    "inodes": f"SELECT count(*) FROM r_inode WHERE died = {LIVE}",
    "file_bytes": f"SELECT coalesce(sum(size), 0) FROM r_inode WHERE died = {LIVE} AND {_IS_FILE}",
}


def no_root(pair: str) -> str:
    """What is true of a row of fragments with an index of which its block has no root; WANTED ones need none yet."""
    roots = f"(SELECT length(b.roots) / 32 FROM {pair}_block b WHERE b.block = {pair}_fragment.block)"
    return f"(idx < 0 OR state <> {int(FragmentState.WANTED)} AND idx >= {roots})"


@dataclass(frozen=True, slots=True)
class Rule:
    """One invariant."""

    says: str
    rows: str  # SELECT of one text column: what breaks it
    is_mendable: bool = True


VERSIONED: Final = {"r_inode": "ino", "r_name": "parent, cookie", "r_xattr": "ino, name", "r_map": "ino, idx"}
_GENERATION = "(SELECT coalesce(max(value), 1) FROM r_counter WHERE name = 'generation')"
OUT_OF_TIME = f"(born NOT BETWEEN 1 AND {_GENERATION} OR died <> {LIVE} AND (died <= born OR died > {_GENERATION}))"
OF_NONE = f"""(died <> {LIVE} AND NOT EXISTS (
    SELECT 1 FROM r_snapshot AS s WHERE s.generation >= t.born AND s.generation < t.died))"""
NO_SNAPSHOT = """(s.kind NOT IN (1, 2, 3, 4) OR s.gone NOT IN (0, 1) OR s.generation < 1
    OR length(CAST(s.name AS BLOB)) NOT BETWEEN 1 AND 255 OR s.name IN ('.', '..') OR instr(s.name, '/')
    OR NOT s.gone AND EXISTS (
        SELECT 1 FROM r_snapshot AS o WHERE o.name = s.name AND NOT o.gone AND o.generation < s.generation))"""
NO_CODE = "NOT (k = 0 AND n = 0 OR 1 <= k AND k <= n AND n <= 255)"
LIVE_BYTES = """(SELECT coalesce(sum(length), 0) FROM (
    SELECT max(length) AS length FROM r_chunk c WHERE c.block = r_block.block GROUP BY slot))"""
_NAME = "n.parent || '/' || hex(n.name)"
RULES: Final = (
    *(
        Rule(
            f"rows of {table} belong to no generation",
            f"SELECT {key.split(', ')[0]} FROM {table} WHERE {OUT_OF_TIME}",
        )
        for table, key in VERSIONED.items()
    ),
    *(
        Rule(f"rows of {table} are of no snapshot, and not of now", f"SELECT died FROM {table} AS t WHERE {OF_NONE}")
        for table in VERSIONED
    ),
    Rule(
        "snapshots have a name or a kind that cannot be, or the name of another",
        f"SELECT name FROM r_snapshot AS s WHERE {NO_SNAPSHOT}",
    ),
    Rule("inodes have a code that cannot be", f"SELECT ino FROM r_inode WHERE {NO_CODE}"),
    Rule(
        "inodes have a type or mode that there is not",
        f"SELECT ino FROM r_inode WHERE {_NO_MODE}",
    ),
    Rule(
        "suppliers have a standing that there is not",
        f"SELECT label FROM r_supplier WHERE standing NOT IN ({STANDINGS})",
    ),
    *(
        Rule(
            f"fragments{of} have a state that there is not",
            f"SELECT block || '/' || idx FROM {table} WHERE state NOT IN ({STATES})",
        )
        for of, table in (("", "r_fragment"), (" of the replica", "l_fragment"))
    ),
    *(
        Rule(
            f"fragments{of} belong to no block or no supplier",
            f"""SELECT block || '/' || idx FROM {pair}_fragment WHERE block NOT IN (SELECT block FROM {pair}_block)
            OR supplier NOT IN (SELECT supplier FROM r_supplier)""",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    *(
        Rule(
            f"blocks{of} count their held fragments wrong",
            f"""SELECT block FROM {pair}_block b WHERE held <> (SELECT count(DISTINCT idx) FROM {pair}_fragment f
            WHERE f.block = b.block AND state = {int(FragmentState.HELD)})""",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    Rule("blocks count their live bytes wrong", f"SELECT block FROM r_block WHERE live <> {LIVE_BYTES}"),
    *(
        Rule(
            f"blocks{of} have a code, a suite or roots that cannot be",
            f"""SELECT block FROM {pair}_block WHERE NOT (1 <= k AND k <= n AND n <= 255 AND suite IN (1, 2)
            AND length(roots) % 32 = 0 AND length(roots) BETWEEN 32 * k AND 32 * 255
            AND length(block_id) = 32)""",
            is_mendable=False,
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    *(
        Rule(
            f"fragments{of} have nothing that they can be checked by",
            f"SELECT block || '/' || idx FROM {pair}_fragment WHERE {no_root(pair)}",
        )
        for of, pair in (("", "r"), (" of the replica", "l"))
    ),
    Rule(
        "blocks are to be coded anew that are not there",
        "SELECT block FROM l_recode WHERE block NOT IN (SELECT block FROM r_block)",
    ),
    Rule("the root directory is gone", f"SELECT 1 WHERE {ROOT_INO} NOT IN ({LIVE_DIRS})"),
    Rule(
        "files have bytes and no inode",
        f"SELECT ino FROM ({MAPPED} UNION {BYTES_OF}) WHERE ino NOT IN ({LIVE_INOS})",
    ),
    Rule(
        "directories have names in them and no inode",
        f"SELECT DISTINCT parent FROM r_name WHERE died = {LIVE} AND parent NOT IN ({LIVE_INOS})",
    ),
    Rule(
        "names show nothing",
        f"SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.ino NOT IN ({LIVE_INOS})",
    ),
    Rule(
        "names keep a file that is gone",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.superseded <> 0
        AND n.superseded NOT IN ({LIVE_INOS})""",
    ),
    Rule(
        "names are not possible, or twice in one directory",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND (length(n.name) NOT BETWEEN 1 AND 255
        OR n.name IN (x'2e', x'2e2e') OR instr(n.name, x'2f') OR instr(n.name, x'00') OR EXISTS (
            SELECT 1 FROM r_name o WHERE o.parent = n.parent AND o.name = n.name AND o.died = {LIVE}
            AND o.cookie < n.cookie))""",
    ),
    Rule(
        "names lie in what is no directory",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.parent IN ({LIVE_INOS})
        AND n.parent NOT IN ({LIVE_DIRS})""",
    ),
    Rule(
        "directories have more than one name",
        f"""SELECT {_NAME} FROM r_name n WHERE n.died = {LIVE} AND n.ino IN ({LIVE_DIRS}) AND (n.ino = {ROOT_INO}
        OR EXISTS (SELECT 1 FROM r_name o WHERE o.ino = n.ino AND o.died = {LIVE} AND o.cookie < n.cookie))""",
    ),
    Rule(
        "directories lie in themselves",
        f"""{REACHED} SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{IS_DIR} AND i.nlink > 0
        AND {IS_NAMED} AND i.ino NOT IN (SELECT ino FROM reached)""",
    ),
    Rule(
        "files and directories have no name",
        f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.nlink > 0 AND NOT {IS_NAMED}",
    ),
    Rule(
        "inodes count their names wrong",
        f"SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND {IS_NAMED} AND i.nlink <> {LINKS}",
    ),
    Rule(
        "directories count what is in them wrong",
        f"""SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{IS_DIR} AND i.size <>
        (SELECT count(*) FROM r_name n WHERE n.parent = i.ino AND n.died = {LIVE})""",
    ),
    *(
        Rule(
            f"the counter {name} is behind",
            f"SELECT '{name}' WHERE coalesce((SELECT value FROM r_counter WHERE name = '{name}'), 0) < ({least})",
        )
        for name, least in COUNTERS.items()
    ),
    *(
        Rule(
            f"the sum {name} is wrong",
            f"SELECT '{name}' WHERE (SELECT value FROM r_counter WHERE name = '{name}') IS NOT ({sum_})",
        )
        for name, sum_ in SUMS.items()
    ),
    Rule(
        "files have a chunk that is not where it should be: these bytes cannot be read",
        f"""SELECT m.ino || '@' || m.idx FROM r_map m WHERE m.died = {LIVE} AND m.chunk <> 0 AND NOT EXISTS (
            SELECT 1 FROM r_chunk c JOIN r_block b ON b.block = c.block WHERE c.chunk = m.chunk
            AND c.at >= 0 AND c.length BETWEEN 1 AND {CHUNK_BYTES} AND c.at + c.length <= b.length)""",
        is_mendable=False,
    ),
    Rule(
        "snapshots have a chunk that is not where it should be: these bytes cannot be read",
        f"""SELECT m.ino || '@' || m.idx FROM r_map m WHERE m.died <> {LIVE} AND m.chunk <> 0 AND NOT EXISTS (
            SELECT 1 FROM r_chunk c JOIN r_block b ON b.block = c.block WHERE c.chunk = m.chunk
            AND c.at >= 0 AND c.length BETWEEN 1 AND {CHUNK_BYTES} AND c.at + c.length <= b.length)""",
        is_mendable=False,
    ),
    Rule(
        "files have a gap in their map: these bytes cannot be read",
        f"""SELECT i.ino FROM r_inode i WHERE i.died = {LIVE} AND i.{_IS_FILE} AND i.version > 0 AND (
            SELECT coalesce(sum(min(m.idx + m.count, (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}) - m.idx), 0)
            FROM r_map m WHERE m.ino = i.ino AND m.died = {LIVE}
            AND m.idx < (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}
        ) <> (i.size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES}""",
        is_mendable=False,
    ),
)
