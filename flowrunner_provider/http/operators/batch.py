"""One request for each of many items."""

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
    """Every item's request was answered as expected, and its answer is one line of the file at ``save_to``.

    Killed or retried, only what is not done is sent again, and only what failed: GET, HEAD, OPTIONS, PUT and DELETE
    repeat freely. A POST or PATCH that was in flight is repeated under its own ``idempotency_key`` where the
    connection ``honours_idempotency_key``, and else it is up to ``on_unknown``. When items failed, the others are
    done all the same, both files are complete, and the task fails as PartialFailure. At most ``concurrency``
    requests are in flight, and the items are read as they are needed; the connection's rate limit and a server's
    Retry-After hold all of them, and a longer wait is handed to Airflow. Up to 150,000 items for POST, PATCH and
    DELETE, any number for the others.

    An item's values go where ``{item}``, ``{item.name}``, ``{item.name.0}`` or ``{index}`` stands in the texts of
    ``request``, after Airflow has rendered its templates: values are never rendered themselves. A text that is one
    such place alone becomes the value with its type. In the endpoint values are percent-encoded. All other braces
    stay as they are.

    :param items: a list, or a dataset as an upstream task returned it, or the path of a .jsonl, .csv or .parquet
        file on a disk that the workers share. Each row is an object with its columns.
    :param request: ``{"method": ..., "endpoint": ..., "query": ..., "headers": ..., "json": ..., "data": ...}``, as
        in ``http.request``; GET by default.
    :param save_to: the results, JSON Lines ``{"index", "status", "body"}`` in the order in which the answers came;
        ``index`` is the item's number from 0. Put it on a disk that the workers share.
    :param http_conn_id: an ``http`` connection.
    :param concurrency: requests in flight; the connection's ``max_connections`` is the upper bound.
    :param expected_status: statuses that are a success; by default all of 2xx.
    :param select: JMESPath: what to keep of each JSON answer.
    :param on_item_error: ``continue`` with the others, or ``fail``: start no other request.
    :param max_failures: with more than that many the batch stops.
    :param dead_letter: a file for what failed in this attempt, JSON Lines ``{"index", "item", "error", "message",
        "status", "attempt"}``; ``attempt`` counts its requests. Empty when nothing failed.
    :param idempotency_key: True sends a header ``Idempotency-Key`` of each item's own, the same in every attempt;
        text such as ``order-{item.id}`` sends that. It makes POST and PATCH repeatable if the connection has
        ``honours_idempotency_key``.
    :param on_unknown: when nobody can tell whether a POST or PATCH was carried out: ``stop`` names the items,
        ``resend`` sends them perhaps a second time, ``skip`` takes them for done.
    :param max_bytes: the largest answer.
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
            raise ConfigError("save_to must end in .jsonl", field="save_to", remedy="convert it with data.convert")
        dead_letter = None if self.dead_letter is None else local_path(self.dead_letter, "dead_letter")
        if dead_letter == results:
            raise ConfigError("dead_letter is save_to", field="dead_letter", remedy="give it a file of its own")
        if self.idempotency_key and template.method not in ("POST", "PATCH"):
            raise ConfigError(
                f"a {template.method} needs no key", field="idempotency_key", remedy="leave it out: it repeats safely"
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
