"""Where cement grows beside the plan: what the flow of the last seconds does that growth in the planned ala cannot.

The shadow of the ala hides most of what lies just before or behind it, so that a leak beside the cortex need not show
beyond the shadow in either view. But what each view sees grow must be the growth of the same cement. Here the growth of
both views is put down to voxels of the plan as far as it can be (least squares with non-negative unknowns). Then each
place beside the plan is asked how much of the rest cement there would explain, in all views at once: by how many
standard deviations of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .alignment import MEDIAN_OF_NORMAL
from .cannula import Cannula
from .changes import Change, ViewCement, ViewHistory
from .grid import grid_points
from .rays import Rays
from .zones import ALONG_CANNULA_MM, Zones

#: Growth over these times is looked at [s], and by how many standard deviations of the noise a place beside the plan
#: has to explain it: over a longer time what errs in the plan's place adds up too.
_WINDOWS = ((2.0, 6.5), (5.0, 8.0))
#: By so many has each view to show growth there by itself.
_SHOWN = 3.0
#: Every so many voxels of the zones' grid, each way, one is looked at.
_STEP = 2
#: Nearer to the planned ala than this a place may be the plan's, with the errors of pose and anatomy. Farther than the
#: second distance cement shows beside the ala's shadow, and what growth puts there is mostly a bone's edge [mm].
_OUTSIDE_MM, _FARTHEST_MM = 0.5, 6.0
#: Radius of what grows beside the plan, and of a spot, whose places explain nearly the same [mm].
_BLOB_MM, _SPOT_MM = 4.6, 7.0
_ROUNDS = 60
#: Bins are not believed to be less noisy than this share of what is thought of them.
_LEAST_NOISE = 0.4
#: Keeps places that no view shows from dividing by zero.
_LEAST_SCALE = 1e-9


@dataclass(frozen=True)
class Spot:
    """A place beside the plan where cement grew in the last seconds.

    Attributes:
        position_ras: (3,) mm, its middle.
        volume_ml: that went there beyond what the plan can explain.
        zone: of `Zones` that most of the evidence lies in.
    """

    position_ras: FloatArray
    volume_ml: float
    zone: str


class GrowthWatch:
    """Remembers what two views showed and finds growth beside the plan.

    Attributes:
        judges: whether the last look could have found growth.
    """

    def __init__(
        self,
        zones: Zones,
        geometries: Mapping[str, XrayGeometry],
        cement_per_mm: float,
        cannula: Cannula | None = None,
    ) -> None:
        """
        Args:
            geometries: of the images that will be handed in.
            cannula: along which cement may come back, however far from the plan.
        """
        from scipy.ndimage import distance_transform_edt

        every = (slice(None, None, _STEP),) * 3
        planned = zones.mask("planned")
        away = distance_transform_edt(~planned, sampling=zones.labels.spacing_mm)[every]
        deep = distance_transform_edt(planned, sampling=zones.labels.spacing_mm)[every]
        outside_mm = (away - deep).ravel()
        points = grid_points(zones.labels)[every].reshape(-1, 3)
        labels = zones.labels.voxels[every].ravel()
        beside = (outside_mm > _OUTSIDE_MM) & (outside_mm <= _FARTHEST_MM)
        if cannula is not None:
            behind = labels == zones.names.index("posterior")
            beside |= behind & (cannula.distance_mm(points) <= ALONG_CANNULA_MM)
        planned_places = np.flatnonzero(outside_mm <= _OUTSIDE_MM)
        self._points, self._labels, self._zones = points[beside], labels[beside], zones
        spacing = _STEP * float(zones.labels.spacing_mm[0])
        rays = {name: Rays(points, geometry, spacing) for name, geometry in geometries.items()}
        self._voxel_ml = spacing**3 / 1000
        self._plan = {name: one.system(planned_places).tocsr() for name, one in rays.items()}
        blobs = self._make_blobs()
        self._beside = {name: (one.system(np.flatnonzero(beside)) @ blobs).tocsc() for name, one in rays.items()}
        self._sees_beside = {name: np.diff(system.tocsr().indptr) > 0 for name, system in self._beside.items()}
        self._squares = {name: system.power(2) for name, system in self._beside.items()}
        self.judges = False
        longest_s = max(window_s for window_s, _ in _WINDOWS)
        self._history = {name: ViewHistory(one, cement_per_mm, longest_s) for name, one in rays.items()}

    def keep(self, view: str, time_s: float, shown: ViewCement) -> None:
        """Take in a frame of a view, from those of its reference on."""
        self._history[view].keep(time_s, shown)

    def spots(self) -> list[Spot]:
        """Where cement grew until the last frames; with one view there are none."""
        if len(self._history) != 2:
            return []
        found = [self._spots(window_s, least) for window_s, least in _WINDOWS]
        self.judges = any(spots is not None for spots in found)
        return [spot for spots in found for spot in spots or ()]

    def _make_blobs(self) -> Any:
        """What may grow beside the plan (places, unknowns): a blob of one zone around each place."""
        from scipy.sparse import csc_matrix
        from scipy.spatial import cKDTree

        pairs = cKDTree(self._points).query_pairs(_BLOB_MM, output_type="ndarray")
        one, other = pairs[self._labels[pairs[:, 0]] == self._labels[pairs[:, 1]]].T
        every = np.arange(len(self._points))
        rows, columns = np.concatenate([every, one, other]), np.concatenate([every, other, one])
        blobs = csc_matrix((np.ones(len(rows)), (rows, columns)))
        return blobs.multiply(1 / blobs.sum(axis=0)).tocsc()

    def _spots(self, window_s: float, least: float) -> list[Spot] | None:
        """None while too little is known of a breath, or nothing of what lies beside the plan."""
        changes = {}
        for name, history in self._history.items():
            change = history.change(window_s)
            if change is None:
                return None
            changes[name] = change
        unexplained = self._unexplained(changes)
        noise = self._noise(changes, unexplained)
        if not math.isfinite(noise):
            return None
        scales = {name: system.T @ changes[name].weight ** 2 for name, system in self._squares.items()}
        scale = sum(scales.values()) + _LEAST_SCALE
        spots: list[Spot] = []
        free = self._shown(changes, scales)
        while True:
            gain = self._matched(changes, unexplained)
            evidence = gain / (noise * np.sqrt(scale))
            likely = np.flatnonzero(free & (evidence >= least))
            evidence[likely] = gain[likely] / np.maximum(noise * np.sqrt(scale[likely]), self._unrest(changes, likely))
            likely = likely[evidence[likely] >= least]
            if not likely.size:
                return spots
            peak = int(likely[np.argmax(evidence[likely])])
            filled = float(gain[peak] / scale[peak])
            near = np.linalg.norm(self._points - self._points[peak], axis=1) <= _SPOT_MM
            spots.append(self._spot(near, evidence, filled))
            # What lies on the same rays explains the same.
            free &= ~near
            for name, system in self._beside.items():
                explained = system[:, [peak]].toarray()[:, 0] * filled
                unexplained[name] = unexplained[name] - changes[name].weight * explained

    def _shown(self, changes: Mapping[str, Change], scales: Mapping[str, FloatArray]) -> NDArray[np.bool_]:
        """Places beside the plan where each view by itself shows growth. Behind a cannula or text there would be room
        for whatever the other view shows too much."""
        shown = np.ones(len(self._points), bool)
        for name, system in self._beside.items():
            gain = system.T @ (changes[name].weight ** 2 * changes[name].grown)
            shown &= gain > _SHOWN * np.sqrt(scales[name])
        return shown

    def _noise(self, changes: Mapping[str, Change], unexplained: Mapping[str, FloatArray]) -> float:
        """How noisy bins truly are over what is thought of them, by the median of all that see a place beside the plan:
        cement that leaks is in few of them."""
        known = np.concatenate(
            [unexplained[name][self._sees_beside[name] & (one.weight > 0)] for name, one in changes.items()]
        )
        return max(float(np.median(np.abs(known))) / MEDIAN_OF_NORMAL, _LEAST_NOISE) if known.size else math.inf

    def _matched(self, changes: Mapping[str, Change], unexplained: Mapping[str, FloatArray]) -> FloatArray:
        """How well cement at each place beside the plan matches what is left. Over the variance of that by the noise of
        bins it is the share of its blob that is filled."""
        gain = np.zeros(len(self._points))
        for name, system in self._beside.items():
            gain += system.T @ (changes[name].weight * unexplained[name])
        return gain

    def _unrest(self, changes: Mapping[str, Change], places: NDArray[np.intp]) -> FloatArray:
        """Standard deviation of that match by what the breath before showed: bins that err together count as such."""
        variance = np.zeros(len(places))
        for name, system in self._beside.items():
            matched = system[:, places].T @ (changes[name].weight ** 2 * changes[name].unrest).T
            variance += (matched**2).mean(axis=1)
        return np.sqrt(variance)

    def _spot(self, near: NDArray[np.bool_], evidence: FloatArray, filled: float) -> Spot:
        strength = np.where(near, np.maximum(evidence, 0.0), 0.0) ** 2
        votes = np.bincount(self._labels, weights=strength, minlength=len(self._zones.names))
        zone = self._zones.names[self._zones.named(votes.astype(float))]
        return Spot(np.average(self._points, axis=0, weights=strength), filled * self._voxel_ml, zone)

    def _unexplained(self, changes: Mapping[str, Change]) -> dict[str, FloatArray]:
        """What the plan cannot explain of each view's bins, in standard deviations."""
        from scipy.sparse import diags, vstack

        gain = sum(self._plan[name].T @ (one.weight**2 * one.grown) for name, one in changes.items())
        # With nothing filled the residual is largest, and no entry is negative: what does not gain now never will.
        active = np.flatnonzero(np.asarray(gain) > 0)
        target = {name: one.weight * one.grown for name, one in changes.items()}
        if not active.size:
            return target
        whole = vstack([diags(one.weight) @ self._plan[name][:, active] for name, one in changes.items()]).tocsr()
        seen = np.flatnonzero(np.diff(whole.indptr))
        together = np.concatenate(list(target.values()))
        together -= whole @ _nonnegative(whole[seen], together[seen])
        return dict(zip(target, np.split(together, np.cumsum([len(one) for one in target.values()])[:-1]), strict=True))


def _nonnegative(matrix: Any, target: FloatArray) -> FloatArray:
    """x >= 0 that minimises |matrix x - target|^2 (Beck and Teboulle 2009); the matrix is sparse."""
    turned = matrix.T.tocsr()
    # No entry is negative, so that the largest eigenvalue is at most the largest row sum of the squared matrix.
    step = 1 / float((turned @ (matrix @ np.ones(matrix.shape[1]))).max())
    back = turned @ target
    x = ahead = np.zeros(matrix.shape[1])
    momentum = 1.0
    for _ in range(_ROUNDS):
        stepped = np.maximum(ahead - step * (turned @ (matrix @ ahead) - back), 0.0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / following * (stepped - x)
        x, momentum = stepped, following
    return x
