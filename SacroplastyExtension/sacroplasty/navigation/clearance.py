"""Clearance of the whole shaft of a trocar to everything it must not touch, quick enough for every pose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import SIDES
from ..anatomy.model import Anatomy
from ..geometry import FloatArray
from ..image import Volume
from ..planning.model import Side
from ..planning.pose_uncertainty import PoseUncertainty

#: Signed distances (n, structures) in mm of RAS points (n, 3) from all structures at once, negative inside.
DistancesOf = Callable[[FloatArray], NDArray]

#: Steps along the shaft; the true minimum is at most half a step smaller [mm].
_STEP_MM = 0.5
#: How far ahead of the tip the next structure is looked for [mm].
AHEAD_MM = 60.0
#: Of normally distributed errors in one direction, 95 % lie within this many standard deviations of zero.
ASSURED_SIGMAS = 1.96


@dataclass(frozen=True)
class StructureClearance:
    """How near a shaft's surface comes to one structure.

    Attributes:
        structure: its name.
        distance_mm: the smallest of the whole shaft; negative inside, minus infinity when the structure is unknown.
        from_tip_mm: how far behind the tip that is.
        assured_mm: the smallest that is left when the shaft is widened by the error of its place (95 % in any one
            direction); equal to `distance_mm` where no error was given.
        breach_probability: that the shaft touches the structure, 0 to 1, given that error and the distance fields.
    """

    structure: str
    distance_mm: float
    from_tip_mm: float
    assured_mm: float
    breach_probability: float


@dataclass(frozen=True)
class Ahead:
    """What the shaft runs into if it is pushed on as it points, and after how many mm."""

    structure: str
    distance_mm: float


@dataclass(frozen=True)
class ShaftAssessment:
    """A shaft against all structures.

    Attributes:
        structures: the one that is nearest with the error counted in first. Empty when nothing is known.
        ahead: None when nothing lies within `AHEAD_MM` ahead.
    """

    structures: tuple[StructureClearance, ...]
    ahead: Ahead | None

    @property
    def nearest(self) -> StructureClearance:
        """The first of `structures`; without any, an unknown one that is touched for sure."""
        return self.structures[0] if self.structures else _unknown("unknown")


class StackedFields:
    """Distance fields on one grid, stacked so that one look-up gives the distances from all of them.

    Linear between grid points; beyond the grid, that at its border.
    """

    def __init__(self, fields: Sequence[NDArray[np.float32]], RASToGrid: ArrayLike) -> None:
        """
        Args:
            fields: each (nx, ny, nz), mm.
            RASToGrid: affine 4x4 from RAS in mm to grid indices.
        """
        shape = fields[0].shape
        self._rows = np.empty((*shape, len(fields)), np.float32)
        for number, field in enumerate(fields):
            self._rows[..., number] = field
        self._rows = self._rows.reshape(-1, len(fields))
        self._last = np.array(shape) - 1
        self._strides = np.array([shape[1] * shape[2], shape[2], 1])
        # Of the eight grid points around a place, how far each lies from the first one, 0 or 1 along each axis.
        self._corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        matrix = np.asarray(RASToGrid, float)
        self._turn, self._shift = matrix[:3, :3].T, matrix[:3, 3]

    def __call__(self, points_ras: FloatArray) -> NDArray[np.float32]:
        """Distances (n, structures) of points (n, 3)."""
        index = np.clip(points_ras @ self._turn + self._shift, 0, self._last)
        low = np.minimum(index.astype(int), np.maximum(self._last - 1, 0))
        share = (index - low)[:, None, :]
        weights = np.where(self._corners, share, 1 - share).prod(axis=-1)
        # A grid of a single layer has no second grid point; its weight is zero.
        rows = np.minimum(low[:, None, :] + self._corners, self._last) @ self._strides
        return np.einsum("nc,ncs->ns", weights.astype(np.float32), self._rows[rows])


class ShaftClearance:
    """Distances from the protected structures of one patient: by the fields of the plan."""

    def __init__(self, names: Sequence[str], distances_of: DistancesOf, unknown: Iterable[str] = ()) -> None:
        """
        Args:
            names: of the structures.
            distances_of: their distances, in that order.
            unknown: structures that must be kept clear of but were not found; near them no shaft is safe.
        """
        self._names = tuple(names)
        self._distances_of = distances_of
        self._unknown = tuple(sorted(unknown))

    @staticmethod
    def of_anatomy(
        anatomy: Anatomy,
        progress: Callable[[float], None] = lambda fraction: None,
        ct: Volume | None = None,
        exact_labels: bool = False,
    ) -> ShaftClearance:
        """Canal, foramina, anterior cortex, sacroiliac joints and hips; takes a second or two.

        Args:
            ct: that the anatomy was found in; with it, bone that no label claims is kept clear of, and the sacrum ends
                with its cortex, as in planning.
            exact_labels: whether the labels are the patient, as in a simulation.

        Raises:
            PlanError: when the anatomy lacks what even a plan cannot do without.
        """
        from ..planning.sacrum_view import STEP_MM, view_along_foramina
        from ..planning.structures import Structures

        view = view_along_foramina(anatomy, ct=None if exact_labels else ct)
        progress(0.2)
        fields = Structures(anatomy, view, ct=ct, exact_labels=exact_labels)
        RASToGrid = view.RASToView.copy()
        RASToGrid[:3, 3] -= view.origin_mm
        RASToGrid[:3] /= STEP_MM
        stacked = StackedFields([field.values for field in fields.fields.values()], RASToGrid)
        progress(1.0)
        return ShaftClearance(tuple(fields.fields), stacked, fields.unknown)

    def distances_mm(
        self, tip_ras: ArrayLike, back_ras: ArrayLike, outer_diameter_mm: float, side: Side | None = None
    ) -> dict[str, float]:
        """Smallest distance of the shaft's surface, from its tip to its far end, to each structure.

        Args:
            side: where the trocar works; what is unknown on the other side does not count then.
        """
        assessment = self.assess(tip_ras, back_ras, outer_diameter_mm, side)
        return {found.structure: found.distance_mm for found in assessment.structures}

    def assess(
        self,
        tip_ras: ArrayLike,
        back_ras: ArrayLike,
        outer_diameter_mm: float,
        side: Side | None = None,
        uncertainty: PoseUncertainty | None = None,
    ) -> ShaftAssessment:
        """The whole shaft from its tip to its far end, and what lies ahead of it.

        The breach probability of a structure is, to first order, that of the error at the place of the shaft where it
        threatens most, in the direction of the structure there: P(n e > d) of the normal distribution with the
        variance n C n. Since a rigid error moves all of the shaft together, other places add little.

        Args:
            side: where the trocar works; what is unknown on the other side does not count then.
            uncertainty: of the trocar's place; None when only distances are asked for.
        """
        tip, back = np.asarray(tip_ras, float), np.asarray(back_ras, float)
        elsewhere = tuple(f"_{other}" for other in SIDES if side is not None and other != side)
        unknown = [_unknown(name) for name in self._unknown if not name.endswith(elsewhere)]
        if not (np.isfinite(tip).all() and np.isfinite(back).all() and np.isfinite(outer_diameter_mm)):
            return ShaftAssessment((*unknown, *map(_unknown, self._names)), None)
        if not self._names:
            return ShaftAssessment(tuple(unknown), None)
        length_mm = float(np.linalg.norm(back - tip))
        count = max(2, int(np.ceil(length_mm / _STEP_MM)) + 1)
        shaft = tip + np.linspace(0, 1, count)[:, None] * (back - tip)
        ahead = tip + np.arange(0, AHEAD_MM, _STEP_MM)[:, None] * (tip - back) / max(length_mm, 1e-9)
        distances = self._distances_of(np.concatenate([shaft, ahead])) - outer_diameter_mm / 2
        along = distances[:count]
        places = along.argmin(axis=0)
        found = [
            StructureClearance(name, float(along[place, number]), place / (count - 1) * length_mm, 0.0, 0.0)
            for number, (name, place) in enumerate(zip(self._names, places, strict=True))
        ]
        if uncertainty is None:
            found = [
                replace(one, assured_mm=one.distance_mm, breach_probability=float(one.distance_mm <= 0))
                for one in found
            ]
        else:
            found = self._with_error(found, shaft, along, uncertainty)
        ranked = sorted([*unknown, *found], key=lambda one: (one.assured_mm, one.distance_mm))
        return ShaftAssessment(tuple(ranked), self._ahead(distances[count:]))

    def _with_error(
        self,
        found: Sequence[StructureClearance],
        shaft: FloatArray,
        along: NDArray,
        uncertainty: PoseUncertainty,
    ) -> list[StructureClearance]:
        """The same with the error of the shaft's place counted in."""
        from scipy.special import ndtr

        covariances = uncertainty.covariance_at(shaft)
        widest = np.sqrt(np.maximum(np.linalg.eigvalsh(covariances)[:, -1], 1e-12))[:, None]
        assured = (along - ASSURED_SIGMAS * widest).min(axis=0)
        threatened = (along / widest).argmin(axis=0)
        numbers = np.arange(len(self._names))
        towards = self._directions(shaft[threatened], numbers)
        variance = np.einsum("si,sij,sj->s", towards, covariances[threatened], towards)
        sigmas = along[threatened, numbers] / np.sqrt(np.maximum(variance, 1e-12))
        probabilities = ndtr(-sigmas)
        return [
            replace(one, assured_mm=float(least), breach_probability=float(probability))
            for one, least, probability in zip(found, assured, probabilities, strict=True)
        ]

    def _directions(self, points_ras: FloatArray, numbers: NDArray[np.int64]) -> FloatArray:
        """Unit vectors (n, 3) in which the distance of each point from the structure of that number changes most."""
        steps = np.concatenate([np.eye(3), -np.eye(3)]) * _STEP_MM
        near = self._distances_of((points_ras + steps[:, None]).reshape(-1, 3)).reshape(6, len(points_ras), -1)
        slope = (near[:3] - near[3:])[:, np.arange(len(points_ras)), numbers].T.astype(float)
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        return slope / np.maximum(length, 1e-9)

    def _ahead(self, distances: NDArray) -> Ahead | None:
        """The first structure along the way that the shaft would touch."""
        touched = distances <= 0
        if not touched.any():
            return None
        step = int(touched.any(axis=1).argmax())
        return Ahead(self._names[int(distances[step].argmin())], step * _STEP_MM)


def _unknown(structure: str) -> StructureClearance:
    return StructureClearance(structure, float("-inf"), 0.0, float("-inf"), 1.0)
