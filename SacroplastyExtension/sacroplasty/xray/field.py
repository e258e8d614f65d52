"""The part of a frame that shows the patient: within the intensifier's circle and between the collimator's blades.

What lies outside is black. Its border is convex, a circle cut by straight blades, so it is read off the convex hull of
what is lit: instruments that hang in over the border do not matter, and a hull cut too short only hides a little more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray

#: The border is looked for in an image of about this many pixels across.
_WORKING_PIXELS = 256
#: Lit is what exceeds this share of the bright part of the frame. Scatter behind the blades and dark instruments lie
#: below it, the patient above.
_LIT_SHARE, _BRIGHT_PERCENTILE = 0.06, 99.0
#: Pieces of the hull within half a pixel of a line and longer than this share of the image are straight: an arc of the
#: circle that long bulges by more.
_STRAIGHT_SHARE = 0.14
#: Scatter behind blades may be lit. What exceeds this share of the lit part's median decides when the signal falls by
#: this factor over its border; where it does not, the patient is dark up to there. Again with the median of the rest.
_WELL_LIT_SHARE, _LEAST_STEP, _ROUNDS = 0.25, 1.5, 3
#: Cosine between the normals of two pieces of the same blade, at least.
_ALIKE = 0.99
#: Behind a blade no more than this share is lit; an instrument that cuts off a corner leaves more.
_LIT_BEHIND_BLADE = 0.05
#: Points of the hull this near to the circle belong to it [working pixels].
_ON_CIRCLE = 1.5
#: A circle shows at least one arc this long; shorter ones may be the rounded corners between blades. Points of an arc
#: lie no further apart than this.
_LEAST_ARC_DEG, _GAP_DEG = 25.0, 12.0
#: The border is blurred: so much of the field's edge is not used, as a share of the image's width.
_EDGE_SHARE = 0.008
#: A blade's edge lies where the signal has risen to half of what follows this far inside, as a share of the image's
#: width.
_PENUMBRA_SHARE, _RISEN = 0.15, 0.5
#: With less of the image than this lit there is nothing to be watched.
_LEAST_LIT = 0.02


@dataclass(frozen=True)
class Blade:
    """A straight border: what has `normal @ (column, row) > offset` is covered. The normal points out of the field."""

    normal: tuple[float, float]
    offset: float


@dataclass(frozen=True)
class Field:
    """What of a frame is used.

    Attributes:
        mask: (rows, columns) where the patient is shown, less a narrow edge.
        circle: (column, row, radius) of an intensifier in pixels; None for a flat panel.
        blades: of the collimator.
    """

    mask: NDArray[np.bool_]
    circle: tuple[float, float, float] | None
    blades: tuple[Blade, ...]


def find_field(frame: NDArray) -> Field:
    """Find the circle and the blades in a frame.

    Args:
        frame: (rows, columns), larger values brighter.

    Raises:
        ImageError: for a frame that is black or has no convex lit part.
    """
    from scipy.ndimage import uniform_filter

    rows, columns = frame.shape
    step = max(1, round(max(rows, columns) / _WORKING_PIXELS))
    small = uniform_filter(np.asarray(frame, np.float32), step)[step // 2 :: step, step // 2 :: step]
    bright = float(np.percentile(small, _BRIGHT_PERCENTILE))
    lit = _largest_piece(small > _LIT_SHARE * bright) if bright > 0 else np.zeros(small.shape, bool)
    if np.count_nonzero(lit) < _LEAST_LIT * lit.size:
        raise ImageError("the frame is black; there is no field to be watched")
    hull = _hull(lit)
    for _ in range(_ROUNDS):
        well_lit = small > _WELL_LIT_SHARE * float(np.median(small[lit]))
        smaller = _hull(_largest_piece(well_lit))
        if not len(smaller) or _step_at(smaller, small) < _LEAST_STEP:
            break
        hull, lit = smaller, well_lit
    straight = _straight_pieces(hull, _STRAIGHT_SHARE * max(small.shape))
    circle = _circle(hull, straight, small.shape)
    blades = [blade for blade in _blades(straight, circle, small.shape) if _covers(blade, lit, circle)]
    edges = [_moved_to_edge(blade, small, lit) for blade in blades]
    return _field((rows, columns), circle, edges, float(step), float(step // 2))


def _field(
    shape: tuple[int, int],
    circle: tuple[float, float, float] | None,
    blades: list[tuple[FloatArray, float]],
    scale: float,
    shift: float,
) -> Field:
    """The field of circle and blades in working pixels, on the frame's own."""
    v, u = np.ogrid[: shape[0], : shape[1]]
    edge = _EDGE_SHARE * max(shape)
    mask = np.ones(shape, bool)
    full_circle = None
    if circle is not None:
        full_circle = (scale * circle[0] + shift, scale * circle[1] + shift, scale * circle[2])
        mask &= (u - full_circle[0]) ** 2 + (v - full_circle[1]) ** 2 <= (full_circle[2] - edge) ** 2
    full_blades = []
    for normal, offset in blades:
        blade = Blade((float(normal[0]), float(normal[1])), float(scale * offset + shift * normal.sum()))
        mask &= blade.normal[0] * u + blade.normal[1] * v <= blade.offset - edge
        full_blades.append(blade)
    return Field(mask, full_circle, tuple(full_blades))


def _hull(lit: NDArray[np.bool_]) -> FloatArray:
    """Convex hull (n, 2) of what is lit, counter-clockwise in (column, row); empty for nothing or a line."""
    from scipy.spatial import ConvexHull, QhullError

    # Corners of the lit pixels, so that a full frame reaches its own border.
    row, column = np.nonzero(lit)
    corners = np.concatenate([np.stack([column + x, row + y], axis=1) for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    try:
        return corners[ConvexHull(corners).vertices]
    except (QhullError, ValueError):
        return np.empty((0, 2))


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_opening, label

    pieces, count = label(binary_opening(mask, iterations=2))
    if count == 0:
        return np.zeros(mask.shape, bool)
    return np.asarray(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))


def _step_at(hull: FloatArray, image: NDArray) -> float:
    """By which factor the signal falls over the border of a hull; infinite where nothing of the image lies outside."""
    rows, columns = image.shape
    v, u = np.indices(image.shape)
    way = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([way[:, 1], -way[:, 0]], axis=1) / np.linalg.norm(way, axis=1)[:, None]
    offsets = (normals * hull).sum(axis=1)
    depth = np.full((rows, columns), np.inf)
    for normal, offset in zip(normals, offsets, strict=True):
        depth = np.minimum(depth, offset - (normal[0] * u + normal[1] * v))
    inside, outside = image[(depth > 1) & (depth < 4)], image[(depth < -1) & (depth > -4)]
    if not outside.size or not inside.size:
        return float("inf")
    return float(np.median(inside) / max(np.median(outside), 1e-6))


def _straight_pieces(hull: FloatArray, shortest: float) -> list[tuple[FloatArray, FloatArray]]:
    """Ends of the long pieces of a hull, neighbours in nearly one line joined."""
    ends = [(hull[number - 1], hull[number]) for number in range(len(hull))]
    joined: list[tuple[FloatArray, FloatArray]] = []
    for start, end in ends:
        if joined:
            first, last = joined[-1]
            way = end - first
            off = abs(way[0] * (last - first)[1] - way[1] * (last - first)[0]) / max(np.linalg.norm(way), 1e-9)
            if off <= 0.6:
                joined[-1] = (first, end)
                continue
        joined.append((start, end))
    return [(start, end) for start, end in joined if np.linalg.norm(end - start) >= shortest]


def _circle(
    hull: FloatArray, straight: list[tuple[FloatArray, FloatArray]], shape: tuple[int, int]
) -> tuple[float, float, float] | None:
    """The circle through the curved part of the hull; None when there is none."""
    rows, columns = shape
    at_border = (hull[:, 0] < 0.5) | (hull[:, 1] < 0.5) | (hull[:, 0] > columns - 1.5) | (hull[:, 1] > rows - 1.5)
    on_line = np.zeros(len(hull), bool)
    for start, end in straight:
        way = (end - start) / np.linalg.norm(end - start)
        offset = hull - start
        on_line |= np.abs(offset[:, 0] * way[1] - offset[:, 1] * way[0]) < 1.0
    points = hull[~at_border & ~on_line]
    for _ in range(3):
        if len(points) < 6:
            return None
        # Kåsa: u^2 + v^2 = 2 u a + 2 v b + c is linear in centre (a, b) and c.
        system = np.column_stack([2 * points, np.ones(len(points))])
        a, b, c = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0]
        radius = float(np.sqrt(max(c + a * a + b * b, 0.0)))
        off = np.abs(np.linalg.norm(points - [a, b], axis=1) - radius)
        near = off <= max(_ON_CIRCLE, 2 * float(np.median(off)))
        if near.all():
            break
        points = points[near]
    angles = np.degrees(np.sort(np.arctan2(points[:, 1] - b, points[:, 0] - a)))
    steps = np.diff(np.concatenate([angles, angles + 360]))
    longest = max((float(run[1:].sum()) for run in np.split(steps, np.flatnonzero(steps > _GAP_DEG))), default=0.0)
    plausible = 0.2 * max(shape) <= radius <= 0.8 * max(shape)
    if not plausible or float(off.max()) > 2 * _ON_CIRCLE or longest < _LEAST_ARC_DEG:
        return None
    return float(a), float(b), radius


def _blades(
    straight: list[tuple[FloatArray, FloatArray]], circle: tuple[float, float, float] | None, shape: tuple[int, int]
) -> list[tuple[FloatArray, float]]:
    """Outward normal and offset of the straight borders that are neither the image's own nor a chord of the circle."""
    rows, columns = shape
    found = []
    for start, end in sorted(straight, key=lambda ends: -float(np.linalg.norm(ends[1] - ends[0]))):
        way = (end - start) / np.linalg.norm(end - start)
        # The hull runs counter-clockwise in (column, row), so the outside is to its right.
        normal = np.array([way[1], -way[0]])
        offset = float(normal @ start)
        corners = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]], float)
        if float((corners @ normal - offset).max()) < 1.0:
            continue
        if circle is not None and offset - float(normal @ circle[:2]) > circle[2] - 2 * _ON_CIRCLE:
            continue
        found.append((normal, offset))
    # Noise and a soft border break an edge in two: of those that run alike the longest, first in the list, tells it.
    distinct: list[tuple[FloatArray, float]] = []
    for normal, offset in found:
        if not any(other @ normal > _ALIKE for other, _ in distinct):
            distinct.append((normal, offset))
    return distinct


def _covers(blade: tuple[FloatArray, float], lit: NDArray[np.bool_], circle: tuple[float, float, float] | None) -> bool:
    """Whether what lies beyond a straight border is dark, as behind a blade."""
    normal, offset = blade
    v, u = np.indices(lit.shape)
    beyond = normal[0] * u + normal[1] * v > offset + 1
    if circle is not None:
        beyond &= (u - circle[0]) ** 2 + (v - circle[1]) ** 2 < (circle[2] - 1) ** 2
    return bool(np.count_nonzero(lit & beyond) <= _LIT_BEHIND_BLADE * np.count_nonzero(beyond))


def _moved_to_edge(blade: tuple[FloatArray, float], image: NDArray, lit: NDArray[np.bool_]) -> tuple[FloatArray, float]:
    """The blade where the signal rises steeply, which may lie further in than where it can first be told from black."""
    normal, offset = blade
    v, u = np.nonzero(lit)
    inside = offset - (normal[0] * u + normal[1] * v)
    near = (inside >= 0) & (inside < _PENUMBRA_SHARE * max(image.shape))
    depth = inside[near].astype(int)
    rows = np.bincount(depth)
    profile = np.bincount(depth, image[v[near], u[near]]) / np.maximum(rows, 1)
    risen = np.flatnonzero(profile >= _RISEN * profile.max())
    return normal, offset - float(risen[0])
