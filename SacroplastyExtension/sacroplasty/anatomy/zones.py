"""Denis zones: which part of the sacrum a point belongs to, by the margins of its foramina.

Denis 1988 (Clin Orthop 227:67) names a fracture by the most medial zone that it reaches: I through the ala, lateral to
all foramina; II through foramina; III through the canal. A fracture's zone is thus the largest of its points' zones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import FloatArray, invert_rigid, transform_points
from .labels import LEVELS, SIDES
from .model import Anatomy

UNKNOWN, ALA, FORAMINAL, CENTRAL = 0, 1, 2, 3
#: Share of a foramen's voxels within its lateral margin; the rest are single voxels of a rough label.
_WITHIN_MARGIN = 98.0


@dataclass(frozen=True)
class _Margins:
    """Foramina of one side, n levels from above; planes are in (posterior, superior) of the sacral frame, in mm.

    Attributes:
        middle, upwards: (n, 2) middle of each channel and the unit vector across it that points to the head.
        medial_mm, lateral_mm: (n,) distances of the channel's margins from the mirror plane.
    """

    middle: FloatArray
    upwards: FloatArray
    medial_mm: FloatArray
    lateral_mm: FloatArray


def denis_zone(points_ras: ArrayLike, anatomy: Anatomy) -> NDArray[np.uint8]:
    """Zone of each point.

    Between the foramina the margins run straight from level to level; above S1 and below S4 they run on parallel to the
    mirror plane. Whether a point lies in bone is not asked.

    Args:
        points_ras: (..., 3) in mm.
        anatomy: any; foramina that it lacks are bridged.

    Returns:
        (...) 1 ala, 2 foraminal, 3 central; 0 (unknown) for NaN and on a side of which no foramen is known.
    """
    sacral = transform_points(invert_rigid(anatomy.SacrumToRAS), np.asarray(points_ras, float))
    zones = np.full(sacral.shape[:-1], UNKNOWN, np.uint8)
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        margins = _margins(anatomy, side)
        beside = sacral[..., 0] * sign
        here = (beside >= 0) & np.isfinite(sacral).all(axis=-1)
        if margins is None or not here.any():
            continue
        level = _level(sacral[here][:, 1:], margins)
        numbers = np.arange(len(margins.medial_mm))
        medial = np.interp(level, numbers, margins.medial_mm)
        lateral = np.interp(level, numbers, margins.lateral_mm)
        zones[here] = np.where(beside[here] > lateral, ALA, np.where(beside[here] >= medial, FORAMINAL, CENTRAL))
    return zones


def _margins(anatomy: Anatomy, side: str) -> _Margins | None:
    RASToSacrum = invert_rigid(anatomy.SacrumToRAS)
    middle, upwards, medial, lateral = [], [], [], []
    for level in LEVELS:
        name = f"foramen_{level}_{side}"
        foramen = anatomy.foramina.get(name)
        if foramen is None:
            continue
        front, back, edge = transform_points(
            RASToSacrum,
            np.stack([foramen.anterior.center_ras, foramen.posterior.center_ras, foramen.lateral_edge_ras]),
        )
        along = (back - front)[1:]
        across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
        half_width = abs(abs(edge[0]) - abs(back[0]))
        voxels = np.argwhere(anatomy.region(name))
        reach = np.abs(transform_points(RASToSacrum, anatomy.regions.ras_of(voxels))[:, 0]) if len(voxels) else edge[:1]
        middle.append((front + back)[1:] / 2)
        upwards.append(across)
        # The channel's label runs on into the canal, so that its medial margin is the lateral one mirrored.
        medial.append(min(abs(front[0]), abs(back[0])) - half_width)
        lateral.append(max(abs(edge[0]), float(np.percentile(np.abs(reach), _WITHIN_MARGIN))))
    if not middle:
        return None
    return _Margins(np.array(middle), np.array(upwards), np.array(medial), np.array(lateral))


def _level(plane: FloatArray, margins: _Margins) -> FloatArray:
    """Continuous number (m,) of the level of (m, 2) points of the mirror plane, 0 for the highest foramen."""
    heights = np.einsum("mnc,nc->mn", plane[:, None] - margins.middle, margins.upwards)
    below = heights <= 0
    # The first level that the point does not lie below; levels further down do not matter then.
    first = np.where(below.all(axis=1), below.shape[1], np.argmin(below, axis=1))
    upper = np.clip(first - 1, 0, None)
    lower = np.clip(first, None, below.shape[1] - 1)
    rows = np.arange(len(plane))
    above, under = -heights[rows, upper], heights[rows, lower]
    between = lower > upper
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(between, above / (above + under), 0.0)
    return upper + np.where(between, np.clip(part, 0, 1), 0.0)
