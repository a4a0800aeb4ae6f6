"""Whose turn it is to read the kernel's next request."""

from __future__ import annotations

import random
import socket
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from bitdustfs.edges.fuse_turn import (
    LINGER_S,
    LOOKS,
    RUSH_REQUESTS,
    RUSH_S,
    VAIN_MOST,
    Rush,
    Turn,
    Waiting,
    looks_of,
    taking_turns,
)

WORKERS = 5


class Kernel:
    """Requests, and workers that read and answer them as pyfuse3's tasks do.

    Args:
        waits: how often the answer to each request waits.
    """

    def __init__(self, turn: Turn, waits: list[int]) -> None:
        self._turn = turn
        self._waits = waits
        self._incoming, self._outgoing = trio.open_memory_channel[int](len(waits))
        self._is_read = False
        self.readers: list[str] = []  # who read each request
        self.answered: list[int] = []
        self.gate = trio.Event()  # answers that wait longer than for a pass wait for it

    def send(self, number: int) -> None:
        self._incoming.send_nowait(number)

    async def work(self, name: str) -> None:
        while True:
            async with self._turn:
                assert not self._is_read, "two read at once"
                self._is_read = True
                try:
                    number = await self._outgoing.receive()
                finally:
                    self._is_read = False
            self.readers.append(name)
            for _ in range(self._waits[number]):
                await trio.sleep(0)
            if self._waits[number] < 0:
                await self.gate.wait()
            self.answered.append(number)


async def served(nursery: trio.Nursery, waits: list[int]) -> Kernel:
    """Workers, one of which waits for requests; they use the lock that pyfuse3 would find."""
    pyfuse3: Any = SimpleNamespace(trio=trio)
    nursery.start_soon(_hold, pyfuse3)
    await trio.testing.wait_all_tasks_blocked()
    kernel = Kernel(cast(Turn, pyfuse3.trio.Lock()), waits)
    for number in range(WORKERS):
        nursery.start_soon(kernel.work, f"worker {number}")
    await trio.testing.wait_all_tasks_blocked()
    return kernel


async def _hold(pyfuse3: Any) -> None:
    with taking_turns(pyfuse3):
        await trio.sleep_forever()


async def test_who_answers_without_waiting_reads_the_next_request_too() -> None:
    async with trio.open_nursery() as nursery:
        kernel = await served(nursery, [0] * 10)
        for number in range(10):
            kernel.send(number)
            await trio.testing.wait_all_tasks_blocked()
        assert kernel.answered == list(range(10))
        assert len(set(kernel.readers)) == 1
        nursery.cancel_scope.cancel()


async def test_another_one_reads_while_an_answer_waits() -> None:
    async with trio.open_nursery() as nursery:
        kernel = await served(nursery, [-1, -1, 0, 0])
        for number in range(4):
            kernel.send(number)
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.answered == [2, 3]
        kernel.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(kernel.answered) == list(range(4))
        nursery.cancel_scope.cancel()


async def test_next_request_is_read_though_the_one_that_was_woken_for_it_is_cancelled() -> None:
    async with trio.open_nursery() as nursery:
        turn = Turn()
        trio.lowlevel.add_instrument(turn)
        order: list[str] = []
        scopes = [trio.CancelScope() for _ in range(WORKERS)]

        async def take(number: int) -> None:
            with scopes[number]:
                async with turn:
                    order.append(f"{number}")
                    await trio.sleep_forever()

        for number in range(WORKERS):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[2].cancel()  # while it queues
        scopes[0].cancel()  # while it has the turn
        scopes[1].cancel()  # in the same pass
        await trio.testing.wait_all_tasks_blocked()
        assert [number for number in order if number not in "01"] == ["3"]
        nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(turn)


@pytest.mark.parametrize("seed", range(5))
async def test_every_request_is_answered_whatever_waits(seed: int) -> None:
    dice = random.Random(seed)
    waits = [dice.choice((0, 0, 1, 2, 3)) for _ in range(200)]
    async with trio.open_nursery() as nursery:
        kernel = await served(nursery, waits)
        for number in range(len(waits)):
            kernel.send(number)
            if dice.random() < 0.5:
                await trio.sleep(0)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(kernel.answered) == list(range(len(waits)))
        nursery.cancel_scope.cancel()


async def test_pyfuse3_has_its_trio_back_afterwards() -> None:
    pyfuse3: Any = SimpleNamespace(trio=trio)
    with taking_turns(pyfuse3):
        assert pyfuse3.trio.lowlevel.current_task is trio.lowlevel.current_task
        assert isinstance(pyfuse3.trio.Lock(), Turn)
    assert pyfuse3.trio is trio


async def test_request_that_comes_at_once_is_read_before_others_run() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waiting, passes = Waiting(now_s=lambda: 1.0), 0  # "at once" also where the processor is somebody else's
        theirs.send(b"1")
        await waiting.wait_readable(ours.fileno())
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                nonlocal passes
                while True:
                    passes += 1
                    await trio.sleep(0)

            for _ in range(20):  # trio shuffles who runs
                nursery.start_soon(count)
            await waiting.wait_readable(ours.fileno())  # what lies there was not read: it comes at once
            assert passes == 0
            nursery.cancel_scope.cancel()


async def test_others_run_though_requests_come_without_a_pause() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waiting, has_run = Waiting(), trio.Event()
        theirs.send(b"1")
        await waiting.wait_readable(ours.fileno())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set, has_run)
            while not has_run.is_set():
                await waiting.wait_readable(ours.fileno())


async def _set(event: trio.Event) -> None:
    event.set()


class Looks:
    """Looks at a descriptor, and what each finds; what is not said finds nothing."""

    def __init__(self, *found: bool) -> None:
        self._found = iter(found)
        self.waits_s: list[float] = []  # how long each may have waited

    def __call__(self, _descriptor: int, wait_s: float) -> bool:
        self.waits_s.append(wait_s)
        return next(self._found, False)


async def waited(waiting: Waiting, looks: Looks, descriptor: int) -> list[float]:
    """How long each look may have waited, while a request was waited for that trio would find at once."""
    looks.waits_s.clear()
    await waiting.wait_readable(descriptor)
    return looks.waits_s.copy()


async def test_request_that_comes_within_microseconds_is_not_slept_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"1")
        looks = Looks(False, False, True)
        waiting = Waiting(now_s=lambda: 0.001, is_readable=looks, looks=10)
        assert await waited(waiting, looks, ours.fileno()) == [0, 0, 0]


async def test_one_asleep_follows_the_looks_awake_and_after_both_in_vain_the_next_times_only_look_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"1")
        looks = Looks()
        waiting = Waiting(now_s=lambda: 0.001, is_readable=looks, looks=3)
        awake_then_asleep = [0, 0, 0, LINGER_S]
        assert await waited(waiting, looks, ours.fileno()) == awake_then_asleep
        for _ in range(VAIN_MOST):
            assert await waited(waiting, looks, ours.fileno()) == [0]
        assert await waited(waiting, looks, ours.fileno()) == awake_then_asleep


def test_with_one_processor_nobody_is_kept_from_it() -> None:
    assert looks_of(1) == 1
    assert looks_of(2) == LOOKS


def test_many_requests_in_a_short_time_are_a_rush_and_soon_after_the_last_it_is_over() -> None:
    now_s = 100.0
    rush = Rush(lambda: now_s)
    for _ in range(RUSH_REQUESTS - 1):
        rush.came(now_s)
    assert not rush.is_on()
    rush.came(now_s)
    assert rush.is_on()
    now_s += RUSH_S * 1.01
    assert not rush.is_on()


def test_requests_from_time_to_time_are_no_rush() -> None:
    now_s = 100.0
    rush = Rush(lambda: now_s)
    for _ in range(RUSH_REQUESTS * 10):
        rush.came(now_s)
        assert not rush.is_on()
        now_s += RUSH_S * 1.5 / RUSH_REQUESTS


async def test_requests_that_come_right_after_an_answer_are_a_rush_and_others_are_not() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"1")
        for found in (True, False):
            rush = Rush(lambda: 0.001)
            looks = Looks(*[found] * RUSH_REQUESTS)
            waiting = Waiting(now_s=lambda: 0.001, is_readable=looks, looks=1, rush=rush)
            for _ in range(RUSH_REQUESTS):
                await waited(waiting, looks, ours.fileno())
            assert rush.is_on() is found


async def test_request_that_comes_late_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waiting = Waiting()
        for _ in range(3):
            timer = threading.Timer(0.005, theirs.send, (b"1",))
            timer.start()
            await waiting.wait_readable(ours.fileno())
            assert ours.recv(1) == b"1"
            timer.join()
