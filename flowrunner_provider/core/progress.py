"""Progress: counts that reconcile, told to whoever listens, at most every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import Json

__all__ = ["Progress", "ProgressEvent", "Sink"]


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """How far the work has come.

    :param step: what is being done, e.g. ``fetch``.
    :param done: units done so far, over all attempts.
    :param total: units in all; None while that is not known.
    :param unit: what is counted: ``bytes``, ``rows``, ``pages``, ``files``.
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
        """Seconds left at the present rate; None when that cannot be told."""
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
    """Counts one step of the work and tells its sinks about it.

    :param step: what is being done.
    :param unit: what is counted.
    :param total: how many there are, if known.
    :param start: how many an earlier attempt had done.
    :param every: least seconds between two events.
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
        self._began = self._told = clock.monotonic()

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done."""
        self.done += count
        if self._sinks and self._clock.monotonic() - self._told >= self._every:
            self._tell(finished=False)

    def finish(self) -> None:
        """The step is done: tell the sinks in any case."""
        self._tell(finished=True)

    def _tell(self, *, finished: bool) -> None:
        self._told = self._clock.monotonic()
        seconds = self._told - self._began
        rate = (self.done - self._start) / seconds if seconds > 0 else 0.0
        event = ProgressEvent(
            step=self.step, done=self.done, total=self.total, unit=self.unit, rate=rate, finished=finished
        )
        for sink in self._sinks:
            sink(event)
