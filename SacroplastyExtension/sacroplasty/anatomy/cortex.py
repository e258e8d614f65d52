"""Where a label map counts soft tissue as bone: the surface of bone is cortex, and cortex is bright."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..image import Volume, box_around

#: Nerve, muscle and fat are darker than this, cortex brighter even where it fills a voxel in part [HU] (own choice).
SOFT_HU = 90.0
#: How far a label's surface may lie outside the cortex [mm], and what a voxel of noise may hide (own choices).
_LABEL_ERROR_MM = 2.0
#: Depth to which a hole that the label map filled is followed into the bone, and its least radius [mm] (own choices):
#: the smallest foramina measure about 7 mm, and clefts and gaps of the cortex are narrower.
_HOLE_DEPTH_MM, _HOLE_RADIUS_MM = 12.0, 2.0
#: In larger voxels thin cortex is as dark as marrow, and nothing is taken from the label [mm] (own choice;
#: at 3 mm marrow of the sample patient was taken for soft tissue).
_COARSEST_MM = 2.0
#: Share of a bone beyond which holes so deep are a leak into its marrow (own choice).
_LARGEST_LEAK = 0.1
#: Standard deviation of the smoothing that keeps noise from looking soft [voxels] (own choice).
SMOOTHING_VOXELS = 0.5
#: Muscle [HU]: what lies outside of cortex, where fat does not [own choice: fat would put the edge farther out].
OUTSIDE_HU = 50.0
#: How far a label may reach beyond the edge of cortex, and within which distance the cortex is then [mm] (own choices).
_BEYOND_EDGE_MM, _CORTEX_WITHIN_MM = 2.5, 3.0


def without_soft_surface(bone: Volume, ct: Volume) -> Volume:
    """A bone's mask without the soft tissue that it shows at its surface and in holes of it.

    Soft marrow stays, for there is cortex between it and the surface; where voxels are too large to show that cortex,
    or it is missing, the label stays as it is.

    Args:
        bone: mask on the CT's grid.
    """
    from scipy import ndimage

    if float(ct.spacing_mm.max()) > _COARSEST_MM:
        return bone
    used = [(int(index.min()), int(index.max()) + 1) for index in np.nonzero(bone.voxels)]
    box = tuple(slice(max(low - 2, 0), high + 2) for low, high in used)
    spacing = ct.spacing_mm[::-1]
    mask = np.pad(bone.voxels[box], 1)
    smooth = ndimage.gaussian_filter(ct.voxels[box].astype(np.float32), SMOOTHING_VOXELS)
    soft = mask & np.pad(smooth < SOFT_HU, 1)
    depth_mm = ndimage.distance_transform_edt(mask, sampling=spacing)
    near = (depth_mm <= _LABEL_ERROR_MM) | (mask & ~ndimage.binary_erosion(mask))
    # Holes are wide: what a ball fits into.
    room_mm = ndimage.distance_transform_edt(soft | ~mask, sampling=spacing)
    wide = ndimage.distance_transform_edt(room_mm <= _HOLE_RADIUS_MM, sampling=spacing) <= _HOLE_RADIUS_MM
    holes = soft & wide & (depth_mm <= _HOLE_DEPTH_MM)
    outside = _reached(~mask, soft & (near | holes))
    if np.count_nonzero(outside & mask & ~near) > _LARGEST_LEAK * np.count_nonzero(mask):
        outside = _reached(~mask, soft & near)
    result = np.zeros_like(bone.voxels)
    result[box] = (mask & ~outside)[1:-1, 1:-1, 1:-1]
    return bone.like(result)


def within_cortex(bone: Volume, ct: Volume) -> Volume:
    """A bone's mask cut back to the edge of its cortex: where the CT is half as bright as the cortex next to it.

    The half maximum is where a blurred edge lies. Nothing is added, and cortex that does not show takes nothing away
    beyond 2.5 mm. In voxels above 2 mm, where thin cortex does not show, the mask stays as it is.

    Args:
        bone: mask on the CT's grid.
    """
    from scipy import ndimage

    box = box_around(bone.voxels, 1)
    if box is None or float(ct.spacing_mm.max()) > _COARSEST_MM:
        return bone
    spacing = ct.spacing_mm[::-1]
    mask = bone.voxels[box]
    smooth = ndimage.gaussian_filter(ct.voxels[box].astype(np.float32), SMOOTHING_VOXELS)
    around, beyond = (2 * np.ceil(reach / spacing).astype(int) + 1 for reach in (_CORTEX_WITHIN_MM, _BEYOND_EDGE_MM))
    cortex = ndimage.maximum_filter(np.where(mask, smooth, OUTSIDE_HU), tuple(around))
    shell = mask & ~ndimage.minimum_filter(mask, tuple(beyond), mode="nearest")
    dark = shell & (smooth < (OUTSIDE_HU + cortex) / 2)
    # Through what is dark from outside; behind cortex it is marrow.
    outside = ndimage.binary_dilation(~mask, iterations=int(beyond.max() // 2), mask=~mask | dark)
    result = np.zeros_like(bone.voxels)
    result[box] = mask & ~outside
    return bone.like(result)


def _reached(start: NDArray[np.bool_], passable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    reached: NDArray[np.bool_] = ndimage.binary_propagation(start, mask=start | passable)
    return reached
