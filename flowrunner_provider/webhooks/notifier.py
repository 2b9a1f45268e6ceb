"""The notifier for callbacks of tasks and runs, and for deadline alerts."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.operators.arguments import one_of, strings
from flowrunner_provider.runtime.masking import masking_async
from flowrunner_provider.runtime.notifier import FlowRunnerNotifier
from flowrunner_provider.webhooks.choices import Scheme

__all__ = ["WebhookNotifier"]

_ATTEMPTS = 3
_LONGEST_WAIT = 5.0


class WebhookNotifier(FlowRunnerNotifier):
    """The receiver has accepted the notification: it answered with a status of 2xx.

    Killed or called again for the same try, it is sent again under the same id, so that a receiver that
    recognises ids tells people once; a lost answer is repeated, too. There are three tries at most, within
    ``timeout``; a failure is a typed error, which Airflow logs beside the task's own outcome. For
    ``on_failure_callback``, ``on_success_callback``, ``on_retry_callback``, and for deadline alerts.

    :param endpoint: appended to the connection's host.
    :param http_conn_id: an ``http`` connection; its ``webhook`` option says how to sign.
    :param payload: JSON for ``data``; by default dag, run, task, state, class of the exception, try, link to the
        log and logical date.
    :param event_type: by default ``airflow.task.failed`` and the like; it is part of the id.
    :param sign: goes before the connection's own scheme.
    :param headers: go before the connection's own.
    """

    action: ClassVar[str] = "webhook.notify"
    template_fields: Sequence[str] = ("http_conn_id", "endpoint", "payload", "event_type", "headers")

    def __init__(
        self,
        *,
        endpoint: str,
        http_conn_id: str = "http_default",
        payload: Any = None,
        event_type: str | None = None,
        sign: Scheme | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.payload = http_conn_id, endpoint, payload
        self.event_type, self.sign, self.headers = event_type, sign, headers

    async def send(self, context: Any) -> None:
        """Tell the receiver about the task or run whose ``context`` this is."""
        from flowrunner_provider.webhooks.hook import FlowRunnerWebhookHook
        from flowrunner_provider.webhooks.send import Message, check_message, deliver, encode_payload

        event, facts = event_of(context), facts_of(context)
        kind = self.event_type or event
        message = Message(
            endpoint=self.endpoint,
            payload=encode_payload(facts if self.payload is None else self.payload),
            event_type=kind,
            event_id=_id_of(context, kind, facts),
            headers=strings(self.headers, "headers"),
            idempotent_receiver=True,
        )
        run = Run.alone(timeout=self.timeout, retry=RetryPlan(attempts=_ATTEMPTS, in_place=_LONGEST_WAIT))
        if self.sign is not None:
            one_of("sign", self.sign, Scheme)
        hook = FlowRunnerWebhookHook(self.http_conn_id)
        async with masking_async():
            transport = await hook.atransport(run)
            signer = hook.signer(self.sign)
        check_message(message, signer, transport.settings.base_url)
        async with transport as http:
            await deliver(http, message, signer, run, at=run.clock.now().isoformat())


def event_of(context: Mapping[str, Any]) -> str:
    """What has happened: ``airflow.task.failed``, ``airflow.dag_run.success``, ``airflow.deadline.missed``."""
    if "deadline" in context:
        return "airflow.deadline.missed"
    if _about_run(context):
        state = _get(context.get("dag_run"), "state")
        return f"airflow.dag_run.{_text(state) or 'ended'}"
    state = _get(context.get("ti"), "state")
    return f"airflow.task.{_text(state) or ('failed' if context.get('exception') else 'ended')}"


def facts_of(context: Mapping[str, Any]) -> dict[str, Any]:
    """The default payload: what names the task or run, and how it went; no values, no parameters, no messages."""
    run, ti = context.get("dag_run"), None if _about_run(context) else context.get("ti")
    error, deadline = context.get("exception"), context.get("deadline")
    own = context.get("ti")
    facts = {
        "dag_id": _get(run, "dag_id") or _get(own, "dag_id") or _get(context.get("dag"), "dag_id"),
        "run_id": _get(run, "run_id") or _get(run, "dag_run_id") or context.get("run_id") or _get(own, "run_id"),
        "logical_date": _text(_get(run, "logical_date") or context.get("logical_date")),
        "state": _text(_get(ti, "state") if ti is not None else _get(run, "state")),
        "task_id": _get(ti, "task_id"),
        "map_index": _get(ti, "map_index"),
        "try_number": _get(ti, "try_number"),
        "log_url": _get(ti, "log_url"),
        "exception": type(error).__name__ if isinstance(error, BaseException) else None,
        "deadline": _text(_get(deadline, "deadline_time")),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _about_run(context: Mapping[str, Any]) -> bool:
    """Callbacks of a DAG bring a reason; their ``ti`` is just the last one."""
    return "reason" in context or "deadline" in context or context.get("ti") is None


def _id_of(context: Mapping[str, Any], kind: str, facts: Mapping[str, Any]) -> str:
    """The same for each repetition of a callback; at random when nothing says what it is about."""
    if "run_id" not in facts:
        return secrets.token_hex(20)
    names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    round_ = _get(context.get("dag_run"), "clear_number") if _about_run(context) else None
    parts = [
        kind,
        str(round_ or 0),
        _get(context.get("deadline"), "id") or "",
        *(facts.get(name, "") for name in names),
    ]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]


def _get(thing: Any, name: str) -> Any:
    """A field of an object, or of the JSON that deadline alerts bring."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(getattr(value, "value", value))
