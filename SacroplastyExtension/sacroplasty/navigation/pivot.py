"""Pivot calibration: where a tool's tip is, from turning the tool about its resting tip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError
from ..geometry import FloatArray, rigid, unit
from .pose_checks import range_deg, valid_poses

#: Fewer poses average the tracker's jitter too little.
_FEWEST_POSES = 50
#: Between the two most different orientations. A tool that turns less leaves the tip's distance open.
_LEAST_RANGE_DEG = 30.0
#: Root mean square by which the direction that moves least swings, per mm of lever (about 3 degrees of tilt).
_LEAST_SWING = 0.05
#: More rejected poses than this are no outliers but another motion.
_LEAST_USED_FRACTION = 0.6
#: Distances beyond this many standard deviations are outliers (one in 6000 of three-dimensional noise).
_OUTLIER_SIGMAS = 4.5
#: Median length of a three-dimensional normal vector of standard deviation one.
_MEDIAN_OF_LENGTH = 1.538
#: A tracker never repeats better than this; keeps noise-free data from rejecting rounding errors [mm].
_SIGMA_FLOOR_MM = 0.02
_BLOCKS = 5
#: However long a tool rests in one orientation, so many poses within this angle count: more only add weight to it.
_SAME_ORIENTATION_DEG, _MOST_ALIKE = 3.0, 20
#: No shaft is longer [mm].
_LONGEST_TIP_MM = 600.0
#: Markers that move less [mm] are those of a calibrated tool, or in metres: on a sphere as exact as this part of it.
_SMALLEST_SWING_MM, _METRES_RATIO = 2.0, 50.0
#: Directions of tilt that are told apart, and the tilt from the middle that counts as one [deg].
_SECTORS, _TILTED_DEG = 8, 10.0
#: Share of the directions that makes good coverage: a tool cannot be tilted into the patient or the camera's shadow.
_GOOD_COVERAGE = 0.75


@dataclass(frozen=True)
class PivotCalibration:
    """A tool's tip.

    Attributes:
        tip_in_tool_mm: the tip (3,) in the tool's frame.
        pivot_in_reference_mm: where it rested (3,) in the reference's frame.
        rms_error_mm: root mean square distance of the tip from the pivot over the poses used.
        holdout_error_mm: the same for poses that had no part in the fit: five blocks in time, each judged by the fit
            to the other four. Of the two, this is the one to show.
        tip_covariance_mm2: (3, 3) of the tip in the tool's frame, that the noise leaves.
        orientation_range_deg: largest angle between two orientations of the tool.
        used_fraction: of the valid poses, how many were no outliers.
        ignored_poses: how many poses were missing (NaN or the exact identity).
    """

    tip_in_tool_mm: FloatArray
    pivot_in_reference_mm: FloatArray
    rms_error_mm: float
    holdout_error_mm: float
    tip_covariance_mm2: FloatArray
    orientation_range_deg: float
    used_fraction: float
    ignored_poses: int

    @property
    def tip_uncertainty_mm(self) -> float:
        """Standard deviation of the tip's position, all three axes together."""
        return float(np.sqrt(np.trace(self.tip_covariance_mm2)))

    @property
    def TipToTool(self) -> FloatArray:
        """The tip's frame, with the axes of the tool, in the tool's frame."""
        return rigid(np.eye(3), self.tip_in_tool_mm)


def calibrate_pivot(StylusToReference: ArrayLike, largest_error_mm: float = 1.0) -> PivotCalibration:
    """Find the tip of a tool that was turned about its resting tip.

    The tip t and the pivot p solve R t + d = p for all poses (R, d) by linear least squares. The fit starts from the
    least sum of distances (by reweighting), which a minority of wild poses cannot pull away, then drops poses far
    beyond the noise, whose size comes from the median.

    Args:
        StylusToReference: poses (n, 4, 4) in the order of time, mm; missing ones are NaN.
        largest_error_mm: hold-out error beyond which the calibration is refused.

    Raises:
        CalibrationError: saying what was wrong with the motion or the data, and what to do.
    """
    poses = np.asarray(StylusToReference, float)
    present = valid_poses(poses, "the tool")
    ignored = int(len(poses) - present.sum())
    poses = poses[present]
    if len(poses) < _FEWEST_POSES:
        lost = f" ({ignored} more were lost: is the tool in view?)" if ignored else ""
        raise CalibrationError(f"only {len(poses)} valid poses{lost}; record at least {_FEWEST_POSES}")
    _check_motion(poses[:, :3, :3], poses[:, :3, 3])
    # A recorder quicker than its tracker writes each pose several times, which is no more evidence.
    poses = poses[np.r_[True, (poses[1:] != poses[:-1]).any(axis=(1, 2))]]
    if len(poses) < _FEWEST_POSES:
        raise CalibrationError(f"only {len(poses)} different poses, the others repeat them; record for longer")
    poses = poses[_evenly(poses[:, :3, :3])]
    rotations, positions = poses[:, :3, :3], poses[:, :3, 3]

    _check_unit(rotations, positions)
    tip, pivot, used = _robust_fit(rotations, positions)
    if used.mean() < _LEAST_USED_FRACTION:
        raise CalibrationError(
            f"only {used.mean():.0%} of the poses agree on one tip; hold the tip still in its divot and record again"
        )
    # Once more: the motion may have come from the outliers.
    turned_deg = _check_motion(rotations[used], positions[used])
    rotations, positions = rotations[used], positions[used]
    rms = _rms(_distances(rotations, positions, tip, pivot))
    if np.linalg.norm(tip) > _LONGEST_TIP_MM:
        raise CalibrationError(
            f"the tip would lie {np.linalg.norm(tip):.0f} mm from the tool's markers: tool and reference look exchanged"
        )
    holdout = _holdout_error(rotations, positions)
    if not holdout <= largest_error_mm:
        raise CalibrationError(
            f"the tip did not stay in place: error {holdout:.1f} mm, limit {largest_error_mm:.1f} mm; "
            "press it into the divot and turn the tool more slowly"
        )
    return PivotCalibration(
        tip_in_tool_mm=tip,
        pivot_in_reference_mm=pivot,
        rms_error_mm=rms,
        holdout_error_mm=holdout,
        tip_covariance_mm2=_tip_covariance(rotations, rms),
        orientation_range_deg=turned_deg,
        used_fraction=float(used.mean()),
        ignored_poses=ignored,
    )


@dataclass(frozen=True)
class PivotProgress:
    """How far pivoting has come, to be shown while the tool turns.

    Attributes:
        valid_poses, lost_poses: so far.
        orientation_range_deg: largest angle between two orientations.
        coverage: share of the directions into which the shaft was tilted, 0 to 1.
        sectors: by direction of tilt, whether it was reached; they go round the shaft's middle position.
        enough: whether a calibration can be tried.
        advice: what to do, in words.
    """

    valid_poses: int
    lost_poses: int
    orientation_range_deg: float
    coverage: float
    sectors: tuple[bool, ...]
    enough: bool
    advice: str


def pivot_progress(StylusToReference: ArrayLike) -> PivotProgress:
    """What the poses (n, 4, 4) recorded so far give, and what is lacking.

    Raises:
        CalibrationError: for poses that are none: more of the same will not help.
    """
    poses = np.asarray(StylusToReference, float).reshape(-1, 4, 4)
    present = valid_poses(poses, "the tool")
    valid, lost = int(present.sum()), int(len(poses) - present.sum())
    rotations, positions = poses[present, :3, :3], poses[present, :3, 3]
    range_so_far = range_deg(rotations)
    sectors = _tilted_sectors(rotations, positions)
    coverage = sum(sectors) / _SECTORS
    enough = False
    if lost > valid:
        advice = "the tool is out of sight: turn its markers towards the camera"
    elif range_so_far < _LEAST_RANGE_DEG:
        advice = f"tool turned through only {range_so_far:.0f} deg; tilt it further"
    elif _swing(rotations) < _LEAST_SWING:
        advice = "the tool turns about one axis only; tilt it in other directions as well"
    elif valid < _FEWEST_POSES:
        advice = f"go on: {_FEWEST_POSES - valid} more poses are needed"
    else:
        enough = True
        advice = "enough" if coverage >= _GOOD_COVERAGE else "tilt it towards the sides that are still open"
    return PivotProgress(valid, lost, range_so_far, coverage, sectors, enough, advice)


def _tilted_sectors(rotations: FloatArray, positions: FloatArray) -> tuple[bool, ...]:
    """Into which directions the shaft, from the tool's origin to its tip, was tilted off its middle position."""
    reached = [False] * _SECTORS
    if len(rotations) < 10 or _swing(rotations) < _LEAST_SWING:
        return tuple(reached)
    tip, _ = _fit(rotations, positions, np.ones(len(rotations)))
    if not np.linalg.norm(tip) > 0:
        return tuple(reached)
    shafts = rotations @ unit(tip)
    middle = unit(shafts.mean(axis=0))
    x = unit(np.cross(middle, np.eye(3)[int(np.argmin(np.abs(middle)))]))
    y = np.cross(middle, x)
    tilted = shafts @ middle < np.cos(np.radians(_TILTED_DEG))
    turn = np.arctan2(shafts[tilted] @ y, shafts[tilted] @ x)
    for sector in np.unique(np.floor(turn / (2 * np.pi) * _SECTORS).astype(int) % _SECTORS):
        reached[sector] = True
    return tuple(reached)


def _evenly(rotations: FloatArray) -> NDArray[np.int_]:
    """Numbers of the poses to use: of those of one orientation only so many, spread over them."""
    cosine = 1 + 2 * np.cos(np.radians(_SAME_ORIENTATION_DEG))
    flat = rotations.reshape(-1, 9)
    group = np.full(len(flat), -1)
    while (group < 0).any():
        open_ones = np.flatnonzero(group < 0)
        group[open_ones[flat[open_ones] @ flat[open_ones[0]] >= cosine]] = open_ones[0]
    kept = []
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        if len(members) > _MOST_ALIKE:
            members = members[np.linspace(0, len(members) - 1, _MOST_ALIKE).round().astype(int)]
        kept.append(members)
    return np.sort(np.concatenate(kept))


def _check_unit(rotations: FloatArray, positions: FloatArray) -> None:
    """Refuse poses in metres: a tool that turns and hardly moves, and moves on a sphere when read in metres.

    One that is calibrated already hardly moves either, but by noise alone.
    """
    if np.ptp(np.percentile(positions, [5, 95], axis=0), axis=0).max() > _SMALLEST_SWING_MM:
        return
    tip, pivot, _ = _robust_fit(rotations, positions * 1000)
    if _METRES_RATIO * np.median(_distances(rotations, positions * 1000, tip, pivot)) < np.linalg.norm(tip):
        raise CalibrationError(
            f"the tip would lie {np.linalg.norm(tip) / 1000:.2g} mm from the tool's markers: "
            "the poses look like metres; give millimetres"
        )


def _check_motion(rotations: FloatArray, positions: FloatArray) -> float:
    """The range of orientations in degrees, if it is enough to find the tip."""
    turned_deg = range_deg(rotations)
    if turned_deg < _LEAST_RANGE_DEG:
        if turned_deg < 1 and np.ptp(positions, axis=0).max() < 1:
            raise CalibrationError("the tool stood still; keep its tip in the divot and turn it about the tip")
        raise CalibrationError(
            f"the tool turned through only {turned_deg:.0f} deg; tilt it further, at least {_LEAST_RANGE_DEG:.0f} deg"
        )
    if _swing(rotations) < _LEAST_SWING:
        raise CalibrationError("the tool was turned about one axis only; tilt it in other directions as well")
    return turned_deg


def _swing(rotations: FloatArray) -> float:
    """Root mean square motion of the unit lever that moves least: zero when the tool turns about a single axis."""
    apart = rotations - rotations.mean(axis=0)
    spread = np.einsum("nji,njk->ik", apart, apart) / len(rotations)
    return float(np.sqrt(max(np.linalg.eigvalsh(spread)[0], 0)))


def _fit(rotations: FloatArray, positions: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Tip and pivot of weighted least squares, by the normal equations of R t - p = -d."""
    total = weights.sum()
    mean_rotation = np.einsum("n,nij->ij", weights, rotations)
    normal = np.zeros((6, 6))
    normal[:3, :3] = total * np.eye(3)
    normal[:3, 3:] = -mean_rotation.T
    normal[3:, :3] = -mean_rotation
    normal[3:, 3:] = total * np.eye(3)
    right = np.concatenate([-np.einsum("n,nji,nj->i", weights, rotations, positions), weights @ positions])
    solution = np.linalg.solve(normal, right)
    return solution[:3], solution[3:]


def _robust_fit(rotations: FloatArray, positions: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Tip, pivot and which poses agree with them."""
    weights = np.ones(len(rotations))
    for _ in range(30):
        tip, pivot = _fit(rotations, positions, weights)
        weights = 1 / np.maximum(_distances(rotations, positions, tip, pivot), _SIGMA_FLOOR_MM)
    used = np.ones(len(rotations), bool)
    for _ in range(20):
        distances = _distances(rotations, positions, tip, pivot)
        sigma = max(float(np.median(distances)) / _MEDIAN_OF_LENGTH, _SIGMA_FLOOR_MM)
        agreeing = distances <= _OUTLIER_SIGMAS * sigma
        tip, pivot = _fit(rotations, positions, agreeing.astype(float))
        if (agreeing == used).all():
            break
        used = agreeing
    return tip, pivot, used


def _distances(rotations: FloatArray, positions: FloatArray, tip: FloatArray, pivot: FloatArray) -> FloatArray:
    return np.linalg.norm(rotations @ tip + positions - pivot, axis=1)


def _rms(distances: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(distances))))


def _holdout_error(rotations: FloatArray, positions: FloatArray) -> float:
    block = np.arange(len(rotations)) * _BLOCKS // len(rotations)
    squares = []
    for number in range(_BLOCKS):
        held = block == number
        if _swing(rotations[~held]) < _LEAST_SWING:
            return float("inf")
        tip, pivot = _fit(rotations[~held], positions[~held], np.ones(int((~held).sum())))
        squares.append(np.square(_distances(rotations[held], positions[held], tip, pivot)))
    return float(np.sqrt(np.concatenate(squares).mean()))


def _tip_covariance(rotations: FloatArray, rms_error_mm: float) -> FloatArray:
    """Covariance of the tip: the noise per axis through the normal equations, the pivot eliminated."""
    apart = rotations - rotations.mean(axis=0)
    information = np.einsum("nji,njk->ik", apart, apart)
    return rms_error_mm**2 / 3 * np.linalg.inv(information)
