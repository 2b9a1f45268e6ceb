"""An update or delete with a guard, once."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values are parameters
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Operation
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Params
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import ModifyResult

__all__ = ["ModifyPlan", "modify"]

_OPERATORS = {
    "=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "like": "LIKE", "not_like": "NOT LIKE",
    "in": "IN", "not_in": "NOT IN",
}  # fmt: skip
_MOST = 10_000  # values of one `in`


@dataclass(frozen=True, kw_only=True)
class ModifyPlan:
    """The parameters of the action ``sql.modify``.

    :raises ConfigError: naming the parameter to mend.
    """

    operation: Operation
    table: str
    where: str | Mapping[str, Any]
    set: Mapping[str, Any] | None = None
    params: Params = None
    max_affected: int | None = 1000
    expect_affected: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise _bad("operation", f"operation is {self.operation!r}", "use 'update' or 'delete'")
        TableName.parse(self.table)
        if (self.operation == "update") != bool(self.set) or not isinstance(self.set or {}, Mapping):
            raise _bad("set", "an update needs set, an object, and a delete takes none", 'write {"status": "done"}')
        for name in self.set or ():
            Identifier(name)
        if not isinstance(self.where, str | Mapping) or not self.where or not str(self.where).strip(" \t\r\n;"):
            raise _bad("where", "where is missing", "say which rows; for all of them write where='1 = 1'")
        if isinstance(self.where, Mapping):
            if self.params is not None:
                raise _bad("parameters", "parameters are for a where that is text", "write the values into where")
            for name, condition in self.where.items():
                Identifier(name)
                _check_condition(name, condition)
        elif self.params is not None and not isinstance(self.params, list | tuple | dict):
            raise _bad("parameters", "parameters must be a list or an object", "one value per placeholder")
        for field in ("max_affected", "expect_affected"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise _bad(field, f"{field} must be 0 or more", "give a whole number, or null for no limit")

    def fingerprint(self) -> str:
        """A digest of what would be done; the same in every attempt."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def _bad(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def _check_condition(name: str, condition: Any) -> None:
    if not isinstance(condition, Mapping):
        condition = {"in" if isinstance(condition, list | tuple) else "=": condition}
    if not condition:
        raise _bad("where", f"where: {name!r} has no condition", 'write {"<": 5}, say')
    for operator, value in condition.items():
        if operator not in _OPERATORS:
            raise _bad("where", f"where: {name!r} has an unknown operator", f"use one of {', '.join(_OPERATORS)}")
        many = operator in ("in", "not_in")
        if (
            many != isinstance(value, list | tuple)
            or (many and not 0 < len(value) <= _MOST)
            or (many and None in value)
        ):
            raise _bad("where", f"where: the value of {name!r} does not fit its operator", "in takes 1 to 10000 values")
        if value is None and operator not in ("=", "!="):
            raise _bad("where", f"where: {name!r} is compared with null", "null goes with = and != only")


class _Text:
    """A statement that is being written; every value becomes a placeholder."""

    def __init__(self, session: Session, params: Params) -> None:
        self._session = session
        self._named = dict(params) if isinstance(params, Mapping) else None
        self._listed: list[Any] = []

    def name(self, name: str | TableName) -> str:
        return self._session.user_text(self._session.sql(name))

    def value(self, value: Any) -> str:
        if self._named is None:
            self._listed.append(value)
            return self._session.mark
        key = f"flowrunner_set_{len(self._named)}"
        self._named[key] = value
        return self._session.named_mark.format(key)

    def params(self, more: Params = None) -> Params:
        return self._named if self._named is not None else [*self._listed, *(more or ())]

    def where(self, plan: ModifyPlan) -> str:
        if isinstance(plan.where, str):
            return plan.where if plan.params is not None else self._session.user_text(plan.where)
        table = self.name(TableName.parse(plan.table))  # SQLite takes a bare quoted name that is no column for a text
        parts = []
        for name, condition in plan.where.items():
            if not isinstance(condition, Mapping):
                condition = {"in" if isinstance(condition, list | tuple) else "=": condition}
            parts += [
                self._condition(f"{table}.{self.name(name)}", operator, value) for operator, value in condition.items()
            ]
        return " AND ".join(parts)

    def _condition(self, name: str, operator: str, value: Any) -> str:
        if value is None:
            return f"{name} IS {'' if operator == '=' else 'NOT '}NULL"
        if isinstance(value, list | tuple):
            return f"{name} {_OPERATORS[operator]} ({', '.join(map(self.value, value))})"
        return f"{name} {_OPERATORS[operator]} {self.value(value)}"


def modify(plan: ModifyPlan, connect: Callable[[], Session], run: Run) -> ModifyResult:
    """The rows are changed, not more of them than agreed on, together with the ledger's row; or nothing is.

    Killed or repeated anywhere, it does so exactly once.
    """
    if plan.dry_run:
        with connect() as session:
            session.begin(read_only=True)
            affected = _counted(session, plan)
            session.rollback()
        return ModifyResult(table=plan.table, operation=plan.operation, affected=affected, dry_run=True)
    work = Once(
        action="sql.modify",
        target=TableName.parse(plan.table),
        fingerprint=plan.fingerprint(),
        connect=connect,
        body=lambda session: {"affected": _changed(session, plan)},
        run=run,
        point=lambda name: failpoint(f"sql.modify.{name}"),
    )
    affected = int(work.perform()["affected"])
    return ModifyResult(table=plan.table, operation=plan.operation, affected=affected, dry_run=False)


def _counted(session: Session, plan: ModifyPlan) -> int:
    """How many rows match: the count of a query that returns one short row for each."""
    text = _Text(session, plan.params)
    where = text.where(plan)
    query = f"SELECT 1 FROM {text.name(TableName.parse(plan.table))} WHERE ({where}\n)"
    if plan.max_affected is not None and not plan.dry_run:
        query = session.limited(query, plan.max_affected + 1)
    listed = plan.params if isinstance(plan.params, list | tuple) else None
    return session.execute(query, text.params(listed))


def _changed(session: Session, plan: ModifyPlan) -> int:
    if plan.max_affected is not None:
        _check(plan, _counted(session, plan), counted=True)
    text = _Text(session, plan.params)
    table = text.name(TableName.parse(plan.table))
    if plan.operation == "update":
        sets = ", ".join(f"{text.name(name)} = {text.value(value)}" for name, value in (plan.set or {}).items())
        head = f"UPDATE {table} SET {sets}"
    else:
        head = f"DELETE FROM {table}"
    statement = f"{head} WHERE ({text.where(plan)}\n)"
    listed = plan.params if isinstance(plan.params, list | tuple) else None
    affected = session.execute(statement, text.params(listed))
    failpoint("sql.modify.after_change")
    _check(plan, affected)
    return affected


def _check(plan: ModifyPlan, affected: int, *, counted: bool = False) -> None:
    if plan.max_affected is not None and affected > plan.max_affected:
        raise IntegrityError(
            f"more than max_affected={plan.max_affected} rows of {plan.table} match; nothing was changed",
            remedy="make where narrower, or raise max_affected; dry_run=True counts",
        )
    if not counted and plan.expect_affected not in (None, affected):
        raise IntegrityError(
            f"{affected} rows of {plan.table} match, expected were {plan.expect_affected}; nothing was changed",
            remedy="look at the table, or correct where",
        )
