"""Maps our error classes to Airflow's retry decisions.

================  ===========================================================================
error             what Airflow does
================  ===========================================================================
ConfigError       fail now: a person must correct it
PermanentError    fail now: a retry cannot help
Throttled, ...    retry after exactly ``retry_after``, off the worker slot
TransientError    retry after a full-jitter exponential wait
OutcomeUnknown    retry if the next attempt can reconcile; otherwise fail now
PartialFailure    retry only the failed items; fail now if all failures are permanent
anything else     Airflow's own rules (``retry_delay``)
================  ===========================================================================
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import (
    ConfigError,
    FlowRunnerError,
    OutcomeUnknown,
    PartialFailure,
    PermanentError,
    TransientError,
)
from flowrunner_provider.core.retry import Backoff
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING or AIRFLOW_V_3_3_PLUS:
    from airflow.sdk import RetryDecision, RetryPolicy
else:
    RetryPolicy = object

__all__ = ["FlowRunnerRetryPolicy", "retrying_helps"]

_BACKOFF = Backoff(base=30.0, factor=2.0, cap=900.0)


def retrying_helps(error: FlowRunnerError) -> bool:
    """Return False if the next attempt would fail the same way."""
    if isinstance(error, ConfigError | PermanentError):
        return False
    if isinstance(error, PartialFailure):
        return error.retryable
    return not (isinstance(error, OutcomeUnknown) and not error.reconcilable)


class FlowRunnerRetryPolicy(RetryPolicy):
    """Decides by error class; the default ``retry_policy`` of every operator of the package.

    :param backoff: delay after errors without ``retry_after``, in seconds.
    """

    def __init__(self, backoff: Backoff = _BACKOFF) -> None:
        self.backoff = backoff

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Return the decision for ``exception``; the task's ``retries`` still apply."""
        del max_tries, context
        if not isinstance(exception, FlowRunnerError):
            return RetryDecision.default()
        reason = f"{type(exception).__name__}: {exception}"
        if not retrying_helps(exception):
            return RetryDecision.fail(reason)
        seconds = exception.retry_after if isinstance(exception, TransientError) else None
        if seconds is None:
            seconds = self.backoff.delay(try_number, random.Random())  # noqa: S311 - jitter
        return RetryDecision.retry(delay=timedelta(seconds=seconds), reason=reason)

    def serialize(self) -> dict[str, Any]:
        return {"base": self.backoff.base, "factor": self.backoff.factor, "cap": self.backoff.cap}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> FlowRunnerRetryPolicy:
        return cls(Backoff(**data))
