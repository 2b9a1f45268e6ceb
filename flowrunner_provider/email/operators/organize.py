"""Actions that put a mailbox in order."""

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
    """It was done once to every message that matched when the task began.

    Killed or retried, it goes on with the very messages that the first attempt found; a copy is not made twice: what
    an interrupted COPY brought to the target is looked up there, by Message-ID, before the rest is copied; for an
    attempt that may still be copying it waits. Messages that somebody removes meanwhile are left out.

    Cost: one connection, a hundred messages per command, at most 1,500 in one run. Where the server lacks MOVE a
    message is copied and then removed; where it lacks UIDPLUS too, what is removed is only flagged as deleted
    (``expunged`` is false), because an unqualified EXPUNGE would also remove what others have flagged.

    :param operation: what is done; ``archive`` moves to the folder that the server uses for that, or to ``Archive``.
    :param folder: where the messages are.
    :param search: which messages, e.g. ``{"from": "noreply@", "before": "2026-01-01"}``.
    :param uids: instead of a search: these UIDs, as a list or as text such as ``1:5,9``.
    :param uidvalidity: under which the UIDs were told; with another one they name other messages, which is an error.
    :param target_folder: for ``move`` and ``copy``; for ``archive`` instead of the server's own.
    :param create_target: make that folder if it is missing.
    :param flags: for ``flag`` and ``unflag``, e.g. ``["\\\\Flagged", "Booked"]``; ``\\\\Flagged`` by default.
    :param limit: at most so many messages, the oldest first.
    :param missing_ok: no message at all is fine.
    :param imap_conn_id: the connection, of type ``imap``.
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
        """Find, remember, do."""
        from flowrunner_provider.email.hooks.imap import FlowRunnerImapHook
        from flowrunner_provider.email.mailbox.organize import OrganizeJob, organize
        from flowrunner_provider.email.operators.mail_arguments import sieve_of, validity_of

        if self.operation not in get_args(Organize):
            words = ", ".join(get_args(Organize))
            raise ConfigError(f"operation is {self.operation!r}", field="operation", remedy=f"write one of {words}")
        if self.search is None and self.uids is None:
            raise ConfigError(
                "neither search nor uids say which messages", field="search", remedy="give one; {} is every message"
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
