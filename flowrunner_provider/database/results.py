"""What the SQL actions return: small, JSON, and without values of rows (but the preview of a file)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.data.dataset import Dataset

__all__ = [
    "CreateTableResult", "ExportFormat", "ExportResult", "LoadResult", "MaintainResult", "ModifyResult",
    "ProcedureResult", "SchemaCheckResult", "SchemaDifference", "StatementResult", "TransactionResult",
]  # fmt: skip

ExportFormat = Literal["jsonl", "csv", "parquet", "xlsx"]
"""What the suffix of a file may ask for; nothing here reads xlsx back."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What became of the rows of the source: ``rows`` is the sum of the other counts.

    :param table: with its schema.
    :param skipped: rows that a later one with the same keys replaced, or that had nothing to change.
    :param rejected: rows set aside in ``reject_path``.
    """

    table: str
    rows: int
    inserted: int
    updated: int
    skipped: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class ExportResult(Dataset):
    """The rows that were written; with one file this is a dataset as any other.

    :param files: a dataset for each file; none where there was nothing to write.
    """

    format: ExportFormat  # type: ignore[assignment]  # an Excel file is no dataset to read
    files: list[Dataset]


@dataclass(frozen=True, kw_only=True)
class ModifyResult:
    """What was changed.

    :param affected: how many rows; with ``dry_run`` how many there would be.
    """

    table: str
    operation: str
    affected: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """What a statement did.

    :param rows: how many rows it changed or, for a query, returned.
    :param undone: it was taken back, or not run, after an error behind its savepoint.
    """

    name: str
    rows: int
    undone: bool


@dataclass(frozen=True, kw_only=True)
class TransactionResult:
    """What the statements did.

    :param rows: of all statements that were not undone.
    :param undone: how many statements were.
    """

    statements: list[StatementResult]
    rows: int
    undone: int


@dataclass(frozen=True, kw_only=True)
class MaintainResult:
    """What was done.

    :param tables: with their schemas.
    :param rows: how many rows the tables had that were emptied or dropped; with ``dry_run`` would be.
    """

    operation: str
    tables: list[str]
    rows: int
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class CreateTableResult:
    """The table that is there now.

    :param table: with its schema.
    :param created: False where a fitting one was there.
    :param replaced: it took the place of another one.
    :param columns: name -> type in the words of a dataset, as asked for.
    """

    table: str
    created: bool
    replaced: bool
    columns: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SchemaDifference:
    """One difference between what was expected and what is there.

    :param change: ``added``, ``removed`` or ``changed``.
    :param what: ``table``, ``column``, ``type``, ``nullability``, ``default``, ``primary_key``, ``index`` or
        ``foreign_key``.
    :param name: of the column or index; empty for the table itself.
    :param expected: as the database says it; empty for something added.
    :param found: the same; empty for something removed.
    """

    table: str
    change: str
    what: str
    name: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True)
class SchemaCheckResult:
    """How the tables compare.

    :param tables: how many were looked at.
    :param drift: whether there is a difference.
    :param differences: at most 200; ``count`` is how many there are.
    :param snapshot: where the structures found were written; empty for nowhere.
    """

    tables: int
    drift: bool
    count: int
    differences: list[SchemaDifference]
    snapshot: str


@dataclass(frozen=True, kw_only=True)
class ProcedureResult:
    """What a call returned.

    :param outputs: name -> value of each output, in the form of JSON.
    :param result_sets: the rows of each result, as objects; none where they were saved.
    :param rows: how many rows were returned.
    :param dataset: the saved rows; null if none were to be.
    """

    outputs: dict[str, Any]
    result_sets: list[list[dict[str, Any]]]
    rows: int
    dataset: Dataset | None
