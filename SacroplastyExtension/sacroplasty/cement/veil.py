"""Scatter and glare that lie over a picture like a veil and make cement look thinner than it is.

Where the beam is weak most of the signal may be scatter: cement then darkens the picture by much less than it
attenuates the beam. Over the ala the veil is nearly even and does not change, so one number describes it: the signal
that would be left behind an opaque thing. It is found from cement whose volume the pump tells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .background import Image

#: More than this share of a pixel's signal cannot be told from no beam at all.
_LARGEST_SHARE = 0.95
#: Halvings of the interval in which the veil lies.
_ROUNDS = 18


def veil_share(log_signal: Image, veil: float) -> Image:
    """Which share (rows, columns) of a signal is veil."""
    share: Image = np.minimum(veil * np.exp(-log_signal), _LARGEST_SHARE).astype(np.float32)
    return share


def unveiled(attenuation: NDArray, share: NDArray | float) -> NDArray:
    """Attenuation of the beam from that of a signal of which a share is veil."""
    return -np.log(np.maximum(np.exp(-attenuation) - share, 0.02 * (1 - share)) / (1 - share))


def find_veil(attenuation: NDArray, log_signal: NDArray, expected_sum: float) -> float:
    """The veil with which attenuations of cement pixels (n,) sum up to what the pump's volume gives.

    Args:
        log_signal: (n,) of the same pixels before the injection.
        expected_sum: of the beam's attenuation over these pixels.

    Returns:
        0 where the picture shows more than expected, and at most as much as the darkest pixels allow.
    """
    low, high = 0.0, _LARGEST_SHARE * float(np.exp(np.percentile(log_signal - attenuation, 5)))
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        share = np.minimum(middle * np.exp(-log_signal), _LARGEST_SHARE)
        if float(unveiled(attenuation, share).sum()) < expected_sum:
            low = middle
        else:
            high = middle
    return low
