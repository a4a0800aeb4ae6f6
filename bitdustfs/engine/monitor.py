"""The monitor: who answers, who has been away for too long, and who takes their place.

    connection comes or goes, time passes -> standing (core/standing) -> the catalog
                                                 lost: its fragments stop counting, a candidate is hired

The rebuilder does the rest: a block whose fragments stopped counting lacks some, and is in its queue. Fragments are
moved from HELD to ABSENT in small steps, found from the catalog alone, so that a killed process goes on where it was;
the standing is committed first. What a supplier that is back shows counts again (engine/returns).

Each decision is noted, with the numbers that decided it, in the transaction that carries it out (model.Verdict).

Two things keep a mistake of ours from costing anybody's bandwidth. Only time that was spent looking counts as
absence: a machine that slept, or was off, saw nothing. And while fewer than half of the hired suppliers answer, and
fewer than half with the candidates, we take it that we are the ones who are cut off, and nobody's absence grows. But
who was away before that began, while others went on to answer, is away: his goes on as long as anybody answers. And
when that has lasted longer than we would wait for anybody, nothing is called safe any more (`is_unsure`): nobody is
given up for it, but nobody can say either that what the silent ones hold is still there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Final, Protocol

import trio

from bitdustfs.core import grace, placement, standing
from bitdustfs.core.grace import Patience
from bitdustfs.core.standing import Event, State
from bitdustfs.core.verdicts import unfilled
from bitdustfs.engine.journal import Journal
from bitdustfs.engine.margins import least_margin
from bitdustfs.engine.tracks import Tracks
from bitdustfs.model import (
    Absence,
    Code,
    FragmentState,
    Observation,
    Rule,
    Standing,
    Supplier,
    SupplierNo,
    Verdict,
)
from bitdustfs.ports import Catalog, Wall

ABSENT_S: Final = 60.0  # silent for so long: offline, not just between two connections
TICK_S: Final = 5.0  # between two looks, if nothing happens
NOTE_S: Final = 60.0  # between two notes of how long somebody is away: what a crash may forget
FRUITLESS_S: Final = 600.0  # (tune) a supplier that is there and takes nothing for so long is no replacement
COUNT_AGAIN_S: Final = 600.0  # a count over all blocks takes a second for a million
STEP: Final = 100  # fragments moved in one turn: some milliseconds
_NOWHERE: Final = frozenset({State.CANDIDATE, State.LOST, State.MISSING, State.FIRED})  # nobody expects an answer
_RULES: Final = {  # of what the person brings about, or somebody else here
    State.FIRED: {Event.EMPTY: Rule.EMPTY, Event.LEAVE: Rule.FIRE, Event.FIRE: Rule.FIRE},
    State.LEAVING: {Event.LEAVE: Rule.LEAVE},
    State.HIRED: {Event.HIRE: Rule.HIRE},
}
_NOBODY: Final = SupplierNo(0)
_DOUBTED = "doubted_s"  # in the catalog, local: 8 bytes, seconds for which most suppliers were silent
_log = logging.getLogger(__name__)


class Watched(Protocol):
    """What the monitor needs of the suppliers."""

    def online(self) -> Sequence[SupplierNo]: ...

    def space(self) -> Mapping[SupplierNo, tuple[int, int]]: ...

    def take_speeds(self) -> Mapping[SupplierNo, float]:
        """Bytes a second, the best since this was asked last, of suppliers that moved something."""
        ...

    def add(self, row: Supplier) -> None: ...

    async def wait_for_change(self) -> None: ...


class Monitor:
    """Keep the standing of every supplier true, and the set of hired ones complete.

    Args:
        patience: how long suppliers may stay away.
        tick_s: the longest time between two looks.
    """

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        suppliers: Watched,
        wall: Wall,
        patience: Patience,
        tracks: Tracks,
        *,
        tick_s: float = TICK_S,
    ) -> None:
        self._tracks = tracks
        self._catalog = catalog
        self._journal = journal
        self._suppliers = suppliers
        self._wall = wall
        self._patience = patience
        self._tick_s = min(tick_s, patience.at_none_s / 10)
        self._absent_s = min(ABSENT_S, patience.at_none_s / 2)
        self._states: dict[SupplierNo, State] = {}
        self._away_s: dict[SupplierNo, float] = {}
        self._since_ns: dict[SupplierNo, int] = {}
        self._fruitless_s: dict[
            SupplierNo, float
        ] = {}  # for how long it has held nothing, though there was something
        self._fruitless_after_s = min(FRUITLESS_S, patience.at_none_s)
        self._away_before: frozenset[SupplierNo] = frozenset()  # who was away when it became doubtful who is
        self._doubted_s = 0.0
        self._counted_spare: tuple[frozenset[SupplierNo], float, int] | None = None  # who was there, when, how much
        self.on_absent: Callable[[SupplierNo], None] = lambda _supplier: None  # what it held does not count any more
        self.may_count: Callable[[SupplierNo], bool] = lambda _supplier: True  # who is back: what it has, again
        self.may_hire: Callable[[SupplierNo], bool] = lambda _supplier: True
        self.is_doubtful = False  # whether it seems that we are the ones who are cut off

    def state(self, row: Supplier) -> State:
        """What a supplier is to us, by its row: the person may have hired it, or given it up, since we looked."""
        state = self._states.get(row.supplier)
        if state is None or standing.kept(state) is not row.standing:
            state = self._states[row.supplier] = standing.at_start(row.standing)
        return state

    @property
    def is_unsure(self) -> bool:
        """Most suppliers have been silent for longer than we wait for anybody: nobody knows what they still hold."""
        return self.is_doubtful and self._doubted_s >= self._patience.at_none_s

    @property
    def doubted_s(self) -> float:
        """For how long most suppliers have been silent, as far as we were there to see it; 0: they are not."""
        return self._doubted_s

    def meets(self, row: Supplier, event: Event, rule: Rule | None = None) -> State:
        """Let something happen to a supplier that the person, or somebody else here, brings about.

        Args:
            rule: by what that was decided; None: the person did.
        Raises:
            DiskFull, DiskFault, ReadOnly: nothing was changed.
        """
        before = self.state(row)
        rule = rule or _RULES.get(standing.after(before, event), {}).get(event)
        is_news = before is not State.FIRED or rule is Rule.RENEWAL
        verdict = self._verdict(row, rule) if rule is not None and is_news else None
        return self._meets(row, event, verdict)

    def is_away(self, supplier: SupplierNo) -> bool:
        """Say whether it has been silent for longer than a ping takes, as far as we were there to see it."""
        return self._away_s.get(supplier, 0.0) >= self._absent_s

    def since_ns(self, supplier: SupplierNo) -> int:
        """The wall time since when it answers, or does not; 0: not known."""
        return self._since_ns.get(supplier, 0)

    async def run(self) -> None:
        """Watch until cancelled."""
        self._remember()
        looked_at = noted_at = trio.current_time()
        while True:
            now = trio.current_time()
            if self._journal.refusal is None:
                elapsed_s = grace.seen_s(now - looked_at, self._tick_s)
                await self._look(elapsed_s)
                self._hire_replacements(elapsed_s)
                await self._move_fragments()
                if now - noted_at >= NOTE_S:
                    self._note_absences()
                    noted_at = now
            looked_at = now
            with trio.move_on_after(self._tick_s):
                await self._suppliers.wait_for_change()

    # -- who is there ------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        self._tracks.remember()
        for seen in self._catalog.observations():
            self._away_s[seen.supplier] = seen.away_s
            self._since_ns[seen.supplier] = seen.since_ns
        self._doubted_s = float(int.from_bytes(self._catalog.local_value(_DOUBTED) or b"", "big"))

    async def _look(self, elapsed_s: float) -> None:
        rows = self._catalog.suppliers()
        for row in rows:
            self.state(row)
        online = set(self._suppliers.online())
        expected = {row.supplier for row in rows if self._states[row.supplier] not in _NOWHERE}
        with_candidates = expected | {row.supplier for row in rows if row.standing is Standing.CANDIDATE}
        doubtful = all(grace.are_we_the_ones(len(online & some), len(some)) for some in (expected, with_candidates))
        self._doubt(doubtful, elapsed_s)
        for row in rows:
            if row.supplier in online:
                self._answers(row)
            else:
                self._is_silent(row, elapsed_s if self._is_away(row.supplier, online) else 0.0)
        seen = {row.supplier: row.supplier in online for row in rows if self._says_something(row, online)}
        self._tracks.watch(seen, self._suppliers.take_speeds(), elapsed_s)
        # who only was not there at this moment, as everybody is after a start, is not counted as away
        offline = [row for row in rows if self._is_offline(row.supplier)]
        if judged := [row for row in offline if self._is_away(row.supplier, online)]:
            await self._judge(rows, judged, offline)

    def _is_offline(self, supplier: SupplierNo) -> bool:
        state = self._states[supplier]
        return state is State.OFFLINE or (state is State.LEAVING and self.is_away(supplier))

    def _says_something(self, row: Supplier, online: Set[SupplierNo]) -> bool:
        """Whether it answers is worth a note: it is one of ours, and if it is silent, that is its own fault."""
        is_ours = row.standing is not Standing.FIRED
        return is_ours and (row.supplier in online or self._is_away(row.supplier, online))

    def _doubt(self, doubtful: bool, elapsed_s: float) -> None:
        if doubtful and not self.is_doubtful:
            _log.info("most suppliers do not answer: nobody is judged until it is clear that we are not cut off")
            self._away_before = frozenset(no for no, away_s in self._away_s.items() if away_s >= self._absent_s)
        self.is_doubtful = doubtful
        if doubtful:
            self._doubted_s += elapsed_s
        elif self._doubted_s:
            self._doubted_s = 0.0
            self._note_absences()

    def _is_away(self, supplier: SupplierNo, online: Set[SupplierNo]) -> bool:
        """If a supplier does not answer: whether that is its own fault, and not ours."""
        return not self.is_doubtful or (bool(online) and supplier in self._away_before)

    def _answers(self, row: Supplier) -> None:
        before = self._states[row.supplier]
        if before in (State.ONLINE, State.FIRED) or (row.is_lost and not self.may_count(row.supplier)):
            return
        away_s = self._away_s.get(row.supplier, 0.0)
        if before is State.CANDIDATE and away_s == 0:
            return  # as always
        self._away_s[row.supplier] = 0.0
        verdict = self._verdict(row, Rule.RETURN, away_s=away_s) if row.is_lost else None
        state = self._meets(row, Event.ANSWER, verdict)
        now_ns = self._wall.now_ns()
        if away_s >= self._absent_s:
            _log.info("supplier %s is back after %.0f s", row.label, away_s)
        if state is before and away_s == 0:
            return
        self._since_ns[row.supplier] = now_ns
        with self._journal.operation():
            self._catalog.put_observation(Observation(row.supplier, 0.0, now_ns))
            if away_s >= self._absent_s:
                forget = now_ns - grace.MEMORY_DAYS * grace.DAY_S * 10**9
                self._catalog.note_absence(row.supplier, Absence(now_ns, away_s), forget)

    def _is_silent(self, row: Supplier, elapsed_s: float) -> None:
        state = self._states[row.supplier]
        if state is State.ONLINE:
            self._since_ns[row.supplier] = self._wall.now_ns()
            self._meets(row, Event.SILENCE)
            return
        if state in (State.FIRED, State.CANDIDATE):
            return
        self._away_s[row.supplier] = self._away_s.get(row.supplier, 0.0) + elapsed_s
        if state in (State.HIRED, State.SUSPECT) and self._away_s[row.supplier] >= self._absent_s:
            self._since_ns.setdefault(row.supplier, self._wall.now_ns())
            self._meets(row, Event.ABSENCE)

    async def _judge(self, rows: Sequence[Supplier], judged: Sequence[Supplier], offline: Sequence[Supplier]) -> None:
        """See which of the `judged` are lost, while those that are `offline` cannot be counted on."""
        away_s = {row.supplier: self._away_s[row.supplier] for row in judged}
        if max(away_s.values(), default=0.0) < self._patience.least_s:
            return
        spare = await self._spare([row for row in rows if row.is_listed], offline)
        least_s = grace.waits_s(self._patience, spare, dict.fromkeys(away_s, 0.0))  # habits only make us wait longer
        near, now_ns = grace.overdue(away_s, least_s), self._wall.now_ns()
        habits_s = {number: grace.longest_s(self._catalog.absences(number), now_ns) for number in near}
        waits_s = least_s | grace.waits_s(self._patience, spare, habits_s)
        overdue = grace.overdue(away_s, waits_s)
        # no await from here on: who came back, or was given up, while blocks were counted is not judged
        now = {row.supplier: row for row in self._catalog.suppliers()}
        back = set(self._suppliers.online())
        for row in (now[row.supplier] for row in judged if row.supplier in overdue - back):
            if not self._is_offline(row.supplier) or standing.kept(self._states[row.supplier]) is not row.standing:
                continue
            _log.warning(
                "supplier %s is lost, and what it held is made again elsewhere: it was away for %.0f s, and with %d "
                "fragments to spare we wait for %.0f s",
                row.label,
                away_s[row.supplier],
                spare,
                waits_s[row.supplier],
            )
            self._meets(
                row,
                Event.PATIENCE_ENDS,
                self._verdict(
                    row,
                    Rule.SILENCE,
                    away_s=away_s[row.supplier],
                    wait_s=waits_s[row.supplier],
                    longest_s=habits_s[row.supplier],
                    spare=spare,
                ),
            )

    async def _spare(self, hired: Sequence[Supplier], offline: Sequence[Supplier]) -> int:
        """Held fragments minus k of the worst block, without those at suppliers that are offline."""
        codes = self._catalog.codes()
        least = self._least_spare(codes) - len(offline)
        most_n = max((code.n for code in codes), default=0)
        if least >= grace.AT_EASE or len(hired) <= most_n:
            return least  # that every block has a fragment at each of them is true, or makes no difference
        away = {row.supplier for row in offline}
        present = frozenset(row.supplier for row in hired if row.supplier not in away)
        counted = self._counted_spare
        if counted is None or counted[0] != present or trio.current_time() - counted[1] > COUNT_AGAIN_S:
            margin = await least_margin(self._catalog, present)
            counted = self._counted_spare = present, trio.current_time(), least if margin is None else margin
        return max(least, counted[2])

    def _least_spare(self, codes: Iterable[Code]) -> int:
        """Held fragments minus k of the worst block; of the codes in use if no block lacks any."""
        worst = self._catalog.wanting_blocks(1)
        spares = [wanting.spare for wanting in worst] + [code.n - code.k for code in codes]
        return min(spares, default=0)

    def _meets(self, row: Supplier, event: Event, verdict: Verdict | None = None) -> State:
        state = standing.after(self._states[row.supplier], event)
        kept = standing.kept(state)
        if kept is not row.standing:
            with self._journal.operation():
                self._put_standing(row, kept)
                if verdict is not None:
                    self._catalog.note_verdict(verdict)
        _log.debug("supplier %s: %s -> %s", row.label, self._states[row.supplier].value, state.value)
        self._states[row.supplier] = state
        return state

    def _verdict(
        self,
        row: Supplier,
        rule: Rule,
        *,
        away_s: float = 0.0,
        wait_s: float = 0.0,
        longest_s: float = 0.0,
        spare: int = 0,
        missing: int = 0,
        instead: SupplierNo = _NOBODY,
    ) -> Verdict:
        return Verdict(
            supplier=row.supplier,
            rule=rule,
            at_ns=self._wall.now_ns(),
            away_s=away_s,
            wait_s=wait_s,
            longest_s=longest_s,
            spare=spare,
            missing=missing,
            instead=instead,
            fragments=row.used_fragments,
            bytes=row.used_bytes,
        )

    def _put_standing(self, row: Supplier, kept: Standing) -> None:
        changed = replace(row, standing=kept)
        self._catalog.put_supplier(changed)
        self._suppliers.add(changed)

    def _note_absences(self) -> None:
        away = {number: away_s for number, away_s in self._away_s.items() if away_s > 0}
        doubted = int(self._doubted_s).to_bytes(8, "big")
        if away or doubted != (self._catalog.local_value(_DOUBTED) or bytes(8)):
            with self._journal.operation():
                self._catalog.put_local_value(_DOUBTED, doubted)
                for number, away_s in away.items():
                    seen = Observation(number, away_s, self._since_ns.get(number, 0))
                    self._catalog.put_observation(seen)

    # -- what follows ------------------------------------------------------------------------------------------

    def _hire_replacements(self, elapsed_s: float) -> None:
        """Hire candidates that answer while there are fewer suppliers than some block has fragments.

        Who was hired, and takes nothing of what there is to take, is no supplier yet.
        """
        rows = self._catalog.suppliers()
        hired = [row for row in rows if row.is_hired]
        online, space = set(self._suppliers.online()), self._suppliers.space()
        self._count_fruitless(hired, online, elapsed_s)
        codes: list[Code] = list(self._catalog.codes())
        missing = max((code.n for code in codes), default=0) - len(hired) + len(self._fruitless())
        if missing <= 0 or self.is_doubtful:
            return

        def seen(row: Supplier) -> placement.Candidate:
            network = placement.failure_network(row.address)
            room = space.get(row.supplier, (0, 0))
            return placement.Candidate(
                row.supplier, row.owner, network, *room, score=self._tracks.score(row.supplier)
            )

        spares = [
            row
            for row in rows
            if row.standing is Standing.CANDIDATE and row.supplier in online and self.may_hire(row.supplier)
        ]
        chosen = placement.choose(map(seen, spares), missing, fragment_bytes=1, taken=map(seen, hired))
        places = iter(unfilled(self._catalog.verdicts(), rows, self._fruitless()) if chosen else ())
        for row in spares:
            if row.supplier in chosen:
                _log.warning("supplier %s is hired: %d are missing", row.label, missing)
                verdict = self._verdict(row, Rule.REPLACEMENT, missing=missing, instead=next(places, _NOBODY))
                self._meets(row, Event.HIRE, verdict)

    def _count_fruitless(self, hired: Sequence[Supplier], online: Set[SupplierNo], elapsed_s: float) -> None:
        idle = [row.supplier for row in hired if not row.used_fragments]
        if idle and self._catalog.wanting_blocks(1):
            self._fruitless_s = {
                number: self._fruitless_s.get(number, 0.0) + (elapsed_s if number in online else 0.0)
                for number in idle
            }
        else:
            self._fruitless_s = {}

    def _fruitless(self) -> list[SupplierNo]:
        return [number for number, idle_s in self._fruitless_s.items() if idle_s >= self._fruitless_after_s]

    async def _move_fragments(self) -> None:
        """Let the fragments of lost suppliers count no more, also of those given up before all were moved."""
        gone = [row for row in self._catalog.suppliers() if row.is_lost or row.standing is Standing.FIRED]
        for lost in self._catalog.holding(row.supplier for row in gone) if gone else ():
            while rows := self._catalog.fragments_at(lost, FragmentState.HELD, STEP):
                self.on_absent(lost)
                with self._journal.operation():
                    for row in rows:
                        self._catalog.put_fragment(replace(row, state=FragmentState.ABSENT))
                await trio.lowlevel.checkpoint()
