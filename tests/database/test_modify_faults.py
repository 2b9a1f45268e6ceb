"""Guarded changes that run twice at once, or whose COMMIT is not answered: done exactly once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, OutcomeUnknown
from tests.database.far_side import FarSide
from tests.database.test_faults import wait_for
from tests.database.test_modify import check, make, play, prepared
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.kill import Attempt

__all__ = ["make"]

pytestmark = pytest.mark.faults


def stopping(far: FarSide, gate: str) -> Any:
    """``play``, frozen from inside (SIGSTOP) with its rows changed and nothing committed."""
    from flowrunner_provider.database import modify as module

    def failpoint(name: str) -> None:
        if name == "sql.modify.after_change":
            Path(f"{gate}.stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    module.failpoint = failpoint
    return play(far)


def test_a_zombie_and_its_retry(make: Callable[[], FarSide]) -> None:
    far = make()
    gate = str(far.folder.parent / f"{far.folder.name}-gate")
    zombie = Attempt(stopping, far, gate)
    wait_for(Path(f"{gate}.stopped"))
    retry = Attempt(play, far, try_number=2)
    retry.started()
    assert not retry.join(0.5)
    zombie.thaw()
    first, second = zombie.wait(), retry.wait()
    assert second.ok, second.error
    assert first.ok or first.error_type == "Fenced"
    check(far)


def test_two_at_once(make: Callable[[], FarSide]) -> None:
    far = make()
    outcomes = [attempt.wait() for attempt in [Attempt(play, far, try_number=n) for n in (1, 2)]]
    assert any(outcome.ok for outcome in outcomes)
    assert all(outcome.ok or outcome.error_type == "Fenced" for outcome in outcomes)
    check(far)


def away(far: Any, chaos: Callable[[str, int], ChaosProxy]) -> tuple[Any, ChaosProxy]:
    """The same far side through a proxy."""
    proxy = chaos(far.database.host, far.database.port)
    return replace(far, database=far.database.at(proxy.host, proxy.port)), proxy


@pytest.mark.backend
def test_the_answer_to_commit_is_lost(
    make_server: Callable[[], FarSide], chaos: Callable[[str, int], ChaosProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT arrives, its answer does not: the ledger is asked at once, and the task succeeds."""
    from flowrunner_provider.database import modify as module

    far = prepared(make_server())
    through, proxy = away(far, chaos)
    points: list[str] = []

    def failpoint(name: str) -> None:
        points.append(name)
        if name == "sql.modify.before_commit" and points.count(name) == 1:
            proxy.toxics = Toxics(cut_down=0, rst=True, connections=None)
        if name == "sql.modify.before_reconcile":
            proxy.reset()

    monkeypatch.setattr(module, "failpoint", failpoint)
    assert play(through)["affected"] == 2
    assert "sql.modify.before_reconcile" in points
    check(far)


@pytest.mark.backend
def test_the_server_is_gone_at_commit_and_stays_away(
    make_server: Callable[[], FarSide], chaos: Callable[[str, int], ChaosProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell: OutcomeUnknown, and the retry finds out."""
    from flowrunner_provider.database import modify as module

    far = prepared(make_server())
    through, proxy = away(far, chaos)

    def failpoint(name: str) -> None:
        if name == "sql.modify.before_commit":
            proxy.refuse()
            proxy.toxics = Toxics(cut_up=0, rst=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "failpoint", failpoint)
        with pytest.raises(OutcomeUnknown):
            play(through)
    proxy.reset()
    play(through)
    check(far)


@pytest.mark.backend
def test_the_connection_is_killed_before_commit(
    make_server: Callable[[], FarSide], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the connection: COMMIT is not answered, the ledger says that nothing was stored."""
    from flowrunner_provider.database import modify as module

    far = prepared(make_server())
    points: list[str] = []

    def failpoint(name: str) -> None:
        points.append(name)
        if name == "sql.modify.before_commit":
            far.terminate()

    with monkeypatch.context() as patch:
        patch.setattr(module, "failpoint", failpoint)
        with pytest.raises(ConnectionLost, match="nothing was stored"):
            play(far)
    assert "sql.modify.before_reconcile" in points
    play(far)
    check(far)
