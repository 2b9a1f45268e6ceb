"""The operator that moves, copies, flags and deletes messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.results import MailOrganizeResult, Organize
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.email.mailbox.acts import Act

__all__ = ["MailOrganizeOperator"]


class MailOrganizeOperator(FlowRunnerOperator):
    """On success, the operation was applied exactly once to every message that matched when the task started.

    A killed or retried task continues with the messages that the first attempt found. It never makes a second copy:
    after an interrupted COPY it searches the target folder by Message-ID and copies only what is missing. While another
    attempt may still be copying, it waits. Messages that someone else deletes in the meantime are left out.

    Cost: one connection, 100 messages per command. Limit: 1,500 messages per run. On a server without MOVE, a message
    is copied and then deleted. On a server without UIDPLUS, deleted messages are only flagged as deleted (``expunged``
    is false), because a plain EXPUNGE would also remove messages that others have flagged.

    :param operation: the operation; ``archive`` moves to the server's archive folder, or to ``Archive`` if it has none.
    :param folder: the folder of the messages.
    :param search: which messages, e.g. ``{"from": "noreply@", "before": "2026-01-01"}``.
    :param uids: UIDs to use instead of a search, as a list or as text such as ``1:5,9``.
    :param uidvalidity: the UIDVALIDITY that belongs to ``uids``. If the folder's differs, the UIDs name other messages
        and the task fails.
    :param target_folder: the target of ``move`` and ``copy``; for ``archive``, overrides the server's archive folder.
    :param create_target: create the target folder if it does not exist.
    :param flags: flags for ``flag`` and ``unflag``, e.g. ``["\\\\Flagged", "Booked"]``; by default ``\\\\Flagged``.
    :param limit: maximum number of messages; the oldest come first.
    :param missing_ok: succeed when no message matches.
    :param imap_conn_id: a connection of type ``imap``.
    """

    action: ClassVar[str] = "email.organize"
    template_fields: Sequence[str] = ("folder", "search", "uids", "uidvalidity", "target_folder", "imap_conn_id")

    def __init__(
        self,
        *,
        operation: Organize,
        folder: str = "INBOX",
        search: dict[str, Any] | None = None,
        uids: list[int] | str | None = None,
        uidvalidity: int | str | None = None,
        target_folder: str | None = None,
        create_target: bool = False,
        flags: list[str] | None = None,
        limit: int = 1_500,
        missing_ok: bool = False,
        imap_conn_id: str = "imap_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation, self.folder = operation, folder
        self.search, self.uids, self.uidvalidity = search, uids, uidvalidity
        self.target_folder, self.create_target, self.flags = target_folder, create_target, flags
        self.limit, self.missing_ok, self.imap_conn_id = limit, missing_ok, imap_conn_id

    async def perform(self, run: Run) -> MailOrganizeResult:
        """Find the messages, save their UIDs, and apply the operation."""
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.organize import OrganizeJob, organize
        from flowrunner_provider.email.operators.mail_arguments import sieve_of, validity_of

        if self.operation not in get_args(Organize):
            words = ", ".join(get_args(Organize))
            raise ConfigError(f"operation is {self.operation!r}", field="operation", remedy=f"write one of {words}")
        if self.search is None and self.uids is None:
            raise ConfigError(
                "neither search nor uids is given", field="search", remedy="give one of them; {} matches every message"
            )
        sieve = sieve_of(self.folder, self.search, self.uids, self.limit)
        act = self._act()
        hook = FlowRunnerImapHook(self.imap_conn_id)
        job = OrganizeJob(
            folder=self.folder,
            sieve=sieve,
            act=act,
            uidvalidity=validity_of(self.uidvalidity, self.uids),
            identity=[
                hook.config.login, hook.config.host, self.operation, self.folder, sieve.search.to_json(),
                list(sieve.uids or ()), self.limit, act.target, list(act.flags),
            ],
            missing_ok=self.missing_ok,
        )  # fmt: skip
        return await organize(hook.connector(), run, job)

    def _act(self) -> Act:
        from flowrunner_provider.email.mailbox.acts import Act
        from flowrunner_provider.email.mailbox.organize import ARCHIVE
        from flowrunner_provider.email.mailbox.watch import check_folder

        if self.target_folder is not None:
            if self.operation not in ("move", "copy", "archive"):
                raise ConfigError(
                    f"{self.operation} has no target", field="target_folder", remedy="leave target_folder out"
                )
            check_folder(self.target_folder, field="target_folder")
        if self.flags is not None and self.operation not in ("flag", "unflag"):
            raise ConfigError(f"{self.operation} sets no flags", field="flags", remedy="leave flags out")
        flags = ("\\Flagged",) if self.flags is None else tuple(self.flags)
        match self.operation:
            case "flag" | "unflag":
                return Act(kind=self.operation, flags=flags)
            case "mark_seen" | "mark_unseen":
                return Act(kind="flag" if self.operation == "mark_seen" else "unflag", flags=("\\Seen",))
            case "delete":
                return Act(kind="delete")
            case "archive":
                target = self.target_folder or ARCHIVE
                return Act(kind="move", target=target, create=self.create_target)
            case _:
                return Act(kind=self.operation, target=self.target_folder or "", create=self.create_target)
