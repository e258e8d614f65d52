"""Fractures that a person marks, with a curve, a plane or by accepting a suggestion, as voxels inside the sacrum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import AnatomyError
from ..geometry import FloatArray, perpendicular, unit
from .fracture_model import FractureSuggestion, MarkedFracture, Source
from .model import Anatomy

#: A marked line stands for a sheet this thick [mm], about the width of sclerosis beside an insufficiency fracture.
THICKNESS_MM = 3.0
#: How far a sheet goes on through the bone at right angles to the view that showed the line [mm].
REACH_MM = 25.0
#: A curve shorter than this is a slip of the hand [mm].
_SHORTEST_MM = 5.0
#: Steps at which a curve is followed [mm].
_CURVE_STEP_MM = 0.5


def fracture_from_curve(
    points_ras: ArrayLike, anatomy: Anatomy, thickness_mm: float = THICKNESS_MM, reach_mm: float = REACH_MM
) -> MarkedFracture:
    """The sheet behind a line that a person drew in a slice.

    A line that runs up and down or across was drawn in a view from the front, so the sheet goes through it from front
    to back; one that runs from front to back was drawn in an axial slice, so the sheet goes up and down.

    Args:
        points_ras: (n, 3) points in order, at least two.
        reach_mm: how far the sheet goes to both sides of the line.

    Raises:
        AnatomyError: for a line that is too short, not finite or outside the sacrum.
    """
    points = _finite_points(points_ras, "the curve")
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if len(points) < 2 or lengths.sum() < _SHORTEST_MM:
        raise AnatomyError(
            f"the curve is {lengths.sum():.1f} mm long; draw at least {_SHORTEST_MM:.0f} mm along the fracture line"
        )
    _check_sizes(thickness_mm, reach_mm)
    posterior, superior = anatomy.SacrumToRAS[:3, 1], anatomy.SacrumToRAS[:3, 2]
    run = np.abs(np.diff(points, axis=0) @ np.column_stack([posterior, superior])).sum(axis=0)
    through = superior if run[0] > max(run[1], 0.5 * lengths.sum()) else posterior
    arc = np.concatenate([[0.0], np.cumsum(lengths)])
    dense = np.column_stack([np.interp(np.arange(0, arc[-1], _CURVE_STEP_MM), arc, points[:, i]) for i in range(3)])
    voxels, centers = _sacral_voxels(anatomy)
    from scipy.spatial import cKDTree

    across = perpendicular(through)
    flat = np.column_stack([across, np.cross(through, across)])
    distances, nearest = cKDTree(dense @ flat).query(centers @ flat)
    near = (distances <= _half_thickness(anatomy, thickness_mm)) & (
        np.abs((centers - dense[nearest]) @ through) <= reach_mm
    )
    return _marked(anatomy, voxels[near], points, thickness_mm, "curve")


def fracture_from_plane(
    point_ras: ArrayLike,
    normal_ras: ArrayLike,
    anatomy: Anatomy,
    thickness_mm: float = THICKNESS_MM,
    along_ras: ArrayLike | None = None,
    extent_mm: tuple[float, float] | None = None,
    source: Source = "plane",
) -> MarkedFracture:
    """The part of the sacrum at a plane, as far as it is connected with what is nearest to the point.

    Bone on both sides of a foramen or the canal is one: a fracture goes on behind an opening.

    Args:
        along_ras, extent_mm: direction in the plane and full lengths along and across it of a rectangle around the
            point that bounds the sheet; the whole plane without.

    Raises:
        AnatomyError: for a plane that is not finite, has no normal, or misses the sacrum.
    """
    from scipy import ndimage

    point = _finite_points(np.atleast_2d(np.asarray(point_ras, float)), "the plane's point")[0]
    normal = _direction(normal_ras, "the plane's normal")
    _check_sizes(thickness_mm, REACH_MM)
    sacrum = anatomy.bone("sacrum")
    voxels = np.argwhere(sacrum | anatomy.canal_and_foramina())
    away = anatomy.bones.ras_of(voxels) - point
    near = np.abs(away @ normal) <= _half_thickness(anatomy, thickness_mm)
    if along_ras is not None and extent_mm is not None:
        _check_sizes(*extent_mm)
        along = _direction(along_ras, "the plane's axis")
        across = np.cross(normal, along)
        near &= (np.abs(away @ along) <= extent_mm[0] / 2) & (np.abs(away @ across) <= extent_mm[1] / 2)
    voxels, away = voxels[near], away[near]
    if not sacrum[tuple(voxels.T)].any():
        raise AnatomyError("the plane does not pass through the sacrum; place it on the fracture line")
    low = voxels.min(axis=0)
    box = np.zeros(voxels.max(axis=0) - low + 1, bool)
    box[tuple((voxels - low).T)] = True
    parts, _ = ndimage.label(box, np.ones((3, 3, 3)))
    part = parts[tuple((voxels - low).T)]
    kept = part == part[int(np.argmin(np.linalg.norm(away, axis=1)))]
    voxels = voxels[kept & sacrum[tuple(voxels.T)]]
    return _marked(anatomy, voxels, point[None], thickness_mm, source)


def fracture_from_suggestion(suggestion: FractureSuggestion, anatomy: Anatomy) -> MarkedFracture:
    """The sheet of a suggestion that a person accepted as a fracture line.

    Raises:
        AnatomyError: when the suggestion lies outside the sacrum of this anatomy.
    """
    return fracture_from_plane(
        suggestion.center_ras,
        suggestion.normal_ras,
        anatomy,
        along_ras=suggestion.along_ras,
        extent_mm=suggestion.extent_mm,
        source="suggestion",
    )


def fracture_from_mask(mask: NDArray[np.bool_], anatomy: Anatomy, thickness_mm: float = THICKNESS_MM) -> MarkedFracture:
    """A fracture painted by hand, as far as it lies in the sacrum.

    Raises:
        AnatomyError: for a mask of another grid or outside the sacrum.
    """
    if mask.shape != anatomy.bones.voxels.shape:
        raise AnatomyError(f"the painted fracture has the grid {mask.shape}, the CT {anatomy.bones.voxels.shape}")
    voxels = np.argwhere(mask & anatomy.bone("sacrum"))
    points = anatomy.bones.ras_of(voxels).mean(axis=0)[None] if len(voxels) else np.zeros((1, 3))
    return _marked(anatomy, voxels, points, thickness_mm, "segment")


def _marked(
    anatomy: Anatomy, voxels: NDArray[np.int_], points: FloatArray, thickness_mm: float, source: Source
) -> MarkedFracture:
    if len(voxels) < 3:
        raise AnatomyError("the marked line does not pass through the sacrum; draw it on the bone")
    centers = anatomy.bones.ras_of(voxels)
    normal = np.linalg.svd(centers - centers.mean(axis=0), full_matrices=False)[2][2]
    # One of the two normals, the same one each time: to the left, else upwards.
    sacral = anatomy.SacrumToRAS[:3, :3].T @ normal
    towards = sacral[0] if abs(sacral[0]) >= 0.6 else sacral[2]
    return MarkedFracture(voxels.astype(np.int32), points, normal if towards >= 0 else -normal, thickness_mm, source)


def _sacral_voxels(anatomy: Anatomy) -> tuple[NDArray[np.int_], FloatArray]:
    voxels = np.argwhere(anatomy.bone("sacrum"))
    if not len(voxels):
        raise AnatomyError("the anatomy has no sacrum to mark a fracture in; segment the CT again")
    return voxels, anatomy.bones.ras_of(voxels)


def _half_thickness(anatomy: Anatomy, thickness_mm: float) -> float:
    # A sheet thinner than the voxels would fall apart.
    return max(thickness_mm / 2, 0.6 * float(anatomy.bones.spacing_mm.max()))


def _check_sizes(*sizes_mm: float) -> None:
    if not all(np.isfinite(size) and size > 0 for size in sizes_mm):
        sizes = " x ".join(f"{size:g}" for size in sizes_mm)
        raise AnatomyError(f"a fracture cannot be {sizes} mm; give lengths above 0")


def _finite_points(points_ras: ArrayLike, what: str) -> FloatArray:
    points = np.asarray(points_ras, float)
    if points.ndim != 2 or points.shape[1:] != (3,) or not np.isfinite(points).all():
        raise AnatomyError(f"{what} needs points of three finite coordinates in mm; place it again")
    return points


def _direction(vector: ArrayLike, what: str) -> FloatArray:
    direction = np.asarray(vector, float)
    if direction.shape != (3,) or not np.isfinite(direction).all() or np.linalg.norm(direction) < 1e-6:
        raise AnatomyError(f"{what} is no direction; place the plane again")
    return unit(direction)
