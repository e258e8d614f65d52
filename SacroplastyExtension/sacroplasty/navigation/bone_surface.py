"""The surface of bone in the CT that a stylus can sweep, to fractions of a voxel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import BONE_LABEL
from ..anatomy.model import Anatomy
from ..errors import CalibrationError
from ..geometry import FloatArray, transform_points
from ..image import Volume, box_around, crop

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

#: Bones that lie under the skin of a prone patient.
TOUCHED_BONES = ("sacrum", "hip_left", "hip_right")
#: Smoothing of the labels before the surface is drawn [voxels].
_LABEL_SMOOTHING_VOXELS = 0.7
#: Standard deviation of the surface along its normal, as a share of the voxel's diagonal, and at least [mm].
_ERROR_SHARE, _ERROR_FLOOR_MM = 0.15, 0.15
#: The edge of bone is looked for so far along the normal, in these steps, the near ones first [mm].
_EDGE_REACH_MM, _EDGE_STEP_MM, _EDGE_PRIOR_MM = 2.5, 0.25, 1.5
#: Fall of the CT over two steps that makes an edge, and beyond which an edge is no more certain [HU].
_LEAST_FALL_HU, _FULL_FALL_HU = 15.0, 150.0
#: Points of the surface are kept about this far apart [mm].
_GRAIN_MM = 0.9
#: Standard deviation of a scanner's point spread (1.4 mm full width at half maximum: a usual body kernel), and the
#: thickness of the cortex at the back of the pelvis [mm] (own estimates).
_SCANNER_BLUR_MM, _CORTEX_MM = 0.6, 1.0
#: So many points around are averaged.
_NEIGHBOURS = 25


@dataclass(frozen=True)
class BoneSurface:
    """Points of a surface, densely, with their outward normals.

    Attributes:
        points_ras: (m, 3) mm.
        normals_ras: (m, 3) unit vectors out of the bone.
        error_mm: standard deviation along the normal of where the CT puts the surface.
    """

    points_ras: FloatArray
    normals_ras: FloatArray
    error_mm: float

    def nearest(self, points_ras: ArrayLike, slack: float = 0.0) -> NDArray[np.int_]:
        """Number (...) of the surface point nearest to each of points (..., 3).

        Args:
            slack: share by which one may be farther than the nearest: for points far off, where it saves much time.
        """
        return np.asarray(self._tree.query(np.asarray(points_ras, float), eps=slack)[1])

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.points_ras)


def surface_of_anatomy(anatomy: Anatomy, ct: Volume, bones: tuple[str, ...] = TOUCHED_BONES) -> BoneSurface:
    """The outer surface of the segmented bones: that of their labels, moved to where the CT has its edge.

    A label map that is too large or too small all over would shift the patient from front to back without a trace in
    the residuals; the edge in the CT does not.

    Args:
        ct: that the anatomy was found in.

    Raises:
        CalibrationError: when none of the bones was found.
    """
    if not ct.same_grid(anatomy.bones):
        raise CalibrationError("the bones were found in another CT; register to the one that was segmented")
    parts = [_surface_of_label(anatomy.bones, BONE_LABEL[name], ct) for name in bones]
    points = np.concatenate([part[0] for part in parts])
    if not len(points):
        raise CalibrationError(f"the anatomy holds none of {', '.join(bones)}: segment the CT again")
    error = max(_ERROR_FLOOR_MM, _ERROR_SHARE * float(np.linalg.norm(anatomy.bones.spacing_mm)))
    return BoneSurface(points, np.concatenate([part[1] for part in parts]), error)


def surface_of_polydata(surface: vtkPolyData, error_mm: float) -> BoneSurface:
    """A surface model in RAS mm (of a segmentation in Slicer, say), with normals made where it has none."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals

    if not surface.GetNumberOfPolys():
        raise CalibrationError("the surface has no faces; show the segmentation in 3D first")
    oriented = vtkPolyDataNormals()
    oriented.SetInputData(surface)
    oriented.SplittingOff()
    oriented.ConsistencyOn()
    oriented.AutoOrientNormalsOn()
    oriented.Update()
    made = oriented.GetOutput()
    return BoneSurface(
        vtk_to_numpy(made.GetPoints().GetData()).astype(float),
        vtk_to_numpy(made.GetPointData().GetNormals()).astype(float),
        error_mm,
    )


def _surface_of_label(bones: Volume, label: int, ct: Volume) -> tuple[FloatArray, FloatArray]:
    """Points and normals of one bone: the half level of its smoothed label."""
    from scipy import ndimage
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    mask = bones.voxels == label
    box = box_around(mask, 3)
    if box is None:
        return np.zeros((0, 3)), np.zeros((0, 3))
    part = crop(bones.like(mask), box)
    # One layer of air around, so that a bone that is cut by the image's border has a surface there too.
    smooth = ndimage.gaussian_filter(np.pad(part.voxels, 1).astype(np.float32), _LABEL_SMOOTHING_VOXELS)
    image = vtkImageData()
    image.SetDimensions(*smooth.shape[::-1])
    image.SetOrigin(-1.0, -1.0, -1.0)
    image.GetPointData().SetScalars(numpy_to_vtk(smooth.ravel(), deep=True))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeGradientsOff()
    edges.ComputeNormalsOn()
    edges.ComputeScalarsOff()
    edges.Update()
    made = edges.GetOutput()
    points = vtk_to_numpy(made.GetPoints().GetData()).astype(float)
    normals = vtk_to_numpy(made.GetPointData().GetNormals()).astype(float)
    # Normals are gradients in index space; they turn with the inverse transpose.
    turned = normals @ np.linalg.inv(part.IJKToRAS[:3, :3])
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
    placed = transform_points(part.IJKToRAS, points)
    _, alone = np.unique(np.floor(placed / _GRAIN_MM).astype(int), axis=0, return_index=True)
    placed, turned = placed[alone], turned[alone]
    # Once more from there: an edge at the end of the reach pulls only half of the way.
    for _ in range(2):
        placed = placed + _shift_to_edge(placed, turned, ct)[:, None] * turned
    return placed - _edge_bias_mm(ct) * turned, turned


def _edge_bias_mm(ct: Volume) -> float:
    """By how much the steepest fall of a blurred thin cortex lies outside of it.

    A layer much thinner than the blur is steepest one standard deviation from its middle, so half its thickness less
    from its surface.
    """
    voxel = float(np.prod(ct.spacing_mm) ** (1 / 3))
    return max(0.0, float(np.sqrt(_SCANNER_BLUR_MM**2 + voxel**2 / 12)) - _CORTEX_MM / 2)


def _shift_to_edge(points: FloatArray, normals: FloatArray, ct: Volume) -> FloatArray:
    """By how much each point (n,) must move along its normal to reach the edge of bone in the CT [mm].

    The edge is where the CT falls most steeply on the way out. Single profiles are noisy and meet joints, so each is
    weighed by its steepness together with those around it.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    offsets = np.arange(-_EDGE_REACH_MM, _EDGE_REACH_MM + _EDGE_STEP_MM / 2, _EDGE_STEP_MM)
    box = _box_of(points, ct)
    part = crop(ct, box)
    voxels = np.asarray(part.voxels, np.float32)
    profile = np.empty((len(points), len(offsets)), np.float32)
    for number, offset in enumerate(offsets):
        profile[:, number] = ndimage.map_coordinates(
            voxels, part.kji_of(points + offset * normals).T, order=1, mode="nearest"
        )
    fall = profile[:, :-2] - profile[:, 2:]
    inner = offsets[1:-1]
    steepness = np.where(fall > 0, fall, 0) * np.exp(-np.square(inner / _EDGE_PRIOR_MM) / 2)
    best = np.clip(steepness.argmax(axis=1), 1, len(inner) - 2)
    rows = np.arange(len(points))
    before, at, after = (steepness[rows, best + step] for step in (-1, 0, 1))
    curvature = before - 2 * at + after
    vertex = np.where(curvature < -1e-6, 0.5 * (before - after) / np.minimum(curvature, -1e-6), 0.0)
    edge = inner[best] + np.clip(vertex, -0.5, 0.5) * _EDGE_STEP_MM
    certain = np.where(at >= _LEAST_FALL_HU, np.minimum(at, _FULL_FALL_HU), 0.0)
    _, around = cKDTree(points).query(points, k=min(_NEIGHBOURS, len(points)))
    weights = certain[around]
    total = weights.sum(axis=1)
    mean = np.einsum("nk,nk->n", weights, edge[around]) / np.maximum(total, 1e-9)
    shift: FloatArray = np.where(total > 0, mean, 0.0)
    return shift


def _box_of(points: FloatArray, volume: Volume) -> tuple[slice, slice, slice]:
    """The part of a volume that holds the points and what their profiles reach."""
    indices = volume.kji_of(points)
    margin = np.ceil((_EDGE_REACH_MM + 1) / volume.spacing_mm[::-1])
    low = np.maximum(np.floor(indices.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(indices.max(axis=0) + margin) + 1, volume.voxels.shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])
