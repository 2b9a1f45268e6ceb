"""CRC-32 of concatenated parts, computed from the CRC-32 of each part in any order.

A CRC is the remainder of a polynomial division over GF(2). Appending n bytes multiplies the previous polynomial by
x^(8n). The remainder of that power is computed by squaring, so the cost grows with log(n), as in zlib.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["crc32_joined"]

_POLYNOMIAL = 0xEDB88320  # IEEE 802.3, the lowest power in the highest bit
_ONE = 1 << 31
_X_TO_THE_8 = 1 << 23


def _times(left: int, right: int) -> int:
    """Return the product of two polynomials, modulo the CRC polynomial."""
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
    """Return x^(8 * length), modulo the CRC polynomial."""
    factor, square = _ONE, _X_TO_THE_8
    while length:
        if length & 1:
            factor = _times(square, factor)
        square = _times(square, square)
        length >>= 1
    return factor


def crc32_joined(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two concatenated byte strings.

    :param first: CRC-32 of the first string.
    :param second: CRC-32 of the second string, which is ``length`` bytes long.
    """
    return _times(_shift(length), first) ^ second
