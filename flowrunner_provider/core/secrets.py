"""Redaction of secrets in logs, errors and records.

Secrets are hidden in two ways. *By name*: a value under ``password`` or ``X-Api-Key`` is hidden whatever it is
(:func:`is_sensitive_key`, :func:`redact_mapping`, :func:`redact_url`). *By value*: a known secret is hidden wherever it
appears and however it was encoded (:class:`Redactor`). :class:`Secret` prevents a value from being printed at all.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from os.path import commonprefix
from typing import Any, NoReturn, final
from urllib.parse import quote, quote_plus, unquote_plus

__all__ = ["MASK", "Redactor", "Secret", "is_sensitive_key", "redact_mapping", "redact_url"]

MASK = "***"

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_LETTER = re.compile(r"[\W\d_]+")

# These read the words of a name in lower case, with one blank between them.
_SENSITIVE = re.compile(
    r"\b(?:assertions?|auth(?! )|authorization|bearer|cookies?|creds?|dsn|hmac|jwt|otp|passcode|pfx|pwd"
    r"|sas|sig|signatures?|session ?id|key ?file ?(?:json|dict)|conn(?:ection)? ?str(?:ing)?"
    r"|(?:account|auth|encryption|functions|master|service|session|shared|signing|storage) ?keys?"
    r"|subscription ?keys?|(?:upload|signed|presigned|webhook) ?urls?)\b"
)
# These end a name even where it shows no boundary, as in PGPASSWORD or mysecret.
_SENSITIVE_END = re.compile(
    r"(?:password|passwd|passphrase|secret|token|credential|(?:api|access|private|secret) ?key)s?\b"
)
# Tokens that are counted, timed or located rather than shown.
_ABOUT_TOKENS = re.compile(
    r"\b(?:completion|max|min|num|prompt|total) tokens?\b"
    r"|\btokens? (?:bucket|count|endpoint|expires|expiry|lifetime|limit|ttl|type|uri|url)\b"
)
_URL_ONLY = frozenset({"code", "key"})  # OAuth codes and Google keys; harmless names everywhere else

_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY_ITEM = re.compile(r"([?&;#])([^?&;#=]++)=([^&;#]++)")

_GROUP, _GROUPS = 128, 16
_SHORTEST = 4
_SHORTEST_PREFIX = 8
_SHORTEST_LINE = 16
_DEEPEST = 64
_DEEPEST_GROUP = 32
_COMMON = frozenset({
    "admin", "airflow", "anonymous", "default", "false", "guest", "http", "https", "localhost", "none",
    "null", "password", "postgres", "root", "secret", "string", "test", "token", "true", "user", "username",
})  # fmt: skip


def is_sensitive_key(name: str) -> bool:
    """Return whether a value under ``name`` is a secret.

    The name is split into words (``X-Api-Key``, ``clientSecret``, ``aws_secret_access_key``), so that ``author`` and
    ``tokenizer`` do not match. In doubt the answer is yes.

    :param name: a header, parameter, field or environment variable.
    """
    words = _NO_LETTER.sub(" ", _CAMEL.sub(" ", name)).strip().lower()
    words = _ABOUT_TOKENS.sub("", words)
    joined = words.replace(" ", "")
    return bool(_SENSITIVE.search(words) or _SENSITIVE_END.search(words) or _SENSITIVE_END.search(joined))


def redact_url(url: str) -> str:
    """Return ``url`` without its user info and with the values of sensitive parameters hidden.

    :param url: one URL; everything else in it is unchanged, byte for byte.
    """
    return _QUERY_ITEM.sub(_hide_item, _USER_INFO.sub(f"{MASK}@", url))


def redact_mapping(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy of ``mapping`` with every value under a sensitive key hidden.

    URLs among the other values go through :func:`redact_url`. None, booleans and empty strings stay visible, because a
    missing secret is worth seeing.

    :param mapping: JSON-like data; below 64 levels everything is hidden.
    """
    return {key: _redact_value(value, is_sensitive_key(str(key)), 1) for key, value in mapping.items()}


class Redactor:
    """Hides known secrets in any text, in plain form and in the usual encodings.

    Values shorter than 4 characters and common words are not hidden, because that would garble the text and protect
    nothing. For HTTP Basic credentials, also add the pair ``user:password``, since it is encoded as one.

    At least the latest 1,000 values are hidden, and reuse refreshes a value. Older ones, such as tokens that a
    triggerer has renewed for weeks, are dropped, so that the cost does not grow without bound.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._groups = deque([_Group()], maxlen=_GROUPS)
        self.add_all(values)

    def add(self, value: str) -> None:
        """Hide ``value`` from now on; of a multi-line text such as a key file, also each long line."""
        body = [line for line in value.splitlines() if len(line) >= _SHORTEST_LINE and not line.startswith("-----")]
        for secret in {value, *body}:
            hidden = len(secret) >= _SHORTEST and secret.lower() not in _COMMON and len(set(secret)) > 1
            if hidden and not any(secret in group.values for group in [*self._groups][-_GROUPS // 2 :]):
                if len(self._groups[-1].values) >= _GROUP:
                    self._groups.append(_Group())
                self._groups[-1].add(secret)

    def add_all(self, values: Iterable[str]) -> None:
        """Hide each of ``values`` from now on."""
        for value in values:
            self.add(value)

    def redact(self, text: str) -> str:
        """Return ``text`` with each secret replaced by ``***``.

        A secret that was cut off at the end of the text is hidden too, if at least 8 characters of it remain.

        :param text: any text; the cost grows with its length only.
        """
        groups = [group for group in [*self._groups] if group.values]
        spans = sorted(match.span() for group in groups for match in group.pattern.finditer(text))
        pieces, end = [], 0
        for start, stop in spans:
            if start >= end:
                pieces += [text[end:start], MASK]
            end = max(end, stop)
        return _without_cut_end("".join((*pieces, text[end:])), groups)


class _Group:
    """A group of secrets that is hidden in one pass over a text."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self._spellings: set[str] = set()
        self._compiled: tuple[re.Pattern[str], list[str]] | None = None
        self._count = 0

    def add(self, secret: str) -> None:
        self._spellings.update(_spellings(secret))
        self.values.add(secret)

    def _ready(self) -> tuple[re.Pattern[str], list[str]]:
        if (ready := self._compiled) is None or self._count != len(self._spellings):  # other threads may add some
            spellings = sorted(self._spellings)
            long = [spelling for spelling in spellings if len(spelling) > _SHORTEST_PREFIX]
            self._compiled, self._count = ready, _ = (re.compile(_any_of(spellings)), long), len(spellings)
        return ready

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the longest spelling."""
        return self._ready()[0]

    @property
    def long(self) -> list[str]:
        """The spellings of which the beginning alone is known again."""
        return self._ready()[1]


def _without_cut_end(text: str, groups: list[_Group]) -> str:
    for ellipsis in ("", "...", "\u2026"):
        if text.endswith(ellipsis):
            body = text.removesuffix(ellipsis)
            cut = min((_cut_start(body, spelling) for group in groups for spelling in group.long), default=len(body))
            if cut < len(body):
                return body[:cut] + MASK + ellipsis
    return text


@final
class Secret:
    """A string that does not show itself: ``str``, ``repr`` and formatting return ``***``.

    It cannot be changed, pickled or serialised as JSON; only :meth:`reveal` returns the value.

    :param value: the secret.
    """

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Return the value, to be passed directly to its consumer."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_raw(self._value), _raw(other._value))

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; reveal() it where it is needed")


def _hide_item(item: re.Match[str]) -> str:
    name = unquote_plus(item[2])
    hidden = is_sensitive_key(name) or name.lower() in _URL_ONLY
    return f"{item[1]}{item[2]}={MASK}" if hidden else item[0]


def _redact_value(value: Any, hidden: bool, depth: int) -> Any:
    if depth > _DEEPEST:
        return MASK
    if isinstance(value, Mapping):
        return {k: _redact_value(v, hidden or is_sensitive_key(str(k)), depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_redact_value(item, hidden, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if hidden:
        return value if value is None or isinstance(value, bool) or value == "" else MASK
    return redact_url(value) if isinstance(value, str) and "://" in value else value


def _raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _spellings(value: str) -> Iterator[str]:
    """Yield ``value`` in the forms it may take after the usual encodings."""
    raw = _raw(value)
    yield value
    for escaped in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield escaped
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), escaped)
    for ascii_only in (True, False):
        yield json.dumps(value, ensure_ascii=ascii_only)[1:-1]
    for shown in (repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1]):
        yield shown
        yield re.sub(r"(?<!\\)'", r"\'", shown)  # how it shows inside a longer text that has both quotes
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        yield encoded.decode()
        yield encoded.decode().rstrip("=")


def _any_of(words: list[str], depth: int = 0) -> str:
    """Return a regex for the longest of the sorted ``words``: a trie, so that many words cost what few do."""
    if depth > _DEEPEST_GROUP:
        return f"(?:{'|'.join(map(re.escape, reversed(words)))})"
    prefix = commonprefix(words)  # noqa: RUF071 - character by character is what is wanted
    groups: dict[str, list[str]] = {}
    for word in words:
        if rest := word[len(prefix) :]:
            groups.setdefault(rest[0], []).append(rest)
    if not groups:
        return re.escape(prefix)
    branches = "|".join(_any_of(group, depth + 1) for group in groups.values())
    return f"{re.escape(prefix)}(?:{branches}){'?' if prefix in words else ''}"


def _cut_start(text: str, spelling: str) -> int:
    """Return where the cut-off ``spelling`` at the end of ``text`` starts, or the length of ``text``."""
    head = spelling[:_SHORTEST_PREFIX]
    start = text.find(head, max(0, len(text) - len(spelling) + 1))
    while start >= 0:
        if spelling.startswith(text[start:]):
            return start
        start = text.find(head, start + 1)
    return len(text)
