"""Where the surface of bone lies on a short line across it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray
from ...image import Volume

#: Step of the samples along a line [mm].
STEP_MM = 0.75
#: Air and metal are cut off: beyond these, brightness says nothing more about where bone ends [HU].
_DARKEST_HU, _BRIGHTEST_HU = -100.0, 700.0
#: Length over which the brightness on either side of an edge is averaged [mm].
_SIDE_MM = 2.25
#: A fall of this much is a full edge; cortex against muscle falls by 200 to 600 HU.
_FULL_EDGE_HU = 220.0
_FULL_GAP_HU = 150.0
#: A place is not believed when it is less than this share of a full edge or gap.
_LEAST_SCORE = 0.3
_GAP_SIDE_MM = 4.0
#: The face of a dimmed shell is looked for below this share of its crest.
_CREST_SHARE = 0.68
_THICK_CORTEX_PERCENT = 95
#: Cortex dimmer or brighter than this is not believed [HU].
_CORTEX_RANGE_HU = (350.0, 900.0)
#: How much the far end of the search line is worth less than its middle, in edges.
_DISTANCE_PENALTY = 0.8


@dataclass(frozen=True)
class Edges:
    """For each point: offset of the bone's edge along its outward normal, and how far that can be trusted, 0 to 1."""

    offset_mm: FloatArray
    weight: FloatArray


def sample_lines(ct: Volume, points: FloatArray, normals: FloatArray, offsets_mm: FloatArray) -> NDArray[np.float32]:
    """HU (n, m) at `points + offset * normal`; NaN outside the image."""
    from scipy import ndimage

    start, step = ct.kji_of(points), normals @ ct.RASToIJK[:3, :3].T[:, ::-1]
    kji = start.T[:, :, None] + step.T[:, :, None] * offsets_mm
    kji = kji.reshape(3, -1)
    sampled = ndimage.map_coordinates(ct.voxels, kji, output=np.float32, order=1, mode="nearest", prefilter=False)
    limit = np.array(ct.voxels.shape)[:, None] - 0.5
    outside = ((kji < -0.5) | (kji > limit)).any(axis=0)
    sampled[outside] = np.nan
    return np.asarray(sampled.reshape(len(points), len(offsets_mm)))


def find_edges(
    lines: NDArray[np.float32],
    offsets_mm: FloatArray,
    reach_mm: float,
    cortex_hu: float,
    joint: NDArray[np.bool_],
    disc: NDArray[np.bool_],
    expected_mm: FloatArray | float = 0.0,
) -> Edges:
    """The best place for the bone's surface within reach of 0, on lines from its inside (negative offsets) outwards.

    Args:
        cortex_hu: brightness of thick cortex, from `cortex_brightness`.
        joint: True for lines that run into another bone across a joint. There the surface lies before a dark gap
            between two bright sheets; elsewhere it is a fall of brightness.
        disc: True for lines that run into another bone across a disc, which may be either.
        expected_mm: where on each line the surface is looked for first.
    """
    side = round(_SIDE_MM / STEP_MM)
    clipped = np.clip(lines, _DARKEST_HU, _BRIGHTEST_HU)
    known = np.nan_to_num(clipped, nan=0.0)
    gap, fall = _gaps(known) / _FULL_GAP_HU, _falls(known, side) / _FULL_EDGE_HU
    score = np.where(joint[:, None], gap, np.where(disc[:, None], np.maximum(gap, fall), fall))
    unknown = np.cumsum(np.pad(np.isnan(lines), ((0, 0), (1, 0))), axis=1)
    hidden = np.ones(lines.shape, bool)
    hidden[:, side:-side] = (unknown[:, 2 * side + 1 :] - unknown[:, : -2 * side - 1]) > 0
    reachable = np.abs(offsets_mm) <= reach_mm
    away = offsets_mm - np.broadcast_to(expected_mm, len(lines))[:, None]
    penalty = _DISTANCE_PENALTY * (away / reach_mm) ** 2
    score = np.where(reachable & ~hidden & (score > _LEAST_SCORE), np.minimum(score, 1.0) - penalty, -1.0)
    best = np.argmax(score, axis=1)
    weight = np.maximum(score[np.arange(len(score)), best], 0.0)
    return Edges(offset_mm=_outer_face(clipped, offsets_mm, best, cortex_hu), weight=weight)


def _falls(lines: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Mean of the samples before each one less that of the samples after it."""
    total = np.cumsum(np.pad(lines, ((0, 0), (side + 1, side)), mode="edge"), axis=1)
    # total[:, n] sums the padded samples up to n; sample m of the line is padded sample m + side + 1.
    m = np.arange(lines.shape[1]) + side + 1
    before = total[:, m - 1] - total[:, m - 1 - side]
    after = total[:, np.minimum(m + side, total.shape[1] - 1)] - total[:, m]
    return np.asarray((before - after) / side)


def _gaps(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much darker each sample is than the brightest within 4 mm on its either hand, whichever is less."""
    width = round(_GAP_SIDE_MM / STEP_MM)
    padded = np.pad(lines, ((0, 0), (width, width)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width + 1, axis=1).max(axis=2)
    before, after = windows[:, : lines.shape[1]], windows[:, width:]
    return np.asarray(np.minimum(before, after) - lines)


def _outer_face(
    lines: NDArray[np.float32], offsets_mm: FloatArray, edge: NDArray[np.intp], cortex_hu: float
) -> FloatArray:
    """Where the cortex ends: half of its own brightness, not of its blurred image's.

    A thin shell is dimmed by the scanner's blur, but its outer face still lies where the image has about half the
    brightness of thick cortex (the constant density assumption of Treece 2010, Med Image Anal 14:276). Between the
    crest before the edge and the soft tissue behind it that level is crossed once; `_CREST_SHARE` keeps it below
    the crest.
    """
    rows = np.arange(len(lines))
    reach = np.arange(-round(_SIDE_MM / STEP_MM), round(_SIDE_MM / STEP_MM) + 1)
    near = np.nan_to_num(lines[rows[:, None], np.clip(edge[:, None] + reach, 0, lines.shape[1] - 1)], nan=_DARKEST_HU)
    half = len(reach) // 2
    crest = np.argmax(near[:, : half + 1], axis=1)
    peak = near[rows, crest]
    soft = near[:, half:].min(axis=1)
    level = soft + np.minimum((cortex_hu - soft) / 2, _CREST_SHARE * (peak - soft))
    below = (near < level[:, None]) & (np.arange(len(reach)) > crest[:, None])
    after = np.where(below.any(axis=1), np.argmax(below, axis=1), half)
    outer, inner = near[rows, after], near[rows, np.maximum(after - 1, 0)]
    part = np.clip((inner - level) / np.maximum(inner - outer, 1.0), 0, 1)
    return np.asarray(offsets_mm[np.clip(edge + reach[after] - 1, 0, lines.shape[1] - 1)] + part * STEP_MM)


def cortex_brightness(lines: NDArray[np.float32]) -> float:
    """HU of thick cortex in this image: what the brightest twentieth of the lines across bone reach."""
    brightest = np.nan_to_num(lines, nan=_DARKEST_HU).max(axis=1)
    return float(np.clip(np.percentile(brightest, _THICK_CORTEX_PERCENT), *_CORTEX_RANGE_HU))


def line_offsets(reach_mm: float) -> FloatArray:
    """Offsets of the samples that `find_edges` needs for a reach."""
    count = int(np.ceil((reach_mm + _SIDE_MM) / STEP_MM)) + 1
    return np.arange(-count, count + 1, dtype=np.float64) * STEP_MM
