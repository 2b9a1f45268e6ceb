"""What the SQL actions return: small, JSON, and without values of rows (but the preview of a file)."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.data.dataset import Dataset

__all__ = ["ExportResult", "LoadResult", "ModifyResult", "StatementResult", "TransactionResult"]


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
