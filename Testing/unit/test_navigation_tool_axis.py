"""Spin calibration, the tip on a known axis, and calibrations that are kept on file and checked at a divot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pivoting import PIVOT, TIP, pivoting
from sacroplasty.errors import CalibrationError, DocumentError
from sacroplasty.geometry import angle_between_deg, rigid, rotation_about, unit
from sacroplasty.navigation.pivot import calibrate_pivot
from sacroplasty.navigation.tool_axis import SpinCalibration, axis_towards, calibrate_spin, tip_on_axis
from sacroplasty.navigation.tool_calibration import (
    ToolCalibration,
    check_at_divot,
    read_tool_calibration,
    tool_calibration,
    write_tool_calibration,
)

#: The shaft of a tool whose markers sit beside it.
AXIS = unit([0.05, -0.02, 1.0])
BESIDE = np.array([25.0, 4.0, 0.0])
NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def spinning(
    rng: np.random.Generator,
    noise_mm: float = 0.1,
    noise_deg: float = 0.05,
    turn_deg: float = 200.0,
    tilt_deg: float = 0.0,
) -> np.ndarray:
    """ToolToReference of a tool that turns about its shaft in a sleeve, and slides in it."""
    sleeve = rotation_about([1, 2, 0], 130)
    poses = []
    for number, angle in enumerate(np.linspace(0, turn_deg, 150)):
        turn = rotation_about([1, 0, 0], tilt_deg * np.sin(number / 9)) @ sleeve @ rotation_about(AXIS, angle)
        place = PIVOT - turn @ (BESIDE + 150 * AXIS) + 3 * np.sin(number / 20) * turn @ AXIS
        turn = rotation_about(rng.normal(size=3), rng.normal() * noise_deg) @ turn
        poses.append(rigid(turn, place + rng.normal(size=3) * noise_mm))
    return np.array(poses)


def test_the_axis_of_an_exact_spin_is_exact(rng: np.random.Generator) -> None:
    found = calibrate_spin(spinning(rng, 0, 0))
    assert abs(found.axis_in_tool @ AXIS) == pytest.approx(1, abs=1e-12)
    across = np.eye(3) - np.outer(AXIS, AXIS)
    np.testing.assert_allclose(found.point_in_tool_mm, across @ BESIDE, atol=1e-6)


def test_the_stated_error_of_the_axis_is_its_spread() -> None:
    off, stated = [], []
    for seed in range(40):
        found = calibrate_spin(spinning(np.random.default_rng(seed), noise_deg=0.3))
        axis = found.axis_in_tool * np.sign(found.axis_in_tool @ AXIS)
        off.append(angle_between_deg(axis, AXIS))
        stated.append(found.axis_sd_deg)
    # About two axes across, so the angle between the two has twice the variance of each.
    assert np.sqrt(np.mean(np.square(off)) / 2) == pytest.approx(np.mean(stated), rel=0.35)


def test_a_spin_that_is_none_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(CalibrationError, match=r"only \d\d deg about its shaft"):
        calibrate_spin(spinning(rng, turn_deg=40))
    with pytest.raises(CalibrationError, match=r"shaft tilted by"):
        calibrate_spin(spinning(rng, tilt_deg=6))
    with pytest.raises(CalibrationError, match="only 10 valid poses"):
        calibrate_spin(spinning(rng)[:10])


def test_a_tip_is_found_by_a_stop_on_the_axis(rng: np.random.Generator) -> None:
    found = calibrate_spin(spinning(rng))
    tip = BESIDE + 150 * AXIS
    at_stop = spinning(rng)[:1].repeat(20, axis=0)
    stop = at_stop[0, :3, :3] @ tip + at_stop[0, :3, 3]
    np.testing.assert_allclose(tip_on_axis(found, at_stop, stop), tip, atol=0.3)
    with pytest.raises(CalibrationError, match=r"off the tool's axis"):
        tip_on_axis(found, at_stop, stop + at_stop[0, :3, 0] * 4)
    with pytest.raises(CalibrationError, match="no valid pose"):
        tip_on_axis(found, np.full((3, 4, 4), np.nan), stop)


def test_pivot_and_spin_that_contradict_each_other_are_refused(rng: np.random.Generator) -> None:
    found = calibrate_spin(spinning(rng))
    tip = BESIDE + 150 * AXIS
    assert axis_towards(found, tip) @ AXIS == pytest.approx(1, abs=1e-4)
    turned_round = SpinCalibration(-found.axis_in_tool, found.point_in_tool_mm, 0.1, 0.01, 200.0, 0)
    assert axis_towards(turned_round, tip) @ AXIS == pytest.approx(1, abs=1e-4)
    with pytest.raises(CalibrationError, match="the shaft is bent"):
        axis_towards(found, tip + np.array([0, 6, 0]))


def calibrated(rng: np.random.Generator) -> ToolCalibration:
    return tool_calibration("Stylus", NOW, calibrate_pivot(pivoting(rng)))


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    made = calibrated(rng)
    write_tool_calibration(made, tmp_path / "stylus.json")
    found = read_tool_calibration(tmp_path / "stylus.json", "Stylus", NOW + timedelta(hours=2))
    assert (found.tool, found.calibrated_at) == ("Stylus", NOW)
    for name in (
        "tip_in_tool_mm", "axis_in_tool", "tip_covariance_mm2", "axis_sd_deg", "holdout_error_mm",
        "divot_in_reference_mm",
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(found, name), getattr(made, name), atol=1e-12)


def test_calibrations_of_yesterday_or_of_another_tool_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "stylus.json"
    write_tool_calibration(calibrated(rng), path)
    with pytest.raises(CalibrationError, match=r"26 hours old \(limit 24\); calibrate Stylus again"):
        read_tool_calibration(path, "Stylus", NOW + timedelta(hours=26))
    with pytest.raises(CalibrationError, match="from the future"):
        read_tool_calibration(path, "Stylus", NOW - timedelta(hours=1))
    with pytest.raises(CalibrationError, match="calibration of 'Stylus', not of 'Trocar'"):
        read_tool_calibration(path, "Trocar", NOW)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("+00:00", ""), encoding="utf-8")
    with pytest.raises(CalibrationError, match="time zone"):
        read_tool_calibration(path, "Stylus", NOW)
    path.write_text(text.replace("tip_in_tool_mm", "tip"), encoding="utf-8")
    with pytest.raises(DocumentError, match="tip_in_tool_mm"):
        read_tool_calibration(path, "Stylus", NOW)


def test_the_tips_frame_points_ahead_and_moves_along_the_shaft(rng: np.random.Generator) -> None:
    spin = SpinCalibration(-AXIS, BESIDE - (BESIDE @ AXIS) * AXIS, 0.1, 0.02, 200.0, 0)
    tip = BESIDE + 150 * AXIS
    pivot = calibrate_pivot(pivoting(rng) @ rigid(np.eye(3), TIP - tip))
    made = tool_calibration("Trocar", NOW, pivot, spin)
    np.testing.assert_allclose(made.TipToTool[:3, 2], AXIS, atol=1e-9)
    np.testing.assert_allclose(made.TipToTool[:3, 3], tip, atol=0.15)
    longer = made.moved_along_axis(12.5)
    np.testing.assert_allclose(longer.tip_in_tool_mm - made.tip_in_tool_mm, 12.5 * AXIS, atol=1e-9)
    # A direction that is known to 0.02 deg about two axes, 100 mm behind the tip.
    behind = made.tip_in_tool_mm - 100 * AXIS
    expected = np.trace(made.tip_covariance_mm2) + 2 * (100 * np.radians(0.02)) ** 2
    assert made.uncertainty.rms_mm(behind) ** 2 == pytest.approx(expected)


def test_a_tool_is_checked_at_the_divot_before_it_is_used(rng: np.random.Generator) -> None:
    made = calibrated(rng)
    good = check_at_divot(made, pivoting(rng, count=40))
    assert good.passed
    assert good.distance_mm < 0.4
    assert good.text.endswith("in place")
    moved = check_at_divot(replace(made, divot_in_reference_mm=PIVOT + np.array([0, 1.5, 0])), pivoting(rng, count=40))
    assert not moved.passed
    assert "do not use it" in moved.text
    bent = made.moved_along_axis(2.0)
    assert not check_at_divot(bent, pivoting(rng, count=100)).passed
    with pytest.raises(CalibrationError, match="only 5 valid poses of Stylus in the divot"):
        check_at_divot(made, pivoting(rng, count=5))
    with pytest.raises(CalibrationError, match="no divot is known in which Stylus was pivoted"):
        check_at_divot(replace(made, divot_in_reference_mm=None), pivoting(rng, count=40))
