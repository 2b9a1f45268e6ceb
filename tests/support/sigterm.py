"""SIGTERM, and SIGKILL after the grace time: what Airflow does to the task of a worker that goes away.

As in :mod:`tests.support.kill` a scenario plays in a scene of its own. At a failpoint the process gets SIGTERM, whose
handler calls ``on_kill`` as Airflow's task runner does; then it may go on for as long as Airflow lets it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tests.support.kill import Outcome, attempt, trace

__all__ = ["GRACE", "ended_at"]

Scene = TypeVar("Scene")

GRACE = 5.0
"""Airflow's supervisor sends SIGKILL so many seconds after SIGTERM."""

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))


def ended_at(
    make_scene: Callable[[], Scene],
    target: Callable[[Scene], Any],
    check: Callable[[Scene], None],
    *,
    finish: float = 0.0,
    places: int = 5,
) -> list[Outcome]:
    """End the task at its failpoints, try it again, and check; what the ended attempts came to.

    Each of them ends by itself and in time, with its work done or with an error that says what happens next.

    :param finish: for how long what is under way may go on: 0 cuts it off where it is.
    :param places: so many failpoints, spread over the whole run; nightly as many as there are kills.
    """
    passed = trace(target, make_scene())
    numbered = [(point, passed[: at + 1].count(point)) for at, point in enumerate(passed)]
    last, places = len(numbered) - 1, max(places, KILLS if KILLS > 10 else 2)
    chosen = sorted({round(last * part / (places - 1)) for part in range(places)})
    outcomes = []
    for point, hit in (numbered[at] for at in chosen):
        scene, where = make_scene(), f"SIGTERM at {point} #{hit}"
        rule = {"point": glob.escape(point), "action": "term", "hit": hit}
        ended = attempt(_ending, target, scene, finish, rules=[rule], timeout=60)
        assert ended.signal is None, f"{where}: {ended.error}\n{ended.output}"
        assert (ended.seconds or 0) < GRACE, f"{where}: it took {ended.seconds} s\n{ended.output}"
        assert ended.ok or _says_what_is_next(ended), f"{where}: {ended.error}\n{ended.output}"
        outcome = ended
        for number in (2, 3):
            if not outcome.ok:
                outcome = attempt(target, scene, try_number=number)
        assert outcome.ok, f"{where}, then: {outcome.error}\n{outcome.output}"
        try:
            check(scene)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{ended.error}\n{outcome.error}") from error
        outcomes.append(ended)
    return outcomes


def _says_what_is_next(outcome: Outcome) -> bool:
    last = (outcome.error or "").strip().rpartition("\n")[2]
    return "SIGTERM" in last and "the next attempt goes on" in last


def _ending(target: Callable[[Any], Any], scene: Any, finish: float) -> Any:
    from flowrunner_provider.runtime import kill

    kill.FINISH_SECONDS = finish
    return target(scene)
