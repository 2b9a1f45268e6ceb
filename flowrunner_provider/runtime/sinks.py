"""Progress sinks: the log, the state store (for the UI), and a terminal."""

from __future__ import annotations

import logging
import sys

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.core.journal import KeyValue
from flowrunner_provider.core.progress import ProgressEvent, Sink

__all__ = ["PROGRESS_KEY", "log_sink", "sinks_for", "store_sink", "terminal_sink"]

PROGRESS_KEY = "flowrunner.progress"


def log_sink(log: logging.Logger) -> Sink:
    """Return a sink that logs one line per event."""
    return lambda event: log.info("%s", event)


def store_sink(store: KeyValue, log: logging.Logger, *, every: float = 10.0, clock: Clock = SYSTEM_CLOCK) -> Sink:
    """Return a sink that writes the latest event to the state store, at most every ``every`` seconds.

    A failing store is logged, not raised: progress is optional.
    """
    written = -every

    def sink(event: ProgressEvent) -> None:
        nonlocal written
        if not event.finished and clock.monotonic() - written < every:
            return
        written = clock.monotonic()
        try:
            store.set(PROGRESS_KEY, event.to_json())
        except FlowRunnerError as error:
            log.warning("Progress could not be stored: %s", error)

    return sink


def terminal_sink(event: ProgressEvent) -> None:
    """Draw a progress bar on a terminal (``airflow dags test``)."""
    width = 30
    filled = int(width * event.done / event.total) if event.total else 0
    bar = "#" * min(filled, width) + "-" * (width - min(filled, width))
    sys.stderr.write(f"\r[{bar}] {event}" + ("\n" if event.finished else "\x1b[K"))
    sys.stderr.flush()


def sinks_for(store: KeyValue, log: logging.Logger) -> list[Sink]:
    """Return the sinks of a task: log and state store, and a progress bar on a terminal."""
    sinks = [log_sink(log), store_sink(store, log)]
    return [*sinks, terminal_sink] if sys.stderr.isatty() else sinks
