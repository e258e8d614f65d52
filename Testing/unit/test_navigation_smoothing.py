"""Smoothing steadies a pose and never lags by more than was allowed."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.geometry import check_rigid, rigid, rotation_about
from sacroplasty.navigation.smoothing import PoseSmoother

NOISE_MM, NOISE_DEG = 0.2, 0.1


def noisy(rng: np.random.Generator, place: np.ndarray, turn_deg: float = 0.0) -> np.ndarray:
    tremor = rotation_about(rng.normal(size=3), rng.normal(0, NOISE_DEG))
    return rigid(tremor @ rotation_about([0, 0, 1], turn_deg), place + rng.normal(0, NOISE_MM, 3))


@pytest.mark.parametrize("rate_hz", [20.0, 60.0, 250.0])
@pytest.mark.parametrize("most_delay_s", [0.0, 0.02, 0.04])
def test_the_lag_behind_a_moving_tool_is_the_delay_it_states_and_within_the_limit(
    rate_hz: float, most_delay_s: float
) -> None:
    smoother, rng = PoseSmoother(most_delay_s), np.random.default_rng(1)
    speed_mm_s, now_s, lags = 200.0, 0.0, []
    for _ in range(400):
        # An uneven clock, as over a network.
        now_s += float(rng.uniform(0.7, 1.3)) / rate_hz
        pose, delay_s = smoother.add(rigid(np.eye(3), [speed_mm_s * now_s, 0, 0]), now_s)
        lag_s = now_s - pose[0, 3] / speed_mm_s
        assert lag_s == pytest.approx(delay_s, abs=1e-9)
        lags.append(lag_s)
    assert max(lags) <= most_delay_s + 1e-9


def test_noise_of_a_resting_tool_falls_with_the_root_of_the_samples() -> None:
    smoother, rng = PoseSmoother(0.04), np.random.default_rng(2)
    places, angles = [], []
    for tick in range(1500):
        pose, _ = smoother.add(noisy(rng, np.zeros(3)), tick / 60)
        places.append(pose[:3, 3])
        angles.append(np.degrees(np.arccos(min(1.0, (np.trace(check_rigid(pose, "mean", 1e-9)[:3, :3]) - 1) / 2))))
    # Five samples span 4 / 60 s, on average 33 ms old; a sixth would make it 42 ms.
    assert np.std(places[10:]) == pytest.approx(NOISE_MM / np.sqrt(5), rel=0.1)
    assert np.sqrt(np.mean(np.square(angles[10:]))) == pytest.approx(NOISE_DEG / np.sqrt(5), rel=0.15)


def test_after_a_gap_or_a_reset_nothing_old_is_mixed_in() -> None:
    smoother = PoseSmoother(0.04)
    for tick in range(10):
        smoother.add(rigid(np.eye(3), [0, 0, 0]), tick / 60)
    moved = rigid(rotation_about([1, 2, 3], 50), [100, 0, 0])
    assert smoother.add(moved, 0.5)[0] is moved
    smoother.add(rigid(np.eye(3), [0, 0, 0]), 0.51)
    smoother.reset()
    assert smoother.add(moved, 0.52) == (moved, 0.0)
    # A clock that was set back.
    assert smoother.add(moved, 0.1) == (moved, 0.0)


def test_a_delay_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        PoseSmoother(float("nan"))
