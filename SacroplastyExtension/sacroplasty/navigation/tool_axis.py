"""Spin calibration: the axis of a tool's shaft, from turning the tool about it; and the tip of a tool on its axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from ..geometry import FloatArray, angle_between_deg, unit
from .pose_checks import range_deg, valid_poses

_FEWEST_POSES = 30
#: A shaft that is turned less leaves its direction to the noise [deg].
_LEAST_TURN_DEG = 60.0
#: Beyond this the shaft tilted while it turned [deg].
_LARGEST_WOBBLE_DEG = 1.0
#: A tip farther from its axis than this was not on the stop, or the tool is bent [mm].
_LARGEST_OFF_AXIS_MM = 1.0


@dataclass(frozen=True)
class SpinCalibration:
    """The axis of a tool's shaft.

    Attributes:
        axis_in_tool: (3,) unit vector. Which end the tip is at, the spin does not tell.
        point_in_tool_mm: (3,) the point of the axis that is nearest to the tool's origin.
        wobble_deg: root mean square angle by which the axis moved in the reference's frame.
        axis_sd_deg: standard deviation of the direction, about each axis across, that this leaves.
        turned_deg: largest angle between two poses.
        ignored_poses: how many were missing.
    """

    axis_in_tool: FloatArray
    point_in_tool_mm: FloatArray
    wobble_deg: float
    axis_sd_deg: float
    turned_deg: float
    ignored_poses: int


def calibrate_spin(ToolToReference: ArrayLike) -> SpinCalibration:
    """Find the axis about which a tool was turned, as in a sleeve; it may slide along it.

    The axis a keeps its direction, so R a is the same in all poses: a is the eigenvector of least spread of R. The
    point c of the axis keeps its place across: P (R c + d) is the same, P the projection across the axis.

    Raises:
        CalibrationError: saying what was wrong with the motion, and what to do.
    """
    poses = np.asarray(ToolToReference, float)
    present = valid_poses(poses, "the tool")
    ignored = int(len(poses) - present.sum())
    poses = poses[present]
    if len(poses) < _FEWEST_POSES:
        raise CalibrationError(f"only {len(poses)} valid poses of the turning tool; record at least {_FEWEST_POSES}")
    turned = range_deg(poses)
    if turned < _LEAST_TURN_DEG:
        raise CalibrationError(
            f"the tool turned through only {turned:.0f} deg about its shaft; at least {_LEAST_TURN_DEG:.0f} are needed"
        )
    rotations, positions = poses[:, :3, :3], poses[:, :3, 3]
    apart = rotations - rotations.mean(axis=0)
    spread = np.einsum("nji,njk->ik", apart, apart) / len(rotations)
    values, vectors = np.linalg.eigh(spread)
    axis = vectors[:, 0]
    wobble = float(np.degrees(np.sqrt(max(values[0], 0.0))))
    if wobble > _LARGEST_WOBBLE_DEG:
        raise CalibrationError(
            f"the shaft tilted by {wobble:.1f} deg while it was turned (limit {_LARGEST_WOBBLE_DEG:g}); "
            "hold it in a sleeve and turn it about itself only"
        )
    direction = unit(rotations.mean(axis=0) @ axis)
    across = np.eye(3) - np.outer(direction, direction)
    # The mean over the poses leaves the place of the axis in the reference out of the equations.
    turn = across @ apart
    shift = (positions - positions.mean(axis=0)) @ across
    normal = np.einsum("nji,njk->ik", turn, turn)
    point = -np.linalg.pinv(normal, rcond=1e-3, hermitian=True) @ np.einsum("nji,nj->i", turn, shift)
    # Noise of the orientation through the same normal equations: it must be told apart from a turn about the axis.
    noise = np.radians(wobble) / np.sqrt(2)
    sd = float(np.degrees(noise / np.sqrt(len(poses) * values[1]))) if values[1] > 0 else float("inf")
    return SpinCalibration(
        axis_in_tool=axis,
        point_in_tool_mm=point - (point @ axis) * axis,
        wobble_deg=wobble,
        axis_sd_deg=sd,
        turned_deg=turned,
        ignored_poses=ignored,
    )


def tip_on_axis(spin: SpinCalibration, ToolToReference: ArrayLike, stop_in_reference_mm: ArrayLike) -> FloatArray:
    """The tip (3,) in the tool's frame of a tool that rests against a known point: a template's stop or a divot.

    For a tool that cannot be pivoted, such as a bevelled trocar: its axis comes from spinning it, and the stop gives
    the offset of the tip along the axis.

    Args:
        ToolToReference: poses (n, 4, 4) with the tip on the stop.
        stop_in_reference_mm: (3,), from a calibrated stylus or the template's drawing.

    Raises:
        CalibrationError: when the stop does not lie on the tool's axis.
    """
    poses = np.asarray(ToolToReference, float)
    poses = poses[valid_poses(poses, "the tool")]
    if not len(poses):
        raise CalibrationError("there is no valid pose of the tool at the stop; is it in view?")
    stop = np.asarray(stop_in_reference_mm, float)
    in_tool = np.median(np.einsum("nji,nj->ni", poses[:, :3, :3], stop - poses[:, :3, 3]), axis=0)
    offset = in_tool - spin.point_in_tool_mm
    along = float(offset @ spin.axis_in_tool)
    off_axis = float(np.linalg.norm(offset - along * spin.axis_in_tool))
    if off_axis > _LARGEST_OFF_AXIS_MM:
        raise CalibrationError(
            f"the stop lies {off_axis:.1f} mm off the tool's axis (limit {_LARGEST_OFF_AXIS_MM:g}): "
            "the tip is not on it, or the shaft is bent"
        )
    return spin.point_in_tool_mm + along * spin.axis_in_tool


def axis_towards(spin: SpinCalibration, tip_in_tool_mm: ArrayLike) -> FloatArray:
    """The axis (3,) in the direction in which the tip points: from the markers' side towards the tip.

    Raises:
        CalibrationError: when the tip lies off the axis, so that pivot and spin contradict each other.
    """
    offset = np.asarray(tip_in_tool_mm, float) - spin.point_in_tool_mm
    along = float(offset @ spin.axis_in_tool)
    axis = spin.axis_in_tool if along >= 0 else -spin.axis_in_tool
    off_axis = float(np.linalg.norm(offset - along * spin.axis_in_tool))
    if off_axis > max(_LARGEST_OFF_AXIS_MM, 3 * np.radians(spin.axis_sd_deg) * abs(along)):
        raise CalibrationError(
            f"the tip lies {off_axis:.1f} mm off the axis that spinning gave ({angle_between_deg(axis, offset):.1f} deg"
            "): the shaft is bent, or one of the two recordings is of another tool"
        )
    return axis
