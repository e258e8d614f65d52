"""Probabilities of a breach against closed forms, and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from sacroplasty.planning.model import Accuracy
from sacroplasty.planning.pose_uncertainty import PoseUncertainty
from sacroplasty.planning.uncertainty import breach_probability, monte_carlo, pose_uncertainty

TARGET = np.zeros(3)
#: A shaft along z from the target.
SHAFT = np.column_stack([np.zeros(61), np.zeros(61), np.arange(0.0, 91.0, 1.5)])


def wall(place_mm: float):
    """Everything beyond x = place."""
    return lambda points: place_mm - points[:, 0]


def ball(center, radius_mm: float):
    return lambda points: np.linalg.norm(points - np.asarray(center, float), axis=1) - radius_mm


@pytest.mark.parametrize("sds", [1.0, 2.0, 3.0, 4.5])
def test_a_wall_beside_a_shaft_that_only_shifts_is_the_normal_distribution(sds: float) -> None:
    uncertainty = PoseUncertainty.isotropic(TARGET, position_sd_mm=0.8, angle_sd_deg=0.0)
    found = breach_probability(wall(1.5 + sds * 0.8), SHAFT, 1.5, uncertainty)
    assert found == pytest.approx(ndtr(-sds), rel=0.02)


def test_a_small_structure_far_from_the_target_is_reached_by_tilting() -> None:
    tilting = PoseUncertainty.isotropic(TARGET, position_sd_mm=0.0, angle_sd_deg=2.0)
    near, far = (breach_probability(ball([6.0, 0.0, z], 2.0), SHAFT, 1.5, tilting) for z in (10.0, 80.0))
    assert near < 1e-6 and far > 0.05


@pytest.mark.parametrize(
    "distance_of", [wall(4.0), ball([7.0, 0.0, 20.0], 3.0), ball([5.0, 3.0, 60.0], 2.0), ball([0.0, 0.0, -5.0], 2.0)]
)
def test_prediction_and_ten_thousand_draws_agree_within_a_tenth(distance_of) -> None:
    uncertainty = pose_uncertainty(Accuracy(1.2, 1.2, 0.8, 1.0), TARGET)
    predicted = breach_probability(distance_of, SHAFT, 1.5, uncertainty)
    counted = monte_carlo(distance_of, SHAFT, 1.5, uncertainty, draws=10_000, seed=3)
    scatter = 2 * np.sqrt(counted * (1 - counted) / 10_000)
    assert counted > 0.01
    assert abs(predicted - counted) <= 0.1 * counted + scatter


def test_two_walls_count_once_each() -> None:
    uncertainty = PoseUncertainty.isotropic(TARGET, 1.0, 0.0)
    between = breach_probability(lambda points: 3.5 - np.abs(points[:, 0]), SHAFT, 1.5, uncertainty)
    assert between == pytest.approx(2 * ndtr(-2.0), rel=0.03)


def test_without_any_error_the_shaft_is_where_it_is() -> None:
    exact = PoseUncertainty(TARGET, np.zeros((6, 6)))
    assert breach_probability(wall(2.0), SHAFT, 1.5, exact) == 0.0
    assert breach_probability(wall(1.0), SHAFT, 1.5, exact) == 1.0


def test_errors_of_registration_and_tool_add_as_squares() -> None:
    found = pose_uncertainty(Accuracy(3.0, 0.3, 4.0, 0.4), TARGET)
    assert np.sqrt(np.diag(found.covariance))[[0, 5]] == pytest.approx([5.0, np.radians(0.5)])
