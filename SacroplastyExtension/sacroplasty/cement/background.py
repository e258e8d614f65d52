"""A view before the injection: what is to be compared with, how noisy it is, and where it can be relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .cannula import Cannula
from .detector import Detector
from .frames import binned_geometry, binning_of
from .pieces import large_pieces, widened

Image = NDArray[np.float32]

#: Side of the square over which counts are averaged [pixels].
SMOOTHING = 3

#: What changes over so many pixels is slow.
_SLOW_PIXELS = 21

#: Noise is told for this many levels of signal, each a share of the pixels.
_LEVELS = 24
#: Beyond this factor a variance over few frames is no chance.
_UNSTEADY = 4.0
#: Pieces of so many pixels that change by this factor beyond noise have moved.
_MOVED_PIXELS, _MOVED = 6, 25.0
#: Noisier than this (standard deviation of the logarithm) a pixel cannot show 2 mm of cement: too few quanta.
_NOISIEST = 0.25
#: What is left of a shift after compensation, as part of a pixel.
_RESIDUAL_SHIFT_PIXELS = 0.05
#: What second derivatives leave of a shift of up to half a pixel, and of blur by movement, as a share of them.
_RESIDUAL_BEND = 0.1
#: An edge is steeper than so many deviations of a pixel's noise: noise alone reaches a third in a mean of eight frames.
_EDGE = 2.0
#: Tools may move by so many pixels. A pixel can take any value that lies so near; with a deviation of this share of
#: that range, five of which are the threshold of detection, it never looks like cement by that alone.
_TOOL_PIXELS, _TOOL_SHARE = 1, 0.25
#: Its shadow is at most twice as wide [pixels].
_TOOL_HALF_PIXELS = 4
#: Pixels beside saturated ones that are not relied on.
_BESIDE_SATURATED_PIXELS = 6
#: So near to the field's border what changes need not be an instrument [pixels].
_BESIDE_BORDER_PIXELS = 6
#: Cement that leaves the tip is looked for so far around it in the picture [mm in the patient].
_WATCHED_MM = 80.0
#: With less of the image than this to look at there is nothing to be watched.
_LEAST_USABLE = 0.1


@dataclass(frozen=True)
class Shiftable:
    """An image with its first and second derivatives per pixel, to be shifted by up to half a pixel.

    Attributes:
        values: (rows, columns).
        gradient: along rows and columns.
        curvature: along rows, rows and columns, and columns.
    """

    values: Image
    gradient: tuple[Image, Image]
    curvature: tuple[Image, Image, Image]

    @staticmethod
    def of(values: Image) -> Shiftable:
        """The image with its derivatives."""
        rows, columns = np.gradient(values, axis=0), np.gradient(values, axis=1)
        mixed = np.gradient(rows, axis=1)
        return Shiftable(values, (rows, columns), (np.gradient(rows, axis=0), mixed, np.gradient(columns, axis=1)))

    def at(self, part: tuple[Image, Image], values: Image | None = None) -> Image:
        """The image shifted by (rows, columns), everywhere or pixel by pixel; `values` instead of its own have nearly
        its derivatives."""
        a, b = -part[0], -part[1]
        rr, rc, cc = self.curvature
        shifted: Image = (self.values if values is None else values) + a * self.gradient[0] + b * self.gradient[1]
        shifted += (a * a / 2) * rr + (a * b) * rc + (b * b / 2) * cc
        return shifted


@dataclass(frozen=True)
class Background:
    """A view before the injection, on binned pixels.

    Attributes:
        geometry, full_geometry: of the binned and of the detector's own pixels.
        binning: detector pixels per image pixel, each way.
        detector: what stands still in frames as they were taken.
        log_signal: (rows, columns) logarithm of the mean signal, smoothed over 3 x 3 pixels.
        log_detail: what is fine in it (see `detail`).
        edges: pixels where the detail is steep beyond noise, which tell a shift.
        median_log: of the usable part of `log_signal`.
        log_sharp: likewise, not smoothed, without the bias that noise gives a logarithm.
        sigma: standard deviation of the logarithm of a later smoothed frame against `log_signal`.
        sharp_variance: of the logarithm of a later frame that is not smoothed.
        usable: where a pixel lies in the field, works, is neither saturated nor too dark.
        watched: where cement is looked for, around the tip if that is known.
        tools: where the cannula may stand.
        white: signal at which the detector saturates; infinite when none was seen.
        least_signal: keeps logarithms finite.
        moved_share: of what is watched and usable, how much changed beyond noise while the frames were taken.
    """

    geometry: XrayGeometry
    full_geometry: XrayGeometry
    binning: int
    detector: Detector
    log_signal: Shiftable
    log_detail: Shiftable
    edges: NDArray[np.bool_]
    median_log: float
    log_sharp: Image
    sigma: Image
    sharp_variance: Image
    usable: NDArray[np.bool_]
    watched: NDArray[np.bool_]
    tools: NDArray[np.bool_]
    white: float
    least_signal: float
    moved_share: float

    def bridged(self, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A region (rows, columns) with what lies within it in the cannula's shadow, where cement does not stand out of
        the noise but is there."""
        if not self.tools.any():
            return region
        padded = np.pad(region, _TOOL_HALF_PIXELS)
        closed = ~widened(~widened(padded, _TOOL_HALF_PIXELS), _TOOL_HALF_PIXELS)
        return region | (
            closed[_TOOL_HALF_PIXELS:-_TOOL_HALF_PIXELS, _TOOL_HALF_PIXELS:-_TOOL_HALF_PIXELS] & self.tools
        )


def background_of(
    stack: Sequence[Image],
    geometry: XrayGeometry,
    white: float,
    detector: Detector,
    shown: NDArray[np.bool_],
    needed_ras: FloatArray | None = None,
    cannula: Cannula | None = None,
) -> Background:
    """The background of binned frames that show the patient in one place.

    Args:
        white: signal at which the detector saturates.
        detector: that took them.
        shown: pixels (rows, columns) that all of these frames show.
        needed_ras: (n, 3) places that have to be seen.
        cannula: that may tremble.

    Raises:
        ImageError: for black, saturated or too noisy frames.
    """
    from scipy.ndimage import maximum_filter

    binning = binning_of(geometry)
    mean = np.mean(stack, axis=0)
    # What was saturated a moment ago, or is text that is burned in, is unknown when it moves in.
    saturated = maximum_filter(np.max(stack, axis=0) >= 0.98 * white, 2 * _BESIDE_SATURATED_PIXELS + 1)
    lit = shown & ~saturated & (mean > 0)
    if np.count_nonzero(lit) < _LEAST_USABLE * lit.size:
        raise ImageError("the reference frames are black or saturated; correct the exposure first")

    least = 1e-4 * float(np.median(mean[lit]))
    log_signal = np.log(np.maximum(smoothed(mean), least))
    variance = _variance([np.log(np.maximum(smoothed(one), least)) for one in stack], log_signal, lit)
    raw_log = np.log(np.maximum(mean, least))
    raw_variance = _variance([np.log(np.maximum(one, least)) for one in stack], raw_log, lit)
    level = _by_level(variance, log_signal, lit, len(stack))
    sharp_level = _by_level(raw_variance, log_signal, lit, len(stack))
    tools = np.zeros(lit.shape, bool) if cannula is None else cannula.shadow(binned_geometry(geometry, binning))
    shiftable, detailed = Shiftable.of(log_signal), Shiftable.of(detail(log_signal))
    steep = np.hypot(*shiftable.gradient)
    bend = np.abs(shiftable.curvature[0]) + np.abs(shiftable.curvature[2])
    residual = (_RESIDUAL_SHIFT_PIXELS * steep) ** 2 + (_RESIDUAL_BEND * bend) ** 2
    residual[tools] += (_TOOL_SHARE * _range_near(log_signal)[tools]) ** 2
    count = len(stack)
    # Blades and circle do not move with the patient, tools not quite. The slow part of the picture spreads them, and
    # its own border, further than they can be seen.
    still = widened(~shown | saturated | tools, _SLOW_PIXELS // 2)
    still |= ~np.pad(np.ones([size - _SLOW_PIXELS + 1 for size in lit.shape], bool), _SLOW_PIXELS // 2)
    watched = np.ones(lit.shape, bool)
    if needed_ras is not None:
        watched = _around(needed_ras.mean(axis=0), binned_geometry(geometry, binning))
    # A pixel that flickers, or an edge that moves by more than a shift, is noisier than its brightness tells.
    expected = level + residual
    unsteady = np.where((variance > _UNSTEADY * expected) & ~tools, variance, 0.0)
    usable = lit & (level < _NOISIEST**2)
    if np.count_nonzero(usable & watched) < _LEAST_USABLE * np.count_nonzero(watched):
        raise ImageError("the reference frames are too noisy to show cement; raise the dose")
    # Blades and circles may be softer than they look.
    beside = tools | widened(~shown, _BESIDE_BORDER_PIXELS)
    moved = large_pieces(usable & watched & ~beside & (variance > _MOVED * expected), _MOVED_PIXELS)
    return Background(
        geometry=binned_geometry(geometry, binning),
        full_geometry=geometry,
        binning=binning,
        detector=detector,
        log_signal=shiftable,
        log_detail=detailed,
        edges=(np.hypot(*detailed.gradient) > _EDGE * np.sqrt(level)) & ~still,
        median_log=float(np.median(log_signal[usable])),
        log_sharp=(raw_log + sharp_level / (2 * count)).astype(np.float32),
        sigma=np.sqrt(level * (1 + 1 / count) + residual + unsteady + 1e-8).astype(np.float32),
        sharp_variance=sharp_level,
        usable=usable,
        watched=watched,
        tools=tools,
        white=white,
        least_signal=least,
        moved_share=np.count_nonzero(moved) / np.count_nonzero(usable & watched),
    )


def _around(point_ras: FloatArray, geometry: XrayGeometry) -> NDArray[np.bool_]:
    """Pixels (rows, columns) within reach of a point."""
    columns, rows = geometry.detector_pixels
    magnification = geometry.source_in_detector_mm[2] / (
        geometry.source_in_detector_mm[2] - (geometry.RASToDetector @ [*point_ras, 1.0])[2]
    )
    u, v = geometry.project(point_ras)
    across = (np.arange(columns) - u) * geometry.pixel_spacing_mm[0]
    down = (np.arange(rows) - v) * geometry.pixel_spacing_mm[1]
    return np.asarray(np.hypot(across[None, :], down[:, None]) <= _WATCHED_MM * magnification)


def smoothed(signal: Image) -> Image:
    """Means over 3 x 3 pixels."""
    from scipy.ndimage import uniform_filter

    result: Image = uniform_filter(signal, SMOOTHING, mode="nearest")
    return result


def detail(log_signal: Image) -> Image:
    """A logarithm of signal less its slow part, such as scatter and the shape of the body."""
    from scipy.ndimage import uniform_filter

    result: Image = log_signal - uniform_filter(log_signal, _SLOW_PIXELS, mode="nearest")
    return result


def _range_near(log_signal: Image) -> Image:
    """The range of values within reach of a tool's movement."""
    from scipy.ndimage import maximum_filter, minimum_filter

    side = 2 * _TOOL_PIXELS + 1
    found: Image = maximum_filter(log_signal, side) - minimum_filter(log_signal, side)
    return found


def _variance(logs: Sequence[Image], mean: Image, lit: NDArray[np.bool_]) -> Image:
    """Variance of each pixel over the frames, flicker of the whole picture apart."""
    total = np.zeros(mean.shape, np.float32)
    for log in logs:
        residual = log - mean
        total += (residual - np.median(residual[lit])) ** 2
    return total / np.float32(len(logs) - 1)


def _by_level(variance: Image, log_signal: Image, lit: NDArray[np.bool_], frames: int) -> Image:
    """The variance that pixels of a brightness have, which is better known than that of each."""
    values, variances = log_signal[lit], variance[lit]
    order = np.argsort(values)
    groups = np.array_split(order, min(_LEVELS, len(order)))
    middle = np.array([values[group].mean() for group in groups])
    # A median, which an instrument that moved does not pull. That of a variance of few frames lies below its mean.
    below = (1 - 2 / (9 * (frames - 1))) ** 3
    typical = np.array([np.median(variances[group]) for group in groups]) / below
    # Variances span decades, and brightness is a logarithm already. Darker than seen is noisier still.
    darker = -np.minimum(log_signal - middle[0], 0.0)
    return np.exp(np.interp(log_signal, middle, np.log(np.maximum(typical, 1e-10))) + darker).astype(np.float32)
