"""Progress reaches the log, the state store and a terminal, and never breaks the work."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import Unavailable
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.progress import Progress, ProgressEvent
from flowrunner_provider.runtime.sinks import PROGRESS_KEY, log_sink, sinks_for, store_sink, terminal_sink

EVENT = ProgressEvent(step="fetch", done=50, total=100, unit="rows", rate=10.0)
LOG = logging.getLogger("test.progress")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_log_gets_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_sink(LOG)(EVENT)
    assert caplog.messages == ["fetch: 50 of 100 rows (50 %), 10 rows/s, 5 s left"]


def test_the_state_store_gets_the_latest_now_and_then() -> None:
    clock, store = ManualClock(), MemoryStore()
    progress = Progress(
        "fetch", unit="rows", total=9, sinks=[store_sink(store, LOG, every=10, clock=clock)], every=1, clock=clock
    )
    seen = []
    for _ in range(9):
        clock.advance(3)
        progress.advance()
        seen.append(store.get(PROGRESS_KEY)["done"])
    assert seen == [1, 1, 1, 1, 5, 5, 5, 5, 9]
    progress.finish()
    assert store.get(PROGRESS_KEY)["finished"] is True
    assert json.loads(json.dumps(store.get(PROGRESS_KEY)))["unit"] == "rows"


def test_a_store_that_fails_does_not_stop_the_work(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        def set(self, key: str, value: object) -> None:
            raise Unavailable("down")

    store_sink(Broken(), LOG)(EVENT)
    assert "Progress could not be stored" in caplog.text


def test_a_terminal_gets_a_bar_that_ends_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert terminal_sink in sinks_for(MemoryStore(), LOG)
    terminal_sink(EVENT)
    terminal_sink(ProgressEvent(step="fetch", done=100, total=100, unit="rows", rate=10.0, finished=True))
    first, last = terminal.getvalue().split("\r")[1:]
    assert first.startswith("[###############---------------] fetch: 50 of 100")
    assert last.startswith("[##############################]")
    assert last.endswith("\n")


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        assert terminal_sink not in sinks_for(MemoryStore(), LOG)
