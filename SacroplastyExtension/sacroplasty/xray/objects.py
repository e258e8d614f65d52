"""Things in the beam that the CT does not show: trocars and cement, each with its attenuation at the beam's energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray, rigid
from ..image import Volume
from .geometry import XrayGeometry
from .materials import DEFAULT_ENERGY_KEV, attenuation_per_mm
from .project import cylinder_line_integrals, line_integrals
from .projectable import ProjectableVolume, binned

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData

_Image = NDArray[np.float32]


@dataclass(frozen=True)
class Tube:
    """A straight tube or rod with flat ends, in RAS mm; a bore of zero is a trocar with its stylet in."""

    start_ras: FloatArray
    end_ras: FloatArray
    outer_diameter_mm: float
    inner_diameter_mm: float = 0.0
    material: str = "steel"


@dataclass(frozen=True)
class Deposit:
    """Something of any shape: the share (0 to 1) of each voxel that it fills; a mask of zeros and ones will do."""

    share: Volume
    material: str = "cement"


def object_line_integrals(
    objects: Sequence[Tube | Deposit], geometry: XrayGeometry, energy_kev: float = DEFAULT_ENERGY_KEV
) -> _Image:
    """Line integrals of all objects together, float32 of shape (rows, columns), to be added to those of the patient.

    What an object displaces stays in the patient's line integrals: for steel and cement that is little.

    Raises:
        GeometryError: for an impossible geometry, or an object around or behind the source.
        ImageError: for shares that are not from 0 to 1.
        SacroplastyError: for an unknown material, or an energy outside the table.
    """
    columns, rows = geometry.check().detector_pixels
    total: _Image = np.zeros((rows, columns), np.float32)
    for item in objects:
        per_mm = attenuation_per_mm(item.material, energy_kev)
        if isinstance(item, Tube):
            ends = item.start_ras, item.end_ras
            total += cylinder_line_integrals(geometry, *ends, item.outer_diameter_mm, item.inner_diameter_mm, per_mm)
            continue
        volume = ProjectableVolume.of(item.share)
        if volume.filled is not None and not (volume.filled.voxels.min() >= 0 and volume.greatest <= 1):
            raise ImageError("the shares of a deposit must be from 0 to 1")
        total += np.float32(per_mm) * line_integrals(volume, geometry)
    return total


def share_of_mesh(surface: vtkPolyData, spacing_mm: float = 0.5) -> Volume:
    """The share of each voxel that lies within a closed surface in RAS mm, to a 27th.

    Args:
        spacing_mm: of the voxels.

    Raises:
        ImageError: for a surface without points.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

    if surface.GetNumberOfPoints() == 0:
        raise ImageError("the surface has no points; nothing can be projected")
    bounds = np.reshape(surface.GetBounds(), (3, 2))
    fine = spacing_mm / 3
    origin = bounds[:, 0] - fine
    counts = 3 * (np.ceil((bounds[:, 1] - origin) / spacing_mm).astype(int) + 1)
    stencil = vtkPolyDataToImageStencil()
    stencil.SetInputData(surface)
    stencil.SetOutputSpacing(fine, fine, fine)
    stencil.SetOutputOrigin(*origin)
    stencil.SetOutputWholeExtent(0, int(counts[0]) - 1, 0, int(counts[1]) - 1, 0, int(counts[2]) - 1)
    image = vtkImageStencilToImage()
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetOutputScalarTypeToUnsignedChar()
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.Update()
    inside = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()).reshape(counts[::-1])
    return binned(Volume(inside, rigid(fine * np.eye(3), origin)), [3, 3, 3])
