"""Navigation in the scene: tool tips, the patient registration, and guidance read from transform nodes.

Transforms are MRML's own chain: `StylusTipToStylus` stands under `StylusToReference`, and that under `ReferenceToRAS`.
So the tip's transform to the world is guidance's input, whoever sends the poses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import vtk

import slicer
from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLScene,
)

from ..errors import CalibrationError
from ..geometry import FloatArray, rigid, transform_points
from .devices import REASON, REFERENCE_TO_RAS, is_valid
from .nodes import add_transform, first_node, matrix_of, points_of, set_transform
from .planning import chosen, plan_of, trajectory_of
from .records import read_record, write_record
from .workflow import write_step

if TYPE_CHECKING:
    from ..navigation.clearance import ShaftClearance
    from ..navigation.guidance import GuidanceReading
    from ..navigation.pivot import PivotCalibration

REGISTRATION_NAME = "Sacroplasty registration"
TOUCHED_NAME = "Sacroplasty touched points"
_TIPS_NAME = "Sacroplasty tool tips"
#: Tilting by this much makes a pivot calibration well conditioned, so that is what the progress bar counts to.
_WANTED_TILT_DEG = 60.0


class PivotCollector:
    """Collects poses of a tool that is turned about its tip.

    Attributes:
        poses: collected so far, each (4, 4).
        missed: how many turns had no valid pose.
    """

    def __init__(self, tool: vtkMRMLLinearTransformNode) -> None:
        self._tool = tool
        self.poses: list[FloatArray] = []
        self.missed = 0

    def collect(self) -> None:
        """Take the tool's pose of now, if it is valid and new."""
        if not is_valid(self._tool):
            self.missed += 1
            return
        pose = matrix_of(self._tool)
        if not self.poses or not np.array_equal(pose, self.poses[-1]):
            self.poses.append(pose)

    @property
    def progress(self) -> float:
        """0 to 1: how far the tool's axis has been tilted, of what a good calibration needs."""
        if len(self.poses) < 2:
            return 0.0
        axes = np.stack([pose[:3, 2] for pose in self.poses])
        cosine = float(np.clip((axes @ axes.T).min(), -1, 1))
        return min(1.0, float(np.degrees(np.arccos(cosine))) / _WANTED_TILT_DEG)


def calibrate(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode, collector: PivotCollector) -> PivotCalibration:
    """Find the tip and add its transform node under the tool.

    Raises:
        CalibrationError: saying what to do better; an older calibration stays.
    """
    from ..navigation.pivot import calibrate_pivot

    if not collector.poses:
        raise CalibrationError("no valid pose was collected; is the tool seen by the tracker?")
    calibration = calibrate_pivot(np.stack(collector.poses))
    name = tip_name(tool)
    TipToTool = rigid(np.eye(3), calibration.tip_in_tool_mm)
    node = first_node(scene, "vtkMRMLLinearTransformNode", name)
    if node is None:
        node = add_transform(scene, TipToTool, name)
    else:
        set_transform(node, TipToTool)
    node.SetAndObserveTransformNodeID(tool.GetID())
    write_record(
        scene,
        _TIPS_NAME,
        {
            **(read_record(scene, _TIPS_NAME) or {}),
            _tool_name(tool): {
                "tip_in_tool_mm": calibration.tip_in_tool_mm,
                "rms_error_mm": calibration.rms_error_mm,
                "holdout_error_mm": calibration.holdout_error_mm,
            },
        },
    )
    return calibration


def tip_name(tool: vtkMRMLLinearTransformNode) -> str:
    """Name of a tool's tip transform: `StylusToReference` has `StylusTipToStylus`."""
    return f"{_tool_name(tool)}TipTo{_tool_name(tool)}"


def tip_error_mm(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode) -> float | None:
    """Error of the tool's calibration on poses that it did not use, or None when it was not calibrated."""
    record = (read_record(scene, _TIPS_NAME) or {}).get(_tool_name(tool))
    return None if record is None else float(record["holdout_error_mm"])


def touch(scene: vtkMRMLScene, landmark: str, tool: vtkMRMLLinearTransformNode) -> FloatArray:
    """Record the tip of a calibrated tool as a landmark, in the frame of the reference on the patient.

    Raises:
        CalibrationError: when the tool is not calibrated or not seen.
    """
    tip = first_node(scene, "vtkMRMLLinearTransformNode", tip_name(tool))
    if tip is None:
        raise CalibrationError(f"{_tool_name(tool)} has no calibrated tip; pivot it first")
    if not is_valid(tool):
        raise CalibrationError(f"{_tool_name(tool)} is not seen: {tool.GetAttribute(REASON) or 'no valid pose'}")
    point = transform_points(matrix_of(tool), matrix_of(tip)[:3, 3])
    write_record(scene, TOUCHED_NAME, {**touched(scene), landmark: point})
    return point


def forget(scene: vtkMRMLScene, landmark: str) -> None:
    """Forget a touched landmark."""
    write_record(scene, TOUCHED_NAME, {name: point for name, point in touched(scene).items() if name != landmark})


def touched(scene: vtkMRMLScene) -> dict[str, list[float]]:
    """Touched landmarks in the reference's frame, by name."""
    return read_record(scene, TOUCHED_NAME) or {}


@dataclass(frozen=True)
class LandmarkRow:
    """One pair of the registration: the residual, and the error when the point is left out; None before it is known."""

    name: str
    is_touched: bool
    residual_mm: float | None
    left_out_mm: float | None


def landmark_rows(scene: vtkMRMLScene, landmarks: vtkMRMLMarkupsFiducialNode) -> list[LandmarkRow]:
    """One row for each landmark on the CT."""
    record = read_record(scene, REGISTRATION_NAME) or {}
    residuals, left_out, known = record.get("residuals_mm", {}), record.get("left_out_mm", {}), touched(scene)
    return [LandmarkRow(name, name in known, residuals.get(name), left_out.get(name)) for name in points_of(landmarks)]


def register(scene: vtkMRMLScene, landmarks: vtkMRMLMarkupsFiducialNode) -> dict[str, Any]:
    """Register the patient by the touched landmarks: `ReferenceToRAS`, above every tool seen from the reference.

    Returns:
        The record: `rms_mm`, `error_mm` (predicted at the worst planned target), `residuals_mm`, `left_out_mm`.

    Raises:
        CalibrationError: saying which points are wrong or missing; then no registration stands.
    """
    from ..navigation.registration import register_landmarks

    known, on_ct = touched(scene), points_of(landmarks)
    names = [name for name in on_ct if name in known]
    try:
        registration = register_landmarks(
            np.array([known[name] for name in names]).reshape(-1, 3),
            np.array([on_ct[name] for name in names]).reshape(-1, 3),
            names,
        )
    except CalibrationError as error:
        # A registration that no longer follows from the points must not guide anybody.
        _forget_registration(scene)
        write_step(scene, "registration", False, [str(error)])
        raise
    plan = plan_of(scene)
    targets = [trajectory.target for trajectory in chosen(plan).values()] if plan else []
    errors = [float(registration.predicted_tre_mm(target)) for target in targets or list(on_ct.values())]
    left_out = [float(error) if np.isfinite(error) else None for error in registration.leave_one_out_mm]
    record = {
        "ReferenceToRAS": registration.MovingToFixed,
        "rms_mm": registration.rms_mm,
        "error_mm": max(errors),
        "residuals_mm": dict(zip(names, registration.residuals_mm.tolist(), strict=True)),
        "left_out_mm": dict(zip(names, left_out, strict=True)),
        "warnings": list(registration.warnings),
    }
    write_record(scene, REGISTRATION_NAME, record)
    node = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
    if node is None:
        node = add_transform(scene, registration.MovingToFixed, REFERENCE_TO_RAS)
    else:
        set_transform(node, registration.MovingToFixed)
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode")):
        tool = scene.GetNthNodeByClass(number, "vtkMRMLLinearTransformNode")
        if tool.GetName().endswith("ToReference"):
            tool.SetAndObserveTransformNodeID(node.GetID())
    write_step(scene, "registration", True, [registration_text(scene)])
    return record


def registration_error_mm(scene: vtkMRMLScene) -> float | None:
    """Predicted error at the worst target, or None when there is no registration."""
    record = read_record(scene, REGISTRATION_NAME)
    return float(record["error_mm"]) if record else None


def registration_text(scene: vtkMRMLScene) -> str:
    """The registration in a line."""
    record = read_record(scene, REGISTRATION_NAME)
    if not record:
        return "not registered"
    return (
        f"{len(record['residuals_mm'])} landmarks, RMS {record['rms_mm']:.1f} mm, "
        f"expected error at the target {record['error_mm']:.1f} mm"
    )


class Guide:
    """Guidance of one tip along one planned line, with the age of the pose judged by when its node last changed."""

    def __init__(
        self,
        scene: vtkMRMLScene,
        tip: vtkMRMLLinearTransformNode,
        line: vtkMRMLMarkupsLineNode,
        clock: Callable[[], float],
        clearance: ShaftClearance | None = None,
    ) -> None:
        """
        Args:
            clock: seconds, of the same source as `reading`'s `now_s`. Poses that were there before count as never seen.
            clearance: of this patient; without it the clearance is not known.
        """
        self._scene, self._tip, self._line, self._clock = scene, tip, line, clock
        self._clearance = clearance
        self._moved_s = -np.inf
        self._tag = tip.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._on_moved)

    def close(self) -> None:
        """Stop following the tip."""
        self._tip.RemoveObserver(self._tag)

    def reading(self, now_s: float) -> GuidanceReading:
        """Where the tip is against the plan; not valid, with the reason, when that is not known."""
        from ..navigation.guidance import guide

        error_mm = registration_error_mm(self._scene)
        return guide(
            self._tip_to_ras() if self._is_chain_valid() else None,
            now_s - self._moved_s,
            trajectory_of(self._scene, self._line),
            self._clearance,
            np.nan if error_mm is None else error_mm,
        )

    def _on_moved(self, caller: object, event: object) -> None:
        self._moved_s = self._clock()

    def _is_chain_valid(self) -> bool:
        """Every transform from the tip to the patient must be valid, and the last of them be the registration."""
        node, last = self._tip, ""
        while node is not None:
            if not is_valid(node):
                return False
            node, last = node.GetParentTransformNode(), node.GetName()
        return last == REFERENCE_TO_RAS

    def _tip_to_ras(self) -> FloatArray:
        matrix = vtk.vtkMatrix4x4()
        self._tip.GetMatrixTransformToWorld(matrix)
        return slicer.util.arrayFromVTKMatrix(matrix)


def _forget_registration(scene: vtkMRMLScene) -> None:
    write_record(scene, REGISTRATION_NAME, {})
    node = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
    if node is not None:
        scene.RemoveNode(node)


def _tool_name(tool: vtkMRMLLinearTransformNode) -> str:
    """`Stylus` of `StylusToReference`."""
    return tool.GetName().partition("To")[0]
