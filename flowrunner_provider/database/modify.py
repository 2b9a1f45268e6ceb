"""Update or delete rows within limits, once."""

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
from flowrunner_provider.database.dialects.values import as_json
from flowrunner_provider.database.identifiers import Identifier, TableName
from flowrunner_provider.database.once import Once
from flowrunner_provider.database.results import ModifyResult

__all__ = ["ModifyPlan", "modify"]

_OPERATORS = {
    "=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "like": "LIKE", "not_like": "NOT LIKE",
    "in": "IN", "not_in": "NOT IN",
}  # fmt: skip
_MAX_IN_VALUES = 10_000  # for one `in`


@dataclass(frozen=True, kw_only=True)
class ModifyPlan:
    """The parameters of the action ``sql.modify``.

    :raises ConfigError: naming the parameter to correct.
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
            raise _config_error("operation", f"operation is {self.operation!r}", "use 'update' or 'delete'")
        TableName.parse(self.table)
        if (self.operation == "update") != bool(self.set) or not isinstance(self.set or {}, Mapping):
            raise _config_error(
                "set",
                "set is required for an update and not allowed for a delete",
                'pass an object such as {"status": "done"}',
            )
        for name in self.set or ():
            Identifier(name)
        if not isinstance(self.where, str | Mapping) or not self.where or not str(self.where).strip(" \t\r\n;"):
            raise _config_error("where", "where is missing", "pass a condition; to match all rows, pass where='1 = 1'")
        if isinstance(self.where, Mapping):
            if self.params is not None:
                raise _config_error("parameters", "parameters are for a where of SQL text", "put the values into where")
            for name, condition in self.where.items():
                Identifier(name)
                _check_condition(name, condition)
        elif self.params is not None and not isinstance(self.params, list | tuple | dict):
            raise _config_error(
                "parameters", "parameters must be a list or an object", "pass one value per placeholder"
            )
        for field in ("max_affected", "expect_affected"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise _config_error(field, f"{field} must be 0 or more", "pass an integer, or null for no limit")

    def fingerprint(self) -> str:
        """Return a digest of the change; the same in every attempt."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


def _config_error(field: str, message: str, remedy: str) -> ConfigError:
    return ConfigError(message, field=field, remedy=remedy)


def _check_condition(name: str, condition: Any) -> None:
    if not isinstance(condition, Mapping):
        condition = {"in" if isinstance(condition, list | tuple) else "=": condition}
    if not condition:
        raise _config_error("where", f"where: {name!r} has no condition", 'pass an operator and a value, e.g. {"<": 5}')
    for operator, value in condition.items():
        if operator not in _OPERATORS:
            raise _config_error(
                "where", f"where: {name!r} has an unknown operator", f"use one of {', '.join(_OPERATORS)}"
            )
        many = operator in ("in", "not_in")
        if (
            many != isinstance(value, list | tuple)
            or (many and not 0 < len(value) <= _MAX_IN_VALUES)
            or (many and None in value)
        ):
            raise _config_error(
                "where",
                f"where: the value of {name!r} does not fit its operator",
                "in and not_in take a list of 1 to 10000 values without null; the other operators take one value",
            )
        if value is None and operator not in ("=", "!="):
            raise _config_error("where", f"where: {name!r} is compared with null", "use null with = and != only")


class _StatementBuilder:
    """Build a statement in which every value is a placeholder."""

    def __init__(self, session: Session, params: Params) -> None:
        self._session = session
        self._named = dict(params) if isinstance(params, Mapping) else None
        self._positional: list[Any] = []

    def name(self, name: str | TableName) -> str:
        return self._session.user_text(self._session.sql(name))

    def value(self, value: Any) -> str:
        if self._named is None:
            self._positional.append(value)
            return self._session.user_placeholder
        key = f"flowrunner_set_{len(self._named)}"
        self._named[key] = value
        return self._session.user_named_placeholder.format(key)

    def params(self, more: Params = None) -> Params:
        return self._named if self._named is not None else [*self._positional, *(more or ())]

    def where(self, plan: ModifyPlan) -> str:
        if isinstance(plan.where, str):
            return plan.where if plan.params is not None else self._session.user_text(plan.where)
        table = self.name(TableName.parse(plan.table))  # SQLite reads a bare quoted name that is no column as a string
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
    """Change the rows and record this in the ledger in one commit, exactly once; beyond the limits, change nothing."""
    if plan.dry_run:
        with connect() as session:
            session.begin(read_only=True)
            affected = _count_matches(session, plan)
            session.rollback()
        return ModifyResult(table=plan.table, operation=plan.operation, affected=affected, dry_run=True)
    work = Once(
        action="sql.modify",
        target=TableName.parse(plan.table),
        fingerprint=plan.fingerprint(),
        connect=connect,
        body=lambda session: {"affected": _change_rows(session, plan)},
        run=run,
        failpoint=lambda name: failpoint(f"sql.modify.{name}"),
    )
    affected = int(work.perform()["affected"])
    return ModifyResult(table=plan.table, operation=plan.operation, affected=affected, dry_run=False)


def _count_matches(session: Session, plan: ModifyPlan) -> int:
    """Return how many rows match; beyond ``max_affected``, stop counting."""
    builder = _StatementBuilder(session, plan.params)
    where = builder.where(plan)
    query = f"SELECT 1 FROM {builder.name(TableName.parse(plan.table))} WHERE ({where}\n)"
    if plan.max_affected is not None and not plan.dry_run:
        query = session.limit_rows(query, plan.max_affected + 1)
    positional = plan.params if isinstance(plan.params, list | tuple) else None
    return session.execute(query, builder.params(positional))


def _change_rows(session: Session, plan: ModifyPlan) -> int:
    if plan.max_affected is not None:
        _check_limits(plan, _count_matches(session, plan), counted=True)
    builder = _StatementBuilder(session, plan.params)
    table = builder.name(TableName.parse(plan.table))
    if plan.operation == "update":
        values = _encode_lists(session, plan)
        sets = ", ".join(f"{builder.name(name)} = {builder.value(value)}" for name, value in values.items())
        head = f"UPDATE {table} SET {sets}"
    else:
        head = f"DELETE FROM {table}"
    statement = f"{head} WHERE ({builder.where(plan)}\n)"
    positional = plan.params if isinstance(plan.params, list | tuple) else None
    affected = session.execute(statement, builder.params(positional))
    failpoint("sql.modify.after_change")
    _check_limits(plan, affected)
    return affected


def _encode_lists(session: Session, plan: ModifyPlan) -> dict[str, Any]:
    """Return the values to set; a list for a column that is not an array becomes JSON, like an object."""
    values = dict(plan.set or {})
    lists = [name for name, value in values.items() if isinstance(value, list | tuple)]
    if lists and session.has_arrays:
        table = session.sql(TableName.parse(plan.table))
        kinds = session.column_types(f"SELECT {session.names(lists)} FROM {table}", None)
        lists = [name for name in lists if kinds[name] == "json"]
    return values | {name: as_json(values[name]) for name in lists}


def _check_limits(plan: ModifyPlan, affected: int, *, counted: bool = False) -> None:
    if plan.max_affected is not None and affected > plan.max_affected:
        raise IntegrityError(
            f"more than max_affected={plan.max_affected} rows of {plan.table} match; nothing was changed",
            remedy="narrow where, or raise max_affected; dry_run=True counts the rows",
        )
    if not counted and plan.expect_affected not in (None, affected):
        raise IntegrityError(
            f"{affected} rows of {plan.table} match, expected were {plan.expect_affected}; nothing was changed",
            remedy="check the table, or correct where",
        )
