"""Scripts in PostgreSQL: one message of the simple protocol, which the server splits itself."""

from __future__ import annotations

from typing import Any

from flowrunner_provider.core.errors import IntegrityError, Unavailable
from flowrunner_provider.core.retry import pause
from flowrunner_provider.database.dialects.postgres import PostgresSession
from flowrunner_provider.database.dialects.postgres_errors import classified
from flowrunner_provider.database.dialects.scripts import Scripts, failed_at

__all__ = ["PostgresScripts"]

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('flowrunner:migrations'))"
_XACT = "SELECT txid_current()"
_POLL = 0.2


class PostgresScripts(Scripts[PostgresSession]):
    """DDL is transactional, so a script and its history row commit together."""

    dialect = "postgres"

    def exclusive(self) -> None:
        """Acquire a transaction-level advisory lock, which also works behind a pooler.

        The lock is polled: a session that waits inside a statement would hold a snapshot, for which ``CREATE INDEX
        CONCURRENTLY`` of the other run would wait.
        """
        session = self.session
        session.begin()
        session.run("SELECT set_config('idle_in_transaction_session_timeout', $1, true)", [session.idle_timeout])
        patience = session._lock_wait
        clock = session._deadline.clock
        end = clock.monotonic() + patience
        while not session.run(_LOCK)[0][0]:
            if clock.monotonic() >= end:
                raise Unavailable(
                    f"{session._where}: another run of migrations is active", remedy="the retry waits again"
                )
            pause(_POLL)

    def run(self, script: str) -> None:
        session = self.session
        before = session.run(_XACT)
        driver: Any = session._driver
        try:
            session._cursor.execute(script.encode())
        except driver.Error as error:
            position = int(error.diag.statement_position or 0)
            line = script.count("\n", 0, position - 1) + 1 if position else 0
            with failed_at(f"line {line}" if line else ""):
                raise classified(error, session._where, broken=session._broken, deadline=session._deadline) from None
        inside = session._connection.info.transaction_status == driver.pq.TransactionStatus.INTRANS
        if not inside or session.run(_XACT) != before:
            raise IntegrityError("a statement has ended the transaction", remedy="remove COMMIT and ROLLBACK")

    def run_alone(self, statement: str) -> None:
        """Run one statement by the extended protocol, which refuses several."""
        session = self.session
        with session.typed(), session._driver.Cursor(session._connection) as cursor:
            cursor.execute(statement.encode(), binary=True)

    @classmethod
    def literal(cls, text: str) -> str:
        quoted = text.replace("'", "''")
        return f"""E'{quoted.replace(chr(92), chr(92) * 2)}'""" if "\\" in text else f"'{quoted}'"
