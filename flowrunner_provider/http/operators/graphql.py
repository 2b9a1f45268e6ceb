"""One GraphQL operation."""

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
    """The operation was carried out without errors (a 200 with ``errors`` is none), and its data was read whole.

    Killed or retried, a query is simply repeated, and goes on at the last checkpointed page with ``save_to``. A
    mutation is sent once: a retry finds out with ``reconcile`` whether the lost one was carried out, or repeats it
    where the server recognises the ``idempotency_key``, and else stops with OutcomeUnknown (``on_unknown``). One
    request, or one per page; in memory at most ``max_bytes``, with ``save_to`` one page.

    :param query: the document, or a file whose name ends in ``.graphql`` or ``.gql``; one query or mutation of it is
        carried out. It is a Jinja template: write a space between ``{`` and a comment's ``#``.
    :param http_conn_id: an ``http`` connection.
    :param endpoint: appended to the connection's host.
    :param variables: the operation's variables, JSON values.
    :param operation_name: which operation, when the document has several.
    :param headers: go before the connection's own.
    :param raise_on_errors: False returns errors that stand beside data; an answer without data fails in any case.
    :param select: JMESPath on ``data``: what to return.
    :param page_info_path: JMESPath on ``data`` of a connection's ``pageInfo``: fetches all its pages.
    :param nodes_path: JMESPath on ``data`` of the list of nodes; by default ``nodes`` beside the ``pageInfo``.
    :param page_size: sent as the variable of ``first_variable``, for each page.
    :param after_variable: the variable that takes the cursor.
    :param first_variable: the variable that takes the page size.
    :param max_pages: more pages than that are an error.
    :param save_to: a file on any store for the nodes; it ends in ``.jsonl`` or ``.parquet``.
    :param max_bytes: the largest answer, or all nodes together, without ``save_to``.
    :param idempotency_key: True sends a header ``Idempotency-Key`` that is the same in every attempt; text sends
        that. It makes a mutation repeatable if the connection has ``honours_idempotency_key``.
    :param key_variable: a variable that takes the same key, e.g. for ``clientMutationId``.
    :param reconcile: ``{"query": ..., "variables": {...}, "exists_when": JMESPath}``: a query that tells whether a
        mutation whose answer was lost had been carried out; its data then is the result.
    :param on_unknown: when nobody can tell: ``stop``, ``resend`` (perhaps a second time) or ``skip``.
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
        from flowrunner_provider.http.graphql_once import Mutation, Terms, ask
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
        terms = Terms(
            max_bytes=self.max_bytes,
            select=self.select,
            key=self.idempotency_key,
            key_variable=self.key_variable,
            honours_key=hook.config.honours_idempotency_key,
            reconcile=mapping(self.reconcile, "reconcile") if self.reconcile else {},
            on_unknown=self.on_unknown,
        )
        mutation = Mutation(request, terms)
        async with hook.transport(run) as http:
            if request.operation.kind == "mutation":
                return await mutation.perform(http, run)
            if pager is None:
                return await ask(http, request, terms, run)
            if self.save_to is None:
                return GraphQLResult(data=await collect_pages(http, pager, run, self.max_bytes))
            async with Stores() as stores:
                target = await stores.target(self.save_to, "save_to")
                kind: Format = "parquet" if self.save_to.endswith(".parquet") else "jsonl"
                return GraphQLResult(dataset=await paginate(http, pager.plan, target, run, format=kind, pager=pager))

    def _pager(self, request: GraphQLRequest) -> GraphQLPager | None:
        """How the pages are asked for; None for an answer that is taken as it is.

        :raises ConfigError: naming the parameter.
        """
        from flowrunner_provider.http.graphql_pages import Connection, GraphQLPager

        if self.save_to is not None and not location(self.save_to, "save_to").path.endswith(_SUFFIXES):
            raise ConfigError(
                "save_to must end in .jsonl or .parquet", field="save_to", remedy="convert it with data.convert"
            )
        if self.page_info_path is None and self.save_to is None:
            return None
        field_name = "save_to" if self.page_info_path is None else "page_info_path"
        if request.operation.kind == "mutation":
            raise ConfigError(f"a mutation has no pages for {field_name}", field=field_name, remedy="use a query")
        if self.select is not None:
            raise ConfigError(
                f"`select` and {field_name} exclude each other", field="select", remedy="use `nodes_path`"
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
