"""Everything that planning on one CT computes once: the sacrum seen along its foramina, and distance fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.model import Anatomy
from ..errors import PlanError
from ..geometry import FloatArray, transform_points
from ..image import Volume
from .close_look import REACH_MM, SHAFT_STEP_MM, CloseLook, distances_mm
from .model import Side, Technique
from .needles import Needle
from .sacrum_view import SacrumView, view_along_foramina
from .structures import Structures


@dataclass(frozen=True)
class ShaftProfile:
    """What is near a shaft, from its tip backwards.

    Attributes:
        along_mm: (n,) distance from the tip.
        points_ras: (n, 3) on the axis.
        clearance_mm: (n,) of the shaft's surface from whichever structure is nearest there.
    """

    along_mm: FloatArray
    points_ras: FloatArray
    clearance_mm: FloatArray


class PlanningContext:
    """A CT with its anatomy, and what is derived from them when it is first asked for.

    Attributes:
        frame_of_reference: DICOM frame of reference UID of the CT, where it has one.
    """

    def __init__(
        self, ct: Volume, anatomy: Anatomy, frame_of_reference: str | None = None, exact_labels: bool = False
    ) -> None:
        """
        Args:
            exact_labels: whether the labels are the patient, as in a simulation; in a real one they never are.

        Raises:
            PlanError: when the anatomy was found in another CT.
        """
        if ct.content_hash() != anatomy.image_hash:
            raise PlanError("the anatomy belongs to another CT; segment this CT and plan again")
        self.ct, self.anatomy, self.frame_of_reference = ct, anatomy, frame_of_reference
        self._exact_labels = exact_labels
        self._views: dict[bool, SacrumView] = {}
        self._structures: dict[str | None, Structures] = {}

    def view(self, technique: Technique = "short-axis") -> SacrumView:
        """The sacrum along its foramina; wide enough for the ilia where the technique goes through one.

        Raises:
            PlanError: when the anatomy has no sacrum, or too few foramina.
        """
        wide = technique == "transiliac"
        if wide not in self._views:
            self._views[wide] = view_along_foramina(self.anatomy, wide, None if self._exact_labels else self.ct)
        return self._views[wide]

    def structures(self, technique: Technique = "short-axis", side: Side = "left") -> Structures:
        """What a trocar must keep clear of.

        Raises:
            PlanError: when neither canal nor foramina are known.
        """
        through = side if technique == "transiliac" else None
        if through not in self._structures:
            self._structures[through] = Structures(
                self.anatomy, self.view(technique), through, self.ct, self._exact_labels
            )
        return self._structures[through]

    def shaft_distances_mm(
        self, points_ras: FloatArray, side: Side, technique: Technique = "short-axis", reach_mm: float = REACH_MM
    ) -> dict[str, FloatArray]:
        """Distances (n,) of RAS points (n, 3) along an axis, 1 mm apart from the tip, from each structure.

        Args:
            reach_mm: up to which they are measured on the labels; what is farther is so by the fields.
        """
        structures = self.structures(technique, side)
        shaft = transform_points(structures.view.RASToView, points_ras)
        by_fields = {name: structures.distance_mm(name, shaft) for name in structures.names}
        return distances_mm(by_fields, CloseLook(structures).surfaces(shaft, by_fields, reach_mm))

    def clearance_mm(
        self, back_ras: ArrayLike, tip_ras: ArrayLike, needle: Needle, side: Side, technique: Technique = "short-axis"
    ) -> dict[str, float]:
        """What a shaft's surface keeps at least from each structure, nearest first; negative inside it.

        By the fields, quick enough to follow the mouse: `check_trajectory` measures closer. Structures that are not
        known on that side have minus infinity.
        """
        structures = self.structures(technique, side)
        points = transform_points(structures.view.RASToView, _points(back_ras, tip_ras)[1])
        found = {
            name: float(structures.distance_mm(name, points).min()) - needle.radius_mm for name in structures.names
        }
        found |= {name: float("-inf") for name in unknown_on(structures, side)}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def profile(
        self, back_ras: ArrayLike, tip_ras: ArrayLike, needle: Needle, side: Side, technique: Technique = "short-axis"
    ) -> ShaftProfile:
        """The clearance at each point of a shaft, to color it."""
        structures = self.structures(technique, side)
        along, points = _points(back_ras, tip_ras)
        values = structures.everything(side).at_view(transform_points(structures.view.RASToView, points)).astype(float)
        if unknown_on(structures, side):
            values = np.full(len(values), -np.inf)
        return ShaftProfile(along, points, values - needle.radius_mm)

    def distance_of(self, name: str, technique: Technique, side: Side) -> Callable[[FloatArray], NDArray]:
        """The distance of RAS points (n, 3) from one structure, as a function."""
        structures = self.structures(technique, side)
        RASToView = structures.view.RASToView
        return lambda points_ras: structures.distance_mm(name, transform_points(RASToView, points_ras))

    @cached_property
    def image_hash(self) -> str:
        return self.anatomy.image_hash


def unknown_on(structures: Structures, side: Side) -> tuple[str, ...]:
    """Needed structures of one side that are not known."""
    other = "_right" if side == "left" else "_left"
    return tuple(sorted(name for name in structures.unknown if not name.endswith(other)))


def _points(back_ras: ArrayLike, tip_ras: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Places along a shaft from its tip, and the points there.

    Raises:
        PlanError: for a line without a length.
    """
    back, tip = np.asarray(back_ras, float), np.asarray(tip_ras, float)
    length = float(np.linalg.norm(back - tip))
    if not (np.isfinite(length) and length > 1.0):
        raise PlanError("entry and target must be two points at least 1 mm apart")
    along = np.linspace(0, length, int(np.ceil(length / SHAFT_STEP_MM)) + 1)
    return along, tip + along[:, None] * ((back - tip) / length)
