"""The boundary to Airflow: the only place that translates and redacts errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowFailException

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, PermanentError
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS
from flowrunner_provider.runtime.masking import redact, redact_error
from flowrunner_provider.runtime.retry_policy import retrying_helps

if TYPE_CHECKING:
    import jinja2

__all__ = ["NamedRendering", "aoutcome_of", "boundary", "outcome_of"]

T = TypeVar("T")


@contextmanager
def boundary() -> Iterator[None]:
    """Redact our errors on their way to Airflow; before Airflow 3.3, also mark those that must not be retried.

    From 3.3 on, the retry policy sees the typed error. Other exceptions pass through unchanged.
    """
    try:
        yield
    except FlowRunnerError as error:
        redact_error(error)
        if not AIRFLOW_V_3_3_PLUS and not retrying_helps(error):
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error
        raise


def outcome_of(work: Callable[[], T]) -> T | FlowRunnerError:
    """Call foreign code, e.g. an official hook; return its result, or any exception as one of our errors."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - that is what this function is for
        return _typed(error)


async def aoutcome_of(work: Awaitable[T]) -> T | FlowRunnerError:
    """Like :func:`outcome_of`, for a coroutine."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - that is what this function is for
        return _typed(error)


def _typed(error: Exception) -> FlowRunnerError:
    if isinstance(error, FlowRunnerError):
        redact_error(error)
        return error
    text = redact(" ".join(str(error).split()))[:300]
    return PermanentError(f"{type(error).__name__}: {text}", remedy="check the connection and its provider package")


class NamedRendering:
    """Mixin for operators and sensors: a template that fails to render raises an error that names its field."""

    def render_template_fields(self: Any, context: Any, jinja_env: jinja2.Environment | None = None) -> None:
        """Render field by field.

        :raises ConfigError: naming the field to correct.
        """
        from jinja2 import TemplateError

        env = jinja_env or self.get_template_env()
        for name in self.template_fields:
            with boundary():
                try:
                    self._do_render_template_fields(self, [name], context, env, set())
                except TemplateError as error:
                    raise ConfigError(
                        f"the template of {name!r} does not render: {type(error).__name__}: {error.message}",
                        field=name,
                        remedy="correct the expression; `airflow tasks render` shows the result",
                    ) from error
