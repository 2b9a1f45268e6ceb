"""Sends a report by mail once, with the rows that the first attempt read.

The rows stay on the worker's disk from the query until the mail is sent, so a retry mails the same report. A retry on
another machine runs the query again, under the same Message-ID, as long as nothing was sent. Once a mail may be out,
it stops: two different reports must not have one Message-ID.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowrunner_provider.core.effects import Effect, Intent, OnUnknown
from flowrunner_provider.core.errors import Json, OutcomeUnknown
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.database.dialects.base import Session
from flowrunner_provider.email.attachments import Attachment, content_type, too_large
from flowrunner_provider.email.css import inline_styles
from flowrunner_provider.email.message import Mail
from flowrunner_provider.email.send import NAME, Seal, deliver
from flowrunner_provider.email.transport import Transport
from flowrunner_provider.reports.results import Delivered, ReportFormat, ReportResult
from flowrunner_provider.reports.sheet import write_csv, write_xlsx
from flowrunner_provider.reports.snapshot import Snapshot
from flowrunner_provider.reports.table import STYLE, html_table

__all__ = ["Outbox", "Report", "ReportMailer"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report.

    :param compose: returns the validated mail with this HTML and these attachments.
    :param intro: HTML before the table.
    :param threshold: maximum rows that are shown in the mail itself.
    """

    compose: Callable[[str, list[Attachment]], Mail]
    intro: str
    format: ReportFormat
    threshold: int
    style: str | None
    attachment_name: str
    escape_formulas: bool
    skip_if_empty: bool


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """How the mail is sent; the parameters of :func:`~flowrunner_provider.email.send.deliver`."""

    transport: Transport
    domain: str
    limit: int
    on_unknown: OnUnknown
    seal: Seal | None


class ReportMailer:
    """Sends one report of one task.

    :param snapshot: keeps the rows between attempts.
    """

    def __init__(self, run: Run, snapshot: Snapshot, report: Report, outbox: Outbox) -> None:
        self._run, self._snapshot, self._report, self._outbox = run, snapshot, report, outbox
        self._message_id = f"<{run.effects.key(NAME)}@{outbox.domain}>"

    def rows(self, connect: Callable[[], Session]) -> Dataset | None:
        """Return the rows to mail, or None if they are lost and a mail may already be out."""
        begun = self._begun()
        dataset = self._snapshot.load() if begun or self._run.resume else None
        return self._snapshot.take(connect) if dataset is None and not begun else dataset

    def _begun(self) -> bool:
        record = self._run.effects.record(NAME)
        return record is not None and record["state"] != "withdrawn"

    async def send(self, dataset: Dataset | None) -> ReportResult:
        """Mail the rows once.

        :raises OutcomeUnknown: when nobody knows whether the mail was sent, or the same mail cannot be sent again.
        :raises FlowRunnerError: as ``email.send`` does.
        """
        if dataset is None:
            return await self._without_rows()
        if not dataset.rows and self._report.skip_if_empty:
            self._snapshot.remove()
            return ReportResult(sent=False, rows=0, delivered="nothing", message_id=None, accepted=0, unknown=0)
        failpoint("email.send_report.before_write")
        mail, delivered = await asyncio.to_thread(self._mail, dataset)
        failpoint("email.send_report.after_write")
        out = self._outbox
        result = await deliver(
            self._run, mail, out.transport, domain=out.domain, limit=out.limit, on_unknown=out.on_unknown, seal=out.seal
        )
        self._snapshot.remove()
        return ReportResult(
            sent=True,
            rows=dataset.rows,
            delivered=delivered,
            message_id=result.message_id,
            accepted=result.accepted,
            unknown=result.unknown,
        )

    def _mail(self, dataset: Dataset) -> tuple[Mail, Delivered]:
        report = self._report
        style = f"<style>{STYLE if report.style is None else report.style}</style>"
        if self._delivered(dataset.rows) == "inline":
            return report.compose(inline_styles(f"{style}\n{report.intro}\n{html_table(dataset)}"), []), "inline"
        file = self._file(dataset)
        note = f"<p>{dataset.rows:,} rows are in the file {file.name}.</p>"
        return report.compose(inline_styles(f"{style}\n{report.intro}\n{note}"), [file]), "attached"

    def _delivered(self, rows: int) -> Delivered:
        inline = self._report.format == "html_table" and rows <= self._report.threshold
        return "inline" if inline else "attached"

    def _file(self, dataset: Dataset) -> Attachment:
        suffix = "xlsx" if self._report.format == "xlsx" else "csv"
        path: Path = self._snapshot.folder / f"report.{suffix}"
        if suffix == "xlsx":
            write_xlsx(dataset, path, self._guard)
        else:
            write_csv(dataset, path, self._guard, escape_formulas=self._report.escape_formulas)
        name = f"{self._report.attachment_name}.{suffix}"
        with disk_errors(str(path)):
            data = path.read_bytes()
        return Attachment(name=name, content_type=content_type(name), data=data)

    def _guard(self, size: int) -> None:
        self._run.deadline.check("the report")
        if size * 4 // 3 > self._outbox.limit:
            raise too_large(size * 4 // 3, self._outbox.limit)

    async def _without_rows(self) -> ReportResult:
        """Return the result of a mail that an earlier attempt sent, if its rows are lost."""
        record: Any = self._run.effects.record(NAME)
        mail = self._report.compose("-", [])
        everybody = len(mail.recipients)
        result = record.get("result") if record["state"] == "confirmed" else None
        if record["state"] == "intended" and self._outbox.on_unknown == "skip":
            await self._run.effects.perform(self._effect(record["fingerprint"]), self._never)
        elif record["state"] != "confirmed" or (result and result["refused"]):
            raise self._lost()
        self._snapshot.remove()
        return ReportResult(
            sent=True,
            rows=self._snapshot.row_count,
            delivered=self._delivered(self._snapshot.row_count),
            message_id=self._message_id,
            accepted=everybody if result else 0,
            unknown=0 if result else everybody,
        )

    def _effect(self, fingerprint: str) -> Effect:
        seconds = self._run.deadline.limit(self._outbox.transport.seconds)
        return Effect(name=NAME, fingerprint=fingerprint, seconds=seconds, on_unknown="skip")

    async def _never(self, intent: Intent) -> Json:
        raise self._lost()

    def _lost(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"an earlier attempt mailed a report, or was about to, and its rows are not on this machine; "
            f"Message-ID {self._message_id}",
            effect_key=self._run.effects.key(NAME),
            reconcilable=False,
            remedy="look for the Message-ID at the server; then start a new run, or clear the task with "
            "on_unknown='skip'; workers that share [flowrunner] state_path send the same report again",
        )
