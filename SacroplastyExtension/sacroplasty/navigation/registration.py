"""Rigid registration of landmarks, and what it can promise at the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import CalibrationError
from ..geometry import FloatArray, rigid, transform_points

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


@dataclass(frozen=True)
class Registration:
    """How one set of landmarks lies on another.

    Attributes:
        MovingToFixed: rigid 4x4.
        names: of the landmarks.
        residuals_mm: (n,) distance of each after registration.
        leave_one_out_mm: (n,) distance of each when it had no part in the fit; NaN where the others fix no pose.
        rms_mm: root mean square of the residuals. It does not tell the error at the target.
        fle_mm: localisation error of one landmark (root mean square over three axes) behind `predicted_tre_mm`.
        warnings: plain sentences for the person.
        fixed: (n, 3) the fixed landmarks.
    """

    MovingToFixed: FloatArray
    names: tuple[str, ...]
    residuals_mm: FloatArray
    leave_one_out_mm: FloatArray
    rms_mm: float
    fle_mm: float
    warnings: tuple[str, ...]
    fixed: FloatArray

    def predicted_tre_mm(self, point_fixed: ArrayLike) -> float:
        """Expected error (root mean square) at a point (3,) of the fixed frame, in mm.

        Fitzpatrick, West and Maurer 1998 (doi 10.1109/42.736021): TRE^2 = FLE^2 / N (1 + 1/3 sum d_k^2 / f_k^2) with
        d_k the point's and f_k the landmarks' root mean square distance from principal axis k.
        """
        center = self.fixed.mean(axis=0)
        _, _, axes = np.linalg.svd(self.fixed - center)
        along = (self.fixed - center) @ axes.T
        point = axes @ (np.asarray(point_fixed, float) - center)
        ratio = 0.0
        for first, second in ((1, 2), (2, 0), (0, 1)):
            spread = float(np.mean(along[:, first] ** 2 + along[:, second] ** 2))
            ratio += float(point[first] ** 2 + point[second] ** 2) / spread
        return float(self.fle_mm * np.sqrt((1 + ratio / 3) / len(self.fixed)))


def register_landmarks(
    moving: ArrayLike,
    fixed: ArrayLike,
    names: Sequence[str],
    *,
    fle_mm: float = 0.5,
    largest_rms_mm: float = 3.0,
) -> Registration:
    """The rigid transform that brings `moving` onto `fixed` with the least sum of squares (Arun 1987, by SVD).

    Args:
        moving: (n, 3) touched landmarks, mm.
        fixed: (n, 3) the same landmarks in the CT, RAS mm, in the same order.
        names: of the n landmarks, for messages.
        fle_mm: how well one landmark is found, at least. Residuals that speak of a larger error raise it.
        largest_rms_mm: residual beyond which the registration is refused.

    Raises:
        CalibrationError: with the landmark to blame and what to do.
    """
    source, target = np.asarray(moving, float), np.asarray(fixed, float)
    names = tuple(names)
    _check_points(source, target, names)
    if not (np.isfinite(fle_mm) and fle_mm > 0):
        raise CalibrationError(f"the localisation error is {fle_mm} mm; give a positive figure, 0.5 mm for a sharp tip")
    transform, residuals = _fit(source, target)
    rms = _rms(residuals)
    swap = _best_swap(source, target)
    if rms > largest_rms_mm:
        raise CalibrationError(_why_too_large(source, target, names, residuals, swap, largest_rms_mm))
    if rms > _SWAP_FLOOR_MM and swap[0] < rms / _SWAP_GAIN:
        raise CalibrationError(_exchanged(names, swap, rms))
    count = len(names)
    # FRE^2 = (1 - 2/N) FLE^2 (Sibson 1979; Fitzpatrick, West and Maurer 1998).
    observed_fle = rms / np.sqrt(1 - 2 / count)
    return Registration(
        MovingToFixed=transform,
        names=names,
        residuals_mm=residuals,
        leave_one_out_mm=_leave_one_out(source, target),
        rms_mm=rms,
        fle_mm=float(max(fle_mm, observed_fle)),
        warnings=_warnings(source, target, names, swap, largest_rms_mm),
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
    if len(names) < 3:
        raise CalibrationError(f"{len(names)} landmarks cannot fix a pose; touch at least three, better five")
    for points, where in ((source, "touched points"), (target, "landmarks in the CT")):
        if _on_one_line(points):
            raise CalibrationError(f"the {where} lie on one line; add a landmark at its side")
    sizes = [_rms(np.linalg.norm(points - points.mean(axis=0), axis=1)) for points in (source, target)]
    scale = sizes[0] / sizes[1]
    if not 1 / _LARGEST_SCALE < scale < _LARGEST_SCALE:
        hint = "is one of the sets in another unit than mm?" if not 0.2 < scale < 5 else "touch the landmarks again"
        raise CalibrationError(f"the touched points spread {scale:.3g} times as far as the landmarks in the CT; {hint}")
    if sizes[1] < _LEAST_SPREAD_MM:
        raise CalibrationError(f"the landmarks lie within {sizes[1]:.1f} mm of each other; choose them further apart")


def _on_one_line(points: FloatArray) -> bool:
    spreads = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spreads[1] <= _LEAST_FLATNESS * np.linalg.norm(spreads))


def _fit(source: FloatArray, target: FloatArray, mirrored: bool = False) -> tuple[FloatArray, FloatArray]:
    """Rigid MovingToFixed (or the best mirror image) and the residuals (n,)."""
    source_center, target_center = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((source - source_center).T @ (target - target_center))
    handed = np.sign(np.linalg.det(u @ vt)) * (-1 if mirrored else 1)
    rotation = vt.T @ np.diag([1, 1, handed]) @ u.T
    transform = rigid(rotation, target_center - rotation @ source_center)
    return transform, np.linalg.norm(transform_points(transform, source) - target, axis=1)


def _rms(residuals: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(residuals))))


def _best_swap(source: FloatArray, target: FloatArray) -> tuple[float, tuple[int, ...]]:
    """The exchange of two landmarks, or of three in a ring, that fits best: its residual and the landmarks' numbers."""
    numbers = range(len(source))
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((a, b), (b, a)) for a, b in combinations(numbers, 2)]
    for a, b, c in combinations(numbers, 3) if len(source) <= _MOST_FOR_RINGS else ():
        found += [((a, b, c), (b, c, a)), ((a, b, c), (c, a, b))]
    orders = np.tile(np.arange(len(source)), (len(found), 1))
    for order, (places, taken) in zip(orders, found, strict=True):
        order[list(places)] = taken
    apart, target_apart = source - source.mean(axis=0), target - target.mean(axis=0)
    # The residual of the best rotation needs only the singular values of each cross-covariance (Arun 1987).
    u, singular, vt = np.linalg.svd(np.einsum("pni,nj->pij", apart[orders], target_apart))
    singular[:, 2] *= np.sign(np.linalg.det(u @ vt))
    squares = np.square(apart).sum() + np.square(target_apart).sum() - 2 * singular.sum(axis=1)
    best = int(squares.argmin())
    return float(np.sqrt(max(squares[best], 0) / len(source))), found[best][0]


def _why_too_large(
    source: FloatArray,
    target: FloatArray,
    names: tuple[str, ...],
    residuals: FloatArray,
    swap: tuple[float, tuple[int, ...]],
    limit: float,
) -> str:
    rms, worst = _rms(residuals), int(residuals.argmax())
    mirrored_rms = _rms(_fit(source, target, mirrored=True)[1])
    if min(swap[0], mirrored_rms) < min(limit, rms / _SWAP_GAIN):
        if swap[0] <= mirrored_rms:
            return _exchanged(names, swap, rms)
        return "the touched points are a mirror image of the landmarks; check left and right, and the tracker's axes"
    if len(names) > 3:
        alone = [
            _rms(_fit(np.delete(source, number, 0), np.delete(target, number, 0))[1]) for number in range(len(names))
        ]
        worst = int(np.argmin(alone)) if min(alone) < limit else worst
    return (
        f"the landmarks fit to {rms:.1f} mm only (limit {limit:.1f} mm); touch {names[worst]!r} again, "
        f"it is {residuals[worst]:.1f} mm off"
    )


def _exchanged(names: tuple[str, ...], swap: tuple[float, tuple[int, ...]], rms: float) -> str:
    return (
        f"{_listed(names, swap[1])} look exchanged ({swap[0]:.1f} mm the other way, {rms:.1f} mm now); touch them again"
    )


def _leave_one_out(source: FloatArray, target: FloatArray) -> FloatArray:
    errors = np.full(len(source), np.nan)
    for number in range(len(source)):
        others_source, others_target = np.delete(source, number, 0), np.delete(target, number, 0)
        if len(others_source) < 3 or _on_one_line(others_target):
            continue
        transform, _ = _fit(others_source, others_target)
        errors[number] = np.linalg.norm(transform_points(transform, source[number]) - target[number])
    return errors


def _warnings(
    source: FloatArray, target: FloatArray, names: tuple[str, ...], swap: tuple[float, tuple[int, ...]], limit: float
) -> tuple[str, ...]:
    warnings = []
    if len(source) == 3:
        warnings.append("Three landmarks leave no check: touch a fourth.")
    if swap[0] < limit:
        warnings.append(f"{_listed(names, swap[1])} could be exchanged unnoticed: confirm which is which.")
    # Landmarks of which left and right are mirror images in one plane turn by 180 degrees just as well.
    if _rms(_fit(source, target, mirrored=True)[1]) < limit:
        warnings.append("The landmarks lie nearly in one plane: a mirror image would go unnoticed. Check with a point.")
    return tuple(warnings)


def _listed(names: tuple[str, ...], places: tuple[int, ...]) -> str:
    quoted = [repr(names[place]) for place in places]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
