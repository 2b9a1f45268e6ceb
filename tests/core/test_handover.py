"""Messages handed over once: what a lost answer means for each kind of far side."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.handover import FarSide, hand_over
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.core.run import Run

QUICK = RetryPlan(attempts=3, backoff=Backoff(base=0.0))


class Scene:
    """A far side that keeps what it is sent, and loses as many answers as it is told to."""

    def __init__(self, lose: int = 0, **far) -> None:
        self.far, self.lose = FarSide(title="far", **far), lose
        self.store, self.clock = MemoryStore(), ManualClock()
        self.sent: list[str] = []
        self.looked = 0

    async def send(self, key, at):
        self.sent.append(key)
        if self.lose:
            self.lose -= 1
            raise e.OutcomeUnknown("lost")
        return {"id": len(self.sent)}

    async def find(self, key, at):
        self.looked += 1
        return {"id": 1} if key in self.sent else None

    def attempt(self, on_unknown="stop", find=None, send=None):
        run = Run.open(self.store, ("d", "r", "t", "-1"), clock=self.clock, retry=QUICK)
        work = hand_over(
            run, self.far, action="test.hand", name="test.hand", fingerprint="x", exchange=1.0,
            on_unknown=on_unknown, send=send or self.send, find=find or self.find,
        )  # fmt: skip
        return asyncio.run(work)


def test_a_confirmed_message_is_not_sent_again():
    scene = Scene()
    assert scene.attempt() == scene.attempt() == {"id": 1}
    assert len(scene.sent) == 1


def test_a_token_that_is_remembered_is_sent_again_in_place():
    scene = Scene(lose=2, remembers=60.0)
    assert scene.attempt() == {"id": 3}
    assert len(set(scene.sent)) == 1


def test_a_token_that_is_forgotten_is_not():
    scene = Scene(lose=3, remembers=60.0)
    with pytest.raises(e.OutcomeUnknown) as caught:
        scene.attempt()
    assert caught.value.reconcilable
    scene.clock.advance(61)
    with pytest.raises(e.OutcomeUnknown, match="forgotten") as caught:
        scene.attempt()
    assert not caught.value.reconcilable
    assert len(scene.sent) == 3
    assert scene.attempt("resend") == {"id": 4}
    assert len(set(scene.sent)) == 2, "a new message for the far side"


def test_a_list_is_searched_after_a_while():
    scene = Scene(lose=1, reconciles=True, settle=30.0)
    scene.far = FarSide(title="far", reconciles=True)
    with pytest.raises(e.OutcomeUnknown):
        scene.attempt()
    scene.far = FarSide(title="far", reconciles=True, settle=30.0)
    with pytest.raises(e.Unavailable) as caught:
        scene.attempt()
    assert caught.value.retry_after == 30.0
    scene.clock.advance(30)
    assert scene.attempt() == {"id": 1}
    assert (len(scene.sent), scene.looked) == (1, 1)


@pytest.mark.parametrize("error", [e.TimedOut("slow"), e.NotFound("gone"), KeyError("x"), ValueError("x")])
def test_a_look_that_fails_is_no_proof(error):
    scene = Scene(lose=1, reconciles=True)

    async def broken(key, at):
        raise error

    for _ in range(2):
        with pytest.raises(e.OutcomeUnknown):
            scene.attempt(find=broken)
    assert len(scene.sent) == 1


def test_without_help_the_user_decides():
    for on_unknown, result, sent in (("skip", None, 1), ("resend", {"id": 2}, 2)):
        scene = Scene(lose=1)
        for _ in range(2):
            with pytest.raises(e.OutcomeUnknown) as caught:
                scene.attempt()
            assert not caught.value.reconcilable
        assert scene.attempt(on_unknown) == result
        assert len(scene.sent) == sent


@pytest.mark.parametrize("error", [KeyError("id"), TypeError("x"), e.IntegrityError("no JSON")])
def test_an_answer_that_cannot_be_read_may_mean_that_it_was_taken(error):
    scene = Scene()

    async def unreadable(key, at):
        raise error

    with pytest.raises(e.OutcomeUnknown):
        scene.attempt(send=unreadable)


def test_what_was_refused_is_sent_by_the_next_attempt():
    scene = Scene()

    async def refused(key, at):
        raise e.Throttled("slow down", retry_after=timedelta(hours=1).total_seconds())

    with pytest.raises(e.Throttled):
        scene.attempt(send=refused)
    assert scene.attempt() == {"id": 1}
