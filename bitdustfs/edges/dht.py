"""The hash table beside trio: an asyncio loop in a thread of its own, and a small door to it.

In a thread, because a stall there (a flood, a slow disk under its state) is then none of the mount: all that both
share is the interpreter's lock. What goes through the door is bytes; whoever waits can be cancelled, and the work
behind ends with him. When the thread is not running nothing is found, and nothing is stored: the table promises no
more at its best.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import outcome
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bitdustfs.core import record as records
from bitdustfs.core.address import pack_address
from bitdustfs.core.dht_state import MAX_KNOWN, MAX_REMEMBERED, MAX_STATE_BYTES, DhtState, decode_state, encode_state
from bitdustfs.edges.dht_node import DhtNode
from bitdustfs.edges.dht_rules import Clock, Rules
from bitdustfs.edges.home import write_atomically
from bitdustfs.edges.tcp import join_address, split_address
from bitdustfs.engine.pacer import Pacer
from bitdustfs.errors import BadFormat, BadRequest, BitdustError, Unavailable
from bitdustfs.model import RecordId

log = logging.getLogger(__name__)
T = TypeVar("T")

SAVE_EVERY_S: Final = 600.0
JOIN_EVERY_S: Final = 60.0  # (tune) how often those named to us are asked again, while too few are known
_FEW: Final = 4
_SAID_EVERY_S: Final = 60.0  # at most one line of the loop's own complaints
_MAX_NAMED: Final = 64  # addresses to begin from


class Dht:
    """A ports.Directory over a node of the table, while `run` runs.

    Args:
        listen: ADDR:PORT of the UDP socket; port 0: any.
        state: the file where what it knows is kept; None: nowhere.
        named: gives addresses to begin from, ADDR:PORT; names are resolved.
        pacer: told of all that moves, where it holds limits.
    """

    def __init__(
        self,
        listen: str,
        state: Path | None,
        named: Callable[[], Iterable[str]] = tuple,
        rules: Rules | None = None,
        *,
        wall_s: Clock = time.time,
        pacer: Pacer | None = None,
    ) -> None:
        self._toll = _Toll(pacer or Pacer())
        self._listen = listen
        self._path = state
        self._named = named
        self._rules = rules or Rules()
        self._wall_s = wall_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._node: DhtNode | None = None
        self._stop: asyncio.Event | None = None
        self._pinned: tuple[RecordId, ...] = ()
        self._complaints = 0
        self._said_s = -_SAID_EVERY_S

    # --- the door, for trio ---------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where it listens; empty while it does not."""
        return self._node.address if self._node is not None else ""

    @property
    def known(self) -> int:
        """How many others it knows."""
        return len(self._node.protocol.router) if self._node is not None else 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What came in and was not taken, and why."""
        return Counter(self._node.protocol.counts) if self._node is not None else Counter()

    async def find(self, record_id: RecordId) -> bytes | None:
        """The newest valid record under this id. The caller sets the deadline."""
        found = await self._call(lambda node: node.find(record_id), None)
        return found.raw if found is not None else None

    async def publish(self, record: bytes, also: Sequence[str] = ()) -> int:
        """Give a record to those near its id. The caller sets the deadline.

        Args:
            also: ADDR:PORT of some who get it too, wherever its id lies.
        Returns:
            how many others keep it, or a newer one.
        Raises:
            BadFormat: it is no record.
        """
        parsed = records.parse(record)
        numeric = await self._numeric(also)
        return await self._call(lambda node: node.store(parsed, numeric), 0)

    async def join(self, addresses: Sequence[str]) -> int:
        """Ask who is at these addresses, and then who is near us. The caller sets the deadline.

        Returns:
            how many answered.
        """
        numeric = await self._numeric(addresses)
        return await self._call(lambda node: node.bootstrap(numeric), 0)

    def pin(self, ids: Iterable[RecordId]) -> None:
        """Say which records stay here whoever brings others, and are handed on first."""
        self._pinned = tuple(ids)
        if self._loop is not None and self._node is not None:
            self._soon(self._loop, self._node.kept.pin, self._pinned)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Raises:
            Unavailable: the socket cannot be had, or the thread ended by itself.
        """
        token = self._toll.token = trio.lowlevel.current_trio_token()
        listening, over = trio.Event(), trio.Event()
        ended: list[outcome.Outcome[None]] = []

        def told(event: trio.Event) -> None:
            try:
                token.run_sync_soon(event.set)
            except trio.RunFinishedError:
                pass

        def work() -> None:
            ended.append(outcome.capture(asyncio.run, self._main(lambda: told(listening))))
            told(over)

        thread = threading.Thread(target=work, name="bitdustfs-dht", daemon=True)
        thread.start()
        try:
            await _first(listening, over)
            if listening.is_set():
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stay_joined)
                    await over.wait()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                while not over.is_set():
                    self._end()
                    with trio.move_on_after(0.1):
                        await over.wait()
            thread.join()
            self._loop = self._node = self._stop = None
        why = ended[0].error if isinstance(ended[0], outcome.Error) else "it ended"
        raise Unavailable(what=f"the hash table at {self._listen} does not run: {why}")

    async def _call(self, work: Callable[[DhtNode], Coroutine[Any, Any, T]], otherwise: T) -> T:
        """Do something in the other loop and wait for it. Cancelled here, it is cancelled there."""
        loop, node = self._loop, self._node
        if loop is None or node is None:
            return otherwise
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def told(_future: concurrent.futures.Future[T]) -> None:
            try:
                token.run_sync_soon(done.set)
            except trio.RunFinishedError:
                pass

        coroutine = work(node)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # it has just ended
            coroutine.close()
            return otherwise
        future.add_done_callback(told)
        try:
            await done.wait()
        finally:
            future.cancel()
        if future.cancelled():
            return otherwise
        failure = future.exception()
        if failure is not None:  # a fault over there is silence here
            log.warning("the hash table failed: %r", failure)
            return otherwise
        return future.result()

    async def _stay_joined(self) -> None:
        """Begin from those that we are told of, again and again while too few are known."""
        while True:
            named = tuple(self._named())
            if named and self.known < _FEW:
                await self.join(named)
            await trio.sleep(JOIN_EVERY_S)

    async def _numeric(self, addresses: Sequence[str]) -> list[str]:
        """The addresses that we can send to; names are looked up, which may take long."""
        if not addresses:
            return []
        is_ipv6 = ":" in split_address(self._listen)[0]
        return await trio.to_thread.run_sync(_resolved, addresses, is_ipv6, abandon_on_cancel=True)

    def _end(self) -> None:
        if self._loop is not None and self._stop is not None:
            self._soon(self._loop, self._stop.set)

    @staticmethod
    def _soon(loop: asyncio.AbstractEventLoop, work: Callable[..., object], *args: object) -> None:
        try:
            loop.call_soon_threadsafe(work, *args)
        except RuntimeError:
            pass  # it has just ended

    # --- the other side: everything below runs in the thread ------------------------------------------------------

    async def _main(self, listening: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        state = self._remembered()
        node = DhtNode(Ed25519PrivateKey.from_private_bytes(state.seed), self._rules, wall_s=self._wall_s)
        node.protocol.on_moved = self._toll.count
        host, port = split_address(self._listen)
        await node.listen(port, host)
        try:
            node.kept.pin(self._pinned)
            now_s = int(self._wall_s())
            for record in state.records:
                node.kept.put(record, "", now_s)
            self._stop = asyncio.Event()
            self._node = node
            self._loop = loop
            listening()
            tasks = [
                loop.create_task(node.refresh()),
                loop.create_task(self._save_often(node, state.seed)),
            ]
            before = loop.create_task(node.bootstrap([each.address for each in state.contacts][:_MAX_NAMED]))
            ending = loop.create_task(self._stop.wait())
            done, left = await asyncio.wait((ending, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in (*left, before):
                task.cancel()
            await asyncio.gather(*left, before, return_exceptions=True)
            self._save(node, state.seed)
            for task in done:
                task.result()
        finally:
            self._loop = None
            node.stop()

    async def _save_often(self, node: DhtNode, seed: bytes) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            self._save(node, seed)

    def _remembered(self) -> DhtState:
        """What the file says; a new state, with a new id, if it says nothing."""
        fresh = DhtState(secrets.token_bytes(32))
        if self._path is None:
            return fresh
        try:
            with self._path.open("rb") as file:
                return decode_state(file.read(MAX_STATE_BYTES + 1))
        except FileNotFoundError:
            return fresh
        except (BadFormat, OSError) as bad:
            log.warning("%s is not used: %s", self._path, bad)
            return fresh

    def _save(self, node: DhtNode, seed: bytes) -> None:
        if self._path is None:
            return
        kept = sorted(node.kept, key=lambda each: each.id not in self._pinned)
        contacts = tuple(node.contacts()[:MAX_KNOWN])
        try:
            write_atomically(self._path, encode_state(DhtState(seed, contacts, tuple(kept[:MAX_REMEMBERED]))))
        except BitdustError as bad:
            log.warning("what the hash table knows could not be saved: %s", bad)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """The loop's default prints each; ours counts them and says so once a minute."""
        self._complaints += 1
        if time.monotonic() - self._said_s >= _SAID_EVERY_S:
            self._said_s = time.monotonic()
            log.warning("the hash table's loop complains (%d so far): %s", self._complaints, context.get("message"))


class _Toll:
    """What datagrams take of the limits: counted in the thread, and paid in trio, once a turn of its loop."""

    def __init__(self, pacer: Pacer) -> None:
        self.token: trio.lowlevel.TrioToken | None = None
        self._pacer = pacer
        self._lock = threading.Lock()
        self._sent = self._came = 0

    def count(self, sent: int, came: int) -> None:
        """So many bytes have moved."""
        if self.token is None or (self._pacer.up.is_open and self._pacer.down.is_open):
            return
        with self._lock:
            self._sent, self._came = self._sent + sent, self._came + came
        try:
            self.token.run_sync_soon(self._pay, idempotent=True)
        except trio.RunFinishedError:
            pass

    def _pay(self) -> None:
        with self._lock:
            sent, came, self._sent, self._came = self._sent, self._came, 0, 0
        self._pacer.owe(up=sent, down=came)


async def _first(one: trio.Event, other: trio.Event) -> None:
    """Wait until one of two has happened."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)


def _resolved(addresses: Sequence[str], is_ipv6: bool) -> list[str]:
    """The numeric addresses of one family behind some that may be names. What is none is left out."""
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    found: list[str] = []
    for address in addresses[:_MAX_NAMED]:
        try:
            host, port = split_address(address)
            for *_, endpoint in socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM):
                numeric = join_address(str(endpoint[0]), int(endpoint[1]))
                pack_address(numeric)
                found.append(numeric)
        except (OSError, BadRequest, BadFormat, UnicodeError) as bad:
            log.debug("%r is nobody to ask: %s", address, bad)
    return list(dict.fromkeys(found))
