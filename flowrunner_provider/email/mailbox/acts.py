"""Marks, moves, copies and deletes messages, each once over all attempts.

Setting a flag again is harmless, and a moved message is no longer there to be moved. Only a copy could be made twice.
So the target's next UID is recorded before a copy, and a retry searches the target above it for copies that already
arrived. That search is reliable only if nobody is copying any more; therefore a copy is an effect, and a retry waits
for a living attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Effect, Intent
from flowrunner_provider.core.errors import ConfigError, Json, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.imap import ImapSession, Selected
from flowrunner_provider.email.mailbox.plan import found_again
from flowrunner_provider.email.mailbox.session import Mailbox

__all__ = ["Act", "Kind", "Worker", "prepare"]

Kind = Literal["none", "flag", "unflag", "copy", "move", "delete"]

WINDOW = 100
"""Messages per command."""

_SYSTEM_FLAGS = frozenset({"\\Seen", "\\Flagged", "\\Answered", "\\Deleted", "\\Draft"})


@dataclass(frozen=True, kw_only=True)
class Act:
    """The operation on the messages.

    :param target: the target folder of copies and moves.
    :param create: create the target folder if it does not exist.
    """

    kind: Kind
    flags: tuple[str, ...] = ()
    target: str = ""
    create: bool = False

    def __post_init__(self) -> None:
        for flag in self.flags:
            word = flag.removeprefix("\\")
            if not word or not word.isascii() or not all(c.isalnum() or c in "$_.-" for c in word):
                raise ConfigError(
                    f"{flag!r} is not a valid flag", field="flags", remedy="write '\\\\Flagged' or a plain word"
                )
            if flag.startswith("\\") and flag not in _SYSTEM_FLAGS:
                raise ConfigError(
                    f"there is no flag {flag!r}", field="flags", remedy=f"use {', '.join(sorted(_SYSTEM_FLAGS))}"
                )
        if self.kind in ("flag", "unflag") and not self.flags:
            raise ConfigError("no flags are given", field="flags", remedy="write ['\\\\Flagged']")
        if self.kind in ("copy", "move") and not self.target:
            raise ConfigError("there is no target folder", field="target_folder", remedy="name it")


async def prepare(box: Mailbox, act: Act) -> None:
    """Check that the operation is possible, and create the target folder, before any message is changed."""
    if act.target and act.target == box.folder:
        raise ConfigError(
            f"messages of {box.folder!r} cannot go to {act.target!r}", field="target_folder", remedy="name another one"
        )
    if act.kind == "flag":
        lost = [flag for flag in act.flags if not box.keeps(flag)]
        if lost:
            raise ConfigError(
                f"folder {box.folder!r} cannot keep the flag {lost[0]}",
                field="flags",
                remedy="use \\Flagged, or move the messages",
            )
    if not act.target:
        return

    async def target(session: ImapSession) -> None:
        if await session.exists(act.target):
            return
        if not act.create:
            raise NotFound(
                f"there is no folder {act.target!r}", remedy="correct target_folder, or set create_target=True"
            )
        failpoint("email.mailbox.before_create")
        await session.create(act.target)
        failpoint("email.mailbox.after_create")

    await box.do(target)


class Worker:
    """Applies the operation to the messages of a plan, window by window.

    :param pairs: UID and identity of each message; pairs with UID 0 are skipped.
    :param state: what ``remember`` was given last.
    :param remember: saves a small JSON value for the next attempt immediately.
    """

    def __init__(
        self, box: Mailbox, act: Act, run: Run, pairs: Sequence[tuple[int, str]], remember: Callable[[Any], None]
    ) -> None:
        self._box, self._act, self._run, self._pairs, self._remember = box, act, run, pairs, remember

    async def expunges(self) -> bool:
        """Return whether the operation can remove messages; some servers can only flag them as deleted."""
        if self._act.kind not in ("delete", "move") or (self._act.kind == "move" and await self._supports("MOVE")):
            return True
        return await self._supports("UIDPLUS")

    async def work(self, state: Any) -> None:
        """Continue with the window that ``state`` names."""
        position = int(state["at"]) if state else 0
        progress = self._run.progress(self._act.kind, unit="messages", total=len(self._pairs), start=position)
        while position < len(self._pairs):
            window = [pair for pair in self._pairs[position : position + WINDOW] if pair[0]]
            doubt = state if state and int(state["at"]) == position else None
            if window:
                self._run.lease.check()
                await self._window(window, position, doubt)
            position += WINDOW
            self._remember({"at": position})
            progress.advance(min(WINDOW, len(self._pairs) - position + WINDOW))
        progress.finish()

    async def _window(self, window: list[tuple[int, str]], at: int, doubt: Any) -> None:
        uids = [uid for uid, _ in window]
        match self._act.kind:
            case "flag" | "unflag":
                await self._effect("flag", lambda s: s.flag(uids, self._act.flags, add=self._act.kind == "flag"))
            case "delete":
                await self._delete(uids)
            case "copy":
                await self._copy(window, at, doubt)
            case "move":
                await self._move(window, at, doubt)
            case "none":
                return

    async def _effect(self, name: str, act: Callable[[ImapSession], Awaitable[None]]) -> None:
        failpoint(f"email.mailbox.before_{name}")
        await self._box.do(act)
        failpoint(f"email.mailbox.after_{name}")

    async def _delete(self, uids: list[int]) -> None:
        await self._effect("flag_deleted", lambda session: session.flag(uids, ("\\Deleted",), add=True))
        if await self._supports("UIDPLUS"):  # a plain EXPUNGE would also remove what others have flagged
            await self._effect("expunge", lambda session: session.expunge(uids))

    async def _move(self, window: list[tuple[int, str]], at: int, doubt: Any) -> None:
        uids = [uid for uid, _ in window]
        if await self._supports("MOVE"):
            await self._effect("move", lambda session: session.move(uids, self._act.target))
            return
        if not (doubt and doubt.get("copied")):
            await self._copy(window, at, doubt)
            self._remember({"at": at, "copied": True})
        await self._delete(uids)

    async def _copy(self, window: list[tuple[int, str]], at: int, doubt: Any) -> None:
        batch = fingerprint(self._act.target, [identity for _, identity in window])
        effect = Effect(
            name=f"mailbox.copy.{batch[:16]}",
            fingerprint=batch,
            seconds=self._run.deadline.limit(self._box.seconds),
            repeatable=True,  # it looks itself what came already
        )

        async def act(intent: Intent) -> None:
            del intent
            await self._copy_or_complete(window, at, doubt)

        await self._run.effects.perform(effect, act)

    async def _copy_or_complete(self, window: list[tuple[int, str]], at: int, doubt: Any) -> None:
        doubted: dict[str, Json] = {"at": at}
        if doubt and "uidnext" in doubt:
            doubted |= {"uidnext": doubt["uidnext"], "uidvalidity": doubt["uidvalidity"]}
        else:
            here = await self._box.elsewhere(self._act.target, _as_it_is)
            doubted |= {"uidnext": here.uidnext, "uidvalidity": here.uidvalidity}
            self._remember(doubted)
            failpoint("email.mailbox.before_copy")
            if await self._copied(window):
                failpoint("email.mailbox.after_copy")
                return
        await self._copy_missing(window, doubted)

    async def _copied(self, window: list[tuple[int, str]]) -> bool:
        """Copy the messages; return False if the connection broke, so that the outcome is unknown."""
        self._run.effects.renew()
        tries = 0

        async def once(session: ImapSession) -> bool:
            nonlocal tries
            tries += 1
            if tries > 1:
                return False
            await session.copy([uid for uid, _ in window], self._act.target)
            return True

        return await self._box.do(once)

    async def _copy_missing(self, window: list[tuple[int, str]], doubted: dict[str, Any]) -> None:
        """Copy the messages that an interrupted COPY has not brought to the target."""
        identities = [identity for _, identity in window]

        async def find_copies(session: ImapSession, selected: Selected) -> list[int]:
            same = selected.uidvalidity == doubted["uidvalidity"]
            return await found_again(session, identities, above=max(0, doubted["uidnext"] - 1) if same else 0)

        found = await self._box.elsewhere(self._act.target, find_copies)
        missing = [pair for pair, uid in zip(window, found, strict=True) if not uid]
        failpoint("email.mailbox.before_copy")
        if missing and not await self._copied(missing):
            await self._copy_missing(missing, doubted)
        failpoint("email.mailbox.after_copy")

    async def _supports(self, capability: str) -> bool:
        async def ask(session: ImapSession) -> bool:
            return session.can(capability)

        return await self._box.do(ask)


async def _as_it_is(session: ImapSession, selected: Selected) -> Selected:
    return selected
