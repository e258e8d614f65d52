"""What takes seconds to work out and is needed at once later: done before any device is connected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..anatomy.confirmation import blocking_reasons
from ..cement.cannula import planned_cannula
from ..cement.zones import Zones, make_zones
from ..errors import PlanError
from ..navigation.clearance import ShaftClearance
from ..planning.model import Side
from .case import Case


@dataclass(frozen=True)
class Preparation:
    """Distance fields for guidance, and around each target where cement belongs and what it is called elsewhere."""

    clearance: ShaftClearance
    zones: dict[Side, Zones]


def prepare(case: Case, progress: Callable[[float], None], exact_labels: bool = False) -> Preparation:
    """Work it out for the case's targets.

    Args:
        progress: called with 0 to 1.
        exact_labels: whether the labels are the patient, as in a simulation.

    Raises:
        AnatomyError, PlanError: when a structure that decides about safety was not segmented, or was found with a low
            confidence and nobody has confirmed it.
    """
    for side in case.targets:
        reasons = blocking_reasons(case.anatomy, side)
        if reasons:
            raise PlanError(f"the {side} must not be treated: {'; '.join(reasons)}")
    clearance = ShaftClearance.of_anatomy(case.anatomy, lambda done: progress(0.7 * done), case.ct, exact_labels)
    zones: dict[Side, Zones] = {}
    for number, (side, trajectory) in enumerate(case.targets.items(), start=1):
        zones[side] = make_zones(
            case.anatomy,
            trajectory.target,
            (side,),
            technique=trajectory.technique,
            cannula=planned_cannula(trajectory),
        )
        progress(0.7 + 0.3 * number / len(case.targets))
    return Preparation(clearance, zones)
