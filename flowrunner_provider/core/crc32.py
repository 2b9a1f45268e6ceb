"""The CRC-32 of a whole from those of its parts, whose bytes are then read only once and in any order.

A CRC is the remainder of a division of polynomials over GF(2). Appending n bytes multiplies what came before by
x^(8n); the remainder of that power is found by squaring, so the cost grows with the logarithm of n. As zlib does it.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["crc32_joined"]

_POLYNOMIAL = 0xEDB88320  # IEEE 802.3, the lowest power in the highest bit
_ONE = 1 << 31
_X_TO_THE_8 = 1 << 23


def _times(left: int, right: int) -> int:
    """The product of two polynomials, modulo ours."""
    product, bit = 0, _ONE
    while left:
        if left & bit:
            product ^= right
            left ^= bit
        bit >>= 1
        right = right >> 1 ^ _POLYNOMIAL if right & 1 else right >> 1
    return product


@lru_cache(maxsize=64)
def _shift(length: int) -> int:
    """x^(8 * length), modulo ours."""
    factor, square = _ONE, _X_TO_THE_8
    while length:
        if length & 1:
            factor = _times(square, factor)
        square = _times(square, square)
        length >>= 1
    return factor


def crc32_joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of two strings of bytes, one behind the other.

    :param first: the CRC-32 of the first.
    :param second: of the second, which is ``length`` bytes long.
    """
    return _times(_shift(length), first) ^ second
