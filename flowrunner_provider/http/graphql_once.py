"""One GraphQL operation: a query that may be repeated, or a mutation that is carried out once over all attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.http.graphql import GraphQLRequest, evaluate, send
from flowrunner_provider.http.results import GraphQLResult
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["Mutation", "OperationOptions", "run_query"]


@dataclass(frozen=True, kw_only=True)
class OperationOptions:
    """How to carry out the operation, and what to return; the operator documents the fields."""

    max_bytes: int
    select: str | None = None
    key: bool | str = False
    key_variable: str | None = None
    honours_key: bool = False
    reconcile: Mapping[str, Any] = field(default_factory=dict)
    on_unknown: OnUnknown = "stop"

    def selected(self, data: Any) -> Any:
        """Return the value of ``select``.

        :raises IntegrityError: if it matches nothing.
        """
        if self.select is None:
            return data
        found = compile_path(self.select, "select")(data)
        if found is None:
            raise IntegrityError(
                "`select` matches nothing in the data", remedy=f"compare {self.select!r} with the data"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """How to find out whether a lost mutation was carried out; ``{key}`` in a variable is the idempotency key."""

    query: str = option(label="Query", help="set the query that finds the mutation's effect")
    exists_when: str = option(label="Exists when", help="set the JMESPath on the data that is true if it exists")
    variables: dict[str, Any] = field(default_factory=dict)


async def run_query(http: HttpTransport, request: GraphQLRequest, options: OperationOptions, run: Run) -> GraphQLResult:
    """Run a query, with retries in place."""

    async def once() -> GraphQLResult:
        answer = await send(http, request, repeatable=True, max_bytes=options.max_bytes, retry=False)
        evaluation = evaluate(answer, http, partial=request.partial)
        if evaluation.problem is not None:
            raise evaluation.problem
        return GraphQLResult(data=options.selected(evaluation.data), errors=evaluation.errors)

    failpoint("http.graphql.before_query")
    result = await run.retry.acall(once, run.deadline)
    failpoint("http.graphql.after_query")
    return result


class Mutation:
    """A mutation that is carried out once over all attempts."""

    def __init__(self, request: GraphQLRequest, options: OperationOptions) -> None:
        self.request, self.options = request, options
        self.repeatable = bool(options.key or options.key_variable) and options.honours_key
        self.look_up: LookUp | None = None
        if options.reconcile:
            look_up = self.look_up = from_mapping(LookUp, options.reconcile, where="reconcile")
            self._look_up_request = GraphQLRequest.read(query=look_up.query, endpoint=request.endpoint)
            self._exists = compile_path(look_up.exists_when, "reconcile")
            if self._look_up_request.operation.kind != "query":
                raise ConfigError(
                    "reconcile must be a query", field="reconcile", remedy="replace the mutation with a query"
                )

    async def perform(self, http: HttpTransport, run: Run) -> GraphQLResult:
        """Carry out the mutation, or return the answer that an earlier attempt received."""
        request = self.request
        tries = run.retry.attempts if self.repeatable else 2
        effect = Effect(
            name="mutation",
            fingerprint=fingerprint(request.endpoint, request.query, request.operation.name, dict(request.variables)),
            seconds=run.deadline.limit(run.patience + tries * http.settings.timeout),
            repeatable=self.repeatable,
            on_unknown=self.options.on_unknown,
        )

        async def act(intent: Intent) -> Any:
            return await self._act(http, intent)

        async def reconcile(intent: Intent) -> Reconciled:
            return await self._reconcile(http, intent)

        answer = await run.effects.perform(effect, act, reconcile)
        if answer is None:
            return GraphQLResult(reconciled=True)
        if "problem" in answer:
            raise from_event(answer["problem"])
        return GraphQLResult(**answer)

    async def _act(self, http: HttpTransport, intent: Intent) -> Any:
        """Send it; raise errors that mean that nothing happened, return and store any other outcome."""
        request, options = self.request, self.options
        key = options.key
        headers = {"Idempotency-Key": intent.key if key is True else str(key)} if key else {}
        variables = {options.key_variable: intent.key} if options.key_variable else {}
        failpoint("http.graphql.before_mutation")
        try:
            answer = await send(
                http,
                request,
                repeatable=self.repeatable,
                max_bytes=options.max_bytes,
                headers=headers,
                variables=variables,
            )
        except OutcomeUnknown as error:
            error.effect_key = intent.key
            error.reconcilable = self.repeatable or self.look_up is not None or options.on_unknown != "stop"
            raise
        failpoint("http.graphql.after_mutation")
        try:
            evaluation = evaluate(answer, http, partial=request.partial)
            if evaluation.problem is None:
                return {"data": options.selected(evaluation.data), "errors": evaluation.errors}
        except FlowRunnerError as error:
            return {"problem": error.to_event()}
        if not evaluation.acted:
            raise evaluation.problem
        partly = Rejected(
            evaluation.problem.message,
            status=answer.status,
            remedy="check the far side: the mutation was carried out, at least in part, and is not sent again",
        )
        return {"problem": partly.to_event()}

    async def _reconcile(self, http: HttpTransport, intent: Intent) -> Reconciled:
        """Query the far side; a failed query is unknown, never "not done"."""
        if self.look_up is None:
            return Unknown()
        variables = _with_key(self.look_up.variables, intent.key)
        try:
            answer = await send(
                http, self._look_up_request, repeatable=True, max_bytes=self.options.max_bytes, variables=variables
            )
            evaluation = evaluate(answer, http)
            if evaluation.problem is not None:
                raise evaluation.problem
            if not self._exists(evaluation.data):
                return NotDone()
            return Done({"data": self.options.selected(evaluation.data), "reconciled": True})
        except FlowRunnerError as error:
            temporary = isinstance(error, TransientError)
            return Unknown(f"the look-up failed: {error.message}", temporary=temporary)


def _with_key(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_key(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_key(item, key) for item in value]
    return value.replace("{key}", key) if isinstance(value, str) else value
