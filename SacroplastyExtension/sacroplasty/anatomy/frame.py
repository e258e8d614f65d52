"""The sacral frame: mirror plane of the sacrum, S1 endplate and promontory from bone masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import AnatomyError
from ..geometry import FloatArray, angle_between_deg, rigid, transform_points, unit
from ..image import Volume
from .labels import BONE_LABEL

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

#: Half the thickness of the slab around the mirror plane in which endplate and ventral curve are read [mm].
SLAB_HALF_MM = 6.0
#: A mirror plane needs this many points of the surface with a mirror image.
_FEWEST_MIRRORED = 300
#: Where the mirror plane of a cropped sacrum is looked for, to the left of the middle of what is in the image [mm],
#: and the share of its surface that must have a mirror image in it.
_CROPPED_STARTS_MM = (-40, -30, -20, -10, 0, 10, 20, 30, 40)
_SMALLEST_SHARE = 0.25
#: The widest disc space that is searched between L5 and S1 [mm].
_WIDEST_DISC_MM = 22.0
#: What is thinner than this in the mirror plane is no body of a vertebra [mm].
_BRIDGE_MM = 6.0


@dataclass(frozen=True)
class SacralFrame:
    """Axes left, posterior, superior (normal of the S1 endplate) and the endplate's corners in the mirror plane.

    Attributes:
        SacrumToRAS: rigid 4x4, origin at the middle of the S1 endplate.
        promontory_mm, posterior_corner_mm: (posterior, superior) coordinates of the endplate's ends in that frame.
        asymmetry_mm: median distance between the sacral surface and its mirror image.
        endplate_residual_mm: RMS distance of the endplate's points from their straight line.
    """

    SacrumToRAS: FloatArray
    promontory_mm: FloatArray
    posterior_corner_mm: FloatArray
    asymmetry_mm: float
    endplate_residual_mm: float


def sample_mask(mask: Volume, points_ras: FloatArray) -> NDArray[np.float32]:
    """Share of the mask at RAS points (..., 3), interpolated linearly between voxel centres, 0 outside."""
    return sample_voxels(mask.voxels, np.moveaxis(mask.kji_of(points_ras), -1, 0))


def sample_voxels(voxels: NDArray, coordinates: FloatArray) -> NDArray[np.float32]:
    """Linear interpolation at array coordinates (3, ...) in the order k, j, i; 0 outside."""
    from scipy import ndimage

    if not coordinates.size:
        return np.zeros(coordinates.shape[1:], np.float32)
    # Only the box in use: a whole CT as float would cost gigabytes.
    lower = np.maximum(np.floor(coordinates.reshape(3, -1).min(axis=1)).astype(int) - 1, 0)
    upper = np.minimum(np.ceil(coordinates.reshape(3, -1).max(axis=1)).astype(int) + 2, voxels.shape)
    if (upper <= lower).any():
        return np.zeros(coordinates.shape[1:], np.float32)
    crop = voxels[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))].astype(np.float32)
    shifted = coordinates - lower.reshape(3, *[1] * (coordinates.ndim - 1))
    return ndimage.map_coordinates(crop, shifted, order=1, mode="constant", prefilter=False)


def find_frame(bones: Volume) -> SacralFrame:
    """The sacral frame from the labels of sacrum, L5 and hips.

    Raises:
        AnatomyError: when L5 does not lie on the sacrum as a vertebra does.
    """
    sacrum = bones.like(bones.voxels == BONE_LABEL["sacrum"])
    surface = surface_ras(sacrum)
    left = _left_guess(bones)
    center, left, asymmetry_mm = mirror_plane(surface, left, sacrum)
    l5 = bones.ras_of(np.argwhere(bones.voxels == BONE_LABEL["l5"])).mean(axis=0)
    upwards = l5 - center
    superior = unit(upwards - (upwards @ left) * left)
    posterior = np.cross(superior, left)
    if posterior[1] > 0:
        raise AnatomyError(
            "L5 and the hips contradict each other: the sacrum would face backwards; are left and right swapped or is "
            "the image orientation wrong?"
        )
    rough = rigid(np.column_stack([left, posterior, superior]), center)
    return _endplate_frame(bones, rough, asymmetry_mm)


def surface_ras(mask: Volume, most: int = 6000) -> FloatArray:
    from scipy import ndimage

    # Where the border of the image cuts the bone, there is no surface.
    edge = mask.voxels & ~ndimage.binary_erosion(mask.voxels, border_value=1)
    points = mask.ras_of(np.argwhere(edge))
    return points[:: max(1, len(points) // most)]


def _left_guess(bones: Volume) -> FloatArray:
    """Patient's left from the hips' centroids, or -R where one is missing."""
    hips = [np.argwhere(bones.voxels == BONE_LABEL[name]) for name in ("hip_left", "hip_right")]
    if not all(len(hip) for hip in hips):
        return np.array([-1.0, 0.0, 0.0])
    left, right = (bones.ras_of(hip).mean(axis=0) for hip in hips)
    return unit(left - right)


def mirror_plane(
    surface: FloatArray, left: FloatArray, image: Volume | None = None
) -> tuple[FloatArray, FloatArray, float]:
    """Plane that maps the surface onto itself best: a point on it, its normal to the left, and the median misfit.

    Trimmed iterative closest points between the surface and its mirror image: the midpoints of matched pairs lie on
    the plane and their differences along its normal. Points whose mirror image lies outside `image` have no match, so
    that a sacrum whose side is cut off is mirrored by its middle alone.
    """
    from scipy.spatial import cKDTree

    tree, middle = cKDTree(surface), surface.mean(axis=0)
    starts = [middle]
    if not _within(image, surface - 2 * ((surface - middle) @ left)[:, None] * left).all():
        # The middle of what is left of a sacrum is not its mirror plane.
        starts = [middle + offset * left for offset in _CROPPED_STARTS_MM]
    found = [plane for start in starts if (plane := _mirrored_from(start, surface, tree, left, image)) is not None]
    if not found:
        raise AnatomyError(
            "hardly more than half of the sacrum lies in the image, so that its mirror plane is not known; load a "
            "CT that shows the foramina of both sides"
        )
    center, normal, misfit_mm = min(found, key=lambda plane: plane[2])
    if angle_between_deg(normal, left) > 20:
        raise AnatomyError(
            "the sacrum is not mirrored between the hips (its mirror plane stands "
            f"{angle_between_deg(normal, left):.0f} degrees off); is the sacrum label cut off or the pelvis displaced?"
        )
    return center, normal, misfit_mm


def _mirrored_from(
    start: FloatArray, surface: FloatArray, tree: cKDTree, left: FloatArray, image: Volume | None
) -> tuple[FloatArray, FloatArray, float] | None:
    """The nearest mirror plane to one through `start`; None when too little of the surface has its mirror image."""
    center, normal = start, left
    distances = np.zeros(len(surface))
    for _ in range(40):
        mirrored = surface - 2 * ((surface - center) @ normal)[:, None] * normal
        distances, nearest = tree.query(mirrored)
        shown = _within(image, mirrored)
        if shown.sum() < max(_FEWEST_MIRRORED, _SMALLEST_SHARE * len(surface)):
            return None
        distances = np.where(shown, distances, np.inf)
        kept = distances <= np.percentile(distances[shown], 80)
        # The rotation and shift that bring the mirror image onto the surface, then half of each moves the plane.
        moved, fixed = mirrored[kept], surface[nearest[kept]]
        u, _, vt = np.linalg.svd((moved - moved.mean(axis=0)).T @ (fixed - fixed.mean(axis=0)))
        rotation = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        reflection = rotation @ (np.eye(3) - 2 * np.outer(normal, normal))
        values, vectors = np.linalg.eigh((reflection + reflection.T) / 2)
        updated = vectors[:, np.argmin(values)]
        updated = updated * np.sign(updated @ normal)
        middle = (surface[kept].mean(axis=0) + fixed.mean(axis=0)) / 2
        change = angle_between_deg(normal, updated) + abs((middle - center) @ updated)
        center, normal = center + ((middle - center) @ updated) * updated, updated
        if change < 1e-3:
            break
    return center, normal, float(np.median(distances[np.isfinite(distances)]))


def _within(image: Volume | None, points_ras: FloatArray) -> NDArray[np.bool_]:
    if image is None:
        return np.ones(len(points_ras), bool)
    kji = image.kji_of(points_ras)
    return np.all((kji >= 0) & (kji <= np.array(image.voxels.shape) - 1), axis=1)


def slab(
    mask: Volume, SacrumToRAS: FloatArray, posterior_mm: FloatArray, superior_mm: FloatArray
) -> NDArray[np.float64]:
    """Share of the mask in the slab around the mirror plane, [posterior, superior]."""
    left_mm = np.linspace(-SLAB_HALF_MM, SLAB_HALF_MM, 7)
    grid = np.stack(np.meshgrid(left_mm, posterior_mm, superior_mm, indexing="ij"), axis=-1)
    return sample_mask(mask, transform_points(SacrumToRAS, grid)).mean(axis=0)


def _endplate_frame(bones: Volume, rough: FloatArray, asymmetry_mm: float) -> SacralFrame:
    from scipy import ndimage
    from scipy.spatial import cKDTree

    step = 0.75
    along = np.arange(-120, 120, step)
    sacrum = slab(bones.like(bones.voxels == BONE_LABEL["sacrum"]), rough, along, along) > 0.5
    l5 = slab(bones.like(bones.voxels == BONE_LABEL["l5"]), rough, along, along) > 0.5
    # Bridges across the canal, as label maps have them, are thinner than any body.
    parts, count = ndimage.label(ndimage.binary_opening(l5, iterations=round(_BRIDGE_MM / 2 / step)))
    if count == 0 or not sacrum.any():
        raise AnatomyError("L5 does not lie in the mirror plane of the sacrum; check the labels of sacrum and l5")
    body = parts == 1 + int(np.argmax(ndimage.sum_labels(l5, parts, np.arange(1, count + 1))))
    body_edge = np.argwhere(body & ~ndimage.binary_erosion(body)) * step + along[0]
    sacrum_edge = np.argwhere(sacrum & ~ndimage.binary_erosion(sacrum)) * step + along[0]
    distances, nearest = cKDTree(sacrum_edge).query(body_edge)
    facing = (sacrum_edge[nearest] - body_edge)[:, 1] < 0.3 * distances
    used = np.unique(nearest[facing & (distances < _WIDEST_DISC_MM)])
    if len(used) < 5:
        raise AnatomyError(
            f"no S1 endplate within {_WIDEST_DISC_MM:.0f} mm below the body of L5; check the labels of sacrum and l5"
        )
    points = sacrum_edge[used]
    # Towards L5, for the sign of the normal.
    up = body_edge.mean(axis=0) - points.mean(axis=0)
    middle, direction = _line(points)
    for reach_mm in (8.0, 5.0, 3.0):
        normal = np.array([-direction[1], direction[0]]) * np.sign(up @ [-direction[1], direction[0]])
        offset, height = (sacrum_edge - middle) @ direction, (sacrum_edge - middle) @ normal
        low, high = np.percentile((points - middle) @ direction, [2, 98])
        close = (np.abs(height) < reach_mm) & (offset > low - 4) & (offset < high + 4)
        top = _topmost(offset[close], height[close])
        points = sacrum_edge[close][top]
        middle, direction = _line(points)
    direction = direction * np.sign(direction[0])
    normal = np.array([-direction[1], direction[0]])
    normal = normal * np.sign(up @ normal)
    extent = (points - middle) @ direction
    residual = float(np.sqrt(np.mean(((points - middle) @ normal) ** 2)))
    front, back = middle + extent.min() * direction, middle + extent.max() * direction
    center = (front + back) / 2
    rotation = rough[:3, :3]
    posterior, superior = rotation[:, 1:] @ direction, rotation[:, 1:] @ normal
    SacrumToRAS = rigid(
        np.column_stack([np.cross(posterior, superior), posterior, superior]), transform_points(rough, [0, *center])
    )
    half = float(extent.max() - extent.min()) / 2
    if not 8 <= half <= 35:
        raise AnatomyError(
            f"the S1 endplate found is {2 * half:.0f} mm deep, which no sacrum has; check the labels of sacrum and l5"
        )
    return SacralFrame(SacrumToRAS, np.array([-half, 0.0]), np.array([half, 0.0]), asymmetry_mm, residual)


def _line(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Trimmed least-squares line through 2D points: its middle and direction."""
    kept = points
    for _ in range(4):
        middle = kept.mean(axis=0)
        direction = np.linalg.svd(kept - middle)[2][0]
        away = np.abs((points - middle) @ [-direction[1], direction[0]])
        kept = points[away <= max(1.0, float(np.percentile(away, 75)))]
    return kept.mean(axis=0), direction


def _topmost(offset: FloatArray, height: FloatArray, bin_mm: float = 1.0) -> NDArray[np.int_]:
    """Indices of the highest point of each bin along the line."""
    bins = np.floor(offset / bin_mm).astype(int)
    order = np.lexsort((-height, bins))
    first = np.concatenate([[True], np.diff(bins[order]) > 0])
    return order[first]
