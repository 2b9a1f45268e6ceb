"""Rate limits between processes and, through a real Redis, between workers."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import ConfigError, Unavailable
from flowrunner_provider.core.rate_limit import FilePacer, RateLimit, Unlimited
from flowrunner_provider.runtime.rate_limits import RedisPacer, pacer_for


@pytest.fixture(autouse=True)
def fresh() -> None:
    pacer_for.cache_clear()


def test_without_a_limit_nothing_is_shared() -> None:
    assert isinstance(pacer_for("shop", None), Unlimited)


def test_the_tasks_of_a_host_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    pacer = pacer_for("partner/../x", "100/minute")
    assert isinstance(pacer, FilePacer)
    assert os.listdir(tmp_path / "flowrunner" / "rate") == ["partner_.._x.100-60"]
    assert pacer_for("partner/../x", "100/minute") is pacer


def test_a_bad_limit_is_named() -> None:
    with pytest.raises(ConfigError, match="'100/minute'"):
        pacer_for("shop", "fast")


def redis_pacer(url: str, text: str, burst: int = 1) -> RedisPacer:
    return RedisPacer(RateLimit.parse(text, burst=burst), url, f"conn-{os.urandom(4).hex()}")


@pytest.mark.backend
class TestRedis:
    def test_is_chosen_by_the_configuration(self, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__FLOWRUNNER__RATE_LIMIT_URL", redis_server.url())
        assert isinstance(pacer_for("shop", "5/second"), RedisPacer)

    def test_counts_like_the_others(self, redis_server: Any) -> None:
        pacer = redis_pacer(redis_server.url(), "1/minute", burst=2)
        first, second, third = (pacer.reserve() for _ in range(3))
        assert (first, second) == (0, 0)
        assert 55 < third <= 60

    def test_does_not_reserve_what_is_too_far_away(self, redis_server: Any) -> None:
        pacer = redis_pacer(redis_server.url(), "1/minute")
        pacer.reserve()
        assert 55 < pacer.reserve(1, 10) <= 60
        assert 55 < pacer.reserve(1, 10) <= 60

    def test_a_hold_silences_everybody(self, redis_server: Any) -> None:
        pacer = redis_pacer(redis_server.url(), "10/second", burst=5)
        pacer.hold(30)
        assert 29 < pacer.reserve() <= 30

    def test_workers_share_one_pace(self, redis_server: Any) -> None:
        name = os.urandom(4).hex()
        context = multiprocessing.get_context("fork")
        queue: Any = context.Queue()
        workers = [context.Process(target=_reserve, args=(redis_server.url(), name, queue)) for _ in range(4)]
        for worker in workers:
            worker.start()
        starts = sorted(start for _ in workers for start in queue.get())
        for worker in workers:
            worker.join()
        assert len(starts) == 100
        assert starts[-1] - starts[0] >= 99 * 0.01 - 0.05

    def test_an_unreachable_redis_is_a_typed_error_and_not_a_free_pass(self, redis_server: Any) -> None:
        pacer = RedisPacer(RateLimit.parse("1/second"), "redis://127.0.0.1:1/0", "x")
        with pytest.raises(Unavailable, match="rate_limit_url"):
            pacer.reserve()

    def test_a_wrong_password_does_not_show(self, redis_server: Any) -> None:
        url = redis_server.url().replace(redis_server.password, "wrong-canary")
        with pytest.raises(Unavailable) as caught:
            RedisPacer(RateLimit.parse("1/second"), url, "x").reserve()
        assert "canary" not in str(caught.value)


def _reserve(url: str, name: str, queue: Any) -> None:
    pacer = RedisPacer(RateLimit.parse("100/second"), url, name)
    queue.put([SYSTEM_CLOCK.monotonic() + pacer.reserve() for _ in range(25)])
