"""The operator that mails the result of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.reports.results import ReportFormat, ReportResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator, run_to_end

if TYPE_CHECKING:
    from flowrunner_provider.email.attachments import Attachment
    from flowrunner_provider.email.config import OutgoingConfig
    from flowrunner_provider.email.hook import OutgoingHook
    from flowrunner_provider.email.message import Mail
    from flowrunner_provider.reports.mail import Outbox, Report

__all__ = ["SqlToEmailOperator"]

MOST_INLINE = 10_000
"""The most rows of an HTML table; mail clients cannot show more."""


class SqlToEmailOperator(FlowRunnerOperator):
    """On success, the mail server has accepted the report exactly once for every recipient, with the rows of one
    transaction.

    A killed or retried task mails the rows that its first attempt read: they stay on the worker's disk, in
    ``[flowrunner] state_path``, until the mail is sent. A retry on a machine without them runs the query again, under
    the same Message-ID, as long as nothing was sent. Once a mail may be out, it fails with ``OutcomeUnknown`` instead,
    because a report with other rows is not the same mail. Refused recipients are handled as in ``email.send``.

    Cost: one pass over the query's rows in constant memory; about three times the size of an attached file in memory.
    A report that is too large is never sent. Values are always text: escaped in HTML, prefixed with ``'`` in CSV if a
    spreadsheet would run them, and never a formula in Excel.

    :param sql: one query, with placeholders of the database driver.
    :param conn_id: a connection of type ``postgres``, ``mysql`` or ``sqlite``.
    :param parameters: values for the placeholders, a list or a mapping; bound by the driver.
    :param to: addresses, as a list or as comma-separated text.
    :param cc: copies, visible to everyone.
    :param bcc: blind copies; never written to a header.
    :param reply_to: address or addresses for replies.
    :param subject: one line.
    :param from_email: the sender; by default the connection's ``from_email``.
    :param html: HTML before the table, or the body of the mail if the rows are attached.
    :param format: ``html_table`` shows the rows in the mail, ``csv`` and ``xlsx`` attach them as a file.
    :param threshold: maximum rows of an HTML table; a longer result is attached as CSV instead.
    :param style: CSS for ``table.report`` that replaces the default style; it is moved into ``style`` attributes.
    :param attachment_name: name of the attached file, without its suffix.
    :param escape_formulas: put ``'`` before CSV text that a spreadsheet would run as a formula.
    :param skip_if_empty: send no mail if the query returns no rows.
    :param on_unknown: what to do if an earlier attempt may have sent the mail: ``stop``; ``resend`` the same bytes with
        the same Message-ID; or ``skip`` it.
    :param max_total_size: maximum size of the encoded mail in bytes; by default the mail connection's limit (20 MiB).
    :param smtp_conn_id: the connection for the mail, of type ``smtp``, or ``aws`` for Amazon SES.
    """

    action: ClassVar[str] = "email.send_report"
    template_fields: Sequence[str] = (
        "sql", "conn_id", "parameters", "to", "cc", "bcc", "reply_to", "subject", "from_email", "html",
        "attachment_name", "smtp_conn_id",
    )  # fmt: skip
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "html": "html"}

    def __init__(
        self,
        *,
        sql: str,
        conn_id: str,
        subject: str,
        to: str | list[str] | None = None,
        cc: str | list[str] | None = None,
        bcc: str | list[str] | None = None,
        reply_to: str | list[str] | None = None,
        from_email: str | None = None,
        parameters: list[Any] | dict[str, Any] | None = None,
        html: str = "",
        format: Literal["html_table", "csv", "xlsx"] = "html_table",  # noqa: A002
        threshold: int = 100,
        style: str | None = None,
        attachment_name: str = "report",
        escape_formulas: bool = True,
        skip_if_empty: bool = False,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        max_total_size: int | None = None,
        smtp_conn_id: str = "smtp_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql, self.conn_id, self.parameters, self.smtp_conn_id = sql, conn_id, parameters, smtp_conn_id
        self.to, self.cc, self.bcc, self.reply_to, self.from_email = to, cc, bcc, reply_to, from_email
        self.subject, self.html, self.style, self.attachment_name = subject, html, style, attachment_name
        self.format, self.threshold, self.escape_formulas = format, threshold, escape_formulas
        self.skip_if_empty, self.on_unknown, self.max_total_size = skip_if_empty, on_unknown, max_total_size

    def perform(self, run: Run) -> ReportResult:
        """Read the rows, or load those of an earlier attempt, and mail them."""
        from flowrunner_provider.database.hook import hook_for
        from flowrunner_provider.email.hook import outgoing
        from flowrunner_provider.email.send import NAME
        from flowrunner_provider.reports.mail import ReportMailer
        from flowrunner_provider.reports.snapshot import Query, Snapshot
        from flowrunner_provider.runtime.settings import state_path

        self._check()
        mail_hook = outgoing(self.smtp_conn_id)
        report, outbox = self._report(mail_hook.config), self._outbox(mail_hook)
        report.compose("", [])  # raise errors of the mail before the query runs
        hook = hook_for(self.conn_id)
        query = Query(conn_id=self.conn_id, sql=self.sql, parameters=self.parameters)
        snapshot = Snapshot(run, state_path() / "reports" / run.effects.key(NAME), query)
        mailer = ReportMailer(run, snapshot, report, outbox)
        with snapshot.fencing():
            rows = mailer.rows(lambda: hook.open(run.deadline))
            run.pacer = mail_hook.pacer
            return run_to_end(mailer.send(rows), run.deadline)

    def _check(self) -> None:
        for name, choices in (("format", get_args(ReportFormat)), ("on_unknown", ("stop", "resend", "skip"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", field=name, remedy=f"use {', '.join(choices)}")
        if not isinstance(self.sql, str) or not self.sql.strip():
            raise ConfigError("sql is empty", field="sql", remedy="write a query")
        for name, least, most in (("threshold", 0, MOST_INLINE), ("max_total_size", 1, 1 << 40)):
            value = getattr(self, name)
            if value is None and name == "max_total_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name} is {value!r}", field=name, remedy=f"write a number from {least} to {most}")

    def _report(self, config: OutgoingConfig) -> Report:
        from flowrunner_provider.core.names import safe_component
        from flowrunner_provider.email.message import compose
        from flowrunner_provider.reports.mail import Report

        sender = self.from_email or config.from_email
        if not sender:
            raise ConfigError(
                f"neither the task nor connection {self.smtp_conn_id!r} has a sender",
                field="from_email",
                remedy="set from_email here or in the connection's extra",
            )

        def composed(html: str, attachments: list[Attachment]) -> Mail:
            return compose(
                sender=sender, to=self.to or (), cc=self.cc or (), bcc=self.bcc or (), reply_to=self.reply_to or (),
                subject=self.subject, html=html, attachments=attachments,
            )  # fmt: skip

        return Report(
            compose=composed,
            intro=self.html,
            format=self.format,
            threshold=self.threshold,
            style=self.style,
            attachment_name=safe_component(self.attachment_name),
            escape_formulas=self.escape_formulas,
            skip_if_empty=self.skip_if_empty,
        )

    def _outbox(self, hook: OutgoingHook[Any]) -> Outbox:
        from flowrunner_provider.email.addresses import mailbox
        from flowrunner_provider.reports.mail import Outbox

        config: OutgoingConfig = hook.config
        sender = mailbox(self.from_email or config.from_email, "from_email")
        return Outbox(
            transport=hook.transport,
            domain=config.message_id_domain or sender.domain,
            limit=config.max_total_size if self.max_total_size is None else self.max_total_size,
            on_unknown=self.on_unknown,
            seal=hook.seal,
        )
