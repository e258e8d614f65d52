"""Steps 5 and 6: calibrate the tools, register the patient, guide the trocars.

Each step is a generator: it yields a prompt at every tick and returns its result. Who drives it polls the equipment
before each tick.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from ..cement.injection import Request
from ..errors import CalibrationError
from ..geometry import FloatArray, angle_between_deg, invert_rigid, rigid, rotation_between, transform_points
from ..navigation.alarms import GuidanceAlarms
from ..navigation.clearance import ShaftClearance
from ..navigation.error_model import ErrorBudget, error_budget, pose_noise
from ..navigation.guidance import GuidanceReading, guide
from ..navigation.pivot import calibrate_pivot
from ..navigation.registration import PatientRegistration, Registration, register_landmarks
from ..navigation.tool_calibration import ToolCalibration, tool_calibration
from ..planning.model import Side, Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from .case import Case, PlacedTrocar
from .equipment import Clocks, Equipment
from .journal import Journal
from .prompts import LeaveTrocar, Pivot, Prompt, Steer, Touch

#: An expected error at the target beyond this forbids guidance: the usual accuracy claim of surgical navigation, 2 mm.
LARGEST_TARGET_ERROR_MM = 2.0

#: Jitter of an infrared tracker in use: position of a tracked body per axis, and its turn about each axis, from markers
#: some 50 mm apart (own assumption, after figures of about 0.1 mm).
TRACKER_NOISE = pose_noise(0.1, 0.1)

#: The part of an error budget that lies in the CT, not in navigation.
VOXELS = "voxels of the CT"

#: A calibration is tried again each time this many more poses have come in, until the tip is known this well.
_POSES_PER_TRY = 60
_CERTAIN_TIP_MM = 0.1
#: A person who has not managed a step after this long has another problem [s].
_PATIENCE_S = 120.0
#: A tip rests when over so many poses in a row it did not drift and scattered no more than tracking does.
_STEADY_POSES = 40
_SCATTER_MM = 1.5
_DRIFT_MM = 0.4
#: The trocar is in place when it rests this near and this straight.
_PLACED_MM = 1.5
_PLACED_DEG = 2.0

Run = Generator[Prompt, Request | None, None]


def calibrate_tool(
    tool: str, case: Case, equipment: Equipment, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, ToolCalibration]:
    """Pivot a tool until its tip is known.

    Raises:
        CalibrationError: with the last refusal, when it does not succeed in time.
    """
    poses: list[FloatArray] = []
    next_try, refusal = _POSES_PER_TRY, ""
    give_up_s = clocks.device.now() + _PATIENCE_S
    while True:
        now_s = clocks.device.now()
        pose, reading, reference = equipment.tool_to_reference(tool, now_s)
        if pose is not None and not (poses and np.array_equal(poses[-1], pose)):
            poses.append(pose)
        if len(poses) >= next_try:
            next_try += _POSES_PER_TRY
            try:
                calibration = tool_calibration(tool, clocks.today(), calibrate_pivot(np.array(poses)))
            except CalibrationError as error:
                calibration, refusal = None, str(error)
            if calibration is not None and calibration.tip_uncertainty_mm <= _CERTAIN_TIP_MM:
                case.calibrations[tool] = calibration
                journal.write(
                    clocks.procedure.now(),
                    "tool_calibrated",
                    tool=tool,
                    tip_in_tool_mm=calibration.tip_in_tool_mm,
                    holdout_error_mm=calibration.holdout_error_mm,
                    poses=len(poses),
                )
                return calibration
        if now_s > give_up_s:
            raise CalibrationError(
                f"the {tool} could not be calibrated: {refusal or reading.reason or reference.reason}"
            )
        text = f"Put the tip of the {tool.lower()} into the divot and swing it about in all directions"
        yield Prompt(
            "calibration", f"{text} ({refusal})" if refusal else text, Pivot(tool), len(poses) / (4 * next_try)
        )


def register_patient(
    landmarks: Sequence[str], case: Case, equipment: Equipment, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, Registration]:
    """Touch the named landmarks with the calibrated stylus and register the patient.

    Raises:
        CalibrationError: when a landmark is not touched in time, or the error at a target would be too large.
    """
    tip = case.calibrations["Stylus"].tip_in_tool_mm
    touched: list[FloatArray] = []
    for name in landmarks:
        point = yield from _touch(name, len(touched) / len(landmarks), tip, equipment, clocks)
        touched.append(point)
        journal.write(clocks.procedure.now(), "landmark_touched", landmark=name, reference_mm=point)
    fixed = [case.anatomy.landmarks[name].position_ras for name in landmarks]
    registration = register_landmarks(touched, fixed, landmarks)
    errors = {side: target_error_mm(case, registration, trajectory) for side, trajectory in case.targets.items()}
    journal.write(
        clocks.procedure.now(),
        "patient_registered",
        ReferenceToRAS=registration.MovingToFixed,
        residuals_mm=registration.residuals_mm,
        expected_error_at_target_mm=errors,
    )
    for side, error_mm in errors.items():
        if not error_mm <= LARGEST_TARGET_ERROR_MM:
            worst = registration.redo or registration.names[int(registration.residuals_mm.argmax())]
            raise CalibrationError(
                f"the expected error at the {side} target is {error_mm:.1f} mm, limit {LARGEST_TARGET_ERROR_MM:.1f}; "
                f"touch the landmarks again, {worst!r} first"
            )
    case.registration = registration
    return registration


def budget(
    calibration: ToolCalibration, registration: PatientRegistration, TrocarToRAS: FloatArray, IJKToRAS: FloatArray
) -> ErrorBudget:
    """All errors of a trocar in a pose (4, 4) of its markers.

    Args:
        IJKToRAS: of the CT.
    """
    return error_budget(
        TrocarToRAS,
        calibration.tip_in_tool_mm,
        calibration.axis_in_tool,
        registration=registration.uncertainty,
        calibration=calibration.uncertainty,
        trocar_noise=TRACKER_NOISE,
        reference_noise=TRACKER_NOISE,
        ReferenceToRAS=registration.MovingToFixed,
        IJKToRAS=IJKToRAS,
    )


class TrocarError:
    """The error of a trocar's place as it moves: worked out anew when it has moved or turned enough to change it."""

    #: So far the error changes by a few percent.
    _MOVED_MM, _TURNED_DEG = 5.0, 3.0

    def __init__(self, calibration: ToolCalibration, registration: PatientRegistration, IJKToRAS: FloatArray) -> None:
        self._calibration, self._registration, self._IJKToRAS = calibration, registration, IJKToRAS
        self._tip: tuple[FloatArray, FloatArray] | None = None
        self._found: PoseUncertainty | None = None

    def at(self, TrocarToRAS: FloatArray) -> PoseUncertainty:
        """All errors together of a trocar in this pose (4, 4) of its markers."""
        tip = transform_points(TrocarToRAS, self._calibration.tip_in_tool_mm)
        ahead = TrocarToRAS[:3, :3] @ self._calibration.axis_in_tool
        if (
            self._found is None
            or self._tip is None
            or float(np.linalg.norm(tip - self._tip[0])) > self._MOVED_MM
            or float(ahead @ self._tip[1]) < np.cos(np.radians(self._TURNED_DEG))
        ):
            self._found = budget(self._calibration, self._registration, TrocarToRAS, self._IJKToRAS).total
            self._tip = tip, ahead
        return self._found


def budget_at_target(
    calibration: ToolCalibration, registration: PatientRegistration, trajectory: Trajectory, IJKToRAS: FloatArray
) -> ErrorBudget:
    """All errors of a trocar that stands as planned."""
    planned = rotation_between([0, 0, 1], trajectory.target - trajectory.entry_skin)
    TrocarToRAS = rigid(planned, trajectory.target) @ invert_rigid(calibration.TipToTool)
    return budget(calibration, registration, TrocarToRAS, IJKToRAS)


def navigation_error_mm(errors: ErrorBudget) -> float:
    """How far off (root mean square) the tip is shown in the CT: all but the voxels of the CT itself.

    Those are part of the shaft's clearance, but not of what calibrating and registering anew can better.
    """
    return float(np.sqrt(sum(error**2 for source, error in errors.rms_mm().items() if source != VOXELS)))


def target_error_mm(case: Case, registration: PatientRegistration, trajectory: Trajectory) -> float:
    """Expected error (root mean square) of the trocar's tip at its target; not a number before it is calibrated.

    That of navigation (`navigation_error_mm`).
    """
    calibration = case.calibrations.get("Trocar")
    if calibration is None:
        return float("nan")
    return navigation_error_mm(budget_at_target(calibration, registration, trajectory, case.ct.IJKToRAS))


def guide_trocar(
    side: Side, case: Case, clearance: ShaftClearance, equipment: Equipment, clocks: Clocks, journal: Journal
) -> Generator[Prompt, Request | None, PlacedTrocar]:
    """Guide the trocar along its plan until it rests at the target.

    Raises:
        CalibrationError: when the target is not reached in time.
    """
    assert case.registration is not None
    trajectory = case.targets[side]
    calibration, registration = case.calibrations["Trocar"], case.registration
    error = TrocarError(calibration, registration, case.ct.IJKToRAS)
    error_mm = target_error_mm(case, registration, trajectory)
    in_place: list[FloatArray] = []
    give_up_s = clocks.device.now() + _PATIENCE_S
    phase, alarms = "", GuidanceAlarms()
    uncertainty: PoseUncertainty | None = None
    while True:
        if _is_steady([pose[:3, 3] for pose in in_place]):
            # What noise makes of a single pose does not decide, neither for nor against it.
            rests = _mean_pose(in_place)
            if not guide(rests, 0.0, trajectory, clearance, uncertainty).may_touch:
                break
            in_place = []
        now_s = clocks.device.now()
        tool, reading, reference = equipment.tool_to_reference("Trocar", now_s)
        TrocarToRAS = None if tool is None else registration.MovingToFixed @ tool
        pose = None
        if TrocarToRAS is not None:
            pose = TrocarToRAS @ calibration.TipToTool
            uncertainty = error.at(TrocarToRAS)
        lost = reading.reason or reference.reason
        seen = guide(pose, max(reading.age_s, reference.age_s), trajectory, clearance, uncertainty, lost)
        for event in alarms.update(seen, now_s):
            journal.write(
                clocks.procedure.now(),
                "guidance_warning",
                side=side,
                about=event.about,
                priority=event.priority or "over",
            )
        if seen.valid and seen.phase != phase:
            phase = str(seen.phase)
            nearest = seen.nearest
            journal.write(
                clocks.procedure.now(),
                "trocar_phase",
                side=side,
                phase=phase,
                offset_mm=seen.offset_from_line_mm,
                depth_left_mm=seen.depth_to_target_mm,
                nearest=nearest.structure if nearest else None,
                clearance_mm=nearest.distance_mm if nearest else None,
                breach_probability=nearest.breach_probability if nearest else None,
            )
        if pose is not None and seen.valid and _is_in_place(pose, trajectory):
            if not (in_place and np.array_equal(in_place[-1], pose)):
                in_place = [*in_place[1 - _STEADY_POSES :], pose]
        else:
            in_place = []
        if now_s > give_up_s:
            raise CalibrationError(f"the {side} target was not reached ({seen.reason or f'{phase}, not in place'})")
        yield Prompt(
            "trocar",
            f"{side}: {_guidance_text(seen)}",
            Steer(side, trajectory, seen, pose),
            len(in_place) / _STEADY_POSES,
        )
    tip, ahead = rests[:3, 3], rests[:3, 2]
    placed = PlacedTrocar(
        tip_ras=tip,
        hub_ras=tip - ahead * trajectory.length_mm,
        target_error_mm=float(np.linalg.norm(tip - trajectory.target)),
        angle_deg=angle_between_deg(ahead, trajectory.target - trajectory.entry_skin),
        predicted_error_mm=error_mm,
    )
    case.trocars[side] = placed
    journal.write(
        clocks.procedure.now(),
        "trocar_placed",
        side=side,
        tip_ras=placed.tip_ras,
        off_target_mm=placed.target_error_mm,
        angle_deg=placed.angle_deg,
        expected_error_mm=error_mm,
    )
    leave = Prompt("trocar", f"{side}: in place; leave the trocar and confirm", LeaveTrocar(side), 1.0)
    while (yield leave) != "continue":
        pass
    return placed


def _touch(
    name: str, fraction: float, tip: FloatArray, equipment: Equipment, clocks: Clocks
) -> Generator[Prompt, Request | None, FloatArray]:
    """The stylus tip in the reference's frame, resting on a landmark."""
    points: list[FloatArray] = []
    confirmed = False
    give_up_s = clocks.device.now() + _PATIENCE_S
    while not _is_steady(points):
        now_s = clocks.device.now()
        pose, reading, reference = equipment.tool_to_reference("Stylus", now_s)
        # Only a person knows that the tip is on the landmark: a stylus that rests elsewhere is steady too.
        if confirmed and pose is not None:
            point = transform_points(pose, tip)
            if not (points and np.array_equal(points[-1], point)):
                points = [*points[1 - _STEADY_POSES :], point]
        if now_s > give_up_s:
            reason = reading.reason or reference.reason or ("never held still" if confirmed else "not confirmed")
            raise CalibrationError(f"{name} was not touched ({reason})")
        shown = name.replace("_", " ")
        text = f"Touch {shown} with the stylus, hold still and confirm"
        confirmed |= (yield Prompt("registration", text, Touch(name), fraction)) == "continue"
    return np.mean(points, axis=0)


def _is_steady(points: list[FloatArray]) -> bool:
    if len(points) < _STEADY_POSES:
        return False
    half = _STEADY_POSES // 2
    scatter_mm = np.linalg.norm(np.std(points, axis=0))
    drift_mm = np.linalg.norm(np.mean(points[:half], axis=0) - np.mean(points[half:], axis=0))
    return bool(scatter_mm <= _SCATTER_MM and drift_mm <= _DRIFT_MM)


def _is_in_place(TipToRAS: FloatArray, trajectory: Trajectory) -> bool:
    near = np.linalg.norm(TipToRAS[:3, 3] - trajectory.target) <= _PLACED_MM
    return bool(near) and angle_between_deg(TipToRAS[:3, 2], trajectory.target - trajectory.entry_skin) <= _PLACED_DEG


def _mean_pose(poses: Sequence[FloatArray]) -> FloatArray:
    """Mean tip and direction of poses (4, 4) of a trocar's tip; how it is turned about its shaft does not count."""
    ahead = np.mean([pose[:3, 2] for pose in poses], axis=0)
    return rigid(rotation_between([0, 0, 1], ahead), np.mean([pose[:3, 3] for pose in poses], axis=0))


def _guidance_text(seen: GuidanceReading) -> str:
    if not seen.valid or seen.nearest is None:
        return seen.reason
    if seen.may_touch:
        return f"WARNING: the shaft may touch {seen.nearest.structure}; draw back"
    return f"{seen.depth_to_target_mm:.0f} mm to the target, {seen.offset_from_line_mm:.1f} mm off the line"
