"""What lies on the surface of the sacrum: its front and back cortex, the presacral layer, the sacroiliac joints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, unit
from ..image import box_around
from .labels import REGION_LABEL
from .model import Anatomy

#: Sacroiliac joint: space this near to both bones [mm], so gaps up to twice this. Joints are a few millimetres wide on
#: CT; more would take in the ligaments behind the joint, through which the way to the ala leads.
JOINT_REACH_MM = 3.0
#: Depth of the bone that counts as cortical surface [mm]: at least one voxel, cortex being thinner than that.
_CORTEX_MM = 1.5
#: Thickness of the layer in front of the sacrum in which its veins run [mm] (own choice).
PRESACRAL_MM = 5.0


def joint_space(to_sacrum_mm: NDArray, to_hip_mm: NDArray) -> NDArray[np.bool_]:
    """Where a point lies between sacrum and hip, from its distances to both; negative distances are inside a bone."""
    near = (to_sacrum_mm <= JOINT_REACH_MM) & (to_hip_mm <= JOINT_REACH_MM)
    return near & (to_sacrum_mm > 0) & (to_hip_mm > 0)


def si_joint(anatomy: Anatomy, side: str) -> NDArray[np.bool_]:
    """Mask of the space of a sacroiliac joint on the CT's grid; empty where the hip is not known."""
    from scipy import ndimage

    sacrum, hip = anatomy.bone("sacrum"), anatomy.bone(f"hip_{side}")
    joint = np.zeros_like(sacrum)
    box = _box(sacrum, anatomy.bones.spacing_mm[::-1], JOINT_REACH_MM)
    if box is None or not hip[box].any():
        return joint
    spacing = anatomy.bones.spacing_mm[::-1]
    joint[box] = joint_space(*(ndimage.distance_transform_edt(~bone[box], sampling=spacing) for bone in (sacrum, hip)))
    return joint


def cortical_surfaces(anatomy: Anatomy) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the anterior and of the posterior cortex of the sacrum: its outermost bone, seen along the foramina.

    Raises:
        AnatomyError: when the anatomy has no foramen that gives the direction.
    """
    inside, depth, front, rear = along_foramina(anatomy, np.argwhere(anatomy.bone("sacrum")))
    reach = max(_CORTEX_MM, float(anatomy.bones.spacing_mm.max()))
    masks = []
    for outermost in (depth - front <= reach, rear - depth <= reach):
        mask = np.zeros(anatomy.bones.voxels.shape, bool)
        mask[tuple(inside[outermost].T)] = True
        masks.append(mask)
    return masks[0], masks[1]


def presacral_layer(anatomy: Anatomy, thickness_mm: float = PRESACRAL_MM) -> NDArray[np.bool_]:
    """Mask of what is no bone and lies in front of the sacrum, within a distance of its anterior cortex.

    Canal and foramina are no part of it.

    Raises:
        AnatomyError: when the anatomy has no foramen that gives the direction.
    """
    from scipy import ndimage

    anterior, _ = cortical_surfaces(anatomy)
    layer = np.zeros_like(anterior)
    box = _box(anterior, anatomy.bones.spacing_mm[::-1], thickness_mm)
    if box is None:
        return layer
    distance = ndimage.distance_transform_edt(~anterior[box], sampling=anatomy.bones.spacing_mm[::-1])
    regions = anatomy.regions.voxels[box]
    free = (anatomy.bones.voxels[box] == 0) & ((regions == 0) | (regions >= REGION_LABEL["ala_left"]))
    near = np.argwhere(free & (distance <= thickness_mm)) + [axis.start for axis in box]
    points, depth, front, _ = along_foramina(anatomy, near)
    layer[tuple(points[depth < front].T)] = True
    return layer


def axis_of_foramina(anatomy: Anatomy) -> FloatArray | None:
    """Unit vector backwards along the foramina, at a right angle to the sacrum's left; None without foramina."""
    axes = [unit(item.posterior.center_ras - item.anterior.center_ras) for item in anatomy.foramina.values()]
    if not axes:
        return None
    left = anatomy.SacrumToRAS[:3, 0]
    back = np.mean(axes, axis=0)
    return unit(back - (back @ left) * left)


def along_foramina(anatomy: Anatomy, voxels: NDArray[np.int_]) -> tuple[NDArray, FloatArray, FloatArray, FloatArray]:
    """Those voxels (n, 3) that have sacrum before or behind them, their depth, and that of its front and back [mm].

    Raises:
        AnatomyError: when the anatomy has no foramen that gives the direction.
    """
    from ..errors import AnatomyError

    back = axis_of_foramina(anatomy)
    if back is None:
        raise AnatomyError("the anatomy has no foramina, so the front of the sacrum is not known; segment again")
    left = anatomy.SacrumToRAS[:3, 0]
    RASToView = np.stack([left, back, np.cross(left, back)])
    cell_mm = max(2.0, float(anatomy.bones.spacing_mm.max()))
    sacrum = anatomy.bones.ras_of(np.argwhere(anatomy.bone("sacrum"))) @ RASToView.T
    points = anatomy.bones.ras_of(voxels) @ RASToView.T
    corner = sacrum.min(axis=0)
    shape = np.floor((sacrum.max(axis=0) - corner) / cell_mm).astype(int)[[0, 2]] + 2
    cells, own = (np.floor((group - corner)[:, [0, 2]] / cell_mm).astype(int) for group in (sacrum, points))
    front, rear = np.full(shape, np.inf), np.full(shape, -np.inf)
    np.minimum.at(front, tuple(cells.T), sacrum[:, 1])
    np.maximum.at(rear, tuple(cells.T), sacrum[:, 1])
    within = ((own >= 0) & (own < shape)).all(axis=1)
    within[within] = np.isfinite(front[tuple(own[within].T)])
    at = tuple(own[within].T)
    return voxels[within], points[within, 1], front[at], rear[at]


def _box(mask: NDArray[np.bool_], spacing_kji: FloatArray, reach_mm: float) -> tuple[slice, ...] | None:
    """The part of the grid that a mask can reach."""
    return box_around(mask, np.ceil(reach_mm / spacing_kji) + 1)
