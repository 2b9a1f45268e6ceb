"""Saves attachments to any store: decoded while streaming, verified, and under collision-free names.

The sender's file name never becomes the file's name as it is: its safe characters are kept, and a key of message and
part is appended. So no two attachments share a file, and every attempt uses the same name.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import AlreadyExists, IntegrityError, NotFound, PathEscape
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.names import safe_component
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.data.writers import part_token
from flowrunner_provider.email.mailbox.description import Message, Part, matches
from flowrunner_provider.email.mailbox.results import IfExists, Layout
from flowrunner_provider.email.mailbox.session import Mailbox
from flowrunner_provider.email.mailbox.text import decoder_for
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.transfer import digest_of

__all__ = ["CHUNK", "Gone", "Shelf", "decoded_part", "file_name", "places"]

CHUNK = 512 * 1024
"""Encoded bytes that are asked for at a time."""

_KEY = 12
_LONGEST_STEM = 120
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Gone(LookupError):
    """The message no longer exists."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The destination of attachments.

    :param root: the prefix that turns a path into an address.
    :param account: whose mailbox it is; part of the key in file names.
    """

    store: Store
    folder: str
    root: str
    account: str
    pattern: str | None
    if_exists: IfExists
    layout: Layout

    def address(self, path: str) -> str:
        """A path in the store as other actions take it."""
        return self.root + (path if path.startswith("/") else f"/~/{path.removeprefix('./')}")

    def chosen(self, message: Message) -> list[Part]:
        """The attachments that are saved."""
        return [part for part in message.attachments if matches(part.name, self.pattern)]

    def place(self, origin: tuple[str, int, int], part: Part) -> str:
        """The file of a part, below the folder.

        :param origin: the message's folder, UIDVALIDITY and UID when it was found first.
        """
        number = fingerprint("attachment", self.account, *origin, part.number)[:_KEY]
        if self.layout == "flat":
            return file_name(part.name, number)
        return f"{fingerprint('message', self.account, *origin)[:_KEY]}/{file_name(part.name, part.number)}"

    async def save(
        self, box: Mailbox, run: Run, message: Message, origin: tuple[str, int, int], *, resumed: bool
    ) -> list[dict[str, Any]]:
        """Save the selected attachments of a message and return their descriptions.

        :param resumed: an earlier attempt may have saved them.
        :raises Gone: when the message disappears; files that were saved from it are removed.
        """
        rows: list[dict[str, Any]] = []
        made: list[str] = []
        try:
            for part in self.chosen(message):
                path = self.store.join(self.folder, self.place(origin, part))
                digest, fresh = await self._save_part(box, run, message.uid, part, path, resumed=resumed)
                made += [path] if fresh else []
                rows.append({
                    "name": part.name, "path": self.address(path), "content_type": part.content_type,
                    "size": digest.size, "sha256": digest.hexdigest(),
                })  # fmt: skip
        except Gone:
            for path in made:
                with suppress(NotFound):
                    await self.store.delete(path)
            raise
        return rows

    async def _save_part(
        self, box: Mailbox, run: Run, uid: int, part: Part, path: str, *, resumed: bool
    ) -> tuple[Digest, bool]:
        if self.if_exists != "overwrite" and await _stat(self.store, path) is not None:
            digest = await digest_of(decoded_part(box, uid, part))
            same = (await digest_of(self.store.read(path))).hexdigest() == digest.hexdigest()
            if self.if_exists == "fail" and not (same and resumed):
                raise AlreadyExists(f"{self.address(path)} already exists", remedy="remove it, or set if_exists")
            await self.store.forget(path, part_token(run.scope))
            return digest, False
        await self.store.mkdir(path.rpartition("/")[0], parents=True)
        failpoint("email.read.before_attachment")
        digest = await self._uploaded(box, run, uid, part, path)
        failpoint("email.read.after_attachment")
        if (await self.store.stat(path)).size not in (None, digest.size):
            raise IntegrityError(f"{self.address(path)} is not what was written", remedy="look for another writer")
        return digest, True

    async def _uploaded(self, box: Mailbox, run: Run, uid: int, part: Part, path: str) -> Digest:
        guard = FencingGuard(run)
        upload, digest = await self.store.begin(path, part_token(run.scope)), Digest()
        try:
            async for chunk in decoded_part(box, uid, part):
                digest.update(chunk)
                await upload.write(chunk)
            await upload.sync()
            if await upload.size() != digest.size:
                raise IntegrityError(
                    f"{self.address(path)}: {digest.size} bytes were sent and others are there",
                    remedy="look at the far side's disk",
                )
            guard.check_now()
            failpoint("email.read.before_commit")
            await upload.commit(replace=self.if_exists == "overwrite")
            failpoint("email.read.after_commit")
        except BaseException as error:
            await guard.clean_up(upload, error, keep=False)
            raise
        finally:
            await upload.close()
        return digest


async def decoded_part(box: Mailbox, uid: int, part: Part) -> AsyncIterator[bytes]:
    """Yield the decoded bytes of a part, downloaded in chunks.

    :raises Gone: when the message no longer exists.
    :raises IntegrityError: when the server sends less than it announced.
    """
    decoder, position = decoder_for(part.encoding), 0
    while True:
        start = position
        piece = await box.do(lambda session: session.peek(uid, part.number, start, CHUNK))  # noqa: B023 - awaited here
        if piece is None:
            raise Gone
        position += len(piece)
        if data := decoder.feed(piece):
            yield data
        if len(piece) < CHUNK:
            break
    if position < part.size:
        raise IntegrityError(
            f"part {part.number} of message {uid}: the server announced {part.size} bytes and gave {position}",
            remedy="look at the message in its mailbox, or exclude it by search",
        )
    if data := decoder.close():
        yield data


def file_name(shown: str, key: str) -> str:
    """``invoice.pdf`` -> ``invoice-<key>.pdf``; of a name that is not safe only its suffix is kept."""
    last = re.split(r"[/\\]", shown)[-1]
    path = PurePosixPath(last)
    suffix = path.suffix if _SUFFIX.fullmatch(path.suffix) else ""
    stem = _cut(last.removesuffix(suffix)).strip(" .")
    name = f"{stem}-{key}{suffix}"
    try:
        if last != shown or stem.startswith("-") or _CONTROL.search(stem):
            raise PathEscape("it is no plain name")
        safe_component(last)
        return safe_component(name)
    except PathEscape:
        return f"attachment-{key}{suffix}"


def _cut(stem: str) -> str:
    return stem.encode("utf-8", "ignore")[:_LONGEST_STEM].decode("utf-8", "ignore")


async def _stat(store: Store, path: str) -> Entry | None:
    try:
        return await store.stat(path)
    except NotFound:
        return None


def places(shelf: Shelf | None, message: Message, origin: tuple[str, int, int]) -> Sequence[str]:
    """The addresses that a message's attachments will have."""
    if shelf is None:
        return []
    return [shelf.address(shelf.store.join(shelf.folder, shelf.place(origin, p))) for p in shelf.chosen(message)]
