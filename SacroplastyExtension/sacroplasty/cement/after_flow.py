"""What would still come out of the tip if the plunger halted now, from what the pump told so far."""

from __future__ import annotations

import math
from dataclasses import replace

from .aging import CementClock
from .delivery import DeliveryFacts
from .interlock import Observed
from .line import AfterFlow, InjectionLine
from .presets import PowerLawFluid
from .viscosity import ViscosityEstimate, ViscosityEstimator

#: How often the line is looked at while the plunger rests.
_REST_LOOK_S = 0.5


class AfterFlowWatch:
    """Follows flow and pressure of a pump through an injection.

    Attributes:
        viscosity: the last estimate; None before the first.
        after_flow_ml: that would still come out if the plunger halted now; NaN while it is not known.
    """

    def __init__(self) -> None:
        self.viscosity: ViscosityEstimate | None = None
        self.after_flow_ml = math.nan
        self._estimator: ViscosityEstimator | None = None

    def look(self, line: InjectionLine, told: DeliveryFacts, clock: CementClock, clock_s: float) -> None:
        """Take what was told last.

        Args:
            line: through which cement flows.
            clock_s: now on the time line of the cement's clock.
        """
        pressure, rate = told.pressure_kpa, told.rate_ml_s
        fluid = clock.fluid(clock_s)
        if pressure is None or rate is None or not math.isfinite(fluid.flow_index):
            self.after_flow_ml = math.nan
            return
        if self._estimator is None:
            self._estimator = ViscosityEstimator(line, fluid.flow_index)
        last_s = self.viscosity.time_s if self.viscosity is not None else -math.inf
        # At rest the line only relaxes, which needs no close look.
        if pressure.time_s - last_s > (0.0 if rate.value > 0 else _REST_LOOK_S):
            self._estimator.growth_per_s = clock.growth_per_s(clock_s)
            self.viscosity = self._estimator.update(pressure.time_s, pressure.value, max(0.0, rate.value))
            self.after_flow_ml = still_to_come_ml(line, self._estimator)

    @property
    def in_line_ml(self) -> float:
        """What the stretched line holds back of the plunger's volume; nothing as long as it is not known."""
        return self.after_flow_ml if math.isfinite(self.after_flow_ml) else 0.0

    def observed(self, now_s: float) -> Observed[float] | None:
        """The after-flow as a fact of now; None while it is not known."""
        return Observed(self.after_flow_ml, now_s) if math.isfinite(self.after_flow_ml) else None


def predict_after_flow(
    line: InjectionLine,
    estimator: ViscosityEstimator,
    estimate: ViscosityEstimate,
    expected: PowerLawFluid,
    relief_ml_s: float = 0.0,
    relieved_kpa: float = 0.0,
) -> AfterFlow | None:
    """The after-flow by the live viscosity estimate, which also knows how far the line stretches.

    Args:
        expected: the cement by its age, for as long as the estimate says nothing.
        relief_ml_s, relieved_kpa: as in `InjectionLine.after_flow`.

    Returns:
        None while pressure or cement are not known.
    """
    stretched, pressure_kpa = _line_now(line, estimator)
    # An uncertain estimate from this cement is still better than what the clock expects of any.
    useful = estimate.standard_deviation_pa_sn <= estimate.consistency_pa_sn
    fluid = PowerLawFluid(estimate.consistency_pa_sn, estimate.flow_index) if useful else expected
    if not (math.isfinite(pressure_kpa) and math.isfinite(fluid.consistency_pa_sn)):
        return None
    return stretched.after_flow(pressure_kpa, fluid, relief_ml_s=relief_ml_s, relieved_kpa=relieved_kpa)


def still_to_come_ml(line: InjectionLine, estimator: ViscosityEstimator) -> float:
    """All that comes out until the line is relaxed, however long that takes; NaN while nothing has flowed."""
    stretched, pressure_kpa = _line_now(line, estimator)
    return float(stretched.stored_ml(pressure_kpa))


def _line_now(line: InjectionLine, estimator: ViscosityEstimator) -> tuple[InjectionLine, float]:
    """The line with the compliance that the estimator has found, and the pressure in it in kPa; NaN when unknown."""
    pressure_kpa, share = estimator.line_now()
    if math.isnan(pressure_kpa):
        return line, math.nan
    return replace(line, compliance_ml_per_kpa=share * line.compliance_ml_per_kpa), pressure_kpa
