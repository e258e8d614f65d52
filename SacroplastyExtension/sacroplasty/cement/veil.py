"""Scatter and glare that lie over a picture like a veil and make cement look thinner than it is.

Where the beam is weak most of the signal may be scatter: cement then darkens the picture by much less than it
attenuates the beam. Over the ala the veil is nearly even and does not change, so one number describes it: the signal
that would be left behind an opaque thing. It is found from cement whose volume the pump tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .background import Image

#: More than this share of a pixel's signal cannot be told from no beam at all.
_LARGEST_SHARE = 0.95
#: So many veils are tried, and as many again beside the best.
_TRIED = 20
#: How far from one the scale usually lies (the logarithm's standard deviation: other cements, beams and curves of
#: greys), and how well a frame's sum is known.
_SCALE_SD, _SUM_SD = 0.4, 0.06


def veil_share(log_signal: Image, veil: float) -> Image:
    """Which share (rows, columns) of a signal is veil."""
    share: Image = np.minimum(veil * np.exp(-log_signal), _LARGEST_SHARE).astype(np.float32)
    return share


def unveiled(attenuation: NDArray, share: NDArray | float) -> NDArray:
    """Attenuation of the beam from that of a signal of which a share is veil."""
    return -np.log(np.maximum(np.exp(-attenuation) - share, 0.02 * (1 - share)) / (1 - share))


@dataclass(frozen=True)
class Sample:
    """Cement of one frame whose volume the pump tells: attenuations and logarithms of the signal before (n,), and the
    expected sum of the beam's attenuation."""

    attenuation: NDArray
    log_signal: NDArray
    expected_sum: float


def most_of(sample: Sample) -> float:
    """The largest sum of the beam's attenuation that any veil makes of a sample."""
    largest = _largest_veil(sample.attenuation, sample.log_signal)
    return float(unveiled(sample.attenuation, veil_share(sample.log_signal, largest)).sum())


def find_scale_and_veil(samples: Sequence[Sample]) -> tuple[float, float]:
    """Scale of the cement's attenuation, and the veil.

    Thin cement tells only their product. As it grows thicker a veil hides more and more of it, while another cement,
    another beam or a curve of greys hides the same share; so the samples have to differ in volume.
    """
    attenuation = np.concatenate([one.attenuation for one in samples])
    log_signal = np.concatenate([one.log_signal for one in samples])
    expected = np.array([one.expected_sum for one in samples])
    starts = np.cumsum([0, *(len(one.attenuation) for one in samples[:-1])])

    def judged(veil: float) -> tuple[float, float, float]:
        """How badly a veil fits, the scale that goes with it, and the veil."""
        beam = np.maximum(np.add.reduceat(unveiled(attenuation, veil_share(log_signal, veil)), starts), 1e-6)
        scale = float(expected.sum() / beam.sum())
        misfit = float(((np.log(scale * beam / expected) / _SUM_SD) ** 2).sum())
        return misfit + (np.log(scale) / _SCALE_SD) ** 2, scale, veil

    largest = _largest_veil(attenuation, log_signal)
    step = largest / _TRIED
    best = min(judged(float(veil)) for veil in step * np.arange(_TRIED + 1))
    around = best[2] + step * np.linspace(-1, 1, _TRIED + 1)
    _, scale, veil = min(best, *(judged(float(veil)) for veil in np.clip(around, 0, largest)))
    return scale, veil


def _largest_veil(attenuation: NDArray, log_signal: NDArray) -> float:
    """As much as the darkest pixels allow."""
    return _LARGEST_SHARE * float(np.exp(np.percentile(log_signal - attenuation, 5)))
