"""Compute the CRC-32C of an object from the checksums of its parts, like zlib's ``crc32_combine``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

__all__ = ["combined"]

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reflected (RFC 3720, appendix B.4)

Matrix = tuple[int, ...]


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """Return the checksum of the concatenated parts.

    :param parts: checksum and length in bytes of each part, in order.
    """
    whole = 0
    for checksum, length in parts:
        whole = _times(_zeros(length), whole) ^ checksum
    return whole


def _times(matrix: Matrix, vector: int) -> int:
    """Multiply a matrix over GF(2), given by its columns, by a vector."""
    result, column = 0, 0
    while vector:
        if vector & 1:
            result ^= matrix[column]
        vector >>= 1
        column += 1
    return result


@lru_cache(maxsize=64)
def _zeros(length: int) -> Matrix:
    """Return the effect of ``length`` zero bytes on a checksum: one zero bit to the power ``8 * length``."""
    power: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    result: Matrix = tuple(1 << bit for bit in range(32))
    bits = 8 * length
    while bits:
        if bits & 1:
            result = tuple(_times(power, column) for column in result)
        power = tuple(_times(power, column) for column in power)
        bits >>= 1
    return result
