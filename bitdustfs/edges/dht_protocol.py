"""How nodes of the hash table talk: kademlia's protocol, with nothing of what made it unsafe.

What came from a datagram is used only after `core/datagram` read it. Nothing is called by a name that a datagram
gives, nothing is stored that is not verified, nothing is pushed to newcomers, and nobody is remembered who has not
proved himself. Whatever goes wrong in a datagram costs that datagram, and is counted.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol

from bitdustfs.core import record as records
from bitdustfs.core.address import pack_address
from bitdustfs.core.datagram import (
    GAIN,
    MAX_CONTACTS,
    Answer,
    Contact,
    Find,
    Found,
    Ping,
    Pong,
    Question,
    Said,
    Store,
    Stored,
    answer,
    ask,
    dht_id,
    is_answer,
    look,
    parse_answer,
    parse_question,
    token,
)
from bitdustfs.core.keys import public_bytes
from bitdustfs.core.record_table import RecordTable
from bitdustfs.core.sources import Budget, SourceBudgets
from bitdustfs.edges.dht_rules import Clock, Rules
from bitdustfs.edges.dht_table import Peer, Table
from bitdustfs.edges.tcp import join_address
from bitdustfs.errors import BadFormat
from bitdustfs.model import RecordId

log = logging.getLogger(__name__)

Endpoint = tuple[str, int]
_GREETED: Final = 2048  # addresses that were asked who they are, of late
_GREET_AGAIN_S: Final = 600.0
_FAULT_LOG_S: Final = 60.0


@dataclass(slots=True)
class _Waiting:
    """A question without an answer yet."""

    endpoint: Endpoint
    expected: bytes | None  # id of the node that is asked; None: whoever is there
    answered: asyncio.Future[Answer | None]


class Protocol(KademliaProtocol):
    """One UDP socket's side of the table.

    Args:
        wall_s: the date, for records. now_s: a clock that only goes forward, for all else.
    """

    def __init__(
        self, key: Ed25519PrivateKey, kept: RecordTable, rules: Rules, *, wall_s: Clock, now_s: Clock
    ) -> None:
        node = Node(dht_id(public_bytes(key)))
        super().__init__(node, kept, rules.neighbours)
        self.router = Table(rules, node)
        self.counts: Counter[str] = Counter()  # what came in and was not taken, and why
        self.on_moved: Callable[[int, int], None] = lambda _sent, _came: None  # so many bytes
        self.rules = rules
        self._key = key
        self._kept = kept
        self._wall_s = wall_s
        self._now_s = now_s
        self._waiting: dict[bytes, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._inflow = Budget(rules.datagrams_per_s, rules.datagrams_per_s)
        self._questions = Budget(rules.questions_per_s, 2 * rules.questions_per_s)
        self._by_prefix = SourceBudgets(rules.prefix_questions_per_s, rules.prefix_burst)
        self._greetings = Budget(rules.greetings_per_s, 4 * rules.greetings_per_s)
        self._greeted: OrderedDict[Endpoint, float] = OrderedDict()
        self._secrets = (secrets.token_bytes(32), secrets.token_bytes(32))  # of tokens: now, and before
        self._secrets_at_s = now_s()
        self._logged_s = -_FAULT_LOG_S

    def __getattr__(self, name: str) -> Any:
        """Kademlia's own sends a call to another node for whatever attribute is not there."""
        raise AttributeError(name)

    # --- what comes in ----------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take one datagram, whatever it is."""
        self.on_moved(0, len(data))
        if not self._inflow.take(self._now_s()):
            self.counts["flood"] += 1
            time.sleep(self.rules.flood_pause_s)  # this thread has nothing better to do; the kernel drops the rest
            return
        try:
            kind, number = look(data)
            if is_answer(kind):
                self._take_answer(number, data, (addr[0], addr[1]))
            else:
                self._take_question(number, data, (addr[0], addr[1]))
        except BadFormat:
            self.counts["malformed"] += 1
        except Exception:  # a fault of ours costs one datagram
            self.counts["fault"] += 1
            if self._now_s() - self._logged_s >= _FAULT_LOG_S:
                self._logged_s = self._now_s()
                log.exception("a datagram of the hash table was dropped")

    def error_received(self, exc: Exception) -> None:
        """The kernel says that something which was sent did not arrive: silence says the same."""
        self.counts["unreachable"] += 1

    def _take_answer(self, number: bytes, data: bytes, endpoint: Endpoint) -> None:
        waiting = self._waiting.get(number)
        if waiting is None or waiting.endpoint != endpoint or waiting.answered.done():
            self.counts["unasked"] += 1
            return
        got = parse_answer(data)
        if waiting.expected is not None and got.id != waiting.expected:
            self.counts["impostor"] += 1
            waiting.answered.set_result(None)
            return
        waiting.answered.set_result(got)

    def _take_question(self, number: bytes, data: bytes, endpoint: Endpoint) -> None:
        now_s = self._now_s()
        prefix = self.rules.prefix(endpoint[0])
        if not (self._by_prefix.take(prefix, now_s) and self._questions.take(now_s)):
            self.counts["too many"] += 1
            return
        address = join_address(*endpoint)
        pack_address(address)  # nobody asks from an address that cannot be answered
        said = self._said(parse_question(data), address, prefix)
        reply = answer(self._key, number, token(self._secret(), address), said, room=GAIN * len(data))
        if len(reply) <= GAIN * len(data):
            self._send(reply, endpoint)
        self._greet(endpoint)

    def _said(self, question: Question, address: str, prefix: str) -> Said:
        match question:
            case Ping():
                return Pong()
            case Find(target, wants_record):
                there = self._kept.get(RecordId(target), int(self._wall_s())) if wants_record else None
                return Found(there.raw if there is not None else b"", self._near(target, address))
            case Store(given, raw):
                return Stored(self._take_record(given, raw, address, prefix))

    def _near(self, target: bytes, asker: str) -> tuple[Contact, ...]:
        """The contacts that an asker can use: none of a private network for one who is not in one."""
        near = self.router.find_neighbors(Node(target), 2 * MAX_CONTACTS)
        usable = [each.contact for each in near if may_name(asker, each.address) and each.address != asker]
        return tuple(usable[:MAX_CONTACTS])

    def _take_record(self, given: bytes, raw: bytes, address: str, prefix: str) -> bool:
        self._secret()
        if not any(hmac.compare_digest(given, token(secret, address)) for secret in self._secrets):
            self.counts["token"] += 1
            return False
        try:
            record = records.parse(raw)
        except BadFormat:
            self.counts["forged"] += 1
            return False
        if not self._kept.put(record, prefix, int(self._wall_s())):
            self.counts["refused"] += 1
            return False
        return True

    def _secret(self) -> bytes:
        now_s = self._now_s()
        if now_s - self._secrets_at_s >= self.rules.token_s:
            self._secrets = (secrets.token_bytes(32), self._secrets[0])
            self._secrets_at_s = now_s
        return self._secrets[0]

    # --- newcomers --------------------------------------------------------------------------------------------

    def welcome_if_new(self, node: Node) -> None:
        """Kademlia's own gives a newcomer what is stored here. Ours gives nothing (see `_greet`)."""

    def _greet(self, endpoint: Endpoint) -> None:
        """Ask somebody who asked us who he is, unless we did of late, or too many are new."""
        now_s = self._now_s()
        if now_s - self._greeted.get(endpoint, -_GREET_AGAIN_S) < _GREET_AGAIN_S:
            return
        if len(self._tasks) >= self.rules.newcomers or not self._greetings.take(now_s):
            return
        self._greeted[endpoint] = now_s
        self._greeted.move_to_end(endpoint)
        if len(self._greeted) > _GREETED:
            self._greeted.popitem(last=False)
        self._start(self._ping(endpoint))

    async def _ping(self, endpoint: Endpoint, expected: bytes | None = None) -> None:
        await self.ask(endpoint, Ping(), expected)

    # --- what goes out ----------------------------------------------------------------------------------------

    async def ask(self, endpoint: Endpoint, question: Question, expected: bytes | None = None) -> Answer | None:
        """Ask a node and note whether it answers.

        Args:
            expected: its id; None: whoever is there.
        Returns:
            A verified answer; None: none came in time, or another node is there.
        """
        if len(self._waiting) >= self.rules.outstanding:
            self.counts["own too many"] += 1
            return None
        number = secrets.token_bytes(16)
        waiting = _Waiting(endpoint, expected, asyncio.get_running_loop().create_future())
        self._waiting[number] = waiting
        try:
            for wait_s in self.rules.tries_s:
                self._send(ask(number, question), endpoint)
                await asyncio.wait((waiting.answered,), timeout=wait_s)
                if waiting.answered.done():
                    break
        finally:
            del self._waiting[number]
        got = waiting.answered.result() if waiting.answered.done() else None
        if got is None:
            self._note_failure(endpoint, expected)
        else:
            self._note_answer(Peer(got.id, *endpoint))
        return got

    def _note_answer(self, peer: Peer) -> None:
        doubtful = self.router.add_contact(peer)
        if doubtful is not None and len(self._tasks) < self.rules.newcomers:
            self._start(self._ping((doubtful.ip, doubtful.port), doubtful.id))

    def _note_failure(self, endpoint: Endpoint, expected: bytes | None) -> None:
        known = self.router.known(expected) if expected is not None else None
        if known is None or (known.ip, known.port) != endpoint:
            return
        known.failures += 1
        if known.failures >= self.rules.failures:
            self.router.remove_contact(known)

    def _send(self, datagram: bytes, endpoint: Endpoint) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.sendto(datagram, endpoint)
            self.on_moved(len(datagram), 0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.counts["fault"] += 1
            log.debug("a question of the hash table failed: %r", task.exception())


def may_name(speaker: str, address: str) -> bool:
    """Whether somebody at one address may name another one: nobody outside is to send us into a private network."""
    asker, named = (ipaddress.ip_address(each.rpartition(":")[0].strip("[]")) for each in (speaker, address))
    if asker.version != named.version:
        return False
    return not named.is_private or asker.is_private
