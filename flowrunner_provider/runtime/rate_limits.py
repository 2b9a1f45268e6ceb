"""Rate limits per connection, shared by the host's processes, or by all workers through Redis."""

from __future__ import annotations

import re
from functools import cache
from math import inf
from typing import Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import Unavailable
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.rate_limit import FilePacer, Pacer, RateLimit, Unlimited
from flowrunner_provider.runtime.settings import rate_limit_url, state_path

__all__ = ["RedisPacer", "pacer_for"]

# GCRA on the Redis server and its clock, so the workers' clocks do not matter.
# KEYS[1] theoretical arrival time · ARGV interval, slack, count, longest, hold (seconds)
_GCRA = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local interval, slack = tonumber(ARGV[1]), tonumber(ARGV[2])
local count, longest, hold = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local arrival = tonumber(redis.call('GET', KEYS[1]) or '0')
local due = math.max(arrival, now)
local wait = math.max(0, due - now - slack)
if hold > 0 then
  due = math.max(due, now + hold + slack)
elseif wait <= longest then
  due = due + count * interval
else
  return string.format('%.6f', wait)
end
redis.call('SET', KEYS[1], string.format('%.6f', due), 'PX', math.ceil((due - now) * 1000) + 1000)
return string.format('%.6f', wait)
"""


class RedisPacer:
    """A rate limit shared by all workers that use the same Redis (5.0 or later).

    :param url: ``redis://user:password@host:port/db``.
    :param name: the connection that the limit belongs to.
    """

    def __init__(self, limit: RateLimit, url: str, name: str) -> None:
        redis = load("redis", extra="redis", needed_for="a shared rate limit ([flowrunner] rate_limit_url)")
        self.limit, self._error = limit, redis.exceptions.RedisError
        self._key = f"flowrunner:rate:{name}:{limit.count}/{limit.seconds:g}"
        client = redis.Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._script = client.register_script(_GCRA)

    def _run(self, count: int, longest: float, hold: float) -> float:
        arguments: list[Any] = [self.limit.interval, self.limit.slack, count, min(longest, 1e12), hold]
        try:
            return float(self._script(keys=[self._key], args=arguments))
        except self._error as error:
            raise Unavailable(
                f"the shared rate limit cannot be read ({type(error).__name__})",
                remedy="check the Redis of [flowrunner] rate_limit_url",
            ) from error

    def reserve(self, count: int = 1, longest: float = inf) -> float:
        return self._run(count, longest, 0.0)

    def hold(self, seconds: float) -> None:
        self._run(0, 0.0, seconds)


@cache
def pacer_for(conn_id: str, rate_limit: str | None, burst: int = 1) -> Pacer:
    """Return the pacer of a connection; all its hooks in this process share it.

    :param rate_limit: the connection's option, e.g. ``"100/minute"``; None for no limit.
    :raises ConfigError: if the limit is malformed.
    """
    if not rate_limit:
        return Unlimited(SYSTEM_CLOCK)
    limit = RateLimit.parse(rate_limit, burst=burst)
    if url := rate_limit_url():
        return RedisPacer(limit, url, conn_id)
    name = re.sub(r"[^\w.-]", "_", conn_id, flags=re.ASCII)
    return FilePacer(limit, state_path() / "rate" / f"{name}.{limit.count}-{limit.seconds:g}")
