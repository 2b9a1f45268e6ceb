"""Stored procedures of SQL Server: a batch declares variables for the outputs, calls, and selects them at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Rejected
from flowrunner_provider.database.dialects.calling import Argument, Call, ResultSet
from flowrunner_provider.database.dialects.mssql_copy import MssqlBulkLoad
from flowrunner_provider.database.dialects.mssql_query import bound
from flowrunner_provider.database.dialects.mssql_tables import Described, object_text
from flowrunner_provider.database.dialects.mssql_wire import batches
from flowrunner_provider.database.identifiers import TableName

__all__ = ["STATE", "MssqlCalls"]

_BATCH = 1_000
_ROUTINE = (
    "SELECT s.name, o.name, o.type, p.name, TYPE_NAME(p.system_type_id), p.max_length, p.precision, p.scale,"
    " p.is_output FROM sys.all_objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id"
    " LEFT JOIN sys.all_parameters AS p ON p.object_id = o.object_id AND p.parameter_id > 0"
    " WHERE o.object_id = OBJECT_ID(\x001\0) ORDER BY p.parameter_id"
)
STATE = "SELECT @@TRANCOUNT, CURRENT_TRANSACTION_ID()"
"""The nesting depth and the id of the current transaction."""
_STATUS = "flowrunner_status"
_PROCEDURES, _SCALARS, _TABLES = ("P", "PC"), ("FN", "FS"), ("IF", "TF", "FT")
_NO_PROCEDURE, _NO_FUNCTION, _TOO_MANY, _COUNT_DIFFERS, _TERMINATED = 2812, 4121, 8144, 266, 3621
_NAME = re.compile(r"@[\w@$#]+")
_NO_ERROR = 10
"""The highest severity of an informational message."""


@dataclass(frozen=True, kw_only=True)
class _Parameter(Described):
    """A parameter as the catalogue describes it."""

    is_output: bool

    def check(self, item: Argument) -> None:
        """Raise for a value that the server would silently truncate, or a wrong direction.

        :raises ConfigError: naming ``arguments``.
        """
        problem, remedy = "", "correct the argument"
        if item.direction != "in" and not self.is_output:
            problem, remedy = "is an output, but the parameter is not", "use mode 'in'"
        elif not self.kind:
            problem, remedy = "is for a parameter of a table or .NET type", "call it through a procedure without one"
        elif self._is_cut(item.value):
            problem, remedy = f"is longer than {self.declaration} takes", "give a shorter value"
        if problem:
            raise ConfigError(f"the argument for {self.name} {problem}", field="arguments", remedy=remedy)

    def _is_cut(self, value: Any) -> bool:
        if self.size == -1:
            return False
        if self.kind in ("nchar", "nvarchar"):
            return isinstance(value, str) and len(value.encode("utf-16-le", "surrogatepass")) > self.size
        return self.kind in ("char", "varchar", "binary", "varbinary") and (
            isinstance(value, str | bytes) and len(value) > self.size
        )


@dataclass(frozen=True, kw_only=True)
class _Routine:
    name: TableName
    kind: str
    parameters: Sequence[_Parameter]

    def placed(self, arguments: Sequence[Argument]) -> list[tuple[Argument, _Parameter, bool]]:
        """Match arguments with parameters by ``@name`` or position; return both, and whether it was by name."""
        found: list[tuple[Argument, _Parameter, bool]] = []
        for place, item in enumerate(arguments):
            named = item.name.startswith("@")
            if not named and found and found[-1][2]:
                raise ConfigError(
                    "a positional argument follows a named one (@name)",
                    field="arguments",
                    remedy="name all arguments after the first named one",
                )
            if not named and place >= len(self.parameters):
                raise _refused(_TOO_MANY)
            parameter = self._named(item.name) if named else self.parameters[place]
            parameter.check(item)
            found.append((item, parameter, named))
        if len({parameter.name for _, parameter, _ in found}) < len(found):
            raise ConfigError("two arguments are for the same parameter", field="arguments", remedy="remove one")
        return found

    def _named(self, name: str) -> _Parameter:
        """Return the parameter of a name; the database decides whether case matters."""
        exact = [parameter for parameter in self.parameters if parameter.name == name]
        similar = exact or [parameter for parameter in self.parameters if parameter.name.casefold() == name.casefold()]
        if len(similar) != 1 or not _NAME.fullmatch(similar[0].name):
            raise ConfigError(
                f"{self.name} has no parameter {name[:80]!r}",
                field="arguments",
                remedy=f"it has {', '.join(parameter.name for parameter in self.parameters) or 'none'}",
            )
        return similar[0]


class MssqlCalls(MssqlBulkLoad):
    """The part of a session that calls procedures and functions."""

    if TYPE_CHECKING:
        _driver: Any

        def _open(self) -> bool: ...

    _before: tuple[Any, ...] = ()

    @contextmanager
    def call(self, name: TableName, arguments: Sequence[Argument], *, function: bool) -> Iterator[Call]:
        self._before = self.run(STATE)[0]
        routine = self._routine(name, function)
        placed = routine.placed([item for item in arguments if item.direction != "return"])
        write = self._function_text if function else self._procedure_text
        text, values = bound(*write(routine, placed))
        row: list[Any] = []
        with self.typed(), self._raise_first_error():
            call = Call(sets=_sets(self.submit(text, values), row))
            yield call
        if not function:
            call.outputs.update(_outputs(row, routine, arguments))

    def in_transaction(self) -> bool:
        """Return whether the transaction in which the call began is still open."""
        depth, number = self.run(STATE)[0]
        return bool(depth and number == self._before[1])

    def _routine(self, name: TableName, function: bool) -> _Routine:
        rows = self.run(_ROUTINE, [object_text(self, name)])
        kind = str(rows[0][2]).strip() if rows else ""
        if kind not in (_SCALARS + _TABLES if function else _PROCEDURES):
            raise _refused(_NO_FUNCTION if function else _NO_PROCEDURE)
        parameters = [
            _Parameter(
                name=row[3], kind=row[4] or "", size=int(row[5]), precision=int(row[6]), scale=int(row[7]),
                identity=False, computed=False, code_page=None, is_output=bool(row[8]),
            )
            for row in rows
            if row[3] is not None
        ]  # fmt: skip
        return _Routine(name=TableName.of(rows[0][1], rows[0][0]), kind=kind, parameters=parameters)

    def _function_text(
        self, routine: _Routine, placed: Sequence[tuple[Argument, _Parameter, bool]]
    ) -> tuple[str, list[Any]]:
        if any(named for *_, named in placed):
            raise ConfigError("arguments of a function are positional", field="arguments", remedy="remove the @")
        place, marks = self.sql(routine.name).replace("%", "%%"), ", ".join("%s" for _ in placed)
        selected = f"{place}({marks}) AS [result]" if routine.kind in _SCALARS else f"* FROM {place}({marks})"
        return f"SELECT {selected}", [item.value for item, *_ in placed]

    def _procedure_text(
        self, routine: _Routine, placed: Sequence[tuple[Argument, _Parameter, bool]]
    ) -> tuple[str, list[Any]]:
        variables, first, then = [f"@{_STATUS} int"], [], []
        given, outputs = [], [f"@{_STATUS} AS [{_STATUS}]"]
        for number, (item, parameter, named) in enumerate(placed, 1):
            head = f"{parameter.name} = " if named else ""
            if item.direction == "in":
                given.append(f"{head}%s")
                then.append(item.value)
                continue
            variable = f"@flowrunner_{number}"
            given.append(f"{head}{variable} OUTPUT")
            outputs.append(f"{variable} AS [flowrunner_{number}]")
            variables.append(f"{variable} {parameter.declaration}")
            if item.direction == "inout":
                variables[-1] += " = %s"
                first.append(item.value)
        place = self.sql(routine.name).replace("%", "%%")
        call = f"EXEC @{_STATUS} = {place} {', '.join(given)}"
        return f"DECLARE {', '.join(variables)}; {call}; SELECT {', '.join(outputs)};", [*first, *then]

    @contextmanager
    def _raise_first_error(self) -> Iterator[None]:
        """Let a procedure run to its end after an error, as for any client, and raise its first error."""
        try:
            yield
        except self._driver.DatabaseError as error:  # of the server
            session = self._tds.main_session
            while self._open() and session.state != self._driver.tds_base.TDS_IDLE:
                with suppress(self._driver.DatabaseError):
                    session.next_set()
            wrong = [message["msgno"] for message in session.messages if message["severity"] > _NO_ERROR]
            first = next((number for number in wrong if number not in (_COUNT_DIFFERS, _TERMINATED)), None)
            if first is None and _COUNT_DIFFERS in wrong:
                raise Rejected(
                    f"the procedure leaves a transaction open, or ends one that it did not begin ({_COUNT_DIFFERS})",
                    code=str(_COUNT_DIFFERS),
                    remedy="add a COMMIT for each of its BEGIN TRANSACTION, or use once=False",
                ) from None
            if first is not None:
                error.number = first
            raise


def _refused(number: int) -> Rejected:
    return Rejected(f"the routine does not exist ({number})", code=str(number), remedy="check its name")


def _sets(cursor: Any, last: list[Any]) -> Iterator[ResultSet]:
    """Yield the result sets of the routine; the row of outputs goes to ``last``."""
    session, seen = cursor._session, None
    while True:
        if session.res_info is not None and session.res_info is not seen:
            seen = session.res_info
            columns = [column[0] or f"column{number}" for number, column in enumerate(cursor.description, 1)]
            rows = batches(cursor, _BATCH)
            if columns[0] == _STATUS:
                last += next(rows)[0]
            else:
                yield ResultSet(columns=columns, batches=rows)
        if not cursor.nextset():
            return


def _outputs(row: Sequence[Any], routine: _Routine, arguments: Sequence[Argument]) -> dict[str, Any]:
    """Return the outputs; a return code other than 0 is an error unless an argument requests it."""
    if not row:
        raise IntegrityError(f"{routine.name} did not run to its end", remedy="check what it does")
    outputs: dict[str, Any] = {}
    values, wanted = iter(row[1:]), False
    for item in arguments:
        if item.direction == "return":
            wanted, outputs[item.name] = True, row[0]
        elif item.direction != "in":
            outputs[item.name] = next(values)
    if row[0] != 0 and not wanted:
        raise Rejected(
            f"{routine.name} returned {row[0]}, and 0 is success",
            code=f"RETURN {row[0]}",
            remedy="check what the code means; an argument of mode 'return' accepts any code as a result",
        )
    return outputs
