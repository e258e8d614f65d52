"""Where cement grows beside the plan: what the flow of the last seconds does that growth in the planned ala cannot.

The shadow of the ala hides most of what lies just before or behind it, so that a leak beside the cortex need not show
beyond the shadow in either view. But what each view sees grow must be the growth of the same cement. Here the growth of
both views is put down to voxels: to those of the plan freely, to those beside it only against evidence (least squares
with non-negative unknowns, and an absolute penalty on those beside the plan: Tibshirani 1996). What is left beside the
plan is what the plan cannot explain in all views at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from .background import SMOOTHING, Image
from .grid import grid_points
from .rays import Rays
from .zones import Zones

#: Growth over these times is looked at, snapshots are kept this far apart [s].
_WINDOWS_S, _SNAPSHOT_S = (1.0, 2.0, 5.0), 0.4
#: What comes and goes with breathing is no growth: a bin has grown when it shows more than ever in such a time [s].
_BREATH_S = 5.0
#: Every so many voxels of the zones' grid, each way, one is looked at.
_STEP = 2
#: Nearer to the planned ala than this a place may be the plan's, with the errors of pose and anatomy. Farther than the
#: second distance cement shows beside the ala's shadow, and what growth puts there is mostly a bone's edge [mm].
_OUTSIDE_MM, _FARTHEST_MM = 0.5, 6.0
#: Evidence that a voxel beside the plan needs, in standard deviations of the noise.
_EVIDENCE = 1.0
#: And the evidence that each view shows by itself.
_SHOWN = 3.0
#: Noise of a bin beyond that of its pixels: share of the cement's path there, since edges blur and patients breathe.
_PATH_SD = 0.03
#: Radius of what grows beside the plan [mm], and over how many frames of each view its present state is taken.
_BLOB_MM, _RECENT = 4.6, 2
#: Growth at places this near to each other is one spot [mm].
_SPOT_MM = 7.0
#: Less beside the plan is no spot: so much, and so much more for each second of the time looked at, in which good
#: cement at the cortex adds up too [mL, mL/s].
_LEAST_ML, _LEAST_ML_S = 0.015, 0.005
_ROUNDS = 60


@dataclass(frozen=True)
class Spot:
    """A place beside the plan where cement grew in the last seconds.

    Attributes:
        position_ras: (3,) mm, its middle.
        volume_ml: that went there, at least.
        zone: of `Zones` that most of it lies in.
    """

    position_ras: FloatArray
    volume_ml: float
    zone: str


class _Snapshots:
    """Means of what was shown in times of `_SNAPSHOT_S`, which are less noisy than single frames."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Image]] = deque(maxlen=math.ceil((_WINDOWS_S[-1] + _BREATH_S) / _SNAPSHOT_S) + 2)
        self._since: list[tuple[float, Image]] = []

    def keep(self, time_s: float, mass: Image) -> None:
        self._since.append((time_s, mass))
        if time_s - self._since[0][0] < _SNAPSHOT_S:
            return
        self._kept.append((time_s, np.mean([one for _, one in self._since], axis=0)))
        self._since.clear()

    def before(self, time_s: float) -> Image | None:
        """The most that each bin showed in the last breath seen before this time; None when nothing is so old."""
        older = [(when, mass) for when, mass in self._kept if when <= time_s]
        if not older:
            return None
        newest_s = older[-1][0]
        result: Image = np.max([mass for when, mass in older if when >= newest_s - _BREATH_S], axis=0)
        return result


class GrowthWatch:
    """Remembers what two views showed and finds growth beside the plan."""

    def __init__(self, zones: Zones, geometries: Mapping[str, XrayGeometry]) -> None:
        """
        Args:
            geometries: of the images that will be handed in.
        """
        from scipy.ndimage import distance_transform_edt

        every = (slice(None, None, _STEP),) * 3
        planned = zones.mask("planned")
        away = distance_transform_edt(~planned, sampling=zones.labels.spacing_mm)[every]
        deep = distance_transform_edt(planned, sampling=zones.labels.spacing_mm)[every]
        outside_mm = (away - deep).ravel()
        points = grid_points(zones.labels)[every].reshape(-1, 3)
        self._points = points
        self._beside = outside_mm > _OUTSIDE_MM
        self._far = outside_mm > _FARTHEST_MM
        self._labels = zones.labels.voxels[every].ravel()
        self._zones = zones
        spacing = _STEP * float(zones.labels.spacing_mm[0])
        self._rays = {name: Rays(points, geometry, spacing) for name, geometry in geometries.items()}
        self._blobs = self._make_blobs()
        self._systems = {
            name: (rays.system(np.arange(len(points))) @ self._blobs).tocsc() for name, rays in self._rays.items()
        }
        self._squares = {name: system.power(2) for name, system in self._systems.items()}
        self._recent: dict[str, deque[Image]] = {name: deque(maxlen=_RECENT) for name in geometries}
        self._kept = {name: _Snapshots() for name in geometries}

    def update(self, paths: Mapping[str, Image], sigmas: Mapping[str, Image], now_s: float) -> list[Spot]:
        """Take in the cement of all views and find spots.

        Args:
            paths: length of the beam's path in cement [mm], by view.
            sigmas: standard deviation of these; infinite where nothing is known.
        """
        masses = {
            name: self._rays[name].mass(np.where(np.isfinite(sigmas[name]), path, 0.0)) for name, path in paths.items()
        }
        for name, mass in masses.items():
            self._recent[name].append(mass)
        recent = {name: np.mean(self._recent[name], axis=0) for name in masses}
        spots: list[Spot] = []
        if len(paths) == 2:
            weights = {name: self._weight(name, sigmas[name], masses[name]) for name in paths}
            for window_s in _WINDOWS_S:
                spots += self._spots(recent, weights, now_s, window_s)
        for name, mass in masses.items():
            self._kept[name].keep(now_s, mass)
        return spots

    def _make_blobs(self) -> Any:
        """What may grow (voxels, unknowns): a voxel of the plan by itself; beside it a blob of one zone around each."""
        from scipy.sparse import csc_matrix
        from scipy.spatial import cKDTree

        pairs = cKDTree(self._points).query_pairs(_BLOB_MM, output_type="ndarray")
        alike = (self._labels[pairs[:, 0]] == self._labels[pairs[:, 1]]) & self._beside[pairs].all(axis=1)
        one, other = pairs[alike].T
        every = np.arange(len(self._points))
        rows, columns = np.concatenate([every, one, other]), np.concatenate([every, other, one])
        blobs = csc_matrix((np.ones(len(rows)), (rows, columns)))
        return blobs.multiply(1 / blobs.sum(axis=0)).tocsc()

    def _weight(self, name: str, sigma: Image, mass: Image) -> FloatArray:
        """Reciprocal standard deviation of each bin's growth (flat)."""
        rays = self._rays[name]
        known = np.isfinite(sigma)
        # Each sigma is that of a mean over neighbors, and growth is a difference of two pictures.
        variance = 2 * rays.variance(np.where(known, SMOOTHING * sigma, 0.0)) + (_PATH_SD * mass) ** 2
        return np.where(rays.share(known) > 0.99, 1 / np.sqrt(np.maximum(variance, 1e-6)), 0.0).ravel()

    def _spots(
        self, masses: dict[str, Image], weights: dict[str, FloatArray], now_s: float, window_s: float
    ) -> list[Spot]:
        growth = {}
        for name, mass in masses.items():
            before = self._kept[name].before(now_s - window_s)
            if before is None:
                return []
            growth[name] = (mass - before).ravel().astype(float)
        grown = self._put_down(growth, weights)
        if grown is None:
            return []
        return self._gather(grown, _LEAST_ML + _LEAST_ML_S * window_s)

    def _put_down(self, growth: dict[str, FloatArray], weights: dict[str, FloatArray]) -> FloatArray | None:
        """Which share of each voxel has been filled (n,); None when the plan explains all."""
        from scipy.sparse import diags, vstack

        gain = np.zeros(len(self._points))
        scale = np.zeros(len(self._points))
        shown = np.ones(len(self._points), bool)
        for name, system in self._systems.items():
            squared = weights[name] ** 2
            gain_here, scale_here = system.T @ (squared * growth[name]), self._squares[name].T @ squared
            gain += gain_here
            scale += scale_here
            # Behind a cannula there is room for whatever the other view shows too much.
            shown &= gain_here > _SHOWN * np.sqrt(scale_here)
        penalty = np.where(self._beside, _EVIDENCE * np.sqrt(scale), 0.0)
        # With nothing filled the residual is largest, and no entry is negative: what does not gain now never will.
        active = np.flatnonzero((gain > penalty) & (scale > 0) & (shown | ~self._beside))
        if not (self._beside & ~self._far)[active].any():
            return None
        whole = vstack([diags(weights[name]) @ system[:, active] for name, system in self._systems.items()]).tocsr()
        seen = np.flatnonzero(np.diff(whole.indptr))
        whole, target = whole[seen], np.concatenate([weights[name] * growth[name] for name in self._systems])[seen]
        filled = _nonnegative(whole, target, penalty[active])
        grown = np.zeros(len(self._points))
        grown[active] = filled
        return self._blobs @ grown

    def _gather(self, grown: FloatArray, least_ml: float) -> list[Spot]:
        """Places near the plan where enough (n,) grew beside it."""
        rays = next(iter(self._rays.values()))
        volume = np.where(self._beside & ~self._far, grown, 0.0) * rays.voxel_ml
        spots: list[Spot] = []
        while True:
            there = np.flatnonzero(volume)
            if not there.size:
                return spots
            peak = there[np.argmax(volume[there])]
            near = there[np.linalg.norm(self._points[there] - self._points[peak], axis=1) <= _SPOT_MM]
            total = float(volume[near].sum())
            if total >= least_ml:
                votes = np.bincount(self._labels[near], weights=volume[near], minlength=len(self._zones.names))
                middle = np.average(self._points[near], axis=0, weights=volume[near])
                spots.append(Spot(middle, total, self._zones.names[self._zones.named(votes.astype(float))]))
            volume[near] = 0.0


def _nonnegative(matrix: Any, target: FloatArray, penalty: FloatArray) -> FloatArray:
    """x >= 0 that minimises |matrix x - target|^2 / 2 + penalty x (Beck and Teboulle 2009); the matrix is sparse."""
    turned = matrix.T.tocsr()
    # No entry is negative, so that the largest eigenvalue is at most the largest row sum of the squared matrix.
    step = 1 / float((turned @ (matrix @ np.ones(matrix.shape[1]))).max())
    back = turned @ target - penalty
    x = ahead = np.zeros(matrix.shape[1])
    momentum = 1.0
    for _ in range(_ROUNDS):
        stepped = np.maximum(ahead - step * (turned @ (matrix @ ahead) - back), 0.0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / following * (stepped - x)
        x, momentum = stepped, following
    return x
