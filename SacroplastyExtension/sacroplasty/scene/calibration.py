"""Calibrated tools in the scene: the tip's transform under the tool's, and how and when it was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

import slicer
from slicer import vtkMRMLLinearTransformNode, vtkMRMLScene

from ..devices.freshness import OLDEST_POSE_S
from ..errors import CalibrationError
from ..geometry import FloatArray, transform_points
from ..navigation.pivot import PivotProgress, calibrate_pivot, pivot_progress
from ..navigation.tool_axis import axis_towards, calibrate_spin
from ..navigation.tool_calibration import (
    OLDEST_CALIBRATION,
    DivotCheck,
    ToolCalibration,
    check_at_divot,
    read_tool_calibration,
    tool_calibration,
    write_tool_calibration,
)
from .devices import REASON, is_valid
from .in_use import is_marked, mark
from .nodes import add_transform, first_node, matrix_of, set_transform
from .records import read_record, write_record

_TIPS_NAME = "Sacroplasty tool tips"
_MOST_POSES = 4000


class PoseWatch:
    """Age of a tool's pose, by when its node or one above it last changed. Poses from before the watch are old."""

    def __init__(self, tool: vtkMRMLLinearTransformNode, clock: Callable[[], float]) -> None:
        self.tool = tool
        self._clock = clock
        self._moved_s = -np.inf
        self._tag = tool.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._on_moved)

    def close(self) -> None:
        """Stop watching."""
        self.tool.RemoveObserver(self._tag)

    def age_s(self) -> float:
        """Seconds since the last pose; infinite when none came yet."""
        return self._clock() - self._moved_s

    def problem(self) -> str:
        """Why the tool's pose must not be used now, in words; empty when it may."""
        if not is_valid(self.tool):
            return f"{tool_name(self.tool)} is not seen: {self.tool.GetAttribute(REASON) or 'no valid pose'}"
        if not self.age_s() <= OLDEST_POSE_S:
            return f"{tool_name(self.tool)} sends no poses now; is the tracker connected?"
        return ""

    def _on_moved(self, caller: object, event: object) -> None:
        self._moved_s = self._clock()


class PoseCollector:
    """Collects poses of a tool that is turned about its tip or its shaft, or that rests in a divot.

    Attributes:
        poses: collected so far, each (4, 4); NaN where the tool was not seen.
    """

    def __init__(self, tool: vtkMRMLLinearTransformNode) -> None:
        self.tool = tool
        self.poses: list[FloatArray] = []

    def collect(self) -> None:
        """Take the tool's pose of now, if it is new; note when there is none."""
        if len(self.poses) >= _MOST_POSES:
            return
        pose = matrix_of(self.tool) if is_valid(self.tool) else np.full((4, 4), np.nan)
        if not self.poses or not np.array_equal(pose, self.poses[-1], equal_nan=True):
            self.poses.append(pose)

    def progress(self) -> PivotProgress:
        """How far pivoting has come, and what is lacking, in words.

        Raises:
            CalibrationError: for poses that are none.
        """
        # A tenth of a second's poses more or less say the same; many are slow to compare.
        return pivot_progress(np.array(self.poses[:: max(1, len(self.poses) // 400)]).reshape(-1, 4, 4))


def calibrate(scene: vtkMRMLScene, collector: PoseCollector, now: datetime) -> ToolCalibration:
    """Find the tip by the collected poses, and add its transform node under the tool.

    Raises:
        CalibrationError: saying what to do better; an older calibration stays.
    """
    pivot = calibrate_pivot(_poses(collector))
    tool = tool_name(collector.tool)
    made = tool_calibration(tool, now, pivot)
    older = calibration_of(scene, tool)
    if older is not None and older.axis_sd_deg < made.axis_sd_deg:
        # The shaft's direction that spinning gave stands on.
        made = replace(made, axis_in_tool=older.axis_in_tool, axis_sd_deg=older.axis_sd_deg)
    show_calibration(scene, made)
    return made


def calibrate_axis(scene: vtkMRMLScene, collector: PoseCollector) -> ToolCalibration:
    """Find the direction of the shaft of a tool that was turned about it, for a tool whose tip is known.

    Raises:
        CalibrationError: saying what to do better; the older direction stays.
    """
    tool = tool_name(collector.tool)
    known = calibration_of(scene, tool)
    if known is None:
        raise CalibrationError(f"{tool} has no calibrated tip; pivot it first")
    spin = calibrate_spin(_poses(collector))
    made = replace(known, axis_in_tool=axis_towards(spin, known.tip_in_tool_mm), axis_sd_deg=spin.axis_sd_deg)
    show_calibration(scene, made)
    return made


def check_in_divot(scene: vtkMRMLScene, collector: PoseCollector) -> DivotCheck:
    """Compare the tip, which stands in the divot of its calibration again, with where it should be.

    Raises:
        CalibrationError: when there is no calibration or no divot, or the tool was not seen.
    """
    tool = tool_name(collector.tool)
    known = calibration_of(scene, tool)
    if known is None:
        raise CalibrationError(f"{tool} was not pivoted in a divot before; pivot it first")
    found = check_at_divot(known, _poses(collector))
    checked = {**_record(scene, tool), "divot_check": found.text, "divot_passed": found.passed}
    _keep(scene, tool, checked, in_use=found.passed)
    return found


def save_calibration(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode, path: Path) -> None:
    """Write the calibration of a tool to a file.

    Raises:
        CalibrationError: without a calibration, or without a file's name.
    """
    known = calibration_of(scene, tool_name(tool))
    if known is None:
        raise CalibrationError(f"{tool_name(tool)} has no calibration to save; pivot it first")
    write_tool_calibration(known, _json_file(path))


def load_calibration(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode, path: Path, now: datetime) -> None:
    """Read the calibration of a tool from a file, in place of an older one. It must be checked in the divot first.

    Raises:
        DocumentError, CalibrationError: for a file that is none, of another tool or too old, or that has no divot to
            check it in; then the older one stays.
    """
    found = read_tool_calibration(_json_file(path), tool_name(tool), now)
    if found.divot_in_reference_mm is None:
        raise CalibrationError(f"{path} does not say where the divot is, so it cannot be checked; pivot the tool again")
    show_calibration(scene, found, in_use=False)


def show_calibration(scene: vtkMRMLScene, calibration: ToolCalibration, in_use: bool = True) -> None:
    """Put a calibration into the scene: its record, and the tip's transform once the tool has one.

    Args:
        in_use: whether it was made just now; one out of a file must be checked in the divot before it is used.
    """
    kept = {name: getattr(calibration, name) for name in ToolCalibration.__dataclass_fields__}
    record = {
        **kept,
        "calibrated_at": calibration.calibrated_at.isoformat(),
        "divot_check": None,
        "divot_passed": None,
    }
    _keep(scene, calibration.tool, record, in_use)
    tool = first_node(scene, "vtkMRMLLinearTransformNode", f"{calibration.tool}ToReference")
    if tool is None:
        return
    name = tip_name(tool)
    node = first_node(scene, "vtkMRMLLinearTransformNode", name)
    if node is None:
        node = add_transform(scene, calibration.TipToTool, name)
    else:
        set_transform(node, calibration.TipToTool)
    node.SetAndObserveTransformNodeID(tool.GetID())


def calibration_of(scene: vtkMRMLScene, tool: str) -> ToolCalibration | None:
    """The calibration of a tool (`Stylus`), or None."""
    record = _record(scene, tool)
    if not record:
        return None
    fields = {name: record[name] for name in ToolCalibration.__dataclass_fields__}
    arrays = ("tip_in_tool_mm", "axis_in_tool", "tip_covariance_mm2", "divot_in_reference_mm")
    return ToolCalibration(
        **fields
        | {name: np.asarray(record[name], float) for name in arrays if record[name] is not None}
        | {"calibrated_at": datetime.fromisoformat(record["calibrated_at"])}
    )


def age_of(scene: vtkMRMLScene, tool: str, now: datetime) -> timedelta | None:
    """How old the calibration of a tool is, or None without one."""
    known = calibration_of(scene, tool)
    return None if known is None else now - known.calibrated_at


def calibration_text(scene: vtkMRMLScene, tool: str, now: datetime) -> str:
    """The calibration of a tool in a line; what forbids its use comes first."""
    known, age = calibration_of(scene, tool), age_of(scene, tool, now)
    if known is None or age is None:
        return "not calibrated"
    text = (
        f"error {known.holdout_error_mm:.2f} mm on poses left out, direction of the shaft ±{known.axis_sd_deg:.1f}°, "
        f"{known.calibrated_at:%Y-%m-%d %H:%M}"
    )
    if not timedelta(0) <= age <= OLDEST_CALIBRATION:
        text = f"too old, calibrate again: {text}"
    record = _record(scene, tool)
    if record["divot_check"]:
        text = f"{text}; {record['divot_check']}"
    return text if is_marked(scene, tool, record) else f"restored from a file, check it in the divot: {text}"


def usable_tip(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode, now: datetime) -> FloatArray:
    """The tip (3,) of a calibrated tool in its frame.

    Raises:
        CalibrationError: for a tool without a calibration of today, or with one that failed or needs a check.
    """
    name = tool_name(tool)
    known, age = calibration_of(scene, name), age_of(scene, name, now)
    if known is None or age is None:
        raise CalibrationError(f"{name} has no calibrated tip; pivot it first")
    if not timedelta(0) <= age <= OLDEST_CALIBRATION:
        raise CalibrationError(
            f"the calibration of {name} is from {known.calibrated_at:%Y-%m-%d %H:%M}: pivot it again"
        )
    record = _record(scene, name)
    if record["divot_passed"] is False:
        raise CalibrationError(str(record["divot_check"]))
    if not is_marked(scene, name, record):
        raise CalibrationError(f"the calibration of {name} was restored from a file: check it in the divot first")
    return known.tip_in_tool_mm


def tip_in_reference(scene: vtkMRMLScene, watch: PoseWatch, now: datetime) -> FloatArray:
    """Where the tip of a watched tool is now (3,), in the frame of the reference on the patient.

    Raises:
        CalibrationError: when the tool is not calibrated, not seen, or its pose is an old one.
    """
    tip = usable_tip(scene, watch.tool, now)
    problem = watch.problem()
    if problem:
        raise CalibrationError(problem)
    return transform_points(matrix_of(watch.tool), tip)


def tip_name(tool: vtkMRMLLinearTransformNode) -> str:
    """Name of a tool's tip transform: `StylusToReference` has `StylusTipToStylus`."""
    return f"{tool_name(tool)}TipTo{tool_name(tool)}"


def tool_name(tool: vtkMRMLLinearTransformNode) -> str:
    """`Stylus` of `StylusToReference`."""
    return tool.GetName().partition("To")[0]


def _json_file(path: Path) -> Path:
    if Path(path).suffix != ".json":
        raise CalibrationError("choose a file for the calibration first (.json)")
    return Path(path)


def _poses(collector: PoseCollector) -> FloatArray:
    if not collector.poses:
        raise CalibrationError("no valid pose was collected; is the tool seen by the tracker?")
    return np.stack(collector.poses)


def _keep(scene: vtkMRMLScene, tool: str, record: dict[str, Any], in_use: bool) -> None:
    write_record(scene, _TIPS_NAME, {**_records(scene), tool: record})
    # As the scene gives it back: arrays have become lists.
    mark(scene, tool, _record(scene, tool) if in_use else {})


def _records(scene: vtkMRMLScene) -> dict[str, Any]:
    return read_record(scene, _TIPS_NAME) or {}


def _record(scene: vtkMRMLScene, tool: str) -> dict[str, Any]:
    return _records(scene).get(tool) or {}
