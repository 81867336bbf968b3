"""The line in front of a worker thread: batches, order, bounds, deadlines, and an end that leaves nobody waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from retrieval.service.lanes import Lane
from retrieval.service.meters import Meters
from retrieval.service.problems import Problem

SOON = 5.0  # seconds; a deadline that no test reaches


class Gate:
    """Work that waits until it is let go on, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def double(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.begun.set()
        assert self.may_end.wait(SOON)
        return [2 * item for item in items]


def doubled(items: list[int]) -> list[int | Exception]:
    return [2 * item for item in items]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.001)


async def held(lane: Lane[int, int], gate: Gate, *items: int, deadline: float = SOON) -> list[asyncio.Task[int]]:
    """Asks 0, which is worked on until the gate opens, and the items, which wait behind it."""
    first = asyncio.create_task(lane.ask(0, SOON))
    await until(gate.begun.is_set)
    rest = [asyncio.create_task(lane.ask(item, deadline)) for item in items]
    await asyncio.sleep(0)
    return [first, *rest]


def test_an_answer_comes_back_to_its_asker() -> None:
    async def ask() -> int:
        async with Lane("double", doubled, waiting=4, batch=4) as lane:
            return await lane.ask(21, SOON)

    assert asyncio.run(ask()) == 42


def test_whoever_waits_while_it_is_busy_is_answered_together_in_order() -> None:
    gate, meters = Gate(), Meters()

    async def ask() -> list[int]:
        async with Lane("double", gate.double, waiting=9, batch=3, meters=meters) as lane:
            tasks = await held(lane, gate, 1, 2, 3, 4, 5)
            assert b'lookahead_lane_waiting{lane="double"} 5.0' in meters.text()
            gate.may_end.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert gate.batches == [[0], [1, 2, 3], [4, 5]]
    assert b'lookahead_lane_batch_size_sum{lane="double"} 6.0' in meters.text()
    assert b'lookahead_lane_batch_size_count{lane="double"} 3.0' in meters.text()
    assert b'lookahead_lane_waiting{lane="double"} 0.0' in meters.text()


def test_one_asker_s_exception_is_heard_by_that_one_alone() -> None:
    gate = Gate()
    gate.may_end.set()

    def halve(items: list[int]) -> list[int | Exception]:
        gate.batches.append(items)
        return [ValueError(f"{item} is odd") if item % 2 else item // 2 for item in items]

    async def ask() -> list[int | BaseException]:
        async with Lane("halve", halve, waiting=9, batch=9) as lane:
            return await asyncio.gather(*(lane.ask(item, SOON) for item in (4, 5, 6)), return_exceptions=True)

    two, odd, three = asyncio.run(ask())
    assert (two, three) == (2, 3)
    assert isinstance(odd, ValueError)
    assert str(odd) == "5 is odd"


@pytest.mark.parametrize("fault", ["raises", "forgets"])
def test_work_that_fails_as_a_whole_is_done_again_one_by_one(fault: str) -> None:
    gate = Gate()

    def touchy(items: list[int]) -> list[int | Exception]:
        if items == [0]:
            return gate.double(items)
        if 13 in items:
            if fault == "raises":
                raise RuntimeError("13")
            return []
        return [2 * item for item in items]

    async def ask() -> list[int | BaseException]:
        async with Lane("touchy", touchy, waiting=9, batch=9) as lane:
            tasks = await held(lane, gate, 1, 13, 2)
            gate.may_end.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert await lane.ask(3, SOON) == 6  # the thread is still there
            return answers

    zero, two, fault_of_its_own, four = asyncio.run(ask())
    assert (zero, two, four) == (0, 2, 4)
    assert isinstance(fault_of_its_own, RuntimeError if fault == "raises" else AssertionError)


def test_a_full_line_refuses_with_the_time_it_will_take() -> None:
    gate, meters = Gate(), Meters()

    async def ask() -> Problem:
        async with Lane("slow", gate.double, waiting=3, batch=1, meters=meters) as lane:
            gate.may_end.set()
            await lane.ask(0, SOON)
            gate.may_end.clear()
            gate.begun.clear()
            lane._seconds = 1.5  # an item's, as if measured
            tasks = await held(lane, gate, 1, 2, 3)
            with pytest.raises(Problem) as refused:
                await lane.ask(4, SOON)
            gate.may_end.set()
            assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
            return refused.value

    refused = asyncio.run(ask())
    assert refused.status == 429
    assert refused.headers == {"Retry-After": "5"}  # 3 items of 1.5 seconds
    assert refused.detail == "3 others are waiting already; try again in a while"
    assert b'lookahead_lane_refused_total{lane="slow"} 1.0' in meters.text()


def test_the_time_an_item_takes_is_measured_and_an_hour_is_not_promised_before() -> None:
    def slow(items: list[int]) -> list[int | Exception]:
        time.sleep(0.05)
        return [2 * item for item in items]

    async def ask() -> tuple[int, int]:
        async with Lane("slow", slow, waiting=9, batch=9) as lane:
            before = lane.retry_after(1_000)
            await lane.ask(1, SOON)
            return before, lane.retry_after(1_000)

    before, after = asyncio.run(ask())
    assert before == 1
    assert 50 <= after <= 150


def test_whoever_is_late_hears_so_and_is_not_worked_on() -> None:
    gate = Gate()

    async def ask() -> tuple[BaseException | int, float]:
        async with Lane("late", gate.double, waiting=9, batch=9) as lane:
            begun = time.monotonic()
            first, late = await held(lane, gate, 1, deadline=0.05)
            (answer,) = await asyncio.gather(late, return_exceptions=True)
            waited = time.monotonic() - begun
            gate.may_end.set()
            assert await first == 0
            assert await lane.ask(2, SOON) == 4
            return answer, waited

    answer, waited = asyncio.run(ask())
    assert isinstance(answer, Problem)
    assert (answer.status, answer.detail) == (504, "no answer within 0.05 seconds; try again, or ask for less")
    assert 0.05 <= waited < 1
    assert gate.batches == [[0], [2]]


def test_whoever_is_late_is_not_worked_on_even_before_they_hear_so() -> None:
    gate = Gate()

    async def ask() -> list[int | BaseException]:
        async with Lane("late", gate.double, waiting=9, batch=9) as lane:
            tasks = await held(lane, gate, 1, deadline=0.02)
            time.sleep(0.03)  # the event loop has no time to tell anybody
            gate.may_end.set()
            while lane._line:
                time.sleep(0.001)
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, late = asyncio.run(ask())
    assert first == 0
    assert isinstance(late, Problem)
    assert gate.batches == [[0]]


def test_whoever_goes_makes_room_and_is_not_worked_on() -> None:
    gate = Gate()

    async def ask() -> list[int]:
        async with Lane("gone", gate.double, waiting=1, batch=9) as lane:
            first, gone = await held(lane, gate, 1)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            instead = asyncio.create_task(lane.ask(2, SOON))  # the line holds one
            await asyncio.sleep(0)
            gate.may_end.set()
            return await asyncio.gather(first, instead)

    assert asyncio.run(ask()) == [0, 4]
    assert gate.batches == [[0], [2]]


def test_whoever_goes_while_worked_on_leaves_the_others_their_answers() -> None:
    gate = Gate()

    async def ask() -> int:
        async with Lane("gone", gate.double, waiting=9, batch=9) as lane:
            (first,) = await held(lane, gate)
            first.cancel()
            gate.may_end.set()
            return await lane.ask(1, SOON)

    assert asyncio.run(ask()) == 2


def test_at_the_end_what_is_begun_ends_and_the_rest_is_refused() -> None:
    gate = Gate()

    async def ask() -> tuple[list[int | BaseException], Problem]:
        async with Lane("end", gate.double, waiting=9, batch=1) as lane:
            tasks = await held(lane, gate, 1, 2)
            threading.Timer(0.05, gate.may_end.set).start()
        with pytest.raises(Problem) as after:
            await lane.ask(3, SOON)
        assert not [thread for thread in threading.enumerate() if thread.name == "lane end"]
        return await asyncio.gather(*tasks, return_exceptions=True), after.value

    (begun, *refused), after = asyncio.run(ask())
    assert begun == 0
    assert [one.status for one in refused if isinstance(one, Problem)] == [503, 503]
    assert after.status == 503
    assert gate.batches == [[0]]


def test_a_lane_that_is_not_open_yet_refuses() -> None:
    lane = Lane("closed", doubled, waiting=1, batch=1)
    with pytest.raises(Problem, match="not open"):
        asyncio.run(lane.ask(1, SOON))


def test_three_hundred_askers_at_once_each_get_their_own_answer_quickly() -> None:
    sizes: list[int] = []

    def work(items: list[int]) -> list[int | Exception]:
        sizes.append(len(items))
        time.sleep(0.001)
        return [2 * item for item in items]

    async def ask() -> tuple[list[int], float]:
        async with Lane("crowd", work, waiting=300, batch=32) as lane:
            begun = time.perf_counter()
            answers = await asyncio.gather(*(lane.ask(item, SOON) for item in range(300)))
            return answers, time.perf_counter() - begun

    answers, seconds = asyncio.run(ask())
    assert answers == [2 * item for item in range(300)]
    assert seconds < 0.5
    assert len(sizes) <= 15
    assert max(sizes) == 32


def test_a_second_thread_works_while_the_first_is_held() -> None:
    gate = Gate()

    async def ask() -> list[int]:
        async with Lane("two", gate.double, waiting=9, batch=1, threads=2) as lane:
            tasks = [asyncio.create_task(lane.ask(item, SOON)) for item in range(3)]
            await until(lambda: len(gate.batches) == 2)
            await asyncio.sleep(0.02)
            assert sorted(gate.batches) == [[0], [1]]  # the third has to wait
            gate.may_end.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [0, 2, 4]
    assert not [thread for thread in threading.enumerate() if thread.name == "lane two"]
