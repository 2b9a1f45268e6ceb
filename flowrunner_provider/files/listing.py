"""Which files: globs, regular expressions, age and size."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import is_part_name
from flowrunner_provider.files.store import Entry, Store

__all__ = ["Filter", "glob_to_regex", "matcher", "walk"]


def glob_to_regex(pattern: str) -> str:
    """A glob as a regular expression over a relative path.

    ``*`` and ``?`` stay within one component, ``**/`` is any number of folders, ``[a-z]`` and ``[!a-z]`` one
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
    regex, position = r"(?!\.)" if part[:1] in ("*", "?", "[") else "", 0
    while position < len(part):
        character = part[position]
        end = part.find("]", position + 2) if character == "[" else -1
        if character == "*":
            regex += "" if part[position - 1 : position] == "*" else "[^/]*"
        elif character == "?":
            regex += "[^/]"
        elif end > 0:
            inner = part[position + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            regex += f"[{'^/' + inner[1:] if inner[0] == '!' else inner.replace('^', chr(92) + '^')}]"
            position = end
        else:
            regex += re.escape(character)
        position += 1
    return regex


def matcher(pattern: str, syntax: Literal["glob", "regex"], *, field: str = "pattern") -> Callable[[str], bool]:
    """A function that tells whether a relative path matches as a whole.

    :raises ConfigError: for a pattern that is none.
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
    """What a file must be like.

    :param matches: tells it by the relative path.
    :param min_age: leaves out what was modified less long ago: it may still be being written.
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
    """The files below ``folder`` with their relative paths; never folders, links, or parts being written.

    :param skipped_link: told about each link.
    """
    prefix = len(folder.rstrip("/")) + 1 if folder != "." else 2
    async for entry in store.list(folder, recursive):
        if entry.is_link:
            skipped_link(entry)
        elif not entry.is_dir and not is_part_name(entry.name):
            relative = entry.path[prefix:]
            if accept(relative, entry):
                yield relative, entry
