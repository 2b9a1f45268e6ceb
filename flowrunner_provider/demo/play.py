"""The performance: set the stage, run the pipeline under attack, bring home the evidence."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import flowrunner_provider
from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, TransientError
from flowrunner_provider.core.retry import pause
from flowrunner_provider.demo import chaos
from flowrunner_provider.demo.airflow_api import RunView
from flowrunner_provider.demo.airflow_env import LOGIN
from flowrunner_provider.demo.airports_api import load_airports
from flowrunner_provider.demo.checks import Evidence
from flowrunner_provider.demo.processes import Processes
from flowrunner_provider.demo.report import Progress, StepTiming, Story
from flowrunner_provider.demo.scratch import Scratch
from flowrunner_provider.demo.stage import Stage

__all__ = ["DAG_ID", "Performance", "find_dag", "perform"]

DAG_ID = "recovery_pipeline"
_POLL = 0.5


class Performance(Protocol):
    """What a finished run leaves to judge and to show; its processes still live."""

    evidence: Evidence
    story: Story

    def address(self) -> str:
        """Where Airflow can be looked at, and how to log in."""

    def keep_files(self) -> None:
        """Do not delete the scratch folder at the end."""

    def check_alive(self) -> None:
        """Raise if a part has ended."""


def find_dag(given: Path | None) -> Path:
    """The DAG file: the one that was given, the installed example, or the one of the checkout.

    :raises ConfigError: there is none.
    """
    package = Path(flowrunner_provider.__file__).parent
    places = [given] if given else [folder / "example_dags" / f"{DAG_ID}.py" for folder in (package, package.parent)]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise ConfigError(f"no DAG file at {places[0]}", field="dag", remedy="reinstall the package, or use --dag")


@dataclass
class _Real:
    evidence: Evidence
    story: Story
    stage: Stage

    def address(self) -> str:
        return f"{self.stage.url}/dags/{DAG_ID}  login {LOGIN}  password {self.stage.secrets.ui_password}"

    def keep_files(self) -> None:
        self.stage.processes.keep_files()

    def check_alive(self) -> None:
        self.stage.check_alive()


def _watch(stage: Stage, progress: Progress, run_id: str, deadline: Deadline) -> RunView:
    while True:
        deadline.check(f"the pipeline (progress so far: {progress.summary})")
        stage.check_alive()
        try:
            view = stage.airflow.run(DAG_ID, run_id)
            progress.update(view, chaos.fired(chaos.PLAN, stage.scratch.kills), stage.api_stats())
        except TransientError:  # a busy machine; the deadline bounds it
            pause(_POLL)
            continue
        if view.over:
            return view
        pause(_POLL)


def _timings(stage: Stage, run_id: str, view: RunView) -> list[StepTiming]:
    steps = []
    for task in view.tasks:
        start = stage.airflow.first_start(DAG_ID, run_id, task.name) or task.start
        seconds = (task.end - start).total_seconds() if task.end and start else 0.0
        steps.append(StepTiming(step=task.name, state=task.state, attempts=task.tries, seconds=seconds))
    return steps


@contextmanager
def perform(args: Namespace, scratch: Scratch, progress: Progress, *, keep: bool) -> Iterator[Performance]:
    """Run the pipeline; everything is still up in the body of the ``with`` and gone after it.

    :param keep: whether the scratch folder stays in any case; it also does when the run breaks down.
    """
    dag = find_dag(args.dag)
    with Processes(scratch.logs, remove=None if keep else scratch.root) as processes:
        stage = Stage(scratch, processes, chaos.rules(chaos.PLAN, scratch.kills))
        try:
            performance = _perform(stage, dag, progress, Deadline(args.timeout))
        except FlowRunnerError:
            processes.keep_files()
            progress.note(f"Files and logs: {scratch.root}")
            raise
        yield performance


def _perform(stage: Stage, dag: Path, progress: Progress, deadline: Deadline) -> Performance:
    progress.phase("Back ends")
    ports = stage.start_backends(deadline)
    progress.phase("Airflow database")
    env = stage.start_database(ports, deadline)
    progress.phase("Airflow")
    stage.start_airflow(env, dag, DAG_ID, deadline)
    progress.phase("Pipeline under attack")
    began = SYSTEM_CLOCK.now()
    run_id = f"demo__{began:%Y%m%dT%H%M%S}"
    stage.airflow.trigger(DAG_ID, run_id)
    view = _watch(stage, progress, run_id, deadline)
    progress.phase("Checks")
    fired = chaos.fired(chaos.PLAN, stage.scratch.kills)
    story = Story(
        began=began,
        fired=fired,
        stats=stage.api_stats(),
        steps=_timings(stage, run_id, view),
        phases=progress.phases,
    )
    evidence = Evidence(
        scratch=stage.scratch,
        state=view.state,
        expected=[str(airport["iata"]) for airport in load_airports()],
        stats=story.stats,
        plan=chaos.PLAN,
        fired=fired,
    )
    return _Real(evidence, story, stage)
