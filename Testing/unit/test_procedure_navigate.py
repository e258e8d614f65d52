"""Calibration, registration and guidance: only fresh poses count, and what is refused says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cement_scene import CENTER
from sacroplasty.anatomy.model import Landmark
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, unit
from sacroplasty.navigation.clearance import ShaftClearance
from sacroplasty.procedure.navigate import calibrate_tool, guide_trocar, register_patient
from sacroplasty.procedure.prompts import LeaveTrocar, Prompt, Touch
from shaft_distances import everywhere
from theatre import Theatre

TIP_MM = np.array([0.4, -0.3, 160.0])
REFERENCE_TO_TRACKER = rigid(rotation_about([1, 2, 0], 40), [100, -50, 900])
REFERENCE_TO_RAS = rigid(rotation_about([0, 1, 3], 70), [20, 60, -30])
LANDMARKS = {
    "psis_left": [-45.0, -70, 20],
    "psis_right": [45.0, -70, 20],
    "median_crest_s1": [0.0, -75, 10],
    "median_crest_s2": [0.0, -70, -15],
    "median_crest_s3": [0.0, -60, -40],
}
#: Far from everything; where the shaft may touch is set by the test.
FREE, TOUCHING = everywhere(sacral_canal=30.0), everywhere(foramen_s1_left=2.0)


class Room(Theatre):
    """The theatre with tools in hands that shake a little."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rng = np.random.default_rng(5)
        self.case.trocars.clear()
        for name, point in LANDMARKS.items():
            self.case.anatomy.landmarks[name] = Landmark(np.array(point), 1.0)
        self.tracker.poses["Reference"] = REFERENCE_TO_TRACKER

    def see(self, tool: str, ToolToReference: np.ndarray) -> None:
        jitter = rigid(np.eye(3), self.rng.normal(0, 0.1, 3))
        self.tracker.poses[tool] = REFERENCE_TO_TRACKER @ jitter @ ToolToReference

    def put_tip(self, tool: str, tip_in_reference: np.ndarray, rotation: np.ndarray) -> None:
        self.see(tool, rigid(rotation, tip_in_reference - rotation @ TIP_MM))

    def swing(self, tool: str) -> Callable[[Prompt, float], None]:
        """Turn a tool about its tip in a divot."""

        def act(prompt: Prompt, passed_s: float) -> None:
            axis = [np.cos(3 * passed_s), np.sin(3 * passed_s), 0.3 * np.sin(passed_s)]
            self.put_tip(tool, np.array([10.0, 20.0, 30.0]), rotation_about(unit(axis), 30 * np.sin(2.1 * passed_s)))

        return act

    def calibrated(self) -> Room:
        for tool in ("Stylus", "Trocar"):
            run = calibrate_tool(tool, self.case, self.equipment, self.clocks, self.journal)
            self.play(run, 130.0, self.swing(tool))
        return self

    def touch(self, error_mm: float = 0.3, off: dict[str, list[float]] | None = None) -> Callable:
        """Put the stylus where the prompt says and confirm."""
        places = {
            name: np.array(point) + self.rng.normal(0, error_mm, 3) + (off or {}).get(name, [0.0, 0.0, 0.0])
            for name, point in LANDMARKS.items()
        }

        def act(prompt: Prompt, passed_s: float) -> str:
            assert isinstance(prompt.task, Touch)
            point = places[prompt.task.landmark]
            at = invert_rigid(REFERENCE_TO_RAS) @ np.array([*point, 1.0])
            self.put_tip("Stylus", at[:3], rotation_about([1, 0, 0], 160))
            return "continue"

        return act

    def register(self, act: Callable) -> None:
        run = register_patient(list(LANDMARKS), self.case, self.equipment, self.clocks, self.journal)
        self.play(run, 600.0, act)

    def hold_trocar(self, tip_ras: np.ndarray) -> None:
        """The trocar along its plan, with its tip here."""
        ahead = unit(self.trajectory.target - self.trajectory.entry_skin)
        side = unit(np.cross(ahead, [1.0, 0, 0]))
        TipToRAS = rigid(np.column_stack([np.cross(side, ahead), side, ahead]), tip_ras)
        TipToTrocar = self.case.calibrations["Trocar"].TipToTool
        self.see("Trocar", invert_rigid(REFERENCE_TO_RAS) @ TipToRAS @ invert_rigid(TipToTrocar))

    def guide(self, clearance: ShaftClearance, act: Callable, seconds: float = 130.0):
        run = guide_trocar("left", self.case, clearance, self.equipment, self.clocks, self.journal)
        return self.play(run, seconds, act)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_pivoting_finds_the_tip(room: Room) -> None:
    room.calibrated()
    for tool in ("Stylus", "Trocar"):
        found = room.case.calibrations[tool]
        assert np.linalg.norm(found.tip_in_tool_mm - TIP_MM) < 0.3
        assert found.tip_uncertainty_mm <= 0.1


def test_a_tool_that_is_not_turned_is_refused_with_the_reason(room: Room) -> None:
    def still(prompt: Prompt, passed_s: float) -> None:
        room.put_tip("Stylus", np.zeros(3), np.eye(3))

    run = calibrate_tool("Stylus", room.case, room.equipment, room.clocks, room.journal)
    with pytest.raises(CalibrationError, match=r"Stylus could not be calibrated: .*(turn|tilt|orient|swing)"):
        room.play(run, 200.0, still)
    assert room.case.calibrations == {}


def test_a_tool_out_of_sight_is_named(room: Room) -> None:
    run = calibrate_tool("Stylus", room.case, room.equipment, room.clocks, room.journal)
    with pytest.raises(CalibrationError, match="StylusToTracker is out of view"):
        room.play(run, 200.0)


def test_touched_landmarks_register_the_patient(room: Room) -> None:
    room.calibrated().register(room.touch())
    assert room.case.registration is not None
    error = np.linalg.norm(
        (room.case.registration.MovingToFixed @ invert_rigid(REFERENCE_TO_RAS) @ [*CENTER, 1.0])[:3] - CENTER
    )
    assert error < 1.5


def test_a_landmark_touched_in_the_wrong_place_is_refused_by_name(room: Room) -> None:
    room.calibrated()
    with pytest.raises(CalibrationError, match=r"touch 'psis_left' again"):
        room.register(room.touch(off={"psis_left": [-25.0, 15.0, 10.0]}))
    assert room.case.registration is None


def test_a_resting_stylus_is_no_touch_until_somebody_confirms(room: Room) -> None:
    room.calibrated()
    touch = room.touch()

    def silent(prompt: Prompt, passed_s: float) -> None:
        touch(prompt, passed_s)

    with pytest.raises(CalibrationError, match=r"psis_left was not touched \(not confirmed\)"):
        room.register(silent)


def test_a_stylus_that_never_rests_is_no_touch(room: Room) -> None:
    room.calibrated()

    def trembling(prompt: Prompt, passed_s: float) -> str:
        room.put_tip("Stylus", np.array([20 * np.sin(3 * passed_s), 0, 0]), np.eye(3))
        return "continue"

    with pytest.raises(CalibrationError, match=r"psis_left was not touched \(never held still\)"):
        room.register(trembling)


def at(room: Room, point: np.ndarray) -> Callable:
    def act(prompt: Prompt, passed_s: float) -> str | None:
        room.hold_trocar(point)
        return "continue" if isinstance(prompt.task, LeaveTrocar) else None

    return act


def test_a_trocar_at_its_target_is_placed_where_it_is(room: Room) -> None:
    room.calibrated().register(room.touch())
    placed = room.guide(FREE, at(room, CENTER))
    assert room.case.trocars["left"] is placed
    assert np.linalg.norm(placed.tip_ras - CENTER) < 2.0
    assert placed.angle_deg < 2.0
    assert 0 < placed.predicted_error_mm < 2.0


@pytest.mark.parametrize("spoil", ["stale", "no pose", "no reference", "short of it", "beside it", "touching"])
def test_what_is_not_surely_at_the_target_is_never_placed(room: Room, spoil: str) -> None:
    room.calibrated().register(room.touch())
    offset = {"short of it": [0.0, -8.0, 0.0], "beside it": [5.0, 0.0, 0.0]}.get(spoil, [0.0, 0.0, 0.0])
    hold = at(room, CENTER + np.array(offset))

    def act(prompt: Prompt, passed_s: float) -> str | None:
        request = hold(prompt, passed_s)
        if spoil == "stale":
            room.tracker.age_s = 0.3
        elif spoil == "no pose":
            del room.tracker.poses["Trocar"]
        elif spoil == "no reference":
            room.tracker.poses.pop("Reference", None)
        return request

    with pytest.raises(CalibrationError, match="left target was not reached"):
        room.guide(TOUCHING if spoil == "touching" else FREE, act)
    assert room.case.trocars == {}


def test_a_last_pose_that_is_repeated_is_not_twenty_poses(room: Room) -> None:
    room.calibrated().register(room.touch())
    room.hold_trocar(CENTER)
    with pytest.raises(CalibrationError, match="not in place"):
        room.guide(FREE, None)
