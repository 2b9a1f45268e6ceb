"""Progress is quiet where nobody watches, alive on a terminal, and silent once it is over."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.demo.airflow_api import RunView, TaskView
from flowrunner_provider.demo.chaos import PLAN, Fired
from flowrunner_provider.demo.report import Progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATS = {"pages": 20, "throttled": 1, "reset": 1, "cut": 1}


def view(state: str, tries: int) -> RunView:
    task = TaskView(name="fetch", state=state, tries=tries, start=NOW, end=None)
    return RunView(state="running", tasks=(task,))


def test_plain_lines_are_batched_and_none_is_lost() -> None:
    clock, out = ManualClock(), io.StringIO()
    with Progress(Console(file=out, width=100), clock) as progress:
        progress.phase("Airflow")
        clock.advance(0.5)
        progress.update(view("running", 1), [], STATS)
        assert out.getvalue().count("\n") == 1
        clock.advance(0.5)
        progress.update(view("running", 1), [Fired(PLAN[0], "x", NOW)], STATS)
        assert out.getvalue().count("\n") == 1
        clock.advance(2)
        progress.update(view("up_for_retry", 1), [Fired(PLAN[0], "x", NOW)], STATS)
        assert out.getvalue().count("\n") == 4
        progress.update(view("running", 2), [Fired(PLAN[0], "x", NOW)], STATS)
    assert out.getvalue().splitlines()[-1].endswith("fetch: running, attempt 2")
    assert out.getvalue().count("SIGKILL") == 1
    assert progress.phases == {"Airflow": 3.0}


def test_a_terminal_shows_a_table_and_nothing_after_the_end() -> None:
    out = io.StringIO()
    terminal = Console(file=out, width=100, force_terminal=True, highlight=False)
    with Progress(terminal) as progress:
        progress.phase("Airflow")
        progress.update(view("running", 1), [Fired(PLAN[0], "x", NOW)], STATS)
    shown = out.getvalue()
    assert "1 kills so far" in shown
    before = len(shown)
    progress.close()
    assert len(out.getvalue()) == before
