"""Rigid registration of landmarks, and what it can promise at the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CalibrationError, PoorRegistrationError
from ..geometry import FloatArray, rigid, transform_points
from ..planning.pose_uncertainty import PoseUncertainty, small_motion
from .error_model import inverse_of_normal, isotropic_covariances, point_fit_uncertainty

#: Landmarks whose spread across their best line is less than this part of their whole do not fix the turn about it.
_LEAST_FLATNESS = 0.1
#: Landmarks closer together than this (root mean square from their centre) fix no direction [mm].
_LEAST_SPREAD_MM = 5.0
#: Sizes of the two sets that differ by more than this factor are in different units.
_LARGEST_SCALE = 1.25
#: An exchange of two landmarks that divides the residual by this is no accident.
_SWAP_GAIN = 3.0
#: With residuals this small both orders fit and nothing can be told from them [mm].
_SWAP_FLOOR_MM = 1.0
#: With more landmarks than this only exchanges of two are tried, not rings of three.
_MOST_FOR_RINGS = 10
#: Residuals larger than chance gives so rarely speak of a larger localisation error than stated.
_CONSISTENT = 0.95
#: The worst of all landmarks should be touched again when chance gives one as bad as rarely as this.
_REDO = 0.99
_MIRRORED = (
    "the touched points are a mirror image of the landmarks; check left and right, the tracker's axes, and that tool "
    "and reference are not exchanged"
)


@dataclass(frozen=True)
class PatientRegistration:
    """Where the patient lies in the CT.

    Attributes:
        MovingToFixed: rigid 4x4, from the frame of the touched points (the reference's) to RAS.
        uncertainty: of that pose, in RAS.
        warnings: plain sentences for the person.
    """

    MovingToFixed: FloatArray
    uncertainty: PoseUncertainty
    warnings: tuple[str, ...]

    def predicted_tre_mm(self, point_fixed: ArrayLike) -> float:
        """Expected error (root mean square) at a point (3,) of the CT, in mm: of the registration alone."""
        return float(self.uncertainty.rms_mm(point_fixed))


@dataclass(frozen=True)
class Registration(PatientRegistration):
    """How one set of landmarks lies on another.

    Attributes:
        names: of the landmarks.
        residuals_mm: (n,) distance of each after registration.
        leave_one_out_mm: (n,) distance of each when it had no part in the fit; NaN where the others fix no pose.
        rms_mm: root mean square of the residuals. It does not tell the error at the target.
        fle_mm: (n,) localisation error of each landmark (root mean square over three axes) behind `uncertainty`.
        error_scale: by how much the residuals raised the errors that were stated; 1 where they agree.
        redo: the landmark to touch again: farther from where the others put it than chance explains; None for none.
        fixed: (n, 3) the fixed landmarks.
    """

    names: tuple[str, ...]
    residuals_mm: FloatArray
    leave_one_out_mm: FloatArray
    rms_mm: float
    fle_mm: FloatArray
    error_scale: float
    redo: str | None
    fixed: FloatArray


def register_landmarks(
    moving: ArrayLike,
    fixed: ArrayLike,
    names: Sequence[str],
    *,
    fle_mm: ArrayLike = 0.5,
    largest_rms_mm: float = 3.0,
) -> Registration:
    """The rigid transform that brings `moving` onto `fixed` with the least (weighted) sum of squares.

    Landmarks weigh by the inverse of their error. With one error for all, or one for each, this is the closed form by
    singular values (Arun 1987); with covariances that differ by direction, Gauss-Newton steps from there.

    Args:
        moving: (n, 3) touched landmarks, mm.
        fixed: (n, 3) the same landmarks in the CT, RAS mm, in the same order.
        names: of the n landmarks, for messages.
        fle_mm: localisation error, of touching and of the landmark in the CT together: one root mean square distance
            for all, one for each (n,), or covariances (n, 3, 3) in mm2 in RAS. Residuals that are too large for it
            raise it.
        largest_rms_mm: residual beyond which the registration is refused.

    Raises:
        CalibrationError: for points that cannot be right, saying what is wrong and what to do.
        PoorRegistrationError: when they do not fit well enough, with the landmark to blame.
    """
    source, target = np.asarray(moving, float), np.asarray(fixed, float)
    names = tuple(names)
    _check_points(source, target, names)
    errors = _error_covariances(fle_mm, len(names))
    transform = _fit(source, target, errors)
    residuals = _distances(transform, source, target)
    rms = _rms(residuals)
    swap = _best_swap(source, target)
    mirrored_rms = _rms(_distances(closed_form_fit(source, target, mirrored=True), source, target))
    if rms > largest_rms_mm:
        raise _too_large(source, target, names, residuals, swap, mirrored_rms, largest_rms_mm)
    if rms > _SWAP_FLOOR_MM and swap[0] < rms / _SWAP_GAIN:
        raise CalibrationError(_exchanged(names, swap, rms))
    if rms > _SWAP_FLOOR_MM and mirrored_rms < rms / _SWAP_GAIN:
        raise CalibrationError(_MIRRORED)
    scale = _error_scale(transform_points(transform, source) - target, errors)
    left_out = _leave_one_out(source, target, errors)
    redo = _redo(left_out, target, errors, names)
    errors = errors * scale**2
    return Registration(
        MovingToFixed=transform,
        uncertainty=point_fit_uncertainty(target, errors, np.linalg.inv(errors)),
        warnings=_warnings(names, swap, mirrored_rms, largest_rms_mm),
        names=names,
        residuals_mm=residuals,
        leave_one_out_mm=np.linalg.norm(left_out, axis=1),
        rms_mm=rms,
        fle_mm=np.sqrt(np.trace(errors, axis1=1, axis2=2)),
        error_scale=scale,
        redo=redo,
        fixed=target,
    )


def _check_points(source: FloatArray, target: FloatArray, names: tuple[str, ...]) -> None:
    if source.shape != target.shape or source.ndim != 2 or source.shape[-1] != 3 or len(names) != len(source):
        raise CalibrationError(
            f"registration needs as many touched points as landmarks: {source.shape} against {target.shape}, "
            f"{len(names)} names"
        )
    for points, where in ((source, "touched point"), (target, "landmark in the CT")):
        missing = ~np.isfinite(points).all(axis=1)
        if missing.any():
            raise CalibrationError(f"the {where} {names[int(missing.argmax())]!r} is no number (NaN); touch it again")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CalibrationError(f"the landmark {repeated[0]!r} is there twice; keep one of them")
    if len(names) < 3:
        raise CalibrationError(f"{len(names)} landmarks cannot fix a pose; touch at least three, better five")
    for points, where in ((source, "touched points"), (target, "landmarks in the CT")):
        if _on_one_line(points):
            raise CalibrationError(f"the {where} lie on one line; add a landmark at its side")
    sizes = [_rms(np.linalg.norm(points - points.mean(axis=0), axis=1)) for points in (source, target)]
    scale = sizes[0] / sizes[1]
    if not 1 / _LARGEST_SCALE < scale < _LARGEST_SCALE:
        raise CalibrationError(
            f"the touched points spread {scale:.3g} times as far as the landmarks in the CT; {_unit_hint(scale)}"
        )
    if sizes[1] < _LEAST_SPREAD_MM:
        raise CalibrationError(f"the landmarks lie within {sizes[1]:.1f} mm of each other; choose them further apart")


def _unit_hint(scale: float) -> str:
    for factor, unit_name in ((1e-3, "metres"), (0.1, "centimetres"), (1 / 25.4, "inches")):
        if 1 / _LARGEST_SCALE < scale / factor < _LARGEST_SCALE:
            return f"they look like {unit_name}: give millimetres"
    return "is one of the sets in another unit than mm?" if not 0.2 < scale < 5 else "touch the landmarks again"


def _error_covariances(fle_mm: ArrayLike, count: int) -> FloatArray:
    """Covariances (n, 3, 3) of what was stated, whichever way."""
    stated = np.asarray(fle_mm, float)
    if stated.shape in ((), (count,)):
        stated = isotropic_covariances(np.broadcast_to(np.where(stated > 0, stated, np.nan), count))
    if stated.shape != (count, 3, 3) or not np.isfinite(stated).all() or not (np.linalg.eigvalsh(stated) > 0).all():
        raise CalibrationError(
            f"the localisation error is {np.asarray(fle_mm).tolist()} mm; give a positive figure, 0.5 mm for a sharp "
            f"tip, or one (or a covariance) for each of the {count} landmarks"
        )
    return stated


def _on_one_line(points: FloatArray) -> bool:
    spreads = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spreads[1] <= _LEAST_FLATNESS * np.linalg.norm(spreads))


def _fit(source: FloatArray, target: FloatArray, errors: FloatArray) -> FloatArray:
    """MovingToFixed that is most likely for these errors of the landmarks."""
    transform = closed_form_fit(source, target, 3 / np.trace(errors, axis1=1, axis2=2))
    precisions = np.linalg.inv(errors)
    if np.allclose(precisions, precisions[:, :1, :1] * np.eye(3), rtol=1e-9):
        return transform
    center = target.mean(axis=0)
    for _ in range(50):
        placed = transform_points(transform, source)
        weighted = np.swapaxes(small_motion(placed, center), 1, 2) @ precisions
        normal = np.sum(weighted @ small_motion(placed, center), axis=0)
        step = inverse_of_normal(normal) @ np.einsum("nij,nj->i", weighted, target - placed)
        transform = turned(transform, step, center)
        if np.abs(step).max() < 1e-12:
            break
    return transform


def turned(transform: FloatArray, step: FloatArray, center: FloatArray) -> FloatArray:
    """A transform followed by a small motion (t, w) about a centre, kept rigid."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(step[3:]).as_matrix()
    return rigid(rotation, center + step[:3] - rotation @ center) @ transform


def closed_form_fit(
    source: FloatArray, target: FloatArray, weights: FloatArray | None = None, mirrored: bool = False
) -> FloatArray:
    """MovingToFixed of least (weighted) squares, or the best mirror image (Arun 1987; handedness by Umeyama 1991)."""
    shares = np.full(len(source), 1 / len(source)) if weights is None else weights / weights.sum()
    source_center, target_center = shares @ source, shares @ target
    u, _, vt = np.linalg.svd((source - source_center).T * shares @ (target - target_center))
    handed = np.sign(np.linalg.det(u @ vt)) * (-1 if mirrored else 1)
    rotation = vt.T @ np.diag([1, 1, handed]) @ u.T
    return rigid(rotation, target_center - rotation @ source_center)


def _distances(transform: FloatArray, source: FloatArray, target: FloatArray) -> FloatArray:
    return np.linalg.norm(transform_points(transform, source) - target, axis=1)


def _rms(residuals: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(residuals))))


def _error_scale(residuals: FloatArray, errors: FloatArray) -> float:
    """Factor by which the stated errors are too small, 1 unless the residuals are larger than chance explains."""
    from scipy.stats import chi2

    squares = np.einsum("ni,nij,nj->", residuals, np.linalg.inv(errors), residuals)
    freedom = residuals.size - 6
    return float(np.sqrt(squares / freedom)) if squares > chi2.ppf(_CONSISTENT, freedom) else 1.0


def _best_swap(source: FloatArray, target: FloatArray) -> tuple[float, tuple[int, ...]]:
    """The exchange of two landmarks, or of three in a ring, that fits best: its residual and the landmarks' numbers."""
    numbers = range(len(source))
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((a, b), (b, a)) for a, b in combinations(numbers, 2)]
    for a, b, c in combinations(numbers, 3) if len(source) <= _MOST_FOR_RINGS else ():
        found += [((a, b, c), (b, c, a)), ((a, b, c), (c, a, b))]
    orders = np.tile(np.arange(len(source)), (len(found), 1))
    for order, (places, taken) in zip(orders, found, strict=True):
        order[list(places)] = taken
    residuals = residuals_of_orders(source, target, orders)
    best = int(residuals.argmin())
    return float(residuals[best]), found[best][0]


def residuals_of_orders(source: FloatArray, target: FloatArray, orders: NDArray[np.int_]) -> FloatArray:
    """Root mean square residual (m,) of the best fit of source[order] to target, for orders (m, n).

    The residual of the best rotation needs only the singular values of each cross-covariance (Arun 1987).
    """
    chosen = source[orders]
    apart = chosen - chosen.mean(axis=1, keepdims=True)
    target_apart = target - target.mean(axis=0)
    u, singular, vt = np.linalg.svd(np.einsum("pni,nj->pij", apart, target_apart))
    singular[:, 2] *= np.sign(np.linalg.det(u @ vt))
    squares = np.square(apart).sum(axis=(1, 2)) + np.square(target_apart).sum() - 2 * singular.sum(axis=1)
    return np.sqrt(np.maximum(squares, 0) / len(target))


def _too_large(
    source: FloatArray,
    target: FloatArray,
    names: tuple[str, ...],
    residuals: FloatArray,
    swap: tuple[float, tuple[int, ...]],
    mirrored_rms: float,
    limit: float,
) -> CalibrationError:
    """The refusal: what is wrong when it can be told, or the landmark that fits least."""
    rms, worst = _rms(residuals), int(residuals.argmax())
    if min(swap[0], mirrored_rms) < min(limit, rms / _SWAP_GAIN):
        if swap[0] <= mirrored_rms:
            return CalibrationError(_exchanged(names, swap, rms))
        return CalibrationError(_MIRRORED)
    if len(names) > 3:
        alone = []
        for number in range(len(names)):
            left_source, left_target = np.delete(source, number, 0), np.delete(target, number, 0)
            alone.append(_rms(_distances(closed_form_fit(left_source, left_target), left_source, left_target)))
        worst = int(np.argmin(alone)) if min(alone) < limit else worst
    return PoorRegistrationError(
        f"the landmarks fit to {rms:.1f} mm only (limit {limit:.1f} mm); touch {names[worst]!r} again, "
        f"it is {residuals[worst]:.1f} mm off"
    )


def _exchanged(names: tuple[str, ...], swap: tuple[float, tuple[int, ...]], rms: float) -> str:
    return (
        f"{_listed(names, swap[1])} look exchanged ({swap[0]:.1f} mm the other way, {rms:.1f} mm now); touch them again"
    )


def _leave_one_out(source: FloatArray, target: FloatArray, errors: FloatArray) -> FloatArray:
    """Where each landmark comes to lie by the fit to the others, less where it should (n, 3); NaN without a fit."""
    off = np.full(source.shape, np.nan)
    for number in range(len(source)):
        others = np.arange(len(source)) != number
        if others.sum() < 3 or _on_one_line(target[others]):
            continue
        transform = _fit(source[others], target[others], errors[others])
        off[number] = transform_points(transform, source[number]) - target[number]
    return off


def _redo(off: FloatArray, target: FloatArray, errors: FloatArray, names: tuple[str, ...]) -> str | None:
    """The landmark that lies farthest from where the others put it, against what the stated errors explain."""
    from scipy.stats import chi2

    surprise = np.zeros(len(names))
    for number in np.flatnonzero(np.isfinite(off).all(axis=1)):
        others = np.arange(len(names)) != number
        pose = point_fit_uncertainty(target[others], errors[others], np.linalg.inv(errors[others]))
        expected = pose.covariance_at(target[number]) + errors[number]
        surprise[number] = off[number] @ np.linalg.solve(expected, off[number])
    worst = int(surprise.argmax())
    return names[worst] if surprise[worst] > chi2.ppf(_REDO ** (1 / len(names)), 3) else None


def _warnings(
    names: tuple[str, ...], swap: tuple[float, tuple[int, ...]], mirrored_rms: float, limit: float
) -> tuple[str, ...]:
    warnings = []
    if len(names) == 3:
        warnings.append("Three landmarks leave no check: touch a fourth.")
    if swap[0] < limit:
        warnings.append(f"{_listed(names, swap[1])} could be exchanged unnoticed: confirm which is which.")
    # Landmarks of which left and right are mirror images in one plane turn by 180 degrees just as well.
    if mirrored_rms < limit:
        warnings.append("The landmarks lie nearly in one plane: a mirror image would go unnoticed. Check with a point.")
    return tuple(warnings)


def _listed(names: tuple[str, ...], places: tuple[int, ...]) -> str:
    quoted = [repr(names[place]) for place in places]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
