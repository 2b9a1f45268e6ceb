"""The operator that reads mail."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.results import AfterRead, Body, IfExists, Layout, MailReadResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.email.mailbox.acts import Act
    from flowrunner_provider.email.mailbox.files import Shelf
    from flowrunner_provider.email.mailbox.plan import Sieve

__all__ = ["MailReadOperator"]


class MailReadOperator(FlowRunnerOperator):
    """On success, every matching message is in the result and its attachments are complete and verified under their
    final names; only after that were the messages marked, moved or deleted.

    A killed or retried task continues with the messages that the first attempt found. Each message is in the result
    once and each attachment has one file. If the server renumbers the folder (a new UIDVALIDITY), the messages are
    found again by Message-ID. Messages that someone else deletes in the meantime are counted as ``gone``. Reading alone
    never marks a message as read.

    Cost: one connection, constant memory; attachments are downloaded in chunks of 512 KiB. Limit: 1,500 messages per
    run; ``more`` is true if others matched. Attachments are saved as ``invoice-<key>.pdf``, where the key identifies
    message and part, so names never collide; an unsafe name is replaced. Undecodable text is never an error. Without
    ``save_to``, the result holds up to 36,000 characters of messages.

    :param folder: the folder to read, e.g. ``INBOX`` or ``INBOX/Rechnungen für 2026``.
    :param search: which messages, e.g. ``{"from": "billing@", "subject": "Invoice", "unseen": True}``.
    :param uids: UIDs to use instead of a search, as a list or as text such as ``1:5,9``.
    :param uidvalidity: the UIDVALIDITY that belongs to ``uids``. If the folder's differs, the UIDs name other messages
        and the task fails.
    :param limit: maximum number of messages; the oldest come first.
    :param headers: additional headers to include in the result, e.g. ``["List-Id"]``.
    :param body: include the plain text, the HTML, or both; missing plain text is derived from the HTML.
    :param max_body: maximum characters per body. A longer body is cut, and ``text_cut`` or ``html_cut`` is true.
    :param save_to: a .jsonl file for the messages, on a disk that the workers share, instead of the result.
    :param save_attachments_to: a folder in any store, e.g. ``s3://lake@raw/invoices``.
    :param attachment_pattern: glob on attachment names, case-insensitive; others are not saved.
    :param if_exists: what to do if an earlier run over the same message has already saved a file of that name.
    :param layout: ``flat`` saves all attachments in one folder, ``folders`` makes one subfolder per message.
    :param after: what to do with the messages once everything is saved.
    :param target_folder: the target of ``after="move"``.
    :param create_target: create the target folder if it does not exist.
    :param max_size: maximum size of a message in bytes.
    :param on_too_large: ``fail`` before anything is read, or ``skip`` larger messages and count them.
    :param missing_ok: succeed when no message matches.
    :param imap_conn_id: a connection of type ``imap``.
    """

    action: ClassVar[str] = "email.read"
    template_fields: Sequence[str] = (
        "folder", "search", "uids", "uidvalidity", "save_to", "save_attachments_to", "attachment_pattern",
        "target_folder", "imap_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        folder: str = "INBOX",
        search: dict[str, Any] | None = None,
        uids: list[int] | str | None = None,
        uidvalidity: int | str | None = None,
        limit: int = 500,
        headers: list[str] | None = None,
        body: Body = "none",
        max_body: int = 20_000,
        save_to: str | None = None,
        save_attachments_to: str | None = None,
        attachment_pattern: str | None = None,
        if_exists: IfExists = "overwrite",
        layout: Layout = "flat",
        after: AfterRead = "none",
        target_folder: str | None = None,
        create_target: bool = False,
        max_size: int = 100 * 1024 * 1024,
        on_too_large: Literal["fail", "skip"] = "fail",
        missing_ok: bool = False,
        imap_conn_id: str = "imap_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.search, self.uids, self.uidvalidity = folder, search, uids, uidvalidity
        self.limit, self.headers, self.body, self.max_body, self.save_to = limit, headers, body, max_body, save_to
        self.save_attachments_to, self.attachment_pattern = save_attachments_to, attachment_pattern
        self.if_exists, self.layout = if_exists, layout
        self.after, self.target_folder, self.create_target = after, target_folder, create_target
        self.max_size, self.on_too_large, self.missing_ok = max_size, on_too_large, missing_ok
        self.imap_conn_id = imap_conn_id

    async def perform(self, run: Run) -> MailReadResult:
        """Read and save the messages, then mark, move or delete them."""
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.read import ReadJob, read
        from flowrunner_provider.email.operators.mail_arguments import sieve_of, validity_of

        self._check()
        sieve = sieve_of(
            self.folder, self.search, self.uids, self.limit,
            headers=self.headers or (), max_size=self.max_size, skip_large=self.on_too_large == "skip",
        )  # fmt: skip
        act, validity = self._act(), validity_of(self.uidvalidity, self.uids)
        hook = FlowRunnerImapHook(self.imap_conn_id)
        account = f"{hook.config.login}@{hook.config.host}"
        async with AsyncExitStack() as stack:
            job = ReadJob(
                folder=self.folder,
                sieve=sieve,
                act=act,
                identity=self._identity(sieve, account),
                uidvalidity=validity,
                headers=self.headers or (),
                body=self.body,
                max_body=self.max_body,
                shelf=await self._shelf(run, stack, account),
                save_to=self.save_to,
                missing_ok=self.missing_ok,
            )
            return await read(hook.connector(), run, job)

    def _check(self) -> None:
        for name, allowed in (("body", Body), ("if_exists", IfExists), ("layout", Layout), ("after", AfterRead)):
            if getattr(self, name) not in get_args(allowed):
                words = ", ".join(get_args(allowed))
                raise ConfigError(f"{name} is {getattr(self, name)!r}", field=name, remedy=f"write one of {words}")
        if self.on_too_large not in ("fail", "skip"):
            raise ConfigError("on_too_large is unknown", field="on_too_large", remedy="write 'fail' or 'skip'")
        for name, most in (("max_body", 10_000_000), ("max_size", 1 << 40)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} is {value!r}", field=name, remedy=f"write a whole number from 1 to {most}")
        if self.save_to is not None:
            from flowrunner_provider.data.dataset import format_of, is_gzip, local_path

            if is_gzip(local_path(self.save_to, "save_to")) or format_of(self.save_to, "save_to") != "jsonl":
                raise ConfigError(
                    "save_to must end in .jsonl", field="save_to", remedy="convert it with data.write_csv"
                )
        for name in ("attachment_pattern", "save_attachments_to", "target_folder"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty", field=name, remedy="leave it out, or correct its template")
        if self.attachment_pattern is not None and self.save_attachments_to is None:
            raise ConfigError(
                "attachment_pattern chooses what is saved, and nothing is",
                field="attachment_pattern",
                remedy="give save_attachments_to",
            )

    def _act(self) -> Act:
        from flowrunner_provider.email.mailbox.acts import Act, Kind
        from flowrunner_provider.email.mailbox.watch import check_folder

        if (self.target_folder is not None) is not (self.after == "move"):
            raise ConfigError(
                "target_folder belongs to after='move'", field="target_folder", remedy="give both of them, or none"
            )
        if self.target_folder is not None:
            check_folder(self.target_folder, field="target_folder")
        kinds: dict[str, Kind] = {"none": "none", "mark_seen": "flag", "move": "move", "delete": "delete"}
        flags = ("\\Seen",) if self.after == "mark_seen" else ()
        return Act(kind=kinds[self.after], flags=flags, target=self.target_folder or "", create=self.create_target)

    async def _shelf(self, run: Run, stack: AsyncExitStack, account: str) -> Shelf | None:
        if self.save_attachments_to is None:
            return None
        from flowrunner_provider.email.mailbox.files import Shelf
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.uri import parse

        location = parse(self.save_attachments_to, field="save_attachments_to")
        stores = await open_stores(run, stack, save_attachments_to=[location])
        return Shelf(
            store=stores[location.root],
            folder=location.path.rstrip("/") or "/",
            root=location.root,
            account=account,
            pattern=self.attachment_pattern,
            if_exists=self.if_exists,
            layout=self.layout,
        )

    def _identity(self, sieve: Sieve, account: str) -> list[Any]:
        return [
            account, self.folder, sieve.search.to_json(), list(sieve.uids or ()), self.limit, self.headers, self.body,
            self.max_body, self.save_to, self.save_attachments_to, self.attachment_pattern, self.layout, self.after,
            self.target_folder,
        ]  # fmt: skip
