"""Failpoints act where and when they are told to, and otherwise cost nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
from flowrunner_provider.core.failpoints import failpoint
for number in range(4):
    failpoint("copy.before")
    print(number, flush=True)
    failpoint("copy.after")
"""


def run(*rules: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "FLOWRUNNER_FAILPOINTS": json.dumps(rules)} if rules else dict(os.environ)
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)


def test_without_rules_nothing_happens() -> None:
    result = run()
    assert (result.returncode, result.stdout.split()) == (0, ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("rule", "code", "printed"),
    [
        ({"point": "copy.before", "action": "kill"}, -signal.SIGKILL, 0),
        ({"point": "copy.after", "action": "kill", "hit": 2}, -signal.SIGKILL, 2),
        ({"point": "copy.*", "action": "exit", "hit": 4}, 70, 2),
        ({"point": "copy.after", "action": "error"}, 1, 1),
        ({"point": "other", "action": "kill"}, 0, 4),
    ],
)
def test_acts_at_the_hit(rule: dict[str, Any], code: int, printed: int) -> None:
    result = run(rule)
    assert (result.returncode, len(result.stdout.split())) == (code, printed)


def test_acts_once_over_all_processes_and_says_where(tmp_path: Path) -> None:
    rule = {"point": "copy.*", "action": "kill", "hit": 3, "once": str(tmp_path / "mark")}
    assert [run(rule).returncode for _ in range(3)] == [-signal.SIGKILL, 0, 0]
    assert json.loads((tmp_path / "mark").read_text())["point"] == "copy.before"


def test_traces_the_points_in_order(tmp_path: Path) -> None:
    run({"point": "copy.*", "action": "trace", "to": str(tmp_path / "trace")})
    assert (tmp_path / "trace").read_text().split()[:3] == ["copy.before", "copy.after", "copy.before"]
