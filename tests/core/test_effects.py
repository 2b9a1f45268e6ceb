"""The ledger of effects, attacked: crashes at every step, zombies, look-ups that fail, changed content."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowrunner_provider.core import effects as module
from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.effects import (
    Done,
    Effect,
    Effects,
    Intent,
    NotDone,
    OnUnknown,
    Reconciled,
    Unknown,
)
from flowrunner_provider.core.errors import (
    ConnectionLost,
    Fenced,
    FlowRunnerError,
    OutcomeUnknown,
    PermanentError,
    Unavailable,
)
from flowrunner_provider.core.journal import Journal, MemoryStore
from flowrunner_provider.core.lease import Lease, Owner

SCOPE = ("dag", "run", "task", "-1")


class Crash(BaseException):
    """The process dies here."""


def owner(token: str, *, pid: int = 1, machine: str = "elsewhere/boot") -> Owner:
    return Owner(token=token, machine=machine, pid=pid, started="7")


class Scene:
    """One task instance, its far side, and the attempts on it."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), ManualClock()
        self.sent: list[str] = []
        self.crash_at: str | None = None
        self.attempts = 0

    def attempt(self, max_tries: int = 3, who: Owner | None = None) -> Effects:
        self.attempts += 1
        lease = Lease(self.store, who or owner(f"attempt-{self.attempts}"))
        lease.take()
        journal = Journal(self.store, max_tries=max_tries)
        self.journal = journal
        return Effects(journal, SCOPE, lease, clock=self.clock)

    async def send(self, intent: Intent) -> str:
        self.sent.append(intent.key)
        return f"id-{len(self.sent)}"

    async def look(self, intent: Intent) -> Reconciled:
        return Done("found") if intent.key in self.sent else NotDone()

    def failpoint(self, name: str) -> None:
        if name == self.crash_at:
            self.crash_at = None
            raise Crash


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene()
    monkeypatch.setattr(module, "failpoint", scene.failpoint)
    return scene


def effect(on_unknown: OnUnknown = "stop", *, content: str = "same", repeatable: bool = False) -> Effect:
    return Effect(name="send", fingerprint=content, seconds=60, repeatable=repeatable, on_unknown=on_unknown)


def perform(effects: Effects, what: Effect, act: Any, reconcile: Any = None) -> Any:
    return asyncio.run(effects.perform(what, act, reconcile))


POINTS = ["before_intent", "after_intent", "after_act", "after_confirm"]


def test_after_a_cancelled_act_the_next_attempt_asks_without_a_wait(scene: Scene) -> None:
    """As at the deadline, or when a worker goes away: the act is in doubt, and no longer in flight."""

    async def cancelled(intent: Intent) -> str:
        await scene.send(intent)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        perform(scene.attempt(), effect(), cancelled, scene.look)
    assert perform(scene.attempt(), effect(), scene.send, scene.look) == "found"
    assert len(scene.sent) == 1


@pytest.mark.parametrize("point", POINTS)
def test_with_reconcile_a_crash_anywhere_sends_exactly_once(scene: Scene, point: str) -> None:
    scene.crash_at = f"effect.send.{point}"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(), scene.send, scene.look)
    scene.clock.advance(61)
    assert perform(scene.attempt(), effect(), scene.send, scene.look) in ("id-1", "found")
    assert len(scene.sent) == 1


@pytest.mark.parametrize(
    ("point", "stops"),
    [("before_intent", False), ("after_intent", True), ("after_act", True), ("after_confirm", False)],
)
def test_without_reconcile_doubt_stops_the_task(scene: Scene, point: str, stops: bool) -> None:
    scene.crash_at = f"effect.send.{point}"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(), scene.send)
    scene.clock.advance(61)
    if stops:
        with pytest.raises(OutcomeUnknown, match="on_unknown='resend' or 'skip'") as caught:
            perform(scene.attempt(), effect(), scene.send)
        assert not caught.value.reconcilable
        assert len(scene.sent) == (1 if point == "after_act" else 0)
    else:
        assert perform(scene.attempt(), effect(), scene.send) == "id-1"
        assert len(scene.sent) == 1


@pytest.mark.parametrize(("policy", "sent"), [("resend", 2), ("skip", 1)])
def test_the_user_may_decide_beforehand(scene: Scene, policy: OnUnknown, sent: int) -> None:
    scene.crash_at = "effect.send.after_act"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(policy), scene.send)
    scene.clock.advance(61)
    perform(scene.attempt(), effect(policy), scene.send)
    perform(scene.attempt(), effect(policy), scene.send)
    assert len(scene.sent) == sent
    assert len(set(scene.sent)) == 1, "a repeated act carries the same key"


def test_a_far_side_that_knows_the_key_is_simply_asked_again(scene: Scene) -> None:
    scene.crash_at = "effect.send.after_act"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(repeatable=True), scene.send)
    scene.clock.advance(61)
    perform(scene.attempt(), effect(repeatable=True), scene.send)
    assert len(set(scene.sent)) == 1


def test_a_failed_look_up_is_unknown_and_never_not_done(scene: Scene) -> None:
    async def broken(intent: Intent) -> Reconciled:
        return Unknown("the search timed out", temporary=True)

    scene.crash_at = "effect.send.after_intent"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(), scene.send, broken)
    scene.clock.advance(61)
    with pytest.raises(OutcomeUnknown, match="the search timed out") as caught:
        perform(scene.attempt(), effect(), scene.send, broken)
    assert caught.value.reconcilable, "a later attempt may be able to tell"
    assert scene.sent == []
    assert perform(scene.attempt(), effect(), scene.send, scene.look) == "id-1"


def test_an_error_that_means_nothing_happened_withdraws_the_intent(scene: Scene) -> None:
    async def refused(intent: Intent) -> str:
        raise ConnectionLost("refused")

    with pytest.raises(ConnectionLost):
        perform(scene.attempt(), effect(), refused)
    assert perform(scene.attempt(), effect(content="mended"), scene.send) == "id-1"


def test_an_act_that_ended_in_doubt_is_not_waited_for(scene: Scene) -> None:
    async def lost(intent: Intent) -> str:
        await scene.send(intent)
        raise OutcomeUnknown("the reply was lost")

    with pytest.raises(OutcomeUnknown):
        perform(scene.attempt(), effect(), lost, scene.look)
    assert perform(scene.attempt(), effect(), scene.send, scene.look) == "found"
    assert len(scene.sent) == 1


@pytest.mark.parametrize("error", [OutcomeUnknown("lost after sending"), ZeroDivisionError(), Crash()])
def test_any_other_error_leaves_the_intent_standing(scene: Scene, error: BaseException) -> None:
    async def lost(intent: Intent) -> str:
        raise error

    with pytest.raises(type(error)):
        perform(scene.attempt(), effect(), lost)
    scene.clock.advance(61)
    with pytest.raises(OutcomeUnknown):
        perform(scene.attempt(), effect(), scene.send)


@pytest.mark.parametrize("point", ["after_intent", "after_confirm"])
def test_other_content_under_the_same_key_is_refused(scene: Scene, point: str) -> None:
    scene.crash_at = f"effect.send.{point}"
    with pytest.raises(Crash):
        perform(scene.attempt(), effect(), scene.send)
    scene.clock.advance(61)
    with pytest.raises(PermanentError, match="with different content"):
        perform(scene.attempt(), effect(content="changed"), scene.send)


def test_a_wished_re_run_sends_again_under_another_key(scene: Scene) -> None:
    perform(scene.attempt(3), effect(), scene.send)
    scene.journal.finish(None)
    perform(scene.attempt(7), effect(), scene.send)
    assert len(set(scene.sent)) == 2


def test_an_answer_too_large_to_keep_is_said_and_not_repeated(scene: Scene) -> None:
    async def large(intent: Intent) -> str:
        await scene.send(intent)
        return "x" * 40_000

    assert len(perform(scene.attempt(), effect(), large)) == 40_000
    with pytest.raises(PermanentError, match="too large to store"):
        perform(scene.attempt(), effect(), large)
    assert len(scene.sent) == 1


class TestZombies:
    def test_a_newer_attempt_fences_the_older_before_it_acts(self, scene: Scene) -> None:
        old = scene.attempt()
        scene.attempt()
        with pytest.raises(Fenced):
            perform(old, effect(), scene.send)
        assert scene.sent == []

    def test_an_attempt_fenced_between_intent_and_act_does_not_act(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = scene.attempt()

        def overtake(name: str) -> None:
            if name == "effect.send.after_intent":
                monkeypatch.setattr(module, "failpoint", lambda _: None)
                scene.attempt()

        monkeypatch.setattr(module, "failpoint", overtake)
        with pytest.raises(Fenced):
            perform(old, effect(), scene.send)
        assert scene.sent == []

    def test_an_act_in_flight_elsewhere_is_waited_for(self, scene: Scene) -> None:
        scene.crash_at = "effect.send.after_intent"
        with pytest.raises(Crash):
            perform(scene.attempt(), effect(), scene.send, scene.look)
        scene.clock.advance(20)
        with pytest.raises(Unavailable, match="in the middle of") as caught:
            perform(scene.attempt(), effect(), scene.send, scene.look)
        assert caught.value.retry_after == pytest.approx(40)
        scene.clock.advance(41)
        assert perform(scene.attempt(), effect(), scene.send, scene.look) == "id-1"

    def test_a_process_that_is_known_dead_is_not_waited_for(self, scene: Scene) -> None:
        me = Owner.me()
        dead = Owner(token="dead", machine=me.machine, pid=_gone(), started="1")
        scene.crash_at = "effect.send.after_intent"
        with pytest.raises(Crash):
            perform(scene.attempt(who=dead), effect(), scene.send, scene.look)
        assert perform(scene.attempt(), effect(), scene.send, scene.look) == "id-1"

    def test_a_fenced_failure_does_not_withdraw_the_newer_intent(self, scene: Scene) -> None:
        old = scene.attempt()

        async def overtaken(intent: Intent) -> str:
            scene.attempt()
            raise ConnectionLost("refused")

        with pytest.raises(Fenced):
            perform(old, effect(), overtaken)

    @pytest.mark.parametrize("policy", ["stop", "resend", "skip"])
    @pytest.mark.parametrize("point", POINTS)
    def test_overtaken_at_any_step_it_hides_no_confirmation(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, point: str, policy: OnUnknown
    ) -> None:
        old = scene.attempt()

        def work() -> str | None:
            with contextlib.suppress(Unavailable):
                return str(perform(scene.attempt(), effect(policy), scene.send))
            return None

        def overtake(name: str) -> None:
            if name == f"effect.send.{point}":
                monkeypatch.setattr(module, "failpoint", lambda _: None)
                with ThreadPoolExecutor(1) as other:
                    waits = other.submit(work).result() is None
                assert waits is (point in ("after_intent", "after_act"))

        monkeypatch.setattr(module, "failpoint", overtake)
        with contextlib.suppress(Fenced):
            perform(old, effect(policy), scene.send)
        scene.clock.advance(61)
        assert len(scene.sent) == (0 if point == "after_intent" else 1)
        if scene.sent:
            assert perform(scene.attempt(), effect(policy), scene.send) == "id-1"
            assert len(scene.sent) == 1

    def test_one_that_wakes_after_its_time_does_not_act(self, scene: Scene) -> None:
        """It slept between the announcement and the request, until another attempt had looked and acted."""
        old = scene.attempt()

        async def late(intent: Intent) -> str:
            scene.clock.advance(61)
            await scene.attempt().perform(effect(), scene.send, scene.look)
            old.renew()
            return await scene.send(intent)

        with pytest.raises(Fenced):
            perform(old, effect(), late, scene.look)
        assert len(scene.sent) == 1

    def test_one_that_is_slow_announces_itself_again(self, scene: Scene) -> None:
        old = scene.attempt()

        async def slow(intent: Intent) -> str:
            for _ in range(5):
                scene.clock.advance(29)
                old.renew()
                with pytest.raises(Unavailable) as caught:
                    Effects(scene.journal, SCOPE, Lease(scene.store, owner("another")), clock=scene.clock)._open(
                        effect()
                    )
                assert 30 <= (caught.value.retry_after or 0) <= 60, "time enough for the request that begins now"
            return await scene.send(intent)

        old.renew()
        assert perform(old, effect(), slow) == "id-1"
        old.renew()


def _gone() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_an_owner_knows_the_living_from_the_dead() -> None:
    me = Owner.me()
    assert not me.known_dead()
    assert not Owner(token="t", machine="elsewhere", pid=_gone(), started="1").known_dead()
    assert Owner(token="t", machine=me.machine, pid=_gone(), started="1").known_dead()
    assert Owner(token="t", machine=me.machine, pid=os.getpid(), started="1").known_dead(), "a reused pid"


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of crashes, lost replies, failing look-ups and retries sends at most once."""

    @initialize()
    def begin(self) -> None:
        self.scene = Scene()
        self.saved = module.failpoint
        module.failpoint = self.scene.failpoint  # type: ignore[assignment]
        self.results: list[Any] = []

    def teardown(self) -> None:
        if hasattr(self, "saved"):
            module.failpoint = self.saved

    @rule(
        crash=st.sampled_from([None, *POINTS]),
        reply=st.sampled_from(["fine", "lost", "refused"]),
        look_up=st.sampled_from(["works", "fails"]),
    )
    def attempt(self, crash: str | None, reply: str, look_up: str) -> None:
        self.scene.clock.advance(61)
        self.scene.crash_at = f"effect.send.{crash}" if crash else None

        async def act(intent: Intent) -> str:
            if reply == "refused":
                raise ConnectionLost("refused")
            answer = await self.scene.send(intent)
            if reply == "lost":
                raise OutcomeUnknown("the reply was lost")
            return answer

        async def look(intent: Intent) -> Reconciled:
            return await self.scene.look(intent) if look_up == "works" else Unknown("down", temporary=True)

        with contextlib.suppress(Crash, FlowRunnerError):
            self.results.append(perform(self.scene.attempt(), effect(), act, look))

    @invariant()
    def never_twice(self) -> None:
        if hasattr(self, "scene"):
            assert len(self.scene.sent) <= 1
            assert not self.results or len(self.scene.sent) == 1


LedgerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=12, deadline=None)
TestLedger = LedgerMachine.TestCase
