"""Landmark registration against known motion, its predicted error against simulation, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.registration import register_landmarks

#: About where one finds them on a sacrum, RAS mm.
LANDMARKS = {
    "psis_left": [-42.0, -55.0, -20.0],
    "psis_right": [44.0, -54.0, -22.0],
    "crest_s1": [1.0, -48.0, -5.0],
    "crest_s3": [-1.0, -72.0, -50.0],
    "hiatus": [2.0, -70.0, -95.0],
}
NAMES = tuple(LANDMARKS)
FIXED = np.array(list(LANDMARKS.values()))
MOTION = rigid(rotation_about([1, -2, 0.5], 70), [120, -300, 800])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0, 180), st.integers(0, 1000))
def test_any_motion_is_found_again(axis: list[float], angle_deg: float, seed: int) -> None:
    if np.linalg.norm(axis) < 0.01:
        return
    motion = rigid(rotation_about(axis, angle_deg), np.random.default_rng(seed).uniform(-1000, 1000, 3))
    found = register_landmarks(transform_points(invert_rigid(motion), FIXED), FIXED, NAMES)
    np.testing.assert_allclose(found.MovingToFixed, motion, atol=1e-6)
    assert found.rms_mm < 1e-8


def test_three_landmarks_are_enough_but_leave_no_check() -> None:
    found = register_landmarks(transform_points(MOTION, FIXED[:3]), FIXED[:3], NAMES[:3])
    assert np.isnan(found.leave_one_out_mm).all()
    assert any("fourth" in warning for warning in found.warnings)


@pytest.mark.parametrize("target", [[-30.0, -30.0, -30.0], [0.0, 40.0, 0.0]])
def test_the_predicted_error_is_the_error_of_many_registrations(target: list[float]) -> None:
    rng = np.random.default_rng(1)
    predicted, squares = [], []
    for _ in range(500):
        touched = transform_points(invert_rigid(MOTION), FIXED + rng.normal(size=FIXED.shape) * 0.6 / np.sqrt(3))
        found = register_landmarks(touched, FIXED, NAMES, fle_mm=0.6)
        # The figure of the given error alone: single residuals may raise it, which the next test looks at.
        predicted.append(found.predicted_tre_mm(target) / found.error_scale)
        error = transform_points(found.MovingToFixed, transform_points(invert_rigid(MOTION), target)) - target
        squares.append(float(error @ error))
    assert np.sqrt(np.mean(squares)) == pytest.approx(np.mean(predicted), rel=0.08)


def test_large_residuals_raise_the_predicted_error() -> None:
    rng = np.random.default_rng(2)
    touched = FIXED + rng.normal(size=FIXED.shape)
    raised = register_landmarks(touched, FIXED, NAMES, fle_mm=0.3)
    assert raised.error_scale > 2.5
    np.testing.assert_allclose(raised.fle_mm, 0.3 * raised.error_scale)
    np.testing.assert_allclose(register_landmarks(FIXED, FIXED, NAMES, fle_mm=0.3).fle_mm, 0.3)


def test_leaving_one_out_shows_the_landmark_that_is_off() -> None:
    touched = FIXED.copy()
    touched[3] += [0, 0, 4]
    found = register_landmarks(touched, FIXED, NAMES)
    assert int(found.leave_one_out_mm.argmax()) == 3
    assert found.leave_one_out_mm[3] == pytest.approx(4)
    assert found.residuals_mm[3] < 3.5


def test_a_landmark_far_off_is_named() -> None:
    touched = FIXED.copy()
    touched[4] += [0, 18, 3]
    with pytest.raises(CalibrationError, match=r"fit to .* mm only .*touch 'hiatus' again"):
        register_landmarks(touched, FIXED, NAMES)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 3), (1, 4)])
def test_exchanged_landmarks_are_named(first: int, second: int) -> None:
    rng = np.random.default_rng(3)
    touched = transform_points(MOTION, FIXED + rng.normal(size=FIXED.shape) * 0.3)
    touched[[first, second]] = touched[[second, first]]
    with pytest.raises(CalibrationError, match=f"'{NAMES[first]}' and '{NAMES[second]}' look exchanged"):
        register_landmarks(touched, FIXED, NAMES)


def test_landmarks_touched_in_a_ring_are_named() -> None:
    touched = FIXED[[2, 1, 3, 0, 4]]
    with pytest.raises(CalibrationError, match="'psis_left', 'crest_s1' and 'crest_s3' look exchanged"):
        register_landmarks(touched, FIXED, NAMES)


def test_a_mirror_image_is_called_one() -> None:
    deep = np.vstack([FIXED, [[-50, 40, 30], [60, 30, 40]]])
    names = (*NAMES, "asis_left", "asis_right")
    with pytest.raises(CalibrationError, match="mirror image"):
        register_landmarks(deep * [-1, 1, 1], deep, names)


def test_landmarks_nearly_in_one_plane_come_with_a_warning() -> None:
    flat = FIXED * [1, 0.02, 1]
    assert any("one plane" in warning for warning in register_landmarks(flat, flat, NAMES).warnings)
    assert not register_landmarks(FIXED * [1, 2, 1], FIXED * [1, 2, 1], NAMES).warnings


def test_what_cannot_be_registered_is_refused_in_words() -> None:
    with pytest.raises(CalibrationError, match="at least three"):
        register_landmarks(FIXED[:2], FIXED[:2], NAMES[:2])
    line = np.outer(np.arange(5.0), [10, 20, 5])
    with pytest.raises(CalibrationError, match="touched points lie on one line"):
        register_landmarks(line, FIXED, NAMES)
    with pytest.raises(CalibrationError, match="landmarks in the CT lie on one line"):
        register_landmarks(FIXED, line, NAMES)
    with pytest.raises(CalibrationError, match="look like metres"):
        register_landmarks(FIXED / 1000, FIXED, NAMES)
    with pytest.raises(CalibrationError, match="another unit"):
        register_landmarks(FIXED * 10, FIXED, NAMES)
    broken = FIXED.copy()
    broken[2, 1] = np.nan
    with pytest.raises(CalibrationError, match="touched point 'crest_s1'"):
        register_landmarks(broken, FIXED, NAMES)
    with pytest.raises(CalibrationError, match="as many"):
        register_landmarks(FIXED[:4], FIXED, NAMES)
    with pytest.raises(CalibrationError, match="within"):
        register_landmarks(FIXED / 50, FIXED / 50, NAMES)
    with pytest.raises(CalibrationError, match="localisation error"):
        register_landmarks(FIXED, FIXED, NAMES, fle_mm=float("nan"))
