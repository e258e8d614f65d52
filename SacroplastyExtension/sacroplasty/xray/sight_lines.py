"""Planes and lines of a sacrum that the C-arm looks along: S1 endplate, front of the bodies, sacroiliac joints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.frame import sample_mask
from ..anatomy.labels import REGION_LABEL, SIDES
from ..anatomy.model import Anatomy
from ..anatomy.surroundings import cortical_surfaces
from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, transform_points, unit
from ..image import box_around

#: Half width and half depth of the part of the endplate that is measured: within its rim in the smallest S1 [mm].
_ENDPLATE_HALF_MM = (16.0, 22.0)
#: The endplate is looked for this far above and below the frame's own estimate [mm].
_ENDPLATE_REACH_MM = 14.0
#: Points farther from the plane than each of these in turn are no endplate [mm].
_TRIMMED_MM = (8.0, 4.0, 2.5, 1.5, 1.5)
#: Half width of the slab around the mirror plane in which the front of the bodies is read [mm].
_FRONT_HALF_WIDTH_MM = 6.0
_FEWEST_POINTS = 30
#: Bone of the sacrum this near to the hip forms the joint [mm]: joints are 1 to 3 mm wide, and from the middle of one
#: voxel to that of the next bone it is a voxel more.
_JOINT_REACH_MM = 3.0
#: Smoothing before a normal of the cortex is read off the labels [mm], and how many normals are enough.
_SMOOTH_MM, _MOST_NORMALS = 2.0, 2000


@dataclass(frozen=True)
class Plane:
    """A plane by a point on it and its unit normal, and the RMS distance of the measured points from it."""

    point_ras: FloatArray
    normal_ras: FloatArray
    residual_mm: float


def endplate(anatomy: Anatomy) -> Plane:
    """The S1 endplate as the plane nearest to its surface, normal upwards.

    The frame's own endplate is a line in the mirror plane; this one also knows how it is tilted from side to side.

    Raises:
        AnatomyError: when no endplate is there.
    """
    sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
    frame = anatomy.SacrumToRAS
    x, y = (np.arange(-half, half + 0.5) for half in _ENDPLATE_HALF_MM)
    step = 0.5
    z = np.arange(_ENDPLATE_REACH_MM, -_ENDPLATE_REACH_MM, -step)
    share = sample_mask(sacrum, transform_points(frame, np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)))
    surface = _first_crossing(share, z)
    known = np.isfinite(surface)
    points = np.column_stack([*(grid[known] for grid in np.meshgrid(x, y, indexing="ij")), surface[known]])
    kept = np.abs(points[:, 2]) < _TRIMMED_MM[0]
    for limit in _TRIMMED_MM[1:]:
        if np.count_nonzero(kept) < _FEWEST_POINTS:
            raise AnatomyError("the S1 endplate is not seen in the bone labels; check the label of the sacrum")
        columns = np.column_stack([points[:, :2], np.ones(len(points))])
        slope = np.linalg.lstsq(columns[kept], points[kept, 2], rcond=None)[0]
        off = points[:, 2] - columns @ slope
        kept = np.abs(off) < limit
    normal = frame[:3, :3] @ unit([-slope[0], -slope[1], 1.0])
    middle = transform_points(frame, points[kept].mean(axis=0))
    return Plane(middle, normal, float(np.sqrt(np.mean(off[kept] ** 2))))


def front_of_bodies(anatomy: Anatomy) -> tuple[FloatArray, FloatArray]:
    """The line along the fronts of the bodies of S1 and S2 in the mirror plane: its middle, unit direction downwards.

    Raises:
        AnatomyError: when the bodies were not segmented.
    """
    RASToSacrum = invert_rigid(anatomy.SacrumToRAS)
    bodies = np.isin(anatomy.regions.voxels, [REGION_LABEL["body_s1"], REGION_LABEL["body_s2"]])
    inside = transform_points(RASToSacrum, anatomy.regions.ras_of(np.argwhere(bodies)))
    inside = inside[np.abs(inside[:, 0]) <= _FRONT_HALF_WIDTH_MM]
    if len(inside) < _FEWEST_POINTS:
        raise AnatomyError("the bodies of S1 and S2 were not found, so their front is not known; segment again")
    lowest, front = float(np.percentile(inside[:, 2], 2)), float(inside[:, 1].min())
    sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
    x = np.arange(-_FRONT_HALF_WIDTH_MM, _FRONT_HALF_WIDTH_MM + 0.5, 2.0)
    z = np.arange(-4.0, lowest, -1.0)
    y = np.arange(front - 6.0, float(inside[:, 1].max()), 0.5)
    along_x, along_z, along_y = np.meshgrid(x, z, y, indexing="ij")
    points = transform_points(anatomy.SacrumToRAS, np.stack([along_x, along_y, along_z], axis=-1))
    share = sample_mask(sacrum, points)
    depth = _first_crossing(share, y)
    rows = np.isfinite(depth).any(axis=0)
    if np.count_nonzero(rows) < 10:
        raise AnatomyError("the front of S1 and S2 is not seen in the bone labels; check the label of the sacrum")
    profile = np.nanmean(depth[:, rows], axis=0)
    slope, offset = np.polyfit(z[rows], profile, 1)
    middle_z = float(z[rows].mean())
    middle = transform_points(anatomy.SacrumToRAS, [0.0, slope * middle_z + offset, middle_z])
    return middle, anatomy.SacrumToRAS[:3, :3] @ unit([0.0, -slope, -1.0])


def joint_of_sacrum(anatomy: Anatomy, side: str) -> NDArray[np.bool_]:
    """Mask of the sacrum's bone next to the hip of a side, on the CT's grid; empty where the hip is not known.

    The space of a joint is thinner than the voxels of many a CT, which leave shreds of it; the bone beside it is whole.
    """
    from scipy import ndimage

    sacrum, hip = anatomy.bone("sacrum"), anatomy.bone(f"hip_{side}")
    spacing = anatomy.bones.spacing_mm[::-1]
    reach = _JOINT_REACH_MM + float(spacing.max())
    joint = np.zeros_like(sacrum)
    box = box_around(sacrum, np.ceil(reach / spacing) + 1)
    if box is not None and hip[box].any():
        joint[box] = sacrum[box] & (ndimage.distance_transform_edt(~hip[box], sampling=spacing) <= reach)
    return joint


def joint_plane(anatomy: Anatomy, side: str) -> Plane:
    """The sacroiliac joint of a side as a plane, normal to the patient's left.

    Raises:
        AnatomyError: when the hip or the joint is not known.
    """
    points = anatomy.bones.ras_of(np.argwhere(joint_of_sacrum(anatomy, side)))
    if len(points) < _FEWEST_POINTS:
        raise AnatomyError(f"the {side} sacroiliac joint is not known; segment again with the label of the hip")
    middle = points.mean(axis=0)
    spread = np.linalg.svd((points - middle).T @ (points - middle))
    normal = spread[0][:, 2]
    normal = normal * (1.0 if normal @ anatomy.SacrumToRAS[:3, 0] >= 0 else -1.0)
    return Plane(middle, normal, float(np.sqrt(spread[1][2] / len(points))))


def anterior_cortex_normals(anatomy: Anatomy) -> FloatArray:
    """Unit normals (n, 3) of the anterior cortex of both alae, out of the bone.

    Raises:
        AnatomyError: when foramina or alae are not known.
    """
    from scipy import ndimage

    anterior, _ = cortical_surfaces(anatomy)
    alae = np.isin(anatomy.regions.voxels, [REGION_LABEL[f"ala_{side}"] for side in SIDES])
    voxels = np.argwhere(anterior & alae)
    if len(voxels) < _FEWEST_POINTS:
        raise AnatomyError("the anterior cortex of the alae is not known; segment again")
    voxels = voxels[:: max(1, len(voxels) // _MOST_NORMALS)]
    spacing = anatomy.bones.spacing_mm[::-1]
    margin = np.ceil(3 * _SMOOTH_MM / spacing).astype(int)
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    box = tuple(slice(a, b) for a, b in zip(low, voxels.max(axis=0) + margin + 1, strict=True))
    sacrum = anatomy.bone("sacrum")[box].astype(np.float32)
    smooth = ndimage.gaussian_filter(sacrum, _SMOOTH_MM / spacing)
    at = tuple((voxels - low).T)
    # Bone falls off outwards; indices k, j, i become RAS by the columns of the grid's own axes.
    slopes = np.column_stack([-part[at] for part in np.gradient(smooth, *spacing)])
    axes = (anatomy.bones.IJKToRAS[:3, :3] / anatomy.bones.spacing_mm)[:, ::-1]
    normals = slopes @ axes.T
    lengths = np.linalg.norm(normals, axis=1)
    return normals[lengths > 0] / lengths[lengths > 0, None]


def _first_crossing(share: np.ndarray, places: FloatArray) -> FloatArray:
    """Where along the last axis a mask begins, interpolated; NaN where it does not, or where it has begun before."""
    inside = share >= 0.5
    first = np.argmax(inside, axis=-1)
    found = inside.any(axis=-1) & (first > 0)
    before = np.maximum(first - 1, 0)
    outer, inner = (np.take_along_axis(share, index[..., None], -1)[..., 0] for index in (before, np.maximum(first, 1)))
    part = (0.5 - outer) / np.maximum(inner - outer, 1e-3)
    return np.where(found, places[before] + part * (places[1] - places[0]), np.nan)
