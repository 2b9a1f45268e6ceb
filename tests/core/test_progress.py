"""Progress: told now and then, and at the end in any case."""

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.progress import Progress, ProgressEvent


def test_tells_at_most_every_few_seconds_and_always_at_the_end() -> None:
    clock = ManualClock()
    seen: list[ProgressEvent] = []
    progress = Progress("fetch", unit="rows", total=100, sinks=[seen.append], every=5, clock=clock)
    for _ in range(10):
        clock.advance(1)
        progress.advance(10)
    progress.finish()
    assert [(event.done, event.finished) for event in seen] == [(50, False), (100, False), (100, True)]
    assert str(seen[0]) == "fetch: 50 of 100 rows (50 %), 10 rows/s, 5 s left"


def test_the_rate_counts_this_attempt_alone() -> None:
    clock = ManualClock()
    seen: list[ProgressEvent] = []
    progress = Progress("copy", unit="bytes", start=1000, sinks=[seen.append], clock=clock)
    clock.advance(10)
    progress.advance(100)
    assert (seen[0].done, seen[0].rate, seen[0].eta) == (1100, 10.0, None)


def test_no_time_and_no_total_are_no_error() -> None:
    seen: list[ProgressEvent] = []
    Progress("wait", unit="files", sinks=[seen.append], clock=ManualClock()).finish()
    assert str(seen[0]) == "wait: 0 files, 0 files/s"
