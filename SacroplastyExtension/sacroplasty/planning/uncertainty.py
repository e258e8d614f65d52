"""How probable it is that the real shaft enters a structure, for a pose that is known with an uncertainty.

A rigid error x = (t, w) moves each point of the shaft, and with it the point's distance from a structure. To first
order that distance is d + a.x with a from the gradient of the distance, so the shaft enters the structure where x lies
beyond any of as many half spaces as the shaft has points. Their union is integrated by line sampling: exactly along the
direction of the most probable breach, by a Sobol sequence across it. That converges for small probabilities too, where
counting draws does not. `monte_carlo` counts draws and moves the shaft through the distances as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, unit
from .model import Accuracy
from .pose_uncertainty import PoseUncertainty

#: Signed distances (n,) in mm of RAS points (n, 3) from a structure, negative inside.
DistanceOf = Callable[[FloatArray], NDArray]

#: Points of the Sobol sequence across the line, a power of two.
_SOBOL_POINTS = 512
#: The gradient is the mean slope over so many standard deviations to both sides, where the breach happens rather than
#: where the shaft is planned.
_REACH_SD = 1.5
#: Below this nothing can be said: distributions of errors are not known so far out.
SMALLEST_PROBABILITY = 1e-6


def pose_uncertainty(accuracy: Accuracy, target_ras: FloatArray) -> PoseUncertainty:
    """What an accuracy of registration and tool, independent of each other, means for a trocar at its target."""
    position = float(np.hypot(accuracy.registration_sd_mm, accuracy.tool_sd_mm))
    angle = float(np.hypot(accuracy.registration_sd_deg, accuracy.tool_sd_deg))
    return PoseUncertainty.isotropic(target_ras, position, angle)


def breach_probability(
    distance_of: DistanceOf, shaft_ras: FloatArray, radius_mm: float, uncertainty: PoseUncertainty
) -> float:
    """Probability that any point of the shaft comes nearer to a structure than its radius, to first order.

    Args:
        shaft_ras: points (n, 3) of the shaft's axis, 1 to 2 mm apart.
    """
    distance, slope = _linearized(distance_of, shaft_ras, radius_mm, uncertainty)
    spread = np.linalg.norm(slope, axis=1)
    if (distance <= 0).any() and not (spread > 0).any():
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        sds_away = np.where(spread > 0, distance / spread, np.where(distance > 0, np.inf, -np.inf))
    worst = int(np.argmin(sds_away))
    if sds_away[worst] > 8:
        return 0.0
    along = unit(slope[worst])
    across = _across(along) @ _normals()
    # Along the line z = across + t * along every half space is a half line of t.
    rate = slope @ along
    offset = distance[:, None] + slope @ across
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -offset / rate[:, None]
    below = np.where(rate[:, None] > 1e-12, crossing, -np.inf).max(axis=0)
    above = np.where(rate[:, None] < -1e-12, crossing, np.inf).min(axis=0)
    always = ((np.abs(rate)[:, None] <= 1e-12) & (offset < 0)).any(axis=0)
    probability = np.where(always | (below >= above), 1.0, _normal_below(below) + _normal_below(-above))
    return float(np.clip(probability.mean(), 0.0, 1.0))


def monte_carlo(
    distance_of: DistanceOf,
    shaft_ras: FloatArray,
    radius_mm: float,
    uncertainty: PoseUncertainty,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """The same by moving the shaft so many times, without linearising distances."""
    rng = np.random.default_rng(seed)
    root = _root(uncertainty.covariance)
    arm = shaft_ras - uncertainty.center_ras
    hits = 0
    for start in range(0, draws, 500):
        error = rng.standard_normal((min(500, draws - start), 6)) @ root.T
        moved = shaft_ras + error[:, None, :3] + np.cross(error[:, None, 3:], arm[None])
        nearest = np.asarray(distance_of(moved.reshape(-1, 3))).reshape(len(error), -1).min(axis=1)
        hits += int(np.count_nonzero(nearest < radius_mm))
    return hits / draws


def _linearized(
    distance_of: DistanceOf, shaft_ras: FloatArray, radius_mm: float, uncertainty: PoseUncertainty
) -> tuple[FloatArray, FloatArray]:
    """Distance (n,) of the shaft's surface, and its slope (n, 6) in independent standard normal errors."""
    root = _root(uncertainty.covariance)
    arm = shaft_ras - uncertainty.center_ras
    # Where each of the six independent errors moves each point: (6, n, 3).
    moves = root[:3].T[:, None, :] + np.cross(root[3:].T[:, None, :], arm[None])
    points = np.concatenate([shaft_ras[None], shaft_ras + _REACH_SD * moves, shaft_ras - _REACH_SD * moves])
    values = np.asarray(distance_of(points.reshape(-1, 3)), float).reshape(13, -1)
    slope = (values[1:7] - values[7:]) / (2 * _REACH_SD)
    # Distance from a curved surface is more on average than at the average place: half the trace of the curvature.
    bend = (values[1:7] + values[7:] - 2 * values[0]).sum(axis=0) / (2 * _REACH_SD**2)
    return values[0] + bend - radius_mm, slope.T


def _root(covariance: FloatArray) -> FloatArray:
    """A (6, 6) matrix whose product with its transpose is the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None))


def _across(along: FloatArray) -> FloatArray:
    """(6, 5) orthonormal directions at a right angle to a unit vector (6,)."""
    return np.linalg.svd(along[None])[2][1:].T


@lru_cache(maxsize=1)
def _normals() -> FloatArray:
    """(5, n) standard normal numbers that fill space evenly, always the same."""
    from scipy.stats import norm, qmc

    even = qmc.Sobol(5, scramble=True, seed=1).random(_SOBOL_POINTS)
    return norm.ppf(np.clip(even, 1e-9, 1 - 1e-9)).T


def _normal_below(value: FloatArray) -> FloatArray:
    from scipy.special import ndtr

    return np.asarray(ndtr(value))
