"""Progress of a task: counts, reported to sinks at most every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import Json

__all__ = ["Progress", "ProgressEvent", "Sink"]


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Progress of one step.

    :param step: name of the step, e.g. ``fetch``.
    :param done: completed units, over all attempts.
    :param total: total units; None if unknown.
    :param unit: ``bytes``, ``rows``, ``pages``, ``files``.
    :param rate: units per second in this attempt.
    :param finished: True for the last event of a step.
    """

    step: str
    done: int
    total: int | None
    unit: str
    rate: float
    finished: bool = False

    @property
    def eta(self) -> float | None:
        """Remaining seconds at the current rate; None if unknown."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate)

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    def __str__(self) -> str:
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        of = f" of {self.total:,}" if self.total is not None else ""
        left = f", {self.eta:.0f} s left" if self.eta and not self.finished else ""
        return f"{self.step}: {self.done:,}{of} {self.unit}{share}, {self.rate:,.0f} {self.unit}/s{left}"


Sink = Callable[[ProgressEvent], None]


class Progress:
    """Counts one step of the work and reports to its sinks.

    :param step: name of the step.
    :param unit: what is counted.
    :param total: total units, if known.
    :param start: units completed by earlier attempts.
    :param every: minimum seconds between two events.
    """

    def __init__(
        self,
        step: str,
        *,
        unit: str,
        total: int | None = None,
        start: int = 0,
        sinks: Sequence[Sink] = (),
        every: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.step, self.unit, self.total, self.done = step, unit, total, start
        self._start, self._sinks, self._every, self._clock = start, sinks, every, clock
        self._began = self._reported_at = clock.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more units."""
        self.done += count
        if self._sinks and self._clock.monotonic() - self._reported_at >= self._every:
            self._report(finished=False)

    def finish(self) -> None:
        """Finish the step; always reports."""
        self._report(finished=True)

    def _report(self, *, finished: bool) -> None:
        self._reported_at = self._clock.monotonic()
        seconds = self._reported_at - self._began
        rate = (self.done - self._start) / seconds if seconds > 0 else 0.0
        event = ProgressEvent(
            step=self.step, done=self.done, total=self.total, unit=self.unit, rate=rate, finished=finished
        )
        for sink in self._sinks:
            sink(event)
