"""The states of a batch's rows, one byte per row, and their compact form for the state store."""

from __future__ import annotations

import base64
import zlib

__all__ = ["DEFERRED", "IN_DOUBT", "PENDING", "REFUSED", "SENT", "pack", "unpack"]

PENDING, SENT, REFUSED, IN_DOUBT, DEFERRED = range(5)
"""Not tried; accepted; refused permanently; perhaps accepted; refused temporarily in this attempt."""

_PLANES = 3
_BIT_DIGITS = [bytes(48 + (state >> plane & 1) for state in range(256)) for plane in range(_PLANES)]


def pack(states: bytearray) -> list[str]:
    """Return the states as compressed bit planes in base64."""
    size = len(states) // 8 + 1
    planes = [int(states.translate(digits), 2).to_bytes(size, "big") for digits in _BIT_DIGITS]
    return [base64.b64encode(zlib.compress(plane)).decode() for plane in planes]


def unpack(planes: list[str], total: int) -> bytearray:
    """Return the states that :func:`pack` was given."""
    states = bytearray(total)
    for plane, text in enumerate(planes):
        number = int.from_bytes(zlib.decompress(base64.b64decode(text)), "big")
        for index, digit in enumerate(bin(number)[2:].zfill(total)):
            if digit == "1":
                states[index] |= 1 << plane
    return states
