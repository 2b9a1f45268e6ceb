"""Operator for one GraphQL operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Format
from flowrunner_provider.http.operators.arguments import Stores, location, mapping, one_of, positive, strings
from flowrunner_provider.http.results import MAX_RESULT, GraphQLResult
from flowrunner_provider.runtime.masking import mask_sensitive
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.http.graphql import GraphQLRequest
    from flowrunner_provider.http.graphql_pages import GraphQLPager

__all__ = ["GraphQLOperator"]

_SUFFIXES = (".jsonl", ".ndjson", ".parquet")


class GraphQLOperator(FlowRunnerOperator):
    """On success, the operation was carried out without GraphQL ``errors`` and its data was read completely.

    A killed or retried task repeats a query; with ``save_to`` it resumes at the last checkpointed page. A mutation is
    sent once: after a lost answer, the retry asks ``reconcile`` whether it was carried out, or repeats it if the server
    honours the ``idempotency_key``; otherwise it stops with OutcomeUnknown (see ``on_unknown``). Each attempt sends one
    request, or one per page. Memory holds at most ``max_bytes``, or one page with ``save_to``.

    :param query: the GraphQL document, or a file ending in ``.graphql`` or ``.gql``. It is rendered by Jinja: put a
        space between ``{`` and the ``#`` of a comment.
    :param http_conn_id: id of an ``http`` connection.
    :param endpoint: appended to the connection's host.
    :param variables: the operation's variables, as JSON values.
    :param operation_name: the operation to carry out if the document has several.
    :param headers: request headers; they override the connection's headers.
    :param raise_on_errors: False returns errors that accompany data; an answer without data always fails.
    :param select: JMESPath expression on ``data`` that picks the value to return.
    :param page_info_path: JMESPath expression on ``data`` for a connection's ``pageInfo``; if set, all pages are
        fetched.
    :param nodes_path: JMESPath expression on ``data`` for the list of nodes; by default ``nodes`` beside the
        ``pageInfo``.
    :param page_size: nodes to request per page, sent as ``first_variable``.
    :param after_variable: name of the variable that carries the cursor.
    :param first_variable: name of the variable that carries the page size.
    :param max_pages: fail if there are more pages.
    :param save_to: a file on any store that receives the nodes; must end in ``.jsonl`` or ``.parquet``.
    :param max_bytes: largest accepted answer, or total size of all nodes, without ``save_to``.
    :param idempotency_key: True sends an ``Idempotency-Key`` header that is the same in every attempt; a string sends
        that value. A mutation becomes repeatable if the connection sets ``honours_idempotency_key``.
    :param key_variable: name of a variable that carries the same key, e.g. ``clientMutationId``.
    :param reconcile: ``{"query": ..., "variables": {...}, "exists_when": JMESPath}``: a query that finds out whether a
        mutation whose answer was lost was carried out; its data becomes the result. ``{key}`` in a variable is replaced
        by the idempotency key.
    :param on_unknown: what to do when the outcome stays unknown: ``stop``, ``resend`` (may duplicate the mutation) or
        ``skip`` (treat it as done).
    """

    action: ClassVar[str] = "http.graphql"
    keeps_result: ClassVar[bool] = False
    template_ext: Sequence[str] = (".graphql", ".gql")
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "query", "variables", "operation_name", "headers", "select", "page_info_path",
        "nodes_path", "save_to", "idempotency_key", "reconcile",
    )  # fmt: skip

    def __init__(
        self,
        *,
        query: str,
        http_conn_id: str = "http_default",
        endpoint: str = "/graphql",
        variables: Mapping[str, Any] | None = None,
        operation_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        raise_on_errors: bool = True,
        select: str | None = None,
        page_info_path: str | None = None,
        nodes_path: str | None = None,
        page_size: int | None = None,
        after_variable: str = "after",
        first_variable: str = "first",
        max_pages: int | None = None,
        save_to: str | None = None,
        max_bytes: int = MAX_RESULT,
        idempotency_key: bool | str = False,
        key_variable: str | None = None,
        reconcile: Mapping[str, Any] | None = None,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.query, self.variables = http_conn_id, endpoint, query, variables
        self.operation_name, self.headers, self.raise_on_errors = operation_name, headers, raise_on_errors
        self.select, self.page_info_path, self.nodes_path = select, page_info_path, nodes_path
        self.page_size, self.after_variable, self.first_variable = page_size, after_variable, first_variable
        self.max_pages, self.save_to, self.max_bytes = max_pages, save_to, max_bytes
        self.idempotency_key, self.key_variable = idempotency_key, key_variable
        self.reconcile, self.on_unknown = reconcile, on_unknown

    async def perform(self, run: Run) -> GraphQLResult:
        from flowrunner_provider.http.client import compile_path
        from flowrunner_provider.http.graphql import GraphQLRequest
        from flowrunner_provider.http.graphql_once import Mutation, OperationOptions, run_query
        from flowrunner_provider.http.graphql_pages import collect_pages
        from flowrunner_provider.http.hook import FlowRunnerHttpHook
        from flowrunner_provider.http.pagination import paginate

        request = GraphQLRequest.read(
            endpoint=self.endpoint,
            query=self.query,
            operation_name=self.operation_name,
            variables=mapping(self.variables, "variables"),
            headers=strings(self.headers, "headers"),
            partial=not self.raise_on_errors,
        )
        mask_sensitive(request.variables)
        request.body()
        positive(self.max_bytes, "max_bytes")
        one_of("on_unknown", self.on_unknown, OnUnknown)
        if self.select is not None:
            compile_path(self.select, "select")
        hook = FlowRunnerHttpHook(self.http_conn_id)
        pager = self._pager(request)
        options = OperationOptions(
            max_bytes=self.max_bytes,
            select=self.select,
            key=self.idempotency_key,
            key_variable=self.key_variable,
            honours_key=hook.config.honours_idempotency_key,
            reconcile=mapping(self.reconcile, "reconcile") if self.reconcile else {},
            on_unknown=self.on_unknown,
        )
        mutation = Mutation(request, options)
        async with hook.transport(run) as http:
            if request.operation.kind == "mutation":
                return await mutation.perform(http, run)
            if pager is None:
                return await run_query(http, request, options, run)
            if self.save_to is None:
                return GraphQLResult(data=await collect_pages(http, pager, run, self.max_bytes))
            async with Stores() as stores:
                target = await stores.target(self.save_to, "save_to")
                file_format: Format = "parquet" if self.save_to.endswith(".parquet") else "jsonl"
                return GraphQLResult(
                    dataset=await paginate(http, pager.plan, target, run, format=file_format, pager=pager)
                )

    def _pager(self, request: GraphQLRequest) -> GraphQLPager | None:
        """Return the pager, or None if the operation is a single request.

        :raises ConfigError: naming the parameter.
        """
        from flowrunner_provider.http.graphql_pages import Connection, GraphQLPager

        if self.save_to is not None and not location(self.save_to, "save_to").path.endswith(_SUFFIXES):
            raise ConfigError(
                "save_to must end in .jsonl or .parquet", field="save_to", remedy="convert the file with data.convert"
            )
        if self.page_info_path is None and self.save_to is None:
            return None
        field_name = "save_to" if self.page_info_path is None else "page_info_path"
        if request.operation.kind == "mutation":
            raise ConfigError(f"{field_name} cannot be used with a mutation", field=field_name, remedy="use a query")
        if self.select is not None:
            raise ConfigError(
                f"`select` cannot be combined with {field_name}", field="select", remedy="use `nodes_path`"
            )
        return GraphQLPager(
            request,
            Connection.read(
                self.nodes_path,
                self.page_info_path,
                after_variable=self.after_variable,
                first_variable=self.first_variable,
                page_size=positive(self.page_size, "page_size"),
                max_pages=positive(self.max_pages, "max_pages"),
            ),
        )
