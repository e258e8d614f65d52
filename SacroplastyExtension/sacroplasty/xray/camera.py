"""An X-ray geometry as a VTK camera and back, to draw surfaces as the detector would see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import GeometryError
from ..geometry import rigid, unit
from .geometry import XrayGeometry

if TYPE_CHECKING:
    from vtkmodules.vtkRenderingCore import vtkCamera

#: Clipping planes, as shares of the way from source to detector.
_NEAR, _FAR = 0.05, 1.0


def vtk_camera(geometry: XrayGeometry) -> vtkCamera:
    """A camera in the source that looks at the detector; for a window of the detector's proportions, in RAS.

    A camera sees from the source, an X-ray is seen from behind the detector: mirror the columns of the rendered
    picture to lay it over the X-ray.
    """
    from vtkmodules.vtkRenderingCore import vtkCamera

    geometry.check()
    sizes = np.multiply(geometry.detector_pixels, geometry.pixel_spacing_mm)
    # The middle of the detector's area, whose first pixel's centre is the origin.
    middle = (sizes - geometry.pixel_spacing_mm) / 2
    off_center = (middle - geometry.source_in_detector_mm[:2]) / (sizes / 2)
    camera = vtkCamera()
    source, forward = geometry.source_ras, geometry.view_direction_ras
    distance = geometry.source_in_detector_mm[2]
    camera.SetPosition(*source)
    camera.SetFocalPoint(*(source + distance * forward))
    camera.SetViewUp(*-geometry.RASToDetector[1, :3])
    camera.SetViewAngle(float(np.degrees(2 * np.arctan(sizes[1] / 2 / distance))))
    # Seen from the source, right is where columns are counted from.
    camera.SetWindowCenter(-float(off_center[0]), -float(off_center[1]))
    camera.SetClippingRange(_NEAR * distance, _FAR * distance)
    return camera


def geometry_of_camera(
    camera: vtkCamera, detector_pixels: tuple[int, int], source_to_detector_mm: float
) -> XrayGeometry:
    """The geometry whose detector fills the window of a perspective camera; see `vtk_camera`.

    Args:
        detector_pixels: columns and rows, square pixels; in the window's proportions.

    Raises:
        GeometryError: for a parallel projection, or a view no C-arm can have.
    """
    if camera.GetParallelProjection():
        raise GeometryError("the camera projects in parallel; an X-ray needs perspective")
    columns, rows = detector_pixels
    height = 2 * source_to_detector_mm * np.tan(np.radians(camera.GetViewAngle()) / 2)
    spacing = float(height / rows)
    source = np.array(camera.GetPosition())
    towards_source = -unit(np.subtract(camera.GetFocalPoint(), source))
    up = np.array(camera.GetViewUp())
    rows_axis = -unit(up - (up @ towards_source) * towards_source)
    rotation = np.stack([np.cross(rows_axis, towards_source), rows_axis, towards_source])
    sizes = np.array([columns, rows]) * spacing
    x, y = (sizes - spacing) / 2 + np.array(camera.GetWindowCenter()) * sizes / 2
    in_detector = np.array([x, y, source_to_detector_mm])
    return XrayGeometry(
        source_to_detector_mm=source_to_detector_mm,
        detector_pixels=detector_pixels,
        pixel_spacing_mm=(spacing, spacing),
        RASToDetector=rigid(rotation, in_detector - rotation @ source),
        source_in_detector_mm=(float(x), float(y), source_to_detector_mm),
    ).check()
