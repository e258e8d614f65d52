"""Navigation in the scene: tool tips, the patient registration, and guidance read from transform nodes.

Transforms are MRML's own chain: `StylusTipToStylus` stands under `StylusToReference`, and that under `ReferenceToRAS`.
So the tip's transform to the world is guidance's input, whoever sends the poses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import vtk

import slicer
from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLScene,
)

from ..anatomy.landmarks import touchable
from ..errors import CalibrationError
from ..geometry import FloatArray, rigid, transform_points
from ..planning.model import Side
from ..procedure.case import PlacedTrocar
from ..procedure.navigate import LARGEST_TARGET_ERROR_MM
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import readable
from .devices import REASON, REFERENCE_TO_RAS, is_valid
from .nodes import add_transform, add_trocar, first_node, matrix_of, points_of, set_transform
from .planning import chosen, plan_of, trajectory_of
from .records import read_record, write_record
from .workflow import write_step

if TYPE_CHECKING:
    from ..navigation.clearance import ShaftClearance
    from ..navigation.guidance import GuidanceReading
    from ..navigation.pivot import PivotCalibration
    from ..navigation.registration import Registration

REGISTRATION_NAME = "Sacroplasty registration"
TOUCHED_NAME = "Sacroplasty touched points"
TROCARS_NAME = "Sacroplasty trocars"
_TIPS_NAME = "Sacroplasty tool tips"
#: Tilting by this much makes a pivot calibration well conditioned, so that is what the progress bar counts to.
_WANTED_TILT_DEG = 60.0


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

    def _on_moved(self, caller: object, event: object) -> None:
        self._moved_s = self._clock()


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
    show_calibration(scene, _tool_name(tool), calibration)
    return calibration


def show_calibration(scene: vtkMRMLScene, tool: str, calibration: PivotCalibration) -> None:
    """Record how well the tip of a tool (`Stylus`) is known."""
    write_record(
        scene,
        _TIPS_NAME,
        {
            **(read_record(scene, _TIPS_NAME) or {}),
            tool: {
                "tip_in_tool_mm": calibration.tip_in_tool_mm,
                "rms_error_mm": calibration.rms_error_mm,
                "holdout_error_mm": calibration.holdout_error_mm,
            },
        },
    )


def tip_name(tool: vtkMRMLLinearTransformNode) -> str:
    """Name of a tool's tip transform: `StylusToReference` has `StylusTipToStylus`."""
    return f"{_tool_name(tool)}TipTo{_tool_name(tool)}"


def tip_error_mm(scene: vtkMRMLScene, tool: vtkMRMLLinearTransformNode) -> float | None:
    """Error of the tool's calibration on poses that it did not use, or None when it was not calibrated."""
    record = (read_record(scene, _TIPS_NAME) or {}).get(_tool_name(tool))
    return None if record is None else float(record["holdout_error_mm"])


def touch(scene: vtkMRMLScene, landmark: str, watch: PoseWatch) -> FloatArray:
    """Record the tip of a calibrated tool as a landmark, in the frame of the reference on the patient.

    Raises:
        CalibrationError: when the tool is not calibrated, not seen, or its pose is an old one.
    """
    from ..navigation.guidance import OLDEST_POSE_S

    tool = watch.tool
    tip = first_node(scene, "vtkMRMLLinearTransformNode", tip_name(tool))
    if tip is None:
        raise CalibrationError(f"{_tool_name(tool)} has no calibrated tip; pivot it first")
    if not is_valid(tool):
        raise CalibrationError(f"{_tool_name(tool)} is not seen: {tool.GetAttribute(REASON) or 'no valid pose'}")
    if not watch.age_s() <= OLDEST_POSE_S:
        raise CalibrationError(f"{_tool_name(tool)} sends no poses now; is the tracker connected?")
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
    """One row for each landmark on the CT that a stylus can reach through the skin, and for each that was touched.

    Landmarks that a person placed count as within reach.
    """
    record = read_record(scene, REGISTRATION_NAME) or {}
    residuals, left_out, known = record.get("residuals_mm", {}), record.get("left_out_mm", {}), touched(scene)
    on_ct = points_of(landmarks)
    found = (read_record(scene, ANATOMY_RECORD) or {}).get("landmarks", {})
    deep = set(found) - set(touchable(found)) - set(known)
    order = [*(name for name in touchable(on_ct)), *(name for name in on_ct if name not in touchable(on_ct))]
    return [
        LandmarkRow(name, name in known, residuals.get(name), left_out.get(name)) for name in order if name not in deep
    ]


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
        _refuse_registration(scene, error)
        raise
    plan = plan_of(scene)
    targets = [trajectory.target for trajectory in chosen(plan).values()] if plan else []
    errors = [float(registration.predicted_tre_mm(target)) for target in targets or list(on_ct.values())]
    if not max(errors) <= LARGEST_TARGET_ERROR_MM:
        worst = registration.names[int(registration.residuals_mm.argmax())]
        refusal = CalibrationError(
            f"the expected error at the target is {max(errors):.1f} mm, limit {LARGEST_TARGET_ERROR_MM:.1f}; "
            f"touch the landmarks again, {readable(worst)} first"
        )
        _refuse_registration(scene, refusal)
        raise refusal
    return show_registration(scene, registration, max(errors))


def show_registration(scene: vtkMRMLScene, registration: Registration, error_mm: float) -> dict[str, Any]:
    """Put an accepted registration into the scene, above every tool seen from the reference; returns its record.

    Args:
        error_mm: expected at the worst target.
    """
    left_out = [float(error) if np.isfinite(error) else None for error in registration.leave_one_out_mm]
    record = {
        "ReferenceToRAS": registration.MovingToFixed,
        "rms_mm": registration.rms_mm,
        "error_mm": error_mm,
        "residuals_mm": dict(zip(registration.names, registration.residuals_mm.tolist(), strict=True)),
        "left_out_mm": dict(zip(registration.names, left_out, strict=True)),
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


def show_trocar(scene: vtkMRMLScene, side: Side, placed: PlacedTrocar, outer_diameter_mm: float) -> None:
    """Record where a trocar was left and show it, in place of an older one on that side."""
    record = read_record(scene, TROCARS_NAME) or {}
    write_record(scene, TROCARS_NAME, {**record, side: asdict(placed)})
    name = f"Trocar {side}"
    old = first_node(scene, "vtkMRMLModelNode", name)
    if old is not None:
        scene.RemoveNode(old)
    add_trocar(scene, placed.hub_ras, placed.tip_ras, outer_diameter_mm, name)
    texts = [
        f"{placed_side} {trocar.target_error_mm:.1f} mm off the target"
        for placed_side, trocar in trocars(scene).items()
    ]
    write_step(scene, "trocar", True, texts)


def trocars(scene: vtkMRMLScene) -> dict[Side, PlacedTrocar]:
    """Trocars as they were left, by side."""
    record: dict[str, dict[str, Any]] = read_record(scene, TROCARS_NAME) or {}
    placed: dict[Side, PlacedTrocar] = {}
    for side in get_args(Side):
        if side in record:
            points = {key: np.asarray(record[side][key], float) for key in ("tip_ras", "hub_ras")}
            placed[side] = PlacedTrocar(**record[side] | points)
    return placed


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
            clock: seconds. Poses that were there before count as never seen.
            clearance: of this patient; without it the clearance is not known.
        """
        self._scene, self._tip, self._line = scene, tip, line
        self._clearance = clearance
        self._watch = PoseWatch(tip, clock)

    def close(self) -> None:
        """Stop following the tip."""
        self._watch.close()

    def reading(self) -> GuidanceReading:
        """Where the tip is against the plan; not valid, with the reason, when that is not known."""
        from ..navigation.guidance import guide

        error_mm = registration_error_mm(self._scene)
        return guide(
            self._tip_to_ras() if self._is_chain_valid() else None,
            self._watch.age_s(),
            trajectory_of(self._scene, self._line),
            self._clearance,
            np.nan if error_mm is None else error_mm,
        )

    def place(self) -> PlacedTrocar:
        """Record that the trocar is left where it is now.

        Raises:
            CalibrationError: when its place is not known, not the target, or not surely clear of what is protected.
        """
        seen = self.reading()
        if not seen.valid:
            raise CalibrationError(f"the place of the trocar is not known: {seen.reason}")
        if seen.phase != "at-target":
            raise CalibrationError(
                f"the trocar is not at its target: {seen.depth_to_target_mm:.0f} mm left, "
                f"{seen.offset_from_line_mm:.1f} mm off the line"
            )
        if seen.assured_clearance_mm is None or not seen.assured_clearance_mm >= 0:
            nearest = readable(seen.nearest_structure) if seen.nearest_structure else "a protected structure"
            raise CalibrationError(f"the shaft may touch {nearest}; draw back and look")
        trajectory = trajectory_of(self._scene, self._line)
        pose = self._tip_to_ras()
        placed = PlacedTrocar(
            tip_ras=pose[:3, 3],
            hub_ras=pose[:3, 3] - pose[:3, 2] * trajectory.length_mm,
            target_error_mm=float(np.linalg.norm(pose[:3, 3] - trajectory.target)),
            angle_deg=float(seen.angle_deg or 0.0),
            predicted_error_mm=float(seen.predicted_error_mm or 0.0),
        )
        show_trocar(self._scene, trajectory.side, placed, trajectory.outer_diameter_mm)
        return placed

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


def _refuse_registration(scene: vtkMRMLScene, reason: CalibrationError) -> None:
    """A registration that no longer follows from the points must not guide anybody."""
    write_step(scene, "registration", False, [str(reason)])
    write_record(scene, REGISTRATION_NAME, {})
    node = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
    if node is not None:
        scene.RemoveNode(node)


def _tool_name(tool: vtkMRMLLinearTransformNode) -> str:
    """`Stylus` of `StylusToReference`."""
    return tool.GetName().partition("To")[0]
