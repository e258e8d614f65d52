"""The angles on a mobile C-arm's joints, and how the patient lies on the table.

Room frame: x to the right, y up, z towards the observer, who stands at the foot end of the table and looks to its head
end; right-handed. At zero angles the tube is under the table, the detector above it, and the table's head end is up in
the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import GeometryError
from ..geometry import FloatArray, rotation_about
from .geometry import CArm, XrayGeometry

_RIGHT, _UP, _FOOT = np.eye(3)

#: DICOM's patient positions (0018,5100): where the patient's left and head point in the room.
_LEFT_AND_HEAD = {
    "HFS": (_RIGHT, -_FOOT),
    "HFP": (-_RIGHT, -_FOOT),
    "FFS": (-_RIGHT, _FOOT),
    "FFP": (_RIGHT, _FOOT),
    "HFDR": (_UP, -_FOOT),
    "HFDL": (-_UP, -_FOOT),
    "FFDR": (_UP, _FOOT),
    "FFDL": (-_UP, _FOOT),
}
PATIENT_POSITIONS = tuple(_LEFT_AND_HEAD)

#: How the procedure is done.
PRONE_HEAD_FIRST = "HFP"

#: Closer than this to an angulation where two joints turn about one axis they cannot be told apart.
_LOCKED_DEG = 1e-4


@dataclass(frozen=True)
class JointAngles:
    """How the joints of a mobile C-arm are turned, in degrees; it stands at the side of the table.

    Attributes:
        orbital: the C slides along itself, about the table's long axis; positive moves the detector from above towards
            the right of the observer at the foot end. -180 to 180; further than any C goes, so check its range.
        angulation: the C tilts about the horizontal axis across the table; positive moves the detector from above
            towards the head end. -90 to 90.
        wigwag: the C swings about the vertical axis; positive is counterclockwise seen from above. -180 to 180.
    """

    orbital: float
    angulation: float
    wigwag: float = 0.0


def room_to_ras(patient_position: str) -> FloatArray:
    """The 3x3 rotation from the room to RAS axes of a patient who lies straight in one of `PATIENT_POSITIONS`.

    Raises:
        GeometryError: for a position that is none of them.
    """
    if patient_position not in _LEFT_AND_HEAD:
        raise GeometryError(
            f"there is no patient position {patient_position!r}; the positions are {', '.join(PATIENT_POSITIONS)}"
        )
    left, head = _LEFT_AND_HEAD[patient_position]
    return np.stack([-left, -np.cross(head, left), head])


def pose_of_joints(
    c_arm: CArm, isocenter_ras: ArrayLike, angles: JointAngles, patient_position: str = PRONE_HEAD_FIRST
) -> XrayGeometry:
    """The geometry of a C-arm whose joints are turned, with the middle of the image at the isocentre.

    The image turns with the C, so at a wig-wag the head is not straight up.

    Raises:
        GeometryError: for angles that are no numbers, or an unknown patient position.
    """
    if not np.isfinite([angles.orbital, angles.angulation, angles.wigwag]).all():
        raise GeometryError(f"the C-arm's angles {angles} are not all numbers; read them again")
    turned = room_to_ras(patient_position) @ _joint_rotation(angles)
    return c_arm.pose(isocenter_ras, turned @ _UP, -(turned @ _FOOT))


def joints_of_pose(geometry: XrayGeometry, patient_position: str = PRONE_HEAD_FIRST) -> JointAngles:
    """How the joints must be turned for a geometry; whether the C reaches so far is another question.

    At an angulation of 90 degrees orbit and wig-wag turn about one axis; then all of it is given to the orbit.
    """
    columns_axis, rows_axis, source_axis = geometry.RASToDetector[:3, :3]
    # Where the C's own right, up and foot point in the room; entries below are those of the product in _joint_rotation.
    turned = room_to_ras(patient_position).T @ np.stack([columns_axis, -source_axis, rows_axis], axis=1)
    angulation = np.arcsin(np.clip(turned[1, 2], -1, 1))
    if np.cos(angulation) < np.radians(_LOCKED_DEG):
        orbital, wigwag = np.arctan2(turned[0, 1], turned[0, 0]), 0.0
    else:
        orbital, wigwag = np.arctan2(-turned[1, 0], turned[1, 1]), np.arctan2(turned[0, 2], turned[2, 2])
    return JointAngles(*(float(np.degrees(angle)) for angle in (orbital, angulation, wigwag)))


def _joint_rotation(angles: JointAngles) -> FloatArray:
    """The 3x3 rotation of the C in the room: the orbit is carried by the tilt, and that by the swing."""
    swing, tilt = rotation_about(_UP, angles.wigwag), rotation_about(-_RIGHT, angles.angulation)
    return swing @ tilt @ rotation_about(-_FOOT, angles.orbital)
