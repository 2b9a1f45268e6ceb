"""Decides once which messages a task works on, and finds them again in every attempt.

A task that marks or moves messages changes the result of its own search. So the first attempt records the UID and the
identity of each message, and later attempts use that record. If the server renumbers the folder (another
UIDVALIDITY), messages are found again by Message-ID, or by time and size if they have none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowrunner_provider.core.checkpoint import Checkpoint
from flowrunner_provider.core.errors import ConfigError, Json, NotFound, PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.description import Message, describe
from flowrunner_provider.email.mailbox.imap import ImapSession
from flowrunner_provider.email.mailbox.search import MailSearch
from flowrunner_provider.email.mailbox.session import Mailbox

__all__ = ["LIMIT", "Plan", "Sieve", "found_again", "planned", "ranges", "unpacked"]

LIMIT = 1_500
"""Messages of one task: what the state store can hold the identities of."""

WINDOW = 100
"""Messages that are asked for at a time."""

_ID = 8


@dataclass
class Plan:
    """The messages, in the order of their UIDs when they were found.

    :param origin: the UIDVALIDITY and the UIDs under which they were found; file names are derived from these.
    :param uids: their current UIDs; 0 for a message that is gone.
    :param more: whether others matched too.
    :param too_large: number of matching messages that were skipped for their size.
    """

    origin: tuple[int, list[int]]
    identities: list[str]
    uidvalidity: int
    uids: list[int]
    more: bool = False
    too_large: int = 0
    known: dict[int, Message | None] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Json]:
        first, uids = self.origin
        return {
            "origin": [first, ranges(uids)], "ids": "".join(self.identities), "more": self.more,
            "too_large": self.too_large, "now": None if self.uids == uids else list(self.uids),
            "uidvalidity": self.uidvalidity,
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: Any) -> Plan:
        first, packed = record["origin"]
        uids, text = unpacked(packed), record["ids"]
        return cls(
            origin=(first, uids),
            identities=[text[start : start + _ID] for start in range(0, len(text), _ID)],
            uidvalidity=record["uidvalidity"],
            uids=list(record["now"] or uids),
            more=record["more"],
            too_large=record["too_large"],
        )


@dataclass(frozen=True, kw_only=True)
class Sieve:
    """Which messages a plan may contain.

    :param uids: UIDs to use instead of a search.
    :param max_size: maximum bytes of a message; a larger one is an error, or skipped with ``skip_large``.
    """

    search: MailSearch
    limit: int = LIMIT
    uids: Sequence[int] | None = None
    headers: Sequence[str] = ()
    max_size: int | None = None
    skip_large: bool = False


async def planned(box: Mailbox, run: Run, checkpoint: Checkpoint, sieve: Sieve, *, uidvalidity: int = 0) -> Plan:
    """Return the plan of an earlier attempt with current UIDs, or a new plan after saving it.

    :param uidvalidity: the UIDVALIDITY of the sieve's UIDs; 0 if it is unknown.
    :raises NotFound: if the folder has another UIDVALIDITY.
    """
    if checkpoint.state is None:
        if uidvalidity not in (0, box.uidvalidity):
            raise NotFound(
                f"the UIDs were told under UIDVALIDITY {uidvalidity}, folder {box.folder!r} has {box.uidvalidity}",
                remedy="find the messages again, by search",
            )
        plan = await _new_plan(box, sieve)
        checkpoint.save(plan.to_json(), force=True)
        return plan
    plan = Plan.from_json(checkpoint.state)
    if plan.uidvalidity != box.uidvalidity:
        old, plan.uidvalidity = plan.uidvalidity, box.uidvalidity
        plan.uids = await box.do(lambda session: found_again(session, plan.identities))
        checkpoint.save(plan.to_json(), force=True)
        run.log.warning(
            "Folder %r has new UIDs (UIDVALIDITY %s, before %s): %s of %s messages were found again.",
            box.folder, plan.uidvalidity, old, sum(map(bool, plan.uids)), len(plan.uids),
        )  # fmt: skip
    return plan


async def _new_plan(box: Mailbox, sieve: Sieve) -> Plan:
    if sieve.uids is None:
        candidates = await box.do(lambda session: session.search(sieve.search.criteria()))
    else:
        candidates = sorted(set(sieve.uids))
    plan = Plan(origin=(box.uidvalidity, []), identities=[], uidvalidity=box.uidvalidity, uids=[])
    uids = plan.origin[1]
    for start in range(0, len(candidates), WINDOW):
        window = candidates[start : start + WINDOW]
        described = await box.do(lambda session, window=window: describe(session, window, sieve.headers))  # type: ignore[misc]
        for uid in sorted(described):
            message = described[uid]
            if message is not None and not sieve.search.accepts(message.received, bool(message.attachments)):
                continue
            if len(uids) == sieve.limit:
                plan.more = True
                break
            if message is not None and sieve.max_size is not None and message.size > sieve.max_size:
                _too_large(message, sieve)
                plan.too_large += 1
                continue
            uids.append(uid)
            plan.identities.append(message.identity if message else "?" * _ID)
            plan.known[uid] = message
        if plan.more:
            break
    plan.uids = list(uids)
    return plan


def _too_large(message: Message, sieve: Sieve) -> None:
    if not sieve.skip_large:
        raise PermanentError(
            f"message {message.uid} has {message.size:,} bytes, max_size is {sieve.max_size:,}",
            remedy="raise max_size, exclude it by search={'smaller': ...}, or set on_too_large='skip'",
        )


async def found_again(session: ImapSession, identities: Sequence[str], *, above: int = 0) -> list[int]:
    """Return the UIDs of messages in the open folder by their identities; 0 for one that is not there.

    Of two messages with one identity, the first in the list gets the smaller UID.

    :param above: search only messages with a larger UID.
    """
    wanted, there = set(identities), defaultdict[str, list[int]](list)
    candidates = [uid for uid in await session.search(MailSearch().criteria(above=above)) if uid > above]
    for start in range(0, len(candidates), WINDOW):
        for uid, message in (await describe(session, candidates[start : start + WINDOW])).items():
            if message is not None and message.identity in wanted:
                there[message.identity].append(uid)
    queues = {identity: iter(sorted(uids)) for identity, uids in there.items()}
    return [next(queues.get(identity, iter(())), 0) for identity in identities]


def ranges(uids: Iterable[int]) -> str:
    """Ascending numbers as text: ``1:3,7``."""
    runs: list[list[int]] = []
    for uid in uids:
        if runs and uid == runs[-1][1] + 1:
            runs[-1][1] = uid
        else:
            runs.append([uid, uid])
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in runs)


def unpacked(text: str) -> list[int]:
    """The numbers of ``1:3,7``.

    :raises ConfigError: if it is none.
    """
    numbers: list[int] = []
    for run in filter(None, text.replace(" ", "").split(",")):
        first, _, last = run.partition(":")
        if not (first.isdecimal() and (last or first).isdecimal()) or int(last or first) - int(first) > 1_000_000:
            raise ConfigError(f"{run!r} is no range of UIDs", field="uids", remedy="write e.g. [4, 8] or '1:5,9'")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
