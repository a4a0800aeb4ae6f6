"""Rows with generations: the statements of the copy-on-write rule, for each table that has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FIRST_GENERATION = 1
LIVE: Final = 0x7FFF_FFFF_FFFF_FFFF  # `died` of a row of the current generation


class Versioned:
    """A table whose rows carry generations, with the statements of the copy-on-write rule.

    `close[i]`, `drop[i]` and `drop_older[i]` speak of the live rows with the first i key columns given; see
    `Store.put_live` and `Store.drop_live`. `close_span` and `drop_span` speak of those with a first key column
    from ?1 to ?2, `close_part` and `drop_part` of those with the first key column ?1 and a second one from ?2 to ?3.
    """

    def __init__(self, table: str, key: Sequence[str], values: Sequence[str]) -> None:
        columns = (*key, "born", "died", *values)
        self.table = table
        self.key = tuple(key)
        self.columns = tuple(values)  # the others, but the generations
        self.put = (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT ({', '.join(key)}, born) DO UPDATE SET {', '.join(f'{v} = excluded.{v}' for v in values)}"
        )
        wheres = [
            " AND ".join([*(f"{k} = ?{i}" for i, k in enumerate(key[:count], start=1)), f"died = {LIVE}"])
            for count in range(len(key) + 1)
        ]
        self.close = [
            f"UPDATE {table} SET died = ?{count + 1} WHERE {where} AND born <= ?{count + 2}"
            for count, where in enumerate(wheres)
        ]
        self.drop = [f"DELETE FROM {table} WHERE {where}" for where in wheres]
        self.drop_older = [
            f"DELETE FROM {table} WHERE {where} AND born < ?{count + 1}" for count, where in enumerate(wheres)
        ]
        span = f"{key[0]} BETWEEN ?1 AND ?2 AND died = {LIVE}"
        self.close_span = f"UPDATE {table} SET died = ?3 WHERE {span} AND born <= ?4"
        part = f"{key[0]} = ?1 AND {key[-1]} BETWEEN ?2 AND ?3 AND died = {LIVE}"
        self.close_part = f"UPDATE {table} SET died = ?4 WHERE {part} AND born <= ?5"
        self.drop_part = f"DELETE FROM {table} WHERE {part}"
        self.drop_span = f"DELETE FROM {table} WHERE {span}"
