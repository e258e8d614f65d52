"""Where the cement lies in three dimensions, from what one or two views show, the pump's volume and the bone.

Each voxel holds a share of cement. What the shares of all voxels on a pixel's rays add up to must be the path that the
picture shows there: multiplicative algebraic reconstruction (Gordon, Bender and Herman 1970) in the form of maximum
likelihood (Shepp and Vardi 1982), which keeps shares positive and leaves a voxel that no view speaks against where the
start had it. The start is what is known without a picture: cement fills the bone from the tip outwards, is rarely
beyond it, and is as much as the pump has given. One view says nothing of depth, so that there the start decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray
from ..image import Volume
from ..xray.geometry import XrayGeometry
from .grid import grid_points
from .spread import CANCELLOUS_POROSITY
from .zones import Zones

#: Rounds over all views; more follow the noise.
_ROUNDS = 8

#: Share of cement at the start beyond bone, against that in bone at the same distance.
_BEYOND_BONE = 0.05

#: A voxel counts as filled when it holds more than half of what bone leaves to cement.
FILLED_SHARE = CANCELLOUS_POROSITY / 2

#: The start's front is this wide [mm], and its lowest share, so that the pictures can put cement anywhere they see it.
_FRONT_MM, _LEAST_SHARE = 2.0, 1e-3

#: The pump's volume is taken for the cement's when the views show it to this share: their own error, and the line's.
_AGREEMENT = 0.15


@dataclass(frozen=True)
class Shadow:
    """Cement in one view.

    Attributes:
        path_mm: (rows, columns) length of the beam's path in cement; NaN where nothing can be told.
        shown: pixels that show cement, with their faint rim; elsewhere there is none.
        geometry: of these pixels.
    """

    path_mm: NDArray[np.floating]
    shown: NDArray[np.bool_]
    geometry: XrayGeometry


@dataclass(frozen=True)
class CementEstimate:
    """
    Attributes:
        occupancy: share of each voxel of the zones' grid that is cement (float32, 0 to 1).
        seen_ml: by the views alone, mean over them.
        views: how many there were.
    """

    occupancy: Volume
    seen_ml: float
    views: int

    @property
    def volume_ml(self) -> float:
        return float(self.occupancy.voxels.sum(dtype=float)) * self.occupancy.voxel_volume_ml

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Voxels that are filled for the most part."""
        return self.occupancy.voxels > FILLED_SHARE

    @property
    def center_ras(self) -> FloatArray | None:
        """Middle of the cement; None when there is none."""
        kji = np.argwhere(self.occupancy.voxels > 0)
        if not len(kji):
            return None
        weights = self.occupancy.voxels[tuple(kji.T)]
        return np.average(self.occupancy.ras_of(kji), axis=0, weights=weights)


class CementEstimator:
    """Estimates on one patient's zones. What depends on poses and bone alone is worked out once.

    Args:
        zones: grid and bone of the estimate.
        tip_ras: where cement leaves the cannula.
        geometries: of the shadows that will be handed in, by view.
    """

    def __init__(self, zones: Zones, tip_ras: ArrayLike, geometries: Mapping[str, XrayGeometry]) -> None:
        self._grid = zones.labels
        points = grid_points(zones.labels).reshape(-1, 3)
        bone = (zones.mask("planned") | zones.mask("bone")).ravel()
        self._from_tip = np.linalg.norm(points - np.asarray(tip_ras, float), axis=1)
        self._most = np.where(bone, CANCELLOUS_POROSITY, 1.0).astype(np.float32)
        self._likely = np.where(bone, CANCELLOUS_POROSITY, _BEYOND_BONE).astype(np.float32)
        self._reach_mm = np.sort(self._from_tip[bone])
        self._rays = {name: _Rays(points, geometry, zones.labels) for name, geometry in geometries.items()}

    @property
    def views(self) -> tuple[str, ...]:
        """Whose shadows can be handed in."""
        return tuple(self._rays)

    def estimate(self, shadows: Mapping[str, Shadow], pump_volume_ml: float = math.nan) -> CementEstimate:
        """The cement that one or more views show now.

        Args:
            shadows: of some or all of the views.
            pump_volume_ml: given; NaN when it is not known, and then the views alone say how much it is.

        Raises:
            ValueError: without any view.
        """
        if not shadows:
            raise ValueError("cement cannot be estimated without a view")
        seen = {name: self._rays[name].look(shadow) for name, shadow in shadows.items()}
        possible = np.ones(self._from_tip.shape, bool)
        for name, (_, shown) in seen.items():
            possible &= self._rays[name].at(shown)
        voxels = np.flatnonzero(possible)
        seen_ml = float(
            np.mean([self._rays[name].volume_ml(mass, shown, voxels) for name, (mass, shown) in seen.items()])
        )
        total_ml = pump_volume_ml if _agrees(seen_ml, pump_volume_ml) else seen_ml
        share = self._start(voxels, total_ml)
        most = self._most[voxels]
        systems = [(self._rays[name].system(voxels), *seen[name]) for name in seen]
        for _ in range(_ROUNDS if voxels.size else 0):
            for system, mass, shown in systems:
                share = np.minimum(share * _correction(system, mass, shown, share), most)
            share = self._filled_to(total_ml, share, most)
        occupancy = np.zeros(possible.shape, np.float32)
        occupancy[voxels] = share
        return CementEstimate(self._grid.like(occupancy.reshape(self._grid.voxels.shape)), seen_ml, len(shadows))

    def _filled_to(
        self, volume_ml: float, share: NDArray[np.float32], most: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Shares in proportion that add up to a volume; what a full voxel cannot take goes to the others."""
        for _ in range(4):
            present_ml = float(share.sum()) * self._grid.voxel_volume_ml
            share = np.minimum(share * np.float32(volume_ml / max(present_ml, 1e-9)), most)
        return share

    def _start(self, voxels: NDArray[np.intp], volume_ml: float) -> NDArray[np.float32]:
        """Shares before any picture: bone filled from the tip outwards, with a soft front."""
        count = volume_ml / (CANCELLOUS_POROSITY * self._grid.voxel_volume_ml)
        front_mm = self._reach_mm[min(int(count), len(self._reach_mm) - 1)]
        filled = 1 / (1 + np.exp(np.clip((self._from_tip[voxels] - front_mm) / _FRONT_MM, -30, 30)))
        return np.maximum(self._likely[voxels] * filled, _LEAST_SHARE).astype(np.float32)


class _Rays:
    """Voxels and pixels of one view. Pixels are put together to bins about as large as a voxel, which would else leave
    gaps between its neighbors' shadows."""

    def __init__(self, points: FloatArray, geometry: XrayGeometry, grid: Volume) -> None:
        columns, rows = geometry.detector_pixels
        spacing = np.array(geometry.pixel_spacing_mm)
        source = geometry.source_in_detector_mm
        depth = source[2] - (points @ geometry.RASToDetector[2, :3] + geometry.RASToDetector[2, 3])
        magnification = np.where(depth > 0, source[2] / np.maximum(depth, 1e-6), np.nan)
        middle = float(np.nanmedian(magnification))
        self._bin = max(1, round(float(grid.spacing_mm[0]) * middle / float(spacing.mean())))
        self.shape = -(-rows // self._bin), -(-columns // self._bin)
        # A pixel's share of the volume: path x cosine x area on the detector = volume x magnification squared.
        u = np.arange(columns) * spacing[0] - source[0]
        v = np.arange(rows) * spacing[1] - source[1]
        self._to_mass = (spacing.prod() * source[2] / np.sqrt(source[2] ** 2 + u**2 + v[:, None] ** 2)).astype(
            np.float32
        )
        self._voxel_ml = grid.voxel_volume_ml
        self._mass = (1000 * grid.voxel_volume_ml * magnification**2).astype(np.float32)
        at = (geometry.project(points)[:, ::-1] + 0.5) / self._bin - 0.5
        self._inside = np.asarray(((at >= 0) & (at <= np.array(self.shape) - 1)).all(axis=1))
        at = np.where(self._inside[:, None], at, 0.0)
        self._first = np.minimum(np.floor(at).astype(np.intp), np.array(self.shape) - 2)
        self._part = (at - self._first).astype(np.float32)

    def look(self, shadow: Shadow) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Mass of cement in each bin [mm3 on the detector; NaN where unknown], and which bins may show some."""
        known = np.isfinite(shadow.path_mm)
        mass = np.where(known & shadow.shown, shadow.path_mm * self._to_mass, 0.0)
        bins, part = self._binned(mass), self._binned(known)
        bins = np.where(part > 0, np.maximum(bins, 0.0) / np.maximum(part, 1e-6), np.nan).astype(np.float32)
        return bins, (self._binned(shadow.shown) > 0) | ~(part > 0)

    def at(self, image: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What the bins show at each voxel; true off the detector, where nothing speaks against cement."""
        nearest = self._first + np.rint(self._part).astype(np.intp)
        return np.asarray(image[tuple(nearest.T)] | ~self._inside)

    def volume_ml(self, mass: NDArray[np.float32], shown: NDArray[np.bool_], voxels: NDArray[np.intp]) -> float:
        """What the shown bins hold, were it all in the middle of these voxels."""
        if not voxels.size:
            return 0.0
        return float(np.nansum(np.where(shown, mass, 0.0))) / float(np.median(self._mass[voxels])) * self._voxel_ml

    def system(self, voxels: NDArray[np.intp]) -> Any:
        """Sparse matrix (bins, voxels): what a full voxel puts into each bin, shared by its four nearest."""
        from scipy.sparse import csr_matrix

        row, column = self._first[voxels].T
        down, right = self._part[voxels].T
        mass = np.where(self._inside[voxels], self._mass[voxels], 0.0)
        bins = [(row + i) * self.shape[1] + column + j for i in (0, 1) for j in (0, 1)]
        parts = [mass * one * other for one in (1 - down, down) for other in (1 - right, right)]
        order = np.tile(np.arange(voxels.size), 4)
        shape = self.shape[0] * self.shape[1], voxels.size
        return csr_matrix((np.concatenate(parts), (np.concatenate(bins), order)), shape)

    def _binned(self, image: NDArray) -> NDArray[np.float32]:
        """Sums of the pixels of each bin; of a mask, the share of its pixels."""
        rows, columns = image.shape
        size = self._bin
        padded = np.pad(image.astype(np.float32), ((0, -rows % size), (0, -columns % size)))
        sums = padded.reshape(self.shape[0], size, self.shape[1], size).sum(axis=(1, 3))
        return sums / size**2 if image.dtype == bool else sums


def _correction(
    system: Any, mass: NDArray[np.float32], shown: NDArray[np.bool_], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """By how much each voxel's share has to change for the picture's sake."""
    expected = system @ share
    known = np.isfinite(mass).ravel()
    ratio = np.where(known & (expected > 0), np.nan_to_num(mass.ravel()) / np.maximum(expected, 1e-9), 0.0)
    weight = system.T @ known.astype(np.float32)
    return np.where(weight > 0, (system.T @ ratio) / np.maximum(weight, 1e-9), 1.0).astype(np.float32)


def _agrees(seen_ml: float, pump_volume_ml: float) -> bool:
    """Whether the views show what the pump has given, so that this is the better figure."""
    return math.isfinite(pump_volume_ml) and abs(pump_volume_ml - seen_ml) <= _AGREEMENT * pump_volume_ml
