"""The operator that sends one personalised mail per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.email.results import BatchResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.email.batch.content import Content
    from flowrunner_provider.email.batch.row_template import RowTemplate, Templates
    from flowrunner_provider.email.config import OutgoingConfig

__all__ = ["EmailBatchOperator"]

OnUnknown = Literal["stop", "resend", "skip"]
OnItemError = Literal["continue", "fail"]


class EmailBatchOperator(FlowRunnerOperator):
    """On success, the mail server has accepted exactly one mail for every row.

    A killed or retried task sends only the rows without a confirmed mail, each with the same Message-ID and the same
    bytes as before. Mails that were in flight when the worker died are in doubt, and ``on_unknown`` decides what to do
    with them. A retry on the same machine reads a journal on its disk, so at most ``concurrency`` mails are in doubt.
    A retry on another machine has at most ``window`` + ``concurrency`` in doubt. Refused rows do not stop the others:
    the task then fails with PartialFailure, and a retry sends only to rows with a temporary (4xx) refusal. The counts
    always add up: rows = sent + refused + unknown + skipped.

    ``subject``, ``html``, ``text``, ``headers`` and the ``template`` file are Jinja templates that this operator, not
    Airflow, renders once per row in a sandbox. They see the row's columns, ``template_context``, and ``row`` itself
    (``row["any name"]``). Pass Airflow values such as ``{{ ds }}`` through ``template_context``. Values are never
    rendered as templates. An undefined name is an error, None renders as empty text, and HTML templates escape values.

    Cost: one mail in memory per connection. Shared attachments are encoded once. Connections are reused; if the server
    allows fewer than ``concurrency``, the task uses fewer; a 421 reply pauses all of them. Limit: 110,000 rows. All
    mails carry the date at which the batch started.

    :param recipients: a list of mappings, a dataset returned by an upstream task, or the path of a .jsonl, .csv or
        .parquet file on a disk that the workers share.
    :param subject: template of the subject; must render to one line.
    :param to: the column with the address.
    :param to_name: the column with the recipient's display name.
    :param html: template of the HTML body; a plain-text body is derived from it unless ``text`` is given.
    :param text: template of the plain-text body.
    :param template: file with the body template; HTML if its name ends in ``.html`` or ``.html.j2``, else plain text.
    :param template_folder: folder of the template file and its layouts; by default the DAG's folder.
    :param template_context: names available to the templates of all rows.
    :param from_email: the sender; by default the connection's ``from_email``.
    :param reply_to: address or addresses for replies.
    :param headers: additional headers, e.g. ``{"List-Unsubscribe": "<https://example.com/u/{{ id }}>"}``.
    :param inline_css: move ``<style>`` rules into ``style`` attributes, for mail clients that ignore style sheets.
        Linked style sheets are never downloaded.
    :param attachments: files or globs to attach to every mail, on the worker's disk or in any store, e.g.
        ``s3://lake@terms/*.pdf``. A glob that matches nothing is an error.
    :param attachment_column: a column with one file name, or a list of them, to attach to that row's mail. The files
        must not change until the task has succeeded.
    :param attachment_folder: the folder of those files; a name that leads outside it is refused.
    :param rate_limit: maximum rate of mails, e.g. ``100/minute``; by default the connection's limit.
    :param concurrency: number of connections to the mail server.
    :param window: number of rows recorded as in flight per state-store write. A smaller window leaves fewer mails in
        doubt when a machine is lost, at the price of more writes.
    :param on_item_error: after a refused row, ``continue`` with the others or ``fail``: start no further mail.
    :param max_failures: stop the batch after more than this many refusals in one attempt.
    :param report: file for the outcome of every row, JSON Lines of ``{"row", "address", "message_id", "status",
        "reason"}``. ``row`` counts from 0; ``status`` is sent, refused, unknown, or skipped (not tried).
    :param dead_letter: file for the rows without a confirmed mail: the same lines, with the row itself as ``item``.
    :param on_unknown: what to do with mails in doubt: ``stop`` and name them; ``resend`` the same bytes with the same
        Message-ID; or ``skip`` them and report them as unknown.
    :param max_total_size: maximum size of one encoded mail in bytes; by default the connection's limit (20 MiB).
    :param smtp_conn_id: a connection of type ``smtp``, or ``aws`` for Amazon SES, which replaces the Message-ID (ours
        is kept in Original-Message-ID). If its extra has a DKIM key, every mail is signed, which takes about 10 ms.
    """

    action: ClassVar[str] = "email.send_batch"
    template_fields: Sequence[str] = (
        "recipients", "template", "template_folder", "template_context", "from_email", "reply_to", "attachments",
        "attachment_folder", "report", "dead_letter", "smtp_conn_id",
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {"template_context": "json"}

    def __init__(
        self,
        *,
        recipients: Dataset | Mapping[str, Any] | list[Any] | str,
        subject: str,
        to: str = "email",
        to_name: str | None = None,
        html: str | None = None,
        text: str | None = None,
        template: str | None = None,
        template_folder: str | None = None,
        template_context: dict[str, Any] | None = None,
        from_email: str | None = None,
        reply_to: str | list[str] | None = None,
        headers: dict[str, str] | None = None,
        inline_css: bool = True,
        attachments: list[str] | None = None,
        attachment_column: str | None = None,
        attachment_folder: str | None = None,
        rate_limit: str | None = None,
        concurrency: int = 4,
        window: int = 200,
        on_item_error: Literal["continue", "fail"] = "continue",
        max_failures: int = 1000,
        report: str | None = None,
        dead_letter: str | None = None,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        max_total_size: int | None = None,
        smtp_conn_id: str = "smtp_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients, self.to, self.to_name, self.smtp_conn_id = recipients, to, to_name, smtp_conn_id
        self.subject, self.html, self.text, self.template = subject, html, text, template
        self.template_folder, self.template_context = template_folder, template_context
        self.from_email, self.reply_to, self.headers = from_email, reply_to, headers
        self.attachments, self.inline_css, self.rate_limit = attachments, inline_css, rate_limit
        self.attachment_column, self.attachment_folder = attachment_column, attachment_folder
        self.concurrency, self.window, self.max_total_size = concurrency, window, max_total_size
        self.on_item_error, self.max_failures, self.on_unknown = on_item_error, max_failures, on_unknown
        self.report, self.dead_letter = report, dead_letter

    async def perform(self, run: Run) -> BatchResult:
        """Validate all arguments, then send every row that no earlier attempt has sent."""
        from flowrunner_provider.email.addresses import mailbox
        from flowrunner_provider.email.batch.engine import send_batch
        from flowrunner_provider.email.batch.rows import RowSource
        from flowrunner_provider.email.batch.spec import BatchSpec
        from flowrunner_provider.email.hook import outgoing
        from flowrunner_provider.runtime.settings import state_path

        for field, value, choices in (
            ("on_unknown", self.on_unknown, OnUnknown),
            ("on_item_error", self.on_item_error, OnItemError),
        ):
            if value not in get_args(choices):
                raise ConfigError(
                    f"{field} is {value!r}", field=field, remedy=f"write {' or '.join(get_args(choices))}"
                )
        concurrency, window = _positive(self.concurrency, "concurrency"), _positive(self.window, "window")
        report, dead_letter = _path(self.report, "report"), _path(self.dead_letter, "dead_letter")
        if report is not None and report == dead_letter:
            raise ConfigError(
                "report and dead_letter are the same file", field="dead_letter", remedy="give it a file of its own"
            )
        hook = outgoing(self.smtp_conn_id)
        config = hook.config
        limit = _positive(config.max_total_size if self.max_total_size is None else self.max_total_size,
                          "max_total_size")  # fmt: skip
        sender = self._sender(config)
        content = await self._content(sender, limit, run)
        needs = tuple(name for name in (self.to, self.to_name, self.attachment_column) if name)
        source = RowSource(self.recipients, "recipients", needs)
        run.pacer = hook.pace(self.rate_limit)
        spec = BatchSpec(
            identity=content.identity,
            to=self.to,
            compose=content.compose,
            builder=content.builder,
            domain=config.message_id_domain or mailbox(sender, "from_email").domain,
            limit=limit,
            journals=state_path() / "email",
            report=report,
            dead_letter=dead_letter,
            concurrency=concurrency,
            window=window,
            on_item_error=self.on_item_error,
            max_failures=_positive(self.max_failures, "max_failures", least=0),
            on_unknown=self.on_unknown,
            sign=hook.seal,
        )
        return await send_batch(hook.transport, spec, source, run)

    def _sender(self, config: OutgoingConfig) -> str:
        if sender := self.from_email or config.from_email:
            return sender
        raise ConfigError(
            f"neither the task nor connection {self.smtp_conn_id!r} has a sender",
            field="from_email",
            remedy="set from_email here or in the connection's extra",
        )

    async def _content(self, sender: str, limit: int, run: Run) -> Content:
        from flowrunner_provider.email.addresses import mailbox, mailboxes
        from flowrunner_provider.email.attachment_stores import gather
        from flowrunner_provider.email.batch.content import Content
        from flowrunner_provider.email.batch.row_template import Templates

        for field in ("template_context", "headers"):
            if not isinstance(getattr(self, field) or {}, Mapping):
                raise ConfigError(f"{field} must be a mapping", field=field, remedy="write {'name': 'value'}")
        if bool(self.attachment_column) is not bool(self.attachment_folder):
            raise ConfigError(
                "attachment_column and attachment_folder belong together",
                field="attachment_folder",
                remedy="give both or none",
            )
        templates = Templates(self._folder(), self.template_context or {})
        html, text = self._bodies(templates)
        attachments, _ = await gather(self.attachments or [], {}, limit, run)
        return Content(
            templates,
            sender=mailbox(sender, "from_email"),
            reply_to=mailboxes(self.reply_to or (), "reply_to"),
            to=self.to,
            to_name=self.to_name,
            subject=templates.text(self.subject, "subject"),
            html=html,
            text=text,
            headers=self.headers or {},
            attachments=attachments,
            column=self.attachment_column,
            folder=self.attachment_folder,
            limit=limit,
            inline_css=self.inline_css,
        )

    def _bodies(self, templates: Templates) -> tuple[RowTemplate | None, RowTemplate | None]:
        """Return the HTML and the plain-text template; None for the one that was not given."""
        from flowrunner_provider.email.template import is_html

        html = None if self.html is None else templates.text(self.html, "html", html=True)
        text = None if self.text is None else templates.text(self.text, "text")
        if self.template:
            kind = "html" if is_html(self.template) else "text"
            if getattr(self, kind) is not None:
                raise ConfigError(
                    f"template {self.template!r} and {kind} are both the {kind} of the mail",
                    field="template",
                    remedy="give one of them",
                )
            file = templates.file(PurePath(self.template).name if self._absolute() else self.template)
            html, text = (file, text) if kind == "html" else (html, file)
        if html is None and text is None:
            raise ConfigError("the mails have no content", field="html", remedy="give html, text or template")
        return html, text

    def _absolute(self) -> bool:
        return PurePath(self.template or "").is_absolute()

    def _folder(self) -> str:
        if self._absolute():
            return str(PurePath(self.template or "").parent)
        if self.template_folder:
            return self.template_folder
        dag = self.get_dag()
        return (dag.folder if dag else "") or str(Path.cwd())


def _positive(value: int, field: str, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{field} must be a whole number of at least {least}", field=field, remedy=f"correct {field}")
    return value


def _path(value: str | None, field: str) -> Path | None:
    if value is None:
        return None
    if not value or "\0" in value or "://" in value or not Path(value).is_absolute():
        raise ConfigError(
            f"{field} must be an absolute path on the worker's disk", field=field, remedy="write e.g. /data/mails.jsonl"
        )
    path = Path(value)
    if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
        raise ConfigError(f"{field} cannot be written: {value!r}", field=field, remedy="name a file in a folder")
    return path
