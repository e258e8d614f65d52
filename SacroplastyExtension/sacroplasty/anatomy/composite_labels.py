"""Label maps that give several bones one label: both hips, or the whole spine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError
from ..image import Volume
from .frame import mirror_plane, surface_ras

#: L5 with its upper facets ends below this distance from the sacrum: a body of 27 mm (as the phantom's), a disc of
#: 8 to 11 mm below it, and the processes that stand above the body [mm].
_L5_REACH_MM = 55.0
#: Middle of the disc above L5, for a spine without gaps: disc, body and half a disc, as above [mm].
_CUT_MM = 40.0
_SMALLEST_VERTEBRA_ML = 8.0
#: In the gap at a disc, at most this share of the voxels that the body below it has.
_GAP_SHARE = 0.5
_SLAB_HALF_MM = 8.0


def split_hips(hips: NDArray[np.bool_], sacrum: Volume) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The left and the right hip of one mask, parted by the mirror plane of the sacrum.

    Args:
        hips: mask on the sacrum's grid.
        sacrum: mask of the bone.

    Raises:
        AnatomyError: when the sacrum is not mirrored (cut off).
    """
    center, left_ras, _ = mirror_plane(surface_ras(sacrum), np.array([-1.0, 0.0, 0.0]))
    found = np.argwhere(hips)
    on_left = (sacrum.ras_of(found) - center) @ left_ras > 0
    left, right = np.zeros_like(hips), np.zeros_like(hips)
    left[tuple(found[on_left].T)] = True
    right[tuple(found[~on_left].T)] = True
    return left, right


def lowest_vertebra(spine: NDArray[np.bool_], sacrum: Volume) -> tuple[NDArray[np.bool_], bool]:
    """The vertebra that sits on the sacrum, and whether the mask itself shows where it ends.

    A vertebra that stands apart is taken as it is. A column is cut where its section in the mirror plane narrows as
    at a disc, or else at the height where adults have that disc; then the second result is False.

    Args:
        spine: mask of vertebrae on the sacrum's grid.
        sacrum: mask of the bone.

    Raises:
        AnatomyError: when no vertebra stands on the sacrum.
    """
    from scipy import ndimage

    margin = np.ceil((_L5_REACH_MM + 5) / sacrum.spacing_mm[::-1]).astype(int)
    corners = np.argwhere(sacrum.voxels)
    low = np.maximum(corners.min(axis=0) - margin, 0)
    high = np.minimum(corners.max(axis=0) + margin + 1, sacrum.voxels.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    distance_mm = ndimage.distance_transform_edt(~sacrum.voxels[box], sampling=sacrum.spacing_mm[::-1])
    column = spine[box] & (distance_mm < _L5_REACH_MM + 3)
    parts, count = ndimage.label(column, np.ones((3, 3, 3)))
    close = np.bincount(parts[(distance_mm < _CUT_MM / 2) & column], minlength=count + 1)
    if count == 0 or not close.any():
        raise AnatomyError("no vertebra of the spine label stands on the sacrum; label L5 by itself (--mapping N=l5)")
    vertebra = parts == int(close.argmax())
    sure = bool(distance_mm[vertebra].max() < _L5_REACH_MM)
    if not sure:
        cut_mm = _gap_mm(column, distance_mm, sacrum, low)
        sure = cut_mm is not None
        vertebra = column & (distance_mm < (cut_mm or _CUT_MM))
    volume_ml = np.count_nonzero(vertebra) * sacrum.voxel_volume_ml
    if volume_ml < _SMALLEST_VERTEBRA_ML:
        raise AnatomyError(
            f"the spine label has only {volume_ml:.1f} mL above the sacrum, too little for L5; label L5 by itself "
            "(--mapping N=l5)"
        )
    result = np.zeros_like(spine)
    result[box] = vertebra
    return result, sure


def _gap_mm(
    column: NDArray[np.bool_], distance_mm: NDArray[np.float64], sacrum: Volume, low: NDArray[np.int_]
) -> float | None:
    """Distance from the sacrum at which the bodies narrow as at a disc, or None for a column without gaps."""
    from scipy import ndimage

    center, left_ras, _ = mirror_plane(surface_ras(sacrum), np.array([-1.0, 0.0, 0.0]))
    found = np.argwhere(column)
    middle = np.abs((sacrum.ras_of(found + low) - center) @ left_ras) < _SLAB_HALF_MM
    away_mm = distance_mm[tuple(found[middle].T)]
    # As wide as the coarsest voxels, or the slices themselves would look like gaps.
    width = max(3.0, float(sacrum.spacing_mm.max()))
    counts = np.histogram(away_mm, bins=np.arange(0, _L5_REACH_MM + 1))[0].astype(float)
    section = ndimage.uniform_filter1d(counts, round(width))
    body, first, last = np.median(section[10:25]), 26, int(_L5_REACH_MM) - 2
    narrowest = first + int(np.argmin(section[first:last]))
    return narrowest + 0.5 if section[narrowest] < _GAP_SHARE * body else None
