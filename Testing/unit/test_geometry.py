"""Rigid transforms, lines and distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sacroplasty import geometry
from sacroplasty.errors import GeometryError

coordinate = st.floats(-500, 500, allow_nan=False)
point = st.tuples(coordinate, coordinate, coordinate).map(np.array)


def a_pose(seed: int = 0) -> np.ndarray:
    return geometry.rigid(Rotation.random(random_state=seed).as_matrix(), [10, -20, 30])


def test_lps_and_ras_are_each_others_mirror() -> None:
    np.testing.assert_array_equal(geometry.flip_lps_ras([1, 2, 3]), [-1, -2, 3])
    np.testing.assert_array_equal(geometry.transform_points(geometry.LPSToRAS, [[1, 2, 3]]), [[-1, -2, 3]])


def test_inverse_of_a_rigid_transform_undoes_it() -> None:
    np.testing.assert_allclose(geometry.invert_rigid(a_pose()) @ a_pose(), np.eye(4), atol=1e-12)


def test_vectors_are_turned_but_not_moved() -> None:
    np.testing.assert_allclose(geometry.transform_vectors(a_pose(), [0, 0, 1]), a_pose()[:3, 2])


@given(axis=point.filter(lambda p: np.linalg.norm(p) > 1e-3), angle=st.floats(-360, 360))
def test_rotation_about_an_axis_agrees_with_scipy(axis: np.ndarray, angle: float) -> None:
    expected = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.radians(angle)).as_matrix()
    np.testing.assert_allclose(geometry.rotation_about(axis, angle), expected, atol=1e-9)


@pytest.mark.parametrize("target", [[0, 0, 1], [0, 0, -1], [1, 2, 3], [0, 1e-9, 1]])
def test_rotation_between_turns_one_direction_onto_the_other(target: list[float]) -> None:
    rotation = geometry.rotation_between([0, 0, 1], target)
    np.testing.assert_allclose(rotation @ [0, 0, 1], np.array(target) / np.linalg.norm(target), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_small_angles_are_not_lost_to_rounding() -> None:
    assert geometry.angle_between_deg([1, 0, 0], [1, 1e-9, 0]) == pytest.approx(np.degrees(1e-9), rel=1e-6)


@given(p0=point, p1=point, q0=point, q1=point)
def test_segment_distance_is_never_above_a_sampled_one(
    p0: np.ndarray, p1: np.ndarray, q0: np.ndarray, q1: np.ndarray
) -> None:
    exact = geometry.segment_to_segment_distance(p0, p1, q0, q1)
    fractions = np.linspace(0, 1, 101)[:, None]
    sampled = geometry.distance_to_segment(p0 + fractions * (p1 - p0), q0, q1).min()
    step = np.linalg.norm(p1 - p0) / 100
    assert exact <= sampled + 1e-6
    assert sampled <= exact + step / 2 + 1e-6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.__setitem__((0, 3), np.nan), "NaN"),
        (lambda m: m.__setitem__((slice(0, 3), 0), m[:3, 0] * 1.01), "not rigid"),
        (lambda m: m.__setitem__((slice(0, 3), 0), -m[:3, 0]), "left-handed"),
        (lambda m: m.__setitem__((3, 0), 1.0), "last row"),
    ],
)
def test_impossible_transforms_are_refused_by_name(change: object, reason: str) -> None:
    matrix = a_pose()
    change(matrix)  # type: ignore[operator]
    with pytest.raises(GeometryError, match=f"StylusToReference.*{reason}"):
        geometry.check_rigid(matrix, "StylusToReference")


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match="4x4"):
        geometry.check_rigid(np.eye(3), "StylusToReference")


def test_a_direction_without_length_is_refused() -> None:
    with pytest.raises(GeometryError, match="no length"):
        geometry.unit([0, 0, 0])
    with pytest.raises(GeometryError, match="no length"):
        geometry.unit([np.nan, 0, 1])
