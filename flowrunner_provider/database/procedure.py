"""Call a stored procedure or function once."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, get_args

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Effect, Intent
from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    IntegrityError,
    Json,
    NotFound,
    OutcomeUnknown,
    PermanentError,
    Rejected,
    TimedOut,
)
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.writers import open_writer, part_token
from flowrunner_provider.database.choices import Routine
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.calling import Argument, Call, Direction, ResultSet
from flowrunner_provider.database.dialects.model import Type
from flowrunner_provider.database.dialects.refusals import distinct
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import LEDGER_TABLE, Ledger
from flowrunner_provider.database.once import Once

__all__ = ["ProcedurePlan", "call_in_transaction", "call_outside_transaction", "parse_argument"]

_KEYS = {"name", "mode", "type", "value"}
_MAX_ROWS = 10_000
_UNKNOWN_ROUTINE_CODES = ("42883", "42809", "1305", "201", "313", "2812", "4121", "8144", "8145")
_TRANCOUNT_DIFFERS = "266"


def _config_error(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def parse_argument(given: Any, number: int) -> Argument:
    """Parse an argument as the user wrote it: a value, or an object with more details.

    :raises ConfigError: naming the argument, never its value.
    """
    what = f"argument {number}"
    if not isinstance(given, Mapping):
        given = {"value": given}
    if set(given) - _KEYS or not set(given) & {"mode", "value"}:
        raise _config_error("arguments", f"{what} has unknown keys", f"use only {', '.join(sorted(_KEYS))}")
    direction, name, kind = given.get("mode", "in"), given.get("name", str(number)), given.get("type")
    if direction not in get_args(Direction) or not isinstance(name, str) or not name:
        raise _config_error(
            "arguments", f"{what}: mode must be in, out, inout or return, and name a string", "correct it"
        )
    if direction in ("out", "return") and given.get("value") is not None:
        raise _config_error("arguments", f"{what} is an output but has a value", "use mode inout, or remove the value")
    if kind is not None and kind not in get_args(Type):
        raise _config_error("arguments", f"{what} has an unknown type", f"use one of {', '.join(get_args(Type))}")
    return Argument(name=name, direction=direction, value=_convert(kind, given.get("value"), what))


def _convert(kind: Type | None, value: Any, what: str) -> Any:
    """Convert a JSON value to the given type."""
    readers: dict[str, Callable[[Any], Any]] = {
        "integer": int, "number": float, "string": str, "decimal": lambda text: Decimal(str(text)),
        "date": lambda text: date.fromisoformat(str(text)), "time": lambda text: time.fromisoformat(str(text)),
        "timestamp": lambda text: datetime.fromisoformat(str(text)),
        "binary": lambda text: base64.b64decode(text, validate=True),
    }  # fmt: skip
    if value is None or kind is None:
        return json.dumps(value) if isinstance(value, list | tuple) else value
    if kind in ("object", "array"):
        return json.dumps(value)
    if kind == "boolean":
        if isinstance(value, bool):
            return value
    elif not isinstance(value, bool | Mapping | list):
        try:
            return readers[kind](value)
        except (ValueError, TypeError, InvalidOperation, binascii.Error):
            pass
    raise _config_error("arguments", f"the value of {what} is not of type {kind}", "correct the value or the type")


@dataclass(frozen=True, kw_only=True)
class ProcedurePlan:
    """The parameters of the action ``sql.procedure``.

    :param save_to: the file for the rows; its suffix selects the format.
    :raises ConfigError: naming the parameter to correct.
    """

    name: str
    arguments: Sequence[Argument] = ()
    routine: Routine = "procedure"
    max_rows: int = 100
    save_to: Dataset | None = None
    once: bool = True
    ledger_schema: str | None = None

    def __post_init__(self) -> None:
        TableName.parse(self.name, "name")
        if self.routine not in get_args(Routine):
            raise _config_error("routine", "unknown routine", "use 'procedure' or 'function'")
        if self.routine == "function" and any(item.direction != "in" for item in self.arguments):
            raise _config_error(
                "arguments", "a function returns columns and has no output arguments", "pass only input arguments"
            )
        if self.routine == "function" and not self.once:
            raise _config_error("once", "once=False is for procedures; a function cannot commit", "remove it")
        names = [item.name for item in self.arguments]
        if len(set(names)) != len(names):
            raise _config_error("arguments", "two arguments have the same name", "use unique names")
        if [item.direction for item in self.arguments].count("return") > 1:
            raise _config_error("arguments", "two arguments ask for the return code", "remove one of them")
        most = self.max_rows
        if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= _MAX_ROWS:
            raise _config_error(
                "max_rows", f"max_rows must be between 0 and {_MAX_ROWS}", "write more rows to a file with save_to"
            )

    def fingerprint(self) -> str:
        """Return a digest of the call; the same in every attempt."""
        return fingerprint(asdict(self))


class _TransactionEnded(PermanentError):
    """The procedure committed the transaction that was to record its result."""


def call_in_transaction(plan: ProcedurePlan, connect: Callable[[], Session], run: Run) -> dict[str, Any]:
    """Call the routine and record its result in the ledger in one commit: exactly once over all attempts."""
    target = TableName.of(LEDGER_TABLE, plan.ledger_schema)
    try:
        return Once(
            action="sql.procedure",
            target=target,
            fingerprint=plan.fingerprint(),
            connect=connect,
            body=lambda session: _call_with_ledger(session, plan, run),
            run=run,
            failpoint=lambda name: failpoint(f"sql.procedure.{name}"),
        ).perform()
    except _TransactionEnded as error:
        raise OutcomeUnknown(
            error.message, effect_key=run.effects.key("sql.procedure"), reconcilable=False, remedy=error.remedy
        ) from None


def _call_with_ledger(session: Session, plan: ProcedurePlan, run: Run) -> dict[str, Any]:
    key = run.effects.key("sql.procedure")
    ledger = Ledger(session, session.locate(TableName.of(LEDGER_TABLE, plan.ledger_schema)))
    if _has_open_call(session, ledger, key):
        raise _commit_error(plan)
    ledger.record(key, {"begun": True})  # a later attempt finds this only if the procedure commits
    failpoint("sql.procedure.before_call")
    try:
        result = _call(session, plan, run)
    except Rejected as error:
        if error.code == "2D000":
            raise _config_error(
                "once",
                f"{plan.name} commits by itself, which is not possible inside a transaction",
                "call it with once=False",
            ) from None
        if not session.in_transaction():
            if _has_open_call(session, ledger, key):
                raise _commit_error(plan) from None
            if error.code == _TRANCOUNT_DIFFERS:
                raise _rollback_error(plan) from None
        raise
    if not session.in_transaction():
        raise _commit_error(plan) if _has_open_call(session, ledger, key) else _rollback_error(plan)
    failpoint("sql.procedure.after_call")
    return result


def _has_open_call(session: Session, ledger: Ledger, key: str) -> bool:
    """Return whether the ledger holds a call that neither ended nor was rolled back."""
    found = session.run(
        f"SELECT {session.sql('details')} FROM {session.sql(ledger.table)}"  # noqa: S608 - names are quoted
        f" WHERE {session.sql('effect_key')} = {session.placeholder.format(1)}",
        [key],
    )
    return bool(found) and found[0][0] is not None


def _commit_error(plan: ProcedurePlan) -> _TransactionEnded:
    return _TransactionEnded(
        f"{plan.name} committed the transaction by itself: it ran, completely or in part, and cannot be undone",
        remedy="check what it changed; call such a procedure with once=False",
    )


def _rollback_error(plan: ProcedurePlan) -> IntegrityError:
    return IntegrityError(
        f"{plan.name} rolls the transaction back by itself: only its later changes are stored",
        remedy="check why it does; call a procedure that manages transactions itself with once=False",
    )


async def call_outside_transaction(plan: ProcedurePlan, connect: Callable[[], Session], run: Run) -> dict[str, Any]:
    """Call the procedure outside a transaction; never repeat an interrupted call."""

    def work() -> dict[str, Any]:
        with connect() as session:
            failpoint("sql.procedure.before_call")
            try:
                result = _call(session, plan, run)
            except (ConnectionLost, TimedOut) as error:
                raise OutcomeUnknown(
                    f"{plan.name} may have run, completely or in part ({error.message})",
                    effect_key=run.effects.key("sql.procedure"),
                    reconcilable=False,
                    remedy="check what it changed; then clear the task, or start a new run",
                ) from None
            failpoint("sql.procedure.after_call")
            return result

    async def act(intent: Intent) -> Json:
        del intent
        return await asyncio.to_thread(work)

    effect = Effect(name="sql.procedure", fingerprint=plan.fingerprint(), seconds=run.deadline.seconds)
    return dict(await run.effects.perform(effect, act))


def _call(session: Session, plan: ProcedurePlan, run: Run) -> dict[str, Any]:
    name = TableName.parse(plan.name, "name")
    sink = _RowSink(plan, run)
    try:
        with (
            _unknown_routine_as_not_found(plan),
            session.call(name, plan.arguments, function=plan.routine == "function") as call,
        ):
            sink.read(call)
        dataset = sink.publish()
    except BaseException:
        sink.discard()
        raise
    return {
        "outputs": {key: to_json(value) for key, value in call.outputs.items()},
        "result_sets": sink.sets,
        "rows": sink.rows,
        "dataset": asdict(dataset) if dataset is not None else None,
    }


@contextmanager
def _unknown_routine_as_not_found(plan: ProcedurePlan) -> Iterator[None]:
    try:
        yield
    except Rejected as error:
        if error.code not in _UNKNOWN_ROUTINE_CODES:
            raise
        raise NotFound(
            f"there is no {plan.routine} {plan.name} that takes these arguments ({error.code})",
            remedy="check the name, the number and types of the arguments, and routine",
        ) from None


class _RowSink:
    """Collect the rows of a call in the result, or write them to a file."""

    def __init__(self, plan: ProcedurePlan, run: Run) -> None:
        self._plan, self._run = plan, run
        self._writer: Any = None
        self.sets: list[list[dict[str, Any]]] = []
        self.rows = 0

    def read(self, call: Call) -> None:
        """Read all result sets."""
        for result in call.sets:
            names = distinct(result.columns)
            if self._plan.save_to is None:
                self._collect(result, names)
            else:
                self._save(result, names, self._plan.save_to)

    def _collect(self, result: ResultSet, names: Sequence[str]) -> None:
        rows: list[dict[str, Any]] = []
        for batch in result.batches:
            self._count(batch)
            rows += [dict(zip(names, map(to_json, row), strict=True)) for row in batch]
        self.sets.append(rows)

    def _count(self, batch: Sequence[Any]) -> None:
        self._run.deadline.check("the call")
        self.rows += len(batch)
        if self._plan.save_to is None and self.rows > self._plan.max_rows:
            raise IntegrityError(
                f"{self._plan.name} returns more than max_rows={self._plan.max_rows} rows",
                remedy="write them to a file with save_to, or raise max_rows",
            )

    def _save(self, result: ResultSet, names: Sequence[str], target: Dataset) -> None:
        if self._writer is not None:
            raise IntegrityError(f"{self._plan.name} returns several results", remedy="remove save_to")
        self._writer = open_writer(target.path, target.format, names, token=part_token(self._run.scope))
        for batch in result.batches:
            self._count(batch)
            self._writer.write(batch)

    def publish(self) -> Dataset | None:
        """Move the file to its final name."""
        if self._plan.save_to is None:
            return None
        if self._writer is None:
            raise IntegrityError(f"{self._plan.name} returns no rows to save", remedy="remove save_to")
        failpoint("sql.procedure.before_publish")
        dataset: Dataset = self._writer.commit()
        failpoint("sql.procedure.after_publish")
        return dataset

    def discard(self) -> None:
        """Delete the temporary file."""
        if self._writer is not None:
            self._writer.discard()


def to_json(value: Any) -> Any:
    """Convert a value to JSON types."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)
