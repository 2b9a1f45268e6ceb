"""Operators for SQL databases."""

from __future__ import annotations

from flowrunner_provider.database.operators.export import SqlExportOperator
from flowrunner_provider.database.operators.load import SqlLoadOperator
from flowrunner_provider.database.operators.maintain import SqlMaintainOperator
from flowrunner_provider.database.operators.migrate import SqlMigrateOperator
from flowrunner_provider.database.operators.modify import SqlModifyOperator
from flowrunner_provider.database.operators.procedure import SqlProcedureOperator
from flowrunner_provider.database.operators.reconcile import SqlReconcileOperator
from flowrunner_provider.database.operators.schema import SqlCreateTableOperator, SqlSchemaCheckOperator
from flowrunner_provider.database.operators.sync import SqlSyncOperator
from flowrunner_provider.database.operators.transaction import SqlTransactionOperator
from flowrunner_provider.database.operators.upsert import SqlUpsertOperator

__all__ = [
    "SqlCreateTableOperator",
    "SqlExportOperator",
    "SqlLoadOperator",
    "SqlMaintainOperator",
    "SqlMigrateOperator",
    "SqlModifyOperator",
    "SqlProcedureOperator",
    "SqlReconcileOperator",
    "SqlSchemaCheckOperator",
    "SqlSyncOperator",
    "SqlTransactionOperator",
    "SqlUpsertOperator",
]
