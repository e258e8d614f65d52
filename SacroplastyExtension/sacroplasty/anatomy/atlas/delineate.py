"""From fitted surfaces to labelled voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray, transform_points
from ...image import Volume


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
