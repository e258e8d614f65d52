"""Step 10: where the cement is on the post-operative CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..cement.zones import Zones
from ..errors import ImageError
from ..image import Volume

#: Cement rises this far above what was there before; noise and registration error stay below [HU].
_CERTAIN_HU = 600.0
_POSSIBLE_HU = 150.0
#: Dense cement is as bright as the brightest part of what is certain.
_DENSE_PERCENTILE = 98.0


@dataclass(frozen=True)
class VerifiedCement:
    """Cement of one injection on CT.

    Attributes:
        mask: voxels that are at least half cement, on the CT's grid.
        volume_ml: of the space that cement fills, the trabeculae in it included; partial voxels count by their part.
        by_zone_ml: the volume by zone of `Zones`; only zones that hold some.
    """

    mask: Volume
    volume_ml: float
    by_zone_ml: dict[str, float]


def find_cement(
    before: Volume, after: Volume, zones: Zones, tip_ras: ArrayLike, reach_mm: float = 45.0
) -> VerifiedCement:
    """Compare the CTs before and after an injection around one tip.

    Args:
        before, after: in HU on the same grid, in register.
        tip_ras: where the cement left the cannula; what lies farther off than `reach_mm` belongs to another one.

    Raises:
        ImageError: when the two CTs do not share a grid.
    """
    from scipy.ndimage import label

    if not before.same_grid(after):
        raise ImageError("the CTs before and after do not share a grid; register and resample the second first")
    rise = after.voxels.astype(np.float32) - before.voxels
    distance = np.linalg.norm(before.ras_of(np.argwhere(rise > _POSSIBLE_HU)) - np.asarray(tip_ras, float), axis=1)
    possible = np.zeros(rise.shape, bool)
    possible[rise > _POSSIBLE_HU] = distance <= reach_mm
    certain = possible & (rise > _CERTAIN_HU)
    fraction = np.zeros(rise.shape, np.float32)
    if certain.any():
        pieces, _ = label(possible, np.ones((3, 3, 3)))
        cement = np.isin(pieces, np.unique(pieces[certain])) & possible
        dense_hu = np.percentile(after.voxels[certain], _DENSE_PERCENTILE)
        fraction[cement] = np.clip(rise[cement] / np.maximum(dense_hu - before.voxels[cement], 1.0), 0, 1)
    at = np.argwhere(fraction > 0)
    volumes = fraction[tuple(at.T)] * before.voxel_volume_ml
    # The zone of a voxel is that of its centre.
    names = (*zones.names, "elsewhere")
    zone_kji = np.rint(zones.labels.kji_of(before.ras_of(at))).astype(int)
    inside = ((zone_kji >= 0) & (zone_kji < zones.labels.voxels.shape)).all(axis=1)
    zone_of = np.full(len(at), len(zones.names))
    zone_of[inside] = zones.labels.voxels[tuple(zone_kji[inside].T)]
    totals = np.bincount(zone_of, weights=volumes, minlength=len(names))
    return VerifiedCement(
        mask=before.like(fraction >= 0.5),
        volume_ml=float(volumes.sum()),
        by_zone_ml={name: float(total) for name, total in zip(names, totals, strict=True) if total > 0},
    )
