"""Where a C-arm can be turned to, as its operator reads it, and what to tell the operator."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..documents import read_document
from ..errors import GeometryError
from ..geometry import FloatArray, angle_between_deg, unit
from .geometry import XrayGeometry

#: The border of the range is searched in steps of this [degrees].
_BORDER_STEP_DEG = 0.05
#: Where the upper end of the C lies so flat that "above the patient" says nothing [degrees from the horizontal].
_FLAT_DEG = 20.0


def angles_of_direction(direction_ras: ArrayLike) -> tuple[float, float]:
    """DICOM's positioner angles (primary, secondary) in degrees of a beam from the source to the detector.

    Where the detector stands from straight in front of the patient: towards the patient's left, towards the head.
    """
    right, anterior, superior = unit(direction_ras)
    primary = np.degrees(np.arctan2(-right + 0.0, anterior))
    return float(primary), float(np.degrees(np.arcsin(np.clip(superior, -1, 1))))


def direction_of_angles(primary_deg: ArrayLike, secondary_deg: ArrayLike) -> FloatArray:
    """Unit beam directions (..., 3) in RAS, from the source to the detector, of DICOM's positioner angles."""
    primary, secondary = np.broadcast_arrays(np.radians(primary_deg), np.radians(secondary_deg))
    level = np.cos(secondary)
    return np.stack([-np.sin(primary) * level, np.cos(primary) * level, np.sin(secondary)], axis=-1)


def angles_text(geometry: XrayGeometry) -> str:
    """The angles as the operator of a C-arm calls them: LAO or RAO, CRA or CAU."""
    return direction_text(geometry.view_direction_ras)


def direction_text(direction_ras: ArrayLike) -> str:
    """The angles of a beam as the operator of a C-arm calls them: LAO or RAO, CRA or CAU."""
    primary, secondary = (round(angle) for angle in angles_of_direction(direction_ras))
    return f"{'LAO' if primary >= 0 else 'RAO'} {abs(primary)}°, {'CRA' if secondary >= 0 else 'CAU'} {abs(secondary)}°"


def prone_text(direction_ras: ArrayLike) -> str:
    """How the end of the C above a prone patient is tilted from straight up, to the patient's left or right.

    A beam and its reverse show the same line of sight, so this holds for a tube below the table and above it.
    """
    beam = unit(direction_ras)
    upper = beam * (1.0 if beam[1] <= 0 else -1.0)  # towards the patient's back, which is up
    if -upper[1] < np.sin(np.radians(_FLAT_DEG)):
        tilt = float(np.degrees(np.arcsin(np.clip(beam[2], -1, 1))))
        return "horizontal" if abs(tilt) < 0.5 else f"horizontal, swung by {abs(tilt):.0f}°"
    sideways = round(float(np.degrees(np.arctan2(-upper[0], -upper[1]))))
    along = round(float(np.degrees(np.arcsin(np.clip(upper[2], -1, 1)))))
    parts = []
    if along:
        parts.append(f"{abs(along)}° to the {'head' if along > 0 else 'feet'}")
    if sideways:
        parts.append(f"{abs(sideways)}° to the {'left' if sideways > 0 else 'right'}")
    return ", ".join(parts) or "straight up"


def turn_text(actual_ras: ArrayLike, wanted_ras: ArrayLike) -> str:
    """How to turn the detector from one beam direction to another, in words."""
    now, then = angles_of_direction(actual_ras), angles_of_direction(wanted_ras)
    around, along = (np.array(then) - now + 180) % 360 - 180
    parts = []
    if abs(around) >= 0.5:
        parts.append(f"{abs(around):.0f}° to the patient's {'left' if around > 0 else 'right'}")
    if abs(along) >= 0.5:
        parts.append(f"{abs(along):.0f}° to the {'head' if along > 0 else 'feet'}")
    return "turn the detector " + " and ".join(parts) if parts else "stands right"


@dataclass(frozen=True)
class ReachableRange:
    """Limits of DICOM's positioner angles, (lowest, highest) in degrees.

    Attributes:
        primary_deg: around the patient, positive with the detector to the patient's left.
        secondary_deg: along the patient, positive with the detector to the head.
    """

    primary_deg: tuple[float, float]
    secondary_deg: tuple[float, float]

    def check(self) -> ReachableRange:
        """These limits, if a C-arm can have them.

        Raises:
            GeometryError: naming what is impossible.
        """
        for name, (low, high), most in (
            ("primary_deg", self.primary_deg, 180.0),
            ("secondary_deg", self.secondary_deg, 90.0),
        ):
            if not (-most <= low < high <= most):
                raise GeometryError(
                    f"{name} is {low:g} to {high:g}; give two angles between {-most:g} and {most:g}, lower first"
                )
        return self

    def contains(self, direction_ras: ArrayLike) -> bool:
        limits = (self.primary_deg, self.secondary_deg)
        angles = angles_of_direction(direction_ras)
        return all(low - 1e-6 <= angle <= high + 1e-6 for angle, (low, high) in zip(angles, limits, strict=True))

    def nearest(self, direction_ras: ArrayLike) -> FloatArray:
        """The reachable beam direction at the smallest angle to this one; itself when it can be reached."""
        wanted = unit(direction_ras)
        if self.contains(wanted):
            return wanted
        around, along = (
            np.linspace(low, high, 1 + int(np.ceil((high - low) / _BORDER_STEP_DEG)))
            for low, high in (self.primary_deg, self.secondary_deg)
        )
        border = np.concatenate(
            [direction_of_angles(around, edge) for edge in self.secondary_deg]
            + [direction_of_angles(edge, along) for edge in self.primary_deg]
        )
        return border[int(np.argmax(border @ wanted))]


def read_range(path: Path | None = None) -> ReachableRange:
    """The limits in a `reachable_range` document, by default those that come with the package.

    Raises:
        DocumentError: for a file that is none.
        GeometryError: for impossible limits.
    """
    if path is None:
        with resources.as_file(resources.files(__package__).joinpath("reachable_range.json")) as default:
            return read_range(default)
    record = read_document(path, "reachable_range")
    primary, secondary = ((float(low), float(high)) for low, high in (record["primary_deg"], record["secondary_deg"]))
    return ReachableRange(primary, secondary).check()


def off_line_deg(direction_ras: ArrayLike, other_ras: ArrayLike) -> float:
    """Angle between two lines of sight, 0 to 90 degrees, whichever end the source stands at."""
    angle = angle_between_deg(direction_ras, other_ras)
    return min(angle, 180.0 - angle)
