"""Work in one transaction with its ledger row: done exactly once over all attempts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from flowrunner_provider.core.errors import ConnectionLost, FlowRunnerError, OutcomeUnknown, TransientError
from flowrunner_provider.core.retry import pause
from flowrunner_provider.core.run import Run
from flowrunner_provider.database.choices import Isolation
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.database.dialects.model import Conflict
from flowrunner_provider.database.identifiers import TableName
from flowrunner_provider.database.ledger import Ledger

__all__ = ["Once"]


def _do_nothing(*_: object) -> None:
    """The default for optional steps."""


@dataclass(kw_only=True)
class Once:
    """Work that commits together with the record that it happened.

    :param action: the action's name, which is also the name of its effect.
    :param target: the table whose schema holds the ledger.
    :param fingerprint: of the work; another fingerprint under the same key is rejected.
    :param connect: opens a connection; called again after a conflict, or when a connection broke at COMMIT.
    :param body: does the work in the open transaction and returns its result as a JSON object.
    :param failpoint: passes a failpoint of the action, given its name.
    :param use_ledger: set to False to keep no ledger; then a retry repeats the work.
    :param other_work: what the error says an earlier attempt did if its fingerprint differs.
    :param check_target: checks preconditions before anything is written; receives the target with its schema.
    :param publish: the last step, after the result is recorded. Where the database commits implicitly at DDL
        statements, this step decides.
    :param remove_leftovers: drops what a killed attempt left behind; called after the work is done (True) or
        failed (False).
    """

    action: str
    target: TableName
    fingerprint: str
    connect: Callable[[], Session]
    body: Callable[[Session], dict[str, Any]]
    run: Run
    failpoint: Callable[[str], None]
    isolation: Isolation = "read committed"
    use_ledger: bool = True
    other_work: str = "done other work"
    check_target: Callable[[Session, TableName], None] = _do_nothing
    publish: Callable[[Session], None] = _do_nothing
    remove_leftovers: Callable[[Session, TableName, bool], None] = _do_nothing

    def __post_init__(self) -> None:
        self.key = self.run.effects.key(self.action)

    def perform(self) -> dict[str, Any]:
        """Do the work, or return the result that an earlier attempt recorded.

        After a deadlock or serialization failure, the whole transaction is retried a few times.

        :raises OutcomeUnknown: if the connection broke at COMMIT and the ledger cannot be read now.
        """
        for number in count(1):
            try:
                with self.connect() as session:
                    return self._attempt(session)
            except Conflict as error:
                seconds = self.run.retry.wait(error, number, self.run.deadline)
                if seconds is None:
                    raise
                self.run.log.info("Conflict with another transaction (%s); retrying.", error.message)
                pause(seconds)
            except OutcomeUnknown as unknown:
                return self._resolve_unknown(unknown)
        raise AssertionError("count() does not end")

    def _attempt(self, session: Session) -> dict[str, Any]:
        self.failpoint("after_connect")
        target = session.locate(self.target)
        self.check_target(session, target)
        ledger = Ledger(session, target)
        if self.use_ledger:
            ledger.ensure()
            self.failpoint("after_ledger_table")
            session.acquire_lock(self.key)
        session.begin(self.isolation)
        try:
            if self.use_ledger:
                done = ledger.claim(self.key, self.fingerprint, self.other_work)
                if done is not None:
                    session.commit()
                    self.remove_leftovers(session, target, True)
                    return done
                self.failpoint("after_ledger")
            result = self._run_body(session, ledger)
        except OutcomeUnknown:
            raise
        except FlowRunnerError:
            with suppress(FlowRunnerError):  # keep the first error; closing the connection also rolls back
                session.rollback()
                self.remove_leftovers(session, target, False)
            raise
        session.commit()
        self.failpoint("after_commit")
        self.remove_leftovers(session, target, True)
        return result

    def _run_body(self, session: Session, ledger: Ledger) -> dict[str, Any]:
        result = self.body(session)
        session.check_constraints()
        if self.use_ledger:
            ledger.record(self.key, result)
        self.publish(session)
        if self.use_ledger:
            ledger.complete(self.key)
        self.failpoint("before_commit")
        self.run.lease.check()
        return result

    def _resolve_unknown(self, unknown: OutcomeUnknown) -> dict[str, Any]:
        """Read from the ledger whether an unanswered COMMIT took effect."""
        self.failpoint("before_reconcile")
        if not self.use_ledger:
            raise OutcomeUnknown(
                f"{unknown.message}; without a ledger, it is unknown whether the changes were stored",
                effect_key=self.key,
                reconcilable=False,
                remedy="check the table; with once=True, the ledger records it",
            ) from None
        try:
            with self.connect() as session:
                target = session.locate(self.target)
                session.acquire_lock(self.key)
                session.begin()
                done = Ledger(session, target).claim(self.key, self.fingerprint, self.other_work)
                if done is None:
                    session.rollback()
                else:
                    session.commit()
                self.remove_leftovers(session, target, done is not None)
        except TransientError as error:
            raise OutcomeUnknown(
                f"{unknown.message}; the ledger cannot be read now ({error.message})",
                effect_key=self.key,
                remedy="retry: the next attempt reads the ledger first",
            ) from None
        if done is None:
            raise ConnectionLost(f"{unknown.message}; nothing was stored")
        return done
