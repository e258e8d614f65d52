"""What a view shows now that it did not show a few seconds ago, in bins of pixels, and how well that is known.

What a bone's edge shows beside cement changes as the patient breathes. So a bin is compared with what it showed over a
whole breath, as a linear function of the movement that was taken out of the picture; what that function leaves is its
noise. All frames are kept as the picture showed them, and seen through what is known of scatter now: that is learned
while cement flows, and would else look like growth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .background import SMOOTHING, Image
from .rays import Rays
from .veil import unveiled

#: A breath [s], and how many frames of it are needed. Pictures tell nothing of the time between them: where they come
#: more slowly than that, or not at all for a while, it counts as so much.
BREATH_S, _LEAST_FRAMES = 4.0, 8
_LONGEST_STEP_S = BREATH_S / _LEAST_FRAMES
#: Times that differ by less are the same.
_SAME_S = 1e-6
#: A bin changes with time and movement only as far as the breath tells so: weights against it, by the second and by the
#: pixel of a shift in rows and columns.
_SLOPE_PRIOR = (1e-6, 0.1, 0.1)
#: So much of a breath has to be known.
_KNOWN_BREATH = 0.9
#: Its present state is taken over so many frames.
_RECENT = 2
#: Noise of a bin beyond that of its frames: share of the cement's path there, since edges blur.
_PATH_SD = 0.03
#: A bin is known when this share of its pixels is; none is better known than this [mm6].
_KNOWN_SHARE, _LEAST_VARIANCE = 0.99, 1e-6


@dataclass(frozen=True)
class ViewCement:
    """Cement in a frame of a view.

    Attributes:
        attenuation, sigma: (rows, columns) as the picture shows it, and its standard deviation; infinite where nothing
            is known.
        scatter_share: of each pixel's signal (rows, columns) or of all, as far as known.
        gain: attenuation of the cement over what the greys show of it beside scatter.
        shift_pixels: movement (rows, columns) that was taken out of the picture.
    """

    attenuation: Image
    sigma: Image
    scatter_share: NDArray | float
    gain: float
    shift_pixels: FloatArray


class Change(NamedTuple):
    """Of the bins (flat) of a view.

    Attributes:
        grown: (bins,) cement that came to each [mm3 on the detector].
        weight: (bins,) reciprocal standard deviation of that, 0 where nothing is known.
        unrest: (frames, bins) what the breath before showed by turns without growing, which bins may do together.
    """

    grown: FloatArray
    weight: FloatArray
    unrest: FloatArray


class ViewHistory:
    """The last seconds of a view, from its reference on.

    Args:
        rays: that tell which pixels a bin has.
        kept_s: how long a window may be.
    """

    def __init__(self, rays: Rays, cement_per_mm: float, kept_s: float) -> None:
        self._rays = rays
        self._kept_s = kept_s + BREATH_S
        self._path_mass = rays.mass(np.ones(rays.pixels, np.float32)).ravel()
        self._per_mm = cement_per_mm
        self._frames: list[tuple[float, Image, FloatArray]] = []
        self._watched_s, self._taken_s = 0.0, 0.0
        self._to_mass: NDArray = np.zeros(0)
        self._share: NDArray = np.zeros(0)
        self._pixel_variance: NDArray = np.zeros(0)

    def keep(self, time_s: float, shown: ViewCement) -> None:
        """Take in a frame, and what is known of scatter by now."""
        known = np.isfinite(shown.sigma)
        attenuation = self._rays.mass(np.where(known, shown.attenuation, 0.0)).ravel() / self._path_mass
        if self._frames:
            self._watched_s += min(max(time_s - self._taken_s, 0.0), _LONGEST_STEP_S)
        self._taken_s = time_s
        self._frames.append((self._watched_s, attenuation, shown.shift_pixels))
        while self._frames[0][0] < self._watched_s - self._kept_s - _SAME_S:
            self._frames.pop(0)
        self._share = self._rays.share(np.broadcast_to(shown.scatter_share, self._rays.pixels)).ravel()
        self._to_mass = shown.gain / self._per_mm * self._path_mass
        # Each sigma is that of a mean over neighbors.
        variance = self._rays.variance(np.where(known, SMOOTHING * shown.sigma, 0.0)).ravel()
        variance[self._rays.share(known).ravel() < _KNOWN_SHARE] = np.inf
        self._pixel_variance = variance * (shown.gain / self._per_mm / (1 - self._share)) ** 2

    def change(self, window_s: float) -> Change | None:
        """From the middle of a breath that ended before the window until the last frame; None when too little is known
        of it."""
        times = np.array([time_s for time_s, _, _ in self._frames])
        ended_s = self._watched_s - window_s
        # Slow pictures lie just a whole breath apart, and times are sums.
        breath = np.flatnonzero((times <= ended_s + _SAME_S) & (times >= ended_s - BREATH_S - _SAME_S))
        if len(breath) < _LEAST_FRAMES or ended_s - times[breath[0]] < _KNOWN_BREATH * BREATH_S:
            return None
        frames = [self._frames[number] for number in breath] + self._frames[-_RECENT:]
        masses = self._to_mass * unveiled(np.stack([attenuation for _, attenuation, _ in frames]), self._share)
        shifts = np.array([shift for _, _, shift in frames])
        count = len(breath)
        middle = shifts[:count].mean(axis=0)
        # Steady growth within the breath is no noise.
        system = np.column_stack([np.ones(count), times[breath] - times[breath].mean(), shifts[:count] - middle])
        normal = system.T @ system + np.diag([0.0, *_SLOPE_PRIOR])
        slopes = np.linalg.solve(normal, system.T @ masses[:count])
        left = masses[:count] - system @ slopes
        now = np.array([1.0, 0.0, *(shifts[count:].mean(axis=0) - middle)])
        present = masses[count:].mean(axis=0)
        one_frame = np.maximum((left**2).sum(axis=0) / (count - system.shape[1]), self._pixel_variance)
        times_as_large = 1 / (len(frames) - count) + float(now @ np.linalg.solve(normal, now))
        variance = one_frame * times_as_large + (_PATH_SD * present) ** 2 + _LEAST_VARIANCE
        unrest = np.mean([left[at : at + count - _RECENT + 1] for at in range(_RECENT)], axis=0)
        return Change(present - now @ slopes, 1 / np.sqrt(variance), unrest)
