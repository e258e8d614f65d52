"""Calibration and registration through transform nodes, and what of them may be used after a file was opened."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import numpy as np
import pytest

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.procedure import navigate
from sacroplasty.scene import calibration, devices, navigation, nodes, planning
from sacroplasty.scene.guidance import Guide
from sacroplasty.scene.reference import ReferenceFollower
from sacroplasty.scene.workflow import workflow_steps
from scene.navigated_case import (
    DIVOT,
    LANDMARKS,
    NOW,
    TIP,
    NavigatedCase,
    ReferenceToRAS,
    calibrated,
    pivot,
    put_tip_at,
    touch_all,
)
from scene.simple_case import make_anatomy, make_ct, make_plan


@pytest.fixture
def stylus(scene):
    return calibrated(scene, "Stylus")


def state(scene, key="registration"):
    return {step.key: step.state for step in workflow_steps(scene)}[key]


def watching(tool):
    """A watch that has seen the tool move just now."""
    watch = calibration.PoseWatch(tool, lambda: 0.0)
    pose = nodes.matrix_of(tool)
    nodes.set_transform(tool, np.eye(4))
    nodes.set_transform(tool, pose)
    return watch


def test_the_tip_stands_under_its_tool_where_it_is_and_points_along_the_shaft(scene, stylus):
    tip = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusTipToStylus")
    assert tip.GetParentTransformNode() is stylus
    assert np.allclose(nodes.matrix_of(tip)[:3, 3], TIP, atol=0.02)
    known = calibration.calibration_of(scene, "Stylus")
    assert known.calibrated_at == NOW and known.holdout_error_mm < 0.1
    assert calibration.calibration_text(scene, "Stylus", NOW).startswith(
        f"error {known.holdout_error_mm:.2f} mm on poses left out, direction of the shaft ±1.0°"
    )


def test_progress_says_what_is_lacking_and_poses_out_of_view_are_noted(scene):
    tool = nodes.add_transform(scene, np.eye(4), "StylusToReference")
    collector = calibration.PoseCollector(tool)
    assert collector.progress().valid_poses == 0
    pivot(collector, tilt_deg=8.0, roll_deg=0.0)
    progress = collector.progress()
    assert not progress.enough and "turned through only" in progress.advice
    tool.SetAttribute(devices.VALID, "0")
    before = progress.valid_poses
    for step in range(3):
        nodes.set_transform(tool, rigid(np.eye(3), [99, 99, step]))
        collector.collect()
    progress = collector.progress()
    assert (progress.valid_poses, progress.lost_poses) == (before, 1)
    tool.SetAttribute(devices.VALID, "1")
    pivot(collector)
    assert collector.progress().enough


def test_a_refused_calibration_leaves_the_older_one(scene, stylus):
    with pytest.raises(CalibrationError, match="no valid pose"):
        calibration.calibrate(scene, calibration.PoseCollector(stylus), NOW)
    still = calibration.PoseCollector(stylus)
    for _ in range(60):
        nodes.set_transform(stylus, rigid(np.eye(3), np.random.default_rng().normal(0, 0.05, 3)))
        still.collect()
    with pytest.raises(CalibrationError, match="stood still"):
        calibration.calibrate(scene, still, NOW)
    tip = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "StylusTipToStylus")
    assert np.allclose(nodes.matrix_of(tip)[:3, 3], TIP, atol=0.02)


def test_spinning_gives_the_direction_of_the_shaft_and_pivoting_again_keeps_it(scene, stylus):
    axis = TIP / np.linalg.norm(TIP)
    collector, rng = calibration.PoseCollector(stylus), np.random.default_rng(5)
    for turn in range(80):
        spun = rotation_about(axis, 4.0 * turn) @ rotation_about(rng.normal(size=3), rng.normal(0, 0.05))
        nodes.set_transform(stylus, rigid(spun, rng.normal(0, 0.05, 3)))
        collector.collect()
    found = calibration.calibrate_axis(scene, collector)
    assert np.degrees(np.arccos(found.axis_in_tool @ axis)) < 0.2 and found.axis_sd_deg < 0.2
    again = calibration.PoseCollector(stylus)
    pivot(again)
    assert calibration.calibrate(scene, again, NOW).axis_sd_deg == found.axis_sd_deg
    other = nodes.add_transform(scene, np.eye(4), "TrocarToReference")
    with pytest.raises(CalibrationError, match="Trocar has no calibrated tip"):
        calibration.calibrate_axis(scene, calibration.PoseCollector(other))


def in_divot(tool, bent_mm=0.0):
    collector, rng = calibration.PoseCollector(tool), np.random.default_rng(2)
    for turn in range(20):
        rotation = rotation_about([1, 0, 0], 2.0 * turn)
        place = DIVOT - rotation @ (TIP + np.array([bent_mm, 0, 0])) + rng.normal(0, 0.03, 3)
        nodes.set_transform(tool, rigid(rotation, place))
        collector.collect()
    return collector


def test_a_bent_tool_fails_in_the_divot_and_touches_nothing_until_it_is_pivoted_again(scene, stylus):
    assert calibration.check_in_divot(scene, in_divot(stylus)).passed
    failed = calibration.check_in_divot(scene, in_divot(stylus, bent_mm=3.0))
    assert not failed.passed and "3.0 mm off the divot" in failed.text
    with pytest.raises(CalibrationError, match="off the divot"):
        navigation.touch(scene, "crest", watching(stylus), NOW)
    again = calibration.PoseCollector(stylus)
    pivot(again)
    calibration.calibrate(scene, again, NOW)
    navigation.touch(scene, "crest", watching(stylus), NOW)


def test_a_calibration_from_a_file_is_checked_in_the_divot_before_it_touches_anything(scene, stylus, tmp_path):
    path = tmp_path / "stylus.json"
    calibration.save_calibration(scene, stylus, path)
    before = calibration.calibration_of(scene, "Stylus")
    scene.Clear(False)
    other = nodes.add_transform(scene, np.eye(4), "StylusToReference")
    calibration.load_calibration(scene, other, path, NOW + timedelta(hours=1))
    loaded = calibration.calibration_of(scene, "Stylus")
    assert np.allclose(loaded.TipToTool, before.TipToTool) and loaded.calibrated_at == before.calibrated_at
    assert calibration.calibration_text(scene, "Stylus", NOW).startswith("restored from a file")
    with pytest.raises(CalibrationError, match="restored from a file: check it in the divot first"):
        calibration.usable_tip(scene, other, NOW)
    assert calibration.check_in_divot(scene, in_divot(other)).passed
    assert np.allclose(calibration.usable_tip(scene, other, NOW), TIP, atol=0.02)


def test_what_must_not_be_loaded_leaves_the_calibration_that_is_there(scene, stylus, tmp_path):
    path, usable = tmp_path / "stylus.json", calibration.usable_tip(scene, stylus, NOW)
    calibration.save_calibration(scene, stylus, path)
    trocar = nodes.add_transform(scene, np.eye(4), "TrocarToReference")
    with pytest.raises(CalibrationError, match="Trocar has no calibration to save"):
        calibration.save_calibration(scene, trocar, path)
    with pytest.raises(CalibrationError, match="calibration of 'Stylus', not of 'Trocar'"):
        calibration.load_calibration(scene, trocar, path, NOW)
    with pytest.raises(CalibrationError, match="choose a file"):
        calibration.load_calibration(scene, stylus, "", NOW)
    with pytest.raises(CalibrationError, match="26 hours old"):
        calibration.load_calibration(scene, stylus, path, NOW + timedelta(hours=26))
    without = {**json.loads(path.read_text()), "divot_in_reference_mm": None}
    path.write_text(json.dumps(without))
    with pytest.raises(CalibrationError, match="does not say where the divot is"):
        calibration.load_calibration(scene, stylus, path, NOW)
    assert np.array_equal(calibration.usable_tip(scene, stylus, NOW), usable)


def test_a_calibration_of_yesterday_touches_nothing(scene, stylus):
    with pytest.raises(CalibrationError, match="is from 2026-03-01 09:00: pivot it again"):
        navigation.touch(scene, "crest", watching(stylus), NOW + timedelta(hours=25))
    assert calibration.calibration_text(scene, "Stylus", NOW + timedelta(hours=25)).startswith("too old")


def test_registration_brings_the_tip_onto_the_ct(scene, stylus):
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    touch_all(scene, stylus)
    record = navigation.register(scene, marks)
    assert record["error_mm"] < 2.0 and "rms_mm" not in record
    node = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "ReferenceToRAS")
    assert np.allclose(nodes.matrix_of(node), ReferenceToRAS, atol=0.1)
    assert stylus.GetParentTransformNode() is node
    rows = navigation.landmark_rows(scene, marks)
    assert all(row.is_touched and row.residual_mm < 0.1 and not row.redo for row in rows)
    assert navigation.registration_error_mm(scene) == record["error_mm"]
    assert navigation.registration_text(scene).startswith("5 landmarks, expected error at the target 0.")


def test_landmarks_that_the_ct_defines_badly_leave_more_error_at_the_target(scene, stylus):
    from sacroplasty.scene.anatomy import RECORD_NAME
    from sacroplasty.scene.records import write_record

    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    touch_all(scene, stylus)
    errors = []
    for uncertainty_mm in (0.0, 2.0):
        found = {name: {"position_ras": point, "uncertainty_mm": uncertainty_mm} for name, point in LANDMARKS.items()}
        write_record(scene, RECORD_NAME, {"landmarks": found})
        errors.append(navigation.register(scene, marks)["error_mm"])
    # Half a millimetre of touching alone, against two more of the landmarks.
    assert errors[1] == pytest.approx(errors[0] * np.hypot(0.5, 2.0) / 0.5, rel=1e-3)
    # Landmarks that a person placed have an error, too.
    write_record(scene, RECORD_NAME, {"landmarks": {}})
    assert errors[0] < navigation.register(scene, marks)["error_mm"] < errors[1]


def test_a_landmark_touched_in_the_wrong_place_is_the_one_to_redo(scene, stylus):
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    touch_all(scene, stylus, {**LANDMARKS, "crest": [1.5, -46.5, -12]})
    navigation.register(scene, marks)
    assert [row.name for row in navigation.landmark_rows(scene, marks) if row.redo] == ["crest"]


def test_the_error_at_each_target_is_told_by_source(scene):
    case = NavigatedCase(scene)
    budgets = navigation.target_budgets(scene)
    assert set(budgets) == {"left"}
    parts = budgets["left"].rms_mm()
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert parts["voxels of the CT"] == pytest.approx(np.sqrt(3 * 2.0**2 / 12))
    total = float(budgets["left"].total.rms_mm(case.trajectory.target))
    assert total == pytest.approx(np.sqrt(sum(part**2 for part in parts.values())), rel=1e-6)
    # Registering again betters all of it but the voxels.
    bettered = navigate.navigation_error_mm(budgets["left"])
    assert bettered == pytest.approx(np.sqrt(total**2 - parts["voxels of the CT"] ** 2), rel=1e-6)
    assert navigation.registration_error_mm(scene) == pytest.approx(bettered)


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
    assert state(scene) == "blocked"


def test_an_uncalibrated_or_unseen_tool_touches_nothing(scene, stylus):
    other = nodes.add_transform(scene, np.eye(4), "TrocarToReference")
    with pytest.raises(CalibrationError, match="Trocar has no calibrated tip"):
        navigation.touch(scene, "promontory", watching(other), NOW)
    for key, value in ((devices.VALID, "0"), ("OpenIGTLink.TransformStatus", "OUT_OF_VIEW")):
        stylus.SetAttribute(key, value)
        with pytest.raises(CalibrationError, match="Stylus is not seen"):
            navigation.touch(scene, "promontory", watching(stylus), NOW)
        stylus.RemoveAttribute(key)
    assert navigation.touched(scene) == {}


def test_a_pose_that_stays_behind_when_the_tracker_falls_silent_touches_nothing(scene, stylus):
    now_s = 5.0
    watch = calibration.PoseWatch(stylus, lambda: now_s)
    with pytest.raises(CalibrationError, match="no poses now"):
        navigation.touch(scene, "promontory", watch, NOW)
    nodes.set_transform(stylus, rigid(np.eye(3), [1, 2, 3]))
    navigation.touch(scene, "promontory", watch, NOW)
    now_s = 5.2
    with pytest.raises(CalibrationError, match="no poses now"):
        navigation.touch(scene, "crest", watch, NOW)
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
    assert state(scene) == "blocked"


def test_swept_bone_takes_part_in_the_registration_and_lies_in_the_scene(scene, host, stylus, tmp_path):
    from sacroplasty.scene.anatomy import show_anatomy

    ct = nodes.add_volume(scene, make_ct(), "CT")
    segmentation = show_anatomy(scene, make_anatomy(make_ct()), ct)
    marks = nodes.add_points(scene, LANDMARKS, "Landmarks")
    planning.show_plan(scene, make_plan(make_ct()))
    touch_all(scene, stylus)
    sweep = navigation.Sweep(scene, watch := calibration.PoseWatch(stylus, lambda: 0.0))
    rng = np.random.default_rng(8)
    # The back of the block of bone, both its sides and its top, as far as a voxel of 2 mm tells where they are.
    faces = [([-48, -31, -38], [48, -31, 38]), ([-51, -29, -38], [-51, -2, 38]), ([51, -29, -38], [51, -2, 38]),
             ([-48, -29, 41], [48, -2, 41])]  # fmt: skip
    for low, high in faces:
        for point in rng.uniform(low, high, (40, 3)):
            put_tip_at(stylus, point + rng.normal(0, 0.2, 3))
            sweep.collect(NOW)
    stylus.SetAttribute(devices.VALID, "0")
    sweep.collect(NOW)
    stylus.RemoveAttribute(devices.VALID)
    watch.close()
    sweep.keep()
    assert len(navigation.swept(scene)) == 160
    record = navigation.register(scene, marks, ct, segmentation)
    assert record["swept_points"] == 160
    assert "160 swept points" in navigation.registration_text(scene)
    target = planning.plan_of(scene).trajectories[0].target
    moved = transform_points(np.array(record["ReferenceToRAS"]) @ invert_rigid(ReferenceToRAS), target)
    assert np.linalg.norm(moved - target) < 1.0
    node = nodes.first_node(scene, "vtkMRMLModelNode", navigation.SWEPT_NAME)
    assert node.GetParentTransformNode().GetName() == "ReferenceToRAS"
    host.save(tmp_path / "case.mrb")
    scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    assert len(navigation.swept(scene)) == 160


def test_what_comes_out_of_a_file_needs_a_check_before_it_is_used(scene, host, tmp_path):
    NavigatedCase(scene)
    error_mm = navigation.registration_error_mm(scene)
    known = calibration.calibration_of(scene, "Trocar")
    host.save(tmp_path / "case.mrb")
    scene.Clear(0)
    host.load(tmp_path / "case.mrb")
    assert np.allclose(calibration.calibration_of(scene, "Trocar").uncertainty.covariance, known.uncertainty.covariance)
    assert np.allclose(navigation.registration_of(scene).MovingToFixed, ReferenceToRAS, atol=0.1)
    assert navigation.registration_error_mm(scene) is None
    assert navigation.registration_problem(scene) == (
        "the registration was restored from a file: touch a check point first"
    )
    stylus = scene.GetFirstNodeByName("StylusToReference")
    with pytest.raises(CalibrationError, match="restored from a file: check it in the divot first"):
        navigation.check_point(scene, "crest", watching(stylus), NOW)
    assert calibration.check_in_divot(scene, in_divot(stylus)).passed
    put_tip_at(stylus, LANDMARKS["crest"])
    assert not navigation.check_point(scene, "crest", watching(stylus), NOW).moved
    assert navigation.registration_error_mm(scene) == pytest.approx(error_mm)


def test_a_patient_that_moved_is_not_guided_any_more(scene):
    case = NavigatedCase(scene)
    with pytest.raises(CalibrationError, match="choose another"):
        navigation.check_point(scene, "mine", watching(case.stylus), NOW)
    put_tip_at(case.stylus, np.array(LANDMARKS["crest"]) + np.array([0, 3.0, 0]))
    found = navigation.check_point(scene, "crest", watching(case.stylus), NOW)
    assert found.moved and "3.0 mm off" in found.text
    assert navigation.registration_problem(scene) == "the patient is not registered"
    assert state(scene) == "blocked"
    with pytest.raises(CalibrationError, match="no registration to check"):
        navigation.check_point(scene, "crest", watching(case.stylus), NOW)


def rest(node, follower, clock, pose, seconds=1.2, seed=6):
    """The reference stands so for a while, with a tracker's noise; what the follower said."""
    rng, said = np.random.default_rng(seed), []
    for _ in range(round(50 * seconds)):
        clock[0] += 0.02
        shaken = rotation_about(rng.normal(size=3), rng.normal(0, 0.2))
        nodes.set_transform(node, rigid(shaken @ pose[:3, :3], pose[:3, 3] + rng.normal(0, 0.1, 3)))
        said.append(follower.follow())
    return any(said)


def jump_in(text):
    """Millimetres that are told, beside what to do."""
    return float(re.fullmatch(r"the reference, or the camera, moved by (\d+\.\d) mm: touch a check point", text)[1])


@pytest.fixture
def followed(scene):
    """A registered patient whose reference is followed, at rest so far; `stand` puts the reference somewhere."""
    case, clock = NavigatedCase(scene), [5.0]
    place = rigid(rotation_about([1, 0, 2], 30), [50, -80, 1200])
    node = nodes.add_transform(scene, place, "ReferenceToTracker")
    follower = ReferenceFollower(scene, lambda: clock[0])

    def stand(moved_mm=0.0, seconds=1.2):
        return rest(node, follower, clock, rigid(np.eye(3), [moved_mm, 0, 0]) @ place, seconds)

    assert not stand(seconds=10.0)
    case.node, case.follower, case.stand, case.seconds = node, follower, stand, clock
    return case


def test_a_jump_of_the_reference_takes_the_registration_out_of_use_until_a_check_point(scene, followed):
    error_mm = navigation.registration_error_mm(scene)
    assert error_mm is not None and state(scene) == "done"
    assert followed.stand(4.0, seconds=2.4)
    problem = navigation.registration_problem(scene)
    assert jump_in(problem) == pytest.approx(4.0, abs=0.3)
    assert navigation.registration_error_mm(scene) is None and state(scene) == "blocked"
    # Registering anew by the points of before says nothing about what happened since.
    navigation.register(scene, followed.landmarks)
    assert navigation.registration_problem(scene) == problem and state(scene) == "blocked"
    put_tip_at(followed.stylus, LANDMARKS["crest"])
    assert not navigation.check_point(scene, "crest", watching(followed.stylus), NOW).moved
    assert navigation.registration_error_mm(scene) == pytest.approx(error_mm) and state(scene) == "done"
    assert not followed.stand(4.0, seconds=3.0), "where it stands now is where it stands"


def test_a_jump_blanks_guidance_and_says_why(scene, followed):
    guide = Guide(scene, followed.tip, followed.line, followed.clock, lambda: NOW)
    followed.hold(followed.trajectory.target)
    assert guide.reading().valid
    followed.stand(-6.0, seconds=2.4)
    followed.hold(followed.trajectory.target)
    reading = guide.reading()
    guide.close()
    assert not reading.valid and reading.tip_ras is None
    assert jump_in(reading.reason) == pytest.approx(6.0, abs=0.3)


def test_a_reference_that_moved_on_the_patient_fails_at_the_check_point(scene, followed):
    assert followed.stand(5.0, seconds=2.4)
    put_tip_at(followed.stylus, np.array(LANDMARKS["crest"]) + np.array([5.0, 0, 0]))
    assert navigation.check_point(scene, "crest", watching(followed.stylus), NOW).moved
    assert navigation.registration_problem(scene) == "the patient is not registered"
    # And one that is made anew is checked as well: some of its points may be from before.
    touch_all(scene, followed.stylus)
    navigation.register(scene, followed.landmarks)
    assert "touch a check point" in navigation.registration_problem(scene)


def test_what_happened_while_the_reference_was_hidden_is_found_and_wild_poses_are_not_believed(scene, followed):
    devices_reason = {devices.VALID: "0", devices.REASON: "out of view"}
    for key, value in devices_reason.items():
        followed.node.SetAttribute(key, value)
    assert not followed.stand(50.0, seconds=3.0), "a pose that its tracker does not vouch for is none"
    for key in devices_reason:
        followed.node.RemoveAttribute(key)
    followed.seconds[0] += 30.0
    for _ in range(3):
        followed.stand(0.0, seconds=0.6)
        assert not followed.stand(80.0, seconds=0.1)
        assert not followed.stand(0.0, seconds=0.5)
    assert navigation.registration_problem(scene) == ""
    followed.seconds[0] += 30.0
    assert followed.stand(3.0), "it moved while nobody looked"


def test_a_jump_before_anything_was_touched_is_no_concern(scene):
    node = nodes.add_transform(scene, np.eye(4), "ReferenceToTracker")
    clock = [0.0]
    follower = ReferenceFollower(scene, lambda: clock[0])
    for place in (0.0, 40.0, 0.0):
        assert not rest(node, follower, clock, rigid(np.eye(3), [place, 0, 0]), 2.4)
    assert navigation.registration_problem(scene) == "the patient is not registered"
