"""How far a found bone mask is from the true one: overlap, distances between the surfaces, leaks, loose pieces.

The surface of a mask is the set of voxel faces between inside and outside, each with its center and area. So distances
are right for voxels that are longer along one axis, and a face counts by its size, not by how many voxels show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from sacroplasty.image import Volume

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces in mm, in both directions.

    Attributes:
        mean_mm: mean over both surfaces, weighted by area.
        hd95_mm: the larger of the two 95th percentiles (by area), from one surface to the other and back.
        max_mm: Hausdorff distance.
    """

    mean_mm: float
    hd95_mm: float
    max_mm: float


@dataclass(frozen=True)
class BoneScore:
    """One found bone against the truth.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|); not a number where neither exists.
        surface: not-a-number distances where one of the two is missing.
        pieces: connected pieces of the found bone that hold at least 0.1 mL.
        largest_share: share of the found bone in its largest piece.
        leaked_ml: volume of the found bone that lies in another true bone, by name of that bone.
    """

    dice: float
    surface: SurfaceDistance
    volume_ml: float
    true_volume_ml: float
    pieces: int
    largest_share: float
    leaked_ml: dict[str, float]


def dice(found: Mask, true: Mask) -> float:
    """Dice overlap of two masks of one shape; not a number where both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(true)
    return 2.0 * np.count_nonzero(found & true) / total if total else math.nan


def surface_faces(mask: Mask, spacing_kji_mm: Floats, scored: Mask | None = None) -> tuple[Floats, Floats]:
    """Voxel faces between inside and outside.

    Args:
        spacing_kji_mm: voxel size in the order of the array's axes.
        scored: faces count only where the voxels on both of their sides are True here. The edge of the image is no
            surface of the bone.

    Returns:
        Face centers (n, 3) in mm in array order, and areas (n,) in mm².
    """
    spacing = np.asarray(spacing_kji_mm, float)
    centers, areas = [np.empty((0, 3))], [np.empty(0)]
    for axis in range(3):
        low = tuple(slice(0, -1) if n == axis else slice(None) for n in range(3))
        high = tuple(slice(1, None) if n == axis else slice(None) for n in range(3))
        between = mask[low] != mask[high]
        if scored is not None:
            between &= scored[low] & scored[high]
        middle = np.argwhere(between).astype(float)
        middle[:, axis] += 0.5
        centers.append(middle * spacing)
        areas.append(np.full(len(middle), np.prod(spacing) / spacing[axis]))
    return np.concatenate(centers), np.concatenate(areas)


def surface_distance(found: Mask, true: Mask, spacing_kji_mm: Floats, scored: Mask | None = None) -> SurfaceDistance:
    """Symmetric distances between the surfaces of two masks; not numbers where one has no surface."""
    first, second = (surface_faces(mask, spacing_kji_mm, scored) for mask in (found, true))
    if not (len(first[0]) and len(second[0])):
        return SurfaceDistance(math.nan, math.nan, math.nan)
    there, _ = cKDTree(second[0]).query(first[0])
    back, _ = cKDTree(first[0]).query(second[0])
    return SurfaceDistance(
        mean_mm=float(np.average(np.concatenate([there, back]), weights=np.concatenate([first[1], second[1]]))),
        hd95_mm=max(_percentile(there, first[1], 0.95), _percentile(back, second[1], 0.95)),
        max_mm=float(max(there.max(), back.max())),
    )


def pieces(mask: Mask, voxel_volume_ml: float, smallest_ml: float = 0.1) -> tuple[int, float]:
    """Connected pieces (also over corners) of at least a volume, and the share of all voxels in the largest one."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return 0, math.nan
    sizes = np.bincount(labels.ravel())[1:]
    return int(np.count_nonzero(sizes * voxel_volume_ml >= smallest_ml)), float(sizes.max() / sizes.sum())


def score_bones(found: Volume, true: Volume, names: dict[int, str], scored: Mask | None = None) -> dict[str, BoneScore]:
    """Scores of every bone of a label map, by name.

    Args:
        found, true: labels on the same grid; 0 is no bone.
        names: label to name, of the bones that are to be scored and of those into which they may leak.
        scored: where False, neither volume nor surface nor leak counts (the truth is not known there).

    Raises:
        ValueError: for different grids.
    """
    if not found.same_grid(true):
        raise ValueError("found and true labels are on different grids")
    spacing, voxel_ml = true.spacing_mm[::-1], true.voxel_volume_ml
    box = _box_of((found.voxels > 0) | (true.voxels > 0))
    a, b = found.voxels[box], true.voxels[box]
    inside = np.ones(a.shape, bool) if scored is None else scored[box]
    scores = {}
    for label, name in names.items():
        whole, mine, theirs = a == label, (a == label) & inside, (b == label) & inside
        count, share = pieces(whole, voxel_ml)
        scores[name] = BoneScore(
            dice=dice(mine, theirs),
            surface=surface_distance(whole, b == label, spacing, inside),
            volume_ml=np.count_nonzero(mine) * voxel_ml,
            true_volume_ml=np.count_nonzero(theirs) * voxel_ml,
            pieces=count,
            largest_share=share,
            leaked_ml={
                other: np.count_nonzero(mine & (b == value)) * voxel_ml
                for value, other in names.items()
                if value != label
            },
        )
    return scores


def _percentile(values: Floats, weights: Floats, fraction: float) -> float:
    """The smallest value that at least this fraction of the weight does not exceed."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(np.searchsorted(share, fraction - 1e-12), len(values) - 1)])


def _box_of(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds a mask, one voxel wider on each side where the image goes on."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return tuple(slice(0, n) for n in mask.shape)
    return tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(found[0], mask.shape, strict=True))
