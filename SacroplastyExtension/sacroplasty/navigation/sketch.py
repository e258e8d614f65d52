"""Guidance drawn as plain shapes: the bull's-eye down the axis, the depth gauge, and the trocar over an X-ray.

Shapes are in pixels from the top left corner, so that any painter can draw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..geometry import FloatArray, unit
from ..planning.model import Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from ..xray.geometry import XrayGeometry
from .clearance import ASSURED_SIGMAS
from .guidance import PAST_CORTEX_MM, GuidanceReading

Color = tuple[int, int, int]
WHITE, GRAY, DARK, GREEN, AMBER, RED, CYAN = (
    (255, 255, 255),
    (140, 150, 160),
    (24, 28, 32),
    (80, 220, 120),
    (255, 190, 60),
    (255, 80, 80),
    (90, 210, 255),
)
#: Deviations that a person need not mind, and those that are too large: mm off the line, degrees.
ON_LINE_MM, OFF_LINE_MM = 1.5, 3.0
ON_LINE_DEG, OFF_LINE_DEG = 2.0, 5.0
#: What the rings stand for, and the widest of the two scales [mm].
_RINGS_MM, _WIDE_RINGS_MM = (2.0, 5.0, 10.0), (10.0, 25.0, 50.0)
#: The shaft is drawn this far behind the tip [mm]; its far end lies on the tip's dot when the direction is right.
_BEHIND_MM = 60.0


@dataclass(frozen=True)
class Line:
    """A straight line between two points (2,)."""

    start: FloatArray
    end: FloatArray
    color: Color
    width: float = 2.0


@dataclass(frozen=True)
class Ellipse:
    """An upright ellipse about a point (2,); filled, or its outline."""

    center: FloatArray
    radii: tuple[float, float]
    color: Color
    width: float = 2.0
    filled: bool = False


@dataclass(frozen=True)
class Label:
    """Text whose middle stands at a point (2,), of a height in pixels."""

    center: FloatArray
    text: str
    color: Color
    height: float


Shape = Line | Ellipse | Label


def deviation_color(offset_mm: float, angle_deg: float) -> Color:
    """Green for what need not be minded, red for too much; shapes and figures say the same."""
    if offset_mm <= ON_LINE_MM and angle_deg <= ON_LINE_DEG:
        return GREEN
    return AMBER if offset_mm <= OFF_LINE_MM and angle_deg <= OFF_LINE_DEG else RED


def axis_view(direction_ras: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """What points to the right and up (each (3,)) for one who looks along a direction, the head upwards."""
    ahead = unit(direction_ras)
    # Along the body's own axis there is no head up; then the back is.
    up = np.array([0.0, 0.0, 1.0]) if abs(ahead[2]) < 0.95 else np.array([0.0, -1.0, 0.0])
    right = unit(_cross(ahead, up))
    return right, _cross(right, ahead)


def bulls_eye(
    reading: GuidanceReading, trajectory: Trajectory, uncertainty: PoseUncertainty | None, size: int
) -> list[Shape]:
    """The planned line seen from its end, square: the tip as a dot, the shaft behind it, the error as an ellipse.

    Without a valid reading only the empty rings are drawn, gray.
    """
    middle, radius = np.array([size / 2, size / 2]), 0.42 * size
    off_mm = reading.offset_from_line_mm if reading.valid else None
    rings = _RINGS_MM if off_mm is None or off_mm <= _RINGS_MM[-1] else _WIDE_RINGS_MM
    scale = radius / rings[-1]
    shapes: list[Shape] = [Ellipse(middle, (mm * scale, mm * scale), GRAY, max(1.0, size / 300)) for mm in rings]
    shapes += [Line(middle - step, middle + step, GRAY, max(1.0, size / 300)) for step in np.diag([radius, radius])]
    text = 0.045 * size
    shapes += [Label(middle + np.array([mm * scale * 0.72, mm * scale * 0.72]), f"{mm:g}", GRAY, text) for mm in rings]
    right, up = axis_view(trajectory.target - trajectory.entry_skin)
    letters = ((right, [radius, 0]), (-right, [-radius, 0]), (up, [0, -radius]), (-up, [0, radius]))
    for direction, place in letters:
        shapes.append(Label(middle + 1.08 * np.array(place), _letter(direction), WHITE, 1.3 * text))
    if not reading.valid or reading.tip_ras is None or reading.ahead_ras is None or off_mm is None:
        return shapes
    color = deviation_color(off_mm, reading.angle_deg or 0.0)

    def seen(point_ras: FloatArray) -> FloatArray:
        off = point_ras - trajectory.target
        place = np.array([off @ right, -(off @ up)]) * scale
        # What lies beyond the outermost ring is drawn at the border, in its direction.
        far = float(np.linalg.norm(place)) / (1.1 * radius)
        return middle + place / max(1.0, far)

    tip, hub = seen(reading.tip_ras), seen(reading.tip_ras - _BEHIND_MM * reading.ahead_ras)
    if uncertainty is not None:
        covariance = uncertainty.covariance_at(reading.tip_ras)
        radii = [ASSURED_SIGMAS * np.sqrt(max(float(axis @ covariance @ axis), 0.0)) * scale for axis in (right, up)]
        shapes.append(Ellipse(tip, (radii[0], radii[1]), color, max(1.0, size / 300)))
    thick = max(2.0, trajectory.outer_diameter_mm / 2 * scale)
    shapes += [
        Line(hub, tip, color, max(2.0, size / 120)),
        Ellipse(hub, (0.018 * size, 0.018 * size), color, max(2.0, size / 150)),
        Ellipse(tip, (thick, thick), color, max(2.0, size / 150)),
        Ellipse(tip, (0.02 * size, 0.02 * size), color, filled=True),
    ]
    return shapes


def depth_gauge(reading: GuidanceReading, trajectory: Trajectory, width: int, height: int) -> list[Shape]:
    """The way along the planned line from top (skin) to bottom: cortex, the usual depth past it, target, tip."""
    planned = unit(trajectory.target - trajectory.entry_skin)
    to_bone = float((trajectory.entry_bone - trajectory.entry_skin) @ planned)
    to_target = float((trajectory.target - trajectory.entry_skin) @ planned)
    deepest = to_target + 15.0
    top, bottom, x = 0.06 * height, 0.96 * height, 0.4 * width

    def at(depth_mm: float) -> float:
        return top + (bottom - top) * float(np.clip(depth_mm / deepest, -0.03, 1.0))

    text = 0.045 * height
    zone = [to_bone + mm for mm in PAST_CORTEX_MM]
    shapes: list[Shape] = [
        Line(np.array([x, top]), np.array([x, bottom]), GRAY, 0.05 * width),
        Line(np.array([x, at(zone[0])]), np.array([x, at(zone[1])]), GREEN, 0.05 * width),
    ]
    for depth, color in ((to_bone, WHITE), (to_target, CYAN)):
        y = at(depth)
        shapes.append(Line(np.array([x - 0.2 * width, y]), np.array([x + 0.2 * width, y]), color, 3.0))
        shapes.append(Label(np.array([x + 0.4 * width, y]), f"{depth:.0f}", color, text))
    if reading.valid and reading.depth_to_target_mm is not None:
        y = at(to_target - reading.depth_to_target_mm)
        color = RED if reading.phase == "past-target" else GREEN if reading.phase == "at-target" else AMBER
        shapes += [
            Line(np.array([x, top]), np.array([x, y]), color, 0.12 * width),
            Ellipse(np.array([x, y]), (0.12 * width, 0.12 * width), color, filled=True),
        ]
    return shapes


def trocar_over_xray(
    reading: GuidanceReading, trajectory: Trajectory, geometry: XrayGeometry, size: int, error_mm: float | None = None
) -> list[Shape]:
    """Plan and trocar over a picture of this geometry that is shown `size` pixels wide.

    Args:
        error_mm: radius of a circle about the tip, as large as it looks in the picture there; None for none.
    """
    scale = size / geometry.detector_pixels[0]

    def seen(points_ras: Sequence[FloatArray]) -> FloatArray:
        return (geometry.project(np.array(points_ras)) + 0.5) * scale

    planned = seen([trajectory.entry_skin, trajectory.entry_bone, trajectory.target])
    shapes: list[Shape] = [
        Line(planned[0], planned[2], CYAN, max(1.0, size / 250)),
        Ellipse(planned[2], (size / 60, size / 60), CYAN, max(1.0, size / 200)),
    ]
    if not reading.valid or reading.tip_ras is None or reading.ahead_ras is None:
        return shapes
    color = deviation_color(reading.offset_from_line_mm or 0.0, reading.angle_deg or 0.0)
    tip, hub = seen([reading.tip_ras, reading.tip_ras - trajectory.length_mm * reading.ahead_ras])
    magnification = geometry.source_to_detector_mm / max(
        float((reading.tip_ras - geometry.source_ras) @ geometry.view_direction_ras), 1.0
    )
    mm = magnification / geometry.pixel_spacing_mm[0] * scale
    shapes.append(Line(hub, tip, color, max(2.0, trajectory.outer_diameter_mm * mm)))
    if error_mm is not None:
        shapes.append(Ellipse(tip, (error_mm * mm, error_mm * mm), color, max(1.0, size / 200)))
    return shapes


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    # np.cross handles any axes, which costs more than a tenth of a pose's time.
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _letter(direction: FloatArray) -> str:
    """The patient's direction that is nearest: R, L, A, P, H or F."""
    axis = int(np.abs(direction).argmax())
    return ("RL", "AP", "HF")[axis][0 if direction[axis] > 0 else 1]


def coverage_dial(sectors: Sequence[bool], size: int) -> list[Shape]:
    """Into which directions a tool was tilted while pivoting: a dot for each, filled when it was reached."""
    middle, radius = np.array([size / 2, size / 2]), 0.36 * size
    shapes: list[Shape] = [Ellipse(middle, (radius, radius), GRAY, max(1.0, size / 80))]
    for number, reached in enumerate(sectors):
        turn = 2 * np.pi * (number + 0.5) / len(sectors)
        place = middle + radius * np.array([np.cos(turn), -np.sin(turn)])
        shapes.append(Ellipse(place, (0.08 * size, 0.08 * size), GREEN if reached else GRAY, 2.0, filled=reached))
    return shapes
