"""Start the services, run the pipeline while killing its tasks, and collect the evidence."""

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
from flowrunner_provider.demo.report import Progress, RunSummary, StepTiming
from flowrunner_provider.demo.scratch import Scratch
from flowrunner_provider.demo.services import Services

__all__ = ["DAG_ID", "FinishedRun", "find_dag", "run_pipeline"]

DAG_ID = "recovery_pipeline"
_POLL = 0.5


class FinishedRun(Protocol):
    """A finished pipeline run, whose processes are still running."""

    evidence: Evidence
    summary: RunSummary

    def address(self) -> str:
        """Return the URL of Airflow's UI and the login."""

    def keep_files(self) -> None:
        """Keep the scratch folder."""

    def check_alive(self) -> None:
        """Raise if a process has ended."""


def find_dag(given: Path | None) -> Path:
    """Return the path of the DAG file: ``given``, the installed example, or the one in the checkout.

    :raises ConfigError: if it does not exist.
    """
    package = Path(flowrunner_provider.__file__).parent
    places = [given] if given else [folder / "example_dags" / f"{DAG_ID}.py" for folder in (package, package.parent)]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise ConfigError(f"no DAG file at {places[0]}", field="dag", remedy="reinstall the package, or use --dag")


@dataclass
class _FinishedRun:
    evidence: Evidence
    summary: RunSummary
    services: Services

    def address(self) -> str:
        return f"{self.services.url}/dags/{DAG_ID}  login {LOGIN}  password {self.services.secrets.ui_password}"

    def keep_files(self) -> None:
        self.services.processes.keep_files()

    def check_alive(self) -> None:
        self.services.check_alive()


def _wait_until_done(services: Services, progress: Progress, run_id: str, deadline: Deadline) -> RunView:
    while True:
        deadline.check(f"the pipeline (progress so far: {progress.summary})")
        services.check_alive()
        try:
            view = services.airflow.run(DAG_ID, run_id)
            progress.update(view, chaos.fired(chaos.PLAN, services.scratch.kills), services.api_stats())
        except TransientError:  # the machine is busy; the deadline limits this
            pause(_POLL)
            continue
        if view.over:
            return view
        pause(_POLL)


def _timings(services: Services, run_id: str, view: RunView) -> list[StepTiming]:
    steps = []
    for task in view.tasks:
        start = services.airflow.first_start(DAG_ID, run_id, task.name) or task.start
        seconds = (task.end - start).total_seconds() if task.end and start else 0.0
        steps.append(StepTiming(step=task.name, state=task.state, attempts=task.tries, seconds=seconds))
    return steps


@contextmanager
def run_pipeline(args: Namespace, scratch: Scratch, progress: Progress, *, keep: bool) -> Iterator[FinishedRun]:
    """Run the pipeline; its services run until the ``with`` block ends.

    :param keep: keep the scratch folder; it is also kept if the run fails.
    """
    dag = find_dag(args.dag)
    with Processes(scratch.logs, remove=None if keep else scratch.root) as processes:
        services = Services(scratch, processes, chaos.rules(chaos.PLAN, scratch.kills))
        try:
            finished = _run_pipeline(services, dag, progress, Deadline(args.timeout))
        except FlowRunnerError:
            processes.keep_files()
            progress.note(f"Files and logs: {scratch.root}")
            raise
        yield finished


def _run_pipeline(services: Services, dag: Path, progress: Progress, deadline: Deadline) -> FinishedRun:
    progress.phase("Back ends")
    ports = services.start_backends(deadline)
    progress.phase("Airflow database")
    env = services.start_database(ports, deadline)
    progress.phase("Airflow")
    services.start_airflow(env, dag, DAG_ID, deadline)
    progress.phase("Pipeline under attack")
    began = SYSTEM_CLOCK.now()
    run_id = f"demo__{began:%Y%m%dT%H%M%S}"
    services.airflow.trigger(DAG_ID, run_id)
    view = _wait_until_done(services, progress, run_id, deadline)
    progress.phase("Checks")
    fired = chaos.fired(chaos.PLAN, services.scratch.kills)
    summary = RunSummary(
        began=began,
        fired=fired,
        stats=services.api_stats(),
        steps=_timings(services, run_id, view),
        phases=progress.phases,
    )
    evidence = Evidence(
        scratch=services.scratch,
        state=view.state,
        expected=[str(airport["iata"]) for airport in load_airports()],
        stats=summary.stats,
        plan=chaos.PLAN,
        fired=fired,
    )
    return _FinishedRun(evidence, summary, services)
