"""Landmark registration against known motion, its predicted error against simulation, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.errors import CalibrationError, PoorRegistrationError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.navigation.landmark_matching import match_landmarks
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


def horn(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The optimum by unit quaternions (Horn 1987): another way than that of the program."""
    share = weights / weights.sum()
    a, b = source - share @ source, target - share @ target
    s = np.einsum("n,ni,nj->ij", share, a, b)
    skew = np.array([s[1, 2] - s[2, 1], s[2, 0] - s[0, 2], s[0, 1] - s[1, 0]])
    four = np.zeros((4, 4))
    four[0, 0], four[0, 1:], four[1:, 0] = np.trace(s), skew, skew
    four[1:, 1:] = s + s.T - np.trace(s) * np.eye(3)
    w, x, y, z = np.linalg.eigh(four)[1][:, -1]
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rigid(rotation, share @ target - rotation @ (share @ source))


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_closed_form_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    touched = transform_points(invert_rigid(MOTION), FIXED + rng.normal(size=FIXED.shape) * 0.4)
    errors = rng.uniform(0.4, 1.5, len(FIXED))
    for fle_mm, weights in ((0.5, np.ones(len(FIXED))), (errors, errors**-2)):
        expected = horn(touched, FIXED, weights)
        found = register_landmarks(touched, FIXED, NAMES, fle_mm=fle_mm)
        residuals = np.linalg.norm(transform_points(expected, touched) - FIXED, axis=1)
        np.testing.assert_allclose(
            transform_points(found.MovingToFixed, touched), transform_points(expected, touched), atol=1e-9
        )
        np.testing.assert_allclose(found.residuals_mm, residuals, atol=1e-9)
        for number in range(len(FIXED)):
            others = np.arange(len(FIXED)) != number
            alone = horn(touched[others], FIXED[others], weights[others])
            off = np.linalg.norm(transform_points(alone, touched[number]) - FIXED[number])
            assert found.leave_one_out_mm[number] == pytest.approx(off, abs=1e-9)


def test_covariances_by_direction_give_the_least_weighted_sum() -> None:
    """No small motion of the result lowers the sum that the covariances define."""
    rng = np.random.default_rng(8)
    errors = np.array(
        [rotation_about(axis, 40) @ np.diag([0.04, 0.04, 1.0]) @ rotation_about(axis, 40).T for axis in FIXED]
    )
    noise = np.array([rng.multivariate_normal(np.zeros(3), error) for error in errors])
    touched = transform_points(invert_rigid(MOTION), FIXED + noise)
    found = register_landmarks(touched, FIXED, NAMES, fle_mm=errors)

    def cost(transform: np.ndarray) -> float:
        off = transform_points(transform, touched) - FIXED
        return float(np.einsum("ni,nij,nj->", off, np.linalg.inv(errors), off))

    least = cost(found.MovingToFixed)
    assert least < cost(register_landmarks(touched, FIXED, NAMES).MovingToFixed) - 0.1
    center = FIXED.mean(axis=0)
    for _ in range(50):
        turn = rotation_about(rng.normal(size=3), rng.normal() * 0.05)
        nudge = rigid(turn, center - turn @ center + rng.normal(size=3) * 0.02)
        assert cost(nudge @ found.MovingToFixed) > least


def test_the_landmark_to_touch_again_is_named_only_when_chance_does_not_explain_it() -> None:
    rng = np.random.default_rng(9)
    told = []
    for _ in range(50):
        touched = FIXED + rng.normal(size=FIXED.shape) * 0.5 / np.sqrt(3)
        told.append(register_landmarks(touched, FIXED, NAMES, fle_mm=0.5).redo)
    assert sum(name is not None for name in told) <= 3
    touched[1] += [0, 3.5, 0]
    assert register_landmarks(touched, FIXED, NAMES, fle_mm=0.5).redo == "psis_right"


def test_three_landmarks_are_enough_but_leave_no_check() -> None:
    found = register_landmarks(transform_points(MOTION, FIXED[:3]), FIXED[:3], NAMES[:3])
    assert np.isnan(found.leave_one_out_mm).all()
    assert any("fourth" in warning for warning in found.warnings)


@pytest.mark.parametrize("target", [[-30.0, -30.0, -30.0], [0.0, 40.0, 0.0]])
def test_the_predicted_error_is_the_error_of_many_registrations(target: list[float]) -> None:
    rng = np.random.default_rng(1)
    predicted, squares = [], []
    for _ in range(300):
        touched = transform_points(invert_rigid(MOTION), FIXED + rng.normal(size=FIXED.shape) * 0.6 / np.sqrt(3))
        found = register_landmarks(touched, FIXED, NAMES, fle_mm=0.6)
        # The figure of the given error alone: single residuals may raise it, which the next test looks at.
        predicted.append(found.predicted_tre_mm(target) / found.error_scale)
        error = transform_points(found.MovingToFixed, transform_points(invert_rigid(MOTION), target)) - target
        squares.append(float(error @ error))
    assert np.sqrt(np.mean(squares)) == pytest.approx(np.mean(predicted), rel=0.1)


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
    with pytest.raises(PoorRegistrationError, match=r"fit to .* mm only .*touch 'hiatus' again"):
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
    # Also where a first guess may be rough.
    with pytest.raises(CalibrationError, match="mirror image"):
        register_landmarks(deep * [-1, 1, 1], deep, names, largest_rms_mm=50)


def test_tool_and_reference_exchanged_look_like_a_mirror_image_and_are_told() -> None:
    """A stylus that keeps its direction, seen from itself: the points turn inside out."""
    rng = np.random.default_rng(10)
    deep = np.vstack([FIXED, [[-50, 40, 30], [60, 30, 40]]])
    tip = np.array([2.0, -1, 180])
    exchanged = []
    for point in transform_points(invert_rigid(MOTION), deep):
        turn = rotation_about([1, 1, 0], 30) @ rotation_about(rng.normal(size=3), 0.1)
        StylusToReference = rigid(turn, point - turn @ tip)
        exchanged.append(transform_points(invert_rigid(StylusToReference), tip))
    with pytest.raises(CalibrationError, match=r"mirror image .* tool and reference are not exchanged"):
        register_landmarks(exchanged, deep, (*NAMES, "asis_left", "asis_right"))


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_touched_in_any_order_are_told_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fixed = np.vstack([FIXED, [[25.0, -62, -40], [-22, -60, -62], [30, -52, 4]]])
    order = rng.permutation(len(fixed))[: rng.integers(5, 9)]
    touched = transform_points(invert_rigid(MOTION), fixed[order] + rng.normal(size=(len(order), 3)) * 0.5)
    names = [f"point_{number}" for number in range(len(fixed))]
    np.testing.assert_array_equal(match_landmarks(touched, fixed, names), order)


def test_landmarks_that_look_the_same_both_ways_are_not_guessed() -> None:
    kite = np.array([[-40.0, 0, 0], [40, 0, 0], [0, -30, 20], [0, -30, -60], [0, 10, -20]])
    with pytest.raises(CalibrationError, match=r"touched point 1 may be 'a' or 'b': .* look the same both ways"):
        match_landmarks(kite * [1, 0.01, 1], kite * [1, 0.01, 1], "abcde")
    with pytest.raises(CalibrationError, match="in no order"):
        match_landmarks(kite * 1.5, kite, "abcde")
    with pytest.raises(CalibrationError, match="cannot be told apart"):
        match_landmarks(kite[:3], kite, "abcde")


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
    for fle_mm in (float("nan"), 0.0, [0.5, 0.5], np.zeros((5, 3, 3))):
        with pytest.raises(CalibrationError, match="localisation error"):
            register_landmarks(FIXED, FIXED, NAMES, fle_mm=fle_mm)
    with pytest.raises(CalibrationError, match="'hiatus' is there twice"):
        register_landmarks(FIXED, FIXED, ("hiatus", *NAMES[1:]))
