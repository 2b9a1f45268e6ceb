"""The plan of kills: real processes die at the named points, each once, and leave their markers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowrunner_provider.core.failpoints import ENVIRONMENT
from flowrunner_provider.demo.chaos import PLAN, Kill, fired, rules

VISIT = """
import sys
from flowrunner_provider.core.failpoints import failpoint
for _ in range(3):
    failpoint(sys.argv[1])
"""


def visit(point: str, variable: str) -> int:
    argv = [sys.executable, "-c", VISIT, point]
    return subprocess.run(argv, env={**os.environ, ENVIRONMENT: variable}, check=False).returncode


def test_the_plan_has_three_kills_or_more_at_three_steps_or_more() -> None:
    assert len(PLAN) >= 3
    assert len({kill.step for kill in PLAN}) >= 3
    assert len(set(PLAN)) == len(PLAN)


@pytest.mark.faults
def test_each_kill_happens_once_and_leaves_a_marker(tmp_path: Path) -> None:
    plan = [
        Kill(step="one", point="a.*", hit=2, description="first"),
        Kill(step="two", point="a.b", hit=3, description="second"),
        Kill(step="two", point="never", description="third"),
    ]
    variable = rules(plan, tmp_path)
    assert fired(plan, tmp_path) == []
    assert [visit("a.b", variable) for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    found = fired(plan, tmp_path)
    assert [(one.kill, one.point) for one in found] == [(plan[0], "a.b"), (plan[1], "a.b")]
    assert found[0].at <= found[1].at


def test_a_marker_that_is_not_written_yet_counts(tmp_path: Path) -> None:
    (tmp_path / "01-fetch.json").touch()
    assert [one.point for one in fired(PLAN, tmp_path)] == [PLAN[0].point]
