"""A folder that stays open: a connection that broke is made anew, and UIDs that lost their meaning are noticed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import Rejected, TransientError, Unavailable
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.imap import ImapSession, Selected

__all__ = ["Connect", "Mailbox"]

T = TypeVar("T")

Connect = Callable[[Deadline], Awaitable[ImapSession]]

_EXCHANGES = 4


class Mailbox:
    """One folder of one mailbox, with a connection that is reopened when it breaks.

    :param connect: opens a connection.
    :param readonly: select the folder read-only, so that nothing can be marked.
    """

    def __init__(self, connect: Connect, folder: str, run: Run, *, readonly: bool) -> None:
        self.folder, self.readonly = folder, readonly
        self.uidvalidity = 0
        self._connect, self._run = connect, run
        self._session: ImapSession | None = None
        self._selected: Selected | None = None

    async def __aenter__(self) -> Self:
        await self.do(self._nothing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def do(self, step: Callable[[ImapSession], Awaitable[T]]) -> T:
        """Run a repeatable step; after a broken connection, run it again on a new one."""

        async def attempt() -> T:
            try:
                return await step(await self._ready())
            except TransientError:
                if self._session is not None:
                    self._session.abort()
                    self._session = None
                raise

        return await self._run.retry.acall(attempt, self._run.deadline)

    async def elsewhere(self, folder: str, step: Callable[[ImapSession, Selected], Awaitable[T]]) -> T:
        """Run a step in another folder, read-only, then return to this one."""

        async def attempt(session: ImapSession) -> T:
            selected = await session.select(folder, readonly=True)
            try:
                return await step(session, selected)
            finally:
                self._selected = None

        return await self.do(attempt)

    @property
    def seconds(self) -> float:
        """The longest time that a step can take, including reconnects before each try."""
        retry = self._run.retry
        timeout = self._session.config.timeout if self._session is not None else 0.0
        return retry.attempts * (_EXCHANGES * timeout + retry.in_place)

    def keeps(self, flag: str) -> bool:
        """Whether the folder can keep a flag."""
        known = self._selected.keywords if self._selected else frozenset()
        return not known or flag in known or ("\\*" in known and not flag.startswith("\\"))

    async def _nothing(self, session: ImapSession) -> None:
        """Do nothing; used to open the connection."""

    async def _ready(self) -> ImapSession:
        if self._session is None:
            self._session = await self._connect(self._run.deadline)
            self._selected = None
        if self._selected is None:
            self._selected = await self._session.select(self.folder, readonly=self.readonly)
            self._check(self._selected)
        return self._session

    def _check(self, selected: Selected) -> None:
        if not selected.uidvalidity:
            raise Rejected(f"folder {self.folder!r} has no UIDVALIDITY", remedy="this server's UIDs do not last")
        if self.uidvalidity and selected.uidvalidity != self.uidvalidity:
            raise Unavailable(
                f"the UIDs of folder {self.folder!r} changed meanwhile", remedy="nothing to do: the retry finds them"
            )
        self.uidvalidity = selected.uidvalidity
