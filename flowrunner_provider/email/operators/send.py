"""The operator that sends one mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.results import SendResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.email.config import OutgoingConfig
    from flowrunner_provider.email.message import Mail

__all__ = ["EmailSendOperator"]


class EmailSendOperator(FlowRunnerOperator):
    """On success, the mail server has accepted the mail exactly once for every recipient.

    A killed or retried task sends only to recipients whose mail is not confirmed. If the worker died, or the connection
    broke, between the end of the message and the server's reply, nobody knows whether it was accepted: the task then
    fails with ``OutcomeUnknown`` unless ``on_unknown`` says otherwise. The content must be the same in every attempt,
    so keep try numbers and the current time out of it.

    Cost: one connection; about three times the size of the mail in memory. If the server refuses some recipients, the
    task fails with ``PartialFailure``, which holds the server's reply for each, and a retry sends to those with a
    temporary (4xx) refusal. If it refuses all of them permanently, the task fails with ``Rejected`` and is not retried.
    Accepted does not mean delivered: bounces arrive later at ``from_email``.

    :param subject: one line; by default the connection's subject template.
    :param to: addresses, as a list or as comma-separated text; ``"Doe, John" <j@x.org>`` counts as one.
    :param cc: copies, visible to everyone.
    :param bcc: blind copies; never written to a header.
    :param reply_to: address or addresses for replies.
    :param from_email: the sender; by default the connection's ``from_email``.
    :param html: the HTML body; a plain-text body is derived from it unless ``text`` is given.
    :param text: the plain-text body.
    :param template: Jinja file with the body; HTML if its name ends in ``.html`` or ``.html.j2``, else plain text.
    :param template_folder: folder of the template file and its layouts; by default the DAG's folder.
    :param template_context: names available to the template; an undefined name is an error.
    :param inline_css: move ``<style>`` rules into ``style`` attributes, for mail clients that ignore style sheets.
        Linked style sheets are never downloaded.
    :param attachments: files or globs, on the worker's disk (``/data/out/*.csv``) or in any store
        (``sftp://partner@/out/*.pdf``). A glob that matches nothing is an error. Sizes are checked before reading.
    :param inline_images: content id to image file, for ``<img src="cid:logo">``; the file may be in any store.
    :param headers: additional headers, e.g. ``{"X-Topic": "sales"}``.
    :param invitation: a calendar invitation: ``{"start", "end", "summary", "location", "description", "organizer",
        "attendees", "method", "uid", "sequence"}``. ``start`` and ``end`` are ISO 8601 times with a time zone, or
        dates. To change or cancel (``method`` CANCEL) a meeting, pass the ``invitation_uid`` of the first mail's result
        as ``uid``, and a higher ``sequence``.
    :param on_unknown: what to do if an earlier attempt may have sent the mail: ``stop``; ``resend`` the same bytes with
        the same Message-ID, which many mailboxes show only once; or ``skip`` it.
    :param max_total_size: maximum size of the encoded mail in bytes; by default the connection's limit (20 MiB).
    :param smtp_conn_id: a connection of type ``smtp``, or ``aws`` for Amazon SES. SES accepts a mail for all recipients
        (at most 50) or for none, and replaces the Message-ID (ours is kept in Original-Message-ID). If the connection's
        extra has a DKIM key, every mail is signed.
    """

    action: ClassVar[str] = "email.send"
    template_fields: Sequence[str] = (
        "subject",
        "to",
        "cc",
        "bcc",
        "reply_to",
        "from_email",
        "html",
        "text",
        "template",
        "template_folder",
        "template_context",
        "attachments",
        "inline_images",
        "headers",
        "invitation",
        "smtp_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "html": "html",
        "template_context": "json",
        "invitation": "json",
    }

    def __init__(
        self,
        *,
        subject: str | None = None,
        to: str | list[str] | None = None,
        cc: str | list[str] | None = None,
        bcc: str | list[str] | None = None,
        reply_to: str | list[str] | None = None,
        from_email: str | None = None,
        html: str | None = None,
        text: str | None = None,
        template: str | None = None,
        template_folder: str | None = None,
        template_context: dict[str, Any] | None = None,
        inline_css: bool = True,
        attachments: list[str] | None = None,
        inline_images: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        invitation: dict[str, Any] | None = None,
        on_unknown: Literal["stop", "resend", "skip"] = "stop",
        max_total_size: int | None = None,
        smtp_conn_id: str = "smtp_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.subject = subject
        self.to = to
        self.cc = cc
        self.bcc = bcc
        self.reply_to = reply_to
        self.from_email = from_email
        self.html = html
        self.text = text
        self.template = template
        self.template_folder = template_folder
        self.template_context = template_context
        self.inline_css = inline_css
        self.attachments = attachments
        self.inline_images = inline_images
        self.headers = headers
        self.invitation = invitation
        self.on_unknown = on_unknown
        self.max_total_size = max_total_size
        self.smtp_conn_id = smtp_conn_id

    async def perform(self, run: Run) -> SendResult:
        """Compose and validate the mail, then deliver it."""
        from flowrunner_provider.email.hook import outgoing
        from flowrunner_provider.email.send import deliver

        if self.on_unknown not in ("stop", "resend", "skip"):
            raise ConfigError(
                f"on_unknown is {self.on_unknown!r}", field="on_unknown", remedy="write stop, resend or skip"
            )
        hook = outgoing(self.smtp_conn_id)
        config = hook.config
        limit = config.max_total_size if self.max_total_size is None else self.max_total_size
        if isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0:
            raise ConfigError(
                "max_total_size must be a positive number of bytes", field="max_total_size", remedy="correct it"
            )
        mail = await self._mail(config, limit, run)
        run.pacer = hook.pacer
        return await deliver(
            run,
            mail,
            hook.transport,
            domain=config.message_id_domain or mail.sender.domain,
            limit=limit,
            on_unknown=self.on_unknown,
            seal=hook.seal,
        )

    async def _mail(self, config: OutgoingConfig, limit: int, run: Run) -> Mail:
        from flowrunner_provider.email.attachment_stores import gather
        from flowrunner_provider.email.css import inline_styles
        from flowrunner_provider.email.message import compose

        sender = self.from_email or config.from_email
        if not sender:
            raise ConfigError(
                f"neither the task nor connection {self.smtp_conn_id!r} has a sender",
                field="from_email",
                remedy="set from_email here or in the connection's extra",
            )
        html, text = self._content(config)
        if html is not None and self.inline_css:
            html = inline_styles(html)
        attachments, inline = await gather(self.attachments or [], self.inline_images or {}, limit, run)
        return compose(
            sender=sender,
            to=self.to or (),
            cc=self.cc or (),
            bcc=self.bcc or (),
            reply_to=self.reply_to or (),
            subject=self._subject(config),
            text=text,
            html=html,
            attachments=attachments,
            inline=inline,
            headers=self.headers,
            meeting=self.invitation,
        )

    def _subject(self, config: OutgoingConfig) -> str:
        if self.subject is not None:
            return self.subject
        if config.subject_template:
            return self._rendered(config.subject_template).strip()
        raise ConfigError("the mail has no subject", field="subject", remedy="give subject")

    def _content(self, config: OutgoingConfig) -> tuple[str | None, str | None]:
        """Return the HTML and the plain-text body; None for the one that was not given."""
        from flowrunner_provider.email.template import is_html

        template = self.template
        if not template:
            if self.html is None and self.text is None and config.html_content_template:
                return self._rendered(config.html_content_template), None
            return self.html, self.text
        kind = "html" if is_html(template) else "text"
        if getattr(self, kind) is not None:
            raise ConfigError(
                f"template {template!r} and {kind} are both the {kind} of the mail",
                field="template",
                remedy="give one of them",
            )
        content = self._rendered(template)
        return (content, self.text) if kind == "html" else (self.html, content)

    def _rendered(self, template: str) -> str:
        from flowrunner_provider.email.template import render

        context = self.template_context or {}
        if not isinstance(context, Mapping):
            raise ConfigError("template_context must be a mapping", field="template_context", remedy="{...}")
        return render(template, context, self.template_folder or self._dag_folder())

    def _dag_folder(self) -> str:
        dag = self.get_dag()
        return (dag.folder if dag else "") or str(Path.cwd())
