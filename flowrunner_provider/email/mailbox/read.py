"""Reads a mailbox: everything is saved and verified before any message is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.writers import RowWriter, open_writer, part_token
from flowrunner_provider.email.mailbox.acts import Act, Worker, prepare
from flowrunner_provider.email.mailbox.description import Message, Part, describe
from flowrunner_provider.email.mailbox.files import Gone, Shelf, places
from flowrunner_provider.email.mailbox.plan import Plan, Sieve, planned, ranges, unpacked
from flowrunner_provider.email.mailbox.results import Body, MailReadResult
from flowrunner_provider.email.mailbox.session import Connect, Mailbox
from flowrunner_provider.email.mailbox.text import decoded_text, decoder_for
from flowrunner_provider.email.plain_text import html_to_text

__all__ = ["ROOM", "ReadJob", "read"]

ROOM = 36_000
"""Characters of rows that fit into a result, and into the record that keeps them until the task is done."""

WINDOW = 50


@dataclass(frozen=True, kw_only=True)
class ReadJob:
    """The validated parameters of ``email.read``.

    :param identity: what a retry must have in common with the first attempt (JSON).
    :param uidvalidity: the UIDVALIDITY of the sieve's UIDs; 0 if it is unknown.
    :param save_to: a .jsonl file for the rows.
    """

    folder: str
    sieve: Sieve
    act: Act
    identity: Any
    uidvalidity: int = 0
    headers: Sequence[str] = ()
    body: Body = "none"
    max_body: int = 100_000
    shelf: Shelf | None = None
    save_to: str | None = None
    missing_ok: bool = False


async def read(connect: Connect, run: Run, job: ReadJob) -> MailReadResult:
    """Read and save the messages, then apply the operation."""
    async with Mailbox(connect, job.folder, run, readonly=job.act.kind == "none") as box:
        await prepare(box, job.act)
        failpoint("email.read.before_plan")
        checkpoint = run.checkpoint("plan", fingerprint(job.identity))
        plan = await planned(box, run, checkpoint, job.sieve, uidvalidity=job.uidvalidity)
        failpoint("email.read.after_plan")
        if not plan.uids and not job.missing_ok:
            large = f"; {plan.too_large} were too large" if plan.too_large else ""
            raise NotFound(
                f"no message in {job.folder!r} matches{large}",
                remedy="correct search, or set missing_ok=True if that is fine",
            )
        work = _Read(box, run, job, plan)
        await work.read()
        return await work.act()


class _Read:
    def __init__(self, box: Mailbox, run: Run, job: ReadJob, plan: Plan) -> None:
        self._box, self._run, self._job, self._plan = box, run, job, plan
        self._checkpoint = run.checkpoint("read", fingerprint(job.identity))
        state = self._checkpoint.state or {}
        self._resumed = bool(state)
        self._at: int = state.get("at", 0)
        self._counts: list[int] = state.get("counts", [0, 0])
        self._gone: list[int] = unpacked(state.get("gone", ""))
        self._unreadable: list[int] = unpacked(state.get("unreadable", ""))
        self._rows: list[dict[str, Any]] = state.get("rows", [])
        self._writer_state: Any = state.get("writer")
        self._dataset: Any = state.get("dataset")
        self._act_state: Any = state.get("act")

    # -- first everything is read

    async def read(self) -> None:
        if self._act_state is not None:
            return
        self._refuse_too_many()
        with ExitStack() as stack:
            writer = self._writer(stack)
            progress = self._run.progress("read", unit="messages", total=len(self._plan.uids), start=self._at)
            while self._at < len(self._plan.uids):
                end = min(self._at + WINDOW, len(self._plan.uids))
                described = await self._described(range(self._at, end))
                for index in range(self._at, end):
                    await self._message(index, described, writer)
                    self._at = index + 1
                    progress.advance()
                    self._save(writer)
            if writer is not None:
                self._run.lease.check()
                self._dataset = asdict(writer.commit())
            self._act_state = {"at": 0}
            self._writer_state = None
            self._save(None, force=True)
            progress.finish()

    def _writer(self, stack: ExitStack) -> RowWriter | None:
        if self._job.save_to is None:
            return None
        token = part_token(self._run.scope)
        writer = stack.enter_context(
            open_writer(self._job.save_to, "jsonl", None, token=token, state=self._writer_state)
        )
        stack.enter_context(_left_to_none(writer, self._run))
        if self._writer_state is not None and not writer.resumed:  # the part is lost: read again
            self._at, self._counts, self._gone, self._unreadable = 0, [0, 0], [], []
        return writer

    async def _described(self, indexes: Sequence[int]) -> dict[int, Message | None]:
        uids = [self._plan.uids[index] for index in indexes if self._plan.uids[index]]
        known = {uid: self._plan.known[uid] for uid in uids if uid in self._plan.known}
        asked = [uid for uid in uids if uid not in known]
        if not asked:
            return known
        return known | await self._box.do(lambda session: describe(session, asked, self._job.headers))

    async def _message(self, index: int, described: dict[int, Message | None], writer: RowWriter | None) -> None:
        uid = self._plan.uids[index]
        if uid not in described:
            self._gone.append(index)
            return
        message = described[uid]
        if message is None:
            self._run.log.warning("Message %s in %r cannot be read and is left alone.", uid, self._box.folder)
            self._unreadable.append(index)
            return
        try:
            row = await self._row(message, self._origin(index))
        except Gone:
            self._gone.append(index)
            return
        self._counts[0] += len(row["attachments"])
        self._counts[1] += sum(item.get("size") or 0 for item in row["attachments"] if "path" in item)
        if writer is not None:
            writer.write_records([row])
        else:
            self._rows.append(row)
            if len(json.dumps(self._rows)) > ROOM:
                raise _no_room()

    async def _row(self, message: Message, origin: tuple[str, int, int]) -> dict[str, Any]:
        job, row = self._job, message.row(self._job.headers)
        if job.body != "none":
            await self._bodies(message, row)
        if job.shelf is None:
            listed = [{"name": p.name, "content_type": p.content_type} for p in message.attachments]
            row["attachments"] = listed
        else:
            row["attachments"] = await job.shelf.save(self._box, self._run, message, origin, resumed=self._resumed)
        return row

    async def _bodies(self, message: Message, row: dict[str, Any]) -> None:
        plain, html = message.body("plain"), message.body("html")
        needed = html is not None and (self._job.body != "text" or plain is None)
        markup = await self._text(message.uid, html) if html and needed else ("", False)
        if self._job.body in ("html", "both"):
            row["html"], row["html_cut"] = markup
        if self._job.body in ("text", "both"):
            text = await self._text(message.uid, plain) if plain else (html_to_text(markup[0]), markup[1])
            row["text"], row["text_cut"] = text

    async def _text(self, uid: int, part: Part) -> tuple[str, bool]:
        """Return the text of a part and whether it was cut; at most ``max_body`` characters are downloaded."""
        most = 4 * self._job.max_body
        piece = await self._box.do(lambda session: session.peek(uid, part.number, 0, most))
        if piece is None:
            raise Gone
        decoder = decoder_for(part.encoding)
        text = decoded_text(decoder.feed(piece) + decoder.close(), part.charset).replace("\r\n", "\n")
        cut = len(piece) == most or len(text) > self._job.max_body
        return text[: self._job.max_body], cut

    def _refuse_too_many(self) -> None:
        """Raise before anything is downloaded if the rows will not fit into the result."""
        if self._job.save_to is not None or self._resumed:
            return
        size = 0
        for index, uid in enumerate(self._plan.uids):
            message = self._plan.known.get(uid)
            if message is None:
                continue
            paths = places(self._job.shelf, message, self._origin(index))
            size += len(json.dumps(message.row(self._job.headers))) + sum(250 + len(path) for path in paths)
            if self._job.body != "none":
                bodies = [message.body("plain"), message.body("html")]
                size += sum(min(part.size // 2, self._job.max_body) for part in bodies if part)
        if size > ROOM:
            raise _no_room()

    def _origin(self, index: int) -> tuple[str, int, int]:
        validity, uids = self._plan.origin
        return self._box.folder, validity, uids[index]

    # -- and then it is acted upon

    async def act(self) -> MailReadResult:
        left = {*self._gone, *self._unreadable}
        pairs = [(uid, self._plan.identities[index]) for index, uid in enumerate(self._plan.uids) if index not in left]
        worker = Worker(self._box, self._job.act, self._run, pairs, self._remember)
        if self._job.act.kind != "none":
            await worker.work(self._act_state)
        return MailReadResult(
            messages=self._dataset["rows"] if self._dataset else len(self._rows),
            attachments=self._counts[0] if self._job.shelf else 0,
            bytes=self._counts[1],
            gone=len(self._gone),
            unreadable=len(self._unreadable),
            too_large=self._plan.too_large,
            more=self._plan.more,
            expunged=await worker.expunges(),
            rows=self._rows,
            dataset=Dataset(**self._dataset) if self._dataset else None,
        )

    def _remember(self, state: Any) -> None:
        self._act_state = state
        self._save(None, force=True)

    # -- the record

    def _save(self, writer: RowWriter | None, *, force: bool = False) -> None:
        if not force and not self._due():
            return
        if writer is not None:
            self._writer_state = writer.checkpoint()
        self._checkpoint.save(
            {
                "at": self._at, "counts": self._counts, "gone": ranges(self._gone),
                "unreadable": ranges(self._unreadable), "rows": self._rows, "writer": self._writer_state,
                "dataset": self._dataset, "act": self._act_state,
            },
            force=True,
        )  # fmt: skip
        self._saved_at = self._run.clock.monotonic()

    _saved_at = float("-inf")

    def _due(self) -> bool:
        """Return whether the checkpoint is older than a few seconds; each save is a network call."""
        return self._run.clock.monotonic() - self._saved_at >= SAVE_EVERY


SAVE_EVERY = 3.0
"""Seconds between two writes of the record while reading: what was read since is read again."""


@contextmanager
def _left_to_none(writer: RowWriter, run: Run) -> Iterator[None]:
    """After an error, keep the temporary file for the next attempt, unless a newer attempt already has its own."""
    try:
        yield
    except FlowRunnerError:
        if run.lease.lost():
            writer.withdraw()
        raise


def _no_room() -> ConfigError:
    return ConfigError(
        "the messages are too much for a result",
        field="save_to",
        remedy="give save_to, a .jsonl file for them; or set limit, or body='none'",
    )
