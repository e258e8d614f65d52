"""The checksum of OpenIGTLink messages: CRC-64 of ECMA-182, quick enough in numpy for fluoroscopy.

Polynomial P = 0x42F0E1EBA9EA3693, most significant bit first, start and final value zero (OpenIGTLink protocol 3,
message header). The checksum of bytes is their polynomial times x^64 modulo P, so whatever is congruent to them modulo
P has the same checksum. Two means follow from that.

A short message: each byte's share of the checksum depends only on its value and its distance from the end, so one
look-up per byte in a table and one exclusive-or of them all gives the sum.

A long message is shortened first. Some distances d satisfy 1 = sum of x^(-8 d) modulo P: a byte may be taken out of the
message when it is added (exclusive or) at each of these distances further on. That moves a whole block at once, with
nothing but exclusive-or, until only the last few bytes are left.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x42F0E1EBA9EA3693
_MASK = (1 << 64) - 1
#: A message of this length or shorter is looked up byte by byte.
SHORT_BYTES = 1024
#: A long message is taken in pieces of this size, which stay in the cache of a core.
_PIECE_BYTES = 2**18
#: Distances as above, in ascending order, for ever shorter rests: few and far for speed, more and nearer for what is
#: left. Found by a search that meets in the middle: a table of sums of two to four powers, in which the sums of the
#: other powers are looked up. (Their number is odd, since x + 1 divides P.) The tests show that they are right.
_DISTANCES = (
    (35186, 40416, 65534, 100720, 105950),
    (2725, 3944, 4772, 5399, 7161, 7224, 7271),
    (253, 257, 299, 306, 377, 544, 692, 817, 866),
)


def crc64(*parts: bytes | bytearray | memoryview) -> int:
    """CRC-64 (ECMA-182) of the bytes of all parts, one after the other."""
    rest = np.empty(0, np.uint8)
    for part in parts:
        data = np.frombuffer(part, np.uint8)
        for start in range(0, len(data), _PIECE_BYTES):
            rest = _shortened(np.concatenate((rest, data[start : start + _PIECE_BYTES])), _DISTANCES[0])
    if len(rest) > SHORT_BYTES:
        for distances in _DISTANCES[1:]:
            rest = _shortened(rest, distances)
    return int(np.bitwise_xor.reduce(_shares().take(rest + _rows()[len(_rows()) - len(rest) :])))


def crc64_of_parts(data: NDArray[np.uint8], bounds: list[int]) -> list[int]:
    """CRC-64 of several parts of one buffer, for many small messages at once.

    Args:
        bounds: start and end of each part in ascending order: start 0, end 0, start 1, end 1 ... No part may be empty,
            and neither a part nor the gap between two may be longer than `SHORT_BYTES`.
    """
    edges = np.array(bounds)
    first, last = bounds[0], bounds[-1]
    # The gaps are looked up as well, which costs less than leaving them out.
    from_end = np.repeat(edges[1:], edges[1:] - edges[:-1]) - np.arange(first + 1, last + 1)
    shares = _shares().take(from_end * 256 + data[first:last])
    sums: list[int] = np.bitwise_xor.reduceat(shares, edges[:-1] - first)[::2].tolist()
    return sums


def _shortened(data: NDArray[np.uint8], distances: tuple[int, ...]) -> NDArray[np.uint8]:
    """The last bytes of a message, changed in place so that they have the checksum of the whole."""
    nearest, farthest = distances[0], distances[-1]
    start = 0
    while (left := len(data) - farthest - start) > 0:
        length = min(nearest, left)
        block = data[start : start + length]
        for distance in distances:
            target = data[start + distance : start + distance + length]
            np.bitwise_xor(target, block, out=target)
        start += length
    return data[start:]


@cache
def _rows() -> NDArray[np.intp]:
    """Where the row of `_shares` begins for each byte of a message of `SHORT_BYTES`."""
    return np.arange(SHORT_BYTES - 1, -1, -1) * 256


@cache
def _shares() -> NDArray[np.uint64]:
    """The checksum of each byte value followed by 0, 1, 2 ... zeros, 256 for each count of zeros."""
    ones = np.zeros(256, np.uint64)
    power = _POLYNOMIAL  # x^64 modulo P.
    for bit in range(8):
        ones[1 << bit : 2 << bit] = ones[: 1 << bit] ^ np.uint64(power)
        power = ((power << 1) & _MASK) ^ (_POLYNOMIAL if power >> 63 else 0)
    shares = np.zeros((SHORT_BYTES, 256), np.uint64)
    shares[0] = ones
    for zeros in range(1, SHORT_BYTES):
        before = shares[zeros - 1]
        shares[zeros] = (before << np.uint64(8)) ^ ones[before >> np.uint64(56)]
    return shares.ravel()
