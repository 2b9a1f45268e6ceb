"""What a text is billed as: 3GPP TS 23.038 (the GSM alphabet, UCS-2) and TS 23.040 (concatenation).

A text of GSM characters alone is sent in septets, 160 to a message; any other character makes all of it
UCS-2, 70 to a message. Longer texts are cut into segments with a header of six octets, which leaves 153 and 67.
Neither an escape sequence nor a surrogate pair is ever cut in two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EXTENSION", "GSM", "Segmented", "segmented"]

GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""The basic character set: one septet each."""

EXTENSION = frozenset("\f^{}\\[~]|€")
"""The extension table: an escape and a second septet."""

_WHOLE = {"gsm-7": 160, "ucs-2": 70}
_PART = {"gsm-7": 153, "ucs-2": 67}


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A text as the network carries it.

    :param encoding: of all of it.
    :param units: septets (``gsm-7``) or 16-bit units (``ucs-2``).
    :param segments: messages that are billed; 0 for no text.
    """

    encoding: Literal["gsm-7", "ucs-2"]
    units: int
    segments: int


def segmented(text: str) -> Segmented:
    """How ``text`` is carried."""
    encoding: Literal["gsm-7", "ucs-2"] = "gsm-7" if set(text) <= GSM | EXTENSION else "ucs-2"
    if encoding == "gsm-7":
        sizes = [2 if character in EXTENSION else 1 for character in text]
    else:
        sizes = [2 if ord(character) > 0xFFFF else 1 for character in text]
    units = sum(sizes)
    if units <= _WHOLE[encoding]:
        return Segmented(encoding=encoding, units=units, segments=min(units, 1))
    segments, used = 1, 0
    for size in sizes:
        if used + size > _PART[encoding]:
            segments, used = segments + 1, 0
        used += size
    return Segmented(encoding=encoding, units=units, segments=segments)
