"""Each check fails once, and the exit code shows it; this needs no Airflow."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.demo import command
from flowrunner_provider.demo.chaos import PLAN, Fired
from flowrunner_provider.demo.checks import Evidence, evaluate
from flowrunner_provider.demo.report import RunSummary, StepTiming
from flowrunner_provider.demo.scratch import Scratch

CODES = ["AAA", "BBB", "CCC"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATS = {"requests": 50, "pages": 40, "throttled": 4, "reset": 3, "cut": 2, "early": 0, "unauthorized": 0}


def write_mail(scratch: Scratch, number: int = 1, *, to: str = "team@example.com", data: bytes = b"") -> None:
    mail = EmailMessage()
    mail["To"] = to
    mail.set_content("see attachment")
    data = data or scratch.staged.read_bytes()
    mail.add_attachment(data, maintype="text", subtype="csv", filename="airports.csv")
    (scratch.mail / f"{number:04d}.eml").write_bytes(mail.as_bytes())


def sql(scratch: Scratch, *statements: str) -> None:
    with closing(sqlite3.connect(scratch.database)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def good(scratch: Scratch) -> Evidence:
    scratch.staged.write_bytes(b"iata\r\nAAA\r\nBBB\nCCC\n")
    scratch.archived.write_bytes(scratch.staged.read_bytes())
    write_mail(scratch)
    sql(
        scratch,
        "CREATE TABLE airports (iata TEXT)",
        "CREATE TABLE flowrunner_effects (key TEXT)",
        "INSERT INTO airports VALUES ('AAA'), ('BBB'), ('CCC')",
    )
    fired = [Fired(kill, kill.point, NOW) for kill in PLAN]
    return Evidence(scratch=scratch, state="success", expected=CODES, stats=STATS, plan=PLAN, fired=fired)


Break = Callable[[Evidence], Any]
BREAKS: dict[str, tuple[str, Break]] = {
    "run failed": ("Pipeline finished", lambda e: replace(e, state="failed")),
    "row twice": ("Rows exactly once", lambda e: sql(e.scratch, "INSERT INTO airports VALUES ('AAA')")),
    "row missing": ("Rows exactly once", lambda e: sql(e.scratch, "DELETE FROM airports WHERE iata='AAA'")),
    "row for another": ("Rows exactly once", lambda e: sql(e.scratch, "UPDATE airports SET iata='AAA'")),
    "row unknown": ("Rows exactly once", lambda e: sql(e.scratch, "INSERT INTO airports VALUES ('XXX')")),
    "no table": ("Rows exactly once", lambda e: sql(e.scratch, "DROP TABLE airports")),
    "no mail": ("Exactly one mail", lambda e: (e.scratch.mail / "0001.eml").unlink()),
    "two mails": ("Exactly one mail", lambda e: write_mail(e.scratch, 2)),
    "other attachment": ("Exactly one mail", lambda e: write_mail(e.scratch, data=b"iata\nAAA\nBBB\nCCC\n")),
    "other recipient": ("Exactly one mail", lambda e: write_mail(e.scratch, to="eve@example.com")),
    "archive short": ("Archive identical", lambda e: e.scratch.archived.write_bytes(b"iata")),
    "archive missing": ("Archive identical", lambda e: e.scratch.archived.unlink()),
    "part on sftp": ("No leftovers", lambda e: (e.scratch.sftp / "archive/airports.csv.part").touch()),
    "part in staging": ("No leftovers", lambda e: (e.scratch.staging / "airports.csv.part").touch()),
    "hidden part": ("No leftovers", lambda e: (e.scratch.sftp / "archive/.airports.csv.a1").touch()),
    "second archive": ("No leftovers", lambda e: (e.scratch.sftp / "archive/airports (1).csv").touch()),
    "staging table": ("No leftovers", lambda e: sql(e.scratch, "CREATE TABLE airports__stage (x)")),
    "asked early": ("Retry-After obeyed", lambda e: replace(e, stats={**STATS, "early": 1})),
    "never throttled": ("Retry-After obeyed", lambda e: replace(e, stats={**STATS, "throttled": 0})),
    "never reset": ("Retry-After obeyed", lambda e: replace(e, stats={**STATS, "reset": 0})),
    "kill missing": ("Attack took place", lambda e: replace(e, fired=e.fired[1:])),
    "plan too small": ("Attack took place", lambda e: replace(e, plan=PLAN[:2], fired=e.fired[:2])),
}


@dataclass
class Canned:
    """A finished performance without Airflow."""

    evidence: Evidence
    summary: RunSummary = field(init=False)
    kept: bool = False

    def __post_init__(self) -> None:
        steps = [StepTiming(step="load", state="success", attempts=3, seconds=3.2)]
        self.summary = RunSummary(
            began=NOW, fired=self.evidence.fired, stats=self.evidence.stats, steps=steps, phases={"x": 1.0}
        )

    def address(self) -> str:
        return "http://127.0.0.1:1"

    def keep_files(self) -> None:
        self.kept = True

    def check_alive(self) -> None:
        raise KeyboardInterrupt


def play(tmp_path: Path, breaks: Break | None = None, *options: str) -> tuple[int, Canned]:
    performances = []

    @contextmanager
    def performer(args: Any, scratch: Scratch, progress: Any, *, keep: bool) -> Iterator[Canned]:
        evidence = good(scratch)
        changed = breaks(evidence) if breaks else None
        performances.append(Canned(changed if isinstance(changed, Evidence) else evidence))
        yield performances[0]

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    dag = tmp_path / "dag.py"
    dag.touch()
    args = parser.parse_args(["--dag", str(dag), "--scratch", str(tmp_path / "scratch"), *options])
    return command.run(args, performer), performances[0]


def test_a_correct_run_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = play(tmp_path)
    shown = capsys.readouterr().out
    assert code == 0
    assert "All 7 checks passed" in shown
    assert all(kill.description in shown for kill in PLAN)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_far_side_fails_its_check(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check, breaks = BREAKS[name]
    code, performance = play(tmp_path, breaks)
    assert code == 1
    assert performance.kept
    assert "FAILED" in capsys.readouterr().out
    failed = {found.name for found in evaluate(performance.evidence) if not found.ok}
    assert check in failed


def test_an_empty_far_side_fails_every_check(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.create()
    stats = dict.fromkeys(STATS, 0)
    nothing = Evidence(scratch=scratch, state="failed", expected=CODES, stats=stats, plan=PLAN, fired=[])
    failed = {check.name for check in evaluate(nothing) if not check.ok}
    assert failed == {check.name for check in evaluate(nothing)} - {"No leftovers"}


def test_the_ui_stays_until_interrupted_and_keeps_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = play(tmp_path, None, "--ui")
    assert code == 0
    assert "http://127.0.0.1:1" in capsys.readouterr().out


def test_missing_package_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_PACKAGES", ("surely_not_installed",))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([])) == 2
    error = capsys.readouterr().err
    assert "pip install 'airflow-provider-flowrunner[demo]'" in error
    assert error.count("\n") == 1


def test_a_used_scratch_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dag.py").touch()
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--dag", str(tmp_path / "dag.py"), "--scratch", str(tmp_path)])
    assert command.run(args) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "dag.py").exists()
