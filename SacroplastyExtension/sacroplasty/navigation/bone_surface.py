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

    def nearest(self, points_ras: ArrayLike) -> NDArray[np.int_]:
        """Number (...) of the surface point nearest to each of points (..., 3)."""
        return np.asarray(self._tree.query(np.asarray(points_ras, float))[1])

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.points_ras)


def surface_of_anatomy(anatomy: Anatomy, bones: tuple[str, ...] = TOUCHED_BONES) -> BoneSurface:
    """The outer surface of the segmented bones.

    Raises:
        CalibrationError: when none of the bones was found.
    """
    parts = [_surface_of_label(anatomy.bones, BONE_LABEL[name]) for name in bones]
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


def _surface_of_label(bones: Volume, label: int) -> tuple[FloatArray, FloatArray]:
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
    return transform_points(part.IJKToRAS, points), turned
