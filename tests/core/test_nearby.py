"""Quick calls are made on the spot, slow ones in threads, and nobody else in the loop is forgotten."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.nearby import Nearby


def _places(clock: ManualClock, costs: list[float]) -> list[bool]:
    """For each call whether it was made on the spot."""
    loop_thread = threading.get_ident()

    def act(seconds: float) -> bool:
        clock.advance(seconds)
        return threading.get_ident() == loop_thread

    async def calls() -> list[bool]:
        near = Nearby(clock)
        return [await near.call(act, seconds) for seconds in costs]

    return asyncio.run(calls())


def test_quick_calls_and_a_single_slow_one_stay_on_the_spot() -> None:
    assert all(_places(ManualClock(), [0.0001] * 50 + [0.1] + [0.0001] * 50))


def test_slow_calls_go_into_threads_for_longer_and_longer_spells() -> None:
    places = _places(ManualClock(), [0.01] * 3000)
    assert [at for at, here in enumerate(places) if here] == [0, 1, 18, 83, 340, 1365, 2390]


def test_what_has_become_quick_comes_back() -> None:
    places = _places(ManualClock(), [0.01] * 2 + [0.0001] * 100)
    assert places.count(False) == 16
    assert all(places[18:])


def test_others_get_their_turn_and_errors_come_through() -> None:
    clock, seen = ManualClock(), []

    async def calls() -> None:
        near = Nearby(clock)

        async def other() -> None:
            seen.append("other")

        task = asyncio.create_task(other())
        for _ in range(5):
            await near.call(clock.advance, 0.0009)
        assert seen == ["other"]
        await task
        with pytest.raises(ZeroDivisionError):
            await near.call(divmod, 1, 0)

    asyncio.run(calls())
