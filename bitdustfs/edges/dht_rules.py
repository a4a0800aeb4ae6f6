"""The limits of a node of the hash table: what it takes from others, and how long it waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitdustfs.core.sources import prefix_of


@dataclass(frozen=True, slots=True)
class Rules:
    """All of them. The defaults are for the internet; tests on one machine take others.

    A node that answers 200 questions a second spends about a twentieth of one core on it: an answer costs a signature
    (some 50 µs), a STORE a verification more.
    """

    neighbours: int = 20  # nodes that a record is stored at, and most in a bucket
    asked_at_once: int = 5
    most_asked: int = 64  # nodes, by one lookup: whoever names ever nearer ones that are not there ends it, no more
    tries_s: tuple[float, ...] = (0.5, 0.8, 1.2)  # how long an answer is waited for, each time the question is sent
    failures: int = 3  # questions in a row without an answer, until a node is forgotten
    buckets: int = 48
    bucket_prefix: int = 2  # nodes of one network in one bucket
    table_prefix: int = 10  # … and in all of them
    lookup_prefix: int = 12  # … and asked by one lookup
    questions_per_s: float = 200.0  # from all together
    prefix_questions_per_s: float = 15.0  # from one network
    prefix_burst: float = 80.0
    datagrams_per_s: float = 3000.0  # whatever they are; when more come the thread sleeps, and the kernel drops them
    flood_pause_s: float = 0.01
    greetings_per_s: float = 4.0  # newcomers who are asked who they are
    newcomers: int = 16  # … at once
    outstanding: int = 256  # questions without an answer
    lookups: int = 8  # at once
    records: int = 2048  # kept for others, at most 1000 bytes each
    prefix_records: int = 128  # … that came from one network
    token_s: float = 300.0  # a token is good for one to two times as long
    refresh_s: float = 3600.0  # how often the table is looked after and records are handed on
    handed_on: int = 32  # records of others, each time
    keeps_private_apart: bool = True  # in limits by network, addresses of private networks count for themselves

    def prefix(self, host: str) -> str:
        return prefix_of(host, keeps_private_apart=self.keeps_private_apart)


Clock = Callable[[], float]
