"""A stored procedure or function is called, once."""

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
from flowrunner_provider.database.ledger import NAME, Ledger
from flowrunner_provider.database.once import Once

__all__ = ["ProcedurePlan", "argument", "call_now", "call_once"]

_KEYS = {"name", "mode", "type", "value"}
_MOST_ROWS = 10_000
_UNKNOWN_ROUTINE = ("42883", "42809", "1305", "201", "313", "2812", "4121", "8144", "8145")
_COUNT_DIFFERS = "266"


def _bad(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def argument(given: Any, number: int) -> Argument:
    """From what the user wrote: a value, or an object that says more.

    :raises ConfigError: naming the argument, and never its value.
    """
    what = f"argument {number}"
    if not isinstance(given, Mapping):
        given = {"value": given}
    if set(given) - _KEYS or not set(given) & {"mode", "value"}:
        raise _bad("arguments", f"{what} has unknown keys", f"known are {', '.join(sorted(_KEYS))}")
    direction, name, kind = given.get("mode", "in"), given.get("name", str(number)), given.get("type")
    if direction not in get_args(Direction) or not isinstance(name, str) or not name:
        raise _bad("arguments", f"{what}: mode must be in, out, inout or return, and name a text", "correct it")
    if direction in ("out", "return") and given.get("value") is not None:
        raise _bad("arguments", f"{what} is an output and has a value", "use mode inout, or leave the value away")
    if kind is not None and kind not in get_args(Type):
        raise _bad("arguments", f"{what} has an unknown type", f"use one of {', '.join(get_args(Type))}")
    return Argument(name=name, direction=direction, value=_typed(kind, given.get("value"), what))


def _typed(kind: Type | None, value: Any, what: str) -> Any:
    """A value of JSON as one of the type."""
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
    raise _bad("arguments", f"the value of {what} is no {kind}", "correct value or type")


@dataclass(frozen=True, kw_only=True)
class ProcedurePlan:
    """The parameters of the action ``sql.procedure``.

    :param save_to: where the rows go, with the format of its name.
    :raises ConfigError: naming the parameter to mend.
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
            raise _bad("routine", "unknown routine", "use 'procedure' or 'function'")
        if self.routine == "function" and any(item.direction != "in" for item in self.arguments):
            raise _bad("arguments", "a function has no outputs but its columns", "give only what goes in")
        if self.routine == "function" and not self.once:
            raise _bad("once", "a function cannot commit, so once=False is for procedures", "leave it away")
        names = [item.name for item in self.arguments]
        if len(set(names)) != len(names):
            raise _bad("arguments", "two arguments have one name", "give each a name of its own")
        if [item.direction for item in self.arguments].count("return") > 1:
            raise _bad("arguments", "two arguments ask for the return code", "leave one away")
        most = self.max_rows
        if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= _MOST_ROWS:
            raise _bad("max_rows", f"max_rows must be between 0 and {_MOST_ROWS}", "save more rows with save_to")

    def fingerprint(self) -> str:
        """A digest of the call; the same in every attempt."""
        return fingerprint(asdict(self))


class _CommittedItself(PermanentError):
    """The procedure has ended the transaction that was to tell whether it ran."""


def call_once(plan: ProcedurePlan, connect: Callable[[], Session], run: Run) -> dict[str, Any]:
    """It has run, and the ledger's row says so, in one commit: exactly once over all attempts."""
    target = TableName.of(NAME, plan.ledger_schema)
    try:
        return Once(
            action="sql.procedure",
            target=target,
            fingerprint=plan.fingerprint(),
            connect=connect,
            body=lambda session: _in_transaction(session, plan, run),
            run=run,
            point=lambda name: failpoint(f"sql.procedure.{name}"),
        ).perform()
    except _CommittedItself as error:
        raise OutcomeUnknown(
            error.message, effect_key=run.effects.key("sql.procedure"), reconcilable=False, remedy=error.remedy
        ) from None


def _in_transaction(session: Session, plan: ProcedurePlan, run: Run) -> dict[str, Any]:
    key = run.effects.key("sql.procedure")
    ledger = Ledger(session, session.locate(TableName.of(NAME, plan.ledger_schema)))
    if _begun(session, ledger, key):
        raise _committed(plan)
    ledger.record(key, {"begun": True})  # found by a later attempt only if the procedure commits
    failpoint("sql.procedure.before_call")
    try:
        result = _called(session, plan, run)
    except Rejected as error:
        if error.code == "2D000":
            raise _bad(
                "once", f"{plan.name} commits by itself, which it cannot in a transaction", "call it with once=False"
            ) from None
        if not session.in_transaction():
            if _begun(session, ledger, key):
                raise _committed(plan) from None
            if error.code == _COUNT_DIFFERS:
                raise _rolled_back(plan) from None
        raise
    if not session.in_transaction():
        raise _committed(plan) if _begun(session, ledger, key) else _rolled_back(plan)
    failpoint("sql.procedure.after_call")
    return result


def _begun(session: Session, ledger: Ledger, key: str) -> bool:
    """Whether the ledger has a call that neither ended nor was undone."""
    found = session.run(
        f"SELECT {session.sql('details')} FROM {session.sql(ledger.table)}"  # noqa: S608 - names are quoted
        f" WHERE {session.sql('effect_key')} = {session.placeholder.format(1)}",
        [key],
    )
    return bool(found) and found[0][0] is not None


def _committed(plan: ProcedurePlan) -> _CommittedItself:
    return _CommittedItself(
        f"{plan.name} ends the transaction by itself: it ran, wholly or in part, and that stays",
        remedy="look at what it did; call such a procedure with once=False",
    )


def _rolled_back(plan: ProcedurePlan) -> IntegrityError:
    return IntegrityError(
        f"{plan.name} rolls the transaction back by itself: only what it did after that is stored",
        remedy="look at why it does; call a procedure that has transactions of its own with once=False",
    )


async def call_now(plan: ProcedurePlan, connect: Callable[[], Session], run: Run) -> dict[str, Any]:
    """It has run, outside of a transaction; a call that was interrupted is not repeated."""

    def work() -> dict[str, Any]:
        with connect() as session:
            failpoint("sql.procedure.before_call")
            try:
                result = _called(session, plan, run)
            except (ConnectionLost, TimedOut) as error:
                raise OutcomeUnknown(
                    f"{plan.name} may have run, wholly or in part ({error.message})",
                    effect_key=run.effects.key("sql.procedure"),
                    reconcilable=False,
                    remedy="look at what it did; then clear the task, or start a new run",
                ) from None
            failpoint("sql.procedure.after_call")
            return result

    async def act(intent: Intent) -> Json:
        del intent
        return await asyncio.to_thread(work)

    effect = Effect(name="sql.procedure", fingerprint=plan.fingerprint(), seconds=run.deadline.seconds)
    return dict(await run.effects.perform(effect, act))


def _called(session: Session, plan: ProcedurePlan, run: Run) -> dict[str, Any]:
    name = TableName.parse(plan.name, "name")
    sink = _Sink(plan, run)
    try:
        with _told(plan), session.call(name, plan.arguments, function=plan.routine == "function") as call:
            sink.take(call)
        dataset = sink.publish()
    except BaseException:
        sink.discard()
        raise
    return {
        "outputs": {key: plain(value) for key, value in call.outputs.items()},
        "result_sets": sink.sets,
        "rows": sink.rows,
        "dataset": asdict(dataset) if dataset is not None else None,
    }


@contextmanager
def _told(plan: ProcedurePlan) -> Iterator[None]:
    try:
        yield
    except Rejected as error:
        if error.code not in _UNKNOWN_ROUTINE:
            raise
        raise NotFound(
            f"there is no {plan.routine} {plan.name} that takes these arguments ({error.code})",
            remedy="check name, number and types of the arguments, and whether it is a procedure or a function",
        ) from None


class _Sink:
    """Where the rows of a call go: into the result, or into a file."""

    def __init__(self, plan: ProcedurePlan, run: Run) -> None:
        self._plan, self._run = plan, run
        self._writer: Any = None
        self.sets: list[list[dict[str, Any]]] = []
        self.rows = 0

    def take(self, call: Call) -> None:
        """Read all that comes."""
        for found in call.sets:
            names = distinct(found.columns)
            if self._plan.save_to is None:
                self._keep(found, names)
            else:
                self._save(found, names, self._plan.save_to)

    def _keep(self, found: ResultSet, names: Sequence[str]) -> None:
        kept: list[dict[str, Any]] = []
        for batch in found.batches:
            self._count(batch)
            kept += [dict(zip(names, map(plain, row), strict=True)) for row in batch]
        self.sets.append(kept)

    def _count(self, batch: Sequence[Any]) -> None:
        self._run.deadline.check("the call")
        self.rows += len(batch)
        if self._plan.save_to is None and self.rows > self._plan.max_rows:
            raise IntegrityError(
                f"{self._plan.name} returns more than max_rows={self._plan.max_rows} rows",
                remedy="save them with save_to, or raise max_rows",
            )

    def _save(self, found: ResultSet, names: Sequence[str], target: Dataset) -> None:
        if self._writer is not None:
            raise IntegrityError(f"{self._plan.name} returns several results", remedy="leave save_to away")
        self._writer = open_writer(target.path, target.format, names, token=part_token(self._run.scope))
        for batch in found.batches:
            self._count(batch)
            self._writer.write(batch)

    def publish(self) -> Dataset | None:
        """The file has its final name."""
        if self._plan.save_to is None:
            return None
        if self._writer is None:
            raise IntegrityError(f"{self._plan.name} returns no rows to save", remedy="leave save_to away")
        failpoint("sql.procedure.before_publish")
        dataset: Dataset = self._writer.commit()
        failpoint("sql.procedure.after_publish")
        return dataset

    def discard(self) -> None:
        """Remove what there is of the file."""
        if self._writer is not None:
            self._writer.discard()


def plain(value: Any) -> Any:
    """A value in the form of JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)
