"""The sacral canal in the straightened sacrum: a tube between the fused bodies and the laminae, down to S4.

Where the label map leaves the canal open, or names it, that is taken; where it was painted over, the dark band between
the back wall of the bodies and the laminae is followed in the CT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from .foramina import StraightForamen
from .labels import SIDES
from .straight_image import STEP_MM, StraightImage

#: Fat, dura and nerves [HU]; above it begins bone.
_DARK_HU = 90.0
#: Certainly bone, whatever the label map says: laminae are often left out of it [HU].
_BRIGHT_HU = 200.0
#: Tube at S1 and at S4: half width, half height [mm]. The search ellipse is the widest canal, the core the narrowest.
_WIDEST_MM = ((18.0, 11.0), (9.0, 5.5))
_CORE_MM = ((5.0, 3.5), (3.0, 2.0))
#: Depth of the canal's middle behind the ventral surface at the S1 and S4 foramina [mm], start of the search.
_DEPTH_MM = (22.0, 8.0)
_DEPTH_SD_MM = 4.0


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


def find_canal(image: StraightImage, foramina: dict[str, StraightForamen]) -> StraightCanal:
    """Follow the canal from the plane of the S1 endplate to just below the S4 foramina."""
    first, last = (_level(foramina, level) for level in ("s1", "s4"))
    level = (image.down_mm - first) / (last - first)
    share = np.clip(level, 0, 1)
    open_space = _open_space(image)
    center, seen = _follow(image, open_space, level)
    half_width = _half_width(image, open_space, center, share, foramina)
    mask = _tube(image, open_space, center, half_width, share)
    end = last + 0.4 * (last - _level(foramina, "s3"))
    reaches = image.down_mm <= end
    mask &= reaches & image.below_endplate
    inside = (image.down_mm >= first) & (image.down_mm <= last)
    return StraightCanal(mask, center, half_width, float(np.clip(seen[inside].mean(), 0, 1)))


def _level(foramina: dict[str, StraightForamen], level: str) -> float:
    return float(np.mean([foramina[f"foramen_{level}_{side}"].posterior[2] for side in SIDES]))


def _open_space(image: StraightImage) -> FloatArray:
    """0 to 1: not bone by the label map or named canal (1), painted over but dark in the CT (up to 0.7)."""
    from scipy import ndimage

    dark = np.clip((_DARK_HU + 60 - ndimage.gaussian_filter(image.hounsfield, 0.7)) / 120, 0, 0.7)
    free = ~image.bone & (image.hounsfield < _BRIGHT_HU)
    return np.where(image.canal_label | free, 1.0, dark).astype(np.float32)


def _follow(image: StraightImage, open_space: FloatArray, level: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Depth of the canal's middle at each level (dynamic programming), and whether it is seen there."""
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
        expected = _DEPTH_MM[0] + (_DEPTH_MM[1] - _DEPTH_MM[0]) * level[row]
        cost[:, row] -= 0.3 * ((deep - expected) / _DEPTH_SD_MM) ** 2
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
    seen = cost[path, np.arange(counts)] > 0.5
    return ndimage.gaussian_filter1d(deep[path], 2.0), seen


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
        for opening, radius in (
            (foramen.anterior, foramen.anterior_radius_mm),
            (foramen.posterior, foramen.posterior_radius_mm),
        ):
            walled &= np.abs(image.down_mm - opening[2]) > radius
    if walled.sum() < 3:
        return (widest + narrowest) / 2
    return np.clip(np.interp(image.down_mm, image.down_mm[walled], widths[walled]), narrowest, widest)


def _tube(
    image: StraightImage, open_space: FloatArray, center: FloatArray, half_width: FloatArray, share: FloatArray
) -> NDArray[np.bool_]:
    """Open space around the path inside the widest tube, and at least the narrowest one everywhere."""
    from scipy import ndimage

    left = image.left_mm[:, None, None]
    deep = image.deep_mm[None, :, None] - center
    high = np.interp(share, [0, 1], [_WIDEST_MM[0][1], _WIDEST_MM[1][1]])
    core_width, core_height = (np.interp(share, [0, 1], [_CORE_MM[0][axis], _CORE_MM[1][axis]]) for axis in range(2))
    core = (left / core_width) ** 2 + (deep / core_height) ** 2 <= 1
    # A box rather than an ellipse: at S1 the canal is a triangle that fills the corners.
    reach = (np.abs(left) <= half_width) & (np.abs(deep) <= high)
    free = (open_space > 0.6) & reach
    free = ndimage.binary_opening(free | core, np.ones((2, 2, 1)))
    parts, _ = ndimage.label(free | core)
    kept = np.unique(parts[core])
    return np.isin(parts, kept[kept > 0])
