"""Calibration, registration and guidance through transform nodes."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, rotation_between, transform_points
from sacroplasty.scene import devices, navigation, nodes, planning
from sacroplasty.scene.workflow import workflow_steps
from scene.simple_case import make_ct, make_plan

TIP = np.array([2.0, -1.0, 140.0])
LANDMARKS = {
    "promontory": [0.0, 0, 40],
    "psis_left": [-45.0, -35, -5],
    "psis_right": [45.0, -35, -5],
    "crest": [0.0, -45, -10],
    "hiatus": [3.0, -30, -70],
}
ReferenceToRAS = rigid(rotation_about([1, 2, 3], 40), [100, -50, 20])


def pivot(scene, tool, collector, tilt_deg=35.0):
    for turn in range(150):
        axis = [np.cos(0.1 * turn), np.sin(0.1 * turn), 0.0]
        rotation = rotation_about(axis, tilt_deg) @ rotation_about([0, 0, 1], 2.0 * turn)
        nodes.set_transform(tool, rigid(rotation, np.array([5.0, 6, 7]) - rotation @ TIP))
        collector.collect()


@pytest.fixture
def stylus(scene):
    tool = nodes.add_transform(scene, np.eye(4), "StylusToReference")
    collector = navigation.PivotCollector(tool)
    pivot(scene, tool, collector)
    navigation.calibrate(scene, tool, collector)
    return tool


def touch_all(scene, stylus, landmarks=LANDMARKS):
    watch = navigation.PoseWatch(stylus, lambda: 0.0)
    for name, point in landmarks.items():
        in_reference = transform_points(invert_rigid(ReferenceToRAS), point)
        nodes.set_transform(stylus, rigid(np.eye(3), in_reference - TIP))
        navigation.touch(scene, name, watch)
    watch.close()


def test_the_tip_stands_under_its_tool_where_it_is(scene, stylus):
    tip = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusTipToStylus")
    assert tip.GetParentTransformNode() is stylus
    assert np.allclose(nodes.matrix_of(tip)[:3, 3], TIP, atol=1e-3)
    assert navigation.tip_error_mm(scene, stylus) < 0.01


def test_progress_follows_the_tilt_and_poses_out_of_view_are_not_taken(scene):
    tool = nodes.add_transform(scene, np.eye(4), "StylusToReference")
    collector = navigation.PivotCollector(tool)
    assert collector.progress == 0.0
    pivot(scene, tool, collector, tilt_deg=15.0)
    assert collector.progress == pytest.approx(0.5, abs=0.02)
    before = len(collector.poses)
    tool.SetAttribute(devices.VALID, "0")
    nodes.set_transform(tool, rigid(np.eye(3), [99, 99, 99]))
    collector.collect()
    assert (len(collector.poses), collector.missed) == (before, 1)


def test_a_refused_calibration_leaves_the_older_one(scene, stylus):
    with pytest.raises(CalibrationError, match="no valid pose"):
        navigation.calibrate(scene, stylus, navigation.PivotCollector(stylus))
    tip = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusTipToStylus")
    assert np.allclose(nodes.matrix_of(tip)[:3, 3], TIP, atol=1e-3)


def test_registration_brings_the_tip_onto_the_ct(scene, stylus):
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    touch_all(scene, stylus)
    record = navigation.register(scene, marks)
    assert record["rms_mm"] < 1e-3 and record["error_mm"] < 2.0
    node = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "ReferenceToRAS")
    assert np.allclose(nodes.matrix_of(node), ReferenceToRAS, atol=1e-3)
    assert stylus.GetParentTransformNode() is node
    rows = navigation.landmark_rows(scene, marks)
    assert all(row.is_touched and row.residual_mm < 1e-3 for row in rows)
    assert navigation.registration_error_mm(scene) == record["error_mm"]


def test_too_few_points_take_an_older_registration_away(scene, stylus):
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    touch_all(scene, stylus)
    navigation.register(scene, marks)
    for name in ("promontory", "psis_left", "psis_right"):
        navigation.forget(scene, name)
    with pytest.raises(CalibrationError):
        navigation.register(scene, marks)
    assert navigation.registration_error_mm(scene) is None
    assert nodes.first_node(scene, "vtkMRMLLinearTransformNode", "ReferenceToRAS") is None
    state = {step.key: step.state for step in workflow_steps(scene)}["registration"]
    assert state == "blocked"


def test_an_uncalibrated_or_unseen_tool_touches_nothing(scene, stylus):
    other = nodes.add_transform(scene, np.eye(4), "TrocarToReference")
    with pytest.raises(CalibrationError, match="Trocar has no calibrated tip"):
        navigation.touch(scene, "promontory", navigation.PoseWatch(other, lambda: 0.0))
    stylus.SetAttribute(devices.VALID, "0")
    with pytest.raises(CalibrationError, match="Stylus is not seen"):
        navigation.touch(scene, "promontory", navigation.PoseWatch(stylus, lambda: 0.0))
    assert navigation.touched(scene) == {}


def test_a_pose_that_stays_behind_when_the_tracker_falls_silent_touches_nothing(scene, stylus):
    now_s = 5.0
    watch = navigation.PoseWatch(stylus, lambda: now_s)
    with pytest.raises(CalibrationError, match="no poses now"):
        navigation.touch(scene, "promontory", watch)
    nodes.set_transform(stylus, rigid(np.eye(3), [1, 2, 3]))
    navigation.touch(scene, "promontory", watch)
    now_s = 5.2
    with pytest.raises(CalibrationError, match="no poses now"):
        navigation.touch(scene, "crest", watch)
    assert set(navigation.touched(scene)) == {"promontory"}


def test_only_landmarks_that_a_stylus_reaches_are_asked_for(scene):
    from sacroplasty.scene.anatomy import RECORD_NAME
    from sacroplasty.scene.records import write_record

    points = {"promontory": [0, 0, 40], "median_crest_s1": [0, -45, 0], "psis_left": [-45, -35, -5], "mine": [1, 2, 3]}
    marks = nodes.add_points(scene, points, "Landmarks")
    write_record(scene, RECORD_NAME, {"landmarks": {name: {} for name in points if name != "mine"}})
    assert [row.name for row in navigation.landmark_rows(scene, marks)] == ["psis_left", "median_crest_s1", "mine"]


def test_a_registration_too_poor_for_the_target_is_refused_and_guides_nobody(scene, stylus):
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    # Three points near the line from left to right say little about turning around it.
    near_a_line = {name: LANDMARKS[name] for name in ("psis_left", "psis_right", "crest")}
    near_a_line["psis_left"] = [-46.5, -35.0, -5.0]
    near_a_line["crest"] = [0.0, -45.0, -8.5]
    touch_all(scene, stylus, near_a_line)
    with pytest.raises(CalibrationError, match=r"error at the target is .* limit 2\.0"):
        navigation.register(scene, marks)
    assert navigation.registration_error_mm(scene) is None
    assert {step.key: step.state for step in workflow_steps(scene)}["registration"] == "blocked"


class Case:
    """A registered patient and a trocar whose tip node a guide follows; `now_s` is the clock."""

    def __init__(self, scene, stylus):
        marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
        planning.show_plan(scene, make_plan(make_ct()))
        touch_all(scene, stylus)
        navigation.register(scene, marks)
        self.trajectory = planning.plan_of(scene).trajectories[0]
        self.trocar = nodes.add_transform(scene, np.eye(4), "TrocarToReference")
        registration = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "ReferenceToRAS")
        self.trocar.SetAndObserveTransformNodeID(registration.GetID())
        self.now_s = 10.0
        line = planning.trajectory_rows(scene)[0].line
        self.guide = navigation.Guide(scene, self.trocar, line, lambda: self.now_s)

    def reading_after(self, seconds):
        self.now_s += seconds
        return self.guide.reading()

    def put_tip(self, tip_ras):
        along = self.trajectory.target - self.trajectory.entry_skin
        TipToRAS = rigid(rotation_between([0, 0, 1], along), tip_ras)
        nodes.set_transform(self.trocar, invert_rigid(ReferenceToRAS) @ TipToRAS)


@pytest.fixture
def case(scene, stylus):
    made = Case(scene, stylus)
    yield made
    made.guide.close()


def test_guidance_reads_offset_angle_and_depth_in_the_patient(case):
    along = case.trajectory.target - case.trajectory.entry_skin
    sideways = np.cross(along, [1.0, 0, 0])
    case.put_tip(case.trajectory.target - 20 * along / np.linalg.norm(along) + 3 * sideways / np.linalg.norm(sideways))
    reading = case.guide.reading()
    assert reading.valid, reading.reason
    assert reading.offset_from_line_mm == pytest.approx(3.0, abs=0.01)
    assert reading.depth_to_target_mm == pytest.approx(20.0, abs=0.01)
    assert reading.angle_deg == pytest.approx(0.0, abs=0.01)
    assert reading.clearance_mm == float("-inf")  # Without the anatomy nothing is known to be clear.


def test_guidance_blanks_when_the_pose_grows_old(case):
    case.put_tip(case.trajectory.target)
    assert case.reading_after(0.05).valid
    reading = case.reading_after(0.2)
    assert not reading.valid and "old" in reading.reason and reading.depth_to_target_mm is None


def test_guidance_blanks_when_the_tool_is_lost_or_the_registration_goes(scene, case):
    case.put_tip(case.trajectory.target)
    case.trocar.SetAttribute(devices.VALID, "0")
    assert not case.guide.reading().valid
    case.trocar.SetAttribute(devices.VALID, "1")
    assert case.guide.reading().valid
    case.trocar.SetAndObserveTransformNodeID(None)
    assert not case.guide.reading().valid


def test_a_pose_from_before_guidance_began_is_no_pose(scene, case):
    case.guide.close()
    line = planning.trajectory_rows(scene)[0].line
    case.guide = navigation.Guide(scene, case.trocar, line, lambda: case.now_s)
    assert not case.guide.reading().valid


class Clear:
    """Everything far away, as seen from any shaft."""

    def nearest(self, *arguments):
        from sacroplasty.navigation.clearance import Clearance

        return Clearance("sacral_canal", 12.0)


def test_a_trocar_at_its_target_is_recorded_and_shown(scene, case):
    line = planning.trajectory_rows(scene)[0].line
    case.guide = navigation.Guide(scene, case.trocar, line, lambda: case.now_s, Clear())
    off_target = case.trajectory.target + np.array([0.5, 0, 0])
    case.put_tip(off_target)
    placed = case.guide.place()
    assert placed.target_error_mm == pytest.approx(0.5, abs=0.01)
    assert np.allclose(navigation.trocars(scene)["left"].tip_ras, off_target, atol=1e-3)
    hub_to_tip = placed.tip_ras - placed.hub_ras
    assert np.linalg.norm(hub_to_tip) == pytest.approx(case.trajectory.length_mm)
    assert nodes.first_node(scene, "vtkMRMLModelNode", "Trocar left") is not None
    step = {step.key: step for step in workflow_steps(scene)}["trocar"]
    assert (step.state, step.reason) == ("done", "left 0.5 mm off the target")


@pytest.mark.parametrize(("short_mm", "clearance", "reason"), [(10, Clear(), "10 mm left"), (0, None, "may touch")])
def test_a_trocar_that_is_not_in_place_or_not_surely_clear_is_not_recorded(scene, case, short_mm, clearance, reason):
    line = planning.trajectory_rows(scene)[0].line
    case.guide = navigation.Guide(scene, case.trocar, line, lambda: case.now_s, clearance)
    with pytest.raises(CalibrationError, match="not known"):
        case.guide.place()
    along = case.trajectory.target - case.trajectory.entry_skin
    case.put_tip(case.trajectory.target - short_mm * along / np.linalg.norm(along))
    with pytest.raises(CalibrationError, match=reason):
        case.guide.place()
    assert navigation.trocars(scene) == {}
