"""Where cement grows: a leak takes much of the flow to one small place, good cement grows all around.

The shadow of the ala hides most of what lies just before or behind it, so that a leak beside the cortex need not show
beyond the shadow in either view. But both views see the same spot grow. Where its two rays meet, it lies.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .background import Image

#: Growth over these times is looked at, snapshots are kept this far apart [s].
_WINDOWS_S, _SNAPSHOT_S = (2.0, 5.0, 10.0), 0.4
#: Side of the square in the patient that holds a focal growth [mm].
_FOCUS_MM = 7.0
#: Less growth than this tells nothing [mL]; and the share of all growth that makes a spot focal.
_LEAST_GROWTH_ML, _FOCAL_SHARE = 0.03, 0.3
#: The two views must see about as much of it, and their rays must meet this nearly [mm].
_LARGEST_RATIO, _LARGEST_GAP_MM = 2.0, 2.5


@dataclass(frozen=True)
class Spot:
    """A place where much of the cement of the last seconds went.

    Attributes:
        position_ras: (3,) mm, where the rays of two views meet.
        volume_ml: that went there, the mean of both views.
        share: of all growth, the lower of both views.
    """

    position_ras: FloatArray
    volume_ml: float
    share: float


@dataclass
class _Snapshots:
    times_s: deque[float] = field(default_factory=deque)
    paths: deque[Image] = field(default_factory=deque)

    def keep(self, time_s: float, path: Image) -> None:
        if self.times_s and time_s - self.times_s[-1] < _SNAPSHOT_S:
            return
        self.times_s.append(time_s)
        self.paths.append(path)
        while time_s - self.times_s[0] > _WINDOWS_S[-1] + 2 * _SNAPSHOT_S:
            self.times_s.popleft()
            self.paths.popleft()

    def before(self, time_s: float) -> Image | None:
        """The newest snapshot that is at least so old."""
        older = [path for when, path in zip(self.times_s, self.paths, strict=True) if when <= time_s]
        return older[-1] if older else None


class GrowthWatch:
    """Remembers what two views showed and finds spots that take much of the flow."""

    def __init__(self, geometries: dict[str, XrayGeometry], pixel_mm: dict[str, float]) -> None:
        """
        Args:
            geometries: of the images that will be handed in.
            pixel_mm: size of their pixels in the patient.
        """
        self._geometries = geometries
        self._pixel_mm = pixel_mm
        self._kept = {view: _Snapshots() for view in geometries}

    def update(self, paths: dict[str, Image], regions: dict[str, NDArray[np.bool_]], now_s: float) -> list[Spot]:
        """Take in the cement of all views and find spots.

        Args:
            paths: length of the beam's path in cement [mm], by view.
            regions: pixels with cement and their rim.
        """
        spots = []
        if len(paths) == 2:
            for window_s in _WINDOWS_S:
                spot = self._spot(paths, regions, now_s - window_s)
                if spot is not None:
                    spots.append(spot)
        for view, path in paths.items():
            self._kept[view].keep(now_s, path)
        return spots

    def _spot(self, paths: dict[str, Image], regions: dict[str, NDArray[np.bool_]], since_s: float) -> Spot | None:
        found = {}
        for view, path in paths.items():
            before = self._kept[view].before(since_s)
            if before is None:
                return None
            focus = self._focus(np.where(regions[view], path - before, 0.0), self._pixel_mm[view])
            if focus is None:
                return None
            found[view] = focus
        (one, first), (other, second) = found.items()
        if not 1 / _LARGEST_RATIO <= first[1] / second[1] <= _LARGEST_RATIO:
            return None
        position, gap = meeting_point(self._geometries[one], first[0], self._geometries[other], second[0])
        if gap > _LARGEST_GAP_MM:
            return None
        return Spot(position, (first[1] + second[1]) / 2, min(first[2], second[2]))

    @staticmethod
    def _focus(growth: Image, pixel_mm: float) -> tuple[FloatArray, float, float] | None:
        """The pixel (u, v) around which growth is focal, its volume, and its share; None when it is spread out."""
        from scipy.ndimage import uniform_filter

        to_ml = pixel_mm**2 / 1000
        total_ml = float(growth.sum()) * to_ml
        if total_ml < _LEAST_GROWTH_ML:
            return None
        side = max(3, round(_FOCUS_MM / pixel_mm) // 2 * 2 + 1)
        within = uniform_filter(growth, side, mode="constant") * side**2
        row, column = np.unravel_index(int(np.argmax(within)), within.shape)
        volume_ml = float(within[row, column]) * to_ml
        if volume_ml < _FOCAL_SHARE * total_ml:
            return None
        half = side // 2
        top, left = max(row - half, 0), max(column - half, 0)
        part = np.maximum(growth[top : row + half + 1, left : column + half + 1], 0.0)
        rows, columns = np.indices(part.shape)
        middle = np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum()
        return middle + np.array([left, top]), volume_ml, volume_ml / total_ml


def meeting_point(
    one: XrayGeometry, first_uv: FloatArray, other: XrayGeometry, second_uv: FloatArray
) -> tuple[FloatArray, float]:
    """The RAS point nearest to both pixels' rays, and how far these pass each other [mm]."""
    sources = np.stack([one.source_ras, other.source_ras])
    ends = np.stack([one.pixel_ras(first_uv), other.pixel_ras(second_uv)])
    ways = (ends - sources) / np.linalg.norm(ends - sources, axis=1)[:, None]
    # Least squares of a point's distances from two lines.
    across = np.eye(3) - ways[:, :, None] * ways[:, None, :]
    point = np.linalg.solve(across.sum(axis=0), (across @ sources[:, :, None]).sum(axis=0)[:, 0])
    distances = np.linalg.norm((across @ (point - sources)[:, :, None])[:, :, 0], axis=1)
    return point, float(distances.sum())
