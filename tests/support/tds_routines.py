"""Procedures and functions of the fake SQL Server: a small grammar of Transact-SQL, each statement of it run by SQLite.

A body knows ``SET``, ``DECLARE``, ``EXEC``, ``RETURN``, ``THROW``, ``BEGIN``, ``COMMIT`` and ``ROLLBACK TRANSACTION``,
``IF @@TRANCOUNT > 0``, and what the fake knows outside of one. Semicolons divide it.
An error ends its statement and the next one is run, but THROW and a table that is not there end the batch; a procedure
that leaves another ``@@TRANCOUNT`` than it found is told with error 266: as the reference says.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.support.tds_rules import Refused
from tests.support.tds_sql import id_of, translated, type_of
from tests.support.tds_values import stored

__all__ = ["Connection", "Play", "Routine", "concerns", "describe", "last_part", "routine_of"]

_PART = r"(?:\[(?:[^\]]|\]\])*\]|\"[^\"]*\"|[\w#]+)"
_NAME = rf"({_PART}(?:\.{_PART})*)"
_BATCH = re.compile(r"(?is)(?:DECLARE\b[^;]*;\s*)?EXEC(?:UTE)?\b(?!\s+SP_RENAME)")
_CALL = re.compile(rf"(?is)SELECT\s+({_PART}\.{_PART})\((.*)\)\s+AS\s+{_PART}\s*;?\Z")
_CREATE = re.compile(
    rf"(?is)\s*CREATE\s+(PROCEDURE|FUNCTION)\s+{_NAME}\s*(.*?)\s*\bAS\b\s+(?:BEGIN\b(.*)\bEND|(.*))\s*\Z"
)
_PARAMETER = re.compile(r"(?is)(@[\w@$#]+)\s+(\w+(?:\s*\([^)]*\))?)\s*(OUTPUT|OUT)?\Z")
_VARIABLE = re.compile(r"(?is)(@\w+)\s+(\w+(?:\s*\([^)]*\))?)(?:\s*=\s*(.+))?\Z")
_EXEC = re.compile(rf"(?is)EXEC(?:UTE)?\s+(?:(@\w+)\s*=\s*)?{_NAME}\s*(.*)\Z")
_ARGUMENT = re.compile(r"(?is)(?:(@\w+)\s*=\s*)?(.+?)(?:\s+(OUTPUT|OUT))?\Z")
_COMMA = re.compile(r",(?=(?:[^']*'[^']*')*[^']*\Z)(?![^(]*\))")
_BETWEEN = re.compile(r"""(?:'[^']*'|\[(?:[^\]]|\]\])*\]|"[^"]*"|[^;'"\[])+""")
_ENDS_BATCH = frozenset({208, 102, 207})


@dataclass(frozen=True)
class Routine:
    """A procedure or function.

    :param parameters: name, type, and whether it is an output.
    """

    name: str
    kind: str
    parameters: list[tuple[str, str, bool]]
    body: list[str]


class Connection(Protocol):
    """What a connection of the fake does for a body."""

    depth: int
    db: sqlite3.Connection

    def routine(self, name: str) -> Routine | None: ...
    def statement(self, text: str, values: dict[str, Any]) -> bytes: ...
    def transaction(self, verb: str) -> bytes: ...
    def problem(self, number: int, text: str) -> bytes: ...
    def number_of(self, error: Exception) -> tuple[int, str]: ...


def concerns(text: str) -> bool:
    """Whether a text calls something."""
    return _BATCH.match(text) is not None or _CALL.match(text) is not None


def routine_of(text: str) -> Routine | None:
    """What a text creates."""
    found = _CREATE.match(text)
    if found is None:
        return None
    function = found[1].upper() == "FUNCTION"
    listed = re.sub(r"(?is)\)\s*RETURNS\b.*", "", found[3])[1:] if function else found[3]
    parameters = []
    for part in filter(None, map(str.strip, _COMMA.split(listed))):
        one = _PARAMETER.match(part)
        assert one is not None, part
        parameters.append((one[1], one[2], one[3] is not None))
    return Routine(last_part(found[2]), "FN" if function else "P ", parameters, _divided(found[4] or found[5]))


def describe(db: sqlite3.Connection, routines: list[Routine]) -> None:
    """The catalogue tells of them."""
    db.execute('DELETE FROM temp."sys.all_objects"')
    db.execute('DELETE FROM temp."sys.all_parameters"')
    db.execute('INSERT INTO temp."sys.all_objects" SELECT object_id, schema_id, name, type FROM temp."sys.objects"')
    for one in routines:
        number = id_of(one.name)
        db.execute('INSERT INTO temp."sys.all_objects" VALUES (?, 1, ?, ?)', (number, one.name, one.kind))
        for place, (name, declared, output) in enumerate(one.parameters, 1):
            row = (number, place, name, *type_of(declared), int(output))
            db.execute('INSERT INTO temp."sys.all_parameters" VALUES (?, ?, ?, ?, ?, ?, ?, ?)', row)


class _Refused(Exception):
    """An error of one statement."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number, self.text = number, text


class _BatchEnds(Exception):
    """No other statement is run."""


class _Returned(Exception):
    """The routine ends."""


@dataclass
class _Scope:
    values: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    status: int = 0


class Play:
    """A batch that calls; ``answer`` is what the client gets, without its end."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self.answer = connection, b""

    def batch(self, text: str, values: dict[str, Any]) -> None:
        """Run it."""
        scope = _Scope({name: stored(value) for name, value in values.items()})
        with suppress(_BatchEnds, _Returned):
            if found := _CALL.match(text):
                self._select(found[1], found[2], scope)
            else:
                self._statements(_divided(text), scope)

    def _statements(self, statements: list[str], scope: _Scope) -> None:
        for one in statements:
            try:
                self._statement(one, scope)
            except (_Refused, Refused, sqlite3.Error) as error:
                number, text = (
                    (error.number, error.text) if isinstance(error, _Refused) else self._connection.number_of(error)
                )
                self.answer += self._connection.problem(number, text)
                if number in _ENDS_BATCH:
                    raise _BatchEnds from None

    def _statement(self, text: str, scope: _Scope) -> None:
        word = text.split(None, 1)[0].upper()
        if found := re.match(r"(?is)IF\s+@@TRANCOUNT\s*>\s*0\s+(.*)", text):
            if self._connection.depth:
                self._statement(found[1], scope)
        elif word == "DECLARE":
            for part in _COMMA.split(text[len("DECLARE") :]):
                one = _VARIABLE.match(part.strip())
                assert one is not None, part
                scope.types[one[1]] = one[2]
                scope.values[one[1]] = _as(one[2], self._value(one[3] or "NULL", scope))
        elif found := re.match(r"(?is)SET\s+(@\w+)\s*=\s*(.*)", text):
            scope.values[found[1]] = _as(scope.types[found[1]], self._value(found[2], scope))
        elif word in ("EXEC", "EXECUTE"):
            self._execute(text, scope)
        elif word == "RETURN":
            scope.status = int(self._value(text[len("RETURN") :].strip() or "0", scope))
            raise _Returned
        elif word == "THROW":
            number, shown, _ = _COMMA.split(text[len("THROW") :])
            self.answer += self._connection.problem(int(number), str(self._value(shown, scope)))
            raise _BatchEnds
        elif word in ("BEGIN", "COMMIT", "ROLLBACK"):
            self.answer += self._connection.transaction(word)
        else:
            self.answer += self._connection.statement(text, scope.values)

    def _value(self, expression: str, scope: _Scope) -> Any:
        query = translated(f"SELECT {expression} AS value")[0]
        values = {name[1:]: value for name, value in scope.values.items()}
        return self._connection.db.execute(query, values).fetchone()[0]

    def _execute(self, text: str, scope: _Scope) -> None:
        found = _EXEC.match(text)
        assert found is not None, text
        routine = self._connection.routine(found[2])
        if routine is None or routine.kind != "P ":
            raise _Refused(2812, f"Could not find stored procedure '{found[2]}'.")
        inner, back = self._bound(routine, found[3], scope)
        before = self._connection.depth
        with suppress(_Returned):
            self._statements(routine.body, inner)
        if self._connection.depth != before:
            self.answer += self._connection.problem(266, "Transaction count after EXECUTE is another one.")
        if found[1]:
            scope.values[found[1]] = inner.status
        for variable, name in back.items():
            scope.values[variable] = _as(scope.types.get(variable, ""), inner.values[name])

    def _bound(self, routine: Routine, listed: str, scope: _Scope) -> tuple[_Scope, dict[str, str]]:
        """The variables of the procedure, and which of them go back into which of the caller's."""
        inner, back = _Scope(types={name: kind for name, kind, _ in routine.parameters}), {}
        outputs = {name for name, _, output in routine.parameters if output}
        for place, part in enumerate(filter(None, map(str.strip, _COMMA.split(listed)))):
            one = _ARGUMENT.match(part)
            assert one is not None, part
            if not one[1] and place >= len(routine.parameters):
                raise _Refused(8144, f"Procedure {routine.name} has too many arguments specified.")
            name = one[1] or routine.parameters[place][0]
            if name not in inner.types:
                raise _Refused(8145, f"{name} is not a parameter for procedure {routine.name}.")
            if one[3] and name not in outputs:
                raise _Refused(8162, f"The formal parameter {name} was not declared as an OUTPUT parameter.")
            inner.values[name] = _as(inner.types[name], self._value(one[2], scope))
            if one[3]:
                back[one[2]] = name
        for name in inner.types:
            if name not in inner.values:
                raise _Refused(201, f"Procedure '{routine.name}' expects parameter '{name}', which was not supplied.")
        return inner, back

    def _select(self, name: str, listed: str, scope: _Scope) -> None:
        """A function whose body is an expression."""
        routine = self._connection.routine(name)
        if routine is None or routine.kind != "FN":
            self.answer += self._connection.problem(4121, f"Cannot find the function {name}.")
            raise _BatchEnds
        given = [part for part in map(str.strip, _COMMA.split(listed)) if part]
        if len(given) != len(routine.parameters):
            few = len(given) < len(routine.parameters)
            self.answer += self._connection.problem(313 if few else 8144, "The number of arguments is another one.")
            raise _BatchEnds
        values = {
            parameter: _as(kind, self._value(part, scope))
            for (parameter, kind, _), part in zip(routine.parameters, given, strict=True)
        }
        expression = routine.body[-1][len("RETURN") :]
        self.answer += self._connection.statement(f"SELECT {expression} AS result", values)


def _as(declared: str, value: Any) -> Any:
    """A value as one of the type; a text that is too long is cut, as there."""
    kind, size, *_ = type_of(declared)
    if value is None or not declared:
        return value
    if kind in ("int", "bigint", "smallint", "tinyint", "bit"):
        try:
            return int(value)
        except ValueError:
            raise _Refused(8114, f"Error converting data type nvarchar to {kind}: {value!r}.") from None
    if kind in ("nvarchar", "varchar", "nchar", "char"):
        return str(value) if size == -1 else str(value)[: size // 2 if kind.startswith("n") else size]
    return value


def _divided(text: str) -> list[str]:
    """The statements between semicolons that are in no quotes."""
    return [one.strip() for one in _BETWEEN.findall(text) if one.strip()]


def last_part(name: str) -> str:
    """The name without its schema and quotes."""
    found = re.findall(_PART, name)[-1]
    return str(found[1:-1].replace("]]", "]")) if found[0] in '["' else str(found)
