"""The checks after a run. Each is a pure function.

They read the servers' own data (the database file, the mail folder, the SFTP server's disk, the API's counters),
not what Airflow reports.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flowrunner_provider.demo.chaos import Fired, Kill
from flowrunner_provider.demo.scratch import Scratch

__all__ = [
    "RECIPIENT",
    "Check",
    "Evidence",
    "check_api",
    "check_archive",
    "check_kills",
    "check_leftovers",
    "check_mail",
    "check_rows",
    "check_run",
    "evaluate",
]

RECIPIENT = "team@example.com"
# Tables allowed besides `airports`: the ledger that makes a load exactly-once.
_LEDGER = re.compile(r"_?flowrunner_(effects|ledger|loads)|sqlite_.*")
_PARTIAL = re.compile(r"\.(part|partial|tmp|temp|lock)\b|^\.|~$")


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The data that the checks read.

    :param expected: the IATA codes of the data set.
    :param stats: the API's counters, :class:`flowrunner_provider.demo.airports_api.Stats`.
    """

    scratch: Scratch
    state: str
    expected: Collection[str]
    stats: Mapping[str, int]
    plan: Sequence[Kill]
    fired: Sequence[Fired]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)


def check_run(state: str) -> Check:
    """Check that Airflow reports success."""
    return Check("Pipeline finished", state == "success", f"DAG run is {state}")


def check_rows(database: Path, expected: Collection[str]) -> Check:
    """Check that the table ``airports`` holds every record exactly once."""
    name = "Rows exactly once"
    try:
        with closing(_connect(database)) as connection:
            codes = [row[0] for row in connection.execute("SELECT iata FROM airports")]
    except sqlite3.Error as error:
        return Check(name, False, f"cannot read table airports: {error}")
    missing, unknown = len(set(expected) - set(codes)), len(set(codes) - set(expected))
    detail = (
        f"{len(codes):,} of {len(expected):,} rows, {len(codes) - len(set(codes))} duplicates, "
        f"{missing} missing, {unknown} unknown"
    )
    return Check(name, len(codes) == len(expected) and not missing and not unknown, detail)


def check_mail(folder: Path, staged: Path) -> Check:
    """Check that the team got exactly one mail, with an identical attachment."""
    name = "Exactly one mail"
    messages = sorted(folder.glob("*.eml"))
    if len(messages) != 1:
        return Check(name, False, f"{len(messages)} mails in the sink")
    if not staged.exists():
        return Check(name, False, f"{staged.name} is missing")
    message = email.message_from_bytes(messages[0].read_bytes(), policy=email.policy.default)
    if RECIPIENT not in str(message["To"]):
        return Check(name, False, f"it went to {message['To']}")
    files = {part.get_filename(): part.get_payload(decode=True) for part in message.iter_attachments()}
    data = files.get(staged.name)
    if not isinstance(data, bytes):
        return Check(name, False, f"{staged.name} is not attached")
    same = hashlib.sha256(data).hexdigest() == _sha256(staged)
    return Check(name, same, f"1 mail, attachment {'identical' if same else 'DIFFERS'}, {len(data):,} bytes")


def check_archive(archived: Path, staged: Path) -> Check:
    """Check that the file on the SFTP server's disk equals the local one."""
    name = "Archive identical"
    for path in (archived, staged):
        if not path.exists():
            return Check(name, False, f"{path.parent.name}/{path.name} is missing")
    ours, theirs = _sha256(staged), _sha256(archived)
    return Check(name, ours == theirs, f"sha256 {theirs[:12]}… {'=' if ours == theirs else '≠'} {ours[:12]}…")


def check_leftovers(scratch: Scratch) -> Check:
    """Check that there are no partial or extra files and no staging tables."""
    found = [
        str(path.relative_to(scratch.root))
        for folder in (scratch.staging, scratch.sftp, scratch.mail)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _PARTIAL.search(path.name)
    ]
    found += [
        str(path.relative_to(scratch.root))
        for path in sorted(scratch.sftp.rglob("*"))
        if path.is_file() and path != scratch.archived and not _PARTIAL.search(path.name)
    ]
    if scratch.database.exists():
        with closing(_connect(scratch.database)) as connection:
            tables = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        found += [f"table {table}" for table in tables if table != "airports" and not _LEDGER.fullmatch(table)]
    return Check("No leftovers", not found, ", ".join(found) or "no partial files, no staging tables")


def check_api(stats: Mapping[str, int]) -> Check:
    """Check that the API throttled and reset, and that every Retry-After was respected."""
    ok = stats["early"] == 0 and stats["throttled"] >= 1 and stats["reset"] >= 1
    detail = (
        f"{stats['early']} of {stats['requests']} requests before Retry-After had passed "
        f"({stats['throttled']}× 429, {stats['reset']} resets)"
    )
    return Check("Retry-After obeyed", ok, detail)


def check_kills(plan: Sequence[Kill], fired: Sequence[Fired]) -> Check:
    """Check that every planned kill happened: at least three, in at least three steps."""
    steps = {event.kill.step for event in fired}
    missed = [kill.point for kill in plan if kill not in {event.kill for event in fired}]
    detail = f"{len(fired)} of {len(plan)} SIGKILLs at {len(steps)} steps"
    if missed:
        detail += f"; never reached: {', '.join(missed)}"
    return Check("Attack took place", not missed and len(fired) >= 3 and len(steps) >= 3, detail)


def evaluate(evidence: Evidence) -> list[Check]:
    """Run all checks, in the order of the table."""
    scratch = evidence.scratch
    return [
        check_run(evidence.state),
        check_kills(evidence.plan, evidence.fired),
        check_api(evidence.stats),
        check_rows(scratch.database, evidence.expected),
        check_mail(scratch.mail, scratch.staged),
        check_archive(scratch.archived, scratch.staged),
        check_leftovers(scratch),
    ]
