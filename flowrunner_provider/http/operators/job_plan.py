"""The parameters of ``http.async_job``, validated and turned into the requests of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import from_mapping, parse_duration
from flowrunner_provider.http.async_job import Cancel, Fetch, Poll, Submit, with_id
from flowrunner_provider.http.client import Reconcile, RequestSpec, compile_path, encode_body
from flowrunner_provider.http.operators.arguments import location, mapping, positive, strings

__all__ = ["JobPlan"]


class JobPlan:
    """The rendered parameters, validated before anything is sent."""

    def __init__(
        self,
        *,
        submit: Mapping[str, Any],
        poll: Mapping[str, Any],
        job_id_path: str,
        result: Mapping[str, Any] | None,
        cancel: Mapping[str, Any] | None,
    ) -> None:
        self.submit = from_mapping(Submit, mapping(submit, "submit"), where="submit")
        self.poll = from_mapping(Poll, mapping(poll, "poll"), where="poll")
        self.poll.check()
        self.interval = parse_duration(self.poll.interval, "poll.interval").total_seconds()
        if self.interval < 1:
            raise ConfigError("the interval is shorter than 1 second", field="poll.interval", remedy="use e.g. '10s'")
        self.result: Fetch | None = None
        if result:
            self.result = from_mapping(Fetch, mapping(result, "result"), where="result")
            self.result_request("1")
        self.cancel: Cancel | None = None
        if cancel:
            self.cancel = from_mapping(Cancel, mapping(cancel, "cancel"), where="cancel")
            with_id(self.cancel.endpoint, "1", "cancel.endpoint")
        if not job_id_path:
            raise ConfigError("job_id_path is empty", field="job_id_path", remedy="set the JMESPath of the job id")
        compile_path(job_id_path, "job_id_path")
        self.job_id_path = job_id_path

    def submit_request(self, *, honours_key: bool) -> RequestSpec:
        """Return the request that submits the job."""
        submit = self.submit
        body, content_type = encode_body(submit.json, submit.data)
        headers = strings(submit.headers, "submit.headers")
        if body is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = content_type
        reconcile = from_mapping(Reconcile, submit.reconcile, where="submit.reconcile") if submit.reconcile else None
        return RequestSpec(
            method=submit.method,
            endpoint=submit.endpoint,
            params=submit.query,
            headers=headers,
            body=body,
            select=self.job_id_path,
            key=submit.idempotency_key,
            honours_key=honours_key,
            reconcile=reconcile,
            on_unknown=submit.on_unknown,
            once=True,
        )

    def result_request(self, job_id: str) -> RequestSpec:
        """Return the request for the result."""
        fetch = self.result or Fetch(endpoint="{job_id}")
        if fetch.save_to is not None and fetch.select is not None:
            raise ConfigError("`select` cannot be combined with `save_to`", field="result", remedy="use one of them")
        if fetch.save_to is not None:
            location(fetch.save_to, "result.save_to")
        if fetch.select is not None:
            compile_path(fetch.select, "result.select")
        return RequestSpec(
            method="GET",
            endpoint=with_id(fetch.endpoint, job_id, "result.endpoint"),
            params=fetch.query,
            headers=strings(fetch.headers, "result.headers"),
            response_format=fetch.response_format,
            select=fetch.select,
            max_bytes=positive(fetch.max_bytes, "result.max_bytes"),
        )
