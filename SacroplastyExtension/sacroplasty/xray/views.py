"""Views that depend on the patient and the plan, and shadows of structures to draw over an X-ray."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, angle_between_deg, rigid
from ..image import Volume
from ..planning.model import Trajectory
from .geometry import SACRUM_CENTER_MM, CArm, XrayGeometry
from .project import line_integrals

#: Closer to the view than this the head's direction no longer tells which way is up in the image.
_LEAST_ANGLE_TO_UP_DEG = 5.0


def down_the_barrel(trajectory: Trajectory, c_arm: CArm | None = None) -> XrayGeometry:
    """The view along a planned trocar, in which the trocar is one dot in the middle of the image.

    The source stands on the skin's side. The head is up; for a trocar that runs along the body's axis, the back is.
    """
    direction = trajectory.target - trajectory.entry_skin
    up = np.array([0.0, 0.0, 1.0])
    if not _LEAST_ANGLE_TO_UP_DEG < angle_between_deg(direction, up) < 180 - _LEAST_ANGLE_TO_UP_DEG:
        up = np.array([0.0, -1.0, 0.0])
    return (c_arm or CArm()).pose(trajectory.target, direction, up)


def frame_without_anatomy(ct: Volume) -> FloatArray:
    """A stand-in for SacrumToRAS that puts the middle of the CT into the middle of every view."""
    center = ct.ras_of([(np.array(ct.voxels.shape) - 1) / 2])[0]
    axes = np.diag([-1.0, -1.0, 1.0])
    return rigid(axes, center - axes @ SACRUM_CENTER_MM)


def project_mask(mask: Volume, geometry: XrayGeometry) -> NDArray[np.bool_]:
    """Pixels (rows, columns) whose ray passes through a structure.

    Args:
        mask: voxels that are not zero belong to the structure.

    Raises:
        GeometryError: for an impossible geometry or a source inside the structure.
    """
    occupied = mask.like((np.asarray(mask.voxels) != 0).astype(np.float32))
    # Interpolation fades the structure out over a voxel; half a voxel's path is where its surface lies.
    return line_integrals(occupied, geometry) > float(mask.spacing_mm.min()) / 2


def outline_pixels(mask: Volume, geometry: XrayGeometry) -> NDArray[np.bool_]:
    """Pixels (rows, columns) on the rim of a structure's shadow, to be drawn over the X-ray."""
    from scipy.ndimage import binary_erosion

    shadow = project_mask(mask, geometry)
    return shadow & ~binary_erosion(shadow)
