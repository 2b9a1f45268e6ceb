"""What the user sees: progress while the pipeline runs, and the tables at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.demo.airflow_api import RunView
from flowrunner_provider.demo.chaos import Fired
from flowrunner_provider.demo.checks import Check

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["Progress", "RunSummary", "StepTiming", "console", "show"]

_FLUSH_SECONDS = 2.0
_MARK = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "running": "[cyan]▶[/]",
    "up_for_retry": "[yellow]↻[/]",
}


def console() -> Console:
    """Return a console for standard output, 110 columns wide if it is not a terminal."""
    from rich.console import Console

    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=110)


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Attempts and duration of one pipeline step, from its first start to its end."""

    step: str
    state: str
    attempts: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What happened in a run, for the final tables.

    :param phases: name -> seconds.
    :param began: when the DAG run was triggered; kill times are relative to it.
    """

    began: datetime
    fired: Sequence[Fired]
    stats: Mapping[str, int]
    steps: Sequence[StepTiming]
    phases: Mapping[str, float]


@dataclass
class _Shown:
    tasks: dict[str, tuple[str, int]] = field(default_factory=dict)
    fired: int = 0


class Progress:
    """Progress display: a live table on a terminal, otherwise plain lines every two seconds at most."""

    def __init__(self, out: Console, clock: Clock = SYSTEM_CLOCK) -> None:
        self.out = out
        self.clock = clock
        self.phases: dict[str, float] = {}
        self._begin = self._phase_begin = clock.monotonic()
        self._phase = ""
        self._lines: list[str] = []
        self._flushed = float("-inf")
        self._seen = _Shown()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.out.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.out, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def elapsed(self) -> float:
        return self.clock.monotonic() - self._begin

    @property
    def summary(self) -> str:
        """The last known task states."""
        return ", ".join(f"{name} {state}" for name, (state, _) in self._seen.tasks.items()) or "no task yet"

    def note(self, text: str) -> None:
        """Print ``text`` at once."""
        self.close()
        self.out.print(text, markup=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        """End the current phase and begin ``name``."""
        now = self.clock.monotonic()
        if self._phase:
            self.phases[self._phase] = now - self._phase_begin
        self._phase, self._phase_begin = name, now
        if name:
            self._add_line(f"{name} …")

    def update(self, run: RunView, fired: Sequence[Fired], stats: Mapping[str, int]) -> None:
        """Show the current state."""
        for event in fired[self._seen.fired :]:
            self._add_line(f"[red]SIGKILL[/] {event.kill.step}: {event.kill.description}")
        self._seen.fired = len(fired)
        for task in run.tasks:
            now = (task.state, task.tries)
            if task.start and self._seen.tasks.get(task.name) != now:
                self._add_line(f"{task.name}: {task.state}, attempt {task.tries}")
            self._seen.tasks[task.name] = now
        if self._live is not None:
            self._live.update(self._table(run, fired, stats))
        self._flush()

    def close(self) -> None:
        """End the last phase and stop the display."""
        self.phase("")
        self._flush(force=True)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _add_line(self, line: str) -> None:
        if self._live is None:
            self._lines.append(f"[dim]{self.elapsed:5.1f} s[/]  {line}")
            self._flush()
        elif not self._seen.tasks:
            from rich.spinner import Spinner

            self._live.update(Spinner("dots", text=line))

    def _flush(self, *, force: bool = False) -> None:
        now = self.clock.monotonic()
        if self._lines and (force or now - self._flushed >= _FLUSH_SECONDS):
            self.out.print("\n".join(self._lines))
            self._lines.clear()
            self._flushed = now

    def _table(self, run: RunView, fired: Sequence[Fired], stats: Mapping[str, int]) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None)
        for column in ("", "step", "state", "attempt", "killed"):
            table.add_column(column)
        for task in run.tasks:
            kills = sum(event.kill.step == task.name for event in fired)
            table.add_row(
                _MARK.get(task.state, "·"),
                task.name,
                task.state,
                str(task.tries),
                f"{kills}×" if kills else "",
            )
        head = f"Pipeline under attack, {self.elapsed:.0f} s, {len(fired)} kills so far"
        return Group(head, table, f"API: {stats['pages']} pages, {_api_faults(stats)}")


def _api_faults(stats: Mapping[str, int]) -> str:
    return (
        f"{stats['throttled']}× 429 with Retry-After, {stats['reset']} connections reset, "
        f"{stats['cut']} replies cut short"
    )


def _attack_table(summary: RunSummary) -> RenderableType:
    from rich.table import Table

    table = Table(title="What was done to the pipeline", title_justify="left", show_header=False)
    table.add_row("REST API", _api_faults(summary.stats), "throughout")
    for event in summary.fired:
        seconds = (event.at - summary.began).total_seconds()
        table.add_row(event.kill.step, f"SIGKILL: {event.kill.description}", f"+{seconds:.1f} s")
    return table


def _checks_table(checks: Sequence[Check]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What survived (checked on the far side)", title_justify="left", show_header=False)
    for check in checks:
        table.add_row("[green]✓[/]" if check.ok else "[bold red]✗ FAILED[/]", check.name, escape(check.detail))
    return table


def _timing_table(summary: RunSummary) -> RenderableType:
    from rich.table import Table

    table = Table(title="Timing", title_justify="left")
    for column in ("step", "result", "attempts", "seconds"):
        table.add_column(column, justify="right" if column in {"attempts", "seconds"} else "left")
    for step in summary.steps:
        table.add_row(step.step, step.state, str(step.attempts), f"{step.seconds:.1f}")
    return table


def show(out: Console, summary: RunSummary, checks: Sequence[Check]) -> None:
    """Print the final tables."""
    for part in (_attack_table(summary), _checks_table(checks), _timing_table(summary)):
        out.print(part)
    total = sum(summary.phases.values())
    out.print(" · ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.phases.items() if name))
    failed = sum(not check.ok for check in checks)
    if failed:
        out.print(f"[bold red]{failed} of {len(checks)} checks FAILED[/] after {total:.0f} s")
    else:
        out.print(f"[bold green]All {len(checks)} checks passed[/] in {total:.0f} s")
