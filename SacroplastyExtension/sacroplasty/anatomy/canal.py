"""The sacral canal in the straightened sacrum: a tube between the fused bodies and the laminae, down to S4.

Where the label map leaves the canal open, or names it, that is taken; where it was painted over, the dark band between
the back wall of the bodies and the laminae is followed in the CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .foramina import LOW_CONFIDENCE, StraightForamen
from .labels import SIDES
from .straight_image import STEP_MM, StraightImage

#: Fat, dura and nerves [HU]; above it begins bone.
_DARK_HU = 90.0
#: Certainly bone, whatever the label map says: laminae are often left out of it [HU].
_BRIGHT_HU = 200.0
#: Tube at S1 and at S4: half width, half height [mm]. The search ellipse is the widest canal, the core the narrowest.
_WIDEST_MM = ((18.0, 11.0), (9.0, 5.5))
_CORE_MM = ((5.0, 3.5), (3.0, 2.0))
#: The canal's middle lies about this far behind the posterior corner of the endplate [mm].
_HALF_HEIGHT_AT_S1_MM = 8.0
#: Depth of the canal's middle behind the ventral surface at the S1 and S4 foramina [mm], start of the search.
_DEPTH_MM = (22.0, 8.0)
_DEPTH_SD_MM = 4.0
#: The canal's middle lies about this far in front of the posterior openings of S3 and S4 [mm].
_BEFORE_OPENING_MM = 2.0
#: Above the lamina of S1 the canal grows by this much in height per length, up to the disc, and the ligamentum flavum
#: behind it counts as canal (own assumptions, on the safe side).
_FUNNEL, _LIGAMENT_MM = 0.3, 1.5
#: Confidence where the label map was painted over the canal and only dark CT numbers show it.
_SEEN_IN_CT_ONLY = 0.6


@dataclass(frozen=True)
class StraightCanal:
    """The canal in straightened coordinates.

    Attributes:
        mask: [left, deep, down].
        center_deep_mm: [down] depth of its middle in the mirror plane.
        half_width_mm: [down] up to where the canal, and not a foramen, reaches.
        confidence: 0 to 1, the share of its length where its walls are seen.
    """

    mask: NDArray[np.bool_]
    center_deep_mm: FloatArray
    half_width_mm: FloatArray
    confidence: float


def find_canal(
    image: StraightImage, foramina: dict[str, StraightForamen], endplate_corner: FloatArray
) -> StraightCanal:
    """Follow the canal from the plane of the S1 endplate to the lower rim of the S4 openings.

    Args:
        endplate_corner: posterior end of the S1 endplate in the mirror plane, straightened (left, deep, down).
    """
    first, last = (_level(foramina, level) for level in ("s1", "s4"))
    level = (image.down_mm - first) / (last - first)
    share = np.clip(level, 0, 1)
    shown, dark = _open_space(image)
    top = float(min(endplate_corner[2], first - 5))
    low = [foramina[f"foramen_{name}_{side}"] for name in ("s3", "s4") for side in SIDES]
    clear = [item.posterior.center for item in low if item.confidence > LOW_CONFIDENCE]
    levels = [first, *(_level(foramina, name) for name in ("s3", "s4"))] if len(clear) == len(low) else [first, last]
    depths = list(_DEPTH_MM)
    if len(levels) == 3:
        # Down there the sacrum is thin, and its openings tell better than an average where the canal lies.
        depths = [
            _DEPTH_MM[0],
            *(float(np.mean([one[1] for one in pair])) - _BEFORE_OPENING_MM for pair in (clear[:2], clear[2:])),
        ]
    expected = np.interp(image.down_mm, [top, *levels], [float(endplate_corner[1]) + _HALF_HEIGHT_AT_S1_MM, *depths])
    center = _follow(image, np.maximum(shown, dark), level, expected)
    in_label, in_ct = (_along(image, space, center, share) > 0.5 for space in (shown, dark))
    # Where the label map leaves the canal open, its walls are the label's; dark marrow in front of it is no canal.
    open_space = np.where(in_label, shown, np.maximum(shown, dark))
    half_width = _half_width(image, open_space, center, share, foramina)
    back = _back_wall(image, open_space, center, share)
    mask = _tube(image, open_space, center, half_width, back, share)
    end = max(float(foramina[f"foramen_s4_{side}"].posterior.rim[:, 2].max()) for side in SIDES)
    reaches = image.down_mm <= end
    # One row further up: the plane itself cuts the canal on the CT's grid.
    mask &= reaches & (image.below_endplate | np.roll(image.below_endplate, -1, axis=2))
    inside = (image.down_mm >= first) & (image.down_mm <= last)
    seen = np.where(in_label, 1.0, np.where(in_ct, _SEEN_IN_CT_ONLY, 0.0))
    return StraightCanal(mask, center, half_width, float(seen[inside].mean()))


def _level(foramina: dict[str, StraightForamen], level: str) -> float:
    return float(np.mean([foramina[f"foramen_{level}_{side}"].posterior.center[2] for side in SIDES]))


def _open_space(image: StraightImage) -> tuple[FloatArray, FloatArray]:
    """0 or 1 where the label map leaves space or names the canal, and up to 0.7 where the CT is dark."""
    from scipy import ndimage

    free = ~image.bone & (image.hounsfield < _BRIGHT_HU)
    dark = np.clip((_DARK_HU + 60 - ndimage.gaussian_filter(image.hounsfield, 0.7)) / 120, 0, 0.7)
    return (image.canal_label | free).astype(np.float32), dark


def _along(image: StraightImage, space: FloatArray, center: FloatArray, share: FloatArray) -> FloatArray:
    """[down] mean of a [left, deep, down] quantity around the path, over a little more than the narrowest canal."""
    middle = np.abs(image.left_mm) <= 2
    reach = np.interp(share, [0, 1], [_CORE_MM[0][1], _CORE_MM[1][1]]) + 1
    near = np.abs(image.deep_mm[:, None] - center) <= reach
    return np.where(near, space[middle].mean(axis=0), 0).sum(axis=0) / near.sum(axis=0)


def _follow(image: StraightImage, open_space: FloatArray, level: FloatArray, expected: FloatArray) -> FloatArray:
    """Depth of the canal's middle at each level (dynamic programming)."""
    from scipy import ndimage

    middle = np.abs(image.left_mm) <= 3
    space = open_space[middle].mean(axis=0)
    bone = (image.bone & (open_space < 0.4))[middle].mean(axis=0)
    deep = image.deep_mm
    counts = len(image.down_mm)
    cost = np.zeros((len(deep), counts))
    for row in range(counts):
        half = np.interp(level[row], [0, 1], [5.0, 2.0])
        size = int(2 * half / STEP_MM) + 1
        inner = ndimage.uniform_filter1d(space[:, row], size, mode="nearest")
        # Bone in front and behind makes a canal; the pelvis and the muscles of the back have it on one side only.
        walls = 1 - np.exp(-np.cumsum(bone[:, row]) / 4)
        behind = 1 - np.exp(-np.cumsum(bone[::-1, row])[::-1] / 1.5)
        cost[:, row] = 2 * inner * walls * (0.3 + 0.7 * behind)
        cost[:, row] -= 0.3 * ((deep - expected[row]) / _DEPTH_SD_MM) ** 2
    score, choice = cost[:, 0], np.zeros((len(deep), counts), int)
    moves = np.arange(-2, 3)
    for row in range(1, counts):
        shifted = np.stack([np.roll(score, move) - 0.15 * abs(move) for move in moves])
        choice[:, row] = np.argmax(shifted, axis=0)
        score = shifted.max(axis=0) + cost[:, row]
    index = int(np.argmax(score))
    path = np.zeros(counts, int)
    for row in range(counts - 1, -1, -1):
        path[row] = index
        index = int(np.clip(index - moves[choice[index, row]], 0, len(deep) - 1))
    return ndimage.gaussian_filter1d(deep[path], 2.0)


def _half_width(
    image: StraightImage,
    open_space: FloatArray,
    center: FloatArray,
    share: FloatArray,
    foramina: dict[str, StraightForamen],
) -> FloatArray:
    """How far the canal reaches to either side; across the foramina, interpolated between the pedicles."""
    widths = np.zeros(len(image.down_mm))
    for row in range(len(widths)):
        depth = image.depth(center[row])
        strip = open_space[:, max(depth - 1, 0) : depth + 2, row].max(axis=1) > 0.6
        reach = []
        for side in (1, -1):
            outward = strip[image.left_mm * side >= 0][::side]
            reach.append(float(np.argmin(outward)) if not outward.all() else np.inf)
        widths[row] = min(reach) if np.isfinite(reach).any() else np.inf
    widest = np.interp(share, [0, 1], [_WIDEST_MM[0][0], _WIDEST_MM[1][0]])
    narrowest = np.interp(share, [0, 1], [_CORE_MM[0][0], _CORE_MM[1][0]])
    walled = (widths >= narrowest) & (widths <= widest)
    for foramen in foramina.values():
        for opening in (foramen.anterior, foramen.posterior):
            walled &= np.abs(image.down_mm - opening.center[2]) > opening.radius_mm
    if walled.sum() < 3:
        return (widest + narrowest) / 2
    return np.clip(np.interp(image.down_mm, image.down_mm[walled], widths[walled]), narrowest, widest)


def _back_wall(image: StraightImage, open_space: FloatArray, center: FloatArray, share: FloatArray) -> FloatArray:
    """[left, down] depth of the laminae, continued over the gaps between them.

    Above the lamina of S1 the canal widens like a funnel: there its height is that under the lamina, and growing.
    """
    from scipy import ndimage

    deepest = np.interp(share, [0, 1], [_WIDEST_MM[0][1], _WIDEST_MM[1][1]])
    away = image.deep_mm[None, :, None] - center
    solid = open_space < 0.4
    wall = solid & (away > 0) & (away <= deepest) & image.below_endplate
    depth = np.where(wall.any(axis=1), image.deep_mm[np.argmax(wall, axis=1)] - STEP_MM / 2, np.nan)
    before = solid & (away < 0)
    in_front = np.where(before.any(axis=1), image.deep_mm[::-1][np.argmax(before[:, ::-1], axis=1)], np.nan)
    with np.errstate(invalid="ignore"):
        bodies = np.nanmedian(np.where(np.isfinite(in_front), in_front, center)[np.abs(image.left_mm) <= 5], axis=0)
    rows = np.arange(len(center))
    height = depth - bodies
    for column in height:
        seen = np.flatnonzero(np.isfinite(column))
        if len(seen):
            column[:] = np.interp(rows, seen, column[seen])
            column[: seen[0]] += _LIGAMENT_MM + _FUNNEL * (seen[0] - rows[: seen[0]]) * STEP_MM
    back = np.where(np.isfinite(height), height + bodies, np.inf)
    return ndimage.median_filter(np.minimum(back, center + deepest), (5, 3), mode="nearest")


def _tube(
    image: StraightImage,
    open_space: FloatArray,
    center: FloatArray,
    half_width: FloatArray,
    back: FloatArray,
    share: FloatArray,
) -> NDArray[np.bool_]:
    """What is seen from the path without looking through bone, and at least the narrowest tube everywhere.

    Rays from the middle of the canal end at its wall; the foramina and the gaps between the laminae, where a ray finds
    no wall, end at the half width and at the line between the laminae.
    """
    from scipy import ndimage

    angles = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    radii = np.arange(0.0, 20.0, 0.5)
    high = np.interp(share, [0, 1], [_WIDEST_MM[0][1], _WIDEST_MM[1][1]])
    left = radii[:, None] * np.cos(angles)
    deep = radii[:, None] * np.sin(angles)
    rows = np.arange(len(center))
    index = [
        np.broadcast_to((left - image.left_mm[0]) / STEP_MM, (len(rows), *left.shape)),
        (deep + center[:, None, None] - image.deep_mm[0]) / STEP_MM,
        np.broadcast_to(rows[:, None, None], (len(rows), *left.shape)),
    ]
    free = ndimage.map_coordinates(open_space, index, order=1, mode="nearest") > 0.6
    free &= (np.abs(left) <= half_width[:, None, None]) & (np.abs(deep) <= high[:, None, None])
    # The path itself may run along the dura or a speck of bone: the first millimetres are given.
    core_width, core_height = (np.interp(share, [0, 1], [_CORE_MM[0][axis], _CORE_MM[1][axis]]) for axis in range(2))
    free |= (left / core_width[:, None, None]) ** 2 + (deep / core_height[:, None, None]) ** 2 <= 1
    reach = np.where(free.all(axis=1), len(radii), np.argmin(free, axis=1)) * 0.5
    # One ray that slips through a gap between voxels is no opening.
    reach = ndimage.median_filter(np.pad(reach, ((0, 0), (2, 2)), mode="wrap"), size=(3, 5), mode="nearest")[:, 2:-2]
    grid_left = image.left_mm[:, None, None]
    grid_deep = image.deep_mm[None, :, None] - center
    ray = (np.round((np.arctan2(grid_deep, grid_left) + np.pi) / (2 * np.pi) * len(angles))).astype(int) % len(angles)
    core = (grid_left / core_width) ** 2 + (grid_deep / core_height) ** 2 <= 1
    seen = (np.hypot(grid_left, grid_deep) <= reach[rows, ray]) & (image.deep_mm[None, :, None] <= back[:, None, :])
    return seen | core
