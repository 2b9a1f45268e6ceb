"""Far sides of SQL Server: the fake, looked at in its own file, and a real server that the user names."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from tests.database.far_side import FarSide
from tests.support.tds_fake import PASSWORD, USER

__all__ = ["FakeFarSide", "LiveFarSide"]

_WORDS = {
    r"\bboolean\b": "bit", r"\btimestamp(\(6\))?( NULL)?": "datetime2(6)", r"\bdouble precision\b": "float",
}  # fmt: skip
_INDEX = re.compile(r"(?i)(CREATE (?:UNIQUE )?INDEX )(\w+)( ON )dbo\.")


def _types(sql: str) -> str:
    """The types of a test in the words of the server."""
    for pattern, word in _WORDS.items():
        sql = re.sub(f"(?i){pattern}", word, sql)
    return sql


@dataclass(frozen=True)
class FakeFarSide(FarSide):
    """The fake over a file; what is asked here does not pass it."""

    file: Path
    port: int
    ca_file: Path
    options: dict[str, Any] = field(default_factory=dict)
    kind = "mssql"
    mark = "%s"
    named_mark = "%({})s"
    key_is_taken = "2627"

    @property
    def connection(self) -> str:
        return json.dumps(
            {
                "conn_type": "mssql",
                "host": "127.0.0.1",
                "port": self.port,
                "login": USER,
                "password": PASSWORD,
                "schema": "fake",
                "extra": {"flowrunner": {"ca_file": str(self.ca_file), **self.options}},
            }
        )

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        if sql.startswith(("CREATE PROCEDURE", "CREATE FUNCTION")):
            return self._created(sql)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("ATTACH ? AS dbo", (str(self.file),))
            sql = re.sub(r"(?i)(REFERENCES )dbo\.", r"\1", _INDEX.sub(r"\1dbo.\2\3", _types(sql)))
            return connection.execute(sql).fetchall()

    def _created(self, sql: str) -> list[tuple[Any, ...]]:
        """What the file does not keep."""
        import pytds

        with pytds.connect("127.0.0.1", "fake", USER, PASSWORD, port=self.port, autocommit=True) as connection:
            connection.cursor().execute(sql)
        return []

    def name(self, table: str) -> str:
        return f"dbo.{table}"

    def tables(self) -> set[str]:
        return {row[0] for row in self.run("SELECT name FROM dbo.sqlite_master WHERE type = 'table'")}


@dataclass(frozen=True)
class LiveFarSide(FarSide):
    """A schema of a real server.

    :param address: host, port, login, password and schema (the database) of the connection, and its extra.
    """

    address: dict[str, Any]
    schema: str
    kind = "mssql"
    mark = "%s"
    named_mark = "%({})s"
    key_is_taken = "2627"
    deviations: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @property
    def connection(self) -> str:
        return json.dumps({"conn_type": "mssql", **self.address})

    def connect(self) -> Any:
        """A connection that commits by itself."""
        import pytds

        options = self.address.get("extra", {}).get("flowrunner", {})
        return pytds.connect(
            self.address["host"],
            self.address["schema"],
            self.address["login"],
            self.address["password"],
            port=self.address.get("port", 1433),
            autocommit=True,
            cafile=options.get("ca_file"),
        )

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        sql = re.sub(r"(?i)\btext\b", "nvarchar(400)", _types(sql)).replace("ADD COLUMN", "ADD")
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def name(self, table: str) -> str:
        return f"{self.schema}.{table}"

    def tables(self) -> set[str]:
        listed = f"SELECT name FROM sys.tables WHERE schema_id = SCHEMA_ID('{self.schema}')"
        return {row[0] for row in self.run(listed)}

    def make(self) -> LiveFarSide:
        self.run(f"CREATE SCHEMA {self.schema}")
        return self

    def remove(self) -> None:
        """Drop the schema and what is in it."""
        routines = f"SELECT name, type FROM sys.objects WHERE schema_id = SCHEMA_ID('{self.schema}')"
        for name, kind in self.run(routines):
            if kind.strip() in ("P", "FN"):
                self.run(f"DROP {'PROCEDURE' if kind.strip() == 'P' else 'FUNCTION'} {self.schema}.[{name}]")
        for table in self.tables():
            quoted = table.replace("]", "]]")
            self.run(f"DROP TABLE {self.schema}.[{quoted}]")
        self.run(f"DROP SCHEMA {self.schema}")
