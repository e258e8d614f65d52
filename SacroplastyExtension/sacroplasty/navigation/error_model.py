"""What all errors of a navigated trocar together do at its tip and along its shaft, to first order.

Every source is a small rigid error with a covariance (`PoseUncertainty`); independent ones add up. No source is seen in
the residuals of a registration, which say how well the landmarks fit and nothing about the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from ..geometry import FloatArray, transform_points, unit
from ..planning.pose_uncertainty import PoseUncertainty, small_motion


def about(uncertainty: PoseUncertainty, center: ArrayLike) -> PoseUncertainty:
    """The same uncertainty, told about another point."""
    change = np.eye(6)
    change[:3] = small_motion(center, uncertainty.center_ras)
    covariance = change @ uncertainty.covariance @ change.T
    return PoseUncertainty(np.asarray(center, float), (covariance + covariance.T) / 2)


def combined(parts: Sequence[PoseUncertainty], center: ArrayLike) -> PoseUncertainty:
    """All of several independent errors together, about one point."""
    covariance = np.sum([about(part, center).covariance for part in parts], axis=0)
    return PoseUncertainty(np.asarray(center, float), np.asarray(covariance).reshape(6, 6))


def carried(uncertainty: PoseUncertainty, AToB: ArrayLike) -> PoseUncertainty:
    """An uncertainty told in frame A (of a tool, say) as one in frame B."""
    matrix = np.asarray(AToB, float)
    turn = np.kron(np.eye(2), matrix[:3, :3])
    covariance = turn @ uncertainty.covariance @ turn.T
    return PoseUncertainty(transform_points(matrix, uncertainty.center_ras), (covariance + covariance.T) / 2)


def translation_uncertainty(center: ArrayLike, covariance_mm2: ArrayLike) -> PoseUncertainty:
    """An error that moves everything alike, with covariance (3, 3)."""
    whole = np.zeros((6, 6))
    whole[:3, :3] = covariance_mm2
    return PoseUncertainty(np.asarray(center, float), whole)


def point_fit_uncertainty(
    points: ArrayLike, error_covariances: ArrayLike, weights: ArrayLike | None = None
) -> PoseUncertainty:
    """How far off a pose is that was fitted to points by weighted least squares.

    For errors alike in all directions and without weights this is the formula of Fitzpatrick, West and Maurer 1998
    (doi 10.1109/42.736021); with others the first-order propagation of Danilchenko and Fitzpatrick 2011
    (doi 10.1109/TMI.2010.2091513).

    Args:
        points: (n, 3) where they lie, mm.
        error_covariances: (n, 3, 3) of the error of each, mm2; in the frame of `points`.
        weights: (n, 3, 3) of the fit; None weighs all alike.

    Raises:
        CalibrationError: when the points do not fix a pose.
    """
    places, errors = np.asarray(points, float), np.asarray(error_covariances, float)
    matrices = np.broadcast_to(np.eye(3), errors.shape) if weights is None else np.asarray(weights, float)
    center = places.mean(axis=0)
    jacobians = small_motion(places, center)
    weighted = np.swapaxes(jacobians, 1, 2) @ matrices
    normal = np.sum(weighted @ jacobians, axis=0)
    inverse = inverse_of_normal(normal)
    spread = np.sum(weighted @ errors @ np.swapaxes(weighted, 1, 2), axis=0)
    covariance = inverse @ spread @ inverse
    return PoseUncertainty(center, (covariance + covariance.T) / 2)


def inverse_of_normal(normal: FloatArray) -> FloatArray:
    """Inverse (6, 6) of normal equations of (t, w), t in mm and w in radians.

    Raises:
        CalibrationError: when some motion is left open.
    """
    # A turn by 1/50 moves a point 50 mm away by 1 mm: so the condition compares lengths with lengths.
    scale = np.array([1.0] * 3 + [1 / 50] * 3)
    scaled = normal * scale * scale[:, None]
    values = np.linalg.eigvalsh(scaled)
    if not (np.isfinite(values).all() and values[0] > 1e-9 * values[-1]):
        raise CalibrationError("the points leave a motion of the patient open; add points away from the others")
    inverse: FloatArray = np.linalg.inv(scaled) * scale * scale[:, None]
    return inverse


def isotropic_covariances(rms_mm: ArrayLike) -> FloatArray:
    """Covariances (..., 3, 3) in mm2 of errors of this root mean square distance (...), alike in all directions."""
    return np.square(np.asarray(rms_mm, float))[..., None, None] / 3 * np.eye(3)


def marker_body_noise(markers_mm: ArrayLike, marker_noise_mm: float) -> PoseUncertainty:
    """Noise of the pose of a tracked body, in its own frame, from the noise of its markers.

    Four markers at the corners of a 50 mm square, each located to 0.2 mm, leave 0.66 mm at a tip 200 mm off their
    plane: the lever arm of the tool is often the largest term.

    Args:
        markers_mm: (n, 3) in the body's frame, at least three.
        marker_noise_mm: root mean square error of one marker over three axes.
    """
    markers = np.asarray(markers_mm, float)
    return point_fit_uncertainty(markers, isotropic_covariances(np.full(len(markers), marker_noise_mm)))


def pose_noise(position_sd_mm: float, angle_sd_deg: float) -> PoseUncertainty:
    """Noise of the pose of a tracked body as a tracker states it: per axis, about the origin of the body's frame."""
    return PoseUncertainty.isotropic(np.zeros(3), position_sd_mm, angle_sd_deg)


def axis_uncertainty(tip: ArrayLike, axis: ArrayLike, axis_sd_deg: float) -> PoseUncertainty:
    """An error of the direction of a shaft about its tip: this much about each of the two axes across."""
    direction = unit(axis)
    whole = np.zeros((6, 6))
    whole[3:, 3:] = np.radians(axis_sd_deg) ** 2 * (np.eye(3) - np.outer(direction, direction))
    return PoseUncertainty(np.asarray(tip, float), whole)


def voxel_uncertainty(center: ArrayLike, IJKToRAS: ArrayLike) -> PoseUncertainty:
    """What the CT itself leaves open: a place anywhere in its voxel (uniform, so a variance of 1/12 of the square)."""
    edges = np.asarray(IJKToRAS, float)[:3, :3]
    return translation_uncertainty(center, edges @ edges.T / 12)


@dataclass(frozen=True)
class ErrorBudget:
    """The error of a navigated trocar by source.

    Attributes:
        tip_ras: (3,) where the figures are told for, mm.
        axis_ras: (3,) unit vector, ahead out of the tip.
        parts: by source, in words.
    """

    tip_ras: FloatArray
    axis_ras: FloatArray
    parts: Mapping[str, PoseUncertainty]

    @property
    def total(self) -> PoseUncertainty:
        """All sources together, about the tip. `rms_mm` and `covariance_at` give it along the shaft."""
        return combined(list(self.parts.values()), self.tip_ras)

    def rms_mm(self) -> dict[str, float]:
        """Root mean square error at the tip, by source, the largest first."""
        errors = {name: float(part.rms_mm(self.tip_ras)) for name, part in self.parts.items()}
        return dict(sorted(errors.items(), key=lambda item: -item[1]))

    def angle_rms_deg(self) -> float:
        """Root mean square error of the shaft's direction."""
        turn = self.total.covariance[3:, 3:]
        # A turn about the shaft itself does not change its direction.
        return float(np.degrees(np.sqrt(max(np.trace(turn) - self.axis_ras @ turn @ self.axis_ras, 0.0))))


def error_budget(
    TrocarToRAS: ArrayLike,
    tip_in_trocar_mm: ArrayLike,
    axis_in_trocar: ArrayLike,
    *,
    registration: PoseUncertainty,
    calibration: PoseUncertainty,
    trocar_noise: PoseUncertainty,
    reference_noise: PoseUncertainty,
    ReferenceToRAS: ArrayLike,
    IJKToRAS: ArrayLike,
) -> ErrorBudget:
    """Everything that shows a trocar elsewhere than it is.

    Args:
        TrocarToRAS: pose of the trocar's tracked body, 4x4.
        tip_in_trocar_mm, axis_in_trocar: tip and direction of the shaft (ahead, out of the tip) in that body's frame.
        registration: of the patient, in RAS.
        calibration: of tip and axis, in the body's frame (`ToolCalibration.uncertainty`).
        trocar_noise, reference_noise: of the tracked bodies, each in its own frame.
        IJKToRAS: of the CT.
    """
    pose = np.asarray(TrocarToRAS, float)
    tip = transform_points(pose, tip_in_trocar_mm)
    return ErrorBudget(
        tip_ras=tip,
        axis_ras=unit(pose[:3, :3] @ np.asarray(axis_in_trocar, float)),
        parts={
            "registration": registration,
            "tracking of the trocar": carried(trocar_noise, pose),
            "tracking of the reference": carried(reference_noise, ReferenceToRAS),
            "calibration of the trocar": carried(calibration, pose),
            "voxels of the CT": voxel_uncertainty(tip, IJKToRAS),
        },
    )


@dataclass(frozen=True)
class Ellipsoid:
    """Where a point is with a given probability.

    Attributes:
        axes: (3, 3), unit vectors in columns, the longest first, right-handed.
        radii_mm: (3,).
    """

    axes: FloatArray
    radii_mm: FloatArray


def ellipsoid(covariance_mm2: ArrayLike, probability: float = 0.95) -> Ellipsoid:
    """The ellipsoid that holds a normally distributed point of this covariance (3, 3) with the given probability."""
    from scipy.stats import chi2

    values, vectors = np.linalg.eigh(np.asarray(covariance_mm2, float))
    axes = vectors[:, ::-1].copy()
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    return Ellipsoid(axes, np.sqrt(chi2.ppf(probability, 3) * np.maximum(values[::-1], 0)))


def shaft_margin_mm(
    uncertainty: PoseUncertainty, points_ras: ArrayLike, axis_ras: ArrayLike, probability: float = 0.95
) -> FloatArray:
    """By how much the shaft must be widened at points (n, 3) of it so that it holds the true one there.

    The longer half axis (n,) of the ellipse across the shaft, with the given probability at each point.
    """
    from scipy.stats import chi2

    direction = unit(axis_ras)
    across = np.eye(3) - np.outer(direction, direction)
    covariances = across @ uncertainty.covariance_at(points_ras) @ across
    return np.sqrt(chi2.ppf(probability, 2) * np.maximum(np.linalg.eigvalsh(covariances)[..., -1], 0))
