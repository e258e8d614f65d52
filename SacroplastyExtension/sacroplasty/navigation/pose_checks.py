"""What can be wrong with tracked poses before anything is computed from them, each found and named."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError
from ..geometry import FloatArray

#: Axes of a unit cube that are off by more than this are no rotation: decimals and floats give less.
_ORTHONORMAL = 0.01
#: Two tools send under one name when so large a share of the poses jumps farther than this [mm] and back again. Where
#: they take turns at random it is a quarter; where two poses of five are wild it is a seventh.
_JUMP_MM, _THERE_AND_BACK = 20.0, 0.18
#: What moves before the camera turns by at least this much [deg], and at least so many times as far as what rests.
_TURNED_DEG, _TURNED_TIMES = 20.0, 2.0


def valid_poses(poses: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Which of the poses (n, 4, 4) are there: neither NaN nor the exact identity, which trackers send for "not seen".

    Raises:
        CalibrationError: when one of them is no rigid pose, or the name stands for two tools.
    """
    array = np.asarray(poses, float)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise CalibrationError(f"the poses of {name} must be of shape (n, 4, 4), not {array.shape}")
    present = np.isfinite(array).all(axis=(1, 2)) & (array != np.eye(4)).any(axis=(1, 2))
    if not present.any() and len(array) and (array == np.eye(4)).all(axis=(1, 2)).any():
        raise CalibrationError(
            f"every pose of {name} is the identity: the tracker never saw it, or its transform is not set"
        )
    numbers = np.flatnonzero(present)
    _check_rotations(array[present, :3, :3], numbers, name)
    _check_last_rows(array[present], numbers, name)
    _check_one_tool(array[present, :3, 3], name)
    return present


def _check_rotations(rotations: FloatArray, numbers: NDArray[np.int_], name: str) -> None:
    off = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) > _ORTHONORMAL
    if off.any():
        others = f", as are {int(off.sum()) - 1} others" if off.sum() > 1 else ""
        raise CalibrationError(
            f"pose {numbers[off][0]} of {name} is not rigid (its axes are not orthonormal){others}; "
            "check which transform was recorded"
        )
    mirrored = np.linalg.det(rotations) < 0
    if mirrored.any():
        raise CalibrationError(
            f"pose {numbers[mirrored][0]} of {name} is left-handed (mirrored); check the axis order of the tracker"
        )


def _check_last_rows(poses: FloatArray, numbers: NDArray[np.int_], name: str) -> None:
    off = np.abs(poses[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(axis=1) > 1e-6
    if off.any():
        raise CalibrationError(
            f"pose {numbers[off][0]} of {name} has the last row {poses[off][0, 3].tolist()}; it must be 0 0 0 1 "
            "(matrix transposed?)"
        )


def _check_one_tool(positions: FloatArray, name: str) -> None:
    """One tool moves steadily; two under one name jump between two places, back and forth."""
    if len(positions) < 10:
        return
    away = np.linalg.norm(positions[1:-1] - positions[:-2], axis=1)
    back = np.linalg.norm(positions[2:] - positions[:-2], axis=1)
    there_and_back = (away > _JUMP_MM) & (back < away / 3)
    if there_and_back.mean() >= _THERE_AND_BACK:
        raise CalibrationError(
            f"{name} jumps {np.median(away[there_and_back]):.0f} mm there and back from pose to pose: two tools send "
            "under one name; rename one of them in the tracker's configuration"
        )


def check_roles(ToolToTracker: ArrayLike, ReferenceToTracker: ArrayLike, tool: str, reference: str) -> None:
    """Refuse a recording in which the reference was turned while the tool rested.

    Raises:
        CalibrationError: when the two look exchanged.
    """
    turned = [range_deg(np.asarray(poses, float)) for poses in (ToolToTracker, ReferenceToTracker)]
    if turned[1] >= _TURNED_DEG and turned[1] >= _TURNED_TIMES * turned[0]:
        raise CalibrationError(
            f"{reference} turned through {turned[1]:.0f} deg before the camera and {tool} through {turned[0]:.0f} deg "
            "only: tool and reference look exchanged"
        )


def range_deg(poses: FloatArray) -> float:
    """Largest angle between two orientations of poses (n, 4, 4) or rotations (n, 3, 3); missing ones are left out."""
    rotations = poses[np.isfinite(poses).all(axis=(1, 2)), :3, :3]
    if not len(rotations):
        return 0.0
    some = rotations[:: max(1, len(rotations) // 200)]
    # trace(A^T B) = 1 + 2 cos(angle)
    traces = np.einsum("aij,bij->ab", some, some)
    return float(np.degrees(np.arccos(np.clip((traces.min() - 1) / 2, -1, 1))))


def check_times(time_s: ArrayLike) -> None:
    """Refuse times that run backwards; times that are not known (NaN) pass.

    Raises:
        CalibrationError: naming the frame.
    """
    times = np.asarray(time_s, float)
    known = np.flatnonzero(np.isfinite(times))
    steps = np.diff(times[known])
    if (steps < 0).any():
        first = int(np.argmax(steps < 0))
        raise CalibrationError(
            f"the times run backwards: frame {known[first + 1]} is {-steps[first]:.3g} s earlier than the frame before "
            "it; the recorder's clock was changed, or recordings were joined: record again"
        )
