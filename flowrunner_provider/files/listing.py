"""Selecting files: globs, regular expressions, age and size."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import is_part_name
from flowrunner_provider.files.results import ListedFile
from flowrunner_provider.files.store import Entry, Store
from flowrunner_provider.files.uri import Location, split_glob

__all__ = ["Filter", "glob_to_regex", "listed", "matcher", "moment", "selection", "walk"]


def glob_to_regex(pattern: str) -> str:
    """Return a glob as a regular expression for a relative path.

    ``*`` and ``?`` stay within one component, ``**/`` is any number of folders, and ``[a-z]`` and ``[!a-z]`` are one
    character. As in a shell, a wildcard at the start of a component does not match a leading dot.
    """
    parts = pattern.split("/")
    regex = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            regex.append(r"(?:(?!\.)[^/]+/)*" + (r"(?!\.)[^/]+" if last else ""))
        else:
            regex.append(_component(part) + ("" if last else "/"))
    return "".join(regex)


def _component(part: str) -> str:
    """Return the regex of one path component.

    A star in front of the last one takes the first place that fits and never backtracks (an atomic group). Nothing is
    lost by that, and a hostile file name cannot make the match slow.
    """
    pieces, position = [""], 0  # between the stars
    while position < len(part):
        character = part[position]
        end = part.find("]", position + 2) if character == "[" else -1
        if character == "*":
            pieces.append("")
            position += len(part[position:]) - len(part[position:].lstrip("*")) - 1
        elif character == "?":
            pieces[-1] += "[^/]"
        elif end > 0:
            inner = part[position + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            pieces[-1] += f"[{'^/' + inner[1:] if inner[0] == '!' else inner.replace('^', chr(92) + '^')}]"
            position = end
        else:
            pieces[-1] += re.escape(character)
        position += 1
    first, *rest = pieces
    hidden = r"(?!\.)" if part[:1] in ("*", "?", "[") else ""
    last = f"[^/]*{rest.pop()}" if rest else ""
    return hidden + first + "".join(f"(?>[^/]*?{piece})" for piece in rest) + last


def matcher(pattern: str, syntax: Literal["glob", "regex"], *, field: str = "pattern") -> Callable[[str], bool]:
    """Return a function that says whether a complete relative path matches.

    :raises ConfigError: if the pattern is invalid.
    """
    if syntax not in ("glob", "regex"):
        raise ConfigError(f"unknown syntax {syntax!r}", field="syntax", remedy="write 'glob' or 'regex'")
    try:
        compiled = re.compile(glob_to_regex(pattern) if syntax == "glob" else pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is not a {syntax}: {error}", field=field, remedy="correct it") from error
    return lambda relative: compiled.fullmatch(relative) is not None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions that a file must meet.

    :param matches: says whether the relative path matches.
    :param min_age: reject files modified more recently, which may still be being written.
    """

    now: datetime
    matches: Callable[[str], bool] = lambda relative: True
    min_age: timedelta = timedelta(0)
    newer_than: datetime | None = None
    min_size: int = 0

    def __call__(self, relative: str, entry: Entry) -> bool:
        if not self.matches(relative) or (entry.size or 0) < self.min_size:
            return False
        if entry.modified is None:
            return not self.min_age and self.newer_than is None
        if self.min_age and self.now - entry.modified < self.min_age:
            return False
        return self.newer_than is None or entry.modified > self.newer_than


async def walk(
    store: Store,
    folder: str,
    accept: Callable[[str, Entry], bool],
    *,
    recursive: bool,
    skipped_link: Callable[[Entry], None] = lambda entry: None,
) -> AsyncIterator[tuple[str, Entry]]:
    """Yield the files below ``folder`` with their relative paths; no folders, links, or temporary files of ours.

    :param skipped_link: called with each link.
    """
    prefix = len(folder.rstrip("/")) + 1 if folder != "." else 2
    async for entry in store.list(folder, recursive):
        if entry.is_link:
            skipped_link(entry)
        elif not entry.is_dir and not is_part_name(entry.name):
            relative = entry.path[prefix:]
            if accept(relative, entry):
                yield relative, entry


def selection(
    path: str, pattern: str | None, *, syntax: Literal["glob", "regex"] = "glob", recursive: bool = False
) -> tuple[str, str, bool]:
    """Return the folder to list, the pattern below it (empty for every file), and whether to descend into subfolders.

    :param path: a folder, or a glob.
    :param pattern: which files below ``path``, if ``path`` is not a glob.
    """
    folder, magic = split_glob(path)
    if magic and pattern:
        raise ConfigError("path has wildcards and pattern is set", field="pattern", remedy="use only one of them")
    if magic and syntax == "regex":
        raise ConfigError("path has wildcards", field="path", remedy="pass the regex as pattern")
    pattern = magic or pattern or ""
    deep = syntax == "glob" and ("/" in pattern or pattern == "**")
    if recursive and syntax == "glob" and pattern and not deep:
        pattern = f"**/{pattern}"
    return folder.rstrip("/") or folder, pattern, recursive or deep


def moment(value: datetime | str | None, field: str) -> datetime | None:
    """Parse a point in time; None for an empty value.

    :raises ConfigError: if it is not ISO 8601, or has no time zone.
    """
    if value is None or value == "":
        return None
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigError(
            f"{field} {value!r} is not ISO 8601", field=field, remedy="write 2026-01-31T00:00:00+00:00"
        ) from None
    if when.tzinfo is None:
        raise ConfigError(f"{field} has no time zone", field=field, remedy="append +00:00 for UTC")
    return when


def listed(location: Location, entry: Entry) -> ListedFile:
    """Return the result of a listed file; its path is an address that other actions accept."""
    path = entry.path if entry.path.startswith("/") else f"/~/{entry.path.removeprefix('./')}"
    return ListedFile(
        path=location.root + path,
        name=entry.name,
        size=entry.size,
        modified=entry.modified.isoformat() if entry.modified else None,
    )
