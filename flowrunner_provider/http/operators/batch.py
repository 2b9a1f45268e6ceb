"""Operator that sends one request per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.http.choices import OnItemError
from flowrunner_provider.http.operators.arguments import local_path, mapping, one_of, positive
from flowrunner_provider.http.results import BatchResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.http.batch import BatchSpec

__all__ = ["HttpBatchOperator"]


class HttpBatchOperator(FlowRunnerOperator):
    """On success, every item's request was answered as expected, and ``save_to`` holds one line per answer.

    A killed or retried task sends only the items that are not done: GET, HEAD, OPTIONS, PUT and DELETE are repeated; a
    POST or PATCH that was in flight is repeated with its ``idempotency_key`` if the connection sets
    ``honours_idempotency_key``, and otherwise handled by ``on_unknown``. If items fail, all others are still processed,
    both files are complete, and the task fails with PartialFailure. At most ``concurrency`` requests are in flight;
    items are read as needed. The connection's rate limit and a Retry-After apply to all requests, and longer waits are
    handed to Airflow. POST, PATCH and DELETE take up to 150,000 items, other methods any number.

    Strings in ``request`` can contain the placeholders ``{item}``, ``{item.name}``, ``{item.name.0}`` and ``{index}``.
    They are filled after Airflow has rendered its templates, so item values are never rendered. A string that consists
    of one placeholder keeps the value's type. In the endpoint, values are percent-encoded. All other braces are
    literal.

    :param items: a list, a dataset returned by an upstream task, or the path of a .jsonl, .csv or .parquet file on a
        disk that all workers share. Each row is an object keyed by column.
    :param request: ``{"method": ..., "endpoint": ..., "query": ..., "headers": ..., "json": ..., "data": ...}``, as in
        ``http.request``; the method defaults to GET.
    :param save_to: the results file, JSON Lines ``{"index", "status", "body"}`` in order of arrival; ``index`` counts
        items from 0. Use a disk that all workers share.
    :param http_conn_id: id of an ``http`` connection.
    :param concurrency: maximum number of requests in flight, capped by the connection's ``max_connections``.
    :param expected_status: statuses that count as success; by default every 2xx.
    :param select: JMESPath expression that picks what to keep of each JSON answer.
    :param on_item_error: ``continue`` with the other items, or ``fail``: send no further requests.
    :param max_failures: stop the batch after more failed items than this.
    :param dead_letter: a file for the items that failed in this attempt, JSON Lines ``{"index", "item", "error",
        "message", "status", "attempt"}``; ``attempt`` counts the item's requests. The file is empty if nothing failed.
    :param idempotency_key: True sends an ``Idempotency-Key`` header per item that is the same in every attempt; a
        string such as ``order-{item.id}`` sends that value. POST and PATCH become repeatable if the connection sets
        ``honours_idempotency_key``.
    :param on_unknown: what to do with a POST or PATCH whose outcome stays unknown: ``stop`` (the error lists the
        items), ``resend`` (may duplicate the request) or ``skip`` (treat it as done).
    :param max_bytes: largest accepted answer.
    """

    action: ClassVar[str] = "http.batch"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = (
        "http_conn_id", "items", "request", "save_to", "select", "dead_letter", "idempotency_key",
    )  # fmt: skip

    def __init__(
        self,
        *,
        items: Dataset | Mapping[str, Any] | list[Any] | str,
        request: Mapping[str, Any],
        save_to: str,
        http_conn_id: str = "http_default",
        concurrency: int = 32,
        expected_status: list[int] | None = None,
        select: str | None = None,
        on_item_error: OnItemError = "continue",
        max_failures: int = 1000,
        dead_letter: str | None = None,
        idempotency_key: bool | str = False,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        max_bytes: int = 1024 * 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.items, self.request, self.save_to = http_conn_id, items, request, save_to
        self.concurrency, self.expected_status, self.select = concurrency, expected_status, select
        self.on_item_error, self.max_failures, self.dead_letter = on_item_error, max_failures, dead_letter
        self.idempotency_key, self.on_unknown, self.max_bytes = idempotency_key, on_unknown, max_bytes

    async def perform(self, run: Run) -> BatchResult:
        from flowrunner_provider.http.batch import BatchSpec, run_batch
        from flowrunner_provider.http.batch_items import ItemSource
        from flowrunner_provider.http.hook import FlowRunnerHttpHook

        hook = FlowRunnerHttpHook(self.http_conn_id)
        spec = self._spec()
        spec = BatchSpec(**{**vars(spec), "honours_key": hook.config.honours_idempotency_key})
        source = ItemSource(self.items)
        async with hook.transport(run) as http:
            return await run_batch(http, spec, source, run)

    def _spec(self) -> BatchSpec:
        from flowrunner_provider.http.batch import BatchSpec
        from flowrunner_provider.http.item_template import RequestTemplate

        one_of("on_item_error", self.on_item_error, OnItemError)
        one_of("on_unknown", self.on_unknown, Literal["stop", "resend", "skip"])
        template = from_mapping(RequestTemplate, mapping(self.request, "request"), where="request")
        results = local_path(self.save_to, "save_to")
        if results.suffix not in (".jsonl", ".ndjson"):
            raise ConfigError(
                "save_to must end in .jsonl", field="save_to", remedy="convert the results with data.convert"
            )
        dead_letter = None if self.dead_letter is None else local_path(self.dead_letter, "dead_letter")
        if dead_letter == results:
            raise ConfigError(
                "dead_letter and save_to are the same file", field="dead_letter", remedy="use another file"
            )
        if self.idempotency_key and template.method not in ("POST", "PATCH"):
            raise ConfigError(
                f"a {template.method} needs no key", field="idempotency_key", remedy="omit it: the method is idempotent"
            )
        return BatchSpec(
            template=template,
            results=results,
            dead_letter=dead_letter,
            concurrency=positive(self.concurrency, "concurrency") or 1,
            expected=frozenset(self.expected_status) if self.expected_status else None,
            select=self.select,
            on_item_error=self.on_item_error,
            max_failures=self.max_failures,
            max_bytes=positive(self.max_bytes, "max_bytes") or 1,
            key=self.idempotency_key,
            on_unknown=self.on_unknown,
        )
