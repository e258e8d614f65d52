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
    for name, point in landmarks.items():
        in_reference = transform_points(invert_rigid(ReferenceToRAS), point)
        nodes.set_transform(stylus, rigid(np.eye(3), in_reference - TIP))
        navigation.touch(scene, name, stylus)


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
        navigation.touch(scene, "promontory", other)
    stylus.SetAttribute(devices.VALID, "0")
    with pytest.raises(CalibrationError, match="Stylus is not seen"):
        navigation.touch(scene, "promontory", stylus)
    assert navigation.touched(scene) == {}


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
    reading = case.guide.reading(case.now_s)
    assert reading.valid, reading.reason
    assert reading.offset_from_line_mm == pytest.approx(3.0, abs=0.01)
    assert reading.depth_to_target_mm == pytest.approx(20.0, abs=0.01)
    assert reading.angle_deg == pytest.approx(0.0, abs=0.01)
    assert reading.clearance_mm == float("-inf")  # Without the anatomy nothing is known to be clear.


def test_guidance_blanks_when_the_pose_grows_old(case):
    case.put_tip(case.trajectory.target)
    assert case.guide.reading(case.now_s + 0.05).valid
    reading = case.guide.reading(case.now_s + 0.2)
    assert not reading.valid and "old" in reading.reason and reading.depth_to_target_mm is None


def test_guidance_blanks_when_the_tool_is_lost_or_the_registration_goes(scene, case):
    case.put_tip(case.trajectory.target)
    case.trocar.SetAttribute(devices.VALID, "0")
    assert not case.guide.reading(case.now_s).valid
    case.trocar.SetAttribute(devices.VALID, "1")
    assert case.guide.reading(case.now_s).valid
    case.trocar.SetAndObserveTransformNodeID(None)
    assert not case.guide.reading(case.now_s).valid


def test_a_pose_from_before_guidance_began_is_no_pose(scene, case):
    case.guide.close()
    line = planning.trajectory_rows(scene)[0].line
    case.guide = navigation.Guide(scene, case.trocar, line, lambda: case.now_s)
    assert not case.guide.reading(case.now_s).valid
