"""Steps of the cortex where a sheet meets the front or the back of the sacrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points, unit
from ..image import Volume
from .frame import sample_mask
from .model import Anatomy

#: Rays across the sheet reach this far to both sides, leave out its own blur, and are this far apart [mm].
_REACH_MM, _BLUR_MM, _RAY_STEP_MM = 10.0, 1.5, 1.0
#: Rows along the sheet [mm], and steps along the rays [mm].
_ROW_STEP_MM, _ALONG_RAY_MM = 3.0, 0.25
#: Rows whose surface is rougher than this show an edge of the bone, not a step [mm].
_ROUGHEST_MM = 1.0
_FEWEST_ROWS = 5
#: The smallest step that is told from the shape of the bone, the largest that a sheet with bone on both sides can
#: have, and how many standard errors make it clear.
_LEAST_MM, _LARGEST_MM, _TIMES_ERROR = 1.5, 8.0, 3.0


@dataclass(frozen=True)
class CorticalStep:
    """Backward shift of the side that the sheet's normal points to, and its standard error [mm]."""

    step_mm: float
    error_mm: float

    @property
    def is_clear(self) -> bool:
        return max(_LEAST_MM, _TIMES_ERROR * self.error_mm) <= abs(self.step_mm) <= _LARGEST_MM


_NONE = CorticalStep(0.0, 0.0)


def cortical_step(anatomy: Anatomy, points_mm: FloatArray, normal: FloatArray) -> CorticalStep:
    """The larger of the clear steps in the front and the back surface of the sacrum label along the sheet.

    In each of several rows, the surface's depth is fitted by a parabola and a step at the sheet. What the mirrored
    place shows too is the shape of this sacrum, so that is taken off; equal steps on both sides go unseen. A label that
    was smoothed over a step hides it. No step and no error when nothing clear is found or the sheet is central.

    Args:
        points_mm: (n, 3) points of the sheet in sacral coordinates.
        normal: unit normal of the sheet there.
    """
    sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
    mirror = np.array([-1.0, 1.0, 1.0])
    if abs(float(np.sign(points_mm[:, 0]).mean())) < 0.8:
        return _NONE
    here = _surface_steps(sacrum, anatomy.SacrumToRAS, points_mm, normal)
    opposite = _surface_steps(sacrum, anatomy.SacrumToRAS, points_mm * mirror, normal * mirror)
    clear = []
    for own, other in zip(here, opposite, strict=True):
        if own is None or other is None or not own.is_clear:
            continue
        step = CorticalStep(own.step_mm - other.step_mm, float(np.hypot(own.error_mm, other.error_mm)))
        if step.is_clear and step.step_mm * own.step_mm > 0:
            clear.append(step)
    return max(clear, key=lambda step: abs(step.step_mm), default=_NONE)


def front_offset(anatomy: Anatomy, voxels_kji: NDArray[np.int32], normal_ras: FloatArray) -> float | None:
    """How far behind the lower part the front of the sacrum lies above a transverse sheet [mm]; None if too rough."""
    RASToSacrum = invert_rigid(anatomy.SacrumToRAS)
    points = transform_points(RASToSacrum, anatomy.bones.ras_of(voxels_kji))
    normal = RASToSacrum[:3, :3] @ normal_ras
    normal = normal if normal[2] >= 0 else -normal
    sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
    step = _surface_steps(sacrum, anatomy.SacrumToRAS, points, normal)[0]
    return None if step is None else step.step_mm


def _surface_steps(
    sacrum: Volume, SacrumToRAS: FloatArray, points_mm: FloatArray, normal: FloatArray
) -> list[CorticalStep | None]:
    """Steps of the front and the back surface."""
    center = points_mm.mean(axis=0)
    posterior = np.array([0.0, 1.0, 0.0])
    backwards = posterior - (posterior @ normal) * normal
    if np.linalg.norm(backwards) < 0.3:
        return [None, None]
    backwards = unit(backwards)
    row_axis = np.cross(normal, backwards)
    rows = (points_mm - center) @ row_axis
    offsets = np.arange(-_REACH_MM, _REACH_MM + 0.1, _RAY_STEP_MM)
    depth = np.arange(-45.0, 45.1, _ALONG_RAY_MM)
    heights = np.arange(np.percentile(rows, 5), np.percentile(rows, 95) + 0.1, _ROW_STEP_MM)
    grid = (
        center + heights[:, None, None, None] * row_axis + offsets[:, None, None] * normal + depth[:, None] * backwards
    )
    solid = sample_mask(sacrum, transform_points(SacrumToRAS, grid)) > 0.5
    return [
        _step_of_surface(offsets, depth[surface], np.asarray(solid.any(axis=2)))
        for surface in (solid.argmax(axis=2), len(depth) - 1 - solid[..., ::-1].argmax(axis=2))
    ]


def _step_of_surface(offsets: FloatArray, surface: FloatArray, hit: NDArray[np.bool_]) -> CorticalStep | None:
    """Mean step over rows (n, m) of a surface sampled at offsets (m,), with its standard error; None if too rough."""
    used = np.abs(offsets) >= _BLUR_MM
    x = offsets[used] / _REACH_MM
    basis = np.column_stack([np.ones_like(x), x, x * x, (x > 0).astype(float)])
    found = []
    for row, known in zip(surface, hit, strict=True):
        if not known.all():
            continue
        coefficients = np.linalg.lstsq(basis, row[used], rcond=None)[0]
        if float(np.std(row[used] - basis @ coefficients)) <= _ROUGHEST_MM:
            found.append(coefficients[3])
    if len(found) < _FEWEST_ROWS:
        return None
    # Neighboring rows are not independent: a label is smooth over about two of them.
    return CorticalStep(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found) / 2)))
