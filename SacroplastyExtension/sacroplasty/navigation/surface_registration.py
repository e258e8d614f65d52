"""Registration of points swept over bone to the surface of the bone in the CT, alone or together with landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError, PoorRegistrationError
from ..geometry import FloatArray, check_rigid, invert_rigid, rigid, transform_points
from ..planning.pose_uncertainty import PoseUncertainty, small_motion
from .bone_surface import BoneSurface
from .error_model import inverse_of_normal
from .registration import PatientRegistration

#: Fewer points leave no check of the six unknowns.
_FEWEST_POINTS = 20
#: Starts are spread over this much about the first guess, each way: what landmarks or a rough alignment leave open.
_STARTS, _START_MM, _START_DEG = 24, 10.0, 12.0
_MOST_STEPS = 60
#: Tukey's biweight: 95 % efficiency for normal noise (Beaton and Tukey 1974).
_TUKEY = 4.685
#: Median absolute deviation to standard deviation of a normal distribution.
_MAD_TO_SD = 1.4826
#: More outliers than this are no outliers; as many as this are worth a word.
_LEAST_USED_FRACTION, _USUAL_USED_FRACTION = 0.6, 0.85
#: Two poses are told apart when the points speak for one of them by this much (likelihood ratio, chi-square units).
_DECISIVE = 20.0
#: Residuals so many times as large as stated are no fit.
_LARGEST_RMS_TIMES = 2.5
#: Size of what must be swept at least, and of a pelvis [mm].
_SMALLEST_SWEEP_MM, _LARGEST_SWEEP_MM = 20.0, 450.0
#: A point farther than this from all of the surface is off it, whatever the plane there says [mm].
_FAR_MM = 3.0
#: Of the variance of the CT's surface, the share by which it is off everywhere alike (too large or too small), and the
#: distance over which the rest errs alike [mm]. Calibrated on synthetic patients, checked on others.
_ALIKE_SHARE, _ALIKE_MM = 0.2, 5.0
#: Poses that differ by less than this at the target are the same.
_SAME_MM = 1.0


@dataclass(frozen=True)
class LandmarkPairs:
    """Touched landmarks that are fitted together with the surface.

    Attributes:
        moving: (n, 3) touched, in the reference's frame, mm.
        fixed: (n, 3) in the CT, RAS mm.
        fle_mm: (n,) error of each, root mean square over three axes.
    """

    moving: FloatArray
    fixed: FloatArray
    fle_mm: FloatArray


@dataclass(frozen=True)
class SurfaceRegistration(PatientRegistration):
    """How swept points lie on the surface of the bone.

    Attributes:
        residuals_mm: (n,) signed distance of each point from the surface, positive outside.
        used: (n,) which points were no outliers.
        rms_mm: root mean square residual of those used. It does not tell the error at the target.
        error_scale: by how much the residuals raised the errors that were stated; 1 where they agree.
        starts_agreeing: share of the starts that ended at this pose.
    """

    residuals_mm: FloatArray
    used: NDArray[np.bool_]
    rms_mm: float
    error_scale: float
    starts_agreeing: float


def register_surface(
    touched: ArrayLike,
    surface: BoneSurface,
    ReferenceToRAS: ArrayLike,
    targets_ras: ArrayLike,
    *,
    landmarks: LandmarkPairs | None = None,
    touch_error_mm: float = 0.5,
    largest_target_error_mm: float = 1.0,
) -> SurfaceRegistration:
    """The pose that lays swept points onto the bone: robust fits, point to plane (Chen and Medioni 1992), many starts.

    Args:
        touched: (n, 3) swept points in the reference's frame, mm.
        surface: of the bone in the CT.
        ReferenceToRAS: a first guess, good to about 10 mm and 10 degrees: from landmarks or from how the patient lies.
        targets_ras: (k, 3) where the error matters.
        landmarks: touched landmarks to be fitted together with the surface.
        touch_error_mm: of one swept point, root mean square over three axes.
        largest_target_error_mm: predicted error at a target beyond which the registration is refused.

    Raises:
        CalibrationError: for points that are none, too few or in another unit.
        PoorRegistrationError: when they do not fit, fit in several ways, or leave a motion too far open; saying what
            to touch in addition.
    """
    points = np.asarray(touched, float)
    targets = np.asarray(targets_ras, float).reshape(-1, 3)
    start = check_rigid(ReferenceToRAS, "the first guess of ReferenceToRAS")
    _check_touched(points)
    sd = _Errors(touch_error_mm / np.sqrt(3), surface.error_mm)
    starts = _starts_about(start, points)
    transforms, costs = _fit_all(starts, points, surface, landmarks, sd)
    best = int(np.argmin(costs))
    transform = transforms[best]
    residuals, normals = _linearised(transform, points, surface)
    scatter = float(np.clip(_robust_sd(residuals), sd.total, _LARGEST_RMS_TIMES * sd.total))
    used = np.abs(residuals) <= _TUKEY * scatter
    rms = float(np.sqrt(np.mean(np.square(residuals[used])))) if used.any() else float("inf")
    if used.mean() < _LEAST_USED_FRACTION or rms > _LARGEST_RMS_TIMES * sd.total:
        raise PoorRegistrationError(
            f"the swept points do not fit the bone: only {used.mean():.0%} of them, to {rms:.1f} mm; sweep bare bone, "
            "keep the tip in contact, and begin from a better guess (landmarks)"
        )
    scale = max(1.0, rms / sd.total)
    uncertainty = _uncertainty(transform, points[used], normals[used], landmarks, sd, scale)
    errors = uncertainty.rms_mm(targets)
    if not errors.max() <= largest_target_error_mm:
        raise PoorRegistrationError(
            f"the swept points leave the patient open {_open_motion(uncertainty, targets[int(errors.argmax())])}: "
            f"predicted error at the target {errors.max():.1f} mm (limit {largest_target_error_mm:g}); "
            "sweep other parts as well: iliac crests and posterior spines, the median crest, both sides"
        )
    apart = np.array([_apart_mm(transform, other, targets) for other in transforms])
    rivals = (costs - costs[best] <= _DECISIVE * scale**2) & (apart > _SAME_MM)
    if rivals.any():
        raise PoorRegistrationError(
            f"the swept points fit the bone in two ways that differ by {apart[rivals].max():.1f} mm at the target; "
            "sweep other parts as well: iliac crests and posterior spines, the median crest, both sides"
        )
    return SurfaceRegistration(
        MovingToFixed=transform,
        uncertainty=uncertainty,
        warnings=_warnings(used),
        residuals_mm=residuals,
        used=used,
        rms_mm=rms,
        error_scale=scale,
        starts_agreeing=float(np.mean(apart <= _SAME_MM)),
    )


def _warnings(used: NDArray[np.bool_]) -> tuple[str, ...]:
    if used.mean() >= _USUAL_USED_FRACTION:
        return ()
    return (f"{1 - used.mean():.0%} of the swept points lie off the bone and were left out: was the tip in contact?",)


@dataclass(frozen=True)
class _Errors:
    """Standard deviations along the normal [mm]: of one touch, by chance; of the surface in the CT, alike nearby."""

    touch_mm: float
    surface_mm: float

    @property
    def total(self) -> float:
        return float(np.hypot(self.touch_mm, self.surface_mm))


def _check_touched(points: FloatArray) -> None:
    if points.ndim != 2 or points.shape[-1] != 3 or len(points) < _FEWEST_POINTS:
        raise CalibrationError(
            f"{len(points)} swept points are too few for the surface; sweep at least {_FEWEST_POINTS}, better 100"
        )
    missing = ~np.isfinite(points).all(axis=1)
    if missing.any():
        raise CalibrationError(f"swept point {int(missing.argmax())} is no number (NaN); leave it out")
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    if size < _SMALLEST_SWEEP_MM:
        hint = "they look like metres: give millimetres" if 0.02 < size < 0.5 else "sweep a larger part of the bone"
        raise CalibrationError(f"the swept points lie within {size:.2g} mm; {hint}")
    if size > _LARGEST_SWEEP_MM:
        raise CalibrationError(f"the swept points spread over {size:.0f} mm, more than a pelvis; give millimetres")


def _starts_about(start: FloatArray, points: FloatArray) -> NDArray[np.float64]:
    """The first guess and poses all around it (s, 4, 4), the same ones each time."""
    from scipy.spatial.transform import Rotation
    from scipy.stats import qmc

    center = transform_points(start, points).mean(axis=0)
    spread = 2 * qmc.Halton(6, scramble=False).random(_STARTS)[1:] - 1
    poses = [start]
    for move in spread * ([_START_MM] * 3 + [np.radians(_START_DEG)] * 3):
        turn = Rotation.from_rotvec(move[3:]).as_matrix()
        poses.append(rigid(turn, center + move[:3] - turn @ center) @ start)
    return np.array(poses)


def _fit_all(
    starts: NDArray[np.float64],
    points: FloatArray,
    surface: BoneSurface,
    landmarks: LandmarkPairs | None,
    sd: _Errors,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each start ends (s, 4, 4), and its cost (s,): minus twice the log likelihood, outliers cut off."""
    from scipy.spatial.transform import Rotation

    transforms = starts.copy()
    center = transform_points(starts[0], points).mean(axis=0)
    for step_number in range(_MOST_STEPS):
        placed = np.einsum("sij,nj->sni", transforms[:, :3, :3], points) + transforms[:, None, :3, 3]
        nearest = surface.nearest(placed, slack=0.1)
        normals = surface.normals_ras[nearest]
        residuals = np.einsum("sni,sni->sn", placed - surface.points_ras[nearest], normals)
        rows = np.einsum("sni,snij->snj", normals, small_motion(placed, center))
        # From all points to those that agree: far off, every point still pulls.
        scatter = _MAD_TO_SD * np.median(np.abs(residuals), axis=1)
        cut = _TUKEY * np.maximum(scatter, sd.total)[:, None]
        weights = np.square(np.maximum(1 - np.square(residuals / cut), 0)) / sd.total**2
        normal = np.einsum("sni,sn,snj->sij", rows, weights, rows)
        right = -np.einsum("sni,sn->si", rows, weights * residuals)
        if landmarks is not None:
            pull_normal, pull_right = _landmark_pull(transforms, landmarks, center)
            normal, right = normal + pull_normal, right + pull_right
        damping = 1e-4 * np.einsum("sii->s", normal)[:, None] * np.array([1.0] * 3 + [50.0**2] * 3) / 6
        steps = np.linalg.solve(normal + damping[:, :, None] * np.eye(6), right[..., None])[..., 0]
        turns = Rotation.from_rotvec(steps[:, 3:]).as_matrix()
        moved = np.broadcast_to(np.eye(4), starts.shape).copy()
        moved[:, :3, :3] = turns
        moved[:, :3, 3] = center + steps[:, :3] - turns @ center
        transforms = moved @ transforms
        if step_number > 5 and np.abs(steps[:, :3]).max() < 1e-3 and np.abs(steps[:, 3:]).max() < 2e-5:
            break
    return transforms, _costs(transforms, points, surface, landmarks, sd)


def _landmark_pull(
    transforms: NDArray[np.float64], landmarks: LandmarkPairs, center: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What paired landmarks add to the normal equations of each start: (s, 6, 6) and (s, 6)."""
    placed = np.einsum("sij,nj->sni", transforms[:, :3, :3], landmarks.moving) + transforms[:, None, :3, 3]
    jacobians = small_motion(placed, center)
    weights = 3 / np.square(landmarks.fle_mm)
    normal = np.einsum("snki,n,snkj->sij", jacobians, weights, jacobians)
    return normal, np.einsum("snki,n,snk->si", jacobians, weights, landmarks.fixed - placed)


def _costs(
    transforms: NDArray[np.float64],
    points: FloatArray,
    surface: BoneSurface,
    landmarks: LandmarkPairs | None,
    sd: _Errors,
) -> NDArray[np.float64]:
    costs = np.zeros(len(transforms))
    for number, transform in enumerate(transforms):
        placed = transform_points(transform, points)
        distances = np.linalg.norm(placed - surface.points_ras[surface.nearest(placed)], axis=1)
        residuals, _ = _linearised(transform, points, surface)
        # A point beyond the edge of the bone may lie in the plane of its last piece, and still be off.
        off = np.where(distances > _FAR_MM, distances, np.abs(residuals)) / sd.total
        costs[number] = np.minimum(np.square(off), _TUKEY**2).sum()
        if landmarks is not None:
            misses = transform_points(transform, landmarks.moving) - landmarks.fixed
            costs[number] += np.sum(3 * np.square(misses) / np.square(landmarks.fle_mm)[:, None])
    return costs


def _linearised(
    transform: FloatArray, points: FloatArray, surface: BoneSurface
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signed distances (n,) from the surface, and its normals there (n, 3)."""
    placed = transform_points(transform, points)
    nearest = surface.nearest(placed)
    normals = surface.normals_ras[nearest]
    return np.einsum("ni,ni->n", placed - surface.points_ras[nearest], normals), normals


def _robust_sd(residuals: FloatArray) -> float:
    return float(_MAD_TO_SD * np.median(np.abs(residuals)))


def _uncertainty(
    transform: FloatArray,
    points: FloatArray,
    normals: FloatArray,
    landmarks: LandmarkPairs | None,
    sd: _Errors,
    scale: float,
) -> PoseUncertainty:
    """Of the pose: touches err by chance, the surface in the CT errs alike for points that lie close together.

    So many points on one patch average the touches and not the surface.
    """
    placed = transform_points(transform, points)
    center = placed.mean(axis=0)
    rows = np.einsum("ni,nij->nj", normals, small_motion(placed, center))
    apart = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    alike = _ALIKE_SHARE + (1 - _ALIKE_SHARE) * np.exp(-np.square(apart / _ALIKE_MM) / 2)
    noise = sd.surface_mm**2 * alike + sd.touch_mm**2 * np.eye(len(placed))
    weights = 1 / sd.total**2
    normal = weights * rows.T @ rows
    spread = weights**2 * rows.T @ noise @ rows
    if landmarks is not None:
        jacobians = small_motion(transform_points(transform, landmarks.moving), center)
        pull = np.einsum("nki,n,nkj->ij", jacobians, 3 / np.square(landmarks.fle_mm), jacobians)
        normal, spread = normal + pull, spread + pull
    inverse = inverse_of_normal(normal)
    covariance = inverse @ spread @ inverse * scale**2
    return PoseUncertainty(center, (covariance + covariance.T) / 2)


def _open_motion(uncertainty: PoseUncertainty, target: FloatArray) -> str:
    """The direction in which the target is least certain, in words."""
    values, vectors = np.linalg.eigh(uncertainty.covariance_at(target))
    axis = int(np.abs(vectors[:, -1]).argmax())
    return f"{('from side to side', 'from front to back', 'up and down')[axis]} ({np.sqrt(values[-1]):.1f} mm)"


def _apart_mm(first: FloatArray, second: FloatArray, targets: FloatArray) -> float:
    """Largest distance between where two poses put the targets."""
    back = invert_rigid(first)
    return float(np.linalg.norm(transform_points(second @ back, targets) - targets, axis=1).max())
