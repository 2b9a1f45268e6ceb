"""An attempt asks in time whether it has been succeeded, and leaves behind what is right."""

from __future__ import annotations

import asyncio

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import ConnectionLost, Fenced, IntegrityError, Unavailable
from flowrunner_provider.core.journal import Journal, MemoryStore
from flowrunner_provider.core.lease import Lease, Owner
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.guard import ASK_EVERY, FencingGuard


class Scene:
    """An attempt with a clock that is set by hand, its state store, and an upload that tells what becomes of it."""

    def __init__(self) -> None:
        self.clock, self.store, self.end = ManualClock(), MemoryStore(), ""
        self.run = Run.open(self.store, ("d", "t", "r", "-1"), clock=self.clock)
        self.guard = FencingGuard(self.run)

    async def discard(self) -> None:
        self.end += "discarded"

    async def withdraw(self) -> None:
        self.end += "withdrawn"

    def succeeded(self, *, finished: bool = False) -> None:
        """A newer attempt takes over."""
        Lease(self.store, Owner.me()).take()
        if finished:
            Journal(self.store, max_tries=0).finish(None)

    def fails_with(self, error: BaseException, *, keep: bool = True) -> str:
        asyncio.run(self.guard.clean_up(self, error, keep=keep))
        return self.end


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_it_asks_after_a_second(scene):
    scene.succeeded()
    scene.guard.check()
    scene.clock.advance(ASK_EVERY)
    for _ in range(2):
        with pytest.raises(Fenced):
            scene.guard.check()


def test_what_is_done_all_the_time_asks_only_after_a_standstill(scene):
    asked = []
    scene.store.get = lambda key, get=scene.store.get: (asked.append(key), get(key))[1]
    for _ in range(10):
        scene.clock.advance(ASK_EVERY / 2)
        scene.guard.check_awake()
    assert not asked
    scene.clock.advance(ASK_EVERY)
    scene.guard.check_awake()
    assert len(asked) == 1
    scene.succeeded()
    scene.guard.check_awake()
    scene.clock.advance(ASK_EVERY)
    with pytest.raises(Fenced):
        scene.guard.check_awake()


@pytest.mark.parametrize(
    ("error", "keep", "end"),
    [
        (ConnectionLost("x"), True, ""),
        (asyncio.CancelledError(), True, ""),
        (ConnectionLost("x"), False, "discarded"),
        (asyncio.CancelledError(), False, "discarded"),
        (IntegrityError("x"), True, "discarded"),
    ],
)
def test_what_the_newest_attempt_leaves(scene, error, keep, end):
    assert scene.fails_with(error, keep=keep) == end


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("error", [Fenced("x"), IntegrityError("x")])
def test_what_an_older_attempt_leaves(scene, error, finished):
    scene.succeeded(finished=finished)
    assert scene.fails_with(error) == ("discarded" if finished else "withdrawn")


def test_what_is_cancelled_with_it(scene):
    scene.succeeded()
    with pytest.raises(Fenced):
        scene.guard.check_now()
    assert scene.fails_with(asyncio.CancelledError()) == "withdrawn"


def test_the_newest_attempt_is_not_fenced_by_an_older_one(scene):
    with pytest.raises(Unavailable, match="an older attempt"):
        scene.fails_with(Fenced("the part is not ours"))
    assert scene.end == "discarded"


def test_where_nobody_can_tell_it_removes_its_own(scene):
    def broken(key: str) -> None:
        raise Unavailable("the state store is away")

    scene.store.get = broken
    assert scene.fails_with(IntegrityError("x")) == "withdrawn"
