"""One GraphQL operation: a query that repeats freely, or a mutation that is carried out once over all attempts."""

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
from flowrunner_provider.http.graphql import GraphQLRequest, judge, send
from flowrunner_provider.http.results import GraphQLResult
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["Mutation", "Terms", "ask"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How the operation is carried out, and what is wanted of its answer; see the operator for the meaning."""

    max_bytes: int
    select: str | None = None
    key: bool | str = False
    key_variable: str | None = None
    honours_key: bool = False
    reconcile: Mapping[str, Any] = field(default_factory=dict)
    on_unknown: OnUnknown = "stop"

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


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """How to find out whether a lost mutation was carried out; ``{key}`` in a variable is the idempotency key."""

    query: str = option(label="Query", help="give the query that looks for it")
    exists_when: str = option(label="Exists when", help="give the JMESPath on the data that is true when it is there")
    variables: dict[str, Any] = field(default_factory=dict)


async def ask(http: HttpTransport, request: GraphQLRequest, terms: Terms, run: Run) -> GraphQLResult:
    """A query, repeated in place while that is quick and promising."""

    async def once() -> GraphQLResult:
        answer = await send(http, request, repeatable=True, max_bytes=terms.max_bytes, retry=False)
        judged = judge(answer, http, partial=request.partial)
        if judged.problem is not None:
            raise judged.problem
        return GraphQLResult(data=terms.selected(judged.data), errors=judged.errors)

    failpoint("http.graphql.before_query")
    result = await run.retry.acall(once, run.deadline)
    failpoint("http.graphql.after_query")
    return result


class Mutation:
    """A mutation, once over all attempts."""

    def __init__(self, request: GraphQLRequest, terms: Terms) -> None:
        self.request, self.terms = request, terms
        self.repeatable = bool(terms.key or terms.key_variable) and terms.honours_key
        self.look_up: LookUp | None = None
        if terms.reconcile:
            look_up = self.look_up = from_mapping(LookUp, terms.reconcile, where="reconcile")
            self._look = GraphQLRequest.read(query=look_up.query, endpoint=request.endpoint)
            self._found = compile_path(look_up.exists_when, "reconcile")
            if self._look.operation.kind != "query":
                raise ConfigError("reconcile must be a query", field="reconcile", remedy="it is there to look only")

    async def perform(self, http: HttpTransport, run: Run) -> GraphQLResult:
        """Carry the mutation out, or return what an earlier attempt was answered."""
        request = self.request
        tries = run.retry.attempts if self.repeatable else 2
        effect = Effect(
            name="mutation",
            fingerprint=fingerprint(request.endpoint, request.query, request.operation.name, dict(request.variables)),
            seconds=run.deadline.limit(run.patience + tries * http.settings.timeout),
            repeatable=self.repeatable,
            on_unknown=self.terms.on_unknown,
        )

        async def act(intent: Intent) -> Any:
            return await self._act(http, intent)

        async def look(intent: Intent) -> Reconciled:
            return await self._looked(http, intent)

        answer = await run.effects.perform(effect, act, look)
        if answer is None:
            return GraphQLResult(reconciled=True)
        if "problem" in answer:
            raise from_event(answer["problem"])
        return GraphQLResult(**answer)

    async def _act(self, http: HttpTransport, intent: Intent) -> Any:
        """Send it; an error that says that nothing happened is raised, any other outcome is returned and kept."""
        request, terms = self.request, self.terms
        key = terms.key
        headers = {"Idempotency-Key": intent.key if key is True else str(key)} if key else {}
        variables = {terms.key_variable: intent.key} if terms.key_variable else {}
        failpoint("http.graphql.before_mutation")
        try:
            answer = await send(
                http,
                request,
                repeatable=self.repeatable,
                max_bytes=terms.max_bytes,
                headers=headers,
                variables=variables,
            )
        except OutcomeUnknown as error:
            error.effect_key = intent.key
            error.reconcilable = self.repeatable or self.look_up is not None or terms.on_unknown != "stop"
            raise
        failpoint("http.graphql.after_mutation")
        try:
            judged = judge(answer, http, partial=request.partial)
            if judged.problem is None:
                return {"data": terms.selected(judged.data), "errors": judged.errors}
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
            answer = await send(http, self._look, repeatable=True, max_bytes=self.terms.max_bytes, variables=variables)
            judged = judge(answer, http)
            if judged.problem is not None:
                raise judged.problem
            if not self._found(judged.data):
                return NotDone()
            return Done({"data": self.terms.selected(judged.data), "reconciled": True})
        except FlowRunnerError as error:
            temporary = isinstance(error, TransientError)
            return Unknown(f"the look-up failed: {error.message}", temporary=temporary)


def _with_key(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_key(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_key(item, key) for item in value]
    return value.replace("{key}", key) if isinstance(value, str) else value
