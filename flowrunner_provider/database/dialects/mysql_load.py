"""Bulk loads: ``LOAD DATA LOCAL``, or ``INSERT`` where the server has that switched off. Every warning fails."""

# ruff: noqa: S608 - names are quoted by identifiers.py, values by InsertStream
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Copier, CsvFile
from flowrunner_provider.database.dialects.mysql_errors import refused_row
from flowrunner_provider.database.dialects.mysql_insert import InsertStream
from flowrunner_provider.database.dialects.mysql_rows import LOADED_AS, TextCopier, csv_blocks, csv_fits, line_end
from flowrunner_provider.database.dialects.mysql_tables import wire_encodings
from flowrunner_provider.database.dialects.mysql_wire import LoadStream, load_data
from flowrunner_provider.database.dialects.postgres_csv import Unfit, count_rows
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.pipe import ReadAhead

if TYPE_CHECKING:
    from pymysql.connections import Connection

__all__ = ["TEXT_FORMAT", "MysqlBulkLoad"]

TEXT_FORMAT = "FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n'"
"""The text format of :mod:`mysql_rows`, which is also that of PostgreSQL's ``COPY``."""
_CSV = "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '{}'"


class MysqlBulkLoad(Session):
    """The part of a session that loads rows in bulk."""

    _connection: Connection
    _deadline: Deadline

    @abstractmethod
    def typed(self) -> AbstractContextManager[None]:
        """Turn errors of the driver into our own."""

    @contextmanager
    def copy(self, table: TableName, columns: Sequence[str]) -> Iterator[Copier]:
        kinds = wire_encodings(self, table, columns)
        copier = TextCopier(binary=[place for place, kind in enumerate(kinds) if kind == "binary"])
        with self._bulk_stream(table, columns, TEXT_FORMAT, kinds) as stream:
            copier.send = stream.write
            yield copier
        copier.rows = stream.affected

    def copy_file(
        self, table: TableName, columns: Sequence[str], file: CsvFile, passed: Callable[[int], None]
    ) -> tuple[int, int] | None:
        kinds = wire_encodings(self, table, columns)
        if not csv_fits(file) or any(kinds) or not self._takes_local_data():
            return None
        style, lines = _CSV.format(line_end(file)), 0
        self.savepoint()
        try:
            with (
                self._bulk_stream(table, columns, style, kinds) as stream,
                # a thread checks the next blocks while the server stores the previous ones
                closing(ReadAhead(csv_blocks(file), lambda: None, self._deadline).read()) as read,
            ):
                for block, found in read:
                    stream.write(block)
                    lines += found
                    passed(found)
        except Unfit:
            self.rollback_to_savepoint()
            return None
        self.release_savepoint()
        return (rows := stream.affected), lines if rows == lines else sum(
            count_rows(block) for block, _ in csv_blocks(file)
        )

    def _takes_local_data(self) -> bool:
        return bool(self.run("SELECT @@local_infile")[0][0])

    @contextmanager
    def _bulk_stream(
        self, table: TableName, columns: Sequence[str], style: str, kinds: Sequence[str]
    ) -> Iterator[LoadStream | InsertStream]:
        if not self._takes_local_data():
            yield self._inserting(table, columns, kinds)
            return
        targets = [f"@flowrunner_{n}" if kind else self.sql(columns[n]) for n, kind in enumerate(kinds)]
        sets = [
            f"{self.sql(columns[n])} = {LOADED_AS[kind].format(targets[n])}" for n, kind in enumerate(kinds) if kind
        ]
        statement = (
            f"LOAD DATA LOCAL INFILE 'flowrunner' INTO TABLE {self.sql(table)} CHARACTER SET utf8mb4 {style}"
            f" ({', '.join(targets)})" + (f" SET {', '.join(sets)}" if sets else "")
        )
        with self.typed():
            with load_data(self._connection, statement) as stream:
                yield stream
            if stream.warnings or stream.skipped:
                self._refuse_warning()

    def _inserting(self, table: TableName, columns: Sequence[str], kinds: Sequence[str]) -> InsertStream:
        forms = [LOADED_AS.get(kind, "{}") for kind in kinds]
        return InsertStream(f"INSERT INTO {self.sql(table)} ({self.names(columns)}) VALUES ", forms, self._insert)

    def _insert(self, statement: bytes) -> int:
        with self.typed(), self._connection.cursor() as cursor:
            rows = int(cursor.execute(statement))
            if cursor.warning_count:
                self._refuse_warning()
        return rows

    def _refuse_warning(self) -> NoReturn:
        found = self.run("SHOW WARNINGS LIMIT 1")
        raise refused_row(int(found[0][1]), str(found[0][2])) if found else refused_row(0, "")
