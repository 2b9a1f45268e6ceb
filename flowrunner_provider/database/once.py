"""Work in one transaction with its ledger row: done once, however often it is tried."""

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


def _nothing(*_: object) -> None:
    """What most work needs to do here."""


@dataclass(kw_only=True)
class Once:
    """A piece of work that commits together with the record that it happened.

    :param action: its id; the effect's name.
    :param target: the ledger is in the schema of this table.
    :param fingerprint: of the work; another one under the same key is refused.
    :param connect: opens a connection; called again after a conflict, or when one broke at COMMIT.
    :param body: the work, in the open transaction; returns its result as a JSON object.
    :param point: a failpoint of the action.
    :param recorded: False for no ledger: a retry does the work again.
    :param other: what an earlier attempt has done if it did something else under the same key.
    :param look: what must hold, looked at before anything is written, with the target's full name.
    :param publish: the last step, after the result is recorded: where the database commits at every change of a
        table's structure, it is what decides.
    :param tidy: removes what a killed attempt may have left; called when the work is done (True) or failed (False).
    """

    action: str
    target: TableName
    fingerprint: str
    connect: Callable[[], Session]
    body: Callable[[Session], dict[str, Any]]
    run: Run
    point: Callable[[str], None]
    isolation: Isolation = "read committed"
    recorded: bool = True
    other: str = "done other work"
    look: Callable[[Session, TableName], None] = _nothing
    publish: Callable[[Session], None] = _nothing
    tidy: Callable[[Session, TableName, bool], None] = _nothing

    def __post_init__(self) -> None:
        self.key = self.run.effects.key(self.action)

    def perform(self) -> dict[str, Any]:
        """Do it, or return what the attempt that did it has recorded.

        When another transaction is in the way (deadlock, serialization failure) all of it is done again, a few times.

        :raises OutcomeUnknown: if the connection broke at COMMIT and the database cannot be asked now.
        """
        for number in count(1):
            try:
                with self.connect() as session:
                    return self._attempt(session)
            except Conflict as error:
                seconds = self.run.retry.wait(error, number, self.run.deadline)
                if seconds is None:
                    raise
                self.run.log.info("Another transaction was in the way (%s); once more.", error.message)
                pause(seconds)
            except OutcomeUnknown as unknown:
                return self._asked(unknown)
        raise AssertionError("count() does not end")

    def _attempt(self, session: Session) -> dict[str, Any]:
        self.point("after_connect")
        target = session.locate(self.target)
        self.look(session, target)
        ledger = Ledger(session, target)
        if self.recorded:
            ledger.ensure()
            self.point("after_ledger_table")
            session.hold(self.key)
        session.begin(self.isolation)
        try:
            if self.recorded:
                done = ledger.claim(self.key, self.fingerprint, self.other)
                if done is not None:
                    session.commit()
                    self.tidy(session, target, True)
                    return done
                self.point("after_ledger")
            result = self._worked(session, ledger)
        except OutcomeUnknown:
            raise
        except FlowRunnerError:
            with suppress(FlowRunnerError):  # the first error tells more; the end of the connection undoes it, too
                session.rollback()
                self.tidy(session, target, False)
            raise
        session.commit()
        self.point("after_commit")
        self.tidy(session, target, True)
        return result

    def _worked(self, session: Session, ledger: Ledger) -> dict[str, Any]:
        result = self.body(session)
        session.check_constraints()
        if self.recorded:
            ledger.record(self.key, result)
        self.publish(session)
        if self.recorded:
            ledger.complete(self.key)
        self.point("before_commit")
        self.run.lease.check()
        return result

    def _asked(self, unknown: OutcomeUnknown) -> dict[str, Any]:
        """What the ledger says about a COMMIT that was not answered."""
        self.point("before_reconcile")
        if not self.recorded:
            raise OutcomeUnknown(
                f"{unknown.message}, and without a ledger nobody can tell whether it was stored",
                effect_key=self.key,
                reconcilable=False,
                remedy="look into the table; with once=True the ledger tells",
            ) from None
        try:
            with self.connect() as session:
                target = session.locate(self.target)
                session.hold(self.key)
                session.begin()
                done = Ledger(session, target).claim(self.key, self.fingerprint, self.other)
                if done is None:
                    session.rollback()
                else:
                    session.commit()
                self.tidy(session, target, done is not None)
        except TransientError as error:
            raise OutcomeUnknown(
                f"{unknown.message}, and whether it was stored cannot be asked now ({error.message})",
                effect_key=self.key,
                remedy="the retry asks the ledger first",
            ) from None
        if done is None:
            raise ConnectionLost(f"{unknown.message}; nothing was stored")
        return done
