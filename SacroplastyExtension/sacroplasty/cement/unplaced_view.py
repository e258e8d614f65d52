"""A view of a C-arm whose pose is not known: what the picture alone tells of the cement, and what it does not.

A person marks the cannula's tip in the picture; the cannula's known diameter, or the C-arm's own figures, give the
size of a pixel. Then there is a volume, a shape and a reach, but no place in the patient: no route, no distance from a
nerve, no judgement of leaks. Cement that runs off in a streak, or lies apart from the rest, is told as a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ImageError
from ..geometry import rigid
from ..xray.geometry import XrayGeometry
from .cement_map import CementMap
from .leaks import VEIN, is_streak
from .pieces import widened

#: A picture whose scale is not known is taken for so wide in the patient, for thresholds alone [mm].
_USUAL_FIELD_MM = 160.0
#: A source so far away magnifies nothing [mm].
_FAR_MM = 1e6
#: Cement apart from the rest by this much, in a piece so large, is told [mm, mm2].
_APART_MM, _PIECE_MM2 = 2.0, 6.0
#: The cannula's profile is taken so far to both sides, as a share of the marked length, and in steps of [pixels].
_BESIDE_SHARE, _PROFILE_STEP = 0.4, 0.25
#: The profile is smoothed by this much before its slope is taken [pixels].
_SMOOTHING_PIXELS = 0.6
#: A cannula stands out of its profile's noise by this factor.
_LEAST_DEPTH = 6.0


@dataclass(frozen=True)
class PictureMarks:
    """What is known of a picture without geometry. None is not known.

    Attributes:
        tip_uv: column and row of the cannula's tip, as a person marked it.
        pixel_mm: size of a pixel in the patient, in the plane of the tip.
    """

    tip_uv: tuple[float, float] | None = None
    pixel_mm: float | None = None

    def check(self, shape: tuple[int, ...]) -> PictureMarks:
        """These marks, if a picture of (rows, columns) can have them.

        Raises:
            ImageError: for a tip outside the picture, or a pixel size that is none.
        """
        rows, columns = shape[:2]
        if self.tip_uv is not None and not (0 <= self.tip_uv[0] < columns and 0 <= self.tip_uv[1] < rows):
            raise ImageError(f"the tip at {self.tip_uv} lies outside the picture of {columns} x {rows} pixels")
        if self.pixel_mm is not None and not 0.01 <= self.pixel_mm <= 5.0:
            raise ImageError(f"a pixel of {self.pixel_mm} mm in the patient cannot be; give 0.01 to 5 mm")
        return self


@dataclass(frozen=True)
class CannulaMarks:
    """Where a person sees the cannula in a picture without geometry: column and row.

    Attributes:
        tip_uv: of its tip.
        shaft_uv: of a point far up its axis; None for no scale.
    """

    tip_uv: tuple[float, float]
    shaft_uv: tuple[float, float] | None = None

    def measured(self, frames: Sequence[NDArray], outer_diameter_mm: float) -> PictureMarks:
        """What they tell of the picture, its scale by the cannula's diameter.

        Args:
            frames: as for `pixel_mm_of_cannula`.

        Raises:
            ImageError: as `pixel_mm_of_cannula`.
        """
        if self.shaft_uv is None:
            return PictureMarks(self.tip_uv)
        pixel_mm = pixel_mm_of_cannula(frames, self.tip_uv, self.shaft_uv, outer_diameter_mm)
        return PictureMarks(self.tip_uv, pixel_mm)


def stand_in_geometry(shape: tuple[int, ...], marks: PictureMarks) -> XrayGeometry:
    """A detector in the plane of the tip, at the origin of a space of its own, which measures but places nothing.

    Raises:
        ImageError: for marks that this picture cannot have.
    """
    rows, columns = shape[:2]
    marks.check(shape)
    pixel_mm = marks.pixel_mm or _USUAL_FIELD_MM / max(columns, rows)
    tip = np.array(marks.tip_uv if marks.tip_uv is not None else ((columns - 1) / 2, (rows - 1) / 2))
    across, down = tip * pixel_mm
    return XrayGeometry(
        source_to_detector_mm=_FAR_MM,
        detector_pixels=(columns, rows),
        pixel_spacing_mm=(pixel_mm, pixel_mm),
        RASToDetector=rigid(np.eye(3), [across, down, 0.0]),
        source_in_detector_mm=(float(across), float(down), _FAR_MM),
    )


def pixel_mm_of_cannula(
    frames: Sequence[NDArray], tip_uv: ArrayLike, shaft_uv: ArrayLike, outer_diameter_mm: float
) -> float:
    """Size of a pixel in the patient, from a cannula of known diameter in the picture, its stylet drawn.

    Within 6 % where the cannula is 4 pixels wide or more. A filled one has softer rims and seems up to a third thinner.

    Args:
        frames: (rows, columns) each, larger values brighter, of one moment.
        tip_uv, shaft_uv: column and row of the tip and of another point on the shaft's axis.

    Raises:
        ImageError: when the marks are too close, or nothing dark as a cannula runs between them.
    """
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    tip, way = np.asarray(tip_uv, float), np.subtract(shaft_uv, tip_uv)
    length = float(np.linalg.norm(way))
    if not length >= 20:
        raise ImageError("the two marks on the cannula are too close; mark the tip and a point far up the shaft")
    along = way / length
    across = np.array([-along[1], along[0]])
    beside = np.arange(-_BESIDE_SHARE * length, _BESIDE_SHARE * length, _PROFILE_STEP)
    # Neither the tip's bevel nor the cement around it.
    places = np.linspace(0.2, 0.95, 4 * int(length))
    at = tip + places[:, None, None] * way + beside[None, :, None] * across
    mean = np.mean([np.asarray(frame, float) for frame in frames], axis=0)
    logs = np.log(np.maximum(mean, 1e-4 * max(float(mean.max()), 1e-9)))
    lines = map_coordinates(logs, [at[..., 1], at[..., 0]], order=1, mode="nearest")
    # The anatomy beside it changes along the shaft, and slowly across it.
    lines -= np.median(lines, axis=1, keepdims=True)
    profile = np.median(lines, axis=0)
    near = np.abs(beside) < _BESIDE_SHARE * length / 3
    profile -= np.interp(beside, *_slope(beside[~near], profile[~near]))
    lowest = int(np.argmin(np.where(near, profile, np.inf)))
    depth = -float(profile[lowest])
    if not depth > _LEAST_DEPTH * float(np.std(profile[~near])):
        raise ImageError("no cannula is to be seen between the two marks; mark its tip and a point far up the shaft")
    # A tube is steepest at its rims, sharp or blurred.
    slope = gaussian_filter1d(profile, _SMOOTHING_PIXELS / _PROFILE_STEP, order=1)
    left = int(np.argmin(np.where(near & (np.arange(len(slope)) <= lowest), slope, np.inf)))
    right = int(np.argmax(np.where(near & (np.arange(len(slope)) >= lowest), slope, -np.inf)))
    return outer_diameter_mm / (_peak(slope, right) - _peak(-slope, left)) / _PROFILE_STEP


def stray_cement(seen: CementMap, tip_uv: ArrayLike, pixel_mm: float) -> list[str]:
    """What lies apart from the cement at the tip, or runs off in a streak: `venous` or `unknown`, each once.

    Args:
        tip_uv: column and row in the pixels of `seen`.
        pixel_mm: size of one of these.
    """
    from scipy.ndimage import label

    joined, count = label(widened(seen.core, max(1, round(_APART_MM / pixel_mm / 2))), structure=np.ones((3, 3)))
    if count == 0:
        return []
    rows, columns = np.nonzero(joined)
    nearest = np.argmin(np.hypot(columns - np.asarray(tip_uv)[0], rows - np.asarray(tip_uv)[1]))
    depot = joined[rows[nearest], columns[nearest]]
    stray = []
    for number in range(1, count + 1):
        piece = seen.core & (joined == number)
        if is_streak(piece, pixel_mm):
            stray.append(VEIN)
        elif number != depot and np.count_nonzero(piece) * pixel_mm**2 >= _PIECE_MM2:
            stray.append("unknown")
    return sorted(set(stray))


def _peak(values: NDArray, at: int) -> float:
    """Where a peak lies between samples, by the parabola through its highest one and both neighbours."""
    before, here, after = values[at - 1 : at + 2]
    return at + 0.5 * float(before - after) / min(float(before - 2 * here + after), -1e-12)


def _slope(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Ends of the straight line through points, as `np.interp` takes them."""
    coefficients = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    return ends, np.polyval(coefficients, ends)
