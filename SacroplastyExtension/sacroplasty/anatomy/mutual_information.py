"""Mutual information of a CT and an MRI at sampled points: how well one tells the other, whatever their contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, transform_points
from ..image import Volume

#: The sensitivity of a coil changes over this length, anatomy over less [mm].
_COIL_MM = 45.0
#: Noise in air stays below this share of the tissue's mean signal.
_AIR_SIGNAL = 0.05


@dataclass(frozen=True)
class SampledPair:
    """Points of the CT with their class, and the MRI in which they are looked up.

    Attributes:
        points_ras: (n, 3) in the CT's RAS.
        classes: (n,) class of each by its Hounsfield units, 0 to `class_count` - 1.
        levels: the MRI, 0 to `level_count` - 1 (float32), NaN-free; outside of it nothing is known.
    """

    points_ras: FloatArray
    classes: NDArray[np.intp]
    class_count: int
    levels: Volume
    level_count: int

    def part(self, chosen: NDArray) -> SampledPair:
        """Only some of the points (index or mask)."""
        return SampledPair(
            self.points_ras[chosen], self.classes[chosen], self.class_count, self.levels, self.level_count
        )

    def inside(self, CTToMRI: FloatArray) -> float:
        """Share of the points that lie in the MRI."""
        kji = self.levels.kji_of(transform_points(CTToMRI, self.points_ras))
        return float((((kji >= 0) & (kji <= np.array(self.levels.voxels.shape) - 1)).all(axis=1)).mean())

    def information(self, CTToMRI: FloatArray, least_inside: float = 0.6, interpolate: bool = True) -> float:
        """Mutual information in nats at a pose; 0 when fewer than `least_inside` of the points lie in the MRI.

        From the joint histogram (Maes 1997, doi 10.1109/42.563664), each point shared out between the two levels of
        signal next to it. Weighted with the share inside, so that a pose gains nothing by pushing points out.

        Args:
            interpolate: between the voxels of the MRI; the nearest one is quicker and enough for a first look.
        """
        from scipy.ndimage import map_coordinates

        CTToGrid = (self.levels.RASToIJK @ CTToMRI)[[2, 1, 0]].astype(np.float32)
        kji = CTToGrid[:, :3] @ self.points_ras.T.astype(np.float32) + CTToGrid[:, 3:]
        last = np.array(self.levels.voxels.shape)[:, None] - 1
        inside = ((kji >= 0) & (kji <= last)).all(axis=0)
        share = float(inside.mean())
        if share < least_inside:
            return 0.0
        kji = kji[:, inside]
        if interpolate:
            level = map_coordinates(self.levels.voxels, kji, order=1)
        else:
            level = self.levels.voxels[tuple((kji + 0.5).astype(np.intp))]
        low = np.minimum(level.astype(np.intp), self.level_count - 2)
        upper = level - low
        cell = self.classes[inside] * self.level_count + low
        size = self.class_count * self.level_count
        joint = np.bincount(cell, 1 - upper, size) + np.bincount(cell + 1, upper, size)
        joint = joint.reshape(self.class_count, self.level_count) / joint.sum()
        expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        filled = joint > 0
        return share * float((joint[filled] * np.log(joint[filled] / expected[filled])).sum())


def sample_pair(
    ct: Volume, mask: Volume, levels: Volume, level_count: int, count: int, rng: np.random.Generator
) -> SampledPair:
    """Random points of a mask (bool, on any grid), at random places within their voxels.

    The classes are quantiles of the Hounsfield units at the points, as many as there are levels of signal.
    """
    from scipy.ndimage import map_coordinates

    indices = np.argwhere(mask.voxels)
    indices = indices[rng.choice(len(indices), min(count, len(indices)), replace=False)]
    points = mask.ras_of(indices + rng.uniform(-0.5, 0.5, indices.shape))
    hu = map_coordinates(ct.voxels, ct.kji_of(points).T, order=1, output=np.float32, mode="nearest")
    classes = np.searchsorted(np.quantile(hu, np.linspace(0, 1, level_count + 1)[1:-1]), hu)
    return SampledPair(points, classes, level_count, levels, level_count)


def even_signal(mri: Volume) -> Volume:
    """The MRI with the slow unevenness of its coil divided out (float32, about 1 where tissue is)."""
    from scipy.ndimage import gaussian_filter, zoom

    voxels = mri.voxels.astype(np.float32)
    step = np.maximum(1, np.round(4 / mri.spacing_mm[::-1])).astype(int)
    small = voxels[:: step[0], :: step[1], :: step[2]]
    tissue = (small > 0.25 * small.mean()).astype(np.float32)
    # Bright fluid must not darken its surroundings.
    small = np.minimum(small, np.percentile(small[tissue > 0], 90)) if tissue.any() else small
    sigma = _COIL_MM / (mri.spacing_mm[::-1] * step)
    coil = gaussian_filter(small * tissue, sigma) / np.maximum(gaussian_filter(tissue, sigma), 0.02)
    full = zoom(coil, np.array(voxels.shape) / small.shape, order=1, mode="nearest", grid_mode=True)
    floor = 0.05 * float(full.max()) or 1.0
    return mri.like(voxels / np.maximum(full, floor))


def signal_levels(even: Volume, level_count: int, smooth_mm: float) -> Volume:
    """An evened MRI, smoothed, as levels of signal (float32)."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(even.voxels, smooth_mm / even.spacing_mm[::-1])
    # As many voxels of tissue on each level: those of bone are all dark, and must not share a few levels.
    tissue = smooth[smooth > _AIR_SIGNAL]
    edges = np.quantile(tissue[:: max(1, tissue.size // 100_000)], np.linspace(0, 1, level_count - 1))
    edges = np.concatenate([[0.0], np.maximum.accumulate(edges + 1e-6 * np.arange(level_count - 1))])
    return even.like(np.interp(smooth, edges, np.arange(level_count)).astype(np.float32))
