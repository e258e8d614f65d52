"""Recordings that cannot be what they are taken for: each fault is found and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import CommandLine
from pivoting import TIP, pivoting, write_recording
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about
from sacroplasty.navigation.pivot import calibrate_pivot, pivot_progress
from sacroplasty.navigation.plus_sequence import PlusSequence, read_sequence, write_sequence
from sacroplasty.navigation.pose_checks import check_roles, check_times, valid_poses

ReferenceToTracker = rigid(rotation_about([1, 0, 0], 170), [40, -30, 1400])


def recording(rng: np.random.Generator, **extra: np.ndarray) -> PlusSequence:
    """A stylus that pivots beside a reference that rests, as a camera sees them."""
    poses = ReferenceToTracker @ pivoting(rng)
    still = np.repeat(ReferenceToTracker[None], len(poses), axis=0)
    return PlusSequence(np.arange(len(poses)) / 20, {"StylusToTracker": poses, "ReferenceToTracker": still, **extra})


def test_a_good_recording_passes(rng: np.random.Generator) -> None:
    found = calibrate_pivot(recording(rng).poses("Stylus", "Reference"))
    assert np.linalg.norm(found.tip_in_tool_mm - TIP) < 0.15


def test_exchanged_tool_and_reference_are_told_by_what_moves(rng: np.random.Generator) -> None:
    good = recording(rng)
    wrong = PlusSequence(
        good.time_s,
        {
            "StylusToTracker": good.transforms["ReferenceToTracker"],
            "ReferenceToTracker": good.transforms["StylusToTracker"],
        },
    )
    with pytest.raises(CalibrationError, match=r"Reference turned through \d+ deg .* look exchanged"):
        wrong.poses("Stylus", "Reference")
    # Both may move, when somebody pushes the camera.
    turned = np.array([rigid(rotation_about([0, 1, 0], angle), [0, 0, 0]) for angle in np.linspace(0, 40, 300)])
    moved = {name: turned @ poses for name, poses in good.transforms.items()}
    check_roles(moved["StylusToTracker"], moved["ReferenceToTracker"], "Stylus", "Reference")


def test_a_tip_that_no_tool_has_is_refused(rng: np.random.Generator) -> None:
    far = rigid(np.eye(3), [0, 0, 900]) @ pivoting(rng)
    inverse = np.array([invert_rigid(pose) for pose in far])
    with pytest.raises(CalibrationError, match=r"8\d\d mm from the tool's markers: tool and reference look exchanged"):
        calibrate_pivot(inverse)


@pytest.mark.parametrize("wild", [0, 30])
def test_metres_are_recognised(rng: np.random.Generator, wild: int) -> None:
    poses = pivoting(rng)
    poses[rng.choice(len(poses), wild, replace=False), :3, 3] += 25
    poses[:, :3, 3] /= 1000
    with pytest.raises(CalibrationError, match="look like metres"):
        calibrate_pivot(poses)


def test_a_tool_that_is_calibrated_already_is_not_taken_for_metres(rng: np.random.Generator) -> None:
    tips = pivoting(rng) @ rigid(np.eye(3), TIP)
    assert np.linalg.norm(calibrate_pivot(tips).tip_in_tool_mm) < 0.15


@pytest.mark.parametrize("turns", ["one after the other", "at random"])
def test_two_tools_under_one_name_are_found(rng: np.random.Generator, turns: str) -> None:
    first, second = pivoting(rng), pivoting(rng)
    second[:, :3, 3] += [120, 40, 0]
    other = np.arange(300) % 2 == 1 if turns == "one after the other" else rng.random(300) < 0.5
    first[other] = second[other]
    with pytest.raises(CalibrationError, match=r"jumps .* mm there and back .* two tools send under one name"):
        valid_poses(first, "Stylus")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.38])
def test_wild_poses_are_not_taken_for_a_second_tool(rng: np.random.Generator, share: float) -> None:
    poses = pivoting(rng)
    wild = rng.random(300) < share
    poses[wild, :3, 3] += rng.normal(size=(int(wild.sum()), 3)) * 50
    assert valid_poses(poses, "Stylus").all()


def test_two_poses_of_one_name_in_one_frame_are_found(tmp_path: Path) -> None:
    path = tmp_path / "two.igs.mha"
    write_sequence(path, PlusSequence(np.arange(3.0), {"StylusToTracker": np.repeat(ReferenceToTracker[None], 3, 0)}))
    line = "Seq_Frame0001_StylusToTrackerTransform = 1 0 0 7 0 1 0 8 0 0 1 9 0 0 0 1\nElementDataFile"
    path.write_text(path.read_text(encoding="utf-8").replace("ElementDataFile", line), encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"frame 1 holds StylusToTracker twice .* two tools have one name"):
        read_sequence(path)


def test_identity_poses_are_no_poses(rng: np.random.Generator) -> None:
    sequence = recording(rng)
    sequence.transforms["StylusToTracker"][::5] = np.eye(4)
    found = calibrate_pivot(sequence.poses("Stylus", "Reference"))
    assert found.ignored_poses == 60
    assert np.linalg.norm(found.tip_in_tool_mm - TIP) < 0.15
    sequence.transforms["StylusToTracker"][:] = np.eye(4)
    with pytest.raises(CalibrationError, match="every pose of StylusToTracker is the identity"):
        sequence.poses("Stylus", "Reference")


def test_a_pose_that_is_none_is_named_with_its_number(rng: np.random.Generator) -> None:
    for spoil, message in (
        (lambda pose: pose * [1.1, 1, 1, 1], "pose 17 of StylusToTracker is not rigid"),
        (lambda pose: pose * [-1.0, 1, 1, 1], "pose 17 of StylusToTracker is left-handed"),
        (lambda pose: pose.T, "not rigid|last row"),
    ):
        sequence = recording(rng)
        sequence.transforms["StylusToTracker"][17] = spoil(sequence.transforms["StylusToTracker"][17])
        with pytest.raises(CalibrationError, match=message):
            sequence.poses("Stylus", "Reference")
    with pytest.raises(CalibrationError, match="shape"):
        valid_poses(np.eye(4), "Stylus")


def test_times_that_run_backwards_are_named() -> None:
    check_times([1.0, 2.0, 2.0, np.nan, 3.0])
    with pytest.raises(CalibrationError, match=r"frame 3 is 0.5 s earlier"):
        check_times([1.0, 2.0, np.nan, 1.5, 4.0])


def test_transforms_are_found_however_they_are_named(rng: np.random.Generator) -> None:
    poses = pivoting(rng)
    times = np.arange(len(poses)) / 20
    inverse = np.array([invert_rigid(pose) for pose in poses])
    for sequence, tool, reference in (
        (PlusSequence(times, {"StylusToReference": poses}), "Stylus", "Reference"),
        (PlusSequence(times, {"ReferenceToStylus": inverse}), "Stylus", "Reference"),
        (PlusSequence(times, {"ToolToTracker": poses}), "Tool", "Tracker"),
        (
            PlusSequence(
                times, {"ToolToTrackerBase": poses, "TorsoToTrackerBase": np.repeat(ReferenceToTracker[None], 300, 0)}
            ),
            "Tool",
            "Torso",
        ),
    ):
        assert calibrate_pivot(sequence.poses(tool, reference)).holdout_error_mm < 0.3
    with pytest.raises(CalibrationError, match="Tool can be had relative to Tracker"):
        PlusSequence(times, {"ToolToTracker": poses}).poses("Tool", "Reference")
    with pytest.raises(CalibrationError, match="two different frames"):
        recording(rng).poses("Stylus", "Stylus")


def test_the_command_tells_what_it_found(tmp_path: Path, rng: np.random.Generator, sacroplasty: CommandLine) -> None:
    sequence = recording(rng)
    frames = [
        {f"{name}Transform": poses[number] for name, poses in sequence.transforms.items()} | {"Timestamp": f"{number}"}
        for number in range(300)
    ]
    write_recording(tmp_path / "no_status.mha", frames)
    result = sacroplasty("pivot", tmp_path / "no_status.mha", "--out", tmp_path / "stylus.json")
    assert result.code == 0
    assert "does not say which poses were valid" in result.out
    assert (tmp_path / "stylus.json").exists()
    frames[200]["Timestamp"] = "100"
    write_recording(tmp_path / "backwards.mha", frames)
    result = sacroplasty("pivot", tmp_path / "backwards.mha", "--out", tmp_path / "none.json")
    result.refused("backwards.mha", "times run backwards: frame 200")
    assert not (tmp_path / "none.json").exists()


def test_progress_tells_what_is_lacking(rng: np.random.Generator) -> None:
    assert pivot_progress(np.zeros((0, 4, 4))).advice == "tool turned through only 0 deg; tilt it further"
    little = pivot_progress(pivoting(rng, tilt_deg=6, roll_deg=0))
    assert little.advice in [f"tool turned through only {angle} deg; tilt it further" for angle in (11, 12)]
    assert not little.enough
    early = pivot_progress(pivoting(rng)[:40])
    assert not early.enough
    fore_and_aft = [
        rotation_about([1, 0, 0], 35 * np.sin(turn)) @ rotation_about([0, 1, 0], 8 * np.cos(3 * turn))
        for turn in np.linspace(0, 12, 200)
    ]
    narrow = pivot_progress(np.array([rigid(turn, -turn @ TIP) for turn in fore_and_aft]))
    assert narrow.enough
    assert narrow.coverage <= 0.5
    assert "still open" in narrow.advice
    whole = pivot_progress(pivoting(rng))
    assert (whole.coverage, whole.advice) == (1.0, "enough")
    hidden = pivoting(rng)
    hidden[60:] = np.nan
    assert (pivot_progress(hidden).lost_poses, pivot_progress(hidden).valid_poses) == (240, 60)
    assert "out of sight" in pivot_progress(hidden).advice


def test_a_pose_that_is_written_several_times_counts_once(rng: np.random.Generator) -> None:
    poses = pivoting(rng)
    once, repeated = calibrate_pivot(poses), calibrate_pivot(poses.repeat(4, axis=0))
    np.testing.assert_allclose(repeated.tip_in_tool_mm, once.tip_in_tool_mm, atol=1e-9)
    assert repeated.tip_uncertainty_mm == pytest.approx(once.tip_uncertainty_mm)
    with pytest.raises(CalibrationError, match="only 30 different poses"):
        calibrate_pivot(poses[::10].repeat(10, axis=0))


def test_a_long_rest_in_one_place_does_not_outweigh_the_motion(rng: np.random.Generator) -> None:
    """Laid down for long before the tip was put into the divot."""
    rest = np.repeat(rigid(rotation_about([1, 0, 0], 80), [300, 0, 0])[None], 900, axis=0)
    rest[:, :3, 3] += rng.normal(size=(900, 3)) * 0.1
    found = calibrate_pivot(np.concatenate([rest, pivoting(rng)]))
    assert np.linalg.norm(found.tip_in_tool_mm - TIP) < 0.15
