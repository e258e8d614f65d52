"""Is the cement that the views show where it belongs? Back-projection of the detections into a labelled grid.

A pixel that shows cement is explained when somewhere along its ray a voxel of the planned ala could hold cement by
every other view. What no planned voxel explains lies elsewhere: in the rest of the sacrum, or on a route of leakage.
Which of them is a vote of all voxels that could be it, nearer ones to the known cement counting more, since a leak
starts there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .cannula import Cannula
from .cement_map import CementMap
from .grid import grid_points
from .pieces import large_pieces, widened
from .zones import Zones

#: Cement thinner than this need not show [mm].
_HIDDEN_MM = 1.5

#: How far the C-arm's pose and the segmentation may be off, together, in the patient [mm].
_TOLERANCE_MM = 1.0

#: A piece of unexplained cement must be as large as this to count [pixels].
_FEWEST_PIXELS = 6

#: The vote falls e-fold over this distance from the known cement [mm].
_REACH_MM = 6.0

#: Less that cannot be placed is the noise of a bone's edge, or a first drop that another view does not show yet [mL].
_SPECK_ML = 0.02

#: Cement that runs far in a thin streak is in a vein: so long at least, so thin at most [mm].
VEIN, _STREAK_MM, _THIN_MM = "venous", 9.0, 4.0
#: Where a streak is a vein: outside bone and nerves, or beyond the zones.
_OPEN_ZONES = ("presacral", "posterior", "unknown")

#: Voxels of a route that all views show as cement although the planned ala explains it too.
_FEWEST_TOUCHED_VOXELS = 6


@dataclass(frozen=True)
class Finding:
    """Cement outside the plan.

    Attributes:
        zone: name of the zone, a route or `bone`; `venous` for a streak outside bone; `unknown` when no voxel of the
            grid explains it.
        position_ras: where, in mm; NaN when unknown.
        volume_ml: of the unexplained part, at least.
        view: that shows it, or `growth` for a spot that both views see grow.
    """

    zone: str
    position_ras: FloatArray
    volume_ml: float
    view: str

    @property
    def is_leak(self) -> bool:
        """Whether this is cement where none may be. What cannot be placed counts."""
        return self.zone != "bone"


class LeakFinder:
    """Zones seen in the live views. Pixels and voxels are matched once."""

    def __init__(
        self,
        zones: Zones,
        geometries: dict[str, XrayGeometry],
        tip_ras: ArrayLike,
        cannula: Cannula | None = None,
    ) -> None:
        self.zones = zones
        self._labels = zones.labels.voxels.ravel()
        self._points = grid_points(zones.labels).reshape(-1, 3)
        self._from_tip = np.linalg.norm(self._points - np.asarray(tip_ras, float), axis=1)
        self._planned = self._labels == zones.names.index("planned")
        # Behind the bone cement comes back along the cannula, however far the rest of it is.
        self._off_cannula = np.full(len(self._points), np.inf)
        if cannula is not None:
            behind = self._labels == zones.names.index("posterior")
            self._off_cannula[behind] = cannula.distance_mm(self._points[behind])
        self._views = {name: _match(self._points, geometry) for name, geometry in geometries.items()}
        self._shapes = {name: geometry.detector_pixels[::-1] for name, geometry in geometries.items()}
        middle = self._points.mean(axis=0)
        self._pixel_mm = {name: pixel_size_mm(geometry, middle) for name, geometry in geometries.items()}
        half_voxel = float(zones.labels.spacing_mm[0]) / 2
        self._reach = {name: int(np.ceil((_TOLERANCE_MM + half_voxel) / size)) for name, size in self._pixel_mm.items()}

    def findings(
        self, maps: dict[str, CementMap], attenuation_per_mm: float, calibrated: Collection[str]
    ) -> list[Finding]:
        """All pieces of cement that the planned ala does not explain, of every view.

        Args:
            calibrated: views of which is known how much scatter hides. That another shows no cement tells nothing.
        """
        from scipy.ndimage import label

        square = np.ones((3, 3), bool)
        hidden = _HIDDEN_MM * attenuation_per_mm
        possible = {
            name: seen.attenuation + 3 * seen.sigma > (hidden if name in calibrated else -np.inf)
            for name, seen in maps.items()
        }
        unexplained = {}
        for name, seen in maps.items():
            allowed = self._planned.copy()
            for other in maps:
                if other != name:
                    wide = widened(possible[other], self._reach[other])
                    allowed &= self._at(wide, other)
            explained = widened(self._shadow(allowed, name), self._reach[name])
            unexplained[name] = large_pieces(seen.core & ~explained, _FEWEST_PIXELS)
        found = []
        for name, seen in maps.items():
            pieces, count = label(unexplained[name], structure=square)
            for piece in range(1, count + 1):
                here = pieces == piece
                candidates = ~self._planned & self._at(widened(here, 1), name)
                for other in maps:
                    if other != name:
                        candidates &= self._at(widened(possible[other], 1), other)
                # Where another view shows unexplained cement too, the rays cross: that is the place.
                crossing = candidates.copy()
                for other in maps:
                    if other != name:
                        crossing &= self._at(widened(unexplained[other], 1), other)
                zone, position = self._vote(crossing if crossing.any() else candidates, maps)
                if zone in _OPEN_ZONES or zone.startswith("si_joint"):
                    zone = VEIN if is_streak(here, self._pixel_mm[name]) else zone
                area = self._pixel_mm[name] ** 2
                volume_ml = float(seen.attenuation[here].sum()) / attenuation_per_mm * area / 1000
                if zone != "unknown" or volume_ml >= _SPECK_ML:
                    found.append(Finding(zone, position, volume_ml, name))
        return found

    def touched(self, maps: dict[str, CementMap]) -> dict[str, FloatArray]:
        """Routes that reach into what all views show as cement, with the middle of the shared part (RAS)."""
        core = self._common_core(maps)
        touched = {}
        for route in self.zones.routes:
            here = core & (self._labels == self.zones.names.index(route))
            if np.count_nonzero(here) >= _FEWEST_TOUCHED_VOXELS:
                touched[route] = self._points[here].mean(axis=0)
        return touched

    def planned_cement(self, maps: dict[str, CementMap]) -> NDArray[np.bool_]:
        """Voxels (flat) of the planned ala that all views show as cement."""
        return self._common_core(maps) & self._planned

    def center(self, maps: dict[str, CementMap]) -> FloatArray | None:
        """Middle of the planned voxels that all views show as cement (RAS); None when there are none."""
        here = self.planned_cement(maps)
        return self._points[here].mean(axis=0) if here.any() else None

    def _vote(self, candidates: NDArray[np.bool_], maps: dict[str, CementMap]) -> tuple[str, FloatArray]:
        from scipy.ndimage import distance_transform_edt

        if not candidates.any():
            return "unknown", np.full(3, np.nan)
        known = self.planned_cement(maps)
        if known.any():
            shape, spacing = self.zones.labels.voxels.shape, self.zones.labels.spacing_mm
            distance = distance_transform_edt(~known.reshape(shape), sampling=spacing).ravel()
        else:
            distance = self._from_tip
        weight = np.exp(-np.minimum(distance, self._off_cannula) / _REACH_MM) * candidates
        votes = np.bincount(self._labels, weights=weight, minlength=len(self.zones.names))
        zone = self.zones.named(votes.astype(float))
        share = weight * (self._labels == zone)
        return self.zones.names[zone], (self._points * share[:, None]).sum(axis=0) / share.sum()

    def _common_core(self, maps: dict[str, CementMap]) -> NDArray[np.bool_]:
        common = np.ones(self._labels.shape, bool)
        for name, seen in maps.items():
            common &= self._at(seen.core, name)
        return common

    def _at(self, image: NDArray[np.bool_], view: str) -> NDArray[np.bool_]:
        """What the image shows at each voxel; false outside it."""
        pixel, inside = self._views[view]
        return inside & image.ravel()[pixel]

    def _shadow(self, voxels: NDArray[np.bool_], view: str) -> NDArray[np.bool_]:
        pixel, inside = self._views[view]
        shadow = np.zeros(self._shapes[view], bool)
        shadow.ravel()[pixel[voxels & inside]] = True
        return shadow


def is_streak(piece: NDArray[np.bool_], pixel_mm: float) -> bool:
    """Whether a piece of a view is long and thin, straight or not."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.nonzero(piece)
    length_mm = pixel_mm * float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
    width_mm = 2 * pixel_mm * float(distance_transform_edt(np.pad(piece, 1)).max())
    return length_mm >= _STREAK_MM and width_mm <= _THIN_MM


def pixel_size_mm(geometry: XrayGeometry, point_ras: ArrayLike) -> float:
    """Size of a pixel in the plane of a point: the detector's over the magnification."""
    depth = geometry.source_in_detector_mm[2] - (geometry.RASToDetector @ [*np.asarray(point_ras, float), 1.0])[2]
    return float(np.sqrt(np.prod(geometry.pixel_spacing_mm)) * depth / geometry.source_in_detector_mm[2])


def _match(points: FloatArray, geometry: XrayGeometry) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each point the flat index of its pixel, and whether it falls on the detector."""
    columns, rows = geometry.detector_pixels
    pixels = np.nan_to_num(geometry.project(points), nan=-1.0)
    column, row = np.rint(pixels).astype(np.intp).T
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    return np.where(inside, row * columns + column, 0), inside
