"""A calibrated tool: its tip and axis, when and how well they were found, on file, and checked against a divot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..documents import read_document, write_document
from ..errors import CalibrationError
from ..geometry import FloatArray, rigid, rotation_between, transform_points, unit
from ..planning.pose_uncertainty import PoseUncertainty
from .error_model import axis_uncertainty, combined, translation_uncertainty
from .pivot import PivotCalibration
from .pose_checks import valid_poses
from .tool_axis import SpinCalibration, axis_towards

#: Markers are clipped on anew for each patient, and shafts get bent: a calibration serves one day.
OLDEST_CALIBRATION = timedelta(hours=24)
#: Direction of a shaft that was never spun: as good as markers are clipped on by eye (own estimate) [deg].
_UNKNOWN_AXIS_SD_DEG = 1.0
#: At a divot a tip may be off by chance this many standard deviations, and by this much in any case [mm].
_DIVOT_SIGMAS, _DIVOT_FLOOR_MM, _DIVOT_LIMIT_MM = 3.0, 0.5, 1.0
_FEWEST_AT_DIVOT = 10


@dataclass(frozen=True)
class ToolCalibration:
    """What is known of a tool.

    Attributes:
        tool: name of its frame, `Trocar`.
        calibrated_at: when, with its time zone.
        tip_in_tool_mm: (3,) in the frame of the tool's markers.
        axis_in_tool: (3,) unit vector along the shaft, ahead out of the tip.
        tip_covariance_mm2: (3, 3) in the tool's frame.
        axis_sd_deg: standard deviation of the axis, about each of the two directions across.
        holdout_error_mm: of the pivoting, on poses that had no part in it.
        divot_in_reference_mm: (3,) where the tip rested meanwhile, in the reference's frame, to be checked against
            later; None when that is not known.
    """

    tool: str
    calibrated_at: datetime
    tip_in_tool_mm: FloatArray
    axis_in_tool: FloatArray
    tip_covariance_mm2: FloatArray
    axis_sd_deg: float
    holdout_error_mm: float
    divot_in_reference_mm: FloatArray | None = None

    @property
    def TipToTool(self) -> FloatArray:
        """The tip's frame: origin at the tip, z ahead along the shaft, otherwise turned as little as possible."""
        return rigid(rotation_between([0, 0, 1], self.axis_in_tool), self.tip_in_tool_mm)

    @property
    def tip_uncertainty_mm(self) -> float:
        """Standard deviation of the tip's position, all three axes together."""
        return float(np.sqrt(np.trace(self.tip_covariance_mm2)))

    @property
    def uncertainty(self) -> PoseUncertainty:
        """Of tip and axis, in the tool's frame."""
        tip = translation_uncertainty(self.tip_in_tool_mm, self.tip_covariance_mm2)
        axis = axis_uncertainty(self.tip_in_tool_mm, self.axis_in_tool, self.axis_sd_deg)
        return combined([tip, axis], self.tip_in_tool_mm)

    def moved_along_axis(self, offset_mm: float) -> ToolCalibration:
        """The same tool with its tip so much farther ahead: a stylet that protrudes, or another cannula (negative)."""
        return replace(self, tip_in_tool_mm=self.tip_in_tool_mm + offset_mm * self.axis_in_tool)


def tool_calibration(
    tool: str, calibrated_at: datetime, pivot: PivotCalibration, spin: SpinCalibration | None = None
) -> ToolCalibration:
    """What pivoting, and spinning if it was done, say of a tool.

    Without a spin the shaft is taken to lie along the z axis of the markers, as the geometry files of most trackers
    have it, towards the tip.

    Raises:
        CalibrationError: when pivot and spin contradict each other.
    """
    tip = pivot.tip_in_tool_mm
    axis = np.array([0.0, 0.0, 1.0 if tip[2] >= 0 else -1.0]) if spin is None else axis_towards(spin, tip)
    return ToolCalibration(
        tool=tool,
        calibrated_at=calibrated_at,
        tip_in_tool_mm=tip,
        axis_in_tool=axis,
        tip_covariance_mm2=pivot.tip_covariance_mm2,
        axis_sd_deg=_UNKNOWN_AXIS_SD_DEG if spin is None else spin.axis_sd_deg,
        holdout_error_mm=pivot.holdout_error_mm,
        divot_in_reference_mm=pivot.pivot_in_reference_mm,
    )


def write_tool_calibration(calibration: ToolCalibration, path: Path) -> None:
    """Write a calibration, whole or not at all."""
    content = {name: getattr(calibration, name) for name in ToolCalibration.__dataclass_fields__}
    write_document(Path(path), "tool_calibration", content | {"calibrated_at": calibration.calibrated_at.isoformat()})


def read_tool_calibration(
    path: Path, tool: str, now: datetime, oldest: timedelta = OLDEST_CALIBRATION
) -> ToolCalibration:
    """Read the calibration of a tool.

    Args:
        tool: that is in use.
        now: with its time zone.

    Raises:
        DocumentError: for a file that is no calibration.
        CalibrationError: for one of another tool, or one that is too old.
    """
    record = read_document(Path(path), "tool_calibration")
    found = _calibration_of(record, path)
    if found.tool != tool:
        raise CalibrationError(f"{path} is the calibration of {found.tool!r}, not of {tool!r}; calibrate that tool")
    age = now - found.calibrated_at
    if not timedelta(minutes=-5) <= age <= oldest:
        hours = age.total_seconds() / 3600
        when = f"{hours:.0f} hours old (limit {oldest.total_seconds() / 3600:.0f})" if hours > 0 else "from the future"
        raise CalibrationError(f"{path} is {when}; calibrate {tool} again")
    return found


def _calibration_of(record: dict[str, Any], path: Path) -> ToolCalibration:
    try:
        calibrated_at = datetime.fromisoformat(record["calibrated_at"])
    except ValueError:
        calibrated_at = datetime.min
    if calibrated_at.tzinfo is None:
        raise CalibrationError(f"{path}: calibrated_at must be a date and time with its time zone; calibrate again")
    divot = record.get("divot_in_reference_mm")
    return ToolCalibration(
        tool=record["tool"],
        calibrated_at=calibrated_at,
        tip_in_tool_mm=np.array(record["tip_in_tool_mm"], float),
        axis_in_tool=unit(record["axis_in_tool"]),
        tip_covariance_mm2=np.array(record["tip_covariance_mm2"], float),
        axis_sd_deg=float(record["axis_sd_deg"]),
        holdout_error_mm=float(record["holdout_error_mm"]),
        divot_in_reference_mm=None if divot is None else np.array(divot, float),
    )


@dataclass(frozen=True)
class DivotCheck:
    """Where a calibrated tip was found when it stood in a known divot.

    Attributes:
        passed: whether the tool may be used.
        distance_mm: of the tip from the divot.
        limit_mm: what chance and the tracker explain.
        text: the finding in a sentence.
    """

    passed: bool
    distance_mm: float
    limit_mm: float
    text: str


def check_at_divot(calibration: ToolCalibration, ToolToReference: ArrayLike) -> DivotCheck:
    """Compare a tool's tip with the divot in which it was pivoted.

    Args:
        ToolToReference: poses (n, 4, 4) with the tip in the divot; tilted about it they also show a bent shaft.

    Raises:
        CalibrationError: for too few poses, poses that are none, or a calibration without a divot.
    """
    if calibration.divot_in_reference_mm is None:
        raise CalibrationError(f"no divot is known in which {calibration.tool} was pivoted; pivot it again")
    poses = np.asarray(ToolToReference, float)
    poses = poses[valid_poses(poses, calibration.tool)]
    if len(poses) < _FEWEST_AT_DIVOT:
        raise CalibrationError(
            f"only {len(poses)} valid poses of {calibration.tool} in the divot; hold it there for a second"
        )
    tips = np.array([transform_points(pose, calibration.tip_in_tool_mm) for pose in poses])
    off = tips - calibration.divot_in_reference_mm
    # Wild poses must not decide; a shaft that is bent moves all of them.
    distance = float(max(np.linalg.norm(np.median(off, axis=0)), np.median(np.linalg.norm(off, axis=1)) / 2))
    expected = _DIVOT_SIGMAS * float(
        np.sqrt(np.trace(calibration.tip_covariance_mm2) + calibration.holdout_error_mm**2)
    )
    limit = min(max(expected, _DIVOT_FLOOR_MM), _DIVOT_LIMIT_MM)
    passed = bool(distance <= limit)
    advice = "in place" if passed else "do not use it: calibrate it again, look for a bent shaft or a loose marker"
    return DivotCheck(
        passed,
        distance,
        limit,
        f"{calibration.tool}: tip {distance:.1f} mm off the divot (limit {limit:.1f}); {advice}",
    )
