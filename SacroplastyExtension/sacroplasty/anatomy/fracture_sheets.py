"""Sheets in the sacrum that are brighter or darker than the bone on both sides: what fracture suggestions start from.

The CT is split in two. A grey-scale closing fills dark clefts thinner than some millimetres, so that sclerosis on both
sides of a cleft is one bright sheet; what the closing filled in (black top-hat) shows the clefts alone. Each part goes
through a bank of oriented plate filters: at each place and for each direction, the course of the values along the
sheet's normal is fitted by a parabola and a narrow bell. The height of the bell is the response. Fitting both keeps
edges and broad transitions, as from body to ala, from looking like sheets, and weights keep out everything that is not
cancellous bone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, rotation_about, transform_points
from ..image import Volume, box_around, crop
from .fracture_model import Direction, EvidenceKind
from .frame import sample_voxels
from .model import Anatomy

#: Grid of the search [mm].
STEP_MM = 2.0
#: Dark gaps up to twice this are clefts [mm], and the blur (SD) before sampling on the grid [mm].
_CLEFT_RADIUS_MM, _BLUR_MM = 2.0, 0.8
#: Bone this near to the surface of the sacrum, canal or foramina is cortex and its blur [mm], plus half a voxel.
_CORTEX_MM = 2.5
#: Widths (SD) of the filter in the sheet, and of the window and the bell across it [mm]. Sclerosis beside a healing
#: insufficiency fracture is some millimetres wide.
_IN_SHEET_MM, WINDOW_MM, BELL_MM = 7.0, 5.0, 2.0
#: Share of the filter that must lie in bone, and of the bell's weight that must be left after the smooth course.
_LEAST_BONE, _LEAST_BELL = 0.3, 0.35
#: Directions of the normals [degrees]: of vertical sheets, turned about the long axis and tilted towards it; of
#: transverse ones, about the transverse axis, since the sacrum is curved.
_YAW_DEG, _TILT_DEG, _PITCH_DEG = (-40, -20, 0, 20, 40), (-30, -15, 0, 15, 30), (-15, 0, 15, 30, 45, 60, 75)


@dataclass(frozen=True)
class SacralBlock:
    """The sacrum's CT numbers on a grid [left, posterior, superior] of the sacral frame.

    Attributes:
        signs: by kind, "sclerosis": CT numbers with clefts filled in, "cleft": how deep each was [HU]; the latter is
            absent where the voxels are too large to show any.
        depth_mm: distance from the surface of the bone, canal and foramina counting as outside; 0 outside.
        interior: True in cancellous bone.
        origin_mm: sacral coordinates of the first grid point.
    """

    signs: dict[EvidenceKind, NDArray[np.float32]]
    depth_mm: NDArray[np.float32]
    interior: NDArray[np.bool_]
    origin_mm: FloatArray


@dataclass(frozen=True)
class SheetCandidate:
    """A local maximum of the response; `center_mm` and the columns (normal, two in the sheet) are sacral.

    `ratio` is the response over the usual size of responses in this bone.
    """

    kind: EvidenceKind
    direction: Direction
    center_mm: FloatArray
    axes: FloatArray
    ratio: float


def sacral_block(ct: Volume, anatomy: Anatomy) -> SacralBlock:
    """Sample the CT inside the sacrum.

    Raises:
        AnatomyError: when the anatomy has no sacrum.
    """
    from scipy import ndimage

    sacrum = anatomy.bone("sacrum")
    if not sacrum.any():
        raise AnatomyError("the anatomy has no sacrum to look for fractures in; segment the CT again")
    clefts, closed = cleft_and_closed(ct, sacrum)
    points = transform_points(invert_rigid(anatomy.SacrumToRAS), ct.ras_of(np.argwhere(sacrum)))
    axes = [np.arange(low - 4, high + 4, STEP_MM) for low, high in zip(points.min(0), points.max(0), strict=True)]
    grid = transform_points(anatomy.SacrumToRAS, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
    coordinates = np.moveaxis(ct.kji_of(grid), -1, 0)
    bone = sample_voxels(sacrum, coordinates) > 0.5
    hollow = sample_voxels(anatomy.canal_and_foramina(), coordinates) > 0.5
    # Labels of osteoporotic alae have holes.
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(bone) | hollow) & ~hollow
    depth = (ndimage.distance_transform_edt(solid) * STEP_MM).astype(np.float32)
    interior = depth > _CORTEX_MM + 0.5 * float(ct.spacing_mm.max())
    origin = np.array([axis[0] for axis in axes])
    volumes: list[tuple[EvidenceKind, Volume]] = [("sclerosis", closed)]
    if clefts.voxels.any():
        volumes.append(("cleft", clefts))
    signs = {kind: sample_voxels(one.voxels, np.moveaxis(one.kji_of(grid), -1, 0)) for kind, one in volumes}
    return SacralBlock(signs, depth, interior, origin)


def cleft_and_closed(ct: Volume, mask: NDArray[np.bool_]) -> tuple[Volume, Volume]:
    """The CT around a mask with thin dark gaps filled in, and how deep each gap was [HU]; both slightly blurred."""
    from scipy import ndimage

    box = box_around(mask, np.ceil(3 * _CLEFT_RADIUS_MM / ct.spacing_mm[::-1]))
    if box is None:
        raise AnatomyError("the anatomy has no sacrum; segment the CT first")
    part = crop(ct, box)
    hounsfield = part.voxels.astype(np.float32)
    reach = np.floor(_CLEFT_RADIUS_MM / ct.spacing_mm[::-1]).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1)
    ball = np.linalg.norm(offsets * ct.spacing_mm[::-1], axis=-1) <= _CLEFT_RADIUS_MM + 1e-6
    closed = ndimage.grey_closing(hounsfield, footprint=ball)
    blur = _BLUR_MM / ct.spacing_mm[::-1]
    filled, depth = (ndimage.gaussian_filter(values, blur) for values in (closed, closed - hounsfield))
    return part.like(depth), part.like(filled)


def find_sheets(
    block: SacralBlock, progress: Callable[[float], None] = lambda fraction: None
) -> tuple[list[SheetCandidate], dict[EvidenceKind, float]]:
    """Bright and dark sheets, the strongest first, each once; and the usual size of responses in this bone [HU].

    The usual size is the robust standard deviation over all places and directions, so noise, texture and density of
    the patient set the scale.
    """
    from scipy import ndimage

    peaks: list[tuple[EvidenceKind, Direction, FloatArray, FloatArray, float]] = []
    sampled: dict[EvidenceKind, list[NDArray]] = {kind: [] for kind in block.signs}
    directions = _directions()
    for number, (direction, axes) in enumerate(directions):
        progress(number / len(directions))
        responses, half, middle = _responses(block, axes)
        for kind, response in responses.items():
            known = np.isfinite(response)
            if not known.any():
                continue
            sampled[kind].append(response[known][::5])
            filled = np.where(known, response, -np.inf)
            for index in np.argwhere((filled == ndimage.maximum_filter(filled, 5)) & (filled > 0)):
                center = block.origin_mm + (axes @ (index - half) + middle) * STEP_MM
                peaks.append((kind, direction, center, axes, float(filled[tuple(index)])))
    usual = {kind: _usual(np.concatenate(values)) for kind, values in sampled.items() if values}
    found = [
        SheetCandidate(kind, direction, center, axes, height / usual[kind])
        for kind, direction, center, axes, height in peaks
    ]
    found.sort(key=lambda candidate: -candidate.ratio)
    return _once_each(found), usual


def _usual(values: NDArray) -> float:
    return max(1.4826 * float(np.median(np.abs(values - np.median(values)))), 1e-3)


def at(block: SacralBlock, values: NDArray, points_mm: FloatArray) -> NDArray[np.float32]:
    """Values of the block's grid at sacral points (..., 3), 0 outside."""
    from scipy import ndimage

    index = np.moveaxis((points_mm - block.origin_mm) / STEP_MM, -1, 0)
    return ndimage.map_coordinates(values.astype(np.float32), index, order=1, mode="constant", prefilter=False)


def _directions() -> list[tuple[Direction, FloatArray]]:
    """Right-handed axes in the sacral frame, the sheet's normal first."""
    result: list[tuple[Direction, FloatArray]] = [
        ("vertical", rotation_about([0, 0, 1], yaw) @ rotation_about([0, 1, 0], tilt))
        for yaw in _YAW_DEG
        for tilt in _TILT_DEG
    ]
    upright = np.column_stack([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    result += [("transverse", rotation_about([1, 0, 0], pitch) @ upright) for pitch in _PITCH_DEG]
    return result


def _responses(
    block: SacralBlock, axes: FloatArray
) -> tuple[dict[EvidenceKind, NDArray[np.float32]], NDArray, FloatArray]:
    """Heights of the bell [HU] on a grid turned along `axes`, NaN where too little bone; its middle in both grids."""
    from scipy import ndimage

    shape = np.array(block.interior.shape)
    middle = (shape - 1) / 2
    corners = np.array(np.meshgrid(*[[0, size - 1] for size in shape], indexing="ij")).reshape(3, -1).T - middle
    half = np.ceil(np.abs(corners @ axes).max(axis=0)).astype(int)
    offset, size = middle - axes @ half, tuple(2 * half + 1)
    in_sheet = (0, _IN_SHEET_MM / STEP_MM, _IN_SHEET_MM / STEP_MM)

    def turned(values: NDArray) -> NDArray[np.float32]:
        values = ndimage.affine_transform(values.astype(np.float32), axes, offset, output_shape=size, order=1)
        return ndimage.gaussian_filter(values, in_sheet, mode="constant", truncate=2.5)

    weight = turned(block.interior)
    data = [turned(values * block.interior) for values in block.signs.values()]
    heights = fit_bell(weight, data, STEP_MM, WINDOW_MM, BELL_MM)
    return dict(zip(block.signs, heights, strict=True)), half, middle


def fit_bell(
    weight: NDArray[np.float32], data: list[NDArray[np.float32]], step_mm: float, window_mm: float, bell_mm: float
) -> list[NDArray[np.float32]]:
    """Height of a bell above a parabola along axis 0, by weighted least squares at each place.

    Args:
        weight: 0 to 1, share of bone.
        data: arrays of the same shape, values times weight.

    Returns:
        One array for each of `data`; NaN where there is too little bone to tell the bell from the parabola.
    """
    from scipy import ndimage

    reach = int(2 * window_mm / step_mm)
    along = np.arange(-reach, reach + 1) * step_mm
    window = np.exp(-0.5 * (along / window_mm) ** 2)
    # Scaled so that all moments are of one size.
    basis = [window**0, along / window_mm, (along / window_mm) ** 2, np.exp(-0.5 * (along / bell_mm) ** 2)]
    known = weight > _LEAST_BONE

    def moment(values: NDArray[np.float32], kernel: FloatArray) -> NDArray[np.float32]:
        return ndimage.correlate1d(values, (window * kernel).astype(np.float32), axis=0, mode="constant")[known]

    matrix = [[moment(weight, first * second) for second in basis[: row + 1]] for row, first in enumerate(basis)]
    full = [[np.array((window * a * b).sum()) for b in basis[: row + 1]] for row, a in enumerate(basis)]
    left_of_full, _ = _eliminate(full, [np.array(0.0)] * 4)
    results = []
    for values in data:
        left, rest = _eliminate(matrix, [moment(values, first) for first in basis])
        result = np.full(weight.shape, np.nan, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            result[known] = np.where(left > _LEAST_BELL * left_of_full, rest / left, np.nan)
        results.append(result)
    return results


def _eliminate(matrix: list[list[NDArray]], right: list[NDArray]) -> tuple[NDArray, NDArray]:
    """What is left of the last row and right side of symmetric equations (lower triangle) after all others."""
    matrix, right = [list(row) for row in matrix], list(right)
    last = len(right) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        for pivot in range(last):
            for row in range(pivot + 1, last + 1):
                factor = matrix[row][pivot] / matrix[pivot][pivot]
                for column in range(pivot + 1, row + 1):
                    matrix[row][column] = matrix[row][column] - factor * matrix[column][pivot]
                right[row] = right[row] - factor * right[pivot]
    return matrix[last][last], right[last]


def _once_each(candidates: list[SheetCandidate], most: int = 24) -> list[SheetCandidate]:
    """The strongest of those that lie in one sheet."""
    kept: list[SheetCandidate] = []
    for candidate in candidates:
        if not any(_same_sheet(candidate, other) for other in kept):
            kept.append(candidate)
        if len(kept) == most:
            break
    return kept


def _same_sheet(a: SheetCandidate, b: SheetCandidate) -> bool:
    between = a.center_mm - b.center_mm
    apart = float(np.linalg.norm(between))
    off_plane = abs(float(between @ b.axes[:, 0]))
    return apart < 10 or (apart < 35 and off_plane < 6 and abs(float(a.axes[:, 0] @ b.axes[:, 0])) > 0.8)
