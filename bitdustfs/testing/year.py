"""A year in the life of a volume, in virtual time: one customer, many suppliers, and everything that happens to them.

    seed -> a `Life` for each supplier, and what happens to the customer -> hour by hour: who is up, who cheats
         -> the real node over real keepers (testing.called) -> what is checked after every hour

Every hour suppliers are pinged once. Services that only matter while somebody writes (files, writer, uploads, the
replica) run in a session of two minutes a week, as in a program that somebody opens; journal, monitor, auditor and
rebuilder run all the time that the customer's machine is on.

Fault budget: machines go away for good, or lose all they had, or begin to cheat, each about `upsets` times a year and
supplier; nights, holidays, cuts and jumps of the clock come on top, and are no loss.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import trio

from bitdustfs.core.grace import DAY_S, HOUR_S, MEMORY_DAYS, Patience
from bitdustfs.edges.catalog_changes import SqliteChanges
from bitdustfs.edges.catalog_sqlite import SqliteCatalog
from bitdustfs.engine.node import Node
from bitdustfs.engine.services import NodeOptions
from bitdustfs.errors import BlockLost, PeerError, TooFewFragments, Unavailable
from bitdustfs.model import BlockId, BlockNo, Code, FragmentRow, FragmentState, Standing, SupplierNo
from bitdustfs.testing.byzantine import Trick
from bitdustfs.testing.called import CalledNode, CalledSuppliers, Reach
from bitdustfs.testing.clock import InlineCrunch, RunningWall
from bitdustfs.testing.entropy import SeededEntropy
from bitdustfs.testing.images import image_of
from bitdustfs.testing.network import Line
from bitdustfs.testing.spool import MemorySpool
from bitdustfs.testing.swarm import make_identity
from bitdustfs.testing.world import CALLER, SECRETS, World

YEAR_DAYS: Final = 365
AWAKE: Final = frozenset(
    {"journal", "suppliers", "reads", "monitor", "auditor", "returns", "rebuilder"}
)  # services all the time
AUDITS_A_DAY: Final = 3  # of each supplier: one that was wiped is found within a day
READ_S: Final = 60.0
SESSION_S: Final = 60.0
CONTRACT_BYTES: Final = 64 << 20
Slot = tuple[BlockNo, int, SupplierNo]


@dataclass(frozen=True, slots=True)
class Life:
    """What happens to one supplier. Hours from the start; spans are [from, until)."""

    leaves_h: float = inf  # for good
    night: tuple[int, int] | None = None  # hours of each day in which it is off
    away: tuple[tuple[int, int], ...] = ()
    flaps: bool = False  # up in one hour, down in the next, by chance
    wiped_h: float = inf
    cheats: tuple[float, Trick] = (inf, Trick.FLIP)  # from when on, with a tenth of what it has

    def is_up(self, hour: int, chance: float) -> bool:
        if hour >= self.leaves_h or any(start <= hour < end for start, end in self.away):
            return False
        if self.flaps:
            return chance < 0.5
        return self.night is None or not self.night[0] <= hour % 24 < self.night[1]


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to everybody."""

    lives: tuple[Life, ...]
    lines: tuple[Line, ...]
    cuts: tuple[tuple[int, int], ...]  # the customer's line is dead
    off: tuple[tuple[int, int], ...]  # the customer's machine is off
    jumps: Mapping[int, float]  # hour -> seconds by which the wall clock jumps


def fate(seed: int, *, suppliers: int, hours: int, upsets: float) -> Fate:
    """Draw lots for everybody.

    Args:
        upsets: how often a year a supplier leaves, is wiped, or begins to cheat, on the average.
    """
    dice = random.Random(seed)
    years = hours / (YEAR_DAYS * 24)
    lives = tuple(_life(dice, hours, upsets * years) for _ in range(suppliers))
    lines = tuple(Line(dice.uniform(0.005, 0.2), dice.choice((200_000, 1_000_000, inf))) for _ in range(suppliers))
    cuts = _spans(dice, hours, 12 * years, (1, 90))
    off = _spans(dice, hours, 4 * years, (24, 24 * 28))
    jumps = {
        dice.randrange(hours): dice.choice((-1, 1)) * dice.choice((HOUR_S, 40 * DAY_S, 3650 * DAY_S))
        for _ in range(round(8 * years) + 1)
    }
    return Fate(lives, lines, cuts, off, jumps)


@dataclass(slots=True)
class Told:
    """What happened, in numbers."""

    hours: int = 0
    departures: int = 0
    wiped: int = 0
    cheats: int = 0
    verdicts: int = 0  # suppliers that were given up
    returns: int = 0  # that were given up and came back
    hires: int = 0
    fragments_sent: int = 0
    sent_bytes: int = 0
    got_bytes: int = 0
    written: int = 0
    read: int = 0
    late_reads: int = 0  # that had to wait for suppliers to come back
    late: str = ""  # why, the last time
    least_spare: int = 1 << 30  # held and truly there, minus k, of the worst block at the worst hour


@dataclass(slots=True)
class _Seen:
    """How things were an hour ago."""

    standings: dict[SupplierNo, Standing] = field(default_factory=dict)
    held: dict[BlockNo, set[Slot]] = field(default_factory=dict)


class _WatchedCatalog(SqliteCatalog):
    """Notes whose fragments changed."""

    def __init__(self, path: str, *, create: bool) -> None:
        self.touched: set[BlockNo] = set()
        super().__init__(path, create=create)

    def put_fragment(self, row: FragmentRow) -> None:
        self.touched.add(row.block)
        super().put_fragment(row)

    def drop_fragment(self, block: BlockNo, index: int, supplier: SupplierNo) -> None:
        self.touched.add(block)
        super().drop_fragment(block, index, supplier)


class Year:
    """Run with `live`; see the module.

    Args:
        hired, spares: how many suppliers are hired at first, and how many candidates wait.
    """

    def __init__(
        self, seed: int, *, days: int = YEAR_DAYS, hired: int = 20, spares: int = 10, code: Code, upsets: float
    ) -> None:
        self._dice = random.Random(seed)
        self._hours = 24 * days
        self._fate = fate(seed, suppliers=hired + spares, hours=self._hours, upsets=upsets)
        self._hired = hired
        self._wall = RunningWall()
        self._identity = make_identity("customer")
        self._entropy = SeededEntropy(seed)
        self._reach = Reach()
        self._patience = Patience()
        self._options = NodeOptions(
            spool_limit=64 << 20,
            code=code,
            audits_a_day=AUDITS_A_DAY,
            patience=self._patience,
            watch_every_s=HOUR_S,
            repair_every_s=HOUR_S,
        )
        self.nodes = [CalledNode(n, self._wall, line=line) for n, line in enumerate(self._fate.lines, start=1)]
        self.catalog = _WatchedCatalog(":memory:", create=True)
        self._spool = MemorySpool()
        self._busy = trio.Event()
        self._files: dict[str, bytes] = {}
        self._down_since: dict[SupplierNo, float] = {}
        self._seen = _Seen()
        self._is_upset = False  # somebody left, was wiped or began to cheat in this hour
        self.told = Told()
        self.node: Node | None = None

    async def live(self) -> Told:
        """Let it all happen. Raises AssertionError when something is that must never be."""
        await self._hire_all()
        hour = 0
        while hour < self._hours:
            until = next((start for start, _ in self._fate.off if start > hour), self._hours)
            async with self._machine():
                await self._hours_of(hour, min(until, self._hours))
            hour = min(until, self._hours)
            for start, end in self._fate.off:
                if start == hour:
                    await self._sleep_through(hour, min(end, self._hours))
                    hour = min(end, self._hours)
        async with self._machine():
            await self._read_all()
        return self.told

    # -- the customer ------------------------------------------------------------------------------------------

    async def _hire_all(self) -> None:
        side = CalledSuppliers(self._identity, (), self.nodes, self._reach, ping_s=HOUR_S)
        for number, node in enumerate(self.nodes, start=1):
            node.allowed[self._identity.owner] = CONTRACT_BYTES
            standing = Standing.HIRED if number <= self._hired else Standing.CANDIDATE
            self.catalog.put_supplier(await side.hire(node, CONTRACT_BYTES, number, standing))
        self.catalog.commit()

    @asynccontextmanager
    async def _machine(self) -> AsyncIterator[None]:
        side = CalledSuppliers(self._identity, self.catalog.suppliers(), self.nodes, self._reach, ping_s=HOUR_S)
        self.node = node = Node(
            identity=self._identity,
            catalog=self.catalog,
            changes=SqliteChanges(),
            image=lambda: image_of(self.catalog),
            spool=self._spool,
            suppliers=side,
            crunch=InlineCrunch(),
            entropy=self._entropy,
            wall=self._wall,
            secrets=SECRETS,
            options=self._options,
        )
        if not self._files:
            node.tree.plant(None, CALLER)
        for name, service in tuple(node.services.items()):
            if name not in AWAKE:
                node.services[name] = partial(self._while_busy, service)
        async with node.running():
            yield
        self.told.fragments_sent += side.sent_fragments
        self.told.sent_bytes += side.sent_bytes
        self.told.got_bytes += side.got_bytes
        self.node = None

    async def _while_busy(self, service: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._busy.wait()
            with trio.move_on_after(SESSION_S):
                await service()

    async def _session(self) -> None:
        """Write something, let it become safe, and read something."""
        assert self.node is not None
        self._busy.set()
        self._busy = trio.Event()
        name = f"file {self._dice.randrange(12)}"
        content = self._dice.randbytes(self._dice.choice((50, 5_000, 40_000, 90_000)))
        await self._world().write(name, content)
        self._files[name] = content + self._files.get(name, b"")[len(content) :]
        self.told.written += 1
        await trio.sleep(SESSION_S)
        await self._read(self._dice.choice(sorted(self._files)))

    def _world(self) -> World:
        """What of testing.world reads and writes files, over our node."""
        world = World()
        assert self.node is not None
        world.node = self.node
        return world

    async def _read(self, name: str) -> None:
        assert self.node is not None
        await self.node.drop_cache()
        late = f"{name}: no answer in {READ_S:.0f} s"
        with trio.move_on_after(READ_S):
            try:
                assert await self._world().read(name) == self._files[name]
                self.told.read += 1
                return
            except (TooFewFragments, Unavailable, PeerError) as error:
                assert not isinstance(error, BlockLost), f"{name}: {error!r}"
                late = f"{name}: {error}"
        self.told.late = late
        self.told.late_reads += 1

    async def _read_all(self) -> None:
        """Everything is there, once all who did not leave for good are up."""
        self._reach.is_cut = False
        for node, life in zip(self.nodes, self._fate.lives, strict=True):
            node.is_up = self._hours < life.leaves_h
        assert self.node is not None
        self.node.suppliers.nudge()
        await trio.sleep(2 * HOUR_S)
        late = self.told.late_reads
        for name in self._files:
            await self._read(name)
        assert self.told.late_reads == late, self.told.late

    # -- time --------------------------------------------------------------------------------------------------

    async def _hours_of(self, first: int, last: int) -> None:
        for hour in range(first, last):
            began = trio.current_time()
            self._happen(hour)
            if hour % (7 * 24) == 1 and not self._reach.is_cut:
                await self._session()
            await trio.sleep(began + HOUR_S - trio.current_time())
            self._check(hour)
            self.told.hours += 1

    async def _sleep_through(self, first: int, last: int) -> None:
        for hour in range(first, last):
            self._happen(hour)
        await trio.sleep((last - first) * HOUR_S)
        self.told.hours += last - first

    def _happen(self, hour: int) -> None:
        self._reach.is_cut = any(start <= hour < end for start, end in self._fate.cuts)
        if hour in self._fate.jumps:
            self._wall.move_s(self._fate.jumps[hour])
        for number, (node, life) in enumerate(zip(self.nodes, self._fate.lives, strict=True), start=1):
            node.is_up = life.is_up(hour, self._dice.random())
            if not node.is_up:
                self._down_since.setdefault(SupplierNo(number), trio.current_time())
            elif SupplierNo(number) in self._down_since:
                del self._down_since[SupplierNo(number)]
            if hour == life.leaves_h:
                self.told.departures += 1
                self._is_upset = True
            if hour == life.wiped_h < life.leaves_h:
                node.wipe()
                self.told.wiped += 1
                self._is_upset = True
            if hour == life.cheats[0] < life.leaves_h:
                node.conduct.tricks = {life.cheats[1]}
                node.conduct.touches = _a_tenth
                self.told.cheats += 1
                self._is_upset = True

    # -- what must always be -----------------------------------------------------------------------------------

    def _check(self, hour: int) -> None:
        self._check_standings(hour)
        self._check_held()
        if hour % 24 == 0:
            self._check_growth()

    def _check_standings(self, hour: int) -> None:
        """Nobody is given up who was there lately, or while we were cut off."""
        now = {row.supplier: row.standing for row in self.catalog.suppliers()}
        for number, standing in now.items():
            before = self._seen.standings.get(number, standing)
            if standing is before:
                continue
            if standing is Standing.LOST:
                self.told.verdicts += 1
                away_s = trio.current_time() - self._down_since.get(number, inf)
                assert away_s >= self._patience.at_none_s, f"hour {hour}: s{number} is given up after {away_s} s"
                assert not self._reach.is_cut, f"hour {hour}: s{number} is given up while we are cut off"
            elif before is Standing.LOST:
                self.told.returns += 1
            else:
                self.told.hires += 1
        self._seen.standings = now

    def _check_held(self) -> None:
        """I9: what counts as held stops to do so only when it is lost, or with whoever is given up."""
        touched, self.catalog.touched = self.catalog.touched, set()
        for number in self._seen.held.keys() | touched if self._is_upset else touched:
            block, rows = self.catalog.block(number), self.catalog.fragments(number)
            if block is None:
                self._seen.held.pop(number, None)
                continue
            states = {(row.block, row.index, row.supplier): row.state for row in rows}
            held = {slot for slot, state in states.items() if state is FragmentState.HELD}
            for slot in self._seen.held.get(number, set()) - held:
                others = {index for _, index, _ in held}  # a surplus one may go
                self._check_let_go(slot, states.get(slot), is_replaced=slot[1] in others)
            self._seen.held[number] = held
            there = {index for _, index, supplier in held if self._is_true(block.block_id, index, supplier)}
            self.told.least_spare = min(self.told.least_spare, len(there) - block.code.k)
            assert len(there) >= block.code.k, f"block {block.block} is lost"
        self._is_upset = False

    def _check_let_go(self, slot: Slot, state: FragmentState | None, *, is_replaced: bool) -> None:
        node, standing = self.nodes[slot[2] - 1], self._seen.standings[slot[2]]
        if state is FragmentState.ABSENT:
            assert standing is Standing.LOST, f"{slot} does not count, and its supplier was not given up"
        else:  # proven lost, and maybe sent elsewhere since
            was_bad = node.conduct.dropped or node.conduct.tricks
            assert was_bad or is_replaced or standing is Standing.LOST, f"{slot} was let go: {state}"

    def _is_true(self, block_id: BlockId, index: int, supplier: SupplierNo) -> bool:
        """It is where it counts as held, and that machine did not leave for good; it may be off."""
        node, life = self.nodes[supplier - 1], self._fate.lives[supplier - 1]
        name = SECRETS.fragment_name(block_id, index, node.node)
        owner = self._identity.owner
        is_here = node.conduct.gives(owner, name) and node.shelf.content(owner, name) is not None
        return is_here and self.told.hours < life.leaves_h

    def _check_growth(self) -> None:
        """What is noted of suppliers does not pile up: at most what a month of hourly pings can tell of each."""
        assert len(self.catalog.observations()) <= len(self.nodes)
        notes = max(len(self.catalog.absences(row.supplier)) for row in self.catalog.suppliers())
        assert notes <= MEMORY_DAYS * 24 + 24, "absences pile up"


def _life(dice: random.Random, hours: int, upsets: float) -> Life:
    def some_hour(rate: float) -> float:
        return int(at) if (at := dice.expovariate(rate / hours)) < hours else inf

    kind = dice.random()
    return Life(
        leaves_h=some_hour(upsets * 0.6),
        night=(0, dice.randint(5, 9)) if kind < 0.35 else None,
        away=_spans(dice, hours, 2 * hours / (YEAR_DAYS * 24), (24, 24 * 16)),
        flaps=kind > 0.9,
        wiped_h=some_hour(upsets * 0.2),
        cheats=(some_hour(upsets * 0.2), dice.choice((Trick.FLIP, Trick.SWAP, Trick.FAULT, Trick.FORGE_HASHES))),
    )


def _spans(dice: random.Random, hours: int, count: float, lengths: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """About `count` spans of time, that do not touch."""
    spans: list[tuple[int, int]] = []
    for _ in range(int(count) + (dice.random() < count % 1)):
        start = dice.randrange(48, hours)
        spans.append((start, start + dice.randint(*lengths)))
    spans.sort()
    return tuple(span for at, span in enumerate(spans) if at == 0 or span[0] > spans[at - 1][1])


def _a_tenth(name: bytes) -> bool:
    return name[0] < 26
