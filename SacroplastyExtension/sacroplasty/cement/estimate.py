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
from .rays import Rays
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
        self._rays = {
            name: Rays(points, geometry, float(zones.labels.spacing_mm[0])) for name, geometry in geometries.items()
        }

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
        seen = {name: _look(self._rays[name], shadow) for name, shadow in shadows.items()}
        possible = np.ones(self._from_tip.shape, bool)
        for name, (_, shown) in seen.items():
            possible &= self._rays[name].at(shown)
        voxels = np.flatnonzero(possible)
        seen_ml = float(
            np.mean(
                [self._rays[name].volume_ml(np.where(shown, mass, 0.0), voxels) for name, (mass, shown) in seen.items()]
            )
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


def _look(rays: Rays, shadow: Shadow) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mass of cement in each bin [mm3 on the detector; NaN where unknown], and which bins may show some."""
    known = np.isfinite(shadow.path_mm)
    mass, part = rays.mass(np.where(known & shadow.shown, shadow.path_mm, 0.0)), rays.share(known)
    bins = np.where(part > 0, np.maximum(mass, 0.0) / np.maximum(part, 1e-6), np.nan).astype(np.float32)
    return bins, (rays.share(shadow.shown) > 0) | ~(part > 0)


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
