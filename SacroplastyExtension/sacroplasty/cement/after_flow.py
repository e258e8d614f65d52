"""What would still come out of the tip if the plunger halted now, from what the pump told so far."""

from __future__ import annotations

import math
from dataclasses import replace

from .line import AfterFlow, InjectionLine
from .presets import PowerLawFluid
from .viscosity import ViscosityEstimate, ViscosityEstimator


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
