"""What is asked of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import PlanError
from ..geometry import FloatArray
from .model import TECHNIQUES, Accuracy, Technique, VolumeOverride
from .needles import Needle, needle

#: Beyond this a margin is a number in another unit: no corridor of a sacrum is as wide [mm].
_LARGEST_MARGIN_MM = 30.0
_LARGEST_SD_MM, _LARGEST_SD_DEG = 10.0, 10.0
#: Volumes of the published technique: 3 to 8 mL in each ala, at most 12 mL in both.
SMALLEST_USUAL_ML, LARGEST_PER_ALA_ML, LARGEST_TOTAL_ML = 3.0, 8.0, 12.0
#: More than this nobody has injected into a sacrum [mL].
_ABSURD_ML = 40.0


@dataclass(frozen=True)
class BalloonSize:
    """A balloon as its maker describes it, filled [mm]."""

    length_mm: float
    diameter_mm: float


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of a plan; refuses what makes no sense.

    Attributes:
        margin_mm: least distance of the shaft's surface from every forbidden structure.
        preferred_margin_mm: from where more distance is not worth anything.
        accuracy: of navigation; its 95 % is kept clear on top of the margin. None adds nothing, and probabilities of
            a breach are those of an ordinary system (`Accuracy()`).
        overrides: limits of volume that a person changed, with the reason.
        balloon: cavity to be made before cement.
        biopsy_throw_mm: length of the sample to be taken along the axis before cement.
        view_is_feasible: whether a C-arm can look along a direction in RAS; None leaves that open.
    """

    technique: Technique = "short-axis"
    needle: Needle = field(default_factory=needle)
    margin_mm: float = 3.0
    preferred_margin_mm: float = 5.0
    accuracy: Accuracy | None = None
    overrides: tuple[VolumeOverride, ...] = ()
    balloon: BalloonSize | None = None
    biopsy_throw_mm: float | None = None
    view_is_feasible: Callable[[FloatArray], bool] | None = None

    def __post_init__(self) -> None:
        if self.technique not in TECHNIQUES:
            raise PlanError(f"technique {self.technique} cannot be planned here; choose {', '.join(TECHNIQUES)}")
        for name, value in (("margin", self.margin_mm), ("preferred margin", self.preferred_margin_mm)):
            if not 0 < value <= _LARGEST_MARGIN_MM:
                raise PlanError(
                    f"the {name} must be a distance above 0 and up to {_LARGEST_MARGIN_MM:g} mm, not {value}"
                )
        if self.preferred_margin_mm < self.margin_mm:
            raise PlanError(
                f"the preferred margin ({self.preferred_margin_mm:g} mm) must not be below the margin "
                f"({self.margin_mm:g} mm)"
            )
        self._check_accuracy()
        for override in self.overrides:
            if override.what not in ("ala", "total") or not 0 < override.limit_ml <= _ABSURD_ML:
                raise PlanError(
                    f"a limit of {override.limit_ml} mL ({override.what}) is impossible; give 0 to {_ABSURD_ML:g}"
                )
            if not override.reason.strip():
                raise PlanError(f"say why the limit of volume ({override.what}) is changed: the reason is recorded")
        if self.balloon is not None and not (5 <= self.balloon.length_mm <= 40 and 3 <= self.balloon.diameter_mm <= 30):
            raise PlanError("a balloon for bone is 5 to 40 mm long and 3 to 30 mm wide")
        if self.biopsy_throw_mm is not None and not 3 <= self.biopsy_throw_mm <= 40:
            raise PlanError(f"a biopsy of {self.biopsy_throw_mm} mm is impossible; give 3 to 40 mm")

    def _check_accuracy(self) -> None:
        if self.accuracy is None:
            return
        lengths = (self.accuracy.registration_sd_mm, self.accuracy.tool_sd_mm)
        angles = (self.accuracy.registration_sd_deg, self.accuracy.tool_sd_deg)
        if not all(0 <= value <= _LARGEST_SD_MM for value in lengths):
            raise PlanError(
                f"the system error must be a standard deviation of 0 to {_LARGEST_SD_MM:g} mm, not {lengths}"
            )
        if not all(0 <= value <= _LARGEST_SD_DEG for value in angles):
            raise PlanError(f"the system error must be a standard deviation of 0 to {_LARGEST_SD_DEG:g}°, not {angles}")

    @property
    def error_model(self) -> Accuracy:
        """The stated accuracy, or that of an ordinary system."""
        return self.accuracy or Accuracy()

    def limit_ml(self, sides: int) -> float:
        """Most cement for one side of so many, after what a person changed."""
        limits = {"ala": LARGEST_PER_ALA_ML, "total": LARGEST_TOTAL_ML}
        limits |= {override.what: override.limit_ml for override in self.overrides}
        return float(np.minimum(limits["ala"], limits["total"] / max(sides, 1)))
