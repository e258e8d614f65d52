"""The patient in the scene: touched landmarks and swept bone, the registration with its error, trocars as placed.

Transforms are MRML's own chain: `StylusTipToStylus` stands under `StylusToReference`, and that under `ReferenceToRAS`.
So the tip's transform to the world is guidance's input, whoever sends the poses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, get_args

import numpy as np
import vtk
from numpy.typing import ArrayLike
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer
from slicer import (
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
)

from ..anatomy.landmarks import touchable
from ..errors import CalibrationError
from ..geometry import FloatArray, transform_points
from ..navigation.bone_surface import surface_of_anatomy
from ..navigation.error_model import ErrorBudget
from ..navigation.placement import Deviation, deviation
from ..navigation.reference_check import RecheckPoint, recheck_point
from ..navigation.registration import PatientRegistration, Registration, register_landmarks
from ..navigation.surface_registration import LandmarkPairs, register_surface
from ..navigation.tool_calibration import ToolCalibration
from ..planning.model import Plan, Side, Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from ..procedure.case import PlacedTrocar
from ..procedure.navigate import LARGEST_TARGET_ERROR_MM, budget_at_target, navigation_error_mm
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import anatomy_of, readable, segmented_ct
from .calibration import PoseWatch, calibration_of, tip_in_reference
from .devices import REFERENCE_TO_RAS
from .in_use import is_marked, mark
from .nodes import add_model, add_transform, add_trocar, first_node, points_of, set_transform, volume_of
from .planning import chosen, plan_of
from .records import read_record, write_record
from .workflow import write_step

REGISTRATION_NAME = "Sacroplasty registration"
TOUCHED_NAME = "Sacroplasty touched points"
SWEPT_NAME = "Sacroplasty swept points"
TROCARS_NAME = "Sacroplasty trocars"
#: Swept points nearer to each other than this say the same [mm]; fewer than so many are no surface.
_SWEEP_STEP_MM = 1.0
FEWEST_SWEPT = 20


def touch(scene: vtkMRMLScene, landmark: str, watch: PoseWatch, now: datetime) -> FloatArray:
    """Record the tip of a calibrated tool as a landmark, in the frame of the reference on the patient.

    Raises:
        CalibrationError: when the tool is not calibrated, not seen, or its pose is an old one.
    """
    point = tip_in_reference(scene, watch, now)
    write_record(scene, TOUCHED_NAME, {**touched(scene), landmark: point})
    return point


def forget(scene: vtkMRMLScene, landmark: str) -> None:
    """Forget a touched landmark."""
    write_record(scene, TOUCHED_NAME, {name: point for name, point in touched(scene).items() if name != landmark})


def touched(scene: vtkMRMLScene) -> dict[str, list[float]]:
    """Touched landmarks in the reference's frame, by name."""
    return read_record(scene, TOUCHED_NAME) or {}


class Sweep:
    """Collects where the tip of a calibrated tool touches bone while it is drawn over it."""

    def __init__(self, scene: vtkMRMLScene, watch: PoseWatch) -> None:
        self._scene, self._watch = scene, watch
        self.points = list(swept(scene))

    def collect(self, now: datetime) -> None:
        """Take the tip of now, if it has gone on a little. Poses that are none are left out."""
        try:
            point = tip_in_reference(self._scene, self._watch, now)
        except CalibrationError:
            return
        if not self.points or float(np.linalg.norm(point - self.points[-1])) >= _SWEEP_STEP_MM:
            self.points.append(point)

    def keep(self) -> None:
        """Put the points into the scene, where the registration finds them."""
        show_swept(self._scene, np.array(self.points).reshape(-1, 3))


def swept(scene: vtkMRMLScene) -> FloatArray:
    """Swept points (n, 3) in the reference's frame."""
    node = first_node(scene, "vtkMRMLModelNode", SWEPT_NAME)
    mesh = node.GetPolyData() if node is not None else None
    if mesh is None or not mesh.GetNumberOfPoints():
        return np.zeros((0, 3))
    return vtk_to_numpy(mesh.GetPoints().GetData()).astype(float)


def show_swept(scene: vtkMRMLScene, points_mm: ArrayLike) -> vtkMRMLModelNode:
    """Put swept points (n, 3) of the reference's frame into the scene; without any, the older ones are gone."""
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(points_mm, float).reshape(-1, 3), deep=True))
    mesh = vtk.vtkPolyData()
    mesh.SetPoints(points)
    vertices = vtk.vtkCellArray()
    for number in range(points.GetNumberOfPoints()):
        vertices.InsertNextCell(1, [number])
    mesh.SetVerts(vertices)
    node = first_node(scene, "vtkMRMLModelNode", SWEPT_NAME)
    if node is None:
        node = add_model(scene, mesh, SWEPT_NAME, (1.0, 0.75, 0.2))
        node.GetDisplayNode().SetPointSize(6)
        registration = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
        if registration is not None:
            node.SetAndObserveTransformNodeID(registration.GetID())
    else:
        node.SetAndObservePolyData(mesh)
    return node


@dataclass(frozen=True)
class LandmarkRow:
    """One pair of the registration; None for what is not known yet.

    Attributes:
        residual_mm: after the fit. It does not tell the error at the target.
        left_out_mm: of the point when it had no part in the fit.
        redo: whether it is the one to touch again.
    """

    name: str
    is_touched: bool
    residual_mm: float | None
    left_out_mm: float | None
    redo: bool


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
        LandmarkRow(name, name in known, residuals.get(name), left_out.get(name), name == record.get("redo"))
        for name in order
        if name not in deep
    ]


def register(
    scene: vtkMRMLScene,
    landmarks: vtkMRMLMarkupsFiducialNode,
    ct: vtkMRMLScalarVolumeNode | None = None,
    segmentation: vtkMRMLSegmentationNode | None = None,
) -> dict[str, Any]:
    """Register the patient by touched landmarks, and by swept bone where there is some: `ReferenceToRAS`.

    Args:
        ct, segmentation: whose bone was swept; without them the swept points have no part.

    Returns:
        The record: `error_mm` (expected at the worst planned target), `residuals_mm`, `left_out_mm`, `redo`, ...

    Raises:
        CalibrationError: saying which points are wrong or missing; then no registration stands.
    """
    known, on_ct = touched(scene), points_of(landmarks)
    names = [name for name in on_ct if name in known]
    try:
        moving = np.array([known[name] for name in names]).reshape(-1, 3)
        fixed = np.array([on_ct[name] for name in names]).reshape(-1, 3)
        by_landmarks = register_landmarks(moving, fixed, names)
        plan = plan_of(scene)
        targets = [trajectory.target for trajectory in chosen(plan).values()] if plan else []
        targets = targets or list(on_ct.values())
        points = swept(scene)
        found: PatientRegistration = by_landmarks
        if len(points) >= FEWEST_SWEPT and ct is not None and segmentation is not None:
            surface = surface_of_anatomy(anatomy_of(scene, segmentation, ct), volume_of(ct))
            found = register_surface(
                points,
                surface,
                by_landmarks.MovingToFixed,
                targets,
                landmarks=LandmarkPairs(moving, fixed, by_landmarks.fle_mm),
                largest_target_error_mm=LARGEST_TARGET_ERROR_MM,
            )
            residuals = np.linalg.norm(transform_points(found.MovingToFixed, moving) - fixed, axis=1)
            by_landmarks = replace(by_landmarks, residuals_mm=residuals)
        error_mm = _expected_error_mm(scene, found, targets)
        if not error_mm <= LARGEST_TARGET_ERROR_MM:
            worst = by_landmarks.redo or by_landmarks.names[int(by_landmarks.residuals_mm.argmax())]
            raise CalibrationError(
                f"the expected error at the target is {error_mm:.1f} mm, limit {LARGEST_TARGET_ERROR_MM:.1f}; "
                f"touch the landmarks again, {readable(worst)} first, or sweep bone as well"
            )
    except CalibrationError as error:
        refuse_registration(scene, error)
        raise
    return show_registration(scene, by_landmarks, error_mm, found, len(points) if found is not by_landmarks else 0)


def _expected_error_mm(scene: vtkMRMLScene, registration: PatientRegistration, targets: list[FloatArray]) -> float:
    """Of the trocar's tip at the worst planned target; before it is calibrated, of the registration alone."""
    calibration, plan = calibration_of(scene, "Trocar"), plan_of(scene)
    if calibration is None or plan is None:
        return max(float(registration.predicted_tre_mm(target)) for target in targets)
    budgets = _budgets(calibration, registration, plan, ijk_to_ras(scene)).values()
    return max((navigation_error_mm(budget) for budget in budgets), default=float("nan"))


def show_registration(
    scene: vtkMRMLScene,
    landmarks: Registration,
    error_mm: float,
    found: PatientRegistration | None = None,
    swept_points: int = 0,
) -> dict[str, Any]:
    """Put an accepted registration into the scene, above every tool seen from the reference; returns its record.

    Args:
        landmarks: with residuals after the registration that is used.
        error_mm: expected at the worst target.
        found: the registration itself, when swept bone had a part in it; else it is that of the landmarks.
        swept_points: how many had a part.
    """
    registration = found or landmarks
    left_out = [float(error) if np.isfinite(error) else None for error in landmarks.leave_one_out_mm]
    uncertainty = registration.uncertainty
    record = {
        "ReferenceToRAS": registration.MovingToFixed,
        "error_mm": error_mm,
        "uncertainty": {"center_ras": uncertainty.center_ras, "covariance": uncertainty.covariance},
        "residuals_mm": dict(zip(landmarks.names, landmarks.residuals_mm.tolist(), strict=True)),
        "left_out_mm": dict(zip(landmarks.names, left_out, strict=True)),
        "redo": landmarks.redo,
        "swept_points": swept_points,
        "warnings": list(registration.warnings),
    }
    write_record(scene, REGISTRATION_NAME, record)
    mark(scene, REGISTRATION_NAME, read_record(scene, REGISTRATION_NAME) or {})
    node = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
    if node is None:
        node = add_transform(scene, registration.MovingToFixed, REFERENCE_TO_RAS)
    else:
        set_transform(node, registration.MovingToFixed)
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode")):
        tool = scene.GetNthNodeByClass(number, "vtkMRMLLinearTransformNode")
        if tool.GetName().endswith("ToReference"):
            tool.SetAndObserveTransformNodeID(node.GetID())
    points = first_node(scene, "vtkMRMLModelNode", SWEPT_NAME)
    if points is not None:
        points.SetAndObserveTransformNodeID(node.GetID())
    write_step(scene, "registration", True, [registration_text(scene)])
    return record


def refuse_registration(scene: vtkMRMLScene, reason: CalibrationError) -> None:
    """A registration that no longer follows from the points, or that moved, must not guide anybody."""
    write_step(scene, "registration", False, [str(reason)])
    write_record(scene, REGISTRATION_NAME, {})
    node = first_node(scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
    if node is not None:
        scene.RemoveNode(node)


def check_point(scene: vtkMRMLScene, landmark: str, watch: PoseWatch, now: datetime) -> RecheckPoint:
    """Touch a landmark again to see whether the patient still lies where it was registered.

    A registration that was restored from a file may be used from then on; one that has moved is taken away.

    Raises:
        CalibrationError: when there is no registration, the landmark was never touched, or the tool cannot touch.
    """
    known = touched(scene)
    record = read_record(scene, REGISTRATION_NAME)
    if not record:
        raise CalibrationError("there is no registration to check; register the patient first")
    if landmark not in known:
        raise CalibrationError(f"{readable(landmark)} was not touched when the patient was registered; choose another")
    found = recheck_point(readable(landmark), known[landmark], tip_in_reference(scene, watch, now))
    if found.moved:
        refuse_registration(scene, CalibrationError(found.text))
    else:
        mark(scene, REGISTRATION_NAME, record)
    return found


def registration_problem(scene: vtkMRMLScene) -> str:
    """Why there is no registration to be relied upon, in words; empty when there is one."""
    record = read_record(scene, REGISTRATION_NAME)
    if not record:
        return "the patient is not registered"
    if not is_marked(scene, REGISTRATION_NAME, record):
        return "the registration was restored from a file: touch a check point first"
    return ""


def registration_of(scene: vtkMRMLScene) -> PatientRegistration | None:
    """The registration that the scene holds, whether it may be used or not; None without one."""
    record = read_record(scene, REGISTRATION_NAME)
    if not record:
        return None
    uncertainty = {key: np.asarray(value, float) for key, value in record["uncertainty"].items()}
    return PatientRegistration(
        np.asarray(record["ReferenceToRAS"], float), PoseUncertainty(**uncertainty), tuple(record["warnings"])
    )


def registration_error_mm(scene: vtkMRMLScene) -> float | None:
    """Expected error at the worst target, or None when there is no registration that may be used."""
    record = read_record(scene, REGISTRATION_NAME)
    return float(record["error_mm"]) if record and not registration_problem(scene) else None


def registration_text(scene: vtkMRMLScene) -> str:
    """The registration in a line."""
    record = read_record(scene, REGISTRATION_NAME)
    if not record:
        return "not registered"
    swept_points = record.get("swept_points")
    return (
        f"{len(record['residuals_mm'])} landmarks{f', {swept_points} swept points' if swept_points else ''}, "
        f"expected error at the target {record['error_mm']:.1f} mm"
    )


def ijk_to_ras(scene: vtkMRMLScene) -> FloatArray:
    """Geometry (4, 4) of the CT that the case goes on with; voxels of 1 mm without one."""
    ct, _ = segmented_ct(scene)
    if ct is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def target_budgets(scene: vtkMRMLScene, tool: str = "Trocar") -> dict[Side, ErrorBudget]:
    """By side, all errors of a calibrated trocar that stands as planned; empty as long as one of them is not known."""
    registration, calibration, plan = registration_of(scene), calibration_of(scene, tool), plan_of(scene)
    if registration is None or calibration is None or plan is None:
        return {}
    return _budgets(calibration, registration, plan, ijk_to_ras(scene))


def _budgets(
    calibration: ToolCalibration, registration: PatientRegistration, plan: Plan, IJKToRAS: FloatArray
) -> dict[Side, ErrorBudget]:
    return {side: budget_at_target(calibration, registration, one, IJKToRAS) for side, one in chosen(plan).items()}


def show_trocar(scene: vtkMRMLScene, side: Side, placed: PlacedTrocar, trajectory: Trajectory) -> None:
    """Record where a trocar was left, with its deviation from the plan, and show it in place of an older one there."""
    off = deviation(placed.tip_ras, placed.hub_ras, trajectory)
    record = read_record(scene, TROCARS_NAME) or {}
    write_record(scene, TROCARS_NAME, {**record, side: {**asdict(placed), "deviation": asdict(off)}})
    name = f"Trocar {side}"
    old = first_node(scene, "vtkMRMLModelNode", name)
    if old is not None:
        scene.RemoveNode(old)
    add_trocar(scene, placed.hub_ras, placed.tip_ras, trajectory.outer_diameter_mm, name)
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
            kept = {key: value for key, value in record[side].items() if key != "deviation"}
            placed[side] = PlacedTrocar(**kept | points)
    return placed


def deviations(scene: vtkMRMLScene) -> dict[Side, Deviation]:
    """How the trocars that were left differ from their plan, by side."""
    record: dict[str, dict[str, Any]] = read_record(scene, TROCARS_NAME) or {}
    return {side: Deviation(**record[side]["deviation"]) for side in get_args(Side) if side in record}
