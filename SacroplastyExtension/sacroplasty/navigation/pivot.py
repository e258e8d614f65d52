"""Pivot calibration: where a tool's tip is, from turning the tool about its resting tip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError
from ..geometry import FloatArray, rigid

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


@dataclass(frozen=True)
class PivotCalibration:
    """A tool's tip.

    Attributes:
        tip_in_tool_mm: the tip (3,) in the tool's frame.
        pivot_in_reference_mm: where it rested (3,) in the reference's frame.
        rms_error_mm: root mean square distance of the tip from the pivot over the poses used.
        holdout_error_mm: the same for poses that had no part in the fit: five blocks in time, each judged by the fit
            to the other four. Of the two, this is the one to show.
        tip_uncertainty_mm: standard deviation of the tip's position (all three axes together) that the noise leaves.
        orientation_range_deg: largest angle between two orientations of the tool.
        used_fraction: of the valid poses, how many were no outliers.
        ignored_poses: how many poses were missing (NaN).
    """

    tip_in_tool_mm: FloatArray
    pivot_in_reference_mm: FloatArray
    rms_error_mm: float
    holdout_error_mm: float
    tip_uncertainty_mm: float
    orientation_range_deg: float
    used_fraction: float
    ignored_poses: int

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
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise CalibrationError(f"pivot calibration needs poses of shape (n, 4, 4), not {poses.shape}")
    present = np.isfinite(poses).all(axis=(1, 2))
    ignored = int(len(poses) - present.sum())
    numbers = np.flatnonzero(present)
    poses = poses[present]
    if len(poses) < _FEWEST_POSES:
        lost = f" ({ignored} more were lost: is the tool in view?)" if ignored else ""
        raise CalibrationError(f"only {len(poses)} valid poses{lost}; record at least {_FEWEST_POSES}")
    rotations, positions = poses[:, :3, :3], poses[:, :3, 3]
    _check_rotations(rotations, numbers)
    _check_motion(rotations, positions)

    tip, pivot, used = _robust_fit(rotations, positions)
    if used.mean() < _LEAST_USED_FRACTION:
        raise CalibrationError(
            f"only {used.mean():.0%} of the poses agree on one tip; hold the tip still in its divot and record again"
        )
    # Once more: the motion may have come from the outliers.
    range_deg = _check_motion(rotations[used], positions[used])
    rotations, positions = rotations[used], positions[used]
    rms = _rms(_distances(rotations, positions, tip, pivot))
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
        tip_uncertainty_mm=_tip_uncertainty(rotations, rms),
        orientation_range_deg=range_deg,
        used_fraction=float(used.mean()),
        ignored_poses=ignored,
    )


def _check_rotations(rotations: FloatArray, numbers: NDArray[np.int_]) -> None:
    product = rotations @ rotations.transpose(0, 2, 1)
    off = np.abs(product - np.eye(3)).max(axis=(1, 2)) > 0.01
    if off.any():
        raise CalibrationError(
            f"pose {numbers[off][0]} is not rigid (its axes are not orthonormal), as are {int(off.sum()) - 1} others; "
            "check which transform was recorded"
        )
    if (np.linalg.det(rotations) < 0).any():
        raise CalibrationError("the poses are left-handed (mirrored); check the axis order of the tracker")


def _check_motion(rotations: FloatArray, positions: FloatArray) -> float:
    """The range of orientations in degrees, if it is enough to find the tip."""
    some = rotations[:: max(1, len(rotations) // 200)]
    # trace(A^T B) = 1 + 2 cos(angle)
    traces = np.einsum("aij,bij->ab", some, some)
    range_deg = float(np.degrees(np.arccos(np.clip((traces.min() - 1) / 2, -1, 1))))
    if range_deg < _LEAST_RANGE_DEG:
        if range_deg < 1 and np.ptp(positions, axis=0).max() < 1:
            raise CalibrationError("the tool stood still; keep its tip in the divot and turn it about the tip")
        raise CalibrationError(
            f"the tool turned through only {range_deg:.0f} deg; tilt it further, at least {_LEAST_RANGE_DEG:.0f} deg"
        )
    if _swing(rotations) < _LEAST_SWING:
        raise CalibrationError("the tool was turned about one axis only; tilt it in other directions as well")
    return range_deg


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


def _tip_uncertainty(rotations: FloatArray, rms_error_mm: float) -> float:
    """Standard deviation of the tip: the noise per axis through the normal equations, the pivot eliminated."""
    apart = rotations - rotations.mean(axis=0)
    information = np.einsum("nji,njk->ik", apart, apart)
    return float(rms_error_mm / np.sqrt(3) * np.sqrt(np.trace(np.linalg.inv(information))))
