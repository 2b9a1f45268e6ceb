"""Rate limits: never faster than allowed, by whomever, and never slower than needed."""

import itertools
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, ManualClock
from flowrunner_provider.core.errors import ConfigError, PermanentError
from flowrunner_provider.core.rate_limit import FilePacer, InBlocks, LocalPacer, Pacer, RateLimit, Unlimited


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("100/minute", 100, 60), ("5/second", 5, 1), ("1000 / 2 hours", 1000, 7200), ("1/days", 1, 86400)],
)
def test_reads_limits(text: str, count: int, seconds: float) -> None:
    limit = RateLimit.parse(text)
    assert (limit.count, limit.seconds, limit.burst) == (count, seconds, 1)


@pytest.mark.parametrize("text", ["", "100", "0/minute", "5/0 minutes", "-1/second", "5/week", "1.5/second", None, 5])
def test_refuses_what_is_not_a_limit(text: object) -> None:
    with pytest.raises(ConfigError, match="100/minute") as caught:
        RateLimit.parse(text)  # type: ignore[arg-type]
    assert caught.value.field == "rate_limit"


@pytest.fixture(params=["local", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    def pacer(limit: RateLimit, clock: ManualClock) -> Pacer:
        return LocalPacer(limit, clock) if request.param == "local" else FilePacer(limit, tmp_path / "p", clock)

    return pacer


def test_spaces_requests_evenly(make) -> None:
    clock = ManualClock()
    pacer = make(RateLimit.parse("10/second"), clock)
    waits = []
    for _ in range(4):
        waits.append(pacer.reserve())
        clock.advance(waits[-1])
    assert waits == pytest.approx([0, 0.1, 0.1, 0.1], abs=1e-6)


def test_a_burst_comes_at_once_and_is_paid_back(make) -> None:
    clock = ManualClock()
    pacer = make(RateLimit.parse("10/second", burst=3), clock)
    assert [round(pacer.reserve(), 6) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]


def test_what_is_too_far_away_is_not_reserved(make) -> None:
    clock = ManualClock()
    pacer = make(RateLimit.parse("1/minute"), clock)
    pacer.reserve()
    assert pacer.reserve(1, 10) == pytest.approx(60)
    assert pacer.reserve(1, 10) == pytest.approx(60), "a refused reservation must not push others back"
    clock.advance(55)
    assert pacer.reserve(1, 10) == pytest.approx(5)


def test_a_hold_silences_everybody(make) -> None:
    clock = ManualClock()
    pacer = make(RateLimit.parse("10/second", burst=5), clock)
    pacer.hold(30)
    assert pacer.reserve() == pytest.approx(30)
    clock.advance(31)
    assert pacer.reserve() == 0


def test_without_a_limit_only_a_hold_waits() -> None:
    clock = ManualClock()
    pacer = Unlimited(clock)
    assert [pacer.reserve() for _ in range(3)] == [0, 0, 0]
    pacer.hold(7)
    assert pacer.reserve() == 7
    clock.advance(8)
    assert pacer.reserve() == 0


@given(
    st.integers(1, 50),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 4)), min_size=1, max_size=60),
)
def test_no_window_holds_more_than_is_allowed(count: int, burst: int, calls: list[tuple[float, int]]) -> None:
    clock = ManualClock()
    limit = RateLimit(count=count, seconds=1.0, burst=burst)
    pacer = LocalPacer(limit, clock)
    starts: list[float] = []
    for gap, many in calls:
        clock.advance(gap)
        wait = pacer.reserve(many)
        starts += [clock.monotonic() + wait] * many
    for index, start in enumerate(starts):
        inside = [later for later in starts[index:] if later < start + limit.seconds - 1e-9]
        # Within any window: the rate, the burst, and the last reservation that began in it.
        assert len(inside) <= count + burst + 4


def test_a_clock_that_was_set_back_does_not_freeze_the_connection(tmp_path: Path) -> None:
    clock = ManualClock()
    FilePacer(RateLimit.parse("1/day"), tmp_path / "p", clock).reserve()
    clock.wall = clock.wall.replace(year=2000)
    assert FilePacer(RateLimit.parse("1/day"), tmp_path / "p", clock).reserve() == 0


def test_the_file_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p"
    FilePacer(RateLimit.parse("1/second"), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(PermanentError, match="symbolic link"):
        FilePacer(RateLimit.parse("1/second"), tmp_path / "link")


def reserve_many(path: str, count: int, queue: "multiprocessing.Queue[list[float]]") -> None:
    pacer = FilePacer(RateLimit.parse("1000/second"), Path(path))
    starts = []
    for _ in range(count):
        wait = pacer.reserve()
        starts.append(SYSTEM_CLOCK.now().timestamp() + wait)
    queue.put(starts)


def test_processes_of_a_host_share_one_pace(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[float]] = context.Queue()
    workers = [context.Process(target=reserve_many, args=(os.fspath(tmp_path / "p"), 200, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    starts = sorted(start for _ in workers for start in queue.get())
    for worker in workers:
        worker.join()
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert len(starts) == 800
    assert starts[-1] - starts[0] >= 799 * 0.001 - 0.01
    # A start is computed a moment after its reservation, so a single gap may look shorter by that moment.
    assert sum(gap < 0.0005 for gap in gaps) < 80


class Counted(LocalPacer):
    """Counts how often the shared number is looked at."""

    looks = 0

    def reserve(self, count: int = 1, longest: float = float("inf")) -> float:
        self.looks += 1
        return super().reserve(count, longest)


def blocks(text: str, burst: int = 1) -> tuple[InBlocks, Counted, ManualClock]:
    clock, limit = ManualClock(), RateLimit.parse(text, burst=burst)
    shared = Counted(limit, clock)
    return InBlocks(shared, limit, clock), shared, clock


def test_a_quick_limit_is_reserved_in_blocks_and_spaced_all_the_same() -> None:
    pacer, shared, clock = blocks("1000/second")
    starts = []
    for _ in range(100):
        clock.advance(pacer.reserve())
        starts.append(clock.monotonic())
    assert shared.looks == 10
    assert all(later - sooner == pytest.approx(0.001) for sooner, later in itertools.pairwise(starts))


@pytest.mark.parametrize(("text", "burst"), [("50/second", 1), ("1000/second", 100)])
def test_a_slow_limit_and_a_long_burst_go_one_by_one(text: str, burst: int) -> None:
    pacer, shared, _ = blocks(text, burst)
    waits = [pacer.reserve() for _ in range(burst)]
    assert shared.looks == burst
    assert waits == pytest.approx([0.0] * burst)


def test_a_pause_saves_nothing_up() -> None:
    pacer, shared, clock = blocks("1000/second")
    pacer.reserve()
    clock.advance(5)
    waits = [pacer.reserve() for _ in range(11)]
    assert shared.looks == 3
    assert sum(wait == 0 for wait in waits) == 1


def test_a_hold_ends_the_block() -> None:
    pacer, _, _ = blocks("1000/second")
    pacer.reserve()
    pacer.hold(3)
    assert pacer.reserve() == pytest.approx(3)


def test_a_block_that_is_too_far_away_is_not_taken() -> None:
    pacer, _, _ = blocks("1000/second")
    pacer.hold(60)
    assert pacer.reserve(1, 5) == pytest.approx(60)
    assert pacer.reserve(1, 5) == pytest.approx(60)


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "rate" / "shop"
    with pytest.raises(PermanentError, match="shop"):
        FilePacer(RateLimit.parse("1/second"), path)
