"""In which encoding a text is: by its mark, because it is valid UTF-8, or by its letters; and never by a weak guess."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.core.extras import load

__all__ = ["Guess", "guess", "mark_of"]

_SAMPLE = 256 * 1024
_TELLING = 32 * 1024  # of lines that are not plain ASCII
_MARKS = (  # the longer one first: that of UTF-32 starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What files of today are not in; each is a letter-by-letter rival of an encoding that they are in.
_NEVER = [
    "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish", "mac_cyrillic", "hp_roman8", "cp1006",
    "cp037", "cp424", "cp500", "cp875", "cp1026", "cp1140", "cp273", "cp864", "cp720", "ptcp154", "kz1048", "hz",
    "johab", "utf_7", "tis_620",
]  # fmt: skip
_COMMON = ("cp1252", "cp1250", "cp1251", "cp932", "gb18030")  # of several that read the text alike
_SINGLE_BYTE = 100  # an encoding that reads so many single bytes above 127 has no letters of two
_MOST_CHAOS, _LEAST_LANGUAGE, _MARGIN = 0.08, 0.3, 0.05


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What was found.

    :param encoding: as Python calls it.
    :param found_by: ``given``, ``mark``, ``utf-8``, ``detected`` or ``fallback``.
    :param mark: how many bytes at the start are no text.
    :param doubtful: bytes that other encodings, which fit the looked at text as well, read in another way.
    """

    encoding: str
    found_by: str
    mark: int = 0
    doubtful: bytes = b""


def mark_of(head: bytes) -> Guess | None:
    """What the first four bytes of a file say."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return Guess(encoding=encoding, found_by="mark", mark=len(mark))
    return None


async def guess(chunks: AsyncIterator[bytes], *, fallback: str, what: str) -> Guess:
    """Look at the start of a text, or where plain ASCII ends in it, and at no more than is needed.

    :param chunks: its bytes from the start; closed afterwards.
    :param fallback: what to take when the letters leave it open; empty: that is an error.
    :param what: the file, for messages.
    :raises PermanentError: if it is not known for sure.
    """
    sample, unmarked = b"", False
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            sample += chunk
            if len(sample) < 4:
                continue
            if not unmarked and (marked := mark_of(sample)) is not None:
                return marked
            unmarked = True
            if not sample.isascii() and len(sample) > 2 * _SAMPLE:
                break
            if sample.isascii() and b"\0" not in sample:
                sample = sample[-_SAMPLE:]
    if not unmarked and (marked := mark_of(sample)) is not None:
        return marked
    if b"\0" in sample:
        raise PermanentError(f"{what} holds NUL", remedy="is it a text? If so name its from_encoding, e.g. utf-16-le")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a letter cut by the end of the sample is no error
    except UnicodeDecodeError:
        return _by_letters(sample, fallback, what)
    return Guess(encoding="utf-8", found_by="utf-8")


def _by_letters(sample: bytes, fallback: str, what: str) -> Guess:
    """The encoding that reads the text far better than every other one, in a language that is recognised.

    Measured on 37 pairs of a language and an encoding in four lengths: 43 of 148 decided, none of them wrong.
    """
    library = load("charset_normalizer", extra="encoding", needed_for="finding out an encoding")
    telling = b"\n".join(line for line in sample.split(b"\n") if not line.isascii())[:_TELLING]
    best, *rivals = list(library.from_bytes(telling, cp_exclusion=_NEVER)) or [None]
    clear = best is not None and best.chaos <= _MOST_CHAOS and best.coherence >= _LEAST_LANGUAGE
    if clear and all(rival.chaos >= best.chaos + _MARGIN for rival in rivals):
        same = [name for name in best.could_be_from_charset if name not in _NEVER]
        encoding = next((name for name in _COMMON if name in same), best.encoding)
        return Guess(encoding=encoding, found_by="detected", doubtful=_doubtful(encoding, same))
    if fallback:
        return Guess(encoding=fallback, found_by="fallback")
    likely = ", ".join(match.encoding for match in (best, *rivals)[:4] if match is not None) or "none that is known"
    raise PermanentError(
        f"{what} is not UTF-8, and its letters leave open what it is (likely: {likely})",
        remedy="name its from_encoding, or a fallback_encoding for files like this",
    )


def _doubtful(encoding: str, others: list[str]) -> bytes:
    """The bytes that not all of these encodings read alike; none where letters take several bytes."""

    def read(name: str, byte: int) -> str | None:
        try:
            return bytes([byte]).decode(name)
        except UnicodeDecodeError:
            return None

    singles = [byte for byte in range(128, 256) if read(encoding, byte) is not None]
    if len(singles) < _SINGLE_BYTE:
        return b""
    return bytes(byte for byte in singles if any(read(name, byte) != read(encoding, byte) for name in others))
