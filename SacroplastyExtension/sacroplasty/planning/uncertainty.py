"""How probable it is that the real shaft enters a structure, for a pose that is known with an uncertainty.

A rigid error x = (t, w) moves each point of the shaft, and with it the point's distance from a structure. To first
order that distance is d + a.x with a from the gradient of the distance, so the shaft enters the structure where x lies
beyond any of as many half spaces as the shaft has points. The nearest of them gives the direction of the most probable
breach. The probability is integrated by line sampling: exactly along that direction, by a Sobol sequence across it.
That converges for small probabilities too, where counting draws does not. Where it matters, the distances themselves
are looked up all along each line, since structures are no half spaces. `monte_carlo` counts draws.
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
_SOBOL_POINTS = 1024
#: The gradient is the mean slope over so many standard deviations to both sides, where the breach happens rather than
#: where the shaft is planned.
_REACH_SD = 1.5
#: Smaller probabilities stay to first order.
_CORRECTED_FROM = 1e-3
#: Points of the shaft that are looked at on each line are no farther apart [mm].
_POINTS_APART_MM = 2.0
#: Where on each line the gap between shaft and structure is measured [SD].
_PLACES_SD = np.linspace(-4.0, 4.0, 17)
#: So far out there is no error, and points of the shaft so much farther away than the nearest add nothing [SD].
_NEVER_SD, _NEAR_SD = 8.0, 4.0


def pose_uncertainty(accuracy: Accuracy, target_ras: FloatArray) -> PoseUncertainty:
    """What an accuracy of registration and tool, independent of each other, means for a trocar at its target."""
    position = float(np.hypot(accuracy.registration_sd_mm, accuracy.tool_sd_mm))
    angle = float(np.hypot(accuracy.registration_sd_deg, accuracy.tool_sd_deg))
    return PoseUncertainty.isotropic(target_ras, position, angle)


def breach_probability(
    distance_of: DistanceOf, shaft_ras: FloatArray, radius_mm: float, uncertainty: PoseUncertainty
) -> float:
    """Probability that any point of the shaft comes nearer to a structure than its radius.

    Args:
        shaft_ras: points (n, 3) of the shaft's axis, 1 to 2 mm apart.
    """
    moves = _moves(shaft_ras, uncertainty)
    distance, slope, fall = _linearized(distance_of, shaft_ras, moves)
    distance = distance - radius_mm
    spread = np.linalg.norm(fall, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sds_away = np.where(spread > 0, distance / spread, np.where(distance > 0, np.inf, -np.inf))
    worst = int(np.argmin(sds_away))
    if not np.isfinite(sds_away[worst]):
        return 0.0 if sds_away[worst] > 0 else 1.0
    if sds_away[worst] > _NEVER_SD:
        return 0.0
    # Errors along this direction bring the worst point nearer; against it another wall may be.
    along = -unit(fall[worst])
    across = (_across(along) @ _normals()).T
    offset = distance[:, None] + slope @ across.T
    step = _REACH_SD * np.einsum("e,enc->nc", along, moves)
    beyond, before = (
        _crossing(offset, (np.asarray(distance_of(shaft_ras + way), float) - radius_mm - distance) / _REACH_SD)
        for way in (step, -step)
    )
    near = np.flatnonzero(sds_away < sds_away[worst] + _NEAR_SD)
    near = np.union1d(near[:: max(1, int(_POINTS_APART_MM / np.linalg.norm(shaft_ras[1] - shaft_ras[0])))], worst)

    def gap_mm(place: float) -> FloatArray:
        """What is left between shaft and structure at a place on each line."""
        error = across + place * along
        moved = shaft_ras[near] + np.einsum("ke,enc->knc", error, moves[:, near])
        found = np.asarray(distance_of(moved.reshape(-1, 3)), float).reshape(len(across), -1)
        return found.min(axis=1) - radius_mm

    probability = np.minimum(_normal_below(-beyond) + _normal_below(-before), 1.0)
    if probability.mean() >= _CORRECTED_FROM:
        probability = _below_nothing(np.array([gap_mm(place) for place in _PLACES_SD]))
    return float(probability.mean())


def _crossing(offset: FloatArray, rate: FloatArray) -> FloatArray:
    """How far along each line (k,) the first point of the shaft is at the structure; infinity where none gets there.

    Args:
        offset: (n, k) distances of the points at the beginning of the lines.
        rate: (n,) by which they change along the lines.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rate[:, None] < -1e-9, -offset / rate[:, None], np.inf).min(axis=0)


def _below_nothing(gaps: FloatArray) -> FloatArray:
    """Probability (k,) that a standard normal number lies where the gap, (m, k) at `_PLACES_SD`, is below nothing."""
    places = _PLACES_SD[:, None]
    below = gaps < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = places[:-1] + np.diff(places, axis=0) * gaps[:-1] / (gaps[:-1] - gaps[1:])
    ends = _normal_below(places)
    at_crossing = _normal_below(crossing)
    inside = np.where(below[:-1] & below[1:], ends[1:] - ends[:-1], 0.0)
    inside = np.where(below[:-1] & ~below[1:], at_crossing - ends[:-1], inside)
    inside = np.where(~below[:-1] & below[1:], ends[1:] - at_crossing, inside)
    return inside.sum(axis=0) + np.where(below[0], ends[0], 0.0) + np.where(below[-1], 1 - ends[-1], 0.0)


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


def _moves(shaft_ras: FloatArray, uncertainty: PoseUncertainty) -> FloatArray:
    """Where each of six independent standard normal errors moves each point: (6, n, 3) in mm."""
    root = _root(uncertainty.covariance)
    return root[:3].T[:, None, :] + np.cross(root[3:].T[:, None, :], (shaft_ras - uncertainty.center_ras)[None])


def _linearized(
    distance_of: DistanceOf, shaft_ras: FloatArray, moves: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distance (n,) of the shaft's axis, its slope (n, 6) in independent standard normal errors, and its fall.

    The fall is the slope towards the side that is nearer to the structure: between two walls the slope is nothing.
    """
    points = np.concatenate([shaft_ras[None], shaft_ras + _REACH_SD * moves, shaft_ras - _REACH_SD * moves])
    values = np.asarray(distance_of(points.reshape(-1, 3)), float).reshape(13, -1)
    ahead, behind = values[1:7], values[7:]
    slope = (ahead - behind) / (2 * _REACH_SD)
    fall = np.where(ahead < behind, np.minimum(ahead - values[0], 0), np.maximum(values[0] - behind, 0)) / _REACH_SD
    return values[0], slope.T, fall.T


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
