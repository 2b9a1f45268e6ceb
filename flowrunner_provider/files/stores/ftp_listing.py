"""Parsers of FTP listings: machine-readable facts (RFC 3659), and the output of ``ls -l`` or ``dir``."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from flowrunner_provider.core.errors import PathEscape, PermanentError
from flowrunner_provider.files.store import Entry

__all__ = ["fact_entry", "list_entry", "moment"]

_UNIX = re.compile(
    r"(?P<kind>[-bcdlps])[-rwxsStTlL]{9}\S?\s++\d++\s++\S++(?:\s++\S++)*?\s++(?P<size>\d++)\s++"
    r"[A-Z][a-z]{2}\s++\d{1,2}\s++(?:\d{4}|\d{1,2}:\d\d)\s(?P<name>.+)",
    re.DOTALL,
)
_DOS = re.compile(
    r"\d\d-\d\d-(?:\d\d){1,2}\s+\d\d:\d\d(?:[AP]M)?\s+(?:(?P<dir><DIR>)|(?P<size>\d+))\s+(?P<name>.+)", re.DOTALL
)
_TIME = re.compile(r"(\d{14})(?:\.(\d{1,6}))?")
_FOLDERS = ("dir", "cdir", "pdir")


def moment(text: str) -> datetime | None:
    """Parse a time of RFC 3659, section 2.3, which is always UTC; return None for anything else."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    try:
        seconds = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return seconds.replace(microsecond=int((match[2] or "0").ljust(6, "0")))


def fact_entry(line: str, prefix: str = "", path: str | None = None) -> Entry | None:
    """Parse a line of MLSD, or the MLST reply for ``path``; return None for the folder itself and its parent.

    :param prefix: the folder, with a final slash.
    :raises PermanentError: if the line cannot be parsed.
    """
    words, blank, name = line.partition(" ")
    facts = dict(fact.lower().split("=", 1) for fact in words.split(";") if "=" in fact)
    kind = facts.get("type", "")
    if not (blank and name and kind):
        raise _unparsable(line)
    if path is None:
        if kind in ("cdir", "pdir"):
            return None
        path = prefix + _component(name)
    return Entry(
        path=path,
        name=path.rstrip("/").rpartition("/")[2],
        size=int(facts["size"]) if facts.get("size", "").isdigit() else None,
        modified=moment(facts.get("modify", "")),
        is_dir=kind in _FOLDERS and not _is_disguised_link(kind, facts),
        is_link=kind.startswith(("os.unix=slink", "os.unix=symlink")) or _is_disguised_link(kind, facts),
        version=facts.get("unique", ""),
    )


def _is_disguised_link(kind: str, facts: dict[str, str]) -> bool:
    """Return whether MLST shows a link as a folder, as ProFTPD does: with the permissions of a file."""
    perm = facts.get("perm", "")
    return kind == "dir" and "r" in perm and "e" not in perm and "l" not in perm


def list_entry(line: str, prefix: str) -> Entry | None:
    """Parse a line of LIST; return None for lines without an entry. Its time, without seconds and zone, is ignored.

    :raises PermanentError: if the line cannot be parsed: no entry of a listing is ever left out silently.
    """
    if not line.strip() or re.fullmatch(r"total \d+", line):
        return None
    match = _UNIX.fullmatch(line)
    kind, name = "", ""
    if match is not None:
        kind, name = match["kind"], match["name"]
        if kind == "l":
            name = name.partition(" -> ")[0]
    elif (match := _DOS.fullmatch(line)) is not None:
        kind, name = "d" if match["dir"] else "-", match["name"]
    if match is None:
        raise _unparsable(line)
    if name in (".", ".."):
        return None
    size = match["size"]
    return Entry(
        path=prefix + _component(name),
        name=name,
        size=int(size) if size and kind in "-l" else None,
        modified=None,
        is_dir=kind == "d",
        is_link=kind == "l",
    )


def _component(name: str) -> str:
    if "/" in name or "\0" in name or name in (".", ".."):
        raise PathEscape(
            f"the server lists the unsafe name {name[:80]!a}", remedy="ask the owner of the server to rename it"
        )
    return name


def _unparsable(line: str) -> PermanentError:
    return PermanentError(
        f"a line of the server's listing cannot be parsed: {line[:80]!a}",
        remedy="check for line breaks in file names, or use a server with MLSD (RFC 3659)",
    )
