"""Validation of names from elsewhere: a remote listing, an attachment, a response header.

The far side chooses these names and we choose the folder, so a name must never choose a folder too. A name is *used
exactly or refused*: :func:`safe_component` returns it unchanged or raises
:class:`~flowrunner_provider.core.errors.PathEscape`. Names are never cleaned up, because two cleaned names may become
one file, and a renamed file cannot be found again.

A name is checked in every reading that a later program may apply: as it is, folded by Unicode NFKC (``／`` becomes
``/``), and percent-decoded until nothing is left to decode (``%252e`` becomes ``.``). A decoded name may be a path
below the folder: ``region=a%2Fb`` is what Hive, Spark and our own exports call the folder of a value with a slash, and
it is one component unless it is decoded.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from urllib.parse import unquote

from flowrunner_provider.core.errors import PathEscape

__all__ = [
    "MAX_NAME_BYTES",
    "Insides",
    "caseless",
    "collisions",
    "filename_from_disposition",
    "is_part_name",
    "join_inside",
    "part_name",
    "resolve_inside",
    "safe_component",
]

MAX_NAME_BYTES = 255
"""Limit of ext4, XFS, APFS and most SFTP servers for one component, in UTF-8."""

_MAX_FOLDERS = 10_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SEPARATOR = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SLASH_LIKE = "[\u2044\u2215\u2216\u29f5\u29f8\u29f9]"  # look like a slash and do not fold to one
_STEP_UP = re.compile(rf"(?:^|{_SLASH_LIKE})\.\.(?:{_SLASH_LIKE}|$)")
_OVERLONG = re.compile(r"%c[01]%[89ab][0-9a-f]|%e0%[89][0-9a-f]%|%f0%8[0-9a-f]%", re.IGNORECASE)
_U_ESCAPE = re.compile(r"%u([0-9a-f]{4})", re.IGNORECASE)  # the spelling of old IIS and of JavaScript's escape()

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
"""Most names: unambiguous, so no further checks are needed."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PART = re.compile(r"\..+\.([A-Za-z0-9_-]{1,64})\.part", re.DOTALL)

# RFC 6266 grammar: ;name=token or ;name="quoted"; possessive, so that a bad header costs linear time.
_PARAMETER = re.compile(r'(?:^|;)\s*+([\w!#$&+.^`|~*-]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^;"][^;]*+))', re.DOTALL)
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.IGNORECASE | re.DOTALL)


def safe_component(name: str) -> str:
    """Return ``name`` unchanged if it is safe as one path component, else raise ``PathEscape``.

    Refused: empty and dots-only names, separators, control characters, drive letters and what looks like them, lone
    surrogates (bytes that were not UTF-8), more than 255 bytes; and names that percent-decode to an absolute path,
    ``..``, ``.`` or a name with NUL.

    :param name: one component as the far side spelled it, never a path.
    """
    if _PLAIN.fullmatch(name):
        return name
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise _escape(name, "is not valid Unicode") from None
    if size > MAX_NAME_BYTES:
        raise _escape(name, f"is longer than {MAX_NAME_BYTES} bytes")
    readings = _readings(name)
    reason = _danger(next(readings)) or next(filter(None, map(_leads_elsewhere, readings)), "")
    if reason:
        raise _escape(name, reason)
    return name


def join_inside(root: str, relative: str) -> str:
    """Return the path of ``relative`` below ``root`` in a store, after checking every component.

    :param root: the folder in the store, as the user configured it; empty for the top of the store.
    :param relative: a path with ``/`` between components, from a listing.
    """
    path = "/".join(_components(relative))
    return f"{root.rstrip('/')}/{path}" if root else path


def resolve_inside(root: Path, relative: str) -> Path:
    """Return the real path of ``relative`` below ``root`` on this disk; raise if an existing link leads out of it.

    Links are resolved once, now. Open the result with ``O_NOFOLLOW`` to protect against a link that is swapped in
    later.

    :param root: the local folder; may itself be reached through links.
    :param relative: a path with ``/`` between components, from a listing.
    """
    return Path(_resolved(str(root), relative))


class Insides:
    """Cached :func:`resolve_inside` for the files of a tree: each folder is resolved once while it is unchanged."""

    def __init__(self) -> None:
        self._folders: dict[tuple[str, str], _Folder] = {}

    def resolve(self, root: str, relative: str) -> str:
        """Like :func:`resolve_inside`."""
        name = relative[relative.rfind("/") + 1 :]
        key = root, relative[: len(relative) - len(name)]  # with its slash: "/x" has a folder, and a bad one
        known = self._folders.get(key)
        if known is not None:
            target = f"{known.path}/{safe_component(name)}"
            if known.is_unchanged() and (known.missing or not _is_link(target)):
                return target
        target = _resolved(root, relative)
        if len(self._folders) >= _MAX_FOLDERS:
            self._folders.clear()
        self._folders[key] = _Folder(target[: -len(name) - 1])
        return target


class _Folder:
    """A folder that may not exist yet, with what is needed to detect that its path has changed.

    :param path: without links.
    """

    __slots__ = ("_device", "_existing", "_inode", "missing", "path")

    def __init__(self, path: str) -> None:
        self.path = self._existing = path
        self.missing = ""
        while (status := self._identity()) is None and self._existing:
            self.missing = self._existing
            self._existing = self._existing.rpartition("/")[0]
        self._device, self._inode = status or (0, 0)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._existing or "/")  # noqa: PTH116 - asked for every file of a tree
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def is_unchanged(self) -> bool:
        """Return whether the existing folder is the same one, and the missing part still does not exist."""
        if self._identity() != (self._device, self._inode):
            return False
        return not (self.missing and os.path.lexists(self.missing))


def _resolved(root: str, relative: str) -> str:
    *folders, name = _components(relative)
    base = os.path.realpath(root)
    inside = base.rstrip("/") + "/"
    parent = os.path.realpath(inside + "/".join(folders)) if folders else base
    target = f"{parent.rstrip('/')}/{name}"
    end = os.path.realpath(target) if _is_link(target) else target
    if (folders and _is_link(parent)) or (end is not target and _is_link(end)):
        raise _escape(relative, "cannot be followed to its end")  # a loop of links
    if not (f"{parent}/".startswith(inside) and end.startswith(inside)):
        raise _escape(relative, "leads out of its folder through a link")
    return target


def _is_link(path: str) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - asked for every file of a tree, and a Path costs ten times as much


def collisions(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that a case-insensitive or normalising file system treats as one.

    :param names: names or relative paths; a repeated spelling counts once.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(caseless(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def part_name(name: str, token: str) -> str:
    """Return the name of the hidden temporary sibling: ``.{name}.{token}.part``.

    A name that would exceed 255 bytes is truncated and gets a digest of the full name.

    :param name: the final name.
    :param token: identifies the writer: 1 to 64 letters, digits, ``_`` or ``-``.
    """
    safe_component(name)
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"a token is 1 to 64 letters, digits, '_' or '-', not {token!r}")
    raw, room = name.encode(), MAX_NAME_BYTES - len(f"..{token}.part")
    if len(raw) > room:
        mark = "~" + blake2b(raw, digest_size=4).hexdigest()
        name = raw[: room - len(mark)].decode(errors="ignore") + mark
    return f".{name}.{token}.part"


def is_part_name(name: str, token: str | None = None) -> bool:
    """Return whether ``name`` has the form of :func:`part_name`.

    :param name: a component from a listing.
    :param token: if given, only siblings with this token match; pass it before deleting anything.
    """
    match = _PART.fullmatch(name)
    return match is not None and token in (None, match[1])


def filename_from_disposition(header: str) -> str | None:
    """Return the file name that a Content-Disposition header suggests, or None.

    ``filename*`` (RFC 5987) takes precedence over ``filename`` (RFC 6266, section 4.3). Only the last component of a
    path is used; a path that steps up raises ``PathEscape``.

    :param header: the value of the header.
    """
    found: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(header):
        found.setdefault(key.lower(), re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) or plain.strip())
    suggested = _extended(found.get("filename*", "")) or found.get("filename")
    if not suggested:
        return None
    *folders, name = _SEPARATOR.split(suggested)
    for folder in folders:
        if folder and not _DRIVE.fullmatch(folder):
            safe_component(folder)
    return safe_component(name)


def _readings(name: str) -> Iterator[str]:
    """Yield the name as any later decoder may read it, from no decoding to full decoding."""
    before, text = None, unicodedata.normalize("NFKC", name)
    while text != before:
        yield text
        decoded = unquote(_U_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text))
        before, text = text, unicodedata.normalize("NFKC", decoded)


def _danger(text: str) -> str:
    """Return why ``text`` is not a plain component, or an empty string."""
    if not text.strip(". "):
        return "is empty or made of dots and blanks"
    if _SEPARATOR.search(text) or _OVERLONG.search(text):
        return "holds a path separator"
    if _CONTROL.search(text):
        return "holds a control character"
    if _DRIVE.match(text):
        return "starts with a drive letter"
    return "steps up" if _STEP_UP.search(text) else ""


def _leads_elsewhere(text: str) -> str:
    """Return why a decoded name is not a path below its folder, or an empty string."""
    segments = _SEPARATOR.split(text)
    if not segments[0] or _DRIVE.match(text):
        return "is an absolute path when it is decoded"
    if _STEP_UP.search(text) or any(segment and not segment.strip(". ") for segment in segments):
        return "steps up when it is decoded"
    return "holds NUL or an overlong character when it is decoded" if "\0" in text or _OVERLONG.search(text) else ""


def _components(relative: str) -> list[str]:
    return [safe_component(component) for component in relative.split("/")]


def caseless(name: str) -> str:
    """Return the spelling by which a case-insensitive or normalising file system identifies a name.

    Canonical caseless matching, Unicode section 3.13, definition D145.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _extended(value: str) -> str:
    """Decode an RFC 5987 value; empty when it is malformed, so that the plain ``filename`` is used."""
    match = _EXTENDED.fullmatch(value)
    if match is None:
        return ""
    try:
        return unquote(match[2], encoding=match[1], errors="strict")
    except UnicodeDecodeError:
        return ""


def _escape(name: str, reason: str) -> PathEscape:
    shown = ascii(name if len(name) <= 80 else f"{name[:80]}...")
    return PathEscape(f"the name {shown} {reason}", remedy="rename it at its source, or exclude it by pattern")
