"""From fitted surfaces to labelled voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray, transform_points, unit
from ...image import Volume, crop
from ..labels import BONE_LABEL, BONES
from .deform import Fit
from .profiles import STEP_MM, sample_lines
from .template import SOLID_SACRUM, Template, vertex_normals

Mask = NDArray[np.bool_]

#: Margin of the box around the fitted surfaces in which voxels are looked at [mm]; room for S5 and the coccyx.
_MARGIN_MM = 12.0
_CAUDAL_MARGIN_MM = 70.0
#: Canal and foramina hold fat, fluid and nerves of at most about 60 HU, and voxels blur walls into it; brighter content
#: is marrow. Where the wall stands out by less than its content is bright, and the second, there is no opening [HU].
_BRIGHTEST_CONTENT_HU, _OPEN_HU = 80.0, 20.0
_WALL_POINTS = 30
#: Brighter than muscle and fluid with their noise, dimmer than blurred thin cortex [HU].
_BONE_HU = 170.0
#: The same for the thin lower end of the sacrum in a smoothed image [HU].
_CAUDAL_BONE_HU = 130.0
#: Noise is smoothed by this before voxels are called bright (standard deviation) [mm].
_SMOOTHING_MM = 0.8
#: Bone that the average pelvis lacks is taken this far from the fitted surface, where no other bone is nearer [mm].
_MISSING_MM = 5.0
#: Voxels that only look bright because half of them is bone lie nearer than this [mm].
_RIM_MM = 2.0
#: The average pelvis ends at S5. Below this height over its tip [mm] the bone is followed as far as it is connected,
#: within this distance of the line on that the tip points.
_TIP_HEIGHT_MM, _TIP_RADIUS_MM = 14.0, 22.0


def label_bones(ct: Volume, template: Template, fit: Fit) -> NDArray[np.uint8]:
    """Labels of `labels.BONES` on the CT's grid."""
    result = np.zeros(ct.voxels.shape, np.uint8)
    # Where two fitted surfaces overlap in a joint, the hip's thicker cortex was the clearer one.
    for label in sorted(BONES):
        result[voxelize(ct, fit.points_ras, template.triangles_of(label))] = label
    sacrum_points = fit.points_ras[template.bone == BONE_LABEL["sacrum"]]
    box = _box(ct, sacrum_points)
    if box is None:
        return result
    part = crop(ct, box)
    bones = result[box]
    openings = voxelize(part, fit.points_ras, template.triangles_of(SOLID_SACRUM)) & (bones == 0)
    opened = _open(part, template, fit, openings)
    bones[openings & ~opened] = BONE_LABEL["sacrum"]
    _add_missing(part, bones, opened)
    _follow_caudally(part, bones, opened, template, fit)
    return result


def _box(ct: Volume, points: FloatArray) -> tuple[slice, ...] | None:
    kji = ct.kji_of(points)
    margin = _MARGIN_MM / ct.spacing_mm[::-1]
    low, high = kji.min(axis=0) - margin, kji.max(axis=0) + margin
    # The coccyx lies below, whichever way the image is stored.
    below = ct.kji_of(points.mean(axis=0) - [0, 0, _CAUDAL_MARGIN_MM]) - ct.kji_of(points.mean(axis=0))
    low, high = low + np.minimum(below, 0), high + np.maximum(below, 0)
    first = np.maximum(np.floor(low).astype(int), 0)
    last = np.minimum(np.ceil(high).astype(int) + 1, ct.voxels.shape)
    if (last <= first).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def _open(ct: Volume, template: Template, fit: Fit, openings: Mask) -> Mask:
    """The part of the openings (canal and foramina of the fitted sacrum) that the image shows free of bone."""
    from scipy.spatial import cKDTree

    wall = np.nonzero(template.channel_wall)[0]
    points = fit.points_ras[wall]
    normals = vertex_normals(fit.points_ras, template.triangles)[wall]
    steps: FloatArray = np.arange(-4, 6, dtype=np.float64) * STEP_MM
    lines = np.nan_to_num(sample_lines(ct, points, normals, steps))
    content = lines[:, steps > 1].mean(axis=1)
    contrast = lines[:, steps < 1].max(axis=1) - content
    where = np.argwhere(openings)
    opened = np.zeros(openings.shape, bool)
    if len(where):
        near = cKDTree(points).query(ct.ras_of(where), k=_WALL_POINTS)[1]
        inside_hu, wall_hu = content[near].mean(axis=1), contrast[near].mean(axis=1)
        opened[tuple(where.T)] = (inside_hu < _BRIGHTEST_CONTENT_HU) & (wall_hu - inside_hu > _OPEN_HU)
    return opened


def _add_missing(ct: Volume, bones: NDArray[np.uint8], openings: Mask) -> None:
    """Give the sacrum the bright bone beside it that belongs to no other bone."""
    from scipy import ndimage

    spacing = ct.spacing_mm[::-1]
    sacrum = bones == BONE_LABEL["sacrum"]
    others = (bones > 0) & ~sacrum
    away = ndimage.distance_transform_edt(~sacrum, sampling=spacing)
    elsewhere = ndimage.distance_transform_edt(~others, sampling=spacing) if others.any() else np.inf
    bright = (_smoothed(ct) > _BONE_HU) & (bones == 0) & ~openings
    candidate = bright & (away <= _MISSING_MM) & (away + 1 < elsewhere)
    rim = max(_RIM_MM, float(spacing.max()) * 1.2)
    core = candidate & (away > rim)
    if not core.any():
        return
    near_core = ndimage.distance_transform_edt(~core, sampling=spacing) <= rim
    added = _connected(candidate & near_core, sacrum)
    bones[added] = BONE_LABEL["sacrum"]


def _follow_caudally(ct: Volume, bones: NDArray[np.uint8], openings: Mask, template: Template, fit: Fit) -> None:
    """Follow the bone on from the tip of the fitted sacrum, as far as it is connected."""
    from scipy import ndimage

    chosen = template.bone == BONE_LABEL["sacrum"]
    height = template.points_mm[chosen, 2]
    order = np.argsort(height)
    points = fit.points_ras[chosen]
    tip = points[order[: len(order) // 50]].mean(axis=0)
    above = points[order[len(order) // 12 : len(order) // 8]].mean(axis=0)
    down = unit(tip - above)
    away = np.stack(np.meshgrid(*[np.arange(n) for n in ct.voxels.shape], indexing="ij"), axis=-1)
    offset = ct.ras_of(away.reshape(-1, 3)) - tip
    along = (offset @ down).reshape(ct.voxels.shape)
    beside = np.linalg.norm(offset - np.outer(offset @ down, down), axis=1).reshape(ct.voxels.shape)
    # Below the tip the coccyx may bend away from the line.
    region = (along > -_TIP_HEIGHT_MM) & (beside < _TIP_RADIUS_MM + np.maximum(along, 0) * 0.5)
    bright = (_smoothed(ct) > _CAUDAL_BONE_HU) & region & ~openings & ((bones == 0) | (bones == BONE_LABEL["sacrum"]))
    sacrum = bones == BONE_LABEL["sacrum"]
    added = _connected(bright & ~sacrum, sacrum)
    whole = added | (sacrum & region)
    radius = np.maximum(1, np.round(3.0 / ct.spacing_mm[::-1])).astype(int)
    box = np.ones((1, 2 * radius[1] + 1, 2 * radius[2] + 1))
    closed = ndimage.binary_closing(np.pad(whole, 8), box)[8:-8, 8:-8, 8:-8]
    filled = np.stack([ndimage.binary_fill_holes(section) for section in closed])
    bones[(added | (filled & region & (along > 0))) & (bones == 0) & ~openings] = BONE_LABEL["sacrum"]


def _smoothed(ct: Volume) -> NDArray[np.float32]:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(ct.voxels.astype(np.float32), _SMOOTHING_MM / ct.spacing_mm[::-1]))


def _connected(candidate: Mask, seed: Mask) -> Mask:
    """The candidates that touch the seed, directly or through each other."""
    from scipy import ndimage

    parts, _ = ndimage.label(candidate)
    touching = np.unique(parts[ndimage.binary_dilation(seed) & candidate])
    return np.asarray(np.isin(parts, touching[touching > 0]))


def voxelize(ct: Volume, points: FloatArray, triangles: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True at the voxels whose centre lies inside a closed surface."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

    result = np.zeros(ct.voxels.shape, bool)
    ijk = transform_points(ct.RASToIJK, points)
    low = np.maximum(np.floor(ijk.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(ijk.max(axis=0)).astype(int) + 1, np.array(ct.voxels.shape[::-1]) - 1)
    if (high < low).any():
        return result
    used, corners = np.unique(triangles, return_inverse=True)
    mesh = vtk.vtkPolyData()
    vertices = vtk.vtkPoints()
    vertices.SetData(numpy_to_vtk(ijk[used], deep=True))
    mesh.SetPoints(vertices)
    cells = vtk.vtkCellArray()
    cells.SetData(3, numpy_to_vtkIdTypeArray(corners.reshape(-1).astype(np.int64), deep=True))
    mesh.SetPolys(cells)
    stencil = vtk.vtkPolyDataToImageStencil()
    stencil.SetInputData(mesh)
    stencil.SetOutputOrigin(0, 0, 0)
    stencil.SetOutputSpacing(1, 1, 1)
    stencil.SetOutputWholeExtent(low[0], high[0], low[1], high[1], low[2], high[2])
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    image.Update()
    inside = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars())
    box = tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    result[box] = inside.reshape(*(high - low + 1)[::-1]).astype(bool)
    return result
