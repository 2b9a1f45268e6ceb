"""Guarded changes that run twice at once, or whose COMMIT has no reply: applied exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConnectionLost, OutcomeUnknown
from tests.database.far_side import FarSide
from tests.database.stage import commit_unanswered, two_at_once
from tests.database.test_modify import check, make, play, prepared
from tests.support.chaos_proxy import ChaosProxy, Toxics

__all__ = ["make"]

pytestmark = pytest.mark.faults


def test_two_at_once(make: Callable[[], FarSide]) -> None:
    far = make()
    two_at_once(play, far)
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
    asked = commit_unanswered(monkeypatch, module, "sql.modify", proxy)
    assert play(through)["affected"] == 2
    assert asked()
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
