"""Pivot calibration against simulated motion with a known tip, and the recordings it must refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pivoting import PIVOT, TIP, pivoting, write_recording
from sacroplasty.cli import pivot as pivot_command
from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about
from sacroplasty.navigation.pivot import calibrate_pivot
from sacroplasty.navigation.plus_sequence import read_sequence

TRACKING_DATA = Path(__file__).parents[3] / "shared" / "data" / "tracking"


def test_without_noise_the_tip_is_exact() -> None:
    found = calibrate_pivot(pivoting(np.random.default_rng(0), noise_mm=0, noise_deg=0))
    np.testing.assert_allclose(found.tip_in_tool_mm, TIP, atol=1e-8)
    np.testing.assert_allclose(found.pivot_in_reference_mm, PIVOT, atol=1e-8)
    assert found.holdout_error_mm < 1e-8
    assert found.used_fraction == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_tenth_of_wild_poses_does_not_move_the_tip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = pivoting(rng)
    wild = rng.choice(len(poses), 30, replace=False)
    poses[wild, :3, 3] += rng.normal(size=(30, 3)) * 20 + 5
    found = calibrate_pivot(poses)
    assert np.linalg.norm(found.tip_in_tool_mm - TIP) < 0.15
    assert 0.88 < found.used_fraction <= 0.9
    assert found.rms_error_mm == pytest.approx(0.1 * np.sqrt(3), rel=0.35)


def test_the_stated_uncertainty_is_the_spread_over_many_calibrations() -> None:
    found = [
        calibrate_pivot(pivoting(np.random.default_rng(seed), count=100, noise_mm=0.3, noise_deg=0))
        for seed in range(60)
    ]
    spread = np.sqrt(np.mean([np.sum((one.tip_in_tool_mm - TIP) ** 2) for one in found]))
    assert spread == pytest.approx(np.mean([one.tip_uncertainty_mm for one in found]), rel=0.25)


def test_lost_poses_are_counted_and_ignored() -> None:
    poses = pivoting(np.random.default_rng(1))
    poses[10:40] = np.nan
    found = calibrate_pivot(poses)
    assert found.ignored_poses == 30
    assert np.linalg.norm(found.tip_in_tool_mm - TIP) < 0.1


def test_the_tips_frame_has_the_tip_at_its_origin() -> None:
    found = calibrate_pivot(pivoting(np.random.default_rng(2)))
    np.testing.assert_allclose(found.TipToTool @ [0, 0, 0, 1], [*found.tip_in_tool_mm, 1])


@pytest.mark.parametrize("seed", range(5))
def test_too_little_tilt_is_refused_with_the_angle(seed: int) -> None:
    poses = pivoting(np.random.default_rng(seed), tilt_deg=6, roll_deg=0)
    with pytest.raises(CalibrationError, match=r"turned through only (10|11|12) deg; tilt it further"):
        calibrate_pivot(poses)


def test_a_tool_that_stands_still_is_refused() -> None:
    rng = np.random.default_rng(3)
    poses = np.repeat(np.eye(4)[None], 200, axis=0)
    poses[:, :3, 3] += rng.normal(size=(200, 3)) * 0.05
    with pytest.raises(CalibrationError, match="stood still"):
        calibrate_pivot(poses)


def test_turning_about_one_axis_only_is_refused() -> None:
    rotations = [rotation_about([0, 0, 1], angle) for angle in np.linspace(0, 300, 200)]
    poses = np.array([rigid(rotation, PIVOT - rotation @ TIP) for rotation in rotations])
    with pytest.raises(CalibrationError, match="one axis only"):
        calibrate_pivot(poses)


def test_a_sliding_tip_is_refused() -> None:
    poses = pivoting(np.random.default_rng(4))
    poses[:, 0, 3] += np.linspace(0, 25, len(poses))
    with pytest.raises(CalibrationError, match=r"did not stay in place|agree on one tip"):
        calibrate_pivot(poses)


def test_two_pivots_in_one_recording_are_refused() -> None:
    poses = pivoting(np.random.default_rng(5))
    poses[150:, :3, 3] += [15, 0, 0]
    with pytest.raises(CalibrationError, match=r"did not stay in place|agree on one tip"):
        calibrate_pivot(poses)


def test_a_turn_made_by_wild_poses_alone_is_refused() -> None:
    rng = np.random.default_rng(6)
    still = np.repeat(np.eye(4)[None], 200, axis=0)
    still[:, :3, 3] += rng.normal(size=(200, 3)) * 0.05
    still[::20] = pivoting(rng, count=10)
    with pytest.raises(CalibrationError, match=r"stood still|turned through only"):
        calibrate_pivot(still)


def test_bad_data_are_refused_in_words() -> None:
    poses = pivoting(np.random.default_rng(7))
    with pytest.raises(CalibrationError, match="only 20 valid poses"):
        calibrate_pivot(poses[:20])
    with pytest.raises(CalibrationError, match=r"only 0 valid poses \(300 more were lost"):
        calibrate_pivot(np.full_like(poses, np.nan))
    scaled = poses.copy()
    scaled[17, :3, :3] *= 1.1
    with pytest.raises(CalibrationError, match="pose 17 of the tool is not rigid"):
        calibrate_pivot(scaled)
    with pytest.raises(CalibrationError, match="left-handed"):
        calibrate_pivot(np.diag([1.0, 1, -1, 1]) @ poses)
    with pytest.raises(CalibrationError, match="shape"):
        calibrate_pivot(np.eye(4))


def test_a_recording_is_calibrated_relative_to_its_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    poses = pivoting(rng, noise_mm=0.02)
    frames = []
    for number, pose in enumerate(poses):
        # The reference wanders before the camera; only the relation counts.
        ReferenceToTracker = rigid(rotation_about([1, 2, 3], number / 3), [number, -number / 2, 900])
        frames.append(
            {
                "StylusToTrackerTransform": ReferenceToTracker @ pose,
                "StylusToTrackerTransformStatus": "OK" if number % 10 else "MISSING",
                "ReferenceToTrackerTransform": ReferenceToTracker,
                "ReferenceToTrackerTransformStatus": "OK",
                "Timestamp": f"{number / 20}",
            }
        )
    write_recording(tmp_path / "pivot.igs.mha", frames)
    sequence = read_sequence(tmp_path / "pivot.igs.mha")
    found = calibrate_pivot(sequence.poses("Stylus", "Reference"))
    assert found.ignored_poses == 30
    np.testing.assert_allclose(found.tip_in_tool_mm, TIP, atol=0.05)
    assert sequence.time_s[40] == 2.0
    inverse = sequence.poses("Reference", "Stylus")
    np.testing.assert_allclose(inverse[5], invert_rigid(sequence.poses("Stylus", "Reference")[5]), atol=1e-3)
    result = CliRunner().invoke(pivot_command.command, [str(tmp_path / "pivot.igs.mha"), "--json"])
    np.testing.assert_allclose(json.loads(result.stdout)["tip_in_tool_mm"], found.tip_in_tool_mm)
    with pytest.raises(CalibrationError, match="it holds ReferenceToTracker, StylusToTracker"):
        sequence.poses("Trocar", "Reference")


def test_files_that_are_no_recording_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_sequence(tmp_path / "none.mha")
    (tmp_path / "text.mha").write_text("hello", encoding="utf-8")
    with pytest.raises(CalibrationError, match="no sequence metafile"):
        read_sequence(tmp_path / "text.mha")
    write_recording(tmp_path / "empty.mha", [])
    with pytest.raises(CalibrationError, match="no transforms"):
        read_sequence(tmp_path / "empty.mha")
    write_recording(tmp_path / "short.mha", [{"AToBTransform": np.eye(3), "AToBTransformStatus": "OK"}])
    with pytest.raises(CalibrationError, match="9 numbers"):
        read_sequence(tmp_path / "short.mha")


def test_real_recordings_without_a_pivot_are_refused_with_the_reason() -> None:
    recording = TRACKING_DATA / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha"
    if not recording.exists():
        pytest.skip("needs the tracker recordings of ../shared/data/tracking beside the checkout")
    sequence = read_sequence(recording)
    assert len(sequence.time_s) == 801
    with pytest.raises(CalibrationError, match="stood still"):
        calibrate_pivot(sequence.poses("Stylus", "Reference"))
    with pytest.raises(CalibrationError, match="turned through only 7 deg"):
        calibrate_pivot(sequence.poses("Probe", "Reference"))
