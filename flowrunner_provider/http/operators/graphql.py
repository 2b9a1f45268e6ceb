"""One GraphQL operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Done, Effect, Intent, NotDone, OnUnknown, Reconciled, Unknown
from flowrunner_provider.core.errors import (
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    OutcomeUnknown,
    Rejected,
    TransientError,
    from_event,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import from_mapping, option
from flowrunner_provider.data.dataset import Dataset, Format
from flowrunner_provider.http.client import MAX_RESULT, compile_path
from flowrunner_provider.http.graphql import GraphQLRequest, judge, send
from flowrunner_provider.http.graphql_pages import Connection, GraphQLPager, collect_pages
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.http.operators.arguments import Stores, location, mapping, one_of, positive, strings
from flowrunner_provider.http.pagination import paginate
from flowrunner_provider.runtime.masking import mask_sensitive
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["GraphQLOperator"]

_SUFFIXES = (".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True, kw_only=True)
class GraphQLResult:
    """What the operation gave.

    :param data: the answer's ``data``, or what ``select`` took from it, or all nodes; None with ``save_to``.
    :param errors: message, path and code of the errors beside the data, with ``raise_on_errors=False``.
    :param dataset: the reference to the file, with ``save_to``.
    :param reconciled: True when a look-up told that an earlier attempt had been carried out.
    """

    data: Any = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    dataset: Dataset | None = None
    reconciled: bool = False


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """How to find out whether a lost mutation was carried out; ``{key}`` in a variable is the idempotency key."""

    query: str = option(label="Query", help="give the query that looks for it")
    exists_when: str = option(label="Exists when", help="give the JMESPath on the data that is true when it is there")
    variables: dict[str, Any] = field(default_factory=dict)


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
        once = _Once(self, honours_key=hook.config.honours_idempotency_key)
        async with hook.transport(run) as http:
            if request.operation.kind == "mutation":
                return await once.perform(http, request, run)
            if pager is None:
                return await self._asked(http, request, run)
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

    async def _asked(self, http: HttpTransport, request: GraphQLRequest, run: Run) -> GraphQLResult:
        """A query, repeated in place while that is quick and promising."""

        async def once() -> GraphQLResult:
            answer = await send(http, request, repeatable=True, max_bytes=self.max_bytes, retry=False)
            judged = judge(answer, http, partial=request.partial)
            if judged.problem is not None:
                raise judged.problem
            return GraphQLResult(data=self.selected(judged.data), errors=judged.errors)

        failpoint("http.graphql.before_query")
        result = await run.retry.acall(once, run.deadline)
        failpoint("http.graphql.after_query")
        return result

    def selected(self, data: Any) -> Any:
        """What is wanted of the data.

        :raises IntegrityError: when ``select`` finds nothing in it.
        """
        if self.select is None:
            return data
        found = compile_path(self.select, "select")(data)
        if found is None:
            raise IntegrityError("`select` finds nothing in the data", remedy=f"compare {self.select!r} with it")
        return found


class _Once:
    """A mutation, once over all attempts."""

    def __init__(self, operator: GraphQLOperator, *, honours_key: bool) -> None:
        self.operator = operator
        self.repeatable = bool(operator.idempotency_key or operator.key_variable) and honours_key
        self.look_up: LookUp | None = None
        if operator.reconcile:
            look_up = self.look_up = from_mapping(LookUp, mapping(operator.reconcile, "reconcile"), where="reconcile")
            self._look = GraphQLRequest.read(query=look_up.query, endpoint=operator.endpoint)
            self._found = compile_path(look_up.exists_when, "reconcile")
            if self._look.operation.kind != "query":
                raise ConfigError("reconcile must be a query", field="reconcile", remedy="it is there to look only")

    async def perform(self, http: HttpTransport, request: GraphQLRequest, run: Run) -> GraphQLResult:
        """Carry the mutation out, or return what an earlier attempt was answered."""
        tries = run.retry.attempts if self.repeatable else 2
        effect = Effect(
            name="mutation",
            fingerprint=fingerprint(request.endpoint, request.query, request.operation.name, dict(request.variables)),
            seconds=run.deadline.limit(run.patience + tries * http.settings.timeout),
            repeatable=self.repeatable,
            on_unknown=self.operator.on_unknown,
        )

        async def act(intent: Intent) -> Any:
            return await self._act(http, request, intent)

        async def look(intent: Intent) -> Reconciled:
            return await self._looked(http, intent)

        answer = await run.effects.perform(effect, act, look)
        if answer is None:
            return GraphQLResult(reconciled=True)
        if "problem" in answer:
            raise from_event(answer["problem"])
        return GraphQLResult(**answer)

    async def _act(self, http: HttpTransport, request: GraphQLRequest, intent: Intent) -> Any:
        """Send it; an error that says that nothing happened is raised, any other outcome is returned and kept."""
        operator = self.operator
        key = operator.idempotency_key
        headers = {"Idempotency-Key": intent.key if key is True else str(key)} if key else {}
        variables = {operator.key_variable: intent.key} if operator.key_variable else {}
        failpoint("http.graphql.before_mutation")
        try:
            answer = await send(
                http,
                request,
                repeatable=self.repeatable,
                max_bytes=operator.max_bytes,
                headers=headers,
                variables=variables,
            )
        except OutcomeUnknown as error:
            error.effect_key = intent.key
            error.reconcilable = self.repeatable or self.look_up is not None or operator.on_unknown != "stop"
            raise
        failpoint("http.graphql.after_mutation")
        try:
            judged = judge(answer, http, partial=request.partial)
            if judged.problem is None:
                return {"data": operator.selected(judged.data), "errors": judged.errors}
        except FlowRunnerError as error:
            return {"problem": error.to_event()}
        if not judged.acted:
            raise judged.problem
        partly = Rejected(
            judged.problem.message,
            status=answer.status,
            remedy="look at the far side: it was carried out, at least in part, and is not sent again",
        )
        return {"problem": partly.to_event()}

    async def _looked(self, http: HttpTransport, intent: Intent) -> Reconciled:
        """Ask the far side; whatever goes wrong with asking is unknown, never "not there"."""
        if self.look_up is None:
            return Unknown()
        variables = _with_key(self.look_up.variables, intent.key)
        try:
            answer = await send(
                http, self._look, repeatable=True, max_bytes=self.operator.max_bytes, variables=variables
            )
            judged = judge(answer, http)
            if judged.problem is not None:
                raise judged.problem
            if not self._found(judged.data):
                return NotDone()
            return Done({"data": self.operator.selected(judged.data), "reconciled": True})
        except FlowRunnerError as error:
            temporary = isinstance(error, TransientError)
            return Unknown(f"the look-up failed: {error.message}", temporary=temporary)


def _with_key(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_key(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_key(item, key) for item in value]
    return value.replace("{key}", key) if isinstance(value, str) else value
